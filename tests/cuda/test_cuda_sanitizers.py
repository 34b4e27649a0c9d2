"""The CUDA kernels touch no memory but their own, race with nothing and are right, emulated, under the sanitizers.

tests/cuda/kernels_check.cu runs every loop, in small cuts of every kind, and the kernels of single steps;
variants_check.cu does so with the cell's variants. test_cuda_bugs.py says what these programs notice.
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from bugs import CHECKS, EXCHANGES, FORMS
from emulator.build import CSRC, build_program, run_program

SOURCES = [*sorted((CSRC / "cuda").glob("*.cu")), CSRC / "cuda" / "plan.cpp"]

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the sanitizers know fibers on x86-64")


@pytest.fixture(scope="session", params=["address", "thread"])
def sanitizer(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=["plain", "variant"])
def program(request: pytest.FixtureRequest, sanitizer: str) -> Path:
    check = CHECKS[request.param]
    return build_program(f"cuda_{check.stem}", [*SOURCES, check], sanitizer=sanitizer, optimize="-O0")


@pytest.mark.parametrize("program", ["plain"], indirect=True)
@pytest.mark.parametrize("arithmetic", [form for form in FORMS if form != "f64"])
def test_kernels_of_one_row_are_right_and_clean(arithmetic: str, program: Path, sanitizer: str) -> None:
    test_kernels_are_right_and_clean(arithmetic, "row", program, sanitizer)


@pytest.mark.parametrize("exchange", [*EXCHANGES, "steps"])
@pytest.mark.parametrize("arithmetic", FORMS)
def test_kernels_are_right_and_clean(arithmetic: str, exchange: str, program: Path, sanitizer: str) -> None:
    sizes = [("fifo", "all"), ("random", "small")]
    if sanitizer == "thread":
        # It is slow, and sees a race under any order. Three forms differ in little but a type, and with a variant
        # threads tell each other no more than without.
        few = arithmetic in ("tf32", "f16") or "variants" in program.name
        few = few or (exchange, arithmetic) == ("row", "bf16")
        sizes = [("fifo", "small" if few else "all")]
    for order, size in sizes:
        result = run_program(program, arithmetic, exchange, "both", order, 1, size)
        assert result.returncode == 0 and not result.stderr, result.stdout + result.stderr[:8000]
        assert ", 0 wrong" in result.stdout and not result.stdout.startswith("0 "), result.stdout
