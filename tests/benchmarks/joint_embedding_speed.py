"""One step of joint embedding, packed against padded: CPU milliseconds in pairs, and memory.

    python tests/benchmarks/joint_embedding_speed.py [--jets 64] [--pairs 7] [--slots 128]

The usual way pads every jet to 128 slots. Student, teacher and predictor work on all of them, with
a key mask for padding and, in the student, for what is hidden, as public codes do it. Written here
with PyTorch's own transformer layers of the same sizes; on whole jets and on the 40 hardest
particles, as our settings have it (padded to 40 then). One thread. A step is loss, gradient, AdamW
and the teacher. Each pair is one step of both, one after the other; the ratio is the median over
pairs. Memory is what each step leaves for its gradient: bytes of saved tensors.
"""

from __future__ import annotations

import argparse
import copy
import time
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import jetnb
from jetnb import masks, pretraining
from jetnb.models.encoder import pad
from jetnb.strategies.joint_embedding import JointEmbedding, follow


class Padded(nn.Module):
    """The same strategy on (B, P, F) with masks (B, P)."""

    def __init__(self, sizes, predictor):
        super().__init__()
        self.encoder = _Body(**sizes)
        self.predictor = _Body(n_features=sizes["dim"], **predictor)
        self.out = nn.Linear(predictor["dim"], sizes["dim"])
        self.place = nn.Sequential(
            nn.Linear(2, sizes["dim"]), nn.GELU(), nn.Linear(sizes["dim"], sizes["dim"])
        )
        self.token = nn.Parameter(0.02 * torch.randn(sizes["dim"]))
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def loss(self, x, real, hidden):
        seen = self.encoder(x, ~real | hidden).nan_to_num()
        context = torch.where(hidden[..., None], self.token, seen) + self.place(x[..., :2])
        found = self.out(self.predictor(context, ~real))
        with torch.no_grad():
            target = self.teacher(x, ~real)
            target = F.layer_norm(target, target.shape[2:])
        return (found - target)[hidden].square().mean()

    def after_step(self, done, total):
        follow(self.teacher, self.encoder, 0.99)


class _Body(nn.Module):
    def __init__(self, *, n_features, dim, n_layers, n_heads):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            dim, n_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.embed, self.norm = nn.Linear(n_features, dim), nn.LayerNorm(dim)
        self.blocks = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def forward(self, x, masked):
        return self.norm(self.blocks(self.embed(x), src_key_padding_mask=masked))


def step(model, loss):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run():
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        model.after_step(1, 100)

    return run


def saved(run) -> float:
    """MB of the tensors that one step keeps for its gradient."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(kept.values()) / 1e6


def compare(name, hardest, slots, args):
    settings = {**JointEmbedding.SETTINGS, "hardest": hardest}
    model = pretraining._make(JointEmbedding, settings, seed=1)
    data = pretraining.data_of(model, jetnb.load("jetclass")[: args.jets])
    model.fit(data, seed=1)
    batch = data[np.arange(args.jets)]
    x, offsets, *_ = batch
    generator = torch.Generator().manual_seed(1)
    theirs = Padded(settings["encoder"], settings["predictor"])

    def padded():
        scaled, real = pad(model.encoder.scaled(x, offsets), offsets)
        hidden = masks.random(x, offsets, model.ratio, generator=generator)
        hidden = pad(hidden[:, None].float(), offsets)[0][..., 0] > 0
        more = slots - scaled.shape[1]
        return theirs.loss(
            F.pad(scaled, (0, 0, 0, more)), F.pad(real, (0, more)), F.pad(hidden, (0, more))
        )

    runs = {
        "packed": step(model, partial(model.loss, batch, generator=generator)),
        "padded": step(theirs, padded),
    }
    memory = {key: saved(run) for key, run in runs.items()}
    times = {key: [] for key in runs}
    for _ in range(args.pairs):
        for key, run in runs.items():
            start = time.process_time()
            run()
            times[key].append(time.process_time() - start)
    ratios = np.divide(times["padded"], times["packed"])
    print(f"\n{name}: {len(x) / args.jets:.0f} particles per jet, padded to {slots}")
    for key, values in times.items():
        print(
            f"  {key}: {1e3 * np.median(values):7.1f} ms a step, {memory[key]:6.1f} MB for the gradient"
        )
    print(
        f"  ratio of time {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f} of "
        f"{args.pairs} pairs), of memory {memory['padded'] / memory['packed']:.2f}"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--slots", type=int, default=128)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    compare("whole jets", args.slots, args.slots, args)
    compare("the 40 hardest", 40, 40, args)


if __name__ == "__main__":
    main()
