"""Subjets: which constituents of a jet belong together, by sequential clustering of packed
particles.
"""

from __future__ import annotations

import numpy as np

from jetnb import packed
from jetnb.substructure.kernels import FAR, N_AXES, cluster, compiled, load, room, squared

ALGORITHMS = {"kt": 1, "ca": 0, "antikt": -1}


def subjets(
    x, offsets, *, algorithm: str = "kt", radius: float | None = None, n: int | None = None
) -> np.ndarray:
    """For each constituent the number of its subjet in its jet, 0 for the hardest: (T,) int64.

    x (T, 3 or more): pt [GeV], deta, dphi [rad] of massless particles, offsets (B + 1,), as arrays
    or tensors. algorithm: "kt" (arXiv:hep-ph/9305266), "ca" for Cambridge/Aachen
    (arXiv:hep-ph/9707323) or "antikt" (arXiv:0802.1189), all with the E scheme. radius: all subjets
    of this radius. n: cluster until n are left, without a radius; a jet of fewer constituents has
    one for each. Give one of the two. Raises `ValueError` for an unknown algorithm, both or neither
    of radius and n, and particles that are not finite or without pt.

    >>> x = np.array([[50, 0, 0], [30, 0.3, 0], [20, 0.31, 0]], np.float32)
    >>> subjets(x, [0, 3], algorithm="ca", radius=0.2).tolist()
    [0, 1, 1]
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm {algorithm!r} is unknown: use one of {', '.join(ALGORITHMS)}")
    if (radius is None) == (n is None):
        raise ValueError(f"radius is {radius} and n is {n}: give one of them and not the other")
    if not (radius or 1.0) > 0 or radius == 0 or (n is not None and n < 1):
        raise ValueError(f"radius is {radius} and n is {n}: must be positive, n at least 1")
    offsets, pt, rapidity, phi = columns(x, offsets)
    momenta = np.stack(
        [pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(rapidity), pt * np.cosh(rapidity)], 1
    )
    label = np.zeros(len(pt), np.int64)
    limit = FAR if radius is None else float(radius) ** 2
    _label(offsets, pt, rapidity, phi, momenta, ALGORITHMS[algorithm], limit, n or 1, label)
    return label


def walk(x, offsets) -> np.ndarray:
    """The place of each constituent on a walk through its jet, from the first one on always to the
    nearest not yet visited: (T,) int64.

    Arguments and errors as for `subjets`. arXiv:2606.14813 orders the constituents of a jet in this
    way.
    """
    offsets, _, rapidity, phi = columns(x, offsets)
    place = np.empty(len(phi), np.int64)
    _walk(offsets, rapidity, phi, place)
    return place


def columns(x, offsets) -> tuple[np.ndarray, ...]:
    """offsets int64, and pt, deta, dphi float64 of packed particles; `ValueError` as `subjets`."""
    x, offsets = (np.asarray(part.cpu() if hasattr(part, "cpu") else part) for part in (x, offsets))
    if x.ndim != 2 or x.shape[1] < 3 or len(offsets) == 0 or offsets[-1] != len(x):
        raise ValueError(
            f"x has shape {x.shape} and offsets end at {offsets[-1:]}: x must be (T, 3 or more), pt, "
            "deta and dphi of each particle, and offsets end at T"
        )
    pt, deta, dphi = np.ascontiguousarray(x[:, :3].T, np.float64)
    good = (pt > 0) & np.isfinite(pt) & np.isfinite(deta) & np.isfinite(dphi)
    if not good.all():
        at = int(np.argmin(good))
        jet = int(packed.jet_of(np.diff(offsets))[at])
        raise ValueError(
            f"particle {at}, in jet {jet}, has pt {pt[at]}, deta {deta[at]}, dphi {dphi[at]}: all must "
            "be finite and pt positive; leave such particles out"
        )
    return np.ascontiguousarray(offsets, np.int64), pt, deta, dphi


@compiled
def _label(offsets, pt, rapidity, phi, momenta, power, limit, stop, label):
    """For each constituent the number of its cluster in its jet into label (T,), 0 the hardest."""
    nodes, parents, work, index = room(offsets)
    axes, stack = np.empty((N_AXES, N_AXES, 2)), np.empty(len(nodes), np.int64)
    for jet in range(len(offsets) - 1):
        first = offsets[jet]
        n = load(offsets, jet, pt, rapidity, phi, momenta, nodes, work)
        if n == 0:
            continue
        last = cluster(n, power, False, limit, stop, nodes, parents, work, index, axes, False)
        ended = index[2, : 2 * n - 1 - last]
        softness = np.empty(len(ended))
        for i in range(len(ended)):
            softness[i] = -(nodes[ended[i], 0] ** 2 + nodes[ended[i], 1] ** 2)
        order = np.argsort(softness, kind="mergesort")
        for k in range(len(order)):
            stack[0], m = ended[order[k]], 1
            while m > 0:
                m -= 1
                node = stack[m]
                if node < n:
                    label[first + node] = k
                else:
                    stack[m], stack[m + 1] = parents[node, 0], parents[node, 1]
                    m += 2


@compiled
def _walk(offsets, rapidity, phi, place):
    """From the first constituent of each jet to the nearest not yet visited, and on: place (T,) of
    each.
    """
    for jet in range(len(offsets) - 1):
        start, stop = offsets[jet], offsets[jet + 1]
        for i in range(start, stop):
            place[i] = -1
        here = start
        for step in range(stop - start):
            place[here] = step
            near, at = FAR, -1
            for i in range(start, stop):
                if place[i] < 0:
                    d = squared(rapidity[here], phi[here], rapidity[i], phi[i])
                    if d < near:
                        near, at = d, i
            here = at
