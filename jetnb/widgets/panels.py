"""Interactive panels: controls above a picture, redrawn as PNG bytes in an `ipywidgets.Image`.

`ipywidgets.Output` and `interact` are avoided: they flicker, and stall a notebook that runs without
a browser.
"""

from __future__ import annotations

import io

import ipywidgets
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jetnb import plots

# A computed layout takes half of the time of a redraw, small ticks a fifth; and a fixed one does
# not jump.
_QUICK = {
    "figure.constrained_layout.use": False,
    "xtick.minor.visible": False,
    "ytick.minor.visible": False,
    "figure.subplot.left": 0.09,
    "figure.subplot.right": 0.85,
    "figure.subplot.bottom": 0.12,
    "figure.subplot.top": 0.9,
    "xtick.top": False,
    "ytick.right": False,
}


def to_png(
    draw, *, size: tuple[float, float] = (8.0, 5.0), dpi: int = 110, style: str = "plain"
) -> bytes:
    """Draw with `draw(ax)` on a new figure of `size` inches, outside pyplot; returns the PNG file
    as bytes.

    A ValueError of `draw` (an empty window, say) is written into the picture: in a callback nobody
    would see it.
    """
    return render(draw, size=size, dpi=dpi, style=style)[0]


def render(
    draw,
    *,
    size: tuple[float, float] = (8.0, 5.0),
    dpi: int = 110,
    style: str = "plain",
    form: str = "png",
) -> tuple[bytes, object]:
    """As `to_png`; returns the bytes of a "png" or "pdf", and the `ax` drawn on, None where `draw`
    could not.
    """
    with plots.style(style), mpl.rc_context(_QUICK):
        figure = Figure(figsize=size, dpi=dpi)
        FigureCanvasAgg(figure)
        ax = figure.add_subplot()
        try:
            draw(ax)
        except ValueError as problem:
            figure.clear()
            ax = message(figure.add_subplot(), str(problem)) and None
        file = io.BytesIO()
        figure.savefig(
            file,
            format=form,
            dpi=dpi,
            **({"pil_kwargs": {"compress_level": 1}} if form == "png" else {}),
        )
    return file.getvalue(), ax


def message(ax, text: str):
    """Write `text` in the middle of an empty `ax`; returns `ax`."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", wrap=True)
    return ax


def need_jets(jets) -> None:
    """Raise `ValueError` where there is nothing to show."""
    if not len(jets):
        raise ValueError("there are no jets to show: widen the selection")


def panel(draw, *, size: tuple[float, float] = (8.0, 5.0), **controls) -> ipywidgets.VBox:
    """Stack `controls` (name=widget) above a picture that `draw(ax, name=value, ...)` redraws
    whenever one changes.

    Returns a box; its attributes `controls` and `image` hold the widgets, so code can turn the
    knobs as well. Taught in notebook 04.
    """
    image = ipywidgets.Image(
        format="png",
        layout={
            "width": f"{96 * size[0]:.0f}px",
            "max_width": "100%",
            "height": "auto",
            "flex": "0 0 auto",
            "align_self": "flex-start",
            "object_fit": "contain",
        },
    )

    def redraw(_change=None):
        image.value = to_png(
            lambda ax: draw(ax, **{name: each.value for name, each in controls.items()}), size=size
        )

    for each in controls.values():
        each.observe(redraw, "value")
    redraw()
    box = ipywidgets.VBox([in_rows(controls, size), image])
    box.controls, box.image = controls, image
    return box


def in_rows(controls: dict, size) -> ipywidgets.HBox:
    for each in controls.values():
        each.style.description_width = "130px"
        each.layout.width = "380px"
    return ipywidgets.HBox(
        list(controls.values()),
        layout={
            "flex_flow": "row wrap",
            "width": f"{96 * size[0] + 20:.0f}px",
            "max_width": "100%",
        },
    )
