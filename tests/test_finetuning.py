"""The study of label budgets: same numbers whatever the processes and interrupts, honest jets,
refusals that name.
"""

import json
import warnings

import awkward as ak
import numpy as np
import pytest
import torch
from torch import nn

import jetnb
import jetnb.jets
from jetnb import finetuning, inputs, latent, metrics, training
from jetnb.finetuning import trials
from jetnb.inputs.batches import Packed
from jetnb.models.encoder import DeepSets

QUICK = dict(
    budgets=(20, 40),
    seeds=(0, 3),
    validation_least=30,
    steps=8,
    every=4,
    epochs=1,
    patience=2,
    lrs={"finetuned": [1e-3], "scratch": [1e-3, 1e-2]},
    progress=False,
)
EXACT = [
    "mode",
    "budget",
    "seed",
    "n_validation",
    "accuracy",
    "auc",
    "rejection_50",
    "n_passing_30",
    "steps",
    "step",
    "history",
    "ended",
]


def encoder(seed):
    return DeepSets(7, dim=8, n_layers=1)


@pytest.fixture(scope="module")
def data():
    parts = [
        part[:n]
        for part, n in zip(
            jetnb.jets.split(jetnb.load("toptagging"), seed=1), (300, 100, 150), strict=True
        )
    ]
    batches = [inputs.compute(part) for part in parts]
    scaler = inputs.Scaler.fit(batches[0].x, inputs.KINEMATIC)
    return [
        Packed(scaler.transform(b.x), b.offsets, part.label)
        for b, part in zip(batches, parts, strict=True)
    ]


@pytest.fixture(scope="module")
def pretrained():
    torch.manual_seed(7)
    return encoder(0)


@pytest.fixture(scope="module")
def table(data, pretrained):
    return finetuning.measure(encoder, data, pretrained=pretrained, **QUICK)


def same(one, other):
    for name in EXACT:
        assert one[name].to_list() == other[name].to_list(), name
    np.testing.assert_array_equal(one.lr, other.lr)


def test_one_record_per_run_in_order(table):
    assert list(
        zip(table["mode"].to_list(), table.budget.to_list(), table.seed.to_list(), strict=True)
    ) == [(mode, n, seed) for mode in finetuning.MODES for n in (20, 40) for seed in (0, 3)]
    assert set(table.n_validation.to_list()) == {30}
    full = table[(table["mode"] == "finetuned") | (table["mode"] == "scratch")]
    assert ak.all(full.steps <= 8) and ak.all(full.step <= full.steps) and ak.all(full.jets > 0)
    assert ak.all(
        full.steps == full.steps_per_check * (ak.num(full.history) - 1)
    )  # one before the first step
    assert len(set(table[table["mode"] == "scratch"].lr.to_list())) == 1
    assert np.isnan(full.penalty.to_numpy()).all()
    assert np.isfinite(table[table["mode"] == "frozen"].penalty.to_numpy()).all()
    assert metrics.epochs_until(full.history[0]) >= 1


def test_many_processes_give_the_same_numbers(table, data, pretrained):
    same(
        table,
        finetuning.measure(encoder, data, pretrained=pretrained.state_dict(), processes=2, **QUICK),
    )


def test_auto_is_the_device_that_there_is(data):
    quick = {**QUICK, "budgets": (20,), "seeds": (0,), "accelerator": "auto"}
    table = finetuning.measure(encoder, data, modes=("random", "scratch"), **quick)
    assert ak.all(table.accuracy > 0)


def test_a_study_goes_on_where_it_ended(table, data, pretrained, tmp_path, monkeypatch):
    path, train, begun = tmp_path / "runs.jsonl", trials.train, []

    def interrupted(run, *rest):
        begun.append(run)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return train(run, *rest)

    monkeypatch.setattr(trials, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        finetuning.measure(encoder, data, pretrained=pretrained, path=path, **QUICK)
    before = path.read_bytes()
    assert before.count(b"\n") == 1 + 8 + 2 + 2  # settings, heads, rates, tested trainings
    path.write_bytes(before[:-30])  # killed in writing the last
    monkeypatch.setattr(
        trials, "train", lambda run, *rest: (begun.append(run), train(run, *rest))[1]
    )
    same(table, finetuning.measure(encoder, data, pretrained=pretrained, path=path, **QUICK))
    assert len(begun) == 4 + 9 - 2  # with tuning there are 9, of which two were whole
    assert path.read_bytes().startswith(before[: before[:-30].rindex(b"\n")])

    def never(*_):
        raise AssertionError("it has been done")

    monkeypatch.setattr(trials, "train", never)
    monkeypatch.setattr(trials, "probe", never)
    same(table, finetuning.measure(encoder, data, pretrained=pretrained, path=path, **QUICK))
    fewer = finetuning.measure(
        encoder, data, pretrained=pretrained, path=path, **QUICK | {"budgets": (40,)}
    )
    same(fewer, table[table.budget == 40])
    for change, message in [
        ({"steps": 9}, "steps is 8 there and 9 here"),
        ({"patience": 3}, "patience is"),
        ({"tune_at": 20}, "tuned_at"),
    ]:
        with pytest.raises(ValueError, match=message):
            finetuning.measure(encoder, data, pretrained=pretrained, path=path, **QUICK | change)
    with pytest.raises(ValueError, match="pretrained is"):
        finetuning.measure(encoder, data, pretrained=encoder(0), path=path, **QUICK)
    with pytest.raises(ValueError, match="data is"):
        finetuning.measure(
            encoder, [data[0], data[1], data[1]], pretrained=pretrained, path=path, **QUICK
        )
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "no json", *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match="line 2"):
        finetuning.measure(encoder, data, pretrained=pretrained, path=path, **QUICK)


def test_a_rate_that_was_not_picked_is_not_tested(table, data, tmp_path, monkeypatch):
    test, tested = trials.test, []
    monkeypatch.setattr(trials, "test", lambda run, *rest: tested.append(run) or test(run, *rest))
    path = tmp_path / "runs.jsonl"
    found = finetuning.measure(encoder, data, modes=("scratch",), path=path, **QUICK)
    same(found, table[table["mode"] == "scratch"])
    assert len(tested) == len(found) == 4 and {run["lr"] for run in tested} == set(found.lr)
    entries = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    tries = [entry for entry in entries if not entry["run"].get("tested", True)]
    assert [entry["run"]["lr"] for entry in tries] == [1e-3, 1e-2]
    assert all(set(entry["result"]) == {"validation_loss", "step"} for entry in tries)
    # Files of earlier versions, in which each try was tested, are read as they are.
    before = "\n".join(json.dumps(one) for one in entries if one not in tries)
    (lost,) = (one for one in tries if one["run"]["lr"] not in set(found.lr))
    del lost["run"]["tested"]
    path.write_text(f"{path.read_text().splitlines()[0]}\n{before}\n{json.dumps(lost)}\n")
    monkeypatch.setattr(trials, "train", None)
    same(finetuning.measure(encoder, data, modes=("scratch",), path=path, **QUICK), found)


def test_two_studies_do_not_write_one_file(data, tmp_path, monkeypatch):
    path, train = tmp_path / "runs.jsonl", trials.train
    begun = []

    def meanwhile(*args):
        if not begun:
            begun.append(1)
            with pytest.raises(ValueError, match="is adding runs to .*runs.jsonl: wait for it"):
                finetuning.measure(encoder, data, modes=("scratch",), path=path, **QUICK)
        return train(*args)

    monkeypatch.setattr(trials, "train", meanwhile)
    finetuning.measure(encoder, data, modes=("scratch",), path=path, **QUICK)
    assert begun and [file.name for file in tmp_path.iterdir()] == ["runs.jsonl"]


def test_scores_are_kept_beside_the_file_and_give_the_table(data, table, tmp_path):
    found = finetuning.measure(
        encoder, data, path=tmp_path / "runs.jsonl", scores=True, **QUICK | {"seeds": (0,)}
    )
    assert set(found["mode"].to_list()) == {"random", "scratch"}
    label = data[2].targets[0]
    for record in found.to_list():
        scores = np.load(record["scores"])
        np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
        assert metrics.auc(label, scores[:, 1]).value == record["auc"]
        assert (
            metrics.rejection(label, scores[:, 1], signal_efficiency=0.3).value
            == record["rejection_30"]
        )
        assert metrics.accuracy(label, scores.argmax(1)).value == record["accuracy"]
        together = finetuning.probabilities(found, record["mode"], record["budget"])
        np.testing.assert_array_equal(together, [scores])
    with pytest.raises(ValueError, match="no runs 'scratch' with 7 labels; it has random with"):
        finetuning.probabilities(found, "scratch", 7)
    with pytest.raises(ValueError, match="kept no probabilities: give `measure` scores=True"):
        finetuning.probabilities(table, "scratch", int(table.budget[0]))


def test_labels_of_test_and_of_undrawn_jets_change_no_choice(table, data, pretrained):
    settings = QUICK | {"seeds": (0,), "budgets": (40,), "tune_at": 40}
    one = finetuning.measure(encoder, data, pretrained=pretrained, **settings)
    drawn = finetuning.draw([d.targets[0] for d in data], [40], seed=0, validation_least=30)[40]
    changed = []
    for part, rows in zip(data, [*drawn, []], strict=True):
        labels = part.targets[0].copy()
        other = np.setdiff1d(np.arange(len(labels)), rows)
        labels[other] = np.roll(labels[other], 1) if part is data[2] else labels[other]
        changed.append(Packed(part.x, part.offsets, labels))
    two = finetuning.measure(encoder, changed, pretrained=pretrained, **settings)
    for name in ("lr", "penalty", "history", "step", "validation_loss"):
        assert str(one[name].to_list()) == str(two[name].to_list())
    assert one.accuracy.to_list() != two.accuracy.to_list()


def test_finetuning_begins_at_the_frozen_head(data, pretrained, tmp_path):
    settings = QUICK | {"lrs": {"finetuned": [1e-12], "scratch": [1e-3]}}
    for head in ("linear", "mlp"):
        first = finetuning.measure(
            encoder,
            data,
            pretrained=pretrained,
            head=head,
            modes=("random", "finetuned"),
            path=tmp_path / "runs.jsonl",
            **settings,
        )
        found = finetuning.measure(
            encoder,
            data,
            pretrained=pretrained,
            head=head,
            modes=("frozen", "finetuned"),
            path=tmp_path / "runs.jsonl",
            **settings,
        )
        same(first[4:], found[4:])
        frozen, tuned = (found[found["mode"] == mode] for mode in ("frozen", "finetuned"))
        np.testing.assert_allclose(tuned.auc, frozen.auc, atol=1e-4)
        np.testing.assert_allclose(tuned.validation_loss, frozen.validation_loss, rtol=1e-4)
    plain = finetuning.measure(
        encoder, data, pretrained=pretrained, modes=("finetuned",), probe_first=False, **settings
    )
    assert ak.any(np.abs(plain.auc - frozen.auc) > 1e-3)


def test_learning_takes_place_and_its_rate_is_tuned(data):
    settings = QUICK | dict(
        budgets=(100,), steps=60, every=10, lrs={"finetuned": [1], "scratch": [1e-9, 1e-2]}
    )
    found = finetuning.measure(encoder, data, modes=("scratch",), **settings)
    assert set(found.lr.to_list()) == {1e-2} and ak.all(found.auc > 0.75)


def test_a_run_that_gains_nothing_is_the_probe_and_says_so(data, pretrained):
    settings = QUICK | {
        "budgets": (40,),
        "lrs": {"finetuned": [10.0], "scratch": [1e-3]},
        "patience": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the best is the first check, not the last
        found = finetuning.measure(
            encoder, data, pretrained=pretrained, modes=("frozen", "finetuned"), **settings
        )
    frozen, tuned = (found[found["mode"] == mode] for mode in ("frozen", "finetuned"))
    assert tuned.step.to_list() == [0, 0] and tuned.steps.to_list() == [8, 8]
    np.testing.assert_allclose(tuned.auc, frozen.auc, atol=1e-6)


def test_checks_come_within_epochs_and_the_rate_falls_to_zero(data, monkeypatch):
    rates, fit = [], training.fit
    monkeypatch.setattr(
        training, "fit", lambda *args, **more: rates.append(fit(*args, **more)) or rates[-1]
    )
    settings = QUICK | dict(
        budgets=(200,),
        seeds=(0,),
        lrs={"scratch": [1e-3]},
        steps=10,
        every=3,
        patience=None,
        batch_size=64,
        validation_share=0.1,
    )
    (found,) = finetuning.measure(encoder, data, modes=("scratch",), **settings).to_list()
    assert (
        found["steps"] == 10 and len(found["history"]) == 1 + 4
    )  # 4 steps make an epoch; 0, 3, 6, 9 and the end
    assert found["step"] in (0, 3, 6, 9, 10) and found["jets"] == 500
    assert rates[0].steps[-1]["lr"] < 1e-4


def test_what_makes_a_comparison_unfair_is_warned_of(data):
    settings = QUICK | dict(budgets=(40,), patience=None)
    with pytest.warns(
        RuntimeWarning, match="best of .0.001, 0.01. at 40 labels is 0.01, at the end"
    ):
        finetuning.measure(encoder, data, modes=("scratch",), **settings)
    with pytest.warns(
        RuntimeWarning, match="2 of 2 runs scratch with 40 labels are best at their last check"
    ):
        found = finetuning.measure(
            encoder, data, modes=("scratch",), **settings | {"lrs": {"scratch": [1e-3]}}
        )
    assert found.step.to_list() == found.steps.to_list()


def test_rates_are_tuned_at_several_budgets_and_the_grid_is_told(data):
    settings = QUICK | dict(
        budgets=(20, 30, 100), seeds=(0,), tune_at=(20, 100), lrs={"scratch": [1e-4, 1e-3, 1e-2]}
    )
    found = finetuning.measure(encoder, data, modes=("scratch",), **settings)
    for record, at in zip(found.to_list(), (0, 0, 2), strict=True):
        assert record["grid"] == found.grid[at].to_list() and len(record["grid"]) == 3
        assert record["lr"] == min(record["grid"], key=lambda one: one["loss"])["lr"]
    assert found.grid[0].to_list() != found.grid[2].to_list()


def test_a_history_on_all_validation_jets_changes_no_choice(table, data):
    found = finetuning.measure(encoder, data, modes=("scratch",), watch_all=True, **QUICK)
    one, other = (record.to_list() for record in (found, table[table["mode"] == "scratch"]))
    for a, b in zip(one, other, strict=True):
        assert (a["validation_loss"], a["step"], a["auc"]) == (
            b["validation_loss"],
            b["step"],
            b["auc"],
        )
        assert np.allclose(
            np.array(a["history"]) * len(data[1]), np.rint(np.array(a["history"]) * len(data[1]))
        )
    assert [a["history"] for a in one] != [b["history"] for b in other]


def test_numbers_by_hand_are_probed_with_the_same_labels(table, data):
    build = trials.build(encoder, 3, None)
    z = [latent.embed(build, part) for part in data]
    drawn = {name: QUICK[name] for name in ("budgets", "validation_least")}
    found = finetuning.probe(
        z, [part.targets[0] for part in data], seeds=(3,), name="by hand", **drawn
    )
    expected = table[(table["mode"] == "random") & (table.seed == 3)]
    assert set(found["mode"].to_list()) == {"by hand"}
    np.testing.assert_allclose(found.auc, expected.auc, atol=2e-3)
    assert found.penalty.to_list() == expected.penalty.to_list()


def test_curves_are_what_a_plot_takes(table):
    curves = finetuning.curves(table, "auc")
    assert list(curves) == list(finetuning.MODES)
    for mode, (budgets, values) in curves.items():
        part = table[table["mode"] == mode]
        assert budgets.tolist() == [50, 70] and values.shape == (2, 2)  # 30 of them to validate
        assert values[1, 0] == part.auc[(part.seed == 3) & (part.budget == 20)][0]
    with pytest.raises(ValueError, match="random .* has 3 runs"):
        finetuning.curves(table[1:])


def test_draws_are_nested_and_balanced(data):
    labels = [part.targets[0] for part in data]
    rows = finetuning.draw(labels, [20, 40], seed=3, validation_least=10)
    assert rows[20][0].tolist() == rows[40][0][:20].tolist()
    assert labels[0][rows[20][0]].sum() == 10 and labels[1][rows[20][1]].sum() == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(budgets=(5000,)), "rarest class of train"),
        (dict(budgets=()), "budgets"),
        (dict(head="tree"), "head is 'tree'"),
        (dict(lrs={"frozen": [1]}), "lrs"),
        (dict(modes=("frozen",)), "pretrained is None"),
        (dict(modes=("best",)), "modes is 'best'"),
        (dict(tune_at=7), r"tune_at is \[7\]"),
        (dict(signal=2), "signal is 2"),
        (dict(scores=True), "scores is True"),
        (dict(accelerator="cuda"), "sees no CUDA"),
        (dict(validation_least=999), "rarest class of validation"),
        (dict(steps=0), "steps is 0"),
        (dict(lrs={"finetuned": [1], "scratch": []}), "lrs"),
    ],
)
def test_bad_arguments_are_refused(data, change, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        finetuning.measure(encoder, data, **QUICK | change)


def test_unlabelled_jets_and_another_encoder_are_refused(data, pretrained):
    labels = data[0].targets[0].copy()
    labels[0] = -1
    with pytest.raises(ValueError, match="labels of train"):
        finetuning.measure(
            encoder, [Packed(data[0].x, data[0].offsets, labels), *data[1:]], **QUICK
        )
    with pytest.raises(ValueError, match="pretrained does not fit"):
        finetuning.measure(
            lambda seed: DeepSets(7, dim=16, n_layers=1), data, pretrained=pretrained, **QUICK
        )


def test_a_checkpoint_of_a_whole_strategy_serves(data, pretrained, table, tmp_path):
    from jetnb import checkpoints

    checkpoints.save(
        tmp_path / "clr", nn.ModuleDict({"encoder": pretrained, "head": nn.Linear(8, 8)}), {}
    )
    found = finetuning.measure(
        encoder, data, pretrained=tmp_path / "clr", modes=("frozen",), **QUICK
    )
    same(found, table[table["mode"] == "frozen"])


def test_the_file_is_plain(data, tmp_path):
    path = tmp_path / "runs.jsonl"
    finetuning.measure(encoder, data, modes=("random",), path=path, **QUICK)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(entries[0]) == ["settings"] and all(
        set(entry) == {"run", "result"} for entry in entries[1:]
    )
    assert entries[0]["settings"] == {  # as in files of earlier versions, which are still accepted
        "lrs": {"finetuned": [1e-3], "scratch": [1e-3, 1e-2]},
        "head_lr": 10.0,
        "probe_first": True,
        "validation_share": 0.25,
        "validation_least": 30,
        "batch_size": 64,
        "steps": 8,
        "epochs": 1,
        "patience": 2,
        "every": 4,
        "watch_all": False,
        "signal": 1,
        "tuned_at": [40, 0],
        "pretrained": None,
        **{name: entries[0]["settings"][name] for name in ("data", "encoder")},
    }
    path.write_text("")
    with pytest.raises(ValueError, match="no line with settings"):
        finetuning.measure(encoder, data, modes=("random",), path=path, **QUICK)
