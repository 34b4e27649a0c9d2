"""The derivative of one layer, and of one step of a cell.

``apply`` is called only when a gradient is needed: an inference call goes straight to the op and saves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gru_fused import _ops, reference


def apply(
    x: Tensor,
    hx: Tensor,
    batch_sizes: Tensor | None,
    bias: bool,
    weights: Sequence[Tensor],
    recompute: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """One layer: output and h_n. Or, if hx is (B, H), one step of a cell, x (B, I): its state, and None.

    ``recompute`` is for layers: the gates are not saved, their backward makes them again.
    """
    function = Layer if torch._C._are_functorch_transforms_active() else _EagerLayer
    output, h_n, _ = function.apply(x, hx, batch_sizes, bias, recompute, *weights)
    return output, h_n


class Layer(torch.autograd.Function):
    """A layer or a cell with its gradient: output, h_n or None, gates or None; shapes are in csrc/ops/schema.cpp."""

    @staticmethod
    def forward(
        x: Tensor, hx: Tensor, batch_sizes: Tensor | None, bias: bool, recompute: bool, *weights: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if hx.dim() == 2:
            h, gates = _ops.cell_train(x, hx, weights, bias, _ops.tf32(x))
            return h, None, gates
        if recompute:
            return *_ops.forward(x, hx, weights, bias, hx.shape[0] == 2, batch_sizes, _ops.tf32(x)), None
        return _ops.forward_train(x, hx, weights, bias, batch_sizes, _ops.tf32(x))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        x, hx, batch_sizes, bias, _, *weights = inputs
        output, _, gates = outputs
        if gates is not None:
            ctx.mark_non_differentiable(gates)
        ctx.set_materialize_grads(False)
        ctx.bias = bias
        ctx.save_for_backward(output, gates, x, hx, batch_sizes, *weights)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_h_n: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        output, gates, x, hx, batch_sizes, *weights = ctx.saved_tensors
        if grad_output is None and grad_h_n is None:
            return (None,) * len(ctx.needs_input_grad)
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself will be differentiated
            return _differentiable_grads(
                x, hx, batch_sizes, ctx.bias, weights, ctx.needs_input_grad, grad_output, grad_h_n
            )
        need_x, _, _, _, _, *need_weights = ctx.needs_input_grad
        if hx.dim() == 2:
            grads = _ops.cell_backward(
                grad_output, x, hx, output, gates, weights, ctx.bias, need_x, any(need_weights), _ops.tf32(x)
            )
        else:
            grads = _ops.backward(
                grad_output,
                grad_h_n,
                x,
                hx,
                output,
                gates,
                weights,
                ctx.bias,
                batch_sizes,
                need_x,
                any(need_weights),
                _ops.tf32(x),
            )
        grad_hx, *grads = grads
        grad_x = grads.pop(0) if need_x else None
        return grad_x, grad_hx, None, None, None, *(grads or [None] * len(weights))


class _EagerLayer(Layer):
    """The same, for calls outside torch.func: with a context for its first argument, apply costs 10 us less."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        outputs = Layer.forward(*inputs)
        Layer.setup_context(ctx, inputs, outputs)
        return outputs

    setup_context = torch.autograd.Function.setup_context


def _differentiable_grads(
    x: Tensor,
    hx: Tensor,
    batch_sizes: Tensor | None,
    bias: bool,
    weights: list[Tensor],
    needed: tuple[bool, ...],
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The same gradients from torch operations (a loop over time), so that they can be differentiated again."""
    # Views, so that a tensor given twice (tied directions) is two inputs with a gradient each.
    inputs = [None if y is None else y.view_as(y) for y in (x, hx, None, None, None, *weights)]
    x, hx, _, _, _, *weights = inputs
    if hx.dim() == 2:
        output = h_n = reference.gru(x.unsqueeze(0), hx.unsqueeze(0), weights, bias=bias)[1].squeeze(0)
    else:
        output, h_n = reference.gru(x, hx, weights, bias=bias, bidirectional=hx.shape[0] == 2, batch_sizes=batch_sizes)
    pairs = [(value, grad) for value, grad in ((output, grad_output), (h_n, grad_h_n)) if grad is not None]
    wanted = [i for i, need in enumerate(needed) if need]
    values = torch.autograd.grad(
        [value for value, _ in pairs],
        [inputs[i] for i in wanted],
        [grad for _, grad in pairs],
        create_graph=True,
        allow_unused=True,
    )
    grads: list[Tensor | None] = [None] * len(inputs)
    for i, value in zip(wanted, values, strict=True):
        grads[i] = value
    return tuple(grads)
