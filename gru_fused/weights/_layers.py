"""What all formats share: a GRU as layers of plain tensors, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gru_fused.modules import GRU
from gru_fused.options import PLAIN, Options


class Direction(NamedTuple):
    """One direction of one layer, gates r, z, n."""

    w_ih: Tensor  # (3H, I)
    w_hh: Tensor  # (3H, H)
    b_ih: Tensor | None  # (3H,); None where the GRU has no biases
    b_hh: Tensor | None  # (3H,)


Layer = Sequence[Direction]  # forward, or forward and reverse


def gru_of(
    layers: Sequence[Layer], *, batch_first: bool = False, options: Options = PLAIN, norms: Sequence[Tensor] = ()
) -> GRU:
    """A module with copies of the weights. The formats have checked the shapes of each direction by itself.

    ``norms``: of a norm's options the gains, in the order of the module's parameters.
    """
    _check_same(layers)
    w_ih, w_hh, b_ih, _ = layers[0][0]
    gru = GRU(
        w_ih.shape[1],
        w_hh.shape[1],
        num_layers=len(layers),
        bias=b_ih is not None,
        batch_first=batch_first,
        bidirectional=len(layers[0]) == 2,
        device="meta",  # no random numbers are drawn
        dtype=w_ih.dtype,
        **asdict(options),
    ).to_empty(device=w_ih.device)
    given = [x for layer in layers for direction in layer for x in direction if x is not None] + list(norms)
    with torch.no_grad():
        for parameter, x in zip(gru.parameters(), given, strict=True):
            parameter.copy_(x)
    return gru


def _check_same(layers: Sequence[Layer]) -> None:
    """What a GRU has only one of: units, directions, biases or none, dtype, device."""
    if not layers:
        raise ValueError("layers: expected one or more, got none")
    w_ih, w_hh, b_ih, _ = layers[0][0]
    directions, input_size, units = len(layers[0]), w_ih.shape[1], w_hh.shape[1]
    for number, layer in enumerate(layers):
        if len(layer) != directions:
            raise ValueError(f"layer {number}: expected {directions} directions as in layer 0, got {len(layer)}")
        wanted = directions * units if number else input_size, units
        for direction in layer:
            got = direction.w_ih.shape[1], direction.w_hh.shape[1]
            if got != wanted:
                raise ValueError(
                    f"layer {number}: expected {wanted[0]} inputs and {wanted[1]} units, got {got[0]} and {got[1]}; "
                    "a GRU has the same number of units in all layers and directions"
                )
            if (direction.b_ih is None) != (b_ih is None):
                raise ValueError(f"layer {number}: expected biases in all layers and directions, or in none")
            for x in direction:
                if x is not None and (x.dtype, x.device) != (w_ih.dtype, w_ih.device):
                    raise ValueError(
                        f"layer {number}: expected {w_ih.dtype} on {w_ih.device} as in layer 0, "
                        f"got {x.dtype} on {x.device}"
                    )


def layers_of(gru: nn.RNNBase, to: str, known: Collection[str] = ()) -> list[list[Direction]]:
    """The weights of a module as they are now, parametrized and pruned ones computed.

    ``to``: for what, in errors; ``known``: the options of the cell that are known there.
    """
    if not (isinstance(gru, nn.RNNBase) and gru.mode == "GRU"):
        raise TypeError(f"{to}: expected a gru_fused.GRU or torch.nn.GRU, got {type(gru).__name__}")
    options = options_of(gru)
    left = replace(
        options, **{name: getattr(PLAIN, name) for name in (*known, "recurrent_dropout")}
    )  # in training only
    if left != PLAIN:
        raise NotImplementedError(f"{to}: expected a GRU that is known there, got one with {left.changed()}")
    layers = []
    for number in range(gru.num_layers):
        suffixes = [f"_l{number}", f"_l{number}_reverse"][: 2 if gru.bidirectional else 1]
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layers.append([Direction(*(_detached(getattr(gru, name + s, None)) for name in names)) for s in suffixes])
    return layers


def norms_of(gru: nn.RNNBase) -> list[Tensor]:
    return [getattr(gru, name).detach() for name in gru._norm_names()] if options_of(gru).layer_norm else []


def options_of(gru: nn.RNNBase) -> Options:
    return getattr(gru, "options", PLAIN)


def _detached(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def tensor(x: Any, name: str, *shape: int | None) -> Tensor:
    """An array of any library as a tensor; ``None`` in the shape: any size; no shape: any."""
    if not isinstance(x, Tensor):
        import numpy  # here, so that the package does without it as torch does

        try:
            x = torch.tensor(numpy.asarray(x))
        except TypeError as error:
            raise TypeError(f"{name}: expected an array of floats, got {numpy.asarray(x).dtype}") from error
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected an array of floats, got {x.dtype}")
    if not shape:
        return x.detach()
    if x.dim() != len(shape) or any(want not in (None, got) for want, got in zip(shape, x.shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: expected shape ({wanted}{',' if len(shape) == 1 else ''}), got {tuple(x.shape)}")
    return x.detach()


def array(x: Tensor) -> Any:
    """A tensor as a numpy array of its own."""
    if x.dtype == torch.bfloat16:
        raise TypeError("gru: numpy has no bfloat16; convert the module first, with .float()")
    return x.detach().cpu().contiguous().numpy().copy()


def z_first(x: Tensor, dim: int = 0) -> Tensor:
    """r, z, n to z, r, n, and back."""
    first, second, n = x.chunk(3, dim)
    return torch.cat([second, first, n], dim)


def negate_update_gate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same GRU with the update gate's meaning turned around.

    Here z weighs the old state: ``h' = (1 - z) * n + z * h``. Many tutorials have it weigh the new one:
    ``h' = (1 - z) * h + z * n``. As ``1 - sigmoid(a) = sigmoid(-a)``, one is the other with the z rows of all weights
    and biases negated; to go back, do it again.

    Args:
        weights: a state_dict, or any part of one, whose values have gates r, z, n along their first axis:
            ``(3H, I)``, ``(3H, H)``, ``(3H,)``, of any dtype.

    Returns:
        A new dict of new tensors under the same names.

    Raises:
        ValueError: for a first axis that is not a multiple of 3.

    Example:
        >>> import torch, gru_fused
        >>> from gru_fused import weights
        >>> gru = gru_fused.GRU(1, 1)
        >>> turned = weights.negate_update_gate(gru.state_dict())
        >>> torch.equal(turned["bias_ih_l0"], gru.bias_ih_l0 * torch.tensor([1, -1, 1]))
        True
    """
    turned = {}
    for name, weight in weights.items():
        if weight.dim() == 0 or weight.shape[0] % 3:
            raise ValueError(f"{name}: expected a first axis of 3H, gates r, z, n, got shape {tuple(weight.shape)}")
        r, z, n = weight.detach().chunk(3)
        turned[name] = torch.cat([r, -z, n])
    return turned
