"""Quark and gluon jets of EnergyFlow (arXiv:1810.05165, doi:10.5281/zenodo.3164691, 3066475):
QG_jets*.npz.

Layout: a NumPy archive of two arrays, rows are jets, 100 000 in a published file.
    X  (N, P, 4)  pt, rapidity, azimuth, PDG id of each particle, zero where padded; P differs from file to file
    y  (N,)       1 for a quark, 0 for a gluon
of any floating type (float64 as published); y of any type. What becomes of them (GeV, nothing
converted):

- THE SECOND COLUMN IS RAPIDITY: it is turned into pseudorapidity with the mass of the PDG id, and
  energy is that of this mass. Taken for pseudorapidity, a proton with pt = 1 GeV would be off by
  0.26 at rapidity 1.
- The particles are those of the generator: no detector, no tracks, no pile-up. pdg_id is what a
  detector would call them: 211 or -211 for any charged hadron, 130 for any neutral one, 22, 11, 13.
  So what the id says of pions, kaons and protons is left only in energy, as pt and eta have the
  digits to tell; leave energy out where a detector is meant.
- pt, eta, phi and mass of the jet are those of the sum of its particles. phi is turned into (-pi,
  pi].
- label: gluon or quark. Quarks are u, d, s, and c and b too where the name of the file has
  `withbc`; nothing in the file says which. The publishers ask not to mix both kinds.
- event: every jet is from a collision of its own. The number is 31 bits of the sha256 of the name
  without its ending, then 32 bits of the row. Two files of the same name are taken for the same
  jets.

A particle with pt <= 0 or a value that is not finite is left out; so is a jet without particles. An
id that no long-lived particle has is refused.

The archive is read row by row, so memory is that of a block. Nothing is unpickled. What the header
of an array claims is compared with the bytes there are before anything of its size is made.
"""

from __future__ import annotations

import contextlib
import math
import re
import zipfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics
from jetnb.readers import _padded
from jetnb.readers._common import (
    AGAIN,
    accepts,
    ahead,
    counter,
    explained,
    explaining,
    first_event,
    sort_by_pt,
    start_of,
)

WHAT = "the quark and gluon jets of EnergyFlow"
SLOTS = 1_000  # the most particles of a jet; published files have at most some 150
BLOCK = 64 << 20  # bytes of X at a time
DEFLATE = 1_032  # times smaller at most: what claims to be more is made to fill memory
# PDG id of what lives long enough to be in a jet -> charge, mass [GeV] (Review of Particle Physics)
LONG_LIVED = {
    22: (0, 0.0),
    11: (-1, 0.000511),
    13: (-1, 0.10566),
    211: (1, 0.13957),
    321: (1, 0.49368),
    130: (0, 0.49761),
    310: (0, 0.49761),
    2212: (1, 0.93827),
    2112: (0, 0.93957),
    3122: (0, 1.11568),
    3222: (1, 1.18937),
    3112: (-1, 1.19745),
    3312: (-1, 1.32171),
    3322: (0, 1.31486),
    3334: (-1, 1.67245),
}
CODES = np.array(sorted(LONG_LIVED))
CHARGES, MASSES = np.array([LONG_LIVED[code] for code in CODES]).T
PUBLISHED = re.compile(r"QG_jets(_herwig)?(_withbc)?(_\d+)?")
HINTS = {"zip": ("X", "y")}
SELECTION = {"EnergyFlow quark/gluon": {"pt": (500, 550), "eta": (-2.2, 2.2)}}
PROVENANCE = {
    "sample": "EnergyFlow quark/gluon",
    "source": "simulation",
    "classes": ["gluon", "quark"],
    "description": "Z (to neutrinos) and a quark or gluon, 14 TeV, particles of the generator without a detector",
    "selection": "anti-kT R=0.4, 500 < pt < 550 GeV, |rapidity| < 1.7; all particles but neutrinos",
    "units": "GeV as in the file; rapidity turned into pseudorapidity with the mass of each particle",
    "licence": "see doi:10.5281/zenodo.3164691",
    "citation": "arXiv:1810.05165, doi:10.5281/zenodo.3164691 (Pythia), doi:10.5281/zenodo.3066475 (Herwig)",
}


class _Array(NamedTuple):
    """Where an array lies in the archive."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int  # bytes of the header


@explaining
def read(
    path,
    *,
    block_size: int = 10_000,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """Jets of a QG_jets*.npz file, as `jetnb.readers` says.

    Fields: pt, eta, phi, mass, n_constituents, label (0 gluon, 1 quark), event; constituents pt,
    eta, phi, energy, charge, pdg_id.
    """
    x, y = _arrays(path)
    step = min(block_size, max(1, BLOCK // max(_row(x), 1)))
    stop = x.shape[0] if stop is None else min(stop, x.shape[0])
    rows = [slice(first, min(first + step, stop)) for first in range(max(start, 0), stop, step)]
    return _blocks(Path(path), x, y, rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    return _arrays(path)[0].shape[0]


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys and shapes alone; never an exception."""
    return accepts(count, path)


def _arrays(path) -> tuple[_Array, _Array]:
    """X and y; `ValueError` for another layout, and for headers that claim more than there is."""
    start = start_of(path)
    if start[:2] != b"PK":
        raise ValueError(
            f"{path} is no NumPy archive, it starts with {start!r}, so it is not {WHAT}: {AGAIN}"
        )
    with explained(path):
        archive = zipfile.ZipFile(path)
    with archive:
        x, y = (_array(path, archive, name) for name in ("X", "y"))
    for one, fits, wanted in (
        (x, len(x.shape) == 3 and x.shape[2] == 4 and x.dtype.kind == "f", "(N, P, 4), floats"),
        (y, len(y.shape) == 1 and y.dtype.kind in "iufb", "(N,), numbers"),
    ):
        if not fits:
            raise ValueError(
                f"{path}: array {one.name!r} is {one.dtype} of shape {one.shape}, but {wanted}, in "
                f"{WHAT}: it is another file or version; download the published one"
            )
    if x.shape[1] > SLOTS:
        raise ValueError(
            f"{path}: array 'X' has room for {x.shape[1]} particles a jet, more than any of {WHAT}: it is "
            "another file; download the published one"
        )
    if len({x.shape[0], y.shape[0]}) > 1:
        raise ValueError(f"{path}: array 'X' has {x.shape[0]} jets, but 'y' {y.shape[0]}: {AGAIN}")
    return x, y


def _array(path, archive: zipfile.ZipFile, name: str) -> _Array:
    found = archive.namelist()
    if f"{name}.npy" not in found:
        raise ValueError(
            f"{path} has no array {name!r}, so it is not {WHAT}: it has "
            f"{', '.join(one.removesuffix('.npy') for one in found[:8]) or 'nothing'}"
        )
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{path}: array {name!r} is compressed in another way than NumPy does: write the archive "
            "again with numpy.savez_compressed"
        )
    most = DEFLATE * min(member.compress_size, Path(path).stat().st_size) + 1024
    if member.file_size > most:
        raise ValueError(
            f"{path}: array {name!r} claims {member.file_size:,} bytes, more than its "
            f"{member.compress_size:,} compressed ones can hold: it is damaged, or made to fill memory"
        )
    with explained(path), archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if plain := version == (1, 0):  # headers of other versions can be gigabytes long
            shape, by_column, dtype = np.lib.format.read_array_header_1_0(stream)
            start = stream.tell()
    if not plain or dtype.hasobject or (by_column and len(shape) > 1):
        what = (
            f"is in version {version} of the format of NumPy"
            if not plain
            else "holds objects of Python, which could run code when they are loaded"
            if dtype.hasobject
            else "is stored column by column"
        )
        raise ValueError(
            f"{path}: array {name!r} {what}: jetnb reads plain arrays by row, as numpy.savez writes "
            "np.ascontiguousarray(X)"
        )
    size = start + math.prod(shape) * dtype.itemsize
    if size != member.file_size:
        raise ValueError(
            f"{path}: array {name!r} claims {dtype} of shape {shape}, {size:,} bytes, but there are "
            f"{member.file_size:,}: it is truncated or damaged; {AGAIN}"
        )
    return _Array(name, tuple(shape), dtype, start)


def _row(array: _Array) -> int:
    return math.prod(array.shape[1:]) * array.dtype.itemsize


def _raw(path: Path, x: _Array, y: _Array, rows: list[slice]) -> Iterator[tuple]:
    """Rows, X and y of one block after the other; the archive is decompressed once, in order."""
    with contextlib.ExitStack() as stack:
        with explained(path):
            archive = stack.enter_context(zipfile.ZipFile(path))
            streams = [stack.enter_context(archive.open(f"{one.name}.npy")) for one in (x, y)]
            for stream, one in zip(streams, (x, y), strict=True) if rows else ():
                stream.seek(one.start + rows[0].start * _row(one))
        for here in rows:
            block = []
            for stream, one in zip(streams, (x, y), strict=True):
                size = (here.stop - here.start) * _row(one)
                with explained(path):
                    data = stream.read(size)
                if len(data) != size:
                    raise ValueError(
                        f"{path}: array {one.name!r} ends before row {here.stop}: it is truncated; "
                        f"{AGAIN}"
                    )
                block.append(np.frombuffer(data, one.dtype).reshape(-1, *one.shape[1:]))
            yield here, *block


def _blocks(
    path: Path, x: _Array, y: _Array, rows: list[slice], tally: MutableMapping[str, int]
) -> Iterator[ak.Array]:
    event, provenance = first_event(path), _provenance(path)
    for here, particles, label in ahead(_raw(path, x, y, rows)):
        try:
            _refuse(
                ~np.isin(label, (0, 1)),
                here.start,
                label,
                "y",
                "it is 1 for a quark and 0 for a gluon",
            )
            columns, inside, counts = _decode(particles, here.start, tally)
            columns |= {"label": label, "event": event + np.arange(here.start, here.stop)}
            columns, inside, counts, lost = _padded.keep_good(
                columns, inside, counts, jetnb.jets.JETS_NEED
            )
            jets = jetnb.jets.build(columns, inside, counts, provenance=provenance)
        except ValueError as error:
            raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
        tally.update(rows=tally["rows"] + len(particles), jets=tally["jets"] + lost)
        yield jets


def _decode(particles: np.ndarray, first: int, tally: MutableMapping[str, int]) -> tuple:
    """Columns (N,), fields (T,) and counts (N,) of the particles (N, P, 4) from row `first` on."""
    n, slots = particles.shape[:2]
    flat = particles.reshape(n * slots, 4)
    slot = np.flatnonzero(flat.any(axis=1))
    pt, rapidity, phi, code = flat[slot].astype(np.float64).T
    good = np.isfinite([pt, rapidity, phi, code]).all(axis=0) & (pt > 0)
    tally["constituents"] += int((~good).sum())
    pt, rapidity, phi, code, jet = (
        values[good] for values in (pt, rapidity, phi, code, slot // max(slots, 1))
    )
    at = np.minimum(np.searchsorted(CODES, np.abs(code)), len(CODES) - 1)
    wrong = CODES[at] != np.abs(code)
    _refuse(
        wrong,
        first,
        code,
        "X[:, :, 3]",
        "no particle of this PDG id lives long enough to be in a jet: are the "
        "columns pt, rapidity, azimuth and PDG id, not yet prepared for training?",
        jet,
    )
    charge = CHARGES[at] * np.sign(code)
    transverse = np.hypot(pt, MASSES[at])
    with np.errstate(over="ignore"):  # left out next
        pz, energy = transverse * np.sinh(rapidity), transverse * np.cosh(rapidity)
        eta = np.arcsinh(pz / pt)
        finite = np.isfinite(eta) & np.isfinite(energy.astype(np.float32))
    tally["constituents"] += int((~finite).sum())
    lepton = np.isin(CODES[at], (11, 13))
    kind = np.where(lepton | (code == 22), code, np.where(charge == 0, 130, 211 * charge))
    inside = {
        "pt": pt.astype(np.float32),
        "eta": eta,
        "phi": phi,
        "energy": energy,
        "charge": charge,
        "pdg_id": kind,
        "pz": pz,
    }
    inside, jet = {name: values[finite] for name, values in inside.items()}, jet[finite]
    counts = np.bincount(jet, minlength=n)
    px, py, _ = kinematics.to_cartesian(inside["pt"].astype(np.float64), 0.0, inside["phi"])
    columns = _padded.total(px, py, inside.pop("pz"), inside["energy"], counts)
    inside["phi"] = _padded.wrap_phi(inside["phi"])
    sort_by_pt(inside, jet, tally)
    return columns, inside, counts


def _refuse(
    wrong: np.ndarray,
    first: int,
    values: np.ndarray,
    name: str,
    what: str,
    jet: np.ndarray | None = None,
):
    if wrong.any():
        at = int(np.argmax(wrong))
        row = first + (at if jet is None else int(jet[at]))
        raise ValueError(
            f"row {row} has {name} = {values[at]:g}, but {what} ({wrong.sum()} of {len(wrong)} values are "
            "like this)"
        )


def _provenance(path: Path) -> dict:
    """What the name of a published file says of it."""
    published = PUBLISHED.fullmatch(path.stem)
    if not published:
        unknown = (
            "the name is not a published one, so generator and flavours of the quarks are not known"
        )
        return PROVENANCE | {"description": f"{PROVENANCE['description']}; {unknown}"}
    herwig, withbc, _ = published.groups()
    generator = "Herwig 7.1.4" if herwig else f"Pythia 8.{235 if withbc else 226}"
    quarks = "u, d, s, c, b" if withbc else "u, d, s"
    record = "doi:10.5281/zenodo.3066475" if herwig else "doi:10.5281/zenodo.3164691"
    return PROVENANCE | {
        "description": f"{generator}: {PROVENANCE['description']}; quarks are {quarks}",
        "licence": f"see {record}",
        "citation": f"arXiv:1810.05165, {record}",
    }
