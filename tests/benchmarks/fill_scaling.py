"""Weak scaling of `jetnb.explore.fill`: as many more jets as workers, in processes and on a Dask
cluster: a table.

    python tests/benchmarks/fill_scaling.py [--jets 600000] [--workers 1 2]

Ideal is the same time for any number of workers. Processes are started by every call, in about 3 s,
which counts; one worker is the calling process itself. It also reads ahead in a thread, so as many
workers as cores cannot be ideal. The last lines say what all of Aspen Open Jets takes at the rate
of one worker, from published files and from stores.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import hist
from big_files import aspen_file

from jetnb import explore
from jetnb.data import catalogue

ALL = 178_000_000  # jets, arXiv:2412.10504


def histograms():
    axis = hist.axis.Regular
    return {
        "softdrop_mass": hist.Hist(axis(75, 0, 300, name="softdrop_mass")),
        "map": hist.Hist(
            axis(120, -3, 3, name="constituents.eta"), axis(128, -3.2, 3.2, name="constituents.phi")
        ),
    }


def seconds(files, **how):
    """Time of the second of two fills: the first warms up caches, and workers of a cluster."""
    explore.fill(files[:1], histograms(), rows=2000, progress=False, **how)
    start = time.perf_counter()
    explore.fill(files, histograms(), rows=20_000, progress=False, **how)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=600_000, help="for each worker")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="scaling"))
    try:
        file = aspen_file(folder / "a.h5", args.jets)
        n_jets = catalogue.source(file).n_rows
        folders = catalogue.convert(file, folder / "store").path
        print(
            f"{n_jets:,} jets for each worker\n{'':34}{'workers':>8}{'s':>8}{'jets/s':>12}{'efficiency':>12}"
        )
        for what, path in (("published file", file), ("store", folders)):
            rates = {}
            for how in ("processes", "Dask"):
                for workers in args.workers:
                    if how == "processes":
                        taken = seconds([path] * workers, processes=workers)
                    else:
                        taken = on_dask([path] * workers, workers, folder)
                    rates[how, workers] = workers * n_jets / taken
                    efficiency = (
                        rates[how, workers]
                        / workers
                        / rates[how, args.workers[0]]
                        * args.workers[0]
                    )
                    print(
                        f"{what + ', ' + how:34}{workers:8}{taken:8.1f}{rates[how, workers]:12,.0f}"
                        f"{efficiency:12.2f}"
                    )
            rate = max(rates[key] / key[1] for key in rates)
            print(
                f"  all {ALL / 1e6:.0f} M jets: {ALL / rate / 60:.1f} min by one worker; {ALL / rate / 64:.0f} s by "
                "64, if they scale and the disk does"
            )
    finally:
        shutil.rmtree(folder)


def on_dask(files, workers, folder):
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(folder),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        return seconds(files, client=client)


if __name__ == "__main__":
    main()
