"""Figures: an `ax` and arrays in, the `ax` out. Labels, units, ranges and colours come from
`jetnb.names`.

Nothing here touches matplotlib's settings at import: call `use_style` once in a notebook, or draw
inside `with style():`. Every figure carries a stamp that says where its jets come from.
"""

from jetnb.plots.distributions import by_class, field_grid, hist1d, histogram, points
from jetnb.plots.latents import latent_map
from jetnb.plots.looks import (
    COLOURS,
    LINES,
    NEUTRAL,
    legend,
    look,
    panels,
    source,
    stamp,
    style,
    use_style,
    with_ratio,
)
from jetnb.plots.maps import (
    BORDERS,
    MARKERS,
    borders,
    eta_phi_map,
    jet_display,
    jet_image,
    n_pixels,
)
from jetnb.plots.ranks import by_row, critical_difference
from jetnb.plots.results import (
    bounded_lines,
    error_curves,
    learning_curve,
    over_floor,
    reliability,
    roc_curve,
    seed_bars,
    seed_rows,
)
from jetnb.plots.sweeps import finders, scaling_law

__all__ = [
    "BORDERS",
    "COLOURS",
    "LINES",
    "MARKERS",
    "NEUTRAL",
    "borders",
    "bounded_lines",
    "by_class",
    "by_row",
    "critical_difference",
    "error_curves",
    "eta_phi_map",
    "field_grid",
    "finders",
    "hist1d",
    "histogram",
    "jet_display",
    "jet_image",
    "latent_map",
    "learning_curve",
    "legend",
    "look",
    "n_pixels",
    "over_floor",
    "panels",
    "points",
    "reliability",
    "roc_curve",
    "seed_bars",
    "seed_rows",
    "scaling_law",
    "source",
    "stamp",
    "style",
    "use_style",
    "with_ratio",
]
