"""What the battery measures: jets as each model wants them, and the models."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import nn

import jetnb
from jetnb import inputs
from jetnb.inputs import batches
from jetnb.models import heads, particle_transformer, tokenizer
from jetnb.models.encoder import DeepSets, Transformer
from jetnb.models.particles import FromParticles
from jetnb.strategies.contrastive import JetCLR
from jetnb.strategies.masked_autoencoder import MaskedAutoencoder
from jetnb.strategies.next_token import NextToken


def sample(name: str, n_jets: int, seed: int = 0):
    every = jetnb.load(name)
    return every[np.random.default_rng(seed).permutation(len(every))[:n_jets]]


def packed(name: str, n_jets: int) -> dict[str, batches.Packed]:
    """The same jets as each model wants them: scaled features, features with momenta, particles."""
    some = sample(name, n_jets)
    label = np.clip(np.asarray(some.label, np.int64), 0, 9)
    features = inputs.available(some)
    x, offsets = inputs.compute(some, features)
    found = {
        "features": batches.Packed(inputs.Scaler.fit(x, features).transform(x), offsets, label),
        "momenta": batches.Packed(*particle_transformer.inputs(some), label),
    }
    return found | {"particles": batches.Packed(*inputs.to_relative(some), label)}


def sizes_of(tiny: bool) -> dict[str, dict]:
    """Settings of the models: those of the literature, about two million weights."""
    if tiny:
        return {
            "Transformer": dict(dim=32, n_layers=2, n_heads=4),
            "small": dict(dim=32, n_layers=1, n_heads=4),
            "Particle Transformer": dict(
                embed_dims=(32,), pair_dims=(8,), n_layers=1, n_heads=4, n_class_layers=1
            ),
            "codes": dict(n_codes=64),
            "generator": dict(n_codes=64, dim=32, n_layers=1, n_heads=4),
        }
    return {
        "Transformer": dict(dim=128, n_layers=10, n_heads=8),
        "small": dict(dim=128, n_layers=3, n_heads=4),
        "Particle Transformer": {},
        "codes": dict(n_codes=2048),
        "generator": dict(n_codes=8192, dim=256, n_layers=3, n_heads=8),
    }


def models(data: dict[str, batches.Packed], tiny: bool) -> dict[str, tuple[nn.Module, str]]:
    """Each model with a loss, and which of the data it takes."""
    width, settings = data["features"].x.shape[1], sizes_of(tiny)
    sizes, small, pairs = (
        settings[name] for name in ("Transformer", "small", "Particle Transformer")
    )
    torch.manual_seed(1)

    def ten(body):
        return heads.Classifier(body, heads.linear(body.dim, 10))

    particles = FromParticles(Transformer(5, **sizes)).fit(
        data["particles"].x, data["particles"].offsets
    )
    codes = tokenizer.Tokenizer(context="causal", **settings["codes"])
    codes.fit(data["particles"], seed=1)
    return {
        "Transformer": (ten(Transformer(width, **sizes)), "features"),
        "DeepSets": (ten(DeepSets(width, dim=sizes["dim"])), "features"),
        "Particle Transformer": (
            ten(particle_transformer.ParticleTransformer(data["momenta"].x.shape[1] - 4, **pairs)),
            "momenta",
        ),
        "JetCLR": (JetCLR(particles), "particles"),
        "masked autoencoder": (
            MaskedAutoencoder(
                Transformer(width, **small), Transformer(small["dim"], **small), n_features=width
            ),
            "features",
        ),
        "tokenizer": (codes, "particles"),
        "next token": (NextToken(copy.deepcopy(codes), sizes=small), "tokens"),
        "next token, turned": (
            NextToken(copy.deepcopy(codes), sizes=small, turn=True),
            "particles",
        ),
    }


def with_tokens(data: dict, model: nn.Module, name: str) -> dict:
    """The data, and its tokens as the model `name` makes them."""
    if name == "next token" and "tokens" not in data:
        x, offsets, label = (
            data["particles"].x,
            data["particles"].offsets,
            *data["particles"].targets,
        )
        parts = [
            model.tokenizer.encode(*batch) for batch in model.tokenizer._split(x, offsets, 512)
        ]
        data["tokens"] = batches.Packed(
            torch.cat(parts).float()[:, None].cpu().numpy(), offsets, label
        )
    return data


def on(batch, device: str):
    x, offsets, *rest = batch
    return x.to(device), offsets, *(values.to(device) for values in rest)
