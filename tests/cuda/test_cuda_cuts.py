"""The cuts that are timed on a GPU are the plan's own: what the plan chooses is one of them, and cut as it says."""

from __future__ import annotations

import re
from itertools import product

import pytest

from benchmarks.gpu.cuts import GROUP, LARGEST_CLUSTER, SHARED_BYTES, SMS, WARP, Cut, cuts_of
from gru_fused import _ops

ARITHMETIC = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16"}
SIZES = list(product((1, 5, 16, 32, 64, 128), (1, 64, 100, 128, 130, 192, 256, 512, 1024, 2048)))


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", ARITHMETIC)
def test_what_the_plan_chooses_is_one_of_the_cuts(dtype: str, backward: bool) -> None:
    regimes, launches = set(), set()
    for B, H in SIZES:
        text = _ops.cuda_plan(90, SMS, SHARED_BYTES, ARITHMETIC[dtype], B, H, False, backward)
        if "): steps" in text:
            continue
        cut = cut_in(text, dtype, B, H, backward)
        regimes.add(cut.regime)
        assert cut in cuts_of(dtype, B, H, backward), text
        assert f"{cut.teams} team" in text, text
        assert (f", {cut.at_once} at once," if cut.launches > 1 else " threads, ") in text, text
        launches.add(cut.launches)
        assert f"x {cut.warps * WARP} threads" in text and f", {cut.splits} warps a group" in text, text
        assert f"bytes of {cut.shared_bytes} of shared memory" in text, text
    assert {"row", "cluster", "flags"} <= regimes
    assert len(launches) > 1


def cut_in(text: str, dtype: str, B: int, H: int, backward: bool) -> Cut:
    regime = re.search(r"\): (\w+),", text)[1]
    if regime == "grid":
        regime = "packets" if "by packets" in text else "flags"
    units = int(re.search(r"(\d+) units a CTA", text)[1])
    if regime == "row":
        return Cut(dtype, B, H, backward, regime, units // GROUP, 1)
    rows = int(re.search(r"(\d+) rows a team", text)[1])
    cut = Cut(dtype, B, H, backward, regime, units // GROUP, 1)
    return Cut(dtype, B, H, backward, regime, units // GROUP, rows // cut.traits.rows)


def test_a_cut_that_does_not_fit_is_none() -> None:
    for B, H in SIZES:
        for cut in cuts_of("fp32", B, H, backward=True):
            assert cut.shared_bytes <= SHARED_BYTES
            assert cut.ctas <= LARGEST_CLUSTER or cut.regime in ("packets", "flags")
            assert cut.ctas * cut.groups * GROUP >= H > (cut.ctas - 1) * cut.groups * GROUP


def test_parts_are_those_of_all_waves() -> None:
    one, many = (Cut("bf16", B, 256, False, "cluster", 2, 1).parts() for B in (8, 8 * 16))
    assert one["cluster.forward"] == 1 and many["cluster.forward"] == 2  # 15 clusters of 8 fit at once
    one, many = (Cut("tf32", B, 1024, False, "flags", 1, 2).parts() for B in (32, 33))
    assert one["flags.forward"] == 1 and many["flags.forward"] == 2  # and 2 teams of 64 CTAs
