"""The battery for a GPU works from end to end, with tiny sizes on the CPU; and on a GPU where there
is one.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import measures
import pytest
import record
import torch
import trainings

import jetnb
from jetnb import jets, pretraining
from jetnb.models.tokenizer import Tokenizer
from jetnb.strategies import next_token
from jetnb.strategies.next_token import NextToken

BATTERY = Path(__file__).with_name("battery.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("battery") / "out"
    words = [
        sys.executable,
        str(BATTERY),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--tiny",
        "--minutes",
        "40",
    ]
    done = subprocess.run(
        words,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out, {file.stem: json.loads(file.read_text()) for file in out.glob("*.json")}


def test_nothing_fails(found):
    failed = {
        (part, name): result
        for part, values in found[1].items()
        for name, result in values["results"].items()
        if "error" in result
    }
    assert not failed
    assert {
        "numerics",
        "speed",
        "generate",
        "processes",
        "train-jetclr",
        "train-supervised",
        "train-omnijet-aoj-vqvae",
        "train-omnijet-aoj-kmeans",
    } <= found[1].keys()


def test_float32_agrees_with_float64(found):
    for name, kinds in found[1]["numerics"]["results"].items():
        assert kinds["float32"]["loss"] < 1e-4 and kinds["float32"]["gradient"] < 1e-2, name
        assert kinds["bfloat16"]["loss"] > 0, name  # a comparison that compares something


def test_two_processes_are_one(found):
    assert found[1]["processes"]["results"]["two processes"]["difference"] < 1e-5


def test_trainings_leave_checkpoints_that_load(found):
    out, _ = found
    assert (
        pretraining.load(out / "jetclr")[1]["trained"]["steps"] > 0
    )  # all 40 where the machine is not busy
    assert pretraining.load(out / "supervised")[1]["strategy"].startswith("supervised")
    for codes in ("vqvae", "kmeans"):
        model, card = next_token.load(out / f"omnijet-aoj-{codes}")
        assert card["trained"]["steps"] > 0  # all 40 where the machine is not busy
        assert len(
            model.draw(
                8, seed=1, provenance=jets.provenance(jetnb.load("aoj", n_jets=8)), progress=False
            )
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu(tmp_path):
    words = [
        sys.executable,
        str(BATTERY),
        "--out",
        str(tmp_path),
        "--tiny",
        "--minutes",
        "3",
        "--parts",
        "numerics",
    ]
    subprocess.run(words, check=True, timeout=300)
    results = json.loads((tmp_path / "numerics.json").read_text())["results"]
    assert all(kinds["float32"]["loss"] < 1e-4 for kinds in results.values())


def test_a_rate_counts_only_once_the_others_have_begun():
    times = iter([0, 2, 4, 11, 13, 16, 17.9, 19])
    pace = trainings.Pace(12.0, 5.0, clock=lambda: float(next(times)))
    ended = [pace({"step": step}) for step in (20, 40, 60, 80, 100, 110, 120, 130)]
    assert ended == [False] * 7 + [True]
    assert pace.seconds == pytest.approx(6 / 30)  # from 13 s, step 100, on


def test_what_is_changed_is_changed_back():
    model = NextToken(
        Tokenizer(n_codes=16, dim=32, n_layers=1, n_heads=4),
        sizes=dict(dim=32, n_layers=1, n_heads=4),
    )
    found = {part: part.kernel for part in model.modules() if hasattr(part, "kernel")}
    with measures.changed(model, kernel="varlen"):
        assert len(found) > 1 and {part.kernel for part in found} == {"varlen"}
    assert all(part.kernel == kernel for part, kernel in found.items())
    with (
        pytest.raises(ValueError, match="no part of NextToken has colour"),
        measures.changed(model, colour="red"),
    ):
        pass


def test_records_are_collected_with_remarks_on_what_went_wrong(tmp_path):
    about = {"tiny": True, "machine": {"device": "CPU", "torch": "2.9", "cores": 8}}
    parts = {
        "speed": {
            "a": {"error": "RuntimeError: no", "where": "a long story"},
            "b": {"jets/s": 1.23456},
        },
        "train-x": {"x": {"steps": 3, "of": 9, "ended": "watch"}},
        "simulate": {"aoj": {"cores": 6}},
    }
    for name, results in parts.items():
        (tmp_path / f"{name}.json").write_text(
            json.dumps(
                {
                    "part": name,
                    **about,
                    "results": results,
                    "skipped": ["c", "d"] if name == "speed" else [],
                }
            )
        )
    file = tmp_path / "made" / "one.json"
    file.parent.mkdir()
    words = [
        sys.executable,
        str(BATTERY),
        "--out",
        str(tmp_path),
        "--collect",
        str(file),
        "--remark",
        "a remark",
    ]
    subprocess.run(words, check=True, timeout=120)
    made = json.loads(file.read_text())
    assert made["machine"] == about["machine"] and made["results"].keys() == parts.keys()
    assert made["results"]["speed"] == {"a": {"error": "RuntimeError: no"}, "b": {"jets/s": 1.235}}
    assert made["remarks"] == [
        "a remark",
        "6 of 8 CPU cores simulated jets at the same time",
        "not measured, as the time of speed was over: c, d",
        "failed: speed: a: RuntimeError: no",
        "cut: x had done 3 of 9 steps when its time was over, so its learning rate had not fallen to zero",
    ]
    (tmp_path / "speed.json").write_text(
        json.dumps({"part": "speed", "machine": {"device": "GPU", "torch": "2.9"}, "results": {}})
    )
    with pytest.raises(ValueError, match="several machines"):
        record.collect(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="has no record"):
        record.collect(file.parent / "none", [])
