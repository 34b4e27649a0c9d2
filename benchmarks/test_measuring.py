"""The measuring itself: rounds that alternate, a gate that closes, a registry whose results have their names."""

from __future__ import annotations

import math
from time import perf_counter

import pytest
import torch

from benchmarks.gate import WrongResult, check, truth_of
from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, result_names
from benchmarks.paired import SHORTEST_SAMPLE, paired
from benchmarks.workloads import Problem, Workload

SMALL = {
    kind + mode: Workload("small", kind, mode, ("fp32",), T=3, B=2, I=4, H=5, layers=layers, directions=directions)
    for kind, layers, directions in (("sequence", 2, 2), ("cell", 1, 1))
    for mode in ("infer", "train")
}


def busy(seconds: float) -> None:
    end = perf_counter() + seconds
    while perf_counter() < end:
        pass


def test_rounds_alternate_and_turn_around():
    order = []

    def call(name: str):
        def run() -> None:
            order.append(name)
            busy(SHORTEST_SAMPLE)

        return run

    samples = paired({"a": call("a"), "b": call("b")}, seconds=0, least_rounds=4)
    assert "".join(order[2:]) == "abbaabba"  # the first two find the number of repeats
    assert [len(rounds) for rounds in samples.values()] == [4, 4]


def test_a_short_call_is_repeated_and_its_time_is_per_call():
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        busy(SHORTEST_SAMPLE / 16)

    (times,) = paired({"short": call}, seconds=0, least_rounds=2).values()
    assert calls > 2 * 8
    assert SHORTEST_SAMPLE / 16 <= min(times) < SHORTEST_SAMPLE / 2


@pytest.mark.parametrize("workload", SMALL.values(), ids=SMALL)
def test_gate_is_open_for_the_baseline_itself(workload):
    names, baseline, truth = prepared(workload)
    check({BASELINE: baseline, "same": baseline}, truth, names)


@pytest.mark.parametrize("workload", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("wrong", [1e-3, math.nan])
def test_gate_closes_on_any_wrong_result(workload, wrong):
    names, baseline, truth = prepared(workload)
    for index, name in enumerate(names):

        def call(index: int = index) -> tuple[torch.Tensor, ...]:
            results = [result.detach().clone() for result in baseline()]
            results[index].view(-1)[-1] += wrong
            return tuple(results)

        with pytest.raises(WrongResult) as error:
            check({BASELINE: baseline, "wrong": call}, truth, names)
        assert f"wrong, {name}: rms error" in str(error.value)


def prepared(workload: Workload):
    problem = Problem.draw(workload, torch.float32, "cpu")
    return result_names(problem), IMPLEMENTATIONS[BASELINE].build(problem), truth_of(problem)
