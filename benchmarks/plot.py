"""The ratios as a picture: a panel per number of threads, a line per workload, a marker per implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.gate import STRICT_GATE
from benchmarks.implementations import BASELINE
from benchmarks.results import Result

MARKERS = "os^Dv<>P*X"


def plot(results: Sequence[Result], path: Path) -> None:
    compared = sorted((r for r in results if r.implementation != BASELINE), key=lambda r: r.mode)  # a stable sort
    workloads = list(dict.fromkeys(label_of(result) for result in compared))
    threads = sorted({result.threads for result in compared})

    figure = Figure(figsize=(3 + 4 * len(threads), 2 + 0.24 * len(workloads)), layout="constrained")
    panels = figure.subplots(1, len(threads), sharex=True, sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, threads, strict=True):
        draw(axes, [result for result in compared if result.threads == count], workloads)
        axes.set_title(f"{count} thread{'s' * (count > 1)}", fontsize=9)
        axes.set_xlabel(f"times as fast as {BASELINE}", fontsize=9)
    panels[0].set_yticks(range(len(workloads)), workloads, fontsize=8)
    panels[0].set_ylim(len(workloads) - 0.4, -0.6)
    handles = {handle.get_label(): handle for axes in panels for handle in axes.get_legend_handles_labels()[0]}
    figure.legend(handles=handles.values(), loc="outside lower center", ncols=min(len(handles), 4), fontsize=8)
    machine = f"{results[0].device}, torch {results[0].torch}, {results[0].date}"
    figure.suptitle(f"{machine}\nmedian of paired rounds, p20 to p80", fontsize=9)
    figure.savefig(path, dpi=150)


def draw(axes: Axes, results: Sequence[Result], workloads: Sequence[str]) -> None:
    series = list(dict.fromkeys(series_of(result) for result in results))
    for index, label in enumerate(series):
        members = [result for result in results if series_of(result) == label]
        # a little above each other, so that equal ones can be told apart
        heights = [workloads.index(label_of(r)) + 0.5 * ((index + 0.5) / len(series) - 0.5) for r in members]
        axes.errorbar(
            [r.ratio for r in members],
            heights,
            xerr=[[r.ratio - r.ratio_p20 for r in members], [r.ratio_p80 - r.ratio for r in members]],
            fmt=MARKERS[index % len(MARKERS)],
            color=f"C{index}",
            markersize=5,
            elinewidth=0.8,
            label=label,
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(linewidth=0.4)
    axes.set_axisbelow(True)


def label_of(result: Result) -> str:
    return f"{result.name}  {result.mode}"


def series_of(result: Result) -> str:
    loose = "" if result.gate == STRICT_GATE else ", loose"
    return f"{result.implementation}, {result.dtype}{loose}"
