"""The reader of the Top Quark Tagging Reference, on tables written here by hand and on real jets."""

from __future__ import annotations

import pickle
from pathlib import Path

import awkward as ak
import h5py
import hdf5plugin
import numpy as np
import pytest

import jetnb
import jetnb.jets
from jetnb.readers import aspen, toptagging

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "toptagging_500_blosc.h5"
TABLE = np.dtype(
    [("index", "<i8"), ("values_block_0", "<f4", (804,)), ("values_block_1", "<i8", (2,))]
)


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('an attribute was unpickled')",)


def write_by_hand(path, jets, labels, *, dtype=TABLE, key="table/table", chunks=(40,)):
    """A file as pandas writes it: `jets` is a list of lists of (E, PX, PY, PZ)."""
    rows = np.zeros(len(jets), dtype)
    if dtype is TABLE:
        rows["index"] = 375 + np.arange(
            len(jets)
        )  # the published index restarts: not to be used as event
        rows["values_block_0"][:, 800:] = [600, 1, 2, 3]  # the truth, not a constituent
        rows["values_block_1"] = np.stack([np.ones(len(jets)), labels], axis=1)  # ttv comes first
        for row, jet in zip(rows, jets, strict=True):
            row["values_block_0"][: 4 * len(jet)] = np.ravel(jet)
    with h5py.File(path, "w") as file:
        file.create_dataset(
            key,
            data=rows,
            maxshape=(None,),
            chunks=chunks,
            **hdf5plugin.Blosc(cname="blosclz", clevel=5, shuffle=1),
        )
        if "/" in key:
            file[key].parent.attrs["pandas_type"] = b"frame_table"
            file[key].parent.attrs["non_index_axes"] = np.void(pickle.dumps(Bomb()))
    return path


TWO = [[[500, 300, 400, 0], [50, 0, 30, 40], [13, 0, -12, 5]], [[650, 600, 0, 250]]]


def test_values_by_hand(tmp_path):
    (jets,) = toptagging.read(write_by_hand(tmp_path / "test.h5", TWO, [1, 0]))
    assert jets.label.tolist() == [1, 0] and jetnb.jets.classes(jets) == ["QCD", "TTBar"]
    assert jets.event.tolist() == [0, 1] and jets.n_constituents.tolist() == [3, 1]
    inside = jets.constituents
    assert inside.fields == ["pt", "eta", "phi", "energy"]
    assert inside.pt.tolist() == [pytest.approx([500, 30, 12]), pytest.approx([600])]
    assert inside.energy.tolist() == [[500, 50, 13], [650]]
    assert inside.eta[0].tolist() == pytest.approx([0, np.arcsinh(4 / 3), np.arcsinh(5 / 12)])
    assert inside.phi[0].tolist() == pytest.approx([np.arctan2(4, 3), np.pi / 2, -np.pi / 2])
    px, py, pz, energy = 300, 418, 45, 563
    assert jets.pt.tolist() == pytest.approx([np.hypot(px, py), 600])
    assert jets.eta.tolist() == pytest.approx(
        [np.arcsinh(pz / np.hypot(px, py)), np.arcsinh(250 / 600)]
    )
    assert jets.phi.tolist() == pytest.approx([np.arctan2(py, px), 0])
    assert jets.mass.tolist() == pytest.approx(
        [np.sqrt(energy**2 - px**2 - py**2 - pz**2), 0], abs=1e-3
    )
    assert {"selection", "units", "licence", "citation"} <= jetnb.jets.provenance(jets).keys()
    assert jetnb.jets.provenance(jets)["source"] == "simulation"


def test_two_hundred_constituents_and_not_the_truth(tmp_path):
    (jets,) = toptagging.read(
        write_by_hand(tmp_path / "a.h5", [[[201 - i, 201 - i, 0, 0] for i in range(200)]], [0])
    )
    assert jets.n_constituents.tolist() == [200] and jets.constituents.pt[0, -1] == 2


def test_unsorted_constituents_are_sorted(tmp_path):
    (jets,) = toptagging.read(write_by_hand(tmp_path / "a.h5", [TWO[0][::-1], TWO[1]], [0, 1]))
    assert jets.constituents.energy.tolist() == [[500, 50, 13], [650]]


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path):
    jets = [[*TWO[0], [5, 0, 0, 5], [np.nan, 1, 1, 1]], [[5, 0, 0, 5]], [], TWO[1]]
    tally = {}
    (jets,) = toptagging.read(write_by_hand(tmp_path / "a.h5", jets, [1, 0, 0, 1]), tally=tally)
    assert tally == {"rows": 4, "jets": 2, "constituents": 3, "tracks": 0, "unsorted": 0}
    assert (
        jets.event.tolist() == [0, 3]
        and jets.n_constituents.tolist() == [3, 1]
        and jets.label.tolist() == [1, 1]
    )


def test_phi_of_a_jet_on_the_cut_is_pi(tmp_path):
    (jets,) = toptagging.read(write_by_hand(tmp_path / "a.h5", [[[600, -600, -0.0, 0]]], [0]))
    assert jets.phi[0] == jets.constituents.phi[0, 0] == np.float32(np.pi)


def test_blocks_are_bounded_and_add_up(tmp_path):
    path = write_by_hand(tmp_path / "a.h5", TWO * 60, [1, 0] * 60)
    whole = ak.concatenate(list(toptagging.read(path)))
    assert len(whole) == 120 and whole.event.tolist() == list(range(120))
    for size, lengths in (
        (1, [1] * 120),
        (50, [40, 40, 40]),
        (100, [80, 40]),
        (39, [39, 39, 39, 3]),
    ):
        blocks = list(toptagging.read(path, block_size=size))
        assert [len(block) for block in blocks] == lengths
        assert ak.array_equal(ak.concatenate(blocks), whole, check_parameters=False)
    with pytest.raises(ValueError, match="block_size must be at least 1"):
        toptagging.read(path, block_size=0)


def test_no_jets_no_blocks(tmp_path):
    path = write_by_hand(tmp_path / "none.h5", [], [])
    assert list(toptagging.read(path)) == [] and toptagging.recognises(path)


def test_round_trip_of_the_shipped_sample(tmp_path):
    sample = jetnb.load("toptagging", n_jets=300)
    four = [
        np.stack([jet.energy, jet.px, jet.py, jet.pz], axis=1)[:200] for jet in sample.constituents
    ]
    (back,) = toptagging.read(write_by_hand(tmp_path / "a.h5", four, ak.to_numpy(sample.label)))
    assert (back.label == sample.label).tolist() == [True] * 300
    # Constituents of equal pt can change places when pt comes from px and py: compare by energy.
    a, b = (
        ak.flatten(c[ak.argsort(c.energy, axis=1)])
        for c in (back.constituents, sample.constituents)
    )
    for name in ("pt", "energy", "eta", "phi"):
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(back.pt, sample.pt, rtol=1e-3)
    np.testing.assert_allclose(
        back.mass, sample.mass, rtol=2e-3
    )  # the shipped constituents are rounded


# ---- files that are wrong


def test_refuses_missing_foreign_and_truncated_files(tmp_path):
    path = tmp_path / "test.h5"
    with pytest.raises(FileNotFoundError, match="no file .*test.h5"):
        toptagging.read(path)
    path.write_text("<html>Zenodo is down</html>")
    with pytest.raises(ValueError, match="test.h5 is not HDF5.*web page.*download"):
        toptagging.read(path)
    write_by_hand(path, TWO * 60, [1, 0] * 60)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="test.h5 is truncated or damaged.*download it again"):
        toptagging.read(path)
    assert not toptagging.recognises(path) and not toptagging.recognises(tmp_path)


def test_refuses_damage_inside_a_chunk(tmp_path):
    path = write_by_hand(tmp_path / "a.h5", TWO * 60, [1, 0] * 60)
    with h5py.File(path) as file:
        chunk = file["table/table"].id.get_chunk_info(1)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\xff" * chunk.size
    path.write_bytes(content)
    blocks = toptagging.read(path, block_size=40)
    assert len(next(blocks)) == 40
    with pytest.raises(
        ValueError, match="rows 40 to 79 of dataset 'table/table' cannot be read.*damaged"
    ):
        next(blocks)


@pytest.mark.parametrize(
    ("dtype", "key", "says"),
    [
        (TABLE, "jets/table", "no dataset 'table/table'.*at the top it has jets"),
        (np.dtype("f4"), "table/table", "'table/table' is float32"),
        (
            np.dtype([("index", "i8"), ("values_block_0", "f4", (804,))]),
            "table/table",
            "no column 'values_block_1'",
        ),
        (
            np.dtype([("values_block_0", "f4", (604,)), ("values_block_1", "i8", (2,))]),
            "table/table",
            r"'values_block_0' of 'table/table' is float32 of shape \(604,\), but \(804,\)",
        ),
        (
            np.dtype([("values_block_0", "f4", (804,)), ("values_block_1", "f8", (2,))]),
            "table/table",
            "'values_block_1' of 'table/table' is float64",
        ),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, dtype, key, says):
    path = write_by_hand(tmp_path / "a.h5", TWO, [1, 0], dtype=dtype, key=key)
    with pytest.raises(ValueError, match=f"a.h5.*{says}"):
        toptagging.read(path)
    assert not toptagging.recognises(path)


def test_refuses_labels_and_energies_that_make_no_sense(tmp_path):
    with pytest.raises(ValueError, match="a.h5: row 1 of 'table/table' has is_signal_new .*= 7"):
        list(toptagging.read(write_by_hand(tmp_path / "a.h5", TWO, [1, 7])))
    with pytest.raises(ValueError, match="b.h5: rows 0 to 0: constituents.energy"):
        list(toptagging.read(write_by_hand(tmp_path / "b.h5", [[[100, 300, 400, 0]]], [1])))


# ---- real jets


def test_real_jets():
    if not REAL.exists():
        pytest.skip(f"the real file {REAL.name} is not on this machine")
    tally = {}
    (jets,) = toptagging.read(REAL, tally=tally)
    assert tally == {"rows": 500, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 0}
    assert toptagging.recognises(REAL) and not aspen.recognises(REAL)
    assert len(jets) == 500 and ak.sum(jets.n_constituents) == 24_079
    assert [int(ak.sum(jets.label == i)) for i in (0, 1)] == [250, 250]
    assert ak.all((jets.pt > 545) & (jets.pt < 655)) and ak.all(abs(jets.eta) < 2.01)
    assert jets.constituents.energy[0, 0] == pytest.approx(442.03757)
    assert (
        np.median(jets.mass[jets.label == 1]) > 140 and np.median(jets.mass[jets.label == 0]) < 90
    )
    assert ak.all(jets.constituents.deltaR(jets) < 1.3)


def test_a_range_of_rows_is_that_part_of_the_file():
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not here")
    whole = ak.concatenate(list(toptagging.read(REAL)))
    assert toptagging.count(REAL) == 500
    for start, stop in ((0, 10), (33, 400), (499, None), (450, 9999), (500, None)):
        part = list(toptagging.read(REAL, start=start, stop=stop, block_size=97))
        assert sum(map(len, part)) == len(whole[start:stop])
        assert not part or ak.array_equal(
            ak.concatenate(part), whole[start:stop], check_parameters=False
        )
