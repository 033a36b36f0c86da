"""The directory is made where possible, may have any name, and may be taken away at any time."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.spool.helpers import (
    assert_delivered,
    feed,
    kept_in,
    leave_behind,
    names,
    start_draining,
    start_raw,
    stderr_of,
    wait_until_held_back,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text, written_in_background
from tests.support.programs import wait_until_read
from tests.support.running import python_by
from tests.support.tmpfs import Disk

# ---- at the start -----------------------------------------------------------------------------


@pytest.mark.long
def test_directory_is_made_and_is_for_its_owner_alone(
    tmp_path: Path, endpoint: str, ship: Ship
) -> None:
    directory = tmp_path / "var" / "spool"
    feed(ship("-c", endpoint, "--spool", str(directory), umask=0), b"x\n")
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert {path.stat().st_mode & 0o7777 for path in directory.iterdir()} == {0o600}
    assert [name for name in names(directory) if name.endswith(".spool")]


def test_directory_may_be_relative_and_have_any_name(
    tmp_path: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    name = os.fsdecode(b"a b?mode=ro#%20\xe9\n'\"")
    leave_behind(ship, endpoint, Path(name), b"one\n", cwd=tmp_path)
    assert names(tmp_path) == [name]
    assert_delivered(
        start_draining(ship, eager_collector.endpoint, Path(name), cwd=tmp_path).finish(), 1
    )
    assert eager_collector.texts(1) == ["one"]
    assert names(tmp_path / name) == []


@pytest.mark.long
@pytest.mark.parametrize("place", ["a file", "below a file", "in /proc", "dangling"])
def test_directory_that_cannot_be_used_is_one_line_and_status_2(
    place: str, tmp_path: Path, endpoint: str, ship: Ship
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    directory = {
        "a file": tmp_path / "file",
        "below a file": tmp_path / "file" / "spool",
        "in /proc": Path("/proc/spool"),
        "dangling": tmp_path / "dangling",
    }[place]
    result = ship("-c", endpoint, "--spool", str(directory)).finish(b"x\n")
    assert (result.status, result.stdout) == (2, "")
    assert re.fullmatch(
        rf"zmqpush\.py: --spool {re.escape(str(directory))}: .+\n", stderr_of(result)
    )


@pytest.mark.long
def test_directory_that_is_read_only_is_one_line_and_status_2(
    endpoint: str, disk: Callable[[str], Disk], ship: Ship
) -> None:
    read_only = disk("ro")
    for directory in (read_only.directory, read_only.directory.parent):
        shipper = ship("-c", endpoint, "--spool", str(directory), **read_only.inside)
        result = shipper.finish(b"x\n")
        assert (result.status, result.stdout) == (2, "")
        assert stderr_of(result) == f"zmqpush.py: --spool {directory}: Read-only file system\n"


@pytest.mark.long
def test_directory_that_one_may_not_write_in_is_one_line_and_status_2(
    tmp_path: Path, endpoint: str, ship: Ship
) -> None:
    place = tmp_path / "locked"
    place.mkdir(mode=0o500)
    settings: dict[str, Any] = {}
    if not os.geteuid():
        if not shutil.which("setpriv"):
            pytest.skip("root may write everywhere, unless setpriv takes that away")
        settings["executable"] = python_by(
            tmp_path, "setpriv --bounding-set=-dac_override,-dac_read_search"
        )
    for directory in (place, place / "spool"):
        result = ship("-c", endpoint, "--spool", str(directory), **settings).finish(b"x\n")
        assert (result.status, result.stdout) == (2, "")
        assert stderr_of(result) == f"zmqpush.py: --spool {directory}: Permission denied\n"


# ---- it goes ----------------------------------------------------------------------------------


def remove(directory: Path) -> None:
    shutil.rmtree(directory)


def rename(directory: Path) -> None:
    directory.rename(directory.with_name("renamed"))


def remove_files(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()


def remove_database_only(directory: Path) -> None:
    for path in directory.glob("*.spool"):
        path.unlink()


def empty_and_replace(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


GONE = pytest.mark.parametrize(
    "take_away", [remove, rename, remove_files, remove_database_only, empty_and_replace]
)


def moved(line: str, directory: Path) -> bool:
    said = r"zmqpush\.py: the spool was taken away; what it had to send is in (\S+) now\n"
    match = re.fullmatch(said, line)
    return bool(match and Path(match[1]).parent == directory)


@pytest.mark.long
@GONE
def test_what_waits_moves_to_a_new_file_when_the_old_one_was_taken_away(
    take_away: Callable[[Path], None],
    directory: Path,
    endpoint: str,
    eager_collector: Collector,
    ship: Ship,
) -> None:
    expected = lines(40_000, size=99)
    shipper = feed(start_raw(ship, endpoint, directory), text(expected[:20_000]))
    take_away(directory)
    shipper.write(text(expected[20_000:]))
    assert moved(shipper.read_stderr_line(), directory)
    wait_until_read(shipper)
    shipper.stop()
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 40_000)
    assert eager_collector.receive(40_000) == expected
    assert eager_collector.is_silent()
    assert not list(directory.glob("*.spool"))


@pytest.mark.long
@pytest.mark.parametrize("take_away", [remove, rename])
def test_directory_taken_away_again_and_again_costs_nothing_while_it_runs(
    take_away: Callable[[Path], None],
    directory: Path,
    endpoint: str,
    collect: Collect,
    ship: Ship,
) -> None:
    shipper = start_raw(ship, endpoint, directory)
    expected = lines(20_000, size=99)
    for start in range(0, 20_000, 5000):
        shipper.write(text(expected[start : start + 5000]))
        if start:
            assert moved(shipper.read_stderr_line(), directory)
        wait_until_read(shipper)
        shutil.rmtree(directory.with_name("renamed"), ignore_errors=True)
        take_away(directory)
    assert collect(endpoint).receive(20_000) == expected
    assert_delivered(shipper.finish(), 20_000)


@pytest.mark.long
@pytest.mark.parametrize("has_ended", [False, True], ids=["input-open", "input-ended"])
def test_what_waits_is_kept_where_the_directory_was_taken_away_and_no_line_came_since(
    has_ended: bool, directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    shipper = feed(start_raw(ship, endpoint, directory), text(lines(5000)))
    if has_ended:
        shipper.end_input()
        assert "the input has ended" in shipper.read_stderr_line()
    shutil.rmtree(directory)
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 0
    assert stderr_of(result).endswith(kept_in(directory, 5000))
    drained = start_draining(ship, eager_collector.endpoint, directory).finish()
    assert drained.processed == 5000
    assert eager_collector.receive(5000) == lines(5000)


@pytest.mark.long
def test_what_waits_is_given_up_where_the_directory_was_taken_away_and_there_is_no_other_place(
    directory: Path, endpoint: str, ship: Ship
) -> None:
    shipper = feed(start_raw(ship, endpoint, directory), text(lines(5000)))
    shutil.rmtree(directory)
    directory.touch()
    shipper.signal(signal.SIGINT)
    result = shipper.finish()
    assert result.status == 1
    assert "gave up 5000 messages" in result.stderr
    assert kept_in(directory, 5000) not in result.stderr


@pytest.mark.long
def test_what_was_adopted_is_kept_where_the_directory_was_taken_away(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(9000)
    leave_behind(ship, endpoint, directory, text(expected[:5000]), "--format", "raw")
    shipper = feed(start_raw(ship, endpoint, directory), text(expected[5000:7000]))
    shutil.rmtree(directory)
    feed(shipper, text(expected[7000:]))
    shipper.stop()
    result = start_draining(ship, eager_collector.endpoint, directory).finish()
    assert (result.status, stderr_of(result)) == (0, "")
    assert eager_collector.receive(result.processed) == expected


@pytest.mark.long
def test_directory_whose_place_is_taken_holds_the_writer_back_until_it_is_free(
    directory: Path, endpoint: str, collect: Collect, ship: Ship
) -> None:
    expected = lines(50_000, size=99)
    shipper = feed(start_raw(ship, endpoint, directory), text(expected[:10_000]))
    shutil.rmtree(directory)
    directory.touch()
    with written_in_background(shipper, text(expected[10_000:])):
        said = shipper.read_stderr_line()
        assert re.fullmatch(
            r"zmqpush\.py: cannot write to the spool: .+; reading on when that is over\n", said
        )
        wait_until_held_back(shipper)
        directory.unlink()
        assert moved(shipper.read_stderr_line(), directory)
        assert collect(endpoint).receive(50_000) == expected
    assert_delivered(shipper.finish(), 50_000)
    assert names(directory) == []


@pytest.mark.long
def test_directory_of_any_name_may_be_taken_away(
    tmp_path: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    directory = tmp_path / os.fsdecode(b"sp\xe9ol '\"?#%20")
    shipper = feed(start_raw(ship, endpoint, directory), b"one\n")
    shutil.rmtree(directory)
    shipper.write(b"two\n")
    assert "what it had to send is in" in shipper.read_stderr_line()
    wait_until_read(shipper)
    shipper.stop()
    start_draining(ship, eager_collector.endpoint, directory)
    assert eager_collector.receive(2) == [b"one", b"two"]
