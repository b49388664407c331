"""A folder of pages that read without a network: executed notebooks, documents, a reference of the
package (pdoc), and a search over all of them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import warnings
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import nbformat
from nbconvert.filters.markdown_mistune import MarkdownWithMath

from jetnb import atomic
from jetnb.book import gallery, runner

SITE = runner.ROOT / "data" / "derived" / "site"
DOCUMENTS = {  # name of the page: file in the repository
    "about": "README.md",
    "talks": "docs/talks.md",
    "protocol": "docs/protocol.md",
    "data": "data/README.md",
    "contributing": "CONTRIBUTING.md",
    "changes": "CHANGELOG.md",
}
MARK = ".jetnb-site"  # a file that says that a folder is ours
LARGEST = 300_000  # bytes of a file of the repository that the site takes along because of a link


def build(
    galleries: Sequence[Path] = (runner.GALLERY,),
    out: Path = SITE,
    *,
    root: Path = runner.ROOT,
    package: str = "jetnb",
) -> Path:
    """Build the site in the folder `out`, anew; its index.

    A notebook is shown as the first of these galleries has it, or as it stands where none has. root:
    the repository, with `notebooks` and the `DOCUMENTS`. Raises `ValueError` for a folder that holds
    something else, and `ModuleNotFoundError` without pdoc.
    """
    if importlib.util.find_spec("pdoc") is None:
        raise ModuleNotFoundError("the site needs pdoc: python3 start.py site installs it")
    out, root = Path(out).resolve(), Path(root).resolve()
    if out.exists() and out != SITE and any(out.iterdir()) and not (out / MARK).exists():
        raise ValueError(f"{out} is a folder with other things in it: choose another one")
    with atomic.alone(out, "building the site"):
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        (out / MARK).touch()
        for path in runner.find(folder=root / "notebooks"):
            outcome, date = _shown(path, galleries)
            gallery.write_page(outcome, out, folder=path.parent, date=date)
        _reference(package, out / "api")
        for name, file in DOCUMENTS.items():
            if (root / file).is_file():
                (out / f"{name}.html").write_text(_document(root / file), encoding="utf-8")
        for page in sorted(out.glob("*.html")):
            home = {name: (root / file).parent for name, file in DOCUMENTS.items()}
            text = page.read_text(encoding="utf-8")
            text = _links(text, home.get(page.stem, root / "notebooks"), root, out)
            page.write_text(text, encoding="utf-8")
        index = gallery.write_index(out, links=_menu(out))
        found = [
            entry
            for page in sorted(out.glob("*.html"))
            if page != index
            for entry in _entries(page)
        ]
        (out / "search.js").write_text(f"const PAGES = {json.dumps(found)};\n", encoding="utf-8")
    return index


def _shown(path: Path, galleries) -> tuple[Any, str]:
    """What there is of a notebook as an outcome of a run, and the date of it."""
    for folder in map(Path, galleries):
        record, copy = folder / f"{path.stem}.json", folder / f"{path.stem}.ipynb"
        if record.is_file() and copy.is_file():
            facts = json.loads(record.read_text(encoding="utf-8"))
            executed = nbformat.read(copy, as_version=4)
            same = runner.fingerprint(executed, ("code",)) == runner.fingerprint(
                runner.at_scale(path, facts["scale"]), ("code",)
            )
            found = runner.Outcome(path.stem, facts["scale"], executed, facts["seconds"])
            found.result, found.headline = facts["result"], facts.get("headline") or {}
            found.error, found.memory = facts["error"], int(1e6 * (facts.get("memory_mb") or 0))
            return found, facts["date"] + ("" if same else ", before its code was changed")
    notebook = nbformat.read(path, as_version=4)
    return runner.Outcome(path.stem, "", notebook), "not run"


def _document(path: Path) -> str:
    """A document in Markdown as a page; rows of the talks lead to their headings."""
    text = path.read_text(encoding="utf-8")
    row = r"^(\|[^|]*\| *\[[^]]*\]\([^)#]+)(\) *\| *)([^|]+?)( *\|)"
    text = re.sub(row, lambda m: f"{m[1]}#{_anchor(m[3])}{m[2]}{m[3]}{m[4]}", text, flags=re.M)
    body = MarkdownWithMath(renderer=gallery.Renderer(escape=False)).render(text)
    title = next((line[2:] for line in text.splitlines() if line.startswith("# ")), path.stem)
    template = (gallery.HERE / "document.html").read_text(encoding="utf-8")
    return template.replace("{{ title }}", escape(title)).replace("{{ body }}", body)


def _anchor(heading: str) -> str:
    """The id that nbconvert gives to a heading, as part of an address."""
    return quote(re.sub(r" +", "-", heading.strip()), safe="?,:;!'()-")


def _links(text: str, home: Path, root: Path, out: Path) -> str:
    """Lead the links of a page, whose source lay in `home`, to pages of the site; files that are no
    pages are taken along if they are small, and a link to anything else becomes plain words.
    """
    pages = {(root / file).resolve(): f"{name}.html" for name, file in DOCUMENTS.items()}

    @functools.cache
    def page_of(target):
        page = out / unquote(target)
        return page.read_text(encoding="utf-8") if page.suffix == ".html" else ""

    def lead(match):
        words, kind, address = match[0], match[1], unescape(match[2])
        here = (out / unquote(address.partition("#")[0])).resolve()
        if re.match(r"[a-z]+:|#|$", address) or (here.is_relative_to(out) and here.is_file()):
            return words
        place, _, anchor = address.partition("#")
        path = (home / unquote(place)).resolve()
        if path.suffix == ".ipynb" and (out / f"{path.stem}.html").is_file():
            target = f"{quote(path.stem)}.html"
        elif path in pages:
            target = pages[path]
        elif path.is_file() and path.is_relative_to(root) and path.stat().st_size <= LARGEST:
            copied = out / "files" / path.relative_to(root)
            copied.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copied)
            target = quote(copied.relative_to(out).as_posix())
        else:
            return f'data-not-here="{escape(address)}"'
        known = anchor and f'id="{escape(unquote(anchor))}"' in page_of(target)
        return f'{kind}="{target}{"#" + escape(anchor) if known else ""}"'

    return re.sub(r'\b(href|src)="((?!data:)[^"]*)"', lead, text)


def _reference(package: str, out: Path) -> None:
    """Pages of all modules, made of their docstrings."""
    import pdoc

    top = importlib.import_module(package)
    for name in getattr(top, "__all__", ()):  # what is imported when it is asked for
        setattr(top, name, getattr(top, name))
    pdoc.render.configure(docformat="markdown", show_source=False, footer_text="jetnb")
    below = pkgutil.walk_packages(getattr(top, "__path__", ()), f"{package}.")
    public = [one.name for one in below if not re.search(r"\._", one.name)]
    with warnings.catch_warnings():  # of hints that only a checker of types can read
        warnings.simplefilter("ignore")
        pdoc.pdoc(package, *public, output_directory=out)


def _menu(out: Path) -> list[tuple[str, str]]:
    titles = {
        "about": "what jetnb is",
        "talks": "the talks, figure by figure",
        "protocol": "how comparisons are made fair",
        "data": "the data",
        "contributing": "contributing",
        "changes": "changes",
    }
    menu = [(f"{name}.html", words) for name, words in titles.items()]
    menu = [(page, words) for page, words in menu if (out / page).exists()]
    return [*menu, ("api/index.html", "reference of the package")]


def _entries(page: Path) -> list[dict[str, str]]:
    """What the search knows of a page: each heading, its address and the words below it."""
    text = page.read_text(encoding="utf-8")
    title = unescape(re.search(r"<title>(.*?)</title>", text, re.S)[1]).strip()
    text = re.sub(r"<(style|script|head)\b.*?</\1>", " ", text, flags=re.S)
    parts = re.split(r'<h[1-4][^>]*\bid="([^"]*)"[^>]*>(.*?)</h[1-4]>', text, flags=re.S)
    found = []
    for at, heading, below in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        words = [
            " ".join(unescape(re.sub(r"<[^>]*>", " ", one)).split()) for one in (heading, below)
        ]
        address = f"{quote(page.name)}#{quote(unescape(at), safe=chr(39) + '?,:;!()-')}"
        entry = {"page": title, "heading": words[0].rstrip("¶ "), "at": address}
        found.append(entry | {"text": words[1][:1500]})
    return found
