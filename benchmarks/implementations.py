"""Who is measured: a name, and how to make a callable from a problem.

The callable does one whole pass and returns everything it computed, so that what is timed is what is checked; the
results come in the order of ``result_names``, as tensors or as what becomes one without a copy (DLPack). It may return
before a GPU is done: whoever times it synchronizes. It uses as many threads as torch is set to when it is built.
A new peer is one more file in ``peers`` and one more entry in ``IMPLEMENTATIONS``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.workloads import Problem, Workload

Call = Callable[[], tuple[Tensor, ...]]


class Implementation(NamedTuple):
    packages: tuple[str, ...]  # the first gives it its version; where one is not installed, it is left out
    build: Callable[[Problem], Call]
    modes: tuple[str, ...] = ("infer", "train")
    peer: bool = False  # other people's: float32 on a CPU only, and see gate.py

    @property
    def installed(self) -> bool:
        return all(find_spec(package) is not None for package in self.packages)

    @property
    def version(self) -> str:
        return metadata.version(self.packages[0]) if self.peer else import_module(self.packages[0]).__version__

    def fits(self, workload: Workload, dtype: str, device: str) -> bool:
        return workload.mode in self.modes and (not self.peer or (dtype, device) == ("fp32", "cpu"))


def result_names(problem: Problem) -> list[str]:
    w = problem.workload
    steps = [f"[{t}]" for t in range(w.T)] if w.kind == "cell" else [""]
    names = [*(f"output{step}" for step in steps), "h_n"]
    if w.mode == "train":
        names += [*(f"grad input{step}" for step in steps), "grad hx", *(f"grad {name}" for name in problem.weights)]
    return names


class Passes(NamedTuple):
    """A workload's two halves. The results of both, one after the other, are those of ``result_names``."""

    forward: Callable[[], tuple[Tensor, ...]]
    backward: Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]] | None  # takes what forward has returned, once

    def __call__(self) -> tuple[Tensor, ...]:
        results = self.forward()
        return results if self.backward is None else (*results, *self.backward(results))


def modules_of(package: str) -> Callable[[Problem], Passes]:
    """For a package whose GRU and GRUCell are made and called as those of torch.nn."""

    def build(problem: Problem) -> Passes:
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

        def backward(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return torch.autograd.grad(results, leaves, cotangents)

        return Passes(forward, backward if training else None)

    return build


def peer(module: str) -> Callable[[Problem], Call]:
    """``build`` of a file in ``peers``, which can be imported only where its packages are installed."""
    return lambda problem: import_module(f"benchmarks.peers.{module}").build(problem)


SUBJECT = "gru_fused"
BASELINE = "nn.GRU"

IMPLEMENTATIONS = {
    SUBJECT: Implementation(("gru_fused",), modules_of("gru_fused")),
    BASELINE: Implementation(("torch",), modules_of("torch.nn")),
    "JAX": Implementation(("jax",), peer("jax_scan"), peer=True),
    "ONNX Runtime": Implementation(("onnxruntime", "onnx"), peer("onnx_runtime"), modes=("infer",), peer=True),
    "OpenVINO": Implementation(("openvino", "onnx"), peer("open_vino"), modes=("infer",), peer=True),
}


def installed() -> list[str]:
    return [name for name, implementation in IMPLEMENTATIONS.items() if implementation.installed]
