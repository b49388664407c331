"""How far generated jets are from true ones: KLD and Wasserstein-1 of each feature, with bands and
the noise floor.

A distance of two finite samples is never zero. So beside each value stand the *band* in which it
would lie if both were taken again, and the *floor*: what two samples of the truth, of the same
sizes, give.
"""

from __future__ import annotations

import html
from collections import namedtuple
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from jetnb import _compiled
from jetnb.names import JET_FIELDS

CONVENTIONS = ("omnijet_alpha", "jetnb", "enhancing_ntp4jets", "omnijet_alpha_c")
FEATURES = (
    "pt",
    "mass",
    "softdrop_mass",
    "tau1",
    "tau2",
    "tau3",
    "tau4",
    "tau21",
    "tau32",
    "n_constituents",
)
MOST_BINS = 30
PER_BIN = 20  # jets that a bin should hold: then chance leaves none empty
SMALLEST = 1e-10  # what "omnijet_alpha_c" adds to the probability of each bin


class Distance(NamedTuple):
    """One distance: value, band, floor, and what it was made of.

    `n_empty` counts bins that hold truth and nothing generated, `n_dropped` NaN in truth and
    generated.
    """

    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float
    p_value: float
    n_truth: int
    n_generated: int
    n_bins: int
    n_dropped: tuple[int, int]
    n_empty: int = 0


Row = namedtuple("Row", "feature metric unit distance")
COLUMNS = "feature metric unit value band floor floor_band p N_truth N_generated bins empty NaN"


class Table(list):
    """List of `Row` that prints as an aligned table; `note` says what was done."""

    note = ""

    def __str__(self) -> str:
        cells = [[name.replace("_", " ") for name in COLUMNS.split()]]
        for *names, d in self:
            numbers = [d.value, (d.low, d.high), d.floor, (d.floor_low, d.floor_high), d.p_value]
            numbers = [" to ".join(f"{x:.3g}" for x in np.atleast_1d(number)) for number in numbers]
            counts = [
                f"{d.n_truth:,}",
                f"{d.n_generated:,}",
                f"{d.n_bins or '-'}",
                f"{d.n_empty if d.n_bins else '-'}",
                "{:,} + {:,}".format(*d.n_dropped),
            ]
            cells.append([*names, *numbers, *counts])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join([*map(str.ljust, row[:3], widths), *map(str.rjust, row[3:], widths[3:])])
            for row in cells
        ]
        return "\n".join([*lines, self.note])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def kld(truth, generated, *, n_bins: int | None = None, convention: str = "jetnb") -> float:
    """Kullback-Leibler divergence KL(truth || generated) in nats, in bins of equal probability of
    the truth.

    truth: (N,), generated: (M,), in the same unit. NaN are dropped. The outer bins reach to
    infinity, and edges that coincide, as for integers and for many equal values, count once.

    n_bins: None is 30, and fewer where the smaller of the samples would leave less than 20 jets for
    each. A bin without a generated jet counts as if it had one, of M: what is not seen is rarer
    than that, and how much rarer the sample cannot say. With 1e-10 each such bin costs 0.65 nats
    (30 bins, M = 600), more than all others together. `measure` and `compare` tell how many there
    were.

    convention: "jetnb" as above, or that of a public code, in 30 bins if none are given:
    "enhancing_ntp4jets" (arXiv:2512.04149) is infinite where a bin has no generated jet;
    "omnijet_alpha_c" (arXiv:2501.05534) adds 1e-10 to every bin of them, and takes as many bins as
    the plot has edges; "omnijet_alpha" (arXiv:2403.05618) has n_bins - 1 bins between the quantiles
    0.001 and 0.999, ignores jets outside and bin widths, and is NaN where edges coincide.

    Raises `ValueError` for empty or infinite input and for more bins than jets. Taught in notebook
    06.

    >>> round(kld([1, 1, 2, 2], [1, 2, 2, 2], n_bins=2), 4)  # ln(2)/2 + ln(2/3)/2
    0.1438
    """
    truth, generated, _ = _clean(truth, generated)
    return float(_kl(*_count(truth, generated, n_bins, convention), convention))


def w1(truth, generated, *, scaled: bool = False) -> float:
    """Wasserstein-1 distance, `scipy.stats.wasserstein_distance`, in the unit of the feature.

    truth: (N,), generated: (M,), in the same unit. scaled: in units of the interquartile range of
    the truth. NaN are dropped.

    Raises `ValueError` for empty or infinite input and where there is no range to scale by. Taught
    in notebook 06.

    >>> w1([0, 1, 3], [5, 6, 8])
    5.0
    """
    truth, generated, _ = _clean(truth, generated)
    first, second = np.split(np.arange(len(truth) + len(generated), dtype=np.int32), [len(truth)])
    return _area(*_sort(truth, generated, scaled), first, second)


def measure(
    truth,
    generated,
    *,
    metric: str = "kld",
    seed: int,
    n_bins: int | None = None,
    convention: str = "jetnb",
    scaled: bool = False,
    n_replicas: int = 200,
    level: float = 0.68,
) -> Distance:
    """A distance with its band and the noise floor, by the bootstrap.

    truth, generated, n_bins, convention, scaled: as for `kld` and `w1`. metric: "kld" or "w1".
    level: central probability of both bands. Returns a `Distance`, all in the unit of the metric.

    Band: both samples are resampled with replacement. Resamples carry the noise twice and are
    further apart, so the spread of the replicas about their median is put around the value: where
    it would lie for other samples of these sizes, not corrected for the bias that it shares with
    the floor. Near the floor the band is too wide, for the KLD by up to sqrt(3). Bin edges and
    interquartile range stay those of the given truth, a slightly different estimator; in fine bins
    the same to first order. The spread between trainings is not in it.

    Floor: median and band of the distance between two samples of the sizes of truth and generated,
    both drawn with replacement from the truth. Two disjoint halves would have half the size, and
    hence twice the KLD and sqrt(2) times the W1 at this size, and be one draw only. For the KLD it
    is (bins - 1) (1/N + 1/M) / 2 on average. p_value: share of floor draws at least as large as the
    value, which counts as one: never below 1 / (n_replicas + 1).

    Raises `ValueError` as `kld` and `w1` do, and for a setting that makes no sense. Taught in
    notebook 06.
    """
    if metric not in ("kld", "w1") or not 0 < level < 1 or n_replicas < 20:
        raise ValueError(
            f"metric is {metric!r}, level {level}, n_replicas {n_replicas}: take 'kld' or 'w1', a level "
            "between 0 and 1, and at least 20 replicas"
        )
    truth, generated, n_dropped = _clean(truth, generated)
    rng, n_truth, n_generated = np.random.default_rng(seed), len(truth), len(generated)
    if metric == "kld":
        p, q, widths = _count(truth, generated, n_bins, convention)
        value = _kl(p, q, widths, convention)
        inner = slice(None) if widths is None else slice(1, -1)
        n_bins = np.count_nonzero(p[inner])
        n_empty = np.count_nonzero((p[inner] > 0) & (q[inner] == 0))

        def draw(other):  # to resample jets and bin them is to draw from the bins
            return _kl(
                rng.multinomial(n_truth, p / n_truth, n_replicas),
                rng.multinomial(n_generated, other / other.sum(), n_replicas),
                widths,
                convention,
            )

        replicas, floor = draw(q), draw(p)
    else:
        value, n_bins, n_empty = w1(truth, generated, scaled=scaled), 0, 0
        order, gaps = _sort(truth, generated, scaled)

        def areas(start, stop):
            found = np.empty(n_replicas)
            for i in range(n_replicas):
                first = rng.integers(n_truth, size=n_truth, dtype=np.int32)
                second = rng.integers(start, stop, size=n_generated, dtype=np.int32)
                found[i] = _area(order, gaps, first, second)
            return found

        replicas, floor = areas(n_truth, n_truth + n_generated), areas(0, n_truth)
    tails = [0.5, (1 - level) / 2, (1 + level) / 2]
    # By rank, since a replica may be infinite.
    middle, low, high = np.quantile(replicas, tails, method="nearest")
    if np.isfinite(middle):
        low, high = max(value + low - middle, 0), value + high - middle
    else:
        low = high = value
    p_value = (1 + np.count_nonzero(floor >= value)) / (n_replicas + 1)
    if np.isnan(value):
        p_value = np.nan
    edges = np.quantile(floor, tails, method="nearest")
    numbers = [float(one) for one in (value, low, high, *edges, p_value)]
    return Distance(*numbers, n_truth, n_generated, int(n_bins), n_dropped, int(n_empty))  # type: ignore[arg-type]


def compare(
    truth,
    generated,
    *,
    seed: int,
    features: Sequence[str] | None = None,
    metrics: Sequence[str] = ("kld", "w1"),
    **settings,
) -> Table:
    """Table of distances over features and metrics: `print(compare(truth, generated, seed=1))`.

    truth, generated: jets arrays, or mappings of feature name to (N,) and (M,). features: names;
    all of FEATURES that both have, if not given. settings: `n_bins`, `convention`, `scaled`,
    `n_replicas` and `level` of `measure`.

    Returns a `Table` of `Row`. Raises `ValueError` for a feature that one of the two lacks, and as
    `measure` does, naming the feature. Taught in notebook 03.
    """
    have, also = (list(getattr(jets, "fields", jets)) for jets in (truth, generated))
    if features is None:
        features = [name for name in FEATURES if name in have and name in also]
    for which, fields in (("truth", have), ("generated", also)):
        if missing := [name for name in features if name not in fields]:
            raise ValueError(
                f"feature {missing[0]!r} is not in {which}, which has {', '.join(fields)}: add it"
            )
    table = Table()
    for name in features:
        unit = "IQR" if settings.get("scaled") else getattr(JET_FIELDS.get(name), "unit", "")
        for metric in metrics:
            try:
                found = measure(truth[name], generated[name], metric=metric, seed=seed, **settings)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            table.append(Row(name, metric, "nats" if metric == "kld" else unit, found))
    table.note = (
        f"Bands: central {settings.get('level', 0.68):.0%} of the bootstrap. Floor: truth against truth at "
        "the same N; p: share of it at or above the value. KLD: KL(truth || generated), convention "
        f"{settings.get('convention', 'jetnb')}; empty: bins without a generated jet."
    )
    return table


def _clean(truth, generated) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Both as float64 without NaN, and how many jets of each had one."""
    clean, dropped = [], []
    for name, values in (("truth", truth), ("generated", generated)):
        values = np.asarray(values, np.float64)
        if values.ndim != 1:
            raise ValueError(f"{name} has shape {values.shape}, but must be (N,)")
        bad = np.isnan(values)
        if bad.all() or np.isinf(values).any():
            raise ValueError(
                f"{name} has {len(values)} values, {bad.sum()} NaN and {np.isinf(values).sum()} infinite: "
                "give at least one number, and NaN, which is dropped and counted, for what is infinite"
            )
        clean.append(values[~bad])
        dropped.append(len(values) - len(clean[-1]))
    return *clean, tuple(dropped)


def _count(truth: np.ndarray, generated: np.ndarray, n_bins: int | None, convention: str):
    """Jets of truth and generated in each bin (n_bins,), and the bin widths where densities are
    compared, else None.
    """
    if n_bins is None:
        fewer = min(len(truth), len(generated)) // PER_BIN if convention == "jetnb" else MOST_BINS
        n_bins = max(2, min(MOST_BINS, fewer))
    if convention not in CONVENTIONS or not 2 <= n_bins <= len(truth):
        raise ValueError(
            f"convention is {convention!r}, n_bins {n_bins} for {len(truth)} jets of truth: take one of "
            f"{', '.join(CONVENTIONS)}; at least 2 bins, and at most one per jet"
        )
    if convention == "omnijet_alpha":
        edges = np.quantile(truth, np.linspace(0.001, 0.999, n_bins))
        widths = np.diff(edges)
        edges[-1] = np.nextafter(edges[-1], np.inf)  # the last bin includes its upper edge
    else:
        edges = np.unique(np.quantile(truth, np.linspace(0, 1, n_bins + 1)[1:-1]))
        widths = None
    return _histogram(truth, edges), _histogram(generated, edges), widths


def _histogram(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Counts below, between and above `edges`, (len(edges) + 1,)."""
    return np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)


def _kl(p: np.ndarray, q: np.ndarray, widths: np.ndarray | None, convention: str) -> np.ndarray:
    """KL(p || q) in nats along the last axis of counts (..., n_bins)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if convention == "omnijet_alpha":
            p, q = (
                (n[..., 1:-1] / widths / n[..., 1:-1].sum(axis=-1, keepdims=True)) + 1e-8
                for n in (p, q)
            )
        if convention == "jetnb":
            q = np.where(p > 0, np.maximum(q, 1), q)
        p, q = (n / n.sum(axis=-1, keepdims=True) for n in (p, q))
        if convention == "omnijet_alpha_c":
            q = q + SMALLEST
        return rel_entr(p, q).sum(axis=-1)


def _sort(truth: np.ndarray, generated: np.ndarray, scaled: bool) -> tuple[np.ndarray, np.ndarray]:
    """The order of all values, truth first (N + M,), and the steps between them (N + M - 1,)."""
    # Resamples of sorted jets are as good, and sorted memory is read faster.
    truth, generated = np.sort(truth), np.sort(generated)
    values = np.concatenate([truth, generated])
    if scaled:
        low, high = np.quantile(truth, [0.25, 0.75])
        if high <= low:
            raise ValueError(
                f"truth has the interquartile range 0, at {low}: use the unscaled distance"
            )
        values = values / (high - low)
    order = np.argsort(values, kind="stable").astype(np.int32)
    return order, np.diff(values[order])


@_compiled.njit(nogil=True)
def _area(order, gaps, first, second):
    """Area between the distribution functions of the jets `first` and `second`."""
    weights = np.zeros(len(order), np.int64)  # integers: no rounding until the end
    for i in first:
        weights[i] += len(second)
    for i in second:
        weights[i] -= len(first)
    total, height = 0.0, 0
    for i in range(len(gaps)):
        height += weights[order[i]]
        total += abs(height) * gaps[i]
    return total / len(first) / len(second)
