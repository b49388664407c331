"""Tracks of jets as model inputs: features by name, as packed batch and as data for training.

    train = tracks.compute(jets, tracks.TRACK)
    scaler = inputs.Scaler.fit(train.x, tracks.TRACK)
    data = tracks.data(jets, tracks.TRACK, scaler=scaler, target=jets.label)
"""

from __future__ import annotations

from collections.abc import Iterable

import awkward as ak
import numpy as np

from jetnb import batches, inputs
from jetnb.store import Batch

TRACK = ("pt", "eta", "phi", "d0", "z0", "theta", "dz")
SHAPED = ("log_pt_rel", "deta", "dphi", "asinh_d0", "asinh_dz")
NEEDS = {**{name: (name,) for name in TRACK}, "theta": ("eta",), "log_pt": ("pt",), "log_pt_rel": ("pt",),
         "deta": ("eta",), "dphi": ("phi",), "asinh_d0": ("d0",), "asinh_dz": ("dz",), "abs_dz": ("dz",),
         "asinh_abs_dz": ("dz",)}
FEATURES = tuple(NEEDS)
JET_NEEDS = {"log_pt_rel": ("pt",), "deta": ("eta",), "dphi": ("phi",)}
COPY = "jet_"  # jet_pt and so on: the jet's own number, the same for all of its tracks
RESOLUTION = 0.1  # mm: where asinh turns from a line into a logarithm, a usual uncertainty of d0 and dz
N_TRACKS, PT_MAX = 35, 25.0


def compute(jets: ak.Array, features: Iterable[str] = TRACK, *, n_tracks: int = N_TRACKS,
            pt_max: float = PT_MAX) -> Batch:
    """Features of the tracks of N jets, as packed batch; a jet may be left without tracks.

    jets: N jets, whose constituents are tracks, or have some among them (`has_track`), sorted by falling pt.
    features: F names. pt [GeV], eta, phi [rad], d0, z0, dz [mm] are fields of the tracks; theta [rad] is the polar
    angle; log_pt and log_pt_rel are natural logarithms of the pt in GeV and of its share in the jet's; deta, dphi are
    track minus jet axis, dphi folded into [-pi, pi]; asinh_d0, asinh_dz are of the value over 0.1 mm, linear below and
    logarithmic above; abs_dz and asinh_abs_dz have no sign; "jet_" and the name of a jet field copies that number of
    the jet onto each of its tracks.
    n_tracks: as many tracks of each jet are kept, those of highest pt. pt_max [GeV]: harder tracks are left out first.

    Returns `Batch(x (T, F) float32, offsets (N+1,) int64)`, not scaled. Raises `ValueError` for an unknown feature, a
    field that the jets do not have, limits that are not positive, and a value that is not finite.
    Taught in notebook 10.

    >>> import jetnb
    >>> x, offsets = compute(jetnb.load("pileup")[:10], ["dz", "jet_pt"])
    >>> x.shape == (offsets[-1], 2)
    True
    """
    features = _known(jets, features)
    if n_tracks < 1 or not pt_max > 0:
        raise ValueError(f"n_tracks is {n_tracks} and pt_max {pt_max}: both must be positive, e.g. 35 and 25 GeV")
    found = jets.constituents
    kept = found.pt <= pt_max
    if "has_track" in found.fields:
        kept = kept & (found.has_track != 0)
    found = found[kept][:, :n_tracks]
    counts = ak.to_numpy(ak.num(found))
    jet = np.repeat(np.arange(len(counts)), counts)
    x = np.empty((len(jet), len(features)), np.float32)  # (T, F)
    with np.errstate(all="ignore"):  # the reason is said below
        for i, name in enumerate(features):
            x[:, i] = _feature(name, found, jets, jet)
    if not (finite := np.isfinite(x)).all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"feature {features[column]!r} is {x[row, column]} for a track of jet {jet[row]}: pt must be "
                         "positive and all fields finite, see jetnb.jets.check")
    return Batch(x, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def data(jets: ak.Array, features: Iterable[str] = TRACK, *, scaler: inputs.Scaler | None = None, target=None,
         n_tracks: int = N_TRACKS, pt_max: float = PT_MAX) -> batches.Packed:
    """Tracks of N jets as data for `training.fit`.

    features, n_tracks, pt_max and errors as for `compute`. scaler: `inputs.Scaler` of the same features, fitted on the
    training jets. target: (N,) or (N, K), labels or numbers to learn; None is no target.
    Returns `Packed(tracks (T, F), offsets (N+1,), target)`. Taught in notebook 10.
    """
    features = tuple(features)
    if scaler is not None and tuple(scaler.features) != features:
        raise ValueError(f"scaler is of the features {', '.join(scaler.features)}, not {', '.join(features)}: fit it "
                         "to the same ones")
    x, offsets = compute(jets, features, n_tracks=n_tracks, pt_max=pt_max)
    return batches.Packed(x if scaler is None else scaler.transform(x), offsets, *([] if target is None else [target]))


def count_displaced(jets: ak.Array, *, significance: float = 3.0, hardest: int | None = None) -> np.ndarray:
    """How many tracks of each of N jets miss the collision point in the transverse plane, (N,) integers.

    significance: |d0| in units of its uncertainty that a track must exceed; those without an uncertainty do not count.
    hardest: look at so many constituents of each jet, the first of them; None is all. Soft tracks are displaced more
    often by accident. Raises `ValueError` for constituents without d0 and d0_error. Taught in notebook 15.
    """
    found = jets.constituents[:, :hardest]
    if missing := [name for name in ("d0", "d0_error") if name not in found.fields]:
        raise ValueError(f"the constituents have no field {missing[0]!r}, only {', '.join(found.fields)}: displaced "
                         "tracks cannot be counted")
    return np.asarray(ak.sum((found.d0_error > 0) & (abs(found.d0) > significance * found.d0_error), axis=-1))


def _feature(name: str, found: ak.Array, jets: ak.Array, jet: np.ndarray) -> np.ndarray:
    """One feature (T,)."""
    def of_track(field):
        return ak.to_numpy(ak.flatten(found[field])).astype(np.float64)

    def of_jet(field):
        return np.asarray(jets[field], np.float64)[jet]

    if name.startswith(COPY):
        return of_jet(name.removeprefix(COPY))
    value = of_track(NEEDS[name][0])
    if name == "theta":
        return 2 * np.arctan(np.exp(-value))
    if name == "log_pt":
        return np.log(value)
    if name == "log_pt_rel":
        return np.log(value) - np.log(of_jet("pt"))
    if name == "deta":
        return value - of_jet("eta")
    if name == "dphi":
        turn = value - of_jet("phi")
        return turn - 2 * np.pi * np.rint(turn / (2 * np.pi))
    if "abs" in name:
        value = abs(value)
    return np.arcsinh(value / RESOLUTION) if name.startswith("asinh") else value


def _known(jets: ak.Array, features: Iterable[str]) -> tuple[str, ...]:
    features = (features,) if isinstance(features, str) else tuple(features)
    tracks, numbers = jets.constituents.fields, [name for name in jets.fields if name != "constituents"]
    if not features:
        raise ValueError(f"features is empty: use some of {', '.join(FEATURES)}")
    for name in features:
        copied = name.removeprefix(COPY)
        if name not in FEATURES and (copied == name or copied not in numbers):
            raise ValueError(f"feature {name!r} is unknown: use some of {', '.join(FEATURES)}, or {COPY} before one of "
                             f"the fields of these jets, {', '.join(numbers)}")
        if name in FEATURES and (missing := [field for field in NEEDS[name] if field not in tracks]):
            raise ValueError(f"feature {name!r} needs the constituent field {missing[0]!r}; there are only "
                             f"{', '.join(tracks)}: leave it out")
        if missing := [field for field in JET_NEEDS.get(name, ()) if field not in numbers]:
            raise ValueError(f"feature {name!r} needs the jet field {missing[0]!r}; there are {', '.join(numbers)}")
    return features
