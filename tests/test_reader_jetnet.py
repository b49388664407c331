"""The reader of JetNet, on files written here by hand in the published layout."""

from __future__ import annotations

import hashlib
import pickle

import awkward as ak
import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import jetnb.jets
from jetnb.readers import jetnet

# eta_rel, phi_rel, pt_rel, mask
PARTICLES = [[0.1, -0.2, 0.5, 1], [-0.3, 0.25, 0.3, 1], [0.0, 0.0, 0.125, 1]]
JET = [1000, -0.5, 90, 3]  # pt, eta, mass, num_particles


def write_by_hand(path, jets=((JET, PARTICLES),), *, slots=30, dtype="f4", **change):
    """`jets`: pairs of jet and particles; `change`: dataset -> array, or None to leave it out."""
    particles = np.zeros((len(jets), slots, 4))
    for row, (_, some) in zip(particles, jets, strict=True):
        row[: len(some)] = np.reshape(some, (-1, 4))
    features = np.reshape([jet for jet, _ in jets], (-1, 4))
    data = {
        "particle_features": particles.astype(dtype),
        "jet_features": features.astype(dtype),
    } | change
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            if values is not None:
                file[name] = values
    return path


def read(path, **options):
    tally = {}
    blocks = list(jetnet.read(path, tally=tally, **options))
    return blocks, tally


def test_values_by_hand(tmp_path):
    ([jets], tally) = read(write_by_hand(tmp_path / "t.hdf5"))
    found = jets[0].tolist()
    constituents = found.pop("constituents")
    event = (int(hashlib.sha256(b"t").hexdigest()[:8], 16) >> 1) * 2**32
    assert found.pop("event") == event and jets.event.type.content.primitive == "int64"
    assert found == pytest.approx(
        {"pt": 1000, "eta": -0.5, "phi": 0, "mass": 90, "label": 2, "n_constituents": 3}
    )
    wanted = [(500, -0.4, -0.2), (300, -0.8, 0.25), (125, -0.5, 0)]
    for one, (pt, eta, phi) in zip(constituents, wanted, strict=True):
        assert one == pytest.approx({"pt": pt, "eta": eta, "phi": phi, "energy": pt * np.cosh(eta)})
    assert tally == {"rows": 1, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 0}
    assert jetnb.jets.provenance(jets)["source"] == "simulation"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("g", "gluon"),
        ("q", "light_quark"),
        ("t", "TTBar"),
        ("w", "WToQQ"),
        ("z", "ZToQQ"),
        ("g150", "gluon"),
        ("z30", "ZToQQ"),
        ("G", None),
        ("gg", None),
        ("g_train", None),
        ("t1500", None),
        ("jets", None),
    ],
)
def test_the_class_is_in_the_name_of_the_file(tmp_path, name, label):
    ([jets], _) = read(write_by_hand(tmp_path / f"{name}.hdf5"))
    assert (
        (jets.label[0] == -1)
        if label is None
        else (jetnb.jets.classes(jets)[jets.label[0]] == label)
    )


def test_30_and_150_particles_of_one_class_share_their_events_and_classes_do_not(tmp_path):
    events = {}
    for name, slots in (("g", 30), ("g150", 150), ("q", 30), ("mine", 30)):
        ([jets], _) = read(
            write_by_hand(tmp_path / f"{name}.hdf5", [(JET, PARTICLES)] * 3, slots=slots)
        )
        events[name] = jets.event.tolist()
    assert events["g"] == events["g150"] and len({*events["g"], *events["q"], *events["mine"]}) == 9


@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8", "<f2"])
def test_any_floating_type(tmp_path, dtype):
    ([jets], _) = read(write_by_hand(tmp_path / "t.hdf5", dtype=dtype))
    assert jets.constituents.pt[0].tolist() == pytest.approx([500, 300, 125], rel=1e-3)
    assert jets.constituents.pt.type.content.content.primitive == "float32"


def test_padding_is_the_mask_and_nothing_else(tmp_path):
    padded = [
        PARTICLES[0],
        [0.1, 0.1, 0.4, 0],
        PARTICLES[1],
    ]  # a filled slot whose mask is 0, between two particles
    empty, full = [500, 0, 1, 0], [800, 0, 1, 30]
    jets, _ = read(
        write_by_hand(
            tmp_path / "t.hdf5",
            [([1000, 0, 9, 2], padded), (empty, []), (full, [[0, 0, 0.5, 1]] * 30)],
        )
    )
    assert jets[0].n_constituents.tolist() == [2, 0, 30]
    assert jets[0].constituents.pt[0].tolist() == pytest.approx([500, 300])


def test_num_particles_may_count_more_than_are_stored(tmp_path):
    (jets,), _ = read(
        write_by_hand(tmp_path / "t.hdf5", [([800, 0, 1, 64], [[0, 0, 0.5, 1]] * 30)])
    )
    assert jets.n_constituents.tolist() == [30]


def test_phi_is_wrapped(tmp_path):
    (jets,), _ = read(
        write_by_hand(tmp_path / "t.hdf5", [([800, 0, 1, 2], [[0, 3.5, 0.5, 1], [0, -4, 0.25, 1]])])
    )
    assert jets.constituents.phi[0].tolist() == pytest.approx([3.5 - 2 * np.pi, 2 * np.pi - 4])


def test_unsorted_particles_are_sorted_and_counted(tmp_path):
    (jets,), tally = read(
        write_by_hand(tmp_path / "t.hdf5", [(JET, PARTICLES), (JET, PARTICLES[::-1])])
    )
    assert jets.constituents.pt[1].tolist() == pytest.approx([500, 300, 125])
    assert jets.constituents.eta[1].tolist() == pytest.approx([-0.4, -0.8, -0.5])
    assert tally["unsorted"] == 1


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    bad = [
        [np.nan, 0, 0.9, 1],
        [0, np.inf, 0.9, 1],
        [0, 0, 0, 1],
        [0, 0, -0.1, 1],
        [500, 0, 0.1, 1],
        *PARTICLES,
    ]
    rows = [
        ([1000, -0.5, 90, 8], bad),
        ([np.nan, 0, 1, 3], PARTICLES),
        ([0, 0, 1, 3], PARTICLES),
        ([1000, 0, np.inf, 3], PARTICLES),
        (JET, PARTICLES),
    ]
    (jets,), tally = read(write_by_hand(tmp_path / "t.hdf5", rows))
    assert tally == {"rows": 5, "jets": 3, "constituents": 5 + 3 + 3, "tracks": 0, "unsorted": 0}
    assert jets.constituents.pt.tolist()[0] == pytest.approx([500, 300, 125])
    assert (jets.event - jets.event[0]).tolist() == [0, 4]


def test_blocks_and_ranges_add_up(tmp_path):
    rng = np.random.default_rng(1)
    rows = [([rng.uniform(800, 1200), rng.normal(), 90, 3], PARTICLES) for _ in range(23)]
    path = write_by_hand(tmp_path / "t.hdf5", rows)
    (whole,), _ = read(path)
    assert jetnet.count(path) == len(whole) == 23
    for size in (1, 5, 23, 100):
        blocks, _ = read(path, block_size=size)
        assert max(map(len, blocks)) <= size and ak.array_equal(
            ak.concatenate(blocks), whole, check_parameters=False
        )
    (part,), tally = read(path, start=4, stop=9)
    assert tally["rows"] == 5 and ak.array_equal(part, whole[4:9], check_parameters=False)
    assert read(path, start=23)[0] == []
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        jetnet.read(path, block_size=0)


def test_no_jets_no_blocks(tmp_path):
    path = write_by_hand(tmp_path / "t.hdf5", [])
    assert read(path)[0] == [] and jetnet.count(path) == 0 and jetnet.recognises(path)


# ---- files that are wrong


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"particle_features": None}, "no dataset 'particle_features'"),
        ({"jet_features": None}, "no dataset 'jet_features'"),
        ({"particle_features": np.zeros((1, 30, 3), "f4")}, r"float32 of shape \(1, 30, 3\)"),
        ({"particle_features": np.zeros((1, 31, 4), "f4")}, "room for 31 particles"),
        ({"particle_features": np.zeros((1, 30, 4), "i4")}, "'particle_features' is int32"),
        ({"jet_features": np.zeros((1, 5), "f4")}, r"'jet_features' is float32 of shape \(1, 5\)"),
        (
            {"jet_features": np.zeros((2, 4), "f4")},
            "'particle_features' has 1 jets, but 'jet_features' 2",
        ),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, change, says):
    path = write_by_hand(tmp_path / "t.hdf5", **change)
    for call in (jetnet.read, jetnet.count):
        with pytest.raises(ValueError, match=f"t.hdf5.*{says}"):
            call(path)
    assert not jetnet.recognises(path)


@pytest.mark.parametrize(
    ("jet", "particles", "says"),
    [
        (
            JET,
            [[0, 0, 0.5, 0.5], [0, 0, 0.5, -0.5], [0, 0, 0.5, 0.5]],
            "row 1 has a mask .* other than 0 and 1",
        ),
        (JET, [[0, 0, 0.5, np.nan]], "row 1 has a mask"),
        (JET, PARTICLES[:2], "row 1 has num_particles = 3, but a mask of 2"),
        ([1000, 0, 9, np.nan], PARTICLES, "row 1 has num_particles = nan"),
        ([1000, 0, 9, 2], PARTICLES, "row 1 has num_particles = 2, but a mask of 3 .*1 of 2 rows"),
    ],
)
def test_refuses_a_mask_that_makes_no_sense(tmp_path, jet, particles, says):
    path = write_by_hand(tmp_path / "t.hdf5", [(JET, PARTICLES), (jet, particles)])
    with pytest.raises(ValueError, match=f"t.hdf5: rows 0 to 1: {says}"):
        read(path)


def test_refuses_what_is_not_there_or_not_hdf5(tmp_path):
    with pytest.raises(FileNotFoundError):
        jetnet.read(tmp_path / "none.hdf5")
    (tmp_path / "page.hdf5").write_text("<!DOCTYPE html>")
    with pytest.raises(ValueError, match="page.hdf5.*web page"):
        jetnet.read(tmp_path / "page.hdf5")
    assert not jetnet.recognises(tmp_path / "none.hdf5") and not jetnet.recognises(
        tmp_path / "page.hdf5"
    )


class Trap:
    """Raises when unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_pickled_attributes_are_never_looked_at(tmp_path):
    path = write_by_hand(tmp_path / "t.hdf5")
    trap = np.void(pickle.dumps(Trap()))
    with h5py.File(path, "a") as file:
        for place in (file, *file.values()):
            place.attrs["columns"] = trap
    (jets,), _ = read(path)
    assert len(jets) == 1


NUMBERS = st.one_of(
    st.floats(-5, 5), st.sampled_from([0.0, 1.0, 1e3, -1.0, 1e-40, 1e38, 1e300, np.nan, np.inf])
)
ROWS = st.lists(
    st.tuples(
        st.lists(NUMBERS, min_size=3, max_size=3),
        st.lists(st.lists(NUMBERS, min_size=3, max_size=3), max_size=30),
    ),
    max_size=3,
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=ROWS,
    dtype=st.sampled_from(["<f4", ">f4", "<f8", ">f8"]),
    seed=st.integers(0, 2**32 - 1),
    honest=st.sampled_from([True, True, True, False]),
)
def test_hostile_values_give_good_jets_or_a_value_error(tmp_path, rows, dtype, seed, honest):
    rng = np.random.default_rng(seed)
    jets = [([*jet, len(some) + (not honest)], [[*one, 1] for one in some]) for jet, some in rows]
    with np.errstate(over="ignore"):
        path = write_by_hand(tmp_path / "q.hdf5", jets, dtype=dtype)
    assert jetnet.recognises(path) and jetnet.count(path) == len(rows)
    try:
        blocks, tally = read(path, block_size=int(rng.integers(1, 5)))
    except ValueError as error:
        assert "q.hdf5" in str(error)
        return
    assert honest or not rows or all(len(some) == 30 for _, some in rows)
    assert tally["rows"] == len(rows) == sum(map(len, blocks)) + tally["jets"]
    for block in blocks:
        jetnb.jets.check(block)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    shapes=st.tuples(*[st.lists(st.sampled_from([0, 1, 3, 4, 30, 150]), max_size=4)] * 2),
    dtypes=st.tuples(*[st.sampled_from(["f4", ">f8", "i4", "S3", "c8", "bool"])] * 2),
    extra=st.booleans(),
)
def test_hostile_shapes_and_types_give_good_jets_or_a_value_error(tmp_path, shapes, dtypes, extra):
    shapes = [shape if np.prod(shape) < 1e5 else shape[:2] for shape in shapes]
    data = {
        name: np.zeros(shape, dtype)
        for name, shape, dtype in zip(jetnet.LAYOUT, shapes, dtypes, strict=True)
    }
    path = write_by_hand(tmp_path / "q.hdf5", **data, **({"more": np.zeros(2)} if extra else {}))
    try:
        blocks, _ = read(path)
    except ValueError as error:
        assert "q.hdf5" in str(error)
    else:
        assert jetnet.recognises(path) and [jetnb.jets.check(block) for block in blocks] == [
            None
        ] * len(blocks)


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(at=st.floats(0, 1), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_bytes_give_good_jets_or_a_value_error(tmp_path, at, byte, cut):
    content = bytearray(write_by_hand(tmp_path / "q.hdf5", [(JET, PARTICLES)] * 2).read_bytes())
    place = int(at * (len(content) - 1))
    content[place] = byte
    (tmp_path / "q.hdf5").write_bytes(content[:place] if cut else content)
    assert jetnet.recognises(tmp_path / "q.hdf5") in (True, False)
    try:
        blocks, _ = read(tmp_path / "q.hdf5")
    except ValueError as error:
        assert "q.hdf5" in str(error)
    else:
        assert [jetnb.jets.check(block) for block in blocks] == [None] * len(blocks)
