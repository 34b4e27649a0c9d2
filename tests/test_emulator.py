"""The CUDA that runs on the CPU keeps its promises: sound kernels are right and clean, each fault is noticed.

The kernels are in tests/emulator/selftest; one program, built plainly and with the sanitizers, runs them by name.
"""

from __future__ import annotations

import ctypes
import platform
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from emulator.build import HERE, build_library, build_program, run_program
from emulator.control import Emulated

SELFTEST = HERE / "selftest"
SOURCES = [SELFTEST / name for name in ("sound.cu", "faulty.cu", "launcher.cu", "main.cpp")]
ORDERS = {"fifo": 0, "lifo": 1, "random": 2}

Selftest = Callable[..., subprocess.CompletedProcess[str]]


def cases(source: str) -> list[str]:
    return re.findall(r'cases\["(\w+)"\]', (SELFTEST / source).read_text())


SOUND = [name for name in cases("sound.cu") if name not in ("turns", "speed")]


@pytest.fixture(scope="session")
def selftest() -> Selftest:
    """Runs a case, with the program built on first use."""

    def run(case: str, *, order: str = "fifo", late: bool = True, sanitizer: str | None = None, ucontext: bool = False):
        if sanitizer is not None and platform.machine() != "x86_64":
            pytest.skip("the sanitizers know fibers on x86-64")
        optimize = "-O1" if sanitizer is None else "-O0"  # the sanitizers' checks take the optimizer long
        program = build_program("selftest", SOURCES, sanitizer=sanitizer, ucontext=ucontext, optimize=optimize)
        seeds = 1 if order != "random" else 10 if sanitizer is None else 2
        return run_program(program, case, ORDERS[order], seeds, int(late))

    return run


@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", SOUND)
def test_sound_kernel_is_right(selftest: Selftest, case: str, order: str, late: bool) -> None:
    result = selftest(case, order=order, late=late)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stdout.startswith("cudaSuccess; 0 of 0"), "nothing was checked"


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("case", SOUND)
def test_sound_kernel_is_clean(selftest: Selftest, case: str, sanitizer: str) -> None:
    for order in ORDERS:
        result = selftest(case, order=order, sanitizer=sanitizer)
        assert result.returncode == 0 and not result.stderr, result.stdout + result.stderr


@pytest.mark.parametrize("case", SOUND)
def test_sound_kernel_is_right_with_the_portable_switch(selftest: Selftest, case: str) -> None:
    result = selftest(case, order="random", ucontext=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_orders_are_what_they_are_called(selftest: Selftest) -> None:
    def turns(order: str) -> list[str]:
        return selftest("turns", order=order).stdout.splitlines()[:-1]

    assert turns("fifo") == ["01234567"] and turns("lifo") == ["76543210"]
    random = turns("random")
    assert len(set(random)) == len(random) == 10  # a seed each
    assert all(sorted(one) == list("01234567") for one in random)
    assert turns("random") == random


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "case, error",
    [
        ("exits_before_the_barrier", "deadlock: block 2: 31 threads wait at __syncthreads, 1 exited"),
        ("waits_for_no_one", "livelock: block 0: 32 threads wait at a flag"),
        ("meets_while_it_polls", "livelock: 100000 switches; block 0: "),
        ("too_few_bytes", "livelock: block 0: 32 threads wait at mbarrier.try_wait"),
        ("traps", "block 1, thread 9: __trap"),
        ("different_collectives", "lanes of one warp are in different collectives: lane "),
        ("lane_outside_its_mask", "is not in its own mask 0000ffff"),
        ("shuffle_from_outside", "__shfl_xor_sync: lane 0 reads lane 16, which takes no part in it"),
        ("cluster_arrives_twice", "barrier.cluster.arrive: the second without a wait"),
        ("rank_outside_the_cluster", "mapa: rank 2 of a cluster of 2"),
        ("mbarrier_without_init", "mbarrier.arrive: the mbarrier was not initialised"),
        ("mbarrier_too_many_arrivals", "mbarrier.arrive: more arrivals than the mbarrier counts in a phase"),
        ("different_counts", "threads are to meet at barrier 1, but others expect"),
        ("too_much_static_shared", "static shared memory: 53248 bytes, and a block has 49152"),
        ("async_store_misaligned", "st.async: the target is not aligned to 4"),
        ("async_store_after_exit", "block 1, which has exited"),
    ],
    ids=lambda value: value if re.fullmatch(r"\w+", value) else "",
)
def test_fault_is_named(selftest: Selftest, case: str, error: str, order: str) -> None:
    result = selftest(case, order=order)
    assert result.stdout.startswith("cudaErrorLaunchFailure;"), result.stdout
    assert error in result.stdout


def test_block_that_waits_for_a_later_one_needs_a_cooperative_launch(selftest: Selftest) -> None:
    assert "livelock: block 0: 32 threads wait at a flag" in selftest("waits_for_a_later_block").stdout
    for order in ORDERS:
        assert selftest("waits_for_a_later_block_cooperative", order=order).returncode == 0


def test_endless_loop_ends_the_process(selftest: Selftest) -> None:
    result = selftest("loops_for_ever")
    assert result.returncode != 0
    assert "block (0,0,0), thread (0,0,0) has run for 1 s without waiting for anything" in result.stderr


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", ["no_syncthreads", "no_syncwarp", "one_buffer", "no_mbarrier_wait", "no_copy_wait"])
def test_missing_wait_shows_in_the_numbers(selftest: Selftest, case: str, order: str) -> None:
    result = selftest(case, order=order)
    assert result.returncode == 1 and result.stdout.startswith("cudaSuccess; "), result.stdout
    assert not result.stdout.startswith("cudaSuccess; 0 of"), result.stdout


@pytest.mark.parametrize("case", ["no_mbarrier_wait", "no_copy_wait"])
def test_late_stores_are_what_shows_it(selftest: Selftest, case: str) -> None:
    assert selftest(case, late=True).returncode == 1
    assert selftest(case, late=False).returncode == 0


@pytest.mark.parametrize("order", ["fifo", "random"])
@pytest.mark.parametrize(
    "case, error",
    [
        ("peer_before_its_start", "this block's shared memory was written before it started"),
        ("peer_after_its_exit", "block 1: its shared memory was written after it had exited"),
    ],
    ids=["before_its_start", "after_its_exit"],
)
def test_write_to_a_peer_that_does_not_run_is_noticed(selftest: Selftest, case: str, error: str, order: str) -> None:
    assert error in selftest(case, order=order).stdout


@pytest.mark.parametrize(
    "case",
    [
        "no_syncthreads",
        "no_syncwarp",
        "shuffle_is_no_barrier",
        "one_buffer",
        "no_mbarrier_wait",
        "relaxed_flag",
        "peer_before_its_start",
        "peer_after_its_exit",
        "blocks_share_an_output",
    ],
)
def test_thread_sanitizer_sees_the_race_under_every_order(selftest: Selftest, case: str) -> None:
    for order in ORDERS:
        result = selftest(case, order=order, sanitizer="thread")
        assert result.returncode == 66 and "WARNING: ThreadSanitizer: data race" in result.stderr
        assert re.search(rf"{kernel_of(case)}.*faulty\.cu:\d+", result.stderr), result.stderr


def kernel_of(case: str) -> str:
    return "no_barrier" if case in ("no_syncthreads", "no_syncwarp") else case


@pytest.mark.parametrize(
    "case",
    ["past_dynamic_shared", "past_static_shared", "past_a_peers_shared", "past_the_output", "peer_before_its_start"],
)
def test_address_sanitizer_sees_the_access(selftest: Selftest, case: str) -> None:
    result = selftest(case, sanitizer="address")
    assert result.returncode != 0 and "ERROR: AddressSanitizer" in result.stderr
    assert "faulty.cu:" in result.stderr


def test_address_sanitizer_sees_the_late_access(selftest: Selftest) -> None:
    assert "ERROR: AddressSanitizer" in selftest("peer_after_its_exit", sanitizer="address").stderr


@pytest.mark.parametrize(
    "case, name",
    [
        ("refused_threads", "cudaErrorInvalidConfiguration"),
        ("refused_empty_grid", "cudaErrorInvalidConfiguration"),
        ("refused_shared_not_asked_for", "cudaErrorInvalidValue"),
        ("refused_shared_above_what_was_asked_for", "cudaErrorInvalidValue"),
        ("refused_cluster_not_portable", "cudaErrorInvalidClusterSize"),
        ("refused_cluster_too_large", "cudaErrorInvalidClusterSize"),
        ("refused_grid_of_broken_clusters", "cudaErrorInvalidClusterSize"),
        ("refused_cluster_before_sm_90", "cudaErrorNotSupported"),
        ("refused_cooperative_blocks", "cudaErrorCooperativeLaunchTooLarge"),
        ("refused_cooperative_clusters", "cudaErrorCooperativeLaunchTooLarge"),
    ],
)
def test_launch_is_refused(selftest: Selftest, case: str, name: str) -> None:
    assert selftest(case).stdout.startswith(f"{name}; 0 of 3 wrong; ")


@pytest.mark.parametrize("case", ["granted", "queries", "memory"])
def test_host_runtime(selftest: Selftest, case: str) -> None:
    result = selftest(case)
    assert result.returncode == 0 and not result.stdout.startswith("cudaSuccess; 0 of 0"), result.stdout


def test_every_case_is_tested() -> None:
    """So that a case can't be added and forgotten."""
    here = Path(__file__).read_text()
    assert [name for name in cases("faulty.cu") + cases("launcher.cu") if f'"{name}"' not in here] == []


# The values that rounding can go wrong at: every one that is representable, those halfway between two of them, and the
# neighbours of both.
def awkward_floats(dtype: torch.dtype) -> torch.Tensor:
    exact = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype).double()
    exact = exact[exact.isfinite()].sort().values
    halfway = (exact[1:] + exact[:-1]) / 2
    beyond = torch.finfo(dtype).max * torch.tensor(
        [1 + 2.0**-12, 1 + 2.0**-9, 1 + 2.0**-8, 2.0, 1e5], dtype=torch.float64
    )
    values = torch.cat([exact, halfway, beyond, -beyond]).float()
    up, down = values.nextafter(torch.tensor(torch.inf)), values.nextafter(torch.tensor(-torch.inf))
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan, 1e-45, -1e-45, 2.0**-126])
    return torch.cat([values, up, down, special, torch.randn(2**16) * 2.0 ** torch.randint(-40, 40, (2**16,))])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_conversions_are_torchs(dtype: torch.dtype) -> None:
    emulated = Emulated(build_library("conversions", [SELFTEST / "conversions.cu"]))
    name = {torch.bfloat16: "bfloat16", torch.float16: "half"}[dtype]

    def convert(function: str, given: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (given, out)]
        assert getattr(emulated.library, function)(*pointers, given.numel()) == 0, emulated.last_error
        return out

    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    widened = convert(f"{name}_to_float", every, torch.empty(2**16))
    assert torch.equal(widened.view(torch.int32)[~every.isnan()], every.float().view(torch.int32)[~every.isnan()])
    assert torch.equal(widened.isnan(), every.isnan())

    given = awkward_floats(dtype)
    rounded, expected = convert(f"float_to_{name}", given, torch.empty(given.shape, dtype=dtype)), given.to(dtype)
    assert torch.equal(rounded.view(torch.int16)[~given.isnan()], expected.view(torch.int16)[~given.isnan()])
    assert rounded[given.isnan()].isnan().all()


def test_library_is_controlled_from_python() -> None:
    emulated = Emulated(build_library("conversions", [SELFTEST / "conversions.cu"]))
    before = emulated.stats
    given, out = torch.zeros(300), torch.empty(300, dtype=torch.float16)
    arguments = [ctypes.c_void_p(given.data_ptr()), ctypes.c_void_p(out.data_ptr()), 300]
    emulated.schedule("random", seed=3)
    assert emulated.library.float_to_half(*arguments) == 0
    assert emulated.stats.launches == before.launches + 1 and emulated.stats.switches == before.switches + 512
    emulated.limits(max_switches=100)
    assert emulated.library.float_to_half(*arguments) == 719 and "livelock: 100 switches" in emulated.last_error
    emulated.limits()
    emulated.schedule("fifo")
    emulated.device(90)
    assert emulated.library.float_to_half(*arguments) == 0 and emulated.last_error == ""


def test_a_second_build_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from emulator import build

    first = build_library("conversions", [SELFTEST / "conversions.cu"])
    commands = []
    monkeypatch.setattr(build, "_run", commands.append)
    assert build_library("conversions", [SELFTEST / "conversions.cu"]) == first
    assert commands == []
