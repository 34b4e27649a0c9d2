"""The rows as tables to read: for each part and dtype a grid of H and B; then how ours does on the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import exp, log

from benchmarks.gpu.contestants import STATIC
from benchmarks.gpu.rows import OK
from benchmarks.implementations import BASELINE, SUBJECT

Rows = Sequence[dict[str, str]]  # as read from the file
Cell = tuple[int, int]  # H, B


def report(rows: Rows) -> str:
    if not rows:
        return "no rows"
    parts = list(dict.fromkeys(row["part"] for row in rows))
    tables = [table(rows, part) for part in ("infer", "both") if part in parts]
    return "\n\n".join([*tables, means(rows), troubles(rows)])


def ratios(rows: Rows, part: str, dtype: str, implementation: str = SUBJECT, l2: str = "warm") -> dict[Cell, float]:
    """Of the grid: nn.GRU's time over the implementation's."""
    wanted = {"part": part, "dtype": dtype, "implementation": implementation, "l2": l2, "status": OK}
    return {
        (int(row["H"]), int(row["B"])): float(row["ratio"])
        for row in rows
        if row["name"] == f"H{row['H']}_B{row['B']}" and wanted.items() <= row.items()
    }


def dtypes_in(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["dtype"] for row in rows))


def table(rows: Rows, part: str) -> str:
    """us/step of ours, how many times as fast as nn.GRU, and as PERSIST_STATIC called directly."""
    wanted = {"part": part, "l2": "warm"}
    found = {(row["name"], row["dtype"], row["implementation"]): row for row in rows if wanted.items() <= row.items()}
    lines = [f"{part}, warm L2: us/step of {SUBJECT}, and the time of {BASELINE} and of {STATIC} over it"]
    dtypes = dtypes_in(rows)
    lines.append(" " * 24 + "".join(f"{dtype:>24}" for dtype in dtypes))
    for name in dict.fromkeys(row["name"] for row in rows):
        cells = []
        for dtype in dtypes:
            ours = found.get((name, dtype, SUBJECT))
            direct = found.get((name, dtype, STATIC))
            if ours is None:
                cells.append("")
            elif ours["status"] != OK:
                cells.append(ours["status"].split(":")[0])
            else:
                over = float(ours["ratio"])
                beside = f"{over / float(direct['ratio']):.2f}" if direct and direct["status"] == OK else "-"
                cells.append(f"{float(ours['us_step']):.3f} {over:.2f} {beside}")
        if any(cells):
            lines.append(f"{name:24}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def means(rows: Rows) -> str:
    """Geometric means of the ratio, and of the share of the floor."""
    lines = [
        f"{'part':10}{'dtype':6}{'L2':6}{'rows':>5}{'ratio':>8}{'slower in':>11}{'share of the estimated floor':>31}"
    ]
    groups = dict.fromkeys((row["part"], row["dtype"], row["l2"]) for row in rows)
    for part, dtype, l2 in groups:
        wanted = {"part": part, "dtype": dtype, "l2": l2, "implementation": SUBJECT, "status": OK}
        members = [row for row in rows if wanted.items() <= row.items()]
        if members:
            gains = [float(row["ratio"]) for row in members]
            shares = [float(row["floor_share"]) for row in members if row["floor_share"]]
            share = f"{geometric_mean(shares):.2f}" if shares else "-"
            slower = sum(gain < 1 for gain in gains)
            lines.append(f"{part:10}{dtype:6}{l2:6}{len(gains):5}{geometric_mean(gains):8.2f}{slower:11}{share:>31}")
    return "\n".join(lines)


def troubles(rows: Rows) -> str:
    """Who was not timed, and why: each reason once, with how many rows it cost."""
    counts: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["status"] != OK:
            key = row["implementation"], row["status"]
            counts[key] = counts.get(key, 0) + 1
    lines = [f"{implementation}, {count} rows: {status}" for (implementation, status), count in counts.items()]
    return "\n".join(["not timed:", *lines]) if lines else "everything was timed"


def geometric_mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))
