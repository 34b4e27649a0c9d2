"""Numerical gradients of every argument through the CUDA kernels, emulated."""

from __future__ import annotations

import pytest
import torch
from helpers import Case, data_of, with_data

import gru_fused

CASES = [
    Case(T=3, B=2, I=2, H=3),
    Case(T=2, B=5, I=2, H=18, bias=False),
    Case(T=2, B=1, I=2, H=3, layers=2, bidirectional=True),
    Case(lengths=(2, 3, 1), I=2, H=3, bidirectional=True),
]


@pytest.mark.parametrize("recompute", [False, True], ids=["saved", "recomputed"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_of_every_argument(case: Case, recompute: bool, regime: str) -> None:
    rnn = case.module(gru_fused.GRU)
    rnn.recompute = recompute
    x, hx = case.inputs()
    names, parameters = zip(*rnn.named_parameters(), strict=True)

    def call(data: torch.Tensor, hx: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = (with_data(x, data), hx)
        output, h_n = torch.func.functional_call(rnn, dict(zip(names, values, strict=True)), given)
        return data_of(output), h_n

    leaves = [y.detach().clone().requires_grad_() for y in (data_of(x), hx, *parameters)]
    assert torch.autograd.gradcheck(call, leaves, fast_mode=True)


def test_gradients_of_a_cell(regime: str) -> None:
    cell = gru_fused.GRUCell(3, 5, dtype=torch.float64)
    names, parameters = zip(*cell.named_parameters(), strict=True)

    def call(x: torch.Tensor, hx: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(cell, dict(zip(names, values, strict=True)), (x, hx))

    x, hx = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    leaves = [y.detach().clone().requires_grad_() for y in (x, hx, *parameters)]
    assert torch.autograd.gradcheck(call, leaves)
