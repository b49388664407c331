"""Top Quark Tagging Reference (arXiv:1902.09914, doi:10.5281/zenodo.2603256): train.h5, val.h5,
test.h5.

Layout: a pandas table. Dataset `/table/table` (N,) is a compound of
    index           int64         not used
    values_block_0  float32[804]  E_0, PX_0, PY_0, PZ_0, ..., E_199, PX_199, PY_199, PZ_199 (energy first, zero
                                  where padded), truthE, truthPX, truthPY, truthPZ of the top quark (not read)
    values_block_1  int64[2]      ttv (not read), is_signal_new: the label, 1 for a top quark, 0 for QCD
compressed with blosc, which h5py reads with `hdf5plugin` imported. The column names are a pickle in
the attributes of the file; no attribute is ever looked at, so nothing is unpickled.

Units: GeV, as in the file. Anti-kT jets of R = 0.8 from Delphes (ATLAS card, energy flow) with
550 < pt < 650 GeV, |eta| < 2, no pile-up; at most 200 constituents. The format has four-momenta
only, so there are no charges, types or tracks. A jet's pt, eta, phi and mass are those of the sum
of its constituents. `event` is the row: every jet is from a collision of its own. Rows of train.h5,
val.h5 and test.h5 have the same numbers, which is harmless: a split then puts row 7 of each into
the same part.

Slots that are all zero are padding. A slot with pt = 0, or with a value that is not finite, is
dropped; so is a jet left without constituents.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import h5py
import numpy as np

import jetnb.jets
from jetnb.readers import _chunks, _padded
from jetnb.readers._common import accepts, ahead, counter, explaining, open_hdf5, shown

WHAT = "Top Quark Tagging Reference"
SLOTS = 200
SELECTION = {"toptagging (published)": {"pt": (550, 650), "eta": (-2, 2)}}
PROVENANCE = {
    "sample": "toptagging (published)",
    "source": "simulation",
    "classes": ["QCD", "TTBar"],
    "description": "Pythia 8 and Delphes (ATLAS card) jets, 14 TeV, no pile-up: top quarks and light-quark and "
    "gluon jets, four-momenta only",
    "selection": "anti-kT R=0.8, 550 < pt < 650 GeV, |eta| < 2, top quark and its decay within the jet for TTBar; "
    "at most 200 constituents",
    "units": "GeV as in the file, nothing converted",
    "licence": "CC-BY-4.0",
    "citation": "arXiv:1902.09914, arXiv:1707.08966, doi:10.5281/zenodo.2603256",
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
    """Jets of a Top Quark Tagging Reference file, as `jetnb.readers` says.

    Fields: pt, eta, phi, mass, n_constituents, label (0 QCD, 1 TTBar), event; constituents pt, eta,
    phi, energy.
    """
    with open_hdf5(path) as file:
        rows = _padded.blocks(_table(path, file), block_size, start, stop)
    return _blocks(Path(path), rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    with open_hdf5(path) as file:
        return len(_table(path, file))


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys and types alone; never an exception."""
    return accepts(count, path)


def _table(path, file: h5py.File) -> h5py.Dataset:
    table = _padded.need(path, file, "table/table", (), "V", WHAT)
    for name, kind, shape in (
        ("values_block_0", "f", (4 * SLOTS + 4,)),
        ("values_block_1", "iub", (2,)),
    ):
        if name not in (table.dtype.names or ()):
            raise ValueError(
                f"{path}: dataset 'table/table' has no column {name!r} but {shown(table.dtype.names)}, so "
                f"it is another pandas table, not {WHAT}; choose the reader of its format"
            )
        base, found = table.dtype[name].base, table.dtype[name].shape
        if base.kind not in kind or found != shape:
            raise ValueError(
                f"{path}: column {name!r} of 'table/table' is {base} of shape {found}, but {shape} of "
                f"kind {kind!r} in {WHAT}: it is another table; download the published file"
            )
    return table


def _blocks(path: Path, rows: list[slice], tally: MutableMapping[str, int]) -> Iterator[ak.Array]:
    with open_hdf5(path) as file:
        table = _chunks.Rows(path, _table(path, file))
        for here, block in ahead((here, table(here)) for here in rows):
            label = block["values_block_1"][:, 1]
            if (wrong := ~np.isin(label, (0, 1))).any():
                at = int(np.argmax(wrong))
                raise ValueError(
                    f"{path}: row {here.start + at} of 'table/table' has is_signal_new "
                    f"(values_block_1[:, 1]) = {label[at]}, but it is 0 or 1: the file is damaged or "
                    "its columns are in another order; download the published file"
                )
            slots = block["values_block_0"][:, : 4 * SLOTS].reshape(len(block), SLOTS, 4)
            energy, *momentum = np.moveaxis(slots, -1, 0)
            inside, slot, counts = _padded.momenta(*momentum, energy, tally)
            columns = _padded.total(*(v.ravel().take(slot) for v in (*momentum, energy)), counts)
            columns |= {"label": label, "event": np.arange(here.start, here.stop)}
            columns, inside, counts, lost = _padded.keep_good(
                columns, inside, counts, jetnb.jets.JETS_NEED
            )
            tally.update(rows=tally["rows"] + len(block), jets=tally["jets"] + lost)
            try:
                jets = jetnb.jets.build(columns, inside, counts, provenance=PROVENANCE)
            except ValueError as error:
                raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
            yield jets
