"""The rows of a GPU benchmark: a line per size, dtype, part, state of L2 and contestant; as a file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from benchmarks.gpu_check.environment import environment
from benchmarks.machine import this_machine

OK = "ok"
PARTS = {"infer": ("infer",), "train": ("forward", "backward", "both")}  # by a workload's mode


@dataclass(frozen=True)
class Where:
    """With what it was measured, and when."""

    device: str
    driver: str
    torch: str
    cuda: str
    cudnn: str
    gru_fused: str
    commit: str
    python: str
    date: str


def where(device: str) -> Where:
    machine, facts = this_machine(device), environment()
    return Where(
        device=machine.device if device == "cuda" else f"REHEARSAL on {machine.device}",
        driver=str(facts["driver"]),
        torch=torch.__version__,
        cuda=str(torch.version.cuda),
        cudnn=str(torch.backends.cudnn.version()),
        gru_fused=machine.gru_fused,
        commit=str(facts["commit"]),
        python=machine.python,
        date=machine.date,
    )


@dataclass(frozen=True)
class Row:
    """The columns, in order; README.md explains them. Times are empty where the status is not "ok"."""

    name: str
    kind: str
    B: int
    T: int
    I: int  # noqa: E741 - the field's own letter for the input size
    H: int
    layers: int
    directions: int
    dtype: str
    part: str
    l2: str  # "warm" or "cold"
    implementation: str
    status: str  # "ok"; or why it was not timed: refused or wrong, with the reason
    us_step: float | None
    us_p20: float | None  # of the whole pass
    us_p50: float | None
    us_p80: float | None
    rounds: int | None
    ratio: float | None  # time of nn.GRU over this one's, within the round: 2 is twice as fast
    ratio_p20: float | None
    ratio_p80: float | None
    floor_us_step: float | None  # an estimate: limits.py
    floor_share: float | None
    plan: str  # how ours is computed
    device: str
    driver: str
    torch: str
    cuda: str
    cudnn: str
    gru_fused: str
    commit: str
    python: str
    date: str


class RowFile:
    """Written row by row, so that a run that is cut short leaves what it has measured."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, [field.name for field in fields(Row)], lineterminator="\n")
        self._writer.writeheader()

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._writer.writerow({key: f"{x:.4g}" if isinstance(x, float) else x for key, x in asdict(row).items()})
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
