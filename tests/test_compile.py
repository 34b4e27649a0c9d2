"""torch.compile takes the modules whole, without a graph break, and gives the eager results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

import gru_fused


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


BACKENDS = ["eager", "aot_eager", "inductor"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(num_layers=2, bidirectional=True, batch_first=True),
        dict(num_layers=2, bidirectional=True, recompute=True),
    ],
    ids=["plain", "deep", "recompute"],
)
def test_gru(backend: str, options: dict[str, object]) -> None:
    rnn = gru_fused.GRU(3, 4, **options)
    compiled = torch.compile(rnn, fullgraph=True, backend=backend)
    x = torch.randn(5, 2, 3, requires_grad=True)
    with torch.no_grad():
        for got, expected in zip(compiled(x), rnn(x), strict=True):
            torch.testing.assert_close(got, expected)
    grads = []
    for module in (compiled, rnn):
        output, h_n = module(x)
        grads.append(torch.autograd.grad(output.cos().sum() + h_n.exp().sum(), [x, *rnn.parameters()]))
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cell_in_a_loop(backend: str) -> None:
    cell = gru_fused.GRUCell(3, 4)

    def run(x: torch.Tensor) -> torch.Tensor:
        h = None
        for step in x:
            h = cell(step, h)
        return h

    x = torch.randn(5, 2, 3)
    torch.testing.assert_close(torch.compile(run, fullgraph=True, backend=backend)(x), run(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_hx", [False, True], ids=["nohx", "hx"])
def test_packed(with_hx: bool, backend: str) -> None:
    rnn = gru_fused.GRU(3, 4, bidirectional=True)
    packed = pack_sequence([torch.randn(n, 3) for n in (2, 4, 1)], enforce_sorted=False)
    given = (packed, torch.randn(2, 3, 4)) if with_hx else (packed,)
    got, got_h = torch.compile(rnn, fullgraph=True, backend=backend)(*given)
    expected, expected_h = rnn(*given)
    torch.testing.assert_close(got.data, expected.data)
    torch.testing.assert_close(got_h, expected_h)


def test_a_packed_batch_and_hx_that_do_not_fit() -> None:
    """The batch is data, so the module's check is left out and the op's remains, when it runs."""
    rnn = gru_fused.GRU(3, 4)
    packed = pack_sequence([torch.randn(n, 3) for n in (4, 2, 1)])
    with pytest.raises(RuntimeError, match="hx"):
        torch.compile(rnn, fullgraph=True, backend="eager")(packed, torch.randn(1, 5, 4))


def test_the_graph_does_not_grow_with_the_sequence() -> None:
    nodes = []

    def count(graph: torch.fx.GraphModule, _: object) -> object:
        nodes.append(len(graph.graph.nodes))
        return graph.forward

    rnn = gru_fused.GRU(3, 4)
    for steps in (2, 50):
        torch._dynamo.reset()
        with torch.no_grad():
            torch.compile(rnn, fullgraph=True, backend=count)(torch.randn(steps, 2, 3))
    assert nodes[0] == nodes[1] < 20


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_a_new_length_or_batch_does_not_recompile_after_the_second(training: bool, backend: str) -> None:
    compiled = torch.compile(gru_fused.GRU(3, 4, num_layers=2, bidirectional=True), fullgraph=True, backend=backend)

    def call(steps: int, batch: int) -> None:
        output, h_n = compiled(torch.randn(steps, batch, 3, requires_grad=training))
        if training:
            (output.sum() + h_n.sum()).backward()

    with torch.set_grad_enabled(training):
        call(5, 2)
        call(6, 3)
        with torch.compiler.set_stance("fail_on_recompile"):
            call(9, 7)
            call(30, 4)


def test_another_packed_batch_does_not_recompile_after_the_second() -> None:
    compiled = torch.compile(gru_fused.GRU(3, 4, bidirectional=True), fullgraph=True, backend="inductor")

    def call(*lengths: int) -> None:
        compiled(pack_sequence([torch.randn(n, 3) for n in lengths], enforce_sorted=False))

    call(2, 4, 1)
    call(3, 5, 2, 2)
    with torch.compiler.set_stance("fail_on_recompile"):
        call(7, 3, 3, 1, 1)
