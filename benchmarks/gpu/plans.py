"""``python -m benchmarks.gpu.plans``: every cut of many sizes, timed; what the constants of csrc/cuda/plan.cpp are
fitted to (``python -m benchmarks.gpu.fit``).

The times are the profiler's, of the kernel with the loop alone: of a short and of a long sequence, so that what a
launch costs falls out.
"""

from __future__ import annotations

import argparse
import csv
import os
from itertools import zip_longest
from pathlib import Path
from time import monotonic

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import gru_fused
from benchmarks.gpu.cuts import REGIMES, Cut, cuts_of
from benchmarks.workloads import DTYPES, set_tf32

SIZES = (  # B, H; the most telling first
    *((16, 256), (16, 512), (16, 1024), (1, 256), (64, 256), (16, 128), (64, 1024), (1, 1024), (1, 128), (64, 512)),
    *((1, 512), (64, 128), (128, 256), (16, 64), (16, 192), (128, 1024), (16, 2048), (128, 512), (1, 64), (128, 128)),
)
NAMES = ("bf16", "fp32", "tf32")
STEPS = (32, 160)
REPEATS = 2
INPUTS = 8
FIELDS = ("dtype", "B", "H", "sweep", "regime", "cut", "us_step", "us_fixed")
SWEEPS = ("forward", "backward")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.plans", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="start no further size after this long")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "out" / "gpu" / "plans.csv")
    arguments = parser.parse_args()
    end = monotonic() + arguments.seconds
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for B, H in SIZES:
            for name in NAMES:
                if monotonic() > end:
                    return 0
                rows = timed(name, B, H)
                writer.writerows(rows)
                file.flush()
                print(f"{name} B={B} H={H}: {len(rows)} cuts", flush=True)
    return 0


def timed(name: str, B: int, H: int) -> list[tuple]:
    """Rows of all cuts of a size."""
    set_tf32(name)
    dtype = DTYPES[name]
    gru = gru_fused.GRU(INPUTS, H).to("cuda", dtype)
    inputs = [torch.randn(T, B, INPUTS, device="cuda", dtype=dtype, requires_grad=True) for T in STEPS]
    cotangents = [torch.randn(T, B, H, device="cuda", dtype=dtype) for T in STEPS]
    trials = []  # a call has a forward and a backward, of one regime
    for regime in REGIMES:
        forward, backward = ([c for c in cuts_of(name, B, H, back) if c.regime == regime] for back in (False, True))
        trials += [(f or forward[-1], b) for f, b in zip_longest(forward, backward) if forward]
    mark = torch.ones(1, device="cuda")
    with profile(activities=[ProfilerActivity.CUDA]) as record:
        for trial in trials:
            mark.cos_()  # tells the trials' kernels apart
            for _ in range(REPEATS):
                call(gru, inputs, cotangents, *trial)
        torch.cuda.synchronize()
    for variable in ("GRU_FUSED_CUDA_REGIME", "GRU_FUSED_CUDA_CUT"):
        os.environ.pop(variable, None)

    found: dict[tuple[int, str], list[float]] = {}
    number = -1
    for event in sorted(record.events(), key=lambda event: event.time_range.start):
        if event.device_type != torch.autograd.DeviceType.CUDA:
            continue
        number += "cos" in event.name
        for sweep in SWEEPS:
            if f"{sweep}_loop" in event.name:
                found.setdefault((number, sweep), []).append(event.time_range.elapsed_us())
    rows = []
    for i, trial in enumerate(trials):
        for sweep, cut in zip(SWEEPS, trial, strict=True):
            times = found.get((i, sweep), [])
            # It could not be resident, and went step by step.
            if cut is None or len(times) != REPEATS * len(STEPS) * cut.launches:
                continue
            times = [sum(times[k : k + cut.launches]) for k in range(0, len(times), cut.launches)]
            short, long = (min(times[k :: len(STEPS)]) for k in range(len(STEPS)))
            step = (long - short) / (STEPS[1] - STEPS[0])
            fixed = short - step * STEPS[0]
            rows.append((name, B, H, sweep, cut.regime, cut.name, f"{step:.4f}", f"{fixed:.2f}"))
    return rows


def call(
    gru: gru_fused.GRU, inputs: list[Tensor], cotangents: list[Tensor], forward: Cut, backward: Cut | None
) -> None:
    os.environ["GRU_FUSED_CUDA_REGIME"] = forward.regime
    for x, cotangent in zip(inputs, cotangents, strict=True):
        os.environ["GRU_FUSED_CUDA_CUT"] = forward.name
        with torch.set_grad_enabled(backward is not None):
            output, h_n = gru(x)
        if backward is not None:
            os.environ["GRU_FUSED_CUDA_CUT"] = backward.name
            torch.autograd.grad((output, h_n), (x,), (cotangent, h_n.detach()))


if __name__ == "__main__":
    raise SystemExit(main())
