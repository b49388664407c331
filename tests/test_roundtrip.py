"""Round trips through a tokenizer: errors, k-means, drawing from cells."""

import numpy as np
import pytest
import torch

from jetnb.inputs import batches
from jetnb.models import roundtrip


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    offsets = np.append(0, rng.integers(3, 30, 300).cumsum())
    pt = np.exp(rng.normal(1.8, 1, offsets[-1]))
    x = np.column_stack([pt, *rng.normal(0, 0.3, (2, offsets[-1]))]).astype(np.float32)
    return batches.Packed(x, offsets)


@pytest.fixture(scope="module")
def cells(data):
    return roundtrip.k_means(data, 64, seed=1)


def test_a_round_trip_is_that_of_the_tokenizer(data, cells):
    found, tokens = roundtrip.run(cells, data, batch_size=7)
    x, offsets, *_ = data[np.arange(len(data))]
    assert np.array_equal(tokens, cells.encode(x, offsets))
    np.testing.assert_allclose(found, cells.decode(torch.from_numpy(tokens), offsets), rtol=1e-6)


def test_a_round_trip_does_not_move_the_codes(data, cells):
    before = cells.quantiser.codes.clone()
    cells.train()
    roundtrip.run(cells, data)
    assert cells.training and torch.equal(before, cells.quantiser.codes)
    cells.eval()


def test_errors_by_hand():
    true = np.array([[10.0, 0, 0], [20, 0, 0], [30, 0, 0]])
    found = true + [[1, 0.3, 0.4], [-4, 0.03, 0.04], [9, 0, 1]]
    assert roundtrip.errors(found, true) == pytest.approx({"direction": 0.5, "pt": 0.2})


def test_more_codes_have_smaller_errors(data, cells):
    many = roundtrip.k_means(data, 512, seed=1)
    few, more = (roundtrip.errors(roundtrip.run(one, data)[0], data.x) for one in (cells, many))
    assert more["direction"] < 0.7 * few["direction"] and more["pt"] < 0.7 * few["pt"]


def test_drawing_gives_constituents_of_the_same_cell(data, cells):
    found, tokens = roundtrip.run(cells, data)
    drawn = roundtrip.draw(cells, tokens, data, seed=1)
    assert {tuple(one) for one in drawn} <= {tuple(one) for one in data.x}
    again = cells.encode(torch.from_numpy(drawn), torch.tensor([0, len(drawn)]))
    assert np.array_equal(again, tokens)
    assert drawn[:, 1].std() > found[:, 1].std()  # centres are narrower than what they stand for


def test_a_cell_without_constituents_gives_its_centre(data, cells):
    _, tokens = roundtrip.run(cells, data)
    part = data[np.arange(2)]
    few = batches.Packed(part[0].numpy(), part[1].numpy())
    missing = np.setdiff1d(tokens, roundtrip.run(cells, few)[1])[:1]
    centre = cells.decode(torch.from_numpy(missing), torch.tensor([0, 1])).numpy()
    np.testing.assert_array_equal(roundtrip.draw(cells, missing, few, seed=1), centre)
