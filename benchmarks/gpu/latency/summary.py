"""What latency.jsonl says, on a screen. A case with bad data or a wait given up counts as an error, never as a time."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

Line = dict[str, object]
SHOWN_BYTES = (64, 256, 1024, 4096)  # from each CTA of a cluster


def lines_of(text: str) -> list[Line]:
    found = []
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # cut by a limit
            continue
    return found


def summary(lines: Sequence[Line]) -> str:
    good = [line for line in lines if line.get("us") and not line["bad"] and not line["timeouts"]]
    parts = [
        device(lines),
        grid(good),
        hops(good),
        exchanges(good),
        clusters(good),
        pushes(good),
        fits(lines),
        steps(good),
    ]
    return "\n".join([*(part for part in parts if part), broadcasts(good)])


def of(lines: Sequence[Line], test: str) -> list[Line]:
    return [line for line in lines if line["test"] == test]


def device(lines: Sequence[Line]) -> str:
    found = of(lines, "device")
    if not found:
        return "no device answered"
    d = found[0]
    clocks = f"{d['measured_mhz']} MHz measured, {d['max_mhz']} at most"
    return f"{d['name']}: {d['sms']} SMs, {clocks}, CUDA driver {d['driver']}"


def grid(good: Sequence[Line]) -> str:
    return "grid.sync, us: " + ", ".join(f"{line['ctas']} CTAs {line['us']:.2f}" for line in of(good, "grid_sync"))


def hops(good: Sequence[Line]) -> str:
    times = defaultdict(list)
    for line in of(good, "hop"):
        times[line["method"]].append(line["us"] / 2)
    return "hop, us, median (least to most): " + ", ".join(
        f"{method} {median(us):.2f} ({min(us):.2f} to {max(us):.2f})" for method, us in times.items()
    )


def exchanges(good: Sequence[Line]) -> str:
    best: dict[tuple, dict] = defaultdict(dict)
    for line in of(good, "exchange"):
        cell = best[line["H"], line["B"]]
        cell[line["method"]] = min(cell.get(line["method"], (9e9, 0)), (line["us"], line["ctas"]))
    rows = [
        f"  H{H:<5}B{B:<4}" + ", ".join(f"{method} {us:.2f} ({ctas})" for method, (us, ctas) in cell.items())
        for (H, B), cell in best.items()
    ]
    return "\n".join(["all-to-all through global memory, us a step (at the best number of CTAs):", *rows])


def clusters(good: Sequence[Line]) -> str:
    found = of(good, "cluster_barrier")
    return "cluster barrier, us: " + ", ".join(f"{line['cluster']} {line['arrive']} {line['us']:.2f}" for line in found)


def pushes(good: Sequence[Line]) -> str:
    cells: dict[tuple, dict] = defaultdict(dict)
    for line in of(good, "cluster_exchange"):
        if line["bytes_each"] in SHOWN_BYTES:
            cells[line["cluster"], line["method"]].setdefault(line["bytes_each"], []).append(line["us"])
    rows = [
        f"  {cluster:2} {method:24}" + "  ".join(f"{size}: {slashed(us)}" for size, us in cell.items())
        for (cluster, method), cell in sorted(cells.items())
    ]
    return "\n".join(["exchange in a cluster, us a step by bytes of a CTA, one cluster / as many as fit:", *rows])


def slashed(times: Sequence[float]) -> str:
    return "/".join(f"{us:.2f}" for us in times)


def fits(lines: Sequence[Line]) -> str:
    sizes = defaultdict(list)
    for line in of(lines, "occupancy"):
        sizes[line["cluster"]].append(f"{line['smem_kb']} KB {line['max_active_clusters']}")
    return "clusters that fit: " + "; ".join(f"of {cluster}: {', '.join(found)}" for cluster, found in sizes.items())


def steps(good: Sequence[Line]) -> str:
    cycles: dict[tuple, dict] = defaultdict(dict)
    for line in of(good, "step"):
        cycles[line["unit"], line["U"], line["K"], line["weights"]][line["part"]] = line["cycles"]
    return "a step's arithmetic, cycles, products / whole: " + "; ".join(
        f"{unit} U{U} K{K} {weights} {'/'.join(f'{c:.0f}' for c in parts.values())}"
        for (unit, U, K, weights), parts in cycles.items()
    )


def broadcasts(good: Sequence[Line]) -> str:
    return "reading h from L2, cycles: " + ", ".join(
        f"{line['bytes'] >> 10} KB {line['method']} {line['cycles']:.0f}" for line in of(good, "broadcast")
    )
