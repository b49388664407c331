"""How well does a classifier do: ROC, AUC, accuracy, background rejection, calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.metrics import roc_curve

from jetnb.metrics.estimates import BOUND_LEVEL, LEVEL, Estimate, efficiency, show


class Roc(NamedTuple):
    """The curve from (0, 0) to (1, 1), all (K,): a jet passes where its score is at least
    `threshold`.
    """

    signal_efficiency: np.ndarray
    background_efficiency: np.ndarray
    threshold: np.ndarray
    n_signal: int
    n_background: int

    def __repr__(self) -> str:
        return f"ROC of {self.n_signal} signal and {self.n_background} background jets"


class WorkingPoint(NamedTuple):
    """A quantity read off a ROC at `signal_efficiency`; every entry is a number, or (K,) where K
    were asked for.

    Where `is_bound`, no background jet passes, or fewer than were asked for: value and low are a
    lower bound at 95 %, and high is nan.
    n_passing: background jets that pass, of n_background; a fraction where the threshold cuts
    through tied scores.
    """

    signal_efficiency: float | np.ndarray
    value: float | np.ndarray
    low: float | np.ndarray
    high: float | np.ndarray
    n_passing: float | np.ndarray
    n_background: int
    is_bound: bool | np.ndarray

    def __repr__(self) -> str:
        rows = zip(*np.atleast_1d(*self[:5], self.is_bound), strict=True)
        return "\n".join(
            f"{show(value, low, high, '>' * bool(bound))} at signal efficiency {at:.4g}, "
            f"{passing:.10g} of {self.n_background} background jets pass"
            for at, value, low, high, passing, bound in rows
        )


class Calibration(NamedTuple):
    """A reliability diagram, all (K,), and the expected calibration error with what it is for
    perfect calibration.
    """

    predicted: np.ndarray
    observed: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n_jets: np.ndarray
    error: float
    noise_floor: float

    def __repr__(self) -> str:
        return (
            f"expected calibration error {self.error:.2g} (noise floor {self.noise_floor:.2g}) "
            f"in {len(self.n_jets)} bins of {self.n_jets.min()} to {self.n_jets.max()} jets"
        )


def roc(labels, scores) -> Roc:
    """Make the ROC of `scores` (N,), high for signal, for `labels` (N,), 1 or True for signal and 0
    for background.

    Raises ValueError for lengths that differ, other labels, scores that are not finite, and a class
    without jets. Taught in notebook 03.
    """
    signal, scores = _checked(labels, scores)
    background, passing, threshold = roc_curve(signal, scores, drop_intermediate=False)
    return Roc(passing, background, threshold, int(signal.sum()), int((~signal).sum()))


def auc(
    labels,
    scores,
    *,
    method: str = "delong",
    level: float = LEVEL,
    n_resamples: int = 400,
    seed: int = 0,
) -> Estimate:
    """Estimate the area under the ROC: the chance that a signal jet scores above a background jet,
    ties half.

    labels, scores: (N,) as for `roc`, at least two jets of each class. method: "delong", the
    variance of DeLong et al. (Biometrics 44 (1988) 837) on the logit of the area, or "bootstrap"
    over jets, with `n_resamples` and `seed`. Where the classes do not overlap, one end is the exact
    binomial bound for the smaller class. Raises ValueError as `roc` does. Taught in notebook 03.

    >>> auc([0, 0, 0, 1, 1, 1], [0.1, 0.2, 0.7, 0.4, 0.8, 0.9])
    0.89 (0.62 to 0.98) at 68.3 %
    """
    signal, scores = _checked(labels, scores)
    one, other = scores[signal], scores[~signal]
    if (fewest := min(len(one), len(other))) < 2:
        raise ValueError(
            f"labels: {len(one)} signal and {len(other)} background jets, an interval needs two of each"
        )
    ranks = stats.rankdata(scores)
    # For each signal jet: background below it.
    above = (ranks[signal] - stats.rankdata(one)) / len(other)
    below = 1 - (ranks[~signal] - stats.rankdata(other)) / len(one)
    area = float(above.mean())
    if area in (0.0, 1.0):
        return Estimate(area, *efficiency(area * fewest, fewest, level=level)[1:3], level)
    if method == "delong":
        error = np.sqrt(above.var(ddof=1) / len(one) + below.var(ddof=1) / len(other)) / (
            area * (1 - area)
        )
        middle, reach = np.log(area / (1 - area)), stats.norm.isf((1 - level) / 2) * error
        return Estimate(
            area, *(float(1 / (1 + np.exp(-x))) for x in (middle - reach, middle + reach)), level
        )
    if method == "bootstrap":
        found = stats.bootstrap(
            (one, other),
            _area,
            n_resamples=n_resamples,
            batch=1 + 2_000_000 // len(scores),
            confidence_level=level,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
        return Estimate(area, *map(float, found.confidence_interval), level)
    raise ValueError(f"method {method!r}: choose 'delong' or 'bootstrap'")


def _area(signal: np.ndarray, background: np.ndarray, axis: int = -1) -> np.ndarray:
    n, m = signal.shape[-1], background.shape[-1]
    ranks = stats.rankdata(np.concatenate([signal, background], axis=-1), axis=-1)
    return (ranks[..., :n].sum(axis=-1) - n * (n + 1) / 2) / (n * m)


def accuracy(labels, predicted, *, level: float = LEVEL) -> Estimate:
    """Estimate the fraction of `predicted` classes (N,) that equal `labels` (N,), with its exact
    binomial interval.

    Raises ValueError for lengths that differ and for no jets.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 1 or not len(labels):
        raise ValueError(
            f"labels {labels.shape} and predicted {predicted.shape} must be one class index for each jet"
        )
    return efficiency(np.sum(labels == predicted), len(labels), level=level)


def rejection(
    labels, scores, *, signal_efficiency=0.5, level: float = LEVEL, least: int = 1
) -> WorkingPoint:
    """Read off the background rejection 1/eps_B at `signal_efficiency`, a number or (K,) in (0, 1].

    labels, scores: (N,) as for `roc`. The interval joins in quadrature, in log, the Clopper-Pearson
    interval for the background jets that pass and what the Clopper-Pearson interval of the signal
    efficiency makes of the threshold: with few signal jets the first alone is far too short. least:
    where fewer background jets pass than this, the value is the lower bound of Clopper and Pearson
    at 95 %, on one side: so luck with one jet makes no point. Raises ValueError as `roc` does, and
    for signal efficiencies outside (0, 1]. Taught in notebook 03.
    """
    curve, at = roc(labels, scores), np.asarray(signal_efficiency, float)
    if not ((at > 0) & (at <= 1)).all():
        raise ValueError(f"signal_efficiency {signal_efficiency} must be above 0 and at most 1")
    total = curve.n_background

    def count_passing(at):
        # First point with at least this efficiency.
        right = np.searchsorted(curve.signal_efficiency, at).clip(1)
        (x0, x1), (y0, y1) = ((values[right - 1], values[right]) for values in curve[:2])
        return np.round((y0 + (y1 - y0) * (at - x0) / (x1 - x0)) * total, 6)

    passing = count_passing(at)
    shown, none = np.maximum(passing, 1e-6), passing < max(least, 1e-6)
    _, *counted, _ = efficiency(shown, total, level=level)
    _, *moved, _ = efficiency(at * curve.n_signal, curve.n_signal, level=level)
    shifts = [np.maximum(count_passing(end), 1) / np.maximum(shown, 1) for end in moved]
    less, more = (
        np.hypot(np.log(end * total / shown), np.log(shift))
        for end, shift in zip(counted, shifts, strict=True)
    )
    bound = (
        1
        / efficiency(np.minimum(passing, total), total, level=2 * max(level, BOUND_LEVEL) - 1).high
    )
    value, low, high = (
        np.where(none, instead, total / shown * np.exp(shift))[()]
        for instead, shift in ((bound, 0), (bound, -more), (np.nan, less))
    )
    return WorkingPoint(at[()], value, low, high, passing[()], total, none[()])


def significance_improvement(
    labels, scores, *, signal_efficiency=0.5, level: float = LEVEL
) -> WorkingPoint:
    """Read off eps_S / sqrt(eps_B), by which a cut at `signal_efficiency` improves S / sqrt(B); see
    `rejection`.
    """
    found = rejection(labels, scores, signal_efficiency=signal_efficiency, level=level)
    return found._replace(
        **{
            name: found.signal_efficiency * np.sqrt(getattr(found, name))
            for name in ("value", "low", "high")
        }
    )


def calibrate(
    labels, probabilities, *, n_bins: int = 10, equal: str = "counts", level: float = LEVEL
) -> Calibration:
    """Compare the signal `probabilities` (N,) in [0, 1] with the fraction of signal found, bin by
    bin.

    labels: (N,) as for `roc`. equal: "counts" gives every bin as many jets (ties permitting),
    "widths" cuts [0, 1] into `n_bins`; empty bins are left out. The expected calibration error is
    the mean distance of predicted and observed, weighted by jets (arXiv:1706.04599, eq. 5); its
    noise floor is the value for perfect calibration at these counts. Raises ValueError as `roc`
    does and for probabilities outside [0, 1]. Taught in notebook 08.
    """
    signal, found = _checked(labels, probabilities)
    if found.min() < 0 or found.max() > 1:
        raise ValueError(
            f"probabilities from {found.min():.3g} to {found.max():.3g} must be in [0, 1]: softmax them"
        )
    if equal not in ("counts", "widths"):
        raise ValueError(f"equal {equal!r}: choose 'counts' or 'widths'")
    steps = np.linspace(0, 1, n_bins + 1)[1:-1]
    place = np.searchsorted(np.quantile(found, steps) if equal == "counts" else steps, found)
    _, place = np.unique(place, return_inverse=True)
    count = np.bincount(place)
    predicted, spread = (np.bincount(place, v) / count for v in (found, found * (1 - found)))
    observed, low, high, _ = efficiency(np.bincount(place, signal), count, level=level)
    noise = np.sqrt(2 / np.pi * spread / count)  # mean distance of a normal number from its mean
    share = count / len(found)
    return Calibration(
        predicted,
        observed,
        low,
        high,
        count,
        float(share @ np.abs(observed - predicted)),
        float(share @ noise),
    )


def _checked(labels, scores) -> tuple[np.ndarray, np.ndarray]:
    """Signal (N,) as bool and scores (N,) as float64."""
    labels, scores = np.asarray(labels), np.asarray(scores, float)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(
            f"labels {labels.shape} and scores {scores.shape} must be one number for each jet: "
            "take one column of the scores"
        )
    if len(other := labels[(labels != 0) & (labels != 1)]):
        raise ValueError(
            f"labels: found {other[0]}, must be 1 for signal and 0 for background: compare with one class"
        )
    if not np.isfinite(scores).all():
        raise ValueError(
            f"scores: {scores[~np.isfinite(scores)][0]} of jet {np.argmin(np.isfinite(scores))} is not "
            "finite: did the training diverge?"
        )
    if not 0 < labels.sum() < len(labels):
        raise ValueError(
            f"labels: {int(labels.sum())} of {len(labels)} jets are signal, both classes must be there"
        )
    return labels.astype(bool), scores
