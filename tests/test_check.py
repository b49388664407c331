"""Which format a file has, and the report on it: what is good, what is odd, and what must be
refused.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from test_reader_pfnano import write_by_hand

import jetnb
import jetnb.jets
from jetnb.__main__ import main
from jetnb.data import report as reporting
from jetnb.data import store
from jetnb.data.catalogue import Source
from jetnb.readers import aspen, parquet
from jetnb.readers.identify import identify

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"


def change(path, **changes):
    """Change datasets of an HDF5 file: name -> function from array to array."""
    with h5py.File(path, "r+") as file:
        for name, work in changes.items():
            file[name][:] = work(file[name][:])
    return path


@pytest.fixture
def good(tmp_path):
    """A file in the layout of Aspen Open Jets with 400 jets, made of the shipped ones."""
    return aspen.write(tmp_path / "good.h5", jetnb.load("aoj", n_jets=400))


def levels(report, word):
    return [finding.level for finding in report.findings if word in finding.what]


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("JetClassII_example.parquet", "jetclass"),
        ("PHYSLITE_example.root", "physlite"),
        ("aoj_layout_21_cms_mc_jets.h5", "aspen"),
        ("toptagging_500_blosc.h5", "toptagging"),
    ],
)
def test_real_files_are_known_and_good(name, format):
    if not (REAL / name).exists():
        pytest.skip(f"{name} is not here")
    assert identify(REAL / name) == format
    report = jetnb.check(REAL / name)
    assert report.ok and report.format == format and report.n_jets > 20, report


def test_a_good_file_and_its_store(good, tmp_path):
    report = jetnb.check(good)
    assert report.ok and report.n_jets == 400 and report.format == "aspen"
    text = str(report)
    assert "400 jets; can be used" in text and "GeV" in text and "constituents sum to" in text
    made = store.write(tmp_path / "store", aspen.read(good))
    again = jetnb.check(made.path)
    assert again.ok and again.format == "store of jetnb" and again.n_jets == 400
    assert jetnb.check(good, stop=100).n_jets == 100


def test_a_changed_store_is_noticed(good, tmp_path):
    made = store.write(tmp_path / "store", aspen.read(good))
    column = made.path / "constituent_d0.npy"
    data = bytearray(column.read_bytes())
    data[-1] ^= 1
    column.write_bytes(data)
    report = jetnb.check(made.path)
    assert not report.ok and "constituent_d0.npy has been changed or damaged" in str(report)


def test_a_jet_that_is_there_twice(good):
    change(good, **{name: lambda v: np.concatenate([v[:-5], v[:5]]) for name in aspen.LAYOUT})
    report = jetnb.check(good)
    assert not report.ok and levels(report, "5 jets are there more than once") == ["PROBLEM"]


def test_mev_and_a_foreign_selection(good):
    report = jetnb.check(change(good, jet_kinematics=lambda v: v * np.float32([1000, 1, 1, 1000])))
    assert (
        not report.ok and levels(report, "pt: ")[0] == "PROBLEM" and "looks like MeV" in str(report)
    )
    change(good, event_info=lambda v: v + [280_000, 0, 0])  # run 1 is simulation, of any selection
    report = jetnb.check(
        change(good, jet_kinematics=lambda v: v * np.float32([0.0005, 1, 1, 0.001]))
    )
    assert not report.ok and "outside of the selection of the dataset" in str(report)


def test_constituents_that_are_not_those_of_the_jet(good):
    report = jetnb.check(change(good, PFCands=lambda v: v * np.float32([0.5] * 4 + [1] * 7)))
    assert not report.ok and levels(report, "constituents sum to 0.5") == ["PROBLEM"]


def test_lengths_in_another_unit(good):
    def in_micrometres(cands):
        track = cands[:, :, 5:6] > 0
        cands[:, :, 4:8] = np.where(track, cands[:, :, 4:8] * 1e4, cands[:, :, 4:8])
        return cands

    report = jetnb.check(change(good, PFCands=in_micrometres))
    assert not report.ok and "this looks like another unit" in str(report)


def test_values_that_are_not_finite_and_jets_out_of_order(good):
    def spoil(cands):
        cands[3, 0, 4] = np.inf
        cands[5, 1, 0] = np.nan
        cands[7, :2] = cands[7, 1::-1]
        return cands

    report = jetnb.check(change(good, PFCands=spoil))
    assert report.ok, "few such values are harmless, and said"
    for word in ("1 tracks not used", "1 constituents left out", "1 jets not by falling pt"):
        assert levels(report, word) == ["note"], (word, str(report))


def test_many_bad_jets_are_a_problem(good):
    report = jetnb.check(
        change(good, jet_kinematics=lambda v: np.where(np.arange(len(v))[:, None] < 40, np.nan, v))
    )
    assert not report.ok and levels(report, "40 jets left out") == ["PROBLEM"]


def test_sentinels_truncation_and_empty_jets(tmp_path):
    long = np.zeros((300, 150, 11), np.float32)
    long[:, :, [0, 3]] = (400 / 150) * np.linspace(1.3, 0.7, 150)[:, None]
    long[:, :, 4:8] = -1
    long[:, :, 9], long[:, :, 10] = 22, 1
    long[:2] = 0  # without constituents
    good = aspen.write(tmp_path / "a.h5", jetnb.load("aoj", n_jets=300))

    def no_softdrop(kinematics):
        kinematics[:, 0] = 400
        kinematics[:30, 3] = -1
        return kinematics

    report = jetnb.check(change(good, PFCands=lambda _: long, jet_kinematics=no_softdrop))
    text = str(report)
    assert (
        "exactly 150 constituents" in text and "softdrop_mass is -1 for 10.00% of the jets" in text
    )
    assert levels(report, "0.67% of the jets have no constituent") == ["note"]


def test_labels_that_are_very_unlike_in_number(tmp_path):
    jets = jetnb.load("jetclass")
    few = ak.concatenate([jets[jets.label == 0], jets[jets.label == 8][:3]])
    path = parquet.write(tmp_path / "a.parquet", ak.Array(few, attrs=jets.attrs))
    report = jetnb.check(path)
    assert report.ok and levels(report, "classes: QCD 2,000, TTBar 3") == ["note"], str(report)


def refused(path, *words):
    """The message with which `path` is refused, the same in all ways to it."""
    with pytest.raises(ValueError) as caught:
        jetnb.load(path)
    report = jetnb.check(path)
    assert not report.ok and report.n_jets == 0 and str(caught.value) in str(report)
    for word in (Path(path).name, *words):
        assert word in str(caught.value), caught.value


def test_plain_nanoaod_is_refused():
    path = REAL / "nanoAOD_2015_CMS_Open_Data_ttbar.root"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    refused(path, "NanoAOD", "PFNano")


def test_what_is_no_dataset_is_refused_and_named(tmp_path):
    for name, content, words in (
        ("a.h5", b"<!DOCTYPE html><html>404 Not Found</html>", "web page"),
        ("b.root", b"", "empty"),
        ("c.h5", b"\x1f\x8b" + bytes(50), "gzip"),
        ("f.csv", b"pt,eta\n1,2\n", "neither HDF5, ROOT"),
        ("d.h5", b"version https://git-lfs.github.com/spec/v1", "git lfs"),
        ("g.npy", b"\x93NUMPY\x01\x00", "single array"),
        ("h.pkl", b"\x80\x04\x95", "pickle"),
        ("i.root", b"\xfd7zXZ\x00", "unxz"),
        ("j.zip", b"PK\x05\x06", "empty zip"),
        ("e.tar", bytes(257) + b"ustar" + bytes(250), "tar -xf"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, words)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["weights"] = np.zeros((3, 2))
    refused(tmp_path / "other.h5", "of no dataset", "weights (3, 2)")
    with uproot.recreate(tmp_path / "histograms.root") as file:
        file["h"] = np.histogram([1, 2, 3])
        file["deeper/p"] = np.histogram([1, 2, 3])
    refused(tmp_path / "histograms.root", "of no dataset", "histograms alone, h")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "other.parquet")
    refused(tmp_path / "other.parquet", "of no dataset", "columns x")
    report = jetnb.check(tmp_path / "nowhere.h5")
    assert not report.ok and "there is no file" in str(report) and "nowhere.h5" in str(report)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="there is no store at"):
        jetnb.load(tmp_path / "folder")
    assert not jetnb.check(tmp_path / "folder").ok


def hdf5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return path


def test_one_name_alone_makes_no_file_that_of_a_format(tmp_path):
    """Each of these has a name of a known format by chance: what is there is listed, and no format
    is named.
    """
    for name in ("PFCands", "particle_features", "X_pfo", "fj_pt", "jets", "data"):
        path = hdf5(tmp_path / f"{name}.h5", **{name: np.zeros((3, 2)), "mine": np.zeros(4)})
        refused(path, "of no dataset", f"{name} (3, 2)", "mine (4,)")
    for tree, branches in (
        ("tree", ("part_px", "x")),
        ("Events", ("FatJet_pt", "x")),
        ("CollectionTree", ("x", "y")),
    ):
        path = tmp_path / f"{tree}.root"
        with uproot.recreate(path) as file:
            file.mktree(tree, dict.fromkeys(branches, "f4")).extend(
                {name: np.zeros(7, "f4") for name in branches}
            )
        refused(path, "of no dataset", f"{tree} (7 rows: {', '.join(branches)})")
    pq.write_table(pa.table({"part_px": [1.0], "x": [1]}), tmp_path / "one.parquet")
    refused(tmp_path / "one.parquet", "of no dataset", "columns part_px, x")


def test_known_layouts_that_are_not_read_are_named(tmp_path):
    names = (
        "jetConstituentList",
        "jetFeatureNames",
        "jetImage",
        "jetImageECAL",
        "jetImageHCAL",
        "jets",
        "particleFeatureNames",
    )
    refused(
        hdf5(tmp_path / "jetImage_7_150p_0_10000.h5", **{name: np.zeros((2, 3)) for name in names}),
        "hls4ml",
    )
    with uproot.recreate(tmp_path / "delphes.root") as file:
        file["ProcessID0"] = np.histogram([1, 2])
        branches = ("Event", "Particle", "Track", "Tower", "Jet")
        file.mktree("Delphes", dict.fromkeys(branches, "f4")).extend(
            {name: np.zeros(2, "f4") for name in branches}
        )
    refused(tmp_path / "delphes.root", "events of Delphes", "Particle")
    np.savez(tmp_path / "mine.npz", weights=np.zeros(3), bias=np.zeros(1))
    refused(tmp_path / "mine.npz", "NumPy archive", "arrays weights, bias")
    np.savez(tmp_path / "qg.npz", X=np.zeros((3, 2)), y=np.zeros(3))
    refused(tmp_path / "qg.npz", "array 'X' is float64 of shape (3, 2)", "EnergyFlow")
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("a.root", b"root")
    refused(tmp_path / "more.zip", "zip archive of a.root", "unzip")
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", "torch.save", "load_public")


def test_the_key_of_a_table_of_pandas_is_looked_into(tmp_path):
    def table(*shapes):
        kinds = [
            ("index", "i8"),
            *((f"values_block_{i}", kind, shape) for i, (kind, shape) in enumerate(shapes)),
        ]
        return np.zeros(2, kinds)

    refused(
        hdf5(tmp_path / "key.h5", df__table=table(("f4", (804,)), ("i8", (2,)))),
        "key 'df'",
        "key='table'",
        "Top Quark Tagging Reference",
    )
    refused(
        hdf5(tmp_path / "other.h5", df__table=table(("f8", (5,)))),
        "key 'df'",
        "values_block_0 float64 (5,)",
        "of no dataset",
    )
    refused(
        hdf5(
            tmp_path / "fixed.h5",
            data__axis0=np.zeros(806, "S5"),
            data__axis1=np.zeros(9),
            data__block0_values=np.zeros((9, 804)),
        ),
        "key 'data'",
        "block0_values (9, 804)",
    )
    refused(
        hdf5(tmp_path / "table.h5", table__table=table(("f8", (5,)))),
        "values_block_0",
        "Top Quark Tagging",
    )
    refused(hdf5(tmp_path / "none.h5", table=np.zeros(3)), "of no dataset", "table (3,)")


def test_folders_addresses_and_patterns(good, tmp_path):
    refused(
        tmp_path,
        "there is no store at",
        "folder of data files (good.h5)",
        f"jetnb data convert {tmp_path}/*.h5",
    )
    refused(tmp_path / "*.h5", "is a pattern", "fits 1 files", "sorted(glob.glob(")
    refused(tmp_path / "*.root", "is a pattern", "fits 0 files")
    for address in (
        "https://zenodo.org/records/2603256/files/train.h5",
        "root://eospublic.cern.ch//eos/a.root",
        "s3://bucket/c.h5",
    ):
        refused(
            address,
            "is an address",
            "xrdcp" if address.startswith("root") else "jetnb data download",
        )
        with pytest.raises(ValueError, match="is an address"):
            identify(address)
        with pytest.raises(ValueError, match="is an address"):
            jetnb.load("toptagging", address)
    odd = tmp_path / "run[1].h5"
    odd.write_bytes(good.read_bytes())
    assert jetnb.check(odd).ok, "a file may have such a name"


def test_a_file_without_rows_says_so(good):
    change_length(good, 0)
    with pytest.raises(ValueError, match="good.h5: there are no rows, so no jets"):
        jetnb.load(good)
    with pytest.raises(ValueError, match="good.h5: there are no rows, so no jets"):
        jetnb.load(good, n_jets=3, seed=1)
    report = jetnb.check(good)
    assert not report.ok and "there are no jets (0 of 0 rows read)" in str(report)


def change_length(path, n):
    with h5py.File(path, "r+") as file:
        for name in list(file):
            values = file[name][:n]
            del file[name]
            file[name] = values


def test_a_file_of_a_known_dataset_that_lacks_a_part_says_which(good, tmp_path):
    with h5py.File(good, "r+") as file:
        del file["jet_tagging"]
    refused(good, "no dataset 'jet_tagging'")
    with uproot.recreate(tmp_path / "part.root") as file:
        both = ("part_px", "part_pz")
        file.mktree("tree", dict.fromkeys(both, "var * float32")).extend(
            dict.fromkeys(both, ak.Array([[1.0]]))
        )
    refused(tmp_path / "part.root", "no column part_py")


def test_a_truncated_download_is_refused(good):
    whole = good.read_bytes()
    for share in (0.05, 0.5, 0.98):
        good.write_bytes(whole[: int(share * len(whole))])
        refused(good, "truncated")


def test_swapped_columns_are_refused_or_reported(good):
    whole = good.read_bytes()
    orders = {
        "energy first": [3, 0, 1, 2, *range(4, 11)],
        "pdgId and charge": [*range(8), 9, 8, 10],
        "errors last": [0, 1, 2, 3, 4, 6, 5, 7, 8, 9, 10],
        "pz and px": [2, 1, 0, *range(3, 11)],
    }
    for name, order in orders.items():
        good.write_bytes(whole)
        report = jetnb.check(change(good, PFCands=lambda v, order=order: v[:, :, order]))
        assert not report.ok, (name, str(report))


def test_the_command_line(good, tmp_path, capsys):
    assert main(["data", "check", str(good)]) == 0
    assert "can be used" in capsys.readouterr().out
    good.write_bytes(good.read_bytes()[:2000])
    assert main(["data", "check", str(good)]) == 1
    assert "truncated" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 1
    assert f"there is no file {tmp_path / 'nowhere'}" in capsys.readouterr().out
    assert main(["data", "list"]) == 0 and main(["data", "info", "jetnet"]) == 0
    assert "arXiv:2106.11535" in capsys.readouterr().out
    assert main(["data", "download", "aoj", "--into", str(tmp_path)]) == 2
    assert "say which files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [
        (
            ModuleNotFoundError("jets must be clustered, which needs FastJet: pip install fastjet"),
            "NOT READ",
            "FastJet",
        ),
        (
            MemoryError("Unable to allocate 80 GiB"),
            "NOT READ",
            "not enough memory (Unable to allocate 80 GiB)",
        ),
        (PermissionError(13, "Permission denied"), "PROBLEM", "Permission denied"),
        (ValueError("row 7 is odd"), "PROBLEM", "row 7 is odd"),
    ],
)
def test_what_stops_a_reader_is_a_finding(good, monkeypatch, error, level, words):
    def blocks(*_, **__):
        yield from itertools.islice(aspen.read(good, block_size=100), 2)
        raise error

    monkeypatch.setattr(Source, "blocks", blocks)
    report = jetnb.check(good)
    assert (
        not report.ok
        and report.n_jets == 200
        and report.format == "aspen"
        and levels(report, words) == [level]
    )
    assert str(report).startswith(f"{good}: aspen, 200 jets; "), "it names its file"
    assert ("not judged" in str(report)) == (level == "NOT READ"), (
        "a file is not blamed for what is missing here"
    )


def test_without_fastjet_a_file_that_needs_it_is_not_judged(tmp_path, monkeypatch):
    path = write_by_hand(tmp_path / "a.root", linked=False)
    monkeypatch.setitem(sys.modules, "fastjet", None)
    report = jetnb.check(path)
    assert (
        not report.ok
        and levels(report, "pip install fastjet") == ["NOT READ"]
        and "not judged" in str(report)
    )


def test_reports_are_printed_as_they_are_made_whatever_comes_after(
    good, tmp_path, capsys, monkeypatch
):
    """Each file has its report before the next is opened, and a file that cannot be read costs no
    other its own.
    """
    second, printed = tmp_path / "second.h5", []
    second.write_bytes(good.read_bytes())
    real = reporting.check

    def watched(path):
        printed.append(capsys.readouterr().out)
        return real(path)

    monkeypatch.setattr(reporting, "check", watched)
    assert main(["data", "check", str(good), str(tmp_path / "nowhere"), str(second)]) == 1
    printed.append(capsys.readouterr().out)
    expected = ["", str(good), str(tmp_path / "nowhere"), str(second)]
    assert [text.strip().partition(":")[0] for text in printed] == expected
    assert "400 jets; can be used" in printed[1] and "400 jets; can be used" in printed[3]


MEMORY = """
import json, sys
from jetnb import explore; from jetnb.data import catalogue
import hist
axis = hist.axis.Regular(100, 300, 1000, name="constituents.pt")
peaks = []
for path in sys.argv[1:]:
    explore.fill(path, {"pt": hist.Hist(axis)}, processes=1, progress=False)
    catalogue.convert(path, path + ".store")
    status = open("/proc/self/status").read()
    peaks.append(int(status.split("VmHWM:")[1].split()[0]) / 1024)
print(json.dumps(peaks))
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc"
)
def test_memory_does_not_grow_with_the_file(tmp_path):
    """20 000 jets, then 120 000, in one process: the peak [MiB] stays, and far below what the jets
    would take.
    """
    sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
    from big_files import aspen_file

    files = [str(aspen_file(tmp_path / f"{n}.h5", n)) for n in (20_000, 120_000)]
    made = subprocess.run(
        [sys.executable, "-c", MEMORY, *files],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    small, large = json.loads(made.stdout.splitlines()[-1])
    assert large < small + 100 and large < 1500
    assert len(store.open(files[1] + ".store")) == 120_000 and jetnb.jets.classes(
        store.open(files[1] + ".store").jets
    )


@pytest.mark.parametrize("name", ["aoj", "jetclass", "pileup"])
def test_lengths_in_cm(name, tmp_path):
    """As they are they pass, but not in the unit that CMS writes."""
    jets = jetnb.load(name)[:200]
    about = jetnb.jets.provenance(jets)
    c = jets.constituents
    for field in ("d0", "d0_error", "dz", "dz_error"):
        c = ak.with_field(c, ak.values_astype(c[field] / 10, np.float32), field)
    in_cm = ak.with_field(jets, c, "constituents")
    for these, level in ((jets, "ok"), (in_cm, "PROBLEM")):
        store.write(tmp_path / level, [these], provenance=about)
        assert levels(jetnb.check(tmp_path / level), "constituents.d0_error") == [level]
