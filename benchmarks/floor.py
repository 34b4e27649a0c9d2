"""The least time a workload can take on this machine: its arithmetic at the GEMM peak, or its weights read.

A step needs the state of the step before, so W_hh is read at every step, from the cache that holds it; no schedule can
read it once and do all steps. (One that keeps parts of W_hh in registers could: then the floor is too high by that.)
The gates' arithmetic, the activations' traffic and every call are left out, so most rows can't reach their floor.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.workloads import Workload

BYTES = 4  # of float32


def floor_of(workload: Workload, peak: float, bandwidth: Callable[[int], float]) -> float:
    """Seconds; from flop per second, and bytes per second for a number of bytes that are read over and over."""
    w = workload

    def pass_of(weights: int, rows: int, steps: int) -> float:
        """Of a product with ``rows`` rows at each step."""
        size = BYTES * weights
        return steps * max(2 * weights * rows / peak, size / bandwidth(size))

    seconds = 0.0
    for layer in range(w.layers):
        inputs = w.I if layer == 0 else w.directions * w.H
        projection, recurrence = 3 * w.H * inputs, 3 * w.H * w.H
        if w.kind == "cell":  # its input comes step by step, too
            one_pass = pass_of(projection + recurrence, w.B, w.T)
        else:
            one_pass = pass_of(projection, w.B * w.T, 1) + pass_of(recurrence, w.B, w.T)
        seconds += one_pass
        if w.mode == "train":  # back through the steps, and the gradients of the weights
            seconds += one_pass + 2 * (projection + recurrence) * w.B * w.T / peak
    return seconds * w.directions
