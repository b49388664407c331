"""Anomaly scores against formulae and plain loops; metrics on samples whose answer is known."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from jetnb import anomaly, metrics
from jetnb.book import runner

RNG = np.random.default_rng(1)
BANK = RNG.normal(size=(2000, 3)) * [1, 5, 0.1] + [2, 0, 1]


def place(*sigmas):
    """Points so many widths of the bank away from its mean, along the first, second, third column."""
    return BANK.mean(0) + np.array(sigmas) * BANK.std(0)


@pytest.mark.parametrize("kind", ["knn", "mahalanobis", "mixture"])
def test_what_is_further_away_is_stranger_in_units_of_the_bank(kind):
    z = place([0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4], [8, 0, 0])
    found = anomaly.score(BANK, z, kind)
    assert found[0] < found[1:4].min() and found[4] > found[1:4].max()
    assert np.ptp(found[1:4]) < 0.2 * found[1]  # columns count alike, whatever their unit


def test_nearest_neighbours_are_those_of_a_plain_loop():
    z = place([0, 0, 0], [1, 1, 1])
    scale = BANK.std(0)
    away = np.sqrt((((z[:, None] - BANK) / scale) ** 2).sum(2))
    expected = np.sort(away, 1)[:, :30].mean(1)
    np.testing.assert_allclose(anomaly.knn(BANK, z), expected)


def test_mahalanobis_of_a_gaussian_is_a_chi_squared():
    inside = RNG.normal(size=(5000, 3)) @ [[1, 0.8, 0], [0, 0.6, 0], [0, 0, 1]]
    found = anomaly.mahalanobis(inside, inside)
    assert stats.kstest(found, stats.chi2(3).cdf).statistic < 0.03


def test_labels_give_each_kind_its_mean_and_what_is_common_cancels():
    first = RNG.normal(size=(1000, 4)) * [1, 1, 1, 0.3]
    second = first + [10, 0, 0, 0]
    bank, labels = np.concatenate([first, second]), np.repeat(["quark", "gluon"], 1000)
    z = np.array([[0.0, 0, 0, 0], [10, 0, 0, 0], [5, 0, 0, 0], [0, 0, 0, 2]])
    plain, kinds = anomaly.mahalanobis(bank, z), anomaly.mahalanobis(bank, z, labels=labels)
    assert plain[2] == min(plain) and kinds[2] > max(kinds[:2])  # between the kinds
    relative = anomaly.relative_mahalanobis(bank, z, labels=labels)
    np.testing.assert_allclose(relative, kinds - plain)
    # A direction in which both kinds are equally narrow is in both distances.
    assert abs(relative[3] - relative[0]) < 0.1 * kinds[3]


def test_cosine_is_the_soft_nearest_in_angle():
    bank = np.array([[1.0, 0], [0, 1], [1, 1]])
    z = np.array([[3.0, 0], [-1, 0]])
    found = anomaly.cosine(bank, z, k=3, temperature=0.5)
    cosines = np.array([[1, 0, np.sqrt(0.5)], [-1, 0, -np.sqrt(0.5)]])
    np.testing.assert_allclose(found, -0.5 * np.log(np.exp(cosines / 0.5).sum(1)))
    assert found[0] < found[1]


def mixtures(n_signal, n=4000, seed=1):
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(2, n, 2))
    two[:n_signal] += [3, 0]
    more = rng.normal(size=(2000, 2))
    more[:1000] += [3, 0]
    return one, two, more, np.repeat([1, 0], 1000)


def test_two_mixtures_are_enough_to_learn_what_is_signal():
    one, two, more, truth = mixtures(400)
    s_one, s_two, s_more = anomaly.weak(
        one, two, more, classifier=LogisticRegression(class_weight="balanced")
    )
    assert s_one.shape == (4000,) and s_two.shape == (4000,)
    assert metrics.auc(truth, s_more).value > 0.95
    assert s_two[:400].mean() > s_two[400:].mean() + 0.1


def test_any_classifier_of_scikit_learn_will_do():
    one, two, more, truth = mixtures(400, n=1000)
    forest = RandomForestClassifier(20, max_depth=4)  # false as long as it is not fitted
    *_, first = anomaly.weak(one, two, more, classifier=forest, seed=3)
    *_, again = anomaly.weak(one, two, more, classifier=forest, seed=3)
    assert metrics.auc(truth, first).value > 0.9 and np.array_equal(first, again)


def test_without_signal_nothing_is_learned():
    one, two, *_ = mixtures(0)
    found = metrics.auc(np.repeat([0, 1], 4000), np.concatenate(anomaly.weak(one, two)))
    assert abs(found.value - 0.5) < 0.03  # on jets that each classifier has not seen


def test_windows_share_nothing():
    inside, sides = anomaly.windows([60, 80, 100, 119, 120, 200, 300], (80, 120), (70, 250))
    assert inside.tolist() == [False, True, True, True, False, False, False]
    assert sides.tolist() == [False, False, False, False, True, True, False]
    for signal in ((60, 120), (120, 80), (80, 260)):
        with pytest.raises(ValueError, match="must lie inside sides"):
            anomaly.windows([1.0], signal, (70, 250))


def test_improvement_is_that_of_two_gaussians():
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [20_000, 200_000])
    scores = rng.normal(size=len(labels)) + 2 * labels
    found = anomaly.improvement(labels, scores)
    exact = stats.norm.sf(stats.norm.isf(0.01) - 2) / np.sqrt(0.01)
    assert found.n_passing == 2000 and found.low < exact < found.high
    assert found.value == pytest.approx(exact, rel=0.03)
    assert (found.high - found.low) / found.value < 0.06


def test_the_interval_of_an_improvement_covers():
    rng, covered = np.random.default_rng(4), 0
    labels = np.repeat([1, 0], [100, 2000])
    exact = stats.norm.sf(stats.norm.isf(0.01) - 1) / np.sqrt(0.01)
    for _ in range(300):
        found = anomaly.improvement(labels, rng.normal(size=2100) + labels)
        covered += found.low <= exact <= found.high
    assert covered / 300 > 0.62


def test_the_best_cut_has_a_floor_and_says_what_passes():
    labels = np.repeat([1, 0], [1000, 10_000])
    scores = np.concatenate([np.full(1000, 1.0), np.linspace(0, 1.001, 10_000)])
    found = anomaly.best_improvement(labels, scores, floor=1e-3)
    assert found.n_passing >= 10 and found.background_efficiency > 1e-3
    tight = anomaly.best_improvement(labels, scores, floor=0, least=1)
    assert tight.value >= found.value
    with pytest.raises(ValueError, match="no cut keeps 20000"):
        anomaly.best_improvement(labels, scores, least=20_000)


def test_a_maximum_over_cuts_is_never_below_one_though_nothing_is_known():
    labels = np.repeat([1, 0], [200, 5000])
    values = [
        anomaly.best_improvement(labels, np.random.default_rng(seed).normal(size=5200)).value
        for seed in range(20)
    ]
    fixed = [
        anomaly.improvement(labels, np.random.default_rng(seed).normal(size=5200)).value
        for seed in range(20)
    ]
    assert min(values) >= 1 and abs(np.mean(fixed) - 0.1) < 0.05


def test_a_cut_on_the_mass_sculpts_it_and_one_at_random_does_not():
    mass = RNG.exponential(50, 20_000)
    bent = anomaly.sculpting(mass, -np.abs(mass - 150))
    free = anomaly.sculpting(mass, RNG.normal(size=20_000))
    assert bent.value > 50 and bent.p_value < 0.01 and free.p_value > 0.01
    assert bent.n_generated == 200


def test_ties_let_fewer_pass_and_a_block_at_the_top_is_said():
    labels = np.repeat([1, 0], [100, 1000])
    scores = np.concatenate([np.full(100, 0.9), np.linspace(0, 1, 1000).round(1)])
    with pytest.raises(ValueError, match="many have the highest score"):
        anomaly.improvement(labels, scores)
    assert anomaly.improvement(labels, scores, background_efficiency=0.1).n_passing <= 100


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: anomaly.score(BANK, BANK, "loudness"),
            "score 'loudness' is unknown: use one of knn",
        ),
        (lambda: anomaly.score(BANK, BANK[:, :2]), "same D"),
        (lambda: anomaly.score(BANK, np.full((1, 3), np.nan)), "z: row 0 is not finite"),
        (lambda: anomaly.score(BANK, BANK, k=3000), "k is 3000: it must be from 1 to the 2000"),
        (lambda: anomaly.mahalanobis(BANK, BANK, labels=[1]), "labels have shape"),
        (lambda: anomaly.weak(BANK, BANK[:3]), "from 2 to the jets of the smaller mixture, 3"),
        (lambda: anomaly.improvement([0, 1], [0, 1], background_efficiency=0), "usually 0.01"),
        (lambda: anomaly.sculpting([1.0], [1.0, 2.0]), "of the same background jets"),
    ],
)
def test_what_is_wrong_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_band_of_seeds_is_median_and_quantiles():
    found = anomaly.band(np.arange(101.0))
    assert found.value == 50 and found.low == pytest.approx(15.865) and found.high > 84


def test_what_is_expected_follows_from_what_was_counted():
    found = anomaly.expected(14, 20_000, 178e6)
    assert found.value == pytest.approx(14 / 20_000 * 178e6)
    assert found.low < found.value * (1 - 0.8 / np.sqrt(14))  # the error of a count of 14
    assert found.high > found.value * (1 + 0.8 / np.sqrt(14))
    none = anomaly.expected(0, 20_000, 178e6)
    assert none.value == none.low == 0 and none.high > 178e6 / 20_000
    with pytest.raises(ValueError, match="from 0 to n_total"):
        anomaly.expected(3, 2, 10)


def test_the_notebook_computes_what_it_expects_in_all_of_the_data():
    """Its cells hold no number of tops, and that of jets only among the parameters."""
    path = next((Path(__file__).parents[1] / "notebooks").glob("16_*.ipynb"))
    cells = nbformat.read(path, as_version=4).cells
    knobs = runner.parameters(nbformat.read(path, as_version=4))
    assert knobs["N_DATA"] == 178_000_000
    code = [
        cell.source
        for cell in cells
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
    ]
    numbers = [
        node.value
        for source in code
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    ]
    assert max(numbers) < 10_000
    said = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    assert not re.search(r"\d[\d ,.]*(thousand |million )?tops\b", said)
    stored = json.loads((Path(__file__).parent / "notebooks" / "reference.json").read_text("utf-8"))
    found = stored[path.stem]["in_all"]["value"]
    for count, *expected in (found["tops"], found["above"]):
        again = anomaly.expected(count, found["jets"], knobs["N_DATA"])
        assert expected == pytest.approx(list(again[:3]), rel=1e-6)
