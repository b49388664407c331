"""Checkpoints: what comes back, what is refused, and what is never overwritten."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from jetnb import checkpoints
from jetnb.models.encoder import DeepSets, Transformer

CARD = {"data": "toy", "encoder": {"dim": 32, "n_layers": 1}, "training": {"lr": 0.1, "seed": 1}}


def encoder(dim=32, n_layers=1, seed=0):
    torch.manual_seed(seed)
    return Transformer(4, dim=dim, n_layers=n_layers, n_heads=4)


def same(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


def test_round_trip(tmp_path):
    one, two = encoder(), encoder(seed=1)
    checkpoints.save(tmp_path / "run", one, {**CARD, "metrics": {"loss": 0.5}})
    assert not same(one, two)
    card = checkpoints.load(tmp_path / "run", two)
    assert same(one, two) and card == checkpoints.read_card(tmp_path / "run")
    assert card["encoder"] == CARD["encoder"] and card["metrics"] == {"loss": 0.5}
    assert set(card["versions"]) == {"jetnb", "torch", "python"} and card["date"].startswith("2")
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["card.json", "model.safetensors"]
    assert checkpoints.read_state(tmp_path / "run") is None


def test_a_part_of_a_model(tmp_path):
    whole = nn.ModuleDict({"encoder": encoder(), "head": nn.Linear(32, 2)})
    checkpoints.save(tmp_path / "run", whole, CARD)
    alone = encoder(seed=1)
    checkpoints.load(tmp_path / "run", alone, part="encoder")
    assert same(whole["encoder"], alone)
    with pytest.raises(ValueError, match="'enc' is not in .* only encoder, head"):
        checkpoints.load(tmp_path / "run", alone, part="enc")


def test_tied_weights(tmp_path):
    def tied(seed):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    one, two = tied(0), tied(1)
    checkpoints.save(tmp_path / "run", one, CARD)
    checkpoints.load(tmp_path / "run", two)
    assert same(one, two) and two[0].weight is two[1].weight
    apart = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    checkpoints.save(tmp_path / "apart", apart, CARD)
    with pytest.raises(ValueError, match="1.weight differs from 0.weight, which is the same"):
        checkpoints.load(tmp_path / "apart", two)
    assert same(one, two)


@pytest.mark.parametrize("other, message", [
    (encoder(dim=64), r"embed.weight is \(32, 4\) there and \(64, 4\) in the model"),
    (encoder(n_layers=2), r"blocks.1.* is only in the model"),
    (DeepSets(4, dim=32), r"constituent.0.weight \(32, 4\)")])
def test_an_encoder_that_does_not_fit_is_refused_whole(tmp_path, other, message):
    checkpoints.save(tmp_path / "run", encoder(), CARD)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.load(tmp_path / "run", other)
    assert '{"dim": 32, "n_layers": 1}' in str(error.value)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_another_run_is_not_overwritten(tmp_path):
    path = tmp_path / "run"
    checkpoints.save(path, encoder(), {**CARD, "trained": {"steps": 1}})
    other = {**CARD, "training": {"lr": 0.2, "seed": 1}}
    with pytest.raises(FileExistsError, match=r"training.lr is 0.1 there and 0.2 here"):
        checkpoints.save(path, encoder(seed=1), other)
    with pytest.raises(FileExistsError, match=r"scaler is null there and \[1\] here"):
        checkpoints.save(path, encoder(seed=1), {**CARD, "scaler": [1]})
    assert checkpoints.read_card(path)["trained"] == {"steps": 1}
    later = encoder(seed=1)
    checkpoints.save(path, later, {**CARD, "trained": {"steps": 2}, "metrics": {"loss": 1}})  # the same run, later
    checkpoints.load(path, fresh := encoder(seed=2))
    assert same(fresh, later) and [file.name for file in tmp_path.iterdir()] == ["run"]


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(FileExistsError, match="is no checkpoint"):
        checkpoints.save(tmp_path / "mine", encoder(), CARD)
    (tmp_path / "file").write_text("text")
    with pytest.raises(FileExistsError, match="is no checkpoint"):
        checkpoints.save(tmp_path / "file", encoder(), CARD)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "all of it"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        checkpoints.load(tmp_path / "nowhere", encoder())


def test_a_card_that_json_cannot_hold_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="card"):
        checkpoints.save(tmp_path / "run", encoder(), {"data": object()})
    assert list(tmp_path.iterdir()) == []


def test_damaged_files_are_named(tmp_path):
    checkpoints.save(tmp_path / "run", encoder(), CARD, state={"step": torch.tensor(3)})
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="model.safetensors is missing or damaged"):
        checkpoints.load(tmp_path / "run", encoder())
    (tmp_path / "run" / "card.json").write_text("{")
    with pytest.raises(ValueError, match="card.json is no card"):
        checkpoints.read_card(tmp_path / "run")


def test_no_file_is_a_pickle(tmp_path):
    checkpoints.save(tmp_path / "run", encoder(), CARD, state={"a.b": torch.arange(3)})
    assert checkpoints.read_state(tmp_path / "run")["a.b"].tolist() == [0, 1, 2]
    for file in (tmp_path / "run").iterdir():
        head = file.read_bytes()
        size = int.from_bytes(head[:8], "little")
        json.loads(head if file.suffix == ".json" else head[8:8 + size])
