"""Every sample by name: what it is, where its file is, and how to get jets from it.

The shipped samples are compact Parquet files. The first `load` turns one into a store under `data/derived`
(or the folder in the environment variable `JETNB_DERIVED`), later ones map that store and cost nothing.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import awkward as ak

from jetnb import store
from jetnb.readers import parquet

DATA = Path(__file__).resolve().parents[1] / "data"
CITATION = "jetnb; please cite Pythia 8.3, arXiv:2203.11601, and FastJet, arXiv:1111.6097, as well"


class Sample(NamedTuple):
    """A shipped sample: name, number of jets, what it holds, which published dataset it imitates.

    `reader` is the module of `jetnb.readers` for the files of that dataset, "" where there is none yet.
    """

    name: str
    n_jets: int
    description: str
    imitates: str
    reader: str = ""
    licence: str = "CC-BY-4.0"
    citation: str = CITATION

    @property
    def file(self) -> Path:
        """Where the shipped file is."""
        return DATA / f"{self.name}.parquet"


SAMPLES = {sample.name: sample for sample in (
    Sample("aoj", 20_000, "simulated QCD jets and top quarks as in a CMS jet trigger, with pile-up: "
           "R=0.8, pt > 300 GeV, |eta| < 2.5",
           "Aspen Open Jets, arXiv:2412.10504, doi:10.25592/uhhfdm.16505", "aspen"),
    Sample("jetclass", 20_000, "simulated jets of ten classes without pile-up: R=0.8, pt 500 to 1000 GeV, "
           "|eta| < 2",
           "JetClass, arXiv:2202.03772, doi:10.5281/zenodo.6619768", "jetclass"),
    Sample("toptagging", 8_000, "simulated QCD jets and top quarks, four-momenta only: R=0.8, "
           "pt 550 to 650 GeV, |eta| < 2",
           "Top Quark Tagging Reference, arXiv:1902.09914, doi:10.5281/zenodo.2603256", "toptagging"),
    Sample("hh4b", 6_400, "simulated jets of X -> HH -> 4b events and of QCD events: R=0.8",
           "X -> HH -> 4b, arXiv:2401.13536, from CMS open data, doi:10.7483/OPENDATA.CMS.JGJX.MS7Q"),
    Sample("pileup", 15_000, "simulated pile-up and hard-scatter jets, their tracks: R=0.4",
           "no public dataset; jets and tracks as in ATLAS jet-vertex tagging, arXiv:1510.03823"),
)}


def load(name_or_path, files=None, *, n_jets: int | None = None) -> ak.Array:
    """Jets of a sample of `SAMPLES`, a store folder or a Parquet file of ours; the first `n_jets` if given.

    `files`: one or several files of the published dataset that the sample imitates; their jets are then read
    into memory instead, e.g. ``load("aoj", "RunG_batch0.h5", n_jets=100_000)``. A single such file is known by
    its content: ``load("RunG_batch0.h5")``. For more than memory holds, `convert` them once. Else nothing is
    read until it is used. Raises `ValueError` for an unknown name, more jets than there are, or a file that is
    not of the dataset, and `FileNotFoundError` saying how to make a shipped file that is missing. Taught in notebook 00.
    """
    if n_jets is not None and n_jets < 1:
        raise ValueError(f"n_jets={n_jets} was asked for: ask for at least one jet")
    if files is not None:
        jets, taken = [], 0
        for block in read(str(name_or_path), files):
            jets.append(block[:None if n_jets is None else n_jets - taken])
            taken += len(jets[-1])
            if taken == n_jets:
                break
        if not taken or (n_jets is not None and taken < n_jets):
            raise ValueError(f"{files} hold {taken} jets, fewer than the {n_jets or 1} asked for: name more files")
        return ak.Array(ak.concatenate(jets), attrs=jets[0].attrs)
    if (name := _format_of(name_or_path)):
        return load(name, name_or_path, n_jets=n_jets)
    opened = open_store(name_or_path)
    if n_jets is not None and n_jets > len(opened):
        raise ValueError(f"{name_or_path} has {len(opened)} jets, n_jets={n_jets} was asked for: ask for 1 "
                         f"to {len(opened)}, or make more with `python -m jetnb simulate`")
    return opened.jets[:n_jets]


def read(name: str, files) -> Iterator[ak.Array]:
    """Blocks of jets of one or several files of the published dataset that sample `name` imitates, in order.

    Raises `ValueError` where there is no reader, or a file is not of the dataset. Taught in notebook 16.
    """
    if name not in SAMPLES or not SAMPLES[name].reader:
        raise ValueError(f"no reader for the files of {name!r}; there are readers for {_readable()}")
    for file in [files] if isinstance(files, (str, Path)) else files:
        yield from _reader(SAMPLES[name]).read(Path(file))


def _readable() -> str:
    return ", ".join(sample.name for sample in SAMPLES.values() if sample.reader)


def _reader(sample: Sample):
    return importlib.import_module(f"jetnb.readers.{sample.reader}")


def _format_of(path) -> str:
    """The sample whose published dataset a file belongs to, by its content; "" if it is none of these."""
    if str(path) in SAMPLES or not Path(path).is_file():
        return ""
    return next((sample.name for sample in SAMPLES.values() if sample.reader and _reader(sample).recognises(path)), "")


def convert(name: str, files, path, *, overwrite: bool = False) -> store.Store:
    """Turn files of a published dataset into one store at `path`, block by block in bounded memory.

    Raises as `read` and `store.write` do; after an error there is no store. Taught in notebook 16.
    """
    return store.write(path, read(name, files), overwrite=overwrite)


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
                f"--seed 1 --out {path}`")
    elif not path.exists():
        close = difflib.get_close_matches(str(name_or_path), SAMPLES, 1)
        raise ValueError(f"{name_or_path!r} is neither a sample nor a file"
                         + (f": did you mean {close[0]!r}?" if close else ";")
                         + f" The samples are {', '.join(SAMPLES)}")
    if path.is_dir():
        return store.open(path)
    if path.suffix != ".parquet":
        raise ValueError(f"{path} is neither a store nor a file of a dataset that jetnb reads ({_readable()}): "
                         "is the download complete, and is it the published file?")
    target = derived() / "stores" / f"{path.stem}-{_sha256(path)[:12]}"
    if not target.exists():
        try:
            return store.write(target, parquet.read(path))
        except store.StoreExistsError:
            pass  # another process has just made the same store
    return store.open(target)


def derived() -> Path:
    """The folder for what can be made again: `JETNB_DERIVED`, or `data/derived`."""
    return Path(os.environ.get("JETNB_DERIVED") or DATA / "derived")


def verify_shipped() -> list[str]:
    """Check `data/*.parquet` against `data/SHA256SUMS`; returns the names of the files that are right.

    Raises `FileNotFoundError` for a file that is missing and `ValueError` for one that is changed or not in
    the list, saying what to do.
    """
    sums = DATA / "SHA256SUMS"
    if not sums.exists():
        raise FileNotFoundError(f"{sums} is missing: fetch it with `git checkout -- SHA256SUMS` in {DATA}")
    listed = {}
    for line in sums.read_text().splitlines():
        digest, _, name = line.partition(" ")
        listed[name.strip().removeprefix("*").removeprefix("./").removeprefix("data/")] = digest
    listed = {name: digest for name, digest in listed.items() if name.endswith(".parquet")}
    if extra := sorted({path.name for path in DATA.glob("*.parquet")} - listed.keys()):
        raise ValueError(f"{DATA / extra[0]} is not in {sums}: remove it, or add the line that "
                         f"`sha256sum {extra[0]}` prints")
    for name, digest in listed.items():
        if not (DATA / name).exists():
            raise FileNotFoundError(f"{DATA / name} is missing: fetch it with `git checkout -- {name}` "
                                    f"in {DATA}")
        if (found := _sha256(DATA / name)) != digest:
            raise ValueError(f"{DATA / name} has sha256 {found}, not {digest} as in {sums}: it is changed or "
                             f"damaged; fetch it again with `git checkout -- {name}` in {DATA}")
    return sorted(listed)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
