"""How realism is measured, and that the shipped jets stay as near to published ones as they are
said to be.
"""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest

from jetnb.data import catalogue
from jetnb.simulation import realism

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"


def real(name):
    if not (REAL / name).exists():
        pytest.skip(f"{REAL / name} is not here")
    return catalogue.load(REAL / name)


def table(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(shift, 1, n) for name in realism.HIGH_LEVEL}


def test_samples_of_one_kind_lie_within_their_floor():
    rows, separation = realism.compare(table(300, 1), table(1500, 2), seed=1)
    assert len(rows) == len(realism.HIGH_LEVEL)
    assert sum(row.w1 > row.w1_limit for row in rows) <= 3
    assert abs(separation.area - 0.5) < 4 * separation.error
    assert 0.4 < separation.floor < 0.6


def test_shifted_samples_are_told_apart():
    rows, separation = realism.compare(table(300, 1), table(1500, 2, shift=0.5), seed=1)
    assert all(row.w1 > row.w1_limit and row.ks > row.ks_limit for row in rows)
    assert all(row.w1 == pytest.approx(0.5 / 1.35, abs=0.15) for row in rows), (
        "in interquartile ranges"
    )
    assert separation.area > 0.75
    assert "*" in realism.show(rows, [separation])


def test_features_of_jets_with_tracks(toy_jets):
    jets = toy_jets(60, 3)
    found = realism.features(jets)
    assert all(len(values) == 60 for values in found.values())
    c = jets.constituents[3]
    share = np.sum(np.array(c.charge) != 0) / len(c)
    assert found["charged share of number"][3] == pytest.approx(share)
    assert found["pt of constituent 3"][3] == pytest.approx(
        np.sort(c.pt * c.puppi_weight)[-3], rel=1e-5
    )
    assert "|d0|, median" in found and "mean PUPPI weight of neutrals" in found


def test_class_patterns_and_windows(toy_jets):
    jets = toy_jets(60, 3)
    assert len(realism.select(jets, "Q*")) == int(np.sum(np.array(jets.label) == 0))
    middle = float(np.median(jets.pt))
    assert len(realism.select(jets, "*", pt_range=(middle, np.inf))) in (30, 31)
    with pytest.raises(ValueError, match="no class is called 'W': there are QCD, TTBar"):
        realism.select(jets, "W")


@pytest.mark.parametrize("name", ["QCD", "TTBar"])
def test_shipped_toptagging_looks_like_the_reference(name, of_today):
    """Of 500 published jets. Trees tell the two apart no better than chance, and few features
    exceed their floor.
    """
    tables = [
        realism.features(realism.select(s, name))
        for s in (real("toptagging_500_blosc.h5"), of_today("toptagging", n_jets=3000))
    ]
    rows, separation = realism.compare(*tables, seed=1, name=name)
    assert separation.area < 0.60
    assert (
        sum(row.ks > row.ks_limit for row in rows) <= 6
    )  # one would by chance; 14 without multiparton interactions
    assert max(row.ks for row in rows) < 0.16


def test_shipped_toptagging_shares_directions_as_the_reference(of_today):
    """Photons and neutral hadrons of one tower: 1.7 pairs in a light jet, 2.6 in a top."""

    def pairs(sample):
        found = []
        for jet in sample:
            place = np.stack(
                [np.array(jet.constituents.eta), np.array(jet.constituents.phi)], axis=1
            )
            apart = np.abs(place[:, None] - place).max(axis=2)
            found.append(np.sum(np.triu(apart < 2e-4, 1)))
        return np.array(found)

    published, ours = real("toptagging_500_blosc.h5"), of_today("toptagging", n_jets=1500)
    for label in (0, 1):
        one, other = (pairs(s[s.label == label]) for s in (published, ours))
        error = np.hypot(one.std() / len(one) ** 0.5, other.std() / len(other) ** 0.5)
        assert abs(one.mean() - other.mean()) < 4 * error + 0.1


def test_momenta_of_shipped_jetclass_are_scaled_as_published_ones(of_today):
    """d0 errors are looked up before tracks take the energy of the calorimeter: the pt that they
    say is not that of the track, by as much as in public jets of the same chain (JetClass-II, of
    other processes and with pile-up)."""
    from jetnb.simulation import delphes_cards

    spread = []
    for sample in (real("JetClassII_example.parquet"), of_today("jetclass", n_jets=1000)):
        c = sample.constituents
        c = ak.flatten(c[(abs(c.pdg_id) == 211) & (abs(c.eta) < 0.5)])
        said = np.geomspace(3, 15, 200)
        errors = delphes_cards.CMS_JETCLASS.d0(said, np.zeros(200))
        nearest = said[np.argmin(np.abs(errors - np.array(c.d0_error, float)[:, None]), axis=1)]
        inside = (nearest > 3.5) & (nearest < 14)
        spread.append(
            np.quantile(np.log(np.array(c.pt)[inside] / nearest[inside]), [0.16, 0.5, 0.84])
        )
    assert spread[1] == pytest.approx(spread[0], abs=0.15)
    assert np.ptp(spread[0]) > 0.35


def test_hard_scatter_jets_of_shipped_pileup_have_the_tracks_of_published_ones(of_today):
    """137 jets of ATLAS simulation; pile-up jets there lie in busier events and have hard-scatter
    tracks, ours do not.
    """
    some = dict(pt_range=(15, 60), eta_max=2)
    samples = real("PHYSLITE_example.root"), of_today("pileup")
    rows, separation = realism.compare(
        *(realism.features(realism.select(s, "hard_scatter", **some)) for s in samples), seed=1
    )
    found = {row.feature: row for row in rows}
    assert separation.area < 0.66
    for name in realism.BY_TRACKS:
        assert (
            found[name].ours == pytest.approx(found[name].real, abs=0.05) and found[name].ks < 0.2
        )
