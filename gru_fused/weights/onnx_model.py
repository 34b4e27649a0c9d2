"""ONNX models: the GRU nodes of one as modules, and a GRU as a model. The only file here that needs a package, onnx."""

from __future__ import annotations

from typing import Any

from torch import nn

from gru_fused.weights.onnx import OnnxGRU, attributes, to_onnx

__all__ = ["from_onnx_model", "to_onnx_model"]

# what runtimes of the last years read; the GRU node has not changed between opsets 14 and 22
OPSET, IR_VERSION = 17, 8


def from_onnx_model(model: Any) -> dict[str, OnnxGRU]:
    """The GRU nodes of an ONNX model, each as a module that does what the node does.

    Args:
        model: an ``onnx.ModelProto``, or a path to one. W, R and B of a GRU must be constants of the main graph.

    Returns:
        ``{name: module}`` in the order of the graph; a node without a name has that of its first output.

    Raises:
        ModuleNotFoundError: if onnx is not installed.
        NotImplementedError: for a node with options that :class:`OnnxGRU` doesn't have.
        ValueError: for weights that are computed in the graph, or a model without a GRU node.

    Example (needs onnx)::

        modules = weights.from_onnx_model("model.onnx")
        Y, Y_h = modules["encoder"](X, initial_h=h)
    """
    import onnx

    if not isinstance(model, onnx.ModelProto):
        model = onnx.load(model)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    modules = {}
    for node in model.graph.node:
        if node.op_type == "GRU" and node.domain in ("", "ai.onnx"):
            name = node.name or next(output for output in node.output if output)
            weights = {}
            for letter, source in zip("WRB", node.input[1:4], strict=False):
                if source and source not in constants:
                    raise ValueError(f"{name}: expected {letter} to be a constant, got {source!r}, which is computed")
                if source:
                    weights[letter] = onnx.numpy_helper.to_array(constants[source])
            try:
                modules[name] = OnnxGRU(**weights, **_attributes(node))
            except (NotImplementedError, TypeError, ValueError) as error:
                raise type(error)(f"node {name!r}: {error}") from error
    if not modules:
        raise ValueError("model: expected a GRU node in its graph, got none")
    return modules


def to_onnx_model(gru: nn.RNNBase) -> Any:
    """A GRU as an ONNX model: a GRU node for each layer, ``gru_l0``, ``gru_l1``, ..., for any T and B.

    Args:
        gru: a ``gru_fused.GRU`` or ``torch.nn.GRU`` of L layers and D directions; not bfloat16. Its dropout is left
            out, as in eval mode.

    Returns:
        An ``onnx.ModelProto`` with inputs ``input (T, B, I)`` and ``hx (L * D, B, H)``, outputs
        ``output (T, B, D * H)`` and ``h_n (L * D, B, H)``; batch first where the module has it so.

    Raises:
        ModuleNotFoundError: if onnx is not installed.
        TypeError: for anything but a GRU, and for bfloat16.

    Example (needs onnx and onnxruntime)::

        model = weights.to_onnx_model(gru_fused.GRU(3, 4, num_layers=2))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        output, h_n = session.run(None, {"input": input, "hx": hx})
    """
    import numpy
    from onnx import helper, numpy_helper

    layers = to_onnx(gru)
    directions = 2 if gru.bidirectional else 1
    width = directions * gru.hidden_size
    options = {"hidden_size": gru.hidden_size, **attributes(gru)}
    constants = {"joined": numpy.array([0, 0, width])}
    nodes = [helper.make_node("Split", ["hx"], [f"hx_l{k}" for k in range(len(layers))], "states", axis=0)]
    x = "input"
    if gru.batch_first:
        x = "time_first"
        nodes.append(helper.make_node("Transpose", ["input"], [x], x, perm=[1, 0, 2]))
    for k, weights in enumerate(layers):
        constants |= {f"{letter}_l{k}": array for letter, array in weights.items()}
        inputs = [x, *(f"{letter}_l{k}" if letter in weights else "" for letter in "WRB"), "", f"hx_l{k}"]
        nodes.append(helper.make_node("GRU", inputs, [f"Y_l{k}", f"h_n_l{k}"], f"gru_l{k}", **options))
        # (T, D, B, H) to (T, B, D * H)
        nodes.append(helper.make_node("Transpose", [f"Y_l{k}"], [f"turned_l{k}"], f"turn_l{k}", perm=[0, 2, 1, 3]))
        x = f"output_l{k}"
        nodes.append(helper.make_node("Reshape", [f"turned_l{k}", "joined"], [x], f"join_l{k}"))
    back = [1, 0, 2] if gru.batch_first else [0, 1, 2]
    nodes.append(helper.make_node("Transpose", [x], ["output"], "output", perm=back))
    nodes.append(helper.make_node("Concat", [f"h_n_l{k}" for k in range(len(layers))], ["h_n"], "h_n", axis=0))

    def described(shapes: dict[str, list[str | int]]) -> list[Any]:
        kind = helper.np_dtype_to_tensor_dtype(layers[0]["W"].dtype)
        return [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]

    steps = ["B", "T"] if gru.batch_first else ["T", "B"]
    states = [len(layers) * directions, "B", gru.hidden_size]
    graph = helper.make_graph(
        nodes,
        "gru",
        described({"input": [*steps, gru.input_size], "hx": states}),
        described({"output": [*steps, width], "h_n": states}),
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import helper

    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if "direction" in attributes:
        attributes["direction"] = attributes["direction"].decode()
    if "activations" in attributes:
        attributes["activations"] = [name.decode() for name in attributes["activations"]]
    return attributes
