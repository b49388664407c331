"""PFNano made into Aspen Open Jets: the selection by hand, the layout, and real jets that come out
as they went in.
"""

from __future__ import annotations

import json

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot
from test_reader_pfnano import ASPEN, CAND, EVENT, JETS, LINKS, NO, PION, real, write_by_hand  # noqa: F401

from jetnb.readers import aspen, pfnano, pfnano_aspen

JET = {name: values[:1] for name, values in JETS.items()} | {"pt": [500], "eta": [1], "jetId": [6]}
SCORES = ("H4qvsQCD", "HbbvsQCD", "HccvsQCD", "QCD", "TvsQCD", "WvsQCD", "ZvsQCD", "mass")
FLAGS = (
    "goodVertices",
    "globalSuperTightHalo2016Filter",
    "HBHENoiseFilter",
    "HBHENoiseIsoFilter",
    "EcalDeadCellTriggerPrimitiveFilter",
    "BadPFMuonFilter",
    "eeBadScFilter",
    "CSCTightHaloFilter",
)


def write_pfnano(path, events, *, fired=True, flags=None, more=None, **options):
    """A PFNano file with two triggers, the filters and whatever else; `fired`, `flags`: per event."""
    n = len(events)
    fields = {f"Flag_{name}": np.ones(n, bool) for name in FLAGS} | (flags or {})
    fields |= {"HLT_PFJet450": np.broadcast_to(fired, n).copy(), "HLT_PFMET170": np.ones(n, bool)}
    return write_by_hand(path, events, more=fields | (more or {}), **options)


def read_all(path):
    with h5py.File(path) as file:
        return {name: data[:] for name, data in file.items()}


@pytest.fixture
def made(tmp_path):
    """What is written of one event with both of its jets selected."""
    own = JETS | {"jetId": [6, 6]}
    scores = {
        f"FatJet_particleNet_{name}": ak.Array([[i / 16, i / 32]])
        for i, name in enumerate(SCORES[:-1])
    }
    more = {name: ak.values_astype(values, "f4") for name, values in scores.items()}
    more["FatJet_nConstituents"] = ak.values_astype(ak.Array([[6, 3]]), "u1")
    path = write_pfnano(tmp_path / "in.root", [(own, EVENT, LINKS)], more=more)
    return read_all(pfnano_aspen.write(tmp_path / "out.h5", path))


def test_jets_by_hand(made):
    assert made["event_info"].tolist() == [[280_000, 77, 3_000_000_000]] * 2
    np.testing.assert_array_equal(
        made["jet_kinematics"], np.float32([[450, 0.5, 3.1, 35], [500, -1, 0, -1]])
    )
    wanted = [
        [6, 0.4, 0.3, 0.2, 0.1, *(i / 16 for i in range(7)), np.nan],
        [3, 0.5, 0.4, 0.3, 0.2, *(i / 32 for i in range(7)), np.nan],
    ]
    np.testing.assert_array_equal(made["jet_tagging"], np.float32(wanted))


def test_candidates_by_hand(made):
    cands = made["PFCands"]
    assert (cands[0, 5:] == 0).all() and (cands[1, 2:] == 0).all()
    wanted = [
        300 * np.cos(3.125),
        300 * np.sin(3.125),
        300 * np.sinh(0.5),
        np.hypot(300 * np.cosh(0.5), 0.13957),
        -0.05,
        0.0025,
        0.25,
        0.005,
        1,
        211,
        1,
    ]
    np.testing.assert_allclose(cands[0, 0], wanted, rtol=1e-6)
    assert cands[0, :5, 9].tolist() == [211, 13, -211, 22, 2] and cands[1, :2, 9].tolist() == [
        11,
        130,
    ]
    assert cands[0, 1, 4:8].tolist() == [-1, np.float32(0.02), -1, np.float32(0.03)]
    assert cands[0, 2, 4:8].tolist() == [-1] * 4 and np.isinf(cands[1, 0, 4])
    assert cands[0, :5, 10].tolist() == [1, 1, 1, 0.5, 0]


def test_number_of_constituents_is_counted_where_it_is_missing(tmp_path):
    path = write_pfnano(tmp_path / "in.root", [(JET, [PION] * 163, [(0, i) for i in range(163)])])
    made = read_all(pfnano_aspen.write(tmp_path / "out.h5", path))
    assert made["jet_tagging"][0, 0] == 163 and np.isnan(made["jet_tagging"][0, 5:]).all()


def test_150_candidates_are_taken_in_the_order_of_the_file_and_then_sorted(tmp_path):
    rising = [(1 + i, 0, 0, 0, *NO, 0, 22, 1 - i / 256) for i in range(163)]
    path = write_pfnano(tmp_path / "in.root", [(JET, rising, [(0, i) for i in range(163)])])
    cands = read_all(pfnano_aspen.write(tmp_path / "out.h5", path))["PFCands"][0]
    assert cands[:, 0].tolist() == list(range(150, 0, -1))
    assert cands[0, 10] == 1 - 149 / 256


def test_of_equal_pt_the_later_comes_first(tmp_path):
    same = [(9, 0, 0, 0, *NO, 0, code, 1) for code in (22, 130, 1)]
    path = write_pfnano(tmp_path / "in.root", [(JET, [*same, PION], [(0, i) for i in range(4)])])
    cands = read_all(pfnano_aspen.write(tmp_path / "out.h5", path))["PFCands"][0]
    assert cands[:5, 9].tolist() == [211, 1, 130, 22, 0]


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({"pt": [300]}, False),
        ({"pt": [300.03]}, True),
        ({"eta": [2.5]}, False),
        ({"eta": [-2.5]}, False),
        ({"eta": [-2.49]}, True),
        ({"jetId": [2]}, False),
        ({"jetId": [7]}, False),
        ({"msoftdrop": [-1]}, True),
        ({"pt": [np.nan]}, False),
    ],
)
def test_jets_are_selected(tmp_path, change, kept):
    path = write_pfnano(
        tmp_path / "in.root", [(JET | change, [PION], [(0, 0)]), (JET | {"pt": [700]}, [PION], [])]
    )
    made = read_all(pfnano_aspen.write(tmp_path / "out.h5", path))
    assert made["event_info"][:, 2].tolist() == [3_000_000_000] * kept + [3_000_000_001]


def test_events_are_selected(tmp_path):
    events = [(JET, [PION], [(0, 0)])] * 10
    fired = np.arange(10) != 3
    flags = {f"Flag_{name}": np.arange(10) != i for i, name in enumerate(FLAGS) if i != 3}
    path = write_pfnano(tmp_path / "in.root", events, fired=fired, flags=flags)
    made = read_all(pfnano_aspen.write(tmp_path / "out.h5", path))
    assert (made["event_info"][:, 2] - 3_000_000_000).tolist() == [8, 9]


def test_any_trigger_of_the_list_is_enough(tmp_path):
    more = {
        "HLT_AK8PFJet60": np.array([True, False, False]),
        "HLT_PFHT125": np.array([True, True, False]),
    }
    path = write_pfnano(tmp_path / "in.root", [(JET, [PION], [])] * 3, fired=False, more=more)
    made = read_all(pfnano_aspen.write(tmp_path / "out.h5", path))
    assert len(made["event_info"]) == 2 and (made["PFCands"] == 0).all()


def test_the_list_of_triggers():
    triggers = pfnano_aspen.TRIGGERS
    assert len(set(triggers)) == len(triggers) == 85
    assert sum(name.startswith("HLT_AK8") for name in triggers) == 25
    assert sum(name.startswith("HLT_DiPFJetAve") for name in triggers) == 15


# ---- good runs

RANGES = {"280000": [[70, 76], [79, 80]], "280002": [[1, 5], [3, 9]], "279999": [[77, 77]]}


def good_events(tmp_path, good_runs):
    runs = np.array(
        [279_999, 279_999, 280_000, 280_000, 280_000, 280_000, 280_001, 280_002, 280_002, 280_003],
        "u4",
    )
    lumis = np.array([77, 78, 69, 76, 77, 80, 77, 9, 10, 1], "u4")
    path = write_pfnano(
        tmp_path / "in.root",
        [(JET, [PION], [])] * 10,
        change={"run": runs, "luminosityBlock": lumis},
    )
    made = read_all(
        pfnano_aspen.write(tmp_path / "out.h5", path, good_runs=good_runs, overwrite=True)
    )
    return (made["event_info"][:, 2] - 3_000_000_000).tolist()


def test_good_runs_as_a_file_or_a_mapping(tmp_path):
    (tmp_path / "good.json").write_text(json.dumps(RANGES))
    for good in (
        RANGES,
        tmp_path / "good.json",
        str(tmp_path / "good.json"),
        {int(r): v for r, v in RANGES.items()},
    ):
        assert good_events(tmp_path, good) == [0, 3, 5, 7]
    assert good_events(tmp_path, None) == list(range(10))


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "[1, 2]",
        "{}",
        '{"a": [[1, 2]]}',
        '{"1": [[1]]}',
        '{"1": [1, 2]}',
        '{"1": [[-1, 2]]}',
        '{"1": [[1, 1e400]]}',
        '{"1": [[1, 99999999999999999999]]}',
        '{"1": null}',
        '{"1": [[1, 2, 3], [1, 2, 3], [1, 2, 3]]}',
    ],
)
def test_good_runs_that_are_not_are_refused(tmp_path, wrong):
    (tmp_path / "good.json").write_text(wrong)
    with pytest.raises(ValueError, match="good_runs must be {run: .*record 14220"):
        good_events(tmp_path, tmp_path / "good.json")
    assert not (tmp_path / "out.h5").exists()
    with pytest.raises(FileNotFoundError):
        good_events(tmp_path, tmp_path / "no.json")


# ---- the file as a whole


def test_layout_is_the_published_one(tmp_path):
    path = write_pfnano(tmp_path / "in.root", [(JET, [PION], [(0, 0)])] * 700)
    with h5py.File(pfnano_aspen.write(tmp_path / "out.h5", path)) as file:
        assert (
            sorted(file) == ["PFCands", "event_info", "jet_kinematics", "jet_tagging"]
            and not file.attrs
        )
        for name, tail, dtype in (
            ("PFCands", (150, 11), "<f4"),
            ("event_info", (3,), "<i8"),
            ("jet_kinematics", (4,), "<f4"),
            ("jet_tagging", (13,), "<f4"),
        ):
            data = file[name]
            assert (data.shape, data.maxshape, data.dtype) == (
                (700, *tail),
                (None, *tail),
                np.dtype(dtype),
            )
            squeezed = (None, None) if name == "event_info" else ("gzip", 4)
            assert (data.compression, data.compression_opts) == squeezed
            assert data.chunks and not data.shuffle and not data.attrs


def test_5000_jets_are_written_first_whatever_the_files(tmp_path):
    path = write_pfnano(tmp_path / "in.root", [(JET, [PION], [(0, 0)])] * 1300)
    out = pfnano_aspen.write(tmp_path / "out.h5", [path] * 8)
    with h5py.File(out) as file:
        assert {name: data.chunks for name, data in file.items()} == {
            "PFCands": (313, 19, 2),
            "jet_kinematics": (1250, 2),
            "jet_tagging": (625, 4),
            "event_info": (1250, 1),
        }
        wanted = np.tile(3_000_000_000 + np.arange(1300), 8)
        assert (
            file["event_info"][:, 2].tolist() == wanted.tolist()
            and (file["PFCands"][:, 0, 9] == 211).all()
        )


def test_aspen_reads_what_pfnano_reads_after_the_same_cuts(tmp_path):
    own = JETS | {"jetId": [6, 6]}
    events = [(own, EVENT, LINKS), ({name: [] for name in JETS}, EVENT, []), (JETS, EVENT, LINKS)]
    path = write_pfnano(tmp_path / "in.root", events * 4, fired=np.arange(12) % 5 > 0)
    (jets,) = pfnano.read(path)
    fired = (jets.n_vertices - 20) % 5 > 0
    jets = jets[fired & (jets.pt > 300) & (abs(jets.eta) < 2.5) & (jets.jet_id == 6)]
    (back,) = aspen.read(pfnano_aspen.write(tmp_path / "out.h5", path))
    assert len(back) == len(jets) == 9
    same_jets(back, jets)


def test_candidates_of_2017_become_the_same_aspen_open_jets(tmp_path):
    events = [(JETS | {"jetId": [6, 6]}, EVENT, LINKS)] * 3
    made = [
        read_all(
            pfnano_aspen.write(
                tmp_path / f"{layout}.h5", write_pfnano(tmp_path / "in.root", events, layout=layout)
            )
        )
        for layout in ("PFNano", "2017")
    ]
    assert len(made[0]["PFCands"]) == 6
    for name, values in made[0].items():
        np.testing.assert_array_equal(values, made[1][name], err_msg=name)


def same_jets(back, jets):
    for name in (
        "pt",
        "eta",
        "phi",
        "softdrop_mass",
        "tau1",
        "tau2",
        "tau3",
        "tau4",
        "event",
        "label",
        "n_constituents",
    ):
        assert ak.all(back[name] == jets[name]), name
    for name in (
        "charge",
        "pdg_id",
        "has_track",
        "d0",
        "d0_error",
        "dz",
        "dz_error",
        "puppi_weight",
    ):
        assert ak.all(back.constituents[name] == jets.constituents[name]), name
    for name in ("pt", "eta", "phi", "energy"):
        np.testing.assert_allclose(
            ak.flatten(back.constituents[name]),
            ak.flatten(jets.constituents[name]),
            rtol=1e-5,
            atol=1e-6,
            err_msg=name,
        )


def test_real_jets_come_out_as_they_went_in(real, tmp_path):  # noqa: F811
    linked, _, number = real
    with uproot.open(linked) as file:
        n = file["Events"].num_entries
        names = [
            name
            for name in file["Events"].keys()  # noqa: SIM118
            if not name.startswith("n")
        ]
        branches = {name: file["Events"][name].array() for name in names}
    info = read_all(ASPEN)["event_info"]
    ids = np.array(list(dict.fromkeys(map(tuple, info.tolist()))))
    branches |= {
        "run": ids[:, 0].astype("u4"),
        "luminosityBlock": ids[:, 1].astype("u4"),
        "event": ids[:, 2],
    }
    branches |= {f"Flag_{name}": np.ones(n, bool) for name in FLAGS} | {
        "HLT_PFJet450": np.ones(n, bool)
    }
    with uproot.recreate(tmp_path / "in.root") as file:
        types = {
            name: v.type.content if isinstance(v, ak.Array) else v.dtype
            for name, v in branches.items()
        }
        file.mktree("Events", types).extend(branches)
    out = pfnano_aspen.write(tmp_path / "out.h5", tmp_path / "in.root")
    with h5py.File(out) as ours, h5py.File(ASPEN) as theirs:
        assert sorted(ours) == sorted(theirs) and dict(ours.attrs) == dict(theirs.attrs) == {}
        for name in theirs:
            a, b = ours[name], theirs[name]
            for item in (
                "shape",
                "maxshape",
                "dtype",
                "chunks",
                "compression",
                "compression_opts",
                "shuffle",
                "fletcher32",
                "scaleoffset",
                "fillvalue",
            ):
                assert getattr(a, item) == getattr(b, item), (name, item)
            assert dict(a.attrs) == dict(b.attrs) == {}
            columns = (
                slice(0, 5) if name == "jet_tagging" else slice(None)
            )  # scores were not put into PFNano
            # An energy less than the momentum by rounding, of a photon, is not kept: 1e-6 of TeV.
            np.testing.assert_allclose(
                a[..., columns], b[..., columns], rtol=2e-6, atol=2e-3, err_msg=name
            )
        np.testing.assert_array_equal(ours["PFCands"][..., 4:], theirs["PFCands"][..., 4:])
        assert ours["jet_tagging"][:, 0].tolist() == number.tolist()


# ---- files that cannot be made into it


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"linked": False},
            "does not say which candidate is in which jet.*AK8JetsOnly.*jetnb.readers.pfnano",
        ),
        ({"leave_out": ["Flag_BadPFMuonFilter"]}, "has no branch Flag_BadPFMuonFilter"),
        ({"leave_out": ["HLT_PFJet450"]}, "has none of the 85 triggers"),
        ({"leave_out": ["FatJet_tau4"]}, "has no branch FatJet_tau4"),
        ({"leave_out": ["PFCands_pt"]}, "has no branch PFCands_pt"),
        (
            {"leave_out": [f"PFCands_{name}" for name in CAND], "linked": False},
            "no candidates of jets were found",
        ),
        (
            {"layout": "v15"},
            "candidates that have no PFCands_d0, .*PFCands_puppiWeight, which Aspen Open Jets",
        ),
        (
            {"fired": False},
            "no jet is selected; of 2 events in 1 files, 2 are of good runs, 0 of these triggered, 0 of",
        ),
        (
            {"change": {"FatJetPFCands_jetIdx": ak.values_astype(ak.Array([[0], [5]]), "i4")}},
            "in.root: events 0 to 1: event 1 has a FatJetPFCands_jetIdx that points to no FatJet",
        ),
    ],
)
def test_refuses_what_the_producer_could_not_have_used(tmp_path, options, says):
    path = write_pfnano(tmp_path / "in.root", [(JET, [PION], [(0, 0)])] * 2, **options)
    with pytest.raises(ValueError, match=says):
        pfnano_aspen.write(tmp_path / "out.h5", path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["in.root"]


def test_a_bad_file_among_good_ones_leaves_nothing_behind(tmp_path):
    path = write_pfnano(tmp_path / "in.root", [(JET, [PION], [(0, 0)])])
    with pytest.raises(FileNotFoundError, match="missing.root"):
        pfnano_aspen.write(tmp_path / "out.h5", [path, tmp_path / "missing.root"])
    assert not (tmp_path / "out.h5").exists()
    pfnano_aspen.write(tmp_path / "out.h5", str(path))
    before = (tmp_path / "out.h5").read_bytes()
    with pytest.raises(FileExistsError):
        pfnano_aspen.write(tmp_path / "out.h5", path)
    assert (tmp_path / "out.h5").read_bytes() == before
    assert (
        pfnano_aspen.write(tmp_path / "out.h5", [path, path], overwrite=True) == tmp_path / "out.h5"
    )
    assert aspen.count(tmp_path / "out.h5") == 2
