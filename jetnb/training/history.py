"""What a training did, step by step: kept in memory, and on disk as it is made."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetnb import _json, atomic

NUMBER = (int, float)
FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "steps": {"step": int, "epoch": int, "loss": NUMBER, "skipped": int},
    "epochs": {"epoch": int, "step": int, "loss": NUMBER},
}


@dataclass
class History:
    """Records of a training. `reason`: why it ended, "finished", "patience", "watch",
    "interrupted"; "" while it runs.

    steps: one dict per logged step: step (steps done), epoch (from 1), loss (mean since the record
    before), lr, gradient_norm (mean, before clipping), skipped (steps so far without a finite
    gradient). epochs: one dict per epoch: epoch, step, loss, validation_loss, measures, monitors,
    seconds (since the start).
    """

    steps: list[dict] = field(default_factory=list)
    epochs: list[dict] = field(default_factory=list)
    reason: str = ""

    @property
    def stopped(self) -> bool:
        """True where the training ended before its last step."""
        return self.reason not in ("", "finished")

    def mean_loss(self, first: int) -> float:
        """Mean loss of the steps after step `first`."""
        total, previous = 0.0, first
        for record in self.steps:
            if record["step"] > first:
                total += record["loss"] * (record["step"] - previous)
                previous = record["step"]
        return total / max(previous - first, 1)

    def since_best(self, by: str) -> int:
        """How many epochs ago the number `by` was best, the lowest "validation_loss" or the highest
        of another; as many as there are epochs where none is known.
        """
        sign = 1 if by == "validation_loss" else -1
        values = [sign * record.get(by, math.nan) for record in self.epochs]
        known = [i for i, value in enumerate(values) if not math.isnan(value)]
        return len(values) - 1 - min(known, key=values.__getitem__) if known else len(values)


def file_of(path) -> Path:
    """Where the history of the training with checkpoint `path` is: a JSON-lines file beside it."""
    path = Path(path)
    return path.with_name(path.name + ".history.jsonl")


def append(file: Path, kind: str, record: dict) -> None:
    """Add a record, of `kind` "steps" or "epochs", to the file."""
    with file.open("a") as stream:
        stream.write(json.dumps({kind: record}) + "\n")


def read(path) -> History:
    """The history so far of the training with checkpoint `path`, which may still run, or have been
    killed.

    Empty where there is none. Raises `ValueError` naming the line that is no record.
    """
    history, file = History(), file_of(path)
    # The rest is half a line.
    whole, newline, _ = (file.read_bytes() if file.exists() else b"").rpartition(b"\n")
    for number, line in enumerate((whole + newline).splitlines()):
        about: dict[str, Any] = dict(
            source=f"{file}, line {number + 1},",
            what="record of a training",
            remedy="put the file back, or train again with another path",
        )
        entry = _json.parse(line, **about)
        kind = "epochs" if "epochs" in entry else "steps"
        record = _json.check(entry, {kind: dict}, **about)[kind]
        getattr(history, kind).append(_json.check(record, FIELDS[kind], **about))
    return history


def rewind(path, step: int, epochs: int) -> History:
    """Cut the history of `path` back to what a checkpoint after `step` steps and `epochs` whole
    epochs knows.
    """
    history = read(path)
    history.steps = [record for record in history.steps if record["step"] <= step]
    history.epochs = history.epochs[:epochs]
    return history


def rewrite(path, history: History) -> None:
    """Replace the file of `path` by these records."""
    with atomic.new_file(file_of(path), replace=True) as file:
        file.touch()
        for kind in ("steps", "epochs"):
            for record in getattr(history, kind):
                append(file, kind, record)
