"""haste's own Python code, which its kernels are tested against, and the GRU with its weights compute the same.

haste_pytorch builds with a GPU only, but its source suffices. ``make test-peers`` fetches it; GRU_FUSED_HASTE names
another folder.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from gru_fused import weights

FOUND = sorted(Path(os.environ.get("GRU_FUSED_HASTE", "build/haste")).glob("**/layer_norm_gru.py"))
pytestmark = pytest.mark.skipif(not FOUND, reason="haste's source is not there (make test-peers fetches it)")


@pytest.fixture
def haste(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Its package, without the compiled library, which only CUDA tensors would reach."""
    package = ModuleType("haste_pytorch")
    package.__path__ = [str(FOUND[0].parent)]
    monkeypatch.setitem(sys.modules, "haste_pytorch", package)
    monkeypatch.setitem(sys.modules, "haste_pytorch_lib", ModuleType("haste_pytorch_lib"))
    return package


@pytest.mark.parametrize("zoneout", [0.0, 0.3])
@pytest.mark.parametrize("name", ["GRU", "LayerNormGRU"])
def test_from_haste(name: str, zoneout: float, haste: ModuleType) -> None:
    module = {"GRU": "gru", "LayerNormGRU": "layer_norm_gru"}[name]
    theirs: nn.Module = getattr(import_module(f"haste_pytorch.{module}"), name)(4, 6, zoneout=zoneout).double().eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(torch.randn_like(p) / 2)
    ours = weights.from_haste(theirs).eval()
    x, hx = torch.randn(7, 3, 4, dtype=torch.float64), torch.randn(1, 3, 6, dtype=torch.float64)
    given = [x.clone().requires_grad_() for _ in range(2)]
    (output, h_n), (expected, last) = ours(given[0], hx), theirs(given[1], hx)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(h_n, last, rtol=0, atol=1e-14)
    cotangent = torch.randn_like(output)
    grads = [torch.autograd.grad(y, x, cotangent)[0] for y, x in zip((output, expected), given, strict=True)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-13)
