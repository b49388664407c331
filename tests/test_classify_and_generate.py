"""One encoder, two heads: what the loss is made of, what the heads may see, and jets that are drawn."""

import awkward as ak
import numpy as np
import pytest
import torch

import jetnb
import jetnb.jets
from jetnb import distances, pretraining, training
from jetnb.models import flow
from jetnb.strategies.classify_and_generate import ClassifyAndGenerate, group_of, kinematics_of

SMALL = {
    "encoder": {"n_features": 5, "dim": 16, "n_layers": 1, "n_heads": 2},
    "generator": {"dim": 16, "n_layers": 1, "n_heads": 2},
    "hardest": 20,
    "evaluations": 8,
}
EXTRAS = ["charge", "is_muon", "tanh_d0", "d0_error"]

pytestmark = pytest.mark.usefixtures("one_thread")


def few(n=300):
    return jetnb.load("jetclass")[:n]


def ready(n=300, **settings):
    settings = {**ClassifyAndGenerate.SETTINGS, **SMALL, **settings}
    model = pretraining._make(ClassifyAndGenerate, settings, seed=1)
    data = pretraining.data_of(model, few(n))
    return model.fit(data, seed=1), data


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def only(**weights):
    return {"clean": 0.0, "noised": 0.0, "generate": 0.0, **weights}


def test_momentum_and_mass_are_those_of_the_sum():
    data = pretraining.particles(few(50), hardest=None)
    x, offsets, _ = data[np.arange(50)]
    found, jet = kinematics_of(x, offsets)
    whole = jetnb.inputs.from_relative(
        jetnb.inputs.Batch(x.numpy(), offsets.numpy()), provenance=jetnb.jets.provenance(few())
    )
    np.testing.assert_allclose(found[:, 0], whole.pt, rtol=1e-4)
    np.testing.assert_allclose(found[:, 1], whole.mass, rtol=2e-3, atol=0.2)
    np.testing.assert_array_equal(found[:, 2], whole.n_constituents)
    np.testing.assert_array_equal(jet, np.repeat(np.arange(50), np.diff(offsets)))


def test_coordinates_have_width_one_and_come_back():
    model, data = ready()
    x, offsets, _ = data[np.arange(300)]
    jets, jet = kinematics_of(x, offsets)
    y = model.coordinates(x, jets[:, 0][jet])
    assert y.mean(0).abs().max() < 1e-3 and (y.std(0) - 1).abs().max() < 1e-3
    for within in (False, True):
        back = model.coordinates.back(y, jets[:, 0][jet], within=within)
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-5)
    wild = model.coordinates.back(torch.full((1, 3), 50.0), torch.tensor([600.0]), within=True)
    assert wild[0, 0] < 700 and wild[0, 1:].abs().max() < 1.0


def test_the_loss_is_the_sum_of_its_parts():
    whole, parts = None, []
    weights = {"clean": 1.0, "noised": 2.0, "generate": 0.5}
    model, data = ready()
    batch = data[np.arange(64)]
    for given in (weights, *(only(**{name: value}) for name, value in weights.items())):
        model.weights = given
        loss = float(model.loss(batch, generator=generator()).detach())
        whole, parts = (loss, parts) if whole is None else (whole, [*parts, loss])
    assert whole == pytest.approx(sum(parts), rel=1e-5) and min(parts) > 0
    # Clean jets alone: cross-entropy, as in supervised pretraining.
    logits = model.head(model.encoder(*batch[:2])[1])
    own = float(torch.nn.functional.cross_entropy(logits, batch[2]))
    assert parts[0] == pytest.approx(own, rel=1e-5)


def test_noised_jets_count_less_the_more_noise_they_have(monkeypatch):
    model, data = ready(weights=only(noised=1.0))
    batch = data[np.arange(64)]
    for time in (0.0, 0.5):
        monkeypatch.setattr(flow, "uniform", lambda like, _, time=time: torch.full_like(like, time))
        loss = float(model.loss(batch, generator=generator()).detach())
        each = torch.nn.functional.cross_entropy(model._last["noised"], batch[2])
        assert loss == pytest.approx((1 - time) ** 2 * float(each), rel=1e-5)
        if time == 0:  # without noise it is the clean jet, to rounding
            clean = model.head(model.encoder(*batch[:2])[1])
            torch.testing.assert_close(model._last["noised"], clean, rtol=1e-3, atol=1e-3)


def test_who_classifies_never_sees_the_class_and_who_generates_does():
    model, data = ready()
    x, offsets, label = data[np.arange(64)]
    found = []
    for shift in (0, 1):
        model.loss((x, offsets, (label + shift) % 10), generator=generator())
        found.append(dict(model._last))
    for name in ("clean", "noised", "jets"):
        assert torch.equal(found[0][name], found[1][name])
    assert not torch.equal(found[0]["found"], found[1]["found"])


def test_a_jet_without_label_counts_for_generation_alone():
    model, data = ready(weights={"clean": 1.0, "noised": 1.0, "generate": 0.0})
    x, offsets, label = data[np.arange(32)]
    assert float(model.loss((x, offsets, -torch.ones_like(label))).detach()) == 0
    model.weights = only(generate=1.0)
    assert float(model.loss((x, offsets, -torch.ones_like(label))).detach()) > 0
    with pytest.raises(ValueError, match="label runs from 0 to 11"):
        model.weights = only(clean=1.0)
        model.loss((x, offsets, label.clamp(min=0).index_fill(0, torch.tensor([0]), 11)))


def test_all_parts_learn():
    model, data = ready()
    history = training.fit(
        model, data, steps=250, batch_size=64, lr=5e-3, seed=1, progress=False, log_every=1
    )
    losses = [record["loss"] for record in history.steps]
    found = model.monitors()
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert found["accuracy"] > 0.2 and found["explained"] > 0.2 and found["rank"] > 2

    truth, provenance = kinematics_of(*data[np.arange(300)][:2])[0], jetnb.jets.provenance(few())
    made, before = (
        one.draw(300, seed=1, provenance=provenance) for one in (model, ready()[0])
    )  # before training constituents have the right widths, but do not know of each other
    off = [distances.w1(truth[:, 0], one.pt) for one in (made, before)]
    assert off[0] < 0.6 * off[1]
    assert abs(float(ak.mean(made.n_constituents)) - float(truth[:, 2].mean())) < 3

    with torch.no_grad():
        for weights in model.encoder.encoder.norm.parameters():
            weights.zero_()
    model.loss(data[np.arange(64)])
    assert model.monitors()["rank"] < 1.01  # collapse shows


def test_jets_are_a_function_of_the_seed_and_of_what_was_asked():
    model, _ = ready()
    provenance, labels = jetnb.jets.provenance(few()), np.arange(30) % 10
    model.train()
    one, same, other = (
        model.draw(30, seed=seed, provenance=provenance, labels=labels, batch_size=size)
        for seed, size in ((1, 30), (1, 7), (2, 30))
    )
    assert model.training  # as it was
    np.testing.assert_allclose(
        ak.flatten(one.constituents.pt), ak.flatten(same.constituents.pt), rtol=1e-3
    )
    assert ak.to_list(one.n_constituents) != ak.to_list(other.n_constituents)
    assert one.label.to_list() == labels.tolist() and ak.max(one.n_constituents) <= 20
    about = jetnb.jets.provenance(one)
    assert about["source"] == "generated" and "jetclass" in about["stamp"]
    asked = []
    model.velocity.register_forward_hook(lambda *_: asked.append(1))
    model.draw(5, seed=1, provenance=provenance, evaluations=4)
    assert len(asked) == 4
    with pytest.raises(ValueError, match="labels run from 10 to 10"):
        model.draw(3, seed=1, provenance=provenance, labels=10)


def test_jets_at_the_cut_are_drawn_as_they_were_learned(monkeypatch):
    """What the network is given of a jet is the same in training and in drawing."""
    model, data = ready()
    x, offsets, *_ = data[np.arange(len(data))]
    jets, _ = kinematics_of(x, offsets)
    assert (jets[:, 2] == 20).sum() > 30  # they have as many constituents as are kept
    seen = []
    model.velocity.register_forward_hook(lambda _, given, found: seen.append(given[4].clone()))
    model.loss(data[np.arange(len(data))], generator=generator())
    monkeypatch.setattr(model.kinematics, "draw", lambda *_, **__: jets)
    model.draw(len(jets), seed=1, provenance=jetnb.jets.provenance(few()), evaluations=2)
    torch.testing.assert_close(seen[1], seen[0])


def test_classes_are_drawn_as_often_as_in_training():
    model, data = ready(label="fine_grained", n_classes=None)
    share = np.bincount(model.labels([torch.as_tensor(one) for one in data.targets]), minlength=22)
    np.testing.assert_allclose(model.share, share / share.sum(), rtol=1e-5)
    drawn = model._classes(None, 20000, generator()).bincount(minlength=22) / 20000
    np.testing.assert_allclose(drawn, model.share, atol=0.012)
    made = model.draw(4, seed=1, provenance=jetnb.jets.provenance(few()), evaluations=2)
    assert "label" not in made.fields  # fine classes are not those of the sample


def test_groups_of_features_are_dropped_for_whole_jets_in_training_alone():
    model, data = ready(extras=EXTRAS, drop=0.3)
    assert model.extras == (*EXTRAS, "has_track") and data.x.shape[1] == 8
    assert [group_of(name) for name in (*model.extras, "log_energy")] == [
        "types",
        "types",
        "tracks",
        "tracks",
        "tracks",
        "others",
    ]
    x, offsets, _ = data[np.arange(300)]
    seen = model.train()._dropped(x, offsets, generator())
    bare, jet = model.bare(x), np.repeat(np.arange(300), np.diff(offsets))
    assert torch.equal(seen[:, :3], x[:, :3])
    lost = {}
    for name, columns in (("types", [3, 4]), ("tracks", [5, 6, 7])):
        gone = (seen[:, columns] == bare[:, columns]).all(1).numpy()
        kept = (seen[:, columns] == x[:, columns]).all(1).numpy()
        assert (gone | kept).all()
        whole = np.array([gone[jet == b].all() for b in range(300)])
        rest = np.array([kept[jet == b].all() for b in range(300)])
        assert (whole | rest).all() and 0.2 < whole.mean() < 0.4
        lost[name] = whole
    assert abs(np.corrcoef(*lost.values())[0, 1]) < 0.25  # each group by itself
    assert torch.equal(model.eval()._dropped(x, offsets, generator()), x)


def test_it_works_with_kinematics_alone():
    model, data = ready(extras=EXTRAS)
    x, offsets, label = data[np.arange(64)]
    bare = model.bare(x)
    assert torch.equal(model.bare(x[:, :3]), bare) and bare.shape == x.shape
    scaled = model.encoder.scaled(bare, offsets)
    assert scaled[:, 7:].abs().max() < 1e-6  # of tracks: their mean, for neutral ones, too
    # Noised jets never have more than kinematics: other features may be anything.
    wrong = torch.cat([x[:, :3], torch.rand_like(x[:, 3:])], 1)
    model.weights = {"clean": 0.0, "noised": 1.0, "generate": 1.0}
    one, two = (
        float(model.loss((given, offsets, label), generator=generator()).detach())
        for given in (x, wrong)
    )
    assert one == two
    model.draw(3, seed=1, provenance=jetnb.jets.provenance(few()))


def test_a_checkpoint_draws_the_same_jets(tmp_path):
    pretraining.pretrain(
        "classify_and_generate",
        few(),
        tmp_path / "ck",
        seed=1,
        settings=SMALL,
        steps=5,
        batch_size=32,
        progress=False,
    )
    encoder, card = pretraining.load(tmp_path / "ck")
    assert encoder.dim == 16 and card["settings"]["evaluations"] == 8
    model, _ = pretraining.restore(tmp_path / "ck")
    provenance = jetnb.jets.provenance(few())
    one, two = (model.draw(4, seed=3, provenance=provenance) for _ in range(2))
    assert ak.to_list(one.constituents.pt) == ak.to_list(two.constituents.pt)
    np.testing.assert_allclose(float(model.share.sum()), 1, rtol=1e-5)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="give clean, noised, generate"):
        ready(weights={"clean": 1.0})
    with pytest.raises(ValueError, match="not all 0"):
        ready(weights=only())
    with pytest.raises(ValueError, match="drop is 1"):
        ready(drop=1)
    with pytest.raises(RuntimeError, match="no batch"):
        ready()[0].monitors()
