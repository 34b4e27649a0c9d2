"""A device without kernels gets an error that says what to do; the import never asks for CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gru_fused import _ops

ROOT = Path(__file__).parents[1]


def test_a_device_without_kernels_is_named() -> None:
    with pytest.raises(NotImplementedError, match=r"built without its CUDA kernels.*GRU_FUSED_CUDA=1"):
        _ops.check_device(torch.device("cuda"))


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_import_needs_no_cuda() -> None:
    done = run_python("import gru_fused, torch; gru_fused.GRU(3, 4)(torch.randn(5, 2, 3))", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["base", "avx2"])
def test_the_environment_chooses_the_cpu_kernels(name: str) -> None:
    if name == "avx2" and _ops.cpu_capability() == "base":
        pytest.skip("this machine has no AVX2")
    code = (
        "import torch, gru_fused\n"
        "torch.manual_seed(0)\n"
        "ours, theirs = gru_fused.GRU(5, 9).double(), torch.nn.GRU(5, 9).double()\n"
        "ours.load_state_dict(theirs.state_dict())\n"
        "x = torch.randn(7, 4, 5).double()\n"
        "torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-12, atol=1e-12)\n"
        "print(gru_fused._ops.cpu_capability())"
    )
    done = run_python(code, GRU_FUSED_CPU=name)
    assert done.stdout.strip() == name, done.stderr


def test_unknown_cpu_kernels_are_refused() -> None:
    done = run_python("import torch, gru_fused; gru_fused.GRU(3, 4)(torch.randn(5, 2, 3))", GRU_FUSED_CPU="sse9")
    assert done.returncode == 1
    assert "RuntimeError: gru_fused: the environment variable GRU_FUSED_CPU" in done.stderr
