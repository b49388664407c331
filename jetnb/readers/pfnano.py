"""CMS NanoAOD with particle-flow candidates: PFNano, as in open data records 31300 to 31316 (JetHT
is 31308), and v15.

Layout: a TTree or RNTuple `Events`; rows are events. Lists have a counter (nFatJet and so on),
which is not needed.
    run, luminosityBlock, event, PV_npvs
    FatJet         AK8 jets with PUPPI: pt, eta, phi, mass, msoftdrop, tau1..tau4, rawFactor, jetId; in simulation
                   nBHadrons, nCHadrons
    PFCands        candidates: pt, eta, phi, mass, d0, d0Err, dz, dzErr, charge, pdgId, puppiWeight
    FatJetPFCands  jetIdx, pFCandsIdx: which candidate is in which jet. Not in the public records
In PFNano of 2017 FatJetPFCands has the candidates themselves, a row for each in each jet, and there
is no PFCands. NanoAOD of CMS has them from v15 on: PFCand (pt, eta, phi, mass, pdgId) and
FatJetPFCand (jetIdx, pfCandIdx); there pt and mass are multiplied by the PUPPI weight, so no
puppi_weight is known and constituents sum to raw_pt as they are, there are no tracks, and the
charge is that of the pdgId. What becomes of them:

- Every row of FatJet is a jet; CMS stores those of corrected pt above 170 GeV. No trigger and no
  filter is applied.
- With FatJetPFCands, the constituents of a jet are the candidates it lists, those of PUPPI weight 0
  too.
- Without it, all candidates of PUPPI weight above 0 are clustered again, momenta times the weight,
  by anti-kT with R=0.8 (FastJet is needed). The constituents of a jet are those of the nearest such
  jet within 0.4; a jet without one is left out, and `tally` counts it under jets. What is said of
  the jet itself, soft drop and N-subjettiness too, remains that of CMS.
  `provenance["constituents"]` says which way it went.
- pt and mass of the jet are corrected (JEC), raw_pt is before. Constituents are neither corrected
  nor weighted: with puppi_weight they sum to raw_pt. A mass of a candidate below 0, from rounding,
  counts as 0.
- Lengths are cm and become mm; the sign of d0 is that of CMS, opposite to Delphes (JetClass).
- d0 = d0Err = dz = dzErr = -1 says "no track": all neutral and many charged candidates. has_track
  is False where an error is negative or one of the four is not finite; all four are 0 there. See
  `jetnb.readers.aspen`.
- softdrop_mass, -1 where CMS has none, and tau1..tau4 are as CMS stores them. n_vertices is
  PV_npvs, jet_id is jetId.
- Nothing is labelled: label is -1. event: run, lumi block and event hashed by
  `jetnb.readers.aspen.event_number`.

An event has about 2000 candidates in the public records, so at most 1000 events make a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import clustering, kinematics, packed
from jetnb.readers import _padded, _pfnano, _root
from jetnb.readers._common import accepts, ahead, counter, explaining, sort_by_pt
from jetnb.readers._pfnano import CAND, CANDS, EVENT, EVENTS, INDICES, JETS, TRACK, TREE, WHAT
from jetnb.readers.aspen import CM, event_number

NEED = (*EVENT, *(f"FatJet_{name}" for name in ("pt", "eta", "phi", "mass")))
MORE = {
    "FatJet_msoftdrop": "softdrop_mass",
    **{f"FatJet_tau{i}": f"tau{i}" for i in range(1, 5)},
    "FatJet_rawFactor": "raw_pt",
    "FatJet_jetId": "jet_id",
    "FatJet_nBHadrons": "n_b_hadrons",
    "FatJet_nCHadrons": "n_c_hadrons",
    "PV_npvs": "n_vertices",
}
SIMULATED = ("genWeight", "FatJet_nBHadrons")  # in simulation only
RADIUS, MATCH = 0.8, 0.4
PT_MIN = (
    20.0  # GeV: far below any jet that CMS stores, so that the nearest jet is looked for among all
)
HINTS = {"ROOT": ("Events/FatJet_*", "Events/PFCands_*", "Events/PFCand_*", "Events/Jet_*")}
PROVENANCE = {
    "sample": "CMS PFNano",
    "source": "open data",
    "classes": [],
    "description": "AK8 jets of CMS with PUPPI weights, unlabelled",
    "selection": "anti-kT R=0.8, that of NanoAOD (corrected pt > 170 GeV) and none beyond",
    "units": "d0, dz and errors cm -> mm, sign of d0 as CMS (opposite to Delphes); GeV as in the file",
    "licence": "CC0-1.0 for the public records",
    "citation": "CMS collaboration, CERN Open Data Portal, records 31300 to 31316",
}
WEIGHTED = {
    "sample": "CMS NanoAOD",
    "description": "AK8 jets of CMS, constituents multiplied by their PUPPI weights, unlabelled",
    "units": "GeV as in the file",
    "licence": "that of the file",
    "citation": "CMS collaboration",
}
CLUSTERED = "anti-kT R=0.8 of the PUPPI-weighted candidates, clustered again and matched within 0.4"


@explaining
def read(
    path,
    *,
    block_size: int = 10_000,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """AK8 jets of the events of a PFNano file, as `jetnb.readers` says; the docstring of this
    module has the fields.

    Raises `ModuleNotFoundError` too, for a file without FatJetPFCands where FastJet is not
    installed.
    """
    if INDICES[0] not in _columns(path)[0]:
        _need_fastjet()
    return _blocks(Path(path), min(block_size, EVENTS), max(start, 0), stop, counter(tally))


@explaining
def count(path) -> int:
    """Number of events in the file, from its header."""
    return _columns(path)[1]


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its branches and their types alone; never an
    exception.
    """
    return accepts(count, path)


def _columns(path) -> tuple[dict[str, str], int, bool]:
    """Names in PFNano -> columns to read, number of events, and whether the file is simulation."""
    with _root.open_tree(path, TREE, WHAT) as tree:
        names = _pfnano.columns(path, tree, NEED, MORE)
        return names, int(tree.num_entries), any(name in tree.names for name in SIMULATED)


def _need_fastjet() -> None:
    try:
        import fastjet  # noqa: F401
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "this file does not say which candidate is in which jet, so jets must be clustered, "
            "which needs FastJet: pip install fastjet",
            name="fastjet",
        ) from None


def _blocks(
    path: Path, block_size: int, start: int, stop: int | None, tally: MutableMapping[str, int]
) -> Iterator[ak.Array]:
    names, _, simulated = _columns(path)
    how = "as listed in the file" if INDICES[0] in names else CLUSTERED
    about = (
        PROVENANCE
        | ({} if "PFCands_puppiWeight" in names else WEIGHTED)
        | {"constituents": how, "file": path.name}
        | ({"source": "simulation"} if simulated else {})
    )
    with _root.open_tree(path, TREE, WHAT) as tree:
        for first, block in ahead(
            _root.blocks(
                path, tree, list(names.values()), block_size=block_size, start=start, stop=stop
            )
        ):
            try:
                columns, inside, counts = _decode(block, names, first, tally)
                tally["rows"] += len(block)
                yield jetnb.jets.build(columns, inside, counts, provenance=about)
            except ValueError as error:
                raise ValueError(
                    f"{path}: events {first} to {first + len(block) - 1}: {error}"
                ) from None


def _decode(
    block: ak.Array, names: Mapping[str, str], first: int, tally: MutableMapping[str, int]
) -> tuple:
    v, numbers = _pfnano.flat(block, names, first)
    at = packed.jet_of(numbers[JETS])  # (N,) the event of each jet
    columns = {name: v[f"FatJet_{name}"] for name in ("pt", "eta", "phi", "mass")}
    columns |= {name: v[column] for column, name in MORE.items() if column in v}
    if "raw_pt" in columns:
        columns["raw_pt"] = columns["pt"] * (1 - columns["raw_pt"])
    if "n_vertices" in columns:
        columns["n_vertices"] = columns["n_vertices"][at]
    if INDICES[0] in names:
        candidate, counts = _pfnano.linked(v, numbers, first)
    else:
        candidate, counts, found = _clustered(v, numbers, at)
        columns["pt"] = np.where(found, columns["pt"], np.nan)  # and so left out below
    inside, counts = _constituents(v, candidate, counts, tally)
    needs = tuple(name for name, values in columns.items() if values.dtype.kind == "f")
    columns |= {
        "phi": _padded.wrap_phi(columns["phi"]),
        "label": np.full(len(at), -1),
        "event": event_number(*(v[name] for name in EVENT))[at],
    }
    columns, inside, counts, lost = _padded.keep_good(columns, inside, counts, needs)
    tally["jets"] += lost
    return columns, inside, counts


def _clustered(
    v: Mapping, numbers: Mapping, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates of each jet by clustering: rows of PFCands (T,), jet after jet; how many (N,);
    whether found (N,).
    """
    _need_fastjet()
    with np.errstate(over="ignore", invalid="ignore"):
        table = {name: v[f"PFCands_{name}"].astype(float) for name in ("pt", "eta", "phi", "mass")}
        p = clustering.four_momentum(table, v["PFCands_puppiWeight"])
        good = np.isfinite(list(p.values())).all(axis=0) & (np.hypot(p["px"], p["py"]) > 0)
        rows = np.flatnonzero(good & (table["pt"] > 0) & (v["PFCands_puppiWeight"] > 0))
        event = packed.jet_of(numbers[CANDS])[rows]
        jets = clustering.cluster(
            event,
            {name: values[rows] for name, values in p.items()},
            n_events=len(numbers[CANDS]),
            radius=RADIUS,
            pt_min=PT_MIN,
        )
        axes = {
            "event": at,
            "eta": v["FatJet_eta"].astype(float),
            "phi": v["FatJet_phi"].astype(float),
        }
        nearest = clustering.best(len(at), *clustering.pairs(axes, jets.jets, radius=MATCH))
    found, counts = nearest >= 0, np.zeros(len(at), int)
    chosen = clustering.select(jets, nearest[found])
    counts[found] = chosen.counts
    return rows[chosen.rows], counts, found


def _constituents(
    v: Mapping, candidate: np.ndarray, counts: np.ndarray, tally: MutableMapping[str, int]
) -> tuple:
    """Fields (T,) and numbers (N,) of the constituents, by falling pt."""
    pt, eta, phi, mass, *track, charge, code, weight = (
        v[name][candidate] if name in v else None for name in CAND
    )
    lost = 0
    with np.errstate(over="ignore", invalid="ignore"):
        energy = kinematics.energy(pt, eta.astype(float), np.maximum(mass, 0))
        inside = {
            name: np.asarray(values, np.float32)
            for name, values in (("pt", pt), ("eta", eta), ("energy", energy))
        }
        if track[0] is not None:
            inside |= {
                name: np.asarray(values * np.float32(CM), np.float32)
                for name, values in zip(TRACK, track, strict=True)
            }
    if track[0] is not None:
        finite = np.isfinite([inside[name] for name in TRACK]).all(axis=0)
        has_track = finite & (inside["d0_error"] >= 0) & (inside["dz_error"] >= 0)
        inside |= {name: np.where(has_track, inside[name], np.float32(0)) for name in TRACK} | {
            "has_track": has_track
        }
        lost = ~finite
    inside |= {"phi": _padded.wrap_phi(phi), "charge": charge, "pdg_id": code}
    if weight is not None:
        inside["puppi_weight"] = weight
    good = np.isfinite([inside[name] for name in ("pt", "eta", "phi", "energy")]).all(axis=0) & (
        inside["pt"] > 0
    )
    tally["constituents"] += int((~good).sum())
    tally["tracks"] += int((good & lost).sum())
    jet = packed.jet_of(counts)[good]
    inside = {name: values[good] for name, values in inside.items()}
    sort_by_pt(inside, jet, tally)
    return inside, np.bincount(jet, minlength=len(counts))
