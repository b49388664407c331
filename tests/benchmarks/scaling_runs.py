"""The runs behind the scaling law of notebook 18: next token, on tokens of one k-means tokenizer.

    python -m jetnb simulate jetclass --jets 5000 --seed 1001 --out JC1001
    python tests/benchmarks/scaling_runs.py JC1001 --runs FOLDER --out data/reference/scaling/next_token.json

It trains on the shipped jets of jetclass and on those of the stores that are named. Three thousand
shipped jets are held back. Three parts follow on each other: learning rates for each size; the runs
of the law; one larger run, whose loss is predicted and written down before it is trained. What is
done is kept in FOLDER: the same command goes on from there. It takes about half an hour on one
core.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import awkward as ak
import torch

import jetnb
from jetnb import atomic, jets, metrics, pretraining, scaling
from jetnb.data import catalogue, store
from jetnb.training import plateau

CODES = {"n_codes": 512, "context": "features"}
LENGTH = 40  # tokens of a jet that are read, the hardest
SIZES = {
    "8 x 1": {"dim": 8, "n_layers": 1, "n_heads": 1},
    "16 x 2": {"dim": 16, "n_layers": 2, "n_heads": 2},
    "32 x 2": {"dim": 32, "n_layers": 2, "n_heads": 4},
    "64 x 2": {"dim": 64, "n_layers": 2, "n_heads": 4},
    "128 x 2": {"dim": 128, "n_layers": 2, "n_heads": 4},
}
LARGER = "128 x 2"  # of the others the law is made
SMALL = [size for size in SIZES if size != LARGER]
RATES = {  # for each size three to begin with, more until the best lies between two others
    "8 x 1": [6e-3, 1.2e-2, 2.4e-2],
    "16 x 2": [6e-3, 1.2e-2, 2.4e-2],
    "32 x 2": [3e-3, 6e-3, 1.2e-2],
    "64 x 2": [3e-3, 6e-3, 1.2e-2],
    "128 x 2": [1.5e-3, 3e-3, 6e-3],
}
PAIRS = [  # different jets, jets seen; the first is that of the search for rates
    (16_000, 32_000),
    (1_000, 16_000),
    (16_000, 16_000),
    (4_000, 4_000),
    (4_000, 16_000),
    (4_000, 64_000),
]
BATCH = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stores", nargs="*", type=Path, help="more jets of jetclass, other seeds")
    parser.add_argument("--runs", type=Path, required=True, help="folder for what is done")
    parser.add_argument("--out", type=Path, help="file for the result, one that is not there yet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="of the law's runs")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.runs.mkdir(parents=True, exist_ok=True)
    train, held, about = data(args.stores, tiny=args.tiny)
    codes = args.runs / "codes"
    if not codes.exists():
        how = {"steps": 1, "seed": 1, "accelerator": "cpu", "progress": False}
        pretraining.pretrain("tokens", train[:5000], codes, settings=CODES, **how)
    sizes = {
        name: {"codes": str(codes), "sizes": {**size, "max_length": LENGTH}}
        for name, size in SIZES.items()
    }

    def measure(cases, seeds):
        return scaling.measure(
            "omnijet", train, held, sizes, cases, seeds=seeds, path=args.runs / "runs.jsonl",
            batch_size=BATCH, progress=False,
        )  # fmt: skip

    few = 2_000 if args.tiny else 32_000
    tried, rates = [], {}
    for size, grid in RATES.items():

        def trial(lr, size=size):
            case = scaling.Case(size, min(16_000, len(train), few), few, lr)
            run = measure([case], [1])[0]
            return {**run, "loss": run["validation_loss"]}

        found = plateau.tune(trial, grid, factor=2.0, most=3 if args.tiny else 6)
        tried += found.values()
        rates[size] = min(found, key=lambda lr: found[lr]["loss"])
        print(size, {lr: round(run["loss"], 4) for lr, run in found.items()}, flush=True)
    pairs = [(500, 500), (500, 2_000), (1_500, 3_000)] if args.tiny else PAIRS
    cases = [scaling.Case(size, *pair, rates[size]) for pair in pairs for size in SMALL]
    runs = [run for seed in args.seeds for run in measure(cases, [seed])]
    law = metrics.fit_scaling_law(runs, n_replicas=20 if args.tiny else 200)
    print(law, flush=True)

    n = len(train)
    planned = scaling.Case(LARGER, n, n if args.tiny else 64_000, rates[LARGER])
    predicted = args.runs / "predicted.json"
    if not predicted.exists():
        weights = next(run["weights"] for run in tried if run["size"] == LARGER)
        point = {"weights": weights, "jets": planned.jets, "seen": planned.seen}
        said = law.predict([point])[0]
        with atomic.new_file(predicted) as file:
            file.write_text(json.dumps({**point, "loss": said, "date": today()}))
    larger = measure([planned], [1])[0]
    said = json.loads(predicted.read_text())
    print(f"predicted {said['loss']}, found {larger['loss']:.4f}", flush=True)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "what": "next-token loss in nats per token on test jets, for a scaling law",
            "command": "python tests/benchmarks/scaling_runs.py "
            + " ".join([*(path.name for path in args.stores), "--seeds", *map(str, args.seeds)])
            + " --runs FOLDER --out FILE",
            "date": today(),
            "machine": {
                "cpu": cpu(),
                "threads": 1,
                "system": f"{platform.system()} {platform.machine()}",
            },
            "versions": {name: version(name) for name in ("jetnb", "torch", "numpy")},
            "data": about,
            "codes": CODES,
            "max_length": LENGTH,
            "sizes": SIZES,
            "batch_size": BATCH,
            "seeds": args.seeds,
            "rates": tried,
            "runs": runs,
            "predicted": said,
            "larger": larger,
        }
        with atomic.new_file(args.out) as file:
            file.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def data(stores, *, tiny: bool):
    """Jets to train on, (validation, test), and what they are."""
    shipped = jetnb.load("jetclass", n_jets=2_500 if tiny else None)
    n = 250 if tiny else 1_000
    parts = jets.split(
        shipped, (1 - 3 * n / len(shipped), n / len(shipped), 2 * n / len(shipped)), seed=1
    )
    more = [store.open(path).jets for path in stores]
    fields = [name for name in parts[0].fields if all(name in some.fields for some in more)]
    train = ak.concatenate([some[fields] for some in (parts[0], *more)]) if more else parts[0]
    about = {
        "train": len(train),
        "validation": len(parts[1]),
        "test": len(parts[2]),
        "shipped": {
            "sample": "jetclass",
            "seed": 1,
            "sha256": checksum(catalogue.SAMPLES["jetclass"].file),
        },
        "stores": {path.name: checksum(path / "meta.json") for path in stores},
    }
    return train, parts[1:], about


def checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def today() -> str:
    return datetime.date.today().isoformat()


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    sys.exit(main())
