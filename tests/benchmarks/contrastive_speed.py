"""Two views of a batch and the contrastive loss, ours against the usual way: CPU milliseconds, best
of some rounds.

    python tests/benchmarks/contrastive_speed.py [--jets 1024] [--rounds 5]

The usual way to make views is NumPy on arrays padded to 50 particles, with a loop over jets and
particles for the splitting; to take the loss, the cosines of all pairs by broadcasting, which needs
(2 B)^2 D numbers. Both are written here from a description of the public JetCLR. One thread; all
take their turns within each round. The loss includes its gradient.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import awkward as ak
import numpy as np
import torch
from torch.nn import functional as F

import jetnb
from jetnb import augment
from jetnb.strategies.contrastive import nt_xent

SLOTS, DIM = 50, 128


def load(n_jets):
    """Shipped jets, cut to 50 particles, packed and padded."""
    jets = jetnb.load("jetclass")[:n_jets]
    particles = jets.constituents[:, :SLOTS]
    columns = particles.pt, particles.deltaeta(jets), particles.deltaphi(jets)
    packed = np.stack([ak.to_numpy(ak.flatten(column)) for column in columns], 1).astype(np.float32)
    offsets = np.append(0, np.cumsum(ak.to_numpy(ak.num(particles))))
    padded = [
        ak.to_numpy(ak.fill_none(ak.pad_none(column, SLOTS, clip=True), 0)) for column in columns
    ]
    return (
        torch.from_numpy(packed),
        torch.from_numpy(offsets),
        np.stack(padded, 1).astype(np.float32),
    )  # (B, 3, P)


def padded_views(x, rng):
    def turn(x):
        angle = rng.uniform(0, 2 * np.pi, (len(x), 1))
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([x[:, 0], cos * x[:, 1] - sin * x[:, 2], sin * x[:, 1] + cos * x[:, 2]], 1)

    def shift(x):
        by = np.ptp(x[:, 1:], axis=2, keepdims=True) * rng.uniform(-1, 1, (len(x), 2, 1))
        return np.concatenate([x[:, :1], x[:, 1:] + by * (x[:, :1] > 0)], 1)

    def split(x):
        x = x.copy()
        for jet in x:
            n = np.count_nonzero(jet[0])
            chosen = rng.choice(n, min(n, SLOTS - n), replace=False)
            share = rng.uniform(size=len(chosen))
            for slot, (old, r) in enumerate(zip(chosen, share, strict=True), n):
                jet[:, slot] = (1 - r) * jet[0, old], jet[1, old], jet[2, old]
                jet[0, old] *= r
        return x

    def smear(x):
        by = rng.standard_normal((len(x), 2, SLOTS)) * 0.1 / x[:, :1].clip(min=0.1) * (x[:, :1] > 0)
        return np.concatenate([x[:, :1], x[:, 1:] + by], 1)

    return shift(turn(x)), shift(smear(split(split(turn(x)))))


def broadcast_loss(z1, z2, temperature=0.1):
    z = torch.cat([z1, z2])
    similarity = torch.exp(F.cosine_similarity(z[:, None], z[None], dim=2) / temperature)
    others = similarity.sum(1) - similarity.diagonal()
    positive = torch.exp(F.cosine_similarity(z1, z2) / temperature)
    return -(positive.repeat(2) / others).log().mean()


def backward(loss, z1, z2):
    z1, z2 = z1.detach().requires_grad_(), z2.detach().requires_grad_()
    loss(z1, z2).backward()


def compare(title, n_jets, runs, rounds):
    """Best CPU time of each run, in alternation, and its ratio to the first."""
    best = dict.fromkeys(runs, np.inf)
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    first = next(iter(best.values()))
    print(f"\n{n_jets} jets: {title}\n{'':36}{'ms':>10}{'jets/s':>12}{'ratio':>8}")
    for name, value in best.items():
        print(f"{name:36}{1e3 * value:10.2f}{n_jets / value:12.0f}{value / first:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    particles, offsets, padded = load(args.jets)
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    ours = partial(augment.views, particles, offsets, generator=generator)
    mean = len(particles) / args.jets
    compare(
        f"two views, mean of {mean:.0f} particles, at most {SLOTS}",
        args.jets,
        {
            "packed torch": ours,
            "padded NumPy": lambda: padded_views(padded, rng),
            "packed torch, up to 128 particles": partial(ours, n_max=128),
        },
        args.rounds,
    )
    for n_jets, losses in ((256, ("dense", "chunked", "broadcast")), (2048, ("dense", "chunked"))):
        z1, z2 = torch.randn(2, n_jets, DIM, generator=generator)
        functions = {
            "dense": nt_xent,
            "chunked": partial(nt_xent, chunk=256),
            "broadcast": broadcast_loss,
        }
        numbers = 4 * n_jets**2 * 4 / 1e6
        compare(
            f"loss, {DIM} dimensions, {numbers:.0f} MB of similarities, "
            f"{numbers * DIM:.0f} MB by broadcasting",
            n_jets,
            {name: partial(backward, functions[name], z1, z2) for name in losses},
            args.rounds,
        )


if __name__ == "__main__":
    main()
