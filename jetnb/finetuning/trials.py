"""The runs of a study of `jetnb.finetuning`: heads on a frozen encoder, and full trainings, one at
a time.

`study` is what all runs share: make_encoder, weights (of the pretrained encoder, or None), data
(train, validation, test), rows {seed: {budget: (training, validation jets)}}, n_classes,
accelerator, and settings, as given to `measure`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Subset

from jetnb import checkpoints, latent, metrics, training
from jetnb.finetuning import stacked
from jetnb.models import heads

BATCH = 1024  # jets at a time where nothing is learned
PATIENCE = "patience"  # why a run ended; the other reasons are "finished" and, of linear heads, "converged"


def probe(mode: str, points: list[dict], study: dict):
    """Fit heads on a frozen encoder, all seeds of a budget at once: run, layers for LP-FT, record,
    test scores.
    """
    linear, n_classes, embedded = study["settings"]["head"] == "linear", study["n_classes"], {}
    labels = [torch.from_numpy(part.targets[0]) for part in study["data"]]
    for budget in dict.fromkeys(point["budget"] for point in points):
        started, inputs, group = (
            time.perf_counter(),
            [],
            [point for point in points if point["budget"] == budget],
        )
        for point in group:
            key = point["seed"] if mode == "random" else None
            if key not in embedded:
                embedded[key] = _embed(key, study)
            (z, zv, _), *_ = embedded[key]
            labelled, held_out = map(torch.from_numpy, study["rows"][point["seed"]][budget])
            inputs.append((z[labelled], labels[0][labelled], zv[held_out], labels[1][held_out]))
        z, y, zv, yv = (torch.stack(values) for values in zip(*inputs, strict=True))
        if linear:
            fitted = stacked.fit_linear(z, y, (zv, yv), n_classes=n_classes)
        else:
            fitted = stacked.fit_mlp(
                z, y, (zv, yv), n_classes=n_classes, seeds=[point["seed"] for point in group]
            )
        every = 0 if linear else stacked.EVERY
        seconds = (time.perf_counter() - started) / len(group)
        for s, point in enumerate(group):
            (*_, test), mean, width = embedded[point["seed"] if mode == "random" else None]
            one, picked = fitted.take(s), float(fitted.picked[s])
            probabilities = one(test)[0].softmax(1).numpy()
            record = _record(
                study,
                probabilities,
                n_validation=zv.shape[1],
                lr=np.nan if linear else picked,
                penalty=picked if linear else np.nan,
                history=one.history[0],
                ended=one.ended[0],
                steps=float(n_steps := len(one.history[0]) * every),
                jets=float(n_steps * min(stacked.BATCH_SIZE, budget)),
                step=0.0 if linear else float(one.steps),
                steps_per_check=float(every),
                validation_loss=float(one.loss),
                seconds=seconds,
            )
            yield {"mode": mode, **point}, one.unscale(mean, width), record, probabilities


def _embed(seed: int | None, study: dict):
    """Scaled embeddings of all jets, and the mean and width that they had on the training jets."""
    encoder = build(study["make_encoder"], seed or 0, study["weights"] if seed is None else None)
    z = [
        latent.embed(encoder.to(study["accelerator"]), part, batch_size=BATCH)
        for part in study["data"]
    ]
    mean, width = z[0].mean(0, dtype=np.float64), z[0].std(0, dtype=np.float64)
    width[width < 1e-6 * np.abs(mean) + 1e-12] = 1  # a feature that is constant
    return [torch.from_numpy(((part - mean) / width).astype(np.float32)) for part in z], mean, width


def train(run: dict, start, study: dict) -> tuple[dict, dict, np.ndarray]:
    """One full training: the run, its record, and the probabilities (n_test, C)."""
    settings, (train, validation, test) = study["settings"], study["data"]
    started, (labelled, held_out) = time.perf_counter(), study["rows"][run["seed"]][run["budget"]]
    finetuned = run["mode"] == "finetuned"
    with one_thread(), torch.random.fork_rng(devices=[]):
        encoder = build(study["make_encoder"], run["seed"], study["weights"] if finetuned else None)
        if settings["head"] == "linear":
            head = heads.linear(encoder.dim, study["n_classes"])
        else:
            head = heads.mlp(encoder.dim, study["n_classes"], hidden=(stacked.HIDDEN,))
        if start is not None:
            with torch.no_grad():
                for mine, value in zip(head.parameters(), start, strict=True):
                    mine.copy_(value)
        model = heads.Classifier(encoder.to(study["accelerator"]), head.to(study["accelerator"]))
        per_epoch = -(-len(labelled) // settings["batch_size"])
        n_steps = max(settings["steps"], settings["epochs"] * per_epoch)
        checks = _Checks(model, validation, held_out, n_steps, settings)
        head_lr = run["lr"]
        if finetuned:
            head_lr *= settings["head_lr"]
        history = training.fit(
            model,
            Subset(train, labelled),
            steps=n_steps,
            batch_size=settings["batch_size"],
            parameters=[
                {"params": list(encoder.parameters()), "lr": run["lr"]},
                {"params": list(head.parameters()), "lr": head_lr},
            ],
            seed=run["seed"],
            keep="last",
            log_every=settings["every"],
            watch=checks,
            accelerator=study["accelerator"],
            progress=False,
        )
        if history.reason == "interrupted":
            raise KeyboardInterrupt
        model.load_state_dict(checks.kept)
        with torch.no_grad():
            probabilities = _predict(model, test, np.arange(len(test))).softmax(1).numpy()
    step = history.steps[-1]["step"]
    seen = step // per_epoch * len(labelled) + step % per_epoch * len(labelled) // per_epoch
    record = _record(
        study,
        probabilities,
        n_validation=len(held_out),
        lr=run["lr"],
        penalty=np.nan,
        history=checks.accuracies,
        ended=PATIENCE if history.reason == "watch" else "finished",
        steps=float(step),
        jets=float(seen),
        step=float(min(checks.best * settings["every"], step)),
        steps_per_check=float(settings["every"]),
        validation_loss=min(checks.losses),
        seconds=time.perf_counter() - started,
    )
    return run, record, probabilities


class _Checks:
    """The validation of a training: before the first step, and then as its `watch`, after every so
    many.

    Keeps the weights of the check with the lowest loss, the first of equals.
    """

    def __init__(
        self, model: nn.Module, validation, held_out: np.ndarray, n_steps: int, settings: dict
    ):
        self.model, self.validation, self.n_steps, self.settings = (
            model,
            validation,
            n_steps,
            settings,
        )
        self.rows = np.arange(len(validation)) if settings["watch_all"] else held_out
        self.held_out = torch.from_numpy(
            np.searchsorted(self.rows, held_out)
            if settings["watch_all"]
            else np.arange(len(held_out))
        )
        self.truth = torch.from_numpy(validation.targets[0][self.rows])
        self.losses, self.accuracies, self.best, self.kept = [], [], 0, None
        self({"step": 0})

    def __call__(self, record: dict) -> bool:
        """Whether the training shall end, by patience."""
        if record["step"] % self.settings["every"] and record["step"] < self.n_steps:
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
        patience = self.settings["patience"]
        return patience is not None and len(self.losses) - 1 - self.best >= patience


def _record(study: dict, probabilities: np.ndarray, **more) -> dict:
    labels, signal = study["data"][2].targets[0], study["settings"]["signal"]
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
