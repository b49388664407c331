"""Which jets are electrons: those near one, with all pairs of an event looked at at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jetnb import kinematics, packed
from jetnb.readers._padded import wrap_phi

RADIUS = 0.4  # that of the jets
PT_MIN = 5_000.0  # MeV: that of the truth jets behind the label; a softer electron makes no jet


def near_electron(
    columns: Mapping[str, np.ndarray],
    n_jets: np.ndarray,
    n_electrons: np.ndarray | None,
    n_truth: np.ndarray | None,
) -> np.ndarray:
    """(N,) bool: jets within `RADIUS` of a reconstructed or true electron above `PT_MIN`.

    columns: flat, MeV: eta and phi (N,) of jets; electron_pt, electron_eta, electron_phi; truth_px,
    truth_py, truth_pz. n_jets, n_electrons, n_truth: numbers in each event. A kind without its
    number or one of its columns is left out.
    """
    close = np.zeros(len(columns["eta"]), bool)
    jets = columns["eta"], columns["phi"], n_jets
    if n_electrons is not None and {"electron_eta", "electron_phi"} <= columns.keys():
        pt, eta, phi = (columns[f"electron_{name}"] for name in ("pt", "eta", "phi"))
        close |= near(jets, (eta, phi, n_electrons), pt > PT_MIN)
    if n_truth is not None and {"truth_py", "truth_pz"} <= columns.keys():
        px, py, pz = (columns[f"truth_p{axis}"].astype(float) for axis in "xyz")
        with np.errstate(all="ignore"):  # an electron without pt is not taken
            pt, eta, phi = kinematics.to_polar(px, py, pz)
            close |= near(jets, (eta, phi, n_truth), pt > PT_MIN)
    return close


def near(jets: tuple, others: tuple, taken: np.ndarray, radius: float = RADIUS) -> np.ndarray:
    """(N,) bool: jets within `radius` of another object of their event that is `taken` (M,).

    jets, others: eta, phi, both flat, and how many there are in each event.

    >>> near(([0.0, 0.0], [3.1, 3.1], [1, 1]), ([0.1, 0.0], [-3.1, 3.1], [2, 0]), np.array([True, True]))
    array([ True, False])
    """
    (eta, phi, n_jets), (other_eta, other_phi, n_others) = jets, others
    pairs = np.repeat(n_others, n_jets)  # (N,) others in the event of each jet
    jet = packed.jet_of(pairs)
    other = packed.rows(np.repeat(packed.starts(n_others)[:-1], n_jets), pairs)
    deta = np.asarray(eta, float)[jet] - np.asarray(other_eta, float)[other]
    with np.errstate(invalid="ignore"):
        dphi = wrap_phi(np.asarray(phi, float)[jet] - np.asarray(other_phi, float)[other])
        close = (np.hypot(deta, dphi) < radius) & taken[other]
    return np.bincount(jet[close], minlength=len(pairs)) > 0
