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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np

from jetnb.data import datasets, drawing, store
from jetnb.data.source import Source
from jetnb.readers import parquet
from jetnb.readers._common import regular
from jetnb.readers.identify import folder, identify, no_path, reader

DATA = Path(__file__).resolve().parents[2] / "data"
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
            "signals",
            4_000,
            "simulated tops, W, H -> bb, H -> 4q and H -> aa -> 4b to hide in aoj, in its detector "
            "and pile-up: R=0.8, pt > 300 GeV, |eta| < 2.5",
            "what a search in Aspen Open Jets could look for",
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
        Sample(
            "resimulation",
            24_000,
            "simulated hard partons, each showered and measured up to nine times: R=0.8, pt 500 to 1000 GeV, "
            "|eta| < 2",
            "RS3L, arXiv:2403.07066, whose jets are not public; the detector of JetClass",
            "jetclass",
        ),
    )
}


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
            drawing.first(sources, files, n_jets)
            if seed is None
            else drawing.drawn(list(sources), files, n_jets, seed)
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
        return drawing.noted(opened.jets[:n_jets], f"the first {n_jets:,} of {len(opened):,} jets")
    chosen = np.argsort(
        drawing.keys_of(opened.jets, seed, np.random.default_rng(seed)), kind="stable"
    )[:n_jets]
    return drawing.noted(
        opened.jets[chosen], f"{n_jets:,} of {len(opened):,} jets drawn at random, seed {seed}"
    )


def read(files, dataset: str | None = None) -> Iterator[ak.Array]:
    """Blocks of jets of one or several files, in order; raises as `source` does."""
    for file in [files] if isinstance(files, (str, Path)) else files:
        yield from source(file, dataset).blocks()


def convert(files, path, *, dataset: str | None = None, overwrite: bool = False) -> store.Store:
    """Turn one or several files into one store at `path`, block by block in bounded memory.

    Raises as `source` and `store.write` do; after an error there is no store.
    """
    return store.write(path, read(files, dataset), overwrite=overwrite)


def open_store(name_or_path) -> store.Store:
    """The store of a sample, a store folder or a Parquet file of ours; made first if need be.

    Raises as `load` does.
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
