"""Views of jets: who is drawn, what is in a group, and from where it is seen."""

from __future__ import annotations

import itertools

import awkward as ak
import numpy as np
import pytest
import torch

import jetnb
from jetnb import jets, packed, views

SIZES = ((2, 3, 1), (4, 2), (5,))  # constituents of the jets of three groups


def groups():
    """Each particle has the number of its group as pt and that of its jet as deta."""
    rows = [
        [g + 1.0, float(k), 0.1, float(3 * k)]
        for g, group in enumerate(SIZES)
        for k, n in enumerate(group)
        for _ in range(n)
    ]
    return torch.tensor(rows), torch.tensor([0, 6, 12, 17])


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def drawn(view):
    x, offsets = view
    assert x.shape[1] == 3
    return [(int(x[a, 0]), int(x[a, 1]), int(b - a)) for a, b in itertools.pairwise(offsets)]


@pytest.mark.parametrize("first", [True, False])
def test_two_different_jets_of_each_group(first):
    seen = set()
    for seed in range(200):
        one, two = map(drawn, views.members(*groups(), generator=generator(seed), first=first))
        for g, (a, b) in enumerate(zip(one, two, strict=True)):
            assert a[0] == b[0] == g + 1
            assert a[2] == SIZES[g][a[1]] and b[2] == SIZES[g][b[1]]  # whole jets
            assert (a[1] != b[1]) == (len(SIZES[g]) > 1)
        seen.add((one[0][1], two[0][1]))
    every = {(i, j) for i in range(3) for j in range(3) if i != j}
    assert seen == ({(0, 1), (0, 2)} if first else every)


def test_each_jet_of_a_group_is_drawn_as_often():
    counts = np.zeros(3)
    for seed in range(600):
        _, two = views.members(*groups(), generator=generator(seed), first=False)
        counts[drawn(two)[0][1]] += 1
    assert counts == pytest.approx(200, abs=5 * 200**0.5)


def test_what_is_no_group_is_refused():
    x, offsets = groups()
    with pytest.raises(ValueError, match=r"has shape \(17, 3\), but groups of jets are \(T, 4\)"):
        views.members(x[:, :3], offsets, generator=generator())
    with pytest.raises(ValueError, match="group 1 of 4 has no particle"):
        views.members(x, torch.tensor([0, 6, 6, 12, 17]), generator=generator())


@pytest.fixture(scope="module")
def sample():
    """Four jets of hard parton 7, two of 9, one of 8; constituents carry their jet in pt."""
    pair, variation = [7, 7, 7, 7, 8, 9, 9], [0, 1, 2, 3, 0, 0, 2]
    counts = np.array([3, 3, 2, 4, 3, 2, 2])
    n, jet = len(pair), packed.jet_of(counts)
    columns = dict(
        pt=600.0 + np.arange(n), eta=0.1 * np.arange(n), phi=np.full(n, 0.2), mass=np.full(n, 90.0),
        event=np.array(pair) // 2, pair=pair, variation=variation, label=[1, 1, 1, 1, 0, 0, 0],
    )  # fmt: skip
    pt = 100.0 - 10 * packed.ranks(counts)
    inside = dict(
        pt=pt, eta=0.1 * jet + 0.01, phi=np.full(len(jet), 0.2), energy=2 * pt,
        charge=np.where(np.isin(jet, [2, 6]), 0, packed.ranks(counts) % 2),
    )  # fmt: skip
    about = {"sample": "resimulation", "source": "simulation", "classes": ["QCD", "HToBB"]}
    about["variations"] = ["nominal", "detector", "calorimeter", "seed"]
    return jets.build(columns, inside, counts, provenance=about)


def sizes(made):
    """Of each group, the numbers and constituents of its jets."""
    found = []
    for a, b in itertools.pairwise(made.offsets):
        number, n = np.unique(made.x[a:b, 3], return_counts=True)
        found.append(dict(zip(number.astype(int).tolist(), n.tolist(), strict=True)))
    return found


def test_pairs_are_groups_of_a_hard_parton(sample):
    made = views.pairs(sample[[6, 2, 0, 4, 3, 5, 1]])  # in whatever order they come
    assert sizes(made) == [{0: 3, 1: 3, 2: 2, 3: 4}, {0: 2, 2: 2}]
    assert made.targets[0].tolist() == [1, 0]
    assert made.x[:, 1] == pytest.approx(0.01, abs=1e-6)  # each from its own axis
    made = views.pairs(sample, variations=["nominal", "seed"], hardest=2)
    assert sizes(made) == [{0: 2, 1: 2}]
    with pytest.raises(
        ValueError, match="variation 'herwig' is not in these jets: they have nominal"
    ):
        views.pairs(sample, variations=["nominal", "herwig"])
    with pytest.raises(ValueError, match="no hard parton has two of these jets"):
        views.pairs(sample[4:5])
    with pytest.raises(ValueError, match="no field 'pair'"):
        views.pairs(jetnb.load("toptagging", n_jets=5))


def test_tracks_of_one_and_towers_of_the_other(sample):
    made = views.tracks_against_clusters(sample)
    assert sizes(made) == [{0: 1, 1: 2}, {0: 1, 1: 2}]
    assert made.x[0].tolist() == pytest.approx([90, 0.01, 0, 0], abs=1e-6)


def test_partners_are_the_two_hardest_of_an_event():
    some = jetnb.load("hh4b", n_jets=300)
    made = views.dijet_partner(some, hardest=1)
    event, pt = ak.to_numpy(some.event), ak.to_numpy(some.pt)
    numbers, counts = np.unique(event, return_counts=True)
    assert len(made) == (counts > 1).sum()
    hardest = ak.to_numpy(some.constituents.pt[:, 0])
    for k, number in enumerate(numbers[counts > 1]):
        inside = np.flatnonzero(event == number)
        best = inside[np.argsort(-pt[inside])][:2]
        rows = slice(*made.offsets[k : k + 2])
        assert made.x[rows, 0].tolist() == pytest.approx(hardest[best].tolist(), rel=1e-6)


def test_members_are_views_for_jetclr_as_it_is(sample):
    from jetnb.models.encoder import DeepSets
    from jetnb.models.particles import FromParticles
    from jetnb.strategies.contrastive import JetCLR

    model = JetCLR(FromParticles(DeepSets(5, dim=8)), hidden=8, output=4, views=views.members)
    made = views.pairs(sample)
    loss = model.loss(made[np.arange(2)], generator=generator())
    loss.backward()
    assert loss.isfinite() and len(made) == 2


def test_subjets_share_the_jet_and_are_seen_from_their_axes():
    pytest.importorskip("jetnb.substructure")
    x = torch.tensor(
        [[50.0, 0.3, 0], [30, 0.32, 0], [40, -0.2, 0.1], [5, -0.22, 0.1], [9, 0.1, 0.1]]
    )
    one, two = views.subjet_pair(x, torch.tensor([0, 4, 5]))
    assert one[1].tolist() == [0, 2, 3] and two[1].tolist() == [0, 2, 3]
    assert one[0][:2, 0].tolist() == [50, 30] and two[0][:2, 0].tolist() == [40, 5]
    assert one[0][2].tolist() == two[0][2].tolist() == [9, 0, 0]
    for view, _ in (one, two):
        assert float((view[:2, :1] * view[:2, 1:]).sum(0).abs().max()) < 1e-5


@pytest.mark.parametrize("groups", ["pairs", "tracks_against_clusters", "dijet"])
def test_pretraining_on_groups_from_memory_and_from_stores(groups, tmp_path):
    from jetnb import pretraining
    from jetnb.inputs import batches

    small = {"encoder": {"n_features": 5, "dim": 16, "n_layers": 1, "n_heads": 2}}
    store = jetnb.open_store("hh4b" if groups == "dijet" else "resimulation")
    rows = np.random.default_rng(1).permutation(300)
    losses = []
    for k, some in enumerate((store.jets[np.sort(rows)], batches.Rows(store, rows))):
        history = pretraining.pretrain(
            "resimulation",
            some,
            tmp_path / str(k),
            seed=1,
            settings=small | {"groups": groups},
            steps=2,
            batch_size=16,
            accelerator="cpu",
            progress=False,
        )
        losses.append(history.epochs[-1]["loss"])
        encoder, card = pretraining.load(tmp_path / str(k))
        assert card["settings"]["groups"] == groups and encoder.dim == 16
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("make", [views.pairs, views.tracks_against_clusters, views.dijet_partner])
def test_groups_of_stores_are_those_in_memory(make, tmp_path):
    from jetnb.data import store
    from jetnb.inputs import batches

    sample = jetnb.load("resimulation", n_jets=400)
    rows = np.random.default_rng(2).permutation(400)[:300]
    opened = store.write(tmp_path / "one", [sample])
    memory, stored = make(sample[rows], hardest=7), make(batches.Rows(opened, rows), hardest=7)
    assert len(memory) == len(stored) > 10
    some = np.array([7, 3, 3, len(memory) - 1])
    for one, two in zip(memory[some], stored[some], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    # The same numbers in two stores are not the same collisions.
    assert len(make(batches.Rows([opened, opened]))) == 2 * len(make(sample))


def test_settings_that_do_not_fit_are_refused(sample, tmp_path):
    from jetnb import pretraining

    def pretrain(**settings):
        pretraining.pretrain(
            "resimulation", sample, tmp_path / "x", seed=1, steps=1, settings=settings
        )

    with pytest.raises(ValueError, match="groups 'jets' is unknown: use one of pairs, dijet"):
        pretrain(groups="jets")
    with pytest.raises(ValueError, match="variations are of groups 'pairs', not of 'dijet'"):
        pretrain(groups="dijet", variations=["nominal", "seed"])
