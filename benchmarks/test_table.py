"""The tables and the picture that are made of results."""

from __future__ import annotations

import pytest

from benchmarks.gate import LOOSE_GATE, STRICT_GATE
from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, SUBJECT
from benchmarks.machine import Machine
from benchmarks.plot import plot
from benchmarks.results import Bounds, Result, append_to_file, start_file, summarize
from benchmarks.table import table
from benchmarks.workloads import Workload

MACHINE = Machine(device="a CPU", torch="2", gru_fused="1", python="3", date="2026-01-31")
SECONDS = {SUBJECT: 0.01, BASELINE: 0.03, "a peer": 0.005}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(IMPLEMENTATIONS, "a peer", IMPLEMENTATIONS[BASELINE])


def results_of(name: str, threads: int, seconds: dict[str, float], bounds: Bounds | None) -> list[Result]:
    workload = Workload(name, "sequence", "infer", ("fp32",), B=1, T=100, I=10, H=10, layers=1, directions=1)
    gates = dict.fromkeys(seconds, STRICT_GATE) | {"a peer": LOOSE_GATE}
    samples = {implementation: [time] * 3 for implementation, time in seconds.items()}
    return summarize(samples, workload, "fp32", threads, gates, bounds, MACHINE)


def some_results() -> list[Result]:
    without_peer = {SUBJECT: 0.004, BASELINE: 0.03}
    return [
        *results_of("lost", 1, SECONDS, Bounds(peak_gflops=1.0, floor_ms=2.0)),
        *results_of("won", 1, without_peer, Bounds(peak_gflops=1.0, floor_ms=2.0)),
        *results_of("won", 2, {**without_peer, SUBJECT: 0.002}, None),
    ]


def cells(text: str, start: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.startswith(start)]


def test_row_has_its_share_of_the_peak_its_floor_and_the_others():
    rows, *_ = table(some_results()).split("\n\n")
    (lost,) = cells(rows, "lost")
    # 120 kflop in 10 ms; the floor is 2 ms; nn.GRU takes 3x, the peer half; marked
    assert lost[9:] == ["10", "-", "0.0", "1.2", "5.00", "3.00", "0.50~"]
    one, two = cells(rows, "won")
    assert one[9:] == ["4", "-", "0.0", "3.0", "2.00", "7.50", "-"]
    assert two[9:] == ["2", "2.00", "0.1", "-", "-", "15.00", "-"]  # twice as fast on two threads
    assert "~: within the loose bound only" in rows


def test_means_are_geometric_and_over_the_best_of_the_others():
    _, means, lost = table(some_results()).split("\n\n")
    group = [line.split() for line in means.splitlines()[1:] if line.split()[2] == "1"]
    # rows, nn.GRU/it, it/gru_fused, ms/floor, rows lost
    ours, baseline, peer, best = (line[-5:] for line in group)
    assert ours == ["2", "4.74", "1.00", "3.16", "0"]
    assert baseline == ["2", "1.00", "4.74", "15.00", "0"]
    assert peer == ["1", "6.00", "0.50", "2.50", "1"]
    assert best == ["2", "2.45", "1.94", "6.12", "1"]
    assert lost.startswith(f"{SUBJECT} is the fastest in 2 of 3 rows.")
    assert cells(lost, "lost")[0][-3:] == ["a", "peer", "0.50~"]


def test_file_and_picture(tmp_path):
    results = some_results()
    path = tmp_path / "out" / "results.csv"
    start_file(path)
    append_to_file(results, path)
    head, first, *others = path.read_text().splitlines()
    assert len(head.split(",")) == len(first.split(","))
    assert len(others) == len(results) - 1
    assert others[-1].split(",")[head.split(",").index("floor_ms")] == ""
    plot(results, tmp_path / "speedup.png")
    assert (tmp_path / "speedup.png").stat().st_size > 10_000
