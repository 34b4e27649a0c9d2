"""Text classification: pretrained word vectors, packed batches, a bidirectional GRU of two layers with dropout.

    make example NAME=text_classification
    make example NAME=text_classification ARGS="--vectors glove.6B.100d.txt"

Movie reviews, good or bad, learned twice: from random word vectors, and from ones in GloVe's text format (a line for
each word: the word, then its numbers). Without --vectors they are made of the training reviews: log counts of the
words that occur near each word, reduced by a singular value decomposition. The plot shows losses and accuracy.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import gru_fused
from examples.demo import classifier
from examples.demo.report import smooth
from examples.demo.side_by_side import evaluate
from examples.demo.text import PAD, Review, Vocabulary
from examples.shared import SEED, parser_of, reviews_of, run, save, train

UNITS, WINDOW, SIZE = 96, 5, 100
EPOCHS, LEARNING_RATE = 4, 2e-3


class Classifier(nn.Module):
    def __init__(self, vectors: Tensor, padding: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(vectors.clone(), freeze=False, padding_idx=padding)
        self.dropout = nn.Dropout(0.5)
        self.gru = gru_fused.GRU(
            vectors.shape[1], UNITS, num_layers=2, batch_first=True, dropout=0.4, bidirectional=True
        )
        self.linear = nn.Linear(2 * UNITS, 1)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """From words (B, T) and lengths (B,) on the CPU to the logit of "positive", (B,)."""
        embedded = self.dropout(self.embedding(words))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        _, h_n = self.gru(packed)  # (4, B, H): the last two are the upper layer's, forward and reverse
        return self.linear(self.dropout(torch.cat([h_n[-2], h_n[-1]], dim=1))).squeeze(1)


def load_vectors(path: Path, vocabulary: Vocabulary) -> tuple[Tensor, int]:
    """A vector for each word of the vocabulary, (V, E), all of the same mean length, and how many are from the file."""
    found: dict[int, list[float]] = {}
    with path.open(encoding="utf-8") as file:
        size = len(file.readline().split()) - 1
        file.seek(0)
        for number, line in enumerate(file, start=1):
            word, *numbers = line.rstrip().rsplit(" ", size)  # from the right: some of GloVe's words have spaces
            if word in vocabulary.index:
                try:
                    vector = [float(x) for x in numbers]
                except ValueError:
                    vector = []
                if len(vector) != size:
                    raise ValueError(f"{path}, line {number}: not a word and {size} numbers: {line[:60]!r}")
                found[vocabulary.index[word]] = vector
    if len(found) < 2:
        raise ValueError(f"{path}: expected vectors for words of the reviews, found {len(found)}")
    vectors = random_vectors(len(vocabulary), size, vocabulary.index[PAD])
    known = torch.tensor(list(found.values()))
    vectors[list(found)] = known * (vectors.std() / known.std())
    return vectors, len(found)


def random_vectors(words: int, size: int, padding: int) -> Tensor:
    vectors = 0.3 * torch.randn(words, size, generator=torch.Generator().manual_seed(SEED))
    vectors[padding] = 0
    return vectors


def write_vectors(path: Path, reviews: Sequence[Review], vocabulary: Vocabulary, size: int) -> None:
    """Positive pointwise mutual information of words at most WINDOW apart, reduced to ``size`` numbers a word.

    After O. Levy and Y. Goldberg, "Neural Word Embedding as Implicit Matrix Factorization" (2014).
    """
    counts = torch.zeros(len(vocabulary), len(vocabulary))
    for review in reviews:
        words = torch.tensor(vocabulary.encode(review.words))
        for apart in range(1, min(WINDOW, len(words) - 1) + 1):
            pairs = torch.cat([words[:-apart], words[apart:]]), torch.cat([words[apart:], words[:-apart]])
            counts.index_put_(pairs, torch.tensor(1.0 / apart), accumulate=True)
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / counts.sum()
    information = (counts / expected.clamp(min=1e-9)).clamp(min=1).log()
    u, s, _ = torch.svd_lowrank(information, q=min(size, len(vocabulary)), niter=4)
    vectors = u * s.sqrt()
    lines = (f"{word} {' '.join(f'{x:.5f}' for x in v)}\n" for word, v in zip(vocabulary.words, vectors, strict=True))
    path.write_text("".join(lines), encoding="utf-8")


def main(options: argparse.Namespace) -> None:
    splits, vocabulary = reviews_of(options)
    path = options.vectors
    if path is None:
        path = options.out / "vectors.txt"
        write_vectors(path, splits.train, vocabulary, 20 if options.quick else SIZE)
    pretrained, known = load_vectors(path, vocabulary)
    print(f"{known:,} of the {len(vocabulary):,} words have a vector of {pretrained.shape[1]} numbers in {path}")
    padding = vocabulary.index[PAD]
    starts = {"random": random_vectors(*pretrained.shape, padding), "pretrained": pretrained}

    epochs = 1 if options.quick else EPOCHS
    settings = replace(classifier.SETTINGS, seed=SEED, epochs=epochs, batch_size=8 if options.quick else 64)
    task = classifier.SentimentTask(splits, vocabulary, settings, torch.device("cpu"))
    losses: dict[str, list[float]] = {}
    accuracies: dict[str, list[float]] = {}
    for name, vectors in starts.items():
        torch.manual_seed(SEED)
        model = Classifier(vectors, padding)
        losses[name], accuracies[name] = [], []
        for epoch in range(epochs):
            rate = LEARNING_RATE / 2**epoch
            batches = task.batches(epoch)
            more, _ = train(model, batches, lambda b, m=model: task.loss(m, b, None)[0], f"{name}, {epoch + 1}", rate)
            losses[name] += more
            accuracies[name].append(evaluate(task.test, model))
    print(f"accuracy on held-out reviews after each epoch; {task.baseline_name}: {task.baseline:.1%}")
    for name, scores in accuracies.items():
        print(f"  {name:<11}", "  ".join(f"{score:.1%}" for score in scores))
    numbers = {"baseline": task.baseline, "known": known, "losses": losses, "accuracy": accuracies}
    save(options, "text_classification", plot(losses, accuracies, task.baseline), numbers)


def plot(losses: dict[str, list[float]], accuracies: dict[str, list[float]], baseline: float) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in losses:
        left.plot(smooth(losses[name]), label=name)
        right.plot(range(1, len(accuracies[name]) + 1), accuracies[name], "o-", label=name)
    right.axhline(baseline, color="gray", linestyle=":", label="majority class")
    left.set(xlabel="training step", ylabel="training loss (running mean)")
    right.set(xlabel="epoch", ylabel="accuracy on held-out reviews")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    return figure


PARSER = parser_of(__doc__, "text_classification")
PARSER.add_argument("--vectors", type=Path, metavar="FILE", help="word vectors in GloVe's format")

if __name__ == "__main__":
    sys.exit(run(main, PARSER))
