"""The options of a GRU that nn.GRU doesn't have, in one value: what the cell computes, and in which direction."""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["Options"]

ACTIVATIONS = ("tanh", "relu", "softsign")
GATE_ACTIVATIONS = ("sigmoid", "hard_sigmoid", "hard_sigmoid_fifth")
LAYER_NORMS = (None, "projections", "sum")


@dataclass(frozen=True)
class Options:
    """How a cell differs from nn.GRU's. Every option is off by default, and may be combined with every other.

    Args:
        reset_after: True: the reset gate is applied after the recurrent product (cuDNN, nn.GRU, Keras' default). False:
            before it, ``n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)``, as in the first paper
            (https://arxiv.org/abs/1406.1078), many tutorials, and by default in ONNX.
        layer_norm: None; ``"projections"``: both projections are normalised over their 3H numbers, each with a gain of
            its own, before the biases (haste's LayerNormGRU); ``"sum"``: their sum is, and the reset gate multiplies
            all of the candidate's part of it, ``n = tanh(r * c_n)`` (Dreamer's GRU). Not with ``reset_after=False``.
        norm_eps: added to the variance in the norm. Default 1e-5.
        activation: of the candidate n: ``"tanh"``, ``"relu"`` or ``"softsign"``.
        gate_activation: of r and z: ``"sigmoid"``; ``"hard_sigmoid"``, ``clip(x / 6 + 1/2, 0, 1)`` as in torch and
            Keras 3; or ``"hard_sigmoid_fifth"``, ``clip(x / 5 + 1/2, 0, 1)`` as in ONNX and Keras 2.
        zoneout: probability with which a unit keeps its state in a step, in training; in evaluation every unit keeps
            that share of it (https://arxiv.org/abs/1606.01305).
        recurrent_dropout: probability of zeroing a unit of the state in the recurrent product, in training: one mask
            for all steps of a sequence (https://arxiv.org/abs/1512.05287), the rest scaled up.
        reverse: the only direction goes from the last step to the first.

    Raises:
        ValueError: naming the option, for anything else.

    Example:
        >>> import gru_fused
        >>> gru_fused.Options(reset_after=False, zoneout=0.1)
        Options(reset_after=False, zoneout=0.1)
    """

    reset_after: bool = True
    layer_norm: str | None = None
    norm_eps: float = 1e-5
    activation: str = "tanh"
    gate_activation: str = "sigmoid"
    zoneout: float = 0.0
    recurrent_dropout: float = 0.0
    reverse: bool = False

    def __post_init__(self) -> None:
        for name in ("reset_after", "reverse"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name}: expected a bool, got {getattr(self, name)!r}")
        for name, known in (
            ("layer_norm", LAYER_NORMS),
            ("activation", ACTIVATIONS),
            ("gate_activation", GATE_ACTIVATIONS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {getattr(self, name)!r}")
        for name in ("zoneout", "recurrent_dropout"):
            p = getattr(self, name)
            if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
                raise ValueError(f"{name}: expected a number in the range [0, 1], got {p!r}")
        if isinstance(self.norm_eps, bool) or not isinstance(self.norm_eps, (int, float)) or self.norm_eps < 0:
            raise ValueError(f"norm_eps: expected a number of at least 0, got {self.norm_eps!r}")
        if self.layer_norm is not None and not self.reset_after:
            raise ValueError("layer_norm: expected None with reset_after=False: there is no such cell")

    def __repr__(self) -> str:
        return f"Options({self.changed()})"

    def changed(self) -> str:
        """The options that are not the default, as arguments."""
        pairs = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return ", ".join(f"{name}={value!r}" for name, value, default in pairs if value != default)

    def check_directions(self, bidirectional: bool) -> None:
        """Raises ValueError for a GRU whose directions don't go with these options."""
        if self.reverse and bidirectional:
            raise ValueError("reverse: expected False with bidirectional=True, which has both directions")

    def norm_names(self) -> tuple[str, ...]:
        """The norm's gains, (3H,) each, for every layer and direction."""
        return {None: (), "projections": ("norm_ih", "norm_hh"), "sum": ("norm",)}[self.layer_norm]


PLAIN = Options()
