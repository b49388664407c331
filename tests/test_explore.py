"""Maps count the same constituents as numpy does, in the cells they claim."""

import awkward as ak
import numpy as np
import pytest

from jetnb import explore, names


@pytest.fixture(scope="module")
def jets(toy_jets):
    return toy_jets(300, 5)


def flat(jets, name):
    return np.asarray(ak.flatten(jets.constituents[name]), float)


@pytest.mark.parametrize("particle", [None, "photon", "charged_hadron", "electron"])
@pytest.mark.parametrize("width", [explore.CRYSTAL, explore.TOWER, 0.1])
def test_counts_are_those_of_numpy(jets, particle, width):
    filled = explore.eta_phi_histogram(
        jets.constituents, particle=particle, pt_range=(1, 20), eta_range=(-1.5, 2), bin_width=width
    )
    pt, eta, code = (flat(jets, name) for name in ("pt", "eta", "pdg_id"))
    keep = (pt >= 1) & (pt < 20) & (eta >= -1.5) & (eta < 2)
    keep &= np.isin(code, names.PARTICLES[particle].pdg_ids) if particle else True
    expected, *_ = np.histogram2d(
        eta[keep], flat(jets, "phi")[keep], bins=[axis.edges for axis in filled.axes]
    )
    assert expected.sum() == keep.sum() == filled.sum()
    # a position on the edge of a cell may fall to either side
    assert np.abs(filled.values() - expected).sum() <= 4


def test_edges_fall_on_the_cells_of_the_detector():
    axis = explore.axis(-1.0, 1.01, 0.25, names.CONSTITUENT_FIELDS["eta"])
    assert (axis.size, axis.edges[0], axis.edges[-1]) == (9, -1.0, 1.25)
    assert (
        explore.axis(*explore.ALL_PHI, explore.CRYSTAL, names.CONSTITUENT_FIELDS["phi"]).size == 360
    )
    for wrong in ((1.0, 1.0, 0.1), (2.0, 1.0, 0.1), (0.0, 1.0, 0.0)):
        with pytest.raises(ValueError, match="low < high"):
            explore.axis(*wrong, names.CONSTITUENT_FIELDS["eta"])


def test_phi_is_folded():
    found = explore.delta_phi(np.array([3.1, -3.1, 0.5]), np.array([-3.1, 3.1, 0.2]))
    assert found == pytest.approx([-0.0832, 0.0832, 0.3], abs=1e-4)


def test_relative_maps_are_about_the_axis(jets):
    filled = explore.eta_phi_histogram(
        jets.constituents, bin_width=0.1, relative_to=jets, eta_range=(-1, 1)
    )
    eta = flat(jets, "eta")
    d_eta = np.asarray(ak.flatten(jets.constituents.deltaeta(jets)))
    d_phi = np.asarray(ak.flatten(jets.constituents.deltaphi(jets)))
    inside = (eta >= -1) & (eta < 1) & (abs(d_eta) < 0.8) & (abs(d_phi) < 0.8)
    assert filled.sum() == inside.sum()
    assert [axis.name for axis in filled.axes] == ["deta", "dphi"]
    turned = ak.with_field(jets, np.pi - 0.01, "phi")
    turned = ak.with_field(
        turned,
        ak.with_field(jets.constituents, -np.pi + 0.01 + 0 * jets.constituents.phi, "phi"),
        "constituents",
    )
    assert explore.eta_phi_histogram(
        turned.constituents, relative_to=turned, bin_width=0.1
    ).sum() > 0.9 * len(eta)


def test_the_average_image_holds_the_mean_pt(jets):
    image = explore.average_image(jets, radius=3.0, bin_width=0.5)
    assert image.sum() == pytest.approx(flat(jets, "pt").sum() / len(jets), rel=1e-4)
    half = explore.average_image(jets, radius=3.0, bin_width=0.5, particle="photon")
    assert 0 < half.sum() < image.sum()
    with pytest.raises(ValueError, match="at least one jet"):
        explore.average_image(jets[:0])


def test_windows_are_half_open(jets):
    one = ak.Array([[{"pt": 1.0, "eta": 0.5, "phi": 0.0}, {"pt": 2.0, "eta": 1.0, "phi": 0.0}]])
    assert explore.select(one, pt_range=(1, 2)).tolist() == [True, False]
    assert explore.select(one, eta_range=(0.5, 1.0)).tolist() == [True, False]
    assert explore.select(jets[5:9].constituents).sum() == ak.sum(jets[5:9].n_constituents)


def test_what_cannot_be_selected_is_said(jets):
    with pytest.raises(ValueError, match="charged_hadron, photon"):
        explore.eta_phi_histogram(jets.constituents, particle="photons")
    with pytest.raises(ValueError, match="no field 'pdg_id'"):
        explore.eta_phi_histogram(jets.constituents[["pt", "eta", "phi"]], particle="photon")


def test_a_sliced_array_counts_its_own_constituents(jets):
    part = jets[jets.pt > np.median(jets.pt)][10:50]
    assert explore.eta_phi_histogram(part.constituents).sum() == ak.sum(part.n_constituents)


def test_phi_of_pi_is_in_the_map(jets):
    c = jets.constituents
    for at in (np.float32(np.pi), -np.float32(np.pi)):
        these = ak.with_field(c, ak.full_like(c.phi, at), "phi")
        found = explore.eta_phi_histogram(these)
        assert found.sum() == found.sum(flow=True) == ak.sum(ak.num(c))
    beyond = ak.with_field(c, ak.full_like(c.phi, 4), "phi")  # as where phi runs from 0 to 2 pi
    assert explore.eta_phi_histogram(beyond).sum() == 0
