"""Pythia 8 (arXiv:2203.11601): the hard processes by name, and their events as flat numpy arrays.

Pythia holds Python's interpreter lock while it generates, so a notebook that calls it directly
freezes: ``production.py`` runs this module in worker processes.
"""

from __future__ import annotations

import weakref
from typing import NamedTuple

import numpy as np

from jetnb import packed

# Higgs, W, Z and top are produced in pairs or with an invisible Z, so that the process alone
# decides what is in the jet.
Z_TO_NEUTRINOS = ("23:onMode=off", "23:onIfAny=12 14 16")
_W_TO_QUARKS = ("24:onMode=off", "24:onIfAny=1 2 3 4 5")
_TOP_PAIRS = ("Top:gg2ttbar=on", "Top:qqbar2ttbar=on")


def _higgs_to(pair: str, *more: str) -> tuple[str, ...]:
    return ("HiggsSM:ffbar2HZ=on", *Z_TO_NEUTRINOS, "25:onMode=off", f"25:onIfMatch={pair}", *more)


PROCESSES = {
    "multijet": ("HardQCD:all=on",),
    "Z_jet": (
        "WeakBosonAndParton:qqbar2gmZg=on",
        "WeakBosonAndParton:qg2gmZq=on",
        "WeakZ0:gmZmode=2",
        *Z_TO_NEUTRINOS,
    ),
    "ZZ": (
        "WeakDoubleBoson:ffbar2gmZgmZ=on",
        "WeakZ0:gmZmode=2",
        "23:onMode=off",
        "23:onIfAny=1 2 3 4 5",
    ),
    "WW": ("WeakDoubleBoson:ffbar2WW=on", *_W_TO_QUARKS),
    "HZ_bb": _higgs_to("5 5"),
    "HZ_cc": _higgs_to("4 4"),
    "HZ_gg": _higgs_to("21 21"),
    "HZ_4q": _higgs_to("24 24", *_W_TO_QUARKS),
    "HZ_2q1l": _higgs_to(
        "24 24", "24:onMode=off", "24:onPosIfAny=1 2 3 4 5", "24:onNegIfAny=11 13"
    ),
    # A light pseudoscalar a of 30 GeV, each to two b quarks: four prongs in the mass of a Higgs.
    "HZ_aa4b": (
        "HiggsSM:ffbar2HZ=on",
        *Z_TO_NEUTRINOS,
        "25:oneChannel=1 1.0 103 36 36",
        "25:doForceWidth=on",
        "25:mWidth=0.004",
        "36:m0=30",
        "36:mMin=29",
        "36:mMax=31",
        "36:oneChannel=1 1.0 103 5 -5",
        "36:doForceWidth=on",
        "36:mWidth=0.01",
    ),
    "tt": (*_TOP_PAIRS, *_W_TO_QUARKS),
    "tt_leptonic": (*_TOP_PAIRS, "24:onMode=off", "24:onIfAny=11 13"),
    # A narrow spin-2 resonance stands for X; its mass is set with 5100039:m0.
    "XHH": (
        "ExtraDimensionsG*:gg2G*=on",
        "ExtraDimensionsG*:ffbar2G*=on",
        "5100039:onMode=off",
        "5100039:onIfAny=25",
        "25:onMode=off",
        "25:onIfMatch=5 5",
    ),
    "minimum_bias": ("SoftQCD:inelastic=on",),
}

INCOMING = np.array([3, 4])  # where the two partons that collide stand in the record of an event

_CHARGED = {11: -1, 13: -1, 15: -1, 211: 1, 321: 1, 2212: 1, 3112: -1, 3222: 1, 3312: -1, 3334: -1}
_CHARGE_OF = np.zeros(4000, np.int8)
_CHARGE_OF[list(_CHARGED)] = list(_CHARGED.values())


class Events(NamedTuple):
    """Generated events. Tables are dicts of equally long arrays with an ``event`` column, sorted by
    it.

    particles : visible stable particles: event, px, py, pz, energy [GeV], pdg_id, charge, x, y, z
    [mm, of production],
                vertex (0 for the hard scatter, 1.. for pile-up)
    partons   : outgoing partons and charged leptons of the hard process and of resonance decays:
                event, px, py, pz, pdg_id, resonance (row of the resonance in the record, -1 if none), resonance_id,
                outgoing (place of the resonance, or else of the parton, in the record of its event)
    b_hadrons, c_hadrons : weakly decaying heavy hadrons: event, px, py, pz
    pt_hat    : (n_events,) GeV
    incoming  : (n_events, 2) GeV, pz of the two partons that collide: which hard process it is
    """

    n_events: int
    particles: dict[str, np.ndarray]
    partons: dict[str, np.ndarray]
    b_hadrons: dict[str, np.ndarray]
    c_hadrons: dict[str, np.ndarray]
    pt_hat: np.ndarray
    incoming: np.ndarray


def charge_of(pdg_id: np.ndarray) -> np.ndarray:
    """Electric charge of particles that Pythia leaves stable, in units of e."""
    code = np.abs(pdg_id)
    known = code < len(_CHARGE_OF)
    return np.where(known, _CHARGE_OF[np.where(known, code, 0)], 0) * np.sign(pdg_id).astype(
        np.int8
    )


def make_generator(
    process: str,
    *,
    seed: int,
    settings: tuple[str, ...] = (),
    energy: float = 13000.0,
    underlying_event: bool = True,
    long_lived: bool = True,
    hook=None,
):
    """A ready Pythia for one of PROCESSES.

    long_lived: strange hadrons that fly out of the tracker stay, as in a real detector; else all
    decay, as by default. seed is folded into Pythia's range; settings are further lines as in
    Pythia's manual; energy in GeV; hook: a UserHooks of Pythia, such as ``veto.hook``. Raises
    ValueError naming the first setting that Pythia refuses.
    """
    return start(
        (
            f"Beams:eCM={energy}",
            f"PartonLevel:MPI={'on' if underlying_event else 'off'}",
            *PROCESSES[process],
            *settings,
        ),
        seed=seed,
        long_lived=long_lived,
        what=f"process {process!r}",
        hook=hook,
    )


def start(lines: tuple[str, ...], *, seed: int, long_lived: bool, what: str, hook=None):
    """A Pythia started with these settings; what it is for goes into the errors of
    ``make_generator``.
    """
    import pythia8mc

    pythia = pythia8mc.Pythia("", False)
    if hook is not None:
        pythia.setUserHooksPtr(hook)
        # Pythia holds of it what is C++: without the part in Python it would do nothing, unsaid.
        weakref.finalize(pythia, lambda kept: None, hook)
    common = (
        "Print:quiet=on",
        "Random:setSeed=on",
        f"Random:seed={seed % 900_000_000 + 1}",
        f"ParticleDecays:limitCylinder={'on' if long_lived else 'off'}",
        "ParticleDecays:xyMax=1100",
        "ParticleDecays:zMax=2800",
    )
    for line in (*common, *lines):
        if not pythia.readString(line):
            raise ValueError(f"{what}: Pythia does not know the setting {line!r}")
    if not pythia.init():
        raise ValueError(
            f"{what}: Pythia could not start with {lines}; its reason is printed above"
        )
    return pythia


def generate(pythia, n_events: int, *, eta_max: float = 5.0, pt_min: float = 0.1) -> Events:
    """The next n_events of a generator as flat arrays (see Events); particles beyond eta_max or
    below pt_min are cut.
    """
    import awkward as ak

    batch = pythia.nextBatch(n_events)
    counts = ak.to_numpy(ak.num(batch.prt, axis=1))
    record = ak.flatten(batch.prt, axis=1)
    row = {k: ak.to_numpy(record[k]) for k in ("id", "status", "mother1", "daughter1", "daughter2")}
    row |= {k: ak.to_numpy(record.p[k]) for k in ("px", "py", "pz", "e")}
    row["event"] = packed.jet_of(counts)
    first = packed.starts(counts)[row["event"]]
    row["mother"] = first + row["mother1"]
    row["abs"] = np.abs(row["id"])

    pt = np.hypot(row["px"], row["py"])
    invisible = np.isin(row["abs"], (12, 14, 16, 90))
    visible = np.flatnonzero(
        (row["status"] > 0)
        & ~invisible
        & (pt > pt_min)
        & (np.abs(row["pz"]) < pt * np.sinh(eta_max))
    )
    origin = record.vProd[visible]
    x, y, z = (ak.to_numpy(ak.fill_none(origin[c], 0.0)) for c in ("px", "py", "pz"))
    particles = {
        "event": row["event"][visible],
        "px": row["px"][visible],
        "py": row["py"][visible],
        "pz": row["pz"][visible],
        "energy": row["e"][visible],
        "pdg_id": row["id"][visible],
        "charge": charge_of(row["id"][visible]),
        "x": x,
        "y": y,
        "z": z,
        "vertex": np.zeros(len(visible), np.int32),
    }
    pt_hat = np.sqrt(ak.to_numpy(batch.info.pT2Hat))
    return Events(
        len(counts),
        particles,
        _partons(row, first),
        _hadrons(row, first, 5),
        _hadrons(row, first, 4),
        pt_hat,
        row["pz"][packed.starts(counts)[:-1][:, None] + INCOMING],
    )


def _partons(row: dict, first: np.ndarray) -> dict:
    """Outgoing quarks, gluons and charged leptons of the hard process, each with the W, Z, H or top
    it came from.
    """
    i = np.flatnonzero(
        (row["status"] == -23) & ~np.isin(row["abs"], (12, 14, 16)) & (row["abs"] < 23)
    )
    parent = row["mother"][i]
    is_boson = np.isin(row["abs"][parent], (23, 24, 25, 36))
    root = np.where(is_boson | (row["abs"][parent] == 6), _first_copy(row, parent), -1)
    # A W from a top or a Higgs counts as part of it, and so does an a from a Higgs.
    above = row["mother"][root]
    nested = (root >= 0) & np.isin(row["abs"][root], (24, 36)) & np.isin(row["abs"][above], (6, 25))
    root = np.where(nested, _first_copy(row, above), root)
    return {k: row[k][i] for k in ("event", "px", "py", "pz")} | {
        "pdg_id": row["id"][i],
        "resonance": root,
        "resonance_id": np.where(root >= 0, row["abs"][root], 0),
        "outgoing": np.where(root >= 0, root, i) - first[i],
    }


def _first_copy(row: dict, i: np.ndarray) -> np.ndarray:
    while (same := row["id"][row["mother"][i]] == row["id"][i]).any():
        i = np.where(same, row["mother"][i], i)
    return i


def _hadrons(row: dict, start: np.ndarray, quark: int) -> dict:
    """Hadrons that carry the quark and have no daughter that still does: the weakly decaying ones."""
    digit_meson, digit_baryon = row["abs"] // 100 % 10, row["abs"] // 1000 % 10
    flavour = np.where(
        (row["abs"] > 100) & (row["abs"] < 1_000_000), np.maximum(digit_meson, digit_baryon), 0
    )
    carries = flavour == quark
    below = packed.starts(carries)
    first = start + np.where(
        row["daughter2"] > 0, np.minimum(row["daughter1"], row["daughter2"]), row["daughter1"]
    )
    last = start + np.maximum(row["daughter1"], row["daughter2"])
    has_heavy_daughter = below[last + 1] - below[first] > 0
    i = np.flatnonzero(carries & ~has_heavy_daughter & (row["status"] < 0))
    return {k: row[k][i] for k in ("event", "px", "py", "pz")}
