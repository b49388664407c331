"""Maps of a latent space: one small point per jet, coloured by class or by a quantity."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.lines import Line2D

from jetnb import names
from jetnb.plots.looks import look, stamp


def latent_map(
    ax,
    xy,
    jets,
    *,
    colour: str = "class",
    table: Mapping | None = None,
    method: str = "latent",
    seed: int = 0,
):
    """Draw a map of N jets, coloured by class or by a quantity, with the stamp of `jets`; returns
    `ax`.

    xy: (N, 2), such as `latent.project` returns. jets: the N jets, in the same order. colour:
    "class", or the name of a quantity in `table` ({name: (N,)}, such as `substructure.compute`
    returns) or a field of the jets, whose label and unit are those of `jetnb.names`; the scale
    holds the central 98 %. method: of the axes, as in "t-SNE 1", which have no ticks since they
    have no unit. seed: of the order in which points are drawn, at random so that no class hides
    another. Raises ValueError for lengths that differ and a quantity that is not there. Taught in
    notebook 09.
    """
    xy = np.asarray(xy, float)
    if xy.shape != (len(jets), 2):
        raise ValueError(
            f"xy has shape {xy.shape}, but must be ({len(jets)}, 2): one point for each of the jets"
        )
    order = np.random.default_rng(seed).permutation(len(xy))
    drawn = {
        "s": float(np.clip(20_000 / len(xy), 1.5, 18)),
        "linewidth": 0,
        "alpha": 0.7,
        "rasterized": True,
    }
    if colour == "class":
        index, found = classes(jets)
        palette = np.array([look(name, i)[1] for i, name in enumerate(found)])
        ax.scatter(*xy[order].T, c=palette[index[order]], **drawn)
        keys = [
            Line2D([], [], linestyle="", marker="o", color=look(name, i)[1], label=look(name, i)[0])
            for i, name in enumerate(found)
        ]
        ax.legend(handles=keys, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0.0)
    else:
        values = quantity(jets, colour, table)
        low, high = np.quantile(values, [0.01, 0.99])
        points = ax.scatter(
            *xy[order].T, c=values[order], cmap="viridis", vmin=low, vmax=high, **drawn
        )
        bar = ax.figure.colorbar(points, cax=ax.inset_axes((1.02, 0, 0.04, 1)), extend="both")
        bar.solids.set_alpha(1)
        bar.ax.minorticks_off()
        bar.set_label(names.JET_FIELDS[colour].label if colour in names.JET_FIELDS else colour)
    ax.set(xticks=[], yticks=[], xlabel=f"{method} 1", ylabel=f"{method} 2")
    ax.margins(0.03)
    ax.minorticks_off()
    return stamp(ax, jets, note=f"{len(xy):,} jets")


def classes(jets) -> tuple[np.ndarray, list[str]]:
    """Index (N,) of each jet into the names of the classes that are there, "unlabelled" last."""
    label = np.asarray(jets["label"]) if "label" in jets.fields else np.full(len(jets), -1)
    known = [*jets.attrs["jetnb"]["classes"], "unlabelled"]
    label = np.where(label < 0, len(known) - 1, label)
    present, index = np.unique(label, return_inverse=True)
    return index, [known[each] for each in present]


def quantity(jets, name: str, table: Mapping | None = None) -> np.ndarray:
    """The quantity `name` (N,) from `table`, else a field of the jets; tau21 and tau32 are made of
    what they are of.
    """
    if table is not None and name in table:
        values = table[name]
    elif name in jets.fields:
        values = jets[name]
    elif name in ("tau21", "tau32") and {f"tau{name[3]}", f"tau{name[4]}"} <= set(jets.fields):
        over, under = (np.asarray(jets[f"tau{digit}"], float) for digit in name[3:])
        values = np.divide(over, under, out=np.zeros_like(under), where=under > 0)
    else:
        raise ValueError(
            f"there is no quantity {name!r} in the table or the fields of the jets, {jets.fields}: add it "
            "to the table with substructure.compute"
        )
    values = np.asarray(values, float)
    if values.shape != (len(jets),):
        raise ValueError(
            f"{name} has shape {values.shape}, but there are {len(jets)} jets: one number for each"
        )
    return values
