"""Nothing is timed that is wrong: every result is first compared with nn.GRU in float64.

nn.GRU's own distance from that truth, in the dtype measured, is the yardstick: in the root mean square over the tensor
twice as far is allowed. The largest error of millions of numbers is luck and may be four times as far; that bound is
for a few wrong numbers among many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, Call
from benchmarks.workloads import Problem

# (measure, factor on nn.GRU's own error, eps of the dtype at the tensor's scale that are free: that error may be zero)
BOUNDS = (("rms", 2.0, 2.0), ("largest", 4.0, 8.0))


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
    eps = torch.finfo(result.dtype).eps
    for name, factor, free in BOUNDS:
        error, own = (measured(name, tensor.double() - exact) for tensor in (result, expected))
        allowed = factor * own + free * eps * measured(name, exact)
        if not error <= allowed:  # so for NaN too
            return f"{name} error {error:.2g}, allowed {allowed:.2g}, {BASELINE} {own:.2g}"
    return None


def measured(name: str, tensor: Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    return (tensor.square().mean().sqrt() if name == "rms" else tensor.abs().max()).item()
