"""An encoder of subjets: the particles of each make one vector, and the jet is a set of these."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from jetnb import packed, substructure
from jetnb.hardware import send
from jetnb.models import _packed
from jetnb.models.encoder import Transformer
from jetnb.models.particles import from_settings


class FromSubjets(nn.Module):
    """Particles to subjets, subjets to the jet: `(T, 3 + E), (B + 1,)` -> constituents (T, D), jets
    (B, D).

    encoder: a `Transformer` of D features and width D, to which each subjet is one constituent.
    radius: of the subjets, which are those of Cambridge/Aachen. One layer of attention within a
    subjet makes its vector of its own particles alone, so what is left of a jet without some
    subjets enters with the same vectors as before. A constituent gets the vector of its subjet. Particles are those of
    `FromParticles`, with `extras`. arXiv:2412.05333, where subjets are the tokens too. Raises `ValueError` for an
    encoder of other features.
    """

    def __init__(self, encoder: Transformer, *, radius: float = 0.1, extras: Iterable[str] = ()):
        super().__init__()
        if encoder.n_features != encoder.dim:
            raise ValueError(
                f"the encoder expects {encoder.n_features} features, but subjets have as many as its "
                f"dim: make it with n_features={encoder.dim}"
            )
        if not radius > 0:
            raise ValueError(f"radius is {radius}: it must be positive, e.g. 0.1")
        self.encoder, self.radius, self.dim = encoder, radius, encoder.dim
        sizes = {"dim": encoder.dim, "n_layers": 1, "n_heads": encoder.n_heads, "pool": "pt"}
        self.particles = from_settings(sizes, extras=extras)
        self.extras = self.particles.extras

    def fit(self, particles, offsets) -> FromSubjets:
        """Set the scaling of the inputs to these training particles (T, 3 + E), offsets (B + 1,);
        returns self.
        """
        x, offsets = (torch.as_tensor(np.asarray(one)) for one in (particles, offsets))
        self.particles.fit(*self._sorted(x, self.group(x, offsets)[2]))
        return self

    def group(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The subjets of particles (T, 3 + E): pt, deta and dphi of each (S, 3), their offsets (B + 1,),
        and for each particle the number of its subjet in the batch (T,), the latter two on the CPU.
        """
        return grouped(x, offsets, algorithm="ca", radius=self.radius)

    def embed(self, x: Tensor, offsets: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors of subjets (S, D), each of its own particles alone, and their offsets
        (B + 1,). of: as `group` gives it, rising from jet to jet.
        """
        jet = packed.jet_of(np.diff(offsets.cpu().numpy()))
        of_jet = np.zeros(int(of.max()) + 1 if len(of) else 0, np.int64)
        of_jet[of.numpy()] = jet  # of each subjet its jet
        start = packed.starts(np.bincount(of_jet, minlength=len(offsets) - 1))
        return self.particles(*self._sorted(x, of))[1], torch.from_numpy(start)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """particles (T, 3 + E), offsets (B + 1,) int64 -> constituents (T, D), jets (B, D)."""
        of = self.group(x, offsets)[2]
        subjets, jets = self.encoder(*self.embed(x, offsets, of))
        return subjets.index_select(0, send(of, x.device)), jets

    @staticmethod
    def _sorted(x: Tensor, of: Tensor) -> tuple[Tensor, Tensor]:
        """Particles as a packed batch of which each subjet is a jet."""
        order = of.argsort(stable=True)
        start = torch.from_numpy(packed.starts(np.bincount(of.numpy())))
        return x.index_select(0, send(order, x.device)), start


def grouped(x: Tensor, offsets: Tensor, **how) -> tuple[Tensor, Tensor, Tensor]:
    """The subjets of particles (T, 3 + E): pt, and the mean deta and dphi weighted by it (S, 3);
    their offsets (B + 1,); and for each particle the number of its subjet in the batch (T,), the
    latter two on the CPU. how: as for `substructure.subjets`.
    """
    found = substructure.subjets(x[:, :3].detach().cpu(), offsets, **how)
    lengths = np.diff(offsets.cpu().numpy())
    jet = packed.jet_of(lengths)
    counts = np.zeros(len(lengths), np.int64)
    np.maximum.at(counts, jet, found + 1)
    start = packed.starts(counts)
    of = torch.from_numpy(start[jet] + found)
    where = send(of, x.device)
    pt = _packed.total(x[:, :1], where, int(start[-1]))  # (S, 1)
    middle = _packed.total(x[:, :1] * x[:, 1:3], where, int(start[-1])) / pt
    return torch.cat([pt, middle], 1), torch.from_numpy(start), of
