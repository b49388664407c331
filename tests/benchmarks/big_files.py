"""Large files in published layouts, made of the shipped jets in a minute: they are repeated, chunk
by chunk.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import uproot

import jetnb
import jetnb.jets
from jetnb.inputs import events
from jetnb.readers import aspen


def aspen_file(path: Path, n_jets: int, *, chunk: int = 2000) -> Path:
    """Aspen Open Jets layout with at least `n_jets` jets: the shipped ones again and again, events
    numbered afresh.

    Compressed chunks are copied as they are, so the file has the entropy of real jets and is made
    quickly. Chunks are (2000, 10, 1), near those that h5py picks for the published files.
    """
    once = path.with_suffix(".once.h5")
    aspen.write(once, jetnb.load("aoj"), overwrite=True)
    with h5py.File(once) as source, h5py.File(path, "w") as target:
        n = len(source["PFCands"])
        times = -(-n_jets // n)
        for name, data in source.items():
            values, chunks = data[:], (chunk, 10, 1) if data.ndim == 3 else (chunk, 1)
            options = {} if name == "event_info" else {"compression": "gzip", "compression_opts": 4}
            out = target.create_dataset(
                name,
                (n * times, *data.shape[1:]),
                data.dtype,
                chunks=chunks,
                maxshape=(None, *data.shape[1:]),
                **options,
            )
            if name == "event_info":
                for i in range(times):
                    out[i * n : (i + 1) * n] = values + [0, 0, i * (values[:, 2].max() + 1)]
                continue
            out[:n] = values
            out.flush()
            for corner in itertools.product(
                *(range(0, size, step) for size, step in zip(values.shape, chunks, strict=True))
            ):
                _, packed = out.id.read_direct_chunk(corner)
                for i in range(1, times):
                    out.id.write_direct_chunk((corner[0] + i * n, *corner[1:]), packed)
    once.unlink()
    return path


def jetclass_file(path: Path, n_jets: int) -> Path:
    """JetClass layout in ROOT, LZ4, with the shipped jets again and again; lists are float[] with
    counters, as uproot cannot write std::vector."""
    jets = jetnb.load("jetclass")
    columns, inside, counts = jetnb.jets.to_columns(jets)
    jet = np.repeat(np.arange(len(counts)), counts)
    sign = np.where(columns["eta"] > 0, 1, -1).astype(np.float32)
    energy = np.hypot(columns["pt"] * np.cosh(columns["eta"]), columns["mass"])
    code, charge = np.abs(inside["pdg_id"]), inside["charge"].astype(np.float32)
    lists = {
        "px": inside["pt"] * np.cos(inside["phi"]),
        "py": inside["pt"] * np.sin(inside["phi"]),
        "pz": inside["pt"] * np.sinh(inside["eta"]),
        "energy": inside["energy"],
        "deta": sign[jet] * (inside["eta"] - columns["eta"][jet]),
        "dphi": np.mod(inside["phi"] - columns["phi"][jet] + np.pi, 2 * np.pi) - np.pi,
        "d0val": inside["d0"],
        "d0err": inside["d0_error"],
        "dzval": inside["dz"],
        "dzerr": inside["dz_error"],
        "charge": charge,
    }
    lists = {f"part_{name}": values.astype(np.float32) for name, values in lists.items()}
    flags = {"ChargedHadron": 211, "NeutralHadron": 130, "Photon": 22, "Electron": 11, "Muon": 13}
    lists |= {f"part_is{name}": (code == value).astype(np.int32) for name, value in flags.items()}
    one = {
        f"jet_{name}": columns[field].astype(np.float32)
        for name, field in (
            ("pt", "pt"),
            ("eta", "eta"),
            ("phi", "phi"),
            ("nparticles", "n_constituents"),
            ("sdmass", "softdrop_mass"),
            ("tau1", "tau1"),
            ("tau2", "tau2"),
            ("tau3", "tau3"),
            ("tau4", "tau4"),
        )
    } | {"jet_energy": energy}
    kinds = dict(
        zip(
            ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"),
            (np.float32, *[bool] * 5, *[np.int32] * 4),
            strict=True,
        )
    )
    one |= {
        f"label_{name}": (columns["label"] == i).astype(kind)
        for i, (name, kind) in enumerate(kinds.items())
    }
    types = {name: f"var * {values.dtype}" for name, values in lists.items()}
    types |= {name: values.dtype for name, values in one.items()}
    block = {name: ak.unflatten(values, counts) for name, values in lists.items()} | one
    with uproot.recreate(path, compression=uproot.LZ4(4)) as file:
        tree = file.mktree("tree", types)
        for _ in range(-(-n_jets // len(jets))):
            tree.extend(block)
    return path


def hh4b_file(path: Path, n_jets: int) -> Path:
    """The zero-padded HDF5 of arXiv:2401.13536, of the events of the first `n_jets` shipped jets of
    hh4b.
    """
    jets = events.group(jetnb.load("hh4b")[:n_jets])
    columns, inside, counts = jetnb.jets.to_columns(jets)
    jet = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(jet)) - np.repeat(
        np.cumsum(counts) - counts, counts
    )  # of a constituent in its jet
    _, first, row = np.unique(columns["event"], return_index=True, return_inverse=True)
    slot = np.arange(len(row)) - first[row]  # of a jet in its event
    axis = {name: columns[name][jet] for name in ("pt", "eta", "phi", "mass")}
    deta = np.where(axis["eta"] < 0, -1, 1) * (inside["eta"] - axis["eta"])
    dphi = np.mod(inside["phi"] - axis["phi"] + np.pi, 2 * np.pi) - np.pi
    energy = np.hypot(axis["pt"] * np.cosh(axis["eta"]), axis["mass"])
    code, charged, track = np.abs(inside["pdg_id"]), inside["charge"] != 0, inside["has_track"] > 0
    parts = [inside["pt"] / axis["pt"], inside["energy"] / energy, deta, dphi]
    for name in ("d0", "dz"):  # cm, and over the uncertainty
        error = np.where(track, inside[f"{name}_error"], 1)
        parts += [np.where(track, inside[name] / 10, 0), np.where(track, inside[name] / error, 0)]
    parts += [
        np.hypot(deta, dphi),
        inside["charge"],
        charged & (code > 100),
        ~charged & (code != 22),
        code == 22,
        code == 11,
        code == 13,
    ]
    data = {
        "X_jet": np.zeros((len(first), 5, 6)),
        "X_pfo": np.zeros((len(first), 5, 100, 15)),
        "X_label": np.zeros((len(first), 5, 6), np.int32),
        "labels": columns["event_label"][first].astype(np.int32),
        "mass_param": columns["resonance_mass"][first].astype(np.int32),
    }
    data["X_jet"][row, slot] = np.column_stack(
        [
            columns["pt"],
            columns["eta"],
            0 * columns["pt"],
            columns["phi"],
            columns["mass"],
            columns["softdrop_mass"],
        ]
    )
    data["X_pfo"][row[jet], slot[jet], place] = np.column_stack(parts)
    data["X_label"][row, slot, columns["label"]] = 1
    real = data["X_jet"][:, :, 0] > 0
    data |= {"jet_mask": real.astype(np.int32)} | {
        f"X_{name}_singlejet": data[f"X_{name}"][real] for name in ("jet", "pfo", "label")
    }
    with h5py.File(path, "w") as file:
        for name, values in data.items():
            file[name] = values
    return path
