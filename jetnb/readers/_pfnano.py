"""What reading CMS NanoAOD with candidates and writing it as Aspen Open Jets share: its layouts,
candidates of jets.

Three layouts are known. Whatever a file has, its columns go by the names of the first from here on:
    PFNano      PFCands_*, and FatJetPFCands_{jetIdx,pFCandsIdx} or nothing that says which candidate is in which jet
    of a jet    FatJetPFCands_{jetIdx,pt,eta,...}: a row for each candidate of each jet, as PFNano of 2017 has it
    NanoAOD     PFCand_{pt,eta,phi,mass,pdgId} and FatJetPFCand_{jetIdx,pfCandIdx}, as NanoAOD itself has from v15 on:
                pt and mass are multiplied by the PUPPI weight, which is not stored, and there are no tracks
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import awkward as ak
import numpy as np

from jetnb import packed
from jetnb.readers import _root

WHAT, TREE = "CMS PFNano", "Events"
JETS, CANDS, LINKS = "FatJet", "PFCands", "FatJetPFCands"
EVENT = ("run", "luminosityBlock", "event")
INDICES = ("FatJetPFCands_jetIdx", "FatJetPFCands_pFCandsIdx")
TRACK = {"d0": "d0", "d0_error": "d0Err", "dz": "dz", "dz_error": "dzErr"}
CAND = tuple(
    f"PFCands_{name}"
    for name in ("pt", "eta", "phi", "mass", *TRACK.values(), "charge", "pdgId", "puppiWeight")
)
EVENTS = 1_000  # read at a time: each can have 2000 candidates
NUMBER, INTEGER = r"(bool|u?int\d+|float\d+)", r"u?int\d+"
OF_JET = {name: name.replace(CANDS, LINKS) for name in CAND} | {INDICES[0]: INDICES[0]}
WEIGHTED = {
    name: name.replace(CANDS, "PFCand")
    for name in CAND
    if name.endswith(("pt", "eta", "phi", "mass", "pdgId"))
} | dict(zip(INDICES, ("FatJetPFCand_jetIdx", "FatJetPFCand_pfCandIdx"), strict=True))
LISTS = {JETS, CANDS, LINKS, "PFCand", "FatJetPFCand"}
# Charge of a particle with this PDG id, to be multiplied with the sign of the id.
CHARGE = {211: 1, 11: -1, 13: -1}


def layout(path, tree) -> dict[str, str]:
    """Name in PFNano -> name in this file, for candidates and the table of which is in which jet.

    Raises `ValueError` that says what was looked for, and what there is, where there are no
    candidates.
    """
    found = set(tree.names)
    plain = {name: name for name in CAND} | (
        {name: name for name in INDICES} if found & set(INDICES) else {}
    )
    fits = [
        len(found & {one[name] for name in CAND if name in one})
        for one in (plain, OF_JET, WEIGHTED)
    ]
    chosen = (plain, OF_JET, WEIGHTED)[int(np.argmax(fits))]  # of equal ones the first
    if max(fits) == 0 and found >= set(EVENT):
        near = [name for name in tree.names if re.search("cand", name, re.IGNORECASE)]
        raise ValueError(
            f"{path} has events of CMS, but no candidates of jets were found: PFCands_*, FatJetPFCands_* "
            "and PFCand_* with pt, eta, phi, mass and pdgId were looked for; of columns that speak of "
            f"candidates it has {', '.join(near[:8]) or 'none'}. Files that have them are NanoAOD from "
            "v15 on, and PFNano, records 31300 to 31316 of opendata.cern.ch (31308 is JetHT)"
        )
    if chosen is WEIGHTED and "PFCand_puppiWeight" in found:
        raise ValueError(
            f"{path} has PFCand_puppiWeight, which NanoAOD of CMS does not have, so it is not known "
            "whether PFCand_pt is multiplied by it: rename PFCand_* to PFCands_* if it is not"
        )
    return dict(chosen)


def columns(path, tree, needed: Iterable[str], optional: Iterable[str] = ()) -> dict[str, str]:
    """Name in PFNano -> name in this file, of the columns `needed`, candidates, their table if
    there is one, and those of `optional` that are there; types are checked."""
    names = layout(path, tree)
    names |= {name: name for name in needed}
    _root.need(path, tree, names.values(), WHAT)
    names |= {name: name for name in optional if name in tree.names}
    types = tree.types(names.values())
    for name, column in names.items():
        lists, kind = (
            r"var \* " * _jagged(column),
            INTEGER if name in (*EVENT, *INDICES) else NUMBER,
        )
        if not re.fullmatch(lists + kind, types[column]):
            what = ("lists of " if lists else "") + ("integers" if kind == INTEGER else "numbers")
            raise ValueError(
                f"{path}: branch {column} is {types[column]}, but {what} in {WHAT}: was the file "
                "converted? Use the published one"
            )
    return names


def flat(block: ak.Array, names: Mapping[str, str], first: int) -> tuple[dict, dict]:
    """Name in PFNano -> values, of all events one after the other; collection -> number in each
    event (E,).

    names: as from `columns`.
    """
    values, numbers = {}, {}
    for name, column in names.items():
        array = block[column]
        if _jagged(column):
            collection, n = column.partition("_")[0], ak.to_numpy(ak.num(array))
            _root.refuse(
                n != numbers.setdefault(collection, n),
                first,
                f"a length of {column} that is not that of the other branches of {collection}",
            )
            array = ak.flatten(array)
        values[name] = ak.to_numpy(array)
    if names.get("PFCands_pt") == OF_JET["PFCands_pt"]:
        numbers[CANDS] = n = numbers[LINKS]
        values[INDICES[1]] = packed.ranks(n)
    elif names.get("PFCands_pt") == WEIGHTED["PFCands_pt"]:
        numbers |= {CANDS: numbers["PFCand"], LINKS: numbers["FatJetPFCand"]}
        code = values["PFCands_pdgId"].astype(np.int64)
        charge = np.sum([value * (np.abs(code) == name) for name, value in CHARGE.items()], axis=0)
        values["PFCands_charge"] = charge * np.sign(code)
    return values, numbers


def linked(values: Mapping, numbers: Mapping, first: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates of each jet by the table of the file: rows of PFCands (T,), jet after jet; how
    many per jet (N,).
    """
    event, rows = packed.jet_of(numbers[LINKS]), []
    for name, collection in zip(INDICES, (JETS, CANDS), strict=True):
        index, n = values[name].astype(np.int64), numbers[collection]
        _root.refuse(
            (index < 0) | (index >= n[event]),
            first,
            f"a {name} that points to no {collection}",
            event,
        )
        rows.append(index + packed.starts(n)[event])
    jet, candidate = rows
    return candidate[np.argsort(jet, kind="stable")], np.bincount(
        jet, minlength=numbers[JETS].sum()
    )


def _jagged(name: str) -> bool:
    return name.partition("_")[0] in LISTS
