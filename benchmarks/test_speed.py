"""Each implementation by itself, through pytest-benchmark: ``pytest benchmarks --benchmark-only -k word_lm``.

For profiling and for ``--benchmark-compare`` between two states of the code. A ratio of two implementations comes from
``python -m benchmarks``, which times them in turns.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.implementations import installed
from benchmarks.measure import Verified, verified
from benchmarks.paired import repeats_of
from benchmarks.workloads import Workload, read_workloads

ROUNDS = 10


@pytest.fixture(scope="module", params=read_workloads("cpu"), ids=str)
def prepared(request: pytest.FixtureRequest) -> tuple[Workload, Verified]:
    return request.param, verified(request.param, "fp32", "cpu", installed())


@pytest.mark.parametrize("implementation", installed())
def test_speed(benchmark, prepared: tuple[Workload, Verified], implementation: str) -> None:
    workload, (calls, _, remarks) = prepared
    if implementation not in calls:
        pytest.skip("; ".join(remarks) or f"{implementation} does not do {workload.mode}")
    call = calls[implementation]
    benchmark.group = str(workload)
    with torch.inference_mode(workload.mode == "infer"):
        benchmark.pedantic(call, rounds=ROUNDS, iterations=repeats_of(call))
