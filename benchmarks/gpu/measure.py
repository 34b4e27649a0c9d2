"""One size in one dtype, from its numbers to its rows: draw, build, check, time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median

import torch
from torch import Tensor

import gru_fused
from benchmarks.gate import STRICT_GATE, truth_of, verdict_on
from benchmarks.gpu.contestants import CONTESTANTS, for_problem
from benchmarks.gpu.events import clock_of, flush_of, paired_parts
from benchmarks.gpu.limits import device_of, floor_of
from benchmarks.gpu.rows import OK, PARTS, Row, Where
from benchmarks.gpu.toolchain import Unavailable
from benchmarks.implementations import BASELINE, SUBJECT, Passes, result_names
from benchmarks.workloads import DTYPES, Problem, Workload, set_tf32

Pairs = Sequence[tuple[float, float]]  # seconds of forward and backward, round by round


def measure(
    workload: Workload, dtype: str, device: str, of_grid: bool, caches: Sequence[str], seconds: float, at: Where
) -> list[Row]:
    """Rows of every contestant; one that refuses or is wrong has a row that says so.

    ``seconds`` are for each state of L2.
    """
    set_tf32(dtype)
    problem = Problem.draw(workload, DTYPES[dtype], device)
    with torch.inference_mode(workload.mode == "infer"):
        passes, status = verified(problem, dtype, for_problem(problem, of_grid))
        plan = plan_of(workload, DTYPES[dtype], device)
        rows = []
        for cache in caches:
            samples: Mapping[str, Pairs] = {}
            if BASELINE in passes:
                flush = flush_of(device) if cache == "cold" else None
                samples = paired_parts(passes, seconds, clock_of(device), flush)
            for part in PARTS[workload.mode]:
                rows += [row_of(workload, dtype, part, cache, name, status, samples, plan, at) for name in status]
    return rows


def verified(problem: Problem, dtype: str, names: Sequence[str]) -> tuple[dict[str, Passes], dict[str, str]]:
    """Those whose results pass the gate, and the status of all."""
    truth = truth_of(problem)
    labels = result_names(problem)
    passes: dict[str, Passes] = {}
    status: dict[str, str] = {}
    baseline: Sequence[Tensor] | None = None
    for name in sorted(names, key=lambda name: name != BASELINE):  # it is the gate's yardstick
        try:
            built = CONTESTANTS[name](problem, dtype)
            results = built()
            baseline = results if name == BASELINE else baseline
            if baseline is None:
                raise Unavailable(f"not judged, as {BASELINE} failed")
            verdict = verdict_on(lambda results=results: results, baseline, truth, labels)
        except Unavailable as refusal:
            status[name] = f"refused: {refusal}"
        except (RuntimeError, NotImplementedError) as error:  # out of memory, or a kernel that failed
            status[name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        else:
            status[name] = OK if verdict.gate == STRICT_GATE else f"wrong: {verdict.faults[:200]}"
            if status[name] == OK:
                passes[name] = built
    order = {name: passes[name] for name in names if name in passes}
    return order, {name: status[name] for name in names}


def row_of(
    workload: Workload,
    dtype: str,
    part: str,
    cache: str,
    name: str,
    status: Mapping[str, str],
    samples: Mapping[str, Pairs],
    plan: str,
    at: Where,
) -> Row:
    shape = asdict(workload)
    del shape["dtypes"], shape["mode"]
    timed = dict.fromkeys(("us_step", "us_p20", "us_p50", "us_p80", "rounds", "ratio", "ratio_p20", "ratio_p80"))
    floor = None
    if known := device_of(at.device):
        floor = floor_of(workload, dtype, part, known) * 1e6 / workload.T
    if name in samples:
        times = [seconds_of(pair, part) * 1e6 for pair in samples[name]]
        others = [seconds_of(pair, part) * 1e6 for pair in samples[BASELINE]]
        ratios = [other / time for other, time in zip(others, times, strict=True)]
        p50 = median(times)
        timed = {
            "us_step": p50 / workload.T,
            **{"us_p20": percentile(times, 20), "us_p50": p50, "us_p80": percentile(times, 80)},
            "rounds": len(times),
            **{"ratio": median(ratios), "ratio_p20": percentile(ratios, 20), "ratio_p80": percentile(ratios, 80)},
        }
    share = floor / timed["us_step"] if floor and timed["us_step"] else None
    return Row(
        **shape,
        dtype=dtype,
        part=part,
        l2=cache,
        implementation=name,
        status=status[name] if name in samples or status[name] != OK else f"not timed, as {BASELINE} failed",
        **timed,
        floor_us_step=floor,
        floor_share=share,
        plan=plan if name == SUBJECT else "",
        **asdict(at),
    )


def seconds_of(pair: tuple[float, float], part: str) -> float:
    forward, backward = pair
    return {"backward": backward, "both": forward + backward}.get(part, forward)


def percentile(values: Sequence[float], p: float) -> float:
    """Of the values themselves, the nearest."""
    return sorted(values)[round(p / 100 * (len(values) - 1))]


def plan_of(workload: Workload, dtype: torch.dtype, device: str) -> str:
    """How ours is going to compute it, on one line."""
    if workload.kind == "cell" or device == "cpu":
        return ""
    w = workload
    gru = gru_fused.GRU(w.I, w.H, w.layers, bidirectional=w.directions == 2, device="meta", dtype=dtype)
    return " | ".join(gru_fused.explain(gru, (w.T, w.B, w.I), device=device).splitlines())
