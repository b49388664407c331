"""The reader of the LHC Olympics, on frames written here by hand as pandas writes them."""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import sys

import awkward as ak
import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jetnb
import jetnb.jets
from jetnb.data.catalogue import convert
from jetnb.readers import lhco
from jetnb.readers._common import first_event
from jetnb.readers.identify import identify

clusters = pytest.mark.skipif(
    not importlib.util.find_spec("fastjet"),
    reason="simulation extra not installed: pip install 'jetnb[sim]'",
)
# pt, eta, phi of the particles of four events
NEAR, FAR = np.pi - 0.9, np.arctan2(3, 4)
EVENTS = [
    [  # (200, 150, 0) and (500, 0, 0); (-600, 0, 450) and one 0.9 off; a third jet; a soft one
        (250, 0, FAR),
        (500, 0, 0),
        (600, np.arcsinh(0.75), np.pi),
        (50, np.arcsinh(0.75), -NEAR),
        (100, 0, np.pi / 2),
        (19, 0, -np.pi / 2),
    ],
    [(1300, 0, 2)],
    [(19, 0, 2), (15, 1, -2)],
    [(1250, -1, -2), (1300, 1, 1)],
]
TRUTH = [1, 0, 0, 1]


def write(path, events=EVENTS, truth=TRUTH, *, key="df", items=None, dtype="f8"):
    """A file as pandas writes a frame in its "fixed" format: `truth` None leaves it out."""
    values = np.zeros((len(events), lhco.COLUMNS + (truth is not None)), dtype)
    for row, event in zip(values, events, strict=True):
        row[: 3 * len(event)] = np.ravel(event)
    if truth is not None:
        values[:, -1] = truth
    return write_frame(path, values, np.arange(values.shape[1]) if items is None else items, key)


def write_frame(path, values, items, key="df"):
    with h5py.File(path, "w") as file:
        group = file.create_group(key)
        group.attrs["pandas_type"] = b"frame"
        group["axis0"], group["axis1"] = items, np.arange(len(values))
        group["block0_items"] = items
        group.create_dataset(
            "block0_values",
            data=values,
            chunks=(min(3, len(values)), values.shape[1]) if len(values) else None,
            **(hdf5plugin.Blosc(cname="blosclz", clevel=9) if len(values) else {}),
        )
    return path


def good_file(path):
    """A small good file, of numbers that four bytes can hold."""
    events = [[tuple(np.float32(particle)) for particle in event] for event in EVENTS]
    return write(path, events * 3, TRUTH * 3)


def write_features(path, n=4):
    values = np.random.default_rng(1).uniform(1, 2, (n, 15))
    return write_frame(path, values, np.array([*lhco.FEATURES, "label"], "S8"))


def random_events(n, seed=1):
    """Events of two bundles back to back and of soft particles everywhere."""
    rng, events = np.random.default_rng(seed), []
    for _ in range(n):
        hard, soft = rng.integers(20, 60, 2)
        side = rng.integers(0, 2, hard)
        pt = np.concatenate([rng.exponential(40, hard), rng.exponential(1, soft)])
        eta = np.concatenate([rng.normal(side - 0.5, 0.3), rng.uniform(-4, 4, soft)])
        phi = np.concatenate([rng.normal(np.pi * side, 0.3), rng.uniform(-3, 3, soft)])
        events.append(np.stack([pt, eta, phi], axis=1))
    return events


def everything(path, **options):
    return ak.concatenate(list(lhco.read(path, **options)))


# ---- what is read


@clusters
def test_values_by_hand(tmp_path):
    tally = {}
    (jets,) = lhco.read(write(tmp_path / "events.h5"), tally=tally)
    assert tally == {"rows": 4, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 0}
    assert (jets.event - first_event(tmp_path / "events.h5")).tolist() == [0, 0, 1, 3, 3]
    assert jets.event_label.tolist() == [1, 1, 0, 1, 1] and set(jets.label.tolist()) == {-1}
    assert jets.n_constituents.tolist() == [2, 2, 1, 1, 1]
    inside = jets.constituents
    assert inside.fields == ["pt", "eta", "phi", "energy"]
    assert inside.pt[:3].tolist() == [[500, 250], [600, 50], [1300]], "by falling pt"
    assert inside.energy[:2].tolist() == [[500, 250], [pytest.approx(750), pytest.approx(62.5)]]
    assert inside.eta[1].tolist() == pytest.approx([np.arcsinh(0.75)] * 2)
    assert inside.phi[1].tolist() == pytest.approx([np.pi, -NEAR])
    px, py, pz, energy = -600 - 50 * np.cos(0.9), -50 * np.sin(0.9), 487.5, 812.5
    pt = np.hypot(px, py)
    mass = np.sqrt(energy**2 - px**2 - py**2 - pz**2)
    assert jets.pt.tolist() == pytest.approx([np.hypot(700, 150), pt, 1300, 1300, 1250])
    assert jets.mass[:2].tolist() == pytest.approx([np.sqrt(50_000), mass], rel=1e-5)
    assert jets.mass[2:].tolist() == pytest.approx([0, 0, 0], abs=1e-3)
    assert jets.eta.tolist() == pytest.approx([0, np.arcsinh(pz / pt), 0, 1, -1], abs=1e-6)
    assert jets.phi.tolist() == pytest.approx(
        [np.arctan2(150, 700), np.arctan2(py, px), 2, 1, -2], abs=1e-6
    )
    about = jetnb.jets.provenance(jets)
    assert about["source"] == "simulation" and about["sample"] == "lhco"
    assert "R=1.0" in about["constituents"] and {"licence", "citation"} <= about.keys()


@clusters
def test_a_black_box_has_no_truth(tmp_path):
    (jets,) = lhco.read(write(tmp_path / "box.h5", truth=None))
    (known,) = lhco.read(write(tmp_path / "a.h5"))
    assert "event_label" not in jets.fields and jets.pt.tolist() == known.pt.tolist()
    assert jetnb.jets.provenance(jets)["sample"] == "lhco, unlabelled"


@clusters
def test_jets_are_those_of_fastjet_event_by_event(tmp_path):
    import fastjet

    events = random_events(40)
    jets = everything(write(tmp_path / "a.h5", events, np.arange(40) % 2))
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, 1.0)
    row = (jets.event - first_event(tmp_path / "a.h5")).to_numpy()
    for i, event in enumerate(events):
        given = []
        for number, (pt, eta, phi) in enumerate(event):
            one = fastjet.PseudoJet(
                pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
            )
            one.set_user_index(number)
            given.append(one)
        sequence = fastjet.ClusterSequence(given, definition)
        wanted = fastjet.sorted_by_pt(sequence.inclusive_jets(20))[:2]
        found = jets[row == i]
        assert found.pt.tolist() == pytest.approx([one.pt() for one in wanted], rel=1e-5)
        assert found.mass.tolist() == pytest.approx([one.m() for one in wanted], rel=1e-4)
        for jet, one in zip(found, wanted, strict=True):
            pt = sorted((event[c.user_index(), 0] for c in one.constituents()), reverse=True)
            assert jet.constituents.pt.tolist() == pytest.approx(pt)
    assert jets.event_label.tolist() == (row % 2).tolist() and len(jets) > 70


@clusters
def test_what_cannot_be_used_is_dropped_and_counted(tmp_path):
    bad = [(0, 1, 1), (-30, 0, 0), (np.nan, 0, 0), (9, np.inf, 0), (9, 0, np.nan), (9, 900, 0)]
    tally = {}
    path = write(tmp_path / "a.h5", [bad + EVENTS[1], bad, []], [1, 1, 0])
    (jets,) = lhco.read(path, tally=tally)
    assert jets.pt.tolist() == pytest.approx([1300]) and jets.n_constituents.tolist() == [1]
    assert tally == {"rows": 3, "jets": 0, "constituents": 12, "tracks": 0, "unsorted": 0}


@clusters
def test_all_seven_hundred_particles_and_not_the_truth(tmp_path):
    event = [(701 - i, 0.5, 1) for i in range(lhco.SLOTS)]
    (jets,) = lhco.read(write(tmp_path / "a.h5", [event], [1]))
    assert jets.n_constituents.tolist() == [700] and jets.constituents.pt[0, -1] == 2


@clusters
def test_phi_is_turned_into_the_usual_range(tmp_path):
    (jets,) = lhco.read(write(tmp_path / "a.h5", [[(1300, 0, 2 * np.pi + 1), (1250, 0, 4)]], [0]))
    assert jets.phi.tolist() == pytest.approx([1, 4 - 2 * np.pi])


@clusters
def test_blocks_are_bounded_and_add_up(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5", random_events(30), [0] * 30)
    whole = everything(path)
    monkeypatch.setattr(lhco, "EVENTS", 6)  # memory is that of so many, whatever is asked for
    for size in (1, 4, 10_000):
        blocks = list(lhco.read(path, block_size=size))
        assert max(map(len, blocks)) <= 2 * min(size, 6)
        assert ak.array_equal(ak.concatenate(blocks), whole, check_parameters=False)
    row = whole.event - first_event(path)
    part = everything(path, start=7, stop=19)
    wanted = whole[(row >= 7) & (row < 19)]
    assert ak.array_equal(part, wanted, check_parameters=False)
    assert lhco.count(path) == 30 and list(lhco.read(path, start=30)) == []
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        lhco.read(path, block_size=0)


@clusters
def test_the_same_file_elsewhere_has_the_same_events(tmp_path):
    (tmp_path / "b").mkdir()
    here, there, other = (
        everything(write(tmp_path / name)) for name in ("a.h5", "b/a.h5", "qqq.h5")
    )
    assert here.event.tolist() == there.event.tolist()
    assert not set(here.event.tolist()) & set(other.event.tolist())


@clusters
def test_no_events_and_no_jets(tmp_path):
    none = write(tmp_path / "none.h5", [], [])
    assert list(lhco.read(none)) == [] and lhco.recognises(none)
    (jets,) = lhco.read(write(tmp_path / "soft.h5", EVENTS[2:3], [0]))
    assert len(jets) == 0 and "event_label" in jets.fields


@clusters
def test_known_by_content_under_any_key_and_converted(tmp_path):
    path = write(tmp_path / "mine.h5", random_events(60), [0] * 60, key="events")
    assert identify(path) == "lhco" and jetnb.check(path).ok
    assert "120 jets" in str(jetnb.check(path))
    made = convert(path, tmp_path / "store")
    loaded, read = made.jets, everything(path)
    assert loaded.event.tolist() == read.event.tolist()
    assert loaded.constituents.pt.tolist() == read.constituents.pt.tolist()


# ---- what is refused


def test_without_fastjet_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "fastjet", None)
    with pytest.raises(ModuleNotFoundError, match="a.h5 has .* events.*pip install fastjet"):
        lhco.read(path)
    assert lhco.recognises(path) and lhco.count(path) == 4
    report = jetnb.check(path)
    assert not report.ok and "not judged" in str(report)


def test_high_level_features_are_refused_by_name(tmp_path):
    path = write_features(tmp_path / "events_anomalydetection_v2.features.h5")
    says = "features.h5 has the high-level features .* not their constituents.* read the file with"
    for use in (lhco.read, lhco.count, identify, jetnb.load):
        with pytest.raises(ValueError, match=says):
            use(path)
    assert not lhco.recognises(path) and "high-level features" in str(jetnb.check(path))


def frame(columns):
    return lambda path: write_frame(path, np.ones((4, columns)), np.arange(columns))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (frame(207), "'df/block0_values' has 207 columns, but 2100 .* or 2101 with the truth"),
        (frame(2102), "has 2102 columns"),
        (
            lambda path: write(path, items=np.arange(2101)[::-1]),
            "columns of 'df/block0_values' are not numbered 0 to 2100 .*another order",
        ),
        (lambda path: write(path, dtype="i8"), "is int64 of shape"),
        (
            lambda path: write_frame(path, np.ones((4, 2)), np.array(lhco.FEATURES[:2], "S4")),
            "has 2 columns",
        ),
        (lambda path: path.write_text("<html>"), "is not HDF5"),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, make, says):
    make(tmp_path / "a.h5")
    for use in (lhco.read, lhco.count):
        with pytest.raises(ValueError, match=f"a.h5.*{says}"):
            use(tmp_path / "a.h5")
    assert not lhco.recognises(tmp_path / "a.h5") and not jetnb.check(tmp_path / "a.h5").ok


@clusters
def test_refuses_a_truth_that_is_none(tmp_path):
    path = write(tmp_path / "a.h5", EVENTS * 2, [0, 1, 0, 1, 0, 2, 0, 0])
    with pytest.raises(ValueError, match="a.h5: rows 0 to 7: row 5 has 2 in the last column"):
        list(lhco.read(path))
    with pytest.raises(ValueError, match="a.h5: rows 1 to 1: row 1 has nan"):
        list(lhco.read(write(tmp_path / "a.h5", truth=[0, np.nan, 0, 1]), start=1, stop=2))


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('it was unpickled')",)


@clusters
def test_pickles_and_attributes_are_never_opened(tmp_path, monkeypatch):
    path = write(tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        del file["df/block0_items"]
        names = file["df"].create_dataset("block0_items", (1,), h5py.vlen_dtype("u1"))
        names[0] = np.frombuffer(pickle.dumps(Bomb()), "u1")
        file["df"].attrs["axis0"] = np.void(pickle.dumps(Bomb()))
    for name in ("__getitem__", "get_id", "values", "items", "__iter__"):
        monkeypatch.setattr(
            h5py.AttributeManager, name, lambda *_: pytest.fail("an attribute was read")
        )
    assert lhco.recognises(path) and len(everything(path)) == 5


NUMBER = itertools.count()
FLOATS = st.sampled_from(
    [0, 1, -1, 25, 1300, 1e-40, 1e-320, 1e19, 1e38, 1e300, -1e300, 88, np.inf, -np.inf, np.nan]
)


@clusters
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    events=st.lists(st.lists(st.tuples(FLOATS, FLOATS, FLOATS), max_size=6), max_size=3),
    truth=st.sampled_from([None, 0, 1, 1, -1, np.nan]),
    dtype=st.sampled_from(["f8", ">f8", "f4", "f2"]),
)
def test_hostile_values(tmp_path, events, truth, dtype):
    path = tmp_path / f"values{next(NUMBER)}.h5"
    with np.errstate(over="ignore"):
        write(path, events, None if truth is None else [truth] * len(events), dtype=dtype)
    try:
        for block in lhco.read(path, block_size=2):
            jetnb.jets.check(block)
    except ValueError as error:
        assert path.name in str(error)
