"""``python -m benchmarks``: measures the workloads and reports how gru_fused compares with torch.nn.GRU and others."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, SUBJECT, installed
from benchmarks.machine import recent_load, this_machine
from benchmarks.measure import measure
from benchmarks.plot import plot
from benchmarks.results import Result, append_to_file, start_file
from benchmarks.table import table
from benchmarks.workers import Worker
from benchmarks.workloads import DTYPES, Workload, read_workloads
from benchmarks.yardsticks import report

HERE = Path(__file__).parent
QUICK_GFLOP = 0.5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=integers, help="numbers of CPU threads, as 1,2 (default: 1 and all)")
    parser.add_argument("--rows", type=re.compile, default="", help="only workloads whose name this regex finds")
    parser.add_argument("--mode", choices=("train", "infer"), help="default: both")
    parser.add_argument(
        "--dtype",
        type=dtypes,
        help=f"of {','.join(DTYPES)}, where the workload names it (default: fp32 on a CPU, all on a GPU)",
    )
    parser.add_argument("--seconds", type=float, help="per row and number of threads (default: 2; quick: 0.2)")
    parser.add_argument("--quick", action="store_true", help=f"only rows below {QUICK_GFLOP} GFLOP, timed briefly")
    parser.add_argument("--no-peers", action="store_true", help=f"only {SUBJECT} and {BASELINE}")
    parser.add_argument("--out", type=Path, default=HERE / "out", metavar="DIR")
    parser.add_argument("--save", action="store_true", help="copy the results to benchmarks/results, to be committed")
    arguments = parser.parse_args()

    if arguments.threads is None:
        everything = torch.get_num_threads()
        arguments.threads = sorted({1, everything}) if arguments.device == "cpu" else [everything]
    if arguments.dtype is None:
        arguments.dtype = ["fp32"] if arguments.device == "cpu" else list(DTYPES)
    if arguments.seconds is None:
        arguments.seconds = 0.2 if arguments.quick else 2.0
    for name in (SUBJECT, BASELINE):
        if name not in installed():
            parser.error(f"{name} is not installed")
    return arguments


def participants(arguments: argparse.Namespace) -> list[str]:
    present = []
    for name, implementation in IMPLEMENTATIONS.items():
        if implementation.peer and arguments.no_peers:
            continue
        if implementation.installed:
            present.append(name)
        else:
            print(f"{name} is left out: it needs {' and '.join(implementation.packages)}")
    return present


def integers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def dtypes(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(DTYPES):
        raise argparse.ArgumentTypeError(f"unknown dtype {', '.join(sorted(unknown))}")
    return names


def chosen_cases(arguments: argparse.Namespace) -> list[tuple[Workload, str]]:
    cases = []
    for workload in read_workloads(arguments.device):
        if arguments.mode not in (None, workload.mode) or not re.search(arguments.rows, workload.name):
            continue
        if arguments.quick and workload.gflop > QUICK_GFLOP:
            continue
        for dtype in arguments.dtype:
            if dtype in workload.dtypes or (dtype == "tf32" and "fp32" in workload.dtypes):
                cases.append((workload, dtype))
    return cases


def main() -> int:
    arguments = parse_arguments()
    implementations = participants(arguments)
    if (load := recent_load()) > 0.5:
        print(f"The machine is or was just busy (load {load:.1f}): with all threads this can cost either side 100x.")
    cases = chosen_cases(arguments)
    machine = this_machine(arguments.device)
    workers = [Worker(threads) for threads in arguments.threads]
    if arguments.device == "cpu":
        for worker in workers:
            print(worker.run(report))
    results: list[Result] = []
    failures = 0

    path = arguments.out / "results.csv"
    start_file(path)
    for workload, dtype in (progress := tqdm(cases, unit="row", disable=None)):
        progress.set_description(f"{workload} {dtype}")
        measured: list[Result] = []
        try:
            for worker in workers:
                lines, remarks = worker.run(
                    measure, workload, dtype, arguments.device, implementations, arguments.seconds, machine
                )
                measured += lines
                for remark in remarks:
                    progress.write(remark)
        except Exception as error:  # one bad row must not hide the others
            failures += 1
            progress.write(f"FAILED {workload} {dtype}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        append_to_file(measured, path)
        results += measured
    for worker in workers:
        worker.stop()

    if results:
        print(table(results))
        plot(results, arguments.out / "speedup.png")
        if arguments.save:
            saved = HERE / "results" / f"{machine.slug}.csv"
            saved.parent.mkdir(exist_ok=True)
            path = shutil.copy(path, saved)
    print(f"\n{len(cases) - failures} of {len(cases)} rows measured; results in {path}")
    return 1 if failures or not results else 0


if __name__ == "__main__":
    sys.exit(main())
