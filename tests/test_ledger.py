"""The ledger of runs: what was done is known again, whoever was killed in writing it and whoever
else writes.
"""

import json
import os
import signal

import numpy as np
import pytest

from jetnb.finetuning import ledger


def run(n):
    return {"jets": n, "arm": "scratch"}


def test_runs_are_known_again_in_any_order_of_their_names(tmp_path):
    kept = ledger.Ledger(tmp_path / "runs.jsonl", {"steps": 3})
    kept.add(run(100), {"loss": 0.5, "curve": [1.0, float("nan")], "arrays": {"pt": [1.5]}})
    kept.add(run(200), {"loss": 0.25})
    again = ledger.Ledger(tmp_path / "runs.jsonl", {"steps": 3})
    assert (
        list(again) == [{"arm": "scratch", "jets": 100}, {"arm": "scratch", "jets": 200}]
        and len(again) == 2
    )
    assert {"arm": "scratch", "jets": 100} in again and run(300) not in again
    assert again[run(100)]["arrays"] == {"pt": [1.5]} and np.isnan(again[run(100)]["curve"][1])
    with pytest.raises(ValueError, match="other settings: steps is 3 there and 4 here"):
        ledger.Ledger(tmp_path / "runs.jsonl", {"steps": 4})
    before = (tmp_path / "runs.jsonl").read_bytes()
    with pytest.raises(TypeError):
        again.add(run(300), {"loss": object()})
    assert (tmp_path / "runs.jsonl").read_bytes() == before and run(300) not in again


def test_half_a_line_of_a_killed_process_is_cut_off_by_whoever_adds_next(tmp_path):
    path = tmp_path / "runs.jsonl"
    kept = ledger.Ledger(path)
    kept.add(run(1), {"loss": 1.0})
    with path.open("a") as file:
        file.write('{"run": {"jets": 2}, "resu')
    reader = ledger.Ledger(
        path
    )  # one that only reads leaves it: it may be a line that is just being written
    assert len(reader) == 1 and path.read_text().endswith("resu")
    kept.add(run(3), {"loss": 3.0})
    assert [json.loads(line)["run"]["jets"] for line in path.read_text().splitlines()[1:]] == [1, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked and killed here")
def test_several_processes_add_and_see_what_the_others_did(tmp_path):
    path = tmp_path / "runs.jsonl"
    mine = ledger.Ledger(path)
    children = []
    for child in range(4):
        if (pid := os.fork()) == 0:
            one = ledger.Ledger(path)
            for n in range(50):
                one.add({"child": child, "n": n}, {"text": "x" * 500})
            os.kill(os.getpid(), signal.SIGKILL)
        children.append(pid)
    assert {os.waitpid(pid, 0)[1] for pid in children} == {signal.SIGKILL}
    mine.add(run(1), {})
    assert (
        len(mine) == 201 == len(ledger.Ledger(path)) and len(path.read_text().splitlines()) == 202
    )


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "no line with settings"),
        ("[1]\n", "line 1, is no run, but a list"),
        ("{}\n", "line 1, .* no 'settings'"),
        ('{"settings": {}}\n{"run": 1, "result": {}}\n', "line 2, .* 'run' is 1, not dict"),
        ('{"settings": {}}\n{"run": {}, "result": [2]}\n', r"line 2, .* 'result' is \[2\]"),
        ('{"settings": {}}\n\n', "line 2, is no run"),
        ("cposix\nsystem\n", "line 1, is no run"),
    ],
)
def test_what_is_no_ledger_is_refused(tmp_path, text, said):
    (tmp_path / "runs.jsonl").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        ledger.Ledger(tmp_path / "runs.jsonl")
    assert "runs.jsonl" in str(error.value) and (tmp_path / "runs.jsonl").read_text() == text


def test_a_file_that_is_emptied_meanwhile_is_not_written_with_a_hole(tmp_path):
    kept = ledger.Ledger(tmp_path / "runs.jsonl")
    (tmp_path / "runs.jsonl").write_text("")
    with pytest.raises(ValueError, match="has become shorter"):
        kept.add(run(1), {})
    assert (tmp_path / "runs.jsonl").read_text() == ""
