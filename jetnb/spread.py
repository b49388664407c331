"""Many pieces of work over processes of this machine, or of a cluster: in order, and whatever happens to a worker."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import cloudpickle

AHEAD = 2  # pieces in work or waiting for each worker: more would only fill memory
DEATHS = 3  # as many workers may die of one piece before it is given up


def run(function: Callable, pieces: Iterable, *, processes: int | None = None, client=None) -> Iterator:
    """`function(piece)` for each of `pieces`, in their order.

    processes: workers on this machine, all cores without; 1 works here. client: a `dask.distributed.Client`, whose
    workers are used then. `function` may be one written in a notebook. A worker that is killed costs time alone: its
    pieces are done again. Raises what `function` raises, and `RuntimeError` for a piece of which three workers died
    one after the other.
    """
    if client is not None:
        yield from _on_cluster(function, pieces, client)
    elif (processes or os.cpu_count()) == 1:
        yield from map(function, pieces)
    else:
        yield from _in_processes(cloudpickle.dumps(function), pieces, processes or os.cpu_count())


def _on_cluster(function: Callable, pieces: Iterable, client) -> Iterator:
    pieces, waiting = iter(pieces), deque()
    while True:
        room = AHEAD * len(client.scheduler_info()["workers"]) - len(waiting)  # less than 0 just after a death
        for piece in itertools.islice(pieces, max(room, 0 if waiting else 1)):
            waiting.append(client.submit(function, piece, pure=False, retries=DEATHS))
        if not waiting:
            return
        yield waiting.popleft().result()


def _in_processes(function: bytes, pieces: Iterable, processes: int) -> Iterator:
    pieces, waiting, deaths = iter(pieces), deque(), 0  # waiting: (piece, its future)
    pool = _pool(processes)
    try:
        while True:
            for piece in itertools.islice(pieces, AHEAD * processes - len(waiting)):
                waiting.append((piece, _submit(pool, function, piece)))
            if not waiting:
                return
            try:
                result = waiting[0][1].result()
            except BrokenProcessPool:  # one worker died, and all that waited is lost
                deaths += 1
                if deaths >= DEATHS:
                    raise RuntimeError(f"{deaths} workers died at {waiting[0][0]}: is there too little memory? Use "
                                       "fewer processes, or smaller pieces") from None
                pool.shutdown(wait=False, cancel_futures=True)
                pool = _pool(processes)
                waiting = deque((piece, _submit(pool, function, piece)) for piece, _ in waiting)
                continue
            waiting.popleft()
            deaths = 0
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(processes: int) -> ProcessPoolExecutor:
    # Spawned, not forked: threads of numba, torch and Jupyter do not survive a fork.
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


def _submit(pool: ProcessPoolExecutor, function: bytes, piece) -> Future:
    try:
        return pool.submit(_call, function, piece)
    except BrokenProcessPool as error:  # noticed here, raised where the result is asked for
        broken = Future()
        broken.set_exception(error)
        return broken


def _call(function: bytes, piece):
    return cloudpickle.loads(function)(piece)
