"""The runs of a study of `jetnb.finetuning`: heads on a frozen encoder, and full trainings, one at
a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Subset

from jetnb import checkpoints, latent, metrics, training
from jetnb.finetuning import stacked
from jetnb.finetuning.settings import Settings
from jetnb.inputs.batches import Packed
from jetnb.models import heads

BATCH = 1024  # jets at a time where nothing is learned
PATIENCE = "patience"  # why a run ended; the other reasons are "finished" and, of linear heads, "converged"


class Study(NamedTuple):
    """What all runs of a study share."""

    settings: Settings
    make_encoder: Callable[[int], nn.Module]
    weights: Mapping | None  # of the pretrained encoder
    data: list[Packed]  # train, validation, test
    rows: dict[int, dict]  # {seed: {budget: (training, validation jets)}}
    accelerator: str

    @property
    def n_classes(self) -> int:
        return int(self.data[0].targets[0].max()) + 1


def probe(mode: str, points: list[dict], study: Study):
    """Fit heads on a frozen encoder, all seeds of a budget at once: run, layers for LP-FT, record,
    test scores.
    """
    labels, embedded = [torch.from_numpy(part.targets[0]) for part in study.data], {}
    linear = study.settings.head == "linear"
    every = 0 if linear else stacked.EVERY  # a linear head is solved for, not trained
    for budget in dict.fromkeys(point["budget"] for point in points):
        started, inputs = time.perf_counter(), []
        group = [point for point in points if point["budget"] == budget]
        for point in group:
            key = _key(mode, point)
            if key not in embedded:
                embedded[key] = _embed(key, study)
            (z, zv, _), *_ = embedded[key]
            labelled, held_out = map(torch.from_numpy, study.rows[point["seed"]][budget])
            inputs.append((z[labelled], labels[0][labelled], zv[held_out], labels[1][held_out]))
        z, y, zv, yv = (torch.stack(values) for values in zip(*inputs, strict=True))
        if linear:
            fitted = stacked.fit_linear(z, y, (zv, yv), n_classes=study.n_classes)
        else:
            seeds = [point["seed"] for point in group]
            fitted = stacked.fit_mlp(z, y, (zv, yv), n_classes=study.n_classes, seeds=seeds)
        seconds = (time.perf_counter() - started) / len(group)
        for point, head in zip(group, fitted, strict=True):
            (*_, test), mean, width = embedded[_key(mode, point)]
            probabilities = head(test).softmax(1).numpy()
            n_steps = len(head.history) * every
            record = _record(
                study,
                probabilities,
                n_validation=zv.shape[1],
                lr=np.nan if linear else head.picked,
                penalty=head.picked if linear else np.nan,
                history=head.history,
                ended=head.ended,
                steps=float(n_steps),
                jets=float(n_steps * min(stacked.BATCH_SIZE, budget)),
                step=float(head.step),
                steps_per_check=float(every),
                validation_loss=head.loss,
                seconds=seconds,
            )
            yield {"mode": mode, **point}, head.unscale(mean, width), record, probabilities


def _key(mode: str, point: dict) -> int | None:
    """The seed of the frozen encoder, None for the pretrained one."""
    return point["seed"] if mode == "random" else None


def _embed(seed: int | None, study: Study):
    """Scaled embeddings of all jets, and the mean and width that they had on the training jets."""
    weights = study.weights if seed is None else None
    encoder = build(study.make_encoder, seed or 0, weights).to(study.accelerator)
    z = [latent.embed(encoder, part, batch_size=BATCH) for part in study.data]
    mean, width = z[0].mean(0, dtype=np.float64), z[0].std(0, dtype=np.float64)
    width[width < 1e-6 * np.abs(mean) + 1e-12] = 1  # a feature that is constant
    return [torch.from_numpy(((part - mean) / width).astype(np.float32)) for part in z], mean, width


class Trained(NamedTuple):
    """A full training before its test."""

    record: dict  # what the table keeps of it
    weights: dict  # of encoder and head at the check that was best


def train(run: dict, start, study: Study) -> Trained:
    """One full training, from the layers `start` of a head, or a new one."""
    settings, (train, validation, _) = study.settings, study.data
    started, (labelled, held_out) = time.perf_counter(), study.rows[run["seed"]][run["budget"]]
    finetuned = run["mode"] == "finetuned"
    with one_thread(), torch.random.fork_rng(devices=[]):
        model = _classifier(run, study)
        encoder, head = model.encoder, model.head
        if start is not None:
            with torch.no_grad():
                for mine, value in zip(head.parameters(), start, strict=True):
                    mine.copy_(value)
        per_epoch = -(-len(labelled) // settings.batch_size)
        n_steps = max(settings.steps, settings.epochs * per_epoch)
        checks = _Checks(model, validation, held_out, n_steps, settings)
        head_lr = run["lr"]
        if finetuned:
            head_lr *= settings.head_lr
        history = training.fit(
            model,
            Subset(train, labelled),
            steps=n_steps,
            batch_size=settings.batch_size,
            parameters=[
                {"params": list(encoder.parameters()), "lr": run["lr"]},
                {"params": list(head.parameters()), "lr": head_lr},
            ],
            seed=run["seed"],
            keep="last",
            log_every=settings.every,
            watch=checks,
            accelerator=study.accelerator,
            progress=False,
        )
        if history.reason == "interrupted":
            raise KeyboardInterrupt
    step = history.steps[-1]["step"]
    seen = step // per_epoch * len(labelled) + step % per_epoch * len(labelled) // per_epoch
    record = dict(
        n_validation=len(held_out),
        lr=run["lr"],
        penalty=np.nan,
        history=checks.accuracies,
        ended=PATIENCE if history.reason == "watch" else "finished",
        steps=float(step),
        jets=float(seen),
        step=float(min(checks.best * settings.every, step)),
        steps_per_check=float(settings.every),
        validation_loss=min(checks.losses),
        seconds=time.perf_counter() - started,
    )
    return Trained(record, checks.kept)


def test(run: dict, trained: Trained, study: Study) -> tuple[dict, np.ndarray]:
    """The record of a training with its numbers on the test jets, and the probabilities (n_test, C)."""
    started, these = time.perf_counter(), study.data[2]
    with one_thread(), torch.random.fork_rng(devices=[]), torch.no_grad():
        model = _classifier(run, study)
        model.load_state_dict(trained.weights)
        model.eval()
        probabilities = _predict(model, these, np.arange(len(these))).softmax(1).numpy()
    record = _record(study, probabilities, **trained.record)
    record["seconds"] += time.perf_counter() - started
    return record, probabilities


def _classifier(run: dict, study: Study) -> heads.Classifier:
    weights = study.weights if run["mode"] == "finetuned" else None
    encoder = build(study.make_encoder, run["seed"], weights)
    if study.settings.head == "linear":
        head = heads.linear(encoder.dim, study.n_classes)
    else:
        head = heads.mlp(encoder.dim, study.n_classes, hidden=(stacked.HIDDEN,))
    return heads.Classifier(encoder.to(study.accelerator), head.to(study.accelerator))


class _Checks:
    """The validation of a training: before the first step, and then as its `watch`, after every so
    many.

    Keeps the weights of the check with the lowest loss, the first of equals.
    """

    def __init__(
        self, model: nn.Module, validation, held_out: np.ndarray, n_steps: int, settings: Settings
    ):
        self.model, self.validation = model, validation
        self.n_steps, self.settings = n_steps, settings
        if settings.watch_all:
            self.rows, self.held_out = np.arange(len(validation)), torch.from_numpy(held_out)
        else:
            self.rows, self.held_out = held_out, torch.arange(len(held_out))
        self.truth = torch.from_numpy(validation.targets[0][self.rows])
        self.losses, self.accuracies, self.best = [], [], 0
        self.kept: dict | None = None
        self({"step": 0})

    def __call__(self, record: dict) -> bool:
        """Whether the training shall end, by patience."""
        if record["step"] % self.settings.every and record["step"] < self.n_steps:
            return False  # the end of an epoch
        self.model.eval()
        with torch.no_grad():
            logits = _predict(self.model, self.validation, self.rows)
        self.model.train()
        chosen, truth = logits[self.held_out], self.truth[self.held_out]
        self.losses.append(float(F.cross_entropy(chosen, truth)))
        self.accuracies.append(float((logits.argmax(1) == self.truth).double().mean()))
        if self.kept is None or self.losses[-1] < self.losses[self.best]:
            self.best, self.kept = len(self.losses) - 1, checkpoints.copies(self.model.state_dict())
        patience = self.settings.patience
        return patience is not None and len(self.losses) - 1 - self.best >= patience


def _record(study: Study, probabilities: np.ndarray, **more) -> dict:
    labels, signal = study.data[2].targets[0], study.settings.signal
    found = {
        "accuracy": float(metrics.accuracy(labels, probabilities.argmax(1)).value),
        "auc": metrics.auc(labels == signal, probabilities[:, signal]).value,
    }
    for at in (50, 30):
        point = metrics.rejection(
            labels == signal, probabilities[:, signal], signal_efficiency=at / 100
        )
        found |= {f"rejection_{at}": float(point.value), f"n_passing_{at}": float(point.n_passing)}
    return found | more


def _predict(model: nn.Module, data, indices: np.ndarray) -> torch.Tensor:
    """Logits (n, C) of the jets `indices`, on the CPU; without gradients is up to the caller."""
    device = next(model.parameters()).device
    parts = (data[part] for part in np.array_split(indices, -(-len(indices) // BATCH)))
    return torch.cat([model(x.to(device), offsets).float().cpu() for x, offsets, *_ in parts])


def build(make_encoder: Callable, seed: int, weights) -> nn.Module:
    """A new encoder, random from `seed` or with `weights`. Leaves torch's generator where the seed
    has brought it.
    """
    torch.manual_seed(seed)
    encoder = make_encoder(seed)
    if weights is not None:
        checkpoints.fill(encoder, weights, "pretrained")
    return encoder


def weights(make_encoder: Callable, pretrained) -> dict[str, torch.Tensor]:
    """The state dict of what is pretrained."""
    if isinstance(pretrained, nn.Module):
        pretrained = pretrained.state_dict()
    if not isinstance(pretrained, Mapping):
        encoder = build(make_encoder, 0, None)
        checkpoints.load(pretrained, encoder, part="encoder")
        pretrained = encoder.state_dict()
    return {name: value.detach().cpu().clone() for name, value in pretrained.items()}


@contextlib.contextmanager
def one_thread():
    """One thread for torch: the same numbers with any number of processes, which do not compete for
    cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
