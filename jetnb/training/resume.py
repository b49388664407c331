"""Going on with a training where its checkpoint is: what it keeps for that, and the way back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from jetnb import _json, checkpoints
from jetnb.training import fingerprint, history, optimisation, sharding

DONE = ("finished", "patience")  # reasons after which there is nothing to go on with
TRAINED: dict[str, type | tuple[type, ...]] = {
    "steps": int,
    "epochs": int,
    "seconds": (int, float),
    "reason": str,
}


SAVE_SECONDS = 60  # between checkpoints within an epoch, or SAVE_SHARE times as long as one takes,
SAVE_SHARE = 50  # whichever is more


class Clock:
    """When the last checkpoint was written, and how long that took [s]."""

    def __init__(self):
        self.last, self.took = time.perf_counter(), 0.0


def is_time(training) -> bool:
    """Whether there should be a checkpoint by now, in all processes or in none."""
    if training.path is None:
        return False
    clock = training.saving
    wait = max(SAVE_SECONDS, SAVE_SHARE * clock.took)
    return bool(training.fabric.broadcast(time.perf_counter() - clock.last > wait))


def save(training) -> None:
    """Checkpoint: the weights to keep so far, and, until the training is done, all that it needs to
    go on.
    """
    began = time.perf_counter()
    if training.path is not None and (training.shares or training.fabric.is_global_zero):
        epochs, reason = training.history.epochs, training.history.reason
        kept, weights = len(epochs) - 1, training.weights()  # the last
        if training.best is not None:
            kept, weights = kept - training.since_best(), training.best
        trained = {
            "steps": training.step,
            "epochs": len(epochs),
            "jets": training.pace.jets(training.step),
            "seconds": began - training.started,
            "reason": reason,
        }
        going_on = None if reason in DONE else state(training)
        if training.fabric.is_global_zero:
            checkpoints.save(
                training.path,
                weights,
                {**training.card, "trained": trained, "metrics": epochs[kept] if epochs else {}},
                state=going_on,
            )
    training.fabric.barrier()
    training.saving.last = time.perf_counter()
    training.saving.took = training.saving.last - began


def is_done(path) -> bool:
    """Whether the training with checkpoint `path` has ended, so that it is only loaded and nothing
    written.
    """
    try:
        return checkpoints.read_card(path)["trained"]["reason"] in DONE
    except (OSError, ValueError, KeyError, TypeError):
        return False


def state(training) -> dict[str, Tensor]:
    """What `training` needs to go on; there is no state of random numbers.

    Current weights (not the best ones), moments of the optimiser, the scale of float16
    gradients, and what the watchdog remembers.
    """
    state = {f"model.{name}": value for name, value in training.weights().items()}
    moments = optimisation.to_tensors(training.raw)
    if training.shares:
        moments = sharding.whole(moments)
    state |= {f"optimizer.{name}": value for name, value in moments.items()}
    state |= {f"watchdog.{name}": value for name, value in training.watchdog.to_tensors().items()}
    scale = training.fabric.strategy.precision.state_dict()
    return state | {
        f"scaler.{name}": torch.tensor(value, dtype=torch.float64) for name, value in scale.items()
    }


def go_back(training) -> None:
    """Put `training`, which has just begun, where its checkpoint is."""
    card = checkpoints.read_card(training.path)
    if found := checkpoints.difference(card, training.card):
        raise ValueError(
            f"resume: the training at {training.path} has other settings: {found}; pass the same ones, "
            "or choose another path"
        )
    about = dict(
        source=training.path / checkpoints.CARD, what="card of a training", remedy=checkpoints.AGAIN
    )
    trained = _json.check(
        _json.check(card, {"trained": dict}, **about)["trained"], TRAINED, **about
    )
    ended = trained["reason"]
    _same_data(training, card.get("checksum"), ended)
    training.step, training.seconds = trained["steps"], trained["seconds"]
    training.history = history.rewind(training.path, training.step, trained["epochs"])
    checkpoints.load(training.path, training.module)
    if ended in DONE:
        training.history.reason = ended
        return
    if (
        len(training.history.epochs) < trained["epochs"]
        or not training.history.steps
        and training.step
    ):
        raise ValueError(
            f"resume: {history.file_of(training.path)} ends before the checkpoint, after epoch "
            f"{len(training.history.epochs)}: put it back, or train again with another path"
        )
    if training.settings.keep == "best" and training.since_best() < len(training.history.epochs):
        training.best = checkpoints.copies(training.module.state_dict())
    _set_state(training, checkpoints.read_state(training.path))
    if training.history.steps:
        training.watchdog.skipped = training.history.steps[-1]["skipped"]


def _same_data(training, checksum, ended: str) -> None:
    """Refuse other data than those that the training at `path` had."""
    if checksum is None and ended not in DONE:
        warnings.warn(
            f"resume: the checkpoint {training.path} has no checksum of its data: whether these are the same "
            "cannot be told",
            RuntimeWarning,
            stacklevel=2,
        )
    for name, new in training.card["checksum"].items() if isinstance(checksum, Mapping) else ():
        if found := fingerprint.difference(checksum.get(name) or {}, new):
            raise ValueError(
                f"resume: the training at {training.path} had other {name}: {found} differ; pass the "
                "same, or choose another path"
            )


def _set_state(training, state: Mapping[str, Tensor] | None) -> None:
    """Give weights, optimiser, scale and watchdog what `state` made of them."""
    file = training.path / checkpoints.STATE
    if state is None:
        raise ValueError(
            f"resume: {file} is missing, without which an unfinished training cannot go on: "
            f"{checkpoints.AGAIN}, with another path"
        )
    checkpoints.fill(
        training.module, checkpoints.inside("model", state), f"checkpoint {training.path}"
    )
    scale = training.fabric.strategy.precision.state_dict()  # with numbers of the right types
    try:
        optimisation.from_tensors(training.raw, checkpoints.inside("optimizer", state))
        if remembered := checkpoints.inside("watchdog", state):  # older checkpoints have none
            training.watchdog.from_tensors(remembered)
        training.fabric.strategy.precision.load_state_dict(
            {name: type(old)(state[f"scaler.{name}"].item()) for name, old in scale.items()}
        )
    except (ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"resume: {file} is of another training ({error}): {checkpoints.AGAIN}, with another "
            "path"
        ) from None
