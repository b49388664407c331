"""A cut on sliders: the spectrum that it leaves, the background expected from beside, and how far
that is from truth.
"""

from __future__ import annotations

import ipywidgets
import numpy as np

from jetnb import metrics, names, plots
from jetnb.widgets.panels import panel

EDGES = np.arange(60.0, 301.0, 10.0)  # GeV; the window begins and ends at some of them
CURVES = {"smooth, cubic": 3, "smooth, quadratic": 2, "exponential": 1}


def draw_cuts(
    ax, table, is_signal, jets, *, tau32_below: float = 0.5, window=(140.0, 200.0), degree: int = 3
):
    """Draw the groomed mass behind a cut on tau32 with the curve fitted beside the window, the
    pulls and the counts.

    table: {"softdrop_mass", "tau32"}, (N,) each, as of `substructure.compute`; is_signal: (N,) the
    truth; jets: what they are from, for the stamp. window [GeV]: two of `EDGES`. degree: as in
    `metrics.sideband`. `ax` becomes the frame of two panels and a column of text. Returns the
    `metrics.Sideband`. Taught in notebook 03.
    """
    kept = np.asarray(table["tau32"]) < tau32_below
    mass, truth = np.asarray(table["softdrop_mass"])[kept], np.asarray(is_signal)[kept]
    found = metrics.sideband(mass, window, edges=EDGES, degree=degree)
    counts, of_signal = (np.histogram(values, EDGES)[0] for values in (mass, mass[truth]))
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    ax.set_axis_off()
    main, below = ax.inset_axes([0.0, 0.33, 0.66, 0.67]), ax.inset_axes([0.0, 0.0, 0.66, 0.27])
    main.stairs(
        of_signal, EDGES, fill=True, color=names.CLASSES["TTBar"].colour, label="tops (truth)"
    )
    bins = (len(EDGES) - 1, EDGES[0], EDGES[-1])
    plots.points(
        main, mass, field="softdrop_mass", bins=bins, density=False, name="all jets", colour="black"
    )
    main.plot(centres, found.curve, color=names.BLUE, label="fit beside the window")
    below.plot(
        centres, (counts - found.curve) / np.sqrt(found.curve), "o", color="black", markersize=4
    )
    below.axhline(0, color=names.BLUE)
    for each in (main, below):
        each.axvspan(*window, color=names.OLIVE, alpha=0.25, linewidth=0)
        each.set_xlim(EDGES[0], EDGES[-1])
    main.set(
        ylabel="jets / 10 GeV",
        ylim=(0, 1.45 * max(counts.max(), found.curve.max()) + 1),
        xticklabels=[],
    )
    main.legend(loc="upper right", fontsize="small")
    below.set(xlabel=names.JET_FIELDS["softdrop_mass"].label, ylabel="pull", ylim=(-5, 5))
    plots.stamp(main, jets)
    ax.text(
        0.7,
        0.98,
        _counts(mass, truth, np.sum(is_signal), window, found),
        va="top",
        transform=ax.transAxes,
        linespacing=1.5,
        fontsize="small",
    )
    return found


def _counts(mass, truth, n_signal, window, found) -> str:
    inside = (mass >= window[0]) & (mass < window[1])
    signal, background = int(np.sum(inside & truth)), int(np.sum(inside & ~truth))
    closure = metrics.closure(found, background)
    return "\n".join(
        [
            f"in the window: {found.seen}",
            f"expected from beside: {found.expected:.0f} ± {found.error:.0f}",
            f"pull of the excess: {found.pull:+.1f}",
            "",
            "truth, which data lack:",
            f"tops: {signal} of {n_signal}, ± {np.sqrt(signal):.0f}",
            f"background: {background} ± {np.sqrt(background):.0f}",
            f"closure: {closure}",
            "(expected over true background)",
        ]
    )


def cuts(table, is_signal, jets) -> ipywidgets.VBox:
    """Turn the cut on tau32, the mass window and the curve, and see signal, background, closure and
    pull at once.

    A `panel` of `draw_cuts`, for the same arguments. Taught in notebook 03.
    """
    return panel(
        lambda ax, tau32_below, window, degree: draw_cuts(
            ax, table, is_signal, jets, tau32_below=tau32_below, window=window, degree=degree
        ),
        size=(8.4, 4.6),
        tau32_below=ipywidgets.FloatSlider(
            0.5, min=0.3, max=1.0, step=0.05, description="tau32 below"
        ),
        window=ipywidgets.SelectionRangeSlider(
            options=[(f"{edge:.0f}", edge) for edge in EDGES[2:-2]],
            index=(6, 12),
            description="window [GeV]",
        ),
        degree=ipywidgets.Dropdown(options=CURVES, description="curve"),
    )
