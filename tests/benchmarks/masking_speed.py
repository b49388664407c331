"""Masking and one step of a masked autoencoder, packed against padded: CPU milliseconds, best of
some rounds.

    python tests/benchmarks/masking_speed.py [--jets 256] [--rounds 7]

The usual way pads every jet to 35 tracks and masks in a Python loop over jets, with a random choice
among the real tracks of each; encoder and decoder then work on all 35 slots, padding hidden by a
key mask. Written here with PyTorch's own transformer layers of the same sizes. One thread; all take
their turns within each round; a step is loss, gradient and AdamW.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np
import torch
from torch import nn

import jetnb
from jetnb import inputs, masks
from jetnb.inputs import tracks
from jetnb.models.encoder import DeepSets, Transformer, pad
from jetnb.strategies.masked_autoencoder import (
    MaskedAutoencoder,
    chamfer_loss,
    hungarian_loss,
)

SLOTS, DIM = 35, 64


def loop_mask(real, rng, ratio=0.5):
    """(B, P) True where hidden, one jet after the other."""
    mask = np.zeros(real.shape, bool)
    for row, there in zip(mask, real, strict=True):
        n = there.sum()
        if n > 1:
            row[
                rng.choice(
                    np.flatnonzero(there), min(int(ratio * n + rng.random()), n - 1), replace=False
                )
            ] = True
    return mask


class Padded(nn.Module):
    """The same masked autoencoder on (B, 35, F), with tokens put in place of hidden tracks of the
    encoder's output.
    """

    def __init__(self, n_features):
        super().__init__()
        layer = partial(
            nn.TransformerEncoderLayer,
            DIM,
            4,
            4 * DIM,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.embed, self.out = nn.Linear(n_features, DIM), nn.Linear(DIM, n_features)
        self.encoder = nn.TransformerEncoder(layer(), 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerEncoder(layer(), 1, enable_nested_tensor=False)
        self.token = nn.Parameter(0.02 * torch.randn(SLOTS, DIM))

    def forward(self, x, real, mask):
        h = self.encoder(self.embed(x), src_key_padding_mask=~real | mask)
        h = torch.where(mask[..., None], self.token, h.nan_to_num())
        found = self.out(self.decoder(h, src_key_padding_mask=~real))
        return (found - x)[mask].square().mean()


def compare(title, n_jets, runs, rounds):
    """Best CPU time of each run, in alternation, and its ratio to the first."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    first = next(iter(best.values()))
    print(f"\n{n_jets} jets: {title}\n{'':42}{'ms':>10}{'jets/s':>12}{'ratio':>8}")
    for name, value in best.items():
        print(f"{name:42}{1e3 * value:10.2f}{n_jets / value:12.0f}{value / first:8.2f}")


def step(model, loss):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run():
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    found = tracks.compute(jetnb.load("pileup")[: args.jets])
    x = torch.from_numpy(inputs.Scaler.fit(found.x, tracks.TRACK).transform(found.x))
    offsets, n_features = torch.from_numpy(found.offsets), x.shape[1]
    padded, real = pad(x, offsets)
    padded, real = (
        nn.functional.pad(one, (0, 0, 0, SLOTS - one.shape[1])[2 * (one.ndim == 2) :])
        for one in (padded, real)
    )
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    compare(
        f"masks of half of {len(x) / args.jets:.0f} tracks",
        args.jets,
        {
            "all jets at once": lambda: masks.random(None, offsets, generator=generator),
            "a loop over jets": lambda: loop_mask(real.numpy(), rng),
        },
        args.rounds,
    )

    def ours(encoder, decoder, **options):
        model = MaskedAutoencoder(encoder, decoder, n_features=n_features, **options)
        return step(model, lambda: model.loss((x, offsets), generator=generator))

    theirs, encoder = (
        Padded(n_features),
        partial(Transformer, n_features, dim=DIM, n_layers=2, n_heads=4),
    )
    decoder = partial(Transformer, DIM, dim=DIM, n_layers=1, n_heads=4)
    compare(
        f"training step, {DIM} dimensions, 2 + 1 layers",
        args.jets,
        {
            "packed transformer": ours(encoder(), decoder()),
            "padded transformer, a loop over jets": step(
                theirs, lambda: theirs(padded, real, torch.from_numpy(loop_mask(real.numpy(), rng)))
            ),
            "packed transformer, Chamfer": ours(encoder(), decoder(), loss_of=chamfer_loss),
            "packed transformer, Hungarian": ours(encoder(), decoder(), loss_of=hungarian_loss),
            "packed deep sets": ours(
                DeepSets(n_features, dim=DIM), DeepSets(DIM, dim=DIM), reads="jet"
            ),
        },
        args.rounds,
    )


if __name__ == "__main__":
    main()
