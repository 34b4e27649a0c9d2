"""The ops of the variants as torch sees them: schemas, fake tensors, and errors for whatever does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from variants import Variant, enumerated

from gru_fused import _ops

CASES = [
    Variant(D=2, lengths=True, reset=True, learned=True, update="rows", dropout=True),
    Variant(recurrence="reset_before", sizes=(3, 2, 1), reset=True, update="units", bias=False),
    Variant(recurrence="norm_recurrent", D=2, lengths=True),
    Variant(recurrence="norm_sum", reverse=True),
]


def call(arguments: dict[str, Any], save: bool = True) -> tuple[Any, ...]:
    return *enumerated(arguments).values(), save


def backward_call(arguments: dict[str, Any], case: Variant) -> tuple[Any, ...]:
    x, hx, weights, bias, batch_sizes, *rest = enumerated(arguments).values()
    output, _, *saved = _ops.variant(*call(arguments))
    needs = True, True, arguments["update"] is not None, arguments["reset_state"] is not None
    return *case.cotangents(), x, hx, output, *saved, weights, bias, batch_sizes, *rest, *needs


@pytest.mark.parametrize("save", [True, False], ids=["saving", "inference"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck(case: Variant, save: bool) -> None:
    torch.library.opcheck(_ops.variant, call(case.arguments(), save))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_opcheck_of_the_backward(case: Variant) -> None:
    torch.library.opcheck(_ops.variant_backward, backward_call(case.arguments(), case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_of_inference_are_those_of_training(case: Variant) -> None:
    arguments = case.arguments()
    saving, plain = (_ops.variant(*call(arguments, save)) for save in (True, False))
    assert torch.equal(saving[0], plain[0]) and torch.equal(saving[1], plain[1])
    assert all(y.numel() == 0 for y in plain[2:])


ALL = Variant(lengths=True, reset=True, learned=True, update="rows", dropout=True)
WRONG = {
    "lengths shape": ("lengths", lambda y: y[:2], r"lengths: expected shape \(3\), got \(2\)"),
    "lengths dtype": ("lengths", lambda y: y.int(), "lengths: expected a tensor of int64"),
    "reset shape": ("reset", lambda y: y.T, r"reset: expected shape \(5, 3\), got \(3, 5\)"),
    "reset dtype": ("reset", lambda y: y.to(torch.uint8), "reset: expected a tensor of bool"),
    "no reset": ("reset", lambda y: None, "reset_state: expected None without reset"),
    "state": ("reset_state", lambda y: y[:, :2], r"reset_state: expected shape \(1, 3, 6\), got \(1, 2, 6\)"),
    "state dtype": ("reset_state", Tensor.float, "reset_state: expected the dtype of the input"),
    "update": ("update", lambda y: y[0], "update: expected 4 dimensions, got 3"),
    "update width": ("update", lambda y: y.expand(1, 5, 3, 2), r"update: expected shape \(1, 5, 3, 6\), got"),
    "update dtype": ("update", Tensor.half, "update: expected the dtype of the input"),
    "dropout": ("dropout", lambda y: y[..., :1], r"dropout: expected shape \(1, 3, 6\), got \(1, 3, 1\)"),
    "weights": ("weights", lambda y: y[:3], "weights: expected 4 tensors for each of one or two directions, got 3"),
    "x": ("x", lambda y: y[0], "x: expected 3 dimensions, got 2"),
    "hx": ("hx", lambda y: y[:, :1], r"hx: expected shape \(1, 3, 6\), got \(1, 1, 6\)"),
}


@pytest.mark.parametrize("name, change, text", WRONG.values(), ids=WRONG)
def test_arguments_that_do_not_fit_are_refused(name: str, change: Any, text: str) -> None:
    arguments = ALL.arguments()
    arguments[name] = change(arguments[name])
    with pytest.raises(RuntimeError, match=text):
        _ops.variant(*call(arguments))


@pytest.mark.parametrize(
    "place, value, text",
    [
        (5, 4, "recurrence: expected 0 to 3, got 4"),
        (6, 3, "gate: expected 0 to 2, got 3"),
        (7, 0, "candidate: expected 3 to 5, got 0"),
    ],
)
def test_numbers_out_of_range_are_refused(place: int, value: int, text: str) -> None:
    given = list(call(Variant().arguments()))
    given[place] = value
    with pytest.raises(RuntimeError, match=text):
        _ops.variant(*given)


def test_a_norm_has_weights_of_its_own() -> None:
    arguments = Variant(recurrence="norm_sum").arguments()
    for change, text in {
        (lambda w: w[:2], "weights: expected 3 tensors for each of one or two directions, got 2"),
        (lambda w: [w[0], w[1][:5], w[2]], r"gain: expected shape \(18\), got \(5\)"),
        (lambda w: 2 * w, "weights: expected 3 tensors for each of 1 directions, got those of 2"),
    }:
        with pytest.raises(RuntimeError, match=text):
            _ops.variant(*call(arguments | {"weights": change(arguments["weights"])}))


def test_both_directions_have_no_reverse() -> None:
    with pytest.raises(RuntimeError, match="reverse: expected one direction, got 2"):
        _ops.variant(*call(Variant(D=2).arguments() | {"reverse": True}))
    with pytest.raises(RuntimeError, match="lengths: expected None with packed rows"):
        _ops.variant(*call(Variant(sizes=(3, 2)).arguments() | {"lengths": torch.tensor([2, 2, 1])}))


@pytest.mark.parametrize(
    "place, change, text",
    [
        (0, lambda y: y[..., :5], r"grad_output: expected shape \(5, 3, 6\), got"),
        (1, lambda y: y[:, :1], r"grad_h_n: expected shape \(1, 3, 6\), got"),
        (4, lambda y: y[:4], r"output: expected shape \(5, 3, 6\), got"),
        (5, lambda y: y[..., :5], r"gates: expected shape \(1, 15, 24\), got"),
    ],
    ids=["grad_output", "grad_h_n", "output", "gates"],
)
def test_the_backward_refuses_what_is_not_of_its_forward(place: int, change: Any, text: str) -> None:
    given = list(backward_call(ALL.arguments(), ALL))
    given[place] = change(given[place])
    with pytest.raises(RuntimeError, match=text):
        _ops.variant_backward(*given)
