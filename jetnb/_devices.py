"""Memory: copies to an accelerator that nobody waits for, and what glibc keeps of the memory of a CPU."""

from __future__ import annotations

import ctypes
import sys
import time

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; to a GPU by way of pinned memory, since a plain copy waits for all work that is queued."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def check(accelerator) -> None:
    """Raise `ValueError` where `accelerator` names what this machine lacks; "cpu" and "auto" are always there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    here = {"gpu": cuda or mps, "cuda": cuda, "mps": mps}
    if not here.get(name := str(accelerator).partition(":")[0], True):
        raise ValueError(f"accelerator is {accelerator!r}, but torch {torch.__version__} sees no {name.upper()} on "
                         "this machine: use 'cpu' or 'auto', or install the build of torch that fits your driver")


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
