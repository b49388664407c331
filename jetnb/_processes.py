"""The same function for many arguments, in several processes."""

from __future__ import annotations

import multiprocessing
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

import torch

_shared = None  # function and what it shares, in a worker: inherited, so that nothing of it need be pickled


def each(function: Callable, arguments: Sequence[tuple], shared, *, processes: int) -> Iterator:
    """Yield `function(*one, shared)` for each of `arguments`, as they are done, in no fixed order.

    Workers are forked, so they share the memory of this process and know what a notebook has defined; where there is
    no safe fork (not Linux), or a GPU is in use, which does not survive it, all is done here, one after another.
    """
    if min(processes, len(arguments)) < 2 or sys.platform != "linux" or torch.cuda.is_initialized():
        for one in arguments:
            yield function(*one, shared)
        return
    import lightning.fabric  # noqa: F401  once, instead of seconds in every worker

    global _shared
    _shared = function, shared
    pool = ProcessPoolExecutor(min(processes, len(arguments)), multiprocessing.get_context("fork"))
    try:
        with warnings.catch_warnings():  # of threads: a worker uses none of those of this process
            warnings.simplefilter("ignore", DeprecationWarning)
            futures = [pool.submit(_call, one) for one in arguments]
        for future in as_completed(futures):
            yield future.result()
    finally:
        _shared = None
        pool.shutdown(wait=True, cancel_futures=True)


def _call(one: tuple):
    function, shared = _shared
    return function(*one, shared)
