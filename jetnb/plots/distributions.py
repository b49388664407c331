"""Distributions of features: histograms overlaid, their ratio, many of them in one figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import awkward as ak
import hist
import numpy as np
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from scipy import stats

from jetnb import names
from jetnb.plots.looks import LINES, legend, look, panels, stamp

LEVEL = 0.6827  # of an error bar
# Upper end of the central interval of a count of zero: 1.84.
NONE_SEEN = stats.chi2.isf((1 - LEVEL) / 2, 2) / 2


def by_class(jets, field: str, *, constituents: bool = False) -> dict[str, np.ndarray]:
    """Values of `field` per class present in `jets`, in the order of the labels.

    With `constituents` the field is one of the constituents, flattened. Returns {class name: (N,)
    array}. Raises ValueError where the jets have no `label`.
    """
    if "label" not in ak.fields(jets):
        raise ValueError("these jets have no field 'label', so they cannot be drawn by class")
    label, found = np.asarray(jets.label), {}
    for index, name in enumerate(jets.attrs["jetnb"]["classes"]):
        if (label == index).any():
            chosen = jets[label == index]
            found[name] = np.asarray(
                ak.flatten(chosen.constituents[field]) if constituents else chosen[field]
            )
    return found


def histogram(values, field: names.Field, *, bins: tuple | None = None) -> hist.Hist:
    """Fill a `hist.Hist` of `values` (N,) with the axis of `field`, or with `bins` = (n, low,
    high).

    The axis is logarithmic where the table says so and the low edge is positive.
    """
    transform = (
        {"transform": hist.axis.transform.log} if field.log and (bins or field.bins)[1] > 0 else {}
    )
    axis = hist.axis.Regular(*(bins or field.bins), label=field.label, **transform)
    return hist.Hist(axis).fill(np.asarray(values, float))


def hist1d(
    ax,
    values: Mapping[str, object],
    *,
    field: names.Field | str,
    bins: tuple | None = None,
    density: bool = True,
    log: bool = False,
    counted: str = "jets",
    ratio_ax=None,
    with_legend: bool = True,
    dotted: Iterable[str] = (),
    colours: Sequence[str] | None = None,
):
    """Overlay one histogram per entry of `values`, each with its sqrt(N) band.

    Among filled bins the band of an empty one goes up to 1.84, the upper end of the central 68 %
    interval of none.

    values: {name: (N,) array or hist.Hist}; a name in `names.CLASSES` or `names.PARTICLES` brings
    its colour and TeX. field: a row of `names`, or the name of a jet field; bins: (n, low, high)
    instead of the row's. density: the fraction of all `counted` per bin, those outside the range
    included; else plain counts. log: logarithmic y axis. ratio_ax: a second axes (see `with_ratio`)
    for the ratio of each entry to the first. colours: of entries that `names` does not know, in
    order; else `COLOURS`. Where particles or classes are drawn in the same notebook take `NEUTRAL`,
    which shares none with them. dotted: names of what is only there for reference, such as the jets
    pretrained on: a dotted line, no band or ratio. Returns `ax`. Taught in notebook 01.
    """
    field = names.JET_FIELDS[field] if isinstance(field, str) else field
    fills = {
        k: v if isinstance(v, hist.Hist) else histogram(v, field, bins=bins)
        for k, v in values.items()
    }
    if unfit := [name for name in dotted if name not in list(fills)[bool(ratio_ax) :]]:
        raise ValueError(
            f"dotted {unfit[0]!r} must be one of the values, and not the first where there is a ratio: "
            f"these are {list(fills)}"
        )
    alpha = 0.25 if len(fills) < 6 else 0.12
    for index, (name, filled) in enumerate(fills.items()):
        scale = 1 / max(filled.sum(flow=True), 1) if density else 1.0
        content, error = filled.values() * scale, np.sqrt(filled.variances()) * scale
        up = np.where(_among_filled(filled) & (filled.variances() == 0), NONE_SEEN * scale, error)
        tex, colour = look(name, index, colours=colours)
        edges, line = filled.axes[0].edges, LINES[index % len(LINES)] if len(fills) > 2 else "-"
        if name in dotted:
            ax.stairs(content, edges, color=names.SLATE, label=tex, linestyle=":", linewidth=1.8)
            continue
        ax.stairs(content, edges, color=colour, label=tex, linestyle=line, linewidth=1.8)
        band = {"fill": True, "color": colour, "alpha": alpha}
        ax.stairs(content + up, edges, baseline=np.maximum(content - error, 0), **band)
        if ratio_ax is None:
            continue
        if index == 0:
            below = np.where(content > 0, content, np.nan)
            ratio_ax.set(ylim=(0, 2.5))
            ratio_ax.set_ylabel(f"ratio to\n{tex}", fontsize="small", loc="center")
            ratio_ax.stairs(1 + error / below, edges, baseline=1 - error / below, **band)
        else:
            centres, ratio, top = filled.axes[0].centers, content / below, ratio_ax.get_ylim()[1]
            ratio_ax.errorbar(centres, ratio, error / below, fmt=".", color=colour)
            if (above := ratio > top).any():  # beyond the panel, but not out of sight
                ratio_ax.plot(
                    centres[above],
                    np.full(above.sum(), 0.95 * top),
                    "^",
                    color=colour,
                    markersize=4,
                )
    _dress(ax, ratio_ax or ax, field, edges, f"fraction of {counted}" if density else counted, log)
    if log:
        _from_one_entry(ax, fills.values(), density)
    if with_legend and any(fills):
        legend(ax, ceiling=1.0 if density else np.inf)
    return ax


def _among_filled(filled: hist.Hist) -> np.ndarray:
    """Which bins lie between the first and the last with entries, or next to these: others need not
    be possible.
    """
    places = np.flatnonzero(filled.variances())
    index = np.arange(len(filled.axes[0]))
    return (
        (index >= places[0] - 1) & (index <= places[-1] + 1)
        if len(places)
        else np.zeros(len(index), bool)
    )


def _from_one_entry(ax, fills: Iterable[hist.Hist], density: bool) -> None:
    """Let a logarithmic axis begin below the smallest step that an unweighted histogram can make."""
    steps = [(1 / one.sum(flow=True) if density else 1.0) for one in fills if one.sum(flow=True)]
    if steps and all(np.array_equal(one.values(), one.variances()) for one in fills):
        ax.set_ylim(bottom=0.5 * min(steps))


def points(
    ax,
    values,
    *,
    field: names.Field | str | None = None,
    bins: tuple | None = None,
    density: bool = True,
    name: str = "",
    label: str | None = None,
    colour: str | None = None,
    merge: int = 1,
):
    """Draw the histogram of `values` (N,) as points over those of `hist1d`, each with its central
    Poisson interval.

    field, bins, density: as there; bins alone do, since axes get no label here. name: in the
    legend, and a class or particle brings its colour; label and colour instead of these. merge:
    draw the mean of so many bins, where jets are few. A bin with no entry has an interval as well,
    from 0 up. Nothing is drawn where N = 0. Returns `ax`. Garwood, Biometrika 28 (1936) 437. Taught
    in notebook 03.
    """
    field = names.JET_FIELDS[field] if isinstance(field, str) else field
    if field is None and bins is None:
        raise ValueError("points needs bins = (n, low, high), or a field whose bins it takes")
    if not len(values):
        return ax
    if field is None:
        filled = hist.Hist(hist.axis.Regular(*bins)).fill(np.asarray(values, float))
    else:
        filled = histogram(values, field, bins=bins)
    filled = filled[:: hist.rebin(merge)]
    counts, scale = filled.values(), (1 / len(values) if density else 1.0) / merge
    tail = (1 - LEVEL) / 2
    low = np.where(counts > 0, stats.chi2.ppf(tail, 2 * np.maximum(counts, 1)) / 2, 0.0)
    high = stats.chi2.isf(tail, 2 * counts + 2) / 2
    tex, known = look(name, 0)
    ax.errorbar(
        filled.axes[0].centers,
        counts * scale,
        [(counts - low) * scale, (high - counts) * scale],
        fmt="o",
        color=colour or known,
        markersize=3.5,
        linewidth=1,
        markeredgecolor="black",
        markeredgewidth=0.5,
        label=label or tex,
    )
    return ax


def _dress(ax, lowest, field, edges, what, log) -> None:
    """Labels and scales; `lowest` is the axes that carries the x label."""
    wide, log_x = edges[1] - edges[0], field.log and edges[0] > 0
    per = (
        " / bin"
        if log_x
        else ""
        if wide == 1 and not field.unit
        else f" / {wide:.3g} {field.unit}".rstrip()
    )
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


def field_grid(
    samples: Mapping[str, Mapping[str, object]],
    *,
    fields: Iterable[names.Field],
    stamped: Iterable,
    counted: str = "jets",
    log: Iterable[str] = (),
    columns: int = 3,
    colours: Sequence[str] | None = None,
):
    """One panel per field, every sample overlaid, one shared legend below, one stamp.

    samples: {name: mapping or record array of field name -> (N,) values}; one that lacks a field is
    left out there. log: names of the fields drawn with a logarithmic y axis. colours: as in
    `hist1d`. stamped: the jets arrays to name in the stamp, or {name of the curve: jets}.
    Returns (figure, list of axes).
    """
    fields = list(fields)
    columns = min(columns, len(fields))
    figure, axes = panels(len(fields), columns=columns, size=(8 / columns, 6.6 / (columns + 0.3)))
    figure.set_figheight(figure.get_figheight() + 0.35)
    for ax, field in zip(axes, fields, strict=True):
        having = {
            k: v[field.name]
            for k, v in samples.items()
            if field.name in (getattr(v, "fields", None) or v)
        }
        hist1d(
            ax,
            having,
            field=field,
            counted=counted,
            log=field.name in log,
            with_legend=False,
            colours=colours,
        )
        if field.name in log:
            ax.set_ylim(top=min(ax.get_ylim()[1], 1.0))
        ax.set_xlabel(ax.get_xlabel().replace(" (log scale)", ", log"), fontsize="small")
        ax.set_ylabel(f"fraction / bin{', log' if field.name in log else ''}", fontsize="small")
    looks = [look(name, index, colours=colours) for index, name in enumerate(samples)]
    handles = [
        Line2D(
            [],
            [],
            color=colour,
            linewidth=2,
            linestyle=LINES[i % len(LINES)] if len(looks) > 2 else "-",
        )
        for i, (_, colour) in enumerate(looks)
    ]
    figure.legend(
        handles, [tex for tex, _ in looks], loc="outside lower center", ncols=min(len(looks), 5)
    )
    stamp(figure, *([stamped] if isinstance(stamped, Mapping) else stamped))
    return figure, axes
