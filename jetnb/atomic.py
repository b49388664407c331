"""Files and folders that appear under their name only when they are complete and on disk.

The content is made in a hidden place beside the target and renamed, so a process that is killed, a full disk
or a second process that makes the same thing never leaves half of it, and never spoils what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there, what a killed process left stays until removed by hand
    fcntl = None


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty hidden folder; at the end of the block it becomes `path`, after an error it is removed.

    Folders that killed processes left beside `path` are removed too: each is locked while it is filled, and
    the kernel lets go of the lock when the process ends, however it ends. `replace=True` swaps the new folder
    with an existing one in one step. Raises `FileExistsError` when `path` is there and not to be replaced.
    """
    _free(path, replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    for stale in map(Path, glob.glob(f"{glob.escape(str(path.parent))}/.{glob.escape(path.name)}.*.partial")):
        with _lock(stale) as locked:
            if locked:
                shutil.rmtree(stale, ignore_errors=True)
    folder = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.partial"
    os.mkdir(folder)
    try:
        with _lock(folder):
            yield folder
            if replace and path.exists():
                _exchange(folder, path)
            else:
                _rename(folder, path)
        sync(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden file name; at the end of the block that file becomes `path`, after an error it goes.

    Raises `FileExistsError` when `path` is there and not to be replaced.
    """
    _free(path, replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        yield hidden
        sync(hidden)
        _free(path, replace)
        os.replace(hidden, path)
        sync(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on disk."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _free(path: Path, replace: bool) -> None:
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, "it exists", str(path))


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[bool]:
    try:
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except FileNotFoundError:  # its writer has finished meanwhile
        handle = None
    if handle is None:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locked = True
    except OSError:  # another process holds it, or the file system has no locks
        locked = False
    try:
        yield locked
    finally:
        os.close(handle)


def _rename(folder: Path, path: Path) -> None:
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, "another process has just made it", str(path)) from None
        raise


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders: at every instant there is a complete one at `b`."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if fcntl else None
    here, exchange = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h
    if renameat2 and renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0:
        return
    aside = a.with_suffix(".old")  # no exchange on this system: for an instant there is nothing at b
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)
