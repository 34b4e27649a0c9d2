"""Parameters are read where they are: tied, replaced, deleted and restored, parametrized, normed or pruned ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from helpers import Case, assert_equal_to_rounding, leaf, run, twin
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm, weight_norm

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

CASE = Case(layers=2, H=5, I=5, bidirectional=True)
Treatment = Callable[[nn.Module], object]


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Symmetric(nn.Module):
    """A parametrization whose result isn't contiguous."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.T.contiguous() + 1).T


def tie_directions(rnn: nn.Module) -> None:
    rnn.weight_hh_l0_reverse = rnn.weight_hh_l0
    rnn.weight_ih_l0_reverse = rnn.weight_ih_l0
    rnn.bias_hh_l0_reverse = rnn.bias_ih_l0


def tie_layers(rnn: nn.Module) -> None:
    rnn.weight_hh_l1 = rnn.weight_hh_l0
    rnn.bias_ih_l1_reverse = rnn.bias_ih_l0


def delete_and_restore(rnn: nn.Module) -> None:
    weight = rnn.weight_hh_l0
    del rnn.weight_hh_l0
    rnn.weight_hh_l0 = nn.Parameter(1.5 * weight.detach())


def replace_by_a_plain_tensor(rnn: nn.Module) -> None:
    """As hypernetworks do: the gradient goes on to what made the tensor."""
    weight = rnn.weight_hh_l0
    del rnn.weight_hh_l0
    rnn.register_parameter("source", nn.Parameter(weight.detach().clone()))
    rnn.weight_hh_l0 = rnn.source.sin()


def scale_in_place(rnn: nn.Module) -> None:
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(1.5)


def assign_data(rnn: nn.Module) -> None:
    rnn.weight_hh_l0.data = rnn.weight_hh_l0.data.T.contiguous().T * 1.5


def normed_by_hook(rnn: nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the deprecation is torch's matter
        weight_norm(rnn, "weight_hh_l0")
    with torch.no_grad():
        rnn.weight_hh_l0_g.mul_(1.5)


def normed_by_hook_and_removed(rnn: nn.Module) -> None:
    normed_by_hook(rnn)
    remove_weight_norm(rnn, "weight_hh_l0")


def normed_by_parametrization(rnn: nn.Module) -> None:
    for name in ("weight_hh_l0", "weight_ih_l1_reverse"):
        parametrizations.weight_norm(rnn, name)
        with torch.no_grad():
            rnn.parametrizations[name].original0.mul_(1.5)


def parametrized_and_removed(rnn: nn.Module) -> None:
    parametrize.register_parametrization(rnn, "weight_hh_l0", Doubled())
    parametrize.remove_parametrizations(rnn, "weight_hh_l0", leave_parametrized=True)


def pruned(rnn: nn.Module) -> None:
    prune.l1_unstructured(rnn, "weight_hh_l0", amount=0.5)
    prune.ln_structured(rnn, "weight_ih_l1", amount=0.3, n=2, dim=0)


def pruned_and_removed(rnn: nn.Module) -> None:
    pruned(rnn)
    prune.remove(rnn, "weight_hh_l0")


def through_another_dtype(rnn: nn.Module) -> None:
    rnn.to(torch.bfloat16).to(torch.float64)


TREATMENTS: dict[str, Treatment] = {
    "tied-directions": tie_directions,
    "tied-layers": tie_layers,
    "deleted-and-restored": delete_and_restore,
    "plain-tensor": replace_by_a_plain_tensor,
    "scaled-in-place": scale_in_place,
    "data-assigned": assign_data,
    "weight_norm-hook": normed_by_hook,
    "weight_norm-hook-removed": normed_by_hook_and_removed,
    "weight_norm-parametrization": normed_by_parametrization,
    "parametrized": lambda rnn: parametrize.register_parametrization(rnn, "weight_hh_l0", Doubled()),
    "parametrized-strided": lambda rnn: parametrize.register_parametrization(rnn, "weight_hh_l1", Symmetric()),
    "parametrized-bias": lambda rnn: parametrize.register_parametrization(rnn, "bias_hh_l0_reverse", Doubled()),
    "parametrized-and-removed": parametrized_and_removed,
    "orthogonal": lambda rnn: parametrizations.orthogonal(rnn, "weight_hh_l0", use_trivialization=False),
    "pruned": pruned,
    "pruned-and-removed": pruned_and_removed,
    "another-dtype-and-back": through_another_dtype,
    "shared-memory": lambda rnn: rnn.share_memory(),
}
UNCHANGED = {"shared-memory"}


@pytest.mark.parametrize("called", [False, True], ids=["fresh", "called-before"])
@pytest.mark.parametrize("name", TREATMENTS)
def test_treated_alike_results_and_gradients_alike(name: str, called: bool) -> None:
    ours = CASE.module(gru_fused.GRU)
    theirs = twin(ours, nn.GRU)
    x, hx = CASE.inputs()
    cotangents = CASE.cotangents()
    before = run(twin(ours, gru_fused.GRU), x, hx, cotangents)
    found = []
    for rnn in (ours, theirs):
        if called:
            rnn(x, hx)
        torch.manual_seed(3)
        TREATMENTS[name](rnn)
        found.append(run(rnn, x, hx, cotangents))
    assert_equal_to_rounding(*found, eps=1e-12)
    assert torch.equal(found[0]["output"], before["output"]) == (name in UNCHANGED)


def test_two_grus_with_tied_weights_add_their_gradients() -> None:
    first, second = Case().module(gru_fused.GRU), Case().module(gru_fused.GRU)
    second.weight_hh_l0 = first.weight_hh_l0
    second.bias_ih_l0 = first.bias_ih_l0
    x, hx = Case().inputs()
    cotangents = Case().cotangents()
    alone = [run(twin(rnn, nn.GRU), x, hx, cotangents) for rnn in (first, second)]
    for rnn in (first, second):
        torch.autograd.backward(list(rnn(x, hx)), list(cotangents))
    for name in ("weight_hh_l0", "bias_ih_l0"):
        assert getattr(first, name) is getattr(second, name)
        expected = sum(results[f"grad of {name}"] for results in alone)
        torch.testing.assert_close(getattr(first, name).grad, expected, rtol=1e-11, atol=1e-13)


def test_one_weight_in_two_roles() -> None:
    """Input and recurrent weights may be the same parameter when I = H."""
    ours = Case(I=6).module(gru_fused.GRU)
    ours.weight_ih_l0 = ours.weight_hh_l0
    x, hx = Case(I=6).inputs()
    theirs = twin(ours, nn.GRU)
    theirs.weight_ih_l0 = theirs.weight_hh_l0
    cotangents = Case(I=6).cotangents()
    assert_equal_to_rounding(run(ours, x, hx, cotangents), run(theirs, x, hx, cotangents), eps=1e-12)


def test_a_deleted_weight_is_missed_by_name() -> None:
    """nn.GRU goes on with the deleted one."""
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()
    ours(x, hx)
    del ours.weight_hh_l1
    with pytest.raises(AttributeError, match="'GRU' object has no attribute 'weight_hh_l1'"):
        ours(x, hx)


def test_functional_call_uses_the_given_parameters_and_their_gradients() -> None:
    ours = CASE.module(gru_fused.GRU)
    other = CASE.module(nn.GRU)
    x, hx = CASE.inputs()
    cotangents = CASE.cotangents()
    own = {name: p.detach().clone() for name, p in ours.named_parameters()}
    given = {name: leaf(p.clone()) for name, p in other.named_parameters()}
    found = torch.autograd.grad(functional_call(ours, given, (x, hx)), list(given.values()), cotangents)
    expected = torch.autograd.grad(other(x, hx), list(other.parameters()), cotangents)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
    for name, p in ours.named_parameters():
        assert torch.equal(p, own[name])
        assert p.grad is None
    torch.testing.assert_close(ours(x, hx), twin(ours, nn.GRU)(x, hx), rtol=1e-12, atol=1e-13)


def test_functional_call_with_some_of_the_parameters() -> None:
    ours = CASE.module(gru_fused.GRU)
    theirs = twin(ours, nn.GRU)
    x, hx = CASE.inputs()
    given = {"weight_hh_l0": torch.randn_like(ours.weight_hh_l0)}
    found, expected = (functional_call(rnn, given, (x, hx)) for rnn in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam], ids=["SGD", "Adam"])
def test_training_steps_are_nn_grus(optimizer: type[torch.optim.Optimizer]) -> None:
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()

    def losses(rnn: nn.Module) -> list[float]:
        steps = optimizer(rnn.parameters(), lr=0.05)
        found = []
        for _ in range(6):
            output, h_n = rnn(x, hx)
            loss = (output - 0.3).square().mean() + h_n.square().mean()
            steps.zero_grad()
            loss.backward()
            steps.step()
            found.append(loss.item())
        return found

    theirs = twin(ours, nn.GRU)
    found = losses(ours)
    assert found == pytest.approx(losses(theirs), rel=1e-9)
    assert found[-1] < 0.9 * found[0]
