"""Jets in a file or store, in blocks, whatever the format."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

import awkward as ak

from jetnb.data import store
from jetnb.readers.identify import reader


class Source(NamedTuple):
    """Jets in a file or store that can be read in pieces: path, module of `jetnb.readers` ("" for a
    store), rows.
    """

    path: Path
    reader: str
    n_rows: int

    def blocks(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        block_size: int = 10_000,
        tally: MutableMapping[str, int] | None = None,
    ) -> Iterator[ak.Array]:
        """Blocks of jets of the rows `start` to `stop - 1`, as `jetnb.readers` says."""
        if self.reader:
            yield from reader(self.reader).read(
                self.path, start=start, stop=stop, block_size=block_size, tally=tally
            )
            return
        stop = self.n_rows if stop is None else min(stop, self.n_rows)
        # Opened for each block, so that earlier ones leave the memory.
        for first in range(start, stop, block_size):
            yield store.open(self.path).jets[first : min(first + block_size, stop)]
