"""Pretraining: any strategy in one call, and the way back from a checkpoint to an encoder.

A strategy is a class of `nn.Module`, ours or your own, with

    loss(batch, *, generator)  and, if it likes, monitors(): as for `training.fit`
    SETTINGS         its settings and their defaults, all that JSON can hold
    encoder          attribute: what finetuning takes, encoder(x, offsets) -> constituents (T, D), jets (B, D)

and where the defaults do not do,

    TITLE            what the card calls it, with its source
    make(**settings) class method that makes the module; without it the class is called with its settings
    hardest, extras  attributes: how many constituents of each jet it wants (None: all), and which `inputs.FEATURES`
                     after pt, deta and dphi
    jet_fields       attribute: the numbers of jets that follow in a batch, names of their fields; without it the
                     label, where the jets have one
    data(jets)       makes the training data itself; of stores only where `from_stores` is True: then of
                     `batches.Rows`, of which it should keep numbers of jets and read batches
    fit(data, *, seed)  called once with the training data: scalings, a first codebook
    card()           what the checkpoint says of it in place of "settings"; then restore(path), a static method, gives
                     the module and the card back
    after_step(done, total)  called after each step of the optimiser, for what follows the weights, such as a
                     teacher; what it changes is in buffers, or in parameters that have no gradient
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import torch
from torch import nn

import jetnb.jets
from jetnb import augment, checkpoints, inputs, training
from jetnb.inputs import batches
from jetnb.models.particles import ENCODER, FromParticles, from_settings
from jetnb.training import launched
from jetnb.training.history import History

HARDEST = 40
FITTED = 20_000  # jets of a store of which scalings and codebooks are made
STRATEGIES = {
    "classify_and_generate": "jetnb.strategies.classify_and_generate:ClassifyAndGenerate",
    "distill": "jetnb.strategies.distill:Distill",
    "jetclr": "jetnb.strategies.contrastive:JetCLR",
    "joint_embedding": "jetnb.strategies.joint_embedding:JointEmbedding",
    "masked_autoencoder": "jetnb.strategies.masked_autoencoder:MaskedAutoencoder",
    "masked_particles": "jetnb.strategies.masked_particles:MaskedParticles",
    "omnijet": "jetnb.strategies.next_token:NextToken",
    "particle_type": "jetnb.strategies.particle_type:ParticleType",
    "resimulation": "jetnb.strategies.resimulation:Resimulation",
    "self_distillation": "jetnb.strategies.self_distillation:SelfDistillation",
    "set_flow": "jetnb.strategies.set_flow:SetFlow",
    "supervised": "jetnb.strategies.supervised:Supervised",
    "supervised_contrast": "jetnb.strategies.supervised_contrast:SupervisedContrast",
    "tokens": "jetnb.strategies.tokens:Tokens",
}


def pretrain(
    strategy,
    jets: ak.Array | batches.Rows,
    path,
    *,
    seed: int,
    settings: Mapping | None = None,
    validation: ak.Array | batches.Rows | None = None,
    card: Mapping | None = None,
    **options,
) -> History:
    """Pretrain with `strategy` on `jets`, whose labels only a strategy that asks for them looks at;
    keep it at `path`.

    strategy: a name of `STRATEGIES`, a class, or "FILE.py:Class" or "package.module:Class". jets:
    an array, or `batches.Rows` of stores of any size, of which only batches are read. settings:
    those that shall differ from its `SETTINGS`; of one that is a dict, only the keys that differ.
    validation: other jets, on which the best epoch is picked. card: what else the checkpoint shall
    say. options: those of `training.fit`, such as steps, batch_size, lr, watch, resume. Returns the
    history; `load(path)` gives the encoder. Raises `ValueError` for a strategy or settings that are
    not there, and as `training.fit` does.
    """
    name, made = find(strategy)
    settings = _merged(made, settings or {}, name)
    model = _make(made, settings, seed=seed)
    train, held = (
        data_of(model, part) if part is not None else None for part in (jets, validation)
    )
    if hasattr(model, "fit"):
        model.fit(_some(train, seed), seed=seed)
    said = (
        model.card()
        if hasattr(model, "card")
        else {
            "settings": settings,
            **{key: settings[key] for key in ("encoder", "hardest") if key in settings},
        }
    )
    about = jetnb.jets.provenance(jets.stores[0].jets if isinstance(jets, batches.Rows) else jets)
    card = {
        "strategy": getattr(made, "TITLE", made.__name__),
        "pretrained_by": name,
        **said,
        "data": {key: about[key] for key in ("sample", "source")},
        "jets": len(jets),
        **(card or {}),
    }
    # `fit` has found all there is, as in k-means.
    if not any(weights.requires_grad for weights in model.parameters()):
        if launched.rank() == 0:
            training.check_free(path, options.get("resume", False))
            checkpoints.save(path, model, {**card, "trained": {}})  # refuses one of other settings
        return History(reason="finished")
    return training.fit(model, train, validation=held, path=path, seed=seed, card=card, **options)


def make(strategy, settings: Mapping | None = None, *, seed: int) -> nn.Module:
    """The module that `pretrain` would train, with random weights. Arguments and errors as there."""
    name, made = find(strategy)
    return _make(made, _merged(made, settings or {}, name), seed=seed)


def find(strategy) -> tuple[str, Any]:
    """Name and class of a strategy, see `pretrain`. Raises `ValueError` where there is none of that
    name.
    """
    if isinstance(strategy, type):
        return strategy.__name__, strategy
    module, colon, name = STRATEGIES.get(strategy, str(strategy)).rpartition(":")
    remedy = (
        f"use one of {', '.join(STRATEGIES)}, a class, 'FILE.py:Class' or 'package.module:Class'"
    )
    if not colon:
        raise ValueError(f"strategy {strategy!r} is unknown: {remedy}")
    try:
        if module.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module).stem, module)
            found = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found)
        else:
            found = importlib.import_module(module)
        return (strategy if strategy in STRATEGIES else name), getattr(found, name)
    except (ImportError, FileNotFoundError, AttributeError) as error:
        raise ValueError(f"strategy {strategy!r} cannot be loaded ({error}): {remedy}") from None


def load(path, strategy=None) -> tuple[nn.Module, dict]:
    """The pretrained encoder of the checkpoint at `path`, in evaluation mode, and the card of the
    checkpoint.

    strategy: as for `pretrain`, for one that is not ours: a checkpoint never says which code to
    run. Raises `FileNotFoundError` and `ValueError` as `checkpoints.restore` does. Taught in
    notebook 08.
    """
    card = checkpoints.read_card(path)
    # An encoder of ours, such as one trained with labels.
    if strategy is None and "settings" not in card and card.get("pretrained_by") not in STRATEGIES:
        return checkpoints.restore(path, build, name="encoder", part="encoder")
    if card.get("pretrained_by") == "tokens":
        raise ValueError(
            f"{path} is a tokenizer, which has no encoder of jets: restore(path) gives all of it"
        )
    model, card = restore(path, strategy)
    if not isinstance(getattr(model, "encoder", None), nn.Module):
        raise ValueError(
            f"{path} was pretrained by {type(model).__name__}, which has no attribute 'encoder', an "
            "nn.Module: give it one"
        )
    return model.encoder, card


def restore(path, strategy=None) -> tuple[nn.Module, dict]:
    """All that was trained in the checkpoint at `path`, with its heads, in evaluation mode, and the
    card of the checkpoint.

    strategy: as for `load`, and so are the errors. Taught in notebook 14.
    """
    card = checkpoints.read_card(path)
    name = card.get("pretrained_by")
    if strategy is None and name not in STRATEGIES:
        raise ValueError(
            f"{path} was pretrained by {name!r}, which is none of {', '.join(STRATEGIES)}: pass its class "
            "as strategy=..."
        )
    _, made = find(name if strategy is None else strategy)
    if hasattr(made, "card") and hasattr(made, "restore"):
        return made.restore(path)
    return checkpoints.restore(
        path, lambda settings, seed: _make(made, settings, seed=seed), name="settings"
    )


def particles(
    jets: ak.Array, *, hardest: int | None = HARDEST, extras=(), targets=("label",)
) -> batches.Packed:
    """Particles of N jets, the `hardest` of each, and their labels, as data for training and
    embedding.

    extras: names of `inputs.FEATURES` that follow as columns. targets: names of fields of jets.
    Returns `Packed(particles (T, 3 + E): pt [GeV], deta, dphi [rad] and the extras; offsets; label
    (N,))`, in place of the last all targets that these jets have. Taught in notebook 07.
    """
    x, offsets = inputs.to_relative(jets)
    if extras:
        x = np.column_stack([x, inputs.compute(jets, extras).x])
    packed = torch.from_numpy(x), torch.from_numpy(offsets)
    labels = [jets[name] for name in targets if name in jets.fields]  # data have none
    return batches.Packed(
        *(packed if hardest is None else augment.keep_hardest(*packed, n_max=hardest)), *labels
    )


def data_of(model: nn.Module, jets: ak.Array | batches.Rows):
    """The training data that a strategy makes, or wants made, of these jets."""
    hardest, extras = getattr(model, "hardest", None), getattr(model, "extras", ())
    if isinstance(jets, batches.Rows) and getattr(model, "from_stores", False):
        return model.data(jets)
    targets = getattr(model, "jet_fields", ("label",))
    stored = isinstance(jets, batches.Rows)
    every = [store.jets for store in jets.stores] if isinstance(jets, batches.Rows) else [jets]
    have = [some.fields for some in every]
    missing = [name for name in targets if not all(name in fields for fields in have)]
    if missing and hasattr(model, "jet_fields"):
        raise ValueError(
            f"these jets have no field {missing[0]!r}, which {type(model).__name__} learns from: use a "
            "sample that has it, or another setting 'label'"
        )
    if stored:
        return batches.Stored(
            jets,
            ("pt", "deta", "dphi", *extras),
            hardest=hardest,
            targets=() if missing else tuple(targets),
        )
    return (
        model.data(jets)
        if hasattr(model, "data")
        else particles(jets, hardest=hardest, extras=extras, targets=targets)
    )


def _some(data, seed: int) -> batches.Packed:
    """Of data that lie on disk so many jets as fit into memory, drawn at random where there are
    more.
    """
    if isinstance(data, batches.Packed):
        return data
    n_jets = getattr(data, "n_jets", len(data))
    rows = np.arange(len(data), dtype=batches.small(len(data)))
    if n_jets > FITTED:
        np.random.default_rng(seed).shuffle(rows)
        rows = rows[: len(data) * FITTED // n_jets]
    return batches.Packed(*data[rows])


def build(settings: Mapping = ENCODER, *, seed: int, extras: Iterable[str] = ()) -> FromParticles:
    """A new encoder of particles with `extras`, with random weights, not yet fitted to any: a
    transformer of these settings.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return from_settings(settings, extras=extras)


def _make(made: type, settings: Mapping, *, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return getattr(made, "make", made)(**settings)
        except TypeError as error:
            raise ValueError(f"settings do not fit {made.__name__}: {error}") from error


def _merged(made: type, settings: Mapping, name: str) -> dict:
    """The settings of a strategy: its own, but for those given."""
    own = getattr(made, "SETTINGS", {})
    parameters = inspect.signature(getattr(made, "make", made)).parameters.values()
    known = {
        *own,
        *(one.name for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)),
    }
    if not any(one.kind is one.VAR_KEYWORD for one in parameters) and (
        unknown := sorted(set(settings) - known)
    ):
        raise ValueError(
            f"settings: {name} has no {unknown[0]!r}: it has {', '.join(sorted(known))}"
        )
    _check_kinds(own, settings, name)
    return {
        **own,
        **{
            key: {**own[key], **value}
            if isinstance(value, Mapping) and isinstance(own.get(key), Mapping)
            else value
            for key, value in settings.items()
        },
    }


def _check_kinds(own: Mapping, settings: Mapping, name: str, within: str = "") -> None:
    """Raise `ValueError` for a word in the place of a number or of true and false, or one value in
    that of several.
    """
    for key, value in settings.items():
        said = f"settings: {within}{key} of {name} is {value!r}"
        if isinstance(own.get(key), Mapping):
            if not isinstance(value, Mapping):
                raise ValueError(f"{said}: give some of {', '.join(own[key])}, as {key}.NAME")
            _check_kinds(own[key], value, name, f"{key}.")
        elif isinstance(value, str) and isinstance(own.get(key), int | float):
            raise ValueError(f"{said}: give a value like the default, {own[key]!r}")
