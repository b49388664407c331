"""Make a named sample: chunks in worker processes, kept as they come, joined into one store at the end.

Every chunk has a seed of its own, made from (seed, component, chunk), and chunks are joined in their order. So a sample
depends on its name, size and seed alone: not on the number of processes, nor on how often it was interrupted.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import multiprocessing
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from .. import __version__
from . import pileup, pileup_jets, recipes, reconstruction
from .processes import make_generator
from .response import Detector

EVENTS_PER_CHUNK = 250
BLOCK = 20_000  # jets joined and shuffled at a time
EVENT_STRIDE = 1_000_000_000  # event numbers of one component
RECIPES = {**recipes.RECIPES, "pileup": pileup_jets.PileupRecipe()}


def simulate(name: str, *, n_jets: int, seed: int, path: str | Path | None = None, processes: int | None = None,
             progress: bool = True):
    """Simulate a named sample and return its store, with n_jets jets, or a few more since events are kept whole.

    name      : "aoj", "jetclass", "toptagging", "hh4b" or "pileup"
    path      : folder of the store, by default below the folder of derived data; or a .parquet file, then the jets
                are also written to it in the compact form of the shipped samples
    processes : worker processes, by default one per core; the result does not depend on it
    An interrupted call goes on where it stopped. Raises ValueError for an unknown name, a size below 1, an existing
    store, or parts left by other settings; ModuleNotFoundError without Pythia or FastJet.

    Taught in notebook 00.
    """
    from .. import catalogue, store  # not at the top: the workers import this module too, and need none of these
    from ..readers import parquet

    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    if n_jets < 1:
        raise ValueError(f"n_jets = {n_jets}: ask for at least one jet")
    versions = _versions()
    recipe = RECIPES[name]
    default = catalogue.derived() / "simulated" / f"{name}-{n_jets}-seed{seed}"
    path = Path(path) if path else default
    if path.suffix == ".parquet" and not path.exists():
        made = store.open(default) if default.exists() else simulate(
            name, n_jets=n_jets, seed=seed, processes=processes, progress=progress)
        parquet.write(path, made.jets)
        return made
    if path.exists():
        raise ValueError(f"{path} exists already: open it with jetnb.open_store, or remove it to simulate again")
    parts = path.parent / f".{path.name}.parts"
    provenance = {"sample": name, "source": "simulation", "classes": list(recipe.classes),
                  "description": recipe.description, "imitates": recipe.imitates, "licence": "CC-BY-4.0",
                  "citation": "jetnb, simulated with Pythia 8 (arXiv:2203.11601) and FastJet (arXiv:1111.6097)",
                  "seed": seed, "versions": versions, "settings": _settings(recipe)}
    _claim(parts, provenance)
    pool = ""
    if recipe.pileup[0]:
        pool = str(pileup.make_pool(catalogue.derived() / "minimum_bias", energy=recipe.energy))
    quotas = _quotas(recipe, n_jets)
    files = _run(recipe, quotas, seed, pool, parts, processes or os.cpu_count() or 1, progress)
    made = store.write(path, _blocks(recipe, quotas, files, seed, provenance), provenance=provenance)
    shutil.rmtree(parts)
    return made


def _versions() -> dict[str, str]:
    try:
        found = {p: importlib.metadata.version(p) for p in ("pythia8mc", "fastjet", "numpy")}
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(f"simulation needs {error.name}: pip install 'jetnb[sim]' (binary wheels only: add "
                                  "--only-binary=pythia8mc)") from None
    return {"jetnb": __version__, **found}


def _settings(recipe) -> dict:
    """The recipe as plain JSON, the detector by name."""
    def plain(value):
        if isinstance(value, Detector):
            return value.name
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return {k: plain(v) for k, v in value._asdict().items()}
        return [plain(v) for v in value] if isinstance(value, tuple) else value if value != math.inf else "inf"
    return plain(recipe) | {"events_per_chunk": EVENTS_PER_CHUNK}


def _claim(parts: Path, provenance: dict) -> None:
    """Make the folder of parts, or check that the one found belongs to the same sample."""
    wanted = json.dumps(provenance, sort_keys=True, indent=1)
    card = parts / "settings.json"
    parts.mkdir(parents=True, exist_ok=True)
    if not card.exists():
        card.write_text(wanted)
    elif card.read_text() != wanted:
        before, now = json.loads(card.read_text()), json.loads(wanted)
        differ = [k for k in now if before.get(k) != now[k]]
        raise ValueError(f"{parts} holds parts of an interrupted simulation with other {', '.join(differ)}: "
                         "remove that folder, or choose another path")


def _quotas(recipe, n_jets: int) -> list[int]:
    """Jets of each component; the remainders go to the largest shares."""
    shares = np.array([c.share for c in getattr(recipe, "components", ())] or [1.0])
    quotas = np.floor(shares * n_jets + 1e-9).astype(int)
    for i in np.argsort(-shares, kind="stable")[: n_jets - quotas.sum()]:
        quotas[i] += 1
    return [int(q) for q in quotas]


def _run(recipe, quotas, seed, pool, parts, n_processes, progress) -> list[list[Path]]:
    """Make chunks of every component until its quota is reached; files of each, in order, none more than needed."""
    counts: list[dict[int, int]] = [{} for _ in quotas]  # chunk -> jets

    def name(c, k):
        return parts / f"{c:02d}-{k:06d}.npz"

    for c in range(len(quotas)):
        for file in sorted(parts.glob(f"{c:02d}-*.npz")):
            counts[c][int(file.stem.split("-")[1])] = _n_jets(file)
    bar = tqdm(total=sum(quotas), unit="jet", desc=f"simulate {recipe.name}", disable=not progress)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_processes, mp_context=context, initializer=_start_worker) as workers:
        running: dict = {}
        while True:
            done = [min(_in_order(counts[c]), q) for c, q in enumerate(quotas)]
            bar.update(sum(done) - bar.n)
            open_components = [c for c, q in enumerate(quotas) if done[c] < q]
            if not open_components:
                break
            while len(running) < n_processes + 1:
                c, k = _next_chunk(recipe, quotas, counts, running, open_components)
                job = workers.submit(_make_part, recipe.name, c, k, seed, pool, str(name(c, k)))
                running[job] = (c, k)
            for job in wait(running, return_when=FIRST_COMPLETED).done:
                c, k = running.pop(job)
                counts[c][k] = job.result()
        for job in running:
            job.cancel()
    bar.close()
    return [[name(c, k) for k in range(_chunks_needed(counts[c], q))] for c, q in enumerate(quotas)]


def _in_order(counts: dict[int, int]) -> int:
    """Jets in the chunks 0, 1, 2, ... up to the first one that is missing."""
    k = total = 0
    while k in counts:
        total, k = total + counts[k], k + 1
    return total


def _chunks_needed(counts: dict[int, int], quota: int) -> int:
    k = total = 0
    while total < quota:
        total, k = total + counts[k], k + 1
    return k


def _next_chunk(recipe, quotas, counts, running, open_components) -> tuple[int, int]:
    """The component that is expected to be furthest from its quota, and its first chunk not yet made."""
    guess = EVENTS_PER_CHUNK * recipe.jets_per_event
    def expected(c):
        per_chunk = sum(counts[c].values()) / len(counts[c]) if counts[c] else guess
        return sum(counts[c].values()) + per_chunk * sum(1 for d, _ in running.values() if d == c)
    c = max(open_components, key=lambda c: (quotas[c] - expected(c)) / quotas[c])
    taken = set(counts[c]) | {k for d, k in running.values() if d == c}
    return c, next(k for k in range(len(taken) + 1) if k not in taken)


def _start_worker() -> None:
    """One thread each; no life after a killed parent; and FastJet's banner, which each would print, goes unseen."""
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    one = {k: np.ones(1) for k in ("px", "py", "pz", "energy")}
    screen, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    reconstruction.cluster(np.zeros(1, int), one, n_events=1, radius=0.4, pt_min=0.0)
    os.dup2(screen, 1)
    os.close(screen)
    os.close(nowhere)


def _make_part(name: str, c: int, k: int, seed: int, pool: str, file: str) -> int:
    """Worker: one chunk of one component, written under a temporary name and then renamed. Returns its jets."""
    recipe = RECIPES[name]
    component = recipe.components[c] if hasattr(recipe, "components") else None
    key = zlib.crc32((component.name if component else "pileup").encode())
    sequence = np.random.SeedSequence([seed, key, k])
    a, b = (int(s) for s in sequence.generate_state(2))
    rng = np.random.default_rng(sequence.spawn(1)[0])
    if component is None:
        made = pileup_jets.make_chunk(
            recipe, make_generator(recipe.process, seed=a, settings=recipe.settings, energy=recipe.energy),
            make_generator("multijet", seed=b, energy=recipe.energy, underlying_event=False,
                                     settings=(f"PhaseSpace:pTHatMin={pileup_jets.HARD_PILEUP}",)),
            n_events=EVENTS_PER_CHUNK, rng=rng, pool=pileup.load_pool(pool))
    else:
        cut = (f"PhaseSpace:pTHatMin={component.pt_hat}",) if component.pt_hat else ()
        pythia = make_generator(component.process, seed=a, settings=(*component.settings, *cut),
                                          energy=recipe.energy, underlying_event=recipe.underlying_event)
        made = recipes.make_chunk(recipe, component, pythia, n_events=EVENTS_PER_CHUNK, rng=rng,
                                  pool=pileup.load_pool(pool) if pool else None)
    columns, constituents, counts = made or ({}, {}, np.zeros(0, int))
    if made:
        columns["event"] = columns["event"] + EVENT_STRIDE * c + EVENTS_PER_CHUNK * k
    with tempfile.NamedTemporaryFile(dir=Path(file).parent, suffix=".tmp", delete=False) as f:
        np.savez(f, counts=counts, **{f"jet_{n}": v for n, v in columns.items()},
                 **{f"constituent_{n}": v for n, v in constituents.items()})
    os.replace(f.name, file)
    return len(counts)


def _n_jets(file: Path) -> int:
    with np.load(file) as part:
        return len(part["counts"])


def _load(file: Path) -> tuple[dict, dict, np.ndarray]:
    tables: dict[str, dict] = {"jet": {}, "constituent": {}, "counts": {}}
    with np.load(file) as part:
        for key in part.files:
            table, _, name = key.partition("_")
            tables[table][name] = part[key]
    return tables["jet"], tables["constituent"], tables["counts"][""]


def _take(files: list[Path], start: int, stop: int) -> Iterator[tuple[dict, dict, np.ndarray]]:
    """Jets start..stop of a component, as pieces of its parts."""
    at = 0
    for file in files:
        n = _n_jets(file)
        low, high = max(start - at, 0), min(stop - at, n)
        if low < high:
            columns, constituents, counts = _load(file)
            edge = np.concatenate([[0], np.cumsum(counts)])
            yield ({k: v[low:high] for k, v in columns.items()},
                   {k: v[edge[low]:edge[high]] for k, v in constituents.items()}, counts[low:high])
        at += n


def _edges(files: list[Path], quota: int, n_blocks: int) -> list[int]:
    """Where the blocks of a component begin and end: equal shares, moved on so that no event is cut in two."""
    events = []
    for file in files:
        with np.load(file) as part:
            events.append(part["jet_event"] if "jet_event" in part.files else np.zeros(0, int))
    starts = np.flatnonzero(np.diff(np.concatenate([[-1], *events, [-1]])))  # the end counts as a start
    return [int(starts[np.searchsorted(starts, b * quota // n_blocks)]) for b in range(n_blocks + 1)]


def _blocks(recipe, quotas, files, seed, provenance) -> Iterator:
    """Blocks of the finished sample, all components mixed, whole events in random order."""
    from .. import jets

    n_blocks = math.ceil(sum(quotas) / BLOCK)
    edges = [_edges(f, q, n_blocks) for f, q in zip(files, quotas, strict=True)]
    jvt = _jvt(files[0]) if recipe.name == "pileup" else None
    for b in range(n_blocks):
        pieces = [p for c in range(len(quotas)) for p in _take(files[c], edges[c][b], edges[c][b + 1])]
        columns = {k: np.concatenate([p[0][k] for p in pieces]) for k in pieces[0][0]}
        constituents = {k: np.concatenate([p[1][k] for p in pieces]) for k in pieces[0][1]}
        if jvt:
            columns["jvt"] = jvt(columns["corr_jvf"], columns["rpt"], columns["event"])
        block = jets.build(columns, constituents, np.concatenate([p[2] for p in pieces]), provenance=provenance)
        _, event = np.unique(columns["event"], return_inverse=True)
        shuffled = np.random.default_rng([seed, b]).permutation(event.max() + 1)
        yield block[np.argsort(shuffled[event], kind="stable")]


def _jvt(files: list[Path]):
    columns: dict[str, list] = {k: [] for k in ("corr_jvf", "rpt", "event", "label")}
    for file in files:
        with np.load(file) as part:
            for k, values in columns.items():
                values.append(part[f"jet_{k}"])
        if sum(map(len, columns["label"])) > 200_000:
            break
    return pileup_jets.fit_jvt({k: np.concatenate(v) for k, v in columns.items()})
