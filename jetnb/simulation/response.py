"""How well each detector measures: efficiencies and resolutions as functions of pt [GeV], energy
[GeV] and eta.

CMS: tracking arXiv:1405.6569, electromagnetic calorimeter JINST 3 (2008) S08004 and
arXiv:1306.2016, hadronic calorimeter and particle flow arXiv:1706.04965, forward calorimeter Eur.
Phys. J. C 53 (2008) 139, muons arXiv:1804.04528. Where a paper shows a curve, the constants are a
smooth description of it, good to a few per cent of the value. ATLAS: the Delphes 3 ATLAS card
(arXiv:1307.6346).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jetnb.simulation import geometry

TRACKER_END = 2.5


class Detector(NamedTuple):
    """Everything the particle-flow code asks of a detector. Resolutions are absolute, in the unit
    of their argument.
    """

    name: str
    field: float  # tesla
    calorimeter_radius: float  # m, where charged particles leave the bending field
    calorimeter_z: float  # m
    track_efficiency: Callable  # (pt, eta, |pdg id|) -> probability
    track_resolution: Callable  # (pt, eta) -> relative
    d0_resolution: Callable  # (pt, eta) -> mm
    dz_resolution: Callable  # (pt, eta) -> mm
    crystals: Callable  # (eta, phi) -> Cells
    towers: Callable
    forward_towers: Callable | None
    crystal_response: Callable  # (eta, phi) -> share of the energy that is seen
    electromagnetic_resolution: Callable  # (energy, eta) -> GeV
    hadronic_resolution: Callable
    thresholds: dict  # GeV of energy below which a cluster is dropped


def _quadrature(*terms):
    return np.sqrt(sum(t**2 for t in terms))


def _cms_track_efficiency(pt, eta, code):
    """Pions lose 3 to 10 % to nuclear interactions in the material, which is thickest near |eta| =
    1.5.
    """
    near = np.abs(eta)
    pion = np.interp(near, [0, 0.9, 1.5, 2.0, 2.5], [0.97, 0.96, 0.93, 0.93, 0.89])
    plateau = np.where(code == 13, 0.99, np.where(code == 11, 0.95, pion))
    return plateau * (1 - np.exp(-(pt - 0.15) / 0.12)) * (pt > 0.3) * (near < TRACKER_END)


def _cms_track_resolution(pt, eta):
    constant = np.interp(np.abs(eta), [0, 1.0, 1.6, 2.5], [0.007, 0.010, 0.014, 0.020])
    slope = np.interp(np.abs(eta), [0, 1.0, 1.6, 2.5], [1.3e-4, 1.5e-4, 2.5e-4, 6e-4])
    return _quadrature(constant, slope * pt)


def _cms_d0_resolution(pt, eta):
    return _quadrature(0.010, 0.090 / (pt * np.cosh(eta) ** -0.5))


def _cms_dz_resolution(pt, eta):
    return _quadrature(0.030 * np.cosh(eta) ** 0.5, 0.090 / (pt * np.cosh(eta) ** -1.5))


def _cms_electromagnetic_resolution(energy, eta):
    """2.8 %/sqrt(E) + 0.3 % + 12 % / E in the barrel test beam; in place, material and ageing
    double the constant term.
    """
    near, forward = np.abs(eta), np.abs(eta) >= geometry.FORWARD_START
    constant = np.where(near < geometry.BARREL_END, 0.006, 0.015)
    stochastic = np.where(near < geometry.BARREL_END, 0.028, 0.05)
    noise = np.where(near < geometry.BARREL_END, 0.12, 0.15)
    return np.where(
        forward,
        _quadrature(0.09 * energy, 1.98 * np.sqrt(energy)),
        _quadrature(constant * energy, stochastic * np.sqrt(energy), noise),
    )


def _cms_hadronic_resolution(energy, eta):
    """110 % / sqrt(E) + 9 %; forward 280 % / sqrt(E) + 11 %."""
    forward = np.abs(eta) >= geometry.FORWARD_START
    return np.where(
        forward,
        _quadrature(0.11 * energy, 2.80 * np.sqrt(energy)),
        _quadrature(0.09 * energy, 1.10 * np.sqrt(energy)),
    )


def _cms_crystal_response(eta, phi):
    return geometry.cms_cracks(eta, phi) * ~geometry.cms_dead(eta, phi)


CMS = Detector(
    "CMS-like",
    field=3.8,
    calorimeter_radius=1.29,
    calorimeter_z=3.154,
    track_efficiency=_cms_track_efficiency,
    track_resolution=_cms_track_resolution,
    d0_resolution=_cms_d0_resolution,
    dz_resolution=_cms_dz_resolution,
    crystals=geometry.cms_crystals,
    towers=geometry.cms_towers,
    forward_towers=geometry.forward_towers,
    crystal_response=_cms_crystal_response,
    electromagnetic_resolution=_cms_electromagnetic_resolution,
    hadronic_resolution=_cms_hadronic_resolution,
    thresholds={"electromagnetic": 0.3, "hadronic": 1.0, "forward": 1.4},
)


def _atlas_track_efficiency(pt, eta, code):
    """The card's values for hadrons (electrons taken alike) and muons; tracks below 0.5 GeV are not
    looked for.
    """
    central, hard = np.abs(eta) < 1.5, pt > 1.0
    hadron = np.where(central, np.where(hard, 0.95, 0.70), np.where(hard, 0.85, 0.60))
    muon = np.where(central, np.where(hard, 0.99, 0.75), np.where(hard, 0.98, 0.70))
    return np.where(code == 13, muon, hadron) * (pt > 0.5) * (np.abs(eta) < TRACKER_END)


def _atlas_track_resolution(pt, eta):
    """In |eta| < 0.5, < 1.5 and beyond the card's constants for muons, for all: those for hadrons,
    6 to 25 %, are not ATLAS'.
    """
    i = np.searchsorted([0.5, 1.5], np.abs(eta))
    return _quadrature(
        np.array([0.010, 0.015, 0.025])[i], np.array([1.0e-4, 1.5e-4, 3.5e-4])[i] * pt
    )


def _atlas_electromagnetic_resolution(energy, eta):
    return _quadrature(0.0017 * energy, 0.101 * np.sqrt(energy))


def _atlas_hadronic_resolution(energy, eta):
    return np.where(
        np.abs(eta) <= 1.7,
        _quadrature(0.0302 * energy, 0.5205 * np.sqrt(energy), 1.59),
        _quadrature(0.05 * energy, 0.706 * np.sqrt(energy)),
    )


ATLAS = Detector(
    "ATLAS-like",
    field=2.0,
    calorimeter_radius=1.15,
    calorimeter_z=3.51,
    track_efficiency=_atlas_track_efficiency,
    track_resolution=_atlas_track_resolution,
    # arXiv:1704.07983, with the innermost pixel layer of Run 2
    d0_resolution=lambda pt, eta: _quadrature(0.012, 0.085 / (pt * np.cosh(eta) ** -0.5)),
    dz_resolution=lambda pt, eta: _quadrature(
        0.030 * np.cosh(eta), 0.120 / (pt * np.cosh(eta) ** -1.5)
    ),
    crystals=geometry.atlas_crystals,
    towers=geometry.atlas_towers,
    forward_towers=None,
    crystal_response=lambda eta, phi: np.ones_like(eta),
    electromagnetic_resolution=_atlas_electromagnetic_resolution,
    hadronic_resolution=_atlas_hadronic_resolution,
    thresholds={"electromagnetic": 0.5, "hadronic": 1.0, "forward": 0.0},
)
