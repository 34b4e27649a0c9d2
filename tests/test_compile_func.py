"""torch.compile(fullgraph=True) of functions that use torch.func on a GRU: as without it, which other tests prove."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from helpers import Case, leaf
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap

import gru_fused
from gru_fused import functional

CASE = Case(T=3, B=2, I=2, H=3, layers=2, bidirectional=True, hx=False)
PACKED = Case(lengths=(2, 4, 1), I=2, H=3, bidirectional=True)
Parameters = dict[str, Tensor]
Function = Callable[[Parameters, Tensor], object]  # lambdas, not partials: dynamo can't take those into jacrev


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def made(case: Case = CASE, cls: type = gru_fused.GRU) -> tuple[torch.nn.Module, Parameters]:
    module = case.module(cls) if cls is gru_fused.GRU else cls(case.I, case.H, dtype=torch.float64)
    return module, {name: p.detach() for name, p in module.named_parameters()}


def loss(module: torch.nn.Module, p: Parameters, x: Tensor) -> Tensor:
    results = functional_call(module, p, (x,))
    return (results[0] if isinstance(results, tuple) else results).square().sum()


def slope(f: Function, p: Parameters, x: Tensor) -> Tensor:
    return grad(f, argnums=1)(p, x)


TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: grad(f, argnums=(0, 1)),
    "vjp": lambda f: lambda p, x: vjp(partial(f, p), x)[1](torch.ones((), dtype=x.dtype)),
    "jvp": lambda f: lambda p, x: jvp(partial(f, p), (x,), (x.cos(),)),
    "vmap": lambda f: lambda p, x: vmap(lambda s: f(p, s * x))(torch.arange(3.0, dtype=x.dtype)),
    "grad-of-grad": lambda f: lambda p, x: grad(lambda x: slope(f, p, x).square().sum())(x),
    "jvp-of-grad": lambda f: lambda p, x: jvp(partial(slope, f, p), (x,), (x.cos(),)),
    "jacrev-of-jacrev": lambda f: lambda p, x: jacrev(jacrev(lambda x: f(p, x)))(x),
    "jacfwd-of-jacfwd": lambda f: lambda p, x: jacfwd(jacfwd(lambda x: f(p, x)))(x),
    "hessian": lambda f: lambda p, x: hessian(lambda x: f(p, x))(x),
    "third": lambda f: lambda p, x: grad(lambda x: grad(lambda x: slope(f, p, x).sum())(x).sum())(x),
    "per-sample": lambda f: vmap(grad(lambda p, x: f(p, x.unsqueeze(-2))), in_dims=(None, -2)),
}


def compare(function: Function, *given: object, backend: str = "aot_eager") -> None:
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(*given), function(*given), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gru(name: str) -> None:
    module, p = made()
    compare(TRANSFORMS[name](partial(loss, module)), p, CASE.inputs()[0])


@pytest.mark.parametrize("name", ["grad", "jvp", "hessian", "per-sample"])
def test_cell(name: str) -> None:
    module, p = made(cls=gru_fused.GRUCell)
    compare(TRANSFORMS[name](partial(loss, module)), p, torch.randn(4, CASE.I, dtype=torch.float64))


@pytest.mark.parametrize("name", ["grad", "per-sample"])
def test_recompute(name: str) -> None:
    module = gru_fused.GRU(CASE.I, CASE.H, dtype=torch.float64, recompute=True)
    p = {name: parameter.detach() for name, parameter in module.named_parameters()}
    compare(TRANSFORMS[name](partial(loss, module)), p, CASE.inputs()[0])


@pytest.mark.parametrize("name", ["grad", "jvp", "vmap", "grad-of-grad"])
@pytest.mark.parametrize("with_hx", [True, False], ids=["hx", "nohx"])
def test_packed(with_hx: bool, name: str) -> None:
    """By the function: not every torch's dynamo can make a PackedSequence."""
    _, p = made(PACKED)
    packed, hx = PACKED.inputs()

    def of_data(p: Parameters, data: Tensor) -> Tensor:
        weights, state = list(p.values()), hx if with_hx else None
        output, h_n = functional.gru(data, state, weights, bidirectional=True, batch_sizes=packed.batch_sizes)
        return output.square().sum() + h_n.sin().sum()

    compare(TRANSFORMS[name](of_data), p, packed.data)


def test_ensemble() -> None:
    module, _ = made()
    parameters, _ = stack_module_state([module, made()[0]])
    parameters = {name: p.detach() for name, p in parameters.items()}
    compare(vmap(partial(loss, module), in_dims=(0, None)), parameters, CASE.inputs()[0])


@pytest.mark.parametrize("name", ["per-sample", "jvp-of-grad"])
def test_inductor(name: str) -> None:
    module, p = made()
    compare(TRANSFORMS[name](partial(loss, module)), p, CASE.inputs()[0], backend="inductor")


@pytest.mark.parametrize("name", ["grad", "jvp", "vmap"])
def test_a_backward_through_a_compiled_transform(name: str) -> None:
    """A transform inside, plain autograd outside: a gradient penalty in a compiled loss."""
    module, p = made()
    function = TRANSFORMS[name](partial(loss, module))
    x = CASE.inputs()[0]
    found = []
    for call in (torch.compile(function, fullgraph=True, backend="aot_eager"), function):
        leaves = {name: leaf(value) for name, value in p.items()}
        results = torch.utils._pytree.tree_leaves(call(leaves, x))
        found.append(torch.autograd.grad(sum(y.square().sum() for y in results), list(leaves.values())))
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-13)


def test_another_length_or_batch_does_not_recompile_after_the_second() -> None:
    module, p = made()
    compiled = torch.compile(TRANSFORMS["grad"](partial(loss, module)), fullgraph=True, backend="aot_eager")
    for steps, batch in ((3, 2), (4, 5)):
        compiled(p, torch.randn(steps, batch, CASE.I, dtype=torch.float64))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(p, torch.randn(7, 3, CASE.I, dtype=torch.float64))
