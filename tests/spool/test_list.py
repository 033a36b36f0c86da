"""`--list` tells what waits, and whose it is, also of files in use; and it changes none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.spool.helpers import (
    assert_delivered,
    feed,
    leave_behind,
    leave_behind_killed,
    names,
    start_draining,
    start_raw,
)
from tests.support.aliases import Collect, Ship
from tests.support.lines import lines, text
from tests.support.proc import wait_until_at_rest, wakeups
from tests.support.programs import TOP, Result
from tests.support.running import run_program
from tests.support.waiting import DEADLINE_S, wait_until
from zmqlines.spool_state import State, read_state

pytestmark = pytest.mark.long

ROW = re.compile(r"(.*?) +(\d+|-)  +(\d+|-)  +(\S+)  +(\S+)")


def list_(directory: Path, *words: str) -> Result:
    command = [sys.executable, str(TOP / "zmqpush.py"), "--spool", str(directory), "--list", *words]
    return run_program(command)


def listed(directory: Path) -> list[tuple[str, ...]]:
    """The rows: held by, events, bytes, oldest, file."""
    result = list_(directory)
    assert (result.status, result.stderr) == (0, "")
    head, *rows, end = result.stdout.splitlines()
    assert head.split() == ["HELD", "BY", "EVENTS", "BYTES", "OLDEST", "FILE"]
    found = [match.groups() for match in map(ROW.fullmatch, rows) if match]
    assert len(found) == len(rows)
    counts = [int(row[1]) for row in found if row[1] != "-"]
    sizes = [int(row[2]) for row in found if row[2] != "-"]
    assert end == f"{sum(counts)} messages wait in {len(rows)} files, {sum(sizes)} bytes"
    return found


def is_recent(stamp: str) -> bool:
    now = time.time()
    stamps = (time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - ago)) for ago in range(60))
    return stamp in stamps


@pytest.mark.parametrize("leave", [leave_behind, leave_behind_killed], ids=["ended", "killed"])
def test_what_was_left_behind_is_listed_and_stays(
    leave: object, directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    assert callable(leave)
    leave(ship, endpoint, directory, text(lines(100)), "--format", "raw")
    leave(ship, endpoint, directory, b"x\n", "--format", "raw")
    before = names(directory)
    (held, events, size, oldest, name), second = listed(directory)
    assert (held, events, size) == ("nobody", "100", str(len(text(lines(100)))))
    assert is_recent(oldest)
    assert name.startswith("0000000001.")
    assert second[:3] == ("nobody", "1", "2")
    assert listed(directory)[0][1] == "100"
    assert {name for name in before if name.endswith(".spool")} == set(names(directory))
    shipper = start_draining(ship, endpoint, directory)
    assert collect(endpoint).receive(101) == [*lines(100), b"x"]
    assert_delivered(shipper.finish(), 101)


def test_what_a_running_shipper_holds_is_listed_as_it_comes_and_goes(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    shipper = feed(start_raw(ship, endpoint, directory), text(lines(10)))
    wait_until(lambda: listed(directory)[0][1:3] == ("10", str(len(text(lines(10))))), "all told")
    assert listed(directory)[0][0] == f"pid {shipper.pid}"
    assert is_recent(listed(directory)[0][3])
    feed(shipper, b"more\n")
    wait_until(lambda: listed(directory)[0][1] == "11", "more told")
    assert collect(endpoint).receive(11) == [*lines(10), b"more"]
    wait_until(lambda: listed(directory)[0][1:4] == ("0", "0", "-"), "nothing waits")
    assert_delivered(shipper.finish(), 11)
    assert names(directory) == []


def test_files_that_were_taken_over_are_told_by_who_took_them(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    leave_behind_killed(ship, endpoint, directory, b"a\nb\n")
    shipper = feed(start_raw(ship, endpoint, directory), b"c\n")
    wait_until(
        lambda: (
            [row[:2] for row in listed(directory)]
            == [(f"pid {shipper.pid}", "2"), (f"pid {shipper.pid}", "1")]
        ),
        "both told",
    )
    shipper.stop()
    assert [row[:2] for row in listed(directory)] == [("nobody", "2"), ("nobody", "1")]


def test_many_may_look_at_once(directory: Path, endpoint: str, ship: Ship) -> None:
    """While one looks, it holds the file."""
    leave_behind(ship, endpoint, directory, b"a\n")
    command = [sys.executable, str(TOP / "zmqpush.py"), "--spool", str(directory), "--list"]
    looking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    for said in [process.communicate(timeout=DEADLINE_S)[0] for process in looking]:
        assert said.splitlines()[1].startswith("nobody  ")


def test_who_has_put_nothing_yet_is_told(directory: Path, endpoint: str, ship: Ship) -> None:
    shipper = start_raw(ship, endpoint, directory)
    wait_until(lambda: list(directory.glob("*.spool-wal")), "it has begun a file")
    wait_until(lambda: listed(directory)[0][:2] == (f"pid {shipper.pid}", "0"), "it has told")


def test_to_tell_others_wakes_nobody_who_has_nothing_to_do(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    shipper = feed(start_raw(ship, endpoint, directory), b"a\n")
    wait_until(lambda: listed(directory)[0][1] == "1", "told")
    wait_until_at_rest(shipper.pid)
    main, _ = wakeups(shipper.pid, 1.0)
    assert main == 0


def test_state_that_cannot_be_written_stops_nothing(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    leave_behind_killed(ship, endpoint, directory, b"a\n")
    (name,) = (name for name in names(directory) if name.endswith(".spool"))
    path = directory / f"{name}-state"
    path.unlink(missing_ok=True)
    path.mkdir()
    draining = start_draining(ship, endpoint, directory)
    assert collect(endpoint).texts(1) == ["a"]
    assert_delivered(draining.finish(), 1)
    assert names(directory) == [name + "-state"]


@pytest.mark.parametrize(
    "told",
    [b"", b"{", b"[1]", b'{"pid":1}', b"\xff" * 256, b'{"pid":1,"events":-1,"size":0,"oldest":0}'],
)
def test_state_that_is_nonsense_is_not_believed(tmp_path: Path, told: bytes) -> None:
    path = tmp_path / "file"
    Path(f"{path}-state").write_bytes(told)
    assert read_state(str(path)) is None


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    for state in (State(2**31, 2**62, 2**62, 2**40), State(1, 0, 0, 0)):
        state.write(path)
        assert read_state(path) == state


def test_damaged_and_foreign_files_are_listed_without_a_count(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    leave_behind(ship, endpoint, directory, b"a\n")
    (directory / "0000000009.x.spool").write_bytes(b"SQLite format 4" + b"x" * 9000)
    (directory / "0000000008.x.spool.damaged").write_bytes(b"x")
    (directory / "other").write_bytes(b"x")
    found = listed(directory)
    assert [row[:2] for row in found] == [
        ("nobody", "1"),
        ("damaged", "-"),
        ("nobody: file is not a database", "-"),
    ]


def test_nothing_waits_is_said(directory: Path) -> None:
    directory.mkdir()
    result = list_(directory)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == f"nothing waits in {directory}\n"
    assert names(directory) == []


def test_no_folder_is_told_and_not_made(directory: Path) -> None:
    result = list_(directory)
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == f"zmqpush.py: --spool {directory}: No such file or directory\n"
    assert not directory.exists()


def test_list_is_for_a_spool() -> None:
    result = run_program([sys.executable, str(TOP / "zmqpush.py"), "--list"])
    assert (result.status, result.stdout) == (2, "")
    assert result.stderr == "zmqpush.py: --list is for --spool DIR (--help tells more)\n"


def test_nobody_reads_the_list(directory: Path) -> None:
    directory.mkdir()
    command = [sys.executable, str(TOP / "zmqpush.py"), "--spool", str(directory), "--list"]
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert process.returncode == 1
    assert process.stderr == b"zmqpush.py: cannot write to standard output: Broken pipe\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_root_leaves_nothing_of_its_own_in_the_folder_of_another(endpoint: str, ship: Ship) -> None:
    """What root made there, the shipper could not use."""
    nobody = 65_534
    with tempfile.TemporaryDirectory() as name:  # in no folder that is root's alone
        directory = Path(name)
        leave_behind_killed(ship, endpoint, directory, b"a\n")
        for path in (directory, *directory.iterdir()):
            os.chown(path, nobody, nobody)
        assert [row[:2] for row in listed(directory)] == [("nobody", "1")]
        assert {path.stat().st_uid for path in directory.iterdir()} == {nobody}
