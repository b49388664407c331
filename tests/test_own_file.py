"""The panel for a file of one's own: what it lists, proposes, checks, loads, and says when it
cannot.
"""

import numpy as np
import psutil
import pytest

import jetnb
from jetnb import widgets
from jetnb.readers import aspen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    aspen.write(root / "mine.h5", jetnb.load("aoj", n_jets=400))
    (root / "broken.h5").write_bytes(b"nothing")
    (root / "notes.txt").write_text("no jets")
    (root / "below").mkdir()
    return root


def test_a_file_is_chosen_checked_and_loaded_at_random(folder):
    panel = widgets.own_file(folder)
    assert list(panel.controls["file"].options) == ["broken.h5", "mine.h5", "below/", "../"]
    assert panel.jets is None
    panel.controls["check"].click()
    assert "Choose a file first" in panel.report.value
    panel.controls["file"].value = "mine.h5"
    assert panel.controls["n_jets"].value == 400 and "400 rows" in panel.report.value
    panel.controls["check"].click()
    assert "400 jets; can be used" in panel.report.value
    panel.controls["n_jets"].value = 50
    panel.controls["load"].click()
    expected = jetnb.load(folder / "mine.h5", n_jets=50, seed=1)
    np.testing.assert_array_equal(panel.jets.pt, expected.pt)
    assert "drawn at random" in panel.report.value


def test_a_path_may_be_given(folder):
    panel = widgets.own_file(folder / "mine.h5")
    assert len(panel.load()) == 400 and panel.path == folder / "mine.h5"


def test_the_number_of_jets_follows_the_memory(folder, monkeypatch):
    class Memory:
        available = 2_000_000

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)
    few, n_rows = widgets.propose(folder / "mine.h5")
    assert n_rows == 400 and 50 < few < 400
    Memory.available = 4_000_000
    assert widgets.propose(folder / "mine.h5")[0] == pytest.approx(2 * few, abs=2)


def test_what_cannot_be_read_is_said_and_folders_are_opened(folder):
    panel = widgets.own_file(folder)
    panel.controls["file"].value = "broken.h5"
    assert "broken.h5 cannot be read" in panel.report.value
    panel.controls["load"].click()
    assert panel.jets is None and "broken.h5" in panel.report.value
    panel.controls["file"].value = "below/"
    assert (
        panel.controls["folder"].value.endswith("below") and "No file of jets" in panel.report.value
    )
    panel.controls["folder"].value = str(folder / "nowhere")
    assert "There is no folder" in panel.report.value
    panel.controls["folder"].value = str(folder)
    panel.controls["file"].value = "mine.h5"
    panel.controls["n_jets"].value = 500
    panel.controls["load"].click()
    assert panel.jets is None and "400" in panel.report.value
