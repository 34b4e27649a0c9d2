"""The results: one line per workload, implementation and number of threads; as a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from benchmarks.implementations import BASELINE, IMPLEMENTATIONS
from benchmarks.machine import Machine
from benchmarks.workloads import Workload


class Bounds(NamedTuple):
    """What a row can hope for where it ran."""

    peak_gflops: float
    floor_ms: float


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
    version: str
    gate: str
    median_ms: float
    p20_ms: float
    p80_ms: float
    rounds: int
    ratio: float
    ratio_p20: float
    ratio_p80: float
    gflops: float
    peak_gflops: float | None
    floor_ms: float | None
    device: str
    torch: str
    gru_fused: str
    python: str
    date: str


def summarize(
    samples: Mapping[str, Sequence[float]],
    workload: Workload,
    dtype: str,
    threads: int,
    gates: Mapping[str, str],
    bounds: Bounds | None,
    machine: Machine,
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
                version=IMPLEMENTATIONS[implementation].version,
                gate=gates[implementation],
                median_ms=median,
                p20_ms=p20,
                p80_ms=p80,
                rounds=len(seconds),
                ratio=ratio,
                ratio_p20=ratio_p20,
                ratio_p80=ratio_p80,
                gflops=workload.gflop / (median / 1e3),
                peak_gflops=bounds and bounds.peak_gflops,
                floor_ms=bounds and bounds.floor_ms,
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
