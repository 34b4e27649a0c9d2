"""Timing passes against each other on a device, by its own clock, in turns.

Nothing waits for the device within a round: before each timed pass stands another one (warm L2) or a large write
(cold L2), during which the CPU gets ahead. So what is measured is the device's time, as in a loop that trains;
where the CPU can't keep up, the device idles inside the timed pass, and that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Protocol

import torch

from benchmarks.implementations import Passes
from benchmarks.paired import no_garbage_collection

FLUSH_AT_LEAST = 256 << 20  # bytes; no L2 holds as much
MOST_ROUNDS = 200


class Clock(Protocol):
    def mark(self) -> object: ...
    def settle(self) -> None: ...  # after it, between() may be asked
    def between(self, start: object, end: object) -> float: ...  # seconds


class CudaClock:
    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        torch.cuda.synchronize()

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return start.elapsed_time(end) / 1e3


class CpuClock:
    """For a rehearsal."""

    mark = staticmethod(perf_counter)

    def settle(self) -> None:
        pass

    def between(self, start: float, end: float) -> float:
        return end - start


def clock_of(device: str) -> Clock:
    return CudaClock() if device == "cuda" else CpuClock()


def flush_of(device: str) -> Callable[[], object]:
    """Overwrites all of L2."""
    size = FLUSH_AT_LEAST
    if device == "cuda":
        size = max(size, 4 * torch.cuda.get_device_properties(0).L2_cache_size)
    return torch.empty(size, dtype=torch.int8, device=device).zero_


def paired_parts(
    passes: Mapping[str, Passes],
    seconds: float,
    clock: Clock,
    flush: Callable[[], object] | None = None,
    least_rounds: int = 7,
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of forward and backward of each; the k-th of all lists belong to the k-th round.

    A round takes each once, and the order turns around from round to round.
    """
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    order = list(passes)
    with no_garbage_collection():
        for run in passes.values():
            run()
        clock.settle()
        end = perf_counter() + seconds
        rounds = 0
        while rounds < least_rounds or (perf_counter() < end and rounds < MOST_ROUNDS):
            marks = {}
            for name in order:
                (flush or passes[name])()
                marks[name] = marks_of(passes[name], clock)
            clock.settle()
            for name, (start, middle, stop) in marks.items():
                samples[name].append((clock.between(start, middle), clock.between(middle, stop)))
            order.reverse()
            rounds += 1
    return samples


def marks_of(run: Passes, clock: Clock) -> tuple[object, object, object]:
    start = clock.mark()
    results = run.forward()
    middle = clock.mark()
    if run.backward is not None:
        run.backward(results)
    return start, middle, clock.mark()
