"""bfloat16 is as good as nn.GRU's however tiles cut it (csrc/cpu/tiles.h): rows, units and terms that fill none.

On a machine without AMX the same sizes go through the other kernels; there tests/test_sanitizers.py has the tiles, made
in loops.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import Case, assert_gru_as_good, data_of, leaf

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

CASES = [
    Case(T=9, B=5, I=600, H=33),  # more terms than one sum of the other kernels runs over
    Case(T=3, B=16, I=500, H=520),  # both weights together are beyond the second-level cache
    Case(T=40, B=1, I=7, H=130, bidirectional=True),
    Case(T=70, B=1, I=40, H=300),  # a team, on two threads
    Case(T=6, B=17, I=33, H=16, layers=2, bidirectional=True),  # one row of a second tile
    Case(T=5, B=33, I=64, H=48, bias=False),
    Case(T=4, B=80, I=1, H=31),  # two tiles of rows, and units that fill one but for one
    Case(T=9, B=64, I=544, H=64, batch_first=True),  # nothing is left over
    Case(T=1, B=48, I=100, H=130),  # the weights' gradients are made at once, in bfloat16
    Case(T=1, B=300, I=20, H=7),
    Case(lengths=(9, 8, 9, 7) * 9 + (2, 1), I=35, H=70, bidirectional=True),
    Case(lengths=(1, 30, 12), I=3, H=9),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients_are_as_good_as_nn_grus(case: Case, threads: int) -> None:
    assert_gru_as_good(case, torch.bfloat16, gradients=True)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_call_gives_the_same_bits_again(case: Case, threads: int) -> None:
    rnn = case.module(gru_fused.GRU, torch.bfloat16)
    x, hx = case.inputs(torch.bfloat16)
    cotangents = case.cotangents(torch.bfloat16)
    results = []
    for _ in range(2):
        rnn.zero_grad()
        output, h_n = rnn(x, hx)
        torch.autograd.backward((data_of(output), h_n), cotangents)
        results.append([data_of(output), h_n, *(p.grad for p in rnn.parameters())])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_a_row_that_is_not_finite_spoils_no_other(value: float) -> None:
    """Rows share tiles; and so do terms with the zeros that fill them up."""
    rnn = gru_fused.GRU(5, 9).bfloat16()
    x = torch.randn(6, 20, 5, dtype=torch.bfloat16)
    spoilt = x.clone()
    spoilt[2, 7] = value
    rest = [row for row in range(20) if row != 7]
    grads = []
    for data in (leaf(x), leaf(spoilt)):
        output, _ = rnn(data)
        output[:, rest].float().sum().backward()
        grads.append((output[:, rest].detach(), data.grad[:, rest]))
    for first, second in zip(*grads, strict=True):
        assert torch.equal(first, second) and first.isfinite().all()


@pytest.mark.parametrize("options", [{}, {"reset_after": False}, {"gate_activation": "hard_sigmoid"}], ids=str)
@pytest.mark.parametrize("argument", ["x", "hx"])
def test_an_infinity_saturates_gates_and_spoils_no_unit(options: dict[str, Any], argument: str) -> None:
    """Units that fill up a vector have weights of zero, and zero times infinity is not a number."""
    rnn = gru_fused.GRU(9, 21, **options).bfloat16()
    given = {"x": torch.randn(5, 20, 9).bfloat16(), "hx": torch.randn(1, 20, 21).bfloat16()}
    given[argument][0, 1, 3] = float("inf")
    with torch.no_grad():
        ours, _ = rnn(*given.values())
        truth, _ = copy.deepcopy(rnn).double()(*(y.double() for y in given.values()))
    assert torch.equal(ours.isnan(), truth.isnan())
    torch.testing.assert_close(ours.double(), truth, rtol=0.05, atol=0.05, equal_nan=True)
