"""Pictures and the table of notebooks in README.md, made from a gallery of executed notebooks.

`docs/pictures` gets a small picture of each notebook and `facts.json`, what its run took: the table
of the README, the site and the panel of notebook 00 are made from these.
"""

from __future__ import annotations

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
COLUMNS = 3


def picture(png: bytes) -> bytes:
    """A PNG as one of at most 40 kB that fits into 420 x 280 pixels, on white."""
    with Image.open(io.BytesIO(png)) as opened:
        image = opened.convert("RGBA")
    image.thumbnail(SIZE, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", SIZE, "white")
    canvas.alpha_composite(image, ((SIZE[0] - image.width) // 2, (SIZE[1] - image.height) // 2))
    for colours in (128, 64, 32, 16, 8):
        made = io.BytesIO()
        canvas.convert("RGB").quantize(colours).save(made, "PNG", optimize=True)
        if made.tell() <= MOST:
            break
    return made.getvalue()


def telling(notebook) -> str:
    """Fingerprint of the code of the cell tagged `headline`; "" without one."""
    at = runner.cell_index(notebook, "headline")
    return "" if at is None else runner.fingerprint({"cells": [notebook.cells[at]]})


def found(path: Path, folders: Sequence[Path]) -> tuple[dict, Any] | None:
    """Facts and executed copy of a notebook in the first of these galleries that has it at laptop
    scale, without error, with the code as it is now, a figure and a headline; None if none has.
    """
    now = runner.fingerprint(runner.at_scale(path), kinds=("code",))
    for folder in folders:
        record, copy = folder / f"{path.stem}.json", folder / f"{path.stem}.ipynb"
        if not (record.is_file() and copy.is_file()):
            continue
        facts = json.loads(record.read_text(encoding="utf-8"))
        executed = nbformat.read(copy, as_version=4)
        same = runner.fingerprint(executed, kinds=("code",)) == now
        good = facts.get("scale") == "laptop" and not facts.get("error") and facts.get("headline")
        if same and good and gallery.thumbnail(executed):
            return facts, executed
    return None


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
        record, executed = one
        kept = ("title", "question", "seconds", "memory_mb", "disk_mb", "headline", "speed", "date")
        facts[path.stem] = {key: record.get(key) for key in kept} | {"figure": telling(executed)}
        png = gallery.thumbnail(executed)
        (pictures / f"{path.stem}.png").write_bytes(picture(png or b""))
    stems = [path.stem for path in paths]
    facts = {stem: facts[stem] for stem in stems if stem in facts}
    (pictures / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for old in pictures.glob("*.png"):
        if old.stem not in stems:
            old.unlink()
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{readme} has no place for the table: put the lines {BEGIN} and {END}")
    before, _, rest = text.partition(BEGIN)
    where = pictures.relative_to(readme.parent).as_posix()
    made = table(facts, [path.name for path in paths], notebooks.name, where)
    readme.write_text(f"{before}{BEGIN}\n{made}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return missing


def read(pictures: Path = PICTURES) -> dict[str, dict]:
    """What the last complete runs took: {file name without ending: facts}; {} where none is kept."""
    path = pictures / "facts.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def table(facts: dict, names: Sequence[str], notebooks: str, pictures: str) -> str:
    """The notebooks as a table of Markdown, three in a row, each one cell: picture, title, question,
    first number, and what it takes.
    """
    cells = [_cell(name, facts.get(Path(name).stem), notebooks, pictures) for name in names]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    rows[-1] += [""] * (COLUMNS - len(rows[-1]))
    lines = ["|" + " |" * COLUMNS, "|" + "---|" * COLUMNS]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _cell(name: str, facts: dict | None, notebooks: str, pictures: str) -> str:
    stem, link = Path(name).stem, f"{notebooks}/{name}"
    if facts is None:
        return f"[{stem.replace('_', ' ')}]({link})"
    words = [
        f'<a href="{link}"><img src="{pictures}/{stem}.png" width="260" alt="{_plain(facts["title"])}"></a>',
        f"**[{_plain(facts['title'])}]({link})**",
        _plain(facts["question"]),
        *(f"{_plain(key)}: {value}" for key, value in gallery.headlines(facts["headline"])[:1]),
        f"<sub>{costs(facts)}</sub>",
    ]
    return "<br>".join(words)


def costs(facts: dict) -> str:
    """Time, memory and disk of a run: '20 s, 0.9 GB, 3 MB on disk'."""
    disk = facts.get("disk_mb") or 0
    return gallery.took(facts) + (f", {disk:.0f} MB on disk" if disk >= 0.5 else "")


def _plain(text: str) -> str:
    """Text for a cell of a table: no bars, no markup, formulae as they are spoken."""
    text = re.sub(r"\$([^$]*)\$", lambda found: re.sub(r"\\[a-z]+|[{}]", "", found[1]), text)
    return escape(re.sub(r"[*_`|]", " ", text), quote=True).strip()
