"""The plan of the CUDA kernels: what it chooses for which device and shape, that it fits, and how it is printed."""

from __future__ import annotations

import re
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gru_fused
from gru_fused import _ops
from gru_fused.explain import DEVICES

SIZES = (1, 7, 64, 128, 129, 130, 192, 256, 500, 512, 1024, 2048, 4096)
BATCHES = (1, 16, 64, 128, 1000)
ARITHMETIC = ("float32", "float64", "tf32", "bfloat16", "float16")


def plan(device: str, arithmetic: str, batch: int, hidden: int, backward: bool = False, both: bool = False) -> str:
    sms, kilobytes = DEVICES[device]
    return _ops.cuda_plan(int(device[3:]), sms, kilobytes * 1024, arithmetic, batch, hidden, both, backward)


def regime(text: str) -> str:
    return re.search(r"\): (row|block|cluster|grid|single|steps),", text)[1]


def numbers(text: str) -> dict[str, int]:
    """What a plan says of its cut."""
    patterns = {
        "teams": r"(\d+) teams? of",
        "at_once": r"(\d+) at once",
        "ctas": r"teams? of (\d+) CTAs?",
        "threads": r"x (\d+) threads",
        "rows": r"(\d+) rows a team",
        "units": r"(\d+) units a CTA",
        "registers": r"(\d+) registers a thread",
        "weights": r"and (\d+) bytes of \d+ of shared",
        "shared": r"bytes of (\d+) of shared",
    }
    found = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    return {name: int(match[1]) for name, match in found.items() if match}


@pytest.mark.parametrize(
    ("device", "arithmetic", "batch", "hidden", "expected"),
    [
        ("sm_90", "bfloat16", 1, 64, "row"),
        ("sm_90", "bfloat16", 16, 128, "row"),
        ("sm_90", "tf32", 16, 128, "row"),
        ("sm_90", "bfloat16", 16, 129, "cluster"),
        ("sm_90", "bfloat16", 1000, 64, "block"),  # eight rows share what a tensor core does
        ("sm_90", "float64", 16, 64, "cluster"),  # twice the registers
        ("sm_90", "bfloat16", 16, 256, "cluster"),
        ("sm_90", "bfloat16", 64, 256, "cluster"),
        ("sm_90", "tf32", 16, 256, "cluster"),
        ("sm_90", "bfloat16", 16, 1024, "grid"),
        ("sm_90", "bfloat16", 1, 2048, "grid"),
        ("sm_100", "bfloat16", 16, 256, "cluster"),
        ("sm_80", "bfloat16", 16, 256, "grid"),
        ("sm_80", "float32", 1, 64, "row"),
        ("sm_86", "float16", 16, 512, "grid"),
        ("sm_89", "float32", 16, 64, "row"),
        ("sm_120", "bfloat16", 16, 256, "cluster"),
        ("sm_90", "bfloat16", 1000, 1024, "steps"),  # W_hh is used by so many rows that it needn't be held still
        ("sm_90", "bfloat16", 1, 4096, "steps"),  # 100 MB of W_hh: the device can't hold it
        ("sm_90", "float32", 128, 2048, "steps"),
        ("sm_75", "float32", 1, 64, "steps"),
    ],
)
def test_the_regime_of(device: str, arithmetic: str, batch: int, hidden: int, expected: str) -> None:
    assert regime(plan(device, arithmetic, batch, hidden)) == expected


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize("device", DEVICES)
def test_a_plan_fits_its_device(device: str, arithmetic: str) -> None:
    sms, kilobytes = DEVICES[device]
    for batch, hidden, backward, both in product(BATCHES, SIZES, (False, True), (False, True)):
        text = plan(device, arithmetic, batch, hidden, backward, both)
        assert "not measured" in text
        if regime(text) == "steps":
            continue
        cut = numbers(text)
        assert cut["threads"] <= (512 if regime(text) == "row" else 256) and cut["threads"] % 32 == 0, text
        assert cut["registers"] <= 144, text
        assert cut["shared"] <= kilobytes * 1024, text
        assert cut["units"] * cut["ctas"] >= hidden > cut["units"] * (cut["ctas"] - 1), text
        rows = cut["rows"] * cut["teams"] // (2 if both else 1)
        assert rows >= batch > rows - cut["rows"], text
        if regime(text) in ("row", "block"):
            assert cut["ctas"] == 1, text
        if regime(text) == "row":
            assert cut["rows"] == 1, text
        if regime(text) == "cluster":
            assert 2 <= cut["ctas"] <= {"sm_90": 16, "sm_100": 16, "sm_120": 8}[device], text
        if regime(text) == "grid":  # all of a launch resident at once, a CTA for each SM
            assert cut["ctas"] * cut.get("at_once", cut["teams"]) <= sms, text


@given(
    device=st.sampled_from(sorted(DEVICES)),
    arithmetic=st.sampled_from(ARITHMETIC),
    batch=st.integers(0, 5000),
    hidden=st.integers(1, 9000),
    backward=st.booleans(),
    both=st.booleans(),
    steps=st.sampled_from((0, 1, 2, 1000)),
)
def test_any_shape_has_a_plan(
    device: str, arithmetic: str, batch: int, hidden: int, backward: bool, both: bool, steps: int
) -> None:
    sms, kilobytes = DEVICES[device]
    arguments = int(device[3:]), sms, kilobytes * 1024, arithmetic, batch, hidden, both, backward, False, steps
    text = _ops.cuda_plan(*arguments)
    assert text == _ops.cuda_plan(*arguments)
    assert regime(text) in ("row", "block", "cluster", "grid", "steps", *(["single"] if steps == 1 else []))


@pytest.mark.parametrize("backward, most", [(False, 150), (True, 60)], ids=["forward", "backward"])
def test_a_step_of_few_rows_is_single(backward: bool, most: int) -> None:
    """Of 512 units; one of more steps never is, nor one of a variant."""
    for batch, expected in ((1, "single"), (most // 2, "single"), (2 * most, "steps"), (2000, "steps")):
        arguments = 90, 132, 227 * 1024, "float32", batch, 512, False, backward
        assert (regime(_ops.cuda_plan(*arguments, False, 1)) == "single") == (expected == "single"), batch
        assert regime(_ops.cuda_plan(*arguments, False, 2)) != "single"
        assert regime(_ops.cuda_plan(*arguments, True, 1)) != "single"


def test_a_step_alone_does_not_pay_for_loading_the_weights_often() -> None:
    """1024 rows of one step would be two waves of teams, each of which loads W_hh."""
    arguments = 90, 132, 227 * 1024, "float32", 1024, 256, False, False, False
    assert regime(_ops.cuda_plan(*arguments, 0)) == regime(_ops.cuda_plan(*arguments, 1000)) == "grid"
    assert regime(_ops.cuda_plan(*arguments, 1)) == "steps"
    gru = gru_fused.GRU(8, 256)
    assert "steps" in gru_fused.explain(gru, (1, 1024, 8), tf32=False)
    assert "grid" in gru_fused.explain(gru, (1000, 1024, 8), tf32=False)


@pytest.mark.parametrize("arithmetic, hidden", [("tf32", 1024), ("bfloat16", 2048)])
def test_teams_that_a_device_has_no_room_for_come_after_the_others(arithmetic: str, hidden: int) -> None:
    cut = numbers(plan("sm_90", arithmetic, 64, hidden))
    assert cut["at_once"] < cut["teams"]
    assert cut["at_once"] * cut["ctas"] <= DEVICES["sm_90"][0] < (cut["at_once"] + 1) * cut["ctas"]


def test_every_weight_is_held_once() -> None:
    """Registers and shared memory of a team hold W_hh, its rows and columns rounded up to whole fragments."""
    for hidden in (64, 130, 256, 512, 1024):
        text = plan("sm_90", "bfloat16", 8, hidden)
        cut = numbers(text)
        held = cut["ctas"] * (cut["registers"] * cut["threads"] * 4 + cut["weights"])
        padded = (hidden + 15) // 16 * 16
        assert 3 * padded * padded * 2 <= held <= 2 * 3 * padded * padded * 2, text


def test_explain_has_a_line_for_each_pass() -> None:
    gru = gru_fused.GRU(64, 256, bidirectional=True, batch_first=True, dtype=torch.float16)
    forward, backward = gru_fused.explain(gru, (16, 100, 64), device="sm_90").splitlines()
    assert forward.startswith("forward on sm_90 (132 SMs), B=16, H=256, directions=2, float16")
    assert backward.startswith("backward on sm_90 (132 SMs), B=16, H=256, directions=2, float16")


@pytest.mark.parametrize(("tf32", "words"), [(True, "TF32 tensor cores"), (False, "float32 (FMA)")])
def test_explain_says_whether_float32_is_rounded(tf32: bool, words: str) -> None:
    assert words in gru_fused.explain(gru_fused.GRU(3, 300), (5, 2, 3), tf32=tf32)


def test_explain_knows_the_options() -> None:
    """Variants hold fewer fragments in registers; two products a step go step by step."""
    shape = (100, 16, 64)
    plain = gru_fused.GRU(64, 512, dtype=torch.bfloat16)
    with_resets = gru_fused.explain(plain, shape, variant=True)
    assert with_resets != gru_fused.explain(plain, shape)
    assert gru_fused.explain(gru_fused.GRU(64, 512, dtype=torch.bfloat16, zoneout=0.1), shape) == with_resets
    forward, backward = gru_fused.explain(gru_fused.GRU(64, 512, reset_after=False), shape).splitlines()
    assert forward.startswith("forward with reset_after=False: step by step")
    assert backward.startswith("backward with reset_after=False: step by step")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"input_shape": (5, 2, 4)}, r"input_shape: expected \(T, B, 3\).*got \(5, 2, 4\)"),
        ({"input_shape": (3,)}, "input_shape"),
        ({"device": "sm_42"}, "device: .*sm_42"),
        ({"device": "cpu"}, "device: expected a CUDA device or one of sm_75"),
        ({"dtype": torch.int8}, "dtype: expected float32.*int8"),
    ],
)
def test_explain_names_a_bad_argument(arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        gru_fused.explain(gru_fused.GRU(3, 4), **{"input_shape": (5, 2, 3), **arguments})
