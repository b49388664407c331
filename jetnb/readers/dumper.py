"""ATLAS JetSet (doi:10.7483/OPENDATA.ATLAS.QG8W.TO8P) and other HDF5 of the
training-dataset-dumper: jets with tracks.

Layout: two structured HDF5 datasets, rows are jets.
    jets    (N,)    pt, eta, phi, mass, eventNumber, isJvtHS, isJvtPU and more
    tracks  (N, P)  valid, pt, theta, qOverP, deta, dphi, d0RelativeToBeamspot, d0, z0RelativeToBeamspot, z0SinTheta,
                    an ...Uncertainty of each of these four, ftagTruthOriginLabel and more; P is 40
`tracks_loose`, a wider selection of other dumps, is taken where there is no `tracks`. eventwise,
truth_hadrons and all other fields are left out, so are the flavour labels
(HadronConeExclTruthLabelID ...) and the scores of taggers.

HOW SURE THIS IS: this was written without a published file at hand. What the fields of jets mean is
from https://training-dataset-dumper.docs.cern.ch/vars_open; mass and the names of the fields of
tracks are from public code that reads JetSet; MeV and mm, and what the tracks mean, from the ATLAS
code that fills such files. So fields are looked up by name, several are accepted where that code
has several, and what is missing is named. Types are not prescribed: any number, 0 and 1 for flags.

What becomes of them (MeV become GeV, lengths are mm):

- pt and eta are calibrated; pt_btagJes and eta_btagJes where those are missing. A mass below 0
  becomes 0.
- label: isJvtHS makes hard_scatter, isJvtPU pile_up, -1 is a jet that is neither, one near a truth
  jet but not at it. BEWARE: truth jets of this kind are without the leptons of W and Z, so an
  electron or a tau that makes a jet may be called pile_up, as it is in PHYSLITE; the format stores
  no electrons to tell.
- n_vertices is nPrimaryVertices where the file has it.
- Constituents are the tracks with `valid`, and nothing neutral: they add up to less than the jet.
  In the file they come by falling significance of d0, so nearly every jet is `unsorted`. A jet can
  have none. Their energy is that of a pion, their charge the sign of qOverP.
- eta is from `eta`, theta, or deta, the first there is; deta is relative to eta_btagJes or, without
  it, eta of the jet. pt is `pt` or sin(theta)/|qOverP|. phi is `phi`, or dphi and that of the jet.
- d0 is to the beam line, with the sign of ATLAS (as CMS, opposite to Delphes); to the primary
  vertex, `d0`, in files without d0RelativeToBeamspot and its uncertainty.
- z0 is relative to the centre of the beam spot, a few mm off the detector frame; absent without
  z0RelativeToBeamspot.
- dz is to the primary vertex, z0SinTheta / sin(theta). dz_error is z0RelativeToBeamspotUncertainty,
  that of the track alone; else z0SinThetaUncertainty / sin(theta).
- has_track is False where one of d0, dz and their errors is not finite, or an error is negative.
- from_hard_scatter: ftagTruthOriginLabel (older: truthOriginLabel) is 2 or more. 0 is pile-up, 1 a
  fake track.
- event: eventNumber hashed by `jetnb.readers.aspen.event_number`. The published files share no
  event. Do not mix files of different processes, whose event numbers say nothing about each other:
  they would only share parts of a split.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import h5py
import numpy as np

import jetnb.jets
from jetnb import kinematics
from jetnb.names import PARTICLES
from jetnb.readers import _chunks, _padded
from jetnb.readers._common import accepts, ahead, counter, explaining, open_hdf5, shown, sort_by_pt
from jetnb.readers.aspen import event_number

WHAT = "the training-dataset-dumper of ATLAS"
TRACKS = ("tracks", "tracks_loose")
# what is taken -> alternatives, each a set of fields that are needed together; the first that is
# complete counts
JET_FIELDS = {
    "pt": (("pt",), ("pt_btagJes",)),
    "eta": (("eta",), ("eta_btagJes",)),
    "phi": (("phi",),),
    "mass": (("mass",),),
    "event": (("eventNumber",),),
    "hs": (("isJvtHS",),),
    "pu": (("isJvtPU",),),
}
TRACK_FIELDS = {
    "valid": (("valid",),),
    "charge": (("qOverP",),),
    "pt": (("pt",), ("theta", "qOverP")),
    "eta": (("eta",), ("theta",), ("deta",)),
    "phi": (("phi",), ("dphi",)),
    "d0": (("d0RelativeToBeamspot", "d0RelativeToBeamspotUncertainty"), ("d0", "d0Uncertainty")),
    "dz": (("z0SinTheta",),),
    "dz_error": (("z0RelativeToBeamspotUncertainty",), ("z0SinThetaUncertainty",)),
}
ORIGIN = ("ftagTruthOriginLabel", "truthOriginLabel")
GEV = 1e-3
PION = PARTICLES["charged_hadron"].mass
HINTS = {"HDF5": ("jets", "tracks", "tracks_loose", "eventwise")}
INCOMPLETE = ("ATLAS JetSet",)
PROVENANCE = {
    "sample": "ATLAS JetSet",
    "source": "simulation",
    "classes": ["pile_up", "hard_scatter"],
    "description": "ATLAS full simulation of top quark pairs at 13.6 TeV with pile-up: tracks of jets, hard-scatter "
    "and pile-up labels; or another file in the layout of the training-dataset-dumper",
    "selection": "anti-kT R=0.4, particle flow; at most 40 tracks, those of smallest significance of d0 dropped",
    "units": "MeV -> GeV; mm as in the file, sign of d0 as CMS (opposite to Delphes)",
    "licence": "CC0-1.0",
    "citation": "arXiv:2505.19689, doi:10.7483/OPENDATA.ATLAS.QG8W.TO8P",
}


@explaining
def read(
    path,
    *,
    block_size: int = 10_000,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """Jets of a file in the layout of the training-dataset-dumper, as `jetnb.readers` says.

    Fields: pt, eta, phi, mass, n_vertices (if stored), n_constituents, label (0 pile_up, 1
    hard_scatter, -1 neither), event; constituents pt, eta, phi, energy, charge, has_track, d0,
    d0_error, z0 (if stored), dz, dz_error, from_hard_scatter (if stored).
    """
    with open_hdf5(path) as file:
        rows = _padded.blocks(_datasets(path, file)[1], block_size, start, stop)
    return _blocks(Path(path), rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    with open_hdf5(path) as file:
        return len(_datasets(path, file)[0])


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys, fields and shapes alone; never an
    exception.
    """
    return accepts(count, path)


def _datasets(path, file: h5py.File) -> tuple[h5py.Dataset, h5py.Dataset]:
    """jets and tracks, with all fields that are needed."""
    jets = _padded.need(path, file, "jets", (), "V", WHAT)
    name = next((name for name in TRACKS if name in _padded.keys(path, file)), TRACKS[0])
    tracks = _padded.need(path, file, name, (None,), "V", WHAT)
    for data, wanted in ((jets, JET_FIELDS), (tracks, TRACK_FIELDS)):
        for what in wanted:
            _fields(path, data, wanted[what])
    for field, data in (
        ("nPrimaryVertices", jets),
        *((field, tracks) for field in ("z0RelativeToBeamspot", *ORIGIN)),
    ):
        if field in data.dtype.names:
            _number(path, data, field)
    if jets.dtype["eventNumber"].kind not in "iu":
        raise ValueError(
            f"{path}: field 'eventNumber' of 'jets' is {jets.dtype['eventNumber']}, but an integer in "
            f"{WHAT}: a number that was rounded mixes up events, make the file again"
        )
    if len(jets) != len(tracks):
        raise ValueError(
            f"{path}: 'jets' has {len(jets)} rows, but {name!r} {len(tracks)}: the file was cut while it "
            "was written, make or download it again"
        )
    return jets, tracks


def _fields(path, data: h5py.Dataset, alternatives: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """The first of the alternatives of which all fields are there, plain numbers each; else
    `ValueError`.
    """
    found, name = data.dtype.names, data.name.lstrip("/")
    chosen = next((fields for fields in alternatives if set(fields) <= set(found)), None)
    if chosen is None:
        wanted = " or ".join(" with ".join(map(repr, fields)) for fields in alternatives)
        raise ValueError(
            f"{path}: dataset {name!r} has no field {wanted}, as {WHAT} has, but "
            f"{shown(', '.join(found))}: choose the reader of its format, or dump the file again with it"
        )
    for field in chosen:
        _number(path, data, field)
    return chosen


def _number(path, data: h5py.Dataset, field: str) -> None:
    if data.dtype[field].kind not in "fiub" or data.dtype[field].shape:
        raise ValueError(
            f"{path}: field {field!r} of {data.name.lstrip('/')!r} is {data.dtype[field]}, but a number "
            f"in {WHAT}: download the published file"
        )


def _blocks(path: Path, rows: list[slice], tally: MutableMapping[str, int]) -> Iterator[ak.Array]:
    with open_hdf5(path) as file:
        data = [_chunks.Rows(path, one) for one in _datasets(path, file)]
        for here, (jets, tracks) in ahead((here, [one(here) for one in data]) for here in rows):
            try:
                columns = _jets(jets, here.start)
                inside, counts = _tracks(tracks, jets, tally)
                needs = tuple(name for name in columns if name != "event")
                columns, inside, counts, lost = _padded.keep_good(columns, inside, counts, needs)
                block = jetnb.jets.build(columns, inside, counts, provenance=PROVENANCE)
            except ValueError as error:
                raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
            tally.update(rows=tally["rows"] + len(jets), jets=tally["jets"] + lost)
            yield block


def _take(raw: np.ndarray, alternatives: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    return next(fields for fields in alternatives if set(fields) <= set(raw.dtype.names))


def _jets(raw: np.ndarray, first: int) -> dict[str, np.ndarray]:
    """Columns (N,) of the rows from `first` on."""
    pt, eta, phi, mass, event, hs, pu = (
        raw[_take(raw, fields)[0]] for fields in JET_FIELDS.values()
    )
    _refuse(~np.isin(hs, (0, 1)), first, "isJvtHS", hs, "neither 0 nor 1")
    _refuse(~np.isin(pu, (0, 1)), first, "isJvtPU", pu, "neither 0 nor 1")
    is_hs, is_pu = hs == 1, pu == 1
    _refuse(is_hs & is_pu, first, "isJvtPU", pu, "and isJvtHS as well, but no jet is both")
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is left out
        columns = {
            "pt": (pt.astype(float) * GEV).astype(np.float32),
            "eta": eta.astype(np.float32),
            "phi": _padded.wrap_phi(phi),
            "mass": np.maximum(mass.astype(float) * GEV, 0).astype(np.float32),
        }
    nothing = np.zeros(len(raw), int)
    columns |= {
        "label": np.where(is_hs, 1, np.where(is_pu, 0, -1)),
        "event": event_number(nothing, nothing, event),
    }
    if "nPrimaryVertices" in raw.dtype.names:
        columns["n_vertices"] = raw["nPrimaryVertices"]
    return columns


def _tracks(
    raw: np.ndarray, jets: np.ndarray, tally: MutableMapping[str, int]
) -> tuple[dict, np.ndarray]:
    """Fields (T,) and numbers (N,) of the tracks (N, P) that are valid, by falling pt."""
    jet, slot = np.nonzero(raw["valid"] == 1)

    def of(name):
        return raw[name][jet, slot].astype(float)

    names = {what: _take(raw, fields) for what, fields in TRACK_FIELDS.items()}
    q_over_p = of("qOverP")
    with np.errstate(all="ignore"):  # what is not finite is left out
        if names["eta"] == ("deta",):
            eta = jets[_take(jets, (("eta_btagJes",), ("eta",)))[0]][jet].astype(float) + of("deta")
        else:
            eta = of("eta") if names["eta"] == ("eta",) else -np.log(np.tan(of("theta") / 2))
        sin_theta = np.sin(of("theta")) if "theta" in raw.dtype.names else 1 / np.cosh(eta)
        pt = GEV * (of("pt") if names["pt"] == ("pt",) else sin_theta / np.abs(q_over_p))
        phi = of("phi") if names["phi"] == ("phi",) else jets["phi"][jet].astype(float) + of("dphi")
        d0, d0_error = (of(name) for name in names["d0"])
        (error,) = names["dz_error"]
        dz_error = of(error) if error.startswith("z0Rel") else of(error) / sin_theta
        measured = {
            "d0": d0,
            "d0_error": d0_error,
            "dz": of("z0SinTheta") / sin_theta,
            "dz_error": dz_error,
        }
        if "z0RelativeToBeamspot" in raw.dtype.names:
            measured["z0"] = of("z0RelativeToBeamspot")
        measured = {name: values.astype(np.float32) for name, values in measured.items()}
        inside = {
            "pt": pt.astype(np.float32),
            "eta": eta.astype(np.float32),
            "phi": _padded.wrap_phi(phi),
            "energy": kinematics.energy(pt, eta, PION).astype(np.float32),
        }
    good = np.isfinite([*inside.values(), q_over_p]).all(axis=0) & (inside["pt"] > 0)
    tally["constituents"] += int((~good).sum())
    has_track = np.isfinite(list(measured.values())).all(axis=0)
    has_track &= (measured["d0_error"] >= 0) & (measured["dz_error"] >= 0)
    tally["tracks"] += int((good & ~has_track).sum())
    inside |= {"charge": np.where(q_over_p < 0, -1, 1), "has_track": has_track}
    inside |= {name: np.where(has_track, values, 0) for name, values in measured.items()}
    if origin := [name for name in ORIGIN if name in raw.dtype.names]:
        inside["from_hard_scatter"] = of(origin[0]) >= 2
    inside, jet = {name: values[good] for name, values in inside.items()}, jet[good]
    sort_by_pt(inside, jet, tally)
    return inside, np.bincount(jet, minlength=len(raw))


def _refuse(wrong: np.ndarray, first: int, field: str, values: np.ndarray, what: str) -> None:
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"row {first + at} of 'jets' has {field} = {values[at]}, {what} ({wrong.sum()} of "
            f"{len(wrong)} rows are like this): download the published file"
        )
