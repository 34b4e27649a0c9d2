"""The results as tables to read: a line per row, the means over the rows, and the rows that are not won."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.gate import LOOSE_GATE
from benchmarks.implementations import BASELINE, SUBJECT
from benchmarks.results import Result

Case = tuple[str, str, str, int]
Row = dict[str, Result]  # of one case, by implementation
BEST = "the best of them"
MARK = "~"  # on a peer that is within the loose bound only


def table(results: Sequence[Result]) -> str:
    rows = rows_of(results)
    note = f"\n{MARK}: within the loose bound only (benchmarks/README.md)" if any(map(mark, results)) else ""
    return f"{aligned(lines_of(rows))}{note}\n\n{aligned(means_of(rows))}\n\n{not_won(rows)}"


def rows_of(results: Iterable[Result]) -> dict[Case, Row]:
    rows: dict[Case, Row] = {}
    for r in results:
        rows.setdefault((r.name, r.mode, r.dtype, r.threads), {})[r.implementation] = r
    return rows


def others_in(rows: dict[Case, Row]) -> list[str]:
    return [name for name in dict.fromkeys(name for row in rows.values() for name in row) if name != SUBJECT]


def best_in(row: Row) -> Result:
    """The fastest of the others."""
    return max((result for name, result in row.items() if name != SUBJECT), key=lambda result: result.ratio)


def over(row: Row, other: Result) -> float:
    """The other's time over ours. Both ratios are medians over the same rounds."""
    return row[SUBJECT].ratio / other.ratio


def lines_of(rows: dict[Case, Row]) -> list[list[object]]:
    """How ours does in every row, and every other's time over ours."""
    others = others_in(rows)
    fewest = min(threads for *_, threads in rows)
    head = ["workload", "mode", "B", "T", "I", "H", "layers", "dtype", "threads"]
    head += ["ms", f"on {fewest}/on these", "GFLOP/s", "% of peak", "ms/floor"]
    lines = [[*head, *(f"{name}/ours" for name in others)]]
    for (name, mode, dtype, threads), row in rows.items():
        ours = row[SUBJECT]
        case = [name, mode, ours.B, ours.T, ours.I, ours.H, f"{ours.layers}x{ours.directions}", dtype, threads]
        few = rows.get((name, mode, dtype, fewest))
        scaling = f"{few[SUBJECT].median_ms / ours.median_ms:.2f}" if few and threads > fewest else "-"
        share = f"{100 * ours.gflops / ours.peak_gflops:.1f}" if ours.peak_gflops else "-"
        floor = f"{ours.median_ms / ours.floor_ms:.2f}" if ours.floor_ms else "-"
        ratios = [f"{over(row, row[o]):.2f}{mark(row[o])}" if o in row else "-" for o in others]
        lines.append([*case, f"{ours.median_ms:.4g}", scaling, f"{ours.gflops:.1f}", share, floor, *ratios])
    return lines


def means_of(rows: dict[Case, Row]) -> list[list[object]]:
    """Geometric means over the rows that an implementation has, for each mode, dtype and number of threads."""
    head = ["mode", "dtype", "threads", "implementation", "rows", f"{BASELINE}/it", f"it/{SUBJECT}"]
    lines = [[*head, "ms/floor", f"rows with {SUBJECT} slower"]]
    for group in sorted({case[1:] for case in rows}):
        members = [row for case, row in rows.items() if case[1:] == group]
        for name in (SUBJECT, *others_in(rows), BEST):
            pairs = [(row, best_in(row) if name == BEST else row[name]) for row in members if name in (BEST, *row)]
            if not pairs:
                continue
            gains = [over(row, other) for row, other in pairs]
            floors = [other.median_ms / other.floor_ms for _, other in pairs if other.floor_ms]
            means = [geometric_mean(values) for values in ([other.ratio for _, other in pairs], gains, floors)]
            lines.append([*group, name, len(pairs), *means, sum(gain < 1 for gain in gains)])
    return lines


def not_won(rows: dict[Case, Row]) -> str:
    """The rows in which another is faster, those first where it is by most."""
    gains = sorted((over(row, best_in(row)), case, best_in(row).implementation) for case, row in rows.items())
    lost = [line for line in gains if line[0] < 1]
    title = f"{SUBJECT} is the fastest in {len(rows) - len(lost)} of {len(rows)} rows."
    if not lost:
        return title
    head = ["not in", "mode", "dtype", "threads", "the fastest", "it/ours"]
    lines = [[*case, name, f"{gain:.2f}{mark(rows[case][name])}"] for gain, case, name in lost]
    return f"{title}\n{aligned([head, *lines])}"


def mark(result: Result) -> str:
    return MARK if result.gate == LOOSE_GATE else ""


def geometric_mean(values: Sequence[float]) -> str:
    return f"{np.exp(np.mean(np.log(values))):.2f}" if values else "-"


def aligned(lines: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest entry, numbers to the right."""
    columns = [[str(entry) for entry in column] for column in zip(*lines, strict=True)]
    for index, column in enumerate(columns):
        width = max(map(len, column))
        numeric = all(entry[:1].isdigit() or entry == "-" for entry in column[1:])
        columns[index] = [entry.rjust(width) if numeric else entry.ljust(width) for entry in column]
    return "\n".join("  ".join(entries).rstrip() for entries in zip(*columns, strict=True))
