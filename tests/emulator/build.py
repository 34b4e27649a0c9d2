"""Compiles CUDA sources for the CPU, with the emulator, and keeps what it compiled under build/emulator.

An object file is used again as long as the compiler, its flags, the source and every header that it includes are the
same, so only the first test run in a checkout waits for the compiler.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "emulator"
CXX = os.environ.get("CXX", "c++")
JOBS = 2

# -fno-gnu-unique: two such libraries in one process must not share their static variables.
COMMON = ["-std=c++20", "-g", "-fPIC", "-fno-gnu-unique", "-DGRU_FUSED_EMULATED", "-Wall", "-Wextra", "-Wno-psabi"]
COMMON += ["-Wno-unknown-pragmas", f"-I{HERE}", f"-I{HERE / 'include'}", f"-I{CSRC}"]
# The host compiles no fused multiply-add of its own accord, so that what a kernel says is what it computes.
COMMON += ["-ffp-contract=off"]
SANITIZERS = {
    None: [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread"],
}


def build_library(
    name: str,
    sources: Sequence[Path],
    *,
    flags: Sequence[str] = (),
    optimize: str = "-O2",
    libraries: Sequence[str] = (),
) -> Path:
    """A shared library of the sources (.cu or .cpp) and the emulator. Returns its path."""
    return _build(f"lib{name}.so", sources, None, [optimize, *flags], [], ["-shared"], libraries)


def build_program(
    name: str,
    sources: Sequence[Path],
    *,
    sanitizer: str | None = None,
    flags: Sequence[str] = (),
    optimize: str = "-O1",
    ucontext: bool = False,
) -> Path:
    """A program of the sources, one of which has a main, and the emulator; sanitizer: None, "address" or "thread".

    "address" is AddressSanitizer and UndefinedBehaviorSanitizer together. A sanitizer needs a program: a library that
    was compiled with one can't be loaded by a Python that was not. `ucontext` switches fibers as machines other than
    x86-64 do.
    """
    fiber_flags = ["-DGRU_FUSED_EMULATOR_UCONTEXT"] if ucontext else []
    return _build(name, sources, sanitizer, [optimize, *flags], fiber_flags, [])


def run_program(program: Path, *arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Runs it, with the sanitizers' options that fibers need. Returns what it printed and its exit status."""
    environment = {
        **os.environ,
        # A launch that fails leaves its fibers where they are, and what their frames own.
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "TSAN_OPTIONS": "halt_on_error=0:exitcode=66:report_signal_unsafe=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout)


def _build(
    name: str,
    sources: Sequence[Path],
    sanitizer: str | None,
    flags: Sequence[str],
    fiber_flags: Sequence[str],
    link: Sequence[str],
    libraries: Sequence[str] = (),
) -> Path:
    if shutil.which(CXX) is None:
        pytest.skip(f"no C++ compiler: {CXX} was not found")
    BUILD.mkdir(parents=True, exist_ok=True)
    sanitize = SANITIZERS[sanitizer]
    # Its bookkeeping is no part of the program under test, see sanitizers.h.
    own = ["-DGRU_FUSED_EMULATOR_TSAN"] if sanitizer == "thread" else sanitize
    commands = [(Path(source), [*COMMON, *flags, *sanitize]) for source in sources]
    for source in sorted(HERE.glob("*.cpp")):
        commands.append((source, [*COMMON, "-O2", *own, *(fiber_flags if source.stem == "fiber" else [])]))
    with ThreadPoolExecutor(JOBS) as pool:
        objects = list(pool.map(lambda one: _compile(*one), commands))
    target = BUILD / _digest(_compiler(), *link, *libraries, *sanitize, *(one.name for one in objects)) / name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        unfinished = target.with_name(f"{name}.{os.getpid()}")
        _run([CXX, *sanitize, *link, *map(str, objects), *libraries, "-o", str(unfinished)])
        unfinished.replace(target)
    return target


def _compile(source: Path, flags: Sequence[str]) -> Path:
    """The object file of one source, named by the contents of all that went into it."""
    command = [CXX, *flags, "-x", "c++", "-c", str(source)]
    # What the source included when it was last compiled; if that has changed, its contents have as well.
    known = BUILD / f"{_digest(_compiler(), *command)}.json"
    if known.exists():
        built = BUILD / _object_name(source, command, [Path(path) for path in json.loads(known.read_text())])
        if built.exists():
            return built
    unfinished = known.with_suffix(f".{os.getpid()}.o")
    included = unfinished.with_suffix(".d")
    _run([*command, "-MMD", "-MF", str(included), "-o", str(unfinished)])
    headers = included.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    built = BUILD / _object_name(source, command, [Path(path) for path in headers])
    unfinished.replace(built)
    included.unlink()
    unfinished.with_suffix(".json").write_text(json.dumps(headers))
    unfinished.with_suffix(".json").replace(known)
    return built


def _object_name(source: Path, command: Sequence[str], headers: Sequence[Path]) -> str:
    contents = [path.read_bytes() if path.exists() else b"gone" for path in headers]
    return f"{source.stem}-{_digest(_compiler(), *command, *contents)}.o"


def _digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        whole.update(len(encoded).to_bytes(8, "little") + encoded)
    return whole.hexdigest()[:16]


@functools.cache
def _compiler() -> str:
    return _run([CXX, "--version"])


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
    return result.stdout
