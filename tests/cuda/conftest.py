"""The CUDA kernels on the CPU: the same sources, launcher, plan and ops, under the emulator."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from emulator.build import CSRC, build_library
from emulator.control import Emulated
from torch.utils import cpp_extension

from gru_fused import _direct, _ops

OPS = ("schema", "layer", "tangent", "variant", "cuda", "cuda_tangent", "cuda_variant")
REGIMES = ("row", "block", "cluster", "packets", "flags", "steps")


class EmulatedOps(Emulated):
    """The library of the kernels and ops: ``ops`` as in ``gru_fused._ops``, and what a test may choose."""

    def __init__(self, path: Path) -> None:
        torch.ops.load_library(str(path))
        super().__init__(path)
        space = torch.ops.gru_fused_emulated
        names = ("forward", "forward_train", "backward", "cell", "cell_train", "cell_backward")
        names += ("tangent", "tangent_backward", "variant", "variant_backward")
        self.ops = SimpleNamespace(**{name: getattr(space, f"gru_{name}").default for name in names})

    def reset(self) -> None:
        self.schedule("fifo")
        self.limits()
        self.device(90)


def emulated_sources() -> list[Path]:
    """Everything of the CUDA half, and of the ops what it needs."""
    ops = [CSRC / "ops" / f"{name}.cpp" for name in OPS]
    return [*sorted((CSRC / "cuda").glob("*.cu")), CSRC / "cuda" / "plan.cpp", *ops]


def build_emulated(name: str = "gru_fused_emulated", flags: tuple[str, ...] = ()) -> Path:
    """The library, with more definitions: a planted bug."""
    includes = [f"-isystem{path}" for path in cpp_extension.include_paths()]
    target = ["-DTORCH_TARGET_VERSION=0x020b000000000000", "-DGRU_FUSED_LIBRARY=gru_fused_emulated"]
    torch_lib = Path(torch.__file__).parent / "lib"
    libraries = [f"-L{torch_lib}", "-ltorch_cpu", "-ltorch", "-lc10"]
    return build_library(
        name, emulated_sources(), flags=[*target, *includes, "-fvisibility=hidden", *flags], libraries=libraries
    )


@pytest.fixture(scope="session")
def library() -> EmulatedOps:
    return EmulatedOps(build_emulated())


@pytest.fixture
def emulated(library: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedOps]:
    """``gru_fused`` computes with the emulated CUDA kernels, in FIFO order on an sm_90."""
    for name, op in vars(library.ops).items():
        monkeypatch.setattr(_ops, name, op)
    monkeypatch.setattr(_ops, "node", None)  # it knows the real ops
    monkeypatch.setattr(_direct, "_forward", lambda *arguments: False)  # the CPU's kernels, past the ops
    monkeypatch.delenv("GRU_FUSED_CUDA_REGIME", raising=False)
    library.reset()
    yield library
    library.reset()


@pytest.fixture(params=REGIMES)
def regime(request: pytest.FixtureRequest, emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> str:
    """Only this regime is used, where the shape can have it."""
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", request.param)
    return request.param


@pytest.fixture
def tf32(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> None:
    """float32 products may be rounded to TF32."""
    monkeypatch.setattr(_ops, "tf32", lambda x: x.dtype is torch.float32)
