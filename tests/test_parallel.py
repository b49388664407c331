"""Work over processes and clusters, and histograms filled that way: the same result whatever
happens to a worker.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import awkward as ak
import hist
import numpy as np
import psutil
import pytest

import jetnb
from jetnb import explore, parallel
from jetnb.data import store
from jetnb.readers import aspen, parquet


def square(x):
    return x * x


def die_once(piece):
    """Kills its process the first time it is called for a piece that names a file which is not
    there.
    """
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


def test_an_error_brings_its_traceback_and_travels_in_any_case():
    class Odd(Exception):
        def __init__(self, one, other):  # cannot be made again from its message alone
            super().__init__(f"{one} and {other}")

    def fail(piece):
        raise Odd(piece, threading.Lock())

    with pytest.raises(RuntimeError, match="^Odd: . and <unlocked") as caught:
        list(parallel.as_done(fail, [5, 6], processes=2, fork=True))
    assert "in fail" in str(caught.value.__cause__) and caught.value.__cause__.file == __file__


def test_killed_workers_cost_time_alone(tmp_path):
    pieces = [(i, tmp_path / str(i) if i in (0, 3) else None) for i in range(8)]
    assert list(parallel.run(die_once, pieces, processes=2)) == list(range(8))
    assert (tmp_path / "0").exists() and (tmp_path / "3").exists(), "workers were killed indeed"


def test_only_the_piece_of_a_killed_worker_is_done_again(tmp_path):
    def work(piece):
        with (tmp_path / "log").open("a") as log:
            log.write(f"{piece}\n")
        if piece == 1:
            die_once((piece, tmp_path / "died"))
        time.sleep(0.3 * (piece == 0))  # the other worker is busy while this one dies
        return -piece

    found = sorted(parallel.as_done(work, range(6), processes=2, fork=True))
    assert found == [(i, -i) for i in range(6)]
    done = collections.Counter((tmp_path / "log").read_text().split())
    assert done == {str(i): 1 + (i == 1) for i in range(6)}


def test_a_piece_that_kills_every_worker_is_given_up(tmp_path):
    with pytest.raises(
        RuntimeError, match="3 workers died, the last by SIGKILL, at 5: is there too little memory"
    ):
        list(parallel.run(die, [5], processes=2))
    with pytest.raises(RuntimeError, match="the last by status 7, at 'x+[.]{3}: is there"):
        list(parallel.as_done(lambda piece: os._exit(7), ["x" * 1000], processes=2, fork=True))


def test_a_worker_killed_while_it_waits_is_replaced():
    def pieces():
        yield 0
        time.sleep(0.2)
        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        time.sleep(0.2)
        yield 1

    assert list(parallel.as_done(square, pieces(), processes=2, fork=True)) == [(0, 0), (1, 1)]


def test_pieces_are_asked_for_when_a_worker_is_free_and_workers_end_when_no_more_is_wanted():
    asked, seen = [], []

    def pieces():
        for i in range(1000):
            asked.append(i)
            yield i

    for piece, result in parallel.as_done(square, pieces(), processes=2, fork=True):
        assert result == piece * piece
        seen.append(piece)
        assert len(asked) <= len(seen) + 4
        if len(seen) == 5:
            break
    assert not multiprocessing.active_children()
    asked.clear()
    next(parallel.run(lambda piece: time.sleep(2 * (piece == 0)), pieces(), processes=2))
    assert (
        len(asked) <= parallel.AHEAD * 2
    )  # the first took long, and no heap of others was made meanwhile


@pytest.mark.skipif(not parallel._fork_is_safe(), reason="no fork here")
def test_forked_workers_share_memory_and_have_no_workers_of_their_own():
    import torch

    lock, found = threading.Lock(), []  # a lock cannot be pickled

    def work(piece):
        with lock:
            found.append(piece)
        assert torch.get_num_threads() == 1
        inner = list(parallel.run(lambda x: (x, os.getpid()), range(3), processes=2))
        return os.getpid(), inner

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _, (pid, inner) in parallel.as_done(work, range(3), processes=2, fork=True):
            assert pid != os.getpid() and inner == [(x, pid) for x in range(3)]
    finally:
        torch.set_num_threads(before)
    assert not found


def test_a_grid_has_a_result_for_each_case_and_seed(monkeypatch):
    import torch

    for name in parallel.THREADS:
        monkeypatch.delenv(name, raising=False)

    def train(case, seed):
        import torch

        torch.manual_seed(seed)
        return case["width"], torch.get_num_threads(), float((torch.randn(300_000) ** 2).sum())

    cases = {"wide": {"width": 9}, "narrow": {"width": 2}}
    before = torch.get_num_threads()
    found = parallel.grid(train, cases, range(2), processes=2, progress=False)
    assert list(found) == [("wide", 0), ("wide", 1), ("narrow", 0), ("narrow", 1)]
    assert [one[:2] for one in found.values()] == [(9, 1), (9, 1), (2, 1), (2, 1)]
    assert found == parallel.grid(train, cases, range(2), processes=1, progress=False)
    assert torch.get_num_threads() == before
    assert parallel.grid(lambda n, seed: n * seed, [3, 4], [5], processes=1, progress=False) == {
        (3, 5): 15,
        (4, 5): 20,
    }
    assert parallel.grid(train, {}, range(2), progress=False) == {}


def test_workers_outlive_the_thread_that_started_them():
    pairs, found = parallel.as_done(lambda _: os.getpid(), range(8), processes=2, fork=True), []
    first = threading.Thread(target=lambda: found.append(next(pairs)))
    first.start()
    first.join()
    workers = {child.pid for child in multiprocessing.active_children()}
    time.sleep(0.2)
    found += pairs
    assert sorted(piece for piece, _ in found) == list(range(8)) and len(workers) == 2
    assert {pid for _, pid in found} <= workers, "they were replaced"
    assert not multiprocessing.active_children()


# Parents that are killed: each prints "begun" in a worker that then is at work for long.
PARENTS = {
    "run": """
from jetnb import parallel
def work(piece):
    print("begun", flush=True)
    time.sleep(600)
if __name__ == "__main__":
    list(parallel.run(work, range(4), processes=2))
""",
    "forked": """
from jetnb import parallel
def work(piece):
    print("begun", flush=True)
    time.sleep(600)
list(parallel.as_done(work, range(4), processes=2, fork=True))
""",
    "forked, by the thread alone": """
from jetnb import parallel
parallel.ctypes = None
def work(piece):
    print("begun", flush=True)
    time.sleep(600)
list(parallel.as_done(work, range(4), processes=2, fork=True))
""",
    "fill": """
import hist, jetnb
from jetnb import explore
from jetnb.data import store
def prepare(jets):
    print("begun", flush=True)
    time.sleep(600)
if __name__ == "__main__":
    made = store.write(sys.argv[1] + "/store", [jetnb.load("aoj", n_jets=300)]).path
    explore.fill(made, {"pt": hist.Hist(hist.axis.Regular(5, 0, 900, name="pt"))}, prepare=prepare, processes=2,
                 rows=100, progress=False)
""",
    "measure": """
import numpy as np, torch
from jetnb import finetuning
from jetnb.inputs.batches import Packed
from jetnb.models.encoder import DeepSets
class Slow(DeepSets):
    def forward(self, *given):
        if self.training and torch.is_grad_enabled():
            print("begun", flush=True)
            time.sleep(0.01)
        return super().forward(*given)
rng = np.random.default_rng(0)
part = Packed(rng.normal(size=(400, 3)).astype(np.float32), np.arange(0, 401, 2), np.arange(200) % 2)
finetuning.measure(lambda seed: Slow(3, dim=8, n_layers=1), [part] * 3, budgets=[20], seeds=[0, 1], validation_least=20,
                   modes=["scratch"], lrs={"scratch": [1e-3]}, steps=10**6, patience=10**6, processes=2, progress=False,
                   path=sys.argv[1] + "/runs.jsonl")
""",
}


@pytest.fixture
def parent(request, tmp_path):
    """The process of a script in PARENTS whose workers have begun, in a group of its own, and all
    of its workers.
    """
    file = tmp_path / "parent.py"
    file.write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        + PARENTS[request.param]
    )  # a job in the background has it ignored
    process = subprocess.Popen(
        [sys.executable, file, tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while "begun" not in (line := process.stdout.readline()):
        assert line, process.communicate()[1]
    n = (
        3 if request.param in ("run", "fill") else 2
    )  # with a helper of Python's where workers are spawned
    while len(workers := psutil.Process(process.pid).children(recursive=True)) < n:
        time.sleep(0.01)
    yield process, workers
    for one in [process, *workers]:
        if one.poll() is None if one is process else one.is_running():
            one.kill()
    process.communicate()


def ended(processes, within=60) -> bool:
    deadline = time.monotonic() + within
    while alive := [
        one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    ]:
        if time.monotonic() > deadline:
            return not alive
        time.sleep(0.05)
    return True


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("parent", PARENTS, indirect=True)
def test_workers_end_with_a_killed_parent(parent):
    process, workers = parent
    process.kill()
    process.wait()
    assert ended(workers), "workers outlived their parent"


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize("parent", ["run", "forked", "measure"], indirect=True)
def test_ctrl_c_is_for_the_parent_alone(parent):
    process, workers = parent
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    _, errors = process.communicate(timeout=60)
    assert ended(workers)
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt"), errors


def test_a_script_without_a_guard_is_told(tmp_path):
    file = tmp_path / "script.py"
    file.write_text("from jetnb import parallel\nlist(parallel.run(abs, [1, 2], processes=2))\n")
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=120)
    assert 'put the call under if __name__ == "__main__":' in done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same 3000 jets as published file, store, and Parquet file of ours."""
    folder = tmp_path_factory.mktemp("files")
    jets = jetnb.load("aoj", n_jets=3000)
    published = aspen.write(folder / "a.h5", jets)
    return [
        published,
        store.write(folder / "store", aspen.read(published)).path,
        parquet.write(folder / "a.parquet", ak.concatenate(list(aspen.read(published)))),
    ]


def histograms():
    axis = hist.axis.Regular
    return {
        "pt": hist.Hist(axis(50, 300, 800, name="pt")),
        "mass": hist.Hist(axis(50, 0, 200, name="softdrop_mass"), storage=hist.storage.Weight()),
        "map": hist.Hist(
            axis(40, -3, 3, name="constituents.eta"),
            axis(40, -3.2, 3.2, name="constituents.phi"),
            axis(2, 300, 800, name="pt"),
        ),
    }


def test_fill_counts_what_a_loop_counts(files):
    jets = ak.concatenate(list(aspen.read(files[0])))
    want = histograms()
    want["pt"].fill(jets.pt)
    want["mass"].fill(jets.softdrop_mass)
    want["map"].fill(
        ak.flatten(jets.constituents.eta),
        ak.flatten(jets.constituents.phi),
        np.repeat(jets.pt, ak.num(jets.constituents)),
    )
    given = histograms()
    for file in files[:2]:
        found = explore.fill(file, given, processes=1, progress=False)
        assert all(found[name] == want[name] for name in want)
    assert all(
        one.sum(flow=True) == histograms()[name].sum(flow=True) for name, one in given.items()
    ), "untouched"
    assert explore.fill(files[2], given, processes=1, progress=False)["pt"].sum(flow=True) == len(
        jets
    )


def test_the_result_does_not_depend_on_the_number_of_workers(files):
    """To the last bit: with Double storage and weights in floats the order of addition would show."""

    def heavy(jets):
        return ak.with_field(jets[jets.pt > 320], np.log(jets.mass[jets.pt > 320]), "log_mass")

    given = histograms() | {
        "log": hist.Hist(
            hist.axis.Regular(20, 2, 6, name="log_mass"), storage=hist.storage.Weight()
        )
    }
    results = [
        explore.fill(files, given, prepare=heavy, processes=n, rows=400, progress=False)
        for n in (1, 2, 3)
    ]
    for name in given:
        assert results[0][name].sum(flow=True) != 0
        assert all(
            np.array_equal(one[name].view(flow=True), results[0][name].view(flow=True))
            for one in results
        )


def test_fill_with_a_killed_worker(files, tmp_path):
    flag = tmp_path / "killed"

    def kill_once(jets):
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return jets

    found = explore.fill(
        files[0], histograms(), prepare=kill_once, processes=2, rows=500, progress=False
    )
    assert flag.exists()
    want = explore.fill(files[0], histograms(), processes=1, progress=False)
    assert all(found[name] == want[name] for name in want)


def test_fill_says_what_is_wrong(files):
    with pytest.raises(
        ValueError, match="an axis is called 'ptt', but these jets have pt, eta.*constituents.pt"
    ):
        explore.fill(
            files[0],
            {"a": hist.Hist(hist.axis.Regular(2, 0, 1, name="ptt"))},
            processes=1,
            progress=False,
        )
    with pytest.raises(FileNotFoundError, match="nowhere"):
        explore.fill([files[0], "nowhere.h5"], histograms())


def test_on_a_cluster_with_a_worker_killed_in_flight(files, tmp_path):
    distributed = pytest.importorskip("distributed")

    def slow(jets):
        time.sleep(0.2)
        return jets

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, local_directory=str(tmp_path)
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        threading.Timer(1.0, lambda: os.kill(victim, signal.SIGKILL)).start()
        found = explore.fill(
            files[:2], histograms(), client, prepare=slow, rows=300, progress=False
        )
        assert victim not in client.run(os.getpid).values(), (
            "a worker was killed, and another one took its place"
        )
    want = explore.fill(files[:2], histograms(), processes=1, rows=300, progress=False)
    assert all(
        np.array_equal(found[name].view(flow=True), want[name].view(flow=True)) for name in want
    )
