"""Panels of results show every number they are given, with its band, and no legend lies on a curve."""

import importlib
import pkgutil

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetnb import metrics, names, plots

SIZES = np.array([100, 1000, 10000])


@pytest.fixture(autouse=True)
def no_figure_left():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


@pytest.fixture(scope="module")
def toy():
    rng = np.random.default_rng(1)
    return np.repeat([1, 0], 400), np.concatenate([rng.normal(1.5, 1, 400), rng.normal(0, 1, 400)])


@pytest.fixture(scope="module")
def apart():
    return np.repeat([1, 0], 50), np.repeat([1.0, 0.0], 50)


def line(ax, label):
    return next(each for each in ax.lines if each.get_label() == label)


def under_legend(ax):
    """Points of curves and bands below the legend of a drawn `ax`, none if all is well."""
    ax.figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    paths = [
        ax.transData.transform(each.get_xydata())
        for each in ax.lines
        if each.get_transform() == ax.transData
    ]
    paths += [
        ax.transData.transform(path.vertices)
        for each in ax.collections
        for path in each.get_paths()
    ]
    return [point for path in paths for point in path if box.contains(*point)]


def test_no_function_is_hidden_by_a_module_of_its_name():
    modules = [each.name for each in pkgutil.iter_modules(plots.__path__)]
    for name in modules:
        importlib.import_module(f"jetnb.plots.{name}")
    assert not set(modules) & set(plots.__all__)
    assert all(callable(getattr(plots, name)) for name in plots.__all__ if name.islower())


def test_a_learning_curve_shows_median_band_and_noise_floor(ax):
    values = np.array([[0.3, 0.2, 0.1], [0.4, 0.25, 0.15], [0.9, 0.5, 0.2]])
    plots.learning_curve(
        ax,
        {"pretrained": (SIZES, values / 2), "scratch": (SIZES, values)},
        label="KLD [nats]",
        noise_floor=(0.01, 0.02),
    )
    np.testing.assert_array_equal(
        line(ax, "scratch").get_xydata(), np.transpose([SIZES, [0.4, 0.25, 0.15]])
    )
    heights = ax.collections[1].get_paths()[0].vertices[:, 1]
    low, high = np.quantile(values, [0.16, 0.84], axis=0)
    assert set(low.round(6)) | set(high.round(6)) <= set(heights.round(6))
    assert line(ax, "noise floor").get_ydata()[0] == pytest.approx(0.015)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (
        ax.get_xlabel() == "training jets (log scale)"
        and ax.get_ylabel() == "KLD [nats] (log scale)"
    )
    assert ax.get_ylim()[0] < 0.01 and ax.get_ylim()[1] > 0.9


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("exponent", [-0.4, 0.05, 0.0])
@pytest.mark.parametrize("style", ["plain", "CMS", "ATLAS"])
def test_the_legend_of_a_learning_curve_hides_nothing(log, exponent, style):
    rng = np.random.default_rng(2)
    with plots.style(style):
        _, ax = plt.subplots()
        curves = {
            f"start number {i}": (SIZES, 0.5 * SIZES**exponent * np.exp(rng.normal(0, 0.2, (5, 3))))
            for i in range(4)
        }
        plots.learning_curve(ax, curves, log=log, noise_floor=0.001)
        assert not under_legend(ax)


def test_one_seed_has_no_band(ax):
    plots.learning_curve(ax, {"a": (SIZES, [3, 2, 1])})
    assert not ax.collections


def test_a_roc_shows_rejection_and_its_error(ax, toy):
    point = metrics.rejection(*toy)
    plots.roc_curve(
        ax, {"TTBar": metrics.roc(*toy), "b": metrics.roc(toy[0], -toy[1])}, points={"TTBar": point}
    )
    signal, rejection = line(ax, names.CLASSES["TTBar"].tex).get_data()
    assert np.isfinite(rejection).all() and rejection[-1] == 1
    assert np.interp(0.5, signal, rejection) == pytest.approx(point.value, rel=0.05)
    bar = ax.collections[0].get_paths()[0].vertices
    np.testing.assert_allclose(bar, [[0.5, point.low], [0.5, point.high]])
    assert np.prod(line(ax, "random").get_data(), axis=0) == pytest.approx(1)
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] == 1
    assert not under_legend(ax)


def test_several_working_points_make_a_band(ax, toy):
    points = metrics.rejection(*toy, signal_efficiency=np.linspace(0.3, 0.9, 7))
    plots.roc_curve(ax, {"a": metrics.roc(*toy)}, points={"a": points}, lowest=0.2)
    heights = ax.collections[0].get_paths()[0].vertices[:, 1].round(6)
    assert set(points.low.round(6)) | set(points.high.round(6)) <= set(heights)
    assert ax.get_xlim() == (0.2, 1) and line(ax, "a").get_xdata().min() >= 0.2


@pytest.mark.parametrize("at", [0.5, np.linspace(0.1, 0.9, 9)])
def test_a_bound_is_an_arrow_at_a_finite_height(ax, apart, at):
    point = metrics.rejection(*apart, signal_efficiency=at)
    plots.roc_curve(ax, {"a": metrics.roc(*apart)}, points={"a": point})
    bound = np.atleast_1d(point.value)[0]
    assert any(
        each.get_marker() == "^" or each.get_marker() == 10 for each in ax.lines
    )  # matplotlib's caret up
    assert any(bound in np.asarray(each.get_ydata()) for each in ax.lines)
    assert ax.get_ylim()[0] < bound < ax.get_ylim()[1] and np.isfinite(ax.get_ylim()[1])


def test_reliability_shows_each_bin_with_its_interval(ax):
    rng = np.random.default_rng(3)
    p = rng.random(2000)
    found = metrics.calibrate(rng.random(2000) < p, p, n_bins=5)
    plots.reliability(ax, {"a": found})
    drawn = ax.containers[0]
    np.testing.assert_allclose(
        drawn.lines[0].get_xydata(), np.transpose([found.predicted, found.observed])
    )
    ends = np.array([path.vertices[:, 1] for path in drawn.lines[2][0].get_paths()])
    np.testing.assert_allclose(ends, np.transpose([found.low, found.high]))
    assert not under_legend(ax)


def test_a_reference_is_dotted_and_has_no_ratio(ax):
    _, ax, ratio = plots.with_ratio()
    values = {"truth": np.full(4, 5.0), "generated": np.full(8, 5.0), "reference": np.full(3, 15.0)}
    plots.hist1d(
        ax,
        values,
        field="mass",
        bins=(2, 0, 20),
        density=False,
        ratio_ax=ratio,
        dotted=["reference"],
    )
    outlines = [each for each in ax.patches if not each.get_fill()]
    assert [each.get_linestyle() for each in outlines].count(":") == 1 and len(ax.patches) == 5
    assert outlines[2].get_data().values.tolist() == [0, 3]
    assert len(ratio.containers) == 1
    for unfit in ("truth", "other"):
        with pytest.raises(ValueError, match=f"dotted '{unfit}' must be"):
            plots.hist1d(ax, values, field="mass", ratio_ax=ratio, dotted=[unfit])


def test_a_ratio_beyond_its_panel_is_an_arrow():
    _, ax, ratio = plots.with_ratio()
    values = {"a": np.full(4, 5.0), "b": np.array([5.0] * 40 + [15.0])}
    plots.hist1d(ax, values, field="mass", bins=(2, 0, 20), density=False, ratio_ax=ratio)
    arrow = next(each for each in ratio.lines if each.get_marker() == "^")
    assert arrow.get_xdata().tolist() == [5.0] and arrow.get_ydata()[0] < ratio.get_ylim()[1]


@pytest.mark.parametrize("style", ["plain", "CMS", "ATLAS"])
def test_labels_of_main_and_ratio_keep_apart(style):
    with plots.style(style):
        figure, ax, ratio = plots.with_ratio()
        plots.hist1d(
            ax, {"truth": np.ones(9), "b": np.ones(9)}, field="mass", log=True, ratio_ax=ratio
        )
        figure.canvas.draw()
        upper, lower = (each.yaxis.label.get_window_extent() for each in (ax, ratio))
        assert (
            upper.y0 > lower.y1 and lower.y0 >= 0 and upper.x0 >= 0 and upper.y1 <= figure.bbox.y1
        )
