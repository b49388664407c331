"""The catalogue: samples by name, converted once; clear words where there is none."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
import os
import re
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

import jetnb
import jetnb.jets
from jetnb.__main__ import main
from jetnb.data import catalogue, drawing, store
from jetnb.readers import aspen, parquet


@pytest.fixture
def data(toy_jets, tmp_path, monkeypatch):
    """A data folder with two shipped samples of toys and their checksums."""
    folder = tmp_path / "data"
    monkeypatch.setattr(catalogue, "DATA", folder)
    monkeypatch.delenv("JETNB_DERIVED", raising=False)
    lines = ""
    for name, n_jets in (("aoj", 50), ("pileup", 20)):
        path = parquet.write(folder / f"{name}.parquet", toy_jets(n_jets, n_jets))
        lines += f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}.parquet\n"
    (folder / "SHA256SUMS").write_text(lines + "0" * 64 + "  checkpoints/other.pt\n")
    return folder


def test_samples_say_what_they_are():
    assert list(catalogue.SAMPLES) == [
        "aoj",
        "aoj_all",
        "signals",
        "jetclass",
        "toptagging",
        "hh4b",
        "pileup",
        "resimulation",
    ]
    for name, sample in catalogue.SAMPLES.items():
        assert (
            sample.name == name and sample.file.name == f"{name}.parquet" and sample.n_jets >= 500
        )
        assert sample.licence == "CC-BY-4.0" and sample.citation and sample.imitates
        assert "simulated" in sample.description


def test_load_converts_once(data, monkeypatch):
    jets = jetnb.load("aoj")
    assert len(jets) == 50 and "toy (simulation): 50 jets" in jetnb.describe(jets)
    (made,) = (data / "derived" / "stores").iterdir()
    assert (
        made.name == "aoj-" + hashlib.sha256((data / "aoj.parquet").read_bytes()).hexdigest()[:12]
    )
    monkeypatch.setattr(store, "write", None)  # the second time nothing is written
    assert ak.array_equal(jetnb.load("aoj", n_jets=7), jets[:7])
    assert len(jetnb.open_store("aoj")) == 50


def test_a_changed_file_makes_another_store(data, toy_jets):
    jetnb.load("aoj")
    parquet.write(data / "aoj.parquet", toy_jets(30, 9), overwrite=True)
    assert len(jetnb.load("aoj")) == 30
    assert len(list((data / "derived" / "stores").iterdir())) == 2


def test_derived_folder_can_be_elsewhere(data, tmp_path, monkeypatch):
    monkeypatch.setenv("JETNB_DERIVED", str(tmp_path / "scratch"))
    jetnb.load("pileup")
    assert (
        list((tmp_path / "scratch" / "stores").glob("pileup-*")) and not (data / "derived").exists()
    )


def test_load_by_path(data, toy_jets, tmp_path):
    store.write(tmp_path / "mine", toy_jets(12, 4))
    parquet.write(tmp_path / "mine.parquet", toy_jets(11, 4))
    assert len(jetnb.load(tmp_path / "mine")) == 12
    assert len(jetnb.load(str(tmp_path / "mine.parquet"), n_jets=5)) == 5
    assert list((data / "derived" / "stores").glob("mine-*"))


def test_load_errors(data, tmp_path):
    with pytest.raises(
        ValueError, match="'jetclas' is neither a sample nor a file: did you mean 'jetclass'"
    ):
        jetnb.load("jetclas")
    with pytest.raises(
        ValueError,
        match=r"nor a file\. The samples are aoj, .*, and there is no "
        + re.escape(str(tmp_path / "nowhere")),
    ):
        jetnb.load(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError,
        match="jetclass.parquet is missing: .*"
        "`python -m jetnb simulate jetclass --jets 20000 --seed 1 --out .*jetclass.parquet`",
    ):
        jetnb.load("jetclass")
    with pytest.raises(ValueError, match="aoj has 50 jets, n_jets=51 was asked for"):
        jetnb.load("aoj", n_jets=51)
    with pytest.raises(ValueError, match="n_jets=0 was asked for"):
        jetnb.load("aoj", n_jets=0)
    with pytest.raises(FileNotFoundError, match="there is no file .*x.root"):
        jetnb.load("hh4b", tmp_path / "x.root")
    with pytest.raises(
        ValueError, match="'jetclas' is no published dataset: did you mean 'jetclass'"
    ):
        jetnb.load("jetclas", tmp_path / "x.root")
    with pytest.raises(store.StoreError, match="there is no store at"):
        jetnb.load(data)
    (tmp_path / "x.root").write_text("<html>")
    with pytest.raises(
        ValueError, match="x.root is no file of a dataset that jetnb reads: it is a web page"
    ):
        jetnb.load(tmp_path / "x.root")
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(ValueError, match="x.parquet is no file of .*it starts with b'no'"):
        jetnb.load(tmp_path / "x.parquet")


def test_files_of_a_published_dataset(tmp_path):
    shipped = jetnb.load("aoj", n_jets=60)
    files = [
        aspen.write(tmp_path / f"batch{i}.h5", shipped[30 * i : 30 * i + 30]) for i in range(2)
    ]
    jets = jetnb.load("aoj", files, n_jets=40)
    assert len(jets) == 40 and "aspen" in jets.attrs["jetnb"]["sample"]
    assert len(jetnb.load("aoj", files[0])) == 30
    assert len(jetnb.load(files[0], n_jets=7)) == 7  # known by its content
    with pytest.raises(ValueError, match=": 60 jets, fewer than the 61 asked for: name more files"):
        jetnb.load("aoj", files, n_jets=61)
    made = catalogue.convert(files, tmp_path / "store")
    assert len(made) == 60 and ak.array_equal(made.jets[:40].pt, jets.pt)
    files[1].write_bytes(files[1].read_bytes()[:5000])
    with pytest.raises(ValueError, match="batch1.h5"):
        catalogue.convert(files, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A store of 2000 jets, four in each event, in the order of top-tagging files: ten of one class
    after the other.
    """
    jets = jetnb.load("jetclass", n_jets=2000)
    folder = tmp_path_factory.mktemp("runs")
    jets["label"] = (np.arange(2000) // 10 % 2).astype(np.int16)
    jets["event"] = np.arange(2000) // 4 + 10**9
    columns, inside, counts = jetnb.jets.to_columns(jets)
    about = {key: value for key, value in jetnb.jets.provenance(jets).items() if key != "part"}
    return store.write(
        folder / "store", jetnb.jets.build(columns, inside, counts, provenance=about)
    ).path


def rows(jets):
    """What tells one jet from another."""
    return list(zip(jets.event.to_list(), jets.pt.to_list(), strict=True))


@pytest.mark.parametrize("few", [2_000, 10])
@pytest.mark.parametrize("as_file", [True, False])
def test_a_seed_draws_over_the_whole_length(runs, as_file, few, monkeypatch):
    monkeypatch.setattr(drawing, "FEW", few)
    load = functools.partial(
        jetnb.load, *(("aoj", [runs, runs]) if as_file else (runs,))
    )  # a store is a source, too
    whole = jetnb.load(runs)
    first = load(n_jets=40)
    assert rows(first) == rows(whole[:40]) and np.mean(first.label) == 0.5
    assert "the first 40" in jetnb.describe(first)
    assert (
        rows(load(n_jets=100, seed=1))
        == rows(load(n_jets=100, seed=1))
        != rows(load(n_jets=100, seed=2))
    )
    drawn = load(n_jets=400, seed=1)
    assert "drawn at random, seed 1" in jetnb.describe(drawn)
    assert set(rows(drawn)) <= set(rows(whole)) and (as_file or len(set(rows(drawn))) == 400)
    place = np.sort(ak.to_numpy(drawn.event)) - 10**9
    assert place[0] < 50 and place[-1] >= 450 and abs(place.mean() - 250) < 40, "from end to end"
    assert np.abs(np.corrcoef(drawn.event, np.arange(400))[0, 1]) < 0.2, "in no order"
    assert abs(np.mean(drawn.label) - 0.5) < 0.1


def test_events_are_drawn_whole_and_equally_often(runs):
    counts = np.zeros(500)
    for seed in range(40):
        drawn = catalogue.load("aoj", runs, n_jets=400, seed=seed)
        event = ak.to_numpy(drawn.event)
        _, starts, sizes = np.unique(event, return_index=True, return_counts=True)
        assert np.mean(sizes == 4) > 0.95 and np.count_nonzero(np.diff(event)) == len(starts) - 1, (
            "not torn"
        )
        counts += np.bincount(event - 10**9, minlength=500) / 4
    assert (
        abs(counts.mean() - 8) < 1e-9 and counts.max() < 22 and (counts == 0).sum() < 5
    )  # 40 times 100 of 500


def test_a_part_that_was_drawn_can_be_split_with_the_same_seed(runs):
    parts = jetnb.jets.split(catalogue.load("aoj", runs, n_jets=400, seed=5), seed=5)
    assert all(40 < len(part) < 320 for part in parts)


@pytest.mark.parametrize("jets_in_a_row", [1, 4])
def test_few_jets_of_a_long_file_come_from_many_places_and_little_is_read(
    runs, monkeypatch, jets_in_a_row
):
    """Rows are jets, or events of four; the blocks that are read are short, many, and hold four
    times what is drawn.
    """
    read, real = [], catalogue.Source.blocks
    whole = catalogue.Source(runs, "", 2000 // jets_in_a_row)

    def counted(self, start=0, stop=None, **options):
        stop = min(stop, self.n_rows)
        read.append((start, stop))
        return real(
            self._replace(n_rows=2000), jets_in_a_row * start, jets_in_a_row * stop, **options
        )

    monkeypatch.setattr(drawing, "FEW", 100)
    monkeypatch.setattr(catalogue.Source, "blocks", counted)
    drawn = drawing.drawn([whole], [runs], 32, 3)
    n_read = sum(stop - start for start, stop in read)
    assert len(read) >= 25 and 100 <= n_read * jets_in_a_row <= 150
    assert len({row for start, stop in read for row in range(start, stop)}) == n_read, "none twice"
    assert len(drawn) == 32 and len(set((ak.to_numpy(drawn.event) - 10**9) // 25)) > 4, (
        "of 20 parts of the file"
    )
    said = f"from {n_read * jets_in_a_row} jets of {len(read)} blocks of rows, of {whole.n_rows:,} rows in 1 file"
    assert jetnb.jets.provenance(drawn)["part"].endswith(said)


def test_rows_that_were_passed_over_are_read_when_jets_are_few_and_together(runs, monkeypatch):
    """Thirty jets in the first block that is drawn, two at the end of the next, none elsewhere: all
    32 are found.
    """
    order, jets, where = [], jetnb.load(runs), {}

    def blocks(self, start=0, stop=None, **options):
        order.append(start)
        yield jets[[i for row in range(start, stop) for i in where.get(row, ())]]

    monkeypatch.setattr(drawing, "FEW", 10)
    monkeypatch.setattr(catalogue.Source, "blocks", blocks)
    with pytest.raises(ValueError, match="none of 300 rows holds a jet that can be used"):
        drawing.drawn([catalogue.Source(runs, "", 300)], [runs], 32, 1)
    where.update({order[0]: range(30), order[1] + 3: range(30, 32)})
    drawn = drawing.drawn([catalogue.Source(runs, "", 300)], [runs], 32, 1)
    assert sorted(rows(drawn)) == sorted(rows(jets[:32]))


def test_all_of_a_file_drawn_is_all_of_it_and_more_is_refused(runs):
    whole, drawn = jetnb.load(runs), catalogue.load("aoj", runs, n_jets=2000, seed=1)
    assert sorted(rows(drawn)) == sorted(rows(whole)) and rows(drawn) != rows(whole)
    with pytest.raises(
        ValueError, match=": 2000 jets, fewer than the 2001 asked for: name more files"
    ):
        catalogue.load("aoj", runs, n_jets=2001, seed=1)
    with pytest.raises(ValueError, match="seed=1 draws n_jets at random, but n_jets was not given"):
        jetnb.load(runs, seed=1)
    with pytest.raises(ValueError, match="files is an empty list"):
        jetnb.load("aoj", [])
    assert "part" not in jetnb.jets.provenance(
        jetnb.load(runs)
    ) and "part" not in jetnb.jets.provenance(jetnb.load(runs, n_jets=2000))


def test_one_class_a_file_is_mixed_by_a_seed_and_said_without(tmp_path):
    jets = jetnb.load("aoj", n_jets=60)
    files = [aspen.write(tmp_path / f"{i}.h5", jets[30 * i : 30 * i + 30]) for i in range(2)]
    first = jetnb.load("aoj", files, n_jets=20)
    assert (
        "the first 20 jets of 2 files, of which 1 was opened; seed=1 in load draws"
        in jetnb.describe(first)
    )
    assert "the first 20 jets of 30 rows of 0.h5; seed" in jetnb.describe(
        jetnb.load(files[0], n_jets=20)
    )
    drawn = jetnb.load("aoj", files, n_jets=20, seed=1)
    both = [set(jetnb.load(file).pt.to_list()) for file in files]
    assert all(4 < len(one & set(drawn.pt.to_list())) < 16 for one in both)
    assert "part" not in jetnb.jets.provenance(jetnb.load("aoj", files, n_jets=60))


def test_convert_from_the_command_line(tmp_path, capsys):
    file = aspen.write(tmp_path / "batch.h5", jetnb.load("aoj", n_jets=30))
    assert main(["data", "convert", str(file), "--out", str(tmp_path / "store")]) == 0
    assert "30 jets in" in capsys.readouterr().out
    assert (
        main(
            [
                "data",
                "convert",
                "--dataset",
                "toptagging",
                str(file),
                "--out",
                str(tmp_path / "other"),
            ]
        )
        == 2
    )
    assert "batch.h5" in capsys.readouterr().err and not (tmp_path / "other").exists()


def convert(folder, start, results):
    catalogue.DATA = folder
    start.wait()
    results.put(len(catalogue.load("aoj")))


def test_notebooks_that_start_together(data):
    """Several processes that load a fresh sample at once all get it."""
    context = multiprocessing.get_context(
        "spawn"
    )  # the tests before have left threads, which do not survive a fork
    start, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=convert, args=(data, start, results)) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=180) for _ in processes] == [50] * 4
    for process in processes:
        process.join(60)
    assert len(list((data / "derived" / "stores").iterdir())) == 1


def test_verify_shipped(data):
    assert catalogue.verify_shipped() == ["aoj.parquet", "pileup.parquet"]
    (data / "extra.parquet").write_text("x")
    with pytest.raises(ValueError, match="extra.parquet is not in .*SHA256SUMS: remove it, or add"):
        catalogue.verify_shipped()
    (data / "extra.parquet").unlink()
    with (data / "pileup.parquet").open("r+b") as stream:
        stream.write(b"X")
    with pytest.raises(
        ValueError, match="pileup.parquet has sha256 .* changed or damaged; fetch it again"
    ):
        catalogue.verify_shipped()
    (data / "aoj.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="aoj.parquet is missing: fetch it"):
        catalogue.verify_shipped()
    (data / "SHA256SUMS").unlink()
    with pytest.raises(FileNotFoundError, match="SHA256SUMS is missing"):
        catalogue.verify_shipped()


def test_what_is_no_plain_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for path, what in (
        (tmp_path / "fifo", "a FIFO|a pipe"),
        (tmp_path / "folder", "a folder"),
        (Path("/dev/zero"), "a device"),
    ):
        for use in (
            catalogue.open_store,
            catalogue.load,
            lambda path: catalogue.load("aoj", path),
            lambda path: catalogue.convert(path, tmp_path / "store"),
        ):
            with pytest.raises(ValueError, match=f"{path}.*({what})"):
                use(path)
        report = jetnb.check(path)
        assert not report.ok and str(path) in str(report)
    assert not (tmp_path / "store").exists()


def test_every_shipped_checkpoint_is_among_the_checksums():
    listed = {line.split()[1] for line in (catalogue.DATA / "SHA256SUMS").read_text().splitlines()}
    found = {
        path.relative_to(catalogue.DATA).as_posix()
        for path in catalogue.DATA.glob("checkpoints/**/*.safetensors")
    }
    assert len(found) > 7 and found <= listed


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda jets: relabelled(jets, classes=["QCD", "HToBB"]), "different classes.*HToBB"),
        (lambda jets: relabelled(jets, source="simulation"), "different source.*simulation"),
        (lambda jets: ak.without_field(jets, "tau1"), "different fields"),
    ],
)
def test_files_of_different_kinds_are_not_joined(toy_jets, change, words):
    one = relabelled(toy_jets(5), source="open data")
    assert len(drawing._joined([one, one])) == 10
    with pytest.raises(ValueError, match=words + ".*load them one by one"):
        drawing._joined([one, change(one)])


def test_a_store_has_one_source(toy_jets, tmp_path):
    data, simulated = (relabelled(toy_jets(5), source=of) for of in ("open data", "simulation"))
    with pytest.raises(
        store.StoreError, match="block 1 has source 'simulation', block 0 has 'open d"
    ):
        store.write(tmp_path / "both", [data, simulated])
    assert not (tmp_path / "both").exists()
    about = jetnb.jets.provenance(simulated)
    assert len(store.write(tmp_path / "both", [data, simulated], provenance=about)) == 10


def relabelled(jets, **about):
    return ak.Array(jets, attrs={"jetnb": {**jetnb.jets.provenance(jets), **about}})
