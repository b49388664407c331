"""X -> HH -> 4b of arXiv:2401.13536: CMS open data record 12102 by event, as HDF5 `Data_*.h5` or
the ROOT behind it.

Layout of HDF5, rows are events of two to five jets by falling fj_pt, zero where padded:
    X_jet       (N, 5, 6)        float  fj_pt, eta, doubleb, phi, mass, sdmass
    X_pfo       (N, 5, 100, 15)  float  pfcand_ptrel, erel, etarel, phirel, dxy, dxysig, dz, dzsig, deltaR, charge,
                                        isChargedHad, isNeutralHad, isGamma, isEl, isMu
    X_label     (N, 5, 6)        int    label_QCD_b, QCD_bb, QCD_c, QCD_cc, QCD_others, H_bb
    jet_mask    (N, 5)           int    1 for a jet
    labels      (N,)             int    1 for a signal event
    mass_param  (N,)             int    generated mass of X in GeV, 0 for background
and X_jet_singlejet and others, which repeat them. Of ROOT: tree `deepntuplizer/tree`, rows are
events, with a list of jets for `fj_*`, `label_*` and `sample_isQCD`, and a list of lists for
`pfcand_*`. What becomes of them: every jet is a row, with event_label and resonance_mass of its
event; jets and constituents are as `higgstobb` says. An event of the ROOT file can have any number
of jets, and its resonance_mass is not stored: the field is absent there.

label: the script that makes the HDF5 orders X_jet and X_pfo by fj_pt, but not X_label, which keeps
the order of the ROOT file. That is the order of the corrected pt, if the jets are CMS' and fj_pt is
uncorrected as the code says, so most labels are at the right jet and some are not; the file does
not tell which. A label is therefore taken only where all jets of the event have the same, so that
the order does not matter; in all other events it is -1. These labelled jets are a selection: no
event with one H -> bb and one other jet is among them. The ROOT file has each label at its jet: use
it where jet labels matter. As in `higgstobb`, only H -> bb is taken in signal events and only QCD_*
in background.

event: 31 bits of the sha256 of the file name without its ending, then 32 bits of the row: it is the
same wherever the file lies; two files of the same name are taken for the same events.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import numpy as np

from jetnb.readers import _chunks, _deepntuple, _padded, _root
from jetnb.readers._common import accepts, ahead, counter, explaining, first_event, open_hdf5
from jetnb.readers._deepntuple import AXIS, LABELS, MORE, PART, PREFIX, TREE

WHAT = "X -> HH -> 4b (arXiv:2401.13536)"
JET = ("pt", "eta", "double_b", "phi", "mass", "softdrop_mass")
SLOT = (*PART[:8], "deltaR", *PART[8:])
LAYOUT = {
    "X_jet": ((None, len(JET)), "f"),
    "X_pfo": ((None, None, len(SLOT)), "f"),
    "X_label": ((None, len(LABELS)), "iufb"),
    "jet_mask": ((None,), "iufb"),
    "labels": ((), "iufb"),
    "mass_param": ((), "iuf"),
}
EVENTS = 1_000  # at most read at a time from HDF5: 60 MB
HINTS = {"HDF5": ("X_jet", "X_pfo", "X_label", "jet_mask", "mass_param")}
PROVENANCE = {
    "sample": "hh4b",
    "source": "simulation",
    "classes": list(LABELS.values()),
    "description": "CMS full simulation, 13 TeV, 2016 pile-up: events of X -> HH -> 4b and of QCD multijets",
    "selection": "jets anti-kT R=0.8 with charged-hadron subtraction, pt > 200 GeV, |eta| < 2.4; constituents with "
    "pt > 0.95 GeV; in HDF5 events of two to five jets with at most 100 constituents",
    "units": "pt, eta, phi, energy of constituents from values relative to the jet; d0, dz and errors cm -> mm, sign "
    "of d0 as CMS (opposite to Delphes)",
    "licence": "CC0-1.0 (record 12102, of which it is a reshape)",
    "citation": "arXiv:2401.13536, doi:10.7483/OPENDATA.CMS.JGJX.MS7Q",
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
    """Jets of a file of X -> HH -> 4b events, as `jetnb.readers` says; rows are events."""
    count(path)
    raw = _raw_root if _deepntuple.is_root(path) else _raw_hdf5
    return _blocks(Path(path), raw(path, block_size, max(start, 0), stop), counter(tally))


@explaining
def count(path) -> int:
    """Number of events in the file, from its header."""
    if _deepntuple.is_root(path):
        with _root.open_tree(path, TREE, WHAT) as tree:
            _nested(path, tree)
            return tree.num_entries
    with open_hdf5(path) as file:
        return len(_datasets(path, file)["X_jet"])


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys, types and shapes alone; never an
    exception.
    """
    return accepts(count, path)


def _nested(path, tree) -> dict[str, int]:
    per_jet: dict[str, tuple] = dict.fromkeys((*AXIS, *LABELS), (1,)) | {"sample_isQCD": (0, 1)}
    more = {name: (0, 1) for name in MORE if name in tree.names}
    part = {PREFIX + name: (2,) for name in PART}
    if (weight := PREFIX + "puppiw") in tree.names:
        part[weight] = (2,)
    return _deepntuple.depths(path, tree, per_jet | more | part, WHAT)


def _datasets(path, file) -> dict:
    found = {
        name: _padded.need(path, file, name, tail, kind, WHAT)
        for name, (tail, kind) in LAYOUT.items()
    }
    n, slots = found["X_jet"].shape[:2]
    for name, data in found.items():
        if len(data) != n or (data.ndim > 1 and data.shape[1] != slots):
            raise ValueError(
                f"{path}: dataset {name!r} has shape {data.shape}, but 'X_jet' "
                f"{found['X_jet'].shape}, so events or jets are missing: the file was cut while it "
                "was written, make it again"
            )
    return found


def _raw_root(path, block_size: int, start: int, stop: int | None) -> Iterator[tuple]:
    with _root.open_tree(path, TREE, WHAT) as tree:
        nested = _nested(path, tree)
        for first, block in _root.blocks(
            path, tree, list(nested), block_size=block_size, start=start, stop=stop
        ):
            rows = slice(first, first + len(block))
            yield rows, _from_root, (block, nested)


def _raw_hdf5(path, block_size: int, start: int, stop: int | None) -> Iterator[tuple]:
    with open_hdf5(path) as file:
        data = _datasets(path, file)
        read = {name: _chunks.Rows(path, values) for name, values in data.items()}
        for rows in _padded.blocks(data["X_pfo"], min(block_size, EVENTS), start, stop):
            yield rows, _from_hdf5, ({name: values(rows) for name, values in read.items()},)


def _from_root(rows: slice, block: ak.Array, nested: dict[str, int]) -> tuple:
    raw, part, counts, row = _deepntuple.unpack(block, nested)
    row += rows.start
    one_hot = np.stack([_deepntuple.flags(raw[name], name, row) for name in LABELS], axis=1)
    is_qcd = _deepntuple.flags(raw["sample_isQCD"], "sample_isQCD", row)
    columns = {name: raw[branch] for branch, name in (AXIS | MORE).items() if branch in raw}
    columns |= {"label": _deepntuple.label_of(one_hot, is_qcd, row), "event_label": ~is_qcd}
    return columns, part, counts, row


def _from_hdf5(rows: slice, raw: dict) -> tuple:
    event = np.arange(rows.start, rows.stop)
    n_slots = raw["jet_mask"].shape[1]
    mask = _deepntuple.flags(
        raw["jet_mask"].ravel(), "jet_mask", np.repeat(event, n_slots)
    ).reshape(-1, n_slots)
    is_signal = _deepntuple.flags(raw["labels"], "labels", event)
    n_jets = mask.sum(axis=1)
    row = np.repeat(event, n_jets)
    one_hot = raw["X_label"][mask]
    one_hot = np.stack(
        [_deepntuple.flags(one_hot[:, i], name, row) for i, name in enumerate(LABELS)], axis=1
    )
    label = _deepntuple.label_of(one_hot, np.repeat(~is_signal, n_jets), row)
    unlike = (raw["X_label"] != raw["X_label"][:, :1]).any(axis=2) & mask
    label = np.where(np.repeat(unlike.any(axis=1), n_jets), -1, label)
    columns = dict(zip(JET, raw["X_jet"][mask].T, strict=True))
    columns |= {
        "label": label,
        "event_label": np.repeat(is_signal, n_jets),
        "resonance_mass": np.repeat(raw["mass_param"], n_jets),
    }
    slots = raw["X_pfo"][mask]  # (jets, constituents, 15)
    slot = np.flatnonzero(
        (slots[:, :, SLOT.index("ptrel")] != 0) | (slots[:, :, SLOT.index("erel")] != 0)
    )
    found = slots.reshape(-1, len(SLOT)).take(slot, axis=0)
    part = {name: found[:, SLOT.index(name)] for name in PART}
    return columns, part, np.bincount(slot // max(slots.shape[1], 1), minlength=len(slots)), row


def _blocks(
    path: Path, raw: Iterator[tuple], tally: MutableMapping[str, int]
) -> Iterator[ak.Array]:
    for rows, unpack, block in ahead(raw):
        try:
            columns, part, counts, row = unpack(rows, *block)
            columns["event"] = first_event(path) + row
            jets = _deepntuple.build(columns, part, counts, row, tally=tally, provenance=PROVENANCE)
        except ValueError as error:
            raise ValueError(f"{path}: rows {rows.start} to {rows.stop - 1}: {error}") from None
        tally["rows"] += rows.stop - rows.start
        yield jets
