"""Give up early the events that will have no jet in the window of a recipe.

Spectra fall steeply, and the hard process is drawn well below the window of the jets, so that no
turn-on is left inside it: most events have no jet to keep. Yet it takes most of the time to finish
them, with soft radiation, multiparton interactions and hadrons. Pythia's evolution falls in
transverse momentum, so at a scale of 20 GeV an event has its hard partons, and this is asked of it
there: is there a cone that holds enough momentum for a jet in the window? Where there is none Pythia
drops the event and draws another. Its cross section counts those dropped as such.

``python -m jetnb.simulation.veto NAME --events N --seed S`` simulates without it, and says how many
of the kept jets it would have lost.
"""

from __future__ import annotations

import argparse
import math
from typing import NamedTuple

import numpy as np

from jetnb.data import catalogue
from jetnb.simulation import pileup, processes, recipes

NEUTRINOS = (12, 14, 16)
SEED_SHARE = 0.1  # of the momentum asked for: what a parton has at least in the middle of a cone
BLOCK = 500  # events at a time
LAST_STEP = 4  # of Pythia's: from here on decays of resonances, whose products are in the cones


class Veto(NamedTuple):
    """Drop an event where, at `scale` [GeV] of the evolution, no cone of `radius` about a parton has
    a scalar sum of transverse momenta of `pt` [GeV] or more."""

    pt: float
    radius: float = 1.0
    scale: float = 20.0


# A fifth below the window of each recipe.
VETOES = {
    "aoj": Veto(240.0),
    "aoj_all": Veto(240.0),
    "signals": Veto(240.0),
    "jetclass": Veto(400.0),
    "toptagging": Veto(440.0),
    "hh4b": Veto(160.0),
}


def of(name: str) -> Veto:
    """The veto of a recipe. Raises `ValueError` for one that has none."""
    if name not in VETOES:
        raise ValueError(
            f"the recipe {name!r} has no veto, only {', '.join(VETOES)}: simulate it without"
        )
    return VETOES[name]


def hook(recipe, component, *, veto: Veto | None = None, seen: list | None = None):
    """A hook for Pythia that drops events of a component of a recipe, see
    `processes.make_generator`.

    veto: that of the recipe unless given. Cones that are further out than jets are kept, by more
    than a radius, do not count. seen: a list; then nothing is dropped, and it gets for each event pz
    of the two partons that collide [GeV], by which it is known, and whether it would have been.
    """
    import pythia8mc

    veto, unseen = veto or of(recipe.name), _unseen(component.process)

    class Hook(pythia8mc.UserHooks):
        def canVetoPT(self):  # noqa: N802  names are those of Pythia
            return True

        def scaleVetoPT(self):  # noqa: N802
            return veto.scale

        def doVetoPT(self, step, event):  # noqa: N802
            if step >= LAST_STEP:
                return False
            drop = not _holds(event, veto, unseen, recipe.eta_max)
            if seen is None:
                return drop
            first, second = (event[int(i)].pz() for i in processes.INCOMING)
            seen.append((first, second, drop))
            return False

    return Hook()


def _unseen(process: str) -> tuple[int, ...]:
    """What gives no jet: neutrinos, and Z where they decay to these only."""
    to_neutrinos = set(processes.Z_TO_NEUTRINOS) <= set(processes.PROCESSES[process])
    return (*NEUTRINOS, 23) if to_neutrinos else NEUTRINOS


def _holds(event, veto: Veto, unseen: tuple[int, ...], eta_max: float) -> bool:
    """Whether a cone has the momentum. In plain Python: a hundred particles at most, and arrays
    would take longer.
    """
    found = []
    for i in range(event.size()):
        p = event[i]
        if p.isFinal() and p.idAbs() not in unseen:
            pt = p.pT()
            if pt > 1:
                found.append((pt, p.eta(), p.phi()))
    if sum(pt for pt, _, _ in found) < veto.pt:
        return False
    found.sort(reverse=True)
    for pt, eta, phi in found:
        if pt < SEED_SHARE * veto.pt:
            return False
        if abs(eta) > eta_max + veto.radius:
            continue
        total = 0.0
        for other, y, azimuth in found:
            away = abs(azimuth - phi)
            if math.hypot(y - eta, min(away, 2 * math.pi - away)) < veto.radius:
                total += other
        if total >= veto.pt:
            return True
    return False


class Cost(NamedTuple):
    """What a veto costs and saves in one component: of n_events so many are `dropped`. Of the jets
    that are kept without it: pt (n_jets,) [GeV], whether they would be `lost` with it (n_jets,), and
    how many jets their event has (n_jets,)."""

    component: str
    n_events: int
    dropped: int
    pt: np.ndarray
    lost: np.ndarray
    jets_of_event: np.ndarray


def cost(
    name: str,
    component: int,
    *,
    n_events: int,
    seed: int,
    veto: Veto | None = None,
    pool: pileup.Pool | None = None,
) -> Cost:
    """Simulate events of a component of a recipe as always, and ask of each whether a veto would
    have dropped it.

    veto: that of the recipe unless given. pool: for pile-up, where the recipe has some; None leaves
    it out.
    """
    recipe, seen = recipes.RECIPES[name], []
    part = recipe.components[component]
    pythia = recipes.generator(
        recipe, part, seed=seed, hook=hook(recipe, part, veto=veto, seen=seen)
    )
    rng, n_dropped, found = np.random.default_rng(seed), 0, []
    for first in range(0, n_events, BLOCK):
        events = processes.generate(pythia, min(BLOCK, n_events - first))
        verdict = {(one, other): drop for one, other, drop in seen}
        seen.clear()
        drop = np.array([verdict.get(tuple(pz), False) for pz in events.incoming.tolist()])
        n_dropped += int(drop.sum())
        wanted = recipe if pool else recipe._replace(pileup=(0.0, 0.0))
        if made := recipes.reconstruct(wanted, part, events, rng=rng, pool=pool):
            event = made[0]["event"]
            found.append((made[0]["pt"], drop[event], np.bincount(event)[event]))
    columns = map(np.concatenate, zip(*found, strict=True)) if found else [np.zeros(0)] * 3
    return Cost(part.name, n_events, n_dropped, *columns)


def table(costs: list[Cost], edge: float) -> str:
    """A Markdown table. edge: where the window of the jets begins [GeV]; jets within a tenth of it
    and those of events with several are counted by themselves, too. Limits are of 95 %."""
    lines = [
        "| component | events dropped | jets lost | near the edge | with other jets |",
        "|---|---|---|---|---|",
    ]
    for one in costs:
        cells = []
        for some in (np.isfinite(one.pt), one.pt < 1.1 * edge, one.jets_of_event > 1):
            lost, n = int(one.lost[some].sum()), int(some.sum())
            limit = f" (< {_limit(lost, n):.2%})" if n else ""
            cells.append(f"{lost} of {n}{limit}")
        lines.append(
            f"| {one.component} | {one.dropped / one.n_events:.0%} of {one.n_events:,} "
            f"| {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _limit(k: int, n: int) -> float:
    """Upper limit at 95 % of a share of which k of n were seen, Clopper-Pearson."""
    from scipy.stats import beta

    return 1.0 if k == n else float(beta.ppf(0.95, k + 1, n - k))


def main(argv=None) -> int:
    """Print what the veto of a recipe costs, for each of its components."""
    parser = argparse.ArgumentParser(
        prog="python -m jetnb.simulation.veto", description=__doc__.splitlines()[0]
    )
    parser.add_argument("name", metavar="NAME", choices=VETOES)
    parser.add_argument("--events", type=int, default=2000, metavar="N", help="of each component")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--component", action="append", metavar="C", help="only these")
    args = parser.parse_args(argv)
    recipe, pool = recipes.RECIPES[args.name], None
    if recipe.pileup[0]:
        folder = catalogue.derived() / "minimum_bias"
        pool = pileup.load_pool(pileup.make_pool(folder, energy=recipe.energy))
    names = [one.name for one in recipe.components]
    costs = [
        cost(args.name, names.index(one), n_events=args.events, seed=args.seed, pool=pool)
        for one in args.component or names
    ]
    print(table(costs, recipe.pt_range[0]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
