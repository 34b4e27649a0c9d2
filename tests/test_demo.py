"""The demo runs small: both GRUs train on the same batches, and their losses stay together."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from reviews import write_reviews

ROOT = Path(__file__).parents[1]


def demo(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.demo", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.txt"
    write_reviews(path)
    return path


def test_quick_run(reviews: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
    pytest.importorskip("tqdm", reason="the demo shows tqdm's progress bars")
    done = demo("--quick", "--data", reviews, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sentiment.png").exists() and (tmp_path / "language_model.png").exists()
    results = json.loads((tmp_path / "demo.json").read_text())
    assert results["quick"] is True
    assert len(results["tasks"]) == 2
    for task in results["tasks"]:
        assert task["largest_loss_difference"] < 1e-4
        assert [gru["name"] for gru in task["grus"]] == ["nn.GRU", "gru_fused.GRU"]
        assert all(math.isfinite(loss) for gru in task["grus"] for loss in gru["losses"])


@pytest.mark.parametrize("content", [None, "no tabs here\n"], ids=["missing", "malformed"])
def test_a_file_that_will_not_do_gets_one_clear_line(content: str | None, tmp_path: Path) -> None:
    pytest.importorskip("tqdm", reason="the demo shows tqdm's progress bars")
    path = tmp_path / "reviews.txt"
    if content is not None:
        path.write_text(content)
    done = demo("--quick", "--data", path, "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("examples.demo: ") and len(done.stderr.splitlines()) == 1, done.stderr
