"""Pile-up: a pool of minimum-bias collisions laid over hard events, vertices along the beam, and
PUPPI (arXiv:1407.6013).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jetnb import _compiled, atomic, packed
from jetnb.kinematics import wrap
from jetnb.simulation.processes import generate, make_generator

POOL_EVENTS, POOL_SEED = 6000, 20161
VERTEX_EFFICIENCY = 0.7  # found collisions per collision in CMS, arXiv:1405.6569
CONE = 0.4  # arXiv:2003.00503
# Up to which |eta|; thresholds on weight * pt [GeV] = A + B * n_vertices; factors on median and RMS
# of alpha. Table 1 of arXiv:2003.00503, but with lower thresholds beyond 2.5 (there 2.0 + 0.13 n),
# chosen to resemble later CMS processings.
REGIONS = ((2.5, 0.2, 0.015, 1.0, 1.0), (3.0, 1.7, 0.08, 0.9, 1.2), (10.0, 2.0, 0.08, 0.75, 0.95))
# GeV, in the processing of 2016 data for the legacy (tune 15, CMS DP-2021-001): charged candidates
# above SURE count as from the hard scatter, and the weight of neutral ones is at least (pt - SURE)
# / (SAFE - SURE).
SURE, SAFE = 20.0, 200.0

_POOL_FIELDS = ("px", "py", "pz", "energy", "pdg_id", "charge", "x", "y", "z")


class Pool(NamedTuple):
    """Minimum-bias events: particles as in processes.Events, offsets (n_events + 1), and the
    hardest scatter [GeV].
    """

    particles: dict[str, np.ndarray]
    offsets: np.ndarray
    pt_hat: np.ndarray


def pool_path(folder: str | Path, *, n_events: int = POOL_EVENTS, energy: float = 13000.0) -> Path:
    """Where make_pool keeps a pool of that size and energy [GeV]."""
    return Path(folder) / f"minimum_bias_{energy:.0f}_{n_events}_{POOL_SEED}.npz"


def make_pool(folder: str | Path, *, n_events: int = POOL_EVENTS, energy: float = 13000.0) -> Path:
    """File of a pool, made once (about 20 s) and kept in the folder."""
    path = pool_path(folder, n_events=n_events, energy=energy)
    if path.exists():
        return path
    pythia = make_generator("minimum_bias", seed=POOL_SEED, energy=energy)
    parts = [
        generate(pythia, min(500, n_events - done), eta_max=4.5) for done in range(0, n_events, 500)
    ]
    counts = np.concatenate(
        [np.bincount(p.particles["event"], minlength=p.n_events) for p in parts]
    )
    columns = {k: np.concatenate([p.particles[k] for p in parts]) for k in _POOL_FIELDS}
    columns = {k: v.astype(np.float32) if v.dtype == float else v for k, v in columns.items()}
    with atomic.new_file(path, replace=True) as hidden, hidden.open("wb") as stream:
        np.savez(
            stream,
            offsets=packed.starts(counts),
            pt_hat=np.concatenate([p.pt_hat for p in parts]),
            **columns,
        )
    return path


def load_pool(path: str | Path) -> Pool:
    """The pool in a file made by make_pool."""
    with np.load(path) as f:
        return Pool({k: f[k] for k in _POOL_FIELDS}, f["offsets"], f["pt_hat"])


def draw(
    pool: Pool,
    counts: np.ndarray,
    *,
    rng: np.random.Generator,
    eta_max: float,
    below: float = np.inf,
) -> dict:
    """Particles of counts[i] pool events for each event i, each event turned by a random angle and
    perhaps mirrored.

    below [GeV]: only pool events whose hardest scatter is softer. ``vertex`` counts from 1 within
    each event.
    """
    allowed = np.flatnonzero(pool.pt_hat < below)
    chosen = allowed[rng.integers(0, len(allowed), counts.sum())]
    angle, mirror = rng.uniform(0, 2 * np.pi, len(chosen)), rng.choice([-1.0, 1.0], len(chosen))
    sizes = np.diff(pool.offsets)[chosen]
    i, source = packed.rows(pool.offsets[chosen], sizes), packed.jet_of(sizes)
    p = pool.particles
    inside = np.abs(p["pz"][i]) < np.hypot(p["px"][i], p["py"][i]) * np.sinh(eta_max)
    i, source = i[inside], source[inside]
    cos, sin = np.cos(angle)[source], np.sin(angle)[source]
    (px, py), (x, y) = (
        (cos * p[a][i] - sin * p[b][i], sin * p[a][i] + cos * p[b][i])
        for a, b in (("px", "py"), ("x", "y"))
    )
    number = packed.ranks(counts) + 1
    return {
        "event": packed.jet_of(counts)[source],
        "px": px,
        "py": py,
        "pz": p["pz"][i] * mirror[source],
        "energy": p["energy"][i].astype(float),
        "pdg_id": p["pdg_id"][i],
        "charge": p["charge"][i],
        "x": x,
        "y": y,
        "z": p["z"][i] * mirror[source],
        "vertex": number[source],
    }


class Vertices(NamedTuple):
    """Collision points: z [mm] of vertex v of event e is z[start[e] + v]; v = 0 is the hard
    scatter.
    """

    z: np.ndarray
    start: np.ndarray
    found: np.ndarray  # reconstructed or not; the hard scatter always is


def place_vertices(n_pileup: np.ndarray, *, sigma_z: float, rng: np.random.Generator) -> Vertices:
    """A Gaussian beam spot [mm] with 1 + n_pileup[i] vertices in event i."""
    total = n_pileup + 1
    start = packed.starts(total)[:-1]
    found = rng.random(total.sum()) < VERTEX_EFFICIENCY
    found[start] = True
    return Vertices(rng.normal(0, sigma_z, total.sum()), start, found)


def from_hard_vertex(
    event: np.ndarray, z0: np.ndarray, vertices: Vertices, *, window: float = 3.0
) -> np.ndarray:
    """Is the hard-scatter vertex the nearest found one to each track, and within the window [mm]?"""
    of_event = packed.jet_of(np.diff([*vertices.start, len(vertices.z)]))
    scale = 1e5
    order = np.argsort(of_event * scale + vertices.z)
    order = order[vertices.found[order]]
    key = (of_event * scale + vertices.z)[order]
    at = np.searchsorted(key, event * scale + z0)
    left, right = np.clip(at - 1, 0, len(key) - 1), np.clip(at, 0, len(key) - 1)
    here = event * scale + z0
    nearest = np.where(np.abs(here - key[left]) < np.abs(key[right] - here), left, right)
    return (order[nearest] == vertices.start[event]) & (np.abs(here - key[nearest]) < window)


@_compiled.njit()
def _alpha(offsets, eta, phi, wanted, source, pt, cone):
    """log of the sum of (pt / delta R)^2 over source candidates in the cone around each wanted one;
    -inf if none.
    """
    result = np.full(len(eta), -np.inf)
    for e in range(len(offsets) - 1):
        for i in range(offsets[e], offsets[e + 1]):
            if not wanted[i]:
                continue
            total = 0.0
            for j in range(offsets[e], offsets[e + 1]):
                if not source[j] or j == i or abs(eta[i] - eta[j]) > cone:
                    continue
                dphi = abs(phi[i] - phi[j])
                if dphi > np.pi:
                    dphi = 2 * np.pi - dphi
                r2 = (eta[i] - eta[j]) ** 2 + dphi**2
                if r2 < cone * cone:
                    total += pt[j] ** 2 / max(r2, 1e-4)
            if total > 0:
                result[i] = np.log(total)
    return result


def puppi(c: dict, *, hard: np.ndarray, n_vertices: np.ndarray, near: np.ndarray) -> np.ndarray:
    """PUPPI weight of each candidate, in [0, 1].

    c : candidates sorted by event (event, pt, eta, phi, charge); hard : charged and from the
    hard-scatter vertex; n_vertices : (n_events,) found; near : candidates whose weight matters
    (others get 0), to save time. Charged candidates get 1 or 0. Neutral ones are compared with the
    charged pile-up of their own event.

    """
    from scipy.special import erf

    n_events = len(n_vertices)
    offsets = np.searchsorted(c["event"], np.arange(n_events + 1))
    charged = c["charge"] != 0
    pileup = charged & ~hard
    near_eta = np.abs(c["eta"])
    central = near_eta < REGIONS[0][0]
    everything = np.ones(len(hard), bool)
    weight = np.where(hard, 1.0, 0.0)
    neutral = ~charged & near
    # central neutrals look at charged particles of the hard scatter, forward ones at all candidates
    for wanted, source, regions in (
        (neutral & central, hard, REGIONS[:1]),
        (neutral & ~central, everything, REGIONS[1:]),
    ):
        args = (c["eta"], c["phi"], wanted | (pileup & central), source, c["pt"], CONE)
        alpha = _alpha(offsets, *args)
        median, spread = _pileup_shape(
            alpha, pileup & central & np.isfinite(alpha), c["event"], n_events
        )
        low = 0.0 if source is hard else REGIONS[0][0]
        for high, base, slope, median_factor, spread_factor in regions:
            i = np.flatnonzero(wanted & (near_eta >= low) & (near_eta < high) & np.isfinite(alpha))
            low, event = high, c["event"][i]
            distance = (alpha[i] - median_factor * median[event]) / (spread_factor * spread[event])
            w = erf(np.maximum(distance, 0) / np.sqrt(2))
            w = np.maximum(w, np.clip((c["pt"][i] - SURE) / (SAFE - SURE), 0, 1))
            weight[i] = np.where(
                (w < 0.01) | (w * c["pt"][i] < base + slope * n_vertices[event]), 0, w
            )
    return weight


def _pileup_shape(alpha, chosen, event, n_events):
    """Median of alpha of charged pile-up in each event and its RMS below the median."""
    i = np.flatnonzero(chosen)
    order = i[np.lexsort((alpha[i], event[i]))]
    counts = np.bincount(event[order], minlength=n_events)
    start = packed.starts(counts)[:-1]
    safe = np.minimum(start + counts // 2, max(len(order) - 1, 0))
    median = np.where(counts > 4, alpha[order][safe] if len(order) else 0.0, 0.0)
    below = np.minimum(alpha[order] - median[event[order]], 0)
    low = np.bincount(event[order], below < 0, minlength=n_events)
    rms = np.sqrt(np.bincount(event[order], below**2, minlength=n_events) / np.maximum(low, 1))
    return median, np.where(counts > 4, np.maximum(rms, 0.1), 1.0)


def near_jets(
    event: np.ndarray, eta: np.ndarray, phi: np.ndarray, jets: dict, *, radius: float
) -> np.ndarray:
    """True for candidates within radius of any of the up to six leading jets of their event (jets
    sorted by pt).
    """
    first = np.searchsorted(jets["event"], event, "left")
    last = np.searchsorted(jets["event"], event, "right")
    result = np.zeros(len(event), bool)
    for k in range(6):
        i = np.minimum(first + k, max(len(jets["event"]) - 1, 0))
        distance = np.hypot(eta - jets["eta"][i], wrap(phi - jets["phi"][i]))
        result |= (first + k < last) & (distance < radius)
    return result
