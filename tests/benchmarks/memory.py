"""Is memory fixed, whatever the size of a file? Converts, histograms and checks one of two million
jets.

    python tests/benchmarks/memory.py [--jets 2000000] [--processes 2]

Every step runs in a process of its own; printed is the peak of its resident set and of those of its
workers. Needs 15 GB of disk.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from pathlib import Path

import hist
from big_files import aspen_file

import jetnb
from jetnb import explore
from jetnb.data import catalogue

LIMIT = 1.5e9  # bytes


def convert(path, folder, processes):
    catalogue.convert(path, folder)


def fill(path, folder, processes, source=None):
    axis = hist.axis.Regular
    return explore.fill(
        source or path,
        {
            "softdrop_mass": hist.Hist(axis(75, 0, 300, name="softdrop_mass")),
            "map": hist.Hist(
                axis(120, -3, 3, name="constituents.eta"),
                axis(128, -3.2, 3.2, name="constituents.phi"),
            ),
        },
        processes=processes,
        progress=False,
    )


def fill_store(path, folder, processes):
    fill(path, folder, processes, folder)


def check(path, folder, processes):
    assert jetnb.check(path).n_jets == catalogue.source(path).n_rows


def measured(step, queue, *args):
    start = time.perf_counter()
    step(*args)
    peak = (
        max(
            resource.getrusage(who).ru_maxrss
            for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        * 1024
    )
    queue.put((time.perf_counter() - start, peak))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=2_000_000)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="memory"))
    context, worst = multiprocessing.get_context("spawn"), 0
    try:
        for n_jets in (args.jets // 10, args.jets):
            path = folder / f"{n_jets}.h5"
            maker = context.Process(
                target=aspen_file, args=(path, n_jets)
            )  # a child inherits its parent's peak
            maker.start()
            maker.join()
            print(f"{catalogue.source(path).n_rows:,} jets, {path.stat().st_size / 1e9:.2f} GB")
            for name, step, processes in (
                ("convert into a store", convert, 1),
                ("histograms, one process", fill, 1),
                (f"histograms, {args.processes} processes", fill, args.processes),
                ("histograms of the store, one process", fill_store, 1),
                ("check", check, 1),
            ):
                queue = context.Queue()
                process = context.Process(
                    target=measured, args=(step, queue, path, folder / f"{n_jets}", processes)
                )
                process.start()
                seconds, peak = queue.get()
                process.join()
                worst = max(worst, peak)
                print(
                    f"  {name:40}{n_jets / seconds:12,.0f} jets/s   peak of one process {peak / 1e6:8,.0f} MB"
                )
        print(
            f"highest peak {worst / 1e9:.2f} GB, {'below' if worst < LIMIT else 'ABOVE'} {LIMIT / 1e9} GB"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
