"""The generator of jets: what each token may see, the loss, and drawing with a cache."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from jetnb import checkpoints
from jetnb.inputs.batches import Packed
from jetnb.models import heads, sampling
from jetnb.models.generator import Causal, Generator
from jetnb.models.sampling import draw, generate, probabilities

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
K = 7
LENGTHS = np.array([3, 0, 5, 1, 5])


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* did not stop"),
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad"),
]


def make(seed=0, *, dim=32, n_layers=2, n_heads=4, double=False, **settings):
    torch.manual_seed(seed)
    model = Generator(K, dim=dim, n_layers=n_layers, n_heads=n_heads, **settings)
    with (
        torch.no_grad()
    ):  # larger weights than at the start of a training, so that everything has an effect
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.double() if double else model


def jets(lengths=LENGTHS, seed=1):
    tokens = torch.randint(
        0, K, (int(lengths.sum()),), generator=torch.Generator().manual_seed(seed)
    )
    return tokens, torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))


SETTINGS = [{}, {"positions": "learned"}, {"tie_weights": True}, {"n_classes": 3}]


def slow_logits(model, tokens, label=None):
    """Of one jet: (n + 1, K + 1), by nn.functional and a written-out mask."""
    encoder = model.encoder
    start = encoder.start.weight[0 if label is None else int(label) + 1]
    h = torch.cat([start[None], encoder.embed(tokens)])
    if encoder.place is not None:
        h = h + encoder.place.weight[: len(h)]
    n = len(h)
    for block in encoder.blocks:
        q, k, v = (
            block.qkv(block.attention_norm(h)).view(n, 3, block.n_heads, -1).permute(1, 2, 0, 3)
        )
        score = q @ k.mT / q.shape[-1] ** 0.5 + torch.full((n, n), -math.inf, dtype=h.dtype).triu(1)
        h = h + block.project((score.softmax(-1) @ v).transpose(0, 1).reshape(n, -1))
        h = h + block.contract(F.gelu(block.expand(block.mlp_norm(h))))
    return model.head(encoder.norm(h))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("step", [1, 4])
def test_loss_is_that_of_a_loop_over_jets(settings, step):
    model = make(double=True, step=step, **settings)
    tokens, offsets = jets()
    label = torch.tensor([0, 2, -1, 1, 2]) if "n_classes" in settings else None
    batch = (tokens, offsets) if label is None else (tokens, offsets, label)
    total, n = 0, 0
    for b, part in enumerate(tokens.split(LENGTHS.tolist())):
        logits = slow_logits(model, part, None if label is None else label[b])
        total += F.cross_entropy(logits, torch.cat([part, torch.tensor([K])]), reduction="sum")
        n += len(logits)
    slow = torch.autograd.grad(total / n, list(model.parameters()), allow_unused=True)
    for chunk in (1, 4, 1000):
        model.chunk = chunk
        loss = model.loss(batch)
        assert float(loss.detach()) == pytest.approx(float(total.detach() / n), rel=1e-12)
        for found, expected in zip(
            torch.autograd.grad(loss, list(model.parameters()), allow_unused=True),
            slow,
            strict=True,
        ):
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        assert float(model.loss(batch)) == pytest.approx(float(total.detach() / n), rel=1e-12)


@pytest.mark.parametrize("max_length", [128, 4])
def test_the_probability_of_a_jet_is_that_of_a_loop(max_length):
    model, (tokens, offsets) = make(double=True, max_length=max_length), jets()[:2]
    found = model.nats((tokens, offsets))
    for b, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        own = tokens[start:stop]
        alone = model.loss((own, torch.tensor([0, len(own)])))
        terms = min(len(own), max_length) + (len(own) <= max_length)  # a cut jet has no stop
        assert float(found[b]) == pytest.approx(float(alone) * terms)


def test_tokens_may_come_as_packed_gives_them():
    model = make()
    tokens, offsets = jets()
    batch = Packed(tokens.numpy()[:, None], offsets.numpy(), np.zeros(len(LENGTHS)))[
        np.arange(len(LENGTHS))
    ]
    assert batch[0].dtype == torch.float32
    loss = float(model.loss(batch))
    assert (
        loss
        == float(model.loss((tokens, offsets)))
        == float(model.loss((tokens[:, None], offsets)))
    )


def test_no_token_sees_what_comes_after_it_or_another_jet():
    model = make(double=True)
    tokens, offsets = jets()
    before, starts = model(tokens, offsets)
    for j in (0, 4, 7, 8):
        changed = tokens.clone()
        changed[j] = (tokens[j] + 1) % K
        after, after_starts = model(changed, offsets)
        jet_end = int(offsets[torch.searchsorted(offsets, j, right=True)])
        same = torch.ones(len(tokens), dtype=torch.bool)
        same[j:jet_end] = False
        assert torch.equal(before[same], after[same]) and torch.equal(starts, after_starts)
        assert (before[~same] != after[~same]).any(1).all()


def test_order_of_jets_in_a_batch_does_not_matter():
    model = make(double=True)
    tokens, offsets = jets()
    parts, order = tokens.split(LENGTHS.tolist()), [4, 1, 3, 0, 2]
    mixed = torch.cat([parts[b] for b in order]), torch.from_numpy(np.cumsum([0, *LENGTHS[order]]))
    assert float(model.loss((tokens, offsets))) == pytest.approx(
        float(model.loss(mixed)), rel=1e-12
    )
    _, here = model.encoder(tokens, offsets)
    _, there = model.encoder(*mixed)
    torch.testing.assert_close(here[order], there, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("positions", ["none", "learned"])
def test_a_jet_that_is_too_long_is_cut_and_does_not_learn_to_stop_there(positions):
    model = make(double=True, max_length=4, positions=positions)
    tokens, offsets = jets()
    total, n = 0, 0
    for part in tokens.split(LENGTHS.tolist()):
        target = torch.cat([part, torch.tensor([K])])[:5]
        target = target[:4] if len(part) > 4 else target
        total += F.cross_entropy(
            slow_logits(model, part[:4])[: len(target)], target, reduction="sum"
        )
        n += len(target)
    assert float(model.loss((tokens, offsets))) == pytest.approx(float(total / n), rel=1e-12)
    whole = jets(np.array([4, 4]))  # just fits, so stop is learned
    assert (model.loss(whole), model._last[1].sum())[1] == 2


def test_same_network_from_the_layers_of_pytorch():
    from generation_speed import Public

    model = make(dim=64, n_layers=3)
    tokens = torch.randint(0, K, (30,))
    public = Public(model).eval()(torch.cat([torch.tensor([K + 1]), tokens])[None])[0]
    logits, start = model(tokens, torch.tensor([0, 30]))
    torch.testing.assert_close(torch.cat([start, logits]), public, rtol=1e-5, atol=1e-5)


def test_monitors_tell_codes_from_stops():
    model = make()
    with pytest.raises(RuntimeError, match="call loss"):
        model.monitors()
    tokens, offsets = jets()
    loss = float(model.loss((tokens, offsets)))
    seen = model.monitors()
    n, stops = len(tokens), len(LENGTHS)
    mean = (n * math.log(seen["code_perplexity"]) + stops * math.log(seen["stop_perplexity"])) / (
        n + stops
    )
    assert mean == pytest.approx(loss, rel=1e-5)


def test_loss_under_autocast():
    model = make(dim=64)
    batch = jets()
    exact = model.loss(batch)
    grads = torch.autograd.grad(exact, list(model.parameters()), allow_unused=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(exact), rel=0.02)
    for one, other in zip(
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), grads, strict=True
    ):
        assert (
            one.dtype == torch.float32
            and F.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99
        )


def test_an_encoder_like_any_other(tmp_path):
    model = make()
    tokens, offsets = jets()
    constituents, vectors = model.encoder(tokens[:, None].float(), offsets)
    for b, part in enumerate(constituents.split(LENGTHS.tolist())):
        torch.testing.assert_close(vectors[b], part.mean(0) if len(part) else torch.zeros(32))
    classifier = heads.Classifier(model.encoder, heads.linear(model.encoder.dim, 2))
    classifier.loss((tokens[:, None].float(), offsets, torch.tensor([0, 1, 1, 0, 1]))).backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0
    checkpoints.save(tmp_path / "a", model, {})
    other = Causal(K, dim=32, n_layers=2, n_heads=4)
    checkpoints.load(tmp_path / "a", other, part="encoder")
    assert torch.equal(other(tokens, offsets)[1], vectors)


def test_finetuning_measures_it():
    pytest.importorskip("lightning", reason="the loop is on Lightning Fabric")
    from jetnb import finetuning

    rng = np.random.default_rng(1)

    def sample(n):
        label = np.arange(n) % 2
        lengths = rng.integers(2, 6, n)
        tokens = rng.integers(0, 4, lengths.sum()) + 3 * np.repeat(label, lengths)
        return Packed(tokens[:, None], np.concatenate([[0], np.cumsum(lengths)]), label)

    table = finetuning.measure(
        lambda seed: Causal(K, dim=32, n_layers=1, n_heads=4),
        [sample(100) for _ in range(3)],
        budgets=[40],
        seeds=[1],
        pretrained=make(n_layers=1).encoder,
        steps=10,
        epochs=1,
        modes=("frozen", "finetuned"),
        lrs={"finetuned": (1e-3,)},
        validation_least=20,
        progress=False,
    )
    assert len(table) == 2 and min(table.accuracy) > 0.8


@pytest.mark.parametrize("settings", SETTINGS)
def test_save_and_load(tmp_path, settings):
    model, other = make(1, **settings), make(2, **settings)
    checkpoints.save(tmp_path / "a", model, {"encoder": settings})
    checkpoints.load(tmp_path / "a", other)
    assert float(other.loss(jets())) == float(model.loss(jets()))
    if "tie_weights" in settings:
        assert other.head.weight is other.encoder.embed.weight
        assert copy.deepcopy(other).head.weight.shape == (K + 1, 32)


@pytest.mark.parametrize("settings", SETTINGS)
def test_cached_logits_are_those_of_the_full_forward(settings):
    model = make(dim=64, n_layers=3, **settings).eval()
    tokens, offsets = jets(np.full(9, 20))
    label = torch.arange(9) % 4 - 1 if "n_classes" in settings else torch.full((9,), -1)
    with torch.no_grad():
        logits, start = model(tokens, offsets, label)
        full = torch.cat([start[:, None], logits.view(9, 20, -1)], 1)
        cache = sampling.Cache(model.encoder, 9, 21)
        h = [cache.advance(model.encoder.start(label + 1))]
        for step in range(20):
            h.append(cache.advance(model.encoder.embed(tokens.view(9, 20)[:, step])))
            if step == 10:  # the jets in rows 0 and 3 go, those in 8 and 7 take their places
                cache.move(torch.tensor([8, 7]), torch.tensor([0, 3]))
                rows = torch.tensor([8, 1, 2, 7, 4, 5, 6])
                tokens = tokens.view(9, 20)[rows].repeat(2, 1)[:9].flatten()
        found = torch.stack([model.head(one) for one in h], 1)
        torch.testing.assert_close(found[:, :12], full[:, :12], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[:7, 12:], full[rows, 12:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS)
def test_jets_do_not_depend_on_the_size_of_batches(settings):
    model = make(**settings, max_length=30)
    with torch.no_grad():
        model.head.bias[-1] -= 1
    labels = torch.arange(40) % 3 if "n_classes" in settings else None
    state = torch.get_rng_state()
    with pytest.warns(UserWarning, match="of 40 jets did not stop within 30"):
        tokens, offsets = generate(model, 40, seed=5, labels=labels, batch_size=40, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        tokens.dtype == offsets.dtype == torch.int64
        and offsets[-1] == len(tokens)
        and len(offsets) == 41
    )
    assert (
        tokens.min() >= 0
        and tokens.max() < K
        and offsets.diff().min() < 5
        and offsets.diff().max() == 30
    )
    for batch_size in (1, 7, 33):
        some = generate(
            model,
            20,
            seed=5,
            labels=None if labels is None else labels[:20],
            batch_size=batch_size,
            progress=False,
        )
        assert torch.equal(some[1], offsets[:21]) and torch.equal(some[0], tokens[: offsets[20]])
    assert not torch.equal(generate(model, 40, seed=6, labels=labels, progress=False)[1], offsets)


def test_generation_draws_from_the_logits_of_the_full_forward():
    model = make(max_length=12)
    seed, n = 11, 30
    tokens, offsets = generate(model, n, seed=seed, temperature=1.3, batch_size=n, progress=False)
    for jet, part in enumerate(tokens.split(offsets.diff().tolist())):
        uniform = np.random.default_rng([seed, jet]).integers(2**32, size=13) / 2**32
        share = (slow_logits(model, part) / 1.3).softmax(1).detach().double().numpy()
        expected = [
            int(np.searchsorted(np.cumsum(p) / p.sum(), u, side="right"))
            for p, u in zip(share, uniform, strict=False)
        ]
        assert expected[: len(part)] == part.tolist() and (expected[-1] == K or len(part) == 12)


def test_jets_that_do_not_stop_are_counted():
    model = make(max_length=6)
    with torch.no_grad():
        model.head.bias[-1] = -100
    with pytest.warns(UserWarning, match="^9 of 9 jets did not stop within 6 tokens"):
        _, offsets = generate(model, 9, seed=1, progress=False)
    assert offsets.diff().tolist() == [6] * 9
    with torch.no_grad():
        model.head.bias[-1] = 100
    tokens, offsets = generate(model, 9, seed=1, progress=False)
    assert len(tokens) == 0 and offsets.tolist() == [0] * 10
    assert [len(part) for part in generate(model, 0, seed=1, progress=False)] == [0, 1]


def test_in_bfloat16():
    model = make(dim=64)
    model.loss(jets())  # what it leaves behind for monitors does not hinder the copy
    tokens, offsets = generate(model, 50, seed=1, dtype=torch.bfloat16, progress=False)
    exact, bounds = generate(model, 50, seed=1, progress=False)
    first = [
        F.pad(part, (0, 1), value=K)[:1]
        for t, o in ((tokens, offsets), (exact, bounds))
        for part in t.split(o.diff().tolist())
    ]
    assert np.mean(np.equal(first[:50], first[50:])) > 0.9
    assert next(model.parameters()).dtype == torch.float32 and model.training


def p_value(found, share):
    counts = np.bincount(found, minlength=len(share))
    assert counts[share == 0].sum() == 0
    keep = share > 0
    return stats.chisquare(counts[keep], len(found) * share[keep] / share.sum()).pvalue


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [0.4, 0.3, 0.2, 0.08, 0.02]),
        ({"temperature": 0.5}, [0.16, 0.09, 0.04, 0.0064, 0.0004]),
        ({"temperature": 2.0}, np.sqrt([0.4, 0.3, 0.2, 0.08, 0.02])),
        ({"top_k": 2}, [0.4, 0.3, 0, 0, 0]),
        ({"top_k": 9}, [0.4, 0.3, 0.2, 0.08, 0.02]),
        ({"top_p": 0.65}, [0.4, 0.3, 0, 0, 0]),
        ({"top_p": 0.75}, [0.4, 0.3, 0.2, 0, 0]),
        ({"top_p": 1e-9}, [0.4, 0, 0, 0, 0]),
        ({"top_p": 1.0}, [0.4, 0.3, 0.2, 0.08, 0.02]),
        ({"top_k": 3, "top_p": 0.7}, [0.4, 0.3, 0, 0, 0]),
    ],
)
def test_temperature_top_k_and_top_p(options, expected):
    order = [3, 0, 4, 1, 2]
    expected = np.array(expected)[order]
    logits = torch.tensor([0.4, 0.3, 0.2, 0.08, 0.02])[order].log()[None] + 3
    share = probabilities(logits, **options)
    np.testing.assert_allclose(share[0] / share.sum(), expected / expected.sum(), rtol=1e-5)
    n = 20000
    uniform = torch.from_numpy(np.random.default_rng(1).random(n))
    assert (expected > 0).sum() == 1 or p_value(draw(share.expand(n, -1), uniform), expected) > 1e-3


def test_drawing_from_many_codes():
    rng = np.random.default_rng(2)
    share = rng.exponential(size=300) ** 3
    share[[0, 7, 150, 298, 299]] = 0
    n = 20_000
    found = draw(torch.from_numpy(share).expand(n, -1), torch.from_numpy(rng.random(n)))
    assert p_value(found, share) > 1e-3
    edges = torch.tensor([0.0, 1 - 2**-32], dtype=torch.float64)
    for one in (share, 1e-30 * share, np.eye(300)[299], np.eye(8193)[8100], np.ones(1)):
        for kind in (torch.float32, torch.float64):
            ends = draw(torch.from_numpy(one).to(kind).expand(2, -1), edges)
            assert ends.tolist() == [np.flatnonzero(one)[0], np.flatnonzero(one)[-1]]


@pytest.fixture(scope="module")
def learned():
    """A language of two classes: lengths of 1 + Poisson, the next code from the one before, and the
    model of it.
    """
    rng = np.random.default_rng(3)
    transitions = rng.dirichlet(np.full(K, 0.4), (2, K))

    def speak(n):
        label = rng.integers(0, 2, n)
        lengths = np.minimum(1 + rng.poisson(np.array([3, 8])[label]), 19)
        words = []
        for c, length in zip(label, lengths, strict=True):
            word = [rng.integers(K)]
            while len(word) < length:
                word.append(rng.choice(K, p=transitions[c, word[-1]]))
            words.append(word)
        return (
            torch.tensor(np.concatenate(words)),
            torch.from_numpy(np.cumsum([0, *lengths])),
            torch.from_numpy(label),
        )

    torch.manual_seed(1)
    model = Generator(K, dim=32, n_layers=2, n_heads=4, max_length=20, n_classes=2)
    optimiser = torch.optim.AdamW(model.parameters(), 5e-3)
    data = Packed(*(part[:, None] if i == 0 else part for i, part in enumerate(speak(4000))))
    n_steps = 150
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 5e-3, n_steps)
    for _ in range(n_steps):
        optimiser.zero_grad()
        model.loss(data[rng.integers(0, len(data), 128)]).backward()
        optimiser.step()
        schedule.step()
    return model, transitions, speak(6000)


def test_a_small_language_is_learned(learned):
    model, transitions, (_, true_offsets, true_label) = learned
    n = 1500
    for c in (0, 1):
        tokens, offsets = generate(model, n, seed=1, labels=c, batch_size=500, progress=False)
        lengths = offsets.diff().double()
        truth = true_offsets.diff()[true_label == c].double()
        assert abs(lengths.mean() - truth.mean()) < 0.06 * truth.mean()
        assert stats.ks_2samp(lengths.numpy(), truth.numpy()).statistic < 0.08
        inner = torch.ones(len(tokens), dtype=torch.bool)
        inner[offsets[1:] - 1] = False
        pairs = np.bincount((K * tokens[:-1] + tokens[1:])[inner[:-1]], minlength=K * K).reshape(
            K, K
        )
        found = pairs / pairs.sum(1, keepdims=True)
        assert 0.5 * np.abs(found - transitions[c]).sum(1).mean() < 0.1  # total variation
        assert 0.5 * np.abs(found - transitions[1 - c]).sum(1).mean() > 0.5


def test_generation_knows_its_own_likelihood(learned):
    model, _, _ = learned
    tokens, offsets = generate(model, 2000, seed=2, labels=1, progress=False)
    with torch.no_grad():
        model.loss((tokens, offsets, torch.ones(2000, dtype=torch.int64)))
        nats = float(model._last[0].mean())
        logits, start = model(tokens, offsets, torch.ones(2000, dtype=torch.int64))
        entropy = torch.distributions.Categorical(logits=torch.cat([logits, start])).entropy()
    assert nats == pytest.approx(
        float(entropy.mean()), abs=4 * float(entropy.std()) / len(entropy) ** 0.5 + 0.02
    )


def test_features_instead_of_tokens():
    torch.manual_seed(2)
    table = torch.randn(K, 3)
    model = Generator(K, dim=32, n_layers=2, n_heads=4, n_features=3, max_length=10)
    tokens, offsets = jets()
    batch = torch.cat([tokens[:, None].float(), table[tokens]], 1), offsets
    loss = model.loss(batch)
    loss.backward()
    assert model.encoder.embed.weight.grad.abs().sum() > 0
    constituents, vectors = model.encoder(table[tokens], offsets)
    assert constituents.shape == (14, 32) and vectors.shape == (5, 32)
    # a table of tokens that holds what the linear layer makes of their features is the same model
    twin = Generator(K, dim=32, n_layers=2, n_heads=4, max_length=10)
    weights = {name: value for name, value in model.state_dict().items() if "embed" not in name}
    with torch.no_grad():
        rows = F.pad(model.encoder.embed(table), (0, 0, 0, 1))
    twin.load_state_dict({**weights, "encoder.embed.weight": rows})
    assert float(twin.loss((tokens, offsets))) == pytest.approx(float(loss.detach()), rel=1e-6)
    drawn = generate(model, 30, seed=1, features=lambda ids: table[ids], progress=False)
    assert all(map(torch.equal, drawn, generate(twin, 30, seed=1, progress=False)))
    with pytest.raises(ValueError, match="the model reads features"):
        generate(model, 3, seed=1)
    with pytest.raises(ValueError, match="leave it out"):
        generate(twin, 3, seed=1, features=lambda ids: table[ids])


def test_no_tokens_at_all():
    model = make()
    loss = model.loss((torch.empty(0, dtype=torch.int64), torch.tensor([0, 0, 0])))
    assert float(loss) == pytest.approx(
        float(
            -model.head(
                model.encoder.run(torch.empty(0, dtype=torch.int64), np.zeros(1, np.int64))
            ).log_softmax(1)[0, K]
        ),
        rel=1e-5,
    )
    loss.backward()
    constituents, vectors = model.encoder(torch.empty(0, 1), torch.tensor([0, 0]))
    assert constituents.shape == (0, 32) and not vectors.any()


@pytest.mark.parametrize(
    "settings, match",
    [
        ({"dim": 36}, "dim must be a multiple"),
        ({"n_layers": 0}, "n_layers must be"),
        ({"chunk": 0}, "chunk must be"),
        ({"max_length": 0}, "max_length must be"),
        ({"n_classes": -1}, "n_classes must be"),
        ({"positions": "sine"}, "positions 'sine'"),
        ({"tie_weights": True, "n_features": 3}, "no table to share"),
    ],
)
def test_settings_that_do_not_fit(settings, match):
    with pytest.raises(ValueError, match=match):
        Generator(K, **{"dim": 32, "n_heads": 4, **settings})


@pytest.mark.parametrize(
    "batch, match",
    [
        ((torch.tensor([0, K]), torch.tensor([0, 2])), f"tokens run from 0 to {K}"),
        ((torch.tensor([-1, 0]), torch.tensor([0, 2])), "tokens run from -1"),
        ((torch.tensor([0.5, 1.0]), torch.tensor([0, 2])), "whole numbers"),
        ((torch.tensor([0, 1]), torch.tensor([0, 3])), "offsets must be"),
        ((torch.zeros(2, 3), torch.tensor([0, 2])), r"must be floats of shape \(T, 1\)"),
        ((torch.empty(0), torch.tensor([0])), "no jets"),
        ((torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([2])), "label runs from 2"),
        (
            (torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([0.0])),
            "label is torch.float32",
        ),
    ],
)
def test_batches_that_do_not_fit(batch, match):
    with pytest.raises(ValueError, match=match):
        make(n_classes=2).loss(batch)


def test_learned_positions_end_somewhere():
    model = make(positions="learned", max_length=4)
    with pytest.raises(ValueError, match="longest jet has 5"):
        model.encoder(*jets())
    assert make(max_length=4).encoder(*jets())[1].shape == (5, 32)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"temperature": 0}, "temperature is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_length": 0}, "max_length is 0"),
        ({"max_length": 999}, "learned positions for 128"),
        ({"labels": 0}, "the model has 0 classes"),
        ({"labels": [0, 0]}, "give one integer, or 3"),
        ({"labels": 0.5}, "give one integer"),
    ],
)
def test_arguments_of_generate_that_do_not_fit(options, match):
    with pytest.raises(ValueError, match=match):
        generate(make(positions="learned"), 3, seed=1, **options)


def test_weights_that_are_not_finite():
    model = make()
    with torch.no_grad():
        model.encoder.norm.weight[3] = math.nan
    with pytest.raises(ValueError, match="weights that are not finite"):
        generate(model, 3, seed=1)


def test_one_code():
    model = Generator(1, dim=32, n_layers=1, n_heads=4)
    assert math.isfinite(
        float(model.loss((torch.zeros(3, dtype=torch.int64), torch.tensor([0, 3]))))
    )
