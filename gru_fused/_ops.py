"""Loads the extension and describes its ops to torch; the only file that names ``torch.ops``.

Shapes are in csrc/ops/schema.cpp, where the schemas are. The functions here take the schemas' arguments, in order.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

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
cell = torch.ops.gru_fused.gru_cell.default
cell_train = torch.ops.gru_fused.gru_cell_train.default
cell_backward = torch.ops.gru_fused.gru_cell_backward.default
variant = torch.ops.gru_fused.gru_variant.default
variant_backward = torch.ops.gru_fused.gru_variant_backward.default
tangent = torch.ops.gru_fused.gru_tangent.default
tangent_backward = torch.ops.gru_fused.gru_tangent_backward.default


def _load_node() -> ModuleType | None:
    """The node of C++ (csrc/autograd/node.cpp), of the one torch and the one Python that it was built beside."""
    name = "gru_fused._node_" + re.sub("[^a-z0-9]", "_", torch.__version__)
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return None
    except ImportError as error:  # built from other sources, or beside another build of the same version
        warnings.warn(f"{name} could not be loaded: training calls take longer ({error})", stacklevel=2)
        return None


node = _load_node()
_compiling = torch.compiler.is_compiling
_function_modes = torch._C._len_torch_function_stack
_tracing = torch._C._get_tracing_state


def node_now() -> ModuleType | None:
    """The node, where nobody watches for calls of Python's: a compiler, a function mode, torch.jit."""
    return None if _compiling() or _function_modes() or _tracing() is not None else node


def infer(
    x: Tensor, hx: Tensor, weights: Sequence[Tensor], bias: bool, bidirectional: bool, batch_sizes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """gru_forward, by the shortest way that there is."""
    if short := node_now():
        results = short.infer(x, hx, weights, bias, bidirectional, batch_sizes)
        if results is not None:
            return results
    return forward(x, hx, weights, bias, bidirectional, batch_sizes, tf32(x))


def infer_cell(x: Tensor, hx: Tensor, weights: Sequence[Tensor], bias: bool) -> Tensor:
    """gru_cell, by the shortest way that there is."""
    if short := node_now():
        h = short.infer_cell(x, hx, weights, bias)
        if h is not None:
            return h
    return cell(x, hx, weights, bias, tf32(x))


def cpu_capability() -> str:
    """The CPU kernels in use: ``"base"``, ``"avx2"``, ``"avx512"``, ``"avx512_bf16"`` or ``"amx_bf16"``."""
    return torch.ops.gru_fused.cpu_capability.default()


def cuda_plan(
    arch: int,
    sms: int,
    shared_bytes: int,
    arithmetic: str,
    batch: int,
    hidden: int,
    bidirectional: bool,
    backward: bool,
    variant: bool = False,
    steps: int = 0,
) -> str:
    """The plan of a layer's time steps on a CUDA device, in words (csrc/cuda/plan.h). ``steps``: 0 for many."""
    return torch.ops.gru_fused.cuda_plan.default(
        arch, sms, shared_bytes, arithmetic, batch, hidden, bidirectional, backward, variant, steps
    )


def has_cuda_kernels() -> bool:
    """Whether this build has its CUDA half."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("gru_fused::gru_forward", "CUDA")


def check_device(device: torch.device) -> None:
    """Raises NotImplementedError if this build has no kernels for the device."""
    if device.type == "cuda" and not has_cuda_kernels():
        raise NotImplementedError(
            "gru_fused was built without its CUDA kernels. Build them where nvcc is found: GRU_FUSED_CUDA=1 pip "
            "install --no-build-isolation --force-reinstall --no-deps gru_fused (CUDA_HOME names the toolkit); or use "
            "torch.nn.GRU (gru_fused.revert(model) puts it back)."
        )
    if device.type not in ("cpu", "meta", "cuda"):
        raise NotImplementedError(
            f"gru_fused has no kernels for device '{device.type}': it computes on the CPU and on CUDA devices. Move "
            "the module and its input with .to('cpu'), or use torch.nn.GRU (gru_fused.revert(model) puts it back)."
        )


def tf32(x: Tensor) -> bool:
    """Whether float32 products may be rounded to TF32: on CUDA, where the flags of cuDNN's RNNs say so."""
    return x.is_cuda and x.dtype is torch.float32 and torch.backends.cudnn.allow_tf32


def _check(x: Tensor, hx: Tensor, weights: list[Tensor], bias: bool) -> None:
    """Some of what csrc/ops/layer.cpp checks, for tensors without memory."""
    for tensor in (hx, *weights):
        if tensor.device != x.device:
            raise RuntimeError(f"gru_fused: expected every tensor on {x.device}, got one on {tensor.device}")
    hidden = hx.shape[-1]
    per_direction = 4 if bias else 2
    for i, weight in enumerate(weights):
        name = ("w_ih", "w_hh", "b_ih", "b_hh")[i % per_direction]
        columns = {"w_ih": (x.shape[-1],), "w_hh": (hidden,)}.get(name, ())
        if weight.shape != (3 * hidden, *columns):
            raise RuntimeError(f"gru_fused: {name}: expected shape {(3 * hidden, *columns)}, got {tuple(weight.shape)}")


@torch.library.register_fake("gru_fused::gru_forward")
def _(
    x: Tensor,
    hx: Tensor,
    weights: list[Tensor],
    bias: bool,
    bidirectional: bool,
    batch_sizes: Tensor | None,
    tf32: bool = False,
) -> tuple[Tensor, Tensor]:
    directions = 2 if bidirectional else 1
    per_layer = directions * (4 if bias else 2)
    states, batch, hidden = hx.shape
    if len(weights) * directions != states * per_layer:
        raise RuntimeError(f"gru_fused: weights: expected {per_layer} tensors for each layer, got {len(weights)}")
    for layer in range(states // directions):
        _check(x, hx, weights[layer * per_layer : (layer + 1) * per_layer], bias)
        x = x.new_empty(*x.shape[:-1], directions * hidden)
    return x, x.new_empty(states, batch, hidden)


@torch.library.register_fake("gru_fused::gru_forward_train")
def _(
    x: Tensor, hx: Tensor, weights: list[Tensor], bias: bool, batch_sizes: Tensor | None, tf32: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, hx, weights, bias)
    directions, batch, hidden = hx.shape
    rows = math.prod(x.shape[:-1])  # numel() would make constants of symbolic sizes
    return (
        x.new_empty(*x.shape[:-1], directions * hidden),
        x.new_empty(directions, batch, hidden),
        x.new_empty(directions, rows, 4 * hidden),
    )


@torch.library.register_fake("gru_fused::gru_backward")
def _(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    x: Tensor,
    hx: Tensor,
    output: Tensor,
    gates: Tensor | None,
    weights: list[Tensor],
    bias: bool,
    batch_sizes: Tensor | None,
    need_x: bool,
    need_weights: bool,
    tf32: bool = False,
) -> list[Tensor]:
    return _fake_grads(x, hx, weights, need_x, need_weights)


@torch.library.register_fake("gru_fused::gru_cell")
def _(x: Tensor, hx: Tensor, weights: list[Tensor], bias: bool, tf32: bool = False) -> Tensor:
    _check(x, hx, weights, bias)
    return x.new_empty(hx.shape)


@torch.library.register_fake("gru_fused::gru_cell_train")
def _(x: Tensor, hx: Tensor, weights: list[Tensor], bias: bool, tf32: bool = False) -> tuple[Tensor, Tensor]:
    _check(x, hx, weights, bias)
    batch, hidden = hx.shape
    return x.new_empty(batch, hidden), x.new_empty(1, batch, 4 * hidden)


@torch.library.register_fake("gru_fused::gru_cell_backward")
def _(
    grad_h: Tensor,
    x: Tensor,
    hx: Tensor,
    h: Tensor,
    gates: Tensor,
    weights: list[Tensor],
    bias: bool,
    need_x: bool,
    need_weights: bool,
    tf32: bool = False,
) -> list[Tensor]:
    return _fake_grads(x, hx, weights, need_x, need_weights)


@torch.library.register_fake("gru_fused::gru_variant")
def _(
    x: Tensor,
    hx: Tensor,
    weights: list[Tensor],
    bias: bool,
    batch_sizes: Tensor | None,
    recurrence: int,
    gate: int,
    candidate: int,
    epsilon: float,
    reverse: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    update: Tensor | None,
    dropout: Tensor | None,
    save: bool,
    tf32: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    norm = recurrence >= 2
    if not norm:
        _check(x, hx, weights, bias)
    directions, batch, hidden = hx.shape
    rows = math.prod(x.shape[:-1])
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    return (
        x.new_empty(*x.shape[:-1], directions * hidden),
        x.new_empty(directions, batch, hidden),
        x.new_empty(directions, rows, 4 * hidden) if save else x.new_empty(0),
        x.new_empty(directions, rows, 3 * hidden) if save and norm else x.new_empty(0),
        x.new_empty(directions, rows, 1, dtype=wide) if save and norm else x.new_empty(0),
    )


@torch.library.register_fake("gru_fused::gru_variant_backward")
def _(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    x: Tensor,
    hx: Tensor,
    output: Tensor,
    gates: Tensor,
    normal: Tensor,
    scale: Tensor,
    weights: list[Tensor],
    bias: bool,
    batch_sizes: Tensor | None,
    recurrence: int,
    gate: int,
    candidate: int,
    epsilon: float,
    reverse: bool,
    lengths: Tensor | None,
    reset: Tensor | None,
    reset_state: Tensor | None,
    update: Tensor | None,
    dropout: Tensor | None,
    need_x: bool,
    need_weights: bool,
    need_update: bool,
    need_reset_state: bool,
    tf32: bool = False,
) -> list[Tensor]:
    grads = _fake_grads(x, hx, weights, need_x, need_weights)
    if need_update:
        grads.append(x.new_empty(hx.shape[0], math.prod(x.shape[:-1]), hx.shape[2]))
    if need_reset_state:
        grads.append(hx.new_empty(hx.shape))
    return grads


@torch.library.register_fake("gru_fused::gru_tangent")
def _(
    given_t: Tensor,
    hx_t: Tensor,
    hx: Tensor,
    output: Tensor,
    gates: Tensor,
    w_hh: list[Tensor],
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return output.new_empty(output.shape), hx.new_empty(hx.shape), gates.new_empty(gates.shape)


@torch.library.register_fake("gru_fused::gru_tangent_backward")
def _(
    grad_output: Tensor | None,
    grad_h_n: Tensor | None,
    grad_output_t: Tensor | None,
    grad_h_n_t: Tensor | None,
    hx: Tensor,
    output: Tensor,
    gates: Tensor,
    hx_t: Tensor,
    output_t: Tensor,
    gates_t: Tensor,
    w_hh: list[Tensor],
    w_hh_t: list[Tensor],
    batch_sizes: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tuple(y.new_empty(y.shape) for y in (hx, hx, gates, gates))


def _fake_grads(x: Tensor, hx: Tensor, weights: list[Tensor], need_x: bool, need_weights: bool) -> list[Tensor]:
    inputs = [hx, *([x] if need_x else []), *(weights if need_weights else [])]
    return [tensor.new_empty(tensor.shape) for tensor in inputs]
