"""Branches of a TTree as awkward arrays, unpacked within bounds; uproot describes the tree.

A branch lies in the file as baskets: a key, then the values of some rows, usually compressed. For
branches of plain numbers, std::vector and arrays with a counter the bytes are taken apart here, by
the description of the format in ROOT's documentation (TKey, TBasket, R__zip). All else is left to
uproot, once its baskets are known to unpack to what they claim; so is all that is not exactly as
expected, which uproot reads or says what is wrong.

Why not uproot alone: its zlib has no bound, so a basket may unpack to a thousand times its size,
whatever it claims. Every basket would have to be unpacked here first, and by uproot once more.
Measured with 20 000 jets in JetClass's columns (std::vector, LZ4; two shared cores of an AMD EPYC
server, medians of 7 to 9 interleaved pairs): with uproot after that check the branches take 3.7
times as long, `jetnb.load` as a whole 1.6 to 1.8 times, a conversion into a store 1.4 to 1.6 times.
With uproot and no check the branches take 3.1 times as long, `jetnb.load` 1.4 to 1.5 times.
"""

from __future__ import annotations

import io
import math
import struct

import awkward as ak
import numba
import numpy as np
import uproot

from jetnb import _compiled, packed
from jetnb.readers._root_unpack import LIMIT, Budget, unpack

# TKey: bytes with the key, version, bytes uncompressed, date, bytes of the key, cycle.
KEY = struct.Struct(">ihiIhh")
# End of the key: version, buffer, size of an offset, rows, end of values, flag.
BASKET = struct.Struct(">HiiiiB")


class Unexpected(Exception):
    """A basket that is left to uproot."""


def check(branch, size: int, num_entries: int) -> None:
    """Raise `ValueError` where the baskets of a branch do not hold `num_entries` rows, or not
    within `size` bytes.
    """
    ends = np.asarray(branch.entry_offsets, np.int64)
    if ends[0] != 0 or ends[-1] != num_entries or (np.diff(ends) < 0).any():
        raise ValueError(
            f"{num_entries} rows are claimed, but the baskets of {branch.name} hold {ends[-1]}"
        )
    n = int(branch.member("fWriteBasket"))
    seek, n_bytes = (
        np.asarray(branch.member(name)[:n], np.int64) for name in ("fBasketSeek", "fBasketBytes")
    )
    if (
        len(seek) != n
        or len(n_bytes) != n
        or (seek < 0).any()
        or (n_bytes < 0).any()
        or (seek > size - n_bytes).any()
    ):
        raise ValueError(
            f"the baskets of {branch.name} are not all within the {size} bytes of the file"
        )


def type_of(branch) -> str:
    """Type of an entry of a branch, as awkward would put it, or its name in C++ where uproot cannot
    read it.
    """
    try:
        how = branch.interpretation
        return str(how.awkward_form(branch.file).type)
    except uproot.interpretation.identify.UnknownInterpretation:
        return branch.typename


class Columns:
    """The `branches`, by name, of an opened tree in the file `stream`; the last basket of each is
    kept.
    """

    def __init__(self, stream: io.BufferedReader, branches: dict):
        self._stream, self._branches, self._last = stream, branches, {}

    def read(self, start: int, stop: int) -> dict[str, ak.contents.Content]:
        """Name -> the rows `start` to `stop - 1`."""
        self._budget = Budget()
        return {
            name: self._column(name, branch, start, stop) for name, branch in self._branches.items()
        }

    def _column(self, name: str, branch, start: int, stop: int) -> ak.contents.Content:
        try:
            values, counts = self._flat(name, branch, start, stop)
        except Unexpected:
            for number in self._numbers(np.asarray(branch.entry_offsets), start, stop):
                if number < branch.member("fWriteBasket"):
                    self._raw(branch, number)
            return branch.array(
                entry_start=start, entry_stop=stop, library="ak", array_cache=None
            ).layout
        values = ak.contents.NumpyArray(values)
        if counts is None:
            return values
        return ak.contents.ListOffsetArray(ak.index.Index64(packed.starts(counts)), values)

    @staticmethod
    def _numbers(ends: np.ndarray, start: int, stop: int) -> range:
        """Numbers of the baskets that hold the rows."""
        first, last = np.searchsorted(ends, [start + 1, stop])
        return range(int(first) - 1, int(last))

    def _flat(
        self, name: str, branch, start: int, stop: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Values of the rows, and how many there are in each row or None where always one."""
        ends = np.asarray(branch.entry_offsets)
        how = branch.interpretation
        if type(how) not in (uproot.AsDtype, uproot.AsJagged):
            raise Unexpected
        jagged = isinstance(how, uproot.AsJagged)
        dtype, header = (
            (how.content.from_dtype, how.header_bytes) if jagged else (how.from_dtype, None)
        )
        if (
            dtype.names
            or dtype.subdtype
            or branch.member("fWriteBasket") != len(ends) - 1
            or header not in (None, 0, 10)
            or (header and dtype.itemsize not in (1, 4))
        ):
            raise Unexpected
        values, counts = [], []
        for number in self._numbers(ends, start, stop) if start < stop else ():
            first, last = int(ends[number]), int(ends[number + 1])
            if self._last.get(name, (None,))[0] != number:
                self._last[name] = (
                    number,
                    *self._basket(branch, number, last - first, dtype, header),
                )
            _, found, n = self._last[name]
            low, high = max(start - first, 0), min(stop, last) - first
            if n is None:
                values.append(found[low:high])
            else:
                at = int(n[:low].sum())
                counts.append(n[low:high])
                values.append(found[at : at + int(counts[-1].sum())])
        native = dtype.newbyteorder("=")
        flat = values[0] if len(values) == 1 else np.concatenate(values or [np.empty(0, native)])
        if jagged:
            counts = (
                counts[0] if len(counts) == 1 else np.concatenate(counts or [np.empty(0, np.int64)])
            )
        return flat.astype(native, copy=False), counts if jagged else None

    def _raw(self, branch, number: int) -> tuple[np.ndarray, int, int, int]:
        """What a basket unpacks to, its rows, where its values end, and the bytes of its key."""
        n = int(branch.member("fBasketBytes")[number])
        self._stream.seek(int(branch.member("fBasketSeek")[number]))
        raw = self._stream.read(n) if 0 <= n <= LIMIT else b""
        if len(raw) != n or n < KEY.size + BASKET.size:
            raise ValueError(
                f"basket {number} of {branch.name} claims {n} bytes, which are not there"
            )
        n_bytes, _, n_unpacked, _, n_key, _ = KEY.unpack_from(raw)
        if n_bytes != n or not KEY.size + BASKET.size <= n_key <= n:
            raise ValueError(
                f"basket {number} of {branch.name} claims {n_bytes} bytes with a key of {n_key}, but its "
                f"tree {n}"
            )
        _, _, _, rows, last, _ = BASKET.unpack_from(raw, n_key - BASKET.size)
        self._budget.spend(n_unpacked)
        return unpack(memoryview(raw)[n_key:], n_unpacked), rows, last - n_key, n_key

    def _basket(
        self, branch, number: int, n_rows: int, dtype: np.dtype, header: int | None
    ) -> tuple:
        """Values and counts of all rows of a basket."""
        data, rows, end, n_key = self._raw(branch, number)
        if rows != n_rows or not 0 <= end <= len(data):
            raise ValueError(
                f"basket {number} of {branch.name} has {rows} rows, but its tree says {n_rows}"
            )
        if header is None:
            if end != rows * dtype.itemsize:
                raise Unexpected
            return data[:end].view(dtype), None
        if header:
            native = np.uint32 if dtype.itemsize == 4 else np.uint8
            counts = np.empty(min(rows, end), np.int64)
            values = np.empty(max(end - header * rows, 0) // dtype.itemsize, native)
            if len(counts) != rows or not _without_headers(data[:end], counts, values):
                raise Unexpected
            return values.view(dtype.newbyteorder("=")), counts
        if (len(data) - end) % 4:
            raise Unexpected
        # A number of offsets comes before them.
        offsets = data[end:].view(">i4")[1:].astype(np.int64) - n_key
        if len(offsets) != rows + 1:
            raise Unexpected
        offsets[-1] = end
        counts = np.diff(offsets)
        if offsets[0] != 0 or (counts < 0).any() or (counts % dtype.itemsize).any():
            raise Unexpected
        return data[:end].view(dtype), counts // dtype.itemsize


def edges(ends_of_all: list, start: int, stop: int, block_size: int) -> list[int]:
    """Ends of blocks of at most `block_size` rows, which do not divide baskets or clusters where it
    can be avoided.

    ends_of_all: for each column the rows where its baskets end.
    """
    common = set(ends_of_all[0]).intersection(*ends_of_all[1:])
    result = [start]
    for end in sorted({row for row in common if start < row < stop} | {stop}):
        parts = math.ceil((end - result[-1]) / block_size)
        if parts == 1 and len(result) > 1 and end - result[-2] <= block_size:
            result.pop()
        result += [end - (end - result[-1]) * k // parts for k in range(parts - 1, -1, -1)]
    return result


@_compiled.njit(nogil=True)
def _without_headers(data, counts, values):
    """Fill counts and values of vectors, each after 10 bytes of which the last four are its length;
    False if it fails.

    data: bytes. values: of 1 or 4 bytes each, turned from big-endian into the order of this
    machine.
    """
    # Unsigned indices: five times as fast.
    at, to, four = (numba.uint64(0), numba.uint64(0), values.itemsize == 4)
    for row in range(len(counts)):
        if at + 10 > len(data):
            return False
        n = _word(data, at + numba.uint64(6))
        at += numba.uint64(10)
        if n > len(values) - to or n * values.itemsize > len(data) - at:
            return False
        for i in range(n):
            values[to + numba.uint64(i)] = (
                _word(data, at + numba.uint64(4 * i)) if four else data[at + numba.uint64(i)]
            )
        counts[row] = n
        at += numba.uint64(n * values.itemsize)
        to += numba.uint64(n)
    return at == len(data) and to == len(values)


@numba.njit(inline="always")
def _word(data, at):
    word = numba.uint32(0)
    for i in range(4):
        word = (word << numba.uint32(8)) | numba.uint32(data[at + numba.uint64(i)])
    return word
