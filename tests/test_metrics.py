"""Metrics agree with closed forms and scikit-learn, and their intervals cover the truth as often as
they say.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score

from jetnb import metrics

SIZES = np.logspace(2, 5, 6).round()


def gaussians(n_signal, n_background, distance, rng):
    """Labels and scores of two unit Gaussians: AUC = Phi(distance / sqrt 2)."""
    scores = np.concatenate([rng.normal(distance, 1, n_signal), rng.normal(0, 1, n_background)])
    return np.repeat([1, 0], [n_signal, n_background]), scores


def covered(found, truth):
    return np.mean([each.low <= truth <= each.high for each in found])


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=4, max_size=30))
@settings(max_examples=60, deadline=None)
def test_auc_is_that_of_sklearn_with_ties_too(pairs):
    labels, scores = map(np.array, zip(*pairs, strict=True))
    if min(labels.sum(), (~labels).sum()) > 1:
        found = metrics.auc(labels, scores)
        assert found.value == pytest.approx(roc_auc_score(labels, scores))
        assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1


@pytest.mark.parametrize(
    ("n_signal", "n_background", "distance"), [(200, 100, 1.0), (50, 50, 2.0), (30, 300, 0.3)]
)
def test_auc_of_gaussians_is_covered(n_signal, n_background, distance):
    rng = np.random.default_rng(1)
    found = [
        metrics.auc(*gaussians(n_signal, n_background, distance, rng), level=0.9)
        for _ in range(500)
    ]
    truth = norm.cdf(distance / np.sqrt(2))
    assert np.mean([each.value for each in found]) == pytest.approx(truth, abs=0.01)
    assert 0.86 < covered(found, truth) < 0.94


def test_bootstrap_and_delong_agree():
    toy = gaussians(500, 400, 1, np.random.default_rng(2))
    one, two = metrics.auc(*toy), metrics.auc(*toy, method="bootstrap")
    assert one.value == two.value
    assert two.high - two.low == pytest.approx(one.high - one.low, rel=0.2)
    assert two == metrics.auc(*toy, method="bootstrap")
    with pytest.raises(ValueError, match="choose 'delong' or 'bootstrap'"):
        metrics.auc(*toy, method="jackknife")


def test_classes_apart_leave_an_interval_and_equal_scores_none():
    found = metrics.auc([0] * 10 + [1] * 50, [0.0] * 10 + [1.0] * 50, level=0.95)
    assert found[:3] == (1, pytest.approx(0.025 ** (1 / 10)), 1)
    assert metrics.auc([0, 1, 0, 1], [3, 3, 3, 3])[:3] == (0.5, 0.5, 0.5)


def test_roc_counts_what_passes_each_threshold():
    labels, scores = gaussians(40, 30, 1, np.random.default_rng(3))
    curve = metrics.roc(labels, scores.round(1))
    assert (curve[0][0], curve[1][0], curve[0][-1], curve[1][-1]) == (0, 0, 1, 1)
    passing = scores.round(1) >= curve.threshold[:, None]
    np.testing.assert_allclose(curve.signal_efficiency, passing[:, labels == 1].mean(axis=1))
    np.testing.assert_allclose(curve.background_efficiency, passing[:, labels == 0].mean(axis=1))


def test_rejection_by_hand():
    labels, scores = (
        [1] * 4 + [0] * 8,
        [0.9, 0.7, 0.5, 0.3] + [0.8, 0.6, 0.4, 0.2, 0.1, 0.1, 0.1, 0.1],
    )
    found = metrics.rejection(labels, scores, signal_efficiency=[0.5, 0.75, 1.0])
    np.testing.assert_allclose(found.value, [8, 4, 8 / 3])
    np.testing.assert_array_equal(found.n_passing, [1, 2, 3])
    assert (
        str(found).splitlines()[0].endswith("at signal efficiency 0.5, 1 of 8 background jets pass")
    )
    gain = metrics.significance_improvement(labels, scores, signal_efficiency=0.5)
    assert gain.value == pytest.approx(0.5 * np.sqrt(8))
    assert gain.low == pytest.approx(0.5 * np.sqrt(found.low[0]))


@pytest.mark.parametrize(
    ("n_signal", "n_background", "distance", "at"),
    [(500, 5000, 1, 0.5), (2000, 2000, 1, 0.5), (20000, 1000, 1.5, 0.3)],
)
def test_rejection_of_gaussians_is_covered(n_signal, n_background, distance, at):
    rng, truth = np.random.default_rng(4), 1 / norm.sf(distance + norm.isf(at))
    found = [
        metrics.rejection(*gaussians(n_signal, n_background, distance, rng), signal_efficiency=at)
        for _ in range(300)
    ]
    assert 0.62 < covered(found, truth) < 0.85


def test_no_background_passing_is_a_bound_that_holds():
    rng, truth = np.random.default_rng(5), 1 / norm.sf(3.0)
    found = [metrics.rejection(*gaussians(300, 1000, 3, rng)) for _ in range(600)]
    bounds = [each for each in found if each.is_bound]
    assert len(bounds) > 50 and all(each.n_passing == 0 and np.isnan(each.high) for each in bounds)
    assert bounds[0].value == pytest.approx(1 / (1 - 0.05 ** (1 / 1000)))
    assert np.mean([each.low > truth for each in found]) < 0.17 and "> 334" in str(bounds[0])
    assert np.isfinite([each.value for each in found]).all()


def test_a_threshold_through_ties_passes_a_fraction():
    found = metrics.rejection([0, 0, 1, 1], [1, 1, 1, 1], signal_efficiency=0.5)
    assert (found.value, found.n_passing, found.is_bound) == (2, 1, False)


def test_efficiency_is_that_of_scipy():
    found = metrics.efficiency([0, 3, 10], 10, level=0.9)
    for k, low, high in zip((0, 3, 10), found.low, found.high, strict=True):
        assert (low, high) == pytest.approx(tuple(binomtest(k, 10).proportion_ci(0.9)))
    assert metrics.accuracy([0, 1, 2, 3], [0, 1, 2, 0]).value == 0.75
    with pytest.raises(ValueError, match="n_passing 11 must be from 0"):
        metrics.efficiency(11, 10)


@pytest.mark.parametrize(("equal", "strategy"), [("counts", "quantile"), ("widths", "uniform")])
def test_reliability_is_that_of_sklearn(equal, strategy):
    rng = np.random.default_rng(6)
    p = rng.random(3000) ** 2
    signal = rng.random(3000) < p
    found = metrics.calibrate(signal, p, equal=equal, n_bins=7)
    np.testing.assert_allclose(
        (found.observed, found.predicted), calibration_curve(signal, p, n_bins=7, strategy=strategy)
    )
    assert found.n_jets.sum() == 3000
    assert (found.low < found.observed).all() and (found.observed < found.high).all()


def test_calibration_error_sits_on_its_noise_floor_only_if_calibrated():
    rng = np.random.default_rng(7)
    good, bad = [], []
    for _ in range(40):
        p = rng.random(2000)
        signal = rng.random(2000) < p
        good.append(metrics.calibrate(signal, p)[-2:])
        bad.append(metrics.calibrate(signal, p**2))
    error, floor = np.mean(good, axis=0)
    assert error == pytest.approx(floor, rel=0.1)
    assert np.mean([each.error for each in bad]) == pytest.approx(
        1 / 6, rel=0.05
    )  # integral of p - p**2
    one = metrics.calibrate(signal, np.where(signal, 0.8, 0.2), equal="counts")
    assert one.n_jets.tolist() == [np.sum(~signal), np.sum(signal)] and one.error == pytest.approx(
        0.2
    )


def test_epochs_until():
    assert metrics.epochs_until([0.5, 0.9, 0.8, 0.9]) == 2
    assert metrics.epochs_until([[0.5, 0.895, 0.9], [0.9, 0.9, 0.9]]).tolist() == [2, 1]
    assert metrics.epochs_until([0.5, 0.6], final=0.9) == 0
    with pytest.raises(ValueError, match="must be finite"):
        metrics.epochs_until([0.5, np.nan])


@pytest.mark.parametrize("floor", [0.0, 0.03])
def test_an_exact_power_law_is_found(floor):
    law = metrics.fit_power_law(SIZES, 3 * SIZES**-0.4 + floor, floor=floor > 0)
    assert [each.value for each in law] == pytest.approx([3, 0.4, floor], rel=1e-3)
    assert law.predict(1000) == pytest.approx(3 * 1000**-0.4 + floor, rel=1e-4)


@pytest.mark.parametrize("n_seeds", [1, 3, 5])
def test_the_exponent_is_covered(n_seeds):
    rng = np.random.default_rng(n_seeds)
    toys = 3 * SIZES**-0.4 * np.exp(rng.normal(0, 0.05, (300, n_seeds, 6)))
    found = [metrics.fit_power_law(SIZES, each) for each in toys]
    assert 0.6 < covered([each.exponent for each in found], 0.4) < 0.76
    assert 0.6 < covered([each.amplitude for each in found], 3) < 0.76


def test_a_floor_is_covered_and_weights_count():
    rng = np.random.default_rng(8)
    errors = [(3 * SIZES**-0.4 + 0.02) * np.exp(rng.normal(0, 0.05, (3, 6))) for _ in range(80)]
    assert (
        covered([metrics.fit_power_law(SIZES, each, floor=True).floor for each in errors], 0.02)
        > 0.62
    )
    none = [metrics.fit_power_law(SIZES, each - 0.02, floor=True).floor for each in errors[:20]]
    assert covered(none, 0) > 0.6 and min(each.value for each in none) >= 0
    bent = 3 * SIZES**-0.4 * np.array([9, 1, 1, 1, 1, 1])
    sigma = np.array([100, 0.01, 0.01, 0.01, 0.01, 0.01])
    assert metrics.fit_power_law(SIZES, bent, sigma=sigma).exponent.value == pytest.approx(
        0.4, abs=1e-4
    )
    assert metrics.fit_power_law(SIZES, bent).exponent.value > 0.5


def test_pretraining_that_is_worth_four_times_the_jets():
    rng, covers = np.random.default_rng(9), []
    for _ in range(200):
        scratch, pretrained = (
            3 * (k * SIZES) ** -0.4 * np.exp(rng.normal(0, 0.05, (3, 6))) for k in (1, 4)
        )
        found = metrics.measure_worth((SIZES, pretrained), (SIZES, scratch))
        covers.append((found.low[:4] <= 4 * SIZES[:4]) & (4 * SIZES[:4] <= found.high[:4]))
    assert 0.67 < np.mean(covers) < 0.85
    np.testing.assert_allclose(found.value[:4], 4 * SIZES[:4], rtol=0.3)
    assert found.bound.tolist() == ["", "", "", "", ">", ">"] and found.value[-1] == pytest.approx(
        SIZES[-1]
    )
    assert "are worth > 100000" in str(found) and str(found).endswith("(intervals at 68.3 %)")


def test_worth_without_seeds_or_below_the_curve():
    error = 3 * SIZES**-0.4
    found = metrics.measure_worth((SIZES, error), (SIZES, error))
    np.testing.assert_allclose(found.value, SIZES)
    assert np.isnan(found.low).all() and np.isnan(found.high).all()
    worse = metrics.measure_worth((SIZES[:1], [9.0]), (SIZES, error))
    assert worse.bound[0] == "<" and worse.value[0] == pytest.approx(SIZES[0])


@pytest.mark.parametrize(
    ("labels", "scores", "match"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], "3 of 3 jets are signal"),
        ([0, 0], [0.1, 0.2], "0 of 2 jets are signal"),
        ([], [], "both classes must be there"),
        ([0, 1, 2], [0.1, 0.2, 0.3], "found 2"),
        ([0, 1], [0.1, np.nan], "nan of jet 1"),
        ([0, 1], [[0.1, 0.9], [0.2, 0.8]], "take one column"),
    ],
)
def test_unfit_scores_are_refused(labels, scores, match):
    for function in (metrics.roc, metrics.auc, metrics.rejection, metrics.calibrate):
        with pytest.raises(ValueError, match=match):
            function(labels, scores)


def test_other_unfit_input_is_refused():
    with pytest.raises(ValueError, match="two of each"):
        metrics.auc([0, 1, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="at most 1"):
        metrics.rejection([0, 1], [0, 1], signal_efficiency=0)
    with pytest.raises(ValueError, match="softmax"):
        metrics.calibrate([0, 1], [-1, 3])
    with pytest.raises(ValueError, match="choose 'counts'"):
        metrics.calibrate([0, 1], [0, 1], equal="bins")
    with pytest.raises(ValueError, match="one class index"):
        metrics.accuracy([0, 1], [[0, 1]])
    for sizes, errors, match in (
        ([1, 2], [1, 2], "needs more"),
        ([2, 1, 3], [1, 2, 3], "sort them"),
        ([1, 2, 3], [1, 0, 3], "all must be positive"),
        ([1, 2, 3], [1, 2], "one column"),
    ):
        with pytest.raises(ValueError, match=match):
            metrics.fit_power_law(sizes, errors)
    with pytest.raises(ValueError, match="sigma of shape"):
        metrics.fit_power_law([1, 2, 3], [3, 2, 1], sigma=[1])


def test_a_sideband_expects_what_is_there_and_knows_its_error():
    rng, edges = np.random.default_rng(1), np.arange(0, 301, 10)
    centre = (edges[1:] + edges[:-1]) / 2
    mean = np.exp(
        4 - 0.0004 * (centre - 60) ** 2 / 2
    )  # a quadratic in the exponent: both curves can be it
    inside, pulls = (centre > 100) & (centre < 140), []
    for _ in range(300):
        found = metrics.sideband(
            np.repeat(centre, rng.poisson(mean)), (100, 140), edges=edges, degree=2
        )
        pulls.append([(found.expected - mean[inside].sum()) / found.error, found.pull])
    pulls = np.array(pulls)
    assert np.all(abs(pulls.mean(axis=0)) < 0.2)
    assert np.all(abs(pulls.std(axis=0) - 1) < 0.15)
    with_peak = metrics.sideband(
        np.append(np.repeat(centre, rng.poisson(mean)), np.full(100, 120.5)),
        (100, 140),
        edges=edges,
        degree=2,
    )
    assert with_peak.pull > 3 and with_peak.seen == pytest.approx(mean[inside].sum() + 100, abs=50)


@pytest.mark.parametrize(
    ("window", "values", "said"),
    [
        ((101, 140), np.arange(300), "two of the edges"),
        ((140, 100), np.arange(300), "two of the edges"),
        ((20, 280), np.arange(300), "too few"),
        ((100, 140), np.full(9, 50.0), "too few"),
    ],
)
def test_a_sideband_that_cannot_be_fitted_is_refused(window, values, said):
    with pytest.raises(ValueError, match=said):
        metrics.sideband(values, window, edges=np.arange(0, 301, 20))


def test_closure_is_expected_over_true():
    found = metrics.Sideband(50, 40.0, 4.0, np.ones(3), 3.0, 3)
    closure = metrics.closure(found, 50)
    assert closure.value == 0.8
    assert closure.high - closure.value == pytest.approx(0.8 * np.sqrt(0.1**2 + 1 / 50))
    assert np.isnan(metrics.closure(found, 0).value)


@pytest.mark.parametrize(
    "passing, value, bound", [(0, 100 / 2.951, True), (3, 100 / 7.571, True), (4, 25, False)]
)
def test_few_passing_are_a_bound_where_asked_for(passing, value, bound):
    scores = np.concatenate([np.ones(50), np.full(passing, 2.0), np.zeros(100 - passing)])
    found = metrics.rejection([1] * 50 + [0] * 100, scores, signal_efficiency=1.0, least=4)
    assert (found.is_bound, found.n_passing, np.isnan(found.high)) == (bound, passing, bound)
    assert found.value == pytest.approx(value, rel=1e-3)  # the exact limits at 95 %, on one side


def test_intervals_of_a_mean_and_of_a_median_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(3)
    for measure, size in ((metrics.mean, 3), (lambda x: metrics.bootstrap(x, n=100), 60)):
        found = [measure(rng.normal(5, 2, size)) for _ in range(300)]
        assert np.mean([one.low <= 5 <= one.high for one in found]) == pytest.approx(0.68, abs=0.08)
        assert all(one.low <= one.value <= one.high for one in found)


def test_intervals_of_nothing_and_of_one_value_are_not_known():
    for one in (metrics.mean([]), metrics.bootstrap([]), metrics.bootstrap([np.nan])):
        assert np.isnan(one[:3]).all()
    alone = metrics.mean([2.0])
    assert alone.value == 2 and np.isnan(alone[1:3]).all()
    assert metrics.within(2, 0.5)[:3] == (2, 1.5, 2.5)
