"""Builds gru_fused._C, one library with the CPU kernels and, where asked for, the CUDA kernels.

It uses torch's stable ABI and Python's limited API, so that one build serves every torch from 2.11 and every Python
from 3.10. ninja compiles, each file with its own flags: the CPU kernels are compiled once per instruction set.

Environment:
    GRU_FUSED_CUDA       auto (default): build the CUDA half if torch is a CUDA build and nvcc is found;
                         1: build it under any torch; 0: leave it out
    TORCH_CUDA_ARCH_LIST the device architectures, as for every torch extension
    CXX, MAX_JOBS        the compiler; the number of parallel jobs
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

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
OPS_SOURCES = [f"ops/{name}.cpp" for name in ("schema", "layer", "tangent", "variant", "cpu", "explain")]
PYTHON_SOURCES = ["ops/direct.cpp", "ops/module.cpp"]  # these see Python, and of torch the header of DLPack
CUDA_OPS_SOURCES = [
    f"ops/{name}.cpp" for name in ("cuda", "cuda_tangent", "cuda_variant")
]  # the CUDA half's, compiled as C++


def torch_paths() -> tuple[list[str], str]:
    """Include folders and library folder of the torch to build beside."""
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        raise SystemExit(
            "gru_fused needs torch (2.11 or newer) to build, and this environment has none. Install torch first and "
            "build in the same environment: pip install --no-build-isolation ."
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < (2, 11):
        raise SystemExit(f"gru_fused needs torch 2.11 or newer, found {torch.__version__}")
    return cpp_extension.include_paths(), str(Path(torch.__file__).parent / "lib")


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
    """Writes a build.ninja for the one extension and runs it."""

    def build_extension(self, ext: Extension) -> None:
        from ninja import ninja_syntax

        includes, torch_lib = torch_paths()
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        include_flags = [f"-isystem {shlex.quote(path)}" for path in [*includes, sysconfig.get_path("include")]]
        mac = sys.platform == "darwin"

        with open(folder / "build.ninja", "w") as file:
            ninja = ninja_syntax.Writer(file, width=120)
            ninja.variable("cxx", os.environ.get("CXX", "c++"))
            ninja.rule("compile", "$cxx -MMD -MF $out.d $flags -c $in -o $out", depfile="$out.d", deps="gcc")
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
                compile("compile", CSRC / name, [*COMMON, TORCH_TARGET, PYTHON_LIMITED, *include_flags])
            for name in PYTHON_SOURCES:
                compile("compile", CSRC / name, [*COMMON, PYTHON_LIMITED, *include_flags])
            for source in cuda:
                compile("cuda", source, nvcc_flags())
            if cuda:  # C++, but nvcc knows where the toolkit's headers are
                host = ["-std=c++20", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall,-Wextra"]
                definitions = [TORCH_TARGET, PYTHON_LIMITED, "-DUSE_CUDA"]
                for name in CUDA_OPS_SOURCES:
                    compile("cuda", CSRC / name, [*host, *definitions, *include_flags])

            libraries = [f"-L{shlex.quote(torch_lib)}", "-ltorch_cpu", "-ltorch", "-lc10"]
            libraries += ["-undefined dynamic_lookup"] if mac else []
            ninja.build(str(target), "link", objects, variables={"flags": " ".join(libraries)})
        command = [shutil.which("ninja") or "ninja", "-C", str(folder)]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        subprocess.run(command, check=True)


setup(
    ext_modules=[Extension("gru_fused._C", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": NinjaBuild},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
