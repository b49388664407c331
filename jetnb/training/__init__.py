"""Training: `fit(model, data, epochs=..., seed=...)`, the one loop, from a laptop to many GPUs, on
Lightning Fabric.

A model is an `nn.Module` with `loss(batch, *, generator=None)`, which returns a scalar; every
strategy and every classifier is one. Data are those of `jetnb.inputs.batches`.

fitting: the function `fit`, what it refuses, and its processes. loop: what runs in each of them.
resume: going on after a break. watchdog: losses that are not finite, gradients that explode,
collapse. optimisation: learning rate and groups. history: what happened, on disk. plateau: small
models until they stop learning. finders: learning rate and batch size from a sweep. memory: whether
a training fits.
"""

from jetnb.training.fitting import check_free, fit

__all__ = ["check_free", "fit"]
