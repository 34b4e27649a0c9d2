"""The GRU as plain functions of tensors: the one door to the kernels.

The cell is that of ``torch.nn.GRU`` (https://docs.pytorch.org/docs/stable/generated/torch.nn.GRU.html), gate order
r, z, n; :mod:`gru_fused.reference` writes it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from gru_fused import _autograd, _ops

__all__ = ["gru", "gru_cell"]


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    bias: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """A GRU of one or more layers over a batch of sequences.

    T steps, B sequences, I inputs, H units, L layers, D directions (2 if ``bidirectional``).

    Args:
        input: ``(T, B, I)``, or ``(B, T, I)`` if ``batch_first``; with ``batch_sizes`` the data of a
            ``PackedSequence``, ``(N, I)``. float32, float64, bfloat16 or float16, any strides.
        hx: initial states, ``(L * D, B, H)``; None for zeros.
        weights: for each layer and direction, forward first: ``w_ih (3H, I or D * H)``, ``w_hh (3H, H)`` and, if
            ``bias``, ``b_ih (3H,)``, ``b_hh (3H,)``; the order of ``torch.nn.GRU``'s parameters.
        bias: whether ``weights`` has biases.
        num_layers: L.
        dropout: probability of zeroing an element between layers, if ``training``.
        training: whether dropout is applied.
        bidirectional: whether each layer has a second direction, from the last step to the first.
        batch_first: whether the first axis of input and output is the batch.
        batch_sizes: int64 ``(T,)`` on the CPU: how many sequences are alive at each step, as in ``PackedSequence``.
        recompute: for training in less memory: of each layer only its arguments and its output are kept for the
            backward, which makes the gates, 4H numbers a step, sequence and direction, again. Its gradients are the
            same up to rounding; in bfloat16 and float16 they come from the rounded output in place of float32 states,
            with an error of the same size.

    Returns:
        The last layer's states, ``(T, B, D * H)`` (``(B, T, D * H)``, ``(N, D * H)``), and the last state of every
        layer and direction, ``(L * D, B, H)``.

    Raises:
        RuntimeError: for T = 0, tensors on different devices, or shapes that do not fit.
        NotImplementedError: for a device that this build has no kernels for.

    Example:
        >>> import torch
        >>> from gru_fused import functional
        >>> rnn = torch.nn.GRU(3, 4)
        >>> output, h_n = functional.gru(torch.randn(5, 2, 3), None, list(rnn.parameters()))
        >>> output.shape, h_n.shape
        (torch.Size([5, 2, 4]), torch.Size([1, 2, 4]))
    """
    directions = 2 if bidirectional else 1
    per_direction = 4 if bias else 2
    per_layer = directions * per_direction
    _check_counts(hx, weights, num_layers, directions, per_layer, bias)
    packed = batch_sizes is not None
    x = input.transpose(0, 1) if batch_first and not packed else input
    if x.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if hx is None:
        hx = _zero_states(x, num_layers * directions, weights[1].shape[1], batch_sizes)
    autocast = torch._C._is_any_autocast_enabled()
    if autocast:
        x, hx, weights, dtype = _autocast(x, hx, weights)

    try:
        if not _needs_grad(x, hx, weights) and not (dropout and training):
            x, h_n = _ops.infer(x, hx, weights, bias, bidirectional, batch_sizes)
        else:
            x, h_n = _layers(x, hx, weights, bias, directions, batch_sizes, dropout if training else 0.0, recompute)
    except RuntimeError:
        _check_same_device(x, hx, weights)
        raise
    if autocast:
        x, h_n = x.to(dtype), h_n.to(dtype)
    return (x.transpose(0, 1) if batch_first and not packed else x), h_n


def gru_cell(
    input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None, b_hh: Tensor | None = None
) -> Tensor:
    """One step of a GRU.

    Args:
        input: ``(B, I)``.
        hx: the state before the step, ``(B, H)``.
        w_ih: ``(3H, I)``.
        w_hh: ``(3H, H)``.
        b_ih: ``(3H,)`` or None.
        b_hh: ``(3H,)`` or None.

    Returns:
        The state after the step, ``(B, H)``.

    Raises:
        RuntimeError: for shapes that do not fit, as ``torch.nn.GRUCell`` does.
        NotImplementedError: for a device that this build has no kernels for.

    Example:
        >>> import torch
        >>> from gru_fused import functional
        >>> cell = torch.nn.GRUCell(3, 4)
        >>> functional.gru_cell(torch.randn(2, 3), torch.zeros(2, 4), *cell.parameters()).shape
        torch.Size([2, 4])
    """
    bias = b_ih is not None or b_hh is not None
    weights = [w_ih, w_hh]
    if bias:
        weights += [w_ih.new_zeros(w_ih.shape[0]) if b is None else b for b in (b_ih, b_hh)]
    autocast = torch._C._is_any_autocast_enabled()
    if autocast:
        input, hx, weights, dtype = _autocast(input, hx, weights)
    try:
        if _needs_grad(input, hx, weights):
            h, _ = _autograd.apply(input, hx, None, bias, weights)
        else:
            h = _ops.infer_cell(input, hx, weights, bias)
    except RuntimeError:
        _check_cell(input, hx, w_ih, w_hh)
        _check_same_device(input, hx, weights)
        raise
    return h.to(dtype) if autocast else h


def _layers(
    x: Tensor,
    hx: Tensor,
    weights: Sequence[Tensor],
    bias: bool,
    directions: int,
    batch_sizes: Tensor | None,
    dropout: float,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Layer by layer, each with its gradient; dropout before every layer but the first."""
    num_layers = hx.shape[0] // directions
    per_layer = len(weights) // num_layers
    finals = []
    for layer in range(num_layers):
        if dropout and layer:
            x = F.dropout(x, dropout)
        states = hx if num_layers == 1 else hx[layer * directions : (layer + 1) * directions]
        of_layer = weights[layer * per_layer : (layer + 1) * per_layer]
        if _needs_grad(x, states, of_layer):
            x, h_n = _autograd.apply(x, states, batch_sizes, bias, of_layer, recompute)
        else:
            x, h_n = _ops.infer(x, states, of_layer, bias, directions == 2, batch_sizes)
        finals.append(h_n)
    return x, finals[0] if num_layers == 1 else torch.cat(finals)


def _check_counts(
    hx: Tensor | None, weights: Sequence[Tensor], num_layers: int, directions: int, per_layer: int, bias: bool
) -> None:
    if hx is not None and hx.shape[0] != num_layers * directions:
        raise RuntimeError(f"hx: expected {num_layers * directions} states (layers x directions), got {hx.shape[0]}")
    if len(weights) != num_layers * per_layer:
        raise RuntimeError(
            f"weights: expected {num_layers * per_layer} tensors for {num_layers} layers, {directions} directions and "
            f"bias={bias}, got {len(weights)}"
        )


def _zero_states(x: Tensor, states: int, hidden: int, batch_sizes: Tensor | None) -> Tensor:
    if batch_sizes is None:
        return x.new_zeros(states, x.shape[1], hidden)
    batch = int(batch_sizes[0])
    torch._check(batch > 0)  # for torch.compile, to which it is a number unknown
    return x.new_zeros(states, batch, hidden)


def _needs_grad(x: Tensor, hx: Tensor, weights: Sequence[Tensor]) -> bool:
    if _autograd.transformed():
        return True
    # An exported program is for inference. The flag, as dynamo of torch 2.11 takes is_exporting() for always true.
    if not torch.is_grad_enabled() or torch.compiler._is_exporting_flag:
        return False
    if x.requires_grad or hx.requires_grad:
        return True
    for weight in weights:  # noqa: SIM110 - any() takes longer than all that is asked
        if weight.requires_grad:
            return True
    return False


# The ops refuse whatever does not fit; these find nn.GRU's words for it, after the fact, so that a good call is not
# looked at twice.


def _check_cell(input: Tensor, hx: Tensor, w_ih: Tensor, w_hh: Tensor) -> None:
    input_size, hidden_size = w_ih.shape[1], w_hh.shape[1]
    if input.shape[1] != input_size:
        raise RuntimeError(f"input has inconsistent input_size: got {input.shape[1]} expected {input_size}")
    if input.shape[0] != hx.shape[0]:
        raise RuntimeError(f"Input batch size {input.shape[0]} doesn't match hidden0 batch size {hx.shape[0]}")
    if hx.shape[1] != hidden_size:
        raise RuntimeError(f"hidden0 has inconsistent hidden_size: got {hx.shape[1]}, expected {hidden_size}")


def _check_same_device(input: Tensor, hx: Tensor, weights: Sequence[Tensor]) -> None:
    device = input.device
    _ops.check_device(device)
    if hx.device != device:
        raise RuntimeError(
            "Input and hidden tensors are not at the same device, found input tensor at "
            f"{device} and hidden tensor at {hx.device}"
        )
    for weight in weights:
        if weight.device != device:
            raise RuntimeError(
                "Input and parameter tensors are not at the same device, found input tensor at "
                f"{device} and parameter tensor at {weight.device}"
            )


def _autocast(x: Tensor, hx: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Sequence[Tensor], torch.dtype]:
    """The arguments in autocast's dtype, but for float64, if it is on for the device; and the dtype for the results.

    That is torch.nn.GRU's: hx's own on the CPU, autocast's on CUDA. There nn.GRU's cuDNN gives float16 even if autocast
    asks for bfloat16; its kernels without cuDNN, and its cell, give what was asked for, and so do these.
    """
    dtype = hx.dtype
    kind = x.device.type
    if kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        x, hx, *weights = [y if y.dtype is torch.float64 else y.to(low) for y in (x, hx, *weights)]
        if kind == "cuda":
            dtype = hx.dtype
    return x, hx, weights, dtype
