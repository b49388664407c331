"""Substructure: groomed mass, N-subjettiness, energy correlations, the other high-level features of
jets, and images.

Everything is computed from the constituents, so it can be had in the same way for data, simulation
and generated jets. Definitions and angles are those of FastJet and fjcontrib: rapidity of
constituents that have the mass their energy gives them, not pseudorapidity; pt as the weight;
clustering with a radius beyond any jet, so that all of it is used. FastJet itself is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics, packed
from jetnb.substructure import kernels

TAUS = ("tau1", "tau2", "tau3", "tau4")
FEATURES = (
    "pt",
    "eta",
    "phi",
    "mass",
    "softdrop_mass",
    *TAUS,
    "tau21",
    "tau32",
    "e2",
    "e3",
    "d2",
    "n_constituents",
    "ptd",
    "girth",
    "jet_charge",
)
AXES = {
    "wta_kt": "exclusive kT, winner-take-all recombination",
    "kt": "exclusive kT, E scheme",
    "onepass_wta_kt": "wta_kt, then moved to the nearest minimum of tau",
    "onepass_kt": "kt, then moved to the nearest minimum of tau",
    "omnijet_kt": "exclusive kT, E scheme, mergers within `radius` only, massless constituents, pseudorapidity: "
    "what the OmniJet repositories do",
}
TINY = float(np.finfo(np.float32).smallest_subnormal)
BLOCK = 1024  # jets at a time: few enough for their columns to stay in the cache of a core


class Constituents(NamedTuple):
    """The constituents of a block of N jets in float64, jet after jet, those of weight 0 left out."""

    offsets: np.ndarray  # (N+1,)
    jet: np.ndarray  # (T,)
    momenta: np.ndarray  # (T, 4) px, py, pz, energy
    pt: np.ndarray
    rapidity: np.ndarray
    phi: np.ndarray
    charge: np.ndarray | None

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum of values (T,) over each jet: (N,)."""
        return np.bincount(self.jet, weights=values, minlength=len(self.offsets) - 1)


def compute(
    jets: ak.Array,
    features: Iterable[str] | None = None,
    *,
    axes: str = "wta_kt",
    radius: float = 0.8,
    beta: float = 1.0,
    z_cut: float = 0.1,
    softdrop_beta: float = 0.0,
    correlation_beta: float = 1.0,
    kappa: float = 0.5,
    weights: str | None = None,
    threads: int | None = 1,
) -> dict[str, np.ndarray]:
    """High-level features of each jet, computed from its constituents: the HLF table.

    jets: N jets, of which the constituents alone are used (pt, energy in GeV, eta, phi in rad).
    features: names out of `FEATURES`, all without; then `jet_charge` is left out where constituents
    have no charge. axes: a key of `AXES`, which says what each is; never compare taus of different
    axes. radius: R0 of N-subjettiness and soft drop. beta, softdrop_beta, correlation_beta: angular
    exponents of N-subjettiness, soft drop and e2, e3. kappa: exponent of the jet charge. weights:
    None, or the field of the constituents, such as "puppi_weight", that multiplies their
    four-momenta; constituents of weight 0 are left out, of `n_constituents` also. threads: how many
    to work in, all cores for None; the result does not depend on it.

    Returns {feature: (N,) float64, n_constituents int64}, in the order asked for.
    `jets["d2"] = np.float32(table["d2"])` adds one to the jets, `pandas.DataFrame(table)` shows them. They are:
    pt, eta, phi, mass of the sum of the constituents [GeV, 1, rad, GeV];
    softdrop_mass [GeV] after Cambridge/Aachen, at the first splitting with z > z_cut (Delta R /
    radius)^softdrop_beta along the harder branch, arXiv:1402.2657 (eq. 1.1); where there is none,
    the last constituent of that branch; tau1..tau4: sum of pt times (distance to the nearest of N
    axes)^beta, over sum of pt times radius^beta, arXiv:1011.2268; tau21 = tau2 / tau1, tau32 = tau3
    / tau2; e2, e3: energy correlation functions in shares of the sum of pt, and d2 = e3 / e2^3,
    arXiv:1409.6298; n_constituents; ptd = sqrt(sum of pt^2) / sum of pt; girth: mean distance to
    the jet axis, weighted by pt; jet_charge: sum of charge times pt^kappa, over (jet pt)^kappa,
    arXiv:1209.2421, in e.

    Always finite: tau_N is 0 for at most N constituents, e2 for one, e3 for two, and a ratio is 0
    where its denominator is; a jet without constituents has 0 everywhere. Raises `ValueError` for
    an unknown name, a setting out of range, a field that is missing, and a constituent that is not
    finite, has no pt or energy, or a negative weight.

    >>> import jetnb
    >>> jets = jetnb.load("jetclass")[:100]
    >>> table = compute(jets, ["mass", "tau32"])
    >>> bool(np.allclose(table["mass"], jets.mass, atol=0.5))
    True

    Taught in notebook 03.
    """
    if axes not in AXES:
        raise ValueError(f"axes {axes!r} are unknown: use one of {', '.join(AXES)}")
    given = features is not None
    features = (features,) if isinstance(features, str) else tuple(features) if given else FEATURES
    if unknown := [name for name in features if name not in FEATURES]:
        raise ValueError(f"features: {unknown[0]!r} is unknown: use some of {', '.join(FEATURES)}")
    for name, value in (
        ("radius", radius),
        ("beta", beta),
        ("correlation_beta", correlation_beta),
        ("kappa", kappa),
    ):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not (0 <= z_cut < 0.5 and np.isfinite(softdrop_beta)):
        raise ValueError(
            f"soft drop needs z_cut in [0, 0.5) and a finite softdrop_beta, got {z_cut}, {softdrop_beta}"
        )
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, or None for all cores, got {threads}")
    if not given and "charge" not in _fields(jets):
        features = features[:-1]

    def work(block):
        return _features(
            _constituents(*block),
            features,
            axes=axes,
            radius=radius,
            beta=beta,
            z_cut=z_cut,
            softdrop_beta=softdrop_beta,
            correlation_beta=correlation_beta,
            kappa=kappa,
        )

    blocks = _blocks(jets, weights, "jet_charge" in features)
    if threads == 1:
        tables = list(map(work, blocks))
    else:
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            tables = list(pool.map(work, blocks))
    return {name: np.concatenate([table[name] for table in tables]) for name in features}


def images(
    jets: ak.Array, n_bins: int = 40, *, radius: float = 0.8, weights: str | None = None
) -> np.ndarray:
    """Jet images: pt of the constituents around the axis of their sum, in eta and phi.

    jets: N jets. n_bins: pixels along each side, which runs from -radius to radius. weights: as for
    `compute`. Returns (N, n_bins, n_bins) float32 in GeV, axes (jet, delta eta, delta phi), neither
    rotated nor scaled; what is outside the square is left out. Raises `ValueError` as `compute`
    does. arXiv:1407.5675.
    """
    if n_bins < 1 or not 0 < radius < np.inf:
        raise ValueError(
            f"n_bins must be at least 1 and radius positive, got {n_bins} and {radius}"
        )
    result = np.zeros((len(jets), n_bins, n_bins), np.float32)
    first = 0
    for block in _blocks(jets, weights, False):
        c = _constituents(*block)
        _, eta, phi, _ = _total(c)
        pixel = np.stack(
            [np.arcsinh(c.momenta[:, 2] / c.pt) - eta[c.jet], kinematics.wrap(c.phi - phi[c.jet])]
        )
        pixel = np.floor((pixel / radius + 1) / 2 * n_bins)
        inside = ((pixel >= 0) & (pixel < n_bins)).all(axis=0)
        row, column = pixel[:, inside].astype(np.int64)
        np.add.at(result, (first + c.jet[inside], row, column), c.pt[inside])
        first += len(eta)
    return result


def decluster(jets: ak.Array) -> tuple[ak.Array, ak.Array]:
    """Undo the Cambridge/Aachen clustering of each jet, splitting by splitting along the harder
    branch.

    jets: N jets, of which the constituents alone are used, as in `compute`. Returns (splittings,
    step). splittings: (N, n_splittings) records, the widest first: delta_r between the two
    branches, in rapidity and phi; z, the share of the softer one in the sum of their pt; kt =
    delta_r times the pt of the softer one [GeV]; mass and pt of the branch that splits [GeV]. Soft
    drop stops at the first with z > z_cut, and the mass there is its mass. step: (N,
    n_constituents) int64, the number of the splitting whose softer branch holds the constituent,
    n_splittings for the one that is left in the end. log(1/delta_r) and log(kt) are the primary
    Lund plane, arXiv:1807.04758 (section 2). Raises `ValueError` as `compute` does. Taught in
    notebook 03.
    """
    splittings, steps = [], []
    for block in _blocks(jets, None, False):
        c = _constituents(*block)
        counts, out = np.diff(c.offsets), np.zeros((len(c.pt), 5))
        n_steps, step = np.zeros(len(counts), np.int64), np.zeros(len(c.pt), np.int64)
        kernels.decluster(c.offsets, c.pt, c.rapidity, c.phi, c.momenta, out, n_steps, step)
        used = np.arange(len(c.pt)) - c.offsets[c.jet] < n_steps[c.jet]
        columns = zip(("delta_r", "z", "kt", "mass", "pt"), out[used].T, strict=True)
        splittings.append(ak.unflatten(ak.zip(dict(columns)), n_steps))
        steps.append(ak.unflatten(step, counts))
    return ak.concatenate(splittings), ak.concatenate(steps)


def _fields(jets: ak.Array) -> list[str]:
    return ak.fields(jets.constituents) if "constituents" in ak.fields(jets) else []


def _blocks(jets: ak.Array, weights: str | None, charge: bool) -> list[tuple]:
    """(counts, columns, weight, charge) of blocks of jets, as they are stored; at least one block,
    maybe empty.
    """
    needed = [
        *jetnb.jets.CONSTITUENTS_NEED,
        *([weights] if weights else []),
        *(["charge"] if charge else []),
    ]
    if missing := [name for name in needed if name not in _fields(jets)]:
        raise ValueError(
            f"constituents.{missing[0]} is missing: these jets have the constituent fields "
            f"{_fields(jets)}; leave out what needs it, or build them with jetnb.jets.build"
        )
    _, columns, counts = jetnb.jets.to_columns(jets[["constituents"], needed])
    offsets = packed.starts(counts)
    for name, low, need in (
        ("pt", 0, "positive"),
        ("energy", 0, "positive"),
        ("eta", -np.inf, "finite"),
        ("phi", -np.inf, "finite"),
        (weights, -TINY, "at least 0"),
    ):
        values = columns.get(name, counts[:0])
        # NaN is in neither range.
        if len(values) and not (values.min() > low and values.max() < np.inf):
            at = int(np.argmin((values > low) & (values < np.inf)))
            jet = int(np.searchsorted(offsets, at, side="right")) - 1
            raise ValueError(
                f"constituents.{name}: constituent {at - offsets[jet]} of jet {jet} has {values[at]}, "
                f"which must be {need} and finite: leave padding and broken constituents out"
            )
    blocks = []
    for first in range(0, max(len(counts), 1), BLOCK):
        inside = slice(offsets[first], offsets[min(first + BLOCK, len(counts))])
        blocks.append(
            (
                counts[first : first + BLOCK],
                *(columns[name][inside] for name in jetnb.jets.CONSTITUENTS_NEED),
                columns[weights][inside] if weights else None,
                columns["charge"][inside] if charge else None,
            )
        )
    return blocks


def _constituents(counts, pt, eta, phi, energy, weight, charge) -> Constituents:
    jet = packed.jet_of(counts)
    pt, eta, phi, energy = (values.astype(np.float64) for values in (pt, eta, phi, energy))
    if weight is not None:
        kept = weight > 0
        pt, energy, eta, phi, jet = (
            (pt * weight)[kept],
            (energy * weight)[kept],
            eta[kept],
            phi[kept],
            jet[kept],
        )
        counts, charge = (
            np.bincount(jet, minlength=len(counts)),
            charge if charge is None else charge[kept],
        )
    momenta = np.stack([*kinematics.to_cartesian(pt, eta, phi), energy], axis=1)
    return Constituents(
        packed.starts(counts),
        jet,
        momenta,
        pt,
        _rapidity(pt, momenta[:, 2], energy),
        kinematics.wrap(phi),
        charge,
    )


def _rapidity(pt, pz, energy):
    """As FastJet: energies below the momentum, by rounding, mean no mass."""
    pt2 = pt * pt
    mass2 = np.maximum((energy + pz) * (energy - pz) - pt2, 0)
    total = energy + np.abs(pz)
    ratio = np.divide(pt2 + mass2, total * total, out=np.ones_like(total), where=total > 0)
    return np.copysign(0.5, -pz) * np.log(ratio)


def _total(c: Constituents) -> tuple[np.ndarray, ...]:
    """pt, eta, phi and energy of the sum of constituents."""
    px, py, pz, energy = (c.sum(c.momenta[:, i]) for i in range(4))
    return *kinematics.to_polar(px, py, pz), energy


def _ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
    return np.divide(over, under, out=np.zeros_like(under, np.float64), where=under > 0)


def _features(
    c: Constituents, wanted, *, axes, radius, beta, z_cut, softdrop_beta, correlation_beta, kappa
) -> dict:
    """The table of one block."""
    wanted, n_jets = set(wanted), len(c.offsets) - 1
    pt, eta, phi, energy = _total(c)
    pz, sum_pt = pt * np.sinh(eta), c.sum(c.pt)
    table = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "n_constituents": np.diff(c.offsets),
        "mass": np.sqrt(np.maximum((energy + pz) * (energy - pz) - pt * pt, 0)),
        "ptd": _ratio(np.sqrt(c.sum(c.pt**2)), sum_pt),
    }
    if "girth" in wanted:
        away = np.hypot(
            c.rapidity - _rapidity(pt, pz, energy)[c.jet], kinematics.wrap(c.phi - phi[c.jet])
        )
        table["girth"] = _ratio(c.sum(c.pt * away), sum_pt)
    if "jet_charge" in wanted:
        table["jet_charge"] = _ratio(c.sum(c.charge * c.pt**kappa), pt**kappa)
    inputs = c.offsets, c.pt, c.rapidity, c.phi
    if "softdrop_mass" in wanted:
        table["softdrop_mass"] = np.zeros(n_jets)
        kernels.softdrop(
            *inputs,
            c.momenta,
            float(z_cut),
            float(softdrop_beta),
            float(radius),
            table["softdrop_mass"],
        )
    if wanted.intersection((*TAUS, "tau21", "tau32")):
        tau, omnijet = np.zeros((n_jets, len(TAUS))), axes == "omnijet_kt"
        momenta, rapidity = c.momenta, c.rapidity
        if omnijet:
            momenta = np.column_stack([momenta[:, :3], np.hypot(c.pt, momenta[:, 2])])
            rapidity = np.arcsinh(momenta[:, 2] / c.pt)
        kernels.subjettiness(
            c.offsets,
            c.pt,
            rapidity,
            c.phi,
            momenta,
            "wta" in axes,
            axes.startswith("onepass"),
            float(radius**2) if omnijet else kernels.FAR,
            omnijet,
            float(beta),
            float(radius),
            tau,
        )
        table |= dict(zip(TAUS, tau.T, strict=True))
        table |= {"tau21": _ratio(tau[:, 1], tau[:, 0]), "tau32": _ratio(tau[:, 2], tau[:, 1])}
    if wanted.intersection(("e2", "e3", "d2")):
        e = np.zeros((n_jets, 2))
        kernels.correlations(*inputs, float(correlation_beta), bool(wanted & {"e3", "d2"}), e)
        table |= {"e2": e[:, 0], "e3": e[:, 1], "d2": _ratio(e[:, 1], e[:, 0] ** 3)}
    return table
