"""The named samples: which processes, which detector, which jets. ``production.simulate`` makes
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jetnb import clustering, kinematics, packed
from jetnb.names import JETCLASS
from jetnb.simulation import delphes, delphes_cards, detector, matching, pileup
from jetnb.simulation.processes import Events, generate, make_generator
from jetnb.simulation.response import CMS, Detector

EVENT_STRIDE = 1_000_000_000  # event numbers of one component


class Component(NamedTuple):
    """One process of a sample. label is the class of its jets, "" where the truth of each jet
    decides.

    pt_hat [GeV] lies well below the jet window, so that no turn-on is left inside it.
    resonance_id: keep only jets that hold all visible decay partons of a 6, 23, 24 or 25 (0: keep
    all).
    """

    name: str
    process: str
    share: float
    pt_hat: float
    label: str = ""
    resonance_id: int = 0
    settings: tuple[str, ...] = ()
    event_label: int = -1
    resonance_mass: float = 0.0


class Recipe(NamedTuple):
    """A sample of jets. pt in GeV, sigma_z in mm; pileup is the mean and the spread of collisions
    per crossing.
    """

    name: str
    description: str
    imitates: str
    classes: tuple[str, ...]
    components: tuple[Component, ...]
    pt_range: tuple[float, float]
    eta_max: float
    detector: Detector | delphes_cards.Card
    max_constituents: int
    energy: float = 13000.0
    radius: float = 0.8
    pileup: tuple[float, float] = (0.0, 0.0)
    sigma_z: float = 36.0
    long_lived: bool = (
        True  # strange hadrons may fly out of the tracker, see processes.make_generator
    )
    min_jets: int = 1
    max_jets: int = 1000
    before_puppi: bool = (
        False  # constituents are also the candidates within the radius that have PUPPI weight 0
    )
    track_pt_min: float = 0.0
    d0_sign: int = 1  # of x sin(phi) - y cos(phi), as Delphes; CMS has -1
    four_vectors_only: bool = False
    jets_per_event: float = 0.5  # a guess, used only to size chunks
    impact_parameters: bool = True  # else of constituents only momentum, charge and type are kept
    # Names in resimulation.VARIATIONS: each hard process is showered as often.
    variations: tuple[str, ...] = ()


def _jetclass(name: str, process: str, resonance_id: int) -> Component:
    return Component(name, process, 0.1, 340.0, name, resonance_id)


def _xhh(mass: int) -> Component:
    return Component(
        f"X{mass}",
        "XHH",
        1 / 18,
        0.0,
        settings=(f"5100039:m0={mass}",),
        event_label=1,
        resonance_mass=mass,
    )


# MiniAOD keeps track parameters above 0.5 GeV only, those below 0.95 GeV less precisely.
_AOJ = Recipe(
    "aoj",
    "anti-kT 0.8 multijets at 13 TeV with pile-up and PUPPI weights; 0.07 % of them tops",
    "Aspen Open Jets, arXiv:2412.10504",
    ("QCD", "TTBar"),
    (
        Component("multijet", "multijet", 1 - 7e-4, 190.0, "QCD"),
        Component("top", "tt", 7e-4, 190.0, "TTBar", 6),
    ),
    (300.0, np.inf),
    2.5,
    CMS,
    150,
    pileup=(23.0, 6.0),
    d0_sign=-1,
    jets_per_event=0.25,
    track_pt_min=0.5,
)

_AOJ_ALL = _AOJ._replace(
    name="aoj_all",
    description="the jets of aoj with all candidates within 0.8, also those that PUPPI gives no weight",
    before_puppi=True,
    max_constituents=400,
)

_SIGNALS = _AOJ._replace(
    name="signals",
    description="five kinds of jets to hide in aoj, in its detector and pile-up, matched to the truth",
    imitates="what a search in Aspen Open Jets, arXiv:2412.10504, could look for",
    classes=("TTBar", "WToQQ", "HToBB", "HToWW4Q", "HToAA4B"),
    components=tuple(
        Component(name, process, 0.2, 190.0, name, resonance_id)
        for name, process, resonance_id in (
            ("TTBar", "tt", 6),
            ("WToQQ", "WW", 24),
            ("HToBB", "HZ_bb", 25),
            ("HToWW4Q", "HZ_4q", 25),
            ("HToAA4B", "HZ_aa4b", 25),
        )
    ),
)

_JETCLASS = Recipe(
    "jetclass",
    "ten classes of anti-kT 0.8 jets at 13 TeV without pile-up",
    "JetClass, arXiv:2202.03772",
    JETCLASS,
    (
        _jetclass("QCD", "Z_jet", 0),
        _jetclass("HToBB", "HZ_bb", 25),
        _jetclass("HToCC", "HZ_cc", 25),
        _jetclass("HToGG", "HZ_gg", 25),
        _jetclass("HToWW4Q", "HZ_4q", 25),
        _jetclass("HToWW2Q1L", "HZ_2q1l", 25),
        _jetclass("ZToQQ", "ZZ", 23),
        _jetclass("WToQQ", "WW", 24),
        _jetclass("TTBar", "tt", 6),
        _jetclass("TTBarLep", "tt_leptonic", 6),
    ),
    (500.0, 1000.0),
    2.0,
    delphes_cards.CMS_JETCLASS,
    200,
    sigma_z=0.0,
    long_lived=False,
    jets_per_event=0.2,
)

_TOPTAGGING = Recipe(
    "toptagging",
    "top and light jets at 14 TeV without pile-up, four-vectors only",
    "Top Quark Tagging Reference, arXiv:1902.09914",
    ("QCD", "TTBar"),
    # With multiparton interactions, though its authors say without: in the published jets
    # constituents below 1 GeV are as many as with them, at wide angles 1.8 times those without, and
    # as evenly spread over the area of the jet.
    (
        Component("light", "multijet", 0.5, 380.0, "QCD"),
        Component("top", "tt", 0.5, 380.0, "TTBar", 6),
    ),
    (550.0, 650.0),
    2.0,
    delphes_cards.ATLAS_2016,
    200,
    energy=14000.0,
    sigma_z=0.0,
    long_lived=False,
    four_vectors_only=True,
    jets_per_event=0.14,
)

_HH4B = Recipe(
    "hh4b",
    "X -> HH -> 4b at six masses and multijets: events with two to five anti-kT 0.8 jets, no pile-up",
    "X -> HH -> 4b, arXiv:2401.13536, from CMS open data record 12102",
    ("QCD_b", "QCD_bb", "QCD_c", "QCD_cc", "QCD_others", "HToBB"),
    (
        *map(_xhh, (600, 800, 1000, 1500, 2000, 3000)),
        Component("multijet", "multijet", 2 / 3, 135.0, event_label=0),
    ),
    (200.0, np.inf),
    2.5,
    CMS,
    100,
    d0_sign=-1,
    min_jets=2,
    max_jets=5,
    jets_per_event=0.6,
)


def generator(recipe: Recipe, component: Component, *, seed: int, hook=None):
    """A ready Pythia for a component of a recipe; hook: see ``processes.make_generator``."""
    cut = (f"PhaseSpace:pTHatMin={component.pt_hat}",) if component.pt_hat else ()
    return make_generator(
        component.process,
        seed=seed,
        settings=(*component.settings, *cut),
        energy=recipe.energy,
        long_lived=recipe.long_lived,
        hook=hook,
    )


def make_chunk(
    recipe: Recipe,
    component: Component,
    pythia,
    *,
    n_events: int,
    rng: np.random.Generator,
    pool: pileup.Pool | None = None,
) -> tuple[dict, dict, np.ndarray] | None:
    """Generate n_events and return their jets: columns (N,), constituents (T,), counts (N,); None
    if there are none.

    Event numbers count from 0. Units as in names.py.
    """
    return reconstruct(recipe, component, generate(pythia, n_events), rng=rng, pool=pool)


def reconstruct(
    recipe: Recipe,
    component: Component,
    events: Events,
    *,
    rng: np.random.Generator,
    pool: pileup.Pool | None = None,
) -> tuple[dict, dict, np.ndarray] | None:
    """Jets of these events, as ``make_chunk`` returns them."""
    keep, generated = _preselect(events, recipe)
    if not keep.any():
        return None
    vertices = None
    if recipe.pileup[0]:
        events, generated, vertices = _overlay(events, generated, keep, recipe, rng, pool)
    particles = events.particles
    if vertices is None:
        vertices = pileup.place_vertices(
            np.zeros(events.n_events, int), sigma_z=recipe.sigma_z, rng=rng
        )
    z = vertices.z[vertices.start[particles["event"]] + particles["vertex"]]
    by_card = isinstance(recipe.detector, delphes_cards.Card)
    measure: Callable = delphes.reconstruct if by_card else detector.reconstruct
    c = measure(particles, z, vertices.z[vertices.start], detector=recipe.detector, rng=rng)
    n_vertices = np.add.reduceat(vertices.found, vertices.start)
    c["weight"] = np.ones(len(c["pt"]))
    if recipe.pileup[0]:
        from_hard = pileup.from_hard_vertex(c["event"], c["z0"], vertices) | (c["pt"] > pileup.SURE)
        hard = (c["charge"] != 0) & from_hard
        near = pileup.near_jets(
            c["event"], c["eta"], c["phi"], generated, radius=recipe.radius + 0.4
        )
        c["weight"] = pileup.puppi(c, hard=hard, n_vertices=n_vertices, near=near)
    if recipe.four_vectors_only:
        # Before clustering, so that jets are the sum of what is stored.
        c["mass"] = np.zeros(len(c["pt"]))
    p = clustering.four_momentum(c, c["weight"])
    kept = np.flatnonzero(c["weight"] > 0)
    found = clustering.cluster(
        c["event"][kept],
        {k: v[kept] for k, v in p.items()},
        n_events=events.n_events,
        radius=recipe.radius,
        pt_min=recipe.pt_range[0],
    )
    found = found._replace(rows=kept[found.rows])
    chosen = (
        (found.jets["pt"] < recipe.pt_range[1])
        & (np.abs(found.jets["eta"]) < recipe.eta_max)
        & (found.counts > 1)
    )
    found = clustering.select(found, chosen)
    truth = matching.truth(found.jets, events, generated, radius=recipe.radius)
    chosen = _enough_jets(found.jets["event"], recipe)
    if component.resonance_id:
        chosen &= truth["resonance_id"] == component.resonance_id
    if not chosen.any():
        return None
    found = clustering.select(found, chosen)
    truth = {k: v[chosen] for k, v in truth.items()}
    return _columns(recipe, component, found, truth, c, p, vertices, n_vertices)


def _preselect(events: Events, recipe: Recipe) -> tuple[np.ndarray, dict]:
    """Particle-level jets, and which events can hold a reconstructed one."""
    e = events.particles
    generated = clustering.cluster(
        e["event"],
        e,
        n_events=events.n_events,
        radius=recipe.radius,
        pt_min=0.5 * recipe.pt_range[0],
    ).jets
    hopeful = (generated["pt"] > 0.75 * recipe.pt_range[0]) & (
        np.abs(generated["eta"]) < recipe.eta_max + 0.3
    )
    return np.bincount(generated["event"][hopeful], minlength=events.n_events) > 0, generated


def _overlay(events, generated, keep, recipe, rng, pool):
    """Lay pile-up over the events worth keeping. Its number per crossing follows a gamma-mixed
    Poisson.
    """
    mean, spread = recipe.pileup
    mu = rng.gamma((mean / spread) ** 2, spread**2 / mean, events.n_events)
    counts = rng.poisson(mu) * keep
    extra = pileup.draw(pool, counts, rng=rng, eta_max=recipe.eta_max + recipe.radius + 0.8)
    hard = {k: v[keep[events.particles["event"]]] for k, v in events.particles.items()}
    merged = {k: np.concatenate([hard[k], extra[k]]) for k in hard}
    generated = {k: v[keep[generated["event"]]] for k, v in generated.items()}
    return (
        events._replace(particles=merged),
        generated,
        pileup.place_vertices(counts, sigma_z=recipe.sigma_z, rng=rng),
    )


def _enough_jets(event: np.ndarray, recipe: Recipe) -> np.ndarray:
    """Jets of events with min_jets or more, the max_jets hardest of each."""
    _, first, inverse, counts = np.unique(
        event, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.arange(len(event)) - first[inverse]
    return (counts[inverse] >= recipe.min_jets) & (rank < recipe.max_jets)


def _columns(recipe, component, found, truth, c, p, vertices, n_vertices):
    jets, rows = found.jets, found.rows
    number = packed.jet_of(found.counts)
    columns = {k: jets[k] for k in ("pt", "eta", "phi", "mass", "event")}
    columns |= clustering.substructure(
        {k: v[rows] for k, v in p.items()}, found.counts, radius=recipe.radius
    )
    if recipe.before_puppi:
        gone = np.flatnonzero(c["weight"] == 0)
        without = {k: v[gone] for k, v in c.items()}
        jet, row, _ = clustering.pairs(
            jets,
            {"event": without["event"], **clustering.four_momentum(without)},
            radius=recipe.radius,
        )
        number, rows = np.concatenate([number, jet]), np.concatenate([rows, gone[row]])
        found = found._replace(rows=rows, counts=np.bincount(number, minlength=len(found.counts)))
    order = np.lexsort((-c["pt"][rows], number))
    rank = packed.ranks(found.counts)
    order = order[rank < recipe.max_constituents]
    rows = rows[order]
    counts = np.minimum(found.counts, recipe.max_constituents)
    columns["n_constituents"] = counts
    label = component.label
    columns["label"] = (
        np.full(len(counts), recipe.classes.index(label))
        if label
        else matching.flavour_label(truth, recipe.classes)
    )
    columns |= {k: v for k, v in truth.items() if k != "resonance_id"}
    if recipe.pileup[0]:
        columns["n_vertices"] = n_vertices[jets["event"]]
    if component.event_label >= 0:
        columns["event_label"] = np.full(len(counts), component.event_label)
        columns["resonance_mass"] = np.full(len(counts), component.resonance_mass)
    constituents = {k: c[k][rows] for k in ("pt", "eta", "phi")}
    constituents["energy"] = kinematics.energy(
        constituents["pt"], constituents["eta"], c["mass"][rows]
    )
    if recipe.four_vectors_only:
        return columns, constituents, counts
    constituents |= {"charge": c["charge"][rows], "pdg_id": c["pdg_id"][rows]}
    if not recipe.impact_parameters:
        return columns, constituents, counts
    tracks = (c["charge"][rows] != 0) & (c["pt"][rows] > recipe.track_pt_min)
    hard_z = vertices.z[vertices.start[c["event"][rows]]]
    constituents |= {
        "has_track": tracks,
        "d0": np.where(tracks, recipe.d0_sign * c["d0"][rows], 0),
        "dz": np.where(tracks, c["z0"][rows] - hard_z, 0),
    }
    constituents |= {k: np.where(tracks, c[k][rows], 0) for k in ("d0_error", "dz_error")}
    if recipe.pileup[0]:
        constituents["puppi_weight"] = c["weight"][rows]
    return columns, constituents, counts


RECIPES = {r.name: r for r in (_AOJ, _AOJ_ALL, _SIGNALS, _JETCLASS, _TOPTAGGING, _HH4B)}
