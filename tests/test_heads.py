"""Heads: the losses are what they say, and a frozen encoder stays as it was."""

import math

import pytest
import torch
from torch import nn

from jetnb.models import heads
from jetnb.models.encoder import DeepSets, Transformer
from jetnb.models.heads import Classifier, Regressor

OFFSETS = torch.tensor([0, 5, 5, 9, 12])


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def x():
    return torch.randn(12, 4, generator=torch.Generator().manual_seed(1))


def encoder():
    torch.manual_seed(0)
    return Transformer(4, dim=32, n_layers=1, n_heads=4, dropout=0.5)


def test_shapes_of_heads():
    z = torch.randn(3, 32)
    assert heads.linear(32, 5)(z).shape == (3, 5)
    assert [
        layer.out_features
        for layer in heads.mlp(32, 2, hidden=(16, 8), dropout=0.1)
        if hasattr(layer, "weight")
    ] == [16, 8, 2]
    assert (
        sum(
            isinstance(layer, nn.Dropout) for layer in heads.mlp(32, 2, hidden=(16, 8), dropout=0.1)
        )
        == 2
    )
    assert (
        heads.projection(32, 64, 16)(z).shape == (3, 16) and len(heads.mlp(32, 2, hidden=())) == 1
    )


def test_classifier_loss_is_cross_entropy(x):
    model, label = Classifier(encoder(), heads.linear(32, 3)).eval(), torch.tensor([0, 2, 1, 2])
    logits = model(x, OFFSETS)
    expected = -torch.log_softmax(logits.double(), 1)[range(4), label].mean()
    torch.testing.assert_close(model.loss((x, OFFSETS, label)).double(), expected)
    torch.testing.assert_close(model.loss((x, OFFSETS, label.to(torch.int8))).double(), expected)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    assert math.isclose(
        float(model.loss((x, OFFSETS, label), generator=None).detach()), math.log(3), rel_tol=1e-6
    )


def test_regressor_losses(x):
    for delta, expected in (
        (None, lambda d: d.square().mean()),
        (0.5, lambda d: torch.where(d.abs() < 0.5, d.square() / 2, 0.5 * d.abs() - 0.125).mean()),
    ):
        model, target = (
            Regressor(encoder(), heads.linear(32, 2), delta=delta).eval(),
            torch.randn(4, 2),
        )
        torch.testing.assert_close(
            model.loss((x, OFFSETS, target)), expected(model(x, OFFSETS) - target)
        )
        one = Regressor(encoder(), heads.linear(32, 1), delta=delta).eval()
        torch.testing.assert_close(
            one.loss((x, OFFSETS, target[:, 0])), expected(one(x, OFFSETS)[:, 0] - target[:, 0])
        )


@pytest.mark.parametrize("kind", [Classifier, Regressor])
def test_loss_is_in_full_precision_under_autocast(kind, x):
    model = kind(encoder(), heads.linear(32, 3)).eval()
    target = torch.tensor([0, 2, 1, 2]) if kind is Classifier else torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x, OFFSETS).dtype == torch.bfloat16
        loss = model.loss((x, OFFSETS, target))
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, model.loss((x, OFFSETS, target)), rtol=0.05, atol=0.02)
    assert model.double().loss((x.double(), OFFSETS, target)).dtype == torch.float64


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_does_not_move(frozen, x):
    model, label = (
        Classifier(encoder(), heads.linear(32, 3), frozen=frozen),
        torch.tensor([0, 2, 1, 2]),
    )
    model.eval().train()
    assert model.training and model.head.training and model.encoder.training is not frozen
    assert torch.equal(model(x, OFFSETS), model(x, OFFSETS)) is frozen  # no dropout
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model.loss((x, OFFSETS, label)).backward()
        optimiser.step()
    moved = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert {"head.weight", "head.bias"} <= moved
    assert any(name.startswith("encoder") for name in moved) is not frozen
    assert (model.encoder.embed.weight.grad is None) is frozen
    with torch.no_grad():
        assert not model(x, OFFSETS).requires_grad


def test_it_learns_the_number_of_constituents():
    rng = torch.Generator().manual_seed(2)
    lengths = torch.randint(3, 20, (128,), generator=rng)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    x, target = torch.ones(int(offsets[-1]), 4), lengths / 10 - 1
    torch.manual_seed(3)
    model = Regressor(DeepSets(4, dim=32), heads.mlp(32, 1, hidden=(16,)), delta=None)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(100):
        optimiser.zero_grad()
        loss = model.loss((x, offsets, target))
        loss.backward()
        optimiser.step()
    assert loss < 0.02 < target.var()


def test_what_does_not_fit_is_refused(x):
    model = Classifier(encoder(), heads.linear(32, 3))
    for label, message in (
        (torch.tensor([0, 1, 2, 3]), "label runs from 0 to 3, but the head has 3 classes"),
        (torch.tensor([0, -1, 2, 1]), "label runs from -1 to 2.*leave unlabelled jets"),
        (
            torch.tensor([0, 1]),
            r"label is torch.int64 of shape \(2,\), but must be integers \(4,\)",
        ),
        (torch.tensor([0.0, 1, 2, 1]), "label is torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            model.loss((x, OFFSETS, label))
    with pytest.raises(ValueError, match="one or more jets"):
        model.loss((x[:0], OFFSETS[:1], torch.zeros(0, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"target has shape \(4, 1\), but the head gives \(4, 2\)"):
        Regressor(encoder(), heads.linear(32, 2)).loss((x, OFFSETS, torch.zeros(4)))
    with pytest.raises(ValueError, match="delta must be positive, got 0"):
        Regressor(encoder(), heads.linear(32, 2), delta=0)
    with pytest.raises(ValueError, match="head takes 16 numbers, but the encoder gives dim = 32"):
        Classifier(encoder(), heads.mlp(16, 2))
