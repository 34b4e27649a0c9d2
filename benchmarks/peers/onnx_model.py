"""A problem as an ONNX model, for the runtimes that take one, and a pass over it.

A layer is one GRU node with linear_before_reset=1, which is nn.GRU's formula. A cell is a model of one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from benchmarks.implementations import Call
from benchmarks.workloads import Problem

Arrays = Mapping[str, np.ndarray]
# from the inputs and the outputs to a function that runs the model from those buffers into these
Bind = Callable[[Arrays, Arrays], Callable[[], object]]

# what every version of the runtimes in use reads; the GRU node has not changed since opset 14
OPSET, IR_VERSION = 17, 8


def model_of(problem: Problem) -> bytes:
    """Inputs: x and hx0, hx1, ... by layer; outputs: output and h_n, of a cell h_n only."""
    w = problem.workload
    cell = w.kind == "cell"
    steps = 1 if cell else w.T
    nodes, constants = [], {}
    x = "x"
    for layer in range(w.layers):
        suffixes = [""] if cell else [f"_l{layer}", f"_l{layer}_reverse"][: w.directions]
        for name, parts in {"W": ["weight_ih"], "R": ["weight_hh"], "B": ["bias_ih", "bias_hh"]}.items():
            by_direction = [torch.cat([update_first(problem.weights[p + s]) for p in parts]) for s in suffixes]
            constants[f"{name}{layer}"] = torch.stack(by_direction).numpy()
        gru = [x, f"W{layer}", f"R{layer}", f"B{layer}", "", f"hx{layer}"]
        direction = "bidirectional" if w.directions == 2 else "forward"
        state = f"h_n{layer}" if w.layers > 1 else "h_n"
        nodes.append(
            helper.make_node(
                "GRU", gru, [f"y{layer}", state], hidden_size=w.H, linear_before_reset=1, direction=direction
            )
        )
        # (T, D, B, H) to (T, B, D*H)
        x = "output" if layer == w.layers - 1 else f"x{layer + 1}"
        nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"turned{layer}"], perm=(0, 2, 1, 3)))
        nodes.append(helper.make_node("Reshape", [f"turned{layer}", "joined"], [x]))
    constants["joined"] = np.array([steps, w.B, w.directions * w.H])
    if w.layers > 1:
        nodes.append(helper.make_node("Concat", [f"h_n{layer}" for layer in range(w.layers)], ["h_n"], axis=0))

    def described(shapes: dict[str, tuple[int, ...]]) -> list:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    inputs = {"x": (steps, w.B, w.I), **{f"hx{layer}": (w.directions, w.B, w.H) for layer in range(w.layers)}}
    outputs = {"output": (steps, w.B, w.directions * w.H), "h_n": (w.layers * w.directions, w.B, w.H)}
    if cell:
        del nodes[1:], outputs["output"], constants["joined"]
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, w.name, described(inputs), described(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return model.SerializeToString()


def update_first(weight: Tensor) -> Tensor:
    """ONNX has the gates in the order update, reset, new; torch reset, update, new."""
    reset, update, new = weight.chunk(3)
    return torch.cat([update, reset, new])


def call_of(problem: Problem, bind: Bind) -> Call:
    """A pass in buffers that are bound once; a cell has a binding per step, whose output is the next one's state."""
    w = problem.workload
    x, hx = problem.x.numpy(), problem.hx.numpy()
    if w.kind == "cell":
        states = [hx[None], *np.empty((w.T, 1, w.B, w.H), np.float32)]
        steps = [bind({"x": x[t : t + 1], "hx0": states[t]}, {"h_n": states[t + 1]}) for t in range(w.T)]
        results = tuple(torch.from_numpy(state[0]) for state in (*states[1:], states[-1]))
    else:
        by_layer = {f"hx{layer}": h for layer, h in enumerate(np.split(hx, w.layers))}
        outputs = {"output": np.empty((w.T, w.B, w.directions * w.H), np.float32), "h_n": np.empty_like(hx)}
        steps = [bind({"x": x, **by_layer}, outputs)]
        results = tuple(map(torch.from_numpy, outputs.values()))

    def run() -> tuple[Tensor, ...]:
        for step in steps:
            step()
        return results

    return run
