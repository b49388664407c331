"""How long a training takes, how much memory and how much disk, before it is begun.

here = planner.measure(model, data, batch_size=256)         # a few steps on this machine
planner.plan(here, jets=178_000_000, epochs=1)

there = planner.stored(PATH, model, data, batch_size=512)   # from what was measured on a GPU
planner.plan(there, jets=178_000_000, epochs=1, devices=8)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jetnb import _json, hardware
from jetnb.models import _fast
from jetnb.training import memory, optimisation
from jetnb.training.memory import Need, show

FAMILY = (  # models in data/reference/gpu whose work is that of transformers on packed jets
    "Transformer",
    "JetCLR",
    "masked autoencoder",
    "next token",
    "next token, turned",
)
STEPS = 5  # that are timed, after a first
COUNTED = 48  # jets whose operations are counted: their numbers of constituents differ
KEPT = (
    2  # checkpoints on disk while a training goes on: the one before is there until the new one is
)


class Machine(NamedTuple):
    """What is known of a training on a machine: seconds of a step of `batch_size` jets, memory, and
    `basis`, by which both are known.

    weights: how many are trained. overhead: seconds of a step that do not shrink with the batch, 0
    where that is not known.
    """

    name: str
    step: float
    batch_size: int
    need: Need
    weights: int
    basis: str
    overhead: float = 0.0


class Plan(NamedTuple):
    """What a training takes: `seconds`, `need` (memory of one device) and `disk` (bytes of the jets
    and of checkpoints).
    """

    machine: Machine
    jets: int
    seen: int
    devices: int
    seconds: float
    need: Need
    store: float
    checkpoints: float

    @property
    def disk(self) -> float:
        """Bytes on disk: jets and checkpoints."""
        return self.store + self.checkpoints

    def __repr__(self) -> str:
        many = f"{self.devices} x " if self.devices > 1 else ""
        ideal = ", if they share the work without loss" if self.devices > 1 else ""
        return (
            f"{self.seen:,} jets seen of {self.jets:,}, on {many}{self.machine.name}: "
            f"{span(self.seconds)}{ideal}\n"
            f"  time    {self.machine.basis}\n"
            f"  memory  {self.need!r}\n"
            f"  disk    {show(self.disk)}: jets {show(self.store)}, checkpoints {show(self.checkpoints)}"
        )


def plan(
    machine: Machine,
    *,
    jets: int,
    epochs: float | None = None,
    seen: int | None = None,
    devices: int = 1,
    bytes_per_jet: float = 0.0,
) -> Plan:
    """Plan a training on `jets` different jets for so many `epochs`, or until so many were `seen`.

    machine: from `measure` or `stored`. devices: alike; each takes its share of the batch, and
    nothing is lost to sending gradients: that is the best that can be. bytes_per_jet:
    on disk, such as `bytes_on_disk` finds; 0 leaves the jets out. Raises `ValueError` unless one of
    epochs and seen is given, and for numbers that are not positive. Taught in notebook 18.
    """
    if (epochs is None) == (seen is None):
        raise ValueError(f"epochs is {epochs} and seen is {seen}: give one of them")
    amount = seen if epochs is None else epochs
    if jets < 1 or devices < 1 or amount <= 0:
        raise ValueError(
            f"jets {jets}, devices {devices} and epochs or seen {amount} must be positive"
        )
    seen = round(jets * epochs) if seen is None else seen
    need = machine.need
    each = need.at(-(-machine.batch_size // devices))
    step = machine.overhead + (machine.step - machine.overhead) / devices
    seconds = seen / machine.batch_size * step
    state = need.weights + need.gradients + need.moments  # weights, and what it needs to go on
    return Plan(
        machine, jets, seen, devices, seconds, each, jets * bytes_per_jet, KEPT * float(state)
    )


def measure(
    model: nn.Module,
    data,
    *,
    batch_size: int,
    accelerator: str = "auto",
    clock: Callable[[], float] = time.perf_counter,
) -> Machine:
    """Time a few steps of a training of `model` on this machine, on a copy of it.

    A step is what `training.fit` does: gather a batch, loss, gradient, clipping, AdamW; the median
    of five is taken. What goes on beside slows it down, as it will the training. data: as for
    `training.fit`, at least a batch. clock: of seconds. Raises `ValueError` for fewer jets. Taught
    in notebook 18.
    """
    hardware.check(accelerator)
    if len(data) < batch_size:
        raise ValueError(f"data has {len(data)} jets, fewer than batch_size {batch_size}")
    device = torch.device(hardware.named(accelerator))
    need = memory.measure(model, data, batch_size=batch_size, accelerator=accelerator)
    trained = copy.deepcopy(model).to(device).train()
    groups = optimisation.groups(trained, None, 1e-6, 0.0)
    optimiser = torch.optim.AdamW(groups, fused=True)
    generator = torch.Generator(device).manual_seed(1)
    rng, times = np.random.default_rng(1), []
    with torch.random.fork_rng(devices=[]), hardware.threads(trained, device):
        for _ in range(1 + STEPS):
            rows = rng.permutation(len(data))[:batch_size]
            began = clock()
            x, offsets, *targets = data[rows]
            batch = x.to(device), offsets, *(value.to(device) for value in targets)
            trained.loss(batch, generator=generator).backward()
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
            if hasattr(trained, "after_step"):
                trained.after_step(1, 1 + STEPS)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(clock() - began)
    step = float(np.median(times[1:]))
    return Machine(
        "this machine",
        step,
        batch_size,
        need,
        _trained(model),
        f"{batch_size / step:,.0f} jets/s: the median of {STEPS} steps of {batch_size} jets, measured now",
    )


def stored(path, model: nn.Module, data, *, batch_size: int, precision="float32") -> Machine:
    """What a training of `model` would do on the machine whose measurements are in the file `path`.

    path: of data/reference/gpu. The operations of a step are counted here, on 48 jets of `data`,
    and turned into time by `speed`. That holds for transformers on packed jets. precision: one that
    was measured there. Raises as `speed` does. Taught in notebook 18.
    """
    overhead, rate = speed(path, precision=precision)
    flop = flop_per_jet(model, data)
    step = overhead + batch_size * flop / rate
    record = _record(path)["machine"]
    need = memory.measure(model, data, batch_size=batch_size, accelerator="cpu")
    need = need._replace(
        kept=int(memory.WORKSPACES),
        free=int(record["memory_GB"] * 1e9),
        where="the memory of the GPU",
    )
    return Machine(
        record["device"],
        step,
        batch_size,
        need,
        _trained(model),
        f"{batch_size / step:,.0f} jets/s: {flop / 1e6:,.0f} MFLOP for each jet at {rate / 1e12:.0f} TFLOP/s, and "
        f"{1e3 * overhead:.1f} ms for each step; {precision}, measured there on {record['date']}",
        overhead,
    )


def speed(path, *, precision: str = "float32", without: str = "") -> tuple[float, float]:
    """Seconds that a step takes whatever it does, and operations per second, on a machine that was
    measured.

    Both are fitted to the steps of the models of `FAMILY` in the file `path`, by least squares in
    relative differences. without: name of a model that is left out, to see how well the others
    predict it. Raises `ValueError` where fewer than three were measured in this precision.
    """
    found = points(path, precision=precision)
    found.pop(without, None)
    if len(found) < 3:
        raise ValueError(
            f"{path} has {len(found)} measurements of training steps in {precision}: three are needed; "
            "take another file, or another precision"
        )
    flop, seconds = np.array(list(found.values())).T
    columns = np.stack([np.ones_like(flop), flop / 1e12], 1) / seconds[:, None]
    overhead, per_tflop = np.linalg.lstsq(columns, np.ones(len(flop)), rcond=None)[0]
    if overhead < 0:  # then all of it is work
        overhead, per_tflop = 0.0, float(np.exp(np.mean(np.log(seconds / flop)))) * 1e12
    return float(overhead), float(1e12 / per_tflop)


def points(path, *, precision: str = "float32") -> dict[str, tuple[float, float]]:
    """{model of `FAMILY`: (operations, seconds) of a step} that the file `path` has."""
    rows = _record(path)["results"].get("speed", {})
    found = {}
    for name in FAMILY:
        row = rows.get(f"{name}: {precision}", {})
        if {"ms/step", "jets/s", "MFLOP per jet"} <= row.keys():
            step = row["ms/step"] / 1e3
            found[name] = (row["jets/s"] * step * row["MFLOP per jet"] * 1e6, step)
    return found


def flop_per_jet(model: nn.Module, data) -> float:
    """Floating-point operations of loss and gradient per jet, in matrix products and attention,
    counted on 48 jets of `data`.
    """
    model = copy.deepcopy(model).cpu().train()
    n = min(COUNTED, len(data))
    with (
        torch.random.fork_rng(devices=[]),
        _fast.plain(),
        FlopCounterMode(display=False) as counter,
    ):
        model.loss(
            data[np.linspace(0, len(data) - 1, n).astype(int)],
            generator=torch.Generator().manual_seed(1),
        ).backward()
    return counter.get_total_flops() / n


def bytes_on_disk(path, n_jets: int | None = None) -> float:
    """Bytes for each jet of a file or a store at `path`, which holds `n_jets`, or says so itself.

    Taught in notebook 18.
    """
    path = Path(path)
    if n_jets is None:
        n_jets = _json.read(
            path / "meta.json", {"n_jets": int}, what="store", remedy="name n_jets"
        )["n_jets"]
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / n_jets


def span(seconds: float) -> str:
    """A time for a reader.

    >>> span(42), span(1000), span(20_000), span(900_000)
    ('42 s', '17 min', '5.6 h', '10 days')
    """
    for unit, scale in (("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 1.5 * scale or unit == "s":
            value = seconds / scale
            return f"{value:.0f} {unit}" if value >= 10 or unit == "s" else f"{value:.1f} {unit}"
    raise AssertionError


def _record(path) -> dict:
    return _json.read(
        path,
        {"machine": dict, "results": dict},
        what="record of a machine",
        remedy="take one of data/reference/gpu",
    )


def _trained(model: nn.Module) -> int:
    return sum(value.numel() for value in model.parameters() if value.requires_grad)
