"""What the examples share: options, a training loop with a progress bar, paired timing, where results go."""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.paired import PAUSE, paired
from examples.demo import report
from examples.demo.download import DataUnavailable, review_file
from examples.demo.text import Splits, Vocabulary, read_reviews, split

OUT = Path(__file__).parent / "out"
SEED = 0
MIN_COUNT = 4  # of a word in the training split to be in the vocabulary
QUICK_REVIEWS = 600


def parser_of(doc: str, name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small: shows that it runs, learns next to nothing")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the data, instead of fetching it")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=OUT, help="default: examples/out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    return parser


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, arguments: list[str] | None = None
) -> int:
    """The exit code: data that is not to be had gets one clear line."""
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)
    options.out.mkdir(parents=True, exist_ok=True)
    device = report.device_name(torch.device("cpu"))
    print(f"torch {torch.__version__} on {device}, threads: {options.threads}", flush=True)
    try:
        main(options)
    except (DataUnavailable, OSError, ValueError) as error:
        print(f"{parser.prog.removeprefix('python -m ')}: {error}", file=sys.stderr)
        return 1
    return 0


def reviews_of(options: argparse.Namespace) -> tuple[Splits, Vocabulary]:
    """The movie reviews of the demo."""
    reviews = read_reviews(options.data or review_file())
    if options.quick:
        reviews = reviews[:: max(1, len(reviews) // QUICK_REVIEWS)]
    splits = split(reviews, SEED)
    return splits, Vocabulary(splits.train, MIN_COUNT)


def progress(things: Iterable[Any], name: str, total: int | None = None) -> tqdm:
    refresh = 0.2 if sys.stderr.isatty() else 20.0  # seconds; a log file gets a line now and then
    return tqdm(things, desc=name, total=total, mininterval=refresh, maxinterval=refresh)


def train(
    model: nn.Module,
    batches: Iterable[Any],
    loss_of: Callable[[Any], Tensor],
    name: str,
    learning_rate: float,
    max_norm: float = 1.0,
    total: int | None = None,
) -> tuple[list[float], list[float]]:
    """One step of Adam per batch, the gradient clipped. Returns each step's loss, and its norm before clipping."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    losses, norms = [], []
    bar = progress(batches, name, total)
    for batch in bar:
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), max_norm).item())
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
    return losses, norms


class Timing(NamedTuple):
    milliseconds: dict[str, float]  # medians
    ratios: dict[str, float]  # to the last of the calls: the median of the rounds' ratios


def timed(calls: Mapping[str, Callable[[], object]], seconds: float) -> Timing:
    """In turns, in one process: a busy machine slows down all alike, so trust the ratios more than the times.

    With one thread it is the processor's time, which leaves out what other programs take: those would weigh more on a
    call of 50 ms, which has to share the processor, than on one of 2 ms, which is done before its turn is over.
    """
    one = torch.get_num_threads() == 1
    samples = paired(calls, seconds, pause=0.0 if one else PAUSE, clock=process_time if one else perf_counter)
    *_, last = samples.values()
    return Timing(
        {name: 1e3 * statistics.median(times) for name, times in samples.items()},
        {name: statistics.median(a / b for a, b in zip(times, last, strict=True)) for name, times in samples.items()},
    )


def save(options: argparse.Namespace, name: str, figure: Figure, numbers: dict[str, Any]) -> None:
    """The plot, and the numbers as JSON."""
    plot, file = options.out / f"{name}.png", options.out / f"{name}.json"
    figure.savefig(plot, dpi=120)
    numbers = {**report.environment(), "quick": options.quick, **numbers}
    file.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print("Written:", plot, file, sep="\n  ")
