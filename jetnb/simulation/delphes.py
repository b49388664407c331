"""Delphes 3 (arXiv:1307.6346) as the public data sets were made with it: its steps in its order, by
the rules of a card of `delphes_cards`.

Left out: time, isolation, and tracks whose share of a tower is negative, which Delphes turns round.
"""

from __future__ import annotations

import numpy as np

from jetnb.kinematics import energy, wrap
from jetnb.simulation.delphes_cards import Card
from jetnb.simulation.detector import IMPACT, impact_parameters, polar

STEPS = np.array([0.5, 1.5])  # |eta| where the momentum resolution of tracks changes
EVENT = 10_000_000  # more than the number of cells


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

    Neutral candidates are massless; electrons and muons that have a track are known as such. A card
    without energy flow gives the towers, measured with the same random numbers.
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
    track_energy = energy(measured, eta, mass)

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
        neutral, part_scale, seen = _energy_flow(part, calorimeter, detector, seen, rng)
        found.append(neutral)
        scale[i] *= part_scale
    is_track &= detector.energy_flow & (measured * scale > 1e-3)
    found.append(
        _tracks(
            particles,
            np.flatnonzero(is_track),
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


def _energy_flow(part, calorimeter, card, seen, rng):
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
        # Of nothing it would be of integers.
        return np.bincount(inverse, values, len(keys)).astype(float)

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

    if card.replace:
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
        # Tracks without an error have no weight.
        best = np.divide(
            tracked * tracks + calorimetric * energy,
            tracked + calorimetric,
            out=np.copy(tracks),
            where=tracked + calorimetric > 0,
        )
        sigma = np.sqrt(sigma**2 + spread)
        excess = (neutral > calorimeter.minimum) & (neutral > calorimeter.significance * sigma)
        ratio = np.divide(best, tracks, out=np.ones_like(best), where=(tracks > 0) & ~excess)
        factor = np.where(track > 0, ratio[inverse], 1.0)
    keep = (
        (neutral > calorimeter.minimum) & (neutral > calorimeter.significance * sigma) & (keys >= 0)
    )
    if not card.energy_flow:
        neutral, keep = energy, (energy > 0) & (keys >= 0)
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
