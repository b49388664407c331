"""How far simulated jets are from those that they imitate: a table of distances, and a classifier
of one against other.

``python -m jetnb.simulation.realism REAL OURS``, where REAL is a file of the published data set and
OURS a file, a store or the name of a shipped sample. Everything is computed from the constituents,
in the same way for both. Each distance stands beside its floor: what samples of these sizes, both
simulated, give.
"""

from __future__ import annotations

import argparse
import fnmatch
from typing import NamedTuple

import awkward as ak
import numpy as np

from jetnb import distances, jets, kinematics, metrics, substructure
from jetnb.data import catalogue

HIGH_LEVEL = (
    "pt",
    "mass",
    "softdrop_mass",
    "tau1",
    "tau21",
    "tau32",
    "d2",
    "n_constituents",
    "ptd",
    "girth",
)
BY_TRACKS = ("rpt", "corr_jvf")  # of jets whose constituents are not all stored
RANKS = (1, 3, 10, 20, 30)  # constituents by falling pt
CONES = (0.1, 0.2, 0.4)
N_FLOORS = 20


class Row(NamedTuple):
    """One feature of one class: medians, distance W1 in interquartile ranges of the real jets, and
    KS, each with the mean and the 95 % limit of its floor."""

    name: str
    feature: str
    real: float
    ours: float
    w1: float
    w1_floor: float
    w1_limit: float
    ks: float
    ks_floor: float
    ks_limit: float


class Separation(NamedTuple):
    """Area under the ROC curve of boosted trees on HIGH_LEVEL, or BY_TRACKS, real against ours,
    cross-validated; its statistical error; and mean and spread of the area between simulated jets,
    in samples of the same sizes."""

    name: str
    area: float
    error: float
    floor: float
    spread: float
    n_real: int
    n_ours: int


def features(sample: ak.Array) -> dict[str, np.ndarray]:
    """Numbers of each jet (N,) that can be compared: HIGH_LEVEL, the pt of some constituents [GeV],
    how pt is spread, and where they are there the share of charged constituents, impact parameters
    [mm] and PUPPI weights. Of jets with stored BY_TRACKS only these, pt [GeV] and the number of
    vertices."""
    if set(BY_TRACKS) <= set(sample.fields):
        return {name: np.asarray(sample[name], float) for name in ("pt", "n_vertices", *BY_TRACKS)}
    weight = "puppi_weight" if "puppi_weight" in sample.constituents.fields else None
    table = substructure.compute(sample, HIGH_LEVEL, weights=weight)
    c = sample.constituents
    if weight:
        c = c[c.puppi_weight > 0]
    w = c.pt * (c.puppi_weight if weight else 1)
    total, n = ak.sum(w, axis=1), ak.num(c)
    by_pt = ak.to_numpy(
        ak.fill_none(ak.pad_none(ak.sort(w, ascending=False), max(RANKS), clip=True), 0.0)
    )
    table |= {f"pt of constituent {rank}": by_pt[:, rank - 1] for rank in RANKS}
    away = np.hypot(c.eta - sample.eta, kinematics.wrap(c.phi - sample.phi))
    table |= {
        f"share of pt within {r}": ak.to_numpy(ak.sum(w[away < r], axis=1) / total) for r in CONES
    }
    table["constituents beyond 0.4"] = ak.to_numpy(ak.sum(away > CONES[-1], axis=1))
    table["constituents below 1 GeV"] = ak.to_numpy(ak.sum(c.pt < 1, axis=1))
    if "charge" in c.fields:
        charged = c.charge != 0
        table["charged share of number"] = ak.to_numpy(ak.sum(charged, axis=1) / n)
        table["charged share of pt"] = ak.to_numpy(ak.sum(w[charged], axis=1) / total)
    if "d0" in c.fields:
        tracks = c[c.has_track & (c.d0_error > 0)]
        some = ak.to_numpy(ak.num(tracks) > 4)
        for label, values in (
            ("|d0|", abs(tracks.d0)),
            ("d0 error", tracks.d0_error),
            ("|dz|", abs(tracks.dz)),
            ("dz error", tracks.dz_error),
            ("|d0|/error", abs(tracks.d0 / tracks.d0_error)),
        ):
            ranked = ak.sort(values[some])
            for q in (0.5, 0.9):
                at = ak.to_numpy(np.floor(q * ak.num(ranked))).astype(int)
                column = np.full(len(some), np.nan)
                column[some] = ak.to_numpy(ranked[np.arange(len(ranked)), at])
                table[f"{label}, {'median' if q == 0.5 else '90 %'}"] = column
    if weight:
        neutral = c.puppi_weight[c.charge == 0]
        table["mean PUPPI weight of neutrals"] = ak.to_numpy(
            ak.fill_none(ak.mean(neutral, axis=1), np.nan)
        )
    return table


def compare(
    real: dict, ours: dict, *, seed: int, name: str = "all"
) -> tuple[list[Row], Separation]:
    """Rows for the features that both tables (see `features`) have, and how well the two can be
    told apart.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for feature in real:
        if feature not in ours:
            continue
        a, b = (np.asarray(t[feature], float)[np.isfinite(t[feature])] for t in (real, ours))
        if len(a) < 10 or len(b) < 20 or np.subtract(*np.quantile(a, [0.75, 0.25])) <= 0:
            continue
        n = min(len(a), len(b) // 2)
        floors = []
        for _ in range(N_FLOORS):
            shuffled = rng.permutation(b)
            if np.subtract(*np.quantile(shuffled[:n], [0.75, 0.25])) > 0:
                floors.append(
                    (
                        distances.w1(shuffled[:n], shuffled[n:], scaled=True),
                        _ks(shuffled[:n], shuffled[n:]),
                    )
                )
        if not floors:
            continue
        mean, limit = np.mean(floors, axis=0), np.quantile(floors, 0.95, axis=0)
        rows.append(
            Row(
                name,
                feature,
                float(np.median(a)),
                float(np.median(b)),
                distances.w1(a, b, scaled=True),
                mean[0],
                limit[0],
                _ks(a, b),
                mean[1],
                limit[1],
            )
        )
    known = BY_TRACKS if BY_TRACKS[0] in real else HIGH_LEVEL
    x, y = (np.column_stack([t[f] for f in known]) for t in (real, ours))
    area, error = separate(x, y, seed=seed)
    n = min(len(x), len(y) // 2)
    floors = [
        separate(s[:n], s[n:], seed=seed + i)[0] for i in range(4) if len(s := rng.permutation(y))
    ]
    return rows, Separation(
        name, area, error, float(np.mean(floors)), float(np.std(floors)), len(x), len(y)
    )


def _ks(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import ks_2samp

    return float(ks_2samp(a, b, method="asymp").statistic)


def separate(x: np.ndarray, y: np.ndarray, *, seed: int) -> tuple[float, float]:
    """Area and its error for boosted trees that tell the rows of x from those of y, in five folds,
    both weighted alike.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    inputs, label = (
        np.concatenate([x, y]),
        np.concatenate([np.ones(len(x), int), np.zeros(len(y), int)]),
    )
    weight = np.where(label == 1, 1 / len(x), 1 / len(y)) * len(x)
    score = np.zeros(len(label))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(inputs, label):
        trees = HistGradientBoostingClassifier(
            max_iter=80,
            learning_rate=0.06,
            max_leaf_nodes=8,
            min_samples_leaf=15,
            l2_regularization=1.0,
            random_state=seed,
        )
        trees.fit(inputs[train], label[train], sample_weight=weight[train])
        score[test] = trees.predict_proba(inputs[test])[:, 1]
    found = metrics.auc(label, score)
    return float(found.value), float((found.high - found.low) / 2)


def select(
    sample: ak.Array, name: str, *, pt_range=(0.0, np.inf), eta_max: float = np.inf
) -> ak.Array:
    """Jets of a class (a pattern such as ``H*``; ``*`` for all, also unlabelled) within ranges of
    pt [GeV] and |eta|.
    """
    chosen = (sample.pt >= pt_range[0]) & (sample.pt < pt_range[1]) & (abs(sample.eta) < eta_max)
    if name != "*":
        classes = [
            i for i, c in enumerate(jets.provenance(sample)["classes"]) if fnmatch.fnmatch(c, name)
        ]
        if not classes:
            raise ValueError(
                f"no class is called {name!r}: there are {', '.join(jets.provenance(sample)['classes'])}"
            )
        chosen = chosen & np.isin(ak.to_numpy(sample.label), classes)
    return sample[chosen]


def show(rows: list[Row], separations: list[Separation]) -> str:
    """Markdown tables. A distance above the 95 % limit of its floor has a star."""
    lines = [
        "| class | feature | real | ours | W1 (floor, 95 %) | KS (floor, 95 %) |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        star = [
            "*" if value > limit else ""
            for value, limit in ((r.w1, r.w1_limit), (r.ks, r.ks_limit))
        ]
        lines.append(
            f"| {r.name} | {r.feature} | {r.real:.3g} | {r.ours:.3g} "
            f"| {r.w1:.3f}{star[0]} ({r.w1_floor:.3f}, {r.w1_limit:.3f}) "
            f"| {r.ks:.3f}{star[1]} ({r.ks_floor:.3f}, {r.ks_limit:.3f}) |"
        )
    lines += ["", "| class | area, real against ours | floor | jets |", "|---|---|---|---|"]
    lines += [
        f"| {s.name} | {s.area:.3f} +- {s.error:.3f} | {s.floor:.3f} +- {s.spread:.3f} "
        f"| {s.n_real:,} and {s.n_ours:,} |"
        for s in separations
    ]
    return "\n".join(lines)


def main(argv=None) -> int:
    """Print the tables of a real file against a sample."""
    parser = argparse.ArgumentParser(
        prog="python -m jetnb.simulation.realism", description=__doc__.splitlines()[0]
    )
    parser.add_argument("real", metavar="REAL")
    parser.add_argument("ours", metavar="OURS")
    parser.add_argument(
        "--pair",
        nargs=2,
        action="append",
        metavar=("REAL_CLASS", "OUR_CLASS"),
        help="compare these classes, patterns such as 'H*'; without, all jets together",
    )
    parser.add_argument("--pt", nargs=2, type=float, default=(0.0, np.inf), metavar=("LOW", "HIGH"))
    parser.add_argument("--eta-max", type=float, default=np.inf, metavar="ETA")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    real, ours = catalogue.load(args.real), catalogue.load(args.ours)
    rows, separations = [], []
    for theirs, own in args.pair or [("*", "*")]:
        tables = [
            features(select(s, n, pt_range=tuple(args.pt), eta_max=args.eta_max))
            for s, n in ((real, theirs), (ours, own))
        ]
        more, separation = compare(*tables, seed=args.seed, name=theirs if theirs != "*" else "all")
        rows, separations = rows + more, [*separations, separation]
    print(show(rows, separations))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
