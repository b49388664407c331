"""The JetClass reader: files in the published layouts, hand-worked jets, the known traps, bad
files, real files.

The real JetClass has std::vector branches, which uproot reads but cannot write. The files here have
arrays with counters; that the reader copes with std::vector is tested on a real file of another
experiment.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from conftest import toy_columns

import jetnb.jets
from jetnb.data import store
from jetnb.readers import _jetclass_columns, jetclass

REAL = Path(__file__).resolve().parents[2] / "shared" / "realdata"
CLASSES = [
    "QCD",
    "HToBB",
    "HToCC",
    "HToGG",
    "HToWW4Q",
    "HToWW2Q1L",
    "ZToQQ",
    "WToQQ",
    "TTBar",
    "TTBarLep",
]
LABELS = ["QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"]
FLAGS = {211: "ChargedHadron", 130: "NeutralHadron", 22: "Photon", 11: "Electron", 13: "Muon"}


def same(a, b):
    """Whether all values are equal, whatever the types."""
    return np.array_equal(ak.to_numpy(a), ak.to_numpy(b))


def real_file(name):
    if not (REAL / name).exists():
        pytest.skip(f"the real file {name} is not here: only the project's own machines have it")
    return REAL / name


def layout(columns, inside, counts, *, second=False):
    """The columns of JetClass, or of JetClass-II if `second`, made from those of a jets array."""
    jet = np.repeat(np.arange(len(counts)), counts)
    inside = {name: np.asarray(values, float) for name, values in inside.items()}
    columns = {name: np.asarray(values) for name, values in columns.items()}
    pt, eta, phi, charge = (inside[name] for name in ("pt", "eta", "phi", "charge"))
    sign = np.where(columns["eta"] > 0, 1, -1)
    dphi = (phi - columns["phi"][jet] + np.pi) % (2 * np.pi) - np.pi
    part = {
        "px": pt * np.cos(phi),
        "py": pt * np.sin(phi),
        "pz": pt * np.sinh(eta),
        "energy": inside["energy"],
        "deta": sign[jet] * (eta - columns["eta"][jet]),
        "dphi": dphi,
        **{
            name: np.where(charge != 0, inside[mine], 0)
            for name, mine in (
                ("d0val", "d0"),
                ("d0err", "d0_error"),
                ("dzval", "dz"),
                ("dzerr", "dz_error"),
            )
        },
    }
    out = {f"part_{name}": values.astype(np.float32) for name, values in part.items()}
    out["part_charge"] = charge.astype(np.int32 if second else np.float32)
    for code, name in FLAGS.items():
        out[f"part_is{name}"] = (np.abs(inside["pdg_id"]) == code).astype(
            bool if second else np.int32
        )
    out = {name: ak.unflatten(values, counts) for name, values in out.items()}
    energy = np.hypot(columns["mass"], columns["pt"] * np.cosh(columns["eta"]))
    jets = {
        "pt": columns["pt"],
        "eta": columns["eta"],
        "phi": columns["phi"],
        "energy": energy,
        "nparticles": counts,
        "sdmass": columns.get("softdrop_mass", columns["mass"] / 2),
        **{f"tau{i}": columns.get(f"tau{i}", energy * 0) for i in range(1, 5)},
    }
    out |= {f"jet_{name}": np.asarray(values).astype(np.float32) for name, values in jets.items()}
    if second:
        return out | {
            "jet_nparticles": counts.astype(np.int32),
            "jet_label": columns["label"].astype(np.int32),
        }
    for i, name in enumerate(LABELS):
        kind = np.float32 if i == 0 else bool if i < 6 else np.int32
        out[f"label_{name}"] = (columns["label"] == i).astype(kind)
    return out | {
        f"aux_genpart_{name}": energy.astype(np.float32) for name in ("eta", "phi", "pid", "pt")
    }


def write_root(path, columns, *, tree="tree", rows=None, compression=None):
    types = {
        name: values.dtype
        if isinstance(values, np.ndarray)
        else f"var * {ak.type(values).content.content}"
        for name, values in columns.items()
    }
    with uproot.recreate(path, compression=compression or uproot.LZ4(4)) as file:
        out = file.mktree(tree, types)
        n = len(next(iter(columns.values())))
        for i in range(0, n, rows or max(n, 1)):
            out.extend({name: values[i : i + (rows or n)] for name, values in columns.items()})
    return path


def write_parquet(path, columns, **options):
    table = pa.table(
        {
            name: ak.to_arrow(ak.Array(values), extensionarray=False)
            for name, values in columns.items()
        }
    )
    pq.write_table(table, path, **options)
    return path


def toy(n=200, seed=3, *, second=False):
    columns, inside, counts = toy_columns(n, seed, mean=30)
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    inside["pt"] = inside["pt"] * (1 - 1e-5 * rank)  # no ties, whose order px and py would not keep
    columns["label"] = np.arange(n) * 7 % (188 if second else 10)
    return columns, inside, counts


WRITE = {"root": write_root, "parquet": write_parquet}


@pytest.fixture(scope="module", params=["JetClass root", "JetClass-II root", "JetClass-II parquet"])
def sample(request, tmp_path_factory):
    """Path, toy columns, constituents, counts and whether it is JetClass-II; in baskets or row
    groups of 70.
    """
    which, kind = request.param.split()
    second = which == "JetClass-II"
    columns, inside, counts = toy(second=second)
    path = tmp_path_factory.mktemp("jetclass") / f"HToBB_000.{kind}"
    WRITE[kind](
        path,
        layout(columns, inside, counts, second=second),
        **({"rows": 70} if kind == "root" else {"row_group_size": 70}),
    )
    return path, columns, inside, counts, second


def one_jet(**changes):
    """A jet at eta = -1 with constituents worked by hand; `changes` replace columns of the layout."""
    # (px, py, pz, E): pt 5, eta asinh(0) = 0; pt 4, pz 3, |p| 5; pt 1, pz -sinh(1); pt 2; pt 0.5
    px, py = [3.0, 0.0, -1.0, 0.0, 0.5], [4.0, -4.0, 0.0, 2.0, 0.0]
    pz = [0.0, 3.0, -1.1752012, 0.0, 0.0]
    energy = [5.0, 4.9999995, 2.0, 2.5, 0.5]
    eta, phi = np.array([0, np.arcsinh(0.75), -1, 0, 0]), np.arctan2(py, px)
    lists = {
        "px": px,
        "py": py,
        "pz": pz,
        "energy": energy,
        "deta": -(eta + 1),
        "dphi": (phi - 3 + np.pi) % (2 * np.pi) - np.pi,
        "d0val": [0.5, 0.0, -300.0, 0.0, -0.1],
        "d0err": [0.02, 0.0, 0.04, 0.0, 0.03],
        "dzval": [-1.5, 0.0, 2.0, 0.0, 0.0],
        "dzerr": [0.03, 0.0, 0.05, 0.0, 0.06],
        "charge": [-1.0, 0.0, 1.0, 0.0, -1.0],
        "isChargedHadron": [1, 0, 0, 0, 0],
        "isNeutralHadron": [0, 1, 0, 0, 0],
        "isPhoton": [0, 0, 0, 1, 0],
        "isElectron": [0, 0, 1, 0, 0],
        "isMuon": [0, 0, 0, 0, 1],
    }
    out = {
        f"part_{name}": ak.values_astype(
            ak.Array([list(values)]), np.int32 if name[:2] == "is" else np.float32
        )
        for name, values in lists.items()
    }
    jet = {
        "pt": 600,
        "eta": -1,
        "phi": 3,
        "energy": 1000,
        "nparticles": 5,
        "sdmass": 80.4,
        "tau1": 0.4,
        "tau2": 0.3,
        "tau3": 0.2,
        "tau4": 0.1,
    }
    out |= {f"jet_{name}": np.array([value], np.float32) for name, value in jet.items()}
    out |= {f"label_{name}": np.array([name == "Tbqq"], np.int32) for name in LABELS}
    for name, values in changes.items():
        old = out.get(name, np.zeros(1, np.int32))
        out[name] = (
            np.array([values], old.dtype)
            if isinstance(old, np.ndarray)
            else ak.unflatten(np.array(values, ak.to_numpy(ak.flatten(old)).dtype), [len(values)])
        )
    return out


def read_one(tmp_path, columns):
    return next(jetclass.read(write_parquet(tmp_path / "one.parquet", columns)))


def test_every_field_comes_back(sample):
    path, columns, inside, counts, second = sample
    blocks = list(jetclass.read(path, block_size=64))
    assert max(map(len, blocks)) <= 64 and sum(map(len, blocks)) == 200
    # baskets and row groups have 70 jets: no block of ROOT has jets of two baskets, unless these
    # fit into one block
    assert path.suffix != ".root" or [len(block) for block in blocks] == [35, 35, 35, 35, 60]
    jets = ak.concatenate(blocks)
    jetnb.jets.check(jets)
    assert same(ak.num(jets.constituents), counts)
    for name in ("pt", "eta", "phi", "tau1", "tau2", "tau3", "tau4"):
        assert same(jets[name], np.float32(columns[name])), name
    assert np.allclose(jets.mass, columns["mass"], rtol=1e-3, atol=0.02)
    assert same(jets.softdrop_mass, np.float32(columns["mass"] / 2))
    want = np.where(columns["label"] >= 161, 0, -1) if second else columns["label"]
    assert same(jets.label, want) and jetnb.jets.classes(jets) == CLASSES
    flat = ak.flatten(jets.constituents)
    assert (
        np.abs((ak.to_numpy(flat.phi) - inside["phi"] + np.pi) % (2 * np.pi) - np.pi).max() < 3e-6
    )
    for name in ("pt", "eta", "energy"):
        assert np.allclose(flat[name], inside[name], rtol=3e-6, atol=3e-6), name
    track = inside["charge"] != 0
    assert same(flat.charge, inside["charge"]) and same(flat.has_track, track)
    assert same(flat.pdg_id, inside["pdg_id"])
    for name in jetnb.jets.TRACK_FIELDS:
        assert same(flat[name], np.float32(np.where(track, inside[name], 0))), name
    assert not {"puppi_weight", "tau21"} & {*jets.fields, *flat.fields}, (
        "what the format lacks is absent"
    )
    about = jetnb.jets.provenance(jets)
    assert about["source"] == "simulation" and about["selection"] and about["units"]
    assert (
        about["sample"] == ("JetClass-II" if second else "JetClass") and about["file"] == path.name
    )


def test_the_two_forms_and_any_block_size_give_the_same_jets(tmp_path):
    columns = layout(*toy(90, second=True), second=True)
    root, parquet = (
        write_root(tmp_path / "a.root", columns, rows=40),
        write_parquet(tmp_path / "a.parquet", columns),
    )
    want = ak.concatenate(list(jetclass.read(root, block_size=1000)))
    for path, size in ((root, 7), (parquet, 7), (parquet, 1000)):
        assert ak.array_equal(
            ak.concatenate(list(jetclass.read(path, block_size=size))), want, check_parameters=False
        )


def test_a_range_of_rows_is_that_part_of_the_file(sample):
    path, *_ = sample
    whole = ak.concatenate(list(jetclass.read(path)))
    assert jetclass.count(path) == 200
    for start, stop in (
        (0, 10),
        (33, 140),
        (70, 140),
        (199, None),
        (199, 999),
        (200, None),
        (5, 5),
    ):
        part = list(jetclass.read(path, start=start, stop=stop, block_size=41))
        assert sum(map(len, part)) == len(whole[start:stop])
        assert not part or ak.array_equal(
            ak.concatenate(part), whole[start:stop], check_parameters=False
        )


def test_a_jet_worked_by_hand(tmp_path):
    jets = read_one(tmp_path, one_jet())
    part = jets.constituents[0]
    assert part.pt.tolist() == [5, 4, 2, 1, 0.5]  # 4 and 3 in the file are 2 and 1 here
    assert np.allclose(part.eta, [0, 0.6931472, 0, -1, 0], atol=1e-6)  # asinh(3/4) = ln 2
    assert np.allclose(part.phi, [0.9272952, -np.pi / 2, np.pi / 2, np.pi, 0], atol=1e-6)
    assert part.energy.tolist() == [5, 5, 2.5, 2, 0.5]  # 4.9999995 < |p| = 5 is rounding
    assert part.pdg_id.tolist() == [-211, 130, 22, -11, 13]  # a positron is -11, a negative muon 13
    assert part.charge.tolist() == [-1, 0, 0, 1, -1]
    assert part.has_track.tolist() == [True, False, False, True, True]
    assert np.allclose(part.d0, [0.5, 0, 0, -300, -0.1]) and np.allclose(
        part.dz, [-1.5, 0, 0, 2, 0]
    )
    assert np.allclose(part.d0_error, [0.02, 0, 0, 0.04, 0.03])
    assert np.isclose(jets.mass[0], np.sqrt(1000**2 - (600 * np.cosh(1)) ** 2), rtol=1e-5)
    assert jetnb.jets.classes(jets)[jets.label[0]] == "TTBar" and np.isclose(
        jets.softdrop_mass[0], 80.4
    )


def test_true_eta_at_negative_jet_eta(sample):
    path, columns, inside, *_ = sample
    jets = ak.concatenate(list(jetclass.read(path)))
    back = ak.to_numpy(ak.flatten(jets.constituents.eta))
    assert (columns["eta"] < 0).sum() > 50 and np.abs(back - inside["eta"]).max() < 1e-5


def test_the_mass_of_a_light_jet_is_never_nan(tmp_path):
    assert read_one(tmp_path, one_jet(jet_energy=925.8483)).mass[0] == 0  # 600 cosh 1 = 925.8484


def test_padding_and_bad_tracks_are_left_out_and_counted(tmp_path):
    columns = one_jet(part_px=[3.0, 0.0, -1.0, 0.0, 0.0], part_dzerr=[np.inf, 0, np.nan, 0, 0.1])
    tally = {}
    (jets,) = jetclass.read(write_parquet(tmp_path / "one.parquet", columns), tally=tally)
    part = jets.constituents[0]
    assert part.pt.tolist() == [5, 4, 2, 1] and jets.n_constituents[0] == 4
    assert part.has_track.tolist() == [False] * 4 and part.charge.tolist() == [-1, 0, 0, 1]
    assert part.d0.tolist() == part.dz_error.tolist() == [0] * 4
    assert tally == {"rows": 1, "jets": 0, "constituents": 1, "tracks": 2, "unsorted": 1}


@pytest.mark.parametrize("changes", [{"jet_sdmass": np.nan}, {"jet_tau4": np.inf}, {"jet_pt": 0.0}])
def test_a_jet_that_cannot_be_used_is_left_out_and_counted(tmp_path, changes):
    columns = layout(*toy(20))
    for name, value in changes.items():
        columns[name][7] = value
    tally = {}
    (jets,) = jetclass.read(write_parquet(tmp_path / "one.parquet", columns), tally=tally)
    (tmp_path / "two").mkdir()
    (whole,) = jetclass.read(write_parquet(tmp_path / "two" / "one.parquet", layout(*toy(20))))
    assert tally["jets"] == 1 and tally["rows"] == 20
    assert jets.event.to_list() == np.delete(whole.event, 7).tolist()
    assert ak.all(jets.constituents.pt == whole.constituents.pt[np.arange(20) != 7])


def test_events_are_rows_of_named_files(sample, tmp_path):
    path = sample[0]
    events = ak.to_numpy(ak.concatenate(list(jetclass.read(path, block_size=33))).event)
    high = int(hashlib.sha256(b"HToBB_000").hexdigest()[:8], 16) // 2
    assert same(events, high * 2**32 + np.arange(200)) and events.min() >= 0
    other = tmp_path / f"HToBB_001{path.suffix}"
    other.write_bytes(path.read_bytes())
    assert not np.isin(ak.to_numpy(next(jetclass.read(other)).event), events).any()
    moved = tmp_path / path.name
    moved.write_bytes(path.read_bytes())
    assert next(jetclass.read(moved)).event[0] == events[0]


def test_blocks_go_into_a_store(sample, tmp_path):
    made = store.write(tmp_path / "store", jetclass.read(sample[0], block_size=50))
    assert len(made) == 200 and same(ak.num(made.jets.constituents), sample[3])


def test_no_jets_and_jets_without_constituents(tmp_path):
    for second in (False, True):
        columns, inside, counts = toy(5, second=second)
        none = layout(
            {name: values[:0] for name, values in columns.items()},
            {name: values[:0] for name, values in inside.items()},
            counts[:0],
            second=second,
        )
        assert list(jetclass.read(write_parquet(tmp_path / "none.parquet", none))) == []
        assert list(jetclass.read(write_root(tmp_path / "none.root", none))) == []
    empty = one_jet(**{name: [] for name in one_jet() if name.startswith("part_")})
    jets = next(jetclass.read(write_parquet(tmp_path / "empty.parquet", empty)))
    assert jets.n_constituents.tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_QCD": 1}, "jet 0 .*label_.* that are .*not one 1"),
        ({"label_Tbqq": 0}, "jet 0 .*not one 1 and nine 0"),
        ({"label_Tbqq": 2}, "not one 1 and nine 0"),
        ({"jet_label": 188}, "jet_label outside 0 to 187"),
        ({"part_isMuon": [0, 1, 0, 0, 1]}, "not exactly one of part_isChargedHadron"),
        ({"part_charge": [0, 0, 1, 0, -1]}, "part_charge contradicts"),
        ({"part_energy": [3, 5, 2, 2.5, 0.5]}, r"part_energy below \|p\|"),
        (
            {"part_px": [4, -4, 0, 2, 0], "part_py": [3, 0, -1, 0, 0.5]},
            "contradict part_dphi: are the columns swapped",
        ),
        ({"part_deta": [1, 1.6931472, 0, 1, 1]}, "contradict part_deta"),
        ({"part_d0err": [0.1, 0]}, "jet 0 has 5 part_px but 2 part_d0err"),
        ({"part_px": [np.nan, 0, -1, 0, 0.5]}, "constituents.pt"),
        ({"part_d0err": [-1, 0, 0, 0, 0]}, "d0_error"),
    ],
)
def test_values_at_odds_are_refused(tmp_path, changes, message):
    for write, name in ((write_parquet, "bad.parquet"), (write_root, "bad.root")):
        path = write(tmp_path / name, one_jet(**changes))
        with pytest.raises(ValueError, match=f"(?s){name}, block of jets from row 0: .*{message}"):
            list(jetclass.read(path))


def test_the_bad_block_is_named(tmp_path):
    columns = layout(*toy(50))
    columns["label_QCD"][40] = columns["label_Hbb"][40] = 1
    blocks = jetclass.read(write_root(tmp_path / "bad.root", columns), block_size=30)
    assert len(next(blocks)) == 25
    with pytest.raises(
        ValueError, match=r"bad.root, block of jets from row 25: jet 15 of the block has label_\*"
    ):
        next(blocks)


def test_missing_columns_and_wrong_types_are_named(tmp_path):
    for write, name in ((write_parquet, "bad.parquet"), (write_root, "bad.root")):
        columns = one_jet()
        lost = {
            key: values for key, values in columns.items() if key not in ("part_pz", "label_Tbl")
        }
        with pytest.raises(ValueError, match=f"{name} has no column part_pz, label_Tbl"):
            jetclass.read(write(tmp_path / name, lost))
        for wrong in ({"part_d0val": np.ones(1, np.float32)}, {"jet_pt": columns["part_px"]}):
            path = write(tmp_path / name, columns | wrong)
            with pytest.raises(
                ValueError, match=f"{name}: column {next(iter(wrong))} is .* should be a"
            ):
                jetclass.read(path)
            assert not jetclass.recognises(path)


def test_missing_values_are_refused(tmp_path):
    table = pq.read_table(write_parquet(tmp_path / "a.parquet", one_jet()))
    for name, values in (
        ("jet_pt", pa.array([None], pa.float32())),
        ("part_px", pa.array([None], pa.list_(pa.float32()))),
        ("part_pz", pa.array([None], pa.list_(pa.float32()))),
        ("part_pz", pa.array([[1, 2, None, 3, 4]], pa.list_(pa.float32()))),
    ):
        pq.write_table(
            table.set_column(table.schema.get_field_index(name), name, values),
            tmp_path / "b.parquet",
        )
        with pytest.raises(ValueError, match=f"{name} has missing values"):
            list(jetclass.read(tmp_path / "b.parquet"))


def test_other_files_are_refused_and_not_recognised(tmp_path):
    columns = one_jet()
    (tmp_path / "page.root").write_text("<!DOCTYPE html><html><body>404</body></html>")
    (tmp_path / "noise.root").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    (tmp_path / "empty.root").write_bytes(b"")
    write_root(tmp_path / "events.root", columns, tree="Events")
    with uproot.recreate(tmp_path / "ntuple.root") as file:
        file.mkrntuple("tree", {"x": np.arange(3.0)})
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    for name, message in (
        ("page.root", "web page"),
        ("noise.root", "neither ROOT nor Parquet"),
        ("empty.root", "neither ROOT nor Parquet"),
        ("other.parquet", "has no column part_px"),
        ("events.root", "has a tree 'tree', here is nothing; the file has Events"),
        ("ntuple.root", "ntuple.root has no column part_px"),
        (".", "is a folder, not a file"),
    ):
        with pytest.raises(ValueError, match=message):
            jetclass.read(tmp_path / name)
        assert jetclass.recognises(tmp_path / name) is False
    with pytest.raises(FileNotFoundError, match="nowhere.root"):
        jetclass.read(tmp_path / "nowhere.root")
    assert jetclass.recognises(tmp_path / "nowhere.root") is False
    with pytest.raises(ValueError, match="block_size"):
        jetclass.read(tmp_path / "other.parquet", block_size=0)


def test_truncated_and_damaged_files(sample, tmp_path):
    path = sample[0]
    whole = path.read_bytes()
    assert jetclass.recognises(path)
    for share in (0.01, 0.3, 0.7, 0.99):
        cut = tmp_path / f"cut{path.suffix}"
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            ValueError, match=f"{cut.name} (is truncated or damaged|has no)|here is nothing"
        ):
            list(jetclass.read(cut))
    hurt = tmp_path / f"hurt{path.suffix}"
    hurt.write_bytes(whole[:3000] + b"\xff" * 9000 + whole[12000:])
    with pytest.raises(ValueError, match=hurt.name):
        list(jetclass.read(hurt))


def test_only_what_is_needed_is_read_block_by_block(sample, monkeypatch):
    raw, asked = jetclass.raw_parquet if sample[0].suffix == ".parquet" else jetclass.raw_root, []

    def spy(*args):
        for row, block in raw(*args):
            asked.append((set(block), len(next(v if n is None else n for v, n in block.values()))))
            yield row, block

    monkeypatch.setattr(jetclass, raw.__name__, spy)
    blocks = jetclass.read(sample[0], block_size=50)
    next(blocks)
    assert len(asked) <= 2  # the first block, and perhaps one block ahead
    list(blocks)
    assert all(n <= 50 for _, n in asked)
    assert ["part_deta" in names for names, _ in asked] == [True] + [False] * (len(asked) - 1)
    assert not any(
        name.startswith(("aux_", "gen")) or "nparticles" in name
        for names, _ in asked
        for name in names
    )


def test_real_jetclass_2():
    path = real_file("JetClassII_example.parquet")
    assert jetclass.recognises(path)
    jets = ak.concatenate(list(jetclass.read(path, block_size=30)))
    assert len(jets) == 100 and np.sum(jets.label == 0) == 21 and np.sum(jets.label == -1) == 79
    raw = ak.from_parquet(path)
    assert same(jets.label == 0, ak.any(raw.aux_genpart_isQcdParton, axis=1)), "QCD is 161 to 187"
    assert np.allclose(ak.sum(jets.constituents, axis=1).pt, jets.pt, rtol=1e-5)
    assert np.allclose(ak.sum(jets.constituents, axis=1).energy, raw.jet_energy, rtol=0.05)
    part = jets.constituents
    assert same(ak.num(part), raw.jet_nparticles)
    assert ak.sum(np.abs(part.pdg_id) == 11) == 42 and ak.sum(np.abs(part.pdg_id) == 13) == 27
    assert ak.min(part.d0_error[part.has_track]) >= 0.0095
    assert np.max(np.abs(ak.mean(part.eta, axis=1) - jets.eta)) < 1


def test_branches_of_std_vector_are_read_as_well(monkeypatch):
    path = real_file(
        "PHYSLITE_example.root"
    )  # no JetClass, but such branches, which only ROOT itself can write
    names = ["AnalysisJetsAuxDyn.pt", "AnalysisJetsAuxDyn.NNJvtPass"]
    monkeypatch.setattr(_jetclass_columns, "TREE", "CollectionTree")
    with uproot.open(path) as file:
        assert file["CollectionTree"][names[0]].typename == "std::vector<float>"
        want = file["CollectionTree"].arrays(names, library="ak")
    rows, blocks = zip(*jetclass.raw_root(path, names, [], 30, 5, None), strict=True)
    assert rows[0] == 5 and sum(len(block[names[0]][1]) for block in blocks) == 95
    want = want[5:]
    for name in names:
        assert same(np.concatenate([block[name][0] for block in blocks]), ak.flatten(want[name]))
        assert same(np.concatenate([block[name][1] for block in blocks]), ak.num(want[name]))


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        ("var * float32", True),
        ("var * int32", True),
        ("var * bool", True),
        ("list<item: float not null>", True),
        ("large_list<element: int32>", True),
        ("float32", False),
        ("5 * float32", False),
        ("var * var * float32", False),
        ("string", False),
        ("var * ?float32", False),
    ],
)
def test_types_that_are_taken_for_a_list(kind, fits):
    assert bool(re.fullmatch(_jetclass_columns.LIST, kind)) is fits


def test_one_jet_of_forty_million_constituents_is_refused_before_arrow_reads_it(tmp_path):
    columns, n = layout(*toy(1)), 40_000_000
    zeros = {
        name: pa.ListArray.from_arrays(pa.array([0, n], pa.int32()), pa.array(np.zeros(n, np.int8)))
        for name in ("part_px", "part_charge")
    }
    table = pa.table(
        {name: ak.to_arrow(values, extensionarray=False) for name, values in columns.items()}
        | zeros
    )
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    with pytest.raises(
        ValueError, match="a.parquet is .*damaged .*claims 40,000,000 values of .* for 1 rows"
    ):
        jetclass.count(tmp_path / "a.parquet")
