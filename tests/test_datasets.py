"""The table of published datasets: against what its publishers say elsewhere, and what it says to
those who ask.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jetnb.data import datasets
from jetnb.data.datasets import DATASETS, RemoteFile

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "PHYSLITE_example.root"
READERS = {
    "aspen",
    "jetclass",
    "toptagging",
    "higgstobb",
    "hh4b",
    "pfnano",
    "physlite",
    "dumper",
    "jetnet",
    "energyflow",
    "omnilearn",
    "lhco",
}


def test_every_row_is_complete():
    assert list(DATASETS) == [
        "aoj",
        "jetclass",
        "jetclass2",
        "toptagging",
        "quarkgluon",
        "quarkgluon_withbc",
        "quarkgluon_herwig",
        "quarkgluon_herwig_withbc",
        "higgstobb",
        "hh4b",
        "pfnano",
        "physlite",
        "jetset",
        "jetnet",
        "jetnet150",
        "lhco",
        "lhco_boxes",
        "omnilearn",
    ]
    assert {dataset.reader for dataset in DATASETS.values()} == READERS
    for name, dataset in DATASETS.items():
        assert (
            dataset.name == name
            and dataset.title
            and dataset.licence
            and dataset.description.endswith(".")
        )
        assert dataset.record.startswith("https://")
        assert re.search(r"arXiv:\d{4}\.\d{5}|doi:10\.\d{4}|record \d{5}", dataset.citation)
        assert dataset.files or dataset.by_hand
        assert len({file.name for file in dataset.files}) == len(
            {file.address for file in dataset.files}
        )
        assert len({file.name for file in dataset.files}) == len(dataset.files)
        for file in dataset.files:
            assert file.address.startswith("https://") and f"/{file.name}" in file.address
            assert re.fullmatch(r"[\w.-]+\.(h5|hdf5|root|parquet|tar|npz)", file.name)
            assert re.fullmatch(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|)", file.checksum)
            assert file.n_bytes is None or file.n_bytes > 1e6


def test_no_two_files_are_said_to_have_the_same_content():
    sums = [
        file.checksum for dataset in DATASETS.values() for file in dataset.files if file.checksum
    ]
    assert len(sums) == len(set(sums)) == 80 + 13 + 3 + 1 + 5 + 80


def test_aspen_open_jets_is_as_large_as_its_record_says():
    files = DATASETS["aoj"].files
    assert len(files) == 80 and round(sum(file.n_bytes for file in files) / 1e9) == 207
    assert files[0] == RemoteFile(
        "RunG_batch0.h5",
        "https://www.fdr.uni-hamburg.de/record/16505/files/RunG_batch0.h5?download=1",
        2_379_411_451,
        "md5:bed9c27139f6651fb9511da39210e9e8",
    )
    large = [file.name for file in files if not 2.3e9 < file.n_bytes < 2.8e9]
    assert large == ["RunG_batch39.h5", "RunH_batch39.h5"] and files[79].name == "RunH_batch39.h5"


@pytest.mark.parametrize(
    ("kind", "n_jets"), [("g", 177252), ("q", 170679), ("t", 177945), ("w", 177172), ("z", 176952)]
)
def test_jetnet_files_hold_the_jets_of_the_record(kind, n_jets):
    """30 constituents and the jet itself, four float32 each, and 2 kB of HDF5."""
    file = next(file for file in DATASETS["jetnet"].files if file.name == f"{kind}.hdf5")
    assert file.n_bytes == n_jets * 31 * 4 * 4 + 2048


def test_quark_and_gluon_files_are_those_that_energyflow_fetches():
    files = []
    for end in ("", "_withbc", "_herwig", "_herwig_withbc"):
        mine = DATASETS[f"quarkgluon{end}"].files
        assert [file.name for file in mine] == [
            f"QG_jets{end}{f'_{i}' if i or end else ''}.npz" for i in range(20)
        ]
        assert len({file.address.rpartition("/")[0] for file in mine}) == 1
        assert len(datasets.choose(f"quarkgluon{end}", "QG_jets*")) == 20, (
            "a pattern fits one of the kinds alone"
        )
        files += mine
    known = {
        "QG_jets.npz": "f5d052f10a79c6e8b9382637aca0ef52",
        "QG_jets_19.npz": "6753508e34014cc69714a01fca20ec38",
        "QG_jets_withbc_0.npz": "e9ac4044a07f56a919a96e2b30c15fed",
        "QG_jets_withbc_11.npz": "d7731f5abdf7d3e0c17eca846c25eff3",
        "QG_jets_herwig_0.npz": "a9de310c35c5a83ea592ef93070ff2f3",
        "QG_jets_herwig_withbc_19.npz": "185902f2aba6c7c1b79dea24d9997146",
    }
    for file in files:
        assert (
            file.checksum == f"md5:{known.get(file.name, file.checksum[4:])}"
            and file.n_bytes is None
        )


def test_higgstobb_files_are_those_of_the_published_index_files():
    """The CERN record gives the sizes of four lists of addresses: 1350, 12463 (HDF5), 1386, 12791
    bytes (ROOT).
    """
    sizes = {}
    for file in DATASETS["higgstobb"].files:
        host = (
            "http://opendata.cern.ch" if file.name.endswith("h5") else "root://eospublic.cern.ch/"
        )
        key = (file.name.partition(".")[2], "/test/" in file.address)
        sizes[key] = (
            sizes.get(key, 0) + len(file.address.replace("https://opendata.cern.ch", host)) + 1
        )
    assert sizes == {
        ("h5", True): 1350,
        ("h5", False): 12463,
        ("root", True): 1386,
        ("root", False): 12791,
    }


def test_jetset_is_as_large_as_its_record_says():
    """The CERN record gives 107 788 972 974 bytes in three files."""
    assert sum(file.n_bytes for file in DATASETS["jetset"].files) == 107_788_972_974


def test_jetclass2_has_201_million_jets_in_files_of_100_000():
    assert len(DATASETS["jetclass2"].files) * 100_000 == (30 + 129 + 42) * 10**6


@pytest.mark.skipif(not REAL.exists(), reason="no real PHYSLITE file here")
def test_the_physlite_example_is_the_real_one():
    (file,) = DATASETS["physlite"].files
    content = REAL.read_bytes()
    assert (
        file.n_bytes == len(content)
        and file.checksum == f"sha256:{hashlib.sha256(content).hexdigest()}"
    )


def test_choose_takes_names_patterns_and_all_in_the_order_of_the_dataset():
    def names(*args):
        return [file.name for file in datasets.choose(*args)]

    assert names("toptagging", "val.h5") == names(DATASETS["toptagging"], ["val.h5"]) == ["val.h5"]
    assert names("toptagging", ["test.h5", "train.h5", "t*"]) == ["train.h5", "test.h5"]
    assert names("aoj", "RunH_batch3?.h5") == [f"RunH_batch{i}.h5" for i in range(30, 40)]
    assert len(names("jetclass2", "all")) == 2010 == len(names("jetclass2", "*"))


@pytest.mark.parametrize("files", [None, []])
def test_choose_lists_what_there_is_when_nothing_is_said(files):
    with pytest.raises(ValueError, match="say which files: a name, a pattern") as error:
        datasets.choose("aoj", files)
    assert "  RunG_batch*.h5 (40 files, 101.3 GB)\n" in str(error.value)
    assert str(error.value).endswith("  all (80 files, 207.3 GB)")


def test_choose_refuses_what_there_is_not():
    with pytest.raises(
        ValueError, match=r"toptagging is called 'Train.h5'. toptagging has\n  train.h5 \(1.0 GB\)"
    ):
        datasets.choose("toptagging", ["test.h5", "Train.h5"])
    with pytest.raises(
        ValueError,
        match="'jetklass' is no published dataset: did you mean 'jetclass'.* They are aoj,",
    ):
        datasets.choose("jetklass", "all")
    with pytest.raises(
        ValueError, match="fetch the files of hh4b by hand from https://cernbox.*browser"
    ):
        datasets.choose("hh4b", "all")


def test_summary_says_how_sure_the_size_is():
    files = [
        RemoteFile("a1.h5", "", 2_000_000),
        RemoteFile("a2.h5", "", 3_500_000),
        RemoteFile("b.h5", "", None),
    ]
    assert datasets.summary(files) == (
        "  a*.h5 (2 files, 5.5 MB)\n  b.h5 (size not known)\n  all (3 files, more than 5.5 MB)"
    )
    assert datasets.summary(files[:1]) == "  a1.h5 (2.0 MB)"


@pytest.mark.parametrize("name", DATASETS)
def test_describe_says_all_of_it(name):
    text, dataset = datasets.describe(name), DATASETS[name]
    assert text == datasets.describe(dataset)
    assert all(part in text for part in dataset[1:2] + dataset[3:7] + dataset[8:])


def test_the_table_costs_no_network_library():
    code = "import sys, jetnb.data.datasets; print({'requests', 'pooch', 'awkward', 'torch'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[1]
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
        ).stdout
        == "set()\n"
    )
