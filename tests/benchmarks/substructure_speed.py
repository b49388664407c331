"""tau1 to tau4 and soft-drop mass of the same jets by `jetnb.substructure` and by what others use:
a table.

    python tests/benchmarks/substructure_speed.py [--jets 2000] [--rounds 5]

All candidates take their turn in each round; the ratio is the median over rounds of the process CPU
time over ours with one thread for the same thing. Peers start from the four-momenta they need, made
beforehand; ours starts from the jets. `OmniJet` is its route, written anew: FastJet through awkward
finds exclusive-kT subjets, awkward and vector do the sums. It has no soft drop, and EnergyFlow no
N-subjettiness, so the last line adds the quickest of each. EnergyFlow is left out where it is not
installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time

import awkward as ak
import fastjet
import numpy as np
import vector

import jetnb
from jetnb import substructure

TAUS, SOFTDROP = list(substructure.TAUS), ["softdrop_mass"]
vector.register_awkward()


def candidates(jets):
    """{name: (what it computes, function)}."""
    c = {
        name: ak.values_astype(jets.constituents[name], "float64")
        for name in ("pt", "eta", "phi", "energy")
    }
    massive = ak.zip(
        {
            "px": c["pt"] * np.cos(c["phi"]),
            "py": c["pt"] * np.sin(c["phi"]),
            "pz": c["pt"] * np.sinh(c["eta"]),
            "E": c["energy"],
        },
        with_name="Momentum4D",
    )
    massless = ak.zip(
        {"pt": c["pt"], "eta": c["eta"], "phi": c["phi"], "mass": ak.zeros_like(c["pt"])},
        with_name="Momentum4D",
    )

    def whole():
        return fastjet.ClusterSequence(
            massive, fastjet.JetDefinition(fastjet.cambridge_algorithm, 1000.0)
        )

    def njettiness():
        return whole().njettiness(
            measure_definition="NormalizedMeasure",
            axes_definition="WTA_KT_Axes",
            njets=[1, 2, 3, 4],
            beta=1.0,
            R0=0.8,
        )

    def groomer():
        return whole().exclusive_jets_softdrop_grooming(
            njets=1, beta=0.0, symmetry_cut=0.1, R0=0.8
        )["msoftdrop"]

    def omnijet():
        four = ak.zip(
            {name: getattr(massless, name) for name in ("px", "py", "pz", "E")},
            with_name="Momentum4D",
        )
        sequence = fastjet.ClusterSequence(four, fastjet.JetDefinition(fastjet.kt_algorithm, 0.8))
        norm = ak.sum(massless.pt, axis=1) * 0.8
        taus = []
        for k in range(1, 5):
            axes = sequence.exclusive_jets(k)
            axes = ak.zip({name: axes[name] for name in axes.fields}, with_name="Momentum4D")
            near = massless.deltaR(axes[:, 0])
            for i in range(1, k):
                near = np.minimum(near, massless.deltaR(axes[:, i]))
            taus.append(ak.sum(massless.pt * near, axis=1) / norm)
        return taus

    result = {
        "jetnb": ("both", lambda: substructure.compute(jets, TAUS + SOFTDROP)),
        f"jetnb, {os.cpu_count()} threads": (
            "both",
            lambda: substructure.compute(jets, TAUS + SOFTDROP, threads=None),
        ),
        "jetnb, all features": ("all", lambda: substructure.compute(jets)),
        "jetnb, tau": ("tau", lambda: substructure.compute(jets, TAUS)),
        "jetnb, soft drop": ("soft drop", lambda: substructure.compute(jets, SOFTDROP)),
        "fastjet, njettiness": ("tau", njettiness),
        "OmniJet": ("tau", omnijet),
        "fastjet, groomer": ("soft drop", groomer),
    }
    if importlib.util.find_spec("energyflow"):
        import energyflow

        counts = ak.num(massive)
        columns = massive.pt, massive.rapidity, massive.phi, massive.mass
        rows = np.stack([ak.to_numpy(ak.flatten(column)) for column in columns], axis=1)
        events = np.split(rows, np.cumsum(counts)[:-1])
        tools = energyflow.utils.fastjet_utils

        def grooming():
            return [
                tools.softdrop(
                    tools.cluster(tools.pjs_from_ptyphims(event))[0], zcut=0.1, R=0.8
                ).m()
                for event in events
            ]

        result["EnergyFlow, softdrop"] = ("soft drop", grooming)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", default="jetclass")
    args = parser.parse_args()
    jets = jetnb.load(args.sample)
    jets = jets[:: max(1, len(jets) // args.jets)][: args.jets]  # of every class
    tried = candidates(jets)
    for _, function in tried.values():  # compiled, and in memory
        function()
    cpu, wall = {name: [] for name in tried}, {name: [] for name in tried}
    for _ in range(args.rounds):
        for name, (_, function) in tried.items():
            start = time.process_time(), time.perf_counter()
            function()
            cpu[name].append((time.process_time() - start[0]) / len(jets) * 1e6)
            wall[name].append((time.perf_counter() - start[1]) / len(jets) * 1e6)
    cpu, wall = (
        {name: np.array(values) for name, values in table.items()} for table in (cpu, wall)
    )
    print(
        f"{len(jets):,} jets of {ak.mean(ak.num(jets.constituents)):.1f} constituents, {args.rounds} rounds, "
        f"{os.cpu_count()} cores\n{'':28}{'computes':>10}{'CPU us/jet':>12}{'wall us/jet':>12}{'CPU ratio':>10}"
    )
    ours = {what: cpu[f"jetnb, {what}"] for what in ("tau", "soft drop")}
    for name, (what, _) in tried.items():
        ratio = np.median(cpu[name] / ours.get(what, cpu["jetnb"]))
        print(
            f"{name:28}{what:>10}{np.median(cpu[name]):12.1f}{np.median(wall[name]):12.1f}{ratio:10.2f}"
        )
    best = [
        min(
            (name for name in tried if tried[name][0] == what and not name.startswith("jetnb")),
            key=lambda name: np.median(cpu[name]),
        )
        for what in ("tau", "soft drop")
    ]
    both = cpu[best[0]] + cpu[best[1]]
    print(
        f"{best[0]} + {best[1]}: {np.median(both):.1f} us CPU/jet, {np.median(both / cpu['jetnb']):.1f} times jetnb"
    )


if __name__ == "__main__":
    main()
