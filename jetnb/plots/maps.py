"""Maps in eta and phi: of a detector, of the average jet, of one jet."""

from __future__ import annotations

import hist
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator

from jetnb import kinematics, names
from jetnb.plots.looks import COLOURS, look

MARKERS = {
    "charged_hadron": "o",
    "photon": "s",
    "neutral_hadron": "D",
    "electron": "^",
    "muon": "*",
    "forward_hadronic": "P",
    "forward_electromagnetic": "X",
}


# |eta|, and what begins there.
BORDERS = ((1.479, "end cap"), (2.5, "no tracker"), (3.0, "forward calorimeter"))


def eta_phi_map(
    ax, filled: hist.Hist, *, log: bool = False, square: bool = False, label: str | None = None
):
    """Draw a two-dimensional `hist.Hist` in its own axis labels, empty cells white, with a colour
    bar; returns `ax`.

    Cells smaller than a pixel are summed: a picture leaves out none of the entries. Give the figure
    its dpi before. log: logarithmic colour scale. square: equal scales on both axes. label: of the
    colour bar, if not the histogram's.
    """
    summed, factors = _at_least_a_pixel(ax, filled.values())
    content = np.ma.masked_less_equal(summed.T, 0)
    low = content.min() if content.count() else 1.0
    high = content.max() if content.count() else 1.0
    norm = LogNorm(low, max(high, 2 * low)) if log else Normalize(0, high)
    (x0, x1), (y0, y1) = ((axis.edges[0], axis.edges[-1]) for axis in filled.axes)
    # Of the last cell, if it is cut.
    right, top = (
        low + (high - low) * n * factor / axis.size
        for (low, high), n, factor, axis in zip(
            ((x0, x1), (y0, y1)), summed.shape, factors, filled.axes, strict=True
        )
    )
    drawn = ax.imshow(
        content,
        origin="lower",
        extent=(x0, right, y0, top),
        norm=norm,
        interpolation="nearest",
        aspect="equal" if square else "auto",
    )
    ax.set(
        anchor="W",
        xlim=(x0, x1),
        ylim=(y0, y1),
        xlabel=filled.axes[0].label,
        ylabel=filled.axes[1].label,
    )
    ticks = {"ticks": MaxNLocator(6, integer=high > 2)} if not log else {}
    if log and high < 200 * low:  # too short for powers of ten alone to label it
        ticks = {"format": FormatStrFormatter("%g"), "ticks": LogLocator(subs=(1, 2, 5))}
    # As high as the map, always.
    bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.02, 0, 0.04, 1)), **ticks)
    bar.ax.minorticks_off()
    bar.set_label((label or filled.label or "entries / cell") + (" (log scale)" if log else ""))
    if not content.count():
        ax.text(0.5, 0.5, "no entries", transform=ax.transAxes, ha="center")
    return ax


def n_pixels(ax) -> tuple[float, float]:
    """Width and height of `ax` in pixels of its figure, less a tenth that a layout may take later."""
    box = ax.get_window_extent()
    return 0.9 * box.width, 0.9 * box.height


def _at_least_a_pixel(ax, values: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Sum neighbouring cells of (X, Y) until none is smaller than a pixel; also how many in x and
    in y became one.
    """
    factors = [
        -(-n // max(int(pixels), 1)) for n, pixels in zip(values.shape, n_pixels(ax), strict=True)
    ]
    for direction, factor in enumerate(factors):
        values = np.add.reduceat(
            values, np.arange(0, values.shape[direction], factor), axis=direction
        )
    return values, factors


def borders(ax):
    """Write on a map or a distribution in eta (or its size) where end caps and forward calorimeter
    begin; returns `ax`.

    The borders are those of CMS, JINST 3 (2008) S08004: `BORDERS`. Taught in notebook 02.
    """
    low, high = ax.get_xlim()
    for edge, what in BORDERS:
        for at in (-edge, edge):
            if not low < at < high:
                continue
            line = ax.axvline(at, color="black", linewidth=0.9, linestyle=":")
            text = ax.annotate(
                what,
                (at, 0.98),
                (3 * np.sign(at), 0),
                line.get_transform(),
                textcoords="offset points",
                rotation=90,
                va="top",
                ha="left" if at > 0 else "right",
                fontsize="x-small",
            )
            text.set_bbox({"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1})
    return ax


def jet_image(ax, filled: hist.Hist, *, radius: float = 0.8, log: bool = True):
    """Draw a jet image (mean pt per cell around the jet axis) with the circle of the jet; returns
    `ax`.
    """
    eta_phi_map(ax, filled, log=log, square=True)
    ax.add_patch(Circle((0, 0), radius, fill=False, color=names.RED, linewidth=1.2, linestyle="--"))
    return ax


def jet_display(ax, jet, *, radius: float = 0.8):
    """Draw one jet: a marker per constituent, area growing with pt, colour and shape by particle
    type; returns `ax`.

    jet: one record of a jets array; radius: of the dashed circle about the jet axis. Taught in
    notebook 00.
    """
    parts = jet.constituents
    eta, phi, pt = (np.asarray(parts[name], float) for name in ("eta", "phi", "pt"))
    x, y = eta - jet.eta, kinematics.wrap(phi - jet.phi)

    def area(value):
        return 14 + 20 * np.sqrt(value)

    kinds = np.asarray(parts.pdg_id) if "pdg_id" in parts.fields else np.zeros(len(pt))
    groups = {p.name: np.isin(kinds, p.pdg_ids) for p in names.PARTICLES.values()}
    groups["constituents"] = ~np.any(list(groups.values()), axis=0)
    keys = []
    for name, chosen in ((name, chosen) for name, chosen in groups.items() if chosen.any()):
        tex, colour = look(name, COLOURS.index(names.SLATE))
        drawn = {"marker": MARKERS.get(name, "o"), "color": colour}
        ax.scatter(
            x[chosen],
            y[chosen],
            s=area(pt[chosen]),
            alpha=0.65,
            edgecolor="black",
            linewidth=0.5,
            **drawn,
        )
        keys.append(
            Line2D(
                [],
                [],
                linestyle="",
                markersize=8,
                markeredgecolor="black",
                alpha=0.8,
                label=f"{tex} ({chosen.sum()})",
                **drawn,
            )
        )
    keys += [
        Line2D(
            [],
            [],
            linestyle="",
            marker="o",
            markersize=np.sqrt(area(value)),
            color="white",
            markeredgecolor="black",
            label=rf"$p_T$ = {value} GeV",
        )
        for value in (1, 10, 100)
    ]
    ax.legend(
        handles=keys,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0.0,
        labelspacing=0.9,
    )
    ax.add_patch(Circle((0, 0), radius, fill=False, color="black", linewidth=1, linestyle="--"))
    reach = 1.12 * max(radius, np.abs(x).max(initial=0), np.abs(y).max(initial=0))
    ax.set(
        xlim=(-reach, reach),
        ylim=(-reach, reach),
        aspect="equal",
        anchor="W",
        xlabel=names.CONSTITUENT_FIELDS["deta"].label,
        ylabel=names.CONSTITUENT_FIELDS["dphi"].label,
    )
    return ax
