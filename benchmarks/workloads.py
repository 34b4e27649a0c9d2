"""What is measured: real uses of a GRU (workloads.csv) and a grid of plain shapes (cpu_table.csv).

The column ``resets`` (episodes that end inside the sequence) belongs to a feature still to come and is not read yet.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

TABLES = (Path(__file__).with_name("workloads.csv"), Path(__file__).with_name("cpu_table.csv"))

# tf32: float32 whose matrix products may round their operands to TF32, on a GPU
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def set_tf32(dtype: str) -> None:
    """For cuDNN and for the products of matrices; ours goes by cuDNN's."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"


@dataclass(frozen=True)
class Workload:
    """One row of a table, its T and B already those of the device."""

    name: str
    kind: str  # "sequence": one call over T steps; "cell": a call per step
    mode: str  # "train": forward and backward; "infer": forward
    dtypes: tuple[str, ...]
    B: int
    T: int
    I: int  # noqa: E741 - the field's own letter for the input size
    H: int
    layers: int
    directions: int

    @property
    def gflop(self) -> float:
        """Arithmetic of the matrix products, 3 gates, 2 flop each; a backward is twice its forward."""
        inputs = self.I + (self.layers - 1) * self.directions * self.H
        per_step = 2 * 3 * self.H * (inputs + self.layers * self.H) * self.directions
        return per_step * self.T * self.B * (3 if self.mode == "train" else 1) / 1e9

    def __str__(self) -> str:
        return f"{self.name}-{self.mode}"


def read_workloads(device: str) -> list[Workload]:
    """The rows that fit the device ("cpu" or "cuda"), the cheapest first."""
    workloads = []
    for table in TABLES:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                steps, batch = ("T_cpu", "B_cpu") if device == "cpu" else ("T", "B")
                workload = Workload(
                    name=row["name"],
                    kind=row["kind"],
                    mode=row["mode"],
                    dtypes=tuple(row["dtypes"].split(";")),
                    B=int(row[batch]),
                    T=int(row[steps]),
                    I=int(row["I"]),
                    H=int(row["H"]),
                    layers=int(row["layers"]),
                    directions=int(row["directions"]),
                )
                if workload.T and workload.B:
                    workloads.append(workload)
    return sorted(workloads, key=lambda workload: workload.gflop)


@dataclass(frozen=True)
class Problem:
    """A workload with numbers in it: all that an implementation is given.

    With D directions, L layers: ``x`` (T, B, I), ``grad_output`` (T, B, D*H); ``hx``, ``grad_h_n`` (L*D, B, H), for a
    cell (B, H). ``weights`` is the state_dict of nn.GRU or nn.GRUCell.
    """

    workload: Workload
    weights: dict[str, Tensor]
    x: Tensor
    hx: Tensor
    grad_output: Tensor
    grad_h_n: Tensor

    @staticmethod
    def draw(workload: Workload, dtype: torch.dtype, device: str) -> Problem:
        """The same numbers in every run and on every device, up to the rounding to dtype."""
        w = workload
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if w.kind == "cell":
                module = nn.GRUCell(w.I, w.H)
                state = (w.B, w.H)
            else:
                module = nn.GRU(w.I, w.H, w.layers, bidirectional=w.directions == 2)
                state = (w.layers * w.directions, w.B, w.H)
            problem = Problem(
                workload=w,
                weights=module.state_dict(),
                x=torch.randn(w.T, w.B, w.I),
                hx=torch.rand(state) * 2 - 1,
                grad_output=torch.randn(w.T, w.B, w.directions * w.H),
                grad_h_n=torch.randn(state),
            )
        return problem.to(dtype, device)

    def to(self, dtype: torch.dtype, device: str | None = None) -> Problem:
        return replace(
            self,
            weights={name: weight.to(device, dtype) for name, weight in self.weights.items()},
            x=self.x.to(device, dtype),
            hx=self.hx.to(device, dtype),
            grad_output=self.grad_output.to(device, dtype),
            grad_h_n=self.grad_h_n.to(device, dtype),
        )
