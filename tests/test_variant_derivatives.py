"""Every option, alone and with the others: gradients of both orders, transforms, compile and export."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.export import Dim, export
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap
from torch.nn.utils.rnn import pack_sequence

import gru_fused

T, B, I, H = 4, 2, 3, 3  # noqa: E741 - the letters of the formulas
OPTIONS: dict[str, dict[str, Any]] = {
    "reset_before": {"reset_after": False},
    "norm_projections": {"layer_norm": "projections"},
    "norm_sum": {"layer_norm": "sum"},
    "activations": {"activation": "softsign", "gate_activation": "hard_sigmoid"},
    "zoneout": {"zoneout": 0.25},
    "recurrent_dropout": {"recurrent_dropout": 0.5},
    "reverse": {"reverse": True},
    "together": {"reset_after": False, "zoneout": 0.25, "recurrent_dropout": 0.5, "activation": "softsign"},
}
MARKS = ["nothing", "lengths", "reset", "attention", "all"]
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
marked = pytest.mark.parametrize("marked", MARKS)


def marks_of(kind: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    marks = {
        "lengths": torch.tensor([4, 2]),
        "reset": torch.tensor([[0, 1], [0, 0], [1, 0], [0, 1]]).bool(),
        "reset_state": torch.randn(4, H, dtype=torch.float64),
        "attention": torch.rand(T, B, dtype=torch.float64),
    }
    wanted = {"nothing": (), "reset": ("reset", "reset_state"), "all": tuple(marks)}.get(kind, (kind,))
    return {name: marks[name] for name in wanted}


class Function:
    """A module as a function of everything that has a gradient, the masks drawn the same in every call."""

    def __init__(self, options: dict[str, Any], marked: str, layers: int = 2) -> None:
        both = not options.get("reverse")
        self.rnn = gru_fused.GRU(I, H, layers, bidirectional=both, **options, dtype=torch.float64)
        self.marks = marks_of(marked)
        if "reset_state" in self.marks:
            self.marks["reset_state"] = self.marks["reset_state"][: layers * (1 + both)]
        self.names = [name for name in ("reset_state", "attention") if name in self.marks]
        self.parameters = dict(self.rnn.named_parameters())
        hx = torch.randn(layers * (1 + both), B, H, dtype=torch.float64)
        self.inputs = [torch.randn(T, B, I, dtype=torch.float64), hx]
        self.inputs += [*(self.marks[name] for name in self.names), *(p.detach() for p in self.parameters.values())]
        self.inputs = [y.clone().requires_grad_() for y in self.inputs]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, hx, *rest = inputs
        marks = self.marks | dict(zip(self.names, rest, strict=False))
        parameters = dict(zip(self.parameters, rest[len(self.names) :], strict=True))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return functional_call(self.rnn, parameters, (x, hx), marks)


@marked
@options
def test_gradcheck(options: dict[str, Any], marked: str) -> None:
    function = Function(options, marked)
    assert gradcheck(function, function.inputs, fast_mode=True)


@pytest.mark.parametrize("name", ["reset_before", "norm_projections", "norm_sum", "together"])
def test_gradcheck_of_every_element(name: str) -> None:
    function = Function(OPTIONS[name], "all", layers=1)
    assert gradcheck(function, function.inputs)


@marked
@options
def test_gradgradcheck(options: dict[str, Any], marked: str) -> None:
    function = Function(options, marked, layers=1)
    assert gradgradcheck(function, function.inputs, fast_mode=True)


@options
def test_gradcheck_packed(options: dict[str, Any]) -> None:
    rnn = gru_fused.GRU(I, H, 2, **options, dtype=torch.float64).eval()
    like = pack_sequence([torch.randn(n, I, dtype=torch.float64) for n in (4, 1, 3)], enforce_sorted=False)
    reset = like._replace(data=torch.rand(like.data.shape[0]) < 0.4)

    def function(data: Tensor) -> tuple[Tensor, Tensor]:
        output, h_n = rnn(like._replace(data=data), reset=reset)
        return output.data, h_n

    assert gradcheck(function, like.data.requires_grad_())


@options
def test_transforms_give_what_autograd_gives(options: dict[str, Any]) -> None:
    function = Function(options, "all", layers=1)
    x, *rest = function.inputs
    rest = [y.detach() for y in rest]

    def of_x(x: Tensor) -> Tensor:
        return function(x, *rest)[0]

    expected = torch.autograd.functional.jacobian(of_x, x.detach())
    found = [jacrev(of_x)(x.detach())]
    if not function.rnn.options.zoneout:  # torch.func draws no masks in place
        found.append(jacfwd(of_x, randomness="same")(x.detach()))
        tangent = torch.randn_like(x)
        _, pushed = jvp(of_x, (x.detach(),), (tangent,))
        torch.testing.assert_close(pushed, torch.tensordot(expected, tangent, 3), rtol=0, atol=1e-12)
    for jacobian in found:
        torch.testing.assert_close(jacobian, expected, rtol=0, atol=1e-12)


def test_gradients_of_each_sample() -> None:
    rnn = gru_fused.GRU(I, H, reset_after=False, dtype=torch.float64)
    xs = torch.randn(5, T, I, dtype=torch.float64)
    parameters = dict(rnn.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(rnn, parameters, (x,))[0].square().sum()

    each = vmap(grad(loss), (None, 0))(parameters, xs)
    for row, x in enumerate(xs):
        alone = torch.autograd.grad(rnn(x)[0].square().sum(), rnn.parameters())
        for name, expected in zip(parameters, alone, strict=True):
            torch.testing.assert_close(each[name][row], expected, rtol=0, atol=1e-12)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("name", ["reset_before", "norm_sum", "norm_projections", "activations"])
def test_compile(name: str, backend: str) -> None:
    rnn = gru_fused.GRU(I, H, 2, bidirectional=True, **OPTIONS[name])
    compiled = torch.compile(rnn, fullgraph=True, backend=backend)
    for steps, rows in ((T, B), (6, 5)):
        x = torch.randn(steps, rows, I, requires_grad=True)
        marks = {"lengths": torch.randint(1, steps + 1, (rows,)), "reset": torch.rand(steps, rows) < 0.3}
        marks["attention"] = torch.rand(steps, rows)
        grads = []
        for module in (compiled, rnn):
            output, h_n = module(x, **marks)
            grads.append(torch.autograd.grad(output.cos().sum() + h_n.exp().sum(), [x, *rnn.parameters()]))
        for got, expected in zip(*grads, strict=True):
            torch.testing.assert_close(got, expected)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("with_hx", [False, True], ids=["zeros", "hx"])
def test_compile_packed(with_hx: bool) -> None:
    rnn = gru_fused.GRU(I, H, bidirectional=True, reset_after=False)
    packed = pack_sequence([torch.randn(n, I) for n in (2, 4, 1)], enforce_sorted=False)
    reset = packed._replace(data=torch.rand(7) < 0.3)
    hx = torch.randn(2, 3, H) if with_hx else None
    output, h_n = torch.compile(rnn, fullgraph=True, backend="aot_eager")(packed, hx, reset=reset)
    expected, last = rnn(packed, hx, reset=reset)
    torch.testing.assert_close(output.data, expected.data)
    torch.testing.assert_close(h_n, last)


@pytest.mark.usefixtures("fresh_dynamo")
def test_other_lengths_do_not_recompile_after_the_second() -> None:
    compiled = torch.compile(gru_fused.GRU(I, H, bidirectional=True), fullgraph=True, backend="aot_eager")

    def call(steps: int, rows: int) -> None:
        lengths = torch.randint(1, steps + 1, (rows,))
        compiled(torch.randn(steps, rows, I), lengths=lengths, reset=torch.rand(steps, rows) < 0.5)

    with torch.no_grad():
        call(4, 2)
        call(5, 3)
        with torch.compiler.set_stance("fail_on_recompile"):
            call(9, 7)


class Marked(torch.nn.Module):
    def __init__(self, rnn: gru_fused.GRU) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, lengths: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnn(x, lengths=lengths, reset=reset)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "nonstrict"])
@pytest.mark.parametrize("name", ["reset_before", "norm_sum", "zoneout"])
def test_export(name: str, strict: bool) -> None:
    module = Marked(gru_fused.GRU(I, H, **OPTIONS[name])).eval()
    steps, rows = Dim("steps", min=2, max=99), Dim("rows", min=2, max=99)
    example = torch.randn(T, B, I), torch.tensor([4, 2]), torch.zeros(T, B, dtype=torch.bool)
    shapes = ({0: steps, 1: rows}, {0: rows}, {0: steps, 1: rows})
    program = export(module, example, dynamic_shapes=shapes, strict=strict)
    given = torch.randn(7, 5, I), torch.tensor([7, 1, 3, 2, 7]), torch.rand(7, 5) < 0.3
    for got, expected in zip(program.module()(*given), module(*given), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """On a CPU the results have the dtype of the state, as nn.GRU's."""
    rnn = gru_fused.GRU(I, H, 2, layer_norm="projections")
    x, marks = torch.randn(T, B, I), {"attention": torch.rand(T, B), "reset": torch.rand(T, B) < 0.3}
    with torch.autocast("cpu", dtype):
        output, h_n = rnn(x, **marks)
    expected, last = rnn(x, **marks)
    assert output.dtype == h_n.dtype == torch.float32 and not torch.equal(output, expected)
    torch.testing.assert_close(output, expected, rtol=0, atol=0.1)
    torch.testing.assert_close(h_n, last, rtol=0, atol=0.1)
    output.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in rnn.parameters())
