"""Jets arrays from plain columns, and back."""

from __future__ import annotations

from collections.abc import Mapping

import awkward as ak
import numpy as np

from jetnb import packed
from jetnb.jets import vectors  # noqa: F401  registers vector
from jetnb.jets.checking import check
from jetnb.jets.fields import CONSTITUENTS_NEED, INSIDE, JETS_NEED, cast, field, need


def build(columns: Mapping, constituents: Mapping, counts, *, provenance: Mapping) -> ak.Array:
    """Jets array from flat columns; dtypes become those of `names`, nothing is sorted or invented.

    `columns`: jet field name -> (N,). `constituents`: field name -> (T,), jet after jet, falling
    pt. `counts`: (N,) number of constituents of each jet, summing to T. `provenance`: JSON-able,
    with at least `sample`, `source` and `classes`. `n_constituents` is filled from `counts` when
    absent.

    Returns an `ak.Array` of N jets. Raises `ValueError` naming field, jet and value for an unknown
    or missing field, a value that does not fit its dtype, a length mismatch, and all that `check`
    refuses.
    """
    counts = cast("counts", counts, "int64", np.size(counts))
    if (counts < 0).any():
        raise ValueError(f"counts: jet {np.argmax(counts < 0)} has {counts.min()} constituents")
    offsets = packed.starts(counts)
    columns = {**columns, "n_constituents": columns.get("n_constituents", counts)}
    columns = {
        name: cast(name, values, field(name).dtype, len(counts)) for name, values in columns.items()
    }
    inside = {
        name: cast(INSIDE + name, values, field(INSIDE + name).dtype, offsets[-1])
        for name, values in constituents.items()
    }
    jets = wrap(columns, inside, offsets, provenance=provenance)
    check(jets)
    return jets


def wrap(
    columns: Mapping, constituents: Mapping, offsets: np.ndarray, *, provenance: Mapping
) -> ak.Array:
    """Jets array around existing arrays of the right dtypes, without copying and without a look at
    a value.

    `columns`: name -> (N,). `constituents`: name -> (T,). `offsets`: (N+1,) int64, from 0 to T.
    """
    need(columns, JETS_NEED, "")
    need(constituents, CONSTITUENTS_NEED, INSIDE)

    def record(fields, length):
        contents = [ak.contents.NumpyArray(values) for values in fields.values()]
        return ak.contents.RecordArray(
            contents, list(fields), length=length, parameters={"__record__": "Momentum4D"}
        )

    lists = ak.contents.ListOffsetArray(
        ak.index.Index64(offsets), record(constituents, int(offsets[-1]))
    )
    layout = record(columns, len(offsets) - 1)
    layout = ak.contents.RecordArray(
        [*layout.contents, lists],
        [*columns, "constituents"],
        length=len(offsets) - 1,
        parameters=layout.parameters,
    )
    return ak.Array(layout, attrs={"jetnb": dict(provenance)})
