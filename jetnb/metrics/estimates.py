"""Numbers with intervals, which print as text."""

from __future__ import annotations

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
    14.05
    """
    return np.diff(np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))[0] / 2


def show(value: float, low: float, high: float, sign: str = "") -> str:
    """Write value and interval, with two digits of half the interval's width."""
    ends = [x for x in (low, high) if np.isfinite(x) and x != value]
    reach = max((abs(x - value) for x in ends), default=abs(value) / 100)
    digits = int(np.clip(1 - np.floor(np.log10(reach)), 0, 12)) if reach > 0 else 3
    shown = f"{sign} {value:.{digits}f}".strip()
    if not ends:
        return shown
    return f"{shown} ({low:.{digits}f} to {high:.{digits}f})".replace("nan", "unknown")
