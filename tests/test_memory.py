"""Memory of a pretraining does not grow with the sample."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MORE = 580_000  # jets
PARTICLES = 37 * 16  # bytes of a jet, were they read
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import pretraining_memory
pretraining_memory.compare(20_000, int(sys.argv[2]), 3, lambda text: print(text, file=sys.stderr))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc"
)
def test_memory_of_pretraining_does_not_grow_with_the_store():
    """20 000 jets, then thirty times as many: what grows are a few numbers a jet."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            str(Path(__file__).parent / "benchmarks"),
            str(20_000 + MORE),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert len(rows) == 8
    small = max(row["peak_MB"] for row in rows if row["store"] == "20000")
    for row in rows[4:]:
        assert (row["peak_MB"] - small) * 2**20 < MORE * PARTICLES / 4, rows
