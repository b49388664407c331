"""Which format a file has, by its content; and for a file of none of them, what it is instead."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

STARTS = {b"\x89HDF": "HDF5", b"root": "ROOT", b"PAR1": "Parquet"}
READERS = {"HDF5": ("aspen", "toptagging", "higgstobb", "hh4b", "jetnet", "dumper"),
           "ROOT": ("jetclass", "higgstobb", "hh4b", "pfnano", "physlite"),
           "Parquet": ("parquet", "jetclass")}
OTHER = ((b"\x1f\x8b", "compressed by gzip: unpack it first"), (b"PK", "a zip archive: unpack it first"),
         (b"version https://git-lfs", "a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`"))


def reader(name: str) -> ModuleType:
    """The module `jetnb.readers.<name>`."""
    return importlib.import_module(f"jetnb.readers.{name}")


def identify(path) -> str:
    """Name of the module of `jetnb.readers` that reads the file at `path`.

    Raises `FileNotFoundError`, and `ValueError` saying what the file is instead: a web page, an archive, a download
    that was cut short, plain NanoAOD, or what it has inside.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, but not a store of jetnb, which has a meta.json: give one file")
    with path.open("rb") as stream:
        start = stream.read(512)
    kind = STARTS.get(start[:4])
    if kind is None:
        raise ValueError(f"{path} is no file of a dataset that jetnb reads: {_foreign(start)}")
    for name in READERS[kind]:
        if reader(name).recognises(path):
            return name
    raise ValueError({"HDF5": _why_hdf5, "ROOT": _why_root, "Parquet": _why_parquet}[kind](path))


def _foreign(start: bytes) -> str:
    if not start:
        return "it is empty: download it again"
    if start.lstrip()[:1] == b"<":
        return ("it is a web page, saved under this name, perhaps the error page of a server; open it in a browser to "
                "see what it says, and download the file itself")
    if start[257:262] == b"ustar":
        return "it is a tar archive: unpack it with `tar -xf` and give the files inside"
    for magic, what in OTHER:
        if start.startswith(magic):
            return f"it is {what}"
    return f"it starts with {start[:16]!r} and is neither HDF5, ROOT nor Parquet"


def _why_hdf5(path: Path) -> str:
    from jetnb.readers import _padded, _root

    with _padded.open_file(path) as file, _root.explained(path):  # the first raises for a file that was cut
        found = {name: getattr(file[name], "shape", None) for name in file}
    for name, needed in (("aspen", {"PFCands", "jet_kinematics", "event_info", "jet_tagging"}), ("hh4b", {"X_pfo"}),
                         ("toptagging", {"table"}), ("jetnet", {"particle_features"}), ("higgstobb", {"fj_pt"}),
                         ("dumper", {"jets"})):
        if needed & set(found):
            return _complaint(path, name)
    inside = ", ".join(f"{name} {shape or ''}".strip() for name, shape in list(found.items())[:8]) or "nothing"
    return f"{path} is HDF5, but of no dataset that jetnb reads: at the top it has {inside}"


def _why_root(path: Path) -> str:
    from jetnb.readers import _root

    found = _root.contents(path)
    for name, tree in (("pfnano", "Events"), ("jetclass", "tree"), ("physlite", "CollectionTree"),
                       ("physlite", "EventData"), ("higgstobb", "deepntuplizer/tree")):
        if tree in found:
            return _complaint(path, name)
    return (f"{path} is ROOT, but of no dataset that jetnb reads: it has {', '.join(found[:8]) or 'nothing'}; a file "
            "of histograms, or of an analysis of your own, has no jets with constituents in a known layout")


def _why_parquet(path: Path) -> str:
    import pyarrow.parquet as pq

    from jetnb.readers import _root

    with _root.explained(path):
        found = pq.read_schema(path).names
    if any(name.startswith("part_") for name in found):
        return _complaint(path, "jetclass")
    return f"{path} is Parquet, but of no dataset that jetnb reads: it has the columns {', '.join(found[:8])} ..."


def _complaint(path: Path, name: str) -> str:
    """What the reader of the format that comes nearest says."""
    try:
        reader(name).count(path)
    except ValueError as error:
        return str(error)
    return f"{path} was not recognised, though {name} reads it: report this"
