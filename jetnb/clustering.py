"""FastJet (arXiv:1111.6097) over many events at once: jets, groomed mass and N-subjettiness, and
which jets are near to what.

FastJet is optional, so it is imported where it is used.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jetnb import kinematics, packed

SOFT_DROP = {"beta": 0.0, "symmetry_cut": 0.1}
TAU_AXES, TAU_MEASURE = "WTA_KT_Axes", "NormalizedMeasure"


class Clustered(NamedTuple):
    """Jets, sorted by event and falling pt, and the rows of the input that make up each of them,
    jet after jet.
    """

    jets: dict[str, np.ndarray]  # event, px, py, pz, energy, pt, eta, phi, mass
    rows: np.ndarray
    counts: np.ndarray


def four_momentum(table: dict, weight: np.ndarray | float = 1.0) -> dict:
    """px, py, pz, energy [GeV] of candidates with pt, eta, phi, mass, each multiplied by its
    weight.
    """
    pt, eta = table["pt"], table["eta"]
    momentum = dict(
        zip(("px", "py", "pz"), kinematics.to_cartesian(pt, eta, table["phi"]), strict=True)
    )
    momentum["energy"] = kinematics.energy(pt, eta, table["mass"])
    return {k: v * weight for k, v in momentum.items()}


def _nested(p: dict, counts: np.ndarray):
    import awkward as ak

    fields = {"px": p["px"], "py": p["py"], "pz": p["pz"], "E": p["energy"]}
    return ak.unflatten(
        ak.zip({k: np.asarray(v, float) for k, v in fields.items()}, with_name="Momentum4D"), counts
    )


def cluster(
    event: np.ndarray, p: dict, *, n_events: int, radius: float, pt_min: float
) -> Clustered:
    """Anti-kT jets (arXiv:0802.1189), E scheme, of every event.

    event : (T,) sorted; p : px, py, pz, energy (T,) in GeV; pt_min in GeV.
    """
    import awkward as ak
    import fastjet

    counts = np.bincount(event, minlength=n_events)
    sequence = fastjet.ClusterSequence(
        _nested(p, counts), fastjet.JetDefinition(fastjet.antikt_algorithm, radius)
    )
    found, index = sequence.inclusive_jets(pt_min), sequence.constituent_index(pt_min)
    flat = ak.flatten(found)
    jets = {
        k: ak.to_numpy(flat[c]).astype(float)
        for k, c in (("px", "px"), ("py", "py"), ("pz", "pz"), ("energy", "E"))
    }
    jets["event"] = np.repeat(np.arange(n_events), ak.to_numpy(ak.num(found)))
    jets["pt"], jets["eta"], jets["phi"] = kinematics.to_polar(jets["px"], jets["py"], jets["pz"])
    jets["mass"] = np.sqrt(np.maximum(jets["energy"] ** 2 - jets["pt"] ** 2 - jets["pz"] ** 2, 0))
    per_jet = ak.flatten(index, axis=1)
    counts_in = ak.to_numpy(ak.num(per_jet, axis=1))
    start = np.cumsum(counts) - counts
    rows = ak.to_numpy(ak.flatten(per_jet)).astype(np.int64) + np.repeat(
        start[jets["event"]], counts_in
    )
    order = np.lexsort((-jets["pt"], jets["event"]))
    return select(Clustered(jets, rows, counts_in), order)


def select(clustered: Clustered, chosen: np.ndarray) -> Clustered:
    """The chosen jets (mask or indices) with their rows."""
    index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    start = np.cumsum(clustered.counts) - clustered.counts
    counts = clustered.counts[index]
    inside = packed.ranks(counts)
    rows = clustered.rows[np.repeat(start[index], counts) + inside]
    return Clustered({k: v[index] for k, v in clustered.jets.items()}, rows, counts)


def substructure(p: dict, counts: np.ndarray, *, radius: float = 0.8) -> dict:
    """softdrop_mass [GeV] (beta=0, z_cut=0.1, arXiv:1402.2657) and tau1..tau4 of each jet.

    N-subjettiness (arXiv:1011.2268): beta = 1, exclusive-kT axes with winner-take-all
    recombination, divided by the scalar sum of pt times the radius. p holds the four-momenta of all
    constituents, jet after jet.
    """
    import awkward as ak
    import fastjet

    # Cambridge/Aachen with a radius so large that the whole jet is one cluster.
    sequence = fastjet.ClusterSequence(
        _nested(p, counts), fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0)
    )
    groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, R0=radius, **SOFT_DROP)
    tau = sequence.njettiness(
        measure_definition=TAU_MEASURE,
        axes_definition=TAU_AXES,
        njets=[1, 2, 3, 4],
        beta=1.0,
        R0=radius,
    )
    tau = np.asarray(ak.to_numpy(tau), float).reshape(len(counts), 4)
    mass = np.asarray(ak.to_numpy(groomed["msoftdrop"]), float).reshape(len(counts))
    return {"softdrop_mass": np.maximum(mass, 0)} | {f"tau{n + 1}": tau[:, n] for n in range(4)}


def pairs(jets: dict, table: dict, *, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All (jet row, table row, delta R) of one event closer than radius. The table has event, px,
    py, pz.
    """
    order = np.argsort(table["event"], kind="stable")
    event = table["event"][order]
    low, high = (
        np.searchsorted(event, jets["event"], "left"),
        np.searchsorted(event, jets["event"], "right"),
    )
    counts = high - low
    i = packed.jet_of(counts)
    j = order[packed.ranks(counts) + np.repeat(low, counts)]
    _, eta, phi = kinematics.to_polar(table["px"], table["py"], table["pz"])
    distance = np.hypot(jets["eta"][i] - eta[j], kinematics.wrap(jets["phi"][i] - phi[j]))
    near = distance < radius
    return i[near], j[near], distance[near]


def best(n_jets: int, i: np.ndarray, j: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """For each jet the matched row of least cost, -1 where there is none."""
    order = np.argsort(-cost, kind="stable")
    result = np.full(n_jets, -1)
    result[i[order]] = j[order]  # the last one written, of least cost, stays
    return result
