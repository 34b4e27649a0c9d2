"""What training code wraps around a module: autocast, gradient scaling, checkpointing, functional_call, determinism."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from helpers import Case, Input, assert_equal_to_rounding, data_of, leaf, run, twin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.amp import GradScaler
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import gru_fused
from gru_fused import functional

pytestmark = pytest.mark.usefixtures("poisoned")

CASE = Case(layers=2, bidirectional=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_the_low_dtype_and_gives_float32(dtype: torch.dtype) -> None:
    """As nn.GRU on the CPU: results and gradients in float32, with the low dtype's rounding."""
    rnn = CASE.module(gru_fused.GRU, torch.float32)
    x, hx = CASE.inputs(torch.float32)
    cotangents = CASE.cotangents(torch.float32)
    exact = run(rnn, x, hx, cotangents)
    with torch.autocast("cpu", dtype=dtype):
        found = run(rnn, x, hx, cotangents)
    low = run(twin(rnn, gru_fused.GRU, dtype), x, hx, cotangents, dtype=dtype)
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, low[name].float(), rtol=0, atol=0)
        assert 0 < (value - exact[name]).abs().max() < 200 * torch.finfo(dtype).eps


def test_autocast_of_a_cell_of_a_compiled_module_and_of_derivatives() -> None:
    cell, x = gru_fused.GRUCell(3, 4), torch.randn(2, 3)
    rnn = gru_fused.GRU(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = cell(x)
        compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")(x[None])[0]
        slope = torch.func.grad(lambda x: rnn(x[None])[0].sum())(x)
        _, tangent = torch.func.jvp(lambda x: rnn(x[None])[0], (x,), (torch.ones_like(x),))
        eager = rnn(x[None])[0]
    assert h.dtype == compiled.dtype == slope.dtype == tangent.dtype == torch.float32
    torch.testing.assert_close(compiled, eager, rtol=0, atol=0)
    torch.testing.assert_close(h, cell(x), rtol=0, atol=0.05)
    torch.testing.assert_close(slope, torch.func.grad(lambda x: rnn(x[None])[0].sum())(x), rtol=0, atol=0.05)


def test_autocast_leaves_float64_alone() -> None:
    """As torch does: float64 is asked for by someone who needs it."""
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()
    expected = run(twin(ours, nn.GRU), x, hx, cotangents := CASE.cotangents())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_to_rounding(run(ours, x, hx, cotangents), expected)
        cell = gru_fused.GRUCell(4, 6, dtype=torch.float64)
        under = cell(x[0], hx[0])
    assert torch.equal(under, cell(x[0], hx[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_on_cuda_gives_its_own_dtype(dtype: torch.dtype) -> None:
    """Tensors of a pretended device: dtypes and shapes without memory. tests/gpu compares with nn.GRU on a real one."""
    torch.set_autocast_dtype("cuda", dtype)
    torch.set_autocast_enabled("cuda", True)  # torch.autocast itself looks for a device
    try:
        with FakeTensorMode(), torch.no_grad():
            for given, expected in ((torch.float32, dtype), (torch.float64, torch.float64)):
                shapes = (5, 2, 3), (1, 2, 4), (12, 3), (12, 4), (12,), (12,), (2, 3), (2, 4)
                x, hx, *weights, row, h = (torch.empty(shape, dtype=given, device="cuda") for shape in shapes)
                results = *functional.gru(x, None, weights), *functional.gru(x, hx, weights)
                assert [y.dtype for y in (*results, functional.gru_cell(row, h, *weights))] == [expected] * 5
    finally:
        torch.set_autocast_enabled("cuda", False)


def test_grad_scaler_skips_a_step_that_overflowed_and_no_other() -> None:
    rnn = gru_fused.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    (rnn(x)[0].sum()).backward()
    plain = {name: p.grad.clone() for name, p in rnn.named_parameters()}
    before = copy.deepcopy(rnn.state_dict())
    optimizer = torch.optim.SGD(rnn.parameters(), lr=0.1)
    scaler = GradScaler("cpu", init_scale=1024.0)

    def step(factor: float) -> None:
        optimizer.zero_grad()
        scaler.scale(factor * rnn(x)[0].sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    step(float("inf"))
    assert scaler.get_scale() == 512
    assert all(torch.equal(p, before[name]) for name, p in rnn.named_parameters())
    step(1.0)
    for name, p in rnn.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * plain[name])


def test_functional_call_uses_the_given_parameters_and_their_gradients() -> None:
    ours, other = CASE.module(gru_fused.GRU), CASE.module(nn.GRU)
    x, hx = CASE.inputs()
    given = {name: leaf(p) for name, p in other.named_parameters()}
    output, h_n = functional_call(ours, given, (x, hx))
    cotangents = CASE.cotangents()
    gradients = torch.autograd.grad([output, h_n], list(given.values()), cotangents)
    expected = run(other, x, hx, cotangents)
    torch.testing.assert_close(output, expected["output"], rtol=1e-12, atol=1e-13)
    for name, gradient in zip(given, gradients, strict=True):
        torch.testing.assert_close(gradient, expected[f"grad of {name}"], rtol=1e-10, atol=1e-13)
    assert all(p.grad is None for p in ours.parameters())


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
def test_checkpointing_draws_the_same_dropout_again(reentrant: bool) -> None:
    rnn = CASE.module(gru_fused.GRU)
    rnn.dropout = 0.5
    x, hx = CASE.inputs()
    cotangents = CASE.cotangents()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor, hx: Tensor) -> tuple[Tensor, Tensor]:
            return checkpoint(self.rnn, x, hx, use_reentrant=reentrant)

    found = []
    for module in (rnn, Checkpointed()):
        torch.manual_seed(3)
        data, state = leaf(x), leaf(hx)
        rnn.zero_grad()
        output, h_n = module(data, state)
        torch.autograd.backward([output, h_n], cotangents)
        found.append(dict(output=output.detach(), x=data.grad, hx=state.grad))
        found[-1] |= {name: p.grad.clone() for name, p in rnn.named_parameters()}
    assert_equal_to_rounding(*found, eps=0)


def test_checkpoint_of_a_sequence_of_modules() -> None:
    class First(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.rnn = gru_fused.GRU(size, 4, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    model = nn.Sequential(First(3), First(4), First(4))
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    plain = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
    again = checkpoint_sequential(model, 2, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.sin().sum(), list(model.parameters())), plain, rtol=0, atol=0)


def everything(rnn: nn.Module, x: Input, hx: Tensor) -> list[Tensor]:
    """Results, first and second derivatives."""
    parameters = list(rnn.parameters())
    output, h_n = rnn(x, hx)
    output = data_of(output)
    slopes = torch.autograd.grad(output.sin().sum() + h_n.cos().sum(), parameters, create_graph=True)
    curvatures = torch.autograd.grad(sum(y.square().sum() for y in slopes), parameters)
    return [output, h_n, *slopes, *curvatures]


@pytest.mark.parametrize("case", [Case(T=30, B=40, H=33), CASE, Case(lengths=(9, 3, 7))], ids=str)
def test_deterministic_algorithms_refuse_nothing_and_every_run_is_the_same(case: Case) -> None:
    rnn = case.module(gru_fused.GRU, torch.float32)
    given = case.inputs(torch.float32)
    torch.use_deterministic_algorithms(True)
    first = everything(rnn, *given)
    torch.use_deterministic_algorithms(False)
    for _ in range(3):
        assert all(map(torch.equal, first, everything(rnn, *given)))


SEEDED: dict[str, Callable[[gru_fused.GRU], Callable[..., object]]] = {
    "eager": lambda rnn: rnn,
    "compiled": lambda rnn: torch.compile(rnn, fullgraph=True, backend="aot_eager"),
    "grad-of-func": lambda rnn: lambda x: (torch.func.grad(lambda x: rnn(x)[0].sum())(x), None),
}


@pytest.mark.parametrize("make", SEEDED.values(), ids=SEEDED)
def test_seeded_dropout_is_its_own_rerun(make: Callable[..., Callable[..., object]]) -> None:
    call = make(gru_fused.GRU(3, 4, num_layers=3, dropout=0.5))
    x = torch.randn(5, 2, 3)

    def seeded(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return call(x)[0]

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
