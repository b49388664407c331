"""Fixtures shared by the tests: small hand-made jets, valid in every field, that stand for no
physics.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

import jetnb.jets

MASS = {211: 0.13957, 22: 0.0, 130: 0.49761, 11: 0.000511, 13: 0.10566}


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    """What one test has drawn is not there for the next."""
    yield
    if plt := sys.modules.get("matplotlib.pyplot"):
        plt.close("all")


def toy_columns(n: int, seed: int = 0, *, mean: float = 45):
    """Jet columns, constituent columns and counts of `n` toy jets, two per event, for `jets.build`."""
    rng = np.random.default_rng(seed)
    counts = np.clip(rng.normal(mean, mean / 4, n).astype(int), 2, 128)
    jet = np.repeat(np.arange(n), counts)
    total = len(jet)
    pt = np.exp(rng.normal(0.9, 1.3, total)).clip(0.2, 700)
    order = np.lexsort((-pt, jet))
    pt = pt[order].astype(np.float32)
    axis_eta, axis_phi = rng.uniform(-2, 2, n), rng.uniform(-np.pi, np.pi, n)
    eta = (axis_eta[jet] + rng.laplace(0, 0.1, total).clip(-0.8, 0.8)).astype(np.float32)
    phi = axis_phi[jet] + rng.laplace(0, 0.1, total).clip(-0.8, 0.8)
    phi = np.clip((phi + np.pi) % (2 * np.pi) - np.pi, -3.14159, 3.14159).astype(np.float32)
    pdg_id = rng.choice([211, -211, 22, 130, 11, -13], total, p=[0.3, 0.3, 0.3, 0.08, 0.01, 0.01])
    charge = np.sign(pdg_id) * np.where(np.abs(pdg_id) < 20, -1, 1) * ~np.isin(pdg_id, [22, 130])
    mass = np.array([MASS[abs(code)] for code in pdg_id])
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta.astype(float))
    energy = np.sqrt(pt.astype(float) ** 2 + pz**2 + mass**2)
    sums = [np.bincount(jet, weights=v, minlength=n) for v in (px, py, pz, energy)]
    track = (charge != 0) & (rng.random(total) < 0.98)
    error = 0.012 * np.exp(np.abs(rng.normal(0, 0.7, total)))
    taus = np.sort(rng.uniform(0.005, 0.3, (n, 4)), axis=1)[:, ::-1]
    jet_pt = np.hypot(sums[0], sums[1])
    columns = {
        "pt": jet_pt,
        "eta": np.arcsinh(sums[2] / jet_pt),
        "phi": np.arctan2(sums[1], sums[0]),
        "mass": np.sqrt(np.maximum(sums[3] ** 2 - sums[0] ** 2 - sums[1] ** 2 - sums[2] ** 2, 0)),
        **{f"tau{i + 1}": taus[:, i] for i in range(4)},
        "n_constituents": counts,
        "label": np.arange(n) % 2,
        "event": np.arange(n) // 2,
    }
    constituents = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "energy": energy,
        "charge": charge,
        "pdg_id": pdg_id,
        "has_track": track,
        "d0": rng.normal(0, 1, total) * error * track,
        "d0_error": error * track,
        "dz": rng.normal(0, 1, total) * error * track,
        "dz_error": 1.5 * error * track,
        "puppi_weight": np.where(charge != 0, 1.0, rng.random(total)),
    }
    return columns, constituents, counts


def make_toy_jets(n: int, seed: int = 0, *, mean: float = 45):
    """A valid jets array of `n` toy jets, about `mean` constituents each, classes QCD and TTBar in
    turn.
    """
    provenance = {
        "sample": "toy",
        "source": "simulation",
        "classes": ["QCD", "TTBar"],
        "seed": seed,
        "description": "hand-made for tests",
        "versions": {},
        "settings": {},
    }
    return jetnb.jets.build(*toy_columns(n, seed, mean=mean), provenance=provenance)


@pytest.fixture(scope="session")
def toy_jets():
    """The function `toy_jets(n, seed)`."""
    return make_toy_jets


@pytest.fixture(scope="module")
def one_thread():
    """One thread for torch: batches of tests are too small for more, and the last bits of sums
    depend on the number.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def of_today():
    """The function `of_today(name)`: the shipped sample, if it was made with the recipe that is
    there today.
    """

    def load(name: str, **options):
        pytest.importorskip(
            "pythia8mc", reason="simulation extra not installed: pip install 'jetnb[sim]'"
        )
        from jetnb.data import catalogue
        from jetnb.simulation import production

        jets = catalogue.load(name, **options)
        made, now = (
            jetnb.jets.provenance(jets)["settings"],
            production._settings(production.RECIPES[name]),
        )
        if changed := sorted(key for key in {*made, *now} if made.get(key) != now.get(key)):
            pytest.skip(
                f"the shipped {name} was made with an earlier recipe: {', '.join(changed)} changed since"
            )
        return jets

    return load
