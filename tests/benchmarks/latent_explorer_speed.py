"""Time per update of the latent explorer, and of maps: python
tests/benchmarks/latent_explorer_speed.py [N] [--maps]

Shipped simulated jets, repeated up to N; each selection draws mean images, six histograms and six
jets, and encodes them as PNG. Times are of this process alone (CPU), medians; with --maps also
`latent.project` of N vectors.
"""

import sys
import time

import awkward as ak
import numpy as np

import jetnb
from jetnb import widgets

REPEAT = 7


def timed(call) -> str:
    """Median CPU time and wall time of call(i)."""
    times = []
    for i in range(REPEAT + 1):
        cpu, wall = time.process_time(), time.perf_counter()
        call(i)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return "CPU {:6.3f} s, wall {:6.3f} s".format(*np.median(times[1:], axis=0))


def main(n_jets: int = 50_000, *options: str) -> None:
    jets = jetnb.load("jetclass")
    provenance = jets.attrs["jetnb"]
    jets = ak.concatenate([jets] * -(-n_jets // len(jets)))[:n_jets]
    jets.attrs["jetnb"] = provenance
    rng = np.random.default_rng(0)
    angle = 0.63 * np.asarray(jets.label)
    xy = rng.normal(size=(n_jets, 2)) + 3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    start = time.process_time()
    explorer = widgets.latent_explorer(xy, jets)
    print(f"{n_jets:,} jets; explorer made in {time.process_time() - start:.1f} s of CPU")
    state = sum(len(getattr(explorer.scatter, name)) for name in ("xy", "colours", "classes"))
    print(f"state of the map: {state / 1e6:.2f} MB")
    for size in (300, n_jets // 4, n_jets):
        choices = [rng.permutation(n_jets)[: size - i] for i in range(REPEAT + 1)]
        print(
            f"select {size:7,} jets: {timed(lambda i, choices=choices: explorer.select(choices[i]))}"
        )

    def point(i):
        explorer.scatter.hover = i + 1

    def colour(i):
        explorer.controls["colour"].value = ("mass", "pt")[i % 2]

    print(f"point at a jet      : {timed(point)}")
    print(f"colour by a quantity: {timed(colour)}")
    if "--maps" in options:
        from jetnb import latent

        z = rng.normal(size=(n_jets, 128)) + 3 * rng.normal(size=(10, 128))[np.asarray(jets.label)]
        for method in latent.METHODS:
            start, wall = time.process_time(), time.perf_counter()
            latent.project(z, method, seed=0)
            print(
                f"{method:5} of {z.shape}: CPU {time.process_time() - start:.0f} s, "
                f"wall {time.perf_counter() - wall:.0f} s"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
