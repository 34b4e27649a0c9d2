"""The table of docs/transforms.md: everything in it runs, and it names what examples/transforms.py tries."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import gru_fused
from examples.transforms import CHECKS, outcome

SLOW = re.compile("compile|recompil|AOTInductor")  # Inductor; tests/test_compile.py and test_export.py have them


@pytest.mark.parametrize("name", [name for name in CHECKS if not SLOW.search(name)])
def test_ours_runs(name: str) -> None:
    if "ONNX" in name and not importlib.util.find_spec("onnxscript"):
        pytest.skip("torch's ONNX exporter needs onnxscript")
    assert outcome(CHECKS[name], gru_fused.GRU) == "yes"


def test_a_check_can_fail() -> None:
    def failing(_: object) -> None:
        raise ValueError("what is wrong")

    assert outcome(failing, gru_fused.GRU) == "ValueError: what is wrong"


def test_the_table_has_a_row_for_every_check() -> None:
    table = (Path(__file__).parents[1] / "docs/transforms.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| yes \|", table, re.M)
    assert rows == list(CHECKS)
    for path in re.findall(r"tests/\w+\.py", table):
        assert (Path(__file__).parents[1] / path).exists()
