"""Pages of executed notebooks and an index over them that read well from disk, without a network or
a kernel.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import re
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

import nbformat
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from jetnb import _json, atomic

WIDGET = "application/vnd.jupyter.widget-view+json"
FACTS = {
    "title": str,
    "question": str,
    "scale": str,
    "error": str,
    "seconds": (int, float),
    "date": str,
    "result": dict,
}

# nbconvert's page less everything that it would fetch (MathJax, RequireJS, mermaid, widgets), with
# solutions folded away and with pictures that say what they show.
PAGE = """{%- extends 'index.html.j2' -%}
{% block html_head_js %}{% endblock %}
{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}
{% block html_head_js_mermaidjs %}{% endblock %}
{% block html_head_css %}<style>
body.jp-Notebook { padding: 0 1rem 4rem; } main { max-width: 62rem; margin: 0 auto; }
.jp-RenderedImage img { max-width: 100%; height: auto; } math { font-size: 1.08em; }
details > summary { cursor: pointer; margin: .6rem 0 .6rem 5rem; }
nav.gallery { font: 14px sans-serif; padding: 1rem 0; } nav.gallery a { color: #1f4e9c; }
</style>{% endblock %}
{% block body_header %}{{ super() }}<nav class="gallery"><a href="index.html">All notebooks</a>
 &middot; {{ nb.metadata.jetnb_line | e }}</nav>{% endblock %}
{% block codecell %}{% if cell.metadata.get('jupyter', {}).get('source_hidden') %}
<details><summary>Show the solution</summary>{{ super() }}</details>{% else %}{{ super() }}{% endif %}{% endblock %}
{% block data_png %}<div class="jp-RenderedImage jp-OutputArea-output">
<img alt="{{ cell.metadata.jetnb_alt | e }}" src="data:image/png;base64,{{ output.data['image/png'] | e }}"></div>
{% endblock %}"""

INDEX = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>jetnb: gallery</title><style>
body { font: 16px/1.45 system-ui, sans-serif; color: #222; background: #f6f7f9; margin: 0 auto; max-width: 76rem;
  padding: 1.5rem; }
h1 { margin: 0 0 .2rem; }
a { color: #1f4e9c; }
p.lead { margin: 0 0 1.5rem; color: #555; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.2rem; }
article { background: #fff; border: 1px solid #d8dce3; border-radius: 8px; overflow: hidden; }
article img, .none { width: 100%; height: 12rem; object-fit: contain; background: #fff;
  border-bottom: 1px solid #e6e9ee; }
.none { display: grid; place-items: center; color: #777; }
.text { padding: .8rem 1rem 1rem; }
.text p { margin: 0 0 .6rem; }
h2 { font-size: 1.1rem; margin: 0 0 .3rem; }
.text p.time { color: #555; font-size: .88rem; margin: .6rem 0 0; }
.error { color: #a1121d; font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
td { padding: .1rem 0; border-top: 1px solid #eef0f3; vertical-align: top; overflow-wrap: anywhere; }
td + td { text-align: right; font-variant-numeric: tabular-nums; padding-left: 1rem; }
</style></head><body><h1>jetnb: gallery</h1>
<p class="lead">One card per notebook: what it asks, how long it took, and its headline numbers. The cards lead to the
executed notebooks; everything here reads without a network.</p><div class="cards">
{cards}</div>{left_out}</body></html>
"""


def tex_to_mathml(tex, display="inline") -> str:
    """A formula as MathML, which every current browser draws by itself; TeX that cannot be read
    stays as it is.
    """
    try:
        return mathml(tex.strip(), display=display)
    except Exception:  # the converter raises errors of many kinds
        return f"<code>{escape(tex)}</code>"


class _Renderer(IPythonRenderer):
    def inline_math(self, body):
        return tex_to_mathml(body)

    def block_math(self, body):
        return tex_to_mathml(body, "block")

    def latex_environment(self, name, body):
        return tex_to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


class _Exporter(HTMLExporter):
    raw_template = PAGE

    def default_filters(self):
        yield from super().default_filters()
        yield (
            "markdown2html",
            lambda source: MarkdownWithMath(renderer=_Renderer(escape=False)).render(source),
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
    """The first PNG that a notebook shows."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                with contextlib.suppress(ValueError):  # no base64
                    return base64.b64decode(output["data"]["image/png"])
    return None


def write_page(outcome, out, *, folder) -> Path:
    """Write NAME.ipynb, NAME.html, NAME.json and NAME.png (the thumbnail) of one outcome of
    `jetnb.book.runner.execute`.

    Each appears when it is complete. Where the notebook makes no page, that is added to the `error`
    of the outcome.
    """
    out, name, date = Path(out), outcome.name, f"{datetime.now():%Y-%m-%d %H:%M}"
    line = f"{_duration(outcome.seconds)} at {outcome.scale} scale, {date}"
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


def write_index(out) -> Path:
    """Write index.html over all notebooks whose pages lie in the folder; other files are left out,
    and named there.
    """
    out, cards, left_out = Path(out), [], []
    for path in sorted(out.glob("[0-9]*.json")):
        try:
            facts = _json.read(
                path, FACTS, what="record of a notebook", remedy="run it again, or remove the file"
            )
            cards.append(_card(path.stem, facts, (out / f"{path.stem}.png").exists()))
        except (ValueError, OSError) as error:
            left_out.append(f"<li>{escape(str(error))}</li>")
    text = f"<p>Left out:</p><ul>{''.join(left_out)}</ul>" if left_out else ""
    _replace(
        out / "index.html", INDEX.replace("{left_out}", text).replace("{cards}", "\n".join(cards))
    )
    return out / "index.html"


def _card(name, facts, has_picture) -> str:
    address = escape(quote(name))
    picture = (
        f'<img src="{address}.png" alt="First figure of {escape(facts["title"], quote=True)}">'
        if has_picture
        else '<div class="none">no figure</div>'
    )
    rows = "".join(
        f"<tr><td>{escape(key.replace('_', ' '))}</td><td>{escape(value)}</td></tr>"
        for key, value in _headlines(facts["result"])
    )
    error = f'<p class="error">{escape(facts["error"])}</p>' if facts["error"] else ""
    title = _with_formulae(re.sub(r"^[0-9]{2}[.:]? +", "", facts["title"]))
    time = (
        f"{_duration(facts['seconds'])} at {escape(facts['scale'])} scale, {escape(facts['date'])}"
    )
    return (
        f'<article><a href="{address}.html">{picture}</a><div class="text">'
        f'<h2><a href="{address}.html">{escape(name[:2])} {title}</a></h2>'
        f"<p>{_with_formulae(facts['question'])}</p>{error}<table>{rows}</table>"
        f'<p class="time">{time}</p></div></article>'
    )


def _headlines(result, most=8) -> list[tuple[str, str]]:
    """The numbers and words of a result as text; lists and inner tables are left to the notebook."""
    plain = [
        (key, value) for key, value in result.items() if isinstance(value, (bool, int, float, str))
    ]
    formats = {float: "{:.4g}", int: "{:,}"}
    shown = [(key, formats.get(type(value), "{}").format(value)) for key, value in plain[:most]]
    return shown + [("more in the notebook", str(len(result) - len(shown)))] * (
        len(result) > len(shown)
    )


def _duration(seconds) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
