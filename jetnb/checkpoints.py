"""Checkpoints: a folder with the weights and a card that says what they are.

`model.safetensors` holds the weights, `card.json` what they were trained on, how, with what result,
and by which versions; `state.safetensors`, while a training is not finished, what it needs to go
on. No file is a pickle, so opening a checkpoint from elsewhere runs no code of others. A folder
appears when it is complete and is replaced in one step.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import jetnb
from jetnb import _json, atomic

AGAIN = "copy the checkpoint again, or train again"
WEIGHTS, CARD, STATE = "model.safetensors", "card.json", "state.safetensors"
# What may differ between two checkpoints of one run.
RESULTS = ("date", "versions", "metrics", "trained", "checksum")


def save(
    path,
    model: nn.Module | Mapping[str, Tensor],
    card: Mapping,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint to the folder `path`; that of an earlier moment of the same run is
    replaced.

    model: the module, or its state dict. card: plain text, numbers, lists and dicts; by convention
    "data", "encoder" (the settings to build it with), "features", "scaler", "training", and as
    results "metrics" and "trained" (steps, jets); date and versions are added. state: tensors that
    a training needs to go on.

    Raises `ValueError` for a card that JSON cannot hold, and `FileExistsError`, naming the field,
    where the checkpoint at `path` is of other settings, or where something else is there;
    `ValueError` too where it cannot be written, e.g. because the disk is full: what was at `path`
    is still there then.
    """
    path = Path(path)
    versions = {
        "jetnb": jetnb.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    date = datetime.now(UTC).isoformat(timespec="seconds")
    card = as_json({**card, "versions": versions, "date": date})
    if path.exists():
        _same_run(path, card)
    weights = model.state_dict() if isinstance(model, nn.Module) else model
    with _explained(path), atomic.new_folder(path, replace=True) as folder:
        (folder / CARD).write_text(json.dumps(card, indent=1))
        mode = (folder / CARD).stat().st_mode
        for name, tensors in ((WEIGHTS, weights), (STATE, state)):
            if tensors is not None:
                save_file(copies(tensors), folder / name)
                # As any other new file: safetensors makes them for their owner alone.
                (folder / name).chmod(mode)
        for file in folder.iterdir():
            atomic.sync(file)


def load(path, model: nn.Module, *, part: str = "") -> dict:
    """Fill `model` with the weights of the checkpoint at `path`, on the device where it is, and
    return the card.

    part: take only the weights of this part of the saved model, e.g. "encoder" for that of a
    pretrained JetCLR. Raises `FileNotFoundError` where there is no checkpoint, and `ValueError`
    naming the parameters and shapes that differ, before anything of `model` is changed. Taught in
    notebook 08.
    """
    card, weights = read_card(path), _read(Path(path) / WEIGHTS)
    if part:
        saved, weights = weights, inside(part, weights)
        if not weights:
            raise ValueError(
                f"part: {part!r} is not in the checkpoint {path}, only "
                f"{', '.join(sorted({name.partition('.')[0] for name in saved}))}"
            )
    fill(model, weights, f"checkpoint {path}", settings=card.get("encoder"))
    return card


def restore(
    path, build: Callable[..., nn.Module], *, name: str, part: str = ""
) -> tuple[nn.Module, dict]:
    """The model `build(card[name], seed=0)` with the weights of the checkpoint at `path`, for
    evaluation, and its card.

    name: where the card has the settings. part: as for `load`. Raises as `load`, and `ValueError`
    where the card has no such settings, or those of a network that is larger than the weights that
    are there: it is not built.
    """
    card = read_card(path)
    if name not in card:
        raise ValueError(
            f"the card of {path} has no {name!r}, the settings to build it with: it is a checkpoint of "
            f"something else, or was trained without card={{'{name}': ...}}"
        )
    file = Path(path) / CARD
    settings = _json.check(
        card, {name: dict}, source=file, what="card of a checkpoint", remedy=AGAIN
    )[name]
    try:
        model = _build(build, settings, _size(Path(path) / WEIGHTS))
    except (
        _TooLarge,
        MemoryError,
        RuntimeError,
        OverflowError,
    ) as error:  # torch's RuntimeError: not enough memory
        raise ValueError(
            f"{file}: a network of the settings {name!r}, {json.dumps(settings):.200}, cannot be built "
            f"({error}): {AGAIN}"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"{file}: {name!r} has no settings of this network ({error}): {AGAIN}"
        ) from error
    load(path, model, part=part)
    return model.eval(), card


def read_card(path) -> dict:
    """The card of the checkpoint at `path`. Raises `FileNotFoundError` or `ValueError` where there
    is none.
    """
    file = Path(path) / CARD
    try:
        return _json.read(
            file, what="card of a checkpoint", remedy=f"remove {path} and train again"
        )
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"there is no checkpoint at {path} (no file {file}): check the path, or train "
            "with path=... first"
        ) from None


def read_state(path) -> dict[str, Tensor] | None:
    """What the training at `path` needs to go on; None where it has finished."""
    file = Path(path) / STATE
    return _read(file) if file.exists() else None


def fill(model: nn.Module, weights: Mapping[str, Tensor], source: str, *, settings=None) -> None:
    """Copy `weights` into `model`, all of them or none; `ValueError` says what differs between it
    and `source`.
    """
    have = model.state_dict()
    wrong = [
        [
            f"{name} is {tuple(weights[name].shape)} there and {tuple(value.shape)} in the model"
            for name, value in have.items()
            if name in weights and weights[name].shape != value.shape
        ]
    ]
    for one, other, where in ((weights, have, "only there"), (have, weights, "only in the model")):
        wrong.append(
            [
                f"{name} {tuple(value.shape)} is {where}"
                for name, value in one.items()
                if name not in other
            ]
        )
    if not any(wrong):
        first = {}  # tied parameters are one tensor under several names
        for name, value in have.items():
            other = (
                first.setdefault((value.data_ptr(), value.shape, value.stride()), name)
                if value.numel()
                else name
            )
            if not torch.equal(weights[name], weights[other]):
                wrong[0].append(
                    f"{name} differs from {other}, which is the same parameter in the model"
                )
    if any(wrong):
        shown = [text for kind in wrong for text in kind[:2]]  # some of each kind
        more = f"; and {n} more" if (n := sum(map(len, wrong)) - len(shown)) else ""
        hint = f" with the settings {json.dumps(settings)}" if settings else ""
        raise ValueError(
            f"{source} does not fit the model: {'; '.join(shown)}{more}. Build the model as it was "
            f"when saved{hint}"
        )
    model.load_state_dict(weights)


def _build(build: Callable[..., nn.Module], settings: Mapping, size: int) -> nn.Module:
    """`build(settings, seed=0)`, but no network that has far more numbers than `size`, and not its
    memory either.
    """
    *_, second, first = sorted([1, 1, *_integers(settings)])
    if first > size:
        raise _TooLarge(
            f"there is a {first:,} in it, and the file of its weights has {size:,} numbers"
        )
    # Of what has no memory first; not always, as its first use in a process takes seconds.
    if first * second > 2**26:
        with torch.device("meta"), _at_most(size):
            build(settings, seed=0)
    with _at_most(size):
        return build(settings, seed=0)


def _integers(settings) -> list[int]:
    """All integers in nested settings."""
    if isinstance(settings, Mapping | list):
        inner = settings.values() if isinstance(settings, Mapping) else settings
        return [number for value in inner for number in _integers(value)]
    return [settings] if isinstance(settings, int) else []


class _TooLarge(Exception):
    """A network has more parameters than the file of its weights."""


@contextlib.contextmanager
def _at_most(size: int) -> Iterator[None]:
    """Raise `_TooLarge` in this thread as soon as modules that are built have far more numbers than
    `size`.
    """
    # Some are made twice: tied ones, for instance.
    limit, thread, seen = (4 * size + 2**20, threading.get_ident(), 0)

    def count(module, name, value):
        nonlocal seen
        if (
            value is not None
            and threading.get_ident() == thread
            and (seen := seen + value.numel() + 1) > limit
        ):
            raise _TooLarge(
                f"it has more than {limit:,} numbers, and the file of its weights {size:,}"
            )

    with (
        nn.modules.module.register_module_parameter_registration_hook(count),
        nn.modules.module.register_module_buffer_registration_hook(count),
    ):
        yield


def _size(file: Path) -> int:
    """How many numbers the tensors in a file have, from its header alone."""
    with _readable(file), safe_open(file, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118  no mapping


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn a failure of the file system in writing a checkpoint into a `ValueError` that says what
    to do.
    """
    try:
        yield
    except FileExistsError:
        raise
    except (OSError, SafetensorError) as error:
        found = re.search(r"os error (\d+)", str(error))  # safetensors has no other way to say it
        number = error.errno if isinstance(error, OSError) else int(found[1]) if found else None
        remedy = {
            errno.ENOSPC: "free some space, or choose another disk",
            errno.EDQUOT: "your quota is full",
            errno.EFBIG: "a limit allows no larger files",
        }.get(number, "choose a folder that you may write to")
        why = os.strerror(number) if number else str(error)
        raise ValueError(f"cannot write the checkpoint {path}: {why}; {remedy}") from error


def as_json(card: Mapping) -> dict:
    """The card as it will be read back. Raises `ValueError` for what JSON cannot hold."""
    try:
        return json.loads(json.dumps(card))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"card: it must be plain text, numbers, lists and dicts: {error}"
        ) from None


def difference(old: Mapping, new: Mapping, *, where: str = "") -> str:
    """The first field in which two cards differ, with both values, but for results; "" where there
    is none.
    """
    for name in (*old, *(name for name in new if name not in old)):
        if not where and name in RESULTS:
            continue
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            if found := difference(a, b, where=f"{where}{name}."):
                return found
        elif a != b:
            return f"{where}{name} is {json.dumps(a)} there and {json.dumps(b)} here"
    return ""


def _same_run(path: Path, card: Mapping) -> None:
    try:
        found = difference(read_card(path), card)
    except (FileNotFoundError, ValueError) as error:
        raise FileExistsError(
            f"{path} exists and is no checkpoint ({error}): choose another path"
        ) from None
    if found:
        raise FileExistsError(
            f"{path} is the checkpoint of another run: {found}; choose another path, or remove it"
        )


def inside(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of `tensors` whose names begin with `part` and a dot, by what follows."""
    return {
        name.removeprefix(f"{part}."): value
        for name, value in tensors.items()
        if name.startswith(f"{part}.")
    }


def copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor by itself on the CPU, as safetensors wants them: tied ones are there under both
    names.
    """
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }


def _read(file: Path) -> dict[str, Tensor]:
    with _readable(file):
        return load_file(file)


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise ValueError(f"{file} is missing or damaged ({error}): {AGAIN}") from None
