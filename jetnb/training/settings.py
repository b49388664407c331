"""What `fit` is told: the settings that a checkpoint's card records, the options, and what is
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Settings:
    """What the result of a training depends on, as the arguments of `fit`; its card records them."""

    epochs: int | None
    steps: int | None
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    clip: float | None
    seed: int
    keep: str
    best_by: str
    patience: int | None
    precision: str


@dataclass(frozen=True)
class Options:
    """The other arguments of `fit`: what else is measured, where it is kept, how it is shown."""

    parameters: Sequence[dict] | None
    validation: Any
    measure: Callable[[nn.Module], dict] | None
    path: Any
    resume: bool
    save_every: int | None
    card: dict
    compile: bool
    log_every: int
    watch: Callable[[dict], Any] | None
    progress: bool
    shares: bool = False


def check(model: nn.Module, data, settings: Settings, options: Options) -> None:
    """Raise `ValueError` naming the first argument of `fit` that makes no sense, and a remedy."""
    if not callable(getattr(model, "loss", None)):
        raise ValueError(
            f"model is a {type(model).__name__} without a method loss(batch, *, generator=None): "
            "wrap it, e.g. in jetnb.models.heads.Classifier"
        )
    for name, jets in (("data", data), ("validation", options.validation)):
        if jets is not None and len(jets) == 0:
            raise ValueError(f"{name} has no jets")
    if (settings.epochs is None) == (settings.steps is None):
        raise ValueError(
            f"epochs is {settings.epochs} and steps is {settings.steps}: give one of them"
        )
    for name in ("epochs", "steps", "batch_size", "patience"):
        _at_least_one(name, getattr(settings, name))
    for name in ("save_every", "log_every"):
        _at_least_one(name, getattr(options, name))
    for name in ("lr", "clip"):
        value = getattr(settings, name)
        if value is not None and not value > 0:
            _refuse(name, value, "it must be positive")
    if not 0 <= settings.warmup < 1:
        _refuse("warmup", settings.warmup, "it is a share of all steps, from 0 to below 1")
    if not settings.weight_decay >= 0:
        _refuse("weight_decay", settings.weight_decay, "it must not be negative")
    if settings.keep not in ("best", "last"):
        _refuse("keep", settings.keep, 'it is "best" or "last"')
    if settings.best_by != "validation_loss" and options.measure is None:
        _refuse(
            "best_by", settings.best_by, "it names a number of measure, and there is no measure"
        )
    if settings.patience and options.validation is None and settings.best_by == "validation_loss":
        _refuse("patience", settings.patience, "it needs validation, or a measure named by best_by")


def _at_least_one(name: str, value) -> None:
    if value is not None and value < 1:
        _refuse(name, value, "it must be at least 1")


def _refuse(name: str, value, remedy: str) -> None:
    raise ValueError(f"{name} is {value!r}: {remedy}")
