"""Keras: kernels (I, 3H) and (H, 3H), gates z, r, h, bias (2, 3H).

Layout: https://keras.io/api/layers/recurrent_layers/gru/ and the ``build`` of its ``GRUCell``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gru_fused.modules import GRU
from gru_fused.weights._layers import Direction, Layer, array, gru_of, layers_of, tensor, z_first

__all__ = ["from_keras", "to_keras"]

RESET_BEFORE = (
    "{}: this layer has reset_after=False, the reset gate before the recurrent product; gru_fused has the cell with "
    "reset_after=True (Keras' default) only, so far. Its weights can't be turned into the other's"
)


def from_keras(*layers: Any) -> GRU:
    """A GRU with the weights of one Keras layer, or of a stack with ``return_sequences=True``.

    I inputs, H units, D directions; dtypes are kept.

    Args:
        layers: for each layer a ``keras.layers.GRU``, an ``RNN`` over a ``GRUCell``, or a ``Bidirectional`` of one with
            ``merge_mode="concat"``; or what its ``get_weights()`` returns, for each direction kernel ``(I, 3H)``,
            recurrent kernel ``(H, 3H)`` and, unless ``use_bias=False``, bias ``(2, 3H)``. Without a bias, plain arrays
            don't tell ``reset_after``: they are taken for ``True``.

    Returns:
        A module with ``batch_first=True``, Keras' layout. It returns what ``return_sequences=True`` returns, and the
        last states. Options that have effect in training only, such as dropout, are not taken over.

    Raises:
        NotImplementedError: for ``reset_after=False``, other activations, ``go_backwards``, other merge modes.
        TypeError, ValueError: for something else than a GRU, an unbuilt layer, or shapes that do not fit.

    Example:
        >>> import numpy
        >>> from gru_fused import weights
        >>> kernel, recurrent_kernel, bias = numpy.zeros((3, 12)), numpy.zeros((4, 12)), numpy.zeros((2, 12))
        >>> weights.from_keras([kernel, recurrent_kernel, bias])
        GRU(3, 4, batch_first=True)
    """
    return gru_of([_layer(layer, number) for number, layer in enumerate(layers)], batch_first=True)


def to_keras(gru: nn.RNNBase) -> list[list[Any]]:
    """The weights of a GRU as Keras has them.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU`` of L layers; not bfloat16, which numpy doesn't have.

    Returns:
        For each layer the numpy arrays that ``set_weights`` of a Keras layer of the same form takes: ``(I, 3H)``,
        ``(H, 3H)`` and, if the GRU has biases, ``(2, 3H)``, for each direction.

    Raises:
        TypeError: for anything but a GRU, and for bfloat16.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> [[x.shape for x in layer] for layer in weights.to_keras(gru_fused.GRU(3, 4))]
        [[(3, 12), (4, 12), (2, 12)]]
    """
    return [[x for direction in layer for x in _arrays(direction)] for layer in layers_of(gru, "to_keras")]


def _layer(layer: Any, number: int) -> Layer:
    arrays = layer
    if hasattr(layer, "get_weights"):
        _check_options(layer, f"layer {number}")
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
    return [_direction(arrays[i : i + per_direction], number) for i in range(0, len(arrays), per_direction)]


def _direction(arrays: Sequence[Any], number: int) -> Direction:
    kernel, recurrent_kernel, *biases = arrays
    w_hh = tensor(recurrent_kernel, f"layer {number}, recurrent kernel", None, None)
    gates = 3 * w_hh.shape[0]
    w_hh = tensor(w_hh, f"layer {number}, recurrent kernel", gates // 3, gates)
    w_ih = tensor(kernel, f"layer {number}, kernel", None, gates)
    b_ih = b_hh = None
    if biases:
        bias = tensor(biases[0], f"layer {number}, bias")
        if bias.shape == (gates,):
            raise NotImplementedError(RESET_BEFORE.format(f"layer {number}, bias of shape ({gates},)"))
        b_ih, b_hh = (z_first(b) for b in tensor(bias, f"layer {number}, bias", 2, gates))
    return Direction(z_first(w_ih.t()), z_first(w_hh.t()), b_ih, b_hh)


def _arrays(direction: Direction) -> list[Any]:
    w_ih, w_hh, b_ih, b_hh = direction
    kernels = [array(z_first(w).t()) for w in (w_ih, w_hh)]
    if b_ih is None or b_hh is None:
        return kernels
    return [*kernels, array(z_first(torch.stack([b_ih, b_hh]), dim=1))]


def _check_options(layer: Any, name: str) -> None:
    """What makes a Keras layer compute something else. Recognised by its attributes: Keras isn't imported."""
    if hasattr(layer, "forward_layer") and hasattr(layer, "backward_layer"):
        if layer.merge_mode != "concat":
            raise NotImplementedError(f"{name}: expected merge_mode='concat', got {layer.merge_mode!r}")
        _check_options(layer.forward_layer, f"{name}, forward")
        _check_cell(layer.backward_layer, f"{name}, backward")
        return
    if getattr(layer, "go_backwards", False):
        raise NotImplementedError(f"{name}: expected go_backwards=False; flip its input in time and convert it without")
    _check_cell(layer, name)


def _check_cell(layer: Any, name: str) -> None:
    cell = getattr(layer, "cell", layer)
    if not hasattr(cell, "reset_after"):
        raise TypeError(f"{name}: expected a Keras GRU, got {type(layer).__name__}")
    if not cell.reset_after:
        raise NotImplementedError(RESET_BEFORE.format(name))
    for option, expected in {"activation": "tanh", "recurrent_activation": "sigmoid"}.items():
        got = getattr(getattr(cell, option), "__name__", repr(getattr(cell, option)))
        if got != expected:
            raise NotImplementedError(
                f"{name}: expected {option}={expected!r}, which is what gru_fused has, got {got!r}"
            )
