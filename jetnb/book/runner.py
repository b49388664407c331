"""Run notebooks without a browser: at a scale, with a progress bar each, leaving pages that can be
read offline.
"""

from __future__ import annotations

import ast
import asyncio
import atexit
import contextlib
import hashlib
import json
import re
import signal
import time
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from jetnb.book import usage
from jetnb.book.channel import SlicedChannel

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
GALLERY = ROOT / "data" / "derived" / "gallery"
SCALES = ("ci", "laptop", "paper")
PROBE = """import json as _json
_told = globals().get("headline", {})
if isinstance(_told, dict):
    _told = {k: [v.value, v.low, v.high] if hasattr(v, "low") else v for k, v in _told.items()}
print(_json.dumps([result, _told], default=float))"""
TIMEOUT = 3600  # seconds per cell; never infinite, a lost message would otherwise hang for ever


@dataclass
class Outcome:
    """What came of one notebook: the executed copy, the seconds it took, the most memory that it
    had and what it left under data/derived [bytes], its ``result``, its ``headline``, and the error
    if it failed. ``source`` is a fingerprint of what was executed.
    """

    name: str
    scale: str
    notebook: NotebookNode
    seconds: float = 0.0
    result: dict = field(default_factory=dict)
    headline: dict = field(default_factory=dict)
    error: str = ""
    memory: int = 0
    disk: int = 0
    source: str = ""
    speed: float = 0.0  # of the machine, see `usage.speed`


def number_of(name) -> str:
    """The number that a file name begins with, "04" or, of a second part, "04b"; "" if it has none.

    >>> number_of("04b_how_many_tokens.ipynb")
    '04b'
    """
    found = re.match(r"([0-9]{2}[a-z]?)_", str(name))
    return found[1] if found else ""


def find(numbers=(), *, folder=NOTEBOOKS) -> list[Path]:
    """The numbered notebooks in order, or those with these numbers ("2" and "02" are the same).

    Second parts have a letter, "04b". Raises ValueError naming the numbers that there are if one
    does not exist.
    """
    every = {
        number: path
        for path in sorted(Path(folder).glob("[0-9]*.ipynb"))
        if (number := number_of(path.name))
    }
    wanted = [re.sub(r"^(?=[0-9](?![0-9]))", "0", str(number)) for number in numbers] or list(every)
    for number in wanted:
        if number not in every:
            raise ValueError(
                f"there is no notebook {number!r}; there are {', '.join(every) or 'none'}"
            )
    return [every[number] for number in wanted]


def cell_index(notebook, tag) -> int | None:
    """Index of the first cell that carries this tag; None without one."""
    return next(
        (i for i, cell in enumerate(notebook.cells) if tag in cell.metadata.get("tags", [])), None
    )


def parameters(notebook) -> dict:
    """The literals that the cell tagged ``parameters`` assigns."""
    index = cell_index(notebook, "parameters")
    tree = ast.parse("" if index is None else notebook.cells[index].source)
    return {
        s.targets[0].id: ast.literal_eval(s.value)
        for s in tree.body
        if isinstance(s, ast.Assign) and isinstance(s.targets[0], ast.Name)
    }


def at_scale(path, scale="laptop") -> NotebookNode:
    """Read a notebook and give it the parameters of ``scales.toml`` (which lies beside it) for this
    scale.

    ``laptop`` is the notebook as it stands. Otherwise a cell tagged ``injected-parameters`` follows
    the tagged one. Raises ValueError for an unknown scale and for a parameter that the notebook
    does not have.
    """
    path = Path(path)
    _check_scale(scale)
    notebook = nbformat.read(path, as_version=4)
    if scale == "laptop":
        return notebook
    scales = tomllib.loads((path.parent / "scales.toml").read_text(encoding="utf-8"))
    number = number_of(path.name)
    values = scales.get(number, {}).get(scale)
    if values is None:
        raise ValueError(f"scales.toml has no table [{number}.{scale}] for {path.name}")
    for name in values:
        if name not in (there := parameters(notebook)):
            raise ValueError(
                f"{path.name} has no parameter {name!r}, which scales.toml [{number}.{scale}] sets;"
                f" it has {', '.join(there) or 'none'}"
            )
    lines = [f"# scale: {scale}", *(f"{name} = {value!r}" for name, value in values.items())]
    cell = nbformat.v4.new_code_cell("\n".join(lines), metadata={"tags": ["injected-parameters"]})
    if values:
        notebook.cells.insert(cell_index(notebook, "parameters") + 1, cell)
    return notebook


def _check_scale(scale) -> None:
    if scale not in SCALES:
        raise ValueError(f"unknown scale {scale!r}; there are {', '.join(SCALES)}")


class _Client(NotebookClient):
    stopped = None  # the signal that ended it
    stream = None  # the file for what the kernel and its workers print past the cells
    memory: usage.Memory | None = None

    async def async_start_new_kernel(self, **options):
        self._execution = asyncio.current_task()
        # The own handlers of nbclient only shut the kernel down.
        for number in (signal.SIGINT, signal.SIGTERM):
            # Not the main thread; Windows.
            with contextlib.suppress(RuntimeError, NotImplementedError):
                asyncio.get_running_loop().add_signal_handler(number, self._stop, number)
        if self.stream is not None:
            options |= {"stdout": self.stream, "stderr": self.stream}
        await super().async_start_new_kernel(**options)
        if self.memory is not None:
            self.memory.of(getattr(self.km.provisioner, "pid", None))

    def _stop(self, number):
        # A busy kernel would not hear a request.
        self.stopped, self.shutdown_kernel = (number, "immediate")
        (getattr(self, "task_poll_for_reply", None) or self._execution).cancel()

    def end(self):
        """After a stop: end the kernel if it is still there, raise what the signal asks for."""
        if self.km is not None and self.km.has_kernel:
            self._cleanup_kernel()
        atexit.unregister(self._cleanup_kernel)
        if self.stopped == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    async def _async_poll_for_reply(self, *args, **kwargs):
        if not isinstance(self.kc.shell_channel, SlicedChannel):
            self.kc._shell_channel = SlicedChannel(self.kc.shell_channel)
        return await super()._async_poll_for_reply(*args, **kwargs)


def fingerprint(notebook, kinds=("code", "markdown", "raw")) -> str:
    """A short text that cells of these kinds with another source would not have."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] in kinds]
    sources = json.dumps([[cell["cell_type"], cell["source"]] for cell in cells])
    return hashlib.sha256(sources.encode("utf-8", "backslashreplace")).hexdigest()[:16]


def execute(
    path, scale="laptop", *, timeout=TIMEOUT, progress=True, log: Path | None = None
) -> Outcome:
    """Execute a copy of one notebook, the kernel working in the notebook's own folder; the file is
    not touched.

    The last cell's ``result`` and ``headline`` are read out of the kernel. With ``log`` that file
    gets what kernel and workers print past the cells; it is there only if there is something. A cell
    that fails (unless it is tagged ``raises-exception``), takes longer than ``timeout`` seconds or
    kills its kernel ends the notebook and is told in the outcome's ``error``, as is a notebook that
    cannot be read or has no dict as ``result``. Raises ValueError for an unknown scale.
    """
    path = Path(path)
    _check_scale(scale)
    try:
        notebook = at_scale(path, scale)
        nbformat.validate(notebook)
    except Exception as error:  # of whatever kind: the file may be damaged in any way
        why = f"{path.name} cannot be run: {_first_line(error)}"
        stub = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {path.stem}")])
        return Outcome(path.stem, scale, stub, error=why)
    outcome = Outcome(path.stem, scale, notebook, source=fingerprint(notebook), speed=usage.speed())
    probe = nbformat.v4.new_code_cell(PROBE)
    notebook.cells.append(probe)
    total = sum(cell.cell_type == "code" for cell in notebook.cells) - 1
    current, start, began = 0, time.monotonic(), time.time()
    with (
        tqdm(
            total=total, desc=path.stem, unit="cell", disable=not progress, dynamic_ncols=True
        ) as bar,
        usage.Memory() as memory,
        _opened(log) as stream,
    ):

        def started(cell, cell_index):
            nonlocal current
            current = cell_index

        def executed(cell, cell_index, execute_reply):
            bar.update(cell is not probe)

        client = _Client(
            notebook,
            timeout=timeout,
            kernel_name="python3",
            on_cell_start=started,
            on_cell_executed=executed,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.stream, client.memory = stream, memory
        try:
            client.execute()
            outcome.result, outcome.headline = _result(probe)
        except CellExecutionError as error:
            outcome.error = f"{error.ename}: {error.evalue}"
        except CellTimeoutError:
            outcome.error = f"took longer than {timeout} s"
        except KeyboardInterrupt:  # before its signals were handled, or after
            client.end()
        except (Exception, asyncio.CancelledError) as error:
            if client.stopped:
                client.end()
            outcome.error = (
                "the kernel died (often: out of memory)"
                if isinstance(error, DeadKernelError)
                else _first_line(error)
            )
    if outcome.error:
        injected = cell_index(notebook, "injected-parameters")
        number = current + 1 - (injected is not None and injected < current)
        here = (
            f"cell {number}"
            if notebook.cells[current] is not probe
            else "no `result` after the last cell"
        )
        outcome.error = f"{path.name}, {here}: {outcome.error}"
    notebook.cells.remove(probe)
    outcome.seconds, outcome.memory = time.monotonic() - start, memory.peak
    outcome.disk = usage.written_since(began, ROOT / "data" / "derived", without=log and log.parent)
    return outcome


@contextlib.contextmanager
def _opened(log: Path | None):
    if log is None:
        yield None
        return
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as stream:
        try:
            yield stream
        finally:
            if not log.stat().st_size:
                log.unlink()


def _result(probe) -> tuple[dict, dict]:
    text = "".join(
        output.get("text", "") for output in probe.outputs if output.get("name") == "stdout"
    )
    # A thread may have printed before.
    result, headline = json.loads(text.strip().rpartition("\n")[2])
    if not isinstance(result, dict):
        raise ValueError(
            f"it is of type {type(result).__name__}, and must be a dict of names and values"
        )
    for name, numbers in headline.items() if isinstance(headline, dict) else [("headline", 0)]:
        if not (isinstance(numbers, list) and 3 <= len(numbers) <= 4 and low_to_high(*numbers[:3])):
            raise ValueError(
                f"headline: {name!r} is {numbers!r}, and must be value, low, high (or an Estimate)"
            )
    return result, {name: numbers[:3] for name, numbers in headline.items()}


def low_to_high(value, low, high) -> bool:
    """Whether these are a number and an interval around it; ends that are not known are nan."""
    numbers = all(isinstance(one, (int, float)) for one in (value, low, high))
    return numbers and not (low > value or high < value)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.300}"


def is_done(path, scale, out) -> bool:
    """Whether the gallery in `out` has this notebook, as it stands, executed at this scale without
    an error.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        facts = json.loads((Path(out) / f"{path.stem}.json").read_text(encoding="utf-8"))
        same = facts["source"] == fingerprint(at_scale(path, scale)) and facts["scale"] == scale
        return same and not facts["error"]
    return False


def run(
    numbers=(),
    scale="laptop",
    *,
    out=GALLERY,
    folder=NOTEBOOKS,
    timeout=TIMEOUT,
    keep_going=False,
    resume=False,
) -> int:
    """Execute the numbered notebooks, write the gallery, print a summary; the number of notebooks
    that failed.

    ``out`` receives per notebook the executed ``.ipynb``, an ``.html`` page, the facts as ``.json``
    and, if there is something, a ``.log``; and ``index.html`` over everything that the folder holds.
    A notebook that fails ends the series unless ``keep_going``; ``resume`` leaves out what `is_done`.
    After Ctrl-C the summary and the index of what is done are there. Raises ValueError for an unknown
    number or scale, for a folder of other things, and while another process writes this gallery.
    """
    from jetnb import atomic
    from jetnb.book import gallery

    _check_scale(scale)
    outcomes, paths, out = [], find(numbers, folder=folder), Path(out)
    gallery.check_folder(out, folder)
    if resume:
        done = [path for path in paths if is_done(path, scale, out)]
        paths = [path for path in paths if path not in done]
        if done:
            print(f"done before: {', '.join(path.stem for path in done)}")
    with atomic.alone(out, "writing the gallery"):
        gallery.write_index(out)
        try:
            for path in paths:
                found = execute(path, scale, timeout=timeout, log=out / f"{path.stem}.log")
                gallery.write_page(found, out, folder=folder)
                outcomes.append(found)
                gallery.write_index(out)
                if found.error and not keep_going:
                    break
        finally:
            _summary(outcomes, paths[len(outcomes) :], out)
    return sum(bool(outcome.error) for outcome in outcomes)


def _summary(outcomes, left, out) -> None:
    for one in outcomes:
        print(
            f"{one.name:32s} {one.seconds:7.1f} s {one.memory / 1e9:5.1f} GB  {one.error or 'ok'}"
        )
    if left:
        print(f"not run: {', '.join(path.stem for path in left)}; --resume goes on from here")
    print(f"gallery: {(out / 'index.html').resolve().as_uri()}")
