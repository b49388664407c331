"""Opening a store: columns are mapped, and read when they are used."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import packed
from jetnb.data.store.record import AGAIN, HEADER, StoreError, column_file, header_of, read_meta
from jetnb.packed import Batch


class Store:
    """An opened store. `jets` is the whole sample as awkward array, `gather` makes training batches
    of it.
    """

    def __init__(self, path: Path, meta: dict, columns: dict[str, np.ndarray]):
        self.path, self.meta, self._columns = path, meta, columns

    def __len__(self) -> int:
        return self.meta["n_jets"]

    def __repr__(self) -> str:
        return (
            f"<Store {self.path}: {len(self):,} jets, {self.meta['n_constituents']:,} constituents>"
        )

    def __reduce__(self):
        return open, (self.path,)  # data-loading processes map the files again

    @functools.cached_property
    def jets(self) -> ak.Array:
        """All jets, without copying: a column is read from disk where and when it is used."""

        def fields(prefix):
            return {
                name[len(prefix) :]: c
                for name, c in self._columns.items()
                if name.startswith(prefix)
            }

        return jetnb.jets.wrap(
            fields("jet_"),
            fields("constituent_"),
            self._columns["offsets"],
            provenance=self.meta["provenance"],
        )

    def gather(
        self,
        indices,
        fields: Sequence[str] = ("pt", "eta", "phi", "energy"),
        *,
        n_max: int | None = None,
    ) -> Batch:
        """Constituent `fields` of the jets `indices` (B,), in that order, as packed batch.

        n_max: constituents of each jet, the first, which are the hardest; None is all. Returns
        `Batch(x (T, F), offsets (B + 1,))`. Raises `IndexError` for an index that is not an integer
        in [0, len(store)), `StoreError` for an unknown field. The first call in a process takes a
        few seconds, in which numba starts.
        """
        if unknown := [name for name in fields if f"constituent_{name}" not in self._columns]:
            raise StoreError(
                f"{self.path} has no constituent field {unknown[0]!r}, "
                f"only {', '.join(self.jets.constituents.fields)}"
            )
        indices = packed.valid(indices, len(self), f"the jets of {self.path}")
        if indices.size == 0:
            return Batch(np.empty((0, len(fields)), np.float32), np.zeros(1, np.int64))
        starts, ends = self._columns["offsets"][indices], self._columns["offsets"][indices + 1]
        if starts.min() < 0 or (ends < starts).any() or ends.max() > self.meta["n_constituents"]:
            raise StoreError(f"{self.path}/offsets.npy has been changed or damaged; {AGAIN}")
        if n_max is not None:
            ends = np.minimum(ends, starts + n_max)
        offsets = packed.starts(ends - starts)
        x = np.empty((offsets[-1], len(fields)), np.float32)  # (T, F)
        _kernel()(
            tuple(self._columns[f"constituent_{name}"] for name in fields), starts, offsets, x
        )
        return Batch(x, offsets)

    def verify(self) -> None:
        """Read every byte and raise `StoreError` naming the first file whose content is not as
        written.
        """
        for name, about in self.meta["columns"].items():
            file, digest = self.path / f"{name}.npy", hashlib.sha256()
            with column_file(
                file, HEADER + about["length"] * np.dtype(about["dtype"]).itemsize
            ) as stream:
                header = stream.read(HEADER)
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
            if (
                header != header_of(about["dtype"], about["length"])
                or digest.hexdigest() != about["sha256"]
            ):
                raise StoreError(
                    f"{file} has been changed or damaged: the sha256 of its values is "
                    f"{digest.hexdigest()}, written was {about['sha256']}; {AGAIN}"
                )


@functools.cache
def _kernel():
    """The gather kernel, compiled once per machine for each combination of column types."""
    from numba import literal_unroll, uint64

    from jetnb import _compiled

    @_compiled.njit(nogil=True)
    def gather(columns, starts, offsets, out):
        touched = 0.0
        for b in range(len(starts)):
            # Unsigned, so that no index is tested for counting from the end: a quarter of the time.
            start, first, n = (
                uint64(starts[b]),
                uint64(offsets[b]),
                uint64(offsets[b + 1] - offsets[b]),
            )
            # One value per cache line: the misses overlap.
            for k in range(start, start + n, uint64(16)):
                for early in literal_unroll(columns):
                    touched += early[k]
            for k in range(n):
                f = 0  # literal_unroll does not enumerate
                for column in literal_unroll(columns):
                    out[first + k, f] = column[start + k]
                    f += 1  # noqa: SIM113
        return touched  # so that the touching is not optimised away

    return gather


def open(path) -> Store:
    """Open the store at `path`: milliseconds and no memory for 10 million jets, as only
    `offsets.npy` is read.

    What the files claim is checked: lengths, sizes, types, and that offsets rise from 0 to the end,
    so that nothing outside of them is read later. `Store.verify` checks content. Raises
    `StoreError` when there is no store, when a file is missing, of the wrong size or not a plain
    file, when `meta.json` is damaged, and when a newer version of jetnb wrote it; `PermissionError`
    for a file that may not be read.
    """
    path = Path(path)
    meta = read_meta(path)
    n_jets, n_constituents = meta["n_jets"], meta["n_constituents"]
    columns = {}
    for name, about in meta["columns"].items():
        dtype, length, file = np.dtype(about["dtype"]), about["length"], path / f"{name}.npy"
        with column_file(file, HEADER + length * dtype.itemsize) as stream:
            if name == "offsets":
                about = os.fstat(stream.fileno())
                first, last, fall = _ends(
                    file, about.st_size, about.st_dev, about.st_ino, about.st_mtime_ns
                )
                if (first, last, fall) != (0, n_constituents, -1):
                    where = f", and falls at jet {fall}" if fall >= 0 else ""
                    raise StoreError(
                        f"{file} runs from {first} to {last}{where}, but meta.json says {n_jets} jets "
                        f"with {n_constituents} constituents; {AGAIN}"
                    )
            mapped = (
                np.memmap(stream, dtype, "r", HEADER, (length,)) if length else np.empty(0, dtype)
            )
        columns[name] = np.asarray(mapped)
    return Store(path, meta, columns)


@functools.lru_cache(64)
def _ends(file: Path, expected: int, *changed) -> tuple[int, int, int]:
    """First and last offset, and the number of the first that is below the one before, -1 if they
    rise.

    changed: what differs once the file has been changed, so that each file is read once in a
    process: stores are opened for each block of jets. Read, not mapped, so that the pages do not
    count as memory of this process.
    """
    last, n_read, first = None, 0, 0
    with column_file(file, expected) as stream:
        stream.seek(HEADER)
        while data := stream.read(1 << 19):
            piece = np.frombuffer(data, "<i8")
            first = int(piece[0]) if last is None else first
            if (last is not None and piece[0] < last) or (piece[1:] < piece[:-1]).any():
                return (
                    first,
                    int(piece[-1]),
                    n_read + int(np.argmax(np.diff(piece, prepend=last or piece[0]) < 0)),
                )
            last, n_read = piece[-1], n_read + len(piece)
    return first, int(last), -1
