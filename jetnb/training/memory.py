"""How much memory a training takes, measured on a few jets, and whether that much is there.

need = memory.measure(model, data, batch_size=512)
memory.check(need)   # raises MemoryError, with a sentence, where it would not fit
"""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from jetnb import hardware

FEW = (8, 32)  # jets of the two batches that are measured
WORKSPACES = 0.11e9  # bytes that libraries of a GPU take: what the smallest model on an H200 took beyond its tensors
HOST = "the memory of this machine"
SHARE = 0.9  # of the free memory that a training may plan for
LIMITS = (  # of a container, in bytes, and what it has taken of it
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


class Need(NamedTuple):
    """Bytes that a training takes on its device, and those that are `free` there.

    weights, gradients, moments (of AdamW), kept (a copy of the best weights; workspaces of libraries on a GPU); fixed
    and per_jet: what a step makes, whatever the batch, and for each jet of it; batch_size; where:
    what the memory is called in a sentence.
    """

    weights: int
    gradients: int
    moments: int
    kept: int
    fixed: float
    per_jet: float
    batch_size: int
    free: int
    where: str

    @property
    def step(self) -> float:
        """What a step makes at `batch_size`: activations, and what is made of them in between."""
        return max(self.fixed + self.per_jet * self.batch_size, 0.0)

    @property
    def total(self) -> float:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.moments + self.kept + self.step

    @property
    def largest(self) -> int:
        """The largest batch that fits, 0 for none."""
        rest = SHARE * self.free - (self.total - self.step) - self.fixed
        return max(int(rest / self.per_jet), 0) if self.per_jet > 0 else self.batch_size

    @property
    def fits(self) -> bool:
        """Whether it is less than nine tenths of what is free."""
        return self.total <= SHARE * self.free

    def at(self, batch_size: int, free: int | None = None) -> Need:
        """The same training with another batch, or on a device of which so many bytes are free."""
        return self._replace(batch_size=batch_size, free=self.free if free is None else free)

    def __repr__(self) -> str:
        parts = {
            "weights": self.weights,
            "gradients": self.gradients,
            "AdamW": self.moments,
            "best weights" if self.where == HOST else "libraries": self.kept,
            f"a step of {self.batch_size} jets": self.step,
        }
        made_of = ", ".join(f"{name} {show(size)}" for name, size in parts.items() if size)
        text = f"The training takes {show(self.total)} of {self.where} ({made_of}); "
        if self.fits:
            return text + f"{show(self.free)} are free: it fits."
        remedy = (
            f"a batch of {self.largest} jets would fit"
            if self.largest
            else "no batch fits: use a smaller encoder, or a device with more memory"
        )
        return text + f"only {show(self.free)} are free: it does not fit; {remedy}."


def measure(model: nn.Module, data, *, batch_size: int, accelerator: str = "auto") -> Need:
    """Find out what a training of `model` in batches of `batch_size` takes, on copies of it.

    Two steps of 8 and of 32 jets of `data` are done on the CPU, and every tensor that they make is
    counted while it lives; so what does not grow with the batch is told from what does. data: as
    for `training.fit`. accelerator: where the training shall run; its free memory is asked for. The
    jets themselves are not counted. What five models took on an
    H200 agrees to 30 %; the smallest of them set `WORKSPACES`. Raises `ValueError` for
    fewer than 32 jets. Taught in notebook 18.
    """
    hardware.check(accelerator)
    if len(data) < max(FEW):
        raise ValueError(f"data has {len(data)} jets: the measurement needs {max(FEW)}")
    made = [peak(model, data[np.linspace(0, len(data) - 1, n).astype(int)]) for n in FEW]
    per_jet = (made[1] - made[0]) / (FEW[1] - FEW[0])
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    learning = sum(
        value.numel() * value.element_size() for value in model.parameters() if value.requires_grad
    )
    where = hardware.named(accelerator)
    return Need(
        weights,
        learning,
        2 * learning,
        weights if where == "cpu" else int(WORKSPACES),
        made[0] - FEW[0] * per_jet,
        per_jet,
        batch_size,
        free(where),
        HOST if where == "cpu" else "the memory of the GPU",
    )


def check(need: Need) -> Need:
    """Return `need`, or raise `MemoryError` with the sentence that it prints where it does not fit.

    Taught in notebook 18.
    """
    if not need.fits:
        raise MemoryError(repr(need))
    return need


def peak(model: nn.Module, batch: tuple[Tensor, ...]) -> float:
    """Bytes of all tensors that loss and gradient of one batch make, at their most, without the
    gradients of weights.
    """
    model = copy.deepcopy(model).cpu().train()
    for value in model.parameters():
        if value.requires_grad:
            value.grad = torch.zeros_like(value)  # is there before, so it is not counted
    counter = _Counter()
    with torch.random.fork_rng(devices=[]), counter:
        torch.manual_seed(0)
        model.loss(batch, generator=torch.Generator().manual_seed(0)).backward()
    return float(counter.highest)


def free(where: str) -> int:
    """Bytes that are free on the device of this name, within the limit of a container."""
    if where == "cuda":
        return torch.cuda.mem_get_info()[0]
    room = psutil.virtual_memory().available
    for limit, used in LIMITS:
        if Path(limit).exists() and Path(used).exists():
            most = Path(limit).read_text().strip()
            if most != "max":
                room = min(room, max(int(most) - int(Path(used).read_text()), 0))
    return room


def show(size: float) -> str:
    """Bytes for a reader.

    >>> show(3.2e9), show(45e6), show(2.5e13), show(600)
    ('3.2 GB', '45 MB', '25 TB', '0.6 kB')
    """
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale or unit == "kB":
            value = size / scale
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    raise AssertionError


class _Counter(TorchDispatchMode):
    """Adds up the memory of tensors that are made, for as long as they live."""

    def __init__(self):
        super().__init__()
        self.now = self.highest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for value in pytree.tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):
                self.known.add(value.untyped_storage()._cdata)  # was there before
        result = func(*args, **(kwargs or {}))
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.highest = max(self.highest, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
