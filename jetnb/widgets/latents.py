"""The latent explorer: a map of jets, and the jets behind the points that are pointed at or
lassoed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
import ipywidgets
import matplotlib as mpl
import numpy as np
import traitlets
from latex2mathml.converter import convert as mathml
from matplotlib.colors import LogNorm
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, MaxNLocator
from scipy import sparse

from jetnb import kinematics, names, plots, substructure
from jetnb.plots.latents import classes, quantity
from jetnb.widgets.explorers import draw_jet
from jetnb.widgets.panels import need_jets, to_png

SHOWN = ("pt", "mass", "softdrop_mass", "tau21", "tau32", "n_constituents")
SIZE = (10.3, 4.8)  # inches of the picture of a selection
POINTED = (5.5, 3.7)  # and of a jet that is pointed at
PIXELS = 32
NOBODY = "Nothing is selected. Drag a lasso around points, or use the keyboard."
HELP = (
    "Map of the latent space, one point per jet. Drag to lasso. Keyboard: arrows move a circle (with shift by "
    "less), plus and minus change its size, Enter selects what is inside, Escape clears."
)


class Scatter(anywidget.AnyWidget):
    """The map itself. Bytes are little endian: float32 (N, 2), uint8 (N,), uint8 (N,), int32
    indices.
    """

    _esm = Path(__file__).parent / "scatter.js"
    xy, colours, classes = (traitlets.Bytes().tag(sync=True) for _ in range(3))
    palette, names, labels, class_colours, axes = (
        traitlets.List().tag(sync=True) for _ in range(5)
    )
    bar = traitlets.Dict().tag(sync=True)
    source, status, description = (traitlets.Unicode().tag(sync=True) for _ in range(3))
    width, height = traitlets.Int(560).tag(sync=True), traitlets.Int(440).tag(sync=True)
    hover = traitlets.Int(-1).tag(sync=True)
    # From the browser comes a memoryview, which Bytes alone refuses without a word.
    selection = traitlets.Bytes().tag(sync=True, from_json=lambda value, _: bytes(value or b""))

    @property
    def indices(self) -> np.ndarray:
        """The jets selected, in rising order."""
        return np.frombuffer(self.selection, "<i4")


class Prepared(NamedTuple):
    """What pictures of N jets need: images as sparse (N, pixels), quantities, classes and their
    names.
    """

    jets: Any
    images: sparse.csr_matrix
    table: dict
    radius: float
    index: np.ndarray
    names: list


def prepare(jets, table: Mapping | None = None) -> Prepared:
    """Images, quantities and classes of N jets, computed once, so that a picture takes no time for
    them.
    """
    found = {}
    for name in (*SHOWN, *(table or ())):
        try:
            found[name] = quantity(jets, name, table)
        except ValueError:
            if table is not None and name in table:
                raise  # of a wrong length
    radius = jets.attrs["jetnb"].get("settings", {}).get("radius", 0.8)
    blocks = (
        substructure.images(jets[first : first + 4096], PIXELS, radius=radius).reshape(
            -1, PIXELS**2
        )
        for first in range(0, len(jets), 4096)
    )
    images = sparse.vstack([sparse.csr_matrix(block) for block in blocks], format="csr")
    return Prepared(jets, images, found, radius, *classes(jets))


def draw_selection(ax, jets, indices, *, table: Mapping | None = None, seed: int = 0):
    """Draw what the panel of `latent_explorer` shows for the jets `indices` of `jets`, on `ax` of
    10.3 x 4.8 inches.

    That is: mean images of the selection and of the rest, the high-level features of both, and six
    of the jets, drawn with `seed`. table: {name: (N,)} of quantities that the jets lack, or have
    otherwise. Returns `ax`. Raises ValueError for indices outside of the jets. Taught in notebook
    09.
    """
    return _draw(ax, prepare(jets, table), indices, seed=seed)


@mpl.rc_context(
    {
        "xtick.top": False,
        "ytick.right": False,
        "xtick.minor.visible": False,
        "ytick.minor.visible": False,
        "axes.titley": 1.0,
    }
)  # ticks, and the search for the place of titles, take most of the time
def _draw(ax, ready: Prepared, indices, *, seed: int = 0):
    chosen = _mask(indices, len(ready.jets))
    ax.set_axis_off()
    plots.stamp(ax, ready.jets)

    def place(left, bottom, width, height):
        return ax.inset_axes((left / SIZE[0], bottom / SIZE[1], width / SIZE[0], height / SIZE[1]))

    parts = {"selection": chosen, "the rest": ~chosen}
    _draw_images(
        {
            name: (place(0.5, bottom, 1.75, 1.75), each)
            for (name, each), bottom in zip(parts.items(), (2.65, 0.5), strict=True)
        },
        place(2.35, 0.5, 0.1, 3.9),
        ready,
    )
    fields = [name for name in SHOWN if name in ready.table]
    for i, name in enumerate(fields):
        row, column = divmod(i, 3)
        one = place(3.75 + 1.62 * column, 2.75 - 2.2 * row, 1.2, 1.5)
        _draw_feature(
            one, {k: ready.table[name][each] for k, each in parts.items() if each.any()}, name
        )
        if column == 0:
            one.set_ylabel("fraction / bin", fontsize="small", labelpad=1)
        if i == 0:
            one.legend(loc="lower left", bbox_to_anchor=(-0.05, 1.02), ncols=2, borderaxespad=0.1)
    if chosen.any():
        some = np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(chosen))[:6])
        _draw_some(place(8.45, 0.4, 1.8, 4.1), ready, some)
    return ax


def _draw_images(parts, bar_ax, ready: Prepared) -> None:
    """Mean images of each part on one logarithmic scale: {name: (ax, mask)}."""
    means = {
        name: (mask.astype(np.float32) @ ready.images / max(mask.sum(), 1)).reshape(PIXELS, PIXELS)
        for name, (_, mask) in parts.items()
    }
    high = max(float(mean.max()) for mean in means.values()) or 1.0
    norm = LogNorm(high / 1e4, high)
    for i, (name, (ax, mask)) in enumerate(parts.items()):
        drawn = ax.imshow(
            np.maximum(means[name].T, high / 1e4),
            origin="lower",
            norm=norm,
            interpolation="nearest",
            extent=(-ready.radius, ready.radius) * 2,
        )
        ax.add_patch(
            Circle((0, 0), ready.radius, fill=False, color="white", linewidth=1, linestyle="--")
        )
        ax.set_title(f"{name}: {mask.sum():,} jets", fontsize="small")
        ax.set_ylabel(names.CONSTITUENT_FIELDS["dphi"].label, fontsize="small", labelpad=0)
        ax.tick_params(labelsize=9, length=3, color="white", labelbottom=i == 1)
        if not mask.any():
            ax.text(0, 0, "no jets", color="white", ha="center", va="center")
    # Of the lower one.
    ax.set_xlabel(names.CONSTITUENT_FIELDS["deta"].label, fontsize="small", labelpad=0)
    bar = ax.figure.colorbar(drawn, cax=bar_ax, extend="min")
    bar.ax.minorticks_off()
    bar.ax.tick_params(labelsize=9, length=3)
    bar.set_label(r"mean $p_T$ per jet [GeV] / cell (log scale)", fontsize="small", labelpad=1)


def _draw_feature(ax, values: dict, name: str) -> None:
    field = names.JET_FIELDS[name]
    looks = dict(
        zip(("selection", "the rest"), ((names.RED, "-"), (names.SLATE, "--")), strict=True)
    )
    edges = np.geomspace if field.log else np.linspace
    edges = edges(*field.bins[1:], 31)
    for part, each in values.items():
        content = np.histogram(each, edges)[0] / len(each)
        colour, line = looks[part]
        ax.stairs(content, edges, color=colour, linestyle=line, label=part, linewidth=1.6)
        error = np.sqrt(content / len(each))
        ax.stairs(
            content + error,
            edges,
            baseline=np.maximum(content - error, 0),
            fill=True,
            color=colour,
            alpha=0.25,
        )
    ax.set(xlim=field.bins[1:], xlabel=field.label, xscale="log" if field.log else "linear")
    ax.set_ylim(bottom=0)
    ax.xaxis.label.set_fontsize("small")
    ax.yaxis.set_major_locator(MaxNLocator(3))
    if field.log:
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3, 5)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    else:
        ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.tick_params(labelsize=9, length=3)


def _draw_some(ax, ready: Prepared, some) -> None:
    """Constituents of up to six jets in two columns on one `ax`, area growing with pt: six axes
    would be slow.
    """
    r = ready.radius
    for i, jet in enumerate(some):
        one = ready.jets[int(jet)]
        eta, phi, pt = (np.asarray(one.constituents[name], float) for name in ("eta", "phi", "pt"))
        tex, colour = plots.look(ready.names[ready.index[jet]], 0)
        x, y = i % 2 * 2 * r * 1.12, -(i // 2) * 2 * r * 1.62
        ax.scatter(
            eta - one.eta + x,
            kinematics.wrap(phi - one.phi) + y,
            s=1 + 1.5 * np.sqrt(pt),
            linewidth=0,
            color=colour,
            alpha=0.8,
        )
        ax.add_patch(Circle((x, y), r, fill=False, color="black", linewidth=0.8, linestyle="--"))
        ax.text(x, y + 1.05 * r, f"jet {jet}\n{tex}", fontsize=9, ha="center")
    ax.set(xlim=(-r * 1.1, 3.4 * r), ylim=(-7.6 * r, 1.9 * r), aspect="equal", anchor="N")
    ax.set_axis_off()


def latent_explorer(
    xy, jets, *, table: Mapping | None = None, method: str = "latent"
) -> ipywidgets.VBox:
    """Explore a map of N jets: point at a jet to see it, lasso jets to compare them with the rest.

    xy: (N, 2), such as `latent.project` returns. jets: the N jets, in the same order. table: {name:
    (N,)} of quantities to colour by and to draw, such as `substructure.compute` returns; else
    fields of the jets. method: names the axes.

    Returns a box. Its `select(indices)` selects from code, by indices or a mask; `scatter` is the
    map, and `scatter.indices` what is selected in it; `controls`, `image` and `hover_image` are the
    other widgets. The picture is that of `draw_selection`. With the keyboard: arrows, plus and
    minus, Enter, Escape. Raises ValueError for lengths that differ. Taught in notebook 09.
    """
    need_jets(jets)
    xy = np.ascontiguousarray(xy, "<f4")
    if xy.shape != (len(jets), 2) or not np.isfinite(xy).all():
        raise ValueError(
            f"xy has shape {xy.shape}, but must be ({len(jets)}, 2) and finite: one point for each jet"
        )
    ready = prepare(jets, table)
    looks = [plots.look(name, i) for i, name in enumerate(ready.names)]
    scatter = Scatter(
        xy=xy.tobytes(),
        classes=ready.index.astype("u1").tobytes(),
        names=ready.names,
        description=HELP,
        labels=[_to_html(tex) for tex, _ in looks],
        class_colours=[colour for _, colour in looks],
        axes=[f"{method} 1", f"{method} 2"],
        source=plots.source(jets),
    )
    image, hover_image = _image(SIZE[0]), _image(POINTED[0])
    menu = ipywidgets.Dropdown(
        options=[("class", "class"), *((name.replace("_", " "), name) for name in ready.table)],
        description="colour by",
        layout={"width": "280px"},
    )

    def colour(_change=None):
        with scatter.hold_sync():
            scatter.palette, scatter.bar, scatter.colours = _colours(
                ready, menu.value, scatter.class_colours
            )

    def show(_change=None):
        chosen = scatter.indices
        scatter.status = _say(ready, chosen)
        image.value = to_png(lambda ax: _full(ax, ready, chosen), size=SIZE)

    def point(_change=None):
        if 0 <= scatter.hover < len(jets):
            hover_image.value = to_png(
                lambda ax: _draw_pointed(ax, jets, scatter.hover), size=POINTED
            )

    def select(indices):
        scatter.selection = np.flatnonzero(_mask(indices, len(jets))).astype("<i4").tobytes()

    menu.observe(colour, "value")
    scatter.observe(show, "selection")
    scatter.observe(point, "hover")
    colour()
    show()
    scatter.hover = 0
    side = ipywidgets.VBox([menu, hover_image], layout={"flex": "0 0 auto", "max_width": "100%"})
    box = ipywidgets.VBox(
        [ipywidgets.HBox([scatter, side], layout={"flex_flow": "row wrap"}), image]
    )
    box.scatter, box.image, box.hover_image = scatter, image, hover_image
    box.controls, box.select = {"colour": menu}, select
    return box


def _draw_pointed(ax, jets, jet: int):
    ax.set_position((0.12, 0.13, 0.6, 0.74))
    return draw_jet(ax, jets, jet=jet)


def _full(ax, ready: Prepared, chosen):
    ax.set_position((0.005, 0, 0.99, 0.95))
    return _draw(ax, ready, chosen)


def _image(width: float) -> ipywidgets.Image:
    return ipywidgets.Image(
        format="png",
        layout={
            "width": f"{96 * width:.0f}px",
            "max_width": "100%",
            "height": "auto",
            "flex": "0 0 auto",
            "align_self": "flex-start",
            "object_fit": "contain",
        },
    )


def _mask(indices, n_jets: int) -> np.ndarray:
    """Selected or not (N,), from indices or from such a mask."""
    indices = np.asarray(indices)
    if indices.dtype == bool and indices.shape == (n_jets,):
        return indices
    if len(indices) and not (
        indices.dtype.kind in "iu" and indices.min() >= 0 and indices.max() < n_jets
    ):
        raise ValueError(
            f"indices must be whole numbers from 0 to {n_jets - 1}, or a mask of {n_jets}: "
            f"got {indices.dtype} {indices.ravel()[:3]} ..."
        )
    mask = np.zeros(n_jets, bool)
    mask[indices.astype(np.int64)] = True
    return mask


def _say(ready: Prepared, chosen) -> str:
    """The selection in words: how many jets, and of which classes."""
    if not len(chosen):
        return NOBODY
    counts = np.bincount(ready.index[chosen], minlength=len(ready.names))
    parts = [
        f"{ready.names[i]} {counts[i]:,} ({counts[i] / len(chosen):.0%})"
        for i in np.argsort(-counts, kind="stable")
        if counts[i]
    ]
    return f"{len(chosen):,} of {len(ready.index):,} jets selected: " + ", ".join(parts)


def _colours(ready: Prepared, name: str, class_colours) -> tuple[list, dict, bytes]:
    """Palette, colour bar and index of each jet into the palette."""
    if name == "class":
        return class_colours, {}, ready.index.astype("u1").tobytes()
    values = ready.table[name]
    low, high = np.quantile(values, [0.01, 0.99])
    share = np.clip((values - low) / (high - low or 1), 0, 1)
    palette = [mpl.colors.to_hex(each) for each in mpl.colormaps["viridis"](np.linspace(0, 1, 64))]
    label = names.JET_FIELDS[name].label if name in names.JET_FIELDS else name
    return (
        palette,
        {"label": _to_html(label), "low": f"&lt; {low:.3g}", "high": f"&gt; {high:.3g}"},
        (63 * share).astype("u1").tobytes(),
    )


def _to_html(tex: str) -> str:
    """Text with formulae between dollars, as MathML, which browsers draw by themselves."""
    return "".join(
        mathml(part) if i % 2 else escape(part) for i, part in enumerate(re.split(r"\$", tex))
    )
