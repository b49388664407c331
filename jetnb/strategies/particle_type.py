"""Masked particle type prediction: what kind of particle is it, given the others of its jet?

Two variants: the type alone is hidden, and kinematics and displacement stay; or all of the particle
is hidden, and its type is to be found. arXiv:2312.06909 does it for the particles of events; in
jets, as one target of several, arXiv:2409.12589.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from jetnb import inputs
from jetnb.hardware import send
from jetnb.strategies.masked_particles import SIZES, Found, MaskedParticles

HIDES = ("type", "particle")
TYPES = tuple(name for name in inputs.TYPES if "forward" not in name)


class ParticleType(MaskedParticles):
    """Pretraining of an encoder by the types of particles.

    As `MaskedParticles`, with the target "types". With `hides="type"` the encoder sees all
    particles; of the hidden ones the columns of type and charge are 0, as they are of no particle
    that is seen, and there is no decoder. With "particle" all of it is hidden. arXiv:2312.06909.
    """

    TITLE = "masked particle types, arXiv:2312.06909"
    SETTINGS = {
        "encoder": SIZES,
        "decoder": MaskedParticles.SETTINGS["decoder"],
        "extras": ["charge", *TYPES],
        "hardest": 40,
        "hides": "type",
        "mask": {"kind": "random", "ratio": 0.3},
    }

    hides = "particle"

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        decoder: Mapping,
        extras: Sequence[str],
        hardest: int | None,
        hides: str,
        mask: Mapping,
    ) -> ParticleType:
        """For `pretraining.pretrain`: transformers."""
        if hides not in HIDES:
            raise ValueError(f"hides is {hides!r}: it is one of {', '.join(HIDES)}")
        model = super().make(
            encoder=encoder,
            decoder=decoder,
            extras=extras,
            hardest=hardest,
            reads="visible" if hides == "particle" else "tokens",
            targets=["types"],
            mask=mask,
        )
        model.hides = hides
        if hides == "type":
            del model.token, model.masked  # nothing stands in the place of a particle
        model.settings = {name: model.settings[name] for name in cls.SETTINGS if name != "hides"}
        model.settings["hides"] = hides
        return model

    def find(self, x: Tensor, offsets: Tensor, mask: Tensor) -> Found:
        """What the others, and with `hides="type"` its own kinematics, say of each hidden one; see
        `MaskedParticles.find`.
        """
        if self.hides == "particle":
            return super().find(x, offsets, mask)
        rows = send(torch.from_numpy(np.flatnonzero(mask.cpu().numpy())), x.device)
        h, jets = self.encoder(self.particles.without_type(x, rows), offsets)
        return Found(h.index_select(0, rows), rows, jets)
