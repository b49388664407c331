"""Which learning rate, and how many jets in a batch: both from a few short sweeps.

found = finders.find(model, data, seeds=(1, 2, 3))
plots.finders(found)
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter1d
from torch import nn

from jetnb import hardware
from jetnb.inputs import batches
from jetnb.metrics.estimates import LEVEL, Estimate
from jetnb.training import optimisation

SMOOTH = 3.0  # steps of the ramp: width of the normal curve with which its loss is smoothed


FEW = 5  # steps of which the mean says that a ramp has ended


class Rates(NamedTuple):
    """A ramp of the learning rate.

    rates (K,); losses, smooth (S, K) of S seeds, nan after the end of a ramp; steepest (S,): the
    rate where the smoothed loss of each seed falls fastest; suggestion: their geometric mean.
    """

    rates: np.ndarray
    losses: np.ndarray
    smooth: np.ndarray
    steepest: np.ndarray
    suggestion: float

    def __repr__(self) -> str:
        return (
            f"learning rate {self.suggestion:.2g}: where the smoothed loss of a ramp falls fastest "
            f"({self.steepest.min():.2g} to {self.steepest.max():.2g} in {len(self.steepest)} seeds)"
        )


class Noise(NamedTuple):
    """The noise of the gradient after each of `steps` (K,): `scale`, K estimates in jets."""

    steps: tuple[int, ...]
    scale: tuple[Estimate, ...]

    @property
    def suggestion(self) -> int:
        """The noise scale at the end of the sweep, as a power of two, at least 8."""
        return int(2 ** np.clip(np.round(np.log2(max(self.scale[-1].value, 1))), 3, 30))

    def __repr__(self) -> str:
        return (
            f"batch of {self.suggestion} jets: the noise scale after {self.steps[-1]} steps, "
            f"{self.scale[-1]}, as a power of two"
        )


class Found(NamedTuple):
    """What `find` found: of `rates` and of `noise`."""

    rates: Rates
    noise: Noise

    def __repr__(self) -> str:
        return f"{self.rates!r}\n{self.noise!r}"


def find(
    model: nn.Module,
    data,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    batch_size: int = 64,
    steps: int = 100,
    looks: Sequence[int] = (0, 20, 100),
    accelerator: str = "auto",
) -> Found:
    """Sweep learning rates, and measure the noise of the gradient at the rate that is suggested.

    All is done on copies: `model` stays as it is. data, batch_size: as for `training.fit`. steps:
    of each ramp. looks: after how many steps the noise is measured. Taught in notebook 18.
    """
    rates = find_rate(
        model, data, seeds=seeds, batch_size=batch_size, steps=steps, accelerator=accelerator
    )
    noise = find_batch_size(
        model, data, seed=seeds[0], looks=looks, lr=rates.suggestion, batch_size=batch_size,
        accelerator=accelerator,
    )  # fmt: skip
    return Found(rates, noise)


def find_rate(
    model: nn.Module,
    data,
    *,
    seeds: Sequence[int] = (1, 2, 3),
    batch_size: int = 64,
    lowest: float = 1e-5,
    highest: float = 1.0,
    steps: int = 100,
    accelerator: str = "auto",
) -> Rates:
    """Let the learning rate rise from `lowest` to `highest` in `steps` steps, evenly in its
    logarithm, once for each seed.

    A seed changes the order of jets and what a loss draws; weights begin as they are in `model`. A
    ramp ends where the loss is not finite, or its mean over five steps half as much again above the
    start. The rate that is suggested is where the smoothed loss falls fastest for each factor of
    the rate. A rule of thumb: for token generators of 9 600 to 59 000 weights it was within a
    factor of two of the best of a grid of rates. arXiv:1506.01186 (the ramp). Raises `ValueError`
    for rates that do not rise, and for fewer than ten steps.
    """
    if not 0 < lowest < highest:
        raise ValueError(
            f"lowest is {lowest} and highest {highest}: they must be positive and rise"
        )
    if steps < 10:
        raise ValueError(f"steps is {steps}: a ramp needs at least 10")
    rates = np.geomspace(lowest, highest, steps)
    losses = np.full((len(seeds), steps), np.nan)
    smooth, steepest = losses.copy(), []
    for row, seed in enumerate(seeds):
        step = _stepper(model, data, seed, batch_size, accelerator, total=steps)
        for i, rate in enumerate(rates):
            loss = step(rate)
            if not np.isfinite(loss):
                break
            losses[row, i] = loss
            first = losses[row, :FEW].mean()
            if i >= FEW and losses[row, i + 1 - FEW : i + 1].mean() > first + abs(first) / 2:
                break
        n = int(np.isfinite(losses[row]).sum())
        if n < 10:
            raise ValueError(
                f"the ramp of seed {seed} ended after {n} steps, at a rate of {rates[max(n - 1, 0)]:.2g}: "
                "try a smaller lowest, and check that inputs are scaled"
            )
        smooth[row, :n] = gaussian_filter1d(losses[row, :n], SMOOTH, mode="nearest")
        fall = np.gradient(smooth[row, :n])[: int(smooth[row, :n].argmin()) + 1]
        steepest.append(rates[int(fall.argmin())])
    at = np.array(steepest)
    return Rates(rates, losses, smooth, at, float(np.exp(np.log(at).mean())))


def find_batch_size(
    model: nn.Module,
    data,
    *,
    seed: int = 1,
    looks: Sequence[int] = (0, 20, 100),
    lr: float = 1e-3,
    batch_size: int = 64,
    small: int = 8,
    n_small: int = 64,
    accelerator: str = "auto",
    level: float = LEVEL,
) -> Noise:
    """Measure the noise scale of the gradient while `model`, a copy of it, is trained.

    The scale is the variance of the gradient of one jet, summed over weights, over the square of
    the mean gradient: with batches much smaller than that, twice the jets per step halve the steps;
    with larger ones the steps stay as many, and jets are wasted. It is taken from the gradients of
    `n_small` batches of `small` jets each, after each of `looks` steps; the interval is from
    leaving out one of them at a time. arXiv:1812.06162 (appendix A.1). For losses that are a mean
    over jets: not for contrastive ones, whose gradient changes with the batch. Raises `ValueError`
    for looks that do not rise.
    """
    looks = tuple(looks)
    if not looks or looks[0] < 0 or any(b <= a for a, b in itertools.pairwise(looks)):
        raise ValueError(f"looks {looks} must rise, from 0 on")
    step = _stepper(model, data, seed, batch_size, accelerator, total=looks[-1])
    other = _stepper(model, data, seed + 1000, small, accelerator, total=0, of=step.model)
    found = []
    for done in range(looks[-1] + 1):
        if done in looks:
            gradients = torch.stack([other.gradient() for _ in range(n_small)]).double()
            found.append(_noise(gradients, small, level))
        if done < looks[-1]:
            step(lr)
    return Noise(looks, tuple(found))


def _noise(gradients, small: int, level: float) -> Estimate:
    """The noise scale of gradients (K, W), each the mean of `small` jets."""
    n = len(gradients)
    own, total = gradients.square().sum(1), gradients.sum(0)
    dot = gradients @ total  # (K,)

    def scale(n, squares, of_sum):
        mean = of_sum / n**2  # of all together, still with noise in it
        noise = (squares / n - mean) * n / (n - 1)  # of one small batch
        signal = mean - noise / n
        return small * noise / signal if signal > 0 else np.inf

    squares, of_sum = float(own.sum()), float(total @ total)
    value = scale(n, squares, of_sum)
    left_out = np.array(
        [
            scale(n - 1, squares - a, of_sum - 2 * b + a)
            for a, b in zip(own.tolist(), dot.tolist(), strict=True)
        ]
    )
    if not np.isfinite(value) or not np.isfinite(left_out).all():
        return Estimate(float(value), np.nan, np.inf, level)
    logs = np.log(left_out)
    reach = stats.norm.isf((1 - level) / 2) * np.sqrt((n - 1) * logs.var())
    return Estimate(
        float(value), float(value * np.exp(-reach)), float(value * np.exp(reach)), level
    )


class _stepper:  # noqa: N801 - called like a function
    """`step(lr)`: one step of AdamW, as `training.fit` does it, on a copy of a model; its loss."""

    def __init__(self, model, data, seed, batch_size, accelerator, *, total: int, of=None):
        hardware.check(accelerator)
        self.device = torch.device(hardware.named(accelerator))
        self.model = copy.deepcopy(model).to(self.device).train() if of is None else of
        self.data, self.size, self.seed = data, batch_size, seed
        self.done, self.total = 0, total
        groups = optimisation.groups(self.model, None, 1e-3, 0.01)
        self.learning = [value for group in groups for value in group["params"]]
        self.optimiser = torch.optim.AdamW(groups, fused=True)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.rows = self._rows()

    def _rows(self) -> Iterator[np.ndarray]:
        for epoch in itertools.count():
            yield from batches.schedule(len(self.data), self.size, seed=self.seed, epoch=epoch)

    def _backward(self) -> float:
        x, offsets, *targets = self.data[next(self.rows)]
        batch = x.to(self.device), offsets, *(value.to(self.device) for value in targets)
        self.optimiser.zero_grad()
        with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
            torch.manual_seed(
                int(torch.randint(2**31, (), generator=hardware.on_cpu(self.generator)))
            )
            loss = self.model.loss(batch, generator=self.generator)
        loss.backward()
        return float(loss.detach())

    def gradient(self) -> torch.Tensor:
        """Of a batch, as one vector (W,) on the CPU."""
        self._backward()
        parts = [torch.zeros_like(v) if v.grad is None else v.grad for v in self.learning]
        return torch.cat([part.flatten() for part in parts]).cpu()

    def __call__(self, lr: float) -> float:
        loss = self._backward()
        if np.isfinite(loss):
            nn.utils.clip_grad_norm_(self.learning, 1.0)
            for group in self.optimiser.param_groups:
                group["lr"] = lr
            self.optimiser.step()
            self.done += 1
            if hasattr(self.model, "after_step"):  # what follows the weights, such as a teacher
                self.model.after_step(self.done, self.total)
        return loss
