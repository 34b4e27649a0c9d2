"""setup.py asks for what it needs, and does what GRU_FUSED_CUDA says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def ask(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code after setup.py, whose setup() is replaced by nothing."""
    setup = "import setuptools; setuptools.setup = lambda **_: None; __file__ = 'setup.py'"
    script = f"{setup}\nexec(open('setup.py').read())\n{code}"
    environment = os.environ | environment
    return subprocess.run([sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("wanted", ["0", "auto"])
def test_a_cpu_torch_builds_no_cuda_unless_forced(wanted: str) -> None:
    import torch

    if wanted == "auto" and torch.version.cuda is not None:
        pytest.skip("this torch is a CUDA build")
    assert ask("print(cuda_sources())", GRU_FUSED_CUDA=wanted).stdout.strip() == "[]"


def test_an_unknown_wish_is_refused() -> None:
    done = ask("cuda_sources()", GRU_FUSED_CUDA="yes")
    assert done.returncode == 1
    assert "GRU_FUSED_CUDA: expected auto, 0 or 1, got 'yes'" in done.stderr


def test_forcing_cuda_builds_its_sources_or_says_why_not() -> None:
    done = ask("print(*(path.suffix for path in cuda_sources()))", GRU_FUSED_CUDA="1")
    if (ROOT / "csrc/cuda").exists():
        assert set(done.stdout.split()) == {".cu"} or "nvcc was not found" in done.stderr
    else:
        assert "this version of gru_fused has no CUDA kernels yet" in done.stderr


def test_architectures_become_flags_of_nvcc() -> None:
    done = ask("print(*nvcc_flags())", TORCH_CUDA_ARCH_LIST="8.0;9.0a+PTX")
    flags = done.stdout.split()
    assert "-gencode=arch=compute_80,code=sm_80" in flags
    assert "-gencode=arch=compute_90a,code=sm_90a" in flags
    assert "-gencode=arch=compute_90a,code=compute_90a" in flags


def test_without_torch_the_message_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('hidden by a test')")
    done = ask("torch_flags()", PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "needs torch (2.11 or newer) to build" in done.stderr
    assert "--no-build-isolation" in done.stderr


def test_the_node_is_named_after_its_torch_and_can_be_left_out() -> None:
    import torch

    name = ask("print(node_name())").stdout.strip()
    assert name.startswith("_node_" + torch.__version__.split("+")[0].replace(".", "_"))
    assert ask("print(node_name())", GRU_FUSED_NODE="0").stdout.strip() == "None"


def test_this_build_has_its_node() -> None:
    import gru_fused._ops

    if Path(gru_fused.__file__).parent != ROOT / "gru_fused":
        pytest.skip("gru_fused is installed, not built here")
    assert gru_fused._ops.node is not None


def test_a_torch_that_does_not_load_is_left_to_the_build_to_report(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('a library of its is missing')")
    assert ask("print(node_name())", PYTHONPATH=str(tmp_path)).stdout.strip() == "None"
