#!/usr/bin/env python3
"""The one entrance to jetnb. It needs Python 3.11 or newer and nothing else.

    python3 start.py lab             open the notebooks in JupyterLab
    python3 start.py run [NN ...]    run the notebooks (or some of them), leave an HTML gallery
    python3 start.py test            run the tests

More words are passed on. The first call makes an environment in .venv, or in the folder JETNB_VENV (a minute or more,
2 GB); later calls start at once. torch is PyPI's CUDA build where nvidia-smi finds a GPU, else the CPU build;
JETNB_TORCH=cpu, cuda or a name at download.pytorch.org, such as cu126 (the way to CUDA on Windows), says otherwise.
"""
import hashlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess as sp
import sys

ROOT = pathlib.Path(__file__).resolve().parent
ENV = pathlib.Path(os.environ.get("JETNB_VENV") or str(ROOT / ".venv")).absolute()
PY = ENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = ENV / "jetnb.json"  # what is installed; {} while an installation is under way
TORCH = os.environ.get("JETNB_TORCH") or "auto"
LAB = ["jupyterlab", "--LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb", "--allow-root"]
PROGRAMS = {"lab": LAB, "run": ["jetnb", "run"], "test": ["pytest"]}


def call(*words, stderr=sp.DEVNULL, env=None):
    """Run a program; return its exit status and what it printed. One that is not there has failed."""
    try:
        done = sp.run([str(word) for word in words], stdout=sp.PIPE, stderr=stderr, env=env, errors="replace")
    except OSError:
        return 1, ""
    return done.returncode, done.stdout


def install_torch(version):
    """Put the right build of torch there before all else: PyPI's for Linux brings 3 GB of CUDA along."""
    flavour = TORCH if TORCH != "auto" else "cpu" if call("nvidia-smi", "-L")[0] else "cuda"
    kind = "cpu" if flavour == "cpu" or sys.platform == "darwin" else "cuda"
    there = call(PY, "-c", "import torch; print('cuda' if torch.version.cuda else 'cpu')")[1].strip()
    if there and there != kind:
        call(PY, "-m", "pip", "uninstall", "-q", "-y", "torch")
    if there == kind or flavour == "cuda" or (kind == "cpu" and sys.platform != "linux"):
        return
    for index in [["--index-url", "https://download.pytorch.org/whl/" + flavour]] + [[]] * (kind == "cpu"):
        pip = [PY, "-m", "pip", "install", "-q", "--no-deps", "--retries", "1", "--timeout", "20", *index, version]
        status, plan = call(*pip, "--dry-run", "--report", "-")
        brings_cuda = re.search(r'^\s*"(nvidia|cuda|triton)\b', plan, re.M)  # among the requirements
        if status == 0 and (kind == "cuda" or not brings_cuda) and call(*pip)[0] == 0:
            return
    sys.exit(f"no {flavour} build of torch: download.pytorch.org does not answer (PyPI's, 3 GB: JETNB_TORCH=cuda)")


def install(extras, *options, quiet=False):
    """Install this folder (editable) with these extras: with uv where it can be had, else with pip."""
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # uv does not read pip's configuration: tell it
    listed = call(PY, "-m", "pip", "config", "list")[1]
    for key, value in reversed(re.findall(r"\.(find-links|index-url|extra-index-url)='(.*)'$", listed, re.M)):
        name, comma = "UV_" + key.upper().replace("-", "_"), "," if key == "find-links" else " "
        settings[name] = comma.join(value.replace("\\n", " ").split())
    words = ["install", "-q", *options, "-e", f"{ROOT}[{extras}]" if extras else ROOT]
    call(PY, "-m", "pip", "install", "-q", "--prefer-binary", "uv")
    return (call(PY, "-m", "uv", "pip", *words, "--python", PY, env=dict(settings, **os.environ))[0] == 0
            or call(PY, "-m", "pip", *words, "-q", "--prefer-binary", stderr=sp.DEVNULL if quiet else None)[0] == 0)


def set_up(extras):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    recipe = hashlib.sha256((project + sys.version + TORCH).encode()).hexdigest()
    have = json.loads(STAMP.read_text() or "{}") if STAMP.exists() else {}
    if have.get("recipe") == recipe and set(extras) <= set(have["extras"]):
        return
    print(f"setting up {ENV}: once, a minute or more ...", flush=True)
    works = call(PY, "-c", f"import sys, pip; sys.exit(sys.version != {sys.version!r})")[0] == 0
    if not works or (STAMP.exists() and not have):  # half an installation is not mended but made anew
        if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
            sys.exit("Python's venv module is missing; on Debian or Ubuntu: sudo apt install python3-venv")
        if call(sys.executable, "-m", "venv", *["--clear"] * STAMP.exists(), ENV, stderr=None)[0]:
            sys.exit(f"the environment {ENV} could not be made (see above)")
    STAMP.write_text("{}")
    install_torch(re.search(r'"(torch[><=][^"]+)"', project).group(1))
    if not install(",".join(extra for extra in extras if extra != "sim")):
        sys.exit("the packages could not be installed (see above)")
    if "sim" in extras and not install("sim", *"--only-binary pythia8mc --only-binary fastjet".split(), quiet=True):
        print("no simulation here (Pythia 8 and FastJet have no wheels for this Python): its tests are skipped")
    if call(PY, "-c", "import torch, jetnb", stderr=None)[0]:
        sys.exit("the environment does not work (see above)")
    STAMP.write_text(json.dumps({"recipe": recipe, "extras": extras}))
    print("the environment is ready", flush=True)


def check_data():
    """Compare the shipped data with its checksums, the first time and when a file has changed since."""
    now = json.dumps([(path.name, path.stat().st_size, path.stat().st_mtime) for path in sorted(ROOT.glob("data/*.*"))])
    seen = ENV / "jetnb-data.json"
    if not seen.exists() or seen.read_text() != now:
        status, said = call(PY, "-c", "from jetnb.catalogue import verify_shipped as v; v()", stderr=sp.STDOUT)
        if status:
            sys.exit("the shipped data is not as it should be: " + said.strip().splitlines()[-1].partition(": ")[2])
        seen.write_text(now)


if __name__ == "__main__":
    if sys.version_info < (3, 11):
        sys.exit("jetnb needs Python 3.11 or newer; this is " + sys.version.split()[0])
    program = PROGRAMS.get("".join(sys.argv[1:2])) or sys.exit(__doc__)
    set_up(["test", "browser", "sim"] if sys.argv[1] == "test" else [])
    os.chdir(ROOT)
    if sys.argv[1] != "test":
        check_data()
    program = [str(PY), "-m", *program, *sys.argv[2:]]
    if os.name == "posix":
        os.execv(program[0], program)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C is for the program
    sys.exit(sp.call(program))
