"""Parts of models that torch.compile makes quicker: what lies between attentions, for any number of
rows.

How jets are cut and sorted is worked out on the CPU, anew for each batch, and cannot be part of a
compiled graph. What takes a GPU its time beside matrix products and attention are norms,
activations and sums, and these are in here.
"""

from __future__ import annotations

import types
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Regions(nn.Module):
    """A module with parts that can be compiled: `self.region(function, *tensors)` is
    `function(self, *tensors)`.
    """

    compiled: dict[Callable, Callable] | None = None

    def region(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        return (function if self.compiled is None else self.compiled[function])(self, *tensors)


def compile_regions(model: nn.Module, **options) -> int:
    """Compile the parts of `model` that are made for it, in place, when they are first used;
    returns their number.

    One graph serves all layers of a kind, and batches of all sizes. The weights and their names
    stay. options: of `torch.compile`, such as backend or mode.
    """
    parts, made = [module for module in model.modules() if isinstance(module, Regions)], _Compiled()
    made.options = options
    for part in parts:
        part.compiled = made
    return len(parts)


class _Compiled(dict):
    """Functions, compiled when they are asked for: a copy of each, since torch counts the variants
    of one function.
    """

    options: dict = {}

    def __missing__(self, function: Callable) -> Callable:
        own = types.FunctionType(
            function.__code__.replace(),
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        self[function] = torch.compile(own, dynamic=True, **self.options)
        return self[function]

    def __deepcopy__(self, memo) -> _Compiled:
        return self

    def __reduce__(self):
        return _Compiled, ()
