"""docs/talks.md names notebooks and headings that exist, and leaves no talk without a table."""

import re
from pathlib import Path

import nbformat
import pytest

PAGE = Path(__file__).parents[1] / "docs" / "talks.md"
NONE = "none yet"


def rows(text):
    """(talk, figure, notebook cell, heading) of each row of the tables."""
    talk = None
    for line in text.splitlines():
        if line.startswith("## "):
            talk = line[3:]
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and cells[0] != "figure" and not set(cells[0]) <= {"-"}:
            assert len(cells) == 4, f"four columns, not {len(cells)}: {line}"
            yield talk, *cells[:3]


def headings(path):
    """The texts of all headings of a notebook."""
    cells = [
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "markdown"
    ]
    return {
        line.lstrip("#").strip()
        for source in cells
        for line in source.splitlines()
        if re.match(r"#+ ", line)
    }


def problems(text, folder):
    """What a page names that is not there, in words."""
    for talk, figure, notebook, heading in rows(text):
        what = f"{talk}, {figure!r}"
        if notebook == NONE:
            if heading != NONE:
                yield f"{what}: no notebook, but the heading {heading!r}"
            continue
        link = re.fullmatch(r"\[(\d\d\w?)\]\(([^)]+)\)", notebook)
        path = (folder / link[2]).resolve() if link else None
        if not link or not path.is_file():
            yield f"{what}: {notebook} is no link to a notebook that is there"
        elif not path.name.startswith(f"{link[1]}_"):
            yield f"{what}: the link says {link[1]} and leads to {path.name}"
        elif heading not in headings(path):
            yield f"{what}: {path.name} has no heading {heading!r}"


def test_each_notebook_and_heading_of_the_talks_exists():
    text = PAGE.read_text(encoding="utf-8")
    assert not (found := list(problems(text, PAGE.parent))), "\n".join(found)
    talks = re.findall(r"^## (.+)$", text, re.M)
    assert len(talks) == 5 and {talk for talk, *_ in rows(text)} == set(talks)


@pytest.mark.parametrize(
    ("notebook", "heading", "said"),
    [
        ("[03](../notebooks/03_substructure.ipynb)", "All jests", "no heading 'All jests'"),
        ("[03](../notebooks/03_gone.ipynb)", "All jets", "no link to a notebook"),
        ("[04](../notebooks/03_substructure.ipynb)", "All jets", "leads to 03_substructure"),
        ("03", "All jets", "no link to a notebook"),
        (NONE, "All jets", "no notebook, but"),
    ],
)
def test_a_row_that_leads_nowhere_is_told(notebook, heading, said):
    good = "## Talk\n| a | [03](../notebooks/03_substructure.ipynb) | All jets | |\n"
    assert not list(problems(good, PAGE.parent))
    assert said in next(problems(f"## Talk\n| a | {notebook} | {heading} | |\n", PAGE.parent))
