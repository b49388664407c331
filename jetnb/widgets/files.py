"""A panel for a file of one's own: choose it, check it, load as many jets as the memory allows."""

from __future__ import annotations

from html import escape
from pathlib import Path

import awkward as ak
import ipywidgets

import jetnb
from jetnb.data.catalogue import load, source

SUFFIXES = (".h5", ".hdf5", ".root", ".parquet", ".npz", ".gz")
SHARE = 0.25  # of the free memory that jets may take
LOOK = 200  # jets that are read to know how large one is
UP = "../"


def propose(path) -> tuple[int, int]:
    """How many jets of the file at `path` fit into a quarter of the free memory, and how many rows
    it has.

    The size of a jet is that of the first 200, taken twice: reading needs as much again. Raises as
    `jetnb.load`.
    """
    import psutil

    found = source(path)
    first = next(found.blocks(0, min(LOOK, found.n_rows)), None)
    if first is None or not len(first):
        raise ValueError(
            f"{path}: none of its first {LOOK} rows holds a jet: `jetnb data check` says why"
        )
    room = SHARE * psutil.virtual_memory().available / (2 * ak.to_packed(first).nbytes / len(first))
    return max(1, min(found.n_rows, int(room))), found.n_rows


def own_file(path=".") -> ipywidgets.VBox:
    """Choose a file of jets, check it, and load some of its jets at random.

    path: a file, or the folder to begin in. The number of jets is set to what the memory allows
    (`propose`), and can be changed. Returns a box: `jets` is what was loaded (None before), `path`
    the file; `check()` and `load()` do what the buttons do, `controls` and `report` are the
    widgets. What is wrong with a file is said in the panel. Taught in notebook 01.
    """
    start = Path(path).resolve()
    folder = ipywidgets.Text(
        str(start.parent if start.is_file() else start),
        description="folder",
        continuous_update=False,
        layout={"width": "640px"},
    )
    files = ipywidgets.Select(description="file", rows=6, layout={"width": "640px"})
    n_jets = ipywidgets.BoundedIntText(1, 1, 10**12, description="jets", layout={"width": "220px"})
    seed = ipywidgets.IntText(1, description="seed", layout={"width": "180px"})
    report = ipywidgets.HTML()
    buttons, held = {name: ipywidgets.Button(description=name) for name in ("check", "load")}, []
    box = ipywidgets.VBox(
        [folder, files, ipywidgets.HBox([n_jets, seed, *buttons.values()]), report]
    )
    box.jets = box.path = None
    box.controls = {"folder": folder, "file": files, "n_jets": n_jets, "seed": seed} | buttons
    box.report = report

    def say(text):
        report.value = f"<pre style='white-space:pre-wrap;line-height:1.3'>{escape(text)}</pre>"

    def listed(_change=None):
        here = Path(folder.value).expanduser()
        if not here.is_dir():
            files.options = []
            return say(f"There is no folder {here}: correct it above.")
        try:
            inside = sorted(here.iterdir())
        except OSError as problem:
            files.options = []
            return say(f"The folder cannot be opened: {problem}")
        stores = [each.name for each in inside if (each / "meta.json").is_file()]
        folders = [
            f"{each.name}/"
            for each in inside
            if each.is_dir() and each.name not in stores and not each.name.startswith(".")
        ]
        found = [
            each.name for each in inside if each.is_file() and each.suffix in SUFFIXES
        ] + stores
        held.append(True)  # new options choose the first of them
        files.options = [*found, *folders, UP]
        files.value = None
        held.clear()
        if not found:
            say(
                f"No file of jets in {here}: they end in {', '.join(SUFFIXES)}; or go to another folder."
            )

    def chosen(_change=None):
        name = files.value
        if name is None or held:
            return
        if name.endswith("/"):
            folder.value = str((Path(folder.value).expanduser() / name).resolve())
            return
        box.path, box.jets = Path(folder.value).expanduser() / name, None
        try:
            n_jets.value, n_rows = propose(box.path)
            say(
                f"{name} has {n_rows:,} rows; {n_jets.value:,} jets fit into a quarter of the free memory. "
                "Check it, then load."
            )
        except (ValueError, OSError, ImportError) as problem:
            say(f"{name} cannot be read: {problem}")

    def guarded(act):
        if box.path is None:
            return say("Choose a file first.")
        try:
            return act()
        except (ValueError, OSError, ImportError, MemoryError) as problem:
            say(f"{problem or type(problem).__name__}")

    def check():
        stop = None if n_jets.value >= source(box.path).n_rows else n_jets.value
        found = jetnb.check(box.path, stop=stop)
        say(str(found) + ("" if stop is None else f"\n(the first {stop:,} rows were looked at)"))
        return found

    def loaded():
        box.jets = load(box.path, n_jets=n_jets.value, seed=seed.value)
        say(jetnb.describe(box.jets))
        return box.jets

    box.check, box.load = (lambda: guarded(check)), (lambda: guarded(loaded))
    buttons["check"].on_click(lambda _: box.check())
    buttons["load"].on_click(lambda _: box.load())
    folder.observe(listed, "value")
    files.observe(chosen, "value")
    listed()
    if start.is_file() or (start / "meta.json").is_file():
        folder.value = str(start.parent)
        files.value = start.name
    return box
