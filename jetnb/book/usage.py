"""What a notebook took of the machine: memory of its kernel and workers, and files that it left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

EVERY = 0.5  # seconds between two looks at the memory, at least
REST = 50  # times as long as a look took: to count shared pages takes long for large processes


class Memory:
    """The most memory [bytes] that a process and its children had at once, in `peak`, while this is
    open; 0 while nobody said by `of(pid)` which process.

    Looked at every half second, or less often where a look takes long, so what lasts for less may be
    missed. Pages that processes share count once where the system tells (Linux).
    """

    def __init__(self):
        self.peak, self._pid, self._end = 0, None, threading.Event()

    def of(self, pid: int | None) -> None:
        self._pid = pid

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        took = 0.0
        while not self._end.wait(max(EVERY, REST * took)):
            if self._pid is not None:
                started = time.thread_time()
                self.peak = max(self.peak, of_family(self._pid))
                took = time.thread_time() - started


def of_family(pid: int) -> int:
    """Memory [bytes] of a process and all below it; those that have just ended count nothing."""
    family = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    return sum(map(_own, family))


def _own(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.Error):
        found = process.memory_full_info()
        return getattr(found, "pss", found.rss)
    with contextlib.suppress(psutil.Error):  # one that we may not look into
        return process.memory_info().rss
    return 0


def written_since(start: float, folder: Path, *, without: Path | None = None) -> int:
    """Bytes of the files below `folder` that were written after `start` (`time.time()`), less those
    below `without`.
    """
    total = 0
    for path in _files(folder):
        with contextlib.suppress(OSError):
            about = path.stat()
            if about.st_mtime >= start and not (without and path.is_relative_to(without)):
                total += about.st_size
    return total


def _files(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from (path for path in folder.rglob("*") if path.is_file())


def speed(seconds: float = 0.2) -> float:
    """How fast one core works here: rounds per second of a small fixed sum in plain Python and
    numpy, the best of three looks.
    """
    import numpy as np

    x = np.random.default_rng(1).normal(size=(96, 96)).astype(np.float32)
    best = 0.0
    for _ in range(3):
        rounds, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds / 3:
            float((x @ x).sum())
            sum(range(2000))
            rounds += 1
        best = max(best, rounds / passed)
    return best
