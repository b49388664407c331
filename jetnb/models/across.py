"""Means over the jets of all processes that share a training, so that N processes learn what one
would.

Each process has its share of a batch, and gradients are averaged. A mean over jets needs nothing
more: `training.fit` weights it by the number of jets. Of what is not one per jet, constituents or
hidden particles, the shares differ; and what compares jets with each other needs those of the others.
With these functions a loss is that of the whole batch, in each of the processes. All of them have to
call them, in the same order. In one process they change nothing, not even the rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn import functional as F


def shared() -> bool:
    """Whether several processes train this together."""
    return distributed.is_available() and distributed.is_initialized()


def total(values: Tensor) -> Tensor:
    """Sum of `values`, of one shape in all processes, over the processes; gradients go back to each."""
    return _Total.apply(values) if shared() else values


def mean(values: Tensor, n) -> Tensor:
    """Means over n things in this process -> those over the things of all processes.

    values: of any shape, one in all processes. n: a number, or a scalar tensor.
    """
    if not shared():
        return values
    n = torch.as_tensor(n, dtype=values.dtype, device=values.device)
    return total(values * n) / total(n)


def over(values: Tensor, n: Tensor) -> Tensor:
    """The sum of `values`, a scalar, of all processes over that of `n`, a count, which may be 0 in
    some.
    """
    return total(values) / total(n.to(values.dtype)) if shared() else values / n


def gathered(z: Tensor) -> Tensor:
    """The rows of all processes of a training one below the other, in the order of the processes; z
    itself where there is one process.

    `z` (B, ...): of any B in each. Gradients go back to the process that a row came from, summed over
    all that used it: where each takes the same loss of all rows, and gradients are averaged as in
    distributed data parallel, they are those of one process with the whole batch.
    """
    if not shared():
        return z
    counts, rank = _counts(z), distributed.get_rank()
    before, after = sum(counts[:rank]), sum(counts[rank + 1 :])
    # Each adds zeros where the others have their rows, so that gradients are those of a sum.
    return total(F.pad(z, (0, 0) * (z.ndim - 1) + (before, after)))


def own(every: Tensor, z: Tensor) -> Tensor:
    """Of what was made of `gathered(z)`, row by row, the rows of this process."""
    if not shared():
        return every
    counts = _counts(z)
    start = sum(counts[: distributed.get_rank()])
    return every[start : start + len(z)]


def var_mean(z: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean (D,) of the rows of z (B, D) of all processes."""
    if not shared():
        return torch.var_mean(z, 0, correction=0)
    middle = mean(z.mean(0), len(z))
    return mean((z - middle).square().mean(0), len(z)), middle


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        values = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Total.apply(gradient)


def _counts(z: Tensor) -> list[int]:
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=z.device)
    counts[distributed.get_rank()] = len(z)
    distributed.all_reduce(counts)
    return counts.tolist()
