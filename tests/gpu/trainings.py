"""Trainings of the battery that are worth keeping, and the jets that are simulated for them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from record import Record

import jetnb
from jetnb import jets, pretraining
from jetnb.readers import parquet

SIMULATED = (("jetclass", 16_000), ("aoj", 20_000))  # jets, in the order in which they are made
SAMPLE_OF = {"omnijet-aoj-vqvae": "aoj", "omnijet-aoj-kmeans": "aoj"}  # others train on jetclass
SEED = 20_000  # of simulated jets and of trainings: that of no shipped sample
SETTLE, LEAST = 12.0, 5.0  # seconds that the others have to begin, and then at least for a rate


def simulate(record: Record, folder: Path, cores: int, tiny: bool) -> None:
    """Stores of the samples of SIMULATED in `folder`, and how fast they were made."""
    from jetnb.simulation import production

    for name, n_jets in SIMULATED:

        def make(name=name, n_jets=40 if tiny else n_jets):
            started = time.perf_counter()
            made = production.simulate(
                name, n_jets=n_jets, seed=SEED, path=folder / name, processes=cores, progress=False
            )
            spent = time.perf_counter() - started
            parquet.write(record.file.parent / f"{name}.parquet", made.jets)
            return {"jets": len(made), "jets/s": len(made) / spent, "cores": cores}

        record.take(name, make)


def made(folder: Path, name: str):
    """The jets that were simulated here, or the shipped ones: training and validation."""
    every = jetnb.open_store(folder / name).jets if (folder / name).exists() else jetnb.load(name)
    train, validation, _ = jets.split(every, (0.95, 0.05, 0.0), seed=SEED)
    return train, validation


def trainings(folder: Path, out: Path, tiny: bool) -> dict[str, Callable[[dict], object]]:
    """What to train, by name. Each takes the options of training.fit that the machine decides."""
    views = dict(steps=50_000, batch_size=64 if tiny else 256, seed=1)

    def contrast(n_jets=None):
        def train(options):
            some, _ = made(folder, "jetclass")
            some = some[np.random.default_rng(SEED).permutation(len(some))[:n_jets]]
            name = "jetclr" + (f"-{n_jets}-jets" if n_jets else "")
            return pretraining.pretrain("jetclr", some, out / name, **{**views, **options})

        return train

    def generator(codes):
        def train(options):
            train, validation = made(folder, "aoj")
            path = out / f"tokens-{codes}"
            if not path.exists():
                codebook(path, codes)
            return pretraining.pretrain(
                "omnijet",
                train,
                out / f"omnijet-aoj-{codes}",
                validation=validation,
                settings={"codes": path, "turn": True},
                **{**views, "lr": 1e-3, **options},
            )

        return train

    def codebook(path, codes):
        train, validation = made(folder, "aoj")
        settings = {"n_codes": 64 if tiny else 2048}
        if codes == "kmeans":
            settings = {"n_codes": 64 if tiny else 8192, "context": "features"}
        pretraining.pretrain(
            "tokens",
            train,
            path,
            seed=1,
            validation=validation,
            settings=settings,
            batch_size=128,
            steps=20 if tiny else 4_000,
            lr=1e-3,
            progress=False,
        )

    def labels(options):
        train, validation = made(folder, "jetclass")
        return pretraining.pretrain(
            "supervised", train, out / "supervised", validation=validation, **{**views, **options}
        )

    sizes = () if tiny else (512, 1500, 8000)
    return {
        "jetclr": contrast(),
        **{f"jetclr-{n}-jets": contrast(n) for n in sizes},
        "supervised": labels,
        "omnijet-aoj-vqvae": generator("vqvae"),
        "omnijet-aoj-kmeans": generator("kmeans"),
    }


def train(
    words: list[str],
    out: Path,
    folder: Path,
    ends: float,
    tiny: bool,
    maker: subprocess.Popen | None,
) -> None:
    """All trainings, a process each, since small networks leave most of a GPU idle; each when its
    jets are there.

    words: the command of one process, to which its training is added. maker: the process that
    simulates, if one does.
    """
    waiting, running = list(trainings(folder, out, tiny)), []
    while waiting and time.time() < ends:
        over = maker is None or maker.poll() is not None
        for name in [
            name for name in waiting if over or (folder / SAMPLE_OF.get(name, "jetclass")).exists()
        ]:
            running.append(subprocess.Popen([*words, "--ends", str(ends), "--train", name]))
            waiting.remove(name)
        time.sleep(0.5)
    for process in running:
        process.wait()


def train_one(
    record: Record, name: str, out: Path, folder: Path, device: str, ends: float, tiny: bool
) -> None:
    """One training, with as many steps as the time is long enough for, so that its learning rate
    falls to zero.
    """
    work = trainings(folder, out, tiny)[name]
    options = dict(accelerator=device, progress=False)

    def run():
        pace = Pace(0.0, 0.0) if tiny else Pace(SETTLE, LEAST)
        work({**options, "log_every": 20, "watch": pace})
        shutil.rmtree(out / name, ignore_errors=True)
        (out / f"{name}.history.jsonl").unlink(missing_ok=True)
        steps = 40 if tiny else max(200, int(0.85 * (ends - time.time()) / pace.seconds))
        history = work({**options, "steps": steps, "watch": lambda _: time.time() > ends})
        last = history.epochs[-1] if history.epochs else history.steps[-1]
        return {
            "steps": history.steps[-1]["step"],
            "of": steps,
            "ended": history.reason,
            "ms/step": 1e3 * pace.seconds,
            **last,
        }

    record.take(name, run)


class Pace:
    """Watch a training until its seconds per step are known, and end it then.

    settle: seconds from the first record on that do not count, since the other trainings only begin
    then. least: seconds at least over which the rate is taken.
    """

    def __init__(self, settle: float, least: float, clock: Callable[[], float] = time.perf_counter):
        self.settle, self.least, self.clock = settle, least, clock
        self.begun, self.counted, self.seconds = None, None, 1.0

    def __call__(self, record: dict) -> bool:
        now, step = self.clock(), record["step"]
        self.begun = now if self.begun is None else self.begun
        if now < self.begun + self.settle:
            return False
        if self.counted is None:
            self.counted = now, step
        first, done = self.counted
        if step == done or now < first + self.least:
            return False
        self.seconds = (now - first) / (step - done)
        return True
