"""The tokenizer: it learns, a jet's tokens are its own, causal means causal, and what comes back
are jets.
"""

import awkward as ak
import numpy as np
import pytest
import torch
from torch.utils.data import Subset

import jetnb
import jetnb.jets
from jetnb import checkpoints, inputs
from jetnb.inputs import batches
from jetnb.models import tokenizer
from jetnb.models.encoder import Transformer
from jetnb.models.tokenizer import (
    Tokenizer,
    count_duplicates,
    merge_duplicates,
    reconstruct,
    tokenise,
)
from jetnb.packed import Batch

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"n_codes": 64, "dim": 32, "n_layers": 1, "n_heads": 2}
EXTRAS = ("charge", "is_photon", "tanh_d0")


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("jetclass")[:200]


def data(jets, extras=()):
    return batches.Packed(*tokenizer.particles(jets, extras))


def ready(jets, **settings):
    """A tokenizer whose codebook fits its latents, but that has learned nothing."""
    return tokenizer.build({**SMALL, **settings}, seed=1).fit(
        data(jets, settings.get("extras", ())), seed=1
    )


def batch_of(jets, extras=()):
    x, offsets = tokenizer.particles(jets, extras)
    return torch.from_numpy(x), torch.from_numpy(offsets)


def train(model, data, steps, **options):
    training = pytest.importorskip("jetnb.training")
    pytest.importorskip("lightning", reason="training needs lightning")
    return training.fit(
        model,
        data,
        steps=steps,
        batch_size=10,
        lr=3e-3,
        seed=1,
        progress=False,
        accelerator="cpu",
        **options,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"context": "causal"},
        {"context": "none"},
        {"extras": EXTRAS},
        {"update": "gradient", "rotate": True},
    ],
)
def test_it_learns(jets, settings):
    model = ready(jets, **settings)
    history = train(model, data(jets, model.extras), 60, log_every=5)
    assert history.steps[-1]["loss"] < 0.6 * history.steps[0]["loss"]
    found = model.monitors()
    assert set(found) == {
        "error_log_pt",
        "error_eta_rel",
        "error_phi_rel",
        *(f"error_{e}" for e in model.extras),
        "codebook_loss",
        "perplexity",
        "codes_used",
        "codes_moved",
    }
    assert (
        found.items()
        >= {name: history.epochs[-1][name] for name in ("codes_moved", "perplexity")}.items()
    )
    assert 5 < found["perplexity"] <= 64 and 0.1 < found["codes_used"] <= 1
    width = np.std(inputs.compute(jets, ("log_pt", "deta", "dphi")).x, axis=0) * [1, 3, 3]
    error = np.array([found[f"error_{name}"] for name in ("log_pt", "eta_rel", "phi_rel")]) * [
        1,
        3,
        3,
    ]
    assert (error**2).sum() < 0.6 * (width**2).sum()


@pytest.mark.parametrize("extras", [(), EXTRAS])
@pytest.mark.parametrize("context", tokenizer.CONTEXTS)
def test_shapes_and_empty_jets(jets, context, extras):
    model = ready(jets, context=context, extras=extras)
    x, offsets = batch_of(jets[:5], extras)
    offsets = torch.cat([offsets[:1], offsets])  # the first jet has no constituents
    tokens = model.encode(x, offsets)
    assert tokens.shape == (len(x),) and tokens.dtype == torch.int64
    assert 0 <= tokens.min() <= tokens.max() < 64 and len(tokens.unique()) > 8
    again = model.decode(tokens, offsets)
    assert (
        again.shape == x.shape == (len(x), 3 + len(extras))
        and again.isfinite().all()
        and (again[:, 0] > 0).all()
    )
    assert torch.equal(again, model.decode(tokens.int(), offsets))
    none = torch.zeros(3, dtype=torch.int64)
    assert model.encode(x[:0], none).shape == (0,) and model.decode(tokens[:0], none).shape == (
        0,
        x.shape[1],
    )


def test_loss_is_the_error_of_what_decode_gives(jets):
    model = ready(jets, extras=EXTRAS, alpha=2.5).double().eval()
    x, offsets = (v.double() if v.is_floating_point() else v for v in batch_of(jets[:20], EXTRAS))
    loss = model.loss((x, offsets)).item()
    again = model.decode(model.encode(x, offsets), offsets)
    error = torch.cat([(again[:, :1] / x[:, :1]).log(), again[:, 1:] - x[:, 1:]], 1)
    found = model.monitors()
    for i, name in enumerate(("log_pt", "eta_rel", "phi_rel", *EXTRAS)):
        assert found[f"error_{name}"] == pytest.approx(
            float(error[:, i].square().mean().sqrt()), rel=1e-6
        )
    whole, _ = tokenizer.particles(jets, EXTRAS)
    width = torch.cat(
        [
            torch.tensor([1, 1 / 3, 1 / 3]).double(),
            torch.from_numpy(whole[:, 3:].astype(float).std(0)),
        ]
    )
    expected = (error / width).square().mean() + 2.5 * found["codebook_loss"]
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("context", tokenizer.CONTEXTS)
def test_tokens_of_a_jet_are_its_own(jets, context):
    model = ready(jets, context=context).double()
    x, offsets = batch_of(jets[:12])
    x = x.double()
    tokens = model.encode(x, offsets)
    again = model.decode(tokens, offsets)
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        alone = torch.tensor([0, end - start])
        assert torch.equal(model.encode(x[start:end], alone), tokens[start:end])
        torch.testing.assert_close(model.decode(tokens[start:end], alone), again[start:end])
    spoilt = x.clone()
    spoilt[offsets[3] : offsets[4], 1:] += 0.3
    changed = model.encode(spoilt, offsets) != tokens
    assert (
        changed[offsets[3] : offsets[4]].any()
        and not changed[: offsets[3]].any()
        and not changed[offsets[4] :].any()
    )


def test_constituents_are_a_set_but_to_a_causal_decoder(jets):
    x, offsets = batch_of(jets[:6])
    x = x.double()
    order = torch.cat(
        [torch.arange(b - 1, a - 1, -1) for a, b in zip(offsets, offsets[1:], strict=False)]
    )
    for context in tokenizer.CONTEXTS:
        model = ready(jets, context=context).double()
        tokens = model.encode(x, offsets)
        assert torch.equal(model.encode(x[order], offsets), tokens[order])
        same = torch.allclose(
            model.decode(tokens[order], offsets), model.decode(tokens, offsets)[order]
        )
        assert same == (context != "causal")


def test_a_causal_decoder_does_not_look_ahead(jets):
    models = {context: ready(jets, context=context).double() for context in tokenizer.CONTEXTS}
    _, offsets = batch_of(jets[:3])
    tokens = torch.randint(64, (int(offsets[-1]),), generator=torch.Generator().manual_seed(1))
    at = int(offsets[1]) + 5
    other = tokens.clone()
    other[at] = (other[at] + 1) % 64
    for context, model in models.items():
        for step in (1, 8):  # without and with padding in attention
            if context in ("jet", "causal"):
                model.decoder.step = step
            changed = (model.decode(tokens, offsets) - model.decode(other, offsets)).abs().amax(
                1
            ) > 1e-9
            assert (
                changed[at] and not changed[: offsets[1]].any() and not changed[offsets[2] :].any()
            )
            assert (
                changed[offsets[1] : at].all()
                == changed[offsets[1] : at].any()
                == (context == "jet")
            )
            assert (
                changed[at + 1 : offsets[2]].all()
                == changed[at + 1 : offsets[2]].any()
                == (context in ("jet", "causal"))
            )


def test_without_networks_codes_are_k_means_of_the_features(jets):
    model = ready(jets, context="features")
    assert not list(model.parameters())
    x, offsets = batch_of(jets)
    scaled = (torch.cat([x[:, :1].log(), x[:, 1:]], 1) - model.mean) / model.width
    tokens = model.encode(x, offsets)
    assert torch.equal(
        tokens, torch.cdist(scaled.double(), model.quantiser.codes.double()).argmin(1)
    )
    means = torch.stack([scaled[tokens == code].mean(0) for code in tokens.unique()])
    moved = (means - model.quantiser.codes[tokens.unique()]).norm(dim=1)
    assert moved.median() < 0.1 * scaled.std()  # ten steps of k-means are near to where they lead
    found = model.decode(tokens, offsets)
    assert torch.allclose(found[:, 1:], model.quantiser.codes[tokens][:, 1:] / 3, atol=1e-6)


def test_a_causal_transformer_is_the_plain_one_on_each_beginning():
    torch.manual_seed(1)
    causal, plain = (
        Transformer(4, dim=16, n_layers=1, n_heads=2, causal=causal).double()
        for causal in (True, False)
    )
    plain.load_state_dict(causal.state_dict())
    x = torch.randn(9, 4, dtype=torch.float64)
    out = causal(x, torch.tensor([0, 9]))[0]
    for n in range(1, 10):  # of one layer the last row sees the same in both
        torch.testing.assert_close(out[n - 1], plain(x[:n], torch.tensor([0, n]))[0][-1])
    with pytest.raises(ValueError, match="'token' with causal"):
        Transformer(4, dim=16, n_heads=2, causal=True, pool="token")


def test_a_checkpoint_gives_the_same_tokens(jets, tmp_path):
    model = ready(jets, extras=EXTRAS)
    train(
        model,
        data(jets, EXTRAS),
        5,
        path=tmp_path / "tokenizer",
        card={"tokenizer": model.settings},
    )
    again, card = tokenizer.load(tmp_path / "tokenizer")
    assert (
        again.settings == model.settings == card["tokenizer"]
        and not again.training
        and again.extras == EXTRAS
    )
    one, two = tokenise(model, jets[:50]), tokenise(again, jets[:50])
    assert np.array_equal(one.x, two.x)
    tokens = torch.from_numpy(one.x).long()
    assert torch.equal(model.decode(tokens, one.offsets), again.decode(tokens, two.offsets))
    checkpoints.save(tmp_path / "other", model, {"encoder": {}})
    with pytest.raises(ValueError, match="no 'tokenizer', .* card={'tokenizer'"):
        tokenizer.load(tmp_path / "other")


def test_a_training_that_stopped_goes_on_as_if_it_had_not(jets, tmp_path):
    whole, parts = (ready(jets, patience=2) for _ in range(2))
    options = {"card": {"tokenizer": whole.settings}, "log_every": 1}
    train(whole, data(jets), 8, **options)
    train(
        parts,
        data(jets),
        8,
        path=tmp_path / "run",
        watch=lambda record: record["step"] == 3,
        **options,
    )
    fresh = tokenizer.build(parts.settings, seed=9)
    train(fresh, data(jets), 8, path=tmp_path / "run", resume=True, **options)
    assert int(whole.quantiser.moved) > 0
    for name, value in whole.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name


def test_the_start_is_a_function_of_the_seed(jets):
    one, two, other = (
        tokenizer.build(SMALL, seed=1).fit(data(jets), seed=seed, n_jets=50) for seed in (1, 1, 2)
    )
    assert torch.equal(one.quantiser.codes, two.quantiser.codes)
    assert not torch.equal(one.quantiser.codes, other.quantiser.codes)
    few = tokenizer.build(SMALL, seed=1).fit(Subset(data(jets), np.arange(9)), seed=1)
    assert few.quantiser.codes.isfinite().all()
    with pytest.raises(ValueError, match="cannot start from"):
        tokenizer.build(SMALL, seed=1).fit(Subset(data(jets), np.arange(0)), seed=1)


def test_whole_samples_there_and_back(jets):
    jets = jets[:70]
    model = ready(jets, context="causal")
    tokens, offsets = tokenise(model, jets, batch_size=16)
    assert tokens.dtype == np.int32 and np.array_equal(
        np.diff(offsets), np.asarray(jets.n_constituents)
    )
    assert np.mean(tokens == tokenise(model, jets).x) > 0.999  # up to rounding
    about = dict(
        eta=np.asarray(jets.eta), phi=np.asarray(jets.phi), provenance=jetnb.jets.provenance(jets)
    )
    again = reconstruct(model, tokens, offsets, merge=False, batch_size=16, **about)
    jetnb.jets.check(again)
    decoded = model.decode(torch.from_numpy(tokens), torch.from_numpy(offsets)).numpy()
    pt = ak.sort(ak.unflatten(decoded[:, 0], np.diff(offsets)), ascending=False)
    np.testing.assert_allclose(ak.flatten(again.constituents.pt), ak.flatten(pt), rtol=1e-4)
    n = count_duplicates(tokens, offsets)
    assert (
        jetnb.jets.provenance(again)["duplicates"] == {"count": int(n.sum()), "merged": False}
        and n.sum() > 0
    )
    assert jetnb.jets.provenance(again)["sample"] == jetnb.jets.provenance(jets)["sample"]
    merged = reconstruct(model, torch.from_numpy(tokens), torch.from_numpy(offsets), **about)
    jetnb.jets.check(merged)
    assert np.array_equal(np.asarray(merged.n_constituents), np.diff(offsets) - n)
    np.testing.assert_allclose(merged.pt, again.pt, rtol=1e-3)
    assert len(reconstruct(model, tokens[:0], [0], provenance=jetnb.jets.provenance(jets))) == 0
    assert [part.shape for part in tokenise(model, jets[:0])] == [(0,), (1,)]


def test_duplicates_are_counted_and_merged():
    tokens, offsets = np.array([7, 2, 7, 7, 7, 5, 2]), np.array([0, 4, 4, 7])
    assert count_duplicates(tokens, offsets).tolist() == [2, 0, 0]
    x = np.array(
        [
            [9, 0.1, 0.2],
            [8, 0.3, 0.0],
            [3, 0.1, 0.2],
            [2, 0.2, -0.1],
            [6, 0, 0.4],
            [5, 0.5, 0.5],
            [4, 0, 0],
        ]
    )
    merged, bounds = merge_duplicates(tokens, Batch(x.astype(np.float32), offsets))
    assert bounds.tolist() == [0, 2, 2, 5] and merged.dtype == np.float32
    assert np.array_equal(merged[1:], x[[1, 4, 5, 6]].astype(np.float32))
    momentum = [
        np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)])
        for pt, eta, phi in x[[0, 2, 3]]
    ]
    px, py, pz = np.sum(momentum, 0)
    np.testing.assert_allclose(
        merged[0],
        [np.hypot(px, py), np.arcsinh(pz / np.hypot(px, py)), np.arctan2(py, px)],
        rtol=1e-6,
    )
    same = merge_duplicates(
        [4, 4], Batch(np.array([[5, 0.3, -0.2], [7, 0.3, -0.2]]), np.array([0, 2]))
    ).x
    np.testing.assert_allclose(same, [[12, 0.3, -0.2]], rtol=1e-12)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"context": "all"}, "context is 'all'"),
        ({"extras": ["mass"]}, "extras: 'mass' is unknown"),
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"n_codes": 0}, "n_codes must be at least 1"),
        ({"dim": 20}, "dim must be a multiple"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer(**settings)


def test_bad_input_says_what_to_do(jets):
    model, (x, offsets) = tokenizer.build(SMALL, seed=1), batch_of(jets[:3])
    with pytest.raises(RuntimeError, match=r"call loss\(batch\) first"):
        model.monitors()
    with pytest.raises(ValueError, match="no constituents"):
        model.loss((x[:0], torch.zeros(2, dtype=torch.int64)))
    with pytest.raises(ValueError, match=r"must be floats of shape \(T, 3\)"):
        model.encode(x[:, :2], offsets)
    with pytest.raises(ValueError, match="offsets must be integers"):
        model.encode(x, offsets[:-1])
    with pytest.raises(ValueError, match="row 0 .* pt must be positive"):
        model.encode(-x, offsets)
    tokens = model.encode(x, offsets)
    for bad in (tokens + 64, tokens - 64, tokens.float(), tokens[:, None]):
        with pytest.raises(ValueError, match=r"must be integers \(T,\) from 0 to 63"):
            model.decode(bad, offsets)
    with pytest.raises(ValueError, match="offsets must be integers"):
        model.decode(tokens, offsets[:-1])
    with pytest.raises(ValueError, match="offsets must be integers"):
        reconstruct(model, tokens, offsets[:-1], provenance=jetnb.jets.provenance(jets))
    with pytest.raises(ValueError, match="has no constituents"):
        reconstruct(model, tokens, [0, 0, len(tokens)], provenance=jetnb.jets.provenance(jets))
    same = batches.Packed(np.insert(x.numpy(), 3, 1, axis=1), offsets)
    with pytest.raises(ValueError, match="extras: 'charge' is the same for all"):
        tokenizer.build({**SMALL, "extras": ["charge"]}, seed=1).fit(same, seed=1)


def test_codes_of_k_means_stay_where_they_are(jets):
    model = tokenizer.build({"n_codes": 32, "context": "features"}, seed=1).fit(data(jets), seed=1)
    before = model.quantiser.codes.clone()
    model(*batch_of(jets))
    assert torch.equal(model.quantiser.codes, before)
