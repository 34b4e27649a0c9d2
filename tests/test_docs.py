"""Every example in a docstring of the package and in the README runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import gru_fused

ROOT = Path(__file__).parents[1]
FOUND = pkgutil.walk_packages(gru_fused.__path__, "gru_fused.")
MODULES = ["gru_fused", *(m.name for m in FOUND if m.name != "gru_fused._C")]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.parametrize(
    "name",
    [
        *(
            "GRU",
            "GRUCell",
            "convert",
            "revert",
            "functional.gru",
            "functional.gru_cell",
            "compat.GRU",
            "reference.gru",
        ),
        *(f"weights.{name}" for name in gru_fused.weights.__all__ if not name.endswith("_model")),
    ],
)
def test_public_names_have_an_example(name: str) -> None:
    documented = gru_fused
    for part in name.split("."):
        documented = getattr(documented, part)
    assert ">>>" in documented.__doc__


@pytest.mark.parametrize("document", ["README.md", "docs/recipes.md"])
def test_code_in_a_document_runs(document: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, document, "exec"), {})


def test_readme_links_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if not target.startswith(("http://", "https://")):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
