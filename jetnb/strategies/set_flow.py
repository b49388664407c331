"""Set-to-set flow matching: the hidden particles of a jet are drawn together, given the visible
ones.

The encoder sees the visible particles. A decoder sees the hidden ones with noise, all at the same
time of the flow, looks at what the encoder says, and finds the direction in which they move. No
order is needed, and no null tokens. "SSFM" of the public code of arXiv:2409.12589; flow matching
arXiv:2210.02747.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import packed
from jetnb.hardware import send
from jetnb.models import _packed, across, flow
from jetnb.models._attention import check_heads
from jetnb.models._fast import Linear
from jetnb.models._packed import select, wide
from jetnb.models.particles import FromParticles, from_settings
from jetnb.strategies import targets as asked
from jetnb.strategies.contrastive import spread
from jetnb.strategies.masked_particles import SIZES, checked, hide


class Block(nn.Module):
    """Attention among the hidden, attention of the hidden to the visible, and an MLP, each added;
    the time of the flow scales and shifts what goes in. arXiv:2212.09748 (adaptive norm).
    """

    def __init__(self, dim: int, n_heads: int, expansion: int = 2):
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(3))
        self.scales = nn.Linear(dim, 6 * dim)
        self.own, self.query, self.seen = (
            Linear(dim, 3 * dim),
            Linear(dim, dim),
            Linear(dim, 2 * dim),
        )
        self.project = nn.ModuleList(Linear(dim, dim) for _ in range(2))
        self.expand, self.contract = Linear(dim, expansion * dim), Linear(expansion * dim, dim)

    def forward(self, h: Tensor, hidden, visible: Tensor, shown, time: Tensor) -> Tensor:
        """h (M, D) of the hidden, visible (V, D); hidden, shown: offsets; time (M, D)."""
        scale, shift = self.scales(F.silu(time)).unflatten(1, (2, 3, -1)).unbind(1)  # (M, 3, D)
        at = [lambda h, i=i: self.norms[i](h) * (1 + scale[:, i]) + shift[:, i] for i in range(3)]
        q, k, v = self.own(at[0](h)).chunk(3, 1)
        h = h + self.project[0](self._attend(q, k, v, hidden, hidden))
        k, v = self.seen(visible).chunk(2, 1)
        h = h + self.project[1](self._attend(self.query(at[1](h)), k, v, hidden, shown))
        return h + self.contract(F.gelu(self.expand(at[2](h))))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
        """Attention of q (M, D) to k, v (V, D) within each jet: (M, D). Both are padded for it."""
        place = send(torch.from_numpy(_packed.spread(asking)[1]), q.device)

        def heads(rows, offsets):
            padded, real = _packed.pad(rows, offsets)  # (B, P, D), (B, P)
            return padded.unflatten(2, (self.n_heads, -1)).transpose(1, 2), real

        (q, _), (k, real), (v, _) = heads(q, asking), heads(k, asked), heads(v, asked)
        # A jet without any to look at would give no number; its rows are not looked at.
        real = (real | ~real.any(1, keepdim=True))[:, None, None]
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=real).transpose(1, 2)
        return found.reshape(-1, found.shape[2] * found.shape[3]).index_select(0, place)


class SetFlow(nn.Module):
    """Pretraining of an encoder by drawing the hidden particles of a jet together.

    encoder: `FromParticles`. columns: names of the columns of particles after pt, deta, dphi. dim,
    n_layers, n_heads: of the decoder. mask: kind and share of what is hidden, as in `masks.draw`.
    What flows are the scaled numbers of particles, and their types, one column each that is 0 or 1.
    The time is one for each jet, the sigmoid of a normal number. Raises `ValueError` for sizes that
    do not fit. Taught in notebook 11.
    """

    TITLE = "set-to-set flow matching, arXiv:2409.12589 (public code)"
    SETTINGS: dict[str, Any] = {
        "encoder": SIZES,
        "decoder": {"dim": 64, "n_layers": 2, "n_heads": 4},
        "extras": [],
        "hardest": 40,
        "mask": {"kind": "random", "ratio": 0.5},
    }

    def __init__(
        self,
        encoder: FromParticles,
        *,
        columns: Sequence[str] = (),
        dim: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        mask: Mapping = SETTINGS["mask"],
    ):
        super().__init__()
        check_heads(dim, n_heads)
        self.encoder, self.mask = encoder, checked(mask)
        self.particles = asked.Particles(columns)
        self.width = len(self.particles.names) + len(self.particles.kinds)
        self.enter, self.reads = Linear(self.width, dim), Linear(encoder.dim, dim)
        self.time = nn.Sequential(nn.Linear(flow.TIMES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(Block(dim, n_heads) for _ in range(n_layers))
        self.norm, self.out = nn.LayerNorm(dim), Linear(dim, self.width)
        self._last: dict[str, Tensor] | None = None

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        decoder: Mapping,
        extras: Sequence[str],
        hardest: int | None,
        mask: Mapping,
    ) -> SetFlow:
        """For `pretraining.pretrain`: a transformer of particles."""
        body = from_settings(encoder, extras=extras)
        model = cls(body, columns=body.extras, mask=mask, **decoder)
        model.hardest, model.extras = hardest, body.extras
        return model

    def fit(self, data, *, seed: int) -> SetFlow:
        """Set scalings to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        self.particles.fit(torch.from_numpy(data.x))
        return self

    def loss(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of the direction of the hidden particles, a scalar.

        batch: particles (T, 3 + C) of pt [GeV], deta, dphi [rad] and what follows, and offsets
        (B + 1,). generator draws what is hidden, times and noise. Numbers that a particle lacks are
        not scored. Raises `ValueError` for a malformed batch and one in which nothing can be hidden.
        """
        off, known, size, jets, _ = self._off(batch, generator)
        self._last = {"jets": jets.detach(), "explained": (1 - off.sum() / size.sum()).detach()}
        return across.over(off.sum(), known.sum())

    @torch.no_grad()
    def errors(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The mean squared error of each jet, (B,): how badly its hidden particles are guessed.

        batch, generator and errors: as for `loss`, which is the mean over all numbers of all jets.
        One draw of what is hidden says little of one jet: take the mean over several. 0 for a jet of
        which nothing can be hidden. Taught in notebook 16.
        """
        off, known, _, jets, hidden = self._off(batch, generator)
        jet = _packed.jet_of(np.diff(hidden.numpy()), off.device)
        off, known = (_packed.total(part.sum(1), jet, len(jets)) for part in (off, known))
        return off / known.clamp(min=1)

    def _off(self, batch: tuple[Tensor, ...], generator: torch.Generator | None):
        """Squares of what is missed (M, width), which numbers there are, squares of what was to be
        found, jets (B, D), and offsets of the hidden.
        """
        x, offsets, *_ = batch
        x = x.index_select(0, _packed.falling(x, offsets))
        mask = hide(x, offsets, self.mask, generator=generator)
        (gone, hidden), (seen, shown) = select(x, offsets, mask), select(x, offsets, ~mask)
        data, known = self._data(gone)
        visible, jets = self.encoder(seen, shown)
        jet = _packed.jet_of(np.diff(hidden.numpy()), x.device)
        t = flow.normal(x.new_empty(len(offsets) - 1), generator).sigmoid()[jet]
        at, direction = flow.noised(data, flow.normal(data, generator), t)
        found = self._towards(at, t, hidden, visible, shown)
        off, size = (wide(found) - direction).square() * known, direction.square() * known
        return off, known, size, jets, hidden

    def monitors(self) -> dict[str, float]:
        """Of the last batch: `explained`, the share of the squares of the directions that is found,
        and of collapse `rank` and `variance` of the vectors of jets. Raises RuntimeError before the
        first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets = self._last["jets"]
        return {
            "explained": float(self._last["explained"]),
            **spread(jets),
        }

    @torch.no_grad()
    def draw(
        self, x: Tensor, offsets: Tensor, n_hidden, *, generator=None, evaluations: int = 40
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Particles to add to those that are seen.

        x (T, 3 + C), offsets (B + 1,): the visible. n_hidden (B,): how many to draw for each jet.
        evaluations: as for `flow.follow`. Returns the particles pt [GeV], deta, dphi
        [rad] (M, 3), their offsets (B + 1,), and their types (M,), places in `particles.kinds`, or
        None without types. Taught in notebook 11.
        """
        hidden = torch.from_numpy(packed.starts(np.asarray(n_hidden, np.int64)))
        visible, _ = self.encoder(x, offsets)
        start = flow.normal(x.new_empty(int(hidden[-1]), self.width), generator)
        found = flow.follow(
            lambda at, t: self._towards(at, torch.full_like(at[:, 0], t), hidden, visible, offsets),
            start,
            evaluations=evaluations,
        )
        n = len(self.particles.names)
        kinds = found[:, n:].argmax(1) if self.particles.kinds else None
        return self.particles.particles(found[:, :n]), hidden, kinds

    def _data(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What flows of particles x (M, 3 + C), and which of it they have: (M, width) each."""
        wanted = self.particles(x)
        if wanted.kind is None:
            return wanted.numbers, wanted.known
        kinds = F.one_hot(wanted.kind, len(self.particles.kinds)).to(wanted.numbers.dtype)
        return (
            torch.cat([wanted.numbers, kinds], 1),
            torch.cat([wanted.known, torch.ones_like(kinds, dtype=torch.bool)], 1),
        )

    def _towards(self, now: Tensor, t: Tensor, hidden, visible: Tensor, shown) -> Tensor:
        h, time, visible = self.enter(now), self.time(flow.waves(t)), self.reads(visible)
        for block in self.blocks:
            h = block(h, hidden, visible, shown, time)
        return self.out(self.norm(h))
