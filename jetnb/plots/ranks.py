"""A table of methods as figures: one dot for each run, and which mean ranks are too near to tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from jetnb import names


def by_row(
    ax,
    values: Mapping[str, Mapping[int, float]],
    *,
    label: str,
    band: tuple[float, float] | None = None,
    order: Sequence[str] | None = None,
    colour: str = names.BLUE,
):
    """Draw each row of a table as a line of dots, one for each seed, with a bar at their mean.

    values: {row: {seed: value}}. label: of the axis. band: two values, such as the error of a
    baseline, drawn in grey. order: of the rows, from the top. Returns `ax`. Taught in
    notebook 17.
    """
    order = list(values) if order is None else list(order)
    if band is not None:
        ax.axvspan(*band, color=names.GREY, alpha=0.35, linewidth=0, zorder=0)
    for at, name in enumerate(order):
        found = np.array(list(values.get(name, {}).values()))
        if len(found):
            ax.plot(found, np.full(len(found), at), "o", color="black", markersize=3.5)
            ax.plot([found.mean()] * 2, [at - 0.32, at + 0.32], color=colour, linewidth=3)
    ax.set(yticks=range(len(order)), yticklabels=order, xlabel=label, ylim=(len(order) - 0.5, -0.5))
    ax.tick_params(axis="y", which="minor", left=False, right=False)
    ax.locator_params(axis="x", nbins=4)
    ax.grid(axis="y", linewidth=0.3)
    return ax


def critical_difference(ax, labels: Sequence[str], test):
    """Draw mean ranks, the best on top, and bars that join what cannot be told apart.

    labels: of the rows of `test`, what `metrics.rank_test` returns. Where Friedman's test does not
    reject that all are alike, at 5 %, one bar joins all. Returns `ax`. Journal of Machine Learning
    Research 7 (2006) 1, figure 1. Taught in notebook 17.
    """
    order = np.argsort(test.ranks, kind="stable")
    place = {int(row): at for at, row in enumerate(order)}
    groups = test.alike() if test.p_value < 0.05 else [tuple(map(int, order))]
    ax.plot(test.ranks[order], range(len(order)), "o", color="black", markersize=5)
    start, apart = float(test.ranks.max()) + 0.6, 0.02 * len(order)
    for i, group in enumerate(group for group in groups if len(group) > 1):
        ends = [place[group[0]] - 0.2, place[group[-1]] + 0.2]
        ax.plot(
            [start + apart * i] * 2, ends, color=names.BLUE, linewidth=2.5, solid_capstyle="butt"
        )
    ax.set(
        yticks=range(len(order)),
        yticklabels=[labels[i] for i in order],
        ylim=(len(order) - 0.5, -0.5),
        xlabel="mean rank (1 is the best)",
    )
    ax.tick_params(axis="y", which="minor", left=False, right=False)
    return ax
