"""What is pretraining worth: encoders frozen, finetuned and from scratch, over label budgets and
seeds, in one table.

Each run has its own labelled jets, initial weights and order of batches. All choices (learning
rate, penalty, when to stop) are made on validation jets alone, whose labels are few too; the test
jets are looked at once per run. Runs are never dropped.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from jetnb import atomic, checkpoints, hardware, jets, parallel
from jetnb.finetuning import trials
from jetnb.finetuning.ledger import Ledger
from jetnb.inputs.batches import Packed

MODES = ("random", "frozen", "finetuned", "scratch")
GRIDS = {"finetuned": (1e-4, 3e-4, 1e-3), "scratch": (3e-4, 1e-3, 3e-3)}


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
    "scratch", the same encoder from random weights. Frozen heads are fitted for all seeds at once,
    see `jetnb.finetuning.stacked`, to embeddings scaled to width 1 on all training jets, which
    takes no labels.

    budgets: numbers of labelled training jets: nested and balanced for each of `seeds`, see
    `jets.label_budgets`. In addition each run has its own validation labels, drawn alike:
    `validation_share` of the budget, but at least `validation_least`. lrs: for "finetuned" and
    "scratch" the learning rates to try; all are tried with the first seed at the budget `tune_at`
    (None: the middle one; several: each budget takes what the nearest of them found, as a ratio),
    and the one with the lowest validation loss is used. Warns where it lies at an end of its grid.

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
    budgets, seeds = (
        sorted({int(n) for n in budgets}),
        list(dict.fromkeys(int(seed) for seed in seeds)),
    )
    modes = tuple(
        modes or (mode for mode in MODES if pretrained is not None or mode in ("random", "scratch"))
    )
    data = [Packed(part.x, part.offsets, part.targets[0]) for part in data]
    labels = [part.targets[0] for part in data]
    tune_at = (
        budgets[len(budgets) // 2 :][:1]
        if tune_at is None
        else sorted(set(np.atleast_1d(tune_at).tolist()))
    )
    n_validation = {n: max(int(validation_share * n), validation_least) for n in budgets}
    settings = {
        "head": head,
        "lrs": {mode: list(grid) for mode, grid in {**GRIDS, **lrs}.items()},
        "head_lr": head_lr,
        "probe_first": probe_first,
        "validation_share": validation_share,
        "validation_least": validation_least,
        "batch_size": batch_size,
        "steps": steps,
        "epochs": epochs,
        "patience": patience,
        "every": every,
        "watch_all": watch_all,
        "signal": signal,
        "tuned_at": None,
    }
    hardware.check(accelerator)
    accelerator = hardware.named(accelerator)
    n_classes = _check(
        labels, budgets, n_validation, seeds, modes, settings, pretrained, tune_at, scores, path
    )
    if any(len(grid) > 1 for grid in settings["lrs"].values()):
        settings["tuned_at"] = [*tune_at, seeds[0]]
    settings["data"] = [_checksum([part.x, part.offsets, *part.targets]) for part in data]
    with trials.one_thread(), torch.random.fork_rng(devices=[]):
        settings["encoder"] = _checksum(trials.build(make_encoder, 0, None).state_dict().values())
        weights = None if pretrained is None else _weights(make_encoder, pretrained)
    settings["pretrained"] = weights and _checksum(weights.values())
    rows = {
        seed: draw(
            labels,
            budgets,
            seed=seed,
            validation_share=validation_share,
            validation_least=validation_least,
        )
        for seed in seeds
    }
    study = dict(
        make_encoder=make_encoder,
        data=data,
        n_classes=n_classes,
        settings=settings,
        accelerator=accelerator,
        weights=weights,
        rows=rows,
    )

    points = [
        dict(head=head, budget=n, seed=seed) for n in budgets[::-1] for seed in seeds
    ]  # the longest runs first
    grids = {mode: settings["lrs"][mode] for mode in modes if mode in settings["lrs"]}
    tried = {
        (mode, n): [
            {"mode": mode, "head": head, "budget": n, "seed": seeds[0], "lr": lr} for lr in grid
        ]
        for mode, grid in grids.items()
        for n in tune_at
        if len(grid) > 1
    }
    n_runs = len(modes) * len(points) + sum(len(runs) - 1 for runs in tried.values())
    starts = {}
    alone = contextlib.nullcontext() if path is None else atomic.alone(Path(path), "adding runs to")
    shared = {
        name: value for name, value in settings.items() if name != "head"
    }  # which each run says itself
    with (
        alone,
        contextlib.nullcontext(Ledger(path, shared)) as runs,
        tqdm(total=n_runs, unit=" runs", disable=not progress) as bar,
        trials.one_thread(),
        torch.random.fork_rng(devices=[]),
    ):

        def keep(run, record, probabilities):
            runs.add(run, {**record, "scores": ""}, probabilities if scores else None)
            bar.update()

        def probe(mode):
            for run, layers, record, probabilities in trials.probe(mode, points, study):
                if mode == "frozen":
                    starts[run["budget"], run["seed"]] = layers
                if mode in modes and run not in runs:
                    keep(run, record, probabilities)

        def train(todo):
            todo = [run for run in todo if run not in runs]
            if probe_first and not starts and any(run["mode"] == "finetuned" for run in todo):
                probe("frozen")
            start = [
                starts.get((run["budget"], run["seed"]))
                if probe_first and run["mode"] == "finetuned"
                else None
                for run in todo
            ]
            import lightning.fabric  # noqa: F401  once, instead of seconds in every worker

            for _, done in parallel.as_done(
                lambda one: trials.train(*one, study),
                zip(todo, start, strict=True),
                processes=max(min(processes, len(todo)), 1),
                fork=True,
            ):
                keep(*done)

        for mode in modes:
            if mode not in grids and any({"mode": mode, **point} not in runs for point in points):
                probe(mode)
        train([run for several in tried.values() for run in several])
        found = {
            at: [
                {"lr": run["lr"], "loss": runs[run]["validation_loss"], "step": runs[run]["step"]}
                for run in several
            ]
            for at, several in tried.items()
        }
        wanted, tuned = [], {n: min(tune_at, key=lambda at: abs(np.log(at / n))) for n in budgets}  # noqa: B023
        for point, mode in itertools.product(points, modes):
            run = {"mode": mode, **point}
            if mode in grids:
                tries = found.get((mode, tuned[point["budget"]]), [])
                run["lr"] = (
                    min(tries, key=lambda one: one["loss"])["lr"] if tries else grids[mode][0]
                )
            wanted.append(run)
        train([run for run in wanted if run["mode"] in grids])
        bar.update(n_runs - bar.n)
    wanted.sort(key=lambda run: (modes.index(run["mode"]), run["budget"], seeds.index(run["seed"])))
    records = [
        {
            **{name: run[name] for name in ("mode", "head", "budget", "seed")},
            **runs[run],
            "grid": found.get((run["mode"], tuned[run["budget"]]), []),
        }
        for run in wanted
    ]
    _warn(found, [record for record in records if record["mode"] in grids])
    return ak.Array(records)


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
    budgets, seeds = (
        sorted({int(n) for n in budgets}),
        list(dict.fromkeys(int(seed) for seed in seeds)),
    )
    labels = [np.asarray(one) for one in labels]
    data = [
        Packed(np.asarray(part, np.float32), np.arange(len(part) + 1), one)
        for part, one in zip(z, labels, strict=True)
    ]
    table = measure(
        lambda seed: _Given(data[0].x.shape[1]),
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


class _Given(nn.Module):
    """An encoder whose jets are vectors already, as one constituent each."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, x, offsets):
        return x, x


def _warn(found: Mapping, records: list[dict]) -> None:
    """Say what makes a comparison unfair: a grid that ends too early, and runs that do."""
    for (mode, budget), tries in found.items():
        best = min(tries, key=lambda one: one["loss"])["lr"]
        rates = sorted(one["lr"] for one in tries)
        if best in (rates[0], rates[-1]) and any(one["step"] for one in tries):
            warnings.warn(
                f"lrs[{mode!r}]: the best of {rates} at {budget} labels is {best:g}, at the end: "
                "add rates beyond it",
                RuntimeWarning,
                stacklevel=3,
            )
    for mode, budget in dict.fromkeys((record["mode"], record["budget"]) for record in records):
        last = [
            record["step"] == record["steps"]
            for record in records
            if (record["mode"], record["budget"]) == (mode, budget)
        ]
        if 2 * sum(last) >= len(last):
            warnings.warn(
                f"steps: {sum(last)} of {len(last)} runs {mode} with {budget} labels are best at "
                "their last check: more steps may do better",
                RuntimeWarning,
                stacklevel=3,
            )


def draw(
    labels: Sequence[np.ndarray],
    budgets: Iterable[int],
    *,
    seed: int,
    validation_share: float = 0.25,
    validation_least: int = 100,
) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The jets that `measure` takes with a seed: for each budget those to train on and those to
    validate on.

    labels: of the train and the validation jets, from 0; the rest as in `measure`. Returns
    {budget: (indices of training jets, of validation jets)}, nested and balanced. Raises ValueError
    as `jets.label_budgets` does. Taught in notebook 08.
    """
    n_validation = {n: max(int(validation_share * n), validation_least) for n in budgets}
    train, validation = (ak.Array({"label": one}) for one in labels[:2])
    train = jets.label_budgets(train, budgets, seed=seed)
    validation = jets.label_budgets(validation, n_validation.values(), seed=seed)
    return {n: (train[n], validation[n_validation[n]]) for n in budgets}


def curves(table: ak.Array, value: str = "accuracy") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cut the column `value` of a table of `measure` into curves for `plots.learning_curve`.

    Returns {mode: (labels (K,), values (S, K) of S seeds)}, where labels are those of training and
    of validation jets together; with several heads in the table the name has the head. Raises
    ValueError where a mode lacks a seed at some budget. Taught in notebook 08.
    """
    several, found = len(set(table.head.to_list())) > 1, {}
    for mode, head in dict.fromkeys(
        zip(table["mode"].to_list(), table.head.to_list(), strict=True)
    ):
        part = table[(table["mode"] == mode) & (table.head == head)]
        budgets, seeds = (np.unique(part[name]) for name in ("budget", "seed"))
        if len(part) != len(budgets) * len(seeds):
            raise ValueError(
                f"table: {mode} with head {head} has {len(part)} runs, but {len(budgets)} "
                f"budgets and {len(seeds)} seeds: measure the ones that are missing"
            )
        part = part[np.lexsort((part.budget, part.seed))]
        values, labels = (
            np.asarray(one).reshape(len(seeds), len(budgets))
            for one in (part[value], part.budget + part.n_validation)
        )
        found[f"{mode}, {head}" if several else mode] = labels[0], values
    return found


def _weights(make_encoder: Callable, pretrained) -> dict[str, torch.Tensor]:
    """The state dict of what is pretrained."""
    if isinstance(pretrained, nn.Module):
        pretrained = pretrained.state_dict()
    if not isinstance(pretrained, Mapping):
        encoder = trials.build(make_encoder, 0, None)
        checkpoints.load(pretrained, encoder, part="encoder")
        pretrained = encoder.state_dict()
    return {name: value.detach().cpu().clone() for name, value in pretrained.items()}


def _check(
    labels, budgets, n_validation, seeds, modes, settings, pretrained, tune_at, scores, path
) -> int:
    """The number of classes."""

    def refuse(name, value, remedy):
        raise ValueError(f"{name} is {value!r}: {remedy}")

    n_classes = int(labels[0].max()) + 1 if len(labels[0]) else 0
    for name, one in zip(("train", "validation", "test"), labels, strict=True):
        if not np.array_equal(np.unique(one), np.arange(max(n_classes, 2))):
            refuse(
                f"data: labels of {name}",
                np.unique(one).tolist(),
                "each part must have jets of all classes, from 0, and none that is unlabelled (-1)",
            )
    if not budgets or not seeds or budgets[0] < n_classes:
        refuse(
            "budgets",
            budgets,
            f"give at least one of {n_classes} jets or more, and at least one seed",
        )
    for name, one, most in (
        ("train", labels[0], budgets[-1]),
        ("validation", labels[1], max(n_validation.values())),
    ):
        if (least := int(np.bincount(one).min())) < (each := -(-most // n_classes)):
            refuse(
                f"data: the rarest class of {name}",
                least,
                f"there must be {each} jets of each for {most} labels: "
                "choose smaller budgets, or a smaller validation_share or validation_least",
            )
    if unknown := [mode for mode in modes if mode not in MODES]:
        refuse("modes", unknown[0], f"use some of {', '.join(MODES)}")
    if pretrained is None and (
        needs := [mode for mode in modes if mode in ("frozen", "finetuned")]
    ):
        refuse("pretrained", None, f"mode {needs[0]} needs it")
    if settings["head"] not in ("linear", "mlp"):
        refuse("head", settings["head"], "it is 'linear' or 'mlp'")
    for mode, grid in settings["lrs"].items():
        if mode not in GRIDS or not grid or min(grid) <= 0:
            refuse(
                f"lrs[{mode!r}]",
                grid,
                f"give one positive learning rate or several, for {' and '.join(GRIDS)}",
            )
    for name in ("batch_size", "steps", "epochs", "patience", "every"):
        if settings[name] is not None and settings[name] < 1:
            refuse(name, settings[name], "it must be at least 1")
    if not 0 <= settings["signal"] < n_classes:
        refuse("signal", settings["signal"], f"it must be a class from 0 to {n_classes - 1}")
    if not tune_at or not set(tune_at) <= set(budgets):
        refuse("tune_at", tune_at, f"it must be some of the budgets {budgets}")
    if scores and path is None:
        refuse("scores", scores, "give a path to keep them at")
    return n_classes


def _checksum(arrays) -> str:
    total = 0
    for array in arrays:
        total = zlib.crc32(np.ascontiguousarray(array).tobytes(), total)
    return f"{total:08x}"
