"""How far generated jets are from true ones: KLD and Wasserstein-1 of each feature, with bands and
the noise floor.

A distance of two finite samples is never zero. So beside each value stand the *band* in which it
would lie if both were taken again, and the *floor*: what two samples of the truth, of the same
sizes, give.
"""

from __future__ import annotations

import html
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from jetnb import _compiled
from jetnb.names import JET_FIELDS

CONVENTIONS = (
    "omnijet_alpha",
    "jetnb",
    "enhancing_ntp4jets",
    "omnijet_alpha_c",
)  # the first only in 1-d
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
MOST_BINS, PER_BIN = (
    30,
    20,
)  # bins at most, and jets that a bin should hold: then chance leaves none empty
SMALLEST = 1e-10  # what "omnijet_alpha_c" adds to the probability of each bin
N_ANGLES = 16  # the mean of |cos| over them is 2 / pi to 0.4 %, whichever way the shift


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


Row = namedtuple(
    "Row", "class_name feature metric unit distance"
)  # class_name is "all" for all jets together


class Table(list):
    """List of `Row` that prints as an aligned table; `note` says what was done."""

    note = ""

    def __str__(self) -> str:
        cells = [
            (
                "class",
                *Row._fields[1:4],
                *[
                    "value",
                    "band",
                    "floor",
                    "floor band",
                    "p",
                    "N truth",
                    "N generated",
                    "bins",
                    "empty",
                    "NaN",
                ],
            )
        ]
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
            cells.append((*names, *numbers, *counts))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(map(str.ljust, row[:4], widths))
            + "  "
            + "  ".join(map(str.rjust, row[4:], widths[4:]))
            for row in cells
        ]
        return "\n".join([*lines, self.note])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def kld(truth, generated, *, n_bins: int | None = None, convention: str = "jetnb") -> float:
    """Kullback-Leibler divergence KL(truth || generated) in nats, in bins of equal probability of
    the truth.

    truth: (N,), generated: (M,), in the same unit; or (N, 2) and (M, 2), where the first column is
    cut into about sqrt(n_bins) bins and each of these along the second: never more than `n_bins`.
    NaN are dropped. The outer bins reach to infinity, and edges that coincide, as for integers and
    for many equal values, count once.

    n_bins: None is 30, and fewer where the smaller of the samples would leave less than 20 jets for
    each. A bin without a generated jet counts as if it had one, of M: what is not seen is rarer
    than that, and how much rarer the sample cannot say. With 1e-10 each such bin costs 0.65 nats
    (30 bins, M = 600), more than all others together. `measure` and `compare` tell how many there
    were.

    convention: "jetnb" as above, or that of a public code, in 30 bins if none are given:
    "enhancing_ntp4jets" (arXiv:2512.04149) is infinite where a bin has no generated jet;
    "omnijet_alpha_c" (arXiv:2501.05534) adds 1e-10 to every bin of them, and takes as many bins as
    the plot has edges; "omnijet_alpha" (arXiv:2403.05618, not in two dimensions) has n_bins - 1
    bins between the quantiles 0.001 and 0.999, ignores jets outside and bin widths, and is NaN
    where edges coincide.

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
    the truth. For (N, 2) and (M, 2), always scaled, the mean over 16 directions in the plane of the
    distance along each ("sliced", doi:10.1007/s10851-014-0506-3), quick for any N: a shift by s
    gives 2 s / pi. NaN are dropped.

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
        value, inner = (
            _kl(p, q, widths, convention),
            slice(None) if widths is None else slice(1, -1),
        )
        n_bins, n_empty = (
            np.count_nonzero(p[inner]),
            np.count_nonzero((p[inner] > 0) & (q[inner] == 0)),
        )

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

        def draw(start, stop):
            return np.array(
                [
                    _area(
                        order,
                        gaps,
                        rng.integers(n_truth, size=n_truth, dtype=np.int32),
                        rng.integers(start, stop, size=n_generated, dtype=np.int32),
                    )
                    for _ in range(n_replicas)
                ]
            )

        replicas, floor = draw(n_truth, n_truth + n_generated), draw(0, n_truth)
    tails = [0.5, (1 - level) / 2, (1 + level) / 2]
    middle, low, high = np.quantile(
        replicas, tails, method="nearest"
    )  # by rank, since a replica may be infinite
    low, high = (
        (max(value + low - middle, 0), value + high - middle)
        if np.isfinite(middle)
        else (value, value)
    )
    p_value = (
        np.nan if np.isnan(value) else (1 + np.count_nonzero(floor >= value)) / (n_replicas + 1)
    )
    numbers = map(float, (value, low, high, *np.quantile(floor, tails, method="nearest"), p_value))
    return Distance(*numbers, n_truth, n_generated, int(n_bins), n_dropped, int(n_empty))


def compare(
    truth,
    generated,
    *,
    seed: int,
    features: Sequence[str | tuple[str, str]] | None = None,
    metrics: Sequence[str] = ("kld", "w1"),
    by: str | None = None,
    **settings,
) -> Table:
    """Table of distances over features and metrics: `print(compare(truth, generated, seed=1))`.

    truth, generated: jets arrays, or mappings of feature name to (N,) and (M,). features: names,
    and pairs of names for distances in two dimensions; all of FEATURES that both have, if not
    given. by: name of an integer field, such as "label", for whose values in the truth rows of
    their own follow; -1 is left out. settings: `n_bins`, `convention`, `scaled`, `n_replicas` and
    `level` of `measure`.

    Returns a `Table` of `Row`. Raises `ValueError` for a feature that one of the two lacks, for a
    class without generated jets, and as `measure` does, naming the feature. Taught in notebook 06.
    """
    have, also = (list(getattr(jets, "fields", jets)) for jets in (truth, generated))
    features = (
        [name for name in FEATURES if name in have and name in also]
        if features is None
        else features
    )
    features = [(feature,) if isinstance(feature, str) else tuple(feature) for feature in features]
    for which, fields in (("truth", have), ("generated", also)):
        if missing := [name for name in [*sum(features, ()), by] if name not in [*fields, None]]:
            raise ValueError(
                f"feature {missing[0]!r} is not in {which}, which has {', '.join(fields)}: add it"
            )
    rows = []
    for class_name, kept in _classes(truth, generated, by).items():
        for feature in features:
            columns = [
                np.stack(
                    [np.asarray(jets[name])[keep] for name in feature], axis=1
                )  # (N, 1) or (N, 2)
                for jets, keep in zip((truth, generated), kept, strict=True)
            ]
            unit, name = getattr(JET_FIELDS.get(feature[0]), "unit", ""), " x ".join(feature)
            units = {
                "kld": "nats",
                "w1": "IQR" if settings.get("scaled") or len(feature) == 2 else unit,
            }
            try:
                rows += [
                    Row(
                        class_name,
                        name,
                        metric,
                        units.get(metric),
                        measure(*columns, metric=metric, seed=seed, **settings),
                    )
                    for metric in metrics
                ]
            except ValueError as error:
                raise ValueError(f"{name} of class {class_name}: {error}") from None
    table = Table(rows)
    table.note = (
        f"Bands: central {settings.get('level', 0.68):.0%} of the bootstrap. Floor: truth against truth at "
        "the same N; p: share of it at or above the value. KLD: KL(truth || generated), convention "
        f"{settings.get('convention', 'jetnb')}; empty: bins without a generated jet."
    )
    return table


def _classes(truth: Mapping, generated: Mapping, by: str | None) -> dict[str, tuple]:
    """Class name -> which jets of truth and generated belong to it."""
    kept = {"all": (..., ...)}
    true, other = (np.asarray(jets[by]) if by else np.array([]) for jets in (truth, generated))
    names, others = (
        [*getattr(jets, "attrs", {}).get("jetnb", {}).get("classes", ())] if by == "label" else []
        for jets in (truth, generated)
    )
    if names and others and names != others:
        raise ValueError(
            f"label means {names} in truth, but {others} in generated: bring both to one order"
        )
    for value in np.unique(true[true >= 0]):
        name = dict(enumerate(names or others)).get(value, f"{by} {value}")
        kept[name] = true == value, other == value
        if not kept[name][1].any():
            raise ValueError(
                f"{by} {value} ({name}) has {kept[name][0].sum()} true jets and no generated one: "
                "generate some, or drop the class from truth"
            )
    return kept


def _clean(truth, generated) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Both as float64 without NaN, (N, 1) or (N, 2), and how many jets of each had one."""
    clean, dropped = [], []
    for name, values in (("truth", truth), ("generated", generated)):
        values = np.atleast_2d(np.asarray(values, np.float64).T).T  # (N,) is (N, 1)
        if values.ndim != 2 or values.shape[1] not in (1, 2):
            raise ValueError(
                f"{name} has shape {values.shape}, but must be (N,), or (N, 2) for two dimensions"
            )
        bad = np.isnan(values).any(axis=1)
        if bad.all() or np.isinf(values).any():
            raise ValueError(
                f"{name} has {len(values)} values, {bad.sum()} NaN and {np.isinf(values).sum()} infinite: "
                "give at least one number, and NaN, which is dropped and counted, for what is infinite"
            )
        clean.append(values[~bad])
        dropped.append(len(values) - len(clean[-1]))
    if clean[0].shape[1] != clean[1].shape[1]:
        raise ValueError(
            f"truth has {clean[0].shape[1]} features, generated {clean[1].shape[1]}: give both the same"
        )
    return *clean, tuple(dropped)


def _count(truth: np.ndarray, generated: np.ndarray, n_bins: int | None, convention: str):
    """Jets of truth and generated in each bin (n_bins,), and the bin widths where densities are
    compared, else None.
    """
    if n_bins is None:
        fewer = min(len(truth), len(generated)) // PER_BIN if convention == "jetnb" else MOST_BINS
        n_bins = max(2, min(MOST_BINS, fewer))
    both, two = (truth, generated), truth.shape[1] == 2
    if convention not in CONVENTIONS[two:] or not 2 <= n_bins <= len(truth):
        raise ValueError(
            f"convention is {convention!r}, n_bins {n_bins} for {len(truth)} jets of truth: take one of "
            f"{', '.join(CONVENTIONS[two:])}; at least 2 bins, and at most one per jet"
        )
    if convention == "omnijet_alpha":
        edges = np.quantile(truth, np.linspace(0.001, 0.999, n_bins))
        widths = np.diff(edges)
        edges[-1] = np.nextafter(edges[-1], np.inf)  # the last bin includes its upper edge
        return *(_histogram(values[:, 0], edges) for values in both), widths
    n_first, counts = int(np.sqrt(n_bins)) if two else 1, []
    edges = _edges(truth[:, 0], n_first)
    for i in range(len(edges) + 1):  # strips of the plane, or the whole line
        inside = [
            values[np.searchsorted(edges, values[:, 0], side="right") == i, -1] for values in both
        ]
        edges_inside = _edges(inside[0], n_bins // n_first)
        counts.append([_histogram(values, edges_inside) for values in inside])
    return *map(np.concatenate, zip(*counts, strict=True)), None


def _edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Inner edges of bins of equal probability, each once; none in a strip without jets."""
    return (
        np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)[1:-1]))
        if len(values)
        else values
    )


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
    """For each direction the order of all values, truth first (A, N + M), and the steps between
    them (A, N + M - 1).
    """
    angles = np.pi / N_ANGLES * np.arange(N_ANGLES)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    if (
        truth.shape[1] == 1
    ):  # resamples of sorted jets are as good, and sorted memory is read faster
        truth, generated, directions = (
            np.sort(truth, axis=0),
            np.sort(generated, axis=0),
            np.ones((1, 1)),
        )
    if scaled or truth.shape[1] == 2:
        low, high = np.quantile(truth, [0.25, 0.75], axis=0)
        if np.any(high <= low):
            raise ValueError(
                f"truth has the interquartile range 0, at {low}: use the unscaled distance of one feature"
            )
        truth, generated = truth / (high - low), generated / (high - low)
    lines = directions @ np.concatenate([truth, generated]).T
    order = np.argsort(lines, axis=1, kind="stable").astype(np.int32)
    return order, np.diff(np.take_along_axis(lines, order, axis=1), axis=1)


@_compiled.njit(nogil=True)
def _area(order, gaps, first, second):
    """Area between the distribution functions of the jets `first` and `second`, mean over the rows
    of `order`.
    """
    weights = np.zeros(order.shape[1], np.int64)  # integers: no rounding until the end
    for i in first:
        weights[i] += len(second)
    for i in second:
        weights[i] -= len(first)
    total = 0.0
    for k in range(len(order)):
        height = 0
        for i in range(gaps.shape[1]):
            height += weights[order[k, i]]
            total += abs(height) * gaps[k, i]
    return total / len(first) / len(second) / len(order)
