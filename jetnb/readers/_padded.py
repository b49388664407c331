"""What readers of HDF5 with padded constituents share: opening, refusing what is wrong, blocks of rows, momenta."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers blosc with HDF5
import numpy as np

from jetnb.jets import PI

CACHE = 64 << 20  # bytes of decompressed chunks kept, so that a chunk across two blocks is decompressed once


def open_file(path) -> h5py.File:
    """The HDF5 file at `path`; `ValueError` for one that is truncated or not HDF5, saying what it is instead."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if not h5py.is_hdf5(path):
        with path.open("rb") as stream:
            start = stream.read(64)
        page = start.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml")
        raise ValueError(f"{path} is not HDF5: it starts with {start[:16]!r}"
                         + (", so it is a web page saved under this name" if page else "")
                         + "; download the file itself again")
    try:
        return h5py.File(path, "r", rdcc_nbytes=CACHE, rdcc_nslots=10_007)
    except OSError as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): download it again") from None


def need(path, file: h5py.File, name: str, tail: tuple[int | None, ...], kind: str, what: str) -> h5py.Dataset:
    """Dataset `name` of shape (N, *tail) (None: any length) and dtype kind in `kind`; else `ValueError`."""
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise ValueError(f"{path} has no dataset {name!r}, so it is not {what}: at the top it has "
                         f"{', '.join(file) or 'nothing'}; choose the reader of its format")
    fits = data.ndim == 1 + len(tail) and all(b in (None, a) for a, b in zip(data.shape[1:], tail, strict=True))
    if not fits or data.dtype.kind not in kind:
        wanted = ", ".join(["N", *("any" if n is None else str(n) for n in tail)])
        raise ValueError(f"{path}: dataset {name!r} is {data.dtype} of shape {data.shape}, but ({wanted}) of kind "
                         f"{kind!r} in {what}: it is another format or version; download the published file")
    return data


def blocks(data: h5py.Dataset, block_size: int) -> list[slice]:
    """Slices of at most `block_size` rows, whole chunks of `data` where these fit."""
    if block_size < 1:
        raise ValueError(f"block_size must be at least 1, got {block_size}")
    rows = data.chunks[0] if data.chunks else 1
    step = block_size // rows * rows or block_size
    return [slice(start, min(start + step, len(data))) for start in range(0, len(data), step)]


def rows_of(path, data: h5py.Dataset, rows: slice) -> np.ndarray:
    """`data[rows]`, with a `ValueError` naming file, dataset and rows when the bytes are damaged."""
    try:
        return data[rows]
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path}: rows {rows.start} to {rows.stop - 1} of dataset {data.name.lstrip('/')!r} cannot "
                         f"be read ({error}): the file is damaged, download it again") from None


def momenta(slots: np.ndarray, columns: tuple[int, int, int, int]) -> tuple[dict, np.ndarray, np.ndarray, int]:
    """Four-momenta of the slots that hold a constituent, jet after jet by falling pt.

    `slots` is (N, P, C), zero where padded; `columns` says which of the C are px, py, pz and energy. Returns (pt,
    eta, phi, energy by name (T,), the slots themselves (T, C), counts (N,), number of slots dropped: those that are
    not zero but have pt = 0 or a component that is not finite).
    """
    n, p, c = slots.shape
    slot = np.flatnonzero((slots[:, :, columns[0]] != 0) | (slots[:, :, columns[3]] != 0))
    rows = slots.reshape(-1, c).take(slot, axis=0)
    x, y, z, e = (rows[:, i].astype(np.float64) for i in columns)
    pt = np.hypot(x, y)
    good = np.isfinite(pt) & np.isfinite(z) & np.isfinite(e) & (pt > 0)
    jet = slot // p
    if not good.all():
        rows, jet, pt, x, y, z, e = (v[good] for v in (rows, jet, pt, x, y, z, e))
    rounded = pt.astype(np.float32)
    if ((rounded[1:] > rounded[:-1]) & (jet[1:] == jet[:-1])).any():
        order = np.lexsort((-rounded, jet))  # stable: equal pt stay in the order of the file
        rows, pt, x, y, z, e = (v[order] for v in (rows, pt, x, y, z, e))
    fields = {"pt": pt, "eta": np.arcsinh(z / pt), "phi": wrap_phi(np.arctan2(y, x)), "energy": e}
    return fields, rows, np.bincount(jet, minlength=n), len(slot) - len(jet)


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
    inside = np.asarray(phi, np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite becomes NaN
        inside = np.where(np.abs(inside) <= PI, inside, np.pi - (np.pi - inside) % (2 * np.pi)).astype(np.float32)
    return np.where(inside <= -PI, np.float32(PI), np.minimum(inside, np.float32(PI)))


def keep_good(columns: Mapping, fields: Mapping, counts: np.ndarray, needs: tuple[str, ...]) -> tuple:
    """Leave out jets with pt <= 0 or a value of `needs` that is not finite: (columns, fields, counts, dropped)."""
    good = np.logical_and.reduce([np.isfinite(columns[name]) for name in needs] + [columns["pt"] > 0])
    if good.all():
        return columns, fields, counts, 0
    inside = np.repeat(good, counts)
    return ({name: v[good] for name, v in columns.items()}, {name: v[inside] for name, v in fields.items()},
            counts[good], int((~good).sum()))
