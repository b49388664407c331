"""A jet taken apart on a slider: one splitting at a time, with soft drop and the Lund plane."""

from __future__ import annotations

import awkward as ak
import ipywidgets
import numpy as np

from jetnb import explore, names, plots, substructure
from jetnb.widgets.panels import need_jets, panel


def draw_rewound(ax, jets, *, jet: int = 0, step: int = 0, z_cut: float = 0.1):
    """Draw jet number `jet` after `step` splittings were undone, and where each of them is in the
    Lund plane.

    The harder branch is full, the softer one that splits off now is orange, what split off before
    is hollow. A step beyond the last splitting shows the last. z_cut: of soft drop, whose splitting
    is ringed. `ax` becomes the frame of two panels. Raises `ValueError` for a jet with no
    splitting. Taught in notebook 03.
    """
    one = jets[jet : jet + 1]
    splittings, left_at = (each[0] for each in substructure.decluster(one))
    if not len(splittings):
        raise ValueError(
            f"jet {jet} has a single constituent, so there is nothing to undo: choose another"
        )
    step, dropped = min(step, len(splittings) - 1), np.flatnonzero(splittings.z > z_cut)
    stop = int(dropped[0]) if len(dropped) else None
    ax.set_axis_off()
    display, plane = ax.inset_axes([0.0, 0.0, 0.43, 1.0]), ax.inset_axes([0.57, 0.0, 0.43, 1.0])
    _draw_branches(display, one[0], np.asarray(left_at), step)
    radius = jets.attrs["jetnb"].get("settings", {}).get("radius", 0.8)
    _draw_plane(plane, splittings, step, stop, z_cut, radius)
    now = splittings[step]
    says = (
        "soft drop stops here"
        if step == stop
        else "soft drop goes on"
        if stop is None or step < stop
        else "inside the groomed jet"
    )
    plots.stamp(display, jets, note=f"jet {jet}")
    plane.set_title(
        f"mass {now.mass:.0f} GeV, z = {now.z:.3f}, ΔR = {now.delta_r:.2f}: {says}",
        fontsize="x-small",
        loc="right",
    )
    return ax


def _draw_branches(ax, jet, left_at, step) -> None:
    eta, phi, pt = (np.asarray(jet.constituents[name]) for name in ("eta", "phi", "pt"))
    x, y, area = eta - jet.eta, explore.delta_phi(phi, jet.phi), 14 + 20 * np.sqrt(pt)
    for chosen, colour, what in (
        (left_at > step, names.BLUE, "harder branch"),
        (left_at == step, names.ORANGE, "softer branch"),
        (left_at < step, "none", "split off before"),
    ):
        ax.scatter(
            x[chosen],
            y[chosen],
            area[chosen],
            facecolor=colour,
            edgecolor="black",
            linewidth=0.5,
            alpha=0.7,
            label=f"{what} ({chosen.sum()})",
        )
    ax.set(
        xlim=(-1, 1),
        ylim=(-1, 1.35),
        aspect="equal",
        xlabel=names.CONSTITUENT_FIELDS["deta"].label,
        ylabel=names.CONSTITUENT_FIELDS["dphi"].label,
    )
    for handle in ax.legend(loc="upper left", fontsize="x-small").legend_handles:
        handle.set_sizes([40])


def _draw_plane(ax, splittings, step, stop, z_cut, radius) -> None:
    across, up = (
        np.log(radius / np.maximum(splittings.delta_r, 1e-4)),
        np.log(np.maximum(splittings.kt, 1e-4)),
    )
    seen = np.arange(len(splittings)) < step
    ax.plot(across, up, "-", color="0.85", linewidth=1, zorder=1)
    ax.scatter(
        across[~seen], up[~seen], 18, facecolor="none", edgecolor=names.BLUE, label="to come"
    )
    ax.scatter(across[seen], up[seen], 18, color=names.SLATE, label="undone")
    ax.scatter(across[step], up[step], 70, color=names.ORANGE, edgecolor="black", label="now")
    if stop is not None:
        ax.scatter(
            across[stop],
            up[stop],
            190,
            facecolor="none",
            edgecolor=names.PURPLE,
            linewidth=2,
            label="soft drop",
        )
    line = np.array([-1.0, 8.0])
    ax.plot(
        line,
        np.log(z_cut * float(splittings.pt[0]) * radius) - line,
        ":",
        color=names.PURPLE,
        label=f"z = {z_cut:.2f} of all pT",
    )
    ax.set(
        xlim=(-1, 7),
        ylim=(-6, 6.5),
        xlabel=r"$\ln(R\,/\,\Delta R)$",
        ylabel=r"$\ln(k_T\,/\,\mathrm{GeV})$",
    )
    ax.legend(loc="lower left", fontsize="x-small")


def rewind(jets) -> ipywidgets.VBox:
    """Undo the clustering of any of `jets` on a slider; a `panel` of `draw_rewound`. Taught in
    notebook 03.
    """
    lazy = {"continuous_update": False}
    need_jets(jets)
    most = int(ak.max(ak.num(jets.constituents))) - 2
    return panel(
        lambda ax, jet, step, z_cut: draw_rewound(ax, jets, jet=jet, step=step, z_cut=z_cut),
        size=(9.0, 4.4),
        step=ipywidgets.IntSlider(0, 0, max(min(most, 30), 1), description="splitting"),
        jet=ipywidgets.IntSlider(0, 0, len(jets) - 1, description="jet", **lazy),
        z_cut=ipywidgets.FloatSlider(0.1, min=0.01, max=0.3, step=0.01, description="z cut"),
    )
