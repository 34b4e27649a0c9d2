"""Random options of a module and of its call, all together: the kernels' results and gradients are the reference's.

GRU_FUSED_FUZZ_EXAMPLES=N tries N new examples; without it the same hundred run each time.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from helpers import Results, leaf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import gru_fused
from gru_fused import _autograd
from gru_fused.options import ACTIVATIONS, GATE_ACTIVATIONS

pytestmark = pytest.mark.usefixtures("poisoned")

EXAMPLES = os.environ.get("GRU_FUSED_FUZZ_EXAMPLES")
configured = settings(
    max_examples=int(EXAMPLES or 100),
    derandomize=EXAMPLES is None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
flags = st.booleans()
rates = st.sampled_from([0.0, 0.0, 0.3, 1.0])

modules = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 9),
        "hidden_size": st.integers(1, 40),
        "num_layers": st.integers(1, 3),
        "bias": flags,
        "batch_first": flags,
        "recompute": flags,
        "activation": st.sampled_from(ACTIVATIONS),
        "gate_activation": st.sampled_from(GATE_ACTIVATIONS),
        "zoneout": rates,
        "recurrent_dropout": st.sampled_from([0.0, 0.5]),
    }
)
cells = st.sampled_from([{}, {"reset_after": False}, {"layer_norm": "projections"}, {"layer_norm": "sum"}])
ways = st.sampled_from([{}, {"reverse": True}, {"bidirectional": True}])
calls = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(0, 7), min_size=1, max_size=9),
        "packed": flags,
        "hx": flags,
        "reset": flags,
        "learned": st.sampled_from([None, "one", "each"]),
        "attention": flags,
        "training": flags,
        "threads": st.integers(1, 4),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def arguments(rnn: gru_fused.GRU, call: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Input and hx, and the marks of the call; the longest sequence is one step longer than drawn."""
    lengths = [n + 1 for n in call["lengths"]] if call["packed"] else call["lengths"]
    steps, rows = max(lengths) + (0 if call["packed"] else 1), len(lengths)
    states = rnn.num_layers * (2 if rnn.bidirectional else 1)
    axes = (rows, steps) if rnn.batch_first else (steps, rows)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64)

    marks: dict[str, Any] = {}
    if call["packed"]:
        x: Any = pack_sequence([random(n, rnn.input_size) for n in lengths], enforce_sorted=False)
        axes = (sum(lengths),)
    else:
        x = random(*axes, rnn.input_size)
        marks["lengths"] = torch.tensor(lengths)
    if call["reset"]:
        marks["reset"] = torch.rand(axes) < 0.3
        if call["learned"]:
            marks["reset_state"] = random(states, *([rows] if call["learned"] == "each" else []), rnn.hidden_size)
    if call["attention"]:
        marks["attention"] = torch.rand(axes, dtype=torch.float64)
    return [x, random(states, rows, rnn.hidden_size) if call["hx"] else None], marks


def results(rnn: gru_fused.GRU, given: list[Any], marks: dict[str, Any], seed: int) -> Results:
    x, hx = given
    packed = isinstance(x, PackedSequence)
    leaves = {"x": leaf(x.data if packed else x)}
    leaves |= {"hx": leaf(hx)} if hx is not None else {}
    leaves |= {name: leaf(marks[name]) for name in ("reset_state", "attention") if name in marks}
    told = marks | {name: leaves[name] for name in ("reset_state", "attention") if name in marks}
    if packed:
        told |= {name: x._replace(data=told[name]) for name in ("reset", "attention") if name in marks}
    torch.manual_seed(seed)
    outputs, h_n = rnn(
        x._replace(data=leaves["x"]) if packed else leaves["x"], leaves.get("hx"), all_layers=True, **told
    )
    found = {f"output {k}": y.data if packed else y for k, y in enumerate(outputs)} | {"h_n": h_n}
    cotangents = [torch.randn_like(y) for y in found.values()]
    leaves |= dict(rnn.named_parameters())
    grads = torch.autograd.grad(
        list(found.values()), list(leaves.values()), cotangents, allow_unused=True, materialize_grads=True
    )
    found = {name: y.detach() for name, y in found.items()}
    return found | {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}


@configured
@given(modules, cells, ways, calls)
def test_everything_together(
    module: dict[str, Any], cell: dict[str, Any], way: dict[str, Any], call: dict[str, Any]
) -> None:
    torch.manual_seed(call["seed"])
    rnn = gru_fused.GRU(**module, **cell, **way, allow_empty=True, dtype=torch.float64).train(call["training"])
    given, marks = arguments(rnn, call)
    torch.set_num_threads(call["threads"])
    ours = results(rnn, given, marks, call["seed"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_autograd, "transformed", lambda: True)  # then the reference computes
        truth = results(rnn, given, marks, call["seed"])
    assert list(ours) == list(truth)
    for name in truth:
        # Through a norm a gradient may be a small difference of numbers of about one, for which it has their rounding.
        scale = max(truth[name].abs().max().item(), 1.0) if truth[name].numel() else 1.0
        torch.testing.assert_close(
            ours[name], truth[name], rtol=0, atol=1e-11 * scale, msg=lambda text, at=name: at + text
        )
