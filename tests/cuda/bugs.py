"""Planted bugs: textual patches of the CUDA kernels, each of which the checks must notice, and how.

A patch is applied to a copy of csrc/cuda; the product's source knows nothing of it. Only the loop that shows the bug is
compiled, so that one costs a few seconds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emulator.build import BUILD, CSRC, build_program, run_program

HERE = Path(__file__).parent.resolve()
CHECKS = {"plain": HERE / "kernels_check.cu", "variant": HERE / "variants_check.cu"}  # by cell
FORMS = {
    "f32": "MultiplyAdd<float>",
    "f64": "MultiplyAdd<double>",
    "tf32": "TensorCores<float>",
    "bf16": "TensorCores<__nv_bfloat16>",
    "f16": "TensorCores<__half>",
}
EXCHANGES = {"block": "Block", "cluster": "Cluster", "packets": "Packet", "flags": "Flag"}
ROWS = {"f32": "float, ExactMath<float>", "bf16": "__nv_bfloat16, FastMath", "f16": "__half, FastMath"}
# Those that a schedule finds, it finds under one of these.
SCHEDULES = [("fifo", 1), ("lifo", 1), *(("random", seed) for seed in range(1, 9))]


@dataclass(frozen=True)
class Bug:
    name: str
    file: str  # of csrc/cuda
    old: str  # what stands there exactly once
    new: str
    exchange: str
    way: str  # forward or backward
    # numbers: wrong results; report: the emulator ends the launch, with `text`;
    # any: one of both; address, thread: the sanitizers
    detector: str
    arithmetic: str = "f32"
    text: str = ""
    cell: str = "plain"  # or variant

    def __str__(self) -> str:
        return self.name


def planted(bug: Bug, *others: tuple[str, str, str]) -> list[Path]:
    """The sources of a program that runs one loop of a patched copy; `others`: more (file, old, new)."""
    folder = BUILD / "bugs" / bug.name
    cuda = folder / "cuda"
    cuda.mkdir(parents=True, exist_ok=True)
    for header in CSRC.glob("*.h"):
        shutil.copy(header, folder)
    for source in (CSRC / "cuda").iterdir():
        shutil.copy(source, cuda)
    for file, old, new in ((bug.file, bug.old, bug.new), *others):
        text = (cuda / file).read_text()
        assert text.count(old) == 1, f"{bug.name}: the text to replace is in {file} {text.count(old)} times"
        (cuda / file).write_text(text.replace(old, new))
    loop = folder / "one_loop.cu"
    loop.write_text(one_loop(bug))
    # What is not patched is compiled once for all bugs.
    names = ("run.cu", "plan.cpp", "steps.cu", "single_forward.cu", "single_gradients.cu")
    names += ("variant_steps.cu", "variant_norm.cu")
    host = {name: CSRC / "cuda" / name for name in names}
    if bug.file in host:
        host[bug.file] = cuda / bug.file
    return [loop, CHECKS[bug.cell], *host.values()]


def one_loop(bug: Bug) -> str:
    """The source of the tables of kernels, with one kernel in them."""
    lines = [f'#include "cuda/{name}"' for name in ("backward.cuh", "forward.cuh", "row_instances.cuh")]
    lines += ["namespace gru_fused::cuda {"]
    form, way = FORMS[bug.arithmetic], bug.way
    if bug.cell == "variant":
        form, loop = f"OfVariant<{form}>", f"Variant{way.title()}Loop"
    else:
        loop = f"{way.title()}Loop"
    kernel = row = ""
    if bug.exchange == "row":
        arguments = ROWS[bug.arithmetic]
        row = f"kernels.{way} = {{row_{way}<{arguments}, false>, row_{way}<{arguments}, true>}};"
    elif bug.exchange != "steps":  # whose kernels have no loop
        exchange = EXCHANGES[bug.exchange]
        kernel = f"kernels.{way}[int(Exchange::{bug.exchange})] = {way}_loop<{form}, {exchange}Exchange, {loop}>;"
    for cell, table, name in (("plain", "LoopKernels", "loops"), ("variant", "VariantLoopKernels", "variant_loops")):
        for arithmetic in FORMS:
            fill = kernel if (arithmetic, cell) == (bug.arithmetic, bug.cell) else ""
            body = f"static {table} kernels{{}}; {fill} return kernels;"
            lines.append(f"const {table}& {name}_{arithmetic}() {{ {body} }}")
    for arithmetic in ROWS:
        body = f"static RowKernels kernels{{}}; {row if arithmetic == bug.arithmetic else ''} return kernels;"
        lines.append(f"const RowKernels& rows_{arithmetic}() {{ {body} }}")
    return "\n".join([*lines, "}  // namespace gru_fused::cuda", ""])


def runs(bug: Bug, sources: list[Path], size: str = "all") -> Iterator[subprocess.CompletedProcess[str]]:
    """The check under every schedule; a sanitizer needs one or two."""
    sanitizer = bug.detector if bug.detector in ("address", "thread") else None
    program = build_program(f"bug-{bug.name}", sources, sanitizer=sanitizer, optimize="-O0")
    for order, seed in SCHEDULES if sanitizer is None else SCHEDULES[:3]:
        yield run_program(program, bug.arithmetic, bug.exchange, bug.way, order, seed, size)


def found(bug: Bug, run: subprocess.CompletedProcess[str]) -> bool:
    """Whether this run shows the bug as its detector should."""
    if bug.detector == "address":
        return run.returncode != 0 and "ERROR: AddressSanitizer" in run.stderr
    if bug.detector == "thread":
        return run.returncode == 66 and "WARNING: ThreadSanitizer: data race" in run.stderr
    failed = re.search(r": failed: .*\((.*)\)$", run.stdout, re.MULTILINE)
    wrong = " wrong by " in run.stdout
    if bug.detector == "any":
        return bool(failed) or wrong
    return bool(failed and bug.text in failed[1]) if bug.detector == "report" else wrong
