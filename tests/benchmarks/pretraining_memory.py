"""Pretraining from memory-mapped stores: memory, time to the first batch, and speed beside jets in
memory.

    python tests/benchmarks/pretraining_memory.py [--jets 2000000] [--steps 60]

A store of so many jets is made of `jetclass` over and over. Each case runs in a process of its own;
memory is its peak of anonymous pages, that is without pages of the mapped files, which the system
may take back at any time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CASES = ("memory, 20 000", "store, 20 000", "store, all")


def anonymous() -> float:
    """Anonymous memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


def run(case: str, path: str, steps: int) -> dict:
    from jetnb import pretraining
    from jetnb.data import store
    from jetnb.inputs import batches

    opened = store.open(path)
    few = np.random.default_rng(1).permutation(len(opened))[:20_000]
    jets = {
        "memory, 20 000": lambda: opened.jets[few],
        "store, 20 000": lambda: batches.Rows(opened, few),
        "store, all": lambda: batches.Rows(opened),
    }[case]()
    times, peak, begun = [], [0.0], time.perf_counter()

    def watch(record):
        times.append(time.perf_counter())
        peak[0] = max(peak[0], anonymous())

    with tempfile.TemporaryDirectory() as folder:
        pretraining.pretrain(
            "jetclr",
            jets,
            Path(folder) / "ck",
            seed=1,
            steps=steps,
            batch_size=256,
            log_every=1,
            watch=watch,
            accelerator="cpu",
            progress=False,
        )
    return {
        "case": case,
        "peak_MB": round(peak[0]),
        "first_step_s": round(times[0] - begun, 2),
        "jets/s": round(256 * (len(times) - 11) / (times[-1] - times[10])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=2_000_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run(args.case, args.path, args.steps)))
        return
    import jetnb
    from jetnb.data import store

    with tempfile.TemporaryDirectory() as folder:
        sample = jetnb.load("jetclass")
        path = str(Path(folder) / "many")
        store.write(path, (sample for _ in range(-(-args.jets // len(sample)))))
        for case in CASES:
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--case",
                    case,
                    "--path",
                    path,
                    "--steps",
                    str(args.steps),
                ],
                check=True,
            )


if __name__ == "__main__":
    main()
