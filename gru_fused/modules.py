"""``gru_fused.GRU`` and ``gru_fused.GRUCell``: parameters, options and packing; no arithmetic.

Both inherit from torch everything that is not the computation itself: parameter names, initialisation,
checks with their messages, pickling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_fused import functional

__all__ = ["GRU", "GRUCell"]


class GRU(nn.RNNBase):
    """A drop-in for :class:`torch.nn.GRU`: the same arguments, parameters, state_dict, results and errors.

    T steps, B sequences, I inputs, H units, L layers, D directions.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L. Default 1.
        bias: whether there are biases. Default True.
        batch_first: input and output are ``(B, T, ...)`` instead of ``(T, B, ...)``. Default False.
        dropout: probability of zeroing an element of the output of every layer but the last, in training. Default 0.
        bidirectional: D = 2 instead of 1. Default False.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.
        recompute: keyword only, not one of nn.GRU's: training keeps no gates (``4 * H`` numbers a step, sequence and
            direction) but makes them again in the backward, for less memory and more time. Gradients are the same up to
            rounding; in bfloat16 and float16 they come from the rounded output in place of float32 states, with an
            error of the same size. An attribute that may be set at any time. Default False.

    Call with:
        input: ``(T, B, I)``, ``(B, T, I)``, unbatched ``(T, I)``, or a ``PackedSequence``.
        hx: initial states ``(L * D, B, H)``, unbatched ``(L * D, H)``; None for zeros.

    Returns:
        output ``(T, B, D * H)`` in the layout of the input, and h_n in the layout of hx.

    It derives from ``nn.RNNBase`` and not from ``nn.GRU``, which ``torch.compile(fullgraph=True)`` refuses; where a
    library asks for an ``nn.GRU``, give it :class:`gru_fused.compat.GRU`.

    Example:
        >>> import torch, gru_fused
        >>> rnn = gru_fused.GRU(10, 20, num_layers=2, bidirectional=True)
        >>> output, h_n = rnn(torch.randn(5, 3, 10))
        >>> output.shape, h_n.shape
        (torch.Size([5, 3, 40]), torch.Size([4, 3, 20]))
        >>> gru_fused.GRU(10, 20, recompute=True)
        GRU(10, 20, recompute=True)
    """

    recompute = False  # of the class, for modules that were made as an nn.GRU

    def __init__(self, *args: Any, recompute: bool = False, **kwargs: Any) -> None:
        if "proj_size" in kwargs or (len(args) > 7 and args[7] != 0):
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        # Not super(): compat.GRU puts nn.GRU between, whose constructor has no mode.
        nn.RNNBase.__init__(self, "GRU", *args, **kwargs)
        self.recompute = recompute

    def extra_repr(self) -> str:
        return super().extra_repr() + (", recompute=True" if self.recompute else "")

    @property
    def _flat_weights(self) -> list[Tensor | None]:
        """The parameters where they are now: after tying, replacing, parametrizing there is no copy to refresh."""
        parameters = self._parameters
        try:
            return [parameters[name] for name in self._flat_weights_names]
        except KeyError:  # computed (parametrized, pruned) or deleted
            return [getattr(self, name, None) for name in self._flat_weights_names]

    @_flat_weights.setter
    def _flat_weights(self, value: list[Tensor | None]) -> None:
        """nn.RNNBase assigns its own list, which is not needed."""

    def flatten_parameters(self) -> None:
        """Nothing to do: the kernels read the parameters where they are."""

    def forward(
        self, input: Tensor | PackedSequence, hx: Tensor | None = None
    ) -> tuple[Tensor | PackedSequence, Tensor]:
        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
            if hx is not None:
                hx = self.permute_hidden(hx, sorted_indices)
            output, h_n = self._run(data, hx, batch_sizes)
            packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
            return packed, self.permute_hidden(h_n, unsorted_indices)

        if input.dim() not in (2, 3):
            raise ValueError(f"GRU: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if hx is not None and hx.dim() != input.dim():
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(f"For {kind} input, hx should also be {input.dim()}-D but got {hx.dim()}-D tensor")
        if batched:
            return self._run(input, hx, None)
        batch_axis = 0 if self.batch_first else 1
        output, h_n = self._run(input.unsqueeze(batch_axis), None if hx is None else hx.unsqueeze(1), None)
        return output.squeeze(batch_axis), h_n.squeeze(1)

    def _run(self, input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None) -> tuple[Tensor, Tensor]:
        weights = self._flat_weights
        self._check(input, hx, batch_sizes, weights)
        return functional.gru(
            input,
            hx,
            weights,
            bias=self.bias,
            num_layers=self.num_layers,
            dropout=self.dropout,
            training=self.training,
            bidirectional=self.bidirectional,
            batch_first=self.batch_first,
            batch_sizes=batch_sizes,
            recompute=self.recompute,
        )

    def _check(
        self, input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None, weights: list[Tensor | None]
    ) -> None:
        """nn.RNNBase's checks and messages, called only if something is off: they would read all weights again."""
        for i, weight in enumerate(weights):
            if weight is None:
                raise AttributeError(f"'{type(self).__name__}' object has no attribute '{self._flat_weights_names[i]}'")
        size = input.shape
        if (
            input.dtype != weights[0].dtype
            or len(size) != (3 if batch_sizes is None else 2)
            or size[-1] != self.input_size
        ):
            self.check_input(input, batch_sizes)
        if hx is not None:
            if batch_sizes is None:
                batch = size[0 if self.batch_first else 1]
            elif torch.compiler.is_compiling():  # a number that dynamo can't compare: the op does, when it runs
                batch = hx.shape[1]
            else:
                batch = batch_sizes[0].item()
            states = self.num_layers * (2 if self.bidirectional else 1)
            if hx.shape != (states, batch, self.hidden_size):
                self.check_hidden_size(hx, self.get_expected_hidden_size(input, batch_sizes))


class GRUCell(nn.GRUCell):
    """A drop-in for :class:`torch.nn.GRUCell`: one step.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are biases. Default True.
        device: of the parameters.
        dtype: of the parameters: float32, float64, bfloat16 or float16.

    Call with:
        input: ``(B, I)`` or ``(I,)``.
        hx: the state before the step, ``(B, H)`` or ``(H,)``; None for zeros.

    Returns:
        The state after the step, in the layout of the input.

    Example:
        >>> import torch, gru_fused
        >>> cell = gru_fused.GRUCell(10, 20)
        >>> cell(torch.randn(3, 10)).shape
        torch.Size([3, 20])
    """

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if input.dim() == 2 and (hx is None or hx.dim() == 2):
            return self._step(input, hx)
        if input.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"GRUCell: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")
        if input.dim() == 2:
            return self._step(input, hx)
        return self._step(input.unsqueeze(0), None if hx is None else hx.unsqueeze(0)).squeeze(0)

    def _step(self, input: Tensor, hx: Tensor | None) -> Tensor:
        if hx is None:
            hx = torch.zeros(input.size(0), self.hidden_size, dtype=input.dtype, device=input.device)
        parameters = self._parameters
        try:
            weights = [parameters[name] for name in _CELL_WEIGHTS]
        except KeyError:  # computed: parametrized or pruned
            weights = [getattr(self, name) for name in _CELL_WEIGHTS]
        return functional.gru_cell(input, hx, *weights)


_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
