"""Files that are broken on purpose: each gives jets that `jets.check` accepts, or a ValueError that
names the file.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import shutil
import tracemalloc
import zlib

import awkward as ak
import damage
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
import jetnb.jets
from jetnb.data.catalogue import convert, source
from jetnb.readers import (
    _chunks,
    _common,
    _padded,
    aspen,
    identify,
    jetclass,
    jetnet,
    parquet,
    toptagging,
)

EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BAD = (np.nan, np.inf, -np.inf, -1.0, 0.0, 1e30, -7.5, 3.0)
TYPES = ("<f4", ">f4", "<f8", ">f8", "<f2", "<i4", ">i8", "<u1", "bool")
numbers = itertools.count()


def survives(reader, path):
    """The jets of the file, or None where it is refused in words that name it."""
    try:
        jets = list(reader.read(path, block_size=7))
        for block in jets:
            jetnb.jets.check(block)
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
    """The datasets of Aspen Open Jets with 20 jets: of 0, 1, 2 constituents, of as many as fit, and
    usual ones.
    """
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
        change = data.draw(
            st.sampled_from(["value", "type", "drop", "extra", "shorter", "none", "narrow", "deep"])
        )
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
            mine[name] = values[: data.draw(st.integers(0, len(values)))]
        elif change == "none":
            mine = {key: value[:0] for key, value in mine.items()}
        elif change == "narrow":
            mine[name] = values[..., : data.draw(st.integers(0, values.shape[-1]))]
        else:
            mine[name] = values[..., None]
    with h5py.File(path, "w") as file:
        for name, values in mine.items():
            chunked = (
                {"chunks": True, "compression": "gzip"}
                if values.size and data.draw(st.booleans())
                else {}
            )
            file.create_dataset(name, data=values, **chunked)
    survives(aspen, path)


@EXAMPLES
@given(data=st.data())
def test_top_tagging(tmp_path, data):
    path = tmp_path / f"{next(numbers)}.h5"
    n, slots = data.draw(st.integers(0, 5)), data.draw(st.sampled_from([200, 200, 200, 150, 201]))
    order = data.draw(st.sampled_from(["<", "<", ">"]))
    kinds = {
        "values_block_0": (
            f"{order}{data.draw(st.sampled_from(['f4', 'f8', 'i4']))}",
            (4 * slots + 4,),
        ),
        "values_block_1": (
            data.draw(st.sampled_from(["<i8", ">i8", "<i4", "<f4"])),
            (data.draw(st.sampled_from([2, 2, 1, 3])),),
        ),
        "index": ("<i8", ()),
    }
    names = data.draw(st.permutations(sorted(kinds)))[: data.draw(st.sampled_from([3, 3, 3, 2]))]
    table = np.zeros(n, [(name, *kinds[name]) for name in names])
    for row in table:
        for name in names:
            if name == "values_block_0":
                used = data.draw(st.sampled_from([0, 1, 2, slots]))
                pt = np.sort(np.random.default_rng(used).exponential(20, used))[::-1]
                block = np.zeros((slots, 4))
                block[:used] = np.stack([1.2 * pt, pt, 0 * pt, 0.3 * pt], axis=1)
                row[name][: 4 * slots] = block.ravel()
                if used:
                    row[name][:] = a_value(data, row[name])
            elif name == "values_block_1":
                row[name][-1] = data.draw(st.sampled_from([0, 1, 0, 1, 2, -1]))
    with h5py.File(path, "w") as file:
        group = file.create_group(data.draw(st.sampled_from(["table", "table", "other"])))
        group.create_dataset(
            "table", data=table, **(hdf5plugin.Blosc() if n else {}), chunks=(n,) if n else None
        )
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
    return {
        name: found[name][ak.local_index(found[name]) < keep]
        if found[name].ndim > 1
        else ak.to_numpy(found[name])
        for name in found.fields
        if not name.startswith("npart")
    }


@pytest.mark.parametrize("kind", ["root", "parquet"])
@EXAMPLES
@given(data=st.data())
def test_jetclass(jetclass_columns, tmp_path, kind, data):
    path, mine = tmp_path / f"{next(numbers)}.{kind}", dict(jetclass_columns)
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(sorted(mine)))
        change = data.draw(
            st.sampled_from(["value", "type", "drop", "extra", "swap", "none", "cut", "flat"])
        )
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
            mine[name] = values[:, : data.draw(st.integers(0, 5))]
        elif change == "flat" and jagged:
            mine[name] = ak.to_numpy(ak.num(values)).astype(np.float32)
    if kind == "root":
        types = {
            name: v.dtype if isinstance(v, np.ndarray) else f"var * {ak.type(v).content.content}"
            for name, v in mine.items()
        }
        with uproot.recreate(path) as file:
            file.mktree(data.draw(st.sampled_from(["tree", "tree", "Events"])), types).extend(mine)
    else:
        arrow = {
            name: pa.array(v) if isinstance(v, np.ndarray) else ak.to_arrow(v, extensionarray=False)
            for name, v in mine.items()
        }
        pq.write_table(pa.table(arrow), path, row_group_size=5)
    survives(jetclass, path)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_ever_unpickled(columns, tmp_path):
    """Pickles lie in the attributes of published files of pandas; one that is malicious must stay
    what it is.
    """
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
    """Any file with any bytes changed is read, or refused by name: never another exception, never a
    crash.
    """
    path = tmp_path / f"{next(numbers)}.h5"
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file.create_dataset(
                name,
                data=values,
                chunks=True,
                **({} if name == "event_info" else {"compression": "gzip"}),
            )
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


def with_external_link(file, name, folder):
    with h5py.File(folder / "other.h5", "w") as other:
        file.copy(name, other, name)
    del file[name]
    file[name] = h5py.ExternalLink("other.h5", name)


def with_external_storage(file, name, folder):
    data = file[name]
    shape, dtype = data.shape, data.dtype
    del file[name]
    (folder / "secret.txt").write_bytes(b"secret" * 1000)
    file.create_dataset(
        name, shape, dtype, external=[(str(folder / "secret.txt"), 0, h5py.h5f.UNLIMITED)]
    )


def with_waiting_storage(file, name, folder):
    os.mkfifo(folder / "fifo")
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    file.create_dataset(
        name, shape, dtype, external=[(str(folder / "fifo"), 0, h5py.h5f.UNLIMITED)]
    )


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


FOLLOWED = {
    with_external_link: "an external link",
    with_external_storage: "external raw storage",
    with_waiting_storage: "external raw storage",
    with_virtual: "a virtual dataset",
    with_soft_link: "a soft link",
    with_references: "a dataset of references",
    with_nested_references: "a dataset of references",
    with_deep_link: "'a/b/c' is an external link",
}


LARGEST = {
    "aspen": "PFCands",
    "toptagging": "table/table",
    "jetnet": "particle_features",
    "higgstobb": "pfcand_ptrel",
    "hh4b": "X_pfo",
    "dumper": "tracks",
    "omnilearn": "data",
    "lhco": "df/block0_values",
}


@pytest.fixture(scope="module")
def hdf5_files(tmp_path_factory):
    """A good file of each HDF5 format: name of the reader -> path."""
    folder = tmp_path_factory.mktemp("hdf5")
    return {name: damage.good_file(folder, name) for name in damage.HDF5}


@pytest.mark.parametrize("change", FOLLOWED, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", damage.HDF5)
def test_nothing_leads_out_of_the_file(hdf5_files, tmp_path, name, change):
    path = tmp_path / hdf5_files[name].name
    shutil.copy(hdf5_files[name], path)
    with h5py.File(path, "r+", libver="latest" if change is with_virtual else None) as file:
        change(file, LARGEST[name], tmp_path)
    reader = identify.reader(name)
    for use in (
        lambda: list(reader.read(path)),
        lambda: reader.count(path),
        lambda: jetnb.load(path),
        lambda: convert(path, tmp_path / "store"),
    ):
        with pytest.raises(ValueError, match=f"{path.name}: .*{FOLLOWED[change]}.*other files"):
            use()
    assert not reader.recognises(path) and not jetnb.check(path).ok
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    "name", sorted({name for names in identify.READERS.values() for name in names})
)
def test_what_is_no_plain_file_is_refused_at_once(tmp_path, name):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path, message in (
        (tmp_path / "fifo", "is a FIFO, not a file"),
        (tmp_path / "folder", "is a folder, not a file"),
        ("/dev/zero", "is a device, not a file"),
    ):
        with pytest.raises(ValueError, match=f"{path} ({message})"):
            identify.reader(name).read(path)
        assert not identify.reader(name).recognises(path)


def test_names_in_a_file_do_not_reach_the_terminal_raw(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["\x1b[2J\x1b]0;owned\x07\u202e"] = np.zeros(3)
    for name in damage.HDF5:
        with pytest.raises(ValueError, match=r"a.h5") as caught:
            identify.reader(name).read(path)
        assert str(caught.value).replace("\n", "").isprintable(), name


def rewritten(path, name, values, **options):
    """The file at `path` with other values, or another shape, of one dataset."""
    with h5py.File(path, "r+") as file:
        del file[name]
        return file.create_dataset(
            name, **({"data": values} if values is not None else {}), **options
        ).shape


def with_chunk(path, name, packed, mask=0):
    """The file with these bytes as first chunk of the dataset."""
    with h5py.File(path, "r+") as file:
        file[name].id.write_direct_chunk((0,) * file[name].ndim, packed, mask)


def bombs(path, kind):
    """Make a JetNet file of eight jets into one that claims, or unpacks to, more than it has."""
    name, shape = "particle_features", (8, 30, 4)
    if kind == "rows never written":
        rewritten(path, "jet_features", None, shape=(2**40, 4), dtype="f4", chunks=(1000, 4))
        rewritten(
            path,
            name,
            None,
            shape=(2**40, 30, 4),
            dtype="f4",
            chunks=(1000, 30, 4),
            compression="gzip",
        )
    elif kind == "slots":
        rewritten(path, name, None, shape=(8, 10**9, 4), dtype="f4", chunks=(1, 1000, 4))
    elif kind == "chunk size":
        rewritten(
            path, name, None, shape=shape, maxshape=(None,) * 3, dtype="f4", chunks=(10**6, 100, 8)
        )
    elif kind == "gzip":
        rewritten(path, name, None, shape=shape, dtype="f4", chunks=shape, compression="gzip")
        with_chunk(path, name, zlib.compress(bytes(1 << 22), 9))
    elif kind == "gzip of gigabytes":
        rewritten(path, name, None, shape=shape, dtype="f4", chunks=shape, compression="gzip")
        with_chunk(path, name, zlib.compress(bytes(1 << 22), 9) * 1000)
    elif kind == "gzip after shuffle":
        rewritten(
            path,
            name,
            None,
            shape=shape,
            dtype="f4",
            chunks=shape,
            compression="gzip",
            shuffle=True,
        )
        with_chunk(path, name, zlib.compress(bytes(1 << 22), 9))
    elif kind == "gzip, too short":
        rewritten(path, name, None, shape=shape, dtype="f4", chunks=shape, compression="gzip")
        with_chunk(path, name, zlib.compress(bytes(100)))
    elif kind == "checksum, too short":
        rewritten(
            path,
            name,
            None,
            shape=shape,
            dtype="f4",
            chunks=shape,
            compression="gzip",
            fletcher32=True,
        )
        with_chunk(path, name, zlib.compress(bytes(100)), 2)
    elif kind == "lzf, too short":
        rewritten(path, name, None, shape=shape, dtype="f4", chunks=shape, compression="lzf")
        with_chunk(path, name, bytes([0, 0, 0xE0, 255, 0]))
    elif kind == "lzf, too long":
        rewritten(path, name, None, shape=shape, dtype="f4", chunks=shape, compression="lzf")
        with_chunk(path, name, bytes([0, 0]) + bytes([0xE0, 255, 0]) * 1000)
    elif kind in ("blosc, too short", "blosc, too long"):
        rewritten(path, name, np.zeros(shape, np.float32), chunks=shape, **hdf5plugin.Blosc())
        with h5py.File(path) as file:
            _, packed = file[name].id.read_direct_chunk((0, 0, 0))
        packed = bytearray(packed)
        packed[4:8] = (100 if "short" in kind else 2**31 - 64).to_bytes(4, "little")
        with_chunk(path, name, bytes(packed))
    elif kind in ("zstd, too short", "zstd, too long"):
        rewritten(path, name, np.zeros(shape, np.float32), chunks=shape, **hdf5plugin.Zstd())
        with_chunk(
            path,
            name,
            pa.Codec("zstd").compress(bytes(100 if "short" in kind else 1 << 26), asbytes=True),
        )
    elif kind == "other filter":
        rewritten(path, name, np.zeros(shape, np.float32), chunks=shape, **hdf5plugin.LZ4())
    else:
        rewritten(path, name, None, shape=shape, dtype=h5py.vlen_dtype("f4"))


@pytest.mark.parametrize("nested", [False, True])
def test_fields_that_overlap_are_refused(tmp_path, nested):
    """A float of four bytes whose exponent only a double can hold: read, it would be written over
    what comes next.
    """
    odd, table = h5py.h5t.IEEE_F32LE.copy(), h5py.h5t.create(h5py.h5t.COMPOUND, 8)
    odd.set_ebias(254)
    table.insert(b"a", 0, odd)
    table.insert(b"b", 4, h5py.h5t.IEEE_F32LE)
    if nested:
        outer = h5py.h5t.create(h5py.h5t.COMPOUND, 16)
        outer.insert(b"x", 0, h5py.h5t.array_create(table, (2,)))
        table = outer
    with h5py.File(tmp_path / "a.h5", "w") as file:
        h5py.h5d.create(file.id, b"jets", table, h5py.h5s.create_simple((3,)))
        file["good"] = np.zeros(3, [("a", "f4"), ("b", "i8", (2,))])
        file["padded"] = np.zeros(
            3, np.dtype({"names": ["a", "b"], "formats": ["f4", "?"], "offsets": [8, 2]})
        )
    with h5py.File(tmp_path / "a.h5") as file:
        with pytest.raises(
            ValueError, match="a.h5: dataset 'jets' is .*whose fields overlap.*download it again"
        ):
            _padded.need(tmp_path / "a.h5", file, "jets", (), "V", "a test")
        for name in ("good", "padded"):
            _padded.need(tmp_path / "a.h5", file, name, (), "V", "a test")


@pytest.mark.parametrize(
    "kind, message",
    {
        "rows never written": "claims 1,099,511,627,776 rows",
        "slots": "a jet has at most",
        "chunk size": "has chunks of",
        "gzip": "a chunk of 3840 bytes has more",
        "gzip after shuffle": "a chunk of 3840 bytes has more",
        "gzip, too short": "a chunk of 3840 bytes has 100",
        "checksum, too short": "a chunk of 3840 bytes has 100",
        "gzip of gigabytes": "a chunk of 3840 bytes takes more than",
        "lzf, too short": "a chunk of 3840 bytes has 265",
        "lzf, too long": "cannot be read",
        "blosc, too short": "a chunk of 3840 bytes has 100",
        "zstd, too short": "cannot be read .*ZSTD",
        "zstd, too long": "cannot be read .*ZSTD",
        "blosc, too long": "a chunk of 3840 bytes has more",
        "other filter": "is compressed by '.*which is not read",
        "lists": "'particle_features' is object",
    }.items(),
)
def test_bombs_in_hdf5(hdf5_files, tmp_path, kind, message):
    """No more memory than the data should have; and none of what lies behind a chunk that is too
    short.
    """
    path = tmp_path / "t.hdf5"
    shutil.copy(hdf5_files["jetnet"], path)
    bombs(path, kind)
    _chunks._unpack_lzf()(np.zeros(1, np.uint8), np.zeros(1, np.uint8))  # compiled
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"t.hdf5: .*{message}"):
            list(jetnet.read(path))
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert not jetnb.check(path).ok


def test_padding_that_packs_well_is_read(hdf5_files, tmp_path):
    """Nearly empty jets: 1 000 times as many bytes as the file has, in whatever compression."""
    for options in (
        {"compression": "gzip", "compression_opts": 9},
        {"compression": "gzip", "shuffle": True},
        {"compression": "lzf"},
        hdf5plugin.Blosc("zstd", 9),
    ):
        path = tmp_path / "t.hdf5"
        shutil.copy(hdf5_files["jetnet"], path)
        values = np.zeros((20_000, 30, 4), np.float32)
        jets = np.tile(np.float32([1000, 0, 90, 0]), (20_000, 1))
        rewritten(path, "particle_features", values, chunks=(5000, 30, 4), **options)
        rewritten(path, "jet_features", jets, chunks=(20_000, 4), **options)
        assert values.nbytes > 50 * path.stat().st_size
        assert sum(map(len, jetnet.read(path))) == 20_000


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"fletcher32": True},
        {"shuffle": True, "fletcher32": True},
        {"compression": "lzf", "shuffle": True, "fletcher32": True},
        {"chunks": (7,)},
        dict(hdf5plugin.Zstd()),
        dict(hdf5plugin.Blosc()),
    ],
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "?", [("a", "<i2"), ("b", "<f4", (3,))]])
def test_chunks_are_what_hdf5_makes_of_them(tmp_path, options, dtype):
    values = np.frombuffer(np.random.default_rng(1).bytes(2000 * np.dtype(dtype).itemsize), dtype)
    values = values & True if dtype == "?" else values
    values = np.concatenate([values[:300], values[:100], np.tile(values[:1], 701)])
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "x", data=values, **({"compression": "gzip", "chunks": (128,)} | options)
        )
    with h5py.File(tmp_path / "a.h5") as file:
        got = _chunks.Rows(tmp_path / "a.h5", file["x"])
        for rows in (slice(0, 1101), slice(130, 140), slice(1000, 2000)):
            assert got(rows).tobytes() == file["x"][rows].tobytes()


def test_a_wrong_checksum_is_seen(hdf5_files, tmp_path):
    path = tmp_path / "t.hdf5"
    shutil.copy(hdf5_files["jetnet"], path)
    with h5py.File(path) as file:
        values = file["particle_features"][:]
    rewritten(path, "particle_features", values, chunks=values.shape, fletcher32=True)
    assert sum(map(len, jetnet.read(path))) == 8
    with h5py.File(path) as file:
        packed = bytearray(file["particle_features"].id.read_direct_chunk((0, 0, 0))[1])
    packed[2] ^= 1
    with_chunk(path, "particle_features", bytes(packed))
    with pytest.raises(
        ValueError, match="t.hdf5: rows 0 to 7 .*the checksum of a chunk does not fit"
    ):
        list(jetnet.read(path))


def test_one_jet_of_forty_million_constituents_in_parquet(toy_jets, tmp_path):
    path = parquet.write(tmp_path / "a.parquet", toy_jets(1))
    table = pq.read_table(path)
    n = 40_000_000
    zeros = {
        field.name: pa.array(
            np.zeros(
                n if pa.types.is_list(field.type) else 1,
                (
                    field.type.value_type if pa.types.is_list(field.type) else field.type
                ).to_pandas_dtype(),
            )
        )
        for field in table.schema
    }
    few = {name: zeros[name] for name in zeros if not name.startswith("constituent_")}
    few |= {
        name: pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), zeros[name])
        for name in ("constituent_pt", "constituent_eta", "constituent_phi", "constituent_energy")
    }
    few = pa.table(few).replace_schema_metadata(table.schema.metadata)
    pq.write_table(few, path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 200_000
    with pytest.raises(
        ValueError, match="a.parquet is .*damaged .*claims 40,000,000 values of .* for 1 rows"
    ):
        parquet.count(path)
    assert "claims 40,000,000 values" in str(jetnb.check(path))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop_columns("constituent_pt"), "it has no column 'constituent_pt'"),
        (lambda t: t.append_column("jet_x", pa.array([[1.0]] * 5)), "column 'jet_x' is list"),
        (
            lambda t: t.append_column("jet_\x1b[31m", pa.array(["a"] * 5)),
            r"column 'jet_.x1b.31m' is string",
        ),
        (lambda t: t.append_column("other", pa.array([1] * 5)), "it has a column 'other'"),
        (
            lambda t: put(t, "jet_pt", pa.array([None] * 5, pa.float32())),
            "column 'jet_pt' has values that are missing",
        ),
        (
            lambda t: put(t, "constituent_eta", pa.array([[1]] * 5, pa.list_(pa.int32()))),
            "'constituent_eta' has other numbers",
        ),
        (
            lambda t: put(
                t,
                "constituent_pdg_id",
                pa.array(
                    [[99] * len(x) for x in t["constituent_pt"].to_pylist()], pa.list_(pa.int8())
                ),
            ),
            "column 'constituent_pdg_id' is not in 0 to",
        ),
        (lambda t: with_about(t, provenance=[]), "'provenance' is"),
        (lambda t: with_about(t, provenance={}), "do not say where they come from"),
        (lambda t: with_about(t, version="1"), "'version' is '1', not int"),
    ],
)
def test_parquet_that_says_it_is_ours(toy_jets, tmp_path, change, message):
    path = parquet.write(tmp_path / "a.parquet", toy_jets(5))
    pq.write_table(change(pq.read_table(path)), path, use_dictionary=False)
    with pytest.raises(ValueError, match=message) as caught:
        list(parquet.read(path))
    assert "a.parquet" in str(caught.value) and not jetnb.check(path).ok


def put(table, name, values):
    return table.set_column(table.schema.names.index(name), name, values)


def with_about(table, **changes):
    about = json.loads(table.schema.metadata[b"jetnb"]) | changes
    return table.replace_schema_metadata({"jetnb": json.dumps(about)})


@pytest.mark.parametrize(
    "error, kind, message",
    [
        (
            MemoryError(),
            ValueError,
            "a.h5 does not fit into the memory .*MemoryError.* smaller block_size",
        ),
        (
            PermissionError(13, "Permission denied"),
            PermissionError,
            "a.h5 cannot be read .Permission denied.*permissions",
        ),
        (KeyError("x"), ValueError, "a.h5 is truncated or damaged .KeyError: 'x'"),
        (ValueError("\x1b[31m"), ValueError, r"a.h5 is truncated or damaged ..x1b.31m.: download"),
        (OSError("Can't open a.h5"), ValueError, "a.h5 is truncated"),
        (OSError(5, "Input"), OSError, "cannot be read .*disk"),
        (FileNotFoundError("there is no file b"), FileNotFoundError, "there is no file b"),
    ],
)
def test_whatever_is_raised_names_the_file(error, kind, message):
    @_common.explaining
    def count(path):
        raise error

    @_common.explaining
    def read(path, *, start=0):
        yield 1
        raise error

    with pytest.raises(kind, match=message):
        count("a.h5")
    blocks = read(path="a.h5")
    assert next(blocks) == 1
    with pytest.raises(kind, match=message):
        next(blocks)
    assert not _common.accepts(count, "a.h5")
    with pytest.raises(TypeError, match="stat"):
        read("a.h5", stat=3)


def test_hundreds_of_damaged_files(tmp_path):
    """200 of each format: read, or refused by name; in little memory, without a hang or a crash."""
    tasks = damage.prepare(tmp_path, damage.FORMATS, 200)
    good = tmp_path / "jetnet" / "t.hdf5"
    known = [("jetnet", good, True), ("none", good, False), ("jetnet", tmp_path / "nothing", False)]
    *outcomes, read, traceback, refused = damage.run(tasks + known)
    assert (
        read == "read"
        and traceback.startswith("traceback: ModuleNotFoundError")
        and refused == "refused"
    )
    bad = [
        (path.name, what)
        for (_, path, _), what in zip(tasks, outcomes, strict=True)
        if what not in damage.GOOD
    ]
    assert not bad, bad[:10]
    assert len(outcomes) == 200 * len(damage.FORMATS) and outcomes.count("read") > 200
