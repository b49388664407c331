"""Scaling laws: a known law is found again, and runs are made once."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import jetnb
from jetnb import metrics, plots, pretraining, scaling
from jetnb.jets import split

pytestmark = pytest.mark.usefixtures("one_thread")


def runs(noise=0.002, seed=0, repeats=5.0, floor=3.0):
    rng = np.random.default_rng(seed)
    found = []
    for weights in (1e4, 4e4, 1.6e5, 6.4e5):
        for jets, seen in ((1e3, 1e3), (1e3, 1e4), (1e3, 6e4), (4e3, 1e4), (2e4, 2e4), (6e4, 6e4)):
            worth = metrics.worth_of(jets, seen, repeats)
            loss = floor + 0.4 * (weights / 1e5) ** -0.3 + 0.6 * (worth / 1e4) ** -0.25
            for s in (1, 2):
                found.append(
                    {
                        "weights": weights, "jets": jets, "seen": seen, "seed": s,
                        "loss": loss * (1 + noise * rng.normal()),
                    }
                )  # fmt: skip
    return found


def test_a_known_law_is_found_again():
    exact = metrics.fit_scaling_law(runs(noise=0), n_replicas=5)
    assert exact.size_exponent.value == pytest.approx(0.3, rel=0.02)
    assert exact.jets_exponent.value == pytest.approx(0.25, rel=0.02)
    assert exact.repeats.value == pytest.approx(5, rel=0.05)
    assert exact.floor.value == pytest.approx(3, rel=0.01) and exact.scatter < 1e-4


def test_a_larger_run_is_predicted():
    law = metrics.fit_scaling_law(runs(), n_replicas=60)
    larger = {"weights": 2.5e6, "jets": 2e5, "seen": 4e5}
    truth = 3 + 0.4 * 25**-0.3 + 0.6 * (metrics.worth_of(2e5, 4e5, 5.0) / 1e4) ** -0.25
    ((value, low, high),) = law.predict([larger])
    assert value == pytest.approx(truth, rel=0.02) and low < truth < high
    assert law.scatter == pytest.approx(0.002, rel=0.4)
    assert law.jets_exponent.low < law.jets_exponent.value < law.jets_exponent.high
    assert "jets exponent" in repr(law) and len(law.replicas) == 60
    left, right = plots.scaling_law(law, runs()).axes
    assert left.get_xlabel() == "jets seen (log scale)" and len(right.lines) == 2


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    hits = 0
    for seed in range(8):
        found = metrics.fit_scaling_law(runs(seed=seed), n_replicas=40).jets_exponent
        hits += found.low < 0.25 < found.high
    assert 3 <= hits <= 8


def test_a_floor_can_be_kept():
    law = metrics.fit_scaling_law(runs(noise=0), floor=3.0, n_replicas=5)
    assert tuple(law.floor)[:3] == (3.0, 3.0, 3.0)
    assert law.size_exponent.value == pytest.approx(0.3, rel=0.02)
    without = metrics.fit_scaling_law(runs(noise=0), floor=0, n_replicas=5)
    assert without.floor.value == 0 and without.scatter > law.scatter
    with pytest.raises(ValueError, match="floor 9.0 must lie from 0"):
        metrics.fit_scaling_law(runs(), floor=9.0)


def test_a_number_at_the_limit_of_the_fit_is_called_so():
    of_jets_alone = [{**run, "loss": 3 + 5 * run["seen"] ** -0.4} for run in runs(noise=0)]
    lines = repr(metrics.fit_scaling_law(of_jets_alone, n_replicas=5)).splitlines()
    at_limit = [line.split("  ")[0] for line in lines if line.endswith("at the limit of the fit")]
    assert at_limit == ["size exponent", "repeats"]


def test_a_floor_that_is_not_known_has_a_wide_interval():
    few = [run for run in runs(noise=0.01) if run["weights"] < 1e5 and run["seed"] == 1]
    law = metrics.fit_scaling_law(few, n_replicas=30)
    assert law.floor.low < 2.5 and law.floor.high > law.floor.low + 0.3


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="3 settings with 1 sizes"):
        metrics.fit_scaling_law(runs()[:6])
    bad = runs()
    bad[0]["loss"] = -1.0
    with pytest.raises(ValueError, match="-1.0 is the lowest"):
        metrics.fit_scaling_law(bad)


class Counts(nn.Module):
    """Learns how many constituents jets have, with one weight of each of `width`."""

    SETTINGS = {"width": 1}

    def __init__(self, width=1):
        super().__init__()
        self.encoder, self.weights = nn.Identity(), nn.Parameter(torch.zeros(width))

    def loss(self, batch, *, generator=None):
        lengths = batch[1].diff().float() / 10
        return (self.weights.sum() - lengths).square().mean()


def test_runs_are_made_once_and_smaller_sets_are_parts_of_larger(tmp_path, monkeypatch):
    parts = split(jetnb.load("jetclass", n_jets=700), (0.6, 0.2, 0.2), seed=1)
    sizes = {"one": {"width": 1}, "two": {"width": 2}}
    cases = [("one", 64, 64, 0.1), ("two", 128, 512, 0.1)]
    path = tmp_path / "runs.jsonl"

    def again():
        return scaling.measure(
            Counts, parts[0], parts[1:], sizes, cases, seeds=[1, 2], path=path, batch_size=32,
            progress=False,
        )  # fmt: skip

    used, train = [], scaling.train

    def spy(model, data, validation, test, *, run, **options):
        rows = np.random.default_rng(run["seed"]).permutation(len(data))[: run["jets"]]
        used.append(set(rows))
        return train(model, data, validation, test, run=run, **options)

    monkeypatch.setattr(scaling, "train", spy)
    found = again()
    assert [(r["size"], r["seed"], r["weights"], r["steps"]) for r in found] == [
        ("one", 1, 1, 2), ("one", 2, 1, 2), ("two", 1, 2, 16), ("two", 2, 2, 16),
    ]  # fmt: skip
    assert found[2]["loss"] < found[0]["loss"] and found[2]["epochs"] == 4
    assert used[0] < used[2] and used[0] != used[1]
    assert again() == found and len(used) == 4


def test_as_many_jets_are_seen_as_the_case_says():
    parts = split(jetnb.load("jetclass", n_jets=300), (0.6, 0.2, 0.2), seed=1)
    data = [pretraining.data_of(Counts(), part) for part in parts]
    for jets, epochs in ((65, 10), (100, 3)):  # two batches of 33 or of 50, not of 64
        run = {"jets": jets, "seen": epochs * jets, "lr": 0.1, "seed": 1}
        found = scaling.train(Counts(), *data, run=run, batch_size=64)
        assert found["epochs"] == epochs and found["steps"] == 2 * epochs


def test_cases_that_cannot_be_are_refused():
    parts = split(jetnb.load("jetclass", n_jets=700), (0.6, 0.2, 0.2), seed=1)
    for case, says in (
        (("three", 64, 64, 0.1), "not in sizes"),
        (("one", 10_000, 10_000, 0.1), "jets must be from"),
        (("one", 128, 64, 0.1), "at least as many seen"),
    ):
        with pytest.raises(ValueError, match=says):
            scaling.measure(Counts, parts[0], parts[1:], {"one": {}}, [case], seeds=[1])


DATA = Path(__file__).parent.parent / "data"


def test_the_shipped_study_is_whole_and_its_prediction_is_that_of_its_runs():
    study = json.loads((DATA / "reference" / "scaling" / "next_token.json").read_text())
    shipped = hashlib.sha256((DATA / "jetclass.parquet").read_bytes()).hexdigest()
    assert study["data"]["shipped"]["sha256"] == shipped
    for size in study["sizes"]:  # the best rate lies between two others
        tried = {r["lr"]: r["validation_loss"] for r in study["rates"] if r["size"] == size}
        assert min(tried) < min(tried, key=tried.get) < max(tried), (size, tried)
    said, larger = study["predicted"], study["larger"]
    for name in ("weights", "jets", "seen"):
        assert said[name] == larger[name]
        assert larger[name] >= max(run[name] for run in study["runs"])
    law = metrics.fit_scaling_law(study["runs"])
    assert law.predict([said])[0][0] == pytest.approx(said["loss"][0], rel=0.002)
