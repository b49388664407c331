"""Aspen Open Jets (arXiv:2412.10504, doi:10.25592/uhhfdm.16505): CMS 2016 data, RunG_batch0.h5 ...
RunH_batch39.h5.

Layout: four HDF5 datasets, no attributes, no column names; rows are jets.
    event_info      (N, 3)        int64    run, lumi block, event
    jet_kinematics  (N, 4)        float32  pt, eta, phi, softdrop mass
    PFCands         (N, 150, 11)  float32  px, py, pz, E, d0, d0Err, dz, dzErr, charge, pdgId, puppiWeight
    jet_tagging     (N, 13)       float32  nConstituents, tau1..tau4, 7 ParticleNet scores, ParticleNet mass
What becomes of them:

- Lengths are cm and become mm, energies are GeV. The sign of d0 is that of CMS; Delphes (JetClass)
  has the opposite one, so flip it before comparing or transferring between the two.
- d0 = d0Err = dz = dzErr = -1 says "no track": every neutral and many charged candidates. -1 cm is
  a possible d0, so has_track is decided by the errors: False where d0Err is -1 (or either error
  negative), and where any of the four is not finite, as some published d0 are. All four are 0
  there.
- The pt of a jet is corrected (JEC), its constituents are neither corrected nor weighted by PUPPI:
  the weighted sum has 0.90 to 0.94 of that pt. The file has no jet mass: `mass` is that of the
  PUPPI-weighted sum of the stored constituents, uncorrected. softdrop_mass (-1 where CMS has none)
  and tau1..4 are those stored by CMS.
- n_constituents counts the constituents stored, at most 150; nConstituents, before truncation, is
  left out, and so are the ParticleNet scores. Nothing is labelled: label is -1.
- phi is stored with few bits, so it can exceed pi by 1e-5: it is wrapped.
- event: run, lumi block and event hashed to 63 bits by `event_number`. Jets of one collision get
  one number. The chance that among 1e8 collisions any two share one is 5e-4; these would fall into
  the same part of a split.
- The run says what a file is. 278820 to 284044 are the data of 2016 G and H. Run 1 is CMS
  simulation, and what `write` makes of simulation; run 0 is what it makes of data, whose runs it no
  longer has. Of any other run it is not known where the jets come from, and the stamp of every
  figure says so.

Slots that are all zero are padding. A slot with pt = 0 or a four-momentum that is not finite is
dropped, a jet with pt <= 0 or a jet value that is not finite too; `read` counts both in the mapping
passed as `dropped`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path

import awkward as ak
import h5py
import numpy as np

import jetnb.jets
from jetnb import atomic, kinematics, packed
from jetnb.readers import _chunks, _padded
from jetnb.readers._common import CACHE, accepts, ahead, counter, explaining, open_hdf5

WHAT = "Aspen Open Jets"
SLOTS = 150
CM = 10.0  # mm
LAYOUT = {
    "event_info": ((3,), "iu"),
    "jet_kinematics": ((4,), "f"),
    "PFCands": ((None, 11), "f"),
    "jet_tagging": ((13,), "f"),
}
KINEMATICS = ("pt", "eta", "phi", "softdrop_mass")
TAUS = ("tau1", "tau2", "tau3", "tau4")
TRACK = ("d0", "d0_error", "dz", "dz_error")  # in the order of the file
INSIDE = ("pt", "eta", "phi", "energy", *TRACK, "has_track", "charge", "pdg_id", "puppi_weight")
PIECE = 10_000  # jets written at a time
HINTS = {"HDF5": ("PFCands", "jet_kinematics", "event_info", "jet_tagging")}
SELECTION = {"aspen": {"pt": (300, 6500), "eta": (-2.5, 2.5)}}  # 6500: what the beam has
PROVENANCE = {
    "sample": "aspen",
    "source": "open data",
    "classes": ["QCD", "TTBar"],
    "description": "jets of CMS 2016 data (JetHT, runs G and H, 13 TeV) with PUPPI weights, unlabelled",
    "selection": "anti-kT R=0.8, corrected pt > 300 GeV, |eta| < 2.5, jetId 6, any of 85 JetHT triggers; "
    "at most 150 constituents",
    "units": "d0, dz and errors cm -> mm, sign of d0 as CMS (opposite to Delphes); GeV as in the file",
    "licence": "CC-BY-4.0",
    "citation": "arXiv:2412.10504, doi:10.1088/2632-2153/ade58f, doi:10.25592/uhhfdm.16505",
}
SIMULATED = PROVENANCE | {
    "sample": "aspen layout, run 1",
    "source": "simulation",
    "description": "simulated jets in the layout of Aspen Open Jets (run number 1), unlabelled",
    "selection": "of whoever made the file; at most 150 constituents",
    "units": "d0, dz and errors cm -> mm, sign of d0 as in the file; GeV as in the file",
    "licence": "of whoever made the file",
    "citation": "whoever made the file; layout: arXiv:2412.10504",
}
UNKNOWN = SIMULATED | {
    "sample": "aspen layout",
    "source": "unknown",
    "stamp": "Aspen layout, origin unknown",
    "description": "jets in the layout of Aspen Open Jets, but of runs other than those of 2016 G and H, unlabelled",
}
REWRITTEN = PROVENANCE | {
    "description": f"{PROVENANCE['description']}, written again by jetnb (run number 0)",
    "units": "d0, dz and errors cm -> mm, sign of d0 as in the file; GeV as in the file",
}
RUN_OF = {"open data": 0, "simulation": 1}  # what is written; 2 stands for all other sources
RUNS = (278_820, 284_044)  # first and last of 2016 G and H, arXiv:2412.10504


@explaining
def read(
    path,
    *,
    block_size: int = 10_000,
    start: int = 0,
    stop: int | None = None,
    tally: MutableMapping[str, int] | None = None,
) -> Iterator[ak.Array]:
    """Jets of a file in the Aspen Open Jets layout, as `jetnb.readers` says."""
    with open_hdf5(path) as file:
        rows = _padded.blocks(_datasets(path, file)["PFCands"], block_size, start, stop)
    return _blocks(Path(path), rows, counter(tally))


@explaining
def count(path) -> int:
    """Number of jets in the file, from its header."""
    with open_hdf5(path) as file:
        return len(_datasets(path, file)["PFCands"])


def recognises(path) -> bool:
    """Whether the file at `path` has this format, by its keys and shapes alone; never an exception."""
    return accepts(count, path)


def event_number(run, lumi_block, event) -> np.ndarray:
    """One number (N,) int64 >= 0 for each collision, by the splitmix64 hash of the three (N,)
    integers in turn.
    """
    z = np.zeros(np.shape(run), np.uint64)
    for number in (run, lumi_block, event):
        z = z + np.asarray(number).astype(np.int64).view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(1)).view(np.int64)


def write(path, jets_or_blocks: ak.Array | Iterable[ak.Array], *, overwrite: bool = False) -> Path:
    """Write jets, or blocks of jets, in the published layout, as a file that appears when complete.

    As published: datasets, order of columns, dtypes, chunks as h5py picks them from the first
    write, gzip 4 for all but event_info, zeros up to 150 constituents, -1 where there is no track,
    cm. nConstituents is the number before truncation to 150. event_info is (1, 1, event): run 1
    says simulation, run 0 stands there for data. The 8 ParticleNet columns are NaN, as we have
    none; labels and the jet mass have no place in the format. d0 keeps the sign it has. Raises
    `FileExistsError` unless `overwrite`, and `ValueError` for jets that `jets.check` refuses or
    that lack a field of the format.
    """
    path = Path(path)
    pieces = [jets_or_blocks] if isinstance(jets_or_blocks, ak.Array) else jets_or_blocks
    pieces = (block[i : i + PIECE] for block in pieces for i in range(0, len(block), PIECE))
    with (
        atomic.new_file(path, replace=overwrite) as hidden,
        h5py.File(hidden, "w", rdcc_nbytes=CACHE, rdcc_nslots=10_007) as file,
    ):
        for piece in pieces:
            append(file, _encode(path, piece))
        if not len(file):
            raise ValueError(f"cannot write {path}: there were no jets")
    return path


def append(file: h5py.File, table: dict[str, np.ndarray]) -> None:
    """Add rows to the four datasets; the first rows make them, with the chunks that h5py picks for
    so many.
    """
    for name, values in table.items():
        if name not in file:
            gzip = {} if name == "event_info" else {"compression": "gzip", "compression_opts": 4}
            file.create_dataset(
                name, data=values, maxshape=(None, *values.shape[1:]), chunks=True, **gzip
            )
        else:
            file[name].resize(len(file[name]) + len(values), axis=0)
            file[name][-len(values) :] = values


def _datasets(path, file: h5py.File) -> dict[str, h5py.Dataset]:
    found = {
        name: _padded.need(path, file, name, tail, kind, WHAT)
        for name, (tail, kind) in LAYOUT.items()
    }
    if len({len(data) for data in found.values()}) > 1:
        lengths = ", ".join(f"{name} {len(data)}" for name, data in found.items())
        raise ValueError(
            f"{path}: the datasets differ in number of jets ({lengths}): the file was cut while it was "
            "written, make or download it again"
        )
    return found


def _blocks(path: Path, rows: list[slice], tally: MutableMapping[str, int]) -> Iterator[ak.Array]:
    with open_hdf5(path) as file:
        data = {name: _chunks.Rows(path, values) for name, values in _datasets(path, file).items()}
        about = _origin(data["event_info"](slice(0, 1))[:, 0])
        raw = ((here, {name: values(here) for name, values in data.items()}) for here in rows)
        for here, block in ahead(raw):
            try:
                jets = _decode(block, about, tally)
            except ValueError as error:
                raise ValueError(f"{path}: rows {here.start} to {here.stop - 1}: {error}") from None
            yield jets


def _origin(runs: np.ndarray) -> dict:
    """The provenance that the run of the first jet stands for."""
    if not len(runs):
        return UNKNOWN
    known = {1: SIMULATED, 0: REWRITTEN}
    return PROVENANCE if RUNS[0] <= runs[0] <= RUNS[1] else known.get(int(runs[0]), UNKNOWN)


def _decode(block: dict, about: dict, tally: MutableMapping[str, int]) -> ak.Array:
    px, py, pz, energy, *other = np.moveaxis(block["PFCands"], -1, 0)  # each (N, P)
    inside, slot, counts = _padded.momenta(px, py, pz, energy, tally)
    *track, charge, code, weight = (values.ravel().take(slot) for values in other)
    _refuse_swapped(track)
    with np.errstate(over="ignore"):
        track = dict(zip(TRACK, (values * np.float32(CM) for values in track), strict=True))
    finite = np.logical_and.reduce([np.isfinite(values) for values in track.values()])
    has_track = finite & (track["d0_error"] >= 0) & (track["dz_error"] >= 0)
    inside |= {name: np.where(has_track, values, 0) for name, values in track.items()}
    weighted = [
        values.ravel().take(slot).astype(np.float64) * weight for values in (px, py, pz, energy)
    ]
    inside |= {"charge": charge, "pdg_id": code, "has_track": has_track, "puppi_weight": weight}
    columns = {name: block["jet_kinematics"][:, i] for i, name in enumerate(KINEMATICS)}
    columns["phi"] = _padded.wrap_phi(columns["phi"])
    columns |= {name: block["jet_tagging"][:, 1 + i] for i, name in enumerate(TAUS)}
    columns |= {
        "mass": _padded.total(*weighted, counts)["mass"],
        "label": np.full(len(counts), -1),
        "event": event_number(*block["event_info"].T),
    }
    columns, inside, counts, lost = _padded.keep_good(columns, inside, counts, (*KINEMATICS, *TAUS))
    tally.update(
        rows=tally["rows"] + len(px),
        jets=tally["jets"] + lost,
        tracks=tally["tracks"] + int((~finite).sum()),
    )
    return jetnb.jets.build(columns, inside, counts, provenance=about)


def _refuse_swapped(track: list[np.ndarray]) -> None:
    """An uncertainty is -1 (no track) or positive; d0 and dz have both signs, so a mix-up of
    columns shows.
    """
    for name, values in zip(TRACK, track, strict=True):
        if name.endswith("error") and (wrong := (values < 0) & (values != -1)).any():
            raise ValueError(
                f"column {name} of PFCands has {values[np.argmax(wrong)]}, but an uncertainty is positive "
                f"or -1 without a track ({wrong.sum()} of {len(wrong)} are like this): the columns are "
                "in another order; that of the format is px, py, pz, E, d0, d0Err, dz, dzErr, ..."
            )


def _encode(path: Path, jets: ak.Array) -> dict[str, np.ndarray]:
    jetnb.jets.check(jets)
    columns, inside, counts = jetnb.jets.to_columns(jets)
    lacking = [n for n in (*KINEMATICS, *TAUS, "event") if n not in columns]
    lacking += [f"constituents.{name}" for name in INSIDE if name not in inside]
    if lacking:
        raise ValueError(
            f"cannot write {path}: {WHAT} needs {', '.join(lacking)}, which these jets lack"
        )
    jet = packed.jet_of(counts)
    rank = packed.ranks(counts)
    pt, eta, phi = (inside[name].astype(np.float64) for name in ("pt", "eta", "phi"))
    track = [np.where(inside["has_track"], inside[name] / CM, -1) for name in TRACK]
    values = np.stack(
        [
            *kinematics.to_cartesian(pt, eta, phi),
            inside["energy"],
            *track,
            inside["charge"],
            inside["pdg_id"],
            inside["puppi_weight"],
        ],
        axis=1,
    )
    cands = np.zeros((len(counts), SLOTS, 11), np.float32)
    cands[jet[rank < SLOTS], rank[rank < SLOTS]] = values[rank < SLOTS]
    ones = np.ones(len(counts), np.int64)
    tagging = np.full((len(counts), 13), np.nan, np.float32)
    tagging[:, :5] = np.stack([counts, *(columns[name] for name in TAUS)], axis=1)
    runs = ones * RUN_OF.get(jetnb.jets.provenance(jets).get("source"), 2)
    return {
        "event_info": np.stack([runs, ones, columns["event"]], axis=1),
        "jet_kinematics": np.stack(
            [columns[name] for name in KINEMATICS], axis=1, dtype=np.float32
        ),
        "PFCands": cands,
        "jet_tagging": tagging,
    }
