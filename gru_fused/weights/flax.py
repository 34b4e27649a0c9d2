"""Flax: a kernel for each gate, (I, H) and (H, H); biases for the three gates of the input and for n of the state.

Layout: https://flax-linen.readthedocs.io/en/latest/api_reference/flax.linen/layers.html#flax.linen.GRUCell, and the
``nnx.GRUCell`` beside it, which has the gates r, z, n side by side and no bias for the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gru_fused.modules import GRU
from gru_fused.weights._layers import Direction, Layer, array, gru_of, layers_of, tensor

__all__ = ["from_flax", "to_flax"]

Tree = Mapping[str, Any]


def from_flax(*layers: Any, batch_first: bool = True) -> GRU:
    """A GRU with the weights of one Flax ``GRUCell``, or of several, one after the other.

    Args:
        layers: for each layer the parameters of a ``linen.GRUCell``, with or without the ``params``, ``cell`` and, for
            two directions, ``forward_rnn`` and ``backward_rnn`` that ``linen.RNN`` and ``linen.Bidirectional`` put
            around them; or those of an ``nnx.GRUCell`` (``nnx.to_pure_dict(nnx.state(cell))``); or a pair of either,
            forward and reverse. Kernels ``(I, H)`` and ``(H, H)``, biases ``(H,)``; in nnx 3H instead.
        batch_first: Flax' layout, and so True by default.

    Returns:
        A module with biases. Flax has none for r and z of the state: they are zeros.

    Raises:
        TypeError, ValueError: for something else, a name that is missing, or shapes that do not fit.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> weights.from_flax(*weights.to_flax(gru_fused.GRU(3, 4, num_layers=2)))
        GRU(3, 4, num_layers=2, batch_first=True)
    """
    return gru_of([_layer(layer, f"layer {k}") for k, layer in enumerate(layers)], batch_first=batch_first)


def to_flax(gru: nn.RNNBase) -> list[Any]:
    """The weights of a GRU as parameters of ``linen.GRUCell``.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU``; not bfloat16.

    Returns:
        For each layer ``{"ir": {"kernel": (I, H), "bias": (H,)}, ..., "hn": {...}}`` of numpy arrays; of a
        bidirectional GRU a pair of them. Flax has one bias where torch has two for r and z: it is their sum. Of a GRU
        without biases they are zeros.

    Raises:
        TypeError: for anything but a GRU, and for bfloat16.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> params = weights.to_flax(gru_fused.GRU(3, 4))[0]
        >>> {name: list(dense) for name, dense in params.items()}
        {'ir': ['kernel', 'bias'], 'iz': ['kernel', 'bias'], 'in': ['kernel', 'bias'], 'hr': ['kernel'], \
'hz': ['kernel'], 'hn': ['kernel', 'bias']}
        >>> params["ir"]["kernel"].shape
        (3, 4)
    """
    layers = [tuple(_tree(direction) for direction in layer) for layer in layers_of(gru, "to_flax")]
    return [layer[0] if len(layer) == 1 else layer for layer in layers]


def _layer(layer: Any, name: str) -> Layer:
    while isinstance(layer, Mapping) and set(layer) in ({"params"}, {"cell"}):
        (layer,) = layer.values()
    if isinstance(layer, Mapping) and set(layer) == {"forward_rnn", "backward_rnn"}:
        layer = (layer["forward_rnn"], layer["backward_rnn"])
    if isinstance(layer, (tuple, list)):
        if len(layer) != 2:
            raise ValueError(f"{name}: expected a cell's parameters or a pair of them, got {len(layer)}")
        ways = zip(layer, ("forward", "reverse"), strict=True)
        return [direction for one, way in ways for direction in _layer(one, f"{name}, {way}")]
    if not isinstance(layer, Mapping):
        raise TypeError(f"{name}: expected the parameters of a GRUCell, got {type(layer).__name__}")
    if set(layer) == {"dense_i", "dense_h"}:
        return [_nnx_direction(layer, name)]
    if set(layer) == {"ir", "iz", "in", "hr", "hz", "hn"}:
        return [_linen_direction(layer, name)]
    raise ValueError(f"{name}: expected ir, iz, in, hr, hz, hn (or dense_i, dense_h), got {', '.join(map(str, layer))}")


def _linen_direction(layer: Tree, name: str) -> Direction:
    units = _leaf(layer, name, "hn", "kernel", None, None).shape[0]
    inputs = _leaf(layer, name, "in", "kernel", None, units).shape[0]
    w_ih = [_leaf(layer, name, gate, "kernel", inputs, units).t() for gate in ("ir", "iz", "in")]
    w_hh = [_leaf(layer, name, gate, "kernel", units, units).t() for gate in ("hr", "hz", "hn")]
    b_ih = [_leaf(layer, name, gate, "bias", units) for gate in ("ir", "iz", "in")]
    b_hn = _leaf(layer, name, "hn", "bias", units)
    return Direction(torch.cat(w_ih), torch.cat(w_hh), torch.cat(b_ih), torch.cat([b_hn.new_zeros(2 * units), b_hn]))


def _nnx_direction(layer: Tree, name: str) -> Direction:
    units = _leaf(layer, name, "dense_h", "kernel", None, None).shape[0]
    w_hh = _leaf(layer, name, "dense_h", "kernel", units, 3 * units).t()
    w_ih = _leaf(layer, name, "dense_i", "kernel", None, 3 * units).t()
    b_ih = _leaf(layer, name, "dense_i", "bias", 3 * units)
    return Direction(w_ih, w_hh, b_ih, torch.zeros_like(b_ih))


def _leaf(layer: Tree, name: str, dense: str, leaf: str, *shape: int | None) -> Tensor:
    if leaf not in layer[dense]:
        raise ValueError(f"{name}, {dense}: expected a {leaf}, got {', '.join(layer[dense])}")
    return tensor(layer[dense][leaf], f"{name}, {dense}, {leaf}", *shape)


def _tree(direction: Direction) -> dict[str, dict[str, Any]]:
    w_ih, w_hh, b_ih, b_hh = direction
    if b_ih is None or b_hh is None:
        b_ih = b_hh = torch.zeros_like(w_hh[:, 0])
    units = w_hh.shape[1]
    *of_h, b_hn = b_hh.split(units)
    of_x = b_ih.split(units)
    biases = {"ir": of_x[0] + of_h[0], "iz": of_x[1] + of_h[1], "in": of_x[2], "hn": b_hn}
    kernels = zip(("ir", "iz", "in", "hr", "hz", "hn"), (*w_ih.split(units), *w_hh.split(units)), strict=True)
    return {
        name: {"kernel": array(w.t()), **({"bias": array(biases[name])} if name in biases else {})}
        for name, w in kernels
    }
