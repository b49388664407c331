"""Which fields a jets array has, and plain numbers of the right type in each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import awkward as ak
import numpy as np

from jetnb.names import CONSTITUENT_FIELDS, JET_FIELDS, Field

JETS_NEED = ("pt", "eta", "phi", "mass")
CONSTITUENTS_NEED = ("pt", "eta", "phi", "energy")
TRACK_FIELDS = ("d0", "d0_error", "dz", "dz_error")
DERIVED = {
    "constituents.theta": "jets.constituents.theta",
    "constituents.deta": "jets.constituents.deltaeta(jets)",
    "constituents.dphi": "jets.constituents.deltaphi(jets)",
}
INSIDE = "constituents."


def field(name: str) -> Field:
    """The row of `names` for "pt" or "constituents.pt"."""
    if name in DERIVED:
        raise ValueError(f"{name} is not stored but computed: use {DERIVED[name]} and leave it out")
    table, short = (
        (CONSTITUENT_FIELDS if name.startswith(INSIDE) else JET_FIELDS),
        name.removeprefix(INSIDE),
    )
    if short not in table:
        raise ValueError(
            f"unknown field {name}{closest(short, table)}: use a name of jetnb.names, "
            "or add a row there first"
        )
    return table[short]


def need(have: Iterable[str], wanted: Iterable[str], where: str) -> None:
    if missing := [name for name in wanted if name not in have]:
        raise ValueError(
            f"{where}{missing[0]} is missing; every jets array has {', '.join(wanted)}"
        )


def to_columns(jets: ak.Array) -> tuple[dict, dict, np.ndarray]:
    """The inverse of `build`: jet columns {name: (N,)}, constituent columns {name: (T,)}, counts
    (N,).
    """
    if "constituents" not in ak.fields(jets):
        raise ValueError(f"jets need the list 'constituents'; these have only {ak.fields(jets)}")
    inner = ak.type(jets.constituents[:0]).content
    if not (
        isinstance(inner, ak.types.ListType) and isinstance(inner.content, ak.types.RecordType)
    ):
        raise ValueError(
            f"constituents must be a list of records for every jet, not {inner}: build the "
            "jets with jetnb.jets.build, or ak.zip the columns"
        )
    counts = ak.to_numpy(ak.num(jets.constituents)).astype(np.int64)
    flat = ak.flatten(jets.constituents)
    return (
        {name: plain(name, jets[name]) for name in ak.fields(jets) if name != "constituents"},
        {name: plain(f"constituents.{name}", flat[name]) for name in ak.fields(flat)},
        counts,
    )


def plain(name: str, values: ak.Array) -> np.ndarray:
    """One number in every row, (N,); `ValueError` that names what has missing values (option type)
    or lists.
    """
    if not isinstance(ak.type(values[:0]).content, ak.types.NumpyType):
        raise ValueError(
            f"{name} is of type {ak.type(values[:0]).content}, but must be one plain number "
            "in every row: fill or drop missing values, with ak.fill_none or ak.drop_none; after "
            "jets.mask[...], select with jets[...] instead"
        )
    return ak.to_numpy(values)


def cast(name: str, values, dtype: str, length: int) -> np.ndarray:
    if np.ma.is_masked(values):
        at = int(np.argmax(np.ma.getmaskarray(values)))
        raise ValueError(
            f"{name}: the value at position {at} is masked, so missing: fill it, or drop the jet"
        )
    values, dtype = np.asarray(values), np.dtype(dtype)
    if values.shape != (length,) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"{name} is {values.dtype} of shape {values.shape}, but must be numbers of "
            f"shape ({length},): all columns and counts must belong to the same jets"
        )
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
        lost = np.isfinite(values) & ~np.isfinite(cast) if dtype.kind == "f" else cast != values
    if lost.any():
        at = int(np.argmax(lost))
        raise ValueError(
            f"{name}: value {values[at]} at position {at} does not fit {dtype} of jetnb.names"
        )
    return cast


def closest(name: str, table: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(table), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
