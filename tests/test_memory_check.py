"""Memory of a training: what is counted, against what a GPU took, and the sentence of the check."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jetnb.inputs.batches import Packed
from jetnb.training import memory

HERE = Path(__file__).parent
H200 = HERE.parent / "data" / "reference" / "gpu" / "h200.json"
pytestmark = pytest.mark.usefixtures("one_thread")


class Wide(nn.Module):
    """100 numbers of each particle to 1000 and on to one."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(100, 1000), nn.Linear(1000, 1)

    def loss(self, batch, *, generator=None):
        x, *_ = batch
        return self.last(self.first(x).relu()).square().mean()


def particles(n=64, each=10):
    x = np.random.default_rng(0).normal(size=(n * each, 100))
    return Packed(x, np.arange(n + 1) * each)


def test_what_lives_at_once_is_counted():
    need = memory.measure(Wide(), particles(), batch_size=100, accelerator="cpu")
    n_weights = 100 * 1000 + 1000 + 1000 + 1
    assert (need.weights, need.gradients) == (4 * n_weights, 4 * n_weights)
    assert (need.moments, need.kept) == (8 * n_weights, 4 * n_weights)
    one = 4 * 10 * 1000  # bytes of 1000 numbers of the ten particles of a jet
    assert 2 * one < need.per_jet < 4 * one  # before relu, after it, and the gradient of one
    assert need.total == pytest.approx(5 * 4 * n_weights + need.fixed + 100 * need.per_jet)


def test_the_sentence_says_what_would_fit():
    need = memory.measure(Wide(), particles(), batch_size=100, accelerator="cpu")
    assert memory.check(need.at(100, free=10**10)).fits
    small = need.at(10_000, free=200_000_000)
    with pytest.raises(
        MemoryError, match=rf"it does not fit; a batch of {small.largest} jets"
    ) as e:
        memory.check(small)
    assert "200 MB are free" in str(e.value) and "AdamW 816 kB" in str(e.value)
    assert small.at(small.largest).fits and not small.at(int(small.largest * 1.01)).fits
    assert "no batch fits" in repr(need.at(1, free=1_000_000))


def test_a_model_is_left_as_it_is():
    model = Wide()
    state = torch.random.get_rng_state()
    before = [value.clone() for value in model.parameters()]
    memory.measure(model, particles(), batch_size=8, accelerator="cpu")
    assert all(map(torch.equal, before, model.parameters()))
    assert all(value.grad is None for value in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_fewer_jets_than_are_measured_are_refused():
    with pytest.raises(ValueError, match="31 jets: the measurement needs 32"):
        memory.measure(Wide(), particles(31), batch_size=8)


def test_five_models_took_on_a_gpu_what_is_said_here(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE / "gpu"))
    import subjects

    measured = json.loads(H200.read_text())["results"]["speed"]
    batch, goal = measured["jets"]["batch"], measured["jets"]["constituents"]
    data, off = subjects.packed("jetclass", 1500), {}
    # jets with as many constituents as those that were measured
    lengths = np.diff(data["particles"].offsets)
    order = np.argsort(lengths)
    first = next(i for i in range(len(order)) if lengths[order[i:]].mean() >= goal)
    rows = np.random.default_rng(0).permutation(order[first:])[:256]
    names = ("Transformer", "DeepSets", "JetCLR", "masked autoencoder", "next token, turned")
    tried = subjects.models(data, False)
    for name in names:
        model, kind = tried[name]
        some = Packed(*data[kind][rows])
        need = memory.measure(model, some, batch_size=batch, accelerator="cpu")
        need = need._replace(kept=int(memory.WORKSPACES))
        off[name] = need.total / 1e9 / measured[f"{name}: float32"]["memory_GB"] - 1
    print(off)
    assert max(map(abs, off.values())) < 0.3, off
    sys.modules.pop("subjects", None)
