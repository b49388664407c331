"""A training under way: what `jetnb.training.fit` runs in each process."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from jetnb import checkpoints, hardware
from jetnb.inputs import batches
from jetnb.models._regions import compile_regions
from jetnb.training import evaluation, fingerprint, history, optimisation, resume, sharding
from jetnb.training.history import History
from jetnb.training.interrupts import Interrupts
from jetnb.training.pace import Pace
from jetnb.training.settings import Options, Settings
from jetnb.training.watchdog import Watchdog


class Training:
    """A training under way. Its state is the step, the weights, the optimiser and the history."""

    def __init__(self, fabric, model: nn.Module, data, settings: Settings, options: Options):
        self.fabric, self.module, self.data = fabric, model, data
        self.settings, self.options = settings, options
        self.path = None if options.path is None else Path(options.path)
        n_steps = settings.steps
        if n_steps is None:
            n_steps = settings.epochs * -(-len(data) // settings.batch_size)
        self.pace = Pace(len(data), settings.batch_size, n_steps)
        self._enough_for_all()
        self.watchdog = Watchdog(
            tolerant=getattr(fabric.strategy.precision, "scaler", None) is not None
        )
        self.shares = options.shares
        self._set_up_optimiser()
        self.generator = torch.Generator(fabric.device)
        self.history, self.step, self.seconds, self.tidied = History(), 0, 0.0, 0.0
        self.best: dict[str, Tensor] | None = None  # weights
        self.pending: list[tuple[Tensor, Tensor]] = []  # losses and norms since the last record
        self.card = self._card()
        self.interrupts = Interrupts(self._signals())
        if options.resume and self.path is not None and self.path.exists():
            resume.go_back(self)
            fabric.barrier()  # all have read the history
        if self.shares and not self._done():
            self._share_weights()
        self.begun = self.step
        if self._writes() and not self._done():
            history.rewrite(self.path, self.history)
        self.bar = tqdm(
            total=self.pace.jets(n_steps),
            initial=self.pace.jets(self.step),
            unit=" jets",
            unit_scale=True,
            disable=not (options.progress and fabric.is_global_zero),
        )
        self.started = time.perf_counter() - self.seconds
        self.saving = resume.Clock()

    def run(self) -> None:
        """Train to the end, or to what ends it before, and leave the weights to keep in the module."""
        with contextlib.closing(self.bar), self.interrupts:
            if not self._done():
                try:
                    with hardware.tf32(self.settings.precision == "tf32", self.fabric.device):
                        self._epochs()
                except KeyboardInterrupt:
                    if self.fabric.world_size > 1:  # the others would wait for this one
                        raise
                    self.history.reason = "interrupted"
                finally:
                    self.module.eval()
                self._record()
                resume.save(self)
        if self.best is not None and not self.shares:
            self.module.load_state_dict(self.best)
        self.module.eval()
        if self.interrupts.asked == signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)  # all is on disk: end as anything that gets it does

    def _epochs(self) -> None:
        for epoch in range(len(self.history.epochs), self.pace.n_epochs):
            if not self._steps(epoch):
                return
            record = self._record()
            ended = self._end_epoch(epoch + 1)
            stop = self._watched({**ended, **record})  # its loss is the one since the record before
            patience = self.settings.patience
            if self.step == self.pace.n_steps:
                self.history.reason = "finished"
            elif patience and self.since_best() >= patience:
                self.history.reason = "patience"
            elif stop:
                self.history.reason = "watch"
            if self.history.reason:
                return
            resume.save(self)

    def _steps(self, epoch: int) -> bool:
        """Do the steps of an epoch that are left; False where `watch` ends the training."""
        self.module.train()
        first, last = self.pace.steps_of(epoch)
        seed, size = self.settings.seed, self.settings.batch_size
        whole = batches.schedule(len(self.data), size, seed=seed, epoch=epoch)
        left = whole[self.step - first : last - first]
        save_every = self.options.save_every
        with contextlib.closing(self.batches(self.data, left)) as loader:
            for batch, share in loader:
                self.interrupts.check()
                self._step(batch, share)
                if self.step == last:
                    break
                save = save_every is not None and self.step % save_every == 0
                if not save and self.step % self.options.log_every:
                    continue
                if self._watched(self._record()):
                    self.history.reason = "watch"
                    return False
                if save or resume.is_time(self):
                    resume.save(self)
        return True

    def batches(
        self, data, whole: list[np.ndarray]
    ) -> Generator[tuple[tuple[Tensor, ...], float], None, None]:
        """This process's share of each batch, on the device, and its weight in the mean over
        processes.
        """
        rank, n = self.fabric.global_rank, self.fabric.world_size
        mine = [indices[rank::n] for indices in whole]
        gpu = self.fabric.device.type == "cuda"
        # Where the CPU trains too, a thread would only take turns with it.
        loader = batches.prefetch(data, mine, ahead=4 if gpu else 0, pin=gpu)
        for (x, offsets, *targets), own, indices in zip(loader, mine, whole, strict=True):
            x, *targets = (
                tensor.to(self.fabric.device, non_blocking=True) for tensor in (x, *targets)
            )
            # Models want offsets on the CPU: reading them elsewhere means waiting.
            yield (x, offsets, *targets), n * len(own) / len(indices)

    def _step(self, batch: tuple[Tensor, ...], share: float) -> None:
        """One step of the optimiser. Nothing here waits for the device."""
        self.draw_from("step", self.step, self.fabric.global_rank)
        factor = optimisation.learning_rate(self.step, self.pace.n_steps, self.settings.warmup)
        for group, base in zip(self.raw.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        loss = self.loss(SimpleNamespace(batch=batch, generator=self.generator))
        self.fabric.backward(loss if share == 1 else share * loss)
        norm = self.fabric.clip_gradients(
            self.loss, self.optimizer, max_norm=self.clip, error_if_nonfinite=False
        )
        if self.shares:
            norm = norm.full_tensor()
        if self.watchdog.tolerant:
            self.optimizer.step()  # by the scaler, which skips it where a gradient is not finite
        else:
            # The fused step does nothing where this is 1.
            self.raw.found_inf = (norm - norm).nan_to_num(nan=1.0)
            self.raw.step()
        self.raw.zero_grad()
        self.step += 1
        if hasattr(self.module, "after_step"):  # what follows the weights, such as a teacher
            self.module.after_step(self.step, self.pace.n_steps)
        self.pending.append((loss.detach() if share == 1 else share * loss.detach(), norm))

    def draw_from(self, *what) -> None:
        """Make all random numbers that follow a function of the seed and of `what`, so there is no
        state to save.
        """
        text = " ".join(map(str, (self.settings.seed, *what)))
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
        self.generator.manual_seed(seed)
        torch.default_generator.manual_seed(seed + 1)
        if self.fabric.device.type == "cuda":
            torch.cuda.default_generators[self.fabric.device.index].manual_seed(seed + 1)

    def since_best(self) -> int:
        """How many epochs ago the best one was; as many as there are where none is known."""
        return self.history.since_best(self.settings.best_by)

    def _record(self) -> dict:
        """Read losses and norms since the last record from the device, and write them down."""
        if not self.pending:
            return dict(self.history.steps[-1]) if self.history.steps else {}
        losses, norms = (
            torch.stack(values).float().cpu() for values in zip(*self.pending, strict=True)
        )
        if self.fabric.world_size > 1:
            losses = self.fabric.all_reduce(losses, reduce_op="mean").cpu()
        losses, norms = losses.tolist(), norms.tolist()
        lr = self.raw.param_groups[0]["lr"]
        first = self.step - len(losses)
        epoch = self.pace.epoch_of(first + 1)
        good = self.watchdog.look(losses, norms, first, epoch=epoch, lr=lr)
        record = {
            "step": self.step,
            "epoch": self.pace.epoch_of(self.step),
            "loss": _mean([losses[i] for i in good]),
            "lr": lr,
            "gradient_norm": _mean([norms[i] for i in good]),
            "skipped": self.watchdog.skipped,
        }
        self.pending = []
        self._keep("steps", record)
        self.bar.set_postfix(
            epoch=f"{record['epoch']}/{self.pace.n_epochs}",
            loss=f"{record['loss']:.4g}",
            refresh=False,
        )
        self.bar.update(self.pace.jets(self.step) - self.bar.n)
        self.tidied = hardware.tidy(self.tidied)
        return dict(record)

    def _end_epoch(self, epoch: int) -> dict:
        """Monitors, validation and measures, written down as one record."""
        first, _ = self.pace.steps_of(epoch - 1)
        record = {"epoch": epoch, "step": self.step, "loss": self.history.mean_loss(first)}
        if hasattr(self.module, "monitors") and self.step > self.begun:  # it has seen a batch
            record |= self.module.monitors()
            self.watchdog.look_for_collapse(
                record, batch_size=self.settings.batch_size, epoch=epoch
            )
        if self.options.validation is not None:
            record["validation_loss"] = evaluation.validate(self)
        if self.options.measure is not None:
            record |= evaluation.measure(self)
        record["seconds"] = self.seconds = time.perf_counter() - self.started
        self._keep("epochs", record)
        if self.settings.keep == "best" and self.since_best() == 0:
            self.best = checkpoints.copies(self.weights())
        return record

    def weights(self) -> dict[str, Tensor]:
        """Those of the module; in all processes at once, where each has a share of them."""
        found = self.module.state_dict()
        return sharding.whole(found) if self.shares else found

    def _keep(self, kind: str, record: dict) -> None:
        """Add a record to the history, and to its file."""
        getattr(self.history, kind).append(record)
        if self._writes():
            history.append(history.file_of(self.path), kind, record)

    def _watched(self, record: dict) -> bool:
        if self.options.watch is None:
            return False
        stop = False
        if self.fabric.is_global_zero:  # the others are told
            stop = bool(self.options.watch(record))
        return bool(self.fabric.broadcast(stop))

    def _writes(self) -> bool:
        return self.path is not None and self.fabric.is_global_zero

    def _done(self) -> bool:
        return self.history.reason in resume.DONE

    def _enough_for_all(self) -> None:
        """Raise `ValueError` where a process would have no jet in some batch."""
        size, n = self.settings.batch_size, self.fabric.world_size
        for name, jets in (("data", self.data), ("validation", self.options.validation)):
            if jets is not None and len(jets) // -(-len(jets) // size) < n:
                raise ValueError(
                    f"{name}: batches of at most {size} of {len(jets)} jets leave a process of "
                    f"{n} without any: use a larger batch_size, or fewer devices"
                )

    def _set_up_optimiser(self) -> None:
        given, half = self.settings, self.watchdog.tolerant
        groups = optimisation.groups(
            self.module, self.options.parameters, given.lr, given.weight_decay
        )
        self.base = [group["lr"] for group in groups]
        # eps and clip in float16 are those of the JetCLR talk at ML4Jets. Its scaler does not work
        # with fused steps.
        clip, eps = (0.1, 1e-4) if half else (1.0, 1e-8)
        self.clip = clip if given.clip is None else given.clip
        self.raw = torch.optim.AdamW(groups, eps=eps, fused=not half)
        self.raw.zero_grad()  # of what the caller, or a training that was interrupted, has left
        if self.shares:
            return  # until it is known where the training goes on
        loss = _Loss(self.module)
        if self.options.compile and not compile_regions(self.module):
            loss.compile(dynamic=True)
        self.loss, self.optimizer = self.fabric.setup(loss, self.raw)

    def _share_weights(self) -> None:
        """Let each process go on with a share of the weights and of their moments."""
        moments = optimisation.to_tensors(self.raw)
        loss = _Loss(self.module)
        sharding.shard(loss, self.fabric.device)
        self._set_up_optimiser()
        parameters = [value for group in self.raw.param_groups for value in group["params"]]
        if moments:
            optimisation.from_tensors(self.raw, sharding.spread(moments, parameters))
        self.loss, self.optimizer = self.fabric.setup(loss, self.raw)

    def _card(self) -> dict:
        validation = self.options.validation
        lrs = sorted(set(self.base))
        training = {
            **asdict(self.settings),
            "lr": lrs[0] if len(lrs) == 1 else lrs,
            "clip": self.clip,
            "n_jets": len(self.data),
            "n_validation": 0 if validation is None else len(validation),
            "n_processes": self.fabric.world_size,
        }
        card = {**self.options.card, "training": training}
        if self.path is not None:
            card["checksum"] = {}
            for name, jets in (("data", self.data), ("validation", validation)):
                if jets is not None:
                    self.draw_from("checksum")  # for data that are drawn as they are read
                    card["checksum"][name] = fingerprint.of(jets)
        return card

    def _signals(self) -> tuple:
        if self.fabric.world_size > 1:  # what several processes share cannot stop in one of them
            return ()
        return (signal.SIGINT,) if self.path is None else (signal.SIGINT, signal.SIGTERM)


class _Loss(nn.Module):
    """The loss as the forward of a module: what Fabric, DDP and torch.compile know how to wrap."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, given: SimpleNamespace) -> Tensor:
        """given: a namespace, from which DDP takes nothing to move to a GPU."""
        return self.model.loss(given.batch, generator=given.generator)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
