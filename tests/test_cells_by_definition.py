"""Each variant of the cell against its definition where it comes from, written out here step by step in torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gru_fused

T, B, I, H = 6, 3, 4, 5  # noqa: E741 - the letters of the formulas
Step = Callable[[Tensor, Tensor], Tensor]


@pytest.fixture(autouse=True)
def float64() -> None:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_same(rnn: gru_fused.GRU, step: Step, parameters: dict[str, Tensor], **marks: Tensor) -> None:
    """Results and the gradients of everything, against a loop of ``step(x_t, h)`` on parameters of its own."""
    x, hx = torch.randn(T, B, I, requires_grad=True), torch.randn(1, B, H, requires_grad=True)
    h, outputs = hx[0], []
    for t in range(T):
        h = step(x[t], h) if not marks else step(x[t], h, *(mark[t] for mark in marks.values()))
        outputs.append(h)
    expected = torch.stack(outputs)
    output, h_n = rnn(x, hx, **marks)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(h_n[0], h, rtol=0, atol=1e-13)
    cotangent = torch.randn_like(output)
    theirs = torch.autograd.grad(expected, [x, hx, *parameters.values()], cotangent)
    named = dict(rnn.named_parameters())
    ours = torch.autograd.grad(output, [x, hx, *(named[name] for name in parameters)], cotangent)
    for name, a, b in zip(["x", "hx", *parameters], ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def own(rnn: nn.Module) -> dict[str, Tensor]:
    """Random values for all parameters, and copies of them."""
    with torch.no_grad():
        for p in rnn.parameters():
            p.add_(torch.randn_like(p) / 2)
    return {name: p.detach().clone().requires_grad_() for name, p in rnn.named_parameters()}


def gates(parameters: dict[str, Tensor], x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
    gi = F.linear(x, parameters["weight_ih_l0"], parameters["bias_ih_l0"])
    gh = F.linear(h, parameters["weight_hh_l0"], parameters["bias_hh_l0"])
    return *gi.chunk(3, -1), *gh.chunk(3, -1)


def test_reset_before_the_product() -> None:
    """Cho et al. 2014: the candidate sees U (r * h)."""
    rnn = gru_fused.GRU(I, H, reset_after=False)
    p = own(rnn)

    def step(x: Tensor, h: Tensor) -> Tensor:
        i_r, i_z, i_n, h_r, h_z, _ = gates(p, x, h)
        r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
        candidate = torch.tanh(i_n + F.linear(r * h, p["weight_hh_l0"][2 * H :], p["bias_hh_l0"][2 * H :]))
        return z * h + (1 - z) * candidate

    assert_same(rnn, step, p)


def test_normalised_projections() -> None:
    """haste's LayerNormGRU: each projection is normalised over its 3H numbers, with a gain; then the biases."""
    rnn = gru_fused.GRU(I, H, layer_norm="projections")
    p = own(rnn)

    def normalised(y: Tensor, gain: Tensor) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return gain * centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5)

    def step(x: Tensor, h: Tensor) -> Tensor:
        of_x = normalised(x @ p["weight_ih_l0"].T, p["norm_ih_l0"]) + p["bias_ih_l0"]
        of_h = normalised(h @ p["weight_hh_l0"].T, p["norm_hh_l0"]) + p["bias_hh_l0"]
        r = torch.sigmoid(of_x[:, :H] + of_h[:, :H])
        z = torch.sigmoid(of_x[:, H : 2 * H] + of_h[:, H : 2 * H])
        candidate = torch.tanh(of_x[:, 2 * H :] + r * of_h[:, 2 * H :])
        return z * h + (1 - z) * candidate

    assert_same(rnn, step, p)


class DreamerCell(nn.Module):
    """One bias-free linear of [x, h], LayerNorm over its 3H numbers, reset, candidate and update in this order, the
    update gate's bias lowered by one, h' = update * candidate + (1 - update) * h (Hafner et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(I + H, 3 * H, bias=False), nn.LayerNorm(3 * H, eps=1e-3)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        reset, candidate, update = self.norm(self.linear(torch.cat([x, h], -1))).chunk(3, -1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1)
        return update * candidate + (1 - update) * h


def test_dreamers_cell_with_its_weights() -> None:
    """As docs/recipes.md takes them over."""
    cell = DreamerCell()
    own(cell)
    rnn = gru_fused.GRU(I, H, layer_norm="sum", norm_eps=1e-3)

    def turned(y: Tensor) -> Tensor:  # to r, z, n, with z for the old state
        reset, candidate, update = y.detach().chunk(3)
        return torch.cat([reset, update, candidate])

    sign = torch.cat([torch.ones(H), -torch.ones(H), torch.ones(H)])
    lowered = cell.norm.bias.detach() - torch.cat([torch.zeros(2 * H), torch.ones(H)])
    weight = turned(cell.linear.weight)
    rnn.load_state_dict(
        {
            "weight_ih_l0": weight[:, :I],
            "weight_hh_l0": weight[:, I:],
            "bias_ih_l0": torch.zeros(3 * H),
            "bias_hh_l0": turned(lowered) * sign,
            "norm_l0": turned(cell.norm.weight) * sign,
        }
    )
    assert_same(rnn, cell, {})


def test_attention() -> None:
    """AUGRU (Zhou et al. 2019): the update gate, which there weighs the new state, is scaled by the score."""
    rnn = gru_fused.GRU(I, H)
    p = own(rnn)

    def step(x: Tensor, h: Tensor, score: Tensor) -> Tensor:
        i_r, i_z, i_n, h_r, h_z, h_n = gates(p, x, h)
        update = score.unsqueeze(-1) * torch.sigmoid(-(i_z + h_z))
        return (1 - update) * h + update * torch.tanh(i_n + torch.sigmoid(i_r + h_r) * h_n)

    assert_same(rnn, step, p, attention=torch.rand(T, B))


def test_the_gradient_of_attention() -> None:
    rnn = gru_fused.GRU(I, H, 2, bidirectional=True)
    x, score = torch.randn(T, B, I), torch.rand(T, B, requires_grad=True)
    torch.autograd.gradcheck(lambda score: rnn(x, attention=score), score)


@pytest.mark.parametrize("activation", ["relu", "softsign"])
@pytest.mark.parametrize("gate", ["hard_sigmoid", "hard_sigmoid_fifth"])
def test_activations(activation: str, gate: str) -> None:
    rnn = gru_fused.GRU(I, H, activation=activation, gate_activation=gate)
    p = own(rnn)
    slope = {"hard_sigmoid": 1 / 6, "hard_sigmoid_fifth": 1 / 5}[gate]
    of_candidate = {"relu": torch.relu, "softsign": F.softsign}[activation]

    def step(x: Tensor, h: Tensor) -> Tensor:
        i_r, i_z, i_n, h_r, h_z, h_n = gates(p, x, h)
        z = of_gates(i_z + h_z)
        return z * h + (1 - z) * of_candidate(i_n + of_gates(i_r + h_r) * h_n)

    def of_gates(y: Tensor) -> Tensor:  # the derivative of F.hardsigmoid is 1/6 in float32 only
        return (slope * y + 0.5).clamp(0, 1)

    y = torch.linspace(-4, 4, 99)
    if gate == "hard_sigmoid":
        torch.testing.assert_close(of_gates(y), F.hardsigmoid(y), rtol=0, atol=1e-15)
    assert_same(rnn, step, p)


def test_zoneout_in_evaluation() -> None:
    """Krueger et al. 2017: every unit keeps the share of its state that it would keep on average."""
    rnn = gru_fused.GRU(I, H, zoneout=0.3).eval()
    plain = nn.GRUCell(I, H)
    p = own(rnn)
    plain.load_state_dict({name.removesuffix("_l0"): y.detach() for name, y in p.items()})
    assert_same(rnn, lambda x, h: 0.3 * h + 0.7 * plain(x, h), {})


def test_zoneout_in_training() -> None:
    """A unit either keeps its state or makes the plain step; as many keep it as were asked to."""
    rnn, plain = gru_fused.GRU(8, 64, zoneout=0.3), nn.GRUCell(8, 64)
    plain.load_state_dict({name.removesuffix("_l0"): y for name, y in rnn.state_dict().items()})
    x = torch.randn(50, 16, 8)
    output, _ = rnn(x)
    before = torch.cat([torch.zeros(1, 16, 64), output[:-1]])
    moved = plain(x.flatten(0, 1), before.flatten(0, 1)).view_as(output)
    kept = output == before
    torch.testing.assert_close(output[~kept], moved[~kept], rtol=0, atol=1e-13)
    share = kept[1:].double().mean().item()  # 50,000 draws: a deviation of 0.002
    assert abs(share - 0.3) < 0.01
    assert not torch.equal(kept[1], kept[2])


def test_recurrent_dropout_has_one_mask_for_all_steps() -> None:
    """Gal & Ghahramani 2016: the same units of the state are left out of the product in every step."""
    rnn = gru_fused.GRU(I, H, recurrent_dropout=0.4)
    p = own(rnn)
    torch.manual_seed(5)
    mask = F.dropout(torch.ones(1, B, H), 0.4)[0]
    assert not mask.all() and mask.any()

    def step(x: Tensor, h: Tensor) -> Tensor:
        *_, h_r, h_z, h_n = gates(p, x, h * mask)
        i_r, i_z, i_n, *_ = gates(p, x, h)
        z = torch.sigmoid(i_z + h_z)
        return z * h + (1 - z) * torch.tanh(i_n + torch.sigmoid(i_r + h_r) * h_n)

    x, hx = torch.randn(T, B, I), torch.randn(1, B, H)
    h, outputs = hx[0], []
    for t in range(T):
        h = step(x[t], h)
        outputs.append(h)
    torch.manual_seed(5)
    torch.testing.assert_close(rnn(x, hx)[0], torch.stack(outputs), rtol=0, atol=1e-13)


@pytest.mark.parametrize("options", [{}, {"reset_after": False}, {"layer_norm": "sum"}], ids=str)
def test_reverse_is_the_flipped_input(options: dict[str, object]) -> None:
    backwards = gru_fused.GRU(I, H, 2, reverse=True, **options)
    forwards = gru_fused.GRU(I, H, 2, **options)
    forwards.load_state_dict(backwards.state_dict())
    x, hx = torch.randn(T, B, I), torch.randn(2, B, H)
    output, h_n = backwards(x, hx)
    flipped, last = forwards(x.flip(0), hx)
    torch.testing.assert_close(output, flipped.flip(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n, last, rtol=0, atol=1e-14)
