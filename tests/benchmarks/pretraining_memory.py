"""Pretraining of a sample that does not fit into memory: `jetnb pretrain` of a few jets and of many.

    python tests/benchmarks/pretraining_memory.py [--jets 2000000] [--small 20000] [--steps 30]

Stores of so many jets are made of `resimulation` over and over. Every strategy in STRATEGIES trains
on both, all in one process. Printed are the peak of its anonymous pages, that is without pages of the
mapped files, which the system may take back at any time; the seconds to the first step; and jets per
second. The first row bears what is imported and compiled once.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import jetnb
from jetnb import training
from jetnb.__main__ import main as command
from jetnb.data import store
from jetnb.data.catalogue import DATA
from jetnb.data.store.record import header_of

SMALL = ("encoder.dim=16", "encoder.n_layers=1", "encoder.n_heads=2")
STRATEGIES = {
    "jetclr": SMALL,
    "supervised": (*SMALL, "label=label"),
    "resimulation": SMALL,
    "omnijet": (f"codes={DATA / 'checkpoints' / 'tokens-aoj'}", "sizes.dim=16", "sizes.n_heads=2"),
}
JETS = ("pt", "eta", "phi", "mass", "event", "label", "pair", "variation")
CONSTITUENTS = ("pt", "eta", "phi", "energy", "charge")


def few(path: Path) -> Path:
    """A store of the jets of `resimulation`, with what is needed here."""
    sample = jetnb.load("resimulation")
    about = jetnb.jets.provenance(sample)
    columns, constituents, counts = jetnb.jets.to_columns(sample)
    kept = (
        {name: columns[name] for name in JETS},
        {name: constituents[name] for name in CONSTITUENTS},
    )
    store.write(path, [jetnb.jets.build(*kept, counts, provenance=about)])
    return path


def repeated(source: Path, path: Path, n_jets: int) -> Path:
    """A store of n_jets jets: those of another over and over, with numbers of events of their own."""
    meta = json.loads((source / "meta.json").read_text())
    offsets = np.load(source / "offsets.npy")
    times, rest = divmod(n_jets, len(offsets) - 1)
    path.mkdir()
    sizes = {"jet": [len(offsets) - 1] * times + [rest]}
    sizes["constituent"] = [int(offsets[n]) for n in sizes["jet"]]
    for name, about in meta["columns"].items():
        values = np.load(source / f"{name}.npy", mmap_mode="r")
        about["length"] = n_jets + 1 if name == "offsets" else sum(sizes[name.partition("_")[0]])
        with (path / f"{name}.npy").open("wb") as stream:
            stream.write(header_of(about["dtype"], about["length"]))
            if name == "offsets":
                stream.write(offsets[:1].tobytes())
            shift = offsets[-1] if name == "offsets" else 0
            if name in ("jet_event", "jet_pair"):
                shift = values.max() + 1
            for k, n in enumerate(sizes["jet" if name == "offsets" else name.partition("_")[0]]):
                part = values[1 : n + 1] if name == "offsets" else values[:n]
                stream.write((part + k * shift if shift else part).astype(values.dtype).tobytes())
    meta |= {"n_jets": n_jets, "n_constituents": sum(sizes["constituent"])}
    (path / "meta.json").write_text(json.dumps(meta))
    return path


def anonymous() -> float:
    """Anonymous memory of this process in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return float("nan")


@contextlib.contextmanager
def peak(found: dict):
    """Look every few milliseconds how much it is."""
    done = threading.Event()

    def look():
        while not done.wait(0.005):
            found["MB"] = max(found["MB"], anonymous())

    found["MB"] = anonymous()
    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def run(strategy: str, path: Path, folder: Path, steps: int) -> dict:
    times, real = [], training.loop.Training._step

    def step(self, *args):
        real(self, *args)
        times.append(time.perf_counter())

    training.loop.Training._step = step
    words = ["pretrain", strategy, str(path), "--steps", str(steps), "--batch-size", "64"]
    out = folder / f"{strategy}-{path.name}"
    begun, found = time.perf_counter(), {}
    with peak(found), contextlib.redirect_stdout(io.StringIO()):
        words += ["--set", *STRATEGIES[strategy], "--accelerator", "cpu", "--out", str(out)]
        assert command(words) == 0
    training.loop.Training._step = real
    return {
        "strategy": strategy,
        "store": path.name,
        "peak_MB": round(found["MB"], 1),
        "first_step_s": round(times[0] - begun, 2),
        "jets/s": round(64 * (len(times) - 1) / (times[-1] - times[0])),
    }


def compare(small: int, large: int, steps: int, say=print) -> list[dict]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        source = few(folder / "few")
        for n_jets in (small, large):
            path = repeated(source, folder / str(n_jets), n_jets)
            for strategy in STRATEGIES:
                found.append(run(strategy, path, folder, steps))
                say(json.dumps(found[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=2_000_000)
    parser.add_argument("--small", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=30)
    args = parser.parse_args()
    compare(args.small, args.jets, args.steps, lambda text: print(text, flush=True))


if __name__ == "__main__":
    sys.exit(main())
