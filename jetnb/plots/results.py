"""What came of a training: learning curves, ROCs and reliability diagrams, all with their bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from jetnb import names
from jetnb.plots.looks import LINES, legend, look

POINTS = ("o", "s", "D", "^", "v", "P", "X")


def learning_curve(
    ax, curves: Mapping[str, tuple], *, label: str = "error", noise_floor=None, log: bool = True
):
    """Draw `label` against the number of training jets: median over seeds, and a band.

    curves: {name of the start, e.g. "pretrained": (sizes (K,), values (K,) or (S, K) of S seeds)};
    the band holds the central 68 % of the seeds. noise_floor: a value, or the two ends of a band,
    below which nothing can be told apart. log: logarithmic y axis too. Returns `ax`.
    """
    for index, (name, (sizes, values)) in enumerate(curves.items()):
        values = np.atleast_2d(np.asarray(values, float))
        tex, colour = look(name, index)
        ax.plot(
            sizes,
            np.median(values, axis=0),
            color=colour,
            marker=POINTS[index % len(POINTS)],
            linestyle=LINES[index % len(LINES)],
            label=tex,
            markersize=5,
        )
        if len(values) > 1:
            ax.fill_between(
                sizes,
                *np.quantile(values, [0.16, 0.84], axis=0),
                color=colour,
                alpha=0.22,
                linewidth=0,
            )
    ax.set(xscale="log", xlabel="training jets (log scale)", ylabel=label + " (log scale)" * log)
    if len(ticks := sorted({n for sizes, _ in curves.values() for n in sizes})) <= 6:
        ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
        ax.set_xticks([], minor=True)
    if log:
        ax.set_yscale("log")
    ax.margins(x=0.04, y=0.08)
    if noise_floor is not None:
        low, high = np.min(noise_floor), np.max(noise_floor)
        ax.axhspan(low, high, color=names.GREY, alpha=0.35, linewidth=0)
        ax.axhline(
            (low + high) / 2,
            color=names.SLATE,
            linestyle=":",
            linewidth=1.5,
            label="noise floor",
            zorder=1,
        )
    ax.autoscale_view()
    legend(ax)
    return ax


def roc_curve(
    ax,
    curves: Mapping[str, tuple],
    *,
    points: Mapping[str, object] | None = None,
    lowest: float = 0.0,
    colours: Sequence[str] | None = None,
):
    """Draw background rejection (logarithmic) against signal efficiency, with that of random
    guessing.

    curves: {name: (signal efficiency (K,), background efficiency (K,), ...)}, such as `metrics.roc`
    returns; drawn as far as background passes. points: {name of a curve: what `metrics.rejection`
    returns}; several points make a band, one makes an error bar, and where no background passes an
    arrow shows the lower bound. lowest: where the axis of the signal efficiency begins. colours:
    one for each curve, else those of `look`. Returns `ax`. Taught in notebook 03.
    """
    for index, (name, (signal, background, *_)) in enumerate(curves.items()):
        tex, colour = look(name, index)
        colour = colours[index] if colours else colour
        drawn = (background > 0) & (signal >= lowest)
        ax.plot(
            signal[drawn],
            1 / background[drawn],
            color=colour,
            linestyle=LINES[index % len(LINES)],
            label=tex,
        )
        if points and name in points:
            _working_points(ax, points[name], colour, POINTS[index % len(POINTS)])
    guess = np.linspace(max(lowest, 0.01), 1, 200)
    ax.plot(guess, 1 / guess, color=names.GREY, linewidth=1.2, label="random")
    ax.set(
        yscale="log",
        xlim=(lowest, 1),
        xlabel=r"signal efficiency $\varepsilon_S$",
        ylabel=r"background rejection $1/\varepsilon_B$ (log scale)",
    )
    ax.set_ylim(bottom=1)
    legend(ax)
    return ax


def _working_points(ax, points, colour: str, marker: str) -> None:
    at, value, low, high, bound = np.atleast_1d(
        points.signal_efficiency, points.value, points.low, points.high, points.is_bound
    )
    if len(at) > 1:
        ax.fill_between(at, low, high, where=~bound, color=colour, alpha=0.22, linewidth=0)
        ax.plot(at[bound], value[bound], color=colour, linewidth=1)
    else:
        ax.errorbar(
            at,
            value,
            [value - low, high - value],
            fmt=marker,
            color=colour,
            markeredgecolor="black",
        )
    few = np.flatnonzero(bound)[:: max(1, bound.sum() // 5)]
    ax.errorbar(at[few], value[few], value[few], lolims=True, fmt="none", color=colour)


def reliability(ax, diagrams: Mapping[str, Any]):
    """Draw the observed fraction of signal against the predicted probability, with the diagonal it
    should follow.

    diagrams: {name: what `metrics.calibrate` returns}, or any with `predicted`, `observed`, `low`,
    `high` (K,). Returns `ax`. Taught in notebook 08.
    """
    ax.plot([0, 1], [0, 1], color="black", linestyle=":", linewidth=1.2, label="perfect")
    for index, (name, found) in enumerate(diagrams.items()):
        tex, colour = look(name, index)
        ends = found.observed - found.low, found.high - found.observed
        ax.errorbar(
            found.predicted,
            found.observed,
            ends,
            fmt=POINTS[index % len(POINTS)],
            markersize=5,
            linestyle=LINES[index % len(LINES)],
            linewidth=1.4,
            color=colour,
            label=tex,
        )
    ax.set(
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
        xlabel="predicted probability of signal",
        ylabel="observed fraction of signal",
    )
    ax.legend(loc="best")
    return ax


def bounded_lines(ax, x, curves: Mapping[str, Sequence[tuple]]):
    """Draw what was measured at each x, (K,), by several seeds: medians, the range of all seeds,
    arrows for bounds.

    curves: {name: one pair (values (S,), is_bound) for each x}, e.g. of rejections; where is_bound,
    the median is drawn with an arrow upwards and without a range. The y axis is logarithmic. The
    same place in `curves` is the same look in every figure. Returns `ax`. Taught in notebook 15.
    """
    for index, (name, points) in enumerate(curves.items()):
        tex, colour = look(name, index)
        values = np.array([value for value, _ in points], float).T  # (S, K)
        bound, middle = np.array([few for _, few in points], bool), np.median(values, axis=0)
        ax.plot(
            x,
            middle,
            color=colour,
            marker=POINTS[index % len(POINTS)],
            markersize=5,
            label=tex,
            linestyle=LINES[index % len(LINES)],
        )
        ax.fill_between(
            x,
            values.min(axis=0),
            values.max(axis=0),
            where=~bound,
            color=colour,
            alpha=0.18,
            linewidth=0,
        )
        ax.errorbar(
            np.asarray(x)[bound],
            middle[bound],
            0.4 * middle[bound],
            lolims=True,
            fmt="none",
            color=colour,
        )
    ax.set(yscale="log", ylabel="background rejection (log scale)")
    return ax


def error_curves(
    ax,
    curves: Mapping[str, tuple],
    *,
    label: str = "1 - AUC",
    lines: Mapping[str, float] | None = None,
    colours: Sequence[str] = (),
):
    """Draw one minus what `finetuning.curves` gives: a point for each seed, a line for the mean.

    curves: {mode: (labels (K,), values (S, K) of S seeds)}. lines: {name: value} of what has no
    such curve, as horizontal lines. colours: one for each curve, else those of `look`. Both axes
    are logarithmic. Returns `ax`. Taught in notebook 10.
    """
    for index, (mode, (labels, values)) in enumerate(curves.items()):
        tex, colour = look(mode, index, colours=colours)
        ax.plot(labels, 1 - values.T, ".", color=colour)
        ax.plot(labels, 1 - values.mean(axis=0), color=colour, label=tex)
    for (name, value), style in zip((lines or {}).items(), cycle(LINES[1:])):
        ax.axhline(1 - value, color="black", linestyle=style, label=name)
    ax.set(xscale="log", yscale="log", xlabel="labels, with those of validation", ylabel=label)
    ax.set_xticks(labels, [f"{n:,}" for n in labels])
    ax.set_xticks([], minor=True)
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    return ax


def seed_rows(ax, series: Mapping[str, Mapping], *, colours=("C0", "C9")):
    """Draw one row for each name, one point for each seed.

    series: {label of the legend, "" for none: {name of the row: values (S,), of any number of
    seeds}}; the rows of all series are the same, and their points lie one above the other. Returns
    `ax`. Taught in notebook 10.
    """
    for index, (label, rows) in enumerate(series.items()):
        colour, shift = colours[index % len(colours)], 0.3 * (index - (len(series) - 1) / 2)
        for row, values in enumerate(rows.values()):
            heights = np.full(len(np.atleast_1d(values)), row + shift)
            ax.plot(values, heights, "o", color=colour, label=label if label and not row else None)
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(axis="y", which="minor", length=0)
    ax.invert_yaxis()
    return ax


def over_floor(ax, tables: Mapping[str, Sequence], *, metric: str, colours: Mapping[str, str]):
    """Draw the distances of several samples from the truth, one row for each feature, in units of
    the noise floor.

    tables: {name: rows of `distances.compare`}. metric: which of them, "kld" or "w1". colours:
    {name: colour}; names of one colour after the first have open points. The grey bars are the
    band of the floor. The x axis is logarithmic. Returns `ax`. Taught in notebook 05b.
    """
    filled = set()
    for index, (name, table) in enumerate(tables.items()):
        rows, colour = [row for row in table if row.metric == metric], colours[name]
        d = np.array([row.distance[:6] for row in rows]).T / [row.distance.floor for row in rows]
        value, low, high, _, floor_low, floor_high = d  # (6, K features)
        heights = np.arange(len(rows)) + 0.12 * (index - (len(tables) - 1) / 2)
        ax.errorbar(
            value,
            heights,
            xerr=[value - low, high - value],
            fmt=POINTS[index % len(POINTS)],
            color=colour,
            mfc="white" if colour in filled else colour,
            label=name,
        )
        filled.add(colour)
        bars = {"left": floor_low, "height": 0.12, "color": "0.85", "zorder": 0}
        ax.barh(heights, floor_high - floor_low, **bars)
    ax.set_yticks(range(len(rows)), [names.JET_FIELDS[row.feature].tex for row in rows])
    ax.set(xscale="log", xlabel=f"{metric.upper()} / noise floor (log scale)")
    ax.tick_params(axis="y", which="minor", length=0)
    ax.invert_yaxis()
    return ax


def seed_bars(ax, x, values, **style):
    """Draw values (S, K) of S seeds at x (K,): a point for the mean, a bar from the lowest to the
    highest. style: as for `ax.errorbar`. Returns `ax`. Taught in notebook 04b.
    """
    values = np.asarray(values, float)
    middle = values.mean(axis=0)
    bars = [middle - values.min(axis=0), values.max(axis=0) - middle]
    ax.errorbar(x, middle, bars, **{"markersize": 5, **style})
    return ax
