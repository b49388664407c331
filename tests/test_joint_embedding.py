"""Joint embedding and self-distillation: what is hidden is hidden, what collapses shows, what breaks
goes on.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import jetnb
from jetnb import checkpoints, masks, pretraining, training
from jetnb.data.catalogue import DATA
from jetnb.inputs import batches
from jetnb.models.subjets import FromSubjets
from jetnb.strategies import joint_embedding, self_distillation
from jetnb.strategies.joint_embedding import JointEmbedding, teacher_momentum
from jetnb.strategies.self_distillation import SelfDistillation

SMALL = {
    "encoder": {"n_features": 5, "dim": 16, "n_layers": 2, "n_heads": 2},
    "predictor": {"dim": 16, "n_layers": 1, "n_heads": 2},
    "hardest": 20,
}
VIEWS = {
    "encoder": SMALL["encoder"],
    "hardest": 12,
    "views": "subjets",
    "masked": 1.0,
    "teacher_scales": [4, 6],
    "student_scales": [2],
    "prototypes": 16,
    "head": [16, 8],
}
QUIET = {"progress": False, "accelerator": "cpu"}


def few(n=96):
    return jetnb.load("jetclass")[:n]


def make(kind=JointEmbedding, n=96, **settings):
    """A strategy, fitted, and its data."""
    small = SMALL if kind is JointEmbedding else VIEWS
    model = pretraining._make(kind, pretraining._merged(kind, {**small, **settings}, "it"), seed=1)
    data = pretraining.data_of(model, few(n))
    return model.fit(data, seed=1), data


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def changed(x, hidden):
    """Particles of which the hidden ones have another pt and another place."""
    other = x.clone()
    other[hidden] = other[hidden] * torch.tensor([3.0, -1.0, 0.5]) + torch.tensor([1.0, 0.1, 0.2])
    return other


@pytest.mark.parametrize("kind", sorted(masks.KINDS))
def test_the_context_is_bit_identical_when_a_target_changes(kind):
    model, data = make(mask=kind)
    x, offsets, *_ = data[np.arange(30)]
    hidden = model.draw(x, offsets, generator=generator())
    contexts = []
    model.predictor.register_forward_hook(lambda module, given, out: contexts.append(given[0]))
    with torch.no_grad():
        jets = [model.predict(part, offsets, hidden)[1] for part in (x, changed(x, hidden))]
    assert hidden.any() and torch.equal(*jets) and torch.equal(*contexts)


def test_the_leak_on_purpose_is_one():
    model, data = make(context="jet")
    x, offsets, *_ = data[np.arange(30)]
    hidden = model.draw(x, offsets, generator=generator())
    with torch.no_grad():
        one, two = (model.predict(part, offsets, hidden)[1] for part in (x, changed(x, hidden)))
    assert not torch.allclose(one, two, atol=1e-3)


def test_subjets_as_tokens_are_hidden_whole_and_the_rest_is_bit_identical():
    model, data = make(tokens="subjets", radius=0.2)
    x, offsets, *_ = data[np.arange(30)]
    place, start, of = model.tokens(x, offsets)
    hidden = model.draw(x, offsets, generator=generator())
    assert len(hidden) == len(place) == int(start[-1]) < len(x) and hidden.any()
    seen, first = joint_embedding.select(x, offsets, ~hidden[of])
    # What is left clusters as before, so a jet without some subjets is what the student was given.
    again = model.encoder.group(seen, first)[0]
    torch.testing.assert_close(again, place[~hidden])
    with torch.no_grad():
        torch.testing.assert_close(
            model.predict(x, offsets, hidden)[1], model.encoder(seen, first)[1]
        )


def test_subjets_do_not_see_each_other_before_the_blocks():
    model, data = make(tokens="subjets", radius=0.2)
    x, offsets, *_ = data[np.arange(30)]
    place, _, of = model.tokens(x, offsets)
    torch.testing.assert_close(
        place[:, 0], torch.zeros(len(place)).index_add(0, of, x[:, 0]), rtol=1e-5, atol=1e-4
    )
    one = of == 3
    with torch.no_grad():
        before = model.encoder.embed(x, offsets, of)[0]
        after = model.encoder.embed(changed(x, one), offsets, of)[0]
    moved = (before != after).any(1)
    assert moved.nonzero().flatten().tolist() == [3]


def test_an_encoder_of_subjets_comes_back_and_gives_constituents(tmp_path):
    settings = {**SMALL, "tokens": "subjets", "radius": 0.2}
    pretraining.pretrain(
        "joint_embedding",
        few(),
        tmp_path / "ck",
        seed=1,
        settings=settings,
        steps=2,
        batch_size=32,
        **QUIET,
    )
    encoder, _ = pretraining.load(tmp_path / "ck")
    x, offsets, *_ = pretraining.particles(few(10), hardest=20)[np.arange(10)]
    constituents, jets_of = encoder(x, offsets)
    assert isinstance(encoder, FromSubjets)
    assert constituents.shape == (len(x), 16) and jets_of.shape == (10, 16)


def test_the_predictor_knows_where_but_not_what():
    model, data = make()
    x, offsets, *_ = data[np.arange(30)]
    hidden = model.draw(x, offsets, generator=generator())
    moved, harder = x.clone(), x.clone()
    moved[hidden, 1] += 0.3
    harder[hidden, 0] *= 2
    with torch.no_grad():
        found, there, same = (
            model.predict(part, offsets, hidden)[0] for part in (x, moved, harder)
        )
    assert torch.equal(found, same) and not torch.allclose(found, there, atol=1e-4)


def test_targets_are_normalised_and_without_gradient():
    model, data = make()
    x, offsets, *_ = data[np.arange(30)]
    target = model.targets(x, offsets)
    assert not target.requires_grad
    torch.testing.assert_close(target.mean(1), torch.zeros(len(x)), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(1, correction=0), torch.ones(len(x)), atol=1e-3, rtol=0)
    by_batch = make(normalise="batch")[0].targets(x, offsets)
    torch.testing.assert_close(by_batch.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    assert make(teacher="student")[0].targets(x, offsets).requires_grad


def test_the_loss_is_the_difference_of_what_is_hidden():
    model, data = make()
    batch = data[np.arange(30)]
    x, offsets, *_ = batch
    hidden = model.draw(x, offsets, generator=generator())
    wanted = model.targets(x, offsets)[hidden]
    by_hand = (model.predict(x, offsets, hidden)[0] - wanted).square().mean()
    torch.testing.assert_close(model.loss(batch, generator=generator()), by_hand)


def test_the_schedule_of_the_teacher_goes_with_the_number_of_steps():
    for total in (100, 1000, 100_000):
        found = [teacher_momentum(done, total) for done in range(0, total + 1, total // 100)]
        assert found == sorted(found) and found[-1] == 1
        # It remembers the same share of the training, however long that is.
        assert 1 / (1 - found[0]) == pytest.approx(0.05 * total)
    assert teacher_momentum(0, 10) == 0  # a memory of half a step is none


def test_the_teacher_is_the_average_that_its_schedule_says():
    model, data = make()
    student = dict(model.encoder.named_parameters())
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    with torch.no_grad():
        for value in student.values():
            value += 1
    model.after_step(300, 1000)
    m = teacher_momentum(300, 1000)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, m * before[name] + (1 - m) * student[name])
    assert float(model.momentum) == pytest.approx(m)


@pytest.mark.parametrize("kind", [JointEmbedding, SelfDistillation])
def test_the_optimiser_leaves_the_teacher_alone_and_it_follows(kind):
    model, data = make(kind, n=64)
    start = [value.clone() for value in model.teacher.parameters()]
    model.after_step = lambda done, total: None
    training.fit(model, data, steps=3, batch_size=32, seed=1, **QUIET)
    assert all(torch.equal(*pair) for pair in zip(start, model.teacher.parameters(), strict=True))
    del model.after_step
    training.fit(model, data, steps=3, batch_size=32, seed=1, **QUIET)
    moved = [not torch.equal(*pair) for pair in zip(start, model.teacher.parameters(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)  # a pool or a bias may have no gradient
    assert not model.teacher.training and not any(
        value.requires_grad for value in model.teacher.parameters()
    )


@pytest.mark.parametrize("kind", [JointEmbedding, SelfDistillation])
def test_a_break_changes_nothing(kind, tmp_path):
    options = {"steps": 8, "batch_size": 32, "seed": 5, "log_every": 2, "lr": 3e-3, **QUIET}
    more = {"balance": "centre", "views": "symmetries"} if kind is SelfDistillation else {}
    whole, data = make(kind, **more)
    done = training.fit(whole, data, **options)
    cut, _ = make(kind, **more)
    stop = {"path": tmp_path / "ck", "watch": lambda record: record["step"] == 4}
    assert training.fit(cut, data, **options, **stop).reason == "watch"
    again, _ = make(kind, **more)
    resumed = training.fit(again, data, **options, path=tmp_path / "ck", resume=True)
    assert resumed.reason == "finished" and resumed.epochs[-1]["loss"] == done.epochs[-1]["loss"]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


class Counting(torch.nn.Module):
    """Remembers which steps it was told of."""

    def __init__(self):
        super().__init__()
        self.weight, self.told = torch.nn.Parameter(torch.zeros(3)), []

    def loss(self, batch, *, generator=None):
        return (batch[0] - self.weight).square().mean()

    def after_step(self, done, total):
        self.told.append((done, total, self.weight.detach().clone()))


def test_a_model_is_told_of_each_step_after_the_weights_moved():
    model = Counting()
    data = batches.Packed(np.ones((40, 3), np.float32), np.arange(41), np.zeros(40, np.int64))
    training.fit(model, data, steps=5, batch_size=10, seed=1, **QUIET)
    assert [told[:2] for told in model.told] == [(step, 5) for step in range(1, 6)]
    assert torch.equal(model.told[-1][2], model.weight) and model.told[0][2].abs().min() > 0


def test_what_is_kept_is_the_student(tmp_path):
    pretraining.pretrain(
        "joint_embedding",
        few(),
        tmp_path / "ck",
        seed=1,
        settings=SMALL,
        steps=3,
        batch_size=32,
        **QUIET,
    )
    kept = checkpoints.inside(
        "encoder",
        checkpoints.restore(
            tmp_path / "ck",
            lambda settings, seed: pretraining._make(JointEmbedding, settings, seed=seed),
            name="settings",
        )[0].state_dict(),
    )
    encoder, _ = pretraining.load(tmp_path / "ck")
    assert all(torch.equal(value, kept[name]) for name, value in encoder.state_dict().items())
    assert all(value.requires_grad for value in encoder.parameters())


def test_collapse_shows_in_the_monitors_and_is_warned_of():
    healthy, data = make(n=256)
    options = dict(steps=60, batch_size=64, lr=3e-3, seed=1, **QUIET)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training.fit(healthy, data, **options)
    tripped, _ = make(n=256, teacher="student", normalise="none")
    training.fit(tripped, data, **options)
    good, bad = healthy.monitors(), tripped.monitors()
    assert bad["variance"] < 0.05 * good["variance"] and bad["cosine"] > 0.99 > good["cosine"]


def test_distillation_without_balance_goes_to_one_prototype():
    options = dict(steps=60, batch_size=64, lr=3e-3, seed=1, **QUIET)
    used = {}
    for balance in ("sinkhorn", "centre", "none"):
        model, data = make(
            SelfDistillation, n=256, views="symmetries", balance=balance, koleo=0.0, masked=0.0
        )
        training.fit(model, data, **options)
        used[balance] = model.monitors()["used"]
    assert used["none"] < 2 < 4 < used["sinkhorn"] and used["none"] < used["centre"]


def test_spread_tells_one_direction_from_all():
    line = torch.arange(1.0, 9)[:, None] * torch.ones(1, 8)
    found = joint_embedding.spread_of(line)
    assert found["rank"] == pytest.approx(1) and found["cosine"] == pytest.approx(1)
    around = joint_embedding.spread_of(torch.eye(8))
    assert around["cosine"] == pytest.approx(0) and around["rank"] == pytest.approx(7)
    assert around["variance"] == pytest.approx(1 / 8 - 1 / 64)


def test_sinkhorn_uses_all_prototypes_alike():
    scores = 5 * torch.randn(512, 8, generator=generator()) + 3 * torch.arange(8.0)
    found = self_distillation.sinkhorn(scores, 20)
    torch.testing.assert_close(found.sum(1), torch.ones(512))
    torch.testing.assert_close(found.sum(0), torch.full((8,), 64.0), rtol=0.05, atol=0)
    assert scores.softmax(1).sum(0)[0] < 10  # without it the first is hardly used


def test_views_as_subjets_keep_the_sum_of_pt():
    _, data = make()
    x, offsets, *_ = data[np.arange(20)]
    whole = joint_embedding._packed.total(
        x[:, :1], torch.from_numpy(np.repeat(np.arange(20), offsets.diff())), 20
    )
    for n in (1, 3, 50):
        subjets, start = self_distillation.as_subjets(x, offsets, n)
        assert torch.equal(start.diff(), offsets.diff().clamp(max=n))
        jet = torch.from_numpy(np.repeat(np.arange(20), start.diff()))
        torch.testing.assert_close(joint_embedding._packed.total(subjets[:, :1], jet, 20), whole)
    order = x[:, 0].argsort()  # 50 subjets of at most 20 particles are the particles
    torch.testing.assert_close(subjets[subjets[:, 0].argsort()], x[order])


def test_crowding_is_the_mean_log_distance_to_the_nearest():
    z = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, -3.0]], dtype=torch.float64)
    z = z + torch.tensor([[0, 0.1], [0, 0], [0, 0], [0, 0]])
    unit = z / z.norm(dim=1, keepdim=True)
    apart = torch.cdist(unit, unit).fill_diagonal_(9).min(1).values
    torch.testing.assert_close(self_distillation.crowding(z), -apart.log().mean())


@pytest.mark.parametrize(
    "kind, settings, said",
    [
        (JointEmbedding, {"mask": "all"}, "mask is 'all': use "),
        (JointEmbedding, {"teacher": "none"}, "teacher is 'none': use average, copy, student"),
        (
            JointEmbedding,
            {"query": ["log_pt_rel"]},
            "query is 'log_pt_rel': use deta, dphi, log_pt",
        ),
        (JointEmbedding, {"ratio": 1.0}, "ratio is 1.0 and memory 0.05"),
        (JointEmbedding, {"tokens": "jets"}, "tokens is 'jets': use particles, subjets"),
        (JointEmbedding, {"normalise": True}, "normalise is True: use vector, batch, none"),
        (SelfDistillation, {"teacher_scales": []}, "teacher_scales is empty"),
        (SelfDistillation, {"crops": 0}, "masked is 1.0 and crops 0"),
        (SelfDistillation, {"balance": "no"}, "balance is 'no': use sinkhorn, centre, none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, settings, said):
    with pytest.raises(ValueError, match=said):
        make(kind, n=8, **settings)


def test_the_shipped_one_says_what_it_is_and_predicts_jets_that_it_has_not_seen():
    path = DATA / "checkpoints" / "joint-embedding"
    model, card = checkpoints.restore(
        path, lambda settings, seed: JointEmbedding.make(**settings), name="settings"
    )
    assert card["trained"]["reason"] == "finished" and card["jets"] == 5001
    assert {part["seed"] for part in card["drawn_from"]} == {1001}  # the samples have 1
    data = pretraining.particles(few(300), hardest=card["hardest"])
    with torch.no_grad():
        model.loss(data[np.arange(300)], generator=generator())
    found = model.monitors()
    assert found["explained"] > 0.6 and found["rank"] > 15 and found["cosine"] < 0.8
