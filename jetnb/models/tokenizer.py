"""The tokenizer of OmniJet-alpha: a VQ-VAE that makes an integer of each constituent, and
constituents of integers.

data = Packed(*tokenizer.particles(train))
model = tokenizer.build(tokenizer.LAPTOP, seed=1).fit(data, seed=1)
training.fit(model, data, epochs=10, seed=1, path=path, card={"tokenizer": model.settings})
tokens, offsets = tokenizer.tokenise(model, jets)
again = tokenizer.reconstruct(model, tokens, offsets, provenance=J.provenance(jets))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import checkpoints, inputs, kinematics, packed
from jetnb.models import _packed, across, heads
from jetnb.models._fast import Linear
from jetnb.models.encoder import Transformer
from jetnb.models.quantise import VectorQuantiser, nearest
from jetnb.packed import Batch

CONTEXTS = ("jet", "causal", "none", "features")
# of log pt, eta_rel, phi_rel: those of arXiv:2403.05618
MEAN, WIDTH = (1.8, 0.0, 0.0), (1.0, 1 / 3, 1 / 3)
LAPTOP = {"n_codes": 2048, "dim": 64, "n_layers": 2, "n_heads": 4, "context": "causal"}
# arXiv:2403.05618.
PUBLISHED = {"n_codes": 8192, "dim": 128, "n_layers": 4, "n_heads": 8, "update": "gradient"}


class Tokenizer(nn.Module):
    """VQ-VAE of constituents: encoder, vector quantiser, decoder, each constituent in the context
    of its jet.

    n_codes: K, how many tokens there are. latent: numbers of each constituent that are quantised.
    dim, n_layers, n_heads, expansion: of the transformers, one before and one after. context: the
    encoder sees the whole jet, and the decoder too with "jet"; with "causal" it sees of each
    constituent only the tokens up to its own, arXiv:2512.04149; with "none" neither sees others:
    MLPs, so a token stands for one pt, eta_rel and phi_rel; with "features" there are no networks
    at all: codes are those that `fit` finds by k-means in the scaled features. extras: names of
    `inputs.FEATURES` that are tokenised too, as columns after the momenta, e.g. "charge". alpha:
    weight of the codebook's loss. Others (update, decay, beta, rotate, patience): of
    `VectorQuantiser`.

    Raises `ValueError` for settings that do not fit. arXiv:2403.05618 (section 3.1).
    """

    def __init__(
        self,
        *,
        n_codes: int = 512,
        latent: int = 4,
        dim: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        expansion: int = 1,
        context: str = "jet",
        extras: Sequence[str] = (),
        alpha: float = 10.0,
        **quantiser,
    ):
        super().__init__()
        if context not in CONTEXTS:
            raise ValueError(f"context is {context!r}: it is one of {', '.join(CONTEXTS)}")
        if unknown := [name for name in extras if name not in inputs.FEATURES]:
            raise ValueError(
                f"extras: {unknown[0]!r} is unknown: use some of {', '.join(inputs.FEATURES)}"
            )
        if not alpha >= 0:
            raise ValueError(f"alpha is {alpha}: it must not be negative")
        self.settings = dict(
            n_codes=n_codes,
            latent=latent,
            dim=dim,
            n_layers=n_layers,
            n_heads=n_heads,
            expansion=expansion,
            context=context,
            extras=list(extras),
            alpha=alpha,
            **quantiser,
        )
        self.n_codes, self.extras, self.alpha = n_codes, tuple(extras), alpha

        n_features = len(MEAN) + len(extras)
        if context == "features":
            latent = dim = n_features

        def network(n_in: int, *, causal: bool = False) -> nn.Module:
            if context == "features":
                return nn.Identity()
            if context == "none":
                return heads.mlp(n_in, dim, hidden=(dim,) * n_layers)
            return Transformer(
                n_in,
                dim=dim,
                n_layers=n_layers,
                n_heads=n_heads,
                expansion=expansion,
                causal=causal,
            )

        layer = nn.Identity if context == "features" else Linear
        self.encoder, self.to_latent = network(n_features), layer(dim, latent)
        self.quantiser = VectorQuantiser(latent, n_codes, **quantiser)
        self.decoder, self.to_output = (
            network(latent, causal=context == "causal"),
            layer(dim, n_features),
        )
        self.register_buffer("mean", torch.tensor([*MEAN, *[0.0] * len(extras)]))
        self.register_buffer("width", torch.tensor([*WIDTH, *[1.0] * len(extras)]))
        self._last: Tensor | None = None

    @torch.no_grad()
    def fit(self, data, *, seed: int, n_jets: int | None = None) -> Tokenizer:
        """Start the codebook with k-means on latents of training jets, and scale the extras;
        returns self.

        data: as for training, see `jetnb.inputs.batches`, of pt [GeV], eta_rel, phi_rel and the
        extras. n_jets: of how many of its jets, drawn with seed; None is 1000, or n_codes if that
        is more. Raises `ValueError` for fewer constituents than codes, for values that are not
        finite, and extras that do not vary.
        """
        n_jets = min(len(data), max(1000, self.n_codes) if n_jets is None else n_jets)
        x, offsets, *_ = data[np.random.default_rng(seed).permutation(len(data))[:n_jets]]
        _packed.check(x, offsets, len(self.mean))
        if self.extras:
            mean, width = x.double().mean(0), x.double().std(0, correction=0)
            if wrong := [
                name for name, w in zip(self.extras, width[3:].tolist(), strict=True) if not w > 0
            ]:
                raise ValueError(
                    f"extras: {wrong[0]!r} is the same for all constituents, or not finite: leave it out"
                )
            self.mean[3:], self.width[3:] = mean[3:], width[3:]
        latents = [self._latents(*batch) for batch in self._split(x.numpy(), offsets.numpy(), 256)]
        self.quantiser.start(torch.cat([self.quantiser.codes[:0], *latents]), seed=seed)
        if not list(self.parameters()):
            self.eval()  # k-means alone: there is nothing to train, and its codes stay
        return self

    def forward(
        self, particles: Tensor, offsets: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """particles (T, 3 + E), offsets (B+1,) -> scaled reconstruction (T, 3 + E), tokens (T,),
        codebook's loss.
        """
        q, tokens, loss = self.quantiser(self._latents(particles, offsets), generator=generator)
        return self._outputs(q, offsets), tokens, loss

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean squared error of the scaled features plus alpha times the loss of the codebook, a
        scalar.

        batch: particles (T, 3 + E) of pt [GeV], eta_rel, phi_rel [rad] and extras, offsets (B+1,);
        targets after them are not looked at. generator: draws where dead codes are revived; None is
        torch's global one. Raises `ValueError` for a malformed batch and one without constituents.
        """
        particles, offsets, *_ = batch
        if len(particles) == 0:
            raise ValueError(
                "batch has no constituents: leave empty jets out, or take larger batches"
            )
        found, _, codebook = self(particles, offsets, generator=generator)
        with torch.autocast(particles.device.type, enabled=False):
            errors = (_packed.wide(found) - self._scaled(particles)).square().mean(0)  # (3 + E,)
        errors, codebook = (across.mean(one, len(particles)) for one in (errors, codebook))
        self._last = torch.cat([errors.detach(), codebook.detach()[None]])
        return errors.mean() + self.alpha * codebook

    def monitors(self) -> dict[str, float]:
        """Of the last batch: error (root mean square) of log_pt, eta_rel, phi_rel [rad] and each
        extra in its own unit, the loss of the codebook, and how the codebook is used, see
        `VectorQuantiser.monitors`.

        Raises `RuntimeError` before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        errors = (self._last[:-1].sqrt() * self.width).tolist()
        names = (f"error_{name}" for name in ("log_pt", "eta_rel", "phi_rel", *self.extras))
        return {
            **dict(zip(names, errors, strict=True)),
            "codebook_loss": float(self._last[-1]),
            **self.quantiser.monitors(),
        }

    @torch.no_grad()
    def encode(self, particles: Tensor, offsets: Tensor, *, check: bool = True) -> Tensor:
        """Tokens (T,) int64 of particles (T, 3 + E): pt [GeV], eta_rel, phi_rel [rad] and extras,
        offsets (B+1,).

        check: look for bad particles, for which a GPU has to be waited for; without it their tokens
        mean nothing. Raises `ValueError` for a malformed batch and for particles with a pt that is
        not positive or that are not finite.
        """
        z = self._latents(particles, offsets)  # (T, latent)
        if check and not z.isfinite().all():
            row = int(torch.argmin(z.isfinite().all(1).int()))
            raise ValueError(
                f"particles: row {row} is {particles[row].tolist()}, or another of its jet is bad: pt "
                "must be positive and all finite"
            )
        return nearest(z, self.quantiser.codes)

    @torch.no_grad()
    def decode(self, tokens: Tensor, offsets: Tensor) -> Tensor:
        """Particles (T, 3 + E) of tokens (T,), integers, offsets (B+1,). Extras are what is
        expected on average.

        Raises `ValueError` for a malformed batch and for tokens that are no integers from 0 to
        n_codes - 1.
        """
        index = tokens.long()
        if (
            tokens.is_floating_point()
            or tokens.ndim != 1
            or ((index < 0) | (index >= self.n_codes)).any()
        ):
            span = f" from {int(index.min())} to {int(index.max())}" if len(index) else ""
            raise ValueError(
                f"tokens is {tokens.dtype} of shape {tuple(tokens.shape)}{span}, but must be integers "
                f"(T,) from 0 to {self.n_codes - 1}: take start and stop tokens out first"
            )
        x = _packed.wide(self._outputs(F.embedding(index, self.quantiser.codes), offsets))
        x = x * self.width + self.mean  # (T, 3 + E)
        return torch.cat([x[:, :1].exp(), x[:, 1:]], 1)

    def _scaled(self, particles: Tensor) -> Tensor:
        return (torch.cat([particles[:, :1].log(), particles[:, 1:]], 1) - self.mean) / self.width

    def _latents(self, particles: Tensor, offsets: Tensor) -> Tensor:
        _packed.check(particles, offsets, len(self.mean))
        return self.to_latent(_run(self.encoder, self._scaled(particles), offsets))

    def _outputs(self, q: Tensor, offsets: Tensor) -> Tensor:
        _packed.check(q, offsets, q.shape[1])
        return self.to_output(_run(self.decoder, q, offsets))

    def _split(self, x: np.ndarray, offsets: np.ndarray, batch_size: int):
        """Batches of so many jets, on the device of the network, with their offsets on the CPU."""
        for first in range(0, len(offsets) - 1, batch_size):
            part = offsets[first : first + batch_size + 1]
            # a copy, of what may be a file that is mapped read-only
            rows = torch.from_numpy(x[part[0] : part[-1]].copy())
            yield rows.to(self.mean.device), torch.from_numpy(part - part[0])


def build(settings: Mapping = LAPTOP, *, seed: int) -> Tokenizer:
    """A new tokenizer of these settings, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Tokenizer(**settings)


def load(path) -> tuple[Tokenizer, dict]:
    """The tokenizer of the checkpoint at `path`, in evaluation mode, and the card, with its
    settings as "tokenizer".

    Raises as `checkpoints.restore` does. Taught in notebook 04.
    """
    return checkpoints.restore(path, build, name="tokenizer")


def particles(jets: ak.Array, extras: Sequence[str] = ()) -> Batch:
    """What a tokenizer with these extras takes of N jets:
    `Batch(x (T, 3 + E) float32, offsets (N+1,))`.

    Columns are pt [GeV], eta_rel, phi_rel [rad] and the extras, features of `inputs.compute`.
    Taught in notebook 04.
    """
    x, offsets = inputs.to_relative(jets)
    return Batch(np.column_stack([x, inputs.compute(jets, extras).x]) if extras else x, offsets)


def tokenise(model: Tokenizer, jets: ak.Array, *, batch_size: int = 512) -> Batch:
    """Tokens of all constituents of N jets: `Batch(tokens (T,) int32, offsets (N+1,))`.

    batch_size: jets that are worked on at a time, on the device of the model. Raises as
    `inputs.compute` does. Taught in notebook 05.
    """
    found = [np.empty(0, np.int32)]
    for first in range(0, len(jets), batch_size):
        x, offsets = particles(jets[first : first + batch_size], model.extras)
        [batch] = model._split(x, offsets, batch_size)
        found.append(model.encode(*batch).int().cpu().numpy())
    counts = ak.to_numpy(ak.num(jets.constituents))
    return Batch(np.concatenate(found), packed.starts(counts))


def reconstruct(
    model: Tokenizer,
    tokens,
    offsets,
    *,
    provenance: Mapping,
    eta=0.0,
    phi=0.0,
    merge: bool = True,
    batch_size: int = 512,
) -> ak.Array:
    """Jets of massless constituents from tokens (T,), offsets (N+1,), arrays or tensors on the CPU.

    provenance, eta, phi: as for `inputs.from_relative`. merge: constituents of a jet with the same
    token, which are one place in the detector twice, become one with the sum of their momenta.
    Their number is in the provenance, as "duplicates". batch_size: jets that are worked on at a
    time. Extras are not part of what returns: see `Tokenizer.decode`. Raises `ValueError` for
    tokens and offsets that do not fit and for jets without constituents. Taught in notebook 04.
    """
    tokens, offsets = np.asarray(tokens), np.asarray(offsets)
    _packed.check(torch.empty(len(tokens), 1), offsets, 1)
    found = [
        model.decode(*batch)[:, :3].cpu().numpy()
        for batch in model._split(tokens, offsets, batch_size)
    ]
    batch = Batch(np.concatenate([np.empty((0, 3), np.float32), *found]), offsets)  # (T, 3)
    n_duplicates = int(count_duplicates(tokens, offsets).sum())
    if merge and n_duplicates:
        batch = merge_duplicates(tokens, batch)
    return inputs.from_relative(
        batch,
        eta=eta,
        phi=phi,
        provenance={**provenance, "duplicates": {"count": n_duplicates, "merged": merge}},
    )


def count_duplicates(tokens, offsets) -> np.ndarray:
    """For each jet how many of its tokens (T,), offsets (N+1,) were there before in the jet: (N,)
    int64.

    >>> count_duplicates([5, 5, 5, 2, 5], [0, 3, 5])
    array([2, 0])
    """
    first, *_ = _places(tokens, offsets)
    kept = np.searchsorted(np.sort(first), offsets)
    return np.diff(offsets) - np.diff(kept)


def merge_duplicates(tokens, batch: Batch) -> Batch:
    """Constituents of a jet with the same token as one, at the place of the first, with the sum of
    their momenta.

    tokens (T,). batch: `Batch(x (T, 3), offsets (N+1,))` of pt [GeV], eta_rel, phi_rel [rad], taken
    as massless; the mass of a sum of different directions, which a decoder with context can give
    one token, is left out. Others stay as they are. Returns such a batch.
    """
    first, group, n = _places(tokens, batch.offsets)
    x, (pt, eta, phi) = np.asarray(batch.x), np.asarray(batch.x, np.float64).T
    px, py, pz = (
        np.bincount(group, weights=v, minlength=len(first))
        for v in kinematics.to_cartesian(pt, eta, phi)
    )
    merged = np.column_stack(kinematics.to_polar(px, py, pz))
    merged = np.where((n > 1)[:, None], merged, x[first])
    order = np.argsort(first)
    return Batch(merged[order].astype(x.dtype), np.searchsorted(first[order], batch.offsets))


def _places(tokens, offsets) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each different token of a jet the first row, for each row which of these it is, and how
    many rows each has.
    """
    tokens = np.asarray(tokens, np.int64)
    jet = packed.jet_of(np.diff(offsets))
    return np.unique(
        jet * (tokens.max(initial=0) + 1) + tokens,
        return_index=True,
        return_inverse=True,
        return_counts=True,
    )[1:]


def _run(network: nn.Module, x: Tensor, offsets: Tensor) -> Tensor:
    """One vector per constituent (T, dim), with or without a look at the others of the jet."""
    return network(x, offsets)[0] if isinstance(network, Transformer) else network(x)
