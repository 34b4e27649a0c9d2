"""convert(model) and revert(model) swap the modules and keep everything else; compat.GRU is an nn.GRU."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from helpers import PACKED, Case, ReferenceGRU, assert_equal_to_rounding, data_of, forward, run, twin
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import gru_fused
from gru_fused import compat


class Model(nn.Module):
    """GRUs where models have them: as attributes, in containers, nested, shared, beside other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 4)
        self.encoder = nn.GRU(4, 6, 2, bidirectional=True, batch_first=True, dropout=0.5)
        self.cells = nn.ModuleList([nn.GRUCell(12, 6), nn.GRUCell(6, 6, bias=False)])
        self.inner = nn.ModuleDict({"block": nn.Sequential(nn.Linear(6, 6), nn.GRU(6, 6))})
        self.again = self.inner["block"][1]
        self.other = nn.LSTM(6, 6)
        self.nothing = None
        self.register_module("absent", None)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.encoder(self.embed(tokens))
        h = None
        for step in x.unbind(1):
            h = self.cells[1](self.cells[0](step, h), h)
        x, _ = self.again(self.inner["block"](h.unsqueeze(0))[0])
        return self.other(x)[0]


def made() -> Model:
    torch.manual_seed(1)
    return Model().double()


TOKENS = torch.arange(15).view(3, 5) % 11


def gradients(model: nn.Module) -> list[Tensor]:
    model.zero_grad()
    torch.manual_seed(2)  # of dropout
    model(TOKENS).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def kinds(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in model.named_modules(remove_duplicate=False)}


CONVERTED = {
    "encoder": gru_fused.GRU,
    "cells.0": gru_fused.GRUCell,
    "cells.1": gru_fused.GRUCell,
    "inner.block.1": gru_fused.GRU,
    "again": gru_fused.GRU,
}


def test_all_grus_are_swapped_and_nothing_else() -> None:
    model = made()
    before = kinds(model)
    assert gru_fused.convert(model) is model
    assert kinds(model) == {**before, **CONVERTED}
    assert model.again is model.inner["block"][1], "shared before, shared after"
    assert gru_fused.revert(model) is model
    assert kinds(model) == before
    assert model.again is model.inner["block"][1]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_results_and_gradients_stay(training: bool) -> None:
    model = made().train(training)
    torch.manual_seed(2)
    output, before = model(TOKENS), gradients(model)
    for swap in (gru_fused.convert, gru_fused.revert):
        swap(model)
        torch.manual_seed(2)
        torch.testing.assert_close(model(TOKENS), output, rtol=1e-11, atol=1e-13)
        torch.testing.assert_close(gradients(model), before, rtol=1e-9, atol=1e-12)


def test_parameters_are_the_very_same() -> None:
    model = made()
    names, parameters = zip(*model.named_parameters(), strict=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for swap in (gru_fused.convert, gru_fused.revert):
        swap(model)
        now_names, now = zip(*model.named_parameters(), strict=True)
        assert now_names == names
        assert all(a is b for a, b in zip(now, parameters, strict=True))
        before = model.encoder.weight_hh_l0.detach().clone()
        gradients(model)
        optimizer.step()
        assert not torch.equal(model.encoder.weight_hh_l0, before), "an optimizer made before still trains it"


def test_mode_dtype_frozen_weights_and_options_stay() -> None:
    model = made().eval()
    model.encoder.train()
    model.encoder.weight_hh_l0.requires_grad_(False)
    model.encoder.label = "mine"
    text = repr(model)
    for swap in (gru_fused.convert, gru_fused.revert):
        swap(model)
        assert model.encoder.training
        assert not model.cells[0].training
        assert not model.encoder.weight_hh_l0.requires_grad
        assert model.encoder.label == "mine"
        assert model.encoder.dropout == 0.5
        assert repr(model) == text


def test_hooks_stay() -> None:
    model = made()
    calls = []
    model.encoder.register_forward_pre_hook(lambda *_: calls.append("before"))
    model.encoder.register_forward_hook(lambda *_: calls.append("after"))
    handle = model.again.register_full_backward_hook(lambda *_: calls.append("backward"))
    for swap in (gru_fused.convert, gru_fused.revert):
        swap(model)
        calls.clear()
        gradients(model)
        assert calls == ["before", "after", "backward", "backward"]
    handle.remove()
    calls.clear()
    gradients(model)
    assert calls == ["before", "after"]


@pytest.mark.parametrize("theirs, ours", [(nn.GRU, gru_fused.GRU), (nn.GRUCell, gru_fused.GRUCell)])
def test_a_model_that_is_a_gru_itself(theirs: type[nn.Module], ours: type[nn.Module]) -> None:
    module = theirs(3, 4)
    weights = list(module.parameters())
    converted = gru_fused.convert(module)
    assert type(converted) is ours
    assert all(a is b for a, b in zip(converted.parameters(), weights, strict=True))
    back = gru_fused.revert(converted)
    assert type(back) is theirs
    assert all(a is b for a, b in zip(back.parameters(), weights, strict=True))
    assert repr(back) == repr(theirs(3, 4))


@pytest.mark.parametrize("case", [Case(), Case(layers=2, bidirectional=True, bias=False), PACKED[0]], ids=str)
def test_weights_can_change_after_a_swap(case: Case) -> None:
    """No list of the weights from before the swap is left in use."""
    for start, swap in ((nn.GRU, gru_fused.convert), (gru_fused.GRU, gru_fused.revert)):
        rnn = swap(case.module(start))
        rnn.weight_hh_l0 = nn.Parameter(torch.randn_like(rnn.weight_hh_l0))
        rnn.weight_ih_l0.data = torch.randn_like(rnn.weight_ih_l0)
        x, hx = case.inputs()
        cotangents = case.cotangents()
        truth = run(twin(rnn, ReferenceGRU), x, hx, cotangents)
        assert_equal_to_rounding(run(rnn, x, hx, cotangents), truth, eps=1e-12)
        assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))


@pytest.mark.parametrize("swap", [gru_fused.convert, lambda m: gru_fused.revert(gru_fused.convert(m))])
def test_a_swapped_model_can_be_copied_saved_and_moved(swap: object) -> None:
    model = swap(made().eval())
    expected = model(TOKENS)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kinds(copied) == kinds(model)
        torch.testing.assert_close(copied(TOKENS), expected, rtol=1e-12, atol=1e-14)
    fresh = made().eval()
    fresh.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(fresh(TOKENS), expected, rtol=1e-11, atol=1e-13)
    assert model.float()(TOKENS).dtype == torch.float32


def test_twice_is_once() -> None:
    model = gru_fused.convert(gru_fused.convert(made()))
    assert kinds(model) == {**kinds(made()), **CONVERTED}
    model = gru_fused.revert(gru_fused.revert(model))
    assert kinds(model) == kinds(made())


def test_a_model_without_grus_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2), nn.RNN(2, 2), nn.RNNCell(2, 2))
    before = list(model.modules())
    assert gru_fused.convert(model) is model
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))
    assert [type(a) for a in model] == [nn.Linear, nn.LSTM, nn.RNN, nn.RNNCell]


def test_subclasses_are_left_alone() -> None:
    """A user's subclass may compute something else."""

    class Mine(nn.GRU):
        pass

    class MyCell(nn.GRUCell):
        pass

    model = nn.ModuleList([Mine(3, 4), MyCell(3, 4)])
    gru_fused.convert(model)
    assert [type(module) for module in model] == [Mine, MyCell]


def test_a_parametrized_gru() -> None:
    """Parametrizing changes a module's class; the swap sees through it, and the parametrization stays."""
    case = Case(layers=2, bidirectional=True)
    model = nn.ModuleDict({"rnn": case.module(nn.GRU)})
    parametrizations.weight_norm(model["rnn"], "weight_hh_l0")
    x, hx = case.inputs()
    cotangents = case.cotangents()
    before = run(model["rnn"], x, hx, cotangents)
    gru_fused.convert(model)
    assert isinstance(model["rnn"], gru_fused.GRU)
    assert_equal_to_rounding(run(model["rnn"], x, hx, cotangents), before, eps=1e-12)
    gru_fused.revert(model)
    assert isinstance(model["rnn"], nn.GRU)
    assert_equal_to_rounding(run(model["rnn"], x, hx, cotangents), before, eps=1e-12)


@pytest.mark.parametrize("case", [Case(), Case(layers=2, bidirectional=True, batch_first=True), *PACKED[:2]], ids=str)
def test_compat_gru(case: Case) -> None:
    rnn = case.module(compat.GRU)
    assert isinstance(rnn, nn.GRU)
    assert repr(rnn) == repr(case.module(nn.GRU))
    x, hx = case.inputs()
    cotangents = case.cotangents()
    truth = run(twin(rnn, ReferenceGRU), x, hx, cotangents)
    assert_equal_to_rounding(run(rnn, x, hx, cotangents), truth, eps=1e-12)
    restored = pickle.loads(pickle.dumps(rnn))
    assert type(restored) is compat.GRU
    assert torch.equal(forward(restored, x, hx)["output"], data_of(rnn(x, hx)[0]))


def test_compat_gru_takes_nn_grus_arguments() -> None:
    rnn = compat.GRU(3, 4, 2, False, True, 0.5, True, device="meta", dtype=torch.float64)
    theirs = nn.GRU(3, 4, 2, False, True, 0.5, True, device="meta", dtype=torch.float64)
    assert repr(rnn) == repr(theirs)
    assert [p.shape for p in rnn.parameters()] == [p.shape for p in theirs.parameters()]
    with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM"):
        compat.GRU(3, 4, proj_size=2)


def test_compat_gru_runs_our_kernels() -> None:
    """Not nn.GRU's forward under another name."""
    assert compat.GRU.forward is not nn.GRU.forward
    assert issubclass(compat.GRU, gru_fused.GRU)
    assert type(gru_fused.revert(compat.GRU(3, 4))) is nn.GRU
