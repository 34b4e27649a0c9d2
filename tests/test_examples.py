"""Every example runs small and shows what it is for: the same outputs from the same weights, a loss, a plot."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from reviews import write_reviews
from torch import Tensor

import gru_fused
from gru_fused import reference

pytest.importorskip("matplotlib", reason="the examples draw with matplotlib")
pytest.importorskip("tqdm", reason="the examples show tqdm's progress bars")

from examples import episodes, replace_cell, shared, text_classification
from examples.co2 import read_co2
from examples.demo.text import Review, Vocabulary

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py") if "PARSER" in path.read_text())


def run(name: str, *arguments: str | Path) -> int:
    example = importlib.import_module(f"examples.{name}")
    return shared.run(example.main, example.PARSER, ["--threads", str(torch.get_num_threads()), *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files in the form of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    reviews, co2 = folder / "reviews.txt", folder / "co2.csv"
    write_reviews(reviews)
    lines = ["date,co2"]
    for month in range(40 * 12):
        year, part = divmod(month, 12)
        value = "" if month % 50 == 3 else f"{310 + month / 10 + 3 * math.sin(part * math.pi / 6):.1f}"
        lines += [f"{1958 + year}{part + 1:02}{day}," + value for day in ("05", "19")]
    co2.write_text("\n".join(lines) + "\n")
    return {"reviews": reviews, "co2": co2}


DATA = {
    "bptt": "co2",
    "episodes": None,
    "keras_model": "reviews",
    "next_word": "reviews",
    "replace_cell": "co2",
    "text_classification": "reviews",
}


def test_all_examples_are_known() -> None:
    assert sorted(DATA) == NAMES


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras 3.15 with numpy 2
@pytest.mark.parametrize("name", DATA)
def test_example(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    if name == "keras_model" and importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    given = ["--data", data[DATA[name]]] if DATA[name] else []
    assert run(name, "--quick", "--out", tmp_path, *given) == 0
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    numbers = json.loads((tmp_path / f"{name}.json").read_text())
    assert numbers["quick"] is True
    CHECKS[name](numbers)


def same_outputs(numbers: dict) -> None:
    assert 0 <= numbers["difference"] < 1e-5
    assert numbers["ratio"] > 0


def bptt(numbers: dict) -> None:
    full, truncated = numbers["fits"]
    assert len(truncated["norms"]) > 10 * len(full["norms"])
    assert all(math.isfinite(x) for fit in (full, truncated) for x in (*fit["losses"], *fit["norms"]))
    assert {name for row in numbers["costs"]["T"] for name in row["milliseconds"]} == {
        "nn.LSTM",
        "nn.GRU",
        "gru_fused.GRU",
    }


def next_word(numbers: dict) -> None:
    rnn, gru = numbers["losses"]["nn.RNN"], numbers["losses"]["gru_fused.GRU"]
    assert rnn != gru
    assert all(losses[-1] < losses[0] for losses in (rnn, gru))


def text_classification_(numbers: dict) -> None:
    assert numbers["known"] > 10
    assert all(losses[-1] < losses[0] for losses in numbers["losses"].values())
    assert all(scores[-1] > 0.9 for scores in numbers["accuracy"].values()), "words of their own tell good from bad"


def episodes_(numbers: dict) -> None:
    assert len(numbers["right"]) == 3 and all(0 <= share <= 1 for share in numbers["right"])
    assert [row["length"] for row in numbers["costs"]] == [8]


CHECKS = {
    "bptt": bptt,
    "episodes": episodes_,
    "keras_model": same_outputs,
    "next_word": next_word,
    "replace_cell": same_outputs,
    "text_classification": text_classification_,
}


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_the_command(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        run(name, "--help")
    assert f"make example NAME={name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [None, "no such lines\n" * 90, "date,co2\n19580101,3\n"], ids=["none", "bad", "few"]
)
@pytest.mark.parametrize("name", ["bptt", "text_classification"])
def test_data_that_will_not_do_gets_one_clear_line(
    name: str, content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "data"
    if content is not None:
        path.write_text(content)
    assert run(name, "--quick", "--data", path, "--out", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"examples.{name}: {'' if content is None else path}"), error
    assert str(path) in error and len(error.splitlines()) == 1, error


def test_a_program_of_its_own(tmp_path: Path) -> None:
    """As make runs it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "examples.episodes", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "episodes.png").exists()


def masked(gru: gru_fused.GRU, x: Tensor, resets: Tensor, state: Tensor) -> Tensor:
    """The truth for the ways of an episode: a loop of single steps in readable torch."""
    outputs = []
    for step, reset in zip(x, resets, strict=True):
        state = reference.gru_cell(step, torch.where(reset[:, None], 0.0, state), *gru.parameters())
        outputs.append(state)
    return torch.stack(outputs)


@pytest.mark.parametrize("way", episodes.WAYS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("steps, environments", [(1, 1), (7, 3), (30, 5)])
def test_ways_of_an_episode(way: str, share: float, steps: int, environments: int) -> None:
    gru = gru_fused.GRU(2, 5, dtype=torch.float64)
    x = torch.randn(steps, environments, 2, dtype=torch.float64, requires_grad=True)
    state = torch.randn(environments, 5, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(steps, environments) < share
    ours, truth = episodes.WAYS[way](gru, x, resets, state), masked(gru, x, resets, state)
    torch.testing.assert_close(ours, truth, rtol=1e-12, atol=1e-13)
    cotangent = torch.randn_like(truth)
    wanted = [x, state, *gru.parameters()]
    for a, b in zip(*(torch.autograd.grad(y, wanted, cotangent) for y in (ours, truth)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("inputs, units", [(1, 1), (3, 7)])
def test_replacement_of_a_tutorials_gru(inputs: int, units: int) -> None:
    torch.set_default_dtype(torch.float64)
    tutorial = replace_cell.TutorialGRU(inputs, units)
    x, h = torch.randn(6, 2, inputs), torch.randn(2, units)
    theirs, last = tutorial(x, h)
    ours, h_n = replace_cell.replacement(tutorial)(x, h[None])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(h_n[0], last, rtol=1e-12, atol=1e-13)


def test_glove_vectors(tmp_path: Path) -> None:
    vocabulary = Vocabulary([Review(["good", "film", "film"], 1.0)], min_count=1)
    path = tmp_path / "vectors.txt"
    path.write_text("film 1 2 3\nunseen 4 5 6\nfilm . . 7 8 9\ngood -1 0.5 2\n", encoding="utf-8")
    vectors, known = text_classification.load_vectors(path, vocabulary)
    assert known == 2 and vectors.shape == (len(vocabulary), 3)
    film, good = vectors[vocabulary.index["film"]], vectors[vocabulary.index["good"]]
    torch.testing.assert_close(film / film[0], torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(good / film[0], torch.tensor([-1.0, 0.5, 2.0]))


BAD_VECTORS = {
    "no-number": ("film 1 x\ngood 1 2\n", "line 1: not a word and 2 numbers: 'film 1 x"),
    "too-few": ("film 1 2\ngood 1\n", "line 2: not a word and 2 numbers: 'good 1"),
    "other-words": ("unseen 1 2\n", "expected vectors for words of the reviews, found 0"),
    "empty": ("", "expected vectors for words of the reviews, found 0"),
}


@pytest.mark.parametrize("content, text", BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_vectors_that_will_not_do(content: str, text: str, tmp_path: Path) -> None:
    vocabulary = Vocabulary([Review(["good", "film"], 1.0)], min_count=1)
    path = tmp_path / "vectors.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=text):
        text_classification.load_vectors(path, vocabulary)


def test_months_without_a_value(data: dict[str, Path]) -> None:
    series = read_co2(data["co2"])
    assert len(series.ppm) == 480
    assert series.ppm[3] == (series.ppm[2] + series.ppm[4]) / 2
    assert series.changes.std().item() == pytest.approx(1)
    assert series.train == 479 - 120
