"""The panels redraw when a knob turns, and say in the picture what went wrong."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from jetnb import explore, widgets


@pytest.fixture(scope="module")
def jets(toy_jets):
    return toy_jets(100, 7)


CHANGES = {
    "view": widgets.VIEWS[1], "particle": "photon", "pt_range": (1.0, 50.0), "bin_width": explore.CRYSTAL,
    "eta_range": (-1.0, 1.0), "log": False, "phi_range": (-1.0, 1.0)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_control_changes_the_picture(jets, name):
    panel = widgets.explore(jets)
    before = panel.image.value
    panel.controls[name].value = CHANGES[name]
    assert panel.image.value != before
    assert Image.open(io.BytesIO(panel.image.value)).format == "PNG"


@pytest.mark.parametrize("view", widgets.VIEWS)
def test_every_view_has_a_picture_of_the_same_size(jets, view):
    panel = widgets.explore(jets)
    size = Image.open(io.BytesIO(panel.image.value)).size
    panel.controls["view"].value = view
    assert Image.open(io.BytesIO(panel.image.value)).size == size
    assert panel.controls["jet"].disabled == (view != "one jet")


def test_jets_can_be_leafed_through(jets):
    panel = widgets.explore(jets)
    panel.controls["view"].value = "one jet"
    pictures = {panel.image.value}
    for jet in (1, 99):
        panel.controls["jet"].value = jet
        pictures.add(panel.image.value)
    assert len(pictures) == 3
    browser = widgets.browse(jets)
    before = browser.image.value
    browser.controls["jet"].value = 5
    assert browser.image.value != before


def test_an_empty_window_is_said_in_the_picture(jets, monkeypatch):
    said = []
    monkeypatch.setattr(widgets, "message", lambda ax, text: said.append(text))
    panel = widgets.explore(jets)
    for name, value in (("particle", "forward_hadronic"), ("view", "average jet image"), ("view", "one jet"),
                        ("eta_range", (1.0, 1.0))):
        panel.controls[name].value = value
    panel.controls["view"].value = "detector map"
    panel.controls["particle"].value = ""
    assert len(said) == 6 and "No constituent" in said[0] and "low < high" in said[-1]


def test_other_errors_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        widgets.to_png(lambda ax: 1 / 0)


def test_drawing_leaves_no_figure_and_no_settings_behind(jets):
    settings = dict(plt.rcParams)
    widgets.explore(jets)
    assert plt.get_fignums() == [] and dict(plt.rcParams) == settings


def test_the_static_companion_draws_the_same(jets):
    settings = {"particle": "photon", "bin_width": explore.TOWER, "log": False}
    _, ax = plt.subplots()
    widgets.draw(ax, jets, **settings)
    shown = ax.images[0].get_array().filled(0)
    np.testing.assert_array_equal(shown, explore.eta_phi_histogram(jets.constituents, particle="photon").values().T)
    with pytest.raises(ValueError, match="detector map, map about"):
        widgets.draw(ax, jets, view="everything")
    plt.close("all")


def test_controls_wait_for_release_and_show_their_names(jets):
    for control in widgets.explore(jets).controls.values():
        assert getattr(control, "continuous_update", False) is False
        assert control.style.description_width == "130px" and len(control.description) <= 18
