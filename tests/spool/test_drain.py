"""What other processes have left behind is sent: oldest first, as it was meant, and once."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from tests.spool.helpers import (
    assert_delivered,
    feed,
    leave_behind,
    leave_behind_killed,
    make_files,
    names,
    numbered_objects,
    start_draining,
    start_raw,
    stderr_of,
)
from tests.support.aliases import Collect, Ship
from tests.support.collector import Collector
from tests.support.lines import lines, text
from tests.support.places import InSqlite
from tests.support.proc import wait_until_asleep
from tests.support.waiting import wait_until
from zmqlines.finished import Finished
from zmqlines.spool_file import SpoolFile
from zmqlines.spool_state import read_state

pytestmark = pytest.mark.once  # what is tested is no matter of the Python version


def test_what_several_types_left_behind_is_sent_as_it_was_meant_oldest_first_and_before_own_lines(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    app = leave_behind(
        ship, endpoint, directory, text(numbered_objects(5)),
        *("app", "--format", "json", "--batch", "2", "-f", "site=ams"),
    )  # fmt: skip
    journal = leave_behind(
        ship, endpoint, directory, b'say "hi"\nbye\n', "journal", "-f", "host=a", "-f", "x=y"
    )
    leave_behind(ship, endpoint, directory, b"raw\n\n", "--format", "raw")
    batches = leave_behind(ship, endpoint, directory, b"a\nb\nc\n", "--batch", "500")
    assert len(names(directory)) == 4
    own = ship("-c", eager_collector.endpoint, "own", "--spool", str(directory), "-f", "z=1")
    assert_delivered(own.finish(b"own\n"), 13)
    tail = b'"type":"app","@pid":%d,"site":"ams"}' % app.pid
    plain = b'"type":"syslog","@pid":%d}' % batches.pid
    assert eager_collector.receive(9) == [
        b'[{"message":"line 0",%b,{"n":1,%b]' % (tail, tail),
        b'[{"n":2,%b,{"message":"line 3",%b]' % (tail, tail),
        b'[{"n":4,%b]' % tail,
        b'{"message":"say \\"hi\\"","type":"journal","@pid":%d,"host":"a","x":"y"}' % journal.pid,
        b'{"message":"bye","type":"journal","@pid":%d,"host":"a","x":"y"}' % journal.pid,
        b"raw",
        b"",
        b'[{"message":"a",%b,{"message":"b",%b,{"message":"c",%b]' % (plain, plain, plain),
        b'{"message":"own","type":"own","@pid":%d,"z":"1"}' % own.pid,
    ]
    assert eager_collector.is_silent()
    assert names(directory) == []


@pytest.mark.long
def test_running_shipper_sends_what_another_has_left_behind(
    directory: Path, endpoint: str, eager_collector: Collector, ship: Ship
) -> None:
    shipper = start_raw(ship, eager_collector.endpoint, directory)
    shipper.write(b"one\n")
    assert eager_collector.receive(1) == [b"one"]
    wait_until_asleep(shipper.pid)
    leave_behind_killed(ship, endpoint, directory, b"left\nbehind\n", "--format", "raw")
    shipper.write(b"two\n")
    received = eager_collector.receive(3)
    assert [line for line in received if line != b"two"] == [b"left", b"behind"]
    assert_delivered(shipper.finish(), 4)
    assert names(directory) == []


def test_file_of_a_living_process_is_not_touched(
    directory: Path, endpoint: str, collect: Collect, eager_collector: Collector, ship: Ship
) -> None:
    expected = lines(5000)
    living = feed(start_raw(ship, endpoint, directory), text(expected))
    (path,) = directory.glob("*.spool")
    told = len(expected)
    wait_until(lambda: (state := read_state(str(path))) and state.events == told, "all told")
    before = {each: each.read_bytes() for each in directory.iterdir()}
    other = start_raw(ship, eager_collector.endpoint, directory)
    assert_delivered(other.finish(b"other\n"), 1)
    assert eager_collector.receive(1) == [b"other"]
    assert {each: each.read_bytes() for each in directory.iterdir()} == before
    assert collect(endpoint).receive(5000) == expected
    assert_delivered(living.finish(), 5000)
    assert eager_collector.is_silent()
    assert names(directory) == []


@pytest.mark.long
def test_any_number_of_files_is_drained_in_their_order(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 150)
    assert_delivered(
        start_draining(ship, eager_collector.endpoint, directory).finish(), len(expected)
    )
    assert eager_collector.receive(len(expected)) == expected
    assert names(directory) == []


@pytest.mark.long
@pytest.mark.parametrize("attempt", range(2))
def test_processes_started_at_once_share_what_was_left_behind_and_nothing_is_sent_twice(
    attempt: int, directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 100)
    shippers = [start_draining(ship, eager_collector.endpoint, directory) for _ in range(2)]
    results = [shipper.finish() for shipper in shippers]
    assert [(result.status, stderr_of(result)) for result in results] == [(0, ""), (0, "")]
    assert sum(result.processed for result in results) == len(expected)
    received = eager_collector.receive(len(expected))
    assert eager_collector.is_silent()
    assert sorted(received) == sorted(expected)
    assert names(directory) == []


@pytest.mark.long
def test_two_processes_with_input_of_their_own_adopt_at_once_and_nothing_is_sent_twice(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 30)
    options = ("-c", eager_collector.endpoint, "--spool", str(directory), "--format", "raw")
    shippers = [ship(*options) for _ in range(2)]
    own = [b"own %d %d" % (n, number) for n in range(2) for number in range(1000)]
    shippers[0].write(text(own[:1000]))
    shippers[1].write(text(own[1000:]))
    for shipper in shippers:
        result = shipper.finish()
        assert (result.status, stderr_of(result)) == (0, "")
    received = eager_collector.receive(len(expected) + len(own))
    assert eager_collector.is_silent()
    assert sorted(received) == sorted(expected + own)
    assert names(directory) == []


def test_numbers_beyond_32_bits_are_sent(
    directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    file = SpoolFile.create(str(directory))
    file.append(Finished(b"first", 1, 1))
    file._db.execute("UPDATE sqlite_sequence SET seq = ?", (2**31,))
    file.append(Finished(b"later", 1, 1))
    file.close()
    assert_delivered(start_draining(ship, eager_collector.endpoint, directory).finish(), 2)
    assert eager_collector.receive(2) == [b"first", b"later"]
    assert names(directory) == []


@pytest.mark.parametrize("has_ended", [False, True], ids=["input-open", "input-ended"])
def test_files_for_which_there_are_not_enough_descriptors_are_sent_when_there_are(
    has_ended: bool, directory: Path, eager_collector: Collector, ship: Ship
) -> None:
    expected = make_files(directory, 60)

    def allow_few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

    options = ("-c", eager_collector.endpoint, "--spool", str(directory), "--format", "raw")
    shipper = ship(*options, preexec_fn=allow_few)
    if has_ended:
        shipper.end_input()
    assert eager_collector.receive(len(expected)) == expected
    assert_delivered(shipper.finish(), len(expected))
    assert names(directory) == []


def test_file_with_gaps_is_acknowledged_without_waiting(
    tmp_path: Path, directory: Path, endpoint: str, pull_ack: Ship, ship: Ship
) -> None:
    """Several collectors shared them; one that acknowledges takes numbers without a gap."""
    file = SpoolFile.create(str(directory))
    for number in range(30):
        file.append(Finished(b"%d" % number, 1, 1))
    file.forget([3, 4, 10, 15, 16, 17, 20, 25])
    file.let_go()
    left = [number for number in range(30) if number + 1 not in (3, 4, 10, 15, 16, 17, 20, 25)]
    place = InSqlite(tmp_path / "events.db")
    pull_ack(endpoint, *place.options)
    options = ("--ack", "-c", endpoint, "--spool", str(directory))
    assert_delivered(ship(*options, stdin=subprocess.DEVNULL).finish(), len(left))
    assert place.messages() == [f"{number}" for number in left]
    assert names(directory) == []
