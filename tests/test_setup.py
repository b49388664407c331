"""Set-up: start.py, pyproject.toml and environment.yml say the same, and start.py tells what is missing in one line."""

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import jetnb

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONDA_NAMES = {"zlib-ng": "python-zlib-ng", "xxhash": "python-xxhash", "torch": "pytorch-cpu",
               "matplotlib": "matplotlib-base"}


def split(requirement):
    """'torch>=2.4,<2.14' -> ('torch', '>=2.4,<2.14')"""
    return re.fullmatch(r"([\w-]+)\s*(.*)", requirement).groups()


def conda_lines():
    """(requirement, comment) of every conda package in environment.yml, python and pip left out."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    found = re.findall(r"^  - ([^\s:#]+)(?: +# (.+))?$", text.partition("dependencies:")[2], re.M)
    return [line for line in found if split(line[0])[0] not in ("python", "pip")]


def start(*words, folder=ROOT, python=sys.executable, **environment):
    return subprocess.run([python, str(folder / "start.py"), *words], capture_output=True, text=True, timeout=120,
                          env=os.environ | environment)


def test_environment_and_project_name_the_same_packages():
    wanted = {CONDA_NAMES.get(name, name): version for name, version in map(split, PROJECT["dependencies"])}
    assert dict(split(requirement) for requirement, _ in conda_lines()) == wanted
    assert f"python{PROJECT['requires-python']}" in (ROOT / "environment.yml").read_text()


def test_every_package_says_what_needs_it():
    assert [requirement for requirement, comment in conda_lines() if not comment] == []


def test_optional_parts_stay_optional():
    plain = {split(requirement)[0] for requirement in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    assert not plain & {split(requirement)[0] for extra in extras.values() for requirement in extra}
    assert "pythia8mc>=8.317,<8.318" in extras["sim"] and set(extras) == {"sim", "browser", "test"}


def test_version_is_said_once_in_each_place():
    assert jetnb.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()


def test_importing_the_package_is_cheap():
    heavy = "{'torch', 'matplotlib', 'pythia8mc', 'fastjet', 'numba', 'awkward'}"
    ask = f"import sys, jetnb; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT).stdout.strip() == "[]"


def test_start_is_a_short_script_of_the_standard_library():
    source = (ROOT / "start.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 120
    tree = ast.parse(source, feature_version=(3, 7))  # an old Python must get as far as the message
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {name.name.split(".")[0] for node in imports for name in node.names} <= sys.stdlib_module_names


def test_start_without_a_command_says_what_there_is():
    said = start().stderr
    assert all(command in said for command in ("start.py lab", "start.py run", "start.py test", "JETNB_TORCH"))


@pytest.fixture
def copy(tmp_path):
    """start.py and pyproject.toml in a folder of their own, with nothing installed."""
    for name in ("start.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def pretend(folder, change):
    """Put a line into the copy of start.py that makes it believe something about the machine."""
    script = folder / "start.py"
    head, mark, tail = script.read_text().partition("ROOT = ")
    script.write_text(f"{head}{change}\n{mark}{tail}")


def test_start_names_what_an_old_python_lacks(copy):
    pretend(copy, "sys.version_info, sys.version = (3, 9, 18), '3.9.18 (main)'")
    assert start("lab", folder=copy).stderr == "jetnb needs Python 3.11 or newer; this is 3.9.18\n"


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_start_names_the_debian_package_it_lacks(copy, module):
    pretend(copy, "find = importlib.util.find_spec\n"
                  f"importlib.util.find_spec = lambda name: name != {module!r} and find(name)")
    done = start("lab", folder=copy, JETNB_VENV="")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "sudo apt install python3-venv" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")
def test_a_second_start_does_nothing_but_start(copy):
    python = copy / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$@" >> {copy}/calls\n')
    python.chmod(0o755)
    recipe = hashlib.sha256(((copy / "pyproject.toml").read_text() + sys.version + "auto").encode()).hexdigest()
    (copy / "env" / "jetnb.json").write_text(json.dumps({"recipe": recipe, "extras": []}))
    began = time.monotonic()
    done = start("lab", "--no-browser", folder=copy, JETNB_VENV=str(copy / "env"), JETNB_TORCH="auto")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "") and time.monotonic() - began < 1
    calls = (copy / "calls").read_text().splitlines()
    assert len(calls) == 2 and "verify_shipped" in calls[0]
    assert "/lab/tree/notebooks/00_start_here.ipynb" in calls[1] and calls[1].endswith("--no-browser")


@pytest.mark.skipif(os.environ.get("JETNB_SIMULATION") != "require", reason="simulation is not required here")
def test_simulation_is_installed_where_it_is_required():
    import fastjet
    import pythia8mc

    assert fastjet.__version__ and pythia8mc.Pythia


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere PyPI's torch is the CPU build")
def test_no_cuda_without_a_gpu():
    import torch

    if shutil.which("nvidia-smi") or os.environ.get("JETNB_TORCH", "auto") not in ("auto", "cpu"):
        pytest.skip("a GPU, or a build chosen by hand")
    assert torch.version.cuda is None
