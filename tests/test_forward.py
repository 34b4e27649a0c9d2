"""Outputs: the reference's in float64, and in every dtype as near to them as nn.GRU's."""

from __future__ import annotations

import pytest
import torch
from helpers import (
    AWKWARD,
    DTYPES,
    LOW_DTYPES,
    OPTIONS,
    PACKED,
    Case,
    ReferenceGRU,
    assert_as_good_as,
    assert_equal_to_rounding,
    assert_gru_as_good,
    data_of,
    dtype_id,
    forward,
    pooled,
    twin,
)
from layouts import LAYOUTS, Layout
from torch import Tensor, nn

import gru_fused
from gru_fused import functional, reference

pytestmark = pytest.mark.usefixtures("poisoned")

SMALL = Case(T=5, B=3, I=4, H=7, layers=2, bidirectional=True)


@pytest.mark.parametrize("case", [*AWKWARD, *OPTIONS, *PACKED], ids=str)
def test_forward_is_the_references(case: Case) -> None:
    ours = case.module(gru_fused.GRU)
    x, hx = case.inputs()
    assert_equal_to_rounding(forward(ours, x, hx), forward(twin(ours, ReferenceGRU), x, hx))


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", [*AWKWARD, *PACKED], ids=str)
def test_forward_is_as_good_as_nn_grus(case: Case, dtype: torch.dtype) -> None:
    assert_gru_as_good(case, dtype, gradients=False)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
def test_tiny_and_saturating_values(scale: float, dtype: torch.dtype) -> None:
    assert_gru_as_good(Case(T=4, B=5, I=9, H=21, bias=False), dtype, gradients=False, scale=scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 3e38, -3e38])
@pytest.mark.parametrize("B", [3, 5, 20])  # weights read where they are, packed, whole steps
def test_infinities_and_nan_stay_in_their_row(B: int, value: float, dtype: torch.dtype) -> None:
    case = Case(B=B, I=9, H=21)
    ours = case.module(gru_fused.GRU, dtype)
    x, hx = case.inputs(dtype)
    clean = forward(ours, x, hx)
    x[2, 1, 3] = value
    theirs = forward(twin(ours, nn.GRU), x, hx)  # whose NaN in bfloat16 spoils the row before, too, on a core with AMX
    for name, y in forward(ours, x, hx).items():
        tolerance = dict(rtol=0, atol=16 * torch.finfo(dtype).eps, equal_nan=True)
        torch.testing.assert_close(y[:, 1], theirs[name][:, 1], **tolerance)
        rest = [0, *range(2, B)]
        assert torch.equal(y[:, rest], clean[name][:, rest]) and not y[:, rest].isnan().any()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("argument", ["input", "hx"])
def test_strides_do_not_matter(argument: str, layout: Layout) -> None:
    ours = SMALL.module(gru_fused.GRU)
    x, hx = SMALL.inputs()
    strided = {"input": x, "hx": hx}
    strided[argument] = layout(strided[argument])
    plain = {name: y.contiguous() for name, y in strided.items()}
    assert strided[argument].stride() != plain[argument].stride() or strided[argument].storage_offset() > 0
    before = strided[argument].clone()
    ours_strided, ours_plain = (forward(ours, *arguments.values()) for arguments in (strided, plain))
    assert_equal_to_rounding(ours_strided, ours_plain)
    assert_equal_to_rounding(ours_plain, forward(twin(ours, ReferenceGRU), *plain.values()))
    assert torch.equal(strided[argument], before), "an argument was written to"


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_strides_of_weights_do_not_matter(layout: Layout) -> None:
    case = Case(T=3, B=2, I=6, H=6)
    weights = [layout(w) for w in case.module(nn.GRU).state_dict().values()]
    x, hx = case.inputs()
    assert hx is not None
    ours = functional.gru(x, hx, weights)
    theirs = reference.gru(x, hx, [w.contiguous() for w in weights])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    row, state = x[0], hx[0]
    torch.testing.assert_close(
        functional.gru_cell(row, state, *weights), reference.gru_cell(row, state, *weights), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("hx_given", [True, False], ids=["hx", "nohx"])
@pytest.mark.parametrize("case", [case for case in OPTIONS if case.B is not None and case.hx], ids=str)
def test_functional_is_the_references(case: Case, hx_given: bool) -> None:
    weights = [w.detach() for w in case.module(nn.GRU).parameters()]
    x, hx = case.inputs()
    options = {
        "bias": case.bias,
        "num_layers": case.layers,
        "bidirectional": case.bidirectional,
        "batch_first": case.batch_first,
    }
    arguments = (x, hx if hx_given else None, weights)
    ours, truth = functional.gru(*arguments, **options), reference.gru(*arguments, **options)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", PACKED, ids=str)
def test_functional_packed_is_the_references(case: Case) -> None:
    weights = [w.detach() for w in case.module(nn.GRU).parameters()]
    x, hx = case.inputs()
    options = {"bias": case.bias, "num_layers": case.layers, "bidirectional": case.bidirectional}
    ours = functional.gru(x.data, hx, weights, batch_sizes=x.batch_sizes, **options)
    truth = reference.gru(x.data, hx, weights, batch_sizes=x.batch_sizes, **options)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("given", ["neither", "b_ih", "b_hh", "both"])
def test_functional_cell_takes_either_bias(given: str) -> None:
    x, hx, w_ih, w_hh = (torch.randn(shape, dtype=torch.float64) for shape in ((2, 3), (2, 4), (12, 3), (12, 4)))
    biases = {name: torch.randn(12, dtype=torch.float64) for name in ("b_ih", "b_hh") if given in (name, "both")}
    ours = functional.gru_cell(x, hx, w_ih, w_hh, **biases)
    torch.testing.assert_close(ours, reference.gru_cell(x, hx, w_ih, w_hh, **biases), rtol=1e-12, atol=1e-14)


CELLS = [(0, 3, 4), (1, 1, 1), (3, 1, 7), (17, 5, 130), (2, 33, 500), (None, 3, 7)]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("hx_given", [True, False], ids=["hx", "nohx"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("batch, input_size, hidden_size", CELLS)
def test_cell_is_as_good_as_nn_grucells(
    batch: int | None, input_size: int, hidden_size: int, bias: bool, hx_given: bool, dtype: torch.dtype
) -> None:
    rows = () if batch is None else (batch,)
    draws: list[list[dict[str, Tensor]]] = [[], [], []]
    for _ in range(8):
        ours = gru_fused.GRUCell(input_size, hidden_size, bias=bias, dtype=dtype)
        x = torch.randn(*rows, input_size, dtype=dtype)
        hx = torch.randn(*rows, hidden_size, dtype=dtype) if hx_given else None
        for found, cls, in_dtype in zip(
            draws, (gru_fused.GRUCell, nn.GRUCell, nn.GRUCell), (dtype, dtype, torch.float64), strict=True
        ):
            cell = cls(input_size, hidden_size, bias=bias, dtype=in_dtype)
            cell.load_state_dict(ours.state_dict())
            with torch.no_grad():
                found.append({"h": cell(x.to(in_dtype), None if hx is None else hx.to(in_dtype))})
    ours, theirs, truth = map(pooled, draws)
    if dtype == torch.float64:
        assert_equal_to_rounding(ours, truth)
    else:
        assert_as_good_as(ours, theirs, truth)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=dtype_id)
def test_autocast_skips_the_dtype_check_and_gives_nn_grus_dtype(dtype: torch.dtype) -> None:
    ours = SMALL.module(gru_fused.GRU, torch.float32)
    theirs = twin(ours, nn.GRU)
    for given in (torch.float32, dtype):
        x = SMALL.inputs(given)[0]
        with torch.autocast("cpu", dtype=dtype):
            results = forward(ours, x, None), forward(theirs, x, None)
        truth = forward(twin(ours, ReferenceGRU, torch.float64), x, None, torch.float64)
        assert [y.dtype for y in results[0].values()] == [y.dtype for y in results[1].values()]
        for name, y in results[0].items():
            torch.testing.assert_close(y.double(), truth[name], rtol=0, atol=4 * torch.finfo(dtype).eps)


def test_output_of_packed_is_packed() -> None:
    x, _ = PACKED[0].inputs()
    output, _ = PACKED[0].module(gru_fused.GRU)(x)
    assert type(output) is type(x)
    assert data_of(output).shape == (sum(PACKED[0].lengths or ()), PACKED[0].H)
