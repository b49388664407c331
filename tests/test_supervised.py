"""Supervised pretraining: which label, how rare classes count, and public models as a start."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jetnb
import jetnb.jets
from jetnb import finetuning, pretraining, training
from jetnb.data import store
from jetnb.inputs import batches
from jetnb.jets import fine
from jetnb.models.particle_transformer import FULL, ParticleTransformer
from jetnb.strategies import supervised
from jetnb.strategies.supervised import Labels, Supervised

SMALL = {"n_features": 5, "dim": 16, "n_layers": 1, "n_heads": 2}
PUBLIC = dict(embed_dims=(16, 32, 16), pair_dims=(8, 8), n_layers=2, n_heads=2)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def sample():
    return jetnb.load("jetclass")[:600]


def make(**settings):
    return pretraining._make(
        Supervised, {**Supervised.SETTINGS, "encoder": SMALL, **settings}, seed=1
    )


def ready(sample, **settings):
    model = make(**settings)
    data = pretraining.data_of(model, sample)
    return model.fit(data, seed=1), data


def test_without_more_words_it_is_cross_entropy_with_the_label(sample):
    model, data = ready(sample)
    batch = data[np.arange(64)]
    expected = F.cross_entropy(model(*batch[:2]), batch[2])
    torch.testing.assert_close(model.loss(batch), expected)
    assert torch.equal(model.labels.weights, torch.ones(10))


def test_any_field_can_be_the_label(sample):
    model, data = ready(sample, label="n_b_hadrons", n_classes=8)
    np.testing.assert_array_equal(data.targets[0], np.asarray(sample.n_b_hadrons))
    assert model.loss(data[np.arange(64)]) > 0
    with pytest.raises(ValueError, match="have no field 'n_d_hadrons', which Supervised learns"):
        ready(sample, label="n_d_hadrons")
    model, data = ready(sample, label="n_c_hadrons", n_classes=2)
    with pytest.raises(ValueError, match="n_c_hadrons runs from 0 to .*set n_classes"):
        model.loss(data[np.arange(600)])


def test_fine_labels_in_memory_and_of_stores(sample, tmp_path):
    expected = fine.refine(sample).fine_label.to_numpy()
    model, data = ready(sample, label="fine_grained")
    found = model.labels([torch.as_tensor(one) for one in data.targets])
    np.testing.assert_array_equal(found, expected)
    assert model.head.out_features == len(fine.CLASSES)
    store.write(tmp_path / "store", [sample])
    stored = pretraining.data_of(model, batches.Rows(store.open(tmp_path / "store")))
    rows = np.arange(50)
    torch.testing.assert_close(
        model.loss(stored[rows]), model.loss(data[rows]), rtol=1e-4, atol=1e-4
    )


def test_rare_classes_can_count_as_much_as_others(sample):
    for balance in (0.0, 0.5, 1.0):
        model, data = ready(sample, label="fine_grained", balance=balance)
        label = fine.refine(sample).fine_label.to_numpy()
        weights = model.labels.weights.numpy()
        assert weights[label].mean() == pytest.approx(1, rel=1e-5)
        counts = np.bincount(label, minlength=22)
        there = counts > 0
        spread = (weights * counts ** (balance))[there]
        np.testing.assert_allclose(spread, spread[0], rtol=1e-5)
    each = np.bincount(label, weights[label])[there]  # balance 1: all classes the same
    np.testing.assert_allclose(each, each[0], rtol=1e-5)
    batch = data[np.arange(100)]
    logits = model(*batch[:2])
    by_hand = sum(
        weights[k] * -float(row.log_softmax(0)[k])
        for row, k in zip(logits.detach(), label[:100], strict=True)
    )
    assert float(model.loss(batch).detach()) == pytest.approx(by_hand / 100, rel=1e-5)


def test_it_learns_and_its_monitors_show_a_collapse(sample):
    model, data = ready(sample)
    training.fit(model, data, steps=150, batch_size=64, lr=3e-3, seed=1, progress=False)
    found = model.monitors()
    assert found["accuracy"] > 0.25 and found["rank"] > 2  # a guess is right in a tenth
    with torch.no_grad():
        for weights in model.encoder.encoder.norm.parameters():
            weights.zero_()
    model.loss(data[np.arange(64)])
    assert model.monitors()["rank"] < 1.01 and model.monitors()["variance"] < 1e-9


def test_types_and_displacement_can_be_read_too(sample, tmp_path):
    extras = ["charge", "tanh_d0"]
    settings = {"encoder": SMALL, "extras": extras}
    pretraining.pretrain(
        "supervised",
        sample,
        tmp_path / "ck",
        seed=1,
        settings=settings,
        steps=2,
        batch_size=32,
        progress=False,
    )
    encoder, card = pretraining.load(tmp_path / "ck")
    assert encoder.extras == (*extras, "has_track") and card["settings"]["extras"] == extras
    data = pretraining.particles(sample, hardest=40, extras=encoder.extras)
    x, offsets, _ = data[np.arange(30)]
    other = x.clone()
    other[:, 3] = 0  # all neutral
    assert not torch.allclose(encoder(x, offsets)[1], encoder(other, offsets)[1])


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="n_classes is None"):
        Labels("label", None)
    with pytest.raises(ValueError, match=r"balance is 1\.5"):
        Labels("label", 10, 1.5)
    with pytest.raises(ValueError, match=r"1 targets, but 'fine_grained' needs label, parton"):
        Labels("fine_grained", None)([torch.zeros(3, dtype=torch.int64)])
    with pytest.raises(RuntimeError, match="no batch"):
        make().monitors()


def public_file(path, n_classes=10, hidden=()):
    """A file in the layout of the public models, with random weights."""
    torch.manual_seed(2)
    network, dim = ParticleTransformer(len(FULL), **PUBLIC), 16
    state = {
        f"mod.{name.replace('in_proj.', 'in_proj_')}": value
        for name, value in network.state_dict().items()
    }
    widths = [dim, *hidden, n_classes]
    for i, (n_in, n_out) in enumerate(zip(widths, widths[1:], strict=False)):
        name = f"mod.fc.{i}.0" if i < len(hidden) else f"mod.fc.{i}"
        state |= {f"{name}.weight": torch.randn(n_out, n_in), f"{name}.bias": torch.randn(n_out)}
    torch.save(state, path)
    return network.eval()


@pytest.mark.parametrize(("n_classes", "hidden", "jet_pt"), [(10, (), None), (188, (32,), 500.0)])
def test_a_public_file_is_a_start_as_a_checkpoint_of_ours(
    sample, n_classes, hidden, jet_pt, tmp_path
):
    saved = public_file(tmp_path / "net.pt", n_classes, hidden)
    encoder, card = supervised.load_public(tmp_path / "net.pt")
    assert (card["n_classes"], card["jet_pt"], card["features"]) == (n_classes, jet_pt, list(FULL))
    parts = jetnb.jets.split(sample[np.asarray(sample.label) < 2], (0.5, 0.25, 0.25), seed=1)
    data = [supervised.public_data(part, card) for part in parts]
    batch = data[0][np.arange(20)]
    with torch.no_grad():
        torch.testing.assert_close(encoder(*batch[:2])[1], saved(*batch[:2])[1])
    scratch = supervised.build_public(card, seed=1)
    assert {name: value.shape for name, value in scratch.state_dict().items()} == {
        name: value.shape for name, value in encoder.state_dict().items()
    }
    table = finetuning.measure(
        lambda seed: supervised.build_public(card, seed=seed),
        data,
        pretrained=encoder,
        budgets=[20],
        seeds=[1],
        validation_least=10,
        modes=["random", "frozen", "finetuned"],
        steps=3,
        epochs=1,
        lrs={"finetuned": (1e-4,)},
        progress=False,
    )
    assert len(table) == 3 and np.isfinite(table.auc.to_numpy()).all()


def test_a_public_layout_with_other_inputs_is_refused():
    network = ParticleTransformer(9, **PUBLIC)
    with pytest.raises(ValueError, match="take 9 features, but the public models take 17, 13, 7"):
        supervised.load_public(network.state_dict())
