"""What goes wrong while a file is read, in every format: it names the file, says what it is and
what to do.
"""

from __future__ import annotations

from pathlib import Path

import damage
import pytest
import test_root_formats

import jetnb.jets
from jetnb.readers import identify

FORMATS = {name: name for name in damage.FORMATS if name != "store"} | {
    name: form.reader.__name__.rpartition(".")[2]
    for name, form in test_root_formats.FORMATS.items()
}
ERRORS = {
    "memory": (MemoryError(), ValueError, "does not fit into the memory .*smaller block_size"),
    "permission": (
        PermissionError(13, "Permission denied"),
        PermissionError,
        "cannot be read .*permissions",
    ),
    "disk": (OSError(5, "Input/output error"), OSError, "cannot be read .Input.*disk"),
    "library": (
        RuntimeError("bytes"),
        ValueError,
        "damaged .RuntimeError: bytes.: download it again",
    ),
    "library, its own": (
        type("Odd", (Exception,), {})(),
        ValueError,
        "damaged .Odd.: download it again",
    ),
    "end": (EOFError(), ValueError, "damaged .EOFError.: download it again"),
}


@pytest.fixture(scope="module", params=FORMATS)
def file(request, tmp_path_factory):
    """The reader of a format, and a good file."""
    name, folder = request.param, tmp_path_factory.mktemp("good")
    if name in damage.FORMATS:
        return identify.reader(FORMATS[name]), damage.good_file(folder, name)
    _, tree, columns = test_root_formats.FORMATS[name]
    return identify.reader(FORMATS[name]), test_root_formats.write(
        folder / "a.root", tree, columns(), "RNTuple"
    )


@pytest.mark.parametrize("error, kind, message", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("where", ["opening", "reading"])
def test_every_error_names_the_file_and_a_remedy(file, monkeypatch, where, error, kind, message):
    reader, path = file
    assert sum(map(len, reader.read(path))) > 0

    def fail(*args, **kwargs):
        raise error

    if where == "opening":
        plain = Path.open
        monkeypatch.setattr(
            Path, "open", lambda self, *args: fail() if self == path else plain(self, *args)
        )
        uses = (lambda: reader.count(path), lambda: reader.read(path))
    else:
        blocks = reader.read(path)
        monkeypatch.setattr(jetnb.jets, "build", fail)
        uses = (lambda: next(blocks),)
    for use in uses:
        with pytest.raises(kind, match=message) as caught:
            use()
        assert str(caught.value).startswith(str(path)) and str(caught.value).count(str(path)) == 1
