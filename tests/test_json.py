"""Records in JSON are refused with file, field and value."""

import pytest

from jetnb import _json

ABOUT = {"what": "card", "remedy": "make it again"}


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no card"),
        ("{", "no card"),
        ("[1]", "but a list"),
        ("{}", "no 'n'"),
        ('{"n": "3"}', "'n' is '3', not int"),
        ('{"n": true}', "'n' is True, not int"),
        ('{"n": null}', "not int"),
        ("[" * 100_000, "no card"),
        (b"\xff\xfe\x00", "no card"),
    ],
)
def test_what_is_no_record_is_refused_with_its_name(tmp_path, text, said):
    file = tmp_path / "card.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said) as error:
        _json.read(file, {"n": int}, **ABOUT)
    assert str(file) in str(error.value) and "make it again" in str(error.value)


def test_a_record_is_read(tmp_path):
    (tmp_path / "card.json").write_text('{"n": 3, "x": 1.5}')
    assert _json.read(tmp_path / "card.json", {"n": int, "x": (int, float)}, **ABOUT) == {
        "n": 3,
        "x": 1.5,
    }


def test_a_huge_file_is_not_read(tmp_path):
    with open(tmp_path / "card.json", "wb") as file:
        file.truncate(_json.LIMIT + 1)
    with pytest.raises(ValueError, match="bytes"):
        _json.read(tmp_path / "card.json", **ABOUT)
