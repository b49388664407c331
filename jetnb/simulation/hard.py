"""Hard processes on their own: drawn once, written as a Les Houches event file (LHEF, hep-ph/0609017),
and showered as often as one likes.

The file holds the hard process with the decays of its resonances, each number to its last digit. Any
generator that reads LHEF can take it, Pythia several times with other settings or random numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jetnb.simulation import processes
from jetnb.simulation.processes import Events

STATUS = {-21: -1, -22: 2, 23: 1}  # of Pythia's hard process -> of LHEF
SAME = 1e-3  # GeV: so much may a shower that has massless quarks move the partons that collide


def draw(process: str, path: Path, *, n_events: int, **given) -> np.ndarray:
    """Draw n_events of one of PROCESSES, write them to path, and return pz (n_events, 2) [GeV] of the
    partons that collide, by which each is known.

    given: seed, settings and energy of ``processes.make_generator``, which raises ValueError. The same
    seed draws the same.
    """
    settings = (*given.pop("settings", ()), "PartonLevel:all=off")
    pythia = processes.make_generator(process, settings=settings, **given)
    beam = 0.5 * given["energy"]
    lines = [
        '<LesHouchesEvents version="1.0">',
        "<init>",
        f"2212 2212 {beam} {beam} 0 0 0 0 3 1",  # 3: all events count alike
        "1 0 1 1",
        "</init>",
    ]
    incoming = []
    while len(incoming) < n_events:
        if not pythia.next():
            continue
        # What stands before row 3 is the event as a whole and the beams.
        record, about = pythia.process, pythia.infoPython()
        rows = [record[i] for i in range(3, record.size())]
        lines += [
            "<event>",
            f"{len(rows)} 1 1 {about.QFac()!r} {about.alphaEM()!r} {about.alphaS()!r}",
            *map(_line, rows),
            "</event>",
        ]
        incoming.append([rows[0].pz(), rows[1].pz()])
    path.write_text("\n".join([*lines, "</LesHouchesEvents>\n"]))
    return np.array(incoming)


def _line(p) -> str:
    mothers = (max(m - 2, 0) for m in (p.mother1(), p.mother2()))
    momentum = (p.px(), p.py(), p.pz(), p.e(), p.m(), p.tau(), p.pol())
    return " ".join(
        (
            *map(str, (p.id(), STATUS[p.status()], *mothers, p.col(), p.acol())),
            *map(repr, momentum),
        )
    )


def shower(
    path: Path,
    incoming: np.ndarray,
    *,
    seed: int,
    settings: tuple[str, ...] = (),
    long_lived: bool = True,
) -> Events:
    """Shower and hadronise all hard processes that ``draw`` wrote to path, as Events numbered as they
    are there.

    settings: lines of Pythia's manual. Pythia gives up on a few events in a million: such a number has
    no particles. Raises ValueError for a setting that Pythia refuses, and RuntimeError where an event
    is none of those drawn.
    """
    lines = ("Beams:frameType=4", f"Beams:LHEF={path}", "Print:verbosity=1", *settings)
    pythia = processes.start(lines, seed=seed, long_lived=long_lived, what="shower")
    events = processes.generate(pythia, len(incoming))
    distance = np.abs(events.incoming[:, None] - incoming).max(-1)  # (found, drawn)
    number = distance.argmin(1)
    moved = distance[np.arange(len(number)), number]
    if (moved > SAME).any() or len(np.unique(number)) != len(number):
        raise RuntimeError(
            f"the shower with {settings} changed the hard process by {moved.max():.3g} GeV: it is not the "
            "one that was drawn"
        )
    tables = (
        table | {"event": number[table["event"]]}
        for table in (events.particles, events.partons, events.b_hadrons, events.c_hadrons)
    )
    pt_hat = np.zeros(len(incoming))
    pt_hat[number] = events.pt_hat
    return Events(len(incoming), *tables, pt_hat, incoming)
