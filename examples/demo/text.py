"""From the review file to words and numbers: parse, clean, split, and the vocabulary."""

import html
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAD, UNKNOWN, END = "<pad>", "<unk>", "<eos>"

# The file writes one " " for every hyphen of the original text, so three or four spaces in a row were a dash.
DASH = re.compile(r"\s{3,}|\s*[–—]\s*")
# Editors' brackets inside or around a word: "(F)rom the performances", "put(s) the audience", "(Wendigo is) why we go".
BRACKETS = re.compile(r"[()\[\]]")
# Contractions become two words ("does n't", "film 's"), which keeps the negation apart; dots of an ellipsis stay one.
TOKEN = re.compile(r"[a-z0-9]+?(?=n't\b)|n't\b|'(?:s|re|ve|ll|d|m)\b|[a-z0-9]+(?:[.,]\d+)*|\.{2,}|[.,;:!?–]")


@dataclass(frozen=True)
class Review:
    words: list[str]
    rating: float  # mean over the readers, -4 (worst) to 4 (best)


@dataclass(frozen=True)
class Splits:
    train: list[Review]
    validation: list[Review]
    test: list[Review]


class Vocabulary:
    """Words seen at least `min_count` times, most frequent first after the three special ones."""

    def __init__(self, reviews: Iterable[Review], min_count: int) -> None:
        counts = Counter(word for review in reviews for word in review.words)
        frequent = [word for word, count in counts.most_common() if count >= min_count]
        self.words = [PAD, UNKNOWN, END, *frequent]
        self.index = {word: index for index, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Iterable[str]) -> list[int]:
        return [self.index.get(word, self.index[UNKNOWN]) for word in words]


def tokenize(sentence: str) -> list[str]:
    text = html.unescape(sentence).lower().replace("&", " and ")
    text = DASH.sub(" – ", BRACKETS.sub("", text.replace("’", "'").replace("`", "'")))
    # "cliché" and "cliche" both occur: drop the accents. Quotation marks match no token and so fall away.
    text = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return ["..." if token.startswith("..") else token for token in TOKEN.findall(text)]


def read_reviews(path: Path) -> list[Review]:
    """One review a line: number, mean rating, sentence, between tabs. Each sentence is kept once."""
    reviews: dict[str, Review] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            _, rating, sentence = line.split("\t")
            review = Review(tokenize(sentence), float(rating))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not 'number<TAB>rating<TAB>sentence': {line[:80]!r}") from error
        if review.words:
            reviews.setdefault(" ".join(review.words), review)
    return list(reviews.values())


def split(reviews: list[Review], seed: int) -> Splits:
    """80 % to train on, 10 % to choose the epoch by, 10 % for the final numbers."""
    if len(reviews) < 50:
        raise ValueError(f"{len(reviews)} reviews are too few to learn from")
    shuffled = random.Random(seed).sample(reviews, len(reviews))
    first, second = len(shuffled) * 8 // 10, len(shuffled) * 9 // 10
    return Splits(shuffled[:first], shuffled[first:second], shuffled[second:])


def join(words: list[str]) -> str:
    """Words as a sentence: the opposite of `tokenize`, as far as that goes."""
    return re.sub(r" (?=n't\b|'|[.,;:!?])", "", " ".join(words))
