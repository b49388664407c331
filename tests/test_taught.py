"""Where a docstring says "Taught in notebook NN.", a code cell of that notebook uses what it is of."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def sentences():
    """(module, qualified name or "", words after "Taught in") of each docstring that has them."""
    for path in sorted((ROOT / "jetnb").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        todo = [("", ast.parse(path.read_text(encoding="utf-8")))]
        for name, node in todo:
            text = " ".join((ast.get_docstring(node) or "").split())
            yield from ((module, name, words) for words in re.findall(r"Taught in ([^.]*\.)", text))
            todo += [
                (f"{name}.{child.name}".lstrip("."), child)
                for child in node.body
                if isinstance(child, ast.FunctionDef | ast.ClassDef)
            ]


@functools.cache
def used(number):
    """What the code cells of a notebook use of jetnb, and all names of attributes in them."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [ast.parse("".join(c["source"])) for c in cells if c["cell_type"] == "code"]
    nodes = [node for cell in code for node in ast.walk(cell)]
    known, found = {}, []
    for node in nodes:
        if isinstance(node, ast.Import) and node.names[0].name == "jetnb":
            known["jetnb"] = importlib.import_module("jetnb")
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("jetnb"):
            for each in node.names:
                known[each.asname or each.name] = attribute(node.module, each.name)
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute):
            root, *names = ast.unparse(node).split(".")
            found.append(functools.reduce(lambda o, n: getattr(o, n, None), names, known.get(root)))
    return found, {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def attribute(module, name):
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        return importlib.import_module(f"{module}.{name}")


def is_used(module, name, number):
    owner, _, method = name.rpartition(".")
    holder = importlib.import_module(module)
    if inspect.isclass(getattr(holder, owner, None)):  # a method: of which object, only a run tells
        return method in used(number)[1]
    return any(each is (getattr(holder, name) if name else holder) for each in used(number)[0])


@pytest.mark.parametrize("module, name, words", list(sentences()))
def test_what_is_taught_in_a_notebook_is_used_there(module, name, words):
    numbers = [
        path.name.split("_")[0] for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    ]
    found = re.fullmatch(r"notebook (\d\d[a-z]?)\.", words)
    if not found or found[1] not in numbers or not is_used(module, name, found[1]):
        where = [number for number in numbers if is_used(module, name, number)]
        pytest.fail(
            f"{module}.{name}: taught in {words} It is used in {', '.join(where) or 'none'}"
        )
