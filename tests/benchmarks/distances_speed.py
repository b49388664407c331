"""Bootstrap of W1 and KLD, ours against a loop over scipy and one over histograms: CPU seconds,
best of some rounds.

    python tests/benchmarks/distances_speed.py [--jets 100000] [--rounds 3]

The loops resample both samples and sort or bin them anew; a few replicas are timed and scaled up.
Ours also draws the noise floor, as many replicas again; "per replica" counts them. All take their
turns within each round.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.stats import entropy, wasserstein_distance

from jetnb import distances

FEATURES, REPLICAS, TIMED = 10, 200, 3


def histogram_kld(truth, generated):
    edges = np.quantile(truth, np.linspace(0, 1, 31))
    edges[[0, -1]] = -np.inf, np.inf
    return entropy(*(np.histogram(values, edges)[0] for values in (truth, generated)))


def loop(distance, truth, generated):
    rng = np.random.default_rng(1)
    for _ in range(TIMED):
        distance(rng.choice(truth, len(truth)), rng.choice(generated, len(generated)))


def seconds(function, *args, **options):
    start = time.process_time()
    function(*args, **options)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    truth, generated = (
        {f"f{i}": rng.gamma(2, 50, args.jets).astype("f4") for i in range(FEATURES)}
        for _ in range(2)
    )
    one = truth["f0"], generated["f0"]
    distances.measure(*one, metric="w1", seed=1, n_replicas=20)  # compiles
    best = {}
    for _ in range(args.rounds):
        taken = {
            "W1 ours": seconds(distances.measure, *one, metric="w1", seed=1) / 2 / REPLICAS,
            "W1 scipy": seconds(loop, wasserstein_distance, *one) / TIMED,
            "KLD ours": seconds(distances.measure, *one, metric="kld", seed=1) / 2 / REPLICAS,
            "KLD loop": seconds(loop, histogram_kld, *one) / TIMED,
        }
        best = {name: min(value, best.get(name, np.inf)) for name, value in taken.items()}
    print(f"{args.jets:,} jets each\n{'':10}{'ms per replica':>16}{'ratio':>8}")
    for name, value in best.items():
        ours = best[name.split()[0] + " ours"]
        print(f"{name:10}{1e3 * value:16.3f}{value / ours:8.1f}")
    table = seconds(distances.compare, truth, generated, seed=1, features=list(truth))
    print(
        f"table of {FEATURES} features, W1 and KLD, {REPLICAS} replicas with floor: {table:.1f} s; the loops would "
        f"take {2 * FEATURES * REPLICAS * (best['W1 scipy'] + best['KLD loop']):.0f} s"
    )


if __name__ == "__main__":
    main()
