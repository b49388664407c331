"""Interactive panels: controls above a picture, redrawn as PNG bytes in an `ipywidgets.Image`.

`ipywidgets.Output` and `interact` are avoided: they flicker, and stall a notebook that runs without a browser.
Each panel has its drawing function beside it, which draws the same figure into any `ax` of a page without a kernel.
"""

from __future__ import annotations

import io

import awkward as ak
import ipywidgets
import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jetnb import explore as counting
from jetnb import names, plots

VIEWS = ("detector map", "map about the jet axis", "average jet image", "one jet")
BIN_WIDTHS = {
    "1/3 crystal, 0.0058": counting.CRYSTAL / 3, "1/2 crystal, 0.0087": counting.CRYSTAL / 2,
    "crystal, 0.0174": counting.CRYSTAL, "2 crystals, 0.035": 2 * counting.CRYSTAL,
    "hadronic tower, 0.087": counting.TOWER, "forward tower, 0.17": 2 * counting.TOWER}
# A computed layout takes half of the time of a redraw, small ticks a fifth; and a fixed one does not jump.
_QUICK = {"figure.constrained_layout.use": False, "xtick.minor.visible": False, "ytick.minor.visible": False,
          "figure.subplot.left": 0.09, "figure.subplot.right": 0.85, "figure.subplot.bottom": 0.12,
          "figure.subplot.top": 0.9}
PT_STEPS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, np.inf)


def to_png(draw, *, size: tuple[float, float] = (8.0, 5.0), dpi: int = 110, style: str = "plain") -> bytes:
    """Draw with `draw(ax)` on a new figure of `size` inches, outside pyplot; returns the PNG file as bytes.

    A ValueError of `draw` (an empty window, say) is written into the picture: in a callback nobody would see it.
    """
    with plots.style(style), mpl.rc_context(_QUICK):
        figure = Figure(figsize=size, dpi=dpi)
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
        try:
            draw(ax)
        except ValueError as problem:
            figure.clear()
            message(figure.add_subplot(), str(problem))
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi, pil_kwargs={"compress_level": 1})
    return file.getvalue()


def message(ax, text: str):
    """Write `text` in the middle of an empty `ax`; returns `ax`."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", wrap=True)
    return ax


def panel(draw, *, size: tuple[float, float] = (8.0, 5.0), **controls) -> ipywidgets.VBox:
    """Stack `controls` (name=widget) above a picture that `draw(ax, name=value, ...)` redraws whenever one changes.

    Returns a box; its attributes `controls` and `image` hold the widgets, so code can turn the knobs as well.
    Taught in notebook 00.
    """
    image = ipywidgets.Image(format="png", layout={
        "width": f"{96 * size[0]:.0f}px", "max_width": "100%", "height": "auto", "flex": "0 0 auto",
        "align_self": "flex-start", "object_fit": "contain"})

    def redraw(_change=None):
        image.value = to_png(lambda ax: draw(ax, **{name: each.value for name, each in controls.items()}), size=size)

    for each in controls.values():
        each.style.description_width = "130px"
        each.layout.width = "380px"
        each.observe(redraw, "value")
    redraw()
    rows = ipywidgets.HBox(list(controls.values()), layout={
        "flex_flow": "row wrap", "width": f"{96 * size[0] + 20:.0f}px", "max_width": "100%"})
    box = ipywidgets.VBox([rows, image])
    box.controls, box.image = controls, image
    return box


def draw_jet(ax, jets, *, jet: int = 0, particle: str | None = None, pt_range=counting.ALL_PT,
             eta_range=counting.ALL_ETA):
    """Draw jet number `jet` of `jets` with its pt, mass and class; constituents selected as in `explore.select`."""
    one = jets[jet:jet + 1]
    keep = counting.select(one.constituents, particle=particle, pt_range=pt_range, eta_range=eta_range)
    if not keep.any():
        raise ValueError(f"No constituent of jet {jet} is in these windows:\nwiden them or choose another jet")
    chosen = ak.with_field(one, ak.unflatten(ak.flatten(one.constituents)[keep], [keep.sum()]), "constituents")[0]
    plots.jet_display(ax, chosen, radius=jets.attrs["jetnb"].get("settings", {}).get("radius", 0.8))
    note = f"jet {jet}\n" + rf"$p_T$ = {chosen.pt:.0f} GeV, $\eta$ = {chosen.eta:.2f}, $m$ = {chosen.mass:.0f} GeV"
    if "label" in chosen.fields and chosen.label >= 0:
        note += f", class {names.CLASSES[jets.attrs['jetnb']['classes'][chosen.label]].tex}"
    return plots.stamp(ax, jets, note=note)


def browse(jets) -> ipywidgets.VBox:
    """Leaf through `jets` with a slider; a `panel` of `draw_jet`. Taught in notebook 00."""
    slider = ipywidgets.IntSlider(0, 0, len(jets) - 1, description="jet", continuous_update=False)
    return panel(lambda ax, jet: draw_jet(ax, jets, jet=jet), size=(7.0, 4.6), jet=slider)


def draw(ax, jets, *, view: str = VIEWS[0], particle: str | None = None, pt_range=counting.ALL_PT,
         eta_range=counting.ALL_ETA, phi_range=counting.ALL_PHI, bin_width: float = counting.TOWER, log: bool = True,
         jet: int = 0):
    """Draw what the panel of `explore` shows, for the same settings; returns `ax`.

    view: one of `VIEWS`; the rest as in `explore.eta_phi_histogram`. phi_range counts in the detector map only,
    `jet` where one jet is drawn. Raises ValueError where nothing is selected, or for an unknown view.
    Taught in notebook 02.
    """
    chosen = {"particle": particle, "pt_range": pt_range, "eta_range": eta_range}
    if view == "one jet":
        return draw_jet(ax, jets, jet=jet, **chosen)
    if view not in VIEWS:
        raise ValueError(f"no view {view!r}: choose one of {', '.join(VIEWS)}")
    if view == "average jet image":
        filled = counting.average_image(jets, bin_width=bin_width, **chosen)
    else:
        where = {"phi_range": phi_range} if view == "detector map" else {"relative_to": jets}
        filled = counting.eta_phi_histogram(jets.constituents, bin_width=bin_width, **chosen, **where)
    if not filled.values().any():
        raise ValueError("No constituent is in these windows:\nwiden them or choose another particle type")
    if view == "detector map":
        plots.eta_phi_map(ax, filled, log=log)
    else:
        plots.jet_image(ax, filled, log=log)
    total = "" if view == "average jet image" else f"{filled.sum():,.0f} constituents of "
    return plots.stamp(ax, jets, note=f"{total}{len(jets):,} jets")


def explore(jets) -> ipywidgets.VBox:
    """Explore the constituents of `jets`: particle type, windows, cell size, colour scale and four views.

    A `panel` of `draw`. Every control can be set from code: ``explore(jets).controls["particle"].value = "photon"``.
    Taught in notebook 02.
    """
    limits = [(f"{step:g}" if np.isfinite(step) else "no limit", step) for step in PT_STEPS]
    kinds = [("all", "")] + [(p.name.replace("_", " "), p.name) for p in names.PARTICLES.values()]
    lazy = {"continuous_update": False}
    controls = {
        "view": ipywidgets.Dropdown(options=VIEWS, description="view"),
        "particle": ipywidgets.Dropdown(options=kinds, description="particle type"),
        "pt_range": ipywidgets.SelectionRangeSlider(options=limits, index=(0, len(limits) - 1),
                                                    description="pT [GeV]", **lazy),
        "bin_width": ipywidgets.Dropdown(options=BIN_WIDTHS, value=counting.TOWER, description="bin width"),
        "eta_range": ipywidgets.FloatRangeSlider(value=(-3.4, 3.4), min=-5.2, max=5.2, step=0.1,
                                                 description="detector eta", readout_format=".1f", **lazy),
        "log": ipywidgets.Dropdown(options={"logarithmic": True, "linear": False}, description="colour scale"),
        "phi_range": ipywidgets.FloatRangeSlider(value=counting.ALL_PHI, min=-np.pi, max=np.pi, step=np.pi / 72,
                                                 description="detector phi [rad]", readout_format=".1f", **lazy),
        "jet": ipywidgets.IntSlider(0, 0, len(jets) - 1, description="jet", **lazy)}

    def only_what_counts(_change=None):
        view = controls["view"].value
        controls["jet"].disabled = view != "one jet"
        controls["phi_range"].disabled = view != "detector map"
        controls["bin_width"].disabled = controls["log"].disabled = view == "one jet"

    controls["view"].observe(only_what_counts, "value")
    only_what_counts()
    return panel(lambda ax, particle, **settings: draw(ax, jets, particle=particle or None, **settings), **controls)
