"""The pieces of the simulation, each against something that can be worked out by hand."""

import numpy as np
import pytest

pytest.importorskip("pythia8mc", reason="simulation extra not installed: pip install 'jetnb[sim]'")
pytest.importorskip("fastjet", reason="simulation extra not installed: pip install 'jetnb[sim]'")

from jetnb import clustering, kinematics
from jetnb.simulation import detector, geometry, pileup, pileup_jets, processes, response


def particle(**given):
    """A table of one event with photons along x unless told otherwise."""
    n = max(np.size(v) for v in given.values())
    base = {
        "event": 0,
        "px": 10.0,
        "py": 0.0,
        "pz": 0.0,
        "energy": 10.0,
        "pdg_id": 22,
        "charge": 0,
        "x": 0.0,
        "y": 0.0,
        "z": 0.0,
        "vertex": 0,
    } | given
    return {k: np.broadcast_to(np.asarray(v), n).copy() for k, v in base.items()}


def perfect(**changes):
    """A detector that measures exactly and finds every track."""
    exact = {
        name: lambda a, b: np.zeros(np.shape(a)) + 1e-12
        for name in (
            "track_resolution",
            "d0_resolution",
            "dz_resolution",
            "electromagnetic_resolution",
            "hadronic_resolution",
        )
    }
    exact |= {
        "track_efficiency": lambda pt, eta, code: (
            np.ones(np.shape(pt)) * (pt > 0) * (np.abs(eta) < 2.5)
        ),
        "crystal_response": lambda eta, phi: np.ones(np.shape(eta)),
    }
    return response.CMS._replace(**(exact | changes))


def measure(p, instrument=None, seed=0, z=0.0):
    return detector.reconstruct(
        p,
        np.full(len(p["px"]), z),
        np.array([z]),
        detector=instrument or perfect(),
        rng=np.random.default_rng(seed),
    )


# --- geometry


def test_barrel_crystals_have_the_published_size():
    eta = np.linspace(-1.47, 1.47, 40001)
    centres = np.unique(np.round(geometry.cms_crystals(eta, np.zeros_like(eta)).eta, 9))
    assert np.allclose(np.diff(centres), np.pi / 180)


def test_endcap_crystals_lie_on_a_square_grid():
    rng = np.random.default_rng(1)
    eta, phi = rng.uniform(1.6, 2.9, 5000), rng.uniform(-np.pi, np.pi, 5000)
    cell = geometry.cms_crystals(eta, phi)
    radius = 3.154 / np.sinh(cell.eta)
    for coordinate in (radius * np.cos(cell.phi), radius * np.sin(cell.phi)):
        assert np.allclose((coordinate / 0.02862) % 1, 0.5, atol=1e-6)


def test_hit_is_never_further_from_the_centre_than_half_a_cell():
    rng = np.random.default_rng(2)
    eta, phi = rng.uniform(-1.47, 1.47, 5000), rng.uniform(-np.pi, np.pi, 5000)
    cell = geometry.cms_crystals(eta, phi)
    assert np.abs(cell.eta - eta).max() <= np.pi / 360 + 1e-12
    tower = geometry.cms_towers(eta, phi)
    assert np.abs(tower.eta - eta).max() <= 0.0435 + 1e-12
    assert np.abs(tower.phi - phi).max() <= np.radians(2.5) + 1e-12


def test_keys_of_different_cells_differ():
    eta, phi = np.meshgrid(np.linspace(-5.1, 5.1, 400), np.linspace(-3.14, 3.14, 300))
    for cells in (geometry.cms_towers, geometry.forward_towers, geometry.atlas_towers):
        c = cells(eta.ravel(), phi.ravel())
        by_key = {}
        for key, centre in zip(
            c.key, zip(c.eta.round(6), c.phi.round(6), strict=True), strict=True
        ):
            assert by_key.setdefault(key, centre) == centre


def test_dead_towers_are_few_and_fixed():
    rng = np.random.default_rng(3)
    eta, phi = rng.uniform(-2.9, 2.9, 200_000), rng.uniform(-np.pi, np.pi, 200_000)
    assert 0.001 < geometry.cms_dead(eta, phi).mean() < 0.01
    assert np.array_equal(geometry.cms_dead(eta, phi), geometry.cms_dead(eta, phi))


# --- detector


def test_photon_is_seen_where_it_went():
    got = measure(particle(px=50.0, energy=50.0))
    assert list(got["pdg_id"]) == [22]
    assert got["pt"][0] == pytest.approx(50.0)
    assert abs(got["eta"][0]) < 0.01
    assert abs(got["phi"][0]) < 0.01


@pytest.mark.parametrize("eta", [0.3, -1.2, 2.0, 3.5])
def test_direction_of_a_neutral_is_that_from_the_vertex(eta):
    pz = 500.0 * np.sinh(eta)
    got = measure(particle(px=500.0, pz=pz, energy=np.hypot(500.0, pz)), z=60.0)
    assert got["eta"][0] == pytest.approx(eta, abs=0.1 if eta > 3 else 0.02)
    assert got["pt"][0] == pytest.approx(500.0, rel=0.1 if eta > 3 else 0.02)


def test_charged_pion_gives_one_track_and_no_neutral():
    got = measure(particle(px=20.0, energy=np.hypot(20, 0.13957), pdg_id=211, charge=1))
    assert list(got["pdg_id"]) == [211]
    assert got["pt"][0] == pytest.approx(20.0)
    assert got["mass"][0] == pytest.approx(0.13957)


def test_lost_track_becomes_a_neutral_hadron_bent_by_the_field():
    blind = perfect(track_efficiency=lambda pt, eta, code: np.zeros(np.shape(pt)))
    got = measure(particle(px=5.0, energy=5.0, pdg_id=211, charge=1), blind)
    assert list(got["pdg_id"]) == [130]
    # A circle of radius pt/0.3B = 4.386 m meets the cylinder of 1.29 m at -arcsin(1.29/(2*4.386)) =
    # -0.1476.
    assert got["phi"][0] == pytest.approx(-0.1476, abs=0.087 / 2)


def test_slow_charged_particle_curls_up_before_the_calorimeter():
    blind = perfect(track_efficiency=lambda pt, eta, code: np.zeros(np.shape(pt)))
    # 2 * 0.6 GeV / (0.3 * 3.8 T) = 1.05 m is less than the 1.29 m of the barrel
    assert len(measure(particle(px=0.6, energy=0.62, pdg_id=211, charge=1), blind)["pt"]) == 0


def test_photon_under_a_track_is_recovered_and_neutral_hadron_splits():
    p = particle(
        px=[20.0, 10.0], energy=[20.0, 10.0], pdg_id=[211, 22], charge=[1, 0], py=[0.0, 0.0]
    )
    assert sorted(measure(p)["pdg_id"]) == [22, 211]
    neutral = measure(particle(px=40.0, energy=40.0, pdg_id=2112))
    energy = dict(zip(neutral["pdg_id"], neutral["pt"] * np.cosh(neutral["eta"]), strict=True))
    assert energy[22] == pytest.approx(0.25 * 40.0, rel=1e-3)
    assert energy[130] == pytest.approx(0.75 * 40.0, rel=1e-3)


def test_forward_particles_become_types_1_and_2():
    pz = 5.0 * np.sinh(3.5)
    p = particle(px=5.0, pz=pz, energy=np.hypot(5.0, pz), pdg_id=[22, 211], charge=[0, 1])
    got = measure(p)
    assert set(got["pdg_id"]) == {1, 2}
    assert np.abs(got["eta"]).min() > 3.0


def test_no_tracks_beyond_the_tracker():
    pz = 20.0 * np.sinh(2.7)
    got = measure(
        particle(px=20.0, pz=pz, energy=np.hypot(20.0, pz), pdg_id=211, charge=1), response.CMS
    )
    assert not (got["charge"] != 0).any()


@pytest.mark.parametrize("charge", [1, -1])
def test_impact_parameter_of_a_displaced_track(charge):
    # born at (0, 2) mm and moving along x: the straight line misses the beam by 2 mm; the circle by
    # less than 1 % of that
    got = measure(particle(px=50.0, energy=50.0, pdg_id=211 * charge, charge=charge, y=2.0))
    # the sign is that of x sin(phi) - y cos(phi), whatever the charge
    assert got["d0"][0] == pytest.approx(-2.0, rel=1e-2)
    # moving away from the beam line along its own flight path: no impact parameter
    radial = measure(
        particle(px=0.0, py=50.0, energy=50.0, pdg_id=211 * charge, charge=charge, y=2.0)
    )
    assert abs(radial["d0"][0]) < 1e-3


def test_z0_is_traced_back_to_the_beam_line():
    eta = 1.0
    p = particle(
        px=10.0,
        pz=10.0 * np.sinh(eta),
        energy=10 * np.cosh(eta),
        pdg_id=211,
        charge=1,
        x=3.0,
        z=5.0,
    )
    assert measure(p)["z0"][0] == pytest.approx(5.0 - 3.0 * np.sinh(eta), rel=1e-3)


def test_resolutions_and_efficiencies_are_sane_everywhere():
    pt, eta = (a.ravel() for a in np.meshgrid(np.geomspace(0.2, 1000, 60), np.linspace(-5, 5, 101)))
    for d in (response.CMS, response.ATLAS):
        for code in (211, 11, 13):
            chance = d.track_efficiency(pt, eta, np.full(len(pt), code))
            assert np.all((chance >= 0) & (chance <= 1))
            assert not chance[np.abs(eta) >= 2.5].any()
        for f in (d.track_resolution, d.d0_resolution, d.dz_resolution):
            assert np.all(f(pt, eta) > 0)
        for f in (d.electromagnetic_resolution, d.hadronic_resolution):
            assert np.all(np.diff(f(np.geomspace(0.5, 1000, 50), np.ones(50))) > 0)


def test_wrap():
    assert kinematics.wrap(np.array([0.0, 4.0, -4.0, np.pi])) == pytest.approx(
        [0, 4 - 2 * np.pi, 2 * np.pi - 4, np.pi]
    )


# --- pile-up


def test_isolated_neutral_goes_and_neutral_beside_a_hard_track_stays():
    rng = np.random.default_rng(0)
    n = 60  # charged pile-up with some hard-scatter particles about, so that alpha has a shape
    eta = np.concatenate([[0.0, 0.05, 2.0], rng.uniform(-2.4, 2.4, n), rng.uniform(-2.4, 2.4, 40)])
    phi = np.concatenate([[0.0, 0.05, 2.0], rng.uniform(-3.1, 3.1, n), rng.uniform(-3.1, 3.1, 40)])
    pt = np.concatenate([[100.0, 5.0, 1.0], np.full(n, 1.0), np.full(40, 0.5)])
    charge = np.concatenate([[1, 0, 0], np.ones(n + 40, int)])
    hard = np.concatenate([[True, False, False], np.zeros(n, bool), np.ones(40, bool)])
    c = {"event": np.zeros(len(pt), int), "pt": pt, "eta": eta, "phi": phi, "charge": charge}
    weight = pileup.puppi(c, hard=hard, n_vertices=np.array([20]), near=np.ones(len(pt), bool))
    assert weight[1] == pytest.approx(1.0, abs=1e-3)
    assert weight[2] < 0.5
    assert np.all(weight[hard] == 1)
    assert np.all(weight[(charge != 0) & ~hard] == 0)
    assert np.all((weight >= 0) & (weight <= 1))


def test_track_goes_to_the_nearest_found_vertex():
    vertices = pileup.Vertices(
        np.array([0.0, 2.0, 50.0, -10.0, 0.5]),
        np.array([0, 3]),
        np.array([True, True, True, True, False]),
    )
    event, z0 = np.array([0, 0, 0, 0, 1, 1]), np.array([0.9, 1.1, -2.9, 4.0, -9.0, 0.5])
    got = pileup.from_hard_vertex(event, z0, vertices)
    # last: the vertex at 0.5 was not found and the hard one is 10.5 mm away, outside the window
    assert list(got) == [True, False, True, False, True, False]


def test_drawn_collisions_keep_pt_and_energy():
    p = {
        k: np.array([1.0, 2.0, 3.0])
        for k in ("px", "py", "pz", "energy", "pdg_id", "charge", "x", "y", "z")
    }
    pool = pileup.Pool(p, np.array([0, 1, 3]), np.array([1.0, 30.0]))
    got = pileup.draw(
        pool, np.array([2, 0, 3]), rng=np.random.default_rng(1), eta_max=5.0, below=10.0
    )
    assert list(got["event"]) == [
        0,
        0,
        2,
        2,
        2,
    ]  # only the first pool event is soft, and it has one particle
    assert list(got["vertex"]) == [1, 2, 1, 2, 3]
    assert np.hypot(got["px"], got["py"]) == pytest.approx(np.full(5, np.sqrt(2)))
    assert np.abs(got["pz"]) == pytest.approx(np.ones(5))


# --- generator and reconstruction


@pytest.fixture(scope="module")
def tops():
    return processes.generate(
        processes.make_generator("tt", seed=7, settings=("PhaseSpace:pTHatMin=400",)), 40
    )


def test_every_top_has_three_quarks_that_add_up_to_its_mass(tops):
    p, masses = tops.partons, []
    for resonance in np.unique(p["resonance"][p["resonance_id"] == 6]):
        mine = p["resonance"] == resonance
        assert mine.sum() == 3
        momentum = [p[k][mine] for k in ("px", "py", "pz")]
        energy = np.sqrt(
            sum(m**2 for m in momentum) + np.where(np.abs(p["pdg_id"][mine]) == 5, 4.8, 0.3) ** 2
        )
        masses.append(np.sqrt(energy.sum() ** 2 - sum(m.sum() ** 2 for m in momentum)))
    # The b is taken before it radiates and the W after it has recoiled, so single tops stray from
    # the peak.
    assert np.median(masses) == pytest.approx(172.5, abs=3)
    assert len(masses) == 80


def test_every_top_event_has_two_b_hadrons_or_more(tops):
    assert np.bincount(tops.b_hadrons["event"], minlength=40).min() >= 2


def test_momentum_is_conserved_up_to_the_neutrinos_and_the_beam(tops):
    e = tops.particles
    total = np.hypot(np.bincount(e["event"], e["px"]), np.bincount(e["event"], e["py"]))
    assert np.median(total) < 30  # GeV, of events with 800 GeV or more of top pt


def test_shares_of_generated_jets():
    """Charged, photon and other neutral shares of the pt of multijets: what test_shipped_physics
    compares with.
    """
    events = processes.generate(
        processes.make_generator("multijet", seed=5, settings=("PhaseSpace:pTHatMin=300",)), 300
    )
    e = events.particles
    rows = clustering.cluster(e["event"], e, n_events=300, radius=0.8, pt_min=300.0).rows
    pt, charged, photon = (
        np.hypot(e["px"], e["py"])[rows],
        e["charge"][rows] != 0,
        e["pdg_id"][rows] == 22,
    )
    assert pt[charged].sum() / pt.sum() == pytest.approx(0.605, abs=0.02)
    assert pt[photon].sum() / pt.sum() == pytest.approx(0.268, abs=0.02)
    assert pt[~charged & ~photon].sum() / pt.sum() == pytest.approx(0.127, abs=0.02)


def test_share_of_hard_pileup_is_that_of_the_cross_sections():
    hard = processes.make_generator(
        "multijet",
        seed=1,
        underlying_event=False,
        settings=(f"PhaseSpace:pTHatMin={pileup_jets.HARD_PILEUP}",),
    )
    soft = processes.make_generator("minimum_bias", seed=1)
    events = processes.generate(soft, 500)
    processes.generate(hard, 500)
    share = hard.infoPython().sigmaGen() / soft.infoPython().sigmaGen()
    assert share == pytest.approx(pileup_jets.HARD_SHARE, rel=0.05)
    assert np.mean(events.pt_hat > pileup_jets.HARD_PILEUP) == pytest.approx(
        pileup_jets.HARD_SHARE, abs=0.04
    )


def test_every_crossing_has_its_hard_pileup():
    """The collisions that make pile-up jets are there from the first chunk of a generator on."""
    recipe = pileup_jets.PileupRecipe()
    particles = {
        k: np.zeros(2, int if k in ("event", "pdg_id", "charge", "vertex") else float) + 1
        for k in ("event", "px", "py", "pz", "energy", "pdg_id", "charge", "x", "y", "z", "vertex")
    }
    particles["event"] = particles["vertex"] = np.zeros(2, int)
    pool = pileup.Pool(
        {k: particles[k][:1] for k in particles if k not in ("event", "vertex")},
        np.array([0, 1]),
        np.array([1.0]),
    )
    hard = processes.make_generator(
        "multijet",
        seed=1,
        underlying_event=False,
        settings=(f"PhaseSpace:pTHatMin={pileup_jets.HARD_PILEUP}",),
    )
    merged, vertices = pileup_jets._crossings(
        particles, recipe, hard, 20, np.random.default_rng(1), pool
    )
    n_pileup = len(vertices.z) - 20
    soft, real = 2 + n_pileup, len(merged["px"]) - 2 - n_pileup
    assert len(merged["px"]) > soft
    n_hard = len(np.unique(np.stack([merged["event"], merged["vertex"]])[:, -real:], axis=1).T)
    assert n_hard == pytest.approx(0.1 * n_pileup, abs=4 * np.sqrt(0.1 * n_pileup))


def test_unknown_setting_is_named():
    with pytest.raises(ValueError, match="multijet.*Nonsense:on"):
        processes.make_generator("multijet", seed=1, settings=("Nonsense:on",))


def test_clustered_rows_add_up_to_the_jets(tops):
    e = tops.particles
    found = clustering.cluster(e["event"], e, n_events=40, radius=0.8, pt_min=100.0)
    number = np.repeat(np.arange(len(found.counts)), found.counts)
    assert np.bincount(number, e["px"][found.rows]) == pytest.approx(
        found.jets["px"], rel=1e-9, abs=1e-6
    )
    assert np.all(np.diff(found.jets["event"]) >= 0)
    assert np.all(e["event"][found.rows] == found.jets["event"][number])


def test_two_prongs_have_no_second_subjettiness():
    # two massless particles of 50 and 30 GeV at +-0.2: tau2 = 0, and soft drop keeps both (z =
    # 0.375 > 0.1)
    eta, pt = np.array([0.2, -0.2]), np.array([50.0, 30.0])
    p = {"px": pt, "py": np.zeros(2), "pz": pt * np.sinh(eta), "energy": pt * np.cosh(eta)}
    got = clustering.substructure(p, np.array([2]))
    assert got["tau2"][0] == pytest.approx(0, abs=1e-12)
    # winner-take-all: the axis is the harder one, so tau1 = 30 * 0.4 / (80 * 0.8)
    assert got["tau1"][0] == pytest.approx(30 * 0.4 / (80 * 0.8))
    # m^2 = 2 pt1 pt2 (cosh(0.4) - 1)
    assert got["softdrop_mass"][0] == pytest.approx(np.sqrt(2 * 50 * 30 * (np.cosh(0.4) - 1)))


def test_soft_drop_removes_a_soft_wide_particle():
    eta, pt = np.array([0.0, 0.1, 0.7]), np.array([50.0, 40.0, 2.0])
    p = {"px": pt, "py": np.zeros(3), "pz": pt * np.sinh(eta), "energy": pt * np.cosh(eta)}
    got = clustering.substructure(p, np.array([3]))
    assert got["softdrop_mass"][0] == pytest.approx(np.sqrt(2 * 50 * 40 * (np.cosh(0.1) - 1)))


def test_pairs_and_best_match():
    jets = {
        "event": np.array([0, 0, 1]),
        "eta": np.array([0.0, 1.0, 0.0]),
        "phi": np.array([0.0, 0.0, 3.1]),
    }
    eta, phi = np.array([0.1, 0.9, 0.0, 0.05]), np.array([0.0, 0.0, -3.1, 0.1])
    table = {
        "event": np.array([0, 0, 1, 0]),
        "px": np.cos(phi),
        "py": np.sin(phi),
        "pz": np.sinh(eta),
    }
    i, j, distance = clustering.pairs(jets, table, radius=0.3)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [
        (0, 0),
        (0, 3),
        (1, 1),
        (2, 2),
    ]  # 3.1 and -3.1 are close
    assert list(clustering.best(3, i, j, distance)) == [0, 1, 2]
    assert list(clustering.best(3, i[:0], j[:0], distance[:0])) == [-1, -1, -1]


def test_corrected_jvf_by_hand():
    jets = {"pt": np.array([20.0, 20.0, 20.0]), "event": np.array([0, 0, 0])}
    tracks = {"pt": np.array([10.0, 5.0, 4.0]), "event": np.array([0, 0, 0])}
    got = pileup_jets._jvf(
        jets, np.array([0, 0, 1]), np.array([0, 1, 2]), tracks, np.array([True, False, False])
    )
    # two pile-up tracks in the event: 10 / (10 + 5 / 0.02)
    assert got["corr_jvf"] == pytest.approx([10 / 260, 0.0, -1.0])
    assert got["rpt"] == pytest.approx([0.5, 0.0, 0.0])


def test_jvt_separates_and_needs_enough_jets():
    rng = np.random.default_rng(5)
    n = 4000
    label = rng.integers(0, 2, n)
    columns = {
        "label": label,
        "event": np.arange(n),
        "corr_jvf": np.clip(label * 0.6 + rng.normal(0.2, 0.1, n), 0, 1),
        "rpt": np.clip(label * 0.4 + rng.normal(0.2, 0.1, n), 0, None),
    }
    jvt = pileup_jets.fit_jvt(columns)(columns["corr_jvf"], columns["rpt"], columns["event"])
    assert jvt[label == 1].mean() > 0.9
    assert jvt[label == 0].mean() < 0.1
    with pytest.raises(ValueError, match="ask for more jets"):
        pileup_jets.fit_jvt({k: v[:50] for k, v in columns.items()})
