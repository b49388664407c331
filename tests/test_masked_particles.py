"""Masked particles, particle types and set-to-set flow: each against numbers worked by hand, or a
property that must hold. What all strategies share is in `test_strategies`.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jetnb
from jetnb import checkpoints, latent, pretraining, training
from jetnb.data.catalogue import DATA
from jetnb.inputs import TRACK, TYPES
from jetnb.models import flow as matching
from jetnb.models.particles import columns
from jetnb.strategies import targets
from jetnb.strategies.masked_particles import MaskedParticles, hide
from jetnb.strategies.particle_type import ParticleType
from jetnb.strategies.set_flow import SetFlow

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"dim": 16, "n_layers": 1, "n_heads": 2}
EXTRAS = ["charge", *TYPES, *TRACK]
TOKENIZER = DATA / "checkpoints" / "tokens-aoj"


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def sample(n=64):
    return jetnb.load("jetclass")[:n]


def made(strategy=MaskedParticles, n=64, **settings):
    settings = {"encoder": SMALL, "decoder": SMALL, **settings}
    model = pretraining._make(strategy, pretraining._merged(strategy, settings, "mine"), seed=1)
    data = pretraining.data_of(model, sample(n))
    return model.fit(data, seed=1).eval(), data


def hidden_in(model, data, n=8):
    """Particles of n jets, offsets, a mask, and the rows that are hidden."""
    x, offsets, *_ = data[np.arange(n)]
    mask = torch.rand(len(x), generator=generator()) < 0.3
    mask[offsets[:-1]] = False
    return x, offsets, mask, mask.nonzero()[:, 0]


def test_what_is_wanted_is_what_the_jets_say():
    _, data = made(extras=EXTRAS, targets=["regression"])
    names = columns(EXTRAS)
    asked = targets.Particles(names).fit(torch.from_numpy(data.x))
    x, offsets, *_ = data[np.arange(3)]
    found = asked(x)
    assert asked.names == ("log_pt", "deta", "dphi", *TRACK)
    plain = found.numbers * asked.width + asked.mean
    torch.testing.assert_close(plain[:, 0].exp(), x[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(asked.particles(found.numbers), x[:, :3], rtol=1e-5, atol=1e-6)
    track = x[:, -1] > 0
    assert track.any() and not track.all()
    torch.testing.assert_close(
        plain[track, 3], x[track, 3 + names.index("tanh_d0")], rtol=1e-4, atol=1e-5
    )
    assert not found.known[~track, 3:].any() and found.known[:, :3].all()
    assert (found.numbers[~track, 3:] == 0).all()
    jets = sample(3).constituents[:, :40]
    pdg, charge = (
        np.concatenate([np.asarray(one) for one in jets[key]]) for key in ("pdg_id", "charge")
    )
    by_hand = {
        211: "charged_hadron",
        22: "photon",
        130: "neutral_hadron",
        11: "electron",
        13: "muon",
    }
    expected = [
        by_hand[abs(code)] + {1: "+", -1: "-", 0: ""}[sign]
        for code, sign in zip(pdg.tolist(), charge.tolist(), strict=True)
    ]
    assert [asked.kinds[kind] for kind in found.kind] == expected


def test_losses_are_those_worked_by_hand():
    model, data = made(extras=EXTRAS, targets=["regression", "kmeans", "types"], n_codes=20)
    x, offsets, mask, rows = hidden_in(model, data)
    found = model.find(x, offsets, mask)
    assert torch.equal(found.rows, rows)
    wanted = model.wanted(x, offsets, rows)
    with torch.no_grad():
        losses = {name: head.loss(found.h, wanted) for name, head in model.targets.items()}
        out = {name: head.out(found.h) for name, head in model.targets.items()}
    off = [
        abs(float(out["regression"][i, k]) - float(wanted.numbers[i, k]))
        for i in range(len(rows))
        for k in range(wanted.numbers.shape[1])
        if wanted.known[i, k]
    ]
    assert float(losses["regression"][0]) == pytest.approx(np.mean(off), rel=1e-5)
    centres = model.targets["kmeans"].codes
    nearest = torch.cdist(wanted.numbers, centres).argmin(1)
    for name, label in {"kmeans": nearest, "types": wanted.kind}.items():
        by_hand = -out[name].log_softmax(1)[torch.arange(len(rows)), label]
        assert float(losses[name][0]) == pytest.approx(float(by_hand.mean()), rel=1e-5)
        assert float(model.targets[name].frequency.exp().sum()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("reads", ["visible", "tokens"])
def test_without_ranks_all_hidden_of_a_jet_look_the_same(reads):
    for ranks in (True, False):
        model, data = made(reads=reads, ranks=ranks, n_codes=16)
        x, offsets, mask, rows = hidden_in(model, data, 1)
        assert len(rows) > 3
        with torch.no_grad():
            apart = torch.pdist(model.find(x, offsets, mask).h).min()
        assert (apart > 1e-3) == ranks


def test_flow_scores_what_it_should_and_draws_what_it_learned():
    asked = targets.Particles()
    torch.manual_seed(1)
    flow = targets.Flow(4, asked)
    numbers = torch.tensor([1.5, -1.0, 0.5]) + 0.1 * torch.randn(512, 3, generator=generator())
    h, wanted = (
        torch.ones(512, 4),
        targets.Wanted(numbers, torch.ones(512, 3, dtype=torch.bool), None),
    )
    best = torch.optim.Adam(flow.parameters(), 3e-3)
    for step in range(400):
        loss, _ = flow.loss(h, wanted, generator=generator(step))
        best.zero_grad()
        loss.backward()
        best.step()
    drawn = flow.draw(h, generator=generator())
    assert (drawn.mean(0) - numbers.mean(0)).abs().max() < 0.1
    assert drawn.std(0).max() < 0.25
    # A perfect flow goes straight from the noise to what is there, in any number of steps.
    perfect = matching.follow(lambda x, t: (x - 2.0) / t, torch.tensor([[5.0]]), evaluations=14)
    assert float(perfect) == pytest.approx(2.0, abs=1e-5)


@pytest.mark.parametrize("target", ["regression", "kmeans", "flow"])
def test_hidden_particles_are_filled_in(target):
    model, data = made(targets=["regression", "kmeans", "flow"], n_codes=16)
    x, offsets, mask, rows = hidden_in(model, data)
    one, two = (model.fill(x, offsets, mask, target=target, generator=generator()) for _ in "ab")
    assert one.shape == (len(rows), 3) and torch.equal(one, two) and (one[:, 0] > 0).all()
    with pytest.raises(ValueError, match="target is 'types'"):
        model.fill(x, offsets, mask, target="types")


def test_types_are_hidden_with_charge_and_nothing_else():
    model, data = made(ParticleType)
    x, _, _, rows = hidden_in(model, data)
    blank = model.particles.without_type(x, rows)
    assert torch.equal(blank[:, :3], x[:, :3])
    assert (blank[rows, 3:] == 0).all() and (x[rows, 4:].sum(1) == 1).all()
    kept = torch.ones(len(x), dtype=torch.bool)
    kept[rows] = False
    assert torch.equal(blank[kept], x[kept])


def test_set_flow_draws_as_many_as_it_is_told():
    model, data = made(SetFlow, extras=EXTRAS)
    x, offsets, *_ = data[np.arange(4)]
    drawn, start, kinds = model.draw(x, offsets, [3, 0, 1, 5], generator=generator(), evaluations=6)
    assert start.tolist() == [0, 3, 3, 4, 9] and drawn.shape == (9, 3) and kinds.shape == (9,)
    alone, _, _ = model.draw(x, offsets, [3, 0, 1, 5], generator=generator(), evaluations=6)
    assert torch.equal(drawn, alone)
    without = made(SetFlow)[0].draw(
        x[:, :3], offsets, [1, 1, 1, 1], generator=generator(), evaluations=4
    )
    assert without[2] is None and without[0].shape == (4, 3)


def test_set_flow_scores_the_direction():
    """A decoder that says nothing loses the mean square of noise less data."""
    model, data = made(SetFlow)
    torch.nn.init.zeros_(model.out.weight)
    torch.nn.init.zeros_(model.out.bias)
    loss = model.loss(data[np.arange(64)], generator=generator())
    assert float(loss.detach()) == pytest.approx(2, rel=0.1)  # both have the width 1
    assert model.monitors()["explained"] == pytest.approx(0, abs=1e-6)


def test_set_flow_tells_the_errors_of_single_jets():
    """Their mean over numbers is the loss; of a single particle nothing can be hidden."""
    model, data = made(SetFlow)
    batch = data[np.arange(64)]
    x, offsets = batch[0], batch[1]
    errors = model.errors(batch, generator=generator())
    hidden = hide(x, offsets, model.mask, generator=generator())
    counts = np.add.reduceat(hidden.numpy().astype(float), offsets[:-1].numpy())
    loss = float(model.loss(batch, generator=generator()).detach())
    assert np.average(errors, weights=counts) == pytest.approx(loss, rel=1e-5)
    alone = model.errors((x[:6], torch.tensor([0, 1, 6])), generator=generator())
    assert alone[0] == 0 and alone[1] > 0


@pytest.mark.parametrize(
    "name, settings",
    [
        ("masked_particles", {"targets": ["codes"], "vqvae": str(TOKENIZER)}),
        ("masked_particles", {"extras": EXTRAS, "targets": ["kmeans", "types"], "n_codes": 16}),
        ("particle_type", {"hides": "type"}),
        ("particle_type", {"hides": "particle"}),
        ("set_flow", {"extras": EXTRAS}),
    ],
)
def test_a_checkpoint_gives_the_encoder_back(name, settings, tmp_path):
    settings = {"encoder": SMALL, "decoder": SMALL, **settings}
    quick = {"steps": 3, "batch_size": 32, "progress": False}
    pretraining.pretrain(name, sample(), tmp_path / "ck", seed=1, settings=settings, **quick)
    encoder, card = pretraining.load(tmp_path / "ck")
    data = pretraining.particles(sample(), hardest=card["hardest"], extras=encoder.extras)
    assert latent.embed(encoder, data).shape == (64, 16)
    assert checkpoints.read_card(tmp_path / "ck")["metrics"]["rank"] > 1
    again = pretraining.pretrain(
        name, sample(), tmp_path / "ck", seed=1, settings=settings, resume=True, **quick
    )
    assert len(again.steps) > 0


def test_a_masked_model_learns_from_what_is_visible():
    model, data = made(n=256, hardest=20, n_codes=32, encoder={**SMALL, "dim": 32})
    training.fit(model, data, steps=80, batch_size=64, lr=3e-3, seed=1, progress=False)
    assert model.monitors()["kmeans_explained"] > 0.05


def test_bad_settings_are_refused():
    for settings, message in (
        ({"targets": ["colour"]}, "targets is .*colour"),
        ({"targets": []}, "targets is"),
        ({"targets": ["types"]}, "needs types"),
        ({"targets": ["codes"]}, "needs a VQ-VAE"),
        ({"weights": {"flow": 2.0}}, "weights: 'flow' is none"),
        ({"reads": "all"}, "reads is 'all'"),
        ({"mask": {"kind": "stripes"}}, "mask is .*stripes"),
        ({"mask": {"ratio": 1.0}}, "ratio"),
        ({"extras": ["colour"]}, "colour"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**settings)
    with pytest.raises(ValueError, match="hides is 'all'"):
        made(ParticleType, hides="all")
    for strategy in (MaskedParticles, SetFlow):
        with pytest.raises(RuntimeError, match="no batch"):
            made(strategy)[0].monitors()


def test_the_shipped_checkpoint_is_better_than_a_random_encoder():
    encoder, card = pretraining.load(DATA / "checkpoints" / "masked-particles")
    assert card["pretrained_by"] == "set_flow" and card["trained"]["reason"] == "finished"
    # The samples have the seed 1.
    assert [part["seed"] for part in card["drawn_from"]] == [1001]
    jets = sample(3000)
    data = pretraining.particles(jets, hardest=card["hardest"], extras=encoder.extras)
    settings = {"encoder": card["encoder"], "extras": card["settings"]["extras"]}
    random = made(SetFlow, **settings)[0].encoder
    label, half = np.asarray(jets.label), np.random.default_rng(1).permutation(3000)
    found = {}
    for name, one in {"pretrained": encoder, "random": random}.items():
        z = latent.embed(one, data)
        known, asked = half[:1500], half[1500:]
        found[name] = latent.knn(
            z[known], label[known], z[asked], label[asked], metric="euclidean"
        ).accuracy
    assert found["pretrained"].low > found["random"].high
