"""The store: round trips, zero copy, gathering, and what can go wrong while writing and opening."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import jetnb.jets
from jetnb import atomic
from jetnb.data import store
from jetnb.data.store import record, writing

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"}


@pytest.fixture(scope="module")
def blocks(toy_jets):
    return [toy_jets(60, 1), toy_jets(7, 2), toy_jets(33, 3)]


@pytest.fixture
def small(blocks, tmp_path):
    return store.write(tmp_path / "small", blocks)


def nothing_left(folder):
    return not list(folder.glob(".*")) and not list(folder.glob("*.partial"))


def test_round_trip(blocks, small, tmp_path):
    assert len(small) == 100 and nothing_left(tmp_path)
    assert ak.array_equal(small.jets, ak.concatenate(blocks), dtype_exact=True)
    assert jetnb.jets.provenance(small.jets) == jetnb.jets.provenance(blocks[0])
    assert "100 jets" in repr(small)
    jetnb.jets.check(small.jets)
    small.verify()
    again = pickle.loads(pickle.dumps(small))
    assert ak.array_equal(again.jets, small.jets)


def test_one_array_views_and_no_jets(blocks, tmp_path):
    view = blocks[0][ak.to_numpy(blocks[0].pt) > np.median(blocks[0].pt)]
    assert ak.array_equal(store.write(tmp_path / "one", view).jets, view)
    empty = store.write(tmp_path / "empty", blocks[0][:0])
    assert len(empty) == 0 and len(empty.jets) == 0 and len(empty.gather([]).x) == 0
    mixed = store.write(tmp_path / "mixed", [blocks[0][:0], blocks[1]])
    assert ak.array_equal(mixed.jets, blocks[1])


def test_columns_are_numpy_files(small):
    pt = np.load(small.path / "constituent_pt.npy", mmap_mode="r")
    assert np.array_equal(pt, ak.to_numpy(ak.flatten(small.jets.constituents.pt)))
    assert np.array_equal(
        np.diff(np.load(small.path / "offsets.npy")), ak.num(small.jets.constituents)
    )


def test_pieces_do_not_matter(blocks, small, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "PIECE", 13)
    pieces = store.write(tmp_path / "pieces", blocks)
    assert pieces.meta == small.meta


def test_provenance_can_be_given(blocks, tmp_path):
    bare = ak.Array(blocks[0].layout)
    with pytest.raises(store.StoreError, match="block 0 from jet 0: these jets do not say where"):
        store.write(tmp_path / "bare", bare)
    given = {"sample": "mine", "source": "open data", "classes": ["QCD", "TTBar"]}
    assert (
        jetnb.jets.provenance(store.write(tmp_path / "bare", bare, provenance=given).jets) == given
    )


def test_zero_copy(small):
    jets = small.jets
    for name in ("pt", "event"):
        assert np.shares_memory(ak.to_numpy(jets[name]), small._columns[f"jet_{name}"])
    inner = jets.layout.content("constituents")
    assert np.shares_memory(inner.offsets.data, small._columns["offsets"])
    for name in jets.constituents.fields:
        column = small._columns[f"constituent_{name}"]
        assert np.shares_memory(inner.content.content(name).data, column)
        assert not column.flags.writeable and not column.flags.owndata
    assert np.shares_memory(ak.to_numpy(jets[20:30].pt), small._columns["jet_pt"])


def test_opening_is_cheap_whatever_the_size(small, tmp_path):
    """Tens of GB in sparse files open in no memory: nothing is hashed, and only the offsets are
    read.
    """
    n_jets, n_constituents = 20_000_000, 1_000_000_000
    meta = json.loads((small.path / "meta.json").read_text())
    meta |= {"n_jets": n_jets, "n_constituents": n_constituents}
    for name, about in meta["columns"].items():
        about["length"] = (
            n_constituents if name.startswith("constituent") else n_jets + (name == "offsets")
        )
        os.truncate(
            small.path / f"{name}.npy", 128 + about["length"] * np.dtype(about["dtype"]).itemsize
        )
    with (small.path / "offsets.npy").open("r+b") as stream:
        stream.seek(128)
        stream.write(bytes(8 * 101))
        stream.seek(-8, os.SEEK_END)
        stream.write(np.int64(n_constituents).tobytes())
    (small.path / "meta.json").write_text(json.dumps(meta))
    code = (
        "import sys, resource, numpy as np; from jetnb.data import store; "
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = peak(); "
        "s = store.open(sys.argv[1]); jets = s.jets; jets[12345].pt; len(jets[5:9].constituents.pt[0]); "
        "print(len(jets), peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small.path)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    length, kilobytes = map(float, done.stdout.split())
    assert length == n_jets and kilobytes < 20_000


def test_gather(small):
    fields = ("pt", "eta", "pdg_id", "has_track", "charge", "d0")
    indices = np.array([99, 0, 5, 5, 42], np.int32)
    batch = small.gather(indices, fields)
    jets = small.jets
    assert batch.x.dtype == np.float32 and batch.offsets.dtype == np.int64
    assert batch.x.shape == (batch.offsets[-1], len(fields)) and len(batch.offsets) == 6
    for b, index in enumerate(indices):
        rows = batch.x[batch.offsets[b] : batch.offsets[b + 1]]
        for f, name in enumerate(fields):
            assert np.array_equal(
                rows[:, f], np.asarray(jets.constituents[name][int(index)], np.float32)
            )
    assert small.gather([1]).x.shape[1] == 4
    assert small.gather([], ("pt",)).x.shape == (0, 1)


def test_gather_small_integers(toy_jets, tmp_path):
    opened = store.write(tmp_path / "300", toy_jets(300, 2, mean=4))
    batch = opened.gather(np.array([255, 3], np.uint8))  # 255 + 1 does not fit a byte
    assert np.array_equal(batch.x[: batch.offsets[1], 0], opened.jets.constituents.pt[255])


def test_gather_from_damaged_offsets(small):
    """A wild offset must not become a read of memory that is not ours, nor one that comes after
    opening.
    """
    with (small.path / "offsets.npy").open("r+b") as stream:
        stream.seek(128 + 8 * 50)
        stream.write(np.int64(2**50).tobytes())
    for index in (49, 50):
        with pytest.raises(store.StoreError, match="offsets.npy has been changed or damaged"):
            small.gather([index])
    with pytest.raises(
        store.StoreError, match=r"offsets.npy runs from 0 to \d+, and falls at jet 51, but"
    ):
        store.open(small.path)


@pytest.mark.parametrize(
    "indices, message",
    [
        ([0, 100], "jet index 100 at position 1 is outside 0 to 99, the jets of .*small"),
        ([-1], "jet index -1 at position 0 is outside"),
        (np.array([1, 2**63], np.uint64), "jet index 9223372036854775808"),
        ([0.5], "flat array of integers, got float64"),
        (np.ones(100, bool), "np.flatnonzero"),
        ([[1, 2]], "flat array of integers"),
    ],
)
def test_gather_index_errors(small, indices, message):
    with pytest.raises(IndexError, match=message):
        small.gather(indices)


def test_gather_unknown_field(small):
    with pytest.raises(store.StoreError, match="no constituent field 'mass', only pt, eta"):
        small.gather([0], ("pt", "mass"))


def test_existing_is_kept_unless_told(blocks, small, toy_jets, tmp_path):
    with pytest.raises(
        store.StoreError, match="small: it exists; open it .* overwrite=True"
    ) as caught:
        store.write(small.path, blocks[:1])
    assert isinstance(caught.value, FileExistsError) and len(store.open(small.path)) == 100
    before = small.jets
    assert len(store.write(small.path, blocks[:1], overwrite=True)) == 60
    assert ak.sum(before.pt) > 0 and nothing_left(tmp_path)  # the old mapping is still good
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("...")
    with pytest.raises(
        store.StoreExistsError, match="is not a store: overwrite=True replaces only stores"
    ):
        store.write(tmp_path / "precious", blocks, overwrite=True)
    assert (tmp_path / "precious" / "thesis.tex").exists()
    with pytest.raises(store.StoreError, match="block 1"):  # a failed overwrite keeps the old store
        store.write(small.path, [blocks[0], blocks[1][["pt", "constituents"]]], overwrite=True)
    assert len(store.open(small.path)) == 60


def test_overwrite_where_folders_cannot_be_exchanged(blocks, small, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *a, **k: object())
    assert len(store.write(small.path, blocks[:1], overwrite=True)) == 60
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda jets: ak.with_field(jets, ak.values_astype(jets.pt, "float64"), "pt"),
            "block 1 from jet 0: pt is float64, but float32 in jetnb.names",
        ),
        (
            lambda jets: ak.with_field(jets, jets.pt, "softdrop_mass"),
            "of block 0 and block 1 only block 1 has jet_softdrop_mass; all blocks",
        ),
        (
            lambda jets: ak.without_field(jets, "tau4"),
            "of block 0 and block 1 only block 0 has jet_tau4",
        ),
        (
            lambda jets: ak.with_field(
                jets, ak.values_astype(jets.n_constituents + 1, "int16"), "n_constituents"
            ),
            "block 1 from jet 0: n_constituents: jet 0 has .*; it must equal the number of constituents",
        ),
        (
            lambda jets: ak.with_field(jets, jets.constituents[:, ::-1], "constituents"),
            "sort each jet by",
        ),
        (
            lambda jets: ak.with_field(jets, jets.pt * np.float32(np.nan), "mass"),
            "mass: jet 0 has nan",
        ),
        (
            lambda jets: ak.Array(
                jets, attrs={"jetnb": {**jets.attrs["jetnb"], "classes": ["QCD", "HToBB"]}}
            ),
            r"block 1 has classes \['QCD', 'HToBB'\], block 0 has",
        ),
    ],
)
def test_bad_blocks(blocks, tmp_path, change, message):
    with pytest.raises(store.StoreError, match=message):
        store.write(tmp_path / "bad", [blocks[0], change(blocks[1])])
    assert not os.listdir(tmp_path)


def test_failing_or_empty_reader(blocks, tmp_path):
    def reader():
        yield blocks[0]
        raise FileNotFoundError("no such file: input.h5")

    with pytest.raises(FileNotFoundError, match="input.h5"):
        store.write(tmp_path / "bad", reader())
    with pytest.raises(store.StoreError, match="there was no block of jets"):
        store.write(tmp_path / "bad", [])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda p: os.truncate(p / "jet_pt.npy", 300),
            "jet_pt.npy has 300 bytes instead of 528: .*truncated",
        ),
        (
            lambda p: (p / "offsets.npy").unlink(),
            "offsets.npy has 0 bytes instead of 936: it is missing",
        ),
        (lambda p: (p / "meta.json").unlink(), "there is no store at"),
        (
            lambda p: (p / "meta.json").write_text("{"),
            "does not describe a store .*write the store again",
        ),
        (lambda p: (p / "meta.json").write_text("[]"), "meta.json does not describe a store"),
        (
            lambda p: (p / "meta.json").write_bytes(b"\xff\xfe"),
            "meta.json does not describe a store",
        ),
        (lambda p: edit(p, format="other"), "does not describe a store"),
        (
            lambda p: edit(p, version=99),
            "schema version 99, this jetnb reads up to 1: update jetnb",
        ),
        (lambda p: edit(p, format=["jetnb store"]), "'format' is .*, not str"),
        (lambda p: edit(p, version=0), "does not describe a store"),
        (lambda p: edit(p, version=True), "'version' is True, not int"),
        (lambda p: edit(p, n_jets=99), "has 100 values, but there are 99 jets"),
        (lambda p: edit(p, n_jets="100"), "'n_jets' is '100', not int"),
        (lambda p: edit(p, n_jets=-1), "but there are -1 jets"),
        (lambda p: edit(p, n_constituents=10**30), "but there are 100 jets with 1000000000"),
        (
            lambda p: edit(p, n_constituents=0),
            "has [0-9]* values, but there are 100 jets with 0 constituents",
        ),
        (lambda p: edit(p, provenance={}), "do not say where they come from"),
        (
            lambda p: edit(p, provenance={"sample": "a", "source": "b", "classes": [["QCD"]]}),
            "does not describe a store",
        ),
        (lambda p: edit(p, columns={}), "it has no column 'offsets'"),
        (lambda p: edit(p, columns=[]), "'columns' is .*, not dict"),
        (
            lambda p: column(p, "jet_pt", length=99),
            "column 'jet_pt' has 99 values, but there are 100 jets",
        ),
        (lambda p: column(p, "jet_pt", length=100.0), "of column 'jet_pt' it says"),
        (lambda p: column(p, "jet_pt", dtype="|O8"), "column 'jet_pt' is of type '.O8'"),
        (
            lambda p: column(p, "offsets", dtype="<f8"),
            "column 'offsets' is of type '<f8', not '<i8'",
        ),
        (lambda p: column(p, "jet_pt", sha256=None), "of column 'jet_pt' it says"),
        (
            lambda p: edit(p, columns={**columns(p), "/etc/passwd": columns(p)["jet_pt"]}),
            "has the name '/etc/passwd'",
        ),
        (
            lambda p: edit(p, columns={**columns(p), "jet_../../a": columns(p)["jet_pt"]}),
            "has the name 'jet_../../a'",
        ),
        (
            lambda p: renamed(p, "constituent_energy", "constituent_e"),
            "it has no column 'constituent_energy'",
        ),
        (lambda p: linked(p / "jet_pt.npy"), "jet_pt.npy is not a plain file, perhaps a link"),
        (lambda p: linked(p / "meta.json"), "meta.json is not a plain file"),
        (lambda p: waiting(p / "jet_pt.npy"), "jet_pt.npy is not a plain file"),
        (lambda p: waiting(p / "meta.json"), "meta.json is not a plain file"),
        (
            lambda p: ((p / "jet_pt.npy").unlink(), (p / "jet_pt.npy").mkdir()),
            "jet_pt.npy is not a plain file",
        ),
        (lambda p: offset(p, 0, 1), "offsets.npy runs from 1 to"),
        (lambda p: offset(p, 0, -5), "offsets.npy runs from -5 to"),
        (lambda p: offset(p, 100, 7), "offsets.npy runs from 0 to 7, and falls at jet 100, but"),
        (lambda p: offset(p, 40, 2**60), "offsets.npy runs from 0 to .*, and falls at jet 41, but"),
    ],
)
def test_damage_seen_on_opening(small, damage, message):
    damage(small.path)
    with pytest.raises(store.StoreError, match=message):
        store.open(small.path)


def edit(path, **changes):
    meta = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(meta | changes))


def columns(path):
    return json.loads((path / "meta.json").read_text())["columns"]


def column(path, name, **changes):
    edit(path, columns=columns(path) | {name: columns(path)[name] | changes})


def renamed(path, name, other):
    edit(
        path, columns={other if key == name else key: about for key, about in columns(path).items()}
    )
    (path / f"{name}.npy").rename(path / f"{other}.npy")


def linked(file):
    file.rename(file.with_suffix(".moved"))
    file.symlink_to(file.with_suffix(".moved"))


def waiting(file):
    file.unlink()
    os.mkfifo(file)


def offset(path, jet, value):
    with (path / "offsets.npy").open("r+b") as stream:
        stream.seek(128 + 8 * jet)
        stream.write(np.int64(value).tobytes())


def test_lengths_are_compared_with_the_counts(small):
    """The values of another column, or more memory than there is, would else be taken for
    constituents.
    """
    short = columns(small.path)["constituent_pt"]["length"] - 60
    column(small.path, "constituent_pt", length=short)
    os.truncate(small.path / "constituent_pt.npy", 128 + 4 * short)
    with pytest.raises(
        store.StoreError,
        match=f"column 'constituent_pt' has {short} values, but there are 100 jets",
    ):
        store.open(small.path)


def test_what_may_not_be_read_is_said_by_name(small):
    def refuse(*args, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(PermissionError, match="[.]npy cannot be read .Perm"),
    ):
        patch.setattr(os, "open", refuse)
        store.open(small.path)
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(PermissionError, match="meta.json cannot be read .Perm"),
    ):
        patch.setattr(record._json, "read", refuse)
        store.open(small.path)


def test_no_store(tmp_path):
    with pytest.raises(store.StoreError, match="there is no store at .*nowhere"):
        store.open(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(store.StoreError, match="there is no store at"):
        store.open(tmp_path / "file")


@pytest.mark.parametrize("name, at", [("constituent_d0", 1000), ("jet_label", 20)])
def test_verify_sees_any_changed_byte(small, name, at):
    with (small.path / f"{name}.npy").open("r+b") as stream:
        stream.seek(at)
        byte = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte[0] ^ 1]))
    with pytest.raises(
        store.StoreError, match=f"{name}.npy has been changed or damaged: the sha256"
    ):
        store.open(small.path).verify()


def test_read_only_folder(blocks, tmp_path, monkeypatch):
    def refuse(path, *rest):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(atomic.os, "mkdir", refuse)  # the tests may run as root, whom no mode stops
    with pytest.raises(
        store.StoreError, match="ro: Permission denied .* folder that you may write to"
    ):
        store.write(tmp_path / "ro", blocks)


def test_parent_is_a_file(blocks, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(store.StoreError, match="cannot write .*choose"):
        store.write(tmp_path / "file" / "s", blocks)


WRITE_TOO_MUCH = (
    "import sys, signal; from conftest import make_toy_jets; from jetnb.data import store\n"
    "try: store.write(sys.argv[1], (make_toy_jets(2000, i) for i in range(20)))\n"
    "except store.StoreError as error: print(error)"
)


def test_file_size_limit(tmp_path):
    """A real failure of write(2), without a full disk."""
    done = subprocess.run(
        [sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path / "big")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
    )
    assert "File too large" in done.stdout and "a limit allows no larger files" in done.stdout, (
        done.stderr
    )
    assert not os.listdir(tmp_path)


def test_full_disk(tmp_path):
    if os.system(f"mount -t tmpfs -o size=1m tmpfs {tmp_path} 2>/dev/null"):
        pytest.skip("needs the right to mount a small file system")
    try:
        done = subprocess.run(
            [sys.executable, "-c", WRITE_TOO_MUCH, str(tmp_path / "big")],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "No space left on device" in done.stdout and "free some space" in done.stdout, (
            done.stderr
        )
        assert not os.listdir(tmp_path)
    finally:
        os.system(f"umount {tmp_path}")


def test_full_disk_at_the_last_moment(blocks, tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(store.StoreError, match="No space left on device .*free some space"):
        store.write(tmp_path / "full", blocks)
    assert not os.listdir(tmp_path)


SLOW_WRITER = (
    "import sys, time; from conftest import make_toy_jets; from jetnb.data import store\n"
    "def blocks():\n"
    "    yield make_toy_jets(100, 1)\n"
    "    print('half', flush=True); time.sleep(60)\n"
    "store.write(sys.argv[1], blocks())"
)


def test_killed_writer(blocks, tmp_path):
    path = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, str(path)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdout.readline() == "half\n"
        (partial,) = tmp_path.glob(".killed.*.partial")
        with pytest.raises(store.StoreError, match="there is no store at"):
            store.open(path)
        with pytest.raises(store.StoreError, match="there is no store at"):
            store.open(partial)
        assert (
            len(store.write(path, blocks[:1])) == 60
        )  # a second writer wins, and leaves the first alone
        assert partial.exists()
        writer.send_signal(signal.SIGKILL)
    assert partial.exists()
    store.write(path, blocks, overwrite=True).verify()
    assert nothing_left(tmp_path)  # what the killed writer left has been cleaned up


def race(path, number, start, results):
    from conftest import make_toy_jets

    block = make_toy_jets(50, 0)
    start.wait()
    try:
        results.put((number, len(store.write(path, [block] * 3))))
    except store.StoreExistsError as error:
        results.put((number, str(error)))


def test_two_writers_at_once(tmp_path):
    context = multiprocessing.get_context(
        "spawn"
    )  # the tests before have left threads, which do not survive a fork
    start, results = context.Barrier(4), context.Queue()
    writers = [
        context.Process(target=race, args=(tmp_path / "race", i, start, results)) for i in range(4)
    ]
    for writer in writers:
        writer.start()
    outcome = [results.get(timeout=180)[1] for _ in writers]
    for writer in writers:
        writer.join(60)
    assert outcome.count(150) == 1, outcome
    assert all("open it with jetnb.data.store.open" in text for text in outcome if text != 150)
    store.open(tmp_path / "race").verify()
    assert nothing_left(tmp_path)


def test_second_to_finish_gets_an_error(blocks, tmp_path):
    def slow():
        yield blocks[0]
        store.write(tmp_path / "s", blocks[1])

    with pytest.raises(store.StoreExistsError, match="another process has just made it"):
        store.write(tmp_path / "s", slow())
    assert len(store.open(tmp_path / "s")) == 7 and nothing_left(tmp_path)


def test_writing_takes_the_memory_of_one_block(tmp_path):
    code = (
        "import sys, resource; from conftest import make_toy_jets; from jetnb.data import store\n"
        "block = make_toy_jets(2000, 1)\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "store.write(sys.argv[1] + '1', [block] * 2); before = peak()\n"
        "store.write(sys.argv[1], [block] * 80); print(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "long")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    size = sum(file.stat().st_size for file in (tmp_path / "long").iterdir())
    assert size > 200e6 and float(done.stdout) * 1024 < 0.1 * size


def test_throughput_is_not_absurd(toy_jets, tmp_path):
    """Guards against an accidental Python loop per jet; the real figures come from
    tests/benchmarks.
    """
    jets = toy_jets(5000)
    start = time.perf_counter()
    opened = store.write(tmp_path / "fast", jets)
    opened.gather(np.arange(10))
    written = time.perf_counter() - start
    start = time.perf_counter()
    for _ in range(20):
        opened.gather(np.random.default_rng(0).integers(0, 5000, 512))
    assert time.perf_counter() - start < 1 and written < 20
