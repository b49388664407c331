"""The vector quantiser: exact search in bounded memory, gradients that pass, codes that follow and
are all used.
"""

import multiprocessing

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from jetnb.models.quantise import VectorQuantiser, nearest, perplexity

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape, seed=1, dtype=torch.float32):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def quantiser(dim=3, n_codes=16, **options):
    torch.manual_seed(2)
    return VectorQuantiser(dim, n_codes, **options)


def brute(z, codes):
    """The same in float64 with all distances at once, and how much further the second nearest code
    is.
    """
    distance = torch.cdist(z.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    two = distance.topk(min(2, len(codes)), dim=1, largest=False)
    return two.indices[:, 0], two.values[:, -1] - two.values[:, 0]


@pytest.mark.parametrize(
    "dim, n_codes", [(4, 8192), (4, 5000), (4, 512), (16, 2000), (8, 1), (1, 65), (3, 64)]
)
def test_search_is_exact(dim, n_codes):
    z, codes = 3 * normal(2000, dim) + 1, 3 * normal(n_codes, dim, seed=2) + 1
    expected, margin = brute(z, codes)
    tokens = nearest(z, codes)
    clear = (margin > 1e-4) | (n_codes == 1)
    assert clear.double().mean() > 0.98
    assert tokens.dtype == torch.int64 and torch.equal(tokens[clear], expected[clear])
    chosen = (z - codes[tokens]).double().norm(dim=1)
    torch.testing.assert_close(
        chosen, (z - codes[expected]).double().norm(dim=1), rtol=1e-4, atol=1e-4
    )
    assert torch.equal(nearest(z.double(), codes.double()), expected)
    assert torch.equal(nearest(z, codes, memory=1)[clear], expected[clear])  # one at a time
    assert nearest(z[:0], codes).shape == (0,)


def test_search_of_a_vector_that_is_a_code_finds_it():
    for n_codes in (300, 8192):
        codes = normal(n_codes, 4)
        assert torch.equal(nearest(codes, codes), torch.arange(n_codes))


def test_search_is_float32_whatever_is_asked_for():
    z, codes = normal(3000, 16), normal(2048, 16, seed=2)
    expected, margin = brute(z, codes)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = nearest(z, codes)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(tokens[margin > 1e-4], expected[margin > 1e-4])
    rounded = nearest(z.bfloat16().float(), codes.bfloat16().float())
    assert 0.9 < (rounded == expected).double().mean() < 0.999  # what the precision is for


def test_memory_is_bounded():
    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel() * out.element_size())
            return out

    z, codes = normal(5000, 8), normal(1000, 8)
    with Largest() as largest:
        nearest(z, codes, memory=2**20)
    assert 2**19 < largest.size <= 2**20


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_the_gradient_passes_straight_through(update):
    model, z, weight = (
        quantiser(update=update),
        normal(40, 3).requires_grad_(),
        normal(40, 3, seed=3),
    )
    before = model.codes.detach().clone()
    q, tokens, loss = model(z)
    assert torch.equal(q, before[tokens]) or torch.allclose(q, before[tokens], atol=1e-6)
    (gradient,) = torch.autograd.grad((q * weight).sum(), z, retain_graph=True)
    torch.testing.assert_close(gradient, weight)
    (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
    torch.testing.assert_close(gradient, 0.1 * 2 / z.numel() * (z.detach() - before[tokens]))
    if update == "gradient":
        (gradient,) = torch.autograd.grad(loss + (q * weight).sum(), model.codes)
        each = 0.9 * 2 / z.numel() * (before[tokens] - z.detach()) + weight
        torch.testing.assert_close(gradient, torch.zeros(16, 3).index_add(0, tokens, each))
        assert set(dict(model.named_parameters())) == {"codes"}
    else:
        assert not list(model.parameters())
        assert loss.item() == pytest.approx(
            0.1 * float(F.mse_loss(z.detach(), before[tokens])), rel=1e-5
        )


def test_the_rotated_gradient_is_that_of_a_rotation_and_a_stretch():
    model, z, weight = (
        quantiser(rotate=True).eval(),
        normal(40, 3).requires_grad_(),
        normal(40, 3, seed=3),
    )
    q, tokens, _ = model(z)
    torch.testing.assert_close(q, model.codes[tokens])
    (gradient,) = torch.autograd.grad((q * weight).sum(), z)
    for row in range(40):
        a, b = z[row].detach(), model.codes[tokens[row]]
        u, v = a / a.norm(), b / b.norm()
        k = torch.outer(v, u) - torch.outer(u, v)  # Rodrigues: the rotation in the plane of both
        turn = torch.eye(3) + k + k @ k / (1 + u @ v)
        torch.testing.assert_close(turn @ u, v, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            gradient[row], turn.T @ weight[row] * b.norm() / a.norm(), atol=2e-4, rtol=1e-4
        )
    nothing = torch.zeros(2, 3, requires_grad=True)
    model(nothing)[0].sum().backward()
    assert nothing.grad.isfinite().all()


def test_running_means_are_those_of_a_loop():
    model = quantiser(decay=0.8, patience=None)
    codes = model.codes.double().numpy().copy()
    count, total = np.ones(16), codes.copy()
    for step in range(5):
        z = normal(60, 3, seed=step)
        tokens = model(z)[1].numpy()
        assert (tokens == ((z.numpy()[:, None] - codes) ** 2).sum(2).argmin(1)).all()
        for code in range(16):
            own = z.numpy()[tokens == code]
            count[code] = 0.8 * count[code] + 0.2 * len(own)
            total[code] = 0.8 * total[code] + 0.2 * own.sum(0)
            codes[code] = total[code] / count[code]
        np.testing.assert_allclose(model.codes, codes, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model.count, count, rtol=1e-5)


def test_evaluation_and_bad_batches_change_nothing():
    model = quantiser(patience=1)
    model(normal(50, 3))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()(normal(50, 3, seed=5))
    model.train()(torch.full((50, 3), torch.nan))
    bad = normal(50, 3)
    bad[3] = torch.inf
    model.patience = None  # codes may still move to the good ones of its latents
    model(bad)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("update", ["ema", "gradient"])
def test_unused_codes_move_to_latents_and_are_counted(update):
    model = quantiser(n_codes=8, update=update, patience=3)
    with torch.no_grad():
        far = model.codes.clone()
        far[2:] += 100  # six codes that no latent will choose
        model._put(torch.ones(8, dtype=torch.bool), far)
    generator = torch.Generator().manual_seed(4)
    for step in range(3):
        model(normal(30, 3, seed=step), generator=generator)
        assert model.monitors()["codes_moved"] == 0 and (model.codes[2:] > 50).all()
    assert model.monitors()["codes_used"] == 2 / 8
    z = normal(30, 3, seed=9)
    before = generator.get_state()
    model(z, generator=generator)
    assert model.monitors()["codes_moved"] == 6 and (model.codes < 50).all()
    generator.set_state(before)
    drawn = z[torch.randint(30, (8,), generator=generator)][2:]
    if update == "gradient":
        torch.testing.assert_close(model.codes.detach()[2:], drawn)
    assert model.monitors()["codes_used"] > 0.5
    none = quantiser(n_codes=8, patience=None, decay=0.5)
    with torch.no_grad():
        none._put(torch.ones(8, dtype=torch.bool), far)
    for step in range(200):  # long enough for their running counts to leave float32
        none(normal(5, 3, seed=step % 7))
    torch.testing.assert_close(none.codes[2:], far[2:], rtol=1e-3, atol=0)
    assert none.monitors()["codes_moved"] == 0


def test_start_is_kmeans_and_reproducible():
    centres = 20 * normal(12, 3, seed=8)
    z = centres.repeat(50, 1) + 0.1 * normal(600, 3)
    one, two, other = (quantiser(n_codes=12).start(z, seed=seed) for seed in (1, 1, 3))
    assert torch.equal(one.codes, two.codes) and not torch.equal(one.codes, other.codes)
    tokens = nearest(z, one.codes)
    for code in tokens.unique():
        torch.testing.assert_close(one.codes[code], z[tokens == code].mean(0), atol=1e-4, rtol=1e-4)
    error = [
        (z - m.codes[nearest(z, m.codes)]).square().mean() for m in (quantiser(n_codes=12), one)
    ]
    steps = [
        float((z - m.codes[nearest(z, m.codes)]).square().mean())
        for m in (quantiser(n_codes=12).start(z, seed=1, n_steps=n) for n in (0, 3, 10))
    ]
    assert error[1] < error[0] / 2 and steps[0] > steps[1] >= steps[2]
    for bad in (z[:11], torch.cat([z, torch.full((1, 3), torch.nan)])):
        with pytest.raises(
            ValueError, match="12 codes cannot start from .* more jets, or take fewer codes"
        ):
            quantiser(n_codes=12).start(bad, seed=1)


def test_perplexity():
    assert float(perplexity(torch.ones(7))) == pytest.approx(7)
    assert float(perplexity(torch.tensor([3, 0]))) == 1
    p = np.array([0.5, 0.3, 0.2])
    assert float(perplexity(torch.tensor(10 * p))) == pytest.approx(np.exp(-(p * np.log(p)).sum()))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_codes": 0}, "n_codes must be at least 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"decay": 1.0}, "decay must be from 0"),
        ({"beta": -0.1}, "beta must be from 0"),
        ({"update": "mean"}, "update is 'mean'"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        quantiser(**options)


def test_shapes_that_do_not_fit_are_refused():
    for z, codes in (
        (normal(5, 3), normal(5, 4)),
        (normal(5), normal(5, 1)),
        (normal(5, 3), normal(0, 3)),
    ):
        with pytest.raises(ValueError, match=r"must be \(T, D\) and \(K, D\)"):
            nearest(z, codes)


def work(rank, folder):
    """Each of two processes sees half of each batch, and draws by itself."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    for patience in (None, 2):
        model = quantiser(patience=patience)
        for step in range(6):
            model(
                normal(60, 3, seed=step)[rank::2],
                generator=torch.Generator().manual_seed(10 * rank + step),
            )
        torch.save(model.state_dict(), f"{folder}/{patience}-{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not torch.distributed.is_available() or "fork" not in multiprocessing.get_all_start_methods(),
    reason="needs torch.distributed and processes that can be forked",
)
def test_processes_share_one_codebook(tmp_path):
    running = [
        multiprocessing.get_context("fork").Process(target=work, args=(rank, tmp_path))
        for rank in (0, 1)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert [process.exitcode for process in running] == [0, 0]
    states = {
        (patience, rank): torch.load(tmp_path / f"{patience}-{rank}.pt")
        for patience in (None, 2)
        for rank in (0, 1)
    }
    alone = quantiser(patience=None)
    for step in range(6):
        alone(normal(60, 3, seed=step))
    for name, value in alone.state_dict().items():
        for patience in (None, 2):
            assert torch.equal(states[patience, 0][name], states[patience, 1][name]), name
        torch.testing.assert_close(states[None, 0][name], value)
    assert states[2, 0]["moved"] > 0
