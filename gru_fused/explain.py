"""What a CUDA device would run for a GRU: the plan of its kernels, in words. Needs no GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from gru_fused import _ops
from gru_fused.options import PLAIN

# By compute capability: SMs of a common device, and the shared memory that one of its CTAs can have, in KB
# (CUDA C++ Programming Guide, technical specifications per compute capability).
DEVICES = {
    "sm_75": (40, 64),  # T4
    "sm_80": (108, 163),  # A100
    "sm_86": (84, 99),  # A40
    "sm_89": (142, 99),  # L40S
    "sm_90": (132, 227),  # H100, H200
    "sm_100": (148, 227),  # B200
    "sm_120": (170, 99),  # RTX 5090
}
_ARITHMETIC = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def explain(
    gru: nn.RNNBase,
    input_shape: Sequence[int],
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tf32: bool | None = None,
    variant: bool = False,
) -> str:
    """Which CUDA kernels a GRU's time steps would run on, how their work is cut, and a rough estimate of their time.

    Args:
        gru: a :class:`gru_fused.GRU` or ``torch.nn.GRU``; every one of its layers has the same plan.
        input_shape: of the input, ``(T, B, I)``, ``(B, T, I)`` if batch_first, or ``(T, I)``.
        device: a CUDA device of this machine, or the name of one that need not be here: ``"sm_80"``, ``"sm_90"``,
            ... (:data:`DEVICES`). Default: the device of the parameters if that is a CUDA one, or else ``"sm_90"``.
        dtype: default: of the parameters.
        tf32: whether float32 products may be rounded to TF32; default: ``torch.backends.cudnn.allow_tf32``.
        variant: whether the call has lengths, resets or attention, as one of a GRU with options always counts.

    Returns:
        A line for the forward and one for the backward. Their times are estimates, not measurements.

    Raises:
        ValueError: for a device or a dtype that is not known, or a shape that does not fit.

    Example:
        >>> import torch, gru_fused
        >>> rnn = gru_fused.GRU(64, 256, dtype=torch.bfloat16)
        >>> print(gru_fused.explain(rnn, (100, 16, 64), device="sm_90"))  # doctest: +ELLIPSIS
        forward on sm_90 (132 SMs), B=16, H=256, directions=1, bfloat16 (tensor cores): ...
        backward on sm_90 (132 SMs), B=16, H=256, directions=1, bfloat16 (tensor cores): ...
    """
    if len(input_shape) not in (2, 3) or input_shape[-1] != gru.input_size:
        raise ValueError(f"input_shape: expected (T, B, {gru.input_size}) or a batch_first one, got {(*input_shape,)}")
    batch_first = gru.batch_first and len(input_shape) == 3
    batch = 1 if len(input_shape) == 2 else input_shape[0 if batch_first else 1]
    steps = input_shape[1 if batch_first else 0]
    parameter = next(gru.parameters())
    dtype = dtype or parameter.dtype
    if dtype not in _ARITHMETIC:
        raise ValueError(f"dtype: expected float32, float64, bfloat16 or float16, got {dtype}")
    if device is None:
        device = parameter.device if parameter.is_cuda else "sm_90"
    arch, sms, shared_bytes = _properties(device)
    arithmetic = _ARITHMETIC[dtype]
    if dtype is torch.float32 and arch >= 80 and (torch.backends.cudnn.allow_tf32 if tf32 is None else tf32):
        arithmetic = "tf32"
    options = getattr(gru, "options", PLAIN)
    if not options.reset_after or options.layer_norm:
        how = "step by step: torch's products and kernels of single steps, as a step needs all units of a product twice"
        return "\n".join(f"{sweep} with {options.changed()}: {how}" for sweep in ("forward", "backward"))
    device_and_shape = arch, sms, shared_bytes, arithmetic, batch, gru.hidden_size, gru.bidirectional
    variant = variant or options != PLAIN
    return "\n".join(_ops.cuda_plan(*device_and_shape, backward, variant, steps) for backward in (False, True))


def _properties(device: torch.device | str) -> tuple[int, int, int]:
    """Compute capability (90: 9.0), SMs, and bytes of shared memory that a CTA can ask for."""
    if isinstance(device, str) and device in DEVICES:
        sms, kilobytes = DEVICES[device]
        return int(device.removeprefix("sm_")), sms, kilobytes * 1024
    try:
        if torch.device(device).type == "cuda":
            here = torch.cuda.get_device_properties(device)
            return 10 * here.major + here.minor, here.multi_processor_count, here.shared_memory_per_block_optin
    except (RuntimeError, AssertionError) as error:  # no such device here
        raise ValueError(f"device: {device!r} can't be asked ({error})") from error
    raise ValueError(f"device: expected a CUDA device or one of {', '.join(DEVICES)}, got {device!r}")
