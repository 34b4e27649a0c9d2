"""What a row is held against: the peak, the bandwidth, the floor; and the processes in which it is measured."""

from __future__ import annotations

import os
from dataclasses import replace
from time import perf_counter, process_time

import pytest
import torch

from benchmarks.floor import floor_of
from benchmarks.test_measuring import SMALL, busy
from benchmarks.workers import Worker
from benchmarks.workloads import Workload
from benchmarks.yardsticks import measured_gemm_rates, measured_read_bandwidth

ROW = Workload("row", "sequence", "infer", ("fp32",), B=2, T=5, I=7, H=11, layers=1, directions=1)
PROJECTION, RECURRENCE = 3 * 11 * 7, 3 * 11 * 11  # weights


def test_peak_is_what_a_product_takes():
    a = torch.rand(1024, 1024)
    start = perf_counter()
    torch.mm(a, a)
    slow = 2 * 1024**3 / (perf_counter() - start)  # one call, the first
    assert 0.5 * slow < measured_gemm_rates(seconds=0)["torch.mm"] < 1e15


@pytest.mark.parametrize("size", [1, 100_000, 1 << 24])
def test_bandwidth_is_of_this_world(size):
    assert 1e8 < measured_read_bandwidth(size, seconds=0) < 1e14


def test_floor_by_arithmetic_where_reading_is_free():
    for workload in (ROW, *SMALL.values()):
        assert floor_of(workload, 1e9, lambda size: 1e99) == pytest.approx(workload.gflop)


def test_floor_by_reading_where_arithmetic_is_free():
    def floor(**changes: object) -> float:
        return floor_of(replace(ROW, **changes), 1e99, lambda size: 4.0)  # a weight per second

    assert floor() == PROJECTION + 5 * RECURRENCE
    assert floor(mode="train") == 2 * floor()
    assert floor(directions=2) == 2 * floor()
    assert floor(kind="cell") == 5 * (PROJECTION + RECURRENCE)
    assert floor(layers=2, I=11) == 2 * floor(I=11)


def test_each_matrix_is_read_from_the_cache_that_holds_it():
    asked = []
    floor_of(ROW, 1.0, lambda size: asked.append(size) or 1.0)
    assert asked == [4 * PROJECTION, 4 * RECURRENCE]


def cpus_of_this_process() -> set[int]:
    return os.sched_getaffinity(0)


def load_of_a_product() -> float:
    """CPU time over time, of a product large enough for every thread there is."""
    a = torch.rand(1500, 1500)
    torch.mm(a, a)
    start, cpu_start = perf_counter(), process_time()
    torch.mm(a, a)
    return (process_time() - cpu_start) / (perf_counter() - start)


def test_a_worker_keeps_to_its_threads():
    allowed = os.sched_getaffinity(0)
    worker = Worker(1)
    try:
        assert worker.run(torch.get_num_threads) == 1
        assert len(worker.run(cpus_of_this_process)) == 1
        assert worker.run(load_of_a_product) < 1.2
        with pytest.raises(TypeError):
            worker.run(busy, "not a number")
        assert worker.run(cpus_of_this_process) <= allowed  # it goes on after an error
    finally:
        worker.stop()
    assert os.sched_getaffinity(0) == allowed
