"""haste (https://github.com/lmnt-com/haste): kernels (I, 3H) and (H, 3H), gates z, r, h, two biases (3H,).

Layout: its docs/pytorch/haste_pytorch/GRU.md, "Variables".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gru_fused.modules import GRU
from gru_fused.weights._layers import Direction, Layer, gru_of, layers_of, tensor, z_first

__all__ = ["from_haste", "to_haste"]

NAMES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def from_haste(*layers: Any, batch_first: bool = False) -> GRU:
    """A GRU with the weights of one ``haste_pytorch.GRU``, or of several, one after the other.

    Args:
        layers: for each layer the module or its state_dict: ``kernel (I, 3H)``, ``recurrent_kernel (H, 3H)``,
            ``bias (3H,)``, ``recurrent_bias (3H,)``; a pair of them, forward and reverse, for two directions.
        batch_first: whether the module returned takes ``(B, T, I)``; a haste module doesn't tell.

    Returns:
        A module of the same dtype and device. Its zoneout and dropout, which act in training, are not taken over.

    Raises:
        TypeError, ValueError: for something else, a name that is missing, or shapes that do not fit.

    Example:
        >>> import torch
        >>> from gru_fused import weights
        >>> shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (12,), "recurrent_bias": (12,)}
        >>> weights.from_haste({name: torch.zeros(shape) for name, shape in shapes.items()})
        GRU(3, 4)
    """
    return gru_of([_layer(layer, f"layer {k}") for k, layer in enumerate(layers)], batch_first=batch_first)


def to_haste(gru: nn.RNNBase) -> list[Any]:
    """The weights of a GRU as state_dicts of ``haste_pytorch.GRU``.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU``.

    Returns:
        For each layer a dict of tensors ``kernel (I, 3H)``, ``recurrent_kernel (H, 3H)``, ``bias (3H,)``,
        ``recurrent_bias (3H,)``; of a bidirectional GRU a pair of them. haste always has biases: of a GRU without, they
        are zeros.

    Raises:
        TypeError: for anything but a GRU.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> {name: tuple(x.shape) for name, x in weights.to_haste(gru_fused.GRU(3, 4))[0].items()}
        {'kernel': (3, 12), 'recurrent_kernel': (4, 12), 'bias': (12,), 'recurrent_bias': (12,)}
    """
    layers = [tuple(_state(direction) for direction in layer) for layer in layers_of(gru, "to_haste")]
    return [layer[0] if len(layer) == 1 else layer for layer in layers]


def _layer(layer: Any, name: str) -> Layer:
    if isinstance(layer, (tuple, list)):
        if len(layer) != 2:
            raise ValueError(f"{name}: expected a module, a state_dict or a pair of them, got {len(layer)}")
        return [_direction(one, f"{name}, {way}") for one, way in zip(layer, ("forward", "reverse"), strict=True)]
    return [_direction(layer, name)]


def _direction(layer: Any, name: str) -> Direction:
    weights = layer.state_dict() if isinstance(layer, nn.Module) else layer
    if not isinstance(weights, Mapping):
        raise TypeError(f"{name}: expected a haste_pytorch.GRU or its state_dict, got {type(layer).__name__}")
    if sorted(weights) != sorted(NAMES):
        raise ValueError(f"{name}: expected {', '.join(NAMES)}, got {', '.join(map(str, weights))}")
    units = tensor(weights["recurrent_kernel"], f"{name}, recurrent_kernel", None, None).shape[0]
    shapes = {"kernel": (None, 3 * units), "recurrent_kernel": (units, 3 * units)}
    given = [tensor(weights[k], f"{name}, {k}", *shapes.get(k, (3 * units,))) for k in NAMES]
    return Direction(*(z_first(x.t() if x.dim() == 2 else x) for x in given))


def _state(direction: Direction) -> dict[str, Tensor]:
    w_ih, w_hh, b_ih, b_hh = direction
    zeros = torch.zeros_like(w_hh[:, 0])
    given = (w_ih.t(), w_hh.t(), zeros if b_ih is None else b_ih, zeros if b_hh is None else b_hh)
    return {name: z_first(x, -1) for name, x in zip(NAMES, given, strict=True)}
