"""Memory: copies to an accelerator that nobody waits for, and what glibc keeps of the memory of a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys
import time

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; to a GPU by way of pinned memory, since a plain copy waits for all work that is queued."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def tidy(last: float, *, every: float = 20.0) -> float:
    """Give memory that is free back to the system, if `last` time is `every` seconds ago; returns when it last was.

    glibc keeps it, in pieces that no batch of another size fits into: a training would grow to many times its need.
    Elsewhere than on Linux it does nothing.
    """
    if (now := time.perf_counter()) < last + every:
        return last
    if sys.platform == "linux" and (release := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        release(0)
    return now


def on_cpu(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator for random numbers on the CPU: the same one, or one that follows from one on a GPU, and moves it on.

    For what decides on the CPU how long arrays are. The state of a generator of a GPU is on the CPU: nobody waits.
    """
    if generator is None or generator.device.type == "cpu":
        return generator
    state = generator.get_state().numpy().tobytes()
    torch.rand((), generator=generator, device=generator.device)
    seed = int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little") >> 1
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def tf32(on: bool, device: torch.device):
    """With `on` and on a GPU: products of float32 matrices whose factors are rounded to TensorFloat-32.

    That has 10 bits of mantissa where float32 has 23, so a relative rounding of 5e-4 of each factor; sums stay float32.
    """
    before = torch.get_float32_matmul_precision()
    try:
        if on and device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)
