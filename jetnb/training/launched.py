"""How many processes share a training that `torchrun` or `srun` started, and which this one is."""

from __future__ import annotations

import os


def processes() -> tuple[int, int] | None:
    """Processes on each node, and nodes, as `torchrun` or SLURM's `srun` say; None without them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        return here, int(os.environ["WORLD_SIZE"]) // here
    # Of the step, not of the allocation: a notebook in one is alone.
    n_tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    if n_tasks > 1:
        nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
        return n_tasks // nodes, nodes
    return None


def rank() -> int:
    """The number of this process among all, 0 where it is alone."""
    if processes() is None:
        return 0
    return int(os.environ["RANK" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_PROCID"])
