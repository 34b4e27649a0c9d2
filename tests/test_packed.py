"""PackedSequence: any order of lengths; every row as if it had been run alone; hx and h_n in the caller's order."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers import Case, assert_equal_to_rounding, run, twin
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
)

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

LENGTHS = {
    "falling": (5, 4, 2, 1),
    "rising": (1, 2, 4, 5),
    "mixed": (2, 5, 1, 4),
    "ties": (3, 1, 3, 1, 3),
    "equal": (4, 4, 4),
    "ones": (1, 1, 1),
    "one-sequence": (6,),
    "one-step": (1,),
    "many": tuple(1 + 7 * i % 13 for i in range(17)),
}
FORMS = [Case(layers=layers, bidirectional=two) for layers, two in product((1, 2, 3), (False, True))]


def sequences(lengths: tuple[int, ...], size: int = 4) -> list[Tensor]:
    return [torch.randn(n, size, dtype=torch.float64) for n in lengths]


def states(case: Case, batch: int) -> Tensor:
    return torch.randn(case.layers * case.directions, batch, case.H, dtype=torch.float64)


@pytest.mark.parametrize("case", FORMS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_every_row_as_if_run_alone(lengths: tuple[int, ...], case: Case) -> None:
    rnn = case.module(gru_fused.GRU)
    rows = sequences(lengths)
    hx = states(case, len(rows))
    output, h_n = rnn(pack_sequence(rows, enforce_sorted=False), hx)
    for i, (row, found) in enumerate(zip(rows, unpack_sequence(output), strict=True)):
        alone, last = rnn(row, hx[:, i])
        torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(h_n[:, i], last, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", FORMS, ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_gradients_are_nn_grus(lengths: tuple[int, ...], case: Case) -> None:
    ours = case.module(gru_fused.GRU)
    x = pack_sequence(sequences(lengths), enforce_sorted=False)
    hx = states(case, len(lengths))
    cotangents = (
        torch.randn(sum(lengths), case.directions * case.H, dtype=torch.float64),
        torch.randn_like(hx),
    )
    assert_equal_to_rounding(run(ours, x, hx, cotangents), run(twin(ours, nn.GRU), x, hx, cotangents), eps=1e-12)


@pytest.mark.parametrize("hx_given", [True, False], ids=["hx", "nohx"])
@pytest.mark.parametrize("enforce_sorted", [True, False], ids=["sorted", "any-order"])
def test_result_carries_the_indices_of_the_input(enforce_sorted: bool, hx_given: bool) -> None:
    rnn = Case(bidirectional=True).module(gru_fused.GRU)
    x = pack_sequence(sequences((5, 4, 2, 1)), enforce_sorted=enforce_sorted)
    output, h_n = rnn(x, states(Case(bidirectional=True), 4) if hx_given else None)
    assert isinstance(output, PackedSequence)
    assert output.batch_sizes is x.batch_sizes
    assert output.batch_sizes.device.type == "cpu"
    assert output.sorted_indices is x.sorted_indices
    assert output.unsorted_indices is x.unsorted_indices
    assert (x.sorted_indices is None) == enforce_sorted
    assert output.data.shape == (12, 12)
    assert h_n.shape == (2, 4, 6)


def test_indices_and_hx_are_left_alone() -> None:
    rnn = Case().module(gru_fused.GRU)
    x = pack_sequence(sequences((1, 3, 2)), enforce_sorted=False)
    hx = states(Case(), 3)
    before = [hx.clone(), *(part.clone() for part in x)]
    rnn(x, hx)
    assert all(torch.equal(now, then) for now, then in zip((hx, *x), before, strict=True))


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
def test_batch_first_of_the_module_does_not_matter(batch_first: bool) -> None:
    rnn = Case(layers=2, bidirectional=True).module(gru_fused.GRU)
    other = twin(rnn, gru_fused.GRU)
    other.batch_first = batch_first
    x = pack_sequence(sequences((2, 5, 1)), enforce_sorted=False)
    hx = states(Case(layers=2, bidirectional=True), 3)
    (a, last_a), (b, last_b) = rnn(x, hx), other(x, hx)
    assert torch.equal(a.data, b.data)
    assert torch.equal(last_a, last_b)


@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
def test_padding_there_and_back(batch_first: bool) -> None:
    """The values in the padding never reach a result, and the padded result is zero past each length."""
    rnn = Case(layers=2, bidirectional=True).module(gru_fused.GRU)
    rows = sequences((2, 5, 1))
    padded = pad_sequence(rows, batch_first=batch_first, padding_value=float("nan"))
    x = pack_padded_sequence(padded, torch.tensor([2, 5, 1]), batch_first=batch_first, enforce_sorted=False)
    output, h_n = rnn(x)
    found, lengths = pad_packed_sequence(output, batch_first=batch_first)
    found = found if batch_first else found.transpose(0, 1)
    assert lengths.tolist() == [2, 5, 1]
    for i, row in enumerate(rows):
        alone, last = rnn(row)
        torch.testing.assert_close(found[i, : len(row)], alone, rtol=1e-12, atol=1e-14)
        assert not found[i, len(row) :].any()
        torch.testing.assert_close(h_n[:, i], last, rtol=1e-12, atol=1e-14)


def test_equal_lengths_are_a_padded_batch() -> None:
    rnn = Case(layers=2, bidirectional=True).module(gru_fused.GRU)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    hx = states(Case(layers=2, bidirectional=True), 3)
    output, h_n = rnn(x, hx)
    packed, last = rnn(pack_padded_sequence(x, torch.tensor([5, 5, 5])), hx)
    torch.testing.assert_close(packed.data, output.flatten(0, 1), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(last, h_n, rtol=1e-13, atol=1e-14)


def test_rows_do_not_mix() -> None:
    """The gradient of one row's results is zero, exactly, in all other rows."""
    rnn = Case(layers=2, bidirectional=True).module(gru_fused.GRU)
    rows = [row.requires_grad_() for row in sequences((2, 5, 1, 5))]
    hx = states(Case(layers=2, bidirectional=True), 4).requires_grad_()
    output, h_n = rnn(pack_sequence(rows, enforce_sorted=False), hx)
    loss = unpack_sequence(output)[1].square().sum() + h_n[:, 1].square().sum()
    *of_rows, of_hx = torch.autograd.grad(loss, [*rows, hx])
    for i, gradient in enumerate([*of_rows]):
        assert gradient.any() == (i == 1)
    assert [of_hx[:, i].any().item() for i in range(4)] == [False, True, False, False]


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_the_order_of_the_sequences_does_not_matter(lengths: tuple[int, ...]) -> None:
    case = Case(layers=2, bidirectional=True)
    rnn = case.module(gru_fused.GRU)
    rows, hx = sequences(lengths), states(case, len(lengths))
    order = torch.randperm(len(lengths))
    _, h_n = rnn(pack_sequence(rows, enforce_sorted=False), hx)
    _, shuffled = rnn(pack_sequence([rows[i] for i in order], enforce_sorted=False), hx[:, order])
    torch.testing.assert_close(shuffled, h_n[:, order], rtol=1e-13, atol=1e-14)
