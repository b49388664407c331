"""The ``pileup`` sample: R = 0.4 jets as ATLAS sees them before pile-up rejection, their tracks,
and JVT (arXiv:1510.03823).

Hard scatters are dijets, generated with a spectrum flattened by pt_hat^3 so that hard ones are not
rare. Pile-up collisions come from the minimum-bias pool if their own hardest scatter is soft; the
hard ones, which make pile-up jets, are generated afresh for every crossing, so that no such jet is
ever used twice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jetnb import clustering, kinematics, packed
from jetnb.simulation import pileup
from jetnb.simulation.detector import MASS, reconstruct
from jetnb.simulation.processes import generate
from jetnb.simulation.response import ATLAS, Detector

HARD_PILEUP = 10.0  # GeV: collisions with a harder scatter are generated afresh
HARD_SHARE = (
    0.100  # of all inelastic collisions at 13 TeV, by Pythia's own cross sections: 7.8 of 78 mb
)
CORR_JVF_K = 0.01  # correction of the pile-up sum per pile-up track, arXiv:1510.03823
NEIGHBOURS = 100


class PileupRecipe(NamedTuple):
    """Settings of the sample. pt in GeV, sigma_z in mm; pileup is the mean and the spread of
    collisions per crossing.
    """

    name: str = "pileup"
    description: str = (
        "anti-kT 0.4 jets at 13 TeV with tracks, from the hard scatter and from pile-up"
    )
    imitates: str = "jets and tracks as in ATLAS jet-vertex tagging, arXiv:1510.03823"
    classes: tuple[str, ...] = ("pile_up", "hard_scatter")
    process: str = "multijet"
    settings: tuple[str, ...] = (
        "PhaseSpace:pTHatMin=10",
        "PhaseSpace:bias2Selection=on",
        "PhaseSpace:bias2SelectionPow=3",
        "PhaseSpace:bias2SelectionRef=20",
    )
    pt_range: tuple[float, float] = (15.0, np.inf)
    eta_max: float = 2.0
    detector: Detector = ATLAS
    max_constituents: int = 60
    track_pt_min: float = 0.5
    energy: float = 13000.0
    radius: float = 0.4
    pileup: tuple[float, float] = (33.0, 8.0)
    sigma_z: float = 38.0
    jets_per_event: float = 1.5


def make_chunk(
    recipe: PileupRecipe,
    pythia,
    hard_pythia,
    *,
    n_events: int,
    rng: np.random.Generator,
    pool: pileup.Pool,
) -> tuple[dict, dict, np.ndarray]:
    """Jets of n_events crossings: columns (N,), constituents (T,) which are tracks, counts (N,).

    pythia makes the hard scatters, hard_pythia (without underlying event) the hard pile-up
    collisions.
    """
    events = generate(pythia, n_events)
    hard = events.particles
    generated = clustering.cluster(
        hard["event"], hard, n_events=n_events, radius=recipe.radius, pt_min=4.0
    ).jets
    particles, vertices = _crossings(hard, recipe, hard_pythia, n_events, rng, pool)
    z = vertices.z[vertices.start[particles["event"]] + particles["vertex"]]
    c = reconstruct(particles, z, vertices.z[vertices.start], detector=recipe.detector, rng=rng)
    jets = _calibrated_jets(c, recipe, n_events)
    columns = {k: jets[k] for k in ("pt", "eta", "phi", "mass", "event")}
    columns["label"] = _truth_label(jets, generated)
    columns["n_vertices"] = np.add.reduceat(vertices.found, vertices.start)[jets["event"]]

    tracks = {k: v[(c["charge"] != 0) & (c["pt"] > recipe.track_pt_min)] for k, v in c.items()}
    primary = pileup.from_hard_vertex(tracks["event"], tracks["z0"], vertices)
    momentum = {"event": tracks["event"], **clustering.four_momentum(tracks)}
    jet, row, _ = clustering.pairs(jets, momentum, radius=recipe.radius)
    columns |= _jvf(jets, jet, row, tracks, primary)

    order = np.lexsort((-tracks["pt"][row], jet))
    jet, row = jet[order], row[order]
    counts = np.bincount(jet, minlength=len(jets["pt"]))
    rank = packed.ranks(counts)
    row = row[rank < recipe.max_constituents]
    columns["n_constituents"] = counts = np.minimum(counts, recipe.max_constituents)
    t = {k: v[row] for k, v in tracks.items()}
    constituents = {
        k: t[k] for k in ("pt", "eta", "phi", "charge", "d0", "d0_error", "dz_error", "z0")
    }
    constituents |= {
        "energy": kinematics.energy(t["pt"], t["eta"], MASS[211]),
        "has_track": np.ones(len(row), bool),
        "dz": t["z0"] - vertices.z[vertices.start[t["event"]]],
        "from_hard_scatter": t["truth_hard"] > 0.5,
    }
    return columns, constituents, counts


def _crossings(hard, recipe, hard_pythia, n_events, rng, pool):
    """Hard scatter plus pile-up: soft collisions from the pool, hard ones fresh, each on top of a
    soft one.
    """
    mean, spread = recipe.pileup
    mu = rng.gamma((mean / spread) ** 2, spread**2 / mean, n_events)
    n_pileup = rng.poisson(mu)
    soft = pileup.draw(pool, n_pileup, rng=rng, eta_max=recipe.eta_max + 1.2, below=HARD_PILEUP)
    n_fresh = rng.binomial(n_pileup, HARD_SHARE)
    fresh = generate(hard_pythia, max(int(n_fresh.sum()), 1)).particles
    target = packed.jet_of(n_fresh)
    vertex = packed.ranks(n_fresh) + 1
    inside = fresh["event"] < len(target)
    fresh = {k: v[inside] for k, v in fresh.items()}
    fresh["event"], fresh["vertex"] = target[fresh["event"]], vertex[fresh["event"]]
    merged = {k: np.concatenate([hard[k], soft[k], fresh[k]]) for k in hard}
    return merged, pileup.place_vertices(n_pileup, sigma_z=recipe.sigma_z, rng=rng)


def _calibrated_jets(c: dict, recipe: PileupRecipe, n_events: int) -> dict:
    """Jets of all candidates, less the median pile-up density times their area (arXiv:0707.1378)."""
    found = clustering.cluster(
        c["event"],
        clustering.four_momentum(c),
        n_events=n_events,
        radius=recipe.radius,
        pt_min=recipe.pt_range[0],
    ).jets
    inner, n_eta, n_phi = 2.4, 6, 8
    at_eta = np.floor((c["eta"] + inner) / (2 * inner) * n_eta).astype(int)
    at_phi = np.floor((c["phi"] + np.pi) / (2 * np.pi) * n_phi).astype(int) % n_phi
    central = (at_eta >= 0) & (at_eta < n_eta)
    patch = ((c["event"] * n_eta + at_eta) * n_phi + at_phi)[central]
    density = np.bincount(patch, c["pt"][central], n_events * n_eta * n_phi).reshape(n_events, -1)
    rho = np.median(density, axis=1) / (2 * inner / n_eta * 2 * np.pi / n_phi)
    scale = 1 - rho[found["event"]] * np.pi * recipe.radius**2 / found["pt"]
    found["pt"], found["mass"] = found["pt"] * scale, found["mass"] * scale
    chosen = (found["pt"] > recipe.pt_range[0]) & (np.abs(found["eta"]) < recipe.eta_max)
    return {k: v[chosen] for k, v in found.items()}


def _truth_label(jets: dict, generated: dict) -> np.ndarray:
    """1: a particle-level hard-scatter jet above 10 GeV within 0.3; 0: none above 4 GeV within 0.6;
    else -1.
    """
    n = len(jets["pt"])
    i, j, distance = clustering.pairs(jets, generated, radius=0.6)
    near = np.bincount(i, minlength=n) > 0
    matched = np.bincount(i[(distance < 0.3) & (generated["pt"][j] > 10.0)], minlength=n) > 0
    return np.where(matched, 1, np.where(near, -1, 0))


def _jvf(jets: dict, jet: np.ndarray, row: np.ndarray, tracks: dict, primary: np.ndarray) -> dict:
    """corrJVF (-1 without tracks) and RpT, as defined in arXiv:1510.03823."""
    n = len(jets["pt"])
    pt, hard = tracks["pt"][row], primary[row]
    hard_sum, pileup_sum = np.bincount(jet, pt * hard, n), np.bincount(jet, pt * ~hard, n)
    n_pileup_tracks = np.bincount(
        tracks["event"], ~primary, minlength=jets["event"].max(initial=0) + 1
    )
    corrected = pileup_sum / (CORR_JVF_K * np.maximum(n_pileup_tracks[jets["event"]], 1))
    total = hard_sum + corrected
    return {
        "corr_jvf": np.where(total > 0, hard_sum / np.where(total > 0, total, 1), -1.0),
        "rpt": hard_sum / jets["pt"],
    }


def fit_jvt(columns: dict):
    """The function (corr_jvf, rpt, event) -> JVT in [0, 1], -0.1 without tracks.

    JVT is the share of hard-scatter jets, both classes weighted equally, among the nearest
    neighbours in the plane of corrJVF and RpT. Jets of odd events are judged by those of even
    events and vice versa, so none sees itself.
    """
    from sklearn.neighbors import KNeighborsClassifier

    models, weights = [], []
    for side in (0, 1):
        use = (columns["event"] % 2 != side) & (columns["label"] >= 0) & (columns["corr_jvf"] >= 0)
        label = columns["label"][use]
        if len(np.unique(label)) < 2 or len(label) < NEIGHBOURS:
            raise ValueError(
                f"pileup: JVT needs at least {NEIGHBOURS} labelled jets with tracks of both classes in "
                f"even and in odd events, found {len(label)}: ask for more jets"
            )
        plane = np.stack([columns["corr_jvf"][use], columns["rpt"][use]], axis=1)
        models.append(KNeighborsClassifier(NEIGHBOURS).fit(plane, label))
        weights.append(1 / np.bincount(label))

    def jvt(corr_jvf: np.ndarray, rpt: np.ndarray, event: np.ndarray) -> np.ndarray:
        result = np.full(len(corr_jvf), -0.1)
        for side in (0, 1):
            i = np.flatnonzero((event % 2 == side) & (corr_jvf >= 0))
            if len(i):
                share = (
                    models[side].predict_proba(np.stack([corr_jvf[i], rpt[i]], axis=1))
                    * weights[side]
                )
                result[i] = share[:, 1] / share.sum(axis=1)
        return result

    return jvt
