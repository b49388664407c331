"""Training to the plateau of validation, then with a falling rate: what is kept, when it ends."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from jetnb.inputs.batches import Packed
from jetnb.training import plateau

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = dict(batch_size=8, check=4, patience=2, cap=6, cool=2, accelerator="cpu")


class Line(nn.Module):
    def __init__(self, weight=0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), float(weight)))

    def loss(self, batch, *, generator=None):
        x, _, label = batch
        return F.binary_cross_entropy_with_logits(self.weight * x[:, 0], label.float())


def numbers(n=40, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    return Packed((rng.normal(size=n) + shift * (2 * label - 1))[:, None], np.arange(n + 1), label)


def test_one_in_four_of_each_class_is_held_back_and_the_rest_trains(monkeypatch):
    seen = {}
    fit = plateau.training.fit

    def spy(model, data, **options):
        seen.update(train=data.indices, validation=options["validation"].indices)
        return fit(model, data, **options)

    monkeypatch.setattr(plateau.training, "fit", spy)
    data, chosen = numbers(), np.arange(32)
    plateau.fit(Line(), data, chosen, seed=1, lr=0.1, **FEW)
    held = seen["validation"]
    assert len(held) == 8 and np.bincount(data.targets[0][held]).tolist() == [4, 4]
    assert set(held) | set(seen["train"]) == set(chosen) and not set(held) & set(seen["train"])
    assert sorted(seen["train"]) == sorted(set(chosen) - set(held))  # 4 steps of 8: once each


def test_the_best_look_is_kept_and_the_start_is_one():
    sign = np.tile(np.repeat([1.0, -1.0], 4), 20)  # says nothing, held back or not: 0 is best
    data, model = Packed(sign[:, None], np.arange(161), np.repeat([0, 1], 80)), Line()
    found = plateau.fit(model, data, np.arange(160), seed=1, lr=3.0, **FEW)
    assert found["loss"] == found["start"] < min(look["validation_loss"] for look in found["looks"])
    assert float(model.weight.detach()) == 0 and not model.training


def test_it_learns_and_says_how_it_ended():
    model = Line()
    found = plateau.fit(model, numbers(400), np.arange(400), seed=1, lr=0.1, **{**FEW, "cap": 60})
    assert found["ended"] == "patience" and found["loss"] < found["start"]
    assert found["start"] == pytest.approx(np.log(2), abs=1e-5)
    assert 1 < float(model.weight.detach()) < 3.5
    assert found["steps"] == len(found["looks"]) * 38  # 300 of 400, in batches of 8
    again = Line()
    plateau.fit(again, numbers(400), np.arange(400), seed=1, lr=0.1, **{**FEW, "cap": 60})
    assert torch.equal(model.weight, again.weight)


def test_a_cap_that_is_reached_is_told():
    found = plateau.fit(Line(), numbers(400), np.arange(400), seed=1, lr=1e-4, **{**FEW, "cap": 2})
    assert found["ended"] == "finished" and len(found["looks"]) == 4


def test_a_class_too_small_to_hold_back_is_refused():
    with pytest.raises(ValueError, match="one in 4 of each .*, but the smallest class has 1"):
        plateau.fit(Line(), numbers(), np.array([0, 2, 4, 6, 8, 1]), seed=1, lr=0.1, **FEW)


@pytest.mark.parametrize(
    "optimum, tried",
    [
        (0.01, [0.001, 0.01, 0.1]),
        (1.0, [0.001, 0.01, 0.1, 1.0, 10.0]),
        (1e-9, [1e-5, 1e-4, 1e-3, 0.01, 0.1]),
    ],
)
def test_a_grid_grows_until_its_best_is_inside_or_there_are_enough(optimum, tried):
    found = plateau.tune(
        lambda lr: {"loss": abs(np.log10(lr / optimum))}, [0.1, 0.001, 0.01], factor=10, most=5
    )
    assert list(found) == pytest.approx(tried)
    assert list(plateau.tune(lambda lr: {"loss": lr}, [0.3])) == [0.3]
