"""An encoder that is fed with particles as they are: pt, deta and dphi, before any scaling.

Augmentations act on particles; what they do to each model input follows. So the step from particles
to inputs belongs into the network, together with its scaling: a checkpoint then holds all that it
takes to embed a jet.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from jetnb.models import _packed

FEATURES = ("deta", "dphi", "log_pt", "log_pt_rel", "delta_r")
MOMENTA = ("px", "py", "pz", "energy")
ENCODER = {"n_features": len(FEATURES), "dim": 64, "n_layers": 3, "n_heads": 4}  # of a laptop


class FromParticles(nn.Module):
    """Inputs from particles, scaled, and an encoder on them: `(T, 3), (B + 1,)` -> constituents (T,
    D), jets (B, D).

    encoder: takes the five columns of `FEATURES`, and with `momenta` those of `MOMENTA` after them.
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

    def __init__(self, encoder: nn.Module, *, momenta: bool = False):
        super().__init__()
        expected = getattr(encoder, "n_features", len(FEATURES))
        if expected != len(FEATURES):
            raise ValueError(
                f"the encoder expects {expected} features, but particles give {len(FEATURES)}: "
                f"{', '.join(FEATURES)}; make it with n_features={len(FEATURES)}"
            )
        self.encoder, self.momenta, self.dim = encoder, momenta, encoder.dim
        self.register_buffer("mean", torch.zeros(len(FEATURES)))
        self.register_buffer("width", torch.ones(len(FEATURES)))

    def fit(self, particles, offsets) -> FromParticles:
        """Set mean and width of the inputs to those of these training particles (T, 3), offsets (B
        + 1,); returns self.

        Raises `ValueError` for no particles and for inputs that are not finite or do not vary.
        """
        particles, offsets = (
            torch.tensor(np.asarray(particles, np.float32)),
            torch.tensor(np.asarray(offsets)),
        )
        x = _inputs(particles, offsets).double()  # (T, 5)
        width = x.std(0, correction=0) if len(x) else x.new_full((len(FEATURES),), torch.nan)
        if not (width > 0).all() or not width.isfinite().all():
            at = int(torch.argmin((width > 0).int() * width.isfinite()))
            raise ValueError(
                f"the width of {FEATURES[at]} over {len(x)} particles is {float(width[at])}: pt must be "
                "positive, all finite, and there must be jets enough to vary"
            )
        self.mean.copy_(x.mean(0))
        self.width.copy_(width)
        return self

    def scaled(self, particles: Tensor, offsets: Tensor) -> Tensor:
        """The columns of `FEATURES` of particles (T, 3), as the encoder gets them: (T, 5)."""
        return (_inputs(particles, offsets) - self.mean) / self.width

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
        """particles (T, 3), offsets (B + 1,) int64 -> constituents (T, D), jets (B, D)."""
        x = self.scaled(particles, offsets)  # (T, 5)
        if self.momenta:
            x = torch.cat([x, massless(*particles.unbind(1))], 1)  # (T, 9)
        if getattr(self.encoder, "pool", None) == "pt":
            return self.encoder(x, offsets, weight=particles[:, 0])
        return self.encoder(x, offsets)


def massless(pt: Tensor, eta: Tensor, phi: Tensor) -> Tensor:
    """The columns of `MOMENTA` of massless particles (T,): (T, 4)."""
    return torch.stack([pt * phi.cos(), pt * phi.sin(), pt * eta.sinh(), pt * eta.cosh()], 1)


def _inputs(particles: Tensor, offsets: Tensor) -> Tensor:
    """The columns of `FEATURES`, not scaled: (T, 5)."""
    jet = _packed.jet_of(_packed.check(particles, offsets, 3), particles.device)  # (T,)
    pt, deta, dphi = particles.unbind(1)
    share = pt / _packed.total(pt, jet, len(offsets) - 1)[jet]
    return torch.stack([deta, dphi, pt.log(), share.log(), torch.hypot(deta, dphi)], 1)
