"""Contrastive pretraining: two views of one jet shall be near each other, and views of different
jets far apart.

The loss of SimCLR, the two numbers that say what it reaches (alignment and uniformity), a monitor
of collapse, and JetCLR, which puts them together with the symmetries of `jetnb.augment`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
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


def nt_xent(
    z1: Tensor, z2: Tensor, *, temperature: float = 0.1, chunk: int | None = None
) -> Tensor:
    """Contrastive loss of SimCLR between two views of the same jets: a classification of each
    view's partner.

    `z1`, `z2` (B, D): embeddings, of any length, row b of both from jet b. Similarity is the cosine
    over `temperature`, the candidates are the 2 B - 1 other views, the mean is over all 2 B. At
    least float32, also under autocast. With `chunk` so many rows of similarities are held at a
    time: memory grows with B and not with its square, the value is the same up to rounding, and the
    gradient can be taken once. Returns the loss, a scalar. Raises ValueError for shapes that
    differ, no jets, or a temperature or chunk that is not positive. Source: 2002.05709, equation 1;
    the temperature is that of 2108.04253. Taught in notebook 07.

    >>> z = torch.eye(2)
    >>> round(float(nt_xent(z, z, temperature=1.0)), 4)  # log(1 + 2 / e)
    0.5514
    """
    _same_shape(z1, z2)
    if not temperature > 0 or (chunk is not None and chunk < 1):
        raise ValueError(
            f"temperature and chunk must be positive, got {temperature} and {chunk}: e.g. 0.1 and 1024"
        )
    with torch.autocast(z1.device.type, enabled=False):
        z1, z2 = _unit(z1), _unit(z2)
        z = torch.cat([z1, z2])  # (2 B, D)
        if chunk is None:
            others = (z / temperature @ z.T).fill_diagonal_(-math.inf).logsumexp(1).mean()
        else:
            others = _ChunkedLogSumExp.apply(z, temperature, chunk)
        return others - (z1 * z2).sum(1).mean() / temperature


def alignment(z1: Tensor, z2: Tensor, *, alpha: float = 2.0) -> Tensor:
    """How far apart the two views of a jet are on the unit sphere: 0 where all agree, 4 where they
    are opposite.

    `z1`, `z2` (B, D): embeddings of any length. Returns the mean of the distance to the power
    `alpha`, a scalar. Raises ValueError for shapes that differ or no jets. Source: 2005.10242,
    section 4.1.
    """
    _same_shape(z1, z2)
    with torch.autocast(z1.device.type, enabled=False):
        return (_unit(z1) - _unit(z2)).norm(dim=1).pow(alpha).mean()


def uniformity(z: Tensor, *, t: float = 2.0) -> Tensor:
    """How evenly embeddings fill the unit sphere: 0 where all are in one point, -2 t where all
    pairs are at 90 degrees.

    `z` (B, D): embeddings of any length. Returns the log of the mean of exp(-t x distance squared)
    over all pairs of different jets, a scalar. Raises ValueError for fewer than two jets. Source:
    2005.10242, section 4.1.
    """
    n = len(z)
    if z.ndim != 2 or n < 2:
        raise ValueError(f"z has shape {tuple(z.shape)}, but must be (B, D) with two jets or more")
    with torch.autocast(z.device.type, enabled=False):
        z = _unit(z)
        # Of unit vectors: distance squared is 2 - 2 cos.
        pairs = (2 * t * (z @ z.T - 1)).fill_diagonal_(-math.inf)
        return pairs.flatten().logsumexp(0) - math.log(n * (n - 1))


@torch.no_grad()
def embedding_rank(z: Tensor) -> Tensor:
    """Over how many directions embeddings spread: 1 where they collapsed to a line, at most min(B,
    D).

    `z` (B, D). Returns the exponential of the entropy of the singular values of `z` less its mean,
    a scalar; 0 where all are equal up to rounding. Source: RankMe, 2210.02885, equation 1, there
    without taking the mean off. Taught in notebook 07.
    """
    rounding, z = 4 * torch.finfo(z.dtype).eps, z.double()
    centred = z - z.mean(0)
    if centred.norm() <= rounding * z.norm():
        return centred.new_zeros(())
    values = torch.linalg.svdvals(centred)
    return torch.special.entr(values / values.sum()).sum().exp()


def spread(jets: Tensor) -> dict[str, float]:
    """`rank` and `variance` of vectors of jets (B, D), by which a collapse is seen."""
    return {
        "rank": float(embedding_rank(jets)),
        "variance": float(jets.double().var(0, correction=0).mean()),
    }


class JetCLR(nn.Module):
    """Contrastive pretraining of an encoder with the symmetries of jets.

    `encoder(particles (T, 3), offsets (B + 1,))` returns (constituents (T, D), jets (B, D)), as
    that of `jetnb.models.particles.FromParticles`; its jets vector is the representation that is
    kept. `dim`: D, that of the encoder unless given. `hidden` and `output`: widths of the
    projection head, which serves the loss only. `views(particles, offsets, generator=)` returns two
    batches; others than the default leave symmetries out. `temperature` and `chunk` are those of
    `nt_xent`. Source: 2108.04253, for whose settings D = hidden = output = 1000. Taught in notebook
    07.
    """

    TITLE = "JetCLR, arXiv:2108.04253"
    SETTINGS = {
        "encoder": ENCODER,
        "views": {"scale": 0.1, "width": 0.1, "n_max": 50},
        "hardest": 40,
        "temperature": 0.1,
    }

    def __init__(
        self,
        encoder: nn.Module,
        *,
        dim: int | None = None,
        hidden: int = 256,
        output: int = 128,
        temperature: float = 0.1,
        chunk: int | None = 1024,
        views: Callable[..., tuple[Batch, Batch]] = augment.views,
    ):
        super().__init__()
        self.encoder, self.views = encoder, views
        self.temperature, self.chunk = temperature, chunk
        self.head = heads.projection(dim or encoder.dim, hidden, output)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def make(
        cls, *, encoder: Mapping, views: Mapping, hardest: int | None, temperature: float
    ) -> JetCLR:
        """For `pretraining.pretrain`: a transformer of particles; views: settings of
        `augment.views`.
        """
        model = cls(
            from_settings(encoder),
            temperature=temperature,
            views=partial(augment.views, **views),
        )
        model.hardest = hardest
        return model

    def fit(self, data, *, seed: int) -> JetCLR:
        """Set the scaling of the encoder's inputs to training jets; returns self."""
        self.encoder.fit(data.x, data.offsets)
        return self

    def loss(
        self, batch: tuple[Tensor, ...], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Contrastive loss of a batch, a scalar.

        `batch`: particles (T, 3) of pt [GeV], deta, dphi [rad], and offsets (B + 1,), as in
        `jetnb.augment`; targets after them are not looked at. `generator` draws the views; None is
        torch's global one, from which dropout draws too. In a training with several processes all
        must call it at once, each with its share: it is the loss of the whole batch, in each. Raises
        ValueError for a malformed or an empty batch, and for one jet, which has nothing to be told
        from: its loss is 0 whatever the weights. Taught in notebook 07.
        """
        particles, offsets, *_ = batch
        (one, start), (two, end) = self.views(particles, offsets, generator=generator)
        offsets = torch.cat([start, start[-1] + end[1:]])
        _, jets = self.encoder(torch.cat([one, two]), offsets)  # (2 B, D): both views in one pass
        z1, z2 = self.head(jets).chunk(2)
        self._last = jets.detach(), z1.detach(), z2.detach()
        z1, z2 = gathered(z1), gathered(z2)
        if len(z1) == 1:
            raise ValueError(
                "batch has one jet, and a contrastive loss needs others to tell it from: take more jets, or "
                "a larger batch_size"
            )
        return nt_xent(z1, z2, temperature=self.temperature, chunk=self.chunk)

    def monitors(self) -> dict[str, float]:
        """What the last batch of `loss` says about alignment and collapse; nothing is computed
        before this is called.

        Returns `alignment` and `uniformity` of the projections, `rank` and `variance` (mean over
        dimensions) of the first views' representation. Collapse is a uniformity near 0, a rank near
        1 or a variance near 0. Raises RuntimeError before the first loss.
        """
        if self._last is None:
            raise RuntimeError("there is no batch to look at: call loss(batch) first")
        jets, z1, z2 = self._last
        jets = jets[: len(z1)]
        return {
            "alignment": float(alignment(z1, z2)),
            "uniformity": float(uniformity(z1)),
            **spread(jets),
        }


class _ChunkedLogSumExp(torch.autograd.Function):
    """Mean over rows of the log-sum-exp of their similarities to all others; its gradient is made
    on the way.
    """

    @staticmethod
    def forward(ctx, z: Tensor, temperature: float, chunk: int) -> Tensor:
        total, gradient = z.new_zeros(()), torch.zeros_like(z)
        for start in range(0, len(z), chunk):
            rows = z[start : start + chunk]
            similarity = rows / temperature @ z.T  # (chunk, 2 B)
            similarity.diagonal(start).fill_(-math.inf)
            sums = similarity.logsumexp(1, keepdim=True)
            total += sums.sum()
            if ctx.needs_input_grad[0]:
                share = (similarity - sums).exp_()
                gradient[start : start + chunk] += share @ z
                gradient.addmm_(share.T, rows)
        ctx.save_for_backward(gradient.div_(temperature * len(z)))
        return total / len(z)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, out: Tensor):
        return out * ctx.saved_tensors[0], None, None


def _unit(z: Tensor) -> Tensor:
    return F.normalize(wide(z), dim=1)


def _same_shape(z1: Tensor, z2: Tensor) -> None:
    if z1.ndim != 2 or z1.shape != z2.shape or len(z1) == 0:
        raise ValueError(
            f"z1 and z2 have the shapes {tuple(z1.shape)} and {tuple(z2.shape)}, but must both be (B, D) "
            "with one jet or more: row b of both is jet b"
        )
