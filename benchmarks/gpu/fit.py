"""``python -m benchmarks.gpu.fit PLANS.csv``: the constants of csrc/cuda/plan.cpp, in nanoseconds, fitted to the times
of every cut (``benchmarks.gpu.plans``), and how much slower than the best the cuts are that they rank first.

Non-negative least squares of the relative errors; cuts far from the best of their size count less, and hopeless ones
not at all. Needs SciPy.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.gpu.cuts import Cut

Size = tuple[str, int, int, bool]
NEAR, HOPELESS, OF_LITTLE_WEIGHT = 1.3, 3.0, 0.4  # times the best


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.fit", description=__doc__)
    parser.add_argument("plans", type=Path)
    times = read(parser.parse_args().plans)
    costs = fitted(times)
    for name, cost in sorted(costs.items()):
        print(f"{name:22} {cost * 1e3:10.4f}")
    losses = sorted(losses_of(times, costs), reverse=True, key=lambda loss: loss[0])
    print(f"slower than the best of {len(losses)}: {mean(loss for loss, _ in losses) - 1:.1%} on average; at worst:")
    for loss, text in losses[:10]:
        print(f"  {loss - 1:6.1%} {text}")
    return 0


def read(path: Path) -> dict[Size, dict[Cut, float]]:
    times: dict[Size, dict[Cut, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            size = row["dtype"], int(row["B"]), int(row["H"]), row["sweep"] == "backward"
            cut = Cut(*size, row["regime"], *map(int, row["cut"].split("x")))
            of_size = times.setdefault(size, {})
            of_size[cut] = min(float(row["us_step"]), of_size.get(cut, float("inf")))
    return times


def fitted(times: dict[Size, dict[Cut, float]]) -> dict[str, float]:
    from scipy.optimize import nnls

    samples = []
    for of_size in times.values():
        best = min(of_size.values())
        for cut, us in of_size.items():
            if us <= HOPELESS * best:
                samples.append((cut.parts(), us, (1 if us < NEAR * best else OF_LITTLE_WEIGHT) / us))
    names = sorted({name for parts, _, _ in samples for name in parts})
    matrix = np.array([[parts.get(name, 0.0) * weight for name in names] for parts, _, weight in samples])
    solution, _ = nnls(matrix, np.array([us * weight for _, us, weight in samples]))
    return dict(zip(names, map(float, solution), strict=True))


def losses_of(times: dict[Size, dict[Cut, float]], costs: dict[str, float]) -> list[tuple[float, str]]:
    losses = []
    for (dtype, B, H, backward), of_size in times.items():
        chosen = min(of_size, key=lambda cut: sum(costs[name] * amount for name, amount in cut.parts().items()))
        best = min(of_size, key=lambda cut: of_size[cut])
        way = "backward" if backward else "forward"
        text = f"{dtype} B={B} H={H} {way}: {chosen.regime} {chosen.name} {of_size[chosen]:.2f} us,"
        losses.append((of_size[chosen] / of_size[best], f"{text} {best.regime} {best.name} {of_size[best]:.2f}"))
    return losses


if __name__ == "__main__":
    raise SystemExit(main())
