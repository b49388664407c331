"""Batches from memory and from a store, their order, and the thread that makes them."""

from __future__ import annotations

import threading
import time

import awkward as ak
import numpy as np
import pytest
import torch

import jetnb
from jetnb import inputs
from jetnb.data import store
from jetnb.inputs import batches
from jetnb.inputs.batches import Packed, Rows, Stored, prefetch, schedule


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("jetclass")[:300]


@pytest.fixture(scope="module")
def stored(jets, tmp_path_factory):
    return store.write(tmp_path_factory.mktemp("batches") / "store", jets)


def test_packed_gathers_each_jet_with_its_targets(jets):
    made = inputs.compute(jets)
    data = Packed(made.x, made.offsets, jets.label, jets.mass)
    chosen = np.random.default_rng(0).permutation(len(jets))[:50]
    x, offsets, label, mass = data[chosen]
    assert (x.dtype, offsets.dtype, label.dtype, mass.dtype) == (
        torch.float32,
        torch.int64,
        torch.int64,
        torch.float32,
    )
    expected = inputs.compute(jets[chosen])
    np.testing.assert_array_equal(x, expected.x)
    np.testing.assert_array_equal(offsets, expected.offsets)
    np.testing.assert_array_equal(label, jets.label[chosen])
    np.testing.assert_array_equal(mass, jets.mass[chosen])


def test_a_batch_is_data_again_and_a_subset_too(jets):
    made = inputs.compute(jets)
    data, chosen = Packed(made.x, made.offsets, jets.label), np.arange(3, 90, 2)
    again, subset = Packed(*data[chosen]), torch.utils.data.Subset(data, chosen)
    listed = torch.utils.data.Subset(subset, list(range(len(chosen))))  # as random_split makes
    as_list = batches.as_data(listed)
    assert torch.equal(as_list[np.array([2, 0])][0], subset[np.array([2, 0])][0])
    assert len(again) == len(subset) == len(chosen)
    for a, b in zip(again[np.array([5, 1])], subset[np.array([5, 1])], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_jets_without_constituents_and_no_jets_at_all():
    data = Packed(np.ones((3, 2)), [0, 0, 3, 3], torch.zeros(3, 4))
    x, offsets, target = data[np.array([2, 0, 1])]
    assert offsets.tolist() == [0, 0, 0, 3] and x.shape == (3, 2) and target.shape == (3, 4)
    assert [tuple(t.shape) for t in data[np.array([], int)]] == [(0, 2), (1,), (0, 4)]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.ones((3, 2)), [0, 2]), "offsets"),
        ((np.ones((3, 2)), [0, 4, 3]), "offsets"),
        ((np.ones(3), [0, 3]), "offsets"),
        ((np.ones((3, 2)), []), "offsets"),
        ((np.ones((3, 2)), [0, 3], [1, 2]), r"target 0 .* 1 jets"),
    ],
)
def test_packed_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        Packed(*arguments)


@pytest.mark.parametrize("indices", [[-1], [3], np.ones(3, bool), [[0]], [0.5]])
def test_packed_refuses_indices_that_are_none(indices):
    with pytest.raises(IndexError):
        Packed(np.ones((3, 2)), [0, 1, 2, 3])[indices]


def test_stored_makes_what_packed_holds(jets, stored):
    features = [*inputs.KINEMATIC, "charge", "tanh_d0"]
    made = inputs.compute(jets, features)
    scaler = inputs.Scaler.fit(made.x, features)
    packed = Packed(scaler.transform(made.x), made.offsets, jets.label, jets.tau2)
    data = Stored(stored, features, scaler=scaler, targets=("label", "tau2"))
    assert len(data) == len(packed) == 300
    chosen = np.random.default_rng(1).permutation(300)[:40]
    for a, b in zip(data[chosen], packed[chosen], strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_stored_gives_the_particles_of_augmentations(jets, stored):
    x, offsets = Stored(stored, ("pt", "deta", "dphi"), targets=())[np.arange(20)]
    expected = inputs.to_relative(jets[:20])
    np.testing.assert_array_equal(x[:, 0], ak.flatten(jets.constituents.pt[:20]))
    np.testing.assert_allclose(x, expected.x, atol=1e-6)
    np.testing.assert_array_equal(offsets, expected.offsets)


def test_several_stores_and_rows_of_them_are_as_one(jets, stored, tmp_path):
    for name, part in (("a", jets[:120]), ("b", jets[120:])):
        store.write(tmp_path / name, [part])
    both = [store.open(tmp_path / name) for name in ("a", "b")]
    rows = np.random.default_rng(2).permutation(300)[:200]
    features = ("pt", "deta", "dphi", "charge")
    one, two = Stored(stored, features, hardest=5), Stored(Rows(both, rows), features, hardest=5)
    assert len(two) == 200 and np.array_equal(two.jets.column("event"), jets.event[rows])
    chosen = np.random.default_rng(3).permutation(200)[:50]
    for a, b in zip(two[chosen], one[rows[chosen]], strict=True):
        assert torch.equal(a, b)
    assert two[chosen][1].diff().max() == 5 and len(two[np.zeros(0, int)][1]) == 1
    with pytest.raises(IndexError, match="jet index 300 at position 1 is outside 0 to 299"):
        Rows(both, [0, 300])
    with pytest.raises(ValueError, match="stores is empty"):
        Rows([])


def test_stored_says_what_it_does_not_have(stored):
    with pytest.raises(ValueError, match="store: feature 'spin' is unknown: use some of"):
        Stored(stored, ("spin",))
    with pytest.raises(ValueError, match="'spin' is no jet field"):
        Stored(stored, targets=("spin",))
    with pytest.raises(ValueError, match="scaler"):
        Stored(stored, scaler=inputs.Scaler(("deta",), (0.0,), (1.0,)))


@pytest.mark.parametrize("n, batch_size", [(1, 8), (8, 8), (9, 8), (100, 7), (7, 1)])
def test_schedule_takes_every_jet_once_in_even_batches(n, batch_size):
    made = schedule(n, batch_size, seed=3, epoch=2)
    sizes = [len(batch) for batch in made]
    assert sorted(np.concatenate(made).tolist()) == list(range(n))
    assert (
        max(sizes) <= batch_size
        and max(sizes) - min(sizes) <= 1
        and len(made) == -(-n // batch_size)
    )


def test_schedule_is_a_function_of_its_arguments():
    def order(seed, epoch):
        return np.concatenate(schedule(50, 8, seed=seed, epoch=epoch)).tolist()

    np.random.seed(0)
    assert order(1, 4) == order(1, 4)
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16
    for arguments in ((0, 4), (4, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            schedule(*arguments, seed=1, epoch=0)


class Slow:
    """Data that notes which thread asked for what, and fails at one index."""

    def __init__(self, bad=None):
        self.asked, self.threads, self.bad = [], set(), bad

    def __getitem__(self, indices):
        self.asked.append(int(indices[0]))
        self.threads.add(threading.get_ident())
        if indices[0] == self.bad:
            raise OSError("the disk is gone")
        return (torch.from_numpy(indices),)


def one_by_one(n):
    return [np.array([i]) for i in range(n)]


def test_prefetch_keeps_order_and_works_ahead_in_one_other_thread():
    data, before = Slow(), threading.active_count()
    made = prefetch(data, one_by_one(9), ahead=3)
    assert next(made)[0].item() == 0
    for _ in range(200):
        if len(data.asked) == 4:
            break
        time.sleep(0.01)
    assert data.asked == [0, 1, 2, 3]  # the first, and three ahead
    assert [batch[0].item() for batch in made] == list(range(1, 9))
    assert len(data.threads) == 1 and threading.get_ident() not in data.threads
    assert threading.active_count() == before


def test_prefetch_stops_when_closed():
    data, before = Slow(), threading.active_count()
    made = prefetch(data, one_by_one(1000), ahead=3)
    next(made)
    made.close()
    assert threading.active_count() == before and len(data.asked) <= 4


def test_prefetch_hands_an_error_on_where_it_belongs():
    data, before, seen = Slow(bad=2), threading.active_count(), []
    with pytest.raises(OSError, match="the disk is gone"):
        for (batch,) in prefetch(data, one_by_one(9), ahead=4):
            seen.append(batch.item())
    assert seen == [0, 1] and threading.active_count() == before


def test_prefetch_of_nothing_and_without_a_thread():
    assert list(prefetch(Slow(), [])) == []
    data = Slow()
    made = prefetch(data, one_by_one(5), ahead=0)
    assert (
        next(made)[0].item() == 0 and data.asked == [0] and data.threads == {threading.get_ident()}
    )
    assert [batch[0].item() for batch in made] == [1, 2, 3, 4]


def test_split_is_the_order_without_the_shuffle():
    assert [part.tolist() for part in batches.split(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
