"""Random shapes, options, layouts, dtypes and thread counts: still the reference's numbers, as good as nn.GRU's.

GRU_FUSED_FUZZ_EXAMPLES=N (``make fuzz N=...``) tries N new examples; without it the same hundred run each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from helpers import (
    DTYPES,
    Case,
    Input,
    Results,
    assert_as_good_as,
    assert_equal_to_rounding,
    data_of,
    forward,
    pooled,
    run,
    twin,
    with_data,
)
from helpers import ReferenceGRU as Reference
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, Layout
from torch import Tensor, nn

import gru_fused

pytestmark = pytest.mark.usefixtures("poisoned")

EXAMPLES = os.environ.get("GRU_FUSED_FUZZ_EXAMPLES")
configured = settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=EXAMPLES is None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
DRAWS = 4  # of values per example, pooled: one draw of few numbers says little of an error

flags = st.booleans()
seeds = st.integers(0, 2**32 - 1)
sizes = {"I": st.integers(1, 40), "H": st.integers(1, 70)}
options = {"layers": st.integers(1, 3), "bidirectional": flags, "bias": flags, "batch_first": flags, "hx": flags}
padded_cases = st.builds(
    Case, T=st.integers(1, 20), B=st.one_of(st.none(), st.integers(0, 9)), **sizes, **options, lengths=st.none()
)
packed_cases = st.builds(
    Case, **sizes, **options, lengths=st.lists(st.integers(1, 20), min_size=1, max_size=9).map(tuple)
)
contiguous = Layout("contiguous", torch.Tensor.contiguous)


@dataclass(frozen=True)
class Example:
    """How to call: the case, and everything that must not matter or is judged by its own dtype."""

    case: Case
    dtype: torch.dtype
    gradients: bool
    threads: int
    layouts: tuple[Layout, Layout, Layout, Layout]  # of input, hx, and the cotangents of output and h_n
    seed: int


examples = st.builds(
    Example,
    case=st.one_of(padded_cases, packed_cases),
    dtype=st.sampled_from(DTYPES),
    gradients=flags,
    threads=st.integers(1, 4),
    layouts=st.tuples(*[st.sampled_from([contiguous, *LAYOUTS])] * 4),
    seed=seeds,
)


def laid_out(x: Tensor, layout: Layout) -> Tensor:
    return layout(x) if x.numel() else x


def draw(example: Example) -> tuple[Results, Results, Results]:
    """Ours, nn.GRU's and the float64 reference's results for fresh values."""
    case, dtype = example.case, example.dtype
    rnn = case.module(gru_fused.GRU, dtype).train(example.gradients)
    x, hx = case.inputs(dtype)
    of_x, of_hx, *of_cotangents = example.layouts
    x: Input = with_data(x, laid_out(data_of(x), of_x))
    hx = None if hx is None else laid_out(hx, of_hx)
    cotangents = tuple(map(laid_out, case.cotangents(dtype), of_cotangents))
    compute = partial(run, cotangents=cotangents) if example.gradients else forward
    torch.set_num_threads(example.threads)
    ours = compute(rnn, x, hx)
    theirs = compute(twin(rnn, nn.GRU), x, hx)
    return ours, theirs, compute(twin(rnn, Reference, torch.float64), x, hx, dtype=torch.float64)


@configured
@given(examples)
def test_gru(example: Example) -> None:
    event(f"{'packed' if example.case.lengths else 'padded'}, {'gradients' if example.gradients else 'inference'}")
    torch.manual_seed(example.seed)
    ours, theirs, truth = map(pooled, zip(*(draw(example) for _ in range(DRAWS)), strict=True))
    if example.dtype == torch.float64:
        assert_equal_to_rounding(ours, truth, eps=1e-12)
    else:
        assert_as_good_as(ours, theirs, truth, floor=4)


@configured
@given(st.one_of(st.none(), st.integers(0, 20)), flags, st.sampled_from(DTYPES), seeds, *sizes.values())
def test_cell(rows: int | None, bias: bool, dtype: torch.dtype, seed: int, I: int, H: int) -> None:  # noqa: E741
    """The cell is one step of a GRU of one layer."""
    torch.manual_seed(seed)
    rnn = Case(I=I, H=H, bias=bias).module(gru_fused.GRU, dtype)
    cell = gru_fused.GRUCell(I, H, bias=bias, dtype=dtype)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in rnn.state_dict().items()})
    shape = () if rows is None else (rows,)
    x, hx = torch.randn(*shape, I, dtype=dtype), torch.randn(*shape, H, dtype=dtype)
    expected, _ = rnn(x.unsqueeze(0), hx.unsqueeze(0))
    torch.testing.assert_close(cell(x, hx), expected[0], rtol=0, atol=4 * torch.finfo(dtype).eps)
