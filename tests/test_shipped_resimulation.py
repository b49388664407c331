"""Is the shipped sample of re-simulations what it says: pairs of one hard parton, variations that do
what they are called?
"""

from __future__ import annotations

import importlib.metadata

import awkward as ak
import numpy as np
import pytest

import jetnb
from jetnb import jets as jets_module
from jetnb import kinematics
from jetnb.metrics import auc


@pytest.fixture(scope="module")
def sample():
    return jetnb.load("resimulation")


def variations(sample):
    return jets_module.provenance(sample)["variations"]


def paired(sample, name, *others):
    """Jets of the nominal and of other variations, of those pairs that have them all."""
    number = ak.to_numpy(sample.variation)
    parts = [sample[number == variations(sample).index(one)] for one in ("nominal", name, *others)]
    common = set.intersection(*(set(ak.to_numpy(part.pair).tolist()) for part in parts))
    parts = [part[np.isin(ak.to_numpy(part.pair), list(common))] for part in parts]
    return [part[np.argsort(ak.to_numpy(part.pair))] for part in parts]


def test_each_hard_parton_has_its_nominal_and_mostly_the_others(sample):
    pair, number = ak.to_numpy(sample.pair), ak.to_numpy(sample.variation)
    assert len(np.unique(pair * 100 + number)) == len(pair)
    counts = np.bincount(number, minlength=9)
    assert counts[0] == len(np.unique(pair)) and len(counts) == 9
    # Those of the same shower first: they are lost at the edges of the window alone.
    assert (counts[1:3] / counts[0] > 0.9).all() and (counts[3:] / counts[0] > 0.7).all()


def test_members_share_event_and_class_and_so_the_side_of_a_split(sample):
    order = np.argsort(ak.to_numpy(sample.pair), kind="stable")
    pair = ak.to_numpy(sample.pair)[order]
    same = pair[1:] == pair[:-1]
    for field in ("event", "label"):
        values = ak.to_numpy(sample[field])[order]
        assert (values[1:] == values[:-1])[same].all()
    train, _, test = jets_module.split(sample, seed=3)
    assert not set(ak.to_numpy(train.pair)) & set(ak.to_numpy(test.pair))


def test_two_showers_of_a_parton_go_the_same_way(sample):
    one, two = paired(sample, "seed")
    apart = np.hypot(one.eta - two.eta, kinematics.wrap(ak.to_numpy(one.phi - two.phi)))
    assert np.median(apart) < 0.1
    mixed = np.hypot(one.eta - two.eta[::-1], kinematics.wrap(ak.to_numpy(one.phi - two.phi[::-1])))
    assert np.median(mixed) > 1


def test_the_scale_of_radiation_does_what_it_is_called(sample):
    _, up, down = paired(sample, "fsr_up", "fsr_down")
    more = ak.to_numpy(down.n_constituents).astype(float) - ak.to_numpy(up.n_constituents)
    assert more.mean() > 5 * more.std() / np.sqrt(len(more))


def test_measured_again_is_the_same_shower(sample):
    one, two = paired(sample, "detector")
    assert np.mean(ak.to_numpy(one.generated_pt == two.generated_pt)) > 0.99
    one, other = paired(sample, "seed")
    assert np.mean(ak.to_numpy(one.generated_pt == other.generated_pt)) < 0.01
    towers = paired(sample, "calorimeter")[1]
    assert not ak.any(towers.constituents.charge != 0)
    assert float(np.median(towers.pt / towers.generated_pt)) == pytest.approx(0.98, abs=0.04)


@pytest.mark.parametrize("name", ["seed", "vincia", "tune", "colour"])
def test_no_variation_changes_what_a_jet_is(sample, name):
    """Groomed masses of W and Z pairs peak where they did, and tell them from QCD as well."""
    nominal, other = paired(sample, name)
    qcd, w = (ak.to_numpy(nominal.label) == k for k in (0, 3))
    areas = [
        float(
            auc(w[qcd | w], ((part.softdrop_mass > 60) & (part.softdrop_mass < 100))[qcd | w]).value
        )
        for part in (nominal, other)
    ]
    assert min(areas) > 0.75 and abs(areas[0] - areas[1]) < 0.06


def test_the_shipped_jets_can_be_simulated_again():
    """And with the same call, in other variations."""
    pytest.importorskip("pythia8mc")
    pytest.importorskip("fastjet")
    from jetnb.simulation import resimulation

    sample = jetnb.load("resimulation")
    about = jets_module.provenance(sample)["versions"]
    if {k: about[k] for k in ("pythia8mc", "fastjet")} != {
        k: importlib.metadata.version(k) for k in ("pythia8mc", "fastjet")
    }:
        pytest.skip("made with other versions")
    event = ak.to_numpy(sample.event)
    first = event[ak.to_numpy(sample.label) == 3].min() // resimulation.EVENTS_PER_CHUNK
    some = sample[event // resimulation.EVENTS_PER_CHUNK == first]
    again = resimulation.add(some, ("seed", "fsr_down_2"), processes=1)
    number = ak.to_numpy(again.variation)
    seed, wide = (list(resimulation.VARIATIONS).index(k) for k in ("seed", "fsr_down_2"))
    assert set(number) == {seed, wide}
    shipped = some[ak.to_numpy(some.variation) == seed]
    shipped = shipped[np.argsort(ak.to_numpy(shipped.pair))]
    made = again[number == seed]
    assert ak.to_numpy(made.pair).tolist() == ak.to_numpy(shipped.pair).tolist()
    for field in ("pt", "softdrop_mass", "tau21"):
        if field in shipped.fields:
            assert ak.to_numpy(made[field]) == pytest.approx(
                ak.to_numpy(shipped[field]), rel=2e-3, abs=2e-3
            )
    assert jets_module.provenance(again)["variations"][wide] == "fsr_down_2"
    with pytest.raises(ValueError, match="variation 'herwig' is unknown: use nominal"):
        resimulation.add(some, ("herwig",))
    with pytest.raises(ValueError, match="jets are of 'toptagging': only those of 'resimulation'"):
        resimulation.add(jetnb.load("toptagging", n_jets=5), ("seed",))
