"""Plain inference on the CPU, past torch's dispatcher: for a single step of a small layer the way there and back takes
longer than the arithmetic (docs/notes/2026-11-24-small-calls.md).

Only where nobody could tell: no derivative, transform, mode, autocast, tracing or profile is under way, and every
tensor is a plain one on the CPU. Every function returns None where that is not so, or where an argument does not fit:
the caller then takes the op, which knows what to say.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd import _profiler_enabled, forward_ad

from gru_fused import _ops
from gru_fused._ops import _C

_in_torch_func = torch._C._are_functorch_transforms_active
_autocast = torch._C._is_any_autocast_enabled
_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._len_torch_function_stack
_tracing = torch._C._get_tracing_state
_grad = torch.is_grad_enabled
_compiling = torch.compiler.is_compiling

_forward = _C.forward
_C.attach(Tensor, nn.Parameter)
_empty = getattr(_ops.node, "empty", Tensor.new_empty)  # the same, sooner


def gru(rnn: nn.RNNBase, input: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """output and h_n of nn.GRU for a batched input."""
    if type(input) is not Tensor or _compiling() or not (input.is_cpu and _plain()):
        return None
    size = input.shape
    if len(size) != 3:
        return None
    hidden, batch_first, bidirectional = rnn.hidden_size, rnn.batch_first, rnn.bidirectional
    batch, steps = size[:2] if batch_first else (size[1], size[0])
    directions = 2 if bidirectional else 1
    output = _empty(input, steps, batch, directions * hidden)
    h_n = _empty(input, rnn.num_layers * directions, batch, hidden)
    names = rnn._flat_weights_names
    if not _forward(input, hx, rnn._parameters, names, output, h_n, rnn.bias, bidirectional, batch_first):
        return None
    return output.transpose(0, 1) if batch_first else output, h_n


def gru_cell(cell: nn.RNNCellBase, input: Tensor, hx: Tensor | None) -> Tensor | None:
    """The state of nn.GRUCell for a batched input."""
    if type(input) is not Tensor or _compiling() or not (input.is_cpu and _plain()):
        return None
    h = _empty(input, input.shape[0], cell.hidden_size)
    bias = cell.bias
    names = _OF_CELL if bias else _OF_CELL_WITHOUT_BIAS
    return h if _forward(input, hx, cell._parameters, names, h, h, bias, False, False) else None


_OF_CELL = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
_OF_CELL_WITHOUT_BIAS = _OF_CELL[:2]


def _plain() -> bool:
    return not (
        _grad()
        or _autocast()
        or _in_torch_func()
        or forward_ad._current_level >= 0
        or _dispatch_modes()
        or _function_modes()
        or _tracing() is not None
        or _profiler_enabled()
    )
