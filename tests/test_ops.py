"""The ops keep every promise that torch asks of an op, and refuse arguments that do not fit each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from gru_fused import _ops

T, B, I, H = 3, 2, 3, 4  # noqa: E741


def arguments(directions: int = 1, bias: bool = True, packed: bool = False) -> list[object]:
    """x, hx, weights, bias, batch_sizes: those of forward_train."""
    weights = []
    for _ in range(directions):
        weights += [torch.randn(3 * H, I), torch.randn(3 * H, H)]
        weights += [torch.randn(3 * H), torch.randn(3 * H)] if bias else []
    x = torch.randn(6, I) if packed else torch.randn(T, B, I)
    hx = torch.randn(directions, 3 if packed else B, H)
    return [x, hx, weights, bias, torch.tensor([3, 2, 1]) if packed else None]


def call(op: torch._ops.OpOverload, inputs: list[object]) -> tuple[object, ...]:
    """The arguments in the order of this op: the inference op is told whether there are two directions."""
    x, hx, weights, bias, batch_sizes = inputs
    return (x, hx, weights, bias, hx.shape[0] == 2, batch_sizes) if op is _ops.forward else tuple(inputs)


LAYERS = [
    pytest.param(dict(directions=1), id="forward"),
    pytest.param(dict(directions=2, bias=False), id="bidirectional-nobias"),
    pytest.param(dict(directions=2, packed=True), id="bidirectional-packed"),
]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("op", [_ops.forward, _ops.forward_train], ids=["forward", "forward_train"])
def test_forward_passes_opcheck(op: torch._ops.OpOverload, layer: dict[str, object]) -> None:
    result = opcheck(op, call(op, arguments(**layer)))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("recompute", [False, True], ids=["saved", "recomputed"])
@pytest.mark.parametrize("needs", [(True, True), (False, True), (True, False)], ids=["all", "weights", "x"])
@pytest.mark.parametrize("layer", LAYERS)
def test_backward_passes_opcheck(layer: dict[str, object], needs: tuple[bool, bool], recompute: bool) -> None:
    x, hx, weights, bias, batch_sizes = arguments(**layer)
    output, h_n, gates = _ops.forward_train(x, hx, weights, bias, batch_sizes)
    grads = torch.randn_like(output), torch.randn_like(h_n)
    saved = None if recompute else gates
    result = opcheck(_ops.backward, (*grads, x, hx, output, saved, weights, bias, batch_sizes, *needs))
    assert set(result.values()) == {"SUCCESS"}


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
def test_cell_passes_opcheck(bias: bool) -> None:
    x, hx, weights, _, _ = arguments(bias=bias)
    x, hx = x[0], hx[0]
    h, gates = _ops.cell_train(x, hx, weights, bias)
    for result in (
        opcheck(_ops.cell, (x, hx, weights, bias)),
        opcheck(_ops.cell_train, (x, hx, weights, bias)),
        opcheck(_ops.cell_backward, (torch.randn_like(h), x, hx, h, gates, weights, bias, True, True)),
    ):
        assert set(result.values()) == {"SUCCESS"}


def sweeps(layer: dict[str, object]) -> tuple[list[object], list[object]]:
    """Arguments of the tangent and of the tangent of the backward."""
    x, hx, weights, bias, batch_sizes = arguments(**layer)
    output, h_n, gates = _ops.forward_train(x, hx, weights, bias, batch_sizes)
    w_hh = weights[1 :: 4 if bias else 2]
    tangent = [torch.randn_like(gates), torch.randn_like(hx), hx, output, gates, w_hh, batch_sizes]
    output_t, _, gates_t = _ops.tangent(*tangent)
    grads = [torch.randn_like(y) for y in (output, h_n, output, h_n)]
    w_hh_t = [torch.randn_like(w) for w in w_hh]
    return tangent, [*grads, hx, output, gates, tangent[1], output_t, gates_t, w_hh, w_hh_t, batch_sizes]


@pytest.mark.parametrize("layer", LAYERS)
def test_sweeps_pass_opcheck(layer: dict[str, object]) -> None:
    tangent, backward = sweeps(layer)
    assert set(opcheck(_ops.tangent, tangent).values()) == {"SUCCESS"}
    for given in (backward, [None, backward[1], backward[2], None, *backward[4:11], [], backward[12]]):
        assert set(opcheck(_ops.tangent_backward, given).values()) == {"SUCCESS"}


@pytest.mark.parametrize(
    "op, index, value, message",
    [
        (0, 0, torch.zeros(1, 6, 3 * H), r"given_t: expected shape \(1, 6, 16\), got \(1, 6, 12\)"),
        (0, 1, torch.zeros(1, B, H).double(), r"hx_t: expected the dtype of the input"),
        (0, 2, torch.zeros(3, B, H), r"hx: expected 3 dimensions, the states of one or two directions"),
        (0, 3, torch.zeros(T, H), r"output: expected 3 dimensions, got 2"),
        (0, 5, [], r"w_hh: expected one for each of 1 directions, got 0"),
        (1, 0, torch.zeros(T, B, H + 1), r"grad_output: expected shape \(3, 2, 4\), got \(3, 2, 5\)"),
        (1, 9, torch.zeros(1, 6, 3 * H), r"gates_t: expected shape \(1, 6, 16\), got \(1, 6, 12\)"),
        (1, 11, [torch.zeros(H, H)], r"w_hh_t: expected shape \(12, 4\), got \(4, 4\)"),
    ],
)
def test_sweeps_refuse_what_does_not_fit(op: int, index: int, value: object, message: str) -> None:
    given = sweeps({})[op]
    given[index] = value
    with pytest.raises(RuntimeError, match=message):
        (_ops.tangent, _ops.tangent_backward)[op](*given)


def test_a_cell_is_one_step_of_a_layer() -> None:
    x, hx, weights, bias, _ = arguments()
    output, _, gates = _ops.forward_train(x[:1], hx, weights, bias, None)
    h, cell_gates = _ops.cell_train(x[0], hx[0], weights, bias)
    assert torch.equal(h, output[0]) and torch.equal(cell_gates, gates)
    assert torch.equal(_ops.cell(x[0], hx[0], weights, bias), h)


@pytest.mark.parametrize(
    "inputs, message",
    [
        (lambda: (torch.randn(T, B, I), torch.randn(B, H)), r"x: expected 2 dimensions, got 3"),
        (lambda: (torch.randn(B, I), torch.randn(1, B, H)), r"hx: expected shape \(2, 4\), got \(1, 2, 4\)"),
    ],
)
def test_cell_refuses_other_dimensions(inputs: object, message: str) -> None:
    for op in (_ops.cell, _ops.cell_train):
        with pytest.raises(RuntimeError, match=message):
            op(*inputs(), arguments()[2], True)


def test_the_inference_op_runs_several_layers() -> None:
    x, hx, weights, bias, _ = arguments(directions=2)
    upper = [torch.randn(3 * H, 2 * H) if w.shape == (3 * H, I) else torch.randn_like(w) for w in weights]
    both = torch.cat([hx, torch.randn_like(hx)])
    middle, first = _ops.forward(x, hx, weights, bias, True, None)
    expected, second = _ops.forward(middle, both[2:], upper, bias, True, None)
    output, h_n = _ops.forward(x, both, weights + upper, bias, True, None)
    assert torch.equal(output, expected) and torch.equal(h_n, torch.cat([first, second]))
    assert set(opcheck(_ops.forward, (x, both, weights + upper, bias, True, None)).values()) == {"SUCCESS"}
    with pytest.raises(RuntimeError, match=r"hx: expected 3 dimensions, 4 states of 2 layers, got shape \(2, 2, 4\)"):
        _ops.forward(x, hx, weights + upper, bias, True, None)


def test_the_training_op_gives_what_the_inference_op_gives() -> None:
    inputs = arguments(directions=2)
    for got, expected in zip(_ops.forward_train(*inputs)[:2], _ops.forward(*call(_ops.forward, inputs)), strict=True):
        assert torch.equal(got, expected)


def test_capability_is_one_of_the_known() -> None:
    assert _ops.cpu_capability() in ("base", "avx2", "avx512", "avx512_bf16", "amx_bf16")


def wrong(index: int, value: object, **layer: object) -> list[object]:
    inputs = arguments(**layer)
    inputs[index] = value
    return inputs


def other_weight(index: int, value: Tensor) -> list[object]:
    inputs = arguments()
    inputs[2][index] = value
    return inputs


@pytest.mark.parametrize(
    "inputs, message",
    [
        (lambda: wrong(0, torch.randn(T, I)), r"x: expected 3 dimensions, got 2"),
        (lambda: wrong(0, torch.randn(T, B, I + 1)), r"w_ih: expected shape \(12, 4\), got \(12, 3\)"),
        (
            lambda: wrong(0, torch.zeros(T, B, I, dtype=torch.int32)),
            r"x: expected float32, float64, bfloat16 or float16",
        ),
        (lambda: wrong(1, torch.randn(1, B + 1, H)), r"hx: expected shape \(1, 2, 4\), got \(1, 3, 4\)"),
        (lambda: wrong(1, torch.randn(H)), r"hx: expected shape \(1, 2, 4\), got \(4\)"),
        (lambda: wrong(1, torch.randn(1, B, H).double()), r"hx: expected the dtype of the input"),
        (lambda: wrong(2, []), r"weights: expected 4 tensors for each .*, got 0"),
        (lambda: wrong(3, False), r"expected (shape|3 dimensions, 2 states of 2 layers)"),
        (lambda: other_weight(0, torch.randn(3 * H)), r"w_ih: expected shape \(12, 3\), got \(12\)"),
        (lambda: other_weight(1, torch.randn(3 * H + 1, H)), r"w_hh: expected shape \(12, 4\), got \(13, 4\)"),
        (lambda: other_weight(3, torch.randn(H)), r"b_hh: expected shape \(12\), got \(4\)"),
        (lambda: other_weight(3, torch.randn(3 * H).half()), r"weights: expected the dtype of the input"),
        (lambda: wrong(4, torch.tensor([3, 4, 1]), packed=True), r"batch_sizes: .*never to increase; got 4 at step 1"),
        (lambda: wrong(4, torch.tensor([3, 2, 0]), packed=True), r"batch_sizes: .*stay positive.* got 0 at step 2"),
        (lambda: wrong(4, torch.tensor([2, 2, 2]), packed=True), r"batch_sizes: .*begin with the batch size 3"),
        (lambda: wrong(4, torch.tensor([3, 2]), packed=True), r"batch_sizes: expected a sum of 6.*got 5"),
        (lambda: wrong(4, torch.tensor([3.0, 2, 1]), packed=True), r"batch_sizes: expected a 1-D int64 tensor"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(inputs: object, message: str) -> None:
    for op in (_ops.forward, _ops.forward_train):
        with pytest.raises(RuntimeError, match=message):
            op(*call(op, inputs()))


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(grad_output=torch.zeros(T, B, H + 1)), r"grad_output: expected shape \(3, 2, 4\), got \(3, 2, 5\)"),
        (dict(grad_h_n=torch.zeros(1, B)), r"grad_h_n: expected shape \(1, 2, 4\), got \(1, 2\)"),
        (dict(grad_output=torch.zeros(T, B, H).double()), r"grad_output: expected the dtype of the input"),
        (dict(output=torch.zeros(T, H)), r"output: expected shape \(3, 2, 4\), got \(3, 4\)"),
        (dict(gates=torch.zeros(1, T * B, 3 * H)), r"gates: expected shape \(1, 6, 16\), got \(1, 6, 12\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_backward_refuses_what_is_not_of_its_forward(changed: dict[str, Tensor], message: str) -> None:
    x, hx, weights, bias, _ = arguments()
    output, h_n, gates = _ops.forward_train(x, hx, weights, bias, None)
    given = dict(grad_output=torch.ones_like(output), grad_h_n=torch.ones_like(h_n), output=output, gates=gates)
    given |= changed
    with pytest.raises(RuntimeError, match=message):
        _ops.backward(
            given["grad_output"],
            given["grad_h_n"],
            x,
            hx,
            given["output"],
            given["gates"],
            weights,
            bias,
            None,
            True,
            True,
        )
