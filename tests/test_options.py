"""The options of the cell as users meet them: arguments, errors, text, parameters, copies, swapping, the cell."""

from __future__ import annotations

import copy
import io
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gru_fused
from gru_fused import Options

EACH = [
    {"reset_after": False},
    {"layer_norm": "projections"},
    {"layer_norm": "sum", "norm_eps": 1e-3},
    {"activation": "relu"},
    {"activation": "softsign", "gate_activation": "hard_sigmoid"},
    {"gate_activation": "hard_sigmoid_fifth"},
    {"zoneout": 0.25},
    {"recurrent_dropout": 0.5},
]
each = pytest.mark.parametrize("options", EACH, ids=lambda options: "-".join(map(str, options.values())))


def test_the_default_is_nn_grus_cell() -> None:
    assert gru_fused.GRU(3, 4).options == Options() and repr(Options()) == "Options()"
    assert gru_fused.GRU(3, 4, reset_after=True, zoneout=0.0)._options is None
    assert list(gru_fused.GRU(3, 4).state_dict()) == list(nn.GRU(3, 4).state_dict())


@each
def test_text_and_attribute(options: dict[str, Any]) -> None:
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    rnn, cell = gru_fused.GRU(3, 4, 2, **options), gru_fused.GRUCell(3, 4, **options)
    assert repr(rnn) == f"GRU(3, 4, num_layers=2, {text})" and repr(cell) == f"GRUCell(3, 4, {text})"
    assert rnn.options == cell.options == Options(**options)
    assert repr(rnn.options) == f"Options({text})"


ERRORS = {
    "layer_norm": ("both", "layer_norm: expected one of None, projections, sum, got 'both'"),
    "activation": ("sigmoid", "activation: expected one of tanh, relu, softsign, got 'sigmoid'"),
    "gate_activation": (
        "tanh",
        "gate_activation: expected one of sigmoid, hard_sigmoid, hard_sigmoid_fifth, got 'tanh'",
    ),
    "zoneout": (1.5, r"zoneout: expected a number in the range \[0, 1\], got 1.5"),
    "recurrent_dropout": (True, r"recurrent_dropout: expected a number in the range \[0, 1\], got True"),
    "norm_eps": (-1.0, "norm_eps: expected a number of at least 0, got -1.0"),
    "reset_after": (0, "reset_after: expected a bool, got 0"),
    "reverse": (1, "reverse: expected a bool, got 1"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    value, text = ERRORS[name]
    with pytest.raises(ValueError, match=text):
        gru_fused.GRU(3, 4, **{name: value})


def test_options_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="layer_norm: expected None with reset_after=False"):
        gru_fused.GRU(3, 4, layer_norm="sum", reset_after=False)
    with pytest.raises(ValueError, match="reverse: expected False with bidirectional=True"):
        gru_fused.GRU(3, 4, bidirectional=True, reverse=True)
    with pytest.raises(TypeError, match="reverse"):
        gru_fused.GRUCell(3, 4, reverse=True)
    with pytest.raises(ValueError, match="reverse: expected False: a cell makes one step"):
        gru_fused.GRUCell(3, 4).options = Options(reverse=True)
    with pytest.raises(ValueError, match="options: expected layer_norm='sum', which the module has the parameters of"):
        gru_fused.GRU(3, 4, layer_norm="sum").options = Options()


def test_they_may_be_set_later() -> None:
    rnn, x = gru_fused.GRU(3, 4), torch.randn(5, 2, 3)
    plain, _ = rnn(x)
    rnn.options = Options(reset_after=False)
    other, _ = rnn(x)
    assert not torch.allclose(plain, other)
    rnn.options = replace(rnn.options, reset_after=True)
    assert torch.equal(rnn(x)[0], plain)


@pytest.mark.parametrize("norm, names", [("projections", ["norm_ih", "norm_hh"]), ("sum", ["norm"])])
def test_a_norm_has_parameters(norm: str, names: list[str]) -> None:
    rnn = gru_fused.GRU(3, 4, 2, bidirectional=True, layer_norm=norm, dtype=torch.float64)
    wanted = [f"{name}_l{k}{way}" for k in (0, 1) for way in ("", "_reverse") for name in names]
    found = {name: p for name, p in rnn.named_parameters() if name.startswith("norm")}
    assert sorted(found) == sorted(wanted)
    assert all(p.shape == (12,) and p.dtype == torch.float64 and (p == 1).all() for p in found.values())
    with torch.no_grad():
        rnn.norm_l0.fill_(3) if norm == "sum" else rnn.norm_hh_l0.fill_(3)
    rnn.reset_parameters()
    assert all((p == 1).all() for p in found.values()) and not (rnn.weight_ih_l0 == 1).any()
    rnn(torch.randn(5, 2, 3, dtype=torch.float64))[0].sum().backward()
    assert all(p.grad is not None for p in rnn.parameters())
    assert list(dict(gru_fused.GRUCell(3, 4, layer_norm=norm).named_parameters()))[4:] == names


@each
def test_copies(options: dict[str, Any]) -> None:
    rnn, x = gru_fused.GRU(3, 4, **options).eval(), torch.randn(5, 2, 3)
    file = io.BytesIO()
    torch.save(rnn.state_dict(), file)
    file.seek(0)
    loaded = gru_fused.GRU(3, 4, **options).eval()
    loaded.load_state_dict(torch.load(file))
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn)), loaded):
        assert other.options == rnn.options and torch.equal(other(x)[0], rnn(x)[0])


def test_only_plain_ones_become_torchs() -> None:
    model = nn.ModuleList([gru_fused.GRU(3, 4), gru_fused.GRU(3, 4, zoneout=0.1)])
    with pytest.raises(ValueError, match=r"model\.1: expected a GRU that torch has too, got one with zoneout=0.1"):
        gru_fused.revert(model)
    assert type(model[0]) is gru_fused.GRU
    model[1].options = Options()
    assert type(gru_fused.revert(model)[1]) is nn.GRU
    converted = gru_fused.convert(nn.Sequential(nn.GRU(3, 4), nn.GRUCell(3, 4)))
    assert converted[0].options == converted[1].options == Options()
    converted[0].options = Options(reset_after=False)


@each
def test_the_cell_is_one_step(options: dict[str, Any]) -> None:
    rnn = gru_fused.GRU(3, 4, **options, dtype=torch.float64)
    cell = gru_fused.GRUCell(3, 4, **options, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x, hx = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    marks = {"reset": torch.tensor([True, False]), "attention": torch.rand(2, dtype=torch.float64)}
    state = torch.randn(1, 4, dtype=torch.float64)
    for training in (False, True):
        torch.manual_seed(7)
        h = cell.train(training)(x, hx, **marks, reset_state=state[0])
        torch.manual_seed(7)
        steps = {name: y.unsqueeze(0) for name, y in marks.items()}
        _, h_n = rnn.train(training)(x.unsqueeze(0), hx.unsqueeze(0), **steps, reset_state=state)
        assert torch.equal(h, h_n[0])
    one = cell.eval()(x[0], hx[0], reset=torch.tensor(True), reset_state=state[0])
    torch.testing.assert_close(one, cell(x, state.expand(2, 4))[0], rtol=0, atol=1e-15)


def test_a_cells_mask() -> None:
    cell = gru_fused.GRUCell(3, 4, recurrent_dropout=0.5, dtype=torch.float64)
    x, hx = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    ones = torch.ones(2, 4, dtype=torch.float64)
    assert torch.equal(cell(x, hx, recurrent_mask=ones), cell.eval()(x, hx))
    with pytest.raises(ValueError, match=r"recurrent_mask: expected shape \(2, 4\), got \(3, 4\)"):
        cell(x, hx, recurrent_mask=torch.ones(3, 4))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_of_all_layers(bidirectional: bool) -> None:
    rnn = gru_fused.GRU(3, 4, 3, bidirectional=bidirectional, dropout=0.5).eval()
    x = torch.randn(5, 2, 3, requires_grad=True)
    outputs, h_n = rnn(x, all_layers=True)
    output, last = rnn(x)
    assert len(outputs) == 3 and all(y.shape == output.shape for y in outputs)
    assert torch.equal(outputs[-1], output) and torch.equal(h_n, last)
    for k, y in enumerate(outputs):
        assert torch.equal(y[-1, :, :4], h_n[k * (1 + bidirectional)])
    assert all(torch.autograd.grad(y.sum(), x, retain_graph=True)[0].any() for y in outputs)
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 3), torch.randn(2, 3)])
    assert [y.data.shape for y in rnn(packed, all_layers=True)[0]] == 3 * [(6, 8 if bidirectional else 4)]


def seeded(rnn: gru_fused.GRU, x: Tensor, **marks: Any) -> Tensor:
    torch.manual_seed(3)
    return rnn(x, **marks)[0]


@pytest.mark.parametrize(
    "options", [{"zoneout": 0.3}, {"recurrent_dropout": 0.3}], ids=lambda options: "".join(options)
)
def test_masks_follow_the_seed(options: dict[str, Any]) -> None:
    rnn, x = gru_fused.GRU(3, 4, 2, **options), torch.randn(5, 2, 3)
    assert torch.equal(seeded(rnn, x), seeded(rnn, x))
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    assert torch.equal(rnn.eval()(x)[0], rnn(x)[0])


@each
def test_recompute_keeps_no_gates_and_gives_the_same(options: dict[str, Any]) -> None:
    rnn, x = gru_fused.GRU(3, 4, 2, **options, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    marks = {"lengths": [5, 3], "reset": torch.rand(5, 2) < 0.3}
    grads = []
    for recompute in (False, True):
        rnn.recompute = recompute
        grads.append(torch.autograd.grad(seeded(rnn, x, **marks).square().sum(), list(rnn.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
