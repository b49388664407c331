"""The front door: two commands first, a picture of each notebook, and the command that makes them."""

import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from jetnb import __main__
from jetnb.book import overview, readme, runner, usage

TEXT = readme.README.read_text(encoding="utf-8")


def test_the_readme_is_short_and_begins_with_two_commands():
    assert len(TEXT.splitlines()) <= 120
    first = re.search(r"```\n(.*?)```", TEXT, re.S)[1].splitlines()
    assert [line.split("#")[0].strip() for line in first] == [
        "python3 start.py lab",
        "python3 start.py test",
    ]


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\(([^)#:]+)\)|(?:src|href)=\"([^\"#:]+)\"", TEXT)
    assert len(links) > 20
    dead = [link for pair in links for link in pair if link and not (runner.ROOT / link).exists()]
    assert not dead


@pytest.mark.parametrize("path", runner.find(), ids=lambda path: path.stem)
def test_each_notebook_has_a_picture_of_the_code_that_is_there(path):
    remedy = "run all notebooks (python3 start.py run), then: .venv/bin/jetnb readme"
    picture = readme.PICTURES / f"{path.stem}.png"
    assert picture.is_file(), f"{path.stem} has no picture: {remedy}"
    assert picture.stat().st_size <= readme.MOST
    facts = readme.read()[path.stem]
    same = facts["figure"] == readme.telling(path)
    assert same, f"the figure of {path.stem} was drawn by other code: {remedy}"
    assert f"docs/pictures/{path.stem}.png" in TEXT and facts["seconds"] > 0
    assert f"]({path.parent.name}/{path.name})**" in TEXT


def test_pictures_of_notebooks_that_are_gone_are_gone():
    stems = {path.stem for path in runner.find()}
    assert {path.stem for path in readme.PICTURES.glob("*.png")} <= stems | {"front"}
    assert readme.read().keys() <= stems


@pytest.fixture
def repository(tmp_path):
    """A repository with notebooks 01 and 02, and a README."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "docs").mkdir()
    draw = "plt.plot([1, 2])\nplt.show()"
    for number in ("01", "02"):
        cells = [
            nbformat.v4.new_markdown_cell(f"# {number} One | two\n\n**Question: is $m_T$ there?**"),
            nbformat.v4.new_code_cell("import matplotlib.pyplot as plt"),
            nbformat.v4.new_code_cell(draw, metadata={"tags": ["headline"]}),
            nbformat.v4.new_code_cell("result = {}\nheadline = {'mass [GeV]': (80.4, 80.1, 80.9)}"),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{number}_one.ipynb")
    (tmp_path / "README.md").write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    return tmp_path


def test_one_figure_stands_above_the_table_larger(repository, monkeypatch):
    monkeypatch.setattr(readme, "FRONT", "02_one")
    pictures = repository / "docs" / "pictures"
    options = {"pictures": pictures, "readme": repository / "README.md"}
    assert runner.run(out=repository / "gallery", folder=repository / "notebooks") == 0
    assert not readme.write([repository / "gallery"], notebooks=repository / "notebooks", **options)
    above = (repository / "README.md").read_text().split(readme.BEGIN)[1].strip().splitlines()[0]
    assert 'href="notebooks/02_one.ipynb"' in above and "docs/pictures/front.png" in above
    with Image.open(pictures / "front.png") as front, Image.open(pictures / "02_one.png") as small:
        assert front.width > small.width and front.width <= readme.WIDE[0]


def test_the_command_writes_pictures_numbers_and_costs(repository, monkeypatch, capsys):
    folder, pictures = repository / "notebooks", repository / "docs" / "pictures"
    options = {"notebooks": folder, "pictures": pictures, "readme": repository / "README.md"}
    pictures.mkdir()
    (pictures / "09_gone.png").touch()
    assert runner.run(out=repository / "gallery", folder=folder) == 0
    assert readme.write([repository / "gallery"], **options) == []
    text = (repository / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "mass: 80.40 (80.10 to 80.90) GeV" in text and " GB" in text and "01 One   two" in text
    assert "Is m_T there?" in text.replace("m T", "m_T")
    assert sorted(path.name for path in pictures.glob("*.png")) == ["01_one.png", "02_one.png"]
    with Image.open(pictures / "01_one.png") as image:
        assert image.size == readme.SIZE
    row = next(line for line in text.splitlines() if "01_one" in line)
    assert row.count(" | ") == readme.COLUMNS - 1, "a bar in a title must not end its cell"

    changed = nbformat.read(folder / "02_one.ipynb", as_version=4)
    changed.cells[-1].source = changed.cells[-1].source.replace("80.4", "80.5")
    nbformat.write(changed, folder / "02_one.ipynb")
    assert readme.write([repository / "gallery"], **options) == []
    kept = readme.read(pictures)
    assert kept["01_one"]["headline"] and not kept["02_one"]["headline"], "of another run"

    changed.cells[2].source = changed.cells[2].source.replace("[1, 2]", "[2, 1]")
    nbformat.write(changed, folder / "02_one.ipynb")
    before = (pictures / "02_one.png").read_bytes()
    assert readme.write([repository / "gallery"], **options) == ["02_one"]
    assert (pictures / "02_one.png").read_bytes() == before
    assert readme.read(pictures)["02_one"]["figure"] != readme.telling(folder / "02_one.ipynb")

    monkeypatch.setattr(readme.write, "__kwdefaults__", options)
    assert __main__.main(["readme", str(repository / "gallery")]) == 1
    assert "02_one" in capsys.readouterr().out
    (repository / "README.md").write_text("no place")
    assert __main__.main(["readme", str(repository / "gallery")]) == 2


def test_a_picture_is_small_whatever_it_shows():
    rng = np.random.default_rng(1)
    for shape in ((3000, 2000, 4), (50, 900, 3)):
        noise, png = rng.integers(0, 256, shape, np.uint8), io.BytesIO()
        Image.fromarray(noise).save(png, "PNG")
        made = readme.picture(png.getvalue())
        assert len(made) <= readme.MOST
        with Image.open(io.BytesIO(made)) as image:
            assert image.size == readme.SIZE


def test_times_follow_the_speed_and_short_memory_is_said(repository, monkeypatch, capsys):
    pictures = repository / "docs" / "pictures"
    pictures.mkdir()
    facts = {
        "01_one": {"seconds": 60, "memory_mb": 1000, "speed": 100.0},
        "02_one": {"seconds": 30, "memory_mb": 9000, "speed": 100.0},
    }
    (pictures / "facts.json").write_text(json.dumps(facts))
    monkeypatch.setattr(usage, "speed", lambda: 50.0)
    monkeypatch.setattr(overview, "_free", lambda: 2.0)
    found = overview.overview(notebooks=repository / "notebooks", pictures=pictures)
    assert [row[3] for row in found] == [120, 60] and found.pace == 0.5
    assert "2.0 GB of memory are free" in repr(found)
    assert repr(found).count("more than is free") == found._repr_html_().count("than is free") == 1
    overview.room("01", pictures=pictures)
    assert capsys.readouterr().out == ""
    overview.room("02", pictures=pictures)
    assert "took 9.0 GB at laptop scale, and 2.0 GB are free" in capsys.readouterr().out
    none = overview.overview(notebooks=repository / "notebooks", pictures=Path("nowhere"))
    assert "not measured" in repr(none)


def test_speed_is_a_number_of_this_machine():
    assert usage.speed(0.03) > 10
