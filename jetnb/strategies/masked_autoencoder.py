"""Masked autoencoder: hide some tracks of a jet, and let the others say what they were.

Only real tracks are masked, since packed batches have no others. The encoder sees the visible
tracks; a decoder gets a learned token in the place of each hidden one, and what the encoder says:
either of each visible track, or of the whole jet, by its pooled vector alone. arXiv:2111.06377 for
images; for jets see also arXiv:2401.13537.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import masks, packed
from jetnb.hardware import send
from jetnb.models import _packed, across
from jetnb.models._packed import pad, select, wide
from jetnb.models.encoder import DeepSets, Transformer
from jetnb.models.particles import FEATURES, FromParticles, from_settings
from jetnb.strategies.contrastive import spread

TOKENS = ("one", "slot")
READS = ("tracks", "jet")
# Of the features of particles: deta, dphi and log_pt, of which the others are made.
TARGETS = (0, 1, 2)


def slot_loss(found: Tensor, target: Tensor, offsets: Tensor) -> Tensor:
    """Mean squared error of hidden tracks (M, K), each compared with the track of its own place. A
    scalar.

    found, target: (M, K) of the same shape, offsets (B + 1,) of the hidden tracks of each jet. The
    mean is over tracks and features. Raises ValueError for other shapes and no tracks. Taught in
    notebook 10.
    """
    _fits(found, target, offsets)
    return F.mse_loss(wide(found), wide(target))


def chamfer_loss(found: Tensor, target: Tensor, offsets: Tensor) -> Tensor:
    """Chamfer distance of two sets of tracks for each jet: to each the nearest of the other, both
    ways. A scalar.

    Arguments and errors as for `slot_loss`, but no order is looked at. Squared distances are means
    over features; the result is half the sum of the two directions, each a mean over all tracks.
    Several found tracks may share one target, so it never exceeds `hungarian_loss`.
    arXiv:1612.00603 (equation 1). Taught in notebook 10.
    """
    _fits(found, target, offsets)
    (a, mask), (b, _) = (pad(wide(one), offsets) for one in (found, target))  # (B, P, K)
    real = send(torch.from_numpy(_packed.spread(offsets)[1]), a.device)
    square = (a[:, :, None] - b[:, None]).square().mean(-1)  # (B, P, P)
    far = square.masked_fill(~(mask[:, :, None] & mask[:, None]), math.inf)
    return (far.amin(2).flatten()[real].mean() + far.amin(1).flatten()[real].mean()) / 2


def hungarian_loss(found: Tensor, target: Tensor, offsets: Tensor) -> Tensor:
    """Mean squared error of hidden tracks under the pairing, one to one within each jet, that makes
    it the smallest.

    Arguments and errors as for `slot_loss`, but no order is looked at. The pairing is found without
    gradients, by `scipy.optimize.linear_sum_assignment`, one jet after the other on the CPU, for
    which a GPU has to wait. A scalar. Taught in notebook 10.
    """
    _fits(found, target, offsets)
    with torch.no_grad():
        (a, _), (b, _) = (pad(wide(one), offsets) for one in (found, target))
        cost = (a[:, :, None] - b[:, None]).square().mean(-1).cpu().numpy()  # (B, P, P)
        bounds = np.asarray(torch.as_tensor(offsets).cpu())
        pairs = [
            linear_sum_assignment(one[:n, :n])[1] + start
            for one, n, start in zip(cost, np.diff(bounds), bounds, strict=False)
        ]
        pair = torch.from_numpy(np.concatenate(pairs)).to(target.device)
    return F.mse_loss(wide(found), wide(target)[pair])


class MaskedAutoencoder(nn.Module):
    """Pretraining of an encoder by reconstruction of hidden tracks.

    encoder: encoder(x (T, F), offsets) -> tracks (T, D), jets (B, D), with the attribute `dim`,
    such as those of `jetnb.models.encoder`. decoder: of the same kind, from D features; its vectors
    of tracks become the reconstruction by a linear layer. n_features: F.

    reads: what the decoder sees of the encoder. "tracks": the vectors of the visible tracks, in
    their places, beside the tokens of the hidden ones; the decoder must let tracks see each other.
    "jet": the pooled vector of the jet, added to each token; then what is used later is what was
    trained. ratio: as for `masks.random`. tokens: "one" for all hidden tracks, or one for each "slot",
    the place of the track in its jet by falling pt; from n_slots on tracks share the last. With one
    token all hidden tracks of a jet get the same reconstruction. loss_of: `slot_loss`,
    `chamfer_loss`, `hungarian_loss`, or another function of the same arguments. targets: columns of
    x to reconstruct; None is all. Raises ValueError for arguments that do not fit.
    arXiv:2111.06377. Taught in notebook 10.
    """

    TITLE = "masked autoencoder, arXiv:2111.06377"
    SETTINGS = {
        "encoder": {"n_features": 5, "dim": 64, "n_layers": 3, "n_heads": 4},
        "decoder": {"dim": 32, "n_layers": 1, "n_heads": 4},
        "hardest": 40,
        "reads": "jet",
        "ratio": 0.5,
        "tokens": "slot",
    }

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        n_features: int,
        reads: str = "tracks",
        ratio: float = 0.5,
        tokens: str = "slot",
        n_slots: int = 35,
        loss_of=slot_loss,
        targets=None,
    ):
        super().__init__()
        targets = list(range(n_features)) if targets is None else list(targets)
        if tokens not in TOKENS or reads not in READS:
            raise ValueError(
                f"tokens is {tokens!r} and reads {reads!r}: tokens must be {' or '.join(TOKENS)}, "
                f"reads {' or '.join(READS)}"
            )
        if not targets or not all(0 <= column < n_features for column in targets):
            raise ValueError(
                f"targets is {targets}: name at least one of the columns 0 to {n_features - 1}"
            )
        if n_slots < 1 or not 0 < ratio < 1:
            raise ValueError(
                f"n_slots is {n_slots} and ratio {ratio}: at least 1, and between 0 and 1"
            )
        if reads == "tracks" and isinstance(decoder, DeepSets):
            raise ValueError(
                "reads is 'tracks', but in a DeepSets decoder no track sees another: use reads='jet'"
            )
        self.encoder, self.decoder = encoder, decoder
        self.reads, self.ratio, self.targets, self.loss_of = reads, ratio, targets, loss_of
        self.token = nn.Parameter(
            0.02 * torch.randn(n_slots if tokens == "slot" else 1, encoder.dim)
        )
        self.out = nn.Linear(decoder.dim, len(targets))
        if reads == "jet":
            self.jet = nn.Linear(encoder.dim, encoder.dim)
        self._last: tuple[Tensor, ...] | None = None

    @classmethod
    def make(
        cls, *, encoder: Mapping, decoder: Mapping, hardest: int | None, **options
    ) -> MaskedAutoencoder:
        """For `pretraining.pretrain`: transformers; the encoder reads particles and makes their
        features itself.
        """
        body = from_settings(encoder)
        model = cls(
            body,
            Transformer(body.dim, **decoder),
            n_features=len(FEATURES),
            targets=TARGETS,
            **options,
        )
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> MaskedAutoencoder:
        """Set the scaling of an encoder of particles to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        return self

    def reconstruct(self, x: Tensor, offsets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the visible tracks say of the hidden ones.

        x (T, F), offsets (B + 1,), mask (T,) True where hidden, both best left on the CPU. Returns
        the reconstruction (M, K) of the M hidden tracks in their order, K target columns, and the
        jets (B, D) by the encoder, from visible tracks alone.
        """

        def ours(rows: np.ndarray) -> Tensor:
            return send(torch.from_numpy(rows), x.device)

        lengths, mask = _packed.check(x, offsets, x.shape[1]), mask.cpu()
        place = packed.ranks(lengths)  # of each track in its jet
        rows, shown = np.flatnonzero(mask.numpy()), np.flatnonzero(~mask.numpy())  # (M,), (V,)
        seen, start = select(x, offsets, ~mask)
        tracks, jets = self.encoder(seen, start)  # (V, D), (B, D)
        token = self.token[ours(place[rows].clip(max=len(self.token) - 1))]  # (M, D)
        if self.reads == "jet":
            jet = ours(packed.jet_of(lengths)[rows])
            hidden = torch.as_tensor(offsets).cpu() - start
            made, _ = self.decoder(token + self.jet(jets)[jet], hidden)
        else:
            order = _packed.inverse(np.concatenate([shown, rows]))
            every = torch.cat([tracks, token.to(tracks.dtype)]).index_select(0, ours(order))
            made = self.decoder(every, offsets)[0].index_select(0, ours(rows))
        return self.out(made), jets

    def loss(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Loss of reconstruction of a batch, a scalar.

        batch: tracks (T, F), scaled, and offsets (B + 1,); targets after them are not looked at.
        generator draws what is hidden. Raises ValueError for a malformed batch and one in which no
        track can be hidden.
        """
        x, offsets, *_ = batch
        mask = masks.random(x, offsets, self.ratio, generator=generator)
        if not mask.any():
            raise ValueError(
                f"no track of {len(offsets) - 1} jets can be hidden, as each keeps one: leave out jets "
                "with less than two"
            )
        found, jets = self.reconstruct(x, offsets, mask)
        # An encoder of particles scales their features itself; what is to be found are scaled
        # features, too.
        scaled = self.encoder.scaled(x, offsets) if isinstance(self.encoder, FromParticles) else x
        # A list as index waits for a GPU.
        columns = torch.stack([scaled[:, column] for column in self.targets], 1)
        target, start = select(columns, offsets, mask)
        self._last = found.detach(), target, jets.detach()
        return across.mean(self.loss_of(found, target, start), len(found))

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says: of reconstruction, and of collapse.

        Returns `explained`, the share of the variance of the hidden tracks that is reconstructed (0
        for a guess at their mean), and `rank` and `variance` (mean over dimensions) of the vectors
        of jets. Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        found, target, jets = (values.double() for values in self._last)
        around = (target - target.mean(0)).square().mean()
        return {
            "explained": float(1 - (found - target).square().mean() / around.clamp(min=1e-12)),
            **spread(jets),
        }


def _fits(found: Tensor, target: Tensor, offsets: Tensor) -> None:
    if (
        found.ndim != 2
        or found.shape != target.shape
        or len(found) == 0
        or int(offsets[-1]) != len(found)
    ):
        raise ValueError(
            f"found and target have the shapes {tuple(found.shape)} and {tuple(target.shape)}, offsets "
            f"end at {int(offsets[-1])}: all must be of the same tracks (M, K), one or more"
        )
