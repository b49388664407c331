"""What can go wrong in a training, and how its user hears of it: once, with the numbers and with
what to try.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

EXPLODES = 100  # times the median of gradient norms
PATIENCE = 50  # steps in a row that may be skipped in float16
# No absolute variance tells: where a deep set begins it is 2e-7 and grows, and where JetCLR with a
# transformer, which begins at 0.05 and goes to 0.5, has collapsed it is 2e-4, or 3e-3 with dropout,
# whose noise is a variance too. So: what is left of the largest so far, and rounding.
FALLEN = 0.01
LOWEST_VARIANCE = 1e-8
# Of the projections of JetCLR: below -0.05 where it begins, above -2e-4 where it has collapsed.
HIGHEST_UNIFORMITY = -1e-3
NUMBERS = ("in_a_row", "last_good", "largest_variance", "epochs_flat")  # to remember


class Watchdog:
    """Looks at losses, gradient norms and monitors. `tolerant`: steps that are not finite are
    skipped, not fatal.
    """

    def __init__(self, *, tolerant: bool):
        self.tolerant, self.skipped, self.in_a_row, self.last_good = tolerant, 0, 0, math.nan
        self.largest_variance, self.epochs_flat = 0.0, 0
        self.norms: deque[float] = deque(maxlen=100)
        self.warned: set[str] = set()

    def look(
        self, losses: Sequence[float], norms: Sequence[float], first: int, *, epoch: int, lr: float
    ) -> list[int]:
        """Which of the steps from `first` (from 0) on were finite. Raises `FloatingPointError`
        where training fails.
        """
        good = []
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            if math.isfinite(loss) and math.isfinite(norm):
                good.append(i)
                self.last_good, self.in_a_row = loss, 0
                continue
            self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
            if not self.tolerant or self.in_a_row >= PATIENCE:
                raise FloatingPointError(
                    f"step {first + i + 1} (epoch {epoch}, learning rate {lr:.3g}) has loss {loss:.6g} and gradient "
                    f"norm {norm:.6g}; the last good loss was {self.last_good:.6g}. Check that the inputs are finite "
                    "and scaled; try a lower lr, a longer warmup or a smaller clip; instead of 16-mixed try bf16-mixed"
                )
        norms = [norms[i] for i in good]
        median = statistics.median(self.norms) if len(self.norms) >= 20 else math.inf
        if norms and max(norms) > EXPLODES * median > 0:
            self._warn(
                "explodes",
                f"around step {first + 1} the gradient norm is {max(norms):.3g}, its median is "
                f"{median:.3g}: gradients explode; try a lower lr or a longer warmup",
            )
        self.norms.extend(norms)
        return good

    def look_for_collapse(
        self, monitors: Mapping[str, float], *, batch_size: int, epoch: int
    ) -> None:
        """Warn where representations have become (nearly) one: see `JetCLR.monitors`."""
        flat = [
            name
            for name in ("rank", "perplexity")
            if batch_size > 8 and monitors.get(name, math.inf) < 1.5
        ]
        variance = monitors.get("variance", math.inf)
        if variance < max(LOWEST_VARIANCE, FALLEN * self.largest_variance):
            flat.append("variance")
        if math.isfinite(variance):
            self.largest_variance = max(self.largest_variance, variance)
        if monitors.get("uniformity", -math.inf) > HIGHEST_UNIFORMITY:
            self.epochs_flat += 1
        else:
            self.epochs_flat = 0
        if self.epochs_flat > 1:  # at a start one may pass
            flat.append("uniformity")
        if flat:
            self._warn(
                "collapse",
                f"after epoch {epoch} the {flat[0]} of representations is "
                f"{monitors[flat[0]]:.3g}: they have collapsed, all jets look alike; try a lower lr, a larger "
                "batch, or weaker augmentation",
            )

    def to_tensors(self) -> dict[str, Tensor]:
        """What it remembers, for a checkpoint; how many steps were skipped is in the history.

        Not of what it has warned: the user of a later session must hear it too.
        """
        values = {name: getattr(self, name) for name in NUMBERS}
        values["norms"] = list(self.norms)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}

    def from_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Remember what `to_tensors` made of another. Raises `KeyError` where one is missing."""
        for name in NUMBERS:
            setattr(self, name, tensors[name].item())
        self.norms.clear()
        self.norms.extend(tensors["norms"].tolist())

    def _warn(self, kind: str, text: str) -> None:
        if kind not in self.warned:
            self.warned.add(kind)
            warnings.warn(text, RuntimeWarning, stacklevel=2)
