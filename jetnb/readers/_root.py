"""What readers of ROOT share: a TTree or an RNTuple as one thing, refusing what is wrong, blocks of
rows.

A reader asks for a tree by name, and gets a `Tree`, whatever is behind it. What a file claims is
compared with what it has before memory is taken: rows with baskets or pages, these with the size of
the file, and what unpacks with limits.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from jetnb.readers._common import AGAIN, explained, start_of

KEPT = 4  # files whose headers are kept: recognising, counting and reading ask in turn


class Tree:
    """A TTree or an RNTuple. Its names are those of top branches, `branch/member` of split ones,
    and of top fields.
    """

    def __init__(self, path: Path, source):
        import uproot

        self.path, self._size = path, path.stat().st_size
        if isinstance(source, uproot.TTree):
            self._branches, self._fields = dict(source.iteritems(recursive=True)), None
            self.num_entries = int(source.num_entries)
        else:
            from jetnb.readers import _root_pages

            self._branches, self._fields = None, _root_pages.Fields(source)
            self.num_entries = self._fields.num_entries
        if self.num_entries < 0:
            raise ValueError(f"{self.num_entries} rows are claimed")
        self._types = {}

    @property
    def names(self):
        """The names of all columns, in the order of the file."""
        return (self._branches if self._fields is None else self._fields.names).keys()

    def types(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> type of an entry, as awkward puts it (`float32`, `var * int32`), the same for
        TTree and RNTuple.

        Raises `ValueError` for a column that claims more rows than it has, or bytes beyond the end
        of the file.
        """
        from jetnb.readers import _root_baskets

        for name in names:
            if name in self._types:
                continue
            with explained(self.path):
                if self._fields is None:
                    branch = self._branches[name]
                    kind = _root_baskets.type_of(branch)
                    if branch.interpretation is not None:
                        _root_baskets.check(branch, self._size, self.num_entries)
                else:
                    kind = self._fields.type(name)
                    self._fields.check(name)
            self._types[name] = kind
        return {name: self._types[name] for name in names}

    def edges(self, names: Iterable[str], start: int, stop: int, block_size: int) -> list[int]:
        """Ends of blocks of at most `block_size` rows, which do not divide baskets or clusters if
        possible.
        """
        from jetnb.readers import _root_baskets

        if self._fields is None:
            ends = [self._branches[name].entry_offsets for name in names]
        else:
            ends = [[first + n for first, n in self._fields.clusters]]
        return _root_baskets.edges(ends, start, stop, block_size)

    def columns(self, stream, names: Iterable[str]):
        """What reads the columns `names` from the opened file `stream`: `read(start, stop)`."""
        from jetnb.readers import _root_baskets, _root_pages

        if self._fields is None:
            return _root_baskets.Columns(stream, {name: self._branches[name] for name in names})
        return _root_pages.Columns(stream, self._fields, list(names))


def _own_classes() -> dict[str, type]:
    """The classes of uproot, with versions of their own.

    uproot adds what a file says of a class to the versions that it knows; those of a damaged file
    would be taken for the next file as well.
    """
    import uproot

    return {
        name: type(kind.__name__, (kind,), {"known_versions": dict(kind.known_versions)})
        if issubclass(kind, uproot.model.DispatchByVersion)
        else kind
        for name, kind in uproot.classes.items()
    }


class _File:
    """The trees of a ROOT file, each read once. No file is held open: uproot opens it for each
    piece that it reads.
    """

    def __init__(self, path: Path):
        import uproot  # here, because it takes a second

        self.path, self._trees = path, {}
        self._directory = uproot.open(
            path, object_cache=None, array_cache=None, custom_classes=_own_classes()
        )

    def found(self) -> list[str]:
        """What lies at the top of the file, and in folders there."""
        names = []
        for name, kind in self._directory.classnames(recursive=False, cycle=False).items():
            inside = (
                self._directory[name].keys(recursive=False, cycle=False)
                if kind.startswith("TDirectory")
                else ()
            )
            names += [f"{name}/{one}" for one in inside] or [name]
        return names

    def tree(self, name: str) -> Tree | None | str:
        """The tree `name`, None if there is none, or of what class it is instead."""
        if name not in self._trees:
            self._trees[name] = self._read(name)
        return self._trees[name]

    def _read(self, name: str) -> Tree | None | str:
        import uproot

        from jetnb.readers import _root_pages, _root_unpack

        try:
            key = self._directory.key(name)
        except uproot.KeyInFileError:
            return None
        if key.classname() not in ("TTree", "TNtuple", "TNtupleD", "ROOT::RNTuple"):
            return key.classname()
        with self.path.open("rb") as stream:
            for one in (key, self._streamers()):
                if one is not None:
                    stream.seek(one.data_cursor.index)
                    packed = stream.read(max(min(one.data_compressed_bytes, _root_unpack.LIMIT), 0))
                    _root_unpack.unpack(memoryview(packed), one.data_uncompressed_bytes)
            source = key.get()
            if isinstance(source, uproot.behaviors.RNTuple.RNTuple):
                _root_pages.whole(stream, source)
        return Tree(self.path, source)

    def _streamers(self):
        """The key of the descriptions of classes, which uproot reads when it needs them."""
        import uproot

        file = self._directory.file
        if not file.fSeekInfo:
            return None
        start = file.fSeekInfo
        chunk = file.chunk(start, start + min(max(file.fNbytesInfo, 0), self.path.stat().st_size))
        return uproot.reading.ReadOnlyKey(chunk, uproot.source.cursor.Cursor(start), {}, file, file)


@functools.lru_cache(maxsize=KEPT)
def _opened(path: Path, stamp: tuple) -> _File:
    return _File(path)


@contextlib.contextmanager
def open_tree(path, name: str | tuple[str, ...], what: str) -> Iterator[Tree]:
    """The TTree or RNTuple `name` (with its folder) of the file at `path`; of several, the first
    that is there.

    The header is read once for as long as the file stays the same. Raises `FileNotFoundError`, and
    `ValueError` for a file that is not ROOT, damaged, or has no such tree: then it is not `what`,
    and the message says what it has.
    """
    start, path = start_of(path), Path(path)
    if start[:4] != b"root":
        page = "; it looks like a web page" if start.lstrip()[:1] == b"<" else ""
        raise ValueError(f"{path} is not ROOT, it starts with {start!r}{page}: {AGAIN}")
    about = path.stat()
    names = (name,) if isinstance(name, str) else name
    with explained(path):
        file = _opened(
            path, (about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino, start)
        )
        trees = [tree for one in names if (tree := file.tree(one)) is not None]
        found = [] if trees and isinstance(trees[0], Tree) else file.found()
    if not trees or isinstance(trees[0], str):
        here = f"a {trees[0]}" if trees else "nothing"
        raise ValueError(
            f"{path}: {what} has a tree {' or '.join(map(repr, names))}, here is {here}; the file has "
            f"{', '.join(found[:8]) or 'nothing'}: use the reader of its own format"
        )
    yield trees[0]


def contents(path) -> dict[str, Any]:
    """What lies at the top of a ROOT file, and in folders there: trees, and of all else the class.

    Raises `ValueError` if it is none, or damaged.
    """
    start_of(path)
    with explained(path):
        file = _File(path := Path(path))
        return {name: file.tree(name) for name in file.found()[:50]}


def need(path, tree: Tree, names: Iterable[str], what: str) -> None:
    """Raise `ValueError` unless `tree` has all the columns `names` of the format `what`."""
    if missing := [name for name in names if name not in tree.names]:
        raise ValueError(
            f"{path} has no branch {', '.join(missing[:5])}, so it is not {what}, or a part of it; it has "
            f"{', '.join(sorted(tree.names)[:8])} ...: use the reader of its own format"
        )


def blocks(
    path,
    tree: Tree,
    names: list[str],
    *,
    block_size: int,
    start: int = 0,
    stop: int | None = None,
    whole: bool = False,
    first_only: Iterable[str] = (),
) -> Iterator[tuple[int, ak.Array]]:
    """First row and columns `names` of one block of rows after the other, as an awkward record
    array.

    `whole`: blocks end where baskets or clusters end, if that can be. `first_only`: columns of the
    first block alone.
    """
    stop = tree.num_entries if stop is None else min(stop, tree.num_entries)
    if start >= stop:
        return
    ends = (
        tree.edges(names, start, stop, block_size)
        if whole
        else [*range(start, stop, block_size), stop]
    )
    with Path(path).open("rb") as stream:
        columns, extra = tree.columns(stream, names), tree.columns(stream, first_only)
        for low, high in itertools.pairwise(ends):
            with explained(path):
                found = columns.read(low, high) | (extra.read(low, high) if low == start else {})
                block = ak.Array(
                    ak.contents.RecordArray(list(found.values()), list(found), length=high - low)
                )
            yield low, block


def refuse(wrong: np.ndarray, first: int, what: str, event: np.ndarray | None = None) -> None:
    """Raise `ValueError` for the first row that is `wrong`; `event` (T,) says in which event of the
    block it is.
    """
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"event {first + (at if event is None else int(event[at]))} has {what} ({wrong.sum()} of "
            f"{len(wrong)} are like this): {AGAIN}"
        )
