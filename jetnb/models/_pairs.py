"""Pairs of constituents of a jet: their features, each pair once, and the biases of attention made
of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb.hardware import send
from jetnb.models import _packed
from jetnb.models._fast import linear
from jetnb.models._regions import Regions

SMALLEST = 1e-8  # below it logarithms are cut, as published


class PairEmbed(Regions):
    """The biases of all heads, from the momenta of pairs; each pair is worked on once, in no order,
    and no padding.
    """

    def __init__(self, dims: Sequence[int]):
        super().__init__()
        self.embed = nn.Sequential(
            nn.BatchNorm1d(dims[0]),
            *(
                layer
                for n_in, n_out in pairwise(dims)  # convolutions by name only
                for layer in (nn.Conv1d(n_in, n_out, 1), nn.BatchNorm1d(n_out), nn.GELU())
            ),
        )

    def forward(self, momenta: Tensor, plan: _packed.LengthBuckets) -> list[Tensor]:
        """momenta (T, 4) -> for each bucket the biases (n, heads, L, L), -inf where a key is
        padding.
        """
        found = pairs(plan)
        h = self.region(PairEmbed._embed, momenta, found.first, found.second)  # (P, heads)
        h = _packed.wide(h) if h.device.type == "cpu" else h  # as attention does
        flat = _Mirror.apply(h, found).split([n * width * width for n, width in plan.shapes])
        biases = [
            part.view(n, width, width, -1).permute(0, 3, 1, 2).contiguous()
            for part, (n, width) in zip(flat, plan.shapes, strict=True)
        ]
        return [
            bias if mask is None else bias.masked_fill(~mask, -math.inf)
            for bias, mask in zip(biases, plan.masks, strict=True)
        ]

    def _embed(self, momenta: Tensor, first: Tensor, second: Tensor) -> Tensor:
        h = pair_features(momenta, first, second)  # (P, 4)
        for layer in self.embed:
            if isinstance(layer, nn.Conv1d):
                h = linear(h, layer.weight[:, :, 0], layer.bias)
            else:
                h = normalise(layer, h) if isinstance(layer, nn.BatchNorm1d) else layer(h)
        return h


@torch.no_grad()
def pair_features(momenta: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """ln kT, ln z, ln DeltaR and ln m2 of P pairs, arXiv:2202.03772 (equation 3); logarithms are
    cut at ln 1e-8.

    momenta (T, 4): px, py, pz, energy in GeV. first, second (P,): which two of them. Returns (P,
    4). The angle is taken with rapidity, and m2 as difference of squares, with the rounding of the
    public code: for the hardest pairs of nearly equal direction it is all that is left, and public
    models have seen it.
    """
    px, py, pz, energy = momenta.unbind(1)
    pt, phi = (px.square() + py.square()).sqrt(), torch.atan2(py, px)
    rapidity = _rapidity(pz, energy)
    columns = torch.stack([pt, rapidity, phi, px, py, pz, energy])  # (7, T)
    (pt, rapidity, phi, *a), (other_pt, other_rapidity, other_phi, *b) = (
        columns[:, first],
        columns[:, second],
    )
    dphi = (phi - other_phi + math.pi) % (2 * math.pi) - math.pi
    delta = ((rapidity - other_rapidity).square() + dphi.square()).sqrt()
    softer = torch.minimum(pt, other_pt)
    x2, y2, z2, energy2 = ((one + other).square() for one, other in zip(a, b, strict=True))
    share = softer / (pt + other_pt).clamp(min=SMALLEST)
    return (
        torch.stack([softer * delta, share, delta, energy2 - (x2 + y2 + z2)], 1)
        .clamp(min=SMALLEST)
        .log()
    )


def _rapidity(pz: Tensor, energy: Tensor) -> Tensor:
    """Rapidity (T,) as the public code has it, where that is finite.

    In float32 it is infinite, or not a number, for what is massless beyond |eta| of some 8 in
    negative direction, where energy and -pz are the same number; there it is that of the mirrored
    momentum, with the other sign.
    """

    def published(pz):
        return 0.5 * torch.log(1 + 2 * pz / (energy - pz).clamp(min=1e-20))

    found = published(pz)
    return torch.where(found.isfinite(), found, -published(-pz))


class Pairs(NamedTuple):
    """Every pair of constituents of a jet once, each with itself too, and their places in the
    matrices (n, L, L).
    """

    first: Tensor  # (P,) rows of constituents
    second: Tensor
    pair: Tensor  # (sum of n L L,) the pair in each place of all matrices, any where one of both is padding
    lower: Tensor  # (P,) the places of each pair below and above the diagonal
    upper: Tensor


def pairs(plan: _packed.LengthBuckets) -> Pairs:
    """All pairs of a plan without tokens; how many there are is known on the CPU, so nobody waits
    for a GPU.
    """
    device = plan.slots.device
    start, length, width = (torch.from_numpy(values) for values in plan.jets)
    counts, sizes = length * (length + 1) // 2, width**2
    n_pairs, n_places = int(counts.sum()), int(sizes.sum())
    # of each jet: its first pair, its first row, its width, and its first place
    about = send(
        torch.stack([counts, counts.cumsum(0) - counts, start, width, sizes.cumsum(0) - sizes]),
        device,
    )
    # (P,) each.
    own, row, width, place = about[1:].repeat_interleave(about[0], 1, output_size=n_pairs)
    numbers, longest = torch.arange(n_pairs, device=device), int(length.max()) if len(length) else 0
    # I is the later one.
    i, j = torch.tril_indices(longest, longest, device=device).index_select(1, numbers - own)
    lower, upper = place + i * width + j, place + j * width + i
    pair = torch.zeros(n_places, dtype=torch.int64, device=device)
    pair[lower] = numbers
    pair[upper] = numbers
    return Pairs(row + i, row + j, pair, lower, upper)


class _Mirror(torch.autograd.Function):
    """Values of pairs (P, H) to their places in matrices (sum of n L L, H); both ways only gather,
    which is quick.
    """

    @staticmethod
    def forward(ctx, values: Tensor, pairs: Pairs) -> Tensor:
        ctx.pairs = pairs
        return values.index_select(0, pairs.pair)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        lower, upper = ctx.pairs.lower, ctx.pairs.upper
        twice = (lower != upper)[:, None]  # the diagonal is there once
        return gradient.index_select(0, lower).addcmul_(
            gradient.index_select(0, upper), twice
        ), None


def normalise(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Batch norm of x (R, C); a single row has no spread, so it leaves the running numbers and
    takes them.
    """
    if len(x) > 1 or not norm.training:
        return norm(x)
    return F.batch_norm(
        x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
    )
