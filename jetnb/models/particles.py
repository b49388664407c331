"""An encoder that is fed with particles as they are: pt, deta and dphi, before any scaling.

Augmentations act on particles; what they do to each model input follows. So the step from particles
to inputs belongs into the network, together with its scaling: a checkpoint then holds all that it
takes to embed a jet.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from jetnb.inputs.features import TABLE, UNSCALED
from jetnb.models import _packed
from jetnb.models.encoder import Transformer

FEATURES = ("deta", "dphi", "log_pt", "log_pt_rel", "delta_r")
MOMENTA = ("px", "py", "pz", "energy")
ENCODER = {"n_features": len(FEATURES), "dim": 64, "n_layers": 3, "n_heads": 4}  # of a laptop
HAS_TRACK = "has_track"
SIGNED = ("d0", "dz")  # features of these, not of their errors, change sign with them
BANK = 16384  # tracks to fill in from: of fewer a reader learns the list by heart


def columns(extras: Iterable[str]) -> tuple[str, ...]:
    """What follows pt, deta and dphi where an encoder reads these features of `inputs.TABLE` too.

    Those of tracks, such as "tanh_d0", need to know who has one: then "has_track" is the last.

    >>> columns(["charge", "tanh_d0"])
    ('charge', 'tanh_d0', 'has_track')
    """
    extras = tuple(name for name in extras if name != HAS_TRACK)
    return (*extras, HAS_TRACK) if any(map(_of_tracks, extras)) else extras


class FromParticles(nn.Module):
    """Inputs from particles, scaled, and an encoder on them: `(T, 3 + E), (B + 1,)` -> constituents
    (T, D), jets (B, D).

    encoder: takes the five columns of `FEATURES`, those of `extras`, and with `momenta` those of
    `MOMENTA` after them. extras: names of `inputs.TABLE`, which particles have after pt, deta and
    dphi, in the order that `columns` says; that is the attribute `extras`, too. A constituent
    without a track gets displacements all the same: those of a training track, with signs tossed;
    which, says a hash of its own momentum. So hardly anything in them tells that there is no track,
    and a jet is embedded in the same way each time, in any order (arXiv:2409.12589 has noise there).
    momenta: append massless four-momenta in GeV, unscaled, with the jet axis along x: what the
    Particle Transformer needs for its pairs, which look the same from every direction.

    Particles are pt [GeV], deta and dphi [rad] relative to the jet axis, as
    `jetnb.inputs.to_relative` gives them and `jetnb.augment` changes them. log_pt_rel is the share
    in the sum of pt over the jet. `fit` sets the scaling; before it inputs are used as they are.
    Raises `ValueError` where the encoder expects another number of features. An encoder with
    `pool="pt"` is given the pt of the particles. arXiv:2202.03772 (table 2). Taught in notebook 08.

    >>> from jetnb.models.encoder import DeepSets
    >>> encoder = FromParticles(DeepSets(5, dim=16))
    >>> particles, offsets = torch.rand(9, 3) + 0.1, torch.tensor([0, 5, 9])
    >>> encoder.fit(particles, offsets)(particles, offsets)[1].shape
    torch.Size([2, 16])
    """

    def __init__(self, encoder: nn.Module, *, extras: Iterable[str] = (), momenta: bool = False):
        super().__init__()
        self.extras = columns(extras)
        self.features = (*FEATURES, *(name for name in self.extras if name != HAS_TRACK))
        n_features = len(self.features)
        expected = getattr(encoder, "n_features", n_features)
        if expected != n_features:
            raise ValueError(
                f"the encoder expects {expected} features, but particles give {n_features}: "
                f"{', '.join(self.features)}; make it with n_features={n_features}"
            )
        self.encoder, self.momenta, self.dim = encoder, momenta, encoder.dim
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("width", torch.ones(n_features))
        if HAS_TRACK in self.extras:
            own = self.extras[:-1]
            displaced = torch.tensor([_of_tracks(name) for name in own])
            odd = [[sign in name and name.find("error") < 0 for name in own] for sign in SIGNED]
            self.register_buffer("displaced", displaced, persistent=False)
            self.register_buffer("odd", torch.tensor(odd).float(), persistent=False)
            self.register_buffer("tracks", torch.zeros(BANK, int(displaced.sum())))

    def fit(self, particles, offsets) -> FromParticles:
        """Set mean and width of the inputs, and the tracks to fill in from, to those of these
        training particles (T, 3 + E), offsets (B + 1,); returns self.

        Charge and types stay as they are. Raises `ValueError` for no particles, no tracks, and for
        inputs that are not finite or do not vary.
        """
        particles, offsets = (
            torch.tensor(np.asarray(particles, np.float32)),
            torch.tensor(np.asarray(offsets)),
        )
        if HAS_TRACK in self.extras:
            real = particles[particles[:, -1] > 0][:, 3:-1][:, self.displaced]
            if not len(real):
                raise ValueError(
                    f"none of {len(particles)} particles has a track, which {', '.join(self.extras)} need: "
                    "leave out the features of tracks"
                )
            rows = np.linspace(0, len(real) - 1, BANK).round().astype(int)
            self.tracks.copy_(real[rows])
        x = self._inputs(particles, offsets).double()  # (T, 5 + E)
        width = x.std(0, correction=0) if len(x) else x.new_full((x.shape[1],), torch.nan)
        plain = torch.tensor([name in UNSCALED for name in self.features])
        width = torch.where(plain & width.isfinite(), 1, width)
        if not (width > 0).all() or not width.isfinite().all():
            at = int(torch.argmin((width > 0).int() * width.isfinite()))
            raise ValueError(
                f"the width of {self.features[at]} over {len(x)} particles is {float(width[at])}: pt must "
                "be positive, all finite, and there must be jets enough to vary"
            )
        self.mean.copy_(torch.where(plain, 0, x.mean(0)))
        self.width.copy_(width)
        return self

    def scaled(self, particles: Tensor, offsets: Tensor) -> Tensor:
        """The columns of `features` of particles (T, 3 + E), as the encoder gets them: (T, 5 + E)."""
        return (self._inputs(particles, offsets) - self.mean) / self.width

    def _inputs(self, particles: Tensor, offsets: Tensor) -> Tensor:
        """The columns of `features`, not scaled: (T, 5 + E)."""
        lengths = _packed.check(particles, offsets, 3 + len(self.extras))
        jet = _packed.jet_of(lengths, particles.device)  # (T,)
        pt, deta, dphi = particles[:, :3].unbind(1)
        share = pt / _packed.total(pt, jet, len(offsets) - 1)[jet]
        own = torch.stack([deta, dphi, pt.log(), share.log(), torch.hypot(deta, dphi)], 1)
        if not self.extras:
            return own
        more = particles[:, 3:]
        if HAS_TRACK in self.extras:
            more = torch.where(
                (more[:, -1:] > 0) | ~self.displaced, more[:, :-1], self._filled(particles)
            )
        return torch.cat([own, more], 1)

    def _filled(self, particles: Tensor) -> Tensor:
        """For each particle the displacement of one of the kept tracks, with the signs of d0 and of
        dz tossed: (T, E - 1).
        """
        drawn = _hash(particles)
        column = (self.displaced.cumsum(0) - 1).clamp(min=0)
        track = self.tracks.index_select(0, drawn.remainder(BANK)).index_select(1, column)
        # -2 where a sign is turned, else 0.
        turn = -2 * torch.stack([(drawn >> 40) & 1, (drawn >> 41) & 1], 1).to(track.dtype)
        return (track * (1 + turn @ self.odd)).to(particles.dtype)

    def pooled(self, pool: str) -> FromParticles:
        """A copy with the same weights that makes jets of constituents by their "mean", or weighted
        by "pt".

        Raises `ValueError` where that is another network: pools that are learned. Taught in
        notebook 07.
        """
        if {getattr(self.encoder, "pool", None), pool} - {"mean", "pt"}:
            raise ValueError(
                f"pool {pool!r} in place of {getattr(self.encoder, 'pool', None)!r}: only 'mean' and 'pt' "
                "have no weights of their own; build a new encoder with this pool"
            )
        other = copy.deepcopy(self)
        other.encoder.pool = pool
        return other

    def forward(self, particles: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """particles (T, 3 + E), offsets (B + 1,) int64 -> constituents (T, D), jets (B, D)."""
        x = self.scaled(particles, offsets)  # (T, 5 + E)
        if self.momenta:
            x = torch.cat([x, massless(*particles[:, :3].unbind(1))], 1)
        if getattr(self.encoder, "pool", None) == "pt":
            return self.encoder(x, offsets, weight=particles[:, 0])
        return self.encoder(x, offsets)


def from_settings(encoder: Mapping, *, extras: Iterable[str] = ()) -> FromParticles:
    """A transformer of particles, as strategies keep it in their settings, with random weights.

    encoder: arguments of `encoder.Transformer`, of which n_features is that of particles with
    `extras`.
    """
    n_features = len(FEATURES) + sum(name != HAS_TRACK for name in columns(extras))
    return FromParticles(Transformer(**{**encoder, "n_features": n_features}), extras=extras)


def massless(pt: Tensor, eta: Tensor, phi: Tensor) -> Tensor:
    """The columns of `MOMENTA` of massless particles (T,): (T, 4)."""
    return torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], 1)


def _of_tracks(name: str) -> bool:
    return name in TABLE and HAS_TRACK in TABLE[name].needs and name != HAS_TRACK


def _hash(particles: Tensor) -> Tensor:
    """An integer (T,) of each particle's pt, deta and dphi that looks random, the same each time."""
    bits = particles[:, :3].float().contiguous().view(torch.int32).long()
    mixed = (bits * bits.new_tensor([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D])).sum(1)
    for shift, factor in ((29, 0x1CE4E5B9BF58476D), (32, 0x133111EB94D049BB)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return mixed ^ (mixed >> 31)
