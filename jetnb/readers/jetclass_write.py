"""Jets -> a Parquet file with the columns of JetClass, for weaver and other programs that read
JetClass.

Columns, as in the ROOT files of JetClass (arXiv:2202.03772): lists part_px, part_py, part_pz,
part_energy, part_deta, part_dphi, part_d0val, part_d0err, part_dzval, part_dzerr, part_charge
(float) and part_isChargedHadron, part_isNeutralHadron, part_isPhoton, part_isElectron, part_isMuon
(int32); label_QCD (float), label_Hbb, label_Hcc, label_Hgg, label_H4q, label_Hqql (bool),
label_Zqq, label_Wqq, label_Tbqq, label_Tbl (int32); jet_pt, jet_eta, jet_phi, jet_energy,
jet_nparticles, jet_sdmass, jet_tau1..4 (float). aux_* are left out: jets here have no such truth.

Conventions of JetClass:

- GeV, mm; part_deta is (eta - jet_eta), times -1 where jet_eta <= 0; part_dphi is wrapped and not
  flipped;
- d0 has the sign of Delphes. That of CMS (Aspen Open Jets, PFNano) is opposite: give flip_d0=True
  for such jets;
- d0, dz and their errors are 0 for neutrals. Where a charged constituent has no track they are NaN,
  which JetClass does not have: jetnb.readers.jetclass reads it as no track, weaver replaces it by 0
  after its transformations;
- forward hadronic and electromagnetic deposits (pdg_id 1 and 2) become neutral hadrons and photons.

The format has no place for event numbers, PUPPI weights and other fields: they are lost. When jets
of one collision can be in the file, split before writing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import atomic, kinematics, packed
from jetnb.readers.jetclass import FLAGS, LABELS, TRACK

PIECE = 10_000  # jets written at a time, in a row group of their own
FLOATS = (
    "part_px",
    "part_py",
    "part_pz",
    "part_energy",
    "part_deta",
    "part_dphi",
    *TRACK.values(),
    "part_charge",
)
JET = (
    "jet_pt",
    "jet_eta",
    "jet_phi",
    "jet_energy",
    "jet_nparticles",
    "jet_sdmass",
    *(f"jet_tau{i}" for i in range(1, 5)),
)
LABEL_TYPES = dict(zip(LABELS, ["float32"] + ["bool"] * 5 + ["int32"] * 4, strict=True))
NEED = ("label", "softdrop_mass", *(f"tau{i}" for i in range(1, 5)))
NEED_INSIDE = ("charge", "pdg_id", "has_track", *jetnb.jets.TRACK_FIELDS)
FORWARD = {1: 130, 2: 22}


def write(
    path,
    jets_or_blocks: ak.Array | Iterable[ak.Array],
    *,
    flip_d0: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write jets, or blocks of jets, as Parquet in the form of JetClass, as a file that appears
    when complete.

    `flip_d0` changes the sign of d0: True for jets with the sign of CMS, as of
    `jetnb.readers.aspen` and `pfnano`. Raises `FileExistsError` unless `overwrite`, and
    `ValueError` for jets that `jets.check` refuses, that lack a field, are unlabelled or of a class
    that JetClass does not have, or have a constituent that it cannot hold.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    blocks = [jets_or_blocks] if isinstance(jets_or_blocks, ak.Array) else jets_or_blocks
    pieces = (block[i : i + PIECE] for block in blocks for i in range(0, len(block), PIECE))
    first = next(pieces, None)
    if first is None:
        raise ValueError(f"cannot write {path}: there were no jets")
    floats, flags = (
        pa.list_(pa.field("item", kind, nullable=False)) for kind in (pa.float32(), pa.int32())
    )
    types = {
        **dict.fromkeys(FLOATS, floats),
        **dict.fromkeys(FLAGS, flags),
        **{name: pa.from_numpy_dtype(kind) for name, kind in LABEL_TYPES.items()},
        **dict.fromkeys(JET, pa.float32()),
    }
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])
    with (
        atomic.new_file(path, replace=overwrite) as hidden,
        pq.ParquetWriter(hidden, schema, compression="zstd") as out,
    ):
        for piece in itertools.chain([first], pieces):
            try:
                columns, inside, counts = _encode(piece, flip_d0)
            except ValueError as error:
                raise ValueError(f"cannot write {path}: {error}") from None
            offsets = pa.array(packed.starts(counts).astype(np.int32))
            arrays = {name: pa.array(values) for name, values in columns.items()}
            arrays |= {
                name: pa.ListArray.from_arrays(offsets, pa.array(values), type=types[name])
                for name, values in inside.items()
            }
            out.write_table(pa.table([arrays[name] for name in types], schema=schema))
    return path


def _encode(jets: ak.Array, flip_d0: bool) -> tuple[dict, dict, np.ndarray]:
    """Columns of JetClass: one number per jet (N,), constituents (T,), counts (N,)."""
    jetnb.jets.check(jets)
    columns, inside, counts = jetnb.jets.to_columns(jets)
    lacking = [name for name in NEED if name not in columns]
    lacking += [f"constituents.{name}" for name in NEED_INSIDE if name not in inside]
    if lacking:
        raise ValueError(f"JetClass needs {', '.join(lacking)}, which these jets lack")
    jet = packed.jet_of(counts)
    charge, code = inside["charge"], inside["pdg_id"]
    for forward, becomes in FORWARD.items():
        code = np.where(code == forward, becomes, code)
    flags = {name: (np.abs(code) == abs(value)).astype(np.int32) for name, value in FLAGS.items()}
    expected = sum(
        flags[name] * value * (charge if value not in (130, 22) else 1)
        for name, value in FLAGS.items()
    )
    _refuse(
        (code != expected) | ((charge != 0) & np.isin(code, (130, 22))),
        jet,
        inside["pdg_id"],
        "a pdg_id that contradicts its charge",
    )
    _refuse(
        inside["has_track"] & (charge == 0),
        jet,
        inside["pdg_id"],
        "a track but no charge, with pdg_id",
    )
    pt, eta, phi, jet_pt, jet_eta, mass = (
        v.astype(float)
        for v in (
            inside["pt"],
            inside["eta"],
            inside["phi"],
            columns["pt"],
            columns["eta"],
            columns["mass"],
        )
    )
    slow = inside["energy"] < 0.99 * kinematics.energy(pt, eta)
    _refuse(slow, jet, inside["energy"], "less energy than |p|:")
    px, py, pz = kinematics.to_cartesian(pt, eta, phi)
    parts = {
        "part_px": px,
        "part_py": py,
        "part_pz": pz,
        "part_energy": inside["energy"],
        "part_charge": charge,
        "part_deta": np.where(jet_eta > 0, 1, -1)[jet] * (eta - jet_eta[jet]),
        "part_dphi": kinematics.wrap(phi - columns["phi"][jet]),
    }
    lost = (charge != 0) & ~inside["has_track"]
    for name, column in TRACK.items():
        sign = -1 if flip_d0 and name == "d0" else 1
        parts[column] = np.where(
            inside["has_track"], sign * inside[name], np.where(lost, np.nan, 0)
        )
    out = {
        "jet_pt": jet_pt,
        "jet_eta": jet_eta,
        "jet_phi": columns["phi"],
        "jet_energy": kinematics.energy(jet_pt, jet_eta, mass),
        "jet_nparticles": counts,
        "jet_sdmass": columns["softdrop_mass"],
        **{f"jet_tau{i}": columns[f"tau{i}"] for i in range(1, 5)},
    }
    name = _class_names(jets, columns["label"])
    return (
        {column: values.astype(np.float32) for column, values in out.items()}
        | {column: (name == LABELS[column]).astype(kind) for column, kind in LABEL_TYPES.items()},
        {column: parts[column].astype(np.float32) for column in FLOATS} | flags,
        counts,
    )


def _class_names(jets: ak.Array, label: np.ndarray) -> np.ndarray:
    names = np.array([*jetnb.jets.classes(jets), "unlabelled"])[label]  # -1 is the last
    wrong = ~np.isin(names, list(LABELS.values()))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"jet {at} is {names[at]}, which is none of the classes of JetClass ({wrong.sum()} of "
            f"{len(wrong)} are like this): choose jets of {', '.join(LABELS.values())}"
        )
    return names


def _refuse(wrong: np.ndarray, jet: np.ndarray, values: np.ndarray, what: str) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"jet {jet[at]} has a constituent with {what} {values[at]} ({wrong.sum()} of {len(wrong)} are "
            "like this): JetClass cannot hold it"
        )
