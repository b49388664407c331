"""Figures say where their jets come from, draw what they are given, and hide nothing under a
legend.
"""

import subprocess
import sys

import awkward as ak
import hist
import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetnb import distances, names, plots


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def jets(toy_jets):
    return toy_jets(200, 3)


def heights(ax):
    """Contents of the outlines in `ax`, without the bands."""
    return [
        patch.get_data().values
        for patch in ax.patches
        if hasattr(patch, "get_data") and not patch.get_fill()
    ]


def test_import_sets_nothing():
    code = "import matplotlib as m; a = dict(m.rcParams); import jetnb.plots; assert dict(m.rcParams) == a"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_style_is_left_again_and_use_style_stays():
    before = plt.rcParams["font.size"]
    with plots.style("CMS"):
        assert plt.rcParams["font.size"] != before
    assert plt.rcParams["font.size"] == before
    with plt.rc_context():
        plots.use_style("ATLAS")
        assert plt.rcParams["figure.figsize"][0] <= 8
    with pytest.raises(ValueError, match="plain, CMS, ATLAS"):
        plots.use_style("LHCb")


@pytest.mark.parametrize(
    ("provenance", "text"),
    [
        (
            {"sample": "aoj", "source": "simulation", "versions": {"jetnb": "0.1"}},
            "jetnb simulation (Pythia 8 + fast detector)",
        ),
        ({"sample": "JetClass", "source": "simulation"}, "JetClass (simulation)"),
        ({"sample": "aoj", "source": "open data"}, "CMS Open Data"),
        ({"sample": "x", "source": "open data", "stamp": "ATLAS Open Data"}, "ATLAS Open Data"),
    ],
)
def test_source_follows_the_provenance(jets, provenance, text):
    other = jets[:3]
    other.attrs["jetnb"] = {"classes": [], **provenance}
    assert plots.source(other) == text


def test_stamp_names_each_source_once_and_refuses_unknown_ones(jets):
    figure, ax = plt.subplots()
    plots.stamp(ax, jets, jets[:5], note="all")
    assert ax.get_title(loc="left") == "toy (simulation), all"
    assert plots.stamp(figure, jets).get_suptitle() == "toy (simulation)"
    with pytest.raises(ValueError, match="no provenance"):
        plots.stamp(ax, np.zeros(3))


def test_by_class_follows_the_labels(jets):
    values = plots.by_class(jets, "pt")
    assert list(values) == ["QCD", "TTBar"]
    np.testing.assert_array_equal(values["TTBar"], jets.pt[jets.label == 1])
    assert len(plots.by_class(jets, "pt", constituents=True)["QCD"]) == sum(
        jets.n_constituents[jets.label == 0]
    )
    with pytest.raises(ValueError, match="no field 'label'"):
        plots.by_class(jets[["pt", "eta"]], "pt")


def test_fractions_count_what_lies_outside():
    _, ax = plt.subplots()
    plots.hist1d(ax, {"QCD": np.array([10.0, 10.0, 50.0, 1e6])}, field="mass", bins=(2, 0, 100))
    np.testing.assert_allclose(heights(ax)[0], [0.5, 0.25])
    assert ax.get_xlabel() == r"jet $m$ [GeV]"
    assert ax.get_ylabel() == "fraction of jets / 50 GeV"
    assert ax.get_legend().get_texts()[0].get_text() == names.CLASSES["QCD"].tex


def test_counts_have_their_poisson_band():
    _, ax = plt.subplots()
    plots.hist1d(ax, {"a": np.full(9, 5.0)}, field="mass", bins=(1, 0, 10), density=False)
    band = next(patch for patch in ax.patches if patch.get_fill()).get_data()
    assert (band.baseline[0], band.values[0]) == (6.0, 12.0)


def test_a_hist_is_drawn_as_it_is():
    _, ax = plt.subplots()
    filled = hist.Hist(hist.axis.Regular(4, 0, 1)).fill([0.1, 0.1, 0.9])
    plots.hist1d(ax, {"a": filled}, field="tau21", density=False)
    np.testing.assert_array_equal(heights(ax)[0], [2, 0, 0, 1])


def test_ratio_is_to_the_first():
    _, ax, ratio = plots.with_ratio()
    values = {"a": np.full(4, 5.0), "b": np.full(8, 5.0)}
    plots.hist1d(ax, values, field="mass", bins=(2, 0, 10), density=False, ratio_ax=ratio)
    np.testing.assert_allclose(ratio.lines[-1].get_ydata(), [np.nan, 2])
    assert ratio.get_xlabel() == r"jet $m$ [GeV]" and not ax.get_xlabel()


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("centre", [20.0, 150.0, 280.0])
def test_the_legend_hides_no_curve(log, centre):
    values = {
        name: np.random.default_rng(1).normal(centre, 15, 5000)
        for name in ("QCD", "TTBar", "HToBB")
    }
    figure, ax = plt.subplots()
    plots.hist1d(ax, values, field="mass", log=log)
    figure.canvas.draw()
    box = ax.get_legend().get_window_extent().transformed(ax.transData.inverted())
    content, centres = heights(ax)[0], np.linspace(0, 300, 76)[1:]
    assert content[centres > box.x0].max(initial=0) < box.y0 or box.x0 >= 300
    assert ax.get_ylim()[1] <= 1  # these are fractions


def test_an_empty_bin_has_the_interval_of_a_count_of_zero():
    _, ax = plt.subplots()
    plots.hist1d(
        ax, {"x": np.full(9, 12.0)}, field="mass", bins=(5, 0, 50), density=False, log=True
    )
    band = next(patch for patch in ax.patches if patch.get_fill()).get_data()
    assert band.values.tolist() == pytest.approx([1.841, 12, 1.841, 0, 0], abs=1e-3)
    assert band.baseline[:3].tolist() == [0, 6, 0]
    assert ax.get_ylim()[0] == 0.5


def test_the_stamp_says_which_curve_is_what():
    data = ak.Array([{"pt": 1.0}], attrs={"jetnb": {"sample": "aoj", "source": "open data"}})
    made = ak.Array([{"pt": 1.0}], attrs={"jetnb": {"sample": "x", "source": "simulation"}})
    _, ax = plt.subplots()
    plots.stamp(ax, {"A": data, "B": made})
    assert ax.get_title("left") == "A: CMS Open Data | B: x (simulation)"
    plots.stamp(ax, {"A": made, "B": made})
    assert ax.get_title("left") == "x (simulation)"


def test_borders_are_written_where_the_axis_shows_them():
    _, ax = plt.subplots()
    ax.set_xlim(-2.7, 2.7)
    plots.borders(ax)
    assert [text.get_text() for text in ax.texts] == ["end cap"] * 2 + ["no tracker"] * 2


def test_neutral_colours_are_those_of_no_class_and_no_particle():
    used = {one.colour for one in (*names.CLASSES.values(), *names.PARTICLES.values())}
    assert not used & set(plots.NEUTRAL) and len(set(plots.NEUTRAL)) == 4
    assert plots.look("Aspen layout", 1, colours=plots.NEUTRAL)[1] == plots.NEUTRAL[1]
    assert plots.look("photon", 1, colours=plots.NEUTRAL)[1] == names.PARTICLES["photon"].colour


def test_a_long_legend_stands_beside_the_axes():
    figure, ax = plt.subplots()
    plots.hist1d(ax, {name: np.ones(3) for name in list(names.CLASSES)[:10]}, field="mass")
    figure.canvas.draw()
    assert ax.get_legend().get_window_extent().x0 >= ax.get_window_extent().x1


def test_logarithmic_axes_are_said(jets):
    _, ax = plt.subplots()
    plots.hist1d(ax, {"": jets.pt}, field="pt", log=True)
    assert ax.get_xlabel().endswith("[GeV] (log scale)") and ax.get_ylabel().endswith("(log scale)")
    assert ax.get_legend() is None


def test_field_grid_leaves_out_what_a_sample_lacks(jets):
    fields = [names.JET_FIELDS[name] for name in ("pt", "tau1")]
    figure, axes = plots.field_grid({"a": jets, "b": jets[["pt"]]}, fields=fields, stamped=[jets])
    assert [len(heights(ax)) for ax in axes] == [2, 1]
    assert figure.get_figwidth() <= 8 and figure.get_suptitle() == "toy (simulation)"


@pytest.mark.parametrize("log", [True, False])
def test_a_map_shows_its_content_and_survives_none(log):
    filled = hist.Hist(
        hist.axis.Regular(3, 0, 3, label="x"),
        hist.axis.Regular(2, 0, 2, label="y"),
        label="entries",
    )
    _, ax = plt.subplots()
    plots.eta_phi_map(ax, filled, log=log)
    assert ax.texts[0].get_text() == "no entries"
    _, ax = plt.subplots()
    plots.jet_image(ax, filled.fill([0.5, 2.5, 2.5], [0.5, 1.5, 1.5]), log=log)
    assert ax.images[0].get_array().filled(0).tolist() == [[1, 0, 0], [0, 0, 2]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "y")
    assert ax.child_axes[0].get_ylabel() == "entries" + " (log scale)" * log


def test_a_jet_shows_each_constituent_once(jets):
    _, ax = plt.subplots()
    plots.jet_display(ax, jets[0])
    assert sum(len(drawn.get_offsets()) for drawn in ax.collections) == jets[0].n_constituents
    _, ax = plt.subplots()
    untyped = ak.with_field(jets, jets.constituents[["pt", "eta", "phi", "energy"]], "constituents")
    plots.jet_display(ax, untyped[0])
    assert ax.get_legend().get_texts()[0].get_text() == f"constituents ({jets[0].n_constituents})"


def test_points_lie_on_the_histogram_with_an_interval_even_at_none():
    values = np.repeat([0.5, 1.5], [4, 1])
    _, ax = plt.subplots()
    plots.points(ax, values, field="mass", bins=(3, 0, 3), density=False, name="TTBar")
    drawn = ax.containers[0]
    assert drawn[0].get_ydata().tolist() == [4, 1, 0]
    low, high = np.array([segment[:, 1] for segment in drawn[2][0].get_segments()]).T
    np.testing.assert_allclose(low, [2.09, 0.17, 0], atol=0.02)  # Garwood's, at 68 %
    np.testing.assert_allclose(high, [7.16, 3.30, 1.84], atol=0.02)
    assert drawn[0].get_color() == names.CLASSES["TTBar"].colour
    assert drawn.get_label() == names.CLASSES["TTBar"].tex
    _, ax = plt.subplots()
    assert not plots.points(ax, values[:0], field="mass").containers
    plots.points(ax, values, field="mass", bins=(3, 0, 3))
    assert ax.containers[0][0].get_ydata()[0] == 4 / 5
    _, ax = plt.subplots()
    plots.points(ax, values, field="mass", bins=(4, 0, 2), density=False, merge=2)
    assert ax.containers[0][0].get_ydata().tolist() == [
        2,
        0.5,
    ]  # means, so on the lines of the finer histogram
    with pytest.raises(ValueError, match="needs bins"):
        plots.points(ax, values)


def test_bounds_are_arrows_without_a_range():
    ax = plots.bounded_lines(
        plt.figure().add_subplot(),
        [1, 2, 3],
        {"a": [([4, 5, 9], False), ([7, 8, 9], False), ([20, 21, 90], True)]},
    )
    line = ax.lines[0]
    assert line.get_ydata().tolist() == [5, 8, 21] and ax.get_yscale() == "log"
    (band,) = [
        drawn
        for drawn in ax.collections
        if len(drawn.get_paths()) and drawn.get_paths()[0].vertices[:, 0].max() < 3
    ]
    assert band.get_paths()[0].vertices[:, 1].max() == 9
    assert [list(one.get_xdata()) for one in ax.lines[1:] if len(one.get_xdata())][0] == [
        3
    ]  # the arrow's head
    plt.close("all")


def test_errors_have_a_point_for_each_seed_and_a_line_for_the_mean():
    curves = {"frozen": (np.array([100, 900]), np.array([[0.9, 0.96], [0.8, 0.98]]))}
    ax = plots.error_curves(plt.figure().add_subplot(), curves, lines={"a cut": 0.7, "none": 0.6})
    *points, mean, cut, none = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(points, [[0.1, 0.04], [0.2, 0.02]])
    np.testing.assert_allclose(mean, [0.15, 0.03])
    np.testing.assert_allclose([cut[0], none[0]], [0.3, 0.4])
    assert ax.lines[-1].get_linestyle() != ax.lines[-2].get_linestyle()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["100", "900"]
    plt.close("all")


def test_rows_have_a_point_for_each_seed():
    series = {"frozen": {"a": [0.7, 0.8], "b": 0.9}, "random": {"a": [0.5], "b": [0.6]}}
    ax = plots.seed_rows(plt.figure().add_subplot(), series)
    assert [list(line.get_xdata()) for line in ax.lines] == [[0.7, 0.8], [0.9], [0.5], [0.6]]
    np.testing.assert_allclose(
        [line.get_ydata()[0] for line in ax.lines], [-0.15, 0.85, 0.15, 1.15]
    )
    assert ax.get_legend_handles_labels()[1] == ["frozen", "random"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    plt.close("all")


def test_distances_are_drawn_in_units_of_their_floor():
    rng = np.random.default_rng(1)
    truth, far = ({"mass": rng.normal(at, 1, 400), "tau21": rng.normal(0, 1, 400)} for at in (0, 3))
    table = distances.compare(truth, far, seed=1, n_replicas=20)
    ax = plots.over_floor(
        plt.figure().add_subplot(),
        {"a": table, "b": table, "c": table},
        metric="w1",
        colours={"a": "red", "b": "red", "c": "blue"},
    )
    drawn = [one.lines[0] for one in ax.containers if hasattr(one, "has_xerr")]
    rows = [row.distance for row in table if row.metric == "w1"]
    for points in drawn:
        np.testing.assert_allclose(points.get_xdata(), [d.value / d.floor for d in rows])
    assert [points.get_markerfacecolor() for points in drawn] == ["red", "white", "blue"]
    assert drawn[0].get_xdata()[0] > 3 * drawn[0].get_xdata()[1] and ax.get_xscale() == "log"
    plt.close("all")


def test_bars_go_from_the_lowest_seed_to_the_highest():
    ax = plots.seed_bars(plt.figure().add_subplot(), [1, 2], [[1, 4], [2, 4], [6, 4]])
    (bars,) = ax.containers
    assert bars.lines[0].get_ydata().tolist() == [3, 4]
    assert [part[:, 1].tolist() for part in bars.lines[2][0].get_segments()] == [[1, 6], [4, 4]]
    plt.close("all")
