"""Compiled kernels of `substructure`: sequential clustering, soft drop, N-subjettiness, energy
correlations.

All work on float64, jet after jet, without the GIL; offsets (N+1,) say where each jet starts.
Angles are taken as FastJet takes them: rapidity of the massive constituents, and azimuth around the
circle.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from jetnb import _compiled

FAR = 1e300
N_AXES = 4  # tau1 to tau4
PASSES, ACCURACY = 1000, 1e-4  # of the minimisation of the axes: the numbers of fjcontrib
compiled = _compiled.njit(nogil=True, error_model="numpy")


@njit(inline="always")
def squared(rapidity, phi, other_rapidity, other_phi):
    """Squared distance; the shorter way round without a branch, for which the loops are several
    times faster.
    """
    across = abs(phi - other_phi)
    across = min(across, 2 * math.pi - across)
    return (rapidity - other_rapidity) ** 2 + across * across


@compiled
def _rapidity(pt2, pz, energy):
    """Rapidity as FastJet has it: a negative squared mass counts as none, a momentum along the beam
    as 1e5.
    """
    if pt2 == 0 and energy == abs(pz):
        return math.copysign(1e5 + abs(pz), pz)
    mass2 = max((energy + pz) * (energy - pz) - pt2, 0.0)
    result = 0.5 * math.log((pt2 + mass2) / (energy + abs(pz)) ** 2)
    return -result if pz > 0 else result


@compiled
def _longest(offsets):
    result = 0
    for jet in range(len(offsets) - 1):
        result = max(result, offsets[jet + 1] - offsets[jet])
    return result


@compiled
def room(offsets):
    """What `cluster` writes into: nodes, parents, work, index."""
    n = _longest(offsets)
    return (
        np.empty((2 * n, 4)),
        np.empty((2 * n, 2), np.int64),
        np.empty((6, n)),
        np.empty((3, n), np.int64),
    )


@compiled
def load(offsets, jet, pt, rapidity, phi, momenta, nodes, work):
    """Copy one jet to where `cluster` expects it; returns the number of its constituents."""
    first, n = offsets[jet], offsets[jet + 1] - offsets[jet]
    for i in range(n):
        work[0, i], work[1, i], work[2, i] = rapidity[first + i], phi[first + i], pt[first + i]
        for c in range(4):
            nodes[i, c] = momenta[first + i, c]
    return n


@njit(inline="always")
def _weight(pt, power):
    return 1.0 if power == 0 else pt * pt if power > 0 else 1.0 / (pt * pt)


@compiled
def _nearest(k, m, rapidity, phi, limit):
    """Squared distance to, and index of, the nearest of m clusters to cluster k; -1 where none is
    within the limit.
    """
    near, at = limit, -1
    for low, high in ((0, k), (k + 1, m)):
        for j in range(low, high):
            d = squared(rapidity[k], phi[k], rapidity[j], phi[j])
            if d < near:
                near, at = d, j
    return near, at


@compiled
def cluster(n, power, winner, limit, stop, momenta, parents, work, index, axes, pseudorapidity):
    """Cluster n particles until `stop` clusters are left, and note what there was on the way.

    power: 1 for distances of the kT algorithm, 0 for Cambridge/Aachen, -1 for anti-kT. winner:
    winner-take-all recombination, else E scheme. limit: squared radius; a cluster without a
    neighbour within it goes to the beam. momenta: (2n, 4) px, py, pz, energy, of which the first n
    rows are given; with the E scheme each merger adds one, and its `parents` (2n, 2). work: (6, n),
    of which rapidity, phi and pt are given. index: (3, n), the last for the rows of the clusters in
    the end, those that went to the beam first: n less the number of mergers. axes: where the last k
    clusters are goes to axes[k - 1], in pseudorapidity if asked for. Returns the last row.

    Each cluster knows its nearest neighbour; that the smallest distance is one to a nearest
    neighbour in angle also holds for kT (arXiv:hep-ph/0512210), hence n^2 and not n^3 steps.
    """
    rapidity, phi, pt, weight, near, distance = work[0], work[1], work[2], work[3], work[4], work[5]
    neighbour, row, ended, n_ended = index[0], index[1], index[2], 0
    for i in range(n):
        weight[i] = _weight(pt[i], power)
        near[i], neighbour[i], row[i] = limit, -1, i
        for j in range(i):
            d = squared(rapidity[i], phi[i], rapidity[j], phi[j])
            if d < near[i]:
                near[i], neighbour[i] = d, j
            if d < near[j]:
                near[j], neighbour[j] = d, i
    for i in range(n):
        distance[i] = near[i] * (
            min(weight[i], weight[neighbour[i]]) if neighbour[i] >= 0 else weight[i]
        )
    n_rows, m = n, n
    while m > 0:
        if m <= N_AXES:
            for i in range(m):
                axes[m - 1, i, 0], axes[m - 1, i, 1] = rapidity[i], phi[i]
                if pseudorapidity:
                    axes[m - 1, i, 0] = math.asinh(momenta[row[i], 2] / pt[i])
        if m <= stop:
            break
        best, a = FAR, 0
        for i in range(m):
            if distance[i] < best:
                best, a = distance[i], i
        b = neighbour[a]
        alone = b < 0
        if alone:
            b = a
            ended[n_ended] = row[a]
            n_ended += 1
        else:
            a, b = min(a, b), max(a, b)
            if winner:
                if pt[b] > pt[a]:
                    rapidity[a], phi[a] = rapidity[b], phi[b]
                pt[a] += pt[b]
            else:
                for c in range(4):
                    momenta[n_rows, c] = momenta[row[a], c] + momenta[row[b], c]
                px, py, pz, energy = (
                    momenta[n_rows, 0],
                    momenta[n_rows, 1],
                    momenta[n_rows, 2],
                    momenta[n_rows, 3],
                )
                rapidity[a], phi[a] = _rapidity(px * px + py * py, pz, energy), math.atan2(py, px)
                pt[a] = math.sqrt(px * px + py * py)
                parents[n_rows, 0], parents[n_rows, 1] = row[a], row[b]
                row[a] = n_rows
                n_rows += 1
            weight[a] = _weight(pt[a], power)
        m -= 1  # the last one takes the place of b
        rapidity[b], phi[b], pt[b], weight[b], row[b] = (
            rapidity[m],
            phi[m],
            pt[m],
            weight[m],
            row[m],
        )
        near[b], distance[b], neighbour[b] = near[m], distance[m], neighbour[m]
        a_rapidity, a_phi, a_near, a_neighbour = rapidity[a], phi[a], limit, -1
        for i in range(m):
            old = neighbour[i]
            if i == a and not alone:
                continue
            if old in (a, b):
                near[i], neighbour[i] = _nearest(i, m, rapidity, phi, limit)
                distance[i] = near[i] * (
                    min(weight[i], weight[neighbour[i]]) if neighbour[i] >= 0 else weight[i]
                )
            elif old == m:
                neighbour[i] = b
            if not alone:
                d = squared(rapidity[i], phi[i], a_rapidity, a_phi)
                if d < near[i]:
                    near[i], neighbour[i] = d, a
                    distance[i] = d * min(weight[i], weight[a])
                if d < a_near:
                    a_near, a_neighbour = d, i
        if not alone:
            near[a], neighbour[a] = a_near, a_neighbour
            distance[a] = a_near * (
                min(weight[a], weight[a_neighbour]) if a_neighbour >= 0 else weight[a]
            )
    ended[n_ended : n_ended + m] = row[:m]
    return n_rows - 1


@compiled
def _groomed_mass2(top, n, z_cut, beta, radius, momenta, parents):
    """Squared mass of what soft drop (arXiv:1402.2657, eq. 1.1) leaves of the cluster `top`."""
    while top >= n:
        hard, soft = parents[top, 0], parents[top, 1]
        hard_pt2 = momenta[hard, 0] ** 2 + momenta[hard, 1] ** 2
        soft_pt2 = momenta[soft, 0] ** 2 + momenta[soft, 1] ** 2
        if soft_pt2 > hard_pt2:
            hard, soft, hard_pt2, soft_pt2 = soft, hard, soft_pt2, hard_pt2
        threshold = z_cut
        if beta != 0:
            apart = squared(
                _rapidity(hard_pt2, momenta[hard, 2], momenta[hard, 3]),
                math.atan2(momenta[hard, 1], momenta[hard, 0]),
                _rapidity(soft_pt2, momenta[soft, 2], momenta[soft, 3]),
                math.atan2(momenta[soft, 1], momenta[soft, 0]),
            )
            threshold *= (apart / radius**2) ** (beta / 2)
        if math.sqrt(soft_pt2) > threshold * (math.sqrt(soft_pt2) + math.sqrt(hard_pt2)):
            break
        top = hard
    px, py, pz, energy = momenta[top, 0], momenta[top, 1], momenta[top, 2], momenta[top, 3]
    return (energy + pz) * (energy - pz) - px * px - py * py


@compiled
def _minimise(k, start, stop, pt, rapidity, phi, beta, axes, new):
    """Move k axes to a minimum of tau (arXiv:1108.2701), step by step until they move by less than
    the accuracy.
    """
    for _ in range(PASSES):
        for q in range(k):
            new[q, 0] = new[q, 1] = new[q, 2] = 0.0
        for i in range(start, stop):
            best, at = FAR, 0
            for q in range(k):
                d = squared(rapidity[i], phi[i], axes[q, 0], axes[q, 1])
                if d < best:
                    best, at = d, q
            pull = pt[i] * (best + ACCURACY**2) ** (beta / 2 - 1)
            across = phi[i] - axes[at, 1]
            across -= 2 * math.pi * round(across / (2 * math.pi))
            new[at, 0] += pull * rapidity[i]
            new[at, 1] += pull * across
            new[at, 2] += pull
        moved = 0.0
        for q in range(k):
            if new[q, 2] > 0:
                across = new[q, 1] / new[q, 2]
                moved += math.hypot(new[q, 0] / new[q, 2] - axes[q, 0], across)
                axes[q, 0], axes[q, 1] = new[q, 0] / new[q, 2], axes[q, 1] + across
                axes[q, 1] -= 2 * math.pi * round(axes[q, 1] / (2 * math.pi))
        if moved <= k * ACCURACY:
            break


@compiled
def subjettiness(
    offsets, pt, rapidity, phi, momenta, winner, minimised, limit, pseudorapidity, beta, radius, out
):
    """tau1 to tau4 of each jet into out (N, 4); 0 where there are no more constituents than axes."""
    nodes, parents, work, index = room(offsets)
    axes, new = np.empty((N_AXES, N_AXES, 2)), np.empty((N_AXES, 3))
    for jet in range(len(out)):
        start, stop = offsets[jet], offsets[jet + 1]
        n = load(offsets, jet, pt, rapidity, phi, momenta, nodes, work)
        cluster(n, 1, winner, limit, 1, nodes, parents, work, index, axes, pseudorapidity)
        norm = 0.0
        for i in range(start, stop):
            norm += pt[i]
        norm *= radius**beta
        for k in range(1, N_AXES + 1):
            out[jet, k - 1] = 0.0
            if n <= k:
                continue
            here = axes[k - 1]
            if minimised:
                _minimise(k, start, stop, pt, rapidity, phi, beta, here, new)
            total = 0.0
            for i in range(start, stop):
                near = FAR
                for q in range(k):
                    near = min(near, squared(rapidity[i], phi[i], here[q, 0], here[q, 1]))
                total += pt[i] * (math.sqrt(near) if beta == 1 else near ** (beta / 2))
            out[jet, k - 1] = total / norm


@compiled
def softdrop(offsets, pt, rapidity, phi, momenta, z_cut, beta, radius, out):
    """Mass of each jet after soft drop into out (N,), 0 where rounding makes its square negative."""
    nodes, parents, work, index = room(offsets)
    axes = np.empty((N_AXES, N_AXES, 2))
    for jet in range(len(out)):
        out[jet] = 0.0
        n = load(offsets, jet, pt, rapidity, phi, momenta, nodes, work)
        if n > 0:
            top = cluster(n, 0, False, FAR, 1, nodes, parents, work, index, axes, False)
            out[jet] = math.sqrt(
                max(_groomed_mass2(top, n, z_cut, beta, radius, nodes, parents), 0.0)
            )


@compiled
def decluster(offsets, pt, rapidity, phi, momenta, out, n_steps, step):
    """Undo Cambridge/Aachen along the harder branch, one row of out (T, 5) a splitting: delta_r, z,
    kt, mass, pt.

    A jet of n constituents has at most n - 1 splittings, in the rows of its constituents; n_steps
    (N,) says how many. step (T,): at which of them a constituent is in the softer branch, n_steps
    for the one that is left in the end.
    """
    nodes, parents, work, index = room(offsets)
    axes, stack = np.empty((N_AXES, N_AXES, 2)), np.empty(2 * _longest(offsets), np.int64)
    for jet in range(len(n_steps)):
        first = offsets[jet]
        n = load(offsets, jet, pt, rapidity, phi, momenta, nodes, work)
        n_steps[jet] = 0
        if n == 0:
            continue
        top, k = cluster(n, 0, False, FAR, 1, nodes, parents, work, index, axes, False), 0
        while top >= n:
            hard, soft = parents[top, 0], parents[top, 1]
            hard_pt2 = nodes[hard, 0] ** 2 + nodes[hard, 1] ** 2
            soft_pt2 = nodes[soft, 0] ** 2 + nodes[soft, 1] ** 2
            if soft_pt2 > hard_pt2:
                hard, soft, hard_pt2, soft_pt2 = soft, hard, soft_pt2, hard_pt2
            apart = math.sqrt(
                squared(
                    _rapidity(hard_pt2, nodes[hard, 2], nodes[hard, 3]),
                    math.atan2(nodes[hard, 1], nodes[hard, 0]),
                    _rapidity(soft_pt2, nodes[soft, 2], nodes[soft, 3]),
                    math.atan2(nodes[soft, 1], nodes[soft, 0]),
                )
            )
            px, py, pz, energy = nodes[top, 0], nodes[top, 1], nodes[top, 2], nodes[top, 3]
            out[first + k, 0] = apart
            out[first + k, 1] = math.sqrt(soft_pt2) / (math.sqrt(soft_pt2) + math.sqrt(hard_pt2))
            out[first + k, 2] = math.sqrt(soft_pt2) * apart
            out[first + k, 3] = math.sqrt(
                max((energy + pz) * (energy - pz) - px * px - py * py, 0.0)
            )
            out[first + k, 4] = math.sqrt(px * px + py * py)
            stack[0], m = soft, 1
            while m > 0:
                m -= 1
                node = stack[m]
                if node < n:
                    step[first + node] = k
                else:
                    stack[m], stack[m + 1] = parents[node, 0], parents[node, 1]
                    m += 2
            top, k = hard, k + 1
        step[first + top] = k
        n_steps[jet] = k


@_compiled.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _triangles(n, link):
    """Sum over i < j < k of link[i, j] link[i, k] link[j, k]: sums in any order, and so several at
    a time.
    """
    total = 0.0
    for i in range(n):
        for j in range(i + 1, n):
            dot = 0.0
            for k in range(j + 1, n):
                dot += link[i, k] * link[j, k]
            total += link[i, j] * dot
    return total


@compiled
def correlations(offsets, pt, rapidity, phi, beta, three, out):
    """e2 and, if `three`, e3 of each jet (arXiv:1409.6298, eq. 1 and 2) into out (N, 2); 0 for too
    few constituents.
    """
    longest = _longest(offsets)
    link = np.empty((longest, longest))
    for jet in range(len(out)):
        start, n = offsets[jet], offsets[jet + 1] - offsets[jet]
        total, two = 0.0, 0.0
        for i in range(start, start + n):
            total += pt[i]
        for i in range(n):
            for j in range(i + 1, n):
                d = squared(
                    rapidity[start + i], phi[start + i], rapidity[start + j], phi[start + j]
                )
                d = math.sqrt(d) if beta == 1 else d ** (beta / 2)
                both = pt[start + i] * pt[start + j] / total**2
                two += both * d
                link[i, j] = math.sqrt(both) * d  # each constituent has two links in a triangle
        out[jet, 0] = two
        out[jet, 1] = _triangles(n, link) if three else 0.0
