"""Random batches from the store against the other ways to keep jets: prints a table, exits 1 if we
are slow.

    python tests/benchmarks/store_gather.py [--jets 200000] [--batch 512] [--rounds 5]

Every candidate gathers the same random jets, in turns, from a warm cache, on one thread. Timed is
only the gathering into a batch in memory, in seconds of CPU, so that other load on the machine
counts little. HDF5 and the padded array give (batch, 128, 8), the store gives packed (T, 8).
Parquet cannot pick rows: it is timed on one row group of the size of a batch, which is easier.
Needs 3 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import jetnb.jets
from jetnb.data import store

FIELDS = ("pt", "eta", "phi", "energy", "charge", "d0", "dz", "puppi_weight")
PADDED, BLOCK = 128, 10_000


def blocks(n_jets: int):
    """Synthetic jets of about 45 constituents: random numbers with the right types, lengths and
    order.
    """
    rng = np.random.default_rng(0)
    for _ in range(n_jets // BLOCK):
        counts = np.clip(rng.normal(45, 15, BLOCK).astype(int), 2, PADDED)
        jet, total = np.repeat(np.arange(BLOCK), counts), counts.sum()
        pt = np.exp(rng.normal(1, 1.3, total))
        pt = pt[np.lexsort((-pt, jet))]
        inside = {
            "pt": pt,
            "energy": pt * 2,
            "charge": rng.integers(-1, 2, total),
            "puppi_weight": rng.random(total),
        }
        inside |= {
            name: rng.normal(0, 0.5, total).clip(-3, 3) for name in ("eta", "phi", "d0", "dz")
        }
        outer = dict.fromkeys(jetnb.jets.JETS_NEED, np.ones(BLOCK))
        about = {"sample": "random numbers", "source": "simulation", "classes": []}
        yield jetnb.jets.build(outer, inside, counts, provenance=about)


def prepare(folder: Path, n_jets: int, batch: int) -> dict:
    """Write the same jets in every form; name of the form -> function of the jet indices."""
    kept = store.write(folder / "store", blocks(n_jets))
    padded = np.lib.format.open_memmap(
        folder / "padded.npy", "w+", np.float32, (n_jets, PADDED, len(FIELDS))
    )
    contiguous, chunked = (
        h5py.File(folder / "contiguous.h5", "w"),
        h5py.File(folder / "chunked.h5", "w"),
    )
    contiguous = contiguous.create_dataset("x", padded.shape, "f4")
    chunked = chunked.create_dataset("x", padded.shape, "f4", chunks=True, compression="lzf")
    parquet = None
    for start in range(0, n_jets, BLOCK):
        packed = kept.gather(np.arange(start, start + BLOCK), FIELDS)
        counts = np.diff(packed.offsets)
        jet = np.repeat(np.arange(BLOCK), counts)
        padded[start + jet, np.arange(len(jet)) - packed.offsets[jet]] = packed.x
        contiguous[start : start + BLOCK] = chunked[start : start + BLOCK] = padded[
            start : start + BLOCK
        ]
        offsets = packed.offsets.astype(np.int32)
        table = pa.table(
            {
                name: pa.ListArray.from_arrays(offsets, packed.x[:, f].copy())
                for f, name in enumerate(FIELDS)
            }
        )
        parquet = parquet or pq.ParquetWriter(
            folder / "rows.parquet", table.schema, compression="zstd"
        )
        parquet.write_table(table, row_group_size=batch)
    parquet.close()
    groups = pq.ParquetFile(folder / "rows.parquet")
    padded.flush()
    padded = np.load(folder / "padded.npy", mmap_mode="r")

    def row_group(indices):
        table = groups.read_row_group(
            int(indices[0]) * groups.num_row_groups // n_jets, use_threads=False
        )
        return np.stack(
            [table[name].combine_chunks().flatten().to_numpy() for name in FIELDS], axis=1
        )

    def fancy(dataset):
        def gather(indices):
            order, back = np.unique(indices, return_inverse=True)  # h5py wants rising indices
            return dataset[order][back]

        return gather

    return {
        "store.gather, packed": lambda indices: kept.gather(indices, FIELDS).x,
        "padded float32 memmap": lambda indices: padded[indices],
        "Parquet zstd, one row group": row_group,
        "HDF5 contiguous, fancy index": fancy(contiguous),
        "HDF5 lzf, default chunks, fancy index": fancy(chunked),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("jets", 200_000), ("batch", 512), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        forms = prepare(Path(folder), arguments.jets, arguments.batch)
        first, *_, _, slow = forms
        indices = rng.integers(0, arguments.jets, arguments.batch)
        x, packed = forms["padded float32 memmap"](indices), forms[first](indices)
        assert np.array_equal(x[x[:, :, 0] > 0], packed), "the store and the padded array differ"
        for file in Path(folder).rglob("*.*"):
            file.read_bytes() if file.is_file() else None  # warm the cache
        seconds = {name: [] for name in forms}
        for _ in range(arguments.rounds):
            batches = rng.integers(0, arguments.jets, (100, arguments.batch))
            for name, gather in forms.items():
                some = batches[:1] if name == slow else batches[:10] if "HDF5" in name else batches
                start = time.process_time()
                for indices in some:
                    gather(indices)
                seconds[name].append((time.process_time() - start) / len(some))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    best_other = min(value for name, value in median.items() if name != first)
    print(
        f"{arguments.jets} jets, batches of {arguments.batch}, {len(FIELDS)} fields, median of "
        f"{arguments.rounds} rounds\n{'form':40}{'jets/s':>12}{'us/jet':>10}{'time / store':>14}"
    )
    for name, value in median.items():
        print(
            f"{name:40}{arguments.batch / value:12,.0f}{1e6 * value / arguments.batch:10.2f}"
            f"{value / median[first]:14.2f}"
        )
    good = median[slow] >= 100 * median[first] and median[first] <= 1.5 * best_other
    print(
        f"{median[slow] / median[first]:.0f} times faster than HDF5 in chunks (wanted: 100), "
        f"{median[first] / best_other:.2f} of the time of the fastest other (wanted: at most 1.5): "
        f"{'as it should be' if good else 'TOO SLOW'}"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
