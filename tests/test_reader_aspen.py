"""The reader and writer of the Aspen Open Jets layout, on files written here by hand and on real
CMS jets.
"""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pytest

import jetnb
import jetnb.jets
from jetnb import plots
from jetnb.readers import _padded, aspen

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "aoj_layout_21_cms_mc_jets.h5"
NO_TRACK = [-1, -1, -1, -1]
# px, py, pz, E, d0, d0Err, dz, dzErr [cm], charge, pdgId, puppiWeight, as in the file, by falling
# pt
PION = [300, 400, 0, 500.02, -0.05, 0.002, 0.3, 0.004, 1, 211, 1]
PHOTON = [0, 30, 40, 50, *NO_TRACK, 0, 22, 0.5]
LOST = [12, 0, 0, 13, *NO_TRACK, -1, -211, 1]  # charged, without a track
AT_MINUS_ONE = [0, -9, 0, 10, -1, 0.02, -1, 0.03, -1, 13, 1]  # a track whose d0 is -1 cm
FORWARD = [[0, 5, 5, 8, *NO_TRACK, 0, 1, 0.25], [3, 0, 4, 5, *NO_TRACK, 0, 2, 0]]
INFINITE = [1, 0, 0, 1.1, np.inf, 0.1, 0.2, 0.1, 1, -11, 1]
JET = [PION, PHOTON, LOST, AT_MINUS_ONE, *FORWARD, INFINITE]


def write_by_hand(
    path, jets, *, runs=None, lumis=None, events=None, kinematics=None, tagging=None, **change
):
    """A file as the producer writes it. `jets`: list of lists of candidates; `change`: dataset ->
    array or None.
    """
    n = len(jets)
    cands = np.zeros((n, 150, 11), np.float32)
    for row, jet in zip(cands, jets, strict=True):
        row[: min(len(jet), 150)] = np.reshape(jet, (-1, 11))[:150]
    info = np.zeros((n, 3), np.int64)
    info[:, 0] = 280_000 if runs is None else runs
    info[:, 1] = 77 if lumis is None else lumis
    info[:, 2] = np.arange(n) + 3_000_000_000 if events is None else events
    if kinematics is None:
        kinematics = np.tile(np.float32([520, 0.5, -1.25, 83.0]), (n, 1))
    if tagging is None:
        tagging = np.tile(np.float32([0, 0.4, 0.3, 0.2, 0.1, *[0.5] * 7, 80]), (n, 1))
        tagging[:, 0] = [len(jet) for jet in jets]
    data = {
        "event_info": info,
        "jet_kinematics": np.float32(kinematics),
        "PFCands": cands,
        "jet_tagging": tagging,
    }
    with h5py.File(path, "w") as file:
        for name, values in (data | change).items():
            if values is None:
                continue
            options = {"maxshape": (None, *values.shape[1:]), "chunks": True} if values.ndim else {}
            options |= {"compression": "gzip"} if values.ndim and name != "event_info" else {}
            file.create_dataset(name, data=values, **options)
    return path


@pytest.fixture
def one(tmp_path):
    """The jet `JET`, read."""
    (block,) = aspen.read(write_by_hand(tmp_path / "one.h5", [JET]))
    return block[0]


def test_jet_fields_are_those_of_the_file(one):
    found = one.tolist()
    assert len(found.pop("constituents")) == found.pop("n_constituents") == 7
    assert found.pop("mass") > 0 and found.pop("event") > 0
    assert found == pytest.approx(
        {
            "pt": 520,
            "eta": 0.5,
            "phi": -1.25,
            "softdrop_mass": 83,
            "label": -1,
            "tau1": 0.4,
            "tau2": 0.3,
            "tau3": 0.2,
            "tau4": 0.1,
        }
    )


def test_four_momenta_by_hand(one):
    inside = one.constituents
    assert inside.pt.tolist() == pytest.approx([500, 30, 12, 9, 5, 3, 1])
    assert inside.eta.tolist() == pytest.approx(np.arcsinh([0, 4 / 3, 0, 0, 1, 4 / 3, 0]))
    half = np.pi / 2
    assert inside.phi.tolist() == pytest.approx(
        [np.arctan2(4, 3), half, 0, -half, half, 0, 0], rel=1e-6
    )
    assert inside.energy.tolist() == pytest.approx([500.02, 50, 13, 10, 8, 5, 1.1])


def test_mass_is_that_of_the_weighted_sum(one):
    weights = np.array([1, 0.5, 1, 1, 0.25, 0, 1])
    px, py, pz, energy = weights @ np.array(JET)[:, :4]
    assert one.mass == pytest.approx(np.sqrt(energy**2 - px**2 - py**2 - pz**2), rel=1e-5)


def test_lengths_become_mm_and_keep_the_sign_of_cms(one):
    inside = one.constituents
    assert inside.has_track.tolist() == [True, False, False, True, False, False, False]
    assert inside.d0.tolist() == pytest.approx([-0.5, 0, 0, -10, 0, 0, 0])
    assert inside.d0_error.tolist() == pytest.approx([0.02, 0, 0, 0.2, 0, 0, 0])
    assert inside.dz.tolist() == pytest.approx([3, 0, 0, -10, 0, 0, 0])
    assert inside.dz_error.tolist() == pytest.approx([0.04, 0, 0, 0.3, 0, 0, 0])


def test_types_charges_and_weights(one):
    inside = one.constituents
    assert inside.pdg_id.tolist() == [211, 22, -211, 13, 1, 2, -11]
    assert inside.charge.tolist() == [1, 0, -1, -1, 0, 0, 1]
    assert inside.puppi_weight.tolist() == [1, 0.5, 1, 1, 0.25, 0, 1]


def test_a_longer_jet_counts_what_is_stored(tmp_path):
    long = [[200 - i, 0, 0, 200 - i, *NO_TRACK, 0, 22, 1] for i in range(163)]
    (jets,) = aspen.read(write_by_hand(tmp_path / "long.h5", [long, [PION]]))
    assert jets.n_constituents.tolist() == [150, 1]
    assert jets[0].constituents.pt[-1] == 51


def test_unsorted_constituents_are_sorted_and_keep_their_values(tmp_path):
    (jets,) = aspen.read(write_by_hand(tmp_path / "a.h5", [[PHOTON, PION, LOST], [LOST, PHOTON]]))
    assert jets.constituents.pdg_id.tolist() == [[211, 22, -211], [22, -211]]
    assert jets.constituents.d0[0].tolist() == pytest.approx([-0.5, 0, 0])


def test_jets_of_one_collision_share_an_event_and_no_others(tmp_path):
    same = {
        "runs": [280_000, 280_000, 280_001, 280_000, 280_000],
        "lumis": [5, 5, 5, 6, 5],
        "events": [9, 9, 9, 9, 10],
    }
    (jets,) = aspen.read(write_by_hand(tmp_path / "a.h5", [[PION]] * 5, **same))
    event = ak.to_numpy(jets.event)
    assert event.dtype == np.int64 and event[0] == event[1] and len(set(event)) == 4


def test_event_number_is_splitmix64_of_the_three_in_turn():
    z = 0
    for number in (280_000, 77, 3_000_000_000):  # in Python's own integers
        z = (z + number + 0x9E3779B97F4A7C15) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            z = (z ^ (z >> shift)) * factor % 2**64
        z ^= z >> 31
    found = aspen.event_number(np.array([280_000]), np.array([77]), np.array([3_000_000_000]))
    assert found.tolist() == [z >> 1] == [4770121917656897549], (
        "another number changes every split of published data"
    )


def test_event_numbers_do_not_collide():
    run, lumi, event = (
        v.ravel()
        for v in np.meshgrid(
            np.arange(278_820, 278_860),
            np.arange(1, 51),
            np.arange(2**32, 2**32 + 500),
            indexing="ij",
        )
    )
    numbers = aspen.event_number(run, lumi, event)
    assert len(np.unique(numbers)) == len(run) == 1_000_000 and numbers.min() >= 0
    assert (
        aspen.event_number(np.array([1]), np.array([2]), np.array([3])).tolist()
        != aspen.event_number(np.array([1]), np.array([3]), np.array([2])).tolist()
    )


def test_phi_beyond_pi_is_wrapped(tmp_path):
    stored = np.float32([[520, 0, 3.1416016, 1], [520, 0, -3.1416016, 1], [520, 0, np.pi, 1]])
    (jets,) = aspen.read(write_by_hand(tmp_path / "a.h5", [[PION]] * 3, kinematics=stored))
    assert jets.phi.tolist() == pytest.approx([-3.1415838, 3.1415838, 3.1415927], abs=2e-7)


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path):
    lame = [0, 0, 5, 5, *NO_TRACK, 0, 22, 1]  # no pt
    broken = [np.nan, 1, 1, 2, *NO_TRACK, 0, 22, 1]
    kinematics = np.float32(
        [[520, 0, 1, 1], [np.nan, 0, 1, 1], [520, 0, np.inf, 1], [500, 0, 1, -1]]
    )
    path = write_by_hand(
        tmp_path / "a.h5",
        [[PION, broken, lame, INFINITE], [PION], [PION], []],
        kinematics=kinematics,
    )
    tally = {}
    (jets,) = aspen.read(path, tally=tally)
    assert tally == {"rows": 4, "jets": 2, "constituents": 2, "tracks": 1, "unsorted": 0}
    assert (
        jets.n_constituents.tolist() == [2, 0] and jets.mass[1] == 0 and jets.softdrop_mass[1] == -1
    )


def test_blocks_are_bounded_and_add_up(tmp_path, toy_jets):
    jets = toy_jets(700, 3)
    jets = ak.with_field(jets, jets.mass, "softdrop_mass")
    path = aspen.write(tmp_path / "a.h5", jets)
    whole = ak.concatenate(list(aspen.read(path)))
    for size in (1, 99, 313, 650, 10_000):
        blocks = (
            list(aspen.read(path, block_size=size))
            if size > 1
            else [next(aspen.read(path, block_size=1))]
        )
        assert max(map(len, blocks)) <= size
        assert ak.array_equal(
            ak.concatenate(blocks), whole[: sum(map(len, blocks))], check_parameters=False
        )
    with pytest.raises(ValueError, match="block_size must be at least 1, got 0"):
        aspen.read(path, block_size=0)


def test_blocks_end_where_chunks_end(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("x", (1000, 2), dtype="f4", chunks=(300, 1))
        assert [s.stop for s in _padded.blocks(data, 700)] == [600, 1000]
        assert [s.stop for s in _padded.blocks(data, 250)] == [250, 500, 750, 1000]


def test_no_jets_no_blocks(tmp_path):
    path = write_by_hand(tmp_path / "none.h5", [])
    assert list(aspen.read(path)) == [] and aspen.recognises(path)


def test_data_are_open_data_and_run_1_is_simulation(tmp_path):
    for run, source in (
        (280_000, "open data"),
        (1, "simulation"),
        (0, "open data"),
        (2, "unknown"),
        (278_819, "unknown"),
        (284_045, "unknown"),
    ):
        (jets,) = aspen.read(write_by_hand(tmp_path / f"{run}.h5", [[PION]], runs=run))
        about = jetnb.jets.provenance(jets)
        assert about["source"] == source and about["classes"] == ["QCD", "TTBar"]
        assert {"selection", "units", "licence", "citation"} <= about.keys()


# ---- files that are wrong


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*none.h5"):
        aspen.read(tmp_path / "none.h5")
    assert not aspen.recognises(tmp_path / "none.h5") and not aspen.recognises(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<!DOCTYPE html><html>502 Bad Gateway</html>", "web page"),
        (b"", "is not HDF5"),
        (b"PAR1....", "is not HDF5"),
    ],
)
def test_refuses_what_is_not_hdf5(tmp_path, content, says):
    path = tmp_path / "RunG_batch0.h5"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"RunG_batch0.h5.*{says}.*download"):
        aspen.read(path)
    assert not aspen.recognises(path)


def test_refuses_a_truncated_file(tmp_path):
    path = write_by_hand(tmp_path / "a.h5", [JET] * 50)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="a.h5 is truncated or damaged.*download it again"):
        aspen.read(path)
    assert not aspen.recognises(path)


def test_refuses_damage_inside_a_chunk(tmp_path):
    path = write_by_hand(tmp_path / "a.h5", [JET] * 50)
    with h5py.File(path) as file:
        chunk = file["PFCands"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="rows 0 to 49 of dataset 'PFCands' cannot be read.*damaged"
    ):
        list(aspen.read(path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"PFCands": None},
            "no dataset 'PFCands'.*at the top it has event_info, jet_kinematics, jet_tagging",
        ),
        (
            {"PFCands": np.zeros((2, 150, 10), np.float32)},
            r"'PFCands' is float32 of shape \(2, 150, 10\)",
        ),
        (
            {"PFCands": np.zeros((2, 1650), np.float32)},
            r"'PFCands' is float32 of shape \(2, 1650\)",
        ),
        (
            {"jet_kinematics": np.zeros((2, 5), np.float32)},
            r"'jet_kinematics' is float32 of shape \(2, 5\)",
        ),
        ({"jet_tagging": np.zeros((2, 13), np.int32)}, "'jet_tagging' is int32"),
        ({"event_info": np.zeros((2, 3), np.float32)}, "'event_info' is float32"),
        ({"event_info": np.float32(1)}, r"'event_info' is float32 of shape \(\)"),
        (
            {"event_info": np.zeros((3, 3), np.int64)},
            "differ in number of jets.*event_info 3.*PFCands 2",
        ),
    ],
)
def test_refuses_another_layout_before_the_first_block(tmp_path, change, says):
    path = write_by_hand(tmp_path / "a.h5", [JET, JET], **change)
    with pytest.raises(ValueError, match=f"a.h5.*{says}"):
        aspen.read(path)
    assert not aspen.recognises(path)


def test_refuses_a_group_in_place_of_a_dataset(tmp_path):
    path = write_by_hand(tmp_path / "a.h5", [JET], PFCands=None)
    with h5py.File(path, "a") as file:
        file.create_group("PFCands")
    with pytest.raises(ValueError, match="no dataset 'PFCands'"):
        aspen.read(path)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        (3, 100, "constituents.energy"),
        (8, 2, "constituents.charge"),
        (9, 0, "constituents.pdg_id"),
        (10, 1.5, "constituents.puppi_weight"),
        (9, 21.5, "constituents.pdg_id|pdg_id: value 21.5"),
    ],
)
def test_values_that_make_no_sense_are_named_with_file_and_rows(tmp_path, column, value, says):
    wrong = list(PION)
    wrong[column] = value
    with pytest.raises(ValueError, match=f"a.h5: rows 0 to 1: .*({says})"):
        list(aspen.read(write_by_hand(tmp_path / "a.h5", [JET, [wrong]])))


# ---- the writer


@pytest.fixture(scope="module")
def sample():
    return jetnb.load("aoj", n_jets=300)


@pytest.fixture(scope="module")
def written(sample, tmp_path_factory):
    return aspen.write(tmp_path_factory.mktemp("aspen") / "a.h5", sample)


def test_written_layout_is_the_published_one(written):
    with h5py.File(written) as file:
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
                (300, *tail),
                (None, *tail),
                np.dtype(dtype),
            )
            squeezed = (None, None) if name == "event_info" else ("gzip", 4)
            assert (data.compression, data.compression_opts) == squeezed
            assert data.chunks and not data.shuffle and not data.attrs


def test_chunks_are_those_h5py_picks_for_the_producer(tmp_path, toy_jets):
    jets = toy_jets(5000, mean=4)
    path = aspen.write(tmp_path / "a.h5", ak.with_field(jets, jets.mass, "softdrop_mass"))
    with h5py.File(path) as file:
        assert {name: data.chunks for name, data in file.items()} == {
            "PFCands": (313, 19, 2),
            "jet_kinematics": (1250, 2),
            "jet_tagging": (625, 4),
            "event_info": (1250, 1),
        }


def test_written_values_by_hand(written, sample):
    with h5py.File(written) as file:
        cands, info, tagging, kinematics = (
            file[name][:] for name in ("PFCands", "event_info", "jet_tagging", "jet_kinematics")
        )
    number = ak.to_numpy(sample.n_constituents)
    assert np.isnan(tagging[:, 5:]).all() and (tagging[:, 0] == number).all()
    assert (info[:, :2] == 1).all() and (info[:, 2] == ak.to_numpy(sample.event)).all()
    assert (kinematics[:, 3] == ak.to_numpy(sample.softdrop_mass)).all()
    assert (cands[np.arange(150) >= number[:, None]] == 0).all()
    first, row = sample.constituents[:, 0], cands[:, 0]
    np.testing.assert_allclose(row[:, 0], first.pt * np.cos(first.phi), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(row[:, 2], first.pt * np.sinh(first.eta), rtol=1e-5)
    track = ak.to_numpy(first.has_track)
    assert 0 < track.sum() < 300 and (row[~track, 4:8] == -1).all()
    np.testing.assert_allclose(row[track, 4], first.d0[track] / 10, rtol=1e-6)
    np.testing.assert_allclose(row[track, 7], first.dz_error[track] / 10, rtol=1e-6)


def test_round_trip_of_the_shipped_sample(written, sample):
    (back,) = aspen.read(written)
    exact = ("pt", "eta", "softdrop_mass", "tau1", "tau2", "tau3", "tau4", "n_constituents")
    for name in exact:
        assert (back[name] == sample[name]).to_list() == [True] * 300, name
    np.testing.assert_allclose(back.phi, sample.phi, atol=4e-7)
    ones = np.ones(300, np.int64)
    assert (
        ak.to_numpy(back.event) == aspen.event_number(ones, ones, ak.to_numpy(sample.event))
    ).all()
    # Constituents of equal pt can change places when pt comes from px and py: compare by energy.
    a, b = (
        ak.flatten(c[ak.argsort(c.energy, axis=1)])
        for c in (back.constituents, sample.constituents)
    )
    for name in ("charge", "pdg_id", "has_track", "puppi_weight", "energy"):
        assert ak.all(a[name] == b[name]), name
    for name in ("pt", "d0", "d0_error", "dz", "dz_error"):
        np.testing.assert_allclose(a[name], b[name], rtol=3e-7, err_msg=name)
    np.testing.assert_allclose(a.eta, b.eta, atol=1e-6)
    np.testing.assert_allclose(np.cos(a.phi - b.phi), 1, atol=1e-6)  # pi and -pi are the same
    assert np.mean(np.abs(a.phi - b.phi) < 1e-6) > 0.99


def test_data_that_are_written_again_stay_data(tmp_path):
    (jets,) = aspen.read(write_by_hand(tmp_path / "a.h5", [[PION]], runs=280_000))
    (again,) = aspen.read(aspen.write(tmp_path / "b.h5", jets))
    assert (
        jetnb.jets.provenance(again)["source"] == "open data"
        and "written again" in jetnb.jets.provenance(again)["description"]
    )
    (unknown,) = aspen.read(write_by_hand(tmp_path / "c.h5", [[PION]], runs=7))
    assert plots.source(unknown) == "Aspen layout, origin unknown"


def test_a_second_round_trip_changes_no_more_than_rounding(written, tmp_path):
    (once,) = aspen.read(written)
    (twice,) = aspen.read(aspen.write(tmp_path / "b.h5", aspen.read(written)))
    np.testing.assert_allclose(
        ak.flatten(once.constituents.pt), ak.flatten(twice.constituents.pt), rtol=3e-7
    )
    np.testing.assert_allclose(once.mass, twice.mass, rtol=1e-3)


def test_blocks_write_the_same_jets_as_one_array(written, sample, tmp_path):
    path = aspen.write(tmp_path / "b.h5", (sample[i : i + 77] for i in range(0, 300, 77)))
    with h5py.File(path) as one, h5py.File(written) as other:
        for name in one:
            np.testing.assert_array_equal(one[name][:], other[name][:])


def test_same_jets_same_bytes(written, sample, tmp_path):
    assert aspen.write(tmp_path / "b.h5", sample).read_bytes() == written.read_bytes()


def test_more_than_150_constituents_are_cut_and_counted(tmp_path):
    counts = [163]
    inside = {
        "pt": np.arange(163, 0, -1),
        "eta": np.zeros(163),
        "phi": np.zeros(163),
        "energy": np.arange(163, 0, -1),
        "charge": np.zeros(163),
        "pdg_id": np.full(163, 22),
        "has_track": np.zeros(163, bool),
        "puppi_weight": np.ones(163),
    } | {name: np.zeros(163) for name in aspen.TRACK}
    columns = {name: [400.0] for name in (*aspen.KINEMATICS, *aspen.TAUS)} | {
        "eta": [0.0],
        "phi": [0.0],
        "mass": [1.0],
        "event": [7],
    }
    jets = jetnb.jets.build(
        columns, inside, counts, provenance={"sample": "x", "source": "simulation", "classes": []}
    )
    with h5py.File(aspen.write(tmp_path / "a.h5", jets)) as file:
        assert file["jet_tagging"][0, 0] == 163 and file["PFCands"][0, -1, 0] == 14


def test_writer_replaces_only_when_told(written, sample):
    before = written.read_bytes()
    with pytest.raises(FileExistsError):
        aspen.write(written, sample[:5])
    assert written.read_bytes() == before


def test_a_failing_write_leaves_nothing(sample, tmp_path):
    def broken():
        yield sample[:5]
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        aspen.write(tmp_path / "a.h5", broken())
    with pytest.raises(ValueError, match="there were no jets"):
        aspen.write(tmp_path / "a.h5", iter(()))
    with pytest.raises(
        ValueError, match="Aspen Open Jets needs tau4, constituents.puppi_weight, which"
    ):
        less = sample[[name for name in sample.fields if name != "tau4"]]
        keep = [name for name in sample.constituents.fields if name != "puppi_weight"]
        aspen.write(
            tmp_path / "a.h5", ak.with_field(less, sample.constituents[keep], "constituents")
        )
    assert list(tmp_path.iterdir()) == []


# ---- real CMS jets


def test_real_jets():
    if not REAL.exists():
        pytest.skip(f"the real file {REAL.name} is not on this machine")
    tally = {}
    (jets,) = aspen.read(REAL, tally=tally)
    assert tally == {"rows": 21, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 0}
    assert aspen.recognises(REAL) and jetnb.jets.provenance(jets)["source"] == "simulation"
    assert len(jets) == 21 and len(np.unique(jets.event)) == 10
    assert jets.pt[0] == 1698 and jets.n_constituents[:3].to_list() == [43, 51, 31]
    inside = ak.flatten(jets.constituents)
    charged = inside.charge != 0
    assert (ak.sum(charged), ak.sum(charged & ~inside.has_track)) == (549, 26)
    assert not ak.any(inside.has_track & ~charged)
    weighted = ak.sum(jets.constituents * jets.constituents.puppi_weight, axis=1)
    np.testing.assert_allclose(weighted.mass, jets.mass, rtol=0.01, atol=0.1)
    share = ak.to_numpy(weighted.pt / jets.pt)
    assert share.min() > 0.89 and share.max() < 0.95
    assert ak.all(abs(weighted.deltaphi(jets)) < 0.02) and ak.all(
        abs(weighted.eta - jets.eta) < 0.02
    )
    assert ak.all(jets.mass > jets.softdrop_mass)
    assert np.median(abs(inside.d0[inside.has_track])) == pytest.approx(
        0.03, abs=0.03
    )  # mm: tens of microns


def test_a_range_of_rows_is_that_part_of_the_file(tmp_path):
    shipped = jetnb.load("aoj", n_jets=700)
    path = aspen.write(tmp_path / "a.h5", shipped)
    whole = ak.concatenate(list(aspen.read(path)))
    assert aspen.count(path) == 700
    for start, stop in (
        (0, 10),
        (33, 640),
        (90, 100),
        (699, None),
        (650, 9999),
        (700, None),
        (5, 5),
    ):
        tally = {}
        part = list(aspen.read(path, start=start, stop=stop, block_size=97, tally=tally))
        assert tally["rows"] == sum(map(len, part)) == len(whole[start:stop])
        assert not part or ak.array_equal(
            ak.concatenate(part), whole[start:stop], check_parameters=False
        )


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "gzip", "shuffle": True},
        {"compression": "gzip", "fletcher32": True},
        {"compression": "lzf"},
        {},
        {"compression": "gzip", "chunks": (7, 3, 2)},
        {"compression": "gzip", "chunks": (700, 150, 11)},
    ],
)
def test_any_compression_gives_the_same_jets(tmp_path, options):
    """The short cut past HDF5 is for plain gzip; its results are those of HDF5."""
    path = aspen.write(tmp_path / "a.h5", jetnb.load("aoj", n_jets=60))
    want = ak.concatenate(list(aspen.read(path)))
    with h5py.File(path, "r+") as file:
        values = file["PFCands"][:]
        del file["PFCands"]
        if "chunks" in options:
            values = np.concatenate([values] * 12)[:700] if options["chunks"][0] == 700 else values
        if len(values) == 60:
            file.create_dataset(
                "PFCands", data=values, maxshape=(None, 150, 11), **({"chunks": True} | options)
            )
        else:
            file.create_dataset("PFCands", data=values, maxshape=(None, 150, 11), **options)
            file["PFCands"].resize(60, axis=0)
    assert ak.array_equal(
        ak.concatenate(list(aspen.read(path, block_size=23))), want, check_parameters=False
    )


def test_chunks_that_were_never_written_are_zeros(tmp_path):
    path = aspen.write(tmp_path / "a.h5", jetnb.load("aoj", n_jets=60))
    with h5py.File(path, "r+") as file:
        del file["PFCands"]
        file.create_dataset(
            "PFCands",
            (60, 150, 11),
            "f4",
            maxshape=(None, 150, 11),
            chunks=(10, 10, 1),
            compression="gzip",
        )
    (jets,) = aspen.read(path)
    assert ak.num(jets.constituents).tolist() == [0] * 60


def test_swapped_track_columns_are_refused(tmp_path):
    """A public loader takes the columns for d0, dz, d0 error, dz error: a file written so has
    negative errors.
    """
    path = aspen.write(tmp_path / "a.h5", jetnb.load("aoj", n_jets=60))
    with h5py.File(path, "r+") as file:
        cands = file["PFCands"][:]
        file["PFCands"][:] = cands[:, :, [0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10]]
    with pytest.raises(
        ValueError, match=r"a.h5: rows 0 to 59: column d0_error of PFCands has -.*in another order"
    ):
        list(aspen.read(path))


@pytest.mark.parametrize(
    ("run", "source"), [(297_050, "unknown"), (1, "simulation"), (280_000, "open data")]
)
def test_what_is_written_again_keeps_its_source(run, source, tmp_path):
    path = write_by_hand(tmp_path / "one.h5", [JET], runs=run)
    again = aspen.write(tmp_path / "again.h5", jetnb.load(path))
    assert jetnb.jets.provenance(jetnb.load(again))["source"] == source
