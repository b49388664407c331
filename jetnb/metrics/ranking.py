"""Which of several methods are better, over several tasks: ranks, and how far apart they must be."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats


class RankTest(NamedTuple):
    """ranks (R,): mean rank of each row, 1 the best. p_value: of Friedman's test, that the rows are
    all alike. critical_difference: mean ranks nearer than this cannot be told apart. n_blocks: N.
    """

    ranks: np.ndarray
    p_value: float
    critical_difference: float
    n_blocks: int

    def alike(self) -> list[tuple[int, ...]]:
        """The largest groups of rows, by place in `ranks`, that cannot be told apart, best first."""
        order = np.argsort(self.ranks, kind="stable")
        groups = []
        for first in range(len(order)):
            near = self.ranks[order[first:]] - self.ranks[order[first]] < self.critical_difference
            group = order[first : first + int(near.sum())]
            if not groups or group[-1] not in groups[-1]:
                groups.append(tuple(int(i) for i in group))
        return groups


def rank_test(values, *, level: float = 0.95) -> RankTest:
    """Friedman's test of R methods in N blocks, such as tasks, and Nemenyi's critical difference.

    values: (R, N), higher is better; ties share a rank. The blocks should not depend on each other;
    where they do, as with nested labels, the critical difference is too small. level: of the critical
    difference. Raises `ValueError` for fewer than three methods or two blocks, and for values that are
    not finite. Sources: Journal of Machine Learning Research 7 (2006) 1, section 3.2. Taught in
    notebook 17.

    >>> round(rank_test(np.arange(56).reshape(4, 14)).critical_difference, 2)
    1.25
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 2:
        raise ValueError(
            f"values has shape {values.shape}: it must be (methods, blocks), three and two at least"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"values of method {np.argmin(np.isfinite(values).all(1))} are not all finite"
        )
    n_rows, n_blocks = values.shape
    ranks = stats.rankdata(-values, axis=0).mean(axis=1)
    alike = (values == values[:1]).all()
    p_value = 1.0 if alike else float(stats.friedmanchisquare(*values).pvalue)
    q = stats.studentized_range.ppf(level, n_rows, np.inf) / np.sqrt(2)
    reach = q * np.sqrt(n_rows * (n_rows + 1) / (6 * n_blocks))
    return RankTest(ranks, p_value, float(reach), n_blocks)
