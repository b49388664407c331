"""The veto of events that will have no jet to keep: nothing moves but the time that it takes."""

import functools

import numpy as np
import pytest
from scipy.stats import ks_2samp

pytest.importorskip("pythia8mc", reason="simulation extra not installed: pip install 'jetnb[sim]'")
pytest.importorskip("fastjet", reason="simulation extra not installed: pip install 'jetnb[sim]'")

import jetnb
from jetnb import jets
from jetnb.__main__ import main
from jetnb.simulation import processes, production, realism, recipes, veto

RECIPE = recipes.RECIPES["toptagging"]  # of all the quickest
LIGHT = RECIPE.components[0]
EVENTS = {"plain": 400, "vetoed": 250}


@functools.cache
def generated(name):
    """Events of light jets with the veto or without, what Pythia says of them, and their jets."""
    hook = veto.hook(RECIPE, LIGHT) if name == "vetoed" else None
    pythia = recipes.generator(RECIPE, LIGHT, seed=len(name), hook=hook)
    events = processes.generate(pythia, EVENTS[name])
    made = recipes.reconstruct(RECIPE, LIGHT, events, rng=np.random.default_rng(1))
    about = {"sample": "light", "source": "simulation", "classes": list(RECIPE.classes)}
    return events, pythia.infoPython(), jets.build(*made, provenance=about)


@functools.cache
def cost(pt=None, n_events=300):
    wanted = veto.of("toptagging")
    wanted = wanted._replace(pt=pt or wanted.pt)
    return veto.cost("toptagging", 0, n_events=n_events, seed=2, veto=wanted)


def test_no_jet_of_the_window_is_lost():
    found = cost()
    assert found.dropped > 0.2 * found.n_events and len(found.pt) > 30
    assert not found.lost.any()
    assert (found.pt < 1.1 * RECIPE.pt_range[0]).sum() > 20  # and there are some at its edge
    row = veto.table([found], RECIPE.pt_range[0]).splitlines()[-1]
    assert f"| 0 of {len(found.pt)} (< " in row


def test_a_veto_within_the_window_is_seen_to_lose_jets():
    found = cost(600.0, 150)
    assert 0.1 < found.lost.mean() < 1


def test_what_is_dropped_counts_in_the_cross_section():
    """Jets per event times the cross section of an event is that of jets, whatever is dropped."""
    (_, one, some), (_, other, rest) = generated("plain"), generated("vetoed")
    assert one.nAccepted() == one.weightSum() == 400 and other.nAccepted() == 250
    assert other.weightSum() == 250 and other.nSelected() > 300  # each counts as one
    share = 1 - cost().dropped / cost().n_events
    error = np.hypot(one.sigmaErr() / one.sigmaGen(), other.sigmaErr() / other.sigmaGen())
    assert other.sigmaGen() / one.sigmaGen() == pytest.approx(share, rel=3 * error + 0.05)
    ratio = (other.sigmaGen() * len(rest) / 250) / (one.sigmaGen() * len(some) / 400)
    assert ratio == pytest.approx(1, abs=3 * np.hypot(error, np.hypot(*map(poisson, (some, rest)))))


def poisson(some):
    return len(some) ** -0.5


def test_distributions_do_not_move():
    plain, vetoed = (realism.features(generated(name)[2]) for name in EVENTS)
    found = {name: ks_2samp(plain[name], vetoed[name]).pvalue for name in plain}
    assert len(found) > 15 and min(found.values()) > 0.05 / len(found), found
    share = [np.mean(some["pt"] < 1.05 * RECIPE.pt_range[0]) for some in (plain, vetoed)]
    assert share[1] > share[0] - 3 * np.sqrt(share[0] / len(vetoed["pt"]))  # the edge is full


def test_what_does_not_make_jets_is_in_no_cone():
    assert 23 in veto._unseen("Z_jet") and 23 in veto._unseen("HZ_bb")
    assert 23 not in veto._unseen("ZZ") and 12 in veto._unseen("tt")


class Particle:
    def __init__(self, pt, eta=0.0, phi=0.0, code=21, final=True):
        self.pT, self.eta, self.phi = lambda: pt, lambda: eta, lambda: phi
        self.idAbs, self.isFinal = lambda: code, lambda: final


class Event(list):
    def size(self):
        return len(self)


@pytest.mark.parametrize(
    "particles, holds",
    [
        ([Particle(99)], False),
        ([Particle(101)], True),
        ([Particle(101, code=12)], False),
        ([Particle(101, final=False)], False),
        ([Particle(60), Particle(60, 0.6, 0.6)], True),
        ([Particle(60), Particle(60, 0.8, 0.8)], False),
        ([Particle(60, 0, 3.1), Particle(60, 0, -3.1)], True),  # across the seam
        ([Particle(40), Particle(40, 0.9), Particle(40, -0.9)], True),
        ([Particle(101, eta=3.4)], True),
        ([Particle(101, eta=3.6)], False),
    ],
)
def test_a_cone_by_hand(particles, holds):
    assert veto._holds(Event(particles), veto.Veto(100.0), veto.NEUTRINOS, 2.5) == holds


def test_the_option_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JETNB_DERIVED", str(tmp_path))
    command = ["simulate", "toptagging", "--jets", "12", "--seed", "3", "--processes", "1"]
    assert main([*command, "--veto"]) == 0
    path = tmp_path / "simulated" / "toptagging-12-seed3-veto"
    about = jetnb.open_store(path).meta["provenance"]
    assert f"jets in {path}" in capsys.readouterr().out
    assert about["veto"] == veto.of("toptagging")._asdict()
    with pytest.raises(ValueError, match="'pileup' has no veto, only aoj"):
        production.simulate("pileup", n_jets=5, seed=1, veto=True)
