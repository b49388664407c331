"""CMS open data record 12102 (doi:10.7483/OPENDATA.CMS.JGJX.MS7Q): ntuple_merged_<i>.root and .h5,
rows are jets.

Layout of ROOT: tree `deepntuplizer/tree`, numbers `fj_*`, `label_*`, `event_no`, `sample_isQCD`,
`npv`, `n_sv`, and a list per jet for each `pfcand_*`. Of HDF5: one dataset for each of these at the
top, (N,) or (N, 100) for `pfcand_*` (zero where padded), blosc; without `label_*`. No attribute is
looked at. What becomes of them:

- fj_pt, eta, phi, mass, sdmass, tau1..3 and doubleb (GeV) are as stored by CMS, n_vertices is npv,
  and n_secondary_vertices is n_sv, those within 0.8 of the jet. The record calls fj_pt corrected;
  the code of the producer undoes the corrections of the jet it writes. The files do not say which.
- Constituents have pt > 0.95 GeV; the HDF5 has the first 100 of a jet. They are stored relative to
  their jet: pt and energy are multiplied by its pt and energy, and eta is its eta plus
  `pfcand_etarel`, less where its eta is <= 0.
- pdg_id is 211 times the charge, 130, 22, -11 and -13 times the charge. A candidate with none of
  the five flags is one of the forward calorimeter, hadronic or electromagnetic, which the file does
  not tell apart: it gets 1.
- d0 and dz: cm become mm, the sign is that of CMS (opposite to Delphes). d0_error is |dxy /
  dxysig|, dz_error likewise. Where a significance is 0, it could not be computed: has_track is
  False and all four are 0, and so they are for neutral candidates, and where d0 or dz is exactly 0
  or a value is not finite. Significances end at +-2000: there the quotient is more than the true
  error, an upper bound.
- label: from `label_*`, or `fj_label` where these are not all there. Jets of signal samples that
  are not H -> bb, of which many have a label_QCD_*, and jets of QCD samples that are no QCD class
  get -1.
- event is `event_no`. The format has no run, lumi block or number of the sample, so collisions of
  different samples can share a number: they go to the same part of a split, which is harmless, and
  jets of one collision always do.

Left out: tracks, secondary vertices, subjets, inputs of the double-b tagger, and pile-up density.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import numpy as np

from jetnb.readers import _chunks, _deepntuple, _padded, _root
from jetnb.readers._common import accepts, ahead, counter, explaining, open_hdf5
from jetnb.readers._deepntuple import AXIS, LABELS, MORE, PART, PREFIX, TREE

WHAT = "CMS open data record 12102"
CODES = dict(zip(LABELS, (53, 51, 54, 52, 55, 41), strict=True))  # of fj_label
COLUMNS = (*AXIS, "event_no", "sample_isQCD")
PARTS = tuple(PREFIX + name for name in PART)
WEIGHT = PREFIX + "puppiw"
HINTS = {
    "HDF5": (
        *("fj_pt", "fj_eta", "fj_phi", "fj_mass"),
        *("pfcand_ptrel", "pfcand_erel", "event_no", "sample_isQCD"),
    ),
    "ROOT": ("deepntuplizer/tree/fj_*", "deepntuplizer/tree/pfcand_*"),
}
SELECTION = {"higgstobb": {"eta": (-2.4, 2.4)}}
PROVENANCE = {
    "sample": "higgstobb",
    "source": "simulation",
    "classes": list(LABELS.values()),
    "description": "CMS full simulation, 13 TeV, 2016 pile-up: jets of X -> HH -> 4b with m_X 0.6 to 4.5 TeV, and of "
    "QCD multijets",
    "selection": "anti-kT R=0.8 with charged-hadron subtraction, pt > 200 GeV, |eta| < 2.4; constituents with "
    "pt > 0.95 GeV, at most 100 in HDF5",
    "units": "pt, eta, phi, energy of constituents from values relative to the jet; d0, dz and errors cm -> mm, sign "
    "of d0 as CMS (opposite to Delphes)",
    "licence": "CC0-1.0",
    "citation": "doi:10.7483/OPENDATA.CMS.JGJX.MS7Q",
}


@explaining
def read(
    path,
    *,
    block_size: int = 10_000,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """Jets of a ROOT or HDF5 file of record 12102, as `jetnb.readers` says."""
    count(path)
    raw = _raw_root if _deepntuple.is_root(path) else _raw_hdf5
    return _blocks(Path(path), raw(path, block_size, max(start, 0), stop), counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    if _deepntuple.is_root(path):
        with _root.open_tree(path, TREE, WHAT) as tree:
            _nested(path, tree)
            return tree.num_entries
    with open_hdf5(path) as file:
        return len(_datasets(path, file)["fj_pt"])


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys and types alone; never an exception."""
    return accepts(count, path)


def _wanted(found) -> list[str]:
    """The columns to read of those `found` in a file; needed ones even if they are not there."""
    labels = list(LABELS) if all(name in found for name in LABELS) else ["fj_label"]
    return [*COLUMNS, *labels, *PARTS, *(name for name in (*MORE, WEIGHT) if name in found)]


def _nested(path, tree) -> dict[str, int]:
    names = _wanted(tree.names)
    return _deepntuple.depths(
        path, tree, {name: (int(name.startswith(PREFIX)),) for name in names}, WHAT
    )


def _datasets(path, file) -> dict:
    found = {
        name: _padded.need(
            path, file, name, (None,) if name.startswith(PREFIX) else (), "fiub", WHAT
        )
        for name in _wanted(_padded.keys(path, file))
    }
    for name, data in found.items():
        like = found[PARTS[0] if name.startswith(PREFIX) else "fj_pt"]
        if data.shape != like.shape or len(data) != len(found["fj_pt"]):
            raise ValueError(
                f"{path}: dataset {name!r} has shape {data.shape}, but {like.name.lstrip('/')!r} has "
                f"{like.shape} and 'fj_pt' {found['fj_pt'].shape}: the file was cut while it was "
                "written, download it again"
            )
    return found


def _raw_root(path, block_size: int, start: int, stop: int | None) -> Iterator[tuple]:
    with _root.open_tree(path, TREE, WHAT) as tree:
        nested = _nested(path, tree)
        for first, block in _root.blocks(
            path, tree, list(nested), block_size=block_size, start=start, stop=stop
        ):
            columns, part, counts, row = _deepntuple.unpack(block, nested)
            yield columns, part, counts, first + row


def _raw_hdf5(path, block_size: int, start: int, stop: int | None) -> Iterator[tuple]:
    with open_hdf5(path) as file:
        data = _datasets(path, file)
        read = {name: _chunks.Rows(path, values) for name, values in data.items()}
        for here in _padded.blocks(data[PARTS[0]], block_size, start, stop):
            raw = {name: values(here) for name, values in read.items()}
            n, slots = raw[PARTS[0]].shape
            slot = np.flatnonzero((raw[PREFIX + "ptrel"] != 0) | (raw[PREFIX + "erel"] != 0))
            part = {
                name.removeprefix(PREFIX): raw.pop(name).ravel().take(slot)
                for name in list(raw)
                if name.startswith(PREFIX)
            }
            yield (
                raw,
                part,
                np.bincount(slot // max(slots, 1), minlength=n),
                np.arange(here.start, here.stop),
            )


def _blocks(
    path: Path, raw: Iterator[tuple], tally: MutableMapping[str, int]
) -> Iterator[ak.Array]:
    for columns, part, counts, rows in ahead(raw):
        try:
            jets = _deepntuple.build(
                _columns(columns, rows), part, counts, rows, tally=tally, provenance=PROVENANCE
            )
        except ValueError as error:
            raise ValueError(f"{path}: rows {rows[0]} to {rows[-1]}: {error}") from None
        tally["rows"] += len(rows)
        yield jets


def _columns(raw: dict, rows: np.ndarray) -> dict[str, np.ndarray]:
    if "fj_label" in raw:
        one_hot = np.stack([raw["fj_label"] == code for code in CODES.values()], axis=1)
    else:
        one_hot = np.stack([_deepntuple.flags(raw[name], name, rows) for name in LABELS], axis=1)
    is_qcd = _deepntuple.flags(raw["sample_isQCD"], "sample_isQCD", rows)
    ours = {name: raw[branch] for branch, name in (AXIS | MORE).items() if branch in raw}
    return ours | {"label": _deepntuple.label_of(one_hot, is_qcd, rows), "event": raw["event_no"]}
