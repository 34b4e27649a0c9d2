"""The table, the plots and the JSON file."""

import datetime
import itertools
import json
import math
import platform
import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

import gru_fused
from examples.demo.side_by_side import Contender, Task

FINAL_STEPS = 50  # the loss of one batch jumps about: "final" is the mean of the last so many
BUSY = 1.25  # the ratio of the sums of seconds is off the median of the steps' ratios by more than this factor


def summary(task: Task, contenders: list[Contender]) -> dict[str, Any]:
    """All numbers of one task; `contenders` are nn.GRU and then ours."""
    reference, ours = contenders
    return {
        "task": task.title,
        "metric": task.metric,
        "baseline": {"name": task.baseline_name, task.metric: task.baseline},
        "largest_loss_difference": max(abs(a - b) for a, b in zip(reference.losses, ours.losses, strict=True)),
        "grus": [
            {
                "name": contender.name,
                "final_training_loss": statistics.fmean(contender.losses[-FINAL_STEPS:]),
                "validation": contender.validation,
                "test": contender.test,
                "beats_baseline": beats_baseline(task, contender),
                "seconds": sum(contender.seconds),
                "speed_up": speed_up(reference, contender),
                "losses": contender.losses,
            }
            for contender in contenders
        ],
    }


def speed_up(reference: Contender, contender: Contender) -> float:
    """The median over the steps of the reference's seconds to the contender's: outliers of a busy machine fall out."""
    steps = zip(reference.seconds, contender.seconds, strict=True)
    return statistics.median(theirs / ours for theirs, ours in steps)


def beats_baseline(task: Task, contender: Contender) -> bool:
    return contender.test > task.baseline if task.higher_is_better else contender.test < task.baseline


def all_finite(summaries: list[dict[str, Any]]) -> bool:
    return all(math.isfinite(loss) for task in summaries for gru in task["grus"] for loss in gru["losses"])


def print_table(summaries: list[dict[str, Any]]) -> None:
    columns = "{:<15} {:<15} {:>10}  {:<19} {:>15} {:>9} {:>9}"
    head = columns.format("task", "", "final loss", "on held-out text", "beats baseline", "seconds", "speed-up")
    print(head, "-" * len(head), sep="\n")
    for task in summaries:
        baseline = task["baseline"]
        score = format_score(task["metric"], baseline[task["metric"]])
        print(columns.format(task["task"], baseline["name"], "", score, "", "", "").rstrip())
        for gru in task["grus"]:
            print(
                columns.format(
                    "",
                    gru["name"],
                    f"{gru['final_training_loss']:.4f}",
                    format_score(task["metric"], gru["test"]),
                    "yes" if gru["beats_baseline"] else "NO",
                    f"{gru['seconds']:.1f}",
                    f"{gru['speed_up']:.2f}x",
                )
            )
        print(f"{'':<15} largest difference of the two loss curves: {task['largest_loss_difference']:.1e}")
        reference, ours = task["grus"]
        ratio = reference["seconds"] / ours["seconds"] / ours["speed_up"]
        if not 1 / BUSY < ratio < BUSY:
            print(f"{'':<15} the machine was busy: trust the speed-up, not the seconds")
    print(
        f"\nFinal loss: mean of the last {FINAL_STEPS} training steps."
        "\nSeconds: of all training steps, each with embedding, GRU, linear layer, loss, backward and optimizer."
        "\nSpeed-up: median of the two GRUs' times for the same step, steadier than the ratio of their sums."
    )


def format_score(metric: str, value: float) -> str:
    return f"{metric} {value:7.1%}" if metric == "accuracy" else f"{metric} {value:5.1f}"


def save_json(path: Path, summaries: list[dict[str, Any]], **extra: Any) -> None:
    numbers = {**environment(), **extra, "tasks": summaries}
    path.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gru_fused": gru_fused.__version__,
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cpu" and cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or device.type


def save_plot(path: Path, task: Task, contenders: list[Contender]) -> None:
    """Left, the losses over the steps, where the two curves should coincide; right, over the seconds they took."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    by_step, by_time = figure.subplots(1, 2, sharey=True)
    for contender, style in zip(contenders, ("-", "--"), strict=True):
        losses = smooth(contender.losses)
        by_step.plot(losses, style, label=contender.name)
        clock = list(itertools.accumulate(contender.seconds))
        by_time.plot(clock, losses, style, label=f"{contender.name}: {clock[-1]:.1f} s")
    by_step.set(xlabel="training step", ylabel="training loss (running mean)", title="the same steps")
    by_time.set(xlabel="seconds of training", title="the time they took")
    for axes in (by_step, by_time):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(task.title)
    figure.savefig(path, dpi=120)


def smooth(losses: list[float], window: int = 20) -> list[float]:
    """The mean of each loss and the ones up to `window` steps before it."""
    return [statistics.fmean(losses[max(0, end - window) : end]) for end in range(1, len(losses) + 1)]
