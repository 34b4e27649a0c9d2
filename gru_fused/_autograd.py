"""The derivative of one layer's recurrence.

``Recurrence.apply`` takes what the forward op takes and returns its output, h_n and saved gates. Entered only when a
gradient is needed: an inference call goes straight to the op and saves nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gru_fused import _ops, reference


class Recurrence(torch.autograd.Function):
    """Arguments: gi, gi_reverse, hx, w_hh, w_hh_reverse, b_hh, b_hh_reverse, batch_sizes (shapes: csrc/ops/schema.cpp)."""

    @staticmethod
    def forward(*inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return _ops.forward_train(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor, Tensor, Tensor]) -> None:
        output, _, gates = outputs
        ctx.mark_non_differentiable(gates)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output, gates, *inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_h_n: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        output, gates, *inputs = ctx.saved_tensors
        if grad_output is None and grad_h_n is None:
            return (None,) * len(inputs)
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself will be differentiated
            return _differentiable_grads(inputs, ctx.needs_input_grad, grad_output, grad_h_n)

        _, gi_reverse, hx, w_hh, w_hh_reverse, _, _, batch_sizes = inputs
        grad_gates, h_prev, grad_hx = _ops.backward(
            grad_output, grad_h_n, output, gates, hx, w_hh, w_hh_reverse, batch_sizes
        )
        needs_gi, needs_gi_reverse, needs_hx, needs_w, needs_w_reverse, needs_b, needs_b_reverse, _ = (
            ctx.needs_input_grad
        )
        hidden = w_hh.shape[1]
        grads: list[Tensor | None] = [None] * len(inputs)
        if needs_hx:
            grads[2] = grad_hx
        needed = [(needs_gi, needs_w, needs_b), (needs_gi_reverse, needs_w_reverse, needs_b_reverse)]
        for direction in range(1 if gi_reverse is None else 2):
            gi_needed, w_needed, b_needed = needed[direction]
            if gi_needed:
                grads[direction] = grad_gates[direction][..., hidden:]
            # The rows' first 3H numbers are d_gh with the n block in front.
            grad_gh = grad_gates[direction].view(-1, 4 * hidden)[:, : 3 * hidden]
            if w_needed:
                grads[3 + direction] = _block_n_last(grad_gh.t() @ h_prev[direction].view(-1, hidden), hidden)
            if b_needed:
                grads[5 + direction] = _block_n_last(grad_gh.sum(0), hidden)
        return tuple(grads)


def _block_n_last(rows: Tensor, hidden: int) -> Tensor:
    """From the order n, r, z of the gates' blocks along the first axis to r, z, n."""
    return torch.cat([rows[hidden:], rows[:hidden]])


def _differentiable_grads(
    inputs: list[Tensor | None],
    needed: tuple[bool, ...],
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """The same gradients from torch operations (a loop over time), so that they can be differentiated again."""
    # Views, so that a tensor given twice (tied directions) is two inputs with a gradient each.
    inputs = [None if x is None else x.view_as(x) for x in inputs]
    gi, gi_reverse, hx, w_hh, w_hh_reverse, b_hh, b_hh_reverse, batch_sizes = inputs
    output, last = reference.scan(gi, hx[0], w_hh, b_hh, batch_sizes=batch_sizes)
    outputs, lasts = [output], [last]
    if gi_reverse is not None:
        output, last = reference.scan(
            gi_reverse, hx[1], w_hh_reverse, b_hh_reverse, reverse=True, batch_sizes=batch_sizes
        )
        outputs.append(output)
        lasts.append(last)
    pairs = [(torch.cat(outputs, -1), grad_output), (torch.stack(lasts), grad_h_n)]
    pairs = [(value, grad) for value, grad in pairs if grad is not None]
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
