"""Ours and nn.GRU on the same device, both judged by nn.GRU in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from helpers import (
    Case,
    Input,
    Results,
    assert_as_good_as,
    assert_equal_to_rounding,
    forward,
    pooled,
    run,
    twin,
)
from torch import Tensor, nn

import gru_fused


def on(device: torch.device, x: Input, hx: Tensor | None) -> tuple[Input, Tensor | None]:
    return x.to(device), None if hx is None else hx.to(device)


def on_cpu(results: Results) -> Results:
    return {name: result.cpu() for name, result in results.items()}


def assert_as_good_on(
    device: torch.device, case: Case, dtype: torch.dtype, *, gradients: bool, draws: int | None = None
) -> None:
    """The error is at most twice that of nn.GRU on the device (helpers.assert_as_good_as); float64: only rounding."""
    ours, theirs, truth = [], [], []
    for _ in range(draws or (8 if case.H > 1 else 32)):  # the error of a handful of numbers is luck
        rnn = case.module(gru_fused.GRU, dtype)
        given = case.inputs(dtype)
        cotangents = case.cotangents(dtype)
        truth.append(computed(gradients, cotangents)(twin(rnn, nn.GRU, torch.float64), *given, dtype=torch.float64))
        there = on(device, *given)
        compute = computed(gradients, tuple(c.to(device) for c in cotangents))
        theirs.append(on_cpu(compute(twin(rnn, nn.GRU).to(device), *there)))
        ours.append(on_cpu(compute(rnn.to(device), *there)))
    if dtype == torch.float64:
        assert_equal_to_rounding(pooled(ours), pooled(truth), eps=1e-12)
    else:
        assert_as_good_as(pooled(ours), pooled(theirs), pooled(truth))


def computed(gradients: bool, cotangents: tuple[Tensor, ...]) -> Callable[..., Results]:
    return partial(run, cotangents=cotangents) if gradients else forward
