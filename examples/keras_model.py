"""A Keras model trained in Keras, its GRU stack run here with its weights and the same outputs.

    make example NAME=keras_model

Movie reviews, good or bad: an embedding of 64 features, two GRU layers of 32 units with return_sequences=True, the
mean over the words, a dense layer. Keras runs on its torch backend (KERAS_BACKEND=torch). The plot shows both models'
answers for the held-out reviews, which lie on one line, and how long each takes.
"""

import argparse
import os
import random
import sys

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from examples.demo.text import PAD, Review, Vocabulary
from examples.shared import SEED, parser_of, progress, reviews_of, run, save, timed
from gru_fused import weights

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported
FEATURES, UNITS, WORDS, BATCH = 64, 32, 40, 64


class Model(nn.Module):
    """The Keras model's layers in torch; the two GRU layers are one gru_fused.GRU."""

    def __init__(self, model: "keras.Model") -> None:  # noqa: F821 - imported in main, so that --help is quick
        super().__init__()
        embedding, first, second, _, dense = model.layers
        self.embedding = nn.Embedding.from_pretrained(torch.tensor(embedding.get_weights()[0]))
        self.gru = weights.from_keras(first, second)
        kernel, bias = dense.get_weights()
        self.linear = nn.Linear(UNITS, 1)
        self.linear.load_state_dict({"weight": torch.tensor(kernel.T), "bias": torch.tensor(bias)})

    def forward(self, words: Tensor) -> Tensor:
        output, _ = self.gru(self.embedding(words))
        return torch.sigmoid(self.linear(output.mean(1)))


def arrays(reviews: list[Review], vocabulary: Vocabulary) -> tuple[Tensor, Tensor]:
    """The first WORDS words of each, filled up with padding, (N, WORDS), and 1.0 where positive, (N, 1)."""
    padding = [vocabulary.index[PAD]] * WORDS
    words = torch.tensor([(vocabulary.encode(review.words) + padding)[:WORDS] for review in reviews])
    return words, torch.tensor([[float(review.rating > 0)] for review in reviews])


def main(options: argparse.Namespace) -> None:
    import keras

    keras.utils.set_random_seed(SEED)
    splits, vocabulary = reviews_of(options)
    model = keras.Sequential(
        [
            keras.layers.Embedding(len(vocabulary), FEATURES),
            keras.layers.GRU(UNITS, return_sequences=True),
            keras.layers.GRU(UNITS, return_sequences=True),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(5e-3), loss="binary_crossentropy")
    reviews = [review for review in splits.train if review.rating != 0]
    words, positive = arrays(random.Random(SEED).sample(reviews, len(reviews)), vocabulary)
    starts = range(0, len(words), BATCH)
    for start in progress(list(starts)[:3] if options.quick else starts, "Keras trains"):
        model.train_on_batch(words[start : start + BATCH].numpy(), positive[start : start + BATCH].numpy())

    words, positive = arrays([review for review in splits.test if review.rating != 0], vocabulary)
    ours = Model(model).eval()
    with torch.no_grad():
        answers = {
            "Keras": torch.as_tensor(keras.ops.convert_to_numpy(model(words.numpy(), training=False))),
            "gru_fused": ours(words),
        }
        difference = (answers["Keras"] - answers["gru_fused"]).abs().max().item()
        batch = words[:BATCH]
        calls = {"Keras": lambda: model(batch, training=False), "gru_fused": lambda: ours(batch)}
        times, of_ours = timed(calls, 0.2 if options.quick else 5.0)
    accuracy = {name: ((p > 0.5) == (positive > 0)).float().mean().item() for name, p in answers.items()}
    print(f"largest difference of the two answers: {difference:.1e}, on probabilities")
    print(f"accuracy on the held-out reviews: Keras {accuracy['Keras']:.1%}, here {accuracy['gru_fused']:.1%}")
    print(f"a batch of {len(batch)} reviews: Keras (on torch) takes {of_ours['Keras']:.1f} times as long")
    numbers = {"difference": difference, "accuracy": accuracy, "ratio": of_ours["Keras"], "milliseconds": times}
    save(options, "keras_model", plot(answers, times), numbers)


def plot(answers: dict[str, Tensor], times: dict[str, float]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 1))
    left.plot(answers["Keras"].flatten(), answers["gru_fused"].flatten(), ".", alpha=0.4)
    left.set(xlabel="Keras: probability of a good review", ylabel="the same weights in gru_fused")
    right.bar(list(times), list(times.values()))
    right.set(ylabel="a batch, ms")
    return figure


PARSER = parser_of(__doc__, "keras_model")

if __name__ == "__main__":
    sys.exit(run(main, PARSER))
