"""Plain inference on the CPU goes past torch's dispatcher, to bitwise the op's results; all else takes the op."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gru_fused
from gru_fused import _direct


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What came of every try to go past the dispatcher."""
    answers: list[bool] = []
    forward = _direct._forward

    def spy(*args: Any) -> bool:
        answers.append(forward(*args))
        return answers[-1]

    monkeypatch.setattr(_direct, "_forward", spy)
    return answers


def by_the_op(call: Callable[[], Any]) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_direct, "_plain", lambda: False)
        return call()


def tensors(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def assert_same(ours: Any, op: Any) -> None:
    for one, other in zip(tensors(ours), tensors(op), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape and one.stride() == other.stride()
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
@pytest.mark.parametrize("with_hx", [True, False], ids=["hx", "zeros"])
def test_a_cell_gives_the_ops_result(taken: list[bool], dtype: torch.dtype, bias: bool, with_hx: bool) -> None:
    cell = gru_fused.GRUCell(7, 130, bias=bias, dtype=dtype)
    args = [torch.randn(3, 7, dtype=dtype)] + ([torch.randn(3, 130, dtype=dtype)] if with_hx else [])
    with torch.inference_mode():
        ours = cell(*args)
        assert taken == [True]
        assert_same(ours, by_the_op(lambda: cell(*args)))


@pytest.mark.parametrize(
    "steps, batch, inputs, hidden", [(1, 1, 64, 64), (3, 2, 5, 7), (50, 4, 33, 130), (20, 1, 1, 1)]
)
@pytest.mark.parametrize("layers", [1, 2, 6])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one_way", "both_ways"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time_first", "batch_first"])
def test_layers_give_the_ops_result(
    taken: list[bool],
    steps: int,
    batch: int,
    inputs: int,
    hidden: int,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> None:
    rnn = gru_fused.GRU(
        inputs, hidden, layers, bidirectional=bidirectional, batch_first=batch_first, dropout=0.5
    ).eval()
    x = torch.randn((batch, steps, inputs) if batch_first else (steps, batch, inputs))
    hx = torch.randn(layers * (1 + bidirectional), batch, hidden)
    for args in ((x,), (x, hx)):
        with torch.no_grad():
            ours = rnn(*args)
            assert taken.pop()
            assert_same(ours, by_the_op(lambda args=args: rnn(*args)))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_worth_two_threads_gives_the_ops_result(taken: list[bool], threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rnn, x = gru_fused.GRU(64, 96, 2), torch.randn(30, 40, 64)
        with torch.inference_mode():
            ours = rnn(x)
            assert taken == [True]
            assert_same(ours, by_the_op(lambda: rnn(x)))
    finally:
        torch.set_num_threads(before)


VIEWS = {
    "a slice of wider rows": lambda: torch.randn(5, 3, 20)[..., 4:12],
    "time and batch swapped": lambda: torch.randn(3, 5, 8).transpose(0, 1),
    "an expanded batch": lambda: torch.randn(5, 1, 8).expand(5, 3, 8),
    "every other step": lambda: torch.randn(10, 3, 8)[::2],
    "columns apart": lambda: torch.randn(5, 3, 16)[..., ::2],
    "of a complex conjugate": lambda: torch.randn(5, 3, 8, dtype=torch.cfloat).conj().imag,
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides_of_the_input(view: str) -> None:
    rnn, x = gru_fused.GRU(8, 9), VIEWS[view]()
    with torch.inference_mode():
        assert_same(rnn(x), rnn(x.clone().contiguous()))


def negated(*shape: int) -> Tensor:
    """The negative of what lies in its memory, whose last axis is dense."""
    y = torch.randn(*shape[:-1], dtype=torch.cfloat).conj().imag.unsqueeze(-1)
    assert y.is_neg() and y.stride(-1) == 1 and y.shape == shape
    return y


@pytest.mark.parametrize("which", ["input", "hx", "weight_ih_l0"])
def test_a_tensor_that_is_negated_lazily(which: str) -> None:
    rnn, x, hx = gru_fused.GRU(1, 1), torch.randn(5, 3, 1), torch.randn(1, 3, 1)
    given = {"input": x, "hx": hx, "weight_ih_l0": rnn.weight_ih_l0.detach()}
    given[which] = negated(*given[which].shape)
    results = []
    with torch.inference_mode():
        for tensor in (given[which], given[which].resolve_neg()):
            given[which] = tensor
            rnn.weight_ih_l0 = nn.Parameter(given["weight_ih_l0"], requires_grad=False)
            assert rnn.weight_ih_l0.is_neg() == (which == "weight_ih_l0" and tensor.is_neg())
            results.append(rnn(given["input"], given["hx"]))
    assert_same(*results)


@contextlib.contextmanager
def function_mode() -> Iterator[None]:
    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Watch():
        yield


@contextlib.contextmanager
def dispatch_mode() -> Iterator[None]:
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    with Watch():
        yield


NOT_PLAIN = {
    "grad mode": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "a function mode": function_mode,
    "a dispatch mode": dispatch_mode,
    "the profiler": torch.profiler.profile,
    "forward-mode differentiation": torch.autograd.forward_ad.dual_level,
}


@pytest.mark.parametrize("module", [gru_fused.GRU(3, 4), gru_fused.GRUCell(3, 4)], ids=["GRU", "GRUCell"])
@pytest.mark.parametrize("state", NOT_PLAIN)
def test_the_op_runs_under(taken: list[bool], module: nn.Module, state: str) -> None:
    x = torch.randn(2, 3) if isinstance(module, nn.GRUCell) else torch.randn(5, 2, 3)
    with torch.no_grad(), NOT_PLAIN[state]():
        module(x)
    assert not taken


def test_the_op_runs_under_vmap(taken: list[bool]) -> None:
    rnn = gru_fused.GRU(3, 4)
    with torch.no_grad():
        torch.func.vmap(lambda x: rnn(x)[0])(torch.randn(6, 5, 2, 3))
    assert not taken


def test_the_profiler_sees_the_op() -> None:
    rnn = gru_fused.GRU(3, 4)
    with torch.no_grad(), torch.profiler.profile() as profile:
        rnn(torch.randn(5, 2, 3))
    assert any(event.name == "gru_fused::gru_forward" for event in profile.events())


def test_tracing_sees_the_op(taken: list[bool]) -> None:
    rnn = gru_fused.GRU(3, 4)
    with torch.no_grad():
        graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: rnn(x)[0])(torch.randn(5, 2, 3))
    assert not taken
    assert any(node.target is torch.ops.gru_fused.gru_forward.default for node in graph.graph.nodes)


class Marked(Tensor):
    pass


REFUSED: dict[str, Callable[[gru_fused.GRU], tuple]] = {
    "a subclass": lambda rnn: (torch.randn(5, 2, 3).as_subclass(Marked),),
    "a subclass as the state": lambda rnn: (torch.randn(5, 2, 3), torch.randn(1, 2, 4).as_subclass(Marked)),
    "a tensor without memory": lambda rnn: (torch.randn(5, 2, 3), torch.empty(1, 2, 4, device="meta")),
    "another dtype": lambda rnn: (torch.randn(5, 2, 3).double(),),
    "another dtype of the state": lambda rnn: (torch.randn(5, 2, 3), torch.randn(1, 2, 4).double()),
    "too many inputs": lambda rnn: (torch.randn(5, 2, 9),),
    "a batch size of the state": lambda rnn: (torch.randn(5, 2, 3), torch.randn(1, 3, 4)),
    "a wide state": lambda rnn: (torch.randn(5, 2, 3), torch.randn(1, 2, 5)),
    "two dimensions and a batched state": lambda rnn: (torch.randn(5, 3), torch.randn(1, 2, 4)),
    "no steps": lambda rnn: (torch.randn(0, 2, 3),),
    "no rows": lambda rnn: (torch.randn(5, 0, 3),),
    "four dimensions": lambda rnn: (torch.randn(5, 2, 3, 1),),
    "no tensor": lambda rnn: ([1.0],),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_plain_or_does_not_fit_gets_the_ops_answer(taken: list[bool], case: str) -> None:
    rnn = gru_fused.GRU(3, 4)

    def outcome() -> tuple[type, str]:
        try:
            with torch.inference_mode():
                result = rnn(*REFUSED[case](rnn))
        except Exception as error:
            return type(error), str(error)
        return tuple, str(result[0].shape)

    ours = outcome()
    assert not any(taken)
    assert ours == by_the_op(outcome)


WEIGHTS: dict[str, Callable[[], nn.Parameter]] = {
    "of another shape": lambda: nn.Parameter(torch.randn(12, 5)),
    "of another dtype": lambda: nn.Parameter(torch.randn(12, 4).double()),
    "turned": lambda: nn.Parameter(torch.randn(4, 12).t()),
    "no parameter": lambda: nn.Buffer(torch.randn(12, 4)),
}


@pytest.mark.parametrize("weight", WEIGHTS)
def test_a_weight_that_does_not_fit_gets_the_ops_answer(weight: str) -> None:
    rnn, x = gru_fused.GRU(3, 4), torch.randn(5, 2, 3)
    made = WEIGHTS[weight]()
    del rnn.weight_hh_l0
    rnn.weight_hh_l0 = made

    def outcome() -> tuple:
        try:
            with torch.inference_mode():
                return rnn(x)
        except Exception as error:
            return type(error), str(error)

    ours, op = outcome(), by_the_op(outcome)
    if isinstance(op[0], Tensor):
        assert_same(ours, op)
    else:
        assert ours == op


@pytest.mark.parametrize("flag, other", [("batch_first", 1), ("batch_first", 0), ("bias", 1)])
def test_flags_that_were_set_to_a_number(flag: str, other: int) -> None:
    rnn, expected = gru_fused.GRU(3, 4), gru_fused.GRU(3, 4)
    expected.load_state_dict(rnn.state_dict())
    setattr(rnn, flag, other)
    setattr(expected, flag, bool(other))
    x = torch.randn(5, 5, 3)
    with torch.inference_mode():
        assert_same(rnn(x), expected(x))


def test_computed_weights_take_the_op(taken: list[bool]) -> None:
    rnn, x = gru_fused.GRU(3, 4), torch.randn(5, 2, 3)
    torch.nn.utils.parametrizations.weight_norm(rnn, "weight_hh_l0")
    with torch.inference_mode():
        output, _ = rnn(x)
    assert taken == [False]
    plain = gru_fused.GRU(3, 4)
    torch.nn.utils.parametrize.remove_parametrizations(rnn, "weight_hh_l0")
    plain.load_state_dict(rnn.state_dict())
    with torch.inference_mode():
        assert torch.equal(output, plain(x)[0])


def test_calls_of_several_threads_at_once() -> None:
    rnn = gru_fused.GRU(40, 40, 3).eval()
    inputs = [torch.randn(8, 3, 40) for _ in range(4)]
    with torch.inference_mode():
        expected = [rnn(x)[0] for x in inputs]
    wrong = []

    def work(x: Tensor, right: Tensor) -> None:
        with torch.inference_mode():
            for _ in range(200):
                if not torch.equal(rnn(x)[0], right):
                    wrong.append(1)

    workers = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_parameters_that_another_thread_replaces_live_as_long_as_the_call() -> None:
    rnn, x = gru_fused.GRU(8, 2048), torch.randn(16, 1, 8)  # so many steps read 50 MB each where they are
    with torch.inference_mode():
        expected = rnn(x)[0]
        results: list[Tensor] = []
        began = threading.Event()

        def work() -> None:
            with torch.inference_mode():
                for _ in range(5):
                    began.set()
                    results.append(rnn(x)[0])

        worker = threading.Thread(target=work)
        worker.start()
        began.wait()
        while worker.is_alive():
            rnn.weight_hh_l0 = nn.Parameter(rnn.weight_hh_l0.clone(), requires_grad=False)
            torch.full_like(rnn.weight_hh_l0, float("nan"))  # likely where the old one was
        worker.join()
    assert len(results) == 5
    assert all(torch.equal(result, expected) for result in results)


def test_the_results_are_ordinary_tensors() -> None:
    with torch.no_grad():
        output, h_n = gru_fused.GRU(3, 4)(torch.randn(5, 2, 3))
    for result in (output, h_n):
        assert result.is_contiguous() and not result.is_inference() and result.untyped_storage().resizable()
        result.add_(1)
    with torch.inference_mode():
        assert gru_fused.GRU(3, 4)(torch.randn(5, 2, 3))[0].is_inference()
