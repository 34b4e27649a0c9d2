"""Each wrapper of csrc/cuda/arch.h on a device against its scalar model: one program, compiled for both, one output."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from emulator.build import CSRC, build_program, run_program

SOURCE = Path(__file__).with_name("conformance.cu")


def emulated_lines() -> list[str]:
    done = run_program(build_program("conformance", [SOURCE]))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_three_exchanges_agree_on_the_cpu() -> None:
    """The program itself: the same words go round by three ways, and come out the same."""
    *_, by_cluster, by_packets, by_flags = (line.rsplit(" ", 5)[-5:] for line in emulated_lines())
    assert by_cluster == by_packets == by_flags
    assert int(by_flags[0], 16) != 0


def test_the_device_does_what_its_models_do(cuda: torch.device, tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found")
    major, minor = torch.cuda.get_device_capability(cuda)
    arch = f"{major}{minor}{'a' if major == 9 else ''}"
    program = tmp_path / "conformance"
    flags = ["-std=c++20", "-O2", "--expt-relaxed-constexpr", f"-gencode=arch=compute_{arch},code=sm_{arch}"]
    subprocess.run(["nvcc", *flags, f"-I{CSRC}", str(SOURCE), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    expected = emulated_lines()
    if major < 9:
        expected = [line for line in expected if "cluster_sync" not in line]
    assert done.stdout.splitlines() == expected
