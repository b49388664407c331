"""Fetch files of the published datasets: continued after a break, checked, and never half there.

A file grows as `<file>.part` and gets its name only when it is whole and its checksum is right, so
what has the name is complete. Where nobody gives a checksum, the one of what came first is kept,
see `jetnb.data.received`. `<file>.part.tag` holds what the server calls this version of the file: a
part is only continued if the file there is still the same, and for files without a published
checksum nothing else would tell that the two halves belong together. Two processes that want the
same file take turns, by `atomic.alone`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from tqdm.auto import tqdm

from jetnb import atomic
from jetnb.data import answers, archives, received
from jetnb.data.datasets import Dataset, RemoteFile, choose, find

CHUNK = 1 << 16  # bytes; a broken connection loses at most so much of what has come
TIMEOUT = 60  # s without an answer, or without a byte of it
TRIES = 4  # failures in a row
GAIN = 1 << 20  # bytes; a failure after at least so many new ones is the first of a row
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # s before the second try, doubled for each further one
PAGE = re.compile(rb"\s*<(!doctype html|html)", re.IGNORECASE)
AS_PAGE = "a web page came in its place: it has moved, or the server wants a login or a click"


class DownloadError(OSError):
    """A file could not be fetched: the message says which, why, and how to get it by hand."""


class _Again(Exception):
    """A failure that may pass: what happened, and after how many seconds to try again if the server
    said so.
    """


def download(
    dataset: str | Dataset,
    files: str | Iterable[str] | None = None,
    *,
    folder,
    check: bool = False,
    unpack: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Fetch files of a published dataset into `folder`; returns where they are.

    `dataset`: a name of `jetnb.data.datasets.DATASETS`. `files`: names, patterns such as
    ``"RunG_*"``, or ``"all"``; if they are not said, the error lists them, for there are up to 207
    GB and more. What was begun is continued. A file that is there is not fetched again: its size is
    compared with the published one, with `check` its checksum as well. Where none is published,
    size and sha256 of what came first are recorded in `<file>.received.json`, with a warning, and
    take their place. With `unpack`, a tar archive is unpacked into a folder of its name beside it,
    once and after a look at its checksum, and the files in there are returned in its place. Raises
    `ValueError` for what is not in the dataset, or is there but another file, and `DownloadError`
    for what goes wrong on the way: what came until then is kept, and removed only if its checksum
    is wrong.
    """
    dataset = find(dataset) if isinstance(dataset, str) else dataset
    folder = Path(folder).expanduser()
    jobs = [_Job(dataset, file, folder) for file in choose(dataset, files)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DownloadError(
            f"the folder {folder} cannot be made ({error.strerror}): choose another one"
        ) from error
    missing = [job for job in jobs if not job.is_there(check or unpack and job.is_packed())]
    if missing and not os.access(folder, os.W_OK):
        raise DownloadError(f"nothing can be written in the folder {folder}: choose another one")
    if lack := _lack(
        folder, sum(max((job.known.n_bytes or 0) - _size(job.part), 0) for job in missing)
    ):
        raise DownloadError(
            f"{len(missing)} files of {dataset.name}, the first is {missing[0].file.name}: {lack}"
        )
    try:
        for job in missing:
            job.fetch(progress)
    finally:
        if new := [job.file.name for job in jobs if job.recorded]:
            warnings.warn(
                f"no checksum is published for {len(new)} files of {dataset.name}, the first is {new[0]}: "
                "what came is recorded in *.received.json and compared from now on, its size at each call, "
                "its sha256 with check=True",
                stacklevel=2,
            )
    return [
        path
        for job in jobs
        for path in (job.unpack() if unpack and job.path.suffix == ".tar" else [job.path])
    ]


class _Job:
    """One file on its way."""

    def __init__(self, dataset: Dataset, file: RemoteFile, folder: Path):
        self.dataset, self.file = dataset, file
        self.path, self.part, self.tag = (
            folder / f"{file.name}{end}" for end in ("", ".part", ".part.tag")
        )
        self.known, self.recorded = received.known(file, self.path), False

    def error(self, what: str) -> DownloadError:
        n_bytes = _size(self.part)
        kept = (
            f"{n_bytes:,} bytes of it are kept in {self.part}: ask again to go on. "
            if n_bytes
            else ""
        )
        return DownloadError(
            f"{self.file.name} of {self.dataset.name}: {what}. {kept}The address is {self.file.address} . By hand: "
            f"find it in {self.dataset.record} and put it in {self.path} . {self.dataset.by_hand}".rstrip()
        )

    def is_there(self, check: bool = False) -> bool:
        if not self.path.exists():
            return False
        if wrong := self.known.wrong(self.path, check):
            raise ValueError(
                f"{self.path} is there, but it has {wrong}: move it away and ask again"
            )
        if check and not self.known.checksum:
            with contextlib.suppress(PermissionError):
                self._record(self.path)
        return True

    def is_packed(self) -> bool:
        return self.path.suffix == ".tar" and not self.path.with_suffix("").exists()

    def fetch(self, progress: bool) -> None:
        bar = tqdm(
            desc=self.file.name,
            total=self.known.n_bytes,
            unit="B",
            unit_scale=True,
            disable=not progress,
        )
        with bar, atomic.alone(self.path, "fetching", wait=lambda: self._wait(bar)):
            self._refuse_links()
            try:
                if self.is_there():  # another process has fetched it meanwhile
                    return
                self._receive(bar)
                bar.set_postfix_str("checking")
                self._accept()
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise self.error(
                    f"no space is left in {self.path.parent}: make room there"
                ) from error
            finally:
                if not _size(self.part):
                    self.part.unlink(missing_ok=True)
                    self.tag.unlink(missing_ok=True)

    def _wait(self, bar: tqdm) -> None:
        """Show how far another process is."""
        bar.n = _size(self.part)
        bar.refresh()
        time.sleep(PAUSE)

    def unpack(self) -> list[Path]:
        folder = self.path.with_suffix("")
        if not folder.exists():
            if lack := _lack(folder.parent, _size(self.path)):
                raise DownloadError(f"{self.path} is fetched but cannot be unpacked: {lack}")
            try:
                with atomic.new_folder(folder) as hidden:
                    archives.unpack(self.path, hidden)
            except (archives.ArchiveError, OSError) as error:
                if not folder.exists():  # else another process has just unpacked it
                    raise DownloadError(f"{self.path} cannot be unpacked: {error}") from error
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def _refuse_links(self) -> None:
        """What is written to the part must not reach a file elsewhere."""
        for path in (self.part, self.tag):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    raise ValueError(f"{path} is a link, or no file: remove it and ask again")

    def _record(self, content: Path) -> None:
        received.write(self.file, self.path, content)
        self.recorded = True

    def _accept(self) -> None:
        if wrong := self.known.wrong(self.part, True):
            self.part.unlink()
            raise self.error(
                f"what came has {wrong}. It was removed; ask again, and if that does not help, the file "
                "there is no longer the published one"
            )
        if not self.file.checksum and not received.record_of(self.path).exists():
            self._record(self.part)
        atomic.sync(self.part)
        os.replace(self.part, self.path)
        atomic.sync(self.path.parent)

    def _receive(self, bar: tqdm) -> None:
        failures = 0
        while True:
            before = _size(self.part)
            try:
                return self._request(bar)
            except _Again as error:
                failures = 1 if _size(self.part) - before >= GAIN else failures + 1
                if failures == TRIES:
                    raise self.error(f"{error.args[0]}, {TRIES} times in a row") from error
                time.sleep(min(max(PAUSE * 2 ** (failures - 1), 0, *error.args[1:]), LONGEST_PAUSE))

    def _request(self, bar: tqdm) -> None:
        """Ask once for what is missing, and add what comes to the part."""
        start, version = _size(self.part), self.tag.read_text() if self.tag.exists() else ""
        if start == self.known.n_bytes:
            return
        if not (version or self.known.checksum):
            start = 0  # nothing would tell whether the two halves are of one file
        headers = {"User-Agent": "jetnb", "Accept-Encoding": "identity"}
        if start:
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version} if version else {})
        with self._ask(headers) as response:
            start, total = self._begin(response, start)
            if start == total:
                return
            if lack := _lack(self.path.parent, (total or 0) - start):
                raise self.error(lack)
            chunks = _chunks(response)
            chunk = next(chunks, b"")
            if not start:
                if PAGE.match(chunk):
                    raise self.error(AS_PAGE)
                # Before the tag is changed, which so never belongs to older bytes.
                self.part.write_bytes(b"")
                self.tag.write_text(answers.version(response))
            bar.reset(total)
            bar.initial = bar.n = start
            with self.part.open("ab") as stream:
                while chunk:
                    stream.write(chunk)
                    bar.update(len(chunk))
                    chunk = next(chunks, b"")
        if total is not None and _size(self.part) < total:
            raise _Again(f"the connection ended after {_size(self.part):,} of {total:,} bytes")

    def _ask(self, headers: dict) -> requests.Response:
        try:
            return requests.get(self.file.address, headers=headers, stream=True, timeout=TIMEOUT)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Again(
                f"no answer from {urlsplit(self.file.address).netloc} ({answers.cause(error)}), "
                "is this computer online?"
            ) from error
        except requests.RequestException as error:
            raise self.error(f"the address leads nowhere ({answers.cause(error)})") from error

    def _begin(self, response: requests.Response, start: int) -> tuple[int, int | None]:
        """The byte that an answer begins with, and the size of the whole file if that is known."""
        code = response.status_code
        said = f"{urlsplit(response.url).netloc} answers {code} {response.reason}"
        first, size = answers.content_range(response)
        if code == 416 and size == start:  # all of it has come before
            return start, size
        if code == 416 or (code == 206 and first != start):
            self.part.write_bytes(b"")
            raise _Again(f"{said} when asked for byte {start:,} and on")
        if code in (408, 425, 429) or code >= 500:
            raise _Again(said, answers.number(response.headers.get("Retry-After", "")) or 0)
        if code not in (200, 206):
            raise self.error(
                f"{said}: "
                + ("it has moved or is gone" if code in (404, 410) else "it is not given out")
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise self.error(AS_PAGE)
        if code == 200:
            start, size = 0, answers.number(response.headers.get("Content-Length", ""))
        wanted = self.known.n_bytes
        if size == 0 or None not in (size, wanted) and size != wanted:
            raise self.error(f"the file there has {size:,} bytes, not {wanted or 'some'}")
        if not self.known.checksum and (digest := answers.digest(response)):
            self.known = received.Known(
                size, f"sha256:{digest}", "the file that the server announced"
            )
        total = wanted if size is None else size
        if total is None and not self.known.checksum:
            raise self.error(
                "the server does not say how long it is, so nothing would tell whether all of it came"
            )
        return start, total


def _chunks(response: requests.Response) -> Iterator[bytes]:
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise _Again(f"the connection broke ({type(error).__name__})") from error


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _lack(folder: Path, n_bytes: int) -> str:
    """What there is to say if `n_bytes` more do not fit into a folder, else ""."""
    free = shutil.disk_usage(folder).free
    return (
        (
            f"{n_bytes / 1e9:,.2f} GB are needed, but only {free / 1e9:,.2f} GB are free in {folder}: make room, or "
            "take another folder or fewer files"
        )
        if n_bytes > free
        else ""
    )
