"""Making samples: the same jets whatever the number of processes or interruptions, and clear
errors.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import awkward as ak
import numpy as np
import pytest

pytest.importorskip("pythia8mc", reason="simulation extra not installed: pip install 'jetnb[sim]'")
pytest.importorskip("fastjet", reason="simulation extra not installed: pip install 'jetnb[sim]'")

import jetnb
from jetnb import jets, parallel
from jetnb.data import store
from jetnb.simulation import parts, pileup, production

SMALL = {"n_jets": 60, "seed": 3, "progress": False}
START = """import signal, sys
from jetnb.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
sys.exit(main())"""
SIMULATE = [
    sys.executable,
    "-c",
    START,
    "simulate",
    "toptagging",
    "--jets",
    "60",
    "--seed",
    "3",
]  # the same


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return production.simulate(
        "toptagging", path=tmp_path_factory.mktemp("simulated") / "one", processes=1, **SMALL
    )


def same(a, b):
    ours, theirs = jets.to_columns(a), jets.to_columns(b)
    return np.array_equal(ours[2], theirs[2]) and all(
        np.array_equal(ours[i][k], theirs[i][k]) for i in (0, 1) for k in ours[i]
    )


def test_number_of_processes_does_not_matter(made, tmp_path):
    two = production.simulate("toptagging", path=tmp_path / "two", processes=2, **SMALL)
    assert same(made.jets, two.jets)


def test_seed_matters(made, tmp_path):
    other = production.simulate(
        "toptagging", path=tmp_path / "other", processes=2, **(SMALL | {"seed": 4})
    )
    assert not np.array_equal(other.jets.pt[:20], made.jets.pt[:20])


def test_classes_come_in_their_shares_and_mixed(made):
    label = ak.to_numpy(made.jets.label)
    assert all(30 <= n <= 31 for n in np.bincount(label, minlength=2)), (
        "events are kept whole: one jet more at most"
    )
    assert np.sum(np.diff(label) != 0) > 5


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="needs /proc to follow the workers"
)
def test_killed_simulation_goes_on(made, tmp_path):
    path = tmp_path / "killed"
    script = (
        "from jetnb.simulation.production import simulate\n"
        "if __name__ == '__main__':\n"
        f"    simulate('toptagging', n_jets=60, seed=3, path={str(path)!r}, processes=1, progress=False)\n"
    )
    (tmp_path / "go.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "go.py")], stdout=subprocess.DEVNULL)
    folder = tmp_path / ".killed.parts"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    children = [
        int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]
    process.kill()
    process.wait()
    while (
        any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}").exists() for child in children), (
        "workers outlived their parent"
    )
    kept = list(folder.glob("*.npz"))
    assert kept, "no part was written before the kill"
    assert not path.exists()
    with pytest.raises(ValueError, match="other seed.*remove that folder"):
        production.simulate("toptagging", path=path, processes=1, **(SMALL | {"seed": 9}))
    finished = production.simulate("toptagging", path=path, processes=1, **SMALL)
    assert same(finished.jets, made.jets)
    assert not folder.exists()


@pytest.fixture
def parts_left(made, tmp_path, monkeypatch):
    """A path, and the folder of all parts that a simulation left which ended before it joined them."""

    def full(*_, **__):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write", full)
        with pytest.raises(OSError, match="no space"):
            production.simulate("toptagging", path=tmp_path / "left", processes=2, **SMALL)
    return tmp_path / "left", tmp_path / ".left.parts"


def flipped(data: bytes) -> bytes:
    """One bit of the values of the first large table is another."""
    at = data.index(b"constituent_pt.npy") + 400
    return data[:at] + bytes([data[at] ^ 64]) + data[at + 1 :]


def test_damaged_parts_are_made_again(made, parts_left, capsys):
    path, folder = parts_left
    files = sorted(folder.glob("*.npz"))
    damages = [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        flipped,
        lambda data: b"\0" * len(data),
    ]
    assert len(files) >= 2
    for file, damage in zip(files, damages, strict=False):
        file.write_bytes(damage(file.read_bytes()))
    for damage in damages:  # and each one is seen, whatever the number of files
        one = folder.parent / "one.npz"
        np.savez(one, constituent_pt=np.arange(9000.0))
        assert parts.damage(one, parts.load), "it has no counts"
        np.savez(one, counts=np.arange(9), constituent_pt=np.arange(9000.0))
        assert parts.damage(one, parts.load) == ""
        one.write_bytes(damage(one.read_bytes()))
        assert parts.damage(one, parts.load)
    assert same(production.simulate("toptagging", path=path, processes=2, **SMALL).jets, made.jets)
    errors = capsys.readouterr().err
    assert all(errors.count(f"{file} is damaged") == 1 for file in files[: len(damages)])
    assert errors.count("it is made again\n") == min(len(files), len(damages))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:5], lambda data: b"[1, 2]", None]
)
def test_parts_without_settings_are_made_again(tmp_path, capsys, damage):
    """Nobody knows what they are of: with the seed of another call they would be the wrong jets."""
    card, parts_of_it = (
        tmp_path / "settings.json",
        [tmp_path / "00-000000.npz", tmp_path / "00-000001.npz"],
    )
    production._claim(tmp_path, {"seed": 3})
    for part in parts_of_it:
        part.touch()
    production._claim(tmp_path, {"seed": 3})
    assert capsys.readouterr().err == "" and all(part.exists() for part in parts_of_it)
    with pytest.raises(ValueError, match="with other seed, sample: remove that folder"):
        production._claim(tmp_path, {"seed": 4, "sample": "aoj"})
    if damage is None:
        card.unlink()
    else:
        card.write_bytes(damage(card.read_bytes()))
    production._claim(tmp_path, {"seed": 4})
    assert "settings.json is" in (errors := capsys.readouterr().err) and errors.count("\n") == 1
    assert "the 2 parts beside it" in errors and not any(part.exists() for part in parts_of_it)
    assert json.loads(card.read_text()) == {"seed": 4}


def test_a_damaged_pool_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pileup, "make_pool", functools.partial(small_pool, tmp_path))
    path = pileup.pool_path(tmp_path)
    path.write_bytes(b"PK")
    assert production._pool(tmp_path, 13000.0, progress=False) == path
    assert len(pileup.load_pool(path).offsets) == 1
    assert "is damaged" in capsys.readouterr().err
    before = path.stat().st_mtime_ns
    production._pool(tmp_path, 13000.0, progress=False)
    assert path.stat().st_mtime_ns == before


def small_pool(target, folder, *, energy):
    np.savez(
        pileup.pool_path(target),
        offsets=[0],
        pt_hat=[],
        **{name: [] for name in pileup._POOL_FIELDS},
    )


def test_one_process_at_a_time_makes_a_sample(tmp_path):
    command = [*SIMULATE, "--processes", "1", "--out", str(tmp_path / "pair")]
    pair = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [one.communicate(timeout=300) for one in pair]
    assert sorted(one.returncode for one in pair) == [0, 2]
    refused = said[[one.returncode for one in pair].index(2)][1]
    assert "is making" in refused and "wait for it" in refused and "Traceback" not in refused
    assert len(jetnb.open_store(tmp_path / "pair")) >= 60
    assert [one.name for one in tmp_path.iterdir()] == ["pair"]


def test_ctrl_c_of_a_simulation_is_one_line_and_keeps_the_parts(made, tmp_path):
    path, folder = tmp_path / "stopped", tmp_path / ".stopped.parts"
    process = subprocess.Popen(
        [*SIMULATE, "--processes", "2", "--out", str(path)],
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.npz")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was too quick to be stopped")
    assert process.returncode == 130 and "Traceback" not in errors
    assert (
        errors.splitlines()[-1].startswith("jetnb: interrupted")
        and "goes on" in errors.splitlines()[-1]
    )
    assert list(folder.glob("*.npz")) and not path.exists()
    assert same(production.simulate("toptagging", path=path, processes=1, **SMALL).jets, made.jets)


def test_part_of_the_shipped_sample_is_made_again_to_the_rounding(tmp_path, of_today):
    """The shipped jets come from this code: regenerate one chunk and find its jets among them."""
    shipped = of_today("toptagging")
    here = jets.provenance(shipped)
    if here["versions"]["pythia8mc"] != production._versions()["pythia8mc"]:
        pytest.skip(f"shipped with Pythia {here['versions']['pythia8mc']}, installed is another")
    file = tmp_path / "01-000000.npz"
    work = functools.partial(
        parts.make, "toptagging", 1, 0, here["seed"], ""
    )  # in a worker, as for any sample
    ((_, n_jets),) = parallel.as_done(work, [str(file)], processes=1)
    columns, constituents, counts = parts.load(file)
    assert len(counts) == n_jets
    found = shipped[np.isin(shipped.event, columns["event"])]
    order = np.argsort(found.event, kind="stable")
    assert len(found) == n_jets
    for field in ("pt", "eta", "softdrop_mass", "tau1"):
        assert ak.to_numpy(found[field][order]) == pytest.approx(columns[field], rel=2e-3, abs=2e-3)
    assert np.array_equal(ak.to_numpy(found.n_constituents[order]), counts)
    assert ak.to_numpy(ak.flatten(found.constituents.pt[order])) == pytest.approx(
        constituents["pt"], rel=1e-3
    )


@pytest.mark.parametrize("name", ["aoj", "aoj_all", "signals", "jetclass", "hh4b", "pileup"])
def test_every_component_of_every_recipe_runs(name, tmp_path, monkeypatch):
    """One chunk of each process, with few events; the physics is tested on the shipped sample."""
    monkeypatch.setattr(parts, "EVENTS_PER_CHUNK", 40)
    recipe = production.RECIPES[name]
    pool = ""
    if recipe.pileup[0]:
        pool = str(pileup.make_pool(tmp_path, n_events=300))
    total = 0
    for c in range(len(getattr(recipe, "components", [None]))):
        total += parts.make(name, c, 0, 1, pool, str(tmp_path / f"{c}.npz"))
    assert total > 0
    columns, constituents, counts = next(
        piece
        for piece in (
            parts.load(tmp_path / f"{c}.npz") for c in range(12) if (tmp_path / f"{c}.npz").exists()
        )
        if len(piece[2])
    )
    provenance = {"sample": name, "source": "simulation", "classes": list(recipe.classes)}
    jets.check(jets.build(columns, constituents, counts, provenance=provenance))


def test_provenance_is_complete(made):
    about = jets.provenance(made.jets)
    assert about["sample"] == "toptagging"
    assert about["seed"] == 3
    assert about["settings"]["detector"] == "Delphes 3.3, ATLAS card"
    assert set(about["versions"]) == {"jetnb", "pythia8mc", "fastjet", "numpy"}
    assert json.dumps(about)


def test_errors_say_what_to_do(made, tmp_path):
    with pytest.raises(ValueError, match="no recipe 'aojj'"):
        production.simulate("aojj", **SMALL)
    with pytest.raises(ValueError, match="at least one jet"):
        production.simulate("aoj", n_jets=0, seed=1)
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        production.simulate("aoj", path=tmp_path / "there", **SMALL)


def test_quotas_add_up_and_keep_the_rare():
    for name, recipe in production.RECIPES.items():
        for n_jets in (1, 10, 20_000, 12_345):
            assert sum(production._quotas(recipe, n_jets)) == n_jets, name
    assert production._quotas(production.RECIPES["aoj"], 20_000) == [19_986, 14]


def test_events_are_never_cut(tmp_path):
    for k, events in enumerate(([0, 0, 1], [250, 250, 251])):
        np.savez(tmp_path / f"00-{k:06d}.npz", counts=np.ones(3, int), jet_event=np.array(events))
    files = sorted(tmp_path.glob("*.npz"))
    assert parts.edges(files, 4, 2) == [0, 2, 5]
    assert parts.edges(files, 6, 1) == [0, 6]


def test_result_is_a_store(made):
    assert isinstance(made, store.Store)
    made.verify()
