"""Interactive panels: controls above a picture, redrawn as PNG bytes in an `ipywidgets.Image`.

`ipywidgets.Output` and `interact` are avoided: they flicker, and stall a notebook that runs without
a browser. Each panel has its drawing function beside it, which draws the same figure on a page
without a kernel.
"""

from jetnb.widgets.brushing import brush, draw_brush
from jetnb.widgets.explorers import BIN_WIDTHS, PT_STEPS, VIEWS, browse, draw, draw_jet, explore
from jetnb.widgets.files import own_file, propose
from jetnb.widgets.latents import draw_selection, latent_explorer
from jetnb.widgets.monitor import LossPlot, draw_losses, loss_plot
from jetnb.widgets.panels import message, panel, to_png
from jetnb.widgets.rewinding import draw_rewound, rewind
from jetnb.widgets.selections import cuts, draw_cuts

__all__ = [
    "BIN_WIDTHS",
    "PT_STEPS",
    "VIEWS",
    "LossPlot",
    "browse",
    "brush",
    "cuts",
    "draw",
    "draw_brush",
    "draw_cuts",
    "draw_jet",
    "draw_losses",
    "draw_rewound",
    "draw_selection",
    "explore",
    "latent_explorer",
    "loss_plot",
    "message",
    "own_file",
    "panel",
    "propose",
    "rewind",
    "to_png",
]
