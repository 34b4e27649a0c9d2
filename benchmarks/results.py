"""The results: one line per workload, implementation and number of threads; as a file and as a table to read."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TextIO

import numpy as np

from benchmarks.implementations import BASELINE
from benchmarks.machine import Machine
from benchmarks.workloads import Workload


@dataclass(frozen=True)
class Result:
    """The columns of a results file, in order; explained in README.md."""

    name: str
    kind: str
    B: int
    T: int
    I: int  # noqa: E741
    H: int
    layers: int
    directions: int
    mode: str
    dtype: str
    threads: int
    implementation: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    rounds: int
    ratio: float
    ratio_p20: float
    ratio_p80: float
    device: str
    torch: str
    gru_fused: str
    python: str
    date: str


def summarize(
    samples: Mapping[str, Sequence[float]], workload: Workload, dtype: str, threads: int, machine: Machine
) -> list[Result]:
    """Medians and percentiles of the times (seconds, round by round) and of their ratios within each round."""
    shape = asdict(workload)
    del shape["dtypes"]
    results = []
    for implementation, seconds in samples.items():
        p20, median, p80 = np.percentile(np.array(seconds) * 1e3, (20, 50, 80))
        ratios = np.array(samples[BASELINE]) / np.array(seconds)
        ratio_p20, ratio, ratio_p80 = np.percentile(ratios, (20, 50, 80))
        results.append(
            Result(
                **shape,
                dtype=dtype,
                threads=threads,
                implementation=implementation,
                median_ms=median,
                p20_ms=p20,
                p80_ms=p80,
                rounds=len(seconds),
                ratio=ratio,
                ratio_p20=ratio_p20,
                ratio_p80=ratio_p80,
                **asdict(machine),
            )
        )
    return results


def start_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer_to(file).writeheader()


def append_to_file(results: Iterable[Result], path: Path) -> None:
    """Called after every workload, so that a run that is cut short leaves what it has measured."""
    with path.open("a", newline="") as file:
        writer = writer_to(file)
        for result in results:
            writer.writerow({key: f"{x:.4g}" if isinstance(x, float) else x for key, x in asdict(result).items()})


def writer_to(file: TextIO) -> csv.DictWriter:
    return csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")


def table(results: Sequence[Result]) -> str:
    """A line per workload: the times and the baseline's time over the implementation's; then the geometric means."""
    baseline = {case_of(result): result for result in results if result.implementation == BASELINE}
    compared = [result for result in results if result.implementation != BASELINE]
    head = ["workload", "mode", "B", "T", "I", "H", "layers", "dtype", "threads", "implementation"]
    lines = [[*head, "ms", f"{BASELINE} ms", "ratio", "p20", "p80"]]
    for r in compared:
        layers = f"{r.layers}x{r.directions}"
        case = [r.name, r.mode, r.B, r.T, r.I, r.H, layers, r.dtype, r.threads, r.implementation]
        times = [f"{r.median_ms:.4g}", f"{baseline[case_of(r)].median_ms:.4g}"]
        lines.append([*case, *times, *(f"{ratio:.2f}" for ratio in (r.ratio, r.ratio_p20, r.ratio_p80))])

    means = [["mode", "dtype", "threads", "implementation", "rows", "geometric mean of the ratio"]]
    for group, ratios in ratios_by_group(compared).items():
        means.append([*group, len(ratios), f"{np.exp(np.mean(np.log(ratios))):.2f}"])
    return f"{aligned(lines)}\n\n{aligned(means)}"


def case_of(result: Result) -> tuple[str, str, str, int]:
    return result.name, result.mode, result.dtype, result.threads


def ratios_by_group(results: Iterable[Result]) -> dict[tuple[str, str, int, str], list[float]]:
    groups = defaultdict(list)
    for result in results:
        groups[result.mode, result.dtype, result.threads, result.implementation].append(result.ratio)
    return dict(sorted(groups.items()))


def aligned(lines: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest entry, numbers to the right."""
    columns = [[str(entry) for entry in column] for column in zip(*lines, strict=True)]
    for index, column in enumerate(columns):
        width = max(map(len, column))
        numeric = column[-1][:1].isdigit()
        columns[index] = [entry.rjust(width) if numeric else entry.ljust(width) for entry in column]
    return "\n".join("  ".join(entries).rstrip() for entries in zip(*columns, strict=True))
