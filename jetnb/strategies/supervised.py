"""Supervised pretraining: an encoder learns to tell the classes of a labelled sample, coarse or fine.

Also the way from a public Particle Transformer or Sophon, which were pretrained so, to an encoder
that finetuning takes as it takes ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb.inputs.batches import Packed
from jetnb.jets import fine
from jetnb.models import heads, particle_transformer
from jetnb.models._packed import wide
from jetnb.models.particle_transformer import ParticleTransformer
from jetnb.models.particles import ENCODER, from_settings
from jetnb.strategies.contrastive import spread

FINE_GRAINED = "fine_grained"
INPUTS = {
    len(names): names
    for names in (
        particle_transformer.FULL,
        particle_transformer.KINPID,
        particle_transformer.KIN,
    )
}
SOPHON = 188  # classes, of JetClass-II, by which its files are known
SOPHON_PT = 500.0  # GeV that it has all jets scaled to


class Labels(nn.Module):
    """From what a batch has after its offsets to the class of each jet.

    label: "label", the class of the sample; the name of another field of whole numbers from 0; or
    "fine_grained", made of the simulation's truth as by `jetnb.jets.fine.refine`, for samples with
    the ten classes of JetClass. n_classes: None is as many as there are fine ones, else it must be
    given. balance: how much rare classes count more: each jet by its class' share of the training
    jets to the power of minus `balance`; 0 is all jets the same, 1 all classes the same. Raises
    `ValueError` for arguments that do not fit.
    """

    def __init__(self, label: str, n_classes: int | None, balance: float = 0.0):
        super().__init__()
        if label == FINE_GRAINED:
            n_classes = len(fine.CLASSES)
        if n_classes is None or n_classes < 2:
            raise ValueError(f"n_classes is {n_classes}: give the number of classes, 2 or more")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is {balance}: it must be from 0, all jets the same, to 1")
        self.label, self.n_classes, self.balance = label, n_classes, balance
        self.jet_fields = fine.NEEDS if label == FINE_GRAINED else (label,)
        if label == FINE_GRAINED:
            table = torch.from_numpy(fine.table(fine.JETCLASS))
            self.register_buffer("table", table, persistent=False)
        self.register_buffer("weights", torch.ones(n_classes), persistent=False)

    def forward(self, targets: Sequence[Tensor]) -> Tensor:
        """Class (B,) of each jet, from the targets of a batch. Raises `ValueError` where there are
        too few of them.
        """
        if len(targets) < len(self.jet_fields):
            raise ValueError(
                f"a batch has {len(targets)} targets, but {self.label!r} needs {', '.join(self.jet_fields)}: "
                "make the data by pretraining.data_of"
            )
        if self.label != FINE_GRAINED:
            return targets[0]
        return self.table[fine.index(*targets[: len(self.jet_fields)])]

    def fit(self, data) -> None:
        """Set the weight of each class by how often training jets have it: 1 in the mean of jets."""
        found = self(tuple(torch.as_tensor(one) for one in data.targets))
        counts = torch.bincount(found[found >= 0], minlength=self.n_classes)[: self.n_classes]
        weights = counts.clamp(min=1).double() ** -self.balance
        self.weights.copy_(weights * counts.sum() / (counts * weights).sum())

    def cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        """Of each jet (B,), in nats, at least in float32, with the weight of its class.

        Raises `ValueError` for no jets, and for labels that are no integers from 0 to n_classes - 1.
        """
        if label.shape != logits.shape[:1] or label.is_floating_point() or len(label) == 0:
            raise ValueError(
                f"{self.label} is {label.dtype} of shape {tuple(label.shape)}, but must be integers "
                f"({len(logits)},), one for each of one or more jets"
            )
        # A GPU would have to be waited for; there cross_entropy itself fails, with less to say.
        if label.device.type == "cpu" and (label.min() < 0 or label.max() >= self.n_classes):
            raise ValueError(
                f"{self.label} runs from {label.min()} to {label.max()}, but there are {self.n_classes} "
                "classes, from 0: leave unlabelled jets (-1) out, or set n_classes"
            )
        with torch.autocast(logits.device.type, enabled=False):
            label = label.long()
            return F.cross_entropy(wide(logits), label, reduction="none") * self.weights[label]


class Supervised(heads.Classifier):
    """An encoder of particles that learns to tell the classes of its sample.

    extras: features that the encoder reads besides kinematics. label, n_classes, balance: see
    `Labels`. arXiv:2202.03772 (section 5.3), fine classes
    arXiv:2405.12972, weights by frequency arXiv:2510.24066. Taught in notebook 14.
    """

    TITLE = "supervised, classes of the sample, arXiv:2202.03772"
    SETTINGS = {
        "encoder": ENCODER,
        "extras": [],
        "hardest": 40,
        "label": "label",
        "n_classes": 10,
        "balance": 0.0,
    }

    def __init__(self, encoder: nn.Module, head: nn.Module, labels: Labels):
        super().__init__(encoder, head)
        self.labels, self.jet_fields = labels, labels.jet_fields
        self.extras = tuple(getattr(encoder, "extras", ()))
        self._last: tuple[Tensor, ...] | None = None

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        extras: Sequence[str] = (),
        hardest: int | None,
        n_classes: int | None = None,
        label: str = "label",
        balance: float = 0.0,
    ) -> Supervised:
        """For `pretraining.pretrain`: a transformer of particles and a linear head."""
        body = from_settings(encoder, extras=extras)
        labels = Labels(label, n_classes, balance)
        model = cls(body, heads.linear(body.dim, labels.n_classes), labels)
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> Supervised:
        """Set the scaling of the encoder's inputs and the weights of classes to training jets;
        returns self.
        """
        self.encoder.fit(data.x, data.offsets)
        self.labels.fit(data)
        return self

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy in nats of a batch: particles, offsets, and the targets that are named
        in `jet_fields`.

        generator: not used, dropout draws from torch's own. Raises `ValueError` as
        `Labels.cross_entropy`.
        """
        x, offsets, *targets = batch
        label = self.labels(targets)
        _, jets = self.encoder(x, offsets)  # (B, D)
        logits = self.head(jets)
        self._last = jets.detach(), logits.detach(), label
        return self.labels.cross_entropy(logits, label).mean()

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says: `accuracy`, and of the vectors of jets `rank` and
        `variance` (mean over dimensions), see `contrastive.embedding_rank`.

        Collapse is a rank or a variance near 0. Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets, logits, label = self._last
        return {"accuracy": float((logits.argmax(1) == label).double().mean()), **spread(jets)}


def load_public(source: str | Path | Mapping[str, Tensor]) -> tuple[ParticleTransformer, dict]:
    """The encoder of a public Particle Transformer or Sophon, in evaluation mode, and a card, as
    `pretraining.load` gives those of a checkpoint of ours.

    source: as for `particle_transformer.load_public`, which also gives the head. The card says
    "features", the inputs that it wants, and "jet_pt", GeV that jets are scaled to, or None:
    `public_data` makes them. `build_public(card, seed=...)` is the same network with random
    weights. Raises as `particle_transformer.load_public`, and `ValueError` for a number of inputs
    that no public model has. arXiv:2202.03772, 2405.12972.
    """
    encoder, head = particle_transformer.load_public(source)
    if encoder.n_features not in INPUTS:
        raise ValueError(
            f"these weights take {encoder.n_features} features, but the public models take "
            f"{', '.join(map(str, INPUTS))}: use models.particle_transformer with features of your own"
        )
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)] if head else []
    n_classes = layers[-1].out_features if layers else None
    sophon = n_classes == SOPHON
    card = {
        "strategy": "Sophon, arXiv:2405.12972"
        if sophon
        else "Particle Transformer, arXiv:2202.03772",
        "pretrained_by": "load_public",
        "features": list(INPUTS[encoder.n_features]),
        "jet_pt": SOPHON_PT if sophon else None,
        "n_classes": n_classes,
        "encoder": _sizes(encoder),
    }
    return encoder.eval(), card


def build_public(card: Mapping, *, seed: int) -> ParticleTransformer:
    """The network of a card of `load_public` with random weights: what a training from scratch
    starts with.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ParticleTransformer(**card["encoder"])


def public_data(jets: ak.Array, card: Mapping) -> Packed:
    """N jets as data for a network of `load_public`: `Packed(x (T, F + 4), offsets, label (N,))`.

    Raises `ValueError` for jets that lack a field of the features of the card: those without types
    or tracks are for the models "kin" and "kinpid".
    """
    found = particle_transformer.inputs(jets, card["features"], jet_pt=card["jet_pt"])
    return Packed(*found, *([np.asarray(jets.label)] if "label" in jets.fields else []))


def _sizes(encoder: ParticleTransformer) -> dict:
    """The arguments that make a network of the same shape."""
    linear = [one for one in encoder.embed.embed if isinstance(one, nn.Linear)]
    block = encoder.blocks[0]
    pairs = [
        value.shape[0]
        for name, value in encoder.pair_embed.state_dict().items()
        if name.startswith("embed.") and value.ndim == 3
    ]
    return {
        "n_features": encoder.n_features,
        "embed_dims": [one.out_features for one in linear],
        "pair_dims": pairs[:-1],
        "n_layers": len(encoder.blocks),
        "n_class_layers": len(encoder.cls_blocks),
        "n_heads": block.n_heads,
        "expansion": block.fc1.out_features // encoder.dim,
    }
