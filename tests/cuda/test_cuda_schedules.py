"""Whichever threads run first, the results are the same bits."""

from __future__ import annotations

import pytest
import torch
from conftest import EmulatedOps
from helpers import Case, ReferenceGRU, dtype_id, run, twin

import gru_fused

SCHEDULES = [("fifo", 1), ("lifo", 1), *(("random", seed) for seed in range(1, 11))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
@pytest.mark.parametrize(
    "case",
    [
        Case(T=6, B=9, I=3, H=40, bidirectional=True),  # several splits and row tiles
        Case(T=6, B=3, I=3, H=96),  # several CTAs of a team, one of them with fewer groups
        Case(lengths=(6, 1, 3, 3), H=50, bidirectional=True),
    ],
    ids=str,
)
def test_results_do_not_depend_on_the_schedule(
    case: Case, dtype: torch.dtype, regime: str, emulated: EmulatedOps
) -> None:
    rnn = case.module(gru_fused.GRU, dtype)
    given, cotangents = case.inputs(dtype), case.cotangents(dtype)
    first = None
    for order, seed in SCHEDULES:
        for late in (True, False) if order == "fifo" else (True,):
            emulated.schedule(order, seed, late)
            results = run(rnn, *given, cotangents)
            first = first or results
            for name, y in results.items():
                assert torch.equal(y, first[name]), f"{name} differs with {order} {seed}, late={late}"


def test_a_row_does_not_depend_on_the_batch_around_it(regime: str, emulated: EmulatedOps) -> None:
    """A tile more or less does not change how a row's products are summed."""
    case = Case(T=4, B=19, I=3, H=40)
    rnn = case.module(gru_fused.GRU, torch.float32)
    x, hx = case.inputs(torch.float32)
    with torch.no_grad():
        whole, _ = rnn(x, hx)
        alone, _ = rnn(x[:, :2].contiguous(), hx[:, :2].contiguous())
    if regime == "steps":  # torch's product may sum in another order
        torch.testing.assert_close(alone, whole[:, :2])
    else:
        assert torch.equal(alone, whole[:, :2])


def test_a_group_without_units_keeps_up(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> None:
    """9 groups of units for 2 CTAs of 5: the tenth has nothing to send, and no barrier of the CTA holds its warp."""
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", "cluster")
    monkeypatch.setenv("GRU_FUSED_CUDA_CUT", "5x1")
    case = Case(T=12, B=3, I=2, H=130)
    rnn = case.module(gru_fused.GRU, torch.float32)
    given, cotangents = case.inputs(torch.float32), case.cotangents(torch.float32)
    emulated.device(90, sms=2)
    truth = run(twin(rnn, ReferenceGRU), *given, cotangents)
    for order, seed in SCHEDULES:
        emulated.schedule(order, seed)
        for name, y in run(rnn, *given, cotangents).items():
            torch.testing.assert_close(y, truth[name], msg=f"{name} with {order} {seed}")
