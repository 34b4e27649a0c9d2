"""Next-word prediction: an nn.RNN and a gru_fused.GRU in the same model, on the same batches.

    make example NAME=next_word

The word language model of the demo (embedding, one recurrent layer, tied output; truncated backpropagation, clipped
gradients) learns the movie reviews once with each. A class is all that differs. The plot shows their losses; then both
go on with a few prompts.
"""

import argparse
import sys
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import nn

import gru_fused
from examples.demo import language_model
from examples.demo.report import smooth, speed_up
from examples.demo.side_by_side import Contender, train
from examples.shared import SEED, parser_of, reviews_of, run, save

CLASSES = {"nn.RNN": nn.RNN, "gru_fused.GRU": gru_fused.GRU}
# of both; the demo's was chosen for the GRU
CHANGES = {"seed": SEED, "learning_rate": 4e-3}
QUICK = {"hidden_size": 32, "embedding_size": 32, "epochs": 1, "batch_size": 8}
PROMPTS = ["The film is", "The director", "If you"]


def main(options: argparse.Namespace) -> None:
    splits, vocabulary = reviews_of(options)
    settings = replace(language_model.SETTINGS, **CHANGES, **(QUICK if options.quick else {}))
    task = language_model.LanguageTask(splits, vocabulary, settings, torch.device("cpu"))
    contenders = train(task, CLASSES)
    rnn, gru = contenders
    print(f"{'perplexity of held-out text':<28}{task.baseline_name} {task.baseline:.1f}", end="")
    print(*(f", {c.name} {c.test:.1f}" for c in contenders), sep="")
    print(f"a step with nn.RNN takes {1 / speed_up(gru, rnn):.2f} times as long as one with gru_fused.GRU (median)")
    texts = {
        c.name: [task.continue_prompt(c.model.eval(), prompt, seed) for seed, prompt in enumerate(PROMPTS)]
        for c in contenders
    }
    for name, lines in texts.items():
        print(name, *lines, sep="\n  ")
    numbers = {
        "perplexity": {task.baseline_name: task.baseline, **{c.name: c.test for c in contenders}},
        "losses": {c.name: c.losses for c in contenders},
        "seconds": {c.name: sum(c.seconds) for c in contenders},
        "continuations": texts,
    }
    save(options, "next_word", plot(contenders), numbers)


def plot(contenders: list[Contender]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for contender in contenders:
        axes.plot(smooth(contender.losses), label=f"{contender.name}: {sum(contender.seconds):.1f} s")
    axes.set(xlabel="training step", ylabel="training loss (running mean)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


PARSER = parser_of(__doc__, "next_word")

if __name__ == "__main__":
    sys.exit(run(main, PARSER))
