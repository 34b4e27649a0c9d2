"""The ratio as a picture: a row of panels per part, a panel per dtype, H down, B across."""

from __future__ import annotations

from math import log2
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.gpu.report import Rows, dtypes_in, ratios
from benchmarks.implementations import BASELINE, SUBJECT

MOST = 3.0  # log2: 8 times as fast or as slow has the fullest colour


def heatmap(rows: Rows, path: Path, l2: str = "warm") -> bool:
    """Whether there was anything to draw."""
    present = {row["part"] for row in rows}
    parts = [part for part in ("infer", "both", "forward", "backward") if part in present]
    dtypes = dtypes_in(rows)
    cells = {(part, dtype): ratios(rows, part, dtype, l2=l2) for part in parts for dtype in dtypes}
    corners = sorted({corner for panel in cells.values() for corner in panel})
    if not corners:
        return False
    hidden, batch = (sorted({corner[axis] for corner in corners}) for axis in (0, 1))
    size = (1.5 + (1 + 0.6 * len(batch)) * len(dtypes), 1.2 + (0.8 + 0.3 * len(hidden)) * len(parts))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(parts), len(dtypes), squeeze=False)
    for i, part in enumerate(parts):
        for j, dtype in enumerate(dtypes):
            axes, values = panels[i][j], cells[part, dtype]
            grid = [[log2(values[H, B]) if (H, B) in values else float("nan") for B in batch] for H in hidden]
            image = axes.imshow(grid, cmap="RdYlGn", vmin=-MOST, vmax=MOST, aspect="auto")
            for (H, B), ratio in values.items():
                axes.text(batch.index(B), hidden.index(H), f"{ratio:.2g}", ha="center", va="center", fontsize=7)
            axes.set_xticks(range(len(batch)), batch, fontsize=7)
            axes.set_yticks(range(len(hidden)), hidden, fontsize=7)
            axes.set_title(f"{part}, {dtype}", fontsize=8)
            axes.set_xlabel("B", fontsize=7)
            axes.set_ylabel("H", fontsize=7)
    ticks = range(-int(MOST), int(MOST) + 1)
    bar = figure.colorbar(image, ax=panels, ticks=ticks, shrink=0.6)
    bar.set_ticklabels([f"{2.0**tick:g}" for tick in ticks], fontsize=7)
    where = f"{rows[0]['device']}, driver {rows[0]['driver']}, torch {rows[0]['torch']}, {rows[0]['date']}"
    figure.suptitle(f"Time of {BASELINE} over {SUBJECT}, {l2} L2\n{where}", fontsize=8)
    figure.savefig(path, dpi=150)
    return True
