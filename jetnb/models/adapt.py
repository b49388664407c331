"""Finetuning a part of a network: matrices of low rank on top of weights that stay as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """A weight (n, m) plus the product of (n, rank) and (rank, m), the first of which starts at
    zero.
    """

    def __init__(self, shape: tuple[int, int], rank: int, scale: float):
        super().__init__()
        self.scale, self.up = scale, nn.Parameter(torch.zeros(shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, shape[1]) / shape[1] ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * self.up @ self.down


def add_low_rank(tagger: nn.Module, *, rank: int = 4, scale: float = 1.0) -> nn.Module:
    """Freeze all of `tagger`, and let each of its linear layers learn a matrix of low rank on top:
    LoRA.

    rank: of what is added to each weight; it begins as zero, so that the tagger is at first what it
    was. scale: what is added is multiplied with. Changes the tagger in place and returns it. Raises
    `ValueError` for a rank below 1, and where it was done already. arXiv:2106.09685.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}")
    layers = [module for module in tagger.modules() if isinstance(module, nn.Linear)]
    if any(parametrize.is_parametrized(layer) for layer in layers):
        raise ValueError(
            "this tagger has matrices of low rank already: start from the one it was made of"
        )
    tagger.requires_grad_(False)
    for layer in layers:
        added = LowRank(tuple(layer.weight.shape), rank, scale).to(layer.weight.device)
        parametrize.register_parametrization(layer, "weight", added)
    return tagger
