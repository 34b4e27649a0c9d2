"""Output, h_n and every gradient on a device, over dtypes and sizes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from compared import assert_as_good_on, on
from helpers import DTYPES, PACKED, Case, dtype_id, run, twin
from torch import nn

import gru_fused

# H 1, 7, 130 and 500 fill no tile; the others are where the kernel changes
SIZES = [Case(T=T, B=B, I=5, H=H) for H, B, T in product((1, 7, 130, 500), (1, 16), (1, 9))]
REGIMES = [Case(T=4, B=B, I=9, H=H) for H, B in product((64, 128, 192, 256, 512, 1024, 2048), (1, 16))]
REGIMES += [Case(T=3, B=150, I=9, H=256), Case(T=3, B=70, I=9, H=1024)]
STACKED = [
    Case(T=5, B=16, I=7, H=130, layers=2),
    Case(T=5, B=3, I=7, H=130, bidirectional=True),
    Case(T=5, B=3, I=7, H=33, layers=3, bidirectional=True, bias=False, batch_first=True, hx=False),
    Case(T=5, B=None, I=7, H=33, layers=2, bidirectional=True),
    Case(T=4, B=16, I=7, H=500, layers=2, bidirectional=True),
    Case(T=300, B=2, I=3, H=130),
]
LOW = [torch.float32, torch.bfloat16, torch.float16]
PACKED_LARGE = [Case(lengths=(9, 1, 5, 5, 30), H=130, layers=2, bidirectional=True), Case(lengths=(4, 7, 2), H=500)]


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "gradients"])
@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_id)
@pytest.mark.parametrize("case", [*SIZES, *STACKED, *PACKED, *PACKED_LARGE], ids=str)
def test_as_good_as_nn_gru(device: torch.device, case: Case, dtype: torch.dtype, gradients: bool) -> None:
    assert_as_good_on(device, case, dtype, gradients=gradients, draws=4 if case.H > 7 else None)


@pytest.mark.parametrize("dtype", LOW, ids=dtype_id)
@pytest.mark.parametrize("case", REGIMES, ids=str)
def test_as_good_in_every_regime(device: torch.device, case: Case, dtype: torch.dtype) -> None:
    assert_as_good_on(device, case, dtype, gradients=True, draws=1 if case.H > 1000 else 2)


@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "gradients"])
@pytest.mark.parametrize("case", [Case(T=9, B=16, I=33, H=H) for H in (130, 256, 1024)], ids=str)
def test_as_good_with_tf32(cuda: torch.device, case: Case, gradients: bool) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    assert_as_good_on(cuda, case, torch.float32, gradients=gradients, draws=4)


@pytest.mark.parametrize("case", [Case(T=4, B=0), Case(T=4, B=0, layers=2, bidirectional=True, H=130)], ids=str)
def test_an_empty_batch(device: torch.device, case: Case) -> None:
    """As on the CPU: shapes, and gradients of zero."""
    rnn = case.module(gru_fused.GRU, torch.float32)
    given, cotangents = case.inputs(torch.float32), case.cotangents(torch.float32)
    expected = run(twin(rnn, nn.GRU), *given, cotangents)
    results = run(rnn.to(device), *on(device, *given), tuple(c.to(device) for c in cotangents))
    for name, result in results.items():
        assert result.device.type == device.type, name
        torch.testing.assert_close(result.cpu(), expected[name], msg=name)


@pytest.mark.parametrize("used", [(True, False), (False, True)], ids=["output", "h_n"])
def test_one_cotangent_alone(device: torch.device, used: tuple[bool, bool]) -> None:
    case = Case(T=5, B=4, I=7, H=130)
    rnn = case.module(gru_fused.GRU, torch.float64)
    given = case.inputs()
    cotangents = [c if wanted else None for c, wanted in zip(case.cotangents(), used, strict=True)]
    expected = run(twin(rnn, nn.GRU), *given, tuple(cotangents))
    there = tuple(None if c is None else c.to(device) for c in cotangents)
    results = run(rnn.to(device), *on(device, *given), there)
    for name, result in results.items():
        torch.testing.assert_close(result.cpu(), expected[name], rtol=1e-10, atol=1e-12, msg=name)


def test_backward_in_eval_mode(device: torch.device) -> None:
    """cuDNN refuses it; ours needs no training mode."""
    rnn = gru_fused.GRU(7, 130, device=device).eval()
    x = torch.randn(5, 4, 7, device=device, requires_grad=True)
    in_eval = torch.autograd.grad(rnn(x)[0].square().sum(), (x, *rnn.parameters()))
    in_training = torch.autograd.grad(rnn.train()(x)[0].square().sum(), (x, *rnn.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(in_eval, in_training, strict=True))


@pytest.mark.parametrize("dtype", LOW, ids=dtype_id)
@pytest.mark.parametrize("H", [7, 130, 500, 1024])
def test_the_same_bits_again(device: torch.device, H: int, dtype: torch.dtype) -> None:
    case = Case(T=20, B=16, I=9, H=H)
    rnn = case.module(gru_fused.GRU, dtype).to(device)
    given = on(device, *case.inputs(dtype))
    cotangents = tuple(c.to(device) for c in case.cotangents(dtype))
    first = run(rnn, *given, cotangents)
    for _ in range(5):
        again = run(rnn, *given, cotangents)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("H", [3, 20])
def test_gradcheck(device: torch.device, H: int) -> None:
    rnn = gru_fused.GRU(2, H, bidirectional=True, dtype=torch.float64, device=device)
    x = torch.randn(3, 2, 2, dtype=torch.float64, device=device, requires_grad=True)
    hx = torch.randn(2, 2, H, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, hx, *_: rnn(x, hx), (x, hx, *rnn.parameters()), fast_mode=True)
