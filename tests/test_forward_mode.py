"""Forward-mode derivatives: dual numbers, torch.func.jvp, and their mixtures with the reverse mode."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from helpers import Case, assert_equal_to_rounding, leaf
from test_gradcheck import CASES, Function, of_module
from torch import Tensor
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp

import gru_fused
from gru_fused import functional, reference

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_dual_numbers_against_finite_differences(case: Case) -> None:
    function, leaves = of_module(case)
    assert gradcheck(function, leaves, check_forward_ad=True, check_backward_ad=False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_backward_of_a_tangent_and_the_tangent_of_a_backward(case: Case) -> None:
    function, leaves = of_module(case)
    assert gradgradcheck(function, leaves, fast_mode=True, check_fwd_over_rev=True)
    tangents = [torch.randn_like(y) for y in leaves]
    half = len(leaves)

    def tangent(*given: Tensor) -> tuple[Tensor, ...]:
        return jvp(function, given[:half], given[half:])[1]

    assert gradcheck(tangent, [*leaves, *map(leaf, tangents)], fast_mode=True)


def small(batch_sizes: Tensor | None = None, bias: bool = True) -> tuple[Function, Function, list[Tensor]]:
    """A bidirectional layer, ours and the reference's, and its arguments."""
    case = Case(T=2, B=2, I=2, H=2, bidirectional=True, bias=bias)
    x, hx = case.inputs()
    x = x if batch_sizes is None else x.flatten(0, 1)[: int(batch_sizes.sum())]
    options = dict(bias=bias, bidirectional=True, batch_sizes=batch_sizes)

    def function(module: object, x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = module.gru(x, hx, weights, **options)
        return output.sin(), h_n

    leaves = [x, hx, *(w.detach() for w in case.module(gru_fused.GRU).parameters())]
    return partial(function, functional), partial(function, reference), leaves


FORMS = {"padded": None, "packed": torch.tensor([2, 1])}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batch_sizes", FORMS.values(), ids=FORMS)
def test_jvp_is_the_references(batch_sizes: Tensor | None, bias: bool) -> None:
    ours, theirs, leaves = small(batch_sizes, bias)
    tangents = tuple(torch.randn_like(y) for y in leaves)
    found, expected = (jvp(f, tuple(leaves), tangents) for f in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("wanted", range(6), ids=["x", "hx", "w_ih", "w_hh", "b_ih", "b_hh"])
def test_the_tangent_of_one_argument(wanted: int) -> None:
    """The others have none, which is not the same as zeros."""
    ours, theirs, leaves = small()
    direction = torch.randn_like(leaves[wanted])

    def along(f: Function) -> tuple[Tensor, ...]:
        return jvp(lambda y: f(*leaves[:wanted], y, *leaves[wanted + 1 :]), (leaves[wanted],), (direction,))[1]

    torch.testing.assert_close(along(ours), along(theirs), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("second", [jvp, vjp], ids=["of-jvp", "of-vjp"])
@pytest.mark.parametrize("first", [jvp, vjp], ids=["jvp", "vjp"])
@pytest.mark.parametrize("batch_sizes", FORMS.values(), ids=FORMS)
def test_every_second_order(batch_sizes: Tensor | None, first: object, second: object) -> None:
    """Forward or reverse over forward or reverse, each fused but for forward over forward."""
    *functions, leaves = small(batch_sizes)
    tangents = tuple(torch.randn_like(y) for y in leaves)
    cotangents = tuple(torch.randn_like(y) for y in functions[0](*leaves))

    def derivative(f: Function, transform: object, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if transform is jvp:
            return jvp(f, given, tangents)[1]
        results, pull = vjp(f, *given)
        return pull(cotangents if len(results) == 2 else results)

    found, expected = (derivative(lambda *y, f=f: derivative(f, second, y), first, tuple(leaves)) for f in functions)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("batch_sizes", FORMS.values(), ids=FORMS)
def test_third_order(batch_sizes: Tensor | None) -> None:
    *functions, leaves = small(batch_sizes)

    def thrice(f: Function, x: Tensor) -> Tensor:
        slope = grad(lambda x: f(x, *leaves[1:])[0].square().sum())
        curvature = grad(lambda x: slope(x).square().sum())
        return grad(lambda x: curvature(x).sin().sum())(x)

    found, expected = (thrice(f, leaves[0]) for f in functions)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_third_order_of_plain_autograd() -> None:
    *functions, leaves = small()
    leaves = [leaf(y) for y in leaves]

    def thrice(f: Function) -> tuple[Tensor, ...]:
        value = f(*leaves)[0].square().sum()
        for _ in range(2):
            slopes = torch.autograd.grad(value, leaves, create_graph=True)
            value = sum(y.square().sum() for y in slopes)
        return torch.autograd.grad(value, leaves)

    torch.testing.assert_close(thrice(functions[0]), thrice(functions[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", [2, 3])
def test_derivatives_of_sums(order: int) -> None:
    """The cotangent of a sum is one number expanded, which torch's forward mode takes for no primal."""
    *functions, leaves = small()
    found = []
    for f in functions:
        slope = partial(lambda f, x: f(x, *leaves[1:])[1].sum(), f)
        for _ in range(order):
            slope = partial(lambda slope, x: grad(slope)(x).sum(), slope)
        found.append(jvp(slope, (leaves[0],), (leaves[0],)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("jacobian", [jacfwd, jacrev])
@pytest.mark.parametrize("argument", range(4), ids=["x", "hx", "w_ih", "w_hh"])
def test_jacobians(jacobian: object, argument: int) -> None:
    ours, theirs, leaves = small()
    found, expected = (jacobian(f, argnums=argument)(*leaves) for f in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13)


HESSIANS = {
    "fwd-over-rev": lambda f: jacfwd(jacrev(f)),
    "rev-over-rev": lambda f: jacrev(jacrev(f)),
    "rev-over-fwd": lambda f: jacrev(jacfwd(f)),
    "fwd-over-fwd": lambda f: jacfwd(jacfwd(f)),
}


@pytest.mark.parametrize("hessian", HESSIANS.values(), ids=HESSIANS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("argument", [0, 3], ids=["x", "w_hh"])
def test_hessians(hessian: object, batch: int, argument: int) -> None:
    """A batch of one: folding vmap's calls into it copies nothing, so the rows may be one row expanded."""
    *functions, leaves = small()
    leaves[:2] = (y[:, :batch] for y in leaves[:2])

    def loss(f: Function, y: Tensor) -> Tensor:
        given = [*leaves[:argument], y, *leaves[argument + 1 :]]
        return f(*given)[0].square().sum()

    found, expected = (hessian(partial(loss, f))(leaves[argument]) for f in functions)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_hessian_of_a_module() -> None:
    rnn = gru_fused.GRU(1, 2, num_layers=2, dtype=torch.float64)
    x = torch.randn(3, 1, 1, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in rnn.named_parameters()}

    def loss(forward: object, parameters: dict[str, Tensor]) -> Tensor:
        return forward(parameters).square().sum()

    ours = torch.func.hessian(partial(loss, lambda p: functional_call(rnn, p, (x,))[0]))(parameters)
    by_reference = partial(loss, lambda p: reference.gru(x, None, list(p.values()), num_layers=2)[0])
    torch.testing.assert_close(ours, torch.func.hessian(by_reference)(parameters), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
def test_cell(bias: bool) -> None:
    leaves = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 2), (2, 3), (9, 2), (9, 3), (9,), (9,))]
    leaves = [leaf(y) for y in (leaves if bias else leaves[:4])]
    assert gradcheck(functional.gru_cell, leaves, check_forward_ad=True)
    assert gradgradcheck(functional.gru_cell, leaves, check_fwd_over_rev=True)


def test_a_dual_number_that_needs_no_gradient() -> None:
    """The forward mode alone: no argument requires a gradient, and the call must not be taken for inference."""
    ours, theirs, leaves = small()
    found = []
    for f in (ours, theirs):
        with forward_ad.dual_level(), torch.no_grad():
            x = forward_ad.make_dual(leaves[0], torch.ones_like(leaves[0]))
            found.append(forward_ad.unpack_dual(f(x, *leaves[1:])[0]).tangent)
    assert found[0] is not None
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)


def test_recomputed_gates_have_the_same_derivatives() -> None:
    x, hx = Case().inputs()
    found = []
    for recompute in (False, True):
        torch.manual_seed(1)
        rnn = gru_fused.GRU(4, 6, dtype=torch.float64, recompute=recompute)

        def slope(x: Tensor, rnn: gru_fused.GRU = rnn) -> Tensor:
            return grad(lambda x: rnn(x, hx)[0].square().sum())(x)

        results = dict(tangent=jvp(slope, (x,), (torch.ones_like(x),))[1])
        results["gradient"] = grad(lambda x, slope=slope: slope(x).sin().sum())(x)
        found.append(results)
    assert_equal_to_rounding(*found, eps=1e-12)
