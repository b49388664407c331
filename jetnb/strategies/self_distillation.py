"""Self-distillation: two looks at one jet shall be told the same class, of classes that nobody named.

A student and a teacher, its slow average, each with a head that spreads a jet over prototypes. The
student, from one view, has to say what the teacher says from another. Nothing is told apart from
other jets; instead the teacher is sharp, so that not all prototypes are equally likely, and
balanced, so that not all jets go to one. DINO, arXiv:2104.14294; with masked constituents iBOT,
arXiv:2111.07832; on jets, with subjets as views, RINO, arXiv:2509.07486.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import augment, masks
from jetnb.augment import Batch
from jetnb.hardware import send
from jetnb.models import _packed, across, heads
from jetnb.models._packed import select, wide
from jetnb.models.particles import ENCODER, from_settings
from jetnb.models.subjets import grouped
from jetnb.strategies.joint_embedding import (
    Predictor,
    follow,
    frozen,
    one_of,
    spread_of,
    teacher_momentum,
)

VIEWS, BALANCES = ("subjets", "symmetries"), ("sinkhorn", "centre", "none")


class SelfDistillation(nn.Module):
    """The student's distribution over prototypes, from one view of a jet, shall be the teacher's,
    from another.

    encoder: as `FromParticles`; the student, which is kept. views: "subjets", the jet as so many kT
    subjets as `teacher_scales` say for the views of the teacher, `student_scales` for those that
    only the student gets, beside the whole jet; or "symmetries", two views of `augment.views` for
    both, with the settings `changes`. crops: views more for the student alone (multi-crop): what is
    left when the share `crop` of the particles is hidden, chosen by `mask` of `masks.KINDS`.
    masked: in the first of these crops, the student's vector of each hidden particle shall have the
    teacher's distribution, too (iBOT), with this weight; 0 is without.

    prototypes: K; head: widths of its hidden layer and of the vector that is compared with
    prototypes. temperatures: of the student and of the teacher, which is the sharper. balance:
    "sinkhorn", so that a batch uses all prototypes equally; "centre", which takes a running mean
    off; "none" lets it collapse. koleo: weight of a term that keeps jets of a batch apart. memory:
    see `teacher_momentum`. Raises `ValueError` for settings that do not fit. Taught in notebook 12.
    """

    TITLE = "self-distillation, arXiv:2104.14294 (DINO), on jets arXiv:2509.07486"
    SETTINGS: dict[str, Any] = {
        "encoder": ENCODER,
        "hardest": 40,
        "views": "symmetries",
        "teacher_scales": [8, 16],
        "student_scales": [4],
        "changes": {"scale": 0.1, "width": 0.1, "n_max": 50},
        "crops": 2,
        "crop": 0.5,
        "mask": "random",
        "masked": 0.0,
        "prototypes": 256,
        "head": [256, 64],
        "temperatures": [0.1, 0.04],
        "balance": "sinkhorn",
        "koleo": 0.1,
        "memory": 0.05,
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        views: str = "symmetries",
        teacher_scales: Sequence[int] = (8, 16),
        student_scales: Sequence[int] = (4,),
        changes: Mapping = SETTINGS["changes"],
        crops: int = 2,
        crop: float = 0.5,
        mask: str = "random",
        masked: float = 0.0,
        prototypes: int = 256,
        head: Sequence[int] = (256, 64),
        temperatures: Sequence[float] = (0.1, 0.04),
        balance: str = "sinkhorn",
        koleo: float = 0.1,
        memory: float = 0.05,
    ):
        super().__init__()
        one_of("views", views, VIEWS)
        one_of("balance", balance, BALANCES)
        one_of("mask", mask, masks.KINDS)
        if views == "subjets" and not all(n >= 1 for n in (*teacher_scales, *student_scales)):
            raise ValueError(
                f"teacher_scales is {list(teacher_scales)}, student_scales {list(student_scales)}: "
                "numbers of subjets, 1 or more"
            )
        if views == "subjets" and not len(teacher_scales):
            raise ValueError("teacher_scales is empty: the teacher needs a view, e.g. [8, 16]")
        if masked and not crops:
            raise ValueError(f"masked is {masked} and crops 0: particles are hidden in crops")
        if min(temperatures) <= 0 or prototypes < 2:
            raise ValueError(
                f"temperatures is {list(temperatures)} and prototypes {prototypes}: positive, and 2 "
                "or more"
            )
        self.encoder, self.views, self.changes = encoder, views, dict(changes)
        self.scales = list(teacher_scales), list(student_scales)
        self.crops, self.crop, self.mask, self.masked = crops, crop, mask, masked
        self.temperatures, self.balance, self.koleo = list(temperatures), balance, koleo
        self.memory = memory
        self.head = Prototypes(encoder.dim, *head, prototypes)
        self.teacher = nn.ModuleList([frozen(encoder), frozen(self.head)])
        if masked:
            self.predictor = Predictor(encoder.dim, 2, {"dim": 32, "n_layers": 1, "n_heads": 4})
        self.register_buffer("momentum", torch.zeros(()))
        self.register_buffer("centres", torch.zeros(2, prototypes))  # of jets, of particles
        self._last: tuple[Tensor, Tensor] | None = None

    @classmethod
    def make(cls, *, encoder: Mapping, hardest: int | None, **options) -> SelfDistillation:
        """For `pretraining.pretrain`: a transformer of particles."""
        model = cls(from_settings(encoder), **options)
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> SelfDistillation:
        """Set the scaling of both encoders to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        self.teacher[0].load_state_dict(self.encoder.state_dict())
        return self

    def train(self, mode: bool = True) -> SelfDistillation:
        """As for any module, but the teacher never drops out."""
        super().train(mode)
        self.teacher.eval()
        return self

    def after_step(self, done: int, total: int) -> None:
        """Let the teacher follow the student, after step `done` of `total`."""
        momentum = teacher_momentum(done, total, memory=self.memory)
        self.momentum.fill_(momentum)
        for teacher, student in zip(self.teacher, (self.encoder, self.head), strict=True):
            follow(teacher, student, momentum)

    def looks(
        self, x: Tensor, offsets: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[list[Batch], list[Batch]]:
        """Views of particles (T, 3), offsets (B + 1,): those that both get, and those of the student
        alone, without crops.
        """
        if self.views == "symmetries":
            return list(augment.views(x, offsets, generator=generator, **self.changes)), []
        both, own = ([as_subjets(x, offsets, n) for n in scales] for scales in self.scales)
        return both, [*own, (x, offsets)]

    def loss(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean cross-entropy [nats] of the teacher's and the student's distribution over pairs of
        views, and what `masked` and `koleo` add; a scalar.

        batch: particles (T, 3) of pt [GeV], deta, dphi [rad], offsets (B + 1,); targets after them
        are not looked at. generator draws views. Raises ValueError for a malformed batch.
        """
        x, offsets, *_ = batch
        x = x.index_select(0, _packed.falling(x, offsets))  # any order is the same
        n_jets = len(offsets) - 1
        both, own = self.looks(x, offsets, generator=generator)
        hidden = [
            masks.draw(self.mask, x, offsets, self.crop, generator=generator)
            for _ in range(self.crops)
        ]
        crops = [select(x, offsets, ~mask) for mask in hidden]
        seen, jets = self.encoder(*together([*crops, *both, *own]))
        sorts = self.head(jets).view(-1, n_jets, self.centres.shape[1])  # (views, B, K)
        with torch.no_grad():
            every = [*both, (x, offsets)] if self.masked else both
            tokens, theirs = self.teacher[0](*together(every))
            wanted = self._assign(self.teacher[1](theirs[: n_jets * len(both)]), len(both), 0)
        logs = (wide(sorts) / self.temperatures[0]).log_softmax(2)
        pairs = -torch.einsum("ibk, jbk -> ij", wanted, logs) / n_jets
        other = 1 - torch.eye(len(wanted), len(logs) - len(crops))  # 0 where both are the same view
        other = torch.cat([torch.ones(len(wanted), len(crops)), other], 1)
        loss = (pairs * send(other.to(pairs.dtype), x.device)).sum() / int(other.sum())
        if self.masked and hidden[0].any():
            loss = loss + self.masked * self._of_hidden(
                x, offsets, hidden[0], seen[: len(crops[0][0])], tokens[len(tokens) - len(x) :]
            )
        if self.koleo:
            loss = loss + self.koleo * crowding(across.gathered(jets[-n_jets:]))
        self._last = jets[-n_jets:].detach(), wanted.flatten(0, 1)
        return loss

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says of collapse.

        Returns the numbers of `spread_of` for the student's jets of the last view; `sharpness`, 1
        less the mean entropy of the teacher's distributions over its largest value, near 0 where all
        prototypes are as likely; `used`, the perplexity of their mean, 1 where all jets go to one;
        and `momentum`. Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets, wanted = self._last
        entropy, size = torch.special.entr(wanted).sum(1).mean(), wanted.shape[1]
        return {
            "sharpness": float(1 - entropy / np.log(size)),
            "used": float(torch.special.entr(wanted.mean(0)).sum().exp()),
            "momentum": float(self.momentum),
            **spread_of(jets),
        }

    def _of_hidden(self, x, offsets, mask, seen, tokens) -> Tensor:
        """Cross-entropy of the hidden particles: the teacher saw the whole jet."""
        coordinates = self.encoder.scaled(x, offsets)[:, :2]
        found = self.head(self.predictor(seen, coordinates, offsets, mask))
        rows = send(mask.nonzero()[:, 0], x.device)
        with torch.no_grad():
            wanted = self._assign(self.teacher[1](tokens.index_select(0, rows)), 1, 1)[0]
        loss = -(wanted * (wide(found) / self.temperatures[0]).log_softmax(1)).sum(1).mean()
        return across.mean(loss, len(found))

    def _assign(self, scores: Tensor, n_views: int, kind: int) -> Tensor:
        """Distributions (views, N, K) of the teacher's scores (views N, K), sharp and balanced."""
        scores, centre = wide(scores), self.centres[kind]
        if self.balance == "sinkhorn":
            each = scores.view(n_views, -1, scores.shape[1]) / self.temperatures[1]
            every = across.gathered(each.transpose(0, 1))  # of all processes: (N, views, K)
            return across.own(sinkhorn(every.transpose(0, 1)).transpose(0, 1), each[0]).transpose(
                0, 1
            )
        found = scores - centre if self.balance == "centre" else scores
        if self.training:
            self.centres[kind] = 0.9 * centre + 0.1 * across.mean(scores.mean(0), len(scores))
        found = (found / self.temperatures[1]).softmax(1)
        return found.view(n_views, -1, scores.shape[1])


class Prototypes(nn.Module):
    """A head: vectors (N, D) -> their cosines with K prototypes (N, K), after a small network."""

    def __init__(self, dim: int, hidden: int, width: int, n_prototypes: int):
        super().__init__()
        self.body = heads.projection(dim, hidden, width)
        self.prototypes = nn.Parameter(torch.randn(n_prototypes, width))

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(F.normalize(self.body(z), dim=1), F.normalize(self.prototypes, dim=1))


@torch.no_grad()
def sinkhorn(scores: Tensor, n_rounds: int = 3) -> Tensor:
    """Distributions (..., N, K) of scores such that each of K is used as often as any other.

    Rows and columns are scaled by turns, the rows last: they add up to one, the columns nearly to
    N / K. In logarithms, so that nothing overflows. arXiv:2006.09882 (SwAV).

    >>> sinkhorn(torch.tensor([[4.0, 0.0], [3.0, 0.0]])).sum(0).round(decimals=1)
    tensor([1., 1.])
    """
    logs = wide(scores)
    for _ in range(n_rounds):
        logs = logs.log_softmax(-2)
        logs = logs.log_softmax(-1)
    return logs.exp()


def crowding(z: Tensor) -> Tensor:
    """How near vectors (N, D) come to each other on the sphere: minus the mean log distance to the
    nearest other one (KoLeo, arXiv:1806.03198). A scalar, 0 for less than two.
    """
    if len(z) < 2:
        return z.sum() * 0
    unit = F.normalize(wide(z), dim=1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(1)
    return -(unit - unit[nearest]).norm(dim=1).clamp(min=1e-6).log().mean()


def as_subjets(x: Tensor, offsets: Tensor, n: int) -> Batch:
    """Each jet as its n exclusive kT subjets, fewer where it has fewer particles: pt, and the mean
    deta and dphi weighted by it.

    x: particles (T, 3), offsets (B + 1,). Returns (subjets (S, 3), offsets (B + 1,)). arXiv:2509.07486.
    """
    return grouped(x, offsets, algorithm="kt", n=n)[:2]


def together(parts: Sequence[Batch]) -> Batch:
    """One packed batch of several, one after the other."""
    ends = np.cumsum([len(x) for x, _ in parts])
    offsets = [one[1:] + int(end) - len(x) for (x, one), end in zip(parts, ends, strict=True)]
    return torch.cat([x for x, _ in parts]), torch.cat([parts[0][1][:1], *offsets])
