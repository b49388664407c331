"""Masks: which constituents of each jet are hidden from an encoder, all jets at once.

Each kind puts the constituents of a jet in an order, and hides the first of it: as many as make the
share that was asked for, one at least staying visible. So kinds differ in which constituents are
hidden together, and not in how many. "momentum" alone counts pt in place of constituents.

All is done on the CPU: how many are hidden decides how long arrays are, and asking a GPU means
waiting for it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jetnb import packed, substructure
from jetnb.hardware import on_cpu


def draw(
    kind: str,
    x: Tensor,
    offsets: Tensor,
    ratio: float,
    *,
    generator: torch.Generator | None = None,
    **options,
) -> Tensor:
    """The mask of this kind, a name of `KINDS`: (T,) bool, True where hidden.

    x (T, 3 or more): pt [GeV], deta, dphi [rad] of particles. offsets (B + 1,). ratio: share to
    hide. generator: torch's own if None. options: those of the kind. Raises `ValueError` for an
    unknown kind, a ratio outside (0, 1), and as the kind does.

    >>> x = torch.rand(10, 3) + 0.1
    >>> draw("neighbours", x, torch.tensor([0, 4, 10]), 0.5).sum()
    tensor(5)
    """
    if kind not in KINDS:
        raise ValueError(f"mask {kind!r} is unknown: use one of {', '.join(KINDS)}")
    return KINDS[kind](x, offsets, ratio, generator=generator, **options)


def random(x, offsets, ratio: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """Any constituents, each as likely as the others: (T,) bool, True where hidden.

    x is not looked at, and may be features of any kind; the rest as for `draw`. Of the n
    constituents of a jet `ratio` n are hidden, rounded up or down at random, so that the mean is
    right, but one at least stays visible. Taught in notebook 10.

    >>> random(None, torch.tensor([0, 4, 10]), 0.5).sum()
    tensor(5)
    """
    lengths, share = _share(offsets, ratio, generator)
    return _first(_rand(int(lengths.sum()), generator), lengths, share)


def momentum(x, offsets, ratio: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """Any constituents, until they hold the share `ratio` of the scalar sum of pt. As for `draw`.

    A constituent that reaches beyond the share is hidden where more than half of it fits.
    """
    lengths, _ = _share(offsets, ratio, generator)
    jet, pt = packed.jet_of(lengths), _particles(x)[:, 0]
    order = np.lexsort((_rand(len(jet), generator), jet))
    running = np.cumsum(pt[order]) - pt[order] / 2  # of all jets, up to the middle of each
    total = np.bincount(jet, pt, len(lengths))
    before = np.cumsum(total) - total
    hidden = running - before[jet] < ratio * total[jet]
    # One stays: the last in the order.
    hidden &= packed.ranks(lengths) < lengths[jet] - 1
    mask = np.empty(len(jet), bool)
    mask[order] = hidden
    return torch.from_numpy(mask)


def neighbours(
    x, offsets, ratio: float = 0.5, *, generator: torch.Generator | None = None
) -> Tensor:
    """A constituent drawn at random and those nearest to it in (deta, dphi): one hole. As for
    `draw`.
    """
    lengths, share = _share(offsets, ratio, generator)
    jet, place = packed.jet_of(lengths), _particles(x)[:, 1:3]
    centre = packed.starts(lengths)[:-1] + (_rand(len(lengths), generator) * lengths).astype(int)
    away = place - place[np.minimum(centre, max(len(jet) - 1, 0))[jet]]
    return _first((away**2).sum(1), lengths, share)


def clusters(
    x,
    offsets,
    ratio: float = 0.5,
    *,
    radius: float = 0.1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Whole anti-kT clusters of this radius, in any order, the last only as far as the share goes.
    As for `draw`. arXiv:2409.12589 hides kT patches and clusters in place of single constituents.
    """
    lengths, share = _share(offsets, ratio, generator)
    label = substructure.subjets(x, offsets, algorithm="antikt", radius=radius)
    jet = packed.jet_of(lengths)
    first = packed.starts(lengths)[:-1][jet] + label  # the number of a cluster among all
    key = _rand(len(jet), generator)[first]
    return _first(key, lengths, share, then=_rand(len(jet), generator))


def walk(x, offsets, ratio: float = 0.5, *, generator: torch.Generator | None = None) -> Tensor:
    """One run of a walk from the first constituent always to the nearest not yet visited,
    arXiv:2606.14813. As for `draw`; the run begins anywhere.
    """
    lengths, share = _share(offsets, ratio, generator)
    jet, place = packed.jet_of(lengths), substructure.walk(x, offsets)
    hidden = _count(lengths, share)
    start = np.floor(_rand(len(lengths), generator) * (lengths - hidden + 1)).astype(int)
    return torch.from_numpy((place >= start[jet]) & (place < (start + hidden)[jet]))


def subjets(
    x,
    offsets,
    ratio: float = 0.5,
    *,
    radius: float = 0.2,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cambridge/Aachen subjets of this radius from the hardest on, the last only as far as the
    share goes, drawn from it at random: targets of P-JEPA. As for `draw`.
    """
    lengths, share = _share(offsets, ratio, generator)
    label = substructure.subjets(x, offsets, algorithm="ca", radius=radius)
    return _first(label, lengths, share, then=_rand(len(label), generator))


KINDS = {
    "random": random,
    "momentum": momentum,
    "neighbours": neighbours,
    "clusters": clusters,
    "walk": walk,
    "subjets": subjets,
}


def _share(offsets, ratio: float, generator) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (B,), and how many constituents to hide before rounding down, (B,)."""
    if not 0 < ratio < 1:
        raise ValueError(
            f"ratio is {ratio}: it must be between 0 and 1, without both; the usual one is 0.5"
        )
    lengths = np.diff(np.asarray(torch.as_tensor(offsets).cpu()))
    return lengths, ratio * lengths + _rand(len(lengths), generator)


def _count(lengths: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.minimum(np.floor(share).astype(np.int64), np.maximum(lengths - 1, 0))


def _first(key: np.ndarray, lengths: np.ndarray, share: np.ndarray, *, then=None) -> Tensor:
    """True for those of each jet that come first by `key` (T,), and where keys are equal by `then`."""
    jet = packed.jet_of(lengths)
    order = np.lexsort((key, jet) if then is None else (then, key, jet))
    mask = np.empty(len(jet), bool)
    mask[order] = packed.ranks(lengths) < _count(lengths, share)[jet]
    return torch.from_numpy(mask)


def _particles(x) -> np.ndarray:
    return np.asarray(x.detach().cpu() if isinstance(x, Tensor) else x, np.float64)


def _rand(n: int, generator: torch.Generator | None) -> np.ndarray:
    return torch.rand(n, generator=on_cpu(generator), dtype=torch.float64).numpy()
