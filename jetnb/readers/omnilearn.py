"""Files prepared for OmniLearn (arXiv:2404.16091) by the scripts of
github.com/ViniciusMikuni/OmniLearn: HDF5.

Layout: three datasets, rows are jets.
    data  (N, P, 7 or 13)  deta, dphi, log(1 - pt/jet pt), log pt, log(1 - E/jet E), log E, distance to the axis; then
                           charge and whether it is a charged hadron, neutral hadron, photon, electron, muon
    jet   (N, 4)           pt, eta, mass, number of particles
    pid   (N,) or (N, C)   the class, as a number or with 1 in its column
of any number type; GeV. What becomes of them:

- A constituent has pt = exp(log pt), energy = exp(log E), eta = that of the jet plus deta, phi =
  dphi.
- THE FORMAT HAS NO PHI OF THE JET: it is 0 for all jets, and phi is that relative to the jet.
  Columns 2, 4 and 6 say nothing new; that 2 and 6 agree with the others is checked, so columns in
  another order are refused.
- pt, eta and mass of the jet are those of the file; of all its constituents, not only of the P
  stored. Files made from EnergyFlow have rapidity in place of eta: read those of EnergyFlow
  (`energyflow`) for eta.
- label: C = 10 has the classes of JetClass, C = 5 those of JetNet. What a number means depends on
  the data set, which only the name of the file says: `qg` in it, 1 is a quark and 0 a gluon; `top`,
  `ttbar` or `atlas`, 1 is a top quark; for any other name the label is -1.
- pdg_id: 211 times the charge, 130, 22, 11, 13; one with none of the five flags is taken for a
  neutral hadron. Neutral ones have charge 0. Where pid is a number, the scripts write the sign of
  the PDG id for the charge, opposite to that of electrons and muons, and it is turned; with a
  column for each class it is the charge.
- event: every jet counts as an event of its own. The number is 31 bits of the sha256 of the name
  without its ending, then 32 bits of the row. Train, validation and test files of one data set have
  names of their own.

A constituent with a value that is not finite is left out, and a jet with such a value too.

Files for OmniLearned, its successor, have `data` and `pid` but no `jet`: deta, dphi, log pt, log E
first. Neither the momentum nor the direction of the jet is in them, so they are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import awkward as ak
import h5py
import numpy as np

import jetnb.jets
from jetnb.readers import _chunks, _padded
from jetnb.readers._common import (
    accepts,
    ahead,
    counter,
    explaining,
    first_event,
    open_hdf5,
    sort_by_pt,
)
from jetnb.readers._jetclass_columns import LABELS

WHAT = "a file prepared for OmniLearn"
SLOTS = 1_000  # the most particles of a jet; files have 30 to 150
BLOCK = 64 << 20  # bytes of `data` at a time
KINEMATIC, WITH_TYPES = 7, 13
JETCLASS = list(LABELS.values())
JETNET = ["gluon", "light_quark", "TTBar", "WToQQ", "ZToQQ"]
ONE_HOT = {len(names): names for names in (JETCLASS, JETNET)}
BY_NAME = (
    (re.compile(r"(^|[_-])qg|qg($|[_-])"), ["gluon", "quark"]),
    (re.compile(r"top|ttbar|atlas"), ["QCD", "TTBar"]),
)
HINTS = {"HDF5": ("data", "pid", "jet", "global")}
PROVENANCE: dict[str, Any] = {
    "sample": "OmniLearn layout",
    "source": "simulation",
    "description": "a data set as OmniLearn is trained with it: constituents relative to the jet, whose phi is set "
    "to 0",
    "selection": "as in the data set that it was made from; the first constituents of each jet",
    "units": "GeV as in the file; logarithms undone, relative coordinates made absolute, phi of the jet 0",
    "licence": "that of the data set it was made from",
    "citation": "arXiv:2404.16091, and the data set it was made from",
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
    """Jets of a file prepared for OmniLearn, as `jetnb.readers` says.

    Fields: pt, eta, phi (0), mass, n_constituents, label, event; constituents pt, eta, phi, energy,
    and charge and pdg_id where there are 13 columns.
    """
    with open_hdf5(path) as file:
        data = _datasets(path, file)["data"]
        row = data.shape[1] * data.shape[2] * data.dtype.itemsize
        rows = _padded.blocks(data, min(block_size, max(1, BLOCK // max(row, 1))), start, stop)
    return _blocks(Path(path), rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    with open_hdf5(path) as file:
        return len(_datasets(path, file)["jet"])


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys and shapes alone; never an exception."""
    return accepts(count, path)


def _datasets(path, file: h5py.File) -> dict[str, h5py.Dataset]:
    found = set(_padded.keys(path, file))
    if {"data", "pid"} <= found and "jet" not in found:
        raise ValueError(
            f"{path} has 'data' and 'pid' but no 'jet', as files for OmniLearned: neither the momentum "
            "nor the direction of a jet is in it, so it cannot be turned into jets; read the data set "
            "that it was made from"
        )
    data = _padded.need(path, file, "data", (None, None), "f", WHAT)
    if data.shape[2] not in (KINEMATIC, WITH_TYPES) or data.shape[1] > SLOTS:
        raise ValueError(
            f"{path}: 'data' is of shape {data.shape}, but (N, P, {KINEMATIC} or {WITH_TYPES}) in {WHAT}, "
            f"with P at most {SLOTS}: other columns may mean anything; read the data set that it was made "
            "from"
        )
    jet = _padded.need(path, file, "jet", (4,), "f", WHAT)
    pid = file.get("pid")
    one_hot = isinstance(pid, h5py.Dataset) and pid.ndim == 2
    pid = _padded.need(path, file, "pid", (None,) if one_hot else (), "iufb", WHAT)
    if one_hot and pid.shape[1] not in ONE_HOT:
        raise ValueError(
            f"{path}: 'pid' has {pid.shape[1]} columns, but {' or '.join(map(str, ONE_HOT))} in {WHAT}: "
            "what they mean is not known"
        )
    if len({len(data), len(jet), len(pid)}) > 1:
        raise ValueError(
            f"{path}: 'data', 'jet' and 'pid' have {len(data)}, {len(jet)} and {len(pid)} jets: the file "
            "was cut while it was written, make it again"
        )
    return {"data": data, "jet": jet, "pid": pid}


def _blocks(path: Path, rows: list[slice], tally: MutableMapping[str, int]) -> Iterator[ak.Array]:
    event = first_event(path)
    with open_hdf5(path) as file:
        found = _datasets(path, file)
        wide = found["pid"].shape[1] if found["pid"].ndim == 2 else 0
        classes = ONE_HOT.get(wide) or next(
            (names for name, names in BY_NAME if name.search(path.stem.lower())), None
        )
        provenance = PROVENANCE | {"classes": classes or []}
        if not classes:
            provenance["description"] += (
                "; what its pid means, neither the file nor its name says, so the label is "
                "-1: name it train_qg.h5 or train_top.h5 if it is of quarks and gluons or "
                "of top quarks"
            )
        for here, block in ahead(
            (here, [_chunks.Rows(path, one)(here) for one in found.values()]) for here in rows
        ):
            try:
                columns, inside, counts = _decode(*block[:2], here.start, bool(wide), tally)
                columns |= {
                    "label": _label(block[2], here.start, classes),
                    "event": event + np.arange(here.start, here.stop),
                }
                columns, inside, counts, lost = _padded.keep_good(
                    columns, inside, counts, jetnb.jets.JETS_NEED
                )
                jets = jetnb.jets.build(columns, inside, counts, provenance=provenance)
            except ValueError as error:
                raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
            tally.update(rows=tally["rows"] + len(block[0]), jets=tally["jets"] + lost)
            yield jets


def _label(pid: np.ndarray, first: int, classes: list[str] | None) -> np.ndarray:
    if pid.ndim == 2:
        _refuse(
            ~np.isin(pid, (0, 1)).all(axis=1) | (pid.sum(axis=1) != 1),
            first,
            "a pid that is not 1 in one column and 0 in the others",
        )
        return pid.argmax(axis=1)
    if not classes:
        return np.full(len(pid), -1)
    _refuse(
        ~np.isin(pid, (0, 1)),
        first,
        f"a pid other than 0 ({classes[0]}) and 1 ({classes[1]}), as the name of the "
        "file says: rename it if it is of another data set",
    )
    return pid


def _decode(
    data: np.ndarray, jet: np.ndarray, first: int, one_hot: bool, tally: MutableMapping[str, int]
) -> tuple:
    """Columns (N,), fields (T,) and counts (N,) of data (N, P, F) and jet (N, 4) from row `first`
    on.
    """
    jet_pt, jet_eta, mass, number = jet.T.astype(float)
    # A distance of 0 is possible, all logarithms 0 are not.
    real = (data[:, :, 2:6] != 0).any(axis=2)
    stored = np.count_nonzero(real, axis=1)
    wrong = np.minimum(number, data.shape[1]) != stored
    at = int(np.argmax(wrong))  # a block has at least one row
    _refuse(
        wrong,
        first,
        f"{number[at]:g} particles in jet[:, 3], but {stored[at]} in 'data': are the columns in the "
        "published order?",
    )
    row, slot = np.nonzero(real)
    deta, dphi, rest, log_pt, _, log_energy, distance, *types = data[row, slot].T.astype(float)
    with np.errstate(all="ignore"):  # what is not finite is left out
        pt, energy = np.exp(log_pt).astype(np.float32), np.exp(log_energy).astype(np.float32)
        share = pt / jet_pt[row]
        off = (np.abs(1 - np.exp(rest) - share) > 0.01) & (rest != 0) | (
            np.abs(np.hypot(deta, dphi) - distance) > 1e-3 * (1 + distance)
        )
    inside = {
        "pt": pt,
        "eta": (jet_eta[row] + deta).astype(np.float32),
        "phi": _padded.wrap_phi(dphi),
        "energy": energy,
    }
    if types:
        charge, hadron, neutral, photon, electron, muon = types
        _refuse(
            ~np.isin([hadron, neutral, photon, electron, muon], (0, 1)).all(axis=0)
            | ~np.isin(charge, (-1, 0, 1)),
            first,
            "flags or a charge in 'data' other than -1, 0 and 1: are the columns in the published order, "
            "and not yet normalised for training?",
            row,
        )
        lepton = (electron + muon) > 0
        charge = np.where(lepton, charge if one_hot else -charge, np.where(hadron > 0, charge, 0))
        inside |= {
            "charge": charge,
            "pdg_id": np.where(
                hadron > 0,
                211 * charge,
                np.where(
                    photon > 0, 22, np.where(lepton, -charge * np.where(electron > 0, 11, 13), 130)
                ),
            ),
        }
    good = np.isfinite([inside[name] for name in jetnb.jets.CONSTITUENTS_NEED]).all(axis=0) & (
        pt > 0
    )
    _refuse(
        off & good & np.isfinite(share),
        first,
        "a constituent whose columns 2 or 6 in 'data' disagree with its pt "
        "and direction: are the columns in the published order, and not yet normalised for training?",
        row,
    )
    tally["constituents"] += int((~good).sum())
    inside, row = {name: values[good] for name, values in inside.items()}, row[good]
    sort_by_pt(inside, row, tally)
    columns = {"pt": jet_pt, "eta": jet_eta, "phi": np.zeros(len(jet)), "mass": mass}
    return columns, inside, np.bincount(row, minlength=len(jet))


def _refuse(wrong: np.ndarray, first: int, what: str, jet: np.ndarray | None = None) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        row = first + (at if jet is None else int(jet[at]))
        raise ValueError(f"row {row} has {what} ({wrong.sum()} of {len(wrong)} are like this)")
