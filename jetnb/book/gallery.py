"""Pages of executed notebooks and an index over them that read well from disk, without a network or
a kernel.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import math
import os
import re
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

import nbformat
from jinja2 import Environment, FileSystemLoader
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from jetnb import _json, atomic
from jetnb.book import runner
from jetnb.metrics.estimates import show

WIDGET = "application/vnd.jupyter.widget-view+json"
FACTS: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "question": str,
    "scale": str,
    "error": str,
    "seconds": (int, float),
    "date": str,
    "result": dict,
}

HERE = Path(__file__).parent


def tex_to_mathml(tex, display="inline") -> str:
    """A formula as MathML, which every current browser draws by itself; TeX that cannot be read
    stays as it is.
    """
    try:
        return mathml(tex.strip(), display=display)
    except Exception:  # the converter raises errors of many kinds
        return f"<code>{escape(tex)}</code>"


class Renderer(IPythonRenderer):
    """Markdown with formulae as MathML."""

    def inline_math(self, body):
        return tex_to_mathml(body)

    def block_math(self, body):
        return tex_to_mathml(body, "block")

    def latex_environment(self, name, body):
        return tex_to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


class _Exporter(HTMLExporter):
    raw_template = (HERE / "page.html").read_text(encoding="utf-8")

    def default_filters(self):
        yield from super().default_filters()
        yield (
            "markdown2html",
            lambda source: MarkdownWithMath(renderer=Renderer(escape=False)).render(source),
        )


def question(notebook) -> tuple[str, str]:
    """Title and one-sentence question of a notebook, without markup but for $formulae$, from its
    first cell.
    """
    text = notebook.cells[0].source if notebook.cells else ""
    lines = [
        re.sub(r"^Question: *", "", re.sub(r"\*\*|`", "", line).strip("*_ "))
        for line in text.splitlines()
    ]
    title = next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")
    asked = next((line for line in lines if line.endswith("?") and not line.startswith("#")), "")
    return title, asked[:1].upper() + asked[1:]


def _with_formulae(text) -> str:
    """Plain text as HTML, its $formulae$ as MathML."""
    parts = re.split(r"\$([^$]+)\$", text)
    return "".join(tex_to_mathml(part) if i % 2 else escape(part) for i, part in enumerate(parts))


def html(notebook, *, line="") -> str:
    """One executed notebook as a page that loads nothing: formulae as MathML, live widgets left
    out.

    Every interactive panel has a static companion in the notebook, so no picture is lost with the
    widgets.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.update(title=question(notebook)[0], jetnb_line=line)
    heading = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next(
                (text.lstrip("# ") for text in cell.source.splitlines() if text.startswith("#")),
                heading,
            )
        else:
            cell.metadata["jetnb_alt"] = f"Figure: {heading}"
            cell["outputs"] = [
                output for output in cell.outputs if WIDGET not in output.get("data", {})
            ]
    return _Exporter().from_notebook_node(notebook)[0]


def thumbnail(notebook) -> bytes | None:
    """The telling figure of a notebook as PNG: the last of its cell tagged `headline`, else its
    first.
    """
    tagged = runner.cell_index(notebook, "headline")
    told = None if tagged is None else last_picture(notebook.cells[tagged])
    return told or next((one for cell in notebook.cells for one in _pictures(cell)), None)


def last_picture(cell) -> bytes | None:
    """The last PNG that a cell shows."""
    return next(iter(_pictures(cell)[::-1]), None)


def _pictures(cell) -> list[bytes]:
    found = []
    for output in cell.get("outputs", []):
        if "image/png" in output.get("data", {}):
            with contextlib.suppress(ValueError):  # no base64
                found.append(base64.b64decode(output["data"]["image/png"]))
    return found


def write_page(outcome, out, *, folder, date=None) -> Path:
    """Write NAME.ipynb, NAME.html, NAME.json and NAME.png (the thumbnail) of one outcome of
    `jetnb.book.runner.execute`.

    Each appears when it is complete. Where the notebook makes no page, that is added to the `error`
    of the outcome.
    """
    out, name, date = Path(out), outcome.name, date or f"{datetime.now():%Y-%m-%d %H:%M}"
    about = {"seconds": outcome.seconds, "memory_mb": outcome.memory / 1e6, "scale": outcome.scale}
    line = _line(about | {"date": date})
    try:
        title, asks = question(outcome.notebook)
        executed, picture = nbformat.writes(outcome.notebook), thumbnail(outcome.notebook)
        page = html(
            outcome.notebook, line=line + (f"; failed: {outcome.error}" if outcome.error else "")
        )
    except Exception as error:  # of whatever kind: the notebook may be damaged in any way
        outcome.error = "; ".join(
            filter(None, [outcome.error, f"it makes no page: {type(error).__name__}: {error}"])
        )
        title, asks, executed, picture = "", "", None, None
        page = f"<!DOCTYPE html><title>{escape(name)}</title><p>{escape(name)}: {escape(outcome.error)}</p>"
    source = quote(Path(os.path.relpath(folder, out)).as_posix())

    def link(match):
        numbered = re.match("[0-9]", match[1]) and (Path(folder) / f"{match[1]}.ipynb").exists()
        return f'href="{match[1]}.html' if numbered else f'href="{source}/{match[1]}.ipynb'

    facts = {
        "title": title or name,
        "question": asks,
        "scale": outcome.scale,
        "error": outcome.error,
        "seconds": round(outcome.seconds, 1),
        "date": date,
        "result": outcome.result,
        "headline": outcome.headline,
        "memory_mb": round(outcome.memory / 1e6),
        "disk_mb": round(outcome.disk / 1e6, 1),
        "source": outcome.source,
        "speed": outcome.speed,
    }
    _replace(out / f"{name}.ipynb", executed)
    _replace(out / f"{name}.png", picture)
    _replace(out / f"{name}.html", re.sub(r'href="(?:\./)?([\w-]+)\.ipynb', link, page))
    _replace(out / f"{name}.json", json.dumps(facts, indent=1))
    return out / f"{name}.html"


def _replace(path: Path, content: str | bytes | None) -> None:
    """Make the file `path` anew, or remove it where there is no content."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    with atomic.new_file(path, replace=True) as hidden:
        hidden.write_bytes(
            content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
        )


def check_folder(out: Path, notebooks) -> None:
    """Raise `ValueError` where a gallery in `out` would replace the notebooks or a page of others."""
    index = out / "index.html"
    other = index.is_file() and "<title>jetnb" not in index.read_text("utf-8", errors="replace")
    if other or out.resolve() == Path(notebooks).resolve():
        what = "a page index.html of something else" if other else "the notebooks themselves"
        raise ValueError(f"{out} has {what}, which a gallery would replace: choose another folder")


def write_index(out, *, links=()) -> Path:
    """Write index.html over all notebooks whose pages lie in the folder; other files are left out,
    and named there. With `links` (address, words) it is the first page of a site, with a search.
    """
    out, cards, left_out = Path(out), [], []
    for path in sorted(out.glob("[0-9]*.json")):
        try:
            facts = _json.read(
                path, FACTS, what="record of a notebook", remedy="run it again, or remove the file"
            )
            cards.append(_card(path.stem, facts, (out / f"{path.stem}.png").exists()))
        except (ValueError, OSError) as error:
            left_out.append(str(error))
    templates = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters["formulae"] = _with_formulae
    page = templates.get_template("index.html").render(cards=cards, left_out=left_out, links=links)
    _replace(out / "index.html", page)
    return out / "index.html"


def _card(name, facts, has_picture) -> dict:
    """What index.html says of a notebook."""
    return facts | {
        "address": quote(name),
        "picture": has_picture,
        "number": runner.number_of(name),
        "name": re.sub(r"^[0-9]{2}[a-z]?[.:]? +", "", facts["title"]),
        "headlines": headlines(facts.get("headline")) or _numbers(facts["result"]),
        "line": _line(facts),
    }


def _line(facts) -> str:
    scale = f"{took(facts)} at {facts['scale']} scale, " if facts["scale"] else ""
    return scale + facts["date"]


def took(facts) -> str:
    """Time and memory of a run in words: '20 s, 0.9 GB'."""
    memory = facts.get("memory_mb")
    memory = f", {memory / 1000:.1f} GB" if isinstance(memory, (int, float)) and memory else ""
    return duration(facts["seconds"]) + memory


def headlines(headline) -> list[tuple[str, str]]:
    """The named numbers of a notebook as text: `{"median mass [GeV]": [56.4, 55.9, 57.0]}` gives
    `("median mass", "56.4 (55.9 to 57.0) GeV")`.
    """
    shown = []
    for name, numbers in headline.items() if isinstance(headline, dict) else ():
        found = re.fullmatch(r"(.*?)\s*\[([^\]]+)\]", name, re.S)
        words, unit = found.groups() if found else (name, "")
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # of a damaged record
            low, high = (math.nan if end is None else float(end) for end in numbers[1:3])
            shown.append((words, f"{show(float(numbers[0]), low, high)} {unit}".strip()))
    return shown


def _numbers(result, most=8) -> list[tuple[str, str]]:
    """The numbers and words of a result as text; lists and inner tables are left to the notebook.
    For notebooks without a `headline`.
    """
    plain = [
        (key.replace("_", " "), value)
        for key, value in result.items()
        if isinstance(value, (bool, int, float, str))
    ]
    formats = {float: "{:.4g}", int: "{:,}"}
    shown = [(key, formats.get(type(value), "{}").format(value)) for key, value in plain[:most]]
    return shown + [("more in the notebook", str(len(result) - len(shown)))] * (
        len(result) > len(shown)
    )


def duration(seconds) -> str:
    """Seconds in words: '20 s', '3.5 min'."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
