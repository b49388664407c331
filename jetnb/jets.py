"""What a jets array is: an awkward array of jet records with a jagged list of constituents.

Build one from plain columns, check it, describe it, split it by event, draw label budgets from it.
Both levels are `vector` records ("Momentum4D"), so `jets.constituents.deltaR(jets)` just works; the
provenance travels in `jets.attrs["jetnb"]` and survives slicing.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence

import awkward as ak
import numpy as np

from jetnb import _vectors  # noqa: F401  registers vector
from jetnb.names import CLASSES, CONSTITUENT_FIELDS, JET_FIELDS, PARTICLES, Field

JETS_NEED = ("pt", "eta", "phi", "mass")
CONSTITUENTS_NEED = ("pt", "eta", "phi", "energy")
TRACK_FIELDS = ("d0", "d0_error", "dz", "dz_error")
DERIVED = {"constituents.theta": "jets.constituents.theta",
           "constituents.deta": "jets.constituents.deltaeta(jets)",
           "constituents.dphi": "jets.constituents.deltaphi(jets)"}
PROVENANCE_NEEDS = ("sample", "source", "classes")
INSIDE = "constituents."
PI = float(np.float32(np.pi))
TINY = float(np.finfo(np.float32).smallest_subnormal)


def build(columns: Mapping, constituents: Mapping, counts, *, provenance: Mapping) -> ak.Array:
    """Jets array from flat columns; dtypes become those of `names`, nothing is sorted or invented.

    `columns`: jet field name -> (N,). `constituents`: field name -> (T,), jet after jet, falling pt.
    `counts`: (N,) number of constituents of each jet, summing to T. `provenance`: JSON-able, with at
    least `sample`, `source` and `classes`. `n_constituents` is filled from `counts` when absent.

    Returns an `ak.Array` of N jets. Raises `ValueError` naming field, jet and value for an unknown or
    missing field, a value that does not fit its dtype, a length mismatch, and all that `check` refuses.
    Taught in notebook 01.
    """
    counts = _cast("counts", counts, "int64", np.size(counts))
    if (counts < 0).any():
        raise ValueError(f"counts: jet {np.argmax(counts < 0)} has {counts.min()} constituents")
    offsets = np.concatenate([[0], np.cumsum(counts)])
    columns = {**columns, "n_constituents": columns.get("n_constituents", counts)}
    columns = {name: _cast(name, values, _field(name).dtype, len(counts))
               for name, values in columns.items()}
    inside = {name: _cast(INSIDE + name, values, _field(INSIDE + name).dtype, offsets[-1])
              for name, values in constituents.items()}
    jets = wrap(columns, inside, offsets, provenance=provenance)
    check(jets)
    return jets


def wrap(columns: Mapping, constituents: Mapping, offsets: np.ndarray, *, provenance: Mapping) -> ak.Array:
    """Jets array around existing arrays of the right dtypes, without copying and without a look at a value.

    `columns`: name -> (N,). `constituents`: name -> (T,). `offsets`: (N+1,) int64, from 0 to T.
    """
    _need(columns, JETS_NEED, "")
    _need(constituents, CONSTITUENTS_NEED, INSIDE)

    def record(fields, length):
        contents = [ak.contents.NumpyArray(values) for values in fields.values()]
        return ak.contents.RecordArray(contents, list(fields), length=length,
                                       parameters={"__record__": "Momentum4D"})

    lists = ak.contents.ListOffsetArray(ak.index.Index64(offsets), record(constituents, int(offsets[-1])))
    layout = record(columns, len(offsets) - 1)
    layout = ak.contents.RecordArray([*layout.contents, lists], [*columns, "constituents"],
                                     length=len(offsets) - 1, parameters=layout.parameters)
    return ak.Array(layout, attrs={"jetnb": dict(provenance)})


def to_columns(jets: ak.Array) -> tuple[dict, dict, np.ndarray]:
    """The inverse of `build`: jet columns {name: (N,)}, constituent columns {name: (T,)}, counts (N,)."""
    if "constituents" not in ak.fields(jets):
        raise ValueError(f"jets need the list 'constituents'; these have only {ak.fields(jets)}")
    inner = ak.type(jets.constituents[:0]).content
    if not (isinstance(inner, ak.types.ListType) and isinstance(inner.content, ak.types.RecordType)):
        raise ValueError(f"constituents must be a list of records for every jet, not {inner}: build the "
                         "jets with jetnb.jets.build, or ak.zip the columns")
    counts = ak.to_numpy(ak.num(jets.constituents)).astype(np.int64)
    flat = ak.flatten(jets.constituents)
    return ({name: plain(name, jets[name]) for name in ak.fields(jets) if name != "constituents"},
            {name: plain(f"constituents.{name}", flat[name]) for name in ak.fields(flat)}, counts)


def check(jets: ak.Array) -> None:
    """Raise `ValueError` naming field, jet, value and remedy at the first thing that makes `jets` unfit.

    Looks for: missing, unknown or mistyped fields, missing provenance, NaN and infinities, pt <= 0, phi
    outside [-pi, pi], energy below pt, constituents not sorted by falling pt, `n_constituents` that
    disagrees with the list, labels outside the classes, unknown PDG ids, charges other than -1, 0, 1,
    track parameters where `has_track` is False, negative uncertainties, PUPPI weights outside [0, 1].
    """
    names = classes(jets)
    columns, inside, counts = to_columns(jets)
    for have, need, where in ((columns, JETS_NEED, ""), (inside, CONSTITUENTS_NEED, INSIDE)):
        _need(have, need, where)
        for name, values in have.items():
            if values.dtype != (dtype := _field(where + name).dtype):
                raise ValueError(f"{where}{name} is {values.dtype}, but {dtype} in jetnb.names: "
                                 "build the jets with jetnb.jets.build, which casts")

    def refuse(name, bad, remedy):
        if not bad.any():
            return
        at = int(np.argmax(bad))
        if name.startswith(INSIDE):
            jet = int(np.searchsorted(np.cumsum(counts), at, side="right"))
            found = f"constituent {at - int(counts[:jet].sum())} of jet {jet} has "
            found += str(inside[name.removeprefix(INSIDE)][at])
        else:
            found = f"jet {at} has {columns[name][at]}"
        raise ValueError(f"{name}: {found}; {remedy} ({bad.sum()} of {len(bad)} values are like this)")

    def refuse_outside(name, values, low, high, remedy):
        if len(values) and not (values.min() >= low and values.max() <= high):  # a mask is made only where it is needed
            refuse(name, (values < low) | (values > high), remedy)

    for fields, where in ((columns, ""), (inside, INSIDE)):
        for name, values in fields.items():
            if values.dtype.kind == "f" and len(values) and not np.isfinite([values.min(), values.max()]).all():
                refuse(where + name, ~np.isfinite(values), "it must be finite: drop the jet, or, for "
                       "track parameters, write 0 where has_track is False")
        refuse_outside(where + "pt", fields["pt"], TINY, np.inf, "pt must be positive: leave padding and empty slots out")
        refuse_outside(where + "phi", fields["phi"], -PI, PI, "phi must be in (-pi, pi]: wrap it")
    refuse("n_constituents", columns.get("n_constituents", counts) != counts,
           "it must equal the number of constituents stored: leave it out and build fills it")
    refuse_outside("label", columns.get("label", counts[:0]), -1, len(names) - 1,
                   f"labels run from -1 (unlabelled) to {len(names) - 1} for the classes {names}")
    refuse("constituents.energy", inside["energy"] < np.float32(0.99) * inside["pt"],
           "energy is below pt: wrong unit or column?")
    rises = np.zeros(len(inside["pt"]), bool)
    rises[1:] = inside["pt"][1:] > inside["pt"][:-1]
    rises[np.cumsum(counts)[:-1][counts[1:] > 0]] = False  # the first constituent of a jet is free
    refuse("constituents.pt", rises, "more than the one before: sort each jet by falling pt")
    known = [code for particle in PARTICLES.values() for code in particle.pdg_ids]
    refuse("constituents.pdg_id", ~np.isin(inside.get("pdg_id", known[:0]), known),
           f"known types are {known}, see names.PARTICLES")
    for name, low, high in (("charge", -1, 1), ("d0_error", 0, np.inf), ("dz_error", 0, np.inf), ("puppi_weight", 0, 1)):
        refuse_outside(f"constituents.{name}", inside.get(name, counts[:0]), low, high,
                       f"it must be in [{low}, {high}]: wrong column?")
    for name in TRACK_FIELDS:
        if name in inside and "has_track" in inside:
            refuse(f"constituents.{name}", (inside[name] != 0) > inside["has_track"],
                   "it is measured only where has_track: write 0 elsewhere")


def provenance(jets: ak.Array) -> dict:
    """Where `jets` come from: the dict in `jets.attrs["jetnb"]`. Raises `ValueError` when it is missing."""
    found = jets.attrs.get("jetnb")
    if not isinstance(found, Mapping) or any(key not in found for key in PROVENANCE_NEEDS):
        raise ValueError(f"these jets do not say where they come from: attrs['jetnb'] is {found} and "
                         f"needs {', '.join(PROVENANCE_NEEDS)}; use jetnb.jets.build(..., provenance=...)")
    try:
        json.dumps(found)
    except TypeError as error:
        raise ValueError(f"the provenance must be plain text, numbers, lists and dicts: {error}") from None
    if unknown := [name for name in found["classes"] if name not in CLASSES]:
        raise ValueError(f"class {unknown[0]!r} is not in names.CLASSES{_closest(unknown[0], CLASSES)}")
    return dict(found)


def classes(jets: ak.Array) -> list[str]:
    """Class names in label order: `classes(jets)[jets.label[0]]` is the class of the first jet."""
    return list(provenance(jets)["classes"])


def describe(jets: ak.Array) -> str:
    """Provenance, counts per class and fields of `jets` as text: `print(jetnb.describe(jets))`.

    Taught in notebook 00.
    """
    about = provenance(jets)
    number = ak.to_numpy(ak.num(jets.constituents))
    lines = [f"{about['sample']} ({about['source']}): {len(jets):,} jets with {number.sum():,} constituents"
             + (f", {number.mean():.1f} per jet" if len(jets) else "")]
    if "event" in jets.fields:
        lines[0] += f", from {len(np.unique(jets.event)):,} events"
    if about.get("description"):
        lines.append(about["description"])
    if "label" in jets.fields:
        label = ak.to_numpy(jets.label)
        number = [*(np.sum(label == i) for i in range(len(about["classes"]))), np.sum(label < 0)]
        lines.append("classes: " + ", ".join(f"{name} {n:,} ({n / max(len(label), 1):.1%})" for name, n in zip(
            (*about["classes"], "unlabelled"), number, strict=True)))
    lines += [f"jet fields: {', '.join(f for f in jets.fields if f != 'constituents')}",
              f"constituent fields: {', '.join(jets.constituents.fields)}"]
    for key, value in about.items():
        if isinstance(value, Mapping):  # what is nested further, or said above, is left to jets.attrs
            value = ", ".join(f"{k} {v}" for k, v in value.items() if "{" not in str(v) and v != about.get(k))
        if key not in ("sample", "source", "classes", "description") and value not in (None, ""):
            lines.append(f"{key}: {value}")
    return "\n".join(lines)


def split(jets: ak.Array, fractions: Sequence[float] = (0.6, 0.2, 0.2), *, seed: int) -> tuple[ak.Array, ...]:
    """Cut `jets` into disjoint parts, never dividing an event.

    The part of an event depends on its number, the seed and the fractions alone, so a smaller or larger
    selection of the same sample splits the same way: a jet trained on is never tested on elsewhere.
    Hence the sizes follow `fractions` only on average. Raises `ValueError` if a part would be empty.
    Taught in notebook 03.
    """
    if "event" not in jets.fields:
        raise ValueError("a split needs the field 'event', one integer per collision; these jets have none")
    part = parts(ak.to_numpy(jets.event), fractions, seed=seed)
    return tuple(jets[part == i] for i in range(len(fractions)))


def parts(event: np.ndarray, fractions: Sequence[float], *, seed: int) -> np.ndarray:
    """The part (N,) that `split` puts each jet into, by the numbers (N,) of their events alone. Raises as `split`."""
    if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
        raise ValueError(f"fractions must not be negative and must sum to 1, got {tuple(fractions)}")
    part = np.searchsorted(np.cumsum(fractions)[:-1], uniform(event, seed), side="right")
    sizes = np.bincount(part, minlength=len(fractions))
    for i, fraction in enumerate(fractions):
        if fraction > 0 and sizes[i] == 0:
            raise ValueError(f"part {i} of the split {tuple(fractions)} got none of {len(event)} jets: use more jets")
    return part


def label_budgets(jets: ak.Array, budgets: Iterable[int], *, seed: int) -> dict[int, np.ndarray]:
    """For each budget that many jet indices, as many of each class as of any other (to within one).

    A smaller budget is the beginning of every larger one. Classes are those present with label >= 0.
    Raises `ValueError` naming the class that has too few jets. Taught in notebook 08.
    """
    rng = np.random.default_rng(seed)
    label = ak.to_numpy(jets.label)
    present = rng.permutation(np.unique(label[label >= 0]))
    budgets = [int(n) for n in budgets]
    if not budgets or min(budgets) < 1 or len(present) == 0:
        raise ValueError("budgets must be positive and the jets labelled; "
                         f"got budgets {budgets} and {len(present)} classes")
    per_class = -(-max(budgets) // len(present))
    turns = []
    for i, value in enumerate(present):
        members = rng.permutation(np.flatnonzero(label == value))
        if len(members) < per_class - (i > (max(budgets) - 1) % len(present)):
            raise ValueError(f"budget {max(budgets)} asks for {per_class} jets of class "
                             f"{classes(jets)[value]}, there are {len(members)}: load more jets")
        turns.append(np.resize(members, per_class))
    order = np.stack(turns, axis=1).ravel()  # one jet of each class in turn
    return {n: order[:n] for n in budgets}


def uniform(event: np.ndarray, seed: int | Sequence[int]) -> np.ndarray:
    """A number in [0, 1) for each event number (N,), by the splitmix64 hash: what `split` goes by."""
    key = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    z = event.astype(np.int64).view(np.uint64) + key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def _field(name: str) -> Field:
    """The row of `names` for "pt" or "constituents.pt"."""
    if name in DERIVED:
        raise ValueError(f"{name} is not stored but computed: use {DERIVED[name]} and leave it out")
    table, short = (CONSTITUENT_FIELDS if name.startswith(INSIDE) else JET_FIELDS), name.removeprefix(INSIDE)
    if short not in table:
        raise ValueError(f"unknown field {name}{_closest(short, table)}: use a name of jetnb.names, "
                         "or add a row there first")
    return table[short]


def _need(have: Iterable[str], need: Iterable[str], where: str) -> None:
    if missing := [name for name in need if name not in have]:
        raise ValueError(f"{where}{missing[0]} is missing; every jets array has {', '.join(need)}")


def _closest(name: str, table: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(table), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def plain(name: str, values: ak.Array) -> np.ndarray:
    """One number in every row, (N,); `ValueError` that names what has missing values (option type) or lists."""
    if not isinstance(ak.type(values[:0]).content, ak.types.NumpyType):
        raise ValueError(f"{name} is of type {ak.type(values[:0]).content}, but must be one plain number "
                         "in every row: fill or drop missing values, with ak.fill_none or ak.drop_none; after "
                         "jets.mask[...], select with jets[...] instead")
    return ak.to_numpy(values)


def _cast(name: str, values, dtype: str, length: int) -> np.ndarray:
    values, dtype = np.asarray(values), np.dtype(dtype)
    if values.shape != (length,) or values.dtype.kind not in "biuf":
        raise ValueError(f"{name} is {values.dtype} of shape {values.shape}, but must be numbers of "
                         f"shape ({length},): all columns and counts must belong to the same jets")
    if values.dtype == dtype:
        return np.ascontiguousarray(values)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = values.astype(dtype)
        lost = np.isfinite(values) & ~np.isfinite(cast) if dtype.kind == "f" else cast != values
    if lost.any():
        at = int(np.argmax(lost))
        raise ValueError(f"{name}: value {values[at]} at position {at} does not fit {dtype} of jetnb.names")
    return cast
