"""ONNX' own GRU node tests, its reference evaluator and ONNX Runtime compute the same as our modules, to and from."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Case

import gru_fused
from gru_fused import weights

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.reference import ReferenceEvaluator

EPS = 2e-6  # float32 of either side, after a few steps
NODE_TESTS = ("defaults", "with_initial_bias", "seq_length", "batchwise", "reverse", "bidirectional")


@pytest.fixture(scope="module")
def node_tests() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name.removeprefix("test_gru_"): case for case in collect_testcases("GRU")}


def module_of(node: Any, arrays: dict[str, np.ndarray]) -> weights.OnnxGRU:
    """By way of a model whose W, R, B are constants, as in a file."""
    kept = [numpy_helper.from_array(arrays[name], name) for name in node.input[1:4] if name]
    graph = helper.make_graph([node], "test", [], [], kept)
    (module,) = weights.from_onnx_model(helper.make_model(graph)).values()
    return module


def model_of(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    def described(names: Any) -> list[Any]:
        of = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int32): onnx.TensorProto.INT32}
        return [helper.make_tensor_value_info(k, of[arrays[k].dtype] if k in arrays else 1, None) for k in names if k]

    graph = helper.make_graph([node], "test", described(node.input), described(node.output))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def assert_same(ours: tuple[torch.Tensor, ...], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=EPS, atol=EPS)


def test_all_node_tests_are_known(node_tests: dict[str, Any]) -> None:
    assert sorted(node_tests) == sorted(NODE_TESTS)


@pytest.mark.parametrize("name", NODE_TESTS)
def test_onnx_node_test(name: str, node_tests: dict[str, Any]) -> None:
    """As they are, with the reset gate before the product, and with linear_before_reset=1."""
    case = node_tests[name]
    (node,) = case.model.graph.node
    given, expected = case.data_sets[0]
    arrays = dict(zip(node.input, given, strict=True))
    assert "linear_before_reset" not in [a.name for a in node.attribute]
    outputs = module_of(node, arrays)(torch.tensor(arrays["X"]))
    assert_same(tuple(y for y, k in zip(outputs, node.output, strict=True) if k), list(expected))

    changed = onnx.NodeProto()
    changed.CopyFrom(node)
    changed.attribute.append(helper.make_attribute("linear_before_reset", 1))
    outputs = module_of(changed, arrays)(torch.tensor(arrays["X"]))
    theirs = ReferenceEvaluator(model_of(changed, arrays)).run(None, arrays)
    assert_same(tuple(y for y, k in zip(outputs, node.output, strict=True) if k), theirs)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [None, (7, 3, 1), (2, 4, 4)], ids=["full", "7-3-1", "2-4-4"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("state", [True, False], ids=["initial_h", "zeros"])
@pytest.mark.parametrize("after", [1, 0], ids=["linear_before_reset", "reset_before"])
def test_node_against_onnx_runtime(
    direction: str, lengths: tuple[int, ...] | None, bias: bool, state: bool, after: int
) -> None:
    assert_node_as_in_onnx_runtime(direction, lengths, bias, state, linear_before_reset=after)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("after", [1, 0], ids=["linear_before_reset", "reset_before"])
@pytest.mark.parametrize(
    "gate, slopes",
    [("Sigmoid", ()), ("HardSigmoid", ()), ("HardSigmoid", (1 / 6, 0.5))],
    ids=["sigmoid", "hard_fifth", "hard_sixth"],
)
@pytest.mark.parametrize("candidate", ["Tanh", "Relu", "Softsign"])
def test_activations_against_onnx_runtime(
    direction: str, after: int, gate: str, slopes: tuple[float, ...], candidate: str
) -> None:
    both = 2 if direction == "bidirectional" else 1
    options = {"activations": [gate, candidate] * both, "linear_before_reset": after}
    if slopes:
        options |= {"activation_alpha": [slopes[0]] * both, "activation_beta": [slopes[1]] * both}
    assert_node_as_in_onnx_runtime(direction, (7, 3, 1), True, True, **options)


def assert_node_as_in_onnx_runtime(
    direction: str, lengths: tuple[int, ...] | None, bias: bool, state: bool, **options: Any
) -> None:
    steps, batch, inputs, units, directions = 7, 3, 2, 5, 2 if direction == "bidirectional" else 1
    shapes = {"X": (steps, batch, inputs), "W": (directions, 3 * units, inputs), "R": (directions, 3 * units, units)}
    if bias:
        shapes["B"] = (directions, 6 * units)
    if state:
        shapes["initial_h"] = (directions, batch, units)
    draw = np.random.default_rng(0)
    arrays = {name: draw.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    if lengths is not None:
        arrays["sequence_lens"] = np.array(lengths, np.int32)
    names = [name if name in arrays else "" for name in ("X", "W", "R", "B", "sequence_lens", "initial_h")]
    node = helper.make_node("GRU", names, ["Y", "Y_h"], hidden_size=units, direction=direction, **options)
    session = onnxruntime.InferenceSession(model_of(node, arrays).SerializeToString())
    given = {name: torch.tensor(arrays[name]) for name in ("sequence_lens", "initial_h") if name in arrays}
    assert_same(module_of(node, arrays)(torch.tensor(arrays["X"]), **given), session.run(None, arrays))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_batch_first_is_the_same_turned_around(direction: str) -> None:
    gru = gru_fused.GRU(2, 5, bidirectional=direction == "bidirectional")
    (arrays,) = weights.to_onnx(gru)
    plain, turned = (
        weights.OnnxGRU(**arrays, direction=direction, layout=layout, linear_before_reset=1) for layout in (0, 1)
    )
    x, h = torch.randn(7, 3, 2), torch.randn(2 if gru.bidirectional else 1, 3, 5)
    lengths = torch.tensor([4, 7, 1])
    Y, Y_h = plain(x, lengths, h)
    other_Y, other_h = turned(x.transpose(0, 1), lengths, h.transpose(0, 1))
    assert torch.equal(other_Y, Y.permute(2, 0, 1, 3))
    assert torch.equal(other_h, Y_h.transpose(0, 1))


MODELS = [
    Case(T=1, B=1, I=1, H=1),
    Case(T=7, B=3, I=2, H=5, layers=3, bidirectional=True),
    Case(T=7, B=3, I=2, H=5, layers=2, bias=False, batch_first=True),
]


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_model_in_onnx_runtime(case: Case) -> None:
    gru = case.module(gru_fused.GRU, torch.float32)
    model = weights.to_onnx_model(gru)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for steps in (case.T, case.T + 2):  # any length
        x, hx = Case(**{**vars(case), "T": steps}).inputs(torch.float32)
        assert_same(gru(x, hx), session.run(None, {"input": x.numpy(), "hx": hx.numpy()}))
    back = weights.from_onnx_model(model)
    assert list(back) == [f"gru_l{k}" for k in range(case.layers)]
    ours = [p for module in back.values() for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours, gru.parameters(), strict=True))


OPTIONS = [
    {"reset_after": False},
    {"reset_after": False, "bidirectional": True, "activation": "relu"},
    {"reverse": True, "gate_activation": "hard_sigmoid", "activation": "softsign"},
    {"gate_activation": "hard_sigmoid_fifth", "bidirectional": True, "recurrent_dropout": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_model_with_options_in_onnx_runtime(options: dict[str, Any]) -> None:
    gru = gru_fused.GRU(2, 5, num_layers=2, **options).eval()
    session = onnxruntime.InferenceSession(weights.to_onnx_model(gru).SerializeToString())
    x, hx = torch.randn(6, 3, 2), torch.randn(4 if gru.bidirectional else 2, 3, 5)
    assert_same(gru(x, hx), session.run(None, {"input": x.numpy(), "hx": hx.numpy()}))


@pytest.mark.parametrize("options", [{"layer_norm": "sum"}, {"zoneout": 0.1}], ids=lambda options: "-".join(options))
def test_options_that_onnx_has_not_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="to_onnx: expected a GRU that is known there, got one with"):
        weights.to_onnx_model(gru_fused.GRU(2, 5, **options))


def test_model_in_float64(tmp_path: Any) -> None:
    """By way of a file, in the reference evaluator."""
    gru = Case(I=2, H=5, layers=2).module(gru_fused.GRU)
    path = tmp_path / "gru.onnx"
    onnx.save(weights.to_onnx_model(gru), path)
    x, hx = Case(I=2, H=5, layers=2).inputs()
    theirs = ReferenceEvaluator(onnx.load(path)).run(None, {"input": x.numpy(), "hx": hx.numpy()})
    for a, b in zip(gru(x, hx), theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b, rtol=1e-13, atol=1e-13)
    assert weights.from_onnx_model(str(path))["gru_l1"].gru.weight_hh_l0.dtype == torch.float64


def test_gradients_go_through_a_node() -> None:
    (arrays,) = weights.to_onnx(gru_fused.GRU(2, 3))
    node = weights.OnnxGRU(**arrays, direction="reverse", linear_before_reset=1).double()
    x = torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda x: node(x, torch.tensor([4, 2])), x)


def test_weights_that_are_computed_are_refused() -> None:
    node = helper.make_node("GRU", ["X", "W", "R"], ["Y"], name="g", hidden_size=2, linear_before_reset=1)
    model = helper.make_model(helper.make_graph([node], "test", [], []))
    with pytest.raises(ValueError, match="g: expected W to be a constant, got 'W', which is computed"):
        weights.from_onnx_model(model)
    with pytest.raises(ValueError, match="model: expected a GRU node in its graph, got none"):
        weights.from_onnx_model(helper.make_model(helper.make_graph([], "test", [], [])))
