"""``lengths=`` is packing without the packing: nn.GRU's results on a PackedSequence, gradients too."""

from __future__ import annotations

import pytest
import torch
from helpers import Case, Results, assert_equal_to_rounding, data_of, run, twin
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gru_fused

LENGTHS = [(6, 6, 6), (6, 2, 4), (1, 1, 6), (1, 6, 1, 3, 5, 2, 2, 4, 6), (3, 1)]
MODULES = [
    Case(I=4, H=6),
    Case(I=3, H=7, layers=2, bidirectional=True, batch_first=True),
    Case(I=3, H=33, layers=3, bias=False, hx=False),
]


class Packing(nn.Module):
    """A GRU that is given its sequences packed, and returns them padded."""

    def __init__(self, rnn: nn.GRU, lengths: tuple[int, ...], steps: int) -> None:
        super().__init__()
        self.rnn, self.lengths, self.steps = rnn, torch.tensor(lengths), steps

    def forward(self, x: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        first = self.rnn.batch_first
        packed, h_n = self.rnn(pack_padded_sequence(x, self.lengths, first, enforce_sorted=False), hx)
        return pad_packed_sequence(packed, first, total_length=self.steps)[0], h_n


def both(case: Case, lengths: tuple[int, ...], padding: float = 0.0) -> tuple[Results, Results]:
    """Ours with lengths and nn.GRU's packed, all gradients; the steps past a length hold ``padding``."""
    case = Case(**{**vars(case), "T": 6, "B": len(lengths)})
    rnn = case.module(gru_fused.GRU)
    (x, hx), cotangents = case.inputs(), case.cotangents()
    by_row = x if case.batch_first else x.transpose(0, 1)
    for row, length in enumerate(lengths):
        by_row[row, length:] = padding
    theirs = run(Packing(twin(rnn, nn.GRU), lengths, case.T), x, hx, cotangents)
    ours = run(Lengths(rnn, torch.tensor(lengths)), x, hx, cotangents)
    return ours, theirs


class Lengths(nn.Module):
    def __init__(self, rnn: nn.Module, lengths: Tensor) -> None:
        super().__init__()
        self.rnn, self.lengths = rnn, lengths

    def forward(self, x: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.rnn(x, hx, lengths=self.lengths)


@pytest.mark.parametrize("lengths", LENGTHS, ids=lambda lengths: "_".join(map(str, lengths)))
@pytest.mark.parametrize("case", MODULES, ids=str)
def test_as_packed(case: Case, lengths: tuple[int, ...]) -> None:
    assert_equal_to_rounding(*both(case, lengths), eps=1e-12)


@pytest.mark.parametrize("case", MODULES, ids=str)
def test_what_stands_past_a_length_does_not_count(case: Case) -> None:
    torch.manual_seed(0)
    ours, theirs = both(case, (6, 2, 4), float("nan"))
    torch.manual_seed(0)
    zeros, _ = both(case, (6, 2, 4))
    assert_equal_to_rounding(ours, theirs, eps=1e-12)
    assert all(torch.equal(ours[name], zeros[name]) for name in ours)


@pytest.mark.parametrize("norm", ["projections", "sum"])
def test_nor_with_a_norm(norm: str) -> None:
    rnn = gru_fused.GRU(3, 5, bidirectional=True, layer_norm=norm, dtype=torch.float64)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    x[4:, 1] = float("nan")
    output, h_n = rnn(x, lengths=[6, 4])
    alone, last = rnn(x[:4, 1:])
    torch.testing.assert_close(output[:4, 1:], alone, rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n[:, 1:], last, rtol=0, atol=1e-14)
    (output.sum() + h_n.sum()).backward()
    assert all(p.grad.isfinite().all() for p in rnn.parameters())


@pytest.mark.parametrize(
    "lengths",
    [[3, 1], (3, 1), torch.tensor([3, 1]), torch.tensor([3, 1], dtype=torch.int32), torch.tensor([3, 9, 1])[::2]],
    ids=["list", "tuple", "int64", "int32", "strided"],
)
def test_any_integers(lengths: object) -> None:
    rnn = gru_fused.GRU(2, 3)
    x = torch.randn(4, 2, 2)
    assert torch.equal(rnn(x, lengths=lengths)[0], rnn(x, lengths=torch.tensor([3, 1]))[0])


def test_a_length_of_zero_keeps_the_state() -> None:
    rnn = gru_fused.GRU(2, 3, num_layers=2, bidirectional=True, allow_empty=True)
    x, hx = torch.randn(4, 3, 2, requires_grad=True), torch.randn(4, 3, 3, requires_grad=True)
    output, h_n = rnn(x, hx, lengths=[4, 0, 2])
    assert torch.equal(h_n[:, 1], hx[:, 1]) and not output[:, 1].any()
    grad_x, grad_hx = torch.autograd.grad((output, h_n), (x, hx), (torch.ones_like(output), torch.full_like(h_n, 2.0)))
    assert not grad_x[:, 1].any() and torch.equal(grad_hx[:, 1], torch.full((4, 3), 2.0))


@pytest.mark.parametrize("batch_first", [False, True])
def test_no_steps_at_all(batch_first: bool) -> None:
    rnn = gru_fused.GRU(2, 3, num_layers=2, bidirectional=True, batch_first=batch_first, allow_empty=True)
    x = torch.randn((5, 0, 2) if batch_first else (0, 5, 2), requires_grad=True)
    hx = torch.randn(4, 5, 3, requires_grad=True)
    output, h_n = rnn(x, hx)
    assert output.shape == ((5, 0, 6) if batch_first else (0, 5, 6)) and torch.equal(h_n, hx)
    (output.sum() + 3 * h_n.sum()).backward()
    assert x.grad.shape == x.shape and torch.equal(hx.grad, torch.full_like(hx, 3.0))
    assert torch.equal(rnn(x)[1], torch.zeros_like(hx))
    assert rnn(x[:, 0] if not batch_first else x[0])[0].shape == (0, 6)
    assert len(rnn(x, all_layers=True)[0]) == 2


def test_as_long_as_the_batch_changes_nothing() -> None:
    rnn = gru_fused.GRU(2, 3, bidirectional=True)
    x = torch.randn(4, 2, 2)
    for ours, plain in zip(rnn(x, lengths=[4, 4]), rnn(x), strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-6)


def test_many_threads_and_rows() -> None:
    case = Case(T=6, I=16, H=65, B=190)
    rnn = case.module(gru_fused.GRU)
    x, _ = case.inputs()
    lengths = torch.randint(1, 7, (190,))
    found = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        found.append(rnn(x, lengths=lengths)[0])
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


ERRORS = {
    "zero": ([3, 0], ValueError, r"lengths: expected numbers from 1 to 4, got \[3, 0\]; allow_empty=True takes"),
    "long": ([5, 1], ValueError, r"lengths: expected numbers from 1 to 4, got \[5, 1\]"),
    "negative": ([-1, 1], ValueError, r"lengths: expected numbers from 1 to 4, got \[-1, 1\]"),
    "three": ([1, 2, 3], ValueError, r"lengths: expected shape \(2,\), one for each sequence, got \(3,\)"),
    "floats": ([1.0, 2.0], TypeError, "lengths: expected integers, got torch.float32"),
    "bools": ([True, True], TypeError, "lengths: expected integers, got torch.bool"),
}


@pytest.mark.parametrize("lengths, error, text", ERRORS.values(), ids=ERRORS)
def test_errors(lengths: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        gru_fused.GRU(2, 3)(torch.randn(4, 2, 2), lengths=lengths)


def test_other_inputs_have_no_lengths() -> None:
    rnn = gru_fused.GRU(2, 3)
    packed = pack_padded_sequence(torch.randn(4, 2, 2), torch.tensor([4, 2]))
    with pytest.raises(ValueError, match="lengths: expected None with a PackedSequence, which has its own"):
        rnn(packed, lengths=[4, 2])
    with pytest.raises(ValueError, match="lengths: expected None with an unbatched input, which is one sequence"):
        rnn(torch.randn(4, 2), lengths=[4])
    assert data_of(rnn(packed)[0]).shape == (6, 3)
