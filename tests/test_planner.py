"""The planner: time, memory and disk, against what was measured."""

import time

import numpy as np
import pytest

import jetnb
from jetnb import planner, pretraining, training
from jetnb.data import store

H200 = "data/reference/gpu/h200.json"
pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"encoder": {"dim": 32, "n_layers": 2, "n_heads": 4}}


@pytest.fixture(scope="module")
def subject():
    _, made = pretraining.find("set_flow")
    model = pretraining._make(made, pretraining._merged(made, SMALL, "set_flow"), seed=1)
    data = pretraining.data_of(model, jetnb.load("jetclass", n_jets=600))
    return model.fit(data, seed=1), data


@pytest.fixture
def h200(request):
    return request.config.rootpath / H200


@pytest.mark.parametrize("precision", ["float32", "TF32"])
def test_steps_on_a_gpu_follow_from_those_of_the_other_models(h200, precision):
    off = {}
    for name, (flop, seconds) in planner.points(h200, precision=precision).items():
        overhead, rate = planner.speed(h200, precision=precision, without=name)
        off[name] = (overhead + flop / rate) / seconds - 1
    assert len(off) == 5 and np.median(np.abs(list(off.values()))) < 0.2
    assert sum(abs(one) < 0.3 for one in off.values()) >= 4 and max(off.values()) < 0.36, off


def test_operations_are_those_that_were_counted_on_the_gpu(h200, monkeypatch):
    monkeypatch.syspath_prepend(str(h200.parents[3] / "tests" / "gpu"))
    import subjects

    rows = planner._record(h200)["results"]["speed"]
    data = subjects.packed("jetclass", 400)
    ratio = np.diff(data["particles"].offsets).mean() / rows["jets"]["constituents"]
    model, kind = subjects.models(data, False)["masked autoencoder"]
    found = planner.flop_per_jet(model, data[kind])
    # the jets of the record had more constituents; attention grows with their square
    assert found / 1e6 == pytest.approx(
        rows["masked autoencoder: float32"]["MFLOP per jet"] * ratio, rel=0.2
    )


def test_a_training_takes_the_time_that_was_planned(subject):
    model, data = subject
    here = planner.measure(model, data, batch_size=64, accelerator="cpu", clock=time.process_time)
    planned = planner.plan(here, jets=len(data), seen=30 * 64)
    training.fit(model, data, steps=2, batch_size=64, seed=1, accelerator="cpu", progress=False)
    began = time.process_time()
    training.fit(model, data, steps=30, batch_size=64, seed=1, accelerator="cpu", progress=False)
    assert planned.seconds == pytest.approx(time.process_time() - began, rel=0.3)


def test_devices_share_the_batch_and_the_time(subject):
    model, data = subject
    here = planner.measure(model, data, batch_size=64, accelerator="cpu")
    one = planner.plan(here, jets=10_000, epochs=2, bytes_per_jet=1000)
    four = planner.plan(here, jets=10_000, epochs=2, devices=4, bytes_per_jet=1000)
    assert (one.seen, four.need.batch_size) == (20_000, 16)
    assert four.seconds == one.seconds / 4 and four.disk == one.disk
    assert one.store == 1e7 and one.checkpoints > 2 * 12 * here.weights
    assert "20,000 jets seen of 10,000, on this machine" in repr(one)
    assert "4 x this machine" in repr(four) and "without loss" in repr(four)


def test_a_stored_machine_says_when_and_how_it_was_measured(subject, h200):
    model, data = subject
    there = planner.stored(h200, model, data, batch_size=512)
    assert there.name == "NVIDIA H200" and "2026-11-26" in there.basis
    assert there.step > planner.speed(h200)[0] and there.need.free > 1e11
    one, many = (planner.plan(there, jets=10**6, epochs=1, devices=n) for n in (1, 1000))
    assert there.overhead * 10**6 / 512 < many.seconds < one.seconds / 1.01
    with pytest.raises(ValueError, match="0 measurements of training steps in float32"):
        planner.stored(h200.with_name("h100.json"), model, data, batch_size=512)


def test_a_large_store_is_as_large_as_a_small_one_says(tmp_path):
    jets = jetnb.load("jetclass", n_jets=3000)
    for n in (300, 3000):
        store.write(tmp_path / str(n), [jets[:n]], provenance=jets.attrs["jetnb"])
    small, large = (planner.bytes_on_disk(tmp_path / n) for n in ("300", "3000"))
    assert small == pytest.approx(large, rel=0.15)
    file = tmp_path / "300" / "offsets.npy"
    assert planner.bytes_on_disk(file, 300) == file.stat().st_size / 300


def test_what_makes_no_sense_is_refused(subject):
    model, data = subject
    here = planner.measure(model, data, batch_size=64, accelerator="cpu")
    for options, says in (
        ({"jets": 10}, "give one of them"),
        ({"jets": 10, "epochs": 1, "seen": 10}, "give one of them"),
        ({"jets": 0, "epochs": 1}, "must be positive"),
    ):
        with pytest.raises(ValueError, match=says):
            planner.plan(here, **options)
    with pytest.raises(ValueError, match="fewer than batch_size 6000"):
        planner.measure(model, data, batch_size=6000)
