"""What all readers share: the counter they fill, sorting, reading one block ahead."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

TALLY = ("rows", "jets", "constituents", "tracks", "unsorted")


def counter(tally: MutableMapping[str, int] | None) -> MutableMapping[str, int]:
    """`tally`, or a mapping of its own, with all of `TALLY` at zero."""
    tally = {} if tally is None else tally
    tally.update(dict.fromkeys(TALLY, 0))
    return tally


def accepts(function: Callable, path) -> bool:
    """Whether `function(path)` raises none of what readers and their libraries raise at a file of another format."""
    try:
        function(path)
        return True
    except (ValueError, OSError, RuntimeError, TypeError, KeyError):
        return False


def sort_by_pt(fields: dict[str, np.ndarray], jet: np.ndarray, tally: MutableMapping[str, int]) -> None:
    """Put the constituents of each jet by falling pt, in place.

    fields: name -> (T,), "pt" among them, as float32. jet: (T,) number of the jet, rising. Only jets out of order are
    touched, and equal pt stay in the order of the file. Where rounding alone put them out of order, by less than 1e-4,
    `tally` does not count them.
    """
    pt, same = fields["pt"], jet[1:] == jet[:-1]
    rises = (pt[1:] > pt[:-1]) & same
    if not rises.any():
        return
    tally["unsorted"] += len(np.unique(jet[1:][(pt[1:] > 1.0001 * pt[:-1]) & same]))
    out_of_order = np.zeros(jet[-1] + 1, bool)
    out_of_order[jet[1:][rises]] = True
    some = np.flatnonzero(out_of_order[jet])
    order = some[np.lexsort((-pt[some], jet[some]))]
    for values in fields.values():
        values[some] = values[order]


def first_event(path: Path) -> int:
    """`event` of row 0 for a format without event numbers: 31 bits of the sha256 of the name, 32 bits for the row.

    The name is that of the file without its folder and ending, so the number does not depend on where the file lies.
    """
    return int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:4], "big") >> 1 << 32


def row_range(file, names: list[str] | None, block_size: int, start: int, stop: int | None) -> Iterator[tuple]:
    """First row and record batch of one block after the other, of a `pyarrow.parquet.ParquetFile`; row groups before
    `start` and from `stop` on are not read."""
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    stop = int(ends[-1]) if stop is None and len(ends) else min(stop or 0, int(ends[-1]) if len(ends) else 0)
    wanted = [i for i, (size, end) in enumerate(zip(sizes, ends, strict=True)) if end > start and end - size < stop]
    row = int(ends[wanted[0]] - sizes[wanted[0]]) if wanted else 0
    for batch in file.iter_batches(block_size, row_groups=wanted, columns=names) if wanted else ():
        low, high = max(start - row, 0), min(stop - row, len(batch))
        if low < high:
            yield row + low, batch.slice(low, high - low)
        row += len(batch)


def ahead(blocks: Iterable) -> Iterator:
    """`blocks`, the next of them being made in a thread while the caller works on the one before."""
    blocks, end = iter(blocks), object()
    with ThreadPoolExecutor(1, thread_name_prefix="reader") as thread:
        coming = thread.submit(next, blocks, end)
        while (block := coming.result()) is not end:
            coming = thread.submit(next, blocks, end)
            yield block
