"""Heads on frozen embeddings, all seeds and settings at once against one after another: process CPU
and wall seconds.

    python tests/benchmarks/heads_speed.py [--budgets 100 300 1000 3000] [--seeds 5] [--rounds 3]
        [--dim 64] [--classes 2]

Embeddings are simulated and correlated. MLP heads (64 hidden units, 3 learning rates): the same
steps, batches and validation checks in a plain torch loop, with the default and with the fused
AdamW; a Lightning Trainer is timed on two heads and multiplied. Linear heads, 7 penalties: as we
fit them, and with either solver alone. One thread; all take their turns within each round; the
first round is not counted.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import nn
from torch.nn import functional as F

from jetnb.finetuning import stacked


def make(n_seeds, n, dim, n_classes):
    g = torch.Generator().manual_seed(n)
    mix = torch.randn(dim, dim, generator=g) * torch.logspace(0, -1.5, dim)
    z = torch.randn(n_seeds, n + max(100, n // 4), dim, generator=g) @ mix
    y = (
        z @ torch.randn(dim, n_classes, generator=g) / 4
        + torch.randn(*z.shape[:2], n_classes, generator=g) * 3
    ).argmax(2)
    z = (z - z.mean((0, 1))) / z.std((0, 1))
    return z[:, :n], y[:, :n], (z[:, n:], y[:, n:])


def network(dim, n_classes, seed):
    torch.manual_seed(seed)
    layers = nn.Linear(dim, stacked.HIDDEN), nn.ReLU(), nn.Linear(stacked.HIDDEN, n_classes)
    return nn.Sequential(*layers)


def loop(values, n_classes, steps, *, fused):
    z, y, (zv, yv) = values
    for s in range(len(z)):
        for lr in stacked.LEARNING_RATES:
            net, n = network(z.shape[2], n_classes, s), z.shape[1]
            optimizer = torch.optim.AdamW(net.parameters(), lr=lr, fused=fused)
            size, order, lowest = (
                min(stacked.BATCH_SIZE, n),
                torch.empty(0, dtype=torch.int64),
                float("inf"),
            )
            for step in range(1, steps + 1):
                if size < n:
                    if len(order) < size:
                        order = torch.cat([order, torch.randperm(n)])
                    rows, order = order[:size], order[size:]
                x, target = (z[s], y[s]) if size == n else (z[s, rows], y[s, rows])
                optimizer.zero_grad()
                F.cross_entropy(net(x), target).backward()
                optimizer.step()
                if step % stacked.EVERY == 0:
                    with torch.no_grad():
                        loss = float(F.cross_entropy(net(zv[s]), yv[s]))
                    if loss < lowest:
                        lowest, best = loss, {k: v.clone() for k, v in net.state_dict().items()}
    return best


def lightning(values, n_classes, steps):
    from lightning.pytorch import LightningModule, Trainer

    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    from torch.utils.data import DataLoader, TensorDataset

    class Head(LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network(values[0].shape[2], n_classes, 0)

        def training_step(self, batch, _):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch, _):
            self.log("loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    z, y, (zv, yv) = values
    for s in range(2):
        size = min(stacked.BATCH_SIZE, z.shape[1])
        loaders = (
            DataLoader(TensorDataset(z[s], y[s]), size, shuffle=True),
            DataLoader(TensorDataset(zv[s], yv[s]), 4096),
        )
        Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=stacked.EVERY,
            check_val_every_n_epoch=None,
        ).fit(Head(), *loaders)


def scikit(values, solver):
    z, y, (zv, yv) = values
    for s in range(len(z)):
        for penalty in stacked.PENALTIES:
            model = LogisticRegression(C=1 / penalty, solver=solver, tol=1e-8, max_iter=10_000)
            model.fit(z[s].double(), y[s]).predict_proba(zv[s].double())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 300, 1000, 3000])
    for name, value in (("seeds", 5), ("rounds", 3), ("dim", 64), ("steps", 200), ("classes", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    a = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    values = {n: make(a.seeds, n, a.dim, a.classes) for n in a.budgets}
    n_mlp = a.seeds * len(stacked.LEARNING_RATES)
    ways = {
        "mlp stacked": (
            lambda v: stacked.fit_mlp(
                *v, n_classes=a.classes, seeds=range(a.seeds), steps=a.steps, patience=10**9
            ),
            1,
        ),
        "mlp plain loop": (lambda v: loop(v, a.classes, a.steps, fused=False), 1),
        "mlp plain loop, fused": (lambda v: loop(v, a.classes, a.steps, fused=True), 1),
        "mlp Lightning (2 heads, multiplied)": (
            lambda v: lightning(v, a.classes, a.steps),
            n_mlp / 2,
        ),
        "linear": (lambda v: stacked.fit_linear(*v, n_classes=a.classes), 1),
        "linear, lbfgs": (lambda v: scikit(v, "lbfgs"), 1),
        "linear, newton-cholesky": (lambda v: scikit(v, "newton-cholesky"), 1),
    }
    seconds = {name: np.zeros((a.rounds + 1, len(values), 2)) for name in ways}
    with threadpool_limits(1):
        for r in range(a.rounds + 1):
            for i, v in enumerate(values.values()):
                for name, (way, factor) in ways.items():
                    start = time.process_time(), time.perf_counter()
                    way(v)
                    seconds[name][r, i] = (
                        (time.process_time() - start[0]) * factor,
                        (time.perf_counter() - start[1]) * factor,
                    )
    print(
        f"{n_mlp} MLP heads of {a.steps} steps, {a.seeds * len(stacked.PENALTIES)} linear fits per budget {a.budgets}"
        "; CPU s per budget | CPU s, wall s of all | CPU ratio (median of rounds)"
    )
    for name, all_ in seconds.items():
        best, own = "mlp stacked" if name.startswith("mlp") else "linear", all_[1:]
        ratios = np.median(own[..., 0] / seconds[best][1:, :, 0], axis=0)
        ratio = np.median(own[..., 0].sum(1) / seconds[best][1:, :, 0].sum(1))
        cpu, wall = np.median(own.sum(1), axis=0)
        print(
            f"{name:36s}",
            " ".join(f"{x:7.3f}" for x in np.median(own[..., 0], axis=0)),
            f"| {cpu:7.3f} {wall:7.3f} | {ratio:5.1f}  per budget",
            " ".join(f"{x:.1f}" for x in ratios),
        )


if __name__ == "__main__":
    main()
