"""The two cards of Delphes that public data sets were made with: towers, resolutions, thresholds.

An imitation follows the card of its data set, also where real detectors are better.

ATLAS_2016 is delphes_card_ATLAS.tcl, with Calorimeter.cc, of the releases 3.3.0 to 3.3.3. The Top
Tagging reference was made with that generation and not with the one of 2017, as its jets show.
Photons and neutral hadrons share directions to the last digit, because there one module makes both.
Of 1 075 such pairs in 500 jets no two lie in one tower of 0.1 x 10 degrees, while in towers of 0.11
x 11 degrees 31 do.

CMS_JETCLASS is the card that the authors of JetClass published (arXiv:2202.03772), run with Delphes
3.5. It smears momenta, but its TrackSmearing, whose formula for the momentum is 0, puts the true
momentum and an error of 0 in place of that. Without error tracks have no weight against the
calorimeter: where it sees no significant excess they take its energy, and below its threshold they
vanish. Hence tracks below 1 GeV are rare in JetClass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


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
               without a significant excess are scaled to the best estimate from both, as since 3.4
    momentum : |pdg id| -> constant and slope of the relative pt resolution in three regions of
               |eta|, 0 for hadrons; None: tracks have their true momentum, and no error
    d0, dz   : (pt, eta) -> mm, or None
    energy_flow : False: candidates are the towers of both calorimeters as they are, without tracks
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
    energy_flow: bool = True


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
            -3.0,
            -2.8,
            -2.6,
            2.8,
            3.0,
            3.2,
            *(0.1 * i for i in range(-49, -32, 2)),
            *(0.1 * i for i in range(35, 50, 2)),
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


def _impact(table: str) -> Callable:
    """Resolution (pt, eta) -> mm of three regions of |eta|, from micrometres in steps of pt."""
    table = 1e-3 * np.array(table.split(), float).reshape(3, -1)

    def resolution(pt, eta):
        step = np.ceil((np.log(np.maximum(pt, 1e-3)) + 1.702) / 0.2).astype(int) - 1
        return table[np.searchsorted([0.9, 1.4], np.abs(eta)), np.clip(step, 0, table.shape[1] - 1)]

    return resolution


# Impact parameter resolution in micrometres, |eta| < 0.9, < 1.4 and beyond, in steps of 0.2 in
# log(pt) from 0.18 GeV: arXiv:1405.6569, figure 15, as the authors of JetClass read it.
_D0 = _impact("""
    354 281 230 192 174 143 106 89.3 75.3 67 57.7 52.4 45.2 37.6 35 32.4 28.3 25.8 23.7 21.1 19.1
    16.4 15 14.3 13 13 11.6 11.6 11 11 11 10.4 10.9 11
    456 358 301 235 203 160 138 112 92.6 81.6 66.3 55.3 48.8 43.1 39.9 35.7 31.3 27.7 23.3 22.1 21.4
    18 15.5 14.1 12.8 13.4 12.1 10.8 10.1 10.1 10.1 10.2 8.8 9.5
    697 605 532 431 340 279 239 181 156 123 101 91.4 76.7 63.8 54.4 46.8 42.5 38.5 33.1 27.8 25.6
    23.6 21.7 19.6 17.6 16.5 15.7 15 14.4 14.4 13.7 13 13.7 13.7
    """)
_DZ = _impact("""
    369 314 312 258 222 194 169 135 111 98.3 88.2 78.6 68.4 61.5 55.1 51.6 48.4 45 41.6 41.6 38.2 35
    31.7 31.6 31.6 31.6 34.8 31.6 31.6 31.6 28.4 28.3 31.5 31.8
    706 601 599 496 388 320 265 252 198 159 140 120 103 96.7 80.5 73.6 70.7 60.3 60.9 54.1 51.1 44.3
    40.9 40.8 40.9 37.7 37.5 37.7 34.2 34.2 34.3 34.3 30.9 31
    2172 2072 2068 1768 1439 1200 980 825 670 554 437 371 332 272 244 208 182 164 145 132 112 102
    102 98.3 88.2 84.7 81.4 78.4 81.7 75 81.6 82 81.4 85
    """)


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
    d0=_D0,
    dz=_DZ,
)
