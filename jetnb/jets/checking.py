"""What makes a jets array unfit, said with field, jet, value and remedy."""

from __future__ import annotations

import awkward as ak
import numpy as np

from jetnb.jets.fields import (
    CONSTITUENTS_NEED,
    INSIDE,
    JETS_NEED,
    TRACK_FIELDS,
    field,
    need,
    to_columns,
)
from jetnb.jets.origin import classes
from jetnb.names import PARTICLES

PI = float(np.float32(np.pi))
TINY = float(np.finfo(np.float32).smallest_subnormal)


def check(jets: ak.Array) -> None:
    """Raise `ValueError` naming field, jet, value and remedy at the first thing that makes `jets`
    unfit.

    Looks for: missing, unknown or mistyped fields, missing provenance, NaN and infinities, pt <= 0,
    phi outside [-pi, pi], energy below pt, constituents not sorted by falling pt, `n_constituents`
    that disagrees with the list, labels outside the classes, unknown PDG ids, charges other than
    -1, 0, 1, track parameters where `has_track` is False, negative uncertainties, PUPPI weights
    outside [0, 1].
    """
    names = classes(jets)
    columns, inside, counts = to_columns(jets)
    for have, wanted, where in ((columns, JETS_NEED, ""), (inside, CONSTITUENTS_NEED, INSIDE)):
        need(have, wanted, where)
        for name, values in have.items():
            if values.dtype != (dtype := field(where + name).dtype):
                raise ValueError(
                    f"{where}{name} is {values.dtype}, but {dtype} in jetnb.names: "
                    f"cast it with np.{dtype}(values), or build the jets with jetnb.jets.build"
                )

    def refuse(name, bad, remedy):
        if not bad.any():
            return
        at = int(np.argmax(bad))
        if name.startswith(INSIDE):
            jet = int(np.searchsorted(np.cumsum(counts), at, side="right"))
            found = f"constituent {at - int(counts[:jet].sum())} of jet {jet} has "
            found += str(inside[name.removeprefix(INSIDE)][at])
        else:
            found = f"jet {at} has {columns[name][at]}"
        raise ValueError(
            f"{name}: {found}; {remedy} ({bad.sum()} of {len(bad)} values are like this)"
        )

    def refuse_outside(name, values, low, high, remedy):
        # A mask is made only where it is needed.
        if len(values) and not (values.min() >= low and values.max() <= high):
            refuse(name, (values < low) | (values > high), remedy)

    for fields, where in ((columns, ""), (inside, INSIDE)):
        for name, values in fields.items():
            if (
                values.dtype.kind == "f"
                and len(values)
                and not np.isfinite([values.min(), values.max()]).all()
            ):
                refuse(
                    where + name,
                    ~np.isfinite(values),
                    "it must be finite: drop the jet, or, for "
                    "track parameters, write 0 where has_track is False",
                )
        refuse_outside(
            where + "pt",
            fields["pt"],
            TINY,
            np.inf,
            "pt must be positive: leave padding and empty slots out",
        )
        refuse_outside(where + "phi", fields["phi"], -PI, PI, "phi must be in (-pi, pi]: wrap it")
    refuse(
        "n_constituents",
        columns.get("n_constituents", counts) != counts,
        "it must equal the number of constituents stored: leave it out and build fills it",
    )
    refuse_outside(
        "label",
        columns.get("label", counts[:0]),
        -1,
        len(names) - 1,
        f"labels run from -1 (unlabelled) to {len(names) - 1} for the classes {names}",
    )
    refuse(
        "constituents.energy",
        inside["energy"] < np.float32(0.99) * inside["pt"],
        "energy is below pt: wrong unit or column?",
    )
    rises = np.zeros(len(inside["pt"]), bool)
    rises[1:] = inside["pt"][1:] > inside["pt"][:-1]
    rises[np.cumsum(counts)[:-1][counts[1:] > 0]] = False  # the first constituent of a jet is free
    refuse("constituents.pt", rises, "more than the one before: sort each jet by falling pt")
    known = [code for particle in PARTICLES.values() for code in particle.pdg_ids]
    refuse(
        "constituents.pdg_id",
        ~np.isin(inside.get("pdg_id", known[:0]), known),
        f"known types are {known}, see names.PARTICLES",
    )
    for name, low, high in (
        ("charge", -1, 1),
        ("d0_error", 0, np.inf),
        ("dz_error", 0, np.inf),
        ("puppi_weight", 0, 1),
    ):
        refuse_outside(
            f"constituents.{name}",
            inside.get(name, counts[:0]),
            low,
            high,
            f"it must be in [{low}, {high}]: wrong column?",
        )
    for name in TRACK_FIELDS:
        if name in inside and "has_track" in inside:
            refuse(
                f"constituents.{name}",
                (inside[name] != 0) > inside["has_track"],
                "it is measured only where has_track: write 0 elsewhere",
            )
