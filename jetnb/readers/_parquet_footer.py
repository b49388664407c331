"""What a Parquet file claims, in its footer and in the headers of its pages: read and compared
before Arrow sees it.

Arrow takes as much memory as a header asks for, and ends the process at some damaged footers.
Footer and headers are structs in the compact protocol of Apache Thrift; a struct becomes {number of
field: value}.
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from jetnb.readers._common import BLOCK

LONGEST = 64 << 20  # bytes of a footer
HEADER = 1 << 14  # bytes in which the header of a page must fit
DICTIONARY = 2  # type of a page
# Of a column in a row group at most: so many, or so many for each row if that is more.
VALUES, MEAN = (8_000_000, 256)
TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


class Column(NamedTuple):
    """A column of one row group: name, values, bytes unpacked and packed, where its pages begin."""

    name: str
    n_values: int
    unpacked: int
    packed: int
    start: int


class Group(NamedTuple):
    """A row group: rows, columns."""

    n_rows: int
    columns: list[Column]


def groups(path) -> list[Group]:
    """The row groups of the Parquet file at `path`; `ValueError` for a footer that is damaged or
    leads elsewhere.
    """
    size = os.stat(path).st_size
    with Path(path).open("rb") as stream:
        stream.seek(max(0, size - 8))
        end = stream.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != b"PAR1" or not 0 < length <= min(size - 12, LONGEST):
            raise ValueError("its end is not that of Parquet")
        stream.seek(size - 8 - length)
        footer, _ = _struct(stream.read(length), 0, 0)
    try:
        found = [Group(group[3], [_column(column) for column in group[1]]) for group in footer[4]]
        n_rows = footer[3]
        total = sum(group.n_rows for group in found)
    except (KeyError, TypeError, IndexError, AttributeError):
        raise ValueError("its footer is damaged") from None
    if total != n_rows or any(group.n_rows < 0 for group in found):
        raise ValueError(f"it claims {n_rows} rows, its row groups {total}")
    for group in found:
        for column in group.columns:
            if not (
                0 <= column.start <= column.start + column.packed <= size - 8 - length
                and column.unpacked >= 0
            ):
                raise ValueError(f"column {column.name!r} is said to lie outside of the file")
    return found


def _column(chunk: dict) -> Column:
    if chunk.get(1):
        raise ValueError(f"a column is said to lie in another file, {chunk[1][:80]!r}")
    about = chunk[3]
    name = ".".join(part.decode("utf-8", "backslashreplace") for part in about[3])
    start = min(about[9], about.get(11) or about[9])
    if not all(isinstance(about[field], int) for field in (5, 6, 7, 9)):
        raise TypeError
    return Column(name, about[5], about[6], about[7], start)


def pages(path, column: Column) -> list[tuple[int, int, int]]:
    """Type, number of values and bytes unpacked of each page of the column, as the headers of the
    pages say.
    """
    found, at, end = [], column.start, column.start + column.packed
    with Path(path).open("rb") as stream:
        while at < end:
            stream.seek(at)
            header, length = _struct(stream.read(min(HEADER, end - at)), 0, 0)
            about = header.get(5) or header.get(7) or header.get(8) or {}
            kind, unpacked, packed, n_values = (
                header.get(1),
                header.get(2),
                header.get(3),
                about.get(1),
            )
            if not all(
                isinstance(value, int) and value >= 0
                for value in (kind, unpacked, packed, n_values)
            ):
                raise ValueError(f"a page of column {column.name!r} is damaged")
            found.append((kind, n_values, unpacked))
            at += length + packed
    if at != end:
        raise ValueError(f"the pages of column {column.name!r} are longer than it")
    return found


def check(path, names: Container[str], *, lists: str) -> None:
    """Raise `ValueError` where a column of `names` claims more than memory should hold, or other
    than its pages do.

    lists: how the names of columns start that have a list of values for each row, not one value.
    """
    found = groups(path)  # all are looked at before the first page is
    columns = [
        (f"column {column.name!r:.80} of row group {i}", group.n_rows, column)
        for i, group in enumerate(found)
        if group.n_rows
        for column in group.columns
        if column.name.partition(".")[0] in names
    ]
    for what, n_rows, column in columns:
        n = column.n_values
        if n < n_rows or n != n_rows and not column.name.startswith(lists):
            raise ValueError(f"{what} has {n:,} values for {n_rows:,} rows")
        if n > (most := max(VALUES, MEAN * n_rows)) or column.unpacked > BLOCK:
            raise ValueError(
                f"{what} claims {n:,} values of {column.unpacked:,} bytes for {n_rows:,} rows; more than "
                f"{most:,} values or {BLOCK:,} bytes are not read"
            )
    for what, _, column in columns:
        held = pages(path, column)
        n = sum(n for kind, n, _ in held if kind != DICTIONARY)
        if n != column.n_values or sum(unpacked for *_, unpacked in held) > column.unpacked:
            raise ValueError(
                f"the pages of {what} hold {n:,} values, where {column.n_values:,} are claimed, or more "
                "bytes than that"
            )


def _struct(data: bytes, at: int, depth: int) -> tuple[dict, int]:
    if depth > 16:
        raise ValueError("its footer is damaged")
    found, field = {}, 0
    try:
        while head := data[at]:
            at += 1
            field += head >> 4
            if not head >> 4:
                field, at = _number(data, at)
            found[field], at = _value(data, at, head & 15, depth)
    except IndexError:
        raise ValueError("its footer, or the header of a page, is damaged") from None
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int):
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return data[at], at + 1
    if kind < DOUBLE:
        return _number(data, at)
    if kind == DOUBLE:
        return data[at : at + 8], at + 8
    if kind == STRUCT:
        return _struct(data, at, depth + 1)
    if kind == BINARY:
        length, at = _varint(data, at)
        if length > len(data) - at:
            raise IndexError
        return data[at : at + length], at + length
    if kind not in (LIST, SET, MAP):
        raise IndexError
    if kind == MAP:
        n, at = _varint(data, at)
        kinds = [data[at] >> 4, data[at] & 15] if n else []
        at += bool(n)
        n *= 2
    else:
        n, kinds, at = data[at] >> 4, [data[at] & 15], at + 1
        if n == 15:
            n, at = _varint(data, at)
    if n > 2 * (len(data) - at):
        raise IndexError
    found = []
    for i in range(n):
        each = kinds[i % len(kinds)]
        value, at = (
            (data[at] == TRUE, at + 1)
            if each in (TRUE, FALSE)
            else _value(data, at, each, depth + 1)
        )
        found.append(value)
    return found, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


def _number(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
