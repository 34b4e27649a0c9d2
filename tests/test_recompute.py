"""recompute=True: the same gradients while no gates are saved."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import pytest
import torch
from helpers import (
    AWKWARD,
    LOW_DTYPES,
    OPTIONS,
    PACKED,
    Case,
    ReferenceGRU,
    assert_equal_to_rounding,
    assert_gru_as_good,
    data_of,
    dtype_id,
    leaf,
    run,
    twin,
    with_data,
)
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import gru_fused
from gru_fused import _ops, compat, functional

pytestmark = pytest.mark.usefixtures("poisoned")

Recomputing = partial(gru_fused.GRU, recompute=True)
SMALL = Case(T=5, B=3, I=4, H=7, layers=2, bidirectional=True)
# More rows and more numbers than one tile and one chunk have; and few enough that the weights are read in place.
LARGE = [Case(T=150, B=3, I=9, H=40, bidirectional=True), Case(T=9, B=70, I=5, H=130), Case(T=4, B=4, I=3, H=70)]
CASES = [*AWKWARD, *OPTIONS, *PACKED, *LARGE]


def saving_and_recomputing(case: Case, dtype: torch.dtype = torch.float64) -> tuple[gru_fused.GRU, gru_fused.GRU]:
    saving = case.module(gru_fused.GRU, dtype)
    return saving, twin(saving, Recomputing)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_the_references(case: Case) -> None:
    ours = case.module(Recomputing)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    truth = run(twin(ours, ReferenceGRU), x, hx, cotangents)
    assert_equal_to_rounding(run(ours, x, hx, cotangents), truth, eps=1e-12)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", [*AWKWARD, *PACKED, *LARGE], ids=str)
def test_gradients_are_as_good_as_nn_grus(case: Case, dtype: torch.dtype) -> None:
    assert_gru_as_good(case, dtype, gradients=True, made=Recomputing)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_gradients_at_tiny_and_saturating_values(scale: float, dtype: torch.dtype) -> None:
    assert_gru_as_good(Case(T=4, B=5, I=9, H=21, bias=False), dtype, gradients=True, scale=scale, made=Recomputing)


@pytest.mark.parametrize("dtype, eps", [(torch.float32, 1e-5), (torch.float64, 1e-13)], ids=["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_from_saved_gates(case: Case, dtype: torch.dtype, eps: float) -> None:
    saving, recomputing = saving_and_recomputing(case, dtype)
    x, hx = case.inputs(dtype)
    cotangents = case.cotangents(dtype)
    saved, recomputed = run(saving, x, hx, cotangents), run(recomputing, x, hx, cotangents)
    assert_equal_to_rounding(recomputed, saved, eps=eps)
    for name in ("output", "h_n"):
        assert torch.equal(recomputed[name], saved[name])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads: int) -> None:
    torch.set_num_threads(threads)
    case = Case(T=40, B=9, I=20, H=33, bidirectional=True)
    ours = case.module(Recomputing)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    truth = run(twin(ours, ReferenceGRU), x, hx, cotangents)
    assert_equal_to_rounding(run(ours, x, hx, cotangents), truth, eps=1e-12)


@pytest.mark.parametrize("used", ["output", "h_n"])
@pytest.mark.parametrize("case", [SMALL, PACKED[3]], ids=str)
def test_only_one_result_used(case: Case, used: str) -> None:
    ours = case.module(Recomputing)
    x, hx = case.inputs()
    output, h_n = case.cotangents()
    cotangents = (output, None) if used == "output" else (None, h_n)
    truth = run(twin(ours, ReferenceGRU), x, hx, cotangents)
    assert_equal_to_rounding(run(ours, x, hx, cotangents), truth, eps=1e-12)


@pytest.mark.parametrize("wanted", range(6), ids=["input", "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_one_argument_only(wanted: int) -> None:
    case = Case(T=5, B=9, I=3, H=4)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    arguments = [x, hx, *case.module(nn.GRU).parameters()]

    def gradient(recompute: bool) -> Tensor:
        given = [y.detach().requires_grad_(i == wanted) for i, y in enumerate(arguments)]
        results = functional.gru(given[0], given[1], given[2:], recompute=recompute)
        return torch.autograd.grad(results, given[wanted], cotangents)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "case",
    [
        Case(T=3, B=2, I=2, H=3),
        Case(T=10, B=2, I=1, H=2, bidirectional=True),
        Case(T=2, B=2, I=1, H=2, layers=2, bidirectional=True, bias=False),
        Case(lengths=(3, 1, 2), I=1, H=2, bidirectional=True),
    ],
    ids=str,
)
def test_first_and_second_derivatives(case: Case) -> None:
    rnn = case.module(Recomputing)
    x, hx = case.inputs()
    names = [name for name, _ in rnn.named_parameters()]

    def function(data: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, weights, strict=True))
        output, h_n = torch.func.functional_call(rnn, parameters, (with_data(x, data), hx))
        return data_of(output), h_n

    leaves = tuple(leaf(y.clone()) for y in (data_of(x), hx, *rnn.parameters()))
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=True)


def saved_by(case: Case, recompute: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Every tensor that one layer saves, and its arguments and output."""
    x, hx = case.inputs(torch.float32)
    weights = list(case.module(nn.GRU, torch.float32).parameters())
    batch_sizes = x.batch_sizes if case.lengths else None
    options = dict(bias=case.bias, bidirectional=case.bidirectional, batch_sizes=batch_sizes, recompute=recompute)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda y: saved.append(y) or y, lambda y: y):
        output, _ = functional.gru(data_of(x), hx, weights, **options)
    return saved, [data_of(x), hx, *weights, output, *([] if batch_sizes is None else [batch_sizes])]


@pytest.mark.parametrize(
    "case", [Case(T=9, B=3, I=5, H=8), Case(T=4, B=3, bidirectional=True), Case(lengths=(3, 2), bias=False)], ids=str
)
def test_only_arguments_and_output_are_saved(case: Case) -> None:
    saved, expected = saved_by(case, recompute=True)
    assert sorted(y.nbytes for y in saved) == sorted(y.nbytes for y in expected)
    assert all(y.shape[-1] != 4 * case.H for y in saved)
    more, _ = saved_by(case, recompute=False)
    rows = sum(case.lengths) if case.lengths else case.T * case.B
    gates = 4 * case.H * rows * case.directions * 4  # bytes of a float
    assert sum(y.nbytes for y in more) == sum(y.nbytes for y in saved) + gates


class Ops(TorchDispatchMode):
    """Records the ops that run inside and the size of their largest result."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[torch._ops.OpOverload] = set()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        self.called.add(func)
        sizes = [y.numel() for y in tree_leaves(results) if isinstance(y, Tensor)]
        self.largest = max([self.largest, *sizes])
        return results


def test_the_inference_op_runs_and_no_array_of_gates_is_ever_made() -> None:
    rnn = gru_fused.GRU(6, 8, recompute=True)
    x = torch.randn(50, 4, 6, requires_grad=True)
    with Ops() as ops:
        rnn(x)[0].sum().backward()
    assert ops.largest == 50 * 4 * 8
    assert _ops.forward in ops.called and _ops.forward_train not in ops.called


@pytest.mark.parametrize("cls", [gru_fused.GRU, compat.GRU])
def test_it_is_an_option_of_the_module_alone(cls: type[gru_fused.GRU]) -> None:
    rnn = cls(3, 4, recompute=True)
    assert repr(rnn).endswith("(3, 4, recompute=True)") and repr(cls(3, 4)).endswith("(3, 4)")
    assert list(rnn.state_dict()) == list(nn.GRU(3, 4).state_dict())
    assert copy.deepcopy(rnn).recompute and pickle.loads(pickle.dumps(rnn)).recompute
    assert not cls(3, 4).recompute
    with pytest.raises(TypeError):
        cls(3, 4, 1, True, False, 0.0, False, 0, None, None, True)  # by its name only


def test_convert_and_revert() -> None:
    model = gru_fused.convert(nn.Sequential(nn.GRU(3, 4)))
    assert not model[0].recompute
    x = torch.randn(5, 2, 3)
    expected = model(x)[0]
    model[0].recompute = True
    assert torch.equal(model(x)[0], expected)
    gru_fused.revert(model)
    assert type(model[0]) is nn.GRU and repr(model[0]) == "GRU(3, 4)"
    torch.testing.assert_close(model(x)[0], expected)
