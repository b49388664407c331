"""One training step of masked particles: packed against the same model padded, and the encoder on
visible particles against the encoder on all: a table.

    python tests/benchmarks/masked_particles_speed.py [--batch 128] [--rounds 9] [--hardest 0]

The padded model is the same one with the same weights, whose transformers work on as many slots for
each jet as the longest jet of the sample has; padding is hidden by masks, so the loss is the same up
to rounding. A step is loss, gradient and AdamW. Encoders are timed with their gradients. All take
their turn in each round, on the same jets; a ratio is the median over rounds of the process CPU time
over that of the other. One thread.
"""

from __future__ import annotations

import argparse
import copy
import time

import numpy as np
import torch

import jetnb
from jetnb import masks, pretraining
from jetnb.models._packed import select
from jetnb.strategies.masked_particles import MaskedParticles


def padded(model, width):
    """A copy that pads every jet to `width` slots."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "step"):
            module.step = width
    return model


def step(model, batch):
    """Seconds of process CPU time of one training step, and its loss."""
    optimiser = torch.optim.AdamW(model.parameters(), 1e-4)
    start = time.process_time()
    loss = model.loss(batch, generator=torch.Generator().manual_seed(1))
    loss.backward()
    optimiser.step()
    return time.process_time() - start, float(loss.detach())


def embed(encoder, x, offsets):
    start = time.process_time()
    encoder(x, offsets)[1].square().sum().backward()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--hardest", type=int, default=0, help="of each jet; 0 is all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    jets = jetnb.load("jetclass")
    jets = jets[np.random.default_rng(0).permutation(len(jets))[: args.batch * args.rounds]]
    settings = {**MaskedParticles.SETTINGS, "hardest": args.hardest or None}
    model = pretraining._make(MaskedParticles, settings, seed=1)
    data = pretraining.data_of(model, jets)
    model.fit(data, seed=1)
    lengths = np.diff(data.offsets)
    wide = padded(model, int(lengths.max()))
    print(
        f"{len(jets):,} jets of {lengths.mean():.1f} particles (at most {lengths.max()}), batch {args.batch}, "
        f"torch {torch.__version__}"
    )
    times = {name: [] for name in ("packed", "padded", "visible", "all")}
    for number, rows in enumerate(np.array_split(np.arange(len(jets)), args.rounds)):
        for first in [True, False] if number == 0 else [False]:  # the first is to warm up
            x, offsets, *_ = data[rows]
            mask = masks.draw(
                "random", x, offsets, 0.3, generator=torch.Generator().manual_seed(number)
            )
            (one, loss), (two, same) = (step(copy.deepcopy(m), (x, offsets)) for m in (model, wide))
            assert abs(loss - same) < 1e-3, "the padded model must have the same loss"
            three = embed(model.encoder, *select(x, offsets, ~mask))
            four = embed(model.encoder, x, offsets)
            if not first:
                for values, value in zip(times.values(), (one, two, three, four), strict=True):
                    values.append(value)
    for name, values in times.items():
        print(f"{name:8} {1e3 * np.median(values):8.1f} ms")
    times = {name: np.array(values) for name, values in times.items()}
    print(f"step, padded / packed: {np.median(times['padded'] / times['packed']):.2f}")
    print(
        f"encoder, visible at 30 % hidden / all: {np.median(times['visible'] / times['all']):.2f}"
    )


if __name__ == "__main__":
    main()
