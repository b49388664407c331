"""Pictures and the table of notebooks in README.md, made from a gallery of executed notebooks.

`docs/pictures` gets a small picture of each notebook and `facts.json`, what its run took: the table
of the README, the site and the panel of notebook 00 are made from these.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from PIL import Image

from jetnb.book import gallery, runner

PICTURES = runner.ROOT / "docs" / "pictures"
README = runner.ROOT / "README.md"
BEGIN, END = "<!-- notebooks: written by `jetnb readme` -->", "<!-- end of notebooks -->"
SIZE, MOST = (420, 280), 40_000  # pixels, bytes
FRONT, WIDE, HEAVY = "17_the_league", (1200, 900), 120_000  # whose figure stands above the table
COLUMNS = 3


def picture(png: bytes) -> bytes:
    """A PNG as one of at most 40 kB that fits into 420 x 280 pixels, on white."""
    return _fitted(png, SIZE, MOST)


def _fitted(png: bytes, within: tuple[int, int], most: int, *, margins: bool = True) -> bytes:
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGBA")
    image.thumbnail(within, Image.Resampling.LANCZOS)
    size = within if margins else image.size
    canvas = Image.new("RGBA", size, "white")
    canvas.alpha_composite(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    for colours in (128, 64, 32, 16, 8):
        made = io.BytesIO()
        canvas.convert("RGB").quantize(colours).save(made, "PNG", optimize=True)
        if made.tell() <= most:
            break
    return made.getvalue()


def telling(path: Path) -> str:
    """Fingerprint of the code of a notebook up to its cell tagged `headline`, without its layout and
    its imports; "" where no cell is tagged.
    """
    notebook = nbformat.read(path, as_version=4)
    at = _telling(notebook)
    cells = [] if at is None else _code(notebook)[: at + 1]
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()[:16] if cells else ""


def found(path: Path, folders: Sequence[Path]) -> tuple[dict, Any] | None:
    """Facts and telling figure (PNG) of a notebook, from the first of these galleries that has a run
    at laptop scale, without error, whose code is as it is now; None if none has.

    Where a run agrees up to the telling figure only (words of code, not its layout; imports aside),
    that figure is taken, and no headline.
    """
    notebook, second = nbformat.read(path, as_version=4), None
    for folder in folders:
        record, copy = folder / f"{path.stem}.json", folder / f"{path.stem}.ipynb"
        if not (record.is_file() and copy.is_file()):
            continue
        facts = json.loads(record.read_text(encoding="utf-8"))
        executed = nbformat.read(copy, as_version=4)
        if facts.get("scale") != "laptop" or facts.get("error"):
            continue
        now, then = _code(notebook), _code(executed)
        at = _telling(notebook)
        if at is None or now[: at + 1] != then[: at + 1]:
            continue
        png = gallery.last_picture(
            [cell for cell in executed.cells if cell.cell_type == "code"][at]
        )
        if png and now == then and facts.get("headline"):
            return facts, png
        if png and second is None:
            second = facts | {"headline": {}}, png
    return second


def _telling(notebook) -> int | None:
    """Place of the cell tagged `headline` among the code cells."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tags = [cell.metadata.get("tags", []) for cell in code]
    return next((i for i, each in enumerate(tags) if "headline" in each), None)


def _code(notebook) -> list[str]:
    """The code cells as syntax trees; of the first, the imports, nothing is asked."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return ["", *(ast.dump(ast.parse(source)) for source in code[1:])]


def write(
    folders: Sequence[Path] = (runner.GALLERY,),
    *,
    notebooks: Path = runner.NOTEBOOKS,
    pictures: Path = PICTURES,
    readme: Path = README,
) -> list[str]:
    """Make pictures, `facts.json` and the table of the README from these galleries; names of the
    notebooks that no gallery has, with the code as it is now, so that theirs stay as they were.

    What belongs to no notebook any more goes. Raises `ValueError` where the README has no place for
    the table.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    facts, missing, paths = read(pictures), [], runner.find(folder=notebooks)
    for path in paths:
        one = found(path, [Path(folder) for folder in folders])
        if one is None:
            missing.append(path.stem)
            continue
        record, png = one
        kept = ("title", "question", "seconds", "memory_mb", "disk_mb", "headline", "speed", "date")
        facts[path.stem] = {key: record.get(key) for key in kept} | {"figure": telling(path)}
        (pictures / f"{path.stem}.png").write_bytes(picture(png))
        if path.stem == FRONT:
            front = _fitted(png, WIDE, HEAVY, margins=False)
            (pictures / "front.png").write_bytes(front)
    stems = [path.stem for path in paths]
    facts = {stem: facts[stem] for stem in stems if stem in facts}
    (pictures / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for old in pictures.glob("*.png"):
        if old.stem not in (*stems, "front"):
            old.unlink()
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme} has no place for the table: put the lines {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    where = pictures.relative_to(readme.parent).as_posix()
    made = table(facts, paths, notebooks.name, where)
    readme.write_text(f"{before}{BEGIN}\n{made}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return missing


def read(pictures: Path = PICTURES) -> dict[str, dict]:
    """What the last complete runs took: {file name without ending: facts}; {} where none is kept."""
    path = pictures / "facts.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def table(facts: dict, paths: Sequence[Path], notebooks: str, pictures: str) -> str:
    """The notebooks as a table of Markdown, three in a row, each one cell: picture, title, question,
    first number, and what it takes; where no run is known, or not how fast its machine was, the time
    that the head of the notebook names. The figure of one of them stands above, larger.
    """
    front = []
    for path in paths:
        if path.stem == FRONT and FRONT in facts:
            title, question = map(_plain, gallery.question(nbformat.read(path, as_version=4)))
            image = f'<img src="{pictures}/front.png" alt="{title}: {question}">'
            front = [f'<a href="{notebooks}/{path.name}">{image}</a>', ""]
    cells = [_cell(path, facts.get(path.stem), notebooks, pictures) for path in paths]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    rows[-1] += [""] * (COLUMNS - len(rows[-1]))
    lines = ["|" + " |" * COLUMNS, "|" + "---|" * COLUMNS]
    return "\n".join([*front, *lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _cell(path: Path, facts: dict | None, notebooks: str, pictures: str) -> str:
    stem, link = path.stem, f"{notebooks}/{path.name}"
    head = nbformat.read(path, as_version=4)
    title, question = map(_plain, gallery.question(head))
    words = [f"**[{title}]({link})**", question]
    if facts is not None:
        image = f'<img src="{pictures}/{stem}.png" width="260" alt="{title}">'
        words.insert(0, f'<a href="{link}">{image}</a>')
        first = gallery.headlines(facts["headline"])[:1]
        words += [f"{_plain(key)}: {value}" for key, value in first]
    named = re.search(r"^\| laptop \| ([^|]+) \|", head.cells[0].source, re.M)
    if facts is not None and facts.get("speed"):  # else it is not known how fast that machine was
        words.append(f"<sub>{costs(facts)}</sub>")
    elif named:
        words.append(f"<sub>{named[1]}</sub>")
    return "<br>".join(words)


def costs(facts: dict) -> str:
    """Time, memory and disk of a run: '20 s, 0.9 GB, 3 MB on disk'."""
    disk = facts.get("disk_mb") or 0
    return gallery.took(facts) + (f", {disk:.0f} MB on disk" if disk >= 0.5 else "")


def _plain(text: str) -> str:
    """Text for a cell of a table: no bars, no markup, formulae as they are spoken."""
    text = re.sub(r"\$([^$]*)\$", lambda found: re.sub(r"\\[a-z]+|[{}]", "", found[1]), text)
    return escape(re.sub(r"[*_`|]", " ", text), quote=True).strip()
