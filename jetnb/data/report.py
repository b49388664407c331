"""A report on a file of jets for people: what it is, what is in it, what is odd, and what to do
about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import awkward as ak
import numpy as np

import jetnb.jets
from jetnb import kinematics, names
from jetnb.data import store
from jetnb.data.catalogue import Source, source
from jetnb.readers import _padded
from jetnb.readers.identify import readers

OK, NOTE, PROBLEM, UNREAD = "ok", "note", "PROBLEM", "NOT READ"
# What readers raise at a file, or at what this place lacks.
EXPECTED = (ValueError, OSError, ImportError, MemoryError)
BEAM = 6500.0  # GeV: no jet of the LHC so far has more
EDGE = 1e-3  # relative: a cut at 500 GeV lets 499.9 pass, as it was made with other digits
SLOTS = (30, 100, 128, 150, 200)  # at which formats cut off the constituents of a jet
SENTINELS = {
    "softdrop_mass": (-1, "CMS found no two subjets"),
    "jvt": (-0.1, "the jet has no tracks"),
    "corr_jvf": (-1, "the jet has no tracks"),
    "track_width": (-1, "the jet has no tracks"),
}
TALLIED = {
    "jets": (
        "jets left out",
        "they have pt <= 0 or a value that is not finite (NaN, infinity)",
        "harmless if they are few; else ask who made the file",
    ),
    "constituents": (
        "constituents left out",
        "they have pt <= 0 or a four-momentum that is not finite",
        "harmless if they are few; else ask who made the file",
    ),
    "tracks": (
        "tracks not used",
        "one of d0, dz and their errors is not finite; has_track is False there",
        "nothing: known for some published files",
    ),
    "unsorted": (
        "jets not by falling pt",
        "their constituents were in another order, and are sorted when read",
        "nothing for reading; do not take the first n of the file itself for the hardest n",
    ),
}


class Finding(NamedTuple):
    """One thing found: "ok", "note", "PROBLEM" or "NOT READ", what it is, what it means, what to
    do.
    """

    level: str
    what: str
    meaning: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        lines = [f"{self.level:>8}  {self.what}"]
        if self.meaning:
            lines.append(f"{'':10}{self.meaning}" + (f": {self.remedy}" if self.remedy else ""))
        return "\n".join(lines)


class Report(NamedTuple):
    """What `check` found; `print` it. `ok` is False where the file should not be used as it is, or
    was not read.
    """

    path: str
    format: str
    n_jets: int
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether there is no problem, and the file could be read."""
        return all(finding.level not in (PROBLEM, UNREAD) for finding in self.findings)

    def __str__(self) -> str:
        unread = any(finding.level == UNREAD for finding in self.findings)
        verdict = (
            "can be used" if self.ok else "not judged" if unread else "should not be used as it is"
        )
        return "\n".join(
            [
                f"{self.path}: {self.format}, {self.n_jets:,} jets; {verdict}",
                *map(str, self.findings),
            ]
        )


def check(path, *, stop: int | None = None) -> Report:
    """Read the file or store at `path`, to row `stop` if given, and report on it:
    `print(jetnb.check(path))`.

    Looks for: format, truncation, damage, values that are not finite, sortedness, ranges and units,
    sentinels, tracks, labels, duplicates, and constituents that do not add up to their jet. Memory:
    40 bytes per jet. What is wrong is in the report, and so it is where there is no such file, or
    where FastJet or memory is missing to read it. Taught in notebook 01.
    """
    totals, tally, form = _Totals(), {}, "cannot be read"
    try:
        found = source(path)
        form = found.reader or "store of jetnb"
        if not found.reader:
            store.open(path).verify()
        for block in found.blocks(0, stop, tally=tally):
            totals.add(block)
        findings = list(_findings(found, stop, totals, tally))
    except EXPECTED as error:
        findings = [_stopped(error, totals.n_jets)]
    return Report(str(path), form, totals.n_jets, findings)


def _stopped(error: Exception, n_jets: int) -> Finding:
    """Why the file was not read to its end: for what is in it, or for what is not here."""
    here = isinstance(error, (ImportError, MemoryError))
    what = (
        f"not enough memory ({error})"
        if isinstance(error, MemoryError)
        else str(error) or type(error).__name__
    )
    done = f"after {n_jets:,} jets that were" if n_jets else "before any jet was"
    return Finding(
        UNREAD if here else PROBLEM,
        what,
        f"reading stopped {done} read" + ("; the file itself may be good" if here else ""),
    )


class _Totals:
    """What is added up over the blocks of a file."""

    def __init__(self):
        self.n_jets = self.n_constituents = self.charged = self.with_track = 0
        self.provenance, self.ranges, self.sentinels = {}, {}, {}
        self.labels, self.counts = np.zeros(0, int), np.zeros(0, int)
        self.events, self.keys, self.ratios, self.angles = [], [], [], []

    def add(self, jets: ak.Array) -> None:
        columns, inside, counts = jetnb.jets.to_columns(jets)
        self.provenance = self.provenance or jetnb.jets.provenance(jets)
        self.n_jets += len(counts)
        self.n_constituents += int(counts.sum())
        self.counts = _sum(self.counts, np.bincount(counts))
        for prefix, fields in (("", columns), (jetnb.jets.INSIDE, inside)):
            for name, values in fields.items():
                if name in jetnb.jets.TRACK_FIELDS and "has_track" in inside:
                    values = values[inside["has_track"]]
                if values.dtype.kind in "fi" and len(values):
                    self._range(prefix + name, values)
        for name, (value, _) in SENTINELS.items():
            if name in columns:
                here = np.count_nonzero(columns[name] == np.float32(value))
                self.sentinels[name] = self.sentinels.get(name, 0) + here
        if "label" in columns:
            self.labels = _sum(self.labels, np.bincount(columns["label"] + 1))
        if "has_track" in inside and "charge" in inside:
            self.charged += int(np.count_nonzero(inside["charge"]))
            self.with_track += int(np.count_nonzero(inside["has_track"]))
        if "event" in columns:
            self.events.append(columns["event"])
            self.keys.append(np.stack([columns[name] for name in ("pt", "eta", "phi")], axis=1))
        if (counts > 0).any():
            pt, some = inside["pt"] * inside.get("puppi_weight", np.float32(1)), counts > 0
            # Absurd directions are for the findings.
            with np.errstate(over="ignore", invalid="ignore"):
                momentum = kinematics.to_cartesian(pt, inside["eta"], inside["phi"])
                total = _padded.total(*momentum, pt, counts)
            self.ratios.append((total["pt"][some] / columns["pt"][some]).astype(np.float32))
            off = [
                total["eta"] - columns["eta"],
                _padded.wrap_phi(total["phi"].astype(float) - columns["phi"]),
            ]
            self.angles.append(np.hypot(*off)[some].astype(np.float32))

    def _range(self, name: str, values: np.ndarray) -> None:
        low, high, total, n = self.ranges.get(name, (np.inf, -np.inf, 0.0, 0))
        self.ranges[name] = (
            min(low, values.min()),
            max(high, values.max()),
            total + values.sum(dtype=float),
            n + len(values),
        )


def _sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.pad(a, (0, max(len(b) - len(a), 0))) + np.pad(b, (0, max(len(a) - len(b), 0)))


def _findings(found: Source, stop: int | None, totals: _Totals, tally: dict) -> Iterator[Finding]:
    about = totals.provenance
    rows = f"{found.n_rows if stop is None else min(stop, found.n_rows):,} of {found.n_rows:,} rows read"
    if not totals.n_jets:
        yield Finding(
            PROBLEM,
            f"there are no jets ({rows})",
            "nothing passed the selection, or the file is a stub",
            "get another file",
        )
        return
    yield Finding(
        OK,
        f"{about['sample']} ({about['source']}), {rows}, every block passed jets.check",
        f"units: {about['units']}" if "units" in about else "",
    )
    for key, (what, meaning, remedy) in TALLIED.items():
        if number := tally.get(key):
            share = number / (
                totals.n_jets if key in ("jets", "unsorted") else max(totals.n_constituents, 1)
            )
            yield Finding(
                PROBLEM if share > 0.01 and key in ("jets", "constituents") else NOTE,
                f"{number:,} {what} ({share:.2g} of all)",
                meaning,
                remedy,
            )
    yield from _ranges(totals)
    yield from _numbers(totals)
    yield from _tracks(totals)
    yield from _labels(totals)
    yield from _events(totals)
    yield from _sums(totals)


def _incomplete(totals: _Totals) -> bool:
    """Whether the constituents are not meant to add up to their jets."""
    sample = totals.provenance["sample"]
    return any(sample in getattr(module, "INCOMPLETE", ()) for module in readers())


def _ranges(totals: _Totals) -> Iterator[Finding]:
    sample = totals.provenance["sample"]
    allowed = {}
    for module in readers():
        allowed = getattr(module, "SELECTION", {}).get(sample, allowed)
    for name, (low, high, total, n) in totals.ranges.items():
        if name in (
            "event",
            "label",
            "phi",
            "constituents.phi",
            "constituents.charge",
            "constituents.pdg_id",
        ):
            continue
        unit = (
            names.CONSTITUENT_FIELDS if name.startswith(jetnb.jets.INSIDE) else names.JET_FIELDS
        )[name.removeprefix(jetnb.jets.INSIDE)].unit
        what = f"{name}: {low:.4g} to {high:.4g}, mean {total / n:.4g} {unit}".rstrip()
        first, last = allowed.get(name, (-np.inf, np.inf))
        if name == "pt" and total / n > BEAM:
            yield Finding(
                PROBLEM,
                what,
                "more than the beam has: this looks like MeV, or another column",
                "convert to GeV before, or find out what the column is",
            )
        elif name == "constituents.d0_error" and not 1.7e-2 < total / n < 3:
            yield Finding(
                PROBLEM,
                what,
                "tracks are measured to some 0.02 to 1 mm: this looks like another unit",
                "compare with the published file: CMS writes cm, Delphes and ATLAS mm",
            )
        elif low < first - EDGE * abs(first) or high > last + EDGE * abs(last):
            yield Finding(
                PROBLEM,
                what,
                f"outside of the selection of the dataset, {first:g} to {last:g}",
                "columns may be swapped, or the file is of another selection",
            )
        else:
            yield Finding(OK, what)


def _numbers(totals: _Totals) -> Iterator[Finding]:
    most = len(totals.counts) - 1
    share = totals.counts[most] / totals.n_jets
    if most in SLOTS and totals.n_jets > 100 and share > 2 / totals.n_jets:
        yield Finding(
            NOTE,
            f"{share:.2%} of the jets have exactly {most} constituents, the most there are",
            "these are truncated: softer constituents were cut off",
            "expect it in sums and multiplicity",
        )
    if empty := totals.counts[0]:
        usual = _incomplete(totals)
        yield Finding(
            NOTE if usual or empty < 0.01 * totals.n_jets else PROBLEM,
            f"{empty / totals.n_jets:.2%} of the jets have no constituent",
            "they have only the fields of the jet",
            "leave them out where constituents matter",
        )
    for name, number in totals.sentinels.items():
        if number:
            value, meaning = SENTINELS[name]
            yield Finding(
                NOTE,
                f"{name} is {value} for {number / totals.n_jets:.2%} of the jets",
                meaning,
                f"cut on {name} > {value} before you average",
            )


def _tracks(totals: _Totals) -> Iterator[Finding]:
    if totals.charged:
        share = totals.with_track / totals.charged
        yield Finding(
            OK if share > 0.2 else NOTE,
            f"has_track for {share:.1%} of the charged constituents",
            "" if share > 0.2 else "nearly no charged particle has a track",
            "use d0 and dz with care",
        )


def _labels(totals: _Totals) -> Iterator[Finding]:
    if not totals.labels.any():
        return
    classes = ("unlabelled", *totals.provenance["classes"])
    text = ", ".join(f"{name} {n:,}" for name, n in zip(classes, totals.labels, strict=False) if n)
    labelled = totals.labels[1:][totals.labels[1:] > 0]
    if len(labelled) > 1 and labelled.max() > 20 * labelled.min():
        yield Finding(
            NOTE,
            f"classes: {text}",
            "the classes are very unlike in number",
            "draw balanced training sets with jets.label_budgets",
        )
    else:
        yield Finding(OK, f"classes: {text}")


def _events(totals: _Totals) -> Iterator[Finding]:
    if not totals.events:
        return
    event, key = np.concatenate(totals.events), np.concatenate(totals.keys)
    rows = np.empty(len(event), [("event", np.int64), ("key", "S12")])
    rows["event"], rows["key"] = event, np.ascontiguousarray(key, np.float32).view("S12").ravel()
    n_events, twice = len(np.unique(event)), len(rows) - len(np.unique(rows))
    if twice:
        yield Finding(
            PROBLEM,
            f"{twice:,} jets are there more than once (same event, pt, eta and phi)",
            "copies end up in training and test sample alike, and statistics are overstated",
            "was a file merged twice? Remove the copies",
        )
    yield Finding(OK, f"{n_events:,} events, {len(event) / n_events:.2f} jets in each")


def _sums(totals: _Totals) -> Iterator[Finding]:
    if not totals.ratios or _incomplete(totals):
        return
    angle = np.median(np.concatenate(totals.angles))
    if angle > 0.2:
        yield Finding(
            PROBLEM,
            f"the constituents sum to something {angle:.2f} from the axis of the jet, on median",
            "columns are swapped, or the constituents are of other jets",
            "look at a few jets by hand before you use the file",
        )
    low, middle, high = np.quantile(np.concatenate(totals.ratios), (0.05, 0.5, 0.95))
    what = f"constituents sum to {middle:.3f} of the pt of their jet ({low:.3f} to {high:.3f} for 90 % of the jets)"
    if not 0.7 < middle < 1.3:
        yield Finding(
            PROBLEM,
            what,
            "columns are swapped, units differ, or the constituents are of other jets",
            "look at a few jets by hand before you use the file",
        )
    elif abs(middle - 1) > 0.02:
        yield Finding(
            NOTE,
            what,
            "the jet is corrected in energy and its constituents are not, or some were cut off",
            "do not mix masses and momenta of both",
        )
    else:
        yield Finding(OK, what)
