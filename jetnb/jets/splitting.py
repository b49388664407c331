"""Parts of a sample that share no event, and label budgets, as functions of event numbers and a
seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import awkward as ak
import numpy as np

from jetnb.jets.origin import classes

BLOCK = 1 << 17


def split(
    jets: ak.Array, fractions: Sequence[float] = (0.6, 0.2, 0.2), *, seed: int
) -> tuple[ak.Array, ...]:
    """Cut `jets` into disjoint parts, never dividing an event.

    The part of an event depends on its number, the seed and the fractions alone, so a smaller or
    larger selection of the same sample splits the same way: a jet trained on is never tested on
    elsewhere. Hence the sizes follow `fractions` only on average. Raises `ValueError` if a part
    would be empty. Taught in notebook 04.
    """
    if "event" not in jets.fields:
        raise ValueError(
            "a split needs the field 'event', one integer per collision; these jets have none"
        )
    part = parts(ak.to_numpy(jets.event), fractions, seed=seed)
    return tuple(jets[part == i] for i in range(len(fractions)))


def parts(event: np.ndarray, fractions: Sequence[float], *, seed: int) -> np.ndarray:
    """The part (N,) that `split` puts each jet into, by the numbers (N,) of their events alone.
    Raises as `split`.
    """
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(
            f"fractions must not be negative and must sum to 1, got {tuple(fractions)}"
        )
    part, edges = np.empty(len(event), np.int8), np.cumsum(fractions)[:-1]
    for first in range(0, len(event), BLOCK):  # so that memory is that of the result
        some = slice(first, first + BLOCK)
        part[some] = np.searchsorted(edges, uniform(event[some], seed), side="right")
    sizes = np.bincount(part, minlength=len(fractions))
    for i, fraction in enumerate(fractions):
        if fraction > 0 and sizes[i] == 0:
            raise ValueError(
                f"part {i} of the split {tuple(fractions)} got none of {len(event)} jets: use more jets"
            )
    return part


def label_budgets(jets: ak.Array, budgets: Iterable[int], *, seed: int) -> dict[int, np.ndarray]:
    """For each budget that many jet indices, as many of each class as of any other (to within one).

    A smaller budget is the beginning of every larger one. Classes are those present with label >=
    0. Raises `ValueError` naming the class that has too few jets. Taught in notebook 09.
    """
    rng = np.random.default_rng(seed)
    label = ak.to_numpy(jets.label)
    present = rng.permutation(np.unique(label[label >= 0]))
    budgets = [int(n) for n in budgets]
    if not budgets or min(budgets) < 1 or len(present) == 0:
        raise ValueError(
            "budgets must be positive and the jets labelled; "
            f"got budgets {budgets} and {len(present)} classes"
        )
    per_class = -(-max(budgets) // len(present))
    turns = []
    for i, value in enumerate(present):
        members = rng.permutation(np.flatnonzero(label == value))
        if len(members) < per_class - (i > (max(budgets) - 1) % len(present)):
            raise ValueError(
                f"budget {max(budgets)} asks for {per_class} jets of class "
                f"{classes(jets)[value]}, there are {len(members)}: load more jets"
            )
        turns.append(np.resize(members, per_class))
    order = np.stack(turns, axis=1).ravel()  # one jet of each class in turn
    return {n: order[:n] for n in budgets}


def uniform(event: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """A number in [0, 1) for each event number (N,), by the splitmix64 hash: what `split` goes by."""
    key = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = event.astype(np.int64).view(np.uint64) + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
