"""A training call goes through a node of C++, and nobody can tell but by the time: it gives the Python node's bits."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import AWKWARD, DTYPES, PACKED, Case, data_of, dtype_id, leaf, outcome, run, with_data
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import gru_fused
from gru_fused import _ops, functional

pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.skipif(_ops.node is None, reason="this installation's node is of another torch"),
]

Alike = Callable[[Callable[[], Any]], None]
Tensors = tuple[Tensor, ...]


class OneStep(gru_fused.GRUCell):
    """A cell with a layer's arguments and results."""

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensors:
        h = super().forward(x[0], None if hx is None else hx[0])[None]
        return h, h.clone()


@dataclass(frozen=True)
class CellCase(Case):
    T: int = 1

    def __str__(self) -> str:
        return f"cell-{super().__str__()}"

    def module(self, cls: Callable[..., nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
        return OneStep(self.I, self.H, bias=self.bias, dtype=dtype)


LAYER = Case(T=7, B=3, I=5, H=9, bidirectional=True)
CELL = CellCase(B=3, I=5, H=33)
CELLS = [CellCase(B=17, I=7, H=130, bias=bias, hx=hx) for bias, hx in product((True, False), repeat=2)]
SIZES = [LAYER, Case(B=17, I=33, H=130, layers=2, bias=False), Case(lengths=(2, 7, 1), H=33, layers=2), *CELLS]
layer_and_cell = pytest.mark.parametrize("case", [LAYER, CELL], ids=["layer", "cell"])


class Call:
    """A module with an input, a state and cotangents, to be called again and again."""

    def __init__(self, case: Case, recompute: bool = False) -> None:
        self.rnn = case.module(partial(gru_fused.GRU, recompute=recompute))
        self.x, hx = case.inputs()
        self.cotangents = case.cotangents()
        self.named = {"input": leaf(data_of(self.x)), "hx": leaf(hx), **dict(self.rnn.named_parameters())}
        self.wanted = list(self.named.values())

    def __call__(self) -> Tensors:
        output, h_n = self.rnn(with_data(self.x, self.wanted[0]), self.wanted[1])
        return data_of(output), h_n

    def gradients(self, **options: bool) -> Tensors:
        return torch.autograd.grad(self(), self.wanted, self.cotangents, **options)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the node of C++ took each call that it was offered."""
    answers: list[bool] = []
    apply = _ops.node.apply

    def spy(*args: Any) -> Any:
        results: Any = "an exception"
        try:
            results = apply(*args)
        finally:
            answers.append(results is not None)
        return results

    monkeypatch.setattr(_ops, "node", SimpleNamespace(**{**vars(_ops.node), "apply": spy}))
    return answers


@pytest.fixture
def alike(taken: list[bool], monkeypatch: pytest.MonkeyPatch) -> Alike:
    """Checks that a call takes the node of C++ and gives the same without it."""

    def check(call: Callable[[], Any]) -> None:
        ours = call()
        assert taken and all(taken)
        calls = len(taken)
        monkeypatch.setattr(_ops, "node", None)
        torch.manual_seed(0)
        assert_same(ours, call())
        assert len(taken) == calls

    return check


def assert_same(ours: Any, theirs: Any) -> None:
    for one, other in zip(tree_leaves(ours), tree_leaves(theirs), strict=True):
        assert type(one) is type(other)
        if isinstance(one, Tensor):
            assert one.dtype == other.dtype and one.stride() == other.stride() and torch.equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
def test_training_takes_the_node(taken: list[bool], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    rnn, cell, x = gru_fused.GRU(5, 7, dtype=dtype), gru_fused.GRUCell(5, 7, dtype=dtype), torch.randn(3, 5).to(dtype)
    for in_python in (False, True):
        for y in (*rnn(x[None]), cell(x)):
            assert isinstance(y.grad_fn, torch.autograd.function.BackwardCFunction) == in_python
        assert taken == [True, True]
        monkeypatch.setattr(_ops, "node", None)


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("case, dtype", [*product([*AWKWARD, *PACKED], DTYPES[1:2]), *product(SIZES, DTYPES)], ids=str)
def test_results_and_gradients(alike: Alike, case: Case, dtype: torch.dtype, recompute: bool) -> None:
    made = partial(gru_fused.GRU, recompute=recompute)
    alike(lambda: run(case.module(made, dtype), *case.inputs(dtype), case.cotangents(dtype)))


@pytest.mark.parametrize("used", [(0, 1), (0,), (1,)], ids=["both", "output", "h_n"])
@pytest.mark.parametrize("needed", ["input", "hx", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "_", "input hx"])
@layer_and_cell
def test_only_what_needs_a_gradient_gets_one(alike: Alike, case: Case, needed: str, used: tuple[int, ...]) -> None:
    """``_`` is in the name of every parameter."""

    def backward() -> list[Tensor | None]:
        call = Call(case)
        for name, tensor in call.named.items():
            tensor.requires_grad_(any(part in name for part in needed.split()))
        results = call()
        torch.autograd.backward([results[i] for i in used], [call.cotangents[i] for i in used])
        assert all((tensor.grad is not None) == tensor.requires_grad for tensor in call.wanted)
        return [tensor.grad for tensor in call.wanted]

    alike(backward)


@pytest.mark.parametrize("recompute", [False, True], ids=["", "recompute"])
@pytest.mark.parametrize("case", [LAYER, CELL, PACKED[3]], ids=["layer", "cell", "packed"])
def test_second_and_third_derivatives(alike: Alike, case: Case, recompute: bool) -> None:
    def derivatives() -> list[Tensor]:
        call = Call(case, recompute)
        call.cotangents = [leaf(c) for c in call.cotangents]
        slopes, variables = call.gradients(create_graph=True), [*call.wanted, *call.cotangents]
        bends = torch.autograd.grad([y.sin().sum() for y in slopes], variables, create_graph=True)
        return [*slopes, *bends, *torch.autograd.grad([y.sin().sum() for y in bends], variables)]

    alike(derivatives)


def same_with_both_nodes(scenario: Callable[[Case], Any]) -> Callable[..., None]:
    @layer_and_cell
    def test(alike: Alike, case: Case) -> None:
        alike(lambda: scenario(case))

    return test


@same_with_both_nodes
def test_gradients_of_what_is_asked_for_alone(case: Case) -> list[Any]:
    call, found = Call(case), []
    for one in call.wanted:
        (slope,) = torch.autograd.grad(call(), [one], call.cotangents, create_graph=True)
        bends = torch.autograd.grad(slope.sin().sum(), call.wanted, materialize_grads=True)
        found += [slope, *bends, *torch.autograd.grad(call(), [one], call.cotangents)]
    return found


@same_with_both_nodes
def test_backward_twice_with_and_without_the_graph(case: Case) -> list[Any]:
    call = Call(case)
    gradients = partial(torch.autograd.grad, call(), call.wanted, call.cotangents)
    first, second = gradients(retain_graph=True), gradients()
    assert_same(first, second)
    kind, message = outcome(gradients)
    assert kind == "RuntimeError" and "backward through the graph a second time" in message
    return [*first, message]


@same_with_both_nodes
def test_saved_tensors_changed_in_place(case: Case) -> None:
    for i in range(len(Call(case).wanted) + 1):
        call = Call(case)
        results = call()
        with torch.no_grad():
            [results[0], *call.wanted][i].add_(1)
        kind, message = outcome(partial(torch.autograd.backward, results, call.cotangents))
        assert kind == "RuntimeError" and "modified by an inplace operation" in message


@same_with_both_nodes
def test_hooks_of_saved_tensors(case: Case) -> list[Any]:
    seen: list[tuple[Any, ...]] = []
    call = Call(case)
    expected = call.gradients()

    def note(what: str, y: Tensor) -> Tensor:
        seen.append((what, *y.shape))
        return y.detach().clone()

    with saved_tensors_hooks(lambda y: [note("pack", y)], lambda packed: note("unpack", packed[0])):
        assert_same(call.gradients(), expected)
    assert len(seen) >= 2 * len(call.wanted)
    for hooks in ((lambda _: 1 / 0, lambda y: y), (lambda y: y, lambda _: 1 / 0)):
        with saved_tensors_hooks(*hooks):
            assert outcome(call.gradients) == ("ZeroDivisionError", "division by zero")
    return sorted(seen)


@same_with_both_nodes
def test_checkpointing(case: Case) -> Tensors:
    call = Call(case)
    found = torch.autograd.grad(checkpoint(call, use_reentrant=False), call.wanted, call.cotangents)
    assert_same(found, call.gradients())
    return found


class Watching(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@same_with_both_nodes
def test_dispatch_modes_see_the_same_ops(case: Case) -> list[str]:
    call = Call(case)
    with Watching() as watching:
        slopes = call.gradients(create_graph=True)
        torch.autograd.grad([y.sin().sum() for y in slopes], call.wanted)
    assert any("gru_tangent_backward" in name for name in watching.seen)
    return watching.seen


@same_with_both_nodes
def test_batched_gradients_are_refused(case: Case) -> tuple[str, str]:
    call = Call(case)
    call.cotangents = [c.expand(2, *c.shape) for c in call.cotangents]
    return outcome(partial(call.gradients, is_grads_batched=True))


@same_with_both_nodes
def test_hooks_of_tensors_and_modules(case: Case) -> list[Any]:
    seen: list[Any] = []
    call = Call(case)
    for name, p in call.rnn.named_parameters():
        p.register_post_accumulate_grad_hook(lambda p, name=name: seen.append((name, p.grad.clone())))
    call.rnn.register_full_backward_pre_hook(lambda _, grads: seen.append(("before", *grads)))
    call.rnn.register_full_backward_hook(lambda _, inputs, outputs: seen.append(("after", *inputs, *outputs)))
    results = call()
    results[0].register_hook(lambda grad: 2 * grad)
    results[1].retain_grad()
    torch.autograd.backward(results, call.cotangents)
    assert len(seen) == 2 + len(list(call.rnn.parameters()))
    return [*seen, results[1].grad]


@same_with_both_nodes
def test_anomaly_detection_names_the_call(case: Case) -> str:
    call = Call(case)
    nn.init.constant_(call.wanted[2], float("inf"))
    with pytest.warns(UserWarning, match="in test_anomaly_detection"), torch.autograd.set_detect_anomaly(True):
        results = call()
        kind, message = outcome(lambda: torch.autograd.backward(results, call.cotangents))
    assert kind == "RuntimeError" and "returned nan values" in message
    return message.split("returned")[1]  # what precedes is the node's name


@same_with_both_nodes
def test_compiled_autograd(case: Case) -> list[Tensor | None]:
    call = Call(case)
    results = call()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        torch.autograd.backward(results, call.cotangents)
    return [y.grad for y in call.wanted]


@pytest.mark.parametrize("shared", [False, True], ids=["own_modules", "one_module"])
@layer_and_cell
def test_threads(taken: list[bool], case: Case, shared: bool) -> None:
    calls = [Call(case) for _ in range(4)]
    if shared:
        for call in calls:
            call.rnn, call.wanted[2:] = calls[0].rnn, calls[0].wanted[2:]
    expected = [call.gradients() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda call: [call.gradients() for _ in range(20)], calls))
    assert_same(found, [[right] * 20 for right in expected])
    assert taken == [True] * 84


@pytest.mark.parametrize("graph", [False, True], ids=["", "create_graph"])
@layer_and_cell
def test_nothing_outlives_the_graph(taken: list[bool], case: Case, graph: bool) -> None:
    call = Call(case)
    gc.disable()  # a cycle would stay
    try:
        results = call()
        slopes = torch.autograd.grad(results, call.wanted, call.cotangents, create_graph=graph)
        alive = [weakref.ref(y) for y in (*call.wanted, *results, *slopes)]
        del call, results, slopes
        assert taken == [True] and not any(y() is not None for y in alive)
    finally:
        gc.enable()


@same_with_both_nodes
def test_the_profiler_sees_the_ops(case: Case) -> list[str]:
    with torch.profiler.profile() as profile:
        Call(case).gradients()
    found = [event.name.removeprefix("gru_fused::") for event in profile.events() if "gru_fused::gru" in event.name]
    assert found == (["gru_cell_train", "gru_cell_backward"] if case is CELL else ["gru_forward_train", "gru_backward"])
    return found


WRONG: dict[str, dict[str, Tensor]] = {
    "width of x": dict(x=torch.ones(5, 2, 9)),
    "dtype of x": dict(x=torch.ones(5, 2, 3).double()),
    "integers": dict(x=torch.ones(5, 2, 3).long()),
    "sparse x": dict(x=torch.ones(5, 2, 3).to_sparse()),
    "dtype of hx": dict(hx=torch.ones(1, 2, 4).half()),
    "batch of hx": dict(hx=torch.ones(1, 3, 4)),
    "device of hx": dict(hx=torch.ones(1, 2, 4, device="meta")),
    "shape of a weight": dict(w_hh=torch.ones(12, 5)),
    "dtype of a weight": dict(w_hh=torch.ones(12, 4).double()),
}


@pytest.mark.parametrize("cell", [False, True], ids=["layer", "cell"])
@pytest.mark.parametrize("wrong", WRONG)
def test_errors(alike: Alike, wrong: str, cell: bool) -> None:
    given = dict(x=torch.ones(5, 2, 3), hx=torch.ones(1, 2, 4), w_ih=torch.ones(12, 3), w_hh=torch.ones(12, 4))
    x, hx, *weights = (given | WRONG[wrong]).values()
    weights = [*map(leaf, weights), torch.ones(12), torch.ones(12)]
    call = partial(functional.gru_cell, x[0], hx[0], *weights) if cell else partial(functional.gru, x, hx, weights)
    alike(lambda: outcome(call))


class Made(tuple):
    """Gives what nobody else keeps."""

    def __getitem__(self, i: Any) -> Any:
        found = super().__getitem__(i)
        return Made(found) if isinstance(i, slice) else found * 1

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))


@pytest.mark.parametrize("sequence", [tuple, nn.ParameterList, Made])
def test_any_sequence_of_weights(alike: Alike, sequence: Callable[..., Any]) -> None:
    call = Call(LAYER)
    alike(lambda: functional.gru(call.x, call.wanted[1], sequence(call.wanted[2:]), bidirectional=True))


Marked = type("Marked", (Tensor,), {})
MarkedParameter = type("MarkedParameter", (nn.Parameter,), {})


@pytest.mark.parametrize("place", ["input", "hx", "weight_hh"])
@layer_and_cell
def test_subclasses_go_to_the_python_node(taken: list[bool], case: Case, place: str) -> None:
    call = Call(case)
    expected = call.gradients()
    assert taken.pop()
    if place == "weight_hh":
        name = list(call.named)[3]
        setattr(call.rnn, name, MarkedParameter(call.named[name].detach()))
        call.wanted[3] = getattr(call.rnn, name)
    else:
        i = ("input", "hx").index(place)
        call.wanted[i] = call.wanted[i].detach().as_subclass(Marked).requires_grad_()
    assert isinstance(call()[0], Marked) == (place != "weight_hh")
    assert_same([y.as_subclass(Tensor) for y in call.gradients()], [*expected])
    assert taken == [False, False]


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
def test_function_modes_tracing_and_compiling_go_to_the_python_node(taken: list[bool]) -> None:
    cell, x, h = gru_fused.GRUCell(5, 33), torch.randn(3, 5), torch.randn(3, 33)
    gradients = partial(torch.autograd.grad, inputs=list(cell.parameters()), grad_outputs=torch.randn(3, 33))
    expected = gradients(cell(x, h))
    assert taken.pop()
    with BaseTorchFunctionMode():
        assert_same(gradients(cell(x, h)), expected)
    assert_same(gradients(torch.jit.trace(cell, (torch.randn(3, 5), h), check_trace=False)(x, h)), expected)
    assert_same(gradients(torch.compile(cell, fullgraph=True, backend="aot_eager")(x, h)), expected)
    assert not taken


@layer_and_cell
def test_fake_tensors_go_to_the_python_node(taken: list[bool], case: Case) -> None:
    with FakeTensorMode():
        found = Call(case).gradients()
    assert taken == [False]
    assert [(y.shape, y.stride()) for y in found] == [(y.shape, y.stride()) for y in Call(case).gradients()]


def test_a_torch_without_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = Call(LAYER).gradients()
    monkeypatch.setattr(torch, "__version__", "9.9.9+cpu")
    monkeypatch.setattr(_ops, "node", _ops._load_node())
    torch.manual_seed(0)
    assert _ops.node is None
    assert_same(Call(LAYER).gradients(), expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@layer_and_cell
def test_inference_makes_no_node(taken: list[bool], case: Case, mode: Callable[[], Any]) -> None:
    call = Call(case)
    with mode():
        results = call()
    for y in call.wanted:
        y.requires_grad_(False)
    frozen = call()
    assert not taken and all(y.grad_fn is None for y in (*results, *frozen))
    assert_same(list(frozen), list(results))
