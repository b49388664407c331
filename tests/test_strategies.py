"""Audits that every strategy passes: what is padded, in which order particles come, and what is
hidden must not leak into what is learned.

A new strategy is a row in `CASES`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pytest
import torch

import jetnb
from jetnb import packed, pretraining, training
from jetnb.data.catalogue import DATA
from jetnb.inputs import TRACK, TYPES
from jetnb.models.particles import FromParticles

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"dim": 16, "n_layers": 2, "n_heads": 2}
RATIO = 0.3
MASK = {"kind": "random", "ratio": RATIO}
TOKENIZER = DATA / "checkpoints" / "tokens-aoj"


class Case(NamedTuple):
    """How a strategy is audited.

    settings: small ones. strategy: its name in `STRATEGIES`, where the case has another. sees: the
    module, by its path in the model, that must not see what is hidden; None where nothing is.
    hides: the columns of particles of which a change is hidden. still: takes away randomness that
    goes by the place of a particle, for strategies that do not sort. ordered: whether the order of
    particles is part of the model, so that another one may change the loss. sample: what it
    learns from. empty: whether jets may be.
    """

    settings: Mapping
    strategy: str | None = None
    sees: str | None = None
    hides: tuple[int, ...] = (0, 1, 2)
    still: Callable | None = None
    ordered: bool = False
    sample: str = "jetclass"
    empty: bool = True


def without_views(model):
    """Two views that are the same in any order: as it is, and mirrored."""

    def views(particles, offsets, *, generator):
        return (particles, offsets), (particles * particles.new_tensor([1, 1, -1]), offsets)

    model.views = views


def without_noise(model):
    """Only what is not noised, which goes by the place of a particle."""
    model.weights = {"clean": 1.0, "noised": 0.0, "generate": 0.0}


def masked(*targets, reads="visible", **settings):
    settings = {"targets": list(targets), "reads": reads, "n_codes": 16, **settings}
    return Case(
        {"encoder": SMALL, "decoder": SMALL, "mask": MASK, **settings},
        strategy="masked_particles",
        sees="encoder" if reads == "visible" else "encoder.encoder",
    )


CASES = {
    "jetclr": Case({"encoder": SMALL}, still=without_views),
    "masked_autoencoder": Case(
        {"encoder": SMALL, "decoder": SMALL, "ratio": RATIO}, sees="encoder", ordered=True
    ),
    "masked_particles": masked("regression", "kmeans", "flow"),
    "masked_particles, mask token in the input": masked("kmeans", reads="tokens"),
    "masked_particles, types and displacement": masked(
        "regression", "kmeans", "types", "flow", extras=["charge", *TYPES, *TRACK]
    ),
    "masked_particles, VQ-VAE": masked("codes", vqvae=str(TOKENIZER)),
    "particle_type": Case(
        {"encoder": SMALL, "decoder": SMALL, "mask": MASK}, sees="encoder", hides=(3, 4)
    ),
    "particle_type, all of it hidden": Case(
        {"encoder": SMALL, "decoder": SMALL, "mask": MASK, "hides": "particle"},
        strategy="particle_type",
        sees="encoder",
        hides=(0, 1, 2, 3, 4),
    ),
    "set_flow": Case(
        {"encoder": SMALL, "decoder": {**SMALL, "dim": 32}, "mask": MASK}, sees="encoder"
    ),
    "omnijet": Case({"codes": str(TOKENIZER), "sizes": SMALL}, ordered=True),
    "supervised": Case({"encoder": SMALL}),
    "supervised, fine classes": Case({"encoder": SMALL, "label": "fine_grained"}, "supervised"),
    "supervised_contrast": Case({"encoder": SMALL}, still=without_views),
    "joint_embedding": Case({"encoder": SMALL, "predictor": SMALL, "ratio": RATIO}, sees="encoder"),
    "joint_embedding, walk": Case(
        {"encoder": SMALL, "predictor": SMALL, "ratio": RATIO, "mask": "walk"}, "joint_embedding"
    ),
    "joint_embedding, subjets": Case(
        {"encoder": SMALL, "predictor": SMALL, "tokens": "subjets"}, "joint_embedding"
    ),
    "self_distillation": Case({"encoder": SMALL, "prototypes": 16, "head": [16, 8]}),
    "resimulation": Case(
        {"encoder": SMALL, "groups": "dijet"}, sample="hh4b", ordered=True, empty=False
    ),
    "classify_and_generate": Case({"encoder": SMALL, "generator": SMALL}, still=without_noise),
    "distill": Case({"encoder": SMALL, "teachers": [str(DATA / "checkpoints" / "supervised")]}),
    "tokens": Case({"n_codes": 16, **SMALL, "context": "jet"}),
}
HIDING = [name for name, case in CASES.items() if case.sees]
EVERY = pytest.mark.parametrize("name", CASES)


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


@functools.cache
def sample(name, n=64):
    return jetnb.load(name)[:n]


def made(name, *, seed=1):
    """The model of a case, fitted, in double precision, and its data."""
    case = CASES[name]
    _, strategy = pretraining.find(case.strategy or name)
    settings = pretraining._merged(strategy, case.settings, name)
    model = pretraining._make(strategy, settings, seed=seed)
    data = pretraining.data_of(model, sample(case.sample))
    if hasattr(model, "fit"):
        model.fit(data, seed=seed)
    return model, data


@functools.cache
def ready(name):
    model, data = made(name)
    return model.double(), data


def batch_of(name, lengths=None):
    """Model and a batch: all jets, or as many as there are lengths, cut to these."""
    model, data = ready(name)
    x, offsets, *targets = data[np.arange(len(data))]
    if lengths is not None:
        lengths = np.array(lengths)
        assert (np.diff(offsets)[: len(lengths)] >= lengths).all()
        rows = packed.rows(offsets[: len(lengths)].numpy(), lengths)
        x, offsets = x[rows], torch.from_numpy(packed.starts(lengths))
        targets = [target[: len(lengths)] for target in targets]
    x = x.double() if x.is_floating_point() else x
    return copy.deepcopy(model), (x, offsets, *targets)


def learned(model, batch, *, train=True, seed=1):
    """Loss, gradients and buffers (running statistics) after a batch."""
    model.train(train)
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    loss = model.loss(batch, generator=generator(seed))
    if loss.requires_grad:
        loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(model.named_buffers())}


def assert_same(one, two):
    assert one.keys() == two.keys() and len(one) > 1
    for name, values in one.items():
        torch.testing.assert_close(
            values, two[name], rtol=1e-7, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_every_strategy_has_an_audit():
    assert {case.strategy or name for name, case in CASES.items()} == set(pretraining.STRATEGIES)


@EVERY
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_padding_changes_nothing(name, train):
    model, batch = batch_of(name)
    found = []
    for step in (1, 8, 64):
        padded = copy.deepcopy(model)
        changed = [module for module in padded.modules() if hasattr(module, "step")]
        assert changed
        for module in changed:
            module.step = step
        found.append(learned(padded, batch, train=train))
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.ordered])
@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
def test_the_order_of_particles_changes_nothing(name, train):
    model, (x, offsets, *targets) = batch_of(name)
    if CASES[name].still:
        CASES[name].still(model)
    jet = packed.jet_of(offsets.diff().numpy())
    order = torch.from_numpy(np.lexsort((np.random.default_rng(2).random(len(x)), jet)))
    assert (order != torch.arange(len(x))).double().mean() > 0.8
    other = copy.deepcopy(model)
    assert_same(
        learned(model, (x, offsets, *targets), train=train),
        learned(other, (x[order], offsets, *targets), train=train),
    )


def seen_of(name, model, batch):
    """What the module that must not see the hidden makes of a batch, and the loss."""
    found = []

    def look(module, given, out):
        found.extend(part.detach().clone() for part in (*given, *out) if torch.is_tensor(part))

    hook = model.get_submodule(CASES[name].sees).register_forward_hook(look)
    with torch.no_grad():
        loss = model.eval().loss(batch, generator=generator())
    hook.remove()
    assert found
    return found, float(loss)


@pytest.mark.parametrize("name", HIDING)
def test_what_is_hidden_is_not_seen(name):
    model, (x, offsets, *targets) = batch_of(name, (10, 10, 10))
    before, loss = seen_of(name, model, (x, offsets, *targets))

    def seen_after(rows, shift):
        changed = x.clone()
        for column in CASES[name].hides:  # pt a little, so that the order stays
            by = (1e-6, shift, shift)[column] if column < 3 else 1 - 2 * changed[rows, column]
            changed[rows, column] += by
        now, moved = seen_of(name, model, (changed, offsets, *targets))
        return all(torch.equal(one, two) for one, two in zip(before, now, strict=True)), moved

    hidden = [row for row in range(len(x)) if seen_after([row], 1e-6)[0]]
    assert np.bincount(np.array(hidden) // 10, minlength=3).tolist() == [3, 3, 3]  # RATIO of 10
    same, moved = seen_after(hidden, 0.3)
    assert same and moved != loss  # it is asked for


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.empty])
def test_short_and_empty_jets_are_taken(name):
    model, batch = batch_of(name, (0, 1, 9, 2, 0, 1, 12))
    for parts in learned(model, batch).values():
        assert parts.isfinite().all()
    if isinstance(encoder := getattr(model, "encoder", None), FromParticles):
        for vectors in encoder.eval()(*batch[:2]):
            assert vectors.isfinite().all()


@pytest.mark.parametrize("name", HIDING)
def test_jets_in_which_nothing_is_hidden_are_refused(name):
    model, batch = batch_of(name, (0, 1, 1, 0))
    with pytest.raises(ValueError, match="hidden.*leave out jets"):
        model.loss(batch, generator=generator())


@EVERY
def test_the_loss_falls(name):
    model, data = made(name)
    everything = data[np.arange(len(data))]

    def mean_loss():
        with torch.no_grad():
            return np.mean(
                [float(model.eval().loss(everything, generator=generator(i))) for i in range(4)]
            )

    before = mean_loss()
    training.fit(model, data, steps=40, batch_size=32, lr=5e-3, seed=1, progress=False)
    assert mean_loss() < 0.95 * before


@EVERY
def test_a_seed_gives_the_same_numbers(name):
    (one, data), (two, _), (other, _) = made(name), made(name), made(name, seed=2)
    batch = data[np.arange(16)]
    first, again = learned(one, batch), learned(two, batch)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["loss"], learned(other, batch)["loss"])
