"""The table of names is complete and consistent, and `import jetnb` stays cheap."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

import jetnb
from jetnb import names

FIELDS = [*names.JET_FIELDS.values(), *names.CONSTITUENT_FIELDS.values()]


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_field_is_complete(field):
    n, low, high = field.bins
    assert n > 1 and low < high and (low > 0 or not field.log)
    assert np.dtype(field.dtype).kind in "bif" and field.meaning and field.tex
    assert field.tex.count("$") % 2 == 0
    assert field.label.endswith(f"[{field.unit}]") or not field.unit


def test_names_of_a_quantity_mean_the_same_for_jets_and_constituents():
    for name in names.JET_FIELDS.keys() & names.CONSTITUENT_FIELDS.keys():
        assert names.JET_FIELDS[name].unit == names.CONSTITUENT_FIELDS[name].unit


def test_classes_and_particles():
    for one in (*names.CLASSES.values(), *names.PARTICLES.values()):
        assert re.fullmatch("#[0-9a-f]{6}", one.colour)
    codes = [code for particle in names.PARTICLES.values() for code in particle.pdg_ids]
    assert len(codes) == len(set(codes))


def test_import_is_cheap():
    code = (
        "import sys, jetnb; heavy = {'torch', 'matplotlib', 'pythia8mc', 'fastjet', 'awkward', 'numba', "
        "'pyarrow', 'numpy'}; print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


def test_lazy_attributes():
    assert callable(jetnb.load) and callable(jetnb.describe) and callable(jetnb.open_store)
    assert {"load", "describe", "open_store"} <= set(dir(jetnb)) and jetnb.__version__
    with pytest.raises(AttributeError, match="offers"):
        jetnb.lod  # noqa: B018
