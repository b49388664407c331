"""Jets arrays: building, vector behaviours, provenance, checks, splits and budgets."""

from __future__ import annotations

import pickle

import awkward as ak
import numpy as np
import pytest
from conftest import toy_columns

import jetnb.jets
from jetnb import substructure
from jetnb.names import CONSTITUENT_FIELDS, JET_FIELDS

PROVENANCE = {"sample": "toy", "source": "simulation", "classes": ["QCD", "TTBar"]}


def built(change=lambda columns, constituents: None, n=20, counts_change=0):
    columns, constituents, counts = toy_columns(n, 3)
    change(columns, constituents)
    counts[-1] += counts_change
    return jetnb.jets.build(columns, constituents, counts, provenance=PROVENANCE)


def test_dtypes_and_order(toy_jets):
    jets = toy_jets(10)
    for name in set(jets.fields) - {"constituents"}:
        assert ak.to_numpy(jets[name]).dtype == JET_FIELDS[name].dtype
    for name in jets.constituents.fields:
        assert (
            ak.to_numpy(ak.flatten(jets.constituents[name])).dtype == CONSTITUENT_FIELDS[name].dtype
        )
    columns, constituents, counts = jetnb.jets.to_columns(jets)
    again = jetnb.jets.build(columns, constituents, counts, provenance=jetnb.jets.provenance(jets))
    assert ak.array_equal(jets, again, dtype_exact=True)


def test_vector_behaviours(toy_jets):
    jets = toy_jets(50)
    distance = jets.constituents.deltaR(jets)
    eta, phi = np.asarray(jets.eta), np.asarray(jets.phi)
    dphi = (np.asarray(jets.constituents.phi[7]) - phi[7] + np.pi) % (2 * np.pi) - np.pi
    assert np.allclose(
        distance[7], np.hypot(np.asarray(jets.constituents.eta[7]) - eta[7], dphi), atol=1e-5
    )
    total = ak.sum(jets.constituents, axis=1)
    assert np.allclose(total.mass, jets.mass, rtol=2e-3)
    assert np.allclose(total.pt, jets.pt, rtol=1e-4)
    eta = np.asarray(jets.constituents.eta[0])
    assert np.allclose(jets.constituents.theta[0], 2 * np.arctan(np.exp(-eta)))


def test_provenance_survives(toy_jets):
    jets = toy_jets(40)
    selected = [
        jets[:5],
        jets[jets.pt > 100],
        jets[[3, 1]],
        jets[["pt", "constituents"]],
        jets.constituents,
        ak.concatenate([jets, jets]),
        ak.to_packed(jets[::2]),
        pickle.loads(pickle.dumps(jets)),
        ak.with_field(jets, jets.pt, "generated_pt"),
        *jetnb.jets.split(jets, seed=1),
    ]
    for some in selected:
        assert jetnb.jets.provenance(some) == jetnb.jets.provenance(jets)
    assert jetnb.jets.classes(jets) == ["QCD", "TTBar"]


def test_describe(toy_jets):
    text = jetnb.jets.describe(toy_jets(40))
    for expected in (
        "toy (simulation)",
        "40 jets",
        "20 events",
        "QCD 20 (50.0%), TTBar 20 (50.0%), unlabelled 0 (0.0%)",
        "hand-made",
        "seed: 0",
        "d0_error",
    ):
        assert expected in text
    with pytest.raises(ValueError, match="do not say where they come from"):
        jetnb.jets.describe(ak.Array([{"pt": 1.0}]))
    assert "0 jets" in jetnb.jets.describe(toy_jets(4)[:0])


def set_at(table, name, index, value):
    def change(columns, constituents):
        target = {"jet": columns, "constituent": constituents}[table]
        target[name] = np.array(target[name], dtype=None)
        target[name][index] = value

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (set_at("jet", "mass", 4, np.nan), "mass: jet 4 has nan; it must be finite"),
        (set_at("constituent", "d0", 0, np.inf), "constituents.d0: constituent 0 of jet 0 has inf"),
        (
            set_at("constituent", "pt", 0, 0),
            "constituents.pt: constituent 0 of jet 0 has 0.0; pt must be",
        ),
        (set_at("jet", "phi", 2, 3.2), r"phi: jet 2 has 3.2.*; phi must be in \(-pi, pi\]"),
        (
            set_at("jet", "label", 1, 2),
            r"label: jet 1 has 2; labels run from -1 \(unlabelled\) to 1",
        ),
        (set_at("jet", "n_constituents", 3, 1), "n_constituents: jet 3 has 1"),
        (
            set_at("constituent", "energy", 1, 0.01),
            "energy: constituent 1 of jet 0 has 0.01; energy is below pt",
        ),
        (
            set_at("constituent", "pdg_id", 2, 2212),
            "pdg_id: constituent 2 of jet 0 has 2212; known types",
        ),
        (set_at("constituent", "charge", 2, 2), "charge: constituent 2 of jet 0 has 2"),
        (set_at("constituent", "puppi_weight", 2, 1.5), "puppi_weight: .* 1.5; it must be in"),
        (set_at("constituent", "has_track", slice(0, 50), False), "measured only where has_track"),
        (lambda c, p: c.update(mas=c["pt"]), "unknown field mas .did you mean 'mass'"),
        (lambda c, p: p.update(theta=p["pt"]), "constituents.theta is not stored but computed"),
        (lambda c, p: c.pop("mass"), "mass is missing"),
        (lambda c, p: p.pop("energy"), "constituents.energy is missing"),
        (
            lambda c, p: c.update(eta=c["eta"][:-1]),
            "eta is float64 of shape .19,., but must be .* shape .20,",
        ),
        (lambda c, p: p.update(d0=p["d0"][:-1]), "constituents.d0 is float64 of shape"),
        (
            lambda c, p: c.update(pt=c["pt"] * 1e40),
            "pt: value .* at position 0 does not fit float32",
        ),
        (
            lambda c, p: c.update(label=c["label"] + 0.5),
            "label: value 0.5 at position 0 does not fit int16",
        ),
        (
            lambda c, p: c.update(label=c["label"] + 70000),
            "label: value 70000 at position 0 does not fit int16",
        ),
        (lambda c, p: c.update(pt=np.array(["a"] * 20)), "pt is <U1 of shape"),
    ],
)
def test_bad_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        built(change)


def test_unsorted_and_mismatched():
    def swap(columns, constituents):
        constituents["pt"][[0, 1]] = constituents["pt"][[1, 0]]
        constituents["energy"][:2] = 1e4

    with pytest.raises(
        ValueError, match="constituent 1 of jet 0 has .* sort each jet by falling pt"
    ):
        built(swap)
    with pytest.raises(ValueError, match="all columns and counts must belong to the same jets"):
        built(counts_change=1)
    built(lambda c, p: c.pop("n_constituents"))


def test_check_of_foreign_arrays(toy_jets):
    jets = toy_jets(5)
    with pytest.raises(ValueError, match="list of records"):
        pairs = {name: jets.constituents[name] for name in jets.constituents.fields}
        jetnb.jets.check(ak.with_field(jets, ak.zip(pairs, depth_limit=1), "constituents"))
    with pytest.raises(ValueError, match="pt is float64, but float32"):
        jetnb.jets.check(ak.with_field(jets, ak.values_astype(jets.pt, "float64"), "pt"))
    with pytest.raises(ValueError, match="fill or drop missing"):
        jetnb.jets.check(ak.with_field(jets, ak.mask(jets.mass, jets.mass > 50), "mass"))
    with pytest.raises(
        ValueError, match="class 'QCDD' is not in names.CLASSES .did you mean 'QCD'"
    ):
        jetnb.jets.check(
            ak.Array(jets, attrs={"jetnb": {**PROVENANCE, "classes": ["QCDD", "TTBar"]}})
        )
    with pytest.raises(ValueError, match="plain text, numbers"):
        jetnb.jets.check(ak.Array(jets, attrs={"jetnb": {**PROVENANCE, "seed": np.int64(1)}}))


def test_jets_without_constituents_or_no_jets():
    columns, constituents, counts = toy_columns(3, 0)
    counts = np.array([0, counts.sum(), 0])
    constituents["pt"] = np.sort(constituents["pt"])[::-1]
    constituents["energy"] = constituents["pt"] * 50
    columns.pop("n_constituents")
    jets = jetnb.jets.build(columns, constituents, counts, provenance=PROVENANCE)
    assert ak.num(jets.constituents).tolist() == counts.tolist()
    jetnb.jets.check(jets[:0])


def test_split_never_divides_an_event(toy_jets):
    jets = toy_jets(3000)
    parts = jetnb.jets.split(jets, (0.5, 0.3, 0.2), seed=7)
    events = [set(ak.to_list(part.event)) for part in parts]
    assert sum(map(len, parts)) == len(jets)
    assert not (events[0] & events[1] or events[0] & events[2] or events[1] & events[2])
    assert np.allclose([len(part) / len(jets) for part in parts], (0.5, 0.3, 0.2), atol=0.03)
    again, other = (
        jetnb.jets.split(jets, (0.5, 0.3, 0.2), seed=7),
        jetnb.jets.split(jets, (0.5, 0.3, 0.2), seed=8),
    )
    assert ak.array_equal(parts[0], again[0])
    assert set(ak.to_list(other[0].event)) != events[0]


def test_split_is_the_same_for_part_of_the_sample(toy_jets):
    """Trained on the first half of a sample, tested on the test part of all of it: still no leak."""
    jets = toy_jets(2000)
    train, test = jetnb.jets.split(jets[:1000], seed=1)[0], jetnb.jets.split(jets, seed=1)[2]
    assert not set(ak.to_list(train.event)) & set(ak.to_list(test.event))


def test_split_errors(toy_jets):
    with pytest.raises(ValueError, match="sum to 1"):
        jetnb.jets.split(toy_jets(10), (0.5, 0.2), seed=1)
    with pytest.raises(ValueError, match="got none of 2 jets"):
        jetnb.jets.split(toy_jets(2), seed=1)
    with pytest.raises(ValueError, match="needs the field 'event'"):
        jetnb.jets.split(toy_jets(10)[["pt", "constituents"]], seed=1)
    whole, nothing = jetnb.jets.split(toy_jets(10), (1.0, 0.0), seed=1)
    assert len(whole) == 10 and len(nothing) == 0


def test_label_budgets(toy_jets):
    jets = toy_jets(400)
    label = ak.where(jets.event % 5 == 0, -1, jets.label)
    jets = ak.with_field(jets, ak.values_astype(label, "int16"), "label")
    budgets = jetnb.jets.label_budgets(jets, [100, 10, 31], seed=5)
    assert list(budgets) == [100, 10, 31]
    for n, indices in budgets.items():
        assert len(set(indices.tolist())) == n
        counts = np.bincount(ak.to_numpy(jets.label[indices]) + 1, minlength=3)
        assert counts[0] == 0 and abs(counts[1] - counts[2]) <= 1
    assert set(budgets[10]) < set(budgets[31]) < set(budgets[100])
    assert (
        jetnb.jets.label_budgets(jets, [31], seed=5)[31] == budgets[31]
    ).all()  # whatever the largest budget is
    assert (jetnb.jets.label_budgets(jets, [31], seed=6)[31] != budgets[31]).any()
    with pytest.raises(ValueError, match="asks for 500 jets of class"):
        jetnb.jets.label_budgets(jets, [1000], seed=5)
    with pytest.raises(ValueError, match="must be positive"):
        jetnb.jets.label_budgets(jets, [0], seed=5)


def test_tau2_is_the_field_and_not_the_proper_time_of_vector(toy_jets):
    jets = toy_jets(20)
    for part in (jets, jets[3:9], ak.concatenate([jets, jets])):
        assert np.array_equal(part.tau2, part["tau2"]) and np.all(part.tau2 < 0.31)
        assert np.allclose(part.mass2, part.mass**2, rtol=1e-5, atol=1e-3)
    assert jets[4].tau2 == jets["tau2"][4] and jets[4].mass2 == pytest.approx(
        jets[4].mass ** 2, rel=1e-5
    )
    total = ak.sum(jets.constituents, axis=1)  # has no such field: the four-vector's own
    assert np.allclose(total.tau2, total.mass**2, rtol=1e-5)


def test_every_field_is_read_as_it_is_stored(toy_jets):
    """Attributes of four-vectors come before fields: none may hide one."""
    jets = toy_jets(20)
    for name in JET_FIELDS:
        if name not in jets.fields:
            jets[name] = np.linspace(0.1, 0.2, 20)
    for name in JET_FIELDS:
        assert ak.all(getattr(jets, name) == jets[name]), name
    assert jets[3].e2 == jets["e2"][3] and np.allclose(jets.E2, jets.energy**2, rtol=1e-5)
    for name in jets.constituents.fields:
        assert ak.all(getattr(jets.constituents, name) == jets.constituents[name]), name


def test_a_masked_value_is_missing(toy_jets):
    columns, inside, counts = jetnb.jets.to_columns(toy_jets(3))
    columns["softdrop_mass"] = np.ma.masked_less(np.array([80.0, -999.0, 90.0]), 0)
    with pytest.raises(ValueError, match="softdrop_mass: the value at position 1 is masked"):
        jetnb.jets.build(columns, inside, counts, provenance=jetnb.jets.provenance(toy_jets(3)))


def test_features_are_added_as_the_docstring_says(toy_jets):
    jets = toy_jets(20)
    jets["d2"] = np.float32(substructure.compute(jets, ["d2"])["d2"])
    jetnb.jets.check(jets)
