"""Anomaly detection: how unlike background is a jet, and what is that worth?

Three ways to a score, which is high for what is strange. From an embedding and a bank of background
(`SCORES`). From a model of background: how improbable a jet is to a generator. From two mixtures
that differ in their share of signal: a classifier that tells them apart tells signal from
background, though nobody had labels (CWoLa, arXiv:1708.02949; with a window in the mass
arXiv:1805.02664). Then the numbers by which scores are compared, and whether a cut bends the mass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.covariance import LedoitWolf
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import NearestNeighbors

from jetnb import distances, metrics
from jetnb.metrics import LEVEL, Estimate
from jetnb.metrics.estimates import show


class Improvement(NamedTuple):
    """eps_S / sqrt(eps_B) of a cut, with interval, and what passes: background of `n_background`."""

    value: float
    low: float
    high: float
    signal_efficiency: float
    background_efficiency: float
    n_passing: int
    n_background: int

    def __repr__(self) -> str:
        return (
            f"{show(self.value, self.low, self.high)} at signal efficiency "
            f"{self.signal_efficiency:.3g}, {self.n_passing} of {self.n_background} background jets pass"
        )


def score(bank, z, kind: str = "knn", **options) -> np.ndarray:
    """How unlike the background of `bank` (M, D) each of `z` (N, D) is: (N,), high for strange.

    kind: a name of `SCORES`; options: its own. All but "cosine" look at columns that are shifted
    and scaled to mean 0 and width 1 in the bank. Raises `ValueError` for an unknown kind, arrays
    that do not fit, are not finite, or a bank that is too small. Taught in notebook 16.

    >>> bank = np.random.default_rng(1).normal(size=(500, 2))
    >>> score(bank, [[0.0, 0.0], [6.0, 0.0]], "mahalanobis") > 10
    array([False,  True])
    """
    if kind not in SCORES:
        raise ValueError(f"score {kind!r} is unknown: use one of {', '.join(SCORES)}")
    return SCORES[kind](*_checked(bank, z), **options)


def knn(bank, z, *, k: int = 30) -> np.ndarray:
    """Mean distance to the k nearest of the bank. See `score`."""
    bank, z = _scaled(bank, z)
    return _near(bank, z, k, "euclidean").mean(1)


def mahalanobis(bank, z, *, labels=None) -> np.ndarray:
    """Squared Mahalanobis distance to the mean of the bank, with a shrunk covariance.

    labels: (M,) kinds of background. Then it is the distance to the nearest mean of a kind, with one
    covariance for all. arXiv:1807.03888. See `score`.
    """
    bank, z = _scaled(bank, z)
    means, centred = _means(bank, labels)
    shared = LedoitWolf(assume_centered=True).fit(centred)
    return np.min([shared.mahalanobis(z - mean) for mean in means], axis=0)


def relative_mahalanobis(bank, z, *, labels) -> np.ndarray:
    """`mahalanobis` with labels, less that without: what is strange for all kinds alike does not
    count. arXiv:2106.09022.
    """
    return mahalanobis(bank, z, labels=labels) - mahalanobis(bank, z)


def mixture(bank, z, *, n: int = 4, seed: int = 0) -> np.ndarray:
    """Minus the log density of a mixture of n Gaussians with full covariances. See `score`."""
    bank, z = _scaled(bank, z)
    found = GaussianMixture(n, random_state=seed, reg_covar=1e-4).fit(bank)
    return -found.score_samples(z)


def cosine(bank, z, *, k: int = 100, temperature: float = 0.02) -> np.ndarray:
    """Minus temperature times the log of the sum, over the k nearest in angle, of exp(cosine /
    temperature): how near the nearest are, softly. See `score`.
    """
    away = _near(bank, z, k, "cosine")
    return -temperature * logsumexp((1 - away) / temperature, axis=1)


SCORES: dict[str, Callable[..., np.ndarray]] = {
    "knn": knn,
    "mahalanobis": mahalanobis,
    "relative_mahalanobis": relative_mahalanobis,
    "mixture": mixture,
    "cosine": cosine,
}


def weak(one, two, more=None, *, classifier=None, folds: int = 5, seed: int = 0):
    """Classify which of two mixtures a jet is from, without labels of jets: CWoLa.

    one (N1, D): the mixture with less signal, such as side bands; two (N2, D): that with more.
    classifier: one of scikit-learn with `predict_proba`; boosted trees without. Each jet is scored
    by a classifier that was not trained on it, in `folds` parts; classes count alike. more (N, D):
    other jets, scored by the mean over the parts. Returns scores (N1,), (N2,), and with `more`
    (N,). Raises `ValueError` for arrays that do not fit or fewer jets than folds. arXiv:1708.02949.
    Taught in notebook 16.
    """
    one, two = _checked(one, two, names=("one", "two"))
    more = None if more is None else _checked(one, more, names=("one", "more"))[1]
    if not 2 <= folds <= min(len(one), len(two)):
        raise ValueError(
            f"folds is {folds}: it must be from 2 to the jets of the smaller mixture, "
            f"{min(len(one), len(two))}"
        )
    if classifier is None:
        classifier = HistGradientBoostingClassifier(class_weight="balanced", early_stopping=False)
    z, which = np.concatenate([one, two]), np.repeat([0, 1], [len(one), len(two)])
    found, others = np.empty(len(z)), []
    for part, (train, test) in enumerate(
        StratifiedKFold(folds, shuffle=True, random_state=seed).split(z, which)
    ):
        own = clone(classifier)
        if "random_state" in own.get_params():
            own.set_params(random_state=seed + part)
        own.fit(z[train], which[train])
        found[test] = own.predict_proba(z[test])[:, 1]
        if more is not None:
            others.append(own.predict_proba(more)[:, 1])
    parts = tuple(np.split(found, [len(one)]))
    return parts if more is None else (*parts, np.mean(others, axis=0))


def windows(mass, signal: tuple[float, float], sides: tuple[float, float]):
    """Where a mass (N,) is in the signal window, and where in the side bands around it: (N,) bool
    each.

    sides: from where to where the side bands reach, on both sides of the window. Raises
    `ValueError` where the window is not inside. arXiv:1805.02664. Taught in notebook 16.
    """
    mass, (low, high), (first, last) = np.asarray(mass), signal, sides
    if not first < low < high < last:
        raise ValueError(
            f"signal {signal} must lie inside sides {sides}, with room on both sides of it"
        )
    inside = (mass >= low) & (mass < high)
    return inside, (mass >= first) & (mass < last) & ~inside


def improvement(
    labels, scores, *, background_efficiency: float = 0.01, level: float = LEVEL
) -> Improvement:
    """The significance improvement eps_S / sqrt(eps_B) of the cut that this share of the background
    passes.

    labels (N,): 1 for signal, 0 for background; scores (N,), high for signal. Stable, as
    `background_efficiency` is fixed and not chosen. The interval joins those of Clopper and Pearson
    for signal and background that pass. Where scores tie, fewer pass than asked for. Raises
    `ValueError` as `metrics.roc` does, and where no background jet would pass. Taught in notebook 16.
    """
    if not 0 < background_efficiency <= 1:
        raise ValueError(
            f"background_efficiency is {background_efficiency}: above 0 and at most 1, usually 0.01"
        )
    curve = metrics.roc(labels, scores)
    passing = np.round(curve.background_efficiency * curve.n_background)
    at = int(np.searchsorted(passing, background_efficiency * curve.n_background, "right")) - 1
    if passing[at] < 1:
        raise ValueError(
            f"background_efficiency is {background_efficiency}, but of {curve.n_background} background "
            "jets none passes so tight a cut, or many have the highest score: give more jets, or a "
            "larger one"
        )
    return _improved(curve, at, level)


def best_improvement(
    labels, scores, *, floor: float = 1e-4, least: int = 10, level: float = LEVEL
) -> Improvement:
    """The largest significance improvement of any cut that more than the share `floor` of the
    background, and at least `least` background jets, pass.

    As for `improvement`; but a maximum over cuts picks upward fluctuations, more so the fewer jets
    pass: its interval does not know that. It is never below 1, which is what no cut has, so look at
    what it is for scores that know nothing. Raises `ValueError` where no cut is left. Taught in
    notebook 16.
    """
    curve = metrics.roc(labels, scores)
    passing = np.round(curve.background_efficiency * curve.n_background)
    allowed = (curve.background_efficiency > floor) & (passing >= least)
    if not allowed.any():
        raise ValueError(
            f"of {curve.n_background} background jets no cut keeps {least} and a share above {floor}: "
            "give more jets or lower floor and least"
        )
    value = curve.signal_efficiency / np.sqrt(np.maximum(curve.background_efficiency, 1e-300))
    return _improved(curve, int(np.argmax(np.where(allowed, value, -1))), level)


def sculpting(mass, scores, *, background_efficiency: float = 0.01, seed: int = 0, **options):
    """How far a cut moves the mass of background: Wasserstein-1 between all of it and what passes,
    [unit of mass].

    mass, scores: (N,) of background jets only. options: those of `distances.measure`, whose
    `Distance` this returns, with the floor: that of as many jets drawn at random. A score that makes
    a peak of smooth background finds particles that are not there. Raises `ValueError` as that does.
    Taught in notebook 16.
    """
    mass, scores = np.asarray(mass, float), np.asarray(scores, float)
    if mass.shape != scores.shape or mass.ndim != 1 or not len(mass):
        raise ValueError(
            f"mass and scores have the shapes {mass.shape} and {scores.shape}: both must be (N,), of "
            "the same background jets"
        )
    n = max(int(round(background_efficiency * len(mass))), 1)
    passing = np.argsort(-scores, kind="stable")[:n]
    return distances.measure(mass, mass[passing], metric="w1", seed=seed, **options)


def band(values, *, level: float = LEVEL) -> Estimate:
    """Median and central interval of the results of several seeds (S,), such as of ten injections."""
    values = np.asarray(values, float)
    low, middle, high = np.quantile(values, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Estimate(float(middle), float(low), float(high), level)


def expected(n_found: int, n_seen: int, n_total: float, *, level: float = LEVEL) -> Estimate:
    """How many to expect among n_total jets, if n_found of n_seen jets are of this kind.

    The interval is that of Clopper and Pearson, of the count alone. Raises `ValueError` where n_found
    is not from 0 to n_seen. Taught in notebook 16.

    >>> expected(14, 20_000, 1e6)
    700 (515 to 941) at 68.3 %
    """
    share = metrics.efficiency(n_found, n_seen, level=level)
    return Estimate(*(float(one * n_total) for one in share[:3]), level)


def _improved(curve: metrics.Roc, at: int, level: float) -> Improvement:
    passing = int(round(curve.background_efficiency[at] * curve.n_background))
    kept = int(round(curve.signal_efficiency[at] * curve.n_signal))
    signal = metrics.efficiency(kept, curve.n_signal, level=level)
    background = metrics.efficiency(passing, curve.n_background, level=level)
    value = signal.value / np.sqrt(background.value)
    ends = []
    for kept_end, passing_end in ((signal.low, background.high), (signal.high, background.low)):
        off = abs(kept_end / signal.value - 1) if kept else 1.0
        ends.append(np.hypot(off, abs(np.sqrt(background.value / passing_end) - 1)))
    low, high = value * (1 - min(ends[0], 1)), value * (1 + ends[1])
    if not kept:  # a bound: what the upper end of the signal efficiency would give
        low, high = 0.0, signal.high / np.sqrt(background.value)
    numbers = value, low, high, signal.value, background.value
    return Improvement(*map(float, numbers), passing, curve.n_background)  # type: ignore[arg-type]


def _near(bank, z, k: int, metric: str) -> np.ndarray:
    if not 1 <= k <= len(bank):
        raise ValueError(f"k is {k}: it must be from 1 to the {len(bank)} jets of the bank")
    return NearestNeighbors(n_neighbors=k, metric=metric).fit(bank).kneighbors(z)[0]


def _means(bank, labels) -> tuple[list[np.ndarray], np.ndarray]:
    """Mean of each kind, and the bank with them taken off."""
    if labels is None:
        return [bank.mean(0)], bank - bank.mean(0)
    labels = np.asarray(labels)
    if labels.shape != (len(bank),):
        raise ValueError(f"labels have shape {labels.shape}, but the bank has {len(bank)} jets")
    kinds, which = np.unique(labels, return_inverse=True)
    means = [bank[which == kind].mean(0) for kind in range(len(kinds))]
    return means, bank - np.array(means)[which]


def _scaled(bank, z) -> tuple[np.ndarray, np.ndarray]:
    mean, width = bank.mean(0), bank.std(0)
    width = np.where(width > 0, width, 1)
    return (bank - mean) / width, (z - mean) / width


def _checked(bank, z, *, names=("bank", "z")) -> tuple[np.ndarray, np.ndarray]:
    bank, z = np.asarray(bank, float), np.asarray(z, float)
    if bank.ndim != 2 or z.ndim != 2 or bank.shape[1] != z.shape[1] or len(bank) < 2:
        raise ValueError(
            f"{names[0]} and {names[1]} have the shapes {bank.shape} and {z.shape}: they must be (M, D) "
            "and (N, D) with the same D, and M at least 2"
        )
    for name, values in zip(names, (bank, z), strict=True):
        if not np.isfinite(values).all():
            at = int(np.argmin(np.isfinite(values).all(1)))
            raise ValueError(f"{name}: row {at} is not finite: leave it out")
    return bank, z
