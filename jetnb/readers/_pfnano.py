"""What reading CMS PFNano and writing it as Aspen Open Jets share: columns of `Events`, candidates of each jet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import awkward as ak
import numpy as np

from jetnb.readers import _root

WHAT, TREE = "CMS PFNano", "Events"
JETS, CANDS, LINKS = "FatJet", "PFCands", "FatJetPFCands"
EVENT = ("run", "luminosityBlock", "event")
INDICES = ("FatJetPFCands_jetIdx", "FatJetPFCands_pFCandsIdx")
TRACK = {"d0": "d0", "d0_error": "d0Err", "dz": "dz", "dz_error": "dzErr"}
CAND = tuple(f"PFCands_{name}" for name in ("pt", "eta", "phi", "mass", *TRACK.values(), "charge", "pdgId",
                                            "puppiWeight"))
EVENTS = 1_000  # read at a time: each can have 2000 candidates
NUMBER, INTEGER = r"(bool|u?int\d+|float\d+)", r"u?int\d+"


def columns(path, tree, needed: Iterable[str], optional: Iterable[str] = ()) -> list[str]:
    """The branches `needed`, those of `optional` that are there, and both or none of `INDICES`; types are checked."""
    found = set(tree.names)
    if found.issuperset(EVENT) and "PFCands_pt" not in found:
        raise ValueError(f"{path} is NanoAOD without particle-flow candidates (no PFCands_*), so its jets have no "
                         "constituents: use PFNano, records 31300 to 31316 of opendata.cern.ch (31308 is JetHT), or "
                         "make it from MiniAOD with the PFNanoProducerTool of record 12504")
    links = INDICES if found.intersection(INDICES) else ()
    _root.need(path, tree, [*needed, *links], WHAT)
    names = [*needed, *links, *(name for name in optional if name in found)]
    for name, found in tree.types(names).items():
        lists, kind = r"var \* " * _jagged(name), INTEGER if name in (*EVENT, *INDICES) else NUMBER
        if not re.fullmatch(lists + kind, found):
            what = ("lists of " if lists else "") + ("integers" if kind == INTEGER else "numbers")
            raise ValueError(f"{path}: branch {name} is {found}, but {what} in {WHAT}: was the file "
                             "converted? Use the published one")
    return names


def flat(block: ak.Array, names: Iterable[str], first: int) -> tuple[dict, dict]:
    """Name -> values, of all events one after the other; collection -> number in each event (E,)."""
    values, numbers = {}, {}
    for name in names:
        column = block[name]
        if _jagged(name):
            collection, n = name.partition("_")[0], ak.to_numpy(ak.num(column))
            refuse(n != numbers.setdefault(collection, n), first,
                   f"a length of {name} that is not that of the other branches of {collection}")
            column = ak.flatten(column)
        values[name] = ak.to_numpy(column)
    return values, numbers


def linked(values: Mapping, numbers: Mapping, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of each jet by the table of the file: rows of PFCands (T,), jet after jet; how many per jet (N,)."""
    event, rows = np.repeat(np.arange(len(numbers[LINKS])), numbers[LINKS]), []
    for name, collection in zip(INDICES, (JETS, CANDS), strict=True):
        index, n = values[name].astype(np.int64), numbers[collection]
        refuse((index < 0) | (index >= n[event]), first, f"a {name} that points to no {collection}", event)
        rows.append(index + (np.cumsum(n) - n)[event])
    jet, candidate = rows
    return candidate[np.argsort(jet, kind="stable")], np.bincount(jet, minlength=numbers[JETS].sum())


def refuse(wrong: np.ndarray, first: int, what: str, event: np.ndarray | None = None) -> None:
    """Raise `ValueError` for the first row that is `wrong`; `event` (T,) says in which event of the block it is."""
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(f"event {first + (at if event is None else int(event[at]))} has {what} ({wrong.sum()} of "
                         f"{len(wrong)} are like this): {_root.AGAIN}")


def _jagged(name: str) -> bool:
    return name.partition("_")[0] in (JETS, CANDS, LINKS)
