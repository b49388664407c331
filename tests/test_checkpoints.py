"""Checkpoints: what comes back, what is refused, and what is never overwritten."""

from __future__ import annotations

import json
import os
import signal
import sys

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
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == [
        "card.json",
        "model.safetensors",
    ]
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


@pytest.mark.parametrize(
    "other, message",
    [
        (encoder(dim=64), r"embed.weight is \(32, 4\) there and \(64, 4\) in the model"),
        (encoder(n_layers=2), r"blocks.1.* is only in the model"),
        (DeepSets(4, dim=32), r"constituent.0.weight \(32, 4\)"),
    ],
)
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
    checkpoints.save(
        path, later, {**CARD, "trained": {"steps": 2}, "metrics": {"loss": 1}}
    )  # the same run, later
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
    for text in ("{", "[1, 2]", "null", "[" * 100_000, ""):
        (tmp_path / "run" / "card.json").write_text(text)
        with pytest.raises(ValueError, match="card.json is no card"):
            checkpoints.read_card(tmp_path / "run")
    weights.unlink()
    (tmp_path / "run" / "card.json").write_text(json.dumps(CARD))
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        checkpoints.restore(tmp_path / "run", build, name="encoder")


def build(settings, *, seed):
    torch.manual_seed(seed)
    return Transformer(4, n_heads=4, **settings)


class Codes(nn.Module):
    """Draws its numbers before a module could hear of them. `asked`: on which device."""

    asked: list[str] = []

    def __init__(self, *, n_codes, dim):
        super().__init__()
        self.asked.append(torch.empty(0).device.type)
        self.codes = nn.Parameter(torch.randn(n_codes, dim))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"n_layers": 10**9}, "there is a 1,000,000,000 in it"),
        ({"dim": 2**62}, "there is a 4,611,"),
        ({"n_layers": 10_000}, "has more than"),
        ({"dim": 8192, "n_layers": 64}, "has more than"),
        ({"expansion": 12_000}, "has more than"),
        ({"dim": "32"}, "no settings of this network"),
        ({"dim": -32}, "no settings"),
        ({"depth": 2}, "no settings"),
        ({"dim": None}, "no settings"),
        ({"n_layers": 1.5}, "no settings"),
        ({"dim": [10**9]}, "there is a 1,000,000,000"),
    ],
)
def test_a_card_of_another_network_than_its_weights_is_refused_before_that_is_built(
    tmp_path, change, message
):
    checkpoints.save(tmp_path / "run", encoder(), {"encoder": {**CARD["encoder"], **change}})
    with pytest.raises(ValueError, match=message) as error:
        checkpoints.restore(tmp_path / "run", build, name="encoder")
    assert "card.json" in str(error.value) and "train again" in str(error.value)


def test_no_memory_is_asked_for_what_weights_do_not_hold(tmp_path):
    """2^34 numbers, each size below the number of weights: built without memory first."""
    checkpoints.save(
        tmp_path / "run", nn.Linear(2**9, 2**9), {"codes": {"n_codes": 2**17, "dim": 2**17}}
    )
    with pytest.raises(ValueError, match="has more than"):
        checkpoints.restore(
            tmp_path / "run", lambda settings, seed: Codes(**settings), name="codes"
        )
    assert Codes.asked == ["meta"]


@pytest.mark.parametrize("settings", [[1], "transformer", None, 7])
def test_settings_that_are_none_are_refused(tmp_path, settings):
    checkpoints.save(tmp_path / "run", encoder(), {"encoder": settings})
    with pytest.raises(ValueError, match="'encoder' is .*, not dict"):
        checkpoints.restore(tmp_path / "run", build, name="encoder")


def test_a_network_as_large_as_its_weights_comes_back(tmp_path):
    for settings in ({"dim": 32}, {"dim": 64, "n_layers": 3, "expansion": 2}):
        checkpoints.save(
            tmp_path / str(settings["dim"]), one := build(settings, seed=1), {"encoder": settings}
        )
        two, _ = checkpoints.restore(tmp_path / str(settings["dim"]), build, name="encoder")
        assert same(one, two)


def test_others_may_read_what_they_may_read_of_other_files(tmp_path):
    before = os.umask(0o027)
    try:
        checkpoints.save(tmp_path / "run", encoder(), CARD, state={"step": torch.tensor(3)})
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "run").iterdir()} == {0o640}


@pytest.mark.skipif(sys.platform == "win32", reason="has no limit on the size of files")
def test_a_full_disk_gets_a_sentence_and_spares_what_was_there(tmp_path):
    import resource

    checkpoints.save(tmp_path / "run", one := encoder(), CARD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for limit in (10_000, 100):  # the weights do not fit, the card does not fit
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
            try:
                with pytest.raises(
                    ValueError, match="cannot write the checkpoint .*run: File too large; a limit"
                ):
                    checkpoints.save(tmp_path / "run", encoder(seed=1), CARD)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        signal.signal(signal.SIGXFSZ, ignored)
    checkpoints.load(tmp_path / "run", two := encoder(seed=2))
    assert same(one, two) and [file.name for file in tmp_path.iterdir()] == ["run"]


def test_no_file_is_a_pickle(tmp_path):
    checkpoints.save(tmp_path / "run", encoder(), CARD, state={"a.b": torch.arange(3)})
    assert checkpoints.read_state(tmp_path / "run")["a.b"].tolist() == [0, 1, 2]
    for file in (tmp_path / "run").iterdir():
        head = file.read_bytes()
        size = int.from_bytes(head[:8], "little")
        json.loads(head if file.suffix == ".json" else head[8 : 8 + size])
