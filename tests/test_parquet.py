"""The compact Parquet form: what it changes, what it costs, and what is refused."""

from __future__ import annotations

import os

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import toy_columns

import jetnb.jets
from jetnb.data import store
from jetnb.readers import parquet

PROVENANCE = {"sample": "toy", "source": "simulation", "classes": ["QCD", "TTBar"]}


@pytest.fixture(scope="module")
def jets(toy_jets):
    return toy_jets(4000, 1)


@pytest.fixture(scope="module")
def file(jets, tmp_path_factory):
    return parquet.write(tmp_path_factory.mktemp("parquet") / "toy.parquet", jets)


@pytest.fixture(scope="module")
def back(file):
    return ak.concatenate(list(parquet.read(file)))


def differences(before, after):
    """Name, values before, and the difference of every field, in the measure in which its loss is
    stated.
    """
    old, new = jetnb.jets.to_columns(before), jetnb.jets.to_columns(after)
    assert np.array_equal(old[2], new[2])
    for prefix, a, b in (("", old[0], new[0]), ("constituents.", old[1], new[1])):
        assert a.keys() == b.keys()
        for name, values in a.items():
            fallback = "any other float" if values.dtype.kind == "f" else "any other"
            kind, amount = parquet.LOSS.get(prefix + name, parquet.LOSS[fallback])
            change = np.abs(values.astype(float) - b[name].astype(float))
            if name == "phi":
                change = np.minimum(change, 2 * np.pi - change)
            if kind == "relative":
                change = np.divide(change, np.abs(values), out=change, where=values != 0)
            yield prefix + name, change, amount


def test_round_trip_within_the_stated_loss(jets, back):
    jetnb.jets.check(back)  # in particular, still sorted by falling pt
    assert jetnb.jets.provenance(back) == jetnb.jets.provenance(jets)
    for name, change, amount in differences(jets, back):
        assert change.max() <= 1.01 * amount, name  # float32 has its own 1e-7
    mass = ak.sum(back.constituents, axis=1).mass
    assert (
        np.allclose(mass, jets.mass, rtol=5e-3) and np.median(np.abs(mass / jets.mass - 1)) < 1e-4
    )


def test_rounding_is_not_biased(jets, back):
    """Truncation instead of rounding would shift every pt down by a part in ten thousand."""
    for name in ("pt", "energy", "d0_error", "puppi_weight"):
        ratio = ak.sum(back.constituents[name]) / ak.sum(jets.constituents[name])
        assert abs(ratio - 1) < 1e-5, name


def test_writing_again_changes_nothing_more(back, tmp_path):
    again = ak.concatenate(list(parquet.read(parquet.write(tmp_path / "again.parquet", back))))
    for name, change, _ in differences(back, again):
        assert change.max() <= 2e-7, name


def test_size(jets, file):
    per_constituent = file.stat().st_size / ak.sum(jets.n_constituents)
    assert 45 * per_constituent < 500


@pytest.mark.parametrize(
    "name, low, high",
    [("pt", 0, 1000), ("eta", -3, 3), ("phi", -np.pi, np.pi), ("d0", -0.2, 0.2), ("dz", -0.2, 0.2)],
)
def test_no_comb_in_fine_histograms(jets, file, name, low, high):
    """1000 bins of a smooth distribution stay smooth: the rounding shows in no plot."""
    values = np.random.default_rng(2).uniform(low, high, 2_000_000).astype(np.float32)
    if name in ("eta", "phi"):
        jet = np.full(len(values), jets[name][0])
        values = values[np.abs(values - jet) < 0.8]
        codes = parquet._angle_code(name, values, parquet.GRID)
        rounded = parquet._angle(name, codes, parquet.GRID)
    else:
        values = values[values > 0] if name == "pt" else values
        rounded = parquet.round_mantissa(values, parquet.MANTISSA[name])
    before, after = (np.histogram(v, 1000, (low, high))[0] for v in (values, rounded))
    full = before > 0.9 * np.median(before[before > 0])
    assert full.sum() > 200 and np.abs(after[full] / before[full] - 1).max() < 0.16


def test_logarithmic_histograms_have_no_gaps(jets, back):
    for name in ("pt", "d0_error", "dz_error"):
        before, after = (ak.to_numpy(ak.flatten(x.constituents[name])) for x in (jets, back))
        edges = np.geomspace(*np.percentile(before[before > 0], (5, 95)), 120)
        before, after = np.histogram(before, edges)[0], np.histogram(after, edges)[0]
        assert (after > 0.5 * before).all() and (after < 1.5 * before + 50).all(), name


def test_round_mantissa_half_to_even():
    one = np.float32([1 + 1 / 8, 1 + 3 / 8, -1 - 1 / 8, 0, 1e-30, 3.99])
    assert parquet.round_mantissa(one, 2)[[0, 1, 2, 3, 5]].tolist() == [1.0, 1.5, -1.0, 0, 4.0]
    assert abs(parquet.round_mantissa(one, 2)[4] / 1e-30 - 1) < 0.125


def test_angles_at_the_seam(toy_jets):
    pi = np.float32(np.pi)
    code = parquet._angle_code("phi", np.array([pi, -pi, 0, pi - 1e-6], np.float32), parquet.GRID)
    phi = parquet._angle("phi", code, parquet.GRID)
    assert (np.abs(phi) <= pi).all() and (phi[[0, 1, 3]] == pi).all() and phi[2] == 0


def built(change=lambda columns, inside: None, keep=None):
    columns, inside, counts = toy_columns(300, 5)
    inside = {
        name: np.array(values) for name, values in inside.items() if keep is None or name in keep
    }
    change(columns, inside)
    return jetnb.jets.build(columns, inside, counts, provenance=PROVENANCE)


def massless(columns, inside):
    inside["energy"] = inside["pt"] * np.cosh(inside["eta"].astype(float))


def pions(columns, inside):
    massless(columns, inside)
    inside["energy"] = np.hypot(inside["energy"], 0.13957)
    inside |= {
        "z0": np.linspace(-200, 200, len(inside["pt"])),
        "from_hard_scatter": inside["pt"] > 1,
    }
    inside["has_track"][:] = True


def odd(columns, inside):
    inside["energy"][::7] *= 1.5
    inside["charge"][::5] = -1
    columns["event"] = np.arange(300) + 2**40
    columns["label"] = np.full(300, -1)


MOMENTUM = ("pt", "eta", "phi", "energy")


@pytest.mark.parametrize(
    "jets, limit",
    [
        (lambda: built(massless, MOMENTUM), 8),
        (lambda: built(pions, (*MOMENTUM, "charge", "has_track", "d0", "d0_error")), 15),
        (lambda: built(odd), 15),
        (lambda: built(keep=(*MOMENTUM, "has_track", "d0")), 15),
        (lambda: built(keep=(*MOMENTUM, "d0", "pdg_id")), 15),
    ],
    ids=[
        "four-momenta",
        "tracks of pions",
        "energies and charges of their own",
        "no charge",
        "no has_track",
    ],
)
def test_other_selections_of_fields(jets, limit, tmp_path):
    jets = jets()
    path = parquet.write(tmp_path / "some.parquet", jets)
    for name, change, amount in differences(jets, ak.concatenate(list(parquet.read(path)))):
        assert change.max() <= 1.01 * amount, name
    assert path.stat().st_size < limit * ak.sum(jets.n_constituents)


def test_blocks(jets, back, tmp_path, monkeypatch):
    path = parquet.write(
        tmp_path / "blocks.parquet", (jets[i : i + 900] for i in range(0, 4000, 900))
    )
    read = list(parquet.read(path, block_size=333))
    assert max(map(len, read)) == 333 and ak.array_equal(
        ak.concatenate(read), back, dtype_exact=True
    )
    monkeypatch.setattr(parquet, "ROWS", 1000)
    path = parquet.write(tmp_path / "rows.parquet", jets)
    assert pq.ParquetFile(path).num_row_groups == 4
    assert ak.array_equal(ak.concatenate(list(parquet.read(path))), back)


def test_jets_without_constituents(tmp_path):
    columns, inside, counts = toy_columns(4, 0)
    counts = np.array([0, counts.sum(), 0, 0])
    inside["pt"] = np.sort(inside["pt"])[::-1]
    inside["energy"] = inside["pt"] * 50
    columns.pop("n_constituents")
    jets = jetnb.jets.build(columns, inside, counts, provenance=PROVENANCE)
    back = ak.concatenate(
        list(parquet.read(parquet.write(tmp_path / "e.parquet", jets), block_size=1))
    )
    assert ak.num(back.constituents).tolist() == counts.tolist()
    assert np.allclose(back.constituents.pt[1], jets.constituents.pt[1], rtol=2e-4)


def test_to_store(file, back, tmp_path):
    opened = store.write(tmp_path / "store", parquet.read(file, block_size=1000))
    assert ak.array_equal(opened.jets, back, dtype_exact=True)


def test_other_tools_can_look_inside(file, jets):
    table = pq.read_table(file)
    assert table.num_rows == len(jets)
    about = table.schema.metadata[b"jetnb"]
    assert b'"sample": "toy"' in about and b'"loss"' in about


def test_existing_file_is_kept_unless_told(jets, file, tmp_path):
    before = file.read_bytes()
    with pytest.raises(FileExistsError):
        parquet.write(file, jets)
    with pytest.raises(ValueError, match="blocks differ"):
        parquet.write(file, [jets[:10], ak.without_field(jets[:10], "tau1")], overwrite=True)
    assert file.read_bytes() == before and os.listdir(file.parent) == ["toy.parquet"]
    parquet.write(tmp_path / "toy.parquet", jets[:10])
    parquet.write(tmp_path / "toy.parquet", jets, overwrite=True)
    assert (tmp_path / "toy.parquet").read_bytes() == before  # the same jets give the same bytes


def test_refused_when_writing(jets, tmp_path):
    with pytest.raises(ValueError, match="there were no jets"):
        parquet.write(tmp_path / "x.parquet", [])
    with pytest.raises(ValueError, match="mass: jet 0 has nan"):
        parquet.write(
            tmp_path / "x.parquet", ak.with_field(jets, jets.mass * np.float32(np.nan), "mass")
        )
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "content, message",
    [
        (lambda good: b"", "is not Parquet, by its start"),
        (lambda good: b"hello, world" * 100, "is not Parquet, by its start"),
        (lambda good: good[: len(good) // 2], "is truncated or damaged"),
        (lambda good: good[:-1], "is truncated or damaged"),
        (lambda good: good[:50_000] + b"\x00" * 100 + good[50_100:], "is truncated or damaged"),
    ],
)
def test_damaged_files(file, tmp_path, content, message):
    bad = tmp_path / "bad.parquet"
    bad.write_bytes(content(file.read_bytes()))
    with pytest.raises(ValueError, match=f"bad.parquet {message}.*again"):
        list(parquet.read(bad))


def test_missing_alien_and_future_files(file, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file .*none.parquet"):
        parquet.read(tmp_path / "none.parquet")
    pq.write_table(pa.table({"jet_energy": [1.0], "taxis": [2]}), tmp_path / "alien.parquet")
    with pytest.raises(ValueError, match="not of jetnb.*its columns are jet_energy, taxis"):
        parquet.read(tmp_path / "alien.parquet")
    table = pq.read_table(file)
    about = table.schema.metadata[b"jetnb"].replace(b'"version": 1', b'"version": 2')
    pq.write_table(table.replace_schema_metadata({"jetnb": about}), tmp_path / "future.parquet")
    with pytest.raises(ValueError, match="is of version 2, this jetnb reads up to 1: update jetnb"):
        parquet.read(tmp_path / "future.parquet")
