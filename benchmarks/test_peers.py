"""The peers compute what nn.GRU does, are judged by the looser gate, and one that fails costs its own row only."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.gate import LOOSE_GATE, NO_GATE, STRICT_GATE, WrongResult, check, truth_of
from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, SUBJECT, Implementation, result_names
from benchmarks.measure import verified
from benchmarks.test_measuring import SMALL
from benchmarks.workloads import Problem

PEERS = [name for name, implementation in IMPLEMENTATIONS.items() if implementation.peer]


@pytest.mark.parametrize("workload", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("name", PEERS)
def test_peer_passes_the_strict_gate(name, workload):
    peer = IMPLEMENTATIONS[name]
    if not peer.installed:
        pytest.skip(f"{name} needs {' and '.join(peer.packages)}")
    if not peer.fits(workload, "fp32", "cpu"):
        pytest.skip(f"{name} does not {workload.mode}")
    _, gates, remarks = verified(workload, "fp32", "cpu", [BASELINE, name])
    assert (gates, remarks) == ({BASELINE: STRICT_GATE, name: STRICT_GATE}, [])


@pytest.mark.parametrize(
    ("error", "gate"), [(0.0, STRICT_GATE), (5e-5, LOOSE_GATE), (5e-4, NO_GATE), (math.nan, NO_GATE)]
)
def test_gates_of_a_peer(error, gate):
    problem = Problem.draw(SMALL["sequenceinfer"], torch.float32, "cpu")
    baseline = IMPLEMENTATIONS[BASELINE].build(problem)

    def call() -> tuple[torch.Tensor, ...]:
        return tuple((1 + error) * result.detach() for result in baseline())

    names, truth = result_names(problem), truth_of(problem)
    verdicts = check({BASELINE: baseline, PEERS[0]: call}, truth, names)
    assert verdicts[PEERS[0]].gate == gate
    if gate != STRICT_GATE:
        assert "output: rms error" in verdicts[PEERS[0]].faults
        with pytest.raises(WrongResult):
            check({BASELINE: baseline, SUBJECT: call}, truth, names)


def test_a_peer_that_fails_or_is_wrong_is_left_out_by_name(monkeypatch):
    def failing(problem: Problem):
        raise NotImplementedError("no such layer")

    def wrong(problem: Problem):
        return lambda: (torch.zeros(1),)

    for name, build in (("failing", failing), ("wrong", wrong)):
        monkeypatch.setitem(IMPLEMENTATIONS, name, Implementation(("torch",), build, peer=True))
    calls, gates, remarks = verified(SMALL["cellinfer"], "fp32", "cpu", [BASELINE, "wrong", "failing"])
    assert list(calls) == list(gates) == [BASELINE]
    assert any("wrong is left out: 1 results, not 4" in remark for remark in remarks)
    assert any("failing is left out: NotImplementedError: no such layer" in remark for remark in remarks)


def test_peers_are_for_float32_on_a_cpu():
    workload = SMALL["sequenceinfer"]
    for name in PEERS:
        fits = IMPLEMENTATIONS[name].fits
        assert fits(workload, "fp32", "cpu")
        assert not fits(workload, "bf16", "cpu")
        assert not fits(workload, "fp32", "cuda")
