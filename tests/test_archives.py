"""Archives that want to write elsewhere, or more than they have, or to change what is there: none
gets anywhere.
"""

from __future__ import annotations

import copy
import io
import os
import stat
import tarfile

import pytest

from jetnb.data import archives
from jetnb.data.archives import ArchiveError, unpack

LONG = "d" * 120  # sixteen folders of such names pass PATH_MAX when they are resolved


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def link(name, to, kind=tarfile.SYMTYPE):
    return member(name, type=kind, linkname=to)


def folder(name):
    return member(name, type=tarfile.DIRTYPE, mode=0o755)


def archive(path, *members, format=tarfile.PAX_FORMAT, **options):
    with tarfile.open(path, "w", format=format, **options) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def everything(where):
    """All that lies in a folder, with kind and permissions."""
    return sorted(
        (str(p.relative_to(where)), stat.S_IFMT(p.lstat().st_mode), p.lstat().st_mode & 0o7777)
        for p in where.rglob("*")
    )


@pytest.fixture
def target(tmp_path):
    """A folder to unpack into, with a file beside it that must stay as it is."""
    (tmp_path / "secret").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    yield tmp_path / "out"
    assert (tmp_path / "secret").read_bytes() == b"mine" and (
        tmp_path / "secret"
    ).stat().st_nlink == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"secret", "out", "jets.tar"}


def test_files_and_folders_come_out_as_they_are(target):
    path = archive(
        target.parent / "jets.tar",
        folder("val"),
        member("./val/b.root", b"two"),
        member("val/a", b"x" * 5000),
        member("é/" + "n" * 150 + "/c.root", b"three"),
        member("empty"),
    )
    unpack(path, target)
    assert {
        str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()
    } == {
        "val/b.root": b"two",
        "val/a": b"x" * 5000,
        "é/" + "n" * 150 + "/c.root": b"three",
        "empty": b"",
    }


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_older_kinds_of_tar_are_read_too(target, format):
    name = "n" * 120 + "/c.root"
    unpack(archive(target.parent / "jets.tar", member(name, b"three"), format=format), target)
    assert (target / name).read_bytes() == b"three"


def test_permissions_of_an_archive_are_not_taken(target):
    unpack(
        archive(
            target.parent / "jets.tar", member("root_shell", b"x", mode=0o6755, uid=0), folder("d")
        ),
        target,
    )
    assert stat.S_IMODE((target / "root_shell").stat().st_mode) & 0o7111 == 0


# Each would write, link or read outside, on a Python whose filter has one of the holes, or without
# any filter.
CHAIN = [
    entry
    for i in range(16)
    for entry in (
        folder("/".join([LONG] * (i + 1))),
        link(f"{'/'.join([LONG] * i)}/{chr(97 + i)}".lstrip("/"), LONG),
    )
]
ESCAPES = {
    "parent": [member("../secret", b"gone")],
    "parent within": [member("a/../../secret", b"gone")],
    "a new file beside": [member("../new", b"x")],
    "a new file beside, within": [folder("a"), member("a/../../new", b"x")],
    "absolute": [member("/tmp/jetnb_escaped", b"gone")],
    "drive": [member("C:/secret", b"gone")],
    "backslashes": [member("..\\secret", b"gone")],
    "stream of a file": [member("a:b", b"gone")],
    "symbolic link": [link("a", "../secret")],
    "symbolic link inside": [member("b", b"x"), link("a", "b")],
    "write through a link": [link("a", ".."), member("a/secret", b"gone")],
    "write to a link": [link("a", "../secret"), member("a", b"gone")],
    "hard link": [link("a", "../secret", tarfile.LNKTYPE)],
    "hard link by a link": [
        link("a", ".."),
        link("b", "a/secret", tarfile.LNKTYPE),
        member("b", b"gone"),
    ],
    "hard link to a link": [link("a", "../secret"), link("b", "a", tarfile.LNKTYPE)],
    "long path, CVE-2025-4517": [
        *CHAIN,
        link("/".join("abcdefghijklmnop") + "/" + "l" * 200, "../" * 16),
        link("escape", "/".join("abcdefghijklmnop") + "/" + "l" * 200 + "/../secret"),
        link("flag", "escape", tarfile.LNKTYPE),
        member("flag", b"gone"),
    ],
    "long path, links only": [
        *[entry for entry in CHAIN if entry[0].issym()],
        member("a/../../secret", b"gone"),
    ],
    "folder replaced by a link": [folder("a"), link("a", ".."), member("a/secret", b"gone")],
    "mode through a link, CVE-2024-12718": [link("a", "../secret"), member("a", b"", mode=0o777)],
    "pipe": [member("a", type=tarfile.FIFOTYPE)],
    "device": [member("a", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
    "contiguous": [member("a", b"x", type=tarfile.CONTTYPE)],
    "unknown": [member("a", b"x", type=b"Z")],
    "too deep": [member("/".join("abcdefghijklmnopq"), b"x")],
    "too long": [member("n" * 201, b"x")],
    "line feed": [member("a\nb", b"x")],
    "escape codes": [member("a\x1b[2Jb", b"x")],
    "no text": [member("a\udcffb", b"x")],
    "twice": [member("a", b"x"), member("a", b"y")],
    "file as folder": [member("a", b"x"), member("a/b", b"y")],
    "folder as file": [member("a/b", b"x"), member("a", b"y")],
    "no name": [member("./", b"x", type=tarfile.REGTYPE)],
}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("how", ESCAPES)
def test_nothing_gets_out(target, how, format):
    path = archive(target.parent / "jets.tar", *ESCAPES[how], format=format)
    with pytest.raises(ArchiveError):
        unpack(path, target)
    assert not os.path.lexists("/tmp/jetnb_escaped")
    assert all(kind in (stat.S_IFREG, stat.S_IFDIR) for _, kind, _ in everything(target))


@pytest.mark.parametrize("how", ESCAPES)
def test_the_fields_of_pax_do_not_change_that(target, how):
    """The harmless header says one thing, and the extended one before it what is done."""
    *before, (info, content) = ESCAPES[how]
    info = copy.copy(info)
    info.pax_headers = {"path": info.name} | ({"linkpath": info.linkname} if info.linkname else {})
    with pytest.raises(ArchiveError):
        unpack(archive(target.parent / "jets.tar", *before, (info, content)), target)


def header(name="a", size=0, kind=tarfile.REGTYPE):
    """A header with any size, negative ones too."""
    return member(name, type=kind, size=size)[0].tobuf(tarfile.GNU_FORMAT)


def record(key, value):
    """A field of an extended header."""
    n = len(f" {key}={value}\n")
    return f"{n + len(str(n + 2))} {key}={value}\n".encode()


def block(content):
    return content.ljust(-(-len(content) // 512) * 512, b"\0")


END = bytes(1024)
FORGED = {
    "cut in a file": header(size=5000) + bytes(512),
    "cut after a file": header(size=3) + block(b"one"),
    "no header after a file": header(size=3) + block(b"one") + b"x" * 512 + END,
    "larger than the archive": header(size=10**15) + END,
    "negative": header(size=-512) + END,
    "negative folder": header("d/", size=-512, kind=tarfile.DIRTYPE) + END,
    "negative long name": header("n", size=-1024, kind=tarfile.GNUTYPE_LONGNAME) + header() + END,
    "negative by pax": header("p", len(record("size", "-512")), tarfile.XHDTYPE)
    + block(record("size", "-512"))
    + header(size=0)
    + END,
    "every file the whole archive": header("p", len(record("size", "9999")), tarfile.XGLTYPE)
    + block(record("size", "9999"))
    + b"".join(header(f"f{i}") for i in range(40))
    + END,
    "sparse": header("p", len(record("GNU.sparse.size", "1000000000000")), tarfile.XHDTYPE)
    + block(record("GNU.sparse.size", "1000000000000"))
    + header()
    + END,
    "sparse map": header(
        "p", len(record("GNU.sparse.size", "9") + record("GNU.sparse.map", "x")), tarfile.XHDTYPE
    )
    + block(record("GNU.sparse.size", "9") + record("GNU.sparse.map", "x"))
    + header()
    + END,
    "old sparse": header(kind=tarfile.GNUTYPE_SPARSE) + END,
    "long name": header("n", 10**6, tarfile.GNUTYPE_LONGNAME) + bytes(10**6) + header() + END,
    "slow fields": header("p", 10**6, tarfile.XHDTYPE) + b"1" * 10**6 + header() + END,
    "fields of fields": b"".join(header("p", 0, tarfile.XHDTYPE) for _ in range(5000))
    + header()
    + END,
    "damaged field": header("p", 512, tarfile.XHDTYPE)
    + block(b"99999999999999999999 path=a\n")
    + header()
    + END,
    "empty": b"",
    "gzip": b"\x1f\x8b\x08" + bytes(2000),
}


@pytest.mark.parametrize("how", FORGED)
def test_sizes_are_not_believed(target, how):
    path = target.parent / "jets.tar"
    path.write_bytes(FORGED[how])
    with pytest.raises(ArchiveError):
        unpack(path, target)
    assert sum(p.stat().st_size for p in target.rglob("*") if p.is_file()) <= len(FORGED[how])


def test_members_are_counted(target, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 2)
    path = archive(target.parent / "jets.tar", *[member(f"f{i}") for i in range(3)])
    with pytest.raises(ArchiveError, match="more than 2 members"):
        unpack(path, target)
