"""What a module is beyond its forward: state_dict, copies, pickles, hooks, dtypes, devices, gradients on request."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import PACKED, Case, assert_equal_to_rounding, data_of, forward, leaf, run, twin, with_data
from torch import Tensor, nn

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

CASE = Case(layers=2, bidirectional=True)
FORMS = [Case(), CASE, Case(layers=3, bias=False)]


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_state_dict_exchange_with_nn_gru(case: Case) -> None:
    ours, theirs = case.module(gru_fused.GRU), case.module(nn.GRU)
    x, hx = case.inputs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert_equal_to_rounding(forward(ours, x, hx), forward(theirs, x, hx))
    fresh = case.module(nn.GRU)
    fresh.load_state_dict(case.module(gru_fused.GRU).state_dict(), strict=True)
    ours.load_state_dict(fresh.state_dict(), strict=True, assign=True)
    assert_equal_to_rounding(forward(ours, x, hx), forward(fresh, x, hx))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
def test_cell_state_dict_exchange_with_nn_gru_cell(bias: bool) -> None:
    ours, theirs = (cls(4, 6, bias=bias, dtype=torch.float64) for cls in (gru_fused.GRUCell, nn.GRUCell))
    x = torch.randn(3, 4, dtype=torch.float64)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-13, atol=1e-14)


def test_a_wrong_state_dict_is_refused() -> None:
    state = Case(bias=False).module(nn.GRU).state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        Case().module(gru_fused.GRU).load_state_dict(state)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Case(bias=False, H=7).module(gru_fused.GRU).load_state_dict(state)


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_attributes_of_nn_gru(case: Case) -> None:
    ours, theirs = case.module(gru_fused.GRU), case.module(nn.GRU)
    parameters = dict(ours.named_parameters())
    assert list(parameters) == list(dict(theirs.named_parameters()))
    assert ours._flat_weights_names == theirs._flat_weights_names == list(parameters)
    assert all(a is b for a, b in zip(ours._flat_weights, parameters.values(), strict=True))
    grouped = [w for group in ours.all_weights for w in group]
    assert [len(group) for group in ours.all_weights] == [len(group) for group in theirs.all_weights]
    assert all(a is b for a, b in zip(grouped, parameters.values(), strict=True))
    assert (ours.mode, ours.proj_size) == ("GRU", 0)
    assert str(ours) == str(theirs)
    assert repr(nn.Sequential(ours)) == repr(nn.Sequential(theirs))


def test_flatten_parameters_does_nothing() -> None:
    ours = CASE.module(gru_fused.GRU)
    before = [(p.data_ptr(), p.clone()) for p in ours.parameters()]
    assert ours.flatten_parameters() is None
    for (pointer, values), p in zip(before, ours.parameters(), strict=True):
        assert p.data_ptr() == pointer
        assert torch.equal(p, values)


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda module: pickle.loads(pickle.dumps(module)),
    "save": saved,
    "twice": lambda module: pickle.loads(pickle.dumps(copy.deepcopy(module))),
}


@pytest.mark.parametrize("called", [False, True], ids=["fresh", "called-before"])
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_independent(duplicate: Callable[[nn.Module], nn.Module], called: bool) -> None:
    ours = CASE.module(gru_fused.GRU).eval()
    ours.weight_hh_l0.requires_grad_(False)
    x, hx = CASE.inputs()
    if called:
        ours(x, hx)
    before = forward(ours, x, hx)
    clone = duplicate(ours)
    assert type(clone) is gru_fused.GRU
    assert not clone.training
    assert [p.requires_grad for p in clone.parameters()] == [p.requires_grad for p in ours.parameters()]
    with torch.no_grad():
        for p in ours.parameters():
            p.zero_()
    assert_equal_to_rounding(forward(clone, x, hx), before, eps=0)
    with torch.no_grad():
        clone.weight_hh_l0.mul_(2)
    assert not torch.equal(forward(clone, x, hx)["output"], before["output"])


@pytest.mark.parametrize("age", ["before 1.8", "before 1.4"])
def test_old_pickles(age: str) -> None:
    """Older torch wrote no proj_size, and at first the parameters themselves in place of their names."""
    ours = CASE.module(gru_fused.GRU)
    state = ours.__getstate__()
    for key in ("proj_size", "_flat_weights"):
        state.pop(key, None)
    if age == "before 1.4":
        del state["_all_weights"], state["_flat_weights_names"]
        state["all_weights"] = ours.all_weights
    else:
        state["_flat_weights"] = list(ours.parameters())
    restored = gru_fused.GRU.__new__(gru_fused.GRU)
    restored.__setstate__(state)
    x, hx = CASE.inputs()
    assert restored.proj_size == 0
    assert restored._flat_weights_names == ours._flat_weights_names
    assert_equal_to_rounding(forward(restored, x, hx), forward(ours, x, hx), eps=0)


def test_state_dict_file(tmp_path: Path) -> None:
    ours = CASE.module(gru_fused.GRU)
    torch.save(ours.state_dict(), tmp_path / "weights.pt")
    other = CASE.module(nn.GRU)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x, hx = CASE.inputs()
    assert_equal_to_rounding(forward(ours, x, hx), forward(other, x, hx))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_to_dtype_and_back(dtype: torch.dtype) -> None:
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()
    before = forward(ours, x, hx)
    assert ours.to(dtype) is ours
    low = forward(ours, x, hx, dtype)
    assert low["output"].dtype == low["h_n"].dtype == dtype
    torch.testing.assert_close(low["output"].double(), before["output"], rtol=0, atol=16 * torch.finfo(dtype).eps)
    assert_equal_to_rounding(forward(ours.double(), x, hx), forward(twin(ours, nn.GRU), x, hx))


@pytest.mark.parametrize("case", [*FORMS, Case(batch_first=True), Case(B=None), Case(B=0), *PACKED[:2]], ids=str)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_meta_gives_the_shapes(case: Case, training: bool) -> None:
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    expected = forward(ours, x, hx)
    on_meta = case.module(gru_fused.GRU).to("meta").train(training)
    with torch.set_grad_enabled(training):
        given = with_data(x, data_of(x).to("meta"))
        output, h_n = on_meta(given, None if hx is None else hx.to("meta"))
    for found, real in zip((data_of(output), h_n), expected.values(), strict=True):
        assert found.is_meta
        assert (found.shape, found.dtype) == (real.shape, real.dtype)
        assert found.requires_grad == training


def test_meta_backward_gives_the_shapes() -> None:
    on_meta = CASE.module(gru_fused.GRU).to("meta")
    output, h_n = on_meta(*(leaf(y.to("meta")) for y in CASE.inputs()))
    (output.sum() + h_n.sum()).backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in on_meta.parameters())


def test_meta_under_the_cpus_autocast() -> None:
    on_meta, x = Case().module(gru_fused.GRU, torch.float32).to("meta"), torch.empty(5, 3, 4, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = on_meta(x)
    assert (output.shape, output.device.type) == ((5, 3, 6), "meta")


def test_from_meta_to_empty() -> None:
    with torch.device("meta"):
        ours = CASE.module(gru_fused.GRU)
    ours.to_empty(device="cpu")
    ours.load_state_dict((theirs := CASE.module(nn.GRU)).state_dict())
    x, hx = CASE.inputs()
    assert_equal_to_rounding(forward(ours, x, hx), forward(theirs, x, hx))
    assert torch.empty_like(ours.weight_hh_l0).isnan().all()
    ours.to_empty(device="cpu")
    ours.reset_parameters()
    assert all(p.isfinite().all() for p in ours.parameters())


def hooked(rnn: nn.Module, x: Tensor, hx: Tensor) -> list[Tensor]:
    """What every kind of hook sees, and the gradients that come out of hooks that change things."""
    seen: list[Tensor] = []

    def double_input(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.extend(args)
        return (2 * args[0], *args[1:])

    def halve_output(_: nn.Module, args: tuple[Tensor, ...], result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        seen.extend([*args, *result])
        return result[0] / 2, result[1]

    def gradients(_: nn.Module, of_inputs: tuple[Tensor, ...], of_outputs: tuple[Tensor, ...]) -> None:
        seen.extend([*of_inputs, *of_outputs])

    handles = [
        rnn.register_forward_pre_hook(double_input),
        rnn.register_forward_hook(halve_output),
        rnn.register_full_backward_hook(gradients),
        rnn.weight_hh_l0.register_hook(lambda gradient: 3 * gradient),
    ]
    output, h_n = rnn(leaf(x), leaf(hx))
    rnn.zero_grad()
    (output.sin().sum() + h_n.cos().sum()).backward()
    seen.extend(p.grad for p in rnn.parameters())
    for handle in handles:
        handle.remove()
    seen.extend(rnn(x, hx))
    return [y.detach() for y in seen]


def test_hooks() -> None:
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()
    found, expected = hooked(ours, x, hx), hooked(twin(ours, nn.GRU), x, hx)
    assert len(found) == 2 + 4 + 4 + 16 + 2
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_no_graph_where_none_is_wanted(context: Callable[[], object]) -> None:
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()
    with context():
        inside = ours(leaf(x) if context is torch.no_grad else x, hx)
    ours.requires_grad_(False)
    for y in (*inside, *ours(x, hx)):
        assert y.grad_fn is None
        assert not y.requires_grad
    assert inside[0].is_inference() == (context is torch.inference_mode)
    theirs = forward(twin(ours, nn.GRU), x, hx)
    torch.testing.assert_close(inside[0], theirs["output"], rtol=1e-12, atol=1e-13)


WANTED = ["input", "hx", *dict(CASE.module(nn.GRU).named_parameters())]


@pytest.mark.parametrize("wanted", WANTED)
def test_gradient_of_one_thing_only(wanted: str) -> None:
    """Each alone, everything else frozen; the numbers are those of the full backward."""
    ours = CASE.module(gru_fused.GRU)
    x, hx = CASE.inputs()
    cotangents = CASE.cotangents()
    everything = run(twin(ours, nn.GRU), x, hx, cotangents)
    ours.requires_grad_(False)
    things = {"input": x, "hx": hx, **dict(ours.named_parameters())}
    things[wanted].requires_grad_(True)
    output, h_n = ours(x, hx)
    assert output.requires_grad
    torch.autograd.backward([output, h_n] if h_n.requires_grad else output, list(cotangents)[: 1 + h_n.requires_grad])
    for name, thing in things.items():
        assert (thing.grad is not None) == (name == wanted)
    torch.testing.assert_close(things[wanted].grad, everything[f"grad of {wanted}"], rtol=1e-10, atol=1e-13)


def test_cell_in_a_loop_is_the_gru() -> None:
    rnn = Case().module(gru_fused.GRU)
    cell = gru_fused.GRUCell(4, 6, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    x, hx = Case().inputs()
    h, steps = hx[0], []
    for step in x:
        h = cell(step, h)
        steps.append(h)
    output, h_n = rnn(x, hx)
    torch.testing.assert_close(torch.stack(steps), output, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(h, h_n[0], rtol=1e-12, atol=1e-14)
