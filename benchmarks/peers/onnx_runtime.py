"""ONNX Runtime: inference. Inputs and outputs are bound to it once, so that a run copies and allocates nothing."""

from __future__ import annotations

from collections.abc import Callable

import onnxruntime
import torch

from benchmarks.implementations import Call
from benchmarks.peers.onnx_model import Arrays, call_of, model_of
from benchmarks.workloads import Problem


def build(problem: Problem) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model_of(problem), options, providers=["CPUExecutionProvider"])

    def bind(inputs: Arrays, outputs: Arrays) -> Callable[[], object]:
        binding = session.io_binding()
        for to, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
            for name, array in arrays.items():
                to(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

        def run(buffers: object = (inputs, outputs)) -> None:  # kept: the binding has nothing but their addresses
            session.run_with_iobinding(binding)

        return run

    return call_of(problem, bind)
