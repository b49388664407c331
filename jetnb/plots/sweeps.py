"""What is drawn before a long training: sweeps of rate and batch, and a scaling law."""

from __future__ import annotations

import numpy as np
from matplotlib import ticker

from jetnb import names
from jetnb.plots.looks import LINES, panels
from jetnb.plots.results import POINTS


def finders(found):
    """Draw what `training.finders.find` found: the ramps of the learning rate, and the noise scale
    of the gradient. Returns the figure.
    """
    figure, (left, right) = panels(2, size=(4.4, 3.4))
    rates, noise = found
    for row in rates.losses:
        left.plot(rates.rates, row, color=names.GREY, linewidth=0.8)
    for i, row in enumerate(rates.smooth):
        left.plot(rates.rates, row, color="C0", label="smoothed" if not i else None)
    left.axvline(
        rates.suggestion, color="C3", linestyle="--", label=f"suggested {rates.suggestion:.1g}"
    )
    start, low = np.nanmean(rates.losses[:, 0]), np.nanmin(rates.losses)
    left.set(xscale="log", xlabel="learning rate (log scale)", ylabel="loss")
    left.set_ylim(low - 0.1 * (start - low), start + 0.4 * (start - low))
    left.legend(loc="lower left")
    value, ends = (
        np.array([one.value for one in noise.scale]),
        np.array([one[1:3] for one in noise.scale]),
    )
    right.errorbar(
        np.arange(len(value)), value, abs(ends.T - value), fmt="o-", color="C0", label="noise scale"
    )
    right.axhline(
        noise.suggestion, color="C3", linestyle="--", label=f"suggested {noise.suggestion}"
    )
    right.set_xticks(np.arange(len(value)), [str(step) for step in noise.steps])
    right.set(yscale="log", xlabel="steps done", ylabel="jets in a batch (log scale)")
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_formatter("{x:g}")
    right.legend(loc="best")
    return figure


def scaling_law(law, runs):
    """Draw `runs` and the law that `metrics.fit_scaling_law` found for them. Returns the figure.

    Left the loss against jets seen, a colour for each size of network, a marker and a kind of line
    for each number of different jets. Right against weights, for the most jets, one line for each
    number seen.
    """
    figure, (left, right) = panels(2, size=(4.6, 3.6))
    sizes, kinds = (sorted({run[key] for run in runs}) for key in ("weights", "jets"))
    ends = min(run["seen"] for run in runs), max(run["seen"] for run in runs)
    for i, weights in enumerate(sizes):
        for k, n in enumerate(kinds):
            some = [run for run in runs if (run["weights"], run["jets"]) == (weights, n)]
            style = {"color": f"C{i}", "markersize": 5, "linewidth": 1.2}
            left.plot(*_columns(some, "seen"), POINTS[k], markeredgecolor="black", **style)
            _line(
                left,
                law,
                "seen",
                np.geomspace(max(n, ends[0]), ends[1], 40),
                LINES[k],
                weights=weights,
                jets=n,
                **style,
            )
        left.plot([], [], color=f"C{i}", label=f"{weights:,} weights")
    for k, n in enumerate(kinds):
        left.plot([], [], POINTS[k], linestyle=LINES[k], color=names.GREY, label=f"{n:,} jets")
    wide = np.geomspace(sizes[0] / 1.5, sizes[-1] * 1.5, 40)
    for k, seen in enumerate(sorted({run["seen"] for run in runs if run["jets"] == kinds[-1]})):
        some = [run for run in runs if (run["jets"], run["seen"]) == (kinds[-1], seen)]
        style = {"color": f"C{k}", "markersize": 5, "linewidth": 1.2}
        right.plot(*_columns(some, "weights"), POINTS[k], markeredgecolor="black", **style)
        _line(
            right,
            law,
            "weights",
            wide,
            LINES[k],
            jets=kinds[-1],
            seen=seen,
            label=f"{seen:,} seen",
            **style,
        )
    left.set(xscale="log", xlabel="jets seen (log scale)", ylabel="loss on test jets")
    right.set(
        xscale="log",
        xlabel="weights (log scale)",
        ylabel="loss on test jets",
        title=f"{kinds[-1]:,} jets",
    )
    left.xaxis.set_minor_formatter(ticker.NullFormatter())  # over less than a decade they overlap
    left.set_xticks(seen := sorted({run["seen"] for run in runs}), [f"{n:,}" for n in seen])
    for ax in (left, right):
        ax.legend(fontsize="x-small")
    return figure


def _columns(runs, name):
    return [run[name] for run in runs], [run["loss"] for run in runs]


def _line(ax, law, name, x, kind, *, weights=None, jets=None, seen=None, **style):
    fixed = {"weights": weights, "jets": jets, "seen": seen}
    found = [value for value, *_ in law.predict([{**fixed, name: each} for each in x])]
    ax.plot(x, found, linestyle=kind, **style)
