"""Training: `fit(model, data, epochs=..., seed=...)`, the one loop, from a laptop to many GPUs, on
Lightning Fabric.

A model is an `nn.Module` with `loss(batch, *, generator=None)`, which returns a scalar; every
strategy and every classifier is one. Data are those of `jetnb.inputs.batches`.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn

from jetnb import atomic, checkpoints, hardware
from jetnb.inputs import batches
from jetnb.training import launched, sharding
from jetnb.training.history import History
from jetnb.training.loop import Training
from jetnb.training.resume import is_done
from jetnb.training.settings import Options, Settings, check


def fit(
    model: nn.Module,
    data,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 256,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    clip: float | None = None,
    seed: int,
    parameters: Sequence[dict] | None = None,
    validation=None,
    measure: Callable[[nn.Module], dict] | None = None,
    keep: str = "best",
    best_by: str = "validation_loss",
    patience: int | None = None,
    path=None,
    resume: bool = False,
    save_every: int | None = None,
    card: dict | None = None,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str | None = None,
    num_nodes: int | None = None,
    strategy: str = "auto",
    fsdp: bool = False,
    compile: bool = False,
    log_every: int = 10,
    watch: Callable[[dict], Any] | None = None,
    progress: bool = True,
) -> History:
    """Train `model` on `data`, in place, and return what happened. The model is left in eval mode,
        on its device.

        model: `nn.Module` with `loss(batch, *, generator=None)` -> scalar, and if it likes `monitors()`
        -> dict of numbers about the last batch, which are recorded every epoch, and `after_step(done,
        total)`, called after each step of the optimiser, for what follows the weights, as a teacher
        does; what it changes must be in the `state_dict`, to be there after a break. data: see
        `jetnb.inputs.batches`; its batches reach the model as tuples of tensors, the offsets on the CPU
        and all else on the device. epochs or steps: one of them. batch_size: jets per step, over all
        devices.

        The optimiser is AdamW, arXiv:1711.05101: lr rises over the first `warmup` (a share of all
        steps) and falls to zero on a cosine. weight_decay spares biases and norms. clip: largest norm
        of the gradient; None is 1, and with 16-mixed 0.1. parameters: param groups, dicts of "params"
        and, where they differ, "lr" and "weight_decay". seed: order of jets, augmentation and dropout;
        initial weights are those of `model`. The same seed gives the same numbers on the same CPU with
        the same number of threads; on a GPU sums over a jet have no fixed order. torch's global
        generator is left as it was.

        validation: data on which the mean loss is taken after every epoch, in eval mode and with the
        same random numbers each time. measure(model): more numbers to take then. keep: "best" ends with
        the weights of the epoch that is best by "validation_loss" (the lowest), or by the number
        `best_by` of `measure` (the highest), the first of equals; "last", or no validation, with the
        last ones. patience: end after so many epochs in a row without a better one.

        path: folder for checkpoints, of every epoch, every `save_every` steps and, at the next record,
        after every minute, see `jetnb.checkpoints`; `card` is added to theirs. The history grows in the
        file `<path>.history.jsonl` beside it. One training at a time writes there. resume: go on where
        the checkpoint at `path` is, if there is one, as if nothing had happened; a finished training is
        loaded and returned. Data are compared with those of the checkpoint: their number, and labels,
        numbers of constituents and features of up to 4096 jets, evenly over them. log_every: steps
        between records. watch(record): called after each, the last of an epoch with its validation too;
        what it returns, if true, ends the training, as does an interrupt (Ctrl-C, or the square of
        JupyterLab), after the step that is under way: what was learned is kept. So it is, at `path`,
        with SIGTERM, which then ends the process. progress: show a bar.

        precision, accelerator, devices, num_nodes, strategy: as in Lightning Fabric, e.g. "bf16-mixed",
    "auto", 4, 1, "ddp"; devices and num_nodes are by themselves those of `torchrun` or `srun`,
    where these start the same call in many processes, and else 1. precision "tf32" is "32-true"
    where factors of matrix products on a GPU are rounded to TensorFloat-32, with 10 bits of
    mantissa in place of 23: several times as quick from NVIDIA's Ampere on, and all else is
    float32. With several devices each takes its share of each batch, and reads no other jets: the
    gradient is that of one device as long as the loss is a mean over jets, and for other losses by
    `jetnb.models.across`, as all of ours are. Where one process dies all end, and with resume the
    same call goes on from the last checkpoint. fsdp: each process keeps a share of the weights and
    of what the optimiser remembers, for a network that does not fit into one device; the model is
    left in shares then, and the checkpoint has the whole. compile: use torch.compile, which takes
    up to minutes to begin, for what lies between attentions, or for all of a model that has no
    attention of ours. Measure before you use it: on an H200 a transformer of 2 million weights was
    slower with it in float32, TF32 and bfloat16 (18 700 jets/s in place of 20 000 in bfloat16), a
    Particle Transformer quicker (8 200, not 7 000). On a CPU, a network of less than a million
    weights trains on at most two threads, and on one unless OMP_WAIT_POLICY is PASSIVE, as
    `start.py` and `jetnb` set it (`jetnb.hardware.n_threads` has the measurement); the user's own
    OMP_NUM_THREADS or torch.set_num_threads win.

    Raises `ValueError` for arguments that make no sense, a checkpoint of other settings or data, a
        path to which another process trains, and a checkpoint that cannot be written; `FileExistsError`
        where there is one and resume is False; `FloatingPointError` at the next record after a loss or
        gradient that is not finite; no step with such a gradient changes the weights. With 16-mixed
        these steps are skipped, counted, and end the training only when 50 follow on each other. Warns,
        once each, of gradients that explode and of collapse. Taught in notebook 07.
    """
    data, validation = batches.as_data(data), batches.as_data(validation)
    settings = Settings(
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        warmup=warmup,
        clip=clip,
        seed=seed,
        keep=keep,
        best_by=best_by,
        patience=patience,
        precision=precision,
    )
    options = Options(
        parameters=parameters,
        validation=validation,
        measure=measure,
        path=path,
        resume=resume,
        save_every=save_every,
        card=checkpoints.as_json(card or {}),
        compile=compile,
        log_every=log_every,
        watch=watch,
        progress=progress,
        shares=fsdp,
    )
    check(model, data, settings, options)
    if options.shares:
        sharding.refuse(model, settings, options)
    hardware.check(accelerator)
    check_free(path, resume)
    if devices is None:
        devices, nodes = launched.processes() or (1, 1)
        num_nodes = num_nodes or nodes
    # Lightning takes seconds, which those who only look at records need not wait.
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    with _quiet():
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes or 1,
            strategy=sharding.strategy() if options.shares else strategy,
            precision="32-true" if precision == "tf32" else precision,
        )
        if isinstance(fabric.strategy, DDPStrategy) and _leaves_out(model, data):
            fabric.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
        done, weights = fabric.launch(_run, os.getpid(), model, data, settings, options)
    if weights is not None:  # the training was in other processes
        model.load_state_dict(safetensors.torch.load(weights))
        model.eval()
    return done


def _leaves_out(model: nn.Module, data) -> bool:
    """Whether some weights that could learn are not in the loss, such as those of a frozen encoder."""
    tried = copy.deepcopy(model).cpu().train()
    batch = data[np.arange(min(8, len(data)))]
    with torch.random.fork_rng(devices=[]):
        tried.loss(batch, generator=torch.Generator().manual_seed(1)).backward()
    return any(value.requires_grad and value.grad is None for value in tried.parameters())


def _run(
    fabric, caller: int, model: nn.Module, data, settings: Settings, options: Options
) -> tuple[History, bytes | None]:
    """The training, in each of the processes that share it."""
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with (
        _alone(fabric, options.path),
        torch.random.fork_rng(devices),
        hardware.threads(model, fabric.device),
    ):
        check_free(options.path, options.resume)  # another training may have ended meanwhile
        training = Training(fabric, model, data, settings, options)
        training.run()
    weights = None
    if os.getpid() != caller:  # in a process that was forked or spawned, with a copy of the model
        weights = safetensors.torch.save(checkpoints.copies(training.best or training.weights()))
    return training.history, weights


def check_free(path, resume: bool) -> None:
    """Raise `FileExistsError` where there is something at `path` that is not to be gone on with."""
    if path is not None and not resume and Path(path).exists():
        raise FileExistsError(
            f"path: {path} exists; pass resume=True to go on with that training, or choose another"
        )


@contextlib.contextmanager
def _alone(fabric, path):
    """Be the only training to `path`, in all its processes, or raise `ValueError` in all of them."""
    with contextlib.ExitStack() as stack:
        refused = ""
        if path is not None and fabric.is_global_zero:
            try:
                if is_done(path):  # it is only read, by as many as like
                    atomic.clean(Path(path))
                else:
                    stack.enter_context(atomic.alone(Path(path), "training to"))
            except ValueError as error:
                refused = f"path: {error}"
        if refused := fabric.broadcast(refused):
            raise ValueError(refused)
        yield


@contextlib.contextmanager
def _quiet():
    """Leave out what Lightning says about devices and ranks: a notebook wants the history and
    nothing else.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
