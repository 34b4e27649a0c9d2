"""``python -m benchmarks.gpu``: measures sizes and workloads on a GPU, beside nn.GRU and cuDNN called directly."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from pathlib import Path
from time import monotonic

import torch

from benchmarks.gpu.measure import measure
from benchmarks.gpu.report import report
from benchmarks.gpu.rows import OK, Row, RowFile, Where, read_rows, where
from benchmarks.gpu.sizes import cases, modes_of
from benchmarks.implementations import SUBJECT
from benchmarks.workloads import DTYPES, Workload

HERE = Path(__file__).parent


def parse_arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the most telling sizes only, timed briefly")
    parser.add_argument("--seconds", type=float, help="start no further size after this long")
    parser.add_argument(
        "--each", type=float, help="seconds of rounds per row and state of L2 (default: 0.5; quick: 0.1)"
    )
    parser.add_argument("--rows", type=re.compile, default="", help="only sizes whose name this regex finds: H256_B16")
    parser.add_argument("--dtype", type=names, default=list(DTYPES), help=f"of {','.join(DTYPES)} (default: all)")
    parser.add_argument("--mode", choices=("infer", "train"), help="default: both")
    parser.add_argument("--l2", type=names, default=["warm", "cold"], help="warm,cold (default: both)")
    parser.add_argument("--out", type=Path, default=HERE.parent / "out" / "gpu", metavar="DIR")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal, never a result")
    arguments = parser.parse_args()
    if unknown := set(arguments.dtype) - set(DTYPES):
        parser.error(f"unknown dtype {', '.join(sorted(unknown))}")
    if arguments.each is None:
        arguments.each = 0.1 if arguments.quick else 0.5
    return arguments


def chosen(arguments: argparse.Namespace) -> list[tuple[Workload, str]]:
    return [
        (workload, dtype)
        for workload, dtype in cases(arguments.quick)
        if dtype in arguments.dtype and re.search(arguments.rows, workload.name)
    ]


def main() -> int:
    arguments = parse_arguments()
    if arguments.device == "cpu":
        torch.set_num_threads(1)
    at = where(arguments.device)
    print(at)
    sizes = chosen(arguments)
    file = RowFile(arguments.out / "rows.csv")
    end = monotonic() + (arguments.seconds or float("inf"))
    done = bad = 0
    for workload, dtype in sizes:
        if monotonic() > end:
            break
        try:
            bad += measured(workload, dtype, arguments, at, file)
        except RuntimeError as error:
            bad += 1
            print(f"FAILED {workload.name} {dtype}: {type(error).__name__}: {error}", flush=True)
            if "CUDA error" in str(error):  # nothing works in this process any more
                break
        done += 1
    file.close()

    rows = read_rows(file.path)
    text = report(rows)
    (arguments.out / "report.txt").write_text(text + "\n")
    print(f"\n{text}\n")
    if importlib.util.find_spec("matplotlib"):
        from benchmarks.gpu.heatmap import heatmap

        for l2 in arguments.l2:
            heatmap(rows, arguments.out / f"ratio_{l2}.png", l2)
    else:
        print("no picture: matplotlib is not installed")
    print(f"{done} of {len(sizes)} sizes; {bad} rows of {SUBJECT} not timed; rows in {file.path}")
    return 1 if bad or not rows else 0


def measured(workload: Workload, dtype: str, arguments: argparse.Namespace, at: Where, file: RowFile) -> int:
    """The rows of a size, in its modes, written and told; how many of ours were not timed."""
    of_grid = workload.name == f"H{workload.H}_B{workload.B}"
    bad = 0
    for case in modes_of(workload, of_grid):
        if arguments.mode in (None, case.mode):
            rows = measure(case, dtype, arguments.device, of_grid, arguments.l2, arguments.each, at)
            file.add(rows)
            bad += sum(row.implementation == SUBJECT and row.status != OK for row in rows)
            told = [row for row in rows if row.l2 == arguments.l2[0] and row.part in ("infer", "both")]
            print(f"{case} {dtype}:", "; ".join(f"{row.implementation} {brief(row)}" for row in told), flush=True)
    return bad


def brief(row: Row) -> str:
    return f"{row.us_step:.3f} us/step ({row.ratio:.2f})" if row.us_step is not None else row.status[:80]


if __name__ == "__main__":
    sys.exit(main())
