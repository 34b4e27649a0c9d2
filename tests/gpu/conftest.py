"""Tests that need a CUDA device and a build with CUDA kernels. Without them each is reported as skipped, with the
reason.

GRU_FUSED_REQUIRE_CUDA=1, which `make gpu-check` sets, turns the skip into a failure: there a skip must not look
like a pass. GRU_FUSED_TEST_DEVICE=cpu runs what can run there: a rehearsal of the tests themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from gru_fused import _ops

NAME = os.environ.get("GRU_FUSED_TEST_DEVICE", "cuda")


def missing() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if not _ops.has_cuda_kernels():
        return "gru_fused is built without CUDA kernels"
    return None


def require_cuda() -> None:
    if (reason := missing()) is not None:
        if os.environ.get("GRU_FUSED_REQUIRE_CUDA") == "1":
            pytest.fail(f"GRU_FUSED_REQUIRE_CUDA=1, but {reason}")
        pytest.skip(reason)


@pytest.fixture
def device() -> torch.device:
    if NAME == "cuda":
        require_cuda()
    return torch.device(NAME)


@pytest.fixture
def cuda() -> torch.device:
    """For what only a CUDA device has."""
    require_cuda()
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def strict_float32() -> Iterator[None]:
    """TF32 is off, unless a test asks for it."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    now = {name: getattr(cudnn, name) for name in ("enabled", "benchmark", "deterministic")}
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    with cudnn.flags(**now, allow_tf32=False):  # torch's own test tools forbid setting the flags without it
        yield
    matmul.allow_tf32 = before
