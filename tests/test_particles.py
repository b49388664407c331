"""Model inputs from particles inside the network."""

import numpy as np
import pytest
import torch

import jetnb
from jetnb import augment, inputs
from jetnb.models.encoder import DeepSets, Transformer
from jetnb.models.particles import FEATURES, FromParticles


def particles(n_jets=200):
    return tuple(map(torch.from_numpy, inputs.to_relative(jetnb.load("toptagging")[:n_jets])))


class Look(torch.nn.Module):
    """Keeps what it is given."""

    n_features, dim = 5, 8

    def forward(self, x, offsets):
        self.seen = x
        return x, x.new_zeros(len(offsets) - 1, self.dim)


def test_inputs_are_those_of_the_numpy_table():
    look, jets = Look(), jetnb.load("toptagging")[:200]
    FromParticles(look)(*particles())
    x, offsets = inputs.compute(jets, FEATURES)
    share = np.log(
        np.add.reduceat(particles()[0][:, 0].numpy(), offsets[:-1]) / np.asarray(jets.pt)
    )
    x[:, FEATURES.index("log_pt_rel")] -= np.repeat(
        share, np.diff(offsets)
    )  # of the sum, not of the stored jet pt
    np.testing.assert_allclose(look.seen, x, atol=2e-5)


def test_fit_centres_and_scales():
    look = Look()
    encoder = FromParticles(look).fit(*particles())
    encoder(*particles())
    torch.testing.assert_close(look.seen.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(look.seen.std(0), torch.ones(5), atol=1e-3, rtol=0)
    assert {"mean", "width"} <= set(encoder.state_dict())


def test_momenta_have_the_pt_and_the_angles_of_the_particles():
    look, (p, offsets) = Look(), particles()
    FromParticles(look, momenta=True)(p, offsets)
    px, py, pz, energy = look.seen[:, 5:].T
    torch.testing.assert_close(torch.hypot(px, py), p[:, 0])
    torch.testing.assert_close(torch.atan2(py, px), p[:, 2], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.asinh(pz / p[:, 0]), p[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(energy**2, px**2 + py**2 + pz**2, rtol=1e-4, atol=0)


def test_gradients_are_finite_after_augmentation():
    torch.manual_seed(1)
    encoder = FromParticles(Transformer(5, dim=16, n_layers=1, n_heads=2)).fit(*particles())
    for view in augment.views(*particles(), generator=torch.Generator().manual_seed(1)):
        encoder(*view)[1].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_jets_weighted_by_pt_are_the_mean_by_hand():
    torch.manual_seed(1)
    p, offsets = particles(20)
    offsets = torch.cat([offsets, offsets[-1:]])  # and a jet without particles
    mean = FromParticles(Transformer(5, dim=16, n_layers=1, n_heads=2)).fit(p, offsets)
    weighted = mean.pooled("pt")
    constituents, jets = weighted(p, offsets)
    for jet, (start, end) in enumerate(zip(offsets[:-2], offsets[1:-1], strict=True)):
        pt = p[start:end, :1]
        torch.testing.assert_close(jets[jet], (pt * constituents[start:end]).sum(0) / pt.sum())
    assert not jets[-1].any() and mean.encoder.pool == "mean"
    torch.testing.assert_close(constituents, mean(p, offsets)[0])
    torch.testing.assert_close(weighted.pooled("mean")(p, offsets)[1], mean(p, offsets)[1])
    jets.square().sum().backward()
    assert all(q.grad.isfinite().all() for q in weighted.parameters())


def test_soft_particles_and_halves_count_for_the_mean_and_not_for_the_pt_pool():
    """Constituents alone, without attention to others: what the pool itself does."""
    torch.manual_seed(1)
    p, offsets = particles(1)
    encoder = FromParticles(Transformer(5, dim=16, n_layers=1, n_heads=2)).fit(p, offsets)
    encoder.encoder.blocks = torch.nn.ModuleList()
    soft = torch.cat([p, torch.tensor([[1e-6, 0.3, 0.4]])])
    moved = {
        pool: (
            encoder.pooled(pool)(soft, offsets + torch.tensor([0, 1]))[1]
            - encoder.pooled(pool)(p, offsets)[1]
        )
        .abs()
        .max()
        for pool in ("mean", "pt")
    }
    assert moved["pt"] < 1e-6 and moved["mean"] > 1e-3


@pytest.mark.parametrize(
    "own, asked", [("token", "pt"), ("attention", "mean"), ("mean", "token"), ("mean", "max")]
)
def test_a_pool_that_is_another_network_is_refused(own, asked):
    with pytest.raises(ValueError, match=f"pool '{asked}' in place of '{own}'"):
        FromParticles(Transformer(5, dim=16, n_layers=1, n_heads=2, pool=own)).pooled(asked)


def test_an_encoder_of_other_inputs_is_refused():
    with pytest.raises(ValueError, match="expects 7 features, but particles give 5"):
        FromParticles(DeepSets(7, dim=16))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p[:0], "over 0 particles"),
        (lambda p: p * 0, "width of deta"),
        (lambda p: p.index_fill(0, torch.tensor([3]), -1.0), "width of log_pt"),
    ],
)
def test_a_fit_to_nothing_is_refused(change, message):
    p, offsets = particles()
    p = change(p)
    with pytest.raises(ValueError, match=message):
        FromParticles(Look()).fit(p, offsets if len(p) else offsets[:1])
