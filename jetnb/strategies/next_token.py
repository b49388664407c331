"""Next-token prediction, OmniJet-alpha: jets become tokens, a generator learns what comes next, and draws new jets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn

from jetnb import batches, checkpoints
from jetnb.models import sampling, tokenizer
from jetnb.models.generator import Generator
from jetnb.models.tokenizer import Tokenizer

SIZES = {"dim": 128, "n_layers": 3, "n_heads": 4}


class NextToken(nn.Module):
    """A tokenizer, which is kept as it is, and a generator of its tokens, which learns: one checkpoint holds both.

    tokenizer: trained. sizes: settings of `models.generator.Generator`, without n_codes. The encoder that a tagger can
    be made of is `generator.encoder`; it reads tokens. arXiv:2403.05618. Taught in notebook 05.
    """

    def __init__(self, tokenizer: Tokenizer, *, sizes: Mapping = SIZES):
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False)
        self.settings = {"tokenizer": tokenizer.settings, "generator": dict(sizes)}
        self.generator = Generator(tokenizer.n_codes, **sizes)

    def data(self, jets: ak.Array, *, batch_size: int = 512) -> batches.Packed:
        """Tokens of N jets as data for training: `Packed(tokens (T, 1), offsets, label (N,))`."""
        tokens, offsets = tokenizer.tokenise(self.tokenizer, jets, batch_size=batch_size)
        return batches.Packed(tokens[:, None], offsets, jets.label)

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy of the next token, see `Generator.loss`. batch: of `data`."""
        return self.generator.loss(batch, generator=generator)

    def monitors(self) -> dict[str, float]:
        """Perplexities of the last batch, see `Generator.monitors`."""
        return self.generator.monitors()

    def draw(self, n_jets: int, *, seed: int, provenance: Mapping, **options) -> ak.Array:
        """New jets about the axis eta = phi = 0, at most n_jets: those whose first token is stop have no constituents.

        provenance: of the jets that it was trained on; what returns says that it is generated, and from which. Tokens
        that occur twice in a jet stay two constituents, so that their number is what was learned of stop.
        options: those of `sampling.generate`, such as temperature. Taught in notebook 05.
        """
        tokens, offsets = sampling.generate(self.generator, n_jets, seed=seed, **options)
        lengths = np.diff(offsets.numpy())
        offsets = np.concatenate([[0], np.cumsum(lengths[lengths > 0])])
        about = {**provenance, "source": "generated", "stamp": f"generated, learned from {provenance['sample']}",
                 "empty": int((lengths == 0).sum())}
        return tokenizer.reconstruct(self.tokenizer, tokens, offsets, provenance=about, merge=False)


def build(settings: Mapping, *, seed: int) -> NextToken:
    """A new one with random weights; settings: {"tokenizer": those of `Tokenizer`, "generator": sizes}."""
    parts = tokenizer.build(settings["tokenizer"], seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NextToken(parts, sizes=settings["generator"])


def load(path) -> tuple[NextToken, dict]:
    """The model of the checkpoint at `path`, in evaluation mode, and its card. Raises as `checkpoints.restore` does."""
    return checkpoints.restore(path, build, name="next_token")
