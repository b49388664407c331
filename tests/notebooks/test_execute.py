"""Every numbered notebook runs at ci scale, and its ``result`` agrees with the stored reference."""

import json
import math
import shutil
import sys
import tomllib
from pathlib import Path

import h5py
import pytest
from lessons import LESSONS

import jetnb
from jetnb.book import runner
from jetnb.readers import aspen

REFERENCE = Path(__file__).with_name("reference.json")


def differences(result, expected):
    """What disagrees between a result and its reference, {key: {"value": ..., "rel": ..., "abs":
    ...}}, in words.

    Numbers agree within rel * |value| or within abs (0 unless given); lists entry by entry; all
    else must be equal.
    """
    yield from (f"{key!r} is missing" for key in expected if key not in result)
    yield from (f"{key!r} has no reference" for key in result if key not in expected)
    for key in expected.keys() & result.keys():
        entry, got = expected[key], result[key]
        if not _agree(got, entry["value"], entry.get("rel", 0.0), entry.get("abs", 0.0)):
            yield f"{key!r} is {got!r}, the reference is {entry}"


def _agree(got, value, rel, abs_):
    if isinstance(value, dict):
        return (
            isinstance(got, dict)
            and got.keys() == value.keys()
            and all(_agree(got[key], value[key], rel, abs_) for key in value)
        )
    if isinstance(value, list):
        return (
            isinstance(got, list)
            and len(got) == len(value)
            and all(_agree(*pair, rel, abs_) for pair in zip(got, value, strict=True))
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return got == value
    return isinstance(got, (int, float)) and math.isclose(got, value, rel_tol=rel, abs_tol=abs_)


def as_reference(name, result):
    """The text to paste into reference.json for a notebook."""
    entries = {
        key: {"value": value} | ({"rel": 0.02} if isinstance(value, (float, list, dict)) else {})
        for key, value in result.items()
    }
    rows = (f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in entries.items())
    return f"{json.dumps(name)}: {{\n" + ",\n".join(rows) + "\n}"


@pytest.mark.parametrize("path", runner.find(), ids=lambda path: path.stem)
def test_notebook_runs(path):
    shutil.rmtree(
        runner.ROOT / "data" / "derived" / "ci", ignore_errors=True
    )  # what an earlier run kept
    outcome = runner.execute(path, "ci", timeout=300, progress=False)
    assert not outcome.error, outcome.error
    for cell in outcome.notebook.cells:
        if "raises-exception" in cell.metadata.get("tags", []):
            assert any(output.output_type == "error" for output in cell.outputs), (
                f"this was to fail:\n{cell.source}"
            )
    lost = [name for name, holds in LESSONS.get(path.stem, {}).items() if not holds(outcome.result)]
    assert not lost, f"lessons that no longer hold: {lost}, in {outcome.result}"
    stored = json.loads(REFERENCE.read_text(encoding="utf-8")) if REFERENCE.exists() else {}
    text = f"paste into {REFERENCE.name} (and choose each tolerance):\n{as_reference(path.stem, outcome.result)}"
    assert path.stem in stored, f"{path.name} has no reference; {text}"
    assert not (found := list(differences(outcome.result, stored[path.stem]))), "\n".join(
        [*found, text]
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Files in the two published layouts, as if they were the real ones: data has no truth and no
    vertex count.
    """
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from big_files import jetclass_file

    folder = tmp_path_factory.mktemp("published")
    data = aspen.write(folder / "RunG_batch0.h5", jetnb.load("aoj", n_jets=3000))
    with h5py.File(data, "r+") as file:
        file["event_info"][:, 0] = 280_000  # a run of 2016; run 1 would say simulation
    return data, jetclass_file(folder / "JetClass_example.root", 3000)


@pytest.mark.parametrize("number", ["01", "02"])
def test_one_line_switches_to_real_files(number, published, tmp_path):
    (path,) = runner.find([number])
    value = json.dumps([str(file) for file in published] if number == "01" else str(published[0]))
    (tmp_path / "scales.toml").write_text(
        f"[{number}.ci]\nN_JETS = 2000\nSAMPLE{'S' * (number == '01')} = {value}\n"
    )
    copy = Path(shutil.copy(path, tmp_path))
    outcome = runner.execute(copy, "ci", timeout=300, progress=False)
    assert not outcome.error, outcome.error
    printed = "".join(
        output.get("text", "")
        for cell in outcome.notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "open data" in printed.lower()


def test_one_line_switches_to_the_public_events(tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    from big_files import hh4b_file

    (path,) = runner.find(["15"])
    scales = (runner.NOTEBOOKS / "scales.toml").read_text(encoding="utf-8")
    knobs = scales[scales.index("[15.ci]") : scales.index("[15.paper]")]
    file = hh4b_file(tmp_path / "Data_test.h5", 5000)
    (tmp_path / "scales.toml").write_text(
        f"{knobs}SAMPLE = {json.dumps(str(file))}\n", encoding="utf-8"
    )
    outcome = runner.execute(Path(shutil.copy(path, tmp_path)), "ci", timeout=300, progress=False)
    assert not outcome.error, outcome.error
    assert 0.6 < outcome.result["auc_jets"]["with tracks"] <= 1


def in_miniature(number):
    """The paper scale of a notebook, as scales.toml: with the numbers of ci where it has some, and
    shipped data.
    """
    scales = tomllib.loads((runner.NOTEBOOKS / "scales.toml").read_text(encoding="utf-8"))[number]
    kept = {
        name: value for name, value in scales["paper"].items() if "data/derived" not in str(value)
    }
    return {**kept, **scales["ci"], "ACCELERATOR": "cpu"}


@pytest.mark.parametrize("number", ["05", "07", "08"])
def test_the_paper_scale_runs_in_miniature(number, tmp_path):
    """What a GPU would run, with few jets on a CPU: batches, precision, views and cuts are those of
    the paper scale.
    """
    values, (path,) = in_miniature(number), runner.find([number])
    assert values["PRECISION"] == "bf16-mixed"
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "checkpoints").symlink_to(
        runner.ROOT / "data" / "checkpoints"
    )  # runs are kept beside it
    copy = shutil.copy(path, folder)
    table = "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())
    (folder / "scales.toml").write_text(f"[{number}.paper]\n{table}", encoding="utf-8")
    outcome = runner.execute(Path(copy), "paper", timeout=300, progress=False)
    assert not outcome.error, outcome.error
    assert outcome.result


def _toml(value):
    """A value of scales.toml, as it is written there."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


@pytest.mark.parametrize(
    "result, words",
    [
        ({"a": 1.0, "b": 3, "c": "x", "d": [1.0, 2.0]}, ""),
        ({"a": 1.009, "b": 3, "c": "x", "d": [1.0, 2.001]}, ""),
        ({"a": 1.02, "b": 3, "c": "x", "d": [1.0, 2.0]}, "'a' is 1.02"),
        ({"a": 1.0, "b": 4, "c": "x", "d": [1.0, 2.0]}, "'b' is 4"),
        ({"a": 1.0, "b": 3, "c": "y", "d": [1.0, 2.0]}, "'c' is 'y'"),
        ({"a": 1.0, "b": 3, "c": "x", "d": [1.0]}, "'d' is [1.0]"),
        ({"a": 1.0, "b": 3, "c": "x", "d": [1.0, 2.0], "e": 1}, "'e' has no reference"),
        ({"b": 3, "c": "x", "d": [1.0, 2.0]}, "'a' is missing"),
        ({"a": float("nan"), "b": 3, "c": "x", "d": [1.0, 2.0]}, "'a' is nan"),
    ],
)
def test_a_result_that_moved_is_told(result, words):
    expected = {
        "a": {"value": 1.0, "rel": 0.01},
        "b": {"value": 3},
        "c": {"value": "x"},
        "d": {"value": [1.0, 2.0], "abs": 0.01},
    }
    assert (found := "\n".join(differences(result, expected))).startswith(words) and bool(
        found
    ) == bool(words)


def test_the_text_to_paste_is_json_that_agrees():
    result = {"jets": 3, "efficiency": 0.5, "curve": [1.0, 2.0]}
    stored = json.loads("{" + as_reference("07_x", result) + "}")
    assert not list(differences(result, stored["07_x"]))


def test_lessons_hold_in_the_references_and_fail_on_their_opposite():
    """The references are results of runs; without what was learned, nothing of it is left."""
    stored = json.loads(REFERENCE.read_text(encoding="utf-8"))
    assert LESSONS.keys() <= stored.keys()
    for stem, lessons in LESSONS.items():
        result = {name: entry["value"] for name, entry in stored[stem].items()}
        flat = {name: _flat(value) for name, value in result.items()}
        for name, holds in lessons.items():
            assert holds(result), f"{stem}: {name}"
            if name != "no token sees those after it":
                assert not holds(flat), f"{stem}: {name} holds of anything"


def _flat(value):
    if isinstance(value, dict):
        return {name: _flat(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_flat(one) for one in value]
    if isinstance(value, bool):
        return not value
    return 0.5 if isinstance(value, float) else value
