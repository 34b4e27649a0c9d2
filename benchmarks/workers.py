"""One process per number of threads, restricted to as many CPUs.

Some implementations take their number of threads from the CPUs that the process may use when it starts, and keep it.
And a process on n CPUs can't use more than n, whatever its libraries think. All are started first and then take turns,
so that what is measured with one thread and with all meets the same state of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """Runs functions in a process of its own, one after the other."""

    def __init__(self, threads: int) -> None:
        self._pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        with restricted_to(threads):  # what a process is born with
            self.run(torch.set_num_threads, threads)

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return self._pool.submit(function, *args, **kwargs).result()

    def stop(self) -> None:
        self._pool.shutdown()


@contextmanager
def restricted_to(cpus: int) -> Iterator[None]:
    """Processes started within may use the first ``cpus`` of the CPUs that this one may."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cpus])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
