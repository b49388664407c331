"""Delphes 3 (arXiv:1307.6346) as the public data sets were made with it: its steps in its order,
for their two cards.

An imitation follows the card of its data set, also where real detectors are better. Facts are taken
from:

- ATLAS_2016: delphes_card_ATLAS.tcl and Calorimeter.cc of the releases 3.3.0 to 3.3.3. That the Top
Tagging reference
  was made with that generation, and not with the one of 2017, shows in the jets: photons and neutral hadrons share
  directions to the last digit, as there one module makes both; and of 1 075 such pairs in 500 jets no two lie in one
  tower of 0.1 x 10 degrees, while in towers of 0.11 x 11 degrees 31 do.
- CMS_JETCLASS: the card that the authors of JetClass published (arXiv:2202.03772), run with Delphes
3.5. It smears
  momenta, but its TrackSmearing, whose formula for the momentum is 0, puts the true momentum and an error of 0 in place
  of that. Without error tracks have no weight against the calorimeter: where it sees no significant excess they take
  its energy, and below its threshold they vanish. Hence tracks below 1 GeV are rare in JetClass.

Left out: time, isolation, and tracks whose share of a tower is negative, which Delphes turns round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jetnb.kinematics import wrap
from jetnb.simulation.detector import IMPACT, impact_parameters, polar

STEPS = np.array([0.5, 1.5])  # |eta| where the momentum resolution of tracks changes
EVENT = 10_000_000  # more than the number of cells


class Towers(NamedTuple):
    """Cells of a calorimeter: edges in eta (n + 1,), and the number of cells in azimuth of each
    ring (n,).
    """

    edges: np.ndarray
    n_phi: np.ndarray


class Calorimeter(NamedTuple):
    """One of the two. resolution: (energy, eta) -> GeV; an energy counts if above minimum and
    significance.
    """

    towers: Towers
    resolution: Callable
    minimum: float  # GeV
    significance: float  # in units of the resolution
    pdg_id: int  # of what it measures without tracks


class Card(NamedTuple):
    """A detector card. Lengths in m, field in tesla.

    replace  : tracks measured worse than by the calorimeter take its energy, as in 3.3; else tracks
    without a
               significant excess are scaled to the best estimate from both, as since 3.4
    momentum : |pdg id| -> constant and slope of the relative pt resolution in three regions of
    |eta|; 0: hadrons;
               None: tracks have their true momentum, and no error
    d0, dz   : (pt, eta) -> mm, or None
    """

    name: str
    field: float
    radius: float
    half_length: float
    replace: bool
    massless_tracks: bool
    momentum: dict | None
    electromagnetic: Calorimeter
    hadronic: Calorimeter
    d0: Callable | None = None
    dz: Callable | None = None


def reconstruct(
    particles: dict,
    vertex_z: np.ndarray,
    hard_z: np.ndarray,
    *,
    detector: Card,
    rng: np.random.Generator,
) -> dict:
    """Energy-flow candidates of all events: what ``detector.reconstruct`` does, by the rules of a
    card.

    Neutral candidates are massless; electrons and muons that have a track are known as such.
    """
    pt, eta, phi = polar(particles)
    code, charge = np.abs(particles["pdg_id"]), particles["charge"]
    at_eta, at_phi, inside = _propagate(particles, pt, eta, phi, vertex_z, detector)
    is_track = (charge != 0) & inside & (rng.random(len(pt)) < _efficiency(pt, at_eta, code))
    relative = _momentum_resolution(detector.momentum, pt, at_eta, code)
    measured = np.where(charge != 0, _lognormal(pt, relative * pt, rng), 0.0)
    mass = np.sqrt(np.maximum(particles["energy"] ** 2 - (pt * np.cosh(eta)) ** 2, 0)) * (
        not detector.massless_tracks
    )
    track_energy = np.hypot(measured * np.cosh(eta), mass)

    # K0s and Lambda, where the generator leaves them, give 3 tenths to the electromagnetic
    # calorimeter.
    light = np.select([np.isin(code, (11, 22)), np.isin(code, (310, 3122))], [1.0, 0.3], 0.0)
    heavy = np.where(code == 13, 0.0, 1 - light)
    hits = {
        "event": particles["event"],
        "eta": at_eta,
        "phi": at_phi,
        "energy": particles["energy"],
        "track": np.where(is_track, track_energy, 0.0),
        "relative": relative,
        "hard": (particles["vertex"] == 0).astype(float),
    }
    scale, found, seen = np.ones(len(pt)), [], None
    for share, calorimeter in ((light, detector.electromagnetic), (heavy, detector.hadronic)):
        i = np.flatnonzero((share > 0) & inside)
        part = {k: v[i] for k, v in hits.items()} | {"share": share[i]}
        neutral, part_scale, seen = _energy_flow(part, calorimeter, detector.replace, seen, rng)
        found.append(neutral)
        scale[i] *= part_scale
    found.append(
        _tracks(
            particles,
            np.flatnonzero(is_track & (measured * scale > 1e-3)),
            measured * scale,
            mass,
            pt,
            eta,
            phi,
            vertex_z,
            detector,
            rng,
        )
    )
    table = {k: np.concatenate([f[k] for f in found]) for k in found[-1]}
    order = np.argsort(table["event"], kind="stable")
    return {k: v[order] for k, v in table.items()}


def _lognormal(mean, sigma, rng):
    """Random numbers of that mean and sigma, 0 for a mean of 0."""
    some = np.where(mean > 0, mean, 1.0)
    width = np.sqrt(np.log1p((sigma / some) ** 2))
    return np.where(
        mean > 0, some * np.exp(width * rng.normal(size=len(some)) - 0.5 * width**2), 0.0
    )


def _efficiency(pt, eta, code):
    """Of tracks, alike in both cards."""
    central, hard = np.abs(eta) <= 1.5, pt > 1.0
    hadron = np.where(central, np.where(hard, 0.95, 0.70), np.where(hard, 0.85, 0.60))
    electron = np.where(
        central,
        np.select([pt > 100, hard], [0.99, 0.95], 0.73),
        np.select([pt > 100, hard], [0.90, 0.83], 0.50),
    )
    muon = np.where(central, np.where(hard, 0.99, 0.75), np.where(hard, 0.98, 0.70))
    return (
        np.select([code == 11, code == 13], [electron, muon], hadron)
        * (pt > 0.1)
        * (np.abs(eta) <= 2.5)
    )


def _momentum_resolution(table, pt, eta, code):
    if table is None:
        return np.zeros(len(pt))
    region = np.searchsorted(STEPS, np.abs(eta))
    by_kind = [
        np.hypot(constant[region], slope[region] * pt)
        for constant, slope in (table[11], table[13], table[0])
    ]
    return np.minimum(np.select([code == 11, code == 13], by_kind[:2], by_kind[2]), 1.0)


def _propagate(p, pt, eta, phi, vertex_z, card):
    """Direction from the origin of the point where each particle leaves the cylinder, and if it was
    born inside.
    """
    x, y, z = 1e-3 * p["x"], 1e-3 * p["y"], 1e-3 * (vertex_z + p["z"])
    charged = p["charge"] != 0
    inside = (np.hypot(x, y) < card.radius) & (np.abs(z) < card.half_length)
    sinh = np.sinh(eta)
    slope = np.where(np.abs(sinh) < 1e-9, 1e-9, sinh)
    to_plane = (card.half_length * np.sign(slope) - z) / slope
    along, square = x * np.cos(phi) + y * np.sin(phi), x**2 + y**2
    straight = -along + np.sqrt(np.maximum(along**2 - square + card.radius**2, 0))
    # A charged particle runs round a centre; phi falls for positive charge.
    curl = pt / (0.3 * card.field)
    sense = np.where(charged, -np.sign(p["charge"]), 1)
    centre_x, centre_y = x - curl * np.sin(phi) * sense, y + curl * np.cos(phi) * sense
    distance, start = np.hypot(centre_x, centre_y), np.arctan2(y - centre_y, x - centre_x)
    cosine = (card.radius**2 - distance**2 - curl**2) / np.maximum(2 * distance * curl, 1e-12)
    opening, towards = np.arccos(np.clip(cosine, -1, 1)), np.arctan2(centre_y, centre_x)
    turns = [(sense * (towards + side * opening - start)) % (2 * np.pi) for side in (1, -1)]
    bent = np.where(np.abs(cosine) < 1, np.minimum(*turns) * curl, np.inf)
    path = np.minimum(np.where(charged, bent, straight), to_plane)
    angle = start + sense * path / curl
    out_x = np.where(charged, centre_x + curl * np.cos(angle), x + path * np.cos(phi))
    out_y = np.where(charged, centre_y + curl * np.sin(angle), y + path * np.sin(phi))
    return (
        np.arcsinh((z + path * sinh) / np.maximum(np.hypot(out_x, out_y), 1e-6)),
        np.arctan2(out_y, out_x),
        inside,
    )


def _energy_flow(part, calorimeter, replace, seen, rng):
    """Neutral candidates of one calorimeter, the factor for the momentum of each particle's track,
    and where the towers were seen: their keys and directions, since both calorimeters see a tower
    that they share in one place."""
    towers, resolution = calorimeter.towers, calorimeter.resolution
    ring = np.searchsorted(towers.edges, part["eta"]) - 1
    covered = (ring >= 0) & (ring < len(towers.n_phi))
    ring = np.clip(ring, 0, len(towers.n_phi) - 1)
    width = 2 * np.pi / towers.n_phi[ring]
    column = np.floor((part["phi"] + np.pi) / width).astype(np.int64)
    cell = np.where(covered, part["event"] * EVENT + ring * 1000 + column, -1)
    keys, first, inverse = np.unique(cell, return_index=True, return_inverse=True)

    def total(values):
        return np.bincount(inverse, values, len(keys)).astype(
            float
        )  # of nothing it would be of integers

    low, high = towers.edges[ring[first]], towers.edges[ring[first] + 1]
    middle, share = 0.5 * (low + high), part["share"]
    true, track = total(part["energy"] * share), part["track"] * share
    energy = _lognormal(true, resolution(true, middle), rng)
    sigma = resolution(energy, middle)
    energy *= (energy >= calorimeter.minimum) & (energy >= calorimeter.significance * sigma)
    where = np.stack(
        [rng.uniform(low, high), (column[first] + rng.random(len(keys))) * width[first] - np.pi]
    )
    if seen is not None and len(seen[0]):
        at = np.minimum(np.searchsorted(seen[0], keys), len(seen[0]) - 1)
        where = np.where(seen[0][at] == keys, seen[1][:, at], where)

    if replace:
        worse = (track > 0) & (resolution(track, middle[inverse]) < part["relative"] * track)
        left, weak = energy - total(np.where(worse, 0, track)), total(np.where(worse, track, 0))
        factor = np.where(
            worse, np.divide(left, weak, out=np.ones_like(left), where=weak > 0)[inverse], 1.0
        )
        neutral = np.where(weak > 0, 0.0, np.maximum(left, 0))
        sigma = resolution(neutral, middle)
    else:
        tracks, spread = total(track), total((part["relative"] * track) ** 2)
        neutral = np.maximum(energy - tracks, 0)
        calorimetric = np.divide(1, sigma**2, out=np.zeros_like(sigma), where=sigma > 0)
        tracked = np.divide(1, spread, out=np.zeros_like(sigma), where=spread > 0)
        best = np.divide(
            tracked * tracks + calorimetric * energy,
            tracked + calorimetric,
            out=np.copy(tracks),
            where=tracked + calorimetric > 0,
        )  # tracks without an error have no weight
        sigma = np.sqrt(sigma**2 + spread)
        excess = (neutral > calorimeter.minimum) & (neutral > calorimeter.significance * sigma)
        ratio = np.divide(best, tracks, out=np.ones_like(best), where=(tracks > 0) & ~excess)
        factor = np.where(track > 0, ratio[inverse], 1.0)
    keep = (
        (neutral > calorimeter.minimum) & (neutral > calorimeter.significance * sigma) & (keys >= 0)
    )
    n, (eta, phi) = int(keep.sum()), where[:, keep]
    hard = np.divide(
        total(part["hard"] * part["energy"] * share), true, out=np.zeros_like(true), where=true > 0
    )
    found = {
        "event": part["event"][first][keep],
        "pt": neutral[keep] / np.cosh(eta),
        "eta": eta,
        "phi": wrap(phi),
        "pdg_id": np.full(n, calorimeter.pdg_id),
        "mass": np.zeros(n),
        "charge": np.zeros(n, int),
        **{k: np.zeros(n) for k in IMPACT},
        "truth_hard": hard[keep],
    }
    return found, np.where(cell >= 0, factor, 1.0), (keys, where)


def _tracks(p, i, measured, mass, pt, eta, phi, vertex_z, card, rng):
    charge, code = p["charge"][i].astype(int), np.abs(p["pdg_id"][i])
    kind = np.where(np.isin(code, (11, 13)), code, 211)
    d0, z0 = impact_parameters(p, i, pt, eta, phi, vertex_z, card.field)
    errors = [np.zeros(len(i)) if f is None else f(pt[i], eta[i]) for f in (card.d0, card.dz)]
    return {
        "event": p["event"][i],
        "pt": measured[i],
        "eta": eta[i],
        "phi": wrap(phi[i]),
        "pdg_id": np.where(kind == 211, 1, -1) * charge * kind,
        "mass": mass[i],
        "charge": charge,
        "d0": d0 + errors[0] * rng.normal(size=len(i)),
        "z0": z0 + errors[1] * rng.normal(size=len(i)),
        "d0_error": errors[0],
        "dz_error": errors[1],
        "truth_hard": (p["vertex"][i] == 0).astype(float),
    }


# --- cards


def _rings(*groups: tuple[int, list]) -> Towers:
    """Towers from groups of (cells in azimuth, upper edges in eta of the rings that have so many)."""
    upper = sorted((round(float(edge), 4), n) for n, edges in groups for edge in edges)
    return Towers(np.array([edge for edge, _ in upper]), np.array([n for _, n in upper])[1:])


_FORWARD = [3.125, 3.3, 3.475, 3.65, 3.825, 4.0, 4.175, 4.35, 4.525, 4.7, 5.0]
_CRYSTALS = _rings(
    (360, [0.0174 * i for i in range(-169, 171)]),
    (36, [-2.958, *_FORWARD, *(-e for e in _FORWARD)]),
)
_ATLAS_TOWERS = _rings(
    (36, [-3.2, 3.3, *(0.1 * i for i in range(-25, 27))]),
    (
        18,
        [
            -4.9,
            -4.7,
            -4.5,
            -4.3,
            -4.1,
            -3.9,
            -3.7,
            -3.5,
            -3.3,
            -3.0,
            -2.8,
            -2.6,
            2.8,
            3.0,
            3.2,
            3.5,
            3.7,
            3.9,
            4.1,
            4.3,
            4.5,
            4.7,
            4.9,
        ],
    ),
)
_COARSE = [1.74, 1.83, 1.93, 2.043, 2.172, 2.322, 2.5, 2.65, 2.868, 2.95, *_FORWARD[:8]]
_CMS_TOWERS = _rings(
    (72, [0.087 * i for i in range(-18, 20)]),
    (36, [-1.653, *(-e for e in _COARSE), *_COARSE, 4.525]),
    (18, [-5.0, -4.7, -4.525, 4.7, 5.0]),
)


def _root(*squares):
    return np.sqrt(sum(squares))


def _atlas_light(energy, eta):
    return np.where(
        np.abs(eta) <= 3.2,
        _root((0.0017 * energy) ** 2, 0.101**2 * energy),
        _root((0.0350 * energy) ** 2, 0.285**2 * energy),
    )


def _atlas_heavy(energy, eta):
    return np.select(
        [np.abs(eta) <= 1.7, np.abs(eta) <= 3.2],
        [
            _root((0.0302 * energy) ** 2, 0.5205**2 * energy, 1.59**2),
            _root((0.05 * energy) ** 2, 0.706**2 * energy),
        ],
        _root((0.0942 * energy) ** 2, energy),
    )


def _cms_light(energy, eta):
    near = np.abs(eta)
    barrel = _root((0.008 * energy) ** 2, 0.11**2 * energy, 0.40**2)
    factors = [1 + 0.64 * eta**2, 2.16 + 5.6 * (near - 2) ** 2]
    return np.select(
        [near <= 1.5, near <= 2.5],
        [factor * barrel for factor in factors],
        _root((0.107 * energy) ** 2, 2.08**2 * energy),
    )


def _cms_heavy(energy, eta):
    return np.where(
        np.abs(eta) <= 3.0,
        _root((0.05 * energy) ** 2, 1.50**2 * energy),
        _root((0.13 * energy) ** 2, 2.70**2 * energy),
    )


def _resolution(constant, slope):
    return np.array(constant), np.array(slope)


_HADRONS = _resolution([0.06, 0.10, 0.25], [1.3e-3, 1.7e-3, 3.1e-3])
ATLAS_2016 = Card(
    "Delphes 3.3, ATLAS card",
    field=2.0,
    radius=1.15,
    half_length=3.51,
    replace=True,
    massless_tracks=True,
    momentum={0: _HADRONS, 11: _HADRONS, 13: _resolution([0.02, 0.03, 0.06], [2e-4, 3e-4, 6e-4])},
    electromagnetic=Calorimeter(_ATLAS_TOWERS, _atlas_light, 0.5, 1.0, 22),
    hadronic=Calorimeter(_ATLAS_TOWERS, _atlas_heavy, 1.0, 1.0, 130),
)

# Impact parameter resolution in micrometres, |eta| < 0.9, < 1.4 and beyond, in steps of 0.2 in
# log(pt) from 0.18 GeV: arXiv:1405.6569, figure 15, as the authors of JetClass read it.
_D0 = (
    (
        354,
        281,
        230,
        192,
        174,
        143,
        106,
        89.3,
        75.3,
        67.0,
        57.7,
        52.4,
        45.2,
        37.6,
        35.0,
        32.4,
        28.3,
        25.8,
        23.7,
        21.1,
        19.1,
        16.4,
        15.0,
        14.3,
        13.0,
        13.0,
        11.6,
        11.6,
        11.0,
        11.0,
        11.0,
        10.4,
        10.9,
        11.0,
    ),
    (
        456,
        358,
        301,
        235,
        203,
        160,
        138,
        112,
        92.6,
        81.6,
        66.3,
        55.3,
        48.8,
        43.1,
        39.9,
        35.7,
        31.3,
        27.7,
        23.3,
        22.1,
        21.4,
        18.0,
        15.5,
        14.1,
        12.8,
        13.4,
        12.1,
        10.8,
        10.1,
        10.1,
        10.1,
        10.2,
        8.8,
        9.5,
    ),
    (
        697,
        605,
        532,
        431,
        340,
        279,
        239,
        181,
        156,
        123,
        101,
        91.4,
        76.7,
        63.8,
        54.4,
        46.8,
        42.5,
        38.5,
        33.1,
        27.8,
        25.6,
        23.6,
        21.7,
        19.6,
        17.6,
        16.5,
        15.7,
        15.0,
        14.4,
        14.4,
        13.7,
        13.0,
        13.7,
        13.7,
    ),
)
_DZ = (
    (
        369,
        314,
        312,
        258,
        222,
        194,
        169,
        135,
        111,
        98.3,
        88.2,
        78.6,
        68.4,
        61.5,
        55.1,
        51.6,
        48.4,
        45.0,
        41.6,
        41.6,
        38.2,
        35.0,
        31.7,
        31.6,
        31.6,
        31.6,
        34.8,
        31.6,
        31.6,
        31.6,
        28.4,
        28.3,
        31.5,
        31.8,
    ),
    (
        706,
        601,
        599,
        496,
        388,
        320,
        265,
        252,
        198,
        159,
        140,
        120,
        103,
        96.7,
        80.5,
        73.6,
        70.7,
        60.3,
        60.9,
        54.1,
        51.1,
        44.3,
        40.9,
        40.8,
        40.9,
        37.7,
        37.5,
        37.7,
        34.2,
        34.2,
        34.3,
        34.3,
        30.9,
        31.0,
    ),
    (
        2172,
        2072,
        2068,
        1768,
        1439,
        1200,
        980,
        825,
        670,
        554,
        437,
        371,
        332,
        272,
        244,
        208,
        182,
        164,
        145,
        132,
        112,
        102,
        102,
        98.3,
        88.2,
        84.7,
        81.4,
        78.4,
        81.7,
        75.0,
        81.6,
        82.0,
        81.4,
        85.0,
    ),
)


def _read(table):
    table = 1e-3 * np.array(table)

    def resolution(pt, eta):
        step = np.ceil((np.log(np.maximum(pt, 1e-3)) + 1.702) / 0.2).astype(int) - 1
        return table[np.searchsorted([0.9, 1.4], np.abs(eta)), np.clip(step, 0, table.shape[1] - 1)]

    return resolution


CMS_JETCLASS = Card(
    "Delphes 3.5, CMS card of JetClass",
    field=3.8,
    radius=1.29,
    half_length=3.00,
    replace=False,
    massless_tracks=False,
    momentum=None,
    electromagnetic=Calorimeter(_CRYSTALS, _cms_light, 0.5, 2.0, 22),
    hadronic=Calorimeter(_CMS_TOWERS, _cms_heavy, 1.0, 1.0, 130),
    d0=_read(_D0),
    dz=_read(_DZ),
)
