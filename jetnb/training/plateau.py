"""Train until validation has stopped falling, then let the learning rate fall: for arms to compare.

found = plateau.fit(model, data, chosen, seed=1, lr=1e-3)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from jetnb import parallel, training
from jetnb.inputs import batches

CHUNK = 256  # jets or events at a time where only the loss is wanted


def fit(
    model: nn.Module,
    data,
    chosen,
    *,
    seed: int,
    lr: float,
    held: int = 4,
    batch_size: int = 64,
    check: int = 25,
    patience: int = 6,
    cap: int = 80,
    cool: int = 8,
    measure: Callable[[nn.Module], dict] | None = None,
    **device,
) -> dict:
    """Train `model`, in place, on the labelled examples `chosen` of `data`; what happened.

    data: as for `training.fit`, with the label, an integer, as its first target. chosen: indices
    (n,). One in `held` of each class is not trained on: its loss decides. Two trainings follow on
    each other: at a rate near `lr` (the beginning of a cosine over `cap` looks at validation),
    ended by `patience` looks without a better one; then, from the best weights so far, `cool`
    looks in which the rate falls to zero. A look comes after every epoch, or after about `check`
    steps where an epoch has fewer. measure, device: as for `training.fit`.

    The model ends on the CPU with the weights of the best look, of which the first is before any
    step: what was trained before can only gain on validation. Returns a dict: loss (of the best
    look), start (before any step), looks (records of all), steps (in all), ended ("patience", or
    "finished" at the cap). Raises `ValueError` for classes too small to hold any back. Taught in
    notebook 15.
    """
    chosen = np.asarray(chosen)
    label = np.asarray(data.targets[0])[chosen]
    classes, counts = np.unique(label, return_counts=True)
    fewest = int(counts.min()) if len(counts) else 0
    if held < 2 or fewest < held:
        raise ValueError(
            f"chosen: one in {held} of each class is held back, but the smallest "
            f"class has {fewest}: choose more, or another held, from 2"
        )
    place = np.concatenate([np.flatnonzero(label == value) for value in classes])
    validation, used = Subset(data, chosen[place[::held]]), np.delete(chosen[place], np.s_[::held])
    train = Subset(data, np.tile(used, max(1, round(check * batch_size / len(used)))))
    start = _loss(model.cpu(), validation)
    kept, looks, ended = [(start, copy.deepcopy(model.state_dict()))], [], []
    for part, (n_looks, patient) in enumerate(((cap, patience), (cool, None))):
        done = training.fit(
            model,
            train,
            epochs=n_looks,
            batch_size=batch_size,
            lr=lr,
            seed=seed + 1000 * part,
            validation=validation,
            patience=patient,
            measure=measure,
            progress=False,
            **device,
        )
        looks += done.epochs
        ended.append(done.reason)
        lowest = min(look["validation_loss"] for look in done.epochs)
        kept.append((lowest, copy.deepcopy(model.cpu().state_dict())))
    loss, weights = min(kept, key=lambda pair: pair[0])
    model.load_state_dict(weights)
    steps = len(looks) * -(-len(train) // batch_size)
    return {"loss": float(loss), "start": start, "looks": looks, "steps": steps, "ended": ended[0]}


def tune(
    trial: Callable[[float], dict],
    grid: Iterable[float],
    *,
    factor: float = 3.0,
    most: int = 7,
    processes: int = 1,
) -> dict[float, dict]:
    """Try the learning rates of `grid`, and more of them until the best lies between two others.

    trial(lr): a training, such as `fit` returns, of which "loss" is compared. factor: from the end
    of the grid to the next rate. most: rates in all. processes: of the trials in `grid` at a time.
    A grid of one is taken as it is. Returns {lr: what trial returned}, by rising lr; the best is
    `min(found, key=lambda lr: found[lr]["loss"])`. Taught in notebook 15.
    """
    grid = sorted(set(grid))
    found = dict(zip(grid, parallel.run(trial, grid, processes=processes), strict=True))
    while 1 < len(found) < most:
        best = min(found, key=lambda lr: found[lr]["loss"])
        if min(found) < best < max(found):
            break
        further = best * factor if best == max(found) else best / factor
        found[further] = trial(further)
    return dict(sorted(found.items()))


@torch.no_grad()
def _loss(model: nn.Module, data) -> float:
    model.eval()
    parts = batches.split(np.arange(len(data)), CHUNK)
    return float(sum(float(model.loss(data[part])) * len(part) for part in parts) / len(data))
