"""``gru_fused.GRUCell``: parameters and options of one step; no arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gru_fused import _direct, functional, variants
from gru_fused._with_options import WithOptions
from gru_fused.options import Options

__all__ = ["GRUCell"]


class GRUCell(WithOptions, nn.GRUCell):
    """A drop-in for :class:`torch.nn.GRUCell`: one step.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are biases. Default True.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.
        reset_after, layer_norm, norm_eps, activation, gate_activation, zoneout, recurrent_dropout: keyword only:
            another cell than nn.GRUCell's; see :class:`gru_fused.Options`. With ``layer_norm`` there are parameters
            ``norm_ih`` and ``norm_hh`` (``"projections"``), or ``norm`` (``"sum"``), ``(3H,)``.

    Call with:
        input: ``(B, I)`` or ``(I,)``.
        hx: the state before the step, ``(B, H)`` or ``(H,)``; None for zeros.
        reset: keyword only, bool ``(B,)`` or ``()``: an episode begins, from ``reset_state`` in place of hx.
        reset_state: keyword only, ``(H,)`` or ``(B, H)``; None for zeros.
        attention: keyword only, ``(B,)`` or ``()``: how much of its update the step makes, 0 to 1.
        recurrent_mask: keyword only, ``(B, H)``: what the state is multiplied with in the recurrent product, for one
            mask in all steps of a sequence: ``F.dropout(torch.ones(B, H), p)``. None: with ``recurrent_dropout``, in
            training, each call draws its own.

    Returns:
        The state after the step, in the layout of the input.

    Example:
        >>> import torch, gru_fused
        >>> cell = gru_fused.GRUCell(10, 20)
        >>> cell(torch.randn(3, 10)).shape
        torch.Size([3, 20])
    """

    def __init__(
        self,
        *args: Any,
        reset_after: bool = True,
        layer_norm: str | None = None,
        norm_eps: float = 1e-5,
        activation: str = "tanh",
        gate_activation: str = "sigmoid",
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        options = Options(reset_after, layer_norm, norm_eps, activation, gate_activation, zoneout, recurrent_dropout)
        nn.GRUCell.__init__(self, *args, **kwargs)
        self._take_options(options, like=self.weight_hh)

    def extra_repr(self) -> str:
        return super().extra_repr() + (f", {self._options.changed()}" if self._options else "")

    def _check_options(self, options: Options) -> None:
        if options.reverse:
            raise ValueError("reverse: expected False: a cell makes one step")

    def _norm_names(self) -> list[str]:
        return list(self.options.norm_names())

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        reset: Tensor | None = None,
        reset_state: Tensor | None = None,
        attention: Tensor | None = None,
        recurrent_mask: Tensor | None = None,
    ) -> Tensor:
        marks = None  # nn.GRUCell's own call
        if not (self._options is None and reset is reset_state is attention is recurrent_mask is None):
            marks = {
                "reset": reset,
                "reset_state": reset_state,
                "attention": attention,
                "recurrent_mask": recurrent_mask,
            }
        if input.dim() == 2 and (hx is None or hx.dim() == 2):
            return self._step(input, hx, marks)
        if input.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if input.dim() == 2:
            return self._step(input, hx, marks)
        if marks is not None:
            marks = {name: y.unsqueeze(0) if isinstance(y, Tensor) else y for name, y in marks.items()}
        return self._step(input.unsqueeze(0), None if hx is None else hx.unsqueeze(0), marks).squeeze(0)

    def _step(self, input: Tensor, hx: Tensor | None, marks: dict[str, Tensor | None] | None) -> Tensor:
        if marks is None:
            h = _direct.gru_cell(self, input, hx)
            if h is not None:
                return h
        if hx is None:
            hx = torch.zeros(input.size(0), self.hidden_size, dtype=input.dtype, device=input.device)
        parameters = self._parameters
        try:
            weights = [parameters[name] for name in _WEIGHTS]
        except KeyError:  # computed: parametrized or pruned
            weights = [getattr(self, name) for name in _WEIGHTS]
        if marks is None:
            return functional.gru_cell(input, hx, *weights)
        norms = [getattr(self, name) for name in self._norm_names()]
        return variants.gru_cell(
            input, hx, *weights, options=self.options, norms=norms, training=self.training, **marks
        )


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
