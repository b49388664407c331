"""What readers of HDF5 with padded constituents share: opening, refusing what is wrong, blocks of
rows, momenta.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Mapping, MutableMapping

import h5py
import numpy as np
import pyarrow
from zlib_ng import zlib_ng

from jetnb import kinematics, packed
from jetnb.jets import PI
from jetnb.readers._common import AGAIN, BLOCK, SLOTS, explained, open_hdf5, shown, sort_by_pt

open_file = open_hdf5  # the one way to open HDF5
SHUFFLE, FLETCHER32, GZIP, LZF, BLOSC, ZSTD = (
    2,
    3,
    1,
    32000,
    32001,
    32015,
)  # in the registry of filters of HDF5
FILTERS = {
    SHUFFLE: "shuffle",
    FLETCHER32: "fletcher32",
    GZIP: "gzip",
    LZF: "lzf",
    BLOSC: "blosc",
    ZSTD: "zstd",
}
UNWRITTEN = 256 << 20  # bytes that a dataset may claim beyond what the file can hold
MOST = 1100  # times its size that a file can hold: gzip, the best of the filters on zeros, has at most 1032


def keys(path, file: h5py.File) -> list[str]:
    """Names at the top of the file; `ValueError` where its header is damaged."""
    with explained(path):
        return [shown(name if isinstance(name, str) else repr(name)) for name in file]


def need(
    path, file: h5py.File, name: str, tail: tuple[int | None, ...], kind: str, what: str
) -> h5py.Dataset:
    """Dataset `name` of shape (N, *tail) (None: any length) and dtype kind in `kind`; else
    `ValueError`.
    """
    found = keys(path, file)
    with explained(path):
        data = file.get(name)
        shape, dtype = (data.shape, data.dtype) if isinstance(data, h5py.Dataset) else (None, None)
    if shape is None:
        raise ValueError(
            f"{path} has no dataset {name!r}, so it is not {what}: at the top it has "
            f"{shown(', '.join(found)) or 'nothing'}; choose the reader of its format"
        )
    fits = len(shape) == 1 + len(tail) and all(
        b in (None, a) for a, b in zip(shape[1:], tail, strict=True)
    )
    if not fits or dtype.kind not in kind:
        wanted = ", ".join(["N", *("any" if n is None else str(n) for n in tail)])
        raise ValueError(
            f"{path}: dataset {name!r} is {shown(dtype)} of shape {shape}, but ({wanted}) of kind "
            f"{kind!r} in {what}: it is another format or version; download the published file"
        )
    with explained(path):
        _believe(path, name, data)
    return data


def _believe(path, name: str, data: h5py.Dataset) -> None:
    """Raise `ValueError` for a dataset that claims more than its file can hold, or more than memory
    should.
    """
    shape, chunks, dtype = data.shape, data.chunks, data.dtype
    row, size = math.prod(shape[1:]) * dtype.itemsize, os.stat(path).st_size

    def refuse(what: str):
        raise ValueError(
            f"{path}: dataset {name!r} {what}: the file is damaged or not what it seems; {AGAIN}"
        )

    if max(shape[1:], default=0) > SLOTS or row > BLOCK >> 6:
        refuse(
            f"has rows of shape {shape[1:]}, {row:,} bytes each; a jet has at most {SLOTS:,} constituents"
        )
    if len(shape) and len(data) * max(row, 1) > UNWRITTEN + MOST * size:
        refuse(
            f"claims {len(data):,} rows of {row:,} bytes, but the file has {size:,} bytes in all"
        )
    if _overlap(dtype):
        refuse(f"is {shown(dtype)}, whose fields overlap")
    if data.id.get_type().detect_class(h5py.h5t.VLEN):
        refuse("has lists or texts of any length, which no format of jets has")
    made = data.id.get_create_plist()
    if chunks is None:
        where, stored = data.id.get_offset(), data.id.get_storage_size()
        if (where is not None and where + len(data) * row > size) or stored not in (
            0,
            len(data) * row,
        ):
            refuse(f"has {len(data) * row:,} bytes, of which the file holds {stored:,}: it was cut")
    elif math.prod(chunks) * dtype.itemsize > BLOCK:
        refuse(
            f"has chunks of {math.prod(chunks) * dtype.itemsize:,} bytes; more than {BLOCK:,} are not read"
        )
    for i in range(made.get_nfilters()):
        code, _, _, words = made.get_filter(i)
        if code not in FILTERS:
            raise ValueError(
                f"{path}: dataset {name!r} is compressed by {words.decode(errors='replace')!r:.80} "
                f"({code}), which is not read; of {', '.join(FILTERS.values())} make it one: "
                "`h5repack -f GZIP=4 old.h5 new.h5`"
            )


def _overlap(dtype: np.dtype) -> bool:
    """Whether fields of a structured type share bytes, or end beyond it.

    h5py takes the nearest type of numpy for a number of another form, such as a float of four bytes
    with a wider exponent, at the place that it has in the file; if that is longer, HDF5 writes
    beyond the end of the array.
    """
    if dtype.subdtype:
        return _overlap(dtype.subdtype[0])
    fields = (dtype.fields or {}).values()
    places = sorted((at, at + kind.itemsize) for kind, at, *_ in fields)
    pairs = itertools.pairwise([*places, (dtype.itemsize, None)])
    return any(end > start for (_, end), (start, _) in pairs) or any(
        _overlap(kind) for kind, *_ in fields
    )


def blocks(
    data: h5py.Dataset, block_size: int, start: int = 0, stop: int | None = None
) -> list[slice]:
    """Slices of at most `block_size` rows from `start` to `stop`, whole chunks of `data` where
    these fit.
    """
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    stop = len(data) if stop is None else min(stop, len(data))
    rows = data.chunks[0] if data.chunks else 1
    block_size = max(
        1, min(block_size, (BLOCK >> 2) // max(math.prod(data.shape[1:]) * data.dtype.itemsize, 1))
    )
    step = block_size // rows * rows or block_size
    edges = [max(start, 0), *range((max(start, 0) // step + 1) * step, stop, step), stop]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]


def rows_of(path, data: h5py.Dataset, rows: slice) -> np.ndarray:
    """`data[rows]`, with a `ValueError` naming file, dataset and rows when the bytes are damaged."""
    return Rows(path, data)(rows)


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
        self.path, self.data, self.room = path, data, None
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
        if (
            self.room is None
        ):  # what is longer, h5py refuses: no filter makes a chunk much longer than it was
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


def momenta(
    px, py, pz, energy, tally: MutableMapping[str, int]
) -> tuple[dict, np.ndarray, np.ndarray]:
    """Four-momenta of the slots that hold a constituent, jet after jet by falling pt.

    px, py, pz, energy: (N, P), zero where padded. Returns (pt, eta, phi, energy by name (T,); the
    slot of each constituent (T,), an index into the flattened (N, P); counts (N,)). `tally` counts
    the slots left out, which are not zero but have pt = 0 or a component that is not finite, and
    the jets that had to be sorted.
    """
    n, p = px.shape
    slot = np.flatnonzero((px != 0) | (energy != 0))
    x, y, z, e = (v.ravel().take(slot).astype(np.float64) for v in (px, py, pz, energy))
    with np.errstate(over="ignore", invalid="ignore"):
        pt = np.sqrt(x * x + y * y)
        good = np.isfinite(pt) & np.isfinite(z) & np.isfinite(e) & (pt > 0)
    tally["constituents"] += len(slot) - int(good.sum())
    if not good.all():
        slot, pt, x, y, z, e = (v[good] for v in (slot, pt, x, y, z, e))
    jet = slot // p
    fields = {
        "pt": pt.astype(np.float32),
        "eta": np.arcsinh(z / pt),
        "phi": wrap_phi(np.arctan2(y, x)),
        "energy": e,
    }
    sort_by_pt(fields | {"slot": slot}, jet, tally)
    return fields, slot, np.bincount(jet, minlength=n)


def total(px, py, pz, energy, counts) -> dict[str, np.ndarray]:
    """pt, eta, phi, mass (N,) of the sum of the constituents (T,) of each jet, added up in double
    precision.
    """
    jet = packed.jet_of(counts)
    found = kinematics.total(px, py, pz, energy, jet, len(counts))
    return found | {"phi": wrap_phi(found["phi"])}


def wrap_phi(phi: np.ndarray) -> np.ndarray:
    """`phi` as float32 in (-pi, pi], whatever turn it is on.

    >>> wrap_phi(np.array([3.0, 3.1416016, -np.pi])).tolist()
    [3.0, -3.1415836811065674, 3.1415927410125732]
    """
    inside = np.array(phi, np.float64)
    if (outside := ~(np.abs(inside) <= PI)).any():
        with np.errstate(invalid="ignore"):  # what is not finite becomes NaN
            inside[outside] = np.pi - (np.pi - inside[outside]) % (2 * np.pi)
    inside = inside.astype(np.float32)
    inside[inside <= -PI] = PI
    return np.minimum(inside, np.float32(PI))


def keep_good(
    columns: Mapping, fields: Mapping, counts: np.ndarray, needs: tuple[str, ...]
) -> tuple:
    """Leave out jets with pt <= 0 or a value of `needs` that is not finite: (columns, fields,
    counts, dropped).
    """
    good = np.logical_and.reduce(
        [np.isfinite(columns[name]) for name in needs] + [columns["pt"] > 0]
    )
    if good.all():
        return columns, fields, counts, 0
    inside = np.repeat(good, counts)
    return (
        {name: v[good] for name, v in columns.items()},
        {name: v[inside] for name, v in fields.items()},
        counts[good],
        int((~good).sum()),
    )
