"""Some of the jets of long files: the first, or some drawn at random over the whole length."""

from __future__ import annotations

from collections.abc import Iterable

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb.data.source import Source

PIECES = 32  # blocks of rows that a random part of files comes from, at least
FEW = 2_000  # rows that are read to the end all the same
DRAW = 0x647261  # says that a seed is used for drawing
SPARE = (
    4  # times as many jets are looked at as are drawn: neighbours in a file are not drawn together
)


def first(sources: Iterable[Source], files: list, n_jets: int | None) -> ak.Array:
    """All jets of the sources, or the first `n_jets`."""
    blocks, taken, n_rows = [], 0, 0
    for number, one in enumerate(sources, start=1):
        n_rows += one.n_rows
        tally = {}
        for block in one.blocks(tally=tally):
            blocks.append(block[: None if n_jets is None else n_jets - taken])
            taken += len(blocks[-1])
            if taken == n_jets:
                jets = _joined(blocks)
                if (
                    number == len(files)
                    and len(block) == len(blocks[-1])
                    and tally.get("rows") == one.n_rows
                ):
                    return jets  # there are no more
                where = (
                    f"{one.n_rows:,} rows of {one.path.name}"
                    if len(files) == 1
                    else f"{len(files)} files, of which {number} {'were' if number > 1 else 'was'} opened"
                )
                return noted(
                    jets,
                    f"the first {taken:,} jets of {where}; seed=1 in load draws over the whole length",
                )
    _enough(files, n_rows, taken, n_jets)
    return _joined(blocks)


def drawn(sources: list[Source], files: list, n_jets: int, seed: int) -> ak.Array:
    """`n_jets` of the jets in random blocks of rows, of all rows where these are few: the events of
    lowest keys.
    """
    rng, n_rows = np.random.default_rng(seed), sum(one.n_rows for one in sources)
    to_the_end = n_rows <= max(2 * SPARE * n_jets, FEW)
    # Rows to read at a time.
    size = n_rows if to_the_end else min(-(-SPARE * n_jets // PIECES), 10_000)
    stride = max(size, n_rows // 100_000, 1)
    pieces = [
        (one, first, min(first + stride, one.n_rows))
        for one in sources
        for first in range(0, one.n_rows, stride)
    ]
    pieces = pieces if to_the_end else [pieces[i] for i in rng.permutation(len(pieces))]
    blocks, keys, highest, seen, n_read, places = [], [], np.inf, 0, 0, 0
    for one, first, stop in pieces:
        if seen >= SPARE * n_jets and not to_the_end:
            break
        # Fewer where rows are events of several jets.
        want = -(-size * n_read // seen) if seen > n_read else size
        if stop - first > want and not to_the_end:
            # Its turn comes when all others were not enough.
            pieces.append((one, first + want, stop))
            stop = first + want
        places, n_read = places + 1, n_read + stop - first
        for block in one.blocks(first, stop):
            fresh = keys_of(block, seed, rng)
            seen += len(block)
            blocks.append(block[fresh < highest])
            keys.append(fresh[fresh < highest])
            if sum(map(len, keys)) > 2 * n_jets:  # what cannot be drawn any more leaves the memory
                blocks, keys = _lowest(blocks, keys, n_jets)
                highest = keys[0][-1]
    _enough(files, n_rows, seen, n_jets)
    (jets,), _ = _lowest(blocks, keys, n_jets)
    where = f"{n_rows:,} rows in {len(files)} file{'s'[: len(files) > 1]}"
    return noted(
        jets,
        f"{n_jets:,} jets drawn at random, seed {seed}, from {seen:,} jets of "
        + (f"all {where}" if n_read >= n_rows else f"{places:,} blocks of rows, of {where}"),
    )


def keys_of(jets: ak.Array, seed: int, rng: np.random.Generator) -> np.ndarray:
    """A random number for each jet, the same for all jets of an event, in whichever blocks they
    are.

    Not those of `jets.split` with this seed: what is drawn by them would all be in its first part.
    """
    return (
        jetnb.jets.uniform(ak.to_numpy(jets.event), (seed, DRAW))
        if "event" in jets.fields
        else rng.random(len(jets))
    )


def _lowest(blocks: list[ak.Array], keys: list[np.ndarray], n: int) -> tuple[list, list]:
    """The `n` jets with the lowest keys, in one block by rising keys, jets of one event in their
    order.
    """
    together = np.concatenate(keys)
    order = np.argsort(together, kind="stable")[:n]
    return [ak.to_packed(_joined(blocks)[order])], [together[order]]


def _joined(blocks: list[ak.Array]) -> ak.Array:
    """The jets of all blocks, with the provenance of the first. Raises `ValueError` where they are of
    different kinds.
    """
    about = [jetnb.jets.provenance(block) for block in blocks]
    kinds = {
        "classes": [one["classes"] for one in about],
        "source": [one.get("source") for one in about],
        "fields": [ak.fields(block) for block in blocks],
        "fields of constituents": [ak.fields(block.constituents) for block in blocks],
    }
    for what, found in kinds.items():
        for other, one in zip(found, about, strict=True):
            if other != found[0]:
                raise ValueError(
                    f"the files have different {what}: {found[0]} in {about[0].get('file', 'the first')}, "
                    f"{other} in {one.get('file', 'another')}: load them one by one"
                )
    return ak.Array(ak.concatenate(blocks), attrs=blocks[0].attrs)


def _enough(files: list, n_rows: int, n_found: int, n_jets: int | None) -> None:
    names = ", ".join(map(str, files[:3])) + (" ..." if len(files) > 3 else "")
    if not n_rows:
        raise ValueError(
            f"{names}: there are no rows, so no jets, as where a job selected nothing: get another file"
        )
    if not n_found:
        raise ValueError(
            f"{names}: none of {n_rows:,} rows holds a jet that can be used: `jetnb data check` says why"
        )
    if n_jets is not None and n_found < n_jets:
        raise ValueError(
            f"{names}: {n_found} jets, fewer than the {n_jets} asked for: name more files, or set "
            f"n_jets (N_JETS in a notebook) to at most {n_found}"
        )


def noted(jets: ak.Array, part: str) -> ak.Array:
    """The same jets, with the part that they are in their provenance."""
    return ak.Array(jets, attrs={"jetnb": {**jetnb.jets.provenance(jets), "part": part}})
