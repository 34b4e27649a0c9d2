"""``python -m benchmarks.gpu.kernels``: which kernels each contestant runs, and what part of its time each takes.

nn.GRU's algorithm is chosen inside torch and cuDNN and is told nowhere; the names of its kernels tell it. Times
under the profiler are for their shares only.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.contestants import CONTESTANTS, for_problem
from benchmarks.gpu.sizes import MODES, grid
from benchmarks.gpu.toolchain import Unavailable
from benchmarks.workloads import DTYPES, Problem, set_tf32

FIELDS = ("name", "H", "B", "T", "dtype", "mode", "implementation", "kernel", "calls", "us", "share")
STEPS = 64
SHOWN = 6  # kernels of a call, those with the most time


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.kernels", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="start no further size after this long")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "out" / "gpu" / "kernels.csv")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    arguments = parser.parse_args()
    end = monotonic() + arguments.seconds
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found = 0
    with arguments.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(FIELDS)
        for workload, dtype, mode in [(w, d, m) for w in grid(quick=True) for d in w.dtypes for m in MODES]:
            if monotonic() > end:
                break
            set_tf32(dtype)
            workload = replace(workload, T=STEPS, mode=mode)
            problem = Problem.draw(workload, DTYPES[dtype], arguments.device)
            for name in for_problem(problem, of_grid=True):
                with torch.inference_mode(mode == "infer"):
                    try:
                        kernels = kernels_of(CONTESTANTS[name](problem, dtype), arguments.device)
                    except (Unavailable, RuntimeError) as error:
                        print(f"{workload.name} {dtype} {mode} {name}: {str(error).splitlines()[0][:120]}")
                        continue
                total = sum(us for us, _, _ in kernels) or 1.0
                print(f"{workload.name} {dtype} {mode} {name}: {len(kernels)} kernels, {total:.0f} us")
                for us, calls, kernel in kernels[:SHOWN]:
                    case = (workload.name, workload.H, workload.B, workload.T, dtype, mode, name)
                    writer.writerow([*case, kernel, calls, f"{us:.1f}", f"{us / total:.3f}"])
                    print(f"  {us / total:6.1%} {calls:4} x {kernel[:110]}", flush=True)
                    found += 1
    return 0 if found else 1


def kernels_of(call: Callable[[], object], device: str) -> list[tuple[float, int, str]]:
    """Microseconds, calls and name of each, those with the most time first."""
    on_cpu = device == "cpu"
    call()
    synchronize = (lambda: None) if on_cpu else torch.cuda.synchronize
    synchronize()
    with profile(activities=[ProfilerActivity.CPU if on_cpu else ProfilerActivity.CUDA]) as record:
        call()
        synchronize()
    time = "self_cpu_time_total" if on_cpu else "self_device_time_total"
    events = [(getattr(event, time), event.count, event.key) for event in record.key_averages()]
    return sorted((event for event in events if event[0] > 0), reverse=True)


if __name__ == "__main__":
    sys.exit(main())
