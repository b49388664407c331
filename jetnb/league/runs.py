"""Pretrain and judge: one file for each row and seed, to which each column is added when it is done.

A file is a ledger of `jetnb.finetuning`: its first line has the row, the rules, the seed and the
checksum of the jets, then come the pretraining and one line for each column. What is there is never
written again, and never done again.
"""

from __future__ import annotations

import datetime
import platform
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

import jetnb
from jetnb import finetuning, pretraining
from jetnb.finetuning.ledger import Ledger
from jetnb.finetuning.trials import one_thread
from jetnb.league import columns as tasks
from jetnb.league import judging
from jetnb.league.rows import Row, Rules, settings_of
from jetnb.models import particles
from jetnb.models.generator import Causal

PRETRAINING = "pretraining"  # the entry of a file that is no column
PICKED_BY = "ten classes"  # the column whose validation jets pick the learning rate
PICKED_AT = 2_000  # labels to train with
MORE_RATES = 2  # beyond the grid of a row, at the most


def run(
    rows: Iterable[Row],
    seeds: Sequence[int],
    jets: ak.Array,
    path,
    *,
    columns: Sequence[str] = ("top tagging", "ten classes"),
    rules: Rules | None = None,
    samples: Mapping | None = None,
    say=print,
) -> Path:
    """Pretrain and judge what is missing in the folder `path`, and return it.

    rows: of `ROWS`, or your own. seeds: of weights, order of jets, and which labels are drawn. jets:
    to pretrain on; none of them may be in what judges, the shipped samples or those of `samples`,
    {name: jets}. columns: names of `COLUMNS`, in this order for all rows and seeds, so that a whole
    table is there early. say: called with a line on each piece that is done, or None. Interrupt it,
    and the same call goes on. Raises `ValueError` for jets that are in what judges, for a folder
    with another league, and as `pretraining.pretrain` and `finetuning.measure` do. Taught in notebook
    17.
    """
    league = _League(
        Path(path), rules or Rules(), jets, dict(samples or {}), say or (lambda text: None)
    )
    rows = list(rows)
    if len({row.slug for row in rows}) < len(rows):
        raise ValueError(f"rows: two of {[row.name for row in rows]} have one name: change it")
    for column in columns:
        for seed in seeds:
            for row in rows:
                league.judge(row, seed, column)
    return league.path


class _League:
    def __init__(self, path: Path, rules: Rules, jets: ak.Array, samples: Mapping, say):
        self.path, self.rules, self.say, self.samples = path, rules, say, samples
        self._jets = {"": tasks.hardest(jets[: rules.n_jets], rules.hardest)}
        self._tasks: dict[str, tasks.Task] = {}
        self._apart: set[tuple[str, str]] = set()
        (path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def judge(self, row: Row, seed: int, column: str) -> None:
        ledger = self.ledger(row, seed)
        if {"column": column} in ledger:
            return
        if row.strategy is not None:
            self.apart(row.sample, column)
        candidate = self.candidate(row, seed, ledger)
        task, started = self.task(column), time.process_time()
        with one_thread():
            found = judging.judge(candidate, task, self.rules, seed=seed)
        budgets = {"budgets": list(task.budgets), "tuned_at": task.tune_at}
        checked = [checksum(one) for one in (task.train, task.validation, *task.tests.values())]
        entry = {**found, **budgets, "data": checked, **about(started)}
        ledger.add({"column": column}, entry)
        best = max(
            (one for one in found["records"] if not one["test"]), key=lambda one: one["accuracy"]
        )
        self.say(
            f"{row.name}, seed {seed}, {column}: accuracy {best['accuracy']:.3f} ({best['way']}, "
            f"{best['labels']} labels), {entry['cpu_seconds']:.0f} s"
        )

    def ledger(self, row: Row, seed: int) -> Ledger:
        head = {"row": row.record(), "seed": seed, "rules": self.rules.record()}
        head["jets"] = None if row.strategy is None else checksum(self.jets(row.sample))
        return Ledger(self.path / f"{row.slug}-{seed}.jsonl", head)

    def jets(self, sample: str) -> ak.Array:
        if sample not in self._jets:
            found = tasks.PRETRAIN_ON[sample](tasks.loader(self.samples))[: self.rules.n_jets]
            self._jets[sample] = tasks.hardest(found, self.rules.hardest)
        return self._jets[sample]

    def task(self, column: str) -> tasks.Task:
        if column not in self._tasks:
            self._tasks[column] = tasks.task(column, self.rules, self.samples)
        return self._tasks[column]

    def apart(self, sample: str, column: str) -> None:
        """Raise `ValueError` where jets are pretrained on that judge."""
        if (sample, column) in self._apart:
            return
        mine, task = set(_keys(self.jets(sample))), self.task(column)
        judges = {"to learn from": task.train, "to validate on": task.validation, **task.tests}
        for name, these in judges.items():
            if mine & set(_keys(these)):
                raise ValueError(
                    f"jets to pretrain on{f' ({sample})' if sample else ''} are in those of column {column!r} "
                    f"({name or 'to test on'}): give others, or pass samples={{name: jets}} without them"
                )
        self._apart.add((sample, column))

    def candidate(self, row: Row, seed: int, ledger: Ledger) -> judging.Candidate:
        """What is judged, pretrained where it is not yet."""
        if row.start == "numbers":
            return judging.of_numbers(self.rules, **row.settings)
        if row.strategy is not None:
            path = self.pretrained(row, seed, ledger)
            return judging.of_checkpoint(path, row.strategy, self.rules.extras)
        rules, steps = self.rules, None
        if row.start == "longer":
            jets = rules.steps * rules.batch_size
            steps = rules.finetune["steps"] + jets // rules.finetune["batch_size"]
        if "codes" in row.before:
            codes, _ = pretraining.restore(self.before(row, seed)["codes"][0], "tokens")
            sizes, cut = {"n_codes": codes.n_codes, **rules.encoder}, pretraining.find("omnijet")[1]
            read = cut(codes, sizes=dict(rules.encoder)).tokens
            return judging.Candidate(lambda s: Causal(**sizes), None, read, steps)
        extras = particles.columns(rules.extras)
        train = pretraining.particles(self.jets(""), hardest=rules.hardest, extras=extras)

        def make(s):
            new = pretraining.build(rules.encoder, seed=s, extras=rules.extras)
            return new.fit(train.x, train.offsets)

        def given(these):
            return pretraining.particles(these, hardest=rules.hardest, extras=extras)

        return judging.Candidate(make, None, given, steps)

    def pretrained(self, row: Row, seed: int, ledger: Ledger) -> Path:
        """The checkpoint of a row; its learning rate is picked with one seed."""
        rate = self.rate(row)
        path, found = self.pretrain(row, seed, rate)
        if {"column": PRETRAINING} not in ledger:
            ledger.add({"column": PRETRAINING}, {**found, "lr": rate})
        return path

    def rate(self, row: Row) -> float:
        """The learning rate with which a plane on the frozen encoder has the lowest loss on the
        validation jets. A seed that is done says it, where its checkpoints are not kept.
        """
        if len(row.lrs) == 1:
            return row.lrs[0]
        for done in sorted(self.path.glob(f"{row.slug}-*.jsonl")):
            ledger = self.ledger(row, int(done.stem.rpartition("-")[2]))
            if {"column": PRETRAINING} in ledger:
                return ledger[{"column": PRETRAINING}]["lr"]
        self.apart(row.sample, PICKED_BY)
        head = {"row": row.record(), "rules": self.rules.record(), "by": [PICKED_BY, PICKED_AT]}
        tried = Ledger(self.path / "rates" / f"{row.slug}.jsonl", head)
        lrs = sorted(row.lrs)
        for more in range(MORE_RATES + 1):
            losses = [self.loss(row, lr, tried) for lr in lrs]
            at = int(np.argmin(losses))
            if 0 < at < len(lrs) - 1 or more == MORE_RATES:
                break
            lrs = sorted([*lrs, _beyond(lrs[at], lrs[1 if at == 0 else -2])])
        return lrs[at]

    def loss(self, row: Row, lr: float, tried: Ledger) -> float:
        if {"lr": lr} not in tried:
            path, _ = self.pretrain(row, self.rules.tuned_with, lr)
            candidate = judging.of_checkpoint(path, row.strategy, self.rules.extras)
            tried.add({"lr": lr}, {"loss": self.loss_of(candidate)})
        return tried[{"lr": lr}]["loss"]

    def loss_of(self, candidate: judging.Candidate) -> float:
        task = self.task(PICKED_BY)
        data = [candidate.read(one) for one in (task.train, task.validation, task.validation)]
        table = finetuning.measure(
            candidate.make,
            data,
            pretrained=candidate.weights,
            modes=("frozen",),
            budgets=[min(PICKED_AT, max(task.budgets))],
            seeds=[self.rules.tuned_with],
            validation_share=self.rules.share,
            validation_least=self.rules.least,
            progress=False,
        )
        return float(table.validation_loss[0])

    def before(self, row: Row, seed: int) -> dict[str, tuple[Path, dict]]:
        """What is pretrained first: {setting: (checkpoint, what it cost)}."""
        return {name: self.pretrain(one, seed, one.lrs[0]) for name, one in row.before.items()}

    def pretrain(self, row: Row, seed: int, lr: float) -> tuple[Path, dict]:
        path = self.path / "checkpoints" / f"{row.slug}-{seed}-{lr:g}"
        before, started = self.before(row, seed), time.process_time()
        settings = settings_of(row, self.rules, {name: at for name, (at, _) in before.items()})
        jets, steps = self.jets(row.sample), max(round(row.steps * self.rules.steps), 1)
        kept = Ledger(path.with_name(path.name + ".cost.jsonl"))
        if {"cost": "all"} not in kept:
            history = pretraining.pretrain(
                row.strategy,
                jets,
                path,
                seed=seed,
                settings=settings,
                steps=steps,
                batch_size=self.rules.batch_size,
                lr=lr,
                accelerator="cpu",
                resume=True,
                progress=False,
            )
            if history.reason == "interrupted":
                raise KeyboardInterrupt
            model, card = pretraining.restore(path, row.strategy)
            fresh = pretraining.make(row.strategy, settings, seed=seed)
            cost = {
                "metrics": card.get("metrics", {}),
                "steps": steps,
                "jets": len(jets),
                "weights": sum(one.numel() for one in model.parameters()),
                "flops": steps * flops(fresh, jets, self.rules.batch_size, seed=seed),
                "settings": {name: value for name, value in settings.items() if name not in before},
                **about(started),
            }
            kept.add({"cost": "all"}, cost)
            self.say(f"{row.name}, seed {seed}: pretrained at {lr:g}, {cost['cpu_seconds']:.0f} s")
        cost = dict(kept[{"cost": "all"}])
        for name in ("flops", "cpu_seconds"):  # of what came before, too
            cost[name] += sum(one[name] for _, one in before.values())
        return path, cost


def _beyond(end: float, inner: float) -> float:
    """The next rate of a grid after its `end`, as far from it as it is from the one before."""
    return float(f"{end * end / inner:.1g}")


def flops(model: torch.nn.Module, jets: ak.Array, batch_size: int, *, seed: int) -> int:
    """Floating-point operations of one step of training: matrix products and attention, forward and
    backward, as they are done, padding included; a product and a sum are two.
    """
    if not any(weights.requires_grad for weights in model.parameters()):
        return 0
    data = pretraining.data_of(model, jets[: 8 * batch_size])
    if hasattr(model, "fit"):
        model.fit(data, seed=seed)
    model.train()
    generator = torch.Generator().manual_seed(seed)
    batch = data[np.arange(min(batch_size, len(data)))]
    with FlopCounterMode(display=False, custom_mapping=_MORE) as counter:
        model.loss(batch, generator=generator).backward()
    return int(counter.get_total_flops())


def _product(x, weight, *_, out_shape=None, **__) -> int:
    return 2 * int(np.prod(x)) * weight[0]


def _attention(query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_back(grad, query, key, value, *_, out_shape=None, **__) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


_MORE = {  # what torch's own list lacks on a CPU
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
}
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _MORE[torch.ops.mkldnn._linear_pointwise] = _product


def about(started: float) -> dict:
    """When, with what and on what machine something was made, and what it cost since `started`."""
    return {
        "cpu_seconds": round(time.process_time() - started, 2),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {
            "jetnb": jetnb.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def checksum(jets: ak.Array) -> str:
    """Of the number of jets, their labels, and the momenta of their constituents."""
    c, total = jets.constituents, len(jets)
    for values in (ak.num(c), *(ak.flatten(c[name]) for name in ("pt", "eta", "phi")), jets.label):
        total = zlib.crc32(np.ascontiguousarray(values).tobytes(), total)
    return f"{total:08x}"


def _keys(jets: ak.Array) -> list[tuple]:
    return list(
        zip(*(np.asarray(jets[name]).tolist() for name in ("pt", "eta", "phi")), strict=True)
    )
