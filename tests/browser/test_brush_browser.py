"""Brushing and zooming in a real browser: drag with the mouse, see the picture follow and the words
agree.

Skipped, with the reason, where Chromium or playwright is not there; JETNB_BROWSER=require makes
that a failure.
"""

import importlib.util
import json
import os
import re
import time

import lab_driver
import nbformat
import numpy as np
import pytest

import jetnb
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

BRUSH = """
import json
import jetnb
from jetnb import widgets
jets = jetnb.load("aoj")
panel = widgets.brush(jets)
json.dump(panel.image.frames, open("frames.json", "w"))
panel
"""
ZOOM = """
panel = widgets.explore(jets)
panel
"""
WINDOW = """
print("window", panel.controls["eta_range"].value, panel.controls["phi_range"].value)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    for name, sources in (
        ("brush", [BRUSH]),
        ("zoom", ["from jetnb import widgets", BRUSH.rpartition("panel =")[0], ZOOM, WINDOW]),
    ):
        cells = [nbformat.v4.new_code_cell(source.strip()) for source in sources]
        nbformat.write(
            nbformat.v4.new_notebook(
                cells=cells,
                metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
            ),
            root / f"{name}.ipynb",
        )
    with lab_driver.jupyterlab(root, scratch=tmp_path_factory.mktemp("server")) as server:
        yield server


def drag(browser, box, x0, y0, x1, y1, *, look=None):
    """Drag over a frame of the picture, in shares of the frame from its top left."""
    picture = browser.page.locator("img.jetnb-picture")
    picture.scroll_into_view_if_needed()
    area, (left, top, right, bottom) = picture.bounding_box(), box

    def at(x, y):
        return (
            area["x"] + area["width"] * (left + x * (right - left)),
            area["y"] + area["height"] * (top + y * (bottom - top)),
        )

    browser.page.mouse.move(*at(x0, y0))
    browser.page.mouse.down()
    browser.page.mouse.move(*at(x1, y1), steps=8)
    if look:
        look()
    browser.page.mouse.up()


def status(browser, pattern, *, timeout=30):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        text = browser.page.locator(".jetnb-status").first.inner_text()
        if found := re.search(pattern, text):
            return found
        time.sleep(0.05)
    raise AssertionError(f"the status line says {text!r}, not {pattern!r}")


def test_brushing_follows_the_mouse(lab, tmp_path):
    jets = jetnb.load("aoj")
    with lab_driver.reader(lab, "brush.ipynb", profile=tmp_path) as browser:
        assert lab_driver.failed_cells(browser.run_all()) == []
        frames = {"mass": 1, "map": 6}
        boxes = json.loads((lab.root / "frames.json").read_text())
        first = browser.picture()
        half_way = []

        def look():  # the picture follows before the button is let go
            half_way.append(browser.becomes_another(first))
            status(browser, "jets have mass")

        pattern, high = r"([\d,]+) of 20,000 jets have mass ([\d.]+) to ([\d.]+)", 0
        drag(browser, boxes[frames["mass"]]["box"], 0.4, 0.5, 0.8, 0.6, look=look)
        assert half_way == [True]
        end = time.monotonic() + 30  # the last of the moves is drawn when those before it are
        while high < 238 and time.monotonic() < end:
            time.sleep(0.1)
            found = status(browser, pattern)
            low, high = map(float, found.groups()[1:])
        time.sleep(1)  # and stays
        found = status(browser, pattern)
        low, high = map(float, found.groups()[1:])
        assert (low, high) == pytest.approx((120, 240), abs=2)
        n = int(found.group(1).replace(",", ""))
        mass = np.asarray(jets.mass)
        assert n == pytest.approx(
            ((mass >= low) & (mass < high)).sum(), rel=0.05
        )  # the words round the window
        before = browser.picture()
        drag(browser, boxes[frames["map"]]["box"], 0.5, 0.1, 0.9, 0.5)
        status(browser, r"jets have mass .*, eta .* to .*, phi ")
        assert browser.becomes_another(before)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.page.screenshot(path=SCREENSHOTS / "01_brush.png")
        browser.page.get_by_role("button", name="clear").click()
        status(browser, "All jets are shown")
        browser.press("ArrowRight", slider=0, times=4)  # the keyboard does it as well
        status(browser, "jets have mass")
        assert browser.outside == []


def test_dragging_on_the_map_zooms_and_a_slider_is_followed(lab, tmp_path):
    box = [0.09, 0.1, 0.85, 0.88]  # as in the layout of the explorer
    with lab_driver.reader(lab, "zoom.ipynb", profile=tmp_path) as browser:
        assert lab_driver.failed_cells(browser.run_all()) == []
        assert browser.changes(lambda: drag(browser, box, 0.25, 0.5, 0.5, 0.75))
        readout = browser.page.locator(".widget-slider", has_text="detector eta").locator(
            ".widget-readout"
        )
        text = readout.inner_text().replace("\u2212", "-").replace("\u2013", " ")
        low, high = map(float, re.findall(r"-?\d+\.\d+", text))
        assert (low, high) == pytest.approx((-1.7, 0.0), abs=0.1)
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        browser.page.screenshot(path=SCREENSHOTS / "02_zoomed.png")
        before = browser.picture()
        browser.page.locator("img.jetnb-picture").dblclick()
        assert browser.becomes_another(before)
        handle = (
            browser.page.locator(".widget-slider", has_text="detector eta")
            .locator(".noUi-handle")
            .first
        )
        place = handle.bounding_box()
        browser.page.mouse.move(place["x"] + 5, place["y"] + 5)
        browser.page.mouse.down()
        before = browser.picture()
        place = handle.bounding_box()
        browser.page.mouse.move(place["x"] + 50, place["y"] + 5, steps=10)
        assert browser.becomes_another(before)  # while the button is still down
        browser.page.mouse.up()
        browser.settle()
        browser.page.get_by_role("button", name="save PNG").click()
        browser.page.get_by_text(re.compile("Saved as .*png")).first.wait_for()
        assert browser.outside == []
