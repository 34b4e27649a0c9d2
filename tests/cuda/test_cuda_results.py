"""Results of every CUDA kernel, emulated: in float64 the reference's, else as near to them as nn.GRU's."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conftest import EmulatedOps
from helpers import (
    PACKED,
    Case,
    ReferenceGRU,
    assert_as_good_as,
    assert_equal_to_rounding,
    assert_gru_as_good,
    dtype_id,
    pooled,
    run,
    twin,
)
from torch import Tensor

import gru_fused
from gru_fused import reference

pytestmark = pytest.mark.usefixtures("poisoned")

# One CTA and many, one split and many, one tile of rows and many, the last ones partly filled; single steps.
SIZES = [
    Case(T=1, B=1, I=1, H=1),
    Case(T=1, B=19, I=3, H=33, bidirectional=True),
    Case(T=1, B=5, I=3, H=20, hx=False, bias=False),
    Case(lengths=(1, 1, 1), H=7, bidirectional=True),
    Case(T=5, B=9, I=3, H=7, bidirectional=True),
    Case(T=3, B=17, I=4, H=33, layers=2, hx=False),
    Case(T=4, B=1, I=3, H=130, bias=False),
    Case(T=3, B=5, I=4, H=96, bidirectional=True, batch_first=True),
    PACKED[3],
    Case(lengths=(4, 6, 1, 1, 5, 2, 2, 3, 6), H=33, bidirectional=True),
]
# More than the biases' gradients sum at once; in many steps, and in one.
MANY_ROWS = [Case(T=40, B=27, I=2, H=5), Case(T=1, B=600, I=2, H=5)]


@pytest.mark.parametrize("case", [*SIZES, *MANY_ROWS, Case(T=2, B=3, I=10, H=500)], ids=str)
def test_float64_is_the_references(case: Case, regime: str) -> None:
    ours = case.module(gru_fused.GRU)
    given, cotangents = case.inputs(), case.cotangents()
    truth = run(twin(ours, ReferenceGRU), *given, cotangents)
    assert_equal_to_rounding(run(ours, *given, cotangents), truth, eps=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=dtype_id)
@pytest.mark.parametrize("case", SIZES, ids=str)
def test_as_good_as_nn_grus(case: Case, dtype: torch.dtype, regime: str) -> None:
    assert_gru_as_good(case, dtype, gradients=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=dtype_id)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_tiny_and_saturating_values(scale: float, dtype: torch.dtype, emulated: EmulatedOps) -> None:
    assert_gru_as_good(Case(T=4, B=5, I=9, H=21, bias=False), dtype, gradients=True, scale=scale)


def to_tf32(x: Tensor) -> Tensor:
    """To the nearest number of 10 bits of fraction, ties away from zero."""
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


class Tf32Linear(torch.autograd.Function):
    """x w^T with both rounded to TF32, in the backward as in the forward."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return to_tf32(x) @ to_tf32(weight).T

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return to_tf32(grad) @ to_tf32(weight), grad.T @ x


def tf32_recurrence(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.dim() == 3:  # the input's product, which is torch's own
        return F.linear(x, weight, bias)
    product = Tf32Linear.apply(x, weight)
    return product if bias is None else product + bias


@pytest.mark.parametrize("case", [case for case in SIZES if case.lengths is None], ids=str)
@pytest.mark.parametrize("regime", ["row", "block", "cluster", "packets", "flags"], indirect=True)
def test_tf32_is_as_good_as_a_recurrence_with_rounded_operands(
    case: Case, regime: str, tf32: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs, truth = [], [], []
    for _ in range(8 if case.H > 1 else 32):
        rnn = case.module(gru_fused.GRU, torch.float32)
        given = case.inputs(torch.float32)
        compute = partial(run, cotangents=case.cotangents(torch.float32))
        ours.append(compute(rnn, *given))
        truth.append(compute(twin(rnn, ReferenceGRU, torch.float64), *given, dtype=torch.float64))
        with monkeypatch.context() as patched:
            patched.setattr(reference, "F", SimpleNamespace(linear=tf32_recurrence, dropout=F.dropout))
            theirs.append(compute(twin(rnn, ReferenceGRU), *given))
    assert_as_good_as(pooled(ours), pooled(theirs), pooled(truth))


def test_more_steps_than_a_kernel_counts_are_refused(emulated: EmulatedOps) -> None:
    steps = 2**31
    x = torch.zeros(1, 1, 1).expand(steps, 1, 1)  # takes no memory; the output is never touched
    weights = [torch.zeros(3, 1), torch.zeros(3, 1)]
    with pytest.raises(RuntimeError, match=r"expected fewer than 2147483647 steps.*got 2147483648"):
        emulated.ops.forward(x, torch.zeros(1, 1, 1), weights, False, False, None)


@pytest.mark.parametrize("case", MANY_ROWS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=dtype_id)
def test_sums_of_many_rows_are_as_good_as_nn_grus(case: Case, dtype: torch.dtype, emulated: EmulatedOps) -> None:
    """The biases' gradients alone: those of the weights are sums that torch's matrix product makes."""
    rnn = case.module(gru_fused.GRU, dtype)
    given = case.inputs(dtype)
    compute = partial(run, cotangents=case.cotangents(dtype))
    ours, theirs = compute(rnn, *given), compute(twin(rnn, torch.nn.GRU), *given)
    truth = compute(twin(rnn, ReferenceGRU, torch.float64), *given, dtype=torch.float64)
    names = [name for name in truth if "bias" in name]
    assert len(names) == 2
    assert_as_good_as(*({name: y[name] for name in names} for y in (ours, theirs, truth)))
