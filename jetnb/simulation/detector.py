"""From generated particles to particle-flow candidates: bending, tracks, calorimeter cells, energy
flow.

The idea is that of Delphes (arXiv:1307.6346) and of particle flow (arXiv:1706.04965): charged
particles are measured by the tracker; what the calorimeter sees beyond the tracks becomes photons
and neutral hadrons. Everything is one numpy operation over all particles of all events at once.

Not modelled: photon conversions, secondaries of nuclear interactions, shower overlap in dense
cores, trigger.
"""

from __future__ import annotations

import numpy as np

from jetnb import kinematics, names
from jetnb.simulation import geometry
from jetnb.simulation.response import Detector

IMPACT = ("d0", "z0", "d0_error", "dz_error")  # of candidates, in mm
MASS = {code: p.mass for p in names.PARTICLES.values() for code in map(abs, p.pdg_ids)}
HADRON_IN_CRYSTALS = 0.25  # electromagnetic share of a hadron: neutral ones leave 3 % of a jet there, arXiv:1706.04965
# Calorimeter excess over the tracks that makes a neutral, in units of its resolution: as in the
# ATLAS card of Delphes.
RESIDUAL_SIGNIFICANCE = 2.0
# Ours, chosen to resemble published maps and tails, not taken from a paper:
BLUR = 0.15  # spread of a soft cluster around the centre of its cell, in units of the cell
# GeV: well below it a cluster lies at the centre of its cell.
SOFT = {22: 3.0, 130: 30.0, 1: 100.0, 2: 100.0}
TAIL = (0.03, 3.0)  # share of tracks whose impact parameter is that much worse
TRACKER_DEPTH = (
    500.0  # mm: the chance of a track falls to zero for particles born that far from the beam
)
# Chance that a lepton above or below a pt [GeV] is identified: rough plateaus of arXiv:2012.06888
# and arXiv:1804.04528, lower inside jets.
IDENTIFIED = {11: (5.0, 0.85, 0.50), 13: (3.0, 0.95, 0.30)}


def polar(p: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pt [GeV], eta, phi [rad] of a table with px, py, pz."""
    return kinematics.to_polar(p["px"], p["py"], p["pz"])


def reconstruct(
    particles: dict,
    vertex_z: np.ndarray,
    hard_z: np.ndarray,
    *,
    detector: Detector,
    rng: np.random.Generator,
) -> dict:
    """Particle-flow candidates of all events.

    particles : table as in processes.Events, with any ``vertex``
    vertex_z  : (n_particles,) mm, z of the collision each particle comes from
    hard_z    : (n_events,) mm, z of the hard scatter: neutral candidates are taken to come from
    there Returns a table sorted by event: event, pt, eta, phi, mass, pdg_id, charge, and for
    charged candidates d0, z0 [mm, at the beam line], d0_error, dz_error, and truth_hard: the share
    of its energy from the hard scatter.

    """
    pt, eta, phi = polar(particles)
    code, charge = np.abs(particles["pdg_id"]), particles["charge"]
    is_track = _found(particles, pt, eta, code, detector, rng)
    at_eta, at_phi, reaches = _at_calorimeter(particles, pt, eta, phi, vertex_z, detector)
    track = _measure_tracks(
        particles, np.flatnonzero(is_track), pt, eta, phi, vertex_z, detector, rng
    )

    tracked_momentum = np.zeros(len(pt))
    tracked_momentum[is_track] = track["pt"] * np.cosh(track["eta"])
    deposit = {
        "event": particles["event"],
        "eta": at_eta,
        "phi": at_phi,
        "energy": particles["energy"],
        "tracked": tracked_momentum,
        "is_track": is_track,
        "hard": particles["vertex"] == 0,
    }
    electromagnetic = (code == 22) | (code == 11)
    hadron = reaches & ~electromagnetic & (code != 13)
    forward = (np.abs(at_eta) >= geometry.FORWARD_START) & (detector.forward_towers is not None)
    covered = np.abs(at_eta) < (geometry.FORWARD_END if detector.forward_towers else 3.2)

    # Charged hadrons have their track; splitting their energy would only blur the comparison with
    # it.
    splits = hadron & ((charge == 0) | forward)
    light = (
        np.where(electromagnetic, 1.0, np.where(splits, HADRON_IN_CRYSTALS, 0.0))
        * reaches
        * covered
    )
    heavy = np.where(hadron, np.where(splits, 1 - HADRON_IN_CRYSTALS, 1.0), 0.0) * reaches * covered
    central = ~forward
    threshold, resolutions = (
        detector.thresholds,
        (detector.electromagnetic_resolution, detector.hadronic_resolution),
    )
    jobs = [
        (
            light * central * detector.crystal_response(at_eta, at_phi),
            detector.crystals,
            resolutions[0],
            22,
            threshold["electromagnetic"],
        ),
        (heavy * central, detector.towers, resolutions[1], 130, threshold["hadronic"]),
    ]
    if detector.forward_towers:
        jobs += [
            (light * forward, detector.forward_towers, resolutions[0], 2, threshold["forward"]),
            (heavy * forward, detector.forward_towers, resolutions[1], 1, threshold["forward"]),
        ]
    groups = [track]
    for share, cells, resolution, pdg_id, low in jobs:
        seen = {
            k: v[share > 0] for k, v in (deposit | {"energy": deposit["energy"] * share}).items()
        }
        found = _clusters(seen, cells, resolution, pdg_id, low, rng)
        found["eta"] = _seen_from(found["eta"], hard_z[found["event"]], detector)
        found["pt"] = found.pop("momentum") / np.cosh(found["eta"])
        groups.append(found)
    table = {k: np.concatenate([g[k] for g in groups]) for k in track}
    order = np.argsort(table["event"], kind="stable")
    return {k: v[order] for k, v in table.items()}


def _found(p, pt, eta, code, detector, rng):
    """Which charged particles give a track: efficiency times a loss for those born deep inside the
    tracker.
    """
    chance = detector.track_efficiency(np.where(p["charge"] != 0, pt, 0.0), eta, code)
    chance = chance * np.clip(1 - np.hypot(p["x"], p["y"]) / TRACKER_DEPTH, 0, 1)
    return rng.random(len(pt)) < chance


def _at_calorimeter(p, pt, eta, phi, vertex_z, detector):
    """Direction, as seen from the origin, of the point where each particle enters the calorimeter,
    and if it does.
    """
    radius, half_length = detector.calorimeter_radius, detector.calorimeter_z
    sinh = np.sinh(eta)
    curl = pt / (0.3 * detector.field)  # m
    charged = p["charge"] != 0
    # transverse path to the cylinder, and to the end plane
    to_barrel = np.where(charged, 2 * curl * np.arcsin(np.minimum(radius / (2 * curl), 1)), radius)
    z0 = 1e-3 * (vertex_z + p["z"])
    slope = np.where(sinh < 0, np.minimum(sinh, -1e-6), np.maximum(sinh, 1e-6))
    to_plane = (half_length * np.sign(slope) - z0) / slope
    loops = charged & (2 * curl < radius)
    path = np.minimum(np.where(loops, np.inf, to_barrel), np.abs(to_plane))
    chord = np.where(charged, 2 * curl * np.sin(path / (2 * curl)), path)
    # the production point matters for decays in flight
    x = 1e-3 * p["x"] + chord * np.cos(phi - p["charge"] * path / (2 * curl))
    y = 1e-3 * p["y"] + chord * np.sin(phi - p["charge"] * path / (2 * curl))
    r = np.maximum(np.hypot(x, y), 1e-3)
    reaches = ~loops | (path < 2 * np.pi * curl)
    return np.arcsinh((z0 + path * sinh) / r), np.arctan2(y, x), reaches


def impact_parameters(
    p: dict, i: np.ndarray, pt, eta, phi, vertex_z, field: float
) -> tuple[np.ndarray, np.ndarray]:
    """True d0 and z0 [mm] of the particles i relative to the beam line, in a field [T]."""
    charge, x, y = p["charge"][i].astype(float), p["x"][i], p["y"][i]
    curl = 1000 * pt[i] / (0.3 * field)  # mm
    d0 = charge * (
        np.hypot(x + charge * curl * np.sin(phi[i]), y - charge * curl * np.cos(phi[i])) - curl
    )
    # Transverse path from the point of closest approach.
    back = x * np.cos(phi[i]) + y * np.sin(phi[i])
    return d0, vertex_z[i] + p["z"][i] - back * np.sinh(eta[i])


def _measure_tracks(p, i, pt, eta, phi, vertex_z, detector, rng):
    """Tracks with smeared momentum and helix impact parameters relative to the beam line."""
    charge, code = p["charge"][i].astype(float), np.abs(p["pdg_id"][i])
    resolution = detector.track_resolution(pt[i], eta[i])
    resolution = np.where(code == 11, np.maximum(resolution, 0.02), resolution)  # bremsstrahlung
    measured = pt[i] * np.maximum(1 + resolution * rng.normal(size=len(i)), 0.2)
    d0, z0 = impact_parameters(p, i, pt, eta, phi, vertex_z, detector.field)
    d0_error, dz_error = (
        detector.d0_resolution(pt[i], eta[i]),
        detector.dz_resolution(pt[i], eta[i]),
    )
    worse = np.where(rng.random(len(i)) < TAIL[0], TAIL[1], 1.0)
    electron, muon = (
        rng.random(len(i)) < np.where(pt[i] > IDENTIFIED[k][0], *IDENTIFIED[k][1:])
        for k in (11, 13)
    )
    identified = np.where(code == 11, electron, (code == 13) & muon)
    kind = np.where(identified, code, 211)
    sign = np.where(kind == 211, 1, -1) * charge  # a positive pdg id is a negative lepton
    return {
        "event": p["event"][i],
        "pt": measured,
        "eta": eta[i] + 3e-4 * rng.normal(size=len(i)),
        "phi": kinematics.wrap(phi[i] + 3e-4 * rng.normal(size=len(i))),
        "pdg_id": (kind * sign).astype(np.int64),
        "mass": np.select([kind == 11, kind == 13], [MASS[11], MASS[13]], MASS[211]),
        "charge": charge.astype(int),
        "d0": d0 + d0_error * worse * rng.normal(size=len(i)),
        "z0": z0 + dz_error * worse * rng.normal(size=len(i)),
        "d0_error": d0_error * np.exp(0.1 * rng.normal(size=len(i))),
        "dz_error": dz_error * np.exp(0.1 * rng.normal(size=len(i))),
        "truth_hard": (p["vertex"][i] == 0).astype(float),
    }


def _seen_from(eta, vertex_z, detector):
    """Pseudorapidity of a point on the calorimeter as seen from a vertex [mm], given that from the
    origin.
    """
    sinh = np.sinh(eta)
    radius = np.minimum(
        detector.calorimeter_radius, detector.calorimeter_z / np.maximum(np.abs(sinh), 1e-9)
    )
    return np.arcsinh(sinh - 1e-3 * vertex_z / radius)


def _clusters(d, cells, resolution, pdg_id, threshold, rng):
    """Neutral candidates: the energy of each cell beyond the momentum of the tracks that point to
    it.
    """
    cell = cells(d["eta"], d["phi"])
    _, first, inverse = np.unique(
        d["event"] * 10_000_000 + cell.key, return_index=True, return_inverse=True
    )

    def total(weight):
        return np.bincount(inverse, weight, len(first))

    energy, tracked = total(d["energy"]), total(d["tracked"])
    eta = cell.eta[first]
    sigma = resolution(energy, eta)
    measured = energy + sigma * rng.normal(size=len(first))
    has_tracks = total(d["is_track"]) > 0
    # Where tracks point to the cell, only a significant excess over them is a neutral.
    residual = measured - tracked
    keep = (residual > threshold) & (~has_tracks | (residual > RESIDUAL_SIGNIFICANCE * sigma))
    weight = np.where(d["is_track"], 1e-9, 1.0) * d["energy"]
    norm = np.maximum(total(weight), 1e-300)
    sharp = energy / (energy + SOFT[pdg_id])
    blur = BLUR * cell.size[first] * (1 - sharp)

    def position(true, centre):
        """Mean over the deposits, each somewhere between the centre of its cell and its true place."""
        origin = centre[first][inverse]
        offset = sharp[inverse] * kinematics.wrap(true - origin) + (
            1 - sharp[inverse]
        ) * kinematics.wrap(centre - origin)
        return centre[first] + total(weight * offset) / norm + blur * rng.normal(size=len(first))

    out_eta, out_phi = position(d["eta"], cell.eta), kinematics.wrap(position(d["phi"], cell.phi))
    n = int(keep.sum())
    momentum = np.sqrt(np.maximum(residual**2 - MASS[pdg_id] ** 2, 1e-6))[keep]
    hard = total(weight * d["hard"]) / norm
    return {
        "event": d["event"][first][keep],
        "momentum": momentum,
        "eta": out_eta[keep],
        "phi": out_phi[keep],
        "pdg_id": np.full(n, pdg_id),
        "mass": np.full(n, MASS[pdg_id]),
        "charge": np.zeros(n, int),
        "d0": np.zeros(n),
        "z0": np.zeros(n),
        "d0_error": np.zeros(n),
        "dz_error": np.zeros(n),
        "truth_hard": hard[keep],
    }
