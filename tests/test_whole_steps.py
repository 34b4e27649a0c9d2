"""Steps that make their input projection themselves (csrc/cpu/plan.cpp) give results as right as nn.GRU's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from helpers import (
    LOW_DTYPES,
    Case,
    assert_equal_to_reference,
    assert_gru_as_good,
    data_of,
    dtype_id,
)
from torch.nn.utils.rnn import PackedSequence

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

CASES = [
    Case(T=5, B=33, I=20, H=300, bidirectional=True),  # more units than one sum runs over
    Case(T=3, B=35, I=290, H=9, bidirectional=True),  # more inputs
    Case(T=7, B=70, I=33, H=21, layers=2, bidirectional=True, batch_first=True, hx=False, bias=False),  # two tiles
    Case(T=1, B=21, I=7, H=70),
    Case(lengths=(8, 7, 6, 8) * 6, I=9, H=33, bidirectional=True),
    Case(lengths=(9, 8, 9, 7) * 5 + (2, 1), I=5, H=70, bidirectional=True, layers=2),  # down to few rows
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_plan_has_whole_steps(native: ModuleType, case: Case, threads: int) -> None:
    x, _ = case.inputs()
    shape = dict(steps=case.T, batch=case.B, inputs=case.I, hidden=case.H, directions=case.directions)
    if isinstance(x, PackedSequence):
        sizes = x.batch_sizes.tolist()
        shape |= dict(steps=len(sizes), batch=sizes[0], batch_sizes=sizes)
    assert native.plan(**shape, threads=threads)["whole"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients_are_the_references(case: Case, threads: int) -> None:
    assert_equal_to_reference(case)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_are_as_good_as_nn_grus(case: Case, dtype: torch.dtype, threads: int) -> None:
    assert_gru_as_good(case, dtype, gradients=False)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_gives_the_same_bits_again(case: Case, threads: int) -> None:
    rnn = case.module(gru_fused.GRU, torch.float32)
    x, hx = case.inputs(torch.float32)
    with torch.no_grad():
        first, second = rnn(x, hx), rnn(x, hx)
    assert torch.equal(data_of(first[0]), data_of(second[0])) and torch.equal(first[1], second[1])
