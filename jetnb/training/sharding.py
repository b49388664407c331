"""A network that does not fit into the memory of one device: each process keeps a share of its
weights, of their gradients and of the moments of the optimiser.

Fully sharded data parallel, arXiv:2304.11277, as PyTorch has it in `fully_shard`. The weights of a
block of layers are brought together when it is its turn, and let go after it. What is learned is the
same as with "ddp".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed, nn


def strategy():
    """What Fabric is given: processes as in "ddp", without its copy of all gradients."""
    from lightning.fabric.strategies import DDPStrategy

    class Shares(DDPStrategy):
        def setup_module(self, module: nn.Module) -> nn.Module:
            return module  # `shard` has done it

    return Shares()


def refuse(model: nn.Module, settings, options) -> None:
    """Raise `ValueError` for what a training in shares cannot do, and a remedy."""
    wrong = {
        "no path, where the whole network will be": options.path is None,
        "a strategy with after_step, such as a teacher": hasattr(model, "after_step"),
        "measure": options.measure is not None,
        "parameters": options.parameters is not None,
        "compile": options.compile,
        "precision 16-mixed": settings.precision == "16-mixed",
    }
    for what, there in wrong.items():
        if there:
            raise ValueError(f"fsdp does not go with {what}: leave one of them out")


def shard(loss: nn.Module, device: torch.device) -> None:
    """Cut the weights of `loss` into shares, one for each process, in place: those of each block in
    a list of blocks together, and then all others.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    lists = [part for part in loss.modules() if isinstance(part, nn.ModuleList)]
    for block in (block for part in reversed(lists) for block in part):
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(loss, mesh=mesh)
    loss.to(device)  # buffers


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are shares brought together, on the CPU: all processes have to ask for it."""
    return {
        name: value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
        for name, value in tensors.items()
    }


def spread(tensors: Mapping[str, Tensor], parameters: list[Tensor]) -> dict[str, Tensor]:
    """Moments of the optimiser, "NUMBER.NAME" of a parameter, as shares, like its own."""
    from torch.distributed.tensor import distribute_tensor

    found = {}
    for key, value in tensors.items():
        like = parameters[int(key.partition(".")[0])]
        if value.shape == like.shape and value.ndim:
            value = distribute_tensor(value, like.device_mesh, like.placements)
        found[key] = value
    return found
