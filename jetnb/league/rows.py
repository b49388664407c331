"""Who takes part in the league, and the rules that all share.

A row is data: a name, a strategy of `jetnb.pretraining`, its settings and the learning rates to
try. One of your own takes part with one line: ``Row("mine", Mine)``, where Mine is a module with a
`loss` and an `encoder`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jetnb import pretraining

STARTS = ("pretrained", "scratch", "longer", "numbers")
LRS = (1e-3, 3e-3, 1e-2)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of the table.

    strategy: as for `pretraining.pretrain`, or None where nothing is pretrained. settings: those
    that differ from the defaults of the strategy and from what the rules say of the encoder.
    before: what is pretrained first, {setting: row}; the checkpoint is that setting of the
    strategy, in a list where the default is one. start: "pretrained"; "scratch", the encoder with
    random weights, so that frozen it is the random encoder; "longer", scratch with as many jets in
    training as pretraining and finetuning have together; "numbers", the high-level features of the
    setting "names" in place of an encoder, and boosted trees in place of finetuning. sample: other
    jets to pretrain on, a name of `columns.PRETRAIN_ON`. lrs: learning rates of the pretraining,
    the best of which is picked on validation jets; while that is at an end of them, the next one is
    tried, twice at most; a single one is taken as it is. steps: times those of the rules. Raises
    `ValueError` for a start that is not there, for settings of numbers other than "names", and for a
    row without a learning rate.
    """

    name: str
    strategy: str | type | None = None
    settings: Mapping = dataclasses.field(default_factory=dict)
    before: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    start: str = "pretrained"
    sample: str = ""
    lrs: Sequence[float] = LRS
    steps: float = 1.0

    def __post_init__(self):
        if self.start not in STARTS:
            raise ValueError(f"start is {self.start!r}: use one of {', '.join(STARTS)}")
        if (self.strategy is None) == (self.start == "pretrained"):
            raise ValueError(
                f"row {self.name!r} has strategy {self.strategy!r} and start {self.start!r}: a strategy "
                "goes with 'pretrained', and with that alone"
            )
        if self.start == "numbers" and (unknown := set(self.settings) - {"names"}):
            raise ValueError(
                f"row {self.name!r} has settings {', '.join(sorted(unknown))}: numbers have 'names' alone"
            )
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"lrs is {self.lrs!r}: give one positive learning rate or several")

    @property
    def slug(self) -> str:
        """The name as part of a file's."""
        return "".join(c if c.isalnum() else "_" for c in self.name.lower())

    def record(self) -> dict:
        """All that JSON shall hold of it."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if isinstance(self.strategy, type):
            found["strategy"] = self.strategy.__name__
        return found | {
            "settings": dict(self.settings),
            "lrs": list(self.lrs),
            "before": {name: one.record() for name, one in self.before.items()},
        }


@dataclasses.dataclass(frozen=True)
class Rules:
    """What all rows share.

    encoder: sizes of the transformer. extras: names of `inputs.FEATURES` that it reads beside
    momenta, in the rows whose strategy can; eight numbers get a ninth where they need tracks, how
    many tracks are displaced. hardest: constituents of each jet that are kept, for all that reads
    jets. n_jets: jets to pretrain on, at most; None is all. steps, batch_size: of the pretraining.
    finetune: arguments of `finetuning.measure`, for the full trainings and for pools on a frozen
    encoder. lrs: learning rates that these try, at one budget of each column. share, least:
    validation labels for each label to train with, and at least. budgets: of a column in place of
    its own. tuned_with: the seed with which the learning rate of the pretraining is picked.
    """

    encoder: Mapping = dataclasses.field(
        default_factory=lambda: {"dim": 32, "n_layers": 2, "n_heads": 4}
    )
    extras: Sequence[str] = ()
    hardest: int = 30
    n_jets: int | None = 5_000
    steps: int = 400
    batch_size: int = 64
    finetune: Mapping = dataclasses.field(
        default_factory=lambda: {"batch_size": 32, "steps": 400, "epochs": 1, "every": 20}
    )
    lrs: Mapping[str, Sequence[float]] = dataclasses.field(
        default_factory=lambda: {
            "finetuned": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
            "scratch": [1e-3, 3e-3, 1e-2, 3e-2],
            "attention": [3e-3, 1e-2, 3e-2, 1e-1, 3e-1],
        }
    )
    share: float = 0.2
    least: int = 100
    budgets: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    tuned_with: int = 1

    def record(self) -> dict:
        """All of it, for JSON, but for the budgets, which each column says itself, and for extras
        where there are none.
        """
        found = dataclasses.asdict(self)
        del found["budgets"], found["extras"]
        return found | ({"extras": list(self.extras)} if self.extras else {})


CODES = Row("codes", "tokens", {"n_codes": 512, "context": "features"}, lrs=(1e-3,))
TEACHER = Row(
    "teacher",
    "supervised",
    {"encoder": {"dim": 64, "n_layers": 3, "n_heads": 4}},
    lrs=(1e-3,),
)
ROWS = {
    row.name: row
    for row in (
        Row("scratch", start="scratch"),
        Row("eight numbers", start="numbers"),
        Row("jet mass", settings={"names": ["mass"]}, start="numbers"),
        Row(
            "shape numbers",
            settings={"names": ["tau21", "tau32", "d2", "n_constituents", "girth"]},
            start="numbers",
        ),
        Row("JetCLR", "jetclr"),
        Row("masked autoencoder", "masked_autoencoder"),
        Row("masked particles", "masked_particles"),
        Row(
            "particle type",
            "particle_type",
            # Hidden of nearly all, so that the encoder learns to do without: it is judged so.
            {"mask": {"kind": "random", "ratio": 0.9}},
        ),
        Row("set flow", "set_flow"),
        Row("joint embedding", "joint_embedding"),
        Row("self-distillation", "self_distillation"),
        Row("next token", "omnijet", before={"codes": CODES}),
        Row("scratch, tokens", start="scratch", before={"codes": CODES}),
        Row(
            "re-simulation",
            "resimulation",
            {"variations": ["nominal", "seed", "fsr_up", "fsr_down"]},
            sample="resimulation",
        ),
        Row("dijets", "resimulation", {"groups": "dijet"}, sample="dijets"),
        Row("ten classes", "supervised"),
        Row("fine classes", "supervised", {"label": "fine_grained"}),
        Row(
            "classify and generate",
            "classify_and_generate",
            {"generator": {"dim": 32, "n_layers": 1, "n_heads": 4}},
        ),
        Row("supervised contrast", "supervised_contrast"),
        Row("distilled", "distill", before={"teachers": TEACHER}),
        Row("subjets", "self_distillation", {"views": "subjets"}),
        Row("scratch, longer", start="longer"),
    )
}


def settings_of(row: Row, rules: Rules, checkpoints: Mapping) -> dict:
    """Settings for `pretraining.pretrain`: those of the rules where the strategy has them, then
    those of the row, and the `checkpoints` of what came before.
    """
    own = getattr(pretraining.find(row.strategy)[1], "SETTINGS", {})
    shared = {
        "encoder": dict(rules.encoder),
        "sizes": dict(rules.encoder),
        "hardest": rules.hardest,
    }
    if rules.extras and own.get("extras") == []:
        shared["extras"] = list(rules.extras)
    found = {name: value for name, value in shared.items() if name in own} | dict(row.settings)
    for name, path in checkpoints.items():
        found[name] = [str(path)] if isinstance(own.get(name), list) else str(path)
    return found
