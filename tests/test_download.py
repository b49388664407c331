"""Downloads, from a server on this machine that can misbehave in every way that servers on the
network do.
"""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import multiprocessing
import os
import socket
import tarfile
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetnb import atomic
from jetnb.data import download as module
from jetnb.data.datasets import Dataset, RemoteFile
from jetnb.data.download import DownloadError, download

pytestmark = pytest.mark.filterwarnings("ignore:no checksum is published")
BODY = np.random.default_rng(1).bytes(300_000)
OTHER = np.random.default_rng(2).bytes(300_000)
MD5 = f"md5:{hashlib.md5(BODY).hexdigest()}"
BROKEN = 200_000  # bytes after which the connection breaks; of these, all but a part of a chunk must be kept


class Handler(http.server.BaseHTTPRequestHandler):
    """Does what the first of `server.script` says, or gives out `server.body` as it should be."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append(dict(self.headers) | {"path": self.path})
        with self.server.lock:
            act = self.server.script.pop(0) if self.server.script else serve()
        self.close_connection = True
        act(self)

    def log_message(self, *args):
        pass


def serve(
    body=None,
    *,
    etag='"1"',
    status=None,
    ranges=True,
    cut=None,
    length=None,
    pause=0.0,
    delay=0.0,
    shift=0,
    **headers,
):
    """Send the body as a good server does, unless told otherwise: no ranges, cut short, another
    length, slowly.
    """

    def act(handler):
        time.sleep(delay)
        content = handler.server.body if body is None else body
        first, code = 0, 200
        asked = handler.headers.get("Range")
        if ranges and asked and handler.headers.get("If-Range", etag) == etag:
            first, code = int(asked.removeprefix("bytes=").removesuffix("-")), 206
        if first and first >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.end_headers()
            return
        first += shift
        handler.send_response(status or code)
        if code == 206:
            handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        for name, value in ({"ETag": etag} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        if length != "":
            handler.send_header(
                "Content-Length", str(len(content) - first if length is None else length)
            )
        handler.end_headers()
        content = content[first:][:cut]
        for i in range(0, len(content), 20_000):
            handler.wfile.write(content[i : i + 20_000])
            handler.wfile.flush()
            time.sleep(pause)

    return act


def answer(status, body=b"sorry", **headers):
    return serve(body, status=status, ranges=False, **headers)


def redirect(handler):
    handler.send_response(302)
    handler.send_header("Location", "/elsewhere/file.h5?signature=1")
    handler.send_header("Content-Length", "0")
    handler.send_header("Connection", "close")
    handler.end_headers()


@pytest.fixture(scope="module")
def running():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.lock, server.handle_error = threading.Lock(), lambda *args: None
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def server(running):
    running.script, running.seen, running.body = [], [], BODY
    return running


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """No waiting between tries, only a record of how long it would have been; and no way out to the
    network.
    """
    waited, connect = [], socket.socket.connect

    def local_only(self, address):
        assert address[0] == "127.0.0.1", f"a test wants to reach {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(module, "PAUSE", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.01)
    return waited


def dataset(server, n_bytes=300_000, checksum=MD5, *, name="file.h5", port=None):
    address = f"http://127.0.0.1:{port or server.server_port}/files/{name}?download=1"
    return Dataset(
        "toy",
        "Toy",
        "aspen",
        "None.",
        "CC0",
        "nobody",
        "https://example.org/record/7",
        (RemoteFile(name, address, n_bytes, checksum),),
        "Or ask a colleague.",
    )


def fetch(data, folder, **kwargs):
    return download(data, "all", folder=folder, progress=False, **kwargs)


def asked_for_the_rest(headers):
    """Whether a request asks for what is missing after a break, and for no more."""
    return (
        BROKEN - module.CHUNK
        < int(headers["Range"].removeprefix("bytes=").removesuffix("-"))
        <= BROKEN
    )


def left(folder):
    """Names of what is there, records of what came left out."""
    return sorted(
        path.name for path in folder.iterdir() if not path.name.endswith(".received.json")
    )


def refused(data, folder, match):
    """The message of a download that fails; checked for all that a user needs."""
    with pytest.raises(DownloadError, match=match) as error:
        fetch(data, folder)
    text = str(error.value)
    for part in (
        "file.h5 of toy: ",
        data.files[0].address,
        data.record,
        str(folder / "file.h5"),
        data.by_hand,
    ):
        assert part in text
    assert not (folder / "file.h5").exists()
    return text


def test_a_file_is_fetched_once(server, tmp_path):
    folder = tmp_path / "new" / "folder"
    (path,) = fetch(dataset(server), folder)
    assert path == folder / "file.h5" and path.read_bytes() == BODY and left(folder) == ["file.h5"]
    assert "Range" not in server.seen[0] and server.seen[0]["User-Agent"] == "jetnb"
    assert fetch(dataset(server), folder) == [path] == fetch(dataset(server), folder, check=True)
    assert len(server.seen) == 1


def test_without_a_published_size_or_checksum_the_server_is_believed(server, tmp_path):
    (path,) = fetch(dataset(server, None, ""), tmp_path)
    assert path.read_bytes() == BODY and fetch(dataset(server, None, ""), tmp_path, check=True) == [
        path
    ]
    assert len(server.seen) == 1


def record(folder):
    return json.loads((folder / "file.h5.received.json").read_text())


def test_what_came_first_is_recorded_and_compared(server, tmp_path, recwarn):
    toy = dataset(server, None, "")
    with pytest.warns(
        UserWarning, match="no checksum is published for 1 files of toy, the first is file.h5: what"
    ):
        (path,) = fetch(toy, tmp_path)
    assert record(tmp_path) == {
        "address": toy.files[0].address,
        "n_bytes": len(BODY),
        "sha256": hashlib.sha256(BODY).hexdigest(),
    }
    fetch(toy, tmp_path, check=True)
    assert not recwarn.list
    path.write_bytes(OTHER)
    fetch(toy, tmp_path)
    with pytest.raises(
        ValueError, match="there, but it has sha256 .*, what came first, as .*received.json says, "
    ):
        fetch(toy, tmp_path, check=True)
    path.write_bytes(BODY[1:])
    with pytest.raises(
        ValueError, match="there, but it has 299,999 bytes, what came first, .*says, 300,000: move"
    ):
        fetch(toy, tmp_path)
    path.unlink()
    fetch(toy, tmp_path)
    assert not recwarn.list  # it came again, as it was
    path.unlink()
    server.body = OTHER
    refused(
        toy, tmp_path, "what came has sha256 .*, what came first, as .* says, .* It was removed"
    )
    assert record(tmp_path)["sha256"] == hashlib.sha256(BODY).hexdigest() and not left(tmp_path)
    (tmp_path / "file.h5.received.json").write_text("[]")
    with pytest.raises(
        ValueError, match="received.json is no record of a download, .*remove it, and the file is"
    ):
        fetch(toy, tmp_path)


def test_a_file_put_there_by_hand_is_recorded_when_it_is_looked_at(server, tmp_path):
    (tmp_path / "file.h5").write_bytes(BODY)
    fetch(dataset(server, None, ""), tmp_path)
    assert not (tmp_path / "file.h5.received.json").exists()
    with pytest.warns(UserWarning, match="what came is recorded"):
        fetch(dataset(server, None, ""), tmp_path, check=True)
    assert record(tmp_path)["n_bytes"] == len(BODY) and not server.seen


def test_a_file_with_a_published_checksum_is_not_recorded(server, tmp_path, recwarn):
    fetch(dataset(server), tmp_path)
    fetch(dataset(server), tmp_path, check=True)
    assert not (tmp_path / "file.h5.received.json").exists() and not recwarn.list


def test_a_checksum_that_the_server_gives_with_the_file_is_compared(server, tmp_path):
    def announce(digest):
        def act(handler):
            handler.send_response(302)
            for name, value in {
                "X-Linked-ETag": f'"{digest}"',
                "Location": "/elsewhere",
                "Content-Length": "0",
                "Connection": "close",
            }.items():
                handler.send_header(name, value)
            handler.end_headers()

        return act

    server.script = [announce(hashlib.sha256(OTHER).hexdigest())]
    refused(
        dataset(server, None, ""),
        tmp_path,
        "what came has sha256 .*, the file that the server announced ",
    )
    server.script = [announce(hashlib.sha256(BODY).hexdigest())]
    assert fetch(dataset(server, None, ""), tmp_path)[0].read_bytes() == BODY
    server.script = [announce(hashlib.sha256(OTHER).hexdigest())]  # the published one counts
    assert fetch(dataset(server, None), tmp_path / "a")[0].read_bytes() == BODY
    server.script = [announce("not a sha256")]
    assert fetch(dataset(server, None, ""), tmp_path / "b")[0].read_bytes() == BODY


@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard", "pipe"])
@pytest.mark.parametrize("end", [".part", ".part.tag"])
def test_a_part_that_is_a_link_reaches_no_file_elsewhere(server, tmp_path, end, kind):
    mine, part = tmp_path / "mine", tmp_path / "in" / f"file.h5{end}"
    mine.write_bytes(b"mine")
    part.parent.mkdir()
    {
        "symbolic": lambda: part.symlink_to(mine),
        "dangling": lambda: part.symlink_to(tmp_path / "new"),
        "hard": lambda: os.link(mine, part),
        "pipe": lambda: os.mkfifo(part),
    }[kind]()
    with pytest.raises(ValueError, match=f"{part} is a link, or no file: remove it and ask again"):
        fetch(dataset(server), part.parent)
    assert mine.read_bytes() == b"mine" and not (tmp_path / "new").exists() and not server.seen
    part.unlink()
    assert fetch(dataset(server), part.parent)[0].read_bytes() == BODY


@pytest.mark.parametrize(
    ("content", "check", "match"),
    [
        (BODY[:-1], False, "299,999 bytes, the published file 300,000"),
        (OTHER, True, "md5 .*, the published file"),
    ],
)
def test_another_file_of_that_name_is_left_alone(server, tmp_path, content, check, match):
    (tmp_path / "file.h5").write_bytes(content)
    with pytest.raises(
        ValueError, match=f"file.h5 is there, but it has {match}.*: move it away and ask again"
    ):
        fetch(dataset(server), tmp_path, check=check)
    assert (tmp_path / "file.h5").read_bytes() == content and not server.seen


def test_nothing_is_fetched_that_was_not_asked_for(server, tmp_path):
    with pytest.raises(ValueError, match=r"say which files.*toy has\n  file.h5 \(0.3 MB\)"):
        download(dataset(server), folder=tmp_path)
    with pytest.raises(ValueError, match="no published dataset: did you mean 'jetnet'"):
        download("jetnett", "all", folder=tmp_path)
    with pytest.raises(TypeError, match="folder"):
        download(dataset(server), "all")
    assert not server.seen and not left(tmp_path)


@pytest.mark.parametrize("checksum", [MD5, ""])
def test_a_broken_connection_is_resumed_where_it_broke(server, tmp_path, checksum):
    server.script = [serve(cut=BROKEN)]
    (path,) = fetch(dataset(server, checksum=checksum), tmp_path)
    assert path.read_bytes() == BODY and left(tmp_path) == ["file.h5"]
    assert (
        len(server.seen) == 2
        and asked_for_the_rest(server.seen[1])
        and server.seen[1]["If-Range"] == '"1"'
    )


def test_the_next_call_goes_on_with_what_the_last_one_left(server, tmp_path):
    server.script = [serve(cut=BROKEN), *[serve(cut=0)] * 3]
    text = refused(
        dataset(server),
        tmp_path,
        r"the connection (broke|ended).*, 4 times in a row. \d+,\d+ bytes of it",
    )
    assert f"kept in {tmp_path / 'file.h5.part'}: ask again" in text and len(server.seen) == 4
    kept = (tmp_path / "file.h5.part").read_bytes()
    assert kept == BODY[: len(kept)] and left(tmp_path)[1:] == ["file.h5.part.tag"]
    (path,) = fetch(dataset(server), tmp_path)
    assert path.read_bytes() == BODY and left(tmp_path) == ["file.h5"]
    assert server.seen[4]["Range"] == f"bytes={len(kept)}-" and asked_for_the_rest(server.seen[4])
    assert len(server.seen) == 5


def test_failures_are_counted_anew_after_a_good_stretch(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GAIN", module.CHUNK)
    server.script = [serve(cut=module.CHUNK + 1) for _ in range(4)]
    (path,) = fetch(dataset(server), tmp_path)
    assert path.read_bytes() == BODY and len(server.seen) == 5 == module.TRIES + 1


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    server.script = [serve(cut=BROKEN), serve(ranges=False)]
    (path,) = fetch(dataset(server), tmp_path)
    assert path.read_bytes() == BODY and "Range" in server.seen[1] and len(server.seen) == 2


@pytest.mark.parametrize("how", [{"shift": 7}, {"shift": -7}])
def test_another_range_than_asked_for_is_not_taken(server, tmp_path, how):
    server.script = [serve(cut=BROKEN), serve(**how)]
    (path,) = fetch(dataset(server, checksum=""), tmp_path)
    assert path.read_bytes() == BODY and ["Range" in seen for seen in server.seen] == [
        False,
        True,
        False,
    ]


def test_a_file_that_changes_between_two_halves_is_fetched_from_the_start(server, tmp_path):
    server.script = [serve(cut=BROKEN), serve(OTHER, etag='"2"')]
    (path,) = fetch(dataset(server, checksum=""), tmp_path)
    assert path.read_bytes() == OTHER and server.seen[1]["If-Range"] == '"1"'


def test_halves_are_not_joined_when_nothing_would_tell_that_they_fit(server, tmp_path):
    weak = {"etag": 'W/"1"'}
    server.script = [serve(cut=BROKEN, **weak), serve(OTHER, **weak)]
    (path,) = fetch(dataset(server, checksum=""), tmp_path / "neither")
    assert path.read_bytes() == OTHER and "Range" not in server.seen[1]
    server.script = [serve(cut=BROKEN, **weak), serve(**weak)]
    (path,) = fetch(dataset(server), tmp_path / "checksum")
    assert (
        path.read_bytes() == BODY and "Range" in server.seen[3] and "If-Range" not in server.seen[3]
    )
    date = "Tue, 01 Mar 2022 10:00:00 GMT"
    server.script = [serve(cut=BROKEN, etag="", Last_Modified=date), serve(etag=date)]
    (path,) = fetch(dataset(server, checksum=""), tmp_path / "date")
    assert path.read_bytes() == BODY and server.seen[5]["If-Range"] == date


@pytest.mark.parametrize(("n_bytes", "n_requests"), [(len(BODY), 0), (None, 1)])
def test_a_part_that_is_complete_is_only_checked(server, tmp_path, n_bytes, n_requests):
    (tmp_path / "file.h5.part").write_bytes(BODY)
    (path,) = fetch(dataset(server, n_bytes), tmp_path)
    assert (
        path.read_bytes() == BODY
        and left(tmp_path) == ["file.h5"]
        and len(server.seen) == n_requests
    )


@pytest.mark.parametrize("n_bytes", [len(BODY), None])
def test_a_part_that_is_too_long_is_dropped(server, tmp_path, n_bytes):
    (tmp_path / "file.h5.part").write_bytes(BODY + b"x")
    (path,) = fetch(dataset(server, n_bytes), tmp_path)
    assert path.read_bytes() == BODY and "Range" not in server.seen[-1]


def test_a_wrong_checksum_removes_what_came(server, tmp_path):
    server.script = [serve(OTHER)]
    text = refused(
        dataset(server),
        tmp_path,
        f"what came has md5 .*, the published file {MD5[4:]}. It was removed",
    )
    assert not left(tmp_path) and "are kept" not in text and len(server.seen) == 1
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY


def test_sha256_is_known_as_well(server, tmp_path):
    good = dataset(server, checksum=f"sha256:{hashlib.sha256(BODY).hexdigest()}")
    assert fetch(good, tmp_path / "good")[0].read_bytes() == BODY
    refused(
        dataset(server, checksum="sha256:" + "0" * 64), tmp_path / "bad", "what came has sha256 "
    )


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (404, "404 Not Found: it has moved or is gone"),
        (410, "410 Gone: it has"),
        (403, "403 Forbidden: it is not given"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(server, tmp_path, status, match):
    server.script = [answer(status)]
    refused(dataset(server), tmp_path, f"127.0.0.1:{server.server_port} answers {match}")
    assert len(server.seen) == 1 and not left(tmp_path)


@pytest.mark.parametrize("status", [503, 502, 429])
def test_what_may_pass_is_tried_again_after_a_while(server, tmp_path, monkeypatch, status):
    waited = []
    monkeypatch.setattr(module, "PAUSE", 1.0)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 30.0)
    monkeypatch.setattr(module.time, "sleep", waited.append)
    server.script = [
        answer(status),
        answer(status, Retry_After="17"),
        answer(status, Retry_After="9999"),
    ]
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY
    assert [pause for pause in waited if pause] == [
        1.0,
        17.0,
        30.0,
    ]  # the server in this process sleeps for 0 s
    server.script = [answer(status)] * 4
    refused(dataset(server), tmp_path / "b", f"answers {status} .*, 4 times in a row")


@pytest.mark.parametrize("how", [{"Content_Type": "text/html; charset=utf-8"}, {}])
def test_a_web_page_is_not_taken_for_the_file(server, tmp_path, how):
    server.body = b"\n<!DOCTYPE html><html>Sign in</html>"
    refused(dataset(server, None), tmp_path, "a web page came in its place")
    server.script = [serve(**how)]
    refused(dataset(server, None, ""), tmp_path, "a web page came in its place")
    assert not left(tmp_path)


def test_a_page_in_place_of_the_rest_leaves_the_part_alone(server, tmp_path):
    server.script = [
        serve(cut=BROKEN),
        answer(200, b"<html>maintenance</html>", Content_Type="text/html"),
    ]
    refused(
        dataset(server, None),
        tmp_path,
        r"a web page came in its place.* \d+,\d+ bytes of it are kept",
    )
    assert fetch(dataset(server, None), tmp_path)[0].read_bytes() == BODY


def test_a_wrong_length_is_noticed(server, tmp_path):
    server.script = [serve(length=300_001)]
    refused(dataset(server), tmp_path / "a", "the file there has 300,001 bytes, not 300000")
    server.script = [serve(length=300_001, ranges=False) for _ in range(4)]
    refused(
        dataset(server, None, ""), tmp_path / "b", r"the connection (broke|ended).*4 times in a row"
    )
    server.script = [serve(length=250_000)]
    refused(dataset(server, None), tmp_path / "c", "what came has md5")
    server.script = [serve(b"")]
    refused(dataset(server, None, ""), tmp_path / "d", "the file there has 0 bytes, not some")


def test_without_any_length_only_a_checksum_tells(server, tmp_path):
    server.script = [serve(length="")]
    refused(dataset(server, None, ""), tmp_path, "does not say how long it is")
    server.script = [serve(length="")]
    assert fetch(dataset(server, None), tmp_path / "a")[0].read_bytes() == BODY
    server.script = [serve(length="", cut=250_000)]
    refused(dataset(server, None), tmp_path / "b", "what came has md5")
    server.script = [serve(length="", cut=250_000)]
    assert (
        fetch(dataset(server, checksum=""), tmp_path / "c")[0].read_bytes() == BODY
    )  # the published length tells


def test_a_redirect_is_followed_with_the_range(server, tmp_path):
    server.script = [redirect, serve(cut=BROKEN), redirect]
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY
    assert [seen["path"][:6] for seen in server.seen] == ["/files", "/elsew", "/files", "/elsew"]
    assert asked_for_the_rest(server.seen[3])
    server.script = [redirect] * 40
    refused(dataset(server), tmp_path / "loop", "the address leads nowhere .*redirects")


def test_offline(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    match = (
        r"no answer from 127.0.0.1:\d+ \(.*refused\), is this computer online\?, 4 times in a row"
    )
    refused(dataset(None, port=port), tmp_path, match)
    assert not left(tmp_path)


def test_a_server_that_falls_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    server.script = [serve(pause=0.4), lambda handler: time.sleep(0.4)]
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY and len(server.seen) == 3


def interrupt(monkeypatch, error, after=2):
    """Let the progress bar raise `error` after some chunks."""

    class Bar(module.tqdm):
        def update(self, n=1):
            if self.n >= after * module.CHUNK:
                raise error
            self.n += n

    monkeypatch.setattr(module, "tqdm", Bar)


def test_control_c_keeps_what_came(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, KeyboardInterrupt())
        fetch(dataset(server), tmp_path)
    kept = (tmp_path / "file.h5.part").read_bytes()
    assert len(kept) == 3 * module.CHUNK and kept == BODY[: len(kept)]
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY
    assert server.seen[1]["Range"] == f"bytes={len(kept)}-"


def test_space_is_looked_at_before_anything_is_asked_for(server, tmp_path, monkeypatch):
    space = type("space", (), {"free": 299_999})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: space)
    match = f"1 files of toy, the first is file.h5: 0.00 GB are needed, but only .* free in {tmp_path}: make"
    with pytest.raises(DownloadError, match=match):
        fetch(dataset(server), tmp_path)
    assert not server.seen
    refused(dataset(server, None), tmp_path, "GB are needed, but only")
    assert len(server.seen) == 1
    (tmp_path / "file.h5.part").write_bytes(BODY[:1000])
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY


def test_a_disk_that_fills_up_on_the_way(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, OSError(errno.ENOSPC, "No space left on device"))
        refused(
            dataset(server),
            tmp_path,
            f"no space is left in {tmp_path}: make room there. 196,608 bytes of",
        )
    assert fetch(dataset(server), tmp_path)[0].read_bytes() == BODY


def test_a_folder_that_cannot_be(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        DownloadError, match="the folder .*file cannot be made .*: choose another one"
    ):
        fetch(dataset(server), tmp_path / "file")
    monkeypatch.setattr(
        module.os, "access", lambda path, mode: path != tmp_path
    )  # root may write everywhere
    with pytest.raises(
        DownloadError, match=f"nothing can be written in the folder {tmp_path}: choose another one"
    ):
        fetch(dataset(server), tmp_path)
    (tmp_path / "file.h5").write_bytes(BODY)
    assert fetch(dataset(server), tmp_path) == [
        tmp_path / "file.h5"
    ]  # what is there may be where one cannot write
    assert not server.seen


def test_the_bar_counts_from_where_the_download_goes_on(server, tmp_path, capsys):
    (tmp_path / "file.h5.part").write_bytes(BODY[:150_000])
    download(dataset(server), "file.h5", folder=tmp_path)
    shown = capsys.readouterr().err
    assert "file.h5: 100%" in shown and "300k/300k" in shown and "checking" in shown


def fetch_with_others(port, folder, start, results):
    module.PAUSE = 0.05
    start.wait(60)
    results.put(fetch(dataset(None, port=port), folder)[0].read_bytes() == BODY)


def test_two_processes_take_turns(server, tmp_path):
    server.script = [serve(pause=0.03)]
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    processes = [
        context.Process(
            target=fetch_with_others, args=(server.server_port, tmp_path, start, results)
        )
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join(60)
    assert len(server.seen) == 1 and left(tmp_path) == ["file.h5"]


@pytest.mark.parametrize(
    "first", [serve(OTHER, pause=0.01), answer(404, pause=0.1), serve(cut=BROKEN, pause=0.01)]
)
def test_the_second_in_line_goes_on_when_the_first_fails(server, tmp_path, monkeypatch, first):
    monkeypatch.setattr(module, "TRIES", 1)
    server.script = [first]
    outcomes = []

    def run():
        try:
            outcomes.append(fetch(dataset(server), tmp_path)[0].read_bytes() == BODY)
        except DownloadError:
            outcomes.append("failed")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(str, outcomes)) == ["True", "True", "failed"]
    assert len(server.seen) == 2 and left(tmp_path) == ["file.h5"]


def test_who_fails_does_not_let_two_others_in(server, tmp_path, monkeypatch):
    server.script = [serve(OTHER), serve(delay=0.3), serve(pause=0.01)]
    error, outcomes = module._Job.error, []
    others = [
        threading.Thread(
            target=lambda: outcomes.append(fetch(dataset(server), tmp_path)[0].read_bytes() == BODY)
        )
        for _ in range(2)
    ]

    def let_the_second_in(job, what):
        others[0].start()
        others[0].join(0.1)
        return error(job, what)

    monkeypatch.setattr(module._Job, "error", let_the_second_in)
    with pytest.raises(DownloadError, match="what came has md5"):
        fetch(dataset(server), tmp_path)
    others[1].start()
    for thread in others:
        thread.join(30)
    assert outcomes == [True, True] and len(server.seen) == 2 and left(tmp_path) == ["file.h5"]


def test_without_locks_one_process_still_works(server, tmp_path, monkeypatch):
    def flock(*args):
        raise OSError(errno.ENOSYS, "Function not implemented")

    if atomic.fcntl:
        monkeypatch.setattr(atomic.fcntl, "flock", flock)
        assert fetch(dataset(server), tmp_path / "a")[0].read_bytes() == BODY
    monkeypatch.setattr(atomic, "fcntl", None)
    assert fetch(dataset(server), tmp_path / "b")[0].read_bytes() == BODY and left(
        tmp_path / "b"
    ) == ["file.h5"]


def archive(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_an_archive_is_kept_and_unpacked_once(server, tmp_path):
    server.body = archive({"val/b.root": b"two", "val/a.root": b"one"})
    toy = dataset(server, None, "", name="jets.tar")
    assert fetch(toy, tmp_path) == [tmp_path / "jets.tar"]
    paths = fetch(toy, tmp_path, unpack=True)
    assert paths == [tmp_path / "jets" / "val" / name for name in ("a.root", "b.root")]
    assert [path.read_bytes() for path in paths] == [b"one", b"two"] and left(tmp_path) == [
        "jets",
        "jets.tar",
    ]
    paths[0].write_bytes(b"mine")
    assert (
        fetch(toy, tmp_path, unpack=True) == paths
        and paths[0].read_bytes() == b"mine"
        and len(server.seen) == 1
    )


def test_an_archive_that_was_there_is_compared_before_it_is_unpacked(server, tmp_path):
    server.body = archive({"a.root": b"one"})
    toy = dataset(server, None, f"md5:{hashlib.md5(server.body).hexdigest()}", name="jets.tar")
    (tmp_path / "jets.tar").write_bytes(archive({"a.root": b"two"}))
    with pytest.raises(
        ValueError, match="jets.tar is there, but it has md5 .*: move it away and ask again"
    ):
        fetch(toy, tmp_path, unpack=True)
    assert left(tmp_path) == ["jets.tar"]
    (tmp_path / "jets.tar").unlink()
    (path,) = fetch(toy, tmp_path, unpack=True)
    (tmp_path / "jets.tar").write_bytes(b"no longer needed")
    assert fetch(toy, tmp_path, unpack=True) == [path] and path.read_bytes() == b"one"


def test_a_link_in_an_archive_is_not_unpacked(server, tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.root")
        info.type, info.linkname = tarfile.SYMTYPE, "../file"
        tar.addfile(info)
    server.body = buffer.getvalue()
    with pytest.raises(
        DownloadError, match="jets.tar cannot be unpacked: 'a.root' is a link or a device"
    ):
        fetch(dataset(server, None, "", name="jets.tar"), tmp_path, unpack=True)
    assert left(tmp_path) == ["jets.tar"]


@pytest.mark.parametrize("how", ["outside", "truncated", "no archive"])
def test_a_bad_archive_leaves_nothing_behind(server, tmp_path, how):
    good = archive({"a.root": b"one" * 1000, "../outside": b"two"})
    server.body = {"outside": good, "truncated": good[:1200], "no archive": BODY}[how]
    with pytest.raises(DownloadError, match="jets.tar cannot be unpacked: .*"):
        fetch(dataset(server, None, "", name="jets.tar"), tmp_path / "in", unpack=True)
    assert left(tmp_path) == ["in"] and left(tmp_path / "in") == ["jets.tar"]


def test_another_process_may_unpack_the_archive_first(server, tmp_path, monkeypatch):
    server.body = archive({"a.root": b"one"})

    def new_folder(path):
        path.mkdir()
        (path / "a.root").write_bytes(b"theirs")
        raise FileExistsError(errno.EEXIST, "another process has just made it", str(path))

    monkeypatch.setattr(module.atomic, "new_folder", new_folder)
    (path,) = fetch(dataset(server, None, "", name="jets.tar"), tmp_path, unpack=True)
    assert path.read_bytes() == b"theirs"


def test_other_files_are_not_unpacked(server, tmp_path):
    assert fetch(dataset(server), tmp_path, unpack=True) == [tmp_path / "file.h5"]


@pytest.mark.parametrize("files", ["*_1.h5", ["c_2.h5", "a_0.h5"]])
def test_several_files_come_in_the_order_of_the_dataset(server, tmp_path, files):
    (one,) = dataset(server).files
    toy = dataset(server)._replace(
        files=tuple(one._replace(name=name) for name in ("a_0.h5", "b_1.h5", "c_2.h5"))
    )
    expected = {"*": ["b_1.h5"], "c": ["a_0.h5", "c_2.h5"]}[files[0][0]]
    paths = download(toy, files, folder=str(tmp_path), progress=False)
    assert [path.name for path in paths] == expected == left(tmp_path) and len(server.seen) == len(
        expected
    )


ACTS = st.one_of(
    st.integers(0, len(BODY)).map(lambda n: serve(cut=n)),
    st.integers(0, len(BODY)).map(lambda n: serve(cut=n, ranges=False)),
    st.integers(0, len(BODY)).map(lambda n: serve(OTHER, etag='"2"', cut=n)),
    st.integers(-9, 9).map(lambda n: serve(shift=n)),
    st.integers(0, 2 * len(BODY)).map(lambda n: serve(length=n)),
    st.sampled_from([400, 403, 404, 408, 416, 429, 500, 502, 503]).map(answer),
    st.binary(max_size=50).map(lambda body: answer(200, body)),
    st.just(serve(cut=BROKEN, length="")),
    st.just(redirect),
)


@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=st.lists(ACTS, max_size=6), knows=st.sampled_from([(None, MD5), (len(BODY), MD5)]))
def test_whatever_the_server_does_the_file_is_right_or_not_there(
    server, tmp_path_factory, acts, knows
):
    folder = tmp_path_factory.mktemp("any")
    server.script = list(acts)
    try:
        fetch(dataset(server, *knows), folder)
    except DownloadError as error:
        assert "file.h5 of toy: " in str(error) and not (folder / "file.h5").exists()
    server.script = []
    for _ in range(2):  # what was left of another file costs one try: its checksum is wrong
        try:
            assert fetch(dataset(server, *knows), folder)[0].read_bytes() == BODY
            break
        except DownloadError as error:
            assert "what came has" in str(error)
    assert left(folder) == ["file.h5"]
