"""Writing a store, block by block, into a hidden folder that is renamed when it is complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import atomic
from jetnb.data.store.reading import Store, open
from jetnb.data.store.record import FORMAT, HEADER, VERSION, StoreError, StoreExistsError, header_of

PIECE = 65536  # jets looked at and written at a time, whatever the size of a block


def write(
    path, blocks: Iterable[ak.Array], *, provenance: Mapping | None = None, overwrite: bool = False
) -> Store:
    """Write jets arrays one after the other into a new store at `path` and open it.

    `blocks`: jets arrays of the same fields and classes, e.g. from a reader; memory is that of one
    block. `provenance` replaces that of the first block. `overwrite=True` replaces an existing
    store in one step. If two processes write to one path, the first to finish wins, the other gets
    `StoreExistsError`. Raises `StoreError` naming block, field and value for jets that `jets.check`
    refuses or that do not continue the blocks before, and naming the folder where writing fails.
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
        if found.get("source") != about.get("source"):
            raise StoreError(
                f"cannot write {path}: block {number} has source {found.get('source')!r}, block 0 has "
                f"{about.get('source')!r}: write a store of each, or pass provenance"
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
        self.stream.write(header_of(self.dtype.str, self.length))
        self.stream.flush()
        os.fsync(self.stream.fileno())
        return {"dtype": self.dtype.str, "length": self.length, "sha256": self.digest.hexdigest()}


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
