"""Which word comes next? Embedding, GRU, linear layer, trained by truncated backpropagation through time.

The training text is cut into parallel columns and read from top to bottom in chunks of a few words. The state at the
end of a chunk is the start of the next one, detached, so that gradients stop at the chunk's edge.
"""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.demo.side_by_side import Settings
from examples.demo.text import END, PAD, UNKNOWN, Review, Splits, Vocabulary, join, tokenize

Batch = tuple[Tensor, Tensor]  # words and the words that follow them, both (T, B)

CHUNK_LENGTH = 35  # words
TEMPERATURE = 0.6  # of sampling: below 1 favours the likelier words
SETTINGS = Settings(
    embedding_size=128,
    hidden_size=256,
    embedding_dropout=0.1,
    dropout=0.2,
    batch_size=16,
    epochs=2,
    learning_rate=8e-3,
)


class LanguageModel(nn.Module):
    def __init__(self, gru_class: Callable[..., nn.Module], vocabulary: Vocabulary, settings: Settings) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(vocabulary), settings.embedding_size)
        self.embedding_dropout = nn.Dropout(settings.embedding_dropout)
        self.gru = gru_class(settings.embedding_size, settings.hidden_size)
        self.dropout = nn.Dropout(settings.dropout)
        self.linear = nn.Linear(settings.hidden_size, settings.embedding_size)
        self.output = nn.Linear(settings.embedding_size, len(vocabulary))
        # Weight tying, after Press and Wolf, "Using the Output Embedding to Improve Language Models" (2017).
        self.output.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.05)
        nn.init.zeros_(self.output.bias)

    def forward(self, words: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From words (T, B) to the logits of the word after each, (T, B, V), and the last state, (1, B, H)."""
        output, state = self.gru(self.embedding_dropout(self.embedding(words)), state)
        return self.output(self.linear(self.dropout(output))), state


class LanguageTask:
    title = "language model"
    metric = "perplexity"
    higher_is_better = False
    baseline_name = "unigram model"

    def __init__(self, splits: Splits, vocabulary: Vocabulary, settings: Settings, device: torch.device) -> None:
        self.vocabulary, self.settings, self.device = vocabulary, settings, device
        self.train_reviews = splits.train
        self.validation_chunks = self._chunks(splits.validation)
        self.test_chunks = self._chunks(splits.test)
        test_words = torch.cat([targets.flatten() for _, targets in self.test_chunks])
        self.unknown_share = (test_words == vocabulary.index[UNKNOWN]).float().mean().item()
        self.baseline = unigram_perplexity(self._stream(splits.train), test_words, len(vocabulary))

    def model(self, gru_class: Callable[..., nn.Module]) -> nn.Module:
        return LanguageModel(gru_class, self.vocabulary, self.settings).to(self.device)

    def batches(self, epoch: int) -> list[Batch]:
        order = random.Random(self.settings.seed + epoch)
        return self._chunks(order.sample(self.train_reviews, len(self.train_reviews)))

    def loss(self, model: nn.Module, batch: Batch, state: Tensor | None) -> tuple[Tensor, Tensor]:
        words, targets = batch
        logits, state = model(words, state)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), state.detach()

    def validate(self, model: nn.Module) -> float:
        return perplexity(model, self.validation_chunks)

    def test(self, model: nn.Module) -> float:
        return perplexity(model, self.test_chunks)

    def continue_prompt(self, model: nn.Module, prompt: str, seed: int, max_words: int = 25) -> str:
        """Sample word by word up to the end of the sentence, one step of the GRU at a time."""
        generator = torch.Generator().manual_seed(seed)
        never = [self.vocabulary.index[PAD], self.vocabulary.index[UNKNOWN]]
        end = self.vocabulary.index[END]
        words = tokenize(prompt)
        state = None
        with torch.inference_mode():
            for word in [end, *self.vocabulary.encode(words)]:
                logits, state = model(torch.tensor([[word]], device=self.device), state)
            for _ in range(max_words):
                logits[..., never] = -math.inf
                probabilities = F.softmax(logits.flatten().cpu() / TEMPERATURE, dim=0)
                word = int(torch.multinomial(probabilities, 1, generator=generator))
                if word == end:
                    break
                words.append(self.vocabulary.words[word])
                logits, state = model(torch.tensor([[word]], device=self.device), state)
        return join(words)

    def _stream(self, reviews: list[Review]) -> Tensor:
        return torch.tensor([index for review in reviews for index in self.vocabulary.encode([*review.words, END])])

    def _chunks(self, reviews: list[Review]) -> list[Batch]:
        stream = self._stream(reviews)
        columns = self.settings.batch_size
        rows = (len(stream) - 1) // columns  # the last few words, too few for one more row, are left out
        words = stream[: rows * columns].view(columns, rows).t().to(self.device)
        targets = stream[1 : rows * columns + 1].view(columns, rows).t().to(self.device)
        return list(zip(words.split(CHUNK_LENGTH), targets.split(CHUNK_LENGTH), strict=True))


def perplexity(model: nn.Module, chunks: list[Batch]) -> float:
    total, count, state = 0.0, 0, None
    for words, targets in chunks:
        logits, state = model(words, state)
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        count += targets.numel()
    return math.exp(total / count)


def unigram_perplexity(train_words: Tensor, test_words: Tensor, vocabulary_size: int) -> float:
    """Of the model that knows only how frequent each word is, with one added to every count."""
    counts = torch.bincount(train_words, minlength=vocabulary_size) + 1.0
    log_probabilities = (counts / counts.sum()).log()
    return math.exp(-log_probabilities[test_words.cpu()].mean().item())
