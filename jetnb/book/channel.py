"""A way around a reply of a kernel that nbclient may lose."""

from __future__ import annotations

import time
from queue import Empty

from jupyter_client.utils import ensure_async


class SlicedChannel:
    """A shell channel that is polled in slices of a second.

    While a widget's Output is in use, nbclient can lose the wake-up of a reply and then waits for
    the whole timeout (jupyter/nbclient 312); a fresh poll sees the reply that is already there.
    """

    def __init__(self, channel):
        self._channel = channel

    def __getattr__(self, name):
        return getattr(self._channel, name)

    async def get_msg(self, timeout=None):
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            try:
                return await ensure_async(self._channel.get_msg(timeout=max(0.0, min(1.0, left))))
            except Empty:
                if left <= 1.0:
                    raise
