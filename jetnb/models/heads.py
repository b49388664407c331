"""Heads, and an encoder with a head as something to train: classes or numbers of jets.

model = Classifier(encoder, heads.linear(encoder.dim, n_classes))
logits = model(x, offsets)  # (B, C)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb.models import _packed
from jetnb.models._fast import Linear
from jetnb.models._packed import wide


def linear(dim: int, n_out: int) -> nn.Linear:
    """A linear layer: embeddings (B, dim) -> (B, n_out). Taught in notebook 08."""
    return nn.Linear(dim, n_out)


def mlp(
    dim: int, n_out: int, *, hidden: Sequence[int] = (256,), dropout: float = 0.0
) -> nn.Sequential:
    """Linear layers of widths `hidden`, each followed by ReLU and dropout, and one more: (B, dim)
    -> (B, n_out).

    Taught in notebook 10.
    """
    layers, drop = [], [nn.Dropout(dropout)] if dropout else []
    for width in hidden:
        layers += [nn.Linear(dim, width), nn.ReLU(), *drop]
        dim = width
    return nn.Sequential(*layers, nn.Linear(dim, n_out))


def projection(dim: int, hidden: int = 256, output: int = 128) -> nn.Sequential:
    """Projection head of contrastive learning: (B, dim) -> (B, output), thrown away after
    pretraining.

    arXiv:2002.05709 (section 2.1).
    """
    return mlp(dim, output, hidden=(hidden,))


class AttentionPool(nn.Module):
    """Jets from constituents that are there already, by attention with one learned query per head.

    dim: D, a multiple of n_heads. Stands in the place of an encoder where the encoder below is
    frozen, and reads what that makes of constituents. Raises `ValueError` for sizes that do not fit.
    Taught in notebook 17.

    >>> h, offsets = torch.randn(9, 32), torch.tensor([0, 5, 9])
    >>> AttentionPool(32, n_heads=4)(h, offsets)[1].shape
    torch.Size([2, 32])
    """

    def __init__(self, dim: int, *, n_heads: int = 4):
        super().__init__()
        if n_heads < 1 or dim % n_heads:
            raise ValueError(f"dim is {dim}: it must be a multiple of n_heads, {n_heads}")
        self.dim = dim
        self.query = nn.Parameter(0.02 * torch.randn(n_heads, dim // n_heads))
        self.key_value = Linear(dim, 2 * dim)

    def forward(self, h: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """h (T, D), offsets (B + 1,) -> h as it is, and jets (B, D), zeros without constituents."""
        lengths = _packed.check(h, offsets, self.dim)
        jet = _packed.jet_of(lengths, h.device)
        key, value = self.key_value(h).unflatten(1, (2, len(self.query), -1)).unbind(1)
        score = (wide(key) * self.query).sum(-1) / key.shape[-1] ** 0.5  # (T, heads)
        return h, _packed.weigh(score, value, jet, len(lengths))


class _Headed(nn.Module):
    """An encoder and a head on its vector of each jet."""

    def __init__(self, encoder: nn.Module, head: nn.Module, *, frozen: bool = False):
        super().__init__()
        first = next((layer for layer in head.modules() if isinstance(layer, nn.Linear)), None)
        dim = getattr(encoder, "dim", None)
        if first is not None and dim is not None and first.in_features != dim:
            raise ValueError(
                f"head takes {first.in_features} numbers, but the encoder gives dim = {dim} for each jet: "
                "make it with encoder.dim"
            )
        self.encoder, self.head, self.frozen = encoder, head, frozen
        self.train()

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, x: Tensor, offsets: Tensor) -> Tensor:
        """x (T, F), offsets (B+1,) -> what the head makes of each jet, (B, C) logits or (B, K)
        numbers.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            _, jets = self.encoder(x, offsets)  # (B, D)
        return self.head(jets)


class Classifier(_Headed):
    """An encoder with a head that tells classes of jets.

    encoder: x (T, F), offsets (B+1,) -> constituents (T, D), jets (B, D). head: (B, D) -> (B, C).
    frozen: keep the encoder as it is: in eval mode whatever `.train()` says, and without gradients,
    so that an optimiser leaves its parameters alone. Raises `ValueError` for a head of another
    width. Taught in notebook 08.

    >>> from jetnb.models.encoder import DeepSets
    >>> model = Classifier(DeepSets(4, dim=32), linear(32, 3), frozen=True)
    >>> model(torch.randn(9, 4), torch.tensor([0, 5, 9])).shape
    torch.Size([2, 3])
    """

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean cross-entropy in nats of a batch (x (T, F), offsets (B+1,), label (B,)), at least in
        float32.

        generator: not used, dropout draws from torch's own. Raises `ValueError` for no jets and for
        labels that are no integers from 0 to C - 1, as those of unlabelled jets.
        """
        x, offsets, label = batch
        logits = self(x, offsets)
        if label.shape != logits.shape[:1] or label.is_floating_point() or len(label) == 0:
            raise ValueError(
                f"label is {label.dtype} of shape {tuple(label.shape)}, but must be integers "
                f"({len(logits)},), one for each of one or more jets"
            )
        # A GPU would have to be waited for; there cross_entropy itself fails, with less to say.
        if label.device.type == "cpu" and (label.min() < 0 or label.max() >= logits.shape[1]):
            raise ValueError(
                f"label runs from {label.min()} to {label.max()}, but the head has {logits.shape[1]} "
                "classes, from 0: leave unlabelled jets (-1) out, or make a head for all classes"
            )
        with torch.autocast(logits.device.type, enabled=False):
            return F.cross_entropy(wide(logits), label.long())


class Regressor(_Headed):
    """An encoder with a head that tells K numbers of each jet.

    encoder, head, frozen, errors: as in `Classifier`. delta: differences beyond it count linearly,
    Huber's loss, so give targets of width about 1; None is the mean squared error.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        *,
        frozen: bool = False,
        delta: float | None = 1.0,
    ):
        super().__init__(encoder, head, frozen=frozen)
        if delta is not None and not delta > 0:
            raise ValueError(f"delta must be positive, got {delta}: None is the mean squared error")
        self.delta = delta

    def loss(self, batch: Sequence[Tensor], *, generator: torch.Generator | None = None) -> Tensor:
        """Mean loss of a batch (x (T, F), offsets (B+1,), target (B,) or (B, K)), at least in
        float32.

        generator: not used, dropout draws from torch's own. Raises `ValueError` for a target of
        another shape or no jets.
        """
        x, offsets, target = batch
        found = self(x, offsets)
        target = target[:, None] if target.ndim == 1 else target
        if target.shape != found.shape or len(target) == 0:
            raise ValueError(
                f"target has shape {tuple(target.shape)}, but the head gives {tuple(found.shape)}: both "
                "must be (B, K) with one jet or more"
            )
        with torch.autocast(found.device.type, enabled=False):
            found = wide(found)
            target = target.to(found.dtype)
            return (
                F.mse_loss(found, target)
                if self.delta is None
                else F.huber_loss(found, target, delta=self.delta)
            )
