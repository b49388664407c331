"""The compact Parquet form of the shipped samples: one row per jet, about ten bytes per
constituent.

What can be computed is not stored, nor what was not measured; what is stored keeps the digits that
a detector can justify. Floats lose mantissa bits by rounding half to even, as CMS NanoAOD does
before it compresses; angles of constituents go on a fixed grid, counted from the jet axis. `LOSS`
says how far each field may move. Each byte of a number becomes a stream of its own
(BYTE_STREAM_SPLIT) for zstd.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import jetnb.jets
from jetnb import _json, atomic, packed
from jetnb.names import PARTICLES
from jetnb.readers import _parquet_footer
from jetnb.readers._common import (
    accepts,
    counter,
    explained,
    explaining,
    row_range,
    shown,
    start_of,
)

AGAIN = "fetch or make it again"
FORMAT, VERSION = "jetnb jets", 1  # a change of any number below is a new version
ROWS = 16384  # jets compressed together
GRID = 13  # constituents: eta in steps of 2^-13, phi in steps of pi 2^-15
FINE = 3  # jets: as many bits finer
# Bits after the leading one. Two more for d0 and dz than NanoAOD keeps: 1000 bins then show no
# teeth.
MANTISSA = {"pt": 12, "d0": 12, "dz": 12, "d0_error": 8, "dz_error": 8, "puppi_weight": 8, "z0": 13}
OTHER_MANTISSA = 16  # bits kept of any other float
PDG_IDS = [code for particle in PARTICLES.values() for code in particle.pdg_ids]
MASSES = np.array([particle.mass for particle in PARTICLES.values() for _ in particle.pdg_ids])
CHARGES = np.array(
    [
        (code > 0) - (code < 0)
        if abs(code) == 211
        else (code < 0) - (code > 0)
        if abs(code) in (11, 13)
        else 0
        for code in PDG_IDS
    ]
)
PION_MASS = PARTICLES["charged_hadron"].mass
SAME_ENERGY = 2.0**-12  # an energy this close to that of a mass hypothesis (relative) is not stored
MASSLESS_OR_PDG, PION = 0.0, -1.0  # stored in place of such an energy

# The most that writing and reading back changes a value: ("relative" or "absolute", amount).
LOSS = {
    f"constituents.{name}": ("relative", 2.0 ** -(bits + 1)) for name, bits in MANTISSA.items()
} | {
    "constituents.energy": ("relative", 2.0**-11),
    "constituents.eta": ("absolute", 2.0 ** -(GRID + 1)),
    "constituents.phi": ("absolute", np.pi * 2.0 ** -(GRID + 3)),
    "eta": ("absolute", 2.0 ** -(GRID + FINE + 1)),
    "phi": ("absolute", np.pi * 2.0 ** -(GRID + FINE + 3)),
    "any other float": ("relative", 2.0 ** -(OTHER_MANTISSA + 1)),
    "any other": ("absolute", 0.0),
}


def write(path, jets_or_blocks: ak.Array | Iterable[ak.Array], *, overwrite: bool = False) -> Path:
    """Write jets, or blocks of jets of the same fields, as one Parquet file that appears when
    complete.

    Raises `FileExistsError` unless `overwrite`, and `ValueError` for jets that `jets.check` refuses
    and for blocks that differ in fields or classes.
    """
    path = Path(path)
    blocks = [jets_or_blocks] if isinstance(jets_or_blocks, ak.Array) else jets_or_blocks
    writer = None
    with atomic.new_file(path, replace=overwrite) as hidden:
        try:
            for piece in (
                block[i : i + ROWS] for block in blocks for i in range(0, len(block), ROWS)
            ):
                jetnb.jets.check(piece)
                table = _encode(piece)
                if writer is None:
                    about: dict[str, Any] = {
                        "format": FORMAT,
                        "version": VERSION,
                        "provenance": jetnb.jets.provenance(piece),
                        "loss": LOSS,
                    }
                    schema = table.schema.with_metadata({"jetnb": json.dumps(about)})
                    writer = pq.ParquetWriter(
                        hidden,
                        schema,
                        compression="zstd",
                        compression_level=15,
                        use_dictionary=False,
                        use_byte_stream_split=True,
                        write_statistics=False,
                        write_page_checksum=True,
                        data_page_size=1 << 24,
                    )
                classes = about["provenance"]["classes"]
                if (table.schema.names, jetnb.jets.classes(piece)) != (schema.names, classes):
                    raise ValueError(
                        f"cannot write {path}: blocks differ: {schema.names} of {classes}, then "
                        f"{table.schema.names} of {jetnb.jets.classes(piece)}"
                    )
                writer.write_table(table.replace_schema_metadata(schema.metadata))
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise ValueError(f"cannot write {path}: there were no jets")
    return path


@explaining
def read(
    path,
    *,
    block_size: int = ROWS,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """Jets of a file made by `write`, as `jetnb.readers` says; nothing is ever left out, so `tally`
    has rows only.
    """
    return _blocks(Path(path), *_opened(path), block_size, max(start, 0), stop, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    file, _ = _opened(path)
    return file.metadata.num_rows


def recognises(path) -> bool:
    """Whether `write` made the file at `path`; never an exception."""
    return accepts(_about, path)


def _opened(path) -> tuple[pq.ParquetFile, Mapping]:
    """The file, which claims no more than it can hold, and the provenance of its jets."""
    file, text = _about(path)
    about = _json.parse(
        text, {"provenance": dict}, source=path, what="Parquet file of jets", remedy=AGAIN
    )
    with explained(path):
        jetnb.jets.provenance(ak.Array([], attrs={"jetnb": about["provenance"]}))
        if wrong := _wrong(file.schema_arrow):
            raise ValueError(wrong)
        _parquet_footer.check(path, file.schema_arrow.names, lists="constituent_")
    return file, about["provenance"]


def _about(path) -> tuple[pq.ParquetFile, bytes]:
    """The file, if `write` made it, and what it says of itself."""
    if start_of(path, 4) != b"PAR1":
        raise ValueError(f"{path} is not Parquet, by its start: {AGAIN}")
    with explained(path):
        # First, as Arrow ends the process at some footers that are damaged.
        _parquet_footer.groups(path)
        file = pq.ParquetFile(path, page_checksum_verification=True)
        schema, text = file.schema_arrow, (file.schema_arrow.metadata or {}).get(b"jetnb", b"{}")
    if b'"format"' not in text:
        raise ValueError(
            f"{path} is Parquet, but not of jetnb.readers.parquet.write; its columns are "
            f"{shown(', '.join(schema.names[:8]))} ..."
        )
    about = _json.parse(
        text,
        {"format": str, "version": int},
        source=path,
        what="Parquet file of jets",
        remedy=AGAIN,
    )
    if about["format"] != FORMAT or about["version"] < 1:
        raise ValueError(
            f"{path} is Parquet, but not of jetnb.readers.parquet.write: its format is "
            f"{about['format']!r:.80}, version {about['version']}"
        )
    if about["version"] > VERSION:
        raise ValueError(
            f"{path} is of version {about['version']}, this jetnb reads up to {VERSION}: "
            "update jetnb"
        )
    return file, text


def _wrong(schema: pa.Schema) -> str:
    """What is wrong with the columns, in words; "" if nothing is."""
    needed = [f"jet_{name}" for name in jetnb.jets.JETS_NEED] + [
        f"constituent_{name}" for name in jetnb.jets.CONSTITUENTS_NEED
    ]
    if missing := [name for name in needed if name not in schema.names]:
        return f"it has no column {missing[0]!r}"
    if len(set(schema.names)) < len(schema.names):
        return "two columns have the same name"
    for field in schema:
        inside, is_list = field.name.startswith("constituent_"), pa.types.is_list(field.type)
        is_list |= pa.types.is_large_list(field.type)
        if not inside and not field.name.startswith("jet_"):
            return f"it has a column {field.name!r:.80}"
        number = field.type.value_type if is_list else field.type
        fits = pa.types.is_integer(number) or number in (pa.float32(), pa.float64(), pa.bool_())
        if not fits or inside != is_list:
            return f"column {field.name!r:.80} is {shown(field.type)}"
    return ""


def _blocks(
    path: Path,
    file: pq.ParquetFile,
    provenance: Mapping,
    block_size: int,
    start: int,
    stop: int | None,
    tally: MutableMapping[str, int],
) -> Iterator:
    wanted = max(
        0, min(file.metadata.num_rows if stop is None else stop, file.metadata.num_rows) - start
    )
    for _, batch in row_range(file, None, block_size, start, stop):
        tally["rows"] += len(batch)
        with np.errstate(all="ignore"):  # what comes of wild numbers is refused by jets.build
            yield _decode(batch, provenance)
    if tally["rows"] != wanted:
        raise ValueError(f"{path} is damaged: it has {tally['rows']} of {wanted} jets; {AGAIN}")


def _encode(jets: ak.Array) -> pa.Table:
    columns, inside, counts = jetnb.jets.to_columns(jets)
    columns.pop("n_constituents", None)
    out, track = {}, inside.get("has_track")
    codes = {name: _angle_code(name, columns[name], GRID + FINE) for name in ("eta", "phi")}
    for name, values in columns.items():
        out[f"jet_{name}"] = pa.array(
            codes[name] if name in codes else _stored(values, OTHER_MANTISSA)
        )
    index = None
    if "pdg_id" in inside:
        index = np.argsort(PDG_IDS)[np.searchsorted(np.sort(PDG_IDS), inside["pdg_id"])]
    for name, values in inside.items():
        number = counts
        if name == "pt":
            values = round_mantissa(values, MANTISSA["pt"]).view(np.int32) >> (23 - MANTISSA["pt"])
            falls = np.zeros_like(values)
            falls[1:] = values[:-1] - values[1:]
            values = np.where(_first(counts), values, falls)
        elif name in codes:
            values = _angle_code(name, values, GRID) - np.repeat(codes[name] >> FINE, counts)
            values = _wrap(values, 1 << (GRID + 2)) if name == "phi" else values
            # zigzag: small numbers of either sign have small codes.
            values = (values << 1) ^ (values >> 31)
        elif name == "energy":
            momentum = inside["pt"].astype(float) * np.cosh(inside["eta"].astype(float))
            as_pion, as_pdg = _energy(momentum, PION_MASS), _energy(momentum, _masses(index))
            stored = np.where(np.abs(values / as_pion - 1) < SAME_ENERGY, PION, values)
            stored = np.where(np.abs(values / as_pdg - 1) < SAME_ENERGY, MASSLESS_OR_PDG, stored)
            values = stored.astype(np.float32)
        elif name == "pdg_id":
            values = index.astype(np.int8)
        elif name == "charge":
            values = values - _charges(index)
        elif name == "has_track" and "charge" in inside:
            values = values ^ (inside["charge"] != 0)
        elif name in jetnb.jets.TRACK_FIELDS and track is not None:
            jet = packed.jet_of(counts)
            number = np.bincount(jet[track], minlength=len(counts))
            values = values[track]
        values = pa.array(_stored(values, MANTISSA.get(name, OTHER_MANTISSA)))
        offsets = pa.array(packed.starts(number), pa.int32())
        out[f"constituent_{name}"] = pa.ListArray.from_arrays(offsets, values)
    return pa.table(out)


def _decode(batch: pa.RecordBatch, provenance: Mapping) -> ak.Array:
    raw = {name: batch.column(name) for name in batch.schema.names}
    for name, values in raw.items():
        if values.null_count or (name.startswith("constituent_") and values.flatten().null_count):
            raise ValueError(f"column {name!r} has values that are missing; {AGAIN}")
    counts = raw["constituent_pt"].value_lengths().to_numpy().astype(np.int64)
    of_tracks = jetnb.jets.TRACK_FIELDS if "constituent_has_track" in raw else ()
    for name, values in raw.items():
        if not name.startswith("constituent_") or name.removeprefix("constituent_") in of_tracks:
            continue
        if not np.array_equal(values.value_lengths().to_numpy(), counts):
            raise ValueError(
                f"column {name!r} has other numbers of constituents than 'constituent_pt'; {AGAIN}"
            )
    columns = {
        name.removeprefix("jet_"): values.to_numpy(zero_copy_only=False)
        for name, values in raw.items()
        if name.startswith("jet_")
    }
    inside = {
        name.removeprefix("constituent_"): values.flatten().to_numpy(zero_copy_only=False)
        for name, values in raw.items()
        if name.startswith("constituent_")
    }
    first = _first(counts)
    signed = np.where(first, inside["pt"], -inside["pt"]).astype(np.int64)
    sums = np.cumsum(signed)
    code = sums - np.repeat(sums[first] - signed[first], counts[counts > 0])
    inside["pt"] = (code.astype(np.int32) << (23 - MANTISSA["pt"])).view(np.float32)
    for name in ("eta", "phi"):
        code = inside[name].astype(np.int32)
        code = ((code >> 1) ^ -(code & 1)) + np.repeat(columns[name] >> FINE, counts)
        inside[name] = _angle(name, _wrap(code, 1 << (GRID + 2)) if name == "phi" else code, GRID)
        columns[name] = _angle(name, columns[name], GRID + FINE)
    index = inside.get("pdg_id")
    if index is not None and len(index) and not 0 <= index.min() <= index.max() < len(PDG_IDS):
        raise ValueError(f"column 'constituent_pdg_id' is not in 0 to {len(PDG_IDS) - 1}; {AGAIN}")
    momentum = inside["pt"].astype(float) * np.cosh(inside["eta"].astype(float))
    energy = np.where(inside["energy"] == PION, _energy(momentum, PION_MASS), inside["energy"])
    energy = np.where(energy == MASSLESS_OR_PDG, _energy(momentum, _masses(index)), energy)
    # Momentum and energy are rounded one by one: no particle shall be faster than light for it.
    faster = (energy < momentum) & (energy > momentum * (1 - 2 * SAME_ENERGY))
    inside["energy"] = np.where(faster, momentum, energy).astype(np.float32)
    if index is not None:
        inside["pdg_id"] = np.array(PDG_IDS)[index]
    if "charge" in inside:
        inside["charge"] = inside["charge"] + _charges(index)
    if "has_track" in inside:
        inside["has_track"] = track = inside["has_track"].astype(bool) ^ (
            inside.get("charge", 0) != 0
        )
        for name in set(jetnb.jets.TRACK_FIELDS) & inside.keys():
            measured, inside[name] = inside[name], np.zeros(len(track), np.float32)
            inside[name][track] = measured
    return jetnb.jets.build(columns, inside, counts, provenance=provenance)


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Float32 `values` with `bits` bits after the leading one, rounded half to even.

    >>> round_mantissa(np.float32([1.3, -1000.7]), 3).tolist()
    [1.25, -1024.0]
    """
    cut = 23 - bits
    code = np.ascontiguousarray(values, np.float32).view(np.uint32)
    code = code + np.uint32((1 << (cut - 1)) - 1) + ((code >> np.uint32(cut)) & np.uint32(1))
    return (code >> np.uint32(cut) << np.uint32(cut)).view(np.float32)


def _stored(values: np.ndarray, bits: int) -> np.ndarray:
    if values.dtype.kind == "f":
        return round_mantissa(values, bits)
    return values.astype(np.int8) if values.dtype.kind == "b" else values


def _angle_code(name: str, values: np.ndarray, bits: int) -> np.ndarray:
    if name == "eta":
        return np.rint(values.astype(float) * 2**bits).astype(np.int32)
    return _wrap(
        np.rint(values.astype(float) / np.pi * 2 ** (bits + 2)).astype(np.int32), 1 << (bits + 2)
    )


def _angle(name: str, code: np.ndarray, bits: int) -> np.ndarray:
    return (code * (2.0**-bits if name == "eta" else np.pi * 2.0 ** -(bits + 2))).astype(np.float32)


def _wrap(code: np.ndarray, half_turn: int) -> np.ndarray:
    return half_turn - (half_turn - code) % (2 * half_turn)  # in (-half_turn, half_turn]


def _first(counts: np.ndarray) -> np.ndarray:
    """Mask (T,) of the first constituent of each jet."""
    first = np.zeros(counts.sum(), bool)
    first[packed.starts(counts)[:-1][counts > 0]] = True
    return first


def _masses(index: np.ndarray | None) -> np.ndarray | float:
    return 0.0 if index is None else MASSES[index]


def _charges(index: np.ndarray | None) -> np.ndarray | int:
    return 0 if index is None else CHARGES[index].astype(np.int8)


def _energy(momentum: np.ndarray, mass: np.ndarray | float) -> np.ndarray:
    return np.sqrt(momentum**2 + np.square(mass)).astype(np.float32)
