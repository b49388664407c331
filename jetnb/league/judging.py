"""One row judged by one column: heads on the frozen encoder, finetuning, neighbours, calibration."""

from __future__ import annotations

import copy
import functools
import itertools
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import numpy as np
import torch
from scipy import optimize
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from jetnb import finetuning, latent, metrics, pretraining, substructure
from jetnb.finetuning.study import Vectors
from jetnb.inputs.batches import Packed
from jetnb.league.columns import Task
from jetnb.league.rows import Rules
from jetnb.models import particles
from jetnb.models.heads import AttentionPool

WAYS = ("linear", "attention", "finetuned", "new head")
NUMBERS = ("pt", "mass", "softdrop_mass", "tau21", "tau32", "d2", "n_constituents", "girth")
MODES = {"frozen": "linear", "random": "linear", "finetuned": "finetuned", "scratch": "finetuned"}
TREES = {"min_samples_leaf": 10, "max_leaf_nodes": 8, "max_iter": 150, "early_stopping": False}
K = 20  # neighbours
DISPLACED = 3.0  # standard deviations of d0 from which on a track counts as displaced


class Candidate(NamedTuple):
    """What is judged: `make(seed)`, the encoder, pretrained or new, or None for numbers of each jet;
    the pretrained weights or None; `read(jets)`, the `Packed` that it reads; and for a longer scratch
    the steps of each training.
    """

    make: Callable[[int], nn.Module] | None
    weights: Mapping | None
    read: Callable[[ak.Array], Packed]
    steps: int | None = None


def of_checkpoint(path, strategy, extras: Sequence[str] = ()) -> Candidate:
    """The encoder of a pretraining. Of the features that it reads beside momenta jets have `extras`,
    those of the rules; others are given as 0.
    """
    model, _ = pretraining.restore(path, strategy)
    if hasattr(model, "tokenizer"):
        encoder, read = model.encoder, model.tokens
    else:
        encoder = model.encoder
        n, own = getattr(model, "hardest", None), getattr(encoder, "extras", ())
        has = set(particles.columns(extras))

        def read(these: ak.Array) -> Packed:
            found = pretraining.particles(
                these, hardest=n, extras=[name for name in own if name in has]
            )
            x = np.zeros((len(found.x), 3 + len(own)), np.float32)
            x[:, [0, 1, 2, *(3 + i for i, name in enumerate(own) if name in has)]] = found.x
            return Packed(x, found.offsets, *found.targets)

    return Candidate(lambda seed: copy.deepcopy(encoder), encoder.state_dict(), read)


def numbers(these: ak.Array, names: Sequence[str] = NUMBERS, *, tracks: bool = False) -> Packed:
    """High-level features of each jet, as one constituent; with `tracks` one more, how many of its
    tracks are displaced.
    """
    x = np.stack(list(substructure.compute(these, list(names)).values()), axis=1)
    if tracks:
        c = these.constituents
        displaced = c.has_track & (abs(c.d0) > DISPLACED * c.d0_error)
        x = np.column_stack([x, np.asarray(ak.sum(displaced, axis=1))])
    return Packed(np.nan_to_num(x), np.arange(len(x) + 1), these.label)


def of_numbers(rules: Rules, names: Sequence[str] = NUMBERS) -> Candidate:
    """Numbers of each jet in the place of an encoder."""
    tracks = particles.HAS_TRACK in particles.columns(rules.extras)
    return Candidate(None, None, functools.partial(numbers, names=names, tracks=tracks))


def judge(candidate: Candidate, task: Task, rules: Rules, *, seed: int) -> dict:
    """All numbers of a row in a column. Ways: "linear", a plane on the frozen encoder; "attention", a
    pool that learns how to add up its constituents; "finetuned", all weights, with that plane as the
    head to begin with; "new head", all weights and a head that begins at random, as from scratch, but
    with the learning rates of finetuning. From scratch that is "finetuned". Numbers have a plane, and
    trees that are "finetuned".

    Returns {"records": one dict for each way, budget and version of the test jets, "neighbours":
    accuracy of the nearest jets in the space of the frozen encoder, "n_test", "n_classes"}.
    """
    train, validation, *tests = (
        candidate.read(one) for one in (task.train, task.validation, *task.tests.values())
    )
    data = [train, validation, _joined(tests)]
    shared: dict[str, Any] = dict(
        budgets=task.budgets,
        seeds=[seed],
        validation_share=rules.share,
        validation_least=rules.least,
        signal=task.signal,
        progress=False,
    )
    full: dict[str, Any] = {**shared, **rules.finetune, "tune_at": task.tune_at}
    if candidate.make is None:
        runs = _measured(lambda s: Vectors(train.x.shape[1]), data, modes=("random",), **shared)
        runs += _forests(data, seed=seed, rules=rules, budgets=task.budgets)
        z = [part.x for part in (train, tests[0])]
        metric = "euclidean"
    else:
        if candidate.weights is None:
            steps = {} if candidate.steps is None else {"steps": candidate.steps}
            lrs = {"scratch": rules.lrs["scratch"]}
            runs = _measured(
                candidate.make, data, modes=("random", "scratch"), lrs=lrs, **{**full, **steps}
            )
        else:
            own: dict[str, Any] = {
                "pretrained": candidate.weights,
                "lrs": {"finetuned": rules.lrs["finetuned"]},
            }
            runs = _measured(candidate.make, data, modes=("frozen", "finetuned"), **{**full, **own})
            own |= {"probe_first": False, "head_lr": 1.0}  # as from scratch
            runs += _measured(
                candidate.make, data, modes=("finetuned",), way="new head", **{**full, **own}
            )
        encoder = _frozen(candidate, seed)
        pooled = [constituents(encoder, part) for part in data]
        runs += _measured(
            lambda s: AttentionPool(encoder.dim),
            pooled,
            modes=("scratch",),
            lrs={"scratch": rules.lrs["attention"]},
            way="attention",
            **full,
        )
        z, metric = [latent.embed(encoder, part) for part in (train, tests[0])], "cosine"
    labels, n = np.asarray(tests[0].targets[0]), len(tests[0])
    known = np.asarray(train.targets[0])
    near = latent.knn(z[0], known, z[1], labels, k=min(K, len(known)), metric=metric)
    records = []
    for record, probabilities in runs:
        for i, version in enumerate(task.tests):
            share = probabilities[i * n : (i + 1) * n]
            kept = record if i == 0 else {key: record[key] for key in ("way", "budget", "labels")}
            records.append({**kept, "test": version, **quality(labels, share, signal=task.signal)})
    return {
        "records": records,
        "neighbours": round(float(near.accuracy.value), 5),
        "n_test": n,
        "n_classes": int(labels.max()) + 1,
    }


def _joined(parts: list[Packed]) -> Packed:
    lengths = np.concatenate([np.diff(one.offsets) for one in parts])
    labels = np.concatenate([one.targets[0] for one in parts])
    x = np.concatenate([one.x for one in parts])
    return Packed(x, np.concatenate([[0], np.cumsum(lengths)]), labels)


def _frozen(candidate: Candidate, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = candidate.make(seed)
    if candidate.weights is not None:
        encoder.load_state_dict(candidate.weights)
    return encoder.eval()


def constituents(encoder: nn.Module, data: Packed, *, batch_size: int = 512) -> Packed:
    """What a frozen encoder makes of each constituent, in the place of the particles."""
    found = []
    with torch.no_grad():
        for first in range(0, len(data), batch_size):
            x, offsets, *_ = data[np.arange(first, min(first + batch_size, len(data)))]
            found.append(encoder(x, offsets)[0].numpy())
    return Packed(np.concatenate(found), data.offsets, *data.targets)


def _measured(make, data, *, way: str | None = None, **options) -> list[tuple[dict, np.ndarray]]:
    """Runs of `finetuning.measure`: what the table keeps of each, and its probabilities."""
    found = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        # Where a grid or the steps end too early is in the records.
        warnings.simplefilter("ignore", RuntimeWarning)
        table = finetuning.measure(
            make, data, path=Path(folder) / "runs.jsonl", scores=True, **options
        )
        for run in table.to_list():
            grid = sorted(one["lr"] for one in run["grid"])
            to_1_percent = metrics.epochs_until(run["history"]) - 1  # the first check is at step 0
            record = {
                "way": way or MODES[run["mode"]],
                "budget": run["budget"],
                "labels": run["budget"] + run["n_validation"],
                "lr": None if np.isnan(run["lr"]) else run["lr"],
                "lr_at_edge": run["lr"] in (grid[0], grid[-1]) if grid else None,
                "steps": run["steps"],
                "step": run["step"],
                "steps_to_1_percent": to_1_percent * run["steps_per_check"],
                "seconds": round(run["seconds"], 2),
            }
            found.append((record, np.load(run["scores"])))
    return found


def _forests(data, *, seed: int, rules: Rules, budgets) -> list[tuple[dict, np.ndarray]]:
    """Boosted trees, of which rate and number are picked on the validation jets."""
    labels = [np.asarray(part.targets[0]) for part in data]
    drawn = finetuning.draw(
        labels, budgets, seed=seed, validation_share=rules.share, validation_least=rules.least
    )
    found = []
    for budget, (rows, held_out) in drawn.items():
        tried = []
        for rate in (0.03, 0.1):
            forest = HistGradientBoostingClassifier(learning_rate=rate, random_state=seed, **TREES)
            forest.fit(data[0].x[rows], labels[0][rows])
            stages = list(forest.staged_predict_proba(data[1].x[held_out]))
            losses = [log_loss(labels[1][held_out], one) for one in stages]
            tried.append((min(losses), int(np.argmin(losses)), forest))
        _, best, forest = min(tried, key=lambda one: one[0])
        share = next(itertools.islice(forest.staged_predict_proba(data[2].x), best, None))
        record = {
            "way": "finetuned",
            "budget": budget,
            "labels": budget + len(held_out),
            "steps": best + 1,
        }
        found.append((record, share))
    return found


def quality(labels: np.ndarray, probabilities: np.ndarray, *, signal: int) -> dict:
    """How good, and how reliable, probabilities (N, C) are for `labels` (N,).

    The expected calibration error is that of the class which is named; "scaled" is after temperature
    scaling, of each half of the jets with the temperature that suits the other half.
    """
    p = probabilities.astype(np.float64).clip(1e-12)
    p /= p.sum(1, keepdims=True)
    found = {"accuracy": float(np.mean(p.argmax(1) == labels))}
    if p.shape[1] == 2:
        found["auc"] = float(metrics.auc(labels == signal, p[:, signal]).value)
        for at in (50, 30):
            point = metrics.rejection(labels == signal, p[:, signal], signal_efficiency=at / 100)
            found |= {
                f"rejection_{at}": float(point.value),
                f"n_passing_{at}": float(point.n_passing),
            }
            found |= {
                f"rejection_{at}_low": float(point.low),
                f"rejection_{at}_high": float(point.high),
            }
    else:
        found["auc"] = float(roc_auc_score(labels, p, multi_class="ovr"))
    scaled = np.empty_like(p)
    for half in (0, 1):
        scaled[half::2] = _tempered(
            p[half::2], _temperature(labels[1 - half :: 2], p[1 - half :: 2])
        )
    for name, share in (("", p), ("_scaled", scaled)):
        found[f"log_loss{name}"] = float(
            -np.log(share[np.arange(len(labels)), labels].clip(1e-12)).mean()
        )
        right = share.argmax(1) == labels
        if 0 < right.sum() < len(right):
            reliable = metrics.calibrate(right, share.max(1).clip(0, 1))
            found[f"ece{name}"], found[f"ece_floor{name}"] = reliable.error, reliable.noise_floor
    return {
        name: float(f"{value:.5g}") if np.isfinite(value) else None for name, value in found.items()
    }


def _tempered(p: np.ndarray, temperature: float) -> np.ndarray:
    logs = np.log(p) / temperature
    share = np.exp(logs - logs.max(1, keepdims=True))
    return share / share.sum(1, keepdims=True)


def _temperature(labels: np.ndarray, p: np.ndarray) -> float:
    """The temperature with the lowest log-loss."""

    def loss(log_t: float) -> float:
        return -np.log(_tempered(p, np.exp(log_t))[np.arange(len(p)), labels].clip(1e-300)).mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-2, 3), method="bounded").x))
