"""Tracks of jets as model inputs: features by name, as packed batch and as data for training.

train = tracks.compute(jets, tracks.TRACK)
scaler = inputs.Scaler.fit(train.x, tracks.TRACK)
data = tracks.data(jets, tracks.TRACK, scaler=scaler, target=jets.label)
"""

from __future__ import annotations

from collections.abc import Iterable

import awkward as ak
import numpy as np

from jetnb import inputs
from jetnb.inputs import batches
from jetnb.packed import Batch

TRACK = ("pt", "eta", "phi", "d0", "z0", "theta", "dz")
SHAPED = ("log_pt_rel", "deta", "dphi", "asinh_d0", "asinh_dz")
N_TRACKS, PT_MAX = 35, 25.0


def compute(
    jets: ak.Array,
    features: Iterable[str] = TRACK,
    *,
    n_tracks: int = N_TRACKS,
    pt_max: float = PT_MAX,
) -> Batch:
    """Features of the tracks of N jets, as packed batch; a jet may be left without tracks.

    jets: N jets, whose constituents are tracks, or have some among them (`has_track`), sorted by
    falling pt. features: F names, as in `inputs.compute`. n_tracks: as many tracks of each jet are
    kept, those of highest pt. pt_max [GeV]: harder tracks are left out first.

    Returns `Batch(x (T, F) float32, offsets (N+1,) int64)`, not scaled. Raises `ValueError` as
    `inputs.compute`, and for limits that are not positive. Taught in notebook 10.

    >>> import jetnb
    >>> x, offsets = compute(jetnb.load("pileup")[:10], ["dz", "jet_pt"])
    >>> x.shape == (offsets[-1], 2)
    True
    """
    if n_tracks < 1 or not pt_max > 0:
        raise ValueError(
            f"n_tracks is {n_tracks} and pt_max {pt_max}: both must be positive, e.g. 35 and 25 GeV"
        )
    found = jets.constituents
    kept = found.pt <= pt_max
    if "has_track" in found.fields:
        kept = kept & (found.has_track != 0)
    return inputs.compute(ak.with_field(jets, found[kept][:, :n_tracks], "constituents"), features)


def data(
    jets: ak.Array,
    features: Iterable[str] = TRACK,
    *,
    scaler: inputs.Scaler | None = None,
    target=None,
    n_tracks: int = N_TRACKS,
    pt_max: float = PT_MAX,
) -> batches.Packed:
    """Tracks of N jets as data for `training.fit`.

    features, n_tracks, pt_max and errors as for `compute`. scaler: `inputs.Scaler` of the same
    features, fitted on the training jets. target: (N,) or (N, K), labels or numbers to learn; None
    is no target. Returns `Packed(tracks (T, F), offsets (N+1,), target)`. Taught in notebook 10.
    """
    features = tuple(features)
    if scaler is not None and tuple(scaler.features) != features:
        raise ValueError(
            f"scaler is of the features {', '.join(scaler.features)}, not {', '.join(features)}: fit it "
            "to the same ones"
        )
    x, offsets = compute(jets, features, n_tracks=n_tracks, pt_max=pt_max)
    return batches.Packed(
        x if scaler is None else scaler.transform(x), offsets, *([] if target is None else [target])
    )


def count_displaced(
    jets: ak.Array, *, significance: float = 3.0, hardest: int | None = None
) -> np.ndarray:
    """How many tracks of each of N jets miss the collision point in the transverse plane, (N,)
    integers.

    significance: |d0| in units of its uncertainty that a track must exceed; those without an
    uncertainty do not count. hardest: look at so many constituents of each jet, the first of them;
    None is all. Soft tracks are displaced more often by accident. Raises `ValueError` for
    constituents without d0 and d0_error. Taught in notebook 15.
    """
    found = jets.constituents[:, :hardest]
    if missing := [name for name in ("d0", "d0_error") if name not in found.fields]:
        raise ValueError(
            f"the constituents have no field {missing[0]!r}, only {', '.join(found.fields)}: displaced "
            "tracks cannot be counted"
        )
    return np.asarray(
        ak.sum((found.d0_error > 0) & (abs(found.d0) > significance * found.d0_error), axis=-1)
    )
