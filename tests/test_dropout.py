"""Dropout: between layers, in training, drawn from torch's generator as nn.GRU draws it."""

from __future__ import annotations

import pytest
import torch
from helpers import PACKED, Case, assert_equal_to_rounding, data_of, forward, run, twin
from torch import nn

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

CASES = [
    Case(layers=2),
    Case(layers=3, bidirectional=True),
    Case(layers=2, batch_first=True),
    Case(layers=2, bidirectional=True, B=None),
    Case(layers=3, B=0),
    *(case for case in PACKED if case.layers > 1),
]


def with_dropout(case: Case, p: float) -> gru_fused.GRU:
    rnn = case.module(gru_fused.GRU)
    rnn.dropout = p
    return rnn


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_seed_same_results_and_gradients_as_nn_gru(case: Case, p: float) -> None:
    ours = with_dropout(case, p)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    results = []
    for rnn in (ours, twin(ours, nn.GRU)):
        torch.manual_seed(7)
        results.append(run(rnn, x, hx, cotangents))
        results[-1]["next number"] = torch.rand(1, dtype=torch.float64)
    assert_equal_to_rounding(*results, eps=1e-12)


def test_training_only() -> None:
    ours = with_dropout(CASES[1], 0.5)
    x, hx = CASES[1].inputs()
    without = twin(ours, gru_fused.GRU)
    without.dropout = 0.0
    plain = forward(without, x, hx)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    assert_equal_to_rounding(forward(ours.eval(), x, hx), plain, eps=0)
    assert torch.equal(torch.get_rng_state(), state), "evaluation drew random numbers"
    assert not torch.equal(forward(ours.train(), x, hx)["output"], plain["output"])


def test_same_seed_same_dropout_another_seed_another() -> None:
    ours = with_dropout(CASES[1], 0.5)
    x, hx = CASES[1].inputs()

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return forward(ours, x, hx)["output"]

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))


def test_each_call_draws_anew() -> None:
    ours = with_dropout(CASES[0], 0.5)
    x, hx = CASES[0].inputs()
    assert not torch.equal(forward(ours, x, hx)["output"], forward(ours, x, hx)["output"])


def test_dropout_may_change_later() -> None:
    ours = gru_fused.GRU(4, 6, 2, dropout=0.5)
    x = torch.randn(5, 3, 4)
    ours.dropout = 0.0
    first = ours(x)[0]
    assert torch.equal(first, ours(x)[0])
    ours.dropout = 0.5
    assert not torch.equal(first, ours(x)[0])


def test_first_layer_and_last_output_are_untouched() -> None:
    ours = with_dropout(CASES[0], 0.5)
    x, hx = CASES[0].inputs()
    trained, evaluated = forward(ours.train(), x, hx), forward(ours.eval(), x, hx)
    torch.testing.assert_close(trained["h_n"][0], evaluated["h_n"][0], rtol=0, atol=0)
    assert trained["output"].all(), "the last layer's output is never dropped"


def test_everything_dropped_is_a_second_layer_without_input() -> None:
    ours = with_dropout(CASES[0], 1.0)
    x, hx = CASES[0].inputs()
    second = Case(I=6).module(nn.GRU)
    second.load_state_dict({f"{k[:-2]}l0": v for k, v in ours.state_dict().items() if k.endswith("l1")})
    expected, _ = second(torch.zeros(5, 3, 6, dtype=torch.float64), hx[1:])
    torch.testing.assert_close(data_of(ours(x, hx)[0]), expected, rtol=1e-12, atol=1e-14)


def test_one_layer_has_nowhere_to_drop() -> None:
    ours = with_dropout(Case(), 0.9)
    x, hx = Case().inputs()
    state = torch.get_rng_state()
    assert torch.equal(forward(ours.train(), x, hx)["output"], forward(ours.eval(), x, hx)["output"])
    assert torch.equal(torch.get_rng_state(), state)
