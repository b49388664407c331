"""How fast are files read, and stores after them? A table, every row once per round, rounds in
alternation.

    python tests/benchmarks/reading.py [--jets N] [--rounds R] [--jetclass FILE] [--aspen FILE]

Without FILE the shipped jets are written in the published layouts first; but the lists of JetClass
are std::vector there, which `jetclass_vectors.py` makes. The work: pt, eta, phi, energy, charge,
type and track parameters of all constituents, kinematics and label of the jets, in memory as flat
arrays or jets arrays. Rows called "columns only" read the same columns and compute nothing.
weaver-core is measured where it is installed.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import uproot
from big_files import aspen_file, jetclass_file

from jetnb.data import catalogue, store
from jetnb.readers import aspen, jetclass

STEP = 10_000
FEATURES = (
    "part_pt",
    "part_eta",
    "part_phi",
    "part_energy",
    "part_charge",
    "part_d0val",
    "part_d0err",
    "part_dzval",
    "part_dzerr",
    *jetclass.FLAGS,
)


def jetclass_uproot_columns(path):
    with uproot.open(path) as file:
        for _ in file["tree"].iterate(
            [*jetclass.PART, *jetclass.JET, *jetclass.LABELS], step_size=STEP
        ):
            pass


def jetclass_uproot(path):
    """What a user writes with uproot and awkward for the same quantities."""
    with uproot.open(path) as file:
        for x in file["tree"].iterate(
            [*jetclass.PART, *jetclass.JET, *jetclass.LABELS], step_size=STEP
        ):
            pt = np.hypot(x.part_px, x.part_py)
            code = sum(
                value * ak.values_astype(x[name], np.int16)
                for name, value in jetclass.FLAGS.items()
            )
            ak.zip(
                {
                    "pt": pt,
                    "eta": np.arcsinh(x.part_pz / pt),
                    "phi": np.arctan2(x.part_py, x.part_px),
                    "energy": x.part_energy,
                    "charge": x.part_charge,
                    "pdg_id": code,
                    "d0": x.part_d0val,
                    "d0_error": x.part_d0err,
                    "dz": x.part_dzval,
                    "dz_error": x.part_dzerr,
                }
            )
            np.argmax(np.stack([ak.to_numpy(x[name]) for name in jetclass.LABELS]), axis=0)


def jetclass_weaver(path):
    """weaver-core's own reading and preprocessing of a piece of the file, without its loop over
    single jets.
    """
    from weaver.utils.data.config import DataConfig
    from weaver.utils.dataset import _load_next

    config = DataConfig(
        print_info=False,
        treename="tree",
        preprocess={"method": "manual"},
        new_variables={
            "part_pt": "np.hypot(part_px, part_py)",
            "part_eta": "np.arcsinh(part_pz / part_pt)",
            "part_phi": "np.arctan2(part_py, part_px)",
        },
        observers=[],
        monitor_variables=[],
        weights=None,
        labels={"type": "simple", "value": list(jetclass.LABELS)},
        inputs={
            "part": {
                "length": 128,
                "pad_mode": "constant",
                "vars": [[name, None] for name in FEATURES],
            }
        },
    )
    with uproot.open(path) as file:
        n = file["tree"].num_entries
    options = {
        "training": True,
        "mode": "train",
        "reweight": False,
        "shuffle": False,
        "up_sample": False,
        "weight_scale": 1,
        "max_resample": 1,
        "batch_size": 512,
    }
    for start in range(0, n, STEP):
        _load_next(config, [str(path)], (start / n, min(start + STEP, n) / n), options)


def aspen_h5py_columns(path):
    with h5py.File(path) as file:
        for start in range(0, len(file["PFCands"]), STEP):
            for name in aspen.LAYOUT:
                file[name][start : start + STEP]


def aspen_h5py(path):
    """What a user writes with h5py for the same quantities."""
    with h5py.File(path) as file:
        for start in range(0, len(file["PFCands"]), STEP):
            rows = slice(start, start + STEP)
            cands = file["PFCands"][rows]
            real = cands[:, :, 3] > 0
            counts, flat = real.sum(axis=1), cands[real]
            px, py, pz = flat[:, 0], flat[:, 1], flat[:, 2]
            pt = np.hypot(px, py)
            constituents = {
                "pt": pt,
                "eta": np.arcsinh(pz / pt),
                "phi": np.arctan2(py, px),
                "energy": flat[:, 3],
                "d0": 10 * flat[:, 4],
                "d0_error": 10 * flat[:, 5],
                "dz": 10 * flat[:, 6],
                "dz_error": 10 * flat[:, 7],
                "charge": flat[:, 8],
                "pdg_id": flat[:, 9],
                "puppi_weight": flat[:, 10],
            }
            ak.unflatten(ak.zip(constituents), counts)
            file["jet_kinematics"][rows], file["jet_tagging"][rows], file["event_info"][rows]


def ours(path):
    for _ in catalogue.source(path).blocks():
        pass


def from_store(path):
    """Every byte of every column, once."""
    jets = store.open(path).jets
    for record in (jets, ak.flatten(jets.constituents)):
        for name in record.fields:
            if name != "constituents":
                np.asarray(record[name]).max()


def table(title, path, rows, rounds):
    n = catalogue.source(path).n_rows
    print(f"\n{title}: {n:,} jets, {path.stat().st_size / 1e6:,.0f} MB")
    folder = path.with_suffix(".store")
    start = time.perf_counter()
    catalogue.convert(path, folder, overwrite=True)
    print(f"{'convert into a store':44}{n / (time.perf_counter() - start):12,.0f} jets/s")
    rows = {
        **rows,
        "jetnb, jets array": lambda: ours(path),
        "jetnb, a later pass, from the store": lambda: from_store(folder),
    }
    times = {name: [] for name in rows}
    for _ in range(rounds + 1):
        for name, work in rows.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    best = {name: min(values[1:]) for name, values in times.items()}  # the first round warms up
    first = best["jetnb, jets array"]
    for name, seconds in best.items():
        print(f"{name:44}{n / seconds:12,.0f} jets/s {seconds / first:8.2f} times our time")
    peers = [
        seconds
        for name, seconds in best.items()
        if "columns only" not in name and "jetnb" not in name
    ]
    again = best["jetnb, a later pass, from the store"]
    print(
        f"fastest peer of the same work / ours: {min(peers) / first:.2f}; re-reading / store: {first / again:.0f} "
        f"(ours), {min(peers) / again:.0f} (fastest peer)"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jets", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jetclass", type=Path)
    parser.add_argument("--aspen", type=Path)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reading"))
    try:
        path = args.aspen or aspen_file(folder / "aspen.h5", args.jets)
        table(
            "Aspen Open Jets, HDF5",
            path,
            {
                "h5py, columns only": lambda: aspen_h5py_columns(path),
                "h5py and numpy": lambda: aspen_h5py(path),
            },
            args.rounds,
        )
        root = args.jetclass or jetclass_file(folder / "jetclass.root", args.jets)
        rows = {
            "uproot, columns only": lambda: jetclass_uproot_columns(root),
            "uproot and awkward": lambda: jetclass_uproot(root),
        }
        try:
            import weaver  # noqa: F401

            rows["weaver-core, padded to 128"] = lambda: jetclass_weaver(root)
        except ImportError:
            print(
                "weaver-core is not installed: pip install weaver-core, in an environment of its own"
            )
        table("JetClass, ROOT", root, rows, args.rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
