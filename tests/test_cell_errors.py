"""Wrong calls of GRUCell: the exception and the text are those of nn.GRUCell called with the same wrong arguments."""

from __future__ import annotations

import pytest
import torch
from helpers import outcome
from torch import nn

import gru_fused

CELL_ROWS = [
    ((), None, ValueError, "GRUCell: Expected input to be 1D or 2D, got 0D instead"),
    ((1, 2, 3), None, ValueError, "GRUCell: Expected input to be 1D or 2D, got 3D instead"),
    ((1, 1, 2, 3), (2, 4), ValueError, "GRUCell: Expected input to be 1D or 2D, got 4D instead"),
    ((2, 3), (1, 2, 4), ValueError, "GRUCell: Expected hidden to be 1D or 2D, got 3D instead"),
    ((2, 3), (), ValueError, "GRUCell: Expected hidden to be 1D or 2D, got 0D instead"),
    ((2, 7), None, RuntimeError, "input has inconsistent input_size: got 7 expected 3"),
    ((7,), None, RuntimeError, "input has inconsistent input_size: got 7 expected 3"),
    ((2, 7), (2, 4), RuntimeError, "input has inconsistent input_size: got 7 expected 3"),
    ((2, 3), (2, 5), RuntimeError, "hidden0 has inconsistent hidden_size: got 5, expected 4"),
    ((3,), (5,), RuntimeError, "hidden0 has inconsistent hidden_size: got 5, expected 4"),
    ((3,), (1, 4), RuntimeError, "hidden0 has inconsistent hidden_size: got 1, expected 4"),
    ((2, 3), (3, 4), RuntimeError, "Input batch size 2 doesn't match hidden0 batch size 3"),
    ((2, 3), (4,), RuntimeError, "Input batch size 2 doesn't match hidden0 batch size 4"),
    ((2, 3), (3, 5), RuntimeError, "Input batch size 2 doesn't match hidden0 batch size 3"),
    ((2, 7), (3, 5), RuntimeError, "input has inconsistent input_size: got 7 expected 3"),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("x, hx, error, text", CELL_ROWS, ids=[f"x{row[0]}-hx{row[1]}" for row in CELL_ROWS])
def test_cell_refuses(
    x: tuple[int, ...], hx: tuple[int, ...] | None, error: type[Exception], text: str, training: bool
) -> None:
    given = (torch.zeros(x), None if hx is None else torch.zeros(hx))
    with torch.set_grad_enabled(training):
        ours = outcome(lambda: gru_fused.GRUCell(3, 4)(*given))
        theirs = outcome(lambda: nn.GRUCell(3, 4)(*given))
    assert ours == theirs
    assert ours[0] == error.__name__
    assert text in ours[1]


@pytest.mark.parametrize("x_dtype, hx_dtype", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_mixed_dtypes_are_refused(x_dtype: torch.dtype, hx_dtype: torch.dtype) -> None:
    """Only the type is compared: the text of torch tells of its matrix product."""
    given = torch.zeros(2, 3, dtype=x_dtype), torch.zeros(2, 4, dtype=hx_dtype)
    ours, theirs = (outcome(lambda cls=cls: cls(3, 4)(*given)) for cls in (gru_fused.GRUCell, nn.GRUCell))
    assert ours[0] == theirs[0] == "RuntimeError"
