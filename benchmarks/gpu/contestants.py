"""Who is measured on a GPU: ours, nn.GRU, and cuDNN's persistent algorithms called directly."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic

from benchmarks.gpu import cudnn_direct
from benchmarks.gpu.sizes import DYNAMIC_BATCH
from benchmarks.gpu.toolchain import Unavailable
from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, SUBJECT, Passes
from benchmarks.workloads import Problem

Build = Callable[[Problem, str], Passes]  # of a problem and the name of its dtype
STATIC, DYNAMIC = "cuDNN PERSIST_STATIC", "cuDNN PERSIST_DYNAMIC"
DYNAMIC_SECONDS = 20.0  # in all, for compiling its kernels: nobody knows beforehand how long one takes


class Dynamic:
    """PERSIST_DYNAMIC, until its compiling has taken too long."""

    def __init__(self) -> None:
        self.spent = 0.0

    def __call__(self, problem: Problem, dtype: str) -> Passes:
        if self.spent > DYNAMIC_SECONDS:
            raise Unavailable(f"not asked, as compiling has taken more than {DYNAMIC_SECONDS:.0f} s")
        start = monotonic()
        try:
            return cudnn_direct.build("PERSIST_DYNAMIC", problem, dtype)
        finally:
            self.spent += monotonic() - start


CONTESTANTS: dict[str, Build] = {
    SUBJECT: lambda problem, dtype: IMPLEMENTATIONS[SUBJECT].build(problem),
    BASELINE: lambda problem, dtype: IMPLEMENTATIONS[BASELINE].build(problem),
    STATIC: partial(cudnn_direct.build, "PERSIST_STATIC"),
    DYNAMIC: Dynamic(),
}


def for_problem(problem: Problem, of_grid: bool) -> list[str]:
    """Their names; PERSIST_DYNAMIC in a few sizes of the grid."""
    few = of_grid and problem.workload.B in DYNAMIC_BATCH
    return [name for name in CONTESTANTS if name != DYNAMIC or few]
