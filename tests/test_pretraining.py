"""Pretraining in one call, from Python and from the command line, and the shipped checkpoints."""

import json
import os
import re
import signal

import awkward as ak
import numpy as np
import pytest
import torch

import jetnb
from jetnb import __main__ as command_line
from jetnb import augment, checkpoints, finetuning, jets, latent, pretraining, training
from jetnb.__main__ import main
from jetnb.data import store
from jetnb.data.catalogue import DATA
from jetnb.inputs import batches
from jetnb.models.encoder import DeepSets
from jetnb.models.particles import FromParticles
from jetnb.strategies.contrastive import JetCLR
from jetnb.strategies.masked_autoencoder import MaskedAutoencoder

SHIPPED = sorted((DATA / "checkpoints").glob("jetclr*"))
QUICK = {"steps": 3, "batch_size": 32, "progress": False}
SMALL = {"n_features": 5, "dim": 16, "n_layers": 1, "n_heads": 2}


def few(n=96):
    return jetnb.load("jetclass")[:n]


def test_particles_are_the_hardest_of_each_jet_with_its_label():
    sample = few()
    data = pretraining.particles(sample, hardest=10)
    x, offsets, label = data[np.arange(len(sample))]
    assert offsets.diff().max() == 10 and label.tolist() == sample.label.to_list()
    first = [part.pt.to_list()[:10] for part in sample.constituents[:5]]
    np.testing.assert_allclose(x[: offsets[5], 0], np.concatenate(first), rtol=1e-6)


def test_a_pretrained_encoder_comes_back_with_its_card(tmp_path):
    path = tmp_path / "small"
    history = pretraining.pretrain(
        "jetclr", few(), path, seed=3, settings={"encoder": SMALL, "hardest": 20}, **QUICK
    )
    encoder, card = pretraining.load(path)
    assert (history.reason, card["encoder"], card["jets"], card["hardest"]) == (
        "finished",
        SMALL,
        96,
        20,
    )
    data = pretraining.particles(few(), hardest=20)
    untrained = pretraining.build(SMALL, seed=3).fit(data.x, data.offsets)
    torch.testing.assert_close(encoder.mean, untrained.mean)  # the scaling travels with the weights
    z, before = (latent.embed(one, data) for one in (encoder, untrained))
    assert z.shape == (96, 16) and np.abs(z - before).max() > 1e-3


@pytest.mark.parametrize("name", ["jetclr", "masked_autoencoder", "supervised"])
def test_every_strategy_with_an_encoder_trains_comes_back_and_is_listed(name, tmp_path, capsys):
    settings = {"encoder": {"dim": 16, "n_layers": 1, "n_heads": 2}}
    history = pretraining.pretrain(name, few(), tmp_path / name, seed=1, settings=settings, **QUICK)
    encoder, card = pretraining.load(tmp_path / name)
    assert history.reason == "finished" and card["settings"]["encoder"] == {
        "n_features": 5,
        **settings["encoder"],
    }
    data = pretraining.particles(few(), hardest=card["hardest"])
    assert latent.embed(encoder, data).shape == (96, 16) and not torch.equal(
        encoder.width, torch.ones(5)
    )
    again = pretraining.pretrain(
        name, few(), tmp_path / name, seed=1, settings=settings, resume=True, **QUICK
    )
    assert again.steps == history.steps
    assert main(["pretrain", "list"]) == 0 and name in capsys.readouterr().out


def test_tokens_and_their_generator_come_back(tmp_path):
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "max_length": 20}
    codes, path = tmp_path / "codes", tmp_path / "generator"
    pretraining.pretrain("tokens", few(), codes, seed=1, **QUICK)
    settings = {"codes": str(codes), "sizes": sizes}
    pretraining.pretrain("omnijet", few(), path, seed=1, settings=settings, **QUICK)
    model, card = pretraining.restore(path)
    encoder, same = pretraining.load(path)
    assert card == same and card["pretrained_by"] == "omnijet"
    for mine, other in zip(encoder.parameters(), model.generator.encoder.parameters(), strict=True):
        assert torch.equal(mine, other)
    tokens, _ = pretraining.restore(codes)
    assert tokens.n_codes == model.tokenizer.n_codes
    with pytest.raises(ValueError, match="tokenizer, which has no encoder"):
        pretraining.load(codes)


@pytest.mark.parametrize(
    "name, settings",
    [
        ("jetclr", {"encoder": SMALL}),
        ("tokens", {"n_codes": 32, "dim": 16, "n_layers": 1, "n_heads": 2, "extras": ["charge"]}),
    ],
)
def test_jets_of_stores_train_as_those_in_memory_do(name, settings, tmp_path):
    sample, rows = few(), np.random.default_rng(1).permutation(96)
    for part in ("a", "b"):
        store.write(tmp_path / part, [sample[:50] if part == "a" else sample[50:]])
    stores = [store.open(tmp_path / part) for part in ("a", "b")]
    losses = [
        [
            record["loss"]
            for record in pretraining.pretrain(
                name, given, tmp_path / kind, seed=1, settings=settings, log_every=1, **QUICK
            ).steps
        ]
        for kind, given in (("memory", sample[rows]), ("stores", batches.Rows(stores, rows)))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and len(losses[0]) == 3
    assert checkpoints.read_card(tmp_path / "stores")["jets"] == 96


def test_jets_without_labels_are_enough(tmp_path):
    sample = few()[[name for name in few().fields if name != "label"]]
    assert len(pretraining.particles(sample)[np.arange(3)]) == 2
    store.write(tmp_path / "store", [sample])
    data = batches.Rows(store.open(tmp_path / "store"))
    assert pretraining.pretrain(
        "jetclr", data, tmp_path / "ck", seed=1, settings={"encoder": SMALL}, **QUICK
    ).steps


def test_a_masked_autoencoder_of_particles_learns():
    sample = few(256)
    model = pretraining._make(
        MaskedAutoencoder, {**MaskedAutoencoder.SETTINGS, "hardest": 20}, seed=1
    )
    data = pretraining.data_of(model, sample)
    assert data[np.arange(256)][1].diff().max() == 20
    model.fit(data, seed=1)
    training.fit(model, data, steps=60, batch_size=64, lr=3e-3, seed=1, progress=False)
    assert model.monitors()["explained"] > 0.1  # from nothing but the visible particles


class Momentum(torch.nn.Module):
    """Pretraining of a user: how much pt do the particles have that are not among the five hardest?"""

    SETTINGS = {"dim": 16}
    hardest, extras = 30, ("charge",)

    def __init__(self, *, dim):
        super().__init__()
        self.encoder, self.head = FromParticles(DeepSets(5, dim=dim)), torch.nn.Linear(dim, 1)

    def fit(self, data, *, seed):
        self.encoder.fit(data.x[:, :3], data.offsets)

    def loss(self, batch, *, generator=None):
        x, offsets, *_ = batch
        (seen, start) = augment.keep_hardest(x[:, :3], offsets, n_max=5)
        rest = torch.stack([part[5:, 0].sum() for part in x.split(offsets.diff().tolist())])
        return (self.head(self.encoder(seen, start)[1])[:, 0] - rest.log1p()).square().mean()


def test_a_strategy_of_a_user_trains_resumes_and_is_finetuned(tmp_path):
    sample = few(200)
    cut = pretraining.pretrain(
        Momentum, sample, tmp_path / "own", seed=1, log_every=1, watch=bool, **QUICK
    )
    assert cut.reason == "watch" and cut.steps[-1]["step"] == 1
    done = pretraining.pretrain(
        Momentum, sample, tmp_path / "own", seed=1, log_every=1, resume=True, **QUICK
    )
    assert done.reason == "finished" and done.steps[0] == cut.steps[0]
    with pytest.raises(
        ValueError, match="pretrained by 'Momentum', which is none of .*jetclr.*pass its class"
    ):
        pretraining.load(tmp_path / "own")
    encoder, card = pretraining.load(tmp_path / "own", Momentum)
    assert card["settings"] == {"dim": 16} and card["strategy"] == "Momentum"
    parts = [
        pretraining.particles(part, hardest=30)
        for part in jets.split(sample, (0.5, 0.25, 0.25), seed=1)
    ]
    table = finetuning.measure(
        lambda seed: FromParticles(DeepSets(5, dim=16)).fit(parts[0].x, parts[0].offsets),
        parts,
        budgets=[40],
        seeds=[1],
        pretrained=encoder,
        modes=["frozen", "finetuned"],
        validation_least=20,
        steps=4,
        epochs=1,
        lrs={"finetuned": (1e-3,)},
        progress=False,
    )
    assert sorted(table.mode.to_list()) == ["finetuned", "frozen"]


def test_a_strategy_in_a_file_is_found_by_the_command_line(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from jetnb.strategies.contrastive import JetCLR\n\n\nclass Mine(JetCLR):\n    TITLE = 'mine'\n"
    )
    out = tmp_path / "ck"
    words = ["jetclass", "--jets", "64", "--steps", "2", "--batch-size", "32", "--out", str(out)]
    assert (
        main(
            [
                "pretrain",
                f"{tmp_path}/mine.py:Mine",
                *words,
                "--set",
                "encoder.dim=32",
                "temperature=0.3",
            ]
        )
        == 0
    )
    card = checkpoints.read_card(out)
    assert (card["strategy"], card["pretrained_by"], card["settings"]["temperature"]) == (
        "mine",
        "Mine",
        0.3,
    )
    assert card["settings"]["encoder"]["dim"] == 32 and str(tmp_path) not in json.dumps(card)
    for strategy, said in (
        ("nothing", "strategy 'nothing' is unknown: use one of "),
        (f"{tmp_path}/mine.py:Yours", "cannot be loaded"),
        (f"{tmp_path}/none.py:Mine", "cannot be loaded"),
    ):
        assert main(["pretrain", strategy, *words]) == 2 and said in capsys.readouterr().err
    assert main(["pretrain", "jetclr"]) == 2 and "name the jets" in capsys.readouterr().err
    assert main(["pretrain", "jetclr", *words, "--set", "encoder=1", "encoder.dim=32"]) == 2
    assert "'encoder.dim=32' is inside of 'encoder', which was set to 1" in capsys.readouterr().err
    (tmp_path / "jets.h5").write_bytes(b"")
    assert main(["pretrain", "jetclr", str(tmp_path / "jets.h5"), "--out", str(out)]) == 2
    assert "jets.h5 is no store: make one with `jetnb data convert" in capsys.readouterr().err


class Headless(Momentum):
    """A strategy that forgot to say which part is its encoder."""

    def __init__(self, *, dim):
        super().__init__(dim=dim)
        self.body = self.__dict__["_modules"].pop("encoder")

    def fit(self, data, *, seed):
        self.body.fit(data.x[:, :3], data.offsets)

    def loss(self, batch, *, generator=None):
        return self.head(self.body(batch[0][:, :3], batch[1])[1]).square().mean()


def test_a_strategy_without_an_encoder_is_told_so(tmp_path):
    pretraining.pretrain(Headless, few(), tmp_path / "ck", seed=1, **QUICK)
    with pytest.raises(
        ValueError, match="pretrained by Headless, which has no attribute 'encoder'"
    ):
        pretraining.load(tmp_path / "ck", Headless)


def test_labels_are_not_looked_at(tmp_path):
    sample = few(64)
    other = ak.with_field(sample, -np.ones(len(sample), np.int32), "label")
    for name, which in (("one", sample), ("two", other)):
        pretraining.pretrain(
            "jetclr", which, tmp_path / name, seed=1, settings={"encoder": SMALL}, **QUICK
        )
    one, two = (pretraining.load(tmp_path / name)[0].state_dict() for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_command_line_pretrains_and_goes_on(tmp_path, capsys):
    command = [
        "pretrain",
        "jetclr",
        "jetclass",
        "--jets",
        "64",
        "--steps",
        "2",
        "--batch-size",
        "32",
        "--seed",
        "1",
        "--out",
        str(tmp_path / "ck"),
    ]
    assert main(command) == 0 and main(command) == 0
    assert capsys.readouterr().out.count("finished: loss ") == 2
    card = checkpoints.read_card(tmp_path / "ck")
    assert (
        card["drawn_from"] == [{"sample": "jetclass", "seed": 1, "jets": 20_001}]
        and card["jets"] == 64
    )
    assert main([*command[:-2], "--lr", "0.1", "--out", command[-1]]) == 2
    assert "lr is 0.001 there and 0.1 here" in capsys.readouterr().err


def test_ctrl_c_in_the_first_epoch_is_one_line_and_the_same_command_goes_on(
    tmp_path, capsys, monkeypatch
):
    command = [
        "pretrain",
        "jetclr",
        "jetclass",
        "--jets",
        "96",
        "--steps",
        "3",
        "--batch-size",
        "32",
        "--seed",
        "1",
        "--out",
        str(tmp_path / "ck"),
    ]
    loss = JetCLR.loss

    def interrupted(self, batch, *, generator=None):
        os.kill(os.getpid(), signal.SIGINT)
        return loss(self, batch, generator=generator)

    monkeypatch.setattr(JetCLR, "loss", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
    try:
        assert main(command) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capsys.readouterr()
    assert said.out == "" and said.err.splitlines()[-1].startswith(
        "jetnb: interrupted: the same command goes on"
    )
    assert checkpoints.read_card(tmp_path / "ck")["trained"]["steps"] == 1
    monkeypatch.setattr(JetCLR, "loss", loss)
    assert main(command) == 0 and "finished: loss" in capsys.readouterr().out


def test_the_command_line_refuses_other_jets_of_the_same_number(tmp_path, capsys):
    command = [
        "pretrain",
        "jetclr",
        "jetclass",
        "--jets",
        "64",
        "--steps",
        "2",
        "--batch-size",
        "32",
        "--seed",
        "1",
    ]
    command = [*command, "--out", str(tmp_path / "ck")]
    assert main(command) == 0
    history = (tmp_path / "ck.history.jsonl").read_text()
    card = json.loads((tmp_path / "ck" / "card.json").read_text())
    card["checksum"]["data"]["sums"][0] *= 1.001
    (tmp_path / "ck" / "card.json").write_text(json.dumps(card))
    assert (
        main(command) == 2
        and "had other data: features of constituents differ" in capsys.readouterr().err
    )
    assert (tmp_path / "ck.history.jsonl").read_text() == history


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    checkpoints.save(tmp_path / "other", torch.nn.Linear(2, 2), {"data": "none"})
    with pytest.raises(ValueError, match="has no 'encoder'"):
        pretraining.load(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        pretraining.load(tmp_path / "nothing")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_checkpoints_say_what_they_are(path):
    _, card = pretraining.load(path)
    assert card["trained"]["reason"] == "finished" and card["data"]["source"] == "simulation"
    assert sum(part["jets"] for part in card["drawn_from"]) >= card["jets"]
    assert "/" not in json.dumps(card).replace(
        card["strategy"], ""
    )  # no path of the machine that made it


@pytest.mark.parametrize("name", ["seed", "scale", "all", "jetclr"])
def test_shipped_contrasts_of_resimulations_had_one_budget_and_other_jets(name):
    encoder, card = pretraining.load(DATA / "checkpoints" / f"resimulation-{name}")
    assert card["trained"]["reason"] == "finished" and card["classes"] == ["QCD", "HToBB"]
    assert {part["seed"] for part in card["drawn_from"]} == {20000}  # the sample has 1
    other = checkpoints.read_card(DATA / "checkpoints" / "resimulation-all")
    assert card["jets"] == other["jets"] and card["trained"]["steps"] == other["trained"]["steps"]
    batch = pretraining.particles(few(4), hardest=card["hardest"])[np.arange(4)]
    assert encoder(*batch[:2])[1].isfinite().all()


def test_there_are_shipped_checkpoints_for_four_sizes():
    cards = [checkpoints.read_card(path) for path in SHIPPED]
    assert sorted(card["jets"] for card in cards) == [512, 1500, 8000, 16001]
    assert len({card["trained"]["steps"] for card in cards}) == 1  # only the number of jets differs


def test_shipped_pretraining_has_seen_no_shipped_jet():
    for path in SHIPPED:
        assert {part["seed"] for part in checkpoints.read_card(path)["drawn_from"]} == {
            20000
        }  # the samples have 1


def test_the_shipped_encoder_is_better_than_a_random_one_on_jets_of_another_sample():
    known, asked = jets.split(jetnb.load("toptagging")[:3000], (0.5, 0.5), seed=1)
    encoder, card = pretraining.load(DATA / "checkpoints" / "jetclr")
    data = [pretraining.particles(part, hardest=card["hardest"]) for part in (known, asked)]
    random = pretraining.build(card["encoder"], seed=1).fit(data[0].x, data[0].offsets)
    found = {}
    for name, one in {"pretrained": encoder, "random": random}.items():
        z = [latent.embed(one, part) for part in data]
        found[name] = latent.knn(z[0], known.label, z[1], asked.label, k=20).accuracy
    assert found["pretrained"].low > found["random"].high


def test_the_supervised_ceiling_tells_ten_classes_here():
    encoder, card = pretraining.load(DATA / "checkpoints" / "supervised")
    data = pretraining.particles(few(20))
    assert encoder(*data[np.arange(20)][:2])[1].isfinite().all()
    assert card["metrics"]["validation_loss"] < 1.3 < np.log(10)


@pytest.mark.parametrize(
    "words, says",
    [
        ("--jets -5", "--jets -5: ask for 1 to "),
        ("--jets 99999", "--jets 99999: ask for 1 to "),
        ("--split 0 1 0", "no jet is left to train on"),
        ("--out taken", "--out taken is there and is no checkpoint"),
        ("--set encoder.dims=8", "settings do not fit JetCLR.*'dims'"),
        ("--set encoder=5", "encoder of jetclr is 5: give some of"),
        (
            "--set temperature=abc",
            "temperature of jetclr is 'abc': give a value like the default, 0.1",
        ),
        ("--set encoder.dim=abc", "encoder.dim of jetclr is 'abc': give a value like"),
        ("--accelerator foo", "accelerator 'foo' is unknown: use one of auto, cpu"),
    ],
)
def test_the_command_line_refuses_what_cannot_be(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    assert (
        main(["pretrain", "jetclr", "toptagging", "--steps", "1", "--out", "x", *words.split()])
        == 2
    )
    assert re.search(says, capsys.readouterr().err) and [
        one.name for one in tmp_path.iterdir()
    ] == ["taken"]


def test_an_option_that_is_given_twice_counts_twice(capsys):
    parser = command_line._parser()
    args = parser.parse_args(
        ["pretrain", "tokens", "x", "--set", "n_codes=16", "--set", "context=features"]
    )
    assert args.set == ["n_codes=16", "context=features"]
    args = parser.parse_args(
        ["league", "--out", "x", "--rows", "a", "b", "--rows", "c", "--seeds", "1", "--seeds", "2"]
    )
    assert args.rows == ["a", "b", "c"] and args.seeds == [1, 2]
    with pytest.raises(SystemExit):
        parser.parse_args(["pretrain", "tokens", "x", "--seed", "-1"])
    assert "a seed is 0 or more" in capsys.readouterr().err
