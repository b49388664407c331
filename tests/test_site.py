"""The site reads without a network: links lead somewhere, formulae are MathML, the search knows all."""

import json
import re
from html import unescape
from urllib.parse import unquote

import nbformat
import pytest

from jetnb.book import runner, site

pytest.importorskip("pdoc", reason="extra 'site' is not installed: pip install 'jetnb[site]'")

NOTEBOOK = """# 01 One

**Question: what is $m_T$?**

[Next](02_two.ipynb), [the protocol](../docs/protocol.md), [a file](scales.toml), [a folder](../docs)"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    for folder in ("notebooks", "docs", "data"):
        (root / folder).mkdir()
    for name, text in (
        ("01_one", NOTEBOOK),
        ("02_two", "# 02 Two\n\n## Below, what?\n\nHidden words."),
    ):
        cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell("result = {}")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    (root / "notebooks" / "scales.toml").write_text("")
    (root / "docs" / "protocol.md").write_text(
        "# Rules\n\n## Seeds\n\n$x^2$, [home](../README.md#top)"
    )
    talks = "# Talks\n\n| figure | notebook | heading | differs |\n|---|---|---|---|\n"
    row = "| a | [02](../notebooks/02_two.ipynb) | Below, what? | b |\n"
    (root / "docs" / "talks.md").write_text(talks + row)
    (root / "README.md").write_text("# About\n\n[one](notebooks/01_one.ipynb) [gone](gone.md)")
    assert runner.run(["1"], out=root / "gallery", folder=root / "notebooks") == 0
    index = site.build([root / "gallery"], root / "site", root=root, package="jetnb.metrics")
    return index.parent


def test_all_links_lead_somewhere_and_nothing_is_loaded(built):
    links = 0
    for page in built.rglob("*.html"):
        text = re.sub(r"<script\b.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)
        for kind, address in re.findall(r'<[a-z]+\b[^>]*?\b(href|src)="([^"]*)"', text):
            address = unescape(address)
            if re.match(r"https?:|mailto:", address):
                assert kind == "href" and "<link" not in text.partition(address)[0][-80:]
            elif not address.startswith("data:"):
                file, _, anchor = address.partition("#")
                target = (page.parent / unquote(file)) if file else page
                assert target.is_file(), f"{page.name}: {address}"
                ids = unescape(target.read_text(encoding="utf-8")) if anchor else ""
                assert not anchor or f'id="{unquote(anchor)}"' in ids, f"{page.name}: {address}"
                links += 1
    assert links > 30


def test_pages_lead_to_each_other(built):
    one = (built / "01_one.html").read_text()
    assert 'href="02_two.html"' in one and 'href="protocol.html"' in one
    assert 'href="files/notebooks/scales.toml"' in one and "<math" in one
    assert "<math" in (built / "protocol.html").read_text()
    assert 'href="02_two.html#Below' in (built / "talks.html").read_text()
    assert "not run" in (built / "02_two.html").read_text()
    assert "gone.md" not in re.findall(r'href="([^"]*)"', (built / "about.html").read_text())


def test_the_search_knows_headings_and_words(built):
    pages = json.loads(
        (built / "search.js").read_text().removeprefix("const PAGES = ").rstrip(";\n")
    )
    hit = next(one for one in pages if "Hidden words" in one["text"])
    assert hit["heading"] == "Below, what?" and unquote(hit["at"]) == "02_two.html#Below,-what?"
    assert any(one["heading"] == "Seeds" for one in pages)
    index = (built / "index.html").read_text()
    assert 'src="search.js"' in index and "api/index.html" in index


def test_the_reference_has_the_docstrings(built):
    assert "Clopper-Pearson" in "".join(
        path.read_text() for path in (built / "api").rglob("*.html")
    )


def test_what_was_interrupted_can_be_built_again(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(site.gallery, "write_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            site.build([], tmp_path / "site")
    monkeypatch.setattr(site.gallery, "write_page", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # it begins anew
        site.build([], tmp_path / "site")


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="other things in it"):
        site.build([], tmp_path)
    assert (tmp_path / "mine.txt").exists()
