"""Momenta of constituents and jets in NumPy: azimuth, Cartesian and polar coordinates, and sums
over jets.

Momenta and energies are in GeV, angles in radian.
"""

from __future__ import annotations

import numpy as np


def wrap(phi):
    """Azimuth folded into [-pi, pi]; of one that is there already not a bit changes.

    >>> wrap(np.array([6.2, -3.0])).round(3).tolist()
    [-0.083, -3.0]
    """
    return phi - 2 * np.pi * np.rint(phi / (2 * np.pi))


def to_cartesian(pt, eta, phi) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """px, py, pz of momenta with pt, eta, phi."""
    return pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)


def to_polar(px, py, pz) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """pt, eta, phi of momenta with px, py, pz; eta is 0 where there is no momentum."""
    pt = np.hypot(px, py)
    return (
        pt,
        np.arcsinh(np.divide(pz, pt, out=np.zeros_like(pt), where=pt > 0)),
        np.arctan2(py, px),
    )


def energy(pt, eta, mass=0.0) -> np.ndarray:
    """Energy of momenta with pt, eta and this mass."""
    return np.hypot(pt * np.cosh(eta), mass)


def total(px, py, pz, energy, jet, n_jets: int) -> dict[str, np.ndarray]:
    """pt, eta, phi and mass (n_jets,) of the sum of the momenta (T,) of each jet, in double
    precision.

    jet (T,): the number of the jet of each. The mass is 0 where rounding makes its square negative.

    >>> px, py, pz = np.array([[3.0, 0, 0], [0, 3, 0], [0, 0, 3]])
    >>> found = total(px, py, pz, [5.0, 5.0, 5.0], [0, 0, 1], 2)
    >>> found["pt"].round(3).tolist(), found["mass"].round(3).tolist()
    ([4.243, 0.0], [9.055, 4.0])
    """
    px, py, pz, energy = (
        np.bincount(jet, weights=values, minlength=n_jets) for values in (px, py, pz, energy)
    )
    pt, eta, phi = to_polar(px, py, pz)
    return {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "mass": np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0)),
    }
