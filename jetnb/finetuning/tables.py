"""What a table of a study says: its curves, and what makes a comparison in it unfair."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import awkward as ak
import numpy as np


def curves(table: ak.Array, value: str = "accuracy") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cut the column `value` of a table of `measure` into curves for `plots.learning_curve`.

    Returns {mode: (labels (K,), values (S, K) of S seeds)}, where labels are those of training and
    of validation jets together; with several heads in the table the name has the head. Raises
    ValueError where a mode lacks a seed at some budget. Taught in notebook 08.
    """
    several, found = len(set(table.head.to_list())) > 1, {}
    for mode, head in dict.fromkeys(
        zip(table["mode"].to_list(), table.head.to_list(), strict=True)
    ):
        part = table[(table["mode"] == mode) & (table.head == head)]
        budgets, seeds = (np.unique(part[name]) for name in ("budget", "seed"))
        if len(part) != len(budgets) * len(seeds):
            raise ValueError(
                f"table: {mode} with head {head} has {len(part)} runs, but {len(budgets)} "
                f"budgets and {len(seeds)} seeds: measure the ones that are missing"
            )
        part = part[np.lexsort((part.budget, part.seed))]
        values, labels = (
            np.asarray(one).reshape(len(seeds), len(budgets))
            for one in (part[value], part.budget + part.n_validation)
        )
        found[f"{mode}, {head}" if several else mode] = labels[0], values
    return found


def probabilities(table: ak.Array, mode: str, budget: int) -> np.ndarray:
    """Probabilities (S, n_test, C) of the S runs of a table of `measure` with this mode and budget,
    which kept them (`scores=True`).

    Raises ValueError where the table has no such runs, or they kept no probabilities. Taught in
    notebook 08.
    """
    runs = table[(table["mode"] == mode) & (table.budget == budget)]
    if not len(runs):
        pairs = set(zip(table["mode"].to_list(), table.budget.to_list(), strict=True))
        there = ", ".join(f"{one} with {n}" for one, n in sorted(pairs))
        raise ValueError(f"table has no runs {mode!r} with {budget} labels; it has {there}")
    if not all(files := runs.scores.to_list()):
        raise ValueError(
            "table: its runs kept no probabilities: give `measure` scores=True and a path"
        )
    return np.stack([np.load(name) for name in files])


def warn(found: Mapping, records: list[dict]) -> None:
    """Say what makes a comparison unfair: a grid that ends too early, and runs that do."""
    for (mode, budget), tries in found.items():
        best = min(tries, key=lambda one: one["loss"])["lr"]
        rates = sorted(one["lr"] for one in tries)
        if best in (rates[0], rates[-1]) and any(one["step"] for one in tries):
            warnings.warn(
                f"lrs[{mode!r}]: the best of {rates} at {budget} labels is {best:g}, at the end: "
                "add rates beyond it",
                RuntimeWarning,
                stacklevel=3,
            )
    last = {}
    for one in records:
        last.setdefault((one["mode"], one["budget"]), []).append(one["step"] == one["steps"])
    for (mode, budget), at_last in last.items():
        n_last = at_last.count(True)
        if n_last >= len(at_last) / 2:
            warnings.warn(
                f"steps: {n_last} of {len(at_last)} runs {mode} with {budget} labels are best at "
                "their last check: more steps may do better",
                RuntimeWarning,
                stacklevel=3,
            )
