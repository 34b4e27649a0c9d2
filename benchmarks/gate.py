"""Nothing is timed that is wrong: every result is first compared with nn.GRU in float64.

nn.GRU's own distance from that truth, in the dtype measured, is the yardstick: twice as far is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, Call
from benchmarks.workloads import Problem

FACTOR = 2.0
# Allowed in any case, in eps of the dtype at the tensor's largest value: nn.GRU's error may happen to be zero.
FLOOR = 2.0


class WrongResult(Exception):
    """The gate is red."""


def truth_of(problem: Problem) -> tuple[Tensor, ...]:
    return IMPLEMENTATIONS[BASELINE].build(problem.to(torch.float64))()


def check(calls: Mapping[str, Call], truth: Sequence[Tensor], names: Sequence[str]) -> None:
    """Raises WrongResult, with all that is wrong, if a call is too far from the truth; ``names`` are the results'."""
    baseline = calls[BASELINE]()
    faults = []
    for implementation, call in calls.items():
        if implementation == BASELINE:
            continue
        results = call()
        if len(results) != len(names):
            raise WrongResult(f"{implementation} returned {len(results)} results, not {len(names)}")
        for name, result, expected, exact in zip(names, results, baseline, truth, strict=True):
            if fault := fault_of(result, expected, exact):
                faults.append(f"{implementation}, {name}: {fault}")
    if faults:
        raise WrongResult("; ".join(faults))


def fault_of(result: Tensor, expected: Tensor, exact: Tensor) -> str | None:
    if result.shape != expected.shape or result.dtype != expected.dtype:
        found, wanted = (f"{t.dtype} {tuple(t.shape)}" for t in (result, expected))
        return f"{found} where {wanted} is expected"
    error, own = max_error(result, exact), max_error(expected, exact)
    allowed = FACTOR * own + FLOOR * torch.finfo(result.dtype).eps * exact.abs().max().item()
    if error <= allowed:  # not so for NaN
        return None
    return f"error {error:.2g}, allowed {allowed:.2g}, {BASELINE} {own:.2g}"


def max_error(result: Tensor, exact: Tensor) -> float:
    return (result.double() - exact).abs().max().item()
