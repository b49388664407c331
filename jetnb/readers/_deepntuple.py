"""What readers of CMS DeepNTuples share: branches of ROOT, labels, constituents stored relative to
their jet.

Constituents are `pfcand_*`: ptrel = pt / jet pt, erel = E / jet E, phirel = phi - jet phi, and
etarel = eta - jet eta with the sign flipped where jet eta <= 0; dxy and dz in cm; dxysig and dzsig,
their significances, 0 where the division failed and cut to +-2000; charge; five flags isChargedHad,
isNeutralHad, isGamma, isEl, isMu.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics, packed
from jetnb.readers import _padded, _root
from jetnb.readers._common import AGAIN, sort_by_pt, start_of

TREE = "deepntuplizer/tree"
CM = 10.0  # mm
LABELS = {
    "label_QCD_b": "QCD_b",
    "label_QCD_bb": "QCD_bb",
    "label_QCD_c": "QCD_c",
    "label_QCD_cc": "QCD_cc",
    "label_QCD_others": "QCD_others",
    "label_H_bb": "HToBB",
}
# Times the charge, if any.
FLAGS = {"isChargedHad": 211, "isNeutralHad": 130, "isGamma": 22, "isEl": -11, "isMu": -13}
PART = ("ptrel", "erel", "etarel", "phirel", "dxy", "dxysig", "dz", "dzsig", "charge", *FLAGS)
PREFIX = "pfcand_"
AXIS = {"fj_pt": "pt", "fj_eta": "eta", "fj_phi": "phi", "fj_mass": "mass"}
# Taken where there are any.
MORE = {
    "fj_sdmass": "softdrop_mass",
    "fj_tau1": "tau1",
    "fj_tau2": "tau2",
    "fj_tau3": "tau3",
    "fj_doubleb": "double_b",
    "npv": "n_vertices",
    "n_sv": "n_secondary_vertices",
}
NUMBER = r"(bool|u?int\d+|float\d+)"


def is_root(path) -> bool:
    """Whether the file starts as ROOT does; raises `FileNotFoundError`, or `ValueError` for a
    folder.
    """
    return start_of(path)[:4] == b"root"


def depths(path, tree, names: Mapping[str, tuple[int, ...]], what: str) -> dict[str, int]:
    """How deep the branches `names` of `tree` are nested: 0 a number, 1 a list, 2 a list of lists.

    `names`: branch -> the depths that the format `what` allows. Raises `ValueError` for a missing
    branch or another depth or type.
    """
    _root.need(path, tree, names, what)
    types, found = tree.types(names), {}
    for name, allowed in names.items():
        fits = [
            depth
            for depth in allowed
            if re.fullmatch(r"(var \* )" f"{{{depth}}}{NUMBER}", types[name])
        ]
        if not fits:
            wanted = " or ".join(
                ("a number", "a list", "a list of lists")[depth] for depth in allowed
            )
            raise ValueError(
                f"{path}: branch {name} is {types[name]}, but {wanted} for each row in {what}: it is "
                "another format; use its own reader"
            )
        found[name] = fits[0]
    return found


def unpack(block: ak.Array, nested: Mapping[str, int]) -> tuple[dict, dict, np.ndarray, np.ndarray]:
    """The branches of a block of rows as flat columns.

    `nested`: branch -> depth, as from `depths`; a row is a jet, or an event where `fj_pt` is a
    list. Returns columns by branch (N,), `pfcand_*` by name without that prefix (T,), counts (N,)
    and the row of each jet (N,), from 0. Raises `ValueError` where lists differ in length.
    """
    row = np.arange(len(block))
    if nested["fj_pt"]:
        per_row = ak.to_numpy(ak.num(block["fj_pt"]))
        row = packed.jet_of(per_row)
    columns, part, counts = {}, {}, None
    for name, depth in nested.items():
        values = block[name]
        if nested["fj_pt"] and depth:
            _same(ak.to_numpy(ak.num(values)), per_row, name, "fj_pt")
            values = ak.flatten(values)
        if name.startswith(PREFIX):
            number = ak.to_numpy(ak.num(values))
            counts = number if counts is None else counts
            _same(number, counts, name, "other " + PREFIX + "*")
            part[name.removeprefix(PREFIX)] = ak.to_numpy(ak.flatten(values))
        else:
            columns[name] = (
                ak.to_numpy(values) if depth == nested["fj_pt"] else ak.to_numpy(values)[row]
            )
    return columns, part, counts, row


def _same(number: np.ndarray, wanted: np.ndarray, name: str, than: str) -> None:
    if (wrong := number != wanted).any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"{name} has {number[at]} values, but {than} {wanted[at]} in entry {at}: {AGAIN}"
        )


def flags(values, name: str, rows: np.ndarray) -> np.ndarray:
    """`values` (N,) as bool; `ValueError` naming the row (N,) where one is not 0 or 1."""
    values = np.asarray(values)
    refuse((values != 0) & (values != 1), rows, f"{name} is 0 or 1", values)
    return values == 1


def label_of(one_hot: np.ndarray, is_qcd: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Index into the classes of `LABELS` (N,), -1 for a jet with none, or with one that does not
    suit its sample.

    one_hot: (N, 6) bool, in the order of `LABELS`. is_qcd: (N,) bool, the sample is QCD: only there
    are jets of classes QCD_* taken, only elsewhere those of HToBB. rows: (N,), for messages.
    """
    number = one_hot.sum(axis=1)
    refuse(number > 1, rows, "at most one label_* is 1", number)
    label = np.where(number > 0, np.argmax(one_hot, axis=1), -1)
    is_higgs = label == list(LABELS).index("label_H_bb")
    return np.where(is_higgs == is_qcd, -1, label)


def refuse(wrong: np.ndarray, rows: np.ndarray, rule: str, values: np.ndarray) -> None:
    """Raise `ValueError` naming row and value where `wrong`; all (N,)."""
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"{rule}, but row {rows[at]} has {values[at]} ({wrong.sum()} of {len(wrong)} are like this): "
            f"the file is damaged or of another format; {AGAIN}"
        )


def build(
    columns: Mapping,
    part: Mapping,
    counts: np.ndarray,
    rows: np.ndarray,
    *,
    tally: MutableMapping[str, int],
    provenance: Mapping,
) -> ak.Array:
    """Jets of `columns` (N,), by our names, with constituents from `part` (T,): `PART` and perhaps
    puppiw.

    counts: (N,) constituents of each jet. rows: (N,), for messages. What is left out is added to
    `tally`.
    """
    columns, part, counts, lost = _padded.keep_good(
        {**columns, "row": rows}, part, counts, (*columns,)
    )
    tally["jets"] += lost
    rows = columns.pop("row")
    jet = packed.jet_of(counts)
    axis_pt, axis_eta, axis_phi, mass = (columns[name].astype(np.float64) for name in AXIS.values())
    columns["phi"] = _padded.wrap_phi(axis_phi)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite goes below
        axis_energy = kinematics.energy(axis_pt, axis_eta, mass)
        inside = {
            "pt": part["ptrel"] * axis_pt[jet],
            "eta": axis_eta[jet] + np.where(axis_eta > 0, 1, -1)[jet] * part["etarel"],
            "phi": _padded.wrap_phi(axis_phi[jet] + part["phirel"]),
            "energy": part["erel"] * axis_energy[jet],
        }
        inside = {name: values.astype(np.float32) for name, values in inside.items()}
    good = np.logical_and.reduce(
        [np.isfinite(values) for values in inside.values()] + [inside["pt"] > 0]
    )
    kept = np.flatnonzero(good)
    tally["constituents"] += len(good) - len(kept)
    jet, found = jet[kept], {name: values[kept] for name, values in (inside | dict(part)).items()}
    sort_by_pt(found, jet, tally)
    inside = {name: found[name] for name in (*inside, "charge")}
    inside |= {"pdg_id": _pdg_id(found, rows[jet])} | _track(found, tally)
    if "puppiw" in found:
        inside["puppi_weight"] = found["puppiw"]
    return jetnb.jets.build(
        columns, inside, np.bincount(jet, minlength=len(counts)), provenance=provenance
    )


def _pdg_id(part: Mapping, rows: np.ndarray) -> np.ndarray:
    charge = part["charge"]
    refuse(~np.isin(charge, (-1, 0, 1)), rows, "pfcand_charge is -1, 0 or 1", charge)
    set_flags = {name: flags(part[name], PREFIX + name, rows) for name in FLAGS}
    number = np.sum(list(set_flags.values()), axis=0)
    refuse(number > 1, rows, "at most one of pfcand_is* is 1", number)
    charged = set_flags["isChargedHad"] | set_flags["isEl"] | set_flags["isMu"]
    refuse(charged != (charge != 0), rows, "pfcand_charge and pfcand_is* agree", charge)
    code = np.sum([value * set_flags[name] for name, value in FLAGS.items()], axis=0)
    code = np.where(charged, code * charge, code)
    return np.where(number == 0, 1, code)


def _track(part: Mapping, tally: MutableMapping[str, int]) -> dict[str, np.ndarray]:
    charged = part["charge"] != 0
    with np.errstate(all="ignore"):
        track = {
            "d0": part["dxy"] * CM,
            "d0_error": np.abs(CM * part["dxy"] / part["dxysig"]),
            "dz": part["dz"] * CM,
            "dz_error": np.abs(CM * part["dz"] / part["dzsig"]),
        }
        track = {name: values.astype(np.float32) for name, values in track.items()}
    stored = np.logical_and.reduce(
        [np.isfinite(part[name]) for name in ("dxy", "dxysig", "dz", "dzsig")]
    )
    has_track = (
        charged & stored & np.logical_and.reduce([np.isfinite(values) for values in track.values()])
    )
    has_track &= (track["d0_error"] > 0) & (track["dz_error"] > 0)
    tally["tracks"] += int((charged & ~stored).sum())
    return {"has_track": has_track} | {
        name: np.where(has_track, values, 0) for name, values in track.items()
    }
