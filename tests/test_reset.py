"""``reset=`` in one call is the split into episodes and a call for each: results, states and gradients."""

from __future__ import annotations

import pytest
import torch
from helpers import Case, Results, assert_equal_to_rounding, twin
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_fused

MODULES = [
    Case(T=9, B=3, I=4, H=6),
    Case(T=9, B=1, I=3, H=7, bidirectional=True),
    Case(T=9, B=4, I=3, H=33, bias=False, batch_first=True),
]
PATTERNS = {
    "none": lambda T, B: torch.zeros(T, B, dtype=torch.bool),
    "all": lambda T, B: torch.ones(T, B, dtype=torch.bool),
    "first": lambda T, B: (torch.arange(T) == 0)[:, None].expand(T, B),
    "last": lambda T, B: (torch.arange(T) == T - 1)[:, None].expand(T, B),
    "some": lambda T, B: torch.rand(T, B) < 0.3,
}


def split_and_loop(rnn: nn.GRU, x: Tensor, hx: Tensor, reset: Tensor, begin: Tensor) -> tuple[Tensor, Tensor]:
    """Row by row and episode by episode: x (T, 1, I) of each, hx and begin (D, B, H) of one layer."""
    outputs, finals = [], []
    steps = x.shape[0]
    for row in range(x.shape[1]):
        starts = sorted({0, *reset[:, row].nonzero().flatten().tolist()})
        pieces, states = [], []
        for start, end in zip(starts, [*starts[1:], steps], strict=True):
            state = begin[:, row : row + 1].clone()
            if start == 0 and not reset[0, row]:
                state[:1] = hx[:1, row : row + 1]
            if end == steps and rnn.bidirectional:
                state[1:] = hx[1:, row : row + 1]
            piece, last = rnn(x[start:end, row : row + 1], state)
            pieces.append(piece)
            states.append(last)
        outputs.append(torch.cat(pieces))
        finals.append(torch.cat([states[-1][:1], states[0][1:]]))
    return torch.cat(outputs, 1), torch.cat(finals, 1)


def compared(case: Case, pattern: str, learned: bool) -> tuple[Results, Results]:
    rnn = case.module(gru_fused.GRU)
    theirs = twin(rnn, nn.GRU)
    theirs.batch_first = False
    x, hx = case.inputs()
    reset = PATTERNS[pattern](case.T, case.B)
    begin = torch.randn_like(hx) if learned else torch.zeros_like(hx)
    cotangents = case.cotangents()
    results = []
    for ours in (True, False):
        leaves = {"x": x.clone(), "hx": hx.clone(), **({"reset_state": begin.clone()} if learned else {})}
        leaves = {name: y.requires_grad_() for name, y in leaves.items()}
        if ours:
            mask = reset.transpose(0, 1) if case.batch_first else reset
            output, h_n = rnn(leaves["x"], leaves["hx"], reset=mask, reset_state=leaves.get("reset_state"))
            parameters = rnn.named_parameters()
        else:
            first = leaves["x"].transpose(0, 1) if case.batch_first else leaves["x"]
            output, h_n = split_and_loop(theirs, first, leaves["hx"], reset, leaves.get("reset_state", begin))
            output = output.transpose(0, 1) if case.batch_first else output
            parameters = theirs.named_parameters()
        leaves |= dict(parameters)
        grads = torch.autograd.grad(
            (output, h_n), list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
        )
        found = {"output": output.detach(), "h_n": h_n.detach()}
        results.append(found | {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)})
    return results[0], results[1]


@pytest.mark.parametrize("learned", [False, True], ids=["zeros", "learned"])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", MODULES, ids=str)
def test_as_split(case: Case, pattern: str, learned: bool) -> None:
    assert_equal_to_rounding(*compared(case, pattern, learned), eps=1e-12)


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
def test_nothing_passes_from_one_episode_to_another(layers: int, bidirectional: bool) -> None:
    rnn = gru_fused.GRU(3, 5, layers, bidirectional=bidirectional, dtype=torch.float64)
    x = torch.randn(8, 1, 3, dtype=torch.float64, requires_grad=True)
    reset = torch.zeros(8, 1, dtype=torch.bool)
    reset[3] = True
    output, _ = rnn(x, reset=reset)
    alone, _ = rnn(x[:3])
    rest, _ = rnn(x[3:])
    torch.testing.assert_close(output, torch.cat([alone, rest]), rtol=0, atol=1e-14)
    (grad,) = torch.autograd.grad(output[:3].square().sum(), x)
    assert grad[:3].any() and not grad[3:].any()


def test_one_learned_state_for_all_rows() -> None:
    """(L * D, H): its gradient is the sum over the rows and their resets."""
    rnn = gru_fused.GRU(3, 5, 2, dtype=torch.float64)
    x, reset = torch.randn(6, 4, 3, dtype=torch.float64), torch.rand(6, 4) < 0.4
    state = torch.randn(2, 5, dtype=torch.float64, requires_grad=True)
    rows = state.detach().unsqueeze(1).repeat(1, 4, 1).requires_grad_()
    outputs = [rnn(x, reset=reset, reset_state=given)[0] for given in (state, rows)]
    assert torch.equal(*outputs)
    grads = [torch.autograd.grad(y.square().sum(), given)[0] for y, given in zip(outputs, (state, rows), strict=True)]
    torch.testing.assert_close(grads[0], grads[1].sum(1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
def test_packed(bidirectional: bool) -> None:
    """With the reset packed like the input, rows in any order."""
    rnn = gru_fused.GRU(3, 5, 2, bidirectional=bidirectional, dtype=torch.float64)
    lengths = (3, 6, 1, 4)
    rows = [torch.randn(n, 3, dtype=torch.float64) for n in lengths]
    resets = [torch.rand(n) < 0.4 for n in lengths]
    states = torch.randn(rnn.num_layers * (1 + bidirectional), 4, 5, dtype=torch.float64)
    begin = torch.randn_like(states)
    packed = [pack_sequence(y, enforce_sorted=False) for y in (rows, resets)]
    output, h_n = rnn(packed[0], states, reset=packed[1], reset_state=begin)
    assert isinstance(output, PackedSequence)
    padded, last = rnn(
        nn.utils.rnn.pad_sequence(rows),
        states,
        lengths=lengths,
        reset=nn.utils.rnn.pad_sequence(resets),
        reset_state=begin,
    )
    torch.testing.assert_close(nn.utils.rnn.pad_packed_sequence(output)[0], padded, rtol=0, atol=1e-13)
    torch.testing.assert_close(h_n, last, rtol=0, atol=1e-13)


def test_unbatched() -> None:
    rnn = gru_fused.GRU(3, 5)
    x, reset = torch.randn(6, 3), torch.rand(6) < 0.5
    output, h_n = rnn(x, reset=reset)
    batched, last = rnn(x.unsqueeze(1), reset=reset.unsqueeze(1))
    assert torch.equal(output, batched[:, 0]) and torch.equal(h_n, last[:, 0])


ERRORS = {
    "dtype": ({"reset": torch.zeros(4, 2)}, TypeError, "reset: expected a tensor of bool, got torch.float32; reset !="),
    "shape": (
        {"reset": torch.zeros(2, 4, dtype=torch.bool)},
        ValueError,
        r"reset: expected shape \(4, 2\), the input's without its last axis, got \(2, 4\)",
    ),
    "list": ({"reset": [True]}, TypeError, "reset: expected a tensor, got list"),
    "state alone": ({"reset_state": torch.zeros(1, 3)}, ValueError, "reset_state: expected None without reset"),
    "state": (
        {"reset": torch.zeros(4, 2, dtype=torch.bool), "reset_state": torch.zeros(2, 3)},
        ValueError,
        r"reset_state: expected shape \(1, 3\) or \(1, 2, 3\), got \(2, 3\)",
    ),
    "attention": ({"attention": torch.zeros(4)}, ValueError, r"attention: expected shape \(4, 2\)"),
    "attention of bools": (
        {"attention": torch.zeros(4, 2, dtype=torch.bool)},
        TypeError,
        "attention: expected a tensor of floats, got torch.bool",
    ),
}


@pytest.mark.parametrize("marks, error, text", ERRORS.values(), ids=ERRORS)
def test_errors(marks: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        gru_fused.GRU(2, 3)(torch.randn(4, 2, 2), **marks)


def test_a_packed_input_needs_a_packed_reset() -> None:
    rnn = gru_fused.GRU(2, 3)
    packed = pack_sequence([torch.randn(4, 2), torch.randn(2, 2)])
    with pytest.raises(TypeError, match="reset: expected a PackedSequence like the input, got Tensor"):
        rnn(packed, reset=torch.zeros(4, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="reset: expected the batch_sizes and the order of the input, got others"):
        rnn(packed, reset=pack_sequence([torch.zeros(4, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)]))
