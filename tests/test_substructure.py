"""Substructure: against FastJet and fjcontrib, against values by hand, and what must not change it."""

from __future__ import annotations

import itertools
from pathlib import Path

import awkward as ak
import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import jetnb
import jetnb.jets
from jetnb import pretraining
from jetnb import substructure as S
from jetnb.readers import aspen
from jetnb.substructure import features

ABOUT = {"sample": "hand-made", "source": "simulation", "classes": ["QCD"]}
TAUS = list(S.TAUS)
FASTJET_AXES = {
    "wta_kt": "WTA_KT_Axes",
    "kt": "KT_Axes",
    "onepass_wta_kt": "OnePass_WTA_KT_Axes",
    "onepass_kt": "OnePass_KT_Axes",
}


def make(*jets, masses=None, **fields):
    """A jets array; each jet is a list of (pt, eta, phi)."""
    flat = np.array([particle for jet in jets for particle in jet], float).reshape(-1, 3)
    pt, eta, phi = flat.T
    energy = np.sqrt((pt * np.cosh(eta)) ** 2 + (0 if masses is None else masses**2))
    record = ak.zip(
        {"pt": pt, "eta": eta, "phi": phi, "energy": energy, **fields}, with_name="Momentum4D"
    )
    return ak.Array(
        {"constituents": ak.unflatten(record, np.array([len(jet) for jet in jets], int))}
    )


@pytest.fixture(scope="module")
def sample():
    """2000 jets of many classes, massive constituents."""
    return ak.concatenate(
        [
            jetnb.load("jetclass")[::20][["constituents"], ["pt", "eta", "phi", "energy"]],
            jetnb.load("toptagging")[::8][["constituents"], ["pt", "eta", "phi", "energy"]],
        ]
    )


def momenta(jets):
    pt, eta, phi, energy = (
        ak.values_astype(jets.constituents[name], "float64")
        for name in jetnb.jets.CONSTITUENTS_NEED
    )
    return ak.zip(
        {"px": pt * np.cos(phi), "py": pt * np.sin(phi), "pz": pt * np.sinh(eta), "E": energy},
        with_name="Momentum4D",
    )


@pytest.fixture(scope="module")
def sequence(sample):
    """The sample as one Cambridge/Aachen jet each in FastJet, and what keeps it alive."""
    fastjet = pytest.importorskip("fastjet")
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0)
    four = momenta(sample)
    yield fastjet.ClusterSequence(four, definition)


@pytest.mark.parametrize("axes", FASTJET_AXES)
@pytest.mark.parametrize(("beta", "radius"), [(1.0, 0.8), (2.0, 1.0), (1.3, 0.4)])
def test_subjettiness_is_that_of_fjcontrib(sample, sequence, axes, beta, radius):
    expected = sequence.njettiness(
        measure_definition="NormalizedMeasure",
        axes_definition=FASTJET_AXES[axes],
        njets=[1, 2, 3, 4],
        beta=beta,
        R0=radius,
    )
    table = S.compute(sample, TAUS, axes=axes, beta=beta, radius=radius)
    got = np.stack([table[name] for name in TAUS], axis=1)
    np.testing.assert_allclose(got, ak.to_numpy(expected).reshape(-1, 4), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("beta", "z_cut", "radius"), [(0.0, 0.1, 0.8), (2.0, 0.2, 0.4), (-1.0, 0.05, 1.0)]
)
def test_softdrop_is_that_of_fjcontrib(sample, sequence, beta, z_cut, radius):
    groomed = sequence.exclusive_jets_softdrop_grooming(
        njets=1, beta=beta, symmetry_cut=z_cut, R0=radius
    )
    got = S.compute(sample, ["softdrop_mass"], softdrop_beta=beta, z_cut=z_cut, radius=radius)[
        "softdrop_mass"
    ]
    # The mass of a single light particle is what rounding leaves of energies of 1000 GeV.
    np.testing.assert_allclose(
        got, np.maximum(ak.to_numpy(groomed["msoftdrop"]).ravel(), 0), rtol=1e-9, atol=1e-5
    )
    assert np.median(got) > 10


@pytest.mark.parametrize("beta", [1.0, 2.0, 0.5])
def test_correlations_are_those_of_fjcontrib(sample, sequence, beta):
    got = S.compute(sample, ["d2", "e2", "e3"], correlation_beta=beta)
    assert list(got) == ["d2", "e2", "e3"]
    for name, how in (
        ("e2", {"npoint": 2, "func": "generic"}),
        ("e3", {"npoint": 3, "func": "generic"}),
        ("d2", {"func": "d2"}),
    ):
        expected = sequence.exclusive_jets_energy_correlator(njets=1, beta=beta, **how)
        np.testing.assert_allclose(got[name], ak.to_numpy(expected).ravel(), rtol=1e-9)


def test_omnijet_axes_are_those_of_its_repository(sample):
    """Massless constituents, kT with radius 0.8 and beam, E scheme, distance in pseudorapidity,
    with awkward.
    """
    fastjet = pytest.importorskip("fastjet")
    sample = sample[:600]
    c = sample.constituents
    massless = ak.zip(
        {
            "pt": ak.values_astype(c.pt, float),
            "eta": ak.values_astype(c.eta, float),
            "phi": ak.values_astype(c.phi, float),
            "mass": ak.zeros_like(ak.values_astype(c.pt, float)),
        },
        with_name="Momentum4D",
    )
    four = ak.zip(
        {"px": massless.px, "py": massless.py, "pz": massless.pz, "E": massless.E},
        with_name="Momentum4D",
    )
    sequence = fastjet.ClusterSequence(four, fastjet.JetDefinition(fastjet.kt_algorithm, 0.8))
    got = S.compute(sample, TAUS, axes="omnijet_kt")
    usual = S.compute(sample, TAUS, axes="kt")
    for k, name in enumerate(TAUS, 1):
        subjets = sequence.exclusive_jets(k)
        subjets = ak.zip(
            {"px": subjets.px, "py": subjets.py, "pz": subjets.pz, "E": subjets.E},
            with_name="Momentum4D",
        )
        near = ak.min(massless[:, :, None].deltaR(subjets[:, None, :]), axis=-1)
        expected = ak.sum(massless.pt * near, axis=1) / (ak.sum(massless.pt, axis=1) * 0.8)
        np.testing.assert_allclose(got[name], ak.to_numpy(expected), rtol=1e-9, atol=1e-12)
        assert np.mean(np.abs(got[name] - usual[name]) > 1e-4) > 0.1  # conventions matter


def brute(jet, k):
    """tau_k of massless (pt, eta, phi), winner-take-all: every pair looked at before every merger."""
    clusters = [list(particle) for particle in jet]

    def squared(a, b):
        across = abs(a[2] - b[2]) % (2 * np.pi)
        return (a[1] - b[1]) ** 2 + min(across, 2 * np.pi - across) ** 2

    while len(clusters) > k:
        a, b = min(
            itertools.combinations(clusters, 2),
            key=lambda ab: min(ab[0][0], ab[1][0]) ** 2 * squared(*ab),
        )
        clusters.remove(a)
        clusters.remove(b)
        winner = a if a[0] >= b[0] else b
        clusters.append([a[0] + b[0], winner[1], winner[2]])
    return (
        sum(p[0] * min(squared(p, axis) for axis in clusters) ** 0.5 for p in jet)
        / sum(p[0] for p in jet)
        / 0.8
    )


def test_subjettiness_is_its_definition():
    rng = np.random.default_rng(1)
    jets = [
        [
            (pt, eta, 3.1 + phi - 2 * np.pi * (3.1 + phi > np.pi))
            for pt, eta, phi in zip(
                rng.exponential(20, n), rng.normal(1, 0.2, n), rng.normal(0, 0.2, n), strict=True
            )
        ]
        for n in rng.integers(5, 25, 40)
    ]
    got = S.compute(make(*jets), TAUS)
    for k, name in enumerate(TAUS, 1):
        np.testing.assert_allclose(got[name], [brute(jet, k) for jet in jets], rtol=1e-9)


def test_values_by_hand():
    """Two prongs 0.3 apart around phi = pi, and a soft third particle that soft drop removes."""
    jets = make(
        [(100, 0.5, np.pi - 0.1), (50, 0.5, -np.pi + 0.2), (5, 0.9, np.pi - 0.1)],
        charge=np.array([1, -1, 0]),
    )
    got = {name: values[0] for name, values in S.compute(jets, kappa=1.0).items()}
    assert got["softdrop_mass"] == pytest.approx(np.sqrt(2 * 100 * 50 * (1 - np.cos(0.3))))
    assert got["tau1"] == pytest.approx((50 * 0.3 + 5 * 0.4) / (155 * 0.8))
    assert got["tau2"] == pytest.approx(5 * 0.4 / (155 * 0.8))
    assert got["tau21"] == pytest.approx(got["tau2"] / got["tau1"])
    assert (got["tau3"], got["tau4"], got["tau32"], got["n_constituents"]) == (0, 0, 0, 3)
    sides = 100 * 50 * 0.3, 100 * 5 * 0.4, 50 * 5 * 0.5
    assert got["e2"] == pytest.approx(sum(sides) / 155**2)
    assert got["e3"] == pytest.approx(100 * 50 * 5 * 0.3 * 0.4 * 0.5 / 155**3)
    assert got["d2"] == pytest.approx(got["e3"] / got["e2"] ** 3)
    assert got["ptd"] == pytest.approx(np.sqrt(100**2 + 50**2 + 5**2) / 155)
    assert got["jet_charge"] == pytest.approx(50 / got["pt"])
    assert got["girth"] == pytest.approx((100 * 0.1 + 50 * 0.2) / 155, rel=0.2)
    total = ak.sum(jets.constituents, axis=1)[0]
    assert [got[name] for name in ("pt", "eta", "phi", "mass")] == pytest.approx(
        [total.pt, total.eta, total.phi, total.mass]
    )


def test_girth_is_the_mean_distance_to_the_sum(sample):
    four = momenta(sample)
    total = ak.sum(four, axis=1)
    expected = ak.sum(
        four.pt * np.hypot(four.rapidity - total.rapidity, four.deltaphi(total)), 1
    ) / ak.sum(four.pt, 1)
    np.testing.assert_allclose(
        S.compute(sample, ["girth"])["girth"], ak.to_numpy(expected), rtol=1e-4
    )


def test_jets_with_few_constituents_have_defined_values():
    one, two, three = (60, 0.1, 0.2), (30, 0.3, 0.1), (20, -0.1, 0.3)
    jets = make(
        [], [one], [one, two], [one, two, three], [one, one, one, one, one], charge=np.ones(11, int)
    )
    got = S.compute(jets)
    assert set(got) == set(S.FEATURES)
    for name, values in got.items():
        assert values.shape == (5,) and np.isfinite(values).all(), name
        assert values[0] == 0, name
    for k, name in enumerate(TAUS, 1):
        assert (
            (got[name][: k + 1] == 0).all()
            and (got[name][k + 1 : 4] > 0).all()
            and got[name][4] == 0
        )
    assert (got["e2"] > 0).tolist() == [False, False, True, True, False]
    assert (got["e3"] > 0).tolist() == [False, False, False, True, False]
    for ratio in ("tau21", "tau32", "d2"):
        assert (got[ratio] > 0).tolist() == [False, False, False, ratio != "tau32", False]
    assert got["softdrop_mass"][1] == pytest.approx(0, abs=1e-5) and got["softdrop_mass"][2] > 1
    assert got["ptd"][1] == 1 and got["n_constituents"].tolist() == [0, 1, 2, 3, 5]
    none = S.compute(jets[:0])
    assert all(len(values) == 0 for values in none.values()) and S.images(jets[:0]).shape == (
        0,
        40,
        40,
    )


particle = st.tuples(st.floats(1e-3, 1e4), st.floats(-5, 5), st.floats(-np.pi, np.pi))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(particle, max_size=7), max_size=4), st.sampled_from(list(S.AXES)))
def test_any_jet_has_finite_features_in_range(jets, axes):
    got = S.compute(make(*jets), axes=axes)
    assert all(np.isfinite(values).all() for values in got.values())
    assert all(
        (got[name] >= 0).all()
        for name in ("mass", "softdrop_mass", *TAUS, "e2", "e3", "d2", "girth")
    )
    assert (got["ptd"] <= 1 + 1e-12).all()


@settings(max_examples=20, deadline=None)
@given(
    arrays.arrays(np.float64, (12, 3), elements=st.floats(0, 1)),
    st.floats(0.1, 10),
    st.floats(-np.pi, np.pi),
    st.floats(-2, 2),
)
def test_scale_rotation_boost_and_order_change_nothing(unit, scale, turn, boost):
    unit = unit + 0.01 * np.random.default_rng(0).uniform(size=unit.shape)  # no ties
    jet = np.stack([100 * unit[:, 0] ** 3 + 1e-3, unit[:, 1], unit[:, 2]], axis=1)
    moved = np.stack([jet[:, 0] * scale, jet[:, 1] + boost, jet[:, 2] + turn], axis=1)[::-1]
    before, after = S.compute(make(jet)), S.compute(make(moved))
    for name in (*TAUS, "e2", "e3", "ptd", "girth"):
        assert after[name] == pytest.approx(before[name], rel=1e-6, abs=1e-9)
    for name in ("pt", "mass"):
        assert after[name] == pytest.approx(before[name] * scale, rel=1e-6, abs=1e-4)


def test_minimised_axes_lower_tau(sample):
    for axes in ("kt", "wta_kt"):
        start, end = (
            S.compute(sample, TAUS, axes=axes),
            S.compute(sample, TAUS, axes=f"onepass_{axes}"),
        )
        for name in TAUS:
            assert end[name].mean() < start[name].mean()
            assert (end[name] <= start[name] + 1e-4).all()  # the accuracy of an axis


@pytest.mark.parametrize("name", ["jetclass", "toptagging", "aoj"])
def test_stored_values_come_back(name):
    """The shipped jets were measured by FastJet before their constituents were rounded, to 12 bits
    of mantissa.
    """
    jets = jetnb.load(name)[:2000]
    weights = "puppi_weight" if name == "aoj" else None
    table = S.compute(jets, [*TAUS, "softdrop_mass", "mass", "pt"], weights=weights)
    for feature, values in table.items():
        off = np.abs(values - ak.to_numpy(jets[feature]))
        rounding = (
            0.02 if name != "jetclass" else 0.15
        )  # there energies of neutral hadrons are rounded by themselves
        assert np.quantile(off, 0.9) < (1e-4 if "tau" in feature else rounding), feature


def test_weights_scale_the_momenta_and_drop_what_has_none():
    jets = jetnb.load("aoj")[:200]
    c = jets.constituents[jets.constituents.puppi_weight > 0]
    fields = {name: c[name] for name in ("eta", "phi", "charge")}
    fields |= {name: ak.values_astype(c[name], float) * c.puppi_weight for name in ("pt", "energy")}
    by_hand = ak.Array({"constituents": ak.zip(fields, with_name="Momentum4D")})
    got, expected, plain = (
        S.compute(jets, weights="puppi_weight"),
        S.compute(by_hand),
        S.compute(jets),
    )
    for name in S.FEATURES:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-7, atol=1e-7)
    assert (plain["pt"] > got["pt"]).mean() > 0.9 and (
        plain["n_constituents"] >= got["n_constituents"]
    ).all()
    np.testing.assert_allclose(S.images(jets, weights="puppi_weight"), S.images(by_hand), atol=1e-3)


def test_neither_threads_nor_blocks_nor_company_matter(sample):
    many = ak.concatenate([sample, sample])[: 2 * features.BLOCK + 1]
    expected = S.compute(many)
    for threads in (2, None):
        for name, values in S.compute(many, threads=threads).items():
            assert values.tobytes() == expected[name].tobytes()
    chosen = np.array([2 * features.BLOCK, 3, 3, 700])
    for name, values in S.compute(many[chosen]).items():
        np.testing.assert_array_equal(values, expected[name][chosen])


def test_a_table_fits_into_the_jets():
    jets = jetnb.load("jetclass")[:5]
    table = S.compute(jets, ["d2", "n_constituents"])
    jets["d2"] = table["d2"]
    assert (
        jets.d2.tolist() == table["d2"].tolist()
        and table["n_constituents"].tolist() == jets.n_constituents.tolist()
    )
    assert S.compute(jets, "mass").keys() == {"mass"}
    assert "jet_charge" in S.compute(jets) and "jet_charge" not in S.compute(
        jetnb.load("toptagging")[:5]
    )


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"axes": "antikt"}, "'antikt'.*wta_kt"),
        ({"features": ["tau5"]}, "'tau5'.*tau4"),
        ({"radius": 0}, "radius.*0"),
        ({"beta": -1.0}, "beta.*-1"),
        ({"correlation_beta": np.nan}, "correlation_beta"),
        ({"kappa": np.inf}, "kappa"),
        ({"z_cut": 0.5}, "z_cut.*0.5"),
        ({"softdrop_beta": np.nan}, "softdrop_beta"),
        ({"threads": 0}, "threads.*0"),
    ],
)
def test_settings_are_looked_at_before_the_jets(how, message):
    with pytest.raises(ValueError, match=message):
        S.compute(None, **how)


def test_bad_jets_are_named():
    jets = make([(10, 0, 0)], [(10, 0, 0), (5, 0.1, 0)])
    for how in ({"weights": "puppi_weight"}, {"features": ["jet_charge"]}):
        with pytest.raises(ValueError, match="(puppi_weight|charge) is missing.*pt"):
            S.compute(jets, **how)
    with pytest.raises(ValueError, match="constituents"):
        S.compute(jets.constituents)
    for name, value in (
        ("pt", 0.0),
        ("pt", np.nan),
        ("energy", -1.0),
        ("eta", np.inf),
        ("phi", -np.inf),
        ("w", -0.1),
    ):
        fields = {
            f: ak.flatten(jets.constituents[f]).to_numpy().copy()
            for f in ("pt", "eta", "phi", "energy")
        }
        fields["w"] = np.ones(3)
        fields[name][2] = value
        bad = ak.Array({"constituents": ak.unflatten(ak.zip(fields), [1, 2])})
        with pytest.raises(
            ValueError, match=rf"constituents.{name}: constituent 1 of jet 1 has {value}"
        ):
            S.compute(bad, weights="w")
    with pytest.raises(ValueError, match="n_bins.*0"):
        S.images(jets, 0)


def test_images_hold_the_pt_around_the_axis(sample):
    got = S.images(sample[:300], 16, radius=3.0)
    assert got.shape == (300, 16, 16) and got.dtype == np.float32
    np.testing.assert_allclose(
        got.sum(axis=(1, 2)), ak.sum(sample.constituents.pt[:300], axis=1), rtol=1e-5
    )
    one = S.images(
        make([(50, 1.0, np.pi - 0.05), (50, 1.0, -np.pi + 0.05), (1, 1.3, np.pi)]), 3, radius=0.6
    )[0]
    assert one.tolist() == [[0, 0, 0], [0, 100, 0], [0, 1, 0]]
    assert S.images(make([(10, 0, 0), (10, 2, 0)]), radius=0.5).sum() == 0


def test_cms_stores_one_pass_kt_axes_of_weighted_constituents():
    """On simulated CMS jets in the layout of Aspen Open Jets: one definition comes back to 1e-4, no
    other does.
    """
    real = (
        Path(__file__).resolve().parents[2] / "shared" / "realdata" / "aoj_layout_21_cms_mc_jets.h5"
    )
    if not real.exists():
        pytest.skip(f"{real.name} is not here")
    jets = next(aspen.read(real))
    off = {}
    for axes in S.AXES:
        for weights in ("puppi_weight", None):
            table = S.compute(jets, S.TAUS, axes=axes, weights=weights)
            off[axes, weights] = np.quantile(
                [abs(table[name] - jets[name]) for name in S.TAUS], 0.9
            )
    best = off.pop(("onepass_kt", "puppi_weight"))
    assert best < 1e-4 and min(off.values()) > 5 * best


def test_undoing_a_jet_gives_the_splittings_of_fastjet(sample, sequence):
    splittings, _ = S.decluster(sample)
    expected = sequence.exclusive_jets_lund_declusterings(1)
    assert len(splittings) == len(sample)
    for field, name in (("delta_r", "Delta"), ("kt", "kt")):
        ours, theirs = splittings[field], ak.flatten(expected[name], axis=2)
        assert ak.all(ak.num(ours) == ak.num(theirs))
        np.testing.assert_allclose(ak.flatten(ours), ak.flatten(theirs), rtol=1e-5, atol=1e-7)


def test_soft_drop_is_where_the_softer_branch_is_hard_enough(sample):
    splittings, step = S.decluster(sample)
    for z_cut in (0.05, 0.1, 0.25):
        first = ak.firsts(splittings[splittings.z > z_cut])
        expected = S.compute(sample, "softdrop_mass", z_cut=z_cut)["softdrop_mass"]
        found = ~ak.is_none(first)
        np.testing.assert_allclose(first.mass[found], expected[found], atol=1e-6)
    np.testing.assert_allclose(splittings.mass[:, 0], S.compute(sample, "mass")["mass"], atol=1e-6)
    # what has not left before a splitting is the branch that splits there
    for k in (1, 3):
        deep = ak.num(splittings) > k
        left = momenta(sample[deep])[step[deep] >= k]
        px, py, pz, energy = (
            ak.to_numpy(ak.sum(left[name], axis=1)) for name in ("px", "py", "pz", "E")
        )
        np.testing.assert_allclose(np.hypot(px, py), splittings.pt[deep][:, k], rtol=1e-6)
        np.testing.assert_allclose(
            np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0)),
            splittings.mass[deep][:, k],
            rtol=1e-3,
            atol=2e-2,
        )


def test_a_jet_of_one_constituent_has_no_splitting():
    splittings, step = S.decluster(
        make([(10.0, 0.0, 0.0)], [], [(30.0, 0.1, 0.0), (10.0, 0.4, 0.0)])
    )
    assert ak.num(splittings).to_list() == [0, 0, 1]
    assert step.to_list() == [[0], [], [1, 0]]
    np.testing.assert_allclose(
        [splittings[2, 0].delta_r, splittings[2, 0].z, splittings[2, 0].kt], [0.3, 0.25, 3.0]
    )


@pytest.fixture(scope="module")
def particles():
    data = pretraining.particles(jetnb.load("jetclass")[::40], hardest=None)
    return data.x, data.offsets


def fastjet_subjets(x, offsets, algorithm, radius, n):
    """The same by FastJet, jet by jet: the subjet of each constituent, 0 the hardest."""
    fastjet = pytest.importorskip("fastjet")
    name = {"kt": "kt", "ca": "cambridge", "antikt": "antikt"}[algorithm]
    definition = fastjet.JetDefinition(getattr(fastjet, f"{name}_algorithm"), radius or 1000.0)
    result = np.full(len(x), -1)
    for start, stop in itertools.pairwise(offsets):
        given = []
        for i, (pt, eta, phi) in enumerate(x[start:stop].astype(float)):
            one = fastjet.PseudoJet(
                pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
            )
            one.set_user_index(i)
            given.append(one)
        sequence = fastjet.ClusterSequence(given, definition)
        found = sequence.exclusive_jets(min(n, len(given))) if n else sequence.inclusive_jets(0.0)
        for k, one in enumerate(sorted(found, key=lambda jet: -jet.perp())):
            for part in one.constituents():
                result[start + part.user_index()] = k
    return result


@pytest.mark.parametrize("algorithm", ["kt", "ca", "antikt"])
@pytest.mark.parametrize(
    ("radius", "n"), [(0.1, None), (0.2, None), (0.4, None), (None, 3), (None, 8)]
)
def test_subjets_are_those_of_fastjet(particles, algorithm, radius, n):
    x, offsets = particles
    got = S.subjets(x, offsets, algorithm=algorithm, radius=radius, n=n)
    expected = fastjet_subjets(x, offsets, algorithm, radius, n)
    assert (got == expected).mean() > 0.9995  # two distances can be equal up to rounding
    assert got.max() >= 2


def test_subjets_of_few_constituents():
    x = np.array([[1, 0, 0], [2, 0.1, 0.1], [3, 0.5, 0]], np.float32)
    for algorithm in S.clusters.ALGORITHMS:
        assert S.subjets(x, [0, 0, 1, 3], algorithm=algorithm, n=4).tolist() == [0, 1, 0]
        assert S.subjets(x[:0], [0], algorithm=algorithm, n=4).tolist() == []
    assert S.subjets(torch.from_numpy(x), torch.tensor([0, 3]), radius=0.2).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algorithm": "cone", "n": 2}, "algorithm 'cone' is unknown: use one of kt, ca, antikt"),
        ({}, "give one of them"),
        ({"radius": 0.1, "n": 2}, "give one of them"),
        ({"radius": 0.0}, "must be positive"),
        ({"radius": float("nan")}, "must be positive"),
        ({"n": 0}, "n at least 1"),
    ],
)
def test_subjets_say_what_is_wrong(settings, message):
    x = np.array([[1, 0, 0], [2, 0.1, 0.1]], np.float32)
    with pytest.raises(ValueError, match=message):
        S.subjets(x, [0, 2], **settings)


def test_subjets_of_particles_that_are_none_say_which():
    x = np.array([[1, 0, 0], [0, 0.1, 0.1]], np.float32)
    with pytest.raises(ValueError, match="particle 1, in jet 1, has pt 0"):
        S.subjets(x, [0, 1, 2], n=2)
    with pytest.raises(ValueError, match="offsets end at T"):
        S.subjets(x, [0, 1], n=2)
