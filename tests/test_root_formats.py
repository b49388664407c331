"""Every format of ROOT in every flavour that uproot writes, damaged in many ways, and as a bomb.

A new format is one line in `FORMATS`: its reader, the name of its tree, and its columns.
"""

from __future__ import annotations

import contextlib
import io
import resource
import signal
import struct
import zlib
from collections import Counter
from typing import NamedTuple

import awkward as ak
import numpy as np
import pytest
import test_reader_hh4b
import test_reader_higgstobb
import test_reader_jetclass
import test_reader_pfnano
import test_reader_physlite
import uproot
import xxhash
from uproot.models.RNTuple import MetaData

import jetnb.jets
from jetnb.readers import (
    _root,
    _root_pages,
    _root_unpack,
    hh4b,
    higgstobb,
    identify,
    jetclass,
    pfnano,
    physlite,
)

CODECS = {
    "none": None,
    "zlib": uproot.ZLIB(4),
    "lz4": uproot.LZ4(4),
    "zstd": uproot.ZSTD(3),
    "lzma": uproot.LZMA(1),
}
INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")
EVENTS = [
    (test_reader_pfnano.JETS, test_reader_pfnano.EVENT, test_reader_pfnano.LINKS),
    (test_reader_pfnano.CENTRAL, [test_reader_pfnano.PION], [(0, 0)]),
    (test_reader_pfnano.NOTHING, [test_reader_pfnano.SOFT], []),
]
HIGGS = test_reader_higgstobb


class Format(NamedTuple):
    reader: object
    tree: str
    columns: object  # of about 12 rows


FORMATS = {
    "JetClass": Format(
        jetclass, "tree", lambda: test_reader_jetclass.layout(*test_reader_jetclass.toy(12))
    ),
    "JetClass-II": Format(
        jetclass,
        "tree",
        lambda: test_reader_jetclass.layout(
            *test_reader_jetclass.toy(12, second=True), second=True
        ),
    ),
    "record 12102": Format(
        higgstobb,
        "deepntuplizer/tree",
        lambda: HIGGS.columns_of(12) | HIGGS.parts_of([HIGGS.JET] * 12),
    ),
    "hh4b": Format(
        hh4b,
        "deepntuplizer/tree",
        lambda: test_reader_hh4b.branches_of(
            test_reader_hh4b.EVENTS * 4, test_reader_hh4b.SIGNAL * 4
        ),
    ),
    "PHYSLITE": Format(
        physlite,
        "EventData",
        lambda: test_reader_physlite.columns_of(
            **{name: lists * 6 for name, lists in test_reader_physlite.EVENTS.items()}
        ),
    ),
    **{
        f"CMS {layout}": Format(
            pfnano,
            "Events",
            lambda layout=layout: test_reader_pfnano.branches_by_hand(EVENTS * 4, layout=layout),
        )
        for layout in test_reader_pfnano.LAYOUTS
    },
}
KINDS = ("TTree", "RNTuple")
ALL = [
    (name, kind)
    for name in FORMATS
    for kind in KINDS
    if kind == "RNTuple" or name not in ("hh4b", "PHYSLITE")
]  # uproot writes no lists of lists into a TTree
FLAVOURS = pytest.mark.parametrize(
    ("name", "kind"), ALL, ids=[f"{name} {kind}" for name, kind in ALL]
)


def write(path, tree, columns, kind, *, compression=CODECS["zstd"], pieces=1, older=None):
    """A file of `columns`, in so many baskets or clusters; `older`: columns of a cycle of the same
    name before it.
    """
    with uproot.recreate(path, compression=compression) as file:
        for data in (older, columns):
            if data is None:
                continue
            n = len(next(iter(data.values())))
            ends = np.linspace(0, n, pieces + 1).astype(int)
            if kind == "TTree":
                made = file.mktree(
                    tree,
                    {
                        name: np.dtype((values.dtype, values.shape[1:]))
                        if isinstance(values, np.ndarray)
                        else ak.Array(values).type.content
                        for name, values in data.items()
                    },
                )
            else:
                made = file.mkrntuple(
                    tree, {name: values[: ends[1]] for name, values in data.items()}
                )
            for low, high in zip(
                ends[kind == "RNTuple" : -1], ends[1 + (kind == "RNTuple") :], strict=True
            ):
                made.extend({name: values[low:high] for name, values in data.items()})
    return path


def read(name, path, **options):
    return ak.concatenate(list(FORMATS[name].reader.read(path, **options)))


@pytest.fixture(scope="module")
def want(tmp_path_factory):
    """Name of a format -> its jets from a plain file, and the file."""
    made = {}

    def of(name):
        if name not in made:
            path = tmp_path_factory.mktemp("want") / "events_0.root"
            kind = KINDS[(name, KINDS[0]) not in ALL]
            write(path, FORMATS[name].tree, FORMATS[name].columns(), kind, compression=None)
            made[name] = read(name, path)
        return made[name]

    return of


def same(found, wanted, *, precision=0.0):
    jetnb.jets.check(found)
    assert found.fields == wanted.fields and found.constituents.fields == wanted.constituents.fields
    assert ak.almost_equal(found, wanted, rtol=precision, atol=precision, check_parameters=False)


# ---- flavours


@pytest.mark.parametrize("codec", CODECS)
@FLAVOURS
def test_codecs_and_several_baskets_and_clusters(tmp_path, want, name, kind, codec):
    reader, tree, columns = FORMATS[name]
    path = write(
        tmp_path / "events_0.root", tree, columns(), kind, compression=CODECS[codec], pieces=3
    )
    assert reader.recognises(path) and reader.count(path) == 12
    same(read(name, path), want(name))
    same(read(name, path, block_size=5), want(name))


@FLAVOURS
def test_of_two_cycles_the_newer_is_read(tmp_path, want, name, kind):
    _, tree, columns = FORMATS[name]
    older = {key: values[:3] for key, values in columns().items()}
    path = write(tmp_path / "events_0.root", tree, columns(), kind, older=older)
    same(read(name, path), want(name))


@pytest.mark.parametrize("dtype", [*INTEGERS, "f8"])
@FLAVOURS
def test_integers_of_every_type_and_double_precision(tmp_path, want, name, kind, dtype):
    """Every whole number goes into the type where it fits, every float into double precision."""
    changed, columns = 0, FORMATS[name].columns()
    for key, values in columns.items():
        if not isinstance(values, np.ndarray) and ak.fields(values):
            continue  # links, which have a test of their own
        flat = (
            ak.to_numpy(ak.flatten(values, axis=None))
            if not isinstance(values, np.ndarray)
            else values
        )
        whole = flat.dtype.kind in "iub" and (
            len(flat) == 0 or np.array_equal(flat.astype(dtype), flat)
        )
        if whole if dtype != "f8" else flat.dtype.kind == "f":
            columns[key] = (
                values.astype(dtype)
                if isinstance(values, np.ndarray)
                else ak.values_astype(values, np.dtype(dtype))
            )
            changed += 1
    path = write(tmp_path / "events_0.root", FORMATS[name].tree, columns, kind)
    same(read(name, path), want(name), precision=1e-6 if dtype == "f8" else 0.0)
    assert changed


@pytest.mark.parametrize("name", ["CMS PFNano", "CMS 2017", "CMS v15"])
def test_lists_of_structs_are_what_a_ttree_has_as_branches(tmp_path, want, name):
    """uproot writes `ak.zip` into a TTree as `FatJet_pt`, into an RNTuple as a list of structs
    `FatJet`.
    """
    grouped, columns = {}, FORMATS[name].columns()
    for key, values in columns.items():
        prefix, _, member = key.partition("_")
        if isinstance(values, ak.Array):
            grouped.setdefault(prefix, {})[member] = values
        else:
            grouped[key] = values
    grouped = {
        key: ak.zip(values) if isinstance(values, dict) else values
        for key, values in grouped.items()
    }
    for kind in KINDS:
        same(read(name, write(tmp_path / "events_0.root", "Events", grouped, kind)), want(name))


@FLAVOURS
def test_missing_values_and_lists_of_a_fixed_size_are_named(tmp_path, name, kind):
    reader, tree, columns = FORMATS[name]
    column = next(
        key
        for key, values in columns().items()
        if isinstance(values, ak.Array) and not ak.fields(values)
    )
    fixed = np.zeros((12, 3), np.float32)
    for values, which in ((fixed, KINDS), (ak.Array([None, *[[1.0]] * 11]), ("RNTuple",))):
        if kind not in which:
            continue
        path = write(tmp_path / "a.root", tree, columns() | {column: values}, kind)
        with pytest.raises(ValueError, match=f"a.root: (branch|column) {column} is .*, but"):
            reader.read(path)


# ---- one header


def test_a_file_of_something_else_is_named_by_what_lies_in_it(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("folder/deep/tree", {"x": "f4"})
        file["h"] = np.histogram([1.0])
    assert sorted(_root.contents(tmp_path / "a.root")) == ["folder/deep", "h"]
    with pytest.raises(
        ValueError, match="a.root is ROOT, but of no dataset that jetnb reads: it has .*folder/deep"
    ):
        identify.identify(tmp_path / "a.root")
    with (
        pytest.raises(ValueError, match="CMS PFNano has a tree 'h', here is a TH1D; the file has"),
        _root.open_tree(tmp_path / "a.root", "h", "CMS PFNano"),
    ):
        pass


@FLAVOURS
def test_a_file_is_opened_and_its_header_read_once(tmp_path, monkeypatch, name, kind):
    _, tree, columns = FORMATS[name]
    path = write(tmp_path / "a.root", tree, columns(), kind)
    calls, opened, tree_of = Counter(), uproot.open, _root.Tree

    def counted(what, function):
        def call(*args, **options):
            calls[what] += 1
            return function(*args, **options)

        return call

    monkeypatch.setattr(uproot, "open", counted("files", opened))
    monkeypatch.setattr(_root.Tree, "__init__", counted("trees", tree_of.__init__))
    assert list(identify.reader(identify.identify(path)).read(path, block_size=5))
    assert calls == {"files": 1, "trees": 1}


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    _, tree, columns = FORMATS["JetClass"]
    for n in (12, 5):
        write(
            tmp_path / "a.root",
            tree,
            {key: values[:n] for key, values in columns().items()},
            "TTree",
        )
        assert (
            jetclass.count(tmp_path / "a.root") == n == len(read("JetClass", tmp_path / "a.root"))
        )


# ---- pages as ROOT writes them: uproot writes none of these encodings, but reads them


@pytest.mark.parametrize(
    ("dtype", "kinds"),
    [
        ("int16", (0x05, 0x06, 0x11, 0x12)),
        ("int32", (0x07, 0x08, 0x13, 0x14, 0x1A, 0x0C, 0x18)),
        ("int64", (0x09, 0x0A, 0x15, 0x16, 0x1B, 0x0D, 0x19)),
        ("int8", (0x03, 0x04)),
    ],
)
@pytest.mark.parametrize("paged", [False, True])
def test_every_encoding_of_a_page_is_read_as_by_uproot(tmp_path, dtype, kinds, paged):
    rng = np.random.default_rng(1)
    for kind in kinds:
        values = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 100, dtype)
        if kind in (
            _root_pages.INDEX32[1],
            _root_pages.INDEX64[1],
        ):  # differences, of which the sum must fit
            steps = np.split(rng.integers(0, 9, 100, dtype), [40] if paged else [])
            values = np.concatenate(
                [one.view("u1").reshape(len(one), -1).T.ravel().view(dtype) for one in steps]
            )
        path = write(tmp_path / "a.root", "t", {"x": values}, "RNTuple", compression=None)
        with uproot.open(path, object_cache=None) as file, path.open("rb") as stream:
            ntuple = file["t"]
            ntuple.column_records[0].type = kind
            pages = ntuple.page_link_list[0][0].pages
            if paged:
                pages[0].has_checksum = False
                pages.append(_pages_copy(pages[0]))
                pages[0].num_elements, pages[1].num_elements = 40, 60
                pages[0].locator.num_bytes = 40 * values.itemsize
                pages[1].locator.offset += 40 * values.itemsize
                pages[1].locator.num_bytes = 60 * values.itemsize
            want = ntuple.read_cluster_range(0, 0, 1)
            columns = _root_pages.Columns(stream, _root_pages.Fields(ntuple), [])
            columns._budget = _root_unpack.Budget()
            for low, high in ((0, 100), (10, 45), (40, 100), (99, 100)):
                found = columns._elements(0, [ntuple.column_records[0]], low, high)
                expected = want[-100:][low:high]  # of an index uproot puts a zero before it
                assert np.array_equal(found.astype(expected.dtype), expected, equal_nan=True), kind


def _pages_copy(page):
    return MetaData(
        "Page",
        num_elements=page.num_elements,
        has_checksum=page.has_checksum,
        locator=MetaData("Locator", num_bytes=page.locator.num_bytes, offset=page.locator.offset),
    )


# ---- claims and bombs


@contextlib.contextmanager
def memory(extra=700 << 20):
    """At most so many bytes more than now."""
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def zstd_bomb(n_bytes):
    """A frame of blocks of 128 kiB, each one byte that is to be repeated."""
    size = 1 << 17
    blocks = [(size << 3 | 2 | last).to_bytes(3, "little") + b"\0" for last in (0, 1)]
    return bytes.fromhex("28b52ffd0038") + blocks[0] * (n_bytes // size - 1) + blocks[1]


def zlib_bomb(n_bytes):
    made, piece = zlib.compressobj(9), bytes(1 << 22)
    first, again = ((made.compress(piece) + made.flush(zlib.Z_FULL_FLUSH)) for _ in range(2))
    return first + again * ((n_bytes >> 22) - 1) + made.flush()


BOMBS = {b"ZL": zlib_bomb, b"ZS": zstd_bomb}


def block(kind, packed, n):
    return kind + b"\x01" + len(packed).to_bytes(3, "little") + n.to_bytes(3, "little") + packed


@pytest.mark.parametrize("kind", BOMBS)
@pytest.mark.parametrize("claims", [100, (1 << 24) - 1])
def test_a_bomb_is_never_unpacked_beyond_what_it_claims(kind, claims):
    packed = block(kind, BOMBS[kind](1 << 30), claims)
    with memory(), pytest.raises(ValueError, match="block"):
        _root_unpack.unpack(memoryview(packed), claims)


def test_claims_are_compared_before_memory_is_taken():
    honest = block(b"ZL", zlib.compress(bytes(100)), 100)
    assert not _root_unpack.unpack(memoryview(honest), 100).any()
    for packed, claims, says in (
        (honest, _root_unpack.LIMIT + 1, "is the most"),
        (honest, -1, "is the most"),
        (honest, 99, "claim 100 bytes, but their header 99"),
        (honest[:-1], 100, "are left"),
        (honest * 2, 100, "claim 200"),
        (b"", 7, "claim 0"),
        (honest[:5], 100, "are left"),
        (block(b"QQ", b"12345", 9), 9, "b'QQ' is not known"),
        (block(b"ZL", zlib.compress(bytes(100))[:-3], 100), 100, "ends too early"),
    ):
        with memory(), pytest.raises(ValueError, match=says):
            _root_unpack.unpack(memoryview(packed), claims)
    budget = _root_unpack.Budget()
    budget.spend(_root_unpack.BLOCK)
    with pytest.raises(ValueError, match="smaller block_size"):
        budget.spend(1)


@pytest.mark.parametrize("kind", BOMBS)
def test_a_tree_with_a_bomb_for_a_basket_or_a_header_is_refused(tmp_path, kind):
    """One basket, and then the description of the tree, are replaced by what unpacks to a gigabyte."""
    path = write(tmp_path / "a.root", "Events", FORMATS["CMS PFNano"].columns(), "TTree")
    whole = path.read_bytes()
    with uproot.open(path) as file:
        branch = file["Events"]["PFCands_pt"]
        seek, n_bytes = (int(branch.member(name)[0]) for name in ("fBasketSeek", "fBasketBytes"))
        key = file.key("Events")
        tree, sizes = key.fSeekKey, (key.fNbytes, key.fVersion, key.fObjlen)
    claims = 1 << 20
    packed = block(kind, BOMBS[kind](1 << 30), claims)
    for where, old in ((seek, n_bytes), (tree, None)):
        n_key = struct.unpack_from(">h", whole, where + 14)[0]
        key = bytearray(whole[where : where + n_key])
        struct.pack_into(">i", key, 0, n_key + len(packed))
        struct.pack_into(">i", key, 6, claims)
        hurt = whole + bytes(key) + packed
        for size in "qi":  # wherever the place is written down
            hurt = hurt.replace(struct.pack(f">{size}", where), struct.pack(f">{size}", len(whole)))
        if old is None:  # the list of what is in the file has a copy of the key
            hurt = hurt.replace(
                struct.pack(">ihi", *sizes),
                struct.pack(">ihi", len(key) + len(packed), sizes[1], claims),
            )
        else:
            hurt = hurt.replace(struct.pack(">i", old), struct.pack(">i", len(key) + len(packed)))
        path.write_bytes(hurt)
        with memory(), pytest.raises(ValueError, match="a.root is truncated or damaged .*block"):
            list(pfnano.read(path))


@pytest.mark.parametrize("name", [name for name, kind in ALL if kind == "TTree"])
def test_more_rows_than_there_are_end_in_a_sentence(tmp_path, name):
    """One byte of a number of rows is changed, wherever the number stands, so that it is 2**31
    larger.
    """
    reader, tree, columns = FORMATS[name]
    whole = write(tmp_path / "a.root", tree, columns(), "TTree").read_bytes()
    number, at, places = struct.pack(">q", 12), -1, []
    while (at := whole.find(number, at + 1)) >= 0:
        places.append(at)
    refused = 0
    for k, at in enumerate(
        places[:4] + places[4 :: max(len(places) // 8, 1)]
    ):  # that of the tree is an early one
        path = tmp_path / f"b{k}.root"
        path.write_bytes(whole[: at + 4] + b"\x80" + whole[at + 5 :])
        with patience(path), memory(2 << 30):
            try:
                assert reader.count(path) == 12 and sum(map(len, reader.read(path))) <= 48
            except ValueError as error:
                assert path.name in str(error)
                refused += 1
    assert refused


def test_more_rows_than_an_rntuple_has_end_in_a_sentence(tmp_path):
    path = write(tmp_path / "a.root", "tree", FORMATS["JetClass"].columns(), "RNTuple")
    with uproot.open(path, object_cache=None) as file:
        ntuple = file["tree"]
        ntuple.cluster_summaries[0].num_entries = 2**31 + 12
        tree = _root.Tree(path, ntuple)
        assert tree.num_entries == 2**31 + 12
        with pytest.raises(
            ValueError,
            match="a.root .*2147483660 rows are claimed, but the pages of jet_pt hold 12",
        ):
            tree.types(["jet_pt"])


def test_a_page_that_is_not_that_of_its_checksum_is_refused():
    """ROOT writes a checksum after each page, uproot none."""
    values = np.arange(9, dtype="<i4")
    page = MetaData(
        "Page",
        num_elements=9,
        has_checksum=True,
        locator=MetaData("Locator", num_bytes=36, offset=0),
    )
    content = bytearray(
        values.tobytes() + xxhash.xxh3_64_intdigest(values.tobytes()).to_bytes(8, "little")
    )
    columns = _root_pages.Columns(io.BytesIO(content), None, [])
    assert columns._page(page, 0x07).tolist() == values.tolist()
    content[5] ^= 1
    with pytest.raises(ValueError, match="a page is not that of its checksum"):
        _root_pages.Columns(io.BytesIO(content), None, [])._page(page, 0x07)
    with pytest.raises(
        ValueError, match="44 bytes are claimed at byte 0, beyond the end of the file"
    ):
        _root_pages.Columns(io.BytesIO(content[:-1]), None, [])._page(page, 0x07)


# ---- damage


class Stuck(BaseException):
    """No `Exception`, or it would be taken for a fault of the file."""


@contextlib.contextmanager
def patience(path, seconds=60):
    def stop(*_):
        raise Stuck(path)

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(whole, rng):
    """`whole` with a few bytes changed, or cut; half of the places are near the start or the end,
    where headers are.
    """
    hurt, n = bytearray(whole), len(whole)
    near = rng.integers(min(n, 3000)), n - 1 - rng.integers(min(n, 6000))
    at, how = int(rng.choice([rng.integers(n), rng.integers(n), *near])), rng.integers(5)
    if how == 0:
        hurt[at] ^= 1 << int(rng.integers(8))
    elif how == 1:
        hurt[at] = rng.choice([0, 127, 128, 255])
    elif how == 2:
        hurt[at : at + 8] = rng.bytes(8)
    elif how == 3:
        hurt[at : at + 4] = bytes.fromhex(
            str(rng.choice(["7fffffff", "ffffffff", "00000000", "80000000", "00100000"]))
        )
    return bytes(hurt[: at + 1] if how == 4 else hurt)


def versions_known() -> dict[str, dict]:
    return {
        name: dict(kind.known_versions)
        for name, kind in uproot.classes.items()
        if hasattr(kind, "known_versions")
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name, kind in ALL if name not in ("JetClass-II", "CMS 2017", "CMS v15")],
)  # the same readers as others
def test_damaged_files_give_good_jets_or_a_sentence_with_their_name(tmp_path, name, kind):
    """200 files of a format that has both kinds: a TTree takes uproot five times as long."""
    reader, tree, columns = FORMATS[name]
    known = versions_known()
    codec = list(CODECS.values())[1 + ALL.index((name, kind)) % 4]
    whole = write(
        tmp_path / "a.root",
        tree,
        {key: values[:6] for key, values in columns().items()},
        kind,
        compression=codec,
        pieces=2,
    ).read_bytes()
    for seed in range(40 if kind == "TTree" else 160):
        path = tmp_path / f"hurt_{seed}.root"
        path.write_bytes(damaged(whole, np.random.default_rng(seed)))
        with patience(path), memory(2 << 30):
            try:
                for jets in reader.read(path):
                    jetnb.jets.check(jets)
            except ValueError as error:
                assert path.name in str(error)
                assert not isinstance(error.__cause__, MemoryError), (
                    f"{path} asked for more than 2 GiB"
                )
        path.unlink()
    assert versions_known() == known, (
        "what a damaged file says of a class is taken for the next file"
    )
