"""ONNX: one GRU node for every layer, over both of its directions.

The exporter unrolls nothing and needs no custom operator: the ops become nodes of the standard GRU
(https://onnx.ai/onnx/operators/onnx__GRU.html). It has both places of the reset gate, lengths, the activations and
both directions; what it hasn't (resets, attention, zoneout, norms) is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gru_fused import _ops
from gru_fused.reference_variants import ACTIVATIONS, RECURRENCES

__all__ = ["translations"]

NAMES = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "softsign": "Softsign"}
SLOPES = {"hard_sigmoid": 1 / 6, "hard_sigmoid_fifth": 1 / 5}


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What ``torch.onnx.export`` needs to know of the GRU, as its ``custom_translation_table``.

    Returns:
        A table from ops to functions that make their nodes. For what ONNX' GRU doesn't have, and for packed sequences,
        they raise NotImplementedError.

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
        _refuse("a packed sequence", batch_sizes)
        per_layer = (1 + bidirectional) * (4 if bias else 2)
        layers = len(weights) // per_layer
        states = op.Split(hx, axis=0, num_outputs=layers) if layers > 1 else [hx]
        finals = []
        for layer in range(layers):
            of_layer = weights[layer * per_layer : (layer + 1) * per_layer]
            x, h_n = _layer(op, x, states[layer], of_layer, bias, {"linear_before_reset": 1})
            finals.append(h_n)
        return x, op.Concat(*finals, axis=0) if layers > 1 else finals[0]

    def variant(
        x: Any,
        hx: Any,
        weights: Sequence[Any],
        bias: bool,
        batch_sizes: Any,
        recurrence: int,
        gate: int,
        candidate: int,
        epsilon: float,
        reverse: bool,
        lengths: Any = None,
        reset: Any = None,
        reset_state: Any = None,
        update: Any = None,
        dropout: Any = None,
        save: bool = False,
    ) -> tuple[Any, ...]:
        for what, given in {
            "a packed sequence": batch_sizes,
            "reset": reset,
            "attention or zoneout": update,
            "a recurrent mask": dropout,
            "a norm": RECURRENCES[recurrence] if recurrence > 1 else None,
        }.items():
            _refuse(what, given)
        directions = len(weights) // (4 if bias else 2)
        of_gate, of_candidate = list(ACTIVATIONS)[gate], list(ACTIVATIONS)[candidate]
        attributes: dict[str, Any] = {"linear_before_reset": int(recurrence == 0)}
        if reverse:
            attributes["direction"] = "reverse"
        if (of_gate, of_candidate) != ("sigmoid", "tanh"):
            attributes["activations"] = [NAMES.get(of_gate, "HardSigmoid"), NAMES[of_candidate]] * directions
        if of_gate in SLOPES:
            attributes |= {"activation_alpha": [SLOPES[of_gate]] * directions, "activation_beta": [0.5] * directions}
        if lengths is not None:
            lengths = op.Cast(lengths, to=6)  # int32
        empty = op.Constant(value_floats=[])  # nothing is saved for a backward
        return *_layer(op, x, hx, weights, bias, attributes, lengths), empty, empty, empty

    return {_ops.forward: gru, _ops.variant: variant}


def _refuse(what: str, given: Any) -> None:
    if given is not None:
        raise NotImplementedError(f"gru_fused: {what} can't be exported to ONNX, whose GRU has nothing of the kind")


def _layer(
    op: Any, x: Any, hx: Any, weights: Sequence[Any], bias: bool, attributes: dict[str, Any], lengths: Any = None
) -> tuple[Any, Any]:
    """One node: x (T, B, I), hx (D, B, H), the weights of each direction; output (T, B, D * H) and h_n."""
    per_direction = 4 if bias else 2
    directions = len(weights) // per_direction
    w, r, b = [], [], []
    for d in range(directions):
        w_ih, w_hh, *biases = weights[d * per_direction : (d + 1) * per_direction]
        w.append(_axis(op, _reordered(op, w_ih)))
        r.append(_axis(op, _reordered(op, w_hh)))
        if bias:
            b.append(_axis(op, op.Concat(*(_reordered(op, y) for y in biases), axis=0)))
    W, R, *B = (op.Concat(*parts, axis=0) if directions == 2 else parts[0] for parts in (w, r, b) if parts)
    direction = {"direction": "bidirectional" if directions == 2 else "forward"}
    y, h_n = op.GRU(x, W, R, B[0] if B else None, lengths, hx, hidden_size=w_hh.shape[1], **{**direction, **attributes})
    # [T, D, B, H] to [T, B, D H]
    return op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1])), h_n


def _reordered(op: Any, y: Any) -> Any:
    """Gates r, z, n in ONNX's order: z, r, n."""
    H = y.shape[0] // 3
    return op.Gather(y, op.Constant(value_ints=[*range(H, 2 * H), *range(H), *range(2 * H, 3 * H)]), axis=0)


def _axis(op: Any, y: Any) -> Any:
    return op.Unsqueeze(y, op.Constant(value_ints=[0]))
