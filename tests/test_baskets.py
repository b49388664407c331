"""Flat arrays from the baskets of a TTree: exactly what uproot reads, or uproot itself."""

from __future__ import annotations

import itertools
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from jetnb.readers import _root_baskets

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "PHYSLITE_example.root"
TYPES = ("f4", "f8", "i1", "u1", "i2", "i4", "u4", "i8", "bool")


LZ4 = uproot.LZ4(4)


def columns_of(stream, tree, names):
    return _root_baskets.Columns(stream, {name: tree[name] for name in names})


def write(path, *, n=100, rows=30, compression=LZ4):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 6, n)
    columns = {
        f"list_{t}": ak.unflatten(rng.normal(0, 50, counts.sum()).astype(t), counts) for t in TYPES
    }
    columns |= {f"one_{t}": rng.normal(0, 50, n).astype(t) for t in TYPES}
    types = {
        name: values.dtype
        if isinstance(values, np.ndarray)
        else f"var * {ak.type(values).content.content}"
        for name, values in columns.items()
    }
    with uproot.recreate(path, compression=compression) as file:
        tree = file.mktree("tree", types)
        for i in range(0, n, rows):
            tree.extend({name: values[i : i + rows] for name, values in columns.items()})
    return path, list(columns)


def compare(path, tree, names, ranges):
    with uproot.open(path) as file, path.open("rb") as stream:
        columns = columns_of(stream, file[tree], names)
        want = {name: file[tree][name].array() for name in names}
        for start, stop in ranges:
            for name, found in columns.read(start, stop).items():
                assert ak.array_equal(found, want[name][start:stop], check_parameters=False), name
                assert ak.to_numpy(ak.flatten(found, axis=None)).dtype.isnative


RANGES = ((0, 100), (0, 1), (29, 31), (30, 60), (13, 95), (99, 100), (40, 40))


@pytest.mark.parametrize("compression", [None, LZ4, uproot.ZLIB(1), uproot.ZSTD(3), uproot.LZMA(1)])
def test_every_type_and_compression(tmp_path, compression):
    path, names = write(tmp_path / "a.root", compression=compression)
    compare(path, "tree", names, RANGES)


def test_the_short_cut_is_taken(tmp_path, monkeypatch):
    """Without this the comparisons above could be of uproot with itself."""
    path, names = write(tmp_path / "a.root")
    with uproot.open(path) as file, path.open("rb") as stream:
        tree = file["tree"]
        columns = columns_of(stream, tree, names)
        monkeypatch.setattr(type(tree["one_f4"]), "array", None)
        columns.read(0, 100)


def test_real_vectors(monkeypatch):
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not here")
    names = [
        "AnalysisJetsAuxDyn.pt",
        "AnalysisJetsAuxDyn.NNJvtPass",
        "AnalysisJetsAuxDyn.NumTrkPt500",
    ]
    compare(REAL, "CollectionTree", names[:2], ((0, 100), (0, 1), (37, 66)))
    with uproot.open(REAL) as file, REAL.open("rb") as stream:
        tree = file["CollectionTree"]
        columns = columns_of(stream, tree, names[:2])
        monkeypatch.setattr(type(tree[names[0]]), "array", None)
        assert len(ak.flatten(columns.read(0, 100)[names[0]])) == 881


@pytest.mark.parametrize("block_size", [1, 7, 30, 45, 61, 1000])
def test_edges_cover_the_range_once(block_size):
    ends = [[0, 30, 60, 90, 100], [0, 30, 60, 90, 100], [0, 60, 100]]
    for start, stop in ((0, 100), (11, 99), (30, 60)):
        edges = _root_baskets.edges(ends, start, stop, block_size)
        assert edges[0] == start and edges[-1] == stop
        sizes = [b - a for a, b in itertools.pairwise(edges)]
        assert min(sizes) > 0 and max(sizes) <= block_size


def test_a_damaged_basket_is_never_read_as_if_it_were_whole(tmp_path):
    """LZ4 has a checksum: every change of compressed bytes is noticed, here or by uproot, which
    raises.
    """
    path, names = write(tmp_path / "a.root")
    whole = path.read_bytes()
    with uproot.open(path) as file:
        branch = file["tree"]["list_i8"]
        start, n_bytes = int(branch.member("fBasketSeek")[1]), int(branch.member("fBasketBytes")[1])
    n_key = _root_baskets.KEY.unpack_from(whole, start)[4]
    assert whole[start + n_key :][:2] == b"L4"
    rng = np.random.default_rng(3)
    for at in rng.choice(np.arange(start + n_key + 9, start + n_bytes), 25, replace=False):
        hurt = bytearray(whole)
        hurt[at] ^= 0x5A
        path.write_bytes(hurt)
        with uproot.open(path) as file, path.open("rb") as stream, pytest.raises(Exception):  # noqa: B017
            columns_of(stream, file["tree"], names).read(30, 60)
