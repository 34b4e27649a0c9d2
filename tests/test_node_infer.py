"""Inference that does not go past the dispatcher goes to its op by the node's module, and gives torch.ops' results."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Case, data_of, outcome, with_data
from torch import Tensor, nn
from torch.overrides import BaseTorchFunctionMode

import gru_fused
from gru_fused import _ops, functional

pytestmark = pytest.mark.skipif(_ops.node is None, reason="this installation's node is of another torch")

CASES = [Case(layers=3, bidirectional=True), Case(lengths=(2, 7, 1), H=33, layers=2), Case(B=17, bias=False, hx=False)]


class Marked(Tensor):
    pass


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the module took each call that it was offered."""
    answers: list[bool] = []

    def spy(name: str) -> Any:
        def call(*args: Any) -> Any:
            results = getattr(node, name)(*args)
            answers.append(results is not None)
            return results

        return call

    node = _ops.node
    monkeypatch.setattr(_ops, "node", SimpleNamespace(infer=spy("infer"), infer_cell=spy("infer_cell")))
    return answers


def by_torch_ops(call: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ops, "node", None)
        return call()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_layers(taken: list[bool], case: Case, dtype: torch.dtype) -> None:
    rnn = case.module(gru_fused.GRU, dtype).requires_grad_(False)  # in grad mode, which needs the op
    x, hx = case.inputs(dtype)
    output, h_n = rnn(x, hx)
    assert taken == [True]
    expected, last = by_torch_ops(lambda: rnn(x, hx))
    assert torch.equal(data_of(output), data_of(expected)) and torch.equal(h_n, last)


def test_a_cell(taken: list[bool]) -> None:
    cell = gru_fused.GRUCell(5, 33).requires_grad_(False)
    x, hx = torch.randn(4, 5), torch.randn(4, 33)
    assert torch.equal(cell(x, hx), by_torch_ops(lambda: cell(x, hx)))
    assert taken == [True]


@pytest.mark.parametrize("place", ["input", "hx", "weight", "batch_sizes"])
def test_subclasses_go_by_torch_ops(taken: list[bool], place: str) -> None:
    case = Case(lengths=(4, 2)) if place == "batch_sizes" else Case()
    rnn = case.module(gru_fused.GRU).requires_grad_(False)
    x, hx = case.inputs()
    expected = rnn(x, hx)[1]
    assert taken.pop()
    if place == "input":
        x = with_data(x, data_of(x).as_subclass(Marked))
    elif place == "hx":
        hx = hx.as_subclass(Marked)
    elif place == "weight":
        rnn.weight_hh_l0 = nn.Parameter(rnn.weight_hh_l0.detach().as_subclass(Marked), requires_grad=False)
    else:
        x = x._replace(batch_sizes=x.batch_sizes.as_subclass(Marked))
    h_n = rnn(x, hx)[1]
    assert isinstance(h_n, Marked) and taken == [False]
    assert torch.equal(h_n.as_subclass(Tensor), expected)


def test_a_function_mode_sees_the_op(taken: list[bool]) -> None:
    seen = []

    class Watch(BaseTorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs)

    with Watch():
        gru_fused.GRU(3, 4).requires_grad_(False)(torch.randn(5, 2, 3))
    assert torch.ops.gru_fused.gru_forward.default in seen and not taken


WRONG = {
    "inputs": lambda x, hx, w: functional.gru(x[..., 1:], hx, w),
    "dtype": lambda x, hx, w: functional.gru(x, hx.double(), w),
    "a state of a cell": lambda x, hx, w: functional.gru(x, hx[0], w),
    "a cell's batch": lambda x, hx, w: functional.gru_cell(x[0, :1], hx[0], *w),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors(wrong: str) -> None:
    weights = [p.detach() for p in nn.GRU(3, 4).parameters()]
    x, hx = torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    ours = outcome(lambda: WRONG[wrong](x, hx, weights))
    assert ours == by_torch_ops(lambda: outcome(lambda: WRONG[wrong](x, hx, weights)))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference", "no-grad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_new_tensors_are_those_of_new_empty(poisoned: None, dtype: torch.dtype, mode: Any) -> None:
    with mode():
        x = torch.zeros(2, 3, dtype=dtype)
        made, expected = _ops.node.empty(x, 4, 0, 5), x.new_empty(4, 0, 5)
        filled = _ops.node.empty(x, 7, 2)
    assert (made.shape, made.dtype, made.stride()) == (expected.shape, expected.dtype, expected.stride())
    assert type(made) is Tensor and made.is_inference() == expected.is_inference() and not made.requires_grad
    assert filled.isnan().all()  # by the dispatcher: torch fills what is not initialized, if it is asked to


@pytest.mark.parametrize(
    "arguments, error",
    [((), TypeError), ((3,), TypeError), ((torch.zeros(1), 1.5), TypeError), ((torch.zeros(1), -1), RuntimeError)],
    ids=["nothing", "no-tensor", "half", "negative"],
)
def test_new_tensors_refuse_what_new_empty_refuses(arguments: tuple[Any, ...], error: type[Exception]) -> None:
    with pytest.raises(error):
        _ops.node.empty(*arguments)
