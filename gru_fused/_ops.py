"""Loads the extension and describes its ops to torch; the only file that names ``torch.ops``.

Shapes are in csrc/ops/schema.cpp, where the schemas are. The functions here take the schemas' arguments, in order.
"""

from __future__ import annotations

import torch
from torch import Tensor

try:
    from gru_fused import _C  # noqa: F401  (its import registers the ops)
except ImportError as error:
    raise ImportError(
        f"gru_fused's extension could not be loaded ({error}). Build it beside the installed torch "
        f"({torch.__version__}): pip install --no-build-isolation ."
    ) from error

forward = torch.ops.gru_fused.gru_forward.default
forward_train = torch.ops.gru_fused.gru_forward_train.default
backward = torch.ops.gru_fused.gru_backward.default


def cpu_capability() -> str:
    """The instruction set of the CPU kernels in use: ``"base"``, ``"avx2"`` or ``"avx512"``."""
    return torch.ops.gru_fused.cpu_capability.default()


def check_device(device: torch.device) -> None:
    """Raises NotImplementedError if this build has no kernels for the device."""
    if device.type not in ("cpu", "meta"):
        raise NotImplementedError(
            f"gru_fused has no kernels for device '{device.type}' in this version: it computes on the CPU. Move the "
            "module and its input with .to('cpu'), or use torch.nn.GRU (gru_fused.revert(model) puts it back)."
        )


@torch.library.register_fake("gru_fused::gru_forward")
def _(
    gi: Tensor,
    gi_reverse: Tensor | None,
    hx: Tensor,
    w_hh: Tensor,
    w_hh_reverse: Tensor | None,
    b_hh: Tensor | None,
    b_hh_reverse: Tensor | None,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    directions, batch, hidden = hx.shape
    return gi.new_empty(*gi.shape[:-1], directions * hidden), gi.new_empty(directions, batch, hidden)


@torch.library.register_fake("gru_fused::gru_forward_train")
def _(
    gi: Tensor,
    gi_reverse: Tensor | None,
    hx: Tensor,
    w_hh: Tensor,
    w_hh_reverse: Tensor | None,
    b_hh: Tensor | None,
    b_hh_reverse: Tensor | None,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    directions, batch, hidden = hx.shape
    return (
        gi.new_empty(*gi.shape[:-1], directions * hidden),
        gi.new_empty(directions, batch, hidden),
        gi.new_empty(directions, *gi.shape[:-1], 4 * hidden),
    )


@torch.library.register_fake("gru_fused::gru_backward")
def _(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    output: Tensor,
    gates: Tensor,
    hx: Tensor,
    w_hh: Tensor,
    w_hh_reverse: Tensor | None,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    directions, batch, hidden = hx.shape
    return (
        gates.new_empty(gates.shape),
        gates.new_empty(*gates.shape[:-1], hidden),
        gates.new_empty(directions, batch, hidden),
    )
