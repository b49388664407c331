"""Features of constituents by name: one table says what each needs and how it is computed.

Definitions are those of the Particle Transformer, arXiv:2202.03772 (table 2), but deta is not
mirrored at negative jet eta, as it is in the files of JetClass. Masses of constituents are not
used. A new feature is a row in `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics, packed
from jetnb.names import PARTICLES
from jetnb.packed import Batch

AXIS = ("pt", "eta", "phi", "mass")
RESOLUTION = (
    0.1  # mm: where asinh turns from a line into a logarithm, a usual uncertainty of d0 and dz
)
COPY = "jet_"  # jet_pt and so on: the jet's own number, the same for all of its constituents


class Feature(NamedTuple):
    """needs, jet_needs: names of fields of constituents and of their jets. make(c, jet): the
    feature (T,).

    c and jet give the fields by name, (T,) each: those of the jet once for each of its
    constituents.
    """

    needs: tuple[str, ...]
    jet_needs: tuple[str, ...]
    make: Callable[[Mapping, Mapping], np.ndarray]


def _plain(name: str) -> Feature:
    return Feature((name,), (), lambda c, jet: c[name])


def _with_track(name: str, make: Callable) -> Feature:
    return Feature(
        (name, "has_track"), (), lambda c, jet: np.where(c["has_track"], make(c[name]), 0)
    )


def _significance(name: str) -> Feature:
    def make(c, jet):
        value, error = c[name], c[f"{name}_error"]
        known = (c["has_track"] > 0) & (error > 0)
        return np.where(known, np.arcsinh(value / np.where(known, error, 1)), 0)

    return Feature((name, f"{name}_error", "has_track"), (), make)


def _is(particle: str) -> Feature:
    return Feature(
        ("pdg_id",), (), lambda c, jet: np.isin(c["pdg_id"], PARTICLES[particle].pdg_ids)
    )


def _dphi(c: Mapping, jet: Mapping) -> np.ndarray:
    return kinematics.wrap(c["phi"] - jet["phi"])


def _delta_r(c: Mapping, jet: Mapping) -> np.ndarray:
    return np.hypot(c["eta"] - jet["eta"], _dphi(c, jet))


def _log_energy_rel(c: Mapping, jet: Mapping) -> np.ndarray:
    return np.log(c["energy"]) - np.log(kinematics.energy(jet["pt"], jet["eta"], jet["mass"]))


TABLE = {
    "deta": Feature(("eta",), ("eta",), lambda c, jet: c["eta"] - jet["eta"]),
    "dphi": Feature(("phi",), ("phi",), _dphi),
    "log_pt": Feature(("pt",), (), lambda c, jet: np.log(c["pt"])),
    "log_energy": Feature(("energy",), (), lambda c, jet: np.log(c["energy"])),
    "log_pt_rel": Feature(("pt",), ("pt",), lambda c, jet: np.log(c["pt"]) - np.log(jet["pt"])),
    "log_energy_rel": Feature(("energy",), ("pt", "eta", "mass"), _log_energy_rel),
    "delta_r": Feature(("eta", "phi"), ("eta", "phi"), _delta_r),
    "charge": _plain("charge"),
    "has_track": _plain("has_track"),
    **{f"is_{name}": _is(name) for name in PARTICLES},
    "tanh_d0": _with_track("d0", np.tanh),
    "d0_error": _with_track("d0_error", lambda value: np.clip(value, 0, 1)),
    "tanh_dz": _with_track("dz", np.tanh),
    "dz_error": _with_track("dz_error", lambda value: np.clip(value, 0, 1)),
    "d0_significance": _significance("d0"),
    "dz_significance": _significance("dz"),
    **{name: _plain(name) for name in ("pt", "eta", "phi", "d0", "z0", "dz")},
    "theta": Feature(("eta",), (), lambda c, jet: 2 * np.arctan(np.exp(-c["eta"]))),
    "asinh_d0": Feature(("d0",), (), lambda c, jet: np.arcsinh(c["d0"] / RESOLUTION)),
    "asinh_dz": Feature(("dz",), (), lambda c, jet: np.arcsinh(c["dz"] / RESOLUTION)),
    "abs_dz": Feature(("dz",), (), lambda c, jet: abs(c["dz"])),
    "asinh_abs_dz": Feature(("dz",), (), lambda c, jet: np.arcsinh(abs(c["dz"]) / RESOLUTION)),
}
KINEMATIC = ("deta", "dphi", "log_pt", "log_energy", "log_pt_rel", "log_energy_rel", "delta_r")
TYPES = tuple(f"is_{name}" for name in PARTICLES)
TRACK = ("tanh_d0", "d0_error", "tanh_dz", "dz_error")
FEATURES = (*KINEMATIC, "charge", *TYPES, *TRACK)
UNSCALED = ("charge", *TYPES)


def available(jets: ak.Array) -> tuple[str, ...]:
    """Names of the features, in the order of `FEATURES`, that these jets have all fields for."""
    have = jets.constituents.fields
    return tuple(name for name in FEATURES if all(field in have for field in TABLE[name].needs))


def needs(features: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Fields of constituents and fields of jets that `features` are made of, each once."""
    rows = [_row(name) for name in features]
    return (
        tuple(dict.fromkeys(field for row in rows for field in row.needs)),
        tuple(dict.fromkeys(field for row in rows for field in row.jet_needs)),
    )


def check(
    features: Iterable[str], fields: Sequence[str], jet_fields: Sequence[str]
) -> tuple[str, ...]:
    """`features` as a tuple of names, if they can be made of these fields of constituents and of
    jets.

    Raises `ValueError` naming the first feature that is unknown, or the field that it lacks.
    """
    features = (features,) if isinstance(features, str) else tuple(features)
    if not features:
        raise ValueError(f"features is empty: use some of {', '.join(TABLE)}")
    numbers = [name for name in jet_fields if name != "constituents"]
    for name in features:
        copied = name.removeprefix(COPY)
        if name not in TABLE and (copied == name or copied not in numbers):
            raise ValueError(
                f"feature {name!r} is unknown: use some of {', '.join(TABLE)}, or {COPY} before one of "
                f"the fields of these jets, {', '.join(numbers)}"
            )
        row = _row(name)
        if missing := [field for field in row.needs if field not in fields]:
            raise ValueError(
                f"feature {name!r} needs the constituent field {missing[0]!r}; there are only "
                f"{', '.join(fields)}: leave it out, inputs.available(jets) says what is possible"
            )
        if missing := [field for field in row.jet_needs if field not in numbers]:
            raise ValueError(
                f"feature {name!r} needs the jet field {missing[0]!r}; there are only "
                f"{', '.join(numbers)}"
            )
    return features


def compute(jets: ak.Array, features: Iterable[str] = KINEMATIC) -> Batch:
    """Features of all constituents of N jets, as packed batch.

    jets: N jets; constituents are taken relative to the stored pt, eta, phi and mass of their jet.
    features: F names of `TABLE`; `available(jets)` says which of `FEATURES` these jets can give.
    They are: deta, dphi: constituent minus jet axis, dphi folded into [-pi, pi]; delta_r: the
    length of both; log_pt, log_energy: natural logarithms of values in GeV; log_pt_rel,
    log_energy_rel: of the shares in the jet's; charge in e; is_charged_hadron and so on: 1 for this
    particle type of `names.PARTICLES`, else 0; tanh_d0, tanh_dz: hyperbolic tangent of the value in
    mm; d0_error, dz_error in mm, clipped to [0, 1]; d0_significance, dz_significance: arcsinh of
    the value over its uncertainty, linear for small and logarithmic for large ones; all six are 0
    where the constituent has no track, the last two also where the uncertainty is 0; asinh_d0,
    asinh_dz: arcsinh of the value over 0.1 mm, asinh_abs_dz of its absolute value; abs_dz [mm]:
    that value; pt [GeV], eta, phi [rad], d0, z0, dz [mm] as they are; theta [rad]: the polar angle;
    jet_ and the name of a jet field: that number of the jet, for each of its constituents.

    Returns `Batch(x (T, F) float32, offsets (N+1,) int64)`, not scaled. Raises `ValueError` for an
    unknown feature, a field that the jets do not have, and a result that is not finite.
    arXiv:2202.03772 (table 2).

    >>> import jetnb
    >>> x, offsets = compute(jetnb.load("jetclass")[:10], ["log_pt_rel", "delta_r"])
    >>> x.shape == (offsets[-1], 2)
    True

    """
    features = check(features, jets.constituents.fields, jets.fields)
    fields, jet_fields = needs(features)
    columns = {name: jetnb.jets.plain(name, jets[name]) for name in jet_fields}
    return compute_packed(pack(jets, fields), fields, jets=columns, features=features)


def compute_packed(
    batch: Batch,
    fields: Sequence[str],
    *,
    jets: ak.Array | Mapping,
    features: Iterable[str] = KINEMATIC,
) -> Batch:
    """The same as `compute`, from constituent fields that are packed already, as `Store.gather`
    gives them.

    batch: `Batch(x (T, len(fields)), offsets (B+1,))`. fields: what its columns are. jets: the
    fields of these B jets that the features need, at most pt [GeV], eta, phi [rad] and mass [GeV],
    as jets array or as mapping of arrays (B,). features, result and errors as `compute`.

        batch = store.gather(indices, fields)
        axes = store.jets[["pt", "eta", "phi", "mass"]][indices]
        x, offsets = compute_packed(batch, fields, jets=axes, features=features)
    """
    offsets = np.asarray(batch.offsets, np.int64)
    if batch.x.shape != (offsets[-1], len(fields)):
        raise ValueError(
            f"batch.x has shape {batch.x.shape}, but {len(fields)} fields and {offsets[-1]} constituents "
            "are expected: name its columns in `fields`, in order"
        )
    features = check(features, fields, list(jets) if isinstance(jets, Mapping) else jets.fields)
    counts, of_jet = np.diff(offsets), {}
    for name in needs(features)[1]:
        values = jets[name] if isinstance(jets, Mapping) else jetnb.jets.plain(name, jets[name])
        if len(values) != len(counts):
            raise ValueError(
                f"jets: {len(values)} jets for a batch of {len(counts)}: pass the jets of this batch"
            )
        of_jet[name] = np.repeat(np.asarray(values, np.float64), counts)
    of_constituent = dict(zip(fields, batch.x.T, strict=True))
    x = np.empty((len(batch.x), len(features)), np.float32)  # (T, F)
    with np.errstate(all="ignore"):  # the reason is said below
        for i, name in enumerate(features):
            x[:, i] = _row(name).make(of_constituent, of_jet)
    if not np.isfinite(x.sum(dtype=np.float64)):
        row, column = np.argwhere(~np.isfinite(x))[0]
        jet = np.searchsorted(offsets, row, side="right") - 1
        raise ValueError(
            f"feature {features[column]!r} is {x[row, column]} for constituent {row - offsets[jet]} of "
            f"jet {jet}: pt and energy must be positive and all fields finite, see jetnb.jets.check"
        )
    return Batch(x, offsets)


def pack(jets: ak.Array, fields: Sequence[str]) -> Batch:
    """Constituent `fields` of N jets as packed batch, x (T, F) float32."""
    offsets = packed.starts(
        jetnb.jets.plain("the number of constituents", ak.num(jets.constituents))
    )
    x = np.empty((offsets[-1], len(fields)), np.float32)
    for i, field in enumerate(fields):
        x[:, i] = jetnb.jets.plain(f"constituents.{field}", ak.flatten(jets.constituents[field]))
    return Batch(x, offsets)


def _row(name: str) -> Feature:
    """The row of a feature; of one that is not in the table, the one that copies a number of the
    jet.
    """
    return TABLE.get(name) or Feature(
        (), (name.removeprefix(COPY),), lambda c, jet: jet[name.removeprefix(COPY)]
    )
