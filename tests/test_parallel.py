"""Work over processes and clusters, and histograms filled that way: the same result whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import threading
import time

import awkward as ak
import hist
import numpy as np
import pytest

import jetnb
from jetnb import explore, parallel, store
from jetnb.readers import aspen, parquet


def square(x):
    return x * x


def die_once(piece):
    """Kills its process the first time it is called for a piece that names a file which is not there."""
    number, flag = piece
    if flag is not None and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(piece):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes):
    assert list(parallel.run(square, range(20), processes=processes)) == [i * i for i in range(20)]
    assert list(parallel.run(square, [], processes=processes)) == []


def test_functions_of_a_notebook_travel():
    offset = 7
    assert list(parallel.run(lambda x: x + offset, range(3), processes=2)) == [7, 8, 9]


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_that_of_the_function(processes):
    with pytest.raises(ZeroDivisionError):
        list(parallel.run(lambda x: 1 // x, [1, 0], processes=processes))


def test_killed_workers_cost_time_alone(tmp_path):
    pieces = [(i, tmp_path / str(i) if i in (0, 3) else None) for i in range(8)]
    assert list(parallel.run(die_once, pieces, processes=2)) == list(range(8))
    assert (tmp_path / "0").exists() and (tmp_path / "3").exists(), "workers were killed indeed"


def test_a_piece_that_kills_every_worker_is_given_up():
    with pytest.raises(RuntimeError, match="3 workers died, the last by SIGKILL, at 5: is there too little memory"):
        list(parallel.run(die, [5], processes=2))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same 3000 jets as published file, store, and Parquet file of ours."""
    folder = tmp_path_factory.mktemp("files")
    jets = jetnb.load("aoj", n_jets=3000)
    published = aspen.write(folder / "a.h5", jets)
    return [published, store.write(folder / "store", aspen.read(published)).path,
            parquet.write(folder / "a.parquet", ak.concatenate(list(aspen.read(published))))]


def histograms():
    axis = hist.axis.Regular
    return {"pt": hist.Hist(axis(50, 300, 800, name="pt")),
            "mass": hist.Hist(axis(50, 0, 200, name="softdrop_mass"), storage=hist.storage.Weight()),
            "map": hist.Hist(axis(40, -3, 3, name="constituents.eta"), axis(40, -3.2, 3.2, name="constituents.phi"),
                             axis(2, 300, 800, name="pt"))}


def test_fill_counts_what_a_loop_counts(files):
    jets = ak.concatenate(list(aspen.read(files[0])))
    want = histograms()
    want["pt"].fill(jets.pt)
    want["mass"].fill(jets.softdrop_mass)
    want["map"].fill(ak.flatten(jets.constituents.eta), ak.flatten(jets.constituents.phi),
                     np.repeat(jets.pt, ak.num(jets.constituents)))
    given = histograms()
    for file in files[:2]:
        found = explore.fill(file, given, processes=1, progress=False)
        assert all(found[name] == want[name] for name in want)
    assert all(one.sum(flow=True) == histograms()[name].sum(flow=True) for name, one in given.items()), "untouched"
    assert explore.fill(files[2], given, processes=1, progress=False)["pt"].sum(flow=True) == len(jets)


def test_the_result_does_not_depend_on_the_number_of_workers(files):
    """To the last bit: with Double storage and weights in floats the order of addition would show."""
    def heavy(jets):
        return ak.with_field(jets[jets.pt > 320], np.log(jets.mass[jets.pt > 320]), "log_mass")

    given = histograms() | {"log": hist.Hist(hist.axis.Regular(20, 2, 6, name="log_mass"),
                                             storage=hist.storage.Weight())}
    results = [explore.fill(files, given, prepare=heavy, processes=n, rows=400, progress=False) for n in (1, 2, 3)]
    for name in given:
        assert results[0][name].sum(flow=True) != 0
        assert all(np.array_equal(one[name].view(flow=True), results[0][name].view(flow=True)) for one in results)


def test_fill_with_a_killed_worker(files, tmp_path):
    flag = tmp_path / "killed"

    def kill_once(jets):
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return jets

    found = explore.fill(files[0], histograms(), prepare=kill_once, processes=2, rows=500, progress=False)
    assert flag.exists()
    want = explore.fill(files[0], histograms(), processes=1, progress=False)
    assert all(found[name] == want[name] for name in want)


def test_fill_says_what_is_wrong(files):
    with pytest.raises(ValueError, match="an axis is called 'ptt', but these jets have pt, eta.*constituents.pt"):
        explore.fill(files[0], {"a": hist.Hist(hist.axis.Regular(2, 0, 1, name="ptt"))}, processes=1, progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        explore.fill([files[0], "nowhere.h5"], histograms())


def test_on_a_cluster_with_a_worker_killed_in_flight(files, tmp_path):
    distributed = pytest.importorskip("distributed")

    def slow(jets):
        time.sleep(0.2)
        return jets

    with (distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None,
                                   local_directory=str(tmp_path)) as cluster,
          distributed.Client(cluster) as client):
        victim = next(iter(client.run(os.getpid).values()))
        threading.Timer(1.0, lambda: os.kill(victim, signal.SIGKILL)).start()
        found = explore.fill(files[:2], histograms(), client, prepare=slow, rows=300, progress=False)
        assert victim not in client.run(os.getpid).values(), "a worker was killed, and another one took its place"
    want = explore.fill(files[:2], histograms(), processes=1, rows=300, progress=False)
    assert all(np.array_equal(found[name].view(flow=True), want[name].view(flow=True)) for name in want)
