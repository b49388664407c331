"""Particle Transformer: that of weaver-core to rounding, on packed jets, with its weights; padding
changes nothing.
"""

import math

import awkward as ak
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import jetnb
from jetnb import inputs as features
from jetnb.models._fast import drop, linear
from jetnb.models._pairs import _rapidity, pair_features
from jetnb.models.encoder import pad, select
from jetnb.models.heads import Classifier
from jetnb.models.heads import linear as linear_head
from jetnb.models.particle_transformer import (
    FULL,
    KIN,
    KINPID,
    ParticleTransformer,
    inputs,
    load_public,
)

SMALL = dict(embed_dims=(32, 64, 32), pair_dims=(8, 8), n_layers=2, n_heads=4)
LENGTHS = [7, 0, 1, 12, 7, 3, 0, 20]
PUBLIC = dict(use_pre_activation_pair=False, trim=False)  # as the networks of the public models


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("jetclass")[::1000]


def tensors(batch):
    return torch.from_numpy(batch.x), torch.from_numpy(batch.offsets)


def shake(model, seed=1):
    """All numbers of a model away from where they start, the widths of batch norms too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(
                    0.1
                    * torch.rand(value.shape, generator=generator)
                    .mul(1 if "var" in name else 2)
                    .sub(0 if "var" in name else 1)
                )
    return model


@pytest.fixture
def batch():
    """Jets of LENGTHS, six features and momenta of particles with mass."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(sum(LENGTHS), 10, generator=generator).double()
    x[:, -1] = (x[:, -4:-1].square().sum(1) + 0.1).sqrt()
    return x, torch.tensor([0, *np.cumsum(LENGTHS)])


@pytest.fixture(params=[1, 8])
def encoder(request):
    torch.manual_seed(3)
    return shake(ParticleTransformer(6, **SMALL, step=request.param)).double().eval()


def same(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def weaver(n_features, n_classes, **options):
    model = pytest.importorskip(
        "weaver.nn.model.ParticleTransformer", reason="weaver-core is not installed"
    )
    torch.manual_seed(4)
    return shake(model.ParticleTransformer(n_features, n_classes, **PUBLIC, **options)).eval()


@pytest.mark.parametrize(
    ("names", "fc", "old"), [(FULL, [], True), (KIN, [], False), (FULL, [(512, 0.1)], True)]
)
def test_public_weights_give_what_weaver_gives(jets, names, fc, old, tmp_path):
    n_classes = 188 if fc else 10
    reference = weaver(len(names), n_classes, fc_params=fc)
    state = {
        f"mod.{name.replace('in_proj.', 'in_proj_') if old else name}": value
        for name, value in reference.state_dict().items()
    }
    torch.save(state, tmp_path / "net.pt")
    encoder, head = load_public(tmp_path / "net.pt")
    shapes = {
        **encoder.state_dict(),
        **{f"fc.{name}": value for name, value in head.state_dict().items()},
    }
    assert {name: value.shape for name, value in reference.state_dict().items()} == {
        name: value.shape for name, value in shapes.items()
    }
    x, offsets = tensors(inputs(jets, names, jet_pt=500.0 if fc else None))
    padded, mask = pad(x, offsets)
    padded = F.pad(
        padded, (0, 0, 0, 128 - padded.shape[1])
    ).mT  # (B, F + 4, 128), as weaver is used
    mask = F.pad(mask, (0, 128 - mask.shape[1]))[:, None]
    model = Classifier(encoder, head).eval()
    with torch.no_grad():
        expected = reference(padded[:, :-4], v=padded[:, -4:], mask=mask)
        assert expected.std(0).mean() > 0.1  # weights matter
        torch.testing.assert_close(model(x, offsets), expected, rtol=1e-5, atol=1e-5)
        reference, model, padded = reference.double(), model.double(), padded.double()
        expected = reference(padded[:, :-4], v=padded[:, -4:], mask=mask)
        torch.testing.assert_close(model(x.double(), offsets), expected, rtol=1e-10, atol=1e-10)
        inside, _ = reference._forward_encoder(padded[:, :-4], v=padded[:, -4:], mask=mask)
        torch.testing.assert_close(
            encoder(x.double(), offsets)[0],
            reference.norm(inside)[mask[:, 0]],
            rtol=1e-10,
            atol=1e-10,
        )


def test_gradients_are_those_of_weaver(jets):
    reference = weaver(
        7, 10, embed_dims=(32, 64, 32), pair_embed_dims=(8, 8), num_layers=2, num_heads=4
    ).double()
    encoder, head = load_public(reference.state_dict())
    model = Classifier(encoder, head).double().eval()
    x, offsets = tensors(inputs(jets, KIN))
    label = torch.arange(len(jets)) % 10
    model.loss((x.double(), offsets, label)).backward()
    padded, mask = pad(x.double(), offsets)
    padded = padded.mT.requires_grad_()  # weaver's own switch for gradients
    F.cross_entropy(
        reference(padded[:, :7], v=padded[:, 7:].detach(), mask=mask[:, None]), label
    ).backward()
    found = {
        **dict(encoder.named_parameters()),
        **{f"fc.{name}": value for name, value in head.named_parameters()},
    }
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(
            found[name].grad, parameter.grad, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: n + m
        )


def test_batch_norm_of_pairs_sees_each_pair_once(batch):
    """The running mean after one step of training is the mean over pairs, counted by hand."""
    encoder = ParticleTransformer(6, **SMALL, step=8).double().train()
    norm = encoder.pair_embed.embed[0]
    norm.momentum = 1.0
    encoder(*batch)
    first, second = zip(
        *(
            (start + i, start + j)
            for start, n in zip(batch[1].tolist(), LENGTHS, strict=False)
            for i in range(n)
            for j in range(i + 1)
        ),
        strict=True,
    )
    pairs = pair_features(batch[0][:, 6:], torch.tensor(first), torch.tensor(second))
    torch.testing.assert_close(norm.running_mean, pairs.mean(0))
    torch.testing.assert_close(encoder.embed.input_bn.running_mean, 0.1 * batch[0][:, :6].mean(0))


def test_pair_features_by_hand():
    pt, y, phi, mass = (
        np.array([30.0, 4.0]),
        np.array([0.3, 0.5]),
        np.array([3.1, -3.0]),
        np.array([0.14, 0.5]),
    )
    mt = np.hypot(pt, mass)
    p = np.stack([pt * np.cos(phi), pt * np.sin(phi), mt * np.sinh(y), mt * np.cosh(y)])
    delta = math.hypot(0.2, 2 * math.pi - 6.1)
    total = p.sum(1)
    expected = [4 * delta, 4 / 34, delta, total[3] ** 2 - (total[:3] ** 2).sum()]
    found = pair_features(torch.from_numpy(p.T), torch.tensor([1, 0]), torch.tensor([0, 0]))
    np.testing.assert_allclose(found[0].exp(), expected, rtol=1e-9)
    np.testing.assert_allclose(found[1].exp(), [1e-8, 0.5, 1e-8, 4 * 0.14**2], rtol=1e-6)


def test_one_jet_is_nothing_to_another_and_empty_jets_are_fine(encoder, batch):
    x, offsets = batch
    constituents, jets = encoder(x, offsets)
    assert constituents.shape == (50, 32) and jets.shape == (8, 32)
    assert torch.isfinite(constituents).all() and torch.isfinite(jets).all()
    same((jets[1],), (jets[6],))
    assert (jets[0] - jets[4]).abs().max() > 1e-3
    for jet, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        same(
            encoder(x[start:end], torch.tensor([0, end - start])),
            (constituents[start:end], jets[jet : jet + 1]),
        )
    spoilt = x.clone()
    spoilt[offsets[3] : offsets[4]] = math.nan
    others = torch.arange(8) != 3
    same((encoder(spoilt, offsets)[1][others],), (jets[others],))
    assert [tuple(out.shape) for out in encoder(x[:0], offsets[:1])] == [(0, 32), (0, 32)]
    same((encoder(x[:0], torch.zeros(3, dtype=torch.int64))[1],), (jets[[1, 6]],))


def test_masked_constituents_and_padding_change_nothing(encoder, batch):
    x, offsets = batch
    keep = torch.rand(len(x), generator=torch.Generator().manual_seed(5)) > 0.4
    few = select(torch.where(keep[:, None], x, math.nan), offsets, keep)
    found = encoder(*few)
    encoder.step = 5
    same(encoder(*few), found)
    encoder.step = 32
    same(encoder(*few), found)
    assert (found[1] - encoder(x, offsets)[1]).abs().max() > 1e-3


def test_constituents_are_a_set(encoder, batch):
    x, offsets = batch
    constituents, jets = encoder(x, offsets)
    turn = torch.cat(
        [start + torch.randperm(n) for start, n in zip(offsets, LENGTHS, strict=False)]
    )
    assert not torch.equal(turn, torch.arange(len(x)))
    same(encoder(x[turn], offsets), (constituents[turn], jets))


def test_pairs_matter_and_frames_do_not(encoder, batch):
    x, offsets = batch
    _, jets = encoder(x, offsets)
    other = x.clone()
    other[:, 6:] *= 2  # m2 and kT change
    assert (encoder(other, offsets)[1] - jets).abs().max() > 1e-4
    angle, boost = torch.tensor(0.7).double(), torch.tensor(0.4).double()
    px, py, pz, energy = x[:, 6:].unbind(1)
    moved = torch.stack(
        [
            px * angle.cos() - py * angle.sin(),
            px * angle.sin() + py * angle.cos(),
            pz * boost.cosh() + energy * boost.sinh(),
            energy * boost.cosh() + pz * boost.sinh(),
        ],
        1,
    )
    torch.testing.assert_close(
        encoder(torch.cat([x[:, :6], moved], 1), offsets)[1], jets, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("lengths", [LENGTHS, [1], [0, 1], [0, 0], [1, 1, 1], [2]])
def test_training_and_gradients_are_finite(lengths):
    torch.manual_seed(6)
    encoder, offsets = (
        ParticleTransformer(6, **SMALL).train(),
        torch.tensor([0, *np.cumsum(lengths)]),
    )
    x = torch.randn(sum(lengths), 10)
    x[:, -1] = x[:, -4:-1].norm(dim=1)  # massless: m2 of a particle with itself is rounding
    x.requires_grad_()
    constituents, jets = encoder(x, offsets)
    (constituents.square().sum() + jets.square().sum()).backward()
    assert torch.isfinite(jets).all() and torch.isfinite(constituents).all()
    for name, parameter in [*encoder.named_parameters(), ("x", x)]:
        assert parameter.grad is None or parameter.grad.isfinite().all(), name
        if lengths == LENGTHS:
            assert parameter.grad.abs().sum() > 0, name
    assert all(value.isfinite().all() for value in encoder.state_dict().values())
    assert not x.grad[:, 6:].any()


def test_momenta_from_relative_coordinates(jets):
    """With a scaler, pairs come from log_pt, deta and dphi, and are those of massless constituents
    in the detector.
    """
    plain = features.compute(jets, features.KINEMATIC)
    scaler = features.Scaler.fit(plain.x, features.KINEMATIC)
    torch.manual_seed(7)
    relative = shake(ParticleTransformer(7, **SMALL, scaler=scaler)).double().eval()
    given = ParticleTransformer(7, **SMALL).double().eval()
    given.load_state_dict(relative.state_dict())
    x, offsets = tensors(inputs(jets, scaler=scaler))
    same(
        relative(x[:, :7].double(), offsets),
        given(torch.cat([x[:, :7].double(), relative._momenta(x.double())], 1), offsets),
    )
    x = x.double()
    px, py, pz = x[:, 7:10].unbind(1)
    massless = torch.stack([px, py, pz, (px**2 + py**2 + pz**2).sqrt()], 1)
    first = torch.arange(len(x))
    first = first[~torch.isin(first + 1, offsets)]  # that have a neighbour in their jet
    second = first + 1
    near = (
        pair_features(massless, first, second),
        pair_features(relative._momenta(x), first, second),
    )
    apart = (
        near[0][:, 2] > math.log(1e-2),
        near[0][:, 3] > math.log(10),
    )  # below, rounding to float32 is seen
    assert apart[0].sum() > 500 and apart[1].sum() > 100
    torch.testing.assert_close(near[0][apart[0], :3], near[1][apart[0], :3], rtol=0, atol=5e-3)
    torch.testing.assert_close(near[0][apart[1], 3], near[1][apart[1], 3], rtol=0, atol=5e-3)


def test_inputs_as_published(jets):
    assert len(FULL) == 17 and len(KINPID) == 13 and len(KIN) == 7
    x, offsets = inputs(jets)
    axis = np.repeat(np.arange(len(jets)), np.diff(offsets))
    jet = {name: np.asarray(jets[name], np.float64)[axis] for name in ("pt", "eta", "phi", "mass")}
    inside = {
        name: np.concatenate([np.asarray(part) for part in jets.constituents[name]]).astype(
            np.float64
        )
        for name in jets.constituents.fields
    }
    np.testing.assert_allclose(
        x[:, 0], np.clip((np.log(inside["pt"]) - 1.7) * 0.7, -5, 5), atol=2e-6
    )
    np.testing.assert_allclose(
        x[:, 2], np.clip((np.log(inside["pt"] / jet["pt"]) + 4.7) * 0.7, -5, 5), atol=2e-6
    )
    np.testing.assert_allclose(
        x[:, 15], (inside["eta"] - jet["eta"]) * np.where(jet["eta"] > 0, 1, -1), atol=2e-6
    )
    np.testing.assert_allclose(
        x[:, 4], np.clip((np.hypot(x[:, 15], x[:, 16]) - 0.2) * 4, -5, 5), atol=1e-5
    )
    np.testing.assert_array_equal(x[:, 5], inside["charge"])
    assert x[:, 12].min() >= 0 and x[:, 12].max() <= 1
    np.testing.assert_allclose(np.hypot(x[:, 17], x[:, 18]), inside["pt"], rtol=1e-6)
    np.testing.assert_allclose(np.arcsinh(x[:, 19] / inside["pt"]), inside["eta"], atol=2e-6)
    np.testing.assert_array_equal(x[:, 20], inside["energy"].astype(np.float32))
    scaled = inputs(jets, jet_pt=500.0).x
    np.testing.assert_allclose(scaled[:, 17:], x[:, 17:] * (500 / jet["pt"])[:, None], rtol=1e-5)
    np.testing.assert_allclose(
        scaled[:, 0],
        np.clip((np.log(inside["pt"] * 500 / jet["pt"]) - 1.7) * 0.7, -5, 5),
        atol=2e-6,
    )
    np.testing.assert_array_equal(scaled[:, 2:17], x[:, 2:17])
    scaler = features.Scaler.fit(features.compute(jets, KIN).x, KIN)
    again = inputs(jets, scaler=scaler)
    np.testing.assert_array_equal(again.x[:, :7], scaler.transform(features.compute(jets, KIN).x))
    np.testing.assert_array_equal(again.x[:, 7:], x[:, 17:])


def test_bf16_autocast(batch):
    torch.manual_seed(8)
    encoder, (x, offsets) = (
        ParticleTransformer(6, **SMALL, dropout=0.0),
        (batch[0].float(), batch[1]),
    )
    exact = encoder(x, offsets)[1]
    with torch.autocast("cpu", torch.bfloat16):
        constituents, jets = encoder(x, offsets)
        (constituents.float().square().mean() + jets.float().square().mean()).backward()
    assert 0 < (jets - exact).abs().max() < 0.2
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_it_learns_what_only_pairs_tell():
    """Two bunches of constituents with a sign each: in one class it is that of the bunch, in the
    other drawn.
    """
    rng = torch.Generator().manual_seed(9)
    lengths, label = torch.full((64,), 12), torch.arange(64) % 2
    offsets = torch.arange(65) * 12
    side = 1 - 2 * (torch.rand(64 * 12, generator=rng) < 0.5).float()
    drawn = 1 - 2 * (torch.rand(64 * 12, generator=rng) < 0.5).float()
    eta, phi = (
        0.3 * side + 0.02 * torch.randn(len(side), generator=rng),
        0.02 * torch.randn(len(side), generator=rng),
    )
    sign = torch.where(label.repeat_interleave(lengths) == 1, side, drawn)
    x = torch.stack([sign, -sign, phi.cos(), phi.sin(), eta.sinh(), eta.cosh()], 1)
    torch.manual_seed(10)
    model = Classifier(ParticleTransformer(2, **SMALL, dropout=0.0), linear_head(32, 2))
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = model.loss((x, offsets, label))
        loss.backward()
        optimiser.step()
    assert loss < 0.3


def test_quick_linear_and_dropout():
    generator = torch.Generator().manual_seed(11)
    for rows in (1, 37, 500):
        wide = torch.randn(rows, 40, generator=generator)
        x, weight, bias = (
            wide[:, :20],
            torch.randn(33, 20, generator=generator),
            torch.randn(33, generator=generator),
        )
        found, expected = (
            [t.clone().requires_grad_() for t in (x, weight, bias)] for _ in range(2)
        )
        one, other = linear(*found), F.linear(*expected)
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        for out in (one, other):
            (out * torch.arange(33)).sum().backward()
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(
            linear(x, weight, bias), other, rtol=1e-5, atol=1e-5
        )  # not contiguous
    torch.manual_seed(12)
    ones = torch.ones(1001, 999, requires_grad=True)
    dropped = drop(ones, 0.1)
    dropped.sum().backward()
    dropped = dropped.detach()
    assert torch.equal(ones.grad, dropped) and len(dropped.unique()) == 2
    assert (
        abs(float((dropped == 0).double().mean()) - 0.1) < 0.002
        and abs(float(dropped.double().mean()) - 1) < 0.003
    )
    assert torch.equal(drop(ones, 0.0), ones) and not drop(ones, 1.0).any()


def test_dropout_only_in_training(batch):
    encoder = ParticleTransformer(6, **SMALL, dropout=0.3).double()
    assert (encoder(*batch)[1] - encoder(*batch)[1]).abs().max() > 1e-4
    encoder.eval()
    same(encoder(*batch), encoder(*batch))


def test_what_does_not_fit_is_refused(jets, batch):
    scaler = features.Scaler(("log_pt", "deta"), (0, 0), (1, 1))
    for build, message in (
        (lambda: ParticleTransformer(6, n_heads=3), "multiple of 8 times n_heads, got 128"),
        (lambda: ParticleTransformer(0), "at least 1"),
        (lambda: ParticleTransformer(6, pair_dims=()), "at least 1"),
        (lambda: ParticleTransformer(2, scaler=scaler), "scaler is of log_pt, deta, but must be"),
        (lambda: inputs(jets, ["log_pt", "mass"]), "'mass' was not published"),
        (lambda: load_public({"a": torch.zeros(1)}), "no weights of version 1"),
        (lambda: ParticleTransformer(7, **SMALL)(*batch), r"floats of shape \(T, 11\)"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    state = ParticleTransformer(6, **SMALL).state_dict()
    encoder, head = load_public(state)
    assert head is None and encoder.dim == 32
    del state["blocks.1.fc1.bias"]
    with pytest.raises(ValueError, match="blocks.1.fc1.bias"):
        load_public(state)


@pytest.mark.parametrize("eta", [-40, -20, -12, -9, -8.5, 8.5, 9, 12, 20, 40])
def test_pairs_far_forward_are_finite(eta):
    """Massless constituents whose energy and |pz| are the same number in float32, with each other
    and a central one.
    """
    pt, eta, phi = (
        torch.tensor(values) for values in ([3.0, 2.0, 1.0], [eta, eta + 0.1, 0.2], [0.0, 0.1, 0.2])
    )
    momenta = torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], 1)
    first, second = torch.tril_indices(3, 3)
    found = pair_features(momenta, first, second)
    assert found.isfinite().all()
    mirrored = pair_features(momenta * torch.tensor([1, 1, -1, 1]), first, second)
    torch.testing.assert_close(found[:, :3].exp(), mirrored[:, :3].exp(), rtol=1, atol=0.5)


def test_rapidity_is_the_published_one_to_the_last_bit_where_that_is_finite():
    generator = torch.Generator().manual_seed(5)
    eta, pt = 24 * torch.rand(2, 4000, generator=generator) - 12
    pt = pt.abs() * 40 + 0.1
    pz, energy = pt * eta.sinh(), pt * eta.cosh() * (1 + 1e-4 * (torch.arange(4000) % 2))
    published = 0.5 * torch.log(1 + 2 * pz / (energy - pz).clamp(min=1e-20))
    found, finite = _rapidity(pz, energy), published.isfinite()
    assert 100 < (~finite).sum() < 2000 and found.isfinite().all()
    assert torch.equal(found[finite], published[finite]) and (found[~finite] < -5).all()


def test_a_jet_with_forward_constituents_has_finite_outputs(encoder):
    eta = torch.tensor([-9.0, -9.3, 0.1, 10.0])
    momenta = torch.stack([eta.cos(), eta.sin(), eta.sinh(), eta.cosh()], 1)
    x = torch.cat([torch.zeros(4, 6), momenta], 1)
    for values in encoder.float()(x, torch.tensor([0, 4])):
        assert values.isfinite().all()


def test_missing_values_are_named(jets):
    for masked, name in (
        (ak.mask(jets, jets.pt > 600), "pt"),
        (ak.with_field(jets, ak.mask(jets.pt, jets.pt > 600), "pt"), "pt"),
        (
            ak.with_field(
                jets, ak.mask(jets.constituents, jets.constituents.pt > 1), "constituents"
            ),
            "constituents.pt",
        ),
    ):
        with pytest.raises(ValueError, match=f"^{name} is of type .*ak.drop_none"):
            inputs(masked, KIN)
    some = ak.drop_none(ak.mask(jets, jets.pt > 600))
    assert np.array_equal(inputs(some, KIN).x, inputs(jets[jets.pt > 600], KIN).x)


def test_what_is_no_file_of_weights_gets_a_sentence(tmp_path):
    path = tmp_path / "net.pt"
    for content in (b"", b"<html>404</html>", b"PK\x03\x04junk", b"\x80\x04junk", b"\x89HDF\r\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="net.pt is no file of weights that torch.save wrote"):
            load_public(path)
    for saved, words in (
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([0, 1, 2], "holds a list"),
        ({"model": {}, "epoch": 3}, "model, epoch"),
        ({}, "but nothing"),
        ({"weight": torch.zeros(3)}, "no weights of version 1"),
    ):
        torch.save(saved, path)
        with pytest.raises(ValueError, match=words):
            load_public(path)
    with pytest.raises(FileNotFoundError, match="there is no file .*nowhere.pt"):
        load_public(tmp_path / "nowhere.pt")
