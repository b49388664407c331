"""What readers of HDF5 with padded constituents share: opening, refusing what is wrong, blocks of rows, momenta."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Mapping, MutableMapping

import h5py
import numpy as np
from zlib_ng import zlib_ng

from jetnb.jets import PI
from jetnb.readers._common import CACHE, explained, open_hdf5, shown, sort_by_pt

open_file = open_hdf5  # the one way to open HDF5


def keys(path, file: h5py.File) -> list[str]:
    """Names at the top of the file; `ValueError` where its header is damaged."""
    with explained(path):
        return [shown(name if isinstance(name, str) else repr(name)) for name in file]


def need(path, file: h5py.File, name: str, tail: tuple[int | None, ...], kind: str, what: str) -> h5py.Dataset:
    """Dataset `name` of shape (N, *tail) (None: any length) and dtype kind in `kind`; else `ValueError`."""
    found = keys(path, file)
    with explained(path):
        data = file.get(name)
        shape, dtype = (data.shape, data.dtype) if isinstance(data, h5py.Dataset) else (None, None)
    if shape is None:
        raise ValueError(f"{path} has no dataset {name!r}, so it is not {what}: at the top it has "
                         f"{shown(', '.join(found)) or 'nothing'}; choose the reader of its format")
    fits = len(shape) == 1 + len(tail) and all(b in (None, a) for a, b in zip(shape[1:], tail, strict=True))
    if not fits or dtype.kind not in kind:
        wanted = ", ".join(["N", *("any" if n is None else str(n) for n in tail)])
        raise ValueError(f"{path}: dataset {name!r} is {dtype} of shape {shape}, but ({wanted}) of kind "
                         f"{kind!r} in {what}: it is another format or version; download the published file")
    return data


def blocks(data: h5py.Dataset, block_size: int, start: int = 0, stop: int | None = None) -> list[slice]:
    """Slices of at most `block_size` rows from `start` to `stop`, whole chunks of `data` where these fit."""
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    stop = len(data) if stop is None else min(stop, len(data))
    rows = data.chunks[0] if data.chunks else 1
    step = block_size // rows * rows or block_size
    edges = [max(start, 0), *range((max(start, 0) // step + 1) * step, stop, step), stop]
    return [slice(a, b) for a, b in itertools.pairwise(edges) if a < b]


def rows_of(path, data: h5py.Dataset, rows: slice) -> np.ndarray:
    """`data[rows]`, with a `ValueError` naming file, dataset and rows when the bytes are damaged."""
    return Rows(path, data)(rows)


class Rows:
    """Rows of a dataset, their chunks decompressed by zlib-ng, several times as fast as by the zlib in HDF5.

    The last axis comes first in memory, so that one field of all slots is contiguous. What is not plainly gzip, has
    chunks that were never written, or does not decompress to a chunk, is left to HDF5, which reads it or says what is
    wrong; a `ValueError` then names file, dataset and rows.
    """

    def __init__(self, path, data: h5py.Dataset):
        self.path, self.data = path, data
        with explained(path):
            self.plain = not (data.compression == "gzip" and data.ndim > 1 and data.scaleoffset is None
                              and not data.shuffle and not data.fletcher32)
            if not self.plain:
                n_chunks = [-(-size // step) for size, step in zip(data.shape, data.chunks, strict=True)]
                self.plain = data.id.get_num_chunks() != math.prod(n_chunks)

    def __call__(self, rows: slice) -> np.ndarray:
        try:
            if not self.plain:
                with contextlib.suppress(OSError, RuntimeError, ValueError, zlib_ng.error):
                    return self._inflated(rows)
            return self.data[rows]
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{self.path}: rows {rows.start} to {rows.stop - 1} of dataset "
                             f"{self.data.name.lstrip('/')!r} cannot be read ({error}): the file is damaged, download "
                             "it again") from None

    def _inflated(self, rows: slice) -> np.ndarray:
        shape, chunks, dtype = self.data.shape, self.data.chunks, self.data.dtype
        n_bytes, inner = math.prod(chunks) * dtype.itemsize, list(zip(shape[1:], chunks[1:], strict=True))
        out = np.moveaxis(np.empty((shape[-1], rows.stop - rows.start, *shape[1:-1]), dtype), 0, -1)
        for first in range(rows.start // chunks[0] * chunks[0], rows.stop, chunks[0]):
            low, high = max(rows.start, first), min(rows.stop, first + chunks[0])
            for corner in itertools.product(*(range(0, size, step) for size, step in inner)):
                skipped, packed = self.data.id.read_direct_chunk((first, *corner))
                if skipped:
                    raise ValueError("a chunk that is not compressed")
                chunk = np.frombuffer(zlib_ng.decompress(packed, bufsize=n_bytes), dtype).reshape(chunks)
                into = (slice(low - rows.start, high - rows.start),
                        *(slice(c, c + step) for c, (_, step) in zip(corner, inner, strict=True)))
                out[into] = chunk[low - first:high - first,
                                  *(slice(size - c) for c, (size, _) in zip(corner, inner, strict=True))]
        return out


def momenta(px, py, pz, energy, tally: MutableMapping[str, int]) -> tuple[dict, np.ndarray, np.ndarray]:
    """Four-momenta of the slots that hold a constituent, jet after jet by falling pt.

    px, py, pz, energy: (N, P), zero where padded. Returns (pt, eta, phi, energy by name (T,); the slot of each
    constituent (T,), an index into the flattened (N, P); counts (N,)). `tally` counts the slots left out, which are
    not zero but have pt = 0 or a component that is not finite, and the jets that had to be sorted.
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
    fields = {"pt": pt.astype(np.float32), "eta": np.arcsinh(z / pt), "phi": wrap_phi(np.arctan2(y, x)), "energy": e}
    sort_by_pt(fields | {"slot": slot}, jet, tally)
    return fields, slot, np.bincount(jet, minlength=n)


def total(px, py, pz, energy, counts) -> dict[str, np.ndarray]:
    """pt, eta, phi, mass (N,) of the sum of the constituents (T,) of each jet, added up in double precision."""
    jet = np.repeat(np.arange(len(counts)), counts)
    px, py, pz, energy = (np.bincount(jet, weights=v, minlength=len(counts)) for v in (px, py, pz, energy))
    pt = np.hypot(px, py)
    return {"pt": pt, "eta": np.arcsinh(pz / np.where(pt > 0, pt, 1)), "phi": wrap_phi(np.arctan2(py, px)),
            "mass": np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0))}


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


def keep_good(columns: Mapping, fields: Mapping, counts: np.ndarray, needs: tuple[str, ...]) -> tuple:
    """Leave out jets with pt <= 0 or a value of `needs` that is not finite: (columns, fields, counts, dropped)."""
    good = np.logical_and.reduce([np.isfinite(columns[name]) for name in needs] + [columns["pt"] > 0])
    if good.all():
        return columns, fields, counts, 0
    inside = np.repeat(good, counts)
    return ({name: v[good] for name, v in columns.items()}, {name: v[inside] for name, v in fields.items()},
            counts[good], int((~good).sum()))
