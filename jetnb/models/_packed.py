"""Packed batches in torch: to and from padded ones, without some constituents, and in length
buckets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from jetnb import packed
from jetnb.hardware import send


def check(x: Tensor, offsets: Tensor, n_features: int) -> np.ndarray:
    """Lengths (B,) of the jets of a packed batch; `ValueError` where x (T, F) and offsets (B+1,) do
    not fit.
    """
    if x.ndim != 2 or x.shape[1] != n_features or not x.is_floating_point():
        raise ValueError(
            f"x is {x.dtype} of shape {tuple(x.shape)}, but must be floats of shape (T, {n_features}): "
            "n_features of the encoder is the number of features of jetnb.inputs.compute"
        )
    bounds = np.asarray(torch.as_tensor(offsets).cpu())
    if (
        bounds.ndim != 1
        or bounds.dtype.kind != "i"
        or len(bounds) == 0
        or bounds[0] != 0
        or bounds[-1] != len(x)
    ):
        raise ValueError(
            f"offsets must be integers (B+1,) from 0 to {len(x)}, the rows of x, got {bounds.dtype} of "
            f"shape {bounds.shape}, {bounds.tolist()[:1]} to {bounds.tolist()[-1:]}"
        )
    lengths = np.diff(bounds)
    if (lengths < 0).any():
        raise ValueError(
            f"offsets fall after position {np.argmax(lengths < 0)}: they must rise from jet to jet"
        )
    return lengths


def pack(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Packed batch x (T, F), offsets (B+1,) of a padded one x (B, P, F); mask (B, P) is True for a
    real constituent.
    """
    return x[mask], torch.cat([mask.new_zeros(1, dtype=torch.int64), mask.sum(1).cumsum(0)])


def pad(x: Tensor, offsets: Tensor, *, value: float = 0.0) -> tuple[Tensor, Tensor]:
    """Padded x (B, P, F) and mask (B, P) of a packed batch x (T, F), offsets (B+1,); P is the
    longest jet.
    """
    lengths, at = spread(offsets)
    place = send(torch.from_numpy(at), x.device)
    width = int(lengths.max(initial=0))
    padded = x.new_full((len(lengths) * width, x.shape[1]), value).index_copy(0, place, x)
    mask = torch.arange(width, device=x.device) < send(torch.from_numpy(lengths), x.device)[:, None]
    return padded.view(len(lengths), width, -1), mask


def spread(offsets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Lengths (B,), and for each of T constituents its place in the rows of a padded batch (B, P)
    that is flattened.
    """
    lengths = np.diff(np.asarray(torch.as_tensor(offsets).cpu()))
    return lengths, packed.rows(np.arange(len(lengths)) * lengths.max(initial=0), lengths)


def select(x: Tensor, offsets: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """The packed batch of only the constituents with keep (T,) True; a jet may be left with none.

    Offsets are where keep is. Left on the CPU it makes nobody wait for a GPU.
    """
    kept = torch.cat([keep.new_zeros(1, dtype=torch.int64), keep.cumsum(0)])[
        torch.as_tensor(offsets).to(keep.device)
    ]
    rows = keep.nonzero()[:, 0]
    return x[rows if keep.device == x.device else send(rows, x.device)], kept


def inverse(order: np.ndarray) -> np.ndarray:
    """Where each of the numbers from 0 on is in `order`, which has each of them once."""
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


def falling(x: Tensor, offsets: Tensor) -> Tensor:
    """The rows of particles x (T, 3 + C) in falling pt within each jet, (T,), whatever their order
    was: equal pt are told apart by deta and dphi.
    """
    jet = jet_of(np.diff(np.asarray(torch.as_tensor(offsets).cpu())), x.device)
    order = torch.arange(len(x), device=x.device)
    for key in (x[:, 2], x[:, 1], -x[:, 0], jet):
        order = order[key[order].argsort(stable=True)]
    return order


def jet_of(lengths: np.ndarray, device: torch.device) -> Tensor:
    """For each of T constituents the number of its jet, (T,)."""
    return send(torch.from_numpy(packed.jet_of(lengths)), device)


def wide(values: Tensor) -> Tensor:
    """At least float32."""
    return values if values.dtype == torch.float64 else values.float()


def total(values: Tensor, jet: Tensor, n_jets: int) -> Tensor:
    """Sum of values (T, ...) over each jet, at least in float32: (B, ...)."""
    return wide(values.new_zeros(n_jets, *values.shape[1:])).index_add(0, jet, wide(values))


def mean(values: Tensor, lengths: np.ndarray) -> Tensor:
    """Mean of values (T, D) over each jet, at least in float32, zeros without constituents: (B, D)."""
    whole = total(values, jet_of(lengths, values.device), len(lengths))
    return whole / send(torch.from_numpy(lengths), values.device).clamp(min=1)[:, None]


def weigh(score: Tensor, value: Tensor, jet: Tensor, n_jets: int) -> Tensor:
    """Mean of value (T, heads, d) over each jet, weighted by the softmax of score (T, heads) over
    the jet: (B, D).
    """
    top = score.new_zeros(n_jets, score.shape[1]).scatter_reduce(
        0, jet[:, None].expand_as(score), score.detach(), "amax", include_self=False
    )
    weight = (score - top[jet]).exp()
    weight = weight / total(weight, jet, n_jets)[jet]
    return total((weight[..., None] * value).flatten(1), jet, n_jets)


class LengthBuckets(NamedTuple):
    """Jets sorted by length, those of (nearly) equal length in one bucket (n jets, L slots): S
    slots in all.

    What is worked on stays in this order through all layers, so no layer gathers anything.
    """

    slots: Tensor  # (S,) the row in each slot; one that is padding takes the last constituent of its jet, and is masked
    back: Tensor  # (T,) the slot of each row, with tokens (T + B,)
    shapes: list[tuple[int, int]]
    masks: list[Tensor | None]  # (n, 1, 1, L) True where not padding; None where nothing is
    # (3, jets) of each in their new order its first row, how many rows it has, and its width.
    jets: np.ndarray


def length_buckets(
    lengths: np.ndarray, step: int, device: torch.device, *, token: bool = False
) -> LengthBuckets:
    """Put jets of `lengths` (B,) into buckets whose widths are multiples of `step`; 1 means no
    padding at all.

    With `token` each jet has one row more, before its constituents: rows T to T + B, after all
    constituents.
    """
    sizes, starts = lengths + token, packed.starts(lengths)[:-1]
    order = np.argsort(sizes, kind="stable")
    order = order[sizes[order] > 0]
    widths = -(-sizes[order] // step) * step
    length, start, own = (
        np.repeat(values, widths)
        for values in (lengths[order], starts[order], lengths.sum() + order)
    )
    place = packed.ranks(widths) - token  # which constituent, -1 is the token
    nearest = np.minimum(place, length - 1)
    slots, real = np.where(nearest < 0, own, start + nearest), place < length
    back = np.empty(sizes.sum(), np.int64)
    back[slots[real]] = np.flatnonzero(real)
    shapes, masks, used = [], [], 0
    for width, n in zip(
        *(values.tolist() for values in np.unique(widths, return_counts=True)), strict=True
    ):
        mask = real[used : used + n * width]
        masks.append(
            None if mask.all() else send(torch.from_numpy(mask.reshape(n, 1, 1, width)), device)
        )
        shapes.append((n, width))
        used += n * width
    return LengthBuckets(
        send(torch.from_numpy(slots), device),
        send(torch.from_numpy(back), device),
        shapes,
        masks,
        np.stack([starts[order], lengths[order], widths]),
    )
