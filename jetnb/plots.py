"""Figures: an `ax` and arrays in, the `ax` out. Labels, units, ranges and colours come from `jetnb.names`.

Nothing here touches matplotlib's settings at import: call `use_style` once in a notebook, or draw inside
`with style():`. Every figure carries a stamp that says where its jets come from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import awkward as ak
import hist
import matplotlib as mpl
import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter

from jetnb import names

COLOURS = (names.BLUE, names.RED, names.ORANGE, names.PURPLE, names.BROWN,
           names.DARK_ORANGE, names.SLATE, names.OLIVE, names.CYAN, names.GREY)
LINES = ("-", "--", "-.", ":")
MARKERS = {"charged_hadron": "o", "photon": "s", "neutral_hadron": "D", "electron": "^", "muon": "*",
           "forward_hadronic": "P", "forward_electromagnetic": "X"}

_SHARED = {
    "figure.constrained_layout.use": True, "figure.dpi": 110, "savefig.dpi": 150, "image.cmap": "viridis",
    "axes.prop_cycle": mpl.cycler(color=COLOURS), "axes.formatter.limits": (-4, 6), "axes.formatter.useoffset": False,
    "axes.titlesize": "medium", "axes.labelsize": "medium", "xtick.labelsize": "small", "ytick.labelsize": "small",
    "axes.autolimit_mode": "data", "axes.labelpad": 4, "legend.fontsize": "small", "legend.frameon": False,
    "legend.borderpad": 0.5, "lines.linewidth": 1.8, "lines.markersize": 6, "axes.linewidth": 1,
    "xtick.major.size": 6, "xtick.minor.size": 3, "ytick.major.size": 6, "ytick.minor.size": 3,
}
_STYLES = {
    "plain": ("ROOT", {"figure.figsize": (6.4, 4.2), "font.size": 12, "mathtext.fontset": "dejavusans",
                       "mathtext.default": "it", "font.sans-serif": ["DejaVu Sans"], "xaxis.labellocation": "center",
                       "yaxis.labellocation": "center"}),
    "CMS": ("CMS", {"figure.figsize": (6.4, 5.0), "font.size": 15, "axes.linewidth": 1.4}),
    "ATLAS": ("ATLAS", {"figure.figsize": (6.8, 4.8), "font.size": 14}),
}


def _settings(name: str) -> dict:
    if name not in _STYLES:
        raise ValueError(f"no style {name!r}: choose one of {', '.join(_STYLES)}")
    base, sizes = _STYLES[name]
    return {**getattr(mplhep.style, base), **_SHARED, **sizes}


def use_style(name: str = "plain") -> None:
    """Draw every figure from now on in style "plain", "CMS" or "ATLAS", at sizes that fit a notebook (notebook 00)."""
    mpl.rcParams.update(_settings(name))


def style(name: str = "plain"):
    """The same as `use_style`, but as a context: ``with plots.style("CMS"): ...``."""
    return mpl.rc_context(_settings(name))


def source(jets) -> str:
    """Say in a few words where `jets` come from, read from their provenance ``jets.attrs["jetnb"]``.

    Raises ValueError where the array carries no provenance, so that no figure goes out unlabelled.
    """
    if (provenance := getattr(jets, "attrs", {}).get("jetnb")) is None:
        raise ValueError("these jets carry no provenance in jets.attrs['jetnb']: load them with jetnb.load, "
                         "or make them with jetnb.jets.build")
    if "stamp" in provenance:
        return provenance["stamp"]
    if provenance["source"] == "open data":
        return "CMS Open Data"
    own = "jetnb" in provenance.get("versions", {}) or "pythia8mc" in provenance.get("versions", {})
    return "jetnb simulation (Pythia 8 + fast detector)" if own else f"{provenance['sample']} (simulation)"


def stamp(ax, *jets, note: str = ""):
    """Write above `ax`, an axes or a whole figure, where `jets` (one or several arrays) come from; returns `ax`."""
    text = ", ".join([" | ".join(dict.fromkeys(source(each) for each in jets))] + [note] * bool(note))
    if isinstance(ax, Figure):
        ax.suptitle(text, x=0.01, ha="left", fontsize="x-small", style="italic")
    else:
        ax.set_title(text, loc="left", fontsize="x-small", style="italic")
    return ax


def by_class(jets, field: str, *, constituents: bool = False) -> dict[str, np.ndarray]:
    """Values of `field` per class present in `jets`, in the order of the labels.

    With `constituents` the field is one of the constituents, flattened. Returns {class name: (N,) array}.
    Raises ValueError where the jets have no `label`.
    """
    if "label" not in ak.fields(jets):
        raise ValueError("these jets have no field 'label', so they cannot be drawn by class")
    label, found = np.asarray(jets.label), {}
    for index, name in enumerate(jets.attrs["jetnb"]["classes"]):
        if (label == index).any():
            chosen = jets[label == index]
            found[name] = np.asarray(ak.flatten(chosen.constituents[field]) if constituents else chosen[field])
    return found


def histogram(values, field: names.Field, *, bins: tuple | None = None) -> hist.Hist:
    """Fill a `hist.Hist` of `values` (N,) with the axis of `field`, or with `bins` = (n, low, high).

    The axis is logarithmic where the table says so and the low edge is positive.
    """
    transform = {"transform": hist.axis.transform.log} if field.log and (bins or field.bins)[1] > 0 else {}
    axis = hist.axis.Regular(*(bins or field.bins), label=field.label, **transform)
    return hist.Hist(axis).fill(np.asarray(values, float))


def _look(name: str, index: int) -> tuple[str, str]:
    known = names.CLASSES.get(name) or names.PARTICLES.get(name)
    return (known.tex, known.colour) if known else (name, COLOURS[index % len(COLOURS)])


def hist1d(ax, values: Mapping[str, object], *, field: names.Field | str, bins: tuple | None = None,
           density: bool = True, log: bool = False, counted: str = "jets", ratio_ax=None, with_legend: bool = True):
    """Overlay one histogram per entry of `values`, each with its sqrt(N) band.

    values: {name: (N,) array or hist.Hist}; a name in `names.CLASSES` or `names.PARTICLES` brings its colour and TeX.
    field: a row of `names`, or the name of a jet field; bins: (n, low, high) instead of the row's.
    density: the fraction of all `counted` per bin, those outside the range included; else plain counts.
    log: logarithmic y axis. ratio_ax: a second axes (see `with_ratio`) for the ratio of each entry to the first.
    Returns `ax`. Taught in notebook 01.
    """
    field = names.JET_FIELDS[field] if isinstance(field, str) else field
    fills = {k: v if isinstance(v, hist.Hist) else histogram(v, field, bins=bins) for k, v in values.items()}
    alpha = 0.25 if len(fills) < 6 else 0.12
    for index, (name, filled) in enumerate(fills.items()):
        scale = 1 / max(filled.sum(flow=True), 1) if density else 1.0
        content, error = filled.values() * scale, np.sqrt(filled.variances()) * scale
        tex, colour = _look(name, index)
        edges, line = filled.axes[0].edges, LINES[index % len(LINES)] if len(fills) > 2 else "-"
        ax.stairs(content, edges, color=colour, label=tex, linestyle=line, linewidth=1.8)
        band = {"fill": True, "color": colour, "alpha": alpha}
        ax.stairs(content + error, edges, baseline=np.maximum(content - error, 0), **band)
        if ratio_ax is None:
            continue
        if index == 0:
            below = np.where(content > 0, content, np.nan)
            ratio_ax.set(ylabel=f"ratio to\n{tex}", ylim=(0, 2.5))
            ratio_ax.stairs(1 + error / below, edges, baseline=1 - error / below, **band)
        else:
            ratio_ax.errorbar(filled.axes[0].centers, content / below, error / below, fmt=".", color=colour)
    _dress(ax, ratio_ax or ax, field, edges, f"fraction of {counted}" if density else counted, log)
    if with_legend and any(fills):
        legend(ax)
    return ax


def _dress(ax, lowest, field, edges, what, log) -> None:
    """Labels and scales; `lowest` is the axes that carries the x label."""
    wide, log_x = edges[1] - edges[0], field.log and edges[0] > 0
    per = " / bin" if log_x else "" if wide == 1 and not field.unit else f" / {wide:.3g} {field.unit}".rstrip()
    ax.set(xlim=(edges[0], edges[-1]), ylabel=what + per + (" (log scale)" if log else ""))
    lowest.set_xlabel(field.label + (" (log scale)" if log_x else ""))
    ax.tick_params(labelbottom=lowest is ax)
    for each in {ax, lowest} if log_x else ():
        each.set_xscale("log")
        if edges[-1] / edges[0] < 30:  # too short for powers of ten alone to label it
            each.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            each.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
            each.xaxis.set_minor_formatter(NullFormatter())
    if log:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)


def legend(ax, *, title: str | None = None, most: int = 5):
    """Add the legend where it hides no curve: above all, or beside the axes if it has more than `most` entries."""
    labels = ax.get_legend_handles_labels()[1]
    if len(labels) > most:
        return ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), title=title, borderaxespad=0.0)
    drawn = ax.legend(loc="upper right", title=title, ncols=2 if len(labels) > 3 else 1)
    box = drawn.get_window_extent().transformed(ax.transAxes.inverted())
    (low, high), room = ax.get_ylim(), max(box.y0 - 0.04, 0.3)
    top = _highest(ax, max(box.x0 - 0.03, 0))
    if ax.get_yscale() == "linear":
        ax.set_ylim(top=max(high, low + (top - low) / room))
    elif top > 0:
        ax.set_ylim(top=max(high, low * (top / low) ** (1 / room)))
    return drawn


def _highest(ax, left: float) -> float:
    """Highest point of the curves of `ax` to the right of axes fraction `left`."""
    start = ax.transData.inverted().transform(ax.transAxes.transform((left, 0)))[0]
    steps = [patch.get_data() for patch in ax.patches if hasattr(patch, "get_data")]
    lines = [line.get_data() for line in ax.lines if line.get_transform() == ax.transData]
    curves = [np.asarray(pair, float) for pair in [(step.edges[1:], step.values) for step in steps] + lines]
    return max((float(np.nanmax(y[x > start], initial=0)) for x, y in curves), default=0.0)


def panels(count: int, *, columns: int = 3, size: tuple[float, float] = (2.65, 2.1)):
    """Make a figure of `count` equal panels; returns (figure, list of axes)."""
    rows = -(-count // (columns := min(columns, count)))
    figure, axes = plt.subplots(rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False)
    for i, ax in enumerate(axes.flat):
        ax.minorticks_off()
        ax.set_axis_on() if i < count else ax.set_axis_off()
    return figure, list(axes.flat[:count])


def with_ratio():
    """Make a figure with a main and a ratio axes; returns (figure, main, ratio)."""
    figure, (main, ratio) = plt.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    ratio.axhline(1, color="black", linewidth=0.8)
    return figure, main, ratio


def field_grid(samples: Mapping[str, Mapping[str, object]], *, fields: Iterable[names.Field], stamped: Iterable,
               counted: str = "jets", log: Iterable[str] = (), columns: int = 3):
    """One panel per field, every sample overlaid, one shared legend below, one stamp.

    samples: {name: mapping or record array of field name -> (N,) values}; one that lacks a field is left out there.
    log: names of the fields drawn with a logarithmic y axis. stamped: the jets arrays to name in the stamp.
    Returns (figure, list of axes).
    """
    fields = list(fields)
    columns = min(columns, len(fields))
    figure, axes = panels(len(fields), columns=columns, size=(8 / columns, 6.6 / (columns + 0.3)))
    figure.set_figheight(figure.get_figheight() + 0.35)
    for ax, field in zip(axes, fields, strict=True):
        having = {k: v[field.name] for k, v in samples.items() if field.name in (getattr(v, "fields", None) or v)}
        hist1d(ax, having, field=field, counted=counted, log=field.name in log, with_legend=False)
        ax.set_xlabel(ax.get_xlabel().replace(" (log scale)", ", log"), fontsize="small")
        ax.set_ylabel(f"fraction / bin{', log' if field.name in log else ''}", fontsize="small")
    looks = [_look(name, index) for index, name in enumerate(samples)]
    handles = [Line2D([], [], color=colour, linewidth=2, linestyle=LINES[i % len(LINES)] if len(looks) > 2 else "-")
               for i, (_, colour) in enumerate(looks)]
    figure.legend(handles, [tex for tex, _ in looks], loc="outside lower center", ncols=min(len(looks), 5))
    stamp(figure, *stamped)
    return figure, axes


def eta_phi_map(ax, filled: hist.Hist, *, log: bool = False, square: bool = False, label: str | None = None):
    """Draw a two-dimensional `hist.Hist` in its own axis labels, empty cells white, with a colour bar; returns `ax`.

    log: logarithmic colour scale. square: equal scales on both axes. label: of the colour bar, if not the histogram's.
    """
    content = np.ma.masked_less_equal(filled.values().T, 0)
    low = content.min() if content.count() else 1.0
    high = content.max() if content.count() else 1.0
    norm = LogNorm(low, max(high, 2 * low)) if log else Normalize(0, high)
    (x0, x1), (y0, y1) = ((axis.edges[0], axis.edges[-1]) for axis in filled.axes)
    drawn = ax.imshow(content, origin="lower", extent=(x0, x1, y0, y1), norm=norm, interpolation="nearest",
                      aspect="equal" if square else "auto")
    ax.set(anchor="W", xlabel=filled.axes[0].label, ylabel=filled.axes[1].label)
    ticks = {"ticks": MaxNLocator(6, integer=high > 2)} if not log else {}
    if log and high < 200 * low:  # too short for powers of ten alone to label it
        ticks = {"format": FormatStrFormatter("%g"), "ticks": LogLocator(subs=(1, 2, 5))}
    bar = ax.figure.colorbar(drawn, cax=ax.inset_axes((1.02, 0, 0.04, 1)), **ticks)  # as high as the map, always
    bar.ax.minorticks_off()
    bar.set_label((label or filled.label or "entries / cell") + (" (log scale)" if log else ""))
    if not content.count():
        ax.text(0.5, 0.5, "no entries", transform=ax.transAxes, ha="center")
    return ax


def jet_image(ax, filled: hist.Hist, *, radius: float = 0.8, log: bool = True):
    """Draw a jet image (mean pt per cell around the jet axis) with the circle of the jet; returns `ax`."""
    eta_phi_map(ax, filled, log=log, square=True)
    ax.add_patch(Circle((0, 0), radius, fill=False, color=names.RED, linewidth=1.2, linestyle="--"))
    return ax


def jet_display(ax, jet, *, radius: float = 0.8):
    """Draw one jet: a marker per constituent, area growing with pt, colour and shape by particle type; returns `ax`.

    jet: one record of a jets array; radius: of the dashed circle about the jet axis. Taught in notebook 00.
    """
    parts = jet.constituents
    eta, phi, pt = (np.asarray(parts[name], float) for name in ("eta", "phi", "pt"))
    x, y = eta - jet.eta, (phi - jet.phi + np.pi) % (2 * np.pi) - np.pi
    area = lambda value: 14 + 20 * np.sqrt(value)
    kinds = np.asarray(parts.pdg_id) if "pdg_id" in parts.fields else np.zeros(len(pt))
    groups = {p.name: np.isin(kinds, p.pdg_ids) for p in names.PARTICLES.values()}
    groups["constituents"] = ~np.any(list(groups.values()), axis=0)
    keys = []
    for name, chosen in ((name, chosen) for name, chosen in groups.items() if chosen.any()):
        tex, colour = _look(name, COLOURS.index(names.SLATE))
        look = {"marker": MARKERS.get(name, "o"), "color": colour}
        ax.scatter(x[chosen], y[chosen], s=area(pt[chosen]), alpha=0.65, edgecolor="black", linewidth=0.5, **look)
        keys.append(Line2D([], [], linestyle="", markersize=8, markeredgecolor="black", alpha=0.8,
                           label=f"{tex} ({chosen.sum()})", **look))
    keys += [Line2D([], [], linestyle="", marker="o", markersize=np.sqrt(area(value)), color="white",
                    markeredgecolor="black", label=rf"$p_T$ = {value} GeV") for value in (1, 10, 100)]
    ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0, labelspacing=0.9)
    ax.add_patch(Circle((0, 0), radius, fill=False, color="black", linewidth=1, linestyle="--"))
    reach = 1.12 * max(radius, np.abs(x).max(initial=0), np.abs(y).max(initial=0))
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", anchor="W",
           xlabel=names.CONSTITUENT_FIELDS["deta"].label, ylabel=names.CONSTITUENT_FIELDS["dphi"].label)
    return ax
