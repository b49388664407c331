"""The reader of CMS open data record 12102, on ROOT and HDF5 files written here by hand in the
published layout.
"""

from __future__ import annotations

import itertools
import pickle
import shutil
from pathlib import Path

import awkward as ak
import h5py
import hdf5plugin
import numpy as np
import pytest
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

import jetnb.jets
from jetnb.readers import aspen, higgstobb, toptagging

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
NAMES = (
    "ptrel",
    "erel",
    "etarel",
    "phirel",
    "charge",
    "dxy",
    "dxysig",
    "dz",
    "dzsig",
    "isChargedHad",
    "isNeutralHad",
    "isGamma",
    "isEl",
    "isMu",
    "puppiw",
    "deltaR",
)
# One row per candidate, by falling pt, in the order of NAMES; lengths in cm, as in the file
PION = (0.5, 0.5, 0.125, 0.25, 1, -0.01, -5, 0.02, 8, 1, 0, 0, 0, 0, 1, 0.28)
PHOTON = (0.25, 0.25, -0.25, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0.5, 0.25)
HADRON = (0.1, 0.125, 0, 0.5, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0.5)
ELECTRON = (
    0.05,
    0.0625,
    0.5,
    0,
    -1,
    0.5,
    2000,
    -0.25,
    -2000,
    0,
    0,
    0,
    1,
    0,
    1,
    0.5,
)  # at the end of the scale
MUON = (0.02, 0.03, 0, 0, 1, 0.03, 0, 0.04, 2, 0, 0, 0, 0, 1, 1, 0)  # no significance: no track
FORWARD = (0.01, 0.02, 0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.5)  # none of the flags
JET = [PION, PHOTON, HADRON, ELECTRON, MUON, FORWARD]
LABELS = (
    "label_H_bb",
    "label_QCD_bb",
    "label_QCD_b",
    "label_QCD_cc",
    "label_QCD_c",
    "label_QCD_others",
)
CODES = (41, 51, 53, 52, 54, 55)
NUMBERS = {
    "fj_pt": 400,
    "fj_eta": 1.5,
    "fj_phi": 3.0,
    "fj_mass": 125,
    "fj_sdmass": 110,
    "fj_tau1": 0.5,
    "fj_tau2": 0.25,
    "fj_tau3": 0.125,
    "fj_doubleb": 0.75,
    "npv": 21,
    "rho": 18.5,
}
INTEGERS = {
    "event_no": 7,
    "sample_isQCD": 0,
    "fj_label": 41,
    "fj_isH": 1,
    "n_sv": 2,
    "n_pfcands": 0,
}
POISON = pickle.dumps(print)


def columns_of(n, **change):
    """Numbers of `n` jets: as in NUMBERS and INTEGERS, but event numbers from 7, and `change`."""
    columns = {name: np.full(n, value, np.float32) for name, value in NUMBERS.items()}
    columns |= {name: np.full(n, value, np.int32) for name, value in INTEGERS.items()}
    columns["event_no"] = np.arange(7, 7 + n, dtype=np.uint32)
    columns |= {name: np.asarray(value) for name, value in change.items()}
    columns |= {
        name: np.int32(columns["fj_label"] == code)
        for name, code in zip(LABELS, CODES, strict=True)
    }
    return columns


def parts_of(jets):
    """pfcand_* of `jets`, lists of candidates, as awkward lists."""
    counts = np.array([len(jet) for jet in jets], np.int64)
    flat = np.float32([cand for jet in jets for cand in jet]).reshape(-1, len(NAMES))
    return {"pfcand_" + name: ak.unflatten(flat[:, i], counts) for i, name in enumerate(NAMES)}


def write_root(path, jets, *, tree="deepntuplizer/tree", without=(), **change):
    """A file as the producer writes it, but for `float[]` in place of std::vector<float>, which
    uproot cannot write.
    """
    branches = {
        name: values
        for name, values in (columns_of(len(jets), **change) | parts_of(jets)).items()
        if name not in without
    }
    types = {
        name: values.dtype if isinstance(values, np.ndarray) else "var * float32"
        for name, values in branches.items()
    }
    with uproot.recreate(path) as file:
        made = file.mktree(tree, types)
        if jets:
            made.extend(branches)
    return path


def write_hdf5(path, jets, *, replace=None, attribute=False, **change):
    """A file as the converter writes it: PyTables arrays, blosc 7, 100 candidates, no label_*."""
    n = len(jets)
    data = {name: values for name, values in columns_of(n, **change).items() if name not in LABELS}
    for name, values in parts_of(jets).items():
        data[name] = np.float32(
            ak.to_numpy(ak.fill_none(ak.pad_none(values, 100, clip=True), 0))
        ).reshape(n, 100)
    with h5py.File(path, "w") as file:
        for name, values in (data | (replace or {})).items():
            if values is None:
                continue
            options = {"chunks": (min(len(values), 163), *values.shape[1:])} if values.size else {}
            options |= hdf5plugin.Blosc("blosclz", 7, 1) if values.size else {}
            made = file.create_dataset(name, data=values, **options)
            made.attrs["CLASS"], made.attrs["VERSION"] = np.bytes_("CARRAY"), np.bytes_("1.1")
            if attribute:
                made.attrs["TITLE"] = np.void(POISON)
    return path


WRITERS = pytest.mark.parametrize("write", [write_root, write_hdf5])


@pytest.fixture(params=[write_root, write_hdf5])
def one(request, tmp_path):
    """The jet `JET`, read from either form."""
    (block,) = higgstobb.read(request.param(tmp_path / "one", [JET]))
    return block[0]


def test_jet_fields_are_those_of_the_file(one):
    found = one.tolist()
    assert len(found.pop("constituents")) == found.pop("n_constituents") == 6
    assert found == pytest.approx(
        {
            "pt": 400,
            "eta": 1.5,
            "phi": 3.0,
            "mass": 125,
            "softdrop_mass": 110,
            "tau1": 0.5,
            "tau2": 0.25,
            "tau3": 0.125,
            "double_b": 0.75,
            "n_vertices": 21,
            "n_secondary_vertices": 2,
            "label": 5,
            "event": 7,
        }
    )


def test_four_momenta_by_hand(one):
    inside = one.constituents
    assert inside.pt.tolist() == pytest.approx([200, 100, 40, 20, 8, 4])
    assert inside.eta.tolist() == pytest.approx([1.625, 1.25, 1.5, 2, 1.5, 2])
    assert inside.phi.tolist() == pytest.approx(
        [3.25 - 2 * np.pi, 3, 3.5 - 2 * np.pi, 3, 3, 3], rel=1e-6
    )
    energy = np.sqrt(125**2 + (400 * np.cosh(1.5)) ** 2)
    assert inside.energy.tolist() == pytest.approx(
        energy * np.array([0.5, 0.25, 0.125, 0.0625, 0.03, 0.02])
    )


@WRITERS
def test_the_sign_of_etarel_is_that_of_the_jet(tmp_path, write):
    path = write(tmp_path / "a", [[PION, PHOTON]] * 3, fj_eta=np.float32([1.5, -1.5, 0]))
    (jets,) = higgstobb.read(path)
    assert jets.constituents.eta.tolist() == [[1.625, 1.25], [-1.625, -1.25], [-0.125, 0.25]]


def test_types_charges_and_weights(one):
    inside = one.constituents
    assert inside.pdg_id.tolist() == [211, 22, 130, 11, -13, 1]
    assert inside.charge.tolist() == [1, 0, 0, -1, 1, 0]
    assert inside.puppi_weight.tolist() == [1, 0.5, 0, 1, 1, 0]


def test_lengths_become_mm_and_errors_come_from_significances(one):
    inside = one.constituents
    assert inside.has_track.tolist() == [True, False, False, True, False, False]
    assert inside.d0.tolist() == pytest.approx([-0.1, 0, 0, 5, 0, 0])
    assert inside.d0_error.tolist() == pytest.approx([0.02, 0, 0, 0.0025, 0, 0])
    assert inside.dz.tolist() == pytest.approx([0.2, 0, 0, -2.5, 0, 0])
    assert inside.dz_error.tolist() == pytest.approx([0.025, 0, 0, 0.00125, 0, 0])


@WRITERS
def test_labels_and_jets_of_the_wrong_sample(tmp_path, write):
    code = [41, 51, 53, 52, 54, 55, 53, 42, 41, 50, 0]
    is_qcd = [0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    path = write(
        tmp_path / "a", [[PION]] * 11, fj_label=np.int32(code), sample_isQCD=np.int32(is_qcd)
    )
    (jets,) = higgstobb.read(path)
    names = np.array([*jetnb.jets.classes(jets), "none"])[ak.to_numpy(jets.label)].tolist()
    assert names == ["HToBB", "QCD_bb", "QCD_b", "QCD_cc", "QCD_c", "QCD_others", *["none"] * 5]


def test_root_without_label_columns_is_labelled_by_fj_label(tmp_path):
    code = {"fj_label": np.int32([41, 53]), "sample_isQCD": np.int32([0, 1])}
    (jets,) = higgstobb.read(write_root(tmp_path / "a", [[PION]] * 2, without=LABELS, **code))
    (same,) = higgstobb.read(write_root(tmp_path / "b", [[PION]] * 2, without=["fj_label"], **code))
    assert jets.label.tolist() == same.label.tolist() == [5, 0]


@WRITERS
def test_jets_of_one_event_share_its_number(tmp_path, write):
    path = write(tmp_path / "a", [[PION]] * 4, event_no=np.uint32([9, 9, 2**32 - 1, 9]))
    (jets,) = higgstobb.read(path)
    assert jets.event.tolist() == [9, 9, 2**32 - 1, 9] and ak.to_numpy(jets.event).dtype == np.int64


def test_the_two_forms_agree_but_for_the_100_candidates(tmp_path):
    long = [(0.5 / (i + 1), 0.5 / (i + 1), *PHOTON[2:]) for i in range(107)]
    jets = [JET, long, [], [PHOTON], JET[::-1]]
    (root,), (hdf5,) = (
        higgstobb.read(write(tmp_path / write.__name__, jets)) for write in (write_root, write_hdf5)
    )
    assert root.n_constituents.tolist() == [6, 107, 0, 1, 6] and hdf5.n_constituents.tolist() == [
        6,
        100,
        0,
        1,
        6,
    ]
    some = np.array([0, 2, 3, 4])
    assert ak.array_equal(root[some], hdf5[some]) and root.fields == hdf5.fields


def test_what_the_file_lacks_is_absent(tmp_path):
    lacks = ["pfcand_puppiw", "fj_tau3", "fj_sdmass", "fj_doubleb", "npv", "n_sv"]
    (jets,) = higgstobb.read(write_root(tmp_path / "a", [JET], without=lacks))
    (same,) = higgstobb.read(write_hdf5(tmp_path / "b", [JET], replace=dict.fromkeys(lacks)))
    assert (
        set(jets.fields)
        == set(same.fields)
        == {
            "pt",
            "eta",
            "phi",
            "mass",
            "tau1",
            "tau2",
            "n_constituents",
            "label",
            "event",
            "constituents",
        }
    )
    assert "puppi_weight" not in jets.constituents.fields


@WRITERS
def test_what_cannot_be_used_is_left_out_and_counted(tmp_path, write):
    bad = [(np.nan, *PHOTON[1:]), (0.2, np.inf, *PHOTON[2:]), (-0.1, *PHOTON[1:]), (0, *PHOTON[1:])]
    broken = (*MUON[:5], np.nan, *MUON[6:])
    change = {
        "fj_pt": np.float32([400, -1, 400, np.nan]),
        "fj_tau1": np.float32([0.1, 0.1, np.inf, 0.1]),
    }
    path = write(tmp_path / "a", [[PHOTON, *bad, PION, broken], [PION], [PION], [PION]], **change)
    tally = {}
    (jets,) = higgstobb.read(path, tally=tally)
    assert tally == {"rows": 4, "jets": 3, "constituents": 4, "tracks": 1, "unsorted": 1}
    assert jets.constituents.pdg_id.tolist() == [[211, 22, -13]] and jets.event.tolist() == [7]
    assert jets.constituents.d0[0].tolist() == pytest.approx([-0.1, 0, 0])


@WRITERS
def test_blocks_and_ranges_add_up(tmp_path, write):
    jets = [JET[: i % 7] for i in range(400)]
    path = write(tmp_path / "a", jets, event_no=np.arange(400, dtype=np.uint32) // 2)
    (whole,) = higgstobb.read(path)
    assert len(whole) == higgstobb.count(path) == 400
    for size, start, stop in (
        (7, 0, 50),
        (163, 0, None),
        (200, 30, 395),
        (1000, 399, 5000),
        (50, -3, 60),
    ):
        tally = {}
        blocks = list(higgstobb.read(path, block_size=size, start=start, stop=stop, tally=tally))
        wanted = whole[max(start, 0) : stop]
        assert max(map(len, blocks)) <= size and tally["rows"] == len(wanted)
        assert ak.array_equal(ak.concatenate(blocks), wanted, check_parameters=False)
    assert (
        list(higgstobb.read(path, start=400)) == list(higgstobb.read(path, start=9, stop=9)) == []
    )
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        higgstobb.read(path, block_size=0)


@WRITERS
def test_no_jets_no_blocks(tmp_path, write):
    path = write(tmp_path / "none", [])
    assert (
        list(higgstobb.read(path)) == []
        and higgstobb.count(path) == 0
        and higgstobb.recognises(path)
    )


@WRITERS
def test_recognised_by_content_alone(tmp_path, write):
    path = write(tmp_path / "any.name", [JET])
    assert (
        higgstobb.recognises(path)
        and not aspen.recognises(path)
        and not toptagging.recognises(path)
    )
    about = jetnb.jets.provenance(next(higgstobb.read(path)))
    assert (
        about["source"] == "simulation"
        and {"selection", "units", "licence", "citation"} <= about.keys()
    )


# ---- files that are wrong


def test_refuses_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.h5"):
        higgstobb.read(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="not a file"):
        higgstobb.count(tmp_path)
    assert not higgstobb.recognises(tmp_path / "none.h5") and not higgstobb.recognises(tmp_path)


@pytest.mark.parametrize(
    "content", [b"<!DOCTYPE html><html>502 Bad Gateway</html>", b"", b"PAR1....", b"root" * 9]
)
def test_refuses_what_is_neither_root_nor_hdf5(tmp_path, content):
    path = tmp_path / "ntuple_merged_10.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="ntuple_merged_10.h5.*(download|fetch)"):
        higgstobb.read(path)
    assert not higgstobb.recognises(path)


@WRITERS
def test_refuses_truncated_files(tmp_path, write):
    whole = write(tmp_path / "whole", [JET] * 300).read_bytes()
    for i, size in enumerate((5, 200, len(whole) // 2, len(whole) * 9 // 10)):
        path = tmp_path / f"cut{i}"
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"cut{i}"):
            list(higgstobb.read(path))


@pytest.mark.parametrize(
    "name", ["fj_pt", "fj_mass", "event_no", "sample_isQCD", "pfcand_etarel", "pfcand_isMu"]
)
def test_refuses_a_file_without_a_needed_column(tmp_path, name):
    for path in (
        write_root(tmp_path / "a", [JET], without=[name]),
        write_hdf5(tmp_path / "b", [JET], replace={name: None}),
    ):
        with pytest.raises(ValueError, match=f"{path.name} has no (branch|dataset) '?{name}"):
            higgstobb.read(path)
        assert not higgstobb.recognises(path)


def test_refuses_a_file_without_any_label(tmp_path):
    with pytest.raises(ValueError, match="no branch fj_label"):
        higgstobb.read(write_root(tmp_path / "a", [JET], without=["fj_label", "label_H_bb"]))


def test_refuses_the_tree_at_another_place(tmp_path):
    with pytest.raises(ValueError, match="a has a tree 'deepntuplizer/tree'|'deepntuplizer/tree'"):
        higgstobb.read(write_root(tmp_path / "a", [JET], tree="tree"))


def test_refuses_a_list_in_place_of_a_number(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        branches = columns_of(1) | parts_of([JET])
        branches["fj_pt"] = ak.Array([[400.0]])
        types = {
            name: values.dtype if isinstance(values, np.ndarray) else "var * float32"
            for name, values in branches.items()
        }
        file.mktree("deepntuplizer/tree", types).extend(branches)
    with pytest.raises(
        ValueError, match=r"a.root: branch fj_pt is var \* float32, but a number for each row"
    ):
        higgstobb.read(tmp_path / "a.root")


@pytest.mark.parametrize(
    ("replace", "says"),
    [
        ({"fj_pt": np.zeros((2, 1), np.float32)}, r"'fj_pt' is float32 of shape \(2, 1\)"),
        ({"fj_pt": np.zeros(3, np.float32)}, r"shape.*the file was cut"),
        (
            {"pfcand_dz": np.zeros((2, 60), np.float32)},
            r"'pfcand_dz' has shape \(2, 60\), but .* \(2, 100\)",
        ),
        ({"pfcand_dz": np.zeros(2, np.float32)}, r"'pfcand_dz' is float32 of shape \(2,\)"),
        ({"fj_eta": np.array([b"1", b"2"])}, r"'fj_eta' is \|S1"),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, replace, says):
    path = write_hdf5(tmp_path / "a.h5", [JET, JET], replace=replace)
    with pytest.raises(ValueError, match=f"a.h5.*{says}"):
        higgstobb.read(path)
    assert not higgstobb.recognises(path)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("charge", 2, "pfcand_charge is -1, 0 or 1, but row 1 has 2"),
        ("charge", 0, "charge and pfcand_is.* agree"),
        ("isGamma", 1, "at most one of pfcand_is.* is 1, but row 1 has 2"),
        ("isMu", np.nan, "isMu is 0 or 1, but row 1"),
        ("erel", 1e-3, "constituents.energy"),
        ("puppiw", 1.5, "constituents.puppi_weight"),
    ],
)
@WRITERS
def test_values_that_make_no_sense_are_named_with_file_and_row(
    tmp_path, write, column, value, says
):
    wrong = list(PION)
    wrong[NAMES.index(column)] = value
    with pytest.raises(ValueError, match=f"a.x: rows 0 to 1: .*{says}"):
        list(higgstobb.read(write(tmp_path / "a.x", [JET, [wrong]])))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sample_isQCD": np.int32([0, 7])}, "sample_isQCD is 0 or 1, but row 1 has 7"),
        ({"npv": np.float32([20, 20.5])}, "n_vertices: value 20.5"),
        ({"npv": np.float32([20, 1e9])}, "n_vertices"),
    ],
)
@WRITERS
def test_numbers_that_make_no_sense_are_named_with_file_and_row(tmp_path, write, change, says):
    with pytest.raises(ValueError, match=f"a.x: rows 0 to 1: .*{says}"):
        list(higgstobb.read(write(tmp_path / "a.x", [JET, JET], **change)))


def test_a_damaged_header_is_named(tmp_path):
    whole = write_hdf5(tmp_path / "a", [JET] * 9).read_bytes()
    for at in range(0, 1200, 24):  # where the file says what is in it
        path = tmp_path / f"damaged{at}"
        path.write_bytes(whole[:at] + b"\xff" * 4 + whole[at + 4 :])
        higgstobb.recognises(path)
        try:
            list(higgstobb.read(path))
        except ValueError as error:
            assert path.name in str(error)


def test_attributes_are_never_looked_at(tmp_path, monkeypatch):
    path = write_hdf5(tmp_path / "a.h5", [JET] * 3, attribute=True)
    for name in ("__getitem__", "get_id", "values", "items", "__iter__"):
        monkeypatch.setattr(
            h5py.AttributeManager, name, lambda *_: pytest.fail("an attribute was read")
        )
    assert higgstobb.recognises(path) and len(next(higgstobb.read(path))) == 3


def test_other_real_files_are_refused():
    if not (files := sorted(REAL.glob("*.*"))):
        pytest.skip("there are no real files of other formats on this machine")
    for path in files:
        assert not higgstobb.recognises(path), path
        with pytest.raises(ValueError, match=path.name):
            higgstobb.read(path)


# ---- hostile files: jets that `check` accepts, or a ValueError that names the file, and nothing else

FLOATS = st.sampled_from(
    [0, -0.0, 1, -1, 2, 0.3, -2000, 1e30, -1e30, 1e-40, np.inf, -np.inf, np.nan, 100]
)
CANDIDATE = st.tuples(st.sampled_from(JET), st.integers(0, len(NAMES) - 1), FLOATS).map(
    lambda c: tuple(c[2] if i == c[1] else value for i, value in enumerate(c[0]))
)
JETS = st.lists(st.lists(st.sampled_from(JET) | CANDIDATE, max_size=5), max_size=4)
NUMBER = itertools.count()


def survives(path):
    try:
        for block in higgstobb.read(path, block_size=3):
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
    jets=JETS,
    column=st.sampled_from(sorted(NUMBERS)),
    value=FLOATS,
    label=st.sampled_from([*CODES, 0, -5, 99]),
    write=st.sampled_from([write_hdf5, write_root]),
)
def test_hostile_values(folder, jets, column, value, label, write):
    change = {
        column: np.full(len(jets), NUMBERS[column], np.float32),
        "fj_label": np.full(len(jets), label, np.int32),
    }
    change[column][:1] = value
    survives(write(folder / f"values{next(NUMBER)}", jets, **change))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    name=st.sampled_from([*NUMBERS, *INTEGERS, *("pfcand_" + name for name in NAMES), "new"]),
    length=st.integers(0, 3),
    dtype=st.sampled_from([">f4", "<f8", ">f8", "<f2", ">i4", "<u8", "i1", "?", "S3", "c8"]),
    lose=st.booleans(),
    width=st.sampled_from([0, 1, 99, 100, 101]),
)
def test_hostile_layouts(folder, name, length, dtype, lose, width):
    old = columns_of(2)[name] if name in columns_of(2) else np.zeros((2, width))
    values = None if lose else np.resize(old, (length, *old.shape[1:])).astype(dtype)
    survives(
        write_hdf5(
            folder / f"layout{next(NUMBER)}", [JET, JET], replace={name: values}, attribute=True
        )
    )


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8"])
def test_other_byte_orders_and_precisions_are_read(tmp_path, dtype):
    path = write_hdf5(tmp_path / "a.h5", [JET])
    with h5py.File(path) as file:
        data = {name: values[:].astype(dtype) for name, values in file.items()}
    (jets,) = higgstobb.read(write_hdf5(tmp_path / "b.h5", [JET], replace=data))
    assert ak.all(abs(jets.constituents.pt - next(higgstobb.read(path)).constituents.pt) < 1e-4)
    assert jets.event.tolist() == [7] and jets.label.tolist() == [5]
