"""The GPU benchmark without a GPU: its order of sizes, its floor, its rounds, its rows, tables and pictures."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as program
from benchmarks.gpu import cudnn_direct
from benchmarks.gpu import measure as measuring
from benchmarks.gpu.contestants import CONTESTANTS, DYNAMIC, STATIC, for_problem
from benchmarks.gpu.events import CpuClock, paired_parts
from benchmarks.gpu.heatmap import heatmap
from benchmarks.gpu.latency.summary import lines_of, summary
from benchmarks.gpu.limits import DEVICES, floor_of, step_of, ways
from benchmarks.gpu.measure import measure, row_of
from benchmarks.gpu.report import report
from benchmarks.gpu.rows import OK, Row, RowFile, Where, read_rows
from benchmarks.gpu.sizes import BATCH, HIDDEN, cases, grid, steps_of
from benchmarks.gpu.toolchain import HERE, Unavailable
from benchmarks.implementations import BASELINE, SUBJECT, Passes
from benchmarks.workloads import DTYPES, Problem, Workload

H200 = DEVICES["H200"]
AT = Where("NVIDIA H200", "580", "2.11", "13.0", "91900", "0.1.0", "abc", "3.12", "2026-01-31")
SMALL = Workload("H6_B2", "sequence", "train", ("fp32",), B=2, T=4, I=6, H=6, layers=1, directions=1)


def size(H: int, B: int) -> Workload:
    return Workload(f"H{H}_B{B}", "sequence", "train", tuple(DTYPES), B, steps_of(H, B), H, H, layers=1, directions=1)


def test_every_size_once_and_the_quick_ones_among_them():
    assert {(w.H, w.B) for w in grid()} == {(H, B) for H in HIDDEN for B in BATCH}
    assert len(grid()) == len(HIDDEN) * len(BATCH)
    assert set(cases(quick=True)) < set(cases())
    assert ("speech_encoder", "bf16") in {(workload.name, dtype) for workload, dtype in cases()}


def test_the_floor_is_the_best_of_the_ways():
    assert step_of(size(64, 1), "bf16", H200) == dict(ways(size(64, 1), "bf16", H200))["1 SMs"]
    large = dict(ways(size(1024, 16), "bf16", H200))
    assert "8 SMs" not in large  # 6 MB of weights don't fit 8 SMs
    assert step_of(size(1024, 16), "bf16", H200) == min(large.values()) < large["a kernel a step"]
    assert list(dict(ways(size(8192, 16), "fp32", H200))) == ["a kernel a step"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_floor_grows_with_all_that_makes_work(dtype):
    least = floor_of(size(256, 16), dtype, "both", H200)
    assert 0 < floor_of(size(256, 16), dtype, "infer", H200) < least
    for changes in ({"T": 512}, {"B": 4096}, {"I": 65536}, {"H": 2048}, {"layers": 2}):
        assert floor_of(replace(size(256, 16), **changes), dtype, "both", H200) > least, changes


def test_the_floor_is_not_below_the_arithmetic():
    for workload in (size(2048, 128), size(1024, 4096), replace(size(512, 128), layers=3, directions=2)):
        seconds = floor_of(workload, "bf16", "both", H200)
        assert seconds >= 0.99 * workload.gflop * 1e9 / H200.peaks["bf16"]


def test_rounds_turn_around_and_are_split_into_forward_and_backward():
    order = []

    def passes(name: str) -> Passes:
        return Passes(lambda: order.append(f"{name}f") or (name,), lambda results: order.append(f"{results[0]}b") or ())

    flushes = []
    samples = paired_parts(
        {"x": passes("x"), "y": passes("y")}, 0, CpuClock(), flush=lambda: flushes.append(1), least_rounds=3
    )
    assert "".join(order) == "xfxbyfyb" + "xfxbyfyb" + "yfybxfxb" + "xfxbyfyb"  # once untimed, then three rounds
    assert [len(rounds) for rounds in samples.values()] == [3, 3]
    assert len(flushes) == 6
    assert all(part >= 0 for rounds in samples.values() for pair in rounds for part in pair)


def test_a_row_of_each_part_and_contestant(monkeypatch):
    def refuse(problem: Problem, dtype: str) -> Passes:
        raise Unavailable("not on this device")

    monkeypatch.setitem(CONTESTANTS, STATIC, refuse)
    rows = measure(SMALL, "fp32", "cpu", True, ("warm", "cold"), 0, AT)
    assert len(rows) == 3 * 2 * 3  # parts, states of L2, contestants
    ours = [row for row in rows if row.implementation == SUBJECT]
    assert all(row.status == OK and row.us_step > 0 and row.rounds >= 7 for row in ours)
    assert all(row.floor_us_step and row.floor_share for row in ours)
    refused = [row for row in rows if row.implementation == STATIC]
    assert {row.status for row in refused} == {"refused: not on this device"}
    assert all(row.us_step is None and row.ratio is None for row in refused)


@pytest.mark.parametrize("wrong", [SUBJECT, STATIC])
def test_who_is_wrong_is_not_timed(monkeypatch, wrong):
    right = CONTESTANTS[BASELINE]

    def off(problem: Problem, dtype: str) -> Passes:
        return Passes(lambda: tuple(1.001 * y for y in right(problem, dtype)()), None)

    monkeypatch.setitem(CONTESTANTS, STATIC, right)
    monkeypatch.setitem(CONTESTANTS, wrong, off)
    rows = {row.implementation: row for row in measure(SMALL, "fp32", "cpu", True, ("warm",), 0, AT)}
    assert rows[wrong].status.startswith("wrong: output: rms error")
    assert rows[wrong].us_step is None
    assert all(row.status == OK for name, row in rows.items() if name != wrong)


def test_nothing_is_timed_where_nn_gru_fails(monkeypatch):
    def fail(problem: Problem, dtype: str) -> Passes:
        raise RuntimeError("out of memory")

    monkeypatch.setitem(CONTESTANTS, BASELINE, fail)
    monkeypatch.setattr(measuring, "for_problem", lambda *_: [SUBJECT, BASELINE])
    rows = measure(SMALL, "fp32", "cpu", True, ("warm",), 0, AT)
    assert {row.status for row in rows} == {
        "failed: RuntimeError: out of memory",
        "refused: not judged, as nn.GRU failed",
    }


def test_the_dynamic_algorithm_gets_a_few_sizes():
    def problem(batch: int) -> Problem:
        return Problem.draw(replace(SMALL, B=batch), torch.float32, "cpu")

    assert DYNAMIC in for_problem(problem(16), of_grid=True)
    assert DYNAMIC not in for_problem(problem(1), of_grid=True)
    assert DYNAMIC not in for_problem(problem(16), of_grid=False)


def fake_rows() -> list[Row]:
    """As a GPU would give them, with made-up times; H128 in bf16 is refused by the peer."""
    rows = []
    for H in (128, 256):
        for B in (1, 16):
            for dtype in ("fp32", "bf16"):
                seconds = {SUBJECT: 1e-4, BASELINE: 3e-4, STATIC: 2e-4}
                samples = {name: [(time, 2 * time)] * 3 for name, time in seconds.items()}
                status = dict.fromkeys(samples, OK)
                if (H, dtype) == (128, "bf16"):
                    del samples[STATIC]
                    status[STATIC] = "refused: CUDNN_STATUS_NOT_SUPPORTED"
                for part in ("forward", "backward", "both"):
                    case = size(H, B)
                    rows += [
                        row_of(case, dtype, part, "warm", name, status, samples, "one plan", AT) for name in status
                    ]
    return rows


def test_rows_tables_and_pictures(tmp_path: Path):
    file = RowFile(tmp_path / "out" / "rows.csv")
    file.add(fake_rows())
    file.close()
    rows = read_rows(file.path)
    assert list(rows[0]) == [field.name for field in fields(Row)]
    assert set(asdict(AT)) < set(rows[0])

    text = report(rows)
    (cells,) = [line.split() for line in text.splitlines() if line.startswith("H256_B16")]
    assert cells == ["H256_B16", "1.172", "3.00", "2.00", "1.172", "3.00", "2.00"]  # 0.3 ms over 256 steps
    (refused,) = [line.split() for line in text.splitlines() if line.startswith("H128_B1 ")]
    assert refused[-1] == "-"
    assert f"{STATIC}, 6 rows: refused: CUDNN_STATUS_NOT_SUPPORTED" in text

    assert heatmap(rows, tmp_path / "ratio.png")
    assert (tmp_path / "ratio.png").stat().st_size > 10_000
    assert not heatmap(rows, tmp_path / "none.png", l2="cold")


def test_the_whole_program_in_rehearsal(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(program, "cases", lambda quick: [(SMALL, "fp32"), (SMALL, "bf16")])
    options = ["--device", "cpu", "--quick", "--each", "0", "--l2", "warm", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *options])
    threads = torch.get_num_threads()
    try:
        assert program.main() == 0
    finally:
        torch.set_num_threads(threads)
    rows = read_rows(tmp_path / "rows.csv")
    assert all(row["device"].startswith("REHEARSAL") and row["floor_us_step"] == "" for row in rows)
    assert {row["part"] for row in rows} == {"infer", "forward", "backward", "both"}
    assert (tmp_path / "report.txt").read_text() in capsys.readouterr().out
    assert (tmp_path / "ratio_warm.png").exists()


def test_cudnn_is_unavailable_by_name():
    if torch.cuda.is_available():
        pytest.skip("this machine may have it")
    with pytest.raises(Unavailable, match=r"cuDNN|nvcc|CUDNN"):
        cudnn_direct.build("PERSIST_STATIC", Problem.draw(SMALL, torch.float32, "cpu"), "fp32")


def test_both_sides_of_the_c_interface_agree():
    """Spec and Buffers have the same fields in the same order in Python and in C++."""
    source = (HERE / "cudnn_direct.cpp").read_text()
    for name, expected in (("Spec", cudnn_direct.FIELDS), ("Buffers", cudnn_direct.BUFFERS)):
        body = re.search(rf"struct {name} {{(.*?)\n}};", source, re.S)[1]
        lists = re.findall(r"(?:int32_t|void)\*? ([^;]*);", re.sub(r"//.*", "", body))
        assert tuple(field.strip(" *") for fields in lists for field in fields.split(",")) == expected


def test_weights_find_their_places():
    """Each gate's matrix and bias goes to the offset that cuDNN names; an order other than nn.GRU's is refused."""
    w = replace(SMALL, layers=2, directions=2, I=5)
    problem = Problem.draw(w, torch.float32, "cpu")
    direct = cudnn_direct.Direct.__new__(cudnn_direct.Direct)
    direct.problem, direct.plan = problem, None
    offsets, end = [], 0
    starts = {}  # of weight_ih, weight_hh, bias_ih, bias_hh of each pseudo layer
    for pseudo in range(4):
        for kind, columns in (("weight_ih", 5 if pseudo < 2 else 12), ("weight_hh", 6), ("bias_ih", 1), ("bias_hh", 1)):
            starts[pseudo, kind] = [end + 4 * 6 * columns * gate for gate in range(3)]
            end += 4 * 6 * columns * 3
        for of in ("ih", "hh"):
            pairs = zip(starts[pseudo, f"weight_{of}"], starts[pseudo, f"bias_{of}"], strict=True)
            offsets += [offset for pair in pairs for offset in pair]
    space = torch.zeros(end, dtype=torch.uint8)
    for name, place in direct.parameters(space, offsets, torch.float32).items():
        place.copy_(problem.weights[name])
    start = starts[3, "weight_hh"][1]  # second layer, backwards, gate z
    found = space[start : start + 4 * 36].view(torch.float32).view(6, 6)
    assert torch.equal(found, problem.weights["weight_hh_l1_reverse"][6:12])
    start = starts[0, "bias_ih"][2]
    assert torch.equal(space[start : start + 24].view(torch.float32), problem.weights["bias_ih_l0"][12:])
    with pytest.raises(Unavailable, match="another order"):
        direct.parameters(space, offsets[::-1], torch.float32)


def test_latency_lines_become_a_summary():
    text = """
{"test":"device","name":"a GPU","sms":132,"measured_mhz":1980,"max_mhz":1980,"driver":13000}
{"test":"grid_sync","ctas":132,"us":1.1,"bad":0,"timeouts":0}
{"test":"hop","method":"relaxed","us":1.0,"bad":0,"timeouts":0}
{"test":"hop","method":"stale","us":0.1,"bad":7,"timeouts":0}
{"test":"cluster_exchange","method":"st.async","cluster":8,"clusters":1,"bytes_each":256,"us":0.9,"bad":0,"timeouts":0}
{"test":"cluster_exchange","method":"st.async","cluster":16,"bytes_each":256,"error":"no cluster fits"}
{"test":"grid_sync","ct"""
    lines = lines_of(text)
    assert len(lines) == 6  # the one cut by a limit is left out
    said = summary(lines)
    assert "132 CTAs 1.10" in said and "relaxed 0.50" in said and "256: 0.90" in said
    assert "stale" not in said  # what is wrong has no time
