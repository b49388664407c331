"""Re-simulation: the same hard partons each time, random numbers of their own, pairs that belong
together.
"""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("pythia8mc", reason="simulation extra not installed: pip install 'jetnb[sim]'")
pytest.importorskip("fastjet", reason="simulation extra not installed: pip install 'jetnb[sim]'")

from jetnb import jets, kinematics
from jetnb.simulation import hard, processes, resimulation
from jetnb.simulation.resimulation import RECIPE, VARIATIONS

HIGH = ("PhaseSpace:pTHatMin=400",)
NO_MORE = ("PartonLevel:MPI=off", "HadronLevel:all=off")  # quick: partons instead of hadrons
OTHER = ("nominal", "detector", "calorimeter", "seed", "fsr_up")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(path, pz of the incoming partons) of thirty hard processes by name."""
    folder = tmp_path_factory.mktemp("hard")
    return {
        name: (
            folder / name,
            hard.draw(name, folder / name, n_events=30, seed=4, settings=HIGH, energy=13000.0),
        )
        for name in ("Z_jet", "tt")
    }


def numbers(path):
    """All particles of an LHEF, (n, 13), and where each event begins."""
    blocks = re.findall(r"<event>\n(.*?)</event>", path.read_text(), re.DOTALL)
    rows = [[line.split() for line in block.splitlines()[1:]] for block in blocks]
    return [np.array(one, float) for one in rows]


def test_the_file_holds_the_hard_process_to_the_last_digit(drawn):
    path, incoming = drawn["tt"]
    pythia = processes.make_generator(
        "tt", seed=4, settings=(*HIGH, "PartonLevel:all=off"), energy=13000.0
    )
    for event, pz in zip(numbers(path), incoming, strict=True):
        assert pythia.next()
        record = [pythia.process[i] for i in range(3, pythia.process.size())]
        assert [p.id() for p in record] == event[:, 0].tolist()
        for column, name in enumerate(("px", "py", "pz", "e", "m"), start=6):
            assert [getattr(p, name)() for p in record] == event[:, column].tolist()
        assert pz.tolist() == event[:2, 8].tolist()
        # Each decay conserves momentum: mothers point to the right particles.
        for mother in np.unique(event[2:, 2]).astype(int):
            inside = event[event[:, 2] == mother]
            total = inside[:, 6:10].sum(0)
            if mother > 2:
                assert total == pytest.approx(event[mother - 1, 6:10], abs=1e-6)


@pytest.mark.parametrize("name", ["nominal", "fsr_up", "fsr_down_2", "colour", "tune", "vincia"])
def test_every_shower_begins_with_the_same_partons(drawn, name):
    path, incoming = drawn["Z_jet"]
    settings = (*VARIATIONS[name].settings, *NO_MORE)
    partons = hard.shower(path, incoming, seed=8, settings=settings).partons
    wanted = np.array([event[3] for event in numbers(path)])  # Z first, then the parton
    assert partons["event"].tolist() == list(range(30))
    assert partons["pdg_id"].tolist() == wanted[:, 0].tolist()
    for column, axis in enumerate(("px", "py", "pz"), start=6):
        # Vincia takes the mass of light quarks away.
        assert partons[axis] == pytest.approx(
            wanted[:, column], abs=0.01 if name == "vincia" else 0
        )


def test_a_shower_of_other_events_is_refused(drawn):
    path, incoming = drawn["Z_jet"]
    with pytest.raises(RuntimeError, match="changed the hard process by"):
        hard.shower(path, incoming + [0, 1.0], seed=8, settings=NO_MORE)
    with pytest.raises(ValueError, match="Pythia does not know the setting 'No:such=1'"):
        hard.shower(path, incoming, seed=8, settings=("No:such=1",))


def test_a_lower_scale_radiates_more(drawn):
    path, incoming = drawn["Z_jet"]
    counts = {
        name: len(
            hard.shower(
                path, incoming, seed=8, settings=(*VARIATIONS[name].settings, *NO_MORE)
            ).particles["px"]
        )
        for name in ("fsr_down_2", "nominal", "fsr_up_2")
    }
    assert counts["fsr_down_2"] > 1.1 * counts["nominal"] > 1.2 * counts["fsr_up_2"]


@pytest.fixture(scope="module")
def few():
    """Small chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resimulation, "EVENTS_PER_CHUNK", 25)
        yield


def chunk(component, variations, seed=2):
    recipe = RECIPE._replace(variations=variations)
    return resimulation.make_chunk(recipe, RECIPE.components[component], seed=seed, chunk=1)


@pytest.fixture(scope="module")
def bosons(few):
    """WW: two pairs of each event, columns and constituents."""
    return chunk(3, OTHER)


def members(made, name):
    columns = made[0]
    chosen = columns["variation"] == list(VARIATIONS).index(name)
    return {k: v[chosen] for k, v in columns.items()}


def test_members_of_a_pair_belong_together(bosons):
    columns, constituents, counts = bosons
    nominal = members(bosons, "nominal")
    assert len(nominal["pt"]) > 10
    keys = columns["pair"] * 100 + columns["variation"]
    assert len(np.unique(keys)) == len(keys) and (np.diff(keys) > 0).all()
    assert set(columns["pair"]) == set(nominal["pair"])
    assert (columns["pair"] // resimulation.PER_EVENT == columns["event"]).all()
    assert set(columns["pair"] % resimulation.PER_EVENT) == {5, 6}  # both W of an event
    for name in OTHER[1:]:
        other = members(bosons, name)
        assert len(other["pt"]) > 0.5 * len(nominal["pt"]), name
        at = np.searchsorted(nominal["pair"], other["pair"])
        apart = np.hypot(
            other["eta"] - nominal["eta"][at], kinematics.wrap(other["phi"] - nominal["phi"][at])
        )
        assert np.median(apart) < 0.2, name


def test_what_is_shared_and_what_is_not(bosons):
    nominal = members(bosons, "nominal")
    for name, same in (("detector", True), ("calorimeter", True), ("seed", False)):
        other = members(bosons, name)
        at = np.searchsorted(nominal["pair"], other["pair"])
        assert (other["generated_pt"] == nominal["generated_pt"][at]).mean() == same
        assert not (other["pt"] == nominal["pt"][at]).any()
    columns, constituents, counts = bosons
    tower = np.repeat(columns["variation"] == list(VARIATIONS).index("calorimeter"), counts)
    assert (constituents["charge"][tower] == 0).all()
    assert set(constituents["pdg_id"][tower]) == {22, 130}
    assert (constituents["charge"][~tower] != 0).any()


def test_random_numbers_are_those_of_the_variation(bosons, few):
    """Whatever else is made beside it, so that variations can be added later."""
    again = chunk(3, ("nominal", "fsr_down", "seed"))
    for name in ("nominal", "seed"):
        one, two = members(bosons, name), members(again, name)
        assert all(np.array_equal(one[k], two[k]) for k in one)
    other = chunk(3, ("nominal",), seed=3)
    assert not np.array_equal(members(other, "nominal")["pt"], members(bosons, "nominal")["pt"])


@pytest.mark.parametrize("component", [0, 1, 4])
def test_every_component_runs(component, few, tmp_path):
    made = chunk(component, ("nominal", "seed", "vincia"))
    columns, constituents, counts = made
    provenance = {"sample": "x", "source": "simulation", "classes": list(RECIPE.classes)}
    found = jets.build(columns, constituents, counts, provenance=provenance)
    assert ((found.pt > 500) & (found.pt < 1000) & (abs(found.eta) < 2)).to_list()
    assert {jets.classes(found)[k] for k in columns["label"]} == {
        RECIPE.components[component].label
    }
    assert set(columns["variation"]) == {
        list(VARIATIONS).index(k) for k in ("nominal", "seed", "vincia")
    }
