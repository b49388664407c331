"""Which runs a study of `jetnb.finetuning` has, and which labelled jets each of them gets."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import awkward as ak
import numpy as np
import torch

from jetnb import jets
from jetnb.finetuning import trials
from jetnb.finetuning.settings import (
    GRIDS,
    MODES,
    Settings,
    check_choices,
    check_data,
    n_validation,
)
from jetnb.inputs.batches import Packed


class Plan(NamedTuple):
    """Which runs a study has, and what they need. A run is a dict of mode, head, budget and seed; a
    full training has its lr too, when that is known.
    """

    study: trials.Study
    modes: list[str]
    points: list[dict]  # head, budget and seed, the longest runs first
    runs: list[dict]  # each mode at each point
    tries: dict[tuple[str, int], list[dict]]  # {(mode, budget): one run for each learning rate}
    nearest: dict[int, int]  # {budget: the one at which its learning rate is tuned}
    record: dict  # the settings, for the ledger
    n_runs: int
    starts: dict  # {(budget, seed): layers of the frozen head}, filled by `study`
    tried: dict  # {(mode, budget): (run, `trials.Trained`)}, the best, filled by `study`


def plan(
    settings: Settings,
    make_encoder: Callable,
    data: Sequence[Packed],
    *,
    budgets: Iterable[int],
    seeds: Iterable[int],
    modes: Sequence[str] | None,
    tune_at: int | Sequence[int] | None,
    pretrained,
    accelerator: str,
) -> Plan:
    """Check the arguments of `measure`, draw the labels, and list the runs."""
    budgets, seeds = sorted({int(n) for n in budgets}), list(dict.fromkeys(map(int, seeds)))
    if not modes:
        modes = MODES if pretrained is not None else ("random", "scratch")
    if tune_at is None:
        tune_at = budgets[len(budgets) // 2 :][:1]
    tune_at = sorted({int(n) for n in np.atleast_1d(tune_at)})
    data = [Packed(part.x, part.offsets, part.targets[0]) for part in data]
    labels = [part.targets[0] for part in data]
    check_data(labels, budgets, settings)
    check_choices(budgets, seeds, modes, tune_at, pretrained)

    record = settings.record() | {"tuned_at": None}
    if any(len(grid) > 1 for grid in settings.lrs.values()):
        record["tuned_at"] = [*tune_at, seeds[0]]
    record["data"] = [_checksum([part.x, part.offsets, *part.targets]) for part in data]
    weights = None
    with trials.one_thread(), torch.random.fork_rng(devices=[]):
        record["encoder"] = _checksum(trials.build(make_encoder, 0, None).state_dict().values())
        if pretrained is not None:
            weights = trials.weights(make_encoder, pretrained)
    record["pretrained"] = None if weights is None else _checksum(weights.values())

    share, least = settings.validation_share, settings.validation_least
    rows = {
        seed: draw(labels, budgets, seed=seed, validation_share=share, validation_least=least)
        for seed in seeds
    }
    points = [
        {"head": settings.head, "budget": n, "seed": seed} for n in budgets[::-1] for seed in seeds
    ]
    tries = {}
    for mode in modes:
        for n in tune_at:
            if mode in GRIDS and len(settings.lrs[mode]) > 1:
                one = {"mode": mode, "head": settings.head, "budget": n, "seed": seeds[0]}
                tries[mode, n] = [one | {"lr": lr} for lr in settings.lrs[mode]]
    return Plan(
        study=trials.Study(settings, make_encoder, weights, data, rows, accelerator),
        modes=list(modes),
        points=points,
        runs=[{"mode": mode, **point} for point in points for mode in modes],
        tries=tries,
        nearest={n: min(tune_at, key=lambda at, n=n: abs(np.log(at / n))) for n in budgets},
        record=record,
        n_runs=len(modes) * len(points) + sum(map(len, tries.values())),
        starts={},
        tried={},
    )


def draw(
    labels: Sequence[np.ndarray],
    budgets: Iterable[int],
    *,
    seed: int,
    validation_share: float = 0.25,
    validation_least: int = 100,
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The jets that `measure` takes with a seed: for each budget those to train on and those to
    validate on.

    labels: of the train and the validation jets, from 0; the rest as in `measure`. Returns
    {budget: (indices of training jets, of validation jets)}, nested and balanced. Raises ValueError
    as `jets.label_budgets` does. Taught in notebook 08.
    """
    held_out = {n: n_validation(n, validation_share, validation_least) for n in budgets}
    train, validation = (ak.Array({"label": one}) for one in labels[:2])
    train = jets.label_budgets(train, budgets, seed=seed)
    validation = jets.label_budgets(validation, held_out.values(), seed=seed)
    return {n: (train[n], validation[held_out[n]]) for n in budgets}


def _checksum(arrays) -> str:
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).tobytes(), total)
    return f"{total:08x}"
