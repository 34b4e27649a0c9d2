"""Backpropagation through time, in full and truncated, with clipped gradients, and what it costs.

    make example NAME=bptt

A GRU learns to tell the next month's CO2 on Mauna Loa, from one sequence of some 400 months: once with gradients
through all of them, one step of Adam per pass, and once in chunks of two years, whose states go on but whose gradients
stop. Both read the record as many times. The plot shows the losses, the norms of the gradients before they are
clipped, and the measured time of a forward and a backward against the steps T and the units H, beside nn.GRU and
nn.LSTM.
"""

import argparse
import sys
from collections.abc import Iterator

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import gru_fused
from examples.co2 import Series, co2_file, read_co2
from examples.shared import SEED, parser_of, progress, run, save, timed, train

UNITS = 64
CHUNK = 24  # months
MAX_NORM = 0.5
BATCH, STEPS = 8, 100  # of the measured costs
LAYERS = {"nn.LSTM": nn.LSTM, "nn.GRU": nn.GRU, "gru_fused.GRU": gru_fused.GRU}


class Forecaster(nn.Module):
    """The next month's change from those up to now, (T, B, 1) to (T, B, 1), and the state to go on from."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = gru_fused.GRU(1, UNITS)
        self.linear = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, state = self.gru(x, state)
        return self.linear(output), state


def fit(series: Series, length: int, passes: int, name: str) -> dict[str, object]:
    """Train in chunks of ``length`` months; the error is that over the last ten years."""
    torch.manual_seed(SEED)
    model = Forecaster()
    x, y = series.pairs(0, series.train)
    chunks = list(zip(x.split(length), y.split(length), strict=True))
    state = None

    def batches() -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        for _ in range(passes):
            yield from enumerate(chunks)

    def loss_of(batch: tuple[int, tuple[Tensor, Tensor]]) -> Tensor:
        nonlocal state
        number, (x, y) = batch
        forecast, state = model(x, state if number else None)
        state = state.detach()  # the gradients stop here
        return F.mse_loss(forecast, y)

    losses, norms = train(model, batches(), loss_of, name, 3e-3, MAX_NORM, total=passes * len(chunks))
    with torch.no_grad():
        forecast, _ = model(series.pairs(0, len(series.changes))[0])
    return {
        "name": name,
        "losses": [sum(losses[k : k + len(chunks)]) / len(chunks) for k in range(0, len(losses), len(chunks))],
        "norms": norms,
        "ppm_error": series.error(forecast[series.train - 1 :]),
    }


def costs(steps: list[int], units: list[int], seconds: float) -> dict[str, list[dict[str, object]]]:
    """Milliseconds of a forward and a backward of one layer, over T at one H and over H at one T."""
    rows = {"T": [(t, UNITS) for t in steps], "H": [(STEPS, h) for h in units]}
    found: dict[str, list[dict[str, object]]] = {"T": [], "H": []}
    for axis, (t, h) in progress([(name, row) for name in rows for row in rows[name]], "costs"):
        x = torch.randn(t, BATCH, h)
        modules = {name: cls(h, h) for name, cls in LAYERS.items()}
        calls = {name: lambda m=m, x=x: m(x)[0].sum().backward() for name, m in modules.items()}
        times, of_ours = timed(calls, seconds)
        found[axis].append({"T": t, "H": h, "milliseconds": times, "times_ours": of_ours})
    return found


def main(options: argparse.Namespace) -> None:
    series = read_co2(options.data or co2_file())
    passes = 2 if options.quick else 60
    fits = [fit(series, series.train, passes, "full"), fit(series, CHUNK, passes, "truncated")]
    for one in fits:
        print(f"{one['name']}: error over the last ten years {one['ppm_error']:.3f} ppm")
    print(f"as a year ago: {series.seasonal_error:.3f} ppm")
    if options.quick:
        cost = costs([5, 10], [8], 0.05)
    else:
        cost = costs([10, 30, 100, 300, 1000], [16, 32, 64, 128, 256], 1.5)
    print("forward and backward, times gru_fused.GRU's (B = 8, I = H):")
    for row in [*cost["T"], *cost["H"]]:
        others = ", ".join(f"{name} {ratio:.1f}x" for name, ratio in row["times_ours"].items() if ratio != 1)
        print(f"  T = {row['T']:<4} H = {row['H']:<4} {others}")
    save(options, "bptt", plot(fits, cost), {"fits": fits, "costs": cost})


def plot(fits: list[dict[str, object]], cost: dict[str, list[dict[str, object]]]) -> Figure:
    figure = Figure(figsize=(11, 8), layout="constrained")
    (losses, norms), (by_t, by_h) = figure.subplots(2, 2)
    for one in fits:
        losses.plot(range(1, len(one["losses"]) + 1), one["losses"], label=one["name"])
        passes = [(k + 1) * len(one["losses"]) / len(one["norms"]) for k in range(len(one["norms"]))]
        norms.plot(passes, one["norms"], label=one["name"], alpha=0.7)
    losses.set(xlabel="passes over the record", ylabel="squared error", yscale="log", title="loss")
    norms.axhline(MAX_NORM, color="gray", linestyle=":", label="clipped here")
    norms.set(xlabel="passes over the record", ylabel="norm", yscale="log", title="gradient before clipping")
    for axes, axis, fixed in ((by_t, "T", f"H = {UNITS}"), (by_h, "H", f"T = {STEPS}")):
        for name in LAYERS:
            points = [(row[axis], row["milliseconds"][name]) for row in cost[axis]]
            axes.plot(*zip(*points, strict=True), "o-", label=name)
        axes.set(xlabel=axis, ylabel="forward and backward, ms", xscale="log", yscale="log")
        axes.set(title=f"cost, {fixed}, B = {BATCH}")
        axes.set_xticks([row[axis] for row in cost[axis]], [str(row[axis]) for row in cost[axis]])
        axes.minorticks_off()
    for axes in (losses, norms, by_t, by_h):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


PARSER = parser_of(__doc__, "bptt")

if __name__ == "__main__":
    sys.exit(run(main, PARSER))
