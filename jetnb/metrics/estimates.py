"""Numbers with intervals, which print as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

LEVEL = 0.6827
BOUND_LEVEL = 0.95  # of a bound where nothing passes: at 68 % it would be worth little


class Estimate(NamedTuple):
    """A number and its interval at `level`; low and high are nan where there is none."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def __repr__(self) -> str:
        return show(self.value, self.low, self.high) + f" at {100 * self.level:.3g} %"


def efficiency(n_passing, n_total, *, level: float = LEVEL) -> Estimate:
    """Divide `n_passing` by `n_total` (numbers or (K,)), with the Clopper-Pearson interval
    (Biometrika 26 (1934) 404).

    It covers at least `level`, whatever the truth.

    >>> efficiency(9, 10)
    0.90 (0.71 to 0.98) at 68.3 %
    """
    passing, total = np.asarray(n_passing, float), np.asarray(n_total, float)
    if not ((passing >= 0) & (passing <= total) & (total > 0)).all():
        raise ValueError(
            f"n_passing {n_passing} must be from 0 to n_total {n_total}, which must be positive"
        )
    low = stats.beta.ppf((1 - level) / 2, passing, total - passing + 1)
    high = stats.beta.isf((1 - level) / 2, passing + 1, total - passing)
    low, high = np.where(passing > 0, low, 0.0), np.where(passing < total, high, 1.0)
    return Estimate(passing / total, low[()], high[()], level)


def half_width(values) -> float:
    """Half of the range of the central 68.3 % of values (N,): the standard deviation, if they were
    a Gaussian. Tails do not count. Taught in notebook 01.

    >>> float(half_width([0, 1, 2, 3, 100]).round(2))
    18.9
    """
    return np.diff(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))[0] / 2


def within(value: float, error: float, *, level: float = LEVEL) -> Estimate:
    """A number with a symmetric error."""
    return Estimate(float(value), float(value - error), float(value + error), level)


def mean(values, *, level: float = LEVEL) -> Estimate:
    """Mean of `values` (N,), of independent jets or seeds, with the interval of Student's t; of one
    value the interval is not known.

    >>> mean([0.7, 0.8])
    0.750 (0.658 to 0.842) at 68.3 %
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return Estimate(float(values[0]) if len(values) else np.nan, np.nan, np.nan, level)
    error = stats.t.isf((1 - level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return within(values.mean(), error, level=level)


def bootstrap(
    values, statistic: Callable = np.median, *, seed: int = 1, n: int = 200, level: float = LEVEL
) -> Estimate:
    """`statistic` of `values` (N,), with the quantiles of `n` samples drawn from them with
    replacement (Efron, Ann. Statist. 7 (1979) 1). Of no values it is nan.
    """
    values, rng = np.asarray(values, float), np.random.default_rng(seed)
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan, level)
    value = float(statistic(values))
    again = [statistic(values[rng.integers(len(values), size=len(values))]) for _ in range(n)]
    low, high = np.quantile(again, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, min(float(low), value), max(float(high), value), level)


def show(value: float, low: float, high: float, sign: str = "") -> str:
    """Write value and interval, with two digits of half the interval's width."""
    ends = [x for x in (low, high) if np.isfinite(x) and x != value]
    reach = max((abs(x - value) for x in ends), default=abs(value) / 100)
    digits = int(np.clip(1 - np.floor(np.log10(reach)), 0, 12)) if reach > 0 else 3
    shown = f"{sign} {value:.{digits}f}".strip()
    if not ends:
        return shown
    return f"{shown} ({low:.{digits}f} to {high:.{digits}f})".replace("nan", "unknown")
