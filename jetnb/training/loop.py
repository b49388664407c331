"""A training under way: what `jetnb.training.fit` runs in each process."""

from __future__ import annotations

import contextlib
import hashlib
import math
import signal
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from jetnb import checkpoints, hardware
from jetnb.inputs import batches
from jetnb.models._regions import compile_regions
from jetnb.training import fingerprint, history, optimisation, resume
from jetnb.training.history import History
from jetnb.training.interrupts import Interrupts
from jetnb.training.watchdog import Watchdog

SAVE_SECONDS = 60  # between checkpoints within an epoch, or SAVE_SHARE times as long as one takes, whichever is more
SAVE_SHARE = 50


class _Loss(nn.Module):
    """The loss as the forward of a module: what Fabric, DDP and torch.compile know how to wrap."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(
        self, given: SimpleNamespace
    ) -> Tensor:  # from which DDP takes nothing to move to a GPU
        return self.model.loss(given.batch, generator=given.generator)


class Training:
    """A training under way. Its state is the step, the weights, the optimiser and the history."""

    def __init__(
        self,
        fabric,
        model,
        data,
        arguments,
        *,
        parameters,
        validation,
        measure,
        path,
        resume,
        save_every,
        card,
        compile,
        log_every,
        watch,
        progress,
    ):
        self.fabric, self.module, self.data, self.validation = fabric, model, data, validation
        self.measure, self.save_every, self.log_every, self.watch = (
            measure,
            save_every,
            log_every,
            watch,
        )
        self.path = None if path is None else Path(path)
        self.seed, self.batch_size = arguments["seed"], arguments["batch_size"]
        self.steps_per_epoch = -(-len(data) // self.batch_size)
        self.n_steps = arguments["steps"] or arguments["epochs"] * self.steps_per_epoch
        self.n_epochs = -(-self.n_steps // self.steps_per_epoch)
        for name, jets in (("data", data), ("validation", validation)):
            if (
                jets is not None
                and len(jets) // -(-len(jets) // self.batch_size) < fabric.world_size
            ):
                raise ValueError(
                    f"{name}: batches of at most {self.batch_size} of {len(jets)} jets leave a process of "
                    f"{fabric.world_size} without any: use a larger batch_size, or fewer devices"
                )
        groups = optimisation.groups(model, parameters, arguments["lr"], arguments["weight_decay"])
        lrs = sorted({group["lr"] for group in groups})
        half = getattr(fabric.strategy.precision, "scaler", None) is not None
        # eps and clip in float16 are those of the JetCLR talk at ML4Jets. Its scaler does not work
        # with fused steps.
        clip, eps = (0.1, 1e-4) if half else (1.0, 1e-8)
        if arguments["clip"] is not None:
            clip = arguments["clip"]
        self.arguments = {
            **arguments,
            "lr": lrs[0] if len(lrs) == 1 else lrs,
            "clip": clip,
            "n_jets": len(data),
            "n_validation": 0 if validation is None else len(validation),
            "n_processes": fabric.world_size,
        }
        self.raw = torch.optim.AdamW(groups, eps=eps, fused=not half)
        self.raw.zero_grad()  # of what the caller, or a training that was interrupted, has left
        self.base = [group["lr"] for group in groups]
        loss = _Loss(model)
        if compile and not compile_regions(model):
            loss.compile(dynamic=True)
        self.loss, self.optimizer = fabric.setup(loss, self.raw)
        self.generator = torch.Generator(fabric.device)
        self.history, self.step, self.seconds, self.best, self.tidied = History(), 0, 0.0, None, 0.0
        self.card = {**card, "training": self.arguments}
        if self.path is not None:
            given = {"data": data, "validation": validation}
            self.card["checksum"] = {
                name: self._checksum(jets) for name, jets in given.items() if jets is not None
            }
        if fabric.world_size > 1:  # what several processes share cannot stop in one of them
            signals = ()
        elif self.path is None:
            signals = (signal.SIGINT,)
        else:
            signals = (signal.SIGINT, signal.SIGTERM)
        self.interrupts = Interrupts(signals)
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.watchdog = Watchdog(tolerant=half)
        if resume and self.path is not None and self.path.exists():
            resume.go_back(self)
            fabric.barrier()  # all have read the history
        self.begun = self.step
        if (
            self.path is not None
            and fabric.is_global_zero
            and self.history.reason not in resume.DONE
        ):
            history.rewrite(self.path, self.history)
        self.bar = tqdm(
            total=self._jets(self.n_steps),
            initial=self._jets(self.step),
            unit=" jets",
            unit_scale=True,
            disable=not (progress and fabric.is_global_zero),
        )
        self.started = time.perf_counter() - self.seconds
        self.saved, self.took = (
            time.perf_counter(),
            0.0,
        )  # when the last checkpoint was written, and in which time

    def run(self) -> None:
        """Train to the end, or to what ends it before, and leave the weights to keep in the module."""
        with contextlib.closing(self.bar), self.interrupts:
            if self.history.reason not in resume.DONE:
                try:
                    with hardware.tf32(self.arguments["precision"] == "tf32", self.fabric.device):
                        self._epochs()
                except KeyboardInterrupt:
                    if self.fabric.world_size > 1:  # the others would wait for this one
                        raise
                    self.history.reason = "interrupted"
                finally:
                    self.module.eval()
                self._record()
                self._save()
        if self.best is not None:
            self.module.load_state_dict(self.best)
        self.module.eval()
        if (
            self.interrupts.asked == signal.SIGTERM
        ):  # all is on disk: end as anything that gets it does
            signal.raise_signal(signal.SIGTERM)

    def _epochs(self) -> None:
        for epoch in range(len(self.history.epochs), self.n_epochs):
            self.module.train()
            first = epoch * self.steps_per_epoch
            last = min(first + self.steps_per_epoch, self.n_steps)
            whole = batches.schedule(len(self.data), self.batch_size, seed=self.seed, epoch=epoch)
            with contextlib.closing(
                self._batches(self.data, whole[self.step - first : last - first])
            ) as loader:
                for batch, share in loader:
                    self.interrupts.check()
                    self._step(batch, share)
                    if self.step == last:
                        break
                    save = self.save_every and self.step % self.save_every == 0
                    if save or self.step % self.log_every == 0:
                        record = self._record()
                        if self._watched(record):
                            self.history.reason = "watch"
                            return
                        if save or self._is_time():
                            self._save()
            record = self._record()
            ended = self._end_epoch(epoch + 1)
            stop = self._watched({**ended, **record})  # its loss is the one since the record before
            if last == self.n_steps:
                self.history.reason = "finished"
            elif self.arguments["patience"] and self._since_best() >= self.arguments["patience"]:
                self.history.reason = "patience"
            elif stop:
                self.history.reason = "watch"
            if self.history.reason:
                return
            self._save()

    def _batches(self, data, whole: list[np.ndarray]):
        """This process's share of each batch, on the device, and its weight in the mean over
        processes.
        """
        rank, n = self.fabric.global_rank, self.fabric.world_size
        mine = [indices[rank::n] for indices in whole]
        gpu = self.fabric.device.type == "cuda"
        # Where the CPU trains too, a thread would only take turns with it.
        loader = batches.prefetch(data, mine, ahead=4 if gpu else 0, pin=gpu)
        for batch, own, indices in zip(loader, mine, whole, strict=True):
            x, offsets, *targets = (
                batch  # models want offsets on the CPU: reading them elsewhere means waiting
            )
            x, *targets = (
                tensor.to(self.fabric.device, non_blocking=True) for tensor in (x, *targets)
            )
            batch = x, offsets, *targets
            yield batch, n * len(own) / len(indices)

    def _step(self, batch: tuple[Tensor, ...], share: float) -> None:
        """One step of the optimiser. Nothing here waits for the device."""
        self._draw_from("step", self.step, self.fabric.global_rank)
        factor = optimisation.learning_rate(self.step, self.n_steps, self.arguments["warmup"])
        for group, base in zip(self.raw.param_groups, self.base, strict=True):
            group["lr"] = base * factor
        loss = self.loss(SimpleNamespace(batch=batch, generator=self.generator))
        self.fabric.backward(loss if share == 1 else share * loss)
        norm = self.fabric.clip_gradients(
            self.loss, self.optimizer, max_norm=self.arguments["clip"], error_if_nonfinite=False
        )
        if self.watchdog.tolerant:
            self.optimizer.step()  # by the scaler, which skips it where a gradient is not finite
        else:
            self.raw.found_inf = (norm - norm).nan_to_num(
                nan=1.0
            )  # the fused step does nothing where this is 1
            self.raw.step()
        self.raw.zero_grad()
        self.step += 1
        self.pending.append((loss.detach() if share == 1 else share * loss.detach(), norm))

    def _draw_from(self, *what) -> None:
        """Make all random numbers that follow a function of the seed and of `what`, so there is no
        state to save.
        """
        text = " ".join(map(str, (self.seed, *what)))
        seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
        self.generator.manual_seed(seed)
        torch.default_generator.manual_seed(seed + 1)
        if self.fabric.device.type == "cuda":
            torch.cuda.default_generators[self.fabric.device.index].manual_seed(seed + 1)

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
        good = self.watchdog.look(
            losses, norms, first, epoch=first // self.steps_per_epoch + 1, lr=lr
        )
        record = {
            "step": self.step,
            "epoch": (self.step - 1) // self.steps_per_epoch + 1,
            "loss": _mean([losses[i] for i in good]),
            "lr": lr,
            "gradient_norm": _mean([norms[i] for i in good]),
            "skipped": self.watchdog.skipped,
        }
        self.history.steps.append(record)
        self.pending = []
        self._write("steps", record)
        self.bar.set_postfix(
            epoch=f"{record['epoch']}/{self.n_epochs}", loss=f"{record['loss']:.4g}", refresh=False
        )
        self.bar.update(self._jets(self.step) - self.bar.n)
        self.tidied = hardware.tidy(self.tidied)
        return dict(record)

    def _end_epoch(self, epoch: int) -> dict:
        """Monitors, validation and measures, written down as one record."""
        first = (epoch - 1) * self.steps_per_epoch
        total, previous = 0.0, first
        for record in self.history.steps:
            if record["step"] > first:
                total += record["loss"] * (record["step"] - previous)
                previous = record["step"]
        record = {"epoch": epoch, "step": self.step, "loss": total / max(previous - first, 1)}
        if (
            hasattr(self.module, "monitors") and self.step > self.begun
        ):  # else it has not seen a batch
            record |= self.module.monitors()
            self.watchdog.look_for_collapse(record, batch_size=self.batch_size, epoch=epoch)
        if self.validation is not None:
            record["validation_loss"] = self._validate()
        if self.measure is not None:
            record |= self._measure()
        record["seconds"] = self.seconds = time.perf_counter() - self.started
        self.history.epochs.append(record)
        self._write("epochs", record)
        if self.arguments["keep"] == "best" and self._since_best() == 0:
            self.best = checkpoints.copies(self.module.state_dict())
        return record

    def _measure(self) -> dict[str, float]:
        """What `measure` returned, checked in all processes: none may raise alone."""
        self.module.eval()
        found = None
        with torch.no_grad(), self.interrupts.at_once():
            if self.fabric.is_global_zero:
                found = self.measure(self.module)
        found = self.fabric.broadcast(found)
        if not isinstance(found, Mapping):
            raise ValueError(
                f"measure returned {found!r:.80}: it must return a dict of names and numbers"
            )
        best_by = self.arguments["best_by"]
        if best_by not in ("validation_loss", *found):
            raise ValueError(
                f"best_by is {best_by!r}, but measure returned only "
                f"{', '.join(map(str, found)) or 'an empty dict'}"
            )
        for name, value in found.items():
            if not isinstance(value, Real):
                raise ValueError(
                    f"measure returned {value!r:.80} as {name!r}: it must be a "
                    "number, such as float(...) makes"
                )
        return {
            name: value if isinstance(value, int | float) else float(value)  # of NumPy's
            for name, value in found.items()
        }

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean loss over the validation jets."""
        self.module.eval()
        self._draw_from("validation", self.fabric.global_rank)
        whole = batches.split(np.arange(len(self.validation)), self.batch_size)
        total = torch.zeros((), device=self.fabric.device, dtype=torch.float32)
        for (batch, share), indices in zip(
            self._batches(self.validation, whole), whole, strict=True
        ):
            self.interrupts.check()
            with self.fabric.autocast():
                total += self.module.loss(batch, generator=self.generator).float() * (
                    share * len(indices)
                )
        return float(self.fabric.all_reduce(total, reduce_op="mean")) / len(self.validation)

    def _since_best(self) -> int:
        """How many epochs ago the best one was; as many as there are where none is known."""
        by = self.arguments["best_by"]
        values = [record.get(by, math.nan) for record in self.history.epochs]
        values = [value if by == "validation_loss" else -value for value in values]
        known = [i for i, value in enumerate(values) if not math.isnan(value)]
        return len(values) - 1 - min(known, key=values.__getitem__) if known else len(values)

    def _watched(self, record: dict) -> bool:
        if self.watch is None:
            return False
        stop = False
        if self.fabric.is_global_zero:  # the others are told
            stop = bool(self.watch(record))
        return bool(self.fabric.broadcast(stop))

    def _is_time(self) -> bool:
        """Whether there should be a checkpoint by now, in all processes or in none."""
        if self.path is None:
            return False
        wait = max(SAVE_SECONDS, SAVE_SHARE * self.took)
        return bool(self.fabric.broadcast(time.perf_counter() - self.saved > wait))

    def _checksum(self, data) -> dict:
        self._draw_from("checksum")  # for data that are drawn as they are read
        return fingerprint.of(data)

    def _write(self, kind: str, record: dict) -> None:
        if self.path is not None and self.fabric.is_global_zero:
            history.append(history.file_of(self.path), kind, record)

    def _save(self) -> None:
        """Checkpoint: the weights to keep so far, and, until the training is done, all that it
        needs to go on.
        """
        began = time.perf_counter()
        if self.path is not None and self.fabric.is_global_zero:
            epochs = self.history.epochs
            trained = {
                "steps": self.step,
                "epochs": len(epochs),
                "jets": self._jets(self.step),
                "seconds": time.perf_counter() - self.started,
                "reason": self.history.reason,
            }
            kept, weights = len(epochs) - 1, self.module  # the last
            if self.best is not None:
                kept, weights = kept - self._since_best(), self.best
            metrics = epochs[kept] if epochs else {}
            card = {**self.card, "trained": trained, "metrics": metrics}
            checkpoints.save(
                self.path,
                weights,
                card,
                state=None if self.history.reason in resume.DONE else resume.state(self),
            )
        self.fabric.barrier()
        self.saved = time.perf_counter()
        self.took = self.saved - began

    def _jets(self, step: int) -> int:
        """How many jets are seen in so many steps."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        size, larger = divmod(len(self.data), self.steps_per_epoch)
        return epochs * len(self.data) + rest * size + min(rest, larger)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan
