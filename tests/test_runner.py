"""The runner and the gallery: parameters, results, failures, and pages that load nothing."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import nbformat
import psutil
import pytest

from jetnb import __main__, atomic
from jetnb.book import gallery, runner

FIRST = """# 07 A title with `code`

**Question: how much is $p_T^2 + m_\\mathrm{SD}$?**

See [the next](08_next.ipynb) and [the paper](https://arxiv.org/abs/2412.10504)."""
DISPLAY = "## A figure\n\nA formula $\\tau_{32} = \\tau_3 / \\tau_2$, 5 \\$ and\n\n$$\\epsilon_S = \\frac{N_S}{N}$$"
FIGURE = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
WIDGETS = """import ipywidgets
from tqdm.auto import tqdm
for _ in tqdm(range(2)): pass
ipywidgets.IntSlider()"""


def write(folder, *code, name="07_small.ipynb", tags=()):
    """A small notebook: a first markdown cell, the parameters, then these code cells; with a
    scales.toml.
    """
    cells = [
        nbformat.v4.new_markdown_cell(FIRST),
        nbformat.v4.new_code_cell(
            "n_jets = 10  # paper: 1000\ncut = 0.5  # paper: 0.5", metadata={"tags": ["parameters"]}
        ),
        nbformat.v4.new_markdown_cell(DISPLAY),
        *(nbformat.v4.new_code_cell(source) for source in code),
    ]
    for index, tag in tags:
        cells[index].metadata["tags"] = [tag]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / name)
    (folder / "scales.toml").write_text(
        "[07.ci]\nn_jets = 3\n[07.paper]\nn_jets = 1000\ncutt = 1.0\n"
    )
    return folder / name


def test_scales_replace_the_parameters(tmp_path):
    path = write(tmp_path, "result = {'n': n_jets}")
    assert runner.parameters(runner.at_scale(path)) == {"n_jets": 10, "cut": 0.5}
    cells = runner.at_scale(path, "ci").cells
    assert cells[2].metadata.tags == ["injected-parameters"] and cells[2].source.endswith(
        "n_jets = 3"
    )
    with pytest.raises(
        ValueError, match=r"07_small.ipynb has no parameter 'cutt'.*it has n_jets, cut"
    ):
        runner.at_scale(path, "paper")
    with pytest.raises(ValueError, match="unknown scale 'big'; there are ci, laptop, paper"):
        runner.at_scale(path, "big")
    (tmp_path / "scales.toml").write_text("")
    with pytest.raises(ValueError, match=r"no table \[07.ci\] for 07_small.ipynb"):
        runner.at_scale(path, "ci")


def test_notebooks_are_found_by_number(tmp_path):
    write(tmp_path)
    assert [path.name for path in runner.find(["7"], folder=tmp_path)] == ["07_small.ipynb"]
    with pytest.raises(ValueError, match="no notebook '08'; there are 07"):
        runner.find(["08"], folder=tmp_path)


def test_a_second_part_has_a_letter(tmp_path):
    (tmp_path / "07b_second.ipynb").write_bytes(write(tmp_path).read_bytes())
    (tmp_path / "7_no_number.ipynb").touch()
    names = ["07_small.ipynb", "07b_second.ipynb"]
    assert [path.name for path in runner.find(folder=tmp_path)] == names
    assert [path.name for path in runner.find(["7b", "7"], folder=tmp_path)] == names[::-1]
    (tmp_path / "scales.toml").write_text("[07b.ci]\nn_jets = 9\n")
    assert "n_jets = 9" in runner.at_scale(tmp_path / names[1], "ci").cells[2].source


def test_result_is_read_and_the_file_is_left_alone(tmp_path):
    path = write(
        tmp_path,
        "import numpy as np, os",
        "1 / 0",
        "result = {'n': n_jets, 'x': np.float32(0.5), 'here': os.getcwd()}",
        tags=[(4, "raises-exception")],
    )
    before = path.read_bytes()
    outcome = runner.execute(path, "ci", progress=False)
    assert (outcome.error, outcome.result) == ("", {"n": 3, "x": 0.5, "here": str(tmp_path)})
    assert path.read_bytes() == before
    assert "json" not in outcome.notebook.cells[-1].source and outcome.seconds > 0


@pytest.mark.parametrize(
    "code, error",
    [
        (
            ["pass", "1 / 0", "result = {}"],
            "07_small.ipynb, cell 5: ZeroDivisionError: division by zero",
        ),
        (
            ["import os", "os._exit(1)"],
            "07_small.ipynb, cell 5: the kernel died (often: out of memory)",
        ),
        (["import time", "time.sleep(60)"], "07_small.ipynb, cell 5: took longer than 3 s"),
        (
            ["x = 1"],
            "07_small.ipynb, no `result` after the last cell: NameError: name 'result' is not defined",
        ),
    ],
)
def test_a_failure_names_notebook_cell_and_error(tmp_path, code, error):
    assert runner.execute(write(tmp_path, *code), "ci", timeout=3, progress=False).error == error


class Resources(HTMLParser):
    """Collect what a page would load: everything but the targets of links that a reader clicks."""

    def __init__(self, page):
        super().__init__()
        self.loaded, self.links = [], []
        self.feed(page)
        self.loaded += re.findall(r"url\(\s*['\"]?(?!data:|#)([^)]+)|@import", page)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key == "href" and tag == "a":
                self.links.append(value)
            elif key in ("src", "href", "srcset", "data", "poster") and not (
                value or ""
            ).startswith("data:"):
                self.loaded.append(value)


def test_gallery_reads_offline(tmp_path, capsys):
    out = tmp_path / "gallery"
    write(
        tmp_path,
        FIGURE,
        WIDGETS,
        "n_jets * 2",
        "result = {'top efficiency': 0.123456, 'jets': 12345, 'curve': [1, 2]}",
        tags=[(5, "solution")],
    )
    notebook = nbformat.read(tmp_path / "07_small.ipynb", as_version=4)
    notebook.cells[5].metadata["jupyter"] = {"source_hidden": True}
    nbformat.write(notebook, tmp_path / "07_small.ipynb")
    write(tmp_path, "1 / 0", name="08_next.ipynb")
    assert runner.run(out=out, folder=tmp_path) == 1
    assert "08_next.ipynb, cell 4: ZeroDivisionError" in capsys.readouterr().out

    page, index = (out / "07_small.html").read_text(), (out / "index.html").read_text()
    assert Resources(page).loaded == [] and "<script" not in page
    assert (
        Resources(index).loaded == ["07_small.png"]
        and (out / "07_small.png").read_bytes()[:4] == b"\x89PNG"
    )
    assert (
        page.count("<math") == 4 - 1
        and "\\tau" not in page.replace('alt="', "")
        and "<mfrac>" in page
    )
    assert "5 $" in page and "widget-view" not in page and "IntSlider(value" not in page
    assert "<details><summary>Show the solution" in page and 'alt="Figure: A figure"' in page
    assert {"08_next.html", "https://arxiv.org/abs/2412.10504", "index.html"} <= set(
        Resources(page).links
    )
    assert "0.1235" in index and "12,345" in index and "A title with code" in index
    assert "<p>How much is <math" in index
    assert "ZeroDivisionError: division by zero" in index and "08_next.html" in index
    assert json.loads((out / "07_small.json").read_text())["result"]["curve"] == [1, 2]

    assert runner.run(["7"], out=out, folder=tmp_path) == 0
    assert "08_next.html" in (out / "index.html").read_text()


def test_nothing_that_is_damaged_ends_the_run(tmp_path, capsys):
    out = tmp_path / "gallery"
    write(
        tmp_path,
        "result = {'<i>key</i>': '<script>alert(1)</script>'}",
        name="01_good <&'\"x.ipynb",
    )
    (tmp_path / "02_cut.ipynb").write_bytes(write(tmp_path, name="02_cut.ipynb").read_bytes()[:-40])
    (tmp_path / "03_list.ipynb").write_text("[1, 2]")
    (tmp_path / "04_binary.ipynb").write_bytes(b"\xff\x00" * 99)
    (tmp_path / "05_cells.ipynb").write_text(
        '{"cells": [{"cell_type": 7}], "metadata": {}, "nbformat": 4}'
    )
    (tmp_path / "09_cells.ipynb").write_text(
        '{"cells": [{"metadata": {}, "source": ""}], "metadata": {}, "nbformat": 4}'
    )
    write(tmp_path, "result = [1, 2]", name="06_list.ipynb")
    write(
        tmp_path,
        "from IPython.display import publish_display_data as show\nshow({'image/png': '?'})",
        "result = {}",
        name="07_picture.ipynb",
    )
    write(tmp_path, "n_jets +", name="08_syntax.ipynb", tags=[(3, "parameters"), (1, "none")])
    out.mkdir()
    foreign = {
        "1.json": "[1]",
        "2<b>.json": '{"title": 3}',
        "3.json": "",
        "4.json": "[" * 100_000,
        "5.json": "{}",
    }
    for name, text in foreign.items():
        (out / name).write_text(text)
    (out / "6.json").mkdir()
    assert runner.run(out=out, folder=tmp_path, keep_going=True) == 7
    said = capsys.readouterr().out
    lines = dict(line.split(None, 1) for line in said.splitlines())
    assert lines["01_good"].endswith("ok") and lines["07_picture"].endswith("ok")
    for name in ("02_cut", "03_list", "04_binary", "05_cells", "09_cells"):
        assert f"{name}.ipynb cannot be run: " in lines[name]
    assert (
        "06_list.ipynb, no `result` after the last cell: ValueError: it is of type list"
        in lines["06_list"]
    )
    assert "08_syntax.ipynb, cell 4: SyntaxError" in lines["08_syntax"]

    index = (out / "index.html").read_text()
    assert index.count("<article>") == 9 and all(f"0{i}" in index for i in range(1, 10))
    assert "<script" not in index and "<b>" not in index and "<i>" not in index
    assert "01_good%20%3C%26%27%22x.html" in index and "&lt;script&gt;" in index
    assert (
        index.count("<li>") == len(foreign) + 1
        and "2&lt;b&gt;.json is no record of a notebook" in index
    )
    assert not list(out.glob(".*"))


def test_a_page_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    write(tmp_path, "result = {}")
    monkeypatch.setattr(gallery, "html", lambda *_, **__: 1 / 0)
    assert runner.run(out=tmp_path / "gallery", folder=tmp_path) == 1
    for name in ("07_small.html", "index.html"):
        assert "it makes no page: ZeroDivisionError" in (tmp_path / "gallery" / name).read_text()


RUN = """
import sys
from pathlib import Path
from jetnb import __main__
from jetnb.book import runner
runner.run.__kwdefaults__["folder"] = Path(sys.argv[1])
sys.exit(__main__.main(["run", "--out", sys.argv[1] + "/gallery"]))
"""
LONG = """import os, pathlib, time
from jetnb import parallel
def work(piece):
    pathlib.Path(f"begun{piece}").touch()
    time.sleep(600)
list(parallel.as_done(work, range(2), processes=2, fork=True))"""


@pytest.mark.skipif(os.name == "nt", reason="no signals")
@pytest.mark.parametrize(
    "number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_run_that_is_stopped_keeps_what_was_done_and_leaves_no_process(tmp_path, number, status):
    write(tmp_path, "result = {}", name="01_done.ipynb")
    write(tmp_path, LONG, "result = {}", name="02_long.ipynb")
    (tmp_path / "run.py").write_text(RUN)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("begun*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3, "a kernel and two workers"
    os.killpg(process.pid, number)  # a kernel is in a group of its own
    output, errors = process.communicate(timeout=60)
    assert process.returncode == status
    _, alive = psutil.wait_procs([one for one in family if one.is_running()], timeout=30)
    assert all(one.status() == psutil.STATUS_ZOMBIE for one in alive)
    lines = [line for line in re.split("[\r\n]", errors) if line.strip() and "cell" not in line]
    told = "jetnb: interrupted: the notebooks that were done are in the gallery; --resume goes on"
    assert [line.partition(" from there")[0] for line in lines] == [told] * (
        number == signal.SIGINT
    )
    if number == signal.SIGINT:
        assert "01_done" in output and "not run: 02_long" in output and "gallery: file://" in output
    index = (tmp_path / "gallery" / "index.html").read_text()
    assert "01_done.html" in index and "02_long" not in index


def test_a_failure_ends_the_series_and_resume_goes_on(tmp_path, capsys):
    out = tmp_path / "gallery"
    write(tmp_path, "result = {}", name="01_good.ipynb")
    write(
        tmp_path,
        "import os\nif not os.path.exists('mended'): 1 / 0",
        "result = {}",
        name="02_bad.ipynb",
    )
    write(tmp_path, "result = {}", name="03_last.ipynb")
    assert runner.run(out=out, folder=tmp_path) == 1
    assert "not run: 03_last" in capsys.readouterr().out
    assert not (out / "03_last.html").exists()
    (tmp_path / "mended").touch()
    assert runner.run(out=out, folder=tmp_path, resume=True) == 0
    said = capsys.readouterr().out
    assert "done before: 01_good\n" in said and "03_last.html" in (out / "index.html").read_text()
    done = [runner.is_done(tmp_path / "01_good.ipynb", scale, out) for scale in ("laptop", "ci")]
    assert done == [True, False]
    write(tmp_path, "result = {'changed': 1}", name="01_good.ipynb")
    assert not runner.is_done(tmp_path / "01_good.ipynb", "laptop", out)
    (out / "02_bad.json").write_text("[1]")
    assert not runner.is_done(tmp_path / "02_bad.ipynb", "laptop", out)


BIG = """import os, time
os.system("echo warning of a worker >&2")
block = bytearray(300_000_000)
time.sleep(2)
result = {}"""


def test_memory_is_measured_and_warnings_go_into_the_log(tmp_path, capfd):
    out = tmp_path / "gallery"
    write(tmp_path, "result = {}", name="01_quiet.ipynb")
    write(tmp_path, BIG, name="02_big.ipynb")
    assert runner.run(out=out, folder=tmp_path) == 0
    assert "warning of a worker" not in capfd.readouterr().err
    assert "warning of a worker" in (out / "02_big.log").read_text()
    assert not (out / "01_quiet.log").exists()
    quiet, big = (json.loads((out / f"{name}.json").read_text()) for name in ("01_quiet", "02_big"))
    assert quiet["memory_mb"] + 200 < big["memory_mb"] < quiet["memory_mb"] + 900


def test_the_card_shows_the_tagged_figure_and_the_named_numbers(tmp_path):
    import base64

    out = tmp_path / "gallery"
    path = write(
        tmp_path,
        FIGURE,
        FIGURE.replace("[1, 2]", "[2, 1]"),
        "result = {'loss': 0.1}\nheadline = {'mass of <a> jet [GeV]': (80.4, 80.1, 80.9)}",
        tags=[(4, "headline")],
    )
    assert runner.run(out=out, folder=tmp_path) == 0
    index, facts = (out / "index.html").read_text(), json.loads((out / "07_small.json").read_text())
    assert "<td>mass of &lt;a&gt; jet</td><td>80.40 (80.10 to 80.90) GeV</td>" in index
    assert "loss" not in index and facts["headline"] == {
        "mass of <a> jet [GeV]": [80.4, 80.1, 80.9]
    }
    executed = nbformat.read(out / "07_small.ipynb", as_version=4)
    second = executed.cells[4].outputs[0].data["image/png"]
    assert (out / "07_small.png").read_bytes() == base64.b64decode(second)
    point = "from jetnb import metrics\nresult = {}\nheadline = {'R': metrics.rejection([1, 1, 0], [2, 3, 1])}"
    found = runner.execute(write(tmp_path, point), progress=False)
    assert not found.error and len(found.headline["R"]) == 3 and math.isnan(found.headline["R"][2])
    for wrong in ("3", "{'mass': 80.4}", "{'mass': (80.4, 81, 82)}"):
        write(tmp_path, f"result = {{}}\nheadline = {wrong}")
        assert "headline: " in runner.execute(path, progress=False).error


def test_two_runs_do_not_share_a_gallery(tmp_path):
    write(tmp_path, "result = {}", name="01_one.ipynb")
    with (
        atomic.alone(tmp_path / "gallery", "writing the gallery"),
        pytest.raises(ValueError, match="is writing the gallery .*wait for it"),
    ):
        runner.run(out=tmp_path / "gallery", folder=tmp_path)
    assert not (tmp_path / "gallery").exists()
    assert runner.run(out=tmp_path / "gallery", folder=tmp_path) == 0


@pytest.mark.parametrize(
    "command, kept",
    [
        (["simulate", "aoj", "--jets", "9", "--seed", "1"], ": the parts that were done are kept"),
        (["data", "download", "aoj", "--into", "x"], ": what has come is kept"),
        (["data", "convert", "a.h5", "--out", "x"], ": no store was made"),
        (["data", "check"], ""),
    ],
)
def test_ctrl_c_of_any_command_is_one_line(monkeypatch, capsys, command, kept):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "_simulate", interrupted)
    monkeypatch.setattr(__main__.data, "run", interrupted)
    assert __main__.main(command) == 130
    said = capsys.readouterr()
    assert (
        said.out == ""
        and said.err.count("\n") == 1
        and said.err.startswith(f"jetnb: interrupted{kept}")
    )


def test_an_error_of_a_worker_is_a_sentence_only_if_it_is_ours(monkeypatch, capsys):
    from jetnb import parallel

    def work(piece):
        runner.find(["42"]) if piece else int("no number")

    def simulate(args):
        list(parallel.as_done(work, [args.seed] * 2, processes=2, fork=True))

    monkeypatch.setattr(__main__, "_simulate", simulate)
    assert __main__.main(["simulate", "aoj", "--jets", "9", "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith("jetnb: there is no notebook '42'")
    with pytest.raises(ValueError, match="no number"):
        __main__.main(["simulate", "aoj", "--jets", "9", "--seed", "0"])


def test_formulae():
    for tex in (
        r"p_T",
        r"m_\mathrm{SD}",
        r"\sqrt{s} = 13\,\mathrm{TeV}",
        r"1/\epsilon_B",
        r"X \to HH \to 4b",
        r"\ge 3",
        r"\Delta R < 0.8",
        r"\sum_i p_{T,i}",
        r"\frac{1}{2}",
        r"\langle x \rangle",
        r"\text{KL}(p\,\|\,q)",
        r"\begin{aligned} a &= b \\ c &= d \end{aligned}",
        r"\log\left(\frac{p_T}{E}\right)",
        r"H\to b\bar{b}",
    ):
        assert gallery.tex_to_mathml(tex).startswith("<math"), tex
    for tex in (r"\frac", "a_", r"\left(", r"\left", ""):
        assert gallery.tex_to_mathml(tex) == f"<code>{tex}</code>"


def test_command_line(tmp_path, capsys, monkeypatch):
    write(tmp_path, "1 / 0")
    monkeypatch.setattr(
        runner.run, "__kwdefaults__", {**runner.run.__kwdefaults__, "folder": tmp_path}
    )
    assert __main__.main(["run", "7", "--scale", "ci", "--out", str(tmp_path / "out")]) == 1
    assert __main__.main(["run", "42"]) == 2
    assert capsys.readouterr().err.endswith("jetnb: there is no notebook '42'; there are 07\n")
    with pytest.raises(SystemExit, match="2"):
        __main__.main(["run", "--scale", "huge"])


def test_a_gallery_replaces_nothing_of_others(tmp_path):
    path = write(tmp_path, "result = {}")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="the notebooks themselves"):
        runner.run(scale="ci", out=tmp_path, folder=tmp_path)
    page = tmp_path / "pages" / "index.html"
    page.parent.mkdir()
    page.write_text("<title>my page</title>")
    with pytest.raises(ValueError, match="a page index.html of something else"):
        runner.run(scale="ci", out=page.parent, folder=tmp_path)
    assert path.read_bytes() == before and page.read_text() == "<title>my page</title>"
