"""What the files of a league say: tables, and which differences count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jetnb import _json, metrics
from jetnb.league import judging

REMEDY = "give the folder of a league, as `jetnb league` leaves it"


class Run(NamedTuple):
    """One file: the row, its seed, the rules, and what was found, {column: entry}, the pretraining
    among them.
    """

    row: dict
    seed: int
    rules: dict
    entries: dict[str, dict]

    @property
    def name(self) -> str:
        return self.row["name"]


class Ranking(NamedTuple):
    """Rows and what `metrics.rank_test` says of them; left_out: rows that lack a block; blocks:
    (column, labels to train with) each.
    """

    names: list[str]
    test: metrics.RankTest
    blocks: list[tuple[str, int]]
    left_out: list[str]

    def __repr__(self) -> str:
        order = np.argsort(self.test.ranks, kind="stable")
        lines = [f"{self.test.ranks[i]:5.2f}  {self.names[i]}" for i in order]
        said = (
            f"Friedman: p = {self.test.p_value:.2g}; mean ranks nearer than "
            f"{self.test.critical_difference:.2f} cannot be told apart, {len(self.blocks)} blocks"
        )
        if self.left_out:
            said += f"; left out, since a block is missing: {', '.join(self.left_out)}"
        return "\n".join([*lines, said])


def read(folder) -> list[Run]:
    """All runs in `folder`. Raises `FileNotFoundError` where there are none, and `ValueError` naming
    the file and the line that is none. Taught in notebook 17.
    """
    files = sorted(Path(folder).glob("*.jsonl"))
    if not files:
        raise FileNotFoundError(f"{folder} has no file *.jsonl: {REMEDY}")
    return [_run(file) for file in files]


def _run(file: Path) -> Run:
    entries, head = {}, {}
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), start=1):
        about = dict(source=f"{file}, line {number},", what="entry of a league", remedy=REMEDY)
        if number == 1:
            head = _json.parse(line, {"settings": dict}, **about)["settings"]
            _json.check(head, {"row": dict, "seed": int, "rules": dict}, **about)
            _json.check(head["row"], {"name": str}, **about)
        else:
            entry = _json.parse(line, {"run": dict, "result": dict}, **about)
            entries[str(entry["run"].get("column"))] = entry["result"]
    if not head:
        raise ValueError(f"{file} has no line with settings: {REMEDY}")
    return Run(head["row"], head["seed"], head["rules"], entries)


def scores(
    runs: Iterable[Run],
    column: str,
    *,
    way: str = "finetuned",
    value: str = "accuracy",
    budget: int | None = None,
    test: str = "",
) -> dict[str, dict[int, float]]:
    """{row: {seed: value}} of a column, of the runs that have it, in the order of the names.

    way: one of `judging.WAYS`; rows that are not pretrained have no "new head" of their own, there it
    is "finetuned". value: a name in the records, such as "auc", "rejection_50", "ece" or
    "log_loss_scaled"; or "neighbours", which knows no way and no budget. budget: labels to train
    with; the largest without. test: the version of the test jets, "" as they are. Taught in notebook
    17.
    """
    found: dict[str, dict[int, float]] = {}
    for run in runs:
        if (entry := run.entries.get(column)) is None:
            continue
        at = max(entry["budgets"]) if budget is None else budget
        if value == "neighbours":
            found.setdefault(run.name, {})[run.seed] = entry["neighbours"]
            continue
        own = "finetuned" if way == "new head" and run.row["start"] != "pretrained" else way
        for one in entry["records"]:
            here = one["way"] == own and one["budget"] == at and one["test"] == test
            if here and one.get(value) is not None:
                found.setdefault(run.name, {})[run.seed] = one[value]
    return found


def budgets(runs: Iterable[Run], column: str) -> list[int]:
    """The labels to train with of a column."""
    return sorted({n for run in runs for n in run.entries.get(column, {}).get("budgets", ())})


def verdict(
    runs: Iterable[Run], *, columns: Iterable[str], way: str = "finetuned", value: str = "accuracy"
) -> Ranking:
    """Rank the rows over all columns and budgets, the mean of the seeds in each, of the seeds that
    all of them have. No run is dropped: a row that lacks a block is left out as a whole and named.
    Raises `ValueError` as `metrics.rank_test`, for too few. Taught in notebook 17.
    """
    runs = list(runs)
    blocks = [(column, n) for column in columns for n in budgets(runs, column)]
    tables = [scores(runs, column, way=way, value=value, budget=n) for column, n in blocks]
    names = list(dict.fromkeys(run.name for run in runs))
    kept = [name for name in names if all(name in table for table in tables)]
    seeds = [set(table[name]) for table in tables for name in kept]
    common = sorted(set.intersection(*seeds)) if seeds else []
    if not common:
        raise ValueError(
            f"no seed is in all of columns {', '.join(columns)}: judge more rows or seeds"
        )
    values = [[np.mean([table[name][s] for s in common]) for table in tables] for name in kept]
    left_out = [name for name in names if name not in kept]
    return Ranking(kept, metrics.rank_test(values), blocks, left_out)


def show(found: Mapping[str, Mapping[str, Mapping[int, float]]], *, digits: int = 3) -> str:
    """A table as text: {heading: what `scores` returns}; mean of the seeds, and in brackets the
    largest distance of a seed from it.
    """
    names = list(dict.fromkeys(name for column in found.values() for name in column))
    width = max([16, *map(len, found)]) + 2
    lines = [" " * 24 + "".join(f"{heading:>{width}}" for heading in found)]
    for name in names:
        cells = []
        for column in found.values():
            values = np.array(list(column.get(name, {}).values()))
            if not len(values):
                cells.append("-")
                continue
            spread = (
                f" ({np.abs(values - values.mean()).max():.{digits}f})" if len(values) > 1 else ""
            )
            cells.append(f"{values.mean():.{digits}f}{spread}")
        lines.append(f"{name:24}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def text(runs: list[Run]) -> str:
    """The whole league as text, a table for each column: what `jetnb league` prints at its end."""
    parts = []
    for column in dict.fromkeys(
        name for run in runs for name in run.entries if name != "pretraining"
    ):
        at = budgets(runs, column)
        found = {
            f"{way}, {n}": scores(runs, column, way=way, budget=n)
            for way in judging.WAYS
            for n in at[-2:]
        }
        found["neighbours"] = scores(runs, column, value="neighbours")
        parts.append(
            f"{column}: accuracy by labels to train with, mean of the seeds (largest distance from it)"
        )
        parts.append(show(found))
    return "\n".join(parts)
