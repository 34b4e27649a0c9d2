"""Every variant's op gives the reference's results and gradients, in every dtype, layout and number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from helpers import LOW_DTYPES, assert_as_good_as, assert_equal_to_rounding, dtype_id, pooled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, Layout
from torch import Tensor
from variants import Variant, enumerated, ops_results, reference_results

from gru_fused import _ops
from gru_fused.reference_variants import RECURRENCES

pytestmark = pytest.mark.usefixtures("poisoned")

ALONE: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"D": 2},
    {"reverse": True},
    {"lengths": True},
    {"lengths": True, "D": 2},
    {"reset": True},
    {"reset": True, "reverse": True},
    {"reset": True, "learned": True, "D": 2},
    {"reset": True, "lengths": True, "D": 2},
    {"update": "rows"},
    {"update": "units"},
    {"dropout": True},
    {"gate": "hard_sigmoid"},
    {"gate": "hard_sigmoid_fifth", "candidate": "softsign"},
    {"candidate": "relu"},
]
EVERYTHING = {"reset": True, "learned": True, "update": "units", "dropout": True, "D": 2}
SHAPES: list[dict[str, Any]] = [
    {"T": 1, "B": 1, "I": 1, "H": 1},
    {"T": 1, "B": 17, "H": 33},
    {"T": 2, "B": 9, "H": 7},  # few enough rows that the weights stay where they are, and a few more
    {"T": 9, "B": 1, "I": 1, "H": 130},
    {"T": 31, "B": 17, "I": 33, "H": 33},
    {"T": 3, "B": 190, "H": 9},  # three tiles of rows
    {"T": 300, "B": 3, "H": 5},  # chunks of steps
    {"T": 40, "B": 1, "I": 33, "H": 150, "D": 1},  # a team of threads
    {"T": 4, "B": 0},
    {"sizes": (3, 2, 2, 1)},
    {"sizes": (17, 17, 9, 9, 9, 1, 1), "H": 33},
]


def cases() -> list[Variant]:
    alone = [Variant(T=9, B=4, recurrence=name, **options) for name, options in product(RECURRENCES, ALONE)]
    full = []
    for name, shape in product(RECURRENCES, SHAPES):
        full.append(Variant(**{**EVERYTHING, **shape}, recurrence=name))
        if "sizes" not in shape and shape["B"]:
            full.append(replace(full[-1], lengths=True, update="rows", bias=False))
    return [replace(case, bias=True) if case.norm else case for case in alone + full]


@pytest.mark.parametrize("case", dict.fromkeys(cases()), ids=str)
def test_reference_in_float64(case: Variant) -> None:
    arguments, cotangents = case.arguments(), case.cotangents()
    assert_equal_to_rounding(ops_results(arguments, cotangents), reference_results(arguments, cotangents), eps=1e-12)


@pytest.mark.parametrize("dtype", LOW_DTYPES, ids=dtype_id)
@pytest.mark.parametrize("lengths", [False, True], ids=["", "lengths"])
@pytest.mark.parametrize("shape", [{}, {"T": 20, "B": 17, "I": 5, "H": 33}], ids=["small", "large"])
@pytest.mark.parametrize(
    "options", [{}, EVERYTHING, {"candidate": "softsign"}], ids=["plain", "everything", "softsign"]
)
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_as_good_as_the_reference_in_its_dtype(
    recurrence: str, options: dict[str, Any], shape: dict[str, Any], lengths: bool, dtype: torch.dtype
) -> None:
    case = Variant(recurrence=recurrence, lengths=lengths, **shape, **options)
    draws = []
    for _ in range(8):
        arguments, cotangents = case.arguments(dtype), case.cotangents(dtype)
        ours, theirs = ops_results(arguments, cotangents), reference_results(arguments, cotangents, dtype)
        draws.append((ours, theirs, reference_results(arguments, cotangents)))
    assert_as_good_as(*map(pooled, zip(*draws, strict=True)), floor=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=dtype_id)
@pytest.mark.parametrize(
    "shape", [{"T": 2}, {"T": 40, "H": 33}, {"sizes": (5, 5, 2, 1)}], ids=["few", "many", "packed"]
)
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_inference_gives_the_bits_of_training(recurrence: str, shape: dict[str, Any], dtype: torch.dtype) -> None:
    arguments = Variant(recurrence=recurrence, **EVERYTHING, **shape).arguments(dtype)
    output, h_n, gates, normal, scale = _ops.variant(*enumerated(arguments).values(), False, False)
    assert gates.numel() == normal.numel() == scale.numel() == 0
    trained = _ops.variant(*enumerated(arguments).values(), True, False)
    assert torch.equal(output, trained[0])
    assert torch.equal(h_n, trained[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=dtype_id)
@pytest.mark.parametrize(
    "shape", [{"T": 20, "B": 17, "I": 33, "H": 130}, {"T": 40, "B": 1, "H": 150, "D": 1}], ids=["shares", "team"]
)
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_any_number_of_threads(recurrence: str, shape: dict[str, Any], dtype: torch.dtype) -> None:
    """The same bits, but for what is summed over rows: a sum over the shares of the threads."""
    case = Variant(recurrence=recurrence, lengths=True, **{**EVERYTHING, **shape})
    arguments, cotangents = case.arguments(dtype), case.cotangents(dtype)
    torch.set_num_threads(1)
    expected = ops_results(arguments, cotangents)
    for threads in (2, 3, 4, 7):
        torch.set_num_threads(threads)
        for _ in range(5):
            found = ops_results(arguments, cotangents)
            for name, value in expected.items():
                if "weights" in name and case.B > 1:
                    close = {"rtol": 1e-2, "atol": 1e-2 * value.abs().max().item()}
                    torch.testing.assert_close(found[name], value, **close)
                else:
                    assert torch.equal(found[name], value), f"{name} on {threads} threads"


@pytest.mark.parametrize("layout", LAYOUTS[:4], ids=str)
@pytest.mark.parametrize("sizes", [None, (4, 4, 3, 1)], ids=["padded", "packed"])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_any_layout(recurrence: str, sizes: tuple[int, ...] | None, layout: Layout) -> None:
    case = Variant(recurrence=recurrence, sizes=sizes, lengths=sizes is None, **EVERYTHING)
    arguments, cotangents = case.arguments(), case.cotangents()
    expected = ops_results(arguments, cotangents)

    def laid_out(value: Any) -> Any:
        if isinstance(value, list):
            return [laid_out(one) for one in value]
        return layout(value) if isinstance(value, Tensor) else value

    given = {name: value if name == "batch_sizes" else laid_out(value) for name, value in arguments.items()}
    found = ops_results(given, tuple(map(layout, cotangents)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_what_is_past_a_length_does_not_count(recurrence: str) -> None:
    """NaN in the input, in the update and in the output's gradient, and an episode that never begins."""
    case = Variant(T=9, B=6, recurrence=recurrence, lengths=True, **EVERYTHING)
    arguments, cotangents = case.arguments(), case.cotangents()
    lengths = arguments["lengths"] = torch.tensor([9, 0, -3, 12, 1, 5])
    arguments["x"] = torch.randn_like(arguments["x"])
    dead = torch.arange(9)[:, None] >= lengths
    expected = ops_results(arguments, cotangents)
    assert not expected["output"][dead].any()
    assert not expected["grad x"][dead].any()
    assert not expected["grad update"][:, dead].any()
    assert torch.equal(expected["h_n"][:, [1, 2]], arguments["hx"][:, [1, 2]])
    for name in ("x", "update"):
        arguments[name] = arguments[name].masked_fill(dead[..., None], float("nan"))
    arguments["reset"] = arguments["reset"] | dead
    found = ops_results(arguments, (cotangents[0].masked_fill(dead[..., None], float("nan")), cotangents[1]))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("B", [1, 40])
@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_no_row_is_ever_alive(recurrence: str, B: int) -> None:
    case = Variant(B=B, recurrence=recurrence, lengths=True, **EVERYTHING)
    arguments, cotangents = case.arguments(), case.cotangents()
    arguments["lengths"].zero_()
    found = ops_results(arguments, cotangents)
    assert torch.equal(found.pop("h_n"), arguments["hx"])
    assert torch.equal(found.pop("grad hx"), cotangents[1])
    assert not any(value.any() for value in found.values())


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_only_the_gradients_that_are_needed(recurrence: str) -> None:
    case = Variant(T=9, recurrence=recurrence, **EVERYTHING)
    arguments, cotangents = case.arguments(), case.cotangents()
    expected = ops_results(arguments, cotangents)
    x, hx, weights, bias, batch_sizes, *options = enumerated(arguments).values()
    output, _, *saved = _ops.variant(x, hx, weights, bias, batch_sizes, *options, True, False)
    for needs in product([False, True], repeat=4):
        found = _ops.variant_backward(
            *cotangents, x, hx, output, *saved, weights, bias, batch_sizes, *options, *needs, False
        )
        of_need = dict(zip(("x", "weights", "update", "reset_state"), needs, strict=True))
        wanted = [name for name in expected if name.startswith("grad")]
        wanted = [name for name in wanted if of_need.get(name.removeprefix("grad ").split("[")[0], True)]
        for name, value in zip(wanted, found, strict=True):
            assert torch.equal(value.reshape(expected[name].shape), expected[name]), f"{name}, {needs}"


@pytest.mark.parametrize("recurrence", RECURRENCES)
def test_without_a_gradient_of_output_or_state(recurrence: str) -> None:
    case = Variant(recurrence=recurrence, lengths=True, **EVERYTHING)
    arguments, (of_output, of_state) = case.arguments(), case.cotangents()
    for missing in (0, 1):
        given: list[Tensor | None] = [of_output, of_state]
        zeros = [torch.zeros_like(y) if i == missing else y for i, y in enumerate((of_output, of_state))]
        given[missing] = None
        found, expected = ops_results(arguments, given), ops_results(arguments, zeros)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


EXAMPLES = os.environ.get("GRU_FUSED_FUZZ_EXAMPLES")
flags = st.booleans()
variants = st.builds(
    Variant,
    T=st.integers(1, 20),
    B=st.integers(1, 20),
    I=st.integers(1, 40),
    H=st.integers(1, 70),
    D=st.integers(1, 2),
    bias=flags,
    sizes=st.one_of(
        st.none(), st.lists(st.integers(1, 9), min_size=1, max_size=9).map(lambda n: tuple(sorted(n, reverse=True)))
    ),
    recurrence=st.sampled_from(RECURRENCES),
    gate=st.sampled_from(["sigmoid", "hard_sigmoid", "hard_sigmoid_fifth"]),
    candidate=st.sampled_from(["tanh", "relu", "softsign"]),
    reverse=flags,
    lengths=flags,
    reset=flags,
    learned=flags,
    update=st.sampled_from(["", "rows", "units"]),
    dropout=flags,
)


@settings(
    max_examples=int(EXAMPLES or 200),
    derandomize=EXAMPLES is None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(variants, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_reference_whatever_the_options(case: Variant, threads: int, seed: int) -> None:
    case = replace(
        case,
        bias=case.bias or case.norm,
        reverse=case.reverse and case.D == 1,
        lengths=case.lengths and case.sizes is None,
        learned=case.learned and case.reset,
    )
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    arguments, cotangents = case.arguments(), case.cotangents()
    assert_equal_to_rounding(ops_results(arguments, cotangents), reference_results(arguments, cotangents), eps=1e-11)


@pytest.mark.parametrize("name", ["base", "avx2", "avx512"])
def test_every_instruction_set(name: str) -> None:
    """The tests above against the reference, on the kernels of smaller machines."""
    known = ["base", "avx2", "avx512", "avx512_bf16", "amx_bf16"]
    if known.index(name) >= known.index(_ops.cpu_capability()):
        pytest.skip("not smaller than what this machine runs already")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "reference"]
    done = subprocess.run(command, env=os.environ | {"GRU_FUSED_CPU": name}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
