"""A module leaves Python: torch.export, AOTInductor and ONNX, with any number of steps and any batch."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export

import gru_fused

OPTIONS = {
    "plain": {},
    "deep": dict(num_layers=2, bidirectional=True),
    "batch-first-nobias": dict(batch_first=True, bias=False, bidirectional=True),
}
SIZES = {0: Dim("rows", min=2, max=1024), 1: Dim("columns", min=2, max=1024)}


def module(options: dict[str, object]) -> gru_fused.GRU:
    return gru_fused.GRU(3, 4, **options).eval()


def exported(rnn: nn.Module, strict: bool = False) -> ExportedProgram:
    return export(rnn, (torch.randn(5, 2, 3),), dynamic_shapes=(SIZES,), strict=strict)


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "nonstrict"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_export_is_one_op_and_survives_a_file(options: dict[str, object], strict: bool) -> None:
    rnn = module(options)
    file = io.BytesIO()
    torch.export.save(exported(rnn, strict), file)
    file.seek(0)
    program = torch.export.load(file)
    ops = [node.name for node in program.graph.nodes if node.op == "call_function" and "gru" in node.name]
    assert ops == ["gru_forward"]
    for shape in ((5, 2, 3), (11, 7, 3), (2, 40, 3)):
        x = torch.randn(shape)
        assert_same(program.module()(x), rnn(x))


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "nonstrict"])
def test_export_with_a_state_and_of_a_cell(strict: bool) -> None:
    rnn, cell = gru_fused.GRU(3, 4), gru_fused.GRUCell(3, 4)
    x, hx = torch.randn(5, 2, 3), torch.randn(1, 2, 4)
    batch = SIZES[1]
    program = export(rnn, (x, hx), dynamic_shapes=(SIZES, {1: batch}), strict=strict)
    assert_same(program.module()(x, hx), rnn(x, hx))
    step = export(cell, (x[0], hx[0]), dynamic_shapes=({0: batch}, {0: batch}), strict=strict)
    x, hx = torch.randn(7, 3), torch.randn(7, 4)
    assert_same((step.module()(x, hx),), (cell(x, hx),))


def test_aot_inductor(tmp_path: Path) -> None:
    rnn = module(OPTIONS["deep"])
    package = torch._inductor.aoti_compile_and_package(exported(rnn), package_path=str(tmp_path / "gru.pt2"))
    x = torch.randn(11, 7, 3)
    assert_same(torch._inductor.aoti_load_package(package)(x), rnn(x))


def in_onnx_runtime(module: nn.Module, example: tuple[Tensor, ...], shapes: tuple[object, ...], path: Path) -> object:
    """A session with the exported module, and the number of its GRU nodes."""
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"torch's ONNX exporter needs {package}")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime runs what was exported")
    import gru_fused.onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            dynamic_shapes=shapes,
            custom_translation_table=gru_fused.onnx.translations(),
            verbose=False,
        )
    program.save(str(path))
    nodes = [node.op_type for node in program.model.graph].count("GRU")
    return runtime.InferenceSession(str(path)), nodes


def answers(session: object, *given: Tensor) -> tuple[Tensor, ...]:
    feed = {to.name: y.numpy() for to, y in zip(session.get_inputs(), given, strict=True)}
    return tuple(map(torch.from_numpy, session.run(None, feed)))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_onnx_is_one_node_a_layer_and_runs(options: dict[str, object], tmp_path: Path) -> None:
    rnn = module(options)
    session, nodes = in_onnx_runtime(rnn, (torch.randn(5, 2, 3),), (SIZES,), tmp_path / "gru.onnx")
    assert nodes == rnn.num_layers
    for shape in ((5, 2, 3), (11, 7, 3)):
        x = torch.randn(shape)
        assert_same(answers(session, x), rnn(x))


VARIANTS = {
    "reset_before": dict(reset_after=False, num_layers=2, bidirectional=True),
    "reverse": dict(reverse=True, bias=False, activation="relu"),
    "activations": dict(activation="softsign", gate_activation="hard_sigmoid", bidirectional=True),
}


class WithLengths(nn.Module):
    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.rnn(x, lengths=lengths)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_onnx_of_a_variant_with_lengths(options: dict[str, object], tmp_path: Path) -> None:
    model = WithLengths(module(options))
    example, shapes = (torch.randn(5, 2, 3), torch.tensor([5, 3])), (SIZES, {0: SIZES[1]})
    session, nodes = in_onnx_runtime(model, example, shapes, tmp_path / "gru.onnx")
    assert nodes == model.rnn.num_layers
    x, lengths = torch.randn(8, 3, 3), torch.tensor([2, 8, 5])
    assert_same(answers(session, x, lengths), model(x, lengths))


@pytest.mark.parametrize("options", [dict(layer_norm="sum"), dict(zoneout=0.2)], ids=lambda options: "".join(options))
def test_what_onnx_has_not_is_refused(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(Exception, match="can't be exported to ONNX, whose GRU has nothing of the kind"):
        in_onnx_runtime(module(options), (torch.randn(5, 2, 3),), (SIZES,), tmp_path / "gru.onnx")
