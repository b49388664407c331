"""Momenta relative to the jet axis, as a generator of jets learns and makes them, and jets of them."""

from __future__ import annotations

from collections.abc import Mapping

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics, packed
from jetnb.inputs.features import compute
from jetnb.packed import Batch


def to_relative(jets: ak.Array) -> Batch:
    """Momenta of constituents relative to their jet axis: what a generator of jets learns.

    Returns `Batch(x (T, 3) float32, offsets (N+1,))` with the columns pt [GeV], eta_rel, phi_rel
    [rad], phi_rel folded. `from_relative` is the inverse, but for the masses of constituents.
    Taught in notebook 06.
    """
    return compute(jets, ("pt", "deta", "dphi"))


def from_relative(batch: Batch, *, provenance: Mapping, eta=0.0, phi=0.0) -> ak.Array:
    """Jets of massless constituents from their relative momenta, as a generator makes them.

    batch: `Batch(x (T, 3), offsets (B+1,))` with columns pt [GeV], eta_rel, phi_rel [rad],
    constituents in any order. eta, phi: the axis that they are relative to, one number or (B,).
    provenance: as for `jets.build`. Returns B jets; pt, eta, phi and mass are those of the sum of
    constituents, which are sorted by falling pt. Raises `ValueError` for a jet without
    constituents, and for a pt that is not positive. Taught in notebook 05.
    """
    x, offsets = np.asarray(batch.x, np.float64), np.asarray(batch.offsets, np.int64)
    counts, n_jets = np.diff(offsets), len(offsets) - 1
    if x.shape != (offsets[-1], 3):
        raise ValueError(
            f"batch.x has shape {x.shape}, but must be ({offsets[-1]}, 3): pt, eta_rel, phi_rel"
        )
    if (counts < 1).any():
        raise ValueError(
            f"jet {np.argmax(counts < 1)} of {n_jets} has no constituents: leave it out"
        )
    jet = packed.jet_of(counts)
    eta, phi = (np.broadcast_to(np.asarray(axis), n_jets)[jet] for axis in (eta, phi))
    x = x[np.lexsort((-x[:, 0], jet))]
    inside = {"pt": x[:, 0], "eta": x[:, 1] + eta, "phi": kinematics.wrap(x[:, 2] + phi)}
    inside["energy"] = kinematics.energy(inside["pt"], inside["eta"])
    momenta = kinematics.to_cartesian(inside["pt"], inside["eta"], inside["phi"])
    outer = kinematics.total(*momenta, inside["energy"], jet, n_jets)
    return jetnb.jets.build(outer, inside, counts, provenance=provenance)
