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
BLOCK = 65536  # jets of stores looked at together


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
    jets: ak.Array | batches.Rows,
    *,
    variations: Sequence[str] | None = None,
    hardest: int | None = HARDEST,
) -> batches.Packed | Groups:
    """The jets of each hard parton of the sample "resimulation" as one group, in the order of
    `variations`; partons with fewer than two are left out.

    jets: in memory, or `batches.Rows` of stores, which are read as they are asked for. variations:
    names of those to take, the first is the first of its group; None is all of the sample. hardest:
    constituents kept of each jet. Returns `Packed(particles (T, 4), offsets (G + 1,), label (G,))`,
    or `Groups` of stores, which have the same batches. Raises ValueError for jets without `pair`, an
    unknown variation, and where no parton has two. Taught in notebook 13.
    """
    if "pair" not in _fields(jets):
        raise ValueError(
            f"jets have no field 'pair', only {', '.join(_fields(jets))}: simulate pairs with `jetnb "
            "simulate resimulation`"
        )
    known = _variations(jets)
    wanted = known if variations is None else list(variations)
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(
            f"variation {unknown[0]!r} is not in these jets: they have {', '.join(known)}"
        )
    place = np.full(len(known), -1)
    place[[known.index(name) for name in wanted]] = np.arange(len(wanted))
    place = place[_field(jets, "variation")]
    return _groups(jets, _field(jets, "pair"), place, hardest, what="hard parton")


def dijet_partner(
    jets: ak.Array | batches.Rows, *, hardest: int | None = HARDEST
) -> batches.Packed | Groups:
    """The two hardest jets of each event as one group: what they share is the event.

    jets: with `event`, such as those of the samples "hh4b" and "aoj". Returns and raises as `pairs`.
    """
    if "event" not in _fields(jets):
        raise ValueError(
            "jets have no field 'event': without the number of their collision none has a partner"
        )
    event = _field(jets, "event")
    store = _store_of(jets) if isinstance(jets, batches.Rows) else np.zeros(len(event), np.int16)
    order = np.lexsort((-_field(jets, "pt"), event, store))
    new = (np.diff(event[order]) != 0) | (np.diff(store[order]) != 0)
    starts = np.flatnonzero(np.concatenate([[True], new, [True]]))
    place = np.empty(len(event), np.int64)
    place[order] = packed.ranks(np.diff(starts))
    return _groups(jets, event, np.where(place < 2, place, -1), hardest, what="event")


def tracks_against_clusters(
    jets: ak.Array | batches.Rows, *, hardest: int | None = HARDEST
) -> batches.Packed | Groups:
    """What the tracker and what the calorimeter see of the same particles, as one group: charged
    candidates of the nominal jet, and the calorimeter's towers before the energy flow.

    jets: of the sample "resimulation", with the variations "nominal" and "calorimeter". Both views
    are relative to the axis of their own jet. Returns and raises as `pairs`. Taught in notebook 13.
    """
    names = ("nominal", "calorimeter")
    known = _variations(jets)
    if "pair" not in _fields(jets) or not set(names) <= set(known):
        raise ValueError(
            "jets need the variations 'nominal' and 'calorimeter', which the sample 'resimulation' has"
        )
    variation = _field(jets, "variation")
    place = np.select([variation == known.index(name) for name in names], [0, 1], -1)
    place[(place == 0) & ~_with_tracks(jets)] = -1
    # The axis stays that of the whole jet, which is in the jet's own fields.
    return _groups(jets, _field(jets, "pair"), place, hardest, what="hard parton", tracks=True)


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


def _groups(jets, key, place, hardest, *, what, tracks=False):
    """Groups of the jets with the same key, by their place in it; -1 is left out, and so is who is
    alone.

    tracks: of the first of each group only charged constituents.
    """
    chosen = np.flatnonzero(place >= 0)
    store = _store_of(jets)[chosen] if isinstance(jets, batches.Rows) else 0
    # The numbers of two stores are not those of one event.
    order = np.lexsort((place[chosen], key[chosen], np.broadcast_to(store, chosen.shape)))
    chosen = chosen[order]
    new = np.ones(len(chosen), bool)
    new[1:] = np.diff(key[chosen]) != 0
    if np.ndim(store):
        new[1:] |= np.diff(store[order]) != 0
    group = np.cumsum(new) - 1
    kept = np.bincount(group)[group] > 1 if len(group) else new
    if not kept.any():
        raise ValueError(f"no {what} has two of these jets: take more jets or other variations")
    chosen, first = chosen[kept], np.flatnonzero(new[kept])
    edges = np.append(first, len(chosen))
    if isinstance(jets, batches.Rows):
        return Groups(jets, chosen, edges, place[chosen], hardest=hardest, tracks=tracks)
    some = jets[chosen]
    x, offsets = (torch.from_numpy(one) for one in inputs.to_relative(some))
    if tracks:
        charged = torch.from_numpy(ak.to_numpy(ak.flatten(some.constituents.charge != 0)))
        x, offsets = _charged(x, offsets, charged, place[chosen])
    labels = [ak.to_numpy(some.label)[first]] if "label" in some.fields else []
    return batches.Packed(*_joined(x, offsets, place[chosen], edges, hardest), *labels)


def _joined(x: Tensor, offsets: Tensor, number: np.ndarray, edges: np.ndarray, hardest):
    """Particles (T, 4) of groups, and their offsets, of those (T, 3) of jets."""
    if hardest is not None:
        x, offsets = augment.keep_hardest(x, offsets, n_max=hardest)
    number = torch.from_numpy(number).repeat_interleave(offsets.diff()).to(x.dtype)
    return torch.cat([x, number[:, None]], 1), offsets[torch.from_numpy(edges)]


def _charged(x: Tensor, offsets: Tensor, charged: Tensor, number: np.ndarray) -> Batch:
    """Only what is charged of the jets of number 0, and all of the others."""
    jet = torch.arange(len(number)).repeat_interleave(offsets.diff())
    kept = charged | torch.from_numpy(number != 0)[jet]
    counts = jet[kept].bincount(minlength=len(number))
    return x[kept], torch.cat([offsets[:1], counts.cumsum(0)])


class Groups:
    """Groups of jets that stay in their stores: data for training, like the `Packed` that `pairs`
    makes of jets in memory.

    jets: N. chosen (M,): which of them, group after group; group g has those from edges[g] to
    edges[g + 1]. number (M,): of each within its group. hardest: constituents kept of each jet.
    tracks: of the jets of number 0 only what is charged. In memory are these numbers, some tens of
    bytes a jet.
    """

    def __init__(self, jets: batches.Rows, chosen, edges, number, *, hardest, tracks: bool):
        labelled = all("label" in store.jets.fields for store in jets.stores)
        self.data = batches.Stored(
            jets,
            ("pt", "deta", "dphi", *(("charge",) if tracks else ())),
            targets=("label",) if labelled else (),
            hardest=None if tracks else hardest,
        )
        self.chosen, self.edges = chosen.astype(batches.small(len(jets))), edges
        self.number, self.hardest, self.tracks = number.astype(np.int8), hardest, tracks

    def __len__(self) -> int:
        return len(self.edges) - 1

    @property
    def n_jets(self) -> int:
        return len(self.chosen)

    def __getitem__(self, indices) -> tuple[Tensor, ...]:
        """Packed batch of the groups `indices` (B,), in this order: particles (T, 4), offsets
        (B + 1,), and the label (B,) of the first of each where there are labels."""
        indices = packed.valid(indices, len(self))
        first = self.edges[indices]
        sizes = self.edges[indices + 1] - first
        rows, edges = packed.rows(first, sizes), packed.starts(sizes)
        x, offsets, *labels = self.data[self.chosen[rows]]
        number = self.number[rows]
        if self.tracks:
            x, offsets = _charged(x[:, :3], offsets, x[:, 3] != 0, number)
        labels = [label[torch.from_numpy(edges[:-1])] for label in labels]
        return *_joined(x, offsets, number, edges, self.hardest), *labels


def _store_of(jets: batches.Rows) -> np.ndarray:
    """The number (N,) of the store of each of the jets."""
    counts = np.diff(jets.starts)
    store = np.repeat(np.arange(len(counts), dtype=np.int16), counts)
    return store if jets.rows is None else store[jets.rows]


def _field(jets: ak.Array | batches.Rows, name: str) -> np.ndarray:
    return jets.column(name) if isinstance(jets, batches.Rows) else ak.to_numpy(jets[name])


def _fields(jets: ak.Array | batches.Rows) -> list[str]:
    """Those that all jets have."""
    if not isinstance(jets, batches.Rows):
        return jets.fields
    first, *others = (store.jets.fields for store in jets.stores)
    return [name for name in first if all(name in fields for fields in others)]


def _variations(jets: ak.Array | batches.Rows) -> list[str]:
    every = [store.jets for store in jets.stores] if isinstance(jets, batches.Rows) else [jets]
    known = [list(jetnb.jets.provenance(one).get("variations", ())) for one in every]
    if other := [one for one in known if one != known[0]]:
        raise ValueError(
            f"one store has the variations {', '.join(known[0])}, another {', '.join(other[0])}: "
            "use those of one simulation"
        )
    return known[0]


def _with_tracks(jets: ak.Array | batches.Rows) -> np.ndarray:
    """Which of the jets (N,) have a charged constituent."""
    if not isinstance(jets, batches.Rows):
        return ak.to_numpy(ak.any(jets.constituents.charge != 0, axis=1))
    found, every = np.zeros(len(jets), bool), batches.Stored(jets, ("charge",), targets=())
    for first in range(0, len(jets), BLOCK):
        some = np.arange(first, min(first + BLOCK, len(jets)))
        charge, offsets = every[some]
        jet = packed.jet_of(offsets.diff().numpy())
        found[some[jet[charge[:, 0].numpy() != 0]]] = True
    return found
