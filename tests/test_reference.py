"""The reference is nn.GRU: outputs and all gradients in float64."""

from __future__ import annotations

import pytest
import torch
from helpers import AWKWARD, OPTIONS, PACKED, Case, ReferenceGRU, assert_equal_to_rounding, run, twin
from torch import nn

from gru_fused import reference

pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.mark.parametrize("case", [*AWKWARD, *OPTIONS, *PACKED], ids=str)
def test_reference_is_nn_gru(case: Case) -> None:
    theirs = case.module(nn.GRU)
    x, hx = case.inputs()
    cotangents = case.cotangents()
    assert_equal_to_rounding(
        run(twin(theirs, ReferenceGRU), x, hx, cotangents), run(theirs, x, hx, cotangents), eps=1e-12
    )


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_reference_cell_is_nn_gru_cell(batch: int, bias: bool) -> None:
    cell = nn.GRUCell(4, 6, bias=bias, dtype=torch.float64)
    leaves = [torch.randn(batch, size, dtype=torch.float64, requires_grad=True) for size in (4, 6)]
    wanted = [*leaves, *cell.parameters()]
    cotangent = torch.randn(batch, 6, dtype=torch.float64)
    h = reference.gru_cell(*leaves, *cell.parameters())
    torch.testing.assert_close(h, cell(*leaves), rtol=1e-12, atol=1e-14)
    ours = torch.autograd.grad(h, wanted, cotangent)
    theirs = torch.autograd.grad(cell(*leaves), wanted, cotangent)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


def test_reference_dropout_is_nn_grus() -> None:
    rnn = nn.GRU(3, 5, 3, dropout=0.5, bidirectional=True, dtype=torch.float64)
    x = torch.randn(4, 2, 3, dtype=torch.float64)
    torch.manual_seed(1)
    theirs = rnn(x)
    torch.manual_seed(1)
    options = {"num_layers": 3, "dropout": 0.5, "training": True, "bidirectional": True}
    ours = reference.gru(x, None, list(rnn.parameters()), **options)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    evaluated = reference.gru(x, None, list(rnn.parameters()), **{**options, "training": False})
    torch.testing.assert_close(evaluated, rnn.eval()(x), rtol=1e-12, atol=1e-14)
