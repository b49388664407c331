"""Trainings and studies killed at any moment lose nothing: the next call goes on as if nothing had
happened.

A process that is forked is killed just before its n-th touch of a file below its folder. The tests
try some n; run as a script, all of them, and as many moments drawn at random:
`python tests/test_killed.py`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jetnb import finetuning, training
from jetnb.inputs.batches import Packed
from jetnb.models.encoder import DeepSets

pytest.importorskip("lightning", reason="training needs lightning")
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed here"),
]
TOUCHES = {
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.truncate",
    "fcntl.flock",
    "ctypes.call_function",
    "os.scandir",
}


class Sum(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))

    def loss(self, batch, *, generator=None):
        x, offsets, label = batch
        return nn.functional.cross_entropy(
            torch.segment_reduce(self.layers(x), "sum", offsets=offsets), label
        )


def toy(n, seed):
    rng = np.random.default_rng(seed)
    counts, label = rng.integers(1, 9, n), np.arange(n) % 2
    x = rng.normal(size=(counts.sum(), 3)) + np.repeat(label, counts)[:, None]
    return Packed(x, np.concatenate([[0], np.cumsum(counts)]), label)


def train(folder):
    training.fit(
        Sum(),
        toy(60, 1),
        validation=toy(20, 2),
        epochs=3,
        batch_size=20,
        seed=1,
        log_every=1,
        save_every=2,
        path=folder / "run",
        resume=True,
        progress=False,
        accelerator="cpu",
    )


def trained(folder) -> dict:
    """All that a training leaves, but for times."""
    assert sorted(file.name for file in folder.iterdir() if file.name != ".run.lock") == [
        "run",
        "run.history.jsonl",
    ]
    history = [json.loads(line) for line in (folder / "run.history.jsonl").read_text().splitlines()]
    for record in history:
        next(iter(record.values())).pop("seconds", None)
    return {
        "weights": (folder / "run" / "model.safetensors").read_bytes(),
        "history": sorted(map(str, history)),
    }


def measure(folder):
    finetuning.measure(
        lambda seed: DeepSets(3, dim=8, n_layers=1),
        [toy(80, 1), toy(40, 2), toy(40, 3)],
        budgets=(10, 20),
        seeds=(0,),
        modes=("random", "scratch"),
        validation_least=10,
        steps=2,
        epochs=1,
        every=1,
        lrs={"scratch": [1e-3, 1e-2]},
        path=folder / "runs.jsonl",
        scores=True,
        progress=False,
    )


def measured(folder) -> dict:
    found = {}
    for line in (folder / "runs.jsonl").read_text().splitlines()[1:]:
        entry = json.loads(line)
        assert str(entry["run"]) not in found  # or it was done twice
        entry["result"].pop("seconds", None)
        scores = b""
        if entry["run"].get("tested", True):
            scores = np.load(entry["result"].pop("scores")).tobytes()
        found[str(entry["run"])] = str(entry["result"]), scores
    names = sorted(file.name for file in (folder / "runs").iterdir())
    assert len(names) == sum(bool(scores) for _, scores in found.values())
    assert all(name.endswith(".npy") for name in names)
    return found


def child(work, folder, *, touch=None, seconds=None) -> int:
    """The status of a process that does `work`, and is killed at a touch of a file or after some
    time.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        if touch is not None:
            counted = itertools.count(1)

            def hook(event, args):
                ours = event in TOUCHES and (
                    not args
                    or not isinstance(args[0], str | os.PathLike)
                    or str(folder) in str(args[0])
                )
                if ours and next(counted) == touch:
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
        try:
            work(folder)
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


def lost(work, look, expected, **when) -> bool | None:
    """Whether a kill loses anything; None where the work had ended before."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if child(work, folder, **when) == 0:
            return None
        if child(work, folder) != 0:
            return True
        return look(folder) != expected


@pytest.fixture
def one_thread_before_a_fork(one_thread):
    train(Path(tempfile.mkdtemp()))  # all that is imported and started once is so before the fork


CASES = {"fit": (train, trained), "measure": (measure, measured)}


@pytest.mark.parametrize("name", CASES)
def test_a_kill_loses_nothing(name, tmp_path, one_thread_before_a_fork):
    work, look = CASES[name]
    work(tmp_path)
    expected = look(tmp_path)
    touches = [2, 9, 23, 31, 44, 58, 77, 117]
    found = {touch: lost(work, look, expected, touch=touch) for touch in touches}
    assert (
        not [touch for touch, bad in found.items() if bad]
        and sum(bad is False for bad in found.values()) > 3
    )


def main() -> None:
    torch.set_num_threads(1)
    for name, (work, look) in CASES.items():
        folder = Path(tempfile.mkdtemp())
        work(folder)
        expected = look(folder)
        began = time.perf_counter()
        assert child(work, Path(tempfile.mkdtemp())) == 0
        whole = time.perf_counter() - began
        found = list(
            itertools.takewhile(
                lambda bad: bad is not None,
                (lost(work, look, expected, touch=touch) for touch in itertools.count(1)),
            )
        )
        print(
            f"{name}: killed before each of {len(found)} touches of a file, lost {sum(found)}",
            flush=True,
        )
        draw = random.Random(1)
        found = [lost(work, look, expected, seconds=draw.uniform(0, whole)) for _ in range(40)]
        print(
            f"{name}: killed at {sum(bad is not None for bad in found)} moments of {whole:.2f} s drawn at random, "
            f"lost {sum(bad is True for bad in found)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
