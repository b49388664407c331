"""A reader's first hour in a real browser: open a notebook, run it, move a slider, see the picture
change.

Skipped, with the reason, where Chromium or playwright is not there; JETNB_BROWSER=require makes
that a failure.
"""

import importlib.util
import os
import shutil

import lab_driver
import nbformat
import pytest

from jetnb.book import runner

START, DETECTOR, SUBSTRUCTURE = (
    "00_start_here.ipynb",
    "02_detector_in_the_jets.ipynb",
    "03_substructure.ipynb",
)
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


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A server over a copy of the notebooks at ci scale (Lab saves what it shows), beside the same
    data.
    """
    root = tmp_path_factory.mktemp("lab")
    notebooks = root / "notebooks"
    shutil.copytree(runner.NOTEBOOKS, notebooks)
    for path in runner.find(folder=notebooks):
        nbformat.write(runner.at_scale(path, "ci"), path)
    with lab_driver.jupyterlab(root, scratch=tmp_path_factory.mktemp("server")) as server:
        yield server


def check_a_run(browser, name):
    """Run all cells and see that each was executed, that none failed, and that nothing came from
    elsewhere.
    """
    notebook = browser.run_all()
    assert lab_driver.failed_cells(notebook) == []
    assert lab_driver.waiting_cells(notebook) == []
    assert browser.page.locator(".jp-OutputArea-output", has_text="model not found").count() == 0
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.settle()
    browser.page.screenshot(path=SCREENSHOTS / f"{name[:2]}_run.png")


def test_the_first_notebook_runs(lab, tmp_path):
    with lab_driver.reader(lab, f"notebooks/{START}", profile=tmp_path) as browser:
        check_a_run(browser, START)
        assert browser.changes(lambda: browser.press("ArrowRight"))
        assert browser.outside == []


def test_the_explorer_follows_its_slider_and_its_menu(lab, tmp_path):
    with lab_driver.reader(lab, f"notebooks/{DETECTOR}", profile=tmp_path) as browser:
        check_a_run(browser, DETECTOR)
        assert browser.changes(lambda: browser.choose("particle type", index=2))
        assert browser.changes(lambda: browser.press("ArrowRight"))
        browser.settle()
        browser.page.screenshot(path=SCREENSHOTS / "02_after_slider_and_menu.png")
        assert browser.outside == []


def test_a_jet_is_rewound_and_a_cut_moved_by_their_sliders(lab, tmp_path):
    with lab_driver.reader(lab, f"notebooks/{SUBSTRUCTURE}", profile=tmp_path) as browser:
        check_a_run(browser, SUBSTRUCTURE)
        assert browser.changes(
            lambda: browser.press("ArrowRight")
        )  # the splittings of the first panel
        browser.settle()
        browser.page.screenshot(path=SCREENSHOTS / "03_after_rewinding.png")
        before = browser.picture(1)
        browser.press("ArrowRight", slider=3)  # after the three of the first panel
        assert browser.becomes_another(before, 1)
        browser.page.screenshot(path=SCREENSHOTS / "03_after_a_cut.png")
        assert browser.outside == []
