"""Keras: kernels (I, 3H) and (H, 3H), gates z, r, h, bias (2, 3H), or (3H,) with ``reset_after=False``.

Layout: https://keras.io/api/layers/recurrent_layers/gru/ and the ``build`` of its ``GRUCell``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gru_fused.modules import GRU
from gru_fused.options import ACTIVATIONS, PLAIN, Options
from gru_fused.weights._layers import Direction, Layer, array, gru_of, layers_of, options_of, tensor, z_first

__all__ = ["from_keras", "to_keras"]

# what a Keras layer has of our options
OPTIONS = ("reset_after", "activation", "gate_activation", "reverse")


def from_keras(*layers: Any, reset_after: bool = True) -> GRU:
    """A GRU with the weights of one Keras layer, or of a stack with ``return_sequences=True``.

    I inputs, H units, D directions; dtypes are kept.

    Args:
        layers: for each layer a ``keras.layers.GRU``, an ``RNN`` over a ``GRUCell``, or a ``Bidirectional`` of one with
            ``merge_mode="concat"``; or what its ``get_weights()`` returns, for each direction kernel ``(I, 3H)``,
            recurrent kernel ``(H, 3H)`` and, unless ``use_bias=False``, bias ``(2, 3H)``, with ``reset_after=False``
            ``(3H,)``. They tell nothing of activations.
        reset_after: of plain arrays without a bias, which don't tell.

    Returns:
        A module with ``batch_first=True``, Keras' layout. It returns what ``return_sequences=True`` returns, and the
        last states; with ``go_backwards=True`` the output is in the order of the input, not turned around as
        Keras'. Options that have effect in training only, such as dropout, are not taken over.

    Raises:
        NotImplementedError: for activations that gru_fused doesn't have, and other merge modes.
        TypeError, ValueError: for something else than a GRU, an unbuilt layer, or shapes that do not fit.

    Example:
        >>> import numpy
        >>> from gru_fused import weights
        >>> kernel, recurrent_kernel, bias = numpy.zeros((3, 12)), numpy.zeros((4, 12)), numpy.zeros((2, 12))
        >>> weights.from_keras([kernel, recurrent_kernel, bias])
        GRU(3, 4, batch_first=True)
    """
    found = [_layer(layer, number, reset_after) for number, layer in enumerate(layers)]
    for number, (_, options) in enumerate(found):
        if options != found[0][1]:
            raise ValueError(
                f"layer {number}: expected the options of layer 0, {found[0][1]}, got {options}; make a GRU of each"
            )
    return gru_of([layer for layer, _ in found], batch_first=True, options=found[0][1] if found else PLAIN)


def to_keras(gru: nn.RNNBase) -> list[list[Any]]:
    """The weights of a GRU as Keras has them.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU`` of L layers; not bfloat16, which numpy doesn't have.

    Returns:
        For each layer the numpy arrays that ``set_weights`` of a Keras layer of the same form takes: ``(I, 3H)``,
        ``(H, 3H)`` and, if the GRU has biases, ``(2, 3H)``, with ``reset_after=False`` ``(3H,)``, for each direction.

    Raises:
        NotImplementedError: for options that Keras doesn't have.
        TypeError: for anything but a GRU, and for bfloat16.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> [[x.shape for x in layer] for layer in weights.to_keras(gru_fused.GRU(3, 4))]
        [[(3, 12), (4, 12), (2, 12)]]
    """
    layers, reset_after = layers_of(gru, "to_keras", OPTIONS), options_of(gru).reset_after
    return [[x for direction in layer for x in _arrays(direction, reset_after)] for layer in layers]


def _layer(layer: Any, number: int, reset_after: bool) -> tuple[Layer, Options]:
    arrays, options = layer, Options(reset_after=reset_after)
    if hasattr(layer, "get_weights"):
        options = _options(layer, f"layer {number}")
        arrays = layer.get_weights()
        if not arrays:
            raise ValueError(f"layer {number}: it has no weights yet; build it or call it once")
    elif not isinstance(layer, Sequence):
        raise TypeError(f"layer {number}: expected a Keras layer or its list of weights, got {type(layer).__name__}")
    per_direction = {2: 2, 3: 3, 4: 2, 6: 3}.get(len(arrays))
    if per_direction is None:
        raise ValueError(
            f"layer {number}: expected kernel, recurrent kernel and, with use_bias, bias for one or two directions, "
            f"got {len(arrays)} arrays"
        )
    parts = [arrays[i : i + per_direction] for i in range(0, len(arrays), per_direction)]
    if per_direction == 3 and arrays is layer:
        options = Options(reset_after=tensor(arrays[2], f"layer {number}, bias").dim() != 1)
    return [_direction(part, number, options.reset_after) for part in parts], options


def _direction(arrays: Sequence[Any], number: int, reset_after: bool) -> Direction:
    kernel, recurrent_kernel, *biases = arrays
    w_hh = tensor(recurrent_kernel, f"layer {number}, recurrent kernel", None, None)
    gates = 3 * w_hh.shape[0]
    w_hh = tensor(w_hh, f"layer {number}, recurrent kernel", gates // 3, gates)
    w_ih = tensor(kernel, f"layer {number}, kernel", None, gates)
    b_ih = b_hh = None
    if biases:
        shape = (2, gates) if reset_after else (gates,)
        bias = tensor(biases[0], f"layer {number}, bias", *shape)
        b_ih, b_hh = (z_first(b) for b in (bias if reset_after else (bias, torch.zeros_like(bias))))
    return Direction(z_first(w_ih.t()), z_first(w_hh.t()), b_ih, b_hh)


def _arrays(direction: Direction, reset_after: bool) -> list[Any]:
    w_ih, w_hh, b_ih, b_hh = direction
    kernels = [array(z_first(w).t()) for w in (w_ih, w_hh)]
    if b_ih is None or b_hh is None:
        return kernels
    if not reset_after:
        return [*kernels, array(z_first(b_ih + b_hh))]  # both stand outside of the reset gate
    return [*kernels, array(z_first(torch.stack([b_ih, b_hh]), dim=1))]


def _options(layer: Any, name: str) -> Options:
    """What a Keras layer computes. Recognised by its attributes: Keras isn't imported."""
    if not hasattr(layer, "forward_layer") or not hasattr(layer, "backward_layer"):
        return replace(_cell_options(layer, name), reverse=bool(getattr(layer, "go_backwards", False)))
    if layer.merge_mode != "concat":
        raise NotImplementedError(f"{name}: expected merge_mode='concat', got {layer.merge_mode!r}")
    if layer.forward_layer.go_backwards:
        raise NotImplementedError(f"{name}, forward: expected go_backwards=False in a Bidirectional")
    forward = _cell_options(layer.forward_layer, f"{name}, forward")
    backward = _cell_options(layer.backward_layer, f"{name}, backward")
    if forward != backward:
        raise NotImplementedError(f"{name}: expected the same options in both directions, got {forward} and {backward}")
    return forward


def _cell_options(layer: Any, name: str) -> Options:
    cell = getattr(layer, "cell", layer)
    if not hasattr(cell, "reset_after"):
        raise TypeError(f"{name}: expected a Keras GRU, got {type(layer).__name__}")
    chosen = {}
    for option, known in {"activation": ACTIVATIONS, "recurrent_activation": ("sigmoid", "hard_sigmoid")}.items():
        got = getattr(getattr(cell, option), "__name__", repr(getattr(cell, option)))
        if got not in known:
            raise NotImplementedError(f"{name}: expected {option} to be one of {', '.join(known)}, got {got!r}")
        chosen[option] = got
    gate = chosen["recurrent_activation"]
    if gate == "hard_sigmoid" and _at_one(cell.recurrent_activation) > 0.68:  # 2/3, before Keras 3 7/10
        gate = "hard_sigmoid_fifth"
    return Options(bool(cell.reset_after), activation=chosen["activation"], gate_activation=gate)


def _at_one(activation: Any) -> float:
    import numpy

    return float(activation(numpy.ones(1, "float32"))[0])
