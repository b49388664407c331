"""Quark and gluon jets of EnergyFlow: momenta by hand, what a detector would call particles, and
archives that lie.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile

import awkward as ak
import numpy as np
import pytest
import vector
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jetnb
import jetnb.jets
from jetnb.names import PARTICLES
from jetnb.readers import energyflow
from jetnb.readers.identify import identify

MASS = {
    22: 0,
    11: 0.000511,
    13: 0.10566,
    211: 0.13957,
    321: 0.493677,
    130: 0.497611,
    2112: 0.939565,
    2212: 0.938272,
    3112: 1.19745,
}
CHARGE = {22: 0, 11: -1, 13: -1, 211: 1, 321: 1, 130: 0, 2112: 0, 2212: 1, 3112: -1}
IDS = [22, 211, -211, 321, -321, 130, 2112, -2112, 2212, -2212, 11, -11, 13, -13, 3112]


def arrays(n=30, slots=24, seed=0, dtype=np.float64):
    """X and y as published, of no physics: padded, not sorted, phi beyond pi, and a jet without
    particles.
    """
    rng = np.random.default_rng(seed)
    x = np.zeros((n, slots, 4))
    for i in range(n):
        k = 0 if i == 3 else rng.integers(1, slots + 1)
        x[i, :k] = np.stack(
            [
                rng.exponential(20, k) + 0.5,
                rng.normal(1, 0.2, k),
                rng.normal(6.2, 0.1, k),
                rng.choice(IDS, k),
            ],
            axis=1,
        )
    return {"X": x.astype(dtype), "y": rng.integers(0, 2, n).astype(np.float64)}


def write(path, found=None, **options):
    (np.savez_compressed if options.get("compressed", True) else np.savez)(
        path, **(found or arrays())
    )
    return path


def everything(path, **options):
    return ak.concatenate(list(energyflow.read(path, **options)))


def test_rapidity_becomes_pseudorapidity_with_the_mass_of_each_particle(tmp_path):
    x = np.zeros((1, 6, 4))
    x[0, :5] = [[5, 1, 7, 22], [4, 1, 0, 2212], [3, -1, 0, -2212], [2, 1, 0, 11], [1, 1, -4, 2112]]
    inside = everything(write(tmp_path / "a.npz", {"X": x, "y": np.ones(1)})).constituents[0]
    transverse = np.hypot([5, 4, 3, 2, 1], [0, 0.93827, 0.93827, 0.000511, 0.93957])
    np.testing.assert_allclose(
        inside.eta, np.arcsinh(transverse * np.sinh([1, 1, -1, 1, 1]) / [5, 4, 3, 2, 1]), 1e-6
    )
    np.testing.assert_allclose(inside.energy, transverse * np.cosh(1), 1e-6)
    assert round(float(inside.eta[4]), 2) == 1.26, "what the text of the module says"
    np.testing.assert_allclose(inside.phi, [7 - 2 * np.pi, 0, 0, 0, 2 * np.pi - 4], atol=1e-6)
    assert inside.charge.to_list() == [0, 1, -1, -1, 0] and inside.pdg_id.to_list() == [
        22,
        211,
        -211,
        11,
        130,
    ]


def test_jets_are_the_sums_of_their_particles(tmp_path):
    found, tally = arrays(), {}
    path = write(tmp_path / "QG_jets_7.npz", found)
    jets = everything(path, tally=tally)
    keep = [i for i in range(30) if i != 3]  # it is without particles
    assert tally == {
        "rows": 30,
        "jets": 1,
        "constituents": 0,
        "tracks": 0,
        "unsorted": tally["unsorted"],
    }
    assert len(jets) == 29
    assert jets.label.to_list() == found["y"][keep].tolist() and jetnb.jets.classes(jets) == [
        "gluon",
        "quark",
    ]
    assert np.diff(jets.event).tolist() == [2 if i == 2 else 1 for i in keep[:-1]]
    for jet, row in zip(jets, found["X"][keep], strict=True):
        row = row[row[:, 0] > 0]
        row = row[np.argsort(-row[:, 0], kind="stable")]
        pt, y, phi, code = row.T
        mass = np.array([MASS[abs(int(c))] for c in code])
        transverse = np.hypot(pt, mass)
        p4 = vector.array(
            {
                "px": pt * np.cos(phi),
                "py": pt * np.sin(phi),
                "pz": transverse * np.sinh(y),
                "energy": transverse * np.cosh(y),
            }
        )
        np.testing.assert_allclose(jet.constituents.pt, pt, rtol=1e-6)
        np.testing.assert_allclose(jet.constituents.eta, p4.eta, atol=1e-5)
        charge = [CHARGE[abs(int(c))] * np.sign(c) for c in code]
        assert jet.constituents.charge.to_list() == charge
        total = p4.sum()
        np.testing.assert_allclose(
            [jet.pt, jet.eta, jet.mass], [total.pt, total.eta, total.mass], rtol=1e-4, atol=1e-4
        )
    known = {code for particle in PARTICLES.values() for code in particle.pdg_ids}
    assert set(np.unique(ak.flatten(jets.constituents.pdg_id))) <= known
    jetnb.jets.check(jets)


def test_any_rows_in_any_blocks(tmp_path):
    for compressed in (True, False):
        path = write(tmp_path / "a.npz", compressed=compressed)
        whole = everything(path)
        assert energyflow.count(path) == 30 and energyflow.recognises(path)
        for start, stop, size in ((0, 30, 7), (4, 19, 4), (29, 40, 1), (-3, 2, 100)):
            part = everything(path, start=start, stop=stop, block_size=size)
            low = int(whole.event[0])
            expected = whole[(whole.event - low >= start) & (whole.event - low < stop)]
            assert ak.array_equal(part, expected)
        assert (
            list(energyflow.read(path, start=30))
            == []
            == list(energyflow.read(path, start=5, stop=5))
        )


def test_what_is_not_finite_is_left_out_and_counted(tmp_path):
    found, tally = arrays(), {}
    found["X"][0, 0, 0], found["X"][1, 0, 1], found["X"][2, 0, 1] = np.nan, np.inf, 400
    found["X"][4, 0, 0] = -1
    jets = everything(write(tmp_path / "a.npz", found), tally=tally)
    assert tally["constituents"] == 4
    jetnb.jets.check(jets)


def test_what_the_name_says_is_in_the_provenance(tmp_path):
    for name, words in (
        ("QG_jets.npz", "Pythia 8.226: .* quarks are u, d, s$"),
        ("QG_jets_withbc_3.npz", "Pythia 8.235: .* quarks are u, d, s, c, b$"),
        ("QG_jets_herwig_withbc_19.npz", "Herwig 7.1.4: .* quarks are u, d, s, c, b$"),
        ("mine.npz", "generator and flavours of the quarks are not known$"),
    ):
        about = jetnb.jets.provenance(everything(write(tmp_path / name)))
        assert re.search(words, about["description"]), about["description"]
        assert ("3066475" in about["licence"]) == ("herwig" in name)


def test_by_content_by_name_and_reported(tmp_path):
    path = write(tmp_path / "QG_jets_1.npz")
    assert identify(path) == "energyflow" and len(jetnb.load(path)) == 29
    assert len(jetnb.load("quarkgluon", path, n_jets=5)) == 5
    report = jetnb.check(path)
    assert report.format == "energyflow" and report.n_jets == 29
    assert "outside of the selection of the dataset, 500 to 550" in str(report), (
        "these have no such pt"
    )


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def forged(path, name, header, body=b"", size=None):
    """An archive with a good array of the other name, and an array whose header is made up; `size`
    in the directory.
    """
    good = arrays()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in {"X", "y"} - {name}:
            stream = io.BytesIO()
            np.save(stream, good[other])
            archive.writestr(f"{other}.npy", stream.getvalue())
        archive.writestr(f"{name}.npy", header + body)
    if size is not None:
        raw = path.read_bytes()
        at = raw.rindex(b"PK\x01\x02")
        path.write_bytes(raw[: at + 24] + struct.pack("<I", size) + raw[at + 28 :])
    return path


def header(shape, descr="'<f8'", version=(1, 0), fortran=False):
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return (
        b"\x93NUMPY"
        + bytes(version)
        + struct.pack("<H" if version == (1, 0) else "<I", len(text))
        + text
    )


def test_headers_that_claim_more_than_there_is_are_refused_before_anything_is_made(tmp_path):
    zeros = bytes(1 << 20)
    for at, (head, body, size, words) in enumerate(
        (
            (header((10**15, 100, 4)), b"", None, "claims float64 of shape"),
            (header((30, 10**15, 4)), b"", None, "claims float64 of shape"),
            (
                header((30, 10**12, 4)),
                b"",
                (1 << 32) - 2,
                "more than its .* compressed ones can hold",
            ),
            (header((8, 4096, 4)), zeros, None, "room for 4096 particles"),
            (header((30, 24, 4), version=(2, 0)), b"", None, r"version \(2, 0\)"),
            (header((30, 24, 4), descr="'|O'"), b"", None, "objects of Python"),
            (header((30, 24, 4), fortran=True), bytes(30 * 24 * 32), None, "column by column"),
            (header((30, 24, 4)), bytes(30 * 24 * 32 - 8), None, "claims float64 of shape"),
            (header((30, 24, 5)), bytes(30 * 24 * 40), None, "another file or version"),
            (header((29, 24, 4)), bytes(29 * 24 * 32), None, "'X' has 29 jets, but 'y' 30"),
            (b"\x93NUMPY\x01", b"", None, "truncated or damaged"),
        )
    ):
        path = forged(tmp_path / f"{at}.npz", "X", head, body, size)
        with pytest.raises(ValueError, match=f"{path.name}.*{words}"):
            energyflow.read(path)
        assert not energyflow.recognises(path) and not jetnb.check(path).ok


def test_nothing_is_unpickled(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, X=np.array([Bomb(tmp_path / "exploded")] * 30, dtype=object), y=arrays()["y"])
    with pytest.raises(
        ValueError, match="a.npz: array 'X' holds objects of Python, which could run code"
    ):
        jetnb.load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda f: f["X"].__setitem__((4, 0, 3), 111),
            r"row 4 has X\[:, :, 3\] = 111, but no particle of this PDG id",
        ),
        (lambda f: f["X"].__setitem__((4, 0, 3), 211.5), r"= 211.5, but no particle"),
        (
            lambda f: f["X"].__setitem__((slice(None), slice(None), 3), 0.1),
            "not yet prepared for training",
        ),
        (
            lambda f: f["y"].__setitem__(5, 2),
            "row 5 has y = 2, but it is 1 for a quark and 0 for a gluon",
        ),
        (lambda f: f.pop("y"), "has no array 'y'"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, change, words):
    found = arrays()
    change(found)
    path = write(tmp_path / "a.npz", found)
    with pytest.raises(ValueError, match=f"a.npz.*{words}"):
        everything(path)


def test_refuses_what_is_missing_cut_or_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        energyflow.read(tmp_path / "nowhere.npz")
    (tmp_path / "b.npz").write_bytes(b"\x89HDF\r\n")
    with pytest.raises(ValueError, match="b.npz is no NumPy archive"):
        energyflow.read(tmp_path / "b.npz")
    path = write(tmp_path / "a.npz", compressed=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="a.npz is truncated or damaged"):
        energyflow.read(path)
    damaged = bytearray(whole)
    at = whole.index(arrays()["X"][7, 0].tobytes())
    damaged[at + 4] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="a.npz is truncated or damaged .*CRC"):
        everything(path)
    damaged = bytearray(write(path, compressed=True).read_bytes())
    damaged[damaged.index(b"PK\x01\x02") + 16] ^= 1  # the checksum that the directory has of X
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="a.npz is truncated or damaged .*CRC"):
        everything(path)


def test_memory_is_that_of_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(energyflow, "BLOCK", 24 * 32 * 5)
    assert [len(block) for block in energyflow.read(write(tmp_path / "a.npz"))] == [
        4,
        5,
        5,
        5,
        5,
        5,
    ]


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    flips=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
    ),
    compressed=st.booleans(),
    cut=st.floats(0.5, 3),
)
def test_any_damaged_bytes_give_valid_jets_or_a_value_error_naming_the_file(
    tmp_path, flips, compressed, cut
):
    path = write(tmp_path / "QG_jets_2.npz", arrays(6, 5), compressed=compressed)
    raw = bytearray(path.read_bytes())
    for where, byte in flips:
        raw[int(where * len(raw))] = byte
    path.write_bytes(raw[: int(cut * len(raw))])
    try:
        for block in energyflow.read(path, block_size=4):
            jetnb.jets.check(block)
    except ValueError as error:
        assert path.name in str(error)
    jetnb.check(path)
    try:
        identify(path)
    except ValueError as error:
        assert path.name in str(error)
