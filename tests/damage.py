"""What becomes of damaged files: makes them by the hundred from a good one of each format, and
counts outcomes.

    python tests/damage.py [--files 2000] [--seed 0] [--keep FOLDER] [FORMAT ...]

Each file is read in a process with a limit of memory, which is killed after some seconds at one
file. Good outcomes are "read" (the jets pass `jets.check`) and "refused" (a ValueError or OSError
that names the file). What is bad: "nameless" (a refusal without the name), "traceback" (another
exception), "memory" (half a GB for a file of kilobytes), "hang", "crash" (a signal). Exits 1 if
there is any; with --keep the files are left there. Files number i of one seed are always the same.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HDF5 = ("aspen", "toptagging", "jetnet", "higgstobb", "hh4b", "dumper", "omnilearn")
if importlib.util.find_spec("fastjet"):  # without it, no file of events is read
    HDF5 = (*HDF5, "lhco")
FORMATS = (*HDF5, "energyflow", "jetclass", "parquet", "store")  # ROOT is in test_root_formats.py
GOOD, SECONDS, MEMORY, MORE = (
    ("read", "refused"),
    20,
    500_000,
    3 << 30,
)  # kB of memory grown; bytes of address space
NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def good_file(folder: Path, name: str) -> Path:
    """A small good file (or store) of the format `name`, with compression where the published files
    have some.
    """
    import test_reader_dumper
    import test_reader_energyflow
    import test_reader_hh4b
    import test_reader_higgstobb
    import test_reader_jetclass
    import test_reader_jetnet
    import test_reader_lhco
    import test_reader_omnilearn
    import test_reader_toptagging
    from conftest import make_toy_jets

    import jetnb
    from jetnb.data import store
    from jetnb.readers import aspen, parquet

    if name == "aspen":
        return aspen.write(folder / "aspen.h5", jetnb.load("aoj", n_jets=12))
    if name == "toptagging":
        jets = test_reader_toptagging.TWO * 4
        return test_reader_toptagging.write_by_hand(folder / "toptagging.h5", jets, [1, 0] * 4)
    if name == "jetnet":
        jet = (test_reader_jetnet.JET, test_reader_jetnet.PARTICLES)
        return test_reader_jetnet.write_by_hand(folder / "t.hdf5", [jet] * 8)
    if name == "higgstobb":
        return test_reader_higgstobb.write_hdf5(
            folder / "higgstobb.h5", [test_reader_higgstobb.JET] * 4
        )
    if name == "hh4b":
        return test_reader_hh4b.write_hdf5(folder / "hh4b.h5")
    if name == "dumper":
        return test_reader_dumper.write_by_hand(
            folder / "dumper.h5", test_reader_dumper.DEFAULT * 2
        )
    if name == "omnilearn":
        jets = jetnb.load("jetclass", n_jets=12)
        return test_reader_omnilearn.write(
            folder / "train_qg.h5", test_reader_omnilearn.columns(jets)
        )
    if name == "lhco":
        return test_reader_lhco.good_file(folder / "lhco.h5")
    if name == "energyflow":
        return test_reader_energyflow.write(folder / "QG_jets.npz")
    if name == "jetclass":
        columns = test_reader_jetclass.layout(*test_reader_jetclass.toy(12))
        return test_reader_jetclass.write_parquet(folder / "jetclass.parquet", columns)
    jets = make_toy_jets(30, 1)
    return (
        parquet.write(folder / "parquet.parquet", jets)
        if name == "parquet"
        else store.write(folder / "store", jets).path
    )


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Other bytes: a few changed, a run cleared, scrambled, moved, taken out or put in, cut, or a
    number made wild.
    """
    data, n = bytearray(raw), len(raw)
    near = rng.randrange(min(n, 2048))  # headers are at the start, footers at the end
    at = rng.choice((rng.randrange(n), rng.randrange(n), near, n - 1 - near))
    size = min(rng.choice((1, 4, 16, 64, 512)), n - at)
    kind = rng.choice(
        (
            "flip",
            "flip",
            "flip",
            "number",
            "number",
            "clear",
            "scramble",
            "move",
            "out",
            "in",
            "cut",
            "more",
        )
    )
    if kind == "flip":
        for _ in range(rng.randint(1, 8)):
            place = at if rng.random() < 0.5 else rng.randrange(n)
            data[place] ^= 1 << rng.randrange(8)
    elif kind == "number":
        at -= at % rng.choice((1, 4, 8))
        width = rng.choice((4, 8))
        data[at : at + width] = (rng.choice(NUMBERS) % 2 ** (8 * width)).to_bytes(width, "little")
    elif kind == "clear":
        data[at : at + size] = bytes([rng.choice((0, 255))]) * size
    elif kind == "scramble":
        data[at : at + size] = rng.randbytes(size)
    elif kind == "move":
        other = rng.randrange(n - size + 1)
        data[at : at + size] = raw[other : other + size]
    elif kind == "out":
        del data[at : at + size]
    elif kind == "in":
        data[at:at] = rng.randbytes(size)
    elif kind == "cut":
        del data[at:]
    else:
        data += rng.randbytes(size)
    return bytes(data)


def damaged_json(text: str, rng: random.Random) -> str:
    """A record with one of its values replaced by another of any type, or left out."""
    record = json.loads(text)
    place = record
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        break
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(
            (
                None,
                True,
                -1,
                0,
                7,
                1.5,
                10**40,
                float("nan"),
                "",
                "..",
                "/etc/passwd",
                "<f4",
                "|O8",
                "\x1b[31m",
                [],
                {},
                [[1]],
                {"a": 1},
                "x" * 10_000,
            )
        )
    return json.dumps(record)


def make(good: Path, target: Path, seed: str) -> Path:
    """A damaged copy of the file or store `good` at `target`, the same for each seed."""
    rng = random.Random(seed)
    if good.is_file():
        target.write_bytes(damaged(good.read_bytes(), rng))
        return target
    shutil.copytree(good, target)
    file = rng.choice(
        (target / "meta.json", target / "offsets.npy", rng.choice(sorted(target.iterdir())))
    )
    if file.name == "meta.json" and rng.random() < 0.6:
        file.write_text(damaged_json(file.read_text(), rng))
    elif rng.random() < 0.1:
        file.unlink()
    else:
        file.write_bytes(damaged(file.read_bytes(), rng))
    return target


def outcome(name: str, path: Path, check: bool) -> str:
    """What becomes of the file in this process, as the head of this page says."""
    import numpy as np

    import jetnb
    import jetnb.jets
    from jetnb.data import store
    from jetnb.readers import identify

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    what = "read"
    try:
        if name == "store":
            opened = store.open(path)
            for start in range(0, len(opened), 7):
                jets = opened.jets[start : start + 7]
                opened.gather(np.arange(start, start + len(jets)))
                [
                    values.tolist()
                    for values in (jets.pt, jets.constituents.pt, jets.constituents.eta)
                ]
        else:
            for block in identify.reader(name).read(path, block_size=7):
                jetnb.jets.check(block)
    except (ValueError, OSError) as error:
        what = (
            "refused" if str(path) in str(error) else f"nameless: {type(error).__name__}: {error}"
        )
    except Exception as error:
        what = f"traceback: {type(error).__name__}: {error}"
    try:
        known = what == "read" if name == "store" else identify.reader(name).recognises(path)
        if check:
            str(jetnb.check(path))
        if what == "read" and not known:
            what = "traceback: read, but not recognised"
    except Exception as error:
        what = f"traceback: {type(error).__name__}: {error} (recognises or check)"
    if (grown := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > MEMORY:
        what = f"memory: {grown // 1000} MB, then {what}"
    return what


def child(tasks: list[list[str]]) -> None:
    """Work through (name, path, check) and print the outcomes; killed where one takes too long."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    import numpy as np
    from conftest import make_toy_jets

    from jetnb.data import store
    from jetnb.readers import parquet  # noqa: F401

    with tempfile.TemporaryDirectory() as folder:  # compile what is compiled
        store.write(Path(folder) / "s", make_toy_jets(9)).gather(np.arange(9))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE, used + MORE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, path, check in tasks:
        signal.alarm(SECONDS)
        print(json.dumps(outcome(name, Path(path), check)), flush=True)
        signal.alarm(0)


def run(tasks: list[tuple[str, Path, bool]]) -> list[str]:
    """The outcome of each task (name, path, whether `check` is run as well); crashed processes are
    replaced.
    """
    outcomes: list[str] = []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).resolve().parents[1]), *sys.path]),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    while len(outcomes) < len(tasks):
        rest = [(name, str(path), check) for name, path, check in tasks[len(outcomes) :]]
        done = subprocess.run(
            [sys.executable, __file__, "--child"],
            input=json.dumps(rest),
            text=True,
            env=environment,
            capture_output=True,
        )
        # FastJet says who made it, on lines that begin with another character.
        said = [line for line in done.stdout.splitlines() if line.startswith('"')]
        outcomes += map(json.loads, said)
        if done.returncode > 0:
            raise RuntimeError(
                f"the process that reads damaged files failed: {done.stderr[-2000:]}"
            )
        if done.returncode < 0:
            ended = signal.Signals(-done.returncode).name
            outcomes[
                len(tasks) - 1 :
            ] = []  # it may have ended after the last one, for what an earlier one did
            outcomes.append("hang" if ended == "SIGALRM" else f"crash: {ended}")
    return outcomes


def prepare(folder: Path, formats, n_files: int, *, seed: int = 0) -> list[tuple[str, Path, bool]]:
    """Make `n_files` damaged files of each format in `folder`; the tasks for `run`, every eighth
    with `check`.
    """
    tasks = []
    for name in formats:
        (folder / name).mkdir(parents=True)
        good = good_file(folder / name, name)
        tasks += [
            (name, make(good, good.with_stem(f"{good.stem}_{i}"), f"{name} {seed} {i}"), i % 8 == 0)
            for i in range(n_files)
        ]
    return tasks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", default=FORMATS)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    with tempfile.TemporaryDirectory() as folder:
        tasks = prepare(
            arguments.keep or Path(folder), arguments.formats, arguments.files, seed=arguments.seed
        )
        found = [
            (name, path, what) for (name, path, _), what in zip(tasks, run(tasks), strict=True)
        ]
    counts = collections.Counter((name, what.partition(":")[0]) for name, _, what in found)
    kinds = sorted({kind for _, kind in counts}, key=lambda kind: (kind not in GOOD, kind))
    print(f"{'format':12}" + "".join(f"{kind:>12}" for kind in kinds))
    for name in arguments.formats:
        print(f"{name:12}" + "".join(f"{counts[name, kind]:12,}" for kind in kinds))
    bad = [(name, path, what) for name, path, what in found if what not in GOOD]
    for _, path, what in bad[:40]:
        print(f"{path}: {what}")
    return 1 if bad else 0


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child(json.load(sys.stdin))
    else:
        sys.exit(main())
