"""Symmetries of jets as augmentations: one function per symmetry, on packed batches of torch
tensors.

A batch is `particles` (T, 3), the columns pt in GeV, deta and dphi (in rad) relative to the jet
axis, and `offsets` (B + 1,): jet b is `particles[offsets[b]:offsets[b + 1]]`. Every function
returns a new pair (particles, offsets) and draws from `generator`, on the device of the particles;
None stands for torch's global one. Offsets stay on the CPU where the particles are on a GPU: how
long jets are decides how long arrays are, and asking a GPU means waiting for it. deta and dphi are
treated as a plane: nothing is wrapped at pi, from which the jets that these functions are made for
stay away.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from jetnb.hardware import send

Batch = tuple[Tensor, Tensor]
# The largest share of one half: the other keeps a pt above zero, so that its logarithm is finite.
HARDEST = 1 - 2**-20


def rotate(particles: Tensor, offsets: Tensor, *, generator: torch.Generator | None) -> Batch:
    """Random rotation: each jet about its axis by an angle drawn evenly from 0 to 2 pi.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). Returns (particles, offsets). Distances
    between the particles of a jet and their pt do not change. The jet mass does a little, by a
    relative order R^2 / 12, as the rotation is no Lorentz transformation. Raises ValueError for a
    malformed batch. Source: 2108.04253. Taught in notebook 07.

    >>> one = torch.tensor([[10.0, 0.3, 0.4]]), torch.tensor([0, 1])
    >>> rotated, _ = rotate(*one, generator=torch.Generator().manual_seed(1))
    >>> round(float(rotated[0, 1:].norm()), 4)
    0.5
    """
    n = _count(particles, offsets)
    angle = _rand(particles, len(n), generator=generator) * (2 * math.pi)
    # (T,) each.
    cos, sin = _spread(torch.stack([angle.cos(), angle.sin()], 1), n, particles).unbind(1)
    pt, deta, dphi = particles.unbind(1)
    return torch.stack([pt, cos * deta - sin * dphi, sin * deta + cos * dphi], 1), offsets


def mirror(particles: Tensor, offsets: Tensor, *, generator: torch.Generator | None) -> Batch:
    """Flip the sign of dphi in half of the jets, drawn at random.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). Returns (particles, offsets). A jet is as
    likely as its mirror image, and its mass is the same. Raises ValueError for a malformed batch.
    Taught in notebook 05b.
    """
    n = _count(particles, offsets)
    sign = torch.where(_rand(particles, len(n), generator=generator) < 0.5, -1.0, 1.0).to(
        particles.dtype
    )
    mirrored = particles.clone()
    mirrored[:, 2] *= _spread(sign, n, particles)
    return mirrored, offsets


def translate(
    particles: Tensor, offsets: Tensor, *, generator: torch.Generator | None, width: float = 1.0
) -> Batch:
    """Shift each jet as a whole in deta and dphi.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). Each of the two shifts is drawn evenly
    from -`width` to `width` times the extent of the jet in that direction: the distance between its
    outermost particles, zero for a jet of one. Returns (particles, offsets). Raises ValueError for
    a malformed batch or a negative width. Source: 2108.04253; in its public settings width is 1.
    Taught in notebook 07.
    """
    n = _count(particles, offsets)
    _at_least_zero(width=width)
    inside = particles[:, 1:].contiguous()
    edges = send(offsets, particles.device)
    # (B, 2)
    low, high = (torch.segment_reduce(inside, edge, offsets=edges) for edge in ("min", "max"))
    shift = (high - low) * width * (2 * _rand(particles, len(n), 2, generator=generator) - 1)
    moved = particles.clone()
    # The shift of an empty jet is not a number, and goes nowhere.
    moved[:, 1:] += _spread(shift, n, particles)
    return moved, offsets


def smear(
    particles: Tensor,
    offsets: Tensor,
    *,
    generator: torch.Generator | None,
    scale: float = 0.1,
    pt_min: float = 0.1,
) -> Batch:
    """Move each particle in deta and dphi, the softer the more: what an infrared-safe observable
    hardly notices.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). Both shifts are normal with standard
    deviation `scale` / max(pt, `pt_min`); `scale` [GeV] stands for Lambda_QCD, `pt_min` [GeV]
    bounds the shift. The mean shift weighted with pt is thus at most `scale` for every particle.
    Returns (particles, offsets). Raises ValueError for a malformed batch, a negative scale or a
    pt_min that is not positive. Source: 2108.04253; both are 0.1 in its public code. Taught in
    notebook 07.
    """
    _count(particles, offsets)
    _at_least_zero(scale=scale)
    if not pt_min > 0:
        raise ValueError(
            f"pt_min must be positive, got {pt_min}: it bounds the shift of the softest, e.g. 0.1 GeV"
        )
    noise = torch.randn(
        len(particles), 2, generator=generator, dtype=particles.dtype, device=particles.device
    )
    moved = particles.clone()
    moved[:, 1:] += noise * (scale / particles[:, :1].clamp(min=pt_min))
    return moved, offsets


def split_collinear(
    particles: Tensor,
    offsets: Tensor,
    *,
    generator: torch.Generator | None,
    fraction: float = 1.0,
    n_max: int | None = None,
) -> Batch:
    """Split particles in two of the same direction: what a collinear-safe observable does not
    notice.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). In a jet of n particles, `fraction` x n
    (rounded) of them are drawn and split, fewer where it would then have more than `n_max`, none
    where it has as many already. One half takes an evenly drawn share of the pt; the two add up to
    the old pt exactly. They stand side by side, the harder first: sort anew where falling pt
    matters. Returns (particles (T', 3), offsets). Raises ValueError for a malformed batch, a
    fraction outside 0 to 1 or a negative n_max. Source: 2108.04253; its public code fills the slots
    of a padded jet, which is fraction 1 and n_max the number of slots. Taught in notebook 07.
    """
    n = _count(particles, offsets)
    if not 0 <= fraction <= 1:
        raise ValueError(
            f"fraction must be from 0 to 1, got {fraction}: it is the share of the particles to split"
        )
    n_split = (fraction * n).round().long()
    if n_max is not None:
        _at_least_zero(n_max=n_max)
        n_split = torch.minimum(n_split, (n_max - n).clamp(min=0))
    # Whole numbers sort the jets in their order and their particles at random; the first n_split of
    # a jet are taken.
    jet = _spread(torch.arange(len(n), device=particles.device), n, particles)  # (T,)
    key = (jet << 31) + torch.randint(2**31, jet.shape, generator=generator, device=jet.device)
    chosen = key.argsort()[send(_first(n_split, offsets), jet.device)]
    copies = torch.ones_like(jet)
    copies.index_fill_(0, chosen, 2)  # copies[chosen] = 2 would send a number to a GPU, and wait
    # (T', 3).
    split = particles.repeat_interleave(
        copies, dim=0, output_size=len(particles) + int(n_split.sum())
    )
    # The harder half is drawn: the difference to a number less than twice as large is exact in
    # floating point.
    pt = particles[chosen, 0]
    hard = pt * (0.5 + 0.5 * _rand(particles, len(pt), generator=generator)).clamp(max=HARDEST)
    first = (copies.cumsum(0) - 2)[chosen]
    split[first, 0], split[first + 1, 0] = hard, pt - hard
    return split, torch.cat([offsets[:1], offsets[1:] + n_split.cumsum(0)])


def keep_hardest(particles: Tensor, offsets: Tensor, *, n_max: int) -> Batch:
    """Cut jets to their first `n_max` particles, the hardest, as constituents are sorted by falling
    pt.

    `particles` (T, 3 or more) [GeV, 1, rad, ...], `offsets` (B + 1,). Returns (particles, offsets).
    Raises ValueError for a malformed batch or a negative n_max. The published study cuts to 50:
    2108.04253.
    """
    n = _count(particles[:, :3], offsets)
    _at_least_zero(n_max=n_max)
    kept = n.clamp(max=n_max)
    return particles[send(_first(kept, offsets), particles.device)], torch.cat(
        [offsets[:1], kept.cumsum(0)]
    )


def views(
    particles: Tensor,
    offsets: Tensor,
    *,
    generator: torch.Generator | None,
    scale: float = 0.1,
    width: float = 1.0,
    n_max: int | None = 50,
) -> tuple[Batch, Batch]:
    """Two views of each jet with the published settings, for contrastive learning.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). The first view is rotated and translated;
    the second also split twice, and smeared. `scale` [GeV] is that of `smear`, `width` that of
    `translate`, `n_max` that of `split_collinear`. Returns ((particles, offsets), (particles,
    offsets)). Raises ValueError as these functions do. Source: 2108.04253 and its public code, in
    which jets are cut to 50 particles first: `keep_hardest`. For whole jets set n_max to the most
    particles of a jet, e.g. 128. Other than there, the translation comes before the smearing, which
    makes jets several times as wide and would so decide how far they are shifted.
    """
    one, two = (
        translate(
            *rotate(particles, offsets, generator=generator), generator=generator, width=width
        )
        for _ in range(2)
    )
    for _ in range(2):
        two = split_collinear(*two, generator=generator, n_max=n_max)
    return one, smear(*two, generator=generator, scale=scale)


def _count(particles: Tensor, offsets: Tensor) -> Tensor:
    """Particles per jet (B,), once the batch has been found well formed."""
    if particles.ndim != 2 or particles.shape[1] != 3 or not particles.is_floating_point():
        raise ValueError(
            f"particles is {particles.dtype} of shape {tuple(particles.shape)}, but must be floating "
            "point of shape (T, 3): pt, deta, dphi"
        )
    if offsets.ndim != 1 or len(offsets) == 0 or offsets.dtype != torch.int64:
        raise ValueError(
            f"offsets is {offsets.dtype} of shape {tuple(offsets.shape)}, but must be int64 of shape "
            "(B + 1,): where each jet starts, and the end"
        )
    n = offsets.diff()
    if offsets[0] != 0 or offsets[-1] != len(particles) or (n < 0).any():
        raise ValueError(
            f"offsets runs from {int(offsets[0])} to {int(offsets[-1])}, but must rise from 0 to "
            f"{len(particles)}, the number of particles: take both from the same batch"
        )
    return n


def _at_least_zero(**given: float) -> None:
    for name, value in given.items():
        if not value >= 0:
            raise ValueError(f"{name} must be zero or more, got {value}; zero switches it off")


def _rand(like: Tensor, *shape: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=like.dtype, device=like.device)


def _spread(values: Tensor, n: Tensor, particles: Tensor) -> Tensor:
    """Values of jets (B, ...) given to each of their particles (T, ...)."""
    return values.repeat_interleave(send(n, values.device), dim=0, output_size=len(particles))


def _first(count: Tensor, offsets: Tensor) -> Tensor:
    """The places of the first `count` (B,) particles of each jet."""
    begin = offsets[:-1] - (count.cumsum(0) - count)
    return begin.repeat_interleave(count) + torch.arange(int(count.sum()), device=offsets.device)
