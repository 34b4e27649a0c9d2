"""cuDNN's algorithms called directly, as contestants: the C interface of cudnn_direct.cpp over torch's memory and
stream.

Compiled on the spot against the cuDNN that torch has loaded. What a call gets and returns is what nn.GRU gets and
returns; the outputs are buffers that are used again in every call, and a backward starts by clearing its weight
gradients, to which cuDNN can only add.
"""

from __future__ import annotations

import ctypes
import tempfile
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.toolchain import HERE, Unavailable, compile_with_nvcc, find_cudnn
from benchmarks.implementations import Passes
from benchmarks.workloads import DTYPES, Problem

# the numbers of cuDNN's enums
ALGORITHMS = {"STANDARD": 0, "PERSIST_STATIC": 1, "PERSIST_DYNAMIC": 2, "PERSIST_STATIC_SMALL_H": 3}
DATA = {"fp32": 0, "tf32": 0, "fp16": 2, "bf16": 9}
MATH = {"fp32": 3, "tf32": 0, "fp16": 1, "bf16": 1}  # FMA: strict; DEFAULT: TF32; TENSOR_OP. Sums are always in float

FIELDS = ("algorithm", "data", "math", "packed", "T", "B", "I", "H", "layers", "directions")
BUFFERS = ("lengths", "x", "y", "hx", "hy", "dy", "dx", "dhy", "dhx", "w", "dw", "work", "reserve")


class Spec(ctypes.Structure):
    _fields_ = [(name, c_int32) for name in FIELDS]


class Buffers(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in BUFFERS]


@cache
def library_or_reason() -> ctypes.CDLL | str:
    """Compiled once, or asked for in vain once."""
    try:
        cudnn = find_cudnn()
        folder = cudnn.library.parent
        link = [f"-L{folder}", f"-l:{cudnn.library.name}", "-Xlinker", f"-rpath={folder}", "-cudart", "none"]
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch, "cudnn_direct.so")
            source = str(HERE / "cudnn_direct.cpp")
            compile_with_nvcc(["-shared", "-Xcompiler", "-fPIC", f"-I{cudnn.include}", source, *link], out)
            loaded = ctypes.CDLL(str(out))
    except (Unavailable, OSError) as reason:
        return str(reason)
    loaded.gru_cudnn_error.restype = c_char_p
    loaded.gru_cudnn_plan.argtypes, loaded.gru_cudnn_plan.restype = [POINTER(Spec), POINTER(c_int64)], c_void_p
    loaded.gru_cudnn_free.argtypes, loaded.gru_cudnn_free.restype = [c_void_p], None
    loaded.gru_cudnn_offsets.argtypes = [c_void_p, c_void_p, POINTER(c_int64)]
    loaded.gru_cudnn_forward.argtypes = [c_void_p, c_void_p, c_int, POINTER(Buffers)]
    loaded.gru_cudnn_backward.argtypes = [c_void_p, c_void_p, POINTER(Buffers)]
    return loaded


def library() -> ctypes.CDLL:
    """Raises Unavailable where there is no nvcc or no cuDNN."""
    found = library_or_reason()
    if isinstance(found, str):
        raise Unavailable(found)
    return found


class Direct:
    """One algorithm with one problem, its plan and its memory; freed with it."""

    def __init__(self, algorithm: str, problem: Problem, dtype: str, packed: bool) -> None:
        self.plan: int | None = None
        self.library = library()
        w = problem.workload
        self.problem, self.training = problem, w.mode == "train"
        sizes = (c_int64 * 3)()
        numbers = (ALGORITHMS[algorithm], DATA[dtype], MATH[dtype], packed, w.T, w.B, w.I, w.H, w.layers, w.directions)
        self.plan = self.library.gru_cudnn_plan(byref(Spec(*map(int, numbers))), sizes)
        if self.plan is None:
            raise Unavailable(self.error())

        def buffer(size: int) -> Tensor:
            return torch.zeros(max(size, 16), dtype=torch.uint8, device=problem.x.device)

        x, hx = problem.x, problem.hx
        y = x.new_full((w.T, w.B, w.directions * w.H), float("nan"))  # what is not written shows
        self.tensors = {
            "lengths": torch.full((w.B,), w.T, dtype=torch.int32, device=x.device),
            **{"x": x, "y": y, "hx": hx, "hy": torch.empty_like(hx)},
            **{
                "dy": problem.grad_output,
                "dx": torch.empty_like(x),
                "dhy": problem.grad_h_n,
                "dhx": torch.empty_like(hx),
            },
            **{"w": buffer(sizes[0]), "dw": buffer(sizes[0]), "work": buffer(sizes[1]), "reserve": buffer(sizes[2])},
        }
        self.buffers = Buffers(**{name: tensor.data_ptr() for name, tensor in self.tensors.items()})
        offsets = (c_int64 * (w.layers * w.directions * 12))()
        self.require(self.library.gru_cudnn_offsets(self.plan, self.buffers.w, offsets))
        for name, place in self.parameters(self.tensors["w"], list(offsets), DTYPES[dtype]).items():
            place.copy_(problem.weights[name])
        self.gradients = self.parameters(self.tensors["dw"], list(offsets), DTYPES[dtype])

    def parameters(self, space: Tensor, offsets: list[int], dtype: torch.dtype) -> dict[str, Tensor]:
        """Views of the weight space by nn.GRU's names; r, z, n of a parameter lie one after the other."""
        places: dict[str, Tensor] = {}
        for name, weight in self.problem.weights.items():
            kind, layer = name.split("_l", 1)
            of_state, of_bias = kind.endswith("hh"), kind.startswith("bias")
            number, reverse = int(layer.removesuffix("_reverse")), layer.endswith("_reverse")
            pseudo = number * self.problem.workload.directions + reverse
            starts = [offsets[(pseudo * 6 + 3 * of_state + gate) * 2 + of_bias] for gate in range(3)]
            bytes_of_gate = weight.numel() // 3 * dtype.itemsize
            if starts != [starts[0] + gate * bytes_of_gate for gate in range(3)]:
                raise Unavailable(f"cuDNN keeps {name} in another order than nn.GRU")
            part = space[starts[0] : starts[0] + 3 * bytes_of_gate]
            places[name] = part.view(dtype).view(weight.shape)
        return places

    def forward(self) -> tuple[Tensor, ...]:
        self.require(self.library.gru_cudnn_forward(self.plan, self.stream(), self.training, byref(self.buffers)))
        return self.tensors["y"], self.tensors["hy"]

    def backward(self, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self.tensors["dw"].zero_()
        self.require(self.library.gru_cudnn_backward(self.plan, self.stream(), byref(self.buffers)))
        return (self.tensors["dx"], self.tensors["dhx"], *self.gradients.values())

    def stream(self) -> int:
        return torch.cuda.current_stream().cuda_stream

    def require(self, status: int) -> None:
        if status:
            raise Unavailable(self.error())

    def error(self) -> str:
        return self.library.gru_cudnn_error().decode()

    def __del__(self) -> None:
        if self.plan is not None:
            torch.cuda.synchronize()  # its memory may still be in use
            self.library.gru_cudnn_free(self.plan)


def build(algorithm: str, problem: Problem, dtype: str) -> Passes:
    """Raises Unavailable, with cuDNN's word for it, if it refuses the problem in both layouts of data."""
    if problem.workload.kind == "cell":
        raise Unavailable("cuDNN has no cell")
    refusals = []
    for packed in (False, True):
        try:
            direct = Direct(algorithm, problem, dtype, packed)
            passes = Passes(direct.forward, direct.backward if direct.training else None)
            passes()
            torch.cuda.synchronize()
            return passes
        except Unavailable as refusal:
            refusals.append(str(refusal))
    raise Unavailable("; packed: ".join(dict.fromkeys(refusals)))
