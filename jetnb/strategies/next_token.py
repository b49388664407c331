"""Next-token prediction, OmniJet-alpha: jets become tokens, a generator learns what comes next, and
draws new jets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn

from jetnb import augment, checkpoints, packed
from jetnb.inputs import batches
from jetnb.models import sampling, tokenizer
from jetnb.models.generator import Generator
from jetnb.models.tokenizer import Tokenizer

SIZES = {"dim": 128, "n_layers": 3, "n_heads": 4}


class NextToken(nn.Module):
    """A tokenizer, which is kept as it is, and a generator of its tokens, which learns: one
    checkpoint holds both.

    tokenizer: trained. sizes: settings of `models.generator.Generator`, without n_codes. turn:
    random rotation: in training each jet is rotated about its axis by any angle, and every other
    one mirrored, before tokens are made of it, so that no jet is seen twice; a choice of ours. The
    encoder that a tagger can be made of is `generator.encoder`; it reads tokens. arXiv:2403.05618.
    Taught in notebook 05.
    """

    TITLE, SETTINGS = "next token, arXiv:2403.05618", {"codes": None, "sizes": SIZES, "turn": False}

    def __init__(self, tokenizer: Tokenizer, *, sizes: Mapping = SIZES, turn: bool = False):
        super().__init__()
        self.tokenizer, self.turn = tokenizer.requires_grad_(False), turn
        self.settings = {"tokenizer": tokenizer.settings, "generator": dict(sizes), "turn": turn}
        self.generator = Generator(tokenizer.n_codes, **sizes)
        self.codes_from: dict | None = None
        self.extras = tokenizer.extras  # of the particles that it can make tokens of

    @classmethod
    def make(cls, *, codes, sizes: Mapping, turn: bool) -> NextToken:
        """For `pretraining.pretrain`. codes: the checkpoint of the tokenizer."""
        if codes is None:
            raise ValueError(
                "settings: omnijet needs codes, the checkpoint of a tokenizer that was pretrained with "
                "'tokens'"
            )
        kept, about = tokenizer.load(codes)
        model = cls(kept, sizes=sizes, turn=turn)
        model.codes_from = {name: about[name] for name in ("strategy", "data", "jets", "trained")}
        return model

    @property
    def encoder(self) -> nn.Module:
        """What finetuning takes: it reads tokens."""
        return self.generator.encoder

    @staticmethod
    def restore(path) -> tuple[NextToken, dict]:
        """As `load`."""
        return load(path)

    def card(self) -> dict:
        """What a checkpoint says of it, for `load`."""
        return {"next_token": self.settings, "codes_from": self.codes_from}

    def tokens(self, jets: ak.Array, *, batch_size: int = 512) -> batches.Packed:
        """Tokens of N jets, as they are: `Packed(tokens (T, 1), offsets, label (N,))`.

        batch_size: jets of which they are made at a time.
        """
        tokens, offsets = tokenizer.tokenise(self.tokenizer, jets, batch_size=batch_size)
        return batches.Packed(tokens[:, None], offsets, jets.label)

    def data(self, jets: ak.Array) -> batches.Packed:
        """N jets as data for training: their tokens, or with turn their particles, see
        `tokenizer.particles`.
        """
        if not self.turn:
            return self.tokens(jets)
        return batches.Packed(*tokenizer.particles(jets, self.tokenizer.extras), jets.label)

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy of the next token, see `Generator.loss`. batch: of `data`; generator:
        draws the angles.

        Jets are rotated in training mode only.
        """
        x, offsets, *targets = batch
        if x.shape[1] > 1:  # particles, of which tokens are made as they come
            if self.turn and self.training:
                for move in (augment.rotate, augment.mirror):
                    x = torch.cat([move(x[:, :3], offsets, generator=generator)[0], x[:, 3:]], 1)
            x = self.tokenizer.encode(x, offsets, check=x.device.type == "cpu")[:, None]
        return self.generator.loss((x, offsets, *targets), generator=generator)

    def monitors(self) -> dict[str, float]:
        """Perplexities of the last batch, see `Generator.monitors`."""
        return self.generator.monitors()

    def draw(self, n_jets: int, *, seed: int, provenance: Mapping, **options) -> ak.Array:
        """New jets about the axis eta = phi = 0, at most n_jets: those whose first token is stop
        have no constituents.

        provenance: of the jets that it was trained on; what returns says that it is generated, and
        from which. Tokens that occur twice in a jet stay two constituents, so that their number is
        what was learned of stop. options: those of `sampling.generate`, such as temperature. Taught
        in notebook 05.
        """
        tokens, offsets = sampling.generate(self.generator, n_jets, seed=seed, **options)
        lengths = np.diff(offsets.numpy())
        offsets = packed.starts(lengths[lengths > 0])
        about = {
            **provenance,
            "source": "generated",
            "stamp": f"generated, learned from {provenance['sample']}",
            "empty": int((lengths == 0).sum()),
        }
        return tokenizer.reconstruct(self.tokenizer, tokens, offsets, provenance=about, merge=False)


def build(settings: Mapping, *, seed: int) -> NextToken:
    """A new one with random weights; settings: {"tokenizer": those of `Tokenizer`, "generator":
    sizes, "turn": ...}.
    """
    parts = tokenizer.build(settings["tokenizer"], seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NextToken(parts, sizes=settings["generator"], turn=settings["turn"])


def load(path) -> tuple[NextToken, dict]:
    """The model of the checkpoint at `path`, in evaluation mode, and its card. Raises as
    `checkpoints.restore` does.
    """
    return checkpoints.restore(path, build, name="next_token")
