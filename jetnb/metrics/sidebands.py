"""Background under a peak, from the spectrum beside it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jetnb.metrics.estimates import Estimate

# Of Newton's method; the logarithm of a mean stays within LOWEST.
STEPS, ACCURACY, LOWEST = (100, 1e-8, 40.0)


class Sideband(NamedTuple):
    """What is in the window, and what the fit beside it expects there, with the error of the fit
    alone.
    """

    seen: int
    expected: float
    error: float
    curve: np.ndarray | None = None  # (K,) expected in each bin
    # Of the bins that were fitted; about n_fitted - degree - 1 where the shape is right.
    deviance: float = np.nan
    n_fitted: int = 0

    @property
    def pull(self) -> float:
        """What was seen, above what was expected, in units of the uncertainty of that difference."""
        return float((self.seen - self.expected) / np.sqrt(self.expected + self.error**2))

    def __repr__(self) -> str:
        fitted = f", deviance {self.deviance:.0f} of {self.n_fitted} bins" if self.n_fitted else ""
        return f"{self.seen} seen, {self.expected:.1f} +- {self.error:.1f} expected, pull {self.pull:+.1f}{fitted}"


def sideband(values, window: tuple[float, float], *, edges, degree: int = 3) -> Sideband:
    """Fit a smooth spectrum beside a window, and read off what it expects inside.

    values: (N,). window: two of the `edges` (K+1,). The logarithm of what is expected in a bin is a
    polynomial of `degree` in its centre, fitted to the bins outside the window by the Poisson
    likelihood, so that empty bins count. `error` is that of the fit: it knows nothing of a spectrum
    that is no such curve, which only truth can tell. Raises `ValueError` where the window does not
    end at bin edges, where no more bins are left than the fit has parameters, where fewer than
    `degree` + 1 of them have entries, and where the fit does not settle. Baker and Cousins, NIM 221
    (1984) 437.

    >>> falling = 300 * np.random.default_rng(1).beta(1, 4, 4000)
    >>> sideband(falling, (100, 140), edges=np.arange(0, 301, 20))
    476 seen, 475.6 +- 18.6 expected, pull +0.0, deviance 11 of 13 bins

    Taught in notebook 03.
    """
    edges = np.asarray(edges, float)
    low, high = (np.flatnonzero(np.isclose(edges, end)) for end in window)
    if not (len(low) and len(high) and low[0] < high[0]):
        raise ValueError(
            f"the window {tuple(window)} must begin and end at two of the edges {edges.tolist()}"
        )
    counts, _ = np.histogram(values, edges)
    inside = np.zeros(len(counts), bool)
    inside[low[0] : high[0]] = True
    beside = ~inside
    if beside.sum() <= degree + 1 or np.sum(counts[beside] > 0) < degree + 1:
        raise ValueError(
            f"beside the window are {beside.sum()} bins, {np.sum(counts[beside] > 0)} of them with "
            f"entries: too few for a polynomial of degree {degree}; widen the cuts or the edges"
        )
    centre = (edges[1:] + edges[:-1]) / 2
    x = np.vander((centre - centre.mean()) / (edges[-1] - edges[0]) * 2, degree + 1)
    fit, covariance = _poisson(x[beside], counts[beside])
    curve = np.exp(x @ fit)
    slope = curve[inside] @ x[inside]
    n, mu = counts[beside], curve[beside]
    deviance = 2 * np.sum(mu - n + n * np.log(np.where(n > 0, n, 1) / np.where(n > 0, mu, 1)))
    return Sideband(
        int(counts[inside].sum()),
        float(curve[inside].sum()),
        float(np.sqrt(slope @ covariance @ slope)),
        curve,
        float(deviance),
        int(beside.sum()),
    )


def closure(found: Sideband, n_background: int) -> Estimate:
    """Divide what a fit expects in its window by the true background there: 1 where the method is
    right.

    The interval, at 68 %, holds the error of the fit and that of the count, taken as independent. A
    count of none gives nan. Taught in notebook 03.
    """
    if n_background == 0:
        return Estimate(np.nan, np.nan, np.nan)
    value = found.expected / n_background
    error = value * np.sqrt((found.error / found.expected) ** 2 + 1 / n_background)
    return Estimate(value, max(value - error, 0.0), value + error)


def _poisson(x: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Parameters of log(mean) = x @ parameters at the greatest likelihood, and their covariance, by
    Newton's method.
    """
    mu = counts + 0.5
    for _ in range(STEPS):
        target = np.log(mu) + (counts - mu) / mu
        covariance = np.linalg.inv(x.T @ (mu[:, None] * x))
        fit = covariance @ (x.T @ (mu * target))
        new = np.exp(np.clip(x @ fit, -LOWEST, LOWEST))
        if np.abs(new - mu).max() < ACCURACY * (1 + new.max()):
            return fit, covariance
        mu = new
    raise ValueError(
        "the fit beside the window does not settle: take a lower degree, or wider cuts for more entries"
    )
