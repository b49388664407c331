"""The same hard partons simulated again and again: showered, hadronised and seen by the detector with
other random numbers, scales and models.

All jets of one hard parton have the same ``pair``; ``variation`` says how each was made. They are one
event, so a split by event keeps them together. Idea: arXiv:2403.07066.

A hard process is drawn from its seed alone, and each variation has random numbers of its own, made from
its name. So the number of an event says which hard process it is, and ``add`` gives a sample more
variations later.
"""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import clustering, packed, parallel
from jetnb.simulation import delphes_cards, hard
from jetnb.simulation.recipes import EVENT_STRIDE, Component, Recipe, reconstruct

EVENTS_PER_CHUNK = 100  # hard processes
PER_EVENT = 10  # numbers of pairs that each event has: the places of its hard partons in the record


class Variation(NamedTuple):
    """One way to simulate a hard process.

    settings: lines of Pythia's manual beside those of the nominal. shower, detector: the variation
    whose random numbers it shares there, "" for its own; where the shower differs, those of the
    detector fall on other particles. energy_flow: False for jets of calorimeter towers alone.
    """

    meaning: str
    settings: tuple[str, ...] = ()
    shower: str = ""
    detector: str = ""
    energy_flow: bool = True


def _scale(factor: str, value: float) -> Variation:
    # renormMultFac multiplies the square of the scale
    return Variation(
        f"renormalisation scale of final-state radiation {factor}",
        (f"TimeShower:renormMultFac={value}",),
    )


# Mode 2 of arXiv:1505.01681, table 1
_COLOUR = (
    "StringPT:sigma=0.335",
    "StringZ:aLund=0.36",
    "StringZ:bLund=0.56",
    "StringFlav:probQQtoQ=0.078",
    "StringFlav:ProbStoUD=0.2",
    "StringFlav:probQQ1toQQ0join={0.0275,0.0275,0.0275,0.0275}",
    "MultiPartonInteractions:pT0Ref=2.15",
    "BeamRemnants:remnantMode=1",
    "BeamRemnants:saturation=5",
    "ColourReconnection:mode=1",
    "ColourReconnection:allowDoubleJunRem=off",
    "ColourReconnection:m0=0.3",
    "ColourReconnection:allowJunctions=on",
    "ColourReconnection:junctionCorrection=1.20",
    "ColourReconnection:timeDilationMode=2",
    "ColourReconnection:timeDilationPar=0.18",
)

# The number of a variation in a jets array is its place here: append new ones at the end.
VARIATIONS = {
    "nominal": Variation("Pythia's Monash tune"),
    "detector": Variation("the same shower, measured again", shower="nominal"),
    "calorimeter": Variation(
        "the same shower and measurement, towers of the calorimeter before the energy flow",
        shower="nominal",
        detector="nominal",
        energy_flow=False,
    ),
    "seed": Variation("other random numbers only"),
    "fsr_up": _scale("x sqrt(2)", 2),
    "fsr_down": _scale("/ sqrt(2)", 0.5),
    "colour": Variation("colour reconnection of QCD type, and strings tuned with it", _COLOUR),
    "vincia": Variation("Vincia's shower, arXiv:2003.00702", ("PartonShowers:model=2",)),
    "tune": Variation("the A14 tune, ATL-PHYS-PUB-2014-021", ("Tune:pp=21",)),
    "fsr_up_2": _scale("x 2", 4),
    "fsr_down_2": _scale("/ 2", 0.25),
    "shower": Variation("other random numbers in the shower alone", detector="nominal"),
}


def _component(name: str, process: str, share: float, resonance_id: int = 0) -> Component:
    # Momenta are drawn nearly evenly, so that all classes have much the same, and few events are lost.
    flat = (
        "PhaseSpace:pTHatMax=1150",
        "PhaseSpace:bias2Selection=on",
        "PhaseSpace:bias2SelectionPow=4",
    )
    return Component(name, process, share, 400.0, name, resonance_id, settings=flat)


RECIPE = Recipe(
    "resimulation",
    "hard partons, each simulated nine times: anti-kT 0.8 jets at 13 TeV without pile-up",
    "RS3L, arXiv:2403.07066, with the detector of JetClass, arXiv:2202.03772",
    ("QCD", "HToBB", "ZToQQ", "WToQQ", "TTBar"),
    (
        _component("QCD", "Z_jet", 0.40),
        _component("HToBB", "HZ_bb", 0.24, 25),
        _component("ZToQQ", "ZZ", 0.12, 23),
        _component("WToQQ", "WW", 0.12, 24),
        _component("TTBar", "tt", 0.12, 6),
    ),
    (500.0, 1000.0),
    2.0,
    delphes_cards.CMS_JETCLASS,
    100,
    sigma_z=0.0,
    long_lived=False,
    jets_per_event=5.0,
    impact_parameters=False,
    variations=tuple(list(VARIATIONS)[:9]),
)


def make_chunk(
    recipe: Recipe, component: Component, *, seed: int, chunk: int
) -> tuple[dict, dict, np.ndarray] | None:
    """Draw the hard processes of a chunk and simulate each in all variations of the recipe: columns
    (N,), constituents (T,), counts (N,) of the jets, by event; None if there are none.

    Kept are jets that belong to a hard parton: that hold the whole resonance, or where the parton
    itself is within the radius. Of a parton whose nominal jet does not pass the cuts none is kept.
    """
    made = dict(_simulated(recipe, component, recipe.variations, seed=seed, chunk=chunk))
    pairs = made["nominal"][0]["pair"] if made.get("nominal") else np.zeros(0, int)
    return _joined(
        [_chosen(one, np.isin(one[0]["pair"], pairs)) for one in made.values() if one is not None]
    )


def add(jets: ak.Array, variations: tuple[str, ...], *, processes: int | None = None) -> ak.Array:
    """Jets of more variations of the hard processes of `jets`, of the recipe "resimulation": those
    that pass its cuts.

    variations: names of VARIATIONS. processes: workers, one per core by default. Raises ValueError for
    an unknown name and for jets of another sample.
    """
    about = jetnb.jets.provenance(jets)
    if about["sample"] != RECIPE.name:
        raise ValueError(
            f"jets are of {about['sample']!r}: only those of {RECIPE.name!r} can be simulated again"
        )
    if unknown := [name for name in variations if name not in VARIATIONS]:
        raise ValueError(f"variation {unknown[0]!r} is unknown: use {', '.join(VARIATIONS)}")
    recipe, seed, pairs = RECIPE, about["seed"], ak.to_numpy(jets.pair)
    numbers = np.unique(ak.to_numpy(jets.event) // EVENTS_PER_CHUNK)

    def of_chunk(number):
        c, k = divmod(int(number), EVENT_STRIDE // EVENTS_PER_CHUNK)
        made = _simulated(recipe, recipe.components[c], variations, seed=seed, chunk=k)
        first = EVENTS_PER_CHUNK * int(number)
        parts = []
        for _, one in made:
            if one is not None:
                one[0]["event"] += first
                one[0]["pair"] += PER_EVENT * first
                parts.append(_chosen(one, np.isin(one[0]["pair"], pairs)))
        return parts

    found = parallel.as_done(of_chunk, numbers.tolist(), processes=processes)
    made = _joined([one for _, parts in sorted(found, key=lambda one: one[0]) for one in parts])
    if made is None:
        raise ValueError(
            f"none of these jets passes the cuts in {', '.join(variations)}: take more jets"
        )
    columns, constituents, counts = made
    # The number of a variation counts in VARIATIONS, of which a sample has the first at least.
    about["variations"] = list(VARIATIONS)[
        : max(len(about["variations"]), *columns["variation"] + 1)
    ]
    return jetnb.jets.build(columns, constituents, counts, provenance=about)


def _simulated(recipe, component, variations, *, seed, chunk):
    """Name and jets (or None) of each variation."""

    def stream(name: str) -> np.random.SeedSequence:
        keys = (zlib.crc32(text.encode()) for text in (component.name, name))
        return np.random.SeedSequence([seed, chunk, *keys])

    def number(name: str) -> int:
        return int(stream(name).generate_state(1)[0])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hard.lhe"
        incoming = hard.draw(
            component.process,
            path,
            n_events=EVENTS_PER_CHUNK,
            seed=number("hard process"),
            settings=(*component.settings, f"PhaseSpace:pTHatMin={component.pt_hat}"),
            energy=recipe.energy,
        )
        showered = {}
        for name in variations:
            variation = VARIATIONS[name]
            key = variation.shower or name, variation.settings
            if key not in showered:
                showered[key] = hard.shower(
                    path,
                    incoming,
                    seed=number(f"shower {key[0]}"),
                    settings=variation.settings,
                    long_lived=recipe.long_lived,
                )
            detector = recipe.detector._replace(energy_flow=variation.energy_flow)
            made = reconstruct(
                recipe._replace(detector=detector),
                component,
                showered[key],
                rng=np.random.default_rng(stream(f"detector {variation.detector or name}")),
            )
            yield name, made and _matched(made, component, showered[key], recipe.radius, name)


def _matched(made, component, events, radius, name):
    """The jets that belong to a hard parton, the hardest of each, with their pair and variation."""
    columns = made[0]
    partons = events.partons
    i, j, _ = clustering.pairs(columns, partons, radius=radius)
    own = partons["resonance_id"][j] == component.resonance_id
    i, j = i[own], j[own]
    hardest = clustering.best(len(columns["pt"]), i, j, -np.hypot(partons["px"], partons["py"])[j])
    place = np.append(partons["outgoing"], 0)[hardest]
    columns["pair"] = PER_EVENT * columns["event"] + place
    columns["variation"] = np.full(len(place), list(VARIATIONS).index(name))
    order = np.lexsort((-columns["pt"], columns["pair"], hardest < 0))
    _, first = np.unique(columns["pair"][order], return_index=True)
    chosen = np.sort(order[first])
    return _chosen(made, chosen[hardest[chosen] >= 0])


def _chosen(made, chosen: np.ndarray):
    """The jets of a mask or of indices."""
    columns, constituents, counts = made
    index = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    rows = packed.rows(packed.starts(counts)[index], counts[index])
    return (
        {k: v[index] for k, v in columns.items()},
        {k: v[rows] for k, v in constituents.items()},
        counts[index],
    )


def _joined(made: list):
    """One table of several, by event and pair, variations in their order; None if there are no jets."""
    if not sum(len(one[2]) for one in made):
        return None
    columns = {k: np.concatenate([one[0][k] for one in made]) for k in made[0][0]}
    constituents = {k: np.concatenate([one[1][k] for one in made]) for k in made[0][1]}
    joined = columns, constituents, np.concatenate([one[2] for one in made])
    return _chosen(joined, np.lexsort((columns["variation"], columns["pair"])))
