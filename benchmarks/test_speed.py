"""Each implementation by itself, through pytest-benchmark: ``pytest benchmarks --benchmark-only -k word_lm``.

For profiling and for ``--benchmark-compare`` between two states of the code. A ratio of two implementations comes from
``python -m benchmarks``, which times them in turns.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.implementations import Call, installed
from benchmarks.measure import verified_calls
from benchmarks.paired import repeats_of
from benchmarks.workloads import Workload, read_workloads

ROUNDS = 10


@pytest.fixture(scope="module", params=read_workloads("cpu"), ids=str)
def verified(request: pytest.FixtureRequest) -> tuple[Workload, dict[str, Call]]:
    workload = request.param
    return workload, verified_calls(workload, "fp32", "cpu", [torch.get_num_threads()], installed())


@pytest.mark.parametrize("implementation", installed())
def test_speed(benchmark, verified: tuple[Workload, dict[str, Call]], implementation: str) -> None:
    workload, calls = verified
    call = calls[implementation]
    benchmark.group = str(workload)
    with torch.inference_mode(workload.mode == "infer"):
        benchmark.pedantic(call, rounds=ROUNDS, iterations=repeats_of(call))
