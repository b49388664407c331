"""Matching of jets to the truth of the simulation: partons, heavy hadrons and generated jets."""

from __future__ import annotations

import numpy as np

from jetnb.clustering import best, pairs
from jetnb.simulation.processes import Events


def truth(jets: dict, events: Events, generated: dict, *, radius: float) -> dict:
    """Simulation truth of each jet: parton_pdg_id, n_b_hadrons, n_c_hadrons, generated_pt,
    generated_mass, and resonance_id: 6, 23, 24 or 25 where all visible decay partons of one such
    particle lie within radius, else 0.
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
    resonance, inverse, total = np.unique(
        partons["resonance"], return_inverse=True, return_counts=True
    )
    key, matched = np.unique(i * len(resonance) + inverse[j], return_counts=True)
    jet, row = key // max(len(resonance), 1), key % max(len(resonance), 1)
    whole = (matched == total[row]) & (resonance[row] >= 0)
    code = np.zeros(len(resonance), np.int64)
    code[inverse] = partons["resonance_id"]
    result = np.zeros(n_jets, np.int64)
    result[jet[whole]] = code[row[whole]]
    return result


def flavour_label(truth: dict, classes: tuple[str, ...]) -> np.ndarray:
    """Class of each jet from what is inside: a whole H -> bb, else the number of b and then c
    hadrons.
    """
    n_b, n_c = truth["n_b_hadrons"], truth["n_c_hadrons"]
    name = np.select(
        [truth["resonance_id"] == 25, n_b >= 2, n_b == 1, n_c >= 2, n_c == 1],
        ["HToBB", "QCD_bb", "QCD_b", "QCD_cc", "QCD_c"],
        "QCD_others",
    )
    return np.array([classes.index(n) for n in name], np.int64)
