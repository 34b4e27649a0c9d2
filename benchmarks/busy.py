"""``python -m benchmarks.busy``: calls on all threads while another process spins on one of their cores.

Who shares a machine can't choose when. Two threads on one free core should take little more than one thread does: each
row has the mean time of a call on one thread and on all, alone and beside a process that spins, and the ratio of the
last to the first. Means, because a thread that loses its core does so now and then, for milliseconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import mean
from typing import NamedTuple

import torch
from torch import nn

import gru_fused
from benchmarks.machine import this_machine

PAUSE = 0.005  # seconds before a call: a server's threads have gone to sleep when the next request comes
SPIN = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"


class Row(NamedTuple):
    T: int
    B: int
    I: int  # noqa: E741 - the letter of the formulas
    H: int
    train: bool

    def __str__(self) -> str:
        return f"({self.T}, {self.B}, {self.I}, {self.H}) {'training' if self.train else 'inference'}"


SIZES = [(100, 1, 40, 128), (100, 1, 256, 256), (100, 1, 512, 512), (50, 8, 64, 128), (50, 64, 64, 128)]
ROWS = [Row(*size, train) for size in SIZES for train in (False, True)]


def call_of(kind: type[nn.GRU], row: Row) -> Callable[[], object]:
    rnn, x = kind(row.I, row.H), torch.randn(row.T, row.B, row.I)
    if not row.train:
        return torch.inference_mode()(lambda: rnn(x))
    cotangent = torch.randn(row.T, row.B, row.H)
    return lambda: torch.autograd.grad(rnn(x)[0], list(rnn.parameters()), cotangent)


def milliseconds(call: Callable[[], object], threads: int, seconds: float) -> float:
    torch.set_num_threads(threads)
    for _ in range(3):
        call()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        time.sleep(PAUSE)
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1e3 * mean(times)


@contextmanager
def spinning(core: int) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", SPIN, str(core)])
    try:
        time.sleep(0.3)
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.busy", description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="per figure")
    seconds = parser.parse_args().seconds
    if not hasattr(os, "sched_setaffinity"):
        parser.error("needs Linux, to keep the process that spins on one core")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        parser.error("needs two cores")
    machine = this_machine("cpu")
    print(f"{machine.device}, {len(cores)} cores, torch {machine.torch}, {machine.date}; mean ms of a call")
    print("| (T, B, I, H) | | 1 thread | all | 1 beside another | **all beside another** | over 1 beside another |")
    print("|---|---|---|---|---|---|---|")
    for row in ROWS:
        for kind in (gru_fused.GRU, nn.GRU):
            call = call_of(kind, row)
            alone = [milliseconds(call, threads, seconds) for threads in (1, len(cores))]
            with spinning(cores[-1]):
                beside = [milliseconds(call, threads, seconds) for threads in (1, len(cores))]
            figures = " | ".join(f"{time:.2f}" for time in (*alone, *beside))
            print(f"| {row} | {kind.__module__.split('.')[0]} | {figures} | {beside[1] / beside[0]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
