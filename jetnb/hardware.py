"""Memory and threads: copies to an accelerator that nobody waits for, what glibc keeps of the
memory of a CPU, and how many threads a small network gets."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

SMALL = 1_000_000  # weights
AT_FIRST = torch.get_num_threads()


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; to a GPU by way of pinned memory, since a plain copy waits for all work
    that is queued.
    """
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def check(accelerator) -> None:
    """Raise `ValueError` where `accelerator` is not one, or names what this machine lacks; "cpu" and
    "auto" are always there.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    here = {"auto": True, "cpu": True, "gpu": cuda or mps, "cuda": cuda, "mps": mps}
    name = str(accelerator).partition(":")[0]
    if isinstance(accelerator, str) and name not in here:
        raise ValueError(f"accelerator {accelerator!r} is unknown: use one of {', '.join(here)}")
    if not here.get(name, True):
        raise ValueError(
            f"accelerator is {accelerator!r}, but torch {torch.__version__} sees no {name.upper()} on "
            "this machine: use 'cpu' or 'auto', or install the build of torch that fits your driver"
        )


def named(accelerator: str) -> str:
    """The device of torch that Lightning means by `accelerator`: for "auto" and "gpu" the one that
    there is.
    """
    if accelerator not in ("auto", "gpu"):
        return accelerator
    here = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return next(name for name, there in here.items() if there)


def tidy(last: float, *, every: float = 20.0) -> float:
    """Give memory that is free back to the system, if `last` time is `every` seconds ago; returns
    when it last was.

    glibc keeps it, in pieces that no batch of another size fits into: a training would grow to many
    times its need. Elsewhere than on Linux it does nothing.
    """
    if (now := time.perf_counter()) < last + every:
        return last
    if sys.platform == "linux" and (release := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        release(0)
    return now


def on_cpu(generator: torch.Generator | None) -> torch.Generator | None:
    """A generator for random numbers on the CPU: the same one, or one that follows from one on a
    GPU, and moves it on.

    For what decides on the CPU how long arrays are. The state of a generator of a GPU is on the
    CPU: nobody waits.
    """
    if generator is None or generator.device.type == "cpu":
        return generator
    state = generator.get_state().numpy().tobytes()
    torch.rand((), generator=generator, device=generator.device)
    seed = int.from_bytes(hashlib.blake2b(state, digest_size=8).digest(), "little") >> 1
    return torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def tf32(on: bool, device: torch.device):
    """With `on` and on a GPU: products of float32 matrices whose factors are rounded to
    TensorFloat-32.

    That has 10 bits of mantissa where float32 has 23, so a relative rounding of 5e-4 of each
    factor; sums stay float32.
    """
    before = torch.get_float32_matmul_precision()
    try:
        if on and device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def threads(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within the block a small `model` that runs on a CPU has as many threads as do it good, see
    `n_threads`.
    """
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(
            n_threads(sum(weight.numel() for weight in model.parameters()), before)
        )
    try:
        yield
    finally:
        if device.type == "cpu":
            torch.set_num_threads(before)


def n_threads(n_weights: int, now: int, environment: Mapping = os.environ) -> int:
    """Threads for a network of so many weights, where torch has `now`: for a small one two, or one
    if they spin.

    Threads that wait spin unless OMP_WAIT_POLICY is PASSIVE: 40 steps of JetCLR beside other work
    took 12 to 22 s with two that sleep, 15 to 53 s with one, 37 to 247 s with two that spin (three
    rounds, two cores). What the user has set stays: OMP_NUM_THREADS or MKL_NUM_THREADS, and a
    `torch.set_num_threads` that is no default of torch.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    theirs = (
        now != AT_FIRST
        or now not in (cores, cores // 2)
        or any(environment.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    )
    if theirs or n_weights >= SMALL:
        return now
    return min(now, 2 if environment.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE" else 1)
