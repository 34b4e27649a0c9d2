"""The derivatives of one layer as plain functions of tensors: backward, tangent, and the tangent of the backward.

The recurrences are the ops'; the products with x and with the weights' tangents, which have none, are torch's over all
steps at once. Letters as in csrc/ops/schema.cpp; "_t" is the tangent of what stands before it, None for zero. A cell,
hx (B, H), is a layer of one step and one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gru_fused import _ops, reference

Optional = Tensor | None


def backward(
    bias: bool,
    need_x: bool,
    need_weights: bool,
    grad_output: Optional,
    grad_h_n: Optional,
    output: Tensor,
    gates: Optional,
    batch_sizes: Optional,
    x: Tensor,
    hx: Tensor,
    *weights: Tensor,
) -> tuple[Optional, ...]:
    """The gradients of x (None if not needed), hx and the weights (None if not needed)."""
    if hx.dim() == 2:
        grads = _ops.cell_backward(grad_output, x, hx, output, gates, weights, bias, need_x, need_weights, _ops.tf32(x))
    else:
        grads = _ops.backward(
            grad_output, grad_h_n, x, hx, output, gates, weights, bias, batch_sizes, need_x, need_weights, _ops.tf32(x)
        )
    grad_hx, *rest = grads
    grad_x, weight_grads = (rest[0], rest[1:]) if need_x else (None, rest)
    return grad_x, grad_hx, *(weight_grads or [None] * len(weights))


def tangent(
    bias: bool,
    output: Tensor,
    gates: Optional,
    batch_sizes: Optional,
    primals: Sequence[Tensor],
    tangents: Sequence[Optional],
) -> tuple[Tensor, Optional, Tensor]:
    """The tangents of output, h_n (None for a cell) and gates, from those of x, hx and the weights."""
    if primals[1].dim() == 2:
        output_t, _, gates_t = tangent(bias, output[None], gates, None, _layer(primals), _layer(tangents))
        return output_t[0], None, gates_t
    x, hx, *weights = primals
    x_t, hx_t, *weights_t = tangents
    if gates is None:
        gates = _ops.forward_train(x, hx, weights, bias, batch_sizes, _ops.tf32(x))[2]
    H = hx.shape[2]
    step = 4 if bias else 2
    given_t = x.new_zeros(*gates.shape)
    before = _states_before(output, hx, batch_sizes)
    for d, rows in enumerate(given_t):
        of_input, of_both, of_new = rows[:, : 3 * H], rows[:, : 2 * H], rows[:, 3 * H :]
        w_ih, _, *_ = weights[d * step : (d + 1) * step]
        w_ih_t, w_hh_t, *biases_t = weights_t[d * step : (d + 1) * step]
        b_ih_t, b_hh_t = biases_t or (None, None)
        if x_t is not None:
            of_input.addmm_(x_t.flatten(0, -2), w_ih.T)
        if w_ih_t is not None:
            of_input.addmm_(x.flatten(0, -2), w_ih_t.T)
        if w_hh_t is not None:
            of_both.addmm_(before[d], w_hh_t[: 2 * H].T)
            of_new.addmm_(before[d], w_hh_t[2 * H :].T)
        if b_ih_t is not None:
            of_input += b_ih_t
        if b_hh_t is not None:
            of_both += b_hh_t[: 2 * H]
            of_new += b_hh_t[2 * H :]
    hx_t = torch.zeros_like(hx) if hx_t is None else hx_t
    return _ops.tangent(given_t, hx_t, hx, output, gates, weights[1::step], batch_sizes)


def tangent_backward(
    bias: bool,
    need_x: bool,
    need_weights: bool,
    grads: tuple[Optional, Optional],
    grads_t: tuple[Optional, Optional],
    output: Tensor,
    gates: Optional,
    output_t: Tensor,
    gates_t: Tensor,
    batch_sizes: Optional,
    primals: Sequence[Tensor],
    tangents: Sequence[Optional],
) -> tuple[Optional, ...]:
    """The tangents of backward's results, for cotangents (of output and h_n) that have tangents of their own.

    Second derivatives commute: with ``grads_t`` zero these are also the gradients of x, hx and the weights of
    <tangent(tangents), grads>.
    """
    if primals[1].dim() == 2:
        one_step = ((None if y is None else y[None] for y in pair) for pair in (grads, grads_t))
        (grad_output, _), (grad_output_t, _) = one_step
        grad_x_t, grad_hx_t, *weight_grads = tangent_backward(
            bias,
            need_x,
            need_weights,
            (grad_output, None),
            (grad_output_t, None),
            output[None],
            gates,
            output_t[None],
            gates_t,
            None,
            _layer(primals),
            _layer(tangents),
        )
        return None if grad_x_t is None else grad_x_t[0], grad_hx_t[0], *weight_grads
    x, hx, *weights = primals
    x_t, hx_t, *weights_t = tangents
    if gates is None:
        gates = _ops.forward_train(x, hx, weights, bias, batch_sizes, _ops.tf32(x))[2]
    hx_t = torch.zeros_like(hx) if hx_t is None else hx_t
    H = hx.shape[2]
    step = 4 if bias else 2
    w_hh, w_hh_t = weights[1::step], weights_t[1::step]
    if any(w is not None for w in w_hh_t):
        w_hh_t = [torch.zeros_like(w) if w_t is None else w_t for w, w_t in zip(w_hh, w_hh_t, strict=True)]
    else:
        w_hh_t = []
    _, grad_hx_t, d, d_t = _ops.tangent_backward(
        *grads, *grads_t, hx, output, gates, hx_t, output_t, gates_t, w_hh, w_hh_t, batch_sizes
    )

    grad_x_t = None
    if need_x:
        grad_x_t = torch.zeros_like(x, memory_format=torch.contiguous_format)
        for i in range(len(w_hh)):
            rows = grad_x_t.view(-1, x.shape[-1]).addmm_(d_t[i, :, H:], weights[i * step])
            if weights_t[i * step] is not None:
                rows.addmm_(d[i, :, H:], weights_t[i * step])
    if not need_weights:
        return grad_x_t, grad_hx_t, *([None] * len(weights))
    weight_grads = []
    before, before_t = (_states_before(*pair, batch_sizes) for pair in ((output, hx), (output_t, hx_t)))
    for i in range(len(w_hh)):
        of_input, of_input_t = d[i, :, H:], d_t[i, :, H:]  # a row is a_nr, a_r, a_z, a_n
        grad_w_ih = of_input_t.T @ x.flatten(0, -2)
        if x_t is not None:
            grad_w_ih.addmm_(of_input.T, x_t.flatten(0, -2))
        grad_w_hh = d_t[i, :, : 3 * H].T @ before[i] + d[i, :, : 3 * H].T @ before_t[i]
        weight_grads += [grad_w_ih, grad_w_hh.roll(-H, 0)]
        if bias:
            weight_grads += [of_input_t.sum(0), d_t[i, :, : 3 * H].sum(0).roll(-H)]
    return grad_x_t, grad_hx_t, *weight_grads


def by_torch(
    bias: bool,
    grads: tuple[Optional, Optional],
    grads_t: tuple[Optional, Optional],
    batch_sizes: Optional,
    primals: Sequence[Tensor],
    tangents: Sequence[Optional],
) -> tuple[Tensor, ...]:
    """tangent_backward made of torch operations (a loop over time), which any further derivative can go through."""

    def gradients(*given: Tensor) -> tuple[Tensor, ...]:
        grads, primals = given[: len(results)], given[len(results) :]
        return torch.func.vjp(lambda *y: forward_by_torch(bias, batch_sizes, y), *primals)[1](grads)

    results = forward_by_torch(bias, batch_sizes, [y.detach() for y in primals])
    grads, grads_t = (_filled(given, results) for given in (grads, grads_t))
    tangents = _filled(tangents, primals)
    return jvp(gradients, (*grads, *primals), (*grads_t, *tangents))


def tangent_by_torch(
    bias: bool, batch_sizes: Optional, primals: Sequence[Tensor], tangents: Sequence[Optional]
) -> tuple[Tensor, ...]:
    """The tangents of output and, for a layer, h_n, made of torch operations."""
    function = lambda *y: forward_by_torch(bias, batch_sizes, y)  # noqa: E731
    return jvp(function, primals, _filled(tangents, primals))


def jvp(
    function: Callable[..., tuple[Tensor, ...]], primals: Sequence[Tensor], tangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The tangents of the function's results, by differentiating twice in reverse: its gradients are linear in their
    cotangents. Forward mode takes no expanded primal, which a sum's cotangent is, and dynamo does not nest it.
    """
    results, pull = torch.func.vjp(function, *primals)
    _, push = torch.func.vjp(pull, tuple(torch.zeros_like(y) for y in results))
    return push(tuple(tangents))[0]


def forward_by_torch(bias: bool, batch_sizes: Optional, primals: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Output and, for a layer, h_n, by gru_fused.reference."""
    x, hx, *weights = primals
    if hx.dim() == 2:
        return (reference.gru_cell(x, hx, *weights),)
    return reference.gru(x, hx, weights, bias=bias, bidirectional=hx.shape[0] == 2, batch_sizes=batch_sizes)


def _filled(values: Sequence[Optional], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Zeros for None."""
    return tuple(torch.zeros_like(y) if v is None else v for v, y in zip(values, like, strict=False))


def _layer(of_cell: Sequence[Optional]) -> list[Optional]:
    x, hx, *weights = of_cell
    return [None if x is None else x[None], None if hx is None else hx[None], *weights]


def _states_before(output: Tensor, hx: Tensor, batch_sizes: Optional) -> Tensor:
    """The states before each step of each direction: (D, rows, H)."""
    D, _, H = hx.shape
    if batch_sizes is None:
        ahead, *back = output.split(H, -1)
        before = [torch.cat([hx[:1], ahead[:-1]])]
        if back:
            before.append(torch.cat([back[0][1:], hx[1:]]))
        return torch.stack(before).view(D, -1, H)
    # Row s of step t stands after row s of the step before it, or after hx: places in a table of hx and all states, as
    # tensors, so that torch.compile need not know the sizes.
    begins = batch_sizes.cumsum(0) - batch_sizes
    rows = torch.arange(output.shape[0])
    step = torch.repeat_interleave(torch.arange(batch_sizes.shape[0]), batch_sizes, output_size=output.shape[0])
    sequence = rows - begins[step]
    first = hx.shape[1]  # of the table's rows that are states
    places = [torch.where(step > 0, first + begins[step - 1] + sequence, sequence)]
    if D == 2:
        next_sizes = torch.cat([batch_sizes[1:], batch_sizes.new_zeros(1)])[step]
        places.append(torch.where(sequence < next_sizes, first + rows + batch_sizes[step], sequence))
    tables = (torch.cat([hx[d], states]) for d, states in enumerate(output.split(H, -1)))
    return torch.stack([table[place.to(table.device)] for table, place in zip(tables, places, strict=True)])
