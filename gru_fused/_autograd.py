"""The derivatives of one layer, and of one step of a cell, as torch's automatic differentiation takes them.

Four functions, each with its own derivatives in terms of the others: Layer, its backward, its tangent, and the tangent
of its backward, which is the backward of its tangent as well. Derivatives of the third order and beyond go through
torch operations. ``apply`` is called only when a derivative is needed: an inference call goes straight to the op and
saves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gru_fused import _ops, _sweeps
from gru_fused._vmap import vmap

Optional = Tensor | None


_in_torch_func = torch._C._are_functorch_transforms_active


def transformed() -> bool:
    """Whether a transform of torch.func or forward-mode differentiation is under way."""
    return _in_torch_func() or forward_ad._current_level >= 0


def apply(
    x: Tensor,
    hx: Tensor,
    batch_sizes: Optional,
    bias: bool,
    weights: Sequence[Tensor],
    recompute: bool = False,
) -> tuple[Tensor, Optional]:
    """One layer: output and h_n. Or, if hx is (B, H), one step of a cell, x (B, I): its state, and None.

    ``recompute`` is for layers: the gates are not saved, their backward makes them again.
    """
    function: Callable[..., tuple[Tensor, Optional, Optional]] = _PlainLayer.apply
    if transformed():
        function = _apply_transformed
    elif node := _ops.node_now():
        results = node.apply(x, hx, weights, bias, batch_sizes, bool(recompute))
        if results is not None:
            return results
    output, h_n, _ = function(x, hx, batch_sizes, bias, recompute, *weights)
    return output, h_n


@torch.compiler.allow_in_graph
def _apply_transformed(*args: Any) -> tuple[Tensor, Optional, Optional]:
    """Dynamo refuses a Function with a jvp or vmap of its own; the compiler behind it sees through it."""
    return Layer.apply(*args)


class _PlainLayer(torch.autograd.Function):
    """A layer or a cell with its gradient: output, h_n or None, gates or None; shapes are in csrc/ops/schema.cpp.

    For calls outside of transforms: with a context for its first argument, apply costs 10 us less; dynamo traces it.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Optional, Optional]:
        outputs = _forward(*inputs)
        _save(ctx, inputs, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, grad_output: Optional, grad_h_n: Optional, _: None) -> tuple[Optional, ...]:
        output, gates, batch_sizes, *primals = ctx.saved_tensors
        if grad_output is None and grad_h_n is None:
            return (None,) * len(ctx.needs_input_grad)
        need_x, _, _, _, _, *need_weights = ctx.needs_input_grad
        # create_graph=True: the gradient itself will be differentiated
        backward = Backward.apply if torch.is_grad_enabled() else _sweeps.backward
        needs = need_x, any(need_weights)
        grad_x, grad_hx, *grads = backward(
            ctx.bias, *needs, grad_output, grad_h_n, output, gates, batch_sizes, *primals
        )
        return grad_x, grad_hx, None, None, None, *grads


class Layer(_PlainLayer):
    """The same for transforms."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Optional, Optional]:
        return _forward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.save_for_forward(*_save(ctx, inputs, outputs))

    @staticmethod
    def jvp(ctx: Any, x_t: Optional, hx_t: Optional, *rest: Optional) -> tuple[Optional, ...]:
        output, gates, batch_sizes, *primals = ctx.saved_tensors
        output_t, h_n_t, _ = Tangent.apply(ctx.bias, output, gates, batch_sizes, *primals, x_t, hx_t, *rest[3:])
        return output_t, h_n_t, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        return vmap(Layer, info.batch_size, in_dims, args, batch_sizes=2, weights=range(5, len(args)))


def _forward(
    x: Tensor, hx: Tensor, batch_sizes: Optional, bias: bool, recompute: bool, *weights: Tensor
) -> tuple[Tensor, Optional, Optional]:
    if hx.dim() == 2:
        h, gates = _ops.cell_train(x, hx, weights, bias, _ops.tf32(x))
        return h, None, gates
    if recompute:
        return *_ops.forward(x, hx, weights, bias, hx.shape[0] == 2, batch_sizes, _ops.tf32(x)), None
    return _ops.forward_train(x, hx, weights, bias, batch_sizes, _ops.tf32(x))


def _save(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> tuple[Optional, ...]:
    x, hx, batch_sizes, bias, _, *weights = inputs
    output, _, gates = outputs
    if gates is not None:
        ctx.mark_non_differentiable(gates)
    ctx.set_materialize_grads(False)
    ctx.bias = bias
    saved = output, gates, batch_sizes, x, hx, *weights
    ctx.save_for_backward(*saved)
    return saved


class _Saving(torch.autograd.Function):
    """Keeps its arguments for its derivatives: the tensors as torch wants it, the others as they are."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.options = [None if isinstance(y, Tensor) else y for y in inputs]
        tensors = [y if isinstance(y, Tensor) else None for y in inputs]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)


def _arguments(ctx: Any) -> list[Any]:
    return [option if y is None else y for option, y in zip(ctx.options, ctx.saved_tensors, strict=False)]


class Backward(_Saving):
    """_sweeps.backward; the gradients of x, hx and the weights.

    bias, need_x, need_weights; grad_output, grad_h_n; output, gates, batch_sizes; x, hx, weights. Output and gates are
    taken for what they are, functions of x, hx and the weights, and get no gradients.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[Optional, ...]:
        return _sweeps.backward(*args)

    @staticmethod
    def backward(ctx: Any, *v: Optional) -> tuple[Optional, ...]:
        bias, _, _, grad_output, grad_h_n, output, gates, batch_sizes, *primals = _arguments(ctx)
        forward = output, gates, batch_sizes
        if all(y is None for y in v):
            return (None,) * len(ctx.needs_input_grad)
        output_t, h_n_t, gates_t = Tangent.apply(bias, *forward, *primals, *v)
        need_x, need_hx, *need_weights = ctx.needs_input_grad[8:]
        grads: tuple[Optional, ...] = (None,) * len(primals)
        if need_x or need_hx or any(need_weights):
            needs = need_x, any(need_weights)
            both = grad_output, grad_h_n, None, None
            grads = TangentBackward.apply(
                bias, *needs, *both, output, gates, output_t, gates_t, batch_sizes, *primals, *v
            )
        of_grads = output_t if grad_output is not None else None, h_n_t if grad_h_n is not None else None
        return None, None, None, *of_grads, None, None, None, *grads

    @staticmethod
    def jvp(ctx: Any, *given: Optional) -> tuple[Optional, ...]:
        bias, need_x, need_weights, grad_output, grad_h_n, output, gates, batch_sizes, *primals = _arguments(ctx)
        grads_t, tangents = given[3:5], given[8:]
        output_t, _, gates_t = Tangent.apply(bias, output, gates, batch_sizes, *primals, *tangents)
        both = grad_output, grad_h_n, *grads_t
        return TangentBackward.apply(
            bias, need_x, need_weights, *both, output, gates, output_t, gates_t, batch_sizes, *primals, *tangents
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        weights = range(10, len(args))
        return vmap(Backward, info.batch_size, in_dims, args, batch_sizes=7, weights=weights, each=args[2])


class Tangent(_Saving):
    """_sweeps.tangent; the tangents of output, h_n (None for a cell) and gates.

    bias, output, gates, batch_sizes; x, hx, weights; their tangents.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, Optional, Tensor]:
        return _sweeps.tangent(*args[:4], *_halves(args[4:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        output_t, _, gates_t = outputs
        _Saving.setup_context(ctx, (*inputs, output_t, gates_t), outputs)
        ctx.mark_non_differentiable(gates_t)

    @staticmethod
    def backward(ctx: Any, grad_output: Optional, grad_h_n: Optional, _: None) -> tuple[Optional, ...]:
        bias, output, gates, batch_sizes, *rest, output_t, gates_t = _arguments(ctx)
        primals, tangents = _halves(rest)
        if grad_output is None and grad_h_n is None:
            return (None,) * len(ctx.needs_input_grad)
        need_primals, need_tangents = _halves(ctx.needs_input_grad[4:])
        of_primals: tuple[Optional, ...] = (None,) * len(primals)
        of_tangents = of_primals
        both = grad_output, grad_h_n
        if any(need_primals):
            of_primals = TangentBackward.apply(
                bias,
                need_primals[0],
                any(need_primals[2:]),
                *both,
                None,
                None,
                output,
                gates,
                output_t,
                gates_t,
                batch_sizes,
                *primals,
                *tangents,
            )
        if any(need_tangents):
            needs = need_tangents[0], any(need_tangents[2:])
            of_tangents = Backward.apply(bias, *needs, *both, output, gates, batch_sizes, *primals)
            of_tangents = tuple(y if need else None for y, need in zip(of_tangents, need_tangents, strict=True))
        return None, None, None, None, *of_primals, *of_tangents

    @staticmethod
    def jvp(ctx: Any, *given: Optional) -> tuple[Optional, ...]:
        bias, _, _, batch_sizes, *rest, _, _ = _arguments(ctx)

        def function(*values: Optional) -> tuple[Tensor, ...]:
            return _sweeps.tangent_by_torch(bias, batch_sizes, *_halves(values))

        results = _jvp(function, rest, given[4:])
        return *results, *(None,) * (3 - len(results))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        half = (len(args) - 4) // 2
        weights = [*range(6, 4 + half), *range(6 + half, len(args))]
        return vmap(Tangent, info.batch_size, in_dims, args, batch_sizes=3, weights=weights)


class TangentBackward(_Saving):
    """_sweeps.tangent_backward; the tangents of the gradients of x, hx and the weights.

    bias, need_x, need_weights; grad_output, grad_h_n, their tangents; output, gates, their tangents; batch_sizes; x,
    hx, weights; their tangents. Its own derivatives are made by torch.
    """

    @staticmethod
    def forward(*args: Any) -> tuple[Optional, ...]:
        return _sweeps.tangent_backward(*args[:3], args[3:5], args[5:7], *args[7:12], *_halves(args[12:]))

    @staticmethod
    def by_torch(ctx: Any) -> tuple[Callable[..., tuple[Optional, ...]], list[Optional]]:
        """The same by torch as a function of the differentiable arguments, and these."""
        bias, need_x, need_weights, *rest = _arguments(ctx)
        batch_sizes = rest[8]

        def function(*values: Optional) -> tuple[Optional, ...]:
            grads = _sweeps.by_torch(bias, values[:2], values[2:4], batch_sizes, *_halves(values[4:]))
            return grads[0] if need_x else None, grads[1], *(y if need_weights else None for y in grads[2:])

        return function, [*rest[:4], *rest[9:]]

    @staticmethod
    def backward(ctx: Any, *v: Optional) -> tuple[Optional, ...]:
        function, values = TangentBackward.by_torch(ctx)
        needed = [*ctx.needs_input_grad[3:7], *ctx.needs_input_grad[12:]]
        grads = _vjp(function, values, needed, v)
        return None, None, None, *grads[:4], None, None, None, None, None, *grads[4:]

    @staticmethod
    def jvp(ctx: Any, *given: Optional) -> tuple[Optional, ...]:
        function, values = TangentBackward.by_torch(ctx)
        return _jvp(function, values, [*given[3:7], *given[12:]])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Any, Any]:
        half = (len(args) - 12) // 2
        weights = [*range(14, 12 + half), *range(14 + half, len(args))]
        return vmap(TangentBackward, info.batch_size, in_dims, args, batch_sizes=11, weights=weights, each=args[2])


def _backward_differentiable(
    grad_output: Optional,
    grad_h_n: Optional,
    x: Tensor,
    hx: Tensor,
    output: Tensor,
    gates: Optional,
    weights: list[Tensor],
    bias: bool,
    batch_sizes: Optional,
    need_x: bool,
    need_weights: bool,
    tf32: bool = False,
) -> list[Tensor]:
    """Backward in the order of gru_backward, for the node of C++."""
    needs = need_x, need_weights
    grad_x, grad_hx, *grads = Backward.apply(
        bias, *needs, grad_output, grad_h_n, output, gates, batch_sizes, x, hx, *weights
    )
    return [grad_hx, *([grad_x] if need_x else []), *(grads if need_weights else [])]


if _ops.node is not None:
    torch.library.impl("gru_fused::gru_backward_differentiable", "CompositeImplicitAutograd", _backward_differentiable)


def _halves(values: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    half = len(values) // 2
    return values[:half], values[half:]


def _vjp(
    function: Callable[..., tuple[Optional, ...]],
    values: Sequence[Optional],
    needed: Sequence[bool],
    cotangents: Sequence[Optional],
) -> list[Optional]:
    """The gradients of the needed values. Results with no cotangent do not count."""
    wanted = [i for i, need in enumerate(needed) if need]

    def of_wanted(*given: Tensor) -> tuple[Tensor, ...]:
        results = function(*_replaced(values, wanted, given))
        return tuple(y for y, c in zip(results, cotangents, strict=True) if c is not None)

    _, pull = torch.func.vjp(of_wanted, *(values[i] for i in wanted))
    return _replaced([None] * len(values), wanted, pull(tuple(c for c in cotangents if c is not None)))


def _jvp(
    function: Callable[..., tuple[Optional, ...]], values: Sequence[Optional], tangents: Sequence[Optional]
) -> tuple[Optional, ...]:
    """The tangents of the results, None where the result is."""
    moved = [i for i, t in enumerate(tangents) if t is not None]
    there: list[bool] = []

    def of_moved(*given: Tensor) -> tuple[Tensor, ...]:
        results = function(*_replaced(values, moved, given))
        there[:] = [y is not None for y in results]
        return tuple(y for y in results if y is not None)

    rest = iter(_sweeps.jvp(of_moved, [values[i] for i in moved], [tangents[i] for i in moved]))
    return tuple(next(rest) if is_there else None for is_there in there)


def _replaced(values: Sequence[Any], places: Sequence[int], by: Sequence[Any]) -> list[Any]:
    result = list(values)
    for i, value in zip(places, by, strict=True):
        result[i] = value
    return result
