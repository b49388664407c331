"""A law for the loss of trainings of many sizes: how it falls with weights, with jets and with
steps, and what seeing jets again is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize

from jetnb.metrics.estimates import LEVEL, Estimate

NAMES = ("floor", "size_term", "size_exponent", "jets_term", "jets_exponent", "repeats")
STARTS = [(0.5, 0.2, 0.3), (0.8, 0.4, 0.5), (0.2, 0.1, 0.15), (0.9, 0.7, 0.25)]
LIMITS = np.array([[-12.0] * 6, [12, 12, 1.5, 12, 1.5, 12]])  # of the logarithms of the six
HUBER = 0.01  # relative residuals beyond this weigh less than their square


class ScalingLaw(NamedTuple):
    """loss = floor + size_term (weights / n)**-size_exponent + jets_term (worth / d)**-jets_exponent.

    n, d: `at`, the geometric means of weights and of jets seen; the two terms are what is lost
    there to a finite network and to finite training. worth: jets seen, where a jet seen again
    counts less: `worth_of(jets, seen, repeats)`. scatter: of the relative residuals of single runs.
    replicas (R, 6): the same numbers for runs drawn with repetition, by which intervals are made.
    """

    floor: Estimate
    size_term: Estimate
    size_exponent: Estimate
    jets_term: Estimate
    jets_exponent: Estimate
    repeats: Estimate
    at: tuple[float, float]
    scatter: float
    replicas: np.ndarray

    def predict(self, runs: Iterable[Mapping], *, level: float = LEVEL) -> list[tuple]:
        """Loss, low and high for each of `runs`, which have "weights", "jets" and "seen".

        The interval holds what replicas differ in, and the scatter of a single run.
        """
        columns = _columns(runs)
        best = _loss([value.value for value in self[:6]], *columns, self.at)
        many = np.array([_loss(row, *columns, self.at) for row in self.replicas])
        noise = np.random.default_rng(0).normal(0, self.scatter, many.shape)
        low, high = np.quantile(many * (1 + noise), [(1 - level) / 2, (1 + level) / 2], axis=0)
        return [
            tuple(map(float, row))
            for row in zip(best, np.minimum(low, best), np.maximum(high, best), strict=True)
        ]

    def __repr__(self) -> str:
        lines = [
            f"{name.replace('_', ' '):14} {one.value:.3g} ({one.low:.3g} to {one.high:.3g})"
            + (", at the limit of the fit" if _near(one.value, limits) else "")
            for name, one, limits in zip(NAMES, self[:6], LIMITS.T, strict=True)
        ]
        lines.append(f"{'scatter':14} {self.scatter:.1%} of the loss, of a single run")
        return "\n".join(lines) + f"\nintervals at {100 * self.floor.level:.3g} %"


def worth_of(jets, seen, repeats):
    """How many new jets are worth as much as `seen` jets of which `jets` are different.

    The second sight of a jet counts nearly as much as the first, the many-th hardly at all; all
    beyond the first together count at most `repeats` times `jets`. arXiv:2305.16264 (equation 5).
    Taught in notebook 18.

    >>> worth_of(1000, [500, 1000, 2000, 1e9], repeats=10).round()
    array([  500.,  1000.,  1952., 11000.])
    """
    jets, seen = np.asarray(jets, float), np.asarray(seen, float)
    again = np.maximum(seen / jets - 1, 0)
    return np.minimum(seen, jets) + jets * repeats * -np.expm1(-again / repeats)


def fit_scaling_law(
    runs: Sequence[Mapping],
    *,
    floor: float | None = None,
    n_replicas: int = 100,
    seed: int = 0,
    level: float = LEVEL,
) -> ScalingLaw:
    """Fit the loss of all runs at once, by least squares in the logarithm of the loss.

    runs: dicts with "weights", "jets" (different ones), "seen" (in all) and "loss", positive.
    floor: keeps the floor at this, such as 0 for powers alone; None fits it.
    Residuals beyond a hundredth weigh less (Huber), as in arXiv:2203.15556. Intervals are from
    `n_replicas` bootstrap samples of the settings, each drawn with all of its seeds and fitted from
    two starts. A number at the limit of the fit is not known. Where no run
    saw a jet twice, `repeats` says nothing. Raises `ValueError` for fewer than eight settings,
    fewer than two sizes or numbers of jets, losses that are not positive, and a floor that is
    negative or not below all of them. Form of
    arXiv:2602.15781 and, for repeats, of arXiv:2305.16264. Taught in notebook 18.
    """
    weights, jets, seen = _columns(runs)
    loss = np.array([run["loss"] for run in runs], float)
    if not (np.isfinite(loss) & (loss > 0)).all():
        raise ValueError(f"loss: {loss.min()} is the lowest, all must be positive and finite")
    settings = {}
    for i, key in enumerate(zip(weights, jets, seen, strict=True)):
        settings.setdefault(key, []).append(i)
    if len(settings) < 8 or len(set(weights)) < 2 or len(set(seen)) < 2:
        raise ValueError(
            f"runs: {len(settings)} settings with {len(set(weights))} sizes and {len(set(seen))} numbers "
            "of jets seen; a fit of six numbers needs at least 8 settings, 2 sizes and 2 numbers"
        )
    at = float(np.exp(np.log(weights).mean())), float(np.exp(np.log(seen).mean()))

    if floor is not None and not 0 <= floor < loss.min():
        raise ValueError(
            f"floor {floor} must lie from 0 to below the lowest loss, {loss.min():.4g}"
        )
    first = 0 if floor is None else 1  # of the six that is fitted

    def numbers(p):
        return np.exp(p) if floor is None else np.array([floor, *np.exp(p)])

    def fit(rows, starts):
        def residuals(p):
            return np.log(_loss(numbers(p), weights[rows], jets[rows], seen[rows], at)) - logs

        logs, limits = np.log(loss[rows]), LIMITS[:, first:]
        found = [
            optimize.least_squares(
                residuals,
                np.clip(start, limits[0] + 0.1, limits[1] - 0.1),
                bounds=limits,
                loss="huber",
                f_scale=HUBER,
                x_scale="jac",
                max_nfev=100,
            )
            for start in starts
        ]
        return min(found, key=lambda one: one.cost).x

    least, spread = loss.min(), np.ptp(loss)
    starts = [
        np.log([share * least, spread / 4, a, spread / 4, b, 5.0])[first:] for share, a, b in STARTS
    ]
    best = fit(np.arange(len(loss)), starts)
    found = numbers(best)
    rest = np.log(loss) - np.log(_loss(found, weights, jets, seen, at))
    scatter = float(np.sqrt((rest**2).sum() / max(len(rest) - len(best), 1)))
    rng, groups = np.random.default_rng(seed), list(settings.values())
    replicas = []
    for _ in range(n_replicas):
        drawn = rng.integers(len(groups), size=len(groups))
        rows = np.concatenate([groups[i] for i in drawn])
        if len(set(weights[rows])) > 1 and len(set(seen[rows])) > 1:
            replicas.append(numbers(fit(rows, [best, starts[2]])))
    replicas = np.array(replicas).reshape(-1, len(NAMES))
    low, high = np.quantile(replicas, [(1 - level) / 2, (1 + level) / 2], axis=0)
    estimates = [
        Estimate(float(v), float(min(lo, v)), float(max(hi, v)), level)
        for v, lo, hi in zip(found, low, high, strict=True)
    ]
    return ScalingLaw(*estimates, at, scatter, replicas)  # type: ignore[arg-type]


def _near(value: float, limits) -> bool:
    """Whether a number is a hundredth or less from a limit, which the fit nears and never meets."""
    return value > 0 and bool(np.isclose(np.log(value), limits, rtol=0, atol=0.01).any())


def _columns(runs: Iterable[Mapping]) -> tuple[np.ndarray, ...]:
    runs = list(runs)
    return tuple(
        np.array([run[name] for run in runs], float) for name in ("weights", "jets", "seen")
    )


def _loss(numbers, weights, jets, seen, at) -> np.ndarray:
    floor, a, alpha, b, beta, repeats = numbers
    worth = worth_of(jets, seen, repeats)
    return floor + a * (weights / at[0]) ** -alpha + b * (worth / at[1]) ** -beta
