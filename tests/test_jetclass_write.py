"""Jets written with the columns of JetClass: by hand, read back by our own reader, and the jets
that are refused.
"""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings

import jetnb
import jetnb.jets
from jetnb.readers import jetclass, jetclass_write

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata" / "JetClassII_example.parquet"
PUBLISHED = {  # branch -> type, of the ROOT files of JetClass
    **dict.fromkeys(
        [
            f"part_{name}"
            for name in (
                "px",
                "py",
                "pz",
                "energy",
                "deta",
                "dphi",
                "d0val",
                "d0err",
                "dzval",
                "dzerr",
                "charge",
            )
        ],
        "list<element: float not null>",
    ),
    **dict.fromkeys(
        [
            f"part_is{name}"
            for name in ("ChargedHadron", "NeutralHadron", "Photon", "Electron", "Muon")
        ],
        "list<element: int32 not null>",
    ),
    "label_QCD": "float",
    **dict.fromkeys([f"label_{name}" for name in ("Hbb", "Hcc", "Hgg", "H4q", "Hqql")], "bool"),
    **dict.fromkeys([f"label_{name}" for name in ("Zqq", "Wqq", "Tbqq", "Tbl")], "int32"),
    **dict.fromkeys(
        [
            f"jet_{name}"
            for name in (
                "pt",
                "eta",
                "phi",
                "energy",
                "nparticles",
                "sdmass",
                "tau1",
                "tau2",
                "tau3",
                "tau4",
            )
        ],
        "float",
    ),
}
ABOUT = {"sample": "by hand", "source": "simulation", "classes": ["TTBarLep", "QCD"]}
# pt, eta, phi, energy, charge, pdg_id, has_track, d0, d0_error, dz, dz_error
INSIDE = [
    (400, -1, 3, 700, 1, 211, True, 0.5, 0.25, -2, 0.125),
    (100, -1.5, -3.125, 260, -1, 13, True, -1, 0.5, 1, 1),
    (50, -1.25, 3, 100, 0, 130, False, 0, 0, 0, 0),
    (20, -1, 3, 40, 0, 22, False, 0, 0, 0, 0),
    (5, 0.5, 0, 6, 1, -11, False, 0, 0, 0, 0),
    (7, 3.5, 1, 120, 0, 1, False, 0, 0, 0, 0),
    (6, 4, 1, 170, 0, 2, False, 0, 0, 0, 0),
]
FIELDS = (
    "pt",
    "eta",
    "phi",
    "energy",
    "charge",
    "pdg_id",
    "has_track",
    "d0",
    "d0_error",
    "dz",
    "dz_error",
)


def by_hand(*, columns=None, inside=None, about=ABOUT, counts=(4, 1, 2)):
    """Three jets; `columns` and `inside` change fields, or take them away where None."""
    fields = {
        "pt": [500, 600, 700],
        "eta": [-1, 0.25, 0],
        "phi": [3.125, 0, 1],
        "mass": [80, 0, 170],
        "softdrop_mass": [75, -1, 160],
        **{f"tau{i}": [0.5 / i] * 3 for i in range(1, 5)},
        "label": [0, 1, 1],
        "event": [1, 1, 2],
    } | (columns or {})
    parts = dict(zip(FIELDS, map(np.array, zip(*INSIDE, strict=True)), strict=True)) | (
        inside or {}
    )
    return jetnb.jets.build(
        {k: v for k, v in fields.items() if v is not None},
        {k: v for k, v in parts.items() if v is not None},
        counts,
        provenance=about,
    )


@pytest.fixture
def table(tmp_path):
    """What is written of the jets by hand, as lists."""
    return pq.read_table(jetclass_write.write(tmp_path / "a.parquet", by_hand())).to_pydict()


def test_columns_and_types_are_the_published_ones(tmp_path):
    schema = pq.read_schema(jetclass_write.write(tmp_path / "a.parquet", by_hand()))
    assert {field.name: str(field.type) for field in schema} == PUBLISHED
    assert not any(field.nullable for field in schema)


def test_jet_columns_by_hand(table):
    assert table["jet_pt"] == [500, 600, 700] and table["jet_nparticles"] == [4, 1, 2]
    assert table["jet_sdmass"] == [75, -1, 160] and table["jet_tau2"] == [0.25] * 3
    assert table["jet_energy"] == pytest.approx(
        [np.sqrt((500 * np.cosh(1)) ** 2 + 6400), 600 * np.cosh(0.25), np.sqrt(700**2 + 170**2)]
    )


def test_labels_by_hand(table):
    one = {"label_Tbl": [1, 0, 0], "label_QCD": [0.0, 1.0, 1.0]}
    assert {name: values for name, values in table.items() if name.startswith("label_")} == {
        **{
            name: [0.0] * 3 if kind == "float" else [False] * 3 if kind == "bool" else [0] * 3
            for name, kind in PUBLISHED.items()
            if name.startswith("label_")
        },
        **one,
    }


def test_constituents_by_hand(table):
    half = [400 * np.cos(3), 100 * np.cos(-3.125), 50 * np.cos(3), 20 * np.cos(3)]
    assert table["part_px"][0] == pytest.approx(half)
    assert table["part_pz"][0] == pytest.approx(
        [400 * np.sinh(-1), 100 * np.sinh(-1.5), 50 * np.sinh(-1.25), 20 * np.sinh(-1)]
    )
    assert table["part_energy"][0] == [700, 260, 100, 40] and table["part_charge"][0] == [
        1,
        -1,
        0,
        0,
    ]
    flags = [
        table[f"part_is{name}"][0]
        for name in ("ChargedHadron", "Muon", "NeutralHadron", "Photon", "Electron")
    ]
    assert flags == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0] * 4]


def test_deta_is_flipped_where_the_jet_is_not_at_positive_eta_and_dphi_is_wrapped(table):
    assert table["part_deta"] == [
        pytest.approx([0, 0.5, 0.25, 0]),
        pytest.approx([0.25]),
        pytest.approx([-3.5, -4]),
    ]
    assert table["part_dphi"][0] == pytest.approx(
        [-0.125, 2 * np.pi - 6.25, -0.125, -0.125], abs=1e-6
    )


def test_tracks_are_zero_for_neutrals_and_nan_for_charged_ones_without(table):
    assert table["part_d0val"][0] == [0.5, -1, 0, 0] and table["part_d0err"][0] == [0.25, 0.5, 0, 0]
    assert table["part_dzval"][0] == [-2, 1, 0, 0] and table["part_dzerr"][0] == [0.125, 1, 0, 0]
    assert np.isnan(
        [table[name][1][0] for name in ("part_d0val", "part_d0err", "part_dzval", "part_dzerr")]
    ).all()


def test_the_sign_of_cms_is_flipped_on_request(tmp_path):
    flipped = pq.read_table(
        jetclass_write.write(tmp_path / "b.parquet", by_hand(), flip_d0=True)
    ).to_pydict()
    assert flipped["part_d0val"][0] == [-0.5, 1, 0, 0]
    assert flipped["part_d0err"][0] == [0.25, 0.5, 0, 0] and flipped["part_dzval"][0] == [
        -2,
        1,
        0,
        0,
    ]


def test_forward_deposits_become_neutral_hadrons_and_photons(tmp_path):
    (back,) = jetclass.read(jetclass_write.write(tmp_path / "a.parquet", by_hand()))
    assert back.constituents.pdg_id[2].tolist() == [130, 22]


def same(back, jets):
    """Our reader finds the same jets, to the rounding of float32."""
    assert [jetnb.jets.classes(back)[i] for i in back.label] == [
        jetnb.jets.classes(jets)[i] for i in jets.label
    ]
    for name in (
        "pt",
        "eta",
        "phi",
        "softdrop_mass",
        "tau1",
        "tau2",
        "tau3",
        "tau4",
        "n_constituents",
    ):
        assert ak.all(back[name] == jets[name]), name
    size = jets.pt * np.cosh(jets.eta)  # the mass comes from an energy of 24 bits
    assert ak.all(abs(back.mass**2 - jets.mass**2) <= 4e-7 * (size**2 + jets.mass**2))
    # Constituents of equal pt can change places when pt comes from px and py: compare by energy and
    # type.
    a, b = (
        c[ak.argsort(c.energy + 1e-3 * c.pdg_id, axis=1)]
        for c in (back.constituents, jets.constituents)
    )
    a, b = ak.flatten(a), ak.flatten(b)
    for name in ("charge", "pdg_id", "has_track", "d0", "d0_error", "dz", "dz_error"):
        assert ak.all(a[name] == b[name]), name
    np.testing.assert_allclose(a.pt, b.pt, rtol=3e-7)
    np.testing.assert_allclose(
        a.energy, b.energy, rtol=1e-6
    )  # raised to |p| where rounding took it below
    np.testing.assert_allclose(a.eta, b.eta, atol=1e-6)
    assert ak.all(abs(a.deltaphi(b)) < 1e-6)


def test_round_trip_of_the_shipped_sample(tmp_path):
    jets = jetnb.load("jetclass", n_jets=300)
    path = jetclass_write.write(tmp_path / "a.parquet", jets)
    assert jetclass.recognises(path) and jetclass.count(path) == 300
    (back,) = jetclass.read(path)
    same(back, jets)


def test_round_trip_of_toy_jets_in_blocks(tmp_path, toy_jets):
    jets = toy_jets(500, 7)
    jets = ak.with_field(jets, jets.mass, "softdrop_mass")
    path = jetclass_write.write(
        tmp_path / "a.parquet", (jets[i : i + 77] for i in range(0, 500, 77))
    )
    assert pq.read_metadata(path).num_row_groups == 7
    tally = {}
    back = ak.concatenate(list(jetclass.read(path, block_size=100, tally=tally)))
    same(back, jets)
    lost = jets.constituents[(jets.constituents.charge != 0) & ~jets.constituents.has_track]
    assert tally["tracks"] == ak.count(lost.pt) > 0


def test_blocks_may_have_their_own_classes(tmp_path):
    other = by_hand(about=ABOUT | {"classes": ["HToBB", "HToCC"]})
    (back,) = jetclass.read(jetclass_write.write(tmp_path / "a.parquet", [by_hand(), other]))
    assert [jetnb.jets.classes(back)[i] for i in back.label] == [
        "TTBarLep",
        "QCD",
        "QCD",
        "HToBB",
        "HToCC",
        "HToCC",
    ]


def test_real_jets_of_jetclass_2_keep_their_constituents(tmp_path):
    if not REAL.exists():
        pytest.skip(f"the real file {REAL.name} is not on this machine")
    (jets,) = jetclass.read(REAL)
    jets = jets[jets.label >= 0]
    (back,) = jetclass.read(jetclass_write.write(tmp_path / "a.parquet", jets))
    assert len(back) > 0
    same(back, jets)
    raw, new = ak.from_parquet(REAL), ak.from_parquet(tmp_path / "a.parquet")
    raw = raw[raw.jet_label >= 161]
    for name in ("part_deta", "part_dphi", "part_d0val", "part_px", "part_isPhoton"):
        found, wanted = (ak.to_numpy(ak.flatten(table[name])).astype(float) for table in (new, raw))
        np.testing.assert_allclose(
            found, wanted, atol=1e-3 if name == "part_px" else 3e-6, rtol=1e-6, err_msg=name
        )


def test_weaver_reads_it_without_options(tmp_path):
    found = ak.from_parquet(
        jetclass_write.write(tmp_path / "a.parquet", by_hand())
    )  # as weaver does
    assert "?" not in str(found.type) and found.part_isMuon.tolist() == [[0, 1, 0, 0], [0], [0, 0]]


# ---- jets that are refused


@pytest.mark.parametrize(
    ("columns", "inside", "about", "says"),
    [
        ({"label": [0, 1, -1]}, {}, ABOUT, "jet 2 is unlabelled, which is none of the classes"),
        (
            {},
            {},
            ABOUT | {"classes": ["pile_up", "QCD"]},
            "jet 0 is pile_up, which is none of the classes.*choose.*QCD",
        ),
        ({"label": None}, {}, ABOUT, "JetClass needs label, which"),
        (
            {"tau4": None, "softdrop_mass": None},
            {},
            ABOUT,
            "JetClass needs softdrop_mass, tau4, which",
        ),
        (
            {},
            {"dz": None, "charge": None},
            ABOUT,
            "needs constituents.charge, constituents.dz, which",
        ),
        (
            {},
            {"charge": np.array([1, -1, 0, 0, -1, 0, 0])},
            ABOUT,
            "jet 1 has.* a pdg_id that contradicts its charge -11",
        ),
        (
            {},
            {"charge": np.array([1, -1, 1, 0, 1, 0, 0])},
            ABOUT,
            "jet 0 has.* a pdg_id that contradicts its charge 130",
        ),
        (
            {},
            {"charge": np.array([1, -1, 0, 0, 1, 0, 1])},
            ABOUT,
            "jet 2 has.* a pdg_id that contradicts its charge 2 ",
        ),
        (
            {},
            {"has_track": np.array([1, 1, 0, 1, 0, 0, 0], bool)},
            ABOUT,
            "jet 0 has.* a track but no charge.* 22",
        ),
        (
            {},
            {"energy": np.array([700, 260, 60, 40, 6, 120, 170])},
            ABOUT,
            "jet 0 has.* less energy than .p.: 60.0",
        ),
    ],
)
def test_jets_that_the_format_cannot_hold_are_refused(tmp_path, columns, inside, about, says):
    with pytest.raises(ValueError, match=f"cannot write .*a.parquet: .*{says}"):
        jetclass_write.write(
            tmp_path / "a.parquet", by_hand(columns=columns, inside=inside, about=about)
        )
    assert list(tmp_path.iterdir()) == []


def test_refuses_no_jets_and_a_file_that_is_there(tmp_path):
    for nothing in (by_hand()[:0], iter(())):
        with pytest.raises(ValueError, match="a.parquet: there were no jets"):
            jetclass_write.write(tmp_path / "a.parquet", nothing)
    (tmp_path / "a.parquet").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        jetclass_write.write(tmp_path / "a.parquet", by_hand())
    assert (tmp_path / "a.parquet").read_bytes() == b"mine"
    jetclass_write.write(tmp_path / "a.parquet", by_hand(), overwrite=True)
    assert jetclass.count(tmp_path / "a.parquet") == 3


def test_a_failing_write_leaves_nothing(tmp_path):
    def broken():
        yield by_hand()
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        jetclass_write.write(tmp_path / "a.parquet", broken())
    assert list(tmp_path.iterdir()) == []


ANGLE = st.floats(-3.140625, 3.140625, width=32)
KIND = st.sampled_from(
    [(211, 1), (-211, -1), (130, 0), (22, 0), (11, -1), (-11, 1), (13, -1), (-13, 1)]
)
NUMBER = st.floats(-1e3, 1e3, width=32)
PART = st.tuples(
    st.floats(0.0625, 4096, width=32),
    st.floats(-5, 5, width=32),
    ANGLE,
    st.floats(1, 2, width=32),
    KIND,
    st.booleans(),
    NUMBER,
    NUMBER,
)
JET = st.tuples(
    st.lists(PART, max_size=4),
    st.floats(0.125, 4096, width=32),
    st.floats(-4, 4, width=32),
    ANGLE,
    st.floats(0, 512, width=32),
    st.integers(0, 9),
)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(JET, min_size=1, max_size=4))
def test_any_jets_of_its_classes_come_back(tmp_path_factory, drawn):
    counts = [len(jet[0]) for jet in drawn]
    parts = [part for jet in drawn for part in sorted(jet[0], key=lambda part: -part[0])]
    pt, eta, phi, more, kind, track, d0, dz = (
        np.array([part[i] for part in parts]) for i in range(8)
    )
    code, charge = kind.reshape(-1, 2).astype(int).T
    track = track.astype(bool) & (charge != 0)
    inside = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "energy": pt * np.cosh(eta) * more,
        "charge": charge,
        "pdg_id": code,
        "has_track": track,
        "d0": d0 * track,
        "dz": dz * track,
        "d0_error": np.abs(dz) * track,
        "dz_error": np.abs(d0) * track,
    }
    _, pt, eta, phi, mass, label = (
        np.array([jet[i] for jet in drawn] if i else counts) for i in range(6)
    )
    columns = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "mass": mass,
        "softdrop_mass": mass,
        "label": label,
        **{f"tau{i}": mass / i for i in range(1, 5)},
    }
    jets = jetnb.jets.build(
        columns, inside, counts, provenance=ABOUT | {"classes": list(jetclass.LABELS.values())}
    )
    path = jetclass_write.write(tmp_path_factory.mktemp("any") / "a.parquet", jets)
    (back,) = jetclass.read(path)
    assert (back.label == jets.label).tolist() == [True] * len(jets)
    assert back.n_constituents.tolist() == counts
    a, b = ak.flatten(back.constituents), ak.flatten(jets.constituents)
    np.testing.assert_allclose(a.pt, b.pt, rtol=3e-7)  # both fall
    for name in ("energy", "d0", "dz", "d0_error", "dz_error", "charge", "pdg_id", "has_track"):
        np.testing.assert_allclose(
            sorted(ak.to_numpy(a[name]).astype(float)),
            sorted(ak.to_numpy(b[name]).astype(float)),
            rtol=1e-6,
            err_msg=name,
        )
