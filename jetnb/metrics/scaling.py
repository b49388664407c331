"""How does the error fall with jets and epochs: power laws, and what pretraining is worth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import optimize, stats
from sklearn.isotonic import isotonic_regression

from jetnb.metrics.estimates import LEVEL, Estimate, show


class PowerLaw(NamedTuple):
    """error = amplitude * size**-exponent + floor."""

    amplitude: Estimate
    exponent: Estimate
    floor: Estimate

    def predict(self, sizes) -> np.ndarray:
        """The error expected at `sizes` (K,), in number of jets."""
        return (
            self.amplitude.value * np.asarray(sizes, float) ** -self.exponent.value
            + self.floor.value
        )

    def __repr__(self) -> str:
        return f"amplitude {self.amplitude}\nexponent {self.exponent}\nfloor {self.floor}"


class Worth(NamedTuple):
    """For each of `sizes` (K,), the size (K,) from scratch with the same error, and its interval at
    `level`; `bound` (K,) is ">", "<" or "".
    """

    sizes: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    bound: np.ndarray
    level: float

    def __repr__(self) -> str:
        rows = [
            f"{size:g} jets pretrained are worth {show(value, low, high, bound)} from scratch"
            for size, value, low, high, bound in zip(*self[:5], strict=True)
        ]
        return "\n".join([*rows, f"(intervals at {100 * self.level:.3g} %)"])


def epochs_until(history, *, tolerance: float = 0.01, final: float | None = None):
    """Count epochs until the accuracy is first within `tolerance` (relative) of its final value.

    history: (E,) accuracy after each epoch, or (S, E) for S seeds. final: to compare with another
    value than each history's last. Returns an int or (S,) ints, counted from 1; 0 where it is never
    reached. Taught in notebook 08.

    >>> epochs_until([0.5, 0.7, 0.895, 0.9])
    3
    """
    history = np.asarray(history, float)
    if history.ndim not in (1, 2) or not history.size or not np.isfinite(history).all():
        raise ValueError(
            f"history of shape {history.shape} must be finite, one number for each (seed and) epoch"
        )
    goal = (1 - tolerance) * (history[..., -1:] if final is None else final)
    reached = history >= goal
    epoch = np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1, 0)
    return int(epoch) if epoch.ndim == 0 else epoch


def fit_power_law(
    sizes, errors, *, sigma=None, floor: bool = False, level: float = LEVEL
) -> PowerLaw:
    """Fit error = amplitude * size**-exponent, with `floor` plus a constant not below 0, by least
    squares in log error.

    sizes: (K,) in jets. errors: (K,), or (S, K) for S seeds, positive. sigma: (K,) relative errors
    of the points as weights. The interval is from leaving out one seed at a time, with Student's t;
    with one seed from the scatter of the points about the fit, or from `sigma`. Raises ValueError
    for too few points and for errors that are not positive. Taught in notebook 06.
    """
    sizes, logs = _curve(sizes, errors)
    n_parameters = 2 + floor
    if len(sizes) <= n_parameters:
        raise ValueError(
            f"sizes: {len(sizes)} points, a fit of {n_parameters} parameters needs more"
        )
    if sigma is not None and np.shape(sigma) != sizes.shape:
        raise ValueError(
            f"sigma of shape {np.shape(sigma)} must be one relative error for each of {len(sizes)} sizes"
        )
    x = np.log(sizes)

    def fit(y):
        slope, start = np.polyfit(x, y, 1)
        model, first, least = (lambda x, a, g: a - g * x), [start, -slope], [-np.inf] * 2
        if floor:
            model = lambda x, a, g, c: np.logaddexp(a - g * x, np.log(np.maximum(c, 1e-300)))  # noqa: E731
            first, least = [*first, 0.5 * np.exp(y.min())], [*least, 0]
        return optimize.curve_fit(
            model,
            x,
            y,
            first,
            sigma,
            sigma is not None,
            bounds=(least, np.inf),
            method="trf",
            x_scale="jac",
            max_nfev=5000,
        )

    best, covariance = fit(logs.mean(axis=0))
    variance, freedom, n_seeds = np.diag(covariance), len(sizes) - n_parameters, len(logs)
    if n_seeds > 1:
        left_out = np.array(
            [fit(np.delete(logs, i, axis=0).mean(axis=0))[0] for i in range(n_seeds)]
        )
        jackknife = (n_seeds - 1) * left_out.var(axis=0)
        # A floor at its limit of 0 does not move from seed to seed, and is yet not known exactly.
        variance, freedom = np.maximum(jackknife, variance) if floor else jackknife, n_seeds - 1
    elif sigma is not None:
        freedom = np.inf
    reach = stats.t.isf((1 - level) / 2, freedom) * np.sqrt(variance)
    rows = [[float(v) for v in row] for row in np.transpose([best, best - reach, best + reach])]
    constant = [rows[2][0], max(rows[2][1], 0.0), rows[2][2]] if floor else [0.0] * 3
    return PowerLaw(
        Estimate(*np.exp(rows[0]).tolist(), level),
        Estimate(*rows[1], level),
        Estimate(*constant, level),
    )


def measure_worth(pretrained, scratch, *, level: float = LEVEL) -> Worth:
    """Read off how many jets from scratch give the error that pretraining gives with fewer: the
    horizontal distance.

    pretrained, scratch: (sizes (K,) rising in jets, errors (S, K) of S seeds, falling with size).
    The scratch curve is the mean log error, made to fall where seeds let it rise, straight between
    its points on log axes and never extrapolated. The interval moves the vertical gap by its error
    over seeds (Student's t). An end or value outside the curve is nan or a bound. Raises ValueError
    for errors that are not positive. Taught in notebook 06.
    """
    (sizes, before), (known, logs) = _curve(*pretrained), _curve(*scratch)
    level_at = -isotonic_regression(logs.mean(axis=0), increasing=False)  # rises
    level_at, first = np.unique(level_at, return_index=True)  # of a flat piece, the smallest size
    known_log, goal = np.log(known[first]), -before.mean(axis=0)
    seeds = [len(before), len(logs)]
    if min(seeds) > 1:
        here = np.interp(
            np.interp(goal, level_at, known_log), np.log(known), logs.var(axis=0, ddof=1)
        )
        error = np.sqrt(before.var(axis=0, ddof=1) / seeds[0] + here / seeds[1])
        reach = stats.t.isf((1 - level) / 2, min(seeds) - 1) * error
    else:
        reach = np.full(len(goal), np.nan)

    def read(y, left, right):
        return np.exp(np.interp(y, level_at, known_log, left=left, right=right))

    bound = np.select([goal > level_at[-1], goal < level_at[0]], [">", "<"], "")
    low, high = read(goal - reach, np.nan, None), read(goal + reach, None, np.nan)
    return Worth(sizes, read(goal, None, None), low, high, bound, level)


def _curve(sizes, errors) -> tuple[np.ndarray, np.ndarray]:
    """Sizes (K,) and log errors (S, K), checked."""
    sizes, errors = np.asarray(sizes, float), np.atleast_2d(np.asarray(errors, float))
    if sizes.ndim != 1 or errors.shape[1:] != sizes.shape:
        raise ValueError(
            f"errors of shape {errors.shape} must have one column for each of {sizes.shape} sizes"
        )
    if not (sizes > 0).all() or not (np.diff(sizes) > 0).all():
        raise ValueError(f"sizes {sizes} must be positive and rise: sort them, with the errors")
    if not (np.isfinite(errors) & (errors > 0)).all():
        raise ValueError(
            f"errors: {errors.min()} is the lowest, all must be positive and finite for log axes"
        )
    return sizes, np.log(errors)
