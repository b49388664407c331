"""OmniLearn's layout, written by the formulas of its scripts: momenta come back, what is unclear is
refused or said.
"""

from __future__ import annotations

import awkward as ak
import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jetnb
import jetnb.jets
from jetnb.readers import omnilearn
from jetnb.readers.identify import identify


def columns(jets, slots=40, types=True, sign_of_id=True):
    """data, jet and pid as preprocess_qg.py makes them of jets: float64, zero where padded."""

    def padded(values):
        return ak.to_numpy(ak.fill_none(ak.pad_none(values, slots, clip=True), 0)).astype(float)

    c = jets.constituents
    pt, energy, real = padded(c.pt), padded(c.energy), padded(c.pt) > 0
    jet = np.stack(
        [ak.to_numpy(jets[name]) for name in ("pt", "eta", "mass", "n_constituents")], axis=1
    ).astype(float)
    jet_energy = np.hypot(jet[:, 0] * np.cosh(jet[:, 1]), jet[:, 2])
    deta, dphi = padded(c.deltaeta(jets)), padded(c.deltaphi(jets))
    with np.errstate(all="ignore"):
        made = [
            deta,
            dphi,
            np.log(1 - pt / jet[:, :1]),
            np.log(pt),
            np.log(1 - energy / jet_energy[:, None]),
            np.log(energy),
            np.hypot(deta, dphi),
        ]
    if types:
        code = padded(c.pdg_id)
        charge = np.sign(code) * (code != 22) * (code != 130) if sign_of_id else padded(c.charge)
        made += [
            charge,
            np.isin(np.abs(code), (211, 321, 2212)),
            np.abs(code) == 130,
            code == 22,
            np.abs(code) == 11,
            np.abs(code) == 13,
        ]
    data = np.where(
        real[:, :, None] & np.isfinite(np.stack(made, axis=2)), np.stack(made, axis=2), 0
    )
    return {"data": data, "jet": jet, "pid": ak.to_numpy(jets.label) % 2}


def write(path, found):
    with h5py.File(path, "w") as file:
        for name, values in found.items():
            file[name] = values
    return path


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("jetclass", n_jets=20_000)[::400]


def everything(path, **options):
    return ak.concatenate(list(omnilearn.read(path, **options)))


@pytest.mark.parametrize("types", [True, False])
def test_momenta_come_back(jets, tmp_path, types):
    path = write(tmp_path / "train_qg.h5", columns(jets, types=types))
    tally = {}
    found = everything(path, block_size=7, tally=tally)
    assert tally == {"rows": 50, "jets": 0, "constituents": 0, "tracks": 0, "unsorted": 0}
    stored = jets.constituents[:, :40]
    for name in ("pt", "eta", "mass"):
        np.testing.assert_allclose(found[name], jets[name], rtol=1e-6)
    assert set(found.phi.to_list()) == {0.0}
    for name in ("pt", "eta", "energy"):
        np.testing.assert_allclose(
            ak.flatten(found.constituents[name]), ak.flatten(stored[name]), rtol=3e-5, atol=1e-5
        )
    np.testing.assert_allclose(
        ak.flatten(found.constituents.phi), ak.flatten(stored.deltaphi(jets)), atol=1e-5
    )
    if types:
        assert ak.array_equal(found.constituents.charge, stored.charge), "of leptons too"
        assert ak.array_equal(found.constituents.pdg_id, stored.pdg_id)
    else:
        assert found.constituents.fields == ["pt", "eta", "phi", "energy"]
    assert identify(path) == "omnilearn" and jetnb.check(path).n_jets == 50
    assert ak.array_equal(everything(path, start=11, stop=23), found[11:23])


def test_classes_by_columns_or_by_the_name_of_the_file(jets, tmp_path):
    made = columns(jets)
    for name, classes in (
        ("train_qg.h5", ["gluon", "quark"]),
        ("val_qgcms_pid.h5", ["gluon", "quark"]),
        ("test_ttbar.h5", ["QCD", "TTBar"]),
        ("val_atlas.h5", ["QCD", "TTBar"]),
    ):
        found = everything(write(tmp_path / name, made))
        assert (
            jetnb.jets.classes(found) == classes and found.label.to_list() == made["pid"].tolist()
        )
    found = everything(write(tmp_path / "mine.h5", made))
    assert set(found.label.to_list()) == {
        -1
    } and "neither the file nor its name says" in jetnb.jets.describe(found)
    for names in (omnilearn.JETCLASS, omnilearn.JETNET):
        label = np.arange(50) % len(names)
        one_hot = columns(jets, sign_of_id=False) | {"pid": np.eye(len(names))[label]}
        found = everything(write(tmp_path / "JetClass_3.h5", one_hot))
        assert jetnb.jets.classes(found) == names and found.label.to_list() == label.tolist()
        assert ak.array_equal(found.constituents.charge, jets.constituents.charge[:, :40]), (
            "here the charge itself"
        )


def swap(made):
    made["data"] = made["data"][:, :, [0, 1, 2, 4, 3, 5, 6, *range(7, 13)]]


def normalise(made):
    made["data"] = np.where(made["data"] != 0, made["data"] / 1.2, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m.pop("jet"),
            "no 'jet', as files for OmniLearned: neither the momentum nor the direction",
        ),
        (lambda m: m.update({"global": m.pop("jet")}), "no 'jet', as files for OmniLearned"),
        (lambda m: m.update(data=m["data"][:, :, :9]), r"'data' is of shape \(50, 40, 9\)"),
        (lambda m: m.update(data=m["data"][:, None]), "dataset 'data' is float64 of shape"),
        (lambda m: m.update(pid=np.eye(3)[m["pid"]]), "'pid' has 3 columns, but 10 or 5"),
        (lambda m: m.update(pid=m["pid"][:49]), "have 50, 50 and 49 jets"),
        (
            lambda m: m["pid"].__setitem__(6, 7),
            r"row 6 has a pid other than 0 \(gluon\) and 1 \(quark\)",
        ),
        (lambda m: m["jet"].__setitem__((9, 3), 1), "row 9 has 1 particles in jet"),
        (lambda m: m["data"].__setitem__((8, 0, 8), 0.4), "row 8 has flags or a charge"),
        (
            lambda m: m["data"].__setitem__((8, 0, 6), 9),
            "row 8 has a constituent whose columns 2 or 6",
        ),
        (swap, "columns 2 or 6 in 'data' disagree"),
        (normalise, "not yet normalised for training"),
    ],
)
def test_what_is_unclear_is_refused(jets, tmp_path, change, words):
    made = columns(jets)
    change(made)
    path = write(tmp_path / "train_qg.h5", made)
    with pytest.raises(ValueError, match=f"train_qg.h5.*{words}"):
        everything(path)
    with pytest.raises(ValueError, match=words):
        jetnb.load(path)


def test_room_for_more_particles_than_memory_is_refused(jets, tmp_path):
    with h5py.File(tmp_path / "a_qg.h5", "w") as file:
        file.create_dataset("data", (50, 10**9, 7), "f8", chunks=(1, 1000, 7))
        file["jet"], file["pid"] = np.zeros((50, 4)), np.zeros(50)
    with pytest.raises(ValueError, match="at most 10,000"):
        omnilearn.read(tmp_path / "a_qg.h5")


def test_what_is_not_finite_is_left_out(jets, tmp_path):
    made, tally = columns(jets), {}
    made["data"][2, 1, 0], made["data"][3, 0, 3], made["jet"][5, 1] = np.nan, 500, np.inf
    found = everything(write(tmp_path / "train_qg.h5", made), tally=tally)
    assert tally["jets"] == 1 and len(found) == 49 and tally["constituents"] >= 2
    jetnb.jets.check(found)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_values_give_valid_jets_or_a_value_error_naming_the_file(jets, tmp_path, data):
    made = columns(jets[:6], slots=8)
    for _ in range(data.draw(st.integers(1, 3))):
        values = made[data.draw(st.sampled_from(sorted(made)))].reshape(-1)
        with np.errstate(all="ignore"):
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(
                st.sampled_from(
                    [0, 1, -1, 7, *([1e30, np.nan, -np.inf] if values.dtype.kind == "f" else [])]
                )
            )
    path = write(tmp_path / "train_qg.h5", made)
    try:
        for block in omnilearn.read(path, block_size=4):
            jetnb.jets.check(block)
    except ValueError as error:
        assert path.name in str(error)
    jetnb.check(path)
