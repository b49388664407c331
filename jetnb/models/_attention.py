"""Attention within the jets of a packed batch, by one of several kernels, all of which give the
same up to rounding.

"buckets": jets in length buckets, for PyTorch's attention of equal lengths; everywhere.
"efficient": the memory-efficient kernel, on a GPU in half precision or float32: jets stay where
they are. "varlen": the same with `torch.nn.attention.varlen`, on a GPU in half precision, from
torch 2.10. "auto": the first of efficient, varlen and buckets that is there, tried once; biases of
pairs need buckets.

On an H200 a training step of a transformer of 2 million weights made, in bfloat16, 25 000 jets/s
with efficient, 19 000 with varlen and 8 500 with buckets; 22 000 and 8 700 in float32. With
biases, 12 000 in buckets whose widths are multiples of 32 and 7 000 with those of 8: many small
buckets are many small kernels.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jetnb import packed
from jetnb.hardware import send
from jetnb.models import _packed
from jetnb.models._fast import drop

KERNELS = ("auto", "buckets", "efficient", "varlen")
HALF = (torch.float16, torch.bfloat16)
WIDEST = 256  # numbers of each head that the kernels of variable length can take


class Sequences(NamedTuple):
    """Jets one after the other, as they lie in the batch, or each after its token."""

    slots: Tensor | None  # (S,) the row in each slot; None where rows are where they were
    back: Tensor | None  # (S,) the slot of each row
    bounds: Tensor  # int32, where each jet that is not empty begins, and the end
    longest: int
    kernel: str


Plan = _packed.LengthBuckets | Sequences


def check_heads(dim: int, n_heads: int, name: str = "dim") -> None:
    """Raise `ValueError` where rows of `dim` numbers cannot be divided among the heads."""
    if dim < 8 or dim % (8 * n_heads):
        raise ValueError(
            f"{name} must be a multiple of 8 times n_heads, got {dim} with {n_heads} heads: the fast "
            "kernels want heads of a multiple of 8"
        )


def plan(
    lengths: np.ndarray,
    h: Tensor,
    *,
    n_heads: int,
    token: bool = False,
    step: int | None = None,
    kernel: str = "auto",
    biased: bool = False,
) -> Plan:
    """How to work on jets of lengths (B,) with rows h (T, D); with `token` (T + B, D), as in
    `_packed.length_buckets`.

    biased: whether attention is to be given biases of pairs, which only buckets take.
    """
    if biased:
        kernel = "buckets"
    elif kernel == "auto":
        kernel = best(h, h.shape[1] // n_heads)
    if kernel == "buckets":
        step = step or (1 if h.device.type == "cpu" else 32 if biased else 8)
        return _packed.length_buckets(lengths, step, h.device, token=token)
    sizes, slots, back = lengths + token, None, None
    if token:
        first = packed.starts(sizes)[:-1]
        order = np.concatenate([packed.rows(first + 1, lengths), first])
        slots, back = (
            send(torch.from_numpy(rows), h.device) for rows in (_packed.inverse(order), order)
        )
    sizes = sizes[sizes > 0]
    bounds = send(torch.from_numpy(packed.starts(sizes).astype(np.int32)), h.device)
    return Sequences(slots, back, bounds, int(sizes.max(initial=0)), kernel)


def best(h: Tensor, width: int) -> str:
    """The kernel for rows h (S, D) with heads of `width` numbers."""
    if h.device.type != "cuda" or width > WIDEST:
        return "buckets"
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else h.dtype
    kernels = (
        ("efficient", "varlen")
        if dtype in HALF
        else ("efficient",)
        if dtype == torch.float32
        else ()
    )
    return next((name for name in kernels if _works(name, h.device, dtype, width)), "buckets")


@functools.cache
def _works(kernel: str, device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether a kernel does its work, and the gradient of it, on this device with this torch; warns
    where not.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        qkv = torch.ones(3, 6 * width, dtype=dtype, device=device, requires_grad=True)
        bounds = send(torch.tensor([0, 1, 3], dtype=torch.int32), device)
        try:
            for causal in (False, True):
                attend(
                    qkv, Sequences(None, None, bounds, 2, kernel), 2, causal=causal
                ).sum().backward()
        except (
            RuntimeError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:  # also NotImplementedError
            warnings.warn(
                f"attention goes without the kernel {kernel!r}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
    return True


def choose(model: nn.Module, kernel: str) -> int:
    """Let all parts of `model` that attend use `kernel`, one of `KERNELS`; returns how many there
    are.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel {kernel!r} is unknown: use one of {', '.join(KERNELS)}")
    parts = [module for module in model.modules() if hasattr(module, "kernel")]
    for part in parts:
        part.kernel = kernel
    return len(parts)


def arrange(h: Tensor, plan: Plan) -> Tensor:
    """Rows in the order in which they are worked on, in float32 under autocast, as sums of many
    layers should be.
    """
    if torch.is_autocast_enabled(h.device.type):
        h = _packed.wide(h)
    return h if plan.slots is None else h.index_select(0, plan.slots)


def restore(h: Tensor, plan: Plan) -> Tensor:
    """Rows in the order of the batch."""
    return h if plan.back is None else h.index_select(0, plan.back)


def attend(
    qkv: Tensor,
    plan: Plan,
    n_heads: int,
    *,
    biases: list[Tensor] | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """Attention of all constituents of a jet to all of them: qkv (S, 3 D) -> (S, D).

    biases: for each bucket (n, heads, L, L) what is added before the softmax, -inf for padding.
    causal: only to those before it and itself, without biases; padding comes last, so nothing real
    sees it.
    """
    if isinstance(plan, Sequences):
        if len(qkv) == 0:
            return qkv.new_zeros(0, qkv.shape[1] // 3)
        q, k, v = qkv.view(len(qkv), 3, n_heads, -1).unbind(1)  # (S, heads, D / heads) each
        kernel = _varlen if plan.kernel == "varlen" else _efficient
        return kernel(q, k, v, plan.bounds, plan.longest, causal).flatten(1)
    dtype = qkv.dtype
    if qkv.device.type == "cpu":
        # Backward of bf16 attention on a CPU is an order of magnitude slower than of fp32.
        qkv = _packed.wide(qkv)
    out = []
    with torch.autocast("cpu", enabled=False):
        # split, not slices: the backward of a slice writes zeros for all that is not in it
        for part, (n, width), bias in zip(
            qkv.split([n * w for n, w in plan.shapes]),
            plan.shapes,
            plan.masks if biases is None else biases,
            strict=True,
        ):
            # (n, heads, L, D / heads) each.
            q, k, v = part.view(n, width, 3, n_heads, -1).permute(2, 0, 3, 1, 4)
            if biases is None or qkv.device.type != "cpu":
                part = F.scaled_dot_product_attention(
                    q, k, v, attn_mask=None if causal else bias, dropout_p=dropout, is_causal=causal
                )
            else:  # there it has no kernel for a bias that is learned
                q, k, v = (values.reshape(n * n_heads, width, -1) for values in (q, k, v))
                score = torch.baddbmm(
                    bias.flatten(0, 1), q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5
                )
                part = (drop(score.softmax(-1), dropout) @ v).view(n, n_heads, width, -1)
            out.append(part.transpose(1, 2).reshape(n * width, -1))
    return torch.cat(out).to(dtype) if out else qkv.new_zeros(0, qkv.shape[1] // 3)


def _varlen(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, causal: bool) -> Tensor:
    """Attention of S rows, q, k and v (S, heads, d), within jets: (S, heads, d)."""
    options = _varlen_takes()
    if options is None:
        raise ValueError(
            f"kernel is 'varlen', but torch {torch.__version__} has no torch.nn.attention.varlen: use "
            "'auto'"
        )
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(q, k, v, bounds, bounds, longest, longest, **(options if causal else {}))


@functools.cache
def _varlen_takes() -> dict | None:
    """How varlen_attn of this torch is told to be causal, which has changed; None where there is
    none.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    names = inspect.signature(varlen_attn).parameters
    return {"window_size": (-1, 0)} if "window_size" in names else {"is_causal": True}


def _efficient(
    q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, causal: bool
) -> Tensor:
    """As `_varlen`, by what nested tensors use in torch."""
    out, *_ = torch.ops.aten._efficient_attention_forward(
        q[None],
        k[None],
        v[None],
        None,
        bounds,
        bounds,
        longest,
        longest,
        0.0,
        int(causal),
        torch.is_grad_enabled(),
    )
    return out[0]
