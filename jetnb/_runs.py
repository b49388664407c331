"""Results of many runs in a JSON-lines file, each added when it is done, so that nothing is done twice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jetnb import atomic, checkpoints


class Runs:
    """`run in runs`, `runs[run]` and `runs.add(run, record)` for runs that are dicts of names and numbers.

    path: the file, or None to keep them in memory alone. Its first line has the settings, which all its runs share;
    the end of a line that a killed process left is cut off. Raises ValueError where the settings differ, naming the
    first that does, and for a file that is something else.
    """

    def __init__(self, path, settings: Mapping):
        self.path, self._found = None if path is None else Path(path), {}
        if self.path is None:
            return
        header = {"settings": json.loads(json.dumps(settings))}
        if not self.path.exists():
            with atomic.new_file(self.path) as file:
                file.write_text(json.dumps(header) + "\n")
        whole, newline, rest = self.path.read_bytes().rpartition(b"\n")
        for i, line in enumerate((whole + newline).splitlines()):
            try:
                entry = json.loads(line)
                if i == 0:
                    found = checkpoints.difference(entry["settings"], header["settings"])
                else:
                    self._found[_key(entry["run"])] = entry["result"]
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{self.path}, line {i + 1} is no run: choose another path") from None
            if i == 0 and found:
                raise ValueError(f"the runs in {self.path} have other settings: {found}; pass the same, or choose "
                                 "another path")
        if not newline:
            raise ValueError(f"{self.path} has no line with settings: choose another path")
        if rest:
            os.truncate(self.path, len(whole + newline))

    def __contains__(self, run: Mapping) -> bool:
        return _key(run) in self._found

    def __getitem__(self, run: Mapping) -> dict:
        return self._found[_key(run)]

    def add(self, run: Mapping, result: Mapping, scores: np.ndarray | None = None) -> None:
        """Add a run, and its `scores` as .npy in the folder `path` without suffix; all is on disk at the return."""
        result = {**result, "scores": ""}
        if scores is not None:
            name = "-".join(f"{value:g}" if isinstance(value, float) else str(value) for value in run.values())
            file = self.path.with_suffix("") / f"{name}.npy"
            with atomic.new_file(file, replace=True) as hidden, hidden.open("wb") as stream:
                np.save(stream, scores)
            result["scores"] = str(file)
        if self.path is not None:
            with self.path.open("a") as stream:
                stream.write(json.dumps({"run": dict(run), "result": result}) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
        self._found[_key(run)] = result


def _key(run: Mapping) -> str:
    return json.dumps(dict(run), sort_keys=True)
