"""Masked particle modelling: some particles of a jet are hidden, and the others say what they were.

The encoder sees the visible particles only. A light decoder gets what it says of them, and in the
place of each hidden one a null token: the first of the hidden in falling pt, the second, and so on.
arXiv:2409.12589. What arXiv:2401.13537 does is here too: then the encoder sees a mask token in the
place of each hidden particle, there is no decoder, and which of the hidden it is comes in at the
head only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from jetnb import masks, packed
from jetnb.hardware import send
from jetnb.models import _packed, tokenizer
from jetnb.models._packed import select
from jetnb.models.encoder import Transformer
from jetnb.models.particles import FromParticles, from_settings
from jetnb.models.tokenizer import Tokenizer
from jetnb.strategies import targets as asked
from jetnb.strategies.contrastive import spread

READS = ("visible", "tokens")
N_RANKS = 64  # null tokens; hidden particles beyond share the last
FITTED = 100_000  # particles of which scalings and centres are made
SIZES = {"dim": 64, "n_layers": 3, "n_heads": 4}


class Found(NamedTuple):
    """What was made of the M hidden particles of a batch of B jets."""

    h: Tensor  # (M, D) what is known of each
    rows: Tensor  # (M,) where they are in the batch
    jets: Tensor  # (B, D) what the encoder says of the jets


class MaskedParticles(nn.Module):
    """Pretraining of an encoder by what hidden particles were.

    encoder: `FromParticles` of a `Transformer`. decoder: a transformer from its D features, for
    `reads="visible"`; None for "tokens". columns: names of the columns of particles after pt, deta,
    dphi. targets: names of `strategies.targets.NAMES`; weights: of those that shall not count 1. mask:
    kind and share of what is hidden, and other options of `masks.draw`. n_codes: of the target
    "kmeans". vqvae: the tokenizer of the target "codes". ranks: False gives all hidden particles the
    same token, so that the network says the same of all of them.

    Particles are sorted by falling pt before anything is drawn: their order in the batch does not
    matter. Raises `ValueError` for arguments that do not fit. arXiv:2401.13537, 2409.12589.
    """

    TITLE = "masked particles, arXiv:2401.13537 and 2409.12589"
    SETTINGS: dict[str, Any] = {
        "encoder": SIZES,
        "decoder": {"dim": 32, "n_layers": 2, "n_heads": 4},
        "extras": [],
        "hardest": 40,
        "reads": "visible",
        "ranks": True,
        "targets": ["kmeans"],
        "weights": {},
        "mask": {"kind": "random", "ratio": 0.3},
        "n_codes": 512,
        "vqvae": None,
    }

    def __init__(
        self,
        encoder: FromParticles,
        decoder: nn.Module | None,
        *,
        columns: Sequence[str] = (),
        targets: Sequence[str] = ("kmeans",),
        weights: Mapping[str, float] | None = None,
        mask: Mapping = SETTINGS["mask"],
        n_codes: int = 512,
        vqvae: Tokenizer | None = None,
        ranks: bool = True,
    ):
        super().__init__()
        if unknown := set(weights or {}) - set(targets):
            raise ValueError(
                f"weights: {sorted(unknown)[0]!r} is none of the targets {', '.join(targets)}: leave it "
                "out, or add the target"
            )
        if vqvae is not None and vqvae.extras:
            raise ValueError(
                f"vqvae makes tokens of {', '.join(vqvae.extras)} too: take one without extras"
            )
        self.encoder, self.decoder, self.ranks = encoder, decoder, ranks
        self.mask, self.weights = checked(mask), dict(weights or {})
        self.particles = asked.Particles(columns)
        dim = encoder.dim if decoder is None else decoder.dim
        n_tokens = N_RANKS if ranks else 1
        self.token = nn.Parameter(0.02 * torch.randn(n_tokens, encoder.dim))
        if decoder is None:
            self.masked = nn.Parameter(0.02 * torch.randn(encoder.encoder.n_features))
        self.vqvae = None if vqvae is None else vqvae.requires_grad_(False)
        self.targets = asked.make(
            targets, dim, self.particles, n_codes=n_codes, tokenizer=self.vqvae
        )
        self._last: dict[str, Tensor] | None = None
        self.train()

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        decoder: Mapping,
        extras: Sequence[str],
        hardest: int | None,
        reads: str,
        vqvae=None,
        **options,
    ) -> MaskedParticles:
        """For `pretraining.pretrain`: transformers. vqvae: the checkpoint of a tokenizer, or its
        settings.
        """
        if reads not in READS:
            raise ValueError(f"reads is {reads!r}: it is one of {', '.join(READS)}")
        body = from_settings(encoder, extras=extras)
        columns = body.extras
        if vqvae is not None:
            vqvae = Tokenizer(**vqvae) if isinstance(vqvae, Mapping) else tokenizer.load(vqvae)[0]
        model = cls(
            body,
            Transformer(body.dim, **decoder) if reads == "visible" else None,
            columns=columns,
            vqvae=vqvae,
            **options,
        )
        model.hardest, model.extras = hardest, columns
        model.settings = {
            "encoder": dict(encoder),
            "decoder": dict(decoder),
            "extras": list(extras),
            "hardest": hardest,
            "reads": reads,
            **options,
            "vqvae": None if vqvae is None else vqvae.settings,
        }
        return model

    def card(self) -> dict:
        """What a checkpoint says of it: settings that make it again without other files."""
        return {"settings": self.settings, "hardest": self.hardest}

    def train(self, mode: bool = True) -> MaskedParticles:
        """As for every module; a VQ-VAE stays as it is."""
        super().train(mode)
        if self.vqvae is not None:
            self.vqvae.eval()
        return self

    @torch.no_grad()
    def fit(self, data, *, seed: int) -> MaskedParticles:
        """Set scalings to training jets, and centres of k-means; returns self."""
        self.encoder.fit(data.x, data.offsets)
        x, offsets = torch.from_numpy(data.x), torch.from_numpy(data.offsets)
        self.particles.fit(x)
        # Whole jets, since the token of a particle depends on its jet.
        order = np.random.default_rng(seed).permutation(len(data))
        mean = max(len(x) // max(len(data), 1), 1)
        x, offsets, *_ = data[order[: FITTED // mean + 1]]
        wanted = self.wanted(x, offsets, torch.arange(len(x)))
        for head in self.targets.values():
            if hasattr(head, "fit"):
                head.fit(wanted, seed=seed)
        return self

    def wanted(self, x: Tensor, offsets: Tensor, rows: Tensor) -> asked.Wanted:
        """What there is to be found of the particles at `rows` (M,) of a batch."""
        found = self.particles(x.index_select(0, rows))
        if self.vqvae is None:
            return found
        with torch.no_grad():
            tokens = self.vqvae.encode(x[:, :3], offsets, check=x.device.type == "cpu")
        return found._replace(code=tokens.index_select(0, rows))

    def find(self, x: Tensor, offsets: Tensor, mask: Tensor) -> Found:
        """What the visible particles say of the hidden ones.

        x (T, 3 + C) in falling pt in each jet, offsets (B + 1,), mask (T,) True where hidden, the
        last two best left on the CPU.
        """
        mask = mask.cpu()
        lengths = np.diff(np.asarray(torch.as_tensor(offsets).cpu()))
        hidden, shown = np.flatnonzero(mask.numpy()), np.flatnonzero(~mask.numpy())
        rows = send(torch.from_numpy(hidden), x.device)
        counts = np.bincount(packed.jet_of(lengths)[hidden], minlength=len(lengths))
        rank = send(torch.from_numpy(packed.ranks(counts).clip(max=len(self.token) - 1)), x.device)
        token = self.token.index_select(0, rank)  # (M, D)
        back = send(torch.from_numpy(_packed.inverse(np.concatenate([shown, hidden]))), x.device)
        seen, start = select(x, offsets, ~mask)
        if self.decoder is None:
            numbers = self.encoder.scaled(seen, start)
            every = torch.cat([numbers, self.masked.to(numbers.dtype).expand(len(rows), -1)])
            h, jets = self.encoder.encoder(every.index_select(0, back), offsets)
            return Found(h.index_select(0, rows) + token, rows, jets)
        h, jets = self.encoder(seen, start)
        every = torch.cat([h, token.to(h.dtype)]).index_select(0, back)
        return Found(self.decoder(every, offsets)[0].index_select(0, rows), rows, jets)

    def loss(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sum of the losses of the targets, each a mean over hidden particles, a scalar.

        batch: particles (T, 3 + C) of pt [GeV], deta, dphi [rad] and what follows, and offsets
        (B + 1,); targets after them are not looked at. generator draws what is hidden. Raises
        `ValueError` for a malformed batch and one in which nothing can be hidden.
        """
        x, offsets, *_ = batch
        x = x.index_select(0, _packed.falling(x, offsets))
        mask = hide(x, offsets, self.mask, generator=generator)
        found = self.find(x, offsets, mask)
        wanted = self.wanted(x, offsets, found.rows)
        total, self._last = 0.0, {"jets": found.jets.detach()}
        for name, head in self.targets.items():
            loss, guess = head.loss(found.h, wanted, generator=generator)
            self._last[name] = (1 - loss / guess.clamp(min=1e-12)).detach()
            total = total + self.weights.get(name, 1.0) * loss
        return total

    def monitors(self) -> dict[str, float]:
        """Of the last batch of `loss`: of each target the share that is explained, and collapse.

        Returns `NAME_explained`, 1 less the loss over that of a guess that looks at no jet, and `rank`
        and `variance` (mean over dimensions) of the vectors of jets. Raises RuntimeError before the
        first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets = self._last["jets"]
        return {
            **{f"{name}_explained": float(self._last[name]) for name in self.targets},
            **spread(jets),
        }

    @torch.no_grad()
    def fill(
        self, x: Tensor, offsets: Tensor, mask: Tensor, *, target: str, generator=None
    ) -> Tensor:
        """Particles that the network puts in the place of the hidden ones: pt [GeV], deta, dphi
        [rad], (M, 3).

        x, offsets, mask as for `find`. target: "regression", which gives its best guess, "kmeans" or
        "flow", which draw one of what is possible, with generator.
        """
        if target not in self.targets or target in ("types", "codes"):
            raise ValueError(
                f"target is {target!r}, but must be a target of this model that gives momenta: it has "
                f"{', '.join(self.targets)}"
            )
        h, head = self.find(x, offsets, mask).h, self.targets[target]
        if target == "flow":
            return self.particles.particles(head.draw(h, generator=generator))
        numbers = head.out(h)
        if target == "kmeans":
            code = torch.multinomial(numbers.softmax(1), 1, generator=generator)[:, 0]
            numbers = head.codes[code]
        return self.particles.particles(numbers)


def checked(mask: Mapping) -> dict:
    """Settings of what is hidden, {"kind": ..., "ratio": ..., and options of `masks.draw`}. Raises
    `ValueError` for others.
    """
    if mask.get("kind") not in masks.KINDS or not 0 < mask.get("ratio", 0) < 1:
        raise ValueError(
            f"mask is {dict(mask)}: its kind must be one of {', '.join(masks.KINDS)}, and its ratio "
            "between 0 and 1"
        )
    return dict(mask)


def hide(x: Tensor, offsets: Tensor, mask: Mapping, *, generator=None) -> Tensor:
    """Draw what is hidden, (T,) True on the CPU, of particles x (T, 3 + C) in falling pt.

    mask: as for `checked`. Raises `ValueError` where nothing can be hidden.
    """
    options = {name: value for name, value in mask.items() if name not in ("kind", "ratio")}
    hidden = masks.draw(mask["kind"], x, offsets, mask["ratio"], generator=generator, **options)
    if not hidden.any():
        raise ValueError(
            f"no particle of {len(offsets) - 1} jets can be hidden, as each keeps one: leave out jets "
            "with less than two, or take a larger ratio"
        )
    return hidden
