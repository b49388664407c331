"""The parts of a sample: a chunk of a component each, made by a worker process, kept as a file
until all are there.
"""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jetnb import atomic, clustering, packed
from jetnb.simulation import pileup, pileup_jets, recipes, resimulation
from jetnb.simulation.processes import make_generator
from jetnb.simulation.veto import hook as hook_of

EVENTS_PER_CHUNK = 250
RECIPES: dict[str, Any] = {
    **recipes.RECIPES,
    "resimulation": resimulation.RECIPE,
    "pileup": pileup_jets.PileupRecipe(),
}


def make(name: str, c: int, k: int, seed: int, pool: str, file: str, veto: bool = False) -> int:
    """Worker: one chunk of one component, in a file that is there when it is complete. Returns its
    jets. veto: with that of the recipe.
    """
    _without_banner()
    recipe = RECIPES[name]
    component = recipe.components[c] if hasattr(recipe, "components") else None
    key = zlib.crc32((component.name if component else "pileup").encode())
    sequence = np.random.SeedSequence([seed, key, k])
    a, b = (int(s) for s in sequence.generate_state(2))
    rng = np.random.default_rng(sequence.spawn(1)[0])
    if component is None:
        made = pileup_jets.make_chunk(
            recipe,
            make_generator(recipe.process, seed=a, settings=recipe.settings, energy=recipe.energy),
            make_generator(
                "multijet",
                seed=b,
                energy=recipe.energy,
                underlying_event=False,
                settings=(f"PhaseSpace:pTHatMin={pileup_jets.HARD_PILEUP}",),
            ),
            n_events=EVENTS_PER_CHUNK,
            rng=rng,
            pool=pileup.load_pool(pool),
        )
    elif recipe.variations:
        made = resimulation.make_chunk(recipe, component, seed=seed, chunk=k)
    else:
        hook = hook_of(recipe, component) if veto else None
        pythia = recipes.generator(recipe, component, seed=a, hook=hook)
        made = recipes.make_chunk(
            recipe,
            component,
            pythia,
            n_events=EVENTS_PER_CHUNK,
            rng=rng,
            pool=pileup.load_pool(pool) if pool else None,
        )
    columns, constituents, counts = made or ({}, {}, np.zeros(0, int))
    if made:
        first = recipes.EVENT_STRIDE * c + events_per_chunk(recipe) * k
        columns["event"] = columns["event"] + first
        if "pair" in columns:
            columns["pair"] = columns["pair"] + resimulation.PER_EVENT * first
    with atomic.new_file(Path(file), replace=True) as hidden, hidden.open("wb") as stream:
        np.savez(
            stream,
            counts=counts,
            **{f"jet_{n}": v for n, v in columns.items()},
            **{f"constituent_{n}": v for n, v in constituents.items()},
        )
    return len(counts)


def events_per_chunk(recipe) -> int:
    return resimulation.EVENTS_PER_CHUNK if getattr(recipe, "variations", ()) else EVENTS_PER_CHUNK


@functools.cache
def _without_banner() -> None:
    """FastJet's banner, which each worker would print, goes unseen."""
    one = {k: np.ones(1) for k in ("px", "py", "pz", "energy")}
    screen, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        clustering.cluster(np.zeros(1, int), one, n_events=1, radius=0.4, pt_min=0.0)
    finally:
        os.dup2(screen, 1)
        os.close(screen)
        os.close(nowhere)


def n_jets(file: Path) -> int:
    with np.load(file) as part:
        return len(part["counts"])


def damage(file: Path, read: Callable) -> str:
    """What is wrong with a file that `np.savez` wrote and `read` reads; "" if nothing."""
    try:
        read(file)  # which compares the checksum of each table
        return ""
    except Exception as error:  # whatever it is: it is made again
        return str(error) or type(error).__name__


def load(file: Path) -> tuple[dict, dict, np.ndarray]:
    tables: dict[str, dict] = {"jet": {}, "constituent": {}, "counts": {}}
    with np.load(file) as part:
        for key in part.files:
            table, _, name = key.partition("_")
            tables[table][name] = part[key]
    return tables["jet"], tables["constituent"], tables["counts"][""]


def take(files: list[Path], start: int, stop: int) -> Iterator[tuple[dict, dict, np.ndarray]]:
    """Jets start..stop of a component, as pieces of its parts."""
    at = 0
    for file in files:
        n = n_jets(file)
        low, high = max(start - at, 0), min(stop - at, n)
        if low < high:
            columns, constituents, counts = load(file)
            edge = packed.starts(counts)
            yield (
                {k: v[low:high] for k, v in columns.items()},
                {k: v[edge[low] : edge[high]] for k, v in constituents.items()},
                counts[low:high],
            )
        at += n


def edges(files: list[Path], quota: int, n_blocks: int) -> list[int]:
    """Where the blocks of a component begin and end: equal shares, moved on so that no event is cut
    in two.
    """
    if not files:  # a small sample can have no jet of a rare component
        return [0] * (n_blocks + 1)
    events = []
    for file in files:
        with np.load(file) as part:
            events.append(part["jet_event"] if "jet_event" in part.files else np.zeros(0, int))
    # The end counts as a start.
    starts = np.flatnonzero(np.diff(np.concatenate([[-1], *events, [-1]])))
    return [
        int(starts[np.searchsorted(starts, b * quota // n_blocks)]) for b in range(n_blocks + 1)
    ]
