"""Compiled kernels work wherever the package lies, and are compiled once where that can be."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from jetnb import _compiled

ROOT = Path(__file__).resolve().parent.parent
USE = """
import numpy as np
from jetnb import _compiled
from jetnb.substructure import kernels
from jetnb.distances import _area
print(_area(np.zeros(2, np.int32), np.ones(1), np.zeros(1, int), np.ones(1, int)), _area.stats.cache_path)
print(sum(_area.stats.cache_hits.values()))
"""
NOWHERE = """
from numba.core import caching
for locator in (caching.InTreeCacheLocator, caching.UserWideCacheLocator):
    locator.from_function = classmethod(lambda *args: None)
"""


def run(code, folder):
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR")
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd="/",
        env=environment | {"HOME": "/nowhere", "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def cache_of(folder, user):
    return folder / f"jetnb-numba-{user}"


def test_without_a_place_of_its_own_numba_gets_one(tmp_path):
    for hits in ("0", "1"):
        area, where, found = run(NOWHERE + USE, tmp_path)
        assert (
            float(area) == 1
            and Path(where).is_relative_to(cache_of(tmp_path, os.geteuid()))
            and found == hits
        )
    assert stat.S_IMODE(cache_of(tmp_path, os.geteuid()).stat().st_mode) == 0o700


@pytest.mark.parametrize("how", ["open to others", "a link", "a file", "of another user"])
def test_machine_code_that_others_may_have_planted_is_not_run(tmp_path, how, monkeypatch):
    folder = cache_of(tmp_path, os.geteuid())
    monkeypatch.setattr(_compiled.tempfile, "tempdir", str(tmp_path))
    if how == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    elif how == "a link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "theirs")
    elif how == "a file":
        folder.touch(0o600)
    else:
        folder.mkdir(0o700)
        monkeypatch.setattr(
            _compiled.os,
            "geteuid",
            lambda mine=os.geteuid(): mine + 1,  # noqa: B008
        )
        folder.rename(cache_of(tmp_path, os.geteuid()))
    assert _compiled._private() is None


def test_without_any_place_kernels_are_compiled_anew(tmp_path):
    cache_of(tmp_path, os.geteuid()).touch()
    assert run(NOWHERE + USE, tmp_path) == ["1.0", "None", "0"]


def test_every_kernel_of_the_package_is_compiled_in_this_way():
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "jetnb").rglob("*.py")}
    assert [path.name for path, text in sources.items() if re.search(r"cache=True", text)] == [
        "_compiled.py"
    ]


def test_other_errors_are_not_hidden():
    def fail():
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        _compiled.with_cache(fail)
