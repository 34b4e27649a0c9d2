"""A layer of one step, or a cell, that few rows take: one kernel makes its forward, few its backward, products too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import EmulatedOps
from helpers import (
    DTYPES,
    LOW_DTYPES,
    Case,
    ReferenceGRU,
    assert_as_good_as,
    assert_equal_to_rounding,
    assert_right_without_inputs,
    dtype_id,
    forward,
    pooled,
    run,
    twin,
)
from layouts import LAYOUTS, Layout
from torch import nn

import gru_fused
from gru_fused import functional

pytestmark = pytest.mark.usefixtures("poisoned", "emulated")

ONE = Case(T=1, B=3, I=4, H=6)
CASES = [
    Case(T=1, B=1, I=1, H=1),
    Case(T=1, B=1, I=130, H=33, bidirectional=True),
    Case(T=1, B=8, I=7, H=130),
    Case(T=1, B=11, I=16, H=32, bidirectional=True),  # read by sixteen bytes
    Case(T=1, B=2, I=264, H=8),
    Case(T=1, B=9, I=33, H=7, bidirectional=True, bias=False),
    Case(T=1, B=17, I=1, H=7, layers=3, bidirectional=True, batch_first=True, hx=False),
    Case(T=1, B=None, I=3, H=5, layers=2),
    Case(lengths=(1, 1, 1), bidirectional=True),
]


@pytest.fixture(autouse=True)
def wanted(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", "single")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients(case: Case) -> None:
    ours = case.module(gru_fused.GRU)
    given, cotangents = case.inputs(), case.cotangents()
    truth = run(twin(ours, ReferenceGRU), *given, cotangents)
    assert_equal_to_rounding(run(ours, *given, cotangents), truth, eps=1e-12)
    assert_equal_to_rounding(forward(ours, *given), {name: truth[name] for name in ("output", "h_n")}, eps=1e-12)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize(
    "case", [Case(T=1, B=9, I=33, H=130), Case(T=1, B=1, I=64, H=65), Case(T=1, B=6, I=64, H=128)], ids=str
)
def test_errors_are_no_larger_than_torchs(case: Case, dtype: torch.dtype) -> None:
    ours = case.module(gru_fused.GRU, dtype)
    given = case.inputs(dtype)
    truth = forward(twin(ours, ReferenceGRU, torch.float64), *given, dtype=torch.float64)
    assert_as_good_as(forward(ours, *given), forward(twin(ours, nn.GRU), *given), truth)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_a_cell(dtype: torch.dtype) -> None:
    cell = gru_fused.GRUCell(5, 33, dtype=dtype)
    theirs = nn.GRUCell(5, 33, dtype=torch.float64)
    theirs.load_state_dict(cell.state_dict())
    x, hx = torch.randn(10, 5, dtype=dtype), torch.randn(10, 33, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(cell(x, hx), theirs(x.double(), hx.double()).to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("argument", ["input", "hx"])
def test_strides_do_not_matter(argument: str, layout: Layout) -> None:
    ours = ONE.module(gru_fused.GRU)
    given = dict(zip(("input", "hx"), ONE.inputs(), strict=True))
    given[argument] = layout(given[argument])
    plain = forward(ours, *(y.contiguous() for y in given.values()))
    assert_equal_to_rounding(forward(ours, *given.values()), plain)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_there_are_no_other_kernels_and_no_products(emulated: EmulatedOps, bidirectional: bool) -> None:
    case = replace(ONE, bidirectional=bidirectional)
    rnn, before = case.module(gru_fused.GRU), emulated.stats.launches
    with torch.profiler.profile() as profile:
        output, h_n = rnn(*case.inputs())
        of_forward = emulated.stats.launches - before
        torch.autograd.backward((output, h_n), case.cotangents())
    assert of_forward == 1
    assert emulated.stats.launches - before == 1 + case.directions + 1  # the gates' gradients are one each
    assert not [event.name for event in profile.events() if event.name in ("aten::mm", "aten::addmm")]


@pytest.mark.parametrize("frozen", ["input", "weights", "biases"])
def test_only_the_wanted_gradients(frozen: str) -> None:
    case = replace(ONE, bias=frozen != "biases")
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    results = []
    for rnn in (ours, twin(ours, ReferenceGRU)):
        rnn.requires_grad_(frozen != "weights")
        data = x.clone().requires_grad_(frozen != "input")
        output, h_n = rnn(data, hx)
        wanted = [data] if frozen == "weights" else list(rnn.parameters())
        results.append(torch.autograd.grad([output.sin().sum() + h_n.cos().sum()], wanted))
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-14)


def test_gates_that_were_not_saved_are_made_again() -> None:
    given, cotangents = ONE.inputs(), ONE.cotangents()
    ours = ONE.module(gru_fused.GRU)
    saved = run(ours, *given, cotangents)
    ours.recompute = True
    assert_equal_to_rounding(run(ours, *given, cotangents), saved)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
def test_errors_of_gradients_are_no_larger_than_torchs(dtype: torch.dtype) -> None:
    case = Case(T=1, B=35, I=140, H=150)  # two tiles and more in each way
    ours, theirs, truth = [], [], []
    for _ in range(4):
        rnn, given, cotangents = case.module(gru_fused.GRU, dtype), case.inputs(dtype), case.cotangents(dtype)
        ours.append(run(rnn, *given, cotangents))
        theirs.append(run(twin(rnn, nn.GRU), *given, cotangents))
        truth.append(run(twin(rnn, ReferenceGRU, torch.float64), *given, cotangents, dtype=torch.float64))
    assert_as_good_as(pooled(ours), pooled(theirs), pooled(truth))


@pytest.mark.parametrize(
    "rows, inputs, products",
    [(1, 9, 0), (16, 9, 0), (2000, 9, 1), (900, 20_000, 1)],
    ids=["one_row", "few_rows", "many_rows", "many_inputs"],
)
def test_it_is_chosen_for_few_rows_of_few_inputs(
    monkeypatch: pytest.MonkeyPatch, rows: int, inputs: int, products: int
) -> None:
    monkeypatch.delenv("GRU_FUSED_CUDA_REGIME")
    given = torch.randn(rows, inputs), torch.randn(rows, 4), torch.randn(12, inputs), torch.randn(12, 4)
    with torch.no_grad(), torch.profiler.profile() as profile:
        functional.gru_cell(*given)
    names = [event.name for event in profile.events()]
    assert names.count("aten::mm") == products


def test_a_thread_that_remembers_plans_sees_what_changed(
    emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, x = gru_fused.GRUCell(9, 20), torch.randn(3, 9)
    found = []
    for wanted in ("single", "steps", "single", "block", "steps"):
        monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", wanted)
        with torch.no_grad(), torch.profiler.profile() as profile:
            cell(x)
        found.append([event.name for event in profile.events()].count("aten::mm"))
    assert found == [0, 2, 0, 1, 2]


def test_there_may_be_no_inputs() -> None:
    assert_right_without_inputs()


def test_more_steps_go_another_way(emulated: EmulatedOps) -> None:
    rnn = gru_fused.GRU(3, 5)
    before = emulated.stats.launches
    with torch.no_grad():
        rnn(torch.randn(4, 2, 3))
    assert emulated.stats.launches - before == 4
