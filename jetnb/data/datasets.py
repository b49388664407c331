"""The published datasets of jets: what they are, who to cite, and where each file lies.

Nothing here touches the network: `jetnb.data.download` does.
"""

from __future__ import annotations

import difflib
import fnmatch
import itertools
import re
from collections.abc import Iterable

from jetnb.data.published import DATASETS, Dataset, RemoteFile


def find(name: str) -> Dataset:
    """The dataset of that name. Raises `ValueError` that lists the names."""
    if name not in DATASETS:
        close = difflib.get_close_matches(str(name), DATASETS, 1)
        raise ValueError(
            f"{name!r} is no published dataset"
            + (f": did you mean {close[0]!r}?" if close else ".")
            + f" They are {', '.join(DATASETS)}"
        )
    return DATASETS[name]


def choose(dataset: str | Dataset, files: str | Iterable[str] | None) -> tuple[RemoteFile, ...]:
    """The files of a dataset that are asked for, in its order: names, patterns such as
    ``"RunG_*"``, or ``"all"``.

    Raises `ValueError` that lists what there is and how much, for no files (None), or a name that
    fits none.
    """
    dataset = find(dataset) if isinstance(dataset, str) else dataset
    if not dataset.files:
        raise ValueError(
            f"fetch the files of {dataset.name} by hand from {dataset.record}. {dataset.by_hand}"
        )
    patterns = [files] if isinstance(files, str) else list(files or ())
    there = f"{dataset.name} has\n{summary(dataset.files)}"
    if not patterns:
        raise ValueError(f"say which files: a name, a pattern, several of them, or 'all'. {there}")
    chosen = set()
    for pattern in patterns:
        fit = {
            file
            for file in dataset.files
            if pattern == "all" or fnmatch.fnmatchcase(file.name, pattern)
        }
        if not fit:
            raise ValueError(f"no file of {dataset.name} is called {pattern!r}. {there}")
        chosen |= fit
    return tuple(file for file in dataset.files if file in chosen)


def summary(files: Iterable[RemoteFile]) -> str:
    """One line for each kind of file: a pattern, how many, how much; and the total, if there are
    several.
    """
    groups = [
        (pattern, list(group))
        for pattern, group in itertools.groupby(
            files, lambda file: re.sub(r"\d+(?=\.\w+$)", "*", file.name)
        )
    ]
    lines = [
        f"  {pattern if len(group) > 1 else group[0].name} ({_amount(group)})"
        for pattern, group in groups
    ]
    if len(groups) > 1:
        lines.append(f"  all ({_amount([file for _, group in groups for file in group])})")
    return "\n".join(lines)


def _amount(files: list[RemoteFile]) -> str:
    known = sum(file.n_bytes or 0 for file in files)
    if all(file.n_bytes is None for file in files):
        size = "size not known"
    else:
        more = "more than " if any(file.n_bytes is None for file in files) else ""
        size = more + (f"{known / 1e9:,.1f} GB" if known >= 1e9 else f"{known / 1e6:,.1f} MB")
    return (f"{len(files)} files, " if len(files) > 1 else "") + size


def describe(dataset: str | Dataset) -> str:
    """What a dataset is, who to cite, what files there are, as text. Raises as `find` does."""
    dataset = find(dataset) if isinstance(dataset, str) else dataset
    parts = [
        f"{dataset.name}: {dataset.title}",
        dataset.description,
        f"licence: {dataset.licence}",
        f"cite: {dataset.citation}",
        f"record: {dataset.record}",
    ]
    if dataset.files:
        parts.append(f"files:\n{summary(dataset.files)}")
    return "\n".join([*parts, *([dataset.by_hand] if dataset.by_hand else [])])
