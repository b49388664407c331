"""What readers of HDF5 with padded constituents share: opening, refusing what is wrong, blocks of
rows, momenta.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, MutableMapping

import h5py
import numpy as np

from jetnb import kinematics, packed
from jetnb.jets import PI
from jetnb.readers._chunks import FILTERS, Rows
from jetnb.readers._common import AGAIN, BLOCK, SLOTS, explained, shown, sort_by_pt

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


def frame_columns(path, file: h5py.File, key: str, most: int = 10_000) -> list:
    """Names of the columns of a frame that pandas wrote under `key` in its "fixed" format: texts or
    integers, of the first block, at most `most`.

    None where they are of another kind, such as pickles, which are never opened.
    """
    name = f"{key}/block0_items"
    with explained(path):
        found = file.get(name)
        if not isinstance(found, h5py.Dataset) or found.ndim != 1:
            return []
        if found.dtype.kind not in "Siu" or found.dtype.itemsize > 100:
            return []
        _believe(path, name, found)
    return [
        shown(one.decode(errors="replace")) if isinstance(one, bytes) else one
        for one in Rows(path, found)(slice(0, most)).tolist()
    ]


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
