"""What is taken at the end of an epoch: the validation loss, and what the user measures."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from types import SimpleNamespace

import numpy as np
import torch

from jetnb.inputs import batches


@torch.no_grad()
def validate(training) -> float:
    """Mean loss over the validation jets of `training`, in eval mode, over all its processes."""
    data = training.options.validation
    training.module.eval()
    training.draw_from("validation", training.fabric.global_rank)
    whole = batches.split(np.arange(len(data)), training.settings.batch_size)
    total = torch.zeros((), device=training.fabric.device, dtype=torch.float32)
    for (batch, share), indices in zip(training.batches(data, whole), whole, strict=True):
        training.interrupts.check()
        if training.shares:  # which the module alone cannot bring together
            given = SimpleNamespace(batch=batch, generator=training.generator)
            loss = training.loss(given).float()
        else:
            with training.fabric.autocast():
                loss = training.module.loss(batch, generator=training.generator).float()
        total += loss * (share * len(indices))
    return float(training.fabric.all_reduce(total, reduce_op="mean")) / len(data)


def measure(training) -> dict[str, float]:
    """What the user's `measure` returned, checked in all processes: none may raise alone."""
    training.module.eval()
    returned = None
    with torch.no_grad(), training.interrupts.at_once():
        if training.fabric.is_global_zero:
            returned = training.options.measure(training.module)
    returned = training.fabric.broadcast(returned)
    if not isinstance(returned, Mapping):
        raise ValueError(
            f"measure returned {returned!r:.80}: it must return a dict of names and numbers"
        )
    best_by = training.settings.best_by
    if best_by not in ("validation_loss", *returned):
        raise ValueError(
            f"best_by is {best_by!r}, but measure returned only "
            f"{', '.join(map(str, returned)) or 'an empty dict'}"
        )
    for name, value in returned.items():
        if not isinstance(value, Real):
            raise ValueError(
                f"measure returned {value!r:.80} as {name!r}: it must be a "
                "number, such as float(...) makes"
            )
    return {
        name: value if isinstance(value, int | float) else float(value)  # of NumPy's
        for name, value in returned.items()
    }
