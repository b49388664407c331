"""The panels redraw when a knob turns, and say in the picture what went wrong."""

import io
from pathlib import Path

import awkward as ak
import hist
import matplotlib.pyplot as plt
import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

import jetnb
from jetnb import explore, plots, substructure, widgets


@pytest.fixture(scope="module")
def jets(toy_jets):
    return toy_jets(100, 7)


CHANGES = {
    "view": widgets.VIEWS[1],
    "particle": "photon",
    "pt_range": (1.0, 50.0),
    "bin_width": explore.CRYSTAL,
    "eta_range": (-1.0, 1.0),
    "log": False,
    "phi_range": (-1.0, 1.0),
}


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
    monkeypatch.setattr(widgets.panels, "message", lambda ax, text: said.append(text))
    panel = widgets.explore(jets)
    for name, value in (
        ("particle", "forward_hadronic"),
        ("view", "average jet image"),
        ("view", "one jet"),
        ("eta_range", (1.0, 1.0)),
    ):
        panel.controls[name].value = value
    panel.controls["view"].value = "detector map"
    panel.controls["particle"].value = ""
    assert len(said) == 6 and "no forward hadronic (HF) in these windows, of 100 jets" in said[0]
    assert "The window in eta is empty, from 1 to 1" in said[-1]
    assert panel.image.frames == []


@pytest.mark.parametrize("size", [(8.0, 5.0), (4.0, 2.4), (3.1, 7.7), (1.2, 1.0)])
@pytest.mark.parametrize("width", widgets.BIN_WIDTHS.values())
def test_no_constituent_is_left_out_of_the_picture(jets, size, width):
    axes = []
    window = {"eta_range": (-2.47, 2.31), "phi_range": (-3.0, 2.9)}
    widgets.to_png(
        lambda ax: axes.append(widgets.draw(ax, jets, bin_width=width, **window)), size=size
    )
    box = axes[0].get_window_extent()
    for image in axes[0].images:
        assert image.get_array().shape[1] <= box.width and image.get_array().shape[0] <= box.height
        left, right, bottom, top = image.get_extent()
        eta, phi = (
            np.asarray(ak.flatten(jets.constituents[name]), float) for name in ("eta", "phi")
        )
        inside = (eta >= left) & (eta < right) & (phi >= bottom) & (phi < top)
        assert image.get_array().sum() == inside.sum() > 0
        assert left <= -2.47 < left + 0.2 and right >= 2.31 and top >= 2.9


@pytest.mark.parametrize("size", [(8.0, 5.0), (2.0, 1.5), (5.0, 1.1)])
def test_a_map_finer_than_its_pixels_holds_all_entries(size):
    axis = hist.axis.Regular(1171, -5.2, 5.2, label="x"), hist.axis.Regular(1080, -3, 3, label="y")
    filled = hist.Hist(*axis)
    filled.view()[...] = np.random.default_rng(1).random(filled.shape) < 1e-3
    axes = []
    png = widgets.to_png(lambda ax: axes.append(plots.eta_phi_map(ax, filled)), size=size)
    shown, box = axes[0].images[0], axes[0].get_window_extent()
    cells = shown.get_array()
    assert cells.sum() == filled.sum() and (axes[0].get_xlim(), axes[0].get_ylim()) == (
        (-5.2, 5.2),
        (-3, 3),
    )
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    height = len(pixels)
    pixels = pixels[
        height - int(box.y1) + 3 : height - int(box.y0) - 3, int(box.x0) + 3 : int(box.x1) - 3
    ]
    assert (
        pixels.min(axis=2) < 250
    ).sum() >= 0.95 * cells.count()  # as many coloured pixels as cells with entries


def test_zoom_save_and_limits(jets, tmp_path, monkeypatch):
    monkeypatch.setenv("JETNB_DERIVED", str(tmp_path))
    panel = widgets.explore(jets)
    first, start = panel.image.value, panel.controls["eta_range"].value
    panel.image.set_state({"dragged": [0, 0.25, 0.0, 0.75, 0.5, 1]})
    assert panel.controls["eta_range"].value == pytest.approx((-1.745, 1.745), abs=0.05)
    assert panel.controls["phi_range"].value == pytest.approx((-np.pi, 0), abs=0.01)
    panel.image.set_state({"dragged": [0, 0, 0, 0, 0, 2]})  # a click is no zoom
    assert panel.controls["phi_range"].value[1] == pytest.approx(0, abs=0.01)
    panel.image.set_state({"dragged": [-1, 0, 0, 0, 0, 3]})
    assert panel.controls["eta_range"].value == start and panel.image.value == first
    for _ in range(12):
        panel.buttons["zoom in"].click()
    assert (
        "two crystals" in panel.status.value and np.diff(panel.controls["eta_range"].value) > 0.03
    )
    for _ in range(12):
        panel.buttons["zoom out"].click()
    assert "whole detector" in panel.status.value and panel.controls["eta_range"].value == (
        -5.2,
        5.2,
    )
    panel.buttons["reset"].click()
    assert panel.image.value == first
    for form, magic in (("PNG", b"\x89PNG"), ("PDF", b"%PDF"), ("PNG", b"\x89PNG")):
        panel.buttons[f"save {form}"].click()
        path = panel.status.value.removeprefix("Saved as ")
        assert Path(path).read_bytes()[:4] == magic
    assert path.endswith("detector_map_all_2.png")
    panel.controls["view"].value = "one jet"
    assert panel.status.value == f"Saved as {path}"  # not lost with the next picture
    panel.buttons["zoom in"].click()
    assert "Only the detector map" in panel.status.value


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
    np.testing.assert_array_equal(
        shown, explore.eta_phi_histogram(jets.constituents, particle="photon").values().T
    )
    with pytest.raises(ValueError, match="detector map, map about"):
        widgets.draw(ax, jets, view="everything")
    plt.close("all")


def test_controls_follow_the_hand_and_show_their_names(jets):
    for control in widgets.explore(jets).controls.values():
        assert getattr(control, "continuous_update", True) is True
        assert control.style.description_width == "130px" and len(control.description) <= 18


def test_everything_that_was_public_still_is():
    assert {
        "BIN_WIDTHS",
        "PT_STEPS",
        "VIEWS",
        "browse",
        "draw",
        "draw_jet",
        "draw_losses",
        "draw_selection",
        "explore",
        "latent_explorer",
        "loss_plot",
        "message",
        "panel",
        "to_png",
    } <= set(vars(widgets))


@pytest.fixture(scope="module")
def xy():
    return np.random.default_rng(0).normal(size=(100, 2))


def size_of(png):
    return Image.open(io.BytesIO(png)).size


def test_a_selection_changes_the_picture_and_the_words(jets, xy):
    explorer = widgets.latent_explorer(xy, jets, method="UMAP")
    pictures = [explorer.image.value]
    assert "Nothing is selected" in explorer.scatter.status
    for chosen, wanted in (
        ([3, 1, 4], [1, 3, 4]),
        (np.asarray(jets.label) == 1, np.arange(1, 100, 2)),
        (np.arange(100), np.arange(100)),
    ):
        explorer.select(chosen)
        pictures.append(explorer.image.value)
        np.testing.assert_array_equal(explorer.scatter.indices, wanted)
    assert len(set(pictures)) == 4 and len({size_of(one) for one in pictures}) == 1
    assert explorer.scatter.status == "100 of 100 jets selected: QCD 50 (50%), TTBar 50 (50%)"
    explorer.select([])
    assert explorer.image.value == pictures[0] and "Nothing is selected" in explorer.scatter.status


def test_the_browser_may_send_a_memoryview(jets, xy):
    explorer = widgets.latent_explorer(xy, jets)
    state = {"selection": memoryview(np.array([5, 6], "<i4").tobytes())}
    explorer.scatter.set_state(state)
    np.testing.assert_array_equal(explorer.scatter.indices, [5, 6])
    assert explorer.scatter.status.startswith("2 of 100 jets")


def test_a_jet_that_is_pointed_at_is_drawn(jets, xy):
    explorer = widgets.latent_explorer(xy, jets)
    pictures = {explorer.hover_image.value}
    for jet in (7, 99):
        explorer.scatter.hover = jet
        pictures.add(explorer.hover_image.value)
    explorer.scatter.hover = -1  # away from all
    assert len(pictures) == 3 and explorer.hover_image.value in pictures


def test_the_map_can_be_coloured_by_every_quantity(jets, xy):
    score = np.linspace(0, 1, 100)
    explorer = widgets.latent_explorer(xy, jets, table={"score": score, "tau21": score})
    menu, scatter = explorer.controls["colour"], explorer.scatter
    assert [value for _, value in menu.options] == [
        "class",
        "pt",
        "mass",
        "tau21",
        "tau32",
        "n_constituents",
        "score",
    ]
    np.testing.assert_array_equal(np.frombuffer(scatter.colours, "u1"), jets.label)
    assert scatter.palette == scatter.class_colours and scatter.bar == {}
    menu.value = "tau21"  # that of the table, not of the jets
    place = np.frombuffer(scatter.colours, "u1").astype(int)
    assert (np.diff(place) >= 0).all() and (place[0], place[-1], len(scatter.palette)) == (
        0,
        63,
        64,
    )
    assert (
        "21" in scatter.bar["label"]
        and scatter.bar["low"] == "&lt; 0.01"
        and scatter.bar["high"] == "&gt; 0.99"
    )
    menu.value = "class"
    assert scatter.bar == {}


def test_names_are_safe_to_show(jets, xy):
    explorer = widgets.latent_explorer(xy, jets, table={"a<b>": xy[:, 0]})
    explorer.controls["colour"].value = "a<b>"
    assert explorer.scatter.bar["label"] == "a&lt;b&gt;"
    assert explorer.scatter.names == ["QCD", "TTBar"] and all(
        "<math" in label for label in explorer.scatter.labels
    )
    assert explorer.scatter.source == "toy (simulation)"


def test_the_static_companion_shows_the_selection_and_the_rest(jets):
    chosen, table = np.arange(0, 100, 3), {"mass": np.where(np.arange(100) % 3, 40.0, 200.0)}
    _, ax = plt.subplots(figsize=widgets.latents.SIZE)
    assert widgets.draw_selection(ax, jets, chosen, table=table) is ax
    assert ax.get_title(loc="left") == "toy (simulation)"
    first, second, _, *features, _ = ax.child_axes
    assert (first.get_title(), second.get_title()) == ("selection: 34 jets", "the rest: 66 jets")
    images = np.asarray(substructure.images(jets, 32))
    for one, part in ((first, images[chosen]), (second, np.delete(images, chosen, axis=0))):
        mean, shown = part.mean(axis=0).T, one.images[0].get_array()
        np.testing.assert_allclose(shown[mean > shown.min()], mean[mean > shown.min()], rtol=1e-4)
    mass = next(one for one in features if one.get_xlabel() == r"jet $m$ [GeV]")
    selection, rest = (patch.get_data() for patch in mass.patches if not patch.get_fill())
    assert selection.edges[selection.values.argmax()] == 200 and selection.values.max() == 1
    assert rest.edges[rest.values.argmax()] == 40 and rest.values.max() == 1
    plt.close("all")


@pytest.mark.parametrize("indices", [[100], [-1], [0.5], ["a"]])
def test_a_selection_must_be_of_these_jets(jets, indices):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="from 0 to 99"):
        widgets.draw_selection(ax, jets, indices)
    plt.close("all")


def test_points_must_fit_the_jets(jets, xy):
    with pytest.raises(ValueError, match=r"xy has shape \(99, 2\), but must be \(100, 2\)"):
        widgets.latent_explorer(xy[1:], jets)
    with pytest.raises(ValueError, match="score has shape .3,., but there are 100 jets"):
        widgets.latent_explorer(xy, jets, table={"score": np.ones(3)})


RECORDS = [
    {
        "step": i,
        "epoch": i // 50,
        "loss": 10 * 0.97**i + 0.1,
        "lr": 1e-3 * i,
        "gradient_norm": 1.0,
        "jets_per_second": 2e3,
        **({"validation_loss": 10 * 0.97**i} if i % 50 == 0 else {}),
    }
    for i in range(200)
]


def test_losses_are_drawn_with_all_that_is_known():
    _, ax = plt.subplots()
    widgets.draw_losses(ax, RECORDS)
    main, *small = ax.child_axes
    loss, mean, validation = main.lines
    np.testing.assert_allclose(
        loss.get_data(), [[r["step"] for r in RECORDS], [r["loss"] for r in RECORDS]]
    )
    x, y = mean.get_data()
    np.testing.assert_allclose(y[0], np.mean([r["loss"] for r in RECORDS[:5]]))
    assert x[0] == pytest.approx(2) and list(validation.get_xdata()) == [0, 50, 100, 150]
    assert main.get_yscale() == "log" and main.get_ylabel() == "loss (log scale)"
    assert [one.get_title(loc="left") for one in small] == [
        "learning rate",
        "gradient norm",
        "jets / s",
    ]
    plt.close("all")


@pytest.mark.parametrize("n", [40, 30_000])
def test_losses_are_drawn_at_the_steps_of_their_records(n):
    """As `training.fit` makes them: a record every 10 steps, some with a validation."""
    records = [
        {
            "step": 10 * i,
            "loss": 1.0,
            "lr": 1e-3,
            **({"validation_loss": 2.0} if i % (n // 4) == 0 else {}),
        }
        for i in range(1, n + 1)
    ]
    _, ax = plt.subplots()
    widgets.draw_losses(ax, records)
    main, small = ax.child_axes
    assert small.lines[0].get_xdata()[[0, 1]].tolist() == [10, 20 if n == 40 else 160]
    assert main.lines[-1].get_xdata().tolist() == [10 * n // 4 * i for i in (1, 2, 3, 4)]
    middle = small.lines[0].get_xdata() - 4.5  # of 10 steps
    np.testing.assert_array_equal(main.lines[0].get_xdata(), middle)
    plt.close("all")


@pytest.mark.parametrize("n_epochs", [4, 40])
def test_training_and_validation_lie_where_they_were_taken(n_epochs):
    """The loss of step s is 100 - s, and so is the validation after it: all lie on this line."""
    ends = [10, 20, 26]  # of records in an epoch of 26 steps
    steps = [
        {"step": 26 * e + end, "loss": 100 - 26 * e - (start + 1 + end) / 2, "lr": 1e-3}
        for e in range(n_epochs)
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    epochs = [
        {"step": 26 * e, "loss": 100 - 26 * e + 12.5, "validation_loss": 100.0 - 26 * e}
        for e in range(1, n_epochs + 1)
    ]
    ended = {epoch["step"]: epoch for epoch in epochs}
    seen = [{**ended.get(step["step"], {}), **step} for step in steps]
    for records in (steps + epochs, epochs + steps, seen, epochs):
        _, ax = plt.subplots()
        widgets.draw_losses(ax, records)
        *training, validation = ax.child_axes[0].lines
        assert validation.get_xdata().tolist() == [epoch["step"] for epoch in epochs]
        assert len(training[0].get_xdata()) == (n_epochs if records is epochs else len(steps))
        assert len(training) == (2 if len(training[0].get_xdata()) > 50 else 1)
        for line in (*training, validation):
            np.testing.assert_allclose(line.get_ydata(), 100 - line.get_xdata())
        plt.close("all")


@pytest.mark.parametrize(
    "losses", [[3.0, 2.9], [-1.0, 5.0], [float("nan"), 1.0], [float("nan")] * 3]
)
def test_the_axis_of_losses_is_linear_where_a_logarithm_makes_no_sense(losses):
    _, ax = plt.subplots()
    widgets.draw_losses(ax, [{"loss": loss} for loss in losses])
    (main,) = ax.child_axes
    assert main.get_yscale() == "linear" and list(main.lines[0].get_xdata()) == list(
        range(len(losses))
    )
    plt.close("all")


def test_the_loss_plot_follows_and_stops():
    plot = widgets.loss_plot()
    pictures = {plot.image.value}
    assert plot(RECORDS[0]) is False
    pictures.add(plot.image.value)
    assert not any(plot(record) for record in RECORDS[1:100])
    assert plot.image.value in pictures  # not half a second later
    plot.button.click()
    assert plot(RECORDS[100]) is True and plot.button.disabled
    pictures.add(plot.image.value)
    assert len(pictures) == 3 and plot.records == RECORDS[:101]
    assert "step 100" in plot.status.value and "stopped" in plot.status.value


def test_a_loss_plot_is_drawn_at_most_every_half_second(monkeypatch):
    now, drawn = [0.0], []
    monkeypatch.setattr(widgets.monitor.time, "monotonic", lambda: now[0])
    plot = widgets.loss_plot()
    monkeypatch.setattr(plot, "_picture", lambda: drawn.append(now[0]) or b"")
    for record in RECORDS:
        now[0] += 0.1
        plot(record)
    assert min(np.diff(drawn)) > 0.49 and 30 < len(drawn) < 41  # in 20 s
    plot.close()
    assert drawn[-1] == now[0] and plot.button.disabled


HEADLESS = """
from jetnb import widgets
plot = widgets.loss_plot()
for step in range(200):
    assert plot({"step": step, "loss": 1 / (1 + step), "lr": 1e-3}) is False
plot.close()
plot.panel
"""


def test_a_notebook_without_a_browser_does_not_stall(tmp_path):
    cells = [
        nbformat.v4.new_code_cell(source) for source in [HEADLESS, HEADLESS] + ["print('after')"]
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert notebook.cells[-1].outputs[0].text == "after\n"


def _spectrum(n=6000):
    rng = np.random.default_rng(3)
    mass = np.concatenate([60 + rng.exponential(60, n), rng.normal(172, 8, 150)])
    return {"softdrop_mass": mass, "tau32": rng.uniform(0.2, 1, len(mass))}, np.arange(
        len(mass)
    ) >= n


def test_cuts_say_signal_background_closure_and_pull(jets):
    table, truth = _spectrum()
    _, ax = plt.subplots()
    found = widgets.draw_cuts(
        ax, table, truth, jets, tau32_below=0.6, window=(150.0, 200.0), degree=1
    )
    kept = (table["tau32"] < 0.6) & (table["softdrop_mass"] >= 150) & (table["softdrop_mass"] < 200)
    text = ax.texts[0].get_text()
    assert found.seen == kept.sum() and f"in the window: {found.seen}\n" in text
    assert (
        f"tops: {(kept & truth).sum()} of 150" in text
        and f"background: {(kept & ~truth).sum()} ±" in text
    )
    assert f"closure: {found.expected / (kept & ~truth).sum():.3f}" in text and found.pull > 3
    assert len(ax.child_axes) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("tau32_below", 0.7), ("window", (120.0, 180.0)), ("degree", 1)]
)
def test_every_slider_of_the_cuts_changes_the_picture(jets, name, value):
    panel = widgets.cuts(*_spectrum(), jets)
    before = panel.image.value
    panel.controls[name].value = value
    assert panel.image.value != before


def test_cuts_that_leave_too_little_say_so_in_the_picture(jets, monkeypatch):
    said = []
    monkeypatch.setattr(widgets.panels, "message", lambda ax, text: said.append(text))
    table, truth = _spectrum()
    panel = widgets.cuts({key: values[:30] for key, values in table.items()}, truth[:30], jets)
    panel.controls["tau32_below"].value = 0.3
    assert "too few" in said[-1]


def test_a_jet_is_rewound_splitting_by_splitting(jets):
    splittings, step = substructure.decluster(jets[4:5])
    for at in (0, 2):
        _, ax = plt.subplots()
        widgets.draw_rewound(ax, jets, jet=4, step=at)
        display, plane = ax.child_axes
        sizes = [len(drawn.get_offsets()) for drawn in display.collections]
        expected = [
            int(np.sum(np.asarray(step[0]) > at)),
            int(np.sum(np.asarray(step[0]) == at)),
            int(np.sum(np.asarray(step[0]) < at)),
        ]
        assert sizes == expected and sum(sizes) == jets[4].n_constituents
        assert f"mass {splittings[0, at].mass:.0f} GeV" in plane.get_title(loc="right")
    panel = widgets.rewind(jets)
    for name, value in (("step", 1), ("jet", 5), ("z_cut", 0.3)):
        before = panel.image.value
        panel.controls[name].value = value
        assert panel.image.value != before, name


def test_a_single_constituent_cannot_be_rewound(jets):
    alone = jets[:1]
    alone["constituents"] = alone.constituents[:, :1]
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="single constituent"):
        widgets.draw_rewound(ax, alone)


def test_nothing_to_show_is_said():
    none = jetnb.load("jetclass")[:0]
    for show in (
        widgets.rewind,
        widgets.browse,
        lambda jets: widgets.latent_explorer(np.zeros((0, 2)), jets),
    ):
        with pytest.raises(ValueError, match="no jets to show: widen the selection"):
            show(none)


def test_the_lund_plane_is_in_units_of_the_radius_of_the_jets():
    jets = jetnb.load("pileup")[:20]
    radius = jetnb.jets.provenance(jets)["settings"]["radius"]
    jet = int(np.argmax(np.asarray(ak.num(jets.constituents)) > 5))
    splittings, _ = (each[0] for each in substructure.decluster(jets[jet : jet + 1]))
    _, ax = plt.subplots()
    widgets.draw_rewound(ax, jets, jet=jet)
    across = ax.child_axes[1].collections[0].get_offsets()[:, 0]
    assert radius == 0.4
    np.testing.assert_allclose(across, np.log(radius / splittings.delta_r), rtol=1e-5)
    plt.close("all")
