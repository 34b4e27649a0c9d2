"""The module on the CUDA kernels, emulated: its options, layouts, empty batches, cells, inference, frozen inputs."""

from __future__ import annotations

import pytest
import torch
from conftest import EmulatedOps
from helpers import OPTIONS, Case, ReferenceGRU, assert_equal_to_rounding, forward, run, twin
from layouts import LAYOUTS, Layout
from torch import nn

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned", "emulated")

SMALL = Case(T=4, B=3, I=4, H=20, layers=2, bidirectional=True)


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_every_option(case: Case) -> None:
    ours = case.module(gru_fused.GRU)
    given, cotangents = case.inputs(), case.cotangents()
    truth = run(twin(ours, ReferenceGRU), *given, cotangents)
    assert_equal_to_rounding(run(ours, *given, cotangents), truth, eps=1e-12)
    assert_equal_to_rounding(forward(ours, *given), {name: truth[name] for name in ("output", "h_n")}, eps=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("argument", ["input", "hx"])
def test_strides_do_not_matter(argument: str, layout: Layout, regime: str) -> None:
    ours = SMALL.module(gru_fused.GRU)
    given = dict(zip(("input", "hx"), SMALL.inputs(), strict=True))
    given[argument] = layout(given[argument])
    cotangents = SMALL.cotangents()
    plain = run(ours, *(y.contiguous() for y in given.values()), cotangents)
    assert_equal_to_rounding(run(ours, *given.values(), cotangents), plain)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_strides_of_weights_and_cotangents_do_not_matter(layout: Layout, regime: str) -> None:
    ours = Case(T=3, B=2, I=3, H=5).module(gru_fused.GRU)
    given, (of_output, of_h_n) = Case(T=3, B=2, I=3, H=5).inputs(), Case(T=3, B=2, I=3, H=5).cotangents()
    weights = [layout(p.detach()) for p in ours.parameters()]
    with torch.no_grad():
        for parameter, weight in zip(ours.parameters(), weights, strict=True):
            parameter.copy_(weight)
    plain = run(ours, *given, (layout(of_output).contiguous(), layout(of_h_n).contiguous()))
    for parameter, weight in zip(ours.parameters(), weights, strict=True):
        parameter.data = weight
    assert_equal_to_rounding(run(ours, *given, (layout(of_output), layout(of_h_n))), plain)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch(bidirectional: bool, regime: str) -> None:
    case = Case(T=4, B=0, I=3, H=5, bidirectional=bidirectional)
    ours = case.module(gru_fused.GRU)
    given, cotangents = case.inputs(), case.cotangents()
    assert_equal_to_rounding(run(ours, *given, cotangents), run(twin(ours, ReferenceGRU), *given, cotangents))


@pytest.mark.parametrize("frozen", ["input", "weights"])
def test_only_the_wanted_gradients(frozen: str, regime: str) -> None:
    case = Case(T=3, B=2, I=3, H=5)
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    theirs = twin(ours, ReferenceGRU)
    results = []
    for rnn in (ours, theirs):
        rnn.requires_grad_(frozen != "weights")
        data = x.clone().requires_grad_(frozen != "input")
        output, h_n = rnn(data, hx)
        wanted = [data] if frozen == "weights" else list(rnn.parameters())
        results.append(torch.autograd.grad([output.sin().sum() + h_n.cos().sum()], wanted))
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth)


def test_a_cell_is_nn_grucells(regime: str) -> None:
    ours = gru_fused.GRUCell(5, 33)
    theirs = nn.GRUCell(5, 33)
    theirs.load_state_dict(ours.state_dict())
    x, hx = torch.randn(4, 5), torch.randn(4, 33)
    torch.testing.assert_close(ours(x, hx), theirs(x, hx))
    with torch.no_grad():
        torch.testing.assert_close(ours(x, hx), theirs(x, hx))
    gradients = [torch.autograd.grad(cell(x, hx).sin().sum(), list(cell.parameters())) for cell in (ours, theirs)]
    for mine, truth in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, truth)


def test_a_long_sequence(regime: str) -> None:
    """Phases, parities and tags over many steps."""
    case = Case(T=400, B=2, I=1, H=20)
    ours = case.module(gru_fused.GRU)
    given, cotangents = case.inputs(), case.cotangents()
    truth = run(twin(ours, ReferenceGRU), *given, cotangents)
    assert_equal_to_rounding(run(ours, *given, cotangents), truth, eps=1e-11)


def test_more_steps_than_16_bits_count() -> None:
    rnn = gru_fused.GRU(1, 1)
    x = torch.randn(70_000, 1, 1)
    with torch.no_grad():
        for mine, theirs in zip(rnn(x), twin(rnn, nn.GRU)(x), strict=True):
            torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("capability", [80, 90, 100, 120])
def test_every_kind_of_device(capability: int, emulated: EmulatedOps) -> None:
    emulated.device(capability)
    for case in (Case(T=3, B=9, I=3, H=40), Case(T=2, B=2, I=3, H=300, bidirectional=True)):
        ours = case.module(gru_fused.GRU)
        given, cotangents = case.inputs(), case.cotangents()
        truth = run(twin(ours, ReferenceGRU), *given, cotangents)
        assert_equal_to_rounding(run(ours, *given, cotangents), truth, eps=1e-12)
