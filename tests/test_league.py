"""The league: rows are pretrained and judged alike, nothing is done twice, and tables say what the
files say.
"""

import copy
import dataclasses
import functools
import json
import shutil

import awkward as ak
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import jetnb
from jetnb import jets, league, metrics, plots, pretraining
from jetnb.__main__ import main
from jetnb.league import columns, judging, runs, tables
from jetnb.models.heads import AttentionPool
from jetnb.models.particles import from_settings

SIZES = {"dim": 16, "n_layers": 1, "n_heads": 2}
RULES = league.Rules(
    encoder=SIZES,
    hardest=10,
    n_jets=200,
    steps=4,
    batch_size=32,
    finetune={"batch_size": 32, "steps": 4, "epochs": 1, "every": 2},
    lrs={"finetuned": [1e-3], "scratch": [1e-3], "attention": [1e-3]},
    least=40,
    budgets={"top tagging": (60, 120), "ten classes": (60, 120)},
)


class Mine(nn.Module):
    """A strategy of a reader: the jet vector tells the jet's mass."""

    SETTINGS = {"encoder": SIZES, "hardest": 10}
    jet_fields = ("mass",)

    def __init__(self, encoder, hardest):
        super().__init__()
        self.encoder, self.head = from_settings(encoder), nn.Linear(encoder["dim"], 1)
        self.hardest = hardest

    def loss(self, batch, *, generator=None):
        x, offsets, mass = batch
        return ((self.head(self.encoder(x, offsets)[1])[:, 0] - mass / 100) ** 2).mean()


@pytest.fixture(scope="module")
def samples():
    """Jets to pretrain on, and others that judge."""
    mine, judged = jets.split(jetnb.load("jetclass")[:2_500], (0.3, 0.7), seed=1)
    return mine, {"jetclass": judged, "toptagging": jetnb.load("toptagging")[:1_500]}


@pytest.fixture(scope="module")
def folder(samples, tmp_path_factory):
    path = tmp_path_factory.mktemp("league")
    rows = [
        league.ROWS["scratch"],
        league.ROWS["eight numbers"],
        league.Row("mine", Mine, lrs=(1e-3, 1e-2)),
        league.ROWS["next token"],
    ]
    mine, others = samples
    said = []
    league.run(
        rows,
        [1, 2],
        mine,
        path,
        columns=["top tagging"],
        rules=RULES,
        samples=others,
        say=said.append,
    )
    assert len([line for line in said if "top tagging" in line]) == 8
    return path, rows


def test_every_row_and_seed_has_a_file_with_all_that_made_it(folder):
    path, rows = folder
    found = league.read(path)
    assert {(one.name, one.seed) for one in found} == {
        (row.name, s) for row in rows for s in (1, 2)
    }
    one = next(run for run in found if run.name == "mine" and run.seed == 2)
    cost, entry = one.entries["pretraining"], one.entries["top tagging"]
    assert one.row["strategy"] == "Mine" and one.rules["steps"] == 4
    assert cost["flops"] > 0 and cost["steps"] == 4 and cost["jets"] == 200
    assert {"torch", "numpy"} < set(cost["versions"]) and entry["machine"] and entry["date"]
    assert entry["cpu_seconds"] > 0 and len(entry["data"]) == 7
    ways = {(record["way"], record["budget"]) for record in entry["records"]}
    assert ways == {(way, n) for way in judging.WAYS for n in (60, 120)}
    for record in entry["records"]:
        assert 0.3 < record["accuracy"] <= 1 and record["labels"] == record["budget"] + 40
        assert record["ece"] >= 0 and record["log_loss_scaled"] > 0


def test_worse_test_jets_are_judged_by_the_same_training(folder):
    path, _ = folder
    found = league.read(path)
    versions = ("", "smeared 10%", "smeared 20%", "dropped 10%", "dropped 30%")
    for way in judging.WAYS:
        losses = [
            league.scores(found, "top tagging", way=way, value="log_loss", test=test)["mine"][1]
            for test in versions
        ]
        assert len(set(losses)) == 5 and max(losses) < 1.5


@pytest.mark.parametrize(
    ("best", "tried", "picked"),
    [
        (3e-3, {1e-3, 3e-3, 1e-2}, 3e-3),
        (3e-2, {1e-3, 3e-3, 1e-2, 3e-2, 9e-2}, 3e-2),
        (0.5, {1e-3, 3e-3, 1e-2, 3e-2, 9e-2}, 9e-2),
        (1e-9, {1e-3, 3e-3, 1e-2, 3e-4, 9e-5}, 9e-5),
    ],
)
def test_a_grid_goes_on_while_its_best_rate_is_at_its_end(
    best, tried, picked, samples, tmp_path, monkeypatch
):
    mine, others = samples
    one = runs._League(tmp_path, RULES, mine, others, None)
    row = league.Row("mine", Mine)
    seen = []
    monkeypatch.setattr(one, "pretrain", lambda row, seed, lr: (seen.append(lr) or lr, {}))
    monkeypatch.setattr(judging, "of_checkpoint", lambda path, strategy, extras: path)
    monkeypatch.setattr(one, "loss_of", lambda lr: abs(np.log(lr / best)))
    assert one.rate(row) == picked and sorted(seen) == sorted(tried)
    assert one.rate(row) == picked and len(seen) == len(tried)  # nothing is tried twice


def test_a_seed_that_is_done_says_the_rate(folder, samples, tmp_path, monkeypatch):
    path, rows = folder
    kept = next(run for run in league.read(path) if run.name == "mine" and run.seed == 2)
    shutil.copy(path / "mine-2.jsonl", tmp_path)  # as a league is shipped: without checkpoints
    mine, others = samples
    one = runs._League(tmp_path, RULES, mine, others, None)
    monkeypatch.setattr(one, "pretrain", None)
    assert one.rate(rows[2]) == kept.entries["pretraining"]["lr"]


def test_a_new_head_is_scratch_but_for_the_weights(samples):
    """Where the pretrained weights are those that scratch begins with, both are one training."""
    task = columns.task("top tagging", RULES, samples[1])
    encoder = pretraining.build(SIZES, seed=1)
    train = pretraining.particles(task.train, hardest=10)
    encoder.fit(train.x, train.offsets)
    read = functools.partial(pretraining.particles, hardest=10)
    found = {}
    for name, weights in (("pretrained", encoder.state_dict()), ("scratch", None)):
        one = judging.Candidate(lambda seed: copy.deepcopy(encoder), weights, read)
        records = judging.judge(one, task, RULES, seed=1)["records"]
        found[name] = {
            r["way"]: r["log_loss"] for r in records if (r["budget"], r["test"]) == (120, "")
        }
    assert found["pretrained"]["new head"] == found["scratch"]["finetuned"]
    assert found["pretrained"]["finetuned"] != found["scratch"]["finetuned"]
    assert "new head" not in found["scratch"]


def test_scratch_stands_beside_new_heads(folder):
    found = league.read(folder[0])
    ways = {way: league.scores(found, "top tagging", way=way) for way in ("finetuned", "new head")}
    assert ways["new head"]["scratch"] == ways["finetuned"]["scratch"]
    assert ways["new head"]["eight numbers"] == ways["finetuned"]["eight numbers"]
    assert ways["new head"]["mine"] != ways["finetuned"]["mine"]


def test_a_row_of_numbers_reads_those_that_it_names():
    some = jetnb.load("toptagging")[:50]
    mass = judging.of_numbers(RULES, **league.ROWS["jet mass"].settings).read(some)
    np.testing.assert_allclose(mass.x[:, 0], some.mass, rtol=1e-3)
    assert mass.x.shape[1] == 1 and judging.of_numbers(RULES).read(some).x.shape[1] == 8


def test_nothing_is_done_twice_and_columns_join(folder, samples, monkeypatch):
    path, rows = folder
    mine, others = samples
    before = {file.name: file.read_bytes() for file in path.glob("*.jsonl")}
    with monkeypatch.context() as patch:
        patch.setattr(judging, "judge", lambda *a, **k: pytest.fail("it was judged again"))
        patch.setattr(
            pretraining, "pretrain", lambda *a, **k: pytest.fail("it was pretrained again")
        )
        league.run(
            rows, [1, 2], mine, path, columns=["top tagging"], rules=RULES, samples=others, say=None
        )
    league.run(
        rows[:1], [1], mine, path, columns=["ten classes"], rules=RULES, samples=others, say=None
    )
    for name, old in before.items():
        now = (path / name).read_bytes()
        assert now.startswith(old) and (len(now) > len(old)) == (name == "scratch-1.jsonl")


def test_another_league_in_the_same_folder_is_refused(folder, samples):
    path, rows = folder
    mine, others = samples
    with pytest.raises(ValueError, match="other settings.*jets"):
        league.run(rows[2:3], [1], mine[50:], path, rules=RULES, samples=others, say=None)


def test_jets_that_judge_are_not_pretrained_on(samples, tmp_path):
    _, others = samples
    with pytest.raises(ValueError, match="jets to pretrain on.*'ten classes'"):
        league.run(
            [league.Row("mine", Mine)], [1], others["jetclass"], tmp_path, rules=RULES, samples=others,
            columns=["ten classes"], say=None,
        )  # fmt: skip


def test_validation_jets_are_not_pretrained_on(samples, tmp_path):
    _, others = samples
    one = runs._League(tmp_path, RULES, others["toptagging"][:1], others, None)
    one._jets[""] = one.task("top tagging").validation[:50]
    with pytest.raises(ValueError, match="to validate on"):
        one.apart("", "top tagging")


def test_a_row_and_a_column_that_make_no_sense_are_refused(samples, tmp_path):
    with pytest.raises(ValueError, match="start is 'warm'"):
        league.Row("a", "jetclr", start="warm")
    with pytest.raises(ValueError, match="strategy goes with 'pretrained'"):
        league.Row("a")
    with pytest.raises(ValueError, match="row 'a' has settings name: numbers have 'names'"):
        league.Row("a", settings={"name": ["mass"]}, start="numbers")
    with pytest.raises(ValueError, match="learning rate"):
        league.Row("a", "jetclr", lrs=())
    with pytest.raises(ValueError, match="column 'tops' is unknown: use some of top tagging"):
        league.run([league.ROWS["scratch"]], [1], samples[0], tmp_path, columns=["tops"], say=None)


def test_every_strategy_that_is_no_tokenizer_has_a_row():
    assert {row.strategy for row in league.ROWS.values()} >= set(pretraining.STRATEGIES) - {
        "tokens"
    }
    json.dumps([row.record() for row in league.ROWS.values()])


def test_a_table_says_what_the_files_say(folder, capsys):
    path, _ = folder
    found = league.read(path)
    scores = league.scores(found, "top tagging", way="finetuned", budget=120)
    by_hand = json.loads((path / "scratch-2.jsonl").read_text().splitlines()[1])["result"][
        "records"
    ]
    wanted = [
        r["accuracy"]
        for r in by_hand
        if (r["way"], r["budget"], r["test"]) == ("finetuned", 120, "")
    ]
    assert [scores["scratch"][2]] == wanted
    ranking = league.verdict(found, columns=["top tagging"])
    assert ranking.blocks == [("top tagging", 60), ("top tagging", 120)] and not ranking.left_out
    values = [
        [
            np.mean(list(league.scores(found, "top tagging", budget=n)[name].values()))
            for n in (60, 120)
        ]
        for name in ranking.names
    ]
    np.testing.assert_allclose(ranking.test.ranks, metrics.rank_test(values).ranks)
    assert league.verdict(found, columns=["top tagging"], way="attention").left_out == [
        "eight numbers"
    ]
    assert main(["league", "--out", str(path)]) == 0
    assert f"{np.mean(list(scores['scratch'].values())):.3f}" in capsys.readouterr().out


def test_files_that_are_no_league_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        league.read(tmp_path)
    (tmp_path / "a-1.jsonl").write_text('{"settings": {"row": {}, "seed": 1, "rules": {}}}\n')
    with pytest.raises(ValueError, match="a-1.jsonl, line 1.*'name'"):
        league.read(tmp_path)


def test_harder_jets_differ_from_the_truth_as_much_as_they_say():
    some = jetnb.load("toptagging")[:300]
    smeared = columns.smear(some, 0.2)
    ratio = np.asarray(ak.flatten(smeared.constituents.pt / some.constituents.pt))
    assert abs(np.log(ratio).std() - 0.2) < 0.01 and abs(np.log(ratio).mean()) < 0.01
    dropped = columns.drop(some, 0.3)
    left = ak.sum(ak.num(dropped.constituents)) / ak.sum(ak.num(some.constituents))
    assert abs(left - 0.7) < 0.02 and ak.min(ak.num(dropped.constituents)) >= 1
    cut = columns.hardest(some, 5)
    assert ak.max(ak.num(cut.constituents)) == 5 and jets.classes(cut) == jets.classes(some)
    assert ak.all(
        ak.min(cut.constituents.pt, axis=1) >= ak.sort(some.constituents.pt, ascending=False)[:, 4]
    )


def test_other_showers_are_of_the_same_partons():
    task = columns.task("other shower", league.Rules(), {})
    pairs = [one.pair.to_list() for one in task.tests.values()]
    assert list(task.tests) == ["", "fsr_up", "vincia", "tune"] and len(pairs[0]) > 200
    assert all(one == pairs[0] for one in pairs[1:])
    assert not set(task.train.event.to_list()) & set(task.tests[""].event.to_list())
    mine = columns.PRETRAIN_ON["resimulation"](jetnb.load)
    assert set(np.unique(mine.variation)) == {0, 3, 4, 5}  # those of the row, and no others
    assert not set(mine.event.to_list()) & {
        *task.train.event.to_list(),
        *task.tests["vincia"].event.to_list(),
    }


def test_quarks_and_gluons_have_no_heavy_hadrons():
    task = columns.task("quark or gluon", league.Rules(), {})
    parton = np.abs(np.asarray(task.train.parton_pdg_id))
    assert (np.isin(parton, (1, 2, 3)) == (np.asarray(task.train.label) == 1)).all()
    assert (parton[np.asarray(task.train.label) == 0] == 21).all()
    assert not ak.any(task.train.n_b_hadrons) and len(task.train) > 4_000


def test_what_is_taken_away_is_gone_and_nothing_else():
    task = columns.task("b or light", league.Rules(), {})
    labels = np.asarray(task.train.label)
    assert ((np.asarray(task.train.n_b_hadrons) > 0) == (labels == 1)).all()
    assert not ak.any(task.train[labels == 0].n_c_hadrons) and abs(labels.mean() - 0.5) < 0.05
    whole = task.tests[""]
    for name, fields in columns.WITHOUT.items():
        less = task.tests[f"without {name}"]
        for field in whole.constituents.fields:
            same = ak.all(less.constituents[field] == whole.constituents[field])
            assert same != (field in fields)
            assert same or not ak.any(less.constituents[field])


def test_tracks_reach_the_encoders_that_can_read_them(tmp_path):
    """Displaced tracks make the ninth number; a row that reads momenta alone gets no more."""
    extras = ("charge", "tanh_d0", "tanh_dz")
    rules = dataclasses.replace(
        RULES, extras=extras, budgets={"b or light": (60, 120)}, n_jets=400, steps=2
    )
    assert rules.record()["extras"] == list(extras) and "extras" not in RULES.record()
    mine, judged = jets.split(jetnb.load("jetclass")[:1_200], (0.4, 0.6), seed=1)
    rows = [league.ROWS[name] for name in ("eight numbers", "scratch", "set flow", "JetCLR")]
    rows = [dataclasses.replace(row, lrs=(1e-3,)) for row in rows]
    options = {"columns": ["b or light"], "rules": rules, "samples": {"jetclass": judged}}
    league.run(rows, [1], mine, tmp_path, say=None, **options)
    found = league.read(tmp_path)
    whole, without = (
        league.scores(found, "b or light", test=test, value="log_loss")
        for test in ("", "without displacement")
    )
    assert len(found) == 4 and {run.rules["extras"][0] for run in found} == {"charge"}
    blind = {name for name in whole if whole[name] == without[name]}
    assert len(whole) == 4 and blind == {"JetCLR"}
    test = columns.task("b or light", rules, {}).tests[""]
    ninth = judging.of_numbers(rules).read(test).x[:, 8]
    c = test.constituents
    by_hand = [
        sum(t and abs(d) > 3 * e for t, d, e in zip(*one, strict=True))
        for one in zip(c.has_track.to_list(), c.d0.to_list(), c.d0_error.to_list(), strict=True)
    ]
    assert ninth.tolist() == by_hand
    assert judging.of_numbers(RULES).read(test).x.shape[1] == 8


def test_quality_of_perfectly_calibrated_chances():
    rng = np.random.default_rng(1)
    p = rng.dirichlet([1, 1, 1], 20_000)
    labels = (rng.random(len(p))[:, None] > p.cumsum(1)).sum(1)
    found = judging.quality(labels, p, signal=1)
    assert (
        found["ece"] < 2.5 * found["ece_floor"]
        and abs(found["log_loss_scaled"] - found["log_loss"]) < 1e-3
    )
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    surer = judging.quality(labels, sharp, signal=1)
    assert surer["accuracy"] == found["accuracy"] and surer["ece"] > 10 * found["ece"]
    assert surer["ece_scaled"] < 2.5 * surer["ece_floor_scaled"]
    np.testing.assert_allclose(surer["log_loss_scaled"], found["log_loss"], atol=1e-3)


def test_flops_of_a_linear_layer_by_hand():
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.line = nn.Linear(3, 5, bias=False)

        def data(self, these):
            return pretraining.particles(these, hardest=10)

        def loss(self, batch, *, generator=None):
            return self.line(batch[0]).sum()

    some = jetnb.load("toptagging")[:20]
    n = int(np.minimum(ak.to_numpy(ak.num(some.constituents)), 10).sum())
    assert runs.flops(Line(), some, 20, seed=1) == 2 * (2 * n * 3 * 5)  # no gradient of the input


def test_flops_of_the_encoder_grow_with_its_width():
    some = jetnb.load("toptagging")[:64]
    small, wide = (
        runs.flops(
            pretraining.make("supervised", {"encoder": {**SIZES, "dim": dim}, "n_classes": 2}, seed=1), some, 64, seed=1
        )
        for dim in (32, 64)
    )  # fmt: skip
    assert 3 < wide / small < 4.5


def test_an_attention_pool_weighs_constituents():
    torch.manual_seed(1)
    pool = AttentionPool(8, n_heads=2).double()
    h, offsets = torch.randn(7, 8).double(), torch.tensor([0, 4, 4, 7])
    _, found = pool(h, offsets)
    assert not found[1].any()
    key, value = pool.key_value(h[:4]).unflatten(1, (2, 2, 4)).unbind(1)
    by_hand = [
        torch.softmax((key[:, i] * pool.query[i]).sum(1) / 2, 0) @ value[:, i] for i in range(2)
    ]
    torch.testing.assert_close(found[0], torch.cat(by_hand))
    torch.testing.assert_close(pool(h[[2, 0, 3, 1, 6, 5, 4]], offsets)[1], found)
    with pytest.raises(ValueError, match="multiple of n_heads"):
        AttentionPool(10, n_heads=4)


def test_ranks_and_their_critical_difference():
    # Demsar (2006), section 3.2.2: four methods, 14 data sets, 2.569 sqrt(4 5 / (6 14)) = 1.25
    rng = np.random.default_rng(1)
    test = metrics.rank_test(rng.normal(size=(4, 14)))
    assert abs(test.critical_difference - 1.25) < 0.01 and abs(test.ranks.mean() - 2.5) < 1e-12
    values = np.array([[3.0, 3, 3, 3], [2, 2, 2, 2], [1, 1, 1, 1]])
    test = metrics.rank_test(values)
    assert test.ranks.tolist() == [1, 2, 3] and test.p_value < 0.05
    assert test.alike() == [(0, 1), (1, 2)]  # 2.344 sqrt(3 4 / 24) = 1.66
    assert metrics.rank_test(np.tile(values, 3)).alike() == [(0,), (1,), (2,)]  # 12 blocks: 0.96
    with pytest.raises(ValueError, match="three and two at least"):
        metrics.rank_test(values[:2])
    with pytest.raises(ValueError, match="method 1 are not all finite"):
        metrics.rank_test(np.where(values == 2, np.nan, values))


def test_what_is_not_significant_is_joined():
    alike = metrics.RankTest(np.array([2.1, 1.9, 2.0]), 0.8, 0.05, 10)
    fig, ax = plt.subplots()
    plots.critical_difference(ax, ["a", "b", "c"], alike)
    joined = ax.lines[-1].get_ydata()
    assert joined[0] < 0 < 2 < joined[1] and [t.get_text() for t in ax.get_yticklabels()] == [
        "b",
        "c",
        "a",
    ]
    apart = metrics.RankTest(np.array([1.0, 2.0, 3.0]), 0.001, 0.5, 100)
    plots.critical_difference(ax := plt.subplots()[1], ["a", "b", "c"], apart)
    assert len(ax.lines) == 1
    plots.by_row(ax := plt.subplots()[1], {"a": {1: 0.5, 2: 0.7}, "b": {1: 0.1}}, label="accuracy")
    assert ax.lines[1].get_xdata()[0] == 0.6
    plt.close("all")


def test_a_table_as_text_has_mean_and_reach():
    shown = tables.show({"tops": {"a": {1: 0.5, 2: 0.7}, "b": {1: 0.25}}, "ten": {"a": {1: 0.1}}})
    rows = [line.split() for line in shown.splitlines()]
    assert rows == [["tops", "ten"], ["a", "0.600", "(0.100)", "0.100"], ["b", "0.250", "-"]]
    long = ["without displacement", "without types"]
    head = tables.show({name: {"a": {1: 0.5}} for name in long}).splitlines()[0]
    assert head.endswith("  without displacement         without types")
