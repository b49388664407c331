"""What the headers of an answer over HTTP say of the file: which part of it comes, its version,
size and checksum.
"""

from __future__ import annotations

import re

import requests

SHA256 = re.compile(r'"?([0-9a-f]{64})"?')


def content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole file, as the answer says; None for what it does not say."""
    found = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (number(found[1] or ""), number(found[2])) if found else (None, None)


def version(response: requests.Response) -> str:
    """What the server calls this version of the file: a strong ETag, or else the date; "" if it
    says neither.
    """
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else response.headers.get("Last-Modified", "")


def digest(response: requests.Response) -> str:
    """The sha256 of the file, which Hugging Face says of large ones before it leads to them; "" of
    others.
    """
    headers = [each.headers.get("X-Linked-ETag", "") for each in (*response.history, response)]
    return next((found[1] for found in map(SHA256.fullmatch, headers) if found), "")


def number(text: str) -> int | None:
    """The number that a header is, None for another text."""
    return int(text) if text.isdecimal() else None


def cause(error: Exception) -> str:
    """The last clause of what requests and urllib3 say, which wrap one message into another."""
    return (
        str(getattr(error.args[0], "reason", error) if error.args else error)
        .rpartition(": ")[2]
        .strip("()'\"> ")
    )
