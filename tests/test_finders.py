"""Finders of learning rate and batch size, against what is known of simple losses."""

import numpy as np
import pytest
import torch
from torch import nn

from jetnb import plots
from jetnb.inputs.batches import Packed
from jetnb.training import finders

pytestmark = pytest.mark.usefixtures("one_thread")


class Point(nn.Module):
    """Mean squared distance of a point to one particle of each jet."""

    def __init__(self, away=1.0, dim=4):
        super().__init__()
        self.at = nn.Parameter(torch.full((dim,), float(away)))

    def loss(self, batch, *, generator=None):
        x, _, *_ = batch
        return 0.5 * (x - self.at).square().sum(1).mean()


def cloud(n=4000, sigma=1.0, dim=4):
    x = sigma * np.random.default_rng(1).normal(size=(n, dim))
    return Packed(x - x.mean(0), np.arange(n + 1))


def test_the_noise_scale_is_variance_over_squared_mean():
    # the gradient of one jet is at - x: its variance is 4 sigma^2, its mean is at, of norm 2
    noise = finders.find_batch_size(
        Point(1.0), cloud(sigma=3.0), looks=(0,), n_small=400, accelerator="cpu"
    )
    found = noise.scale[0]
    assert abs(found.value - 9) < 2 * (found.high - found.low) / 2 < 2
    assert noise.suggestion == 8
    quiet = finders.find_batch_size(Point(1.0), cloud(sigma=0.1), looks=(0,), accelerator="cpu")
    assert quiet.scale[0].value == pytest.approx(0.01, rel=0.4)


def test_noise_grows_as_the_loss_nears_its_end():
    noise = finders.find_batch_size(
        Point(1.0), cloud(), looks=(0, 60), lr=0.015, n_small=200, accelerator="cpu"
    )
    assert noise.scale[1].value > 4 * noise.scale[0].value


def test_ten_times_as_far_wants_a_rate_ten_times_as_high():
    near, far = (
        finders.find_rate(Point(away), cloud(), highest=100.0, accelerator="cpu")
        for away in (3.0, 30.0)
    )
    assert 6 < far.suggestion / near.suggestion < 16
    # in a ramp of 7 decades in 100 steps the sum of all rates so far is about 6.7 times the last
    assert 3.0 / 6.7 / 4 < near.suggestion < 3.0 / 6.7 * 2
    assert repr(near).startswith("learning rate 0.")


def test_a_ramp_ends_where_the_loss_is_above_its_start():
    found = finders.find_rate(Point(3.0), cloud(), highest=1e6, seeds=(1,), accelerator="cpu")
    assert np.isnan(found.losses[0]).any() and np.isfinite(found.smooth[0][:10]).all()


def test_one_call_and_one_figure_and_the_model_is_as_before():
    model = Point(1.0)
    found = finders.find(model, cloud(500), seeds=(1, 2), steps=40, looks=(0, 5), accelerator="cpu")
    assert (model.at == 1).all() and model.at.grad is None
    again = finders.find(model, cloud(500), seeds=(1, 2), steps=40, looks=(0, 5), accelerator="cpu")
    assert repr(found) == repr(again) and "batch of" in repr(found)
    left, right = plots.finders(found).axes
    assert len(left.lines) == 2 + 2 + 1 and right.get_yscale() == "log"


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (finders.find_rate, {"lowest": 1.0, "highest": 0.1}, "must be positive and rise"),
        (finders.find_rate, {"steps": 5}, "at least 10"),
        (finders.find_batch_size, {"looks": (5, 2)}, "must rise"),
    ],
)
def test_what_makes_no_sense_is_refused(function, options, says):
    with pytest.raises(ValueError, match=says):
        function(Point(), cloud(100), accelerator="cpu", **options)


def test_an_interval_is_at_its_level():
    gradients = torch.randn(64, 5, generator=torch.Generator().manual_seed(1)).double() + 1
    narrow, wide = (finders._noise(gradients, 8, level) for level in (0.6827, 0.95))
    assert np.log(wide.high / wide.low) == pytest.approx(
        1.96 * np.log(narrow.high / narrow.low), rel=1e-3
    )


def test_a_teacher_follows_in_a_sweep():
    class Followed(Point):
        def after_step(self, done, total):
            calls.append((done, total))

    calls = []
    finders.find_batch_size(Followed(1.0), cloud(), looks=(0, 3), n_small=4, accelerator="cpu")
    assert calls == [(1, 3), (2, 3), (3, 3)]
    calls.clear()
    finders.find_rate(Followed(1.0), cloud(), seeds=(1,), steps=20, accelerator="cpu")
    assert calls[0] == (1, 20) and len(calls) > 9
