"""Flow matching: the way back, numbers made normal, and the small model of whole jets."""

import math

import numpy as np
import pytest
import torch

from jetnb.models import flow

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def test_points_between_and_their_velocity():
    x, noise, t = torch.ones(3, 2), torch.full((3, 2), 5.0), torch.tensor([0.0, 0.25, 1.0])
    at, velocity = flow.noised(x, noise, t)
    assert at[:, 0].tolist() == [1.0, 2.0, 5.0] and (velocity == 4).all()
    moved, _ = flow.noised(x, noise, t + 0.01)
    torch.testing.assert_close((moved - at) / 0.01, velocity, rtol=1e-3, atol=1e-3)


def test_the_way_back_is_of_second_order_and_asks_as_often_as_it_says():
    asked = []

    def velocity(x, t):
        asked.append(t)
        return x  # x(0) = x(1) / e

    errors = []
    for evaluations in (8, 16):
        asked.clear()
        found = flow.follow(
            velocity, torch.ones(1, 1, dtype=torch.float64), evaluations=evaluations
        )
        assert len(asked) == evaluations and asked[0] == 1 and min(asked) > 0
        errors.append(abs(float(found) - math.exp(-1)))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    for wrong in (0, 3):
        with pytest.raises(ValueError, match=f"evaluations is {wrong}: it must be even"):
            flow.follow(velocity, torch.ones(1, 1), evaluations=wrong)


def test_numbers_become_normal_and_come_back_and_ends_stay():
    x = torch.stack(
        [500 + torch.rand(4000, generator=generator()).square() * 500, torch.randn(4000).exp()], 1
    )
    made = flow.ToNormal(2)
    made.fit(x)
    z = made(x)
    assert z.mean(0).abs().max() < 0.05 and (z.std(0) - 1).abs().max() < 0.05
    torch.testing.assert_close(made.back(z), x, rtol=2e-3, atol=2e-3)
    far = made.back(torch.full((1, 2), 20.0))[0]
    torch.testing.assert_close(far, x.amax(0), rtol=1e-4, atol=1e-4)
    assert made.back(torch.full((1, 2), -20.0))[0, 0] >= x[:, 0].min() - 0.1
    with pytest.raises(ValueError, match="x has 0 rows"):
        made.fit(x[:0])


def test_whole_numbers_become_normal_too():
    number = torch.randint(1, 6, (3000, 1), generator=generator()).float()
    made = flow.ToNormal(1)
    made.fit(number)
    assert made(number).isfinite().all()
    back = made.back(made(number + torch.rand(3000, 1, generator=generator())))
    assert (back.floor().clamp(1, 5) - number).abs().mean() < 0.05


def test_the_small_model_learns_jets_of_each_class():
    n, rng = 2000, np.random.default_rng(1)
    label = torch.from_numpy(rng.integers(0, 2, n))
    mass = np.where(label == 1, rng.normal(170, 15, n), rng.gamma(3, 20, n)).clip(1)
    number = np.where(label == 1, rng.poisson(35, n), rng.poisson(20, n)) + 1
    jets = torch.from_numpy(np.column_stack([rng.uniform(500, 1000, n), mass, number])).float()
    torch.manual_seed(1)
    model = flow.Kinematics(2)
    model.to_normal.fit(jets)
    noise = torch.randn(1000, 3, generator=generator(2))
    top = torch.ones(1000, dtype=torch.int64)

    def mean(label):
        with torch.no_grad():
            return model.draw(label, noise, evaluations=16).mean(0)

    before = mean(top)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    draws = generator(3)
    for _ in range(400):
        rows = torch.randint(n, (256,), generator=draws)
        optimiser.zero_grad()
        model.loss(jets[rows], label[rows], generator=draws).backward()
        optimiser.step()
    truth = [jets[label == k].mean(0) for k in (0, 1)]
    assert abs(before[1] - truth[1][1]) > 25  # untrained it does not know the class
    for k in (0, 1):
        found = mean(torch.full((1000,), k))
        assert abs(found[1] - truth[k][1]) < 12 and abs(found[2] - truth[k][2]) < 3
        assert 700 < found[0] < 800
    drawn = model.draw(top, noise, evaluations=8)
    assert (drawn[:, 2] == drawn[:, 2].round()).all() and drawn[:, 2].min() >= 1


def test_equal_numbers_of_a_narrow_range_stay_finite():
    normal, x = flow.ToNormal(1), torch.randint(30, 41, (1000, 1), generator=generator()).float()
    for values in (x, torch.full((100, 1), 30.0)):
        normal.fit(values)
        assert normal(values).isfinite().all() and normal.back(normal(values)).isfinite().all()
        torch.testing.assert_close(normal.back(normal(values)), values, rtol=0, atol=0.05)
