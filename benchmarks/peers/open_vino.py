"""OpenVINO: inference, tuned for latency, in float32 (left to itself it may round to bfloat16)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import openvino
import torch

from benchmarks.implementations import Call
from benchmarks.peers.onnx_model import Arrays, call_of, model_of
from benchmarks.workloads import Problem


def build(problem: Problem) -> Call:
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(model_of(problem)), "CPU", options)

    def bind(inputs: Arrays, outputs: Arrays) -> Callable[[], object]:
        request = model.create_infer_request()
        for name, array in {**inputs, **outputs}.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return partial(request.infer, share_outputs=True)

    return call_of(problem, bind)
