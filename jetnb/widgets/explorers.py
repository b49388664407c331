"""The explorer of jets in the detector, and a browser of single jets.

Each panel has its drawing function beside it, which draws the same figure into any `ax` of a page
without a kernel.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import awkward as ak
import ipywidgets
import numpy as np

from jetnb import explore as counting
from jetnb import names, plots
from jetnb.data import catalogue
from jetnb.widgets.panels import in_rows, need_jets, panel, render
from jetnb.widgets.picture import Picture, frame

VIEWS = ("detector map", "map about the jet axis", "average jet image", "one jet")
BIN_WIDTHS = {
    "1/3 crystal, 0.0058": counting.CRYSTAL / 3,
    "1/2 crystal, 0.0087": counting.CRYSTAL / 2,
    "crystal, 0.0174": counting.CRYSTAL,
    "2 crystals, 0.035": 2 * counting.CRYSTAL,
    "hadronic tower, 0.087": counting.TOWER,
    "forward tower, 0.17": 2 * counting.TOWER,
}
# Of the windows in eta; the narrowest that zooming makes.
ETA_LIMIT, LEAST = (5.2, 2 * counting.CRYSTAL)
PT_STEPS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, np.inf)


def draw_jet(
    ax,
    jets,
    *,
    jet: int = 0,
    particle: str | None = None,
    pt_range=counting.ALL_PT,
    eta_range=counting.ALL_ETA,
):
    """Draw jet number `jet` of `jets` with its pt, mass and class; constituents selected as in
    `explore.select`.
    """
    one = jets[jet : jet + 1]
    keep = counting.select(
        one.constituents, particle=particle, pt_range=pt_range, eta_range=eta_range
    )
    if not keep.any():
        raise ValueError(
            f"No constituent of jet {jet} is in these windows:\nwiden them or choose another jet"
        )
    chosen = ak.with_field(
        one, ak.unflatten(ak.flatten(one.constituents)[keep], [keep.sum()]), "constituents"
    )[0]
    plots.jet_display(ax, chosen, radius=jets.attrs["jetnb"].get("settings", {}).get("radius", 0.8))
    note = (
        f"jet {jet}\n"
        + rf"$p_T$ = {chosen.pt:.0f} GeV, $\eta$ = {chosen.eta:.2f}, $m$ = {chosen.mass:.0f} GeV"
    )
    if "label" in chosen.fields and chosen.label >= 0:
        note += f", class {names.CLASSES[jets.attrs['jetnb']['classes'][chosen.label]].tex}"
    return plots.stamp(ax, jets, note=note)


def browse(jets) -> ipywidgets.VBox:
    """Leaf through `jets` with a slider; a `panel` of `draw_jet`. Taught in notebook 00."""
    need_jets(jets)
    slider = ipywidgets.IntSlider(0, 0, len(jets) - 1, description="jet", continuous_update=False)
    return panel(lambda ax, jet: draw_jet(ax, jets, jet=jet), size=(7.0, 4.6), jet=slider)


def draw(
    ax,
    jets,
    *,
    view: str = VIEWS[0],
    particle: str | None = None,
    pt_range=counting.ALL_PT,
    eta_range=counting.ALL_ETA,
    phi_range=counting.ALL_PHI,
    bin_width: float = counting.TOWER,
    log: bool = True,
    jet: int = 0,
):
    """Draw what the panel of `explore` shows, for the same settings; returns `ax`.

    view: one of `VIEWS`; the rest as in `explore.eta_phi_histogram`. phi_range counts in the
    detector map only, `jet` where one jet is drawn. Cells smaller than a pixel of the figure are
    not drawn, but the next larger ones of `BIN_WIDTHS`: a grid that does not fit to the pixels
    looks like a detector. Windows end where cells do. Raises ValueError where nothing is selected,
    or for an unknown view. Taught in notebook 02.
    """
    kind = (
        names.PARTICLES[particle].tex if particle in names.PARTICLES else particle or "constituents"
    )
    for what, (low, high) in (("pt", pt_range), ("eta", eta_range), ("phi", phi_range)):
        if not low < high:
            raise ValueError(
                f"The window in {what} is empty, from {low:.3g} to {high:.3g}:\ndraw its ends apart"
            )
    chosen = {"particle": particle, "pt_range": pt_range, "eta_range": eta_range}
    if view == "one jet":
        return draw_jet(ax, jets, jet=jet, **chosen)
    if view not in VIEWS:
        raise ValueError(f"no view {view!r}: choose one of {', '.join(VIEWS)}")
    reach = (eta_range, phi_range) if view == "detector map" else ((-0.8, 0.8),) * 2
    width = cell_width(ax, bin_width, *reach)
    if view == "average jet image":
        filled = counting.average_image(jets, bin_width=width, **chosen)
    elif view == "detector map":
        chosen["eta_range"], phi_range = (_whole(each, width) for each in reach)
        filled = counting.eta_phi_histogram(
            jets.constituents, bin_width=width, phi_range=phi_range, **chosen
        )
    else:
        filled = counting.eta_phi_histogram(
            jets.constituents, bin_width=width, relative_to=jets, **chosen
        )
    if not filled.values().any():
        raise ValueError(
            f"There are no {kind} in these windows, of {len(jets):,} jets:\n"
            "widen the windows in pt, eta or phi, or choose another particle type"
        )
    if view == "detector map":
        plots.eta_phi_map(ax, filled, log=log)
    else:
        plots.jet_image(ax, filled, log=log)
    total = "" if view == "average jet image" else f"{filled.sum():,.0f} {kind} of "
    finer = f", cells {width:.3g} wide (finer ones: zoom in)" if width > bin_width else ""
    return plots.stamp(ax, jets, note=f"{total}{len(jets):,} jets{finer}")


def cell_width(ax, wanted: float, x_range, y_range) -> float:
    """`wanted`, or the smallest of `BIN_WIDTHS` above it of which each cell is a pixel of `ax` at
    least.
    """
    least = max(
        (high - low) / pixels
        for (low, high), pixels in zip((x_range, y_range), plots.n_pixels(ax), strict=True)
    )
    return min(
        (each for each in {wanted, *BIN_WIDTHS.values()} if each >= max(wanted, least)),
        default=max(*BIN_WIDTHS.values(), wanted),
    )


def _whole(window, width: float) -> tuple[float, float]:
    """The window, opened to whole cells of `width`: a cell that is cut would look empty."""
    low, high = window
    return float(np.floor(low / width + 1e-6) * width), float(np.ceil(high / width - 1e-6) * width)


def explore(jets) -> ipywidgets.VBox:
    """Explore the constituents of `jets`: particle type, windows, cell size, colour scale and four
    views.

    The picture is that of `draw`; it follows the sliders while they move, and dragging on the
    detector map zooms into it. Buttons zoom, reset, and save the picture as PNG and PDF in
    ``data/derived/figures``. Returns a box. Every control can be set from code:
    ``explore(jets).controls["particle"].value = "photon"``; `buttons`, `image` and `status` are the
    rest. Taught in notebook 02.
    """
    size = (8.0, 5.0)
    limits = [(f"{step:g}" if np.isfinite(step) else "no limit", step) for step in PT_STEPS]
    kinds = [("all", "")] + [(p.name.replace("_", " "), p.name) for p in names.PARTICLES.values()]
    controls = {
        "view": ipywidgets.Dropdown(options=VIEWS, description="view"),
        "particle": ipywidgets.Dropdown(options=kinds, description="particle type"),
        "pt_range": ipywidgets.SelectionRangeSlider(
            options=limits, index=(0, len(limits) - 1), description="pT [GeV]"
        ),
        "bin_width": ipywidgets.Dropdown(
            options=BIN_WIDTHS, value=counting.TOWER, description="bin width"
        ),
        "eta_range": ipywidgets.FloatRangeSlider(
            value=(-3.4, 3.4),
            min=-ETA_LIMIT,
            max=ETA_LIMIT,
            step=0.01,
            description="detector eta",
            readout_format=".2f",
        ),
        "log": ipywidgets.Dropdown(
            options={"logarithmic": True, "linear": False}, description="colour scale"
        ),
        "phi_range": ipywidgets.FloatRangeSlider(
            value=counting.ALL_PHI,
            min=-np.pi,
            max=np.pi,
            step=np.pi / 360,
            description="detector phi [rad]",
            readout_format=".2f",
        ),
        "jet": ipywidgets.IntSlider(0, 0, max(len(jets) - 1, 0), description="jet"),
    }
    image = Picture(
        width=round(96 * size[0]),
        description="Map of constituents. Drag on the detector map to zoom in, "
        "double click to reset; the sliders above do the same with the keyboard.",
    )
    status = ipywidgets.HTML()
    start = {name: each.value for name, each in controls.items()}
    held = []

    def drawn(ax):
        values = {name: each.value for name, each in controls.items()}
        draw(ax, jets, **values | {"particle": values["particle"] or None})

    def redraw(_change=None):
        if held:
            return
        view = controls["view"].value
        controls["jet"].disabled = view != "one jet"
        controls["phi_range"].disabled = view != "detector map"
        controls["bin_width"].disabled = controls["log"].disabled = view == "one jet"
        image.value, ax = render(drawn, size=size)
        image.frames = [frame(ax)] if ax and view == "detector map" else []
        # A slider that was let go can draw once more after a click on "save": the path stays.
        if not status.value.startswith("Saved"):
            status.value = (
                "Drag on the map to zoom in, double click to reset." if image.frames else ""
            )

    def move(**values):
        held.append(True)  # one picture for several controls
        for name, value in values.items():
            controls[name].value = value
        held.clear()
        redraw()

    def zoom(factor):
        windows = {name: controls[name].value for name in ("eta_range", "phi_range")}
        wider = {
            name: _scaled(window, factor, (controls[name].min, controls[name].max))
            for name, window in windows.items()
        }
        if controls["view"].value != "detector map":
            status.value = "Only the detector map can be zoomed: choose it as the view."
        elif wider == windows:
            status.value = (
                "This is the whole detector already."
                if factor > 1
                else "The window is two crystals wide: there is nothing smaller to see."
            )
        else:
            move(**wider)

    def dragged(_frame, x_range, y_range):
        if x_range is not None:
            move(
                eta_range=_scaled(x_range, 1, (-ETA_LIMIT, ETA_LIMIT)),
                phi_range=_scaled(y_range, 1, counting.ALL_PHI),
            )
        elif _frame is None:
            move(**{name: start[name] for name in ("eta_range", "phi_range")})

    def save(form):
        path = _free(
            catalogue.derived() / "figures",
            f"{controls['view'].value.replace(' ', '_')}_{controls['particle'].value or 'all'}",
            form,
        )
        path.write_bytes(render(drawn, size=size, dpi=200, form=form)[0])
        status.value = f"Saved as {path}"

    actions = {
        "zoom in": lambda _: zoom(0.5),
        "zoom out": lambda _: zoom(2),
        "reset": lambda _: move(**start),
        "save PNG": lambda _: save("png"),
        "save PDF": lambda _: save("pdf"),
    }
    buttons = {
        name: ipywidgets.Button(description=name, layout={"width": "95px"}) for name in actions
    }
    for name, button in buttons.items():
        button.on_click(actions[name])
    for each in controls.values():
        each.observe(redraw, "value")
    image.on_drag(dragged)
    redraw()
    box = ipywidgets.VBox(
        [in_rows(controls, size), ipywidgets.HBox([*buttons.values()]), image, status]
    )
    box.controls, box.buttons, box.image, box.status = controls, buttons, image, status
    return box


def _scaled(window, factor: float, limits) -> tuple[float, float]:
    """The window about its middle, `factor` times as wide, within the limits and not narrower than
    `LEAST`.
    """
    (low, high), (first, last) = window, limits
    width = min(max(factor * (high - low), LEAST), last - first)
    low = min(max((low + high - width) / 2, first), last - width)
    return low, low + width


def _free(folder: Path, name: str, form: str) -> Path:
    """The first of ``name.form``, ``name_2.form`` ... that is not there yet; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    tries = (folder / f"{name}{'' if i == 1 else f'_{i}'}.{form}" for i in itertools.count(1))
    return next(path for path in tries if not path.exists())
