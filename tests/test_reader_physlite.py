"""The reader of ATLAS PHYSLITE, on files written here by hand in the published layout and on real
simulated events.

uproot cannot write a list of lists into a TTree, so files with the names of a TTree are RNTuples of
that name here; the TTree itself is covered by the real file.
"""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import hypothesis.strategies as st
import numpy as np
import pytest
import uproot
from hypothesis import HealthCheck, given, settings

import jetnb.jets
from jetnb.readers import _root, physlite
from jetnb.readers.aspen import event_number

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "PHYSLITE_example.root"
KEY, NULL, LINK = 490246363, 4294967295, ("m_persKey", "m_persIndex")
TYPES = {
    "NumTrkPt500": "i4",
    "NNJvtPass": "i1",
    "isJvtHS": "i1",
    "vertexType": "i2",
    "m_persKey": "u4",
    "m_persIndex": "u4",
    "runNumber": "u4",
    "eventNumber": "u8",
    "eventTypeBitmask": "u4",
}  # all else: f4
OLD = ("Jvt", "JvtRpt")
NEW = ("NNJvtPass", "isJvtHS")

# Two events: three jets (two tracks; a muon-like null link; no track at all), and one jet.
EVENTS = {
    "pt": [[80_000, 40_000, 20_000], [60_000]],
    "eta": [[0.5, -1, 3], [0]],
    "phi": [[1, -2, 3.1416], [0]],
    "m": [[9_000, 5_000, -0.04], [7_000]],
    "JVFCorr": [[0.9, 0.25, -1], [0.5]],
    "DFCommonJets_fJvt": [[0, 0, 0.75], [0]],
    "NNJvtPass": [[1, 0, 1], [1]],
    "isJvtHS": [[1, 0, 0], [1]],
    "Jvt": [[0.95, 0.125, -0.1], [0.5]],
    "JvtRpt": [[0.5, 0.25, 0], [0.375]],
    "NumTrkPt500": [[[4, 1, 0], [1, 2, 0], [0, 0, 0]], [[2, 0]]],
    "SumPtTrkPt500": [[[48_000, 2_000, 500], [4_000, 6_000, 0], [0, 0, 0]], [[30_000, 0]]],
    "TrackWidthPt1000": [[[0.125, 0.3, -1], [0.25, 0.2, -1], [-1, -1, -1]], [[0.0625, -1]]],
    "GhostTrack": [[[(KEY, 2), (0, 0), (KEY, 0), (KEY, NULL)], [(7, 0), (0, 0)], []], [[(KEY, 0)]]],
    "d0": [[0.5, -3, 0.25], [1]],
    "z0": [[10, 7, 9.5], [-40]],
    "vz": [[1, 1, 1], [0]],
    "track_phi": [[1.5, 0, 1], [0.25]],
    "theta": [[np.pi / 2, 1, np.pi / 6], [np.pi / 2]],
    "qOverP": [[-1 / 20_000, 1 / 5_000, 1 / 48_000], [1 / 30_000]],
    "definingParametersCovMatrixDiag": [
        [[0.04, 0.25, 1, 2, 3], [1] * 5, [0.01, 0.09, 1, 2, 3]],
        [[1, 4, 1, 2, 3]],
    ],
    "z": [[10, -30, 0], [-41, 0]],
    "vertexType": [[1, 3, 0], [1, 0]],
    "runNumber": [300_000, 300_000],
    "eventNumber": [7, 2**40],
    "eventTypeBitmask": [1, 1],
}


def jagged(values, depth, dtype):
    """Lists `depth` deep as an awkward array of `dtype`, also where all are empty."""
    counts = []
    for _ in range(depth):
        counts.append(np.array([len(one) for one in values], int))
        values = [x for one in values for x in one]
    with np.errstate(over="ignore"):
        array = ak.Array(
            np.array(values, np.float64 if np.dtype(dtype).kind == "f" else None).astype(dtype)
        )
    for number in reversed(counts):
        array = ak.unflatten(array, number)
    return array


def columns_of(
    *,
    spelling="{0}AuxDyn:{1}",
    leave_out=OLD,
    event="EventInfoAuxDyn:{1}",
    base=False,
    types=None,
    **change,
):
    """`change`: column -> lists, or an awkward array; `base`: the members of a link are those of
    its base class.
    """
    types, data = TYPES | (types or {}), {}
    for column, values in (EVENTS | change).items():
        container, depth, _ = physlite.COLUMNS[column]
        if column in leave_out:
            continue
        if column == "GhostTrack" and not isinstance(values, ak.Array):
            parts = [
                jagged(
                    [[[link[i] for link in jet] for jet in one] for one in values], 2, types[name]
                )
                for i, name in enumerate(LINK)
            ]
            values = ak.zip(dict(zip(LINK, parts, strict=True)))
            if base:
                values = ak.zip({":_0": values}, depth_limit=3)
        elif not isinstance(values, ak.Array):
            values = jagged(values, depth, types.get(column, "f4"))
        name = event if container == "EventInfo" else spelling
        data[name.format(container, physlite.PREFIX.sub("", column))] = values
    return data


def write_by_hand(path, *, tree="EventData", **change):
    with uproot.recreate(path) as file:
        file[tree] = columns_of(**change)
    return path


def write_release_21(path, **change):
    """As the older files: names of a TTree, EventInfo in a static store, one vertex kept, a
    continuous Jvt.
    """
    return write_by_hand(
        path,
        tree="CollectionTree",
        spelling="{0}AuxDyn.{1}",
        event="EventInfoAux./EventInfoAux.{1}",
        leave_out=NEW,
        **({"z": [[10], [-41]], "vertexType": [[1], [1]]} | change),
    )


def read(path, **options):
    tally = {}
    return list(physlite.read(path, tally=tally, **options)), tally


@pytest.fixture
def jets(tmp_path):
    ((jets,), tally) = read(write_by_hand(tmp_path / "a.root"))
    assert tally == {"rows": 2, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 0}
    return jets


def test_jets_by_hand(jets):
    found = {name: jets[name].tolist() for name in jets.fields if name != "constituents"}
    event = event_number(np.full(4, 300_000), np.zeros(4, int), np.array([7, 7, 7, 2**40])).tolist()
    assert found.pop("event") == event and event[0] != event[3]
    wanted = {
        "pt": [80, 40, 20, 60],
        "eta": [0.5, -1, 3, 0],
        "phi": [1, -2, 3.1416 - 2 * np.pi, 0],
        "mass": [9, 5, 0, 7],
        "corr_jvf": [0.9, 0.25, -1, 0.5],
        "rpt": [0.6, 0.1, 0, 0.5],
        "fjvt": [0, 0, 0.75, 0],
        "nn_jvt_pass": [True, False, True, True],
        "n_tracks": [4, 1, 0, 2],
        "sum_track_pt": [48, 4, 0, 30],
        "sum_track_pt_pileup": [2.5, 6, 0, 0],
        "track_width": [0.125, 0.25, -1, 0.0625],
        "n_vertices": [2, 2, 2, 1],
        "label": [1, 0, 0, 1],
        "n_constituents": [2, 0, 0, 1],
    }
    assert found.keys() == wanted.keys(), "what a file lacks (jvt) is absent"
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name
    assert (
        jetnb.jets.classes(jets) == ["pile_up", "hard_scatter"]
        and jetnb.jets.provenance(jets)["source"] == "simulation"
    )


def test_tracks_by_hand(jets):
    first, second = jets.constituents[0].tolist()  # tracks 2 and 0: the other links lead nowhere
    mass2 = 0.13957**2
    assert first == pytest.approx(
        {
            "pt": 24,
            "eta": np.arcsinh(np.sqrt(3)),
            "phi": 1,
            "energy": np.sqrt(48**2 + mass2),
            "charge": 1,
            "pdg_id": 211,
            "has_track": True,
            "d0": 0.25,
            "d0_error": 0.1,
            "z0": 10.5,
            "dz": 0.5,
            "dz_error": 0.3,
        },
        rel=1e-6,
    )
    assert second == pytest.approx(
        {
            "pt": 20,
            "eta": 0,
            "phi": 1.5,
            "energy": np.sqrt(400 + mass2),
            "charge": -1,
            "pdg_id": -211,
            "has_track": True,
            "d0": 0.5,
            "d0_error": 0.2,
            "z0": 11,
            "dz": 1,
            "dz_error": 0.5,
        },
        rel=1e-6,
        abs=1e-6,
    )
    (last,) = jets.constituents[3].tolist()
    assert (last["pt"], last["z0"], last["dz"], last["dz_error"]) == pytest.approx((30, -40, 1, 2))


INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
SMALL = {"runNumber": [100, 100], "eventNumber": [7, 8]}  # these fit into all types


@pytest.fixture(scope="module")
def electrons(tmp_path_factory):
    """Jets with an electron near the second, which is -1."""
    ((jets,), _) = read(
        write_by_hand(tmp_path_factory.mktemp("a") / "a.root", **(SMALL | ELECTRONS))
    )
    assert jets.label.tolist() == [1, -1, 0, 1]
    return jets


@pytest.mark.parametrize("dtype", [*INTEGERS, "bool"])
def test_flags_and_numbers_of_every_integer_type_read_the_same(tmp_path, electrons, dtype):
    """isJvtHS is int8 in published TTrees and uint8 in RNTuples."""
    flags = ("isJvtHS", "NNJvtPass")
    numbers = (
        ()
        if dtype == "bool"
        else ("vertexType", "NumTrkPt500", "runNumber", "eventNumber", "eventTypeBitmask")
    )
    links = LINK if dtype[1] in "48" else ()  # their numbers do not fit into less
    path = write_by_hand(
        tmp_path / "b.root",
        types=dict.fromkeys((*flags, *numbers, *links), dtype),
        **(SMALL | ELECTRONS),
    )
    (found,), _ = read(path)
    assert ak.array_equal(found, electrons, check_parameters=False)


def test_release_21(tmp_path):
    (jets,), _ = read(write_release_21(tmp_path / "old.root"))
    assert not {"nn_jvt_pass"} & set(jets.fields)
    assert jets.jvt.tolist() == pytest.approx([0.95, 0.125, -0.1, 0.5])
    assert jets.rpt.tolist() == [0.5, 0.25, 0, 0.375], "as stored, not computed"
    assert jets.label.tolist() == [-1] * 4
    assert jets.n_vertices.tolist() == [2, 2, 2, 1], "only one vertex is kept"
    assert jets.sum_track_pt.tolist() == [48, 4, 0, 30] and jets.sum_track_pt_pileup.tolist() == [
        2.5,
        6,
        0,
        0,
    ]
    assert jets.constituents.dz[0].tolist() == pytest.approx([0.5, 1])
    (new,), _ = read(write_by_hand(tmp_path / "new.root"))
    assert jets.event.tolist() == new.event.tolist()


@pytest.mark.parametrize("name", ["{0}AuxDyn.{1}", "{0}Aux./{0}Aux.{1}", "{0}AuxDyn:{1}"])
@pytest.mark.parametrize("base", [False, True])
def test_every_spelling_of_the_columns_reads_the_same(tmp_path, jets, name, base):
    tree = "EventData" if ":" in name else "CollectionTree"
    (found,), _ = read(
        write_by_hand(tmp_path / "b.root", tree=tree, spelling=name, event=name, base=base)
    )
    assert ak.array_equal(found, jets, check_parameters=False)


def test_the_hard_scatter_vertex_is_the_first_of_type_1_or_else_the_first(tmp_path):
    (jets,), tally = read(write_by_hand(tmp_path / "a.root", vertexType=[[3, 1, 1], [3, 0]]))
    assert jets.n_tracks.tolist() == [1, 2, 0, 2] and jets.sum_track_pt_pileup.tolist() == [
        48.5,
        4,
        0,
        0,
    ]
    assert jets.n_vertices.tolist() == [3, 3, 3, 1]
    assert jets.constituents.dz[0].tolist() == pytest.approx([40.5, 41])
    (alone,) = jets.constituents[3].tolist()  # no vertex of type 1: dz cannot be known
    assert (
        not alone["has_track"]
        and alone["d0"] == alone["dz"] == alone["d0_error"] == alone["dz_error"] == 0
    )
    assert alone["charge"] == 1 and tally["tracks"] == 0


ELECTRONS = {
    "electron_pt": [[6_000, 4_900], [50_000]],
    "electron_eta": [[-0.65, 3], [2]],
    "electron_phi": [[-2 + 2 * np.pi, 3.1416], [0]],
}
TRUE = {
    "truth_px": [[-20_000, 0], []],
    "truth_py": [[-1_000, 0], []],
    "truth_pz": [[20_000 * np.sinh(2.8), 5_000], []],
}


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({}, [1, 0, 0, 1]),
        (
            ELECTRONS,
            [1, -1, 0, 1],
        ),  # at 0.35 of the second jet; too soft; far from the only jet of its event
        (
            ELECTRONS | {"electron_eta": [[-0.5, 3], [0.39]]},
            [1, 0, 0, -1],
        ),  # at 0.5 and 0.39: a hard-scatter jet as well
        (ELECTRONS | {"electron_pt": [[np.nan, 4_900], [50_000]]}, [1, 0, 0, 1]),
        (ELECTRONS | {"electron_phi": [[np.inf, np.nan], [0]]}, [1, 0, 0, 1]),
        (TRUE, [1, 0, -1, 1]),  # across phi = pi
        (TRUE | ELECTRONS, [1, -1, -1, 1]),
        ({"electron_pt": ELECTRONS["electron_pt"], "truth_px": TRUE["truth_px"]}, [1, 0, 0, 1]),
    ],
)
def test_jets_near_an_electron_are_unlabelled(tmp_path, change, label):
    (jets,), _ = read(write_by_hand(tmp_path / "a.root", **change))
    assert jets.label.tolist() == label
    for size in (1, 2):  # one event has electrons, the other not
        blocks, _ = read(write_by_hand(tmp_path / "b.root", **change), block_size=size)
        assert [x for block in blocks for x in block.label.tolist()] == label


def test_electrons_label_nothing_in_data(tmp_path):
    (jets,), _ = read(write_by_hand(tmp_path / "a.root", leave_out=(*OLD, "isJvtHS"), **ELECTRONS))
    assert jets.label.tolist() == [-1] * 4
    with pytest.raises(
        ValueError, match="event 1 has a length of eta that is not .* columns of AnalysisElectrons"
    ):
        read(write_by_hand(tmp_path / "b.root", **(ELECTRONS | {"electron_eta": [[0, 3], []]})))


def test_data_are_unlabelled_open_data(tmp_path):
    (jets,), _ = read(
        write_by_hand(tmp_path / "a.root", leave_out=(*OLD, "isJvtHS"), eventTypeBitmask=[0, 0])
    )
    assert jets.label.tolist() == [-1] * 4 and jetnb.jets.provenance(jets)["source"] == "open data"
    assert {"selection", "units", "licence", "citation"} <= jetnb.jets.provenance(jets).keys()


def test_what_a_file_lacks_is_absent(tmp_path):
    absent = {
        "vz": {"z0", "dz", "dz_error"},
        "definingParametersCovMatrixDiag": {"d0_error", "dz_error"},
        "eventTypeBitmask": set(),
    }
    for column, fields in absent.items():
        (jets,), _ = read(write_by_hand(tmp_path / f"{column}.root", leave_out=(*OLD, column)))
        assert {"d0", "d0_error", "z0", "dz", "dz_error"} - set(jets.constituents.fields) == fields
        assert ak.all(jets.constituents.has_track)


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    path = write_by_hand(
        tmp_path / "a.root",
        pt=[[0, 40_000, 20_000], [60_000]],
        JVFCorr=[[0.9, np.nan, -1], [0.5]],
        GhostTrack=[[[], [], [(KEY, 0), (KEY, 1), (KEY, 2)]], [[(KEY, 0)]]],
        qOverP=[[0, 1 / 5000, 1 / 48_000], [1 / 30_000]],
        d0=[[0.5, np.nan, 0.25], [1]],
        definingParametersCovMatrixDiag=[[[1] * 5] * 3, [[-1, 4, 1, 2, 3]]],
    )
    (jets,), tally = read(path)
    assert tally == {"rows": 2, "jets": 2, "constituents": 1, "tracks": 2, "unsorted": 1}
    assert jets.pt.tolist() == pytest.approx([20, 60])
    assert jets.constituents.pt[0].tolist() == pytest.approx([24, 5 * np.sin(1)])
    assert jets.constituents.has_track.tolist() == [[True, False], [False]]


def test_events_without_jets_tracks_or_vertices(tmp_path):
    empty = {
        column: [[], *lists[1:]] for column, lists in EVENTS.items() if physlite.COLUMNS[column][1]
    }
    (jets,), tally = read(write_by_hand(tmp_path / "a.root", **empty))
    assert len(jets) == 1 and tally["rows"] == 2
    none = {"z": [[], []], "vertexType": [[], []], "NumTrkPt500": [[[]] * 3, [[]]]}
    none |= {column: none["NumTrkPt500"] for column in ("SumPtTrkPt500", "TrackWidthPt1000")}
    (jets,), _ = read(write_by_hand(tmp_path / "b.root", **none))
    for name, value in (
        ("n_tracks", 0),
        ("sum_track_pt", 0),
        ("sum_track_pt_pileup", 0),
        ("track_width", -1),
        ("n_vertices", 0),
        ("rpt", 0),
    ):
        assert jets[name].tolist() == [value] * 4, name


def test_no_events_no_blocks(tmp_path):
    nothing = {column: [] for column in EVENTS}
    path = write_by_hand(tmp_path / "a.root", **nothing)
    assert read(path)[0] == [] and physlite.count(path) == 0 and physlite.recognises(path)


def test_blocks_and_ranges_add_up(tmp_path):
    path = write_by_hand(
        tmp_path / "a.root", **{column: lists * 7 for column, lists in EVENTS.items()}
    )
    (whole,), _ = read(path)
    assert physlite.count(path) == 14 and len(whole) == 28
    for size in (1, 3, 14):
        blocks, tally = read(path, block_size=size)
        assert tally["rows"] == 14 and ak.array_equal(
            ak.concatenate(blocks), whole, check_parameters=False
        )
    (part,), tally = read(path, start=2, stop=5)
    assert tally["rows"] == 3 and ak.array_equal(part, whole[4:11], check_parameters=False)
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        physlite.read(path, block_size=0)


# ---- files that are wrong


@pytest.mark.parametrize(
    "column", [name for name, (_, _, needed) in physlite.COLUMNS.items() if needed]
)
def test_refuses_a_file_without_a_column_before_the_first_block(tmp_path, column):
    path = write_by_hand(tmp_path / "a.root", leave_out=(*OLD, column))
    for call in (physlite.read, physlite.count):
        with pytest.raises(
            ValueError,
            match=f"a.root has no branch .*[.]{column.removeprefix('track_')}.*not ATLAS",
        ):
            call(path)
    assert not physlite.recognises(path)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("pt", ak.Array([[[1.0]], [[2.0]]])),
        ("eta", ak.Array([1.0, 2.0])),
        ("phi", ak.Array([["a"], ["b"]])),
        ("NumTrkPt500", ak.Array([[1], [2]])),
        ("runNumber", ak.Array([1.5, 2.5])),
        ("GhostTrack", ak.Array([[[1]], [[2]]])),
        ("z", ak.Array([[{"x": 1.0}], [{"x": 1.0}]])),
        ("GhostTrack", ak.Array([[[{"m_persKey": 1}]], [[{"m_persKey": 1}]]])),
        ("GhostTrack", ak.Array([[[{"m_persKey": 1.5, "m_persIndex": 1}]]] * 2)),
    ],
)
def test_refuses_a_column_of_another_type_before_the_first_block(tmp_path, column, values):
    path = write_by_hand(tmp_path / "a.root", **{column: values})
    with pytest.raises(ValueError, match=f"a.root: column .*:{column} is .*Use the published one"):
        physlite.read(path)
    assert not physlite.recognises(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"eta": [[0.5, -1, 3], [0, 1]]},
            "event 1 has a length of eta that .* other columns of AnalysisJets",
        ),
        ({"z0": [[10, 7], [-40]]}, "event 0 has a length of z0"),
        ({"z": [[10], [-41, 0]]}, "event 0 has a length of"),
        ({"isJvtHS": [[1, 2, 0], [1]]}, "event 0 has isJvtHS other than 0 and 1 .1 of"),
        ({"NNJvtPass": [[1, 1, 0], [-1]]}, "event 1 has NNJvtPass other"),
        ({"GhostTrack": [[[], [], []], [[(KEY, 1)]]]}, "event 1 has GhostTrack that points beyond"),
        (
            {"NumTrkPt500": [[[4, 1, 0], [1, -2, 0], [0, 0, 0]], [[2, 0]]]},
            "event 0 has a negative NumTrkPt500",
        ),
        (
            {"NumTrkPt500": [[[4, 1, 0], [1, 2], [0, 0, 0]], [[2, 0]]]},
            "event 0 has NumTrkPt500 of fewer vertices",
        ),
        (
            {"SumPtTrkPt500": [[[1, 1, 0]] * 3, [[2, 0, 0]]]},
            "event 1 has SumPtTrkPt500 of another number",
        ),
        (
            {"definingParametersCovMatrixDiag": [[[1] * 5] * 3, [[1] * 4]]},
            "event 1 has definingParam",
        ),
        (
            {
                "qOverP": [[1e-45] * 3, [1]],
                "GhostTrack": [[[(KEY, 0)], [], []], [[]]],
                "types": {"qOverP": "f8"},
                "theta": [[1e-30] * 3, [1]],
            },
            None,
        ),
    ],
)
def test_values_that_contradict_each_other_are_named(tmp_path, change, says):
    path = write_by_hand(tmp_path / "a.root", **change)
    if says is None:  # absurd, but can be left out
        (jets,), tally = read(path)
        assert tally["constituents"] == 1 and jets.n_constituents.tolist() == [0] * 4
        return
    with pytest.raises(ValueError, match=f"a.root: events 0 to 1: {says}.*download it again"):
        read(path)
    with pytest.raises(
        ValueError, match=says
    ):  # the number of the event does not depend on the blocks
        read(path, block_size=1)


def test_refuses_what_is_not_there_or_not_root(tmp_path):
    with pytest.raises(FileNotFoundError):
        physlite.read(tmp_path / "none.root")
    (tmp_path / "page.root").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="page.root is not ROOT.*web page"):
        physlite.read(tmp_path / "page.root")
    with uproot.recreate(tmp_path / "other.root") as file:
        file["Events"] = {"x": np.zeros(2)}
    with pytest.raises(
        ValueError, match="has a tree 'CollectionTree' or 'EventData', here is nothing.* has Events"
    ):
        physlite.read(tmp_path / "other.root")
    assert not any(
        physlite.recognises(tmp_path / name) for name in ("none.root", "page.root", "other.root")
    )


NUMBERS = st.one_of(
    st.floats(-1e5, 1e5), st.sampled_from([0.0, 1.0, -1.0, 1e-45, 1e30, 1e300, np.nan, np.inf])
)
NOWHERE = st.tuples(st.sampled_from([0, 7]), st.sampled_from([0, 1, NULL])) | st.just((KEY, NULL))


@st.composite
def hostile(draw):
    """A few events of the right layout: `wild` of the values are any number, some columns too long
    or absent.
    """
    n_events, wild = draw(st.integers(0, 3)), draw(st.sampled_from([0, 0.02, 0.3]))
    sizes = {
        where: draw(st.lists(st.integers(0, 3), min_size=n_events, max_size=n_events))
        for where in physlite.FIRST
    }
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = np.array(draw(st.lists(NUMBERS, min_size=1, max_size=8)))

    def values(column, n):
        if column in TYPES:
            return (rng.integers(0, 2, n) - (rng.random(n) < wild / 10)).tolist()
        scale = 1e-4 if column == "qOverP" else 3 if column == "theta" else 1e5
        return np.where(
            rng.random(n) < wild, rng.choice(pool, n), rng.uniform(0, scale, n)
        ).tolist()

    events = {}
    for column, (where, depth, _) in physlite.COLUMNS.items():
        lengths = sizes.get(where, [0] * n_events)
        if depth and rng.random() < wild / 10:
            lengths = [n + 1 for n in lengths]
        inner = [5] * n_events if where == "InDetTrackParticles" else sizes["PrimaryVertices"]
        if column == "GhostTrack":
            ends = [3 if rng.random() < wild else n for n in sizes["InDetTrackParticles"]]
            events[column] = [
                [
                    draw(
                        st.lists(
                            st.tuples(st.just(KEY), st.integers(0, end - 1)) if end else NOWHERE,
                            max_size=2,
                        )
                    )
                    for _ in range(n)
                ]
                for n, end in zip(lengths, ends, strict=True)
            ]
        elif depth == 2:
            events[column] = [
                [values(column, m) for _ in range(n)] for n, m in zip(lengths, inner, strict=True)
            ]
        else:
            events[column] = (
                [values(column, n) for n in lengths] if depth else values(column, n_events)
            )
    out = [column for column in events if rng.random() < wild / 20]
    return events, out, {"pt": draw(st.sampled_from(["f4", "f8"]))}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(hostile(), st.sampled_from([OLD, NEW]))
def test_hostile_events_give_good_jets_or_a_value_error(tmp_path, case, kind):
    events, out, types = case
    types |= {name: "i8" for name in ("runNumber", "eventNumber", "eventTypeBitmask")}
    path = write_by_hand(tmp_path / "h.root", leave_out=(*kind, *out), types=types, **events)
    try:
        blocks, tally = read(path, block_size=2)
    except ValueError as error:
        assert "h.root" in str(error)
        return
    assert physlite.recognises(path) and tally["rows"] == len(events["runNumber"])
    for block in blocks:
        jetnb.jets.check(block)
    n_jets = sum(map(len, events["pt"]))
    assert sum(map(len, blocks)) + tally["jets"] == n_jets


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_give_good_jets_or_a_value_error(tmp_path, at, byte, cut):
    content = bytearray(write_by_hand(tmp_path / "h.root").read_bytes())
    place = int(at * (len(content) - 1))
    content[place] = byte
    (tmp_path / "h.root").write_bytes(content[:place] if cut else content)
    assert physlite.recognises(tmp_path / "h.root") in (True, False)
    try:
        blocks, _ = read(tmp_path / "h.root")
    except ValueError as error:
        assert "h.root" in str(error)
    else:
        assert [jetnb.jets.check(block) for block in blocks] == [None] * len(blocks)


# ---- real simulated events


@pytest.fixture(scope="module")
def real():
    if not REAL.exists():
        pytest.skip(f"the real file {REAL.name} is not on this machine")
    tally = {}
    (jets,) = physlite.read(REAL, tally=tally)
    assert tally["rows"] == 100 and tally["jets"] == tally["constituents"] == tally["tracks"] == 0
    return jets


def test_real_jets(real):
    assert physlite.recognises(REAL) and physlite.count(REAL) == 100
    assert (
        len(real) == 881
        and len(np.unique(real.event)) == 100
        and jetnb.jets.provenance(real)["source"] == "simulation"
    )
    assert np.bincount(ak.to_numpy(real.label) + 1).tolist() == [203, 511 - 187, 370 - 16], (
        "203 are near an electron"
    )
    assert "jvt" not in real.fields
    without = real.corr_jvf == -1
    assert ak.sum(without) == 222 and ak.all(real.n_tracks[without] == 0)
    assert ak.all(real.sum_track_pt_pileup[without] == 0) and ak.all(real.rpt[without] == 0)
    assert ak.min(real.pt) > 9 and ak.max(real.pt) == pytest.approx(728.97, abs=0.01)
    assert ak.min(real.n_vertices) > 5 and ak.max(real.n_vertices) < 80
    assert np.median(real.rpt[real.label == 1]) > 0.4 and np.median(real.rpt[real.label == 0]) == 0
    assert ak.mean(real.rpt[real.label == 0] > 0.2) < 0.1, (
        "electrons have one track with nearly all of the pt"
    )


def test_real_sums_of_tracks_are_those_behind_corr_jvf(real):
    """corrJVF = sum / (sum + sum_pileup / (0.01 n)), arXiv:1510.03823, n being the same whole
    number in an event.
    """
    some = real[(real.corr_jvf > 0.02) & (real.corr_jvf < 0.98)]
    n = ak.to_numpy(
        100 * some.sum_track_pt_pileup * some.corr_jvf / (some.sum_track_pt * (1 - some.corr_jvf))
    )
    assert len(n) > 300 and np.abs(n / np.round(n) - 1).max() < 1e-4
    event = ak.to_numpy(some.event)
    assert (
        len(set(zip(event.tolist(), np.round(n).tolist(), strict=True)))
        == len(np.unique(event))
        > 90
    )


def test_real_tracks(real):
    inside = ak.flatten(real.constituents)
    assert len(inside) == 1126 and 0.5 < ak.mean(real.n_constituents == 0) < 0.9
    assert ak.all(inside.has_track) and set(inside.charge.tolist()) == {-1, 1}
    away = ak.to_numpy(ak.flatten(real.constituents.deltaR(real)))
    assert np.quantile(away, 0.99) < 0.45, "a track belongs to its jet"
    assert np.median(abs(inside.dz)) < 0.1 < np.median(abs(inside.z0)), (
        "most of them are from the hard scatter"
    )
    assert (
        np.median(inside.dz_error) == pytest.approx(0.07, abs=0.05)
        and ak.min(inside.d0_error) > 0.003
    )


def test_real_blocks_add_up_to_the_same(real):
    blocks = list(physlite.read(REAL, block_size=33, start=1))
    whole = real[ak.to_numpy(real.event) != real.event[0]]
    assert [ak.array_equal(ak.concatenate(blocks), whole, check_parameters=False), len(blocks)] == [
        True,
        3,
    ]


def test_a_tree_is_found_by_the_first_of_its_names_that_is_there(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file["b"], file["c"] = {"x": np.zeros(2)}, {"x": np.zeros(3)}
    with _root.open_tree(tmp_path / "a.root", ("a", "c", "b"), "x") as tree:
        assert tree.num_entries == 3
