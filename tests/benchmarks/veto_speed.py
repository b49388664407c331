"""What the veto of a recipe saves: jets kept per second of processor time, with it and without.

    python tests/benchmarks/veto_speed.py [NAME ...] [--component C] [--pairs 8]

Chunks with and without follow on each other in alternating order, so that other work on the machine
falls on both. Printed are the ratio of each pair's rates in the median, with the lowest and the
highest, and the rates over all. More by ``python -m jetnb.simulation.veto``: what it costs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from jetnb.data import catalogue
from jetnb.simulation import parts, pileup, veto


def rate(name: str, component: int, chunk: int, pool: str, folder: Path, with_veto: bool) -> tuple:
    """Jets kept, and seconds of processor time."""
    begun = time.process_time()
    n_jets = parts.make(name, component, chunk, 1, pool, str(folder / "part.npz"), with_veto)
    return n_jets, time.process_time() - begun


def measure(name: str, component: int, n_pairs: int) -> str:
    recipe = parts.RECIPES[name]
    pool = ""
    if recipe.pileup[0]:
        pool = str(pileup.make_pool(catalogue.derived() / "minimum_bias", energy=recipe.energy))
    found = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        for first in (True, False):  # all that is compiled or loaded once
            rate(name, component, n_pairs, pool, Path(folder), first)
        for pair in range(n_pairs):
            for with_veto in (pair % 2 == 0, pair % 2 == 1):
                found[with_veto].append(rate(name, component, pair, pool, Path(folder), with_veto))
    one, other = (np.array(found[key], float).T for key in (True, False))
    ratios = (one[0] / one[1]) / (other[0] / other[1])
    return (
        f"| {name} | {recipe.components[component].name} | {np.median(ratios):.2f} "
        f"({ratios.min():.2f} to {ratios.max():.2f}) | {other[0].sum() / other[1].sum():.1f} "
        f"| {one[0].sum() / one[1].sum():.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=["aoj", "jetclass"])
    parser.add_argument("--component", type=int, default=0, metavar="C")
    parser.add_argument("--pairs", type=int, default=8, metavar="N")
    args = parser.parse_args()
    print("| recipe | component | jets per second, ratio | without [1/s] | with [1/s] |")
    print("|---|---|---|---|---|")
    for name in args.names:
        veto.of(name)  # which refuses those that have none
        print(measure(name, args.component, args.pairs), flush=True)


if __name__ == "__main__":
    main()
