"""From jets to the event: a tagger of jets as backbone, and a head that adds up the jets of an
event.

tagger = JetTagger(Transformer(len(events.FEATURES), dim=32, n_layers=2, n_heads=4))
model = EventClassifier(tagger, representation="latent", hlf=len(events.HLF))
logit = model(x, jets, in_events, hlf)  # (E,)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb.hardware import send
from jetnb.inputs.events import Events
from jetnb.models._packed import total, wide

REPRESENTATIONS = ("score", "latent")


class JetTagger(nn.Module):
    """An encoder of jets, a latent vector of each, and one score made of it: signal or not.

    encoder: x (T, F), offsets (N+1,) -> constituents (T, D), jets (N, D). dim: R numbers that the
    encoder's vector is reduced to by a linear layer; None keeps all D of them. signal_weight: of a
    signal jet in the loss. arXiv:2401.13536 has Particle Transformer as encoder, and a weight of
    21.39. Taught in notebook 15.
    """

    def __init__(self, encoder: nn.Module, *, dim: int | None = None, signal_weight: float = 1.0):
        super().__init__()
        self.encoder, self.dim, self.signal_weight = encoder, dim or encoder.dim, signal_weight
        self.reduce = nn.Linear(encoder.dim, dim) if dim else nn.Identity()
        self.score = nn.Linear(self.dim, 1)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, F), offsets (N+1,) -> latent vectors (N, R), scores (N,), the logarithm of the
        odds.
        """
        latent = self.reduce(self.encoder(x, offsets)[1])  # (N, R)
        return latent, self.score(latent)[:, 0]

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean binary cross-entropy of a batch (x (T, F), offsets (N+1,), is_signal (N,) 0 or 1)."""
        x, offsets, label = batch
        return _cross_entropy(self(x, offsets)[1], label, self.signal_weight)


class EventHead(nn.Module):
    """Deep sets over the jets of an event: an MLP on each jet, the sum over the event, an MLP on
    that, one logit.

    n_features: R numbers of each jet. hlf: H, its high-level features, taken beside them; 0 leaves
    them out. width: of all layers. signal_weight: of a signal event in the loss. An event can have
    any number of jets in any order; one without jets is a sum of nothing. arXiv:1703.06114; of
    width 128 and weight 13.76 in arXiv:2401.13536. Taught in notebook 15.
    """

    def __init__(
        self, n_features: int, *, hlf: int = 0, width: int = 64, signal_weight: float = 1.0
    ):
        super().__init__()
        if n_features + hlf < 1 or width < 1:
            raise ValueError(
                f"n_features {n_features}, hlf {hlf} and width {width} must be at least 1 together"
            )
        self.n_features, self.hlf, self.signal_weight = n_features, hlf, signal_weight
        self.jet = nn.Sequential(
            nn.Linear(n_features + hlf, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.event = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, z: Tensor, events: Tensor, hlf: Tensor) -> Tensor:
        """z (N, R), events (E+1,) offsets of events in jets, hlf (N, H) -> logits (E,)."""
        if (
            z.shape[1] != self.n_features
            or (self.hlf and hlf.shape[1] != self.hlf)
            or len(hlf) != len(z)
        ):
            raise ValueError(
                f"z is {tuple(z.shape)} and hlf {tuple(hlf.shape)}, but the head was made for "
                f"{self.n_features} and {self.hlf} numbers of each jet"
            )
        h = self.jet(torch.cat([z, hlf], 1) if self.hlf else z)  # (N, width)
        n_events, counts = len(events) - 1, send(torch.as_tensor(events).diff(), h.device)
        event = torch.arange(n_events, device=h.device).repeat_interleave(
            counts, output_size=len(h)
        )
        return self.event(total(h, event, n_events))[:, 0]

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean binary cross-entropy of a batch of what `embed` makes: (z (N, R), _, events, hlf,
        is_signal (E,)).
        """
        z, _, events, hlf, label = batch
        return _cross_entropy(self(z, events, hlf), label, self.signal_weight)


class EventClassifier(nn.Module):
    """A tagger of jets with a head on the jets of an event: signal event or not.

    tagger: x (T, F), offsets (N+1,) -> latent (N, R), score (N,), with the attribute dim = R.
    representation: what the head sees of a jet, its "score" or its "latent" vector. hlf, width,
    signal_weight: as of `EventHead`. frozen: keep the tagger as it is: in eval mode and without
    gradients; `embed` and a head alone then give the same for less. Raises `ValueError` for an
    unknown representation. arXiv:2401.13536. Taught in notebook 15.
    """

    def __init__(
        self,
        tagger: nn.Module,
        *,
        representation: str = "latent",
        hlf: int = 0,
        width: int = 64,
        signal_weight: float = 1.0,
        frozen: bool = False,
    ):
        super().__init__()
        self.tagger, self.representation, self.frozen = tagger, _known(representation), frozen
        self.head = EventHead(
            _width(tagger, representation), hlf=hlf, width=width, signal_weight=signal_weight
        )
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.tagger.eval()
        return self

    def forward(self, x: Tensor, jets: Tensor, events: Tensor, hlf: Tensor) -> Tensor:
        """x (T, F), jets (N+1,), events (E+1,), hlf (N, H) -> logits (E,)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            z = _represent(self.tagger, x, jets, self.representation)
        return self.head(z, events, hlf)

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean binary cross-entropy of a batch of `Events`: (x, jets, events, hlf, is_signal (E,) 0
        or 1).
        """
        x, jets, events, hlf, label = batch
        return _cross_entropy(self(x, jets, events, hlf), label, self.head.signal_weight)


@torch.no_grad()
def embed(
    tagger: nn.Module, data: Events, *, representation: str = "latent", batch_size: int = 512
) -> Events:
    """What `tagger` makes of all jets of `data`, as events with one vector (R,) per jet: what a
    frozen head is fed.

    batch_size: jets at a time. The tagger is left in the mode that it came in. Taught in notebook
    15.
    """
    mode, parts, packed = tagger.training, [], data.by_jet()
    tagger.eval()
    device = next(tagger.parameters()).device
    for first in range(0, len(packed), batch_size):
        x, offsets = packed[np.arange(first, min(first + batch_size, len(packed)))]
        parts.append(
            _represent(tagger, x.to(device), offsets, _known(representation)).cpu().numpy()
        )
    tagger.train(mode)
    return data.with_x(np.concatenate(parts))


@torch.no_grad()
def score(model: EventClassifier | EventHead, data: Events, *, batch_size: int = 512) -> np.ndarray:
    """Logits (E,) of all events; of an `EventHead` data are what `embed` made. Taught in notebook
    15.
    """
    mode, parts = model.training, []
    model.eval()
    device = next(model.parameters()).device
    for first in range(0, len(data), batch_size):
        x, jets, events, hlf, *_ = data[np.arange(first, min(first + batch_size, len(data)))]
        given = (x.to(device), events, hlf.to(device))
        parts.append(
            model(*given) if isinstance(model, EventHead) else model(given[0], jets, *given[1:])
        )
    model.train(mode)
    return torch.cat(parts).float().cpu().numpy()


def _represent(tagger: nn.Module, x: Tensor, jets: Tensor, representation: str) -> Tensor:
    latent, score = tagger(x, jets)
    return wide(latent if representation == "latent" else score[:, None])


def _width(tagger: nn.Module, representation: str) -> int:
    return tagger.dim if representation == "latent" else 1


def _known(representation: str) -> str:
    if representation not in REPRESENTATIONS:
        raise ValueError(
            f"representation {representation!r} is unknown: use one of {', '.join(REPRESENTATIONS)}"
        )
    return representation


def _cross_entropy(logit: Tensor, label: Tensor, signal_weight: float) -> Tensor:
    if label.shape != logit.shape or len(label) == 0:
        raise ValueError(
            f"label has shape {tuple(label.shape)}, but must be {tuple(logit.shape)}, 0 or 1 for each, "
            "of at least one"
        )
    if label.device.type == "cpu" and (label.min() < 0 or label.max() > 1):
        raise ValueError(
            f"label runs from {label.min()} to {label.max()}, but must be 0 or 1: leave out what is "
            "unlabelled (-1), and compare with the signal class"
        )
    with torch.autocast(logit.device.type, enabled=False):
        return F.binary_cross_entropy_with_logits(
            wide(logit),
            wide(label.to(logit.device).float()),
            pos_weight=torch.full((), float(signal_weight), device=logit.device),
        )
