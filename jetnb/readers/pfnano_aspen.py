"""CMS PFNano -> a file in the layout of Aspen Open Jets, by the selection of its producer
(arXiv:2412.10504).

The producer is H5_maker.py of github.com/OzAmram/AOJProcessing. What it keeps, and so does `write`:

- events in the good-run list, if one is given, that fire any of `TRIGGERS` and pass all of
  `FILTERS`;
- of these all AK8 jets with corrected pt > 300 GeV, |eta| < 2.5 and jetId 6 (tight, with lepton
  veto);
- of each jet the first 150 candidates in the order of the file, then sorted by falling pt, without
  PUPPI weights.

Values are those of PFNano: cm, -1 without a track, run, lumi block and event as they are. Where it
differs:

- triggers that a file does not have cannot have fired and are passed over; a file without any of
  them is refused;
- nConstituents is counted where FatJet_nConstituents is missing; ParticleNet scores that are
  missing are NaN;
- a jet without candidates, at which the producer stops, has none.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from jetnb import atomic, kinematics, packed
from jetnb.readers import _pfnano, _root, aspen
from jetnb.readers._common import CACHE, ahead
from jetnb.readers._pfnano import CAND, EVENT, EVENTS, INDICES, JETS, TREE, WHAT
from jetnb.readers.aspen import SLOTS, TAUS

BATCH = 5_000  # jets written at a time by the producer: the first write decides the chunks
PT_MIN, ETA_MAX, JET_ID = 300, 2.5, 6
FILTERS = tuple(
    f"Flag_{name}"
    for name in [
        "goodVertices",
        "globalSuperTightHalo2016Filter",
        "HBHENoiseFilter",
        "HBHENoiseIsoFilter",
        "EcalDeadCellTriggerPrimitiveFilter",
        "BadPFMuonFilter",
        "eeBadScFilter",
        "CSCTightHaloFilter",
    ]
)
TRIGGERS = tuple(
    f"HLT_{name}"
    for name in [
        "AK8DiPFJet250_200_TrimMass30",
        "AK8DiPFJet250_200_TrimMass30_BTagCSV_p20",
        "AK8DiPFJet280_200_TrimMass30",
        "AK8DiPFJet280_200_TrimMass30_BTagCSV_p087",
        "AK8DiPFJet280_200_TrimMass30_BTagCSV_p20",
        "AK8DiPFJet300_200_TrimMass30",
        "AK8DiPFJet300_200_TrimMass30_BTagCSV_p087",
        "AK8DiPFJet300_200_TrimMass30_BTagCSV_p20",
        "AK8PFHT600_TrimR0p1PT0p03Mass50_BTagCSV_p20",
        "AK8PFHT650_TrimR0p1PT0p03Mass50",
        "AK8PFHT700_TrimR0p1PT0p03Mass50",
        "AK8PFHT750_TrimMass50",
        "AK8PFHT800_TrimMass50",
        "AK8PFJet40",
        "AK8PFJet60",
        "AK8PFJet80",
        "AK8PFJet140",
        "AK8PFJet200",
        "AK8PFJet260",
        "AK8PFJet320",
        "AK8PFJet360_TrimMass30",
        "AK8PFJet400",
        "AK8PFJet400_TrimMass30",
        "AK8PFJet450",
        "AK8PFJet500",
        "CaloJet500_NoJetID",
        "DiCentralPFJet170",
        "DiCentralPFJet170_CFMax0p1",
        "DiCentralPFJet220_CFMax0p3",
        "DiCentralPFJet330_CFMax0p5",
        "DiCentralPFJet430",
        "DiPFJetAve40",
        "DiPFJetAve60",
        "DiPFJetAve60_HFJEC",
        "DiPFJetAve80",
        "DiPFJetAve80_HFJEC",
        "DiPFJetAve100_HFJEC",
        "DiPFJetAve140",
        "DiPFJetAve160_HFJEC",
        "DiPFJetAve200",
        "DiPFJetAve220_HFJEC",
        "DiPFJetAve260",
        "DiPFJetAve300_HFJEC",
        "DiPFJetAve320",
        "DiPFJetAve400",
        "DiPFJetAve500",
        "HT2000",
        "HT2500",
        "L1_TripleJet_VBF",
        "QuadPFJet_VBF",
        "SingleCentralPFJet170_CFMax0p1",
        "PFHT125",
        "PFHT200",
        "PFHT250",
        "PFHT300",
        "PFHT350",
        "PFHT400",
        "PFHT400_SixJet30",
        "PFHT400_SixJet30_DoubleBTagCSV_p056",
        "PFHT450_SixJet40",
        "PFHT450_SixJet40_BTagCSV_p056",
        "PFHT475",
        "PFHT550_4JetPt50",
        "PFHT600",
        "PFHT650",
        "PFHT650_4JetPt50",
        "PFHT650_WideJetMJJ900DEtaJJ1p5",
        "PFHT650_WideJetMJJ950DEtaJJ1p5",
        "PFHT750_4JetPt50",
        "PFHT750_4JetPt70",
        "PFHT750_4JetPt80",
        "PFHT800",
        "PFHT800_4JetPt50",
        "PFHT850_4JetPt50",
        "PFHT900",
        "PFJet40",
        "PFJet60",
        "PFJet80",
        "PFJet140",
        "PFJet200",
        "PFJet260",
        "PFJet320",
        "PFJet400",
        "PFJet450",
        "PFJet500",
    ]
)
KINEMATICS = tuple(f"FatJet_{name}" for name in ("pt", "eta", "phi", "msoftdrop"))
SUBJETS = tuple(f"FatJet_{name}" for name in TAUS)
NUMBER = "FatJet_nConstituents"
SCORES = tuple(
    f"FatJet_particleNet_{name}"
    for name in ("H4qvsQCD", "HbbvsQCD", "HccvsQCD", "QCD", "TvsQCD", "WvsQCD", "ZvsQCD", "mass")
)
NEED = (*EVENT, *KINEMATICS, *SUBJETS, "FatJet_jetId", *FILTERS)


def write(
    path,
    files: str | os.PathLike | Iterable,
    *,
    good_runs: str | os.PathLike | Mapping | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the jets of PFNano `files` as Aspen Open Jets, as a file that appears when complete.

    `files`: one path or several. `good_runs`: the JSON file of certified runs (record 14220 of
    opendata.cern.ch), or what is in it, {run: [[first lumi block, last], ...]}; data that is not
    certified should not be used. The layout is that of `jetnb.readers.aspen`; memory is bounded.
    Raises `FileExistsError` unless `overwrite`, and `ValueError` for a file that is not PFNano,
    lacks the table of candidates of jets, a filter or all triggers, or is damaged, and when no jet
    is selected.
    """
    path = Path(path)
    files = [files] if isinstance(files, (str, os.PathLike)) else list(files)
    good, passed = None if good_runs is None else _ranges(good_runs), Counter()
    with (
        atomic.new_file(path, replace=overwrite) as hidden,
        h5py.File(hidden, "w", rdcc_nbytes=CACHE) as out,
    ):
        for batch in _batches(
            itertools.chain.from_iterable(_tables(Path(one), good, passed) for one in files)
        ):
            aspen.append(out, batch)
        if not len(out):
            raise ValueError(
                f"cannot write {path}: no jet is selected; of {passed['events']} events in {len(files)} "
                f"files, {passed['good runs']} are of good runs, {passed['triggers']} of these triggered, "
                f"{passed['filters']} of these pass the filters and have {passed['jets']} jets"
            )
    return path


def _ranges(good_runs) -> tuple[np.ndarray, np.ndarray]:
    """First and last of each range of good lumi blocks, as run * 2**32 + lumi block, rising."""
    try:
        if not isinstance(good_runs, Mapping):
            good_runs = json.loads(Path(good_runs).read_text(encoding="utf-8"))
        table = [
            (int(run), int(low), int(high))
            for run, pairs in good_runs.items()
            for low, high in pairs
        ]
        run, low, high = np.array(table, np.int64).reshape(-1, 3).T
        if len(run) == 0 or (run < 0).any() or (low < 0).any() or np.max([run, low, high]) >= 2**31:
            raise ValueError("no range, or a number that is negative or too large")
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"good_runs must be {{run: [[first, last], ...]}}, or a JSON file of that ({error}): "
            "fetch the file of record 14220 of opendata.cern.ch"
        ) from None
    order = np.lexsort((low, run))
    return (run << 32 | low)[order], np.maximum.accumulate((run << 32 | high)[order])


def _good(run: np.ndarray, lumi: np.ndarray, good: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    key, (firsts, lasts) = run.astype(np.int64) << 32 | lumi.astype(np.int64), good
    at = np.searchsorted(firsts, key, side="right") - 1
    return (at >= 0) & (key <= lasts[at])


def _batches(tables: Iterable[dict]) -> Iterator[dict]:
    """The same rows in tables of `BATCH` rows; the last is shorter."""
    kept, n = [], 0
    for table in itertools.chain(tables, [None]):
        if table is not None:
            kept, n = [*kept, table], n + len(table["PFCands"])
        while n >= BATCH or (table is None and n):
            whole = {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}
            yield {name: values[:BATCH] for name, values in whole.items()}
            kept, n = [{name: values[BATCH:] for name, values in whole.items()}], max(n - BATCH, 0)


def _tables(path: Path, good, passed: Counter) -> Iterator[dict]:
    with _root.open_tree(path, TREE, WHAT) as tree:
        layout = _pfnano.layout(path, tree)  # says what there is if there are no candidates
        if lacks := [name for name in CAND if name not in layout]:
            raise ValueError(
                f"{path} is NanoAOD with candidates that have no {', '.join(lacks)}, which Aspen Open "
                "Jets have: read it with jetnb.readers.pfnano, or make PFNano"
            )
        if INDICES[0] not in layout:
            raise ValueError(
                f"{path} does not say which candidate is in which jet ({', '.join(INDICES)}), so it "
                "cannot be made into Aspen Open Jets as these were: make PFNano with "
                "PFnano_customizeData_AK8JetsOnly, or read it with jetnb.readers.pfnano"
            )
        names = _pfnano.columns(path, tree, NEED, (*TRIGGERS, NUMBER, *SCORES))
        if not set(names).intersection(TRIGGERS):
            raise ValueError(
                f"{path} has none of the {len(TRIGGERS)} triggers of Aspen Open Jets (HLT_PFJet450, "
                "...), so no event can be selected: is it of 2016?"
            )
        for first, block in ahead(
            _root.blocks(path, tree, list(names.values()), block_size=EVENTS)
        ):
            try:
                table = _select(*_pfnano.flat(block, names, first), first, good, passed)
            except ValueError as error:
                raise ValueError(
                    f"{path}: events {first} to {first + len(block) - 1}: {error}"
                ) from None
            yield table


def _select(
    v: Mapping, numbers: Mapping, first: int, good, passed: Counter
) -> dict[str, np.ndarray]:
    """The four datasets, of the jets selected in one block of events."""
    candidate, counts = _pfnano.linked(v, numbers, first)
    keep = np.ones(len(v["run"]), bool)
    passed["events"] += len(keep)
    for step, which in (
        ("good runs", None if good is None else _good(v["run"], v["luminosityBlock"], good)),
        ("triggers", np.logical_or.reduce([v[name] for name in TRIGGERS if name in v])),
        ("filters", np.logical_and.reduce([v[name] for name in FILTERS])),
    ):
        keep = keep if which is None else keep & which
        passed[step] += int(keep.sum())
    at = packed.jet_of(numbers[JETS])
    passed["jets"] += int(keep[at].sum())
    jets = np.flatnonzero(
        keep[at]
        & (v["FatJet_pt"] > PT_MIN)
        & (np.abs(v["FatJet_eta"]) < ETA_MAX)
        & (v["FatJet_jetId"] == JET_ID)
    )
    missing = np.full(len(counts), np.nan, np.float32)
    tagging = [
        v.get(NUMBER, counts),
        *(v[name] for name in SUBJETS),
        *(v.get(name, missing) for name in SCORES),
    ]

    def table(columns, rows, dtype):
        return np.stack([values[rows].astype(dtype) for values in columns], axis=1)

    return {
        "event_info": table([v[name] for name in EVENT], at[jets], np.int64),
        "jet_kinematics": table([v[name] for name in KINEMATICS], jets, np.float32),
        "jet_tagging": table(tagging, jets, np.float32),
        "PFCands": _slots(v, candidate, counts, jets),
    }


def _slots(v: Mapping, candidate: np.ndarray, counts: np.ndarray, jets: np.ndarray) -> np.ndarray:
    """PFCands (n, 150, 11) of the jets with the numbers `jets` (n,), candidates by falling pt."""
    taken = np.minimum(counts[jets], SLOTS)
    jet, rank = packed.jet_of(taken), packed.ranks(taken)
    row = candidate[packed.rows(packed.starts(counts)[jets], taken)]
    pt, eta, phi, mass, *rest = (v[name][row].astype(float) for name in CAND)
    with np.errstate(over="ignore", invalid="ignore"):
        momentum = kinematics.to_cartesian(pt, eta, phi)
        energy = kinematics.energy(pt, eta, np.maximum(mass, 0))
        values = np.stack([*momentum, energy, *rest], axis=1).astype(np.float32)
        pt = np.sqrt(values[:, 0] ** 2 + values[:, 1] ** 2)
    order = np.lexsort((-rank, -pt, jet))  # of equal pt the later comes first, as in the producer
    cands = np.zeros((len(jets), SLOTS, 11), np.float32)
    cands[jet, rank] = values[order]
    return cands
