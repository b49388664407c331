"""Every sample by name, and every file of a published dataset: how to get jets from it.

The shipped samples are compact Parquet files. The first `load` turns one into a store under
`data/derived` (or the folder in the environment variable `JETNB_DERIVED`), later ones map that
store and cost nothing. Files of published datasets (`jetnb.data.datasets`) are known by their
content and read block by block.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb.data import datasets, store
from jetnb.readers import parquet
from jetnb.readers._common import regular
from jetnb.readers.identify import folder, identify, no_path, reader

DATA = Path(__file__).resolve().parents[2] / "data"
PIECES = 32  # blocks of rows that a random part of files comes from, at least
FEW = 2_000  # rows that are read to the end all the same
DRAW = 0x647261  # says that a seed is used for drawing
SPARE = 4  # times as many jets are looked at as are drawn, so that neighbours in a file are not drawn together
CITATION = "jetnb; please cite Pythia 8.3, arXiv:2203.11601, and FastJet, arXiv:1111.6097, as well"


class Sample(NamedTuple):
    """A shipped sample: name, number of jets, what it holds, which published dataset it imitates,
    in words and by its name in `jetnb.data.datasets.DATASETS`.
    """

    name: str
    n_jets: int
    description: str
    imitates: str
    dataset: str
    licence: str = "CC-BY-4.0"
    citation: str = CITATION

    @property
    def file(self) -> Path:
        """Where the shipped file is."""
        return DATA / f"{self.name}.parquet"


SAMPLES = {
    sample.name: sample
    for sample in (
        Sample(
            "aoj",
            20_000,
            "simulated QCD jets and top quarks as in a CMS jet trigger, with pile-up: "
            "R=0.8, pt > 300 GeV, |eta| < 2.5",
            "Aspen Open Jets, arXiv:2412.10504, doi:10.25592/uhhfdm.16505",
            "aoj",
        ),
        Sample(
            "aoj_all",
            500,
            "simulated jets as in aoj, with all candidates within 0.8 of the axis, also those "
            "that PUPPI gives no weight",
            "Aspen Open Jets before PUPPI, which is not public",
            "aoj",
        ),
        Sample(
            "jetclass",
            20_000,
            "simulated jets of ten classes without pile-up: R=0.8, pt 500 to 1000 GeV, |eta| < 2",
            "JetClass, arXiv:2202.03772, doi:10.5281/zenodo.6619768",
            "jetclass",
        ),
        Sample(
            "toptagging",
            8_000,
            "simulated QCD jets and top quarks, four-momenta only: R=0.8, "
            "pt 550 to 650 GeV, |eta| < 2",
            "Top Quark Tagging Reference, arXiv:1902.09914, doi:10.5281/zenodo.2603256",
            "toptagging",
        ),
        Sample(
            "hh4b",
            24_000,
            "simulated jets of X -> HH -> 4b events and of QCD events: R=0.8",
            "X -> HH -> 4b, arXiv:2401.13536, from CMS open data, doi:10.7483/OPENDATA.CMS.JGJX.MS7Q",
            "hh4b",
        ),
        Sample(
            "pileup",
            15_000,
            "simulated pile-up and hard-scatter jets, their tracks: R=0.4",
            "jets and tracks as in ATLAS jet-vertex tagging, arXiv:1510.03823; the nearest public files are ATLAS "
            "JetSet, arXiv:2505.19689, doi:10.7483/OPENDATA.ATLAS.QG8W.TO8P, https://opendata.cern.ch/record/93940",
            "physlite",
        ),
    )
}


class Source(NamedTuple):
    """Jets in a file or store that can be read in pieces: path, module of `jetnb.readers` ("" for a
    store), rows.
    """

    path: Path
    reader: str
    n_rows: int

    def blocks(
        self,
        start: int = 0,
        stop: int | None = None,
        *,
        block_size: int = 10_000,
        tally: MutableMapping[str, int] | None = None,
    ) -> Iterator[ak.Array]:
        """Blocks of jets of the rows `start` to `stop - 1`, as `jetnb.readers` says."""
        if self.reader:
            yield from reader(self.reader).read(
                self.path, start=start, stop=stop, block_size=block_size, tally=tally
            )
            return
        stop = self.n_rows if stop is None else min(stop, self.n_rows)
        for first in range(
            start, stop, block_size
        ):  # opened for each block, so that earlier ones leave the memory
            yield store.open(self.path).jets[first : min(first + block_size, stop)]


def source(path, dataset: str | None = None) -> Source:
    """What is at `path`, known by its content, or said by the name of a dataset or of the sample
    that imitates it.

    Raises `FileNotFoundError`, and `ValueError` for an unknown name and for a file of no known
    format, saying what it is instead.
    """
    if reason := no_path(path):
        raise ValueError(reason)
    path = Path(path)
    if path.is_dir():
        return Source(path, "", len(_store(path)))
    if dataset is None:
        name = identify(path)
    else:
        name = datasets.find(SAMPLES[dataset].dataset if dataset in SAMPLES else dataset).reader
    return Source(path, name, reader(name).count(path))


def load(
    name_or_path, files=None, *, n_jets: int | None = None, seed: int | None = None
) -> ak.Array:
    """Jets of a sample of `SAMPLES`, a store folder, or a file: all, the first `n_jets`, or with
    `seed` some at random.

    `files`: one or several files of a published dataset (a name of `jetnb.data.datasets.DATASETS`);
    their jets are then read into memory, e.g. ``load("aoj", "RunG_batch0.h5", n_jets=100_000)``. A
    file is also known by its content: ``load("RunG_batch0.h5")``. For more than memory holds,
    `convert` them once. Samples and stores are not read until they are used.

    BEWARE of the first jets of a file: they need not be like the rest. Top-tagging files have runs
    of ten jets of one class, JetNet and JetClass a file for each class, and data follow the run.
    With ``seed=1`` the `n_jets` are drawn at random over the whole length of all files, in random
    order, the same for the same seed, files and `n_jets`; jets of one event are drawn together.
    Long files are not read to the end for it: blocks of rows are drawn first, 32 or more with four
    times as many jets, then events in them; memory is that of twice the jets and a block.
    describe(jets) says which part it is.

    Raises `ValueError` for an unknown name, more jets than there are, or a file that is not of the
    dataset, and `FileNotFoundError` saying how to make a shipped file that is missing. Taught in
    notebook 00.
    """
    if n_jets is not None and n_jets < 1:
        raise ValueError(f"n_jets={n_jets} was asked for: ask for at least one jet")
    if seed is not None and n_jets is None:
        raise ValueError(
            f"seed={seed} draws n_jets at random, but n_jets was not given: say how many"
        )
    path = Path(name_or_path)
    if files is not None or (
        str(name_or_path) not in SAMPLES and path.is_file() and identify(path) != "parquet"
    ):
        dataset, files = (None, path) if files is None else (str(name_or_path), files)
        files = [files] if isinstance(files, (str, Path)) else list(files)
        if not files:
            raise ValueError("files is an empty list: name at least one file")
        sources = (source(file, dataset) for file in files)  # opened when it is their turn
        return (
            _first(sources, files, n_jets)
            if seed is None
            else _drawn(list(sources), files, n_jets, seed)
        )
    opened = open_store(name_or_path)
    if n_jets is not None and n_jets > len(opened):
        raise ValueError(
            f"{name_or_path} has {len(opened)} jets, n_jets={n_jets} was asked for: ask for 1 "
            f"to {len(opened)} (N_JETS in a notebook), or make more with `python -m jetnb simulate`"
        )
    if n_jets is None or n_jets == len(opened) and seed is None:
        return opened.jets
    if seed is None:
        return _noted(opened.jets[:n_jets], f"the first {n_jets:,} of {len(opened):,} jets")
    chosen = np.argsort(_keys(opened.jets, seed, np.random.default_rng(seed)), kind="stable")[
        :n_jets
    ]
    return _noted(
        opened.jets[chosen], f"{n_jets:,} of {len(opened):,} jets drawn at random, seed {seed}"
    )


def _first(sources: Iterable[Source], files: list, n_jets: int | None) -> ak.Array:
    """All jets of the sources, or the first `n_jets`."""
    blocks, taken, n_rows = [], 0, 0
    for number, one in enumerate(sources, start=1):
        n_rows += one.n_rows
        tally = {}
        for block in one.blocks(tally=tally):
            blocks.append(block[: None if n_jets is None else n_jets - taken])
            taken += len(blocks[-1])
            if taken == n_jets:
                jets = ak.Array(ak.concatenate(blocks), attrs=blocks[0].attrs)
                if (
                    number == len(files)
                    and len(block) == len(blocks[-1])
                    and tally.get("rows") == one.n_rows
                ):
                    return jets  # there are no more
                where = (
                    f"{one.n_rows:,} rows of {one.path.name}"
                    if len(files) == 1
                    else f"{len(files)} files, of which {number} {'were' if number > 1 else 'was'} opened"
                )
                return _noted(
                    jets,
                    f"the first {taken:,} jets of {where}; seed=1 in load draws over the whole length",
                )
    _enough(files, n_rows, taken, n_jets)
    return ak.Array(ak.concatenate(blocks), attrs=blocks[0].attrs)


def _drawn(sources: list[Source], files: list, n_jets: int, seed: int) -> ak.Array:
    """`n_jets` of the jets in random blocks of rows, of all rows where these are few: the events of
    lowest keys.
    """
    rng, n_rows = np.random.default_rng(seed), sum(one.n_rows for one in sources)
    to_the_end = n_rows <= max(2 * SPARE * n_jets, FEW)
    size = (
        n_rows if to_the_end else min(-(-SPARE * n_jets // PIECES), 10_000)
    )  # rows to read at a time
    stride = max(size, n_rows // 100_000, 1)
    pieces = [
        (one, first, min(first + stride, one.n_rows))
        for one in sources
        for first in range(0, one.n_rows, stride)
    ]
    pieces = pieces if to_the_end else [pieces[i] for i in rng.permutation(len(pieces))]
    blocks, keys, highest, seen, n_read, places = [], [], np.inf, 0, 0, 0
    for one, first, stop in pieces:
        if seen >= SPARE * n_jets and not to_the_end:
            break
        want = (
            -(-size * n_read // seen) if seen > n_read else size
        )  # fewer where rows are events of several jets
        if stop - first > want and not to_the_end:
            pieces.append(
                (one, first + want, stop)
            )  # its turn comes when all others were not enough
            stop = first + want
        places, n_read = places + 1, n_read + stop - first
        for block in one.blocks(first, stop):
            fresh = _keys(block, seed, rng)
            seen += len(block)
            blocks.append(block[fresh < highest])
            keys.append(fresh[fresh < highest])
            if sum(map(len, keys)) > 2 * n_jets:  # what cannot be drawn any more leaves the memory
                blocks, keys = _lowest(blocks, keys, n_jets)
                highest = keys[0][-1]
    _enough(files, n_rows, seen, n_jets)
    (jets,), _ = _lowest(blocks, keys, n_jets)
    where = f"{n_rows:,} rows in {len(files)} file{'s'[: len(files) > 1]}"
    return _noted(
        jets,
        f"{n_jets:,} jets drawn at random, seed {seed}, from {seen:,} jets of "
        + (f"all {where}" if n_read >= n_rows else f"{places:,} blocks of rows, of {where}"),
    )


def _keys(jets: ak.Array, seed: int, rng: np.random.Generator) -> np.ndarray:
    """A random number for each jet, the same for all jets of an event, in whichever blocks they
    are.

    Not those of `jets.split` with this seed: what is drawn by them would all be in its first part.
    """
    return (
        jetnb.jets.uniform(ak.to_numpy(jets.event), (seed, DRAW))
        if "event" in jets.fields
        else rng.random(len(jets))
    )


def _lowest(blocks: list[ak.Array], keys: list[np.ndarray], n: int) -> tuple[list, list]:
    """The `n` jets with the lowest keys, in one block by rising keys, jets of one event in their
    order.
    """
    together = np.concatenate(keys)
    order = np.argsort(together, kind="stable")[:n]
    return [ak.Array(ak.to_packed(ak.concatenate(blocks)[order]), attrs=blocks[0].attrs)], [
        together[order]
    ]


def _enough(files: list, n_rows: int, n_found: int, n_jets: int | None) -> None:
    names = ", ".join(map(str, files[:3])) + (" ..." if len(files) > 3 else "")
    if not n_rows:
        raise ValueError(
            f"{names}: there are no rows, so no jets, as where a job selected nothing: get another file"
        )
    if not n_found:
        raise ValueError(
            f"{names}: none of {n_rows:,} rows holds a jet that can be used: `jetnb data check` says why"
        )
    if n_jets is not None and n_found < n_jets:
        raise ValueError(
            f"{names}: {n_found} jets, fewer than the {n_jets} asked for: name more files, or set "
            f"n_jets (N_JETS in a notebook) to at most {n_found}"
        )


def _noted(jets: ak.Array, part: str) -> ak.Array:
    """The same jets, with the part that they are in their provenance."""
    return ak.Array(jets, attrs={"jetnb": {**jetnb.jets.provenance(jets), "part": part}})


def read(files, dataset: str | None = None) -> Iterator[ak.Array]:
    """Blocks of jets of one or several files, in order; raises as `source` does. Taught in notebook
    16.
    """
    for file in [files] if isinstance(files, (str, Path)) else files:
        yield from source(file, dataset).blocks()


def convert(files, path, *, dataset: str | None = None, overwrite: bool = False) -> store.Store:
    """Turn one or several files into one store at `path`, block by block in bounded memory.

    Raises as `source` and `store.write` do; after an error there is no store. Taught in notebook
    16.
    """
    return store.write(path, read(files, dataset), overwrite=overwrite)


def open_store(name_or_path) -> store.Store:
    """The store of a sample, a store folder or a Parquet file of ours; made first if need be.

    Raises as `load` does. Taught in notebook 16.
    """
    path = Path(name_or_path)
    if str(name_or_path) in SAMPLES:
        sample = SAMPLES[str(name_or_path)]
        path = sample.file
        if not path.exists():
            raise FileNotFoundError(
                f"the shipped file {path} is missing: fetch it with `git checkout -- {path.name}` in {DATA}, "
                f"or make it again with `python -m jetnb simulate {sample.name} --jets {sample.n_jets} "
                f"--seed 1 --out {path}`"
            )
    elif reason := no_path(name_or_path):
        raise ValueError(reason)
    elif not path.exists():
        close = difflib.get_close_matches(str(name_or_path), SAMPLES, 1)
        raise ValueError(
            f"{str(name_or_path)!r} is neither a sample nor a file"
            + (f": did you mean {close[0]!r}?" if close else ".")
            + f" The samples are {', '.join(SAMPLES)}, and there is no {path.absolute()}"
        )
    if path.is_dir():
        return _store(path)
    target = derived() / "stores" / f"{path.stem}-{_sha256(regular(path))[:12]}"
    if not target.exists():
        try:
            return store.write(target, parquet.read(path))
        except store.StoreExistsError:
            pass  # another process has just made the same store
    return store.open(target)


def _store(path: Path) -> store.Store:
    if not (path / "meta.json").exists():
        raise store.StoreError(f"there is no store at {path}: {folder(path)}")
    return store.open(path)


def derived() -> Path:
    """The folder for what can be made again: `JETNB_DERIVED`, or `data/derived`."""
    return Path(os.environ.get("JETNB_DERIVED") or DATA / "derived")


def verify_shipped() -> list[str]:
    """Check samples and checkpoints in `data` against `data/SHA256SUMS`; returns the names of those
    that are right.

    Raises `FileNotFoundError` for a file that is missing and `ValueError` for one that is changed
    or not in the list, saying what to do.
    """
    sums = DATA / "SHA256SUMS"
    if not sums.exists():
        raise FileNotFoundError(
            f"{sums} is missing: fetch it with `git checkout -- SHA256SUMS` in {DATA}"
        )
    listed = {}
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition(" ")
        listed[name.strip().removeprefix("*").removeprefix("./").removeprefix("data/")] = digest
    listed = {
        name: digest
        for name, digest in listed.items()
        if name.endswith((".parquet", ".safetensors"))
    }
    if extra := sorted({path.name for path in DATA.glob("*.parquet")} - listed.keys()):
        raise ValueError(
            f"{DATA / extra[0]} is not in {sums}: remove it, or add the line that "
            f"`sha256sum {extra[0]}` prints"
        )
    for name, digest in listed.items():
        if not (DATA / name).exists():
            raise FileNotFoundError(
                f"{DATA / name} is missing: fetch it with `git checkout -- {name}` in {DATA}"
            )
        if (found := _sha256(DATA / name)) != digest:
            raise ValueError(
                f"{DATA / name} has sha256 {found}, not {digest} as in {sums}: it is changed or "
                f"damaged; fetch it again with `git checkout -- {name}` in {DATA}"
            )
    return sorted(listed)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
