"""Model inputs: features of constituents by name as one packed batch, the scaler, and momenta relative to the jet axis.

    batch = inputs.compute(train, inputs.KINEMATIC)  # (T, 7), offsets (N+1,)
    scaler = inputs.Scaler.fit(batch.x, inputs.KINEMATIC)
    x = scaler.transform(batch.x)

Definitions are those of the Particle Transformer, arXiv:2202.03772 (table 2), but deta is not mirrored at negative jet
eta, as it is in the files of JetClass. Masses of constituents are not used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np

from jetnb import atomic
from jetnb import jets as J
from jetnb.names import PARTICLES
from jetnb.store import Batch

KINEMATIC = ("deta", "dphi", "log_pt", "log_energy", "log_pt_rel", "log_energy_rel", "delta_r")
TYPES = tuple(f"is_{name}" for name in PARTICLES)
TRACK = ("tanh_d0", "d0_error", "tanh_dz", "dz_error")
FEATURES = (*KINEMATIC, "charge", *TYPES, *TRACK)
UNSCALED = ("charge", *TYPES)
AXIS = ("pt", "eta", "phi", "mass")
MOMENTA = ("pt", "eta", "phi", "energy")
NEEDS = {"deta": ("eta",), "dphi": ("phi",), "delta_r": ("eta", "phi"), "charge": ("charge",),
         "log_pt": ("pt",), "log_pt_rel": ("pt",), "log_energy": ("energy",), "log_energy_rel": ("energy",),
         "tanh_d0": ("d0", "has_track"), "tanh_dz": ("dz", "has_track"),
         "d0_error": ("d0_error", "has_track"), "dz_error": ("dz_error", "has_track"),
         **dict.fromkeys(TYPES, ("pdg_id",))}


def available(jets: ak.Array) -> tuple[str, ...]:
    """Names of the features, in the order of `FEATURES`, that these jets have all fields for."""
    have = jets.constituents.fields
    return tuple(name for name in FEATURES if all(field in have for field in NEEDS[name]))


def compute(jets: ak.Array, features: Iterable[str] = KINEMATIC) -> Batch:
    """Features of all constituents of N jets, as packed batch.

    jets: N jets; constituents are taken relative to the stored pt, eta, phi and mass of their jet.
    features: F names out of `FEATURES`; `available(jets)` says which of them these jets can give. They are:
    deta, dphi: constituent minus jet axis, dphi folded into [-pi, pi]; delta_r: the length of both;
    log_pt, log_energy: natural logarithms of values in GeV; log_pt_rel, log_energy_rel: of the shares in the jet's;
    charge in e; is_charged_hadron and so on: 1 for this particle type of `names.PARTICLES`, else 0;
    tanh_d0, tanh_dz: hyperbolic tangent of the value in mm; d0_error, dz_error in mm, clipped to [0, 1]; all four are
    0 where the constituent has no track.

    Returns `Batch(x (T, F) float32, offsets (N+1,) int64)`, not scaled. Raises `ValueError` for an unknown feature, a
    field that the jets do not have, and a result that is not finite. arXiv:2202.03772 (table 2).

    >>> import jetnb
    >>> x, offsets = compute(jetnb.load("jetclass")[:10], ["log_pt_rel", "delta_r"])
    >>> x.shape == (offsets[-1], 2)
    True

    Taught in notebook 04.
    """
    features = _known(features)
    fields = tuple(dict.fromkeys(field for name in features for field in NEEDS[name]))
    return compute_packed(_packed(jets, fields, features), fields, jets=jets, features=features)


def compute_packed(batch: Batch, fields: Sequence[str], *, jets: ak.Array | Mapping,
                   features: Iterable[str] = KINEMATIC) -> Batch:
    """The same as `compute`, from constituent fields that are packed already, as `Store.gather` gives them.

    batch: `Batch(x (T, len(fields)), offsets (B+1,))`. fields: what its columns are. jets: pt [GeV], eta, phi [rad] and
    mass [GeV] of these B jets, as jets array or as mapping of arrays (B,). features, result and errors as `compute`.

        batch = store.gather(indices, fields)
        axes = store.jets[["pt", "eta", "phi", "mass"]][indices]
        x, offsets = compute_packed(batch, fields, jets=axes, features=features)
    """
    features, offsets = _known(features), np.asarray(batch.offsets, np.int64)
    if batch.x.shape != (offsets[-1], len(fields)):
        raise ValueError(f"batch.x has shape {batch.x.shape}, but {len(fields)} fields and {offsets[-1]} constituents "
                         "are expected: name its columns in `fields`, in order")
    _need(features, fields)
    raw = dict(zip(fields, batch.x.T, strict=True))
    axis = dict(zip(AXIS, _axis(jets), strict=True))
    if len(axis["pt"]) != len(offsets) - 1:
        raise ValueError(f"jets: {len(axis['pt'])} jets for a batch of {len(offsets) - 1}: pass the jets of this batch")
    axis["energy"] = np.sqrt((axis["pt"] * np.cosh(axis["eta"])) ** 2 + axis["mass"] ** 2)
    counts = np.diff(offsets)
    x = np.empty((len(batch.x), len(features)), np.float32)  # (T, F)
    with np.errstate(all="ignore"):  # the reason is said below
        for i, name in enumerate(features):
            x[:, i] = _feature(name, raw, axis, counts)
    if not np.isfinite(x.sum(dtype=np.float64)):
        row, column = np.argwhere(~np.isfinite(x))[0]
        jet = np.searchsorted(offsets, row, side="right") - 1
        raise ValueError(f"feature {features[column]!r} is {x[row, column]} for constituent {row - offsets[jet]} of "
                         f"jet {jet}: pt and energy must be positive and all fields finite, see jetnb.jets.check")
    return Batch(x, offsets)


class Scaler(NamedTuple):
    """Mean and width of each feature: `fit` on the training jets only, `transform`, and `inverse` to come back.

    Charge and flags of particle types stay as they are, since a rare type would be many widths from its mean; a feature
    that is constant is only shifted. Nothing is clipped, so `inverse` undoes `transform` to float32 precision.
    Taught in notebook 04.
    """

    features: tuple[str, ...]
    mean: tuple[float, ...]
    width: tuple[float, ...]

    @classmethod
    def fit(cls, x: np.ndarray, features: Iterable[str]) -> Scaler:
        """Scaler of the constituents x (T, F) of training jets; features: their F names, in order.

        Raises `ValueError` for no constituents, values that are not finite, and a number of names other than F.
        """
        features = tuple(features)
        x = _columns(x, features)
        if len(x) == 0:
            raise ValueError("x has no constituents: a scaler is fitted on those of the training jets")
        mean = x.mean(axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise ValueError(f"feature {features[np.argmin(np.isfinite(mean))]!r} is not finite everywhere: "
                             "make x with inputs.compute, which checks")
        width = x.std(axis=0, dtype=np.float64)
        constant, unscaled = np.ptp(x, axis=0) == 0, np.isin(features, UNSCALED)
        return cls(features, tuple(np.where(unscaled, 0.0, mean).tolist()),
                   tuple(np.where(constant | unscaled, 1.0, width).tolist()))

    def transform(self, x: np.ndarray) -> np.ndarray:
        """(x - mean) / width: x (T, F) to (T, F) float32."""
        return (_columns(x, self.features) - np.float32(self.mean)) / np.float32(self.width)

    def inverse(self, x: np.ndarray) -> np.ndarray:
        """x * width + mean: x (T, F) to (T, F) float32."""
        return _columns(x, self.features) * np.float32(self.width) + np.float32(self.mean)

    def to_dict(self) -> dict:
        """As plain names and numbers, for a checkpoint or JSON."""
        return {name: list(values) for name, values in self._asdict().items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> Scaler:
        """The scaler that `to_dict` wrote. Raises `ValueError` for anything else."""
        lengths = {len(values[name]) for name in cls._fields} if set(values) == set(cls._fields) else set()
        if len(lengths) != 1:
            raise ValueError(f"this is no scaler: it needs {', '.join(cls._fields)} of one length, not {dict(values)}")
        return cls(*(tuple(values[name]) for name in cls._fields))

    def save(self, path) -> None:
        """Write as JSON to `path`, replacing what is there only when complete."""
        with atomic.new_file(Path(path), replace=True) as file:
            file.write_text(json.dumps(self.to_dict(), indent=1))

    @classmethod
    def load(cls, path) -> Scaler:
        """Read what `save` wrote. Raises `ValueError` for another content."""
        return cls.from_dict(json.loads(Path(path).read_text()))


def to_relative(jets: ak.Array) -> Batch:
    """Momenta of constituents relative to their jet axis: what a generator of jets learns.

    Returns `Batch(x (T, 3) float32, offsets (N+1,))` with the columns pt [GeV], eta_rel, phi_rel [rad], phi_rel folded.
    `from_relative` is the inverse, but for the masses of constituents. Taught in notebook 04.
    """
    x, offsets = compute(jets, ("deta", "dphi"))
    return Batch(np.column_stack([_packed(jets, ("pt",), ()).x, x]), offsets)


def from_relative(batch: Batch, *, provenance: Mapping, eta=0.0, phi=0.0) -> ak.Array:
    """Jets of massless constituents from their relative momenta, as a generator makes them.

    batch: `Batch(x (T, 3), offsets (B+1,))` with columns pt [GeV], eta_rel, phi_rel [rad], constituents in any
    order. eta, phi: the axis that they are relative to, one number or (B,). provenance: as for `jets.build`.
    Returns B jets; pt, eta, phi and mass are those of the sum of constituents, which are sorted by falling pt.
    Raises `ValueError` for a jet without constituents, and for a pt that is not positive. Taught in notebook 05.
    """
    x, offsets = np.asarray(batch.x, np.float64), np.asarray(batch.offsets, np.int64)
    counts, n_jets = np.diff(offsets), len(offsets) - 1
    if x.shape != (offsets[-1], 3):
        raise ValueError(f"batch.x has shape {x.shape}, but must be ({offsets[-1]}, 3): pt, eta_rel, phi_rel")
    if (counts < 1).any():
        raise ValueError(f"jet {np.argmax(counts < 1)} of {n_jets} has no constituents: leave it out")
    jet = np.repeat(np.arange(n_jets), counts)
    x, eta, phi = x[np.lexsort((-x[:, 0], jet))], *(np.broadcast_to(v, n_jets)[jet] for v in (eta, phi))
    columns = {"pt": x[:, 0], "eta": x[:, 1] + eta, "phi": _fold(x[:, 2] + phi)}
    pt, eta, phi = columns.values()
    columns["energy"] = pt * np.cosh(eta)
    px, py, pz, energy = (np.bincount(jet, weights=v, minlength=n_jets) for v in (
        pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), columns["energy"]))
    jet_pt = np.hypot(px, py)
    with np.errstate(all="ignore"):  # a pt that is 0 is refused by build, with the reason
        outer = {"pt": jet_pt, "eta": np.arcsinh(pz / jet_pt), "phi": _fold(np.arctan2(py, px)),
                 "mass": np.sqrt(np.maximum(energy**2 - jet_pt**2 - pz**2, 0))}
    return J.build(outer, columns, counts, provenance=provenance)


def _feature(name: str, raw: Mapping, axis: Mapping, counts: np.ndarray) -> np.ndarray:
    """One feature (T,)."""
    def relative(field):
        return raw[field] - np.repeat(axis[field], counts)

    if name == "deta":
        return relative("eta")
    if name == "dphi":
        return _fold(relative("phi"))
    if name == "delta_r":
        return np.hypot(relative("eta"), _fold(relative("phi")))
    if name in ("log_pt_rel", "log_energy_rel"):
        field = NEEDS[name][0]
        return np.log(raw[field]) - np.repeat(np.log(axis[field]), counts)
    if name in ("log_pt", "log_energy"):
        return np.log(raw[NEEDS[name][0]])
    if name in TYPES:
        return np.isin(raw["pdg_id"], PARTICLES[name.removeprefix("is_")].pdg_ids)
    if name == "charge":
        return raw["charge"]
    value = raw[NEEDS[name][0]]
    return np.where(raw["has_track"], np.tanh(value) if name.startswith("tanh") else np.clip(value, 0, 1), 0)


def _fold(phi: np.ndarray) -> np.ndarray:
    """Angle in [-pi, pi]; within it already, not a bit changes. Just inside, so that float32 does not leave it."""
    return np.clip(phi - 2 * np.pi * np.rint(phi / (2 * np.pi)), -J.PI, J.PI)


def _packed(jets: ak.Array, fields: Sequence[str], features: Sequence[str]) -> Batch:
    """Constituent `fields` as packed batch."""
    _need(features, jets.constituents.fields)
    offsets = np.concatenate([[0], np.cumsum(J.plain("the number of constituents", ak.num(jets.constituents)))])
    x = np.empty((offsets[-1], len(fields)), np.float32)
    for i, field in enumerate(fields):
        x[:, i] = J.plain(f"constituents.{field}", ak.flatten(jets.constituents[field]))
    return Batch(x, offsets)


def _axis(jets: ak.Array | Mapping) -> list[np.ndarray]:
    """pt, eta, phi and mass of the jets in float64, (B,) each."""
    have = list(jets) if isinstance(jets, Mapping) else jets.fields
    if missing := [name for name in AXIS if name not in have]:
        raise ValueError(f"jets: {missing[0]!r} is missing, there are only {', '.join(have)}: the jet axis needs "
                         f"{', '.join(AXIS)}")
    return [np.asarray(jets[name] if isinstance(jets, Mapping) else J.plain(name, jets[name]), np.float64)
            for name in AXIS]


def _known(features: Iterable[str]) -> tuple[str, ...]:
    features = (features,) if isinstance(features, str) else tuple(features)
    if unknown := [name for name in features if name not in FEATURES]:
        raise ValueError(f"features: {unknown[0]!r} is unknown: use some of {', '.join(FEATURES)}")
    return features


def _need(features: Sequence[str], have: Sequence[str]) -> None:
    for name in features:
        if missing := [field for field in NEEDS[name] if field not in have]:
            raise ValueError(f"feature {name!r} needs the constituent field {missing[0]!r}; there are only "
                             f"{', '.join(have)}: leave it out, inputs.available(jets) says what is possible")


def _columns(x: np.ndarray, features: Sequence[str]) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim != 2 or x.shape[1] != len(features):
        raise ValueError(f"x has shape {x.shape}, but the {len(features)} features {', '.join(features)} are expected")
    return x
