"""One workload from its numbers to its results: draw, build, check, time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from benchmarks.floor import floor_of
from benchmarks.gate import LOOSE_GATE, NO_GATE, Verdict, check, is_peer, truth_of
from benchmarks.implementations import IMPLEMENTATIONS, Call, result_names
from benchmarks.machine import Machine
from benchmarks.paired import PAUSE, paired
from benchmarks.results import Bounds, Result, summarize
from benchmarks.workloads import DTYPES, Problem, Workload, set_tf32
from benchmarks.yardsticks import gemm_peak, read_bandwidth


class Verified(NamedTuple):
    calls: dict[str, Call]  # all correct; those of an inference are to be called in inference mode
    gates: dict[str, str]
    remarks: list[str]  # who is left out or marked, and why


def measure(
    workload: Workload, dtype: str, device: str, implementations: Sequence[str], seconds: float, machine: Machine
) -> tuple[list[Result], list[str]]:
    """With as many threads as torch is set to; the results, and remarks on the peers."""
    calls, gates, remarks = verified(workload, dtype, device, implementations)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    with torch.inference_mode(workload.mode == "infer"):
        pause = PAUSE if torch.get_num_threads() > 1 else 0.0
        samples = paired(calls, seconds, synchronize=synchronize, pause=pause)
    bounds = bounds_of(workload) if (dtype, device) == ("fp32", "cpu") else None
    return summarize(samples, workload, dtype, torch.get_num_threads(), gates, bounds, machine), remarks


def verified(workload: Workload, dtype: str, device: str, implementations: Sequence[str]) -> Verified:
    """Raises WrongResult if any but a peer is wrong, and leaves out a peer that is wrong or fails."""
    set_tf32(dtype)
    problem = Problem.draw(workload, DTYPES[dtype], device)
    calls: dict[str, Call] = {}
    failures: dict[str, Verdict] = {}
    with torch.inference_mode(workload.mode == "infer"):
        for name in implementations:
            if IMPLEMENTATIONS[name].fits(workload, dtype, device):
                try:
                    calls[name] = IMPLEMENTATIONS[name].build(problem)
                    calls[name]()
                except Exception as error:
                    if not is_peer(name):
                        raise
                    calls.pop(name, None)
                    failures[name] = Verdict(NO_GATE, f"{type(error).__name__}: {error}")
        verdicts = {**check(calls, truth_of(problem), result_names(problem)), **failures}
    correct = {name: call for name, call in calls.items() if verdicts[name].gate != NO_GATE}
    return Verified(correct, {name: verdicts[name].gate for name in correct}, remarks_on(verdicts, workload))


def remarks_on(verdicts: dict[str, Verdict], workload: Workload) -> list[str]:
    what = {NO_GATE: "left out", LOOSE_GATE: "marked, within the loose bound only"}
    threads = torch.get_num_threads()
    return [
        f"{workload}, threads {threads}: {name} is {what[verdict.gate]}: {verdict.faults}"
        for name, verdict in verdicts.items()
        if verdict.gate in what
    ]


def bounds_of(workload: Workload) -> Bounds:
    return Bounds(peak_gflops=gemm_peak() / 1e9, floor_ms=floor_of(workload, gemm_peak(), read_bandwidth) * 1e3)
