"""Masks of every kind: the share, what is hidden together, and a plain loop beside each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import jetnb
from jetnb import masks, pretraining
from jetnb.substructure import subjets, walk

RATIO = 0.4


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch():
    data = pretraining.particles(jetnb.load("jetclass")[:400])
    x, offsets, _ = data[np.arange(len(data))]
    return x, offsets


def per_jet(values, offsets):
    return [values[a:b] for a, b in itertools.pairwise(offsets.tolist())]


@pytest.mark.parametrize("kind", [kind for kind in masks.KINDS if kind != "momentum"])
@pytest.mark.parametrize("ratio", [0.1, RATIO, 0.9])
def test_the_share_of_constituents_is_right_whatever_the_kind(kind, ratio, batch):
    x, offsets = batch
    mask = masks.draw(kind, x, offsets, ratio, generator=generator())
    assert mask.shape == (len(x),) and mask.dtype == torch.bool and mask.device.type == "cpu"
    for part in per_jet(mask, offsets):
        exact = ratio * len(part)
        assert (
            min(int(exact), len(part) - 1) <= int(part.sum()) <= min(int(exact) + 1, len(part) - 1)
        )
    assert float(mask.float().mean()) == pytest.approx(ratio, abs=0.02)


def test_the_share_of_momentum_is_right(batch):
    x, offsets = batch
    mask = masks.momentum(x, offsets, RATIO, generator=generator())
    shares = [
        float(part[hidden, 0].sum() / part[:, 0].sum())
        for part, hidden in zip(per_jet(x, offsets), per_jet(mask, offsets), strict=True)
    ]
    hardest = max(float(part[:, 0].max() / part[:, 0].sum()) for part in per_jet(x, offsets))
    assert np.mean(shares) == pytest.approx(RATIO, abs=0.02)
    assert max(abs(np.array(shares) - RATIO)) <= hardest / 2 + 1e-6


@pytest.mark.parametrize("kind", masks.KINDS)
def test_empty_and_single_jets_hide_nothing_and_two_hide_at_most_one(kind):
    offsets = torch.tensor([0, 0, 1, 3, 3])
    x = torch.rand(3, 3, generator=generator()) + 0.1
    for seed in range(20):
        mask = masks.draw(kind, x, offsets, 0.9, generator=generator(seed))
        assert not mask[0] and int(mask[1:].sum()) <= 1
    assert len(masks.draw(kind, x[:0], torch.tensor([0]), 0.5)) == 0
    assert len(masks.draw(kind, x[:0], torch.tensor([0, 0]), 0.5)) == 0


@pytest.mark.parametrize("kind", masks.KINDS)
def test_the_same_generator_hides_the_same(kind, batch):
    one, same, other = (
        masks.draw(kind, *batch, RATIO, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_neighbours_are_one_hole(batch):
    x, offsets = batch
    mask = masks.neighbours(x, offsets, RATIO, generator=generator())
    for part, hidden in zip(per_jet(x, offsets), per_jet(mask, offsets), strict=True):
        if 0 < hidden.sum() < len(part):
            away = torch.cdist(part[hidden, 1:].double(), part[:, 1:].double())
            # from one of the hidden all others are nearer than any that is visible
            furthest, nearest = away[:, hidden].amax(1), away[:, ~hidden].amin(1)
            assert bool((furthest <= nearest + 1e-9).any())


def test_clusters_are_hidden_whole_but_for_one(batch):
    x, offsets = batch
    mask = masks.clusters(x, offsets, RATIO, generator=generator())
    label = torch.from_numpy(subjets(x, offsets, algorithm="antikt", radius=0.1))
    for hidden, own in zip(per_jet(mask, offsets), per_jet(label, offsets), strict=True):
        cut = [k for k in own.unique() if 0 < hidden[own == k].sum() < (own == k).sum()]
        assert len(cut) <= 1


def test_a_walk_goes_to_the_nearest_and_a_run_of_it_is_hidden(batch):
    x, offsets = batch
    place = torch.from_numpy(walk(x, offsets))
    mask = masks.walk(x, offsets, RATIO, generator=generator())
    for part, where, hidden in zip(
        *(per_jet(one, offsets) for one in (x.double(), place, mask)), strict=True
    ):
        here, left = 0, set(range(1, len(part)))
        order = [0]
        while left:
            here = min(
                left, key=lambda i: float((part[i, 1:] - part[order[-1], 1:]).square().sum())
            )
            left.remove(here)
            order.append(here)
        assert where[order].tolist() == list(range(len(part)))
        steps = where[hidden].sort().values
        assert steps.numel() == 0 or steps[-1] - steps[0] + 1 == len(steps)


def test_subjets_are_hidden_from_the_hardest_on(batch):
    x, offsets = batch
    mask = masks.subjets(x, offsets, RATIO, generator=generator())
    label = torch.from_numpy(subjets(x, offsets, algorithm="ca", radius=0.2))
    for hidden, own in zip(per_jet(mask, offsets), per_jet(label, offsets), strict=True):
        if hidden.any():
            assert own[hidden].max() <= own[~hidden].min()


def test_what_is_wrong_is_said(batch):
    with pytest.raises(ValueError, match="mask 'holes' is unknown: use one of random"):
        masks.draw("holes", *batch, 0.5)
    for ratio in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            masks.random(*batch, ratio)
