"""The cell's variants on a device: every option, judged by the reference in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compared import on_cpu
from helpers import LOW_DTYPES, Results, assert_as_good_as, assert_equal_to_rounding, dtype_id, pooled
from torch import Tensor
from variants import Variant, ops_results, reference_results

from gru_fused.reference_variants import RECURRENCES

ALL = {"lengths": True, "reset": True, "learned": True, "update": "units", "dropout": True}
PACKED = {**ALL, "lengths": False, "sizes": (9, 9, 5, 3, 1)}
ALONE = [
    Variant(H=33),
    Variant(H=33, bias=False, reverse=True),
    Variant(H=33, lengths=True, D=2),
    Variant(H=33, reset=True, D=2),
    Variant(H=33, reset=True, learned=True, D=2),
    Variant(H=33, update="rows"),
    Variant(H=33, update="units"),
    Variant(H=33, dropout=True, D=2),
    *(Variant(H=33, gate=gate) for gate in ("hard_sigmoid", "hard_sigmoid_fifth")),
    *(Variant(H=33, candidate=candidate) for candidate in ("relu", "softsign")),
]
TOGETHER = [
    variant
    for recurrence in RECURRENCES
    for variant in (
        Variant(T=1, B=1, I=1, H=1, recurrence=recurrence, **ALL),
        Variant(T=9, B=17, H=7, D=2, gate="hard_sigmoid", candidate="softsign", recurrence=recurrence, **ALL),
        Variant(T=5, B=9, H=130, reverse=True, recurrence=recurrence, **ALL),
        Variant(H=33, D=2, recurrence=recurrence, **PACKED),
    )
]
REGIMES = [Variant(T=4, B=16, I=9, H=H, D=2, **ALL) for H in (64, 128, 256, 512, 1024)]


def moved(arguments: dict[str, Any], device: torch.device) -> dict[str, Any]:
    there = {
        name: y.to(device) if isinstance(y, Tensor) and name != "batch_sizes" else y for name, y in arguments.items()
    }
    return there | {"weights": [weight.to(device) for weight in arguments["weights"]]}


def computed(variant: Variant, dtype: torch.dtype, device: torch.device) -> tuple[Results, Results, Results]:
    """Ours and the reference's on the device, and the reference's in float64 on the CPU."""
    arguments, cotangents = variant.arguments(dtype), variant.cotangents(dtype)
    there, cotangents_there = moved(arguments, device), tuple(y.to(device) for y in cotangents)
    ours = ops_results(there, cotangents_there)
    theirs = reference_results(there, cotangents_there, dtype)
    return on_cpu(ours), on_cpu(theirs), reference_results(arguments, cotangents)


@pytest.mark.parametrize("variant", [*ALONE, *TOGETHER, *REGIMES[:4]], ids=str)
def test_float64_is_the_references(device: torch.device, variant: Variant) -> None:
    ours, _, truth = computed(variant, torch.float64, device)
    assert_equal_to_rounding(ours, truth, eps=1e-12)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("variant", [*(one for one in TOGETHER if one.H > 1), *REGIMES], ids=str)
def test_as_good_as_the_reference(device: torch.device, variant: Variant, dtype: torch.dtype) -> None:
    draws = [computed(variant, dtype, device) for _ in range(4 if variant.H < 512 else 1)]
    assert_as_good_as(*map(pooled, zip(*draws, strict=True)))


@pytest.mark.parametrize("variant", [REGIMES[0], REGIMES[3], TOGETHER[-1]], ids=str)
def test_the_same_bits_again(device: torch.device, variant: Variant) -> None:
    arguments = moved(variant.arguments(torch.float32), device)
    cotangents = tuple(y.to(device) for y in variant.cotangents(torch.float32))
    first = ops_results(arguments, cotangents)
    for _ in range(3):
        again = ops_results(arguments, cotangents)
        assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_in_a_graph_with_other_lengths_and_resets(cuda: torch.device, recurrence: str) -> None:
    """The kernels read both from memory: nothing of them is fixed by the capture."""
    variant = Variant(T=6, B=4, H=130, D=2, recurrence=recurrence, **ALL)
    arguments = moved(variant.arguments(torch.float32), cuda)
    arguments["x"] = arguments["x"].nan_to_num()
    cotangents = tuple(y.to(cuda) for y in variant.cotangents(torch.float32))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ops_results(arguments, cotangents)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = ops_results(arguments, cotangents)
    for _ in range(3):
        arguments["lengths"].copy_(torch.randint(0, variant.T + 1, (variant.B,)))
        arguments["reset"].copy_(torch.rand(variant.T, variant.B) < 0.3)
        graph.replay()
        expected = ops_results(arguments, cotangents)
        assert all(torch.equal(results[name], expected[name]) for name in results)
