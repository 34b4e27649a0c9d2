"""Each planted bug of the CUDA kernels is noticed by the programs of test_cuda_sanitizers.py."""

from __future__ import annotations

import platform

import pytest
from bugs import Bug, found, planted, runs
from plain_bugs import PLAIN_BUGS
from row_bugs import ROW_BUGS
from single_bugs import SINGLE_BUGS
from variant_bugs import VARIANT_BUGS

ALL_BUGS = [*PLAIN_BUGS, *ROW_BUGS, *SINGLE_BUGS, *VARIANT_BUGS]

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the sanitizers know fibers on x86-64")


@pytest.mark.parametrize("bug", ALL_BUGS, ids=str)
def test_a_planted_bug_is_noticed(bug: Bug) -> None:
    shown = []
    for run in runs(bug, planted(bug)):
        shown.append(run.stdout + run.stderr[:2000])
        if found(bug, run):
            return
    pytest.fail(f"{bug} was not noticed:\n" + "\n".join(shown))


def test_names_of_bugs_differ() -> None:
    assert len({bug.name for bug in ALL_BUGS}) == len(ALL_BUGS)
