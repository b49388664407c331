"""Branches of a TTree as flat arrays, several times as fast as through uproot, which describes the tree.

A branch lies in the file as baskets: a key, then the values of some rows, usually compressed. For branches of plain
numbers, std::vector and arrays with a counter, in baskets compressed by LZ4, zlib or zstd or not at all, the bytes
are taken apart here, by the description of the format in ROOT's documentation (TKey, TBasket, R__zip). All else, and
all that is not exactly as expected, is left to uproot, which reads it or says what is wrong.
"""

from __future__ import annotations

import io
import math
import struct

import awkward as ak
import cramjam
import numba
import numpy as np
import uproot
import xxhash
from zlib_ng import zlib_ng

from jetnb import _compiled

KEY = struct.Struct(">ihiIhh")  # TKey: bytes with the key, version, bytes uncompressed, date, bytes of the key, cycle
BASKET = struct.Struct(">HiiiiB")  # end of the key: version, buffer, size of an offset, rows, end of values, flag
BLOCK = 9  # bytes before each compressed block: two letters, method, sizes packed and unpacked of 3 bytes each


class Unexpected(Exception):
    """A basket that is left to uproot."""


class Columns:
    """The branches `names` of an opened `tree` in the file `stream`."""

    def __init__(self, stream: io.BufferedReader, tree, names: list[str]):
        self._stream, self._branches, self._last = stream, {name: tree[name] for name in names}, {}

    def edges(self, start: int, stop: int, block_size: int) -> list[int]:
        """Ends of blocks of at most `block_size` rows, which do not divide baskets where that can be avoided."""
        ends = [branch.entry_offsets for branch in self._branches.values()]
        common = set(ends[0]).intersection(*ends[1:])
        result = [start]
        for end in sorted({row for row in common if start < row < stop} | {stop}):
            parts = math.ceil((end - result[-1]) / block_size)
            if parts == 1 and len(result) > 1 and end - result[-2] <= block_size:
                result.pop()
            result += [end - (end - result[-1]) * k // parts for k in range(parts - 1, -1, -1)]
        return result

    def read(self, start: int, stop: int) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
        """Name -> (values of the rows `start` to `stop - 1`, how many in each row or None where always one)."""
        return {name: self._column(name, branch, start, stop) for name, branch in self._branches.items()}

    def _column(self, name: str, branch, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            return self._flat(name, branch, start, stop)
        except (Unexpected, AttributeError, KeyError, IndexError, struct.error, ValueError, OSError,
                cramjam.DecompressionError, zlib_ng.error):
            array = branch.array(entry_start=start, entry_stop=stop, library="ak")
            counts = ak.to_numpy(ak.num(array)) if array.ndim > 1 else None
            return ak.to_numpy(ak.flatten(array, axis=None)), counts

    def _flat(self, name: str, branch, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        ends = np.asarray(branch.entry_offsets)
        how = branch.interpretation
        jagged = isinstance(how, uproot.AsJagged)
        dtype, header = (how.content.from_dtype, how.header_bytes) if jagged else (how.from_dtype, None)
        if (dtype.names or dtype.subdtype or branch.member("fWriteBasket") != len(ends) - 1
                or header not in (None, 0, 10) or (header and dtype.itemsize not in (1, 4))):
            raise Unexpected
        values, counts = [], []
        for number in range(*np.searchsorted(ends, [start + 1, stop]) + [-1, 0]):
            first, last = int(ends[number]), int(ends[number + 1])
            if self._last.get(name, (None,))[0] != number:
                self._last[name] = number, *self._basket(branch, number, last - first, dtype, header)
            _, found, n = self._last[name]
            low, high = max(start - first, 0), min(stop, last) - first
            if n is None:
                values.append(found[low:high])
            else:
                at = int(n[:low].sum())
                counts.append(n[low:high])
                values.append(found[at:at + int(counts[-1].sum())])
        native = dtype.newbyteorder("=")
        flat = values[0] if len(values) == 1 else np.concatenate(values or [np.empty(0, native)])
        if jagged:
            counts = counts[0] if len(counts) == 1 else np.concatenate(counts or [np.empty(0, np.int64)])
        return flat.astype(native, copy=False), counts if jagged else None

    def _basket(self, branch, number: int, n_rows: int, dtype: np.dtype, header: int | None) -> tuple:
        """Values and counts of all rows of a basket."""
        self._stream.seek(int(branch.member("fBasketSeek")[number]))
        raw = self._stream.read(int(branch.member("fBasketBytes")[number]))
        n_bytes, _, n_unpacked, _, n_key, _ = KEY.unpack_from(raw)
        _, _, _, rows, last, _ = BASKET.unpack_from(raw, n_key - BASKET.size)
        if n_bytes != len(raw) or rows != n_rows:
            raise Unexpected
        packed = memoryview(raw)[n_key:]
        data = np.frombuffer(packed if len(packed) == n_unpacked else _unpack(packed), np.uint8)
        end = last - n_key
        if len(data) != n_unpacked or not 0 <= end <= n_unpacked:
            raise Unexpected
        if header is None:
            if end != rows * dtype.itemsize:
                raise Unexpected
            return data[:end].view(dtype), None
        if header:
            native = np.uint32 if dtype.itemsize == 4 else np.uint8
            counts = np.empty(rows, np.int64)
            values = np.empty(max(end - header * rows, 0) // dtype.itemsize, native)
            if not _without_headers(data[:end], counts, values):
                raise Unexpected
            return values.view(dtype.newbyteorder("=")), counts
        offsets = data[end + 4:].view(">i4").astype(np.int64) - n_key  # a number of offsets comes before them
        if len(offsets) != rows + 1:
            raise Unexpected
        offsets[-1] = end
        counts = np.diff(offsets)
        if offsets[0] != 0 or (counts < 0).any() or (counts % dtype.itemsize).any():
            raise Unexpected
        return data[:end].view(dtype), counts // dtype.itemsize


def _unpack(packed: memoryview):
    """The content of compressed blocks, each with its header; LZ4 has a checksum as well."""
    parts = []
    while packed:
        n_packed, n_unpacked = (int.from_bytes(packed[i:i + 3], "little") for i in (3, 6))
        kind, block = bytes(packed[:2]), packed[BLOCK:BLOCK + n_packed]
        if len(block) != n_packed:
            raise Unexpected
        if kind == b"L4":
            if xxhash.xxh64(block[8:]).digest() != bytes(block[:8]):
                raise Unexpected
            parts.append(cramjam.lz4.decompress_block(block[8:], output_len=n_unpacked))
        elif kind == b"ZL":
            parts.append(zlib_ng.decompress(block, bufsize=max(n_unpacked, 1)))
        elif kind == b"ZS":
            parts.append(cramjam.zstd.decompress(block, output_len=n_unpacked))
        else:
            raise Unexpected
        if len(parts[-1]) != n_unpacked:
            raise Unexpected
        packed = packed[BLOCK + n_packed:]
    return parts[0] if len(parts) == 1 else b"".join(parts)


@_compiled.njit(nogil=True)
def _without_headers(data, counts, values):
    """Fill counts and values of vectors, each after 10 bytes of which the last four are its length; False if it fails.

    data: bytes. values: of 1 or 4 bytes each, turned from big-endian into the order of this machine.
    """
    at, to, four = numba.uint64(0), numba.uint64(0), values.itemsize == 4  # unsigned indices: five times as fast
    for row in range(len(counts)):
        if at + 10 > len(data):
            return False
        n = _word(data, at + numba.uint64(6))
        at += numba.uint64(10)
        if n > len(values) - to or n * values.itemsize > len(data) - at:
            return False
        for i in range(n):
            values[to + numba.uint64(i)] = _word(data, at + numba.uint64(4 * i)) if four else data[at + numba.uint64(i)]
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
