"""Which notebook answers which question, how long it takes on this machine, and whether the memory
that is free is enough.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

import nbformat
import psutil

from jetnb.book import gallery, readme, runner, usage

SHARE = 1.1  # memory that should be free, over what a notebook took


class Overview(list):
    """Rows (number, title, question, seconds here or None, gigabytes or None) with the memory that
    is free [GB], shown as a table.
    """

    def __init__(self, rows, free: float, pace: float | None):
        super().__init__(rows)
        self.free, self.pace = free, pace

    def _head(self) -> str:
        free = f"{self.free:.1f} GB of memory are free"
        if self.pace is None:
            return free
        return f"this machine has {self.pace:.1f} times the speed of the one that was timed; {free}"

    def _cells(self):
        for number, title, question, seconds, memory in self:
            time = "not measured" if seconds is None else f"about {gallery.duration(seconds)}"
            need = "" if memory is None else f"{memory:.1f} GB"
            short = memory is not None and SHARE * memory > self.free
            yield number, title, question, time, need + ", more than is free" * short

    def __repr__(self) -> str:
        lines = [self._head()]
        for number, title, question, time, need in self._cells():
            lines += [f"{number:4}{title}: {question}", f"    {time}{', ' * bool(need)}{need}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>"
            + "".join(f'<td style="text-align: left">{escape(one)}</td>' for one in cells)
            + "</tr>"
            for cells in self._cells()
        )
        head = "".join(f"<th>{one}</th>" for one in ("", "notebook", "question", "here", "memory"))
        return f"<p>{escape(self._head())}</p><table><tr>{head}</tr>{rows}</table>"


def overview(*, notebooks: Path = runner.NOTEBOOKS, pictures: Path = readme.PICTURES) -> Overview:
    """All notebooks at laptop scale: question, expected time here, memory.

    The time is that of the run that `jetnb readme` kept, divided by how fast one core is here, now,
    against how fast it was there: rough, where notebooks use several cores or a disk. Taught in
    notebook 00.
    """
    facts, rows = readme.read(pictures), []
    speeds = [one["speed"] for one in facts.values() if one.get("speed")]
    pace = usage.speed() / (sum(speeds) / len(speeds)) if speeds else None
    for path in runner.find(folder=notebooks):
        title, question = gallery.question(nbformat.read(path, as_version=4))
        one, number = facts.get(path.stem, {}), runner.number_of(path.name)
        seconds, memory = one.get("seconds"), one.get("memory_mb")
        rows.append(
            (
                number,
                re.sub(r"^[0-9]{2}[a-z]?[.:]? +", "", title),
                re.sub(r"[$\\{}]", "", question),
                seconds / pace if seconds and pace else None,
                memory / 1000 if memory else None,
            )
        )
    return Overview(rows, _free(), pace)


def room(number: str, *, pictures: Path = readme.PICTURES) -> None:
    """Print a sentence if the memory that is free is less than a notebook took, "04" say; nothing
    where it is enough, or was never measured.
    """
    for stem, one in readme.read(pictures).items():
        memory = (one.get("memory_mb") or 0) / 1000
        if runner.number_of(f"{stem}.ipynb") == number and SHARE * memory > _free():
            print(
                f"Memory is short: this notebook took {memory:.1f} GB at laptop scale, and {_free():.1f} GB are "
                "free. Close other programs and kernels, or take fewer jets in the parameters."
            )


def _free() -> float:
    return psutil.virtual_memory().available / 1e9
