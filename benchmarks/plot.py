"""The ratios as a picture: a group of horizontal bars per workload, one bar per number of threads, dtype and peer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from benchmarks.implementations import BASELINE
from benchmarks.results import Result

INCHES_PER_BAR = 0.16


def plot(results: Sequence[Result], path: Path) -> None:
    compared = [result for result in results if result.implementation != BASELINE]
    workloads = list(dict.fromkeys(f"{result.name}  {result.mode}" for result in compared))
    series = list(dict.fromkeys(series_of(result) for result in compared))
    thickness = 0.8 / len(series)

    height = 1.5 + INCHES_PER_BAR * len(workloads) * (len(series) + 1)
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.subplots()
    for index, label in enumerate(series):
        members = [result for result in compared if series_of(result) == label]
        axes.barh(
            [workloads.index(f"{r.name}  {r.mode}") + (index + 0.5) * thickness - 0.4 for r in members],
            # bars start at 1: to the right is faster than the baseline, to the left slower
            [r.ratio - 1 for r in members],
            left=1,
            height=thickness,
            xerr=[[r.ratio - r.ratio_p20 for r in members], [r.ratio_p80 - r.ratio for r in members]],
            error_kw={"elinewidth": 0.6, "ecolor": "0.3"},
            label=label,
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(f"times as fast as {BASELINE} (median of paired rounds, p20 to p80)")
    axes.set_yticks(range(len(workloads)), workloads, fontsize=8)
    axes.set_ylim(len(workloads) - 0.4, -0.6)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)
    axes.set_title(f"{results[0].device}, torch {results[0].torch}, {results[0].date}", fontsize=9)
    figure.savefig(path, dpi=150)


def series_of(result: Result) -> str:
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    return f"{result.implementation}, {result.dtype}, {threads}"
