"""What this machine can do, measured on the spot: the peak of a matrix product and the bandwidth of reading.

Both are the best of several ways and moments, with as many threads as torch is set to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from time import perf_counter

import torch
from torch import Tensor

from benchmarks.implementations import IMPLEMENTATIONS

PRODUCTS = ((2048, 2048, 2048), (4096, 512, 1536))  # (rows, terms, columns)
COLUMNS = 256  # floats of a row of the buffer that is read: 1 KiB
READ_AT_LEAST = 1 << 24  # bytes a call, so that the call itself weighs nothing
SIZES = (16 << 10, 512 << 10, 8 << 20, 256 << 20)  # a first cache, a second, a third and memory, on most machines


def measured_gemm_rates(seconds: float = 0.5) -> dict[str, float]:
    """Flop per second of the best large product in float32, by who makes it: none of them is the best on every CPU."""
    rates: dict[str, float] = {}
    for rows, terms, columns in PRODUCTS:
        for name, product in products(torch.rand(rows, terms), torch.rand(terms, columns)).items():
            rates[name] = max(rates.get(name, 0.0), 2 * rows * terms * columns / shortest(product, seconds))
    return rates


def products(a: Tensor, b: Tensor) -> dict[str, Callable[[], object]]:
    calls: dict[str, Callable[[], object]] = {"torch.mm": lambda: torch.mm(a, b)}
    if torch.backends.mkldnn.is_available():
        left, right = a.to_mkldnn(), b.t().contiguous().to_mkldnn()
        calls["oneDNN in torch"] = lambda: torch.nn.functional.linear(left, right)
    if IMPLEMENTATIONS["JAX"].installed:
        from benchmarks.peers.jax_scan import product_of

        calls["JAX"] = product_of(a, b)
    return calls


def measured_read_bandwidth(size: int, seconds: float = 0.1) -> float:
    """Bytes per second of reading a buffer of ``size`` bytes over and over, each thread a part of its own.

    Two operations of torch read about as fast as a core can load: a sum, and the embedding bag, which is also a sum.
    """
    threads = torch.get_num_threads()
    rows = max(1, round(size / threads / COLUMNS / 4))  # of each thread
    times = -(-READ_AT_LEAST // (rows * COLUMNS * 4))
    buffer = torch.rand(threads * rows, COLUMNS)

    # one bag per thread: the rows of its part, again and again
    parts = torch.arange(threads * rows, dtype=torch.int32).view(threads, 1, rows)
    indices = parts.expand(threads, times, rows).reshape(-1)
    offsets = torch.arange(threads, dtype=torch.int32) * (times * rows)
    repeated = buffer.view(threads, 1, -1).expand(threads, times, -1)

    calls: list[Callable[[], object]] = [
        lambda: torch.nn.functional.embedding_bag(indices, buffer, offsets, mode="sum"),
        lambda: repeated.sum(-1),
    ]
    return 4 * buffer.numel() * times / min(shortest(call, seconds) for call in calls)


# once in a process, that is per number of threads
gemm_rates = cache(measured_gemm_rates)
read_bandwidth = cache(measured_read_bandwidth)


def gemm_peak() -> float:
    return max(gemm_rates().values())


def shortest(call: Callable[[], object], seconds: float, least: int = 3) -> float:
    """Seconds of the shortest call, after one that is not timed."""
    call()
    best = float("inf")
    calls = 0
    end = perf_counter() + seconds
    while calls < least or perf_counter() < end:
        start = perf_counter()
        call()
        best = min(best, perf_counter() - start)
        calls += 1
    return best


def report() -> str:
    """A line for whoever reads the table."""
    threads = torch.get_num_threads()
    reading = ", ".join(f"{size >> 10} KiB {read_bandwidth(size) / 1e9:.0f}" for size in SIZES)
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in gemm_rates().items())
    cpus = len(os.sched_getaffinity(0))
    return (
        f"{threads} thread{'s' * (threads > 1)} on {cpus} CPU{'s' * (cpus > 1)}: "
        f"GEMM, GFLOP/s: {rates}; reading, GB/s: {reading}"
    )
