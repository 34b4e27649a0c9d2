"""A Flax GRUCell, alone and under RNN and Bidirectional, computes the same as the GRU made of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gru_fused import GRU, weights

pytest.importorskip("flax", reason="flax is not installed (make test-peers installs it)")

import jax
from flax import linen, nnx

# JAX computes in float32 unless told so for the whole process: a rounding error of a few units after a few steps.
EPS = 2e-6


@pytest.fixture(autouse=True)
def strict_products() -> Any:
    with jax.default_matmul_precision("highest"):
        yield


def drawn(tree: Any) -> Any:
    """The same tree with normal numbers: Flax starts from biases of zero."""
    draw = np.random.default_rng(1)
    return jax.tree.map(lambda x: draw.standard_normal(x.shape).astype(np.float32) / 2, tree)


def sequences(inputs: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 6, inputs)).astype(np.float32)


def output_of(gru: GRU, x: np.ndarray) -> np.ndarray:
    return gru(torch.tensor(x))[0].detach().numpy()


@pytest.mark.parametrize("inputs, units", [(1, 1), (3, 7)], ids=["one", "3x7"])
@pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])
def test_linen(inputs: int, units: int, both: bool) -> None:
    layer = linen.RNN(linen.GRUCell(units))
    if both:
        layer = linen.Bidirectional(layer, linen.RNN(linen.GRUCell(units)))
    x = sequences(inputs)
    variables = drawn(layer.init(jax.random.key(0), x))
    gru = weights.from_flax(variables)
    np.testing.assert_allclose(output_of(gru, x), layer.apply(variables, x), rtol=EPS, atol=EPS)

    back = weights.to_flax(gru)[0]
    cells = variables["params"]
    theirs = tuple(cells[way]["cell"] for way in ("forward_rnn", "backward_rnn")) if both else cells["cell"]
    jax.tree.map(np.testing.assert_array_equal, back, theirs)


def test_to_linen() -> None:
    """The one bias where torch has two is their sum."""
    gru = GRU(3, 5, batch_first=True)
    (params,) = weights.to_flax(gru)
    x = sequences(3)
    theirs = linen.RNN(linen.GRUCell(5)).apply({"params": {"cell": params}}, x)
    np.testing.assert_allclose(output_of(gru, x), theirs, rtol=EPS, atol=EPS)


def test_nnx() -> None:
    cell = nnx.GRUCell(3, 5, rngs=nnx.Rngs(0))
    nnx.update(cell, drawn(nnx.state(cell, nnx.Param)))
    x = sequences(3)
    gru = weights.from_flax(nnx.to_pure_dict(nnx.state(cell, nnx.Param)))
    np.testing.assert_allclose(output_of(gru, x), nnx.RNN(cell)(x), rtol=EPS, atol=EPS)
