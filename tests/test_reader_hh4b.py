"""The reader of X -> HH -> 4b events, on HDF5 and ROOT files written here by hand in the published
layout.
"""

from __future__ import annotations

import hashlib
import itertools
import pickle
import shutil
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

import jetnb.jets
from jetnb.readers import aspen, hh4b, higgstobb

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
NAMES = (
    "ptrel",
    "erel",
    "etarel",
    "phirel",
    "dxy",
    "dxysig",
    "dz",
    "dzsig",
    "deltaR",
    "charge",
    "isChargedHad",
    "isNeutralHad",
    "isGamma",
    "isEl",
    "isMu",
)
# One row per candidate, in the order of NAMES, which is that of X_pfo; lengths in cm
PION = (0.5, 0.5, 0.125, 0.25, -0.01, -5, 0.02, 8, 0.28, 1, 1, 0, 0, 0, 0)
PHOTON = (0.25, 0.25, -0.25, 0, 0, 0, 0, 0, 0.25, 0, 0, 0, 1, 0, 0)
MUON = (0.125, 0.125, 0, 0, 0.03, 0, 0.04, 2, 0, -1, 0, 0, 0, 0, 1)  # no significance: no track
B, BB, C, CC, OTHERS, HIGGS, NONE = (
    tuple(int(i == k) for i in range(6)) for k in range(7)
)  # rows of X_label
LABELS = (
    "label_QCD_b",
    "label_QCD_bb",
    "label_QCD_c",
    "label_QCD_cc",
    "label_QCD_others",
    "label_H_bb",
)
JET = ("fj_pt", "fj_eta", "fj_doubleb", "fj_phi", "fj_mass", "fj_sdmass")
POISON = pickle.dumps(print)


def jet(
    pt=400,
    eta=1.5,
    double_b=0.75,
    phi=3.0,
    mass=125,
    sdmass=110,
    *,
    cands=(PION, PHOTON),
    label=HIGGS,
):
    return {"values": (pt, eta, double_b, phi, mass, sdmass), "cands": list(cands), "label": label}


TWO = [jet(), jet(300, -1.5, phi=-0.5, cands=[PION, PHOTON, MUON])]
THREE = [jet(500, label=B), jet(300, label=OTHERS), jet(200, label=OTHERS)]
FIVE = [jet(500 - i, label=OTHERS, cands=[PHOTON] * (i + 1)) for i in range(5)]
EVENTS, SIGNAL, MASS = [TWO, THREE, FIVE], [1, 0, 0], [1200, 0, 0]


def write_hdf5(path, events=EVENTS, signal=SIGNAL, mass=MASS, *, attribute=False, **replace):
    """A file as the authors' script writes it, with `replace`: dataset -> values or None."""
    n = len(events)
    data = {
        "X_jet": np.zeros((n, 5, 6)),
        "X_pfo": np.zeros((n, 5, 100, 15)),
        "X_label": np.zeros((n, 5, 6), np.int32),
        "labels": np.int32(signal[:n]),
        "mass_param": np.int32(mass[:n]),
    }
    for i, event in enumerate(events):
        for k, one in enumerate(event):
            data["X_jet"][i, k], data["X_label"][i, k] = one["values"], one["label"]
            data["X_pfo"][i, k, : len(one["cands"])] = np.reshape(one["cands"][:100], (-1, 15))
    mask = np.where(data["X_jet"][:, :, 0] == 0, 0, 1)
    data["jet_mask"] = np.int32(mask)
    data |= {
        f"X_{name}_singlejet": data[f"X_{name}"][mask.astype(bool)]
        for name in ("jet", "pfo", "label")
    }
    with h5py.File(path, "w") as file:
        for name, values in (data | replace).items():
            if values is not None:
                made = file.create_dataset(name, data=values)
                if attribute:
                    made.attrs["about"] = np.void(POISON)
    return path


def branches_of(events=EVENTS, signal=SIGNAL, **replace):
    """The branches of one row per event, without mass."""
    jets = [one for event in events for one in event]
    n_jets, n_cands = (
        np.array(list(map(len, lists)), np.int64)
        for lists in (events, [one["cands"] for one in jets])
    )
    with np.errstate(over="ignore"):
        values = (
            np.array([one["values"] for one in jets], np.float64).reshape(-1, 6).astype(np.float32)
        )
        cands = (
            np.array([cand for one in jets for cand in one["cands"]], np.float64)
            .reshape(-1, 15)
            .astype(np.float32)
        )
    labels = np.array([one["label"] for one in jets], np.int32).reshape(-1, 6)
    flat = dict(zip((*JET, *LABELS), (*values.T, *labels.T), strict=True))
    flat["sample_isQCD"] = np.repeat(1 - np.int32(signal[: len(events)]), n_jets)
    branches = {name: ak.unflatten(column, n_jets) for name, column in flat.items()}
    branches |= {
        "pfcand_" + name: ak.unflatten(ak.unflatten(column, n_cands), n_jets)
        for name, column in zip(NAMES, cands.T, strict=True)
    }
    return branches | {"npv": np.full(len(events), 21, np.float32)} | replace


def write_root(path, events=EVENTS, signal=SIGNAL, mass=None, *, without=(), **replace):
    """A file with one row per event; an RNTuple, as uproot cannot write lists of lists to a TTree."""
    branches = branches_of(events, signal, **replace)
    with uproot.recreate(path) as file:
        file["deepntuplizer/tree"] = ak.zip(
            {name: values for name, values in branches.items() if name not in without},
            depth_limit=1,
        )
    return path


WRITERS = pytest.mark.parametrize("write", [write_root, write_hdf5])


@WRITERS
def test_jets_of_events_by_hand(tmp_path, write):
    (jets,) = hh4b.read(write(tmp_path / "Data_train_1200.0_4.h5"))
    assert jets.pt.tolist() == [400, 300, 500, 300, 200, 500, 499, 498, 497, 496]
    assert jets.eta.tolist() == [1.5, -1.5, *[1.5] * 8]
    assert jets.phi.tolist() == [3, -0.5, *[3] * 8]
    assert (
        set(jets.mass) == {125}
        and set(jets.softdrop_mass) == {110}
        and set(jets.double_b) == {0.75}
    )
    assert jets.n_constituents.tolist() == [2, 3, 2, 2, 2, 1, 2, 3, 4, 5]
    assert jets.event_label.tolist() == [1, 1, *[0] * 8]


@WRITERS
def test_constituents_by_hand(tmp_path, write):
    (jets,) = hh4b.read(write(tmp_path / "a"))
    inside = jets.constituents[1]
    assert inside.pt.tolist() == pytest.approx([150, 75, 37.5])
    assert inside.eta.tolist() == pytest.approx([-1.625, -1.25, -1.5])  # of a jet at negative eta
    assert inside.phi.tolist() == pytest.approx([-0.25, -0.5, -0.5])
    energy = np.sqrt(125**2 + (300 * np.cosh(1.5)) ** 2)
    assert inside.energy.tolist() == pytest.approx([energy / 2, energy / 4, energy / 8])
    assert inside.pdg_id.tolist() == [211, 22, 13] and inside.charge.tolist() == [1, 0, -1]
    assert inside.has_track.tolist() == [True, False, False]
    assert inside.d0.tolist() == pytest.approx(
        [-0.1, 0, 0]
    ) and inside.d0_error.tolist() == pytest.approx([0.02, 0, 0])
    assert inside.dz.tolist() == pytest.approx(
        [0.2, 0, 0]
    ) and inside.dz_error.tolist() == pytest.approx([0.025, 0, 0])


def test_fields_that_only_one_form_has(tmp_path):
    (hdf5,), (root,) = hh4b.read(write_hdf5(tmp_path / "a")), hh4b.read(write_root(tmp_path / "b"))
    assert (
        hdf5.resonance_mass.tolist() == [1200, 1200, *[0] * 8] and "n_vertices" not in hdf5.fields
    )
    assert set(root.n_vertices) == {21} and "resonance_mass" not in root.fields
    assert "puppi_weight" not in root.constituents.fields


@WRITERS
def test_jets_of_an_event_share_its_number(tmp_path, write):
    (jets,) = hh4b.read(write(tmp_path / "Data_val_600.0_4.h5"))
    first = int.from_bytes(hashlib.sha256(b"Data_val_600.0_4").digest()[:4], "big") // 2 * 2**32
    assert jets.event.tolist() == [first + row for row in [0, 0, 1, 1, 1, *[2] * 5]]


def test_hdf5_labels_are_taken_only_where_their_order_does_not_matter(tmp_path):
    (jets,) = hh4b.read(write_hdf5(tmp_path / "a"))
    assert jetnb.jets.classes(jets) == ["QCD_b", "QCD_bb", "QCD_c", "QCD_cc", "QCD_others", "HToBB"]
    assert jets.label.tolist() == [5, 5, -1, -1, -1, *[4] * 5]


def test_no_hdf5_label_is_wrong_whatever_order_the_labels_are_in(tmp_path):
    """The trap itself: events made with labels in the order of the input, jets in that of pt."""
    truth = [[HIGGS, HIGGS], [B, OTHERS], [OTHERS, B, OTHERS], [CC, CC, CC], [HIGGS, OTHERS]]
    signal = [1, 0, 0, 0, 1]
    for order in itertools.permutations(range(3)):
        events = []
        for labels in truth:
            shuffled = [labels[k] for k in order if k < len(labels)]
            events.append([jet(500 - 10 * k, label=label) for k, label in enumerate(shuffled)])
        (jets,) = hh4b.read(write_hdf5(tmp_path / "a", events, signal, [0] * 5))
        assert jets.label.tolist() == [5, 5, -1, -1, -1, -1, -1, 3, 3, 3, -1, -1]


def test_root_labels_are_at_their_jets(tmp_path):
    events = [
        [jet(label=HIGGS), jet(label=B)],
        [jet(label=NONE), jet(label=HIGGS)],
        THREE,
        [jet(label=C)],
    ]
    (jets,) = hh4b.read(write_root(tmp_path / "a", events, [1, 1, 0, 0]))
    assert jets.label.tolist() == [
        5,
        -1,
        -1,
        5,
        0,
        4,
        4,
        2,
    ]  # a QCD_b of a signal event is not taken


def test_labels_of_the_wrong_sample_are_not_taken(tmp_path):
    (jets,) = hh4b.read(write_hdf5(tmp_path / "a", EVENTS, [0, 1, 1]))
    assert jets.label.tolist() == [-1] * 10


def test_both_forms_give_the_same_constituents(tmp_path):
    (hdf5,), (root,) = hh4b.read(write_hdf5(tmp_path / "a")), hh4b.read(write_root(tmp_path / "b"))
    for name in root.constituents.fields:
        np.testing.assert_allclose(
            ak.flatten(hdf5.constituents[name]), ak.flatten(root.constituents[name]), rtol=3e-7
        )


def test_a_root_event_has_any_number_of_jets_and_candidates(tmp_path):
    events = [[], [jet(cands=[])], [jet(500 - i, cands=[PHOTON] * 107) for i in range(7)], []]
    path = write_root(tmp_path / "a", events, [0] * 4)
    tally = {}
    (jets,) = hh4b.read(path, tally=tally)
    assert (
        jets.n_constituents.tolist() == [0, *[107] * 7] and hh4b.count(path) == tally["rows"] == 4
    )
    assert len(set(jets.event)) == 2
    assert [len(block) for block in hh4b.read(path, block_size=1)] == [0, 1, 7, 0]


def test_sample_is_qcd_may_be_a_number_per_event(tmp_path):
    path = write_root(tmp_path / "a", sample_isQCD=np.int32([0, 1, 1]))
    assert next(hh4b.read(path)).event_label.tolist() == [1, 1, *[0] * 8]


@WRITERS
def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, write):
    bad = [(np.nan, *PHOTON[1:]), (0.2, np.inf, *PHOTON[2:]), (-0.1, *PHOTON[1:]), (0, *PHOTON[1:])]
    broken = (*MUON[:4], np.inf, *MUON[5:])
    events = [
        [jet(cands=[PHOTON, *bad, PION, broken]), jet(-1)],
        [jet(np.nan), jet(eta=np.inf), jet(label=NONE)],
    ]
    tally = {}
    (jets,) = hh4b.read(write(tmp_path / "a", events, [1, 1], [0, 0]), tally=tally)
    assert tally == {"rows": 2, "jets": 3, "constituents": 4, "tracks": 1, "unsorted": 1}
    assert (
        jets.constituents.pdg_id.tolist() == [[211, 22, 13], [211, 22]]
        and len(set(jets.event)) == 2
    )


@WRITERS
def test_blocks_and_ranges_add_up(tmp_path, write):
    events = [EVENTS[i % 3][: 2 + i % 2] for i in range(60)]
    path = write(tmp_path / "a", events, [0] * 60, [0] * 60)
    (whole,) = hh4b.read(path)
    row = ak.to_numpy(whole.event) & 0xFFFFFFFF
    assert hh4b.count(path) == 60 and len(whole) == 140
    for size, start, stop in (
        (7, 0, 50),
        (60, 0, None),
        (20, 30, 55),
        (1000, 59, 5000),
        (50, -3, 10),
    ):
        tally = {}
        blocks = list(hh4b.read(path, block_size=size, start=start, stop=stop, tally=tally))
        wanted = whole[(row >= start) & (row < (60 if stop is None else stop))]
        assert max(len(set(block.event)) for block in blocks) <= size
        assert tally["rows"] == len(set(wanted.event))
        assert ak.array_equal(ak.concatenate(blocks), wanted, check_parameters=False)
    assert list(hh4b.read(path, start=60)) == []
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        hh4b.read(path, block_size=0)


@WRITERS
def test_the_two_readers_of_the_same_tree_tell_it_apart(tmp_path, write):
    path = write(tmp_path / "any.name")
    assert hh4b.recognises(path) and not higgstobb.recognises(path) and not aspen.recognises(path)
    about = jetnb.jets.provenance(next(hh4b.read(path)))
    assert (
        about["source"] == "simulation"
        and {"selection", "units", "licence", "citation"} <= about.keys()
    )


def test_a_tree_of_jets_is_refused(tmp_path):
    flat = {"fj_pt": "float32"} | {"pfcand_" + name: "var * float32" for name in NAMES}
    flat |= dict.fromkeys(("fj_eta", "fj_phi", "fj_mass"), "float32")
    flat |= dict.fromkeys((*LABELS, "sample_isQCD"), "int32")
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("deepntuplizer/tree", flat)
    with pytest.raises(
        ValueError, match="a.root: branch fj_pt is float32, but a list for each row"
    ):
        hh4b.read(tmp_path / "a.root")
    assert not hh4b.recognises(tmp_path / "a.root")


def test_no_events_no_blocks(tmp_path):
    path = write_hdf5(tmp_path / "none", [])
    assert list(hh4b.read(path)) == [] and hh4b.count(path) == 0 and hh4b.recognises(path)


# ---- files that are wrong


def test_refuses_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.h5"):
        hh4b.read(tmp_path / "none.h5")
    assert not hh4b.recognises(tmp_path / "none.h5") and not hh4b.recognises(tmp_path)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>cernbox</html>", b"", b"root" * 9])
def test_refuses_what_is_neither_root_nor_hdf5(tmp_path, content):
    path = tmp_path / "Data_train.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="Data_train.h5.*(download|fetch)"):
        hh4b.read(path)
    assert not hh4b.recognises(path)


def test_refuses_a_truncated_file(tmp_path):
    path = write_hdf5(tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="a.h5 is truncated or damaged.*download it again"):
        hh4b.read(path)


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        ({"X_pfo": None}, "no dataset 'X_pfo'"),
        ({"mass_param": None}, "no dataset 'mass_param'"),
        ({"X_pfo": np.zeros((3, 5, 100, 14))}, r"'X_pfo' is float64 of shape \(3, 5, 100, 14\)"),
        ({"X_jet": np.zeros((3, 5, 7))}, r"'X_jet' is float64 of shape \(3, 5, 7\)"),
        (
            {"X_label": np.zeros((3, 4, 6), np.int32)},
            r"'X_label' has shape \(3, 4, 6\), but 'X_jet' \(3, 5, 6\)",
        ),
        ({"labels": np.zeros(2, np.int32)}, r"'labels' has shape \(2,\)"),
        ({"labels": np.zeros(3, "S1")}, r"'labels' is \|S1"),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, replace, says):
    path = write_hdf5(tmp_path / "a.h5", **replace)
    with pytest.raises(ValueError, match=f"a.h5.*{says}"):
        hh4b.read(path)
    assert not hh4b.recognises(path)


@pytest.mark.parametrize("name", ["fj_mass", "pfcand_etarel", "label_H_bb", "sample_isQCD"])
def test_refuses_a_tree_without_a_needed_branch(tmp_path, name):
    with pytest.raises(ValueError, match=f"a has no branch {name}"):
        hh4b.read(write_root(tmp_path / "a", without=[name]))


def test_refuses_lists_that_differ_in_length(tmp_path):
    short = ak.Array([[1.0], [1.0, 1.0, 1.0], [1.0] * 5])
    with pytest.raises(
        ValueError, match="a: rows 0 to 2: fj_eta has 1 values, but fj_pt 2 in entry 0"
    ):
        list(hh4b.read(write_root(tmp_path / "a", fj_eta=short)))


@pytest.mark.parametrize(
    ("events", "signal", "says"),
    [
        (
            EVENTS,
            [1, 0, 2],
            "labels is 0 or 1, but row 2 has 2|sample_isQCD is 0 or 1, but row 2 has -1",
        ),
        (
            [TWO, [jet(label=(1, 1, 0, 0, 0, 0))] * 2],
            [0, 0],
            "at most one label_.* is 1, but row 1 has 2",
        ),
        (
            [TWO, [jet(label=(3, 0, 0, 0, 0, 0))] * 2],
            [0, 0],
            "label_QCD_b is 0 or 1, but row 1 has 3",
        ),
        (
            [TWO, [jet(), jet(cands=[(*PION[:9], -2, *PION[10:])])]],
            [1, 1],
            "pfcand_charge is .*, but row 1 has -2",
        ),
        (
            [TWO, [jet(), jet(cands=[(*PION[:12], 1, 0, 0)])]],
            [1, 1],
            "at most one of pfcand_is.*, but row 1 has 2",
        ),
        ([TWO, [jet(), jet(cands=[(1, 0.01, *PION[2:])])]], [1, 1], "constituents.energy"),
    ],
)
@WRITERS
def test_values_that_make_no_sense_are_named_with_file_and_row(
    tmp_path, write, events, signal, says
):
    with pytest.raises(ValueError, match=f"a.x: rows 0 to {len(events) - 1}: .*({says})"):
        list(hh4b.read(write(tmp_path / "a.x", events, signal)))


def test_a_damaged_header_is_named(tmp_path):
    whole = write_hdf5(tmp_path / "a").read_bytes()
    for at in range(0, 1200, 24):  # where the file says what is in it
        path = tmp_path / f"damaged{at}"
        path.write_bytes(whole[:at] + b"\xff" * 4 + whole[at + 4 :])
        hh4b.recognises(path)
        try:
            list(hh4b.read(path))
        except ValueError as error:
            assert path.name in str(error)


def test_attributes_are_never_looked_at(tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "a.h5", attribute=True)
    for name in ("__getitem__", "get_id", "values", "items", "__iter__"):
        monkeypatch.setattr(
            h5py.AttributeManager, name, lambda *_: pytest.fail("an attribute was read")
        )
    assert hh4b.recognises(path) and len(next(hh4b.read(path))) == 10


def test_other_real_files_are_refused():
    if not (files := sorted(REAL.glob("*.*"))):
        pytest.skip("there are no real files of other formats on this machine")
    for path in files:
        assert not hh4b.recognises(path), path


# ---- hostile files: jets that `check` accepts, or a ValueError that names the file, and nothing else

FLOATS = st.sampled_from(
    [0, -0.0, 1, -1, 2, 0.3, -2000, 1e300, -1e300, 1e-40, np.inf, -np.inf, np.nan, 100]
)
CANDIDATE = st.tuples(st.sampled_from([PION, PHOTON, MUON]), st.integers(0, 14), FLOATS).map(
    lambda c: tuple(c[2] if i == c[1] else value for i, value in enumerate(c[0]))
)
JETS = st.builds(
    jet,
    pt=st.sampled_from([400, 300]) | FLOATS,
    eta=st.just(1) | FLOATS,
    phi=st.just(1) | FLOATS,
    mass=st.just(9) | FLOATS,
    cands=st.lists(CANDIDATE, max_size=3),
    label=st.sampled_from([B, OTHERS, HIGGS, NONE, (1, 1, 1, 1, 1, 1), (-1, 0, 0, 0, 0, 7)]),
)
NUMBER = itertools.count()


def survives(path):
    try:
        for block in hh4b.read(path, block_size=2):
            jetnb.jets.check(block)
    except ValueError as error:
        assert path.name in str(error)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile")
    yield path
    shutil.rmtree(path)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    events=st.lists(st.lists(JETS, max_size=5), min_size=1, max_size=3),
    write=st.sampled_from([write_root, write_hdf5]),
    signal=st.sampled_from([[0, 1, 0], [1, 1, 1], [0, 5, -1]]),
)
def test_hostile_values(folder, events, write, signal):
    survives(write(folder / f"values{next(NUMBER)}", events, signal))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(["X_jet", "X_pfo", "X_label", "jet_mask", "labels", "mass_param", "new"]),
    shape=st.sampled_from(
        [(3, 5, 100, 15), (3, 5, 6), (3, 5), (3,), (), (0, 5), (2,), (3, 0, 6), (0,)]
    ),
    dtype=st.sampled_from([">f8", "<f2", ">i4", "<u8", "i1", "?", "S3", "c8"]),
    fill=st.sampled_from([0, 1, -1, 7]),
)
def test_hostile_layouts(folder, name, shape, dtype, fill):
    survives(
        write_hdf5(
            folder / f"layout{next(NUMBER)}",
            attribute=True,
            **{name: np.full(shape, fill).astype(dtype)},
        )
    )


@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8"])
def test_other_byte_orders_and_precisions_are_read(tmp_path, dtype):
    (wanted,) = hh4b.read(write_hdf5(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5") as file:
        data = {name: values[:].astype(dtype) for name, values in file.items()}
    (jets,) = hh4b.read(write_hdf5(tmp_path / "a.h5", **data))
    assert ak.all(jets.label == wanted.label) and ak.all(
        jets.resonance_mass == wanted.resonance_mass
    )
    np.testing.assert_allclose(
        ak.flatten(jets.constituents.pt), ak.flatten(wanted.constituents.pt), rtol=1e-6
    )
