"""Nothing is timed that is wrong: every result is first compared with nn.GRU in float64.

nn.GRU's own distance from that truth, in the dtype measured, is the yardstick: in the root mean square over the tensor
twice as far is allowed. The largest error of millions of numbers is luck and may be four times as far; that bound is
for a few wrong numbers among many.

Ours passes this strict gate or fails. A peer is not ours to mend: one within the loose bound is timed and marked, and
one outside it is left out of that row, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.implementations import BASELINE, IMPLEMENTATIONS, Call
from benchmarks.workloads import Problem

# (measure, factor on nn.GRU's own error, eps of the dtype at the tensor's scale that are free: that error may be zero)
BOUNDS = (("rms", 2.0, 2.0), ("largest", 4.0, 8.0))
LOOSE = 1e-4  # of the tensor, in both measures

STRICT_GATE, LOOSE_GATE, NO_GATE = "strict", "loose", "none"


class WrongResult(Exception):
    """The gate is red."""


class Verdict(NamedTuple):
    gate: str  # the strictest that was passed
    faults: str  # on the strict one


def truth_of(problem: Problem) -> tuple[Tensor, ...]:
    return IMPLEMENTATIONS[BASELINE].build(problem.to(torch.float64))()


def check(calls: Mapping[str, Call], truth: Sequence[Tensor], names: Sequence[str]) -> dict[str, Verdict]:
    """Verdicts by implementation; raises WrongResult, with all that is wrong, if any but a peer misses the strict gate.

    ``names`` are the results'.
    """
    baseline = calls[BASELINE]()
    verdicts = {name: verdict_on(call, baseline, truth, names) for name, call in calls.items()}
    faults = [f"{name}, {v.faults}" for name, v in verdicts.items() if v.gate != STRICT_GATE and not is_peer(name)]
    if faults:
        raise WrongResult("; ".join(faults))
    return verdicts


def is_peer(name: str) -> bool:
    return name in IMPLEMENTATIONS and IMPLEMENTATIONS[name].peer


def verdict_on(call: Call, baseline: Sequence[Tensor], truth: Sequence[Tensor], names: Sequence[str]) -> Verdict:
    results = [result if isinstance(result, Tensor) else torch.from_dlpack(result) for result in call()]
    if len(results) != len(names):
        return Verdict(NO_GATE, f"{len(results)} results, not {len(names)}")
    faults = []
    for name, result, expected, exact in zip(names, results, baseline, truth, strict=True):
        if fault := fault_of(result, expected, exact):
            faults.append(f"{name}: {fault}")
    if not faults:
        return Verdict(STRICT_GATE, "")
    close = all(map(is_close, results, truth))
    return Verdict(LOOSE_GATE if close else NO_GATE, "; ".join(faults))


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


def is_close(result: Tensor, exact: Tensor) -> bool:
    if result.shape != exact.shape:
        return False
    return all(measured(name, result.double() - exact) <= LOOSE * measured(name, exact) for name, *_ in BOUNDS)


def measured(name: str, tensor: Tensor) -> float:
    if tensor.numel() == 0:
        return 0.0
    return (tensor.square().mean().sqrt() if name == "rms" else tensor.abs().max()).item()
