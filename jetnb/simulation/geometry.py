"""Calorimeter cells: from a direction to the cell it hits. Positions in eta and phi [rad], lengths
in metres.

CMS: JINST 3 (2008) S08004. Barrel crystals are 1 degree in phi and 0.0174 in eta up to 1.479;
endcap crystals sit on a square x-y grid of 28.62 mm at |z| = 3.154 m; hadronic towers are 0.087 x 5
degrees up to 1.74 and coarser beyond; the forward calorimeter covers 3 < |eta| < 5.2 in towers of
0.175 x 10 degrees. ATLAS: the granularity of the Delphes 3 ATLAS card (arXiv:1307.6346).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CRYSTAL = np.pi / 180
BARREL_END, FORWARD_START, FORWARD_END = 1.479, 3.0, 5.191
# Cables and supports between barrel and endcap, EGM convention (arXiv:2012.06888)
CMS_GAP = (1.444, 1.566)
ENDCAP_Z, ENDCAP_PITCH = 3.154, 0.02862

_TOWER_EDGES = np.array([*(0.087 * np.arange(21)), 1.83, 1.93, 2.043, 2.172, 2.322, 2.5, 2.65, 3.0])
_FORWARD_EDGES = np.array(
    [3.0, 3.139, 3.314, 3.489, 3.664, 3.839, 4.013, 4.191, 4.363, 4.538, 4.716, 4.889, 5.191]
)
_ATLAS_TOWER_EDGES = np.array([*(0.1 * np.arange(27)), 3.2])


class Cells(NamedTuple):
    """Cell of each direction: an integer key, the centre of the cell, and its smaller width in eta
    and phi.
    """

    key: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    size: np.ndarray


def _grid(eta, phi, edges, phi_width, offset) -> Cells:
    """Cells between edges in |eta|, of phi_width [rad] each."""
    i = np.clip(np.searchsorted(edges, np.abs(eta), "right") - 1, 0, len(edges) - 2)
    width = phi_width(0.5 * (edges[i] + edges[i + 1]))
    j = np.floor(phi / width).astype(np.int64)
    side = eta > 0
    key = offset + ((i * 2 + side) * 1000 + j + 500)
    return Cells(
        key,
        0.5 * (edges[i] + edges[i + 1]) * np.where(side, 1, -1),
        (j + 0.5) * width,
        np.minimum(edges[i + 1] - edges[i], width),
    )


def cms_crystals(eta: np.ndarray, phi: np.ndarray) -> Cells:
    """3 x 3 crystals make one cluster: its seed is above all of its eight neighbours
    (arXiv:1706.04965, section 3.4), so that closer photons merge. The centre is that of the crystal
    that was hit first."""
    barrel = np.abs(eta) < BARREL_END
    i, j = np.floor(eta / CRYSTAL).astype(np.int64), np.floor(phi / CRYSTAL).astype(np.int64)
    radius = ENDCAP_Z / np.sinh(np.maximum(np.abs(eta), 1.0))
    u = np.floor(radius * np.cos(phi) / ENDCAP_PITCH).astype(np.int64)
    v = np.floor(radius * np.sin(phi) / ENDCAP_PITCH).astype(np.int64)
    x, y = (u + 0.5) * ENDCAP_PITCH, (v + 0.5) * ENDCAP_PITCH
    endcap_eta = np.arcsinh(ENDCAP_Z / np.hypot(x, y)) * np.sign(eta)
    side = (eta > 0).astype(np.int64)
    key = np.where(
        barrel,
        (i // 3 + 100) * 1000 + j // 3 + 200,
        1_000_000 * (1 + side) + (u // 3 + 200) * 1000 + v // 3 + 200,
    )
    return Cells(
        key,
        np.where(barrel, (i + 0.5) * CRYSTAL, endcap_eta),
        np.where(barrel, (j + 0.5) * CRYSTAL, np.arctan2(y, x)),
        np.where(barrel, CRYSTAL, ENDCAP_PITCH / np.hypot(x, y)),
    )


def cms_towers(eta: np.ndarray, phi: np.ndarray) -> Cells:
    """Hadronic towers, 5 degrees in phi up to |eta| = 1.74 and 10 beyond."""
    return _grid(eta, phi, _TOWER_EDGES, lambda c: np.radians(np.where(c < 1.74, 5, 10)), 4_000_000)


def forward_towers(eta: np.ndarray, phi: np.ndarray) -> Cells:
    """Forward calorimeter, 10 degrees in phi and 20 beyond |eta| = 4.716."""
    return _grid(
        eta, phi, _FORWARD_EDGES, lambda c: np.radians(np.where(c < 4.716, 10, 20)), 6_000_000
    )


def atlas_crystals(eta: np.ndarray, phi: np.ndarray) -> Cells:
    """Electromagnetic cells of the Delphes ATLAS card, 0.0174 x 1 degree up to |eta| = 3, merged 2
    x 2.
    """
    i, j = np.floor(eta / CRYSTAL).astype(np.int64), np.floor(phi / CRYSTAL).astype(np.int64)
    return Cells(
        (i // 2 + 200) * 1000 + j // 2 + 200,
        (i + 0.5) * CRYSTAL,
        (j + 0.5) * CRYSTAL,
        np.full(len(i), CRYSTAL),
    )


def atlas_towers(eta: np.ndarray, phi: np.ndarray) -> Cells:
    """Hadronic towers of the Delphes ATLAS card, 0.1 x 10 degrees, 20 degrees beyond |eta| = 2.5."""
    return _grid(
        eta, phi, _ATLAS_TOWER_EDGES, lambda c: np.radians(np.where(c < 2.5, 10, 20)), 4_000_000
    )


def cms_dead(eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """True in a fixed, made-up set of 0.4 % of the 5 x 5-crystal trigger towers: the holes seen in
    real maps.
    """
    tower = np.floor(eta / (5 * CRYSTAL)).astype(np.int64) * 97 + np.floor(
        phi / (5 * CRYSTAL)
    ).astype(np.int64)
    mixed = (tower.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return mixed % np.uint64(1000) < 4


def cms_cracks(eta: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """Share of electromagnetic energy that is seen: lower in the barrel-endcap gap and between
    barrel modules.
    """
    near = np.abs(eta)
    between = np.abs((np.degrees(phi) + 10) % 20 - 10) < 0.25
    for edge in (0.0, 0.435, 0.783, 1.131):
        between |= np.abs(near - edge) < 0.004
    between &= near < BARREL_END
    return np.where((near > CMS_GAP[0]) & (near < CMS_GAP[1]), 0.6, np.where(between, 0.8, 1.0))
