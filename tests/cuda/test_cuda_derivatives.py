"""Second derivatives and forward mode on the CUDA kernels, emulated; they have single steps only."""

from __future__ import annotations

import pytest
import torch
from helpers import Case, data_of, with_data
from torch.autograd import forward_ad

import gru_fused

pytestmark = pytest.mark.usefixtures("emulated")

CASES = [
    Case(T=3, B=2, I=2, H=3),
    Case(T=2, B=1, I=2, H=18, bias=False, bidirectional=True),
    Case(lengths=(2, 3, 1), I=2, H=3, bidirectional=True),
]


def as_function(case: Case) -> tuple[object, list[torch.Tensor]]:
    """The module as a function of its input, hx and parameters, and these."""
    rnn = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    names, parameters = zip(*rnn.named_parameters(), strict=True)

    def call(data: torch.Tensor, hx: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = (with_data(x, data), hx)
        output, h_n = torch.func.functional_call(rnn, dict(zip(names, values, strict=True)), given)
        return data_of(output), h_n

    return call, [y.detach().clone().requires_grad_() for y in (data_of(x), hx, *parameters)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_derivatives(case: Case) -> None:
    call, leaves = as_function(case)
    assert torch.autograd.gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_mode(case: Case) -> None:
    call, leaves = as_function(case)
    assert torch.autograd.gradcheck(call, leaves, check_forward_ad=True, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_near(dtype: torch.dtype) -> None:
    rnn = gru_fused.GRU(3, 20, dtype=torch.float64)
    x, x_t = torch.randn(4, 2, 3, dtype=dtype), torch.randn(4, 2, 3, dtype=dtype)

    def tangent(dtype: torch.dtype) -> torch.Tensor:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(rnn.to(dtype)(forward_ad.make_dual(x.to(dtype), x_t.to(dtype)))[0]).tangent

    near = tangent(dtype).double()
    rnn.to(dtype)
    truth = tangent(torch.float64)
    assert (near - truth).abs().max() <= 32 * torch.finfo(dtype).eps * truth.abs().max()
