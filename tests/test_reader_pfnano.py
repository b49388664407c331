"""The reader of CMS PFNano, on files written here by hand in the published layout and on real jets
put into it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import awkward as ak
import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings

import jetnb.jets
from jetnb.readers import _pfnano, pfnano
from jetnb.readers.aspen import event_number

REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"
ASPEN, NANO = (
    REALDATA / "aoj_layout_21_cms_mc_jets.h5",
    REALDATA / "nanoAOD_2015_CMS_Open_Data_ttbar.root",
)
TYPES = {
    "run": "u4",
    "luminosityBlock": "u4",
    "event": "u8",
    "jetId": "i4",
    "nBHadrons": "u1",
    "nCHadrons": "u1",
    "npvs": "i4",
    "charge": "i4",
    "pdgId": "i4",
    "jetIdx": "i4",
    "pFCandsIdx": "i4",
    "nConstituents": "u1",
}
CAND = ("pt", "eta", "phi", "mass", "d0", "d0Err", "dz", "dzErr", "charge", "pdgId", "puppiWeight")
NO = (-1, -1, -1, -1)
# The candidates of an event with two jets, at (eta, phi) = (0.5, 3.1) and (-1, 0), as in the file:
# [cm]
PION = (300, 0.5, 3.125, 0.13957, -0.05, 0.0025, 0.25, 0.005, 1, 211, 1)
PHOTON = (40, 0.25, -3.125, 0, *NO, 0, 22, 0.5)
LOST = (50, 0.5, 3, 0.13957, *NO, -1, -211, 1)  # charged, without a track
AT_MINUS_ONE = (60, 0.5, 3, 0.10566, -1, 0.02, -1, 0.03, -1, 13, 1)  # a track whose d0 is -1 cm
FAR = (5, 0.5, 3, 0, *NO, 0, 2, 0)  # pile-up by PUPPI
HADRON = (200, -1, 0.125, 0.49761, *NO, 0, 130, 1)
ELECTRON = (250, -1, -0.125, 0.000511, np.inf, 0.01, 0.1, 0.01, -1, 11, 1)
SOFT = (1, 3.5, 1.5, 0, *NO, 0, 1, 0.75)  # in no jet
EVENT = [SOFT, PHOTON, PION, LOST, AT_MINUS_ONE, FAR, HADRON, ELECTRON]
JETS = {
    "pt": [450, 500],
    "eta": [0.5, -1],
    "phi": [3.1, 0],
    "mass": [40, 60],
    "msoftdrop": [35, -1],
    "tau1": [0.4, 0.5],
    "tau2": [0.3, 0.4],
    "tau3": [0.2, 0.3],
    "tau4": [0.1, 0.2],
    "rawFactor": [0.125, 0.25],
    "jetId": [6, 2],
    "nBHadrons": [1, 0],
    "nCHadrons": [0, 2],
}
LINKS = [(1, 7), (0, 2), (0, 1), (0, 4), (0, 3), (0, 5), (1, 6)]
CENTRAL = {**{name: values[:1] for name, values in JETS.items()}}
NOTHING = {name: [] for name in JETS}


def collection(events, name):
    """Lists of values of one branch, an event after the other, with the type that CMS has."""
    counts = np.array([len(values) for values in events], int)
    with np.errstate(over="ignore"):
        flat = np.array([x for values in events for x in values]).astype(TYPES.get(name, "f4"))
    return ak.unflatten(flat, counts)


LAYOUTS = ("PFNano", "2017", "v15")


def branches_by_hand(events=None, *, linked=True, layout="PFNano"):
    """The branches of PFNano: `events` are (jets by column, candidates, links)."""
    events = [(JETS, EVENT, LINKS), (CENTRAL, [PION], [(0, 0)])] if events is None else events
    n = len(events)
    branches = {
        "run": [280_000] * n,
        "luminosityBlock": [77] * n,
        "event": [3_000_000_000 + i for i in range(n)],
        "PV_npvs": [20 + i for i in range(n)],
    }
    branches = {
        name: np.array(values).astype(TYPES[name.removeprefix("PV_")])
        for name, values in branches.items()
    }
    branches |= {
        f"FatJet_{name}": collection([jets[name] for jets, *_ in events], name) for name in JETS
    }
    links = {
        name: collection([[link[i] for link in links] for *_, links in events], name)
        for i, name in enumerate(("jetIdx", "pFCandsIdx"))
    }
    if layout == "2017":  # a row for each candidate of each jet
        rows = [[cands[at] for _, at in links] for _, cands, links in events]
        branches |= {
            f"FatJetPFCands_{name}": collection([[row[i] for row in one] for one in rows], name)
            for i, name in enumerate(CAND)
        }
        return branches | {"FatJetPFCands_jetIdx": links["jetIdx"]}
    if layout == "v15":  # momenta multiplied by the weight, which is not stored
        for i, name in enumerate(CAND[:4]):
            branches[f"PFCand_{name}"] = collection(
                [
                    [c[i] * (c[-1] if name in ("pt", "mass") else 1) for c in cands]
                    for _, cands, _ in events
                ],
                name,
            )
        branches["PFCand_pdgId"] = collection(
            [[c[9] for c in cands] for _, cands, _ in events], "pdgId"
        )
        return branches | {
            "FatJetPFCand_jetIdx": links["jetIdx"],
            "FatJetPFCand_pfCandIdx": links["pFCandsIdx"],
        }
    branches |= {
        f"PFCands_{name}": collection([[c[i] for c in cands] for _, cands, _ in events], name)
        for i, name in enumerate(CAND)
    }
    return branches | (
        {f"FatJetPFCands_{name}": values for name, values in links.items()} if linked else {}
    )


def write_by_hand(
    path,
    events=None,
    *,
    linked=True,
    layout="PFNano",
    leave_out=(),
    change=None,
    more=None,
    tree="Events",
):
    """A file as PFNano writes it. `change`: branch -> values."""
    branches = branches_by_hand(events, linked=linked, layout=layout)
    branches = {
        name: values for name, values in (branches | (more or {})).items() if name not in leave_out
    }
    branches |= change or {}
    # Branches of one collection share a counter, as in NanoAOD, unless their lengths or types were
    # changed.
    grouped = {}
    for name, values in branches.items():
        prefix, _, column = name.partition("_")
        if prefix in (
            "FatJet",
            "PFCands",
            "FatJetPFCands",
            "PFCand",
            "FatJetPFCand",
        ) and name not in (change or {}):
            grouped.setdefault(prefix, {})[column] = values
        else:
            grouped[name] = values
    grouped = {
        name: ak.zip(values) if isinstance(values, dict) else values
        for name, values in grouped.items()
    }
    with uproot.recreate(path) as file:
        made = file.mktree(
            tree,
            {
                name: ak.Array(values).type.content
                if isinstance(values, ak.Array)
                else values.dtype
                for name, values in grouped.items()
            },
        )
        made.extend(grouped)
    return path


@pytest.fixture
def jets(tmp_path):
    """The three jets of two events, read."""
    (block,) = pfnano.read(write_by_hand(tmp_path / "a.root"))
    return block


def test_the_layout_written_here_is_that_of_nanoaod(tmp_path):
    with uproot.open(write_by_hand(tmp_path / "a.root")) as file:
        types = file["Events"].typenames()
    assert (
        types["nFatJet"] == "int32_t"
        and types["FatJet_pt"] == "float[]"
        and types["event"] == "uint64_t"
    )
    assert types["FatJet_nBHadrons"] == "uint8_t[]" and types["FatJetPFCands_jetIdx"] == "int32_t[]"


def test_jet_fields_by_hand(jets):
    found = ak.without_field(jets[1], "constituents").tolist()
    assert (
        found.pop("event")
        == event_number(np.array([280_000]), np.array([77]), np.array([3_000_000_000]))[0]
    )
    assert found == pytest.approx(
        {
            "pt": 500,
            "eta": -1,
            "phi": 0,
            "mass": 60,
            "softdrop_mass": -1,
            "tau1": 0.5,
            "tau2": 0.4,
            "tau3": 0.3,
            "tau4": 0.2,
            "raw_pt": 375,
            "jet_id": 2,
            "label": -1,
            "n_b_hadrons": 0,
            "n_c_hadrons": 2,
            "n_vertices": 20,
            "n_constituents": 2,
        }
    )
    assert jets.n_vertices.tolist() == [20, 20, 21] and jets.n_constituents.tolist() == [5, 2, 1]
    assert jets.event[0] == jets.event[1] != jets.event[2]


def test_constituents_by_hand(jets):
    inside = jets.constituents[0]
    assert inside.pt.tolist() == [300, 60, 50, 40, 5] and inside.pdg_id.tolist() == [
        211,
        13,
        -211,
        22,
        2,
    ]
    assert inside.eta.tolist() == [0.5, 0.5, 0.5, 0.25, 0.5] and inside.phi.tolist() == [
        3.125,
        3,
        3,
        -3.125,
        3,
    ]
    assert inside.energy.tolist() == pytest.approx(
        [
            np.hypot(pt * np.cosh(eta), m)
            for pt, eta, m in (
                (300, 0.5, 0.13957),
                (60, 0.5, 0.10566),
                (50, 0.5, 0.13957),
                (40, 0.25, 0),
                (5, 0.5, 0),
            )
        ]
    )
    assert inside.charge.tolist() == [1, -1, -1, 0, 0] and inside.puppi_weight.tolist() == [
        1,
        1,
        1,
        0.5,
        0,
    ]
    assert jets.constituents[1].pdg_id.tolist() == [11, 130] and jets.constituents[
        2
    ].pdg_id.tolist() == [211]


def test_lengths_become_mm_and_minus_one_alone_is_no_sentinel(jets):
    inside = jets.constituents[0]
    assert inside.has_track.tolist() == [True, True, False, False, False]
    assert inside.d0.tolist() == pytest.approx([-0.5, -10, 0, 0, 0])
    assert inside.d0_error.tolist() == pytest.approx([0.025, 0.2, 0, 0, 0])
    assert inside.dz.tolist() == pytest.approx([2.5, -10, 0, 0, 0])
    assert inside.dz_error.tolist() == pytest.approx([0.05, 0.3, 0, 0, 0])
    assert jets.constituents[1].has_track.tolist() == [
        False,
        False,
    ]  # d0 of the electron is infinite


def test_what_is_left_out_is_counted(tmp_path):
    broken = [
        (np.nan, 0, 0, 0, *NO, 0, 22, 1),
        (0, 0, 0, 0, *NO, 0, 22, 1),
        (1, np.inf, 0, 0, *NO, 0, 22, 1),
    ]
    links = [*LINKS, (0, 8), (0, 9), (1, 10)]
    lame = {name: [*values, values[0], values[0]] for name, values in JETS.items()} | {
        "pt": [450, 500, 0, 300]
    }
    lame["mass"] = [40, 60, 1, np.nan]
    tally = {"rows": 99}
    path = write_by_hand(tmp_path / "a.root", [(lame, [*EVENT, *broken], links), (NOTHING, [], [])])
    (jets,) = pfnano.read(path, tally=tally)
    assert tally == {"rows": 2, "jets": 2, "constituents": 3, "tracks": 1, "unsorted": 1}
    assert jets.n_constituents.tolist() == [5, 2]


def test_a_mass_below_zero_and_phi_beyond_pi(tmp_path):
    path = write_by_hand(
        tmp_path / "a.root",
        [(CENTRAL | {"phi": [3.1416016]}, [(100, 1, 3.1416016, -0.25, *NO, 0, 22, 1)], [(0, 0)])],
    )
    (jets,) = pfnano.read(path)
    assert jets.phi[0] == jets.constituents.phi[0, 0] == pytest.approx(-3.1415836)
    assert jets.constituents.energy[0, 0] == pytest.approx(100 * np.cosh(1))


def test_what_the_file_lacks_is_absent(tmp_path):
    gone = (
        "PV_npvs",
        *(
            f"FatJet_{name}"
            for name in (
                "msoftdrop",
                "rawFactor",
                "jetId",
                "nBHadrons",
                "nCHadrons",
                "tau1",
                "tau2",
                "tau3",
                "tau4",
            )
        ),
    )
    (jets,) = pfnano.read(write_by_hand(tmp_path / "a.root", leave_out=gone))
    assert set(jets.fields) == {
        "pt",
        "eta",
        "phi",
        "mass",
        "label",
        "event",
        "n_constituents",
        "constituents",
    }


def test_provenance_says_data_or_simulation_and_how_constituents_were_found(tmp_path):
    data = ("FatJet_nBHadrons", "FatJet_nCHadrons")
    for name, options, source, how in (
        ("a.root", {}, "simulation", "as listed"),
        ("b.root", {"leave_out": data}, "open data", "as listed"),
        (
            "c.root",
            {"leave_out": data, "more": {"genWeight": np.ones(2, "f4")}},
            "simulation",
            "as listed",
        ),
        ("d.root", {"leave_out": data, "linked": False}, "open data", "clustered again"),
    ):
        (jets,) = pfnano.read(write_by_hand(tmp_path / name, **options))
        about = jetnb.jets.provenance(jets)
        assert about["source"] == source and how in about["constituents"] and about["file"] == name
        assert {"selection", "units", "licence", "citation"} <= about.keys()


# ---- the layouts of other years


def test_candidates_of_2017_are_those_of_their_jets(tmp_path, jets):
    (found,) = pfnano.read(write_by_hand(tmp_path / "a.root", layout="2017"))
    assert ak.array_equal(found, jets, check_parameters=False)
    assert jetnb.jets.provenance(found)["sample"] == "CMS PFNano"


def test_candidates_of_nanoaod_are_weighted_and_have_no_tracks(tmp_path, jets):
    path = write_by_hand(tmp_path / "a.root", layout="v15")
    tally = {}
    (found,) = pfnano.read(path, tally=tally)
    assert pfnano.recognises(path) and pfnano.count(path) == 2
    assert set(found.constituents.fields) == {"pt", "eta", "phi", "energy", "charge", "pdg_id"}
    assert tally["tracks"] == 0 and tally["constituents"] == 1, "a weight of 0 leaves no momentum"
    weighted = jets.constituents[jets.constituents.puppi_weight > 0]
    order = ak.argsort(weighted.pt * weighted.puppi_weight, ascending=False)
    weighted = weighted[order]
    for name in ("pt", "energy"):
        assert ak.all(
            abs(found.constituents[name] / (weighted[name] * weighted.puppi_weight) - 1) < 1e-6
        ), name
    for name in ("eta", "phi", "charge", "pdg_id"):
        assert ak.all(found.constituents[name] == weighted[name]), name
    for name in ("pt", "mass", "raw_pt", "event", "n_vertices"):
        assert ak.all(found[name] == jets[name]), name
    about = jetnb.jets.provenance(found)
    assert (
        about["sample"] == "CMS NanoAOD"
        and "multiplied by their PUPPI weights" in about["description"]
    )


def test_a_missing_branch_is_no_proof_that_there_are_no_candidates(tmp_path):
    for layout, name in (
        ("PFNano", "PFCands_pt"),
        ("2017", "FatJetPFCands_pt"),
        ("2017", "FatJetPFCands_jetIdx"),
        ("v15", "PFCand_pt"),
        ("v15", "FatJetPFCand_pfCandIdx"),
    ):
        path = write_by_hand(tmp_path / "a.root", layout=layout, leave_out=[name])
        with pytest.raises(ValueError, match=f"has no branch {name}, so it is not CMS PFNano"):
            pfnano.read(path)
    ours = {"MyCand_pt": ak.values_astype(ak.Array([[1.0], []]), "f4")}
    path = write_by_hand(
        tmp_path / "b.root", linked=False, leave_out=[f"PFCands_{name}" for name in CAND], more=ours
    )
    with pytest.raises(
        ValueError,
        match="of columns that speak of candidates it has .*MyCand_pt.* NanoAOD from v15",
    ):
        pfnano.read(path)
    weight = {"PFCand_puppiWeight": ak.values_astype(ak.Array([[1.0] * 8, [1.0]]), "f4")}
    with pytest.raises(
        ValueError, match="has PFCand_puppiWeight.*not known whether PFCand_pt is multiplied by it"
    ):
        pfnano.read(write_by_hand(tmp_path / "c.root", layout="v15", more=weight))


# ---- files without the table of candidates of jets


def test_clustering_finds_the_constituents_of_the_jets_of_cms(tmp_path, jets):
    (again,) = pfnano.read(write_by_hand(tmp_path / "a.root", linked=False))
    assert again.fields == jets.fields and len(again) == 3
    for name in ("pt", "eta", "phi", "mass", "softdrop_mass", "tau1", "raw_pt", "event", "jet_id"):
        assert (again[name] == jets[name]).tolist() == [True] * 3, name
    weighted = jets.constituents[
        jets.constituents.puppi_weight > 0
    ]  # what has no weight is in no jet
    assert ak.array_equal(again.constituents, weighted, check_parameters=False)


def test_momenta_are_weighted_before_clustering(tmp_path):
    # With its weight the photon moves the axis to 0.15, without to 0.34: too far from the soft
    # candidate.
    pion, photon = (300, 0, 0, 0, *NO, 1, 211, 1), (400, 0.6, 0, 0, *NO, 0, 22, 0.25)
    soft = (100, -0.6, 0, 0, *NO, 0, 22, 1)
    jet = CENTRAL | {"eta": [0.0], "phi": [0.0]}
    (jets,) = pfnano.read(
        write_by_hand(tmp_path / "a.root", [(jet, [pion, photon, soft], [])], linked=False)
    )
    assert jets.constituents.pt.tolist() == [[400, 300, 100]]
    heavy = [pion, photon[:-1] + (1,), soft]
    (jets,) = pfnano.read(
        write_by_hand(tmp_path / "b.root", [(jet | {"eta": [0.3]}, heavy, [])], linked=False)
    )
    assert jets.constituents.pt.tolist() == [[400, 300]]


def test_jets_that_clustering_does_not_find_are_left_out_and_counted(tmp_path):
    events = [
        (JETS, [PION, SOFT], []),
        (NOTHING, EVENT, []),
        (JETS, [], []),
        (CENTRAL, [FAR], []),
        (JETS, EVENT, []),
    ]
    tally = {}
    (jets,) = pfnano.read(write_by_hand(tmp_path / "a.root", events, linked=False), tally=tally)
    del tally["unsorted"]  # FastJet has an order of its own
    assert tally == {"rows": 5, "jets": 4, "constituents": 0, "tracks": 1}
    assert jets.pt.tolist() == [450, 450, 500] and jets.n_constituents.tolist() == [1, 4, 2]
    moved = JETS | {"eta": [0.5 + 0.45, -1], "phi": [3.1, 0.3]}
    (jets,) = pfnano.read(write_by_hand(tmp_path / "b.root", [(moved, EVENT, [])], linked=False))
    assert jets.pt.tolist() == [500]  # nearer than 0.4 only the second


def test_without_fastjet_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    path, linked = (
        write_by_hand(tmp_path / "a.root", linked=False),
        write_by_hand(tmp_path / "b.root"),
    )
    monkeypatch.setitem(sys.modules, "fastjet", None)
    with pytest.raises(ModuleNotFoundError, match="pip install fastjet"):
        pfnano.read(path)
    assert pfnano.recognises(path) and pfnano.count(path) == 2
    assert len(next(pfnano.read(linked))) == 3


# ---- rows


@pytest.mark.parametrize("linked", [True, False])
def test_any_range_of_rows_in_any_blocks(tmp_path, linked):
    cycle = [(JETS, EVENT, LINKS), (NOTHING, [SOFT], []), (CENTRAL, [SOFT, PION], [(0, 1)])]
    path = write_by_hand(tmp_path / "a.root", [cycle[i % 3] for i in range(11)], linked=linked)
    whole = ak.concatenate(list(pfnano.read(path)))
    assert pfnano.count(path) == 11 and len(whole) == 11
    for start, stop, size in (
        (0, 11, 1),
        (2, 9, 4),
        (0, None, 3),
        (10, 50, 7),
        (5, 5, 2),
        (11, None, 2),
    ):
        tally = {}
        blocks = list(pfnano.read(path, block_size=size, start=start, stop=stop, tally=tally))
        rows = min(11, 11 if stop is None else stop) - start
        assert len(blocks) == -(-rows // size) and tally["rows"] == rows
        chosen = whole[np.isin(ak.to_numpy(whole.n_vertices) - 20, np.arange(start, start + rows))]
        assert sum(map(len, blocks)) == len(chosen)
        if blocks:
            assert ak.array_equal(ak.concatenate(blocks), chosen, check_parameters=False)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        pfnano.read(path, block_size=0)


def test_a_block_is_never_more_events_than_fit_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pfnano, "EVENTS", 2)
    path = write_by_hand(tmp_path / "a.root", [(CENTRAL, [PION], [(0, 0)])] * 5)
    assert [len(block) for block in pfnano.read(path, block_size=10_000)] == [2, 2, 1]


def test_no_events_no_blocks(tmp_path):
    path = write_by_hand(tmp_path / "none.root", [])
    assert list(pfnano.read(path)) == [] and pfnano.recognises(path) and pfnano.count(path) == 0


# ---- files that are wrong


def test_refuses_a_missing_file_and_what_is_not_root(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.root"):
        pfnano.read(tmp_path / "none.root")
    (tmp_path / "page.root").write_bytes(b"<!DOCTYPE html><html>502 Bad Gateway</html>")
    with pytest.raises(ValueError, match="page.root is not ROOT.*web page"):
        pfnano.read(tmp_path / "page.root")
    assert not any(
        map(pfnano.recognises, (tmp_path / "none.root", tmp_path / "page.root", tmp_path))
    )


def test_nanoaod_without_candidates_is_named_as_such(tmp_path):
    gone = [f"PFCands_{name}" for name in CAND]
    path = write_by_hand(tmp_path / "nano.root", linked=False, leave_out=gone)
    for function in (pfnano.read, pfnano.count):
        with pytest.raises(
            ValueError,
            match="nano.root has events of CMS.*no candidates of jets were found.*"
            "PFCands_., FatJetPFCands_. and PFCand_. .*it has none.*31308",
        ):
            function(path)
    assert not pfnano.recognises(path)


def test_the_real_nanoaod_is_refused():
    if not NANO.exists():
        pytest.skip(f"the real file {NANO.name} is not on this machine")
    with pytest.raises(ValueError, match="ttbar.root has events of CMS, but no candidates"):
        pfnano.read(NANO)
    assert not pfnano.recognises(NANO)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"leave_out": ["PFCands_puppiWeight"]},
            "has no branch PFCands_puppiWeight, so it is not CMS PFNano",
        ),
        ({"leave_out": ["FatJet_eta"]}, "has no branch FatJet_eta"),
        ({"leave_out": ["event"]}, "has no branch event"),
        ({"leave_out": ["FatJetPFCands_jetIdx"]}, "has no branch FatJetPFCands_jetIdx"),
        ({"tree": "tree"}, "CMS PFNano has a tree 'Events', here is nothing; the file has tree"),
        (
            {"change": {"FatJet_pt": np.ones(2, "f4")}},
            r"FatJet_pt is float32, but lists of numbers in",
        ),
        ({"change": {"PV_npvs": ak.Array([[1], [2]])}}, r"PV_npvs is var \* int64, but numbers in"),
        ({"change": {"run": np.ones(2, "f8")}}, r"run is float64, but integers in"),
        (
            {"change": {"FatJetPFCands_jetIdx": ak.Array([[0.5], [1]])}},
            "FatJetPFCands_jetIdx is .* but lists of integers",
        ),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, options, says):
    path = write_by_hand(tmp_path / "a.root", **options)
    with pytest.raises(ValueError, match=f"a.root.*{says}"):
        pfnano.read(path)
    assert not pfnano.recognises(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"FatJetPFCands_jetIdx": [[0, 0, 0, 0, 0, 0, 2], [0]]},
            "event 0 has a FatJetPFCands_jetIdx that points to no F",
        ),
        (
            {"FatJetPFCands_pFCandsIdx": [[0] * 7, [-1]]},
            "event 1 has a FatJetPFCands_pFCandsIdx that points to no PFCands",
        ),
        (
            {"FatJetPFCands_pFCandsIdx": [[0] * 6, [0]]},
            "event 0 has a length of FatJetPFCands_pFCandsIdx that is not",
        ),
        (
            {"FatJet_mass": [[1, 2], [3, 4]]},
            "event 1 has a length of FatJet_mass that is not that of .*FatJet",
        ),
        ({"PFCands_charge": [[0, 0, 1, -1, -1, 0, 3, -1], [1]]}, "constituents.charge.*3"),
        ({"PFCands_pdgId": [[1, 22, 211, -211, 13, 2, 15, 11], [1]]}, "constituents.pdg_id.*15"),
        (
            {"PFCands_puppiWeight": [[1, 1, 1, 1, 1, 1, 1.5, 1], [1]]},
            "constituents.puppi_weight.*1.5",
        ),
    ],
)
def test_values_that_make_no_sense_are_named_with_file_and_event(tmp_path, change, says):
    values = {
        name: ak.values_astype(ak.Array(v), "f4" if "W" in name else "i4")
        for name, v in change.items()
    }
    with pytest.raises(ValueError, match=f"a.root: events 0 to 1: .*{says}"):
        list(pfnano.read(write_by_hand(tmp_path / "a.root", change=values)))


def test_refuses_a_damaged_file(tmp_path):
    path = write_by_hand(tmp_path / "a.root", [(JETS, EVENT, LINKS)] * 200)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a.root is truncated or damaged"):
        list(pfnano.read(path))
    with uproot.open(write_by_hand(path, [(JETS, EVENT, LINKS)] * 200)) as file:
        at = int(file["Events"]["PFCands_pt"].member("fBasketSeek")[0])
    content = bytearray(path.read_bytes())
    content[at + 90 : at + 190] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="a.root is truncated or damaged"):
        list(pfnano.read(path))


# ---- real CMS jets, put into this layout


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """21 simulated CMS jets as PFNano, and as they are in the file they come from."""
    if not ASPEN.exists():
        pytest.skip(f"the real file {ASPEN.name} is not on this machine")
    with h5py.File(ASPEN) as file:
        info, kinematics, cands, tagging = (
            file[name][:] for name in ("event_info", "jet_kinematics", "PFCands", "jet_tagging")
        )
    number = np.count_nonzero(cands[:, :, 3], axis=1)
    events = []
    for event in dict.fromkeys(info[:, 2].tolist()):
        rows = np.flatnonzero(info[:, 2] == event)
        table = np.concatenate([cands[row, : number[row]] for row in rows]).astype(float)
        px, py, pz, energy, *rest = table.T
        pt = np.hypot(px, py)
        mass = np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0))
        own = {name: np.zeros(len(rows)) for name in JETS} | {
            name: kinematics[rows, i] for i, name in enumerate(("pt", "eta", "phi", "msoftdrop"))
        }
        own |= {f"tau{i}": tagging[rows, i] for i in range(1, 5)} | {"jetId": np.full(len(rows), 6)}
        links = [(jet, i) for i, jet in enumerate(np.repeat(np.arange(len(rows)), number[rows]))]
        table = list(zip(pt, np.arcsinh(pz / pt), np.arctan2(py, px), mass, *rest, strict=True))
        events.append((own, table, links[::-1]))
    folder = tmp_path_factory.mktemp("real")
    return (
        write_by_hand(folder / "a.root", events),
        write_by_hand(folder / "b.root", events, linked=False),
        number,
    )


def test_real_jets_are_found_again_by_clustering(real):
    linked, unlinked, number = real
    (jets,), (again,) = pfnano.read(linked), pfnano.read(unlinked)
    assert jets.n_constituents.tolist() == number.tolist() and again.pt.tolist() == jets.pt.tolist()
    weighted = ak.sum(again.constituents * again.constituents.puppi_weight, axis=1)
    np.testing.assert_allclose(weighted.eta, again.eta, atol=0.02)
    share = again.n_constituents / ak.sum(jets.constituents.puppi_weight > 0, axis=1)
    assert ak.min(share) > 0.95 and ak.mean(share) > 0.99
    assert 0.5 < ak.mean(jets.constituents.has_track) < 0.8


# ---- files that nobody should write

WILD = np.array([0, -1, 1, np.nan, np.inf, -np.inf, 3e38, 1e-40, 211, 2**31 - 1, -(2**31), 1e4])
BRANCHES = [
    *(f"FatJet_{name}" for name in JETS),
    *(f"PFCands_{name}" for name in CAND),
    "FatJetPFCands_jetIdx",
    "FatJetPFCands_pFCandsIdx",
]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    linked=st.booleans(),
    n=st.integers(0, 3),
    most=st.sampled_from([1, 2, 300]),
    wild=st.lists(st.sampled_from(BRANCHES), max_size=3),
    dtype=st.sampled_from(["f4", "f8", "i4", "u8", "i1"]),
    longer=st.booleans(),
    gone=st.sampled_from([None] * 5 + ["event", "PV_npvs", *BRANCHES]),
)
def test_any_file_gives_valid_jets_or_a_value_error_naming_it(
    tmp_path_factory, seed, linked, n, most, wild, dtype, longer, gone
):
    rng = np.random.default_rng(seed)
    events = []
    for _ in range(n):
        n_jets, n_cands = rng.integers(0, 3), rng.integers(0, most + 1)
        own = {name: rng.uniform(0.5, 2, n_jets) for name in JETS}
        cands = rng.uniform(-2, 2, (n_cands, len(CAND))) * ([9] + [1] * 7 + [0, 0, 1]) + (
            [20] + [0] * 8 + [22, 0]
        )
        cands[:, -1] = rng.choice([0, 0.5, 1], n_cands)
        n_links = 0 if n_jets == 0 or n_cands == 0 else rng.integers(0, 2 * most)
        events.append(
            (own, cands, rng.integers(0, [max(n_jets, 1), max(n_cands, 1)], (n_links, 2)))
        )
    sound = {
        name: [[len(own["pt"]), len(cands), len(links)] for own, cands, links in events]
        for name in wild
    }
    change = {}
    for name in wild:
        counts = (
            np.array(
                [
                    row[("FatJet", "PFCands", "FatJetPFCands").index(name.partition("_")[0])]
                    for row in sound[name]
                ],
                int,
            )
            + longer
        )
        with np.errstate(invalid="ignore", over="ignore"):
            change[name] = ak.unflatten(rng.choice(WILD, counts.sum()).astype(dtype), counts)
    change = {
        name: values
        for name, values in change.items()
        if linked or not name.startswith("FatJetPFCands")
    }
    path = write_by_hand(
        tmp_path_factory.mktemp("any") / "any.root",
        events,
        linked=linked,
        leave_out=[gone],
        change={name: values for name, values in change.items() if name != gone},
    )
    known, tally = pfnano.recognises(path), {}
    try:
        for block in pfnano.read(path, tally=tally):
            jetnb.jets.check(block)
        assert known and tally["rows"] == n
    except ValueError as error:
        assert "any.root" in str(error)
    assert known or gone or set(wild) & {"FatJetPFCands_jetIdx", "FatJetPFCands_pFCandsIdx"}


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.floats(0, 1), bits=st.binary(min_size=1, max_size=30))
def test_any_damaged_bytes_give_valid_jets_or_a_value_error_naming_the_file(tmp_path, at, bits):
    if not (path := tmp_path / "sound.root").exists():
        write_by_hand(path)
    content = bytearray(path.read_bytes())
    here = int(at * (len(content) - len(bits)))
    content[here : here + len(bits)] = bits
    (damaged := tmp_path / "damaged.root").write_bytes(content)
    pfnano.recognises(damaged)
    try:
        for block in pfnano.read(damaged):
            jetnb.jets.check(block)
    except ValueError as error:
        assert "damaged.root" in str(error)


def test_linked_keeps_the_order_of_the_table():
    values = {
        "FatJetPFCands_jetIdx": np.array([1, 0, 1, 0]),
        "FatJetPFCands_pFCandsIdx": np.array([3, 2, 0, 1]),
    }
    numbers = {
        "FatJet": np.array([0, 2]),
        "PFCands": np.array([5, 4]),
        "FatJetPFCands": np.array([0, 4]),
    }
    candidate, counts = _pfnano.linked(values, numbers, 0)
    assert candidate.tolist() == [7, 6, 8, 5] and counts.tolist() == [2, 2]
