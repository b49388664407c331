"""The battery for a GPU works from end to end, with tiny sizes on the CPU; and on a GPU where there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BATTERY = Path(__file__).with_name("battery.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("battery") / "out"
    words = [sys.executable, str(BATTERY), "--out", str(out), "--device", "cpu", "--tiny", "--minutes", "15"]
    done = subprocess.run(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out, {file.stem: json.loads(file.read_text()) for file in out.glob("*.json")}


def test_nothing_fails(found):
    failed = {(part, name): result for part, values in found[1].items() for name, result in values["results"].items()
              if "error" in result}
    assert not failed
    assert {"numerics", "speed", "generate", "processes", "train-jetclr", "train-supervised",
            "train-omnijet-aoj-vqvae", "train-omnijet-aoj-kmeans"} <= found[1].keys()


def test_float32_agrees_with_float64(found):
    for name, kinds in found[1]["numerics"]["results"].items():
        assert kinds["float32"]["loss"] < 1e-4 and kinds["float32"]["gradient"] < 1e-2, name
        assert kinds["bfloat16"]["loss"] > 0, name  # a comparison that compares something


def test_two_processes_are_one(found):
    assert found[1]["processes"]["results"]["two processes"]["difference"] < 1e-5


def test_trainings_leave_checkpoints_that_load(found):
    from jetnb import pretraining
    from jetnb.strategies import next_token

    out, _ = found
    assert pretraining.load(out / "jetclr")[1]["trained"]["steps"] > 0  # all 40 where the machine is not busy
    assert pretraining.load(out / "supervised")[1]["strategy"].startswith("supervised")
    for codes in ("vqvae", "kmeans"):
        model, card = next_token.load(out / f"omnijet-aoj-{codes}")
        assert card["trained"]["steps"] > 0  # all 40 where the machine is not busy
        assert len(model.draw(8, seed=1, provenance={"sample": "aoj"}, progress=False))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu(tmp_path):
    words = [sys.executable, str(BATTERY), "--out", str(tmp_path), "--tiny", "--minutes", "3", "--parts", "numerics"]
    subprocess.run(words, check=True, timeout=300)
    results = json.loads((tmp_path / "numerics.json").read_text())["results"]
    assert all(kinds["float32"]["loss"] < 1e-4 for kinds in results.values())
