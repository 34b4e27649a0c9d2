"""``gru_fused.GRU``: parameters, options and packing; no arithmetic.

It inherits from torch everything that is not the computation itself: parameter names, initialisation, checks with their
messages, pickling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gru_fused import _direct, functional, variants
from gru_fused._with_options import WithOptions
from gru_fused.options import Options

__all__ = ["GRU"]


class GRU(WithOptions, nn.RNNBase):
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
        allow_empty: keyword only: T = 0 and lengths of 0 are no errors: the state stays as it is. Default False.
        reset_after, layer_norm, norm_eps, activation, gate_activation, zoneout, recurrent_dropout, reverse: keyword
            only: another cell than nn.GRU's; see :class:`gru_fused.Options`. With ``layer_norm`` there are parameters
            ``norm_ih_l{k}`` and ``norm_hh_l{k}`` (``"projections"``), or ``norm_l{k}`` (``"sum"``), ``(3H,)``. The
            ``options`` attribute has them all and may be set.

    Call with:
        input: ``(T, B, I)``, ``(B, T, I)``, unbatched ``(T, I)``, or a ``PackedSequence``.
        hx: initial states ``(L * D, B, H)``, unbatched ``(L * D, H)``; None for zeros.
        lengths, reset, reset_state, attention, all_layers: keyword only, what a sequence consists of and what is wanted
            of it; see :func:`gru_fused.variants.gru`. With a packed input, ``reset`` and ``attention`` are packed
            alike. Default: none of it.

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
        >>> rnn = gru_fused.GRU(10, 20, reset_after=False, zoneout=0.1)
        >>> output, h_n = rnn(torch.randn(5, 3, 10), lengths=[5, 2, 4])
        >>> rnn
        GRU(10, 20, reset_after=False, zoneout=0.1)
    """

    # of the class, for modules that were made as an nn.GRU
    recompute = False
    allow_empty = False

    def __init__(
        self,
        *args: Any,
        recompute: bool = False,
        allow_empty: bool = False,
        reset_after: bool = True,
        layer_norm: str | None = None,
        norm_eps: float = 1e-5,
        activation: str = "tanh",
        gate_activation: str = "sigmoid",
        zoneout: float = 0.0,
        recurrent_dropout: float = 0.0,
        reverse: bool = False,
        **kwargs: Any,
    ) -> None:
        if "proj_size" in kwargs or (len(args) > 7 and args[7] != 0):
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")
        options = Options(
            reset_after, layer_norm, norm_eps, activation, gate_activation, zoneout, recurrent_dropout, reverse
        )
        # Not super(): compat.GRU puts nn.GRU between, whose constructor has no mode.
        nn.RNNBase.__init__(self, "GRU", *args, **kwargs)
        self.recompute = recompute
        self.allow_empty = allow_empty
        self._take_options(options, like=self.weight_hh_l0)

    def extra_repr(self) -> str:
        flags = [f"{name}=True" for name in ("recompute", "allow_empty") if getattr(self, name)]
        return ", ".join([super().extra_repr(), *flags, *([self._options.changed()] if self._options else [])])

    def _check_options(self, options: Options) -> None:
        options.check_directions(self.bidirectional)

    def _norm_names(self) -> list[str]:
        names = self.options.norm_names()
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        return [f"{name}_l{k}{suffix}" for k in range(self.num_layers) for suffix in suffixes for name in names]

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
        self,
        input: Tensor | PackedSequence,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | PackedSequence | None = None,
        reset_state: Tensor | None = None,
        attention: Tensor | PackedSequence | None = None,
        all_layers: bool = False,
    ) -> tuple[Any, Tensor]:
        marks = None  # nn.GRU's own call
        if not (
            self._options is None
            and lengths is reset is reset_state is attention is None
            and not all_layers
            and not self.allow_empty
        ):
            marks = {"lengths": lengths, "reset": reset, "reset_state": reset_state, "attention": attention}
            marks["all_layers"] = all_layers
        elif not (self.dropout and self.training):
            results = _direct.gru(self, input, hx)
            if results is not None:
                return results

        if isinstance(input, PackedSequence):
            data, batch_sizes, sorted_indices, unsorted_indices = input
            if hx is not None:
                hx = self.permute_hidden(hx, sorted_indices)
            if marks is not None:
                self._unpack_marks(marks, input)
            output, h_n = self._run(data, hx, batch_sizes, marks)
            packed = _each(output, lambda y: PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices))
            return packed, self.permute_hidden(h_n, unsorted_indices)

        if input.dim() not in (2, 3):
            raise ValueError(f"GRU: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if hx is not None and hx.dim() != input.dim():
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(f"For {kind} input, hx should also be {input.dim()}-D but got {hx.dim()}-D tensor")
        if batched:
            return self._run(input, hx, None, marks)
        batch_axis = 0 if self.batch_first else 1
        if marks is not None:
            _add_batch_axis(marks, batch_axis)
        output, h_n = self._run(input.unsqueeze(batch_axis), None if hx is None else hx.unsqueeze(1), None, marks)
        return _each(output, lambda y: y.squeeze(batch_axis)), h_n.squeeze(1)

    def _unpack_marks(self, marks: dict[str, Any], input: PackedSequence) -> None:
        """Marks of a packed input: the data of those that are packed like it, states in its order."""
        for name in ("reset", "attention"):
            if marks[name] is None:
                continue
            if not isinstance(marks[name], PackedSequence):
                raise TypeError(f"{name}: expected a PackedSequence like the input, got {type(marks[name]).__name__}")
            if not _packed_alike(marks[name], input):
                raise ValueError(f"{name}: expected the batch_sizes and the order of the input, got others")
            marks[name] = marks[name].data
        if marks["reset_state"] is not None and marks["reset_state"].dim() == 3:
            marks["reset_state"] = self.permute_hidden(marks["reset_state"], input.sorted_indices)

    def _run(
        self, input: Tensor, hx: Tensor | None, batch_sizes: Tensor | None, marks: dict[str, Any] | None
    ) -> tuple[Any, Tensor]:
        weights = self._flat_weights
        self._check(input, hx, batch_sizes, weights)
        if marks is not None:
            return self._run_variant(input, hx, weights, batch_sizes, marks)
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

    def _run_variant(
        self,
        input: Tensor,
        hx: Tensor | None,
        weights: list[Tensor | None],
        batch_sizes: Tensor | None,
        marks: dict[str, Any],
    ) -> tuple[Any, Tensor]:
        return variants.gru(
            input,
            hx,
            weights,
            options=self.options,
            norms=[getattr(self, name) for name in self._norm_names()],
            allow_empty=self.allow_empty,
            **marks,
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


def _each(output: Any, change: Callable[[Tensor], Any]) -> Any:
    """Of the output, or of every layer's."""
    return tuple(map(change, output)) if isinstance(output, tuple) else change(output)


def _packed_alike(one: PackedSequence, other: PackedSequence) -> bool:
    if (one.sorted_indices is None) != (other.sorted_indices is None):
        return False
    pairs = [(one.batch_sizes, other.batch_sizes)]
    if one.sorted_indices is not None:
        pairs.append((one.sorted_indices, other.sorted_indices))
    return all(a is b or torch.equal(a, b) for a, b in pairs)


def _add_batch_axis(marks: dict[str, Any], axis: int) -> None:
    if marks["lengths"] is not None:
        raise ValueError("lengths: expected None with an unbatched input, which is one sequence")
    for name in ("reset", "attention"):
        if isinstance(marks[name], Tensor):
            marks[name] = marks[name].unsqueeze(axis)
