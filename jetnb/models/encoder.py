"""Encoders: `encoder(x, offsets)` makes one vector per constituent, (T, D), and one per jet, (B, D).

Both take packed batches, so no work goes to padding in linear layers, and next to none in attention: constituents are
put in order of the length of their jet once, and attention runs on rectangles of (nearly) equal lengths.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb._devices import send
from jetnb.models import _packed
from jetnb.models._fast import Linear, drop
from jetnb.models._packed import pack, pad, select

__all__ = ["DeepSets", "Transformer", "pack", "pad", "select"]
POOLS = ("mean", "token", "attention")


class Transformer(nn.Module):
    """Pre-norm transformer on packed jets, without positions: constituents are a set.

    n_features: F of the input. dim: D, a multiple of 8 times n_heads. n_layers, n_heads: blocks and heads of each.
    expansion: width of the hidden layer of a block over D. dropout: of what each block adds.
    pool: how constituents make the vector of their jet: their "mean"; the output of a learned jet "token" that takes
    part in all layers; or "attention" with one learned query per head after the last layer.
    causal: a constituent sees those before it in its jet and itself, not those after it: then their order matters.
    step: attention rectangles are a multiple of it wide; None is 1 on a CPU, where padding costs more than calls, and
    8 elsewhere. The result does not depend on it but for rounding.

    A jet without constituents gets zeros, with the token what the token becomes alone. On a GPU the last bits can
    differ from run to run, since sums over a jet have no fixed order there. Raises `ValueError` for sizes that do not
    fit. arXiv:1706.03762, pre-norm arXiv:2002.04745. Taught in notebook 07.

    >>> x, offsets = torch.randn(9, 4), torch.tensor([0, 5, 9])
    >>> constituents, jets = Transformer(4, dim=32, n_layers=2, n_heads=4)(x, offsets)
    >>> constituents.shape, jets.shape
    (torch.Size([9, 32]), torch.Size([2, 32]))
    """

    def __init__(self, n_features: int, *, dim: int = 128, n_layers: int = 4, n_heads: int = 8, expansion: int = 4,
                 dropout: float = 0.0, pool: str = "mean", causal: bool = False, step: int | None = None):
        super().__init__()
        _positive(n_features=n_features, n_layers=n_layers, n_heads=n_heads, expansion=expansion, step=step or 1)
        if dim < 8 or dim % (8 * n_heads):
            raise ValueError(f"dim must be a multiple of 8 times n_heads, got {dim} with {n_heads} heads: the fast "
                             "kernels want heads of a multiple of 8")
        if pool not in POOLS:
            raise ValueError(f"pool {pool!r} is unknown: use one of {', '.join(POOLS)}")
        if causal and pool == "token":
            raise ValueError("pool is 'token' with causal: the token comes first and would see nothing; use 'mean'")
        self.n_features, self.dim, self.n_heads = n_features, dim, n_heads
        self.pool, self.causal, self.step = pool, causal, step
        self.embed = Linear(n_features, dim)
        self.blocks = nn.ModuleList(Block(dim, n_heads, expansion, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(dim)
        if pool == "token":
            self.token = nn.Parameter(0.02 * torch.randn(dim))
        if pool == "attention":
            self.query = nn.Parameter(0.02 * torch.randn(n_heads, dim // n_heads))
            self.key_value = Linear(dim, 2 * dim)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, F) float, offsets (B+1,) int64, best left on the CPU -> constituents (T, D), jets (B, D)."""
        lengths = _packed.check(x, offsets, self.n_features)
        step = self.step or (1 if x.device.type == "cpu" else 8)
        h = self.embed(x)  # (T, D)
        if token := self.pool == "token":
            h = torch.cat([h, self.token.to(h.dtype).expand(len(lengths), -1)])  # (T + B, D)
        plan = _packed.rectangles(lengths, step, x.device, token=token)
        h = h.index_select(0, plan.slots)  # (S, D)
        for block in self.blocks:
            h = block(h, plan, causal=self.causal)
        h = self.norm(h).index_select(0, plan.back)  # (T, D), with tokens (T + B, D)
        if token:
            return h[:len(x)], h[len(x):]
        jet = _packed.jet_of(lengths, x.device)
        if self.pool == "attention":
            return h, self._attend(h, jet, len(lengths))
        total = _packed.total(h, jet, len(lengths))
        return h, total / send(torch.from_numpy(lengths), x.device).clamp(min=1)[:, None]

    def _attend(self, h: Tensor, jet: Tensor, n_jets: int) -> Tensor:
        """Each head's mean of values (T, D), weighted by the softmax over the jet of its query times keys: (B, D)."""
        key, value = self.key_value(h).unflatten(1, (2, self.n_heads, -1)).unbind(1)  # (T, heads, D / heads)
        score = (_packed.wide(key) * self.query).sum(-1) / key.shape[-1] ** 0.5  # (T, heads)
        return _packed.weigh(score, value, jet, n_jets)


class Block(nn.Module):
    """One layer on S slots (S, D): attention within each jet, then an MLP, each added to what it was given."""

    def __init__(self, dim: int, n_heads: int, expansion: int, dropout: float):
        super().__init__()
        self.n_heads = n_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project = Linear(dim, 3 * dim), Linear(dim, dim)
        self.expand, self.contract = Linear(dim, expansion * dim), Linear(expansion * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, plan: _packed.Rectangles, *, causal: bool = False) -> Tensor:
        h = h + self.dropout(self.project(attend(self.qkv(self.attention_norm(h)), plan, self.n_heads, causal=causal)))
        return h + self.dropout(self.contract(F.gelu(self.expand(self.mlp_norm(h)))))


def attend(qkv: Tensor, plan: _packed.Rectangles, n_heads: int, *, biases: list[Tensor] | None = None,
           dropout: float = 0.0, causal: bool = False) -> Tensor:
    """Attention of all constituents of a jet to all of them: qkv (S, 3 D) -> (S, D).

    biases: for each rectangle (n, heads, L, L) what is added before the softmax, -inf for padding.
    causal: only to those before it and itself, without biases; padding comes last, so nothing real sees it.
    """
    dtype = qkv.dtype
    if qkv.device.type == "cpu":
        qkv = _packed.wide(qkv)  # backward of bf16 attention on a CPU is an order of magnitude slower than of fp32
    out = []
    with torch.autocast("cpu", enabled=False):
        # split, not slices: the backward of a slice writes zeros for all that is not in it
        for part, (n, width), bias in zip(qkv.split([n * w for n, w in plan.shapes]), plan.shapes,
                                          plan.masks if biases is None else biases, strict=True):
            q, k, v = part.view(n, width, 3, n_heads, -1).permute(2, 0, 3, 1, 4)  # (n, heads, L, D / heads) each
            if biases is None or qkv.device.type != "cpu":
                part = F.scaled_dot_product_attention(q, k, v, attn_mask=None if causal else bias, dropout_p=dropout,
                                                      is_causal=causal)
            else:  # there it has no kernel for a bias that is learned
                q, k, v = (values.reshape(n * n_heads, width, -1) for values in (q, k, v))
                score = torch.baddbmm(bias.flatten(0, 1), q, k.transpose(1, 2), alpha=q.shape[-1]**-0.5)
                part = (drop(score.softmax(-1), dropout) @ v).view(n, n_heads, width, -1)
            out.append(part.transpose(1, 2).reshape(n * width, -1))
    return torch.cat(out).to(dtype) if out else qkv.new_zeros(0, qkv.shape[1] // 3)


class DeepSets(nn.Module):
    """Deep sets: an MLP on each constituent, the sum over the jet, an MLP on that. arXiv:1703.06114, 1810.05165.

    n_features: F of the input. dim: D, a multiple of 8. n_layers: linear layers of each of the two MLPs.
    A jet without constituents is a sum of nothing: it gets what the second MLP makes of zeros.
    Raises `ValueError` for sizes that do not fit. Taught in notebook 07.
    """

    SCALE = 1 / 32  # so that the sum over a jet of usual length is of the size of one constituent

    def __init__(self, n_features: int, *, dim: int = 128, n_layers: int = 3):
        super().__init__()
        _positive(n_features=n_features, n_layers=n_layers)
        if dim < 8 or dim % 8:
            raise ValueError(f"dim must be a multiple of 8, got {dim}")
        self.n_features, self.dim = n_features, dim
        self.constituent, self.jet = _mlp(n_features, dim, n_layers), _mlp(dim, dim, n_layers)

    def forward(self, x: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """x (T, F) float, offsets (B+1,) int64, best left on the CPU -> constituents (T, D), jets (B, D)."""
        lengths = _packed.check(x, offsets, self.n_features)
        h = self.constituent(x)  # (T, D)
        return h, self.jet(self.SCALE * _packed.total(h, _packed.jet_of(lengths, x.device), len(lengths)))


def _mlp(n_in: int, dim: int, n_layers: int) -> nn.Sequential:
    layers = [layer for i in range(n_layers) for layer in (Linear(dim if i else n_in, dim), nn.GELU())]
    return nn.Sequential(*layers[:-1])


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
