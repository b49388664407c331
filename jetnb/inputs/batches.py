"""Data for training: packed batches by jet index, their order, and a thread that makes them ahead
of the training.

Data is anything with `len(data)`, the number of jets, and `data[indices]`, a packed batch of these
jets as tensors: (x (T, F) float32, offsets (B+1,) int64, *targets (B, ...)).
`torch.utils.data.Subset(data, indices)` is data too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from jetnb import inputs, packed
from jetnb.data.store import Store

BLOCK = 1 << 17  # jets looked at together


def as_data(data):
    """The same data; a `Subset` with its indices as an array, for `random_split` makes a list."""
    if isinstance(data, Subset):
        return Subset(as_data(data.dataset), np.asarray(data.indices, np.int64))
    return data


class Packed:
    """Jets in memory as one packed batch: `packed[indices]` gathers a smaller one.

    x (T, F): constituents of all N jets, scaled features or pt [GeV], deta, dphi, as the model
    wants them. offsets (N+1,): jet b is `x[offsets[b]:offsets[b + 1]]`. targets: arrays (N, ...),
    e.g. labels; integers become int64, other numbers float32. All may be NumPy, torch or awkward.
    Nothing is copied that has the right type. Raises `ValueError` for lengths that do not fit.
    Taught in notebook 04.

    >>> data = Packed(np.arange(5.0)[:, None], [0, 2, 2, 5], [1, 0, 1])
    >>> data[np.array([2, 0])]
    (tensor([[2.],
            [3.],
            [4.],
            [0.],
            [1.]]), tensor([0, 3, 5]), tensor([1, 1]))
    """

    def __init__(self, x, offsets, *targets):
        self.x, self.offsets = np.ascontiguousarray(x, np.float32), np.asarray(offsets, np.int64)
        self.targets = tuple(as_target(target) for target in targets)
        if (
            self.x.ndim != 2
            or self.offsets.ndim != 1
            or len(self.offsets) == 0
            or self.offsets[0] != 0
            or self.offsets[-1] != len(self.x)
            or (np.diff(self.offsets) < 0).any()
        ):
            raise ValueError(
                f"offsets {self.offsets.shape} from {self.offsets[:1]} to {self.offsets[-1:]} do not fit "
                f"x {self.x.shape}: they must rise from 0 to T, and x be (T, F)"
            )
        for i, target in enumerate(self.targets):
            if target.ndim == 0 or len(target) != len(self):
                raise ValueError(
                    f"target {i} has shape {target.shape}, but there are {len(self)} jets"
                )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, indices) -> tuple[Tensor, ...]:
        """Packed batch of the jets `indices` (B,), integers from 0 to N - 1, in this order."""
        indices = packed.valid(indices, len(self))
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        offsets = packed.starts(lengths)
        batch = (
            self.x.take(packed.rows(starts, lengths), axis=0),
            offsets,
            *(target[indices] for target in self.targets),
        )
        return tuple(map(torch.from_numpy, batch))


class Rows:
    """Jets that stay in memory-mapped stores: the rows (N,) of `stores`, counted over all of them
    in their order.

    rows: None is all. Raises `ValueError` for no stores, and `IndexError` for rows that are not
    there.
    """

    def __init__(self, stores: Store | Sequence[Store], rows=None):
        self.stores = (stores,) if isinstance(stores, Store) else tuple(stores)
        if not self.stores:
            raise ValueError("stores is empty: give at least one")
        self.starts = packed.starts(np.array([len(one) for one in self.stores]))
        n = int(self.starts[-1])
        self.rows = None if rows is None else packed.valid(rows, n).astype(small(n))

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.rows is None else len(self.rows)

    def by_store(self) -> list[tuple[Store, np.ndarray]]:
        """Each store with the rows (n,) of it that are among the jets, in rising order."""
        rows = np.arange(self.starts[-1]) if self.rows is None else np.sort(self.rows)
        edges = np.searchsorted(rows, self.starts)
        return [
            (one, rows[low:high] - start)
            for one, low, high, start in zip(
                self.stores, edges[:-1], edges[1:], self.starts[:-1], strict=True
            )
        ]

    def column(self, name: str) -> np.ndarray:
        """One field (N,) of the jets."""
        every = [np.asarray(one.jets[name]) for one in self.stores]
        every = every[0] if len(every) == 1 else np.concatenate(every)
        return every if self.rows is None else every[self.rows]


class Stored:
    """Jets of memory-mapped stores: `stored[indices]` reads these jets and makes their features.

    stores: from `jetnb.data.store.open`, one, several, or `Rows` of them, of any size. features: F
    names, as in `inputs.compute`; the particles of `jetnb.augment` are ("pt", "deta", "dphi").
    scaler: an `inputs.Scaler` of the same features, or None. targets: names of jet fields. hardest:
    constituents read of each jet, the first; None is all. Raises `ValueError` for names that do not
    fit.
    """

    def __init__(
        self,
        stores: Store | Sequence[Store] | Rows,
        features: Sequence[str] = inputs.KINEMATIC,
        *,
        scaler: inputs.Scaler | None = None,
        targets: Sequence[str] = ("label",),
        hardest: int | None = None,
    ):
        self.jets = stores if isinstance(stores, Rows) else Rows(stores)
        self.features, self.scaler, self.targets, self.hardest = (
            tuple(features),
            scaler,
            tuple(targets),
            hardest,
        )
        if scaler is not None and tuple(scaler.features) != self.features:
            raise ValueError(
                f"scaler is of the features {', '.join(scaler.features)}, not {', '.join(self.features)}"
            )
        for store in self.jets.stores:
            try:
                inputs.check(self.features, store.jets.constituents.fields, store.jets.fields)
            except ValueError as error:
                raise ValueError(f"{store.path}: {error}") from None
            if unknown := [name for name in self.targets if name not in store.jets.fields]:
                raise ValueError(
                    f"targets: {unknown[0]!r} is no jet field of {store.path}, only "
                    f"{', '.join(store.jets.fields)}"
                )
        self._fields, of_jet = inputs.needs(self.features)
        # Views of the mapped columns: nothing is read here, and awkward has no part in making a
        # batch.
        self._columns = [
            {name: np.asarray(store.jets[name]) for name in (*of_jet, *self.targets)}
            for store in self.jets.stores
        ]

    def __len__(self) -> int:
        return len(self.jets)

    def __getitem__(self, indices) -> tuple[Tensor, ...]:
        """Packed batch of the jets `indices` (B,), integers from 0 to N - 1, in this order."""
        indices = packed.valid(indices, len(self))
        rows = indices if self.jets.rows is None else self.jets.rows[indices]
        if len(self.jets.stores) == 1:
            return self._read(0, rows)
        which = np.searchsorted(self.jets.starts, rows, side="right") - 1  # the store of each jet
        order = np.argsort(which, kind="stable")
        found = [
            self._read(i, rows[order][which[order] == i] - self.jets.starts[i])
            for i in np.unique(which)
        ]
        if not found:
            return self._read(0, rows)
        x, offsets, *targets = zip(*found, strict=True)
        offsets = packed.starts(np.concatenate([one.diff() for one in offsets]))
        return Packed(torch.cat(x), offsets, *map(torch.cat, targets))[np.argsort(order)]

    def _read(self, i: int, rows: np.ndarray) -> tuple[Tensor, ...]:
        """Packed batch of these rows of one store."""
        raw = self.jets.stores[i].gather(rows, self._fields, n_max=self.hardest)
        columns = {name: values[rows] for name, values in self._columns[i].items()}
        x, offsets = inputs.compute_packed(raw, self._fields, jets=columns, features=self.features)
        if self.scaler is not None:
            x = self.scaler.transform(x)
        return tuple(
            map(
                torch.from_numpy, (x, offsets, *(as_target(columns[name]) for name in self.targets))
            )
        )


def schedule(n: int, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: every one of n jets once, in an order drawn anew for each epoch.

    n: number of jets. batch_size: of the largest batch; all are of this size but for at most one
    jet less if n is a multiple of it, and otherwise equally smaller, so that no jet is left out and
    no batch is tiny. Returns jet indices (B,), integers, per batch: a function of the arguments alone,
    so training can resume anywhere. Raises `ValueError` for sizes below 1. Taught in notebook 07.

    >>> [len(batch) for batch in schedule(10, 4, seed=1, epoch=0)]
    [4, 3, 3]
    """
    order = np.arange(_at_least_one(n, "n"), dtype=small(n))
    np.random.default_rng([seed, epoch]).shuffle(order)
    return split(order, batch_size)


def small(n: int) -> type:
    """The type of numbers of n jets: they are what grows with a sample that stays on disk."""
    return np.int32 if n < 2**31 else np.int64


def numbers(chosen: np.ndarray) -> np.ndarray:
    """Where chosen (N,) is True, as `small` integers, without a larger copy between."""
    found, at = np.empty(np.count_nonzero(chosen), small(len(chosen))), 0
    for first in range(0, len(chosen), BLOCK):
        some = np.flatnonzero(chosen[first : first + BLOCK]) + first
        found[at : at + len(some)] = some
        at += len(some)
    return found


def split(indices: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """`indices` (N,) in as few parts of nearly equal size as keep each to `batch_size`."""
    return np.array_split(indices, -(-len(indices) // _at_least_one(batch_size, "batch_size")))


def prefetch(
    data, batches: Iterable[np.ndarray], *, ahead: int = 4, pin: bool = False
) -> Iterator[tuple[Tensor, ...]]:
    """Batches of `data`, made in order by one thread, up to `ahead` of them before they are asked
    for.

    batches: jet indices of each. ahead: 0 makes them without a thread, when they are asked for.
    pin: put tensors in pinned memory, from which copies to a GPU do not wait. An error in making a
    batch is raised where that batch would have come. The thread ends with the iterator: when it is
    used up, closed or collected.
    """

    def make(indices):
        return tuple(tensor.pin_memory() for tensor in data[indices]) if pin else data[indices]

    if not ahead:
        yield from map(make, batches)
        return
    waiting = deque()
    with ThreadPoolExecutor(1, "jetnb-prefetch") as thread:
        try:
            for indices in batches:
                waiting.append(thread.submit(make, indices))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def as_target(values) -> np.ndarray:
    """`values` as targets: integers become int64, other numbers float32."""
    values = np.asarray(values)
    return np.asarray(values, np.int64 if values.dtype.kind in "biu" else np.float32)


def _at_least_one(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
