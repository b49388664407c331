"""The columns of JetClass (ROOT, Parquet): their names and types, and their values block by block.

`jetnb.readers.jetclass` says what becomes of them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import awkward as ak

import jetnb.jets
from jetnb.readers import _parquet_footer
from jetnb.readers._common import AGAIN, explained, row_range, start_of
from jetnb.readers._root import blocks, open_tree

LABELS = {
    "label_QCD": "QCD",
    "label_Hbb": "HToBB",
    "label_Hcc": "HToCC",
    "label_Hgg": "HToGG",
    "label_H4q": "HToWW4Q",
    "label_Hqql": "HToWW2Q1L",
    "label_Zqq": "ZToQQ",
    "label_Wqq": "WToQQ",
    "label_Tbqq": "TTBar",
    "label_Tbl": "TTBarLep",
}
# Times the charge, if there is one.
FLAGS = {
    "part_isChargedHadron": 211,
    "part_isNeutralHadron": 130,
    "part_isPhoton": 22,
    "part_isElectron": -11,
    "part_isMuon": -13,
}
TRACK = dict(
    zip(
        jetnb.jets.TRACK_FIELDS,
        ("part_d0val", "part_d0err", "part_dzval", "part_dzerr"),
        strict=True,
    )
)
PART = ["part_px", "part_py", "part_pz", "part_energy", "part_charge", *TRACK.values(), *FLAGS]
JET = [
    "jet_pt",
    "jet_eta",
    "jet_phi",
    "jet_energy",
    "jet_sdmass",
    *(f"jet_tau{i}" for i in range(1, 5)),
]
AXIS = ["part_deta", "part_dphi"]
WHAT, TREE = "JetClass", "tree"
NUMBER = r"(bool|u?int\d+|float\d*|halffloat|double)"
LIST = rf"var \* {NUMBER}|(large_)?list<\w+: {NUMBER}( not null)?>"


def check_layout(path: Path) -> tuple:
    """Whether it is ROOT, the label columns, and the number of jets, of a file whose columns are
    all there.
    """
    start = start_of(path)
    about = path.stat()
    return _layout(path, start, (about.st_mtime_ns, about.st_size))


@functools.lru_cache(
    maxsize=256
)  # recognises, count and read ask in turn, and the header of ROOT takes 15 ms
def _layout(path: Path, start: bytes, stamp: tuple) -> tuple:
    if start[:4] not in (b"root", b"PAR1"):
        remedy = (
            "it looks like a web page: " + AGAIN
            if start.lstrip()[:1] == b"<"
            else "is it another format?"
        )
        raise ValueError(f"{path} is neither ROOT nor Parquet, it starts with {start!r}; {remedy}")
    is_root = start[:4] == b"root"
    types, n_jets = (_header_root if is_root else _header_parquet)(path)
    labels = ["jet_label"] if "jet_label" in types else list(LABELS)
    needed = [*PART, *AXIS, *JET, *labels]
    if missing := [name for name in needed if name not in types]:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}, so it is not JetClass or JetClass-II, or a "
            f"part of it; it has {', '.join(list(types)[:8])} ...: use the reader of its own format"
        )
    for name in needed:
        kind, pattern = ("a list", LIST) if name.startswith("part_") else ("a number", NUMBER)
        if not re.fullmatch(pattern, types[name]):
            raise ValueError(
                f"{path}: column {name} is {types[name]}, but should be {kind} for each jet; was the "
                "file converted? Use the published one"
            )
    if not is_root:
        with explained(path):
            _parquet_footer.check(path, needed, lists="part_")
    return is_root, labels, n_jets


def _header_root(path: Path) -> tuple[dict[str, str], int]:
    with open_tree(path, TREE, WHAT) as tree:
        wanted = [name for name in (*PART, *AXIS, *JET, "jet_label", *LABELS) if name in tree.names]
        return dict.fromkeys(tree.names, "") | tree.types(wanted), tree.num_entries


def _header_parquet(path: Path) -> tuple[dict[str, str], int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def kind(of):  # lists of a fixed size are lists
        return str(pa.list_(of.value_type) if pa.types.is_fixed_size_list(of) else of)

    with explained(path):
        # First, as Arrow ends the process at some footers that are damaged.
        _parquet_footer.groups(path)
    with explained(path), pq.ParquetFile(path) as file:
        return {field.name: kind(field.type) for field in file.schema_arrow}, file.metadata.num_rows


def raw_root(
    path: Path, names: list[str], also: list[str], block_size: int, start: int, stop: int | None
) -> Iterator[tuple]:
    """First row, and name -> (values, counts): counts are None for one number per jet, values None
    if some miss.

    The columns `also` are read for the first block only.
    """
    with open_tree(path, TREE, WHAT) as tree:
        for low, block in blocks(
            path,
            tree,
            names,
            block_size=block_size,
            start=start,
            stop=stop,
            whole=True,
            first_only=also,
        ):
            yield (
                low,
                {
                    name: (ak.to_numpy(ak.flatten(block[name])), ak.to_numpy(ak.num(block[name])))
                    if block[name].ndim > 1
                    else (ak.to_numpy(block[name]), None)
                    for name in block.fields
                },
            )


def raw_parquet(
    path: Path, names: list[str], also: list[str], block_size: int, start: int, stop: int | None
) -> Iterator[tuple]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    def plain(values):
        return None if values.null_count else values.to_numpy(zero_copy_only=False)

    with explained(path), pq.ParquetFile(path, buffer_size=1 << 20) as file:
        extra = next(row_range(file, also, block_size, start, stop), None)
        for low, batch in row_range(file, names, block_size, start, stop):
            columns = {name: batch[name] for name in names} | (
                {name: extra[1][name] for name in also} if extra else {}
            )
            extra = None
            yield (
                low,
                {
                    name: (plain(values.flatten()), plain(pc.list_value_length(values)))
                    if name.startswith("part_")
                    else (plain(values), None)
                    for name, values in columns.items()
                },
            )
