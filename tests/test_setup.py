"""Set-up: start.py, pyproject.toml and environment.yml say the same, and start.py tells what is
missing in one line.
"""

import ast
import contextlib
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
CONDA_NAMES = {
    "zlib-ng": "python-zlib-ng",
    "xxhash": "python-xxhash",
    "torch": "pytorch-cpu",
    "matplotlib": "matplotlib-base",
}

PACKAGES = {  # what is imported under another name
    "IPython": "ipython",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "PIL": "pillow",
    "zlib_ng": "zlib-ng",
    "zmq": "pyzmq",
}


def split(requirement):
    """'torch>=2.4,<2.14' -> ('torch', '>=2.4,<2.14')"""
    return re.fullmatch(r"([\w-]+)\s*(.*)", requirement).groups()


def conda_lines():
    """(requirement, comment) of every conda package in environment.yml, python and pip left out."""
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    found = re.findall(r"^  - ([^\s:#]+)(?: +# (.+))?$", text.partition("dependencies:")[2], re.M)
    return [line for line in found if split(line[0])[0] not in ("python", "pip")]


def start(*words, folder=ROOT, python=sys.executable, timeout=120, **environment):
    return subprocess.run(
        [python, str(folder / "start.py"), *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | environment,
    )


def test_environment_and_project_name_the_same_packages():
    wanted = {
        CONDA_NAMES.get(name, name): version
        for name, version in map(split, PROJECT["dependencies"])
    }
    assert dict(split(requirement) for requirement, _ in conda_lines()) == wanted
    assert f"python{PROJECT['requires-python']}" in (ROOT / "environment.yml").read_text()


def test_what_is_imported_is_declared():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "jetnb").rglob("*.py")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        sources += ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    modules = set()
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            modules |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules.add(node.module)
    found = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"jetnb"}
    extras = [name for extra in ("sim", "site") for name in PROJECT["optional-dependencies"][extra]]
    declared = {split(name)[0] for name in [*PROJECT["dependencies"], *extras]}
    # Who gives `parallel` a client of distributed has it.
    assert {PACKAGES.get(name, name) for name in found} - declared - {"distributed"} == set()


def test_the_environment_of_conda_is_one_that_conda_can_read():
    """As far as that can be said offline: YAML, one channel, names as conda writes them, each once."""
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, last = found["dependencies"]
    assert found["channels"] == ["conda-forge"] and last == {"pip": ["-e ."]}
    names = [split(one)[0] for one in conda]
    assert len(set(names)) == len(names)
    for one in conda:
        assert re.fullmatch(r"[a-z0-9._-]+((>=|<|==)[0-9.]+(,<[0-9.]+)?)?", one, re.I), one


def test_workflows_try_each_python_that_is_promised():
    yaml = pytest.importorskip("yaml")
    folder = ROOT / ".github" / "workflows"
    for path in folder.glob("*.yml"):
        text = path.read_text(encoding="utf-8")
        jobs = yaml.safe_load(text)["jobs"]
        assert "Untried" in text.splitlines()[0]
        assert all("runs-on" in job and job["steps"] for job in jobs.values()), path.name
    linux = yaml.safe_load((folder / "tests.yml").read_text(encoding="utf-8"))["jobs"]["linux"]
    assert linux["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    words = "".join(step.get("run", "") for step in linux["steps"])
    assert "python3 start.py test" in words


def test_every_package_says_what_needs_it():
    assert [requirement for requirement, comment in conda_lines() if not comment] == []


def test_optional_parts_stay_optional():
    plain = {split(requirement)[0] for requirement in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    assert not plain & {split(requirement)[0] for extra in extras.values() for requirement in extra}
    assert "pythia8mc>=8.317,<8.318" in extras["sim"] and set(extras) == {
        "sim",
        "browser",
        "test",
        "site",
    }


def test_version_is_said_once_in_each_place():
    assert jetnb.__version__ == PROJECT["version"]
    assert f"version: {PROJECT['version']}" in (ROOT / "CITATION.cff").read_text()


def test_importing_the_package_is_cheap():
    heavy = "{'torch', 'matplotlib', 'pythia8mc', 'fastjet', 'numba', 'awkward'}"
    ask = f"import sys, jetnb; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT
        ).stdout.strip()
        == "[]"
    )


def test_start_is_a_short_script_of_the_standard_library():
    source = (ROOT / "start.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 300
    tree = ast.parse(source, feature_version=(3, 7))  # an old Python must get as far as the message
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert {
        name.name.split(".")[0] for node in imports for name in node.names
    } <= sys.stdlib_module_names


def test_start_without_a_command_says_what_there_is():
    said = start().stderr
    assert all(
        command in said
        for command in ("start.py lab", "start.py run", "start.py test", "JETNB_TORCH")
    )


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
    pretend(
        copy,
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name: name != {module!r} and find(name)",
    )
    done = start("lab", folder=copy, JETNB_VENV="")
    assert (
        done.returncode == 1
        and done.stderr.count("\n") == 1
        and "sudo apt install python3-venv" in done.stderr
    )


STANDIN = """#!/bin/sh
echo "$@" >> {folder}/calls
case "$*" in
*"import sys, pip"*|*"import sys; sys.exit"*|*"import pip"*) exit $RUNS ;;
*"import torch; print"*) [ "$TORCH_IS" ] && echo $TORCH_IS || exit 1 ;;
*"-m pip install"*|*"-m uv"*) exit $PIP ;;
*"-I -c import"*pytest*) exit $TEST_EXTRA ;;
*"-I -c import"*) exit $LAB ;;
*jupyterlab*) echo "$PATH $VIRTUAL_ENV $OMP_WAIT_POLICY" ;;
esac
"""
posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in for Python is a shell script")


class Installed:
    """A copy of start.py beside an environment whose Python is a shell script that writes down what
    it is asked for.
    """

    def __init__(self, folder):
        self.folder, self.env = folder, folder / "env"
        python = self.env / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STANDIN.format(folder=folder))
        python.chmod(0o755)
        (self.env / "pyvenv.cfg").touch()
        (self.env / "numpy").write_text("a package")  # goes when the environment is cleared
        self.stamp = self.env / "jetnb.json"
        self.write_stamp()

    def write_stamp(self, extras=(), project=None):
        project = project or (self.folder / "pyproject.toml").read_text()
        recipe = hashlib.sha256(
            (project + str(self.folder.resolve()) + "auto").encode()
        ).hexdigest()
        self.stamp.write_text(json.dumps({"recipe": recipe, "extras": list(extras)}))

    def start(self, *words, runs=0, torch="cpu", pip=1, test=1, lab=0, **environment):
        """Everything works, and nothing can be installed, unless told otherwise: the exit status of
        each.
        """
        (self.folder / "calls").unlink(missing_ok=True)
        return start(
            *words,
            folder=self.folder,
            JETNB_VENV=str(self.env),
            JETNB_TORCH="auto",
            RUNS=str(runs),
            TORCH_IS=torch,
            PIP=str(pip),
            TEST_EXTRA=str(test),
            LAB=str(lab),
            **environment,
        )

    @property
    def calls(self):
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "calls").read_text().splitlines()
        return []

    def is_whole(self):
        return (self.env / "numpy").exists()


@pytest.fixture
def installed(copy, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    return Installed(copy)


@posix
def test_a_second_start_does_nothing_but_start(installed):
    began = time.monotonic()
    done = installed.start("lab", "--no-browser")
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout.splitlines()) == 1
    assert time.monotonic() - began < 30
    assert len(installed.calls) == 2 and "verify_shipped" in installed.calls[0]
    assert "/lab/tree/notebooks/00_start_here.ipynb" in installed.calls[1]
    assert installed.calls[1].endswith("--no-browser")
    installed.start("lab")
    assert len(installed.calls) == 1  # the data has not changed


@posix
def test_terminals_and_kernels_find_the_environment_and_do_not_spin(installed):
    first, rest = installed.start("lab").stdout.strip().split(os.pathsep, 1)
    assert first == str(installed.env / "bin") and rest.split()[-2:] == [
        str(installed.env),
        "PASSIVE",
    ]
    assert installed.start("lab", OMP_WAIT_POLICY="ACTIVE").stdout.split()[-1] == "ACTIVE"


@posix
@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_a_terminal_has_the_environment_before_what_the_user_has_set(installed):
    """What Jupyter starts in a terminal, for a user whose own file puts another Python first."""
    home = installed.folder / "home"
    (home / "shims").mkdir(parents=True)
    (home / ".bashrc").write_text("PATH=~/shims:$PATH; MINE=1\n")
    (installed.env / "bin" / "activate").write_text(f"PATH={installed.env}/bin:$PATH\n")
    installed.start("lab", SHELL=shutil.which("bash"))
    option = re.search(r"terminado_settings=(\{.*\})", installed.calls[-1]).group(1)
    done = subprocess.run(
        ast.literal_eval(option)["shell_command"],
        input="command -v python; echo $MINE; exit\n",
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert done.stdout.split()[:2] == [str(installed.env / "bin" / "python"), "1"], done
    installed.start("lab", SHELL="/bin/zsh")
    assert "{'shell_command': ['/bin/zsh']}" in installed.calls[-1]


@posix
@pytest.mark.parametrize("user", [0, 1000])
def test_only_root_is_asked_to_allow_root(installed, user):
    pretend(installed.folder, f"os.geteuid = lambda: {user}")
    installed.start("lab")
    assert ("--allow-root" in installed.calls[-1]) == (user == 0)


@posix
def test_an_extra_that_cannot_be_added_leaves_what_was(installed):
    done = installed.start("test")
    assert done.returncode == 1 and "pip uninstall" not in "".join(installed.calls)
    assert done.stderr == (
        "the packages could not be installed (see above): is this computer online?; what was "
        "installed before is still there\n"
    )
    assert (
        installed.is_whole()
        and installed.start("lab").returncode == 0
        and len(installed.calls) == 2
    )


@posix
def test_an_extra_is_added_to_what_is_there(installed):
    done = installed.start("test", pip=0, test=0)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "the environment is ready"
    assert any(f"-e {installed.folder}[test,site,browser]" in call for call in installed.calls)
    assert (
        json.loads(installed.stamp.read_text())["extras"] == ["test", "site", "browser", "sim"]
        and installed.is_whole()
    )
    assert installed.start("lab").stderr == "" and len(installed.calls) == 2


@posix
def test_an_update_that_fails_goes_on_with_what_is_there(installed):
    installed.write_stamp(["test"], project="an older one")
    before = installed.stamp.read_text()
    done = installed.start("lab")
    assert (
        done.returncode == 0
        and "is this computer online?: going on with what is there" in done.stdout
    )
    assert installed.is_whole() and installed.stamp.read_text() == before
    assert any(
        "[test]" in call for call in installed.calls
    )  # what is there is brought up to date with the rest


@posix
@pytest.mark.parametrize("torch", ["cuda", ""])
def test_a_build_of_torch_that_is_missing_is_said_and_the_other_stays(installed, torch):
    installed.write_stamp(project="an older one")
    pretend(installed.folder, "os.environ['PATH'] = '/nowhere'")  # no nvidia-smi
    done = installed.start("lab", torch=torch, lab=0 if torch else 1)
    assert (
        done.stdout.splitlines()[1:3]
        == [f"torch, the cpu build, from {name} ..." for name in ("download.pytorch.org", "PyPI")][
            : 2 if sys.platform == "linux" else 0
        ]
    )
    text = "no cpu build of torch: download.pytorch.org does not answer (PyPI's, 3 GB: JETNB_TORCH=cuda)"
    assert text in (done.stdout if torch else done.stderr) and done.returncode == (
        0 if torch else 1
    )
    assert "uninstall" not in "".join(installed.calls) and installed.is_whole()


@posix
@pytest.mark.parametrize(
    "stamp", ["", "{", "[]", "null", "{}", '{"recipe": 1}', '{"recipe": 1, "extras": 3}', "\0\0"]
)
@pytest.mark.parametrize("command", ["lab", "test"])
def test_a_damaged_stamp_costs_no_environment_that_works(installed, stamp, command):
    installed.stamp.write_text(stamp)
    done = installed.start(command)
    assert "Traceback" not in done.stderr and installed.is_whole()
    assert (done.returncode == 0 and "going on with what is there" in done.stdout) == (
        command == "lab"
    )
    assert installed.start("lab", pip=0).returncode == 0 and "recipe" in installed.stamp.read_text()


@posix
@pytest.mark.parametrize(("runs", "stamp"), [(0, "{}"), (1, "{}"), (1, "whole")])
def test_half_an_installation_and_a_dead_python_are_made_anew(installed, runs, stamp):
    if stamp == "{}":
        installed.stamp.write_text(stamp)
    else:
        installed.write_stamp(project="an older one")
    pretend(installed.folder, f"sys.executable = '{installed.folder}/other'")
    (installed.folder / "other").write_text(
        f"#!/bin/sh\necho made: $@ >> {installed.folder}/calls\n"
    )
    (installed.folder / "other").chmod(0o755)
    installed.start("lab", runs=runs, lab=1)
    assert f"made: -m venv --clear {installed.env}" in installed.calls


@posix
def test_a_folder_with_other_things_is_left_alone(installed):
    shutil.rmtree(installed.env / "bin")
    for name in ("pyvenv.cfg", "jetnb.json"):
        (installed.env / name).unlink()
    done = installed.start("lab")
    assert (
        done.stderr
        == f"{installed.env} is a folder with other things in it: set JETNB_VENV to another one\n"
    )
    assert sorted(path.name for path in installed.env.iterdir()) == ["numpy"]


@posix
@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("env", "cannot be written: set JETNB_VENV to a folder of your own"),
        ("", "cannot be written, where jetnb is installed from: copy it to one"),
    ],
)
def test_what_may_only_be_read_gets_a_sentence(installed, what, said):
    place = installed.folder / what
    pretend(
        installed.folder, f"os.access = lambda path, mode: str(path) != {str(place)!r}"
    )  # root may write anywhere
    done = installed.start("test")
    assert (
        done.returncode == 1 and done.stderr.count("\n") == 1 and f"{place} {said}" in done.stderr
    )
    assert not any("install" in call for call in installed.calls)
    assert installed.start("lab").returncode == 0  # which has all that it needs
    (installed.env / "jetnb-data.json").unlink()
    (installed.env / "jetnb-data.json").mkdir()  # cannot be written by anybody
    assert installed.start("lab").returncode == 0


@posix
def test_two_at_once_wait_for_each_other(installed):
    import fcntl

    installed.stamp.unlink()
    with (installed.folder / "pyproject.toml").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(
            [sys.executable, installed.folder / "start.py", "lab"],
            text=True,
            bufsize=1,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"JETNB_VENV": str(installed.env), "JETNB_TORCH": "auto"},
        ) as second:
            assert (
                second.stdout.readline() == "another start.py is setting up: waiting for it ...\n"
            )
            assert not installed.calls
            installed.write_stamp()
            fcntl.flock(held, fcntl.LOCK_UN)
            rest = second.stdout.read()
    assert second.returncode == 0 and "setting up" not in rest and len(installed.calls) == 2


@posix
def test_after_the_first_start_no_network_is_needed(tmp_path):
    """start.py, the command line and a notebook with its kernel, behind a proxy that is not there."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    text = (ROOT / "pyproject.toml").read_text()
    recipe = hashlib.sha256((text + str(ROOT) + "auto").encode()).hexdigest()
    (tmp_path / "env" / "jetnb.json").write_text(json.dumps({"recipe": recipe, "extras": []}))
    dead = {
        name: "http://127.0.0.1:9"
        for name in (
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        )
    }
    done = start(
        "run",
        "00",
        "--scale",
        "ci",
        "--out",
        str(tmp_path / "gallery"),
        timeout=600,
        **dead,
        NO_PROXY="",
        no_proxy="",
        PIP_NO_INDEX="1",
        UV_OFFLINE="1",
        JETNB_VENV=str(tmp_path / "env"),
        JETNB_TORCH="auto",
        JETNB_DERIVED=str(tmp_path / "derived"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "setting up" not in done.stdout and (tmp_path / "gallery" / "index.html").exists()


@pytest.mark.skipif(
    os.environ.get("JETNB_SIMULATION") != "require", reason="simulation is not required here"
)
def test_simulation_is_installed_where_it_is_required():
    import fastjet
    import pythia8mc

    assert fastjet.__version__ and pythia8mc.Pythia


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere PyPI's torch is the CPU build"
)
def test_no_cuda_without_a_gpu():
    import torch

    if shutil.which("nvidia-smi") or os.environ.get("JETNB_TORCH", "auto") not in ("auto", "cpu"):
        pytest.skip("a GPU, or a build chosen by hand")
    assert torch.version.cuda is None
