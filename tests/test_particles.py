"""Model inputs from particles inside the network."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

import jetnb
from jetnb import augment, inputs, pretraining
from jetnb.models.encoder import DeepSets, Transformer
from jetnb.models.particles import FEATURES, FromParticles, columns


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


EXTRAS = ("charge", "is_muon", "tanh_d0", "d0_error", "tanh_dz", "dz_error")


@pytest.fixture(scope="module")
def displaced():
    """Particles of 2000 jets with charge, type and displacement, and an encoder that keeps them."""
    data = pretraining.particles(jetnb.load("jetclass")[:4000:2], extras=columns(EXTRAS))
    x, offsets, _ = data[np.arange(len(data))]
    look = Look()
    look.n_features = 5 + len(EXTRAS)
    return x, offsets, FromParticles(look, extras=EXTRAS).fit(x, offsets)


def test_extras_follow_the_features_of_particles(displaced):
    x, offsets, encoder = displaced
    assert encoder.extras == columns(columns(EXTRAS)) == (*EXTRAS, "has_track")
    assert columns(["charge"]) == ("charge",) and columns([]) == ()
    assert encoder.features == (*FEATURES, *EXTRAS)
    found, track = encoder.scaled(x, offsets), x[:, -1] > 0
    plain = FromParticles(Look()).fit(x[:, :3], offsets)
    torch.testing.assert_close(found[:, :5], plain.scaled(x[:, :3], offsets))
    torch.testing.assert_close(found[:, 5:7], x[:, 3:5])  # charge and type as they are
    back = found[:, 7:] * encoder.width[7:] + encoder.mean[7:]
    torch.testing.assert_close(back[track], x[track, 5:9])
    assert 0.05 < float((~track).float().mean()) < 0.95


def test_nobody_reads_from_displacements_that_there_is_no_track(displaced):
    data = pretraining.particles(jetnb.load("jetclass")[1:4001:2], extras=columns(EXTRAS))
    x, offsets, _ = data[np.arange(len(data))]  # other jets than those that the tracks are from
    z, track = displaced[2].scaled(x, offsets)[:, 7:].numpy(), (x[:, -1] > 0).numpy()
    half = len(z) // 2
    zeros = (x[:, 5:9]).numpy()  # what a file has: nothing where there is no track

    def auc(values):
        forest = HistGradientBoostingClassifier(max_iter=50, random_state=1)
        score = forest.fit(values[:half], track[:half]).predict_proba(values[half:])[:, 1]
        return roc_auc_score(track[half:], score)

    assert auc(zeros) > 0.99
    assert auc(z) < 0.56


def test_what_is_filled_in_is_the_same_each_time_and_in_any_order(displaced):
    x, offsets, encoder = displaced
    rows = torch.randperm(int(offsets[1]), generator=torch.Generator().manual_seed(1))
    one, start = x[: offsets[1]], offsets[:2]
    torch.testing.assert_close(encoder.scaled(one[rows], start), encoder.scaled(one, start)[rows])
    torch.testing.assert_close(encoder.scaled(one, start), encoder.scaled(x, offsets)[: len(one)])
    other = FromParticles(Look5(), extras=EXTRAS)
    other.load_state_dict(encoder.state_dict())
    torch.testing.assert_close(other.scaled(x, offsets), encoder.scaled(x, offsets))


class Look5(Look):
    n_features = 5 + len(EXTRAS)


def test_without_tracks_it_says_so(displaced):
    x, offsets, _ = displaced
    with pytest.raises(ValueError, match="none of .* particles has a track"):
        FromParticles(Look5(), extras=EXTRAS).fit(x * torch.tensor([1.0] * 9 + [0.0]), offsets)
    with pytest.raises(ValueError, match="n_features=11"):
        FromParticles(Look(), extras=EXTRAS)
