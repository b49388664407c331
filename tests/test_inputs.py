"""Inputs of models: every feature against its definition, what is missing is said, the scaler and
momenta come back.
"""

import json

import awkward as ak
import numpy as np
import pytest

import jetnb
from jetnb import inputs
from jetnb.data import store
from jetnb.names import PARTICLES
from jetnb.packed import Batch


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("jetclass")[::400]


def test_every_feature_is_what_it_says(jets):
    c, flat = jets.constituents, lambda values: ak.to_numpy(ak.flatten(values)).astype(float)
    batch = inputs.compute(jets, inputs.FEATURES)
    assert batch.x.dtype == np.float32 and batch.offsets.dtype == np.int64
    assert batch.x.shape == (ak.sum(ak.num(c)), len(inputs.FEATURES))
    assert np.array_equal(np.diff(batch.offsets), ak.num(c))
    track = flat(c.has_track) > 0
    assert 0.2 < track.mean() < 0.9
    expected = {
        "deta": flat(c.deltaeta(jets)),
        "dphi": flat(c.deltaphi(jets)),
        "delta_r": flat(c.deltaR(jets)),
        "log_pt": flat(np.log(c.pt)),
        "log_energy": flat(np.log(c.energy)),
        "charge": flat(c.charge),
        "log_pt_rel": flat(np.log(c.pt / jets.pt)),
        "log_energy_rel": flat(np.log(c.energy / jets.energy)),
        "tanh_d0": np.where(track, np.tanh(flat(c.d0)), 0),
        "tanh_dz": np.where(track, np.tanh(flat(c.dz)), 0),
        "d0_error": np.where(track, np.clip(flat(c.d0_error), 0, 1), 0),
        "dz_error": np.where(track, np.clip(flat(c.dz_error), 0, 1), 0),
    }
    for name, particle in PARTICLES.items():
        expected[f"is_{name}"] = np.isin(flat(c.pdg_id), particle.pdg_ids)
    assert set(expected) == set(inputs.FEATURES)
    for name, column in zip(inputs.FEATURES, batch.x.T, strict=True):
        np.testing.assert_allclose(column, expected[name], atol=3e-6, rtol=1e-5, err_msg=name)
    flags = batch.x[:, [name in inputs.TYPES for name in inputs.FEATURES]]
    assert (flags.sum(axis=1) == 1).all()
    assert abs(batch.x[:, 1]).max() < 1.5  # azimuth was put to the test


def test_columns_come_in_the_order_asked(jets):
    x, _ = inputs.compute(jets, ["delta_r", "log_pt"])
    y, _ = inputs.compute(jets)
    assert np.array_equal(
        x, y[:, [inputs.KINEMATIC.index("delta_r"), inputs.KINEMATIC.index("log_pt")]]
    )
    assert np.array_equal(inputs.compute(jets, "log_pt").x, x[:, 1:])


def test_dphi_folds_over_the_seam(toy_jets):
    jets = toy_jets(400, 1)
    x, _ = inputs.compute(jets, ["dphi"])
    raw = ak.to_numpy(ak.flatten(jets.constituents.phi - jets.phi))
    seam = abs(raw) > np.pi
    assert seam.sum() > 50 and abs(x).max() < 2
    assert np.array_equal(x[~seam, 0], raw[~seam])


def test_impact_parameters_where_there_is_no_track_are_nought(toy_jets):
    jets = toy_jets(20, 2)
    c = jets.constituents
    lying = ak.with_field(c, ak.ones_like(c.d0), "d0")  # the flag decides, not the stored number
    x, _ = inputs.compute(ak.with_field(jets, lying, "constituents"), ["tanh_d0"])
    track = ak.to_numpy(ak.flatten(c.has_track))
    assert not x[~track].any() and np.allclose(x[track], np.tanh(1))


def test_a_store_gives_the_same(jets, tmp_path):
    opened = store.write(tmp_path / "jets", jets)
    fields, indices = (
        ("energy", "eta", "pdg_id", "phi", "has_track", "d0", "pt"),
        np.array([5, 40, 5, 0]),
    )
    features = ("log_energy_rel", "dphi", "is_photon", "tanh_d0", "log_pt_rel")
    gathered = opened.gather(indices, fields)
    for axes in (
        opened.jets[["pt", "eta", "phi", "mass"]][indices],
        {name: ak.to_numpy(jets[name])[indices] for name in ("pt", "eta", "phi", "mass")},
    ):
        batch = inputs.compute_packed(gathered, fields, jets=axes, features=features)
        expected = inputs.compute(jets[indices], features)
        assert np.array_equal(batch.x, expected.x) and np.array_equal(
            batch.offsets, expected.offsets
        )
    with pytest.raises(ValueError, match="jets: 3 jets for a batch of 4"):
        inputs.compute_packed(gathered, fields, jets=jets[:3])
    with pytest.raises(ValueError, match="but 2 fields"):
        inputs.compute_packed(gathered, fields[:2], jets=jets[indices])
    with pytest.raises(
        ValueError, match="'log_energy_rel' needs the jet field 'mass'; there are only pt, eta, phi"
    ):
        inputs.compute_packed(gathered, fields, jets=jets[["pt", "eta", "phi"]][indices])


def test_unknown_and_missing_are_named():
    jets = jetnb.load("toptagging")[:50]
    assert inputs.available(jets) == inputs.KINEMATIC
    with pytest.raises(
        ValueError,
        match="feature 'tanh_d0' needs the constituent field 'd0'; there are only pt, eta",
    ):
        inputs.compute(jets, ["log_pt", "tanh_d0"])
    with pytest.raises(ValueError, match="'logpt' is unknown: use some of deta, dphi, log_pt"):
        inputs.compute(jets, ["logpt"])
    assert inputs.compute(jets[:0]).x.shape == (0, 7)


def test_a_value_that_is_not_finite_is_found():
    x = np.full((5, 4), 2, np.float32)
    x[3, 0] = 0
    axes = dict.fromkeys(("pt", "eta", "phi", "mass"), np.ones(2))
    with pytest.raises(ValueError, match="feature 'log_pt' is -inf for constituent 1 of jet 1"):
        inputs.compute_packed(
            Batch(x, np.array([0, 2, 5])), ("pt", "eta", "phi", "energy"), jets=axes
        )


def test_the_scaler_comes_back(jets, tmp_path):
    features = inputs.FEATURES
    x, _ = inputs.compute(jets, features)
    scaler = inputs.Scaler.fit(x, features)
    z = scaler.transform(x)
    scaled = [name not in inputs.UNSCALED for name in features]
    assert np.allclose(z[:, scaled].mean(axis=0), 0, atol=1e-3) and np.allclose(
        z[:, scaled].std(axis=0), 1, atol=1e-3
    )
    assert np.array_equal(z[:, ~np.array(scaled)], x[:, ~np.array(scaled)])
    assert z.dtype == np.float32 and np.allclose(scaler.inverse(z), x, atol=3e-6)
    other = inputs.compute(jets[:20], features).x
    assert np.array_equal(
        scaler.transform(other), z[: len(other)]
    )  # what it transforms does not change it
    assert inputs.Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler
    scaler.save(tmp_path / "scaler.json")
    scaler.save(tmp_path / "scaler.json")
    assert inputs.Scaler.load(tmp_path / "scaler.json") == scaler


def test_the_scaler_bears_constants_and_refuses_nonsense():
    x = np.column_stack([np.full(9, np.float32(0.1)), np.arange(9)])
    scaler = inputs.Scaler.fit(x, ["deta", "dphi"])
    assert scaler.width[0] == 1 and (scaler.transform(x)[:, 0] == 0).all()
    assert np.array_equal(scaler.inverse(scaler.transform(x))[:, 0], x.astype(np.float32)[:, 0])
    with pytest.raises(
        ValueError, match=r"shape \(9, 1\), but the 2 features deta, dphi are expected"
    ):
        scaler.transform(x[:, :1])
    with pytest.raises(ValueError, match="no constituents"):
        inputs.Scaler.fit(x[:0], ["deta", "dphi"])
    with pytest.raises(ValueError, match="'dphi' is not finite"):
        inputs.Scaler.fit(np.array([[0, 1], [0, np.inf]]), ["deta", "dphi"])
    for bad in (
        {"features": ["deta"], "mean": [0.0]},
        {"features": ["deta"], "mean": [0.0, 1.0], "width": [1.0]},
    ):
        with pytest.raises(ValueError, match="no scaler"):
            inputs.Scaler.from_dict(bad)


@pytest.mark.parametrize("sample", ["jetclass", "toptagging"])
def test_relative_momenta_come_back(sample):
    jets = jetnb.load(sample)[::200]
    relative = inputs.to_relative(jets)
    assert relative.x.shape == (relative.offsets[-1], 3)
    shuffled = relative.x.copy()  # a generator need not sort
    shuffled[relative.offsets[3] : relative.offsets[4]] = shuffled[
        relative.offsets[3] : relative.offsets[4]
    ][::-1]
    back = inputs.from_relative(
        Batch(shuffled, relative.offsets),
        provenance=jets.attrs["jetnb"],
        eta=jets.eta,
        phi=jets.phi,
    )
    jetnb.jets.check(back)
    assert ak.all(back.constituents.pt == jets.constituents.pt)
    for apart in (back.constituents.deltaeta, back.constituents.deltaphi):
        # Those of equal pt may change places.
        assert np.mean(ak.flatten(abs(apart(jets.constituents))) < 1e-5) > 0.98
    assert ak.all(abs(back.constituents.mass2) <= 1e-5 * back.constituents.energy**2)
    assert np.allclose(back.pt, jets.pt, rtol=0.01) and ak.max(abs(back.deltaR(jets))) < 0.02
    summed = ak.sum(back.constituents, axis=1)
    assert np.allclose(summed.mass, back.mass, rtol=1e-3, atol=0.05) and np.allclose(
        summed.pt, back.pt, rtol=1e-5
    )
    assert np.corrcoef(back.mass, jets.mass)[0, 1] > 0.98
    about_zero = inputs.from_relative(relative, provenance=jets.attrs["jetnb"])
    assert np.allclose(about_zero.mass, back.mass, rtol=1e-3, atol=0.05)
    assert np.allclose(about_zero.rapidity, back.rapidity - jets.eta, atol=1e-4)


def test_generated_jets_that_are_none_are_refused():
    about = {"sample": "generated", "source": "test", "classes": ["QCD"]}
    x = np.ones((3, 3), np.float32)
    with pytest.raises(ValueError, match="jet 1 of 3 has no constituents: leave it out"):
        inputs.from_relative(Batch(x, np.array([0, 1, 1, 3])), provenance=about)
    with pytest.raises(ValueError, match=r"shape \(3, 3\), but must be \(2, 3\)"):
        inputs.from_relative(Batch(x, np.array([0, 2])), provenance=about)
    x[1, 0] = 0
    with pytest.raises(ValueError, match="constituents.pt: .*must be positive"):
        inputs.from_relative(Batch(x, np.array([0, 3])), provenance=about)
