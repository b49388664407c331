"""Joint embedding: what is visible of a jet says what a network would make of the hidden part.

A student encodes the visible constituents. A teacher, a slow average of the student, encodes the
whole jet. A predictor is told where the hidden ones are, and says which vectors the teacher has for
them. So what is compared are representations, never inputs, and all could agree on one vector: the
monitors tell. J-JEPA, arXiv:2412.05333, with subjets; for images I-JEPA, arXiv:2301.08243.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import masks
from jetnb.hardware import send
from jetnb.models import _packed, across
from jetnb.models._packed import select, wide
from jetnb.models.encoder import Transformer
from jetnb.models.particles import ENCODER, FEATURES, from_settings
from jetnb.models.subjets import FromSubjets
from jetnb.strategies.contrastive import spread

TOKENS, CONTEXTS = ("particles", "subjets"), ("visible", "jet")
TEACHERS, NORMALISE = ("average", "copy", "student"), ("vector", "batch", "none")
COORDINATES = ("deta", "dphi", "log_pt")  # those that need no other constituent


class JointEmbedding(nn.Module):
    """Prediction of the teacher's vectors of hidden tokens from the student's of visible ones.

    encoder: x (T, F), offsets (B + 1,) -> tokens (T, D), jets (B, D), as `FromParticles`: the
    student, which is kept. predictor: settings of a `Transformer`. mask: one of `masks.KINDS`, that
    hides the share `ratio` of the tokens. query: what the predictor is told of each hidden token,
    some of `COORDINATES`. memory: of the teacher, as a share of all steps, see `teacher_momentum`.
    normalise: targets get mean 0 and width 1, each "vector" by itself, or each dimension over the
    "batch"; or "none".

    Two settings are there to break it. teacher: "average"; a "copy" of the student after each step;
    or the "student" itself, with gradients, so that nothing holds the targets. context: what the
    student sees, the "visible" tokens, or the whole "jet", of which only the visible outputs are
    used: attention has carried the hidden ones into these.

    Raises `ValueError` for settings that do not fit. Taught in notebook 12.
    """

    TITLE = "joint-embedding prediction, arXiv:2412.05333"
    SETTINGS: dict[str, Any] = {
        "encoder": ENCODER,
        "predictor": {"dim": 32, "n_layers": 2, "n_heads": 4},
        "hardest": 40,
        "extras": [],
        "tokens": "particles",
        "radius": 0.1,
        "mask": "random",
        "ratio": 0.5,
        "query": ["deta", "dphi"],
        "memory": 0.05,
        "normalise": "vector",
        "teacher": "average",
        "context": "visible",
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        predictor: Mapping = SETTINGS["predictor"],
        mask: str = "random",
        ratio: float = 0.5,
        query: Sequence[str] = ("deta", "dphi"),
        memory: float = 0.05,
        normalise: str = "vector",
        teacher: str = "average",
        context: str = "visible",
    ):
        super().__init__()
        one_of("mask", mask, masks.KINDS)
        one_of("teacher", teacher, TEACHERS)
        one_of("context", context, CONTEXTS)
        one_of("normalise", normalise, NORMALISE)
        for name in query:
            one_of("query", name, COORDINATES)
        if not 0 < ratio < 1 or not 0 < memory < 1:
            raise ValueError(f"ratio is {ratio} and memory {memory}: both are shares, from 0 to 1")
        self.encoder, self.mask, self.ratio, self.memory = encoder, mask, ratio, memory
        self.normalise, self.kind, self.context = normalise, teacher, context
        self.query = [FEATURES.index(name) for name in query]
        self.predictor = Predictor(encoder.dim, len(query), predictor)
        self.teacher = frozen(encoder)
        self.register_buffer("momentum", torch.zeros(()))
        self._last: tuple[Tensor, ...] | None = None

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        hardest: int | None,
        extras: Sequence[str],
        tokens: str,
        radius: float,
        **options,
    ) -> JointEmbedding:
        """For `pretraining.pretrain`: a transformer of particles with these `extras`, or of `tokens` "subjets" of this
        radius.
        """
        one_of("tokens", tokens, TOKENS)
        if tokens == "particles":
            made = from_settings(encoder, extras=extras)
        else:
            body = Transformer(**{**encoder, "n_features": encoder["dim"]})
            made = FromSubjets(body, radius=radius, extras=extras)
        model = cls(made, **options)
        model.hardest, model.extras = hardest, made.extras
        return model

    def fit(self, data, *, seed: int) -> JointEmbedding:
        """Set the scaling of both encoders to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        self.teacher.load_state_dict(self.encoder.state_dict())
        return self

    def train(self, mode: bool = True) -> JointEmbedding:
        """As for any module, but the teacher never drops out."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self, done: int, total: int) -> None:
        """Let the teacher follow the student, after step `done` of `total`."""
        momentum = teacher_momentum(done, total, memory=self.memory)
        if self.kind != "average":
            momentum = 0.0
        self.momentum.fill_(momentum)
        follow(self.teacher, self.encoder, momentum)

    def tokens(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is hidden and predicted: tokens (S, 3) as pt, deta, dphi, where each jet starts
        (B + 1,), and for each particle the number of its token (T,), None where they are the same.
        """
        if isinstance(self.encoder, FromSubjets):
            return self.encoder.group(x, offsets)
        return x, offsets, None

    def draw(
        self,
        x: Tensor,
        offsets: Tensor,
        *,
        generator: torch.Generator | None = None,
        tokens: tuple | None = None,
    ) -> Tensor:
        """Which tokens to hide: (S,) on the CPU, True where hidden. tokens: those of `tokens`, where
        they are known, here and below.
        """
        place, start, _ = tokens or self.tokens(x, offsets)
        return masks.draw(self.mask, place, start, self.ratio, generator=generator)

    def predict(
        self, x: Tensor, offsets: Tensor, mask: Tensor, *, tokens: tuple | None = None
    ) -> tuple[Tensor, Tensor]:
        """Vectors of the hidden tokens (M, D), in their order, as the visible ones predict them,
        and the student's jets (B, D).

        x: particles (T, 3), offsets (B + 1,), mask (S,) of tokens, True where hidden.
        """
        place, start, of = tokens or self.tokens(x, offsets)
        if self.context == "jet":  # the leak
            every, jets = self._encode(self.encoder, x, offsets, of)
            context = every.index_select(0, send((~mask).nonzero()[:, 0], x.device))
        else:
            hidden = mask if of is None else mask[of]
            seen, first = select(x, offsets, ~hidden)
            if of is not None:
                of = ((~mask).cumsum(0) - 1)[of[~hidden]]
            context, jets = self._encode(self.encoder, seen, first, of)
        coordinates = self._coordinates(place)
        return self.predictor(context, coordinates, start, mask), jets

    def targets(self, x: Tensor, offsets: Tensor, *, tokens: tuple | None = None) -> Tensor:
        """The teacher's vectors of all tokens (S, D), of the whole jet, normalised."""
        of = (tokens or self.tokens(x, offsets))[2]
        learns = self.kind == "student"
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            found, _ = self._encode(self.encoder if learns else self.teacher, x, offsets, of)
            found = wide(found)
            if self.normalise == "vector":
                found = F.layer_norm(found, found.shape[1:])
            elif self.normalise == "batch":
                width, middle = across.var_mean(found)
                found = (found - middle) / (width + 1e-6).sqrt()
            return found

    def loss(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared difference of predicted and teacher's vectors of hidden tokens, a scalar.

        batch: particles (T, 3) of pt [GeV], deta, dphi [rad], offsets (B + 1,); targets after them
        are not looked at. generator draws what is hidden. Raises ValueError for a malformed batch,
        and one in which nothing can be hidden.
        """
        x, offsets, *_ = batch
        x = x.index_select(0, _packed.falling(x, offsets))  # any order is the same
        tokens = self.tokens(x, offsets)
        mask = self.draw(x, offsets, generator=generator, tokens=tokens)
        if not mask.any():
            raise ValueError(
                f"nothing of {len(offsets) - 1} jets can be hidden, as each keeps one token: leave "
                "out jets with less than two"
            )
        found, jets = self.predict(x, offsets, mask, tokens=tokens)
        rows = send(mask.nonzero()[:, 0], x.device)
        target = self.targets(x, offsets, tokens=tokens).index_select(0, rows)
        self._last = found.detach(), target.detach(), jets.detach()
        with torch.autocast(x.device.type, enabled=False):
            return across.mean(F.mse_loss(wide(found), target), len(target))

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says: of prediction, and of collapse.

        Returns `explained`, the share of the variance of the targets that is predicted (0 for a
        guess at their mean), `momentum`, that of the teacher, and the numbers of `spread_of` for
        the jets. Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        found, target, jets = self._last
        around = (target - target.mean(0)).square().mean()
        missed = (found.float() - target).square().mean()
        return {
            "explained": float(1 - missed / around.clamp(min=1e-12)),
            "momentum": float(self.momentum),
            **spread_of(jets),
        }

    def _encode(self, encoder, x, offsets, of):
        if of is None:
            return encoder(x, offsets)
        return encoder.encoder(*encoder.embed(x, offsets, of))

    def _coordinates(self, place: Tensor) -> Tensor:
        """The query (S, C) of tokens (S, 3), scaled as the encoder's inputs are."""
        every = torch.stack([place[:, 1], place[:, 2], place[:, 0].log()], 1)
        inputs = getattr(self.encoder, "particles", self.encoder)
        scaled = (every - inputs.mean[:3]) / inputs.width[:3]
        return torch.stack([scaled[:, column] for column in self.query], 1)


class Predictor(nn.Module):
    """What visible tokens say of hidden ones, of which it knows no more than the coordinates.

    dim: D of the tokens. n_coordinates: C. sizes: settings of a `Transformer`, whose width may be
    smaller than D: what it cannot do, the encoder has to.
    """

    def __init__(self, dim: int, n_coordinates: int, sizes: Mapping):
        super().__init__()
        self.place = nn.Sequential(nn.Linear(n_coordinates, dim), nn.GELU(), nn.Linear(dim, dim))
        self.token = nn.Parameter(0.02 * torch.randn(dim))
        self.body = Transformer(dim, **sizes)
        self.out = nn.Linear(self.body.dim, dim)

    def forward(
        self, context: Tensor, coordinates: Tensor, offsets: Tensor, mask: Tensor
    ) -> Tensor:
        """context (V, D) of the visible tokens, coordinates (S, C) of all, offsets (B + 1,), mask
        (S,) True where hidden -> (M, D), a vector for each hidden token.
        """
        hidden, shown = mask.nonzero()[:, 0], (~mask).nonzero()[:, 0]
        order = torch.from_numpy(_packed.inverse(np.concatenate([shown, hidden])))
        token = self.token.to(context.dtype).expand(len(hidden), -1)
        every = torch.cat([context, token]).index_select(0, send(order, context.device))
        found, _ = self.body(every + self.place(coordinates), offsets)
        return self.out(found.index_select(0, send(hidden, context.device)))


def teacher_momentum(done: int, total: int, *, memory: float = 0.05) -> float:
    """How much of itself the teacher keeps in step `done` of `total`: teacher = m teacher +
    (1 - m) student.

    memory: over which share of all steps it averages at the start; then m rises to 1 on a cosine.
    So ten times as many steps have a teacher ten times as slow. Public code for jets
    (github.com/Usaid-Siddiqui/LorentzParT-JEPA) reports that a constant .996 diverged with more
    steps than it was chosen for. Taught in notebook 12.

    >>> [round(teacher_momentum(done, 1000), 4) for done in (0, 500, 1000)]
    [0.98, 0.99, 1.0]
    >>> teacher_momentum(0, 10_000)
    0.998
    """
    start = max(1 - 1 / (memory * total), 0.0)
    return 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * done / total))


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the weights of `teacher` towards those of `student`, in place; both have the same."""
    pairs = list(teacher.parameters()), list(student.parameters())
    torch._foreach_lerp_(*pairs, 1 - momentum)


def frozen(student: nn.Module) -> nn.Module:
    """A copy that no optimiser moves, in evaluation mode."""
    return copy.deepcopy(student).requires_grad_(False).eval()


@torch.no_grad()
def spread_of(z: Tensor) -> dict[str, float]:
    """How far vectors (N, D) are from collapse: `rank`, see `embedding_rank`; `variance`, the mean
    over dimensions; `cosine`, the mean over pairs of different vectors, 1 where all are parallel.
    """
    unit, n = F.normalize(z.double(), dim=1), len(z)
    pairs = (unit.sum(0).square().sum() - n) / max(n * (n - 1), 1)
    return {
        **spread(z),
        "cosine": float(pairs),
    }


def one_of(name: str, value, known: Collection[str]) -> None:
    """Raise `ValueError` for a setting that has no such value."""
    if value not in known:
        raise ValueError(f"{name} is {value!r}: use {', '.join(known)}")
