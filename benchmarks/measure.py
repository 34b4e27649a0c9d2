"""One workload from its numbers to its results: draw, build, check, time."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from benchmarks.gate import check, truth_of
from benchmarks.implementations import IMPLEMENTATIONS, Call, result_names
from benchmarks.machine import Machine
from benchmarks.paired import paired
from benchmarks.results import Result, summarize
from benchmarks.workloads import DTYPES, Problem, Workload


def measure(
    workload: Workload,
    dtype: str,
    device: str,
    threads: Sequence[int],
    implementations: Sequence[str],
    seconds: float,
    machine: Machine,
) -> list[Result]:
    """Checks at every number of threads before it times at any."""
    calls = verified_calls(workload, dtype, device, threads, implementations)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    results = []
    with torch.inference_mode(workload.mode == "infer"):
        for count in threads:
            torch.set_num_threads(count)
            samples = paired(calls, seconds, synchronize=synchronize)
            results += summarize(samples, workload, dtype, count, machine)
    return results


def verified_calls(
    workload: Workload, dtype: str, device: str, threads: Sequence[int], implementations: Sequence[str]
) -> dict[str, Call]:
    """The implementations' callables, all correct. Those of an inference are to be called in inference mode."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    problem = Problem.draw(workload, DTYPES[dtype], device)
    calls = {name: IMPLEMENTATIONS[name].build(problem) for name in implementations}
    with torch.inference_mode(workload.mode == "infer"):
        torch.set_num_threads(max(threads))
        truth = truth_of(problem)
        for count in threads:
            torch.set_num_threads(count)
            check(calls, truth, result_names(problem))
    return calls
