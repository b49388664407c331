"""Counting constituents quickly: maps in eta and phi, average jet images, and histograms of any
number of files.

A few whole-array operations select, and boost-histogram counts: a map of a million constituents
takes a few hundredths of a second, so a slider feels immediate. A compiled loop of our own was no
faster, and slow to start.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import awkward as ak
import hist
import numpy as np

from jetnb import kinematics, names, parallel

CRYSTAL = np.pi / 180  # width of a barrel crystal of CMS in eta and phi, JINST 3 (2008) S08004
TOWER = 5 * CRYSTAL  # of a tower of the hadronic calorimeter
WORTH_PROCESSES = (
    300_000  # jets of a file: fewer are read in the seconds that workers take to start
)
STORE_GAIN = 20  # as much faster is a store
INSIDE_PI = np.pi * (1 - 1e-12)
ALL_ETA, ALL_PHI, ALL_PT = (-5.2, 5.2), (-np.pi, np.pi), (0.0, np.inf)


def axis(low: float, high: float, width: float, field: names.Field) -> hist.axis.Regular:
    """Regular axis in steps of `width` that covers low..high, with its edges at whole multiples of
    `width`.

    So cells of the histogram fall on cells of the detector when `width` is the size of one.
    Raises ValueError unless low < high and width > 0.

    >>> axis(0.0, 0.10, 0.025, names.CONSTITUENT_FIELDS["eta"]).size
    4
    """
    if not (high > low and width > 0):
        raise ValueError(
            f"{field.name}: need low < high and a positive width, got {low}, {high} and {width}"
        )
    first, last = int(np.floor(low / width + 1e-6)), int(np.ceil(high / width - 1e-6))
    return hist.axis.Regular(
        last - first, first * width, last * width, name=field.name, label=field.label
    )


def delta_phi(phi, reference):
    """Azimuth from `reference` to `phi` [rad], folded into [-pi, pi].

    >>> round(float(delta_phi(3.1, -3.1)), 3)
    -0.083

    Taught in notebook 00.
    """
    return kinematics.wrap(phi - reference)


def select(
    constituents, *, particle: str | None = None, pt_range=ALL_PT, eta_range=ALL_ETA
) -> np.ndarray:
    """Mask (T,) over the flattened constituents: one particle type, a window in pt [GeV] and one in
    eta.

    constituents: jagged (N, var); particle: a key of `names.PARTICLES`, None for all; windows: low
    <= value < high. Raises ValueError for an unknown particle, or where one is asked for and the
    constituents have no pdg_id.
    """
    keep = np.ones(int(ak.count(constituents.pt)), bool)
    for name, (low, high), everything in (("pt", pt_range, ALL_PT), ("eta", eta_range, ALL_ETA)):
        if (low, high) != everything:
            keep &= (flat(constituents, name) >= low) & (flat(constituents, name) < high)
    if particle is None:
        return keep
    if particle not in names.PARTICLES:
        raise ValueError(
            f"no particle type {particle!r}: choose one of {', '.join(names.PARTICLES)}"
        )
    if "pdg_id" not in ak.fields(constituents):
        raise ValueError(
            f"these constituents have no field 'pdg_id', so {particle!r} cannot be selected"
        )
    code = flat(constituents, "pdg_id")
    return keep & np.logical_or.reduce(
        [code == wanted for wanted in names.PARTICLES[particle].pdg_ids]
    )


def eta_phi_histogram(
    constituents,
    *,
    particle: str | None = None,
    pt_range=ALL_PT,
    eta_range=ALL_ETA,
    phi_range=ALL_PHI,
    bin_width: float = TOWER,
    relative_to=None,
    radius: float = 0.8,
    by_pt: bool = False,
) -> hist.Hist:
    """Count constituents in cells of eta and phi.

    constituents, particle, pt_range, eta_range: as in `select`. bin_width: of the cells, in eta and
    in radians. relative_to: jets (N,) with eta and phi: positions are then taken about the axis of
    each jet, out to `radius` in both directions, and eta_range stays a window in the detector.
    by_pt: sum pt [GeV] in place of counting. Returns a `hist.Hist` with axes (eta, phi), or (deta,
    dphi) where relative. Raises ValueError as `select` and `axis` do.
    Taught in notebook 02.
    """
    keep = select(constituents, particle=particle, pt_range=pt_range, eta_range=eta_range)
    eta, phi = flat(constituents, "eta")[keep], flat(constituents, "phi")[keep]
    fields = names.CONSTITUENT_FIELDS
    if relative_to is None:
        axes = (
            axis(*eta_range, bin_width, fields["eta"]),
            axis(*phi_range, bin_width, fields["phi"]),
        )
        # The float32 next to pi is above it, and would be beyond the last cell.
        inside = np.clip(phi.astype(float), -INSIDE_PI, INSIDE_PI)
        phi = np.where(np.abs(phi) <= np.float32(np.pi), inside, phi)
    else:
        jet = np.repeat(np.arange(len(constituents)), ak.num(constituents, axis=1))[keep]
        eta = eta - np.asarray(relative_to.eta)[jet]
        phi = delta_phi(phi, np.asarray(relative_to.phi)[jet])
        axes = tuple(axis(-radius, radius, bin_width, fields[name]) for name in ("deta", "dphi"))
    what = names.PARTICLES[particle].tex if particle else "constituents"
    filled = hist.Hist(
        *axes,
        storage=hist.storage.Double(),
        label=rf"$p_T$ of {what} [GeV] / cell" if by_pt else f"{what} / cell",
    )
    return filled.fill(eta, phi, weight=flat(constituents, "pt")[keep] if by_pt else None)


def average_image(
    jets,
    *,
    particle: str | None = None,
    pt_range=ALL_PT,
    eta_range=ALL_ETA,
    bin_width: float = TOWER,
    radius: float = 0.8,
) -> hist.Hist:
    """Average picture of `jets` (N,) about their axes: mean pt [GeV] per jet and cell.

    Arguments as in `eta_phi_histogram`. Returns a `hist.Hist` with axes (deta, dphi); its sum is
    the mean pt [GeV] per jet inside the window. Raises ValueError where there is no jet.
    """
    if len(jets) == 0:
        raise ValueError("an average needs at least one jet, and this array has none")
    filled = eta_phi_histogram(
        jets.constituents,
        particle=particle,
        pt_range=pt_range,
        eta_range=eta_range,
        bin_width=bin_width,
        relative_to=jets,
        radius=radius,
        by_pt=True,
    )
    filled.view(flow=True)[...] /= len(jets)
    filled.label = r"mean $p_T$ per jet [GeV] / cell"
    return filled


def fill(
    files,
    histograms: Mapping[str, hist.Hist],
    client=None,
    *,
    prepare: Callable | None = None,
    processes: int | None = None,
    rows: int = 100_000,
    progress: bool = True,
) -> dict[str, hist.Hist]:
    """Fill histograms with all jets of any number of files, in fixed memory and on all cores, or on
    a cluster.

    files: one or several, published files or stores. histograms: name -> `hist.Hist`, whose axes
    have the names of jet fields ("pt") or of fields of constituents ("constituents.pt"); with one
    of the latter it counts constituents. prepare: function from jets to jets that cuts, or adds
    fields by `ak.with_field`; it gets one block at a time. client: a `dask.distributed.Client`, to
    work on its cluster, which must see the files. processes: on this machine; without, all cores
    where it is worth starting them. rows: read by one piece of work.

    Returns name -> filled copy. The result is the same, to the last bit, for any number of workers,
    and a worker that is killed costs time alone. In a script (not in a notebook) call it under ``if
    __name__ == "__main__":``. Raises `ValueError` for an unknown field, and as
    `jetnb.data.catalogue.source` does.
    """
    from tqdm.auto import tqdm

    from jetnb.data import catalogue

    files = [files] if isinstance(files, (str, Path)) else files
    sources = [catalogue.source(Path(file).absolute()) for file in files]
    pieces = [
        (source, start, min(start + rows, source.n_rows))
        for source in sources
        for start in range(0, source.n_rows, rows)
    ]
    empty = {name: one.copy().reset() for name, one in histograms.items()}
    work = functools.partial(_filled, empty, prepare)
    total = empty
    effort = sum(source.n_rows / (1 if source.reader else STORE_GAIN) for source in sources)
    if processes is None and effort < WORTH_PROCESSES:
        processes = 1
    with tqdm(
        total=sum(source.n_rows for source in sources),
        unit="jet",
        unit_scale=True,
        disable=not progress,
    ) as bar:
        for (_, start, stop), part in zip(
            pieces, parallel.run(work, pieces, processes=processes, client=client), strict=True
        ):
            total = {name: one + part[name] for name, one in total.items()}
            bar.update(stop - start)
    return total


def _filled(
    empty: Mapping[str, hist.Hist], prepare: Callable | None, piece: tuple
) -> dict[str, hist.Hist]:
    source, start, stop = piece
    filled = {name: one.copy() for name, one in empty.items()}
    for jets in source.blocks(start, stop):
        jets = prepare(jets) if prepare else jets
        for one in filled.values():
            one.fill(**_columns(jets, [axis.name for axis in one.axes]))
    return filled


def _columns(jets, wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The fields `wanted` as flat columns of one length: those of jets are repeated beside those of
    constituents.
    """
    columns, inside = {}, any(name.startswith("constituents.") for name in wanted)
    for name in wanted:
        short = name.removeprefix("constituents.")
        record = jets if short == name else jets.constituents
        if short not in record.fields:
            raise ValueError(
                f"an axis is called {name!r}, but these jets have {', '.join(jets.fields)} and "
                f"constituents.{', constituents.'.join(jets.constituents.fields)}: call each axis like "
                "the field that fills it"
            )
        columns[name] = np.asarray(jets[name]) if record is jets else flat(jets.constituents, short)
        if inside and record is jets:
            columns[name] = np.repeat(columns[name], ak.num(jets.constituents))
    return columns


def flat(constituents, name: str) -> np.ndarray:
    """One field of jagged constituents (N, var) as a flat array (T,), without a copy where the
    memory allows.
    """
    return np.asarray(ak.flatten(constituents[name], axis=1))
