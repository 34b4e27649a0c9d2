"""torch.vmap: a batching rule of its own for every derivative, per-sample gradients, ensembles."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import Case
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

import gru_fused
from gru_fused import functional, reference

pytestmark = pytest.mark.usefixtures("poisoned")

V = 3
CASE = Case(T=3, B=2, I=2, H=3, bidirectional=True)
PACKED = torch.tensor([2, 2, 1])


def arguments(packed: bool = False) -> list[Tensor]:
    x, hx = CASE.inputs()
    weights = [w.detach() for w in CASE.module(nn.GRU).parameters()]
    return [x.flatten(0, 1)[:5] if packed else x, hx, *weights]


def layer(module: object, packed: bool = False) -> Callable[..., tuple[Tensor, ...]]:
    def function(x: Tensor, hx: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return module.gru(x, hx, weights, bidirectional=True, batch_sizes=PACKED if packed else None)

    return function


def several(y: Tensor, dim: int) -> Tensor:
    return torch.stack([y + 0.1 * v for v in range(V)], dim)


def one_by_one(function: Callable[..., object], in_dims: tuple[int | None, ...], given: list[Tensor]) -> list[Tensor]:
    """What vmap means."""
    calls = [
        function(*(y if dim is None else y.select(dim, v) for y, dim in zip(given, in_dims, strict=True)))
        for v in range(V)
    ]
    return [torch.stack(results) for results in zip(*calls, strict=True)]


BATCHED = {
    "x": [0],
    "hx": [1],
    "x-and-hx": [0, 1],
    "w_hh": [3],
    "everything": list(range(10)),
}


@pytest.mark.parametrize("dim", [0, 1, -1], ids="axis{}".format)
@pytest.mark.parametrize("batched", BATCHED.values(), ids=BATCHED)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_layer(packed: bool, batched: list[int], dim: int) -> None:
    given = arguments(packed)
    in_dims = tuple(dim if i in batched else None for i in range(len(given)))
    given = [y if d is None else several(y, d) for y, d in zip(given, in_dims, strict=True)]
    found = vmap(layer(functional, packed), in_dims)(*given)
    expected = one_by_one(layer(reference, packed), in_dims, given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("batched", [[0], [1]], ids=["x", "hx"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_shared_weight_makes_it_one_call(packed: bool, batched: list[int]) -> None:
    given = arguments(packed)
    in_dims = tuple(0 if i in batched else None for i in range(len(given)))
    given = [y if d is None else several(y, d) for y, d in zip(given, in_dims, strict=True)]
    with torch.profiler.profile() as profile:
        vmap(layer(functional, packed), in_dims)(*given)
    calls = [event.count for event in profile.key_averages() if event.key.startswith("gru_fused::")]
    assert calls == [1]


DERIVATIVES: dict[str, Callable[..., Callable[..., tuple[Tensor, ...]]]] = {
    "grad": lambda loss, n: grad(loss, argnums=tuple(range(n))),
    "grad-of-x": lambda loss, n: lambda *y: (grad(loss)(*y),),
    "jvp": lambda loss, n: lambda *y: jvp(loss, y, tuple(z.cos() for z in y)),
    "grad-of-grad": lambda loss, n: grad(
        lambda *y: sum(z.square().sum() for z in grad(loss, argnums=tuple(range(n)))(*y)), argnums=tuple(range(n))
    ),
    "jvp-of-grad": lambda loss, n: lambda *y: jvp(grad(loss, tuple(range(n))), y, tuple(z.cos() for z in y))[1],
    "grad-of-jvp": lambda loss, n: grad(lambda *y: jvp(loss, y, tuple(z.cos() for z in y))[1], argnums=tuple(range(n))),
}


@pytest.mark.parametrize("derivative", DERIVATIVES.values(), ids=DERIVATIVES)
@pytest.mark.parametrize("batched", [[0], [0, 1], [3], list(range(10))], ids=["x", "x-and-hx", "w_hh", "everything"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_derivatives(packed: bool, batched: list[int], derivative: Callable[..., object]) -> None:
    given = arguments(packed)
    in_dims = tuple(0 if i in batched else None for i in range(len(given)))
    given = [y if d is None else several(y, d) for y, d in zip(given, in_dims, strict=True)]

    def of(module: object) -> Callable[..., tuple[Tensor, ...]]:
        def loss(*y: Tensor) -> Tensor:
            output, h_n = layer(module, packed)(*y)
            return output.sin().sum() + h_n.square().sum()

        return derivative(loss, len(given))

    found = vmap(of(functional), in_dims)(*given)
    expected = one_by_one(of(reference), in_dims, given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batched", [[0], [1], [0, 1, 2, 3]], ids=["x", "hx", "everything"])
def test_cell(batched: list[int], bias: bool) -> None:
    given = [torch.randn(shape, dtype=torch.float64) for shape in ((2, 2), (2, 3), (9, 2), (9, 3), (9,), (9,))]
    given = given if bias else given[:4]
    in_dims = tuple(1 if i in batched else None for i in range(len(given)))
    given = [y if d is None else several(y, d) for y, d in zip(given, in_dims, strict=True)]

    def both(module: object) -> Callable[..., list[Tensor]]:
        def function(*y: Tensor) -> list[Tensor]:
            slopes = grad(lambda *y: module.gru_cell(*y).square().sum(), argnums=tuple(range(len(y))))(*y)
            return [module.gru_cell(*y), *slopes]

        return function

    found = vmap(both(functional), in_dims)(*given)
    expected = one_by_one(both(reference), in_dims, given)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_per_sample_gradients() -> None:
    """The gradient of every sample's own loss, as a loop over the samples gives them."""
    rnn = gru_fused.GRU(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in rnn.named_parameters()}
    x, target = torch.randn(5, 7, 3, dtype=torch.float64), torch.randn(5, 7, 8, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return (functional_call(rnn, parameters, (x,))[0] - target).square().mean()

    found = vmap(grad(loss), in_dims=(None, 1, 1))(parameters, x, target)
    for sample in range(x.shape[1]):
        output = nn.GRU(3, 4, 2, bidirectional=True, dtype=torch.float64)
        output.load_state_dict(rnn.state_dict())
        (output(x[:, sample])[0] - target[:, sample]).square().mean().backward()
        for name, p in output.named_parameters():
            torch.testing.assert_close(found[name][sample], p.grad, rtol=1e-10, atol=1e-13)


def test_ensemble() -> None:
    models = [nn.GRU(3, 4, num_layers=2, dtype=torch.float64) for _ in range(V)]
    parameters, buffers = stack_module_state(models)
    rnn = gru_fused.GRU(3, 4, num_layers=2, device="meta", dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)

    def run(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(rnn, (parameters, buffers), (x,))[0]

    found = vmap(run, in_dims=(0, 0, None))(parameters, buffers, x)
    torch.testing.assert_close(found, torch.stack([model(x)[0] for model in models]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_under_vmap(randomness: str) -> None:
    rnn = gru_fused.GRU(3, 4, num_layers=2, dropout=0.5)
    x = torch.randn(5, 2, 3).expand(V, 5, 2, 3)
    outputs = vmap(lambda x: rnn(x)[0], randomness=randomness)(x)
    assert torch.equal(outputs[0], outputs[1]) == (randomness == "same")


def test_vmap_of_vmap() -> None:
    x, hx, *weights = arguments()
    given = torch.stack([several(x, 0), several(2 * x, 0)])
    found = vmap(vmap(lambda x: functional.gru(x, hx, weights, bidirectional=True)[0]))(given)
    flat = [reference.gru(y, hx, weights, bidirectional=True)[0] for y in given.flatten(0, 1)]
    torch.testing.assert_close(found, torch.stack(flat).unflatten(0, (2, V)), rtol=1e-12, atol=1e-13)
