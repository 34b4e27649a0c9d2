"""``python -m benchmarks.gpu.latency``: compiles latency.cu for the device, runs its sections, and says what they
mean.

Exit status 77: it can't be done on this machine; the last line says why. Section d matters most, then b; each has a
limit of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from benchmarks.gpu.latency.summary import lines_of, summary
from benchmarks.gpu.toolchain import Unavailable, compile_with_nvcc
from benchmarks.gpu_check.probe import architecture
from benchmarks.gpu_check.runner import SKIP_STATUS

HERE = Path(__file__).parent
SECTIONS = {"d": 40, "b": 60, "a": 15, "c": 15, "e": 10, "f": 20, "g": 15}  # seconds at most


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.latency", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "out" / "latency.jsonl", metavar="FILE")
    parser.add_argument("--seconds", type=float, default=175, help="for all sections (default: %(default)s)")
    parser.add_argument("--repeats", choices=("few", "all"), default="few", help="few: one repetition a case")
    parser.add_argument("--sections", default="".join(SECTIONS), help=f"of {''.join(sorted(SECTIONS))}; see latency.cu")
    parser.add_argument("--compile-only", metavar="ARCH", help="as 90a: a rehearsal without a GPU")
    arguments = parser.parse_args()
    try:
        arch = arguments.compile_only or suitable(architecture())
        with tempfile.TemporaryDirectory() as scratch:
            program = Path(scratch, "latency")
            flags = ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
            compile_with_nvcc([*flags, str(HERE / "latency.cu")], program)
            print(f"compiled for sm_{arch}", flush=True)
            return 0 if arguments.compile_only else run(program, arguments)
    except Unavailable as reason:
        print(reason)
        return SKIP_STATUS


def suitable(architecture: str | None) -> str:
    if architecture is None:
        raise Unavailable("torch sees no CUDA device")
    if int(architecture.split(".")[0]) < 9:
        raise Unavailable(f"clusters need compute capability 9.0 or newer, this device has {architecture}")
    return architecture.replace(".", "")


def run(program: Path, arguments: argparse.Namespace) -> int:
    end = monotonic() + arguments.seconds
    failed = False
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w") as file:
        for section in arguments.sections:
            limit = min(SECTIONS[section], end - monotonic())
            if limit < 1:
                print(f"section {section}: no time left")
                continue
            start = monotonic()
            command = [str(program), *(["--quick"] if arguments.repeats == "few" else []), section]
            try:
                status = subprocess.run(command, stdout=file, timeout=limit).returncode
            except subprocess.TimeoutExpired:
                status = -1
            failed |= status not in (0, -1)
            how = "cut short by its limit" if status == -1 else f"exit status {status}"
            print(f"section {section}: {how}, {monotonic() - start:.1f} s", flush=True)
    lines = lines_of(arguments.out.read_text(errors="replace"))
    print(summary(lines))
    if wrong := [line for line in lines if line.get("bad") or line.get("timeouts")]:
        print(f"{len(wrong)} cases with stale data or a wait given up, as {json.dumps(wrong[0])[:200]}")
    return 1 if failed or not lines else 0


if __name__ == "__main__":
    sys.exit(main())
