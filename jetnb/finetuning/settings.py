"""The options that all runs of a study share, checked once and written at the head of its ledger."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

MODES = ("random", "frozen", "finetuned", "scratch")
GRIDS = {"finetuned": (1e-4, 3e-4, 1e-3), "scratch": (3e-4, 1e-3, 3e-3)}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of `jetnb.finetuning.measure`, by the same names. Raises ValueError for bad ones."""

    head: str
    lrs: dict[str, list[float]]  # of both modes in GRIDS
    head_lr: float
    probe_first: bool
    validation_share: float
    validation_least: int
    batch_size: int
    steps: int
    epochs: int
    patience: int | None
    every: int
    watch_all: bool
    signal: int

    def __post_init__(self):
        if self.head not in ("linear", "mlp"):
            refuse("head", self.head, "it is 'linear' or 'mlp'")
        for mode, grid in self.lrs.items():
            if mode not in GRIDS or not grid or min(grid) <= 0:
                remedy = f"give one positive learning rate or several, for {' and '.join(GRIDS)}"
                refuse(f"lrs[{mode!r}]", grid, remedy)
        for name in ("batch_size", "steps", "epochs", "patience", "every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                refuse(name, value, "it must be at least 1")

    def record(self) -> dict:
        """The settings for the ledger. Without the head, which each run says itself."""
        found = dataclasses.asdict(self)
        del found["head"]
        return found


def n_validation(budget: int, share: float, least: int) -> int:
    """How many validation labels go with `budget` training labels."""
    return max(int(share * budget), least)


def check_data(labels: Sequence[np.ndarray], budgets: list[int], settings: Settings) -> None:
    """Raises ValueError where the labels of train, validation and test jets do not do for the
    budgets.
    """
    n_classes = int(labels[0].max()) + 1 if len(labels[0]) else 0
    for name, one in zip(("train", "validation", "test"), labels, strict=True):
        if not np.array_equal(np.unique(one), np.arange(max(n_classes, 2))):
            remedy = (
                "each part must have jets of all classes, from 0, and none that is unlabelled (-1)"
            )
            refuse(f"data: labels of {name}", np.unique(one).tolist(), remedy)
    if not budgets or budgets[0] < n_classes:
        refuse("budgets", budgets, f"give at least one, of {n_classes} jets or more")
    held_out = n_validation(budgets[-1], settings.validation_share, settings.validation_least)
    for name, one, most in (("train", labels[0], budgets[-1]), ("validation", labels[1], held_out)):
        least, each = int(np.bincount(one).min()), -(-most // n_classes)
        if least < each:
            remedy = (
                f"there must be {each} jets of each for {most} labels: "
                "choose smaller budgets, or a smaller validation_share or validation_least"
            )
            refuse(f"data: the rarest class of {name}", least, remedy)
    if not 0 <= settings.signal < n_classes:
        refuse("signal", settings.signal, f"it must be a class from 0 to {n_classes - 1}")


def check_choices(
    budgets: list[int], seeds: list[int], modes: Sequence[str], tune_at: list[int], pretrained
) -> None:
    """Raises ValueError for seeds, modes and budgets to tune at that do not fit."""
    if not seeds:
        refuse("seeds", seeds, "give at least one")
    for mode in modes:
        if mode not in MODES:
            refuse("modes", mode, f"use some of {', '.join(MODES)}")
        if pretrained is None and mode in ("frozen", "finetuned"):
            refuse("pretrained", None, f"mode {mode} needs it")
    if not tune_at or not set(tune_at) <= set(budgets):
        refuse("tune_at", tune_at, f"it must be some of the budgets {budgets}")


def refuse(name: str, value, remedy: str):
    """Raise ValueError with the name, the value, and what to do."""
    raise ValueError(f"{name} is {value!r}: {remedy}")
