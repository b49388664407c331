"""Ctrl-C and SIGTERM, heard at moments at which a training can stop and go on later as if nothing
had happened.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator, Sequence


class Interrupts:
    """In its `with` block these `signals` do nothing until `check` is called, which then raises
    `KeyboardInterrupt`.

    `asked` is the last that came, or None. A second Ctrl-C raises at once. Signals that were
    ignored stay so. Outside of the main thread, where Python hears none, nothing changes.
    """

    def __init__(self, signals: Sequence[signal.Signals]):
        self.signals, self._before, self._now = signals, {}, False
        self.asked: int | None = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _hear(self, number: int, frame) -> None:
        again, self.asked = self.asked is not None and number == signal.SIGINT, number
        if again or self._now:
            raise KeyboardInterrupt

    def check(self) -> None:
        if self.asked is not None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Here signals do not wait: for what may take long and can be left at any moment."""
        self.check()
        self._now = True
        try:
            yield
        finally:
            self._now = False
