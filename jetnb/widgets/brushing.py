"""Linked brushing: drag over one distribution of jets, and all others, a map and an event display
follow.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import ipywidgets
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from jetnb import names, plots
from jetnb.plots.latents import quantity
from jetnb.widgets.picture import Picture, frame

BRUSHED = ("pt", "mass", "softdrop_mass", "tau21", "tau32", "n_constituents")
BOARD = (10.3, 5.9)  # inches of the whole picture
DPI = 100
ALL = "#d8d8d8"  # of all jets: lighter than any class or particle
MOST = 12  # jets of an event that are drawn
_QUICK = {
    "figure.constrained_layout.use": False,
    "xtick.top": False,
    "ytick.right": False,
    "axes.titley": 1.0,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
}
BRUSH_HELP = (
    "Distributions of jets, a map of their directions, and one event. Drag over a distribution or the map to "
    "select jets, click on it to let go, double click to let go of all; menu and slider below do the same."
)


class _Column(NamedTuple):
    values: np.ndarray  # (N,), NaN where a jet has none
    edges: np.ndarray
    place: np.ndarray  # bin of each jet, the last one for those outside
    field: names.Field


def _column(jets, name: str) -> _Column:
    values = np.asarray(quantity(jets, name), float)
    field = names.JET_FIELDS[name]
    n, low, high = field.bins
    n = n if n <= 60 else n // 2
    if field.log and np.isfinite(values).any():  # a spectrum shows both of its ends
        low, high = max(0.95 * np.nanmin(values), 1e-3), 1.02 * np.nanmax(values)
    edges = np.geomspace(low, high, n + 1) if field.log else np.linspace(low, high, n + 1)
    place = np.digitize(values, edges) - 1
    return _Column(
        values, edges, np.where((place < 0) | ~np.isfinite(values), n, np.minimum(place, n)), field
    )


class _Board:
    """The axes of the picture on one `ax`, and what changes on them when the ranges change."""

    def __init__(self, ax, jets, features):
        self.jets, self.ax = jets, ax
        self.columns = {}
        if features and (set(features) & {"eta", "phi"} or len(features) > 6):
            raise ValueError(
                f"features are {', '.join(features)}: give six at most, and not eta and phi, which are "
                "the map"
            )
        for name in features or BRUSHED:
            try:
                self.columns[name] = _column(jets, name)
            except ValueError:
                if features:
                    raise  # of what the caller asked for
        self.eta, self.phi = np.asarray(jets.eta, float), np.asarray(jets.phi, float)
        self.event = np.asarray(jets.event) if "event" in jets.fields else np.arange(len(jets))
        self.radius = jets.attrs["jetnb"].get("settings", {}).get("radius", 0.8)
        ax.set_axis_off()
        plots.stamp(ax, jets)
        self.axes, self.steps, self.spans = {}, {}, {}
        for i, (name, column) in enumerate(self.columns.items()):
            place = self._place(0.5 + i % 3 * 1.85, 3.3 - i // 3 * 2.75, 1.45, 1.95)
            self._histogram(place, name, column, first=i == 0)
        self._map(self._place(6.55, 3.3, 3.6, 1.95))
        self.display = self._place(6.55, 0.55, 3.6, 1.95)
        keys = (
            ("charged_hadron", "photon", "neutral_hadron")
            if "pdg_id" in jets.constituents.fields
            else ()
        )
        for i, name in enumerate(keys):
            ax.text(
                (6.5 + 1.35 * i) / BOARD[0],
                0.06 / BOARD[1],
                f"\u25cf {names.PARTICLES[name].tex}",
                fontsize=8.5,
                color=names.PARTICLES[name].colour,
            )

    def _place(self, left, bottom, width, height):
        return self.ax.inset_axes(
            (left / BOARD[0], bottom / BOARD[1], width / BOARD[0], height / BOARD[1])
        )

    def _histogram(self, ax, name, column, *, first) -> None:
        content = self._fractions(column, slice(None))
        ax.stairs(content, column.edges, fill=True, color=ALL, label="all jets")
        self.steps[name] = ax.stairs(
            0 * content, column.edges, color="black", linewidth=1.4, label="selected"
        )
        self.spans[name] = ax.axvspan(*column.edges[:2], color=names.CYAN, alpha=0.4, visible=False)
        ax.set(
            xlim=(column.edges[0], column.edges[-1]), xscale="log" if column.field.log else "linear"
        )
        ax.set_xlabel(column.field.label, fontsize="small", labelpad=1)
        ax.tick_params(labelsize=9, length=3)
        ax.yaxis.set_major_locator(MaxNLocator(3))
        if column.field.log:
            ax.xaxis.set(
                major_locator=LogLocator(subs=(1, 3, 5)),
                minor_locator=NullLocator(),
                major_formatter="{x:g}",
            )
        else:
            ax.xaxis.set_major_locator(MaxNLocator(3))
        if first:
            ax.set_ylabel("fraction / bin", fontsize="small", labelpad=1)
            ax.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.0), ncols=2, borderaxespad=0.1)
        self.axes[name] = ax

    def _map(self, ax) -> None:
        self.bins = np.linspace(-3.2, 3.2, 65), np.linspace(-np.pi, np.pi, 37)
        self.extent = (-3.2, 3.2, -np.pi, np.pi)
        empty = np.ma.masked_all((36, 64))
        self.grey = ax.imshow(
            empty, origin="lower", extent=self.extent, aspect="auto", cmap="Greys", vmin=0
        )
        self.black = ax.imshow(
            empty, origin="lower", extent=self.extent, aspect="auto", cmap="Greys", vmin=0
        )
        everything = self._counts(slice(None))
        self.grey.set(data=everything, clim=(0, 4 * max(everything.max(), 1)))
        self.window = ax.add_patch(
            mpl.patches.Rectangle((0, 0), 1, 1, color=names.CYAN, alpha=0.4, visible=False)
        )
        ax.set(xlim=self.extent[:2], ylim=self.extent[2:])
        ax.set_xlabel(r"jet $\eta$", fontsize="small", labelpad=1)
        ax.set_ylabel(r"jet $\phi$ [rad]", fontsize="small", labelpad=0)
        ax.tick_params(labelsize=9, length=3)
        self.axes["map"] = ax

    def _counts(self, mask):
        counts = np.histogram2d(self.eta[mask], self.phi[mask], bins=self.bins)[0].T
        return np.ma.masked_equal(counts, 0)

    @staticmethod
    def _fractions(column: _Column, mask):
        place, n = column.place[mask], len(column.edges) - 1
        return np.bincount(place, minlength=n + 1)[:n] / max(len(place), 1)

    def mask(self, ranges: Mapping) -> np.ndarray:
        """The jets (N,) that are inside of all ranges."""
        inside = np.ones(len(self.jets), bool)
        for name, (low, high) in ranges.items():
            values = {"eta": self.eta, "phi": self.phi}.get(name)
            values = self.columns[name].values if values is None else values
            inside &= (values >= low) & (values < high)
        return inside

    def show(self, ranges: Mapping) -> np.ndarray:
        """Draw for these ranges; returns the mask (N,) of the jets selected."""
        mask = self.mask(ranges)
        for name, column in self.columns.items():
            chosen = self._fractions(column, mask)
            self.steps[name].set_data(chosen)
            self.axes[name].set_ylim(
                0, 1.12 * max(chosen.max(), self._fractions(column, slice(None)).max(), 1e-6)
            )
            self.spans[name].set_visible(name in ranges)
            if name in ranges:
                low, high = np.clip(ranges[name], *column.edges[[0, -1]])
                self.spans[name].set(x=low, width=high - low)
        selected = self._counts(mask)
        high = selected.max() if selected.count() else 1
        self.black.set(
            data=selected if ranges else np.ma.masked_all(selected.shape), clim=(-high, high)
        )
        self.axes["map"].set_title(f"{mask.sum():,} of {len(mask):,} jets", fontsize="small")
        self.window.set_visible("eta" in ranges)
        if "eta" in ranges:
            (left, right), (low, high) = ranges["eta"], ranges["phi"]
            self.window.set(xy=(left, low), width=right - left, height=high - low)
        self._event(mask)
        return mask

    def _event(self, mask) -> None:
        """The event of the hardest jet that is selected: its jets, hardest first, and their
        constituents.
        """
        ax = self.display
        ax.clear()
        ax.set(xlim=self.extent[:2], ylim=self.extent[2:])
        ax.set_xlabel(r"$\eta$", fontsize="small", labelpad=1)
        ax.set_ylabel(r"$\phi$ [rad]", fontsize="small", labelpad=0)
        ax.tick_params(labelsize=9, length=3)
        if not mask.any():
            ax.set_title("no jet is selected", fontsize="small")
            return
        pt = np.asarray(self.jets.pt, float)
        hardest = int(np.flatnonzero(mask)[pt[mask].argmax()])
        same = np.flatnonzero(self.event == self.event[hardest])
        same = same[np.argsort(-pt[same])][:MOST]
        for jet in same:
            parts = self.jets.constituents[int(jet)]
            eta, phi, size = (np.asarray(parts[name], float) for name in ("eta", "phi", "pt"))
            kinds = (
                np.asarray(parts.pdg_id) if "pdg_id" in parts.fields else np.zeros(len(size), int)
            )
            ax.scatter(
                eta,
                phi,
                s=1 + 2 * np.sqrt(size),
                linewidth=0,
                alpha=0.8,
                c=[_COLOUR_OF.get(kind, names.SLATE) for kind in kinds.tolist()],
            )
            for turn in (-2 * np.pi, 0, 2 * np.pi):  # a jet on the seam has a part on either side
                ax.add_patch(
                    Circle(
                        (self.eta[jet], self.phi[jet] + turn),
                        self.radius,
                        fill=False,
                        linewidth=1,
                        linestyle="-" if mask[jet] else ":",
                    )
                )
        ax.set_title(
            f"event of the hardest one: jets of {', '.join(f'{pt[jet]:.0f}' for jet in same)} GeV",
            fontsize="small",
        )


_COLOUR_OF = {code: kind.colour for kind in names.PARTICLES.values() for code in kind.pdg_ids}


def draw_brush(ax, jets, *, ranges: Mapping | None = None, features=None):
    """Draw what the panel of `brush` shows for `ranges`, on `ax` of 10.3 x 5.9 inches; returns
    `ax`.

    ranges: {name of a feature, "eta" or "phi": (low, high)}, low <= value < high, as dragging sets
    them; "eta" and "phi" go together. features: up to six jet fields other than these; those of `BRUSHED` that the
    jets have without. Raises ValueError for a feature that the jets lack, and for a range of none
    of them. Taught in notebook 01.
    """
    with mpl.rc_context(_QUICK):
        board = _Board(ax, jets, features)
        _known(board, ranges or {})
        board.show(ranges or {})
    return ax


def _known(board: _Board, ranges: Mapping) -> None:
    if unknown := [name for name in ranges if name not in (*board.columns, "eta", "phi")]:
        raise ValueError(
            f"there is no distribution of {unknown[0]!r}: choose {', '.join(board.columns)}, eta and phi"
        )
    if ("eta" in ranges) != ("phi" in ranges):
        raise ValueError("the map has one window in eta and phi: give both")


def brush(jets, *, features=None) -> ipywidgets.VBox:
    """Select jets by dragging over a distribution; the other distributions, a map and an event
    display follow.

    features: as in `draw_brush`, which draws the same. Several distributions can be brushed: jets
    in all windows count. A menu and a slider do the same with the keyboard.

    Returns a box. Its `select(**ranges)` selects from code, ``select(mass=(150, 200))``; `mask` is
    what is selected, `ranges` why; `image`, `controls` and `status` are the widgets. Raises
    ValueError as `draw_brush`. Taught in notebook 01.
    """
    with plots.style(), mpl.rc_context(_QUICK):
        figure = Figure(figsize=BOARD, dpi=DPI)
        FigureCanvasAgg(figure)
        board = _Board(figure.add_axes((0, 0, 1, 0.97)), jets, features)
    image = Picture(width=round(96 * BOARD[0]), live=True, description=BRUSH_HELP)
    status = ipywidgets.HTML(layout={"margin": "0"}).add_class("jetnb-status")
    menu = ipywidgets.Dropdown(
        options=[(name.replace("_", " "), name) for name in board.columns],
        description="brush",
        layout={"width": "280px"},
    )
    # Not continuous: such a slider sends back what it is set to, late and cut to its old limits.
    slider = ipywidgets.FloatRangeSlider(
        description="from, to",
        layout={"width": "420px"},
        readout_format=".3g",
        continuous_update=False,
    )
    clear = ipywidgets.Button(description="clear", layout={"width": "80px"})
    box = ipywidgets.VBox([image, ipywidgets.HBox([menu, slider, clear]), status])
    box.image, box.status, box.controls = (
        image,
        status,
        {"feature": menu, "range": slider, "clear": clear},
    )
    order, moving = list(board.axes), []

    def select(**ranges):
        _known(board, ranges)
        with plots.style(), mpl.rc_context(_QUICK):
            box.ranges, box.mask = ranges, board.show(ranges)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"compress_level": 1})
        with image.hold_sync():
            image.value = file.getvalue()
            image.frames = [frame(ax, both=name == "map") for name, ax in board.axes.items()]
        status.value = _say(board, ranges, box.mask)
        follow()

    def follow(_change=None):
        """Set the slider to what is brushed of the feature of the menu."""
        column = board.columns[menu.value]
        low, high = map(float, column.edges[[0, -1]])
        moving.append(True)
        with slider.hold_sync(), slider.hold_trait_notifications():  # one message, not one of each
            slider.min, slider.max, slider.step = min(low, slider.min), high, (high - low) / 200
            slider.min = low
            slider.value = np.clip(box.ranges.get(menu.value, (low, high)), low, high).tolist()
        moving.clear()

    def slid(_change):
        if not moving:
            whole = slider.value[0] <= slider.min and slider.value[1] >= slider.max
            others = {name: each for name, each in box.ranges.items() if name != menu.value}
            select(**others, **({} if whole else {menu.value: slider.value}))

    def dragged(number, x_range, y_range):
        if number is None:
            return select()
        name = order[number]
        mine = ("eta", "phi") if name == "map" else (name,)
        ranges = {key: each for key, each in box.ranges.items() if key not in mine}
        if x_range is not None:
            ranges |= dict(zip(mine, (x_range, y_range), strict=False))
            if name != "map":
                menu.value = name
        return select(**ranges)

    box.ranges, box.mask, box.select = {}, np.ones(len(jets), bool), select
    select()
    image.on_drag(dragged)
    menu.observe(follow, "value")
    slider.observe(slid, "value")
    clear.on_click(lambda _: select())
    return box


def _say(board: _Board, ranges: Mapping, mask) -> str:
    if not ranges:
        return "All jets are shown. Drag over a distribution or the map."
    parts = [
        f"{name.replace('_', ' ')} {low:.3g} to {high:.3g}" for name, (low, high) in ranges.items()
    ]
    end = "" if mask.any() else ": none is in all windows at once, click on one to let go of it"
    return f"{mask.sum():,} of {len(mask):,} jets have {', '.join(parts)}{end}"
