"""A GRU written by hand, as in a tutorial, trained, then replaced by gru_fused.GRU with its weights.

    make example NAME=replace_cell

The tutorial's cell has linear layers for each gate, applies the reset gate before the product with the state, and lets
z weigh the new state, h' = (1 - z) h + z n; torch lets it weigh the old one, and applies the reset gate after the
product, which ours does unless told reset_after=False. The weights are put side by side, the rows of z negated, and the
outputs are the same, up to rounding. It learns to tell the next month's CO2 on Mauna Loa; the plot shows both
forecasts, and how long each takes.
"""

import argparse
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

import gru_fused
from examples.co2 import Series, co2_file, read_co2
from examples.shared import parser_of, run, save, timed, train
from gru_fused import weights

UNITS = 64


class TutorialGRU(nn.Module):
    """One layer, time first, (T, B, I) to (T, B, H) and the last state, (B, H)."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.reset = nn.Linear(inputs + units, units)
        self.update = nn.Linear(inputs + units, units)
        self.candidate_x = nn.Linear(inputs, units)
        self.candidate_h = nn.Linear(units, units)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = x.new_zeros(x.shape[1], self.units) if h is None else h
        outputs = []
        for step in x:
            both = torch.cat([step, h], dim=1)
            r = torch.sigmoid(self.reset(both))
            z = torch.sigmoid(self.update(both))
            n = torch.tanh(self.candidate_x(step) + self.candidate_h(r * h))
            h = (1 - z) * h + z * n
            outputs.append(h)
        return torch.stack(outputs), h


def replacement(tutorial: TutorialGRU) -> gru_fused.GRU:
    """The same GRU, with copies of the weights: r, z, n side by side, the input's columns apart from the state's."""
    inputs, units = tutorial.candidate_x.in_features, tutorial.units
    gates = tutorial.reset, tutorial.update
    of_x, of_h = zip(*(gate.weight.split([inputs, units], dim=1) for gate in gates), strict=True)
    state = {
        "weight_ih_l0": torch.cat([*of_x, tutorial.candidate_x.weight]),
        "weight_hh_l0": torch.cat([*of_h, tutorial.candidate_h.weight]),
        "bias_ih_l0": torch.cat([*(gate.bias for gate in gates), tutorial.candidate_x.bias]),
        "bias_hh_l0": torch.cat([torch.zeros(2 * units), tutorial.candidate_h.bias]),
    }
    gru = gru_fused.GRU(inputs, units, reset_after=False)
    gru.load_state_dict(weights.negate_update_gate(state))
    return gru


class Forecaster(nn.Module):
    """The next month's change from those up to now, (T, B, 1) to (T, B, 1)."""

    def __init__(self, gru: nn.Module) -> None:
        super().__init__()
        self.gru = gru
        self.linear = nn.Linear(UNITS, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.gru(x)[0])


def main(options: argparse.Namespace) -> None:
    series = read_co2(options.data or co2_file())
    theirs = Forecaster(TutorialGRU(1, UNITS))
    x, y = series.pairs(0, series.train)
    steps = 3 if options.quick else 150
    train(theirs, range(steps), lambda _: F.mse_loss(theirs(x), y), "tutorial's GRU", 5e-3)

    ours = Forecaster(replacement(theirs.gru))
    ours.linear = theirs.linear
    everything, _ = series.pairs(0, len(series.changes))
    with torch.no_grad():
        forecasts = {"tutorial's GRU": theirs(everything).flatten(), "gru_fused.GRU": ours(everything).flatten()}
    difference = (forecasts["tutorial's GRU"] - forecasts["gru_fused.GRU"]).abs().max().item()
    error = series.error(forecasts["gru_fused.GRU"][series.train - 1 :])
    print(f"largest difference of the two forecasts: {difference:.1e} standard deviations")
    print(f"error over the last ten years: {error:.3f} ppm; as a year ago: {series.seasonal_error:.3f} ppm")

    calls = {
        name: lambda model=model: F.mse_loss(model(x), y).backward()
        for name, model in {"tutorial's GRU": theirs, "gru_fused.GRU": ours}.items()
    }
    times, of_ours = timed(calls, 0.2 if options.quick else 5.0)
    ratio = of_ours["tutorial's GRU"]
    print(f"forward and backward over {len(x)} months: the tutorial's takes {ratio:.1f} times as long")
    numbers = {"difference": difference, "ppm_error": error, "ratio": ratio, "milliseconds": times}
    save(options, "replace_cell", plot(series, forecasts, times), numbers)


def plot(series: Series, forecasts: dict[str, Tensor], times: dict[str, float]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    months = range(series.train, len(series.changes))
    left.plot(months, series.changes[series.train :] * series.scale, "k.", label="measured")
    for (name, forecast), style in zip(forecasts.items(), ("-", "--"), strict=True):
        left.plot(months, forecast[series.train - 1 :] * series.scale, style, label=name)
    left.set(xlabel="month of the record", ylabel="change from the month before, ppm")
    left.legend()
    right.bar(list(times), list(times.values()))
    right.set(ylabel="forward and backward, ms")
    return figure


PARSER = parser_of(__doc__, "replace_cell")

if __name__ == "__main__":
    sys.exit(run(main, PARSER))
