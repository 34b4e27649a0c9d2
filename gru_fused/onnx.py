"""ONNX: one GRU node for every layer, over both of its directions.

The exporter unrolls nothing and needs no custom operator: the op of a whole GRU becomes nodes of the standard GRU
(https://onnx.ai/onnx/operators/onnx__GRU.html, ``linear_before_reset=1``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gru_fused import _ops

__all__ = ["translations"]


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export`` needs to know of the GRU, as its ``custom_translation_table``.

    Returns:
        A table from ops to functions that make their nodes. Packed sequences are not translated.

    Raises:
        ImportError: without the package ``onnxscript``, which torch's exporter needs too.

    Example:
        >>> import torch, gru_fused.onnx
        >>> def to_onnx(model, x, path):
        ...     table = gru_fused.onnx.translations()
        ...     torch.onnx.export(model.eval(), (x,), path, dynamo=True, custom_translation_table=table)
    """
    from onnxscript import opset18 as op

    def gru(
        x: Any, hx: Any, weights: Sequence[Any], bias: bool, bidirectional: bool, batch_sizes: Any = None
    ) -> tuple[Any, Any]:
        if batch_sizes is not None:
            raise NotImplementedError("gru_fused: a packed sequence can't be exported to ONNX: pad it, and mask")
        directions, per_direction = 1 + bidirectional, 4 if bias else 2
        layers = len(weights) // (directions * per_direction)
        states = op.Split(hx, axis=0, num_outputs=layers) if layers > 1 else [hx]
        finals = []
        for layer in range(layers):
            of_layer = weights[layer * directions * per_direction :][: directions * per_direction]
            w, r, b = [], [], []
            for d in range(directions):
                w_ih, w_hh, *biases = of_layer[d * per_direction : (d + 1) * per_direction]
                w.append(_axis(op, _reordered(op, w_ih)))
                r.append(_axis(op, _reordered(op, w_hh)))
                if bias:
                    b.append(_axis(op, op.Concat(*(_reordered(op, y) for y in biases), axis=0)))
            W, R, *B = (op.Concat(*parts, axis=0) if directions == 2 else parts[0] for parts in (w, r, b) if parts)
            y, h_n = op.GRU(
                x,
                W,
                R,
                B[0] if B else None,
                None,
                states[layer],
                direction="bidirectional" if bidirectional else "forward",
                hidden_size=w_hh.shape[1],
                linear_before_reset=1,
            )
            # [T, D, B, H] to [T, B, D H]
            x = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
            finals.append(h_n)
        return x, op.Concat(*finals, axis=0) if layers > 1 else finals[0]

    return {_ops.forward: gru}


def _reordered(op: Any, y: Any) -> Any:
    """Gates r, z, n in ONNX's order: z, r, n."""
    H = y.shape[0] // 3
    return op.Gather(y, op.Constant(value_ints=[*range(H, 2 * H), *range(H), *range(2 * H, 3 * H)]), axis=0)


def _axis(op: Any, y: Any) -> Any:
    return op.Unsqueeze(y, op.Constant(value_ints=[0]))
