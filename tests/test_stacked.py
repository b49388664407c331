"""Heads on frozen embeddings: each comes out as if it were trained alone, at the minimum, or as a
plain torch loop has it.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from jetnb.finetuning import stacked

pytestmark = pytest.mark.usefixtures("one_thread")


def make(n_heads=3, n=80, m=50, dim=6, n_classes=2, seed=0, dtype=torch.float64):
    """Correlated embeddings, of which the classes are a noisy function."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=g) * torch.logspace(0, -1, dim)
    z = torch.randn(n_heads, n + m, dim, generator=g) @ mix + 1.0
    y = (
        z @ torch.randn(dim, n_classes, generator=g)
        + torch.randn(n_heads, n + m, n_classes, generator=g)
    ).argmax(2)
    z = z.to(dtype)
    return z[:, :n], y[:, :n], (z[:, n:], y[:, n:])


def alone(values, s):
    z, y, (zv, yv) = values
    part = slice(s, s + 1)
    return z[part], y[part], (zv[part], yv[part])


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("penalty", [0.01, 1.0, 300.0])
def test_linear_heads_are_where_the_gradient_is_zero(n_classes, penalty):
    z, y, v = make(n_classes=n_classes)
    heads = stacked.fit_linear(z, y, v, n_classes=n_classes, penalties=[penalty])
    for s, head in enumerate(heads):
        ((weight, bias),) = head.layers
        if n_classes == 2:  # two classes share one logit, whose weights are penalised
            weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
        weight, bias = weight.requires_grad_(), bias.requires_grad_()
        logits = F.linear(z[s], weight, bias)
        logits = F.pad(logits, (1, 0)) if n_classes == 2 else logits
        fit = F.cross_entropy(logits, y[s], reduction="sum") + penalty / 2 * (weight**2).sum()
        for gradient in torch.autograd.grad(fit, (weight, bias)):
            assert gradient.abs().max() < 1e-6 * z.shape[1]
        np.testing.assert_allclose(head.loss, F.cross_entropy(head(v[0][s]), v[1][s]).item())


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_penalty_with_the_lowest_validation_loss_is_picked(n_classes):
    values = make(n_classes=n_classes)
    together = stacked.fit_linear(*values, n_classes=n_classes)
    for s, head in enumerate(together):
        single = [
            stacked.fit_linear(*alone(values, s), n_classes=n_classes, penalties=[p])[0]
            for p in stacked.PENALTIES
        ]
        best = min(single, key=lambda one: one.loss)
        assert head.picked == best.picked and head.history == best.history
        for a, b in zip(head.layers[0], best.layers[0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-12)
    z, y, (zv, yv) = values
    equal = stacked.fit_linear(z * 0, y, (zv * 0, yv), n_classes=n_classes)
    assert {head.picked for head in equal} == {stacked.PENALTIES[0]}  # the first of equals


def test_linear_solves_separable_and_collinear_jets():
    z = torch.randn(2, 10, 40, generator=torch.Generator().manual_seed(1))
    z[:, :, 20:] = z[:, :, :20]  # every feature twice
    z[:, :, 0] = 0  # and one that is constant
    y = (torch.arange(10) % 2).repeat(2, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        heads = stacked.fit_linear(z, y, (z, y), n_classes=2)
    for s, head in enumerate(heads):
        assert (head(z[s]).argmax(1) == y[s]).all() and head.picked == 0.01
    model = LogisticRegression(C=100, tol=1e-9, max_iter=10_000).fit(z[0].double(), y[0])
    np.testing.assert_allclose(
        heads[0](z[0]).softmax(1), model.predict_proba(z[0].double()), atol=1e-4
    )


def reference(values, s, seed, lr, *, shape, batch_size, steps, every, patience):
    """The same head trained alone in the usual way."""
    z, y, (zv, yv) = alone(values, s)
    z, y, zv, yv = z[0], y[0], zv[0], yv[0]
    generator = torch.Generator().manual_seed(seed)
    draw = [
        (2 * torch.rand(n, generator=generator) - 1) / math.sqrt(fan)
        for n, fan in (
            (shape[0] * shape[1], shape[0]),
            (shape[1], shape[0]),
            (shape[1] * shape[2], shape[1]),
            (shape[2], shape[1]),
        )
    ]
    net = nn.Sequential(nn.Linear(*shape[:2]), nn.ReLU(), nn.Linear(*shape[1:])).to(z.dtype)
    with torch.no_grad():
        for i, layer in enumerate((net[0], net[2])):
            layer.weight.copy_(draw[2 * i].view(shape[i], shape[i + 1]).T)
            layer.bias.copy_(draw[2 * i + 1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    order, best, history = torch.empty(0, dtype=torch.int64), (math.inf, 0), []
    for step in range(1, steps + 1):
        rows = torch.arange(len(z))
        if batch_size < len(z):
            if len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(z), generator=generator)])
            rows, order = order[:batch_size], order[batch_size:]
        optimizer.zero_grad()
        F.cross_entropy(net(z[rows]), y[rows]).backward()
        optimizer.step()
        if step % every == 0 or step == steps:
            with torch.no_grad():
                logits = net(zv)
                loss = float(F.cross_entropy(logits, yv))
                history.append(float((logits.argmax(1) == yv).double().mean()))
                if loss < best[0]:
                    best = loss, step, net(zv)
            if step - best[1] >= patience * every:
                break
    return *best, history


@pytest.mark.parametrize(
    ("batch_size", "dtype", "atol"),
    [(1000, torch.float64, 1e-9), (32, torch.float64, 1e-9), (32, torch.float32, 2e-3)],
)
def test_mlp_heads_are_those_of_a_plain_loop(batch_size, dtype, atol):
    values, lrs, seeds = make(n_classes=3, dtype=dtype), (1e-2, 5e-2), (5, 6, 9)
    options = dict(batch_size=batch_size, steps=90, every=10, patience=2)
    heads = stacked.fit_mlp(*values, n_classes=3, seeds=seeds, hidden=8, lrs=lrs, **options)
    for s, (head, seed) in enumerate(zip(heads, seeds, strict=True)):
        loss, step, expected, history = min(
            (reference(values, s, seed, lr, shape=(6, 8, 3), **options) for lr in lrs),
            key=lambda found: found[0],
        )
        np.testing.assert_allclose(head(values[2][0][s]), expected, atol=atol)
        np.testing.assert_allclose(head.loss, loss, atol=atol)
        if dtype == torch.float64:
            assert head.step == step and head.history == history
            assert head.ended == ("finished" if len(history) == 9 else "patience")
    assert "patience" in {head.ended for head in heads}  # else the early end has not been tried


def test_mlp_repeats_and_depends_on_its_seed():
    values = make()
    first, again, other = (
        [head.layers[0][0] for head in stacked.fit_mlp(*values, n_classes=2, seeds=seeds, steps=40)]
        for seeds in ((1, 2, 3), (1, 2, 3), (1, 2, 4))
    )
    for s in range(3):
        assert torch.equal(first[s], again[s])
    for s in range(2):
        np.testing.assert_allclose(first[s], other[s], atol=1e-12)
    assert not torch.allclose(first[2], other[2])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_unscale_gives_the_layers_for_embeddings_that_are_not_scaled(kind):
    z, y, (zv, yv) = make()
    mean, width = z.mean((0, 1)), z.std((0, 1))
    values = (z - mean) / width, y, ((zv - mean) / width, yv)
    heads = (
        stacked.fit_linear(*values, n_classes=2)
        if kind == "linear"
        else stacked.fit_mlp(*values, n_classes=2, seeds=range(3), steps=20)
    )
    weight, bias, *rest = heads[1].unscale(mean.numpy(), width.numpy())
    out = F.linear(zv[1], weight, bias)
    if rest:
        out = F.linear(out.relu(), *rest)
    np.testing.assert_allclose(out, heads[1](values[2][0][1]), atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z, y, v: (z[0], y, v), "z is .* of shape"),
        (lambda z, y, v: (z, y[:, :5], v), "labels"),
        (lambda z, y, v: (z, y + 1, v), "labels from 1 to 2"),
        (lambda z, y, v: (z / 0, y, v), "z is not finite"),
        (lambda z, y, v: (z, y, (v[0][:, :0], v[1][:, :0])), "validation is"),
        (lambda z, y, v: (z, y, (v[0][..., :3], v[1])), "validation is"),
    ],
)
def test_bad_input_is_refused(change, message):
    values = change(*make())
    with pytest.raises(ValueError, match=message):
        stacked.fit_linear(*values, n_classes=2)
    with pytest.raises(ValueError, match=message):
        stacked.fit_mlp(*values, n_classes=2, seeds=range(3))


def test_bad_settings_are_refused():
    values = make()
    with pytest.raises(ValueError, match="must be positive"):
        stacked.fit_linear(*values, n_classes=2, penalties=[0.0, 1.0])
    z, y, v = values
    with pytest.raises(ValueError, match=r"labels: only \[0\] of 2 classes"):
        stacked.fit_linear(z, y * 0, v, n_classes=2)
    with pytest.raises(ValueError, match="seeds: 2 for 3"):
        stacked.fit_mlp(*values, n_classes=2, seeds=[1, 2])
    with pytest.raises(ValueError, match="finite at none"):
        stacked.fit_mlp(*values, n_classes=2, seeds=range(3), lrs=[1e300], steps=5)
