"""Contrastive loss, its two measures, the collapse monitor and JetCLR, with a small stand-in
encoder.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from jetnb import augment
from jetnb.strategies.contrastive import JetCLR, alignment, embedding_rank, nt_xent, uniformity


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def pair(n=7, dim=5, dtype=torch.float64):
    return torch.randn(2, n, dim, generator=generator(), dtype=dtype)


def slow_nt_xent(z1, z2, temperature):
    z = [row / row.norm() for row in [*z1, *z2]]
    n, total = len(z1), 0.0
    for i, a in enumerate(z):
        others = [math.exp(float(a @ b) / temperature) for j, b in enumerate(z) if j != i]
        total -= math.log(math.exp(float(a @ z[(i + n) % (2 * n)]) / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("chunk", [None, 1, 4, 14, 100])
def test_loss_is_that_of_the_double_loop(temperature, chunk):
    z1, z2 = pair()
    loss = nt_xent(z1, z2, temperature=temperature, chunk=chunk)
    assert float(loss) == pytest.approx(slow_nt_xent(z1, z2, temperature), rel=1e-12)
    assert float(nt_xent(3 * z1, 0.1 * z2, temperature=temperature)) == pytest.approx(
        float(loss), rel=1e-12
    )


@pytest.mark.parametrize("chunk", [1, 3, 14, 100])
def test_chunked_gradient(chunk):
    def gradients(chunk):
        z1, z2 = (z.clone().requires_grad_() for z in pair())
        (2 * nt_xent(z1, z2, chunk=chunk)).backward()
        return z1.grad, z2.grad

    for dense, chunked in zip(gradients(None), gradients(chunk), strict=True):
        torch.testing.assert_close(chunked, dense, rtol=1e-10, atol=1e-12)
    z1, z2 = (z.clone().requires_grad_() for z in pair(3, 4))
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent(a, b, temperature=0.5, chunk=chunk), (z1, z2)
    )


def test_loss_at_its_limits():
    same = torch.ones(6, 3)
    assert float(nt_xent(same, same)) == pytest.approx(
        math.log(11), rel=1e-5
    )  # collapsed: a blind guess
    apart = torch.eye(6)
    assert float(nt_xent(apart, apart, temperature=0.05)) < 1e-6
    assert float(nt_xent(apart[:1], apart[:1])) == pytest.approx(
        0, abs=1e-6
    )  # nothing to confuse it with
    assert nt_xent(torch.zeros(4, 3), torch.zeros(4, 3)).isfinite()


@pytest.mark.parametrize("chunk", [None, 5])
def test_full_precision_under_autocast(chunk):
    z1, z2 = pair(16, 32, torch.float32)
    exact = float(nt_xent(z1, z2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z1, z2, chunk=chunk)
        assert loss.dtype == torch.float32 and float(loss) == pytest.approx(exact, rel=1e-5)
        assert alignment(z1, z2).dtype == uniformity(z1).dtype == torch.float32
        assert float(uniformity(z1)) == pytest.approx(float(uniformity(z1.double())), rel=1e-5)
    assert nt_xent(z1.bfloat16(), z2.bfloat16(), chunk=chunk).dtype == torch.float32


def test_chunked_memory_is_linear():
    """The largest tensor that forward and backward make: (2 B)^2 if dense, at most chunk x 2 B if
    chunked.
    """

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    sizes = {}
    for chunk in (None, 16):
        z1, z2 = (z.clone().requires_grad_() for z in pair(200, 8))
        with Largest() as largest:
            nt_xent(z1, z2, chunk=chunk).backward()
        sizes[chunk] = largest.size
    assert sizes == {None: 400 * 400, 16: 16 * 400}


def test_alignment_and_uniformity():
    z1, z2 = pair()
    unit1, unit2 = (z / z.norm(dim=1, keepdim=True) for z in (z1, z2))
    assert float(alignment(z1, z2)) == pytest.approx(
        float(((unit1 - unit2) ** 2).sum(1).mean()), rel=1e-12
    )
    assert float(alignment(z1, z1)) == 0 and float(alignment(z1, -z1)) == pytest.approx(4)
    assert float(alignment(z1, -z1, alpha=1)) == pytest.approx(2)
    expected = torch.pdist(unit1).pow(2).mul(-2).exp().mean().log()
    assert float(uniformity(z1)) == pytest.approx(float(expected), rel=1e-12)
    assert float(uniformity(torch.ones(5, 3))) == pytest.approx(0, abs=1e-6)
    assert float(uniformity(torch.eye(5), t=3)) == pytest.approx(-6)


def test_rank():
    z = torch.randn(2000, 6, generator=generator())
    assert 5.9 < float(embedding_rank(z)) <= 6
    assert float(embedding_rank(z[:, :1] @ torch.ones(1, 6) + 5)) == pytest.approx(
        1, abs=1e-4
    )  # a line, off centre
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        assert float(embedding_rank(torch.full((9, 4), 0.3, dtype=dtype))) == 0
    z[:, 4:] = 0
    assert 3.9 < float(embedding_rank(z)) <= 4


def test_bad_input_says_what_to_do():
    z = torch.ones(4, 3)
    for function in (nt_xent, alignment):
        for other in (z[:3], z[:, :2], z[0]):
            with pytest.raises(ValueError, match=r"shapes .* \(B, D\)"):
                function(z, other)
        with pytest.raises(ValueError, match="one jet or more"):
            function(z[:0], z[:0])
    for wrong in ({"temperature": 0}, {"chunk": 0}):
        with pytest.raises(ValueError, match="temperature and chunk must be positive"):
            nt_xent(z, z, **wrong)
    with pytest.raises(ValueError, match="two jets or more"):
        uniformity(z[:1])


class Tiny(nn.Module):
    """Stand-in encoder: a layer for each particle, the mean of them for each jet; counts its calls."""

    def __init__(self, dim):
        super().__init__()
        self.layer, self.calls, self.dim = (
            nn.Sequential(nn.Linear(4, dim), nn.Tanh(), nn.Linear(dim, dim)),
            0,
            dim,
        )

    def forward(self, particles, offsets):
        self.calls += 1
        constituents = self.layer(features(particles))
        return constituents, torch.segment_reduce(constituents, "mean", offsets=offsets, initial=0)


def features(particles):
    pt, deta, dphi = particles.unbind(1)
    return torch.stack([pt.log(), pt.log() * deta.hypot(dphi), deta, dphi], 1)


def batch(n_jets=64, seed=1):
    """Jets of one to three directions: what is left of them when turned and shifted is how far
    apart they are.
    """
    g = generator(seed)
    n = torch.randint(3, 20, (n_jets,), generator=g)
    offsets = torch.cat([n.new_zeros(1), n.cumsum(0)])
    width = torch.rand(n_jets, generator=g).repeat_interleave(n)[:, None]
    particles = torch.cat(
        [
            torch.rand(len(width), 1, generator=g) * 50 + 1,
            width * torch.randn(len(width), 2, generator=g),
        ],
        1,
    )
    return particles, offsets


def model(**options):
    torch.manual_seed(1)
    return JetCLR(Tiny(16), hidden=32, output=8, **options)


def test_loss_of_a_batch_is_reproducible_and_of_both_views():
    strategy = model()
    losses = [strategy.loss(batch(), generator=generator(seed)).item() for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2] and strategy.encoder.calls == 3
    torch.manual_seed(5)
    one = strategy.loss(batch()).item()
    torch.manual_seed(5)
    assert one == strategy.loss(batch()).item()
    (p1, o1), (p2, o2) = augment.views(*batch(), generator=generator())
    z1, z2 = (strategy.head(strategy.encoder(p, o)[1]) for p, o in ((p1, o1), (p2, o2)))
    assert losses[0] == pytest.approx(nt_xent(z1, z2).item(), rel=1e-5)
    monitors = strategy.monitors()
    assert set(monitors) == {"alignment", "uniformity", "rank", "variance"}
    assert all(isinstance(value, float) and math.isfinite(value) for value in monitors.values())


def test_training_lowers_the_loss_and_aligns_new_jets():
    strategy, g = model(temperature=0.5), generator()
    optimiser = torch.optim.Adam(strategy.parameters(), 3e-3)

    def judge():
        with torch.no_grad():
            loss = float(strategy.loss(batch(256, 99), generator=generator(7)))
        return loss, strategy.monitors()

    before, monitors_before = judge()
    for seed in range(120):
        optimiser.zero_grad()
        strategy.loss(batch(128, seed), generator=g).backward()
        optimiser.step()
    after, monitors_after = judge()
    assert after < before - 0.3
    assert monitors_after["uniformity"] < monitors_before["uniformity"] - 0.3
    assert monitors_after["rank"] > 1.5 and monitors_after["variance"] > 1e-3
    assert all(p.grad is not None and p.grad.isfinite().all() for p in strategy.parameters())


def test_views_can_be_replaced():
    def still(particles, offsets, *, generator):
        return (particles, offsets), (particles, offsets)

    strategy = model(views=still)
    strategy.loss(batch(), generator=generator())
    assert strategy.monitors()["alignment"] == pytest.approx(0, abs=1e-10)


def test_monitors_see_collapse_and_small_batches():
    with pytest.raises(RuntimeError, match=r"call loss\(batch\) first"):
        model().monitors()
    strategy = model()
    with torch.no_grad():
        strategy.encoder.layer[2].weight.zero_()
    strategy.loss(batch(), generator=generator())
    monitors = strategy.monitors()
    assert monitors["rank"] == 0 and monitors["variance"] < 1e-12
    assert monitors["uniformity"] == pytest.approx(0, abs=1e-5)
    alone = batch(1)
    with pytest.raises(ValueError, match="batch has one jet, and a contrastive loss needs others"):
        strategy.loss(alone, generator=generator())
    with_empty = alone[0], torch.tensor([0, 0, len(alone[0]), len(alone[0])])
    loss = model().loss(with_empty, generator=generator())
    loss.backward()
    assert loss.isfinite()
