"""The training monitor: the loss as it falls, and a button that stops the training cleanly."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

import ipywidgets
import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from jetnb import names
from jetnb.widgets import comms
from jetnb.widgets.panels import message, to_png

SIZE = (9.0, 3.2)
WAIT = 0.5  # seconds between two pictures, at least
SHARE = 0.1  # of the time that drawing may take
MOST = 2000  # points of a curve: more would not be seen, but be slow


def draw_losses(ax, records: Iterable[Mapping]):
    """Draw the course of a training: loss, learning rate and jets per second, on `ax` of about 9 x
    3.2 inches.

    records: dicts with any of step, loss, validation_loss, lr, jets_per_second, gradient_norm, such
    as the steps and epochs of `training.fit`, or both: of one step the record with the learning
    rate is taken. A training loss is a mean since the record before, and drawn in the middle of
    these steps; a validation loss at its step, the end of an epoch. Losses are logarithmic where
    all are positive and span more than a factor of 5; beside more than 50 points there is their
    running mean, in the middle too. Returns `ax`. Taught in notebook 07.
    """
    records = list(records)
    ax.set_axis_off()
    if not any("loss" in record for record in records):
        return message(ax, "waiting for the first step")
    rows = [
        name
        for name in ("lr", "gradient_norm", "jets_per_second")
        if any(name in each for each in records)
    ]
    main = ax.inset_axes((0.0, 0.0, 0.62 if rows else 1.0, 1.0))
    step, loss = _curve(records, "loss", middle=True)
    few = len(step) <= 50
    main.plot(
        step,
        loss,
        color=names.BLUE,
        linewidth=1.6 if few else 0.8,
        alpha=1 if few else 0.45,
        label="training",
        marker="." if few else "",
    )
    if not few:
        width = max(len(loss) // 40, 5)
        mean = np.convolve(loss, np.full(width, 1 / width), mode="valid")
        centre = np.convolve(step, np.full(width, 1 / width), mode="valid")
        main.plot(centre, mean, color=names.BLUE, linewidth=2, label=f"mean of {width}")
    at, validation = _curve(records, "validation_loss")
    if len(at):
        main.plot(
            at,
            validation,
            color=names.RED,
            marker="o",
            markersize=5,
            linestyle="--",
            label="validation",
        )
    both = np.concatenate([loss, validation])
    both = both[np.isfinite(both)]
    log = bool(len(both) and both.min() > 0 and both.max() > 5 * both.min())
    main.set(xlabel="step", ylabel="loss" + " (log scale)" * log, yscale="log" if log else "linear")
    if log:
        short = both.max() < 200 * both.min()  # too short for powers of ten alone to label it
        main.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if short else (1,)))
        main.yaxis.set_major_formatter("{x:g}")
        main.yaxis.set_minor_formatter(NullFormatter())
    main.legend(loc="upper right")
    labels = {
        "lr": "learning rate",
        "gradient_norm": "gradient norm",
        "jets_per_second": "jets / s",
    }
    for i, name in enumerate(rows):
        height = 1.16 / len(rows) - 0.16
        small = ax.inset_axes((0.7, 1 - height - i * (height + 0.16), 0.3, height), sharex=main)
        small.plot(*_curve(records, name), color=names.SLATE, linewidth=1.2)
        small.set_title(labels[name], fontsize="small", loc="left", pad=2)
        small.tick_params(labelsize=9, labelbottom=i == len(rows) - 1, length=3)
        small.yaxis.set_major_locator(MaxNLocator(3))
        small.yaxis.set_major_formatter("{x:,.4g}")
        small.set_ylim(bottom=0)
    if rows:
        small.set_xlabel("step")
    main.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return ax


def _curve(records, name: str, *, middle: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the records that have the quantity `name`, in order.

    Records without steps are counted. middle: in place of its own step, the middle of those since
    the record before.
    """
    points = sorted(
        (record.get("step", i), "lr" in record, i)
        for i, record in enumerate(records)
        if record.get(name) is not None
    )
    values = {step: records[i][name] for step, _, i in points}  # of several of one step the last
    step, value = np.array(list(values.items()), float).reshape(-1, 2).T
    if middle and len(step):
        before = step[0] - np.diff(step).max() if len(step) > 1 else min(0, step[0] - 1)
        step = (step + 1 + np.concatenate([[before], step[:-1]])) / 2
    thin = max(1, -(-len(step) // MOST))
    return step[::thin], value[::thin]


class LossPlot:
    """A picture of the loss that follows a training, with a button to stop it: pass it to
    `training.fit` as `watch`.

    Show `panel` first, in a cell above the training or at its beginning, and make one for each
    training. Called with a record after each step, it draws at most every half a second and answers
    whether to stop. `records` keeps what it was given; `close()` draws the last ones. Without a
    browser it does the same, and nobody presses the button.
    """

    def __init__(self):
        self.records: list[dict] = []
        self._stop, self._started = threading.Event(), time.monotonic()
        self._next = 0.0
        self.button = ipywidgets.Button(
            description="Stop",
            icon="stop",
            button_style="danger",
            tooltip="end the training after this step and keep what was learned",
        )
        self.button.on_click(self._press)
        self.status = ipywidgets.HTML("waiting for the first step")
        self.image = ipywidgets.Image(
            format="png",
            value=self._picture(),
            layout={
                "width": f"{96 * SIZE[0]:.0f}px",
                "max_width": "100%",
                "height": "auto",
                "flex": "0 0 auto",
                "align_self": "flex-start",
                "object_fit": "contain",
            },
        )
        self.panel = ipywidgets.VBox([ipywidgets.HBox([self.button, self.status]), self.image])

    def __call__(self, record: Mapping) -> bool:
        """Note `record`, draw if it is time; True once the button was pressed."""
        self.records.append(dict(record))
        comms.handle_pending(self.button.comm)
        if self._stop.is_set():
            self.close()
        elif time.monotonic() >= self._next:
            self.redraw()
        return self._stop.is_set()

    def redraw(self) -> None:
        """Draw all records up to now."""
        began = time.monotonic()
        self.image.value = self._picture()
        self.status.value = self._say()
        now = time.monotonic()
        self._next = now + max(WAIT, (now - began) / SHARE)

    def stop(self) -> None:
        """Let the training end after this step, as the button does."""
        self._stop.set()

    def close(self) -> None:
        """Draw the last records and put the button out of use."""
        self.button.disabled, self.button.description = (
            True,
            "Stopped" if self._stop.is_set() else "Ended",
        )
        self.redraw()

    def _press(self, _button) -> None:
        self.button.disabled, self.button.description = True, "Stopping"
        self.stop()

    def _picture(self) -> bytes:
        def draw(ax):
            ax.set_position((0.09, 0.16, 0.89, 0.76))
            draw_losses(ax, self.records)

        return to_png(draw, size=SIZE)

    def _say(self) -> str:
        last = self.records[-1] if self.records else {}
        shown = {
            "epoch": "epoch {:g}",
            "step": "step {:g}",
            "loss": "loss {:.4g}",
            "validation_loss": "validation {:.4g}",
            "jets_per_second": "{:,.0f} jets/s",
        }
        parts = [
            text.format(last[name]) for name, text in shown.items() if last.get(name) is not None
        ]
        state = "stopped" if self._stop.is_set() else f"{time.monotonic() - self._started:.0f} s"
        return ", ".join([*parts, state])


def loss_plot() -> LossPlot:
    """A `LossPlot`, whose `panel` is to be shown and which is passed to `training.fit` as `watch`.

        plot = widgets.loss_plot()
        display(plot.panel)
        fit(model, data, epochs=20, seed=1, watch=plot)

    Taught in notebook 07.
    """
    return LossPlot()
