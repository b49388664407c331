"""Fine labels of simulated jets: by decay and flavour, from truth that samples have."""

import awkward as ak
import numpy as np
import pytest

import jetnb
import jetnb.jets
from jetnb import names
from jetnb.jets import fine


@pytest.fixture(scope="module")
def sample():
    return jetnb.load("jetclass")


def slow(kind, parton, n_b, n_c):
    """The rules in words, for one jet."""
    size = abs(parton)
    if kind == "QCD":
        for name, number in (("b", n_b), ("c", n_c)):
            if number:
                return f"QCD_{name * min(number, 2)}"
        return "light_quark" if 1 <= size <= 5 else "gluon"
    if kind == "ZToQQ":
        return {4: "ZToCC", 5: "ZToBB"}.get(size, "ZToQQ_light")
    if kind == "TTBar":
        with_c = size in (3, 4) if 1 <= size <= 4 else n_c >= 2
        return f"TTBar_{int(with_c)}c"
    most = {"HToWW4Q": 2, "HToWW2Q1L": 1, "WToQQ": 1}
    return f"{kind}_{min(n_c, most[kind])}c" if kind in most else kind


def test_fine_labels_are_those_of_the_rules(sample):
    found = fine.refine(sample)
    coarse = jetnb.jets.classes(sample)
    expected = [
        slow(coarse[label], *rest)
        for label, *rest in zip(*(sample[name].to_list() for name in fine.NEEDS), strict=True)
    ]
    assert [fine.CLASSES[label] for label in found.fine_label.to_list()] == expected
    assert set(expected) == set(fine.CLASSES)  # the shipped sample has all of them
    assert all(name in names.CLASSES for name in fine.CLASSES)


def test_a_fine_class_belongs_to_one_class(sample):
    found = fine.refine(sample)
    pairs = set(zip(found.fine_label.to_list(), found.label.to_list(), strict=True))
    assert len(pairs) == len(fine.CLASSES) == 22
    assert found.fine_label.to_numpy().dtype == np.int16 and jetnb.jets.provenance(found)


def test_decays_show_in_what_is_measured(sample):
    found = fine.refine(sample)
    inside = found.constituents[found.constituents.has_track]
    displaced = ak.to_numpy(ak.mean(abs(inside.d0) > 0.1, axis=1))
    label = found.fine_label.to_numpy()

    def share(name):
        return displaced[label == fine.CLASSES.index(name)].mean()

    assert share("ZToBB") > 1.5 * share("ZToQQ_light") and share("QCD_bb") > share("gluon")
    assert share("WToQQ_1c") > share("WToQQ_0c")


def test_what_does_not_fit_is_refused(sample):
    few = sample[:20]
    with pytest.raises(ValueError, match="field 'n_b_hadrons' is missing"):
        fine.refine(few[[name for name in few.fields if name != "n_b_hadrons"]])
    with pytest.raises(ValueError, match="class 'gluon' is not among names"):
        fine.refine(few, names=["light_quark"])
    unlabelled = fine.refine(ak.with_field(few, np.full(20, -1, np.int16), "label"))
    assert set(unlabelled.fine_label.to_list()) == {-1}


def test_other_samples_have_their_own_classes():
    sample = jetnb.load("toptagging")[:200]
    found = fine.refine(sample)
    assert {fine.CLASSES[label].partition("_")[0] for label in found.fine_label.to_list()} <= {
        "TTBar",
        "QCD",
        "light",
        "gluon",
    }
