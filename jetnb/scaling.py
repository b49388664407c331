"""Runs for a scaling law: one strategy with networks of several sizes, on more and fewer jets, for
longer and for shorter.

Every run is a whole training with a learning rate that falls to zero. What it is worth is its loss
on the same test jets. `metrics.fit_scaling_law` makes a law of the runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from jetnb import parallel, pretraining, training
from jetnb.finetuning.ledger import Ledger
from jetnb.inputs import batches

CHUNK = 256  # jets at a time where only the loss is wanted


class Case(NamedTuple):
    """One training: name of the size of its network, different jets, jets seen in all, learning
    rate.

    With more seen than jets, jets are seen again: `seen / jets` times each.
    """

    size: str
    jets: int
    seen: int
    lr: float


def measure(
    strategy,
    jets,
    held: tuple,
    sizes: Mapping[str, Mapping],
    cases: Iterable[Case],
    *,
    seeds: Iterable[int],
    path=None,
    batch_size: int = 64,
    processes: int = 1,
    progress: bool = True,
    **options,
) -> list[dict]:
    """Train each case with each seed, and take its loss on test jets.

    strategy: as for `pretraining.pretrain`; its jets must become the same data for all sizes, as
    tokens of one tokenizer do. jets: N to train on; a case takes the first of them in an order that
    follows from the seed, so fewer are a part of more. held: two arrays of other jets, for
    validation and test: validation picks the epoch, test gives the loss. sizes: {name: settings of
    the strategy}. path: a ledger; what is in it is not done again. processes: trainings at a time,
    with one thread each. options: those of `training.fit`, such as accelerator.

    Returns a dict for each case and seed: those of the case and seed, and `weights` (that are
    trained), `steps`, `loss`, `validation_loss`, `epoch` (whose weights were kept) of `epochs`, and
    `seconds`. Raises `ValueError` where a case wants more jets than there are or less seen than a
    batch, and as `Ledger` does. Taught in notebook 18.
    """
    cases, seeds = [Case(*case) for case in cases], list(seeds)
    for case in cases:
        if case.size not in sizes:
            raise ValueError(f"case {case} has a size that is not in sizes: {', '.join(sizes)}")
        if not batch_size <= case.jets <= len(jets) or case.seen < case.jets:
            raise ValueError(
                f"case {case}: jets must be from {batch_size} (a batch) to {len(jets)} (all there are), "
                "and at least as many seen"
            )
    name, _ = pretraining.find(strategy)
    ledger = Ledger(
        path,
        {
            "strategy": name,
            "batch_size": batch_size,
            "jets": [len(part) for part in (jets, *held)],
            "sizes": {key: dict(value) for key, value in sizes.items()},
            "options": options,
        },
    )
    runs = [{**case._asdict(), "seed": seed} for case in cases for seed in seeds]
    todo = [run for run in runs if run not in ledger]
    data: list = []
    if todo:
        first = pretraining.make(strategy, next(iter(sizes.values())), seed=0)
        data = [pretraining.data_of(first, part) for part in (jets, *held)]

    def work(run: Mapping) -> dict:
        model = pretraining.make(strategy, sizes[run["size"]], seed=run["seed"])
        return train(model, *data, run=run, batch_size=batch_size, **options)

    results = parallel.run(work, todo, processes=min(processes, max(len(todo), 1)))
    for run, result in zip(todo, tqdm(results, total=len(todo), disable=not progress), strict=True):
        ledger.add(run, result)
    return [{**run, **ledger[run]} for run in runs]


def train(
    model: nn.Module, data, validation, test, *, run: Mapping, batch_size: int, **options
) -> dict:
    """Train `model` for one run; see `measure`. data: `batches.Packed` of all jets to draw from."""
    began = time.perf_counter()
    rows = np.random.default_rng(run["seed"]).permutation(len(data))[: run["jets"]]
    some = batches.Packed(*data[rows])
    if hasattr(model, "fit"):
        model.fit(some, seed=run["seed"])
    steps = round(run["seen"] / run["jets"] * -(-run["jets"] // batch_size))  # batches of an epoch
    how = {"accelerator": "cpu", "progress": False, **options}
    history = training.fit(
        model,
        some,
        steps=steps,
        batch_size=batch_size,
        lr=run["lr"],
        seed=run["seed"],
        validation=validation,
        **how,
    )
    best = min(history.epochs, key=lambda epoch: epoch["validation_loss"])
    return {
        "weights": n_weights(model),
        "steps": steps,
        "loss": mean_loss(model, test),
        "validation_loss": best["validation_loss"],
        "epoch": best["epoch"],
        "epochs": len(history.epochs),
        "seconds": time.perf_counter() - began,
    }


def n_weights(model: nn.Module) -> int:
    """How many weights of `model` are trained."""
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


@torch.no_grad()
def mean_loss(model: nn.Module, data, *, seed: int = 0) -> float:
    """Loss of `model` in evaluation mode, the mean over the jets of `data`; seed: of what a loss
    draws.
    """
    model.eval()
    device = next(model.parameters()).device
    generator, total = torch.Generator(device).manual_seed(seed), 0.0
    for rows in batches.split(np.arange(len(data)), CHUNK):
        x, offsets, *targets = data[rows]
        batch = x.to(device), offsets, *(target.to(device) for target in targets)
        total += float(model.loss(batch, generator=generator)) * len(rows)
    return total / len(data)
