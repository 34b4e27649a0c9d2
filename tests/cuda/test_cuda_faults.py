"""A device that refuses and a peer that stays silent: another regime, or an error that says what; never a hang."""

from __future__ import annotations

import pytest
import torch
from bugs import Bug, found, planted, runs
from conftest import EmulatedOps
from helpers import Case, ReferenceGRU, assert_equal_to_rounding, run, twin

import gru_fused

WIDE = Case(T=3, B=2, I=3, H=70, bidirectional=True)  # more units than one group: a team of several CTAs


def assert_right(case: Case) -> None:
    rnn = case.module(gru_fused.GRU)
    given, cotangents = case.inputs(), case.cotangents()
    truth = run(twin(rnn, ReferenceGRU), *given, cotangents)
    assert_equal_to_rounding(run(rnn, *given, cotangents), truth, eps=1e-12)


def launches(emulated: EmulatedOps, case: Case) -> int:
    """How many kernels a forward without gradients launches: one for all steps and directions, or one each."""
    before = emulated.stats.launches
    rnn = case.module(gru_fused.GRU)
    with torch.no_grad():
        rnn(*case.inputs())
    return emulated.stats.launches - before


@pytest.mark.parametrize("value", ["grid", "Block", "packets ", "1"])
def test_an_unknown_regime_is_named(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", value)
    with pytest.raises(RuntimeError, match=f"GRU_FUSED_CUDA_REGIME: expected row, block, cluster.*got {value}"):
        gru_fused.GRU(3, 4)(torch.randn(2, 1, 3))


@pytest.mark.parametrize("value", ["2", "2x", "x4", "two"])
def test_an_unreadable_cut_is_named(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", "cluster")
    monkeypatch.setenv("GRU_FUSED_CUDA_CUT", value)
    with pytest.raises(RuntimeError, match=f"GRU_FUSED_CUDA_CUT: expected groups x tiles, as 2x4, got {value}"):
        gru_fused.GRU(3, 4)(torch.randn(2, 1, 3))


@pytest.mark.parametrize(("cut", "regime_launches"), [("2x1", 1), ("1x2", 1), ("7x1", 2 * WIDE.T)])
def test_a_cut_is_taken_if_it_can_be(
    emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch, cut: str, regime_launches: int
) -> None:
    """Five groups of units make no cluster of seven groups a CTA: step by step then."""
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", "cluster")
    monkeypatch.setenv("GRU_FUSED_CUDA_CUT", cut)
    case = Case(T=3, B=5, I=3, H=70, bidirectional=True)
    assert launches(emulated, case) == regime_launches
    assert_right(case)


def test_an_empty_regime_is_none(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", "")
    assert_right(WIDE)


@pytest.mark.parametrize("wanted", ["packets", "flags"])
@pytest.mark.parametrize(
    ("sms", "expected"), [(4, 1), (3, 2), (2, 2), (1, 2 * WIDE.T)], ids=["room", "room-for-1", "for-1", "none"]
)
def test_a_grid_larger_than_the_device_goes_team_by_team_or_step_by_step(
    emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch, wanted: str, sms: int, expected: int
) -> None:
    """Two teams of at least two CTAs do not fit on three SMs, and a launch that could not be resident is not tried."""
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", wanted)
    monkeypatch.setenv("GRU_FUSED_CUDA_CUT", "3x1")
    emulated.device(90, sms=sms)
    assert launches(emulated, WIDE) == expected
    assert emulated.last_error == ""
    assert_right(WIDE)


@pytest.mark.parametrize("arch", [80, 90, 120])
@pytest.mark.parametrize("sms", [1, 2, 3])
def test_a_device_with_few_sms_is_right(emulated: EmulatedOps, arch: int, sms: int) -> None:
    emulated.device(arch, sms=sms)
    assert_right(WIDE)
    assert emulated.last_error == ""


def test_a_device_without_clusters_launches_none(emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", "cluster")
    assert launches(emulated, WIDE) == 1
    emulated.device(80)
    assert launches(emulated, WIDE) == 2 * WIDE.T
    assert_right(WIDE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_no_regime_of_an_older_device_is_refused(
    emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    emulated.device(80)
    for wanted in ("", "row", "block", "cluster", "packets", "flags", "single", "steps"):
        monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", wanted)
        for hidden in (3, 70, 200):
            for steps in (1, 2):
                gru_fused.GRU(3, hidden, dtype=dtype)(torch.randn(steps, 2, 3, dtype=dtype))[0].sum().backward()
                assert emulated.last_error == ""


@pytest.mark.parametrize(
    ("regime_wanted", "kernel", "shape"),
    [
        ("row", "forward_loop", r"2 teams of 1 CTAs x 128 threads and \d+ bytes of shared memory, H <= 32"),
        ("block", "forward_loop", r"1 teams of 1 CTAs x \d+ threads and \d+ bytes of shared memory, H <= 16"),
        ("cluster", "forward_loop", r"2 teams of \d+ CTAs x \d+ threads and \d+ bytes of shared memory, H <= 80"),
        ("packets", "forward_loop", r"2 teams of \d+ CTAs x \d+ threads and \d+ bytes of shared memory, H <= 80"),
        ("flags", "forward_loop", r"2 teams of \d+ CTAs x \d+ threads and \d+ bytes of shared memory, H <= 80"),
        ("steps", "step_forward", r"\d+ rows of H=70"),
    ],
)
def test_a_failed_launch_names_its_kernel_and_shape(
    emulated: EmulatedOps, monkeypatch: pytest.MonkeyPatch, regime_wanted: str, kernel: str, shape: str
) -> None:
    monkeypatch.setenv("GRU_FUSED_CUDA_REGIME", regime_wanted)
    case = Case(T=2, B=2, I=3, H=5) if regime_wanted in ("row", "block") else WIDE
    dtype = torch.float32 if regime_wanted == "row" else torch.float64  # of which a row has no loop
    emulated.limits(max_switches=20)  # so that any launch fails
    with pytest.raises(RuntimeError, match=rf"{kernel}.*{shape}.*unspecified launch failure"):
        case.module(gru_fused.GRU, dtype)(*case.inputs(dtype))
    emulated.limits()
    assert launches(emulated, case) >= 1  # the next launch knows nothing of it


def test_a_failed_backward_names_its_kernel(emulated: EmulatedOps) -> None:
    rnn = gru_fused.GRU(3, 5).requires_grad_(False)  # gradients of weights would launch another kernel first
    output, _ = rnn(torch.randn(2, 2, 3, requires_grad=True))
    emulated.limits(max_switches=20)
    with pytest.raises(RuntimeError, match="backward_loop with 2 teams of 1 CTAs"):
        output.sum().backward()


SILENT = [
    Bug(
        f"a-silent-peer-{exchange}-{way}",
        "exchange.cuh",
        "  exchange.send(step, place.row(piece), ",
        "  if (place.rank != 1) exchange.send(step, place.row(piece), ",
        exchange,
        way,
        "report",
        text=wait,
    )
    for exchange, wait in (("cluster", "mbarrier.try_wait"), ("packets", "a poll of global memory"))
    for way in ("forward", "backward")
]
SILENT.append(
    Bug(
        "a-silent-peer-flags",
        "exchange.cuh",
        "    if (place_.thread == 0) arch::add_release(counter());\n",
        "    if (place_.thread == 0 && place_.rank != 1) arch::add_release(counter());\n",
        "flags",
        "forward",
        "report",
        text="a poll of global memory",
    )
)


@pytest.mark.parametrize("bug", SILENT, ids=str)
def test_a_wait_for_a_silent_peer_ends(bug: Bug) -> None:
    run = next(iter(runs(bug, planted(bug))))
    assert found(bug, run), run.stdout + run.stderr


@pytest.mark.parametrize("bug", [SILENT[0], SILENT[2], SILENT[4]], ids=str)
def test_a_kernel_gives_up_by_itself(bug: Bug) -> None:
    """With few polls allowed, the kernel traps before the emulator sees that nothing moves."""
    few = ("arch.h", "kMaxPolls = 1u << 25, kMaxTries = 1u << 22;", "kMaxPolls = 50, kMaxTries = 50;")
    gives_up = Bug(**{**vars(bug), "name": f"{bug.name}-gives-up", "text": "__trap"})
    run = next(iter(runs(gives_up, planted(gives_up, few))))
    assert found(gives_up, run), run.stdout + run.stderr
