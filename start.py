#!/usr/bin/env python3
"""The one entrance to jetnb. It needs Python 3.11 or newer and nothing else.

    python3 start.py lab             open the notebooks in JupyterLab
    python3 start.py run [NN ...]    run the notebooks (or some of them), leave an HTML gallery
    python3 start.py site            pages that need no network, of what was run
    python3 start.py test            run the tests

More words are passed on. The first call makes an environment in .venv, or in the folder JETNB_VENV
(a minute or more, 2 GB); later calls start at once, without network, and take nothing away that
works. torch is PyPI's CUDA build where nvidia-smi finds a GPU, else the CPU build; JETNB_TORCH=cpu,
cuda or a name at download.pytorch.org, such as cu126 (the way to CUDA on Windows), says otherwise.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess as sp
import sys

with contextlib.suppress(ImportError):
    import fcntl

ROOT = pathlib.Path(__file__).resolve().parent
ENV = pathlib.Path(os.environ.get("JETNB_VENV") or str(ROOT / ".venv")).absolute()
PY = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENV / "jetnb.json"  # what is installed; {} while the first installation is under way
TORCH = os.environ.get("JETNB_TORCH") or "auto"
PATIENCE = ["--retries", "1", "--timeout", "20"]  # for a server that may not be there
PROGRAMS = {
    "lab": ["jupyterlab", "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb"],
    "run": ["jetnb", "run"],
    "site": ["jetnb", "site"],
    "test": ["pytest"],
}
NEEDS = {
    "lab": "awkward, torch, jupyterlab",
    "run": "awkward, torch, nbclient",
    "site": "awkward, torch, pdoc",
    "test": "awkward, torch, pytest, mypy",
}


def call(*words, stderr=sp.DEVNULL, **options):
    """Run a program; return its exit status and what it printed. One that is not there, or does not
    end, has failed.
    """
    try:
        done = sp.run(
            [str(word) for word in words],
            stdout=sp.PIPE,
            stderr=stderr,
            errors="replace",
            **options,
        )
    except (OSError, sp.TimeoutExpired):
        return 1, ""
    return done.returncode, done.stdout


def works(modules, **options):
    return call(PY, "-I", "-c", f"import {modules}", **options)[0] == 0


@contextlib.contextmanager
def alone():
    """Take turns with others that set up from this folder (not on Windows): a lock, which ends with
    this process.
    """
    with open(ROOT / "pyproject.toml", "rb") as file:
        with contextlib.suppress(OSError, NameError):  # no locks on this file system, or Windows
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print("another start.py is setting up: waiting for it ...")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install_torch(version):
    """Put the right build of torch there before all else: PyPI's for Linux brings 3 GB of CUDA
    along.
    """
    flavour = TORCH if TORCH != "auto" else "cpu" if call("nvidia-smi", "-L")[0] else "cuda"
    kind = "cpu" if flavour == "cpu" or sys.platform == "darwin" else "cuda"
    there = call(PY, "-c", "import torch; print('cuda' if torch.version.cuda else 'cpu')")[
        1
    ].strip()
    from_pypi = flavour == "cuda" or (kind == "cpu" and sys.platform != "linux")
    if there == kind or (from_pypi and not there):
        return ""
    for name in ["PyPI"] if from_pypi else ["download.pytorch.org"] + ["PyPI"] * (kind == "cpu"):
        print(f"torch, the {flavour} build, from {name} ...")
        index = (
            [] if name == "PyPI" else ["--index-url", f"https://download.pytorch.org/whl/{flavour}"]
        )
        pip = [PY, "-m", "pip", "install", "-q", "--no-deps", *PATIENCE, *index, version]
        pip += ["--force-reinstall"] * bool(
            there
        )  # what is there goes when the other has come, not before
        status, plan = call(*pip, "--dry-run", "--report", "-", timeout=90)
        brings_cuda = re.search(
            r'^\s*"(nvidia|cuda|triton)\b', plan, re.M
        )  # among the requirements
        if status == 0 and (kind == "cuda" or not brings_cuda) and call(*pip)[0] == 0:
            return ""
    return f"no {flavour} build of torch: download.pytorch.org does not answer (PyPI's, 3 GB: JETNB_TORCH=cuda)"


def install(extras, *options, quiet=False):
    """Install this folder (editable) with these extras: with uv where it can be had, else with pip."""
    settings = {
        "UV_INDEX_STRATEGY": "unsafe-best-match"
    }  # uv does not read pip's configuration: tell it
    option = re.compile(r"\.(find-links|index-url|extra-index-url)='(.*)'$", re.M)
    for key, value in reversed(option.findall(call(PY, "-m", "pip", "config", "list")[1])):
        name, comma = "UV_" + key.upper().replace("-", "_"), "," if key == "find-links" else " "
        settings[name] = comma.join(value.replace("\\n", " ").split())
    words = ["pip", "install", "-q", *options, "-e", f"{ROOT}[{extras}]" if extras else ROOT]
    if call(PY, "-m", "uv", "--version")[0]:
        call(PY, "-m", "pip", "install", "-q", "--prefer-binary", *PATIENCE, "uv")
    return (
        call(PY, "-m", "uv", *words, "--python", PY, env=dict(settings, **os.environ))[0] == 0
        or call(
            PY, "-m", *words, *PATIENCE, "--prefer-binary", stderr=sp.DEVNULL if quiet else None
        )[0]
        == 0
    )


def read_stamp():
    """Recipe and extras of what has been installed and worked; {} if that is not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        have = json.loads(STAMP.read_text(encoding="utf-8"))
        return {"recipe": have["recipe"], "extras": list(have["extras"])}
    return {}


def update(project, extras, have, needs):
    """Install what is missing; return what went wrong, "" if nothing did."""
    if not os.access(ROOT, os.W_OK):
        return f"the folder {ROOT} cannot be written, where jetnb is installed from: copy it to one of your own"
    place = next(path for path in (ENV, *ENV.parents) if path.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return f"{place} cannot be written: set JETNB_VENV to a folder of your own"
    runs = call(PY, "-c", "import sys; sys.exit(sys.version_info < (3, 11))")[0] == 0
    spoilt = not runs or (
        STAMP.exists() and not have and not works(NEEDS["lab"])
    )  # is not mended but made anew
    if spoilt or call(PY, "-c", "import pip")[0]:
        if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
            return "Python's venv module is missing; on Debian or Ubuntu: sudo apt install python3-venv"
        if place == ENV and not (ENV / "pyvenv.cfg").exists() and any(ENV.iterdir()):
            return f"{ENV} is a folder with other things in it: set JETNB_VENV to another one"
        if call(
            sys.executable,
            "-m",
            "venv",
            *["--clear"] * (spoilt and STAMP.exists()),
            ENV,
            stderr=None,
        )[0]:
            return f"the environment {ENV} could not be made (see above)"
    if spoilt or not have:
        STAMP.write_text("{}")
    wrong = install_torch(re.search(r'"(torch[><=][^"]+)"', project).group(1))
    if wrong:
        return wrong
    print("the other packages ...")
    if not install(",".join(extra for extra in extras if extra != "sim")):
        return "the packages could not be installed (see above): is this computer online?"
    if "sim" in extras and not install(
        "sim", *["--only-binary", "pythia8mc", "--only-binary", "fastjet"], quiet=True
    ):
        print(
            "no simulation here (Pythia 8 and FastJet have no wheels for this Python): its tests are skipped"
        )
    return "" if works(needs, stderr=None) else "the environment does not work (see above)"


def set_up(command):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    recipe = hashlib.sha256((project + str(ROOT) + TORCH).encode()).hexdigest()
    wanted = {"test": ["test", "site", "browser", "sim"], "site": ["site"]}.get(command, [])

    def ready(have):
        return have.get("recipe") == recipe and all(extra in have["extras"] for extra in wanted)

    if ready(read_stamp()):
        return
    with alone():
        have = read_stamp()
        if ready(have):  # another one has done it meanwhile
            return
        print(f"setting up {ENV}: once, a minute or more ...")
        extras = [
            extra
            for extra in ("test", "site", "browser", "sim")
            if extra in [*wanted, *have.get("extras", [])]
        ]
        needs = f"jetnb, {NEEDS[command]}"
        wrong = update(project, extras, have, needs)
        if wrong and not works(needs):
            sys.exit(wrong + ("; what was installed before is still there" if have else ""))
        if not wrong:
            STAMP.write_text(json.dumps({"recipe": recipe, "extras": extras}))
        print(f"{wrong}: going on with what is there" if wrong else "the environment is ready")


def check_data():
    """Compare the shipped data with its checksums, the first time and when a file has changed
    since.
    """
    now = json.dumps(
        [
            (path.name, path.stat().st_size, path.stat().st_mtime)
            for path in sorted(ROOT.glob("data/*.*"))
        ]
    )
    seen = ENV / "jetnb-data.json"
    with contextlib.suppress(OSError, ValueError):
        if seen.read_text(encoding="utf-8") == now:
            return
    status, said = call(
        PY, "-c", "from jetnb.data.catalogue import verify_shipped as v; v()", stderr=sp.STDOUT
    )
    if status:
        sys.exit(
            "the shipped data is not as it should be: "
            + said.strip().splitlines()[-1].partition(": ")[2]
        )
    with contextlib.suppress(OSError):  # an environment that may only be read
        seen.write_text(now, encoding="utf-8")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036  it runs before any installation
        sys.exit("jetnb needs Python 3.11 or newer; this is " + sys.version.split()[0])
    sys.stdout.reconfigure(line_buffering=True)
    program = PROGRAMS.get("".join(sys.argv[1:2])) or sys.exit(__doc__)
    try:
        set_up(sys.argv[1])
    except (OSError, KeyboardInterrupt) as error:
        sys.exit(f"the environment is not set up: {str(error) or 'interrupted'}")
    os.chdir(ROOT)
    if sys.argv[1] != "test":
        check_data()
    # Threads of torch that wait for each other sleep: else they take the time of those who have
    # something to do.
    os.environ.update(
        {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "VIRTUAL_ENV": str(ENV),
            "PATH": str(PY.parent) + os.pathsep + os.environ.get("PATH", os.defpath),
        }
    )  # of terminals
    if (
        sys.argv[1] == "lab" and os.name == "posix"
    ):  # terminals: first the user's files, which may name another Python
        shell, rc = (
            os.environ.get("SHELL") or "bash",
            f"[ -f ~/.bashrc ] && . ~/.bashrc; . '{ENV}/bin/activate'",
        )
        wrap = (
            ["-c", f"exec bash --rcfile <(echo {shlex.quote(rc)}) -i"]
            if shell.endswith("bash")
            else []
        )
        terminal = {"shell_command": [shell, *wrap]}
        program = [
            *program,
            f"--ServerApp.terminado_settings={terminal}",
            *["--allow-root"] * (os.geteuid() == 0),
        ]
    program = [str(PY), "-m", *program, *sys.argv[2:]]
    if os.name == "posix":
        os.execv(program[0], program)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the program
    sys.exit(sp.call(program))
