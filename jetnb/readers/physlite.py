"""ATLAS open data, DAOD_PHYSLITE (doi:10.7483/OPENDATA.ATLAS.9HK7.P5SI): jets with what tells them
from pile-up.

CONSTITUENTS ARE FAR FROM COMPLETE. The format stores tracks and no other particles, and of the
tracks mainly those of muons and tau candidates and those of high pt from the hard-scatter vertex: 1
in 7 of the tracks in jets, 1 in 28 in older files. Most jets have no constituent at all. pt, mass
and the sums of tracks of the jet are complete; what the constituents add up to means nothing. A
study of tracks in pile-up jets cannot be made with these files.

Layout: a TTree `CollectionTree` or an RNTuple `EventData`; rows are events. Columns are
`AnalysisJetsAuxDyn.pt` in a TTree, or `EventInfoAux./EventInfoAux.runNumber` in the older (release
21) ones, `AnalysisJetsAuxDyn:pt` in an RNTuple.
    AnalysisJets         per jet: pt, eta, phi, m, JVFCorr, DFCommonJets_fJvt; Jvt, JvtRpt in older files, NNJvtPass in
                         newer ones, isJvtHS in newer simulation; per jet and vertex: NumTrkPt500, SumPtTrkPt500,
                         TrackWidthPt1000; GhostTrack, per jet and track: m_persKey, m_persIndex
    InDetTrackParticles  per track: d0, z0, vz, phi, theta, qOverP, definingParametersCovMatrixDiag (5 each)
    PrimaryVertices      per vertex: z, vertexType (1 hard scatter, 3 pile-up, 0 a dummy that is always there)
    AnalysisElectrons    pt, eta, phi;  TruthElectrons, in simulation: px, py, pz
    EventInfo            runNumber, eventNumber, eventTypeBitmask (bit 0: simulation)
What becomes of them (MeV become GeV, lengths are mm):

- Jets are anti-kT R=0.4 of particle flow, calibrated, without a cut on JVT. A mass below 0, from
  rounding, becomes 0.
- corr_jvf is stored, S / (S + P / 0.01 n), S being sum_track_pt, P sum_track_pt_pileup and n the
  pile-up tracks of the event, which are not. It is -1 and jvt -0.1 for a jet without tracks. Where
  there is no Jvt there is no jvt, only corr_jvf and rpt, of which it is made. rpt is JvtRpt if there
  is one, taken at the pt before the final calibration; else sum_track_pt / pt (their correlation is
  0.99). ATLAS applies JVT at pt < 60 GeV and detector |eta| < 2.4 only, and NNJvtPass is true
  outside. fjvt is 0 inside.
- n_tracks, sum_track_pt, track_width (-1 without tracks) are those of the hard-scatter vertex: the
  first of type 1, or the first of all if none is, as ATLAS takes it. sum_track_pt_pileup is that of
  all other vertices.
- n_vertices leaves out the dummy. Older files keep one vertex, then it is the length of NumTrkPt500
  less one.
- label: isJvtHS makes hard_scatter, that is (880 of 881 real jets) a truth jet above 5 GeV within
  0.3; every other jet is pile_up, -1 if there is no isJvtHS, as in data. These truth jets are
  without the leptons of W and Z, so ATLAS calls an electron that makes a jet pile_up. Jets within
  0.4 of an electron above 5 GeV, of AnalysisElectrons or (beyond |eta| = 2.47, where none are
  reconstructed, and for lost ones) of TruthElectrons, are therefore -1, hard scatter or not: in a
  sample of Z to electrons 187 of 511 pile_up jets, and 16 of 370 of hard_scatter. No veto is made
  where the file has neither. BEWARE: taus that decay to hadrons are not vetoed, and jets with a
  truth jet within 0.3 to 0.6 stay pile_up, 1 in 10, which ATLAS calls neither.
- Constituents are the tracks that GhostTrack points to with the key of InDetTrackParticles: links
  to tracks that are not stored have key 0, or index 2**32 - 1. pt is sin(theta)/|qOverP|, the
  energy that of a pion, the charge the sign of qOverP, pdg_id 211 times it: electrons and muons are
  not told apart.
- z0 is z0 + vz, in the detector frame; dz is that less the z of the hard-scatter vertex, dz_error
  that of z0 alone. d0 is to the beam line, with the sign of CMS (opposite to Delphes). Where one of
  them is not finite, or there is no vertex of type 1, has_track is False. In a file without vz
  there are no z0, dz and dz_error, without the covariance no errors.
- event: run and event number hashed by `jetnb.readers.aspen.event_number`.

Calibrations, cleaning and triggers are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import packed
from jetnb.names import PARTICLES
from jetnb.readers import _padded, _root
from jetnb.readers._common import accepts, ahead, counter, explaining, sort_by_pt
from jetnb.readers._electrons import near_electron
from jetnb.readers.aspen import event_number

WHAT = "ATLAS PHYSLITE"
TREES = ("CollectionTree", "EventData")
SPELLINGS = ("{0}AuxDyn.{1}", "{0}Aux./{0}Aux.{1}", "{0}AuxDyn:{1}")
JETS, TRACKS, VERTICES, EVENT = (
    "AnalysisJets",
    "InDetTrackParticles",
    "PrimaryVertices",
    "EventInfo",
)
ELECTRONS, TRUTH = "AnalysisElectrons", "TruthElectrons"
# column -> (container, number of nested lists, whether every file has it)
COLUMNS = {
    **dict.fromkeys(("pt", "eta", "phi", "m", "JVFCorr", "DFCommonJets_fJvt"), (JETS, 1, True)),
    **dict.fromkeys(("NNJvtPass", "isJvtHS", "Jvt", "JvtRpt"), (JETS, 1, False)),
    **dict.fromkeys(
        ("NumTrkPt500", "SumPtTrkPt500", "TrackWidthPt1000", "GhostTrack"), (JETS, 2, True)
    ),
    **dict.fromkeys(("d0", "track_phi", "theta", "qOverP", "z0"), (TRACKS, 1, True)),
    "vz": (TRACKS, 1, False),
    "definingParametersCovMatrixDiag": (TRACKS, 2, False),
    **dict.fromkeys(("z", "vertexType"), (VERTICES, 1, True)),
    **dict.fromkeys(("electron_pt", "electron_eta", "electron_phi"), (ELECTRONS, 1, False)),
    **dict.fromkeys(("truth_px", "truth_py", "truth_pz"), (TRUTH, 1, False)),
    **dict.fromkeys(("runNumber", "eventNumber"), (EVENT, 0, True)),
    "eventTypeBitmask": (EVENT, 0, False),
}
# Of columns whose name in the file is that of another container, too.
PREFIX = re.compile("^(track|electron|truth)_")
# The column of each container that gives its length.
FIRST = {JETS: "pt", TRACKS: "d0", VERTICES: "z", ELECTRONS: "electron_pt", TRUTH: "truth_px"}
NUMBER, INTEGER = r"(bool|u?int\d+|float\d+)", r"u?int\d+"
LINK = rf"(struct\[)?\{{m_persKey: {INTEGER}, m_persIndex: {INTEGER}\}}.*"
# Of InDetTrackParticles, the same in all files; of a link to nothing.
KEY, NULL = (490_246_363, 2**32 - 1)
# The column with a number per vertex, and the value for a jet without any.
PER_VERTEX = {
    "n_tracks": ("NumTrkPt500", 0),
    "sum_track_pt": ("SumPtTrkPt500", 0),
    "track_width": ("TrackWidthPt1000", -1),
}
PION = PARTICLES["charged_hadron"].mass
GEV = 1e-3
HINTS = {"ROOT": ("CollectionTree/AnalysisJetsAux*", "EventData/AnalysisJetsAux*")}
INCOMPLETE = ("ATLAS PHYSLITE",)
PROVENANCE = {
    "sample": "ATLAS PHYSLITE",
    "source": "open data",
    "classes": ["pile_up", "hard_scatter"],
    "description": "ATLAS jets with the inputs of the jet vertex tagger; constituents are the few tracks stored",
    "selection": "anti-kT R=0.4, particle flow, that of DAOD_PHYSLITE and none beyond",
    "units": "MeV -> GeV; mm as in the file, sign of d0 as CMS (opposite to Delphes)",
    "licence": "CC0-1.0",
    "citation": "doi:10.7483/OPENDATA.ATLAS.9HK7.P5SI",
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
    """Jets of the events of a PHYSLITE file, as `jetnb.readers` says; the docstring of this module
    has the fields.

    Fields: pt, eta, phi, mass, corr_jvf, rpt, jvt (older files), fjvt, nn_jvt_pass (newer files),
    n_tracks, sum_track_pt, sum_track_pt_pileup, track_width, n_vertices, n_constituents, label,
    event; constituents pt, eta, phi, energy, charge, pdg_id, has_track, d0, d0_error, z0, dz,
    dz_error.
    """
    with _root.open_tree(path, TREES, WHAT) as tree:
        _columns(path, tree)
    return _blocks(Path(path), block_size, max(start, 0), stop, counter(tally))


@explaining
def count(path) -> int:
    """Number of events in the file, from its header."""
    with _root.open_tree(path, TREES, WHAT) as tree:
        _columns(path, tree)
        return int(tree.num_entries)


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its columns and their types alone; never an
    exception.
    """
    return accepts(count, path)


def _columns(path, tree) -> dict[str, str]:
    """Column of `COLUMNS` -> its name in this file, for those it has, all of the right type."""
    names = {}
    for column, (container, _, needed) in COLUMNS.items():
        spellings = [s.format(container, PREFIX.sub("", column)) for s in SPELLINGS]
        names[column] = next((name for name in spellings if name in tree.names), None)
        if needed and names[column] is None:
            _root.need(path, tree, spellings[:1], WHAT)
    names = {column: name for column, name in names.items() if name}
    types = tree.types(names.values())
    for column, name in names.items():
        container, depth, _ = COLUMNS[column]
        what, pattern = {EVENT: ("integer", INTEGER)}.get(container, ("number", NUMBER))
        if column == "GhostTrack":
            what, pattern = "link of m_persKey and m_persIndex", LINK
        if not re.fullmatch(rf"(var \* ){{{depth}}}{pattern}", types[name]):
            raise ValueError(
                f"{path}: column {name} is {types[name]}, but a {what} in {depth} nested lists in "
                f"{WHAT}: was the file converted? Use the published one"
            )
    return names


def _blocks(
    path: Path, block_size: int, start: int, stop: int | None, tally: MutableMapping[str, int]
) -> Iterator[ak.Array]:
    with _root.open_tree(path, TREES, WHAT) as tree:
        names = _columns(path, tree)
        for first, block in ahead(
            _root.blocks(
                path, tree, list(names.values()), block_size=block_size, start=start, stop=stop
            )
        ):
            try:
                jets = _decode(
                    {column: block[name] for column, name in names.items()}, first, tally
                )
            except ValueError as error:
                raise ValueError(
                    f"{path}: events {first} to {first + len(block) - 1}: {error}"
                ) from None
            tally["rows"] += len(block)
            yield jets


def _decode(block: dict, first: int, tally: MutableMapping[str, int]) -> ak.Array:
    numbers = {
        where: ak.to_numpy(ak.num(block[name])) for where, name in FIRST.items() if name in block
    }
    n_jets, n_tracks, n_vertices = (numbers[where] for where in (JETS, TRACKS, VERTICES))
    for column, values in block.items():
        container = COLUMNS[column][0]
        if container in numbers:
            _root.refuse(
                ak.to_numpy(ak.num(values)) != numbers[container],
                first,
                f"a length of {PREFIX.sub('', column)} "
                f"that is not that of the other columns of {container}",
            )
    at = packed.jet_of(n_jets)  # (N,) the event of each jet
    v = {
        column: ak.to_numpy(ak.flatten(block[column]))
        for column, (container, depth, _) in COLUMNS.items()
        if depth == 1 and column in block
    }
    rank, z = _hard_scatter(v["vertexType"], v["z"], n_vertices)
    columns = {
        "pt": v["pt"] * GEV,
        "eta": v["eta"],
        "phi": _padded.wrap_phi(v["phi"]),
        "mass": np.maximum(v["m"] * GEV, 0),
        "corr_jvf": v["JVFCorr"],
        "fjvt": v["DFCommonJets_fJvt"],
        **_track_sums(block, rank[at], n_vertices[at], v["vertexType"], at, first),
        "event": event_number(
            ak.to_numpy(block["runNumber"]),
            np.zeros(len(n_jets), int),
            ak.to_numpy(block["eventNumber"]),
        )[at],
    }
    with np.errstate(divide="ignore", invalid="ignore"):  # pt = 0 is left out below
        columns["rpt"] = v["JvtRpt"] if "JvtRpt" in v else columns["sum_track_pt"] / columns["pt"]
    if "Jvt" in v:
        columns["jvt"] = v["Jvt"]
    for name, column in (("nn_jvt_pass", "NNJvtPass"), ("label", "isJvtHS")):
        if column in v:
            _root.refuse(~np.isin(v[column], (0, 1)), first, f"{column} other than 0 and 1", at)
            # -1 does not fit into all types of isJvtHS: 255 as uint8.
            columns[name] = v[column].astype(np.int64)
    columns.setdefault("label", np.full(len(at), -1))
    columns["label"] = np.where(
        near_electron(v, n_jets, numbers.get(ELECTRONS), numbers.get(TRUTH)), -1, columns["label"]
    )
    inside, counts = _tracks(block, v, at, n_tracks, z, first, tally)
    columns, inside, counts, lost = _padded.keep_good(columns, inside, counts, tuple(columns))
    tally["jets"] += lost
    simulated = "isJvtHS" in v or (
        "eventTypeBitmask" in block and ak.any(block["eventTypeBitmask"] & 1)
    )
    return jetnb.jets.build(
        columns,
        inside,
        counts,
        provenance=PROVENANCE | ({"source": "simulation"} if simulated else {}),
    )


def _hard_scatter(
    kind: np.ndarray, z: np.ndarray, number: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each event the rank of its hard-scatter vertex, 0 if it has none, and its z, NaN if it
    has none.
    """
    starts = packed.starts(number)
    event, where = packed.jet_of(number), np.flatnonzero(kind == 1)[::-1]
    rank, found = np.zeros(len(number), int), np.full(len(number), np.nan)
    # reversed: of several the first is written last, and stays.
    rank[event[where]] = where - starts[event[where]]
    found[event[where]] = z[where]
    return rank, found


def _track_sums(block: dict, rank, stored, kind, at, first: int) -> dict[str, np.ndarray]:
    """n_tracks, sum_track_pt, track_width, sum_track_pt_pileup and n_vertices of each jet (N,).

    rank, stored, at: (N,) rank of the hard-scatter vertex, number of vertices stored, event, of
    each jet.
    """
    lengths = ak.to_numpy(ak.num(ak.flatten(block["NumTrkPt500"])))
    _root.refuse(lengths < stored, first, "NumTrkPt500 of fewer vertices than are stored", at)
    starts, jet = packed.starts(lengths)[:-1], packed.jet_of(lengths)
    # Where vertices were left out, the hard scatter was the first.
    rank = np.where(lengths == stored, rank, 0)
    sums = {}
    for name, (column, otherwise) in PER_VERTEX.items():
        _root.refuse(
            ak.to_numpy(ak.num(ak.flatten(block[column]))) != lengths,
            first,
            f"{column} of another number of vertices than NumTrkPt500",
            at,
        )
        values = ak.to_numpy(ak.flatten(block[column], axis=None))
        sums[name] = np.append(values, otherwise)[np.where(lengths > 0, starts + rank, len(values))]
        if column != "TrackWidthPt1000":
            _root.refuse(values < 0, first, f"a negative {column}", at[jet])
        if column == "SumPtTrkPt500":
            others = np.where(np.arange(len(values)) == (starts + rank)[jet], 0, values)
            sums["sum_track_pt_pileup"] = (
                np.bincount(jet, weights=others, minlength=len(lengths)) * GEV
            )
            sums[name] = sums[name] * GEV
    real = np.append(0, np.cumsum(np.isin(kind, (1, 3))))
    ends = np.cumsum(ak.to_numpy(ak.num(block["vertexType"])))[at]
    return sums | {"n_vertices": np.maximum(real[ends] - real[ends - stored], lengths - 1)}


def _tracks(
    block: dict, v: dict, at, n_tracks, z, first: int, tally: MutableMapping[str, int]
) -> tuple:
    """Fields (T,) and numbers (N,) of the tracks in each jet, by falling pt.

    v: the flat columns. at: (N,) event of each jet. n_tracks, z: number of tracks and z of the
    hard-scatter vertex of each event.
    """
    links = ak.flatten(block["GhostTrack"])
    key, index = (
        ak.to_numpy(ak.flatten(links[part])).astype(np.int64)
        for part in ("m_persKey", "m_persIndex")
    )
    jet = packed.jet_of(ak.to_numpy(ak.num(links)))
    there = (key == KEY) & (index != NULL) & (index != -1)  # the same number, as an int32
    jet, index = jet[there], index[there]
    event = at[jet]
    _root.refuse(
        (index < 0) | (index >= n_tracks[event]),
        first,
        "GhostTrack that points beyond the tracks stored",
        event,
    )
    track = index + packed.starts(n_tracks)[event]
    d0, phi, theta, q_over_p = (
        v[name][track].astype(float) for name in ("d0", "track_phi", "theta", "qOverP")
    )
    with np.errstate(all="ignore"):  # what is not finite is left out
        p = GEV / np.abs(q_over_p)
        pt = (p * np.sin(theta)).astype(np.float32)
        inside = {
            "pt": pt,
            "eta": -np.log(np.tan(theta / 2)),
            "phi": _padded.wrap_phi(phi),
            "energy": np.sqrt(p * p + PION**2).astype(np.float32),
        }
    charge = np.where(q_over_p < 0, -1, 1)
    inside |= {"charge": charge, "pdg_id": 211 * charge}
    measured = {"d0": d0}
    if "vz" in v:
        measured["z0"] = v["z0"][track].astype(float) + v["vz"][track]
        measured["dz"] = measured["z0"] - z[event]
    if "definingParametersCovMatrixDiag" in block:
        diagonal = ak.flatten(block["definingParametersCovMatrixDiag"])
        _root.refuse(
            ak.to_numpy(ak.num(diagonal)) != 5,
            first,
            "definingParametersCovMatrixDiag that are not 5 numbers",
            packed.jet_of(n_tracks),
        )
        variance = ak.to_numpy(ak.flatten(diagonal)).reshape(-1, 5)[track, :2].astype(float)
        with np.errstate(invalid="ignore"):
            errors = dict(zip(("d0_error", "dz_error"), np.sqrt(variance).T, strict=True))
        measured |= {
            name: values
            for name, values in errors.items()
            if name.removesuffix("_error") in measured
        }
    good = np.isfinite([inside[name] for name in ("pt", "eta", "phi", "energy")]).all(axis=0) & (
        pt > 0
    )
    tally["constituents"] += int((~good).sum())
    finite = np.isfinite([values for name, values in measured.items() if name != "dz"]).all(axis=0)
    tally["tracks"] += int((good & ~finite).sum())
    inside["has_track"] = finite & np.isfinite(z[event])
    inside |= {name: np.where(inside["has_track"], values, 0) for name, values in measured.items()}
    inside, jet = {name: values[good] for name, values in inside.items()}, jet[good]
    sort_by_pt(inside, jet, tally)
    return inside, np.bincount(jet, minlength=len(at))
