"""The examples in docstrings do what they say."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    path.relative_to(ROOT).with_suffix("")
    for path in sorted((ROOT / "jetnb").rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_examples(path):
    found = doctest.testmod(importlib.import_module(".".join(path.parts).removesuffix(".__init__")))
    assert found.attempted and not found.failed
