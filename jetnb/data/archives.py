"""Unpacking tar archives that come from elsewhere: plain files and folders inside the target, and
nothing else.

tarfile only reads the headers here; what is written, and where, is decided below. Its own filters
are not relied on: older versions of Python 3.11 and later have none, or one with holes
(CVE-2025-4517, CVE-2025-4138, CVE-2024-12718).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

MEMBERS = 100_000  # files and folders in an archive
DEPTH = 16  # folders within each other
NAME = 200  # characters of a name, of a file or of a folder
# Bytes of a long name or of a block of extended fields, of which tarfile parses all.
HEADER = 1 << 13
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
# What Windows reads as a drive, a stream or a folder, and what a terminal obeys, besides.
ODD = re.compile(r'[\x00-\x1f\x7f-\x9f\\:*?"<>|\ud800-\udfff]')


class ArchiveError(ValueError):
    """An archive that is damaged, or holds something that is not unpacked."""


class _Header(tarfile.TarInfo):
    """Refuses at each header what tarfile would act on before a member is seen."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        header = super().frombuf(buf, encoding, errors)
        if header.type not in PLAIN + EXTENDED:
            raise ArchiveError(
                f"{header.name!r:.80} is a link or a device, not a plain file or folder"
            )
        if header.size < 0 or header.type in EXTENDED and header.size > HEADER:
            raise ArchiveError(
                f"a header near {header.name!r:.80} says that it has {header.size:,} bytes"
            )
        return header


def unpack(path: Path, folder: Path) -> None:
    """Write the files of the tar archive `path`, which is not compressed, into the empty `folder`.

    Of the members only name and content are taken: permissions, owners and dates are those of new
    files. Raises `ArchiveError`, a `ValueError`, for links, devices, names that lead elsewhere,
    deep nesting, too many members and damage; what was unpacked until then stays.
    """
    with path.open("rb") as stream:
        try:
            left = path.stat().st_size
            for member, place in _members(stream):
                left -= member.size
                if left < 0:  # extended fields can say any size
                    raise ArchiveError(
                        f"with {member.name!r:.80} its files have more bytes than it has"
                    )
                target = folder.joinpath(*place)
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as out:  # "x": never through a link, never over another file
                    stream.seek(member.offset_data)
                    _copy(stream, out, member.size)
        except (FileExistsError, NotADirectoryError) as error:
            raise ArchiveError(
                f"two of its members have the name {error.filename!r:.200}"
            ) from error
        except ArchiveError:
            raise
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise ArchiveError(f"it is damaged, or no tar archive: {error}") from error


def _members(stream) -> Iterator[tuple[tarfile.TarInfo, list[str]]]:
    """Members and the parts of their names, each checked."""
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as archive:
        count, at = 0, -1
        while member := archive.next():
            count += 1
            if count > MEMBERS:
                raise ArchiveError(f"it has more than {MEMBERS:,} members")
            if member.size < 0 or member.issparse() or archive.offset <= at:
                raise ArchiveError(f"{member.name!r:.80} has a size that cannot be")
            at = archive.offset
            archive.members = []  # type: ignore[attr-defined]  # which would grow
            yield member, _parts(member.name)
        # tarfile takes what is no header for the end; the end is zeros.
        stream.seek(archive.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if len(end) < tarfile.BLOCKSIZE or any(end):
            raise ArchiveError(f"it is damaged or cut after {count} members")


def _parts(name: str) -> list[str]:
    """The folders and the file that a member's name is made of."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or ODD.search(name):
        raise ArchiveError(f"the name {name!r:.200} leads elsewhere, or has odd characters")
    if len(parts) > DEPTH or any(len(part) > NAME for part in parts):
        raise ArchiveError(
            f"the name {name!r:.200} is deeper than {DEPTH} folders or longer than {NAME} characters"
        )
    return parts


def _copy(stream, out, n_bytes: int) -> None:
    while n_bytes > 0:
        block = stream.read(min(n_bytes, 1 << 20))
        if not block:
            raise ArchiveError("it ends within a file")
        out.write(block)
        n_bytes -= len(block)
