"""What a published file should be: of the size and checksum that its publisher gives, or else as it
first came.

In the latter case size and sha256 are kept in `<file>.received.json` beside the file, and compared
from then on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import pooch

from jetnb import _json, atomic
from jetnb.data.datasets import RemoteFile


class Known(NamedTuple):
    """Bytes or None, checksum as "md5:..." or "sha256:...", or "", and whose they are."""

    n_bytes: int | None
    checksum: str
    whose: str

    def wrong(self, path: Path, check: bool) -> str:
        """What about a file is not as it should be, "" if nothing; its checksum is only looked at
        with `check`.
        """
        if self.n_bytes not in (None, n_bytes := path.stat().st_size):
            return f"{n_bytes:,} bytes, {self.whose} {self.n_bytes:,}"
        kind, _, wanted = self.checksum.partition(":")
        if check and kind and (found := pooch.file_hash(str(path), kind)) != wanted:
            return f"{kind} {found}, {self.whose} {wanted}"
        return ""


def record_of(path: Path) -> Path:
    """Where the record of a file is."""
    return path.with_name(f"{path.name}.received.json")


def known(file: RemoteFile, path: Path) -> Known:
    """What `file`, which is or will be at `path`, should be. Raises `ValueError` for a damaged
    record.
    """
    if not file.checksum and (record := record_of(path)).exists():
        found = _json.read(
            record,
            {"n_bytes": int, "sha256": str},
            what="record of a download",
            remedy="remove it, and the file is recorded anew",
        )
        return Known(
            found["n_bytes"], f"sha256:{found['sha256']}", f"what came first, as {record} says,"
        )
    return Known(file.n_bytes, file.checksum, "the published file")


def write(file: RemoteFile, path: Path, content: Path) -> None:
    """Record that `content` came for the file at `path`."""
    about = {
        "address": file.address,
        "n_bytes": content.stat().st_size,
        "sha256": pooch.file_hash(str(content), "sha256"),
    }
    with atomic.new_file(record_of(path), replace=True) as hidden:
        hidden.write_text(json.dumps(about, indent=1) + "\n")
