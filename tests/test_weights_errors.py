"""Weights that will not do get an error that names the layer and the array, what was given and what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import gru_fused
from gru_fused import weights


def zeros(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [np.zeros(shape, np.float32) for shape in shapes]


KERAS = zeros((3, 12), (4, 12), (2, 12))
ONNX = dict(zip("WRB", zeros((1, 12, 3), (1, 12, 4), (1, 24)), strict=True))
HASTE = weights.to_haste(nn.GRU(3, 4))[0]
FLAX = weights.to_flax(nn.GRU(3, 4))[0]


def onnx(**changes: object) -> Callable[[], object]:
    return lambda: weights.OnnxGRU(**{**ONNX, "linear_before_reset": 1, **changes})


# what is done, the type of the error, and what its text says
ERRORS = {
    "keras-bias-before": (
        lambda: weights.from_keras(zeros((3, 12), (4, 12), (11,))),
        ValueError,
        "layer 0, bias: expected shape (12,), got (11,)",
    ),
    "to-keras-options": (
        lambda: weights.to_keras(gru_fused.GRU(3, 4, zoneout=0.1)),
        NotImplementedError,
        "to_keras: expected a GRU that is known there, got one with zoneout=0.1",
    ),
    "to-flax-options": (
        lambda: weights.to_flax(gru_fused.GRU(3, 4, reset_after=False)),
        NotImplementedError,
        "to_flax: expected a GRU that is known there, got one with reset_after=False",
    ),
    "keras-kernel": (
        lambda: weights.from_keras(KERAS, zeros((4, 11), (4, 12), (2, 12))),
        ValueError,
        "layer 1, kernel: expected shape (any, 12), got (4, 11)",
    ),
    "keras-recurrent": (
        lambda: weights.from_keras(zeros((3, 12), (4, 13), (2, 12))),
        ValueError,
        "layer 0, recurrent kernel: expected shape (4, 12), got (4, 13)",
    ),
    "keras-bias": (
        lambda: weights.from_keras(zeros((3, 12), (4, 12), (3, 12))),
        ValueError,
        "layer 0, bias: expected shape (2, 12), got (3, 12)",
    ),
    "keras-count": (lambda: weights.from_keras(KERAS[:1]), ValueError, "layer 0: expected kernel, recurrent kernel"),
    "keras-not-a-layer": (lambda: weights.from_keras(3), TypeError, "layer 0: expected a Keras layer or its list"),
    "keras-integers": (
        lambda: weights.from_keras([np.zeros((3, 12), int), *KERAS[1:]]),
        TypeError,
        "layer 0, kernel: expected an array of floats, got torch.int64",
    ),
    "keras-strings": (
        lambda: weights.from_keras([KERAS[0], np.full((4, 12), "a"), KERAS[2]]),
        TypeError,
        "layer 0, recurrent kernel: expected an array of floats, got <U1",
    ),
    "no-layers": (weights.from_keras, ValueError, "layers: expected one or more, got none"),
    "stack-of-other-units": (
        lambda: weights.from_keras(KERAS, zeros((4, 15), (5, 15), (2, 15))),
        ValueError,
        "layer 1: expected 4 inputs and 4 units, got 4 and 5",
    ),
    "stack-of-other-inputs": (
        lambda: weights.from_keras(KERAS, KERAS),
        ValueError,
        "layer 1: expected 4 inputs and 4 units, got 3 and 4",
    ),
    "stack-of-other-directions": (
        lambda: weights.from_keras(KERAS, [*KERAS, *KERAS]),
        ValueError,
        "layer 1: expected 1 directions as in layer 0, got 2",
    ),
    "stack-of-other-biases": (
        lambda: weights.from_keras(KERAS, zeros((4, 12), (4, 12))),
        ValueError,
        "layer 1: expected biases in all layers and directions, or in none",
    ),
    "stack-of-other-dtypes": (
        lambda: weights.from_keras(KERAS, [np.zeros((4, 12)), np.zeros((4, 12)), np.zeros((2, 12))]),
        ValueError,
        "layer 1: expected torch.float32 on cpu as in layer 0, got torch.float64 on cpu",
    ),
    "keras-lists": (
        lambda: weights.from_keras([[[0.0] * 12], [[0.0] * 12] * 4, [0.0] * 11]),
        ValueError,
        "layer 0, bias: expected shape (12,), got (11,)",
    ),
    "to-keras-lstm": (
        lambda: weights.to_keras(nn.LSTM(3, 4)),
        TypeError,
        "to_keras: expected a gru_fused.GRU or torch",
    ),
    "to-onnx-linear": (
        lambda: weights.to_onnx(nn.Linear(3, 4)),
        TypeError,
        "to_onnx: expected a gru_fused.GRU or torch",
    ),
    "to-haste-cell": (lambda: weights.to_haste(nn.GRUCell(3, 4)), TypeError, "to_haste: expected a gru_fused.GRU"),
    "to-flax-dict": (
        lambda: weights.to_flax({}),
        TypeError,
        "to_flax: expected a gru_fused.GRU or torch.nn.GRU, got dict",
    ),
    "bfloat16": (
        lambda: weights.to_keras(gru_fused.GRU(3, 4, dtype=torch.bfloat16)),
        TypeError,
        "numpy has no bfloat16; convert the module first",
    ),
    "onnx-names": (lambda: weights.from_onnx({"W": ONNX["W"]}), TypeError, "layer 0: expected a dict of W, R"),
    "onnx-type": (
        lambda: weights.from_onnx([]),
        TypeError,
        "layer 0: expected a dict of W, R and, with biases, B, got list",
    ),
    "onnx-R": (onnx(R=np.zeros((1, 11, 4))), ValueError, "layer 0, R: expected shape (1, 12, 4), got (1, 11, 4)"),
    "onnx-three-directions": (
        onnx(R=np.zeros((3, 12, 4))),
        ValueError,
        "R: expected 1 directions for 'forward', got 3",
    ),
    "onnx-B": (onnx(B=np.zeros((1, 12))), ValueError, "layer 0, B: expected shape (1, 24), got (1, 12)"),
    "onnx-clip": (onnx(clip=3.0), NotImplementedError, "clip: expected none, got 3.0"),
    "onnx-activations": (
        onnx(activations=["Sigmoid", "Elu"]),
        NotImplementedError,
        "activations: expected Sigmoid or HardSigmoid, then Tanh, Relu or Softsign, the same in each direction, "
        "got ['Sigmoid', 'Elu']",
    ),
    "onnx-slope": (
        onnx(activations=["HardSigmoid", "Tanh"], activation_alpha=[0.25]),
        NotImplementedError,
        "HardSigmoid: expected alpha 1/5 or 1/6 and beta 1/2, got [0.25] and [0.5]",
    ),
    "onnx-alpha": (
        onnx(activation_alpha=[1.0]),
        NotImplementedError,
        "activation_alpha, activation_beta: expected none",
    ),
    "onnx-direction": (
        onnx(direction="back"),
        ValueError,
        "direction: expected forward, reverse or bidirectional, got 'back'",
    ),
    "onnx-directions": (
        onnx(direction="bidirectional"),
        ValueError,
        "R: expected 2 directions for 'bidirectional', got 1",
    ),
    "onnx-layout": (onnx(layout=2), ValueError, "layout: expected 0 or 1, got 2"),
    "onnx-hidden-size": (onnx(hidden_size=5), ValueError, "hidden_size: expected 4 as in R, got 5"),
    "onnx-lens-shape": (
        lambda: onnx()()(torch.zeros(5, 2, 3), torch.tensor([1, 2, 3])),
        ValueError,
        "sequence_lens: expected shape (2,), got (3,)",
    ),
    "onnx-lens-values": (
        lambda: onnx()()(torch.zeros(5, 2, 3), torch.tensor([0, 6])),
        ValueError,
        "sequence_lens: expected numbers from 0 to 5, got [0, 6]",
    ),
    "onnx-lens-dtype": (
        lambda: onnx()()(torch.zeros(5, 2, 3), torch.ones(2)),
        TypeError,
        "sequence_lens: expected integers, got torch.float32",
    ),
    "onnx-X": (lambda: onnx()()(torch.zeros(5, 3)), ValueError, "X: expected 3 dimensions, got shape (5, 3)"),
    "haste-names": (
        lambda: weights.from_haste({"kernel": 0}),
        ValueError,
        "layer 0: expected kernel, recurrent_kernel, bias, recurrent_bias, got kernel",
    ),
    "haste-type": (
        lambda: weights.from_haste(3),
        TypeError,
        "layer 0: expected a haste_pytorch.GRU or its state_dict, got int",
    ),
    "haste-bias": (
        lambda: weights.from_haste((HASTE, {**HASTE, "bias": torch.zeros(4)})),
        ValueError,
        "layer 0, reverse, bias: expected shape (12,), got (4,)",
    ),
    "haste-three": (lambda: weights.from_haste([HASTE] * 3), ValueError, "a pair of them, got 3"),
    "flax-names": (lambda: weights.from_flax({"ir": {}}), ValueError, "layer 0: expected ir, iz, in, hr, hz, hn"),
    "flax-type": (lambda: weights.from_flax(3), TypeError, "layer 0: expected the parameters of a GRUCell, got int"),
    "flax-leaf": (
        lambda: weights.from_flax({**FLAX, "hn": {"kernel": FLAX["hn"]["kernel"]}}),
        ValueError,
        "layer 0, hn: expected a bias, got kernel",
    ),
    "flax-shape": (
        lambda: weights.from_flax((FLAX, {**FLAX, "hr": {"kernel": np.zeros((4, 5))}})),
        ValueError,
        "layer 0, reverse, hr, kernel: expected shape (4, 4), got (4, 5)",
    ),
    "flax-three": (lambda: weights.from_flax([FLAX] * 3), ValueError, "a pair of them, got 3"),
    "negate": (
        lambda: weights.negate_update_gate({"weight": torch.zeros(4, 3)}),
        ValueError,
        "weight: expected a first axis of 3H, gates r, z, n, got shape (4, 3)",
    ),
}


@pytest.mark.parametrize("call, error, text", ERRORS.values(), ids=ERRORS)
def test_error(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        call()
