"""Timing callables against each other in one process, round by round.

A machine's speed drifts (frequency, neighbours, caches) by more than the differences of interest. Calls that take
turns meet the same drift: the ratio of two calls is taken within each round, and its median over the rounds is stable
where the times themselves are not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter, sleep

# seconds; a sample is at least this long, so that the timer and an interrupt weigh little
SHORTEST_SAMPLE = 2e-3
# seconds; the threads of OpenMP and of a runtime's pool go on spinning for milliseconds after their work, on the cores
# of whoever is next: without the pause, gru_fused and nn.GRU took up to 3x as long beside the peers as by themselves
PAUSE = 5e-3

Call = Callable[[], object]


def paired(
    calls: Mapping[str, Call],
    seconds: float,
    least_rounds: int = 6,
    synchronize: Call = lambda: None,
    pause: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, list[float]]:
    """Seconds per call of each callable; the k-th numbers of all lists belong to the k-th round.

    A round takes one sample of each; the order turns around from round to round. Rounds go on until ``seconds`` have
    passed and ``least_rounds`` are done. ``synchronize`` waits for a device that works in the background, ``pause`` is
    slept before each sample, for threads of the one before to come to rest. ``clock`` tells the seconds of a sample.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    rounds = 0
    with no_garbage_collection():
        repeats = {name: repeats_of(call, synchronize, clock) for name, call in calls.items()}
        end = perf_counter() + seconds
        while rounds < least_rounds or perf_counter() < end:
            for name in order:
                sleep(pause)
                samples[name].append(sample(calls[name], repeats[name], synchronize, warm=pause > 0, clock=clock))
            order.reverse()
            rounds += 1
    return samples


def sample(
    call: Call, repeats: int, synchronize: Call, warm: bool = False, clock: Callable[[], float] = perf_counter
) -> float:
    """Seconds per call, the mean of ``repeats`` calls; ``warm``: after one that is not timed, however long."""
    if repeats > 1 or warm:
        call()  # a short call would otherwise pay for the caches its predecessor filled, and for waking its threads
    synchronize()
    start = clock()
    for _ in range(repeats):
        call()
    synchronize()
    return (clock() - start) / repeats


def repeats_of(call: Call, synchronize: Call = lambda: None, clock: Callable[[], float] = perf_counter) -> int:
    """How many calls make a sample of SHORTEST_SAMPLE."""
    repeats = 1
    while sample(call, repeats, synchronize, clock=clock) * repeats < SHORTEST_SAMPLE:
        repeats *= 2
    return repeats


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A full collection takes tens of milliseconds in a process that has torch loaded."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
