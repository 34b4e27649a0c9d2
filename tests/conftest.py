"""Fixtures of all tests: the same seed, the same number of threads, no luck from uninitialised memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from types import ModuleType

# Before torch starts its threads: spinning ones would fight over a small machine's cores and the suite take 5x as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch
from native.build import build_bindings, has

THREADS = 2  # fixed, so that a test does the same on every machine; two, so that the threaded paths run


LONG = "test_sanitizers.py"  # few tests, of minutes each


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Several workers take file by file in this order, the longest first, so that none is left alone with it."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    tests_of = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != LONG, -tests_of[item.path]))


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """Every test starts from the same seed, thread count and default dtype, and leaves them so."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(THREADS)
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=[1, 2], ids=lambda n: f"threads{n}")
def threads(request: pytest.FixtureRequest, repeatable: None) -> int:
    """A test runs on one thread and on two."""
    torch.set_num_threads(request.param)
    return request.param


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Fill uninitialised memory with NaN (integers with their maximum), so that reading it can't go unnoticed.

    torch does it inside the operators (``empty``, ``empty_strided``, ``empty_like``, ``new_empty``, ``resize_``), so
    memory that C++ takes through the dispatcher is filled as well. Memory from a plain ``malloc`` isn't.
    """
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The kernels' insides, bound by pybind11."""
    if not has("avx2"):
        pytest.skip("this machine has no AVX2")
    return build_bindings(tmp_path_factory.mktemp("native"))
