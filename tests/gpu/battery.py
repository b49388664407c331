"""All that is to be known of a machine with a GPU, in one command of a few minutes.

    python tests/gpu/battery.py --out FOLDER [--minutes 8] [--parts numerics speed ...] [--device cpu --tiny]
    python tests/gpu/battery.py --out FOLDER --collect data/reference/gpu/NAME.json [--remark "..."]

numerics  every model and loss against the CPU: float32, with TF32, and bfloat16
speed     jets per second of a training step, and how much of the chip it uses: eager, compiled,
bfloat16, and padded generate  jets per second drawn by a token generator
processes two processes on one GPU make the gradient of one
simulate  jets of the named samples on all cores, while the GPU does the other parts
train     trainings worth keeping, on all the jets that there are: checkpoints with cards

Every part runs in a process of its own, so that one that fails takes no other with it, and writes
FOLDER/<part>.json after each measurement: what is cut off is kept. `--tiny --device cpu` is what
the tests run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import measures
import torch
import trainings
from record import Record, collect

from jetnb import atomic

PARTS = (*measures.PARTS, "train")
SHARES = {
    "numerics": 0.1,
    "speed": 0.25,
    "generate": 0.05,
    "processes": 0.05,
}  # of the time, at most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for what was measured and trained"
    )
    parser.add_argument(
        "--collect", type=Path, metavar="FILE", help="only put the records in OUT into one FILE"
    )
    parser.add_argument(
        "--remark", action="append", default=[], help="what a reader of FILE must know; repeatable"
    )
    parser.add_argument(
        "--folder", type=Path, help="folder of simulated stores; default: OUT/../simulated"
    )
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument(
        "--parts", nargs="*", default=PARTS, choices=(*PARTS, "simulate"), help="all but simulate"
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--cores", type=int, default=max((os.cpu_count() or 1) - 4, 1), help="that simulate"
    )
    parser.add_argument("--tiny", action="store_true", help="sizes for a test")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.collect:
        with atomic.new_file(args.collect, replace=True) as file:
            file.write_text(json.dumps(collect(args.out, args.remark), indent=1) + "\n")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.folder or args.out.parent / "simulated"
    if args.train:
        record = Record(args.out, f"train-{args.train}", args.device, args.tiny)
        trainings.train_one(record, args.train, args.out, folder, args.device, args.ends, args.tiny)
        return 0
    if args.one:
        record = Record(args.out, args.one, args.device, args.tiny, args.ends)
        if args.one == "simulate":
            trainings.simulate(record, folder, args.cores, args.tiny)
        else:
            measures.PARTS[args.one](record, args.device, args.tiny)
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --tiny is what works without")
    ends = time.time() + 60 * args.minutes
    words = [
        sys.executable,
        __file__,
        "--out",
        str(args.out),
        "--folder",
        str(folder),
        "--device",
        args.device,
        *["--tiny"] * args.tiny,
    ]
    maker = (
        subprocess.Popen([*words, "--cores", str(args.cores), "--one", "simulate"])
        if "simulate" in args.parts
        else None
    )
    failed = 0
    for part in args.parts:
        if part == "train":
            trainings.train(words, args.out, folder, ends - 20, args.tiny, maker)
        elif part != "simulate":
            until = time.time() + SHARES[part] * 60 * args.minutes
            try:
                failed += (
                    subprocess.run(
                        [*words, "--one", part, "--ends", str(until)],
                        timeout=max(until - time.time(), 1) + 30,
                    ).returncode
                    != 0
                )
            except subprocess.TimeoutExpired:
                print(f"{part}: cut off, its share of {args.minutes} minutes is over", flush=True)
    if maker:
        with contextlib.suppress(subprocess.TimeoutExpired):
            maker.wait(max(ends - time.time(), 1))
        maker.terminate()
    return failed


if __name__ == "__main__":
    sys.exit(main())
