"""Flow matching: from noise to jets along straight lines, and a small model of whole jets.

A network learns the velocity at which a point moves from data, at time 0, to noise, at time 1:
x_t = (1 - t) x + t e, so that the velocity is e - x. To draw is to follow it backwards.
arXiv:2210.02747.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb.models import heads

KINEMATICS = ("pt", "mass", "n_constituents")  # of a jet, in GeV the first two
FREQUENCIES = 8
TIMES = 2 * FREQUENCIES  # numbers that a time becomes
KNOTS = 128


def noised(x: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Points at times t (N,) between x and noise (N, K), and the velocity there: (N, K) each."""
    t = t[:, None]
    return (1 - t) * x + t * noise, noise - x


def follow(
    velocity: Callable[[Tensor, float], Tensor], noise: Tensor, *, evaluations: int
) -> Tensor:
    """Follow a velocity (x, t) -> (N, K) from noise (N, K) at time 1 to time 0, by midpoint steps.

    evaluations: how often the network is asked, a fixed number, two for each step. Raises
    `ValueError` for one that is not even and positive.

    >>> follow(lambda x, t: torch.full_like(x, 2.0), torch.ones(1, 1), evaluations=4)
    tensor([[-1.]])
    """
    if evaluations < 2 or evaluations % 2:
        raise ValueError(f"evaluations is {evaluations}: it must be even, two for each step")
    x, steps = noise, evaluations // 2
    for i in range(steps):
        t, half = 1 - i / steps, 0.5 / steps
        middle = x - half * velocity(x, t)
        x = x - 2 * half * velocity(middle, t - half)
    return x


def waves(t: Tensor) -> Tensor:
    """Times (B,) as cosines and sines, so that a network can tell near ones apart: (B, TIMES)."""
    angle = t[:, None] * math.pi * torch.arange(1, FREQUENCIES + 1, device=t.device)
    return torch.cat([angle.cos(), angle.sin()], 1)


class ToNormal(nn.Module):
    """Each column as normal numbers, by its quantiles in training jets, and back.

    Ends are those of the training jets, so what is cut there, as a momentum by a selection, stays
    within.
    """

    def __init__(self, n_columns: int):
        super().__init__()
        share = (torch.arange(KNOTS, dtype=torch.float64) + 0.5) / KNOTS
        self.register_buffer("level", torch.special.ndtri(share).float())  # (Q,)
        self.register_buffer("knots", self.level.repeat(n_columns, 1))  # (K, Q), rising

    def fit(self, x: Tensor) -> None:
        """Set the quantiles to those of x (N, K). Raises `ValueError` for no rows and what is not
        finite.
        """
        if len(x) == 0 or not x.isfinite().all():
            raise ValueError(f"x has {len(x)} rows: there must be some, and all finite")
        share = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
        knots = torch.from_numpy(np.quantile(x.double().numpy(), share.numpy(), axis=0).T)  # (K, Q)
        # Equal values get a little width, so that they have one place each.
        width = (knots[:, -1:] - knots[:, :1]).clamp(min=1e-3)
        self.knots.copy_((knots + 1e-5 * width * share).float())

    def forward(self, x: Tensor) -> Tensor:
        """x (N, K) -> normal numbers (N, K)."""
        return _interpolate(x, self.knots, self.level.expand_as(self.knots))

    def back(self, z: Tensor) -> Tensor:
        """Normal numbers (N, K) -> x (N, K)."""
        return _interpolate(z, self.level.expand_as(self.knots), self.knots)


class Kinematics(nn.Module):
    """A small model of whole jets: momentum, mass and number of constituents, given the class.

    n_classes: C; a class of -1 is unknown. Flow matching in three numbers, made normal first.
    """

    def __init__(self, n_classes: int, *, dim: int = 64, n_layers: int = 2):
        super().__init__()
        self.to_normal = ToNormal(len(KINEMATICS))
        self.kind = nn.Embedding(n_classes + 1, 16)
        self.velocity = heads.mlp(
            len(KINEMATICS) + TIMES + 16, len(KINEMATICS), hidden=(dim,) * n_layers
        )

    def loss(
        self, jets: Tensor, label: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of the velocity for jets (B, 3) of `KINEMATICS`, label (B,): a scalar."""
        jets = torch.cat([jets[:, :2], jets[:, 2:] + uniform(jets[:, 2:], generator)], 1)
        z = self.to_normal(jets)
        t, noise = uniform(z[:, 0], generator), normal(z, generator)
        at, target = noised(z, noise, t)
        return F.mse_loss(self._velocity(at, t, label), target)

    def draw(self, label: Tensor, noise: Tensor, *, evaluations: int) -> Tensor:
        """Jets (B, 3) of `KINEMATICS`, the last a whole number from 1, for label (B,), noise (B, 3)."""

        def velocity(z, t):
            return self._velocity(z, torch.full_like(z[:, 0], t), label)

        jets = self.to_normal.back(follow(velocity, noise, evaluations=evaluations))
        return torch.cat([jets[:, :2], jets[:, 2:].floor().clamp(min=1)], 1)

    def _velocity(self, z: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.velocity(torch.cat([z, waves(t), self.kind(label + 1)], 1))


def uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Numbers in [0, 1) of the shape, type and device of `like`, drawn where the generator is."""
    where = generator.device if generator is not None else like.device
    return torch.rand(like.shape, generator=generator, device=where).to(like)


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers, as `uniform`."""
    where = generator.device if generator is not None else like.device
    return torch.randn(like.shape, generator=generator, device=where).to(like)


def _interpolate(x: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """Column k of x (N, K) on the straight lines through at, values (K, Q); the ends beyond them."""
    x = x.T.contiguous()
    right = torch.searchsorted(at.contiguous(), x).clamp(1, at.shape[1] - 1)
    low, high = at.gather(1, right - 1), at.gather(1, right)
    share = ((x - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)  # two knots can be one number
    return torch.lerp(values.gather(1, right - 1), values.gather(1, right), share).T
