"""Distillation: the loss by hand, what a student learns, and teachers that are none."""

import shutil

import numpy as np
import pytest
import torch

import jetnb
from jetnb import checkpoints, pretraining
from jetnb.data.catalogue import DATA
from jetnb.strategies.distill import Distill, distillation, load_teacher

SMALL = {"n_features": 5, "dim": 16, "n_layers": 1, "n_heads": 2}
QUICK = {"batch_size": 64, "progress": False}
SHIPPED = DATA / "checkpoints" / "supervised"

pytestmark = pytest.mark.usefixtures("one_thread")


def few(n=300):
    return jetnb.load("jetclass")[:n]


def test_the_loss_by_hand():
    rng = np.random.default_rng(1)
    student, *teachers = rng.normal(size=(3, 5, 4)) * 3

    def share(logits, temperature):
        powers = np.exp(logits / temperature)
        return powers / powers.sum(1, keepdims=True)

    told = np.mean([share(one, 2.0) for one in teachers], axis=0)
    expected = 4 * (told * np.log(told / share(student, 2.0))).sum(1)
    found = distillation(
        torch.tensor(student), [torch.tensor(one) for one in teachers], temperature=2.0
    )
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    with pytest.raises(ValueError, match="must be logits"):
        distillation(torch.zeros(2, 3), [torch.zeros(2, 4)])


def test_gradients_keep_their_size_at_any_temperature():
    student, teacher = torch.tensor([[0.5, -0.5, 0.0]]), torch.tensor([[1.0, 0.0, -1.0]])
    sizes = []
    for temperature in (20.0, 40.0):
        logits = student.clone().requires_grad_()
        distillation(logits, [teacher], temperature=temperature).sum().backward()
        sizes.append(logits.grad.norm())
    assert float(sizes[0] / sizes[1]) == pytest.approx(1, rel=0.1)


def test_a_student_learns_from_two_teachers_and_comes_back_without_them(tmp_path):
    sample = few()
    unlabelled = sample[[name for name in sample.fields if name != "label"]]
    pretraining.pretrain(
        "supervised",
        sample,
        tmp_path / "teacher",
        seed=1,
        settings={"encoder": SMALL},
        steps=30,
        **QUICK,
    )
    teachers = [str(SHIPPED), str(tmp_path / "teacher")]
    before = {
        path: checkpoints._read(tmp_path.__class__(path) / "model.safetensors") for path in teachers
    }
    history = pretraining.pretrain(
        "distill",
        unlabelled,  # no label is needed
        tmp_path / "student",
        seed=1,
        settings={"teachers": teachers, "encoder": SMALL},
        steps=120,
        lr=5e-3,
        log_every=1,
        **QUICK,
    )
    losses = [record["loss"] for record in history.steps]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    assert history.epochs[-1]["agreement"] > history.epochs[0]["agreement"]
    weights = checkpoints._read(tmp_path / "student" / "model.safetensors")
    assert {name.partition(".")[0] for name in weights} == {"encoder", "head"}
    shutil.rmtree(tmp_path / "teacher")
    encoder, card = pretraining.load(tmp_path / "student")
    assert (
        encoder.dim == 16
        and [one["data"]["sample"] for one in card["teachers"]] == ["jetclass"] * 2
    )
    assert card["settings"]["teachers"] == [] and str(tmp_path) not in str(card)
    again = checkpoints._read(SHIPPED / "model.safetensors")
    assert all(torch.equal(before[str(SHIPPED)][name], value) for name, value in again.items())


def test_true_labels_can_have_a_share():
    settings = {**Distill.SETTINGS, "teachers": [str(SHIPPED)], "encoder": SMALL}
    losses = {}
    for share in (0.0, 0.5):
        model = pretraining._make(Distill, {**settings, "labels": share}, seed=1)
        data = pretraining.data_of(model, few(64))
        batch = data[np.arange(64)]
        losses[share] = float(model.fit(data, seed=1).loss(batch).detach())
        own = float(
            torch.nn.functional.cross_entropy(model.head(model.encoder(*batch[:2])[1]), batch[2])
        )
    assert losses[0.5] == pytest.approx(0.5 * losses[0.0] + 0.5 * own, rel=1e-4)


def test_teachers_do_not_learn_and_drop_nothing():
    settings = {**Distill.SETTINGS, "teachers": [str(SHIPPED)], "encoder": SMALL}
    model = pretraining._make(Distill, settings, seed=1)
    data = pretraining.data_of(model, few(32))
    model.fit(data, seed=1).train()
    model.loss(data[np.arange(32)]).backward()
    (teacher,) = model._teachers
    assert not teacher.training and all(one.grad is None for one in teacher.parameters())
    assert all(one.grad is not None for one in model.head.parameters())


def test_what_is_no_teacher_is_refused(tmp_path):
    data = pretraining.particles(few(32))
    cases = [
        ({}, "needs teachers"),
        (
            {"teachers": [str(DATA / "checkpoints" / "jetclr")]},
            "jetclr does not fit the model: head.0",
        ),
        ({"teachers": [str(SHIPPED)], "n_classes": 5}, "tells 10 classes, the student 5"),
        ({"teachers": [str(tmp_path / "none")]}, "there is no checkpoint at"),
        ({"teachers": [str(SHIPPED)], "extras": ["charge"]}, r"reads \[\] besides .* \['charge'\]"),
    ]
    for given, said in cases:
        model = pretraining._make(Distill, {**Distill.SETTINGS, "encoder": SMALL, **given}, seed=1)
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            model.fit(data, seed=1)
    with pytest.raises(ValueError, match="use the strategy 'supervised'"):
        pretraining._make(Distill, {**Distill.SETTINGS, "labels": 1.0}, seed=1)
    with pytest.raises(RuntimeError, match="no teachers"):
        pretraining._make(Distill, Distill.SETTINGS, seed=1).loss(data[np.arange(8)])
    assert load_teacher(SHIPPED)[0].head.out_features == 10
