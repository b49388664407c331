"""Chunks of HDF5 decompressed within bounds: rows of a dataset as an array."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import h5py
import numpy as np
import pyarrow
from zlib_ng import zlib_ng

from jetnb.readers._common import BLOCK, explained, shown

# In the registry of filters of HDF5.
SHUFFLE, FLETCHER32, GZIP = 2, 3, 1
LZF, BLOSC, ZSTD = 32000, 32001, 32015
FILTERS = {
    SHUFFLE: "shuffle",
    FLETCHER32: "fletcher32",
    GZIP: "gzip",
    LZF: "lzf",
    BLOSC: "blosc",
    ZSTD: "zstd",
}


class Rows:
    """Rows of a dataset, their chunks decompressed here: by zlib-ng, several times as fast as by
    the zlib in HDF5.

    HDF5 gives a chunk all the memory that it asks for when it is decompressed, and where it is
    shorter than it should be, the memory behind it. So every chunk must have its length before it
    becomes values. Blosc alone is left to HDF5, after a look at the length in its header. A chunk
    that was never written is of the fill value.

    The last axis comes first in memory, so that one field of all slots is contiguous. A
    `ValueError` names file, dataset and rows.
    """

    def __init__(self, path, data: h5py.Dataset):
        self.path, self.data = path, data
        self.room: Any = None
        with explained(path):
            self.chunked = data.chunks is not None
            if not self.chunked:
                return
            made = data.id.get_create_plist()
            self.filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
            self.n_bytes = math.prod(data.chunks) * data.dtype.itemsize
            self.by_hdf5 = (
                BLOSC in self.filters
                or h5py.h5t.py_create(data.dtype, logical=True) != data.id.get_type()
            )
            n_chunks = math.prod(
                -(-size // step) for size, step in zip(data.shape, data.chunks, strict=True)
            )
            self.written = None
            if data.id.get_num_chunks() != n_chunks:
                self.written = set()
                data.id.chunk_iter(lambda info: self.written.add(info.chunk_offset))

    def __call__(self, rows: slice) -> np.ndarray:
        name, rows = (
            self.data.name.lstrip("/"),
            slice(rows.start, max(rows.start, min(rows.stop, len(self.data)))),
        )
        size = (rows.stop - rows.start) * math.prod(self.data.shape[1:]) * self.data.dtype.itemsize
        if size > BLOCK:
            raise ValueError(
                f"{self.path}: rows {rows.start} to {rows.stop - 1} of dataset {name!r} have {size:,} "
                f"bytes, more than the {BLOCK:,} that are read at a time: use a smaller block_size"
            )
        try:
            return self._decoded(rows) if self.chunked else self.data[rows]
        except (OSError, RuntimeError, ValueError, zlib_ng.error) as error:
            raise ValueError(
                f"{self.path}: rows {rows.start} to {rows.stop - 1} of dataset {name!r} cannot be read "
                f"({shown(error)}): the file is damaged, download it again"
            ) from None

    def _decoded(self, rows: slice) -> np.ndarray:
        shape, chunks, dtype = self.data.shape, self.data.chunks, self.data.dtype
        inner = list(zip(shape[1:], chunks[1:], strict=True))
        n = rows.stop - rows.start
        out = np.moveaxis(
            np.empty((*shape[-1:], n, *shape[1:-1]) if inner else n, dtype), 0, -1 if inner else 0
        )
        for first in range(rows.start // chunks[0] * chunks[0], rows.stop, chunks[0]):
            low, high = max(rows.start, first), min(rows.stop, first + chunks[0])
            for corner in itertools.product(*(range(0, size, step) for size, step in inner)):
                into = (
                    slice(low - rows.start, high - rows.start),
                    *(slice(c, c + step) for c, (_, step) in zip(corner, inner, strict=True)),
                )
                if self.written is not None and (first, *corner) not in self.written:
                    out[into] = self.data.fillvalue
                    continue
                chunk = self._chunk((first, *corner))
                if not self.by_hdf5:
                    inside = (slice(size - c) for c, (size, _) in zip(corner, inner, strict=True))
                    out[into] = np.frombuffer(chunk, dtype).reshape(chunks)[
                        low - first : high - first, *inside
                    ]
        return self.data[rows] if self.by_hdf5 else out

    def _chunk(self, corner: tuple[int, ...]):
        """The bytes of a chunk, as many as it should have; of a chunk of blosc nothing but this is
        known.
        """
        # What is longer, h5py refuses: no filter makes a chunk much longer than it was.
        if self.room is None:
            self.room = np.empty(self.n_bytes + self.n_bytes // 16 + 4096, np.uint8)
        try:
            skipped, packed = self.data.id.read_direct_chunk(corner, out=self.room)
        except ValueError:
            raise ValueError(
                f"a chunk of {self.n_bytes} bytes takes more than {self.room.size} in the file"
            ) from None
        for i, code in reversed(list(enumerate(self.filters))):
            if skipped >> i & 1:
                continue
            if code == FLETCHER32:
                packed = _checked(packed)
            elif code == GZIP:
                stream = zlib_ng.decompressobj()
                packed = stream.decompress(packed, self.n_bytes + 1 + 4 * len(self.filters))
            elif code == LZF:
                out = np.empty(self.n_bytes, np.uint8)
                packed = out[: _unpack_lzf()(np.frombuffer(packed, np.uint8), out)]
            elif code == ZSTD:  # an error unless it has just this length
                packed = pyarrow.Codec("zstd").decompress(bytes(packed), self.n_bytes, asbytes=True)
            elif code == SHUFFLE and (size := self.data.dtype.itemsize) > 1:
                packed = np.frombuffer(packed, np.uint8)
                whole = len(packed) // size * size
                packed = np.concatenate(
                    [packed[:whole].reshape(size, -1).T.ravel(), packed[whole:]]
                )
            elif code == BLOSC:
                n_bytes = int.from_bytes(bytes(packed[4:8]), "little") if len(packed) >= 16 else -1
                self._right_length(n_bytes)
                return None
        self._right_length(len(packed))
        return packed

    def _right_length(self, n_bytes: int) -> None:
        if n_bytes != self.n_bytes:
            raise ValueError(
                f"a chunk of {self.n_bytes} bytes has {'more' if n_bytes > self.n_bytes else n_bytes}"
            )


def _checked(packed) -> memoryview:
    """`packed` without the four bytes of Fletcher's checksum at its end; `ValueError` where they do
    not fit.
    """
    packed = memoryview(packed)
    if len(packed) < 4:
        raise ValueError("a chunk without its checksum")
    values, stored = packed[:-4], int.from_bytes(packed[-4:], "little")
    words = np.frombuffer(bytes(values) + b"\0" * (len(values) % 2), ">u2").astype(np.int64)
    ones, twos = int(words.sum()), int((words * (np.arange(len(words), 0, -1) % 65535)).sum())
    if (ones - (stored & 65535)) % 65535 or (twos - (stored >> 16)) % 65535:
        raise ValueError("the checksum of a chunk does not fit")
    return values


@functools.cache
def _unpack_lzf():
    """The decompressor of LZF, compiled once per machine: number of bytes unpacked, -1 for what
    does not fit.
    """
    from numba import njit

    @njit(nogil=True)
    def unpack(packed, out):
        i, o = 0, 0
        while i < len(packed):
            control = int(packed[i])
            i += 1
            if control < 32:  # as many values as they are, and one
                n = control + 1
                if i + n > len(packed) or o + n > len(out):
                    return -1
                out[o : o + n] = packed[i : i + n]
                i += n
            else:  # values that were there before
                n = control >> 5
                if i + 1 + (n == 7) > len(packed):
                    return -1
                if n == 7:
                    n += int(packed[i])
                    i += 1
                back = o - ((control & 31) << 8) - int(packed[i]) - 1
                i += 1
                n += 2
                if back < 0 or o + n > len(out):
                    return -1
                for k in range(n):
                    out[o + k] = out[back + k]
            o += n
        return o

    return unpack
