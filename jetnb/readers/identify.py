"""Which format a file has, by its content; and for a file of none of them, what it is instead.

What is said of a file of no known format is true for every file that gets the sentence: a name
alone proves nothing, so a file is taken for one of a known format, with something missing, only if
it has two of that format's names at least; else the sentence lists what is there.
"""

from __future__ import annotations

import fnmatch
import glob
import importlib
import itertools
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from jetnb.readers._common import explained, open_hdf5

STARTS = {b"\x89HDF": "HDF5", b"root": "ROOT", b"PAR1": "Parquet", b"PK\x03\x04": "zip"}
READERS = {
    "HDF5": ("aspen", "toptagging", "higgstobb", "hh4b", "jetnet", "dumper", "omnilearn", "lhco"),
    "ROOT": ("jetclass", "higgstobb", "hh4b", "pfnano", "physlite"),
    "Parquet": ("parquet", "jetclass"),
    "zip": ("energyflow",),
}
OTHER = (
    (
        b"\x1f\x8b",
        "compressed by gzip: unpack it with `gunzip`, or `tar -xf` where its name has .tar or .tgz",
    ),
    (b"\xfd7zXZ", "compressed by xz: unpack it with `unxz`"),
    (b"BZh", "compressed by bzip2: unpack it with `bunzip2`"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd: unpack it with `unzstd`"),
    (b"PK", "an empty zip archive"),
    (
        b"\x93NUMPY",
        "a single array of NumPy, without names of what its columns are: give the published file",
    ),
    (
        b"\x80",
        "a pickle of Python, it seems, which can run code when it is opened: jetnb opens none",
    ),
    (
        b"version https://git-lfs",
        "a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`",
    ),
)
# Layouts that are known and not read: names, all of which are there, and what they are.
FOREIGN = (
    (
        {"jets", "jetConstituentList", "particleFeatureNames"},
        "the layout of the hls4ml jet files (jetImage_*.h5, doi:10.5281/zenodo.3602260): jetnb does not read it",
    ),
)
DELPHES = {"Event", "Particle", "Track", "Tower", "EFlowTrack", "Jet", "FatJet", "MissingET"}


def reader(name: str) -> ModuleType:
    """The module `jetnb.readers.<name>`."""
    return importlib.import_module(f"jetnb.readers.{name}")


def readers() -> list[ModuleType]:
    """The modules of all formats."""
    return [reader(name) for name in dict.fromkeys(itertools.chain(*READERS.values()))]


def identify(path) -> str:
    """Name of the module of `jetnb.readers` that reads the file at `path`.

    Raises `FileNotFoundError`, and `ValueError` saying what the file is instead: a web page, an
    archive, a download that was cut short, plain NanoAOD, or what it has inside; an address or a
    pattern is no file either.
    """
    if reason := no_path(path):
        raise ValueError(reason)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise ValueError(folder(path))
    if not path.is_file():
        raise ValueError(
            f"{path} is neither a file nor a folder, but a pipe or a device: copy what comes out of it "
            "into a file"
        )
    with path.open("rb") as stream:
        start = stream.read(512)
    kind = STARTS.get(start[:4])
    if kind is None:
        raise ValueError(f"{path} is no file of a dataset that jetnb reads: {_foreign(start)}")
    for name in READERS[kind]:
        if reader(name).recognises(path):
            return name
    raise ValueError(
        {"HDF5": _why_hdf5, "ROOT": _why_root, "Parquet": _why_parquet, "zip": _why_zip}[kind](path)
    )


def no_path(path) -> str:
    """Why `path` is no path of a file, where it is an address or a pattern; "" for what may be one."""
    text = str(path)
    if Path(path).exists():
        return ""
    # Path makes one slash of two; C:/ is a disk.
    if address := re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", text):
        how = (
            "copy it with `xrdcp`"
            if address[1].lower() in ("root", "roots", "xroot", "davs")
            else "fetch it with `jetnb data download`, where `jetnb data list` has its dataset, or with a browser"
        )
        return (
            f"{text} is an address, and jetnb reads files of this machine: {how}, and give the file"
        )
    if glob.has_magic(text):
        found = len(glob.glob(text))
        return f"{text} is a pattern, and no file has this name; it fits {found} files" + (
            f": give these, sorted(glob.glob({text!r}))" if found else ""
        )
    return ""


def folder(path) -> str:
    """What a folder is that is no store."""
    path = Path(path)
    files = [
        file
        for file in itertools.islice(sorted(path.iterdir()), 200)
        if file.is_file() and _kind(file)
    ]
    if not files:
        return f"{path} is a folder, but not a store of jetnb, which has a meta.json, and no data files are in it"
    some = ", ".join(file.name for file in files[:3]) + (" ..." if len(files) > 3 else "")
    return (
        f"{path} is a folder of data files ({some}), not a store of jetnb, which has a meta.json: give the files, "
        f"or make a store of them with `jetnb data convert {path}/*{files[0].suffix} --out STORE`"
    )


def _kind(file: Path) -> str | None:
    try:
        with file.open("rb") as stream:
            return STARTS.get(stream.read(4))
    except OSError:
        return None


def _foreign(start: bytes) -> str:
    if not start:
        return "it is empty: download it again"
    if start.lstrip()[:1] == b"<":
        return (
            "it is a web page, saved under this name, perhaps the error page of a server; open it in a browser to "
            "see what it says, and download the file itself"
        )
    if start[257:262] == b"ustar":
        return "it is a tar archive: unpack it with `tar -xf` and give the files inside"
    for magic, what in OTHER:
        if start.startswith(magic):
            return f"it is {what}"
    return f"it starts with {start[:16]!r} and is neither HDF5, ROOT, Parquet nor a NumPy archive"


def _nearest(kind: str, found: Iterable[str]) -> str | None:
    """The format that most of the names in a file speak for, by the `HINTS` of its reader; two at
    least.
    """
    votes = {}
    for name in READERS[kind]:
        hints = getattr(reader(name), "HINTS", {}).get(kind, ())
        fits = (any(fnmatch.fnmatchcase(one, hint) for hint in hints) for one in set(found))
        votes[name] = sum(fits)
    best = max(votes, key=votes.get)
    return best if votes[best] > 1 else None


def _why_hdf5(path: Path) -> str:
    import h5py

    from jetnb.readers import _padded

    with open_hdf5(path) as file, explained(path):  # the first raises for a file that was cut
        found = {
            name: getattr(file[name], "shape", None)
            for name in _padded.keys(path, file)
            if name in file
        }
        groups = [name for name in found if isinstance(file[name], h5py.Group)]
        tables = {name: _pandas(file[name]) for name in groups}
        columns = [one for name in groups for one in _padded.frame_columns(path, file, name)]
    for names, what in FOREIGN:
        if names <= set(found):
            return f"{path} has {what}"
    if name := _nearest("HDF5", [*found, *map(str, columns)]):
        return _complaint(path, name)
    for key, what in tables.items():
        if what and key == "table":
            return _complaint(path, "toptagging")
        if what:
            again = (
                "; these are the columns of Top Quark Tagging Reference, which jetnb reads under the key 'table': "
                "write it again with pandas, to_hdf(NEW, key='table', format='table')"
                if all(part in what for part in ("(804,)", "(2,)"))
                else "; of no dataset that jetnb reads"
            )
            return f"{path} is a table that pandas wrote under the key {key!r}, with {what}{again}"
    inside = (
        ", ".join(f"{name} {shape or ''}".strip() for name, shape in list(found.items())[:8])
        or "nothing"
    )
    return f"{path} is HDF5, but of no dataset that jetnb reads: at the top it has {inside}"


def _pandas(group) -> str:
    """The columns of a table as pandas writes it, in either of its two ways; "" for another group."""
    table = group.get("table")
    if (
        table is not None
        and getattr(table, "dtype", None) is not None
        and "index" in (table.dtype.names or ())
    ):
        return ", ".join(
            f"{name} {table.dtype[name].base} {table.dtype[name].shape or ''}".strip()
            for name in table.dtype.names[:8]
        )
    return ", ".join(
        f"{name} {group[name].shape}"
        for name in ("axis0", "axis1", "block0_values")
        if "axis0" in group and name in group
    )


def _why_root(path: Path) -> str:
    from jetnb.readers import _root

    found = _root.contents(path)
    branches = {
        name: list(tree.names) for name, tree in found.items() if isinstance(tree, _root.Tree)
    }
    names = [f"{tree}/{branch}" for tree, inside in branches.items() for branch in inside]
    if name := _nearest("ROOT", names):
        return _complaint(path, name)
    if len(DELPHES & set(branches.get("Delphes", ()))) > 1:
        return (
            f"{path} has events of Delphes, with {', '.join(branches['Delphes'][:8])} ...: jetnb reads jets with "
            "their constituents, so write those as JetClass does (see jetnb.readers.jetclass)"
        )
    if found and all(
        str(kind).startswith(("TH1", "TH2", "TH3", "TProfile")) for kind in found.values()
    ):
        return (
            f"{path} is ROOT, but of no dataset that jetnb reads: it has histograms alone, "
            f"{', '.join(list(found)[:8])}"
        )
    inside = [
        f"{name} ({tree.num_entries:,} rows: {', '.join(branches[name][:5])}{' ...' * (len(branches[name]) > 5)})"
        if name in branches
        else f"{name} ({tree})"
        for name, tree in list(found.items())[:8]
    ]
    return f"{path} is ROOT, but of no dataset that jetnb reads: it has {', '.join(inside) or 'nothing'}"


def _why_parquet(path: Path) -> str:
    import pyarrow.parquet as pq

    with explained(path):
        found = pq.read_schema(path).names
    if name := _nearest("Parquet", found):
        return _complaint(path, name)
    return (
        f"{path} is Parquet, but of no dataset that jetnb reads: it has the columns {', '.join(found[:8])}"
        f"{' ...' if len(found) > 8 else ''}"
    )


def _why_zip(path: Path) -> str:
    with explained(path), zipfile.ZipFile(path) as archive:
        found = archive.namelist()
    names = [name.removesuffix(".npy") for name in found]
    if name := _nearest("zip", names):
        return _complaint(path, name)
    some = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    if found and all(name.endswith(".npy") for name in found):
        return f"{path} is a NumPy archive (.npz), but of no dataset that jetnb reads: it has the arrays {some}"
    if any(name.endswith("/data.pkl") for name in found):
        return (
            f"{path} is what torch.save writes, such as weights, and holds no jets: weights of a public Particle "
            "Transformer are read by jetnb.models.particle_transformer.load_public"
        )
    return f"{path} is a zip archive of {some or 'nothing'}: unpack it with `unzip` and give the files inside"


def _complaint(path: Path, name: str) -> str:
    """What the reader of the format that comes nearest says."""
    try:
        reader(name).count(path)
    except ValueError as error:
        return str(error)
    return f"{path} was not recognised, though {name} reads it: report this"
