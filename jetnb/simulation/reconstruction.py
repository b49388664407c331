"""FastJet (arXiv:1111.6097) over many events at once, groomed mass and N-subjettiness, and matching to the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .detector import kinematics, wrap
from .processes import Events

SOFT_DROP = {"beta": 0.0, "symmetry_cut": 0.1}
TAU_AXES, TAU_MEASURE = "WTA_KT_Axes", "NormalizedMeasure"


class Clustered(NamedTuple):
    """Jets, sorted by event and falling pt, and the rows of the input that make up each of them, jet after jet."""

    jets: dict[str, np.ndarray]  # event, px, py, pz, energy, pt, eta, phi, mass
    rows: np.ndarray
    counts: np.ndarray


def four_momentum(table: dict, weight: np.ndarray | float = 1.0) -> dict:
    """px, py, pz, energy [GeV] of candidates with pt, eta, phi, mass, each multiplied by its weight."""
    pt, eta, phi = table["pt"], table["eta"], table["phi"]
    momentum = {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta)}
    momentum["energy"] = np.sqrt((pt * np.cosh(eta)) ** 2 + table["mass"] ** 2)
    return {k: v * weight for k, v in momentum.items()}


def _nested(p: dict, counts: np.ndarray):
    import awkward as ak

    fields = {"px": p["px"], "py": p["py"], "pz": p["pz"], "E": p["energy"]}
    return ak.unflatten(ak.zip({k: np.asarray(v, float) for k, v in fields.items()}, with_name="Momentum4D"), counts)


def cluster(event: np.ndarray, p: dict, *, n_events: int, radius: float, pt_min: float) -> Clustered:
    """Anti-kT jets (arXiv:0802.1189), E scheme, of every event.

    event : (T,) sorted; p : px, py, pz, energy (T,) in GeV; pt_min in GeV.
    """
    import awkward as ak
    import fastjet

    counts = np.bincount(event, minlength=n_events)
    sequence = fastjet.ClusterSequence(_nested(p, counts), fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    found, index = sequence.inclusive_jets(pt_min), sequence.constituent_index(pt_min)
    flat = ak.flatten(found)
    jets = {k: ak.to_numpy(flat[c]).astype(float) for k, c in
            (("px", "px"), ("py", "py"), ("pz", "pz"), ("energy", "E"))}
    jets["event"] = np.repeat(np.arange(n_events), ak.to_numpy(ak.num(found)))
    jets["pt"], jets["eta"], jets["phi"] = kinematics(jets)
    jets["mass"] = np.sqrt(np.maximum(jets["energy"] ** 2 - jets["pt"] ** 2 - jets["pz"] ** 2, 0))
    per_jet = ak.flatten(index, axis=1)
    counts_in = ak.to_numpy(ak.num(per_jet, axis=1))
    start = np.cumsum(counts) - counts
    rows = ak.to_numpy(ak.flatten(per_jet)).astype(np.int64) + np.repeat(start[jets["event"]], counts_in)
    order = np.lexsort((-jets["pt"], jets["event"]))
    return select(Clustered(jets, rows, counts_in), order)


def select(clustered: Clustered, chosen: np.ndarray) -> Clustered:
    """The chosen jets (mask or indices) with their rows."""
    index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    start = np.cumsum(clustered.counts) - clustered.counts
    counts = clustered.counts[index]
    inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows = clustered.rows[np.repeat(start[index], counts) + inside]
    return Clustered({k: v[index] for k, v in clustered.jets.items()}, rows, counts)


def substructure(p: dict, counts: np.ndarray, *, radius: float = 0.8) -> dict:
    """softdrop_mass [GeV] (beta=0, z_cut=0.1, arXiv:1402.2657) and tau1..tau4 of each jet.

    N-subjettiness (arXiv:1011.2268): beta = 1, exclusive-kT axes with winner-take-all recombination, divided by the
    scalar sum of pt times the radius. p holds the four-momenta of all constituents, jet after jet.
    """
    import awkward as ak
    import fastjet

    # Cambridge/Aachen with a radius so large that the whole jet is one cluster.
    sequence = fastjet.ClusterSequence(_nested(p, counts), fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0))
    groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, R0=radius, **SOFT_DROP)
    tau = sequence.njettiness(measure_definition=TAU_MEASURE, axes_definition=TAU_AXES, njets=[1, 2, 3, 4],
                              beta=1.0, R0=radius)
    tau = np.asarray(ak.to_numpy(tau), float).reshape(len(counts), 4)
    mass = np.asarray(ak.to_numpy(groomed["msoftdrop"]), float).reshape(len(counts))
    return {"softdrop_mass": np.maximum(mass, 0)} | {f"tau{n + 1}": tau[:, n] for n in range(4)}


def pairs(jets: dict, table: dict, *, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (jet row, table row, delta R) of one event closer than radius. The table has event, px, py, pz."""
    order = np.argsort(table["event"], kind="stable")
    event = table["event"][order]
    low, high = np.searchsorted(event, jets["event"], "left"), np.searchsorted(event, jets["event"], "right")
    counts = high - low
    i = np.repeat(np.arange(len(counts)), counts)
    j = order[np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)]
    _, eta, phi = kinematics(table)
    distance = np.hypot(jets["eta"][i] - eta[j], wrap(jets["phi"][i] - phi[j]))
    near = distance < radius
    return i[near], j[near], distance[near]


def best(n_jets: int, i: np.ndarray, j: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """For each jet the matched row of least cost, -1 where there is none."""
    order = np.argsort(-cost, kind="stable")
    result = np.full(n_jets, -1)
    result[i[order]] = j[order]  # the last one written, of least cost, stays
    return result


def truth(jets: dict, events: Events, generated: dict, *, radius: float) -> dict:
    """Simulation truth of each jet: parton_pdg_id, n_b_hadrons, n_c_hadrons, generated_pt, generated_mass,
    and resonance_id: 6, 23, 24 or 25 where all visible decay partons of one such particle lie within radius, else 0.
    """
    n = len(jets["pt"])
    i, j, _ = pairs(jets, events.partons, radius=radius)
    hardest = best(n, i, j, -np.hypot(events.partons["px"], events.partons["py"])[j])
    codes = np.append(events.partons["pdg_id"], 0)
    result = {"parton_pdg_id": codes[hardest]}
    for name, table in (("n_b_hadrons", events.b_hadrons), ("n_c_hadrons", events.c_hadrons)):
        k, row, _ = pairs(jets, table, radius=radius)
        hard = np.hypot(table["px"], table["py"])[row] > 5.0
        result[name] = np.bincount(k[hard], minlength=n)
    k, row, distance = pairs(jets, generated, radius=0.4)
    nearest = best(n, k, row, distance)
    for name in ("pt", "mass"):
        result[f"generated_{name}"] = np.append(generated[name], 0.0)[nearest]
    result["resonance_id"] = _contained(n, i, j, events.partons)
    return result


def _contained(n_jets: int, i: np.ndarray, j: np.ndarray, partons: dict) -> np.ndarray:
    """Code of the heaviest-listed resonance whose partons are all among the matches of a jet."""
    resonance, inverse, total = np.unique(partons["resonance"], return_inverse=True, return_counts=True)
    key, matched = np.unique(i * len(resonance) + inverse[j], return_counts=True)
    jet, row = key // max(len(resonance), 1), key % max(len(resonance), 1)
    whole = (matched == total[row]) & (resonance[row] >= 0)
    code = np.zeros(len(resonance), np.int64)
    code[inverse] = partons["resonance_id"]
    result = np.zeros(n_jets, np.int64)
    result[jet[whole]] = code[row[whole]]
    return result
