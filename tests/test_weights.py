"""Weights go to each format and come back the same to the last bit, and everything else about the module with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Case, assert_equal_to_rounding, dtype_id, forward
from torch import nn
from torch.nn.utils import parametrizations

import gru_fused
from gru_fused import reference, weights

CASES = [
    Case(I=1, H=1),
    Case(I=5, H=7, bias=False),
    Case(I=3, H=5, layers=3),
    Case(I=7, H=3, layers=2, bidirectional=True),
    Case(I=2, H=3, layers=2, bidirectional=True, bias=False),
]
WAYS = {
    "keras": (weights.to_keras, weights.from_keras),
    "onnx": (weights.to_onnx, weights.from_onnx),
    "haste": (weights.to_haste, weights.from_haste),
    "flax": (weights.to_flax, weights.from_flax),
}
FORMATS = pytest.mark.parametrize("to, of", WAYS.values(), ids=WAYS)
To, Of = Callable[[nn.Module], list[Any]], Callable[..., gru_fused.GRU]


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in module.state_dict().items()}


def expected_state(rnn: nn.RNNBase, to: To) -> dict[str, torch.Tensor]:
    """What comes back: where a format has other biases, the same sums in other places."""
    state = state_of(rnn)
    if to in (weights.to_haste, weights.to_flax) and not rnn.bias:
        for name in [name for name in state if name.startswith("weight_hh")]:
            for kind in ("bias_ih", "bias_hh"):
                state[name.replace("weight_hh", kind)] = state[name].new_zeros(3 * rnn.hidden_size)
    if to is weights.to_flax:
        for name in [name for name in state if name.startswith("bias_ih")]:
            other = state[name.replace("bias_ih", "bias_hh")]
            gates = 2 * rnn.hidden_size
            state[name][:gates] += other[:gates]
            other[:gates] = 0
    return state


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=dtype_id)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("cls", [gru_fused.GRU, nn.GRU], ids=["ours", "torch"])
def test_round_trip_is_exact(to: To, of: Of, dtype: torch.dtype, case: Case, cls: type[nn.Module]) -> None:
    rnn = case.module(cls, dtype)
    back = of(*to(rnn))
    assert type(back) is gru_fused.GRU
    assert (back.num_layers, back.bidirectional) == (rnn.num_layers, rnn.bidirectional)
    expected = expected_state(rnn, to)
    assert set(back.state_dict()) == set(expected)
    for name, x in back.state_dict().items():
        assert x.dtype == dtype
        assert torch.equal(x, expected[name]), name
    assert all(p.requires_grad for p in back.parameters())


@FORMATS
def test_weights_are_copies(to: To, of: Of) -> None:
    rnn = Case(layers=2).module(gru_fused.GRU)
    before = state_of(rnn)
    exported = to(rnn)
    back = of(*exported)
    with torch.no_grad():
        for parameter in back.parameters():
            parameter.zero_()
    again = of(*exported)
    assert all(torch.equal(x, before[name]) for name, x in rnn.state_dict().items())
    assert any(x.any() for x in again.parameters()), "the exported arrays are those of the module"
    with torch.no_grad():
        for parameter in rnn.parameters():
            parameter.zero_()
    assert all(x.any() for x in of(*exported).parameters() if x.dim() == 2), "the exported arrays follow the module"


@FORMATS
def test_no_random_number_is_drawn(to: To, of: Of) -> None:
    exported = to(Case().module(nn.GRU))
    torch.manual_seed(3)
    of(*exported)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))


@FORMATS
def test_computed_weights_are_taken_as_they_are(to: To, of: Of) -> None:
    rnn = Case().module(gru_fused.GRU)
    parametrizations.weight_norm(rnn, "weight_hh_l0")
    with torch.no_grad():
        rnn.parametrizations.weight_hh_l0.original0.mul_(3)
    assert torch.equal(of(*to(rnn)).weight_hh_l0, rnn.weight_hh_l0)


def test_no_library_is_imported() -> None:
    code = "import sys, gru_fused; print(sorted({'keras', 'onnx', 'flax', 'jax', 'haste_pytorch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_negated_update_gate_is_the_other_convention() -> None:
    """Against h' = (1 - z) h + z n, written out."""
    case = Case(T=7, B=3, I=5, H=7)
    rnn = case.module(gru_fused.GRU)
    x, h = case.inputs()
    w_ih, w_hh, b_ih, b_hh = rnn.parameters()
    outputs, state = [], h[0]
    for step in x:
        gi_r, gi_z, gi_n = (step @ w_ih.T + b_ih).chunk(3, 1)
        gh_r, gh_z, gh_n = (state @ w_hh.T + b_hh).chunk(3, 1)
        z = torch.sigmoid(gi_z + gh_z)
        state = (1 - z) * state + z * torch.tanh(gi_n + torch.sigmoid(gi_r + gh_r) * gh_n)
        outputs.append(state)
    truth = {"output": torch.stack(outputs).detach(), "h_n": state.detach()[None]}
    turned = case.module(gru_fused.GRU)
    turned.load_state_dict(weights.negate_update_gate(rnn.state_dict()))
    assert_equal_to_rounding(forward(turned, x, h), truth)
    back = weights.negate_update_gate(turned.state_dict())
    assert all(torch.equal(x, back[name]) for name, x in rnn.state_dict().items())


def test_negated_update_gate_of_a_cell() -> None:
    cell = nn.GRUCell(3, 5, dtype=torch.float64)
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    turned = weights.negate_update_gate(cell.state_dict())
    _, z, _ = (x @ cell.weight_ih.T + cell.bias_ih + h @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
    n_here = (cell(x, h) - torch.sigmoid(z) * h) / (1 - torch.sigmoid(z))
    there = (1 - torch.sigmoid(z)) * h + torch.sigmoid(z) * n_here
    assert torch.allclose(reference.gru_cell(x, h, *turned.values()), there, rtol=1e-12, atol=1e-12)


def test_haste_formula() -> None:
    """haste needs a GPU to build; its formula, from its documentation, with its layout."""
    case = Case(T=5, B=2, I=3, H=7)
    rnn = case.module(gru_fused.GRU)
    x, h = case.inputs()
    (state,) = weights.to_haste(rnn)
    assert {name: tuple(w.shape) for name, w in state.items()} == {
        "kernel": (3, 21),
        "recurrent_kernel": (7, 21),
        "bias": (21,),
        "recurrent_bias": (21,),
    }
    outputs, h_t = [], h[0].numpy()
    w, r, bw, br = (weight.numpy() for weight in state.values())
    for step in x.numpy():
        xz, xr, xg = np.split(step @ w + bw, 3, 1)
        hz, hr, hg = np.split(h_t @ r + br, 3, 1)
        z, reset = 1 / (1 + np.exp(-xz - hz)), 1 / (1 + np.exp(-xr - hr))
        h_t = z * h_t + (1 - z) * np.tanh(xg + reset * hg)
        outputs.append(torch.tensor(h_t))
    truth = {"output": torch.stack(outputs), "h_n": outputs[-1][None]}
    assert_equal_to_rounding(forward(weights.from_haste(state), x, h), truth)


def test_a_haste_module_is_read_by_its_state() -> None:
    module = nn.Module()
    for name, x in weights.to_haste(Case().module(nn.GRU))[0].items():
        module.register_parameter(name, nn.Parameter(x))
    assert weights.from_haste(module, batch_first=True).batch_first


@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
def test_hastes_layer_norm_and_zoneout(bidirectional: bool) -> None:
    """To and from; the formula is in test_cells_by_definition.py."""
    rnn = gru_fused.GRU(3, 5, 2, bidirectional=bidirectional, layer_norm="projections", zoneout=0.2).eval()
    with torch.no_grad():
        for p in rnn.parameters():
            p.add_(torch.randn_like(p))
    states = weights.to_haste(rnn)
    first = states[0][0] if bidirectional else states[0]
    assert {name: tuple(y.shape) for name, y in first.items()}["gamma"] == (2, 15)
    torch.testing.assert_close(first["gamma"][1, 5:10], rnn.norm_hh_l0[:5])  # z, r, h there; r, z, n here
    back = weights.from_haste(*states, zoneout=0.2).eval()
    assert back.options == rnn.options
    x = torch.randn(4, 2, 3)
    assert torch.equal(back(x)[0], rnn(x)[0])
    with pytest.raises(NotImplementedError, match="to_haste: expected layer_norm=None or 'projections'"):
        weights.to_haste(gru_fused.GRU(3, 4, layer_norm="sum"))
    with pytest.raises(ValueError, match="layers: expected a gamma in all of them, or in none"):
        weights.from_haste(
            *weights.to_haste(gru_fused.GRU(5, 5)), *weights.to_haste(gru_fused.GRU(5, 5, layer_norm="projections"))
        )
