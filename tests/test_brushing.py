"""Brushing one distribution selects the same jets everywhere, from code, mouse and slider."""

import io
import itertools

import awkward as ak
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from jetnb import widgets


@pytest.fixture(scope="module")
def jets(toy_jets):
    return toy_jets(200, 5)


@pytest.fixture(scope="module")
def panel(jets):
    return widgets.brush(jets, features=("pt", "mass", "n_constituents"))


DRAGS = itertools.count(1)


def drag(panel, name, x0, x1, y0=0.0, y1=1.0):
    """What the browser sends after a drag over the distribution called name, or over the map."""
    number = ["pt", "mass", "n_constituents", "map"].index(name)
    panel.image.set_state({"dragged": [number, x0, y0, x1, y1, next(DRAGS)]})


def test_ranges_select_and_are_all_to_be_met(jets, panel):
    pt, mass = np.asarray(jets.pt), np.asarray(jets.mass)
    middle = np.quantile(pt, [0.3, 0.7])
    panel.select(pt=tuple(middle))
    np.testing.assert_array_equal(panel.mask, (pt >= middle[0]) & (pt < middle[1]))
    assert (
        0 < panel.mask.sum() < 200
        and f"{panel.mask.sum()} of 200 jets have pt" in panel.status.value
    )
    panel.select(pt=tuple(middle), mass=(np.median(mass), 1e9))
    np.testing.assert_array_equal(
        panel.mask, (pt >= middle[0]) & (pt < middle[1]) & (mass >= np.median(mass))
    )
    panel.select(pt=(1e6, 2e6))
    assert not panel.mask.any() and "none is in all windows" in panel.status.value
    panel.select()
    assert panel.mask.all()


def test_a_drag_is_in_the_units_of_its_axis(jets, panel):
    panel.select()
    first = panel.image.value
    drag(panel, "pt", 0.0, 0.5)  # of a logarithmic axis that holds all jets
    low, high = 0.95 * np.min(jets.pt), 1.02 * np.max(jets.pt)
    assert panel.ranges["pt"] == pytest.approx((low, np.sqrt(low * high)), rel=0.01)
    assert panel.controls["feature"].value == "pt"
    assert panel.controls["range"].value == pytest.approx(panel.ranges["pt"], rel=0.01)
    second = panel.image.value
    drag(panel, "map", 0.5, 1.0, 0.0, 0.5)
    assert panel.ranges["eta"] == pytest.approx((0, 3.2), abs=0.02)
    assert panel.ranges["phi"] == pytest.approx((-np.pi, 0), abs=0.02)
    eta, phi = np.asarray(jets.eta), np.asarray(jets.phi)
    low, high = panel.ranges["pt"]
    expected = (
        (jets.pt >= low)
        & (jets.pt < high)
        & (eta >= panel.ranges["eta"][0])
        & (phi < panel.ranges["phi"][1])
    )
    np.testing.assert_array_equal(panel.mask, expected)
    assert len({first, second, panel.image.value}) == 3
    drag(panel, "pt", 0, 0)  # a click lets go
    assert set(panel.ranges) == {"eta", "phi"}
    panel.image.set_state({"dragged": [-1, 0, 0, 0, 0, 99]})
    assert panel.ranges == {} and panel.image.value == first


def test_the_slider_does_what_a_drag_does(panel):
    panel.select()
    panel.controls["feature"].value = "mass"
    assert panel.ranges == {}
    panel.controls["range"].value = (30, 90)
    assert panel.ranges == {"mass": (30, 90)}
    panel.controls["range"].value = (panel.controls["range"].min, panel.controls["range"].max)
    assert panel.ranges == {}


def test_distributions_are_those_of_the_selection(jets):
    _, ax = plt.subplots(figsize=(10.3, 5.9))
    chosen = np.asarray(jets.n_constituents) >= 5
    widgets.draw_brush(
        ax, jets, ranges={"n_constituents": (5, 1e3)}, features=("mass", "n_constituents")
    )
    mass = ax.child_axes[0].patches[1].get_data()
    expected = np.histogram(np.asarray(jets.mass)[chosen], mass.edges)[0] / chosen.sum()
    np.testing.assert_allclose(mass.values, expected, atol=1e-9)
    plt.close("all")


def test_the_event_display_holds_all_jets_of_the_event(jets):
    """The hardest jet that is selected, and those that share its event number."""
    jets = ak.with_field(jets, np.arange(len(jets)) // 4, "event")
    selected = np.asarray(jets.mass) > np.median(jets.mass)
    hardest = int(np.flatnonzero(selected)[np.asarray(jets.pt)[selected].argmax()])
    _, ax = plt.subplots(figsize=(10.3, 5.9))
    widgets.draw_brush(
        ax,
        jets,
        ranges={"mass": (float(np.median(jets.mass)) * (1 + 1e-9), 1e9)},
        features=("mass",),
    )
    display = ax.child_axes[-1]
    drawn = {round(float(circle.center[0]), 4) for circle in display.patches}
    assert drawn == {round(float(jets.eta[i]), 4) for i in range(200) if i // 4 == hardest // 4}
    plt.close("all")


def test_what_is_not_there_is_said(jets, panel):
    with pytest.raises(ValueError, match="no distribution of 'colour': choose pt, mass"):
        panel.select(colour=(0, 1))
    with pytest.raises(ValueError, match="give both"):
        panel.select(eta=(0, 1))
    with pytest.raises(ValueError, match="generated_pt"):
        widgets.brush(jets, features=("generated_pt",))
    assert Image.open(io.BytesIO(panel.image.value)).size == (1030, 590)


def test_nothing_is_left_behind(jets):
    settings = dict(plt.rcParams)
    widgets.brush(jets, features=("pt",))
    assert plt.get_fignums() == [] and dict(plt.rcParams) == settings


@pytest.mark.parametrize("features", [("pt", "eta"), ("phi",), tuple("abcdefg")])
def test_what_is_the_map_is_no_histogram(jets, features):
    with pytest.raises(ValueError, match="six at most, and not eta and phi"):
        widgets.brush(jets, features=features)


def test_the_slider_gets_limits_and_value_in_one_message(jets, monkeypatch):
    panel = widgets.brush(jets, features=("pt", "mass"))
    slider, sent = panel.controls["range"], []
    monkeypatch.setattr(slider, "_send", lambda message, buffers=None: sent.append(message))
    panel.controls["feature"].value = "mass"
    assert len(sent) == 1, sent
    assert {"min", "max", "value"} <= sent[0]["state"].keys(), sent
