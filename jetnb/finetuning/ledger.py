"""Results of many runs in a JSON-lines file, each added when it is done, so that nothing is done
twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from jetnb import _json, atomic, checkpoints

REMEDY = "choose another path"


class Ledger:
    """`run in ledger`, `ledger[run]` and `ledger.add(run, result)`, for runs that are dicts of
    names and numbers.

    path: the file, or None to keep all in memory. settings: what its runs share; they are its first
    line. The file is plain text, and nothing that is read from it is executed. The end of a line
    that a killed process left is cut off, and several processes may add to one file: each sees what
    the others did when it adds. Raises `ValueError` where the settings differ, naming the first
    that does, and for a file that is something else. Taught in notebook 06.

    >>> kept = Ledger(None)
    >>> kept.add({"jets": 100, "seed": 1}, {"loss": 0.5})
    >>> {"seed": 1, "jets": 100} in kept, kept[{"jets": 100, "seed": 1}]["loss"]
    (True, 0.5)
    """

    def __init__(self, path, settings: Mapping | None = None):
        self.path, self._found, self._read, self._lines = (
            None if path is None else Path(path),
            {},
            0,
            0,
        )
        self._settings = json.loads(json.dumps(settings or {}))
        if self.path is None:
            return
        if not self.path.exists():
            with atomic.new_file(self.path) as file:
                file.write_text(json.dumps({"settings": self._settings}) + "\n")
        with self.path.open("rb") as stream:
            self._catch_up(stream)
        if not self._lines:
            raise ValueError(f"{self.path} has no line with settings: {REMEDY}")

    def __contains__(self, run: Mapping) -> bool:
        return _key(run) in self._found

    def __getitem__(self, run: Mapping) -> dict:
        return self._found[_key(run)]

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[dict]:
        """The runs that are done, in the order of the file."""
        return map(json.loads, self._found)

    def add(self, run: Mapping, result: Mapping, scores: np.ndarray | None = None) -> None:
        """Add a run with its `result`, which JSON can hold; all is on disk at the return.

        scores: an array, kept as .npy in the folder `path` without suffix; its name is the result's
        "scores".
        """
        result = json.loads(json.dumps(result))
        if scores is not None:
            name = "-".join(
                f"{value:g}" if isinstance(value, float) else str(value) for value in run.values()
            )
            file = self.path.with_suffix("") / f"{name}.npy"
            with atomic.new_file(file, replace=True) as hidden, hidden.open("wb") as stream:
                np.save(stream, scores)
            result["scores"] = str(file)
        if self.path is None:
            self._found[_key(run)] = result
            return
        with self.path.open("rb+") as stream, atomic.held(stream):
            stream.truncate(self._catch_up(stream))
            stream.seek(self._read)
            stream.write(json.dumps({"run": dict(run), "result": result}).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
            self._catch_up(stream)

    def _catch_up(self, stream) -> int:
        """Read the lines that have come since; returns where the last whole one ends."""
        if stream.seek(0, os.SEEK_END) < self._read:
            raise ValueError(f"{self.path} has become shorter: {REMEDY}")
        stream.seek(self._read)
        whole, newline, _ = stream.read().rpartition(b"\n")
        for line in (whole + newline).splitlines():
            self._lines += 1
            about = dict(source=f"{self.path}, line {self._lines},", what="run", remedy=REMEDY)
            if self._lines > 1:
                entry = _json.parse(line, {"run": dict, "result": dict}, **about)
                self._found[_key(entry["run"])] = entry["result"]
            elif found := checkpoints.difference(
                _json.parse(line, {"settings": dict}, **about)["settings"], self._settings
            ):
                raise ValueError(
                    f"the runs in {self.path} have other settings: {found}; pass the same, or {REMEDY}"
                )
        self._read += len(whole + newline)
        return self._read


def _key(run: Mapping) -> str:
    return json.dumps(dict(run), sort_keys=True)
