"""Distances: closed forms, invariances, the known traps of each convention, calibration of bands
and floors.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import stats

import jetnb
from jetnb import distances
from jetnb.distances import compare, kld, measure, w1

OTHERS = ("omnijet_alpha", "enhancing_ntp4jets", "omnijet_alpha_c")


def normal(n, shift=0.0, seed=0, width=1.0):
    return np.random.default_rng(seed).normal(shift, width, n)


def within(count, n, probability, sigma=4):
    """Is a count of `n` trials compatible with its probability?"""
    return abs(count - n * probability) < sigma * np.sqrt(n * probability * (1 - probability))


@settings(deadline=None, max_examples=60)
@given(
    *[some.lists(some.floats(-1e6, 1e6, width=32) | some.integers(-3, 3), min_size=1, max_size=40)]
    * 2
)
def test_w1_is_that_of_scipy(truth, generated):
    expected = stats.wasserstein_distance(truth, generated)
    assert w1(truth, generated) == pytest.approx(
        expected, rel=1e-12, abs=1e-12 * np.abs([*truth, *generated]).max()
    )


def test_w1_of_a_shift_is_the_shift():
    truth = normal(5000)
    assert w1(truth, truth + 0.7) == pytest.approx(0.7, rel=1e-12)
    error = np.sqrt(2 / 50_000)
    assert w1(normal(50_000, seed=1), normal(50_000, 0.7, seed=2)) == pytest.approx(
        0.7, abs=4 * error
    )
    assert w1(truth, truth + 0.7, scaled=True) == pytest.approx(0.7 / stats.iqr(truth), rel=1e-12)
    assert w1(truth, truth) == 0


def test_kld_of_two_gaussians():
    grid = (np.arange(200_000) + 0.5) / 200_000
    truth = stats.norm.ppf(grid)
    for mean, width in ((0.5, 1), (0, 1.5), (-0.3, 1.2)):
        expected = np.log(width) + (1 + mean**2) / (2 * width**2) - 0.5
        found = kld(truth, stats.norm.ppf(grid, mean, width), n_bins=1000)
        assert expected * 0.98 < found < expected  # bins can only lose information


def test_kld_of_a_uniform_that_reaches_twice_as_far():
    grid, n_bins = (np.arange(100_000) + 0.5) / 100_000, 20
    inner, outer = (
        1 / (2 * n_bins),
        1 / (2 * n_bins) + 0.5,
    )  # generated per bin; the last one reaches to infinity
    expected = sum(np.log(1 / n_bins / q) / n_bins for q in [inner] * (n_bins - 1) + [outer])
    assert kld(grid, 2 * grid, n_bins=n_bins) == pytest.approx(expected, rel=1e-3)


def test_kld_weights_by_the_truth():
    truth, generated = np.repeat([0, 1], [900, 100]), np.repeat([0, 1], [500, 500])
    both = (
        0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5),
        0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1),
    )
    assert (kld(truth, generated), kld(generated, truth)) == pytest.approx(both)
    assert kld(truth, truth) == 0


def test_invariances():
    truth, generated = normal(3001), normal(2500, 0.3, seed=1, width=1.2)
    rng = np.random.default_rng(3)
    mixed = rng.permutation(truth), rng.permutation(generated)
    for distance in (kld, w1):
        assert distance(*mixed) == distance(truth, generated)
    assert w1(truth + 100, generated + 100) == pytest.approx(w1(truth, generated), rel=1e-10)
    assert w1(-3 * truth, -3 * generated) == pytest.approx(3 * w1(truth, generated), rel=1e-12)
    assert w1(5 * truth + 1, 5 * generated + 1, scaled=True) == pytest.approx(
        w1(truth, generated, scaled=True)
    )
    for convention in (
        "jetnb",
        "enhancing_ntp4jets",
        "omnijet_alpha_c",
    ):  # 3000 / 30: edges are values of the truth
        assert (
            kld(np.exp(truth), np.exp(generated), convention=convention)
            == kld(truth, generated, convention=convention)
            > 0.01
        )
    changed = kld(np.exp(truth), np.exp(generated), convention="omnijet_alpha")
    assert changed != pytest.approx(kld(truth, generated, convention="omnijet_alpha"), rel=0.05)


@pytest.mark.parametrize("shift", [0, 0.5])
def test_conventions_against_histograms(shift):
    truth, generated = normal(4000), normal(3000, shift, seed=1)
    edges = np.quantile(truth, np.linspace(0.001, 0.999, 25))
    generated[:500] = edges[-1]  # the edge itself counts
    p, q = (np.histogram(values, edges, density=True)[0] + 1e-8 for values in (truth, generated))
    assert kld(truth, generated, n_bins=25, convention="omnijet_alpha") == pytest.approx(
        stats.entropy(p, q), rel=1e-9
    )
    edges = np.quantile(truth, np.linspace(0, 1, 26))
    edges[[0, -1]] = -np.inf, np.inf
    p, q = (np.histogram(values, edges)[0] / len(values) for values in (truth, generated))
    for convention, expected in (
        ("enhancing_ntp4jets", stats.entropy(p, q)),
        ("jetnb", stats.entropy(p, q)),
        ("omnijet_alpha_c", stats.entropy(p, q + 1e-10)),
    ):
        assert kld(truth, generated, n_bins=25, convention=convention) == pytest.approx(
            expected, abs=1e-8
        )


def test_jets_far_outside_are_hidden_by_one_convention_alone():
    truth, generated = normal(100_000, 150, width=30), normal(100_000, 150, seed=1, width=30)
    generated[:10_000] = 2000  # GeV
    expected = 29 / 30 * np.log(1 / 0.9) + np.log(1 / 30 / (0.1 + 0.9 / 30)) / 30
    for convention in ("jetnb", "enhancing_ntp4jets", "omnijet_alpha_c"):
        assert kld(truth, generated, convention=convention) == pytest.approx(expected, abs=0.003)
    assert kld(truth, generated, convention="omnijet_alpha") < 0.002
    assert w1(truth, generated) == pytest.approx(185, abs=1)


def test_integers_are_nan_in_one_convention_alone():
    rng = np.random.default_rng(0)
    truth, generated = rng.poisson(12, 20_000), rng.poisson(12.5, 20_000)
    assert np.isnan(kld(truth, generated, convention="omnijet_alpha"))
    found = [
        kld(truth, generated, convention=name)
        for name in ("jetnb", "enhancing_ntp4jets", "omnijet_alpha_c")
    ]
    assert found == pytest.approx([found[0]] * 3, abs=1e-7)
    assert (
        0.005 < found[0] < 0.25 / 12
    )  # below the exact value for fine bins, 0.5**2 / (2 * 12), and its noise
    distance = measure(truth, generated, seed=1)
    assert (
        distance.n_bins == len(np.unique(np.quantile(truth, np.linspace(0, 1, 31)[1:-1]))) + 1 < 30
    )
    nothing = measure(truth, generated, seed=1, convention="omnijet_alpha")
    assert np.isnan([nothing.value, nothing.low, nothing.high, nothing.p_value]).all()


def test_mode_collapse_is_infinite_or_large():
    truth, generated = normal(9000), np.zeros(9000)
    assert kld(truth, generated, convention="enhancing_ntp4jets") == np.inf
    expected = (
        29 / 30 * np.log(9029 / 30) + np.log(9029 / 9000 / 30) / 30
    )  # each empty bin counts as one jet
    assert kld(truth, generated) == pytest.approx(expected, rel=1e-6)
    assert measure(truth, generated, seed=1)[-1] == measure(truth, generated, seed=1).n_empty == 29
    expected = 29 / 30 * np.log(1 / 30 / 1e-10) + np.log(1 / 30) / 30
    assert kld(truth, generated, convention="omnijet_alpha_c") == pytest.approx(expected, rel=1e-6)
    infinite = measure(truth, generated, seed=1, convention="enhancing_ntp4jets")
    assert (infinite.low, infinite.high) == (np.inf, np.inf) and infinite.floor < 0.01


def test_an_empty_bin_costs_no_more_than_the_sample_can_tell():
    truth, generated = np.arange(6000) / 200, np.arange(600) / 20  # 30 bins of 1
    assert kld(truth, generated) < 1e-3
    hole = generated[generated >= 1]
    found = measure(truth, hole, seed=1, n_bins=30)
    assert (found.n_bins, found.n_empty) == (30, 1)
    expected = np.log(581 / 30) / 30 + 29 / 30 * np.log(581 / 600)  # 580 jets, and one for the bin
    assert found.value == pytest.approx(expected, rel=0.01) and 0.06 < expected < 0.07
    assert kld(truth, hole, n_bins=30, convention="omnijet_alpha_c") > 0.6


def test_never_negative_even_with_more_bins_than_jets_drawn():
    truth = normal(1000)
    assert all(kld(truth, normal(m, seed=1), n_bins=1000) >= 0 for m in (1, 10, 300))


@pytest.mark.parametrize(
    "n_truth, n_generated, n_bins", [(9000, 9000, 30), (9000, 300, 15), (100, 9000, 5), (9, 9, 2)]
)
def test_bins_are_as_many_as_the_smaller_sample_can_fill(n_truth, n_generated, n_bins):
    truth, generated = normal(n_truth), normal(n_generated, seed=1)
    assert measure(truth, generated, seed=1).n_bins == n_bins
    assert kld(truth, generated) == kld(truth, generated, n_bins=n_bins)
    if n_truth > 30:
        assert measure(truth, generated, seed=1, convention="omnijet_alpha_c").n_bins == 30


def test_many_equal_values_keep_a_bin_below_them():
    truth = np.concatenate(
        [np.zeros(5000), normal(5000, 10)]
    )  # half of the jets at the lowest value
    generated = truth.copy()
    generated[:5000:2] = -1
    assert kld(truth, generated) == pytest.approx(0.5 * np.log(2))


@pytest.mark.parametrize("convention", ["jetnb", *OTHERS])
def test_floor_of_kld_is_that_of_chi_squared(convention):
    truth, generated, n_bins = normal(4000), normal(2000, 0.5, seed=1), 21
    found = measure(truth, generated, seed=1, n_bins=n_bins, convention=convention, n_replicas=2000)
    bins = n_bins - (convention == "omnijet_alpha")
    assert found.n_bins == bins
    if (
        convention != "omnijet_alpha"
    ):  # it weights bins by their widths, so that fewer of them count
        expected = stats.chi2.ppf([0.5, 0.16, 0.84], bins - 1) * (1 / 4000 + 1 / 2000) / 2
        assert [found.floor, found.floor_low, found.floor_high] == pytest.approx(expected, rel=0.07)
    assert found.p_value == 1 / 2001


@pytest.mark.parametrize("metric", ["kld", "w1"])
def test_truth_against_truth_lies_on_the_floor(metric):
    n_trials, n = 250, 400
    draws = np.random.default_rng(5).normal(size=(n_trials, 2, n))
    found = [
        measure(*pair, metric=metric, seed=i, n_bins=20, n_replicas=100)
        for i, pair in enumerate(draws)
    ]
    inside = sum(d.floor_low <= d.value <= d.floor_high for d in found)
    assert within(inside, n_trials, 0.68)
    assert stats.kstest([d.p_value for d in found], "uniform").pvalue > 1e-3


@pytest.mark.parametrize("metric", ["kld", "w1"])
def test_band_covers_the_mean_over_other_samples(metric):
    rng, n_trials, n, distance = np.random.default_rng(6), 200, 600, {"kld": kld, "w1": w1}[metric]

    def pair():
        return rng.normal(0, 1, n), rng.normal(0.6, 1, n)

    mean = np.mean([distance(*pair()) for _ in range(1500)])
    pairs = [pair() for _ in range(n_trials)]
    found = [
        measure(*samples, metric=metric, seed=i, n_replicas=100) for i, samples in enumerate(pairs)
    ]
    assert within(sum(d.low <= mean <= d.high for d in found), n_trials, 0.68)
    assert all(d.low <= d.value <= d.high for d in found)
    wide = [measure(*samples, metric=metric, seed=i, level=0.95) for i, samples in enumerate(pairs)]
    assert within(sum(d.low <= mean <= d.high for d in wide), n_trials, 0.95)


def test_band_at_the_floor_is_too_wide_and_never_too_narrow():
    rng, n_trials = np.random.default_rng(7), 250
    found = [measure(*rng.normal(size=(2, 800)), seed=i) for i in range(n_trials)]
    values = np.array([d.value for d in found])
    ratio = np.mean([(d.high - d.low) / 2 for d in found]) / values.std()
    assert 1.4 < ratio < 2  # sqrt(3) for many jets
    assert sum(d.low <= values.mean() <= d.high for d in found) > 0.75 * n_trials


def test_seeds():
    truth, generated = normal(500), normal(400, 0.2, seed=1)
    for metric in ("kld", "w1"):
        once, again, other = (
            measure(truth, generated, metric=metric, seed=seed) for seed in (1, 1, 2)
        )
        assert once == again
        assert once.value == other.value and (once.low, once.floor) != (other.low, other.floor)


def test_scaled_is_the_same_in_another_unit():
    truth, generated = normal(500, width=7), normal(400, 2, seed=1, width=7)
    plain, scaled = (
        measure(truth, generated, metric="w1", seed=1, scaled=choice) for choice in (False, True)
    )
    assert scaled[:6] == pytest.approx(np.array(plain[:6]) / stats.iqr(truth))
    assert scaled[6:] == plain[6:]


def test_compare_two_halves_of_a_sample_of_jets():
    jets = jetnb.load("jetclass")
    jets = jets[np.asarray(jets.label) < 3]
    half = np.asarray(jets.event) % 2 == 0
    table = compare(jets[half], jets[~half], seed=1, features=["mass", "n_constituents"])
    assert [row[:3] for row in table] == [
        ("mass", "kld", "nats"),
        ("mass", "w1", "GeV"),
        ("n_constituents", "kld", "nats"),
        ("n_constituents", "w1", ""),
    ]
    assert table[0].distance.n_truth == half.sum()
    mass = (np.asarray(jets.mass)[keep] for keep in (half, ~half))
    assert table[1].distance == measure(*mass, metric="w1", seed=1)
    assert min(row.distance.p_value for row in table) > 1 / 201
    other = compare(jets[half][np.asarray(jets[half].label) == 1], jets[~half], seed=1)
    assert min(row.distance.p_value for row in other) == 1 / 201
    assert {row.feature for row in other} == set(distances.FEATURES) & set(jets.fields)


def test_table_counts_nan_and_prints_in_columns():
    truth, generated = (
        {"tau21": normal(500, seed=seed), "mass": normal(500, seed=seed)} for seed in (1, 2)
    )
    truth["tau21"][:7], generated["tau21"][:20] = np.nan, np.nan
    features = ["tau21", "mass"]
    table = compare(truth, generated, seed=1, n_bins=10, scaled=True, features=features)
    assert [row.distance.n_dropped for row in table] == [(7, 20), (7, 20), (0, 0), (0, 0)]
    assert table[0].distance == measure(
        truth["tau21"][7:], generated["tau21"][20:], seed=1, n_bins=10
    )._replace(n_dropped=(7, 20))
    *lines, note = str(table).split("\n")
    assert len(lines) == 5 and len({len(line) for line in lines}) == 1
    value = f"{table[0].distance.value:.3g}"
    assert all(text in lines[1] for text in ("tau21", "nats", "493", "480", "10", "7 + 20", value))
    assert "IQR" in lines[2] and "68%" in note and "jetnb" in note
    assert table._repr_html_().startswith("<pre>") and "7 + 20" in table._repr_html_()


def test_compare_names_what_is_wrong():
    truth = {"mass": normal(50)}
    with pytest.raises(ValueError, match="'tau21' is not in truth, which has mass: add it"):
        compare(truth, {"mass": 0, "tau21": 0}, seed=1, features=["tau21"])
    with pytest.raises(ValueError, match="'mass' is not in generated"):
        compare(truth, {"tau21": truth["mass"]}, seed=1, features=["mass"])
    with pytest.raises(ValueError, match="mass: .*n_bins 60 for 50 jets"):
        compare(truth, truth, seed=1, n_bins=60)
    with pytest.raises(ValueError, match="metric is 'kl'"):
        compare(truth, truth, seed=1, metrics=["kl"])


@pytest.mark.parametrize(
    "truth, generated, options, message",
    [
        ([], [1], {}, "truth has 0 values"),
        ([1, 2], [], {}, "generated has 0 values"),
        ([1, 2], [np.nan], {}, "generated has 1 values, 1 NaN"),
        ([1, np.inf], [1], {}, "1 infinite: give .* NaN, which is dropped"),
        (np.ones((4, 2)), [1], {}, r"truth has shape \(4, 2\)"),
        ([1, 2], np.ones((4, 1)), {}, r"generated has shape \(4, 1\)"),
        ([1, 2], [1, 2], {"n_bins": 30}, "n_bins 30 for 2 jets"),
        ([1, 2], [1, 2], {"n_bins": 1}, "n_bins 1 for"),
        (
            [1, 2],
            [1, 2],
            {"n_bins": 2, "convention": "mine"},
            "convention is 'mine'.* take one of .*jetnb",
        ),
        ([1, 2], [1, 2], {"metric": "emd"}, "metric is 'emd'.*'kld' or 'w1'"),
        ([1, 2], [1, 2], {"level": 68}, "level 68.*between 0 and 1"),
        ([1, 2], [1, 2], {"n_replicas": 5}, "n_replicas 5.*at least 20"),
        ([1, 1, 1, 1, 9], [1, 2], {"metric": "w1", "scaled": True}, "interquartile range 0"),
    ],
)
def test_bad_input(truth, generated, options, message):
    with pytest.raises(ValueError, match=message):
        measure(truth, generated, seed=1, **options)
