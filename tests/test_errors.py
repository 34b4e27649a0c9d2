"""Wrong calls of GRU: the exception and the text are those of nn.GRU called with the same wrong arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import outcome
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_fused

BATCH = torch.tensor([2, 2, 1])


def floats(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def packed(*shape: int, **options: Any) -> PackedSequence:
    return PackedSequence(floats(*shape, **options), BATCH)


def unsorted(**options: Any) -> PackedSequence:
    return pack_sequence([floats(n, 3, **options) for n in (1, 3)], enforce_sorted=False)


# Options of a GRU(3, 4), arguments of its forward, the exception, a part of its text.
Row = tuple[str, dict[str, Any], Callable[[], tuple[Any, ...]], type[Exception], str]

ROWS: list[Row] = [
    ("0-D", {}, lambda: (floats(),), ValueError, "GRU: Expected input to be 2D or 3D, got 0D instead"),
    ("1-D", {}, lambda: (floats(3),), ValueError, "GRU: Expected input to be 2D or 3D, got 1D instead"),
    ("4-D", {}, lambda: (floats(1, 5, 2, 3),), ValueError, "GRU: Expected input to be 2D or 3D, got 4D instead"),
    (
        "batched input, 2-D hx",
        {},
        lambda: (floats(5, 2, 3), floats(1, 4)),
        RuntimeError,
        "For batched 3-D input, hx should also be 3-D but got 2-D tensor",
    ),
    (
        "batched input, 4-D hx",
        {},
        lambda: (floats(5, 2, 3), floats(1, 1, 2, 4)),
        RuntimeError,
        "For batched 3-D input, hx should also be 3-D but got 4-D tensor",
    ),
    (
        "unbatched input, 3-D hx",
        {},
        lambda: (floats(5, 3), floats(1, 1, 4)),
        RuntimeError,
        "For unbatched 2-D input, hx should also be 2-D but got 3-D tensor",
    ),
    (
        "unbatched input, 1-D hx",
        {"batch_first": True},
        lambda: (floats(5, 3), floats(4)),
        RuntimeError,
        "For unbatched 2-D input, hx should also be 2-D but got 1-D tensor",
    ),
    (
        "float64 input",
        {},
        lambda: (floats(5, 2, 3, dtype=torch.float64),),
        ValueError,
        "RNN input dtype (torch.float64) does not match weight dtype (torch.float32). "
        "Convert input: input.to(torch.float32), or convert model: model.to(torch.float64)",
    ),
    (
        "bfloat16 weights",
        {"dtype": torch.bfloat16},
        lambda: (floats(5, 2, 3),),
        ValueError,
        "RNN input dtype (torch.float32) does not match weight dtype (torch.bfloat16). ",
    ),
    (
        "integer input",
        {},
        lambda: (torch.zeros(5, 2, 3, dtype=torch.int64),),
        ValueError,
        "RNN input dtype (torch.int64) does not match weight dtype (torch.float32). ",
    ),
    (
        "packed float64",
        {},
        lambda: (packed(5, 3, dtype=torch.float64),),
        ValueError,
        "RNN input dtype (torch.float64) does not match weight dtype (torch.float32). ",
    ),
    ("packed 3-D", {}, lambda: (packed(5, 2, 3),), RuntimeError, "input must have 2 dimensions, got 3"),
    ("packed 1-D", {}, lambda: (packed(5),), RuntimeError, "input must have 2 dimensions, got 1"),
    (
        "input size",
        {},
        lambda: (floats(5, 2, 7),),
        RuntimeError,
        "input.size(-1) must be equal to input_size. Expected 3, got 7",
    ),
    (
        "input size, unbatched",
        {},
        lambda: (floats(5, 7),),
        RuntimeError,
        "input.size(-1) must be equal to input_size. Expected 3, got 7",
    ),
    (
        "input size, packed",
        {},
        lambda: (packed(5, 7),),
        RuntimeError,
        "input.size(-1) must be equal to input_size. Expected 3, got 7",
    ),
    (
        "batch of hx",
        {"num_layers": 2},
        lambda: (floats(5, 2, 3), floats(2, 3, 4)),
        RuntimeError,
        "Expected hidden size (2, 2, 4), got [2, 3, 4]",
    ),
    (
        "batch of hx, batch_first",
        {"batch_first": True},
        lambda: (floats(2, 5, 3), floats(1, 5, 4)),
        RuntimeError,
        "Expected hidden size (1, 2, 4), got [1, 5, 4]",
    ),
    (
        "hx laid out batch first",
        {"batch_first": True, "num_layers": 3},
        lambda: (floats(2, 5, 3), floats(2, 3, 4)),
        RuntimeError,
        "Expected hidden size (3, 2, 4), got [2, 3, 4]",
    ),
    (
        "layers of hx",
        {"num_layers": 2, "bidirectional": True},
        lambda: (floats(5, 2, 3), floats(2, 2, 4)),
        RuntimeError,
        "Expected hidden size (4, 2, 4), got [2, 2, 4]",
    ),
    (
        "size of hx",
        {},
        lambda: (floats(5, 2, 3), floats(1, 2, 5)),
        RuntimeError,
        "Expected hidden size (1, 2, 4), got [1, 2, 5]",
    ),
    (
        "hx, unbatched",
        {"num_layers": 2},
        lambda: (floats(5, 3), floats(1, 4)),
        RuntimeError,
        "Expected hidden size (2, 1, 4), got [1, 1, 4]",
    ),
    (
        "batch of hx, packed",
        {},
        lambda: (packed(5, 3), floats(1, 3, 4)),
        RuntimeError,
        "Expected hidden size (1, 2, 4), got [1, 3, 4]",
    ),
    (
        "2-D hx, packed",
        {},
        lambda: (packed(5, 3), floats(1, 4)),
        RuntimeError,
        "Expected hidden size (1, 2, 4), got [1, 4]",
    ),
    (
        "size of hx, packed in any order",
        {},
        lambda: (unsorted(), floats(1, 2, 5)),
        RuntimeError,
        "Expected hidden size (1, 2, 4), got [1, 2, 5]",
    ),
    (
        "input on meta",
        {},
        lambda: (floats(5, 2, 3, device="meta"),),
        RuntimeError,
        "Input and parameter tensors are not at the same device, "
        "found input tensor at meta and parameter tensor at cpu",
    ),
    (
        "parameters on meta",
        {"device": "meta"},
        lambda: (floats(5, 2, 3),),
        RuntimeError,
        "Input and parameter tensors are not at the same device, "
        "found input tensor at cpu and parameter tensor at meta",
    ),
    (
        "hx on meta",
        {},
        lambda: (floats(5, 2, 3), floats(1, 2, 4, device="meta")),
        RuntimeError,
        "Input and hidden tensors are not at the same device, found input tensor at cpu and hidden tensor at meta",
    ),
    (
        "input on meta, hx not",
        {},
        lambda: (floats(5, 2, 3, device="meta"), floats(1, 2, 4)),
        RuntimeError,
        "not at the same device",
    ),
    ("no steps", {}, lambda: (floats(0, 2, 3),), RuntimeError, "Expected sequence length to be larger than 0 in RNN"),
    (
        "no steps, batch_first",
        {"batch_first": True},
        lambda: (floats(2, 0, 3),),
        RuntimeError,
        "Expected sequence length to be larger than 0 in RNN",
    ),
    (
        "no steps, unbatched",
        {},
        lambda: (floats(0, 3), floats(1, 4)),
        RuntimeError,
        "Expected sequence length to be larger than 0 in RNN",
    ),
    (
        "no steps, no rows",
        {},
        lambda: (floats(0, 0, 3),),
        RuntimeError,
        "Expected sequence length to be larger than 0 in RNN",
    ),
    # Two faults: the one that nn.GRU sees first.
    ("4-D float64", {}, lambda: (floats(1, 5, 2, 3, dtype=torch.float64),), ValueError, "got 4D instead"),
    (
        "hx ndim and input size",
        {},
        lambda: (floats(5, 2, 7), floats(1, 4)),
        RuntimeError,
        "For batched 3-D input, hx should also be 3-D",
    ),
    ("dtype and input size", {}, lambda: (floats(5, 2, 7, dtype=torch.float64),), ValueError, "RNN input dtype"),
    (
        "input size and hx",
        {},
        lambda: (floats(5, 2, 7), floats(1, 3, 4)),
        RuntimeError,
        "input.size(-1) must be equal to input_size",
    ),
    ("no steps and hx", {}, lambda: (floats(0, 2, 3), floats(1, 3, 4)), RuntimeError, "Expected hidden size (1, 2, 4)"),
]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("options, given, error, text", [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_gru_refuses(
    options: dict[str, Any], given: Callable[[], tuple[Any, ...]], error: type[Exception], text: str, training: bool
) -> None:
    """Training enters autograd and evaluation under no_grad doesn't: both ways refuse alike."""
    with torch.set_grad_enabled(training):
        ours = outcome(lambda: gru_fused.GRU(3, 4, **options).train(training)(*given()))
        theirs = outcome(lambda: nn.GRU(3, 4, **options).train(training)(*given()))
    assert ours == theirs
    assert ours[0] == error.__name__
    assert text in ours[1]


@pytest.mark.parametrize("x", [floats(5, 2, 3), unsorted()], ids=["padded", "packed"])
def test_hx_of_another_dtype_is_refused(x: Tensor | PackedSequence) -> None:
    """Only the type is compared: the text of torch tells of its matrix product."""
    hx = floats(1, 2, 4, dtype=torch.float64)
    ours, theirs = outcome(lambda: gru_fused.GRU(3, 4)(x, hx)), outcome(lambda: nn.GRU(3, 4)(x, hx))
    assert ours[0] == theirs[0] == "RuntimeError"


def test_a_refused_call_leaves_the_module_usable() -> None:
    rnn = gru_fused.GRU(3, 4)
    x = torch.randn(5, 2, 3)
    before = rnn(x)
    outcome(lambda: rnn(floats(5, 2, 7)))
    outcome(lambda: rnn(x, floats(1, 3, 4)))
    assert all(torch.equal(a, b) for a, b in zip(rnn(x), before, strict=True))
