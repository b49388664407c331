"""What PyTorch does slowly on a CPU, done with more of it; elsewhere each is PyTorch's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 256  # rows: oneDNN keeps something for each shape, and batches have all lengths
# PyTorch itself uses this in compiled models; where it is not built in, F.linear does all
_ONEDNN = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if torch.backends.mkldnn.is_available()
    else None
)


class Linear(nn.Linear):
    """nn.Linear by `linear`, for x (T, F)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (T, F) times weight (D, F) plus bias (D,): (T, D).

    On a CPU in float32 oneDNN does it, for `BLOCK` rows or more, with AVX-512 on all makes of CPU:
    on one of AMD a training step of the generator took a quarter less time than with F.linear.
    """
    if (
        torch.compiler.is_compiling()  # first, so that no graph depends on the number of rows
        or _ONEDNN is None
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or x.ndim != 2
        or len(x) < BLOCK
        or torch.is_autocast_enabled("cpu")
    ):
        return F.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Within the block `linear` is F.linear, whose operations PyTorch can count."""
    global _ONEDNN
    before, _ONEDNN = _ONEDNN, None
    try:
        yield
    finally:
        _ONEDNN = before


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        n, x = len(x), _whole(x)
        ctx.save_for_backward(x, weight)
        return _ONEDNN(x, weight, bias, "none", [], "")[:n]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor):
        (x, weight), (for_x, for_weight, for_bias) = ctx.saved_tensors, ctx.needs_input_grad
        n, gradient = len(gradient), _whole(gradient.contiguous())
        return (
            _ONEDNN(gradient, weight.t().contiguous(), None, "none", [], "")[:n] if for_x else None,
            _ONEDNN(gradient.t(), x.t(), None, "none", [], "") if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )


def _whole(x: Tensor) -> Tensor:
    """x with rows of zeros up to whole blocks."""
    return F.pad(x, (0, 0, 0, more)) if (more := -len(x) % BLOCK) else x


def drop(values: Tensor, p: float) -> Tensor:
    """Dropout; on a CPU with 16 random bits for each value, where PyTorch takes more than twice the
    time.
    """
    if p in (0, 1) or values.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(values, p)
    bits = (
        torch.empty(values.numel() // 4 + 1, dtype=torch.int64)
        .random_(-(2**63), None)
        .view(torch.int16)
    )
    cut = min(round(p * 2**16), 2**16 - 1)
    keep = bits[: values.numel()].view(values.shape) >= cut - 2**15
    return values * keep.to(values.dtype).mul_(2**16 / (2**16 - cut))
