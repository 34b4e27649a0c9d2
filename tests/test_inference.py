"""A call that needs no gradient saves nothing for a backward."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import gru_fused
from gru_fused import _ops


class Ops(TorchDispatchMode):
    """Records the ops that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[torch._ops.OpOverload] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.called.append(func)
        return func(*args, **(kwargs or {}))


INFERENCE = {gru_fused.GRU: _ops.forward, gru_fused.GRUCell: _ops.cell}


def ours(called: list[torch._ops.OpOverload]) -> set[torch._ops.OpOverload]:
    return {op for op in called if op.namespace == "gru_fused"}


@pytest.mark.parametrize("cls", [gru_fused.GRU, gru_fused.GRUCell])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_without_grad_mode_the_inference_op_runs(cls: type, mode: type) -> None:
    module = cls(3, 4)
    x = torch.randn(2, 3)
    with mode(), Ops() as ops:
        module(x)
    assert ours(ops.called) == {INFERENCE[cls]}


@pytest.mark.parametrize("cls", [gru_fused.GRU, gru_fused.GRUCell])
def test_frozen_weights_and_plain_inputs_run_the_inference_op(cls: type) -> None:
    module = cls(3, 4).requires_grad_(False)
    with Ops() as ops:
        result = module(torch.randn(2, 3))
    assert ours(ops.called) == {INFERENCE[cls]}
    output = result[0] if isinstance(result, tuple) else result
    assert output.grad_fn is None


@pytest.mark.parametrize("needing", ["x", "hx", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_one_tensor_that_needs_a_gradient_is_enough_to_save(needing: str) -> None:
    rnn = gru_fused.GRU(3, 4).requires_grad_(False)
    inputs = {"x": torch.randn(5, 2, 3), "hx": torch.randn(1, 2, 4)}
    needed = (inputs | dict(rnn.named_parameters()))[needing]
    needed.requires_grad_()
    with Ops() as ops:
        output, _ = rnn(inputs["x"], inputs["hx"])
    assert ours(ops.called) == {_ops.forward_train}
    (grad,) = torch.autograd.grad(output.sum(), [needed])
    assert grad.shape == needed.shape and grad.abs().sum() > 0


def test_inference_saves_no_tensor() -> None:
    saved = []
    rnn = gru_fused.GRU(3, 4, num_layers=2)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda _: None):
        with torch.no_grad():
            rnn(torch.randn(5, 2, 3))
        assert not saved
        rnn(torch.randn(5, 2, 3))
    assert saved


def test_the_loop_over_time_is_inside_one_op() -> None:
    """The number of ops does not depend on the number of steps, forward or backward."""
    rnn = gru_fused.GRU(3, 4, num_layers=2, bidirectional=True)
    counts = []
    for steps in (1, 40):
        with Ops() as ops:
            output, _ = rnn(torch.randn(steps, 2, 3))
            output.sum().backward()
        counts.append(len(ops.called))
        rnn.zero_grad(set_to_none=True)
    assert counts[0] == counts[1]
