"""What all readers share: how files are opened and refused, the counter they fill, sorting, one
block ahead.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import inspect
import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

TALLY = ("rows", "jets", "constituents", "tracks", "unsorted")
AGAIN = "download it again and compare its checksum"
# Bytes of decompressed chunks kept, so that a chunk across two blocks is decompressed once.
CACHE = 64 << 20
OBJECTS = 10_000  # in an HDF5 file; the published ones have at most a few hundred
BLOCK = 1 << 30  # bytes of one column that are in memory at a time
SLOTS = 10_000  # constituents of one jet; published files have at most a few hundred
PERMIT = "change its permissions, or copy it to where you may read it"
MACHINE = {
    errno.EACCES: PERMIT,
    errno.EPERM: PERMIT,
    errno.EIO: "the disk may be failing, copy it from elsewhere",
    errno.ESTALE: "the file system has lost it, open it again",
    errno.ETIMEDOUT: "try again",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "close some of the many files that are open"),
}
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def shown(text, limit: int = 400) -> str:
    """What comes from a file, fit for a terminal: control characters are written as escapes, at
    most `limit` of it.

    >>> print(shown("pt\\x1b[31m"))
    pt\\x1b[31m
    """
    text = str(text)
    cut = text[:limit] + ("..." if len(text) > limit else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def regular(path) -> Path:
    """`path`, a plain file or a link to one, which alone can be read without waiting for another
    process.

    Raises `FileNotFoundError`, and `ValueError` for a folder, a FIFO, a device or a socket, without
    opening it.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"there is no file {path}") from None
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path} is {KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file: give one file"
        )
    return path


def start_of(path, n: int = 16) -> bytes:
    """The first `n` bytes of a file. Raises as `regular` and `explained` do."""
    with explained(path), regular(path).open("rb") as stream:
        return stream.read(n)


@contextlib.contextmanager
def explained(path) -> Iterator[None]:
    """What is raised in this block, of whatever type, as a `ValueError` or an `OSError` that names
    the file.

    What names it passes as it is, and so do `FileNotFoundError`, `FileExistsError` and a package
    that is missing. An `OSError` of the machine (no permission, an error of the disk, too many open
    files) stays one.
    """
    try:
        yield
    except (
        FileNotFoundError,
        FileExistsError,
        NameError,
        ImportError,
    ):  # the last two are no fault of the file
        raise
    except MemoryError as error:
        raise ValueError(
            f"{path} does not fit into the memory of this machine ({_said(error)}): read it with a "
            f"smaller block_size; if it claims more than it can hold, {AGAIN}"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            kind = PermissionError if isinstance(error, PermissionError) else OSError
            raise kind(
                f"{path} cannot be read ({shown(error.strerror)}): {MACHINE[error.errno]}"
            ) from error
        named = f"{path} cannot be read (" if isinstance(error, OSError) else str(path)
        if isinstance(error, (ValueError, OSError)) and named in str(error):
            raise
        raise ValueError(f"{path} is truncated or damaged ({_said(error)}): {AGAIN}") from error


def _said(error: Exception) -> str:
    """What a library says, on one line; and the type of the error, where that is more than that a
    value is wrong.
    """
    said = shown(" ".join(str(error).split()))
    return (
        said
        if type(error) is ValueError and said
        else f"{type(error).__name__}: {said}".removesuffix(": ")
    )


def explaining(function: Callable) -> Callable:
    """Decorator for `read` and `count` of a reader: all that they raise about the file `path` is
    `explained`.

    A `block_size` below 1 is refused here.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments  # a wrong call is a TypeError, as ever
        if given.get("block_size", 1) < 1:
            raise ValueError(f"block_size must be at least 1, got {given['block_size']}")
        with explained(given["path"]):
            found = function(*args, **kwargs)
        return _each(given["path"], found) if isinstance(found, Iterator) else found

    return wrapper


def _each(path, blocks: Generator) -> Iterator:
    with contextlib.closing(blocks):
        while True:
            with explained(path):
                try:
                    block = next(blocks)
                except StopIteration:
                    return
            yield block


def open_hdf5(path):
    """The HDF5 file at `path`, an `h5py.File`, in which every name leads to data that lie in this
    very file.

    Raises `FileNotFoundError`, `PermissionError`, and `ValueError` for what is no HDF5 file or
    damaged, for links other than hard ones (external, soft, user-defined), virtual datasets,
    datasets in files of their own (external raw storage) and datasets of references, in whatever
    group: HDF5 would follow them to any other file of this machine. No attribute is looked at.
    """
    import h5py  # here, because not every reader needs them
    import hdf5plugin  # noqa: F401  registers blosc with HDF5

    path, start = regular(path), start_of(path, 64)
    with explained(path):
        if not h5py.is_hdf5(os.fspath(path)):
            page = start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml")
            raise ValueError(
                f"{path} is not HDF5: it starts with {start[:16]!r}"
                + (", so it is a web page saved under this name" if page else "")
                + "; download the file itself again"
            )
        file = h5py.File(path, "r", rdcc_nbytes=CACHE, rdcc_nslots=10_007)
        try:
            _refuse_elsewhere(path, file)
        except BaseException:
            file.close()
            raise
    return file


def _refuse_elsewhere(path: Path, file) -> None:
    """Raise `ValueError` for the first thing in the file that HDF5 would have to look for
    elsewhere.
    """
    import h5py

    def refuse(name: str, what: str):
        raise ValueError(
            f"{path}: {name!r:.200} is {what}, which can lead to other files of this machine, so it is "
            "not read: ask who made the file for one that holds its own data (h5py's copy of the values "
            "into a new file makes one)"
        )

    links = {h5py.h5l.TYPE_SOFT: "a soft link", h5py.h5l.TYPE_EXTERNAL: "an external link"}
    todo, seen, n = [("", h5py.h5g.open(file.id, b"/"))], set(), 0
    while todo:
        where, group = todo.pop()
        found: list[tuple[bytes, int]] = []
        group.links.iterate(
            lambda name, info, found=found: (
                found.append((name, info.type)) or (True if len(found) > OBJECTS else None)
            ),
            info=True,
        )
        n += len(found)
        if n > OBJECTS:
            raise ValueError(
                f"{path} has more than {OBJECTS} groups and datasets, so it is no file of jets: {AGAIN}"
            )
        for raw, kind in found:
            name = where + raw.decode("utf-8", "backslashreplace")
            if kind != h5py.h5l.TYPE_HARD:
                refuse(name, links.get(kind, "a user-defined link"))
            item = h5py.h5o.open(group, raw)
            if isinstance(item, h5py.h5g.GroupID):
                address = h5py.h5o.get_info(item).addr
                if address not in seen:  # hard links can make a circle
                    seen.add(address)
                    todo.append((f"{name}/", item))
            elif isinstance(item, h5py.h5d.DatasetID):
                made = item.get_create_plist()
                if made.get_layout() == h5py.h5d.VIRTUAL:
                    refuse(name, "a virtual dataset")
                if made.get_external_count():
                    refuse(name, "a dataset in a file of its own (external raw storage)")
                if item.get_type().detect_class(h5py.h5t.REFERENCE):
                    refuse(name, "a dataset of references")


def counter(tally: MutableMapping[str, int] | None) -> MutableMapping[str, int]:
    """`tally`, or a mapping of its own, with all of `TALLY` at zero."""
    tally = {} if tally is None else tally
    tally.update(dict.fromkeys(TALLY, 0))
    return tally


def accepts(function: Callable, path) -> bool:
    """Whether `function(path)` raises nothing, whatever readers and their libraries raise at other
    files.
    """
    try:
        function(path)
        return True
    except Exception:
        return False


def sort_by_pt(
    fields: dict[str, np.ndarray], jet: np.ndarray, tally: MutableMapping[str, int]
) -> None:
    """Put the constituents of each jet by falling pt, in place.

    fields: name -> (T,), "pt" among them, as float32. jet: (T,) number of the jet, rising. Only
    jets out of order are touched, and equal pt stay in the order of the file. Where rounding alone
    put them out of order, by less than 1e-4, `tally` does not count them.
    """
    pt, same = fields["pt"], jet[1:] == jet[:-1]
    rises = (pt[1:] > pt[:-1]) & same
    if not rises.any():
        return
    tally["unsorted"] += len(np.unique(jet[1:][(pt[1:] > 1.0001 * pt[:-1]) & same]))
    out_of_order = np.zeros(jet[-1] + 1, bool)
    out_of_order[jet[1:][rises]] = True
    some = np.flatnonzero(out_of_order[jet])
    order = some[np.lexsort((-pt[some], jet[some]))]
    for values in fields.values():
        values[some] = values[order]


def first_event(path: Path) -> int:
    """`event` of row 0 for a format without event numbers: 31 bits of the sha256 of the name, 32
    bits for the row.

    The name is that of the file without its folder and ending, so the number does not depend on
    where the file lies.
    """
    return int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:4], "big") >> 1 << 32


def row_range(
    file, names: list[str] | None, block_size: int, start: int, stop: int | None
) -> Iterator[tuple]:
    """First row and record batch of one block after the other, of a `pyarrow.parquet.ParquetFile`;
    row groups before `start` and from `stop` on are not read."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    stop = (
        int(ends[-1])
        if stop is None and len(ends)
        else min(stop or 0, int(ends[-1]) if len(ends) else 0)
    )
    wanted = [
        i
        for i, (size, end) in enumerate(zip(sizes, ends, strict=True))
        if end > start and end - size < stop
    ]
    row = int(ends[wanted[0]] - sizes[wanted[0]]) if wanted else 0
    for batch in file.iter_batches(block_size, row_groups=wanted, columns=names) if wanted else ():
        low, high = max(start - row, 0), min(stop - row, len(batch))
        if low < high:
            yield row + low, batch.slice(low, high - low)
        row += len(batch)


def ahead(blocks: Iterable) -> Iterator:
    """`blocks`, the next of them being made in a thread while the caller works on the one before."""
    blocks, end = iter(blocks), object()
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as thread:
        coming = thread.submit(next, blocks, end)
        while (block := coming.result()) is not end:
            coming = thread.submit(next, blocks, end)
            yield block
