"""Files and folders that appear under their name only when they are complete and on disk.

The content is made in a hidden place beside the target and renamed, so a process that is killed, a
full disk or a second process that makes the same thing never leaves half of it, and never spoils
what was there.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there, what a killed process left stays until removed by hand
    fcntl = None


@contextlib.contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty hidden folder; at the end of the block it becomes `path`, after an error it is
    removed.

    Folders that killed processes left beside `path` are removed too: each is locked while it is
    filled, and the kernel lets go of the lock when the process ends, however it ends.
    `replace=True` swaps the new folder with an existing one in one step. Raises `FileExistsError`
    when `path` is there and not to be replaced.
    """
    _free(path, replace)
    with _hidden(path) as folder:
        yield folder
        if replace and path.exists():
            _exchange(folder, path)
        else:
            _rename(folder, path)
        sync(path.parent)


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden file name; at the end of the block that file becomes `path`, after an error it
    goes.

    What killed processes left beside `path` goes too: the file is made in a folder like those of
    `new_folder`, since some writers lock their files themselves. Raises `FileExistsError` when
    `path` is there and not to be replaced.
    """
    _free(path, replace)
    with _hidden(path) as folder:
        hidden = folder / path.name
        yield hidden
        sync(hidden)
        _free(path, replace)
        os.replace(hidden, path)
        sync(path.parent)


@contextlib.contextmanager
def alone(path: Path, doing: str, *, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Be the only process that is `doing` something with `path` until the end of the block, e.g.
    "training to".

    Another one gets a `ValueError` that names this process; or it calls `wait`, which should take a
    while, until it is its turn. The lock is the file `.NAME.lock` beside `path`, and the kernel
    lets go of it when a process ends, however it ends. Where the system has no locks, or the folder
    may not be written, nothing is held. Not the package filelock: its lock files stay behind beside
    the data, and do not say who holds them.
    """
    path = Path(os.path.abspath(path))
    lock, handle = path.parent / f".{path.name}.lock", None
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    while fcntl and handle is None:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode(errors="replace") or "another process"
            os.close(handle)
            handle = None
            if wait is None:
                raise ValueError(
                    f"{owner} is {doing} {path}: wait for it, end it, or choose another path"
                ) from None
            wait()
        except OSError:
            break
        else:
            if not _is(handle, lock):  # its last owner has just removed it
                os.close(handle)
                handle = None
    try:
        if handle is not None:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        if handle is not None:
            lock.unlink(missing_ok=True)
            os.close(handle)


@contextlib.contextmanager
def held(stream) -> Iterator[None]:
    """Wait until no other process holds the open file `stream`, and hold it to the end of the
    block.
    """
    with contextlib.suppress(OSError):  # of a file system without locks
        if fcntl:
            fcntl.flock(stream, fcntl.LOCK_EX)
    try:
        yield
    finally:
        stream.flush()
        with contextlib.suppress(OSError):
            if fcntl:
                fcntl.flock(stream, fcntl.LOCK_UN)


@contextlib.contextmanager
def _hidden(path: Path) -> Iterator[Path]:
    """A new hidden folder beside `path`, locked, and gone at the end; those of processes that are
    gone go first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clean(path)
    while True:
        folder = path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}.partial"
        os.mkdir(folder)
        with _lock(folder, wait=True):
            if not folder.exists():  # taken for a stale one before it was locked
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def clean(path: Path) -> None:
    """Remove what processes that were killed have left beside `path`; every new file or folder
    there does it, too.
    """
    for stale in map(
        Path, glob.glob(f"{glob.escape(str(path.parent))}/.{glob.escape(path.name)}.*.partial")
    ):
        with _lock(stale) as locked:
            if locked:
                shutil.rmtree(stale, ignore_errors=True)


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
def _lock(folder: Path, *, wait: bool = False) -> Iterator[bool]:
    try:
        handle = os.open(folder, os.O_RDONLY) if fcntl else None
    except FileNotFoundError:  # its writer has finished meanwhile
        handle = None
    if handle is None:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        locked = True
    except OSError:  # another process holds it, or the file system has no locks
        locked = False
    try:
        yield locked
    finally:
        os.close(handle)


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _rename(folder: Path, path: Path) -> None:
    try:
        os.rename(folder, path)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(
                errno.EEXIST, "another process has just made it", str(path)
            ) from None
        raise


def _exchange(a: Path, b: Path) -> None:
    """Swap two folders: at every instant there is a complete one at `b`."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if fcntl else None
    here, exchange = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of linux/fs.h
    if renameat2 and renameat2(here, os.fsencode(a), here, os.fsencode(b), exchange) == 0:
        return
    # No exchange on this system: for an instant there is nothing at b.
    aside = a.with_suffix(".old")
    os.rename(b, aside)
    os.rename(a, b)
    os.rename(aside, a)
