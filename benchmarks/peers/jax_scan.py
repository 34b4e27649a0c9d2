"""JAX: lax.scan over the steps, jitted as a whole; training is its vjp in the same jit.

Written the way that was fastest: the projection of all steps is one product before the scan, the three gates are one
product in it. Unrolling the scan (2, 4, 8 steps) won nothing that could be told from noise. Whether W_hh is turned
around once before the scan wins or loses by up to 15 %, so both are timed and the faster one is kept.

XLA takes as many threads as the process has CPUs when it starts, and can't be told later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

os.environ["JAX_PLATFORMS"] = "cpu"  # before the import

import jax
import jax.numpy as jnp
from jax import Array, lax
from torch import Tensor

from benchmarks.implementations import Call
from benchmarks.paired import paired
from benchmarks.workloads import Problem

jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_cpu_enable_async_dispatch", False)  # a call waits for its result anyway; saves 6 us of 14

Weights = dict[str, Array]


def build(problem: Problem) -> Call:
    calls = {turned: build_with(problem, turned) for turned in (False, True)}
    samples = paired(calls, seconds=0.1, least_rounds=3)
    return calls[min(samples, key=lambda turned: min(samples[turned]))]


def build_with(problem: Problem, turned: bool) -> Call:
    w = problem.workload
    weights = {name: jnp.asarray(weight.numpy()) for name, weight in problem.weights.items()}
    x, hx, grad_output, grad_h_n = (
        jnp.asarray(t.numpy()) for t in (problem.x, problem.hx, problem.grad_output, problem.grad_h_n)
    )
    training = w.mode == "train"
    if w.kind == "cell":
        step = partial(cell, turned=turned)
        if training:
            return cell_training(step, weights, list(x), hx, list(grad_output), grad_h_n)
        return cell_inference(step, weights, list(x), hx)

    network = partial(gru, layers=w.layers, directions=w.directions, turned=turned)
    if not training:
        jitted = jax.jit(network)
        return lambda: jax.block_until_ready(jitted(weights, x, hx))

    @jax.jit
    def value_and_gradients(weights: Weights, x: Array, hx: Array, cotangents: tuple[Array, Array]):
        results, backward = jax.vjp(network, weights, x, hx)
        grad_weights, grad_x, grad_hx = backward(cotangents)
        return (*results, grad_x, grad_hx, *(grad_weights[name] for name in problem.weights))

    return lambda: jax.block_until_ready(value_and_gradients(weights, x, hx, (grad_output, grad_h_n)))


def gru(weights: Weights, x: Array, hx: Array, layers: int, directions: int, turned: bool) -> tuple[Array, Array]:
    states = []
    for layer in range(layers):
        outputs = []
        for reverse in range(directions):
            suffix = f"_l{layer}" + "_reverse" * reverse
            h = hx[layer * directions + reverse]
            advance = step_of(weights, suffix, turned)
            state, output = lax.scan(advance, h, projected(weights, suffix, x), reverse=bool(reverse))
            states.append(state)
            outputs.append(output)
        x = jnp.concatenate(outputs, -1)
    return x, jnp.stack(states)


def cell(weights: Weights, x: Array, h: Array, turned: bool) -> Array:
    return step_of(weights, "", turned)(h, projected(weights, "", x))[0]


def projected(weights: Weights, suffix: str, x: Array) -> Array:
    """The products with the input, of all steps at once, and every bias that may be added to them."""
    reset_update, _ = split(weights["bias_hh" + suffix])
    bias = weights["bias_ih" + suffix].at[: reset_update.shape[-1]].add(reset_update)
    return jnp.einsum("...i,gi->...g", x, weights["weight_ih" + suffix]) + bias


def step_of(weights: Weights, suffix: str, turned: bool) -> Callable[[Array, Array], tuple[Array, Array]]:
    w_hh = weights["weight_hh" + suffix]
    product = partial(jnp.einsum, "bh,hg->bg" if turned else "bh,gh->bg")
    if turned:
        w_hh = w_hh.T
    _, bias_new = split(weights["bias_hh" + suffix])

    def step(h: Array, x: Array) -> tuple[Array, Array]:
        x_reset_update, x_new = split(x)
        h_reset_update, h_new = split(product(h, w_hh))
        reset, update = jnp.split(jax.nn.sigmoid(x_reset_update + h_reset_update), 2, -1)
        new = jnp.tanh(x_new + reset * (h_new + bias_new))
        h = new + update * (h - new)
        return h, h

    return step


def split(gates: Array) -> tuple[Array, Array]:
    """The reset and the update gate, and the new one."""
    two_thirds = gates.shape[-1] // 3 * 2
    return gates[..., :two_thirds], gates[..., two_thirds:]


def cell_inference(step: Callable[..., Array], weights: Weights, inputs: list[Array], hx: Array) -> Call:
    step = jax.jit(step)

    def run() -> tuple[Array, ...]:
        outputs = []
        h = hx
        for x in inputs:
            h = step(weights, x, h)
            outputs.append(h)
        return jax.block_until_ready((*outputs, h))

    return run


def cell_training(
    step: Callable[..., Array],
    weights: Weights,
    inputs: list[Array],
    hx: Array,
    grad_outputs: list[Array],
    grad_h_n: Array,
) -> Call:
    """A jitted call per step forward, which keeps what its vjp needs, and one per step back."""
    forward = jax.jit(partial(jax.vjp, step))

    @jax.jit
    def backward(vjp: Callable, grad_output: Array, grad_h: Array, sums: Weights):
        grad_weights, grad_x, grad_h = vjp(grad_output + grad_h)
        return jax.tree.map(jnp.add, sums, grad_weights), grad_x, grad_h

    zeros = jax.tree.map(jnp.zeros_like, weights)

    def run() -> tuple[Array, ...]:
        outputs, vjps, grad_inputs = [], [], []
        h = hx
        for x in inputs:
            h, vjp = forward(weights, x, h)
            outputs.append(h)
            vjps.append(vjp)
        sums, grad_h = zeros, grad_h_n
        for vjp, grad_output in zip(reversed(vjps), reversed(grad_outputs), strict=True):
            sums, grad_x, grad_h = backward(vjp, grad_output, grad_h, sums)
            grad_inputs.append(grad_x)
        return jax.block_until_ready((*outputs, h, *reversed(grad_inputs), grad_h, *(sums[name] for name in weights)))

    return run


def product_of(a: Tensor, b: Tensor) -> Callable[[], Array]:
    """A jitted matrix product, for the peak of this machine (yardsticks.py)."""
    product = jax.jit(jnp.matmul)
    left, right = jnp.asarray(a.numpy()), jnp.asarray(b.numpy())
    return lambda: jax.block_until_ready(product(left, right))
