"""DDP and FSDP2 under torchrun: two processes (gloo) get the gradients and losses of one."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import gru_fused

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")


def torchrun(processes: int, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def gradients(model: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    (model(x)[0] * cotangent).sum().div(x.shape[1]).backward()
    return {name: p.grad for name, p in model.named_parameters()}


def compare() -> None:
    """The gradients of a process's half of the batch, averaged by DDP or FSDP2, are those of the whole."""
    rank, world = dist.get_rank(), dist.get_world_size()
    assert world == 2
    torch.manual_seed(0)
    x, cotangent = torch.randn(5, 6, 3, dtype=torch.float64), torch.randn(5, 6, 8, dtype=torch.float64)
    one, replicated, sharded = (
        gru_fused.GRU(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64) for _ in range(3)
    )
    for other in (replicated, sharded):
        other.load_state_dict(one.state_dict())
    expected = gradients(one, x, cotangent)
    fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (world,)))
    assert all(isinstance(p, DTensor) for p in sharded.parameters())
    mine = slice(3 * rank, 3 * rank + 3)
    for model in (DistributedDataParallel(replicated), sharded):
        for name, found in gradients(model, x[:, mine], cotangent[:, mine]).items():
            whole = found.full_tensor() if isinstance(found, DTensor) else found
            torch.testing.assert_close(whole, expected[name.removeprefix("module.")], rtol=1e-10, atol=1e-13)


def worker() -> None:
    dist.init_process_group("gloo")
    compare()
    if dist.get_rank() == 0:
        print("the same")
    gc.collect()  # DDP can't outlive its group
    dist.destroy_process_group()


def test_two_processes_get_the_gradients_of_one() -> None:
    assert torchrun(2, __file__).split() == ["the", "same"]


def test_the_example_scales_by_the_torchrun_line() -> None:
    losses = []
    for processes, *options in ((1,), (2,), (2, "--shard")):
        printed = torchrun(processes, "-m", "examples.distributed", "--steps", "4", *options)
        assert printed.startswith(f"{'FSDP2' if options else 'DDP'}, {processes} processes: loss ")
        losses.append([float(number) for number in re.findall(r"\d+\.\d+", printed)])
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], abs=2e-6)
    first, last = losses[0]
    assert last < first


if __name__ == "__main__":
    worker()
