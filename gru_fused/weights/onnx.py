"""ONNX: W (D, 3H, I), R (D, 3H, H), B (D, 6H) = input's and state's side by side, gates z, r, h.

The operator: https://onnx.ai/onnx/operators/onnx__GRU.html. Its models are read and made in ``onnx_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from gru_fused.modules import GRU
from gru_fused.weights._layers import Direction, Layer, array, gru_of, layers_of, tensor, z_first

__all__ = ["OnnxGRU", "from_onnx", "to_onnx"]

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def from_onnx(*layers: Mapping[str, Any]) -> GRU:
    """A GRU with the weights of one ONNX node, or of several, one after the other.

    Args:
        layers: for each layer ``{"W": (D, 3H, I), "R": (D, 3H, H), "B": (D, 6H)}``, without B for no biases; of a node
            with ``linear_before_reset=1``. D = 2 if bidirectional. For a whole node, see :class:`OnnxGRU`.

    Returns:
        A module of the same dtype, time first as in ONNX.

    Raises:
        TypeError, ValueError: for other names, or shapes that do not fit.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> weights.from_onnx(*weights.to_onnx(gru_fused.GRU(3, 4, num_layers=2, bidirectional=True)))
        GRU(3, 4, num_layers=2, bidirectional=True)
    """
    return gru_of([_layer(layer, f"layer {number}") for number, layer in enumerate(layers)])


def to_onnx(gru: nn.RNNBase) -> list[dict[str, Any]]:
    """The weights of a GRU as ONNX nodes have them; for a model see :func:`to_onnx_model`.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU``; not bfloat16.

    Returns:
        For each layer numpy arrays ``{"W": (D, 3H, I), "R": (D, 3H, H), "B": (D, 6H)}``, without B if there are no
        biases, for a node with ``linear_before_reset=1``.

    Raises:
        TypeError: for anything but a GRU, and for bfloat16.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> {name: x.shape for name, x in weights.to_onnx(gru_fused.GRU(3, 4))[0].items()}
        {'W': (1, 12, 3), 'R': (1, 12, 4), 'B': (1, 24)}
    """
    return [_node(layer) for layer in layers_of(gru, "to_onnx")]


class OnnxGRU(nn.Module):
    """An ONNX GRU node: its inputs, outputs and attributes, around a :class:`gru_fused.GRU`.

    T steps, B sequences, I inputs, H units, D directions.

    Args:
        W: ``(D, 3H, I)``, gates z, r, h.
        R: ``(D, 3H, H)``.
        B: ``(D, 6H)``: of the input, of the state; None for no biases.
        direction: ``"forward"``, ``"reverse"`` or ``"bidirectional"``.
        layout: 1: X is ``(B, T, I)``, Y ``(B, T, D, H)``, initial_h and Y_h ``(B, D, H)``. Default 0.
        linear_before_reset: must be 1. ONNX' default of 0 is the cell with the reset gate before the recurrent product.
        hidden_size, activations, activation_alpha, activation_beta, clip: as in ONNX; only what ``gru_fused.GRU``
            computes is taken: no clip, sigmoid and tanh.

    Call with:
        X: ``(T, B, I)``.
        sequence_lens: ``(B,)`` integers from 1 to T, or None: past its length a sequence keeps its state, and Y is 0.
        initial_h: ``(D, B, H)``, or None for zeros.

    Returns:
        Y ``(T, D, B, H)`` and Y_h ``(D, B, H)``.

    Raises:
        NotImplementedError: for ``linear_before_reset=0``, ``clip`` and other activations.
        TypeError, ValueError: for other values and shapes that do not fit.

    The ``gru`` attribute is the ``gru_fused.GRU`` itself; that of a reverse node reads its input from the end.

    Example:
        >>> import torch
        >>> from gru_fused import weights
        >>> W, R = torch.zeros(1, 12, 3), torch.zeros(1, 12, 4)
        >>> node = weights.OnnxGRU(W, R, direction="reverse", linear_before_reset=1)
        >>> Y, Y_h = node(torch.randn(5, 2, 3), sequence_lens=torch.tensor([5, 2]))
        >>> Y.shape, Y_h.shape
        (torch.Size([5, 1, 2, 4]), torch.Size([1, 2, 4]))
    """

    def __init__(
        self,
        W: Any,
        R: Any,
        B: Any = None,
        *,
        direction: str = "forward",
        layout: int = 0,
        linear_before_reset: int = 0,
        hidden_size: int | None = None,
        activations: Sequence[str] | None = None,
        activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        if direction not in DIRECTIONS:
            raise ValueError(f"direction: expected forward, reverse or bidirectional, got {direction!r}")
        if layout not in (0, 1):
            raise ValueError(f"layout: expected 0 or 1, got {layout!r}")
        if not linear_before_reset:
            raise NotImplementedError(
                "linear_before_reset: expected 1, got 0 (ONNX' default): the reset gate before the recurrent product "
                "is a cell that gru_fused doesn't have yet. Its weights can't be turned into the other's"
            )
        if clip is not None:
            raise NotImplementedError(f"clip: expected none, got {clip}")
        if activation_alpha or activation_beta:
            raise NotImplementedError("activation_alpha, activation_beta: expected none; sigmoid and tanh have none")
        if activations and [a.lower() for a in activations] != ["sigmoid", "tanh"] * DIRECTIONS[direction]:
            raise NotImplementedError(f"activations: expected Sigmoid, Tanh in each direction, got {list(activations)}")
        self.gru = from_onnx({"W": W, "R": R, **({} if B is None else {"B": B})})
        directions = 2 if self.gru.bidirectional else 1
        if directions != DIRECTIONS[direction]:
            raise ValueError(f"W: expected {DIRECTIONS[direction]} directions for {direction!r}, got {directions}")
        if hidden_size not in (None, self.gru.hidden_size):
            raise ValueError(f"hidden_size: expected {self.gru.hidden_size} as in R, got {hidden_size}")
        self.direction, self.layout = direction, layout

    def forward(
        self, X: Tensor, sequence_lens: Tensor | None = None, initial_h: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if X.dim() != 3:
            raise ValueError(f"X: expected 3 dimensions, got shape {tuple(X.shape)}")
        if self.layout == 1:
            X, initial_h = X.transpose(0, 1), None if initial_h is None else initial_h.transpose(0, 1)
        steps, batch, _ = X.shape
        lengths = None if sequence_lens is None else _lengths(sequence_lens, steps, batch)
        order = _backwards(steps, batch, lengths, X.device) if self.direction == "reverse" else None
        if order is not None:
            X = X.take_along_dim(order, 0)
        if lengths is None:
            output, Y_h = self.gru(X, initial_h)
        else:
            packed, Y_h = self.gru(pack_padded_sequence(X, lengths, enforce_sorted=False), initial_h)
            output, _ = pad_packed_sequence(packed, total_length=steps)
        if order is not None:
            output = output.take_along_dim(order, 0)
        Y = output.view(steps, batch, -1, self.gru.hidden_size)
        return (Y.transpose(0, 1), Y_h.transpose(0, 1)) if self.layout == 1 else (Y.transpose(1, 2), Y_h)

    def extra_repr(self) -> str:
        return f"direction={self.direction!r}" + (", layout=1" if self.layout else "")


def _lengths(sequence_lens: Tensor, steps: int, batch: int) -> Tensor:
    if sequence_lens.is_floating_point():
        raise TypeError(f"sequence_lens: expected integers, got {sequence_lens.dtype}")
    lengths = sequence_lens.detach().cpu().long()
    if lengths.shape != (batch,):
        raise ValueError(f"sequence_lens: expected shape ({batch},), got {tuple(lengths.shape)}")
    if batch and not (lengths.min() >= 1 and lengths.max() <= steps):
        raise ValueError(f"sequence_lens: expected numbers from 1 to {steps}, got {lengths.tolist()}")
    return lengths


def _backwards(steps: int, batch: int, lengths: Tensor | None, device: torch.device) -> Tensor:
    """Which step comes at each step, (T, B, 1): each sequence from its own end, its padding left in place."""
    t = torch.arange(steps, device=device).unsqueeze(1)
    ends = t.new_full((batch,), steps) if lengths is None else lengths.to(device)
    return torch.where(t < ends, ends - 1 - t, t).unsqueeze(2)


def _layer(layer: Mapping[str, Any], name: str) -> Layer:
    if not isinstance(layer, Mapping) or set(layer) not in ({"W", "R"}, {"W", "R", "B"}):
        got = ", ".join(map(str, layer)) if isinstance(layer, Mapping) else type(layer).__name__
        raise TypeError(f"{name}: expected a dict of W, R and, with biases, B, got {got}")
    R = tensor(layer["R"], f"{name}, R", None, None, None)
    directions, _, units = R.shape
    if directions not in (1, 2):
        raise ValueError(f"{name}, R: expected 1 or 2 directions along the first axis, got {directions}")
    R = tensor(R, f"{name}, R", directions, 3 * units, units)
    W = tensor(layer["W"], f"{name}, W", directions, 3 * units, None)
    kernels = zip(W, R, strict=True)
    if "B" not in layer:
        return [Direction(z_first(w), z_first(r), None, None) for w, r in kernels]
    B = tensor(layer["B"], f"{name}, B", directions, 6 * units)
    halves = (b.chunk(2) for b in B)
    return [Direction(*map(z_first, (*pair, *two))) for pair, two in zip(kernels, halves, strict=True)]


def _node(layer: Layer) -> dict[str, Any]:
    node = {
        "W": array(torch.stack([z_first(direction.w_ih) for direction in layer])),
        "R": array(torch.stack([z_first(direction.w_hh) for direction in layer])),
    }
    biases = [torch.cat([z_first(b) for b in d[2:] if b is not None]) for d in layer if d.b_ih is not None]
    return {**node, "B": array(torch.stack(biases))} if biases else node
