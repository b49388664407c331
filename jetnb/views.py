"""Views of a jet that physics gives: what else the same hard process could have looked like, the other
jet of a dijet event, what tracker and calorimeter see, two parts of one jet.

Contrastive learning takes two views of a thing and learns what they share. `jetnb.augment` changes a
jet; here the second view is another jet, or another part or measurement of it. So several jets make one
entry of a batch, a group: `particles` (T, 4) are pt in GeV, deta and dphi relative to the axis of their
own jet, and the number of the jet within the group; `offsets` (G + 1,) are those of groups. `pairs`,
`dijet_partner` and `tracks_against_clusters` make such groups of jets, and `members` draws two views of
each: give it to `JetCLR` as its `views`. `subjet_pair` makes both views of single jets. arXiv:2403.07066.
"""

from __future__ import annotations

from collections.abc import Sequence

import awkward as ak
import numpy as np
import torch
from torch import Tensor

import jetnb.jets
from jetnb import augment, inputs, packed, substructure
from jetnb.augment import Batch
from jetnb.inputs import batches

HARDEST = 40


def members(
    particles: Tensor, offsets: Tensor, *, generator: torch.Generator | None, first: bool = True
) -> tuple[Batch, Batch]:
    """Two different jets of each group, drawn at random, as views.

    `particles` (T, 4), `offsets` (G + 1,), see above. first: one of the two is always the first jet
    of its group, the nominal one, and the other is drawn; else both are. A group of one jet gives it
    twice. Returns ((particles (T', 3), offsets (G + 1,)), the same of the others). Raises ValueError
    for particles of another shape and for a group without a particle. Taught in notebook 13.
    """
    x, edges, group = split(particles, offsets)
    size = group.bincount(minlength=len(offsets) - 1)
    device = particles.device
    begin = size.cumsum(0) - size
    draw = torch.rand(len(group), generator=generator, device=device).double().cpu()
    if first:
        draw[begin] = -1.0
    # Whole numbers keep groups in order: of each, the two jets that drew least.
    order = (group + draw.clamp(min=-0.5) * 0.5).argsort()
    one, two = order[begin], order[begin + (size > 1)]
    return _taken(x, edges, one), _taken(x, edges, two)


def split(particles: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The jets of groups one by one: particles (T, 3), offsets (N + 1,) of jets, and the group (N,)
    of each.

    Raises ValueError as `members` does.
    """
    if particles.ndim != 2 or particles.shape[1] != 4:
        raise ValueError(
            f"particles has shape {tuple(particles.shape)}, but groups of jets are (T, 4): pt, deta, dphi "
            "and the number of the jet in its group; make them with views.pairs"
        )
    n = offsets.diff()
    if len(n) == 0 or (n < 1).any():
        raise ValueError(
            f"group {int((n < 1).int().argmax())} of {len(n)} has no particle: leave it out"
        )
    number = particles[:, 3].cpu()
    group = torch.arange(len(n)).repeat_interleave(n)
    new = torch.ones(len(number), dtype=torch.bool)
    new[1:] = (number[1:] != number[:-1]) | (group[1:] != group[:-1])
    starts = new.nonzero()[:, 0]
    edges = torch.cat([starts, offsets[-1:].cpu()])
    return particles[:, :3], edges, group[starts]


def pairs(
    jets: ak.Array, *, variations: Sequence[str] | None = None, hardest: int | None = HARDEST
) -> batches.Packed:
    """The jets of each hard parton of the sample "resimulation" as one group, in the order of
    `variations`; partons with fewer than two are left out.

    variations: names of those to take, the first is the first of its group; None is all of the
    sample. hardest: constituents kept of each jet. Returns `Packed(particles (T, 4), offsets (G + 1,),
    label (G,))`. Raises ValueError for jets without `pair`, an unknown variation, and where no parton
    has two. Taught in notebook 13.
    """
    if "pair" not in jets.fields:
        raise ValueError(
            f"jets have no field 'pair', only {', '.join(jets.fields)}: simulate pairs with `jetnb "
            "simulate resimulation`"
        )
    known = list(jetnb.jets.provenance(jets).get("variations", ()))
    wanted = known if variations is None else list(variations)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(
            f"variation {unknown[0]!r} is not in these jets: they have {', '.join(known)}"
        )
    place = np.full(len(known), -1)
    place[[known.index(name) for name in wanted]] = np.arange(len(wanted))
    place = place[ak.to_numpy(jets.variation)]
    return _groups(jets, ak.to_numpy(jets.pair), place, hardest, what="hard parton")


def dijet_partner(jets: ak.Array, *, hardest: int | None = HARDEST) -> batches.Packed:
    """The two hardest jets of each event as one group: what they share is the event.

    jets: with `event`, such as those of the samples "hh4b" and "aoj". Returns and raises as `pairs`.
    """
    if "event" not in jets.fields:
        raise ValueError(
            "jets have no field 'event': without the number of their collision none has a partner"
        )
    event = ak.to_numpy(jets.event)
    order = np.lexsort((-ak.to_numpy(jets.pt), event))
    sizes = np.unique(event, return_counts=True)[1]
    place = np.empty(len(event), np.int64)
    place[order] = packed.ranks(sizes)
    return _groups(jets, event, np.where(place < 2, place, -1), hardest, what="event")


def tracks_against_clusters(jets: ak.Array, *, hardest: int | None = HARDEST) -> batches.Packed:
    """What the tracker and what the calorimeter see of the same particles, as one group: charged
    candidates of the nominal jet, and the calorimeter's towers before the energy flow.

    jets: of the sample "resimulation", with the variations "nominal" and "calorimeter". Both views
    are relative to the axis of their own jet. Returns and raises as `pairs`. Taught in notebook 13.
    """
    names = ("nominal", "calorimeter")
    known = list(jetnb.jets.provenance(jets).get("variations", ()))
    if "pair" not in jets.fields or not set(names) <= set(known):
        raise ValueError(
            "jets need the variations 'nominal' and 'calorimeter', which the sample 'resimulation' has"
        )
    variation = ak.to_numpy(jets.variation)
    place = np.select([variation == known.index(name) for name in names], [0, 1], -1)
    kept = (jets.constituents.charge != 0) | (place == 1)
    # The axis stays that of the whole jet: `to_relative` takes it from the jet's own fields.
    some = ak.with_field(jets, jets.constituents[kept], "constituents")
    place = np.where(ak.to_numpy(ak.num(some.constituents)) > 0, place, -1)
    return _groups(some, ak.to_numpy(jets.pair), place, hardest, what="hard parton")


def subjet_pair(
    particles: Tensor, offsets: Tensor, *, generator: torch.Generator | None = None
) -> tuple[Batch, Batch]:
    """The two subjets of each jet as views, each seen from its own axis: where the last step of kT
    clustering (arXiv:hep-ph/9305266) joined them.

    `particles` (T, 3) [GeV, 1, rad], `offsets` (B + 1,). generator is not used: nothing is drawn. The
    axis is the mean of the directions weighted with pt. A jet of one particle gives it twice. Returns
    ((particles, offsets (B + 1,)), the same of the softer subjets). Raises ValueError for a malformed
    batch.
    """
    x = np.asarray(particles[:, :3].detach().cpu(), np.float32)
    number = torch.as_tensor(substructure.subjets(x, np.asarray(offsets), algorithm="kt", n=2))
    single = offsets.diff().repeat_interleave(offsets.diff()) < 2
    first, second = (_centred(particles, offsets, (number == k) | single) for k in (0, 1))
    return first, second


def _centred(particles: Tensor, offsets: Tensor, kept: Tensor) -> Batch:
    jet = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
    edges = torch.cat([offsets[:1], jet[kept].bincount(minlength=len(offsets) - 1).cumsum(0)])
    jet, x = jet[kept].to(particles.device), particles[kept.to(particles.device), :3]
    pt = x[:, :1]
    total = torch.zeros(len(offsets) - 1, 3, dtype=x.dtype, device=x.device)
    total = total.index_add(0, jet, torch.cat([pt, pt * x[:, 1:]], 1))
    return torch.cat([pt, x[:, 1:] - (total[:, 1:] / total[:, :1])[jet]], 1), edges


def _taken(x: Tensor, edges: Tensor, jets: Tensor) -> Batch:
    """The jets (B,) of packed ones, in this order."""
    counts = edges.diff()[jets]
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    rows = torch.arange(int(offsets[-1])) + (edges[jets] - offsets[:-1]).repeat_interleave(counts)
    return x[rows.to(x.device)], offsets


def _groups(jets, key, place, hardest, *, what) -> batches.Packed:
    """Groups of the jets with the same key, by their place in it; -1 is left out, and so is who is
    alone.
    """
    chosen = np.flatnonzero(place >= 0)
    _, inverse, sizes = np.unique(key[chosen], return_inverse=True, return_counts=True)
    chosen = chosen[sizes[inverse] > 1]
    if not len(chosen):
        raise ValueError(f"no {what} has two of these jets: take more jets or other variations")
    chosen = chosen[np.lexsort((place[chosen], key[chosen]))]
    some = jets[chosen]
    x, edges = (torch.from_numpy(one) for one in inputs.to_relative(some))
    if hardest is not None:
        x, edges = augment.keep_hardest(x, edges, n_max=hardest)
    number = torch.from_numpy(place[chosen]).repeat_interleave(edges.diff()).to(x.dtype)
    first = np.flatnonzero(np.diff(key[chosen], prepend=key[chosen][0] - 1))
    offsets = torch.cat([edges[:-1][torch.from_numpy(first)], edges[-1:]])
    labels = [ak.to_numpy(some.label)[first]] if "label" in some.fields else []
    return batches.Packed(torch.cat([x, number[:, None]], 1), offsets, *labels)
