"""haste (https://github.com/lmnt-com/haste): kernels (I, 3H) and (H, 3H), gates z, r, h, two biases (3H,).

Layout: its docs/pytorch/haste_pytorch/GRU.md, "Variables"; LayerNormGRU has beside them gamma (2, 3H), the gains of the
input's and of the state's norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gru_fused.modules import GRU
from gru_fused.options import Options
from gru_fused.weights._layers import Direction, gru_of, layers_of, norms_of, options_of, tensor, z_first

__all__ = ["from_haste", "to_haste"]

NAMES = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")


def from_haste(*layers: Any, batch_first: bool = False, zoneout: float | None = None) -> GRU:
    """A GRU with the weights of one ``haste_pytorch.GRU`` or ``LayerNormGRU``, or of several, one after the other.

    Args:
        layers: for each layer the module or its state_dict: ``kernel (I, 3H)``, ``recurrent_kernel (H, 3H)``,
            ``bias (3H,)``, ``recurrent_bias (3H,)`` and, of a LayerNormGRU, ``gamma (2, 3H)``; a pair of them, forward
            and reverse, for two directions.
        batch_first: whether the module returned takes ``(B, T, I)``; a haste module doesn't tell.
        zoneout: its zoneout, which acts in evaluation too; None: that of the first module, or of a state_dict 0.

    Returns:
        A module of the same dtype and device. Its dropout, of the weights and in training only, is not taken over.

    Raises:
        TypeError, ValueError: for something else, a name that is missing, or shapes that do not fit.

    Example:
        >>> import torch
        >>> from gru_fused import weights
        >>> shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (12,), "recurrent_bias": (12,)}
        >>> weights.from_haste({name: torch.zeros(shape) for name, shape in shapes.items()})
        GRU(3, 4)
    """
    found = [_layer(layer, f"layer {k}") for k, layer in enumerate(layers)]
    norms = [gain for layer in found for direction in layer for gain in direction[1]]
    if norms and len(norms) != 2 * sum(map(len, found)):
        raise ValueError("layers: expected a gamma in all of them, or in none")
    if zoneout is None:
        first = layers[0] if layers else None
        first = first[0] if isinstance(first, (tuple, list)) and first else first
        zoneout = float(getattr(first, "zoneout", 0.0))
    options = Options(zoneout=zoneout, layer_norm="projections" if norms else None)
    plain = [[weights for weights, _ in layer] for layer in found]
    return gru_of(plain, batch_first=batch_first, options=options, norms=norms)


def to_haste(gru: nn.RNNBase) -> list[Any]:
    """The weights of a GRU as state_dicts of ``haste_pytorch.GRU``.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU``.

    Returns:
        For each layer a dict of tensors ``kernel (I, 3H)``, ``recurrent_kernel (H, 3H)``, ``bias (3H,)``,
        ``recurrent_bias (3H,)`` and, with ``layer_norm="projections"``, ``gamma (2, 3H)``, for its LayerNormGRU; of a
        bidirectional GRU a pair of them. haste always has biases: of a GRU without, they are zeros.

    Raises:
        NotImplementedError: for options that haste doesn't have.
        TypeError: for anything but a GRU.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> {name: tuple(x.shape) for name, x in weights.to_haste(gru_fused.GRU(3, 4))[0].items()}
        {'kernel': (3, 12), 'recurrent_kernel': (4, 12), 'bias': (12,), 'recurrent_bias': (12,)}
    """
    if options_of(gru).layer_norm == "sum":
        raise NotImplementedError("to_haste: expected layer_norm=None or 'projections', which is haste's, got 'sum'")
    gains = iter(norms_of(gru))
    known = ("zoneout", "layer_norm", "norm_eps")
    layers = [
        tuple(_state(direction, next(gains, None), next(gains, None)) for direction in layer)
        for layer in layers_of(gru, "to_haste", known)
    ]
    return [layer[0] if len(layer) == 1 else layer for layer in layers]


def _layer(layer: Any, name: str) -> list[tuple[Direction, list[Tensor]]]:
    """Of each direction its weights, and the gains of both norms, if it has them."""
    if isinstance(layer, (tuple, list)):
        if len(layer) != 2:
            raise ValueError(f"{name}: expected a module, a state_dict or a pair of them, got {len(layer)}")
        return [_direction(one, f"{name}, {way}") for one, way in zip(layer, ("forward", "reverse"), strict=True)]
    return [_direction(layer, name)]


def _direction(layer: Any, name: str) -> tuple[Direction, list[Tensor]]:
    weights = layer.state_dict() if isinstance(layer, nn.Module) else layer
    if not isinstance(weights, Mapping):
        raise TypeError(f"{name}: expected a haste_pytorch.GRU or its state_dict, got {type(layer).__name__}")
    if set(weights) - {"gamma"} != set(NAMES):
        raise ValueError(f"{name}: expected {', '.join(NAMES)}, got {', '.join(map(str, weights))}")
    units = tensor(weights["recurrent_kernel"], f"{name}, recurrent_kernel", None, None).shape[0]
    shapes = {"kernel": (None, 3 * units), "recurrent_kernel": (units, 3 * units)}
    given = [tensor(weights[k], f"{name}, {k}", *shapes.get(k, (3 * units,))) for k in NAMES]
    gains = tensor(weights["gamma"], f"{name}, gamma", 2, 3 * units) if "gamma" in weights else []
    return Direction(*(z_first(x.t() if x.dim() == 2 else x) for x in given)), [z_first(gain) for gain in gains]


def _state(direction: Direction, gain_ih: Tensor | None, gain_hh: Tensor | None) -> dict[str, Tensor]:
    w_ih, w_hh, b_ih, b_hh = direction
    zeros = torch.zeros_like(w_hh[:, 0])
    given = (w_ih.t(), w_hh.t(), zeros if b_ih is None else b_ih, zeros if b_hh is None else b_hh)
    state = {name: z_first(x, -1) for name, x in zip(NAMES, given, strict=True)}
    return state if gain_ih is None else {**state, "gamma": z_first(torch.stack([gain_ih, gain_hh]), -1)}
