"""Many small heads trained as one computation: S heads of one size, each on its own jets, at all
settings of a grid.

A head on a frozen encoder sees the same few numbers of each jet in every step, so the time goes
into calls, not into arithmetic. Here the heads of all seeds, and of all penalties or learning
rates, share their calls. Each head comes out as if it were trained alone, up to rounding. What is
compared is only the head's own validation loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTIES = tuple(10.0**power for power in range(-2, 5))
LEARNING_RATES = (1e-3, 3e-3, 1e-2)
HIDDEN, BATCH_SIZE, EVERY = (
    64,
    256,
    20,
)  # of heads with a hidden layer: its width, jets per step, steps per check
BETAS = 0.9, 0.999  # of AdamW


class Heads(NamedTuple):
    """S fitted heads: linear layers with ReLU between them, and how each was picked, on its
    validation jets alone.
    """

    layers: list[tuple[Tensor, Tensor]]  # weight (S, out, in) and bias (S, out), as of nn.Linear
    picked: Tensor  # (S,) the penalty, or the learning rate
    loss: Tensor  # (S,) validation cross-entropy
    steps: Tensor  # (S,) Newton steps, or the step whose weights are kept
    history: list[
        list[float]
    ]  # S lists of the validation accuracy after each check, up to the end of that head
    ended: list[str]  # (S,) why: "converged", "patience", or "finished" at the last step

    def __call__(self, z: Tensor) -> Tensor:
        """Logits (S, n, C) of embeddings z, (n, D) for all heads or (S, n, D) for each its own."""
        z = z.expand(len(self.picked), *z.shape[-2:])
        for i, (weight, bias) in enumerate(self.layers):
            z = torch.baddbmm(bias[:, None], z.relu() if i else z, weight.mT)
        return z

    def take(self, s: int) -> Heads:
        """Head s alone."""
        part = slice(s, s + 1)
        return Heads(
            [(w[part], b[part]) for w, b in self.layers], *(values[part] for values in self[1:])
        )

    def unscale(self, mean, width) -> list[Tensor]:
        """Weight and bias of each layer of the one head, for embeddings that are not scaled: mean
        and width (D,).
        """
        (weight, bias), *rest = [(w[0].double(), b[0].double()) for w, b in self.layers]
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
    tolerance: float = 1e-6,
    max_steps: int = 100,
) -> Heads:
    """Fit S logistic regressions at all penalties at once, and pick the penalty of each on its
    validation jets.

    z (S, n, D): standardised embeddings, labels (S, n) from 0 to n_classes - 1; validation: the
    same of other jets, (S, m, D) and (S, m). penalties: minimised is the summed cross-entropy plus
    penalty / 2 times the squared weights, biases free, so a penalty is 1 / C of scikit-learn. Two
    classes share one logit, as there. Newton steps with conjugate gradients, in float64 and in the
    principal axes of each head's jets, where the problem is nearly diagonal; they end where no
    element of the gradient exceeds `tolerance` times the number of jets.

    Returns `Heads`, in the type of z. Raises ValueError for shapes that do not fit, labels outside,
    penalties that are not positive, and a fit that does not converge in `max_steps`.
    """
    _check(z, labels, validation, n_classes, penalties)
    x, kind = z.double(), z.dtype
    centre = x.mean(1, keepdim=True)
    x = x - centre
    size, axes = torch.linalg.eigh(x.mT @ x)  # (S, D), (S, D, D)
    x = x @ axes
    n_heads, n_jets, dim = x.shape
    columns, n_grid = (1 if n_classes == 2 else n_classes), len(penalties)
    target = F.one_hot(labels, n_classes)[..., -columns:].double()[:, :, None]  # (S, n, 1, columns)
    ridge = torch.tensor(penalties, dtype=torch.float64)[:, None]  # (P, 1)
    size = size.clamp(min=0)[:, :, None, None]

    def forward(w, b):
        return (x @ w.flatten(2)).view(n_heads, n_jets, n_grid, columns) + b

    def objective(logits, w):
        total = F.softplus(logits[..., 0]) if columns == 1 else logits.logsumexp(3)
        fit = total.sum(1) - (logits * target).sum((1, 3))  # (S, P)
        return fit + (ridge * w * w).sum((1, 3)) / 2

    def back(r):
        g = r.flatten(2).mT.contiguous() @ x  # (S, P columns, D); x.mT @ r takes twice as long
        return g.mT.reshape(n_heads, dim, n_grid, columns), r.sum(1, keepdim=True)

    w = x.new_zeros(n_heads, dim, n_grid, columns)
    b = x.new_zeros(n_heads, 1, n_grid, columns)
    logits = forward(w, b)
    value = objective(logits, w)
    taken = torch.zeros(n_heads, n_grid, dtype=torch.int64)
    for _ in range(max_steps):
        p = logits.sigmoid() if columns == 1 else logits.softmax(3)
        gw, gb = back(p - target)
        gw = gw + ridge * w
        largest = torch.maximum(gw.abs().amax((1, 3)), gb.abs().amax((1, 3)))  # (S, P)
        active = largest > tolerance * n_jets
        if not active.any():
            break
        dw, db = _solve(p, gw, gb, size, ridge, forward, back, active)
        moved = forward(dw, db)
        slope = (gw * dw).sum((1, 3)) + (gb * db).sum((1, 3))
        scale = active.double()
        for _ in range(40):
            by = scale[:, None, :, None]
            trial = objective(logits + by * moved, w + by * dw)
            bad = trial > value + 1e-4 * scale * slope + 1e-12 * value.abs()
            if not bad.any():
                break
            scale = torch.where(bad, scale / 2, scale)
        w, b, logits = w + by * dw, b + by * db, logits + by * moved
        value, taken = trial, taken + active
    else:
        raise ValueError(
            f"penalties {tuple(penalties)}: the weakest does not converge in {max_steps} steps; the "
            "classes may be separable: use stronger ones"
        )
    w = torch.einsum("sde,sepc->spcd", axes, w)  # (S, P, columns, D)
    b = b[:, 0] - torch.einsum("spcd,sd->spc", w, centre[:, 0])
    if columns == 1:
        w, b = torch.cat([-w / 2, w / 2], 2), torch.cat([-b / 2, b / 2], 2)
    zv, yv = validation
    scores = torch.einsum("smd,spcd->spmc", zv.double(), w) + b[:, :, None]
    loss = (
        F.cross_entropy(
            scores.flatten(0, 2), yv[:, None].expand(-1, n_grid, -1).flatten(), reduction="none"
        )
        .view(n_heads, n_grid, -1)
        .mean(2)
    )
    best, rows = loss.argmin(1), torch.arange(n_heads)
    right = (scores[rows, best].argmax(2) == yv).double().mean(1)
    return Heads(
        [(w[rows, best].to(kind), b[rows, best].to(kind))],
        ridge[best, 0],
        loss[rows, best],
        taken[rows, best],
        right[:, None].tolist(),
        ["converged"] * n_heads,
    )


def _solve(p, gw, gb, size, ridge, forward, back, active):
    """Newton's step, (dw, db), for all heads by conjugate gradients; steps of heads that are not
    `active` are 0.

    Preconditioned by the Hessian for equal weights of all jets, which is diagonal here.
    """
    share = (p * (1 - p)).mean(1, keepdim=True)  # (S, 1, P, columns)
    floor = 1e-6 * size.amax(1, keepdim=True) + 1e-12
    over_w = 1 / (share * size + ridge + floor * share.clamp(min=1e-12))
    over_b = 1 / (share * p.shape[1]).clamp(min=1e-12)

    def dot(a, b):
        return ((a[0] * b[0]).sum((1, 3)) + (a[1] * b[1]).sum((1, 3)))[:, None, :, None]

    rw, rb = -gw, -gb
    dw, db = torch.zeros_like(gw), torch.zeros_like(gb)
    sw, sb = over_w * rw, over_b * rb
    qw, qb = sw, sb
    rho = first = dot((rw, rb), (sw, sb))
    goal = first * (first / (1 + first)).clamp(min=1e-6, max=1e-2)  # looser far from the minimum
    open_ = active[:, None, :, None] & (first > 0)
    for _ in range(4 * (len(size[0]) + 1)):
        v = forward(qw, qb)
        hw, hb = back(p * (v - (p * v).sum(3, keepdim=True)))
        hw = hw + ridge * qw
        bend = dot((qw, qb), (hw, hb))
        open_ = open_ & (bend > 0)
        a = torch.where(open_, rho / bend, 0.0)
        dw, db, rw, rb = dw + a * qw, db + a * qb, rw - a * hw, rb - a * hb
        sw, sb = over_w * rw, over_b * rb
        new = dot((rw, rb), (sw, sb))
        open_ = open_ & (new > goal)
        if not open_.any():
            break
        qw, qb = sw + new / rho * qw, sb + new / rho * qb
        rho = new
    return dw, db


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
) -> Heads:
    """Train S heads with one hidden layer (ReLU) at all learning rates at once, with AdamW, and
    keep the best of each.

    z, labels, validation, n_classes: as for `fit_linear`; z float32 or float64. seeds (S,): of the
    initial weights and the order of batches of each head. batch_size: jets per step, all of them
    where there are fewer. After `every` steps the validation loss is taken; a head ends `patience`
    checks after its lowest, or after `steps`, and keeps the weights it had there. Of its learning
    rates it keeps the one with the lowest loss.

    Returns `Heads`. Raises ValueError as `fit_linear` does, for seeds of another number, and for a
    loss that is not finite at any learning rate. AdamW: arXiv:1711.05101.
    """
    _check(z, labels, validation, n_classes, lrs)
    n_heads, n_jets, dim = z.shape
    if len(seeds) != n_heads:
        raise ValueError(f"seeds: {len(seeds)} for {n_heads} heads, each needs its own")
    batch_size, shape = min(batch_size, n_jets), (dim, hidden, n_classes)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    start = torch.stack([_draw(shape, generator) for generator in generators]).to(
        z
    )  # (S, parameters)
    head = torch.arange(n_heads).repeat_interleave(len(lrs))  # (K,) runs: which head, in order
    rate = torch.tensor(lrs, dtype=z.dtype).repeat(n_heads)[:, None]
    weights, best = start[head], start[head]
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    lowest, ended = torch.full((len(head),), math.inf).to(z), ["finished"] * len(head)
    picked, history = torch.zeros(len(head), dtype=torch.int64), [[] for _ in head]
    run = torch.arange(len(head))  # the ones that still train
    order = torch.empty(n_heads, 0, dtype=torch.int64)
    z, zv = (
        F.pad(values, (0, 1), value=1) for values in (z, validation[0])
    )  # the ones multiply the bias
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
    return Heads(
        [(w1[:, :-1].mT, w1[:, -1]), (w2.mT, b2)],
        torch.tensor(lrs, dtype=torch.float64)[chosen],
        lowest[rows],
        picked[rows],
        [history[k] for k in rows.tolist()],
        [ended[k] for k in rows.tolist()],
    )


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
    d = (
        torch.bmm(w2.mT, h.mT).add_(b2[..., None]).softmax(1)
    )  # (K, C, b): along jets, where a row is long
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
