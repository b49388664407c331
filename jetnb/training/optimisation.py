"""What the optimiser is told: the learning rate at each step, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer


def learning_rate(step: int, n_steps: int, warmup: float = 0.05) -> float:
    """What the learning rate is multiplied with at `step` (from 0) of `n_steps`: linear warm-up,
    then a cosine to zero.

    warmup: share of all steps. Returns a number from 0 to 1. Taught in notebook 07.

    >>> [round(learning_rate(step, 10, 0.2), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 0.96, 0.85, 0.69, 0.5, 0.31, 0.15, 0.04]
    """
    n_warmup = round(warmup * n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_steps - n_warmup)))


def groups(
    model: nn.Module, parameters: Sequence[dict] | None, lr: float, weight_decay: float
) -> list[dict]:
    """Param groups for the optimiser, each in two: matrices, which decay, and biases and norms,
    which do not.
    """
    found, named = (
        [],
        {id(value): name for name, value in model.named_parameters() if value.requires_grad},
    )
    for given in parameters or [{"params": model.parameters()}]:
        own = [value for value in given["params"] if value.requires_grad]
        for value in own:
            if named.pop(id(value), None) is None:
                raise ValueError(
                    f"parameters: one of shape {tuple(value.shape)} is there twice, or not in the model"
                )
        for decay, values in (
            (given.get("weight_decay", weight_decay), [v for v in own if v.ndim > 1]),
            (0.0, [v for v in own if v.ndim < 2]),
        ):
            if values:
                found.append({"params": values, "lr": given.get("lr", lr), "weight_decay": decay})
    if named:
        raise ValueError(
            f"parameters: {next(iter(named.values()))} is in no group: add it, or freeze it with "
            "requires_grad_(False)"
        )
    if not found:
        raise ValueError("model has no parameter to train: all are frozen")
    return found


def to_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The moments of `optimizer` as tensors by name, for a checkpoint."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, moments in state.items() for name, value in moments.items()}


def from_tensors(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give `optimizer` the moments that `to_tensors` made of another with the same parameters.

    Raises `ValueError` naming the first moment that does not fit; nothing has changed then.
    """
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        i, _, name = key.partition(".")
        known = i.isdecimal() and int(i) < len(parameters)
        if not known or value.ndim and value.shape != parameters[int(i)].shape:
            there = tuple(parameters[int(i)].shape) if known else "no parameter"
            raise ValueError(
                f"the optimiser's {key} has shape {tuple(value.shape)}, in the model it is {there}"
            )
        state.setdefault(int(i), {})[name] = value
    if len({frozenset(moments) for moments in state.values()}) > 1:
        raise ValueError("the optimiser's moments are not all there")
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
