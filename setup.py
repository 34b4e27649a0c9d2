"""Builds gru_fused._C, one library with the CPU kernels and, where asked for, the CUDA kernels; and autograd's node.

_C uses torch's stable ABI and Python's limited API, so that one build serves every torch from 2.11 and every Python
from 3.10. ninja compiles, each file with its own flags: the CPU kernels are compiled once per instruction set.
The node (csrc/autograd/node.cpp) is of the one torch and the one Python that build it, and has the torch's version in
its name, so that no other version loads it; gru_fused works without it, with more of the host's time in each call.

Environment:
    GRU_FUSED_NODE       0: leave autograd's node out, as in a wheel for many torches
    GRU_FUSED_CUDA       auto (default): build the CUDA half if torch is a CUDA build and nvcc is found;
                         1: build it under any torch; 0: leave it out
    TORCH_CUDA_ARCH_LIST the device architectures, as for every torch extension
    CXX, MAX_JOBS        the compiler; the number of parallel jobs
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"

COMMON = [
    "-std=c++20",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-Wno-unknown-warning-option",  # clang does not know the next; g++ keeps quiet about this one
    "-Wno-maybe-uninitialized",
]
TORCH_TARGET = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # 2.11
PYTHON_LIMITED = "-DPy_LIMITED_API=0x030a0000"  # 3.10

CPU_SOURCES: dict[str, list[str]] = {
    "cuda/plan.cpp": [],  # pure: a build without CUDA prints plans too
    "cpu/plan.cpp": [],
    "cpu/other_work.cpp": [],
    "cpu/select.cpp": [],
    "cpu/isa_base.cpp": [],
}
if platform.machine() in ("x86_64", "AMD64"):
    # Where a short loop happens to begin costs a single row up to 15 %.
    avx2 = ["-mavx2", "-mfma", "-falign-loops=64"]
    avx512 = [*avx2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512"]
    CPU_SOURCES["cpu/isa_avx2.cpp"] = avx2
    CPU_SOURCES["cpu/isa_avx512.cpp"] = avx512
    CPU_SOURCES["cpu/isa_avx512_bf16.cpp"] = [*avx512, "-mavx512bf16"]
    CPU_SOURCES["cpu/isa_amx_bf16.cpp"] = [*avx512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"]
OPS_SOURCES = [f"ops/{name}.cpp" for name in ("schema", "layer", "tangent", "variant", "cpu", "explain")]
PYTHON_SOURCES = ["ops/direct.cpp", "ops/module.cpp"]  # these see Python, and of torch the header of DLPack
CUDA_OPS_SOURCES = [
    f"ops/{name}.cpp" for name in ("cuda", "cuda_tangent", "cuda_variant")
]  # the CUDA half's, compiled as C++


def torch_flags() -> tuple[list[str], list[str]]:
    """The compiler's flags for the headers of Python and of the torch beside it, the linker's for its libraries."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            "gru_fused needs torch (2.11 or newer) to build, and this environment has none. Install torch first and "
            "build in the same environment: pip install --no-build-isolation ."
        ) from error
    if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 11):
        raise SystemExit(f"gru_fused needs torch 2.11 or newer, found {torch.__version__}")
    includes = [*cpp_extension.include_paths(), sysconfig.get_path("include")]
    libraries = [f"-L{shlex.quote(str(Path(torch.__file__).parent / 'lib'))}", "-ltorch_cpu", "-ltorch", "-lc10"]
    if sys.platform == "darwin":
        libraries.append("-undefined dynamic_lookup")
    return [f"-isystem {shlex.quote(path)}" for path in includes], libraries


def node_name() -> str | None:
    """The module of autograd's node, which gru_fused/_ops.py looks for by this name; None: not to be built."""
    if os.environ.get("GRU_FUSED_NODE", "1") == "0":
        return None
    try:
        import torch
    except Exception:  # none, or a broken one: sdist and metadata can do without, a build will say what is wrong
        return None
    return "_node_" + re.sub("[^a-z0-9]", "_", torch.__version__)  # its metadata may lack the local part


def cuda_sources() -> list[Path]:
    """The CUDA sources of this build: none if the CUDA half is left out."""
    wanted = os.environ.get("GRU_FUSED_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"GRU_FUSED_CUDA: expected auto, 0 or 1, got {wanted!r}")
    sources = sorted((CSRC / "cuda").glob("*.cu"))
    if wanted == "1" and nvcc() is None:
        raise SystemExit("GRU_FUSED_CUDA=1, but nvcc was not found: set CUDA_HOME or put nvcc on the PATH")
    if wanted == "auto":
        import torch

        if torch.version.cuda is None or nvcc() is None:
            return []
    return [] if wanted == "0" else sources


def nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return shutil.which("nvcc", path=f"{home}/bin" if home else None) or shutil.which("nvcc")


def nvcc_flags() -> list[str]:
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0 9.0a 10.0 12.0+PTX").replace(";", " ").split()
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


class NinjaBuild(build_ext):
    """Writes a build.ninja for each extension and runs it."""

    def build_extension(self, ext: Extension) -> None:
        from ninja import ninja_syntax

        folder = Path(self.build_temp).resolve()
        if ext.optional:
            folder /= "node"
        folder.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        if ext.optional:
            target.unlink(missing_ok=True)  # one of older sources, if this one can't be built
        with open(folder / "build.ninja", "w") as file:
            ninja = ninja_syntax.Writer(file, width=120)
            ninja.variable("cxx", os.environ.get("CXX", "c++"))
            ninja.rule("compile", "$cxx -MMD -MF $out.d $flags -c $in -o $out", depfile="$out.d", deps="gcc")
            (write_node if ext.optional else write_kernels)(ninja, folder, target)
        command = [shutil.which("ninja") or "ninja", "-C", str(folder)]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise CompileError(str(error)) from error


def write_kernels(ninja: Any, folder: Path, target: Path) -> None:
    includes, libraries = torch_flags()
    linker = "$cxx -shared"
    if cuda := cuda_sources():
        ninja.variable("nvcc", nvcc())
        ninja.rule("cuda", "$nvcc -MMD -MF $out.d $flags -c $in -o $out", depfile="$out.d", deps="gcc")
        linker = "$nvcc -shared -cudart static"  # it knows where its runtime is
    ninja.rule("link", f"{linker} $in -o $out $flags")

    objects = []

    def compile(rule: str, source: Path, flags: list[str]) -> None:
        out = folder / source.relative_to(CSRC).with_suffix(source.suffix + ".o")
        ninja.build(str(out), rule, str(source), variables={"flags": " ".join(flags)})
        objects.append(str(out))

    for name, flags in CPU_SOURCES.items():
        compile("compile", CSRC / name, [*COMMON, *flags])
    for name in OPS_SOURCES:
        compile("compile", CSRC / name, [*COMMON, TORCH_TARGET, PYTHON_LIMITED, *includes])
    for name in PYTHON_SOURCES:
        compile("compile", CSRC / name, [*COMMON, PYTHON_LIMITED, *includes])
    for source in cuda:
        compile("cuda", source, nvcc_flags())
    if cuda:  # C++, but nvcc knows where the toolkit's headers are
        host = ["-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
        definitions = [TORCH_TARGET, PYTHON_LIMITED, "-DUSE_CUDA"]
        for name in CUDA_OPS_SOURCES:
            compile("cuda", CSRC / name, [*host, *definitions, *includes])
    ninja.build(str(target), "link", objects, variables={"flags": " ".join(libraries)})


def write_node(ninja: Any, folder: Path, target: Path) -> None:
    includes, libraries = torch_flags()
    out = str(folder / "node.o")
    flags = [*COMMON, f"-DTORCH_EXTENSION_NAME={target.name.split('.')[0]}", *includes]
    ninja.build(out, "compile", str(CSRC / "autograd/node.cpp"), variables={"flags": " ".join(flags)})
    ninja.rule("link", "$cxx -shared $in -o $out $flags")
    ninja.build(str(target), "link", out, variables={"flags": " ".join([*libraries, "-ltorch_python"])})


extensions = [Extension("gru_fused._C", sources=[], py_limited_api=True)]
if node := node_name():
    extensions.append(Extension(f"gru_fused.{node}", sources=[], optional=True))
setup(
    ext_modules=extensions,
    cmdclass={"build_ext": NinjaBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
