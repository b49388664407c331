"""`njit`: as numba's, with the machine code kept on disk, and without an error where it cannot be
kept.

numba keeps it beside the source or in the user's home, and refuses to compile where neither can be
written, as in a read-only container. Then it is kept in a folder for temporary files; where there
is none, each process compiles anew.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path


def njit(**options) -> Callable:
    """Decorator: `numba.njit` with these options, and the machine code kept on disk where that can
    be.
    """

    def compiled(function):
        import numba  # seconds, which those who compile nothing need not wait

        try:
            return with_cache(lambda: numba.njit(cache=True, **options)(function))
        except RuntimeError:
            return numba.njit(**options)(function)

    return compiled


def with_cache(make: Callable):
    """`make()`, which decorates functions with `cache=True`: again with another folder if numba
    finds none.

    Raises `RuntimeError`, as numba does, where there is no such folder either.
    """
    try:
        return make()
    except RuntimeError as error:
        if "no locator available" not in str(error) or not (folder := _private()):
            raise
        import numba

        numba.config.CACHE_DIR = str(folder)
    return make()


def _private() -> Path | None:
    """A folder for temporary files that nobody else can write in, for what lies there is executed;
    None if none is.
    """
    try:
        folder = Path(
            tempfile.gettempdir(),
            f"jetnb-numba-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}",
        )
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError:
        return None
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        return None
    return folder if stat.S_ISDIR(status.st_mode) else None
