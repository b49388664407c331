"""How many steps and epochs a training has, and how many jets it has seen after each step."""

from __future__ import annotations

from typing import NamedTuple


class Pace(NamedTuple):
    """n_jets in batches of at most `batch_size`, for `n_steps` steps.

    >>> pace = Pace(n_jets=10, batch_size=4, n_steps=5)
    >>> pace.steps_per_epoch, pace.n_epochs, pace.steps_of(1), [pace.jets(i) for i in range(6)]
    (3, 2, (3, 5), [0, 4, 7, 10, 14, 17])
    """

    n_jets: int
    batch_size: int
    n_steps: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_jets // self.batch_size)

    @property
    def n_epochs(self) -> int:
        return -(-self.n_steps // self.steps_per_epoch)

    def steps_of(self, epoch: int) -> tuple[int, int]:
        """Steps that are done before and after `epoch`, counted from 0."""
        first = epoch * self.steps_per_epoch
        return first, min(first + self.steps_per_epoch, self.n_steps)

    def epoch_of(self, step: int) -> int:
        """The epoch, counted from 1, in which there have been `step` steps, the last of them in it."""
        return (step - 1) // self.steps_per_epoch + 1

    def jets(self, step: int) -> int:
        """How many jets are seen in so many steps."""
        epochs, rest = divmod(step, self.steps_per_epoch)
        size, larger = divmod(self.n_jets, self.steps_per_epoch)
        return epochs * self.n_jets + rest * size + min(rest, larger)
