"""Supervised contrast: against a plain loop, and against the loss without labels."""

import math

import numpy as np
import pytest
import torch

import jetnb
from jetnb import pretraining, training
from jetnb.strategies.contrastive import JetCLR, nt_xent
from jetnb.strategies.supervised_contrast import SupervisedContrast, sup_con

SMALL = {"n_features": 5, "dim": 16, "n_layers": 1, "n_heads": 2}

pytestmark = pytest.mark.usefixtures("one_thread")


def vectors(n, seed=1):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(z, label, temperature):
    """In two loops, equation 2 of 2004.11362."""
    z, losses = [row / row.norm() for row in z], []
    for i in range(len(z)):
        scores = [float(z[i] @ other) / temperature for other in z]
        whole = math.log(sum(math.exp(score) for j, score in enumerate(scores) if j != i))
        partners = [j for j in range(len(z)) if j != i and label[j] == label[i]]
        if partners:
            losses.append(np.mean([whole - scores[j] for j in partners]))
    return np.mean(losses)


def test_the_loss_is_that_of_the_loops():
    z, label = vectors(12), torch.tensor([0, 1, 2, 0, 1, 1, 0, 5, 2, 1, 7, 0])  # 5 and 7 are alone
    assert float(sup_con(z, label, temperature=0.5)) == pytest.approx(
        slow(z, label, 0.5), rel=1e-12
    )


def test_with_each_jet_its_own_class_it_is_the_loss_without_labels():
    z1, z2 = vectors(8), vectors(8, seed=2)
    found = sup_con(torch.cat([z1, z2]), torch.arange(8).repeat(2), temperature=0.2)
    torch.testing.assert_close(found, nt_xent(z1, z2, temperature=0.2))


def test_gradients_pull_a_class_together():
    z, label = vectors(6).requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 1])

    def within():
        unit = z.detach() / z.detach().norm(dim=1, keepdim=True)
        return float((unit @ unit.T)[label[:, None] == label].mean())

    before = within()
    for _ in range(50):
        loss = sup_con(z, label, temperature=0.5)
        (gradient,) = torch.autograd.grad(loss, z)
        z = (z - 0.3 * gradient).detach().requires_grad_()
    assert within() > before + 0.3


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="one label for each row"):
        sup_con(vectors(4), torch.arange(3))
    with pytest.raises(ValueError, match="temperature is 0"):
        sup_con(vectors(4), torch.zeros(4), temperature=0)
    with pytest.raises(ValueError, match="none of 4 jets has another of its class"):
        sup_con(vectors(4), torch.arange(4))


@pytest.fixture(scope="module")
def ready():
    sample = jetnb.load("jetclass")[:400]
    settings = {**SupervisedContrast.SETTINGS, "encoder": SMALL, "hardest": 20}
    model = pretraining._make(SupervisedContrast, settings, seed=1)
    data = pretraining.data_of(model, sample)
    return model.fit(data, seed=1), data


def test_without_labels_it_is_jetclr(ready):
    model, data = ready
    x, offsets, label = data[np.arange(32)]
    other = JetCLR(model.encoder, views=model.views, chunk=None)
    other.head = model.head
    losses = [
        one.loss((x, offsets, -torch.ones_like(label)), generator=torch.Generator().manual_seed(3))
        for one in (model, other)
    ]
    torch.testing.assert_close(*losses)
    with pytest.raises(ValueError, match="batch has one jet"):
        model.loss(data[np.arange(1)])


def test_it_learns_classes_and_collapse_shows(ready):
    model, data = ready

    def apart():
        x, offsets, label = data[np.arange(400)]
        with torch.no_grad():
            z = torch.nn.functional.normalize(
                model.encoder(x, offsets)[1] - model.encoder(x, offsets)[1].mean(0), dim=1
            )
        same = label[:, None] == label
        return float((z @ z.T)[same].mean() - (z @ z.T)[~same].mean())

    before = apart()
    training.fit(model, data, steps=120, batch_size=64, lr=3e-3, seed=1, progress=False)
    assert apart() > before + 0.05
    healthy = model.monitors()
    with torch.no_grad():
        for weights in model.encoder.encoder.norm.parameters():
            weights.zero_()
    model.loss(data[np.arange(32)])
    assert healthy["rank"] > 2 and healthy["uniformity"] < -0.1
    assert model.monitors()["rank"] < 1.01 and model.monitors()["uniformity"] > -1e-6
