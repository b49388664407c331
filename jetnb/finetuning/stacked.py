"""Heads on frozen embeddings, for many seeds: S heads of one size, each on its own jets, at all
settings of a grid.

Linear heads are logistic regressions of scikit-learn, one after the other. Heads with a hidden
layer would spend their time in calls, not in arithmetic: there all seeds and learning rates share
their calls, and each head comes out as if it were trained alone, up to rounding. What is compared
is only the head's own validation loss.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

PENALTIES = tuple(10.0**power for power in range(-2, 5))
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
HIDDEN, BATCH_SIZE, EVERY = 64, 256, 20  # with a hidden layer: its width, jets, steps per check
BETAS = 0.9, 0.999  # of AdamW


class Head(NamedTuple):
    """One fitted head: linear layers with ReLU between them, and how it was picked, on its
    validation jets alone.
    """

    layers: list[tuple[Tensor, Tensor]]  # weight (out, in) and bias (out,), as of nn.Linear
    picked: float  # the penalty, or the learning rate
    loss: float  # validation cross-entropy
    step: int  # whose weights are kept, 0 for linear heads
    history: list[float]  # validation accuracy after each check
    ended: str  # why: "converged", "patience", or "finished" at the last step

    def __call__(self, z: Tensor) -> Tensor:
        """Logits (n, C) of embeddings z (n, D)."""
        for i, (weight, bias) in enumerate(self.layers):
            z = F.linear(z.relu() if i else z, weight, bias)
        return z

    def unscale(self, mean, width) -> list[Tensor]:
        """Weight and bias of each layer, for embeddings that are not scaled: mean and width (D,)."""
        (weight, bias), *rest = [(w.double(), b.double()) for w, b in self.layers]
        weight = weight / torch.as_tensor(width)
        layers = [(weight, bias - weight @ torch.as_tensor(mean)), *rest]
        return [values.to(self.layers[0][0].dtype) for layer in layers for values in layer]


def fit_linear(
    z: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    n_classes: int,
    penalties: Sequence[float] = PENALTIES,
) -> list[Head]:
    """Fit S logistic regressions at all penalties, and pick the penalty of each on its validation
    jets, the first of equals.

    z (S, n, D): standardised embeddings, labels (S, n) with all classes from 0 to n_classes - 1;
    validation: the same of other jets, (S, m, D) and (S, m). penalties: minimised is the summed
    cross-entropy plus penalty / 2 times the squared weights, biases free, so a penalty is 1 / C of
    scikit-learn. Two classes share one logit, as there.

    Returns S heads, in the type of z. Raises ValueError for shapes that do not fit, labels outside,
    a class without jets, and penalties that are not positive.
    """
    _check(z, labels, validation, n_classes, penalties)
    for y in labels:
        if len(y.unique()) < n_classes:
            raise ValueError(
                f"labels: only {y.unique().tolist()} of {n_classes} classes: draw more jets"
            )
    solver = "newton-cholesky" if n_classes == 2 else "lbfgs"  # the faster one of each
    heads = []
    for x, y, xv, yv in zip(z.double(), labels, validation[0].double(), validation[1], strict=True):
        tried = []
        for penalty in penalties:
            model = LogisticRegression(C=1 / penalty, solver=solver, tol=1e-8, max_iter=10_000)
            with warnings.catch_warnings():
                for kind in (ConvergenceWarning, LinAlgWarning):  # at the limit of rounding
                    warnings.simplefilter("ignore", kind)
                model.fit(x.numpy(), y.numpy())
            weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
            if len(bias) == 1:
                weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
            logits = F.linear(xv, weight, bias)
            accuracy = float((logits.argmax(1) == yv).double().mean())
            layers = [(weight.to(z.dtype), bias.to(z.dtype))]
            loss = float(F.cross_entropy(logits, yv))
            tried.append(Head(layers, penalty, loss, 0, [accuracy], "converged"))
        heads.append(min(tried, key=lambda head: head.loss))
    return heads


def fit_mlp(
    z: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor],
    *,
    n_classes: int,
    seeds: Sequence[int],
    hidden: int = HIDDEN,
    lrs: Sequence[float] = LEARNING_RATES,
    weight_decay: float = 0.01,
    batch_size: int = BATCH_SIZE,
    steps: int = 2000,
    every: int = EVERY,
    patience: int = 10,
) -> list[Head]:
    """Train S heads with one hidden layer (ReLU) at all learning rates at once, with AdamW, and
    keep the best of each.

    z, labels, validation, n_classes: as for `fit_linear`; z float32 or float64. seeds (S,): of the
    initial weights and the order of batches of each head. batch_size: jets per step, all of them
    where there are fewer. After `every` steps the validation loss is taken; a head ends `patience`
    checks after its lowest, or after `steps`, and keeps the weights it had there. Of its learning
    rates it keeps the one with the lowest loss.

    Returns S heads. Raises ValueError as `fit_linear` does, for seeds of another number, and for a
    loss that is not finite at any learning rate. AdamW: arXiv:1711.05101.
    """
    _check(z, labels, validation, n_classes, lrs)
    n_heads, n_jets, dim = z.shape
    if len(seeds) != n_heads:
        raise ValueError(f"seeds: {len(seeds)} for {n_heads} heads, each needs its own")
    batch_size, shape = min(batch_size, n_jets), (dim, hidden, n_classes)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    # (S, parameters).
    start = torch.stack([_draw(shape, generator) for generator in generators]).to(z)
    head = torch.arange(n_heads).repeat_interleave(len(lrs))  # (K,) runs: which head, in order
    rate = torch.tensor(lrs, dtype=z.dtype).repeat(n_heads)[:, None]
    weights, best = start[head], start[head]
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    lowest, ended = torch.full((len(head),), math.inf).to(z), ["finished"] * len(head)
    picked, history = torch.zeros(len(head), dtype=torch.int64), [[] for _ in head]
    run = torch.arange(len(head))  # the ones that still train
    order = torch.empty(n_heads, 0, dtype=torch.int64)
    # The ones multiply the bias.
    z, zv = (F.pad(values, (0, 1), value=1) for values in (z, validation[0]))
    x, y = (z[head], labels[head]) if batch_size == n_jets else (None, None)
    zv, yv = zv[head], validation[1][head]
    for step in range(1, steps + 1):
        if batch_size < n_jets:
            if order.shape[1] < batch_size:
                new = torch.stack(
                    [torch.randperm(n_jets, generator=generator) for generator in generators]
                )
                order = torch.cat([order, new], 1)
            now, order = order[:, :batch_size], order[:, batch_size:]
            rows = (now + n_jets * torch.arange(n_heads)[:, None])[head[run]].flatten()
            x = z.flatten(0, 1).index_select(0, rows).view(len(run), batch_size, dim + 1)
            y = labels.flatten().index_select(0, rows).view(len(run), batch_size)
        gradient = _gradient(weights, x, y, shape)
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        root = (second / (1 - BETAS[1] ** step)).sqrt_().add_(1e-8)
        weights.mul_(1 - rate * weight_decay).addcdiv_(
            first * (-rate / (1 - BETAS[0] ** step)), root
        )
        if step % every and step < steps:
            continue
        loss, right = _measure(weights, zv, yv, shape)
        for k, value in zip(run.tolist(), right.tolist(), strict=True):
            history[k].append(value)
        better = loss < lowest[run]
        lowest[run[better]], best[run[better]], picked[run[better]] = (
            loss[better],
            weights[better],
            step,
        )
        going = step - picked[run] < patience * every
        if not going.all():
            for k in run[~going].tolist() if step < steps else ():
                ended[k] = "patience"
            run, weights, first, second, rate = (
                v[going] for v in (run, weights, first, second, rate)
            )
            zv, yv = zv[going], yv[going]
            if batch_size == n_jets:
                x, y = x[going], y[going]
        if not len(run):
            break
    if not lowest.view(n_heads, -1).isfinite().any(1).all():
        raise ValueError(
            f"lrs {tuple(lrs)}: the validation loss of a head is finite at none of them: use lower ones"
        )
    chosen = lowest.view(n_heads, -1).argmin(1)
    rows = chosen + len(lrs) * torch.arange(n_heads)
    w1, w2, b2 = _parts(best[rows], shape)
    return [
        Head(
            [(w1[s, :-1].T, w1[s, -1]), (w2[s].T, b2[s])],
            lrs[chosen[s]],
            float(lowest[k]),
            int(picked[k]),
            history[k],
            ended[k],
        )
        for s, k in enumerate(rows.tolist())
    ]


def _draw(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Initial weights of one head, as nn.Linear draws them, in one row: see `_parts`."""
    dim, hidden, n_classes = shape
    layers = ((dim * hidden, dim), (hidden, dim), (hidden * n_classes, hidden), (n_classes, hidden))
    return torch.cat(
        [(2 * torch.rand(n, generator=generator) - 1) / math.sqrt(fan) for n, fan in layers]
    )


def _parts(rows: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the rows (K, parameters): w1 (K, D + 1, H), whose last row is the bias, w2 (K, H,
    C), b2 (K, C).
    """
    dim, hidden, n_classes = shape
    w1, w2, b2 = rows.split(((dim + 1) * hidden, hidden * n_classes, n_classes), 1)
    return w1.view(-1, dim + 1, hidden), w2.view(-1, hidden, n_classes), b2


def _gradient(weights: Tensor, x: Tensor, y: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Gradient (K, parameters) of the mean cross-entropy of each of K heads on its x (K, b, D + 1),
    y (K, b).
    """
    w1, w2, b2 = _parts(weights, shape)
    h = torch.bmm(x, w1).relu_()  # (K, b, H)
    # (K, C, b): along jets, where a row is long.
    d = torch.bmm(w2.mT, h.mT).add_(b2[..., None]).softmax(1)
    d.scatter_add_(1, y[:, None], d.new_full((), -1).expand(len(y), 1, y.shape[1])).div_(x.shape[1])
    g2, gb2 = torch.bmm(d, h).mT, d.sum(2)
    d = torch.ops.aten.threshold_backward(torch.bmm(d.mT, w2.mT), h, 0)  # (K, b, H)
    return torch.cat([torch.bmm(x.mT, d).flatten(1), g2.flatten(1), gb2], 1)


def _measure(
    weights: Tensor, x: Tensor, y: Tensor, shape: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and accuracy (K,) of each of K heads on its x (K, m, D + 1), y (K, m)."""
    w1, w2, b2 = _parts(weights, shape)
    logits = torch.bmm(w2.mT, torch.bmm(x, w1).relu_().mT).add_(b2[..., None])  # (K, C, m)
    return F.cross_entropy(logits, y, reduction="none").mean(1), (
        logits.argmax(1) == y
    ).double().mean(1)


def _check(
    z: Tensor,
    labels: Tensor,
    validation: tuple[Tensor, Tensor],
    n_classes: int,
    grid: Sequence[float],
) -> None:
    for name, (x, y) in {"z": (z, labels), "validation": validation}.items():
        if (
            x.ndim != 3
            or not x.is_floating_point()
            or x.shape[:2] != y.shape
            or x.shape[::2] != z.shape[::2]
            or not y.numel()
        ):
            raise ValueError(
                f"{name} is {x.dtype} of shape {tuple(x.shape)} with labels {tuple(y.shape)}: it must be "
                "floats (S, n, D) with labels (S, n), for the same S heads and D everywhere"
            )
        if y.min() < 0 or y.max() >= n_classes:
            raise ValueError(
                f"{name}: labels from {y.min()} to {y.max()}, they must be from 0 to {n_classes - 1}"
            )
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} is not finite everywhere: did the encoder diverge?")
    if not len(grid) or min(grid) <= 0:
        raise ValueError(f"penalties and learning rates must be positive, got {tuple(grid)}")
