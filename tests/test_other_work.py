"""How long calls stay on their own thread after another was late, and whether brief ones follow each other.

Pure functions of times, here in microseconds.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

LONGEST = 250_000


@pytest.fixture
def work(native: ModuleType) -> Any:
    return native.OtherWork()


def pause_after(work: Any, now: int, by: int) -> int:
    """A thread is late at `now`; returns how long no other is expected to be in time."""
    work.was_late(now, by)
    if not work.expected(now):
        return 0
    short, long = 0, 2 * LONGEST
    while long - short > 1:
        middle = (short + long) // 2
        short, long = (middle, long) if work.expected(now + middle) else (short, middle)
    return long


def test_nothing_is_expected_at_first(work: Any) -> None:
    assert not work.expected(0)


def test_a_thread_that_is_only_being_woken_is_in_time(work: Any) -> None:
    for now in range(0, 1000, 10):
        assert pause_after(work, now, by=100) == 0


def test_pauses_begin_as_long_as_the_lateness_and_double_to_the_longest(work: Any) -> None:
    now, pauses = 0, []
    for _ in range(10):
        pauses.append(pause_after(work, now, by=4000))
        now += pauses[-1]  # the attempt after it fails too
    assert pauses == [4000 * 2**i for i in range(6)] + [LONGEST] * 4


def test_a_later_thread_makes_a_longer_pause(work: Any) -> None:
    assert pause_after(work, 0, by=4000) == 4000
    assert pause_after(work, 4000, by=30_000) == 30_000


def test_several_late_threads_are_one_failure(work: Any) -> None:
    pause_after(work, 0, by=4000)
    assert pause_after(work, 1000, by=3000) == 4000
    assert pause_after(work, 5000, by=4000) == 8000


@pytest.mark.parametrize("calls, expected", [(0, 8000), (1, 6400), (3, 4000), (100, 4000)])
def test_calls_in_time_take_eight_times_their_own_time_off_the_next_pause(work: Any, calls: int, expected: int) -> None:
    pause_after(work, 0, by=4000)
    for call in range(calls):
        work.was_in_time(5000 + 100 * call, 100)
    assert pause_after(work, 500_000, by=4000) == expected


def test_a_call_in_which_one_was_late_is_not_in_time(work: Any) -> None:
    pause_after(work, 0, by=4000)
    work.was_in_time(1000, 4000)
    assert pause_after(work, 5000, by=4000) == 8000


def streak(native: ModuleType, times: list[int]) -> list[bool]:
    one = native.Streak()
    return [one.goes_on(time) for time in times]


def test_brief_calls_that_follow_each_other_are_shared_from_the_seventeenth_on(native: ModuleType) -> None:
    assert streak(native, [10_000 + 100 * call for call in range(40)]) == [False] * 16 + [True] * 24


def test_a_pause_of_two_milliseconds_ends_a_streak(native: ModuleType) -> None:
    times = [10_000 + 1999 * call for call in range(20)]
    times += [times[-1] + 2000 + 100 * call for call in range(20)]
    assert streak(native, times) == [False] * 16 + [True] * 4 + [False] * 16 + [True] * 4


def test_the_layers_of_calls_that_come_every_ten_milliseconds_are_no_streak(native: ModuleType) -> None:
    times = [10_000 * call + 50 * layer for call in range(1, 20) for layer in range(6)]
    assert not any(streak(native, times))
