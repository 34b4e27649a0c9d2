"""What ``ptxas -v`` says of each kernel: registers, spills, shared memory."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    name: str
    arch: str
    registers: int
    spill_stores: int  # bytes
    spill_loads: int
    stack: int
    shared: int  # bytes, of what is static


ENTRY = re.compile(r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>[^']+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


def kernels_in(log: str) -> list[Kernel]:
    """In the log's order; a device function that is not a kernel has a stack line of its own, which is passed over."""
    kernels: list[Kernel] = []
    entry: re.Match[str] | None = None
    stack = (0, 0, 0)
    for line in log.splitlines():
        if found := ENTRY.search(line):
            entry, stack = found, (0, 0, 0)
        elif found := STACK.search(line):
            stack = tuple(map(int, found.groups()))
        elif entry and (used := USED.search(line)):
            shared = SHARED.search(line)
            frame, stores, loads = stack
            sizes = (int(used[1]), stores, loads, frame, int(shared[1]) if shared else 0)
            kernels.append(Kernel(entry["name"], entry["arch"], *sizes))
            entry = None
    names = demangled([kernel.name for kernel in kernels])
    return [Kernel(**{**asdict(k), "name": name}) for k, name in zip(kernels, names, strict=True)]


def demangled(names: Sequence[str]) -> list[str]:
    """As C++ writes them, where c++filt is there."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return list(names)
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    return lines if len(lines) == len(names) else list(names)


def write_csv(kernels: Iterable[Kernel], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Kernel)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, kernels))


def report(kernels: Sequence[Kernel]) -> str:
    """Those that spill first, then those with the most registers."""
    lines = ["registers  spilled bytes  static shared  kernel"]
    for k in sorted(kernels, key=lambda k: (-(k.spill_stores + k.spill_loads), -k.registers)):
        lines.append(f"{k.registers:9}  {k.spill_stores + k.spill_loads:13}  {k.shared:13}  {k.arch} {k.name[:140]}")
    spilling = sum(k.spill_stores + k.spill_loads > 0 for k in kernels)
    return "\n".join([*lines, f"{len(kernels)} kernels, {spilling} of them spill"])
