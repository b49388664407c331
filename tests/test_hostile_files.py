"""Files that are broken on purpose: each gives jets that `jets.check` accepts, or a ValueError that names the file."""

from __future__ import annotations

import itertools
import os
import pickle
import re
import shutil

import awkward as ak
import h5py
import hdf5plugin
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jetnb
from jetnb import jets as J
from jetnb.catalogue import source
from jetnb.readers import aspen, identify, jetclass, toptagging

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture])
BAD = (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e30, -7.5, 3.0)
TYPES = ("<f4", ">f4", "<f8", ">f8", "<f2", "<i4", ">i8", "<u1", "bool")
numbers = itertools.count()


def survives(reader, path):
    """The jets of the file, or None where it is refused in words that name it."""
    try:
        jets = list(reader.read(path, block_size=7))
        for block in jets:
            J.check(block)
        assert reader.recognises(path)
        return jets
    except ValueError as error:
        assert path.name in str(error), f"the message does not name the file: {error}"
        jetnb.check(path)  # must not raise either
        return None


def a_value(data, values):
    """Change one value, if there is any and the type can hold it."""
    if values.size and values.dtype.kind == "f":
        values = values.copy()
        flat = values.reshape(-1)
        flat[data.draw(st.integers(0, values.size - 1))] = data.draw(st.sampled_from(BAD))
    return values


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """The datasets of Aspen Open Jets with 20 jets: of 0, 1, 2 constituents, of as many as fit, and usual ones."""
    path = aspen.write(tmp_path_factory.mktemp("a") / "a.h5", jetnb.load("aoj", n_jets=20))
    with h5py.File(path) as file:
        found = {name: data[:] for name, data in file.items()}
    cands = found["PFCands"]
    cands[0], cands[1, 1:], cands[2, 2:] = 0, 0, 0
    cands[3] = cands[3, :1]  # 150 times the same: no longer of falling pt, but of equal
    return found


@EXAMPLES
@given(data=st.data())
def test_aspen_open_jets(columns, tmp_path, data):
    path, mine = tmp_path / f"{next(numbers)}.h5", dict(columns)
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(sorted(mine) or ["PFCands"]))
        change = data.draw(st.sampled_from(["value", "type", "drop", "extra", "shorter", "none", "narrow", "deep"]))
        values = mine.get(name, np.zeros((3, 4), np.float32))
        if change == "value":
            mine[name] = a_value(data, values)
        elif change == "type":
            with np.errstate(all="ignore"):
                mine[name] = values.astype(data.draw(st.sampled_from(TYPES)))
        elif change == "drop":
            mine.pop(name, None)
        elif change == "extra":
            mine["more"] = np.arange(5)
        elif change == "shorter":
            mine[name] = values[:data.draw(st.integers(0, len(values)))]
        elif change == "none":
            mine = {key: value[:0] for key, value in mine.items()}
        elif change == "narrow":
            mine[name] = values[..., :data.draw(st.integers(0, values.shape[-1]))]
        else:
            mine[name] = values[..., None]
    with h5py.File(path, "w") as file:
        for name, values in mine.items():
            chunked = {"chunks": True, "compression": "gzip"} if values.size and data.draw(st.booleans()) else {}
            file.create_dataset(name, data=values, **chunked)
    survives(aspen, path)


@EXAMPLES
@given(data=st.data())
def test_top_tagging(tmp_path, data):
    path = tmp_path / f"{next(numbers)}.h5"
    n, slots = data.draw(st.integers(0, 5)), data.draw(st.sampled_from([200, 200, 200, 150, 201]))
    order = data.draw(st.sampled_from(["<", "<", ">"]))
    kinds = {"values_block_0": (f"{order}{data.draw(st.sampled_from(['f4', 'f8', 'i4']))}", (4 * slots + 4,)),
             "values_block_1": (data.draw(st.sampled_from(["<i8", ">i8", "<i4", "<f4"])),
                                (data.draw(st.sampled_from([2, 2, 1, 3])),)), "index": ("<i8", ())}
    names = data.draw(st.permutations(sorted(kinds)))[:data.draw(st.sampled_from([3, 3, 3, 2]))]
    table = np.zeros(n, [(name, *kinds[name]) for name in names])
    for row in table:
        for name in names:
            if name == "values_block_0":
                used = data.draw(st.sampled_from([0, 1, 2, slots]))
                pt = np.sort(np.random.default_rng(used).exponential(20, used))[::-1]
                block = np.zeros((slots, 4))
                block[:used] = np.stack([1.2 * pt, pt, 0 * pt, 0.3 * pt], axis=1)
                row[name][:4 * slots] = block.ravel()
                if used:
                    row[name][:] = a_value(data, row[name])
            elif name == "values_block_1":
                row[name][-1] = data.draw(st.sampled_from([0, 1, 0, 1, 2, -1]))
    with h5py.File(path, "w") as file:
        group = file.create_group(data.draw(st.sampled_from(["table", "table", "other"])))
        group.create_dataset("table", data=table, **(hdf5plugin.Blosc() if n else {}), chunks=(n,) if n else None)
    survives(toptagging, path)


@pytest.fixture(scope="module")
def jetclass_columns(tmp_path_factory):
    """The columns of JetClass with 12 jets, one without and one with a single constituent."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from big_files import jetclass_file

    path = jetclass_file(tmp_path_factory.mktemp("j") / "j.root", 1)
    with uproot.open(path) as file:
        found = file["tree"].arrays(entry_stop=12)
    keep = np.array([0, 1] + [10**6] * 10)
    return {name: found[name][ak.local_index(found[name]) < keep] if found[name].ndim > 1 else ak.to_numpy(found[name])
            for name in found.fields if not name.startswith("npart")}


@pytest.mark.parametrize("kind", ["root", "parquet"])
@EXAMPLES
@given(data=st.data())
def test_jetclass(jetclass_columns, tmp_path, kind, data):
    path, mine = tmp_path / f"{next(numbers)}.{kind}", dict(jetclass_columns)
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(sorted(mine)))
        change = data.draw(st.sampled_from(["value", "type", "drop", "extra", "swap", "none", "cut", "flat"]))
        values = mine[name]
        jagged = isinstance(values, ak.Array)
        if change == "value":
            flat = a_value(data, ak.to_numpy(ak.flatten(values)) if jagged else values)
            mine[name] = ak.unflatten(flat, ak.num(values)) if jagged else flat
        elif change == "type":
            dtype = np.dtype(data.draw(st.sampled_from(TYPES))).newbyteorder("=")
            if dtype != np.float16:
                with np.errstate(all="ignore"):
                    mine[name] = ak.values_astype(values, dtype) if jagged else values.astype(dtype)
        elif change == "drop" and len(mine) > 1:
            del mine[name]
        elif change == "extra":
            mine["more"] = np.arange(len(values))
        elif change == "swap":
            other = data.draw(st.sampled_from(sorted(mine)))
            mine[name], mine[other] = mine[other], mine[name]
        elif change == "none":
            mine = {key: value[:0] for key, value in mine.items()}
        elif change == "cut" and jagged:
            mine[name] = values[:, :data.draw(st.integers(0, 5))]
        elif change == "flat" and jagged:
            mine[name] = ak.to_numpy(ak.num(values)).astype(np.float32)
    if kind == "root":
        types = {name: v.dtype if isinstance(v, np.ndarray) else f"var * {ak.type(v).content.content}"
                 for name, v in mine.items()}
        with uproot.recreate(path) as file:
            file.mktree(data.draw(st.sampled_from(["tree", "tree", "Events"])), types).extend(mine)
    else:
        arrow = {name: pa.array(v) if isinstance(v, np.ndarray) else ak.to_arrow(v, extensionarray=False)
                 for name, v in mine.items()}
        pq.write_table(pa.table(arrow), path, row_group_size=5)
    survives(jetclass, path)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_ever_unpickled(columns, tmp_path):
    """Pickles lie in the attributes of published files of pandas; one that is malicious must stay what it is."""
    bomb = np.void(pickle.dumps(Bomb(tmp_path / "exploded")))
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values
            file[name].attrs["non_index_axes"] = bomb
        file.attrs["non_index_axes"] = bomb
    assert survives(aspen, path) is not None and jetnb.check(path).n_jets == 20
    for name in identify.READERS["HDF5"]:
        identify.reader(name).recognises(path)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bytes(bomb))
    assert (tmp_path / "exploded").exists(), "the bomb works"


@settings(EXAMPLES, max_examples=100)
@given(data=st.data())
def test_flipped_bytes(columns, tmp_path, data):
    """Any file with any bytes changed is read, or refused by name: never another exception, never a crash."""
    path = tmp_path / f"{next(numbers)}.h5"
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(name, data=values, chunks=True, **({} if name == "event_info" else
                                                                   {"compression": "gzip"}))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        for _ in source(path).blocks():
            pass
    except ValueError as error:
        assert path.name in str(error)
    jetnb.check(path)


def outside(folder, n: int = 20):
    """A file that is none of the reader's business, and its bytes."""
    secret = folder / "secret.txt"
    secret.write_bytes(bytes(range(65, 65 + n)))
    return secret


def with_external_link(file, name, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        file.copy(name, other, name)
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", name)


def with_external_storage(file, name, folder):
    data = file[name]
    shape, dtype = data.shape, data.dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(outside(folder)), 0, h5py.h5f.UNLIMITED)])


def with_waiting_storage(file, name, folder):
    os.mkfifo(folder / "fifo")
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(folder / "fifo"), 0, h5py.h5f.UNLIMITED)])


def with_virtual(file, name, folder):
    shape, dtype = file[name].shape, file[name].dtype
    with_external_link(file, name, folder)
    del file[name]
    layout = h5py.VirtualLayout(shape, dtype)
    layout[:] = h5py.VirtualSource(str(folder / "other.h5"), name, shape)
    file.create_virtual_dataset(name, layout)


def with_soft_link(file, name, folder):
    file.move(name, "elsewhere")
    file[name] = h5py.SoftLink("/elsewhere")


def with_references(file, name, folder):
    file.create_dataset("more", data=[file[name].ref], dtype=h5py.ref_dtype)


def with_nested_references(file, name, folder):
    file.create_dataset("more", (1,), np.dtype([("a", "f4"), ("b", h5py.regionref_dtype)]))


def with_deep_link(file, name, folder):
    file.create_group("a/b")["c"] = h5py.ExternalLink(str(folder / "other.h5"), "x")


FOLLOWED = {with_external_link: "an external link", with_external_storage: "external raw storage",
            with_waiting_storage: "external raw storage", with_virtual: "a virtual dataset",
            with_soft_link: "a soft link", with_references: "a dataset of references",
            with_nested_references: "a dataset of references", with_deep_link: "'a/b/c' is an external link"}
HDF5 = ("aspen", "toptagging", "jetnet", "higgstobb", "hh4b", "dumper")


@pytest.fixture(scope="module")
def hdf5_files(tmp_path_factory):
    """A good file of each HDF5 format: name of the reader -> path."""
    folder = tmp_path_factory.mktemp("hdf5")
    return {name: hostile.good_file(folder, name) for name in HDF5}


@pytest.mark.parametrize("change", FOLLOWED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", HDF5)
def test_nothing_leads_out_of_the_file(hdf5_files, tmp_path, name, change):
    path = tmp_path / hdf5_files[name].name
    shutil.copy(hdf5_files[name], path)
    with h5py.File(path, "r+", libver="latest" if change is with_virtual else None) as file:
        largest = max((key for key in hostile.datasets(file)), key=lambda key: file[key].nbytes)
        change(file, largest, tmp_path)
    reader = identify.reader(name)
    for use in (lambda: list(reader.read(path)), lambda: reader.count(path), lambda: jetnb.load(path),
                lambda: jetnb.convert(path, tmp_path / "store")):
        with pytest.raises(ValueError, match=rf"{path.name}: .*{re.escape(FOLLOWED[change])}.*other files"):
            use()
    assert not reader.recognises(path) and not jetnb.check(path).ok
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("name", (*identify.READERS["HDF5"], *identify.READERS["ROOT"], *identify.READERS["Parquet"]))
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path, message in ((tmp_path / "fifo", "is a FIFO, not a file|is not a file"),
                          (tmp_path / "folder", "is a folder, not a file|is not a file"),
                          ("/dev/zero", "is a device, not a file|is not a file")):
        with pytest.raises(ValueError, match=f"{path} ({message})"):
            identify.reader(name).read(path)
        assert not identify.reader(name).recognises(path)


def test_names_in_a_file_do_not_reach_the_terminal_raw(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["\x1b[2J\x1b]0;owned\x07\u202e"] = np.zeros(3)
    for name in HDF5:
        with pytest.raises(ValueError, match=r"a.h5") as caught:
            identify.reader(name).read(path)
        assert str(caught.value).replace("\n", "").isprintable(), name
