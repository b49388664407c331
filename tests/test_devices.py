"""How many threads a training gets, and that what the user has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from jetnb import hardware, training
from jetnb.inputs import batches

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
PASSIVE = {"OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize(
    ("n_weights", "environment", "expected"),
    [
        (200_000, {}, 1),
        (200_000, {"OMP_WAIT_POLICY": "ACTIVE"}, 1),
        (200_000, PASSIVE, 2),
        (5_000_000, {}, 8),
        (5_000_000, PASSIVE, 8),
        (200_000, {"OMP_NUM_THREADS": "8"}, 8),
        (200_000, PASSIVE | {"MKL_NUM_THREADS": "8"}, 8),
    ],
)
@pytest.mark.parametrize("per_core", [1, 2])
def test_small_networks_get_few_threads(monkeypatch, n_weights, environment, expected, per_core):
    monkeypatch.setattr(hardware, "AT_FIRST", 8)
    monkeypatch.setattr(
        hardware.os, "sched_getaffinity", lambda pid: set(range(8 * per_core)), raising=False
    )
    assert hardware.n_threads(n_weights, 8, environment) == expected
    assert hardware.n_threads(n_weights, 3, environment) == 3  # set since by the user


@pytest.mark.parametrize("environment", [{}, PASSIVE])
def test_a_number_set_before_the_package_was_imported_stays(monkeypatch, environment):
    monkeypatch.setattr(hardware, "AT_FIRST", 6)
    monkeypatch.setattr(hardware.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert hardware.n_threads(1000, 6, environment) == 6


def test_one_thread_stays_one():
    assert hardware.n_threads(1000, 1, PASSIVE) == 1


class Toy(nn.Module):
    def __init__(self, fails=False):
        super().__init__()
        self.linear, self.fails, self.seen = nn.Linear(3, 1), fails, set()

    def loss(self, batch, *, generator=None):
        self.seen.add(torch.get_num_threads())
        if self.fails:
            raise ArithmeticError
        return self.linear(batch[0]).square().mean()


@pytest.fixture
def data():
    return batches.Packed(torch.ones(8, 3), torch.arange(9))


@pytest.mark.parametrize("fails", [False, True])
def test_the_number_holds_within_a_training_alone(monkeypatch, data, fails):
    monkeypatch.setattr(hardware, "n_threads", lambda n_weights, now: now + n_weights)
    before, model = torch.get_num_threads(), Toy(fails)
    try:
        training.fit(model, data, epochs=1, seed=1, accelerator="cpu", progress=False)
    except ArithmeticError:
        assert fails
    assert model.seen == {before + 4} and torch.get_num_threads() == before


def test_the_command_line_lets_threads_sleep():
    code = (
        "import os; from jetnb import __main__; __main__.main(['data', 'info', 'jetnet'])\n"
        "print(os.environ['OMP_WAIT_POLICY'])"
    )
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for mine, expected in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env=plain | mine,
            timeout=120,
        )
        assert done.stdout.splitlines()[-1] == expected, done.stderr


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, False, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_auto_is_the_best_device_that_there_is(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert hardware.named("auto") == expected and hardware.named("cpu") == "cpu"
