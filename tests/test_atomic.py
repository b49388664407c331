"""Files and folders are there whole or not at all, killed writers leave nothing for long, and names
can be held.
"""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from jetnb import atomic

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="processes are forked and killed here"
)


def in_a_child(work) -> int:
    """The status of a forked process that does `work`; 0 where it returns."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def killed_in(how, path) -> None:
    def work():
        with how(path, replace=True) as hidden:
            (hidden if how is atomic.new_file else hidden / "part").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(work) == signal.SIGKILL


@pytest.mark.parametrize("how", [atomic.new_file, atomic.new_folder])
def test_what_killed_writers_leave_is_cleaned_by_the_next(tmp_path, how):
    for _ in range(3):
        killed_in(how, tmp_path / "made")
        assert len(list(tmp_path.iterdir())) == 1 and not (tmp_path / "made").exists()
    with how(tmp_path / "made") as hidden:
        (hidden if how is atomic.new_file else hidden / "part").write_bytes(b"whole")
    assert [file.name for file in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("how", [atomic.new_file, atomic.new_folder])
def test_what_a_living_writer_makes_is_left_alone(tmp_path, how):
    with how(tmp_path / "made", replace=True) as slow:
        target = slow if how is atomic.new_file else slow / "part"
        target.write_text("slow")

        def work():
            with how(tmp_path / "made", replace=True) as quick:
                (quick if how is atomic.new_file else quick / "part").write_text("quick")

        assert in_a_child(work) == 0 and target.read_text() == "slow"
    made = tmp_path / "made"
    assert (made if made.is_file() else made / "part").read_text() == "slow"
    assert [file.name for file in tmp_path.iterdir()] == ["made"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic.new_file(tmp_path / "made") as hidden:
        hidden.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "made").write_text("mine")
    with pytest.raises(FileExistsError), atomic.new_file(tmp_path / "made"):
        pass
    assert (tmp_path / "made").read_text() == "mine"


def test_a_name_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path):
    def hold():
        with atomic.alone(tmp_path / "run", "training to"):
            os.kill(os.getpid(), signal.SIGKILL)

    def ask():
        with atomic.alone(tmp_path / "run", "training to"):
            pass

    assert in_a_child(hold) == signal.SIGKILL
    with atomic.alone(tmp_path / "run", "training to"):
        assert in_a_child(ask) != 0
        with pytest.raises(
            ValueError, match=rf"process {os.getpid()} on .* is training to .*run: wait for it"
        ):
            ask()
        with atomic.alone(tmp_path / "other", "training to"):
            pass
    assert in_a_child(ask) == 0 and list(tmp_path.iterdir()) == []


def test_the_lock_is_on_the_file_that_is_there(tmp_path, monkeypatch):
    """Its last owner removes it just before this process locks it."""
    lock, flock, calls = tmp_path / ".run.lock", atomic.fcntl.flock, []

    def late(handle, how):
        calls.append(how)
        if len(calls) == 1:
            lock.unlink()
        flock(handle, how)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    with (
        atomic.alone(tmp_path / "run", "training to"),
        lock.open() as other,
        pytest.raises(BlockingIOError),
    ):
        flock(other, atomic.fcntl.LOCK_EX | atomic.fcntl.LOCK_NB)
    assert len(calls) == 2


def test_one_that_may_wait_has_its_turn(tmp_path):
    first, calls = contextlib.ExitStack(), []
    first.enter_context(atomic.alone(tmp_path / "run", "training to"))
    with atomic.alone(
        tmp_path / "run",
        "training to",
        wait=lambda: calls.append(1) or len(calls) < 3 or first.close(),
    ):
        assert len(calls) == 3


def test_a_lock_that_is_a_link_changes_no_file_elsewhere(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / ".run.lock").symlink_to(tmp_path / "mine")
    with atomic.alone(tmp_path / "run", "training to"):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
