"""The latent explorer and the training monitor in a real browser: lasso, hover, keyboard, and a
Stop that stops.

Skipped, with the reason, where Chromium or playwright is not there; JETNB_BROWSER=require makes
that a failure.
"""

import importlib.util
import os
import re
import time

import lab_driver
import matplotlib.path
import nbformat
import numpy as np
import pytest

from jetnb.book import runner

SCREENSHOTS = runner.ROOT / "data" / "derived" / "screenshots"
MISSING = (
    "Chromium (apt install chromium, or name it in JETNB_CHROMIUM)"
    if not lab_driver.CHROMIUM
    else "playwright (pip install 'jetnb[browser]')"
    if not importlib.util.find_spec("playwright")
    else ""
)

if MISSING and os.environ.get("JETNB_BROWSER") == "require":
    raise RuntimeError(f"JETNB_BROWSER=require, but there is no {MISSING}")
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"there is no {MISSING}")

EXPLORER = """
import numpy as np
import jetnb
from jetnb import widgets
jets = jetnb.load("toptagging")[:4000]
xy = np.random.default_rng(1).normal(size=(len(jets), 2)) + 4 * np.asarray(jets.label)[:, None] * [1, 0]
np.save("xy.npy", xy.astype("f4"))
explorer = widgets.latent_explorer(xy, jets, method="UMAP")
explorer
"""
TRAINING = """
import time
from IPython.display import display
from jetnb import widgets
plot = widgets.loss_plot()
display(plot.panel)
start = time.monotonic()
for step in range(1, 301):
    time.sleep(0.1)
    if plot({"step": step, "loss": 5 / step, "lr": 1e-3, "jets_per_second": 1000.0}):
        break
plot.close()
print(f"ended after {step} steps, {time.monotonic() - start:.1f} seconds")
"""


def write_notebook(path, *sources):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source.strip()) for source in sources],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    write_notebook(
        root / "explorer.ipynb",
        EXPLORER,
        "explorer.select(np.flatnonzero(xy[:, 0] > 100))\nprint('ready')",
    )
    write_notebook(root / "training.ipynb", TRAINING, "print('second')", "print('third')")
    with lab_driver.jupyterlab(root, scratch=tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="module")
def lab_without_subshells(tmp_path_factory):
    """JupyterLab as it was before version 4.4: what widgets send waits behind the cell that runs."""
    root, scratch = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("server")
    write_notebook(root / "training.ipynb", TRAINING, "print('second')", "print('third')")
    with lab_driver.jupyterlab(
        root, scratch=scratch, kernels={"commsOverSubshells": "disabled"}
    ) as server:
        yield server


def shot(browser, name):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.page.screenshot(path=SCREENSHOTS / f"{name}.png")


def wait_for_status(browser, pattern, *, timeout=30):
    """The status line once it matches."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        text = browser.page.locator(".jetnb-status").first.inner_text()
        if found := re.search(pattern, text):
            return found
        time.sleep(0.1)
    raise AssertionError(f"the status line says {text!r}, not {pattern!r}")


def pixels(xy, width=560, height=440):
    """Where the map draws points: edges as in scatter.js, and 2 % of room."""
    share = 0.02 + 0.96 * (xy - xy.min(axis=0)) / np.ptp(xy, axis=0)
    return np.stack(
        [26 + share[:, 0] * (width - 30), height - 24 - share[:, 1] * (height - 46)], axis=1
    )


def test_the_latent_explorer_follows_mouse_and_keyboard(lab, tmp_path):
    with lab_driver.reader(lab, "explorer.ipynb", profile=tmp_path) as browser:
        notebook = browser.run_all()
        assert lab_driver.failed_cells(notebook) == [] and lab_driver.waiting_cells(notebook) == []
        points = pixels(np.load(lab.root / "xy.npy"))
        canvas = browser.page.locator("canvas.jetnb-map")
        canvas.scroll_into_view_if_needed()
        wait_for_status(browser, "Nothing is selected")
        shot(browser, "09_explorer_before")
        box = canvas.bounding_box()
        assert (round(box["width"]), round(box["height"])) == (560, 440)
        corners = np.array([[330, 60], [500, 60], [520, 240], [420, 380], [330, 330]])

        def move(place):
            corner = canvas.bounding_box()
            browser.page.mouse.move(
                corner["x"] + float(place[0]), corner["y"] + float(place[1]), steps=4
            )

        def lasso():
            canvas.scroll_into_view_if_needed()
            move(corners[0])
            browser.page.mouse.down()
            for corner in [*corners[1:], corners[0]]:
                move(corner)
            browser.page.mouse.up()

        before = browser.picture(1)
        began = time.monotonic()
        lasso()
        n_selected = int(
            wait_for_status(browser, r"([\d,]+) of 4,000 jets selected").group(1).replace(",", "")
        )
        print(f"lasso to status {time.monotonic() - began:.2f} s")
        inside = matplotlib.path.Path(corners).contains_points(points).sum()
        assert n_selected == inside > 500
        assert browser.becomes_another(before, 1)
        shot(browser, "09_explorer_lasso")

        before = browser.picture(0)
        move(points[7])
        assert browser.becomes_another(before, 0)

        canvas.focus()
        for key in ["ArrowLeft"] * 8 + ["+"] * 3 + ["Enter"]:
            browser.page.keyboard.press(key)
        middle = np.array([(560 + 26) / 2 - 8 * 12, (440 - 2) / 2])
        expected = (np.hypot(*(points - middle).T) < 24 + 3 * 6).sum()
        assert expected > 20
        wait_for_status(browser, f"^{expected:,} of 4,000 jets selected: QCD")
        shot(browser, "09_explorer_keyboard")
        browser.page.keyboard.press("Escape")
        wait_for_status(browser, "Nothing is selected")

        browser.page.locator("button.jetnb-class").first.click()  # hides QCD
        before = browser.picture(1)
        lasso()
        wait_for_status(browser, r"jets selected: TTBar [\d,]+ \(100%\)")
        browser.choose("colour by", index=2)
        browser.page.locator(".jp-OutputArea-output", has_text="jet m").first.wait_for()
        time.sleep(1)
        shot(browser, "09_explorer_mass")
        assert browser.outside == []


def stop_after_two_seconds(lab, path, profile):
    with lab_driver.reader(lab, path, profile=profile) as browser:
        browser.start_all()
        button = browser.page.locator("button.jupyter-button")
        button.wait_for()
        time.sleep(2)
        first = browser.picture()
        assert browser.becomes_another(first)
        button.click()
        ended = browser.page.get_by_text(re.compile(r"ended after \d+ steps")).last
        ended.wait_for(timeout=60_000)
        shot(browser, f"07_monitor_{profile.name}")
        steps, seconds = re.search(r"(\d+) steps, ([\d.]+) seconds", ended.inner_text()).groups()
        print(steps, seconds)
        assert int(steps) < 150 and float(seconds) < 15
        assert button.is_disabled()
        for number, text in (
            (1, "second"),
            (2, "third"),
        ):  # what was waiting runs, each in its cell
            outputs = (
                browser.page.locator(".jp-CodeCell").nth(number).locator(".jp-OutputArea-output")
            )
            outputs.first.wait_for()
            assert [each.strip() for each in outputs.all_inner_texts()] == [text]
        assert browser.outside == []


def test_the_stop_button_ends_a_training(lab, tmp_path):
    stop_after_two_seconds(lab, "training.ipynb", tmp_path)


def test_the_stop_button_works_without_subshells(lab_without_subshells, tmp_path):
    stop_after_two_seconds(lab_without_subshells, "training.ipynb", tmp_path)
