"""JSON that was read from a file and is what it should be: the one way in for cards, settings and
histories.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

LIMIT = 64 * 1024 * 1024  # bytes; no record of ours comes near


def read(
    path, fields: Mapping[str, type | tuple[type, ...]] | None = None, *, what: str, remedy: str
) -> dict:
    """The record in the file `path`, with at least `fields` of these types.

    what: names the record in errors, e.g. "card of a checkpoint"; remedy: what to do about a
    damaged one. Raises `FileNotFoundError` and `PermissionError` as opening does, and `ValueError`
    naming file, field and value for what is no such record.
    """
    path = Path(path)
    if (size := path.stat().st_size) > LIMIT:
        raise ValueError(f"{path} is no {what}: it has {size} bytes: {remedy}")
    return parse(path.read_bytes(), fields, source=path, what=what, remedy=remedy)


def parse(
    text: str | bytes,
    fields: Mapping[str, type | tuple[type, ...]] | None = None,
    *,
    source,
    what: str,
    remedy: str,
) -> dict:
    """As `read`, of a text that came from `source`."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{source} is no {what} ({error or type(error).__name__}): {remedy}"
        ) from None
    return check(record, fields, source=source, what=what, remedy=remedy)


def check(
    record,
    fields: Mapping[str, type | tuple[type, ...]] | None = None,
    *,
    source,
    what: str,
    remedy: str,
) -> dict:
    """`record` if it is as `read` would return it. Raises as `read` does."""
    if not isinstance(record, dict):
        raise ValueError(f"{source} is no {what}, but a {type(record).__name__}: {remedy}")
    for name, kinds in (fields or {}).items():
        if name not in record:
            raise ValueError(f"{source} is no {what}: it has no {name!r}: {remedy}")
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        value = record[name]
        if not isinstance(value, kinds) or isinstance(value, bool) and bool not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"{source} is no {what}: {name!r} is {value!r:.80}, not {wanted}: {remedy}"
            )
    return record
