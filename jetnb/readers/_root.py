"""What readers of ROOT share: opening a tree, refusing what is wrong, blocks of rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import awkward as ak

AGAIN = "fetch the file again and compare its checksum"


@contextlib.contextmanager
def explained(path) -> Iterator[None]:
    """What the libraries raise at damaged bytes, of whatever type, as a `ValueError` that names the file."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is truncated or damaged ({type(error).__name__}: {error}): {AGAIN}") from error


def start_of(path) -> bytes:
    """The first 16 bytes of the file; `FileNotFoundError` or `ValueError` where there is none."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a file: give one file")
    with path.open("rb") as stream:
        return stream.read(16)


@contextlib.contextmanager
def open_tree(path, name: str | tuple[str, ...], what: str):
    """The TTree or RNTuple `name` (with its folder) of the file at `path`, as uproot gives it; of several, the first.

    Raises `FileNotFoundError`, and `ValueError` for a file that is not ROOT, damaged, or has no such tree: then it is
    not `what`, and the message says what the file has instead.
    """
    import uproot  # here, because it takes a second

    start = start_of(path)
    if start[:4] != b"root":
        page = "; it looks like a web page" if start.lstrip()[:1] == b"<" else ""
        raise ValueError(f"{path} is not ROOT, it starts with {start!r}{page}: {AGAIN}")
    with contextlib.ExitStack() as stack:
        with explained(path):
            file = stack.enter_context(uproot.open(path, array_cache=None))
            found = file.keys(cycle=False)
            names = (name,) if isinstance(name, str) else name
            tree = next((file[one] for one in names if one in found), None)
            is_tree = hasattr(tree, "num_entries")  # read here for the first time
        if not is_tree:
            is_what = "nothing" if tree is None else f"a {type(tree).__name__}"
            raise ValueError(f"{path}: {what} has a tree {' or '.join(map(repr, names))}, here is {is_what}; "
                             f"the file has {', '.join(found[:8]) or 'nothing'}: use the reader of its own format")
        yield tree


def need(path, tree, names: Iterable[str], what: str) -> None:
    """Raise `ValueError` unless `tree` has all the branches `names` of the format `what`."""
    found = set(tree.keys())
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{path} has no branch {', '.join(missing[:5])}, so it is not {what}, or a part of it; it has "
                         f"{', '.join(sorted(found)[:8])} ...: use the reader of its own format")


def blocks(path, tree, names: list[str], *, block_size: int, start: int = 0,
           stop: int | None = None) -> Iterator[tuple[int, ak.Array]]:
    """First row and branches `names` of one block of rows after the other, as an awkward record array."""
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    stop = tree.num_entries if stop is None else min(stop, tree.num_entries)
    for first in range(start, stop, block_size):
        with explained(path):
            block = tree.arrays(names, entry_start=first, entry_stop=min(first + block_size, stop), library="ak")
        yield first, block
