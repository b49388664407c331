"""JetNet (arXiv:2106.11535): g, q, t, w, z.hdf5 with 30 particles, g150 ... z150.hdf5 with 150, one
class per file.

Layout: two HDF5 datasets, rows are jets.
    particle_features  (N, 30 or 150, 4)  eta_rel, phi_rel, pt_rel, mask
    jet_features       (N, 4)             pt, eta, mass, num_particles
of any floating type. What becomes of them (GeV, nothing converted):

- A particle has pt = pt_rel * jet pt, eta = jet eta + eta_rel, phi = phi_rel and no mass: energy =
  pt cosh(eta).
- THE FORMAT HAS NO PHI OF THE JET: it is 0 for all jets, and phi is that relative to the jet. There
  are no charges, types or tracks.
- pt, eta and mass of the jet are those of the file; of all its particles, not only of the 30 or 150
  stored.
- mask, the last column, is 1 for a particle and 0 for padding. num_particles must be the number of
  particles, at most 30 or 150. Any other mask is refused, so one of -0.5 and 0.5, as it is after a
  normalisation for training.
- label comes from the name of the file, as nothing in it says what the jets are: gluon,
  light_quark, TTBar, WToQQ, ZToQQ for g, q, t, w, z, with or without 150 (or 30); -1 for any other
  name.
- event: every jet counts as an event of its own. The number is 31 bits of the sha256 of the name
  without its ending and without 150, then 32 bits of the row: g.hdf5 and g150.hdf5 have as many
  jets, perhaps the same ones, which a split puts into the same part. Two files of the same name are
  taken for the same jets.

A particle with pt <= 0 or a value that is not finite is left out, and a jet with such a value too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

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

WHAT = "JetNet"
SLOTS = (30, 150)
LAYOUT = {"particle_features": (None, 4), "jet_features": (4,)}
CLASSES = {"g": "gluon", "q": "light_quark", "t": "TTBar", "w": "WToQQ", "z": "ZToQQ"}
HINTS = {"HDF5": ("particle_features", "jet_features")}
PROVENANCE = {
    "sample": "JetNet",
    "source": "simulation",
    "classes": list(CLASSES.values()),
    "description": "jets of gluons, light quarks, top quarks, W and Z bosons, 13 TeV, MadGraph, Pythia 8 and a simple "
    "detector; particles relative to the jet, whose phi is set to 0",
    "selection": "anti-kT, pt about 1 TeV; the 30 or 150 particles of highest pt",
    "units": "GeV as in the file; relative coordinates made absolute, phi of the jet 0",
    "licence": "see doi:10.5281/zenodo.6975118",
    "citation": "arXiv:2106.11535, doi:10.5281/zenodo.6975118 (30 particles), doi:10.5281/zenodo.6975117 (150)",
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
    """Jets of a JetNet file, as `jetnb.readers` says.

    Fields: pt, eta, phi (0), mass, n_constituents, label (from the name of the file), event;
    constituents pt, eta, phi, energy.
    """
    with open_hdf5(path) as file:
        rows = _padded.blocks(_datasets(path, file)["particle_features"], block_size, start, stop)
    return _blocks(Path(path), rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    with open_hdf5(path) as file:
        return len(_datasets(path, file)["jet_features"])


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys and shapes alone; never an exception."""
    return accepts(count, path)


def _datasets(path, file: h5py.File) -> dict[str, h5py.Dataset]:
    found = {name: _padded.need(path, file, name, tail, "f", WHAT) for name, tail in LAYOUT.items()}
    particles, jets = found.values()
    if particles.shape[1] not in SLOTS:
        raise ValueError(
            f"{path}: 'particle_features' has room for {particles.shape[1]} particles, but for "
            f"{' or '.join(map(str, SLOTS))} in {WHAT}: download the published file"
        )
    if len(particles) != len(jets):
        raise ValueError(
            f"{path}: 'particle_features' has {len(particles)} jets, but 'jet_features' {len(jets)}: the "
            "file was cut while it was written, make or download it again"
        )
    return found


def _blocks(path: Path, rows: list[slice], tally: MutableMapping[str, int]) -> Iterator[ak.Array]:
    published = re.fullmatch(r"([gqtwz])(30|150)?", path.stem)
    label = list(CLASSES).index(published[1]) if published else -1
    event = first_event(Path(published[1]) if published else path)
    with open_hdf5(path) as file:
        data = [_chunks.Rows(path, one) for one in _datasets(path, file).values()]
        for here, block in ahead((here, [one(here) for one in data]) for here in rows):
            try:
                columns, inside, counts = _decode(*block, here.start, tally)
                columns |= {
                    "label": np.full(len(counts), label),
                    "event": event + np.arange(here.start, here.stop),
                }
                columns, inside, counts, lost = _padded.keep_good(
                    columns, inside, counts, jetnb.jets.JETS_NEED
                )
                jets = jetnb.jets.build(columns, inside, counts, provenance=PROVENANCE)
            except ValueError as error:
                raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
            tally.update(rows=tally["rows"] + len(block[0]), jets=tally["jets"] + lost)
            yield jets


def _decode(
    particles: np.ndarray, jets: np.ndarray, first: int, tally: MutableMapping[str, int]
) -> tuple:
    """Columns (N,), fields (T,) and counts (N,) of the particles (N, P, 4) and jets (N, 4) from row
    `first` on.
    """
    eta_rel, phi_rel, pt_rel, mask = np.moveaxis(particles, -1, 0)  # (N, P) each
    jet_pt, jet_eta, mass, number = jets.T.astype(float)
    _refuse(
        ~np.isin(mask, (0, 1)).all(axis=1),
        first,
        "a mask (particle_features[:, :, 3]) other than 0 and 1: are "
        "the columns in the published order, and not yet normalised for training?",
    )
    stored = np.count_nonzero(mask, axis=1)
    wrong = np.minimum(number, mask.shape[1]) != stored
    at = int(np.argmax(wrong))  # a block has at least one row
    _refuse(
        wrong,
        first,
        f"num_particles = {number[at]:g}, but a mask of {stored[at]} particles: are the columns "
        "in the published order?",
    )
    jet, slot = np.nonzero(mask)
    with np.errstate(all="ignore"):  # what is not finite is left out
        pt = (pt_rel[jet, slot] * jet_pt[jet]).astype(np.float32)
        eta = (jet_eta[jet] + eta_rel[jet, slot]).astype(np.float32)
        energy = (pt * np.cosh(eta.astype(float))).astype(np.float32)
    inside = {"pt": pt, "eta": eta, "phi": _padded.wrap_phi(phi_rel[jet, slot]), "energy": energy}
    good = np.isfinite(list(inside.values())).all(axis=0) & (pt > 0)
    tally["constituents"] += int((~good).sum())
    inside, jet = {name: values[good] for name, values in inside.items()}, jet[good]
    sort_by_pt(inside, jet, tally)
    columns = {"pt": jet_pt, "eta": jet_eta, "phi": np.zeros(len(jets)), "mass": mass}
    return columns, inside, np.bincount(jet, minlength=len(jets))


def _refuse(wrong: np.ndarray, first: int, what: str) -> None:
    if wrong.any():
        raise ValueError(
            f"row {first + int(np.argmax(wrong))} has {what} Download the published file ({wrong.sum()} "
            f"of {len(wrong)} rows are like this)"
        )
