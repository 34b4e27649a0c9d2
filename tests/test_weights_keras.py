"""A Keras layer and the GRU made of its weights compute the same; a GRU and the Keras layer with its weights, too."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from gru_fused import GRU, weights

os.environ["KERAS_BACKEND"] = "torch"  # before the import
keras = pytest.importorskip("keras", reason="keras is not installed")
layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # with numpy 2
EPS = 1e-12  # float64 against float64, after a handful of steps
# Keras 3.15 rounds to float32 somewhere in its general loop over a cell, whatever its dtype: which it takes for an RNN
# over a cell, and for every GRU that cuDNN doesn't have.
LOOP_EPS = 1e-6


def sequences(inputs: int, steps: int = 7, batch: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((batch, steps, inputs))


def made(layer: keras.layers.Layer, inputs: int) -> keras.layers.Layer:
    """Built, with biases that are not zero."""
    layer.build((None, None, inputs))
    draw = np.random.default_rng(1)
    layer.set_weights([draw.standard_normal(w.shape) / 2 for w in layer.get_weights()])
    return layer


def layer_of(units: int, bias: bool = True, both: bool = False, **options: object) -> keras.layers.Layer:
    gru = layers.GRU(units, use_bias=bias, return_sequences=True, dtype="float64", **options)
    return layers.Bidirectional(gru, dtype="float64") if both else gru


def numbers(x: object) -> torch.Tensor:
    return torch.as_tensor(keras.ops.convert_to_numpy(x))


CASES = {
    "one": (1, 1, True, False),
    "32-on-64": (64, 32, True, False),
    "no-bias": (5, 7, False, False),
    "bidirectional": (5, 7, True, True),
    "bidirectional-no-bias": (5, 7, False, True),
}


@pytest.mark.parametrize("inputs, units, bias, both", CASES.values(), ids=CASES)
@pytest.mark.parametrize("given", ["layer", "arrays"])
def test_from_keras(inputs: int, units: int, bias: bool, both: bool, given: str) -> None:
    layer = made(layer_of(units, bias, both), inputs)
    x = sequences(inputs)
    gru = weights.from_keras(layer if given == "layer" else layer.get_weights())
    assert (gru.bias, gru.bidirectional, gru.batch_first) == (bias, both, True)
    torch.testing.assert_close(gru(torch.tensor(x))[0].detach(), numbers(layer(x)), rtol=EPS, atol=EPS)
    for theirs, ours in zip(layer.get_weights(), weights.to_keras(gru)[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("inputs, units, bias, both", CASES.values(), ids=CASES)
def test_to_keras(inputs: int, units: int, bias: bool, both: bool) -> None:
    gru = GRU(inputs, units, bias=bias, bidirectional=both, batch_first=True, dtype=torch.float64)
    layer = made(layer_of(units, bias, both), inputs)
    layer.set_weights(weights.to_keras(gru)[0])
    x = sequences(inputs)
    torch.testing.assert_close(numbers(layer(x)), gru(torch.tensor(x))[0].detach(), rtol=EPS, atol=EPS)


OPTIONS = [
    {"activation": "relu"},
    {"activation": "softsign", "recurrent_activation": "hard_sigmoid"},
    {"reset_after": False},
    {"reset_after": False, "activation": "relu", "recurrent_activation": "hard_sigmoid"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
@pytest.mark.parametrize("inputs, units, bias, both", CASES.values(), ids=CASES)
def test_options_from_and_to_keras(inputs: int, units: int, bias: bool, both: bool, options: dict[str, object]) -> None:
    layer = made(layer_of(units, bias, both, **options), inputs)
    layer.set_weights([w / max(w.shape[0], 4) ** 0.5 for w in layer.get_weights()])  # or rounding errors grow with time
    x = sequences(inputs)
    gru = weights.from_keras(layer)
    torch.testing.assert_close(gru(torch.tensor(x))[0].detach(), numbers(layer(x)), rtol=LOOP_EPS, atol=LOOP_EPS)
    for theirs, ours in zip(layer.get_weights(), weights.to_keras(gru)[0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
def test_arrays_with_the_reset_gate_before_the_product(bias: bool) -> None:
    layer = made(layer_of(5, bias, reset_after=False), 3)
    gru = weights.from_keras(layer.get_weights(), **({} if bias else {"reset_after": False}))
    x = sequences(3)
    torch.testing.assert_close(gru(torch.tensor(x))[0].detach(), numbers(layer(x)), rtol=LOOP_EPS, atol=LOOP_EPS)


def test_backwards_in_time() -> None:
    """Keras returns the steps in the order that they were made in."""
    layer = made(layer_of(5, go_backwards=True), 3)
    x = sequences(3)
    ours, _ = weights.from_keras(layer)(torch.tensor(x))
    torch.testing.assert_close(ours.flip(1).detach(), numbers(layer(x)), rtol=LOOP_EPS, atol=LOOP_EPS)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gradients_are_those_of_keras(reset_after: bool) -> None:
    layer = made(layer_of(5, reset_after=reset_after), 3)
    gru, x = weights.from_keras(layer), sequences(3)
    cotangent = torch.randn(3, 7, 5, dtype=torch.float64)
    given = [torch.tensor(x, requires_grad=True) for _ in range(2)]
    (ours,) = torch.autograd.grad(gru(given[0])[0], given[0], cotangent)
    (theirs,) = torch.autograd.grad(layer(given[1]), given[1], cotangent)
    torch.testing.assert_close(ours, theirs, rtol=LOOP_EPS, atol=LOOP_EPS)


def test_layers_of_different_options_are_refused() -> None:
    stack = [made(layer_of(4), 3), made(layer_of(4, reset_after=False), 4)]
    with pytest.raises(ValueError, match=r"layer 1: expected the options of layer 0, Options\(\), got Options\(reset"):
        weights.from_keras(*stack)


def test_a_stack_and_its_states() -> None:
    stack = [made(layer_of(4, return_state=True), size) for size in (3, 4, 4)]
    x = sequences(3)
    output, states = x, []
    for layer in stack:
        output, state = layer(output)
        states.append(numbers(state))
    ours, h_n = weights.from_keras(*stack)(torch.tensor(x))
    torch.testing.assert_close(ours.detach(), numbers(output), rtol=EPS, atol=EPS)
    torch.testing.assert_close(h_n.detach(), torch.stack(states), rtol=EPS, atol=EPS)


def test_an_rnn_over_a_cell() -> None:
    layer = made(layers.RNN(layers.GRUCell(5, dtype="float64"), return_sequences=True, dtype="float64"), 3)
    x = sequences(3)
    ours, _ = weights.from_keras(layer)(torch.tensor(x))
    torch.testing.assert_close(ours.detach(), numbers(layer(x)), rtol=LOOP_EPS, atol=LOOP_EPS)


def test_float32_stays_float32() -> None:
    layer = layers.GRU(4)
    layer.build((None, None, 3))
    assert weights.from_keras(layer).weight_ih_l0.dtype == torch.float32


REFUSED = {
    "activation": (
        lambda: layer_of(4, activation="elu"),
        "layer 0: expected activation to be one of tanh, relu, softsign, got 'elu'",
    ),
    "recurrent": (
        lambda: layer_of(4, recurrent_activation="tanh"),
        "expected recurrent_activation to be one of sigmoid, hard_sigmoid, got 'tanh'",
    ),
    "sum": (lambda: layers.Bidirectional(layers.GRU(4), merge_mode="sum"), "expected merge_mode='concat', got 'sum'"),
}


@pytest.mark.parametrize("make, text", REFUSED.values(), ids=REFUSED)
def test_what_computes_something_else_is_refused(make: object, text: str) -> None:
    with pytest.raises(NotImplementedError, match=text):
        weights.from_keras(made(make(), 3))


def test_other_layers_are_refused() -> None:
    with pytest.raises(TypeError, match="layer 0: expected a Keras GRU, got LSTM"):
        weights.from_keras(made(layers.LSTM(4), 3))
    with pytest.raises(TypeError, match="layer 0: expected a Keras GRU, got Dense"):
        weights.from_keras(layers.Dense(4))
    with pytest.raises(ValueError, match="layer 0: it has no weights yet; build it or call it once"):
        weights.from_keras(layers.GRU(4))
