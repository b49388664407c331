"""The store: a folder of plain columns, memory-mapped, read as awkward jets or gathered as packed
batches.

`meta.json` holds schema version, counts, provenance and a sha256 per column; `offsets.npy`,
`jet_*.npy` and `constituent_*.npy` hold the columns, each a 128-byte NumPy header and the values,
so `np.load` reads them too. Opening maps the files and reads the offsets alone, 8 bytes a jet, to
see that they rise. Writing goes block by block into a hidden folder beside the target, which is
renamed into place when complete and on disk: there is never half a store.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import _json, atomic, packed
from jetnb.packed import Batch

FORMAT, VERSION = "jetnb store", 1
HEADER = 128  # bytes of the NumPy header before the values
PIECE = 65536  # jets looked at and written at a time, whatever the size of a block
AGAIN = "remove the folder and write the store again"
META = {"n_jets": int, "n_constituents": int, "provenance": dict, "columns": dict}
NAME = re.compile(r"offsets|(jet|constituent)_[a-z][a-z0-9_]{0,60}")
NEEDED = (
    "offsets",
    *(f"jet_{name}" for name in jetnb.jets.JETS_NEED),
    *(f"constituent_{name}" for name in jetnb.jets.CONSTITUENTS_NEED),
)


class StoreError(ValueError):
    """A store that cannot be written or opened; the message says which file, what is wrong, what to
    do.
    """


class StoreExistsError(StoreError, FileExistsError):
    """There is already something at the path where a store was to be written."""


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
        few seconds, in which numba starts. Taught in notebook 16.
        """
        if unknown := [name for name in fields if f"constituent_{name}" not in self._columns]:
            raise StoreError(
                f"{self.path} has no constituent field {unknown[0]!r}, "
                f"only {', '.join(self.jets.constituents.fields)}"
            )
        indices = packed.valid(indices, len(self))
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
            with _column_file(
                file, HEADER + about["length"] * np.dtype(about["dtype"]).itemsize
            ) as stream:
                header = stream.read(HEADER)
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
            if (
                header != _header(about["dtype"], about["length"])
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
            for k in range(
                start, start + n, uint64(16)
            ):  # one value per cache line: the misses overlap
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
    for a file that may not be read. Taught in notebook 16.
    """
    path = Path(path)
    meta = _meta(path)
    n_jets, n_constituents = meta["n_jets"], meta["n_constituents"]
    columns = {}
    for name, about in meta["columns"].items():
        dtype, length, file = np.dtype(about["dtype"]), about["length"], path / f"{name}.npy"
        with _column_file(file, HEADER + length * dtype.itemsize) as stream:
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


def _meta(path: Path) -> dict:
    """What `meta.json` says, every entry of which has been compared with the others."""
    file, about = path / "meta.json", {"what": "record of a store", "remedy": AGAIN}
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            raise StoreError(f"{file} is not a plain file: {AGAIN}")
        meta = _json.read(file, {"format": str, "version": int}, **about)
        if meta["format"] != FORMAT or meta["version"] < 1:
            raise StoreError(
                f"{file} does not describe a store: its format is {meta['format']!r:.80}; {AGAIN}"
            )
        if meta["version"] > VERSION:
            raise StoreError(
                f"{path} has schema version {meta['version']}, this jetnb reads up to {VERSION}: "
                "update jetnb, or write the store again with this one"
            )
        meta = _json.read(file, META, **about)  # of another version it could differ
        jetnb.jets.provenance(ak.Array([], attrs={"jetnb": meta["provenance"]}))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"there is no store at {path} (no file {file}): write one with "
            "jetnb.data.store.write, or check the path"
        ) from None
    except StoreError:
        raise
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}): change its permissions, or copy the store "
            "to where you may read it"
        ) from None
    except (ValueError, TypeError, OSError) as error:
        raise StoreError(f"{file} does not describe a store ({error}); {AGAIN}") from None
    if wrong := _wrong(meta):
        raise StoreError(f"{file} does not describe a store: {wrong}; {AGAIN}")
    return meta


def _wrong(meta: dict) -> str:
    """What is wrong with the table of columns, in words; "" if nothing is."""
    for name in NEEDED:
        if name not in meta["columns"]:
            return f"it has no column {name!r}"
    for name, about in meta["columns"].items():
        if not NAME.fullmatch(name):
            return f"a column has the name {name!r:.80}"
        if not (
            isinstance(about, dict)
            and isinstance(about.get("dtype"), str)
            and type(about.get("length")) is int
            and isinstance(about.get("sha256"), str)
        ):
            return f"of column {name!r} it says {about!r:.80}, not dtype, length and sha256"
        if not re.fullmatch(r"[<|][iufb][1248]", about["dtype"]) or about["dtype"][1:] in (
            "f1",
            "b2",
            "b4",
            "b8",
        ):
            return f"column {name!r} is of type {about['dtype']!r:.80}"
        if name == "offsets" and about["dtype"] != "<i8":
            return f"column 'offsets' is of type {about['dtype']!r}, not '<i8'"
        length = (
            meta["n_constituents"]
            if name.startswith("constituent_")
            else meta["n_jets"] + (name == "offsets")
        )
        if about["length"] != length or length < 0:
            return (
                f"column {name!r} has {about['length']} values, but there are {meta['n_jets']} jets with "
                f"{meta['n_constituents']} constituents"
            )
    return ""


@contextlib.contextmanager
def _column_file(file: Path, expected: int) -> Iterator[io.BufferedReader]:
    """The column file, which is a plain file of `expected` bytes: no link is followed, nothing is
    waited for.
    """
    try:
        handle = os.open(
            file,
            os.O_RDONLY
            | getattr(os, "O_NOFOLLOW", 0)
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0),
        )
    except FileNotFoundError:
        raise StoreError(
            f"{file} has 0 bytes instead of {expected}: it is missing; {AGAIN}"
        ) from None
    except PermissionError as error:
        raise PermissionError(
            f"{file} cannot be read ({error.strerror}): change its permissions, or copy the store "
            "to where you may read it"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{file} is not a plain file, perhaps a link ({error.strerror}); {AGAIN}"
        ) from None
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise StoreError(f"{file} is not a plain file; {AGAIN}")
        if found.st_size != expected:
            raise StoreError(
                f"{file} has {found.st_size} bytes instead of {expected}: it is truncated or of another "
                f"store; {AGAIN}"
            )
        with builtins.open(handle, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(handle)


@functools.lru_cache(64)
def _ends(file: Path, expected: int, *changed) -> tuple[int, int, int]:
    """First and last offset, and the number of the first that is below the one before, -1 if they
    rise.

    changed: what differs once the file has been changed, so that each file is read once in a
    process: stores are opened for each block of jets. Read, not mapped, so that the pages do not
    count as memory of this process.
    """
    last, n_read, first = None, 0, 0
    with _column_file(file, expected) as stream:
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


def write(
    path, blocks: Iterable[ak.Array], *, provenance: Mapping | None = None, overwrite: bool = False
) -> Store:
    """Write jets arrays one after the other into a new store at `path` and open it.

    `blocks`: jets arrays of the same fields and classes, e.g. from a reader; memory is that of one
    block. `provenance` replaces that of the first block. `overwrite=True` replaces an existing
    store in one step. If two processes write to one path, the first to finish wins, the other gets
    `StoreExistsError`. Raises `StoreError` naming block, field and value for jets that `jets.check`
    refuses or that do not continue the blocks before, and naming the folder where writing fails.
    Taught in notebook 16.
    """
    path, blocks = Path(os.path.abspath(path)), [blocks] if isinstance(blocks, ak.Array) else blocks
    if overwrite and path.exists() and not (path / "meta.json").exists():
        raise StoreExistsError(
            f"{path} exists and is not a store: overwrite=True replaces only stores; "
            "remove it by hand or choose another path"
        )
    with _explained(path), atomic.new_folder(path, replace=overwrite) as folder:
        with contextlib.ExitStack() as files:
            columns, about = _write_columns(folder, path, _checked(path, blocks, provenance), files)
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "n_jets": columns["offsets"]["length"] - 1,
            "n_constituents": columns["constituent_pt"]["length"],
            "provenance": about,
            "columns": columns,
        }
        (folder / "meta.json").write_text(json.dumps(meta, indent=1))
        atomic.sync(folder / "meta.json")
    return open(path)


def _write_columns(
    folder: Path, path: Path, pieces: Iterator, files: contextlib.ExitStack
) -> tuple:
    """Fill the column files piece by piece; returns their table for meta.json, and the provenance."""
    columns: dict[str, _Column] = {}
    about, n_constituents = {}, 0
    for number, values, found in pieces:
        if not columns:
            about = found
            columns = {
                name: _Column(files.enter_context((folder / f"{name}.npy").open("wb")), v.dtype)
                for name, v in values.items()
            }
            columns["offsets"].append(np.zeros(1, np.int64))
        for name in sorted(columns.keys() ^ values.keys()):
            only = "block 0" if name in columns else f"block {number}"
            raise StoreError(
                f"cannot write {path}: of block 0 and block {number} only {only} has {name}; "
                "all blocks of a store have the same fields"
            )
        if found["classes"] != about["classes"]:
            raise StoreError(
                f"cannot write {path}: block {number} has classes {found['classes']}, block 0 "
                f"has {about['classes']}, so labels differ in meaning; relabel them first"
            )
        values["offsets"] = n_constituents + np.cumsum(values["offsets"])
        n_constituents = int(values["offsets"][-1]) if len(values["offsets"]) else n_constituents
        for name, column in columns.items():
            column.append(values[name])
    if not columns:
        raise StoreError(f"cannot write {path}: there was no block of jets")
    return {name: column.finish() for name, column in columns.items()}, about


def _checked(path: Path, blocks: Iterable, provenance) -> Iterator[tuple[int, dict, dict]]:
    """Number of the block, flat columns (counts as "offsets") and provenance of one piece after the
    other.
    """
    for number, block in enumerate(_unexplained(blocks)):
        for first in range(0, max(len(block), 1), PIECE):
            piece = block[first : first + PIECE]
            if provenance:
                piece = ak.Array(piece, attrs={"jetnb": dict(provenance)})
            try:
                jetnb.jets.check(piece)
            except ValueError as error:
                raise StoreError(
                    f"cannot write {path}: block {number} from jet {first}: {error}"
                ) from error
            outer, inner, counts = jetnb.jets.to_columns(piece)
            values = {f"jet_{name}": v for name, v in outer.items()}
            values |= {f"constituent_{name}": v for name, v in inner.items()}
            yield number, values | {"offsets": counts}, jetnb.jets.provenance(piece)


class _Column:
    """One column file while it is written: appends values, hashes them on the way, ends with the
    header.
    """

    def __init__(self, stream: io.BufferedWriter, dtype: np.dtype):
        self.stream, self.dtype = stream, np.dtype(dtype).newbyteorder("<")
        self.length, self.digest = 0, hashlib.sha256()
        stream.write(bytes(HEADER))

    def append(self, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values, self.dtype).view(np.uint8)
        self.stream.write(data)
        self.digest.update(data)
        self.length += len(values)

    def finish(self) -> dict:
        self.stream.seek(0)
        self.stream.write(_header(self.dtype.str, self.length))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        return {"dtype": self.dtype.str, "length": self.length, "sha256": self.digest.hexdigest()}


def _header(dtype: str, length: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype, "fortran_order": False, "shape": (length,)}
    )
    return header.getvalue()


class _FromBlocks(Exception):
    """Carries an OSError of the blocks' own reader past `_explained`, which explains those of
    writing.
    """


def _unexplained(blocks: Iterable) -> Iterator:
    try:
        yield from blocks
    except OSError as error:
        raise _FromBlocks from error


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into a StoreError that says what to do."""
    try:
        yield
    except _FromBlocks as carrier:
        raise carrier.__cause__ from None
    except StoreError:
        raise
    except FileExistsError as error:
        raise StoreExistsError(
            f"cannot write {path}: {error.strerror}; open it with jetnb.data.store.open, "
            "choose another path, or pass overwrite=True"
        ) from error
    except OSError as error:
        remedy = {
            errno.ENOSPC: "free some space or choose another disk",
            errno.EDQUOT: "your quota is full",
            errno.EFBIG: "a limit allows no larger files",
        }
        raise StoreError(
            f"cannot write {path}: {error.strerror} ({error.filename or path.parent}); "
            f"{remedy.get(error.errno, 'choose a folder that you may write to')}"
        ) from error
