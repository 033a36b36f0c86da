"""`--pid-file`: written when the collector is ready, locked while it lives, removed at its end."""

from __future__ import annotations

import fcntl
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.aliases import Ship
from tests.support.proc import acts_on, has_open
from tests.support.pulling import ANY_PORT, PROGRAM, Pull
from tests.support.waiting import DEADLINE_S, wait_until

pytestmark = pytest.mark.long  # what is tested is no matter of the Python version


def is_locked(path: Path) -> bool:
    """As the recipe for logrotate finds out."""
    return bool(subprocess.run(["flock", "-n", "-s", str(path), "true"], check=False).returncode)


def wait_for_pid(path: Path) -> int:
    return int(wait_until(lambda: path.exists() and path.read_text(), "it is written"))


def test_it_has_the_pid_of_who_can_be_signalled_and_goes_with_it(
    pull: Pull, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    puller = pull("--pid-file", str(path), "-o", str(tmp_path / "file"))
    assert wait_for_pid(path) == puller.pid
    assert acts_on(puller.pid, signal.SIGHUP)
    assert path.read_text() == f"{puller.pid}\n"
    assert is_locked(path)
    puller.end(signal.SIGTERM)
    assert not path.exists()


def test_one_of_who_was_killed_is_not_locked_and_taken_over(pull: Pull, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    first = pull("--pid-file", str(path))
    wait_for_pid(path)
    first.signal(signal.SIGKILL)
    first.process.wait(DEADLINE_S)
    assert path.exists()
    assert not is_locked(path)
    second = pull("--pid-file", str(path))
    wait_until(lambda: path.read_text() == f"{second.pid}\n", "it is taken over")
    second.end(signal.SIGINT)


def test_a_second_one_is_refused_and_the_first_one_keeps_it(
    pull: Pull, ship: Ship, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    puller = pull("--pid-file", str(path))
    wait_for_pid(path)
    result = ship("-b", ANY_PORT, "--pid-file", str(path), program=PROGRAM).finish()
    said = f"zmqpull.py: --pid-file {path}: a running process has it: pid {puller.pid}\n"
    assert (result.status, result.stderr) == (2, said)
    assert path.read_text() == f"{puller.pid}\n"


def test_who_looks_whether_it_is_locked_does_not_stop_one_that_begins(
    pull: Pull, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    with path.open("w") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        puller = pull("--bind", f"ipc://{tmp_path}/s", "--pid-file", str(path))
        wait_until(lambda: has_open(puller.pid, str(path)), "it waits")
        assert not path.read_text()
    assert wait_for_pid(path) == puller.pid


@pytest.mark.parametrize("arguments", [["-b", "ipc:///nowhere/at/all"], ["-o", "/nowhere/file"]])
def test_it_is_removed_where_the_collector_cannot_begin(
    arguments: list[str], ship: Ship, tmp_path: Path
) -> None:
    path = tmp_path / "pid"
    result = ship("--pid-file", str(path), *arguments, program=PROGRAM).finish()
    assert result.status == 2
    assert not path.exists()


def test_what_somebody_else_has_put_there_stays(pull: Pull, tmp_path: Path) -> None:
    path, other = tmp_path / "pid", tmp_path / "other"
    puller = pull("--pid-file", str(path))
    wait_for_pid(path)
    other.write_text("theirs")
    other.rename(path)
    puller.end(signal.SIGTERM)
    assert path.read_text() == "theirs"
