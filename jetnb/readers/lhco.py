"""LHC Olympics 2020 (arXiv:2101.08320, doi:10.5281/zenodo.6466204): events_anomalydetection.h5,
events_anomalydetection_v2.h5, events_anomalydetection_Z_XY_qqq.h5, and the black boxes
(doi:10.5281/zenodo.4536624).

Layout: a frame of pandas in its "fixed" format, under the key `df` as published, or any other. Rows
are events:
    df/block0_values  (N, 2101)  float  pt_0, eta_0, phi_0, ..., pt_699, eta_699, phi_699, zero where
                                        padded, and the truth: 1 for a signal event, 0 for background
    df/block0_items   (2101,)    int    names of the columns, 0 to 2100
compressed with blosc. The black boxes, whose truth is published apart, have 2100 columns. The files
have particles of events and no jets. What becomes of them:

- The particles of each event are clustered by anti-kT with R=1.0, E scheme, as in the LHC Olympics
  (FastJet is needed). The two jets of largest pt make two rows, the harder one first; a jet below
  20 GeV is none, so an event can give one jet, or none at all.
- Particles are massless, as the publishers say: energy is pt cosh(eta). There are no charges, types
  or tracks. GeV, nothing converted; phi is turned into (-pi, pi]. pt, eta, phi and mass of a jet
  are those of the sum of its constituents.
- event_label is the truth of the event, absent where the file has none. label is -1: the file does
  not say which jet of a signal event comes from the signal.
- event: 31 bits of the sha256 of the file name without its ending, then 32 bits of the row. It is
  the same wherever the file lies; two files of the same name are taken for the same events.

A particle with pt <= 0, or with a value that is not finite, is left out. The high-level files
(events_anomalydetection_v2.features.h5) have px, py, pz, mass and tau1 to tau3 of two jets, but no
constituents: they are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import h5py
import numpy as np

import jetnb.jets
from jetnb import clustering, kinematics, packed
from jetnb.readers import _chunks, _padded
from jetnb.readers._common import (
    accepts,
    ahead,
    counter,
    explained,
    explaining,
    first_event,
    open_hdf5,
)

WHAT = "the LHC Olympics"
KEY, VALUES = "df", "block0_values"
SLOTS = 700
COLUMNS = 3 * SLOTS  # and one more with the truth
RADIUS = 1.0
PT_MIN = 20.0  # GeV
JETS = 2  # of each event
EVENTS = 1_000  # at most read at a time: 17 MB
FEATURES = tuple(
    f"{name}j{i}" for i in (1, 2) for name in ("px", "py", "pz", "m", "tau1", "tau2", "tau3")
)
HINTS = {"HDF5": FEATURES}
SELECTION = {name: {"pt": (PT_MIN, 6500)} for name in ("lhco", "lhco, unlabelled")}
PROVENANCE = {
    "sample": "lhco",
    "source": "simulation",
    "classes": [],
    "description": "events of the LHC Olympics 2020 R&D data set (Pythia 8 and Delphes, 13 TeV, no pile-up): QCD "
    "dijets, and a resonance that decays to X and Y, both of which decay to quarks; massless particles; signal or "
    "background is known of the event, not of the jet",
    "selection": "events with a jet of R=1.0 and pt > 1200 GeV, at most 700 particles; of each the two hardest jets "
    "with pt > 20 GeV",
    "constituents": "anti-kT R=1.0 of all particles of the event, clustered by jetnb",
    "units": "GeV as in the file, nothing converted; energy of massless particles",
    "licence": "CC-BY-4.0",
    "citation": "arXiv:2101.08320, doi:10.5281/zenodo.6466204",
}
UNLABELLED = PROVENANCE | {
    "sample": "lhco, unlabelled",
    "description": "simulated events in the layout of the LHC Olympics 2020, such as its black boxes, without truth; "
    "massless particles",
    "citation": "arXiv:2101.08320, doi:10.5281/zenodo.4536624",
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
    """The two hardest jets of each event of an LHC Olympics file, as `jetnb.readers` says; rows are
    events.

    Fields: pt, eta, phi, mass, n_constituents, label (-1), event, and event_label (1 signal, 0
    background) where the file has it; constituents pt, eta, phi, energy. Raises
    `ModuleNotFoundError` too, where FastJet is not installed.
    """
    with open_hdf5(path) as file:
        rows = _padded.blocks(_values(path, file), min(block_size, EVENTS), start, stop)
    _need_fastjet(path)
    return _blocks(Path(path), rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of events in the file, from its header."""
    with open_hdf5(path) as file:
        return len(_values(path, file))


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys, shapes and names of columns alone;
    never an exception.
    """
    return accepts(count, path)


def _values(path, file: h5py.File) -> h5py.Dataset:
    """The dataset of particles (N, 2100 or 2101), under whatever key; else `ValueError`."""
    with explained(path):
        keys = [
            key for key, one in file.items() if isinstance(one, h5py.Group) and VALUES in one
        ] or [KEY]
    key = KEY if KEY in keys else keys[0]
    name = f"{key}/{VALUES}"
    data = _padded.need(path, file, name, (None,), "f", WHAT)
    names = _padded.frame_columns(path, file, key)
    if set(FEATURES) <= set(names):
        raise ValueError(
            f"{path} has the high-level features of {WHAT}: px, py, pz, mass and tau1 to tau3 of two jets of "
            "each event, but not their constituents, which jetnb needs: read the file with the particles "
            "of the same events, such as events_anomalydetection_v2.h5 for events_anomalydetection_v2.features.h5 "
            "(https://zenodo.org/records/6466204)"
        )
    if data.shape[1] not in (COLUMNS, COLUMNS + 1):
        raise ValueError(
            f"{path}: dataset {name!r} has {data.shape[1]} columns, but {COLUMNS} in {WHAT} (pt, eta, phi of "
            f"{SLOTS} particles), or {COLUMNS + 1} with the truth: it is another table; choose the reader of its "
            "format"
        )
    if names and names != list(range(data.shape[1])):
        raise ValueError(
            f"{path}: the columns of {name!r} are not numbered 0 to {data.shape[1] - 1} in block0_items beside it, so "
            f"they are in another order than in {WHAT}: download the published file"
        )
    return data


def _need_fastjet(path) -> None:
    try:
        import fastjet  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path} has the particles of events, not jets, so jets must be clustered, which needs FastJet: "
            "pip install fastjet",
            name="fastjet",
        ) from None


def _blocks(path: Path, rows: list[slice], tally: MutableMapping[str, int]) -> Iterator[ak.Array]:
    first = first_event(path)
    with open_hdf5(path) as file:
        values = _chunks.Rows(path, _values(path, file))
        for here, block in ahead((here, values(here)) for here in rows):
            try:
                columns, inside, counts = _decode(block, here.start, tally)
                columns["event"] += first
                about = PROVENANCE if "event_label" in columns else UNLABELLED
                jets = jetnb.jets.build(columns, inside, counts, provenance=about)
            except ValueError as error:
                raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
            tally["rows"] += len(block)
            yield jets


def _decode(block: np.ndarray, first: int, tally: MutableMapping[str, int]) -> tuple:
    """Columns (N,), fields (T,) and counts (N,) of the jets of the events (n, 2100 or 2101) from row
    `first` on.
    """
    event, p, particles = _particles(block, tally)
    found = clustering.cluster(event, p, n_events=len(block), radius=RADIUS, pt_min=PT_MIN)
    rank = packed.ranks(np.bincount(found.jets["event"], minlength=len(block)))
    jets, rows, counts = clustering.select(found, rank < JETS)
    rows = rows[np.lexsort((rows, -particles["pt"][rows], packed.jet_of(counts)))]
    row = jets["event"]
    columns = _padded.total(*(values[rows] for values in p.values()), counts)
    columns |= {"label": np.full(len(row), -1), "event": first + row}
    if block.shape[1] > COLUMNS:
        columns["event_label"] = _truth(block[:, COLUMNS], first)[row]
    return columns, {name: values[rows] for name, values in particles.items()}, counts


def _particles(
    block: np.ndarray, tally: MutableMapping[str, int]
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Event (T,), four-momentum and constituent fields of each particle that can be used."""
    pt, eta, phi = (block[:, i:COLUMNS:3].ravel() for i in range(3))
    slot = np.flatnonzero((pt != 0) | (eta != 0) | (phi != 0))
    pt, eta, phi = (values[slot].astype(np.float64) for values in (pt, eta, phi))
    with np.errstate(over="ignore", invalid="ignore"):
        energy = kinematics.energy(pt, eta)
        # As they are stored: neither nothing nor infinity, whose squares FastJet could not bear.
        good = (pt.astype(np.float32) > 0) & np.isfinite(energy.astype(np.float32))
    good &= np.isfinite(phi)
    tally["constituents"] += int((~good).sum())
    slot, pt, eta, phi, energy = (values[good] for values in (slot, pt, eta, phi, energy))
    phi = _padded.wrap_phi(phi)
    momentum = kinematics.to_cartesian(pt, eta, phi.astype(np.float64))
    p = dict(zip(("px", "py", "pz", "energy"), (*momentum, energy), strict=True))
    fields = {"pt": pt.astype(np.float32), "eta": eta, "phi": phi, "energy": energy}
    return slot // SLOTS, p, fields


def _truth(label: np.ndarray, first: int) -> np.ndarray:
    if (wrong := ~np.isin(label, (0, 1))).any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"row {first + at} has {label[at]:g} in the last column, but the truth is 1 for a signal event and 0 "
            "for background: the file is damaged or its columns are in another order; download the published file"
        )
    return label
