"""ONNX: W (D, 3H, I), R (D, 3H, H), B (D, 6H) = input's and state's side by side, gates z, r, h.

The operator: https://onnx.ai/onnx/operators/onnx__GRU.html. Its models are read and made in ``onnx_model.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gru_fused.modules import GRU
from gru_fused.options import PLAIN, Options
from gru_fused.weights._layers import Direction, Layer, array, gru_of, layers_of, options_of, tensor, z_first

__all__ = ["OnnxGRU", "from_onnx", "to_onnx"]

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
GATES, CANDIDATES = ("sigmoid", "hardsigmoid"), ("tanh", "relu", "softsign")
# what a node has of our options
OPTIONS = ("reset_after", "activation", "gate_activation", "reverse")


def from_onnx(*layers: Mapping[str, Any], options: Options = PLAIN) -> GRU:
    """A GRU with the weights of one ONNX node, or of several, one after the other.

    Args:
        layers: for each layer ``{"W": (D, 3H, I), "R": (D, 3H, H), "B": (D, 6H)}``, without B for no biases. D = 2 if
            bidirectional. For a whole node, with its attributes, see :class:`OnnxGRU`.
        options: of the cell; the default is that of a node with ``linear_before_reset=1``.

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
    return gru_of([_layer(layer, f"layer {number}") for number, layer in enumerate(layers)], options=options)


def to_onnx(gru: nn.RNNBase) -> list[dict[str, Any]]:
    """The weights of a GRU as ONNX nodes have them; for a model see :func:`to_onnx_model`.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU``; not bfloat16.

    Returns:
        For each layer numpy arrays ``{"W": (D, 3H, I), "R": (D, 3H, H), "B": (D, 6H)}``, without B if there are no
        biases, for a node with ``linear_before_reset=1``, or 0 for ``reset_after=False``, and the attributes that the
        other options say.

    Raises:
        NotImplementedError: for options that ONNX doesn't have.
        TypeError: for anything but a GRU, and for bfloat16.

    Example:
        >>> import gru_fused
        >>> from gru_fused import weights
        >>> {name: x.shape for name, x in weights.to_onnx(gru_fused.GRU(3, 4))[0].items()}
        {'W': (1, 12, 3), 'R': (1, 12, 4), 'B': (1, 24)}
    """
    return [_node(layer) for layer in layers_of(gru, "to_onnx", OPTIONS)]


def attributes(gru: nn.RNNBase) -> dict[str, Any]:
    """The attributes of a GRU's nodes, but for its size."""
    options, directions = options_of(gru), 2 if gru.bidirectional else 1
    found: dict[str, Any] = {
        "linear_before_reset": int(options.reset_after),
        "direction": "bidirectional" if gru.bidirectional else "reverse" if options.reverse else "forward",
    }
    if (options.activation, options.gate_activation) != (PLAIN.activation, PLAIN.gate_activation):
        gate = "Sigmoid" if options.gate_activation == "sigmoid" else "HardSigmoid"
        found["activations"] = [gate, options.activation.capitalize()] * directions
        if gate == "HardSigmoid":
            slope = 1 / 6 if options.gate_activation == "hard_sigmoid" else 1 / 5
            found |= {"activation_alpha": [slope] * directions, "activation_beta": [0.5] * directions}
    return found


class OnnxGRU(nn.Module):
    """An ONNX GRU node: its inputs, outputs and attributes, around a :class:`gru_fused.GRU`.

    T steps, B sequences, I inputs, H units, D directions.

    Args:
        W: ``(D, 3H, I)``, gates z, r, h.
        R: ``(D, 3H, H)``.
        B: ``(D, 6H)``: of the input, of the state; None for no biases.
        direction: ``"forward"``, ``"reverse"`` or ``"bidirectional"``.
        layout: 1: X is ``(B, T, I)``, Y ``(B, T, D, H)``, initial_h and Y_h ``(B, D, H)``. Default 0.
        linear_before_reset: 0, ONNX' default: the reset gate before the recurrent product; 1: after it, as in nn.GRU.
        hidden_size, activations, activation_alpha, activation_beta, clip: as in ONNX; only what ``gru_fused.GRU``
            computes is taken: no clip; Sigmoid, or HardSigmoid of alpha 1/5 or 1/6 and beta 1/2; Tanh, Relu, Softsign.

    Call with:
        X: ``(T, B, I)``.
        sequence_lens: ``(B,)`` integers from 0 to T, or None: past its length a sequence keeps its state, and Y is 0.
        initial_h: ``(D, B, H)``, or None for zeros.

    Returns:
        Y ``(T, D, B, H)`` and Y_h ``(D, B, H)``.

    Raises:
        NotImplementedError: for ``clip`` and other activations.
        TypeError, ValueError: for other values and shapes that do not fit.

    The ``gru`` attribute is the ``gru_fused.GRU`` itself.

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
        if clip is not None:
            raise NotImplementedError(f"clip: expected none, got {clip}")
        candidate, gate = _activations(activations, activation_alpha, activation_beta, DIRECTIONS[direction])
        options = Options(
            bool(linear_before_reset), activation=candidate, gate_activation=gate, reverse=direction == "reverse"
        )
        weights = {"W": W, "R": R, **({} if B is None else {"B": B})}
        given = tensor(R, "R", None, None, None).shape[0]
        if given != DIRECTIONS[direction]:
            raise ValueError(f"R: expected {DIRECTIONS[direction]} directions for {direction!r}, got {given}")
        self.gru = from_onnx(weights, options=options)
        self.gru.allow_empty = True
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
        output, Y_h = self.gru(X, initial_h, lengths=_lengths(sequence_lens, steps, batch))
        Y = output.view(steps, batch, -1, self.gru.hidden_size)
        return (Y.transpose(0, 1), Y_h.transpose(0, 1)) if self.layout == 1 else (Y.transpose(1, 2), Y_h)

    def extra_repr(self) -> str:
        return f"direction={self.direction!r}" + (", layout=1" if self.layout else "")


def _lengths(sequence_lens: Tensor | None, steps: int, batch: int) -> Tensor | None:
    """Checked here, for the argument's name."""
    if sequence_lens is None:
        return None
    if sequence_lens.is_floating_point():
        raise TypeError(f"sequence_lens: expected integers, got {sequence_lens.dtype}")
    if sequence_lens.shape != (batch,):
        raise ValueError(f"sequence_lens: expected shape ({batch},), got {tuple(sequence_lens.shape)}")
    if batch and not sequence_lens.is_cuda and not 0 <= sequence_lens.min() <= sequence_lens.max() <= steps:
        raise ValueError(f"sequence_lens: expected numbers from 0 to {steps}, got {sequence_lens.tolist()}")
    return sequence_lens


def _activations(
    names: Sequence[str] | None, alphas: Sequence[float] | None, betas: Sequence[float] | None, directions: int
) -> tuple[str, str]:
    """Of the candidate and of the gates, by our names."""
    names = list(names or ["Sigmoid", "Tanh"] * directions)
    expected = "Sigmoid or HardSigmoid, then Tanh, Relu or Softsign, the same in each direction"
    lower = [name.lower() for name in names]
    gate, candidate = (*lower[:2], "", "")[:2]
    if lower != [gate, candidate] * directions or gate not in GATES or candidate not in CANDIDATES:
        raise NotImplementedError(f"activations: expected {expected}, got {names}")
    if gate == "sigmoid":
        if alphas or betas:
            raise NotImplementedError("activation_alpha, activation_beta: expected none; sigmoid and tanh have none")
        return candidate, gate
    alphas, betas = set(alphas or [0.2]), set(betas or [0.5])  # the operator's defaults
    for name, slope in {"hard_sigmoid_fifth": 1 / 5, "hard_sigmoid": 1 / 6}.items():
        if all(abs(alpha - slope) < 1e-4 for alpha in alphas) and betas == {0.5}:
            return candidate, name
    raise NotImplementedError(
        f"HardSigmoid: expected alpha 1/5 or 1/6 and beta 1/2, got {sorted(alphas)} and {sorted(betas)}"
    )


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
