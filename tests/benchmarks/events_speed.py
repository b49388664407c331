"""Training on events packed twice against the zero-padded route, (events, 5, 100, F): seconds and
memory.

    python tests/benchmarks/events_speed.py [--events 1000] [--batch 64] [--steps 12] [--rounds 3] [--dim 32]

Both have the same weights, features, batches, loss and optimiser, all up to 100 constituents of
each jet, and give the same logits, which is checked first. "Padded" is what arXiv:2401.13536
stores: five jets of 100 constituents for each event, attention with a mask. "Padded, jets packed"
leaves absent jets out before the encoder. One thread. CPU seconds are of the process; the routes
take turns within each round, the first round is not counted. Peak memory is that of a new process
that makes the data and does 3 steps, above what it had before (Linux only).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

import jetnb
from jetnb import inputs
from jetnb.inputs import events
from jetnb.models.encoder import Transformer
from jetnb.models.event_head import EventClassifier, JetTagger

JETS, CONSTITUENTS = 5, 100
ROUTES = ("packed twice", "padded", "padded, jets packed")


def make(n, dim, layers):
    jets = events.group(jetnb.load("hh4b"))
    scaler = inputs.Scaler.fit(events.compute(jets[:2000]).x, events.FEATURES)
    data = events.from_jets(jets, scaler=scaler, hardest=CONSTITUENTS)
    rows, offsets = data.jets_of(np.arange(min(n, len(data))))
    x, in_jets = data.by_jet()[rows]
    data = events.Events(
        x.numpy(), in_jets.numpy(), offsets, data.hlf[rows], data.targets[0][: len(offsets) - 1]
    )
    torch.manual_seed(0)
    tagger = JetTagger(Transformer(len(events.FEATURES), dim=dim, n_layers=layers, n_heads=4))
    return data, EventClassifier(tagger, hlf=len(events.HLF))


class Padded:
    """The same events as zero-padded arrays, and the same model on them."""

    def __init__(self, data, *, drop_absent=False):
        n_events, self.drop_absent = len(data), drop_absent
        x = np.zeros((n_events, JETS, CONSTITUENTS, data.x.shape[1]), np.float32)
        hlf = np.zeros((n_events, JETS, data.hlf.shape[1]), np.float32)
        mask, real = np.zeros(x.shape[:3], bool), np.zeros(x.shape[:2], bool)
        event = np.repeat(np.arange(n_events), np.diff(data.events))
        jet = np.arange(len(event)) - data.events[event]
        hlf[event, jet], real[event, jet] = data.hlf, True
        of = np.repeat(np.arange(len(event)), np.diff(data.jets))
        place = np.arange(len(of)) - data.jets[of]
        x[event[of], jet[of], place], mask[event[of], jet[of], place] = data.x, True
        self.arrays = [torch.from_numpy(values) for values in (x, mask, hlf, real, data.targets[0])]

    def loss(self, model, indices):
        *given, label = (values[torch.from_numpy(indices)] for values in self.arrays)
        logits = self.logits(model, *given)
        return F.binary_cross_entropy_with_logits(logits, label.float())

    def logits(self, model, x, mask, hlf, real):
        x, mask = x.flatten(0, 1), mask.flatten(0, 1)  # (events * 5, 100, F)
        if self.drop_absent:
            chosen = real.flatten()
            x, mask = x[chosen], mask[chosen]
        encoder, allowed = model.tagger.encoder, mask[:, None, None].clone()
        allowed[~mask.any(1)] = True  # an absent jet attends to zeros, or its softmax is nan
        h = F.linear(x, encoder.embed.weight, encoder.embed.bias)
        for block in encoder.blocks:
            qkv = F.linear(block.attention_norm(h), block.qkv.weight, block.qkv.bias)
            q, k, v = qkv.view(*h.shape[:2], 3, block.n_heads, -1).permute(2, 0, 3, 1, 4)
            part = (
                F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
                .transpose(1, 2)
                .flatten(2)
            )
            h = h + F.linear(part, block.project.weight, block.project.bias)
            hidden = F.gelu(F.linear(block.mlp_norm(h), block.expand.weight, block.expand.bias))
            h = h + F.linear(hidden, block.contract.weight, block.contract.bias)
        jets = (encoder.norm(h) * mask[..., None]).sum(1) / mask.sum(1).clamp(min=1)[:, None]
        if self.drop_absent:
            jets = jets.new_zeros(len(chosen), jets.shape[1]).index_put(
                (chosen.nonzero()[:, 0],), jets
            )
        z = torch.cat([model.tagger.reduce(jets), hlf.flatten(0, 1)], 1)
        summed = (model.head.jet(z).view(*real.shape, -1) * real[..., None]).sum(1)
        return model.head.event(summed)[:, 0]

    def bytes(self):
        return sum(values.numel() * values.element_size() for values in self.arrays)


def route(name, data, model):
    """loss(indices), and the bytes that the data take."""
    if name == ROUTES[0]:
        held = sum(
            array.nbytes for array in (data.x, data.jets, data.events, data.hlf, *data.targets)
        )
        return lambda indices: model.loss(data[indices]), held
    dense = Padded(data, drop_absent=name == ROUTES[2])
    return lambda indices: dense.loss(model, indices), dense.bytes()


def step(loss, optimizer, indices):
    loss(indices).backward()
    optimizer.step()
    optimizer.zero_grad()


def memory(what):
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[what].split()[0]) / 1024  # MB


def peak(name, a):
    """Peak memory of this process above what it had with jets loaded and the model made, in MB."""
    data, model = make(a.events, a.dim, a.layers)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    model.loss(data[np.arange(4)]).backward()  # kernels and buffers that all routes need
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    held = data.x.nbytes / 2**20 if name == ROUTES[0] else 0
    loss, _ = route(name, data, model)
    for i in range(3):
        step(loss, optimizer, np.arange(a.batch) + i)
    return memory("VmHWM") - before + held


def main():
    parser = argparse.ArgumentParser()
    for name, value in (
        ("events", 1000),
        ("batch", 64),
        ("steps", 12),
        ("rounds", 3),
        ("dim", 32),
        ("layers", 2),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak", choices=ROUTES, help=argparse.SUPPRESS)
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.peak:
        print(peak(a.peak, a))
        return
    data, model = make(a.events, a.dim, a.layers)
    routes = {name: route(name, data, model) for name in ROUTES}
    indices = np.arange(min(a.batch, len(data)))
    with torch.no_grad():
        losses = {name: float(loss(indices)) for name, (loss, _) in routes.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-4, losses
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    seconds = {name: np.zeros(a.rounds + 1) for name in ROUTES}
    for r in range(a.rounds + 1):
        for name, (loss, _) in routes.items():
            start = time.process_time()
            for i in range(a.steps):
                step(loss, optimizer, (np.arange(a.batch) + i * a.batch) % len(data))
            seconds[name][r] = time.process_time() - start
    n = a.steps * a.batch
    peaks = {
        name: float(
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--peak",
                    name,
                    *(f"--{key}={getattr(a, key)}" for key in ("events", "batch", "dim", "layers")),
                ],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        for name in ROUTES
    }
    print(
        f"{len(data)} events, {len(data.jets) - 1} jets, {len(data.x)} constituents; batches of {a.batch}, "
        f"{a.layers} layers of width {a.dim}; training steps, one thread; ratios to packed twice, of seconds the "
        f"median of {a.rounds} rounds"
    )
    print(
        f"{'route':22s} {'events / CPU s':>15s} {'ratio':>6s} | {'data MB':>8s} {'ratio':>6s} | {'peak MB':>8s} "
        f"{'ratio':>6s}"
    )
    for name, (_, held) in routes.items():
        ratio = np.median(seconds[name][1:] / seconds[ROUTES[0]][1:])
        print(
            f"{name:22s} {n / np.median(seconds[name][1:]):15.0f} {ratio:6.2f} | {held / 2**20:8.1f} "
            f"{held / routes[ROUTES[0]][1]:6.2f} | {peaks[name]:8.0f} {peaks[name] / peaks[ROUTES[0]]:6.2f}"
        )


if __name__ == "__main__":
    main()
