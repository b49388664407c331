"""Every format of HDF5, Parquet and NumPy in every way that its files may be stored: the jets are
the same.

A file of each format is made by the writer in `WRITERS`, then written again, value for value, in
other number types, chunks, compressions, row groups and kinds of lists. A new reader needs a writer
here, and nothing else.
"""

from __future__ import annotations

import zipfile

import awkward as ak
import h5py
import hdf5plugin
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import test_reader_dumper
import test_reader_energyflow
import test_reader_hh4b
import test_reader_higgstobb
import test_reader_jetclass
import test_reader_jetnet
import test_reader_lhco
import test_reader_omnilearn
import test_reader_toptagging

import jetnb
from jetnb.readers import aspen, parquet
from jetnb.readers.identify import READERS, identify, reader


def jetclass(path):
    """Jets of two constituents each, so that lists may be of fixed size."""
    jets = jetnb.load("jetclass")[::2500]
    jets = ak.with_field(jets, jets.constituents[:, :2], "constituents")
    columns, inside, counts = jetnb.jets.to_columns(jets)
    return test_reader_jetclass.write_parquet(
        path, test_reader_jetclass.layout(columns, inside, counts, second=True)
    )


# A file of each format, by its reader: its name, and what writes it to a path.
WRITERS = {
    ("HDF5", "aspen"): ("RunG_batch7.h5", lambda path: aspen.write(path, jetnb.load("aoj")[:12])),
    ("HDF5", "toptagging"): (
        "test.h5",
        lambda path: test_reader_toptagging.write_by_hand(
            path, 3 * test_reader_toptagging.TWO, [1, 0, 0, 1, 1, 0]
        ),
    ),
    ("HDF5", "higgstobb"): (
        "ntuple_merged_9.h5",
        lambda path: test_reader_higgstobb.write_hdf5(path, [test_reader_higgstobb.JET] * 5),
    ),
    ("HDF5", "hh4b"): ("Data_train_1200.0_4.h5", test_reader_hh4b.write_hdf5),
    ("HDF5", "jetnet"): (
        "t.hdf5",
        lambda path: test_reader_jetnet.write_by_hand(
            path, [(test_reader_jetnet.JET, test_reader_jetnet.PARTICLES)] * 4
        ),
    ),
    ("HDF5", "dumper"): ("mc-flavtag-ttbar-small.h5", test_reader_dumper.write_by_hand),
    ("HDF5", "omnilearn"): (
        "train_qg.h5",
        lambda path: test_reader_omnilearn.write(
            path, test_reader_omnilearn.columns(jetnb.load("jetclass")[::2500])
        ),
    ),
    ("HDF5", "lhco"): (
        "events_anomalydetection_v2.h5",
        lambda path: pytest.importorskip("fastjet") and test_reader_lhco.good_file(path),
    ),
    ("Parquet", "parquet"): (
        "mine.parquet",
        lambda path: parquet.write(path, jetnb.load("aoj")[:12]),
    ),
    ("Parquet", "jetclass"): ("QCD_0000.parquet", jetclass),
    ("zip", "energyflow"): (
        "QG_jets_3.npz",
        lambda path: test_reader_energyflow.write(
            path,
            {
                name: values.astype("f4").astype("f8")
                for name, values in test_reader_energyflow.arrays().items()
            },
        ),
    ),
}

TYPES = (
    "i1",
    "i2",
    "i4",
    "i8",
    "u1",
    "u2",
    "u4",
    "u8",
    "bool",
    "f4",
    "f8",
    ">f4",
    ">f8",
    ">i4",
    ">i8",
    ">u2",
)
CHUNKED = {
    "contiguous": {},
    "gzip": {"compression": "gzip"},
    "gzip 9, shuffled": {"compression": "gzip", "compression_opts": 9, "shuffle": True},
    "gzip, checksums": {"compression": "gzip", "fletcher32": True},
    "lzf": {"compression": "lzf"},
    "blosc": dict(hdf5plugin.Blosc(cname="zstd", clevel=3)),
    "zstd": dict(hdf5plugin.Zstd()),
    "that may grow": {"maxshape": True},
    "not compressed": {"chunks": True},
}
TABLES = {
    **{
        f"compression {name}": {"compression": name}
        for name in ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
    },
    "short row groups": {"row_group_size": 3},
    "one row in a group": {"row_group_size": 1},
    "pages of version 2": {"data_page_version": "2.0"},
    "dictionaries": {"use_dictionary": True},
    "plain": {"use_dictionary": False, "write_statistics": False},
    "short pages": {"data_page_size": 64},
    "checksums": {"write_page_checksum": True},
    "no types of Arrow": {"store_schema": False},
}


def names(kind):
    return [name for where, name in WRITERS if where == kind]


def test_every_reader_has_a_writer_here():
    assert set(WRITERS) == {
        (kind, name) for kind in ("HDF5", "Parquet", "zip") for name in READERS[kind]
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The file of a format, and its jets."""
    made = {}

    def get(kind, name):
        if (kind, name) not in made:
            file, write = WRITERS[kind, name]
            path = tmp_path_factory.mktemp(name) / file
            write(path)
            made[kind, name] = path, everything(name, path)
        return made[kind, name]

    return get


def everything(name, path, **options):
    return ak.concatenate(list(reader(name).read(path, **options)))


def same(name, path, expected):
    """The file is known, and has the jets, read in blocks of any size."""
    assert identify(path) == name
    for size in (10_000, 3):
        found = everything(name, path, block_size=size)
        assert (
            found.fields == expected.fields
            and found.constituents.fields == expected.constituents.fields
        )
        assert ak.almost_equal(found, expected, rtol=1e-6, atol=1e-6, check_parameters=False)


def retyped(values, kind):
    """`values` as `kind`, where that type holds each of them; numbers with digits stay such, and
    integers integers.
    """
    kind = np.dtype(kind)
    if values.dtype.names:
        fields = {name: retyped(values[name], kind) for name in values.dtype.names}
        out = np.zeros(
            values.shape,
            [(name, one.dtype, one.shape[values.ndim :]) for name, one in fields.items()],
        )
        for name, one in fields.items():
            out[name] = one
        return out
    if (values.dtype.kind == "f") != (kind.kind == "f"):
        return values
    with np.errstate(all="ignore"):
        cast = values.astype(kind)
    holds = np.array_equal(
        cast.astype("f8"), values.astype("f8"), equal_nan=values.dtype.kind == "f"
    )
    return cast if holds else values


def datasets(path):
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, one: (
                found.update({name: one[()]}) if isinstance(one, h5py.Dataset) else None
            )
        )
    return found


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", names("HDF5"))
def test_number_types_of_hdf5(base, tmp_path, name, kind):
    path, jets = base("HDF5", name)
    with h5py.File(tmp_path / path.name, "w") as file:
        for key, values in datasets(path).items():
            file[key] = retyped(values, kind)
    same(name, tmp_path / path.name, jets)


@pytest.mark.parametrize("flavour", CHUNKED)
@pytest.mark.parametrize("name", names("HDF5"))
def test_storage_of_hdf5(base, tmp_path, name, flavour):
    path, jets = base("HDF5", name)
    for libver in ("earliest", "latest"):
        with h5py.File(tmp_path / path.name, "w", libver=libver) as file:
            for key, values in datasets(path).items():
                options = dict(CHUNKED[flavour])
                if options.pop("maxshape", False):
                    options["maxshape"] = (None,) * values.ndim
                if options:
                    options["chunks"] = (2, *(max(1, size // 3) for size in values.shape[1:]))
                file.create_dataset(key, data=values, **options)
        same(name, tmp_path / path.name, jets)


def mapped(table, change):
    """A table with the type of each list's content, and of each column, as `change` has it."""
    fields, metadata = [], table.schema.metadata
    for field in table.schema:
        kind = change(field.type, table.column(field.name))
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields, metadata=metadata))


def is_list(kind):
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def wider(to):
    """Numbers as `to`, where it holds them."""

    def change(kind, column):
        inner = kind.value_type if is_list(kind) else kind
        if pa.types.is_boolean(inner) or pa.types.is_floating(inner) != pa.types.is_floating(to):
            return kind
        values = column.combine_chunks().flatten() if is_list(kind) else column
        try:
            values.cast(to)
        except pa.ArrowInvalid:
            return kind
        return pa.list_(to) if is_list(kind) else to

    return change


LISTS = {
    "long lists": lambda kind, _: pa.large_list(kind.value_type) if is_list(kind) else kind,
    "lists of fixed size": lambda kind, column: (
        pa.list_(kind.value_type, 2)
        if is_list(kind)
        and all(n == 2 for n in column.combine_chunks().value_lengths().to_pylist())
        else kind
    ),
    "lists without missing values": lambda kind, _: (
        pa.list_(pa.field("item", kind.value_type, nullable=False)) if is_list(kind) else kind
    ),
    **{
        f"numbers as {kind}": wider(kind)
        for kind in (
            pa.int8(),
            pa.int16(),
            pa.int32(),
            pa.int64(),
            pa.uint8(),
            pa.uint16(),
            pa.uint32(),
            pa.uint64(),
            pa.float64(),
        )
    },
}


@pytest.mark.parametrize("flavour", TABLES)
@pytest.mark.parametrize("name", names("Parquet"))
def test_storage_of_parquet(base, tmp_path, name, flavour):
    path, jets = base("Parquet", name)
    if name == "parquet" and flavour == "no types of Arrow":
        pytest.skip("what says that a file is of this format is with these types")
    pq.write_table(pq.read_table(path), tmp_path / path.name, **TABLES[flavour])
    same(name, tmp_path / path.name, jets)


@pytest.mark.parametrize("flavour", LISTS)
@pytest.mark.parametrize("name", names("Parquet"))
def test_types_of_parquet(base, tmp_path, name, flavour):
    path, jets = base("Parquet", name)
    pq.write_table(
        mapped(pq.read_table(path), LISTS[flavour]), tmp_path / path.name, row_group_size=3
    )
    same(name, tmp_path / path.name, jets)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", names("zip"))
def test_number_types_of_numpy(base, tmp_path, name, kind):
    path, jets = base("zip", name)
    with np.load(path) as found:
        whole = {
            key: found[key].astype(int) if found[key].ndim == 1 else found[key] for key in found
        }  # labels
    np.savez(tmp_path / path.name, **{key: retyped(values, kind) for key, values in whole.items()})
    same(name, tmp_path / path.name, jets)


@pytest.mark.parametrize(
    "flavour", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, "64 bit", "other order", "more arrays"]
)
@pytest.mark.parametrize("name", names("zip"))
def test_storage_of_numpy(base, tmp_path, name, flavour):
    path, jets = base("zip", name)
    with np.load(path) as file:
        found = {key: file[key] for key in file}
    if flavour == "other order":
        found = dict(reversed(found.items()))
    if flavour == "more arrays":
        found |= {"about": np.zeros(3)}
    how = flavour if isinstance(flavour, int) else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / path.name, "w", how) as archive:
        for key, values in found.items():
            with archive.open(f"{key}.npy", "w", force_zip64=flavour == "64 bit") as stream:
                np.lib.format.write_array(stream, values)
    same(name, tmp_path / path.name, jets)
