"""Trains one model on any number of processes; only the line of torchrun changes.

    torchrun --nproc-per-node 1 -m examples.distributed                       one process
    torchrun --nproc-per-node 2 -m examples.distributed                       two: DDP
    torchrun --nproc-per-node 2 -m examples.distributed --shard               two: FSDP2
    torchrun --nnodes 4 --nproc-per-node 8 ... -m examples.distributed        four machines of eight GPUs

The task is to tell two kinds of noisy sequences apart. The batch of all processes together is the same however many
there are, and so are the losses, up to rounding.
"""

from __future__ import annotations

import argparse
import gc
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import gru_fused


class Classifier(nn.Module):
    """Two GRU layers in both directions and a linear one: (T, B, 2) to (B, 2)."""

    def __init__(self, hidden: int = 32) -> None:
        super().__init__()
        self.rnn = gru_fused.GRU(2, hidden, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * hidden, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(0))


def batch(step: int, size: int, steps: int = 20) -> tuple[Tensor, Tensor]:
    """Sequences (T, B, 2) and labels (B,): the same for every process, which takes its part of them."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(2, (size,), generator=generator)
    x = torch.randn(steps, size, 2, generator=generator)
    x[: steps // 2, :, 0] += 0.5 - labels  # what it shows is in the first half, in the first number
    return x, labels


def train(arguments: argparse.Namespace, device: torch.device) -> list[float]:
    """The loss of every step, the mean over all processes."""
    rank, world = dist.get_rank(), dist.get_world_size()
    if arguments.batch % world:
        raise SystemExit(f"--batch {arguments.batch} can't be shared evenly by {world} processes")
    torch.manual_seed(0)
    model: nn.Module = Classifier().to(device)
    if arguments.shard:
        mesh = dist.init_device_mesh(device.type, (world,))
        for part in (model.rnn, model.head, model):
            fully_shard(part, mesh=mesh)
    else:
        model = DistributedDataParallel(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(arguments.steps):
        x, labels = batch(step, arguments.batch)
        mine = slice(rank * arguments.batch // world, (rank + 1) * arguments.batch // world)
        loss = F.cross_entropy(model(x[:, mine].to(device)), labels[mine].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.detach() / world
        dist.all_reduce(mean)
        losses.append(mean.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30, help="of training")
    parser.add_argument("--batch", type=int, default=64, help="sequences a step, of all processes together")
    parser.add_argument("--shard", action="store_true", help="FSDP2 (fully_shard) in place of DDP")
    arguments = parser.parse_args()
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        losses = train(arguments, device)  # its model is gone when the group goes: DDP can't outlive it
        if dist.get_rank() == 0:
            how = "FSDP2" if arguments.shard else "DDP"
            first, last = losses[0], losses[-1]
            print(f"{how}, {dist.get_world_size()} processes: loss {first:.6f} at first, {last:.6f} at the end")
    finally:
        gc.collect()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
