"""What a call says of its sequences, checked and brought into the form of the ops: time first, of one dtype."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gru_fused._variants import Steps


def steps_of(
    x: Tensor,
    hx: Tensor,
    batch_first: bool,
    packed: bool,
    lengths: Tensor | Sequence[int] | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    attention: Tensor | None,
    allow_empty: bool,
) -> tuple[Steps, Tensor | None]:
    """x (T, B, I) or, packed, (N, I); hx (L * D, B, H), which reset_state gets the shape of."""

    def of_steps(name: str, given: Tensor | None) -> Tensor | None:
        if given is None:
            return None
        _check_tensor(name, given, x)
        wanted = (x.shape[1], x.shape[0]) if batch_first else tuple(x.shape[:-1])
        if tuple(given.shape) != wanted:
            raise ValueError(f"{name}: expected shape {wanted}, the input's without its last axis, got {_shape(given)}")
        return given.transpose(0, 1) if batch_first else given

    if lengths is not None:
        if packed:
            raise ValueError("lengths: expected None with a PackedSequence, which has its own")
        lengths = _lengths(lengths, x, allow_empty)
    reset = of_steps("reset", reset)
    if reset is not None and reset.dtype != torch.bool:
        raise TypeError(f"reset: expected a tensor of bool, got {reset.dtype}; reset != 0 makes one of numbers")
    attention = of_steps("attention", attention)
    if attention is not None and not attention.is_floating_point():
        raise TypeError(f"attention: expected a tensor of floats, got {attention.dtype}")
    if reset_state is not None:
        if reset is None:
            raise ValueError("reset_state: expected None without reset")
        _check_tensor("reset_state", reset_state, x)
        states, batch, hidden = hx.shape
        if reset_state.shape == (states, hidden):
            reset_state = reset_state.unsqueeze(1)
        elif reset_state.shape != hx.shape:
            either = f"{(states, hidden)} or {(states, batch, hidden)}"
            raise ValueError(f"reset_state: expected shape {either}, got {_shape(reset_state)}")
        reset_state = reset_state.expand(hx.shape).to(x.dtype)
    return Steps(lengths, reset, None if attention is None else attention.to(x.dtype)), reset_state


def no_steps(x: Tensor, width: int) -> Tensor:
    """The output for T = 0: empty, and a function of the input all the same."""
    return x.sum(-1, keepdim=True).expand(*x.shape[:-1], width)


def _lengths(lengths: Tensor | Sequence[int], x: Tensor, allow_empty: bool) -> Tensor:
    given = torch.as_tensor(lengths)
    if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise TypeError(f"lengths: expected integers, got {given.dtype}")
    steps, batch = x.shape[:2]
    if given.shape != (batch,):
        raise ValueError(f"lengths: expected shape ({batch},), one for each sequence, got {_shape(given)}")
    # Only where it costs no wait, and where the numbers are there.
    if given.device.type == "cpu" and not torch.compiler.is_compiling() and not _is_abstract(given) and batch:
        least = 0 if allow_empty else 1
        if not least <= int(given.min()) <= int(given.max()) <= steps:
            hint = "" if allow_empty else "; allow_empty=True takes lengths of 0"
            raise ValueError(f"lengths: expected numbers from {least} to {steps}, got {given.tolist()}{hint}")
    return given.to(device=x.device, dtype=torch.int64, non_blocking=True)


def _is_abstract(tensor: Tensor) -> bool:
    """A fake tensor, or one of a transform of torch.func: it has no numbers to look at."""
    return type(tensor) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _check_tensor(name: str, given: Tensor, x: Tensor) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(given).__name__}")
    if given.device != x.device:
        raise RuntimeError(f"{name}: expected the device of the input, {x.device}, got {given.device}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
