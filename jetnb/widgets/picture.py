"""A picture that can be dragged on: PNG bytes, and where on its axes somebody dragged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anywidget
import numpy as np
import traitlets


class Picture(anywidget.AnyWidget):
    """PNG bytes `value`, shown `width` pixels wide, and `frames`, the axes on it, each a dictionary
    that `frame` makes.

    Dragging over a frame sets `dragged` to [frame, x0, y0, x1, y1, count] in shares of the frame
    from its lower left, a click to [frame, 0, 0, 0, 0, count], a double click to [-1, ...]; with
    `live` also while it goes on.
    """

    _esm = Path(__file__).parent / "picture.js"
    value = traitlets.Bytes().tag(sync=True)
    frames, dragged = traitlets.List().tag(sync=True), traitlets.List().tag(sync=True)
    description = traitlets.Unicode().tag(sync=True)
    width, live = traitlets.Int(768).tag(sync=True), traitlets.Bool(False).tag(sync=True)

    def on_drag(self, act: Callable) -> None:
        """Call ``act(frame, x range, y range)`` in the units of the axes for a drag,
        `act(frame, None, None)` for a click, and ``act(None, None, None)`` for a double click.
        """

        def told(_change):
            number, x0, y0, x1, y1, _ = self.dragged
            if not 0 <= number < len(self.frames):
                return act(None, None, None)
            if x1 <= x0:
                return act(number, None, None)
            one = self.frames[number]
            return act(
                number,
                _between(one["x"], x0, x1, one["log_x"]),
                _between(one["y"], y0, y1, one["log_y"]),
            )

        self.observe(told, "dragged")


def frame(ax, *, both: bool = True) -> dict:
    """Where `ax` lies on its figure, in shares from the top left, and its limits; both: a drag
    counts in x and in y.
    """
    box = ax.get_window_extent().transformed(ax.figure.transFigure.inverted())
    return {
        "box": [float(box.x0), float(1 - box.y1), float(box.x1), float(1 - box.y0)],
        "both": both,
        "x": [float(each) for each in ax.get_xlim()],
        "y": [float(each) for each in ax.get_ylim()],
        "log_x": ax.get_xscale() == "log",
        "log_y": ax.get_yscale() == "log",
    }


def _between(limits, low: float, high: float, log: bool) -> tuple[float, float]:
    first, last = np.log(limits) if log else limits
    found = [first + share * (last - first) for share in (low, high)]
    low, high = np.exp(found) if log else found
    return float(low), float(high)
