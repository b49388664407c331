"""JetClass (ROOT) and JetClass-II (Parquet or ROOT): one jet per row of the TTree `tree`, or of the
table.

Read: `part_px py pz energy d0val d0err dzval dzerr charge` and
`part_isChargedHadron isNeutralHadron isPhoton isElectron isMuon`, a list per jet (std::vector, an
array with a counter, or a Parquet list, of any numeric type);
`jet_pt eta phi energy sdmass tau1..tau4`; and the label. Nothing else but `part_deta`, `part_dphi`
of the first block is touched: they must agree with px, py, pz to 1e-3, else columns are mixed up
and the file is refused.

Units are those of the file, GeV and mm, and so is the sign of d0 (that of Delphes, opposite to
CMS). Where a value is not taken as it stands:

- eta and phi of constituents come from px, py, pz: the sign of `part_deta` is flipped where
  `jet_eta` <= 0;
- mass of the jet is that of `jet_energy`, `jet_pt`, `jet_eta` (0 where rounding makes its square
  negative). In 100 real jets of JetClass-II the constituents sum to `jet_pt`, but to `jet_energy`
  only within 4 % and to `jet_eta` only within 0.09, so the mass of their sum is off by more than
  10 % in 18 of the jets;
- energy of a constituent is raised to |p| where it is less by rounding; less by more than 1 % is
  refused;
- pdg_id is 211 times the charge, 130, 22, -11 and -13 times the charge; exactly one flag must be
  set;
- has_track is charge != 0, but False where one of d0, dz and their errors is not finite; all four
  are 0 then;
- constituents with pt <= 0 are left out, the others put in order of pt; so are jets with pt <= 0 or
  with a value that is not finite;
- softdrop_mass and tau1..tau4 are as Delphes computed them.

label: JetClass has ten columns `label_*` of three types, exactly one must be 1. JetClass-II has one
`jet_label` of 188 classes: 161 to 187 are QCD and get label 0, all others get -1, because their
resonances have many masses and are no particle of the standard model. There are no weights.

event: the formats have none, so every jet counts as an event of its own, although two jets of one
collision may be in a file. The number is 31 bits of the sha256 of the file name without its ending,
then 32 bits of the row: it is the same wherever the file lies; two files of the same name are taken
for the same jets.

Source: arXiv:2202.03772, doi:10.5281/zenodo.6619768. JetClass-II: arXiv:2405.12972,
huggingface.co/datasets/ jet-universe/jetclass2; the order of its classes is that of the outputs of
its Sophon model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics, packed
from jetnb.readers import _padded
from jetnb.readers._common import (
    AGAIN,
    accepts,
    ahead,
    counter,
    explaining,
    first_event,
    sort_by_pt,
)
from jetnb.readers._jetclass_columns import (
    AXIS,
    FLAGS,
    JET,
    LABELS,
    PART,
    TRACK,
    check_layout,
    raw_parquet,
    raw_root,
)

N_CLASSES_2, FIRST_QCD_2 = 188, 161
NEEDS = ("pt", "eta", "phi", "mass", "softdrop_mass", "tau1", "tau2", "tau3", "tau4")
AGREE = 1e-3  # constituents must be where deta and dphi say, to this
HINTS = {"ROOT": ("tree/part_*", "tree/jet_*"), "Parquet": ("part_*",)}
SELECTION = {"JetClass": {"pt": (500, 1000), "eta": (-2, 2)}}
PROVENANCE = {
    "sample": "JetClass",
    "source": "simulation",
    "classes": list(LABELS.values()),
    "description": "jets of ten classes, MadGraph, Pythia and Delphes with a CMS-like detector, no pile-up",
    "selection": "anti-kT R=0.8, pt 500 to 1000 GeV, |eta| < 2",
    "units": "GeV, mm, rad, as in the file",
    "licence": "MIT (Hugging Face card); see doi:10.5281/zenodo.6619768",
    "citation": "arXiv:2202.03772, doi:10.5281/zenodo.6619768",
}
PROVENANCE_2 = PROVENANCE | {
    "sample": "JetClass-II",
    "description": "jets of 188 classes, of which only QCD is labelled here; MadGraph, Pythia and Delphes, 50 "
    "pile-up interactions removed with PUPPI",
    "selection": "R=0.8, none beyond that of the file",
    "licence": "MIT",
    "citation": "arXiv:2405.12972",
}


def recognises(path) -> bool:
    """Whether `path` is a JetClass or JetClass-II file, by its columns; never an exception."""
    return accepts(count, path)


@explaining
def read(
    path,
    *,
    block_size: int = 10_000,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """Jets of a JetClass or JetClass-II file, as `jetnb.readers` says."""
    path = Path(path)
    is_root, labels, _ = check_layout(path)
    raw = raw_root if is_root else raw_parquet
    return _blocks(path, raw, labels, int(block_size), max(start, 0), stop, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    return check_layout(Path(path))[2]


def _blocks(
    path: Path,
    raw,
    labels: list[str],
    block_size: int,
    start: int,
    stop: int | None,
    tally: MutableMapping[str, int],
) -> Iterator[ak.Array]:
    provenance = (PROVENANCE_2 if labels == ["jet_label"] else PROVENANCE) | {"file": path.name}
    for row, block in ahead(raw(path, [*PART, *JET, *labels], AXIS, block_size, start, stop)):
        try:
            jets = _jets(block, labels, first_event(path) + row, provenance, tally)
        except ValueError as error:
            raise ValueError(f"{path}, block of jets from row {row}: {error}") from error
        yield jets


def _complete(block: Mapping) -> tuple[dict, np.ndarray]:
    """The values by name, and the number of constituents of each jet, on which all lists must
    agree.
    """
    counts = next(number for name, (_, number) in block.items() if name.startswith("part_"))
    for name, (values, number) in block.items():
        if values is None or (number is None and name.startswith("part_")):
            raise ValueError(f"{name} has missing values: {AGAIN}")
        if number is not None and (wrong := number != counts).any():
            at = int(np.argmax(wrong))
            raise ValueError(f"jet {at} has {counts[at]} part_px but {number[at]} {name}: {AGAIN}")
    return {name: values for name, (values, _) in block.items()}, counts


def _momentum(v: Mapping) -> tuple[np.ndarray, ...]:
    px, py, pz = (v[name].astype(float) for name in PART[:3])
    pt = np.sqrt(px * px + py * py)
    # Constituents with pt = 0 are left out later.
    with np.errstate(divide="ignore", invalid="ignore"):
        return pt, pz, np.arcsinh(pz / pt).astype(np.float32), np.arctan2(py, px).astype(np.float32)


def _jets(
    block: dict, labels: list[str], first_event: int, provenance: Mapping, tally: MutableMapping
) -> ak.Array:
    v, counts = _complete(block)
    jet = packed.jet_of(counts)
    pt, pz, eta, phi = _momentum(v)
    if AXIS[0] in v:
        _check_axis(v, jet, pt, eta, phi)
    n_flags, code = np.zeros(len(jet), np.int8), np.zeros(len(jet), np.int16)
    for name, value in FLAGS.items():
        flag = v[name] != 0
        n_flags += flag
        code += flag * np.int16(value)
    _refuse(n_flags != 1, jet, "constituent with not exactly one of " + ", ".join(FLAGS))
    charge, neutral = v["part_charge"], (code == 130) | (code == 22)
    _refuse(
        (charge == 0) != neutral, jet, "constituent whose part_charge contradicts its part_is..."
    )
    momentum, energy = np.sqrt(pt * pt + pz * pz).astype(np.float32), v["part_energy"]
    _refuse(
        energy < np.float32(0.99) * momentum,
        jet,
        "constituent with part_energy below |p|: wrong column?",
    )
    track = charge != 0
    finite = np.logical_and.reduce([np.isfinite(v[name]) for name in TRACK.values()])
    measured = track & finite
    inside = {
        "pt": pt.astype(np.float32),
        "eta": eta,
        "phi": phi,
        "energy": np.maximum(energy, momentum),
        "charge": np.array(charge),
        "pdg_id": code * (charge.astype(np.int16) + neutral),
        "has_track": measured,
        **{name: _only(measured, v[column], finite) for name, column in TRACK.items()},
    }
    tally["rows"] += len(counts)
    tally["tracks"] += int((track & ~finite).sum())
    if (none := inside["pt"] <= 0).any():  # NaN stays, and is refused
        tally["constituents"] += int(none.sum())
        inside, jet = {name: values[~none] for name, values in inside.items()}, jet[~none]
    sort_by_pt(inside, jet, tally)
    jet_energy, size = (
        v["jet_energy"].astype(float),
        v["jet_pt"].astype(float) * np.cosh(v["jet_eta"].astype(float)),
    )
    columns = {
        "pt": v["jet_pt"],
        "eta": v["jet_eta"],
        "phi": v["jet_phi"],
        "mass": np.sqrt(np.maximum((jet_energy - size) * (jet_energy + size), 0)),
        "softdrop_mass": v["jet_sdmass"],
        **{f"tau{i}": v[f"jet_tau{i}"] for i in range(1, 5)},
        "label": _label(v, labels),
        "event": first_event + np.arange(len(counts)),
    }
    counts = np.bincount(jet, minlength=len(counts))
    columns, inside, counts, lost = _padded.keep_good(columns, inside, counts, NEEDS)
    tally["jets"] += lost
    return jetnb.jets.build(columns, inside, counts, provenance=provenance)


def _only(where: np.ndarray, values: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """`values`, 0 where not; a product is several times as fast as np.where, but keeps what is not
    finite.
    """
    return values * where if finite.all() else np.where(where, values, 0)


def _label(v: Mapping, labels: list[str]) -> np.ndarray:
    if labels == ["jet_label"]:
        wrong = (v["jet_label"] < 0) | (v["jet_label"] >= N_CLASSES_2)
        _refuse(wrong, np.arange(len(wrong)), f"jet_label outside 0 to {N_CLASSES_2 - 1}")
        return np.where(v["jet_label"] >= FIRST_QCD_2, 0, -1)
    table = np.stack([v[name] for name in labels]).astype(float)
    wrong = ((table != 0).sum(axis=0) != 1) | ((table == 1).sum(axis=0) != 1)
    at = int(np.argmax(wrong))
    _refuse(
        wrong,
        np.arange(len(wrong)),
        f"label_* that are {table[:, at].tolist()}, not one 1 and nine 0",
    )
    return np.argmax(table, axis=0)


def _check_axis(
    v: Mapping, jet: np.ndarray, pt: np.ndarray, eta: np.ndarray, phi: np.ndarray
) -> None:
    sign = np.where(v["jet_eta"] > 0, 1, -1)
    deta = sign[jet] * (eta - v["jet_eta"][jet])
    dphi = kinematics.wrap(phi - v["jet_phi"][jet] - v["part_dphi"])
    for name, off in (("part_deta", deta - v["part_deta"]), ("part_dphi", dphi)):
        _refuse(
            (np.abs(off) > AGREE) & (pt > 0),
            jet,
            f"constituent whose px, py, pz contradict {name}: are the "
            "columns swapped, or was the sign of part_deta at negative jet_eta 'corrected'?",
        )


def _refuse(wrong: np.ndarray, jet: np.ndarray, what: str) -> None:
    if wrong.any():
        raise ValueError(
            f"jet {jet[np.argmax(wrong)]} of the block has {what} ({wrong.sum()} of {len(wrong)} are "
            "like this)"
        )
