"""What a jets array is: an awkward array of jet records with a jagged list of constituents.

Build one from plain columns, check it, describe it, split it by event, draw label budgets from it.
Both levels are `vector` records ("Momentum4D"), so `jets.constituents.deltaR(jets)` just works; the
provenance travels in `jets.attrs["jetnb"]` and survives slicing.
"""

from jetnb.jets.building import build, wrap
from jetnb.jets.checking import PI, check
from jetnb.jets.fields import CONSTITUENTS_NEED, INSIDE, JETS_NEED, TRACK_FIELDS, plain, to_columns
from jetnb.jets.origin import PROVENANCE_NEEDS, classes, describe, provenance
from jetnb.jets.splitting import label_budgets, parts, split, uniform

__all__ = [
    "CONSTITUENTS_NEED",
    "INSIDE",
    "JETS_NEED",
    "PI",
    "PROVENANCE_NEEDS",
    "TRACK_FIELDS",
    "build",
    "check",
    "classes",
    "describe",
    "label_budgets",
    "parts",
    "plain",
    "provenance",
    "split",
    "to_columns",
    "uniform",
    "wrap",
]
