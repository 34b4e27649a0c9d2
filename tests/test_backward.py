"""Gradients of input, hx and parameters: the reference's in float64, in every dtype as near to them as nn.GRU's."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    AWKWARD,
    LOW_DTYPES,
    OPTIONS,
    PACKED,
    Case,
    ReferenceGRU,
    assert_as_good_as,
    assert_equal_to_reference,
    assert_equal_to_rounding,
    assert_gru_as_good,
    assert_right_without_inputs,
    data_of,
    dtype_id,
    leaf,
    pooled,
    run,
    twin,
)
from layouts import LAYOUTS, Layout
from torch import Tensor, nn

import gru_fused
from gru_fused import functional, reference

pytestmark = pytest.mark.usefixtures("poisoned")

SMALL = Case(T=5, B=3, I=4, H=7, layers=2, bidirectional=True)


@pytest.mark.parametrize("case", [*AWKWARD, *OPTIONS, *PACKED], ids=str)
def test_gradients_are_the_references(case: Case) -> None:
    assert_equal_to_reference(case)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", [*AWKWARD, *PACKED], ids=str)
def test_gradients_are_as_good_as_nn_grus(case: Case, dtype: torch.dtype) -> None:
    assert_gru_as_good(case, dtype, gradients=True)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_gradients_at_tiny_and_saturating_values(scale: float, dtype: torch.dtype) -> None:
    assert_gru_as_good(Case(T=4, B=5, I=9, H=21, bias=False), dtype, gradients=True, scale=scale)


@pytest.mark.parametrize("used", ["output", "h_n"])
@pytest.mark.parametrize("case", [SMALL, PACKED[3], Case(B=None), Case(T=1, B=1, I=1, H=1)], ids=str)
def test_only_one_result_used(case: Case, used: str) -> None:
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    output, h_n = case.cotangents()
    cotangents = (output, None) if used == "output" else (None, h_n)
    truth = run(twin(ours, ReferenceGRU), x, hx, cotangents)
    assert_equal_to_rounding(run(ours, x, hx, cotangents), truth, eps=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("argument", ["input", "hx", "cotangent of output", "cotangent of h_n"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
def test_strides_do_not_matter(batch_first: bool, argument: str, layout: Layout) -> None:
    case = Case(T=5, B=3, I=4, H=7, layers=2, bidirectional=True, batch_first=batch_first)
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    output, h_n = case.cotangents()
    given = {"input": x, "hx": hx, "cotangent of output": output, "cotangent of h_n": h_n}
    given[argument] = layout(given[argument])
    x, hx, *cotangents = given.values()
    truth = run(twin(ours, ReferenceGRU), x.contiguous(), hx.contiguous(), [c.contiguous() for c in cotangents])
    before = given[argument].clone()
    assert_equal_to_rounding(run(ours, x, hx, cotangents), truth, eps=1e-12)
    assert torch.equal(given[argument], before), "an argument was written to"


def test_cotangents_of_a_sum() -> None:
    ours = SMALL.module(gru_fused.GRU)
    theirs = twin(ours, nn.GRU)
    x, hx = SMALL.inputs()

    def gradients(rnn: nn.Module) -> tuple[Tensor, ...]:
        leaves = [leaf(x), leaf(hx)]
        output, h_n = rnn(*leaves)
        return torch.autograd.grad(output.sum() + 3 * h_n.mean(), [*leaves, *rnn.parameters()])

    torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", [SMALL, PACKED[3]], ids=str)
def test_gradient_of_hx_is_the_same_for_zeros_and_none(case: Case) -> None:
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    given, absent = run(ours, x, torch.zeros_like(hx), cotangents), run(ours, x, None, cotangents)
    del given["grad of hx"]
    assert_equal_to_rounding(absent, given)


def test_no_gradient_for_an_empty_batch_but_zeros() -> None:
    case = Case(B=0, layers=2, bidirectional=True)
    ours = case.module(gru_fused.GRU)
    results = run(ours, *case.inputs(), case.cotangents())
    for name, parameter in ours.named_parameters():
        assert torch.equal(results[f"grad of {name}"], torch.zeros_like(parameter))


def test_gradients_accumulate() -> None:
    ours = SMALL.module(gru_fused.GRU)
    x, hx = SMALL.inputs()
    cotangents = SMALL.cotangents()
    once = run(ours, x, hx, cotangents)
    for _ in range(2):
        torch.autograd.backward(list(ours(x, hx)), list(cotangents))
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[f"grad of {name}"])


def test_backward_twice_through_a_kept_graph() -> None:
    ours = SMALL.module(gru_fused.GRU)
    x, hx = SMALL.inputs()
    output, h_n = ours(leaf(x), leaf(hx))
    parameters = list(ours.parameters())
    cotangents = list(SMALL.cotangents())
    first = torch.autograd.grad([output, h_n], parameters, cotangents, retain_graph=True)
    second = torch.autograd.grad([output, h_n], parameters, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad([output, h_n], parameters, cotangents)


def test_cotangents_are_not_written_to() -> None:
    ours = SMALL.module(gru_fused.GRU)
    x, hx = SMALL.inputs()
    cotangents = SMALL.cotangents()
    before = [c.clone() for c in cotangents]
    run(ours, x, hx, cotangents)
    assert all(torch.equal(a, b) for a, b in zip(cotangents, before, strict=True))


@pytest.mark.parametrize("changed", ["input", "weight_hh_l0", "output"])
def test_changing_a_saved_tensor_in_place_is_refused(changed: str) -> None:
    ours = Case().module(gru_fused.GRU)
    x, hx = Case().inputs()
    data = leaf(x) * 1
    output, h_n = ours(data, hx)
    loss = output.square().sum() + h_n.sum() if changed == "output" else output.sum() + h_n.sum()
    with torch.no_grad():
        {"input": data, "weight_hh_l0": ours.weight_hh_l0, "output": output}[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    "batch, input_size, hidden_size", [(0, 3, 4), (1, 1, 1), (3, 1, 7), (17, 5, 130), (None, 3, 7)]
)
def test_cell_gradients_are_as_good_as_nn_grucells(
    batch: int | None, input_size: int, hidden_size: int, dtype: torch.dtype, bias: bool
) -> None:
    rows = () if batch is None else (batch,)

    def gradients(cls: type[nn.Module], in_dtype: torch.dtype, seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        cell = cls(input_size, hidden_size, bias=bias, dtype=dtype).to(in_dtype)
        x, hx, cotangent = (
            torch.randn(*rows, n, dtype=dtype).to(in_dtype) for n in (input_size, hidden_size, hidden_size)
        )
        wanted = {"input": leaf(x), "hx": leaf(hx), **dict(cell.named_parameters())}
        h = cell(wanted["input"], wanted["hx"])
        found = torch.autograd.grad(h, list(wanted.values()), cotangent)
        return {"h": h.detach(), **{f"grad of {name}": g for name, g in zip(wanted, found, strict=True)}}

    def all_draws(cls: type[nn.Module], in_dtype: torch.dtype) -> dict[str, Tensor]:
        return pooled([gradients(cls, in_dtype, seed) for seed in range(8)])

    truth = all_draws(nn.GRUCell, torch.float64)
    assert_equal_to_rounding(all_draws(gru_fused.GRUCell, torch.float64), truth)
    assert_as_good_as(all_draws(gru_fused.GRUCell, dtype), all_draws(nn.GRUCell, dtype), truth)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_functional_gradients_with_strided_weights(layout: Layout) -> None:
    case = Case(T=3, B=2, I=6, H=6)
    weights = [layout(w) for w in case.module(nn.GRU).state_dict().values()]
    x, hx = case.inputs()
    cotangents = case.cotangents()

    def gradients(gru: object, given: list[Tensor]) -> tuple[Tensor, ...]:
        leaves = [leaf(x), leaf(hx), *(leaf(w) for w in given)]
        return torch.autograd.grad(gru(leaves[0], leaves[1], leaves[2:]), leaves, cotangents)

    truth = gradients(reference.gru, [w.contiguous() for w in weights])
    torch.testing.assert_close(gradients(functional.gru, weights), truth, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", [SMALL, PACKED[3]], ids=str)
def test_results_are_bitwise_repeatable(case: Case) -> None:
    ours = case.module(gru_fused.GRU, torch.float32)
    x, hx = case.inputs(torch.float32)
    cotangents = case.cotangents(torch.float32)
    first, second = (run(ours, x, hx, cotangents) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert data_of(x).dtype == first["output"].dtype


@pytest.mark.parametrize("threads", [1, 2])
def test_there_may_be_no_inputs(threads: int) -> None:
    """nn.GRU refuses that, nn.GRUCell does not: weight_ih is empty then, and the other gradients are as ever."""
    torch.set_num_threads(threads)
    assert_right_without_inputs()
