"""Time per redraw of the explorer for a million constituents: python
tests/benchmarks/explorer_speed.py [N]

Selects photons above 1 GeV in cells of one crystal (0.0174), three ways of the same counting, then
the whole redraw: select, count, draw, encode as PNG. The jets are hand-made numbers that stand for
no physics.
"""

import sys
import time

import hist
import numpy as np

from jetnb import explore, jets, names, widgets

REPEAT = 9


def toy(n_constituents: int):
    rng = np.random.default_rng(1)
    counts = rng.poisson(46, n_constituents // 46)
    total, jet = counts.sum(), np.repeat(np.arange(len(counts)), counts)
    axis_eta, axis_phi = rng.uniform(-2.4, 2.4, len(counts)), rng.uniform(-2.3, 2.3, len(counts))
    pt = np.sort(rng.pareto(1.0, total).clip(0, 400) + 0.3)[::-1]
    pt = pt[np.lexsort((-pt, jet))]
    eta = axis_eta[jet] + rng.laplace(0, 0.15, total).clip(-0.8, 0.8)
    constituents = {
        "pt": pt,
        "eta": eta,
        "phi": axis_phi[jet] + rng.laplace(0, 0.15, total).clip(-0.8, 0.8),
        "energy": pt * np.cosh(eta),
        "pdg_id": rng.choice([211, -211, 22, 130], total),
    }
    columns = {
        "pt": np.bincount(jet, pt, len(counts)),
        "eta": axis_eta,
        "phi": axis_phi,
        "mass": np.ones(len(counts)),
    }
    provenance = {"sample": "toy", "source": "simulation", "classes": []}
    return jets.build(columns, constituents, counts, provenance=provenance)


def timed(call) -> float:
    """Median time of `call()` in ms, first call left out."""
    times = []
    for _ in range(REPEAT + 1):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return float(np.median(times[1:]))


def main(n_constituents: int = 1_000_000) -> None:
    sample = toy(n_constituents)
    window = {"particle": "photon", "pt_range": (1.0, np.inf), "bin_width": explore.CRYSTAL}
    ours = explore.eta_phi_histogram(sample.constituents, **window)
    pt, eta, phi, code = (
        explore.flat(sample.constituents, name) for name in ("pt", "eta", "phi", "pdg_id")
    )

    def masked():
        return (pt >= 1) & np.isin(code, names.PARTICLES["photon"].pdg_ids)

    def numpy_way():
        keep = masked()
        return np.histogram2d(eta[keep], phi[keep], bins=[axis.edges for axis in ours.axes])[0]

    def hist_way():
        keep = masked()
        return (
            hist.Hist(*ours.axes, storage=hist.storage.Double()).fill(eta[keep], phi[keep]).values()
        )

    rows = {
        "count: jetnb.explore": lambda: explore.eta_phi_histogram(sample.constituents, **window),
        "count: masks and hist": hist_way,
        "count: masks and numpy.histogram2d": numpy_way,
    }
    for view in widgets.VIEWS:

        def redraw(view=view):
            return widgets.to_png(lambda ax: widgets.draw(ax, sample, view=view, **window))

        rows[f"redraw: {view}"] = redraw
    assert np.abs(hist_way() - ours.values()).sum() == 0, "hist counts differently"
    print(
        f"{len(pt):,} constituents, {ours.sum():,.0f} selected; "
        f"entries that numpy puts into another cell: {np.abs(numpy_way() - ours.values()).sum() / 2:.0f}"
    )
    for name, call in rows.items():
        print(f"{name:36} {timed(call):7.1f} ms")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
