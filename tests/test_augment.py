"""Augmentations: what each symmetry leaves alone, on shipped jets and on hard corner cases."""

from __future__ import annotations

from functools import partial

import awkward as ak
import numpy as np
import pytest
import torch

import jetnb
from jetnb import augment

EACH = (
    augment.rotate,
    augment.mirror,
    augment.translate,
    augment.smear,
    augment.split_collinear,
    partial(augment.split_collinear, fraction=0.4, n_max=60),
)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def batch():
    jets = jetnb.load("toptagging")[:400]
    inside = jets.constituents
    columns = inside.pt, inside.deltaeta(jets), inside.deltaphi(jets)
    particles = np.stack([ak.to_numpy(ak.flatten(column)) for column in columns], 1).astype("f4")
    return torch.from_numpy(particles), torch.from_numpy(
        np.append(0, np.cumsum(ak.to_numpy(ak.num(inside))))
    )


def per_jet(values, offsets, how="sum"):
    return torch.segment_reduce(values.double().contiguous(), how, offsets=offsets)


def mass(particles, offsets):
    pt, deta, dphi = particles.double().unbind(1)
    p = torch.stack([pt * deta.cosh(), pt * dphi.cos(), pt * dphi.sin(), pt * deta.sinh()], 1)
    energy, *momentum = per_jet(p, offsets).unbind(1)
    return (energy**2 - sum(x**2 for x in momentum)).clamp(min=0).sqrt()


def spread(particles, offsets):
    """Sum over pairs of pt pt dR^2, over the squared sum of pt: rotations and shifts leave it
    alone.
    """
    pt, place = particles[:, :1].double(), particles[:, 1:].double()
    total, mean, square = (per_jet(pt * x, offsets) for x in (torch.ones_like(pt), place, place**2))
    return (square * total - mean**2).sum(1) / total[:, 0] ** 2


@pytest.mark.parametrize("augmentation", EACH)
def test_seed_input_and_total_pt(batch, augmentation):
    particles, offsets = batch
    before = particles.clone()
    one, starts = augmentation(particles, offsets, generator=generator())
    again, _ = augmentation(particles, offsets, generator=generator())
    other, _ = augmentation(particles, offsets, generator=generator(2))
    assert torch.equal(particles, before) and torch.equal(one, again)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert one.dtype == particles.dtype and starts[-1] == len(one) and len(starts) == len(offsets)
    torch.testing.assert_close(
        per_jet(one[:, 0], starts), per_jet(particles[:, 0], offsets), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("augmentation", EACH)
@pytest.mark.parametrize("counts", [[0], [], [1], [0, 1, 0, 2, 0], [3, 0, 0]])
def test_small_and_empty_jets(augmentation, counts):
    offsets = torch.tensor([0, *counts]).cumsum(0)
    particles = torch.rand(int(offsets[-1]), 3, generator=generator()) + 0.01
    new, starts = augmentation(particles, offsets, generator=generator())
    assert new.isfinite().all() and len(starts) == len(offsets) and starts[-1] == len(new)
    assert torch.equal(starts.diff() == 0, offsets.diff() == 0)


def test_rotation_keeps_distances(batch):
    particles, offsets = batch
    turned, _ = augment.rotate(particles, offsets, generator=generator())
    torch.testing.assert_close(turned[:, 1:].norm(dim=1), particles[:, 1:].norm(dim=1))
    torch.testing.assert_close(
        spread(turned, offsets), spread(particles, offsets), rtol=1e-5, atol=1e-9
    )
    ratio = mass(turned, offsets) / mass(particles, offsets)
    assert 1e-3 < (ratio - 1).abs().max() < 0.8**2 / 6  # no Lorentz transformation, but nearly
    angle = torch.atan2(turned[offsets[:-1], 2], turned[offsets[:-1], 1])
    angle = angle - torch.atan2(particles[offsets[:-1], 2], particles[offsets[:-1], 1])
    share = torch.histc(angle.remainder(2 * np.pi), 4, 0, 2 * np.pi) / len(angle)
    assert (share - 0.25).abs().max() < 5 * np.sqrt(
        0.25 * 0.75 / len(angle)
    )  # evenly; five standard deviations
    away = torch.atan2(
        (turned[:, 2] * particles[:, 1] - turned[:, 1] * particles[:, 2]),
        (turned[:, 1:] * particles[:, 1:]).sum(1),
    )
    jet = torch.arange(len(angle)).repeat_interleave(offsets.diff())
    far = particles[:, 1:].norm(dim=1) > 0.05
    assert (
        torch.cos(away - angle[jet])[far].min() > 1 - 1e-5
    )  # all particles of a jet by the same angle


def test_mirrored_jets_keep_their_mass_and_half_of_them_are_as_before(batch):
    particles, offsets = batch
    moved, _ = augment.mirror(particles, offsets, generator=generator())
    torch.testing.assert_close(mass(moved, offsets), mass(particles, offsets), rtol=1e-9, atol=1e-9)
    assert torch.equal(moved[:, :2], particles[:, :2])
    same, opposite = (
        per_jet((moved[:, 2] - sign * particles[:, 2]).abs(), offsets) == 0 for sign in (1, -1)
    )
    assert (same | opposite).all() and 0.4 < same.double().mean() < 0.6


def test_translation_is_bounded_and_keeps_the_mass(batch):
    particles, offsets = batch
    extent = per_jet(particles[:, 1:], offsets, "max") - per_jet(particles[:, 1:], offsets, "min")
    for width in (0.0, 0.3, 1.0):
        moved, _ = augment.translate(particles, offsets, generator=generator(), width=width)
        shift = (moved - particles)[:, 1:]
        low, high = per_jet(shift, offsets, "min"), per_jet(shift, offsets, "max")
        torch.testing.assert_close(low, high, rtol=0, atol=1e-6)  # one shift for all particles
        assert 0.95 * width <= (high.abs() / extent).max() <= width + 1e-5
    # A shift is a boost along the beam and a turn about it.
    torch.testing.assert_close(mass(moved, offsets), mass(particles, offsets), rtol=1e-3, atol=0.05)


def test_smearing_moves_soft_particles_more():
    pt = torch.tensor([0.01, 0.1, 1.0, 10.0, 100.0], dtype=torch.float64)
    particles = torch.zeros(20_000, 5, 3, dtype=torch.float64)
    particles[..., 0] = pt
    offsets = torch.arange(0, 100_001, 5)
    moved, _ = augment.smear(
        particles.flatten(0, 1), offsets, generator=generator(), scale=0.2, pt_min=0.1
    )
    std = moved.view(-1, 5, 3)[..., 1:].std(0)
    torch.testing.assert_close(
        std, (0.2 / pt.clamp(min=0.1))[:, None].expand(-1, 2), rtol=0.03, atol=0
    )


def test_smearing_is_infrared_safe(batch):
    """A soft particle changes the jet the less the softer it is, although it moves the more."""
    hard = torch.tensor([[100.0, 0.2, 0.0], [100.0, -0.2, 0.0]], dtype=torch.float64)
    change = []
    for pt in (1.0, 1e-2, 1e-4):
        jet = torch.cat([hard, torch.tensor([[pt, 0.1, 0.1]], dtype=torch.float64)]).repeat(500, 1)
        offsets = torch.arange(0, len(jet) + 1, 3)
        moved = augment.smear(jet, offsets, generator=generator())[0]
        moved[:, 1:] = torch.where(jet[:, :1] > 10, jet[:, 1:], moved[:, 1:])  # only the soft one
        change.append(float((mass(moved, offsets) - mass(jet, offsets)).abs().mean()))
    assert 0 < change[2] < change[1] / 20 < change[0] / 20


def test_splitting_numbers_pt_and_mass(batch):
    particles, offsets = batch
    n = offsets.diff()
    for fraction, n_max in ((1.0, None), (1.0, 60), (0.25, None), (0.5, 40), (0.0, None), (1.0, 0)):
        split, starts = augment.split_collinear(
            particles, offsets, generator=generator(), fraction=fraction, n_max=n_max
        )
        new = (fraction * n).round().long()
        new = new if n_max is None else torch.minimum(new, (n_max - n).clamp(min=0))
        assert torch.equal(starts.diff(), n + new)
        assert split[:, 0].min() > 0
        torch.testing.assert_close(
            mass(split, starts), mass(particles, offsets), rtol=1e-9, atol=1e-5
        )
    everything, starts = augment.split_collinear(particles, offsets, generator=generator())
    halves = everything.view(-1, 2, 3)  # side by side
    assert torch.equal(halves[:, 0, 0] + halves[:, 1, 0], particles[:, 0])  # to the last bit
    assert torch.equal(halves[:, :, 1:], particles[:, None, 1:].expand(-1, 2, -1))
    share = halves[:, 0, 0] / particles[:, 0]
    assert share.min() >= 0.5 and abs(share.mean() - 0.75) < 5 * 0.25 / np.sqrt(3 * len(share))


def test_splitting_draws_each_particle_alike():
    particles = torch.full((4000 * 4, 3), 1.0)
    offsets = torch.arange(0, 16001, 4)
    particles[:, 1] = torch.arange(4).repeat(4000)
    split, starts = augment.split_collinear(particles, offsets, generator=generator(), n_max=5)
    assert (starts.diff() == 5).all()
    often = torch.bincount(split[:, 1].long()) - 4000
    assert (often - 1000).abs().max() < 5 * np.sqrt(4000 * 0.25 * 0.75)


def test_views(batch):
    cut = augment.keep_hardest(*batch, n_max=50)
    assert torch.equal(cut[1].diff(), batch[1].diff().clamp(max=50))
    first = int(batch[1][1])
    assert torch.equal(cut[0][: min(first, 50)], batch[0][: min(first, 50)])
    (one, starts), (two, ends) = augment.views(*cut, generator=generator())
    assert torch.equal(starts, cut[1])
    n = cut[1].diff()
    assert torch.equal(ends.diff(), torch.minimum(4 * n, n.clamp(min=50)))
    torch.testing.assert_close(
        per_jet(one[:, 0], starts), per_jet(two[:, 0], ends), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(spread(one, starts), spread(*cut), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(
        spread(two, ends), spread(*cut), rtol=1e-2
    )  # only the second is smeared
    angles = [view[:, 1:] - cut[0][: len(view), 1:] for view in (one, two[: len(one)])]
    assert not torch.allclose(*angles, atol=0.1)
    still = augment.views(*cut, generator=generator(), scale=0, width=0, n_max=0)
    for view, offsets in still:
        torch.testing.assert_close(view[:, 1:].norm(dim=1), cut[0][:, 1:].norm(dim=1))
        assert torch.equal(offsets, cut[1])


def test_bad_input_says_what_to_do(batch):
    particles, offsets = batch
    for wrong, message in (
        ((particles[:, :2], offsets), r"particles is .* \(T, 3\)"),
        ((particles.long(), offsets), "floating point"),
        ((particles, offsets.float()), "offsets is .* int64"),
        ((particles, offsets[:-1]), "offsets runs from 0 to"),
        ((particles, torch.tensor([0, 90, 80, len(particles)])), "rise from 0"),
    ):
        for function in EACH:
            with pytest.raises(ValueError, match=message):
                function(*wrong, generator=generator())
    for function, name, value in (
        (augment.translate, "width", -1),
        (augment.smear, "scale", -0.1),
        (augment.smear, "pt_min", 0),
        (augment.split_collinear, "fraction", 1.5),
        (augment.split_collinear, "n_max", -1),
    ):
        with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
            function(*batch, generator=generator(), **{name: value})
