"""A file in the form of the movie reviews, for the tests of the demo and of the examples."""

import random
from pathlib import Path


def write_reviews(path: Path) -> None:
    generator = random.Random(0)
    words = {1: ["fine", "warm", "lovely", "witty"], -1: ["dull", "flat", "tired", "loud"]}
    lines = []
    for number in range(240):
        sign = generator.choice([1, -1])
        sentence = " ".join(generator.choice([*words[sign], "film", "the", "a", "story"]) for _ in range(9))
        lines.append(f"{number}\t{sign * generator.uniform(1, 4):.2f}\t{sentence} .")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
