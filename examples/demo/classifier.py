"""Is a review good or bad? Embedding, bidirectional GRU over the packed sentences, linear layer."""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from examples.demo.side_by_side import Settings
from examples.demo.text import PAD, Review, Splits, Vocabulary

Batch = tuple[Tensor, Tensor, Tensor]  # words (B, T), lengths (B) on the CPU, 1.0 where positive (B)

SETTINGS = Settings(
    embedding_size=128,
    hidden_size=128,
    embedding_dropout=0.4,
    dropout=0.5,
    batch_size=64,
    epochs=3,
    learning_rate=4e-3,
)


class Classifier(nn.Module):
    def __init__(self, gru_class: Callable[..., nn.Module], vocabulary: Vocabulary, settings: Settings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(vocabulary), settings.embedding_size, vocabulary.index[PAD])
        self.embedding_dropout = nn.Dropout(settings.embedding_dropout)
        self.gru = gru_class(settings.embedding_size, settings.hidden_size, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(2 * settings.hidden_size, 1)
        # Smaller than the default 1.0, under which the random vectors of rare words drown the rest.
        nn.init.normal_(self.embedding.weight, std=0.3)

    def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
        """The logit of "positive" for each sentence, (B)."""
        embedded = self.embedding_dropout(self.embedding(words))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        _, last_states = self.gru(packed)  # (2, B, H)
        return self.linear(self.dropout(torch.cat(tuple(last_states), dim=1))).squeeze(1)


class SentimentTask:
    """Positive against negative reviews; the few with a mean rating of exactly 0 are left out."""

    title = "sentiment"
    metric = "accuracy"
    higher_is_better = True
    baseline_name = "majority class"

    def __init__(self, splits: Splits, vocabulary: Vocabulary, settings: Settings, device: torch.device) -> None:
        self.vocabulary, self.settings, self.device = vocabulary, settings, device
        self.train_reviews = [review for review in splits.train if review.rating != 0]
        self.validation_batches = self._batches([review for review in splits.validation if review.rating != 0])
        self.test_batches = self._batches([review for review in splits.test if review.rating != 0])
        # The class that is more frequent in training, tried on the test split.
        majority = sum(review.rating > 0 for review in self.train_reviews) * 2 > len(self.train_reviews)
        positive = torch.cat([labels for _, _, labels in self.test_batches])
        self.baseline = (positive == float(majority)).float().mean().item()

    def model(self, gru_class: Callable[..., nn.Module]) -> nn.Module:
        return Classifier(gru_class, self.vocabulary, self.settings).to(self.device)

    def batches(self, epoch: int) -> list[Batch]:
        order = random.Random(self.settings.seed + epoch)
        return self._batches(order.sample(self.train_reviews, len(self.train_reviews)))

    def loss(self, model: nn.Module, batch: Batch, state: None) -> tuple[Tensor, None]:
        words, lengths, positive = batch
        return F.binary_cross_entropy_with_logits(model(words, lengths), positive), None

    def validate(self, model: nn.Module) -> float:
        return accuracy(model, self.validation_batches)

    def test(self, model: nn.Module) -> float:
        return accuracy(model, self.test_batches)

    def _batches(self, reviews: list[Review]) -> list[Batch]:
        size = self.settings.batch_size
        return [self._batch(reviews[start : start + size]) for start in range(0, len(reviews), size)]

    def _batch(self, reviews: list[Review]) -> Batch:
        sentences = [torch.tensor(self.vocabulary.encode(review.words)) for review in reviews]
        words = pad_sequence(sentences, batch_first=True, padding_value=self.vocabulary.index[PAD])
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        positive = torch.tensor([float(review.rating > 0) for review in reviews])
        return words.to(self.device), lengths, positive.to(self.device)


def accuracy(model: nn.Module, batches: list[Batch]) -> float:
    correct = torch.cat([(model(words, lengths) > 0) == (positive > 0) for words, lengths, positive in batches])
    return correct.float().mean().item()
