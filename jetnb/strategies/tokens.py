"""Tokens as pretraining: the VQ-VAE of OmniJet-alpha, whose codebook names the constituents."""

from __future__ import annotations

from jetnb.models import tokenizer
from jetnb.models.tokenizer import LAPTOP, Tokenizer


class Tokens(Tokenizer):
    """A tokenizer that learns to rebuild constituents from their tokens. arXiv:2403.05618."""

    TITLE, SETTINGS = "VQ-VAE, arXiv:2403.05618", LAPTOP

    restore = staticmethod(tokenizer.load)

    def card(self) -> dict:
        """What a checkpoint says of it, for `tokenizer.load`."""
        kmeans = self.settings["context"] == "features"
        return {
            **({"strategy": "k-means of constituents"} if kmeans else {}),
            "tokenizer": self.settings,
        }
