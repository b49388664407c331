"""Supervised contrast: jets of one class shall be near each other, and those of others far apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import augment
from jetnb.augment import Batch
from jetnb.models import heads
from jetnb.models._packed import wide
from jetnb.models.across import gathered
from jetnb.models.particles import ENCODER, from_settings
from jetnb.strategies.contrastive import alignment, spread, uniformity
from jetnb.strategies.supervised import Labels


def sup_con(z: Tensor, label: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Supervised contrastive loss: each jet is to find all others of its class.

    z (M, D): embeddings, of any length. label (M,): integers. Similarity is the cosine over
    `temperature`. For each jet that has a partner, the mean over its partners of minus the log of
    the softmax over all other jets; then the mean over these jets. With two views of each jet and
    each jet its own class it is `contrastive.nt_xent`. At least float32, also under autocast.
    Returns the loss, a scalar. Raises ValueError for shapes that do not fit, a temperature that is
    not positive, and where no jet has a partner. Source: 2004.11362, equation 2. Taught in notebook
    14.

    >>> z = torch.eye(2).repeat(2, 1)
    >>> round(float(sup_con(z, torch.tensor([0, 1, 0, 1]), temperature=1.0)), 4)  # log(1 + 2 / e)
    0.5514
    """
    if z.ndim != 2 or label.shape != (len(z),) or not temperature > 0:
        raise ValueError(
            f"z has shape {tuple(z.shape)}, label {tuple(label.shape)}, temperature is {temperature}: they "
            "must be (M, D) and (M,), one label for each row, and positive"
        )
    same = (label[:, None] == label).fill_diagonal_(False)  # (M, M)
    partners = same.sum(1)
    has = partners > 0
    if z.device.type == "cpu" and not has.any():
        raise ValueError(
            f"none of {len(z)} jets has another of its class: take more jets, or two views of each"
        )
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(wide(z), dim=1)
        score = z @ z.T / temperature
        rest = score.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -math.inf)
        found = (score * same).sum(1) / partners.clamp(min=1)
        return ((rest.logsumexp(1) - found) * has).sum() / has.sum()


class SupervisedContrast(nn.Module):
    """Contrastive pretraining of an encoder with labels: views of all jets of a class belong
    together.

    encoder, views: as for `contrastive.JetCLR`; its jets vector is the representation that is kept.
    labels: see `supervised.Labels`; a jet with label -1 belongs to its own other view alone, so
    jets without labels may be among the others. hidden, output: widths of the projection head,
    which serves the loss only. arXiv:2004.11362, for jets 2511.12829.
    """

    TITLE = "supervised contrast, arXiv:2004.11362"
    SETTINGS = {
        "encoder": ENCODER,
        "views": {"scale": 0.1, "width": 0.1, "n_max": 50},
        "hardest": 40,
        "temperature": 0.1,
        "label": "label",
        "n_classes": 10,
    }

    def __init__(
        self,
        encoder: nn.Module,
        labels: Labels,
        *,
        hidden: int = 256,
        output: int = 128,
        temperature: float = 0.1,
        views: Callable[..., tuple[Batch, Batch]] = augment.views,
    ):
        super().__init__()
        self.encoder, self.labels, self.jet_fields = encoder, labels, labels.jet_fields
        self.views, self.temperature = views, temperature
        self.head = heads.projection(encoder.dim, hidden, output)
        self._last: tuple[Tensor, ...] | None = None

    @classmethod
    def make(
        cls,
        *,
        encoder: Mapping,
        views: Mapping,
        hardest: int | None,
        temperature: float,
        label: str,
        n_classes: int | None,
    ) -> SupervisedContrast:
        """For `pretraining.pretrain`: a transformer of particles; views: settings of
        `augment.views`.
        """
        model = cls(
            from_settings(encoder),
            Labels(label, n_classes),
            temperature=temperature,
            views=partial(augment.views, **views),
        )
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> SupervisedContrast:
        """Set the scaling of the encoder's inputs to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        return self

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Contrastive loss of a batch, a scalar: particles (T, 3), offsets, and the targets that
        are named in `jet_fields`.

        generator draws the views; None is torch's global one. Raises ValueError for one jet, which
        has nothing to be told from, and as `sup_con`.
        """
        x, offsets, *targets = batch
        label = gathered(self.labels(targets))  # of all processes
        if len(label) == 1:
            raise ValueError(
                "batch has one jet, and a contrastive loss needs others to tell it from: take more jets, or "
                "a larger batch_size"
            )
        # Below zero, each unlabelled jet has a class of its own.
        alone = -1 - torch.arange(len(label), device=label.device)
        label = torch.where(label < 0, alone, label)
        (one, start), (two, end) = self.views(x, offsets, generator=generator)
        offsets = torch.cat([start, start[-1] + end[1:]])
        _, jets = self.encoder(torch.cat([one, two]), offsets)  # (2 B, D): both views in one pass
        z = self.head(jets)
        self._last = jets.detach(), z.detach()
        z = torch.cat([gathered(one) for one in z.chunk(2)])
        return sup_con(z, label.repeat(2), temperature=self.temperature)

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says about alignment of the two views and collapse, as
        `contrastive.JetCLR.monitors`.

        Uniformity can come no nearer to its bound than classes allow. Raises RuntimeError before the
        first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets, z = self._last
        z1, z2 = z.chunk(2)
        return {
            "alignment": float(alignment(z1, z2)),
            "uniformity": float(uniformity(z1)),
            **spread(jets[: len(z1)]),
        }
