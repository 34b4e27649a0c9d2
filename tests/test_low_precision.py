"""Tangents and second derivatives in float32, bfloat16 and float16: no worse than a plain loop in the same dtype.

Both are judged by float64 on the same rounded numbers. First derivatives: tests/test_backward.py, against nn.GRU.
"""

from __future__ import annotations

import pytest
import torch
from helpers import (
    LOW_DTYPES,
    Case,
    Input,
    ReferenceGRU,
    Results,
    assert_as_good_as,
    data_of,
    dtype_id,
    leaf,
    pooled,
    twin,
    with_data,
)
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

CASES = [
    Case(T=7, B=3, I=4, H=7),
    Case(T=1, B=17, I=33, H=32, bidirectional=True, bias=False),
    Case(T=5, B=2, I=3, H=33, layers=2, bidirectional=True),
    Case(T=3, B=17, I=4, H=130),
    Case(T=63, B=2, I=3, H=9),
    Case(lengths=(1, 7, 4, 4, 2), I=5, H=33, bidirectional=True),
]
Numbers = tuple[Tensor, ...]


def derivatives(rnn: nn.Module, x: Input, leaves: Numbers, along: Numbers, cotangents: Numbers) -> Results:
    """Every tangent of the results and of the gradients along a direction, in the dtype of the module."""
    dtype = rnn.weight_hh_l0.dtype
    names = [name for name, _ in rnn.named_parameters()]
    leaves, along, cotangents = (tuple(y.to(dtype) for y in numbers) for numbers in (leaves, along, cotangents))

    def function(data: Tensor, hx: Tensor, *weights: Tensor) -> Numbers:
        output, h_n = functional_call(rnn, dict(zip(names, weights, strict=True)), (with_data(x, data), hx))
        return data_of(output), h_n

    _, tangents = jvp(function, leaves, along)
    _, forward_over_reverse = jvp(lambda *y: vjp(function, *y)[1](cotangents), leaves, along)
    given = [leaf(y) for y in leaves]
    gradients = torch.autograd.grad(function(*given), given, cotangents, create_graph=True)
    double_backward = torch.autograd.grad(gradients, given, along)

    wanted = ["x", "hx", *names]
    results = {f"tangent of {name}": y for name, y in zip(("output", "h_n"), tangents, strict=True)}
    for kind, found in (("jvp of grad", forward_over_reverse), ("double backward", double_backward)):
        results |= {f"{kind}, {name}": y for name, y in zip(wanted, found, strict=True)}
    return results


def draws(case: Case, dtype: torch.dtype) -> tuple[Results, Results, Results]:
    ours, theirs, truth = [], [], []
    for _ in range(8):
        rnn = case.module(gru_fused.GRU, dtype)
        x, hx = case.inputs(dtype)
        leaves = (data_of(x), hx, *(p.detach() for p in rnn.parameters()))
        given = x, leaves, tuple(torch.randn_like(y) for y in leaves), case.cotangents(dtype)
        ours.append(derivatives(rnn, *given))
        theirs.append(derivatives(twin(rnn, ReferenceGRU), *given))
        truth.append(derivatives(twin(rnn, ReferenceGRU, torch.float64), *given))
    return pooled(ours), pooled(theirs), pooled(truth)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_second_order_is_as_good_as_the_loop(case: Case, dtype: torch.dtype) -> None:
    assert_as_good_as(*draws(case, dtype))
