"""Next-token prediction: one checkpoint for tokenizer and generator, from Python and from the
command line.
"""

import awkward as ak
import numpy as np
import pytest
import torch

import jetnb
from jetnb import checkpoints, plots, pretraining, substructure, training
from jetnb.__main__ import main
from jetnb.data import catalogue
from jetnb.jets import provenance
from jetnb.models import tokenizer
from jetnb.strategies import next_token

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* did not stop"),
]
CODES = {"n_codes": 32, "dim": 16, "n_layers": 1, "n_heads": 2, "context": "causal"}
SIZES = {"dim": 16, "n_layers": 1, "n_heads": 2}
QUIET = {"batch_size": 32, "progress": False}


@pytest.fixture(scope="module")
def jets():
    return jetnb.load("aoj")[:120]


@pytest.fixture(scope="module")
def trained(jets, tmp_path_factory):
    """Folder with checkpoints of a tokenizer, "codes", and a generator, "omnijet"."""
    folder = tmp_path_factory.mktemp("trained")
    pretraining.pretrain(
        "tokens", jets[:100], folder / "codes", seed=1, settings=CODES, steps=4, **QUIET
    )
    pretraining.pretrain(
        "omnijet",
        jets[:100],
        folder / "omnijet",
        seed=1,
        settings={"codes": folder / "codes", "sizes": SIZES},
        validation=jets[100:],
        steps=8,
        **QUIET,
    )
    return folder


def test_one_checkpoint_holds_both(jets, trained):
    model, card = next_token.load(trained / "omnijet")
    alone, _ = tokenizer.load(trained / "codes")
    assert card["next_token"] == {"tokenizer": alone.settings, "generator": SIZES, "turn": False}
    assert card["jets"] == 100
    assert card["codes_from"]["trained"]["steps"] == 4 and not model.training
    both, one = model.state_dict(), alone.state_dict()
    assert all(
        torch.equal(both[f"tokenizer.{name}"], value) for name, value in one.items()
    )  # it was not trained on
    fresh = next_token.build(card["next_token"], seed=1)
    assert not torch.equal(fresh.generator.head.weight, model.generator.head.weight)


def test_the_generator_alone_learns(jets, trained):
    model = next_token.NextToken(tokenizer.load(trained / "codes")[0], sizes=SIZES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    data = model.data(jets)
    assert data.x.shape == (len(ak.flatten(jets.constituents.pt)), 1) and data.x.max() < 32
    batch = data[np.arange(32)]
    start = model.loss(batch).item()
    training.fit(model, data, steps=30, lr=1e-2, seed=1, **QUIET)
    assert model.loss(batch).item() < start - 0.2 and set(model.monitors()) == {
        "code_perplexity",
        "stop_perplexity",
    }
    after = model.state_dict()
    assert {
        name.partition(".")[0] for name in after if not torch.equal(after[name], before[name])
    } == {"generator"}


def test_turned_jets_are_new_in_training_and_as_they_are_in_evaluation(jets, trained):
    codes, _ = tokenizer.load(trained / "codes")
    plain, turned = (next_token.NextToken(codes, sizes=SIZES, turn=turn) for turn in (False, True))
    turned.generator.load_state_dict(plain.generator.state_dict())
    data, tokens = turned.data(jets), plain.data(jets)
    assert data.x.shape == (len(tokens.x), 3) and np.array_equal(turned.tokens(jets).x, tokens.x)
    batch = data[np.arange(40)]
    plain.eval(), turned.eval()
    expected = plain.loss(tokens[np.arange(40)]).item()
    assert turned.loss(batch).item() == pytest.approx(expected, abs=1e-6)
    turned.train()
    one, two, again = (
        turned.loss(batch, generator=torch.Generator().manual_seed(s)).item() for s in (1, 2, 1)
    )
    assert one == again and len({one, two, expected}) == 3
    kept = next_token.build(turned.settings, seed=1)
    assert kept.turn and kept.tokenizer.settings == codes.settings


def test_turned_jets_carry_their_other_features_along(jets):
    codes = tokenizer.build({**CODES, "extras": ["charge"]}, seed=1)
    model = next_token.NextToken(codes, sizes=SIZES, turn=True).train()
    x, offsets, label = model.data(jets[:5])[np.arange(5)]
    seen = []
    codes.encode = lambda x, offsets, check: (
        seen.append(x) or torch.zeros(len(x), dtype=torch.int64)
    )
    model.loss((x, offsets, label), generator=torch.Generator().manual_seed(1))
    assert torch.equal(seen[0][:, [0, 3]], x[:, [0, 3]]) and not torch.equal(
        seen[0][:, 1:3], x[:, 1:3]
    )
    torch.testing.assert_close(seen[0][:, 1:3].norm(dim=1), x[:, 1:3].norm(dim=1))


def test_drawn_jets_are_jets_that_say_that_they_are_generated(jets, trained):
    model, _ = next_token.load(trained / "omnijet")
    drawn = model.draw(40, seed=3, provenance=provenance(jets), progress=False, max_length=30)
    about = provenance(drawn)
    assert len(drawn) + about["empty"] == 40 and about["source"] == "generated"
    assert plots.source(drawn) == "generated, learned from aoj"
    assert not about["duplicates"]["merged"] and ak.all(ak.num(drawn.constituents) <= 30)
    table = substructure.compute(drawn)
    np.testing.assert_allclose(table["n_constituents"], ak.num(drawn.constituents))
    again = model.draw(40, seed=3, provenance=provenance(jets), progress=False, max_length=30)
    assert ak.all(again.pt == drawn.pt)


def test_from_the_command_line(tmp_path, capsys):
    codes, out = str(tmp_path / "codes"), str(tmp_path / "omnijet")
    small = ["--split", "0.02", "0.01", "0.97", "--steps", "2", "--batch-size", "64", "--seed", "1"]
    assert main(["pretrain", "tokens", "aoj", *small, "--out", codes]) == 0
    assert (
        main(
            [
                "pretrain",
                "omnijet",
                "aoj",
                *small,
                "--set",
                f"codes={codes}",
                "turn=true",
                "--out",
                out,
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.count("finished: loss ") == 2
    card = checkpoints.read_card(out)
    assert (
        card["next_token"]["turn"]
        and 300 < card["jets"] < 500
        and card["split"] == [0.02, 0.01, 0.97]
    )
    assert card["metrics"]["validation_loss"] > 0  # on the second part
    assert (
        main(["pretrain", "jetclr", "aoj", *small, "--set", "turn=true", "--out", out + "2"]) == 2
    )
    assert (
        "jetclr has no 'turn': it has encoder, hardest, temperature, views"
        in capsys.readouterr().err
    )
    assert main(["pretrain", "omnijet", "aoj", *small, "--out", out + "2"]) == 2
    assert "omnijet needs codes" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["omnijet-aoj", "omnijet-aoj-vqvae"])
def test_shipped_generators_draw_jets(name):
    model, _ = next_token.load(catalogue.DATA / "checkpoints" / name)
    drawn = model.draw(32, seed=1, provenance=jetnb.load("aoj").attrs["jetnb"], progress=False)
    assert 200 < np.median(drawn.pt) < 600 and 20 < np.mean(drawn.n_constituents) < 90


def test_the_command_line_makes_tokens_by_k_means(tmp_path, capsys):
    codes, out = str(tmp_path / "codes"), str(tmp_path / "omnijet")
    words = ["aoj", "--jets", "60", "--steps", "1", "--batch-size", "32", "--seed", "1", "--out"]
    assert (
        main(["pretrain", "tokens", *words, codes, "--set", "n_codes=64", "context=features"]) == 0
    )
    assert "nothing to train" in capsys.readouterr().out
    assert tokenizer.load(codes)[1]["strategy"] == "k-means of constituents"
    assert (
        main(["pretrain", "tokens", *words, codes, "--set", "n_codes=32", "context=features"]) == 2
    )
    assert "n_codes is 64 there and 32 here" in capsys.readouterr().err
    assert main(["pretrain", "omnijet", *words, out, "--set", f"codes={codes}"]) == 0
    assert next_token.load(out)[1]["next_token"]["tokenizer"]["n_codes"] == 64
    assert main(["pretrain", "tokens", *words, codes + "2", "--set", "n_codes"]) == 2
    assert "'n_codes' is not KEY=VALUE" in capsys.readouterr().err
