"""Make a named sample: chunks in worker processes, kept as they come, joined into one store at the
end.

Every chunk has a seed of its own, made from (seed, component, chunk), and chunks are joined in
their order. So a sample depends on its name, size and seed alone: not on the number of processes,
nor on how often it was interrupted.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from jetnb import __version__, _json, atomic, jets, parallel
from jetnb.data import catalogue, store
from jetnb.readers import parquet
from jetnb.simulation import parts, pileup, pileup_jets
from jetnb.simulation.delphes_cards import Card
from jetnb.simulation.parts import RECIPES
from jetnb.simulation.response import Detector
from jetnb.simulation.veto import of as veto_of

BLOCK = 20_000  # jets joined and shuffled at a time


def simulate(
    name: str,
    *,
    n_jets: int,
    seed: int,
    path: str | Path | None = None,
    processes: int | None = None,
    veto: bool = False,
    progress: bool = True,
) -> store.Store:
    """Simulate a named sample and return its store, with n_jets jets, or a few more since events
    are kept whole.

    name      : "aoj", "aoj_all", "signals", "jetclass", "toptagging", "hh4b", "pileup" or "resimulation"
    path      : folder of the store, by default below the folder of derived data; or a .parquet
    file, then the jets
                are also written to it in the compact form of the shipped samples
    processes : worker processes, by default one per core; the result does not depend on it
    veto      : with the veto of the recipe, see `jetnb.simulation.veto`: other events with the same
                distributions, Pythia in half the time. The shipped samples are made without.
    An interrupted call goes on where it stopped; what it left damaged is made again. Raises
    ValueError for an unknown name, a size below 1, an existing store, parts left by other settings,
    or while another process makes the same store; ModuleNotFoundError without Pythia or FastJet.

    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    if n_jets < 1:
        raise ValueError(f"n_jets = {n_jets}: ask for at least one jet")
    versions = _versions()
    recipe = RECIPES[name]
    dropped = veto_of(name) if veto else None
    default = f"{name}-{n_jets}-seed{seed}{'-veto' if veto else ''}"
    default = catalogue.derived() / "simulated" / default
    path = Path(path) if path else default
    if path.suffix == ".parquet" and not path.exists():
        made = (
            store.open(default)
            if default.exists()
            else simulate(
                name,
                n_jets=n_jets,
                seed=seed,
                processes=processes,
                veto=veto,
                progress=progress,
            )
        )
        parquet.write(path, made.jets)
        return made
    _check_free(path)
    folder = path.parent / f".{path.name}.parts"
    provenance = {
        "sample": name,
        "source": "simulation",
        "classes": list(recipe.classes),
        "description": recipe.description,
        "imitates": recipe.imitates,
        "licence": "CC-BY-4.0",
        "citation": "jetnb, simulated with Pythia 8 (arXiv:2203.11601) and FastJet (arXiv:1111.6097)",
        "seed": seed,
        "versions": versions,
        "settings": _settings(recipe),
    }
    if dropped:
        provenance["veto"] = dropped._asdict()
    if getattr(recipe, "variations", ()):
        provenance["variations"] = list(recipe.variations)
    with atomic.alone(path, "making"):
        if path.exists():  # made between the first look and the lock
            shutil.rmtree(folder, ignore_errors=True)
        _check_free(path)
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, provenance)
        pool = (
            str(_pool(catalogue.derived() / "minimum_bias", recipe.energy, progress))
            if recipe.pileup[0]
            else ""
        )
        quotas = _quotas(recipe, n_jets)
        make = functools.partial(parts.make, seed=seed, pool=pool, veto=veto)
        files = _run(recipe, quotas, make, folder, processes or parallel.cores(), progress)
        made = store.write(
            path, _blocks(recipe, quotas, files, seed, provenance), provenance=provenance
        )
        shutil.rmtree(folder)
    return made


def _check_free(path: Path) -> None:
    if path.exists():
        raise ValueError(
            f"{path} exists already: open it with jetnb.open_store, or remove it to simulate again"
        )


def _pool(folder: Path, energy: float, progress: bool) -> Path:
    """The pool of minimum-bias events, made in another process: Pythia would hold up this one."""
    path = pileup.pool_path(folder, energy=energy)
    if path.exists():
        _discard_damaged(path, pileup.load_pool)
    if not path.exists():
        if progress:
            tqdm.write(
                f"generating {pileup.POOL_EVENTS} minimum-bias collisions, once: about half a minute"
            )
        make = functools.partial(pileup.make_pool, energy=energy)
        list(parallel.as_done(make, [folder], processes=1))
    return path


def _discard_damaged(file: Path, read: Callable) -> bool:
    """Remove a file of tables that cannot be read, and say so; whether it was one."""
    if why := parts.damage(file, read):
        tqdm.write(f"{file} is damaged ({why}): it is made again", file=sys.stderr)
        file.unlink()
    return bool(why)


def _versions() -> dict[str, str]:
    try:
        found = {p: importlib.metadata.version(p) for p in ("pythia8mc", "fastjet", "numpy")}
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"simulation needs {error.name}: pip install 'jetnb[sim]' (binary wheels only: add "
            "--only-binary=pythia8mc)"
        ) from None
    return {"jetnb": __version__, **found}


def _settings(recipe) -> dict:
    """The recipe as plain JSON, the detector by name."""

    def plain(value):
        if isinstance(value, Detector | Card):
            return value.name
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return {k: plain(v) for k, v in value._asdict().items()}
        return (
            [plain(v) for v in value]
            if isinstance(value, tuple)
            else value
            if value != math.inf
            else "inf"
        )

    return plain(recipe) | {"events_per_chunk": parts.events_per_chunk(recipe)}


def _claim(folder: Path, provenance: dict) -> None:
    """Check that the parts in this folder belong to the same sample; those of which nobody knows
    are removed.
    """
    wanted = json.dumps(provenance, sort_keys=True, indent=1)
    card = folder / "settings.json"
    before, why = None, f"{card} is missing"
    try:
        before = _json.read(card, what="card of a simulation", remedy="remove it")
    except FileNotFoundError:
        pass
    except ValueError as error:
        why = str(error).removesuffix(": remove it")
    if before is not None and before != json.loads(wanted):
        differ = [k for k in {**before, **provenance} if before.get(k) != json.loads(wanted).get(k)]
        raise ValueError(
            f"{folder} holds parts of an interrupted simulation with other {', '.join(differ)}: "
            "remove that folder, or choose another path"
        )
    if before is None:
        left = list(folder.glob("*.npz"))
        if left or card.exists():
            tqdm.write(
                f"{why}: nobody knows what the {len(left)} parts beside it are of, so they are made again",
                file=sys.stderr,
            )
        for part in left:
            part.unlink()
        with atomic.new_file(card, replace=True) as hidden:
            hidden.write_text(wanted)


def _quotas(recipe, n_jets: int) -> list[int]:
    """Jets of each component; the remainders go to the largest shares."""
    shares = np.array([c.share for c in getattr(recipe, "components", ())] or [1.0])
    quotas = np.floor(shares * n_jets + 1e-9).astype(int)
    for i in np.argsort(-shares, kind="stable")[: n_jets - quotas.sum()]:
        quotas[i] += 1
    return [int(q) for q in quotas]


def _run(recipe, quotas, made_by, folder, n_processes, progress) -> list[list[Path]]:
    """Make chunks of every component until its quota is reached; files of each, in order, none more
    than needed.
    """
    counts: list[dict[int, int]] = [{} for _ in quotas]  # chunk -> jets

    def name(c, k):
        return folder / f"{c:02d}-{k:06d}.npz"

    for c in range(len(quotas)):
        for file in sorted(folder.glob(f"{c:02d}-*.npz")):
            if not _discard_damaged(file, parts.load):
                counts[c][int(file.stem.split("-")[1])] = parts.n_jets(file)
    running: set[tuple[int, int]] = set()

    def to_do():
        return [c for c, q in enumerate(quotas) if _in_order(counts[c]) < q]

    def chunks():
        while True:
            chunk = _next_chunk(recipe, quotas, counts, running, to_do())
            running.add(chunk)
            yield chunk

    recipe_name = recipe.name

    def make(chunk):
        return made_by(recipe_name, *chunk, file=str(name(*chunk)))

    with (
        tqdm(
            total=sum(quotas), unit="jet", desc=f"simulate {recipe.name}", disable=not progress
        ) as bar,
        contextlib.closing(
            parallel.as_done(make, chunks() if to_do() else (), processes=n_processes)
        ) as made,
    ):
        while True:
            bar.update(sum(min(_in_order(counts[c]), q) for c, q in enumerate(quotas)) - bar.n)
            if not to_do():
                break
            (c, k), n_jets = next(made)
            counts[c][k] = n_jets
            running.remove((c, k))
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
    """The component that is expected to be furthest from its quota, and its first chunk not yet
    made.
    """
    guess = parts.events_per_chunk(recipe) * recipe.jets_per_event

    def expected(c):
        per_chunk = sum(counts[c].values()) / len(counts[c]) if counts[c] else guess
        return sum(counts[c].values()) + per_chunk * sum(1 for d, _ in running if d == c)

    c = max(open_components, key=lambda c: (quotas[c] - expected(c)) / quotas[c])
    taken = set(counts[c]) | {k for d, k in running if d == c}
    return c, next(k for k in range(len(taken) + 1) if k not in taken)


def _blocks(recipe, quotas, files, seed, provenance) -> Iterator:
    """Blocks of the finished sample, all components mixed, whole events in random order."""
    n_blocks = math.ceil(sum(quotas) / BLOCK)
    edges = [parts.edges(f, q, n_blocks) for f, q in zip(files, quotas, strict=True)]
    jvt = _jvt(files[0]) if recipe.name == "pileup" else None
    for b in range(n_blocks):
        pieces = [
            p
            for c in range(len(quotas))
            for p in parts.take(files[c], edges[c][b], edges[c][b + 1])
        ]
        columns = {k: np.concatenate([p[0][k] for p in pieces]) for k in pieces[0][0]}
        constituents = {k: np.concatenate([p[1][k] for p in pieces]) for k in pieces[0][1]}
        if jvt:
            columns["jvt"] = jvt(columns["corr_jvf"], columns["rpt"], columns["event"])
        block = jets.build(
            columns, constituents, np.concatenate([p[2] for p in pieces]), provenance=provenance
        )
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
