"""Packed batches: the constituents of many jets as one long array, jet after jet, and where each
jet begins.

Jet `b` is `x[offsets[b]:offsets[b + 1]]`, and `counts = np.diff(offsets)` says how many
constituents each has. This is the side of NumPy; `jetnb.models._packed` is that of torch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Packed jets: jet `b` is `x[offsets[b]:offsets[b + 1]]`."""

    x: np.ndarray  # (T, F) float32
    offsets: np.ndarray  # (B + 1,) int64


def starts(counts) -> np.ndarray:
    """Offsets (B+1,) int64 of jets with these `counts` (B,).

    >>> starts([2, 0, 3]).tolist()
    [0, 2, 2, 5]
    """
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, dtype=np.int64, out=offsets[1:])
    return offsets


def jet_of(counts) -> np.ndarray:
    """For each of T constituents the number of its jet, (T,).

    >>> jet_of([2, 0, 3]).tolist()
    [0, 0, 2, 2, 2]
    """
    return np.repeat(np.arange(len(counts)), counts)


def ranks(counts) -> np.ndarray:
    """For each of T constituents which of its jet it is, from 0, (T,).

    >>> ranks([2, 0, 3]).tolist()
    [0, 1, 0, 1, 2]
    """
    counts = np.asarray(counts)
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def rows(first, counts) -> np.ndarray:
    """The numbers from `first[b]` on, `counts[b]` of them, for each b, one jet after the other:
    (T,).

    >>> rows([7, 3], [2, 3]).tolist()
    [7, 8, 3, 4, 5]
    """
    return np.repeat(first, counts) + ranks(counts)


def valid(indices, n_jets: int, what: str = "the jets there are") -> np.ndarray:
    """`indices` (B,) as int64. Raises `IndexError` for what is no integer from 0 to n_jets - 1.

    what: which jets they are, for the message.
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise IndexError(
            f"jet indices must be a flat array of integers, got {indices.dtype} of shape {indices.shape}: "
            "turn a mask into indices with np.flatnonzero"
        )
    if indices.size and not 0 <= indices.min() <= indices.max() < n_jets:
        at = int(np.argmax((indices < 0) | (indices >= n_jets)))
        raise IndexError(
            f"jet index {indices[at]} at position {at} is outside 0 to {n_jets - 1}, {what}"
        )
    return indices.astype(np.int64)
