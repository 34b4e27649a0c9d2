"""Compiles C++ of the project for a test, with the test's own flags."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
CXX = os.environ.get("CXX", "c++")
COMMON = ["-std=c++20", "-Wno-psabi"]
# AVX2 is what 32- and 64-byte vectors are compiled for here; a machine without it runs the portable kernels only.
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]


def has(instructions: str) -> bool:
    """Whether this machine runs them: avx2, avx512bw."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and f" {instructions} " in cpuinfo.read_text()


def compile_all(sources: dict[Path, list[str]], folder: Path) -> list[Path]:
    """Object files of the sources, each with its own flags, two at a time."""
    if shutil.which(CXX) is None:
        pytest.skip(f"no C++ compiler: {CXX} was not found")

    def compile_one(source: Path) -> Path:
        out = folder / f"{source.parent.name}_{source.stem}.o"
        run([CXX, *COMMON, *sources[source], "-c", str(source), "-o", str(out)])
        return out

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(compile_one, sources))


def run(command: list[str], **options: object) -> str:
    result = subprocess.run(command, capture_output=True, text=True, **options)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"
    return result.stdout


def build_bindings(folder: Path, vector_bytes: int = 32) -> ModuleType:
    """The module of bindings.cpp, its arithmetic in vectors of 32 (AVX2) or 64 bytes (AVX-512)."""
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 binds the kernels' insides to the tests")
    name = f"gru_fused_native_{vector_bytes}"
    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    flags = ["-O2", "-fPIC", *includes]
    bindings = [*flags, *(AVX512 if vector_bytes == 64 else AVX2)]
    bindings += [f"-DGRU_FUSED_VECTOR_BYTES={vector_bytes}", f"-DMODULE_NAME={name}"]
    sources = {HERE / "bindings.cpp": bindings, CSRC / "cpu/plan.cpp": flags, CSRC / "cpu/other_work.cpp": flags}
    objects = compile_all(sources, folder)
    library = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    run([CXX, "-shared", *undefined, *map(str, objects), "-o", str(library)])
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
