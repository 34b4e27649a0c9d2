"""What a machine has, asked from outside: each question about torch is put to a process of its own.

A process that has asked for a GPU holds memory on it, and an extension that was loaded once is not loaded again
after a build; so the runner itself never imports torch.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import cache
from pathlib import Path

from benchmarks.gpu.toolchain import find_program

ROOT = Path(__file__).resolve().parents[2]

# of the first device; "9.0" becomes "9.0a", as the kernels use what only that architecture has
CAPABILITY = (
    "import torch; torch.cuda.is_available() or exit('torch sees no CUDA device'); "
    "print('{}.{}'.format(*torch.cuda.get_device_capability()))"
)
# the ops have a kernel for the key, so the library that is loaded was built with its CUDA half
BUILT = "from gru_fused import _ops; _ops.has_cuda_kernels() or exit('gru_fused is built without CUDA kernels')"


@cache
def ask(code: str, seconds: float = 60) -> tuple[bool, str]:
    """Whether Python ran the code, and the last line it printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds:.0f} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else ""


def module(name: str):
    """A need: a Python package that can be found."""
    return lambda: None if importlib.util.find_spec(name) else f"Python package {name} is not installed"


def program(name: str):
    return lambda: None if find_program(name) else f"{name} was not found"


def file(path: str):
    return lambda: None if any(ROOT.glob(path)) else f"there is no {path} in this version"


def gpu() -> str | None:
    if (lacking := module("torch")()) is not None:
        return lacking
    found, answer = ask(CAPABILITY)
    return None if found else answer


def cuda_build() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return None  # has been said
    found, answer = ask(BUILT)
    return None if found else answer


def architecture() -> str | None:
    """In the words of TORCH_CUDA_ARCH_LIST; None without a GPU."""
    found, answer = ask(CAPABILITY)
    return (answer + "a" if answer == "9.0" else answer) if found else None
