"""The energy flow of the cards, against what can be worked out by hand."""

import numpy as np
import pytest

pytest.importorskip("pythia8mc", reason="simulation extra not installed: pip install 'jetnb[sim]'")
pytest.importorskip("fastjet", reason="simulation extra not installed: pip install 'jetnb[sim]'")

from jetnb import kinematics
from jetnb.simulation import delphes, delphes_cards, detector

ATLAS, CMS = delphes_cards.ATLAS_2016, delphes_cards.CMS_JETCLASS


def particles(codes, pt, eta=0.05, phi=0.05, event=0, **more):
    """A table of particles without mass, all charges positive."""
    codes, pt = np.atleast_1d(codes), np.broadcast_to(np.asarray(pt, float), np.size(codes))
    n = len(codes)
    eta, phi, event = (np.broadcast_to(v, n).copy() for v in (eta, phi, event))
    charge = np.where(
        np.isin(np.abs(codes), (11, 13)), -np.sign(codes), (np.abs(codes) == 211) * np.sign(codes)
    )
    zero = {k: np.zeros(n) for k in ("x", "y", "z")} | {
        k: np.broadcast_to(v, n) for k, v in more.items()
    }
    return {
        "event": event,
        "px": pt * np.cos(phi),
        "py": pt * np.sin(phi),
        "pz": pt * np.sinh(eta),
        "energy": pt * np.cosh(eta),
        "pdg_id": codes,
        "charge": charge,
        "vertex": np.zeros(n, int),
        **zero,
    }


def exact(card, **changes):
    """The card with calorimeters that measure exactly."""
    fine = {
        k: getattr(card, k)._replace(resolution=lambda e, eta: 1e-9 * np.ones_like(e))
        for k in ("electromagnetic", "hadronic")
    }
    return card._replace(**(fine | changes))


def measure(p, card, seed=0):
    n = p["event"].max() + 1
    return delphes.reconstruct(
        p, np.zeros(len(p["px"])), np.zeros(n), detector=card, rng=np.random.default_rng(seed)
    )


def test_neutral_lies_anywhere_in_its_tower_and_keeps_its_energy():
    n = 4000
    p = particles(np.full(n, 130), 20.0, eta=0.02, phi=0.02, event=np.arange(n))
    c = measure(p, exact(ATLAS))
    assert len(c["pt"]) == n
    assert c["eta"].min() >= 0 and c["eta"].max() <= 0.1
    assert c["phi"].min() >= 0 and c["phi"].max() <= np.radians(10)
    assert np.std(c["eta"]) == pytest.approx(0.1 / 12**0.5, rel=0.05)
    assert np.std(c["phi"]) == pytest.approx(np.radians(10) / 12**0.5, rel=0.05)
    assert c["pt"] * np.cosh(c["eta"]) == pytest.approx(20 * np.cosh(0.02), rel=1e-6)


@pytest.mark.parametrize("card, shared", [(ATLAS, True), (CMS, False)])
def test_photon_and_neutral_hadron_share_a_direction_where_they_share_towers(card, shared):
    c = measure(particles([22, 130], 30.0), exact(card))
    assert sorted(c["pdg_id"]) == [22, 130]
    assert bool(np.ptp(c["eta"]) == 0 and np.ptp(c["phi"]) == 0) == shared


def test_towers_have_the_edges_of_the_cards():
    towers = ATLAS.hadronic.towers
    ring = np.searchsorted(towers.edges, 0.05) - 1
    assert towers.edges[ring : ring + 2] == pytest.approx([0.0, 0.1])
    assert towers.n_phi[ring] == 36
    assert ATLAS.electromagnetic.towers is towers
    crystals = CMS.electromagnetic.towers
    near = crystals.edges[np.abs(crystals.edges) < 2.9]
    assert np.diff(near) == pytest.approx(0.0174, abs=2e-4)
    assert np.all(crystals.n_phi[np.abs(crystals.edges[:-1]) < 2.9] == 360)
    for card in (ATLAS, CMS):
        for calorimeter in (card.electromagnetic, card.hadronic):
            assert np.all(np.diff(calorimeter.towers.edges) > 0)
            assert len(calorimeter.towers.edges) == len(calorimeter.towers.n_phi) + 1


def test_track_that_the_calorimeter_measures_better_takes_its_energy():
    """At 300 GeV and |eta| = 2 a track of the ATLAS card is good to 97 %, so that nothing neutral
    is left beside it.
    """
    found = [
        measure(particles([211, 130], [300.0, 40.0], eta=2.02), exact(ATLAS), seed)
        for seed in range(20)
    ]
    charged = [c for c in found if (c["charge"] != 0).any()]
    assert len(charged) > 10
    for c in charged:
        assert c["charge"].tolist() == [1]
        assert c["pt"] == pytest.approx([340.0], rel=1e-6)


def test_good_track_leaves_the_excess_as_neutral():
    found = [
        measure(
            particles([211, 130], [5.0, 30.0]),
            ATLAS._replace(
                electromagnetic=ATLAS.electromagnetic,
                momentum={k: (np.full(3, 1e-6), np.zeros(3)) for k in (0, 11, 13)},
            ),
            seed,
        )
        for seed in range(40)
    ]
    neutral = np.array([c["pt"][c["charge"] == 0].sum() for c in found if (c["charge"] != 0).any()])
    assert np.median(neutral) == pytest.approx(30.0, abs=2.0)


def test_tracks_of_jetclass_take_the_energy_that_the_calorimeter_sees():
    n = 3000
    p = particles(np.full(n, 211), 30.0, eta=0.4, event=np.arange(n))
    c = measure(p, CMS)
    track = c["charge"] != 0
    assert 0.9 * n < track.sum() < n
    kept = c["pt"][track] / 30
    assert (
        np.std(kept[kept < 0.999]) > 0.1
    )  # downward fluctuations are taken over, as an insignificant upward one
    assert kept.max() < 1.4
    alone = measure(particles(np.full(n, 211), 0.8, eta=0.4, event=np.arange(n)), CMS)
    assert (alone["charge"] != 0).sum() < 0.2 * n, "below the threshold of the calorimeter"


def test_muon_of_jetclass_keeps_its_momentum():
    found = [measure(particles([13], 25.0), CMS, seed) for seed in range(30)]
    pt = np.concatenate([c["pt"] for c in found])
    assert len(pt) > 25
    assert pt == pytest.approx(25.0, rel=1e-9)


def test_unseen_are_those_born_outside_and_slow_ones_that_curl_away():
    far = particles([130], 50.0, x=2000.0)
    assert len(measure(far, ATLAS)["pt"]) == 0
    n = 2000  # curls up with a radius of 0.25 m and leaves through the end plane, mostly beyond the tracker
    slow = measure(particles(np.full(n, 211), 0.15, eta=0.3, event=np.arange(n)), ATLAS)
    assert len(slow["pt"]) < 0.05 * n


@pytest.mark.parametrize("charge", [-1, 1])
def test_tracks_bend_as_in_the_other_detector(charge):
    """Particles from the origin: a closed formula there, a circle and a cylinder here."""
    rng = np.random.default_rng(3)
    n = 500
    p = particles(
        np.full(n, 211 * charge),
        rng.uniform(1, 50, n),
        eta=rng.uniform(-2.4, 2.4, n),
        phi=rng.uniform(-3.1, 3.1, n),
    )
    momenta = detector.polar(p)

    class Same:
        field, calorimeter_radius, calorimeter_z = CMS.field, CMS.radius, CMS.half_length

    eta, phi, _ = detector._at_calorimeter(p, *momenta, np.zeros(n), Same)
    at_eta, at_phi, inside = delphes._propagate(p, *momenta, np.zeros(n), CMS)
    assert inside.all()
    assert at_eta == pytest.approx(eta, abs=1e-6)
    assert kinematics.wrap(at_phi - phi) == pytest.approx(0, abs=1e-6)


def test_impact_parameter_resolution_is_the_published_one():
    """arXiv:1405.6569, figure 15: about 90 and 30 micrometres at 1 and 10 GeV in the barrel; it
    only falls with pt.
    """
    assert CMS.d0(np.array([0.95, 1.0, 10.0, 500.0]), np.zeros(4)) == pytest.approx(
        [0.0753, 0.0753, 0.0191, 0.011]
    )
    assert CMS.dz(np.array([1.0, 1.0]), np.array([0.5, 2.0])) == pytest.approx([0.111, 0.670])
    pt = np.geomspace(0.2, 300, 200)
    for eta in (0.1, 1.2, 2.0):
        assert np.all(np.diff(CMS.d0(pt, np.full(200, eta))) < 2e-3)
    c = measure(particles(np.full(4000, 211), 40.0, event=np.arange(4000)), CMS)
    track = c["charge"] != 0
    assert np.std(c["d0"][track]) == pytest.approx(0.0116, rel=0.05)
    assert np.all(c["d0_error"][track] == pytest.approx(0.0116))
