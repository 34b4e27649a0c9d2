"""First and second derivatives against finite differences, in float64, for every differentiable argument."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from helpers import Case, data_of, leaf, with_data
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call

import gru_fused
from gru_fused import functional

pytestmark = pytest.mark.usefixtures("poisoned")

TINY = Case(T=3, B=2, I=2, H=3)
CASES = [
    TINY,
    Case(T=3, B=2, I=2, H=3, bias=False, hx=False),
    Case(T=2, B=2, I=3, H=2, bidirectional=True),
    Case(T=2, B=1, I=2, H=2, layers=2),
    Case(T=2, B=2, I=1, H=2, layers=2, bidirectional=True, batch_first=True),
    Case(T=3, B=None, I=2, H=2, bidirectional=True, hx=False),
    Case(T=1, B=1, I=1, H=1),
    Case(T=3, B=0, I=2, H=2),
    Case(lengths=(1, 3, 2), I=2, H=2),
    Case(lengths=(2, 3), I=2, H=2, bidirectional=True, hx=False),
    Case(lengths=(3, 1, 2), I=1, H=2, layers=2, bidirectional=True, bias=False),
]
Function = Callable[..., tuple[Tensor, ...]]


def of_module(case: Case) -> tuple[Function, tuple[Tensor, ...]]:
    """The module as a function of its input's data, hx (if the case has one) and all parameters."""
    rnn = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    names = [name for name, _ in rnn.named_parameters()]

    def function(data: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        state, weights = (rest[0], rest[1:]) if hx is not None else (None, rest)
        output, h_n = functional_call(rnn, dict(zip(names, weights, strict=True)), (with_data(x, data), state))
        return data_of(output), h_n

    leaves = [data_of(x), *([] if hx is None else [hx]), *rnn.parameters()]
    return function, tuple(leaf(y.clone()) for y in leaves)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gru(case: Case) -> None:
    assert gradcheck(*of_module(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gru_twice(case: Case) -> None:
    """Every case by random directions; test_all_second_derivatives compares each number of some."""
    assert gradgradcheck(*of_module(case), fast_mode=True)


@pytest.mark.parametrize(
    "case",
    [
        Case(T=2, B=1, I=1, H=2),
        Case(T=2, B=1, I=1, H=1, layers=2, bidirectional=True),
        Case(lengths=(1, 2), I=1, H=1, bidirectional=True),
    ],
    ids=str,
)
def test_all_second_derivatives(case: Case) -> None:
    assert gradgradcheck(*of_module(case))


@pytest.mark.parametrize("result", [0, 1], ids=["output", "h_n"])
@pytest.mark.parametrize("case", [TINY, Case(lengths=(1, 3, 2), I=2, H=2, bidirectional=True)], ids=str)
def test_one_result_only(case: Case, result: int) -> None:
    function, leaves = of_module(case)
    assert gradcheck(lambda *given: function(*given)[result], leaves)
    assert gradgradcheck(lambda *given: function(*given)[result], leaves, fast_mode=True)


@pytest.mark.parametrize("wanted", range(6), ids=["input", "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_one_argument_only(wanted: int) -> None:
    function, leaves = of_module(TINY)
    fixed = [y.detach().requires_grad_(i == wanted) for i, y in enumerate(leaves)]
    assert gradcheck(function, fixed)
    assert gradgradcheck(function, fixed, fast_mode=True)


def test_strided_arguments() -> None:
    function, leaves = of_module(TINY)
    strided = tuple(leaf(y.repeat_interleave(2, -1)[..., ::2]) for y in leaves)
    assert gradcheck(function, strided)
    assert gradgradcheck(function, strided, fast_mode=True)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "bidirectional"])
def test_functional_gru(bidirectional: bool, bias: bool) -> None:
    case = Case(T=2, B=2, I=2, H=2, bidirectional=bidirectional, bias=bias)
    x, hx = case.inputs()

    def function(x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return functional.gru(x, hx, weights, bias=bias, bidirectional=bidirectional)

    leaves = [leaf(x), leaf(hx), *(leaf(w) for w in case.module(nn.GRU).parameters())]
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batch", [2, None], ids=["batched", "unbatched"])
def test_cell(batch: int | None, bias: bool) -> None:
    cell = gru_fused.GRUCell(2, 3, bias=bias, dtype=torch.float64)
    names = [name for name, _ in cell.named_parameters()]
    rows = () if batch is None else (batch,)

    def function(x: Tensor, hx: Tensor, *weights: Tensor) -> Tensor:
        return functional_call(cell, dict(zip(names, weights, strict=True)), (x, hx))

    leaves = [*(leaf(torch.randn(*rows, n, dtype=torch.float64)) for n in (2, 3)), *map(leaf, cell.parameters())]
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


def test_functional_cell() -> None:
    leaves = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 2), (2, 3), (9, 2), (9, 3), (9,), (9,))]
    for arguments in (leaves, leaves[:4]):
        assert gradcheck(functional.gru_cell, [leaf(y) for y in arguments])
        assert gradgradcheck(functional.gru_cell, [leaf(y) for y in arguments])


def test_a_gradient_penalty_reaches_every_parameter() -> None:
    """The use of double backward: the norm of the input's gradient in the loss, as nn.GRU computes it."""
    case = Case(layers=2, bidirectional=True)
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()

    def penalty(rnn: nn.Module) -> tuple[Tensor, ...]:
        data = leaf(x)
        output, h_n = rnn(data, hx)
        (slope,) = torch.autograd.grad(output.sin().sum() + h_n.cos().sum(), data, create_graph=True)
        return torch.autograd.grad((slope.norm() - 1).square() + output.sum(), list(rnn.parameters()))

    theirs = nn.GRU(4, 6, 2, bidirectional=True, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(penalty(ours), penalty(theirs), rtol=1e-9, atol=1e-12)


def assert_first_order_is_the_same(function: Function, leaves: Sequence[Tensor]) -> None:
    """gradgradcheck differentiates the gradient that create_graph=True gives, and can't see if that one is wrong."""
    results = function(*leaves)
    cotangents = [torch.randn_like(y) for y in results]
    plain = torch.autograd.grad(results, leaves, cotangents, retain_graph=True)
    with_graph = torch.autograd.grad(results, leaves, cotangents, create_graph=True)
    torch.testing.assert_close(with_graph, plain, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient_with_a_graph_is_the_gradient(case: Case) -> None:
    assert_first_order_is_the_same(*of_module(case))


TIED: dict[str, Function] = {
    "directions": lambda x, hx, *weights: functional.gru(x, hx, [*weights, *weights], bidirectional=True),
    "layers": lambda x, hx, *weights: functional.gru(x, hx, [*weights, *weights], num_layers=2),
    "both-weights": lambda x, hx, w, rest, *b: (*functional.gru(x, hx[:1], [w, w, *b]), rest.sum()),
    "input-and-state": lambda x, hx, *weights: (*functional.gru(hx, hx[:1], weights), x.sum()),
}


@pytest.mark.parametrize("function", TIED.values(), ids=TIED)
def test_one_tensor_in_several_places(function: Function) -> None:
    """Its derivatives add up, in the first and in the second order."""
    x, hx = Case(T=2, B=1, I=2, H=2, bidirectional=True).inputs()
    leaves = [leaf(x), leaf(hx), *(leaf(w) for w in Case(I=2, H=2).module(nn.GRU).parameters())]
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)
    assert_first_order_is_the_same(function, leaves)


def test_hessian_vector_product() -> None:
    """Reverse over reverse by torch.autograd.functional, which asks for gradients of gradients with strict graphs."""
    rnn = TINY.module(gru_fused.GRU)
    x, hx = TINY.inputs()
    loss = partial(lambda module, data: module(data, hx)[0].square().sum(), rnn)
    other = partial(lambda module, data: module(data, hx)[0].square().sum(), nn.GRU(2, 3, dtype=torch.float64))
    other.args[0].load_state_dict(rnn.state_dict())
    v = torch.randn_like(x)
    found, expected = (torch.autograd.functional.hvp(f, x, v, strict=True) for f in (loss, other))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
