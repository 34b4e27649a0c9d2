"""The CUDA kernels on the CPU: the same sources, launcher, plan and ops, under the emulator."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emulator.build import CSRC, build_library
from torch.utils import cpp_extension

from gru_fused import _ops

REGIMES = ("block", "cluster", "packets", "flags", "steps")
ORDERS = {"fifo": 0, "lifo": 1, "random": 2}


@dataclass
class Emulated:
    """The library of the kernels and ops: ``ops`` as in ``gru_fused._ops``, and what a test may choose."""

    path: Path
    ops: SimpleNamespace = field(init=False)

    def __post_init__(self) -> None:
        torch.ops.load_library(str(self.path))
        self.control = ctypes.CDLL(str(self.path))
        self.control.emulator_last_error.restype = ctypes.c_char_p
        space = torch.ops.gru_fused_emulated
        names = ("forward", "forward_train", "backward", "cell", "cell_train", "cell_backward")
        self.ops = SimpleNamespace(**{name: getattr(space, f"gru_{name}").default for name in names})
        self.reset()

    def reset(self) -> None:
        self.schedule("fifo")
        self.device(90)

    def schedule(self, order: str, seed: int = 1, late: bool = True) -> None:
        """Which of the threads that can run does: the first that could, the last, or any."""
        self.control.emulator_schedule(ORDERS[order], ctypes.c_ulonglong(seed), int(late))

    def device(self, capability: int, sms: int = 0) -> None:
        """An sm_80, 90, 100 or 120, with all of its SMs or with some."""
        self.control.emulator_device(capability, sms)

    def last_error(self) -> str:
        return self.control.emulator_last_error().decode()


def emulated_sources() -> list[Path]:
    """Everything of the CUDA half, and of the ops what it needs."""
    ops = [CSRC / "ops" / f"{name}.cpp" for name in ("schema", "layer", "cuda")]
    return [*sorted((CSRC / "cuda").glob("*.cu")), CSRC / "cuda" / "plan.cpp", *ops]


def build_emulated(name: str = "gru_fused_emulated", flags: tuple[str, ...] = ()) -> Path:
    """The library, with more definitions: a planted bug."""
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    target = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DGRU_FUSED_LIBRARY=gru_fused_emulated"]
    torch_lib = Path(torch.__file__).parent / "lib"
    link = [f"-L{torch_lib}", "-ltorch_cpu", "-ltorch", "-lc10"]
    return build_library(name, emulated_sources(), flags=[*target, *includes, "-fvisibility=hidden", *flags], link=link)


@pytest.fixture(scope="session")
def library() -> Emulated:
    return Emulated(build_emulated())


@pytest.fixture
def emulated(library: Emulated, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulated]:
    """``gru_fused`` computes with the emulated CUDA kernels, in FIFO order on an sm_90."""
    for name, op in vars(library.ops).items():
        monkeypatch.setattr(_ops, name, op)
    monkeypatch.delenv("GRU_FUSED_CUDA_REGIME", raising=False)
    library.reset()
    yield library
    library.reset()


@pytest.fixture(params=REGIMES)
def regime(request: pytest.FixtureRequest, emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> str:
    """Only this regime is used, where the shape can have it."""
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", request.param)
    return request.param


@pytest.fixture
def tf32(emulated: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products may be rounded to TF32."""
    monkeypatch.setattr(_ops, "tf32", lambda x: x.dtype is torch.float32)
