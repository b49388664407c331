"""Where jets come from: their provenance, their classes, and both as text."""

from __future__ import annotations

import json
from collections.abc import Mapping

import awkward as ak
import numpy as np

from jetnb.jets.fields import closest
from jetnb.names import CLASSES

PROVENANCE_NEEDS = ("sample", "source", "classes")


def provenance(jets: ak.Array) -> dict:
    """Where `jets` come from: the dict in `jets.attrs["jetnb"]`. Raises `ValueError` when it is
    missing.
    """
    found = jets.attrs.get("jetnb")
    if not isinstance(found, Mapping) or any(key not in found for key in PROVENANCE_NEEDS):
        raise ValueError(
            f"these jets do not say where they come from: attrs['jetnb'] is {found} and "
            f"needs {', '.join(PROVENANCE_NEEDS)}; use jetnb.jets.build(..., provenance=...)"
        )
    try:
        json.dumps(found)
    except TypeError as error:
        raise ValueError(
            f"the provenance must be plain text, numbers, lists and dicts: {error}"
        ) from None
    if unknown := [name for name in found["classes"] if name not in CLASSES]:
        raise ValueError(
            f"class {unknown[0]!r} is not in names.CLASSES{closest(unknown[0], CLASSES)}"
        )
    return dict(found)


def classes(jets: ak.Array) -> list[str]:
    """Class names in label order: `classes(jets)[jets.label[0]]` is the class of the first jet."""
    return list(provenance(jets)["classes"])


def describe(jets: ak.Array) -> str:
    """Provenance, counts per class and fields of `jets` as text: `print(jetnb.describe(jets))`.

    Taught in notebook 00.
    """
    about = provenance(jets)
    number = ak.to_numpy(ak.num(jets.constituents))
    lines = [
        f"{about['sample']} ({about['source']}): {len(jets):,} jets with {number.sum():,} constituents"
        + (f", {number.mean():.1f} per jet" if len(jets) else "")
    ]
    if "event" in jets.fields:
        lines[0] += f", from {len(np.unique(jets.event)):,} events"
    if about.get("description"):
        lines.append(about["description"])
    if "label" in jets.fields:
        label = ak.to_numpy(jets.label)
        number = [*(np.sum(label == i) for i in range(len(about["classes"]))), np.sum(label < 0)]
        lines.append(
            "classes: "
            + ", ".join(
                f"{name} {n:,} ({n / max(len(label), 1):.1%})"
                for name, n in zip((*about["classes"], "unlabelled"), number, strict=True)
            )
        )
    lines += [
        f"jet fields: {', '.join(f for f in jets.fields if f != 'constituents')}",
        f"constituent fields: {', '.join(jets.constituents.fields)}",
    ]
    for key, value in about.items():
        # What is nested further, or said above, is left to jets.attrs.
        if isinstance(value, Mapping):
            value = ", ".join(
                f"{k} {v}" for k, v in value.items() if "{" not in str(v) and v != about.get(k)
            )
        if key not in ("sample", "source", "classes", "description") and value not in (None, ""):
            lines.append(f"{key}: {value}")
    return "\n".join(lines)
