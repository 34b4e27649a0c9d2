"""Who is measured: a name, and how to make a callable from a problem.

The callable does one whole pass and returns everything it computed, so that what is timed is what is checked; the
results come in the order of ``result_names``. It may return before a GPU is done: whoever times it synchronizes.
A new peer is one more function here and one more entry in ``IMPLEMENTATIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.workloads import Problem

Call = Callable[[], tuple[Tensor, ...]]


class Implementation(NamedTuple):
    package: str  # where it is not installed, the implementation is left out
    build: Callable[[Problem], Call]


def result_names(problem: Problem) -> list[str]:
    w = problem.workload
    steps = [f"[{t}]" for t in range(w.T)] if w.kind == "cell" else [""]
    names = [*(f"output{step}" for step in steps), "h_n"]
    if w.mode == "train":
        names += [*(f"grad input{step}" for step in steps), "grad hx", *(f"grad {name}" for name in problem.weights)]
    return names


def modules_of(package: str) -> Callable[[Problem], Call]:
    """For a package whose GRU and GRUCell are made and called as those of torch.nn."""

    def build(problem: Problem) -> Call:
        rnn = import_module(package)
        w = problem.workload
        training = w.mode == "train"
        if w.kind == "cell":
            module = rnn.GRUCell(w.I, w.H)
            inputs, grad_outputs = problem.x.unbind(0), problem.grad_output.unbind(0)
        else:
            module = rnn.GRU(w.I, w.H, w.layers, bidirectional=w.directions == 2)
            inputs, grad_outputs = (problem.x,), (problem.grad_output,)
        module.to(problem.x.device, problem.x.dtype).train(training)
        module.load_state_dict(problem.weights)
        inputs = [x.detach().requires_grad_(training) for x in inputs]
        hx = problem.hx.detach().requires_grad_(training)

        def sequence() -> tuple[Tensor, ...]:
            return module(inputs[0], hx)

        def steps() -> tuple[Tensor, ...]:
            outputs = []
            h = hx
            for x in inputs:
                h = module(x, h)
                outputs.append(h)
            return (*outputs, h)

        forward = steps if w.kind == "cell" else sequence
        parameters = dict(module.named_parameters())
        leaves = [*inputs, hx, *(parameters[name] for name in problem.weights)]
        cotangents = [*grad_outputs, problem.grad_h_n]

        def forward_backward() -> tuple[Tensor, ...]:
            results = forward()
            return (*results, *torch.autograd.grad(results, leaves, cotangents))

        return forward_backward if training else forward

    return build


SUBJECT = "gru_fused"
BASELINE = "nn.GRU"

IMPLEMENTATIONS = {
    SUBJECT: Implementation("gru_fused", modules_of("gru_fused")),
    BASELINE: Implementation("torch", modules_of("torch.nn")),
}


def installed() -> list[str]:
    return [name for name, peer in IMPLEMENTATIONS.items() if find_spec(peer.package) is not None]
