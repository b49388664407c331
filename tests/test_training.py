"""The training loop: the steps are the right ones, whatever stops it can be resumed, and trouble is
said.

Run as a script with a folder it is the child of two tests, which train in two processes and in one
that is killed.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import jetnb
from jetnb import atomic, checkpoints, inputs
from jetnb.inputs import batches
from jetnb.models.encoder import Transformer
from jetnb.models.particles import FromParticles
from jetnb.strategies.contrastive import JetCLR
from jetnb.training import fingerprint, fit, history, resume, watchdog
from jetnb.training.optimisation import learning_rate

pytest.importorskip("lightning", reason="training needs lightning")

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = {"progress": False, "accelerator": "cpu"}


class Linear(nn.Module):
    """A classifier of jets on the sum of their constituents, small enough to train in milliseconds
    a step.
    """

    def __init__(self, seed=0, dropout=0.0):
        super().__init__()
        torch.manual_seed(seed)
        self.inner, self.outer, self.dropout = nn.Linear(3, 8), nn.Linear(8, 2), nn.Dropout(dropout)

    def forward(self, x, offsets):
        return self.outer(
            self.dropout(
                torch.segment_reduce(self.inner(x).relu(), "mean", offsets=offsets, initial=0)
            )
        )

    def loss(self, batch, *, generator=None):
        x, offsets, label = batch
        return nn.functional.cross_entropy(self(x, offsets), label)


def toy(n=96, seed=0):
    rng = np.random.default_rng(seed)
    counts, label = rng.integers(1, 9, n), rng.integers(0, 2, n)
    x = rng.normal(size=(counts.sum(), 3)) + np.repeat(label, counts)[:, None]
    return batches.Packed(x, np.concatenate([[0], np.cumsum(counts)]), label)


def jetclr(seed=0, dropout=0.1):
    torch.manual_seed(seed)
    encoder = FromParticles(Transformer(5, dim=32, n_layers=1, n_heads=4, dropout=dropout))
    return JetCLR(encoder, hidden=16, output=8)


def particles(n=200):
    return batches.Packed(*inputs.to_relative(jetnb.load("jetclass")[:n]))


PRETRAIN = dict(
    epochs=3, batch_size=32, seed=5, save_every=3, log_every=2, lr=2e-3, **QUIET
)  # 7 steps an epoch
SHARED = dict(steps=5, batch_size=25, seed=2, lr=1e-2, log_every=1, **QUIET)


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    """A folder in which a child has trained with two processes, and in another training was killed
    in an epoch.
    """
    folder = tmp_path_factory.mktemp("child")
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return folder


def main(folder: Path) -> None:
    two_measure_something_else(folder)
    model = Linear()
    done = fit(model, toy(), devices=2, strategy="ddp_fork", validation=toy(31, seed=1), **SHARED)
    torch.save(model.state_dict(), folder / "two.pt")
    (folder / "two.json").write_text(json.dumps([done.steps, done.epochs]))

    def watch(record):
        if (
            record["step"] == 12
        ):  # step 12 of 21 is the fifth of the second epoch, three after a checkpoint
            os.kill(os.getpid(), signal.SIGKILL)

    fit(
        jetclr(),
        particles(),
        validation=particles(40),
        path=folder / "run",
        watch=watch,
        **PRETRAIN,
    )


WRONG = {  # name: what a measure returns, by what the best is known, what is said
    "other": ({"auc": 1.0}, "accuracy", "best_by is 'accuracy', but measure returned only auc"),
    "nothing": (
        None,
        "accuracy",
        "measure returned None: it must return a dict of names and numbers",
    ),
    "of the epoch": ({"auc": 1.0}, "loss", "best_by is 'loss', but measure returned only auc"),
    "text": (
        {"auc": "high"},
        "auc",
        "measure returned 'high' as 'auc': it must be a number, such as float(...) makes",
    ),
}


def two_measure_something_else(folder: Path) -> None:
    """What each of two processes says of a measure without the number that is to be the best."""
    from jetnb.training.loop import Training

    end = Training._end_epoch

    def told(self, epoch):
        try:
            return end(self, epoch)
        except Exception as error:
            file = folder / f"{name}{self.fabric.global_rank}"
            file.write_text(f"{type(error).__name__}: {error}")
            self.fabric.barrier()
            raise

    Training._end_epoch = told
    for name, (found, best_by, _) in WRONG.items():  # noqa: B007  the process that fails says it
        with contextlib.suppress(Exception):
            fit(
                Linear(),
                toy(),
                devices=2,
                strategy="ddp_fork",
                best_by=best_by,
                measure=lambda model, found=found: found,
                **SHARED,
            )
    Training._end_epoch = end


def test_the_steps_are_those_of_a_bare_loop():
    data, one, two = toy(), Linear(), Linear()
    done = fit(
        one,
        data,
        epochs=2,
        batch_size=20,
        seed=3,
        lr=1e-2,
        weight_decay=0.1,
        clip=0.3,
        log_every=1,
        **QUIET,
    )
    decay, rest = [two.inner.weight, two.outer.weight], [two.inner.bias, two.outer.bias]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    )
    losses, norms = [], []
    for step in range(10):
        indices = batches.schedule(len(data), 20, seed=3, epoch=step // 5)[step % 5]
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * learning_rate(step, 10)
        optimizer.zero_grad()
        loss = two.loss(data[indices])
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(two.parameters(), 0.3)))
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-5, atol=1e-6)
    assert [r["loss"] for r in done.steps] == pytest.approx(losses, rel=1e-5)
    assert [r["gradient_norm"] for r in done.steps] == pytest.approx(norms, rel=1e-5)
    assert [r["step"] for r in done.steps] == list(range(1, 11))
    assert [r["epoch"] for r in done.steps] == [1] * 5 + [2] * 5
    assert [r["loss"] for r in done.epochs] == pytest.approx(
        [np.mean(losses[:5]), np.mean(losses[5:])], rel=1e-5
    )
    assert not one.training and done.reason == "finished" and not done.stopped


def test_learning_rate():
    values = [learning_rate(step, 1000, 0.1) for step in range(1000)]
    assert values[0] == pytest.approx(0.01) and values[99] == values[100] == 1 and values[-1] < 1e-5
    assert np.diff(values[:100]) == pytest.approx(0.01) and (np.diff(values[100:]) <= 0).all()
    assert values[550] == pytest.approx(0.5) and learning_rate(0, 1) == 1


def test_same_seed_same_numbers_and_no_trace_in_torch():
    def run(seed):
        model = jetclr()
        done = fit(
            model,
            particles(64),
            steps=6,
            batch_size=16,
            seed=seed,
            log_every=1,
            validation=particles(20),
            **QUIET,
        )
        return weights(model), [r["loss"] for r in done.steps], done.epochs[-1]["validation_loss"]

    torch.manual_seed(9)
    before = torch.get_rng_state()
    jetclr(), torch.set_rng_state(before)
    one, two, other = run(1), run(1), run(2)
    assert torch.equal(one[0], two[0]) and one[1:] == two[1:]
    assert not torch.equal(one[0], other[0])
    torch.manual_seed(9)
    model, state = Linear(dropout=0.5), torch.get_rng_state()
    fit(model, toy(), steps=3, seed=1, **QUIET)
    assert torch.equal(state, torch.get_rng_state())


def test_validation_draws_the_same_numbers_every_time():
    done = fit(
        model := jetclr(),
        particles(32),
        epochs=3,
        batch_size=32,
        lr=1e-30,
        seed=1,
        validation=particles(40),
        weight_decay=0,
        **QUIET,
    )
    values = [r["validation_loss"] for r in done.epochs]
    assert values[0] == values[1] == values[2] and len({r["loss"] for r in done.epochs}) == 3
    assert {"alignment", "uniformity", "rank", "variance"} <= set(done.epochs[0]) and model.head[
        0
    ].weight.grad is None


def test_killed_and_resumed_is_never_interrupted(child, tmp_path):
    card = checkpoints.read_card(child / "run")
    assert card["trained"]["steps"] == 9 and card["trained"]["epochs"] == 1
    assert history.read(child / "run").steps[-1]["step"] == 12  # what the killed process had seen
    resumed, whole = jetclr(seed=7), jetclr()
    done = fit(
        resumed, particles(), validation=particles(40), path=child / "run", resume=True, **PRETRAIN
    )
    all_at_once = fit(
        whole, particles(), validation=particles(40), path=tmp_path / "run", **PRETRAIN
    )
    assert torch.equal(weights(resumed), weights(whole))
    assert done.steps == all_at_once.steps and len(done.epochs) == 3
    for a, b in zip(done.epochs, all_at_once.epochs, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert history.read(child / "run").steps == done.steps
    assert sorted(file.name for file in (child / "run").iterdir()) == [
        "card.json",
        "model.safetensors",
    ]
    loaded = jetclr(seed=8)
    checkpoints.load(child / "run", loaded)
    assert torch.equal(weights(loaded), weights(whole))


def test_two_processes_make_the_steps_of_one(child):
    model, two = Linear(), Linear(seed=1)
    done = fit(model, toy(), validation=toy(31, seed=1), **SHARED)
    two.load_state_dict(torch.load(child / "two.pt"))
    torch.testing.assert_close(weights(model), weights(two), rtol=1e-5, atol=1e-6)
    steps, epochs = json.loads((child / "two.json").read_text())
    for key in ("loss", "gradient_norm", "lr"):
        assert [r[key] for r in steps] == pytest.approx([r[key] for r in done.steps], rel=1e-4)
    for key in ("loss", "validation_loss"):
        assert [r[key] for r in epochs] == pytest.approx([r[key] for r in done.epochs], rel=1e-4)


@pytest.mark.parametrize("name", WRONG)
def test_all_processes_say_what_a_measure_lacks(child, name):
    for rank in (0, 1):
        assert (child / f"{name}{rank}").read_text() == f"ValueError: {WRONG[name][2]}"


@pytest.mark.parametrize("name", WRONG)
def test_one_process_says_what_a_measure_lacks(name, tmp_path):
    found, best_by, said = WRONG[name]
    with pytest.raises(ValueError, match=re.escape(said)):
        fit(
            Linear(),
            toy(),
            measure=lambda model, found=found: found,
            best_by=best_by,
            path=tmp_path / "run",
            **TOY,
        )


def test_numbers_of_numpy_are_written_down(tmp_path):
    def measure(model):
        return {"auc": np.float32(0.5), "passing": np.int64(7)}

    done = fit(Linear(), toy(), measure=measure, best_by="auc", path=tmp_path / "run", **TOY)
    assert [(record["auc"], record["passing"]) for record in done.epochs] == [(0.5, 7)] * 4
    assert history.read(tmp_path / "run").epochs == done.epochs


TOY = dict(epochs=4, batch_size=32, seed=1, lr=1e-2, log_every=2, **QUIET)


@pytest.mark.parametrize("how", ["interrupt", "watch", "validation"])
def test_a_stop_keeps_what_was_trained_and_can_be_resumed(tmp_path, how):
    def watch(record):
        if how != "validation" and record["step"] == 5 - (how == "watch"):
            if how == "interrupt":
                raise KeyboardInterrupt
            return True

    class Interrupted(batches.Packed):
        def __getitem__(self, indices):
            if how == "validation" and len(validated) == 4:  # in the second epoch
                validated.append(1)
                raise KeyboardInterrupt
            validated.append(0)
            return super().__getitem__(indices)

    validated, data = [], toy()
    jets = Interrupted(data.x, data.offsets, *data.targets)
    options = {**TOY, "log_every": 5} if how == "interrupt" else TOY
    model = Linear(dropout=0.2)
    done = fit(model, data, validation=jets, path=tmp_path / "run", watch=watch, **options)
    assert (
        done.stopped
        and done.reason == ("watch" if how == "watch" else "interrupted")
        and not model.training
    )
    assert len(done.epochs) == 1
    again = fit(model, data, validation=data, path=tmp_path / "run", resume=True, **options)
    whole = Linear(dropout=0.2)
    expected = fit(whole, data, validation=data, **options)
    assert torch.equal(weights(model), weights(whole)) and again.reason == "finished"
    assert [r["validation_loss"] for r in again.epochs] == [
        r["validation_loss"] for r in expected.epochs
    ]


def test_a_finished_training_is_loaded_and_not_repeated(tmp_path):
    class Gone(Linear):
        def loss(self, batch, *, generator=None):
            raise AssertionError("it has trained again")

    data, model = toy(), Linear()
    with pytest.raises(FileExistsError, match="resume=True"):
        (tmp_path / "other").mkdir()
        fit(model, data, path=tmp_path / "other", **TOY)
    done = fit(model, data, path=tmp_path / "run", card={"encoder": {"dim": 8}}, **TOY)
    card = checkpoints.read_card(tmp_path / "run")
    assert (
        card["training"]["n_jets"] == 96
        and card["training"]["seed"] == 1
        and card["encoder"] == {"dim": 8}
    )
    assert (
        card["trained"]["jets"] == 4 * 96
        and card["trained"]["steps"] == 12
        and card["metrics"] == done.epochs[-1]
    )
    fresh = Gone(seed=4)
    again = fit(
        fresh, data, path=tmp_path / "run", resume=True, card={"encoder": {"dim": 8}}, **TOY
    )
    assert again == done and torch.equal(weights(fresh), weights(model))
    for change, name in (
        ({"lr": 0.02}, "training.lr is 0.01 there and 0.02 here"),
        ({"seed": 2}, "training.seed"),
        ({"epochs": 5}, "training.epochs"),
        ({"card": {"encoder": {"dim": 9}}}, "encoder.dim"),
    ):
        with pytest.raises(ValueError, match=name):
            fit(
                fresh,
                data,
                path=tmp_path / "run",
                resume=True,
                **{**TOY, "card": {"encoder": {"dim": 8}}, **change},
            )
    with pytest.raises(ValueError, match="training.n_jets is 96 there and 95 here"):
        fit(fresh, toy(95), path=tmp_path / "run", resume=True, card={"encoder": {"dim": 8}}, **TOY)
    assert torch.equal(weights(fresh), weights(model))


def changed(data, part):
    """The same number of jets, but for one number."""
    x, offsets, label = data.x.copy(), data.offsets.copy(), data.targets[0].copy()
    if part == "x":
        x[len(x) // 2, 0] += 1
    elif part == "offsets":
        at = 1 + int(np.argmax(np.diff(offsets)[:-1] > 1))
        offsets[at] -= 1
    elif part == "label":
        label[-1] = 1 - label[-1]
    elif part == "last bits":  # as another processor might compute them
        x = np.nextafter(x, np.float32(9))
    return batches.Packed(x, offsets, label)


@pytest.mark.parametrize("until", [4, None], ids=["unfinished", "finished"])
@pytest.mark.parametrize(
    "part, said", [("x", "features"), ("offsets", "labels or numbers"), ("label", "labels or")]
)
def test_other_data_of_the_same_size_are_refused(tmp_path, until, part, said):
    options = {**TOY, "path": tmp_path / "run", "resume": True}
    data, held, model = toy(), toy(20, seed=1), Linear()
    fit(model, data, validation=held, watch=lambda record: record["step"] == until, **options)
    for name, given in (
        ("data", (changed(data, part), held)),
        ("validation", (data, changed(held, part))),
    ):
        with pytest.raises(ValueError, match=f"resume: .* had other {name}: {said}"):
            fit(Linear(), given[0], validation=given[1], **options)
    fit(Linear(), changed(data, "last bits"), validation=held, **options)


def test_the_checksum_looks_at_all_of_large_data_for_a_bounded_price():
    looked = []

    class Counting(batches.Packed):
        def __getitem__(self, indices):
            looked.append(indices)
            return super().__getitem__(indices)

    data = toy(20_000)
    first = fingerprint.of(Counting(data.x, data.offsets, *data.targets))
    seen = np.concatenate(looked)
    assert len(seen) == 4096 == len(set(seen)) and (seen[0], seen[-1]) == (0, 19_999)
    assert np.diff(np.sort(seen)).max() < 20_000 / 7
    assert not fingerprint.difference(first, fingerprint.of(data)) and len(json.dumps(first)) < 1000
    for part in ("x", "label", "offsets"):
        assert bool(fingerprint.difference(first, fingerprint.of(changed(data, part)))) == (
            part != "x"
        )  # not looked at
    for damaged in (
        {},
        {"exact": first["exact"]},
        {**first, "sums": [1.0]},
        {**first, "sums": ["a"] * 16},
    ):
        assert fingerprint.difference(damaged, first)


def test_a_checkpoint_of_before_there_was_a_checksum_goes_on_and_says_so(tmp_path):
    options = {**TOY, "path": tmp_path / "run", "resume": True}
    fit(Linear(), toy(), watch=lambda record: record["step"] == 4, **options)

    def forget():
        card = json.loads((tmp_path / "run" / "card.json").read_text())
        del card["checksum"]
        (tmp_path / "run" / "card.json").write_text(json.dumps(card))

    forget()
    with pytest.warns(RuntimeWarning, match="has no checksum of its data"):
        assert fit(Linear(), toy(), **options).reason == "finished"
    forget()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit(Linear(), toy(), **options).reason == "finished"


def test_two_trainings_do_not_share_a_path(tmp_path):
    def watch(record):
        if record["step"] == 4:
            with pytest.raises(
                ValueError, match=rf"process {os.getpid()} on .* is training to .*run: wait"
            ):
                fit(Linear(), toy(), path=tmp_path / "run", resume=True, **TOY)

    model, alone = Linear(), Linear()
    done = fit(model, toy(), path=tmp_path / "run", watch=watch, **TOY)
    fit(alone, toy(), **TOY)
    assert torch.equal(weights(model), weights(alone)) and done.reason == "finished"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "run.history.jsonl"]
    assert history.read(tmp_path / "run").steps == done.steps


def test_a_finished_training_is_read_by_many_at_once(tmp_path):
    fit(Linear(), toy(), path=tmp_path / "run", **TOY)
    with atomic.alone(tmp_path / "run", "training to"):
        assert fit(Linear(), toy(), path=tmp_path / "run", resume=True, **TOY).reason == "finished"


def test_within_an_epoch_there_is_a_checkpoint_after_some_time(tmp_path, monkeypatch):
    def saved(seconds):
        def watch(record):
            if (path / "card.json").exists():
                found.append(checkpoints.read_card(path)["trained"]["steps"])

        found, path = [], tmp_path / str(seconds)
        monkeypatch.setattr(resume, "SAVE_SECONDS", seconds)
        fit(
            Linear(),
            toy(),
            path=path,
            watch=watch,
            **{**TOY, "epochs": 1, "batch_size": 8, "log_every": 3},
        )
        return found

    monkeypatch.setattr(resume, "SAVE_SHARE", 0)
    assert saved(0) == [3, 6, 9]  # at each record, the one before
    assert saved(1000) == []


def died_of(number, path, **options):
    """A child that trains to `path` dies of this signal. `options` of `fit`."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        fit(Linear(dropout=0.2), toy(), path=path, **{**TOY, **options})
        os._exit(1)
    assert os.waitpid(child, 0)[1] == number


def resumed_as_if_never_interrupted(path, **options):
    model, whole = Linear(dropout=0.2), Linear(dropout=0.2)
    again, expected = (
        fit(model, toy(), path=path, resume=True, **{**TOY, **options}),
        fit(whole, toy(), **{**TOY, **options}),
    )
    assert torch.equal(weights(model), weights(whole)) and again.reason == "finished"
    assert [record["loss"] for record in again.epochs] == [
        record["loss"] for record in expected.epochs
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked here")
def test_sigterm_in_the_first_epoch_keeps_what_was_learned(tmp_path):
    def watch(record):
        os.kill(os.getpid(), signal.SIGTERM)

    died_of(signal.SIGTERM, tmp_path / "run", watch=watch, log_every=2)
    trained = checkpoints.read_card(tmp_path / "run")["trained"]
    assert (trained["steps"], trained["epochs"], trained["reason"]) == (2, 0, "interrupted")
    resumed_as_if_never_interrupted(tmp_path / "run")


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_in_the_midst_of_a_step(tmp_path, times):
    """Once: the step is done to its end. Twice: at once."""
    steps = []

    def after(optimizer, args, kwargs):  # weights have changed, the step is not yet counted
        steps.append(1)
        if len(steps) == 2:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGINT)

    hook = register_optimizer_step_post_hook(after)
    before = signal.getsignal(signal.SIGINT)
    try:
        done = fit(Linear(dropout=0.2), toy(), path=tmp_path / "run", **TOY)
    finally:
        hook.remove()
    assert (
        done.reason == "interrupted"
        and signal.getsignal(signal.SIGINT) is before
        and not done.epochs
    )
    assert checkpoints.read_card(tmp_path / "run")["trained"]["steps"] == (2 if times == 1 else 1)
    if times == 1:
        resumed_as_if_never_interrupted(tmp_path / "run")


def test_ctrl_c_is_heard_in_a_measure_that_takes_long(tmp_path):
    def measure(model):
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it was not heard")

    done = fit(Linear(), toy(), path=tmp_path / "run", measure=measure, **TOY)
    assert done.reason == "interrupted" and done.steps[-1]["step"] == 3 and not done.epochs


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("run/state.safetensors", None, "state.safetensors is missing"),
        ("run/state.safetensors", b"short", "state.safetensors is missing or damaged"),
        ("run/card.json", b'{"a": 1}', "other settings"),
        ("run/card.json", "trained", "'trained' is 3, not dict"),
        ("run/card.json", "steps", "'steps' is '5', not int"),
        ("run.history.jsonl", b"[1]\n", "line 1, is no record of a training, but a list"),
        ("run.history.jsonl", b'{"steps": 3}\n', "'steps' is 3, not dict"),
        ("run.history.jsonl", b'{"other": {}}\n', "it has no 'steps'"),
        ("run.history.jsonl", b'{"steps": {"step": "one"}}\n', "'step' is 'one', not int"),
        ("run.history.jsonl", b'{"st\n{}', "line 1"),
        ("run.history.jsonl", b'{"steps', "ends before the checkpoint"),
    ],
)
def test_what_an_unfinished_training_left_is_damaged(tmp_path, name, text, said):
    options = {**TOY, "path": tmp_path / "run", "resume": True}
    fit(Linear(), toy(), watch=lambda record: record["step"] == 4, **options)
    card = checkpoints.read_card(tmp_path / "run")
    if text is None:
        (tmp_path / name).unlink()
    elif isinstance(text, bytes):
        (tmp_path / name).write_bytes(text)
    else:
        card["trained"] = 3 if text == "trained" else {**card["trained"], "steps": "5"}
        (tmp_path / name).write_text(json.dumps(card))
    with pytest.raises(ValueError, match=said) as error:
        fit(Linear(), toy(), **options)
    assert "run" in str(error.value)


def test_the_state_of_another_optimiser_is_refused(tmp_path):
    options = {**TOY, "path": tmp_path / "run", "resume": True}
    fit(Linear(), toy(), watch=lambda record: record["step"] == 4, **options)
    state = checkpoints.read_state(tmp_path / "run")
    for change in (
        {"optimizer.0.exp_avg": torch.zeros(2)},
        {"optimizer.9.exp_avg": torch.zeros(2)},
        {"optimizer.x": torch.zeros(2)},
        {"optimizer.0.more": torch.zeros(())},
        {"watchdog.norms": torch.zeros(())},
    ):
        safetensors.torch.save_file({**state, **change}, tmp_path / "run" / "state.safetensors")
        with pytest.raises(ValueError, match="state.safetensors is of another training"):
            fit(Linear(), toy(), **options)


class Broken(Linear):
    """Its loss, or only its gradient, is not finite from the given call on."""

    def __init__(self, at, *, until=10**9, value=math.nan, gradient=False):
        super().__init__()
        self.at, self.until, self.value, self.gradient, self.calls = at, until, value, gradient, 0

    def loss(self, batch, *, generator=None):
        self.calls += 1
        bad = self.at <= self.calls < self.until
        loss = super().loss(batch)
        if bad and self.gradient:
            loss.register_hook(lambda gradient: gradient * self.value)
        return loss * self.value if bad and not self.gradient else loss


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_loss_that_is_not_finite_ends_it_and_spares_the_weights(value, gradient):
    model, good = Broken(8, value=value, gradient=gradient), Linear()
    with pytest.raises(
        FloatingPointError, match=r"step 8 \(epoch 2, learning rate .*last good loss was 0\."
    ) as error:
        fit(model, toy(), epochs=4, batch_size=20, seed=1, log_every=10, **QUIET)
    assert "lower lr" in str(error.value) and not model.training
    seen = []
    fit(
        good,
        toy(),
        epochs=4,
        batch_size=20,
        seed=1,
        log_every=1,
        watch=lambda r: r["step"] == 7,
        **QUIET,
    )
    assert torch.equal(weights(model), weights(good)) and not seen


@pytest.fixture
def float16(monkeypatch):
    """Fabric does bfloat16 on a CPU where float16 is asked for: make it do float16, which takes
    long and works.
    """
    import lightning.fabric
    from lightning.fabric.plugins import MixedPrecision

    make = lightning.fabric.Fabric
    monkeypatch.setattr(
        lightning.fabric,
        "Fabric",
        lambda precision, **options: make(plugins=[MixedPrecision("16-mixed", "cpu")], **options),
    )


def test_in_float16_bad_steps_are_skipped_and_counted(float16):
    model = Broken(4, until=6, value=math.inf)
    done = fit(
        model,
        toy(),
        epochs=4,
        batch_size=20,
        seed=1,
        lr=0.1,
        log_every=5,
        precision="16-mixed",
        **QUIET,
    )
    assert [r["skipped"] for r in done.steps] == [2, 2, 2, 2] and weights(model).isfinite().all()
    assert done.epochs[-1]["loss"] < done.epochs[0]["loss"]
    with pytest.raises(FloatingPointError, match="bf16-mixed"):
        fit(Broken(4), toy(), epochs=20, batch_size=20, seed=1, precision="16-mixed", **QUIET)


def test_float16_resumes_exactly(tmp_path, float16):
    options = {**TOY, "precision": "16-mixed"}
    one, two = Linear(), Linear()
    fit(one, toy(), path=tmp_path / "run", watch=lambda r: r["step"] == 4, **options)
    fit(one, toy(), path=tmp_path / "run", resume=True, **options)
    fit(two, toy(), **options)
    assert torch.equal(weights(one), weights(two))


def test_skipped_steps_are_counted_over_an_interruption(tmp_path, float16):
    options = dict(
        epochs=4,
        batch_size=20,
        seed=1,
        lr=0.1,
        log_every=5,
        precision="16-mixed",
        path=tmp_path / "run",
        resume=True,
        **QUIET,
    )
    fit(
        Broken(4, until=6, value=math.inf),
        toy(),
        watch=lambda record: record["step"] == 10,
        **options,
    )
    done = fit(Broken(3, until=4, value=math.inf), toy(), **options)
    assert [record["skipped"] for record in done.steps] == [2, 2, 3, 3]


def test_steps_skipped_in_a_row_are_counted_over_an_interruption(tmp_path, float16, monkeypatch):
    monkeypatch.setattr(watchdog, "PATIENCE", 6)
    options = dict(
        epochs=6,
        batch_size=20,
        seed=1,
        log_every=5,
        precision="16-mixed",
        path=tmp_path / "run",
        resume=True,
        **QUIET,
    )
    fit(Broken(8), toy(), watch=lambda record: record["step"] == 10, **options)
    with pytest.raises(FloatingPointError, match=r"step 13 .*last good loss was 0\."):
        fit(Broken(1), toy(), **options)


def test_gradients_that_explode_after_an_interruption_are_compared_with_those_before(tmp_path):
    options = dict(epochs=8, batch_size=20, seed=1, path=tmp_path / "run", resume=True, **QUIET)
    fit(Linear(), toy(), watch=lambda record: record["step"] == 30, **options)
    with pytest.warns(RuntimeWarning, match="around step 31 the gradient norm"):
        fit(Broken(1, until=3, value=1e4, gradient=True), toy(), **options)


def test_bfloat16_is_near_float32():
    one, two = Linear(), Linear()
    fit(one, toy(), precision="bf16-mixed", **TOY)
    fit(two, toy(), **TOY)
    assert not torch.equal(weights(one), weights(two)) and one.inner.weight.dtype == torch.float32
    torch.testing.assert_close(weights(one), weights(two), rtol=0.05, atol=0.02)


def test_exploding_gradients_warn_once():
    with pytest.warns(RuntimeWarning) as caught:
        fit(
            Broken(40, until=60, value=1e4, gradient=True),
            toy(),
            epochs=20,
            batch_size=20,
            seed=1,
            **QUIET,
        )
    assert [str(w.message) for w in caught if "explode" in str(w.message)].__len__() == 1


def test_collapse_warns_once_and_health_does_not():
    class Monitored(Linear):
        rank = 1.01

        def monitors(self):
            return {"rank": self.rank}

    with pytest.warns(RuntimeWarning, match="rank of representations is 1.01") as caught:
        done = fit(Monitored(), toy(), **TOY)
    assert len(caught) == 1 and [r["rank"] for r in done.epochs] == [1.01] * 4
    healthy = Monitored()
    healthy.rank = 5.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(healthy, toy(), **TOY)


@pytest.mark.parametrize("lr, flat", [(0.3, "uniformity"), (1e-3, None)])
def test_a_contrastive_training_that_collapses_says_so_once(lr, flat):
    model = jetclr(dropout=0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = fit(model, particles(320), epochs=3, batch_size=64, seed=1, lr=lr, **QUIET)
    said = [str(one.message) for one in caught if one.category is RuntimeWarning]
    assert len(said) == (flat is not None)
    assert all(f"the {flat} of representations" in one and "collapsed" in one for one in said)
    assert min(record["rank"] for record in done.epochs) > 1.5  # so the rank does not tell


@pytest.mark.parametrize(
    "values, said",
    [
        ({"variance": [0.5, 0.5, 3e-3, 2e-3]}, "epoch 3 the variance of representations is 0.003"),
        (
            {"variance": [0.05, 1e-4, 2e-5, 2e-5]},
            "epoch 2 the variance of representations is 0.0001",
        ),
        ({"variance": [1e-9] * 4}, "epoch 1 the variance of representations is 1e-09"),
        ({"variance": [0.0] * 4}, "epoch 1 the variance of representations is 0:"),
        ({"variance": [2e-7, 9e-4, 0.2, 0.1]}, None),
        ({"variance": [0.5, 0.3, 0.04, 0.5]}, None),
        ({"uniformity": [-1e-5, -1e-5, -1e-5, -1e-4]}, "epoch 2 the uniformity of .* is -1e-05"),
        ({"uniformity": [-1e-5, -0.05, -2.0, -2.0]}, None),
    ],
)
@pytest.mark.parametrize("resumed", [False, True])
def test_collapse_by_each_monitor(values, said, resumed):
    dog = watchdog.Watchdog(tolerant=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch, value in enumerate(*values.values(), start=1):
            found = {"rank": 5.0, **dict.fromkeys(values, value)}
            dog.look_for_collapse(found, batch_size=256, epoch=epoch)
            if resumed and not caught:
                memory, dog = dog.to_tensors(), watchdog.Watchdog(tolerant=False)
                dog.from_tensors(memory)
    assert len(caught) == (said is not None)
    assert all(re.search(said, str(one.message)) for one in caught)


def test_a_variance_that_falls_to_nothing_warns_once_also_after_a_resume(tmp_path):
    class Falling(Linear):
        def monitors(self):
            return {"rank": 5.0, "variance": next(self.values)}

    def trained(values, **more):
        model = Falling()
        model.values = iter(values)
        fit(model, toy(), path=tmp_path / "run", resume=True, **TOY, **more)

    trained([0.5, 0.4], watch=lambda record: record["step"] == 6)
    with pytest.warns(RuntimeWarning, match="epoch 3 the variance .* is 1e-06") as caught:
        trained([1e-6, 1e-6])
    assert len(caught) == 1


class Counted(Linear):
    """Its validation losses are given; a buffer counts the training steps, to tell the epochs'
    weights apart.
    """

    def __init__(self, losses):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))
        self.losses = iter(losses)

    def loss(self, batch, *, generator=None):
        self.count += self.training
        return super().loss(batch) if self.training else torch.tensor(next(self.losses))


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, 2),
        ({"keep": "last"}, 5),
        ({"patience": 1}, 2),
        ({"patience": 1, "keep": "last"}, 3),
        (
            {
                "measure": lambda model: {"accuracy": float(-abs(model.count - 4))},
                "best_by": "accuracy",
            },
            4,
        ),
    ],
)
def test_what_is_kept(options, expected, tmp_path):
    model = Counted([3.0, 1.0, 2.0, 1.0, math.nan])
    done = fit(
        model,
        toy(),
        epochs=5,
        batch_size=96,
        seed=1,
        validation=toy(8),
        path=tmp_path / "run",
        **{**QUIET, **options},
    )
    assert (
        model.count == expected
        and checkpoints.read_card(tmp_path / "run")["metrics"]["epoch"] == expected
    )
    assert done.reason == ("patience" if "patience" in options else "finished")
    fresh = Counted([])
    checkpoints.load(tmp_path / "run", fresh)
    assert torch.equal(weights(fresh), weights(model))


def test_the_best_before_an_interruption_is_what_is_kept_after_it(tmp_path):
    def trained(watch=None):
        model = Counted([3.0, 1.0, 2.0] if watch else [2.0, 1.5])
        fit(
            model,
            toy(),
            epochs=5,
            batch_size=96,
            seed=1,
            validation=toy(8),
            path=tmp_path / "run",
            watch=watch,
            resume=True,
            **QUIET,
        )
        return model

    assert trained(lambda record: record["step"] == 3).count == 2
    assert checkpoints.read_card(tmp_path / "run")["trained"] | {"seconds": 0} == {
        "steps": 3,
        "epochs": 3,
        "jets": 3 * 96,
        "reason": "watch",
        "seconds": 0,
    }
    assert trained().count == 2
    card = checkpoints.read_card(tmp_path / "run")
    assert (card["metrics"]["epoch"], card["trained"]["epochs"]) == (2, 5)
    checkpoints.load(tmp_path / "run", fresh := Counted([]))
    assert fresh.count == 2


def contrary():
    """Jets with the labels of the other class: training makes the loss on these worse."""
    jets = toy(40, seed=1)
    return batches.Packed(jets.x, jets.offsets, 1 - jets.targets[0])


def closeness(model):
    return {"closeness": -float(model.loss(contrary()[np.arange(40)]))}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is forked here")
@pytest.mark.parametrize(
    "options",
    [{"keep": "best"}, {"keep": "last"}, {"measure": closeness, "best_by": "closeness"}],
    ids=["best", "last", "measure"],
)
@pytest.mark.parametrize(
    "how, stops",
    [
        ("end of epoch", (9, 12)),
        ("within epoch", (8, 10)),
        ("SIGTERM", (8, 10)),
        ("SIGKILL", (8, 10)),
    ],
)
def test_the_best_weights_survive_interruptions_to_the_bit(tmp_path, how, stops, options):
    options = {**TOY, "lr": 0.05, "epochs": 5, "save_every": 2, "validation": contrary(), **options}
    whole, best, model = Linear(dropout=0.2), Linear(dropout=0.2), Linear(seed=7, dropout=0.2)
    expected = fit(whole, toy(), **options)
    losses = [record["validation_loss"] for record in expected.epochs]
    at = 1 + int(np.argmin(losses))  # the best epoch, before all stops
    assert at < 3 and losses[-1] > losses[at - 1] + 0.1
    fit(best, toy(), watch=lambda record: record["step"] == 3 * at, **{**options, "keep": "last"})
    for stop in stops:

        def watch(record, stop=stop):
            if record["step"] == stop and how.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, how))
            return record["step"] == stop and not how.startswith("SIG")

        if how.startswith("SIG"):
            died_of(getattr(signal, how), tmp_path / "run", watch=watch, resume=True, **options)
        else:
            fit(
                Linear(dropout=0.2),
                toy(),
                path=tmp_path / "run",
                watch=watch,
                resume=True,
                **options,
            )
        checkpoints.load(tmp_path / "run", model)
        found = checkpoints.read_card(tmp_path / "run")["metrics"]["epoch"]
        keeps_best = options.get("keep", "best") == "best"
        assert torch.equal(weights(model), weights(best)) == (found == at) == keeps_best
    again = fit(model, toy(), path=tmp_path / "run", resume=True, **options)
    assert torch.equal(weights(model), weights(whole)) and again.steps == expected.steps
    for one, other in zip(again.epochs, expected.epochs, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    checkpoints.load(tmp_path / "run", best)
    assert torch.equal(weights(best), weights(whole))


def test_watch_sees_every_record_and_the_validation(tmp_path):
    seen = []
    done = fit(
        Linear(),
        toy(),
        validation=toy(9),
        watch=seen.append,
        path=tmp_path / "run",
        measure=lambda model: {"accuracy": 0.5},
        **TOY,
    )
    assert (
        [r["step"] for r in seen] == [r["step"] for r in done.steps] == [2, 3, 4, 6, 8, 9, 10, 12]
    )
    assert [r["loss"] for r in seen] == [r["loss"] for r in done.steps]
    assert [r["validation_loss"] for r in seen if "validation_loss" in r] == [
        r["validation_loss"] for r in done.epochs
    ]
    assert done.epochs[0]["accuracy"] == 0.5
    assert (history.read(tmp_path / "run").steps, history.read(tmp_path / "run").epochs) == (
        done.steps,
        done.epochs,
    )


def test_groups_have_their_own_learning_rates():
    model, data = Linear(), toy()
    before = copy.deepcopy(model.state_dict())
    done = fit(
        model,
        data,
        parameters=[
            {"params": model.inner.parameters(), "lr": 1e-30},
            {"params": model.outer.parameters()},
        ],
        **TOY,
    )
    assert torch.allclose(before["inner.weight"], model.inner.weight, rtol=1e-6, atol=0)
    assert not torch.allclose(before["outer.weight"], model.outer.weight, rtol=1e-2)
    assert done.steps[-1]["loss"] < done.steps[0]["loss"]
    with pytest.raises(ValueError, match="inner.weight is in no group"):
        fit(model, data, parameters=[{"params": model.outer.parameters()}], **TOY)
    with pytest.raises(ValueError, match="twice"):
        fit(
            model,
            data,
            parameters=[{"params": model.parameters()}, {"params": [model.outer.bias]}],
            **TOY,
        )
    model.inner.requires_grad_(False)
    frozen = model.inner.weight.clone()
    fit(model, data, **TOY)
    assert torch.equal(frozen, model.inner.weight)
    with pytest.raises(ValueError, match="no parameter to train"):
        fit(model.requires_grad_(False), data, **TOY)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epochs": None}, "give one of them"),
        ({"steps": 3}, "give one of them"),
        ({"lr": 0}, "lr is 0: it must be pos"),
        ({"batch_size": 0}, "batch_size"),
        ({"warmup": 1.5}, "warmup"),
        ({"keep": "all"}, "keep"),
        ({"clip": -1}, "clip"),
        ({"patience": 2}, "patience"),
        ({"best_by": "accuracy"}, "best_by"),
        ({"log_every": 0}, "log_every is 0"),
        ({"weight_decay": -1}, "weight_decay"),
    ],
)
def test_arguments_that_make_no_sense(change, message):
    with pytest.raises(ValueError, match=message):
        fit(Linear(), toy(), **{**TOY, **change})


def test_models_and_data_that_make_no_sense(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="card"):
        fit(Linear(), toy(), path=tmp_path / "run", card={"encoder": object()}, **TOY)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="without a method loss"):
        fit(nn.Linear(2, 2), toy(), **TOY)
    with pytest.raises(ValueError, match="validation has no jets"):
        fit(Linear(), toy(), validation=toy(0), **TOY)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match="accelerator is 'cuda', but torch .* sees no CUDA .* use 'cpu' or 'auto'"
    ):
        fit(Linear(), toy(), **{**TOY, "accelerator": "cuda"})


def test_nothing_is_printed_but_the_bar(capfd):
    fit(Linear(), toy(), precision="bf16-mixed", **TOY)
    assert capfd.readouterr() == ("", "")
    fit(Linear(), toy(), **{**TOY, "progress": True})
    out, bar = capfd.readouterr()
    assert out == "" and "epoch=4/4, loss=0." in bar and "384/384" in bar and "jets/s" in bar


if __name__ == "__main__":
    torch.set_num_threads(1)  # as in the tests
    main(Path(sys.argv[1]))
