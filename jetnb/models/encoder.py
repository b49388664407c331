"""Encoders: `encoder(x, offsets)` makes one vector per constituent, (T, D), and one per jet, (B,
D).

Both take packed batches, so no work goes to padding in linear layers, and next to none in
attention: jets are put in length buckets once, and attention runs on each bucket, or, where there
are kernels for it, on jets of all lengths as they lie.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb.models import _packed
from jetnb.models._attention import Plan, arrange, attend, check_heads, plan, restore
from jetnb.models._fast import Linear
from jetnb.models._packed import pack, pad, select
from jetnb.models._regions import Regions

__all__ = ["DeepSets", "Transformer", "pack", "pad", "select"]
POOLS = ("mean", "pt", "token", "attention")


class Transformer(nn.Module):
    """Pre-norm transformer on packed jets, without positions: constituents are a set.

    n_features: F of the input. dim: D, a multiple of 8 times n_heads. n_layers, n_heads: blocks and
    heads of each. expansion: width of the hidden layer of a block over D. dropout: of what each
    block adds. pool: how constituents make the vector of their jet: their "mean"; their mean
    weighted by "pt", so that a soft one counts little and two halves as much as the whole; the
    output of a learned jet "token" that takes part in all layers; or "attention" with one learned
    query per head after the last layer. causal: a constituent sees those before it in its jet and
    itself, not those after it: then their order matters. step: length buckets are a multiple of it
    wide; None is 1 on a CPU, where padding costs more than calls, and 8 elsewhere. kernel: of
    attention, see `_attention`. The result does not depend on either but for rounding.

    A jet without constituents gets zeros, with the token what the token becomes alone. On a GPU the
    last bits can differ from run to run, since sums over a jet have no fixed order there. Raises
    `ValueError` for sizes that do not fit. arXiv:1706.03762, pre-norm arXiv:2002.04745. Taught in
    notebook 08.

    >>> x, offsets = torch.randn(9, 4), torch.tensor([0, 5, 9])
    >>> constituents, jets = Transformer(4, dim=32, n_layers=2, n_heads=4)(x, offsets)
    >>> constituents.shape, jets.shape
    (torch.Size([9, 32]), torch.Size([2, 32]))
    """

    def __init__(
        self,
        n_features: int,
        *,
        dim: int = 128,
        n_layers: int = 4,
        n_heads: int = 8,
        expansion: int = 4,
        dropout: float = 0.0,
        pool: str = "mean",
        causal: bool = False,
        step: int | None = None,
        kernel: str = "auto",
    ):
        super().__init__()
        sizes = {"n_features": n_features, "n_layers": n_layers, "n_heads": n_heads}
        at_least(1, **sizes, expansion=expansion, step=step or 1)
        check_heads(dim, n_heads)
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is unknown: use one of {', '.join(POOLS)}")
        if causal and pool == "token":
            raise ValueError(
                "pool is 'token' with causal: the token comes first and would see nothing; use 'mean'"
            )
        self.n_features, self.dim, self.n_heads = n_features, dim, n_heads
        self.pool, self.causal, self.step, self.kernel = pool, causal, step, kernel
        self.embed = Linear(n_features, dim)
        self.blocks = nn.ModuleList(
            Block(dim, n_heads, expansion, dropout) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(dim)
        if pool == "token":
            self.token = nn.Parameter(0.02 * torch.randn(dim))
        if pool == "attention":
            self.query = nn.Parameter(0.02 * torch.randn(n_heads, dim // n_heads))
            self.key_value = Linear(dim, 2 * dim)

    def forward(
        self, x: Tensor, offsets: Tensor, *, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """x (T, F) float, offsets (B+1,) int64, best left on the CPU -> constituents (T, D), jets
        (B, D).

        weight: (T,) pt of the constituents, in any unit, which `pool="pt"` needs and no other pool
        takes.
        """
        if (weight is None) == (self.pool == "pt"):
            raise ValueError(
                f"pool is {self.pool!r} and weight is {None if weight is None else 'given'}: pool 'pt' "
                "needs the pt of each constituent, as models.particles.FromParticles gives it, and no "
                "other pool takes it"
            )
        lengths = _packed.check(x, offsets, self.n_features)
        h = self.embed(x)  # (T, D)
        if token := self.pool == "token":
            h = torch.cat([h, self.token.to(h.dtype).expand(len(lengths), -1)])  # (T + B, D)
        cut = plan(
            lengths, h, n_heads=self.n_heads, token=token, step=self.step, kernel=self.kernel
        )
        h = arrange(h, cut)  # (S, D)
        for block in self.blocks:
            h = block(h, cut, causal=self.causal)
        h = restore(self.norm(h), cut)  # (T, D), with tokens (T + B, D)
        if token:
            return h[: len(x)], h[len(x) :]
        if self.pool == "mean":
            return h, _packed.mean(h, lengths)
        jet = _packed.jet_of(lengths, x.device)
        if self.pool == "attention":
            return h, self._attend(h, jet, len(lengths))
        weight = _packed.wide(weight)[:, None]  # (T, 1)
        whole = _packed.total(weight, jet, len(lengths))  # (B, 1), zero without constituents
        return h, _packed.total(weight * h, jet, len(lengths)) / whole.where(whole > 0, 1)

    def _attend(self, h: Tensor, jet: Tensor, n_jets: int) -> Tensor:
        """Each head's mean of values (T, D), weighted by the softmax over the jet of its query
        times keys: (B, D).
        """
        # (T, heads, D / heads).
        key, value = self.key_value(h).unflatten(1, (2, self.n_heads, -1)).unbind(1)
        score = (_packed.wide(key) * self.query).sum(-1) / key.shape[-1] ** 0.5  # (T, heads)
        return _packed.weigh(score, value, jet, n_jets)


class Block(Regions):
    """One layer on S slots (S, D): attention within each jet, then an MLP, each added to what it
    was given.
    """

    def __init__(self, dim: int, n_heads: int, expansion: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project = Linear(dim, 3 * dim), Linear(dim, dim)
        self.expand, self.contract = Linear(dim, expansion * dim), Linear(expansion * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, plan: Plan, *, causal: bool = False) -> Tensor:
        attended = attend(self.region(Block.before, h), plan, self.n_heads, causal=causal)
        return self.region(Block.after, h, attended)

    def before(self, h: Tensor) -> Tensor:
        """Queries, keys and values (S, 3 D) of h (S, D)."""
        return self.qkv(self.attention_norm(h))

    def after(self, h: Tensor, attended: Tensor) -> Tensor:
        """What the block makes of h (S, D) and what attention found for it (S, D): (S, D)."""
        h = h + self.dropout(self.project(attended))
        return h + self.dropout(self.contract(F.gelu(self.expand(self.mlp_norm(h)))))


class DeepSets(Regions):
    """Deep sets: an MLP on each constituent, the sum over the jet, an MLP on that.
    arXiv:1703.06114, 1810.05165.

    n_features: F of the input. dim: D, a multiple of 8. n_layers: linear layers of each of the two
    MLPs. A jet without constituents is a sum of nothing: it gets what the second MLP makes of
    zeros. Raises `ValueError` for sizes that do not fit. Taught in notebook 10.
    """

    SCALE = 1 / 32  # so that the sum over a jet of usual length is of the size of one constituent

    def __init__(self, n_features: int, *, dim: int = 128, n_layers: int = 3):
        super().__init__()
        at_least(1, n_features=n_features, n_layers=n_layers)
        if dim < 8 or dim % 8:
            raise ValueError(f"dim must be a multiple of 8, got {dim}")
        self.n_features, self.dim = n_features, dim
        self.constituent, self.jet = _mlp(n_features, dim, n_layers), _mlp(dim, dim, n_layers)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, F) float, offsets (B+1,) int64, best left on the CPU -> constituents (T, D), jets
        (B, D).
        """
        lengths = _packed.check(x, offsets, self.n_features)
        h = self.region(DeepSets._each, x)  # (T, D)
        return h, self.jet(
            self.SCALE * _packed.total(h, _packed.jet_of(lengths, x.device), len(lengths))
        )

    def _each(self, x: Tensor) -> Tensor:
        return self.constituent(x)


def _mlp(n_in: int, dim: int, n_layers: int) -> nn.Sequential:
    layers = [
        layer for i in range(n_layers) for layer in (Linear(dim if i else n_in, dim), nn.GELU())
    ]
    return nn.Sequential(*layers[:-1])


def at_least(least: int, **sizes: int) -> None:
    """Raise `ValueError` for the first of the sizes that is smaller."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")
