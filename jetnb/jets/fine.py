"""Finer classes of simulated jets than those of their sample: by what a resonance decayed to, and
by the flavour of a QCD jet.

They are made of truth that every simulated sample of ours has: the class, the hardest parton inside
the jet, and how many b and c hadrons above 5 GeV are in it. The idea is that of Sophon,
arXiv:2405.12972, with its 188 classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import awkward as ak
import numpy as np

from jetnb.jets.origin import classes as classes_of
from jetnb.names import JETCLASS

NEEDS = ("label", "parton_pdg_id", "n_b_hadrons", "n_c_hadrons")
# The fine classes of each class; one that is not here is fine already.
FINER = {
    "QCD": ("light_quark", "gluon", "QCD_c", "QCD_cc", "QCD_b", "QCD_bb"),
    "HToWW4Q": ("HToWW4Q_0c", "HToWW4Q_1c", "HToWW4Q_2c"),
    "HToWW2Q1L": ("HToWW2Q1L_0c", "HToWW2Q1L_1c"),
    "ZToQQ": ("ZToQQ_light", "ZToCC", "ZToBB"),
    "WToQQ": ("WToQQ_0c", "WToQQ_1c"),
    "TTBar": ("TTBar_0c", "TTBar_1c"),
}
CLASSES = tuple(fine for name in JETCLASS for fine in FINER.get(name, (name,)))
GLUON = 6  # where |PDG id| of quarks are 1 to 5; 0 is anything else, or no parton


def refine(jets: ak.Array, *, names: Sequence[str] = CLASSES) -> ak.Array:
    """The same jets with one field more, `fine_label`: an index into `names`, -1 where unlabelled.

    jets: N simulated jets with the fields `NEEDS`. names: fine classes in the order that is wanted.

    QCD: by b hadrons (two or more, one), else c hadrons, else light quark or gluon by the hardest
    parton; none counts as gluon, since such jets come from radiation. Z: by the hardest parton,
    which is exact. W, H to WW: by c hadrons. Tops: by the hardest parton, or where that is the b, c
    where there are two c hadrons or more; b hadrons decay to c hadrons, a quarter of them to two,
    so this label is right in most jets, not in all. Which lepton it was is not kept. Raises
    `ValueError` naming a field that is missing, and a class that is not in `names`.
    arXiv:2405.12972. Taught in notebook 14.
    """
    if missing := [name for name in NEEDS if name not in jets.fields]:
        raise ValueError(
            f"field {missing[0]!r} is missing, of which fine labels are made: they need the truth of a "
            f"simulation, {', '.join(NEEDS)}"
        )
    lookup = table(classes_of(jets), names)
    found = lookup[index(*(np.asarray(jets[name], np.int64) for name in NEEDS))]
    return ak.with_field(jets, found.astype(np.int16), "fine_label")


def table(classes: Sequence[str], names: Sequence[str] = CLASSES) -> np.ndarray:
    """Fine labels (C + 1, 7, 3, 3) by class (the last is unlabelled), flavour of the hardest
    parton, and b and c hadrons, 2 for more.
    """
    found = np.full((len(classes) + 1, 7, 3, 3), -1, np.int64)
    for at, kind in enumerate(classes):
        for parton, n_b, n_c in np.ndindex(7, 3, 3):
            fine = FINER[kind][_which(kind, parton, n_b, n_c)] if kind in FINER else kind
            if fine not in names:
                raise ValueError(f"class {fine!r} is not among names: {', '.join(names)}")
            found[at, parton, n_b, n_c] = names.index(fine)
    return found


def index(label, parton_pdg_id, n_b_hadrons, n_c_hadrons) -> tuple:
    """Where jets (N,) are in `table`; all NumPy, or all torch. An unlabelled jet has label -1."""
    size = abs(parton_pdg_id)
    flavour = size * (size < GLUON) + GLUON * (size == 21)
    return label, flavour, n_b_hadrons.clip(0, 2), n_c_hadrons.clip(0, 2)


def _which(kind: str, parton: int, n_b: int, n_c: int) -> int:
    """Which of the fine classes of a class, in the order of `FINER`."""
    if kind == "QCD":
        if n_b or n_c:
            return 3 + n_b if n_b else 1 + n_c
        return int(parton in (0, GLUON))
    if kind == "ZToQQ":
        return {4: 1, 5: 2}.get(parton, 0)
    if kind == "TTBar":
        return int(parton in (3, 4)) if 1 <= parton <= 4 else int(n_c == 2)
    return min(n_c, len(FINER[kind]) - 1)
