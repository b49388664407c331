"""What tells the data of a training from others of the same size: a few numbers, from a bounded
sample of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import numpy as np
import torch

# Blocks of so many jets, evenly over the data: all of them where there are not more.
BLOCKS, JETS = (8, 512)
TOLERANCE = 1e-6  # of a sum: features that another processor has computed differ in their last bits


def of(data) -> dict:
    """A record, for JSON, of up to 4096 jets of `data` (see `jetnb.inputs.batches`), made in
    milliseconds.

    exact: a hash of the number of jets, of shapes, and of all integers, so of offsets and labels.
    sums: for each block and each tensor of other numbers, their sum weighted by place and the sum
    of their magnitudes.
    """
    n, digest, sums = len(data), hashlib.blake2b(digest_size=16), []
    step = JETS if n <= BLOCKS * JETS else (n - JETS) / (BLOCKS - 1)
    for block in range(min(BLOCKS, math.ceil(n / JETS))):
        first = int(block * step)
        for values in data[np.arange(first, min(first + JETS, n))]:
            digest.update(f"{n} {values.dtype} {tuple(values.shape)}".encode())
            if not values.is_floating_point():
                digest.update(values.cpu().contiguous().numpy().tobytes())
                continue
            values = values.cpu().double().flatten().nan_to_num()
            weights = torch.arange(1, len(values) + 1, dtype=torch.float64).cos()
            sums += [float((values * weights).sum()), float(values.abs().sum())]
    return {"exact": digest.hexdigest(), "sums": sums}


def difference(old: Mapping, new: Mapping) -> str:
    """In what two records differ, in words; "" where they may be of the same data."""
    if old.get("exact") != new["exact"]:
        return "labels or numbers of constituents"
    here, there = np.array(new["sums"]).reshape(-1, 2), old.get("sums")
    known = (
        isinstance(there, list)
        and len(there) == here.size
        and all(isinstance(value, float) for value in there)
    )
    close = (
        known and (np.abs(np.reshape(there, here.shape) - here) <= TOLERANCE * here[:, 1:]).all()
    )
    return "" if close else "features of constituents"
