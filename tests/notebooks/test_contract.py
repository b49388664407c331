"""The contract of the notebooks, measured: short cells under words, one parameters cell, exercises,
a result.
"""

import ast
import io
import itertools
import re
import statistics
import tokenize
import tomllib

import nbformat
import pytest

from jetnb.book import runner

NUMBERED = runner.find()
FORBIDDEN = {
    r"^\s*!": "a shell command",
    r"^\s*%": "a magic (%pip, %%bash, %matplotlib ...)",
    r"\bsys\.path\b": "sys.path",
    r"\bpickle\b|\bMemory\(|allow_pickle|joblib\.(?:load|dump)": (
        "pickle, which runs what a file says (use jetnb.finetuning.ledger)"
    ),
    r"\b(?:Output|interact\w*)\(": "ipywidgets.Output or interact (use Image)",
    r"^\s*from ipywidgets import .*\b(?:Output|interact\w*)\b": "ipywidgets.Output or interact (use Image)",
    r"^\s*(?:from|import) rich\b": "rich (it makes an Output)",
}
TRAINS = {"training.fit", "finetuning.measure", "pretraining.pretrain"}
CODE = (
    ast.Assign,
    ast.AugAssign,
    ast.Import,
    ast.ImportFrom,
    ast.Return,
    ast.For,
    ast.With,
    ast.FunctionDef,
)


def tags(cell):
    return cell.metadata.get("tags", [])


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def tree(cell):
    """Syntax tree of a code cell; None where it is not plain Python (the rule on magics tells of
    that).
    """
    try:
        return ast.parse(cell.source)
    except SyntaxError:
        return None


def lint(notebook, *, links=(), number=None):
    """Everything that is wrong with a notebook, in words; an empty list if nothing is.

    links: file names that exist beside it. number: its place in the series, None for the template.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = [
        f"cell {notebook.cells.index(cell) + 1}: {problem}"
        for cell in code
        for problem in cell_problems(cell)
    ]
    return found + [
        *sizes(notebook, code),
        *file_problems(notebook, code),
        *head(notebook, links, number),
        *parameter_problems(code),
        *parts(code),
    ]


def sizes(notebook, code):
    counts = sorted(len(lines(cell)) for cell in code) or [0]
    if statistics.median(counts) > 5:
        yield f"the median code cell has {statistics.median(counts):g} lines, at most 5 are allowed"
    long = sum(len(lines(cell)) > 15 for cell in code)
    if long > 0.1 * len(counts):
        yield "more than one in ten code cells has over 15 lines"
    if counts[-1] > 25:
        yield f"a code cell has {counts[-1]} lines, at most 25 are allowed"
    above = [
        before.cell_type
        for before, cell in itertools.pairwise(notebook.cells)
        if cell.cell_type == "code"
    ]
    if above.count("markdown") < 0.85 * len(code):
        yield f"{above.count('markdown')} of {len(code)} code cells stand directly under a markdown cell, 85 % must"


def file_problems(notebook, code):
    if any(cell.outputs or cell.execution_count is not None for cell in code):
        yield "outputs or execution counts are stored: clear all outputs before committing"
    if "widgets" in notebook.metadata:
        yield "the state of widgets is stored in metadata.widgets"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernelspec is not python3"
    ids = [cell.get("id") for cell in notebook.cells]
    if None in ids or len(set(ids)) < len(ids):
        yield "cell ids are missing or not unique"


def head(notebook, links, number):
    first = notebook.cells[0]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is not markdown that begins with '# title'"
        return
    asked = [
        line
        for line in first.source.splitlines()
        if line.rstrip("*_ ").endswith("?") and line[:1] != "#"
    ]
    if len(asked) != 1 or re.search(r"[.!?] +[A-Z]", asked[0]):
        yield "the first cell has no one-sentence question (one line of its own that ends in '?')"
    time = (
        r"\b[^\w\n]{1,8}(?:under |about |below )?[<~]?\d[\d.]* ?(?:s|min|h|seconds|minutes|hours)\b"
    )
    for scale in runner.SCALES:
        honest = scale == "paper" and re.search(r"\bpaper\W{1,8}not measured\b", first.source)
        if not honest and not re.search(rf"\b{scale}{time}", first.source):
            yield (
                f"the first cell gives no time for the scale {scale} (such as '{scale} 20 s', "
                "or 'paper not measured')"
            )
    linked = set(re.findall(r"\]\((?:\./)?([^)#:]+\.ipynb)", first.source))
    yield from (
        f"the first cell links to {name}, which is not there"
        for name in sorted(linked - set(links))
    )
    series = sorted(name for name in links if runner.number_of(name))
    at = [i for i, name in enumerate(series) if number and runner.number_of(name) == number]
    near = {series[j] for i in at for j in (i - 1, i + 1) if 0 <= j < len(series)}
    yield from (
        f"the first cell does not link to its neighbour {name}" for name in sorted(near - linked)
    )


def parameter_problems(code):
    tagged = [cell for cell in code if "parameters" in tags(cell)]
    if len(tagged) != 1:
        yield f"{len(tagged)} cells are tagged 'parameters', there must be one"
        return
    source = tagged[0].source.splitlines()
    for statement in tree(tagged[0]).body:
        text = source[statement.lineno - 1 : statement.end_lineno]
        try:
            ast.literal_eval(statement.value)
            literal = isinstance(statement, ast.Assign) and isinstance(
                statement.targets[0], ast.Name
            )
        except (AttributeError, ValueError):
            literal = False
        if not literal:
            yield f"parameters: {text[0]!r} is not NAME = literal"
        if not any("# paper:" in line or "# not from a paper" in line for line in text):
            yield f"parameters: {text[0]!r} has no '# paper: ...' or '# not from a paper' beside it"


def parts(code):
    importing = sum(
        any(
            isinstance(node, (ast.Import, ast.ImportFrom))
            for node in ast.walk(tree(cell) or ast.Pass())
        )
        for cell in code
    )
    if importing > 1:
        yield f"{importing} cells import; all imports belong into one"
    if not any("raises-exception" in tags(cell) for cell in code):
        yield "no deliberate mistake (a cell tagged 'raises-exception')"
    solutions = [cell for cell in code if "solution" in tags(cell)]
    if not solutions:
        yield "no exercise with a solution (a cell tagged 'solution')"
    if not all(cell.metadata.get("jupyter", {}).get("source_hidden") for cell in solutions):
        yield "a solution is not folded away (metadata.jupyter.source_hidden)"
    if not code or not re.search(r"^result = \{", code[-1].source, re.M):
        yield "the last code cell does not assign 'result = {'"
    if not code or not re.search(r"^headline = \{", code[-1].source, re.M):
        yield "the last code cell does not assign 'headline = {', two or three named numbers"
    if sum("headline" in tags(cell) for cell in code) != 1:
        yield "not one cell, the one with the telling figure, is tagged 'headline'"


def cell_problems(cell):
    yield from (
        what for pattern, what in FORBIDDEN.items() if re.search(pattern, cell.source, re.M)
    )
    if tree(cell) is None:
        yield "not Python"
        return
    for node in ast.walk(tree(cell)):
        if isinstance(node, (ast.Try, ast.TryStar)):
            yield "try/except"
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in TRAINS
            and not any(keyword.arg in (None, "accelerator") for keyword in node.keywords)
        ):  # None: **options
            yield f"{ast.unparse(node.func)} is not told its accelerator (ACCELERATOR, a parameter)"
        text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
        if re.match(r"/\w+/|~/|[A-Za-z]:[\\/]", text):
            yield f"an absolute path, {text!r}"
    for token in tokenize.generate_tokens(io.StringIO(cell.source).readline):
        if token.type == tokenize.COMMENT and is_code(token.string.lstrip("# ")):
            yield f"commented-out code, {token.string!r}"


def is_code(comment):
    """Whether a comment is a statement that someone switched off (words, arithmetic and 'name:
    words' are not).
    """
    try:
        body = ast.parse(comment).body
    except SyntaxError:
        return False
    return any(
        isinstance(s, CODE) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Call))
        for s in body
    )


def scale_problems(scales, notebooks):
    """What is wrong with scales.toml for these notebooks, {number: parameters}."""
    for number in sorted(set(scales) - set(notebooks)):
        yield f"[{number}] belongs to no notebook"
    for number, known in notebooks.items():
        for scale in ("ci", "paper"):
            values = scales.get(number, {}).get(scale)
            if values is None:
                yield f"there is no table [{number}.{scale}]"
            yield from (
                f"[{number}.{scale}] sets {name}, which is no parameter"
                for name in values or {}
                if name not in known
            )


@pytest.mark.parametrize(
    "path", [*NUMBERED, runner.NOTEBOOKS / "_template.ipynb"], ids=lambda path: path.stem
)
def test_notebook_keeps_the_contract(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    links = [other.name for other in path.parent.glob("*.ipynb")]
    number = runner.number_of(path.name) if path in NUMBERED else None
    assert not (problems := lint(notebook, links=links, number=number)), (
        f"{path.name}:\n  " + "\n  ".join(problems)
    )


def test_scales_fit_the_notebooks():
    scales = tomllib.loads((runner.NOTEBOOKS / "scales.toml").read_text(encoding="utf-8"))
    notebooks = {
        runner.number_of(path.name): runner.parameters(nbformat.read(path, as_version=4))
        for path in NUMBERED
    }
    assert not list(scale_problems(scales, notebooks))


def test_scales_that_do_not_fit_are_told():
    scales = {"01": {"ci": {"n": 1, "wrong": 2}}, "07": {}}
    assert list(scale_problems(scales, {"01": {"n": 5}})) == [
        "[07] belongs to no notebook",
        "[01.ci] sets wrong, which is no parameter",
        "there is no table [01.paper]",
    ]


def _change(notebook, index, source=None, **metadata):
    if source is not None:
        notebook.cells[index].source = source
    notebook.cells[index].metadata.update(metadata)


def _last(notebook, source):
    notebook.cells[-1].source = source + "\n" + notebook.cells[-1].source


HEAD, IMPORTS, PARAMETERS, MISTAKE, SOLUTION = 0, 2, 4, 12, 14
BROKEN = {
    "'# title'": lambda n: _change(n, HEAD, "no title"),
    "one-sentence question": lambda n: _change(n, HEAD, n.cells[0].source.replace("?", ".")),
    "scale paper": lambda n: _change(
        n, HEAD, n.cells[0].source.replace("paper | about 5 min", "paper | long")
    ),
    "which is not there": lambda n: _change(n, HEAD, n.cells[0].source + "\n[x](98_gone.ipynb)"),
    "its neighbour 01_b.ipynb": lambda n: _change(n, HEAD, n.cells[0].source + "\n[x](../x.md)"),
    "outputs or execution counts": lambda n: n.cells[IMPORTS].update(execution_count=3),
    "metadata.widgets": lambda n: n.metadata.update(widgets={}),
    "kernelspec": lambda n: n.metadata.kernelspec.update(name="conda-env"),
    "ids": lambda n: n.cells[2].update(id=n.cells[1].id),
    "2 cells are tagged 'parameters'": lambda n: _change(n, IMPORTS, tags=["parameters"]),
    "is not NAME = literal": lambda n: _change(n, PARAMETERS, "n = 2 * 3  # paper: 6"),
    "no '# paper: ...'": lambda n: _change(n, PARAMETERS, "n = 2"),
    "2 cells import": lambda n: _last(n, "import os"),
    "no deliberate mistake": lambda n: _change(n, MISTAKE, tags=[]),
    "no exercise": lambda n: _change(n, SOLUTION, tags=[]),
    "not folded": lambda n: _change(n, SOLUTION, jupyter={}),
    "'result = {'": lambda n: _change(n, -1, "results = 3"),
    "'headline = {'": lambda n: _change(n, -1, "result = {}"),
    "tagged 'headline'": lambda n: [cell.metadata.pop("tags", None) for cell in n.cells],
    "magic": lambda n: _last(n, "%pip install x"),
    "shell": lambda n: _last(n, "!ls"),
    "sys.path": lambda n: _last(n, "sys.path.append('x')"),
    "runs what a file says": lambda n: _last(n, "kept = joblib.Memory('x').cache(trial)"),
    "Output or interact": lambda n: _last(n, "out = ipywidgets.Output()"),
    "absolute path": lambda n: _last(n, "open('/home/me/jets')"),
    "try/except": lambda n: _last(n, "try:\n    x = 1\nexcept ValueError:\n    x = 2"),
    "not told its accelerator": lambda n: _last(n, "training.fit(model, data, epochs=1, seed=1)"),
    "commented-out": lambda n: _last(n, "# jets = load('x')"),
    "at most 25": lambda n: _last(n, "x = 1\n" * 25),
    "median": lambda n: [_change(n, i, "x = 1\n" * 6) for i in (6, 8, 10, 12, 14)],
    "one in ten": lambda n: _change(n, 6, "x = 1\n" * 16),
    "85 %": lambda n: [n.cells.pop(i) for i in (9, 7)],
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_notebook_that_breaks_the_contract_is_told_so(problem):
    notebook = nbformat.read(runner.NOTEBOOKS / "_template.ipynb", as_version=4)
    number = "00" if "neighbour" in problem else None
    links = ["00_a.ipynb", "01_b.ipynb"] if number else []
    assert problem not in "\n".join(lint(notebook, links=links))
    BROKEN[problem](notebook)
    assert problem in "\n".join(lint(notebook, links=links, number=number))


def test_words_and_sums_are_not_taken_for_code():
    for words in (
        "the mass in GeV",
        "paper: 2_000_000",
        "pt / energy",
        "see (3) of the paper",
        "TODO",
        "2 -> 3",
    ):
        assert not is_code(words)
    for code in ("x = 3", "plt.show()", "import os", "x += 1"):
        assert is_code(code)
