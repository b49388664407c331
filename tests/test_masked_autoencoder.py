"""Masked autoencoder and tracks: each against a plain loop, or a property that must hold."""

from __future__ import annotations

import itertools

import awkward as ak
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import jetnb
import jetnb.jets
from jetnb import inputs, masks, training
from jetnb.inputs import tracks
from jetnb.models.encoder import DeepSets, Transformer, pack, pad, select
from jetnb.strategies.masked_autoencoder import (
    MaskedAutoencoder,
    chamfer_loss,
    hungarian_loss,
    slot_loss,
)

DIM, FEATURES = 16, 4


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def batch(lengths=(5, 0, 9, 1, 2, 40), seed=1):
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    return torch.randn(int(offsets[-1]), FEATURES, generator=generator(seed)), offsets


def model(reads="tracks", encoder=None, **options):
    torch.manual_seed(3)
    encoder = encoder or Transformer(FEATURES, dim=DIM, n_layers=2, n_heads=2)
    decoder = (
        Transformer(DIM, dim=DIM, n_layers=1, n_heads=2)
        if reads == "tracks"
        else DeepSets(DIM, dim=DIM)
    )
    return MaskedAutoencoder(encoder, decoder, n_features=FEATURES, reads=reads, **options).eval()


def per_jet(values, offsets):
    return [values[start:end] for start, end in itertools.pairwise(offsets.tolist())]


@pytest.mark.parametrize("ratio", [0.15, 0.5, 0.8])
def test_mask_has_the_right_share_and_is_fair(ratio):
    lengths = np.array([0, 1, 2, 3, 7, 12] * 4000)
    offsets = torch.from_numpy(np.append(0, np.cumsum(lengths)))
    mask = masks.random(None, offsets, ratio, generator=generator())
    hidden = np.array([int(part.sum()) for part in np.split(mask.numpy(), offsets[1:-1].numpy())])
    exact = ratio * lengths
    most = np.maximum(lengths - 1, 0)
    assert (hidden >= np.minimum(np.floor(exact), most)).all() and (
        hidden <= np.minimum(np.ceil(exact), most)
    ).all()
    for n in (7, 12):
        found = mask.numpy()[np.repeat(lengths, lengths) == n].reshape(-1, n)
        error = np.sqrt(ratio * (1 - ratio) / len(found))
        assert np.mean(hidden[lengths == n]) == pytest.approx(
            ratio * n, abs=4 * 0.5 / np.sqrt(len(found))
        )
        assert (
            np.abs(found.mean(0) - ratio).max() < 4.5 * error
        )  # no place is hidden more often than another
        assert set(hidden[lengths == n]) == {int(np.floor(ratio * n)), int(np.ceil(ratio * n))}


def test_masks_of_different_jets_are_independent():
    mask = masks.random(None, torch.arange(0, 20001, 2), 0.5, generator=generator()).view(-1, 2)
    assert (mask.sum(1) == 1).all()
    first = mask[:, 0].double()
    assert abs(float(first.mean()) - 0.5) < 0.02
    assert abs(float(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1])) < 0.04


def test_mask_follows_its_generator():
    offsets = batch()[1]
    one, same, other = (
        masks.random(None, offsets, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert (
        len(masks.random(None, torch.tensor([0]))) == 0
        and len(masks.random(None, torch.tensor([0, 0, 0]))) == 0
    )
    for ratio in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            masks.random(None, offsets, ratio)


def slow_losses(found, target, offsets):
    """Slot by slot, Chamfer and the best of all pairings, in loops over jets and tracks."""
    slot, there, back, paired = [], [], [], []
    for one, two in zip(per_jet(found, offsets), per_jet(target, offsets), strict=True):
        cost = np.array([[float(((a - b) ** 2).mean()) for b in two] for a in one]).reshape(
            len(one), len(two)
        )
        slot += list(np.diag(cost))
        there += [min(row) for row in cost]
        back += [min(row) for row in cost.T]
        best = min(
            itertools.permutations(range(len(one))),
            key=lambda p: sum(cost[i, j] for i, j in enumerate(p)),
        )
        paired += [cost[i, j] for i, j in enumerate(best)]
    return np.mean(slot), (np.mean(there) + np.mean(back)) / 2, np.mean(paired)


def test_losses_are_those_of_the_loops():
    _, offsets = batch((3, 0, 5, 1, 6))
    found, target = torch.randn(2, 15, 3, generator=generator(), dtype=torch.float64)
    fast = [
        float(loss(found, target, offsets)) for loss in (slot_loss, chamfer_loss, hungarian_loss)
    ]
    assert fast == pytest.approx(slow_losses(found, target, offsets), rel=1e-12)
    assert fast[1] <= fast[2] <= fast[0]


def test_hungarian_is_scipys():
    found, target = torch.randn(2, 30, 3, generator=generator(), dtype=torch.float64)
    cost = torch.cdist(found, target).square().numpy() / 3
    rows, columns = linear_sum_assignment(cost)
    value = hungarian_loss(found, target, torch.tensor([0, 30]))
    assert float(value) == pytest.approx(cost[rows, columns].mean(), rel=1e-10)


def test_set_losses_do_not_look_at_the_order():
    _, offsets = batch((4, 7))
    found, target = torch.randn(2, 11, 3, generator=generator(), dtype=torch.float64)
    order = torch.cat(
        [torch.randperm(4, generator=generator()), 4 + torch.randperm(7, generator=generator())]
    )
    for loss in (chamfer_loss, hungarian_loss):
        assert float(loss(found, target[order], offsets)) == pytest.approx(
            float(loss(found, target, offsets))
        )
    assert float(hungarian_loss(target, target[order], offsets)) == 0
    assert float(slot_loss(target, target[order], offsets)) > 0.1
    # but the jets are kept apart
    assert float(hungarian_loss(found, target.flip(0), torch.tensor([0, 4, 11]))) > float(
        hungarian_loss(found, target.flip(0), torch.tensor([0, 11]))
    )


@pytest.mark.parametrize("loss", [slot_loss, chamfer_loss, hungarian_loss])
def test_loss_gradients_and_shapes(loss):
    _, offsets = batch((3, 4))
    found, target = torch.randn(2, 7, 2, generator=generator(), dtype=torch.float64)
    found.requires_grad_()
    assert torch.autograd.gradcheck(lambda a: loss(a, target, offsets), found)
    for bad in (target[:, :1], target[:3]):
        with pytest.raises(ValueError, match="shapes"):
            loss(bad, target, offsets)
    with pytest.raises(ValueError, match="one or more"):
        loss(target[:0], target[:0], torch.tensor([0, 0]))


def test_reconstruction_of_each_jet_alone_is_the_same():
    """Packed jets against one jet at a time, which has neither padding nor neighbours."""
    x, offsets = batch()
    mask = masks.random(None, offsets, generator=generator())
    for reads in ("tracks", "jet"):
        one = model(reads)
        found, jets = one.reconstruct(x, offsets, mask)
        start = select(x, offsets, mask)[1]
        for jet, (rows, hidden) in enumerate(
            zip(per_jet(x, offsets), per_jet(mask, offsets), strict=True)
        ):
            if len(rows) == 0:
                continue
            alone, vector = one.reconstruct(rows, torch.tensor([0, len(rows)]), hidden)
            torch.testing.assert_close(
                alone, found[start[jet] : start[jet + 1]], rtol=1e-4, atol=1e-5
            )
            torch.testing.assert_close(vector[0], jets[jet], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reads", ["tracks", "jet"])
def test_hidden_tracks_are_hidden(reads):
    """What is hidden has no influence, and what is visible has."""
    x, offsets = batch()
    mask, one = masks.random(None, offsets, generator=generator()), model(reads)
    found, jets = one.reconstruct(x, offsets, mask)
    other = torch.where(mask[:, None], torch.randn(x.shape), x)
    again, vectors = one.reconstruct(other, offsets, mask)
    assert torch.equal(found, again) and torch.equal(jets, vectors)
    changed, _ = one.reconstruct(torch.where(mask[:, None], x, x + 1), offsets, mask)
    assert (changed - found).abs().max() > 1e-3


@pytest.mark.parametrize("reads", ["tracks", "jet"])
def test_order_matters_with_slots_only_by_place(reads):
    """Visible tracks may change places among each other; with one token all hidden tracks of a jet
    get the same.
    """
    x, offsets = batch((6, 8))
    mask = torch.tensor([1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0, 1, 0, 1], dtype=torch.bool)
    order = torch.tensor([0, 4, 2, 3, 1, 5, 12, 7, 8, 10, 9, 11, 6, 13])
    slots = model(reads)
    torch.testing.assert_close(
        slots.reconstruct(x[order], offsets, mask)[0],
        slots.reconstruct(x, offsets, mask)[0],
        rtol=1e-4,
        atol=1e-5,
    )
    with torch.no_grad():
        found, _ = model(reads, tokens="one").reconstruct(x, offsets, mask)
        torch.testing.assert_close(found[:3], found[:1].expand(3, -1), rtol=1e-4, atol=1e-5)
        slots.token.normal_()
        found, _ = slots.reconstruct(x, offsets, mask)
        assert (found[1] - found[0]).abs().max() > 0.01


def test_packed_is_the_padded_loop():
    """The loss against the usual way: padded, a Python loop over jets, the decoder of each jet
    alone.
    """
    x, offsets = batch()
    one = model("jet", encoder=DeepSets(FEATURES, dim=DIM), targets=[0, 2])
    loss = float(one.loss((x, offsets), generator=generator(5)).detach())
    mask = masks.random(None, offsets, 0.5, generator=generator(5))
    padded, real = pad(torch.cat([x, mask[:, None].float()], 1), offsets)
    errors = []
    for rows, there in zip(padded, real, strict=True):
        hidden = rows[:, -1].bool() & there
        seen = rows[there & ~hidden, :-1]
        vector = one.encoder.jet(
            one.encoder.SCALE * one.encoder.constituent(seen).sum(0, keepdim=True)
        )
        for place in torch.nonzero(hidden)[:, 0].tolist():
            token = one.token[min(place, 34)] + one.jet(vector)
            errors.append(
                (one.out(one.decoder.constituent(token))[0] - rows[place, [0, 2]]).square()
            )
    assert loss == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
    again, bounds = pack(padded[..., :-1], real)
    assert torch.equal(again, x) and torch.equal(bounds, offsets)


def test_targets_and_tokens():
    x, offsets = batch()
    one = model(targets=[1, 3])
    found, jets = one.reconstruct(x, offsets, masks.random(None, offsets, generator=generator()))
    assert found.shape[1] == 2 and jets.shape == (6, DIM)
    assert model().token.shape == (35, DIM) and model(tokens="one").token.shape == (1, DIM)
    bad = (
        {"tokens": "two"},
        {"reads": "all"},
        {"targets": []},
        {"targets": [4]},
        {"ratio": 1.0},
        {"n_slots": 0},
    )
    for options in bad:
        with pytest.raises(ValueError):
            model(**{"reads": "jet", **options})
    with pytest.raises(ValueError, match="use reads='jet'"):
        MaskedAutoencoder(DeepSets(FEATURES, dim=DIM), DeepSets(DIM, dim=DIM), n_features=FEATURES)
    with pytest.raises(ValueError, match="at least|can be hidden"):
        one.loss((x[:2], torch.tensor([0, 1, 2])))


def test_it_learns_and_sees_collapse():
    """Tracks of one jet share a number: it is learned. Without anything in common nothing is, and
    the rank falls.
    """
    lengths = np.random.default_rng(1).integers(4, 12, 600)
    offsets = np.append(0, np.cumsum(lengths))
    shared = np.repeat(np.random.default_rng(2).normal(size=(600, 2)), lengths, axis=0)
    noise = np.random.default_rng(3).normal(size=(offsets[-1], 2))
    x = np.concatenate([shared, 0.1 * noise], axis=1)
    data = jetnb.inputs.batches.Packed(x, offsets)
    torch.manual_seed(1)
    one = model("jet", encoder=DeepSets(FEATURES, dim=DIM), targets=[0, 1])
    with pytest.raises(RuntimeError, match="call loss"):
        one.monitors()
    training.fit(one, data, steps=300, batch_size=128, lr=5e-3, seed=1, progress=False)
    assert one.monitors()["explained"] > 0.5  # of nothing but noise there would be 0
    one.encoder.jet[-1].weight.data.zero_()
    one.loss(data[np.arange(50)], generator=generator())
    assert one.monitors()["rank"] == 0 and one.monitors()["variance"] == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("pileup")[:300]


def test_track_features_are_those_of_a_loop(jets):
    names = (
        "pt",
        "eta",
        "phi",
        "d0",
        "z0",
        "theta",
        "dz",
        "log_pt",
        "log_pt_rel",
        "deta",
        "dphi",
        "asinh_d0",
        "asinh_dz",
        "abs_dz",
        "asinh_abs_dz",
        "jet_rpt",
        "jet_n_vertices",
    )
    x, offsets = tracks.compute(jets, names, n_tracks=10, pt_max=8.0)
    rows = []
    for jet, n in zip(jets.to_list(), np.diff(offsets), strict=True):
        kept = [t for t in jet["constituents"] if t["pt"] <= 8][:10]
        assert len(kept) == n
        for t in kept:
            dphi = (t["phi"] - jet["phi"] + np.pi) % (2 * np.pi) - np.pi
            rows.append(
                [
                    t["pt"],
                    t["eta"],
                    t["phi"],
                    t["d0"],
                    t["z0"],
                    2 * np.arctan(np.exp(-t["eta"])),
                    t["dz"],
                    np.log(t["pt"]),
                    np.log(t["pt"] / jet["pt"]),
                    t["eta"] - jet["eta"],
                    dphi,
                    np.arcsinh(10 * t["d0"]),
                    np.arcsinh(10 * t["dz"]),
                    abs(t["dz"]),
                    np.arcsinh(10 * abs(t["dz"])),
                    jet["rpt"],
                    jet["n_vertices"],
                ]
            )
    np.testing.assert_allclose(x, rows, rtol=1e-5, atol=2e-5)


def test_track_data_are_scaled_on_training_jets(jets):
    x, _ = tracks.compute(jets[:200])
    scaler = inputs.Scaler.fit(x, tracks.TRACK)
    data = tracks.data(jets[200:], scaler=scaler, target=jets[200:].label)
    assert len(data) == 100 and data.targets[0].dtype == np.int64
    np.testing.assert_allclose(
        scaler.inverse(data.x), tracks.compute(jets[200:]).x, rtol=1e-4, atol=1e-3
    )
    with pytest.raises(ValueError, match="fit it"):
        tracks.data(jets, tracks.SHAPED, scaler=scaler)


def test_bad_tracks_are_refused(jets):
    for name, message in (
        ("speed", "is unknown"),
        ("jet_speed", "is unknown"),
        ("jet_constituents", "is unknown"),
    ):
        with pytest.raises(ValueError, match=message):
            tracks.compute(jets, [name])
    with pytest.raises(ValueError, match="is empty"):
        tracks.compute(jets, [])
    with pytest.raises(ValueError, match="positive"):
        tracks.compute(jets, n_tracks=0)
    without = ak.with_field(jets, jets.constituents[["pt", "eta", "phi"]], "constituents")
    with pytest.raises(ValueError, match="needs the constituent field 'dz'"):
        tracks.compute(without, ["dz"])
    broken = ak.with_field(
        jets, ak.with_field(jets.constituents, jets.constituents.dz * np.nan, "dz"), "constituents"
    )
    with pytest.raises(ValueError, match="feature 'dz' is nan"):
        tracks.compute(broken)


def test_jets_may_have_no_tracks(jets):
    x, offsets = tracks.compute(jets, pt_max=0.6)
    assert (np.diff(offsets) == 0).any() and len(x) == offsets[-1] > 0
    neutral = ak.with_field(
        jets, ak.with_field(jets.constituents, False, "has_track"), "constituents"
    )
    assert len(tracks.compute(neutral).x) == 0
    assert jetnb.jets.split(jets, (0.5, 0.5), seed=1)[0].fields == jets.fields
