"""What can be asked of a hidden particle: its numbers, its token, its type, or how they are
distributed.

`Particles` says what there is to be found. Each target is a head on what a network makes of a
hidden place, and scores it: `loss(h, wanted, generator=)` with h (M, D) of M hidden particles.
arXiv:2409.12589 compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import inputs
from jetnb.models import across, flow, heads
from jetnb.models._packed import wide
from jetnb.models.quantise import VectorQuantiser, nearest
from jetnb.models.tokenizer import Tokenizer

NAMES = ("regression", "kmeans", "codes", "types", "flow")
KINEMATICS = ("log_pt", "deta", "dphi")
TRACK = "has_track"


class Wanted(NamedTuple):
    """Of M particles what is to be found."""

    numbers: Tensor  # (M, K) scaled, 0 where the particle has no such number
    known: Tensor  # (M, K) True where it has
    kind: Tensor | None  # (M,) its type, a place in `Particles.kinds`
    code: Tensor | None = None  # (M,) its token by a VQ-VAE

    def of(self, rows: Tensor) -> Wanted:
        """That of these rows."""
        return Wanted(*(None if part is None else part.index_select(0, rows) for part in self))


class Particles(nn.Module):
    """What there is to be found of particles: scaled numbers, which of them they have, and a type.

    columns: names of the columns of particles after pt, deta and dphi, as
    `models.particles.columns` gives them. Numbers are log_pt, deta, dphi and what is measured of
    tracks, of particles with a track only. Types are those whose columns is_... are there, with
    "charge" one for each sign of what is charged. arXiv:2409.12589.
    """

    def __init__(self, columns: Sequence[str] = ()):
        super().__init__()
        at = {name: 3 + i for i, name in enumerate(columns)}
        flags = [name for name in columns if name in inputs.TYPES]
        self.of_track = [name for name in columns if TRACK in _needs(name)]
        self.names = (*KINEMATICS, *self.of_track)
        self.track, self.charge = at.get(TRACK), at.get("charge")
        if self.of_track and self.track is None:
            raise ValueError(
                f"{self.of_track[0]!r} is of tracks, but there is no column {TRACK!r}: name the columns "
                "with models.particles.columns(extras)"
            )
        self._numbers, self._flags = (
            [at[name] for name in names] for names in (self.of_track, flags)
        )
        self.kinds, self._first, self._signed = [], [], []
        for name in flags:
            signed = self.charge is not None and name in CHARGED
            self._first.append(len(self.kinds))
            self._signed.append(signed)
            plain = name.removeprefix("is_")
            self.kinds += [f"{plain}-", f"{plain}+"] if signed else [plain]
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("width", torch.ones(len(self.names)))

    def fit(self, x: Tensor) -> Particles:
        """Set the scaling to that of particles x (T, 3 + C); returns self.

        Raises `ValueError` for numbers that do not vary.
        """
        numbers, known = self._raw(x)
        for i, name in enumerate(self.names):
            found = numbers[known[:, i], i].double()
            width = found.std(correction=0) if len(found) else torch.tensor(torch.nan)
            if not width > 0:
                raise ValueError(
                    f"{name} of {len(found)} particles has the width {float(width)}: give more jets"
                )
            self.mean[i], self.width[i] = found.mean(), width
        return self

    def forward(self, x: Tensor) -> Wanted:
        """What is wanted of particles x (T, 3 + C)."""
        numbers, known = self._raw(x)
        scaled = ((numbers - self.mean) / self.width).masked_fill(~known, 0)
        return Wanted(scaled, known, self._kind(x) if self.kinds else None)

    def particles(self, numbers: Tensor) -> Tensor:
        """pt [GeV], deta, dphi [rad] of scaled numbers (M, K): (M, 3)."""
        plain = numbers[:, :3] * self.width[:3] + self.mean[:3]
        return torch.cat([plain[:, :1].exp(), plain[:, 1:]], 1)

    def without_type(self, x: Tensor, rows: Tensor) -> Tensor:
        """x (T, 3 + C) with type and charge of these rows unknown: all of their columns are 0."""
        blank = x.clone()
        for column in (*self._flags, *([] if self.charge is None else [self.charge])):
            blank[:, column] = blank[:, column].index_fill(0, rows, 0)
        return blank

    def _raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        numbers = torch.cat([x[:, :1].log(), x[:, 1:3], *(x[:, [i]] for i in self._numbers)], 1)
        known = torch.ones_like(numbers, dtype=torch.bool)
        if self._numbers:
            known[:, 3:] = x[:, [self.track]] > 0
        return numbers, known

    def _kind(self, x: Tensor) -> Tensor:
        kind = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for column, first, signed in zip(self._flags, self._first, self._signed, strict=True):
            place = first + (x[:, self.charge] > 0).long() if signed else first
            kind = torch.where(x[:, column] > 0, place, kind)
        return kind


CHARGED = ("is_charged_hadron", "is_electron", "is_muon")


def _needs(name: str) -> tuple[str, ...]:
    return inputs.needs([name])[0] if name in inputs.TABLE and name != TRACK else ()


class Regression(nn.Module):
    """The numbers themselves: mean absolute error, of those that a particle has. Blurs what the
    others of the jet leave open.
    """

    def __init__(self, dim: int, particles: Particles):
        super().__init__()
        self.out = _head(dim, len(particles.names))

    def loss(self, h: Tensor, wanted: Wanted, *, generator=None) -> tuple[Tensor, Tensor]:
        """Loss, and what a guess at the mean would have, of h (M, D)."""
        known = wanted.known
        off = (wide(self.out(h)) - wanted.numbers).abs() * known
        guess = (wanted.numbers.abs() * known).sum()
        return tuple(across.over(one, known.sum()) for one in (off.sum(), guess))


class Classes(nn.Module):
    """A class of each hidden particle: cross-entropy. Can say that several are possible."""

    def __init__(self, dim: int, n_classes: int):
        super().__init__()
        self.out = _head(dim, n_classes)
        # log of how often each is in training
        self.register_buffer("frequency", torch.zeros(n_classes))

    def count(self, classes: Tensor) -> None:
        """Set the frequencies to those of `classes` (T,)."""
        counts = torch.bincount(classes, minlength=len(self.frequency)).double() + 0.5
        self.frequency.copy_((counts / counts.sum()).log())

    def label(self, wanted: Wanted) -> Tensor:
        """The class (M,) of what is wanted."""
        raise NotImplementedError

    def loss(self, h: Tensor, wanted: Wanted, *, generator=None) -> tuple[Tensor, Tensor]:
        """Loss, and what the frequencies alone would have, of h (M, D)."""
        label = self.label(wanted)
        found = F.cross_entropy(wide(self.out(h)), label), -self.frequency[label].mean()
        return tuple(across.mean(one, len(label)) for one in found)


class Types(Classes):
    """The type of the particle, arXiv:2312.06909, in jets arXiv:2409.12589."""

    def __init__(self, dim: int, particles: Particles):
        if not particles.kinds:
            raise ValueError(
                "the target 'types' needs types: put is_charged_hadron and the others among extras"
            )
        super().__init__(dim, len(particles.kinds))

    def fit(self, wanted: Wanted, *, seed: int) -> None:
        self.count(wanted.kind)

    def label(self, wanted: Wanted) -> Tensor:
        return wanted.kind


class KMeans(Classes):
    """The nearest of K centres, which k-means puts among training particles. arXiv:2409.12589."""

    def __init__(self, dim: int, particles: Particles, *, n_codes: int):
        super().__init__(dim, n_codes)
        self.register_buffer("codes", torch.zeros(n_codes, len(particles.names)))

    def fit(self, wanted: Wanted, *, seed: int) -> None:
        quantiser = VectorQuantiser(self.codes.shape[1], len(self.codes))
        self.codes.copy_(quantiser.start(wanted.numbers, seed=seed).codes)
        self.count(self.label(wanted))

    def label(self, wanted: Wanted) -> Tensor:
        return nearest(wanted.numbers, self.codes)


class Codes(Classes):
    """The token of a VQ-VAE that was trained before and stays as it is. arXiv:2401.13537."""

    def __init__(self, dim: int, tokenizer: Tokenizer):
        super().__init__(dim, tokenizer.n_codes)

    def fit(self, wanted: Wanted, *, seed: int) -> None:
        self.count(wanted.code)

    def label(self, wanted: Wanted) -> Tensor:
        return wanted.code


class Flow(nn.Module):
    """How the numbers are distributed: flow matching for each particle, by an MLP that sees h.

    See `models.flow`; the time t is the sigmoid of a normal number. `draw` goes the way back. A number that a
    particle lacks is not scored. arXiv:2409.12589; flow matching arXiv:2210.02747.
    """

    def __init__(self, dim: int, particles: Particles, *, hidden: int = 128):
        super().__init__()
        n = len(particles.names)
        self.out = heads.mlp(dim + n + flow.TIMES, n, hidden=(hidden,) * 3)

    def loss(self, h: Tensor, wanted: Wanted, *, generator=None) -> tuple[Tensor, Tensor]:
        """Loss, and what is lost where the direction is guessed to be 0, of h (M, D)."""
        x, known = wanted.numbers, wanted.known
        noise, t = flow.normal(x, generator), flow.normal(x[:, 0], generator).sigmoid()
        at, direction = flow.noised(x, noise, t)
        off = (wide(self._towards(h, at, t)) - direction).square() * known
        guess = (direction.square() * known).sum()
        return tuple(across.over(one, known.sum()) for one in (off.sum(), guess))

    def draw(self, h: Tensor, *, generator=None, evaluations: int = 40) -> Tensor:
        """Numbers drawn for h (M, D), scaled, (M, K); evaluations: as for `flow.follow`."""
        noise = flow.normal(h.new_empty(len(h), self.out[-1].out_features), generator)
        return flow.follow(
            lambda x, t: self._towards(h, x, torch.full_like(x[:, 0], t)),
            noise,
            evaluations=evaluations,
        )

    def _towards(self, h: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.out(torch.cat([h, x, flow.waves(t)], 1))


def make(
    names: Sequence[str],
    dim: int,
    particles: Particles,
    *,
    n_codes: int,
    tokenizer: Tokenizer | None,
) -> nn.ModuleDict:
    """The targets of these names, some of `NAMES`.

    dim: D of what they are given. n_codes: of k-means. tokenizer: whose tokens are the codes.
    Raises `ValueError` for names that do not fit, and for no tokenizer where one is needed.
    """
    if not names or sorted(names) != sorted({*names} & {*NAMES}):
        raise ValueError(f"targets is {list(names)}: use some of {', '.join(NAMES)}, each once")
    if "codes" in names and tokenizer is None:
        raise ValueError(
            "the target 'codes' needs a VQ-VAE: give the setting vqvae, the checkpoint of a tokenizer"
        )
    known = {
        "regression": lambda: Regression(dim, particles),
        "kmeans": lambda: KMeans(dim, particles, n_codes=n_codes),
        "codes": lambda: Codes(dim, tokenizer),
        "types": lambda: Types(dim, particles),
        "flow": lambda: Flow(dim, particles),
    }
    return nn.ModuleDict({name: known[name]() for name in names})


def _head(dim: int, n_out: int) -> nn.Sequential:
    return heads.mlp(dim, n_out, hidden=(dim,))
