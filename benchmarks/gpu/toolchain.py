"""Finds nvcc and the cuDNN beside torch, and compiles a file on the spot. No network, nothing is installed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Unavailable(Exception):
    """Something that can't be had on this machine, by name."""


class Cudnn(NamedTuple):
    include: Path
    library: Path  # the file that torch has loaded


def find_program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")


def find_cudnn() -> Cudnn:
    """The one that torch uses: of its pip package, or of the system."""
    spec = importlib.util.find_spec("nvidia")
    places = [Path(place) / "cudnn" for place in (spec.submodule_search_locations if spec else None) or ()]
    for place in places:
        libraries = sorted(place.glob("lib/libcudnn.so.9"))
        if (place / "include" / "cudnn.h").exists() and libraries:
            return Cudnn(place / "include", libraries[0])
    for include in (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"), Path("/usr/local/cuda/include")):
        if (include / "cudnn.h").exists():
            for library in (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/local/cuda/lib64")):
                if (library / "libcudnn.so.9").exists():
                    return Cudnn(include, library / "libcudnn.so.9")
    raise Unavailable("cuDNN 9 with its header was found neither beside torch nor in the system")


def compile_with_nvcc(arguments: Sequence[str], out: Path, seconds: float = 120) -> None:
    nvcc = find_program("nvcc")
    if nvcc is None:
        raise Unavailable("nvcc was not found")
    command = [nvcc, "-std=c++17", "-O3", *arguments, "-o", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"nvcc was not done within {seconds:.0f} s") from error
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"nvcc refused: {message[0] if message else 'without a word'}")
