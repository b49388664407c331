"""What a store says of itself: `meta.json`, checked, and column files of the size that it gives."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import _json

FORMAT, VERSION = "jetnb store", 1
HEADER = 128  # bytes of the NumPy header before the values
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


def read_meta(path: Path) -> dict:
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
def column_file(file: Path, expected: int) -> Iterator[io.BufferedReader]:
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


def header_of(dtype: str, length: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": dtype, "fortran_order": False, "shape": (length,)}
    )
    return header.getvalue()
