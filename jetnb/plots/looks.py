"""What all figures share: styles, colours, the stamp that says where jets come from, legends, grids
of axes.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.figure import Figure

from jetnb import names

COLOURS = (
    names.BLUE,
    names.RED,
    names.ORANGE,
    names.PURPLE,
    names.BROWN,
    names.DARK_ORANGE,
    names.SLATE,
    names.OLIVE,
    names.CYAN,
    names.GREY,
)
NEUTRAL = ("#000000", "#1b7837", "#777777", "#3aa655")  # for what is neither a class nor a particle
LINES = ("-", "--", "-.", ":")
_SHARED = {
    "figure.constrained_layout.use": True,
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "image.cmap": "viridis",
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.useoffset": False,
    "axes.titlesize": "medium",
    "axes.labelsize": "medium",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "axes.autolimit_mode": "data",
    "axes.labelpad": 4,
    "legend.fontsize": "small",
    "legend.frameon": False,
    "legend.borderpad": 0.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "axes.linewidth": 1,
    "xtick.major.size": 6,
    "xtick.minor.size": 3,
    "ytick.major.size": 6,
    "ytick.minor.size": 3,
}
_STYLES = {
    "plain": (
        "ROOT",
        {
            "figure.figsize": (6.4, 4.2),
            "font.size": 12,
            "mathtext.fontset": "dejavusans",
            "mathtext.default": "it",
            "font.sans-serif": ["DejaVu Sans"],
            "xaxis.labellocation": "center",
            "yaxis.labellocation": "center",
        },
    ),
    "CMS": ("CMS", {"figure.figsize": (6.4, 5.0), "font.size": 15, "axes.linewidth": 1.4}),
    "ATLAS": ("ATLAS", {"figure.figsize": (6.8, 4.8), "font.size": 14}),
}


def _settings(name: str) -> dict:
    if name not in _STYLES:
        raise ValueError(f"no style {name!r}: choose one of {', '.join(_STYLES)}")
    base, sizes = _STYLES[name]
    return {**getattr(mplhep.style, base), **_SHARED, **sizes}


def use_style(name: str = "plain") -> None:
    """Draw every figure from now on in style "plain", "CMS" or "ATLAS", at sizes that fit a
    notebook (notebook 00).
    """
    mpl.rcParams.update(_settings(name))


def style(name: str = "plain"):
    """The same as `use_style`, but as a context: ``with plots.style("CMS"): ...``."""
    return mpl.rc_context(_settings(name))


def source(jets) -> str:
    """Say in a few words where `jets` come from, read from their provenance
    ``jets.attrs["jetnb"]``.

    Raises ValueError where the array carries no provenance, so that no figure goes out unlabelled.
    """
    if (provenance := getattr(jets, "attrs", {}).get("jetnb")) is None:
        raise ValueError(
            "these jets carry no provenance in jets.attrs['jetnb']: load them with jetnb.load, "
            "or make them with jetnb.jets.build"
        )
    if "stamp" in provenance:
        return provenance["stamp"]
    if provenance["source"] == "open data":
        return "CMS Open Data"
    own = "jetnb" in provenance.get("versions", {}) or "pythia8mc" in provenance.get("versions", {})
    return (
        "jetnb simulation (Pythia 8 + fast detector)"
        if own
        else f"{provenance['sample']} (simulation)"
    )


def stamp(ax, *jets, note: str = ""):
    """Write above `ax`, an axes or a whole figure, where `jets` (one or several arrays) come from;
    returns `ax`.

    A mapping {name of the curve: jets} says of each curve where it comes from, unless all are from
    the same.
    """
    named = [
        pair
        for each in jets
        for pair in (each.items() if isinstance(each, Mapping) else [("", each)])
    ]
    said = [(name, source(each)) for name, each in named]
    if len({where for _, where in said}) > 1:
        said = [(name, f"{name}: {where}" if name else where) for name, where in said]
    text = ", ".join([" | ".join(dict.fromkeys(where for _, where in said))] + [note] * bool(note))
    if isinstance(ax, Figure):
        ax.suptitle(text, x=0.01, ha="left", fontsize="x-small", style="italic")
    else:
        ax.set_title(text, loc="left", fontsize="x-small", style="italic")
    return ax


def look(name: str, index: int, *, colours=None) -> tuple[str, str]:
    """TeX and colour of `name` in `jetnb.names`, or `name` itself and the colour number `index` of
    `colours`.
    """
    known, colours = names.CLASSES.get(name) or names.PARTICLES.get(name), colours or COLOURS
    return (known.tex, known.colour) if known else (name, colours[index % len(colours)])


def legend(ax, *, title: str | None = None, most: int = 5, ceiling: float = np.inf):
    """Add the legend where it hides no curve: above all, or beside the axes if it has more than
    `most` entries.

    Beside them too where the axis would have to go beyond `ceiling`: a fraction of a hundred is
    none.
    """
    labels = ax.get_legend_handles_labels()[1]
    beside = {
        "loc": "upper left",
        "bbox_to_anchor": (1.01, 1.02),
        "title": title,
        "borderaxespad": 0.0,
    }
    if len(labels) > most:
        return ax.legend(**beside)
    drawn = ax.legend(loc="upper right", title=title, ncols=2 if len(labels) > 3 else 1)
    box = drawn.get_window_extent().transformed(ax.transAxes.inverted())
    (low, high), room = ax.get_ylim(), max(box.y0 - 0.04, 0.3)
    top = _highest(ax, max(box.x0 - 0.03, 0))
    wanted = low + (top - low) / room
    if ax.get_yscale() != "linear":
        wanted = low * (top / low) ** (1 / room) if top > 0 else high
    if wanted > ceiling:
        ax.set_ylim(top=min(high, ceiling))
        return ax.legend(**beside)
    ax.set_ylim(top=max(high, wanted))
    return drawn


def _highest(ax, left: float) -> float:
    """Highest point of the curves, bands and error bars of `ax` to the right of axes fraction
    `left`.
    """
    start = ax.transData.inverted().transform(ax.transAxes.transform((left, 0)))[0]
    steps = [patch.get_data() for patch in ax.patches if hasattr(patch, "get_data")]
    lines = [line.get_data() for line in ax.lines if line.get_transform() == ax.transData]
    bands = [
        path.vertices.T
        for drawn in ax.collections
        if drawn.get_transform() == ax.transData
        for path in drawn.get_paths()
        if len(path.vertices)
    ]
    curves = [
        np.asarray(pair, float)
        for pair in [(step.edges[1:], step.values) for step in steps] + lines + bands
    ]
    return max((float(np.nanmax(y[x > start], initial=0)) for x, y in curves), default=0.0)


def panels(count: int, *, columns: int = 3, size: tuple[float, float] = (2.65, 2.1)):
    """Make a figure of `count` equal panels; returns (figure, list of axes)."""
    rows = -(-count // (columns := min(columns, count)))
    figure, axes = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False
    )
    for i, ax in enumerate(axes.flat):
        ax.minorticks_off()
        ax.set_axis_on() if i < count else ax.set_axis_off()
    return figure, list(axes.flat[:count])


def with_ratio():
    """Make a figure with a main and a ratio axes; returns (figure, main, ratio)."""
    # Taller, so that the label of the main axes stays within it.
    width, height = mpl.rcParams["figure.figsize"]
    figure, (main, ratio) = plt.subplots(
        2, 1, sharex=True, figsize=(width, 1.2 * height), height_ratios=(3, 1)
    )
    ratio.axhline(1, color="black", linewidth=0.8)
    return figure, main, ratio
