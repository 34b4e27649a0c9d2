"""Results of the cell's variants from the CUDA kernels, emulated: the reference's, as near as its own arithmetic is."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import REGIMES, EmulatedOps
from helpers import LOW_DTYPES, Results, assert_as_good_as, assert_equal_to_rounding, dtype_id, pooled
from test_cuda_results import tf32_recurrence
from test_cuda_schedules import SCHEDULES
from torch import Tensor
from variants import Variant, enumerated, ops_results, reference_results

from gru_fused import _ops, reference_variants

pytestmark = pytest.mark.usefixtures("poisoned")

ALL = {"lengths": True, "reset": True, "learned": True, "update": "units", "dropout": True}
PACKED = {**ALL, "lengths": False, "sizes": (5, 5, 3, 1)}
ALONE = [
    Variant(H=7),
    Variant(H=7, bias=False, reverse=True),
    Variant(B=9, H=17, lengths=True, D=2),
    Variant(B=9, H=7, reset=True, D=2),
    Variant(B=5, H=7, reset=True, learned=True, D=2),
    Variant(H=7, update="rows"),
    Variant(H=7, update="units"),
    Variant(B=5, H=7, dropout=True, D=2),
    *(Variant(H=7, gate=gate) for gate in ("hard_sigmoid", "hard_sigmoid_fifth")),
    *(Variant(H=7, candidate=candidate) for candidate in ("relu", "softsign")),
]
# One CTA and many, one split and many, one tile of rows and many, the last ones partly filled.
TOGETHER = [
    Variant(T=1, B=1, I=1, H=1, **ALL),
    Variant(T=6, B=9, I=3, H=7, D=2, gate="hard_sigmoid", candidate="softsign", **ALL),
    Variant(T=5, B=17, I=4, H=33, reverse=True, **ALL),
    Variant(T=4, B=2, I=3, H=130, bias=False, **{**ALL, "update": "rows"}),
    Variant(T=4, B=5, I=3, H=96, D=2, **{**ALL, "learned": False}),
    Variant(I=3, H=33, D=2, **PACKED),
    Variant(I=3, H=33, reverse=True, **PACKED),
]
OTHERS = [
    variant
    for recurrence in ("reset_before", "norm_recurrent", "norm_sum")
    for variant in (
        Variant(H=7, recurrence=recurrence),
        Variant(T=1, B=1, I=1, H=1, recurrence=recurrence, **ALL),
        Variant(B=9, H=7, D=2, recurrence=recurrence, candidate="softsign", gate="hard_sigmoid_fifth", **ALL),
        Variant(T=4, B=3, H=100, reverse=True, recurrence=recurrence, **ALL),  # more numbers a row than threads
        Variant(H=7, D=2, recurrence=recurrence, bias=recurrence.startswith("norm"), **PACKED),
    )
]


@pytest.fixture(params=[regime for regime in REGIMES if regime != "row"])  # a row alone has no variants
def regime(request: pytest.FixtureRequest, emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", request.param)
    return request.param


def compared(variant: Variant) -> tuple[Results, Results]:
    arguments, cotangents = variant.arguments(), variant.cotangents()
    return ops_results(arguments, cotangents), reference_results(arguments, cotangents)


@pytest.mark.parametrize("variant", [*ALONE, *TOGETHER], ids=str)
def test_float64_is_the_references(variant: Variant, regime: str) -> None:
    assert_equal_to_rounding(*compared(variant), eps=1e-12)


@pytest.mark.parametrize("variant", OTHERS, ids=str)
def test_float64_step_by_step(variant: Variant, emulated: EmulatedOps) -> None:
    assert_equal_to_rounding(*compared(variant), eps=1e-12)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("variant", TOGETHER[1:], ids=str)
def test_as_good_as_the_reference(variant: Variant, dtype: torch.dtype, regime: str) -> None:
    assert_as_good(variant, dtype)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("variant", [one for one in OTHERS if one.H > 1], ids=str)
def test_as_good_as_the_reference_step_by_step(variant: Variant, dtype: torch.dtype, emulated: EmulatedOps) -> None:
    assert_as_good(variant, dtype)


def assert_as_good(variant: Variant, dtype: torch.dtype, draws: int = 4) -> None:
    ours, theirs, truth = [], [], []
    for _ in range(draws):
        arguments, cotangents = variant.arguments(dtype), variant.cotangents(dtype)
        ours.append(ops_results(arguments, cotangents))
        theirs.append(reference_results(arguments, cotangents, dtype))
        truth.append(reference_results(arguments, cotangents))
    assert_as_good_as(pooled(ours), pooled(theirs), pooled(truth))


@pytest.mark.parametrize("variant", [one for one in TOGETHER[1:] if one.sizes is None], ids=str)
@pytest.mark.parametrize("regime", ["block", "cluster", "packets", "flags"], indirect=True)
def test_tf32_is_as_good_as_a_recurrence_with_rounded_operands(
    variant: Variant, regime: str, tf32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, truth = [], [], []
    for _ in range(4):
        arguments, cotangents = variant.arguments(torch.float32), variant.cotangents(torch.float32)
        ours.append(ops_results(arguments, cotangents))
        truth.append(reference_results(arguments, cotangents))
        with monkeypatch.context() as patched:
            patched.setattr(reference_variants, "F", SimpleNamespace(linear=tf32_recurrence, pad=F.pad))
            theirs.append(reference_results(arguments, cotangents, torch.float32))
    assert_as_good_as(pooled(ours), pooled(theirs), pooled(truth))


RESETS = Variant(T=5, B=3, H=40, D=2, **ALL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
# An even I: where the emulation's host has AMX, torch.mm of bfloat16 pairs a row's odd last number with the first of
# the next row times zero, and so spreads the NaN that stand past a length.
@pytest.mark.parametrize("variant", [Variant(T=5, B=9, I=4, H=40, D=2, **ALL), Variant(H=96, **PACKED)], ids=str)
def test_results_do_not_depend_on_the_schedule(
    variant: Variant, dtype: torch.dtype, regime: str, emulated: EmulatedOps
) -> None:
    arguments, cotangents = variant.arguments(dtype), variant.cotangents(dtype)
    first = None
    for order, seed in SCHEDULES[:5]:
        for late in (True, False) if order == "fifo" else (True,):
            emulated.schedule(order, seed, late)
            results = ops_results(arguments, cotangents)
            first = first or results
            assert_same_bits(results, first)


def assert_same_bits(ours: Results, expected: Results) -> None:
    assert list(ours) == list(expected)
    for name, y in ours.items():
        assert torch.equal(y, expected[name]), name


@pytest.mark.parametrize("every", [False, True], ids=["never", "at every step"])
def test_resets_need_no_launch_of_their_own(every: bool, regime: str, emulated: EmulatedOps) -> None:
    arguments, cotangents = RESETS.arguments(), RESETS.cotangents()
    arguments["reset"] = torch.full_like(arguments["reset"], every)
    before = emulated.stats.launches
    ours = ops_results(arguments, cotangents)
    if regime != "steps":  # two loops; the factors of W_hh and the biases' sums of each direction; the copy of x
        assert emulated.stats.launches - before == 2 + 2 * 2 + 1
    assert_equal_to_rounding(ours, reference_results(arguments, cotangents), eps=1e-12)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
def test_without_an_update_the_state_stays_exactly(dtype: torch.dtype, regime: str) -> None:
    variant = Variant(H=40, D=2, update="rows")
    arguments = variant.arguments(dtype)
    arguments["update"].zero_()
    results = ops_results(arguments, variant.cotangents(dtype))
    hx = arguments["hx"]
    assert torch.equal(results["h_n"], hx)
    assert torch.equal(results["output"], torch.cat(list(hx), -1).expand(variant.T, -1, -1))


@pytest.mark.parametrize("lengths", [(0, 0, 0), (-1, 7, 3), (5, 0, 1)], ids=str)
def test_lengths_of_nothing_and_beyond(lengths: tuple[int, ...], regime: str) -> None:
    arguments, cotangents = RESETS.arguments(), RESETS.cotangents()
    arguments["lengths"] = torch.tensor(lengths)
    arguments["x"] = arguments["x"].nan_to_num()
    assert_equal_to_rounding(ops_results(arguments, cotangents), reference_results(arguments, cotangents), eps=1e-12)


@pytest.mark.parametrize("recurrence", reference_variants.RECURRENCES)
def test_what_stands_past_a_length_never_counts(recurrence: str, regime: str) -> None:
    variant = replace(RESETS, recurrence=recurrence)
    arguments, (grad_output, grad_h_n) = variant.arguments(), variant.cotangents()
    expected = ops_results(arguments, (grad_output, grad_h_n))
    over = torch.arange(variant.T)[:, None] >= arguments["lengths"]
    arguments["update"] = arguments["update"].masked_fill(over[..., None], torch.nan)
    arguments["reset"] = arguments["reset"] | over
    results = ops_results(arguments, (grad_output.masked_fill(over[..., None], torch.nan), grad_h_n))
    assert_same_bits(results, expected)
    assert (results["output"][over] == 0).all() and (results["grad x"][over] == 0).all()


@pytest.mark.parametrize("recurrence", reference_variants.RECURRENCES)
def test_arguments_may_have_any_strides(recurrence: str, regime: str) -> None:
    variant = replace(RESETS, recurrence=recurrence)
    arguments, cotangents = variant.arguments(), variant.cotangents()
    expected = ops_results(arguments, cotangents)

    def strided(y: Tensor) -> Tensor:
        return y.mT.contiguous().mT if y.dim() > 1 else torch.stack([y, y], 1)[:, 0]

    given = {name: strided(y) if isinstance(y, Tensor) else y for name, y in arguments.items()}
    given["weights"] = [strided(weight) for weight in arguments["weights"]]
    assert_equal_to_rounding(ops_results(given, tuple(map(strided, cotangents))), expected)


@pytest.mark.parametrize("recurrence", reference_variants.RECURRENCES)
def test_nothing_is_saved_without_need(recurrence: str, regime: str) -> None:
    arguments = replace(RESETS, recurrence=recurrence).arguments()
    x = arguments["x"]
    output, h_n, *saved = _ops.variant(*enumerated(arguments).values(), True, _ops.tf32(x))
    again, h_n_again, *nothing = _ops.variant(*enumerated(arguments).values(), False, _ops.tf32(x))
    assert torch.equal(output, again) and torch.equal(h_n, h_n_again)
    assert all(y.numel() == 0 for y in nothing)
    assert not any(y.isnan().any() for y in saved)


@pytest.mark.parametrize("recurrence", reference_variants.RECURRENCES)
def test_only_the_wanted_gradients(recurrence: str, regime: str) -> None:
    variant = replace(RESETS, recurrence=recurrence)
    arguments, cotangents = variant.arguments(), variant.cotangents()
    x, hx, weights, bias, batch_sizes, *rest = enumerated(arguments).values()
    output, _, gates, normal, scale = _ops.variant(*enumerated(arguments).values(), True, False)

    def gradients(*needs: bool) -> list[Tensor]:
        given = x, hx, output, gates, normal, scale, weights, bias, batch_sizes
        return _ops.variant_backward(None, cotangents[1], *given, *rest, *needs, False)

    of_hx, of_x, *of_weights, of_update, of_reset_state = gradients(True, True, True, True)
    for needs, expected in (
        ((False, False, False, False), [of_hx]),
        ((True, False, False, False), [of_hx, of_x]),
        ((False, True, False, False), [of_hx, *of_weights]),
        ((False, False, True, False), [of_hx, of_update]),
        ((False, False, False, True), [of_hx, of_reset_state]),
    ):
        found = gradients(*needs)
        assert len(found) == len(expected)
        assert all(map(torch.equal, found, expected)), needs


@pytest.mark.parametrize("recurrence", reference_variants.RECURRENCES)
def test_an_empty_batch(recurrence: str, emulated: EmulatedOps) -> None:
    variant = Variant(B=0, H=5, recurrence=recurrence, reset=True, learned=True, update="units", dropout=True)
    assert_equal_to_rounding(*compared(variant))
