"""What the rows are judged by: tasks with labels, each with jets to learn from and to test on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb
from jetnb import jets
from jetnb.league.rows import Rules

SEED = 17  # of the splits, the same for all rows and seeds
HALVES = (0.5, 0.5)  # of "resimulation": to pretrain on, to judge with
DIJETS = ("QCD_b", "QCD_bb", "QCD_c", "QCD_cc", "QCD_others")
RESIMULATED = ("nominal", "seed", "fsr_up", "fsr_down")  # of the same parton, to pretrain on
SHOWERS = ("nominal", "fsr_up", "vincia", "tune")


class Task(NamedTuple):
    """Jets with labels: to train and to validate on, and `tests`, the same test jets in one version
    or several, the first as they are. budgets: labels to train with; the learning rates are tried
    at `tune_at`. signal: the class that is sought, where there are two.
    """

    train: ak.Array
    validation: ak.Array
    tests: Mapping[str, ak.Array]
    budgets: Sequence[int]
    tune_at: int
    signal: int = 1


def hardest(these: ak.Array, n: int) -> ak.Array:
    """The same jets with the `n` hardest of their constituents, in the order of pt."""
    c = these.constituents
    c = c[ak.argsort(c.pt, ascending=False, stable=True)][:, :n]
    return ak.with_field(these, c, "constituents")


def smear(these: ak.Array, width: float, *, seed: int = SEED) -> ak.Array:
    """The pt and energy of each constituent times a number about one, log-normal of this width."""
    c = these.constituents
    drawn = np.exp(width * np.random.default_rng(seed).standard_normal(ak.sum(ak.num(c))))
    by = ak.unflatten(drawn, ak.num(c))
    for name in ("pt", "energy"):
        c = ak.with_field(c, ak.values_astype(c[name] * by, np.float32), name)
    return ak.with_field(these, c, "constituents")


def drop(these: ak.Array, share: float, *, seed: int = SEED) -> ak.Array:
    """Without this share of the constituents, at random; the hardest of a jet stays."""
    c = these.constituents
    drawn = np.random.default_rng(seed).random(ak.sum(ak.num(c)))
    keep = (ak.unflatten(drawn, ak.num(c)) >= share) | (ak.local_index(c.pt) == 0)
    return ak.with_field(these, c[keep], "constituents")


def top_tagging(load: Callable, rules: Rules) -> Task:
    """Tops against light jets, 14 TeV, another detector than that of the pretraining; the test jets
    also measured worse, and with constituents lost.
    """
    train, validation, test = jets.split(load("toptagging"), (0.5, 0.1, 0.4), seed=SEED)
    kept = hardest(test, rules.hardest)
    tests = {"": kept} | {f"smeared {width:.0%}": smear(kept, width) for width in (0.1, 0.2)}
    tests |= {f"dropped {share:.0%}": drop(kept, share) for share in (0.1, 0.3)}
    return Task(train, validation, tests, (100, 300, 1_000, 3_000), 1_000)


def ten_classes(load: Callable, rules: Rules) -> Task:
    """The ten classes of the sample that most rows are pretrained on, other jets."""
    train, validation, test = jets.split(load("jetclass"), (0.5, 0.12, 0.38), seed=SEED)
    return Task(train, validation, {"": test}, (100, 500, 2_000, 8_000), 2_000)


def other_shower(load: Callable, rules: Rules) -> Task:
    """Five classes, learned from one shower; tested on the same hard partons in others."""
    _, judged = jets.split(load("resimulation"), HALVES, seed=SEED)
    train, validation, test = jets.split(judged, (0.5, 0.15, 0.35), seed=SEED + 1)
    number = [jets.provenance(judged)["variations"].index(name) for name in SHOWERS]
    of = {name: test[test.variation == at] for name, at in zip(SHOWERS, number, strict=True)}
    common = set.intersection(*(set(one.pair.to_list()) for one in of.values()))
    tests = {}
    for name, one in of.items():
        one = one[np.isin(one.pair, sorted(common))]
        tests["" if name == "nominal" else name] = one[np.argsort(np.asarray(one.pair))]
    train, validation = (one[one.variation == number[0]] for one in (train, validation))
    return Task(train, validation, tests, (300,), 300)


def quark_gluon(load: Callable, rules: Rules) -> Task:
    """Light quarks against gluons, by the hardest parton in the jet, with pile-up and PUPPI."""
    every = load("aoj")
    c = every.constituents[every.constituents.puppi_weight > 0]
    for name in ("pt", "energy"):
        c = ak.with_field(c, ak.values_astype(c[name] * c.puppi_weight, np.float32), name)
    parton = np.abs(np.asarray(every.parton_pdg_id))
    light = (np.asarray(every.label) == 0) & (
        np.asarray(every.n_b_hadrons + every.n_c_hadrons) == 0
    )
    every = ak.with_field(every, c, "constituents")
    every = ak.with_field(every, np.int16(np.isin(parton, (1, 2, 3))), "label")
    every = every[light & np.isin(parton, (1, 2, 3, 21)) & (ak.num(every.constituents) > 2)]
    train, validation, test = jets.split(every, (0.5, 0.1, 0.4), seed=SEED)
    return Task(train, validation, {"": test}, (100, 1_000, 4_000), 1_000)


def b_or_light(load: Callable, rules: Rules) -> Task:
    """Jets with b hadrons against as many with neither b nor c, with pile-up and PUPPI; the test jets
    also without what tracks say of displacement, without the types of particles, and without both.
    """
    every = load("aoj")
    b, c = np.asarray(every.n_b_hadrons), np.asarray(every.n_c_hadrons)
    qcd = np.asarray(every.label) == 0
    heavy, light = np.flatnonzero(qcd & (b > 0)), np.flatnonzero(qcd & (b + c == 0))
    kept = np.sort(np.concatenate([heavy, light[: len(heavy)]]))
    every = ak.with_field(every[kept], np.int16(b[kept] > 0), "label")
    train, validation, test = jets.split(every, (0.5, 0.1, 0.4), seed=SEED)
    tests = {"": test}
    for name, fields in WITHOUT.items():
        tests[f"without {name}"] = without(test, fields)
    return Task(train, validation, tests, (100, 300, 800), 300)


def without(these: ak.Array, fields: Sequence[str]) -> ak.Array:
    """The same jets with 0 in these fields of all constituents: no track, no type."""
    c = these.constituents
    for name in fields:
        c = ak.with_field(c, ak.zeros_like(c[name]), name)
    return ak.with_field(these, c, "constituents")


DISPLACEMENT = ("has_track", "d0", "dz", "d0_error", "dz_error")
TYPES = ("pdg_id", "charge")
WITHOUT = {"displacement": DISPLACEMENT, "types": TYPES, "both": DISPLACEMENT + TYPES}
COLUMNS = {
    "top tagging": top_tagging,
    "ten classes": ten_classes,
    "other shower": other_shower,
    "quark or gluon": quark_gluon,
    "b or light": b_or_light,
}


def _resimulated(load: Callable) -> ak.Array:
    mine, _ = jets.split(load("resimulation"), HALVES, seed=SEED)
    known = jets.provenance(mine)["variations"]
    return mine[np.isin(mine.variation, [known.index(name) for name in RESIMULATED])]


def _dijets(load: Callable) -> ak.Array:
    every = load("hh4b")
    wanted = [jets.classes(every).index(name) for name in DIJETS]
    return every[np.isin(every.label, wanted)]


PRETRAIN_ON = {"resimulation": _resimulated, "dijets": _dijets}  # where a row cannot take any jets


def task(column: str, rules: Rules, samples: Mapping) -> Task:
    """The task of a column, of the shipped samples or those in `samples`, with jets cut to their
    hardest constituents. Raises `ValueError` for a column that is not there.
    """
    if column not in COLUMNS:
        raise ValueError(f"column {column!r} is unknown: use some of {', '.join(COLUMNS)}")
    found = COLUMNS[column](loader(samples), rules)
    if column in rules.budgets:
        budgets = tuple(rules.budgets[column])
        found = found._replace(budgets=budgets, tune_at=budgets[len(budgets) // 2])
    cut = {name: hardest(one, rules.hardest) for name, one in found.tests.items()}
    train, validation = (hardest(one, rules.hardest) for one in found[:2])
    return found._replace(train=train, validation=validation, tests=cut)


def loader(samples: Mapping) -> Callable:
    """`jetnb.load`, but for the samples that are given."""
    return lambda name: samples[name] if name in samples else jetnb.load(name)
