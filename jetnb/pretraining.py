"""Pretraining in one call, and the way back from a checkpoint to an encoder: what notebook 07 builds by hand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import awkward as ak
import torch

from jetnb import augment, batches, checkpoints, inputs, training
from jetnb import jets as J
from jetnb.history import History
from jetnb.models import tokenizer
from jetnb.models.encoder import Transformer
from jetnb.models.particles import FromParticles
from jetnb.strategies import next_token
from jetnb.strategies.contrastive import JetCLR

HARDEST = 40
ENCODER = {"n_features": 5, "dim": 64, "n_layers": 3, "n_heads": 4}
VIEWS = {"scale": 0.1, "width": 0.1, "n_max": 50}


def particles(jets: ak.Array, *, hardest: int = HARDEST) -> batches.Packed:
    """Particles of N jets, the `hardest` of each, and their labels, as data for training and embedding.

    Returns `Packed(particles (T, 3): pt [GeV], deta, dphi [rad]; offsets; label (N,))`. Taught in notebook 07.
    """
    packed = map(torch.from_numpy, inputs.to_relative(jets))
    x, offsets = augment.keep_hardest(*packed, n_max=hardest)
    return batches.Packed(x, offsets, jets.label)


def build(settings: Mapping = ENCODER, *, seed: int) -> FromParticles:
    """A new encoder of particles, with random weights, not yet fitted to any: a transformer of these settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FromParticles(Transformer(**settings))


def jetclr(jets: ak.Array, path, *, seed: int, encoder: Mapping = ENCODER, views: Mapping = VIEWS,
           hardest: int = HARDEST, temperature: float = 0.1, card: Mapping | None = None, **options) -> History:
    """Pretrain an encoder with JetCLR on `jets`, whose labels are not looked at, and keep it as checkpoint `path`.

    encoder: settings of `models.encoder.Transformer`. views: those of `augment.views`. hardest: particles kept of each
    jet. temperature: of the loss. card: what else the checkpoint shall say. options: those of `training.fit`, such as
    steps, batch_size, lr, watch, resume. Returns the history; `load(path)` gives the encoder. Raises as
    `training.fit` does. arXiv:2108.04253. Taught in notebook 07.
    """
    data = particles(jets, hardest=hardest)
    start = build(encoder, seed=seed).fit(data.x, data.offsets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the projection head
        model = JetCLR(start, temperature=temperature, views=partial(augment.views, **views))
    card = {"strategy": "JetCLR, arXiv:2108.04253", "encoder": dict(encoder), "views": dict(views), "hardest": hardest,
            "temperature": temperature, **_about(jets), **(card or {})}
    return training.fit(model, data, path=path, seed=seed, card=card, **options)


def tokens(jets: ak.Array, path, *, seed: int, validation: ak.Array | None = None,
           settings: Mapping = tokenizer.LAPTOP, card: Mapping | None = None, **options) -> History:
    """Train a tokenizer on `jets` and keep it as checkpoint `path`, for `tokenizer.load(path)`.

    validation: other jets, on which the best epoch is picked. settings: of `models.tokenizer.Tokenizer`. card,
    options, errors: as for `jetclr`. arXiv:2403.05618. Taught in notebook 04.
    """
    extras = settings.get("extras", ())
    data, held = (batches.Packed(*tokenizer.particles(part, extras)) if part is not None else None
                  for part in (jets, validation))
    model = tokenizer.build(settings, seed=seed).fit(data, seed=seed)
    card = {"strategy": "VQ-VAE, arXiv:2403.05618", "tokenizer": dict(settings), **_about(jets), **(card or {})}
    if not list(model.parameters()):  # context "features": k-means has found all there is
        if not Path(path).exists() or not options.get("resume"):
            checkpoints.save(path, model, {**card, "strategy": "k-means of constituents", "trained": {}})
        return History(reason="finished")
    return training.fit(model, data, validation=held, path=path, seed=seed, card=card, **options)


def omnijet(jets: ak.Array, path, *, seed: int, codes, validation: ak.Array | None = None,
            sizes: Mapping = next_token.SIZES, turn: bool = False, card: Mapping | None = None,
            **options) -> History:
    """Pretrain a generator to predict the next token of `jets`, and keep it as checkpoint `path`, tokenizer included.

    codes: the checkpoint of the tokenizer. validation: other jets, on which the best epoch is picked. sizes, turn: of
    `strategies.next_token.NextToken`. card, options, errors: as for `jetclr`; `next_token.load(path)` gives the model.
    arXiv:2403.05618. Taught in notebook 05.
    """
    kept, about = tokenizer.load(codes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = next_token.NextToken(kept, sizes=sizes, turn=turn)
    data, held = (model.data(part) if part is not None else None for part in (jets, validation))
    card = {"strategy": "next token, arXiv:2403.05618", "next_token": model.settings, "codes_from": {
        name: about[name] for name in ("data", "jets", "trained")}, **_about(jets), **(card or {})}
    return training.fit(model, data, validation=held, path=path, seed=seed, card=card, **options)


def load(path) -> tuple[FromParticles, dict]:
    """The pretrained encoder of the checkpoint at `path`, in evaluation mode, and the card of the checkpoint.

    Raises `FileNotFoundError` and `ValueError` as `checkpoints.load` does. Taught in notebook 08.
    """
    return checkpoints.restore(path, build, name="encoder", part="encoder")


def _about(jets: ak.Array) -> dict:
    """What a card says of the jets."""
    about = J.provenance(jets)
    return {"data": {name: about[name] for name in ("sample", "source")}, "jets": len(jets)}
