"""What is pretraining worth: encoders frozen, finetuned and from scratch, over label budgets and
seeds, in one table.

Each run has its own labelled jets, initial weights and order of batches. All choices (learning
rate, penalty, when to stop) are made on validation jets alone, whose labels are few too; the test
jets are looked at once per run. Runs are never dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from jetnb import atomic, hardware, parallel
from jetnb.finetuning import tables, trials
from jetnb.finetuning.ledger import Ledger
from jetnb.finetuning.planning import Plan, plan
from jetnb.finetuning.settings import GRIDS, Settings, refuse
from jetnb.inputs.batches import Packed

HEADS = "random", "frozen"  # the modes in which the encoder is not trained


def measure(
    make_encoder: Callable[[int], nn.Module],
    data: Sequence[Packed],
    *,
    budgets: Iterable[int],
    seeds: Iterable[int],
    pretrained=None,
    modes: Sequence[str] | None = None,
    head: str = "linear",
    lrs: Mapping[str, Sequence[float]] = GRIDS,
    tune_at: int | Sequence[int] | None = None,
    head_lr: float = 10.0,
    probe_first: bool = True,
    validation_share: float = 0.25,
    validation_least: int = 100,
    batch_size: int = 64,
    steps: int = 600,
    epochs: int = 10,
    patience: int | None = None,
    every: int = 5,
    watch_all: bool = False,
    signal: int = 1,
    path=None,
    scores: bool = False,
    processes: int = 1,
    accelerator: str = "cpu",
    progress: bool = True,
) -> ak.Array:
    """Train and test a classifier for every mode, label budget and seed; a table with one record
    per run.

    make_encoder(seed): a new encoder, encoder(x, offsets) -> constituents (T, D), jets (B, D), with
    the attribute dim; torch's generator is seeded before. data: train, validation and test jets,
    disjoint in event, each a `Packed` whose first target is the label, from 0. pretrained: an
    encoder, its state dict, or the folder of a checkpoint with a part "encoder"; None leaves out
    what needs it. head: "linear", or "mlp" with one hidden layer of 64.

    modes: "random", a head on a frozen encoder with random weights; "frozen", a head on the
    pretrained one; "finetuned", all weights from there on, the head with `head_lr` times the
    learning rate of the encoder and, with probe_first, from the frozen head (arXiv:2202.10054);
    "scratch", the same encoder from random weights. Heads on frozen encoders, see
    `jetnb.finetuning.stacked`, are fitted to embeddings scaled to width 1 on all training jets,
    which takes no labels.

    budgets: numbers of labelled training jets: nested and balanced for each of `seeds`, see
    `jets.label_budgets`. In addition each run has its own validation labels, drawn alike:
    `validation_share` of the budget, but at least `validation_least`. lrs: for "finetuned" and
    "scratch" the learning rates to try; all are tried with the first seed at the budget `tune_at`
    (None: the middle one; several: each budget takes what the nearest of them found, as a ratio),
    and the one with the lowest validation loss is used and tested. Warns where it lies at an end of
    its grid.

    A run lasts `steps` steps of `batch_size` jets or `epochs` epochs, whichever is more, in which
    the learning rate falls to zero. It is validated before the first step, every `every` steps and
    at the end, and keeps the weights of the check with the lowest loss: step 0 is what it began
    with. With `patience` it ends so many checks after its lowest, before its learning rate has
    fallen, so give it to runs that have more steps than they need. Warns where half of the runs, or
    more, are best at their last check. watch_all: measure `history` on all validation jets, which
    no choice sees. signal: the class whose score makes AUC and rejection.

    path: a JSON-lines file, see `jetnb.finetuning.ledger`, to which each run is added when it is
    done; runs that are in it are not done again. It may hold several heads, budgets and seeds; one
    study at a time writes to it. scores: keep the probabilities (n_test, C) of each run beside it,
    in the folder `path` without its suffix. processes: full trainings at a time, each with one
    thread, so that the numbers do not depend on it. accelerator: as in `training.fit`.

    Returns records of mode, head, budget, seed, n_validation, lr and penalty (nan where there is
    none), accuracy, auc, rejection_50 and rejection_30 (1 / background efficiency at 50 % and 30 %
    signal efficiency; a lower bound at 95 % where n_passing_50, n_passing_30, the background jets
    that pass, is 0), steps and jets (trained; 0 for linear heads), step (picked), ended
    ("patience", or "finished"), history (validation accuracy at each check), steps_per_check,
    validation_loss, seconds, scores (file name or ""), grid (lr, loss and step of what was tried;
    empty where nothing was). Raises ValueError for arguments that do not fit, for a file with other
    settings, naming the first that differs, and for one to which another study writes. Taught in
    notebook 08.
    """
    hardware.check(accelerator)
    if scores and path is None:
        refuse("scores", scores, "give a path to keep them at")
    settings = Settings(
        head=head,
        lrs={mode: list(grid) for mode, grid in {**GRIDS, **lrs}.items()},
        head_lr=head_lr,
        probe_first=probe_first,
        validation_share=validation_share,
        validation_least=validation_least,
        batch_size=batch_size,
        steps=steps,
        epochs=epochs,
        patience=patience,
        every=every,
        watch_all=watch_all,
        signal=signal,
    )
    planned = plan(
        settings,
        make_encoder,
        data,
        budgets=budgets,
        seeds=seeds,
        modes=modes,
        tune_at=tune_at,
        pretrained=pretrained,
        accelerator=hardware.named(accelerator),
    )
    with contextlib.ExitStack() as until_done:
        if path is not None:
            until_done.enter_context(atomic.alone(Path(path), "adding runs to"))
        until_done.enter_context(trials.one_thread())
        until_done.enter_context(torch.random.fork_rng(devices=[]))
        ledger = Ledger(path, planned.record)
        bar = until_done.enter_context(
            tqdm(total=planned.n_runs, unit=" runs", disable=not progress)
        )
        how = dict(ledger=ledger, bar=bar, scores=scores, processes=processes)
        run([one for one in planned.runs if one["mode"] in HEADS], planned, **how)
        found = tune(planned, ledger=ledger, bar=bar, processes=processes)
        wanted = [_with_rate(one, found, planned) for one in planned.runs]
        run(wanted, planned, **how)
        bar.update(planned.n_runs - bar.n)
    order = {mode: i for i, mode in enumerate(planned.modes)}
    wanted.sort(key=lambda one: (order[one["mode"]], one["budget"]))  # seeds are in order already
    records = []
    for one in wanted:
        names = {name: one[name] for name in ("mode", "head", "budget", "seed")}
        grid = found.get((one["mode"], one["budget"]), [])
        records.append({**names, **ledger[one], "grid": grid})
    tables.warn(
        {at: found[at] for at in planned.tries}, [one for one in records if one["mode"] in GRIDS]
    )
    return ak.Array(records)


def tune(
    planned: Plan, *, ledger: Ledger, bar: tqdm, processes: int
) -> dict[tuple[str, int], list[dict]]:
    """Try the learning rates, where there are several: {(mode, budget): lr, loss and step of what
    was tried for it}. The best is not tested yet: it is kept in `planned.tried`.
    """
    todo = [
        one
        for several in planned.tries.values()
        for one in several
        if one not in ledger and _untested(one) not in ledger
    ]

    def train(one: dict, start, _) -> trials.Trained:
        return trials.train(one, start, planned.study)

    for one, trained in _trainings(train, todo, planned, processes):
        loss, step = (trained.record[name] for name in ("validation_loss", "step"))
        ledger.add(_untested(one), {"validation_loss": loss, "step": step})
        at = one["mode"], one["budget"]
        if at not in planned.tried or loss < planned.tried[at][1].record["validation_loss"]:
            planned.tried[at] = one, trained
        bar.update()
    found = {}
    for mode in planned.modes:
        for budget, at in planned.nearest.items():
            if (mode, at) in planned.tries:
                found[mode, budget] = [_point(one, ledger) for one in planned.tries[mode, at]]
    return found


def _untested(one: dict) -> dict:
    """The entry of a training that only tried a learning rate."""
    return {**one, "tested": False}


def _point(one: dict, ledger: Ledger) -> dict:
    result = ledger[one if one in ledger else _untested(one)]
    return {"lr": one["lr"], "loss": result["validation_loss"], "step": result["step"]}


def _with_rate(one: dict, found: Mapping, planned: Plan) -> dict:
    """The run with the learning rate of the lowest validation loss, if it is a full training."""
    if one["mode"] in HEADS:
        return one
    tries = found.get((one["mode"], one["budget"]))
    if tries:
        return one | {"lr": min(tries, key=lambda tried: tried["loss"])["lr"]}
    return one | {"lr": planned.study.settings.lrs[one["mode"]][0]}


def run(
    wanted: list[dict], planned: Plan, *, ledger: Ledger, bar: tqdm, scores: bool, processes: int
) -> None:
    """Fit heads, then train and test, what the ledger lacks, and add each run when it is done."""
    todo = [one for one in wanted if one not in ledger]
    for mode in HEADS:
        if any(one["mode"] == mode for one in todo):
            for one, record, probabilities in _heads(mode, planned):
                if one in todo:
                    _add(ledger, one, record, probabilities, scores)
                    bar.update()

    def whole(one: dict, start, tried) -> tuple[dict, np.ndarray]:
        trained = trials.train(one, start, planned.study) if tried is None else tried
        return trials.test(one, trained, planned.study)

    trainings = [one for one in todo if one["mode"] not in HEADS]
    for one, (record, probabilities) in _trainings(whole, trainings, planned, processes):
        _add(ledger, one, record, probabilities, scores)
        bar.update()


def _heads(mode: str, planned: Plan) -> Iterator[tuple[dict, dict, np.ndarray]]:
    for one, layers, record, probabilities in trials.probe(mode, planned.points, planned.study):
        if mode == "frozen":
            planned.starts[one["budget"], one["seed"]] = layers
        yield one, record, probabilities


def _trainings(
    function: Callable, todo: list[dict], planned: Plan, processes: int
) -> Iterator[tuple[dict, Any]]:
    """Pairs of a run and `function(run, start, tried)`, as they are done: start, the layers of the
    frozen head at which it begins, and tried, what `tune` has done of it, are None without.
    """
    if not todo:
        return
    begin_fitted = planned.study.settings.probe_first and any(
        one["mode"] == "finetuned" for one in todo
    )
    if begin_fitted and not planned.starts:
        for _ in _heads("frozen", planned):
            pass
    import lightning.fabric  # noqa: F401  once, instead of seconds in every worker

    pieces = [(one, _start(one, planned), _tried(one, planned)) for one in todo]
    for (one, *_), result in parallel.as_done(
        lambda piece: function(*piece),
        pieces,
        processes=max(min(processes, len(todo)), 1),
        fork=True,
    ):
        yield one, result


def _start(one: dict, planned: Plan):
    if one["mode"] == "finetuned" and planned.study.settings.probe_first:
        return planned.starts[one["budget"], one["seed"]]
    return None


def _tried(one: dict, planned: Plan) -> trials.Trained | None:
    best, trained = planned.tried.get((one["mode"], one["budget"]), (None, None))
    return trained if best == one else None


def _add(ledger: Ledger, one: dict, record: dict, probabilities: np.ndarray, scores: bool) -> None:
    ledger.add(one, {**record, "scores": ""}, probabilities if scores else None)


def probe(
    z: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    budgets: Iterable[int],
    seeds: Iterable[int],
    name: str = "probe",
    validation_share: float = 0.25,
    validation_least: int = 100,
    signal: int = 1,
) -> ak.Array:
    """Fit a plane to numbers of each jet, features or embeddings, with the jets and labels of
    `measure`.

    z: numbers of the train, validation and test jets, (N, D) each, which are scaled to width 1 on
    all training jets. labels: their classes (N,), from 0. name: what the table calls the mode. The
    rest is as in `measure`, and so are the errors: with the same arguments, parts and seeds both
    use the same jets. Returns records like those of `measure`. Taught in notebook 08.
    """
    data = [
        Packed(np.asarray(part, np.float32), np.arange(len(part) + 1), np.asarray(one))
        for part, one in zip(z, labels, strict=True)
    ]
    table = measure(
        lambda seed: Vectors(data[0].x.shape[1]),
        data,
        budgets=budgets,
        seeds=seeds,
        modes=("random",),
        validation_share=validation_share,
        validation_least=validation_least,
        signal=signal,
        progress=False,
    )
    table["mode"] = np.full(len(table), name)
    return table


class Vectors(nn.Module):
    """An encoder whose jets are vectors already, as one constituent each."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x, offsets):
        return x, x
