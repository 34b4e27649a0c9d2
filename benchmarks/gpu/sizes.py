"""Which sizes are measured on a GPU, the most telling first: a run that is cut short has those."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.workloads import DTYPES, Workload, read_workloads

HIDDEN = (256, 512, 1024, 128, 2048, 64, 192, 160, 130)
BATCH = (16, 1, 64, 128)
QUICK_HIDDEN = (256, 512, 1024, 128)
QUICK_BATCH = (16, 1, 64)
DYNAMIC_BATCH = (16,)  # PERSIST_DYNAMIC compiles a kernel for each size, so it gets a few sizes only
MODES = ("infer", "train")


def grid(quick: bool = False) -> list[Workload]:
    """One layer with I = H."""
    return [
        Workload(f"H{H}_B{B}", "sequence", "train", tuple(DTYPES), B, steps_of(H, B), H, H, layers=1, directions=1)
        for B in (QUICK_BATCH if quick else BATCH)
        for H in (QUICK_HIDDEN if quick else HIDDEN)
    ]


def steps_of(H: int, B: int) -> int:
    """Enough for the call's own cost to weigh little."""
    return 256 if B * H * H <= 1 << 27 else 128


def cases(quick: bool = False) -> list[tuple[Workload, str]]:
    """Every size with each of its dtypes; a size is followed by its other dtypes, as they share a float64 run."""
    found = [(workload, dtype) for workload in grid(quick) for dtype in workload.dtypes]
    if not quick:
        for workload in read_workloads("cuda"):
            dtypes = ("tf32", *workload.dtypes) if "fp32" in workload.dtypes else workload.dtypes
            found += [(workload, dtype) for dtype in dtypes]
    return found


def modes_of(workload: Workload, of_grid: bool) -> list[Workload]:
    """A row of the grid in both modes; a real workload in its own."""
    return [replace(workload, mode=mode) for mode in MODES] if of_grid else [workload]
