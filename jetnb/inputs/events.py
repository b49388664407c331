"""Events of jets for training: packed twice, constituents in jets and jets in events, without a
zero in between.

scaler = inputs.Scaler.fit(events.compute(train).x, events.FEATURES)
data = events.from_jets(train, scaler=scaler)
x, jets, in_events, hlf, label = data[np.arange(64)]
"""

from __future__ import annotations

from collections.abc import Sequence

import awkward as ak
import numpy as np
import torch
from torch import Tensor

from jetnb import inputs, packed
from jetnb.inputs.batches import Packed, as_target
from jetnb.packed import Batch

FEATURES = (
    *inputs.KINEMATIC,
    "charge",
    "is_charged_hadron",
    "is_neutral_hadron",
    "is_photon",
    "is_electron",
    "is_muon",
    "tanh_d0",
    "d0_significance",
    "tanh_dz",
    "dz_significance",
)
HLF = ("log_pt", "eta", "cos_phi", "sin_phi", "log_mass", "log_softdrop_mass")


class Events:
    """Events in memory, packed twice: `events[indices]` gathers some, as `batches.Packed` does with
    jets.

    x (T, F): constituents of all N jets. jets (N+1,): jet j is `x[jets[j]:jets[j + 1]]`. events
    (E+1,): event e has the jets from `events[e]` to `events[e + 1]`. hlf (N, H): high-level
    features of each jet. targets: arrays (E, ...), one value per event. Integers become int64,
    other numbers float32.

    `len` is the number of events; `events[indices]` (B,) is (x, jets, events, hlf, *targets) as
    tensors, and data for `training.fit`. Raises `ValueError` for lengths that do not fit. Taught in
    notebook 15.

    >>> data = Events(np.arange(5.0)[:, None], [0, 2, 4, 5], [0, 2, 3], np.zeros((3, 1)), [1, 0])
    >>> x, jets, events, hlf, label = data[np.array([1, 0])]
    >>> x.ravel(), jets, events, label
    (tensor([4., 0., 1., 2., 3.]), tensor([0, 1, 3, 5]), tensor([0, 1, 3]), tensor([0, 1]))
    """

    def __init__(self, x, jets, events, hlf, *targets):
        self._jets = Packed(x, jets, hlf)
        self.x, self.jets, (self.hlf,) = self._jets.x, self._jets.offsets, self._jets.targets
        self.events, self.targets = (
            np.asarray(events, np.int64),
            tuple(as_target(target) for target in targets),
        )
        if (
            self.events.ndim != 1
            or len(self.events) == 0
            or self.events[0] != 0
            or self.events[-1] != len(self._jets)
            or (np.diff(self.events) < 0).any()
        ):
            raise ValueError(
                f"events {self.events.shape} from {self.events[:1]} to {self.events[-1:]} do not fit "
                f"{len(self._jets)} jets: they must rise from 0 to that"
            )
        if self.hlf.ndim != 2 or self.hlf.dtype != np.float32:
            raise ValueError(
                f"hlf is {self.hlf.dtype} of shape {self.hlf.shape}, but must be floats (jets, H)"
            )
        for i, target in enumerate(self.targets):
            if target.ndim == 0 or len(target) != len(self):
                raise ValueError(
                    f"target {i} has shape {target.shape}, but there are {len(self)} events"
                )

    def __len__(self) -> int:
        return len(self.events) - 1

    def __getitem__(self, indices) -> tuple[Tensor, ...]:
        """(x, jets, events, hlf, *targets) of the events `indices` (B,), integers, in this order."""
        indices = packed.valid(indices, len(self))
        rows, events = self.jets_of(indices)
        x, jets, hlf = self._jets[rows]
        targets = (torch.from_numpy(target[indices]) for target in self.targets)
        return x, jets, torch.from_numpy(events), hlf, *targets

    def jets_of(self, indices) -> tuple[np.ndarray, np.ndarray]:
        """Numbers (n,) of the jets of the events `indices` (B,), and the offsets (B+1,) of events
        in them.
        """
        starts, lengths = self.events[indices], self.events[indices + 1] - self.events[indices]
        offsets = packed.starts(lengths)
        return packed.rows(starts, lengths), offsets

    def by_jet(self, *targets) -> Packed:
        """The same jets one by one, with `targets` (N, ...) of each, to train a tagger of jets."""
        return Packed(self.x, self.jets, *targets)

    def with_x(self, x) -> Events:
        """The same events with one vector x (N, F) for each jet instead of its constituents."""
        return Events(x, np.arange(len(self.jets)), self.events, self.hlf, *self.targets)


def group(jets: ak.Array, *, n_jets: tuple[int, int] = (2, 5)) -> ak.Array:
    """Order N jets by event, and by falling pt within it, for `from_jets`.

    n_jets: (least, most) jets of an event: one with fewer is left out, of one with more the hardest
    are kept; the paper has two to five. Returns the jets that are kept, those of an event next to
    each other. Raises `ValueError` where the field event is missing, and where nothing is left.
    arXiv:2401.13536. Taught in notebook 15.
    """
    if "event" not in jets.fields:
        raise ValueError(
            f"jets have no field 'event', only {', '.join(jets.fields)}: without the number of their "
            "collision they make no events"
        )
    least, most = n_jets
    if not 1 <= least <= most:
        raise ValueError(
            f"n_jets is {n_jets}: give the least and the most jets of an event, from 1"
        )
    event, pt = np.asarray(jets.event), np.asarray(jets.pt)
    order = np.lexsort((-pt, event))
    starts, counts = _runs(event[order])
    place = np.arange(len(order)) - np.repeat(starts, counts)
    kept = order[(place < most) & np.repeat(counts >= least, counts)]
    if len(kept) == 0:
        raise ValueError(
            f"no event of {len(jets)} jets has {least} jets or more: are these single jets? Load events, "
            "or lower n_jets"
        )
    return jets[kept]


def from_jets(
    jets: ak.Array,
    *,
    scaler: inputs.Scaler | None = None,
    hardest: int | None = None,
    features: Sequence[str] = FEATURES,
    targets: Sequence[str] = ("event_label",),
) -> Events:
    """Make `Events` of N jets that `group` has put in order.

    scaler: of the same features, fitted on training jets; None leaves them as they are. hardest:
    constituents kept of each jet; the paper has 100. features: names, see `inputs.compute`.
    targets: fields that all jets of an event share. Raises `ValueError` for jets that are not in
    order of event, and for a target that differs within an event, naming it. Taught in notebook 15.
    """
    event = np.asarray(jets.event)
    starts, counts = _runs(event)
    if len(np.unique(event)) != len(starts):
        raise ValueError(
            "jets: those of an event must stand next to each other: put them in order with events.group"
        )
    values = {}
    for name in targets:
        if name not in jets.fields:
            raise ValueError(
                f"targets: {name!r} is no field of the jets, only {', '.join(jets.fields)}"
            )
        column = np.asarray(jets[name])
        values[name] = column[starts]
        if (unlike := column != np.repeat(values[name], counts)).any():
            at = int(np.argmax(unlike))
            raise ValueError(
                f"{name} of event {event[at]} is {values[name][np.searchsorted(starts, at, 'right') - 1]} "
                f"and {column[at]}: jets of one event must share it; do two samples share event numbers?"
            )
    high = hlf(jets, starts, counts)
    if hardest is not None:
        jets = ak.with_field(jets, jets.constituents[:, :hardest], "constituents")
    x, offsets = compute(jets, features)
    x = x if scaler is None else scaler.transform(x)
    return Events(x, offsets, np.append(starts, len(event)), high, *values.values())


def compute(jets: ak.Array, features: Sequence[str] = FEATURES) -> Batch:
    """`inputs.compute` with the features of events: without being the same numbers, the 17 of
    arXiv:2401.13536.
    """
    return inputs.compute(jets, features)


def hlf(jets: ak.Array, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """High-level features `HLF` of N jets, (N, 6) float32, all of order one.

    starts, counts (E,): where each event begins and how many jets it has. They are the logarithm of
    pt over 500 GeV, eta, cosine and sine of phi, and the logarithms of mass and softdrop mass over
    100 GeV, each plus 1 GeV. phi is counted from the hardest jet of the event: no network has to
    learn that the detector is round.
    """
    if missing := [
        name for name in ("pt", "eta", "phi", "mass", "softdrop_mass") if name not in jets.fields
    ]:
        raise ValueError(
            f"jets have no field {missing[0]!r}, which the high-level features need: compute it with "
            "jetnb.substructure"
        )
    pt, eta, phi, mass, groomed = (
        np.asarray(jets[name], np.float64) for name in ("pt", "eta", "phi", "mass", "softdrop_mass")
    )
    phi = phi - np.repeat(phi[starts], counts)
    columns = (
        np.log(pt / 500),
        eta,
        np.cos(phi),
        np.sin(phi),
        *(np.log((np.maximum(value, 0) + 1) / 100) for value in (mass, groomed)),
    )
    return np.column_stack(columns).astype(np.float32)


def draw(ax, jets: ak.Array, *, radius: float = 0.8, significance: float = 5.0):
    """Draw one event: constituents of its jets over eta and phi, a colour for each jet and a circle
    of `radius`.

    jets: those of the event, (n,). The area of a marker grows with pt; a ring marks a track whose
    |d0| is above `significance` times its uncertainty. The legend says pt and mass [GeV]. Returns
    `ax`. Taught in notebook 15.
    """
    from matplotlib.patches import Circle

    for jet in jets:
        parts = jet.constituents
        label = f"{jet.pt:.0f} GeV, $m$ = {jet.mass:.0f} GeV"
        ax.scatter(parts.eta, parts.phi, s=4 + 12 * np.sqrt(parts.pt), alpha=0.6, label=label)
        far = parts[(parts.d0_error > 0) & (abs(parts.d0) > significance * parts.d0_error)]
        ax.scatter(far.eta, far.phi, s=110, facecolor="none", edgecolor="black", linewidth=1.3)
        ax.add_patch(Circle((jet.eta, jet.phi), radius, fill=False, linestyle="--"))
    ax.set(xlim=(-3.3, 3.3), ylim=(-4, 4), aspect="equal", xlabel=r"$\eta$", ylabel=r"$\phi$ [rad]")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def _runs(event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each run of equal numbers begins, and how long it is, (E,) each."""
    starts = (
        np.flatnonzero(np.append(True, event[1:] != event[:-1]))
        if len(event)
        else np.zeros(0, np.int64)
    )
    return starts, np.diff(np.append(starts, len(event)))
