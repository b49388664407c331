"""Package, tests and cells of notebooks are formatted and linted as `pyproject.toml` says, hints agree,
and no module is too long.
"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent


def passes(*words):
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("words", [("format", "--check"), ("check",)], ids=" ".join)
def test_ruff(words):
    passes("ruff", *words, "--no-cache", "jetnb", "tests", "notebooks", "start.py")


def test_hints_agree():
    passes("mypy", "--cache-dir", os.devnull)


def test_wrong_code_in_a_notebook_is_told(tmp_path):
    """The rules reach the cells: an import that nobody uses, and a line that is too long."""
    cell = nbformat.v4.new_code_cell("import os\nx = '" + "long " * 30 + "'")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "01_a.ipynb")
    (tmp_path / "ruff.toml").write_text(
        (ROOT / "notebooks" / "ruff.toml").read_text().replace("../", f"{ROOT.as_posix()}/")
    )
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "F401" in done.stdout and "E501" in done.stdout, done.stderr


def test_no_module_is_over_400_lines():
    long = {
        str(path.relative_to(ROOT)): n
        for path in (ROOT / "jetnb").rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long, f"split by idea: {long}"
