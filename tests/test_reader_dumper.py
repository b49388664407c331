"""The reader of the training-dataset-dumper of ATLAS, on files written here by hand in the
documented layout.
"""

from __future__ import annotations

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jetnb
import jetnb.jets
from jetnb.readers import dumper
from jetnb.readers.aspen import event_number

JETS = {
    "pt": "f4",
    "eta": "f4",
    "phi": "f4",
    "mass": "f4",
    "pt_btagJes": "f4",
    "eta_btagJes": "f4",
    "eventNumber": "i8",
    "isJvtHS": "?",
    "isJvtPU": "?",
    "HadronConeExclTruthLabelID": "i4",
}
TRACKS = {
    "valid": "?",
    "pt": "f4",
    "theta": "f4",
    "qOverP": "f4",
    "deta": "f4",
    "dphi": "f4",
    "d0": "f2",
    "d0Uncertainty": "f2",
    "d0RelativeToBeamspot": "f4",
    "d0RelativeToBeamspotUncertainty": "f4",
    "z0SinTheta": "f4",
    "z0SinThetaUncertainty": "f4",
    "z0RelativeToBeamspot": "f4",
    "z0RelativeToBeamspotUncertainty": "f4",
    "ftagTruthOriginLabel": "i4",
}
THETA = 2 * np.arctan(np.exp(-1))  # eta = 1
FIRST = {
    "valid": True,
    "pt": 20_000,
    "theta": np.pi / 2,
    "qOverP": -1 / 20_000,
    "deta": -0.25,
    "dphi": 0.25,
    "d0": 0.5,
    "d0Uncertainty": 0.25,
    "d0RelativeToBeamspot": 0.52,
    "d0RelativeToBeamspotUncertainty": 0.02,
    "z0SinTheta": 3,
    "z0SinThetaUncertainty": 0.5,
    "z0RelativeToBeamspot": -30,
    "z0RelativeToBeamspotUncertainty": 0.4,
    "ftagTruthOriginLabel": 5,
}
SECOND = FIRST | {
    "pt": 30_000,
    "theta": THETA,
    "qOverP": np.sin(THETA) / 30_000,
    "z0SinTheta": -2 * np.sin(THETA),
    "z0SinThetaUncertainty": 0.3 * np.sin(THETA),
    "ftagTruthOriginLabel": 0,
    "deta": 0.75,
    "dphi": 0.5,
}
HARD = {
    "pt": 50_000,
    "eta": 0.3,
    "phi": 3.0,
    "mass": 5_000,
    "pt_btagJes": 48_000,
    "eta_btagJes": 0.25,
    "eventNumber": 7,
    "isJvtHS": True,
    "isJvtPU": False,
    "HadronConeExclTruthLabelID": 5,
}
PILE_UP = HARD | {"pt": 25_000, "mass": -0.5, "isJvtHS": False, "isJvtPU": True}
NEITHER = PILE_UP | {"isJvtPU": False, "eventNumber": 2**40}
DEFAULT = ((HARD, [FIRST, SECOND]), (PILE_UP, []), (NEITHER, [FIRST]))


def write_by_hand(
    path, jets=DEFAULT, *, slots=40, leave_out=(), add=(), name="tracks", chunked=True, **types
):
    """`jets`: pairs of a jet and its tracks, as mappings; unused slots are NaN or 0, and not valid.

    leave_out: fields that are not written, e.g. "theta", "jets.pt". add: field of tracks, or
    "jets.<field>" -> type. types: field -> another type, in both.
    """
    jet_types, track_types = JETS.copy(), TRACKS.copy()
    for field, kind in dict(add).items():
        where, _, field = field.rpartition(".")
        (jet_types if where else track_types)[field] = kind
    jet_types, track_types = (
        {
            field: types.get(field, kind)
            for field, kind in all_of.items()
            if field not in leave_out and f"{where}.{field}" not in leave_out
        }
        for where, all_of in (("jets", jet_types), ("tracks", track_types))
    )
    table = np.zeros(len(jets), list(jet_types.items()))
    inside = np.zeros((len(jets), slots), list(track_types.items()))
    for field in track_types:
        if inside[field].dtype.kind == "f":
            inside[field] = (
                np.nan
            )  # the dumper leaves some value in slots that are not valid: none may matter
    with np.errstate(all="ignore"):
        for row, (jet, tracks) in enumerate(jets):
            for field in jet_types:
                table[field][row] = jet[field]
            for slot, track in enumerate(tracks):
                for field in track_types:
                    inside[field][row, slot] = track[field]
    options = {"chunks": (2,), "compression": "gzip"} if chunked and len(jets) > 1 else {}
    with h5py.File(path, "w") as file:
        file.create_dataset("jets", data=table, **options)
        file.create_dataset(
            name, data=inside, **(options | {"chunks": (2, slots)} if options else {})
        )
        file["eventwise"] = np.zeros(2)
    return path


def read(path, **options):
    tally = {}
    return list(dumper.read(path, tally=tally, **options)), tally


@pytest.fixture
def jets(tmp_path):
    ((jets,), tally) = read(write_by_hand(tmp_path / "a.h5"))
    assert tally == {"rows": 3, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 1}
    return jets


def test_jets_by_hand(jets):
    found = {name: jets[name].tolist() for name in jets.fields if name != "constituents"}
    event = found.pop("event")
    assert (
        event == event_number(np.zeros(3, int), np.zeros(3, int), np.array([7, 7, 2**40])).tolist()
    )
    assert event[0] == event[1] != event[2]
    wanted = {
        "pt": [50, 25, 25],
        "eta": [0.3] * 3,
        "phi": [3] * 3,
        "mass": [5, 0, 0],
        "label": [1, 0, -1],
        "n_constituents": [2, 0, 1],
    }
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, rel=1e-6), name
    assert (
        jetnb.jets.classes(jets) == ["pile_up", "hard_scatter"]
        and jetnb.jets.provenance(jets)["source"] == "simulation"
    )
    assert {"selection", "units", "licence", "citation"} <= jetnb.jets.provenance(jets).keys()


def test_tracks_by_hand(jets):
    first, second = jets.constituents[0].tolist()
    assert first == pytest.approx(
        {
            "pt": 30,
            "eta": 1,
            "phi": 3.5 - 2 * np.pi,
            "energy": np.hypot(30 * np.cosh(1), 0.13957),
            "charge": 1,
            "has_track": True,
            "d0": 0.52,
            "d0_error": 0.02,
            "z0": -30,
            "dz": -2,
            "dz_error": 0.4,
            "from_hard_scatter": False,
        },
        rel=1e-5,
    )
    assert second == pytest.approx(
        {
            "pt": 20,
            "eta": 0,
            "phi": 3.25 - 2 * np.pi,
            "energy": np.hypot(20, 0.13957),
            "charge": -1,
            "has_track": True,
            "d0": 0.52,
            "d0_error": 0.02,
            "z0": -30,
            "dz": 3,
            "dz_error": 0.4,
            "from_hard_scatter": True,
        },
        rel=1e-5,
        abs=1e-6,
    )


def test_fields_are_those_of_the_simulated_sample(jets):
    mine = jetnb.load("pileup", n_jets=1)
    assert set(jets.constituents.fields) == set(mine.constituents.fields)
    assert set(mine.fields) - set(jets.fields) == {"n_vertices", "corr_jvf", "rpt", "jvt"}, (
        "not in the format"
    )
    assert jetnb.jets.classes(jets) == jetnb.jets.classes(mine)


def test_the_file_is_known_by_its_content(tmp_path, jets):
    path = write_by_hand(tmp_path / "anything.at.all")
    assert jetnb.load(path).pt.tolist() == jets.pt.tolist() and jetnb.load(
        path, n_jets=2
    ).label.tolist() == [1, 0]
    assert jetnb.check(path).format == "dumper"
    with h5py.File(path, "a") as file:
        del file["tracks"]
    with pytest.raises(
        ValueError, match="no dataset 'tracks', so it is not the training-dataset-.*eventwise, jets"
    ):
        jetnb.load(path)


@pytest.mark.parametrize(
    ("without", "change"),
    [
        (("jets.pt", "jets.eta"), {"pt": [48] * 3, "eta": [0.25] * 3}),
        (("pt_btagJes", "eta_btagJes", "HadronConeExclTruthLabelID"), {}),
    ],
)
def test_variants_of_the_jets(tmp_path, jets, without, change):
    (found,), _ = read(write_by_hand(tmp_path / "b.h5", leave_out=without))
    for name in ("pt", "eta", "phi", "mass", "label", "event"):
        assert found[name].tolist() == pytest.approx(change.get(name, jets[name].tolist())), name
    assert found.constituents.eta.tolist() == jets.constituents.eta.tolist()


@pytest.mark.parametrize(
    ("without", "add", "change"),
    [
        (("theta",), {}, {"eta": [1, 0], "dz": [-2, 3]}),  # from deta and eta_btagJes
        (
            ("theta",),
            {"eta": 0.5},
            {"eta": [0.5, 0.5], "dz": [-2 * np.sin(THETA) * np.cosh(0.5), 3 * np.cosh(0.5)]},
        ),
        ((), {"phi": -1.5}, {"phi": [-1.5, -1.5]}),
        (("d0RelativeToBeamspotUncertainty",), {}, {"d0": [0.5, 0.5], "d0_error": [0.25, 0.25]}),
        (("d0RelativeToBeamspot",), {}, {"d0": [0.5, 0.5], "d0_error": [0.25, 0.25]}),
        (("z0RelativeToBeamspotUncertainty",), {}, {"dz_error": [0.3, 0.5]}),
        (("z0RelativeToBeamspot",), {}, {"z0": None}),
        (("ftagTruthOriginLabel",), {}, {"from_hard_scatter": None}),
        (("ftagTruthOriginLabel",), {"truthOriginLabel": 1}, {"from_hard_scatter": [False, False]}),
        (("d0", "d0Uncertainty", "dphi", "deta"), {"phi": 1}, {"phi": [1, 1]}),
    ],
)
def test_variants_of_the_tracks(tmp_path, jets, without, add, change):
    rows = [(jet, [track | add for track in tracks]) for jet, tracks in DEFAULT]
    for name in ("tracks", "tracks_loose"):
        (found,), _ = read(
            write_by_hand(
                tmp_path / f"{name}.h5",
                rows,
                leave_out=without,
                add=dict.fromkeys(add, "f4"),
                name=name,
            )
        )
        for field in jets.constituents.fields:
            wanted = change.get(field, jets.constituents[field][0].tolist())
            if wanted is None:
                assert field not in found.constituents.fields
            elif field not in ("energy", "phi", "eta", "dz") or field in change:
                assert found.constituents[field][0].tolist() == pytest.approx(
                    wanted, rel=1e-4, abs=1e-5
                ), field


def test_pt_of_a_track_from_its_curvature(tmp_path):
    (found,), _ = read(write_by_hand(tmp_path / "a.h5", leave_out=["tracks.pt"]))
    assert found.constituents.pt[0].tolist() == pytest.approx([30, 20])


def test_deta_is_relative_to_the_eta_of_the_jet_where_there_is_no_other(tmp_path):
    (found,), _ = read(write_by_hand(tmp_path / "a.h5", leave_out=["theta", "eta_btagJes"]))
    assert found.constituents.eta[0].tolist() == pytest.approx([1.05, 0.05])


def test_n_vertices_where_it_is_stored(tmp_path):
    rows = [(HARD | {"nPrimaryVertices": n}, []) for n in (40, 41)]
    (found,), _ = read(write_by_hand(tmp_path / "a.h5", rows, add={"jets.nPrimaryVertices": "i4"}))
    assert found.n_vertices.tolist() == [40, 41]


def test_only_valid_tracks_are_taken(tmp_path):
    off = SECOND | {"valid": False}
    rows = [(HARD, [off, FIRST, off]), (PILE_UP, [off]), (HARD, [FIRST] * 40), (HARD, [])]
    (found,), tally = read(write_by_hand(tmp_path / "a.h5", rows))
    assert (
        found.n_constituents.tolist() == [1, 0, 40, 0]
        and tally["constituents"] == tally["unsorted"] == 0
    )
    assert found.constituents.pt[0].tolist() == [20]
    (found,), _ = read(write_by_hand(tmp_path / "b.h5", rows[:2], slots=60))
    assert found.n_constituents.tolist() == [1, 0]


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    nan = np.nan
    tracks = [
        FIRST | {"pt": nan},
        FIRST | {"theta": nan},
        FIRST | {"dphi": np.inf},
        FIRST | {"pt": 0},
        FIRST | {"qOverP": nan},
        FIRST | {"theta": 0},
        FIRST | {"pt": 1e38, "theta": 1e-6},  # seven
        FIRST | {"d0RelativeToBeamspot": nan},
        FIRST | {"z0RelativeToBeamspotUncertainty": -1},
        FIRST | {"d0RelativeToBeamspotUncertainty": -1},
        FIRST | {"z0SinTheta": np.inf},
        FIRST | {"z0RelativeToBeamspot": nan},
        FIRST,
    ]
    rows = [
        (HARD, tracks),
        (HARD | {"pt": 0}, [FIRST]),
        (HARD | {"eta": nan}, []),
        (HARD | {"mass": np.inf}, []),
        (PILE_UP, []),
    ]
    (found,), tally = read(write_by_hand(tmp_path / "a.h5", rows))
    assert tally == {"rows": 5, "jets": 3, "constituents": 7, "tracks": 5, "unsorted": 0}
    assert found.label.tolist() == [1, 0]
    assert found.constituents.has_track.tolist() == [[False] * 5 + [True], []]
    for name in ("d0", "d0_error", "dz", "dz_error", "z0"):
        assert found.constituents[name][0].tolist()[:5] == [0] * 5


def test_numbers_of_any_type(tmp_path, jets):
    kinds = {
        "pt": "f8",
        "isJvtHS": "i1",
        "isJvtPU": "u1",
        "eventNumber": ">u8",
        "valid": "i1",
        "theta": ">f8",
        "mass": "<f8",
    }
    (found,), _ = read(write_by_hand(tmp_path / "a.h5", chunked=False, **kinds))
    for name in ("pt", "label", "event", "n_constituents"):
        assert found[name].tolist() == jets[name].tolist()
    half = {name: "f2" for name in TRACKS if TRACKS[name] == "f4" and name != "qOverP"}
    (found,), _ = read(write_by_hand(tmp_path / "b.h5", **half))
    assert found.constituents.pt[0].tolist() == pytest.approx([30, 20], rel=1e-3), (
        "half precision is enough"
    )


def test_blocks_and_ranges_add_up(tmp_path):
    rng = np.random.default_rng(1)
    rows = [
        (HARD | {"pt": rng.uniform(2e4, 1e5), "eventNumber": i}, [FIRST, SECOND][: i % 3])
        for i in range(23)
    ]
    path = write_by_hand(tmp_path / "a.h5", rows)
    (whole,), _ = read(path)
    assert dumper.count(path) == len(whole) == 23 and dumper.recognises(path)
    for size in (1, 5, 23, 100):
        blocks, tally = read(path, block_size=size)
        assert max(map(len, blocks)) <= size and tally["rows"] == 23
        assert [
            x for block in blocks for x in block.constituents.pt.tolist()
        ] == whole.constituents.pt.tolist()
    (part,), tally = read(path, start=4, stop=9, block_size=50)
    assert tally["rows"] == 5 and part.event.tolist() == whole.event[4:9].tolist()
    assert read(path, start=23)[0] == []
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        dumper.read(path, block_size=0)


def test_no_jets_no_blocks(tmp_path):
    path = write_by_hand(tmp_path / "a.h5", [])
    assert read(path)[0] == [] and dumper.count(path) == 0 and dumper.recognises(path)


# ---- files that are wrong


@pytest.mark.parametrize(
    ("without", "says"),
    [
        (("isJvtHS",), "'jets' has no field 'isJvtHS', as .*, but pt, eta, .*isJvtPU"),
        (("isJvtPU",), "no field 'isJvtPU'"),
        (("mass",), "no field 'mass'"),
        (("jets.pt", "pt_btagJes"), "'jets' has no field 'pt' or 'pt_btagJes'"),
        (("tracks.pt", "theta"), "'tracks' has no field 'pt' or 'theta' with 'qOverP'"),
        (("eventNumber",), "no field 'eventNumber'"),
        (("eta", "eta_btagJes"), "no field 'eta' or 'eta_btagJes'"),
        (("phi",), "'jets' has no field 'phi'"),
        (("valid",), "'tracks' has no field 'valid', as .*, but pt, theta"),
        (("qOverP",), "no field 'qOverP'"),
        (("z0SinTheta",), "no field 'z0SinTheta'"),
        (("dphi",), "no field 'phi' or 'dphi'"),
        (("theta", "deta"), "no field 'eta' or 'theta' or 'deta'"),
        (
            ("d0Uncertainty", "d0RelativeToBeamspot"),
            "no field 'd0RelativeToBeamspot' with 'd0RelativeToBeamspotUncertainty' or 'd0' with 'd0Uncertainty'",
        ),
        (
            ("z0RelativeToBeamspotUncertainty", "z0SinThetaUncertainty"),
            "no field 'z0RelativeToBeamspotUncertainty' or",
        ),
    ],
)
def test_a_missing_field_is_named_before_the_first_block(tmp_path, without, says):
    path = write_by_hand(tmp_path / "a.h5", leave_out=without)
    for call in (dumper.read, dumper.count, jetnb.load):
        with pytest.raises(ValueError, match=f"a.h5: dataset .*{says}"):
            call(path)
    assert not dumper.recognises(path)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("jets", None, "no dataset 'jets'"),
        ("tracks", None, "no dataset 'tracks'"),
        ("jets", np.zeros(3, "f4"), r"'jets' is float32 of shape \(3,\)"),
        ("tracks", np.zeros(3, list(TRACKS.items())), r"shape \(3,\)"),
        ("tracks", np.zeros((3, 40, 2), list(TRACKS.items())), r"shape \(3, 40, 2\)"),
        ("tracks", np.zeros((3, 40)), r"'tracks' is float64 of shape \(3, 40\)"),
        ("tracks", np.zeros((2, 40), list(TRACKS.items())), "'jets' has 3 rows, but 'tracks' 2"),
        (
            "tracks",
            np.zeros((3, 40), list((TRACKS | {"pt": "S4"}).items())),
            "field 'pt' of 'tracks' is .S4",
        ),
        (
            "tracks",
            np.zeros((3, 40), list((TRACKS | {"z0RelativeToBeamspot": "S4"}).items())),
            "'z0RelativeToBeamspot' of",
        ),
        (
            "jets",
            np.zeros(3, [(n, k, (2,)) if n == "mass" else (n, k) for n, k in JETS.items()]),
            "field 'mass' of 'jets'",
        ),
        (
            "jets",
            np.zeros(3, list((JETS | {"eventNumber": "f4"}).items())),
            "'eventNumber' of 'jets' is float32",
        ),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, name, values, says):
    path = write_by_hand(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file[name]
        if values is not None:
            file[name] = values
    for call in (dumper.read, dumper.count):
        with pytest.raises(ValueError, match=f"a.h5.*{says}"):
            call(path)
    assert not dumper.recognises(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"isJvtPU": 1}, "row 1 of 'jets' has isJvtPU = 1, and isJvtHS as well"),
        ({"isJvtHS": 2}, "row 1 of 'jets' has isJvtHS = 2, neither 0 nor 1 .1 of 2 rows"),
        ({"isJvtHS": 0, "isJvtPU": -1}, "row 1 of 'jets' has isJvtPU = -1"),
    ],
)
def test_flags_that_make_no_sense_are_named(tmp_path, change, says):
    path = write_by_hand(
        tmp_path / "a.h5", [(HARD, []), (HARD | change, [])], isJvtHS="i1", isJvtPU="i1"
    )
    with pytest.raises(ValueError, match=f"a.h5: rows 0 to 1: {says}.*download the published file"):
        read(path)
    with pytest.raises(
        ValueError, match=says.partition(" .1")[0]
    ):  # the row does not depend on the blocks
        read(path, block_size=1)


def test_refuses_what_is_not_there_or_not_hdf5(tmp_path):
    with pytest.raises(FileNotFoundError):
        dumper.read(tmp_path / "none.h5")
    (tmp_path / "page.h5").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="page.h5.*web page"):
        dumper.read(tmp_path / "page.h5")
    assert not dumper.recognises(tmp_path / "none.h5") and not dumper.recognises(
        tmp_path / "page.h5"
    )


NUMBERS = st.one_of(
    st.floats(-1e5, 1e5), st.sampled_from([0.0, 1.0, -1.0, 1e-45, 1e30, 1e300, np.nan, np.inf])
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_hostile_values_give_good_jets_or_a_value_error(tmp_path, data, seed):
    rng = np.random.default_rng(seed)
    pool, wild = (
        data.draw(st.lists(NUMBERS, min_size=1, max_size=6)),
        data.draw(st.sampled_from([0, 0.1, 0.5])),
    )

    def spoilt(record, types):
        return {
            name: rng.choice(pool)
            if types[name][0] == "f" and rng.random() < wild
            else rng.integers(0, 2)
            if types[name] == "?" and rng.random() < wild / 5
            else value
            for name, value in record.items()
        }

    rows = [
        (
            spoilt([HARD, PILE_UP, NEITHER][i % 3], JETS),
            [spoilt([FIRST, SECOND][j % 2], TRACKS) for j in range(n)],
        )
        for i, n in enumerate(data.draw(st.lists(st.integers(0, 5), max_size=4)))
    ]
    out = [name for name in (*JETS, *TRACKS) if rng.random() < wild / 50]
    path = write_by_hand(
        tmp_path / "q.h5",
        rows,
        slots=5,
        leave_out=out,
        chunked=bool(rng.integers(2)),
        pt=data.draw(st.sampled_from(["f4", "f8", ">f4", "f2"])),
    )
    try:
        blocks, tally = read(path, block_size=int(rng.integers(1, 5)))
    except ValueError as error:
        assert "q.h5" in str(error)
        return
    assert (
        dumper.recognises(path)
        and tally["rows"] == len(rows) == sum(map(len, blocks)) + tally["jets"]
    )
    for block in blocks:
        jetnb.jets.check(block)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_give_good_jets_or_a_value_error(tmp_path, at, byte, cut):
    content = bytearray(write_by_hand(tmp_path / "q.h5").read_bytes())
    place = int(at * (len(content) - 1))
    content[place] = byte
    (tmp_path / "q.h5").write_bytes(content[:place] if cut else content)
    assert dumper.recognises(tmp_path / "q.h5") in (True, False)
    try:
        blocks, _ = read(tmp_path / "q.h5")
    except ValueError as error:
        assert "q.h5" in str(error)
    else:
        assert [jetnb.jets.check(block) for block in blocks] == [None] * len(blocks)
