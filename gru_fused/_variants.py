"""One layer of a variant of the cell: from its options to the op, with its gradient.

Derivatives of the second order, and whatever happens under a transform of torch.func, come from the reference, which is
made of torch operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gru_fused import _autograd, _ops, reference_variants
from gru_fused.options import PLAIN, Options
from gru_fused.reference_variants import ACTIVATIONS, RECURRENCES

Optional = Tensor | None


class Steps(NamedTuple):
    """What a call says of its steps, time first; each may be None."""

    lengths: Optional = None  # int64 (B,): how many steps a row has
    reset: Optional = None  # bool (T, B) or (N,): an episode begins with the step
    attention: Optional = None  # (T, B) or (N,): how much of the update is made


class _Form(NamedTuple):
    """What the op is told of the cell: names here, numbers there."""

    recurrence: str
    gate: str
    candidate: str
    epsilon: float
    reverse: bool

    def numbers(self) -> tuple[int, int, int, float, bool]:
        places = list(ACTIVATIONS)
        return (
            RECURRENCES.index(self.recurrence),
            places.index(self.gate),
            places.index(self.candidate),
            self.epsilon,
            self.reverse,
        )


def layer(
    x: Tensor,
    hx: Tensor,
    weights: Sequence[Tensor],
    norms: Sequence[Tensor],
    bias: bool,
    batch_sizes: Optional,
    options: Options,
    steps: Steps,
    reset_state: Optional,
    recurrent_mask: Optional,
    training: bool,
    recompute: bool,
    needs_grad: bool,
) -> tuple[Tensor, Tensor]:
    """Output and h_n. x (T, B, I) or (N, I), hx, reset_state and recurrent_mask (D, B, H).

    weights, norms: of each direction in turn.
    """
    if options == PLAIN and recurrent_mask is None and all(mark is None for mark in steps):
        if needs_grad:
            return _autograd.apply(x, hx, batch_sizes, bias, weights, recompute)
        return _ops.forward(x, hx, weights, bias, hx.shape[0] == 2, batch_sizes, _ops.tf32(x))
    if options.layer_norm is None:
        recurrence = "reset_after" if options.reset_after else "reset_before"
    else:
        recurrence = "norm_recurrent" if options.layer_norm == "projections" else "norm_sum"
        if steps.lengths is not None:
            x = reference_variants.alive_only(x, steps.lengths)
        x, weights = _normalised(x, weights, norms, bias, options, hx.shape[0])
        bias = True
    form = _Form(recurrence, options.gate_activation, options.activation, options.norm_eps, options.reverse)
    update = _update(x, hx, options, steps, training)
    if recurrent_mask is None and training and options.recurrent_dropout:
        recurrent_mask = F.dropout(torch.ones_like(hx, requires_grad=False), options.recurrent_dropout)
    if _autograd.transformed():
        return reference_variants.layer(
            x, hx, weights, bias, batch_sizes, *form, steps.lengths, steps.reset, reset_state, update, recurrent_mask
        )
    masks = steps.lengths, steps.reset, recurrent_mask
    if needs_grad:
        output, h_n, *_ = _Layer.apply(x, hx, update, reset_state, batch_sizes, *masks, bias, form, recompute, *weights)
        return output, h_n
    return _run(x, hx, update, reset_state, batch_sizes, *masks, bias, form, False, *weights)[:2]


def _normalised(
    x: Tensor, weights: Sequence[Tensor], norms: Sequence[Tensor], bias: bool, options: Options, directions: int
) -> tuple[Tensor, list[Tensor]]:
    """The gates' inputs (T, B, D 3H), and of each direction w_hh, the recurrent norm's gain and b_hh."""
    gates, rest = [], []
    per_direction = len(weights) // directions
    for d in range(directions):
        w_ih, w_hh, *biases = weights[d * per_direction : (d + 1) * per_direction]
        b_ih, b_hh = biases if bias else (None, torch.zeros_like(w_hh[:, 0]))
        if options.layer_norm == "projections":
            gain_ih, gain_hh = norms[2 * d : 2 * d + 2]
            gates.append(F.layer_norm(F.linear(x, w_ih), gain_ih.shape, gain_ih, b_ih, options.norm_eps))
        else:
            gain_hh = norms[d]
            gates.append(F.linear(x, w_ih, b_ih))
        rest += [w_hh, gain_hh, b_hh]
    return torch.cat(gates, -1), rest


def _update(x: Tensor, hx: Tensor, options: Options, steps: Steps, training: bool) -> Optional:
    """How much of the update is made: (D, T, B, H or 1) or (D, N, H or 1), None for all of it."""
    directions, _, hidden = hx.shape
    update = None
    if options.zoneout:
        shape = directions, *x.shape[:-1], hidden
        if training:
            update = x.new_empty(shape).bernoulli_(1 - options.zoneout)
        else:
            update = x.new_full((), 1 - options.zoneout).expand(*shape[:-1], 1)
    if steps.attention is not None:
        attention = steps.attention.unsqueeze(-1).expand(directions, *steps.attention.shape, 1)
        update = attention if update is None else attention * update
    return update


def _run(
    x: Tensor,
    hx: Tensor,
    update: Optional,
    reset_state: Optional,
    batch_sizes: Optional,
    lengths: Optional,
    reset: Optional,
    dropout: Optional,
    bias: bool,
    form: _Form,
    save: bool,
    *weights: Tensor,
) -> tuple[Tensor, ...]:
    masks = lengths, reset, reset_state, update, dropout
    return _ops.variant(x, hx, weights, bias, batch_sizes, *form.numbers(), *masks, save, _ops.tf32(x))


class _Layer(torch.autograd.Function):
    """The op with its gradient: output, h_n, and what is saved."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *tensors, bias, form, recompute = inputs[:11]
        weights = inputs[11:]
        output, h_n, *saved = _run(*tensors, bias, form, not recompute, *weights)
        ctx.mark_non_differentiable(*saved)
        ctx.set_materialize_grads(False)
        ctx.bias, ctx.form, ctx.recompute = bias, form, recompute
        ctx.save_for_backward(output, *saved, *tensors, *weights)
        return output, h_n, *saved

    @staticmethod
    def backward(ctx: Any, grad_output: Optional, grad_h_n: Optional, *_: None) -> tuple[Optional, ...]:
        needs = ctx.needs_input_grad
        if grad_output is None and grad_h_n is None:
            return (None,) * len(needs)
        output, gates, normal, scale, *tensors = ctx.saved_tensors[:12]
        weights = ctx.saved_tensors[12:]
        need_x, _, need_update, need_reset_state = needs[:4]
        need_weights = any(needs[11:])
        if torch.is_grad_enabled():  # create_graph=True: the gradient itself will be differentiated
            return _by_reference(ctx, grad_output, grad_h_n, tensors, weights)
        if ctx.recompute:
            gates, normal, scale = _run(*tensors, ctx.bias, ctx.form, True, *weights)[2:]
        x, hx, update, reset_state, batch_sizes, lengths, reset, dropout = tensors
        grads = iter(
            _ops.variant_backward(
                grad_output,
                grad_h_n,
                x,
                hx,
                output,
                gates,
                normal,
                scale,
                weights,
                ctx.bias,
                batch_sizes,
                *ctx.form.numbers(),
                lengths,
                reset,
                reset_state,
                update,
                dropout,
                need_x,
                need_weights,
                need_update,
                need_reset_state,
                _ops.tf32(x),
            )
        )
        grad_hx = next(grads)
        grad_x = next(grads) if need_x else None
        of_weights = [next(grads) if need_weights else None for _ in weights]
        grad_update = _like(next(grads), update) if need_update else None
        grad_reset_state = next(grads) if need_reset_state else None
        return grad_x, grad_hx, grad_update, grad_reset_state, *[None] * 7, *of_weights


def _like(grad: Tensor, update: Tensor) -> Tensor:
    """The gradient (D, rows, H) in the shape of update."""
    return grad.reshape(*update.shape[:-1], grad.shape[-1]).sum_to_size(update.shape)


def _by_reference(
    ctx: Any, grad_output: Optional, grad_h_n: Optional, tensors: Sequence[Optional], weights: Sequence[Tensor]
) -> tuple[Optional, ...]:
    x, hx, update, reset_state, batch_sizes, lengths, reset, dropout = tensors
    masks = lengths, reset, reset_state, update, dropout
    results = reference_variants.layer(x, hx, weights, ctx.bias, batch_sizes, *ctx.form, *masks)
    given = [(y, grad) for y, grad in zip(results, (grad_output, grad_h_n), strict=True) if grad is not None]
    inputs = [*tensors, None, None, None, *weights]
    wanted = [y for y, needed in zip(inputs, ctx.needs_input_grad, strict=True) if needed]
    outputs, cotangents = zip(*given, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, cotangents, create_graph=True, allow_unused=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
