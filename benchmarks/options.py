"""``python -m benchmarks.options``: what each option of a GRU costs over the plain cell, and a loop in torch over it.

Every option is first checked, in float32 with its gradients, against the loop in float64.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

import gru_fused
from benchmarks.machine import this_machine
from benchmarks.paired import paired
from gru_fused import _autograd

HERE = Path(__file__).parent
TOLERANCE = 1e-4  # of a tensor's scale, float32 against float64

OPTIONS: dict[str, dict[str, Any]] = {
    "lengths": {},
    "reset": {},
    "attention": {},
    "activations": {"activation": "softsign", "gate_activation": "hard_sigmoid"},
    "zoneout": {"zoneout": 0.1},
    "recurrent_dropout": {"recurrent_dropout": 0.2},
    "reset_after=False": {"reset_after": False},
    "layer_norm=projections": {"layer_norm": "projections"},
    "layer_norm=sum": {"layer_norm": "sum"},
}


class Size(NamedTuple):
    T: int
    B: int
    I: int  # noqa: E741 - the letter of the formulas
    H: int


SIZES = [Size(100, 1, 64, 64), Size(100, 32, 128, 256), Size(50, 64, 256, 512)]


def marks_of(option: str, size: Size) -> dict[str, Tensor]:
    marks = {
        "lengths": torch.full((size.B,), size.T),  # as much work as without
        "reset": torch.rand(size.T, size.B) < 0.05,
        "attention": torch.rand(size.T, size.B),
    }
    return {option: marks[option]} if option in marks else {}


def call_of(rnn: gru_fused.GRU, x: Tensor, marks: dict[str, Tensor], train: bool) -> Callable[[], tuple[Tensor, ...]]:
    def call() -> tuple[Tensor, ...]:
        output, h_n = rnn(x, **marks)
        if not train:
            return output, h_n
        return output, h_n, *torch.autograd.grad((output.sum() + h_n.sum()), [x, *rnn.parameters()])

    return call


def looped(call: Callable[[], tuple[Tensor, ...]]) -> Callable[[], tuple[Tensor, ...]]:
    """The same by the reference, a loop over time in torch: what is computed under a transform of torch.func."""

    def reference() -> tuple[Tensor, ...]:
        transformed, _autograd.transformed = _autograd.transformed, lambda: True
        try:
            return call()
        finally:
            _autograd.transformed = transformed

    return reference


def check(rnn: gru_fused.GRU, x: Tensor, marks: dict[str, Tensor], train: bool) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        other = gru_fused.GRU(rnn.input_size, rnn.hidden_size, dtype=dtype)
        if rnn.options.layer_norm:
            other = gru_fused.GRU(rnn.input_size, rnn.hidden_size, layer_norm=rnn.options.layer_norm, dtype=dtype)
        other.load_state_dict(rnn.state_dict())
        other.options = rnn.options
        other.train(rnn.training and not (rnn.options.zoneout or rnn.options.recurrent_dropout))  # no random masks
        cast = {name: y.to(dtype) if y.is_floating_point() else y for name, y in marks.items()}
        call = call_of(other, x.detach().to(dtype).requires_grad_(train), cast, train)
        results.append((call if dtype == torch.float32 else looped(call))())
    for ours, truth in zip(*results, strict=True):
        error, scale = (ours - truth).abs().max().item(), truth.abs().max().item()
        if not error <= TOLERANCE * scale:
            raise ArithmeticError(f"error {error:.1e} at scale {scale:.1e}")


def measure(option: str, size: Size, train: bool, seconds: float) -> dict[str, Any]:
    plain, rnn = gru_fused.GRU(size.I, size.H), gru_fused.GRU(size.I, size.H, **OPTIONS[option])
    x, marks = torch.randn(size.T, size.B, size.I, requires_grad=train), marks_of(option, size)
    check(rnn, x, marks, train)
    calls = {"plain": call_of(plain, x, {}, train), "option": call_of(rnn, x, marks, train)}
    calls["loop"] = looped(calls["option"])
    with torch.inference_mode(not train):
        if not train:
            plain, rnn = plain.eval(), rnn.eval()
        samples = paired(calls, seconds, least_rounds=4)

    def ratio(one: str, other: str) -> float:
        return median(a / b for a, b in zip(samples[one], samples[other], strict=True))

    return {
        "option": option,
        "mode": "train" if train else "infer",
        **size._asdict(),
        "threads": torch.get_num_threads(),
        "plain_ms": round(1e3 * median(samples["plain"]), 3),
        "over_plain": round(ratio("option", "plain"), 3),
        "loop_over": round(ratio("loop", "option"), 2),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Options down, sizes and modes across; each: times over the plain cell, and how much longer a loop takes."""
    cases = list(dict.fromkeys((tuple(row[k] for k in "TBIH"), row["mode"]) for row in rows))
    found = {(row["option"], tuple(row[k] for k in "TBIH"), row["mode"]): row for row in rows}
    lines = ["| option | " + " | ".join(f"{mode} {', '.join(map(str, size))}" for size, mode in cases) + " |"]
    lines.append("|---" * (len(cases) + 1) + "|")
    for option in OPTIONS:
        cells = [found.get((option, *case)) for case in cases]
        text = ("-" if row is None else f"{row['over_plain']:.2f}x ({row['loop_over']:.1f}x)" for row in cells)
        lines.append(f"| {option} | " + " | ".join(text) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.options", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="per option, size and mode (default: 1)")
    parser.add_argument("--quick", action="store_true", help="the smallest size only, timed briefly")
    parser.add_argument("--out", type=Path, default=HERE / "out", metavar="DIR")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    machine = this_machine("cpu")
    sizes = SIZES[:1] if arguments.quick else SIZES
    cases = [(option, size, train) for size in sizes for train in (False, True) for option in OPTIONS]
    rows = []
    for option, size, train in tqdm(cases, unit="row", disable=None):
        rows.append(measure(option, size, train, 0.1 if arguments.quick else arguments.seconds))
        rows[-1] |= asdict(machine)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with open(arguments.out / "options.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(f"\n{machine.device}, {arguments.threads} threads, torch {machine.torch}, {machine.date}")
    print("Time over the plain cell's (in brackets: of a loop over time in torch, over the option's); T, B, I, H:\n")
    print(table(rows))
    print(f"\nresults in {arguments.out / 'options.csv'}")


if __name__ == "__main__":
    main()
