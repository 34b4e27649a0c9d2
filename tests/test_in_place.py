"""Few rows, whose weights are read where they lie (csrc/cpu/weights.h), give results as right as nn.GRU's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from helpers import LOW_DTYPES, Case, assert_equal_to_reference, assert_gru_as_good, dtype_id

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

FEW = [  # on any machine; rows go together by four, three, two
    Case(T=1, B=2, I=5, H=37),
    Case(T=1, B=3, I=17, H=7, bidirectional=True),
    Case(T=1, B=6, I=1, H=130, bias=False),
    Case(T=2, B=7, I=33, H=20, layers=2, bidirectional=True, batch_first=True, hx=False),
    Case(T=1, B=13, I=16, H=50),
]
WIDE = [  # with AVX-512
    Case(T=1, B=17, I=900, H=150),
    Case(T=1, B=19, I=290, H=250, bidirectional=True),
    Case(T=1, B=39, I=31, H=600, bias=False, hx=False),
    Case(T=3, B=9, I=600, H=250, batch_first=True),
    Case(T=1, B=70, I=600, H=490),  # two tiles
]
CASES = FEW + WIDE


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_plan_packs_nothing(native: ModuleType, case: Case, threads: int) -> None:
    shape = dict(steps=case.T, batch=case.B, inputs=case.I, hidden=case.H, directions=case.directions)
    assert not native.plan(**shape, threads=threads, wide=case in WIDE)["packed"]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients_are_the_references(case: Case, threads: int) -> None:
    assert_equal_to_reference(case)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_are_as_good_as_nn_grus(case: Case, dtype: torch.dtype, threads: int) -> None:
    assert_gru_as_good(case, dtype, gradients=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_stay_apart(case: Case) -> None:
    """A NaN in one row is in no other, whatever rows go together."""
    rnn = case.module(gru_fused.GRU, torch.float32)
    x, hx = case.inputs(torch.float32)
    batch = 0 if case.batch_first else 1
    with torch.no_grad():
        right, _ = rnn(x, hx)
        for row in range(case.B):
            spoiled = x.clone()
            spoiled.select(batch, row).fill_(torch.nan)
            output, _ = rnn(spoiled, hx)
            assert output.select(batch, row).isnan().all()
            others = [other for other in range(case.B) if other != row]
            assert torch.equal(
                output.index_select(batch, torch.tensor(others)), right.index_select(batch, torch.tensor(others))
            )
